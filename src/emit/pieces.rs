//! Pieces of the last outer variable's range between which conditions change: what is put together of several arrays reads one of them in each.
//!
//! In: a kernel. Out: ranges in which its conditions on that variable alone are known. Lanes run along each piece by itself, so no lane is masked and
//! nothing is asked for every group; more than a few pieces are not worth their code.

use crate::ir::{Affine, Guard, IndexAtom, Relation};
use crate::kernel::{Instr, Kernel};
use std::ops::Range;

/// Most pieces.
const MOST: usize = 4;
/// Most instructions of a kernel that is written once for each piece.
const SHORT: usize = 60;

/// The pieces, in order; one without a range where it is not known or not worth it.
pub fn pieces(kernel: &Kernel) -> Vec<Option<Range<i64>>> {
    let whole = vec![None];
    let Some((var, end)) = kernel.outer.len().checked_sub(1).and_then(|var| Some((var, kernel.outer[var].as_const()?))) else { return whole };
    let (mut borders, mut length) = (vec![], 0);
    kernel.stages.iter().for_each(|stage| see(&stage.body, &mut length, &mut |guard| borders.extend(border(guard, var))));
    borders.retain(|at| (1..end).contains(at));
    borders.sort_unstable();
    borders.dedup();
    if borders.is_empty() || borders.len() >= MOST || length > SHORT {
        return whole;
    }
    let starts = std::iter::once(0).chain(borders.iter().copied());
    starts.zip(borders.iter().copied().chain([end])).map(|(start, end)| Some(start..end)).collect()
}

fn see(body: &[Instr], length: &mut usize, guard: &mut dyn FnMut(&Guard)) {
    *length += body.len();
    for instr in body {
        match instr {
            Instr::Holds(guards) => guards.iter().for_each(&mut *guard),
            Instr::Select { then, otherwise, .. } => [then, otherwise].iter().for_each(|side| see(&side.0, length, guard)),
            Instr::Const(_) | Instr::Load { .. } | Instr::Local(_) | Instr::Index(_) | Instr::Op(..) | Instr::Cast(..) => {}
        }
    }
}

/// `sign * var + constant`, where it is no more than that.
fn linear(a: &Affine, var: usize) -> Option<(i64, i64)> {
    let [(IndexAtom::Var(v), sign)] = &a.terms[..] else { return None };
    let sign = sign.as_const().filter(|sign| *v == var && sign.abs() == 1)?;
    Some((sign, a.constant.as_const()?))
}

/// Where a condition on the variable alone changes: at this value, not at the one before.
fn border(guard: &Guard, var: usize) -> Option<i64> {
    let (sign, constant) = linear(&guard.expr, var).filter(|_| guard.relation == Relation::NonNegative)?;
    if sign == 1 { constant.checked_neg() } else { constant.checked_add(1) }
}

/// Whether the condition holds for all of a range that has values, or for none.
pub fn known(guard: &Guard, var: usize, range: &Range<i64>) -> Option<bool> {
    let at = border(guard, var)?;
    let rises = linear(&guard.expr, var)?.0 == 1;
    if range.start >= at {
        Some(rises)
    } else if range.end <= at {
        Some(!rises)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::parse::kernel;

    #[test]
    fn what_is_put_together_has_a_piece_for_each() {
        let text = "kernel together(n0) {
  p0: f32[n0, 24]
  p1: f32[n0, 24]
  p2: out f32[n0, 48]
  outer [i0 < n0, i1 < 48]
  stage map {
    %0 = holds i1 <= 23
    %1 = select %0 {
      %1 = load p0[i0, i1]
      yield %1
    } else {
      %1 = load p1[i0, i1 - 24]
      yield %1
    }
    fold %1
    p2[i0, i1] = result 0
  }
}";
        let of = |text: &str| pieces(&kernel(text).unwrap());
        assert_eq!(of(text), [Some(0..24), Some(24..48)]);
        // A condition on other variables too is known nowhere.
        assert_eq!(of(&text.replace("holds i1 <= 23", "holds i1 - i0 <= 23")), [None]);
        assert_eq!(of(&text.replace("holds i1 <= 23", "holds i1 <= 47")), [None]);
    }
}
