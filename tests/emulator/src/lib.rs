//! Plays a GPU, and its driver (`driver`): runs kernels that were compiled for one (`nnc::emit::cuda::emulated`) with a stack for each thread.
//!
//! In: loaded objects. Out: what a GPU would write, if it ran its threads in this order ([`Order`]). One thread runs at a time, until it waits for others.
//! Shared memory is poisoned before each block, so that what was not written by the block shows. Threads that wait for each other forever, or for
//! one that has ended, are a panic: the code is wrong.

mod block;
mod driver;

use block::Block;
use nnc_runtime::exec::Kernels;
use nnc_runtime::loader::Loader;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Which thread runs next where several can. A right program's results do not depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The first.
    Forward,
    /// The last.
    Backward,
    /// Any, by this seed.
    Random(u64),
}

/// A wait that threads leave out, to see whether tests notice: the one of each thread that has this number, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// For the block.
    Barrier(u64),
    /// For the team.
    Team(u64),
}

/// A GPU that runs loaded kernels.
pub struct Emulator {
    kernels: Loader,
    threads: usize,
    blocks: usize,
    order: Order,
    fault: Option<Fault>,
    switches: AtomicU64,
}

impl Emulator {
    /// For kernels whose blocks have so many threads; every launch has this many blocks.
    pub fn new(kernels: Loader, threads: usize, blocks: usize, order: Order) -> Emulator {
        Emulator { kernels, threads, blocks, order, fault: None, switches: AtomicU64::new(0) }
    }

    /// The same with a mistake in it.
    pub fn with(self, fault: Fault) -> Emulator {
        Emulator { fault: Some(fault), ..self }
    }

    /// How often threads have waited for others so far.
    pub fn waits(&self) -> u64 {
        self.switches.load(Relaxed)
    }
}

impl Kernels for Emulator {
    /// Runs the whole kernel for the range that begins at 0 and has tasks, and nothing for others: blocks share out the work among themselves.
    unsafe fn run(&self, kernel: u32, args: &[*mut u8], sizes: &[i64], lo: i64, hi: i64, _: *mut u8) -> i64 {
        if lo != 0 || hi <= 0 {
            return 0;
        }
        let run = |context: *mut u8| {
            // Safety: the caller's; the context lives as long as the call.
            unsafe { self.kernels.run(kernel, args, sizes, 0, 0, context) };
        };
        let failed = (0..self.blocks).map(|number| {
            let mut block = Block::new(number, self.blocks, self.threads, self.order, self.fault);
            block.run(&run);
            self.switches.fetch_add(block.waits, Relaxed);
            block.failed
        });
        failed.max().unwrap_or(0)
    }
}
