//! Symbolic sizes: integer polynomials over named dims, with floor division and remainder as opaque atoms.
//!
//! In: dims (`B`, `T`) and constants. Out: formulas in a normal form, so that equal sizes are equal values (`(B+1)*2 == 2*B + 2`), and a
//! number once every dim has one. Division is simplified where it is exact. Arithmetic on values is checked: [`Size::eval`] reports
//! overflow and division by zero instead of wrapping.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// What a monomial multiplies: a dim, or a division or remainder that did not simplify.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Atom {
    /// A named dim; its value is known when the program runs.
    Dim(Arc<str>),
    /// `div(a, b)`, rounding towards minus infinity.
    Div(Box<Size>, Box<Size>),
    /// `mod(a, b)`, with the sign of `b`.
    Mod(Box<Size>, Box<Size>),
}

/// A sum of monomials `coefficient * atom * atom ...`, sorted, without zero coefficients. The empty sum is 0.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Size {
    terms: Vec<(Vec<Atom>, i64)>,
}

/// Why a size has no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SizeError {
    /// A dim that has no value yet.
    Unknown(Arc<str>),
    /// The value does not fit in 63 bits.
    Overflow,
    /// `div` or `mod` by zero.
    DivisionByZero,
}

impl fmt::Display for SizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SizeError::Unknown(name) => write!(f, "dim {name} has no value, since no input decides it: give one with --dim {name}=SIZE"),
            SizeError::Overflow => write!(f, "a size does not fit in 63 bits"),
            SizeError::DivisionByZero => write!(f, "a size divides by zero"),
        }
    }
}

impl std::error::Error for SizeError {}

/// The values of dims, by name.
pub type Dims = BTreeMap<Arc<str>, i64>;

impl Size {
    /// The constant `n`.
    pub fn constant(n: i64) -> Size {
        Size { terms: if n == 0 { vec![] } else { vec![(vec![], n)] } }
    }

    /// The dim called `name`.
    pub fn dim(name: &str) -> Size {
        Size::atom(Atom::Dim(name.into()))
    }

    fn atom(atom: Atom) -> Size {
        Size { terms: vec![(vec![atom], 1)] }
    }

    /// The value, where no dim is involved.
    pub fn as_const(&self) -> Option<i64> {
        match self.terms.as_slice() {
            [] => Some(0),
            [(atoms, n)] if atoms.is_empty() => Some(*n),
            _ => None,
        }
    }

    /// The dim's name, where the size is just one dim.
    pub fn as_dim(&self) -> Option<&Arc<str>> {
        match self.terms.as_slice() {
            [(atoms, 1)] => match atoms.as_slice() {
                [Atom::Dim(name)] => Some(name),
                _ => None,
            },
            _ => None,
        }
    }

    /// The monomials: atoms and coefficient.
    pub fn terms(&self) -> &[(Vec<Atom>, i64)] {
        &self.terms
    }

    fn from_map(map: BTreeMap<Vec<Atom>, i64>) -> Size {
        Size { terms: map.into_iter().filter(|(_, n)| *n != 0).collect() }
    }

    /// `self + other`, or nothing if a coefficient overflows.
    pub fn checked_add(&self, other: &Size) -> Option<Size> {
        let mut map: BTreeMap<_, i64> = self.terms.iter().cloned().collect();
        for (atoms, n) in &other.terms {
            let slot = map.entry(atoms.clone()).or_insert(0);
            *slot = slot.checked_add(*n)?;
        }
        Some(Size::from_map(map))
    }

    /// `self * other`, or nothing if a coefficient overflows.
    pub fn checked_mul(&self, other: &Size) -> Option<Size> {
        let mut map = BTreeMap::new();
        for (a, n) in &self.terms {
            for (b, m) in &other.terms {
                let mut atoms = [a.as_slice(), b.as_slice()].concat();
                atoms.sort();
                let slot: &mut i64 = map.entry(atoms).or_insert(0);
                *slot = slot.checked_add(n.checked_mul(*m)?)?;
            }
        }
        Some(Size::from_map(map))
    }

    /// `-self`.
    pub fn neg(&self) -> Size {
        Size { terms: self.terms.iter().map(|(a, n)| (a.clone(), n.saturating_neg())).collect() }
    }

    /// `floor(self / divisor)`; `None` if `divisor` is the constant 0.
    pub fn div(&self, divisor: &Size) -> Option<Size> {
        if divisor.as_const() == Some(0) {
            return None;
        }
        if let Some(exact) = self.exact_div(divisor) {
            return Some(exact);
        }
        if let (Some(a), Some(b)) = (self.as_const(), divisor.as_const()) {
            return Some(Size::constant(floor_div(a, b)));
        }
        Some(Size::atom(Atom::Div(Box::new(self.clone()), Box::new(divisor.clone()))))
    }

    /// `self - divisor * floor(self / divisor)`; `None` if `divisor` is the constant 0.
    pub fn modulo(&self, divisor: &Size) -> Option<Size> {
        if divisor.as_const() == Some(0) {
            return None;
        }
        if self.exact_div(divisor).is_some() {
            return Some(Size::constant(0));
        }
        if let (Some(a), Some(b)) = (self.as_const(), divisor.as_const()) {
            return Some(Size::constant(a - b * floor_div(a, b)));
        }
        Some(Size::atom(Atom::Mod(Box::new(self.clone()), Box::new(divisor.clone()))))
    }

    /// `self / divisor` where the polynomial division leaves nothing over (divisor a single monomial).
    fn exact_div(&self, divisor: &Size) -> Option<Size> {
        if self == divisor {
            return Some(Size::constant(1));
        }
        let [(atoms, n)] = divisor.terms.as_slice() else { return None };
        let mut terms = Vec::new();
        for (a, m) in &self.terms {
            if m % n != 0 {
                return None;
            }
            let mut rest = a.clone();
            for atom in atoms {
                let at = rest.iter().position(|x| x == atom)?;
                rest.remove(at);
            }
            terms.push((rest, m / n));
        }
        terms.sort();
        Some(Size { terms })
    }

    /// The value, given the dims'.
    ///
    /// # Errors
    /// A dim without a value, a value over 63 bits, a division by zero.
    pub fn eval(&self, dims: &Dims) -> Result<i64, SizeError> {
        let mut sum = 0i64;
        for (atoms, n) in &self.terms {
            let mut product = *n;
            for atom in atoms {
                product = product.checked_mul(atom.eval(dims)?).ok_or(SizeError::Overflow)?;
            }
            sum = sum.checked_add(product).ok_or(SizeError::Overflow)?;
        }
        Ok(sum)
    }

    /// The size with every dim that `of` knows replaced.
    pub fn substitute(&self, of: &dyn Fn(&str) -> Option<Size>) -> Size {
        let mut sum = Size::default();
        for (atoms, n) in &self.terms {
            let mut product = Size::constant(*n);
            for atom in atoms {
                let value = match atom {
                    Atom::Dim(name) => of(name).unwrap_or_else(|| Size::dim(name)),
                    Atom::Div(a, b) => {
                        let (a, b) = (a.substitute(of), b.substitute(of));
                        a.div(&b).unwrap_or_else(|| Size::atom(Atom::Div(Box::new(a), Box::new(b))))
                    }
                    Atom::Mod(a, b) => {
                        let (a, b) = (a.substitute(of), b.substitute(of));
                        a.modulo(&b).unwrap_or_else(|| Size::atom(Atom::Mod(Box::new(a), Box::new(b))))
                    }
                };
                product = &product * &value;
            }
            sum = &sum + &product;
        }
        sum
    }

    /// Calls `see` with every dim in the size, left to right.
    pub fn visit_dims(&self, see: &mut dyn FnMut(&Arc<str>)) {
        for atom in self.terms.iter().flat_map(|(atoms, _)| atoms) {
            match atom {
                Atom::Dim(name) => see(name),
                Atom::Div(a, b) | Atom::Mod(a, b) => {
                    a.visit_dims(see);
                    b.visit_dims(see);
                }
            }
        }
    }
}

/// `floor(a / b)`; `b` is not 0.
pub fn floor_div(a: i64, b: i64) -> i64 {
    let q = a.wrapping_div(b);
    if a.wrapping_rem(b) != 0 && (a < 0) != (b < 0) { q - 1 } else { q }
}

impl Atom {
    fn eval(&self, dims: &Dims) -> Result<i64, SizeError> {
        let pair = |a: &Size, b: &Size| -> Result<(i64, i64), SizeError> {
            let (a, b) = (a.eval(dims)?, b.eval(dims)?);
            if b == 0 { Err(SizeError::DivisionByZero) } else { Ok((a, b)) }
        };
        match self {
            Atom::Dim(name) => dims.get(name).copied().ok_or_else(|| SizeError::Unknown(name.clone())),
            Atom::Div(a, b) => pair(a, b).map(|(a, b)| floor_div(a, b)),
            Atom::Mod(a, b) => pair(a, b).map(|(a, b)| a - b * floor_div(a, b)),
        }
    }
}

impl From<i64> for Size {
    fn from(n: i64) -> Size {
        Size::constant(n)
    }
}

/// Panics on overflow of a coefficient: sizes that a user controls go through [`Size::checked_add`].
impl std::ops::Add for &Size {
    type Output = Size;
    fn add(self, other: &Size) -> Size {
        self.checked_add(other).expect("size coefficient overflow")
    }
}

impl std::ops::Sub for &Size {
    type Output = Size;
    #[expect(clippy::suspicious_arithmetic_impl, reason = "a difference is a sum with the negative")]
    fn sub(self, other: &Size) -> Size {
        self + &other.neg()
    }
}

/// Panics on overflow of a coefficient: sizes that a user controls go through [`Size::checked_mul`].
impl std::ops::Mul for &Size {
    type Output = Size;
    fn mul(self, other: &Size) -> Size {
        self.checked_mul(other).expect("size coefficient overflow")
    }
}

impl fmt::Display for Atom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Atom::Dim(name) => write!(f, "{name}"),
            Atom::Div(a, b) => write!(f, "div({a}, {b})"),
            Atom::Mod(a, b) => write!(f, "mod({a}, {b})"),
        }
    }
}

/// `2*B*T + B - 3`: terms with the most atoms first, constant last.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.terms.is_empty() {
            return write!(f, "0");
        }
        let mut terms: Vec<_> = self.terms.iter().collect();
        terms.sort_by_key(|(atoms, _)| std::cmp::Reverse(atoms.len()));
        for (i, (atoms, n)) in terms.into_iter().enumerate() {
            match (i, *n < 0) {
                (0, true) => write!(f, "-")?,
                (0, false) => {}
                (_, true) => write!(f, " - ")?,
                (_, false) => write!(f, " + ")?,
            }
            let size = n.unsigned_abs();
            if atoms.is_empty() || size != 1 {
                write!(f, "{size}")?;
            }
            for (j, atom) in atoms.iter().enumerate() {
                if j > 0 || size != 1 {
                    write!(f, "*")?;
                }
                write!(f, "{atom}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sizes_have_one_form() {
        let (b, t) = (Size::dim("B"), Size::dim("T"));
        let two = Size::constant(2);
        assert_eq!(&two * &(&b + &Size::constant(1)), &(&b + &b) + &two);
        assert_eq!((&(&b * &t) - &(&t * &b)).as_const(), Some(0));
        assert_eq!((&(&b * &t) * &two).div(&t).unwrap(), &two * &b);
        assert_eq!((&(&two * &b) + &Size::constant(1)).div(&two).unwrap().to_string(), "div(2*B + 1, 2)");
    }

    #[test]
    fn values_are_checked() {
        let dims: Dims = [("B".into(), i64::MAX)].into();
        assert_eq!((&Size::dim("B") * &Size::constant(2)).eval(&dims), Err(SizeError::Overflow));
        assert_eq!(Size::dim("T").eval(&dims), Err(SizeError::Unknown("T".into())));
        assert_eq!(Size::constant(-7).div(&Size::constant(2)).unwrap().as_const(), Some(-4));
        assert_eq!(Size::constant(4).div(&Size::constant(0)), None);
    }
}
