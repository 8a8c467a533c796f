//! Functions of the program that nothing calls: without arguments only their names can be checked.

use crate::check::Checker;
use crate::check::arithmetic::ELEMENTWISE;
use crate::check::builtins;
use crate::check::statements::visit_names;
use crate::check::types::HEADS;
use crate::check::value::DefId;
use crate::diagnostic::Diagnostic;
use crate::parse::tree::{self, Axis, FoldIndex, StmtKind, Subscript, TargetIndex};
use crate::span::Span;
use std::sync::Arc;

/// Words with a meaning of their own in bodies.
const WORDS: &[&str] =
    &["self", "training", "inf", "PI", "real", "int", "f32", "f64", "step", "epoch", "steps", "steps_per_epoch", "random", "p", "g"];

impl Checker<'_> {
    /// Checks the names of every function that was not called.
    pub(super) fn check_uncalled(&mut self) {
        for def in self.scope.own() {
            let f = self.scope.def(def).tree.clone();
            let mut seen: Vec<&tree::Ident> = vec![];
            for p in &f.params {
                if let Some(first) = seen.iter().find(|n| n.name == p.name.name) {
                    let d = Diagnostic::error("E0202", format!("`{}` has two parameters `{}`", f.name.name, p.name.name), p.name.span, "again here");
                    self.report(d.label(first.span, "first here"));
                }
                seen.push(&p.name);
            }
            if !self.called.contains(&def) {
                self.check_names(def, &f);
            }
        }
    }

    fn check_names(&mut self, _def: DefId, f: &tree::Function) {
        let mut bound: Vec<Arc<str>> = f.params.iter().map(|p| p.name.name.clone()).collect();
        for ty in f.params.iter().filter_map(|p| p.ty.as_ref()).chain(f.results.iter().map(|r| &r.ty)) {
            if !HEADS.contains(&&*ty.head.name) {
                self.unknown_type(&ty.head);
            }
            for e in ty.angle.iter() {
                visit_names(e, &mut |n| bound.push(n.clone()));
            }
            for axis in ty.shape.iter().flatten() {
                match axis {
                    Axis::Rest(_) => {}
                    Axis::Size(e) => visit_names(e, &mut |n| bound.push(n.clone())),
                    Axis::Named(n, _) => bound.push(n.name.clone()),
                }
            }
        }
        bound_in(&f.body, &mut bound);
        let mut used: Vec<(Arc<str>, Span)> = vec![];
        used_in(&f.body, &mut used);
        let library: Vec<String> = self.scope.names(false).into_iter().map(str::to_string).collect();
        let known = |n: &str| {
            bound.iter().any(|b| **b == *n)
                || WORDS.contains(&n)
                || library.iter().any(|l| l == n)
                || builtins::find(n).is_some()
                || ELEMENTWISE.iter().any(|(e, _)| *e == n)
        };
        let wrong: Vec<(Arc<str>, Span)> = used.into_iter().filter(|(n, _)| !known(n)).collect();
        for (name, span) in wrong {
            let mut names: Vec<&str> = bound.iter().map(|b| &**b).collect();
            if crate::diagnostic::did_you_mean(&name, names.iter().copied()).is_none() {
                names.extend(library.iter().map(String::as_str));
            }
            self.unknown("E0201", "the name", &name, span, &names);
        }
    }
}

/// Every name that statements bind, wherever they stand.
fn bound_in(stmts: &[tree::Stmt], out: &mut Vec<Arc<str>>) {
    for s in stmts {
        match &s.kind {
            StmtKind::Let { targets, value } => {
                out.extend(targets.iter().map(|t| t.name.clone()));
                bound_by(value, out);
            }
            StmtKind::Index { target, indices, value } => {
                out.push(target.name.clone());
                targets(indices, out);
                bound_by(value, out);
            }
            StmtKind::Param { name, init, .. } => {
                out.push(name.name.clone());
                init.iter().for_each(|e| bound_by(e, out));
            }
            StmtKind::State { name, init, .. } => {
                out.push(name.name.clone());
                bound_by(init, out);
            }
            StmtKind::Update { indices, value, .. } => {
                targets(indices.as_deref().unwrap_or(&[]), out);
                bound_by(value, out);
            }
            StmtKind::If { condition, then, otherwise } => {
                bound_by(condition, out);
                bound_in(then, out);
                bound_in(otherwise, out);
            }
            StmtKind::Require { condition, .. } => bound_by(condition, out),
            StmtKind::Gradient { cotangents, body } => {
                out.extend(cotangents.iter().map(|c| c.name.clone()));
                bound_in(body, out);
            }
            StmtKind::Result(e) | StmtKind::Expr(e) => bound_by(e, out),
            StmtKind::Scatter { target, indices, value, base, .. } => {
                out.push(target.name.clone());
                // A scatter's indices need no introduction.
                for i in indices {
                    if let Subscript::Expr(e) = i {
                        visit_names(e, &mut |n| out.push(n.clone()));
                    }
                }
                visit_names(value, &mut |n| out.push(n.clone()));
                bound_by(base, out);
            }
        }
    }
}

fn targets(indices: &[TargetIndex], out: &mut Vec<Arc<str>>) {
    for i in indices {
        match i {
            TargetIndex::Rest(_) => {}
            TargetIndex::Var(d) => out.push(d.name.name.clone()),
            TargetIndex::Group(ds, _) => out.extend(ds.iter().map(|d| d.name.name.clone())),
        }
    }
}

/// Indices of folds and names of scans inside an expression.
fn bound_by(e: &tree::Expr, out: &mut Vec<Arc<str>>) {
    each(e, &mut |e| match &e.kind {
        tree::ExprKind::Fold { indices, .. } => {
            for i in indices {
                if let FoldIndex::Var(d) = i {
                    out.push(d.name.name.clone());
                }
            }
        }
        tree::ExprKind::Scan(s) => {
            out.extend(s.inputs.iter().map(|(n, _)| n.name.clone()));
            out.extend(s.from.iter().map(|(n, _)| n.name.clone()));
            bound_in(&s.body, out);
        }
        _ => {}
    });
}

/// Every plain name with its place, paths of weights left out.
fn used_in(stmts: &[tree::Stmt], out: &mut Vec<(Arc<str>, Span)>) {
    let add = |e: &tree::Expr, out: &mut Vec<(Arc<str>, Span)>| {
        each(e, &mut |e| match &e.kind {
            tree::ExprKind::Name(n) => out.push((n.clone(), e.span)),
            tree::ExprKind::Scan(s) => used_in(&s.body, out),
            _ => {}
        });
    };
    for s in stmts {
        match &s.kind {
            StmtKind::Let { value, .. } | StmtKind::Index { value, .. } | StmtKind::Update { value, .. } => add(value, out),
            StmtKind::Param { init, .. } => init.iter().for_each(|e| add(e, out)),
            StmtKind::State { init, .. } => add(init, out),
            StmtKind::If { condition, then, otherwise } => {
                add(condition, out);
                used_in(then, out);
                used_in(otherwise, out);
            }
            StmtKind::Require { condition, .. } => add(condition, out),
            StmtKind::Gradient { body, .. } => used_in(body, out),
            StmtKind::Result(e) | StmtKind::Expr(e) => add(e, out),
            StmtKind::Scatter { base, .. } => add(base, out),
        }
    }
}

/// Calls `see` with the expression and all below it, but not statements.
fn each(e: &tree::Expr, see: &mut dyn FnMut(&tree::Expr)) {
    use tree::ExprKind::*;
    see(e);
    match &e.kind {
        Int(_) | Float(_) | Quantity(..) | Text(_) | Bool(_) | Name(_) | Rest => {}
        Field(base, _) => each(base, see),
        Call { callee, args } => {
            each(callee, see);
            args.iter().for_each(|a| each(&a.value, see));
        }
        Load { base, indices, otherwise } => {
            each(base, see);
            for i in indices {
                if let Subscript::Expr(e) = i {
                    each(e, see);
                }
            }
            otherwise.iter().for_each(|e| each(e, see));
        }
        Fold { indices, condition, body, .. } => {
            for i in indices {
                if let FoldIndex::Var(d) = i {
                    d.range.iter().for_each(|e| each(e, see));
                }
            }
            condition.iter().for_each(|e| each(e, see));
            each(body, see);
        }
        Unary(_, a) => each(a, see),
        Binary(_, a, c) | Pipe(a, c) | Range(a, c) => {
            each(a, see);
            each(c, see);
        }
        Tuple(parts) => parts.iter().for_each(|(_, e)| each(e, see)),
        List(parts) => parts.iter().for_each(|e| each(e, see)),
        If { condition, then, otherwise } => [condition, then, otherwise].into_iter().for_each(|e| each(e, see)),
        Scan(s) => {
            s.inputs.iter().chain(&s.from).for_each(|(_, e)| each(e, see));
            each(&s.over, see);
        }
    }
}
