//! Counter-based randomness: pure integer functions of a key and a number, so that any order of execution gives the same values.
//!
//! The mixing steps are SplitMix64's finaliser (Steele, Lea, Flood 2014). All arithmetic wraps in 64 bits.

use super::machine::*;

/// SplitMix64's increment: the golden ratio in 64 bits.
pub const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
/// First multiplier of the finaliser.
pub const MIX1: u64 = 0xbf58_476d_1ce4_e5b9;
/// Second multiplier of the finaliser.
pub const MIX2: u64 = 0x94d0_49bb_1331_11eb;

/// `z ^= z >> 30; z *= MIX1; z ^= z >> 27; z *= MIX2; z ^ z >> 31`
pub fn mix<M: Machine>(m: &M, z: M::I) -> M::I {
    let z = m.imul(m.ixor(z, m.shr(z, 30)), m.int(MIX1 as i64));
    let z = m.imul(m.ixor(z, m.shr(z, 27)), m.int(MIX2 as i64));
    m.ixor(z, m.shr(z, 31))
}

/// See [`fold_key`]; on a machine of 64 bits.
pub fn fold_key_on<M: Machine>(m: &M, key: M::I, n: M::I) -> M::I {
    let golden = m.int(GOLDEN as i64);
    mix(m, m.iadd(mix(m, m.iadd(key, golden)), m.imul(n, golden)))
}

/// See [`uniform`]; on a machine of 64 bits.
pub fn uniform_on<M: Machine>(m: &M, key: M::I, position: M::I) -> M::F {
    let bits = m.shr(fold_key_on(m, key, position), 40);
    m.mul(small_to_float(m, bits), m.float(1.0 / (1u64 << 24) as f64))
}

/// A new key: `mix(mix(key + GOLDEN) + n*GOLDEN)`.
pub fn fold_key(key: i64, n: i64) -> i64 {
    fold_key_on(&Double, key, n)
}

/// Uniform in [0, 1): the top 24 bits of `fold_key(key, position)` times 2^-24, exact in f32 and f64, so that no cast reaches 1.
pub fn uniform(key: i64, position: i64) -> f64 {
    uniform_on(&Double, key, position)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniform_is_uniform_and_keys_are_independent() {
        let n = 1 << 16;
        let draw = |key: i64| (0..n).map(move |i| uniform(key, i));
        for key in [0, 1, -1, fold_key(7, 3)] {
            let mean = draw(key).sum::<f64>() / n as f64;
            let square = draw(key).map(|u| u * u).sum::<f64>() / n as f64;
            assert!((mean - 0.5).abs() < 0.005 && (square - 1.0 / 3.0).abs() < 0.005, "{mean} {square}");
            assert!(draw(key).all(|u| (0.0..1.0).contains(&u) && u as f32 as f64 == u));
            let product = draw(key).zip(draw(key + 1)).map(|(a, b)| a * b).sum::<f64>() / n as f64;
            assert!((product - 0.25).abs() < 0.005, "{product}");
        }
    }
}
