//! Rules of sums: what does not vary comes out, selected points become guards, equations solve for reduction indices.

use crate::ir::bounds::Ranges;
use crate::ir::*;
use crate::passes::algebra::scalar::{invariant, make, neg, zero};
use crate::passes::rebuild::{keep, tidy_node};

/// What is done to a sum's value after it.
enum After {
    Negate,
    Divide(Expr),
    Multiply(Expr),
}

/// Appends the sum in normal form.
pub fn fold(dims: &[Dim], f: &mut Function, mut node: Node) -> Vec<Value> {
    let Op::Nest(nest) = &mut node.op else { return keep(f, node) };
    let dtype = node.types[0].dtype;
    let was_dot = nest.fold == Fold::Dot;
    let mut after: Vec<After> = Vec::new();
    if dtype.is_float() {
        while let Some(step) = step(dims, nest, dtype) {
            after.extend(step);
        }
    }
    match (&nest.body, nest.reds.is_empty()) {
        (_, true) => nest.fold = Fold::None,
        (Expr::Op(ScalarOp::Mul, _), false) if was_dot => nest.fold = Fold::Dot,
        (_, false) => nest.fold = Fold::Sum,
    }
    let apply = |body: Expr| {
        after.iter().rev().fold(body, |x, step| match step {
            After::Negate => neg(&x),
            After::Divide(by) => make(ScalarOp::Div, [x, by.clone()]),
            After::Multiply(by) => make(ScalarOp::Mul, [by.clone(), x]),
        })
    };
    if after.is_empty() || nest.fold == Fold::None {
        nest.body = apply(nest.body.clone());
        tidy_node(&mut node);
        return keep(f, node);
    }
    let outs = nest.outs.clone();
    let (name, span) = (node.name.take(), node.span);
    tidy_node(&mut node);
    let sum = keep(f, node);
    let map = Nest::map(outs.clone(), apply(load_at(0, 0..outs.len())));
    keep(f, Node { op: Op::Nest(map), operands: sum, types: vec![Type::new(dtype, outs)], name, span })
}

/// One rule, where one fits: what it leaves to be done after the sum.
fn step(dims: &[Dim], nest: &mut Nest, dtype: DType) -> Option<Vec<After>> {
    if zero(&nest.body) {
        let done = nest.reds.is_empty() && nest.guards.is_empty();
        nest.reds.clear();
        nest.guards.clear();
        return if done { None } else { Some(vec![]) };
    }
    match &nest.body.clone() {
        Expr::Op(ScalarOp::Neg, x) => {
            nest.body = x[0].clone();
            return Some(vec![After::Negate]);
        }
        Expr::Op(ScalarOp::Div, x) if invariant(&x[1]) => {
            let by = x[1].clone();
            nest.body = x[0].clone();
            return Some(vec![After::Divide(by)]);
        }
        Expr::Op(ScalarOp::Select, x) if zero(&x[2]) => {
            if let Expr::Holds(guards) = &x[0] {
                nest.guards.extend(guards.clone());
                nest.body = x[1].clone();
                return Some(vec![]);
            }
            if let Some(body) = one_hot(nest, &x[0], &x[1]) {
                nest.body = body;
                return Some(vec![]);
            }
        }
        _ => {}
    }
    if solve(dims, nest) {
        return Some(vec![]);
    }
    // An index that nothing depends on counts its range.
    let mut used = vec![false; nest.rank()];
    let mut see = |v: Var| used[v] = true;
    nest.guards.iter().for_each(|g| g.expr.visit_vars(&mut see));
    nest.body.visit(&mut |e| vars(e, &mut see));
    let idle = (nest.outs.len()..nest.rank()).find(|v| !used[*v])?;
    let size = nest.reds.remove(idle - nest.outs.len());
    drop_var(nest, idle, &Affine::default());
    let count = match size.as_const() {
        Some(n) => float(dtype, n as f64),
        None => Expr::Cast(dtype, Box::new(Expr::Index(Affine::constant(size)))),
    };
    Some(vec![After::Multiply(count)])
}

/// Calls `see` with the variables that stand in this expression itself.
fn vars(e: &Expr, see: &mut dyn FnMut(Var)) {
    match e {
        Expr::Index(a) => a.visit_vars(see),
        Expr::Holds(guards) => guards.iter().for_each(|g| g.expr.visit_vars(see)),
        Expr::Load { index, .. } => {
            for i in index {
                if let Index::Affine(a) = i {
                    a.visit_vars(see);
                }
            }
        }
        Expr::Const(_) | Expr::Op(..) | Expr::Cast(..) => {}
    }
}

/// Puts `value`, over the other variables, in place of variable `v`, which is no longer in the box.
fn drop_var(nest: &mut Nest, v: Var, value: &Affine) {
    let lower = |a: &Affine| a.substitute(&|u| Affine::var(if u > v { u - 1 } else { u }));
    let value = lower(value);
    let of = |u: Var| if u == v { value.clone() } else { Affine::var(if u > v { u - 1 } else { u }) };
    nest.guards = nest.guards.iter().map(|g| g.substitute(&of)).collect();
    nest.body = nest.body.substitute(&of);
}

/// A guard `k == value` for a reduction index `k` leaves one point of its range.
fn solve(dims: &[Dim], nest: &mut Nest) -> bool {
    let outs = nest.outs.len();
    for (g, guard) in nest.guards.iter().enumerate() {
        if guard.relation != Relation::Zero {
            continue;
        }
        for (atom, c) in &guard.expr.terms {
            let IndexAtom::Var(v) = atom else { continue };
            let Some(sign @ (1 | -1)) = c.as_const() else { continue };
            let rest = guard.expr.sub(&Affine::var(*v).scale(c));
            let mut elsewhere = *v < outs;
            rest.visit_vars(&mut |u| elsewhere |= u == *v);
            if elsewhere {
                continue;
            }
            let (v, value) = (*v, rest.scale(&Size::constant(-sign)));
            nest.guards.remove(g);
            let size = nest.reds.remove(v - outs);
            nest.guards.push(Guard { expr: value.clone(), relation: Relation::NonNegative });
            nest.guards.push(Guard::lt(&value, &Affine::constant(size)));
            drop_var(nest, v, &value);
            let sizes: Vec<Size> = nest.outs.iter().chain(&nest.reds).cloned().collect();
            let ranges = Ranges { dims, sizes: &sizes };
            nest.guards.retain(|g| ranges.decide(g) != Some(true));
            return true;
        }
    }
    false
}

/// `sum[k](select(k == e, x(k), 0))` is `x(e)` where `e` is in the range of `k`, else 0.
fn one_hot(nest: &mut Nest, condition: &Expr, x: &Expr) -> Option<Expr> {
    let Expr::Op(ScalarOp::Eq, sides) = condition else { return None };
    let outs = nest.outs.len();
    let index = |e: &Expr| match e {
        Expr::Index(a) => a.as_var().filter(|v| *v >= outs),
        _ => None,
    };
    let (v, e) = match (index(&sides[0]), index(&sides[1])) {
        (Some(v), _) => (v, &sides[1]),
        (None, Some(v)) => (v, &sides[0]),
        (None, None) => return None,
    };
    // `k` may stand only where a value can stand: alone.
    let mut fits = true;
    e.visit(&mut |e| vars(e, &mut |u| fits &= u != v));
    nest.guards.iter().for_each(|g| g.expr.visit_vars(&mut |u| fits &= u != v));
    let alone = |a: &Affine| {
        let mut has = false;
        a.visit_vars(&mut |u| has |= u == v);
        !has || a.as_var() == Some(v)
    };
    x.visit(&mut |e| match e {
        Expr::Index(a) => fits &= alone(a),
        Expr::Holds(guards) => guards.iter().for_each(|g| g.expr.visit_vars(&mut |u| fits &= u != v)),
        Expr::Load { index, otherwise, .. } => {
            for i in index {
                if let Index::Affine(a) = i {
                    fits &= alone(a) && (otherwise.is_none() || a.as_var() != Some(v));
                }
            }
        }
        Expr::Const(_) | Expr::Op(..) | Expr::Cast(..) => {}
    });
    if !fits {
        return None;
    }
    let replaced = x.map(&mut |part| match part {
        Expr::Index(a) if a.as_var() == Some(v) => e.clone(),
        Expr::Load { operand, index, otherwise } => {
            let index = index.into_iter().map(|i| match i {
                Index::Affine(a) if a.as_var() == Some(v) => Index::Gather(Box::new(e.clone())),
                i => i,
            });
            Expr::Load { operand, index: index.collect(), otherwise }
        }
        part => part,
    });
    let size = nest.reds.remove(v - outs);
    let from = Expr::op(ScalarOp::Le, [Expr::Const(Scalar::i64(0)), e.clone()]);
    let below = Expr::op(ScalarOp::Lt, [e.clone(), Expr::Index(Affine::constant(size))]);
    let inside = Expr::op(ScalarOp::And, [from, below]);
    let Expr::Op(_, parts) = &nest.body else { return None };
    nest.body = Expr::op(ScalarOp::Select, [inside, replaced, parts[2].clone()]);
    drop_var(nest, v, &Affine::default());
    Some(nest.body.clone())
}
