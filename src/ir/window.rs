//! The windows of [`Fold::Winograd`]: which nests have one.

use crate::ir::index::{Affine, Index, IndexAtom, Var};
use crate::ir::nest::{Fold, Nest};
use crate::ir::scalar::{Expr, ScalarOp};

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

/// Whether the nest is what [`Fold::Winograd`] says.
pub fn is_winograd(nest: &Nest) -> bool {
    let known = |n: Option<i64>, least: i64| n.is_some_and(|n| n >= least);
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
    let knows = |index: &[Affine], v: Var| {
        let mut knows = false;
        index.iter().for_each(|a| a.visit_vars(&mut |known| knows |= known == v));
        knows
    };
    let rows = (0..outs).filter(|v| nest.outs[*v].as_const() != Some(1) && knows(&weights, *v) && !knows(&image, *v)).count();
    let (Some((y, _)), Some((x, _))) = (moves(&image, outs - 2, rank - 2), moves(&image, outs - 1, rank - 1)) else { return false };
    sized && apart && y < x && rows <= 1
}
