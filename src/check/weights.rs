//! Parameters and states: declared, initialised, updated, and collected from callees under the paths that name them.

use crate::check::Checker;
use crate::check::arithmetic::{cast_element, number};
use crate::check::calls::Given;
use crate::check::typed::*;
use crate::check::types::Declared;
use crate::check::value::*;
use crate::diagnostic::Diagnostic;
use crate::ir::{DType, Size};
use crate::parse::tree::{self, FunctionKind, TargetIndex, TypeExpr};
use crate::span::Span;
use nnc_runtime::manifest::Role;
use std::sync::Arc;

impl Checker<'_> {
    /// `param weight: real[out, I] = kaiming_uniform(fan: I)`
    pub(super) fn declare_param(&mut self, b: &mut Body, name: &tree::Ident, ty: &TypeExpr, init: Option<&tree::Expr>, span: Span) {
        if self.no_weights(b, name.span, "param") {
            return;
        }
        let Some(t) = self.closed(b, ty) else {
            b.bind(&name.name, Value::Poison, name.span);
            return;
        };
        if !t.dtype.is_float() {
            self.wrong("E0515", format!("the parameter `{}` is not real", name.name), ty.span, "only real numbers are trained");
            b.bind(&name.name, Value::Poison, name.span);
            return;
        }
        let Some(init) = init else {
            let end = Span { start: span.end, ..span };
            let d = Diagnostic::error("E0514", format!("the parameter `{}` has no initial value", name.name), span, "starts from what?");
            self.report(d.fix("give one", end, " = normal(0.02)"));
            b.bind(&name.name, Value::Poison, name.span);
            return;
        };
        self.declare_weight(b, name, t, Role::Parameter, init, ty.span);
    }

    /// `state m = zeros_like(p)`
    pub(super) fn declare_state(&mut self, b: &mut Body, name: &tree::Ident, ty: Option<&TypeExpr>, init: &tree::Expr, span: Span) {
        if !b.optimizer && self.no_weights(b, name.span, "state") {
            b.bind(&name.name, Value::Poison, name.span);
            return;
        }
        let t = match ty {
            Some(ty) => self.closed(b, ty),
            None => {
                // Only for its type; nothing of it stays.
                let (stmts, locals) = (b.stmts.len(), b.locals.len());
                let value = self.expr(b, init);
                b.stmts.truncate(stmts);
                b.locals.truncate(locals);
                match value {
                    Value::Tensor(e) => Some(Type::plain(e.ty().dtype, e.ty().shape.clone())),
                    Value::Static(_) => Some(Type::plain(b.real, vec![])),
                    Value::Poison => None,
                    other => {
                        self.wrong("E0505", format!("the state `{}` is a tensor", name.name), init.span, format!("this is {}", other.describe()));
                        None
                    }
                }
            }
        };
        match t {
            Some(t) => self.declare_weight(b, name, t, Role::State, init, ty.map_or(span, |t| t.span)),
            None => b.bind(&name.name, Value::Poison, name.span),
        }
    }

    fn no_weights(&mut self, b: &Body, span: Span, what: &str) -> bool {
        if b.weightless {
            let d = Diagnostic::error("E0513", format!("a {what} needs a `layer`, `block` or `model` around it"), span, "this function has none");
            self.report(d.note("a `fn` is its inputs' value alone; make it a `layer`"));
        }
        b.weightless
    }

    fn declare_weight(&mut self, b: &mut Body, name: &tree::Ident, ty: Type, role: Role, init: &tree::Expr, at: Span) {
        if let Some(free) = ty.shape.iter().find(|s| s.as_const().is_none()) {
            let message = format!("the shape of `{}` depends on `{free}`, which is chosen when the program runs", name.name);
            let d = Diagnostic::error("E0311", message, at, "needs fixed sizes");
            self.report(d.note("weights are stored, so their sizes are constants"));
            b.bind(&name.name, Value::Poison, name.span);
            return;
        }
        if let Some(old) = b.own.get(&name.name) {
            let first = b.weights[old.0 as usize].span;
            let d = Diagnostic::error("E0517", format!("`{}` is declared twice", name.name), name.span, "again here");
            self.report(d.label(first, "first here"));
            return;
        }
        let Some(init) = self.initial(b, &ty, init) else {
            b.bind(&name.name, Value::Poison, name.span);
            return;
        };
        let path: Arc<str> = name.name.clone();
        let weight = Weight(b.weights.len() as u32);
        b.weights.push(WeightDecl { path: path.clone(), role, ty, init, span: name.span });
        b.paths.insert(path, weight);
        b.own.insert(name.name.clone(), weight);
        // A parameter of the function keeps its name; the weight is `self.name` then.
        if b.lookup(&name.name).is_none() {
            let read = self.read_weight(b, weight, name.span);
            b.bind(&name.name, Value::Tensor(read), name.span);
        }
    }

    /// The initial value of an element.
    fn initial(&mut self, b: &mut Body, ty: &Type, init: &tree::Expr) -> Option<(Vec<IndexVar>, Element)> {
        let saved = std::mem::take(&mut b.elements);
        b.elements.push(Comprehension::default());
        let random = b.random;
        b.initial = true;
        let vars: Vec<IndexVar> = ty.shape.iter().map(|_| b.var()).collect();
        let value = self.expr(b, init);
        b.initial = false;
        b.random = random;
        b.elements = saved;
        let n = match value {
            Value::Poison => return None,
            Value::Static(s @ (Static::Int(_) | Static::Float(_))) => number(&s),
            Value::Element(n) => n,
            other => {
                let d = Diagnostic::error("E0518", "an initial value is a number or an `init`", init.span, format!("this is {}", other.describe()));
                self.report(d.note("for example `0`, `normal(0.02)`, `kaiming_uniform(fan: 64)`"));
                return None;
            }
        };
        if n.dtype == DType::Bool {
            self.wrong("E0518", "an initial value is a number", init.span, "a condition");
            return None;
        }
        Some((vars, cast_element(n.element, n.dtype, ty.dtype)))
    }

    /// `update m = e`
    pub(super) fn update(&mut self, b: &mut Body, target: &tree::Ident, indices: Option<&[TargetIndex]>, value: &tree::Expr, span: Span) {
        let weight = b.own.get(&target.name).copied();
        let ty = match weight {
            Some(w) => b.weights[w.0 as usize].ty.clone(),
            None if b.optimizer && &*target.name == "p" => b.locals[0].1.clone(),
            None if b.lookup(&target.name).is_some_and(|x| matches!(x.value, Value::Poison)) => return,
            None => {
                let known: Vec<String> = b.own.keys().map(|k| k.to_string()).collect();
                let known: Vec<&str> = known.iter().map(String::as_str).collect();
                self.unknown("E0212", "the state", &target.name, target.span, &known);
                return;
            }
        };
        if let Some(w) = weight
            && b.weights[w.0 as usize].role != Role::State
        {
            let d = Diagnostic::error("E0519", format!("`{}` is a parameter; only states are updated", target.name), target.span, "a parameter");
            let d = d.label(b.weights[w.0 as usize].span, "declared here");
            self.report(d.note("parameters change by the optimizer alone"));
            return;
        }
        if let Some(w) = weight
            && let Some(first) = b.updated.insert(w, target.span)
        {
            let d = Diagnostic::error("E0520", format!("the state `{}` is updated twice", target.name), target.span, "again here")
                .label(first, "first here");
            self.report(d.note("bind the first value to a name and update once"));
            return;
        }
        let value = match indices {
            Some(indices) => {
                let shape = ty.shape.iter().cloned().map(Some).collect();
                let meaning = ty.meaning.clone();
                let d = Declared { name: None, dtype: ty.dtype, meaning, shape: Some(shape), span: target.span };
                self.comprehension(b, indices, value, Some(&d), span).map_or(Value::Poison, Value::Tensor)
            }
            None => self.expr(b, value),
        };
        let what = format!("the new value of `{}`", target.name);
        let Some(e) = self.fit(b, value, ty.dtype, &Meaning::Plain, span, &what) else {
            b.bind(&target.name, Value::Poison, span);
            return;
        };
        if e.ty().shape != ty.shape {
            let message = format!("{what} has the shape {}, but the state has {}", shape_text(&e.ty().shape), shape_text(&ty.shape));
            let d = Diagnostic::error("E0302", message, e.span, format!("this is {}", e.ty()));
            let d = match weight {
                Some(w) => d.label(b.weights[w.0 as usize].span, "declared here"),
                None => d,
            };
            self.report(d);
            return;
        }
        let e = b.hoist(&target.name, e);
        if let Some(weight) = weight {
            b.uses_mode |= !b.optimizer;
            // States move in training only.
            if b.training || b.optimizer {
                b.stmts.push(Stmt::Update { weight, value: e.clone(), span });
            }
        }
        b.bind(&target.name, Value::Tensor(e), target.span);
    }

    /// The weight as an expression.
    pub(super) fn read_weight(&self, b: &Body, w: Weight, span: Span) -> Expr {
        Expr::one(ExprKind::Weight(w), b.weights[w.0 as usize].ty.clone(), span)
    }

    /// `Net.fc1.weight`: a weight of a model that was called here.
    pub(super) fn weight_path(&mut self, b: &Body, base: &tree::Expr, field: &tree::Ident) -> Option<Weight> {
        let mut names = vec![field.name.clone()];
        let mut at = base;
        loop {
            match &at.kind {
                tree::ExprKind::Field(inner, f) => {
                    names.push(f.name.clone());
                    at = inner;
                }
                tree::ExprKind::Name(n) => {
                    names.push(n.clone());
                    break;
                }
                _ => return None,
            }
        }
        names.reverse();
        b.paths.get(format!("/{}", names.join(".")).as_str()).copied()
    }

    /// The caller's weights for a call, one for each of the callee's.
    pub(super) fn call_weights(&mut self, b: &mut Body, def: DefId, id: InstanceId, name: Option<Given>, span: Span) -> Option<Vec<Weight>> {
        let (kind, own) = {
            let f = &self.scope.def(def).tree;
            (f.kind, f.name.name.clone())
        };
        if self.instance(id).weights.is_empty() {
            return Some(vec![]);
        }
        let owns = self.instance(id).weights.iter().any(|w| !w.path.starts_with('/'));
        if kind == FunctionKind::Model {
            return Some(self.adopt(b, id, &format!("/{own}.")));
        }
        if !owns {
            return Some(self.adopt(b, id, ""));
        }
        let (name, at) = match name {
            None => (own, span),
            Some(Given { value: Value::Static(Static::Text(t)), span, .. }) => (t, span),
            Some(Given { value: Value::Poison, .. }) => return None,
            Some(g) => {
                self.wrong("E0506", "`name` is a text", g.span, format!("this is {}", g.value.describe()));
                return None;
            }
        };
        if name.is_empty() || !name.chars().all(|c| c.is_alphanumeric() || c == '_') {
            let d = Diagnostic::error("E0521", format!("\"{name}\" cannot be part of a path"), at, "no name");
            self.report(d.note("names have letters, digits and `_`"));
            return None;
        }
        self.claim(b, &name, span)?;
        Some(self.adopt(b, id, &format!("{name}.")))
    }

    /// Takes a name for the weights of a call.
    pub(super) fn claim(&mut self, b: &mut Body, name: &Arc<str>, span: Span) -> Option<()> {
        if b.weightless {
            let d =
                Diagnostic::error("E0513", format!("`{name}` has weights, so it needs a `layer`, `block` or `model` around it"), span, "called here");
            self.report(d.note("a `fn` is its inputs' value alone; make it a `layer` or a `block`"));
            return None;
        }
        if let Some(first) = b.calls.get(name) {
            let other = (2..).map(|n| format!("{name}{n}")).find(|n| !b.calls.contains_key(n.as_str())).unwrap_or_default();
            let message = format!("two calls would own the weights `{name}`");
            let d = Diagnostic::error("E0516", message, span, "again here").label(*first, "first here");
            let text = self.sources.text(span);
            let d = if text.ends_with(')') && !text.contains("name:") {
                let at = Span { start: span.end - 1, end: span.end - 1, ..span };
                let comma = if text.ends_with("()") { "" } else { ", " };
                d.fix(format!("name it: `name: \"{other}\"`"), at, format!("{comma}name: \"{other}\""))
            } else {
                d.note(format!("name it: `name: \"{other}\"`"))
            };
            self.report(d.note("to share weights, bind the result once or make a `model` of it"));
            return None;
        }
        b.calls.insert(name.clone(), span);
        Some(())
    }

    /// The callee's weights under a prefix; those of other models stay absolute (they begin with `/`).
    pub(super) fn adopt(&mut self, b: &mut Body, id: InstanceId, prefix: &str) -> Vec<Weight> {
        let mut all = vec![];
        for decl in &self.instances[id.0 as usize].weights {
            let path: Arc<str> = if decl.path.starts_with('/') { decl.path.clone() } else { format!("{prefix}{}", decl.path).into() };
            let weight = match b.paths.get(&path) {
                Some(w) => *w,
                None => {
                    let w = Weight(b.weights.len() as u32);
                    b.weights.push(WeightDecl { path: path.clone(), ..decl.clone() });
                    b.paths.insert(path, w);
                    w
                }
            };
            all.push(weight);
        }
        all
    }

    /// A size as a constant, for places that need a number now.
    pub(super) fn constant_size(&mut self, size: &Size, span: Span, what: &str) -> Option<i64> {
        let value = size.as_const();
        if value.is_none() {
            self.wrong("E0311", format!("{what} must be known when compiling"), span, format!("this is {size}"));
        }
        value
    }
}
