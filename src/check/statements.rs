//! Statements of a body, in order.

use crate::check::Checker;
use crate::check::scope::{Global, WORDS};
use crate::check::typed::*;
use crate::check::types::Declared;
use crate::check::value::*;
use crate::diagnostic::Diagnostic;
use crate::ir::{DType, Size};
use crate::parse::tree::{self, StmtKind};
use crate::span::Span;
use std::sync::Arc;

/// What a list of statements ends with.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "one lives at a time, for a moment")]
pub enum Last {
    /// Neither a value nor a binding.
    Nothing,
    /// A binding: the value where results have no names.
    Binding(Arc<str>),
    /// An expression.
    Value(Value),
}

impl Checker<'_> {
    /// Elaborates `stmts`. `declared` are the results of the function around; in `tail` position the last binding may be its value.
    pub(super) fn statements(&mut self, b: &mut Body, stmts: &[tree::Stmt], declared: &[Declared], tail: bool) -> Last {
        let mut last = Last::Nothing;
        // What comes behind the value in tail position without being it.
        let silent =
            |s: &tree::Stmt| matches!(s.kind, StmtKind::Gradient { .. } | StmtKind::Update { .. } | StmtKind::Result(_) | StmtKind::Require { .. });
        let end = stmts.iter().rposition(|s| !silent(s)).unwrap_or(stmts.len());
        for (i, stmt) in stmts.iter().enumerate() {
            let at_end = tail && i == end;
            match &stmt.kind {
                StmtKind::Let { targets, value, .. } => {
                    let value = self.expr(b, value);
                    last = self.let_targets(b, targets, value, stmt.span);
                }
                StmtKind::Index { target, indices, value } => {
                    let as_result = declared.iter().find(|d| d.name.as_ref() == Some(&target.name));
                    let as_value =
                        declared.first().filter(|d| declared.len() == 1 && d.name.is_none() && self.is_value(stmts, i, at_end, &target.name));
                    let value = match self.comprehension(b, indices, value, as_result.or(as_value), stmt.span) {
                        Some(e) => Value::Tensor(e),
                        None => Value::Poison,
                    };
                    self.bind_value(b, target, value, stmt.span);
                    last = Last::Binding(target.name.clone());
                }
                StmtKind::Param { name, ty, init } => self.declare_param(b, name, ty, init.as_ref(), stmt.span),
                StmtKind::State { name, ty, init } => self.declare_state(b, name, ty.as_ref(), init, stmt.span),
                StmtKind::Update { target, indices, value } => self.update(b, target, indices.as_deref(), value, stmt.span),
                StmtKind::If { condition, then, otherwise } => {
                    let value = self.expr(b, condition);
                    match self.decided(b, value, condition.span) {
                        Some(true) => last = self.branch(b, then, declared, at_end, last),
                        Some(false) => last = self.branch(b, otherwise, declared, at_end, last),
                        None => return Last::Value(Value::Poison),
                    }
                }
                StmtKind::Require { condition, message } => {
                    if !self.require(b, condition, message.clone(), stmt.span) {
                        return Last::Value(Value::Poison);
                    }
                }
                StmtKind::Gradient { cotangents, body } => self.gradient(b, cotangents, body, declared, &last, stmt.span),
                StmtKind::Result(_) => {}
                StmtKind::Scatter { fold, target, indices, value, base } => {
                    let value = self.scatter(b, fold, indices, value, base, stmt.span);
                    self.bind_value(b, target, value, stmt.span);
                    last = Last::Binding(target.name.clone());
                }
                StmtKind::Expr(e) => {
                    let value = self.expr(b, e);
                    if !at_end && !matches!(value, Value::Poison) {
                        let d = Diagnostic::error("E0511", "this value is not used", e.span, "computed for nothing");
                        self.report(d.note("only the last statement of a body is its value; bind the others: `x = ...`"));
                    }
                    last = Last::Value(value);
                }
            }
        }
        last
    }

    fn branch(&mut self, b: &mut Body, stmts: &[tree::Stmt], declared: &[Declared], tail: bool, before: Last) -> Last {
        match self.statements(b, stmts, declared, tail) {
            Last::Nothing => before,
            other => other,
        }
    }

    /// Whether the binding at `i` is the body's value: it is the last one, or the last statement is its name.
    fn is_value(&self, stmts: &[tree::Stmt], i: usize, at_end: bool, name: &Arc<str>) -> bool {
        if at_end {
            return true;
        }
        let behind = &stmts[i + 1..];
        let read = behind.iter().any(|s| matches!(&s.kind, StmtKind::Expr(tree::Expr { kind: tree::ExprKind::Name(n), .. }) if n == name));
        let rebound = behind.iter().any(|s| match &s.kind {
            StmtKind::Let { targets, .. } => targets.iter().any(|t| t.name == *name),
            StmtKind::Index { target, .. } | StmtKind::Scatter { target, .. } => target.name == *name,
            StmtKind::If { .. } => true,
            _ => false,
        });
        read && !rebound
    }

    fn let_targets(&mut self, b: &mut Body, targets: &[tree::Ident], value: Value, span: Span) -> Last {
        let [target] = targets else {
            let parts = match value {
                Value::Tuple(parts) if parts.len() == targets.len() => parts.into_iter().map(|(_, v)| v).collect(),
                Value::List(parts) if parts.len() == targets.len() => parts,
                Value::Poison => vec![Value::Poison; targets.len()],
                other => {
                    let n = match &other {
                        Value::Tuple(p) => p.len(),
                        Value::List(p) => p.len(),
                        _ => 1,
                    };
                    let names = targets[0].span.to(targets[targets.len() - 1].span);
                    self.wrong(
                        "E0512",
                        format!("{} names for {n} value{}", targets.len(), if n == 1 { "" } else { "s" }),
                        names,
                        "the numbers differ",
                    );
                    vec![Value::Poison; targets.len()]
                }
            };
            for (target, value) in targets.iter().zip(parts) {
                self.bind_value(b, target, value, span);
            }
            return Last::Nothing;
        };
        self.bind_value(b, target, value, span);
        Last::Binding(target.name.clone())
    }

    /// Binds a name; a tensor gets a local.
    pub(super) fn bind_value(&mut self, b: &mut Body, name: &tree::Ident, value: Value, span: Span) {
        self.keeps_meaning(b, name);
        let value = match value {
            Value::Tensor(e) if matches!(e.kind, ExprKind::Local(_) | ExprKind::Weight(_)) => Value::Tensor(e),
            Value::Tensor(e) => {
                let local = b.local(&name.name, e.ty().clone(), name.span);
                b.stmts.push(Stmt::Let { targets: vec![local], value: e, span });
                Value::Tensor(b.read(local, name.span))
            }
            other => other,
        };
        b.bind(&name.name, value, name.span);
    }

    /// Refuses to bind what keeps its meaning in a whole body: the program's dims and constants, the sizes of the function's signature, its parameters and
    /// states, the language's own numbers.
    fn keeps_meaning(&mut self, b: &Body, name: &tree::Ident) {
        let stored = b.own.get(&name.name).map(|w| b.weights[w.0 as usize].span);
        let stored = stored.filter(|at| b.lookup(&name.name).is_some_and(|x| x.span == *at));
        let global = self.scope.user.get(&name.name).filter(|_| !b.library());
        let (what, at, note) = if let Some(at) = stored {
            ("a parameter or state", Some(at), "what is trained or stored is changed by the optimizer and by `update` alone")
        } else if let Some(at) = b.size_at(&name.name) {
            ("a size", Some(at), "a size of the signature is the same in the whole body")
        } else if matches!(global, Some(Global::Dim(_))) {
            ("a dim", self.declared_at(&name.name), "a dim is one size in the whole program")
        } else if matches!(global, Some(Global::Const(..))) {
            ("a constant", self.declared_at(&name.name), "a constant has one value in the whole program")
        } else if WORDS.contains(&&*name.name) {
            ("built in", None, "the language gives this name its meaning")
        } else {
            return;
        };
        let d =
            Diagnostic::error("E0215", format!("`{}` is {what}, and cannot be bound again", name.name), name.span, "give this value another name");
        let d = at.into_iter().fold(d, |d, at| d.label(at, "declared here"));
        self.report(d.note(note));
    }

    /// A condition that is known when compiling.
    pub(super) fn decided(&mut self, _b: &mut Body, value: Value, span: Span) -> Option<bool> {
        match value {
            Value::Static(Static::Bool(x)) => Some(x),
            Value::Poison => None,
            other => {
                let label = match &other {
                    Value::Tensor(e) if e.ty().dtype == DType::Bool => "known only when the program runs".into(),
                    other => format!("this is {}", other.describe()),
                };
                let d = Diagnostic::error("E0310", "this condition is not known when compiling", span, label);
                self.report(d.note("choose between values instead: `if c then a else b`"));
                None
            }
        }
    }

    fn require(&mut self, b: &mut Body, condition: &tree::Expr, message: Option<Arc<str>>, span: Span) -> bool {
        match self.expr(b, condition) {
            Value::Static(Static::Bool(true)) => true,
            Value::Poison => false,
            Value::Static(Static::Bool(false)) => {
                let text = self.sources.text(condition.span).to_string();
                let message = message.map_or_else(|| format!("`{text}` does not hold"), |m| m.to_string());
                let mut d = Diagnostic::error("E0312", message, condition.span, "required here");
                let values = self.named_values(b, condition);
                if !values.is_empty() {
                    d = d.note(values.join(", "));
                }
                if let Some(&(def, call)) = self.active.last().filter(|(_, call)| !span.in_library() && call.file == span.file) {
                    let f = &self.scope.def(def).tree;
                    if call.end <= f.span.start || call.start >= f.span.end {
                        d = d.label(call, format!("in this use of `{}`", f.name.name));
                    }
                }
                self.report(d);
                false
            }
            Value::Tensor(e) if e.ty().dtype == DType::Bool => {
                let text = self.sources.text(condition.span).to_string();
                let message = message.unwrap_or_else(|| format!("`{text}` does not hold").into());
                b.stmts.push(Stmt::Check { condition: e, message, span });
                true
            }
            other => {
                self.wrong("E0407", "a condition is needed", condition.span, format!("this is {}", other.describe()));
                false
            }
        }
    }

    /// `D = 12`, `heads = 5` for the names in an expression.
    fn named_values(&mut self, b: &Body, e: &tree::Expr) -> Vec<String> {
        let mut names: Vec<Arc<str>> = vec![];
        visit_names(e, &mut |n| {
            if !names.contains(n) {
                names.push(n.clone());
            }
        });
        let mut out = vec![];
        for n in names {
            let value = match b.lookup(&n) {
                Some(x) => Some(x.value.clone()),
                None if b.library() => None,
                None => self.global(&n),
            };
            if let Some(Value::Static(s)) = value {
                out.push(format!("{n} = {s}"));
            }
        }
        out
    }

    /// `[B, T]` of a static or tensor; for messages and builtins.
    pub(super) fn shape_of(value: &Value) -> Vec<Size> {
        match value {
            Value::Tensor(e) => e.ty().shape.clone(),
            _ => vec![],
        }
    }
}

/// Calls `see` with every plain name in an expression.
pub fn visit_names(e: &tree::Expr, see: &mut dyn FnMut(&Arc<str>)) {
    use tree::ExprKind::*;
    match &e.kind {
        Int(_) | Float(_) | Quantity(..) | Text(_) | Bool(_) | Rest => {}
        Name(n) => see(n),
        Field(base, _) => visit_names(base, see),
        Call { callee, args } => {
            visit_names(callee, see);
            args.iter().for_each(|a| visit_names(&a.value, see));
        }
        Load { base, indices, otherwise } => {
            visit_names(base, see);
            for i in indices {
                if let tree::Subscript::Expr(e) = i {
                    visit_names(e, see);
                }
            }
            otherwise.iter().for_each(|e| visit_names(e, see));
        }
        Fold { condition, body, indices, .. } => {
            for i in indices {
                if let tree::FoldIndex::Var(d) = i {
                    d.range.iter().for_each(|e| visit_names(e, see));
                }
            }
            condition.iter().for_each(|e| visit_names(e, see));
            visit_names(body, see);
        }
        Unary(_, a) => visit_names(a, see),
        Binary(_, a, c) | Pipe(a, c) | Range(a, c) => {
            visit_names(a, see);
            visit_names(c, see);
        }
        Tuple(parts) => parts.iter().for_each(|(_, e)| visit_names(e, see)),
        List(parts) => parts.iter().for_each(|e| visit_names(e, see)),
        If { condition, then, otherwise } => {
            visit_names(condition, see);
            visit_names(then, see);
            visit_names(otherwise, see);
        }
        Scan(s) => {
            s.inputs.iter().for_each(|(_, e)| visit_names(e, see));
            s.from.iter().for_each(|(_, e)| visit_names(e, see));
            visit_names(&s.over, see);
            visit_stmts(&s.body, see);
        }
    }
}

/// Calls `see` with every plain name in statements.
pub fn visit_stmts(stmts: &[tree::Stmt], see: &mut dyn FnMut(&Arc<str>)) {
    for s in stmts {
        match &s.kind {
            StmtKind::Let { value, .. } | StmtKind::Index { value, .. } | StmtKind::Update { value, .. } => visit_names(value, see),
            StmtKind::Param { init, .. } => init.iter().for_each(|e| visit_names(e, see)),
            StmtKind::State { init, .. } => visit_names(init, see),
            StmtKind::If { condition, then, otherwise } => {
                visit_names(condition, see);
                visit_stmts(then, see);
                visit_stmts(otherwise, see);
            }
            StmtKind::Require { condition, .. } => visit_names(condition, see),
            StmtKind::Gradient { body, .. } => visit_stmts(body, see),
            StmtKind::Result(e) | StmtKind::Expr(e) => visit_names(e, see),
            StmtKind::Scatter { value, base, .. } => {
                visit_names(value, see);
                visit_names(base, see);
            }
        }
    }
}
