//! What can be proved about index expressions over a box whose sizes are formulas in the dims.
//!
//! In: the ranges of the box's variables and the dims' smallest sizes. Out: yes, or "not known". Every variable stands for a point that
//! exists, so ranges count as at least 1.

use crate::ir::size::Atom;
use crate::ir::{Affine, Dim, Guard, IndexAtom, Relation, Size};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A box and the dims' smallest values.
pub struct Bounds {
    ranges: Vec<Size>,
    least: BTreeMap<Arc<str>, i64>,
}

impl Bounds {
    /// The box with variable `v` in `0..ranges[v]`.
    pub fn new(dims: &[Dim], ranges: &[Size]) -> Bounds {
        let mut least: BTreeMap<Arc<str>, i64> = dims.iter().map(|d| (d.name.clone(), d.min.max(0))).collect();
        for name in ranges.iter().filter_map(Size::as_dim) {
            let slot = least.entry(name.clone()).or_insert(0);
            *slot = (*slot).max(1);
        }
        Bounds { ranges: ranges.to_vec(), least }
    }

    /// Whether `size` is at least 0 for all dims.
    pub fn size_nonnegative(&self, size: &Size) -> bool {
        if let Some(n) = size.as_const() {
            return n >= 0;
        }
        let shifted = size.substitute(&|name| self.least.get(name).filter(|n| **n > 0).map(|n| &Size::dim(name) + &Size::constant(*n)));
        shifted.terms().iter().all(|(atoms, n)| *n >= 0 && atoms.iter().all(|a| self.atom_nonnegative(a)))
    }

    fn atom_nonnegative(&self, atom: &Atom) -> bool {
        match atom {
            Atom::Dim(_) => true,
            Atom::Div(a, b) => self.size_nonnegative(a) && self.size_nonnegative(b),
            Atom::Mod(_, b) => self.size_nonnegative(b),
        }
    }

    /// Whether `size` is at least 1 for all dims.
    pub fn size_positive(&self, size: &Size) -> bool {
        self.size_nonnegative(&(size - &Size::constant(1)))
    }

    /// A size that the expression is never below.
    pub fn lower(&self, a: &Affine) -> Option<Size> {
        let mut sum = a.constant.clone();
        for (atom, c) in &a.terms {
            let (low, high) = self.atom(atom)?;
            let end = if self.size_nonnegative(c) {
                low
            } else if self.size_nonnegative(&c.neg()) {
                high
            } else {
                return None;
            };
            sum = sum.checked_add(&c.checked_mul(&end)?)?;
        }
        Some(sum)
    }

    /// A size that the expression is never above.
    pub fn upper(&self, a: &Affine) -> Option<Size> {
        self.lower(&a.scale(&Size::constant(-1))).map(|s| s.neg())
    }

    fn atom(&self, atom: &IndexAtom) -> Option<(Size, Size)> {
        let one = Size::constant(1);
        match atom {
            IndexAtom::Var(v) => Some((Size::default(), self.ranges.get(*v)? - &one)),
            IndexAtom::Div(a, by) => Some((self.lower(a)?.div(by)?, self.upper(a)?.div(by)?)),
            IndexAtom::Mod(_, by) => Some((Size::default(), by - &one)),
        }
    }

    /// Whether `a >= 0` at every point.
    pub fn nonnegative(&self, a: &Affine) -> bool {
        self.lower(a).is_some_and(|low| self.size_nonnegative(&low))
    }

    /// Whether `0 <= a < size` at every point.
    pub fn within(&self, a: &Affine, size: &Size) -> bool {
        self.nonnegative(a) && self.nonnegative(&Affine::constant(size - &Size::constant(1)).sub(a))
    }

    /// Whether the guard holds at every point.
    pub fn holds(&self, guard: &Guard) -> bool {
        match guard.relation {
            Relation::NonNegative => self.nonnegative(&guard.expr),
            Relation::Zero => guard.expr.as_size().is_some_and(|s| s.as_const() == Some(0)),
            Relation::NonZero => {
                let one = Affine::constant(1);
                self.nonnegative(&guard.expr.sub(&one)) || self.nonnegative(&guard.expr.scale(&Size::constant(-1)).sub(&one))
            }
        }
    }

    /// The same value with whole multiples taken out of divisions and remainders.
    pub fn simplify(&self, a: &Affine) -> Affine {
        let mut sum = Affine::constant(a.constant.clone());
        for (atom, c) in &a.terms {
            let value = match atom {
                IndexAtom::Var(v) => Affine::var(*v),
                IndexAtom::Div(inner, by) => {
                    let (whole, rest) = split(&self.simplify(inner), by);
                    if self.within(&rest, by) { whole } else { whole.add(&rest.div(by)) }
                }
                IndexAtom::Mod(inner, by) => {
                    let (_, rest) = split(&self.simplify(inner), by);
                    if self.within(&rest, by) { rest } else { rest.modulo(by) }
                }
            };
            sum = sum.add(&value.scale(c));
        }
        sum
    }
}

/// `a = by * whole + rest`, with every term that is a multiple of `by` in `whole`.
fn split(a: &Affine, by: &Size) -> (Affine, Affine) {
    let (mut whole, mut rest) = (Affine::default(), Affine::default());
    let exact = |c: &Size| c.modulo(by).filter(|m| m.as_const() == Some(0)).and_then(|_| c.div(by));
    for (atom, c) in &a.terms {
        let one = Affine { terms: vec![(atom.clone(), Size::constant(1))], constant: Size::default() };
        match exact(c) {
            Some(q) => whole = whole.add(&one.scale(&q)),
            None => rest = rest.add(&one.scale(c)),
        }
    }
    match (exact(&a.constant), a.constant.as_const(), by.as_const()) {
        (Some(q), _, _) => whole.constant = q,
        (None, Some(n), Some(m)) => {
            whole.constant = Size::constant(n.div_euclid(m));
            rest.constant = Size::constant(n.rem_euclid(m));
        }
        (None, _, _) => rest.constant = a.constant.clone(),
    }
    (whole, rest)
}
