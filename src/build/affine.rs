//! Which index arithmetic is quasi-affine: elements become affine expressions and guards where they are, and stay elements where not.

use crate::check::typed::{Element, IndexVar};
use crate::ir::size::Atom;
use crate::ir::{Affine, DType, Dim, Guard, Relation, ScalarOp, Size};

/// The place of an index variable in the nest's box.
pub(super) type Place<'a> = &'a dyn Fn(IndexVar) -> usize;

/// The affine expression that an i64 element is, if it is one.
pub(super) fn affine(e: &Element, place: Place, dims: &[Dim]) -> Option<Affine> {
    match e {
        Element::Const(c) if c.dtype() == DType::I64 => Some(Affine::constant(c.to_i64())),
        Element::Size(s) => Some(Affine::constant(s.clone())),
        Element::Index(v) => Some(Affine::var(place(*v))),
        Element::Cast(DType::I64, a) => affine(a, place, dims),
        Element::Op(ScalarOp::Neg, args) => scale(&affine(&args[0], place, dims)?, &Size::constant(-1)),
        Element::Op(ScalarOp::Add, args) => add(&affine(&args[0], place, dims)?, &affine(&args[1], place, dims)?),
        Element::Op(ScalarOp::Sub, args) => {
            let b = scale(&affine(&args[1], place, dims)?, &Size::constant(-1))?;
            add(&affine(&args[0], place, dims)?, &b)
        }
        Element::Op(ScalarOp::Mul, args) => {
            let (a, b) = (affine(&args[0], place, dims)?, affine(&args[1], place, dims)?);
            match (a.as_size(), b.as_size()) {
                (_, Some(by)) => scale(&a, by),
                (Some(by), None) => scale(&b, by),
                (None, None) => None,
            }
        }
        Element::Op(op @ (ScalarOp::FloorDiv | ScalarOp::Mod), args) => {
            let (a, b) = (affine(&args[0], place, dims)?, affine(&args[1], place, dims)?);
            let by = b.as_size().filter(|by| lower_bound(by, dims).is_some_and(|n| n > 0))?;
            Some(if *op == ScalarOp::FloorDiv { a.div(by) } else { a.modulo(by) })
        }
        Element::Const(_) | Element::Cast(..) | Element::Op(..) | Element::Load { .. } | Element::Fold { .. } | Element::Random { .. } => None,
    }
}

/// The guards that a bool element is the conjunction of, if it is one of affine comparisons.
pub(super) fn guards(e: &Element, place: Place, dims: &[Dim]) -> Option<Vec<Guard>> {
    let Element::Op(op, args) = e else {
        return matches!(e, Element::Const(c) if c.dtype() == DType::Bool && c.to_bool()).then(Vec::new);
    };
    let compare = |op: ScalarOp, a: &Element, b: &Element| {
        let (a, b) = (affine(a, place, dims)?, affine(b, place, dims)?);
        let minus = |x: &Affine| scale(x, &Size::constant(-1));
        Some(vec![match op {
            ScalarOp::Le => Guard { expr: add(&b, &minus(&a)?)?, relation: Relation::NonNegative },
            ScalarOp::Lt => Guard { expr: add(&add(&b, &minus(&a)?)?, &Affine::constant(-1))?, relation: Relation::NonNegative },
            ScalarOp::Eq => Guard { expr: add(&a, &minus(&b)?)?, relation: Relation::Zero },
            ScalarOp::Ne => Guard { expr: add(&a, &minus(&b)?)?, relation: Relation::NonZero },
            _ => return None,
        }])
    };
    match (op, args.as_slice()) {
        (ScalarOp::And, [a, b]) => Some([guards(a, place, dims)?, guards(b, place, dims)?].concat()),
        (ScalarOp::Not, [Element::Op(ScalarOp::Not, inner)]) => guards(&inner[0], place, dims),
        (ScalarOp::Not, [Element::Op(ScalarOp::Le, ab)]) => compare(ScalarOp::Lt, &ab[1], &ab[0]),
        (ScalarOp::Not, [Element::Op(ScalarOp::Lt, ab)]) => compare(ScalarOp::Le, &ab[1], &ab[0]),
        (ScalarOp::Not, [Element::Op(ScalarOp::Eq, ab)]) => compare(ScalarOp::Ne, &ab[0], &ab[1]),
        (ScalarOp::Not, [Element::Op(ScalarOp::Ne, ab)]) => compare(ScalarOp::Eq, &ab[0], &ab[1]),
        (op, [a, b]) => compare(*op, a, b),
        _ => None,
    }
}

/// The conditions whose conjunction `e` is.
pub(super) fn conjuncts(e: &Element) -> Vec<&Element> {
    match e {
        Element::Op(ScalarOp::And, args) => args.iter().flat_map(conjuncts).collect(),
        Element::Const(_)
        | Element::Size(_)
        | Element::Index(_)
        | Element::Load { .. }
        | Element::Fold { .. }
        | Element::Op(..)
        | Element::Cast(..)
        | Element::Random { .. } => vec![e],
    }
}

/// The linear position of a point in the box `sizes`, whose variables are the first ones.
pub(super) fn position(sizes: &[Size]) -> Affine {
    sizes.iter().enumerate().fold(Affine::default(), |sum, (v, size)| sum.scale(size).add(&Affine::var(v)))
}

/// A number that the size never falls below, as far as is plain to see.
fn lower_bound(size: &Size, dims: &[Dim]) -> Option<i64> {
    let mut sum = 0i64;
    for (atoms, n) in size.terms() {
        if !atoms.is_empty() && *n < 0 {
            return None;
        }
        let mut product = *n;
        for atom in atoms {
            let least = match atom {
                Atom::Dim(name) => dims.iter().find(|d| d.name == *name).map_or(0, |d| d.min),
                Atom::Div(a, b) => {
                    let (a, _) = (lower_bound(a, dims).filter(|a| *a >= 0)?, lower_bound(b, dims).filter(|b| *b > 0)?);
                    b.as_const().map_or(0, |b| a / b)
                }
                Atom::Mod(_, b) => lower_bound(b, dims).filter(|b| *b > 0).map(|_| 0)?,
            };
            product = product.checked_mul(least)?;
        }
        sum = sum.checked_add(product)?;
    }
    Some(sum)
}

/// `a + b`, or nothing on overflow of a coefficient.
fn add(a: &Affine, b: &Affine) -> Option<Affine> {
    a.constant.checked_add(&b.constant)?;
    for (atom, c) in &a.terms {
        if let Some((_, d)) = b.terms.iter().find(|(other, _)| other == atom) {
            c.checked_add(d)?;
        }
    }
    Some(a.add(b))
}

/// `a * by`, or nothing on overflow of a coefficient.
fn scale(a: &Affine, by: &Size) -> Option<Affine> {
    a.constant.checked_mul(by)?;
    for (_, c) in &a.terms {
        c.checked_mul(by)?;
    }
    Some(a.scale(by))
}
