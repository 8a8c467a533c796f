//! What the benchmarks share: a clock that stands still while others run, kernels made ready, buffers with something in them.

use nnc::emit::{self, Level};
use nnc::kernel::Kernel;
use nnc_runtime::loader::{self, Loader};
use nnc_runtime::memory::Aligned;

/// Seconds that this thread has run.
pub fn clock() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // Safety: fills in what it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

pub fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// The code level of this machine.
pub fn level() -> &'static str {
    loader::level().expect("a CPU that runs compiled programs")
}

/// Compiled kernels, and the scratch that the hungriest of them needs.
pub fn compiled(kernels: &[Kernel]) -> (Loader, usize) {
    let names: Vec<_> = kernels.iter().enumerate().map(|(i, k)| emit::declare(&format!("k{i}_{}", k.name), k)).collect();
    let objects = emit::compile(kernels, &names, &Level::ALL).expect("the kernels compile");
    let scratch = names.iter().map(|n| n.scratch as usize).max().unwrap_or(0).next_multiple_of(64).max(64);
    (Loader::new(objects.iter().map(Vec::as_slice), &names, level()).expect("the kernels load"), scratch)
}

/// A buffer of so many f32 between -0.5 and 0.5.
pub fn floats(count: usize) -> Aligned {
    let mut memory = Aligned::zeroed(count * 4).expect("memory");
    for (i, f) in memory.chunks_exact_mut(4).enumerate() {
        f.copy_from_slice(&((i * 7919 % 1000) as f32 / 1000.0 - 0.5).to_le_bytes());
    }
    memory
}
