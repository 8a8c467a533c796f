//! What one core of this machine can do: the two roofs of the roofline, measured here and now.
//!
//! In: nothing. Out: fused multiply-adds in registers, and reading memory that no cache holds, both the best of several short rounds.

use crate::memory::Aligned;
use std::hint::black_box;
use std::time::Instant;

/// The roofs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peak {
    /// f32, a fused multiply-add counted as two.
    pub gflops: f64,
    /// Reading main memory.
    pub gigabytes: f64,
}

impl Peak {
    /// Nanoseconds that a core needs at least for so much work, and for moving so many bytes through main memory.
    pub fn nanoseconds(&self, flops: f64, bytes: f64) -> f64 {
        (flops / self.gflops).max(bytes / self.gigabytes)
    }
}

const ROUNDS: usize = 8;
/// Beyond the last cache of most machines.
const BYTES: usize = 192 << 20;

/// Measures one core, in about a third of a second.
///
/// # Errors
/// There is no memory to read.
pub fn measure() -> crate::error::Result<Peak> {
    let best = |work: f64, round: &mut dyn FnMut()| {
        let times = (0..ROUNDS).map(|_| {
            let start = Instant::now();
            round();
            start.elapsed().as_nanos() as f64
        });
        work / times.fold(f64::INFINITY, f64::min).max(1.0)
    };
    let turns = 400_000;
    let (lanes, multiply): (f64, fn(usize)) = multiplier();
    let gflops = best(turns as f64 * CHAINS as f64 * lanes * 2.0, &mut || multiply(turns));
    let mut memory = Aligned::zeroed(BYTES)?;
    memory.fill(1);
    let gigabytes = best(BYTES as f64, &mut || _ = black_box(read(&memory)));
    Ok(Peak { gflops, gigabytes })
}

/// Independent chains: more than latency times throughput of any core.
const CHAINS: usize = 12;

/// Lanes of a vector, and a function that makes so many turns of [`CHAINS`] fused multiply-adds.
fn multiplier() -> (f64, fn(usize)) {
    #[cfg(target_arch = "x86_64")]
    {
        if std::is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has it.
            return (16.0, |turns| unsafe { wide(turns) });
        }
        if std::is_x86_feature_detected!("fma") && std::is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return (8.0, |turns| unsafe { narrow(turns) });
        }
    }
    (1.0, |turns| {
        let mut sums = [1.0f32; CHAINS];
        let (a, b) = (black_box(0.999f32), black_box(0.001f32));
        (0..turns).for_each(|_| sums.iter_mut().for_each(|s| *s = *s * a + b));
        black_box(sums);
    })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn wide(turns: usize) {
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_set1_ps};
    let (a, b) = (_mm512_set1_ps(black_box(0.999)), _mm512_set1_ps(black_box(0.001)));
    let mut sums = [a; CHAINS];
    for _ in 0..turns {
        for sum in &mut sums {
            *sum = _mm512_fmadd_ps(*sum, a, b);
        }
    }
    black_box(sums);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn narrow(turns: usize) {
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_set1_ps};
    let (a, b) = (_mm256_set1_ps(black_box(0.999)), _mm256_set1_ps(black_box(0.001)));
    let mut sums = [a; CHAINS];
    for _ in 0..turns {
        for sum in &mut sums {
            *sum = _mm256_fmadd_ps(*sum, a, b);
        }
    }
    black_box(sums);
}

/// Reads everything: one number of every cache line, in eight streams of additions.
fn read(memory: &[u8]) -> u64 {
    let mut sums = [0u64; 8];
    for lines in memory.chunks_exact(8 * 64) {
        for (sum, line) in sums.iter_mut().zip(lines.chunks_exact(64)) {
            *sum = sum.wrapping_add(u64::from_le_bytes([line[0], line[1], line[2], line[3], line[4], line[5], line[6], line[7]]));
        }
    }
    sums.iter().fold(0, |a, b| a.wrapping_add(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_higher_roof_counts() {
        let peak = Peak { gflops: 100.0, gigabytes: 10.0 };
        assert_eq!((peak.nanoseconds(1000.0, 10.0), peak.nanoseconds(1000.0, 200.0)), (10.0, 20.0));
        assert_eq!(read(&[1; 1024]), 16 * 0x0101010101010101);
        let (lanes, multiply) = multiplier();
        multiply(10);
        assert!(lanes >= 1.0);
    }
}
