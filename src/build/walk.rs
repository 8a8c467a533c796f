//! Visits every tensor expression of a typed statement, those inside elements and scans included; parents first.

use crate::check::typed::{Element, Expr, ExprKind, IndexVar, Stmt};

/// Calls `see` with every expression of `stmts`.
pub(super) fn stmts(stmts: &[Stmt], see: &mut dyn FnMut(&Expr), update: &mut dyn FnMut(usize)) {
    for stmt in stmts {
        match stmt {
            Stmt::Let { value, .. } => expr(value, see, update),
            Stmt::Update { weight, value, .. } => {
                update(weight.0 as usize);
                expr(value, see, update);
            }
            Stmt::Check { condition, .. } => expr(condition, see, update),
        }
    }
}

/// Calls `see` with `e` and every expression below, `update` with every weight that a scan's body updates.
pub(super) fn expr(e: &Expr, see: &mut dyn FnMut(&Expr), update: &mut dyn FnMut(usize)) {
    see(e);
    match &e.kind {
        ExprKind::Local(_) | ExprKind::Weight(_) | ExprKind::Const(_) | ExprKind::Size(_) => {}
        ExprKind::Comprehension { element: inner, .. } => element(inner, see, update),
        ExprKind::Op(_, args) | ExprKind::Call { args, .. } => args.iter().for_each(|a| expr(a, see, update)),
        ExprKind::Cast(_, a) | ExprKind::Project(a, _) | ExprKind::Reshape(a) | ExprKind::StopGradient(a) => expr(a, see, update),
        ExprKind::Concat { parts, .. } => parts.iter().for_each(|a| expr(a, see, update)),
        ExprKind::Write { base, piece, start } => {
            expr(base, see, update);
            expr(piece, see, update);
            start.iter().for_each(|a| expr(a, see, update));
        }
        ExprKind::Place { pieces, .. } => pieces.iter().for_each(|(a, _, _)| expr(a, see, update)),
        ExprKind::Scatter { base, condition, index, value, .. } => {
            expr(base, see, update);
            condition.iter().chain(index).chain([value]).for_each(|e| element(e, see, update));
        }
        ExprKind::Sort { of, .. } | ExprKind::Grad { of, .. } => expr(of, see, update),
        ExprKind::Scan(scan) => {
            scan.inputs.iter().for_each(|(_, a, _)| expr(a, see, update));
            scan.carries.iter().for_each(|(_, first, _)| expr(first, see, update));
            stmts(&scan.body, see, update);
            scan.carries.iter().for_each(|(_, _, next)| expr(next, see, update));
            scan.outputs.iter().for_each(|(a, _)| expr(a, see, update));
        }
    }
}

fn element(e: &Element, see: &mut dyn FnMut(&Expr), update: &mut dyn FnMut(usize)) {
    match e {
        Element::Const(_) | Element::Size(_) | Element::Index(_) | Element::Random { .. } => {}
        Element::Load { tensor, indices, .. } => {
            expr(tensor, see, update);
            indices.iter().for_each(|i| element(i, see, update));
        }
        Element::Fold { condition, body, .. } => {
            if let Some(condition) = condition {
                element(condition, see, update);
            }
            element(body, see, update);
        }
        Element::Op(_, args) => args.iter().for_each(|a| element(a, see, update)),
        Element::Cast(_, a) => element(a, see, update),
    }
}

/// Calls `index` with every index variable that the element mentions, bound ones included; says whether it draws random numbers.
pub(super) fn mentions(e: &Element, index: &mut dyn FnMut(IndexVar)) -> bool {
    match e {
        Element::Const(_) | Element::Size(_) => false,
        Element::Random { .. } => true,
        Element::Index(v) => {
            index(*v);
            false
        }
        Element::Load { indices, .. } => indices.iter().fold(false, |random, i| mentions(i, index) | random),
        Element::Fold { condition, body, .. } => {
            let random = condition.as_ref().is_some_and(|c| mentions(c, index));
            mentions(body, index) | random
        }
        Element::Op(_, args) => args.iter().fold(false, |random, a| mentions(a, index) | random),
        Element::Cast(_, a) => mentions(a, index),
    }
}
