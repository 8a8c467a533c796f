//! Strides: a sum over the points that load an element, where the element's position modulo a stride decides which points those are.
//!
//! In: such a sum, with guards like `mod(i + 1 - r, 2) == 0` for an output index `i`. Out: the same tensor as a `place` of one sum for every phase
//! of the strided axes, over that phase's own elements and points, without remainders: the gradient of a strided convolution is a few
//! convolutions. Sums without such guards, or with too many phases, stay one nest.

use crate::grad::bounds::Bounds;
use crate::grad::expr::rewrite;
use crate::grad::points::{self, zeros};
use crate::ir::{
    Affine, Base, DType, Dim, Expr, Fold, Function, Guard, Index, IndexAtom, Nest, Op, Piece, Place, Relation, Scalar, ScalarOp, Size, Start, Type,
    Value, Var,
};
use crate::span::Span;

/// More pieces than this are not worth their overhead.
const MOST: i64 = 16;

/// An output axis whose points differ modulo a stride.
struct Strided {
    axis: Var,
    stride: i64,
}

/// Appends the sum of the nest's body over its reductions, as [`points::sum`] does, phase by phase.
pub fn sum(dims: &[Dim], f: &mut Function, nest: Nest, operands: &[Value], dot: bool, span: Span) -> Value {
    let strided = strided(&nest);
    let count = strided.iter().try_fold(1, |n: i64, s| n.checked_mul(s.stride)).unwrap_or(i64::MAX);
    if strided.is_empty() || count > MOST {
        return points::sum(f, padded(dims, f, nest, operands), operands, dot, span);
    }
    let dtype = nest.body.dtype(&|k| f.ty(operands[k]).dtype).unwrap_or_else(|| panic!("ill-typed nest {nest:?}"));
    let ty = Type::new(dtype, nest.outs.clone());
    let (mut pieces, mut values) = (vec![], vec![]);
    for number in 0..count {
        let mut rest = number;
        let phases: Vec<i64> = strided.iter().rev().map(|s| (rest % s.stride, rest /= s.stride).0).collect();
        let phases: Vec<(&Strided, i64)> = strided.iter().zip(phases.into_iter().rev()).collect();
        let Some(dense) = phase(dims, &nest, &phases) else { continue };
        let mut piece = Piece { shape: dense.outs.clone(), start: vec![], stride: vec![] };
        for axis in 0..dense.outs.len() {
            let (start, stride) = phases.iter().find(|(s, _)| s.axis == axis).map_or((0, 1), |(s, phase)| (*phase, s.stride));
            piece.start.push(Start::Size(Size::constant(start)));
            piece.stride.push(Size::constant(stride));
        }
        pieces.push(piece);
        values.push(points::sum(f, padded(dims, f, dense, operands), operands, dot, span));
    }
    if pieces.is_empty() {
        return zeros(f, &ty, span);
    }
    let place = Place { shape: nest.outs, base: Base::Fill(Scalar::float(dtype, 0.0)), pieces };
    f.push(Op::Place(place), values, ty, span)
}

/// The output axes that stand with coefficient 1 or -1 in a remainder that a guard asks for; at its side only reductions, or nothing.
fn strided(nest: &Nest) -> Vec<Strided> {
    let outs = nest.outs.len();
    let mut found: Vec<Strided> = vec![];
    for guard in &nest.guards {
        for (atom, _) in &guard.expr.terms {
            let IndexAtom::Mod(inner, by) = atom else { continue };
            let Some(stride) = by.as_const().filter(|n| *n > 1) else { continue };
            let mut axis = None;
            let mut plain = inner.constant.as_const().is_some();
            for (atom, c) in &inner.terms {
                match (atom, c.as_const()) {
                    (IndexAtom::Var(v), Some(1 | -1)) if *v < outs && axis.is_none() => axis = Some(*v),
                    (IndexAtom::Var(v), Some(_)) if *v >= outs && guard.relation == Relation::Zero => {}
                    _ => plain = false,
                }
            }
            if let (Some(axis), true) = (axis, plain)
                && !found.iter().any(|s| s.axis == axis)
            {
                found.push(Strided { axis, stride });
            }
        }
    }
    found.sort_by_key(|s| s.axis);
    found
}

/// The nest at the elements of one phase; nothing where no point loads any of them.
fn phase(dims: &[Dim], nest: &Nest, phases: &[(&Strided, i64)]) -> Option<Nest> {
    let mut dense = nest.clone();
    for (s, phase) in phases {
        dense.outs[s.axis] = (&nest.outs[s.axis] + &Size::constant(s.stride - 1 - phase)).div(&Size::constant(s.stride))?;
        if dense.outs[s.axis].as_const() == Some(0) {
            return None;
        }
    }
    let start = |v: Var| phases.iter().find(|(s, _)| s.axis == v);
    put(dims, &mut dense, &|v| match start(v) {
        Some((s, phase)) => Affine::var(v).scale(&Size::constant(s.stride)).add(&Affine::constant(*phase)),
        None => Affine::var(v),
    });
    // What a remainder still asks of a reduction index leaves every `step`-th of its points.
    loop {
        dense.guards.retain(|g| !decided(g, true));
        if dense.guards.iter().any(|g| decided(g, false)) {
            return None;
        }
        let solvable = dense.guards.iter().enumerate().find_map(|(n, g)| Some((n, congruence(g, &dense)?)));
        let Some((n, (v, first, step))) = solvable else { break };
        let range = dense.range(v).as_const()?;
        let first = first.filter(|first| *first < range)?;
        dense.guards.remove(n);
        let outs = dense.outs.len();
        dense.reds[v - outs] = Size::constant((range - first + step - 1) / step);
        let value = Affine::var(v).scale(&Size::constant(step)).add(&Affine::constant(first));
        put(dims, &mut dense, &|u| if u == v { value.clone() } else { Affine::var(u) });
    }
    // One point is no loop.
    while let Some(n) = dense.reds.iter().position(|r| r.as_const() == Some(1)) {
        let v = n + dense.outs.len();
        dense.reds.remove(n);
        put(dims, &mut dense, &|u| if u == v { Affine::default() } else { Affine::var(if u > v { u - 1 } else { u }) });
    }
    Some(dense)
}

fn decided(guard: &Guard, holds: bool) -> bool {
    guard.expr.as_size().and_then(Size::as_const).is_some_and(|n| {
        let value = match guard.relation {
            Relation::NonNegative => n >= 0,
            Relation::Zero => n == 0,
            Relation::NonZero => n != 0,
        };
        value == holds
    })
}

/// `mod(c*r + k, s) == 0` for one reduction index `r` of a known range: the index, its first solution where there is one, the distance of solutions.
fn congruence(guard: &Guard, nest: &Nest) -> Option<(Var, Option<i64>, i64)> {
    let ([(IndexAtom::Mod(inner, by), _)], Relation::Zero, Some(0)) = (guard.expr.terms.as_slice(), guard.relation, guard.expr.constant.as_const())
    else {
        return None;
    };
    let [(IndexAtom::Var(v), c)] = inner.terms.as_slice() else { return None };
    let (c, k, s) = (c.as_const()?, inner.constant.as_const()?, by.as_const()?);
    if *v < nest.outs.len() || nest.range(*v).as_const().is_none() {
        return None;
    }
    let hits = |r: &i64| (c.wrapping_mul(*r).wrapping_add(k)).rem_euclid(s) == 0;
    let first = (0..s).find(hits);
    let step = first.and_then(|first| (first + 1..=first + s).find(hits)).map_or(s, |next| next - first.unwrap_or(0));
    Some((*v, first, step))
}

/// Every variable replaced; the nest's box is the new one already.
fn put(dims: &[Dim], nest: &mut Nest, of: &dyn Fn(Var) -> Affine) {
    let ranges: Vec<Size> = nest.outs.iter().chain(&nest.reds).cloned().collect();
    let bounds = Bounds::new(dims, &ranges);
    nest.body = rewrite(&nest.body, of, &|k| k, &|a| bounds.simplify(&a));
    let mut guards: Vec<Guard> = vec![];
    for guard in &nest.guards {
        let guard = reduced(Guard { expr: bounds.simplify(&guard.expr.substitute(of)), relation: guard.relation });
        if !bounds.holds(&guard) && !guards.contains(&guard) {
            guards.push(guard);
        }
    }
    nest.guards = guards;
}

/// `2*i - 2*j + 3 >= 0` is `i - j + 1 >= 0`.
fn reduced(guard: Guard) -> Guard {
    let coefficients: Option<Vec<i64>> = guard.expr.terms.iter().map(|(_, c)| c.as_const()).collect();
    let common = coefficients.iter().flatten().fold(0, |a: i64, b| gcd(a, *b));
    let Some(constant) = guard.expr.constant.div(&Size::constant(common.max(1))) else { return guard };
    if guard.relation != Relation::NonNegative || common < 2 {
        return guard;
    }
    let terms = guard.expr.terms.iter().map(|(atom, c)| (atom.clone(), c.div(&Size::constant(common)).expect("a multiple of a constant"))).collect();
    Guard { expr: Affine { terms, constant }, relation: guard.relation }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a.unsigned_abs() as i64 } else { gcd(b, a % b) }
}

/// A product of two loads whose guards ask only that one of them is inside: that load with zeros around it, as a convolution forward reads.
fn padded(dims: &[Dim], f: &Function, nest: Nest, operands: &[Value]) -> Nest {
    let ranges: Vec<Size> = nest.outs.iter().chain(&nest.reds).cloned().collect();
    let bounds = Bounds::new(dims, &ranges);
    // The guards that an affine load without a value for outside needs.
    let needs = |e: &Expr| -> Option<Vec<Guard>> {
        let Expr::Load { operand, index, otherwise: None } = e else { return None };
        let mut all = vec![];
        for (i, size) in index.iter().zip(&f.ty(operands[*operand]).shape) {
            let Index::Affine(a) = i else { return None };
            all.push(Guard { expr: a.clone(), relation: Relation::NonNegative });
            all.push(Guard::lt(a, &Affine::constant(size.clone())));
        }
        all.retain(|g| !bounds.holds(g));
        Some(all)
    };
    let Expr::Op(ScalarOp::Mul, factors) = &nest.body else { return nest };
    if nest.guards.is_empty() || nest.reds.is_empty() || nest.fold != Fold::Sum {
        return nest;
    }
    for (side, other) in [(0, 1), (1, 0)] {
        let (Some(own), Some(others)) = (needs(&factors[side]), needs(&factors[other])) else { continue };
        if others.is_empty() && own.len() == nest.guards.len() && own.iter().all(|g| nest.guards.contains(g)) {
            let mut factors = factors.clone();
            if let Expr::Load { operand, otherwise, .. } = &mut factors[side] {
                let dtype: DType = f.ty(operands[*operand]).dtype;
                *otherwise = Some(Scalar::float(dtype, 0.0));
            }
            return Nest { guards: vec![], body: Expr::Op(ScalarOp::Mul, factors), ..nest };
        }
    }
    nest
}
