//! exp, expm1, tanh, sigmoid, log, log1p, erf.
//!
//! exp: `x = n*ln2 + r` with |r| <= ln2/2, a polynomial, two multiplications by powers of two (so that denormal results round once).
//! log: `x = 2^e * (1+f)`, a polynomial in f (f32) or in `f/(2+f)` (f64). erf: polynomials on pieces.
//! Infinities, NaN, zeros of either sign and denormals as in C's library.

use super::coefficients::*;
use super::machine::*;

/// `n`, and `e^r - 1` for the rest `r` of `x`; |x| is so small that `n` is an exponent or a few more.
fn reduced<M: Machine>(m: &M, x: M::F) -> (M::I, M::F) {
    let (n, nf) = nearest(m, x, m.float(LOG2E));
    let r = m.fma(nf, by_width(m, -LN2_32_HIGH, -LN2_64_HIGH), x);
    let r = m.fma(nf, by_width(m, -LN2_32_LOW, -LN2_64_LOW), r);
    (n, expm1_small(m, r))
}

fn expm1_small<M: Machine>(m: &M, r: M::F) -> M::F {
    let q = if M::WIDE { horner(m, r, &EXP64) } else { horner(m, r, &EXP32) };
    m.fma(m.mul(r, r), q, r)
}

/// `e^x`. What rounds to zero is not computed: a product that underflows costs a hundred others.
pub fn exp<M: Machine>(m: &M, x: M::F) -> M::F {
    let (zero, most) = (m.float(0.0), if M::WIDE { 710.0 } else { 89.0 });
    let vanishes = m.lt(x, by_width(m, -104.0, -746.0));
    let (n, p) = reduced(m, at_most(m, m.pick(vanishes, zero, x), most));
    m.pick(vanishes, zero, m.scale(m.add(m.float(1.0), p), n))
}

/// `e^(high + low)` where `low` is far below `high`; f64.
pub fn exp_pair<M: Machine>(m: &M, high: M::F, low: M::F) -> M::F {
    let low = m.pick(m.lt(m.abs(high), m.float(746.0)), low, m.float(0.0));
    let x = at_least(m, at_most(m, high, 710.0), -746.0);
    let (n, nf) = nearest(m, x, m.float(LOG2E));
    let r = m.fma(nf, m.float(-LN2_64_HIGH), x);
    let r = m.add(m.fma(nf, m.float(-LN2_64_LOW), r), low);
    m.scale(m.add(m.float(1.0), expm1_small(m, r)), n)
}

/// `e^x - 1`.
pub fn expm1<M: Machine>(m: &M, x: M::F) -> M::F {
    let near = if M::WIDE { at_least(m, at_most(m, x, 709.9), -40.0) } else { at_least(m, at_most(m, x, 89.0), -20.0) };
    let (n, p) = reduced(m, near);
    // Half of 2^n, since 2^n itself may overflow where the result does not.
    let half = power_of_two(m, m.isub(n, m.int(1)));
    let y = m.fma(half, p, m.sub(half, m.float(0.5)));
    let y = m.pick(m.ieq(n, m.int(0)), p, m.add(y, y));
    m.pick(m.eq(x, m.float(0.0)), x, y)
}

/// Hyperbolic tangent: `t / (t + 2)` with `t = e^2|x| - 1`.
pub fn tanh<M: Machine>(m: &M, x: M::F) -> M::F {
    let a = at_most(m, m.abs(x), 25.0);
    let t = expm1(m, m.add(a, a));
    copysign(m, m.div(t, m.add(t, m.float(2.0))), x)
}

/// `1 / (1 + e^-x)`, by `e^-|x|` so that nothing overflows.
pub fn sigmoid<M: Machine>(m: &M, x: M::F) -> M::F {
    let e = exp(m, m.neg(m.abs(x)));
    let above = m.pick(m.lt(x, m.float(0.0)), e, m.float(1.0));
    m.div(above, m.add(m.float(1.0), e))
}

/// `f` and `e` with `x = 2^e * (1+f)`, `1+f` in [sqrt(1/2), sqrt(2)], for positive finite `x`.
pub fn split_exponent<M: Machine>(m: &M, x: M::F) -> (M::F, M::F) {
    let (shift, least) = if M::WIDE { (54, f64::MIN_POSITIVE) } else { (25, f32::MIN_POSITIVE as f64) };
    let tiny = m.lt(x, m.float(least));
    let x = m.pick(tiny, m.mul(x, m.float((1u64 << shift) as f64)), x);
    let bits = m.bits(x);
    let e = m.sar(m.isub(bits, m.bits(m.float(std::f64::consts::FRAC_1_SQRT_2))), fraction::<M>());
    let f = m.sub(m.from_bits(m.isub(bits, m.shl(e, fraction::<M>()))), m.float(1.0));
    let e = m.isub(e, m.ipick(tiny, m.int(shift), m.int(0)));
    (f, small_to_float(m, e))
}

/// Natural logarithm.
pub fn log<M: Machine>(m: &M, x: M::F) -> M::F {
    let (f, e) = split_exponent(m, x);
    let y = if M::WIDE {
        // log(1+f) = 2s + s*r = f - s*(f - r) with s = f/(2+f): f is exact, what is taken off is small.
        let s = m.div(f, m.add(m.float(2.0), f));
        let z = m.mul(s, s);
        let r = m.mul(z, horner(m, z, &LOG64));
        let off = m.fma(e, m.float(-LN2_64_LOW), m.mul(s, m.sub(f, r)));
        m.fma(e, m.float(LN2_64_HIGH), m.sub(f, off))
    } else {
        let z = m.mul(f, f);
        let tail = m.fma(e, m.float(LN2_32_LOW), m.mul(m.mul(f, z), horner(m, f, &LOG32)));
        let tail = m.fma(m.mul(f, m.float(-0.5)), f, tail);
        m.fma(e, m.float(LN2_32_HIGH), m.add(f, tail))
    };
    let (zero, infinity) = (m.float(0.0), m.float(f64::INFINITY));
    let pole = m.pick(m.eq(x, zero), m.neg(infinity), m.pick(m.eq(x, infinity), x, m.float(f64::NAN)));
    m.pick(m.and(m.lt(zero, x), m.lt(x, infinity)), y, pole)
}

/// `log(1 + x)`: of the rounded sum, corrected by the sum's rounding error.
pub fn log1p<M: Machine>(m: &M, x: M::F) -> M::F {
    let (sum, error) = two_sum(m, m.float(1.0), x);
    let inside = m.and(m.lt(m.float(0.0), sum), m.lt(sum, m.float(f64::INFINITY)));
    let correction = m.pick(inside, m.div(error, sum), m.float(0.0));
    m.pick(m.eq(x, m.float(0.0)), x, m.add(log(m, sum), correction))
}

/// Error function.
pub fn erf<M: Machine>(m: &M, x: M::F) -> M::F {
    let a = m.abs(x);
    if M::WIDE {
        let z = m.mul(a, a);
        let near = m.fma(a, horner(m, z, &ERF64), a);
        let y = m.pick(m.lt(a, m.float(1.0)), near, at_most(m, pieces(m, a, &ERF64_PIECES), 1.0));
        return copysign(m, y, x);
    }
    let a = at_most(m, a, 3.97);
    let (n, _) = nearest(m, a, m.float(128.0 / 33.0));
    let u = m.sub(a, m.lookup(&ERF32_CENTRES, n));
    let first = m.pick(m.ieq(n, m.int(0)), a, m.lookup(&ERF32[0], n));
    let slope = ERF32[1..6].iter().rev().fold(m.lookup(&ERF32[6], n), |p, c| m.fma(p, u, m.lookup(c, n)));
    copysign(m, at_most(m, m.fma(slope, u, first), 1.0), x)
}

/// Upper end, centre, coefficients.
type Piece<const N: usize> = (f64, f64, [f64; N]);

/// The polynomial of the piece that `a` lies in (at the last piece's end if beyond), its coefficients picked one by one.
fn pieces<M: Machine, const N: usize>(m: &M, a: M::F, table: &[Piece<N>]) -> M::F {
    let (last, rest) = table.split_last().expect("a piece");
    let a = at_most(m, a, last.0);
    let choose = |of: &dyn Fn(&Piece<N>) -> f64| {
        rest.iter().rev().fold(m.float(of(last)), |chosen, piece| m.pick(m.lt(a, m.float(piece.0)), m.float(of(piece)), chosen))
    };
    let u = m.sub(a, choose(&|p| p.1));
    (0..N - 1).rev().fold(choose(&|p| p.2[N - 1]), |y, i| m.fma(y, u, choose(&|p| p.2[i])))
}
