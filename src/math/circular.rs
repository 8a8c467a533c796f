//! sin, cos, atan.
//!
//! sin and cos reduce by multiples of pi/2 over the whole range: three-part subtraction for moderate arguments, a product with enough digits of
//! 2/pi for the rest (Payne and Hanek 1983), in floating point. f32 is computed in f64 and rounded once.
//! Infinities give NaN; zeros keep their sign.

use super::coefficients::*;
use super::machine::*;

/// `x = (q + 4k + (r + low)/(pi/2)) * pi/2` with integers q in 0..4 and k, |r| a little over pi/4 at most. `m` is wide.
struct Reduced<F> {
    q: F,
    r: F,
    low: F,
}

/// Sine.
pub fn sin<M: Machine>(m: &M, x: M::F) -> M::F {
    m.pick(m.eq(x, m.float(0.0)), x, turned(m, x, 0.0))
}

/// Cosine.
pub fn cos<M: Machine>(m: &M, x: M::F) -> M::F {
    turned(m, x, 1.0)
}

/// `sin(x + quarters * pi/2)`.
fn turned<M: Machine>(m: &M, x: M::F, quarters: f64) -> M::F {
    let d = m.wide();
    let wide = m.widen(x);
    let reduced = reduce(&d, wide, M::WIDE);
    let q = modulo4(&d, d.add(reduced.q, d.float(quarters)));
    let y = kernel(&d, q, reduced.r, reduced.low, M::WIDE);
    let finite = d.lt(d.abs(wide), d.float(f64::INFINITY));
    m.narrow(d.pick(finite, y, d.float(f64::NAN)))
}

fn modulo4<D: Machine>(d: &D, q: D::F) -> D::F {
    d.fma(d.floor(d.mul(q, d.float(0.25))), d.float(-4.0), q)
}

/// `sin(q*pi/2 + r + low)` for q in 0..4.
fn kernel<D: Machine>(d: &D, q: D::F, r: D::F, low: D::F, wide: bool) -> D::F {
    let (one, z) = (d.float(1.0), d.mul(r, r));
    let (s, c): (&[f64], &[f64]) = if wide { (&SIN64, &COS64) } else { (&SIN32, &COS32) };
    let half = d.mul(z, d.float(0.5));
    let sine = d.add(r, d.fma(d.mul(r, z), horner(d, z, s), d.mul(low, d.sub(one, half))));
    let top = d.sub(one, half);
    let rest = d.fma(d.mul(z, z), horner(d, z, c), d.neg(d.mul(r, low)));
    let cosine = d.add(top, d.add(d.sub(d.sub(one, top), half), rest));
    let odd = d.or(d.eq(q, one), d.eq(q, d.float(3.0)));
    let y = d.pick(odd, cosine, sine);
    d.pick(d.lt(q, d.float(2.0)), y, d.neg(y))
}

fn reduce<D: Machine>(d: &D, x: D::F, wide: bool) -> Reduced<D::F> {
    let (near, far) = (moderate(d, x, wide), large(d, x, wide));
    let bound = d.float(if wide { (1u64 << 20) as f64 } else { (1u64 << 40) as f64 });
    let close = d.lt(d.abs(x), bound);
    Reduced { q: d.pick(close, near.q, far.q), r: d.pick(close, near.r, far.r), low: d.pick(close, near.low, far.low) }
}

fn moderate<D: Machine>(d: &D, x: D::F, wide: bool) -> Reduced<D::F> {
    let n = d.round(d.mul(x, d.float(TWO_OVER_PI)));
    // Exact: both terms are multiples of the same small unit and their difference is below 1.
    let first = d.fma(n, d.float(-HALF_PI_HIGH), x);
    let (r, low) = if wide {
        let (off, error) = two_product(d, n, d.float(HALF_PI_LOW));
        let (r, rest) = two_sum(d, first, d.neg(off));
        (r, d.fma(n, d.float(-HALF_PI_LAST), d.sub(rest, error)))
    } else {
        (d.fma(n, d.float(-HALF_PI_LOW), first), d.float(0.0))
    };
    Reduced { q: n, r, low }
}

/// Digits of 2/pi that take part: beyond them the product is below what the closest approach to a multiple of pi/2 needs.
const DIGITS: usize = 8;
const DIGIT_BITS: u32 = 26;

fn large<D: Machine>(d: &D, x: D::F, wide: bool) -> Reduced<D::F> {
    let weight = |k: usize| 2f64.powi(-((k as i32 + 1) * DIGIT_BITS as i32));
    let mut q = d.float(0.0);
    let mut sum = d.float(0.0);
    let mut low = d.float(0.0);
    // Adds a product, from the coarsest to the finest: its integer part to q (modulo 4), its fraction to the sum.
    let mut accumulate = |product: D::F| {
        let whole = d.round(product);
        q = d.add(q, d.fma(d.round(d.mul(whole, d.float(0.25))), d.float(-4.0), whole));
        let (next, error) = two_sum(d, sum, d.sub(product, whole));
        let carry = d.round(next);
        sum = d.sub(next, carry);
        q = d.add(q, carry);
        if wide {
            low = d.add(low, error);
        }
    };
    if wide {
        // Digits whose products are multiples of 4 are left out: `skip` of them, and x is scaled down as much.
        let e = d.iand(d.shr(d.bits(x), 52), d.int(0x7ff));
        let e = d.isub(e, d.int(bias::<D>() + 54));
        let e = d.ipick(d.ilt(e, d.int(0)), d.int(0), e);
        // e / 26 for e in 0..1024
        let skip = d.shr(d.imul(e, d.int(2521)), 16);
        let x = d.from_bits(d.isub(d.bits(x), d.shl(d.imul(skip, d.int(DIGIT_BITS as i64)), 52)));
        let high = d.from_bits(d.iand(d.bits(x), d.int(!((1 << 27) - 1))));
        let rest = d.sub(x, high);
        // The window of digits from `skip` on, by halving shifts.
        let mut window: Vec<D::F> = TWO_OVER_PI_DIGITS.iter().map(|c| d.float(*c)).collect();
        for bit in (0..6).rev() {
            let step = 1usize << bit;
            let unset = d.ieq(d.iand(skip, d.int(step as i64)), d.int(0));
            window = (0..window.len().min(DIGITS + step - 1))
                .map(|i| window.get(i + step).map_or(window[i], |far| d.pick(unset, window[i], *far)))
                .collect();
        }
        for (k, digit) in window.into_iter().take(DIGITS).enumerate() {
            let digit = d.mul(digit, d.float(weight(k)));
            accumulate(d.mul(high, digit));
            accumulate(d.mul(rest, digit));
        }
    } else {
        for (k, digit) in TWO_OVER_PI_DIGITS.iter().take(DIGITS).enumerate() {
            accumulate(d.mul(x, d.float(digit * weight(k))));
        }
    }
    let (sum, low) = two_sum(d, sum, low);
    let (r, error) = two_product(d, sum, d.float(HALF_PI_HIGH));
    let low = d.fma(low, d.float(HALF_PI_HIGH), d.fma(sum, d.float(HALF_PI_LOW), error));
    let (r, low) = fast_two_sum(d, r, low);
    Reduced { q, r, low }
}

/// Arc tangent: of x, (x-1)/(x+1) or -1/x, whichever is at most tan(pi/8), added to 0, pi/4 or pi/2.
pub fn atan<M: Machine>(m: &M, x: M::F) -> M::F {
    let (a, one) = (m.abs(x), m.float(1.0));
    let (middle, far) = (m.lt(m.float(0.414_213_562_373_095_03), a), m.lt(m.float(2.414_213_562_373_095), a));
    let among = |big: M::F, mid: M::F, small: M::F| m.pick(far, big, m.pick(middle, mid, small));
    let t = m.div(among(m.float(-1.0), m.sub(a, one), a), among(a, m.add(a, one), one));
    let z = m.mul(t, t);
    let p = if M::WIDE { horner(m, z, &ATAN64) } else { horner(m, z, &ATAN32) };
    let base = among(by_width(m, HALF_PI_32_HIGH, HALF_PI_HIGH), by_width(m, QUARTER_PI_32_HIGH, QUARTER_PI_HIGH), m.float(0.0));
    let rest = among(by_width(m, HALF_PI_32_LOW, HALF_PI_LOW), by_width(m, QUARTER_PI_32_LOW, QUARTER_PI_LOW), m.float(0.0));
    copysign(m, m.add(base, m.add(t, m.fma(m.mul(t, z), p, rest))), x)
}
