//! pow and the float remainder: both exact in their special cases, computed in 64-bit arithmetic for either width.

use super::coefficients::*;
use super::exponential::{exp, exp_pair, log, split_exponent};
use super::machine::*;

/// `x ^ y` as C's pow. f64 takes the logarithm to twice the precision, f32 takes it in f64.
pub fn pow<M: Machine>(m: &M, x: M::F, y: M::F) -> M::F {
    let d = m.wide();
    m.narrow(pow_wide(&d, m.widen(x), m.widen(y), M::WIDE))
}

fn pow_wide<D: Machine>(d: &D, x: D::F, y: D::F, pair: bool) -> D::F {
    let (zero, one, infinity) = (d.float(0.0), d.float(1.0), d.float(f64::INFINITY));
    let a = d.abs(x);
    let magnitude = if pair {
        let (high, low) = log_pair(d, a);
        let pole = d.pick(d.eq(a, zero), d.neg(infinity), a);
        let inside = d.and(d.lt(zero, a), d.lt(a, infinity));
        let (high, low) = (d.pick(inside, high, pole), d.pick(inside, low, zero));
        let (product, error) = two_product(d, y, high);
        exp_pair(d, product, d.fma(y, low, error))
    } else {
        exp(d, d.mul(y, log(d, a)))
    };
    let magnitude = d.pick(d.eq(a, one), one, magnitude);
    let half = d.mul(y, d.float(0.5));
    let whole = d.eq(d.floor(y), y);
    let odd = d.and(whole, d.not(d.eq(d.floor(half), half)));
    let negative = d.ilt(d.bits(x), d.int(0));
    let signed = d.pick(d.and(negative, odd), d.neg(magnitude), magnitude);
    // A negative finite base with a fractional exponent, then NaN operands, then what is 1 whatever the other operand.
    let finite = d.and(d.lt(x, zero), d.lt(d.neg(infinity), x));
    let signed = d.pick(d.and(finite, d.not(whole)), d.float(f64::NAN), signed);
    let nan = d.or(is_nan(d, x), is_nan(d, y));
    let signed = d.pick(nan, d.float(f64::NAN), signed);
    d.pick(d.or(d.eq(x, one), d.eq(y, zero)), one, signed)
}

/// log of a positive finite f64 as a sum of two, to about 2^-63 of it: `2*atanh(s)`, the first two terms of the series in pairs.
fn log_pair<D: Machine>(d: &D, a: D::F) -> (D::F, D::F) {
    let (f, e) = split_exponent(d, a);
    let (den, den_low) = fast_two_sum(d, d.float(2.0), f);
    let s = d.div(f, den);
    let rest = d.fma(d.neg(s), den, f);
    let s_low = d.div(d.fma(d.neg(s), den_low, rest), den);
    let (z, error) = two_product(d, s, s);
    let z_low = d.fma(d.add(s, s), s_low, error);
    let (inner, error) = fast_two_sum(d, d.float(TWO_THIRDS_HIGH), d.mul(z, horner(d, z, &POW64)));
    let inner_low = d.add(error, d.float(TWO_THIRDS_LOW));
    let (w, error) = two_product(d, z, inner);
    let w_low = d.fma(z_low, inner, d.fma(z, inner_low, error));
    let (p, error) = two_product(d, s, w);
    let p_low = d.fma(s_low, w, d.fma(s, w_low, error));
    let (t, error) = fast_two_sum(d, d.add(s, s), p);
    let t_low = d.add(d.add(error, p_low), d.add(s_low, s_low));
    let (h, error) = fast_two_sum(d, d.mul(e, d.float(LN2_64_HIGH)), t);
    let low = d.fma(e, d.float(LN2_64_LOW), d.add(error, t_low));
    fast_two_sum(d, h, low)
}

/// `a mod b` with the sign of `b` (of a zero result too): the exact remainder of truncated division, plus `b` if the signs differ.
/// NaN for infinite `a` or zero `b`.
pub fn modulo<M: Machine>(m: &M, a: M::F, b: M::F) -> M::F {
    let d = m.wide();
    // Exact, so the width it is computed in does not matter.
    let r = copysign(m, m.narrow(remainder(&d, d.abs(m.widen(a)), d.abs(m.widen(b)))), a);
    let zero = m.float(0.0);
    let differs = m.not(m.ieq(m.shr(m.bits(r), sign_bit::<M>()), m.shr(m.bits(b), sign_bit::<M>())));
    let y = m.pick(m.eq(r, zero), copysign(m, zero, b), m.pick(differs, m.add(r, b), r));
    m.pick(m.or(is_nan(m, r), is_nan(m, b)), m.float(f64::NAN), y)
}

fn sign_bit<M: Machine>() -> u32 {
    if M::WIDE { 63 } else { 31 }
}

/// The remainder of `a / b`, neither negative: with integers `a = i * 2^p`, `b = j * 2^q`, it is `(i * 2^(p-q) mod j) * 2^q`.
fn remainder<D: Machine>(d: &D, a: D::F, b: D::F) -> D::F {
    let parts = |x: D::F| {
        let (bits, zero) = (d.bits(x), d.int(0));
        let e = d.shr(bits, 52);
        let normal = d.ilt(zero, e);
        let fraction = d.iand(bits, d.int((1 << 52) - 1));
        (d.ior(fraction, d.ipick(normal, d.int(1 << 52), zero)), d.ipick(normal, e, d.int(1)))
    };
    let ((i, p), (j, q)) = (parts(a), parts(b));
    let (zero, one) = (d.int(0), d.int(1));
    let j = d.ipick(d.ieq(j, zero), one, j);
    let k = d.isub(p, q);
    let k = d.ipick(d.ilt(k, zero), zero, k);
    // 2^k mod j by the bits of k, from the top.
    let mut power = d.ipick(d.ieq(j, one), zero, one);
    for bit in (0..11).rev() {
        power = product_modulo(d, power, power, j);
        let twice = d.iadd(power, power);
        let twice = d.ipick(d.ilt(twice, j), twice, d.isub(twice, j));
        power = d.ipick(d.ieq(d.iand(k, d.int(1 << bit)), zero), power, twice);
    }
    let r = d.from_int(product_modulo(d, d.irem(i, j), power, j));
    // 2^(q - 1075) in two steps: either may lie below the normal numbers.
    let shift = d.isub(q, d.int(1075));
    let half = d.sar(shift, 1);
    let r = d.mul(d.mul(r, power_of_two(d, half)), power_of_two(d, d.isub(shift, half)));
    let r = d.pick(d.lt(a, b), a, r);
    let defined = d.and(d.lt(a, d.float(f64::INFINITY)), d.and(d.lt(d.float(0.0), b), d.le(b, d.float(f64::INFINITY))));
    d.pick(defined, r, d.float(f64::NAN))
}

/// `a * b mod j` for a, b in 0..j and j below 2^53: the quotient in floats is off by a few, the difference in wrapping integers is exact.
fn product_modulo<D: Machine>(d: &D, a: D::I, b: D::I, j: D::I) -> D::I {
    let quotient = d.to_int(d.div(d.mul(d.from_int(a), d.from_int(b)), d.from_int(j)));
    let r = d.irem(d.isub(d.imul(a, b), d.imul(quotient, j)), j);
    d.ipick(d.ilt(r, d.int(0)), d.iadd(r, j), r)
}
