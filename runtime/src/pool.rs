//! A small pool of threads that stay awake between kernels: they spin for a moment, then sleep.
//!
//! In: a number of tasks and a function over contiguous ranges of them. Out: the code of the first range (by position) whose code is not 0.
//! Which thread runs a range never shows in the result.

use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering::SeqCst};
use std::thread::{self, JoinHandle};

/// Turns of the spinning loop before a waiting thread sleeps: some 20 to 50 microseconds.
const SPIN: u32 = 4000;

/// The code that stands for a panic inside a range.
const PANICKED: i64 = i64::MIN;

/// The part's number (below the number of parts), and the range of its tasks.
type Body<'a> = &'a (dyn Fn(usize, i64, i64) -> i64 + Sync);

/// What all ranges of one call share.
#[derive(Clone, Copy)]
struct Job {
    /// Borrowed from the caller of [`Pool::run`], who waits until nobody uses it any more.
    body: *const (dyn Fn(usize, i64, i64) -> i64 + Sync),
    tasks: i64,
    parts: usize,
}

struct Shared {
    /// Counts jobs. A worker that sees a new number reads `job`.
    epoch: AtomicUsize,
    job: UnsafeCell<Option<Job>>,
    /// Workers that have not finished the present job.
    pending: AtomicUsize,
    stop: AtomicBool,
    sleeping: Vec<AtomicBool>,
    codes: Vec<AtomicI64>,
}

// SAFETY: `job` is written only while no worker is busy (`pending == 0`) and read only after `epoch` has changed; all of these are SeqCst.
unsafe impl Sync for Shared {}
// SAFETY: the pointer inside `job` is only followed while the caller of `run` waits.
unsafe impl Send for Shared {}

/// The calling thread and `threads - 1` workers.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool of `threads` (at least 1); fewer where the system refuses to start that many.
    pub fn new(threads: usize) -> Pool {
        let wanted = threads.clamp(1, 1024);
        let shared = Arc::new(Shared {
            epoch: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            pending: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            sleeping: (0..wanted).map(|_| AtomicBool::new(false)).collect(),
            codes: (0..wanted).map(|_| AtomicI64::new(0)).collect(),
        });
        let start = |me: usize| {
            let shared = shared.clone();
            thread::Builder::new().name(format!("nnc-{me}")).spawn(move || work(&shared, me)).ok()
        };
        let workers = (1..wanted).map_while(start).collect();
        Pool { shared, workers }
    }

    /// Threads, the calling one included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `body` with ranges that cover `0..tasks`, at most `parts` of them at a time; 0, or the first code by position that is not.
    ///
    /// # Panics
    /// If `body` does.
    pub fn run(&mut self, tasks: i64, parts: usize, body: Body) -> i64 {
        let parts = parts.min(self.threads()).min(tasks.max(1) as usize);
        if parts <= 1 {
            return body(0, 0, tasks);
        }
        let shared = &self.shared;
        // SAFETY: this only forgets the lifetime of `body`. Nobody follows the pointer after `pending` is back at 0, which is awaited below.
        let body: *const (dyn Fn(usize, i64, i64) -> i64 + Sync) = unsafe { std::mem::transmute(body) };
        let job = Job { body, tasks, parts };
        // SAFETY: `pending` is 0 and `&mut self` keeps other callers out, so that no worker reads `job`.
        unsafe { *shared.job.get() = Some(job) };
        shared.pending.store(self.workers.len(), SeqCst);
        shared.epoch.fetch_add(1, SeqCst);
        for (i, worker) in self.workers.iter().enumerate() {
            if shared.sleeping[i + 1].swap(false, SeqCst) {
                worker.thread().unpark();
            }
        }
        range(shared, job, 0);
        let mut turns = 0;
        while shared.pending.load(SeqCst) != 0 {
            turns += 1;
            if turns < SPIN { std::hint::spin_loop() } else { thread::yield_now() }
        }
        let code = shared.codes[..parts].iter().map(|c| c.load(SeqCst)).find(|&c| c != 0).unwrap_or(0);
        assert!(code != PANICKED, "a kernel panicked on a worker thread");
        code
    }
}

/// Runs part number `me` of the job, where it has one.
fn range(shared: &Shared, job: Job, me: usize) {
    if me < job.parts {
        let cut = |i: usize| (job.tasks as i128 * i as i128 / job.parts as i128) as i64;
        // SAFETY: the caller of `Pool::run` keeps the function alive until every worker has reported.
        let body = unsafe { &*job.body };
        let code = catch_unwind(AssertUnwindSafe(|| body(me, cut(me), cut(me + 1)))).unwrap_or(PANICKED);
        shared.codes[me].store(code, SeqCst);
    }
}

/// A worker's life.
fn work(shared: &Shared, me: usize) {
    let mut seen = 0;
    loop {
        let mut turns = 0;
        while shared.epoch.load(SeqCst) == seen {
            if shared.stop.load(SeqCst) {
                return;
            }
            turns += 1;
            if turns < SPIN {
                std::hint::spin_loop();
                continue;
            }
            shared.sleeping[me].store(true, SeqCst);
            // Looked at again: whoever changed it before seeing `sleeping` will not wake this thread.
            if shared.epoch.load(SeqCst) == seen && !shared.stop.load(SeqCst) {
                thread::park();
            }
            shared.sleeping[me].store(false, SeqCst);
        }
        seen += 1;
        // SAFETY: the epoch has changed and `pending` still counts this worker, so `job` is complete and stays.
        if let Some(job) = unsafe { *shared.job.get() } {
            range(shared, job, me);
        }
        shared.pending.fetch_sub(1, SeqCst);
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

    #[test]
    fn every_task_runs_once_whatever_the_number_of_threads() {
        for threads in [1, 2, 3, 7] {
            let mut pool = Pool::new(threads);
            for tasks in [0, 1, 5, 1000] {
                let hits: Vec<AtomicI64> = (0..tasks).map(|_| AtomicI64::new(0)).collect();
                let code = pool.run(tasks, 7, &|part, lo, hi| {
                    assert!(part < threads);
                    (lo..hi).for_each(|i| _ = hits[i as usize].fetch_add(1, SeqCst));
                    (lo..hi).find(|&i| i == 700 || i == 900).unwrap_or(0)
                });
                assert!(hits.iter().all(|h| h.load(SeqCst) == 1));
                assert_eq!(code, if tasks == 1000 { 700 } else { 0 });
            }
        }
    }
}
