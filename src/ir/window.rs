//! The windows of [`Fold::Winograd`], [`Fold::WinogradWeights`] and [`Fold::DotLines`]: which nests have one.

use crate::ir::index::{Affine, Index, IndexAtom, Var};
use crate::ir::nest::{Fold, Nest};
use crate::ir::scalar::{Expr, ScalarOp};
use std::ops::RangeInclusive;

/// The only axis whose index knows the output or the window's variable, where it is their sum and a number: that axis and the number.
pub fn moves(index: &[Affine], out: Var, tap: Var) -> Option<(usize, i64)> {
    let knows = |a: &Affine| {
        let mut knows = false;
        a.visit_vars(&mut |v| knows |= v == out || v == tap);
        knows
    };
    let mut axes = index.iter().enumerate().filter(|(_, a)| knows(a));
    let ((axis, a), None) = (axes.next()?, axes.next()) else { return None };
    let once = |v: Var| a.terms.iter().any(|(atom, c)| *atom == IndexAtom::Var(v) && c.as_const() == Some(1));
    (a.terms.len() == 2 && once(out) && once(tap)).then_some((axis, a.constant.as_const()?))
}

/// The indices of a load without gathers.
pub fn affine(index: &[Index]) -> Option<Vec<Affine>> {
    index.iter().map(|i| if let Index::Affine(a) = i { Some(a.clone()) } else { None }).collect()
}

/// Whether an index knows the variable.
fn knows(index: &[Affine], v: Var) -> bool {
    let mut knows = false;
    index.iter().for_each(|a| a.visit_vars(&mut |known| knows |= known == v));
    knows
}

/// Whether the image moves with the window along an axis, and along the last one.
fn is_window(image: &[Affine], outs: usize, rank: usize) -> bool {
    let (Some((y, _)), Some((x, _))) = (moves(image, outs - 2, rank - 2), moves(image, outs - 1, rank - 1)) else { return false };
    y < x && x + 1 == image.len()
}

/// Whether the nest is what [`Fold::Winograd`] says.
pub fn is_winograd(nest: &Nest) -> bool {
    // Sizes that are known at run time only may be any.
    let known = |n: Option<i64>, least: i64| n.is_none_or(|n| n >= least);
    let (outs, rank) = (nest.outs.len(), nest.rank());
    let Expr::Op(ScalarOp::Mul, factors) = &nest.body else { return false };
    let [Expr::Load { index: weights, otherwise: None, .. }, Expr::Load { index: image, otherwise: Some(zero), .. }] = &factors[..] else {
        return false;
    };
    let (Some(weights), Some(image)) = (affine(weights), affine(image)) else { return false };
    let [steps, r, s] = &nest.reds[..] else { return false };
    let taps = r == s && matches!(r.as_const(), Some(3 | 4)) && known(steps.as_const(), 1);
    if nest.fold != Fold::Winograd || !nest.guards.is_empty() || outs < 2 || !taps || zero.bits() != 0 {
        return false;
    }
    let sized = nest.outs[outs - 2..].iter().all(|size| known(size.as_const(), 2));
    let mut apart = true;
    weights.iter().for_each(|a| a.visit_vars(&mut |v| apart &= v < outs - 2 || v >= outs));
    // Rows of the product are one axis, so that they lie evenly.
    let rows = (0..outs).filter(|v| nest.outs[*v].as_const() != Some(1) && knows(&weights, *v) && !knows(&image, *v)).count();
    sized && apart && rows <= 1 && is_window(&image, outs, rank)
}

/// Whether the nest is what [`Fold::WinogradWeights`] says.
pub fn is_winograd_weights(nest: &Nest) -> bool {
    nest.fold == Fold::WinogradWeights && is_gradient(nest, 3..=3, 2)
}

/// Whether the nest is what [`Fold::DotLines`] says.
pub fn is_dot_lines(nest: &Nest) -> bool {
    nest.fold == Fold::DotLines && is_gradient(nest, 2..=16, 0)
}

/// Whether the nest is the gradient of a window's weights, for a window of so many points along each axis and so many results at least.
fn is_gradient(nest: &Nest, taps: RangeInclusive<i64>, least: i64) -> bool {
    let (outs, rank) = (nest.outs.len(), nest.rank());
    let Expr::Op(ScalarOp::Mul, factors) = &nest.body else { return false };
    let [Expr::Load { index: gradient, otherwise: None, .. }, Expr::Load { index: image, otherwise: Some(zero), .. }] = &factors[..] else {
        return false;
    };
    let (Some(gradient), Some(image), [_, y, x]) = (affine(gradient), affine(image), &nest.reds[..]) else { return false };
    if !nest.guards.is_empty() || outs < 2 || zero.bits() != 0 {
        return false;
    }
    let window = nest.outs[outs - 2..].iter().all(|size| size.as_const().is_some_and(|n| taps.contains(&n)));
    let sized = window && [y, x].iter().all(|n| n.as_const().is_none_or(|n| n >= least));
    let apart = !knows(&gradient, outs - 2) && !knows(&gradient, outs - 1);
    // Lines of the gradient are contiguous, and rows and columns of the product one axis each.
    let lines = gradient.iter().all(|a| a.as_var().is_some()) && gradient.last().and_then(Affine::as_var) == Some(rank - 1);
    let only = |a: &[Affine], b: &[Affine]| (0..outs - 2).filter(|v| nest.outs[*v].as_const() != Some(1) && knows(a, *v) && !knows(b, *v)).count();
    sized && apart && lines && only(&gradient, &image) <= 1 && only(&image, &gradient) <= 1 && is_window(&image, outs, rank)
}
