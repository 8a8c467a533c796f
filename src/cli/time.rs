//! `--time`: what each stage takes. Stages follow each other, so their times add up to the total.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

/// A clock that runs from stage to stage.
pub struct Clock {
    start: Instant,
    last: Cell<Instant>,
    stages: RefCell<Vec<(&'static str, Duration)>>,
}

impl Clock {
    /// Begins.
    pub fn start() -> Clock {
        let now = Instant::now();
        Clock { start: now, last: Cell::new(now), stages: RefCell::default() }
    }

    /// The stage ends, and the next one begins.
    pub fn mark(&self, stage: &'static str) {
        let now = Instant::now();
        self.stages.borrow_mut().push((stage, now - self.last.replace(now)));
    }

    /// The table: stages in order, and the total.
    pub fn text(&self) -> String {
        let stages = self.stages.borrow();
        let total = ("total", self.last.get() - self.start);
        let line = |(name, time): &(&str, Duration)| format!("{name:16}{:>10.1} ms\n", time.as_secs_f64() * 1e3);
        stages.iter().chain([&total]).map(line).collect()
    }
}
