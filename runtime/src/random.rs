//! The runtime's randomness: keys, shuffles. Integer arithmetic only, the same on every machine and in every version.
//!
//! All of it is SplitMix64 (Steele, Lea, Flood 2014): state += GOLDEN, then the finaliser [`mix`].

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64's finaliser.
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What a key is for, so that equal numbers do not share randomness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Initialisation of weights.
    Init = 1,
    /// A training step.
    Step = 2,
    /// The order of an epoch.
    Order = 3,
    /// A batch of an evaluation, or an inference.
    Eval = 4,
}

/// `mix(mix(mix(seed + GOLDEN) + stream*GOLDEN) + n*GOLDEN)`, wrapping.
pub fn key(seed: u64, stream: Stream, n: u64) -> u64 {
    let base = mix(mix(seed.wrapping_add(GOLDEN)).wrapping_add((stream as u64).wrapping_mul(GOLDEN)));
    mix(base.wrapping_add(n.wrapping_mul(GOLDEN)))
}

/// A SplitMix64 generator.
pub struct Generator(u64);

impl Generator {
    /// Starts at `seed`.
    pub fn new(seed: u64) -> Generator {
        Generator(seed)
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// A number in `0..n`: the high half of the 128-bit product (bias under n / 2^64).
    pub fn below(&mut self, n: usize) -> usize {
        ((self.draw() as u128 * n as u128) >> 64) as usize
    }

    /// Fisher and Yates, from the last position down.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.below(i + 1);
            items.swap(i, j);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Published first outputs of SplitMix64 from seed 1234567, and an order that must never change.
    #[test]
    fn stable_forever() {
        let mut g = Generator::new(1234567);
        assert_eq!([g.draw(), g.draw()], [6457827717110365317, 3203168211198807973]);
        let mut order: Vec<u32> = (0..10).collect();
        Generator::new(42).shuffle(&mut order);
        assert_eq!(order, [8, 3, 6, 5, 4, 0, 9, 2, 1, 7]);
        assert_ne!(key(42, Stream::Init, 0), key(42, Stream::Step, 0));
    }
}
