//! What each step of a launch table takes, on every thread.
//!
//! In: begin and end of what a thread did. Out: time and launches of every line of the table, and the first events for a picture over time. Recording takes
//! some ten nanoseconds and allocates nothing; a run without a meter does not look at the clock.

use std::cell::UnsafeCell;
use std::time::Instant;

/// The processor's clock, in units of its own.
#[inline]
pub fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has it.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        use std::sync::OnceLock;
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }
}

/// Something that a thread did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The line of the table.
    pub op: u32,
    /// In ticks.
    pub begin: u64,
    /// In ticks.
    pub end: u64,
}

/// What one thread has recorded.
#[repr(align(128))]
struct Own(UnsafeCell<Record>);

struct Record {
    ticks: Vec<u64>,
    launches: Vec<u64>,
    events: Vec<Event>,
}

/// Records.
pub struct Meter {
    threads: Vec<Own>,
    began: (Instant, u64),
}

// SAFETY: every thread writes its own record; they are read with `&mut Meter` or after the run.
unsafe impl Sync for Meter {}

impl Meter {
    /// For a table of `ops` lines, with at most `events` events a thread.
    pub fn new(ops: usize, threads: usize, events: usize) -> Meter {
        let record = |_| Own(UnsafeCell::new(Record { ticks: vec![0; ops], launches: vec![0; ops], events: Vec::with_capacity(events) }));
        Meter { threads: (0..threads.max(1)).map(record).collect(), began: (Instant::now(), ticks()) }
    }

    /// A thread did (a part of) line `op`; `first` for one part of every launch.
    pub(crate) fn record(&self, thread: usize, op: usize, first: bool, begin: u64, end: u64) {
        // SAFETY: only thread number `thread` comes here with this number while a run lasts.
        let own = unsafe { &mut *self.threads[thread].0.get() };
        own.ticks[op] += end.wrapping_sub(begin);
        own.launches[op] += first as u64;
        if own.events.len() < own.events.capacity() {
            own.events.push(Event { op: op as u32, begin, end });
        }
    }

    /// Forgets the lines; events stay.
    pub fn clear(&mut self) {
        for own in &mut self.threads {
            let record = own.0.get_mut();
            record.ticks.fill(0);
            record.launches.fill(0);
        }
    }

    /// Nanoseconds (of all threads together) and launches of every line since the meter was made or cleared.
    pub fn lines(&mut self) -> Vec<(f64, u64)> {
        let tick = self.tick();
        let ops = self.threads[0].0.get_mut().ticks.len();
        let mut lines = vec![(0.0, 0); ops];
        for own in &mut self.threads {
            let record = own.0.get_mut();
            for (line, (ticks, launches)) in lines.iter_mut().zip(record.ticks.iter().zip(&record.launches)) {
                *line = (line.0 + *ticks as f64 * tick, line.1 + launches);
            }
        }
        lines
    }

    /// The events: thread, line, at how many nanoseconds after `start` (in ticks) it began, and how long it took.
    pub fn events(&mut self, start: u64) -> Vec<(usize, u32, f64, f64)> {
        let tick = self.tick();
        let mut all = vec![];
        for (thread, own) in self.threads.iter_mut().enumerate() {
            let events = &own.0.get_mut().events;
            all.extend(events.iter().map(|e| (thread, e.op, e.begin.saturating_sub(start) as f64 * tick, e.end.wrapping_sub(e.begin) as f64 * tick)));
        }
        all
    }

    /// Nanoseconds a tick, measured from the start until now.
    pub(crate) fn tick(&self) -> f64 {
        let passed = ticks().wrapping_sub(self.began.1);
        if passed == 0 { 0.0 } else { self.began.0.elapsed().as_nanos() as f64 / passed as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_add_up_over_threads_and_events_are_bounded() {
        let mut meter = Meter::new(2, 2, 1);
        let start = ticks();
        std::thread::sleep(std::time::Duration::from_millis(5));
        let end = ticks();
        meter.record(0, 1, true, start, end);
        meter.record(1, 1, false, start, end);
        meter.record(1, 0, true, start, start);
        let lines = meter.lines();
        assert_eq!((lines[0], lines[1].1), ((0.0, 1), 1));
        assert!((9e6..1e9).contains(&lines[1].0), "{lines:?}");
        let events = meter.events(start);
        assert_eq!(events.iter().map(|e| (e.0, e.1)).collect::<Vec<_>>(), [(0, 1), (1, 1)]);
        assert!(events.iter().all(|e| e.3 >= 4.5e6), "{events:?}");
        meter.clear();
        assert_eq!(meter.lines(), [(0.0, 0); 2]);
    }
}
