//! Chores of the repository: set-up, the demonstration, the tests, the lints. Needs nothing but Rust, so that it can install what is missing.
//!
//! `cargo xtask demo`, `test`, `seeds`, `bench`, `counts`, `costs`, `ptxas`, `gpu`, `ship`, `wheel`, `fuzz`, `docs`, `lint`, `setup`

mod bench;
mod costs;
mod counts;
mod digits;
mod fuzz;
mod gpu;
mod llvm;
mod manual;
mod ptxas;
mod ship;
mod variant;
mod wheel;

use std::path::PathBuf;
use std::process::{Command, ExitCode};

const HELP: &str = "\
cargo xtask COMMAND

  demo   install what is missing, train models/digits.nn and show what it learned
  test   install what is missing, run all tests
  seeds  train models/digits.nn from 20 seeds: test accuracies, their mean, how many reach 97 %
  bench  time the workloads of models/bench, with the peers where they are installed (bench --help)
  counts instructions of a step, by valgrind where it is installed, for three sizes of batches (counts [WORKLOAD..])
  costs  what a program costs besides its steps, beside the bounds: building and how it grows, memory, the rest of an epoch
  ptxas  assemble every kernel of the models (or of FILE..) for GPUs, and refuse spills; needs no GPU
  gpu    train a few steps of the models (or of FILE..) on a GPU and on the CPU: compares losses, times steps;
         --peers DIR --scripts DIR: the suite against PyTorch on the same GPU
  ship   the bounds of executables: size, start, memory; no LLVM inside
  wheel  build the Python module and try it, in an environment of its own in target/wheel
  fuzz   feed random inputs to everything that reads files, and random programs to the compiler (fuzz --help)
  docs   write the pages of docs/ that are made from the sources
  lint   formatting, clippy and docs, warnings as errors
  setup  install what is missing, and say which LLVM is used
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.first().map(String::as_str) {
        Some("demo") => demo(&args[1..]),
        Some("test") => test(&args[1..]),
        Some("seeds") => seeds(),
        Some("bench") => timed(&args[1..]),
        Some("counts") => counted(&args[1..]),
        Some("costs") => costs::run(&|| binaries("release", "target/release")),
        Some("ptxas") => ptxas::run(&args[1..], &|| {
            let llvm = llvm::ensure()?;
            cargo(&llvm, &["build", "--quiet", "--bin", "nnc"])?;
            Ok("target/debug".into())
        }),
        Some("fuzz") => fuzz::run(&args[1..], &|| {
            let llvm = llvm::ensure()?;
            cargo(&llvm, &["build", "--quiet", "--bin", "nnc"])?;
            Ok("target/debug".into())
        }),
        Some("docs") => manual::run(),
        Some("gpu") => gpu::run(&args[1..], &|| binaries("release", "target/release")),
        Some("ship") => ship::run(&|| {
            cargo(&llvm::ensure()?, &["build", "--quiet", "--bin", "nnc"])?;
            plain(&["build", "--quiet", "--release", "--package", "nnc-runtime"])
        }),
        Some("wheel") => wheel::run(&|| {
            cargo(&llvm::ensure()?, &["build", "--quiet", "--bin", "nnc"])?;
            Ok("target/debug".into())
        }),
        Some("lint") => lint(),
        Some("setup") => llvm::ensure().map(|llvm| println!("LLVM {} at {}", llvm.version, llvm.prefix.display())),
        Some("help" | "--help" | "-h") | None => {
            print!("{HELP}");
            Ok(())
        }
        Some(other) => Err(format!("unknown command `{other}`\n\n{HELP}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Trains the digits model from its text, and shows what it makes of digits it has never seen.
fn demo(args: &[String]) -> Result<(), String> {
    let llvm = llvm::ensure()?;
    binaries("dev", "target/debug")?;
    // Beside nnc, which makes executables and libraries of them.
    plain(&["build", "--quiet", "--package", "nnc-c"])?;
    let nnc = ["run", "--quiet", "--bin", "nnc", "--", "run", "models/digits.nn"];
    cargo(&llvm, &[&nnc, &as_strs(args)[..]].concat())?;
    let given = args.iter().position(|a| a == "--run-dir").and_then(|i| args.get(i + 1).cloned());
    let run = given.or_else(digits::last_run).ok_or("the run has left no folder")?;
    let weights = format!("{run}/best.safetensors");
    cargo(&llvm, &[&nnc[..], &["infer", "--data", "test", "--quiet", "--weights", &weights, "--output", &run]].concat())?;
    print!("{}", digits::picture(&run)?);
    Ok(())
}

/// Every test of the workspace; further arguments go to `cargo test`.
fn test(args: &[String]) -> Result<(), String> {
    let llvm = llvm::ensure()?;
    cargo(&llvm, &[&["test", "--workspace"], &as_strs(args)[..]].concat())
}

/// The digits model's test accuracy from 20 seeds.
fn seeds() -> Result<(), String> {
    let llvm = llvm::ensure()?;
    cargo(&llvm, &["build", "--quiet", "--bin", "nnc"])?;
    let mut accuracies = Vec::new();
    for seed in 1..=20 {
        let folder = format!("target/seeds/{seed}");
        let _ = std::fs::remove_dir_all(&folder);
        let args = ["run", "models/digits.nn", "train", "--seed", &seed.to_string(), "--run-dir", &folder];
        let run = Command::new("target/debug/nnc").args(args).output().map_err(|e| format!("cannot start nnc: {e}"))?;
        let text = String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
        let word = text.rsplit_once("test.accuracy ").and_then(|(_, rest)| rest.split_whitespace().next());
        let accuracy: f64 = word.and_then(|w| w.parse().ok()).ok_or_else(|| format!("seed {seed} gave no test accuracy:\n{text}"))?;
        println!("seed {seed:2}  test accuracy {accuracy:.4}");
        accuracies.push(accuracy);
    }
    let mean = accuracies.iter().sum::<f64>() / accuracies.len() as f64;
    println!("mean {mean:.4}, {} of 20 at least 0.97", accuracies.iter().filter(|a| **a >= 0.97).count());
    Ok(())
}

/// The suite, with nnc's optimised build.
fn timed(args: &[String]) -> Result<(), String> {
    bench::run(args, &|dev| {
        let (profile, folder) = if dev { ("dev", "target/debug") } else { ("release", "target/release") };
        binaries(profile, folder)
    })
}

/// Instructions of steps, of nnc's optimised build.
fn counted(args: &[String]) -> Result<(), String> {
    counts::run(args, &|| binaries("release", "target/release"))
}

/// The folder with `nnc` and `nnc-run`, built.
fn binaries(profile: &str, folder: &str) -> Result<PathBuf, String> {
    let llvm = llvm::ensure()?;
    cargo(&llvm, &["build", "--quiet", "--profile", profile, "--bin", "nnc", "--bin", "nnc-run"])?;
    Ok(folder.into())
}

fn lint() -> Result<(), String> {
    let llvm = llvm::ensure()?;
    cargo(&llvm, &["fmt", "--all", "--check"])?;
    cargo(&llvm, &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    cargo(&llvm, &["doc", "--workspace", "--no-deps"])
}

fn as_strs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

/// Runs cargo with the chosen LLVM.
fn cargo(llvm: &llvm::Llvm, args: &[&str]) -> Result<(), String> {
    let features = if args[0] == "fmt" { vec![] } else { llvm.features().to_vec() };
    let mut command = Command::new(program());
    command.arg(args[0]).args(features).args(&args[1..]);
    finish(command.env(llvm.variable(), &llvm.prefix).env("RUSTDOCFLAGS", "-D warnings"), args)
}

/// Runs cargo on what needs no LLVM.
fn plain(args: &[&str]) -> Result<(), String> {
    finish(Command::new(program()).args(args), args)
}

fn program() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".into())
}

fn finish(command: &mut Command, args: &[&str]) -> Result<(), String> {
    let status = command.status().map_err(|e| format!("cannot start cargo: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("`cargo {}` failed", args.join(" "))) }
}
