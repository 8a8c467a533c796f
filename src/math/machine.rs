//! The basic operations that every scalar operation is a fixed sequence of.
//!
//! A machine has one float width and the integers of that width. [`Single`] and [`Double`] compute on values; the code generator's machine
//! emits instructions. Both perform the same sequence, so they agree to the bit (NaN payloads apart). No operation traps or is undefined
//! except where its comment says what the caller owes.

/// Basic operations on values of one width; floats round to nearest even, integers wrap.
#[expect(clippy::wrong_self_convention, reason = "operations are methods of the machine, not of the value")]
pub trait Machine: Sized {
    /// A float.
    type F: Copy;
    /// An integer of the same width.
    type I: Copy;
    /// A truth value.
    type B: Copy;
    /// The machine of 64-bit floats that shares this one's truth values.
    type Wide: Machine<B = Self::B>;
    /// Whether floats have 64 bits.
    const WIDE: bool;

    /// See [`Machine::Wide`].
    fn wide(&self) -> Self::Wide;
    /// Exact.
    fn widen(&self, a: Self::F) -> <Self::Wide as Machine>::F;
    /// Rounds.
    fn narrow(&self, a: <Self::Wide as Machine>::F) -> Self::F;

    /// The constant `x`, rounded.
    fn float(&self, x: f64) -> Self::F;
    /// The constant `x`, wrapped.
    fn int(&self, x: i64) -> Self::I;

    /// Flips the sign.
    fn neg(&self, a: Self::F) -> Self::F;
    /// Clears the sign.
    fn abs(&self, a: Self::F) -> Self::F;
    /// `a + b`
    fn add(&self, a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`
    fn sub(&self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`
    fn mul(&self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`
    fn div(&self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once
    fn fma(&self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// Square root
    fn sqrt(&self, a: Self::F) -> Self::F;
    /// Largest integer not above
    fn floor(&self, a: Self::F) -> Self::F;
    /// Smallest integer not below
    fn ceil(&self, a: Self::F) -> Self::F;
    /// Nearest integer, ties to even
    fn round(&self, a: Self::F) -> Self::F;

    /// `a < b`; false of NaN
    fn lt(&self, a: Self::F, b: Self::F) -> Self::B;
    /// `a <= b`; false of NaN
    fn le(&self, a: Self::F, b: Self::F) -> Self::B;
    /// `a == b`; false of NaN
    fn eq(&self, a: Self::F, b: Self::F) -> Self::B;
    /// Both
    fn and(&self, a: Self::B, b: Self::B) -> Self::B;
    /// Either
    fn or(&self, a: Self::B, b: Self::B) -> Self::B;
    /// The opposite
    fn not(&self, a: Self::B) -> Self::B;
    /// `a` where `c`, else `b`
    fn pick(&self, c: Self::B, a: Self::F, b: Self::F) -> Self::F;
    /// `a` where `c`, else `b`
    fn ipick(&self, c: Self::B, a: Self::I, b: Self::I) -> Self::I;

    /// The bits of a float.
    fn bits(&self, a: Self::F) -> Self::I;
    /// The float with these bits.
    fn from_bits(&self, a: Self::I) -> Self::F;
    /// Truncates; the caller makes sure that the result is in range.
    fn to_int(&self, a: Self::F) -> Self::I;
    /// Rounds.
    fn from_int(&self, a: Self::I) -> Self::F;
    /// `a + b`
    fn iadd(&self, a: Self::I, b: Self::I) -> Self::I;
    /// `a - b`
    fn isub(&self, a: Self::I, b: Self::I) -> Self::I;
    /// `a * b`
    fn imul(&self, a: Self::I, b: Self::I) -> Self::I;
    /// `a / b`, truncated; `b` is neither 0 nor -1.
    fn idiv(&self, a: Self::I, b: Self::I) -> Self::I;
    /// The remainder of [`Machine::idiv`]; `b` is neither 0 nor -1.
    fn irem(&self, a: Self::I, b: Self::I) -> Self::I;
    /// Bits in both
    fn iand(&self, a: Self::I, b: Self::I) -> Self::I;
    /// Bits in either
    fn ior(&self, a: Self::I, b: Self::I) -> Self::I;
    /// Bits in one
    fn ixor(&self, a: Self::I, b: Self::I) -> Self::I;
    /// Left by `n` bits, less than the width
    fn shl(&self, a: Self::I, n: u32) -> Self::I;
    /// Right by `n` bits, zeros coming in
    fn shr(&self, a: Self::I, n: u32) -> Self::I;
    /// Right by `n` bits, the sign coming in
    fn sar(&self, a: Self::I, n: u32) -> Self::I;
    /// `a * 2^n` rounded once, for |n| below twice the largest exponent and a in [1/2, 4] or NaN.
    fn scale(&self, a: Self::F, n: Self::I) -> Self::F {
        scale(self, a, n)
    }

    /// Entry `n mod 16`, rounded.
    fn lookup(&self, table: &[f64; 16], n: Self::I) -> Self::F;

    /// `a < b`
    fn ilt(&self, a: Self::I, b: Self::I) -> Self::B;
    /// `a == b`
    fn ieq(&self, a: Self::I, b: Self::I) -> Self::B;
}

/// Computes on f32.
pub struct Single;
/// Computes on f64.
pub struct Double;

macro_rules! values {
    ($name:ident, $f:ty, $i:ty, $u:ty, $wide:expr) => {
#[rustfmt::skip]
        impl Machine for $name {
            type F = $f;
            type I = $i;
            type B = bool;
            type Wide = Double;
            const WIDE: bool = $wide;
            fn wide(&self) -> Double { Double }
            #[allow(clippy::unnecessary_cast, reason = "one text for both widths")]
            fn widen(&self, a: $f) -> f64 { a as f64 }
            fn narrow(&self, a: f64) -> $f { a as $f }
            fn float(&self, x: f64) -> $f { x as $f }
            fn int(&self, x: i64) -> $i { x as $i }
            fn neg(&self, a: $f) -> $f { -a }
            fn abs(&self, a: $f) -> $f { a.abs() }
            fn add(&self, a: $f, b: $f) -> $f { a + b }
            fn sub(&self, a: $f, b: $f) -> $f { a - b }
            fn mul(&self, a: $f, b: $f) -> $f { a * b }
            fn div(&self, a: $f, b: $f) -> $f { a / b }
            fn fma(&self, a: $f, b: $f, c: $f) -> $f { a.mul_add(b, c) }
            fn sqrt(&self, a: $f) -> $f { a.sqrt() }
            fn floor(&self, a: $f) -> $f { a.floor() }
            fn ceil(&self, a: $f) -> $f { a.ceil() }
            fn round(&self, a: $f) -> $f { a.round_ties_even() }
            fn lt(&self, a: $f, b: $f) -> bool { a < b }
            fn le(&self, a: $f, b: $f) -> bool { a <= b }
            fn eq(&self, a: $f, b: $f) -> bool { a == b }
            fn and(&self, a: bool, b: bool) -> bool { a & b }
            fn or(&self, a: bool, b: bool) -> bool { a | b }
            fn not(&self, a: bool) -> bool { !a }
            fn pick(&self, c: bool, a: $f, b: $f) -> $f { if c { a } else { b } }
            fn ipick(&self, c: bool, a: $i, b: $i) -> $i { if c { a } else { b } }
            fn bits(&self, a: $f) -> $i { a.to_bits() as $i }
            fn from_bits(&self, a: $i) -> $f { <$f>::from_bits(a as $u) }
            fn to_int(&self, a: $f) -> $i { a as $i }
            fn from_int(&self, a: $i) -> $f { a as $f }
            fn iadd(&self, a: $i, b: $i) -> $i { a.wrapping_add(b) }
            fn isub(&self, a: $i, b: $i) -> $i { a.wrapping_sub(b) }
            fn imul(&self, a: $i, b: $i) -> $i { a.wrapping_mul(b) }
            fn idiv(&self, a: $i, b: $i) -> $i { a / b }
            fn irem(&self, a: $i, b: $i) -> $i { a % b }
            fn iand(&self, a: $i, b: $i) -> $i { a & b }
            fn ior(&self, a: $i, b: $i) -> $i { a | b }
            fn ixor(&self, a: $i, b: $i) -> $i { a ^ b }
            fn shl(&self, a: $i, n: u32) -> $i { a << n }
            fn shr(&self, a: $i, n: u32) -> $i { (a as $u >> n) as $i }
            fn sar(&self, a: $i, n: u32) -> $i { a >> n }
            fn lookup(&self, table: &[f64; 16], n: $i) -> $f { table[(n & 15) as usize] as $f }
            fn ilt(&self, a: $i, b: $i) -> bool { a < b }
            fn ieq(&self, a: $i, b: $i) -> bool { a == b }
        }
    };
}
values!(Single, f32, i32, u32, false);
values!(Double, f64, i64, u64, true);

/// Bits of the stored fraction.
pub fn fraction<M: Machine>() -> u32 {
    if M::WIDE { 52 } else { 23 }
}

/// The exponent's offset.
pub fn bias<M: Machine>() -> i64 {
    if M::WIDE { 1023 } else { 127 }
}

/// The constant for this width.
pub fn by_width<M: Machine>(m: &M, single: f64, double: f64) -> M::F {
    m.float(if M::WIDE { double } else { single })
}

/// A polynomial from its coefficients in ascending powers: Horner's rule, one fma a step.
pub fn horner<M: Machine>(m: &M, x: M::F, coefficients: &[f64]) -> M::F {
    let (last, rest) = coefficients.split_last().expect("a polynomial has a coefficient");
    rest.iter().rev().fold(m.float(*last), |p, c| m.fma(p, x, m.float(*c)))
}

/// `2^n` for normal results.
pub fn power_of_two<M: Machine>(m: &M, n: M::I) -> M::F {
    m.from_bits(m.shl(m.iadd(n, m.int(bias::<M>())), fraction::<M>()))
}

/// [`Machine::scale`] by two products, the first of which is exact.
pub fn scale<M: Machine>(m: &M, a: M::F, n: M::I) -> M::F {
    let half = m.sar(n, 1);
    m.mul(m.mul(a, power_of_two(m, half)), power_of_two(m, m.isub(n, half)))
}

/// The magnitude of one, the sign of the other.
pub fn copysign<M: Machine>(m: &M, magnitude: M::F, sign: M::F) -> M::F {
    let top = m.int(if M::WIDE { i64::MIN } else { i32::MIN as i64 });
    m.from_bits(m.ior(m.bits(m.abs(magnitude)), m.iand(m.bits(sign), top)))
}

/// Whether it is NaN.
pub fn is_nan<M: Machine>(m: &M, a: M::F) -> M::B {
    m.not(m.eq(a, a))
}

/// The smaller of two; `a` if either is NaN.
pub fn at_most<M: Machine>(m: &M, a: M::F, limit: f64) -> M::F {
    let limit = m.float(limit);
    m.pick(m.lt(limit, a), limit, a)
}

/// The larger of two; `a` if either is NaN.
pub fn at_least<M: Machine>(m: &M, a: M::F, limit: f64) -> M::F {
    let limit = m.float(limit);
    m.pick(m.lt(a, limit), limit, a)
}

/// `a + b` and its rounding error.
pub fn two_sum<M: Machine>(m: &M, a: M::F, b: M::F) -> (M::F, M::F) {
    let sum = m.add(a, b);
    let part = m.sub(sum, a);
    (sum, m.add(m.sub(a, m.sub(sum, part)), m.sub(b, part)))
}

/// `a + b` and its rounding error, for |a| >= |b| or a = 0.
pub fn fast_two_sum<M: Machine>(m: &M, a: M::F, b: M::F) -> (M::F, M::F) {
    let sum = m.add(a, b);
    (sum, m.add(m.sub(a, sum), b))
}

/// `a * b` and its rounding error.
pub fn two_product<M: Machine>(m: &M, a: M::F, b: M::F) -> (M::F, M::F) {
    let product = m.mul(a, b);
    (product, m.fma(a, b, m.neg(product)))
}

/// The integer nearest to `a * b` as integer and float, for results below 2^22 (f32) or 2^51: the sum's low bits are the integer.
pub fn nearest<M: Machine>(m: &M, a: M::F, b: M::F) -> (M::I, M::F) {
    let magic = by_width(m, 12_582_912.0, 6_755_399_441_055_744.0);
    let sum = m.fma(a, b, magic);
    (m.isub(m.bits(sum), m.bits(magic)), m.sub(sum, magic))
}

/// A small integer (below 2^22 in f32, 2^51 in f64) as a float, without a conversion instruction: vectors of 64 bits lack one before AVX-512.
pub fn small_to_float<M: Machine>(m: &M, a: M::I) -> M::F {
    let magic = by_width(m, 12_582_912.0, 6_755_399_441_055_744.0);
    m.sub(m.from_bits(m.iadd(a, m.bits(magic))), magic)
}
