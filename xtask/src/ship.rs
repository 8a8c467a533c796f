//! The bounds of what is shipped: the runner is small and needs no LLVM, and an executable answers at once in little memory.

use nnc_runtime::npy::to_npy;
use nnc_runtime::tensor::Tensor;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const FOLDER: &str = "target/ship";
const RUNNER: &str = "target/release/nnc-run";

/// Bytes of `nnc-run`.
const MOST_BYTES: u64 = 8 << 20;
/// From the start of the process to its end, one digit inferred; the quickest of [`ROUNDS`], which a busy machine delays least.
const MOST_TIME: Duration = Duration::from_millis(20);
/// Resident at most, in KB.
const MOST_MEMORY: i64 = 25 << 10;
const ROUNDS: usize = 21;

/// Builds, ships models/digits.nn and measures. `build` builds nnc, and the runtime optimised.
pub fn run(build: &dyn Fn() -> Result<(), String>) -> Result<(), String> {
    build()?;
    let bytes = size(RUNNER)?;
    let linked = Command::new("ldd").arg(RUNNER).output().map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    if bytes > MOST_BYTES || linked.contains("LLVM") {
        return Err(format!("{RUNNER} has {bytes} bytes, at most {MOST_BYTES} are allowed, and it must not need LLVM; it needs:\n{linked}"));
    }
    let _ = std::fs::remove_dir_all(FOLDER);
    let (run, digits, input) = (format!("{FOLDER}/run"), format!("{FOLDER}/digits"), format!("{FOLDER}/image.npy"));
    nnc(&["run", "models/digits.nn", "train", "--set", "train.epochs=1", "--quiet", "--run-dir", &run])?;
    nnc(&["build", &format!("{run}/model.nnc"), "--exe", "--quiet", "-o", &digits, "--runtime", "target/release"])?;
    let image: Vec<f32> = (0..64).map(|i| (i % 17) as f32 / 16.0).collect();
    std::fs::write(&input, to_npy(&Tensor::from_f32(&[1, 64], &image))).map_err(|e| format!("cannot write {input}: {e}"))?;
    let mut times = vec![];
    let mut memory = 0;
    for _ in 0..ROUNDS {
        let began = Instant::now();
        memory = memory.max(resident(Command::new(&digits).args(["infer", "--quiet", "--output", FOLDER, "--input"]).arg(format!("image={input}")))?);
        times.push(began.elapsed());
    }
    times.sort();
    let (least, median) = (times[0].as_secs_f64() * 1e3, times[ROUNDS / 2].as_secs_f64() * 1e3);
    let megabytes = |bytes: u64| bytes as f64 / (1 << 20) as f64;
    println!("nnc-run {:.1} MB without LLVM, digits {:.1} MB", megabytes(bytes), megabytes(size(&digits)?));
    println!("a digit, from the process's start to its end: median {median:.1} ms, least {least:.1} ms, {:.1} MB resident", memory as f64 / 1024.0);
    if times[0] > MOST_TIME || memory > MOST_MEMORY {
        return Err(format!("at most {MOST_TIME:?} and {} MB are allowed", MOST_MEMORY >> 10));
    }
    Ok(())
}

fn size(path: &str) -> Result<u64, String> {
    std::fs::metadata(path).map(|m| m.len()).map_err(|e| format!("cannot find {path}: {e}"))
}

fn nnc(args: &[&str]) -> Result<(), String> {
    let status = Command::new("target/debug/nnc").args(args).status().map_err(|e| format!("cannot start nnc: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("`nnc {}` failed", args.join(" "))) }
}

/// Runs it to its end, and gives the most memory that it has had, in KB.
///
/// # Errors
/// It cannot be started, or fails.
pub fn resident(command: &mut Command) -> Result<i64, String> {
    let name = Path::new(command.get_program()).display().to_string();
    let child = command.spawn().map_err(|e| format!("cannot start {name}: {e}"))?;
    // SAFETY: plain numbers, for which zero is a value.
    let (mut status, mut usage) = (0, unsafe { std::mem::zeroed::<libc::rusage>() });
    // SAFETY: our own child, which nobody else waits for; both places are ours.
    let waited = unsafe { libc::wait4(child.id() as i32, &mut status, 0, &mut usage) };
    if waited == child.id() as i32 && status == 0 { Ok(usage.ru_maxrss) } else { Err(format!("{name} failed")) }
}
