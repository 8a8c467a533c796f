//! What a program costs besides its steps: how long it takes to build and how that grows, the artifact's size, the memory of a training, the rest of an epoch.
//!
//! In: an optimised nnc, programs of `models`. Out: a table of figures beside their bounds. What is compared takes turns, and a ratio is the median over
//! rounds, so that load on the machine meets both sides.

use crate::bench::middle;
use crate::ship::resident;
use crate::variant::variant;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

const FOLDER: &str = "target/costs";
const ROUNDS: usize = 7;
/// Epochs of a short training and of a long one: their difference has no start and no end in it.
const EPOCHS: [u64; 2] = [200, 2200];

/// A figure, and the most that it should be.
struct Cost {
    what: &'static str,
    figure: f64,
    most: f64,
    unit: &'static str,
}

/// Measures everything. `build` builds nnc and nnc-run and says where they are.
///
/// # Errors
/// A program fails, or a figure is beyond its bound.
pub fn run(build: &dyn Fn() -> Result<PathBuf, String>) -> Result<(), String> {
    let binaries = build()?;
    let _ = std::fs::remove_dir_all(FOLDER);
    std::fs::create_dir_all(FOLDER).map_err(|e| format!("cannot make {FOLDER}: {e}"))?;
    let nnc = Nnc { binaries };
    let file = |name: &str| Path::new(FOLDER).join(name);
    let gpt = |layers: u64| variant(&file(&format!("gpt-{layers}.nn")), "gpt_small", &[("repeat(6,", &format!("repeat({layers},"))]);
    let lstm =
        |steps: u64| variant(&file(&format!("lstm-{steps}.nn")), "lstm", &[("dim B, T", "dim B"), ("const ", &format!("const T = {steps}, "))]);
    let digits = "models/digits.nn";
    let (seconds, artifact) = nnc.build(Path::new(digits))?;
    let times: Vec<f64> = (1..ROUNDS).map(|_| nnc.build(Path::new(digits)).map(|(seconds, _)| seconds)).collect::<Result<_, _>>()?;
    let bytes = std::fs::metadata(&artifact).map_err(|e| format!("cannot find {}: {e}", artifact.display()))?.len();
    let memory = resident(nnc.training(&artifact, 30, 2).args(["--run-dir", &format!("{FOLDER}/memory")]))?;
    let (_, mnist) = nnc.build(Path::new("models/bench/mnist_mlp.nn"))?;
    let costs = [
        Cost { what: "building models/digits.nn", figure: middle(times.into_iter().chain([seconds])), most: 0.3, unit: "s" },
        Cost { what: "its artifact, code for AVX2 and AVX-512", figure: bytes as f64 / 1e3, most: 210.0, unit: "KB" },
        Cost { what: "building a GPT of 24 layers, against one of 2", figure: nnc.growth([&gpt(2)?, &gpt(24)?])?, most: 1.3, unit: "times" },
        Cost { what: "building an LSTM over 1,024 steps, against 16", figure: nnc.growth([&lstm(16)?, &lstm(1024)?])?, most: 1.1, unit: "times" },
        Cost { what: "memory of training digits on 2 threads", figure: memory as f64 * 1024.0 / 1e6, most: 25.0, unit: "MB" },
        Cost { what: "an epoch of digits, against its steps alone", figure: nnc.epoch(&artifact)?, most: 1.5, unit: "times" },
        Cost { what: "a step of digits with --profile, against without", figure: nnc.profiled(&artifact)?, most: 1.02, unit: "times" },
        Cost { what: "a step of mnist_mlp with --profile", figure: nnc.profiled(&mnist)?, most: 1.02, unit: "times" },
    ];
    println!("{:48} {:>8}  {:>8}", "", "figure", "at most");
    costs.iter().for_each(|Cost { what, figure, most, unit }| println!("{what:48} {figure:8.2}  {most:8.2}  {unit}"));
    let beyond: Vec<&str> = costs.iter().filter(|c| c.figure.is_nan() || c.figure > c.most).map(|c| c.what).collect();
    if beyond.is_empty() { Ok(()) } else { Err(format!("more than it should be: {}", beyond.join("; "))) }
}

/// The programs that are measured.
struct Nnc {
    binaries: PathBuf,
}

impl Nnc {
    /// Compiles a program: seconds of the whole process, and the artifact.
    fn build(&self, program: &Path) -> Result<(f64, PathBuf), String> {
        let artifact = Path::new(FOLDER).join(program.file_name().unwrap_or_default()).with_extension("nnc");
        let mut command = Command::new(self.binaries.join("nnc"));
        let seconds = timed(command.arg("build").arg(program).arg("-o").arg(&artifact).arg("--quiet"))?;
        Ok((seconds, artifact))
    }

    /// How many times longer the second program takes.
    fn growth(&self, [small, large]: [&Path; 2]) -> Result<f64, String> {
        let round = |_| Ok(self.build(large)?.0 / self.build(small)?.0);
        let ratios: Vec<f64> = (0..ROUNDS).map(round).collect::<Result<_, String>>()?;
        Ok(middle(ratios.into_iter()))
    }

    /// A training of digits that does not stop early.
    fn training(&self, artifact: &Path, epochs: u64, threads: usize) -> Command {
        let mut command = Command::new(self.binaries.join("nnc-run"));
        command.arg(artifact).args(["train", "--quiet", "--threads", &threads.to_string()]);
        command.args(["--set", &format!("train.epochs={epochs}"), "--set", &format!("train.early_stop.patience={epochs}")]);
        command
    }

    /// An epoch's time, divided by that of as many steps with one batch in memory; on one thread.
    fn epoch(&self, artifact: &Path) -> Result<f64, String> {
        let mut ratios = vec![];
        for _ in 0..ROUNDS {
            let [short, long] = EPOCHS.map(|epochs| {
                let folder = format!("{FOLDER}/{epochs}");
                let _ = std::fs::remove_dir_all(&folder);
                timed(self.training(artifact, epochs, 1).args(["--run-dir", &folder]))
            });
            let epoch = (long? - short?) / (EPOCHS[1] - EPOCHS[0]) as f64;
            let step = self.step(artifact, &[])?;
            ratios.push(epoch / (step * steps(&format!("{FOLDER}/{}", EPOCHS[0]))? / EPOCHS[0] as f64));
        }
        Ok(middle(ratios.into_iter()))
    }

    /// How many times longer a training step takes where it is profiled.
    fn profiled(&self, artifact: &Path) -> Result<f64, String> {
        let round = |_| Ok(self.step(artifact, &["--profile"])? / self.step(artifact, &[])?);
        let ratios: Vec<f64> = (0..2 * ROUNDS).map(round).collect::<Result<_, String>>()?;
        Ok(middle(ratios.into_iter()))
    }

    /// Seconds of a training step.
    fn step(&self, artifact: &Path, options: &[&str]) -> Result<f64, String> {
        let mut command = Command::new(self.binaries.join("nnc-run"));
        let output = command.arg(artifact).args(["bench", "train", "--threads", "1", "--rounds", "1", "--json"]).args(options).output();
        let output = output.map_err(|e| format!("cannot start nnc-run: {e}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let median = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()?["median_ms"].as_f64()).next_back();
        median.map(|ms| ms / 1e3).ok_or_else(|| format!("nnc-run bench says no time:\n{text}{}", String::from_utf8_lossy(&output.stderr)))
    }
}

/// How many steps the run in this folder has done.
fn steps(folder: &str) -> Result<f64, String> {
    let log = format!("{folder}/log.jsonl");
    let text = std::fs::read_to_string(&log).map_err(|e| format!("cannot read {log}: {e}"))?;
    let done = text.lines().last().and_then(|line| serde_json::from_str::<serde_json::Value>(line).ok()?["done"]["steps"].as_f64());
    done.ok_or_else(|| format!("{log} does not say how many steps were done"))
}

/// Seconds that a process takes, from its start to its end.
fn timed(command: &mut Command) -> Result<f64, String> {
    let began = Instant::now();
    resident(command)?;
    Ok(began.elapsed().as_secs_f64())
}
