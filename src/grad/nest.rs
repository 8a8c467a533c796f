//! Derivatives of nests, by fold.
//!
//! `None`, `Sum` and `Dot` hand the cotangent to every point; `ArgMax` and `ArgMin` to the first extremum; `Max` and `Min` in even shares to all
//! ties; `Prod` to every point, times the product over the other points, so that zeros are exact.

use crate::grad::expr::{div, mul, rewrite, select, zero};
use crate::grad::points::{Points, cotangent, push_nest};
use crate::ir::{Affine, DType, Dim, Expr, Fold, Function, Guard, Nest, NodeId, Op, Relation, ScalarOp, Size, Value, float, load_at};

/// The contributions of a nest with cotangent `dy` of its first result to the cotangents of its active operands.
pub fn pull(dims: &[Dim], f: &mut Function, id: NodeId, active: &[bool], dy: Value) -> Vec<(Value, Value)> {
    let node = f.node(id).clone();
    let Op::Nest(nest) = &node.op else { panic!("not a nest: {node:?}") };
    let y = Value { node: id, result: 0 };
    let dtype = node.types[0].dtype;
    let outs = nest.outs.len();
    let mut points = Points {
        dims,
        ranges: nest.outs.iter().chain(&nest.reds).cloned().collect(),
        outs,
        guards: nest.guards.clone(),
        operands: node.operands.clone(),
        active: active.to_vec(),
        dot: nest.fold == Fold::Dot,
        span: node.span,
    };
    let adj = cotangent(f, &mut points, dy, 0..outs);
    let extra = |points: &mut Points, value: Value| {
        let k = points.operand(value);
        points.active.push(false);
        k
    };
    let mut value = None;
    let adj = match nest.fold {
        Fold::None => {
            value = Some(load_at(extra(&mut points, y), 0..outs));
            adj
        }
        Fold::Sum | Fold::Dot | Fold::Winograd | Fold::WinogradWeights | Fold::DotLines => adj,
        Fold::ArgMax | Fold::ArgMin => {
            let at = load_at(extra(&mut points, Value { node: id, result: 1 }), 0..outs);
            let here = Expr::Index(linear(&nest.reds, outs));
            select(Expr::op(ScalarOp::Eq, [here, at]), adj, zero(dtype))
        }
        Fold::Max | Fold::Min => {
            let at = load_at(extra(&mut points, y), 0..outs);
            let tie = Expr::op(ScalarOp::Eq, [nest.body.clone(), at]);
            let one = select(tie.clone(), float(dtype, 1.0), zero(dtype));
            let count = push_nest(f, Nest { fold: Fold::Sum, body: one, ..nest.clone() }, &points.operands, node.span);
            let count = load_at(extra(&mut points, count), 0..outs);
            select(tie, div(adj, count), zero(dtype))
        }
        Fold::Prod => {
            let others = others(f, nest, &node.operands, node.span);
            let others = load_at(extra(&mut points, others), 0..nest.rank());
            mul(adj, others)
        }
    };
    let found = points.pull(f, &nest.body, value.as_ref(), adj);
    found.into_iter().map(|(k, v)| (points.operands[k], v)).collect()
}

/// The linear position of the variables `first..` in a box of these sizes.
pub fn linear(sizes: &[Size], first: usize) -> Affine {
    sizes.iter().enumerate().fold(Affine::default(), |sum, (k, size)| sum.scale(size).add(&Affine::var(first + k)))
}

/// For every point of a product's box, the product over all other points of its reduction.
fn others(f: &mut Function, nest: &Nest, operands: &[Value], span: crate::span::Span) -> Value {
    let (outs, rank) = (nest.outs.len(), nest.rank());
    // Variables: outputs, the point left out, the points multiplied.
    let put = |v: usize| Affine::var(if v < outs { v } else { v + nest.reds.len() });
    let body = rewrite(&nest.body, &put, &|k| k, &|a| a);
    let apart = linear(&nest.reds, outs).sub(&linear(&nest.reds, rank));
    let mut guards: Vec<Guard> = nest.guards.iter().map(|g| g.substitute(&put)).collect();
    guards.push(Guard { expr: apart, relation: Relation::NonZero });
    let all: Vec<Size> = nest.outs.iter().chain(&nest.reds).cloned().collect();
    push_nest(f, Nest { outs: all, reds: nest.reds.clone(), guards, fold: Fold::Prod, body }, operands, span)
}

/// `a + b + ...` of equal types.
pub fn add(f: &mut Function, parts: &[Value], span: crate::span::Span) -> Value {
    let ty = f.ty(parts[0]).clone();
    let rank = ty.shape.len();
    let body = (1..parts.len()).fold(load_at(0, 0..rank), |sum, k| crate::grad::expr::add(DType::F64, sum, load_at(k, 0..rank)));
    push_nest(f, Nest::map(ty.shape, body), parts, span)
}
