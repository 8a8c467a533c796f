//! Who wants to know what a prepared entry's runs take.
//!
//! In: what each run and each of its lines took, on this machine's threads or on a GPU. Out: an account for the [`Profile`], once the entry is dropped.

use crate::exec::{Figures, Prepared};
use crate::launch::Op;
use crate::manifest::Manifest;
use crate::meter::Meter;
use crate::profile::{Account, Profile, Row};
use crate::sampling::{Sampling, Total};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// See the module.
pub(crate) struct Observer {
    profile: Arc<Mutex<Profile>>,
    /// Kernels' symbols.
    symbols: Vec<String>,
    pub runs: Sampling,
}

impl Prepared {
    /// From now on the runs' times are recorded, and added to `profile` when this is dropped.
    pub fn observe(&mut self, manifest: &Manifest, profile: &Arc<Mutex<Profile>>) {
        let traced = profile.lock().is_ok_and(|p| p.trace.is_some());
        let lines = self.table.ops.len();
        self.meter = Some(Meter::new(lines, self.threads(), if traced { crate::profile::EVENTS } else { 0 }));
        let symbols = manifest.kernels.iter().map(|k| k.symbol.clone()).collect();
        // What a GPU does in one go cannot be timed line by line.
        self.recorded = None;
        let runs = Sampling::new(traced, lines, self.figures().launches);
        self.observer = Some(Observer { profile: profile.clone(), symbols, runs });
    }

    pub(crate) fn is_observed(&self) -> bool {
        self.observer.is_some()
    }

    /// A run on a GPU, which this machine's clock saw begin, has taken so long; and of each line that it ran, whether a launch began, and from when to when
    /// after the run's begin, in nanoseconds.
    pub(crate) fn took(&mut self, time: Duration, began: u64, lines: &[(usize, bool, f64, f64)]) {
        let (Some(observer), Some(meter)) = (&mut self.observer, &self.meter) else { return };
        observer.runs.count(Some(time));
        let tick = meter.tick();
        let clock = |nanoseconds: f64| began + (nanoseconds / tick) as u64;
        lines.iter().for_each(|&(line, first, begin, end)| meter.record(0, line, first, clock(begin), clock(end)));
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        let (Some(mut observer), Some(mut meter)) = (self.observer.take(), self.meter.take()) else { return };
        let Total { runs, timed, nanoseconds, lines } = observer.runs.total(&mut meter);
        let Ok(mut profile) = observer.profile.lock() else { return };
        let what = |op: &Op| match op {
            Op::Launch { kernel, line, .. } => (observer.symbols[*kernel as usize].clone(), self.line(*line).to_string()),
            Op::Copy { .. } => ("copy".to_string(), String::new()),
            Op::Check { line, .. } => ("check".to_string(), self.line(*line).to_string()),
            Op::Loop { .. } | Op::Again { .. } => ("loop".to_string(), String::new()),
        };
        let row = |(at, &(nanoseconds, launches)): (usize, &(f64, u64))| {
            let (what, line) = what(&self.table.ops[at]);
            Row { what, line, launches, nanoseconds, bytes: self.bytes(at) * launches as f64, flops: self.flops[at] * launches as f64 }
        };
        let rows = lines.iter().enumerate().map(row).collect();
        let events =
            meter.events(profile.start).into_iter().map(|(thread, op, begin, length)| (what(&self.table.ops[op as usize]).0, thread, begin, length));
        let Figures { phases, wakes, .. } = self.figures();
        // On a GPU no thread of ours shares any.
        let shared = if self.recorded.is_some() { 0 } else { runs };
        let (phases, wakes) = (phases * shared as f64, wakes * shared);
        let account = Account { entry: self.name.clone(), runs, timed, nanoseconds, phases, wakes, rows };
        profile.add(account, events.collect());
    }
}
