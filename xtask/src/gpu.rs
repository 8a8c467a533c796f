//! What only a GPU can show: the models run on it and on the CPU, what comes out is compared, and steps are timed.
//!
//! In: the programs of `models` and `models/bench`, or files. Out: a line each, appended to `target/gpu/results.jsonl` with the card and its driver; an
//! error where losses differ. Where there is no card, it says that nothing has run. With `--peers` and `--scripts`, as of `cargo xtask bench`, the suite is
//! timed on the card instead, against PyTorch on the same card.

use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

const HISTORY: &str = "target/gpu/results.jsonl";

/// Losses of the two may differ by this part of themselves: nothing, in exact arithmetic.
const TOLERANCE: f64 = 1e-5;

/// Runs these programs, or all shipped ones, on both.
pub fn run(args: &[String], nnc: &dyn Fn() -> Result<PathBuf, String>) -> Result<(), String> {
    let nnc = nnc()?.join("nnc");
    let doctor: Value = serde_json::from_str(&said(&nnc, &["doctor", "--json"])?).map_err(|e| format!("nnc doctor: {e}"))?;
    let card = doctor["gpu"]["found"].as_str().unwrap_or_default().to_string();
    if card.is_empty() || card.starts_with("none") {
        println!("NOT RUN: no card. {card}");
        return Ok(());
    }
    if args.iter().any(|a| a == "--peers") {
        println!("{card}\n");
        let folder = nnc.parent().map(Path::to_path_buf).unwrap_or_default();
        std::fs::create_dir_all("target/gpu").map_err(|e| format!("target/gpu: {e}"))?;
        let own = ["--gpu", "--json", "target/gpu/suite.jsonl", "--svg", "target/gpu/suite.svg"].map(String::from);
        return crate::bench::run(&[&own, args].concat(), &|_| Ok(folder.clone()));
    }
    println!("{card}\n\n{:32}{:>16}{:>14}{:>14}{:>10}", "program", "losses", "CPU ms", "GPU ms", "ratio");
    std::fs::create_dir_all("target/gpu").map_err(|e| format!("target/gpu: {e}"))?;
    let programs = if args.is_empty() { crate::ptxas::shipped()? } else { args.iter().map(PathBuf::from).collect() };
    let mut failed = vec![];
    for program in &programs {
        let text = std::fs::read_to_string(program).map_err(|e| format!("{}: {e}", program.display()))?;
        if !text.lines().any(|line| line.starts_with("train ")) {
            continue;
        }
        match compared(&nnc, program) {
            Ok(mut line) => {
                line["card"] = json!(card);
                let [losses, cpu, gpu] = ["losses", "cpu_ms", "gpu_ms"].map(|key| &line[key]);
                let number = |v: &Value| v.as_f64().unwrap_or(f64::NAN);
                let (cpu, gpu) = (number(cpu), number(gpu));
                println!("{:32}{:>16}{cpu:14.4}{gpu:14.4}{:10.2}", program.display(), losses.as_str().unwrap_or_default(), cpu / gpu);
                let mut file = std::fs::OpenOptions::new().create(true).append(true).open(HISTORY).map_err(|e| format!("{HISTORY}: {e}"))?;
                writeln!(file, "{line}").map_err(|e| format!("{HISTORY}: {e}"))?;
            }
            Err(why) => failed.push(format!("{}: {why}", program.display())),
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("{} of {} programs:\n{}", failed.len(), programs.len(), failed.join("\n"))) }
}

/// The losses of the same steps, and the medians of steps' times.
fn compared(nnc: &Path, program: &Path) -> Result<Value, String> {
    let program = program.to_string_lossy();
    let measured = |device: &str| -> Result<(Vec<f64>, f64), String> {
        let steps = said(nnc, &["bench", &program, "train", "--device", device, "--steps", "5", "--json"])?;
        let steps: Value = serde_json::from_str(steps.lines().next().unwrap_or_default()).map_err(|e| format!("nnc bench: {e}"))?;
        let losses: Vec<f64> = steps["losses"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        let rounds = said(nnc, &["bench", &program, "train", "--device", device, "--json", "--rounds", "5"])?;
        let rounds = rounds.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok()?["median_ms"].as_f64());
        // On a CPU there are rounds for one thread and for all.
        let best = rounds.fold(f64::INFINITY, f64::min);
        if losses.len() == 5 { Ok((losses, best)) } else { Err(format!("{} losses of 5 steps", losses.len())) }
    };
    let ((cpu, cpu_ms), (gpu, gpu_ms)) = (measured("cpu")?, measured("cuda")?);
    let far = cpu.iter().zip(&gpu).map(|(a, b)| (a - b).abs() / a.abs().max(1e-30)).fold(0.0, f64::max);
    if far > TOLERANCE {
        return Err(format!("losses differ by {far:.1e} of themselves: {cpu:?} on the CPU, {gpu:?} on the GPU"));
    }
    let losses = if cpu == gpu { "the same bits".to_string() } else { format!("within {far:.0e}") };
    Ok(json!({ "program": program, "losses": losses, "cpu_ms": cpu_ms, "gpu_ms": gpu_ms }))
}

fn said(nnc: &Path, args: &[&str]) -> Result<String, String> {
    let output = Command::new(nnc).args(args).output().map_err(|e| format!("cannot start {}: {e}", nnc.display()))?;
    let error = String::from_utf8_lossy(&output.stderr).trim_end().to_string();
    if output.status.success() { Ok(String::from_utf8_lossy(&output.stdout).into_owned()) } else { Err(format!("`nnc {}`: {error}", args.join(" "))) }
}
