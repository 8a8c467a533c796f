//! `nnc doctor`: whether this machine has what compiling and running need, tried and not only looked up.

use super::{Failure, build};
use crate::driver::{self, Input};
use crate::ir::DType;
use nnc_runtime::loader::{self, Loader};
use nnc_runtime::peak;
use serde_json::{Map, Value, json};
use std::time::Instant;

/// Arguments of `nnc doctor`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nnc doctor             ends with 4 where something is missing")]
pub struct Args {
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// What is tried: text to machine code and back to a number.
const PROGRAM: &str = "nn 1\ndim B\nmodel Trial(x: f32[B, 3]) -> real[B] { y[b] = sum[i](exp(x[b, i]))\n y }\n";

/// Runs the command.
pub fn run(args: Args) -> Result<(), Failure> {
    let found = [
        ("nnc", Ok(env!("CARGO_PKG_VERSION").to_string())),
        ("processor", processor()),
        ("code level", level()),
        ("llvm", crate::emit::version()),
        ("compiling", trial()),
        ("one core", speed()),
        ("memory", memory()),
        ("working folder", writable()),
        ("gpu", Ok(gpu())),
    ];
    if args.json {
        let entry = |(name, found): &(&str, Result<String, String>)| {
            let (Ok(text) | Err(text)) = found;
            (name.replace(' ', "_"), json!({ "ok": found.is_ok(), "found": text }))
        };
        let object: Map<String, Value> = found.iter().map(entry).collect();
        super::print(&format!("{}\n", Value::Object(object)))?;
    } else {
        for (name, found) in &found {
            let (mark, text) = match found {
                Ok(text) => ("", text),
                Err(text) => ("PROBLEM: ", text),
            };
            super::print(&format!("{name:16}{mark}{text}\n"))?;
        }
    }
    match found.iter().filter(|(_, f)| f.is_err()).count() {
        0 => Ok(()),
        1 => Err(Failure::world("there is 1 problem")),
        n => Err(Failure::world(format!("there are {n} problems"))),
    }
}

fn processor() -> Result<String, String> {
    let cores = std::thread::available_parallelism().map_err(|e| format!("cannot count the cores: {e}"))?;
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find(|l| l.starts_with("model name")).and_then(|l| l.split_once(": ")).map_or("of unknown name", |(_, name)| name);
    Ok(format!("{name}, {cores} threads"))
}

fn level() -> Result<String, String> {
    let level = loader::level().map_err(|e| e.to_string())?;
    Ok(format!("x86-64-{level}{}", if level == "v4" { " (AVX-512)" } else { " (AVX2)" }))
}

/// Compiles a program, runs it, compares.
fn trial() -> Result<String, String> {
    let start = Instant::now();
    let none = |_: &str| Err("no imports".to_string());
    let checked = driver::check(&Input { name: "trial.nn", text: PROGRAM, load: &none, real: DType::F32, set: vec![] });
    let program = checked.program.as_ref().ok_or("the trial program is refused")?;
    let compiled = driver::compile(program, &checked.sources, build::LEVELS, &|_| {})?;
    let level = loader::level().map_err(|e| e.to_string())?;
    let loaded = Loader::new(compiled.objects.iter().map(|o| o.as_slice()), &compiled.manifest.kernels, level).map_err(|e| e.to_string())?;
    let inputs = [("x".to_string(), nnc_runtime::tensor::Tensor::from_f32(&[1, 3], &[0.0, 1.0, -1.0]))].into();
    let setup = nnc_runtime::bench::Setup { threads: 1, ..Default::default() };
    let mut bench = nnc_runtime::bench::Bench::new(&compiled.manifest, &loaded, &setup, &inputs).map_err(|e| e.to_string())?;
    bench.step().map_err(|e| e.to_string())?;
    let (got, want) = (bench.outputs().map_err(|e| e.to_string())?, 1.0 + 1f64.exp() + (-1f64).exp());
    match got.as_slice() {
        [y] if (y - want).abs() < 1e-6 => Ok(format!("a small program in {:.0} ms, and its result is right", start.elapsed().as_secs_f64() * 1e3)),
        other => Err(format!("a small program gives {other:?} instead of {want}")),
    }
}

fn speed() -> Result<String, String> {
    let peak = peak::measure().map_err(|e| e.to_string())?;
    Ok(format!("{:.0} GFLOP/s of multiply-adds in registers (f32), {:.0} GB/s from memory, at this moment", peak.gflops, peak.gigabytes))
}

fn memory() -> Result<String, String> {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes = |key: &str| text.lines().find_map(|l| l.strip_prefix(key)?.split_whitespace().next()?.parse::<u64>().ok());
    match (kilobytes("MemAvailable:"), kilobytes("MemTotal:")) {
        (Some(free), Some(all)) => Ok(format!("{:.1} of {:.1} GB available", free as f64 / 1e6, all as f64 / 1e6)),
        _ => Ok("not known on this system".into()),
    }
}

/// Runs are written below the working folder.
fn writable() -> Result<String, String> {
    let here = std::env::current_dir().map_err(|e| format!("there is none: {e}"))?;
    let name = here.join(format!(".nnc-doctor.{}", std::process::id()));
    let tried = std::fs::write(&name, b"x").and_then(|()| std::fs::remove_file(&name));
    tried.map(|()| format!("{} can be written", here.display())).map_err(|e| format!("{} cannot be written: {e}", here.display()))
}

/// The GPU, or why there is none; nothing needs one but programs that are built for one.
fn gpu() -> String {
    nnc_runtime::cuda::probe().map_or_else(|why| format!("none (needed only for --device cuda): {why}"), |card| card.to_string())
}
