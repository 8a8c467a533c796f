//! Derivatives of operations that move elements: `place`, `scatter`, `sort`.

use crate::grad::expr::{binary, div, mul, select, zero};
use crate::grad::nest::linear;
use crate::grad::points::{Points, cotangent, push_nest, push_scatter, zeros};
use crate::ir::{
    Affine, Base, Dim, Expr, Fold, Function, Guard, Index, Nest, NodeId, Op, Place, Relation, Scalar, ScalarOp, Scatter, ScatterFold, Size, Start,
    Type, Value, float, load_at,
};
use crate::ir::{DType, Piece};
use crate::span::Span;

fn integer(n: i64) -> Expr {
    Expr::Const(Scalar::i64(n))
}

/// The contributions of a place: the base gets the cotangent with zeros where the pieces are, each piece what is there.
pub fn place(dims: &[Dim], f: &mut Function, id: NodeId, active: &[bool], dy: Value) -> Vec<(Value, Value)> {
    let node = f.node(id).clone();
    let Op::Place(place) = &node.op else { panic!("not a place: {node:?}") };
    let (ty, span) = (&node.types[0], node.span);
    let first = usize::from(place.base == Base::Operand);
    let starts = first + place.pieces.len();
    let mut found = vec![];
    if first == 1 && active[0] {
        let mut operands = vec![dy];
        for piece in &place.pieces {
            operands.push(zeros(f, &Type::new(ty.dtype, piece.shape.clone()), span));
        }
        operands.extend(&node.operands[starts..]);
        found.push((node.operands[0], f.push(Op::Place(place.clone()), operands, ty.clone(), span)));
    }
    for (k, piece) in place.pieces.iter().enumerate().filter(|(k, _)| active[first + k]) {
        let mut points =
            Points { dims, ranges: piece.shape.clone(), outs: piece.shape.len(), guards: vec![], operands: vec![], active: vec![], dot: false, span };
        let body = match cotangent(f, &mut points, dy, []) {
            Expr::Load { operand, .. } => {
                Expr::Load { operand, index: piece_index(place, piece, &node.operands[starts..], &mut points), otherwise: None }
            }
            constant => constant,
        };
        let part = crate::grad::points::sum(f, Nest::map(piece.shape.clone(), body), &points.operands, false, span);
        found.push((node.operands[first + k], part));
    }
    found
}

/// Where element `i` of the piece is in the result.
fn piece_index(place: &Place, piece: &Piece, starts: &[Value], points: &mut Points) -> Vec<Index> {
    (0..piece.shape.len())
        .map(|axis| {
            let step = Affine::var(axis).scale(&piece.stride[axis]);
            match &piece.start[axis] {
                Start::Size(start) => Index::Affine(step.add(&Affine::constant(start.clone()))),
                Start::Runtime(n) => {
                    let extent = &(&(&piece.shape[axis] - &Size::constant(1)) * &piece.stride[axis]) + &Size::constant(1);
                    let last = Expr::Index(Affine::constant(&place.shape[axis] - &extent));
                    let start = load_at(points.operand(starts[*n]), []);
                    let start = binary(ScalarOp::Max, binary(ScalarOp::Min, start, last), integer(0));
                    Index::Gather(Box::new(binary(ScalarOp::Add, start, Expr::Index(step))))
                }
            }
        })
        .collect()
}

/// The cotangent of a sort's operand: every sorted value's goes back to where it came from.
pub fn unsort(f: &mut Function, id: NodeId, dy: Value) -> Value {
    let ty = f.ty(dy).clone();
    let span = f.node(id).span;
    let rank = ty.shape.len();
    let base = zeros(f, &ty, span);
    let mut index: Vec<Index> = (0..rank).map(|v| Index::Affine(Affine::var(v))).collect();
    index[rank - 1] = Index::Gather(Box::new(load_at(1, 0..rank)));
    let scatter =
        Scatter { shape: ty.shape.clone(), points: ty.shape.clone(), guards: vec![], index, value: load_at(0, 0..rank), fold: ScatterFold::Sum };
    push_scatter(f, scatter, base, &[dy, Value { node: id, result: 1 }], ty.dtype, span)
}

/// The contributions of a scatter. `Replace`: the last writer's value gets the cotangent. `Prod`: products over the others, no division.
/// `Max` and `Min`: even shares among base and updates that tie.
pub fn scatter(dims: &[Dim], f: &mut Function, id: NodeId, active: &[bool], dy: Value) -> Vec<(Value, Value)> {
    let node = f.node(id).clone();
    let Op::Scatter(s) = &node.op else { panic!("not a scatter: {node:?}") };
    let (dtype, span, rank) = (node.types[0].dtype, node.span, s.shape.len());
    let base = node.operands[0];
    // A load of operand 0 reads the base as it was; scatters made here have a base of their own in front of these operands.
    let (value, index) = (s.value.clone(), s.index.clone());
    let mut points = Points {
        dims,
        ranges: s.points.clone(),
        outs: s.points.len(),
        guards: s.guards.clone(),
        operands: node.operands.clone(),
        active: active.to_vec(),
        dot: false,
        span,
    };
    let values = points.depends(&value);
    let mut add = |value: Value| {
        points.operands.push(value);
        points.active.push(false);
        points.operands.len() - 1
    };
    let at = |operand: usize| Expr::Load { operand, index: index.clone(), otherwise: None };
    let own = |f: &mut Function, body: Expr, operands: &[Value]| push_nest(f, Nest::map(s.shape.clone(), body), operands, span);
    let (dy_at, here) = match cotangent_literal(f, dy) {
        Some(c) => (c.clone(), c),
        None => (at(add(dy)), load_at(0, 0..rank)),
    };
    let dbase;
    let adj;
    match s.fold {
        ScatterFold::Sum => {
            dbase = dy;
            adj = dy_at;
        }
        ScatterFold::Replace => {
            let none = f.nest(Nest::map(s.shape.clone(), integer(-1)), [], span);
            let number = Scatter { index: index.clone(), value: Expr::Index(linear(&s.points, 0)), ..s.clone() };
            let last = push_scatter(f, number, none, &node.operands, DType::I64, span);
            dbase = if active[0] {
                let untouched = binary(ScalarOp::Eq, load_at(1, 0..rank), integer(-1));
                own(f, select(untouched, here, zero(dtype)), &[dy, last])
            } else {
                dy
            };
            let won = binary(ScalarOp::Eq, at(add(last)), Expr::Index(linear(&s.points, 0)));
            adj = select(won, dy_at, zero(dtype));
        }
        ScatterFold::Prod => {
            let ones = f.nest(Nest::map(s.shape.clone(), float(dtype, 1.0)), [], span);
            let all = Scatter { index: index.clone(), value: value.clone(), ..s.clone() };
            dbase = if active[0] {
                let product = push_scatter(f, all, ones, &node.operands, dtype, span);
                own(f, mul(here, load_at(1, 0..rank)), &[dy, product])
            } else {
                dy
            };
            adj = if values {
                let others = others(f, s, &index, &value, &node.operands, dtype, span);
                let others = load_at(add(others), 0..s.points.len());
                mul(mul(dy_at, at(add(base))), others)
            } else {
                zero(dtype)
            };
        }
        ScatterFold::Max | ScatterFold::Min => {
            let y = Value { node: id, result: 0 };
            let one = || float(dtype, 1.0);
            let y_at = at(add(y));
            let tie_here = binary(ScalarOp::Eq, load_at(1, 0..rank), load_at(2, 0..rank));
            let start = own(f, select(tie_here.clone(), one(), zero(dtype)), &[dy, base, y]);
            let tie = binary(ScalarOp::Eq, value.clone(), y_at);
            let count = Scatter { index: index.clone(), value: select(tie.clone(), one(), zero(dtype)), fold: ScatterFold::Sum, ..s.clone() };
            let mut tie_operands = node.operands.clone();
            if let Expr::Load { .. } = dy_at {
                tie_operands.push(dy);
            }
            tie_operands.push(y);
            let count = push_scatter(f, count, start, &tie_operands, dtype, span);
            dbase = if active[0] { own(f, select(tie_here, div(here, load_at(3, 0..rank)), zero(dtype)), &[dy, base, y, count]) } else { dy };
            let count = at(add(count));
            adj = select(tie, div(dy_at, count), zero(dtype));
        }
    }
    let mut found = vec![];
    if active[0] {
        found.push((base, dbase));
    }
    if values {
        found.extend(points.pull(f, &value, None, adj).into_iter().map(|(k, v)| (points.operands[k], v)));
    }
    found
}

/// The literal that a cotangent is everywhere.
fn cotangent_literal(f: &Function, dy: Value) -> Option<Expr> {
    match &f.node(dy.node).op {
        Op::Nest(n) if n.guards.is_empty() && n.fold == Fold::None && matches!(n.body, Expr::Const(_)) => Some(n.body.clone()),
        _ => None,
    }
}

/// For every update of a scattered product, the product of the other updates of its element.
fn others(f: &mut Function, s: &Scatter, index: &[Index], value: &Expr, operands: &[Value], dtype: DType, span: Span) -> Value {
    let count = s.points.len();
    let put = |v: usize| Affine::var(v + count);
    let as_expr = |i: &Index| match i {
        Index::Affine(a) => Expr::Index(a.clone()),
        Index::Gather(e) => (**e).clone(),
    };
    let shift = |e: &Expr| crate::grad::expr::rewrite(e, &put, &|k| k, &|a| a);
    let same = index
        .iter()
        .map(|i| binary(ScalarOp::Eq, as_expr(i), shift(&as_expr(i))))
        .reduce(|a, b| binary(ScalarOp::And, a, b))
        .unwrap_or(Expr::Const(Scalar::bool(true)));
    let mut guards: Vec<Guard> = s.guards.iter().cloned().chain(s.guards.iter().map(|g| g.substitute(&put))).collect();
    guards.push(Guard { expr: linear(&s.points, 0).sub(&linear(&s.points, count)), relation: Relation::NonZero });
    let body = select(same, shift(value), float(dtype, 1.0));
    push_nest(f, Nest { outs: s.points.clone(), reds: s.points.clone(), guards, fold: Fold::Prod, body }, operands, span)
}
