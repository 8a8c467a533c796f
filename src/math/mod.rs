//! The one meaning of scalar operations: fixed sequences of basic operations, the same whether computed on values or emitted as instructions.
//!
//! In: an operation of [`ScalarOp`] and operands that type. Out: its value ([`apply`], [`cast`]), or, from [`float`], [`compare`], [`integer`],
//! [`boolean`] on a code generator's [`Machine`], instructions that compute the same bits. The payload and sign of a NaN are unspecified.
//! All sequences are free of branches and of tables but those of 16 entries, which a vector register holds, so they vectorise.
//!
//! Largest errors in units in the last place, measured over all exponents (f32: two million arguments each against f64, dense ranges included;
//! f64: 20 000 arguments each from `tables.py`):
//!
//! | | exp | expm1 | log | log1p | sin | cos | atan | tanh | sigmoid | erf | pow |
//! |---|---|---|---|---|---|---|---|---|---|---|---|
//! | f32 | 0.97 | 1.42 | 0.74 | 1.44 | 0.50 | 0.50 | 1.79 | 2.24 | 2.23 | 1.15 | 0.50 |
//! | f64 | 1.00 | 1.67 | 0.80 | 1.09 | 0.68 | 0.69 | 1.61 | 2.20 | 1.85 | 1.05 | 1.03 |
//!
//! sin and cos hold these bounds over the whole range, the largest finite argument included.

pub mod circular;
#[rustfmt::skip]
#[allow(clippy::excessive_precision, clippy::approx_constant, clippy::unreadable_literal, reason = "generated; the digits are exact")]
mod coefficients;
pub mod exponential;
pub mod lines;
pub mod machine;
pub mod power;
pub mod random;
#[cfg(test)]
mod tests;
pub mod winograd;

use crate::ir::{DType, Scalar, ScalarOp};
use machine::*;

/// The operation's value.
///
/// # Panics
/// If the operands' types do not fit the operation ([`ScalarOp::result`]).
pub fn apply(op: ScalarOp, args: &[Scalar]) -> Scalar {
    use ScalarOp::*;
    if op == Select {
        return if args[0].bits() != 0 { args[1] } else { args[2] };
    }
    let single = |i: usize| f32::from_bits(args[i].bits() as u32);
    let double = |i: usize| f64::from_bits(args[i].bits());
    let int = |i: usize| args[i].bits() as i64;
    match (args[0].dtype(), op) {
        (DType::F32, Eq | Ne | Lt | Le) => Scalar::bool(compare(&Single, op, single(0), single(1))),
        (DType::F64, Eq | Ne | Lt | Le) => Scalar::bool(compare(&Double, op, double(0), double(1))),
        (DType::I64, Eq | Ne | Lt | Le) => Scalar::bool(compare_integers(&Double, op, int(0), int(1))),
        (DType::F32, _) => Scalar::f32(match args.len() {
            1 => float(&Single, op, &[single(0)]),
            2 => float(&Single, op, &[single(0), single(1)]),
            _ => float(&Single, op, &[single(0), single(1), single(2)]),
        }),
        (DType::F64, _) => Scalar::f64(match args.len() {
            1 => float(&Double, op, &[double(0)]),
            2 => float(&Double, op, &[double(0), double(1)]),
            _ => float(&Double, op, &[double(0), double(1), double(2)]),
        }),
        (DType::I64, Uniform) => Scalar::f64(random::uniform_on(&Double, int(0), int(1))),
        (DType::I64, _) => Scalar::i64(match args.len() {
            1 => integer(&Double, op, &[int(0)]),
            _ => integer(&Double, op, &[int(0), int(1)]),
        }),
        (DType::Bool, _) => Scalar::bool(match args.len() {
            1 => boolean(&Double, op, &[args[0].bits() != 0]),
            _ => boolean(&Double, op, &[args[0].bits() != 0, args[1].bits() != 0]),
        }),
    }
}

/// Conversion: float to int truncates and saturates (NaN gives 0), to bool is `!= 0`, from bool 0 or 1; integers to floats round once.
pub fn cast(to: DType, from: Scalar) -> Scalar {
    match (to, from.dtype()) {
        (DType::F32, DType::I64) => Scalar::f32(from.to_i64() as f32),
        (DType::F32 | DType::F64, _) => Scalar::float(to, from.to_f64()),
        (DType::I64, _) => Scalar::i64(from.to_i64()),
        (DType::Bool, DType::I64) => Scalar::bool(from.to_i64() != 0),
        (DType::Bool, _) => Scalar::bool(from.to_f64() != 0.0),
    }
}

/// An operation from floats to a float.
///
/// # Panics
/// If `op` is not one.
pub fn float<M: Machine>(m: &M, op: ScalarOp, args: &[M::F]) -> M::F {
    use ScalarOp::*;
    match (op, args) {
        (Neg, [a]) => m.neg(*a),
        (Abs, [a]) => m.abs(*a),
        (Sign, [a]) => {
            let (zero, one) = (m.float(0.0), m.float(1.0));
            let signed = m.pick(m.lt(zero, *a), one, m.pick(m.lt(*a, zero), m.neg(one), zero));
            m.pick(is_nan(m, *a), *a, signed)
        }
        (Sqrt, [a]) => m.sqrt(*a),
        (Exp, [a]) => exponential::exp(m, *a),
        (Expm1, [a]) => exponential::expm1(m, *a),
        (Log, [a]) => exponential::log(m, *a),
        (Log1p, [a]) => exponential::log1p(m, *a),
        (Sin, [a]) => circular::sin(m, *a),
        (Cos, [a]) => circular::cos(m, *a),
        (Atan, [a]) => circular::atan(m, *a),
        (Tanh, [a]) => exponential::tanh(m, *a),
        (Sigmoid, [a]) => exponential::sigmoid(m, *a),
        (Erf, [a]) => exponential::erf(m, *a),
        (Floor, [a]) => m.floor(*a),
        (Ceil, [a]) => m.ceil(*a),
        (Round, [a]) => m.round(*a),
        (Add, [a, b]) => m.add(*a, *b),
        (Sub, [a, b]) => m.sub(*a, *b),
        (Mul, [a, b]) => m.mul(*a, *b),
        (Div, [a, b]) => m.div(*a, *b),
        (Pow, [a, b]) => power::pow(m, *a, *b),
        (Max, [a, b]) => m.pick(is_nan(m, *a), *a, m.pick(m.lt(*b, *a), *a, *b)),
        (Min, [a, b]) => m.pick(is_nan(m, *a), *a, m.pick(m.lt(*a, *b), *a, *b)),
        (Mod, [a, b]) => power::modulo(m, *a, *b),
        (Fma, [a, b, c]) => m.fma(*a, *b, *c),
        _ => panic!("{op:?} of {} floats is no float", args.len()),
    }
}

/// A comparison of floats.
///
/// # Panics
/// If `op` is not one.
pub fn compare<M: Machine>(m: &M, op: ScalarOp, a: M::F, b: M::F) -> M::B {
    match op {
        ScalarOp::Eq => m.eq(a, b),
        ScalarOp::Ne => m.not(m.eq(a, b)),
        ScalarOp::Lt => m.lt(a, b),
        ScalarOp::Le => m.le(a, b),
        _ => panic!("{op:?} is no comparison"),
    }
}

/// A comparison of integers.
///
/// # Panics
/// If `op` is not one.
pub fn compare_integers<M: Machine>(m: &M, op: ScalarOp, a: M::I, b: M::I) -> M::B {
    match op {
        ScalarOp::Eq => m.ieq(a, b),
        ScalarOp::Ne => m.not(m.ieq(a, b)),
        ScalarOp::Lt => m.ilt(a, b),
        ScalarOp::Le => m.not(m.ilt(b, a)),
        _ => panic!("{op:?} is no comparison"),
    }
}

/// An operation from integers to an integer, on a machine of 64 bits.
///
/// # Panics
/// If `op` is not one.
pub fn integer<M: Machine>(m: &M, op: ScalarOp, args: &[M::I]) -> M::I {
    use ScalarOp::*;
    let zero = m.int(0);
    match (op, args) {
        (Neg, [a]) => m.isub(zero, *a),
        (Abs, [a]) => m.ipick(m.ilt(*a, zero), m.isub(zero, *a), *a),
        (Sign, [a]) => m.ipick(m.ilt(*a, zero), m.int(-1), m.ipick(m.ilt(zero, *a), m.int(1), zero)),
        (Add, [a, b]) => m.iadd(*a, *b),
        (Sub, [a, b]) => m.isub(*a, *b),
        (Mul, [a, b]) => m.imul(*a, *b),
        (Max, [a, b]) => m.ipick(m.ilt(*b, *a), *a, *b),
        (Min, [a, b]) => m.ipick(m.ilt(*a, *b), *a, *b),
        (FloorDiv, [a, b]) => floor_division(m, *a, *b).0,
        (Mod, [a, b]) => floor_division(m, *a, *b).1,
        (FoldKey, [a, b]) => random::fold_key_on(m, *a, *b),
        _ => panic!("{op:?} of {} integers is no integer", args.len()),
    }
}

/// Quotient rounded down and remainder with the divisor's sign; both 0 for division by 0.
fn floor_division<M: Machine>(m: &M, a: M::I, b: M::I) -> (M::I, M::I) {
    let zero = m.int(0);
    let (none, minus) = (m.ieq(b, zero), m.ieq(b, m.int(-1)));
    let safe = m.ipick(m.or(none, minus), m.int(1), b);
    let (q, r) = (m.idiv(a, safe), m.irem(a, safe));
    let off = m.and(m.not(m.ieq(r, zero)), m.ilt(m.ixor(r, safe), zero));
    let q = m.ipick(off, m.isub(q, m.int(1)), q);
    let r = m.ipick(off, m.iadd(r, safe), r);
    // By -1 (where the least integer would trap) and by 0.
    (m.ipick(none, zero, m.ipick(minus, m.isub(zero, a), q)), r)
}

/// An operation on truth values.
///
/// # Panics
/// If `op` is not one.
pub fn boolean<M: Machine>(m: &M, op: ScalarOp, args: &[M::B]) -> M::B {
    use ScalarOp::*;
    match (op, args) {
        (Not, [a]) => m.not(*a),
        (And | Min, [a, b]) => m.and(*a, *b),
        (Or | Max, [a, b]) => m.or(*a, *b),
        (Eq, [a, b]) => m.or(m.and(*a, *b), m.not(m.or(*a, *b))),
        (Ne, [a, b]) => m.and(m.or(*a, *b), m.not(m.and(*a, *b))),
        (Lt, [a, b]) => m.and(m.not(*a), *b),
        (Le, [a, b]) => m.or(m.not(*a), *b),
        _ => panic!("{op:?} of {} truth values", args.len()),
    }
}
