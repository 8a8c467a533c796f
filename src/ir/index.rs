//! Index expressions of nests: quasi-affine functions of the box's variables, guards over them, and gathered indices.

use crate::ir::scalar::Expr;
use crate::ir::size::Size;

/// A variable of a nest's box: output indices first (0, 1, ...), then reduction indices.
pub type Var = usize;

/// `constant + sum(coefficient * atom)`: terms sorted by atom, no zero coefficients, at most one term an atom.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Affine {
    /// Atoms with their coefficients.
    pub terms: Vec<(IndexAtom, Size)>,
    /// What remains.
    pub constant: Size,
}

/// What an affine expression is linear in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IndexAtom {
    /// A variable of the box.
    Var(Var),
    /// Floor division by a positive size.
    Div(Box<Affine>, Size),
    /// Remainder by a positive size, never negative.
    Mod(Box<Affine>, Size),
}

/// An index of a load or store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Index {
    /// Known from the point of the box alone.
    Affine(Affine),
    /// An i64 value computed at the point: embedding, gather.
    Gather(Box<Expr>),
}

/// A condition on a point of the box.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Guard {
    /// Compared with zero.
    pub expr: Affine,
    /// How.
    pub relation: Relation,
}

/// How a guard's expression compares with zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Relation {
    /// `expr >= 0`
    NonNegative,
    /// `expr == 0`
    Zero,
    /// `expr != 0`
    NonZero,
}

impl Affine {
    /// The variable `v`.
    pub fn var(v: Var) -> Affine {
        Affine { terms: vec![(IndexAtom::Var(v), Size::constant(1))], constant: Size::default() }
    }

    /// The constant `n`.
    pub fn constant(n: impl Into<Size>) -> Affine {
        Affine { terms: vec![], constant: n.into() }
    }

    /// The variable, where the expression is just one.
    pub fn as_var(&self) -> Option<Var> {
        match self.terms.as_slice() {
            [(IndexAtom::Var(v), c)] if c.as_const() == Some(1) && self.constant.as_const() == Some(0) => Some(*v),
            _ => None,
        }
    }

    /// The size, where no variable is involved.
    pub fn as_size(&self) -> Option<&Size> {
        self.terms.is_empty().then_some(&self.constant)
    }

    /// `self + other`. Panics on overflow of a coefficient: what a user controls goes through [`Affine::checked_add`].
    pub fn add(&self, other: &Affine) -> Affine {
        self.checked_add(other).expect("index coefficient overflow")
    }

    /// `self + other`, or nothing if a coefficient overflows.
    pub fn checked_add(&self, other: &Affine) -> Option<Affine> {
        let mut terms = self.terms.clone();
        for (atom, c) in &other.terms {
            match terms.binary_search_by(|(a, _)| a.cmp(atom)) {
                Ok(i) => terms[i].1 = terms[i].1.checked_add(c)?,
                Err(i) => terms.insert(i, (atom.clone(), c.clone())),
            }
        }
        terms.retain(|(_, c)| c.as_const() != Some(0));
        Some(Affine { terms, constant: self.constant.checked_add(&other.constant)? })
    }

    /// `self * by`. Panics on overflow of a coefficient: what a user controls goes through [`Affine::checked_scale`].
    pub fn scale(&self, by: &Size) -> Affine {
        self.checked_scale(by).expect("index coefficient overflow")
    }

    /// `self * by`, or nothing if a coefficient overflows.
    pub fn checked_scale(&self, by: &Size) -> Option<Affine> {
        if by.as_const() == Some(0) {
            return Some(Affine::default());
        }
        let terms = self.terms.iter().map(|(a, c)| Some((a.clone(), c.checked_mul(by)?))).collect::<Option<_>>()?;
        Some(Affine { terms, constant: self.constant.checked_mul(by)? })
    }

    /// `self - other`.
    pub fn sub(&self, other: &Affine) -> Affine {
        self.add(&other.scale(&Size::constant(-1)))
    }

    /// `floor(self / by)`; `by` is positive.
    pub fn div(&self, by: &Size) -> Affine {
        if by.as_const() == Some(1) {
            return self.clone();
        }
        if let Some(size) = self.as_size() {
            return Affine::constant(size.div(by).expect("index divided by zero"));
        }
        Affine { terms: vec![(IndexAtom::Div(Box::new(self.clone()), by.clone()), Size::constant(1))], constant: Size::default() }
    }

    /// `self mod by`; `by` is positive.
    pub fn modulo(&self, by: &Size) -> Affine {
        if by.as_const() == Some(1) {
            return Affine::default();
        }
        if let Some(size) = self.as_size() {
            return Affine::constant(size.modulo(by).expect("index divided by zero"));
        }
        Affine { terms: vec![(IndexAtom::Mod(Box::new(self.clone()), by.clone()), Size::constant(1))], constant: Size::default() }
    }

    /// Every variable replaced by `of(variable)`.
    pub fn substitute(&self, of: &dyn Fn(Var) -> Affine) -> Affine {
        let mut sum = Affine::constant(self.constant.clone());
        for (atom, c) in &self.terms {
            let value = match atom {
                IndexAtom::Var(v) => of(*v),
                IndexAtom::Div(a, by) => a.substitute(of).div(by),
                IndexAtom::Mod(a, by) => a.substitute(of).modulo(by),
            };
            sum = sum.add(&value.scale(c));
        }
        sum
    }

    /// Calls `see` with every variable, in order, repeats included.
    pub fn visit_vars(&self, see: &mut dyn FnMut(Var)) {
        for (atom, _) in &self.terms {
            match atom {
                IndexAtom::Var(v) => see(*v),
                IndexAtom::Div(a, _) | IndexAtom::Mod(a, _) => a.visit_vars(see),
            }
        }
    }
}

impl Index {
    /// The index with every part of a gathered expression replaced by `f` of it.
    pub fn map(&self, f: &mut dyn FnMut(Expr) -> Expr) -> Index {
        match self {
            Index::Affine(a) => Index::Affine(a.clone()),
            Index::Gather(e) => Index::Gather(Box::new(e.map(f))),
        }
    }
}

impl Guard {
    /// `a <= b`.
    pub fn le(a: &Affine, b: &Affine) -> Guard {
        Guard { expr: b.sub(a), relation: Relation::NonNegative }
    }

    /// `a < b`.
    pub fn lt(a: &Affine, b: &Affine) -> Guard {
        Guard { expr: b.sub(a).sub(&Affine::constant(1)), relation: Relation::NonNegative }
    }

    /// `a == b`.
    pub fn eq(a: &Affine, b: &Affine) -> Guard {
        Guard { expr: a.sub(b), relation: Relation::Zero }
    }

    /// The guard with every variable replaced.
    pub fn substitute(&self, of: &dyn Fn(Var) -> Affine) -> Guard {
        Guard { expr: self.expr.substitute(of), relation: self.relation }
    }
}
