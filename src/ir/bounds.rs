//! What can be proved about index expressions from the ranges of their variables and the bounds of dims.
//!
//! In: affine expressions over a box. Out: proofs (never a wrong one; "not proved" is always a possible answer) and simpler equal expressions.
//! A variable's range is taken to have a point: over an empty box everything holds.

use crate::ir::*;
use nnc_runtime::size::Atom;

/// A box of variables in a module.
#[derive(Clone, Copy)]
pub struct Ranges<'a> {
    /// Bounds of the free dims.
    pub dims: &'a [Dim],
    /// The size of each variable's range.
    pub sizes: &'a [Size],
}

/// Whether `size` is surely at least 0.
pub fn nonnegative(dims: &[Dim], size: &Size) -> bool {
    if let Some(n) = size.as_const() {
        return n >= 0;
    }
    // Every dim as its bound plus or minus something that is not negative.
    let bounded = |name: &str| -> Option<Size> {
        let dim = dims.iter().find(|d| &*d.name == name)?;
        let falls = size.terms().iter().filter(|(atoms, _)| mentions(atoms, name)).all(|(_, n)| *n < 0);
        match dim.max {
            Some(max) if falls => Some(&Size::constant(max) - &Size::dim(name)),
            _ => Some(&Size::dim(name) + &Size::constant(dim.min)),
        }
    };
    let at_least_zero = |atom: &Atom| match atom {
        Atom::Dim(name) => dims.iter().any(|d| d.name == *name),
        Atom::Div(a, by) => nonnegative(dims, a) && nonnegative(dims, by),
        Atom::Mod(_, by) => nonnegative(dims, by),
    };
    let opaque = size.terms().iter().flat_map(|(atoms, _)| atoms).any(|a| !matches!(a, Atom::Dim(_)));
    let shifted = if opaque { size.clone() } else { size.substitute(&bounded) };
    shifted.terms().iter().all(|(atoms, n)| *n >= 0 && atoms.iter().all(at_least_zero))
}

fn mentions(atoms: &[Atom], name: &str) -> bool {
    atoms.iter().any(|a| matches!(a, Atom::Dim(d) if &**d == name))
}

impl Ranges<'_> {
    fn nonnegative(&self, size: &Size) -> bool {
        nonnegative(self.dims, size)
    }

    /// The least and the largest value over the box, where the coefficients' signs are known.
    pub fn extremes(&self, a: &Affine) -> Option<(Size, Size)> {
        let (mut least, mut most) = (a.constant.clone(), a.constant.clone());
        for (atom, c) in &a.terms {
            let (low, high) = match atom {
                IndexAtom::Var(v) => (Size::default(), self.sizes.get(*v)? - &Size::constant(1)),
                IndexAtom::Div(a, by) => {
                    let (low, high) = self.extremes(a)?;
                    (low.div(by)?, high.div(by)?)
                }
                IndexAtom::Mod(_, by) => (Size::default(), by - &Size::constant(1)),
            };
            let (low, high) = match (self.nonnegative(c), self.nonnegative(&c.neg())) {
                (true, _) => (low, high),
                (false, true) => (high, low),
                (false, false) => return None,
            };
            least = least.checked_add(&low.checked_mul(c)?)?;
            most = most.checked_add(&high.checked_mul(c)?)?;
        }
        Some((least, most))
    }

    /// Whether `0 <= a < size` surely holds.
    pub fn inside(&self, a: &Affine, size: &Size) -> bool {
        if a.as_var().is_some_and(|v| self.sizes.get(v) == Some(size)) {
            return true;
        }
        let below = |most: &Size| self.nonnegative(&(&(size - most) - &Size::constant(1)));
        self.extremes(a).is_some_and(|(least, most)| self.nonnegative(&least) && below(&most))
    }

    /// Whether the guard surely holds (`Some(true)`), surely fails (`Some(false)`), or neither is proved.
    pub fn decide(&self, guard: &Guard) -> Option<bool> {
        let (least, most) = self.extremes(&guard.expr)?;
        let one = Size::constant(1);
        let positive = self.nonnegative(&(&least - &one));
        let negative = self.nonnegative(&(&most.neg() - &one));
        let zero = least.as_const() == Some(0) && most.as_const() == Some(0);
        match guard.relation {
            Relation::NonNegative if self.nonnegative(&least) => Some(true),
            Relation::NonNegative if negative => Some(false),
            Relation::NonNegative => None,
            Relation::Zero if zero => Some(true),
            Relation::Zero if positive || negative => Some(false),
            Relation::Zero => None,
            Relation::NonZero if positive || negative => Some(true),
            Relation::NonZero if zero => Some(false),
            Relation::NonZero => None,
        }
    }

    /// An equal expression with fewer divisions: `div(h*E + e, E)` is `h` where `0 <= e < E`.
    pub fn simplify(&self, a: &Affine) -> Affine {
        let mut sum = Affine::constant(a.constant.clone());
        for (atom, c) in &a.terms {
            let value = match atom {
                IndexAtom::Var(v) if self.sizes.get(*v).and_then(Size::as_const) == Some(1) => Affine::default(),
                IndexAtom::Var(v) => Affine::var(*v),
                IndexAtom::Div(a, by) => {
                    let (quotient, rest) = split(&self.simplify(a), by);
                    if self.inside(&rest, by) { quotient } else { quotient.add(&rest.div(by)) }
                }
                IndexAtom::Mod(a, by) => {
                    let (_, rest) = split(&self.simplify(a), by);
                    if self.inside(&rest, by) { rest } else { rest.modulo(by) }
                }
            };
            sum = sum.add(&value.scale(c));
        }
        sum
    }
}

/// `a = quotient * by + rest`, with in the rest only what `by` does not divide.
fn split(a: &Affine, by: &Size) -> (Affine, Affine) {
    let (mut quotient, mut rest) = (Affine::default(), Affine::default());
    let exact = |c: &Size| c.div(by).filter(|q| q * by == *c);
    for (atom, c) in &a.terms {
        let (side, c) = match exact(c) {
            Some(q) => (&mut quotient, q),
            None => (&mut rest, c.clone()),
        };
        side.terms.push((atom.clone(), c));
    }
    match exact(&a.constant) {
        Some(q) => quotient.constant = q,
        None => rest.constant = a.constant.clone(),
    }
    (quotient, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proofs_and_simplifications() {
        let dim = |name: &str, min, max| Dim { name: name.into(), min, max };
        let dims = [dim("T", 1, Some(64)), dim("E", 1, None)];
        let (t, e) = (Size::dim("T"), Size::dim("E"));
        let c = Size::constant;
        assert!(nonnegative(&dims, &(&c(64) - &t)) && !nonnegative(&dims, &(&c(63) - &t)));
        assert!(nonnegative(&dims, &(&(&t * &e) - &c(1))));
        let sizes = [t.clone(), e.clone()];
        let ranges = Ranges { dims: &dims, sizes: &sizes };
        let merged = Affine::var(0).scale(&e).add(&Affine::var(1));
        assert_eq!(ranges.simplify(&merged.div(&e)), Affine::var(0));
        assert_eq!(ranges.simplify(&merged.modulo(&e)), Affine::var(1));
        assert!(ranges.inside(&merged, &(&t * &e)) && !ranges.inside(&merged.add(&Affine::constant(1)), &(&t * &e)));
        assert_eq!(ranges.decide(&Guard::lt(&Affine::var(0), &Affine::constant(64))), Some(true));
        assert_eq!(ranges.decide(&Guard::lt(&Affine::var(0), &Affine::constant(63))), None);
        assert_eq!(ranges.decide(&Guard::lt(&Affine::var(0), &Affine::constant(0))), Some(false));
    }
}
