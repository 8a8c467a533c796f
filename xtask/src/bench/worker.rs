//! A process that times something whenever it is told to: nnc or a peer. They wait while another one is measured, so that all meet the machine in the same moods.

use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

/// A process under way.
pub struct Worker {
    /// `nnc 2`, `torch+ 2`
    pub name: String,
    /// What it said first.
    pub head: Value,
    /// From its start to its first line: everything up to the end of the first step.
    pub start_seconds: f64,
    /// What it has measured.
    pub rounds: Vec<Round>,
    /// Its most memory so far, in MB.
    pub memory: f64,
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

/// A round of steps, in milliseconds a step.
#[derive(Clone, Copy, Debug)]
pub struct Round {
    /// Of the round.
    pub median: f64,
    /// Of the round.
    pub min: f64,
    /// GFLOP/s of multiply-adds in registers just before, where the worker measures it.
    pub peak: Option<f64>,
    /// GFLOP/s of tiles in the first cache.
    pub tile: Option<f64>,
}

impl Worker {
    /// Starts it and waits until it is ready.
    ///
    /// # Errors
    /// It cannot be started, or ends before it is ready: its last words.
    pub fn start(name: &str, command: &mut Command) -> Result<Worker, String> {
        let began = Instant::now();
        let log = std::env::temp_dir().join(format!("nnc-bench-{}-{}", std::process::id(), name.replace(' ', "-")));
        let errors = std::fs::File::create(&log).map_err(|e| format!("cannot write {}: {e}", log.display()))?;
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors).spawn();
        let mut child = spawned.map_err(|e| format!("cannot start {name}: {e}"))?;
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().expect("a pipe")));
        let mut worker = Worker { name: name.into(), head: Value::Null, start_seconds: 0.0, rounds: vec![], memory: 0.0, child, input, output };
        let head = worker.line().map_err(|e| {
            let text = std::fs::read_to_string(&log).unwrap_or_default();
            text.lines().rfind(|l| !l.trim().is_empty()).map_or(e, |last| format!("{name}: {last}"))
        });
        let _ = std::fs::remove_file(&log);
        worker.head = head?;
        worker.start_seconds = began.elapsed().as_secs_f64();
        Ok(worker)
    }

    fn line(&mut self) -> Result<Value, String> {
        let mut text = String::new();
        let read = self.output.read_line(&mut text);
        match (read, serde_json::from_str::<Value>(&text)) {
            (Ok(n), Ok(value)) if n > 0 => {
                self.memory = value["rss_kb"].as_f64().map_or(self.memory, |kb| self.memory.max(kb / 1024.0));
                Ok(value)
            }
            _ => Err(format!("{} has ended: {text}", self.name)),
        }
    }

    /// Steps for so many seconds.
    ///
    /// # Errors
    /// The worker has ended.
    pub fn round(&mut self, seconds: f64) -> Result<(), String> {
        let input = self.input.as_mut().expect("open until dropped");
        writeln!(input, "{seconds}").and_then(|()| input.flush()).map_err(|e| format!("{} has ended: {e}", self.name))?;
        let line = self.line()?;
        let (Some(median), Some(min)) = (line["median_ms"].as_f64(), line["min_ms"].as_f64()) else {
            return Err(format!("{} answers {line}", self.name));
        };
        self.rounds.push(Round { median, min, peak: line["peak_gflops"].as_f64(), tile: line["tile_gflops"].as_f64() });
        Ok(())
    }

    /// The median of the rounds' medians.
    pub fn median(&self) -> f64 {
        middle(self.rounds.iter().map(|r| r.median))
    }

    /// The fastest step.
    pub fn min(&self) -> f64 {
        self.rounds.iter().map(|r| r.min).fold(f64::INFINITY, f64::min)
    }

    /// The median, over rounds, of this worker's time divided by the other's in the same round.
    pub fn ratio(&self, other: &Worker) -> f64 {
        middle(self.rounds.iter().zip(&other.rounds).map(|(a, b)| a.median / b.median))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The end of its input ends it.
        self.input = None;
        let _ = self.child.wait();
    }
}

/// The middle one of some numbers.
pub fn middle(values: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = values.collect();
    all.sort_unstable_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}
