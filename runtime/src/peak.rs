//! What this machine can do at most, measured at this moment: multiply-adds in registers, and reading of memory that no cache holds.
//!
//! The loops are assembly, so that they are the same however the rest is compiled. Machines are shared and their clocks move: figures of one run are
//! compared with figures of the same run.

use crate::memory::Aligned;
use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

/// The two roofs of the roofline, of one core.
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

/// Measures one core.
///
/// # Errors
/// There is no memory to read.
pub fn measure() -> crate::error::Result<Peak> {
    Ok(Peak { gflops: multiply_add(1), gigabytes: read(1)? })
}

/// Memory that each measurement of reading goes through: beyond every cache.
const SPAN: usize = 256 << 20;

/// Most of what `threads` threads did at once in one of several short trials: units of work a second. Short, so that on a busy machine some are not interrupted.
fn best(threads: usize, trials: usize, work: &(dyn Fn(usize, usize) -> f64 + Sync)) -> f64 {
    let barrier = Barrier::new(threads);
    let trials_of = |me: usize| -> Vec<(f64, f64)> {
        let trial = |n: usize| {
            barrier.wait();
            let start = Instant::now();
            let done = work(me, n);
            (done, start.elapsed().as_secs_f64().max(1e-9))
        };
        (0..trials).map(trial).collect()
    };
    let all: Vec<Vec<(f64, f64)>> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|me| scope.spawn(move || trials_of(me))).collect();
        let own = trials_of(0);
        others.into_iter().filter_map(|t| t.join().ok()).chain([own]).collect()
    });
    let together = |n: usize| {
        let (done, slowest) = all.iter().fold((0.0, 0f64), |(sum, slow), t| (sum + t[n].0, slow.max(t[n].1)));
        done / slowest
    };
    (0..trials).map(together).fold(0.0, f64::max)
}

/// GFLOP/s of f32 multiply-adds (two operations each) in registers, on so many threads at once.
pub fn multiply_add(threads: usize) -> f64 {
    // Some 0.2 ms a trial.
    best(threads.max(1), 50, &|_, _| multiply_adds(100_000)) / 1e9
}

/// The same where the factors come from the first cache, as those of a matrix product do at best. Loads beside the multiply-adds
/// slow the clock of some processors.
pub fn tile(threads: usize) -> f64 {
    let factors = vec![1f32; TILE_STEPS * (TILE_ROWS + TILE_COLUMNS)];
    best(threads.max(1), 50, &|_, _| tiles(3_000, &factors)) / 1e9
}

/// GB/s read from memory, on so many threads at once. Takes a quarter of a GiB for the time of the measurement.
///
/// # Errors
/// There is no such memory.
pub fn read(threads: usize) -> crate::error::Result<f64> {
    let threads = threads.max(1);
    let mut memory = Aligned::zeroed(SPAN)?;
    // Pages that were never written are all one page.
    memory.chunks_mut(4096).for_each(|page| page[0] = 1);
    // Each trial reads a piece that has left the caches since it was read last.
    let pieces = 64;
    let each = SPAN / threads / pieces / 4096 * 4096;
    let memory = &memory;
    let work = |me: usize, n: usize| {
        let at = (me * pieces + n % pieces) * each;
        sweep(&memory[at..at + each]);
        each as f64
    };
    Ok(best(threads, 4 * pieces, &work) / 1e9)
}

/// Steps, rows and columns of a tile: 16 KB of columns.
const TILE_STEPS: usize = 64;
const TILE_ROWS: usize = 6;
const TILE_COLUMNS: usize = 64;

/// `turns` times a tile of sums: at each step vectors of columns are loaded, then each row's element is spread over the lanes and multiplied with all of them.
/// How many operations that were.
#[cfg(target_arch = "x86_64")]
fn tiles(turns: u64, factors: &[f32]) -> f64 {
    let (rows, columns) = factors.split_at(TILE_STEPS * TILE_ROWS);
    assert!(columns.len() >= TILE_STEPS * TILE_COLUMNS);
    // A row's element, spread, and its products with the columns.
    macro_rules! row {
        ($v:literal, $at:literal, $spread:literal, $($sum:literal $column:literal),*) => {
            concat!("vbroadcastss ", $v, "mm", $spread, ", dword ptr [{a} + ", $at, "]\n",
                $("vfmadd231ps ", $v, "mm", $sum, ", ", $v, "mm", $spread, ", ", $v, "mm", $column, "\n"),*)
        };
    }
    // What a step loads and multiplies, and the bytes of its columns. Both levels give up the wide registers: those of AVX2 are halves of these.
    macro_rules! turns {
        ([$($line:expr),* $(,)?], $bytes:literal) => {
            // SAFETY: the caller knows that the CPU has these instructions; the steps read what `factors` holds and change nothing but the registers named.
            unsafe {
                std::arch::asm!(
                    "2:",
                    "mov {a}, {rows}",
                    "mov {b}, {columns}",
                    "mov {k}, {steps}",
                    "3:",
                    $($line,)*
                    "add {a}, 24",
                    concat!("add {b}, ", $bytes),
                    "dec {k}",
                    "jnz 3b",
                    "dec {turns}",
                    "jnz 2b",
                    "vzeroupper",
                    rows = in(reg) rows.as_ptr(),
                    columns = in(reg) columns.as_ptr(),
                    steps = const TILE_STEPS,
                    turns = inout(reg) turns => _,
                    a = out(reg) _, b = out(reg) _, k = out(reg) _,
                    out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _, out("zmm5") _, out("zmm6") _, out("zmm7") _,
                    out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _, out("zmm12") _, out("zmm13") _, out("zmm14") _, out("zmm15") _,
                    out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _, out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _,
                    out("zmm24") _, out("zmm25") _, out("zmm26") _, out("zmm27") _, out("zmm28") _, out("zmm29") _, out("zmm30") _, out("zmm31") _,
                    options(nostack, readonly),
                )
            }
        };
    }
    if std::arch::is_x86_feature_detected!("avx512f") {
        turns!(
            [
                "vmovups zmm24, [{b}]",
                "vmovups zmm25, [{b} + 64]",
                "vmovups zmm26, [{b} + 128]",
                "vmovups zmm27, [{b} + 192]",
                row!("z", 0, 28, 0 24, 1 25, 2 26, 3 27),
                row!("z", 4, 29, 4 24, 5 25, 6 26, 7 27),
                row!("z", 8, 30, 8 24, 9 25, 10 26, 11 27),
                row!("z", 12, 31, 12 24, 13 25, 14 26, 15 27),
                row!("z", 16, 28, 16 24, 17 25, 18 26, 19 27),
                row!("z", 20, 29, 20 24, 21 25, 22 26, 23 27),
            ],
            256
        );
        return turns as f64 * (TILE_STEPS * TILE_ROWS * 64 * 2) as f64;
    }
    if std::arch::is_x86_feature_detected!("fma") {
        // A quarter of the columns.
        turns!(
            [
                "vmovups ymm12, [{b}]",
                "vmovups ymm13, [{b} + 32]",
                row!("y", 0, 14, 0 12, 1 13),
                row!("y", 4, 15, 2 12, 3 13),
                row!("y", 8, 14, 4 12, 5 13),
                row!("y", 12, 15, 6 12, 7 13),
                row!("y", 16, 14, 8 12, 9 13),
                row!("y", 20, 15, 10 12, 11 13),
            ],
            64
        );
        return turns as f64 * (TILE_STEPS * TILE_ROWS * 16 * 2) as f64;
    }
    plain_multiply_adds(turns)
}

#[cfg(not(target_arch = "x86_64"))]
fn tiles(turns: u64, _: &[f32]) -> f64 {
    plain_multiply_adds(turns)
}

/// `turns` times 16 independent vector multiply-adds; how many operations that were.
#[cfg(target_arch = "x86_64")]
fn multiply_adds(turns: u64) -> f64 {
    if std::arch::is_x86_feature_detected!("avx512f") {
        // SAFETY: the CPU has AVX-512; the block changes nothing but the registers it names.
        unsafe {
            std::arch::asm!(
                "vpxord zmm16, zmm16, zmm16",
                "2:",
                "vfmadd231ps zmm0, zmm16, zmm16", "vfmadd231ps zmm1, zmm16, zmm16", "vfmadd231ps zmm2, zmm16, zmm16", "vfmadd231ps zmm3, zmm16, zmm16",
                "vfmadd231ps zmm4, zmm16, zmm16", "vfmadd231ps zmm5, zmm16, zmm16", "vfmadd231ps zmm6, zmm16, zmm16", "vfmadd231ps zmm7, zmm16, zmm16",
                "vfmadd231ps zmm8, zmm16, zmm16", "vfmadd231ps zmm9, zmm16, zmm16", "vfmadd231ps zmm10, zmm16, zmm16", "vfmadd231ps zmm11, zmm16, zmm16",
                "vfmadd231ps zmm12, zmm16, zmm16", "vfmadd231ps zmm13, zmm16, zmm16", "vfmadd231ps zmm14, zmm16, zmm16", "vfmadd231ps zmm15, zmm16, zmm16",
                "dec {turns}",
                "jnz 2b",
                "vzeroupper",
                turns = inout(reg) turns => _,
                out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _, out("zmm5") _, out("zmm6") _, out("zmm7") _,
                out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _, out("zmm12") _, out("zmm13") _, out("zmm14") _, out("zmm15") _,
                out("zmm16") _,
                options(nostack),
            );
        }
        return turns as f64 * 16.0 * 16.0 * 2.0;
    }
    if std::arch::is_x86_feature_detected!("fma") {
        // SAFETY: as above, with AVX2's registers.
        unsafe {
            std::arch::asm!(
                "vpxor xmm15, xmm15, xmm15",
                "2:",
                "vfmadd231ps ymm0, ymm15, ymm15", "vfmadd231ps ymm1, ymm15, ymm15", "vfmadd231ps ymm2, ymm15, ymm15", "vfmadd231ps ymm3, ymm15, ymm15",
                "vfmadd231ps ymm4, ymm15, ymm15", "vfmadd231ps ymm5, ymm15, ymm15", "vfmadd231ps ymm6, ymm15, ymm15", "vfmadd231ps ymm7, ymm15, ymm15",
                "vfmadd231ps ymm8, ymm15, ymm15", "vfmadd231ps ymm9, ymm15, ymm15", "vfmadd231ps ymm10, ymm15, ymm15", "vfmadd231ps ymm11, ymm15, ymm15",
                "dec {turns}",
                "jnz 2b",
                "vzeroupper",
                turns = inout(reg) turns => _,
                out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _, out("ymm6") _, out("ymm7") _,
                out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _, out("ymm15") _,
                options(nostack),
            );
        }
        return turns as f64 * 12.0 * 8.0 * 2.0;
    }
    plain_multiply_adds(turns)
}

#[cfg(not(target_arch = "x86_64"))]
fn multiply_adds(turns: u64) -> f64 {
    plain_multiply_adds(turns)
}

/// Where there is no vector unit that we know.
fn plain_multiply_adds(turns: u64) -> f64 {
    let mut sums = [0f32; 16];
    for _ in 0..turns {
        sums.iter_mut().for_each(|s| *s = black_box(1.0f32).mul_add(0.5, *s));
    }
    black_box(sums);
    turns as f64 * 16.0 * 2.0
}

/// Reads every byte once.
#[cfg(target_arch = "x86_64")]
fn sweep(memory: &[u8]) {
    let lines = memory.len() / 256;
    if lines == 0 || !std::arch::is_x86_feature_detected!("avx2") {
        return plain_sweep(memory);
    }
    // SAFETY: `lines * 256` bytes from the start are inside `memory`, aligned or not; nothing is written.
    unsafe {
        std::arch::asm!(
            "2:",
            "vmovups ymm0, [{at}]", "vmovups ymm1, [{at} + 32]", "vmovups ymm2, [{at} + 64]", "vmovups ymm3, [{at} + 96]",
            "vmovups ymm4, [{at} + 128]", "vmovups ymm5, [{at} + 160]", "vmovups ymm6, [{at} + 192]", "vmovups ymm7, [{at} + 224]",
            "add {at}, 256",
            "dec {lines}",
            "jnz 2b",
            "vzeroupper",
            at = inout(reg) memory.as_ptr() => _,
            lines = inout(reg) lines => _,
            out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _, out("ymm6") _, out("ymm7") _,
            options(nostack, readonly),
        );
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn sweep(memory: &[u8]) {
    plain_sweep(memory);
}

fn plain_sweep(memory: &[u8]) {
    let sum = memory.chunks_exact(8).fold(0u64, |s, c| s.wrapping_add(u64::from_le_bytes([c[0], c[1], c[2], c[3], c[4], c[5], c[6], c[7]])));
    black_box(sum);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_higher_roof_counts() {
        let peak = Peak { gflops: 100.0, gigabytes: 10.0 };
        assert_eq!((peak.nanoseconds(1000.0, 10.0), peak.nanoseconds(1000.0, 200.0)), (10.0, 20.0));
    }

    #[test]
    fn peaks_are_those_of_a_machine_of_this_century() {
        let one = multiply_add(1);
        assert!((0.5..2000.0).contains(&one), "{one} GFLOP/s");
        // Loads do not make multiply-adds faster, but for what was measured under other load.
        let tile = tile(1);
        assert!(tile > 0.1 && tile < 2.0 * one, "{tile} GFLOP/s, {one} in registers");
        let bytes = read(1).unwrap_or_else(|e| panic!("{e}"));
        assert!((0.2..2000.0).contains(&bytes), "{bytes} GB/s");
    }

    #[test]
    fn more_trials_never_lower_a_peak() {
        let mut rounds = 0.0;
        let work = std::sync::Mutex::new(&mut rounds);
        assert!(
            best(2, 3, &|_, _| {
                **work.lock().unwrap() += 1.0;
                1.0
            }) > 0.0
        );
        assert_eq!(rounds, 6.0);
    }
}
