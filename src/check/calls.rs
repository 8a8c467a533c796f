//! Calls: arguments to parameters, dims bound by shapes, one instance for equal arguments.

use crate::check::Checker;
use crate::check::typed::*;
use crate::check::types::{Takes, takes};
use crate::check::value::*;
use crate::diagnostic::Diagnostic;
use crate::ir::{DType, Size};
use crate::parse::tree::{self, Axis, FunctionKind, TypeExpr};
use crate::span::Span;
use std::sync::Arc;

/// An argument as written.
#[derive(Clone, Debug)]
pub struct Given {
    /// `out:`
    pub name: Option<tree::Ident>,
    /// Its value.
    pub value: Value,
    /// Its text.
    pub span: Span,
}

/// One argument in what tells instances apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyPart {
    /// A static whole number.
    Int(Size),
    /// Bits of a static float.
    Float(u64),
    /// A static truth.
    Bool(bool),
    /// A static text.
    Text(Arc<str>),
    /// A run-time argument.
    Type(Type),
    /// Left out.
    Default,
}

impl KeyPart {
    fn of(s: &Static) -> KeyPart {
        match s {
            Static::Int(s) => KeyPart::Int(s.clone()),
            Static::Float(x) => KeyPart::Float(x.to_bits()),
            Static::Bool(x) => KeyPart::Bool(*x),
            Static::Text(x) => KeyPart::Text(x.clone()),
        }
    }
}

/// What an instance is made from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    def: DefId,
    training: bool,
    real: DType,
    parts: Vec<KeyPart>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Made {
    /// Nothing if the function is wrong.
    pub id: Option<InstanceId>,
    /// Whether the mode was asked.
    pub uses_mode: bool,
}

/// A call whose arguments fit: the callee's body with its parameters bound, and the run-time arguments.
pub struct Prepared {
    /// Ready for the statements.
    pub body: Body,
    /// Of the memo.
    pub key: Key,
    /// In the order of the callee's inputs.
    pub args: Vec<Expr>,
    /// For readers.
    pub text: String,
}

impl Checker<'_> {
    /// Binds the parameters in a new body. Run-time scalars of optimizers stay inputs even where they have defaults (`keep_scalars`).
    pub(super) fn prepare(&mut self, b: &mut Body, def: DefId, slots: Vec<Option<Given>>, keep_scalars: bool) -> Option<Prepared> {
        self.called.insert(def);
        let d = self.scope.def(def);
        let (f, library) = (d.tree.clone(), d.library);
        let mut real = b.real;
        for (p, g) in f.params.iter().zip(&slots) {
            if let (Some(ty), Some(Given { value: Value::Tensor(e), .. })) = (&p.ty, g)
                && matches!(&*ty.head.name, "real" | "logits" | "probs" | "logprobs")
                && ty.shape.is_some()
                && e.ty().dtype.is_float()
            {
                real = e.ty().dtype;
                break;
            }
        }
        let mut body = Body::new(f.name.name.clone(), b.training, real, library);
        let mut key = Key { def, training: b.training, real, parts: vec![] };
        let mut texts = vec![];
        let mut good = true;
        // Static arguments first: sizes in types may name them.
        for (p, g) in f.params.iter().zip(&slots) {
            let Some(ty) = &p.ty else { continue };
            let takes = takes(ty);
            if let (Some(g), true) = (g, !matches!(takes, Takes::Tensor | Takes::Scalar)) {
                match self.static_argument(&f, p, takes, g) {
                    Some(s) => {
                        texts.push(format!("{}: {s}", p.name.name));
                        body.bind(&p.name.name, Value::Static(s), g.span);
                    }
                    None => good = false,
                }
            }
        }
        if !good {
            return None;
        }
        // Names of axes, bound by the first argument that has them.
        for (p, g) in f.params.iter().zip(&slots) {
            if let (Some(ty), Some(g)) = (&p.ty, g)
                && takes(ty) == Takes::Tensor
            {
                good &= self.bind_axes(&mut body, b, &f, p, ty, g);
            }
        }
        if !good {
            return None;
        }
        for (p, g) in f.params.iter().zip(&slots) {
            if let (Some(ty), None, Some(default)) = (&p.ty, g, &p.default)
                && !matches!(takes(ty), Takes::Tensor)
                && !(keep_scalars && takes(ty) == Takes::Scalar)
            {
                let value = self.expr(&mut body, default);
                let g = Given { name: None, value, span: default.span };
                let value = match takes(ty) {
                    Takes::Scalar => g.value,
                    other => Value::Static(self.static_argument(&f, p, other, &g)?),
                };
                body.bind(&p.name.name, value, p.name.span);
            }
        }
        let mut args = vec![];
        for (p, g) in f.params.iter().zip(slots) {
            let Some(g) = g else {
                // A default that is written out makes no other instance.
                key.parts.push(match (p.ty.as_ref().map(takes), body.lookup(&p.name.name)) {
                    (Some(Takes::Int | Takes::Number | Takes::Bool | Takes::Text), Some(Binding { value: Value::Static(s), .. })) => KeyPart::of(s),
                    _ => KeyPart::Default,
                });
                continue;
            };
            let Some(ty) = &p.ty else {
                let Some(e) = self.fit_any(b, g.value, g.span, &p.name.name) else {
                    good = false;
                    continue;
                };
                key.parts.push(KeyPart::Type(e.ty().clone()));
                self.input(&mut body, &p.name, e.ty().clone());
                args.push(e);
                continue;
            };
            match takes(ty) {
                Takes::Int | Takes::Number | Takes::Bool | Takes::Text => {
                    let Some(Binding { value: Value::Static(s), .. }) = body.lookup(&p.name.name) else { continue };
                    key.parts.push(KeyPart::of(s));
                }
                Takes::Scalar | Takes::Tensor => {
                    let Some(e) = self.tensor_argument(&mut body, b, &f, p, ty, g) else {
                        good = false;
                        continue;
                    };
                    let mut t = self.head(&mut body, ty, true).map(|(dtype, meaning)| Type { dtype, shape: e.ty().shape.clone(), meaning })?;
                    if let Meaning::Plain = t.meaning
                        && matches!(&*ty.head.name, "class" | "token")
                    {
                        t.meaning = e.ty().meaning.clone();
                    }
                    key.parts.push(KeyPart::Type(t.clone()));
                    self.input(&mut body, &p.name, t);
                    args.push(e);
                }
            }
        }
        body.inputs = body.locals.len();
        for (p, part) in f.params.iter().zip(&key.parts) {
            if let (KeyPart::Default, Some(default), true) = (part, &p.default, body.lookup(&p.name.name).is_none()) {
                let value = self.expr(&mut body, default);
                body.bind(&p.name.name, value, p.name.span);
            }
        }
        good.then(|| Prepared { body, key, args, text: texts.join(", ") })
    }

    fn input(&mut self, body: &mut Body, name: &tree::Ident, ty: Type) {
        let local = body.local(&name.name, ty, name.span);
        let read = body.read(local, name.span);
        body.bind(&name.name, Value::Tensor(read), name.span);
    }

    fn fit_any(&mut self, b: &Body, value: Value, span: Span, name: &str) -> Option<Expr> {
        let ty = match &value {
            Value::Tensor(e) => e.ty().clone(),
            _ => Type::plain(DType::F64, vec![]),
        };
        self.fit(b, value, ty.dtype, &Meaning::Plain, span, &format!("`{name}`"))
    }

    fn static_argument(&mut self, f: &tree::Function, p: &tree::Param, takes: Takes, g: &Given) -> Option<Static> {
        let word = match (takes, &g.value) {
            (_, Value::Poison) => return None,
            (Takes::Int, Value::Static(s @ Static::Int(_))) => return Some(s.clone()),
            (Takes::Number, Value::Static(s @ (Static::Int(_) | Static::Float(_)))) => return Some(s.clone()),
            (Takes::Bool, Value::Static(s @ Static::Bool(_))) => return Some(s.clone()),
            (Takes::Text, Value::Static(s @ Static::Text(_))) => return Some(s.clone()),
            (Takes::Int, _) => "a whole number",
            (Takes::Number, _) => "a number",
            (Takes::Bool, _) => "`true` or `false`",
            (_, _) => "a text",
        };
        let message = format!("`{}` of `{}` is {word} known when compiling", p.name.name, f.name.name);
        let d = Diagnostic::error("E0506", message, g.span, format!("this is {}", g.value.describe()));
        self.report(self.signature(d, f));
        None
    }

    /// Binds the names of axes that are not known yet, and what `...` stands for.
    fn bind_axes(&mut self, body: &mut Body, b: &Body, f: &tree::Function, p: &tree::Param, ty: &TypeExpr, g: &Given) -> bool {
        let (shape, meaning) = match &g.value {
            Value::Tensor(e) => (e.ty().shape.clone(), e.ty().meaning.clone()),
            Value::Poison => return false,
            _ => (vec![], Meaning::Plain),
        };
        let axes = ty.shape.as_deref().unwrap_or(&[]);
        let rest = axes.iter().position(|a| matches!(a, Axis::Rest(_)));
        let fits = if rest.is_some() { shape.len() + 1 >= axes.len() } else { shape.len() == axes.len() };
        if !fits {
            let (n, wanted) = (shape.len(), axes.len());
            let message = match rest {
                Some(_) => format!("`{}` of `{}` has at least {} axes, but this has {n}", p.name.name, f.name.name, wanted - 1),
                None => format!("`{}` of `{}` has {wanted} axes, but this has {n}", p.name.name, f.name.name),
            };
            let mut d = Diagnostic::error("E0308", message, g.span, format!("this is {}", g.value.describe()));
            if let Value::Tensor(e) = &g.value {
                d = self.made_at(d, b, e);
            }
            self.report(self.signature(d, f));
            return false;
        }
        if let Some(k) = rest {
            let sizes = shape[k..shape.len() - (axes.len() - 1 - k)].to_vec();
            match body.rest().cloned() {
                None => {
                    body.frame().rest = Some(sizes);
                    body.bind(&"...".into(), Value::int(0), g.span);
                }
                Some(old) if old != sizes => {
                    let first = body.lookup("...").map(|x| x.span);
                    let (was, now) = (shape_text(&old), shape_text(&sizes));
                    let message = format!("the leading axes of the arguments of `{}` differ: {was} and {now}", f.name.name);
                    let mut d = Diagnostic::error("E0301", message, g.span, format!("`...` is {now} here"));
                    if let Some(first) = first {
                        d = d.label(first, format!("`...` is {was} here"));
                    }
                    self.report(self.signature(d, f));
                    return false;
                }
                Some(_) => {}
            }
        }
        for (axis, size) in paired(axes, &shape) {
            if let Axis::Size(tree::Expr { kind: tree::ExprKind::Name(n), span }) = axis
                && body.lookup(n).is_none()
                && (body.library() || self.global(n).is_none())
                && !f.params.iter().any(|p| p.name.name == *n)
            {
                body.bind_size(n, size.clone(), g.span, *span);
            }
        }
        if let Some(tree::Expr { kind: tree::ExprKind::Name(n), span }) = &ty.angle
            && body.lookup(n).is_none()
            && (body.library() || self.global(n).is_none())
            && !f.params.iter().any(|p| p.name.name == *n)
            && let Meaning::Class(k) | Meaning::Token(k) = &meaning
        {
            body.bind_size(n, k.clone(), g.span, *span);
        }
        true
    }

    /// A run-time argument whose axes agree with the declared ones.
    fn tensor_argument(&mut self, body: &mut Body, b: &Body, f: &tree::Function, p: &tree::Param, ty: &TypeExpr, g: Given) -> Option<Expr> {
        let axes = ty.shape.as_deref().unwrap_or(&[]);
        if let Value::Tensor(e) = &g.value
            && axes.is_empty()
            && !e.ty().shape.is_empty()
        {
            let message = format!("`{}` of `{}` is a single number", p.name.name, f.name.name);
            let d = Diagnostic::error("E0308", message, g.span, format!("this is {}", e.ty()));
            let d = self.made_at(d, b, e);
            self.report(self.signature(d, f));
            return None;
        }
        if let Value::Tensor(e) = &g.value {
            let shape = e.ty().shape.clone();
            for (k, (axis, size)) in paired_numbered(axes, &shape) {
                let Axis::Size(expr) = axis else { continue };
                let wanted = self.size(body, expr)?;
                if wanted != *size {
                    self.axis_mismatch(body, b, f, p, ty, e, (g.span, k, &wanted, size), expr);
                    return None;
                }
            }
        }
        let (dtype, meaning) = self.head(body, ty, true)?;
        let what = format!("`{}` of `{}`", p.name.name, f.name.name);
        self.fit(b, g.value, dtype, &meaning, g.span, &what)
    }

    #[expect(clippy::too_many_arguments, reason = "everything that the message shows")]
    fn axis_mismatch(
        &mut self,
        body: &mut Body,
        b: &Body,
        f: &tree::Function,
        p: &tree::Param,
        ty: &TypeExpr,
        e: &Expr,
        (span, axis, wanted, size): (Span, usize, &Size, &Size),
        expr: &tree::Expr,
    ) {
        let (name, kind) = (&p.name.name, &f.name.name);
        let text = self.sources.text(expr.span).to_string();
        let value = if text == wanted.to_string() { String::new() } else { format!(" (`{text}`)") };
        let message = format!("`{kind}` needs {wanted}{value} on the {} axis of `{name}`, but this has {size}", super::nth(axis + 1));
        let mut d = Diagnostic::error("E0301", message, span, format!("this is {}", e.ty()));
        if let tree::ExprKind::Name(n) = &expr.kind {
            let origin = body.lookup(n).map(|x| x.span).or_else(|| self.declared_at(n));
            if let Some(at) = origin.filter(|at| *at != span && !at.in_library()) {
                d = d.label(at, format!("`{n}` is {wanted} from here"));
            }
        }
        d = self.made_at(d, b, e);
        if ty.span.in_library() {
            d = d.note(format!("it is declared `{name}: {}`", self.sources.text(ty.span)));
        } else {
            d = d.label(ty.span, "declared here");
        }
        self.report(d);
    }

    /// The instance for a prepared call.
    pub(super) fn make(&mut self, def: DefId, mut prepared: Prepared, span: Span) -> (Made, Vec<Expr>) {
        if let Some(made) = self.memo.get(&prepared.key) {
            return (made.clone(), prepared.args);
        }
        let f = self.scope.def(def).tree.clone();
        if let Some(at) = self.active.iter().position(|(d, _)| *d == def) {
            let ring: Vec<String> = self.active[at..].iter().map(|(d, _)| format!("`{}`", self.scope.def(*d).tree.name.name)).collect();
            let message = format!("`{}` calls itself: {} -> `{}`", f.name.name, ring.join(" -> "), f.name.name);
            self.wrong("E0508", message, span, "networks are finite: use `repeat` or `scan`");
            return (Made { id: None, uses_mode: false }, prepared.args);
        }
        if self.active.len() >= 200 {
            self.wrong("E0703", "calls are nested more than 200 deep", span, "here");
            return (Made { id: None, uses_mode: false }, prepared.args);
        }
        self.active.push((def, span));
        let before = self.errors();
        let inputs = prepared.body.inputs;
        let results = self.function_results(&mut prepared.body, &f);
        let failed = self.errors() > before && results.is_none();
        self.active.pop();
        let body = prepared.body;
        let uses_mode = body.uses_mode;
        let id = match results {
            Some(results) if !failed => Some(self.finish(body, inputs, prepared.text, results, f.span)),
            _ => None,
        };
        let made = Made { id, uses_mode };
        if !uses_mode {
            self.memo.insert(Key { training: !prepared.key.training, ..prepared.key.clone() }, made.clone());
        }
        self.memo.insert(prepared.key, made.clone());
        (made, prepared.args)
    }

    /// Stores a finished body.
    pub(super) fn finish(&mut self, body: Body, inputs: usize, arguments: String, results: Vec<(Option<Arc<str>>, Expr)>, span: Span) -> InstanceId {
        self.instances.push(Instance {
            name: body.name,
            arguments,
            inputs,
            locals: body.locals,
            weights: body.weights,
            random: body.random,
            body: body.stmts,
            results,
            gradient: body.gradient,
            span,
        });
        InstanceId(self.instances.len() as u32 - 1)
    }

    /// How many errors there are so far.
    pub(super) fn errors(&self) -> usize {
        self.diagnostics.iter().filter(|d| d.severity == crate::diagnostic::Severity::Error).count()
    }

    /// A call of a function of the program or the library.
    pub(super) fn call_function(&mut self, b: &mut Body, def: DefId, mut given: Vec<Given>, span: Span) -> Value {
        let f = self.scope.def(def).tree.clone();
        let own_name = f.params.iter().any(|p| &*p.name.name == "name");
        let name = given.iter().position(|g| !own_name && g.name.as_ref().is_some_and(|n| &*n.name == "name"));
        let name = name.map(|i| given.remove(i));
        if !b.elements.is_empty() && f.kind == FunctionKind::Fn && given.iter().all(|g| rank(&g.value) == 0)
            || f.kind == FunctionKind::Fn && given.iter().all(|g| matches!(g.value, Value::Static(_))) && !f.params.is_empty() && is_scalar(&f)
            || f.kind == FunctionKind::Schedule
        {
            return self.inline(b, def, given, span);
        }
        if f.kind == FunctionKind::Init {
            return self.inline(b, def, given, span);
        }
        if f.kind == FunctionKind::Optimizer {
            return self.wrong(
                "E0507",
                format!("the optimizer `{}` gives no value", f.name.name),
                span,
                "an optimizer stands behind `optimizer =` of a `train` section",
            );
        }
        if let Some(g) = given.iter().find(|g| matches!(g.value, Value::Element(_))) {
            let d = Diagnostic::error("E0321", format!("`{}` works on whole tensors", f.name.name), g.span, "this is one element");
            self.report(d.note("compute it in a binding of its own, then index that"));
            return Value::Poison;
        }
        let softmax = matches!(&*f.name.name, "softmax" | "log_softmax") && self.scope.def(def).library && !b.library();
        if softmax && let Some(g) = given.first() {
            // `x |> softmax` and `softmax(x)` both lose everything but `x`.
            let title = format!("drop the {}", f.name.name);
            let fix = if g.span.end <= span.start {
                crate::diagnostic::Fix { title, span: Span { start: g.span.end, ..span }, replacement: String::new() }
            } else {
                crate::diagnostic::Fix { title, span, replacement: self.sources.text(g.span).to_string() }
            };
            self.softmaxes.push(fix);
        }
        let any_poison = given.iter().any(|g| matches!(g.value, Value::Poison));
        let Some(slots) = self.match_arguments(&f, given, span) else { return Value::Poison };
        if any_poison {
            return Value::Poison;
        }
        let elements = std::mem::take(&mut b.elements);
        let value = self.call_instance(b, def, slots, name, span);
        b.elements = elements;
        value
    }

    /// One of a block's repetitions, whose weights are under `path`.
    pub(super) fn call_repeated(&mut self, b: &mut Body, def: DefId, given: Vec<Given>, path: &str, span: Span) -> Value {
        let f = self.scope.def(def).tree.clone();
        if !matches!(f.kind, FunctionKind::Block | FunctionKind::Layer | FunctionKind::Fn) {
            return self.wrong("E0507", format!("`{}` cannot be repeated", f.name.name), span, "only a block, layer or fn can");
        }
        let Some(slots) = self.match_arguments(&f, given, span) else { return Value::Poison };
        let Some(prepared) = self.prepare(b, def, slots, false) else { return Value::Poison };
        let (made, args) = self.make(def, prepared, span);
        b.uses_mode |= made.uses_mode;
        let Some(id) = made.id else { return Value::Poison };
        let weights = self.adopt(b, id, &format!("{path}."));
        let types: Vec<Type> = self.instance(id).results.iter().map(|(_, e)| e.ty().clone()).collect();
        b.random |= self.instance(id).random;
        let site = b.site();
        if types.len() != 1 {
            return self.wrong("E0505", "a repeated block has one result", span, format!("it gives {}", types.len()));
        }
        Value::Tensor(Expr { kind: ExprKind::Call { instance: id, args, weights, site }, types, span })
    }

    fn call_instance(&mut self, b: &mut Body, def: DefId, slots: Vec<Option<Given>>, name: Option<Given>, span: Span) -> Value {
        let kind = self.scope.def(def).tree.kind;
        let Some(prepared) = self.prepare(b, def, slots, false) else { return Value::Poison };
        let (made, args) = self.make(def, prepared, span);
        b.uses_mode |= made.uses_mode;
        let Some(id) = made.id else { return Value::Poison };
        let weights = self.call_weights(b, def, id, name, span);
        let Some(weights) = weights else { return Value::Poison };
        let (types, names, random) = {
            let i = self.instance(id);
            let types: Vec<Type> = i.results.iter().map(|(_, e)| e.ty().clone()).collect();
            let names: Vec<Option<Arc<str>>> = i.results.iter().map(|(n, _)| n.clone()).collect();
            (types, names, i.random)
        };
        b.random |= random;
        let site = b.site();
        let call = Expr { kind: ExprKind::Call { instance: id, args, weights, site }, types: types.clone(), span };
        if kind == FunctionKind::Loss && types.len() == 2 {
            let parts = self.unpack(b, call, &names);
            return self.quotient(b, parts, span);
        }
        if kind == FunctionKind::Metric {
            return self.wrong("E0507", "a metric is used outside `metrics`", span, "metrics are listed in a `train` section");
        }
        match types.len() {
            1 => Value::Tensor(call),
            _ => Value::Tuple(self.unpack(b, call, &names)),
        }
    }

    /// Binds the results of a call to locals.
    pub(super) fn unpack(&mut self, b: &mut Body, call: Expr, names: &[Option<Arc<str>>]) -> Vec<(Option<Arc<str>>, Value)> {
        let span = call.span;
        let mut targets = vec![];
        let mut values = vec![];
        for (ty, name) in call.types.clone().into_iter().zip(names) {
            let local = b.local(name.as_deref().unwrap_or("_"), ty, span);
            targets.push(local);
            values.push((name.clone(), Value::Tensor(b.read(local, span))));
        }
        b.stmts.push(Stmt::Let { targets, value: call, span });
        values
    }
}

/// Axes with sizes, from the left up to `...` and from the right down to it.
fn paired<'a>(axes: &'a [Axis], shape: &'a [Size]) -> Vec<(&'a Axis, &'a Size)> {
    paired_numbered(axes, shape).into_iter().map(|(_, p)| p).collect()
}

/// The same, with the position in the shape.
pub fn paired_numbered<'a>(axes: &'a [Axis], shape: &'a [Size]) -> Vec<(usize, (&'a Axis, &'a Size))> {
    let rest = axes.iter().position(|a| matches!(a, Axis::Rest(_))).unwrap_or(axes.len());
    let behind = axes.len().saturating_sub(rest + 1);
    let left = axes[..rest].iter().zip(shape).enumerate();
    let right = axes[axes.len() - behind..].iter().zip(&shape[shape.len().saturating_sub(behind)..]).enumerate();
    left.chain(right.map(|(i, p)| (i + shape.len().saturating_sub(behind), p))).collect()
}

/// How many axes a value has.
pub fn rank(value: &Value) -> usize {
    match value {
        Value::Tensor(e) => e.ty().shape.len(),
        _ => 0,
    }
}

/// Whether all parameters and results are single numbers.
fn is_scalar(f: &tree::Function) -> bool {
    f.params.iter().all(|p| p.ty.as_ref().is_none_or(|t| t.shape.is_none())) && f.results.iter().all(|r| r.ty.shape.is_none())
}
