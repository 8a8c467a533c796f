//! Which runs of a prepared entry are timed for a profile, and what all of them add up to.
//!
//! In: what a [`Meter`] has recorded. Out: lines, runs and times for a profile. To read the clock at every launch costs some ten nanoseconds each: the first
//! [`ALL`] runs are all timed, and where their launches take less than [`SHORT`] on average, one in [`NTH`] of those that follow, which stands for as many. A
//! trace wants every run.

use crate::meter::Meter;
use std::time::Duration;

/// So many runs are timed in any case.
const ALL: u64 = 8;
/// Nanoseconds of a launch, to which reading the clock adds less than a hundredth.
const SHORT: f64 = 2_000.0;
/// A prime number: what comes back every so many steps does not meet the same runs again and again.
const NTH: u64 = 7;

/// See the module.
pub(crate) struct Sampling {
    /// Every run is timed, however short.
    every: bool,
    /// Of one run.
    launches: f64,
    /// What was metered before the meter was cleared, line by line: nanoseconds and launches.
    lines: Vec<(f64, u64)>,
    first: Runs,
    /// After them, where not every run is timed.
    sample: Option<Runs>,
}

#[derive(Clone, Copy, Default)]
struct Runs {
    runs: u64,
    timed: u64,
    nanoseconds: f64,
}

/// All runs.
pub(crate) struct Total {
    pub runs: u64,
    /// Those that were timed.
    pub timed: u64,
    /// Of all runs, as those tell that were timed; so are the lines.
    pub nanoseconds: f64,
    pub lines: Vec<(f64, u64)>,
}

impl Sampling {
    /// Of an entry with so many lines, and so many launches a run.
    pub fn new(every: bool, lines: usize, launches: f64) -> Sampling {
        Sampling { every, launches, lines: vec![(0.0, 0); lines], first: Runs::default(), sample: None }
    }

    /// Whether the next run is to be timed.
    pub fn times(&self) -> bool {
        self.sample.is_none_or(|s| s.runs.is_multiple_of(NTH))
    }

    /// A run has ended, and took so long if it was timed.
    pub fn ran(&mut self, took: Option<Duration>, meter: &mut Meter) {
        self.count(took);
        let Runs { runs, nanoseconds, .. } = self.first;
        if self.sample.is_none() && runs == ALL && !self.every && nanoseconds < SHORT * self.launches * ALL as f64 {
            self.keep(&meter.lines());
            meter.clear();
            self.sample = Some(Runs::default());
        }
    }

    /// The same where the clock costs nothing.
    pub fn count(&mut self, took: Option<Duration>) {
        let runs = self.sample.as_mut().unwrap_or(&mut self.first);
        runs.runs += 1;
        if let Some(took) = took {
            (runs.timed, runs.nanoseconds) = (runs.timed + 1, runs.nanoseconds + took.as_nanos() as f64);
        }
    }

    /// Adds what the meter has before it is cleared.
    pub fn keep(&mut self, lines: &[(f64, u64)]) {
        self.lines.iter_mut().zip(lines).for_each(|(to, line)| *to = (to.0 + line.0, to.1 + line.1));
    }

    /// What all runs come to.
    pub fn total(&mut self, meter: &mut Meter) -> Total {
        let Runs { runs, timed, nanoseconds } = self.sample.unwrap_or_default();
        let scale = if timed == 0 { 1.0 } else { runs as f64 / timed as f64 };
        let lines: Vec<(f64, u64)> = meter.lines().iter().map(|(time, launches)| (time * scale, (*launches as f64 * scale).round() as u64)).collect();
        self.keep(&lines);
        let first = self.first;
        Total {
            runs: first.runs + runs,
            timed: first.timed + timed,
            nanoseconds: first.nanoseconds + nanoseconds * scale,
            lines: std::mem::take(&mut self.lines),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(runs: u64, nanoseconds: u64, trace: bool) -> (Total, u64) {
        let (mut sampling, mut meter) = (Sampling::new(trace, 2, 3.0), Meter::new(2, 1, 0));
        for run in 0..runs {
            let timed = sampling.times();
            if timed {
                // Line 0 runs once, before all others.
                meter.record(0, 0, run == 0, 0, 0);
                (0..3).for_each(|_| meter.record(0, 1, true, 0, 100));
            }
            sampling.ran(timed.then(|| Duration::from_nanos(nanoseconds)), &mut meter);
        }
        let total = sampling.total(&mut meter);
        let timed = total.timed;
        (total, timed)
    }

    #[test]
    fn one_in_seven_short_runs_is_timed_and_stands_for_all() {
        let (total, timed) = observed(8 + 70, 900, false);
        assert_eq!((total.runs, timed, total.nanoseconds), (78, 8 + 10, 78.0 * 900.0));
        assert_eq!((total.lines[0].1, total.lines[1].1), (1, 78 * 3));
        // Few, long, or traced: all.
        for (runs, nanoseconds, trace) in [(5, 900, false), (50, 9_000, false), (50, 900, true)] {
            let (total, timed) = observed(runs, nanoseconds, trace);
            assert_eq!((total.runs, timed, total.lines[1].1), (runs, runs, runs * 3));
        }
    }
}
