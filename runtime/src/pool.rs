//! A small pool of threads that work on one region after the other: they spin while a region runs, and sleep when nothing happens for a while.
//!
//! In: a [`Region`], a list of phases, each of up to [`CHUNKS`] independent chunks. Out: every chunk of every phase has been run once, the phases in
//! order. Which thread runs a chunk never shows in the result.
//!
//! Chunks that nobody has claimed are the bits of one word: a thread claims the next one after its own place in the word, so that in equal phases it
//! meets the same chunks again, and helps out with others' when it has none. Whoever ends the last chunk of a phase goes on to the next: it runs what is
//! serial in between itself, so that a phase costs one handing over and nobody waits for a thread that does nothing (one that sleeps, or has lost
//! its core to another program).

use crate::error::{Result, RunError};
use crate::memory::Scratch;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// Chunks a phase has at most.
pub const CHUNKS: usize = 64;

/// Turns that a thread with nothing to do spins before it offers its core to others at every turn.
const SPIN: u32 = 2000;
/// After this long it sleeps.
const IDLE: Duration = Duration::from_millis(1);

/// Work in phases.
pub trait Region: Sync {
    /// Does what comes before the next phase, on the calling thread, number `thread` of the pool; gives the number of its chunks, or 0 at the end.
    /// Nothing else of the region runs meanwhile.
    fn next(&self, thread: usize) -> usize;

    /// Runs a chunk of the present phase. Chunks run in any order, side by side.
    fn chunk(&self, chunk: usize, thread: usize);
}

/// A cache line of its own: what other threads write beside it does not slow it down.
#[repr(align(128))]
pub(crate) struct Apart<T>(pub T);

struct Shared {
    /// Chunks of the present phase that nobody has claimed. Whoever clears a bit owns that chunk.
    free: Apart<AtomicU64>,
    /// Chunks that have not ended.
    left: Apart<AtomicUsize>,
    /// Chunks of the present phase.
    chunks: AtomicUsize,
    /// Borrowed from the caller of [`Pool::run`], who waits for `done`.
    region: UnsafeCell<Option<*const dyn Region>>,
    done: AtomicBool,
    panicked: AtomicBool,
    stop: AtomicBool,
    sleeping: Vec<AtomicBool>,
    /// The workers, to wake them; number `i` is thread `i + 1`. Set once they have started.
    workers: OnceLock<Vec<Thread>>,
    /// Threads the pool was asked for.
    threads: usize,
    /// There are more of them than cores: a thread that waits takes time from one that works.
    crowded: bool,
}

// SAFETY: `region` is written while no chunk is free or running, and read by owners of chunks; `free` orders the two.
unsafe impl Sync for Shared {}
// SAFETY: the pointer inside `region` is only followed while the caller of `run` waits.
unsafe impl Send for Shared {}

/// The calling thread and `threads - 1` workers.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// What its threads work in, beside the buffers of what they run.
    scratch: Scratch,
}

impl Pool {
    /// A pool of `threads` (at least 1), all of them up; fewer where the system refuses to start that many.
    pub fn new(threads: usize) -> Pool {
        let wanted = threads.clamp(1, 1024);
        let cores = thread::available_parallelism().map_or(1, |n| n.get());
        let shared = Arc::new(Shared {
            free: Apart(AtomicU64::new(0)),
            left: Apart(AtomicUsize::new(0)),
            chunks: AtomicUsize::new(0),
            region: UnsafeCell::new(None),
            done: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            sleeping: (0..wanted).map(|_| AtomicBool::new(false)).collect(),
            workers: OnceLock::new(),
            threads: wanted,
            crowded: wanted > cores,
        });
        let mut pool = Pool { shared, workers: vec![], scratch: Scratch::default() };
        let (up, all) = mpsc::channel();
        for me in 1..wanted {
            let (shared, up) = (pool.shared.clone(), up.clone());
            let life = move || {
                let _ = up.send(());
                drop(up);
                shared.serve(me);
            };
            match thread::Builder::new().name(format!("nnc-{me}")).spawn(life) {
                Ok(worker) => pool.workers.push(worker),
                Err(_) => break,
            }
        }
        pool.workers.iter().for_each(|_| _ = all.recv());
        let _ = pool.shared.workers.set(pool.workers.iter().map(|w| w.thread().clone()).collect());
        pool
    }

    /// Threads, the calling one included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// `each` bytes for each thread, one after the other, for whatever runs next: as they were left, or new ones where there were fewer.
    ///
    /// # Errors
    /// The system has no such memory.
    pub(crate) fn scratch(&mut self, each: usize) -> Result<*mut u8> {
        let bytes = each.checked_mul(self.threads()).ok_or_else(|| RunError::World(format!("{each} bytes a thread do not fit in memory")))?;
        if self.scratch.bytes() < bytes {
            // What is too small goes first.
            self.scratch = Scratch::default();
            self.scratch = Scratch::new(bytes)?;
        }
        Ok(self.scratch.as_ptr())
    }

    /// Runs the region to its end.
    ///
    /// # Panics
    /// If the region does, on whatever thread.
    pub fn run(&mut self, region: &dyn Region) {
        let shared = &*self.shared;
        if self.workers.is_empty() {
            loop {
                match region.next(0) {
                    0 => return,
                    n => (0..n).for_each(|c| region.chunk(c, 0)),
                }
            }
        }
        // Those who sleep wake up while the first serial part runs.
        shared.wake();
        let first = region.next(0);
        if first == 0 {
            return;
        }
        // SAFETY: this only forgets the lifetime: nobody follows the pointer once `done` is set, which is awaited below.
        let region: *const (dyn Region + 'static) = unsafe { std::mem::transmute(region) };
        // SAFETY: no chunk is free or running, so nobody reads it.
        unsafe { *shared.region.get() = Some(region) };
        shared.done.store(false, Relaxed);
        shared.panicked.store(false, Relaxed);
        shared.open(first);
        let mut idle = Idle::default();
        while !shared.done.load(Acquire) {
            if shared.work(0) {
                idle = Idle::default();
            } else {
                idle.turn(shared.crowded);
            }
        }
        assert!(!shared.panicked.load(Relaxed), "a kernel panicked");
    }
}

impl Shared {
    /// Opens a phase of `n` chunks.
    fn open(&self, n: usize) {
        assert!(n <= CHUNKS, "a phase of {n} chunks");
        self.left.0.store(n, Relaxed);
        self.chunks.store(n, Relaxed);
        // Chunk `c` is bit `64 c / n`: chunks are spread over the word as threads are.
        let bits = (0..n).fold(0, |bits, c| bits | 1 << (c * 64 / n));
        self.free.0.store(bits, SeqCst);
        if n > 1 {
            self.wake();
        }
    }

    /// Wakes who sleeps.
    fn wake(&self) {
        for (worker, sleeping) in self.workers.get().into_iter().flatten().zip(&self.sleeping[1..]) {
            if sleeping.load(SeqCst) && sleeping.swap(false, SeqCst) {
                worker.unpark();
            }
        }
    }

    /// Claims a chunk.
    fn claim(&self, me: usize) -> Option<usize> {
        let start = (me * 64 / self.threads) as u32;
        let mut free = self.free.0.load(Relaxed);
        while free != 0 {
            let bit = (free.rotate_right(start).trailing_zeros() + start) % 64;
            // Acquires what the opener of the phase wrote before: every change since then was one of these.
            free = self.free.0.fetch_and(!(1 << bit), AcqRel);
            if free >> bit & 1 == 1 {
                let n = self.chunks.load(Relaxed);
                return Some((bit as usize * n).div_ceil(64));
            }
        }
        None
    }

    /// Runs a chunk, if there is one, and whatever comes after the phase if it was the last to end.
    fn work(&self, me: usize) -> bool {
        let Some(chunk) = self.claim(me) else { return false };
        // SAFETY: whoever owns a chunk may follow the pointer until it has reported the chunk's end.
        let region = unsafe { *self.region.get() }.expect("chunks belong to a region");
        // SAFETY: as above, in all three.
        if catch_unwind(AssertUnwindSafe(|| unsafe { (*region).chunk(chunk, me) })).is_err() {
            self.panicked.store(true, Relaxed);
        }
        if self.left.0.fetch_sub(1, AcqRel) == 1 {
            // The last to end: nothing of the region runs now, and the caller of `run` waits for `done`.
            let next = || if self.panicked.load(Relaxed) { 0 } else { unsafe { (*region).next(me) } };
            let n = catch_unwind(AssertUnwindSafe(next)).unwrap_or_else(|_| {
                self.panicked.store(true, Relaxed);
                0
            });
            match n {
                0 => self.done.store(true, Release),
                n => self.open(n),
            }
        }
        true
    }

    /// A worker's life.
    fn serve(&self, me: usize) {
        let mut idle = Idle::default();
        while !self.stop.load(Relaxed) {
            if self.work(me) {
                idle = Idle::default();
            } else if idle.turn(self.crowded) {
                self.sleeping[me].store(true, SeqCst);
                // Looked at again: whoever opened a phase before seeing `sleeping` will not wake this thread.
                if self.free.0.load(SeqCst) == 0 && !self.stop.load(SeqCst) {
                    thread::park();
                }
                self.sleeping[me].store(false, SeqCst);
                idle = Idle::default();
            }
        }
    }
}

/// A thread with nothing to do.
#[derive(Default)]
struct Idle {
    turns: u32,
    since: Option<Instant>,
}

impl Idle {
    /// Waits a moment; true once it is time to sleep.
    fn turn(&mut self, crowded: bool) -> bool {
        self.turns += 1;
        let spin = if crowded { SPIN / 100 } else { SPIN };
        if self.turns < spin {
            std::hint::spin_loop();
            return false;
        }
        thread::yield_now();
        let now = Instant::now();
        now - *self.since.get_or_insert(now) > IDLE
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Phase `k` has `phases[k]` chunks; every one adds to its own count, and no two phases overlap.
    struct Counted {
        phases: Vec<usize>,
        at: AtomicUsize,
        hits: Vec<Vec<AtomicUsize>>,
        running: AtomicUsize,
        /// Phase and chunk that panic; chunk [`CHUNKS`] is the serial part before the phase.
        panics: Option<(usize, usize)>,
    }

    impl Counted {
        fn new(phases: &[usize]) -> Counted {
            let hits = phases.iter().map(|n| (0..*n).map(|_| AtomicUsize::new(0)).collect()).collect();
            Counted { phases: phases.to_vec(), at: AtomicUsize::new(0), hits, running: AtomicUsize::new(0), panics: None }
        }

        fn check(&self) {
            assert!(self.hits.iter().flatten().all(|n| n.load(Relaxed) == 1), "{:?}", self.hits);
        }
    }

    impl Region for Counted {
        fn next(&self, _: usize) -> usize {
            assert_eq!(self.running.load(SeqCst), 0, "a phase begins while another runs");
            let k = self.at.fetch_add(1, Relaxed);
            assert!(self.panics != Some((k, CHUNKS)), "asked to");
            self.phases.get(k).copied().unwrap_or(0)
        }

        fn chunk(&self, chunk: usize, thread: usize) {
            self.running.fetch_add(1, SeqCst);
            let k = self.at.load(Relaxed) - 1;
            if thread % 2 == 1 {
                thread::yield_now();
            }
            self.hits[k][chunk].fetch_add(1, Relaxed);
            let panics = self.panics == Some((k, chunk));
            self.running.fetch_sub(1, SeqCst);
            assert!(!panics, "asked to");
        }
    }

    #[test]
    fn every_chunk_runs_once_whatever_the_number_of_threads() {
        for threads in [1, 2, 3, 7, 70] {
            let mut pool = Pool::new(threads);
            for phases in [&[][..], &[1], &[CHUNKS], &[3, 1, 64, 2, 63, 7], &[5; 40]] {
                let region = Counted::new(phases);
                pool.run(&region);
                region.check();
            }
        }
    }

    #[test]
    fn many_short_regions_on_more_threads_than_cores() {
        let mut pool = Pool::new(2 * thread::available_parallelism().map_or(1, |n| n.get()) + 1);
        for round in 0..3000 {
            let region = Counted::new(&[1 + round % CHUNKS, 2, 1 + round * 7 % 5]);
            pool.run(&region);
            region.check();
        }
    }

    #[test]
    fn sleepers_wake_up_and_a_sleeping_pool_can_be_dropped() {
        let mut pool = Pool::new(3);
        for _ in 0..3 {
            let asleep = || (1..3).all(|i| pool.shared.sleeping[i].load(SeqCst));
            while !asleep() {
                thread::sleep(Duration::from_millis(1));
            }
            // Chunks that wait for each other: without the sleepers this would never end.
            let (here, all) = (Mutex::new(0), std::sync::Condvar::new());
            struct Meet<'a>(&'a Mutex<i32>, &'a std::sync::Condvar, AtomicUsize);
            impl Region for Meet<'_> {
                fn next(&self, _: usize) -> usize {
                    3 - 3 * self.2.fetch_add(1, SeqCst).min(1)
                }
                fn chunk(&self, _: usize, _: usize) {
                    let mut here = self.0.lock().unwrap();
                    *here += 1;
                    self.1.notify_all();
                    while *here < 3 {
                        here = self.1.wait(here).unwrap();
                    }
                }
            }
            pool.run(&Meet(&here, &all, AtomicUsize::new(0)));
            assert_eq!(*here.lock().unwrap(), 3);
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let quiet = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let mut pool = Pool::new(3);
        let mut caught = vec![];
        for panics in [(0, 0), (0, 5), (1, 2), (1, CHUNKS), (2, CHUNKS)] {
            let region = Counted { panics: Some(panics), ..Counted::new(&[6, 3]) };
            caught.push(catch_unwind(AssertUnwindSafe(|| pool.run(&region))).is_err());
            let region = Counted::new(&[2, 9]);
            pool.run(&region);
            region.check();
        }
        std::panic::set_hook(quiet);
        assert_eq!(caught, [true; 5]);
    }
}
