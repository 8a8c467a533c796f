//! `cargo xtask fuzz`: builds the targets of `tests/fuzz` with coverage counters, makes seeds, and runs libFuzzer on each.
//!
//! The counters are a pass of LLVM that the stable compiler runs when told to, so that no other toolchain and no `cargo-fuzz` is needed. What is kept between
//! runs, corpora and findings, is in `target/fuzz`. Seeds are the programs of this repository and small files that `nnc` makes.

use crate::llvm;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const HELP: &str = "\
cargo xtask fuzz [--seconds N] [--jobs N] [--seed N] [TARGET..]

  --seconds N   how long each target runs (60)
  --jobs N      how many run at a time (2)
  --seed N      the same inputs in the same order each time: it begins without the corpora (a random seed, which is printed, and the corpora)
  TARGET        text, programs, artifact, checkpoint, safetensors, arrays, csv (all)

Corpora grow in target/fuzz/corpus/TARGET; an input that breaks a target is left in target/fuzz/found/TARGET.
";

/// A target, the longest input that it is given in bytes, and the longest run in seconds.
const TARGETS: [(&str, u32, u32); 7] = [
    ("text", 8192, 20),
    ("programs", 512, 60),
    ("artifact", 65536, 20),
    ("checkpoint", 8192, 10),
    ("safetensors", 8192, 10),
    ("arrays", 8192, 10),
    ("csv", 4096, 10),
];

/// Counts edges and compared values in every crate, as libFuzzer wants them.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=16";
/// With a target named, build scripts and macros are not instrumented.
const HOST: &str = "x86_64-unknown-linux-gnu";
const FOLDER: &str = "target/fuzz";

/// What the command line asks for.
struct Options {
    seconds: u64,
    jobs: usize,
    /// Where inputs are to be the same each time.
    seed: Option<u32>,
    targets: Vec<(&'static str, u32, u32)>,
}

fn parse(args: &[String]) -> Result<Options, String> {
    let mut options = Options { seconds: 60, jobs: 2, seed: None, targets: vec![] };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut number =
            || args.next().and_then(|n| n.parse::<u64>().ok()).filter(|n| *n > 0).ok_or(format!("{arg} takes a number above 0\n\n{HELP}"));
        match arg.as_str() {
            "--seconds" => options.seconds = number()?,
            "--jobs" => options.jobs = number()? as usize,
            "--seed" => options.seed = Some(u32::try_from(number()?).map_err(|_| format!("--seed takes a number below 2^32\n\n{HELP}"))?),
            name => match TARGETS.into_iter().find(|t| t.0 == name) {
                Some(target) => options.targets.push(target),
                None => return Err(format!("there is no target `{name}`\n\n{HELP}")),
            },
        }
    }
    if options.targets.is_empty() {
        options.targets = TARGETS.to_vec();
    }
    Ok(options)
}

/// Runs the command. `nnc` gives the folder with the built commands, which make seeds.
pub fn run(args: &[String], nnc: &dyn Fn() -> Result<PathBuf, String>) -> Result<(), String> {
    if args.iter().any(|a| a == "--help" || a == "-h") {
        print!("{HELP}");
        return Ok(());
    }
    let options = parse(args)?;
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        println!("FUZZING NOT RUN: the targets are built for x86-64 Linux only");
        return Ok(());
    }
    seeds(&nnc()?)?;
    build(&options)?;
    let seed = options.seed.unwrap_or_else(of_the_clock);
    println!("seed {seed}");
    let (mut waiting, mut running, mut broken) = (options.targets.clone().into_iter(), vec![], vec![]);
    loop {
        while running.len() < options.jobs
            && let Some(target) = waiting.next()
        {
            running.push((target.0, start(target, &options, seed)?, Instant::now()));
        }
        if running.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
        let mut still = vec![];
        for (name, mut process, since) in running {
            match process.try_wait().map_err(|e| format!("{name}: {e}"))? {
                None => still.push((name, process, since)),
                Some(status) => {
                    // Its files, in memory.
                    let _ = std::fs::remove_dir_all(format!("/dev/shm/nnc-fuzz-{}", process.id()));
                    let said = std::fs::read_to_string(log(name)).unwrap_or_default();
                    println!("{}", line(name, &said, status.success(), since.elapsed()));
                    if !status.success() {
                        broken.push(name);
                        // The end of the log says what broke.
                        let from = said.lines().count().saturating_sub(60);
                        said.lines().skip(from).for_each(|l| println!("  {l}"));
                    }
                }
            }
        }
        running = still;
    }
    if broken.is_empty() { Ok(()) } else { Err(format!("{} broke: the inputs are in {FOLDER}/found, logs in {FOLDER}/log", broken.join(", "))) }
}

fn log(name: &str) -> PathBuf {
    Path::new(FOLDER).join("log").join(name)
}

/// `csv: held on 120345 inputs in 60 s, 812 points of code reached`
fn line(name: &str, said: &str, held: bool, time: Duration) -> String {
    let of = |key: &str| said.lines().rev().find_map(|l| l.split_once(key)?.1.split_whitespace().next().map(String::from)).unwrap_or("?".into());
    let runs = of("stat::number_of_executed_units:");
    let verdict = if held { "held" } else { "BROKE" };
    format!("{name}: {verdict} on {runs} inputs in {} s, {} edges reached", time.as_secs(), of(" cov: "))
}

fn build(options: &Options) -> Result<(), String> {
    let llvm = llvm::ensure()?;
    println!("building the targets");
    let mut command = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    command.args(["build", "--quiet", "--package", "nnc-fuzz", "--target", HOST, "--target-dir", FOLDER]);
    command.args(llvm.features()).env(llvm.variable(), &llvm.prefix).env("RUSTFLAGS", FLAGS);
    options.targets.iter().for_each(|t| _ = command.args(["--bin", t.0]));
    let status = command.status().map_err(|e| format!("cannot start cargo: {e}"))?;
    if status.success() { Ok(()) } else { Err("the fuzz targets do not build".into()) }
}

/// A seed that is another each time; libFuzzer's own choice stands for 0.
fn of_the_clock() -> u32 {
    std::time::UNIX_EPOCH.elapsed().map_or(1, |d| d.subsec_nanos() ^ d.as_secs() as u32).max(1)
}

fn start((name, longest, time): (&str, u32, u32), options: &Options, seed: u32) -> Result<std::process::Child, String> {
    let failed = |e: std::io::Error| format!("cannot start {name}: {e}");
    let found = format!("{FOLDER}/found/{name}/");
    // What is found depends on the corpus that a run begins with: a seed that is given has one of its own, which begins empty.
    let corpus = match options.seed {
        None => format!("{FOLDER}/corpus/{name}"),
        Some(seed) => format!("{FOLDER}/corpus/of-{seed}/{name}"),
    };
    if options.seed.is_some() && Path::new(&corpus).exists() {
        std::fs::remove_dir_all(&corpus).map_err(failed)?;
    }
    for folder in [&corpus, &found, &format!("{FOLDER}/log")] {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let out = std::fs::File::create(log(name)).map_err(failed)?;
    let mut command = Command::new(format!("{FOLDER}/{HOST}/debug/{name}"));
    command.args([
        format!("-seed={seed}"),
        format!("-max_total_time={}", options.seconds),
        format!("-max_len={longest}"),
        format!("-timeout={time}"),
        format!("-artifact_prefix={found}"),
    ]);
    command.args([
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
        "-close_fd_mask=1",
        "-len_control=20",
        "-reload=0",
        "-detect_leaks=0",
        "-report_slow_units=60",
    ]);
    if name == "text" {
        command.arg(format!("-dict={FOLDER}/nn.dict"));
    }
    let (own, seeds) = (corpus, format!("{FOLDER}/seeds/{name}"));
    command.arg(own).args(Path::new(&seeds).is_dir().then_some(seeds)).env("RUST_BACKTRACE", "1").stdin(Stdio::null());
    command.stdout(out.try_clone().map_err(failed)?).stderr(out).spawn().map_err(failed)
}

/// Files to begin with, and the words of the language.
fn seeds(nnc: &Path) -> Result<(), String> {
    let folder = Path::new(FOLDER).join("seeds");
    let failed = |what: &Path, e: std::io::Error| format!("{}: {e}", what.display());
    let write = |target: &str, name: &str, bytes: &[u8]| {
        let path = folder.join(target).join(name);
        std::fs::create_dir_all(folder.join(target)).and_then(|()| std::fs::write(&path, bytes)).map_err(|e| failed(&path, e))
    };
    for source in ["models", "models/bench", "models/refused", "models/refused/parts", "models/warned", "src/std"] {
        let entries = std::fs::read_dir(source).map_err(|e| failed(Path::new(source), e))?;
        for path in entries.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.extension().is_some_and(|e| e == "nn")) {
            let name = path.to_string_lossy().replace('/', "_");
            write("text", &name, &std::fs::read(&path).map_err(|e| failed(&path, e))?)?;
        }
    }
    let grammar = std::fs::read_to_string("grammar/nn.pest").map_err(|e| failed(Path::new("grammar/nn.pest"), e))?;
    let quoted = grammar.lines().filter(|l| !l.trim_start().starts_with("//")).flat_map(|l| l.split('"').skip(1).step_by(2));
    let mut words: Vec<String> = quoted.filter(|w| !w.is_empty() && !w.contains('\\')).map(|w| format!("\"{w}\"\n")).collect();
    words.sort();
    words.dedup();
    std::fs::write(format!("{FOLDER}/nn.dict"), words.concat()).map_err(|e| format!("the dictionary cannot be written: {e}"))?;

    let made = folder.join("made");
    let _ = std::fs::remove_dir_all(&made);
    std::fs::create_dir_all(&made).map_err(|e| failed(&made, e))?;
    let work = |args: &[&str]| {
        let output = Command::new(nnc.join("nnc")).args(args).output().map_err(|e| format!("cannot start nnc: {e}"))?;
        if output.status.success() { Ok(()) } else { Err(format!("nnc {}:\n{}", args.join(" "), String::from_utf8_lossy(&output.stderr))) }
    };
    let at = |name: &str| made.join(name).to_string_lossy().into_owned();
    work(&["run", "models/linear.nn", "train", "--quiet", "--set", "fit.epochs=1", "--run-dir", &at("run")])?;
    work(&["run", "models/linear.nn", "infer", "--data", "all", "--quiet", "--weights", &at("run/best.safetensors"), "--output", &at("")])?;
    let read = |name: &str| std::fs::read(made.join(name)).map_err(|e| failed(&made.join(name), e));
    let (last, log) = (read("run/last.safetensors")?, read("run/log.jsonl")?);
    write("checkpoint", "line", &[&last, &b"\n#log\n"[..], &log].concat())?;
    write("safetensors", "line", &read("run/best.safetensors")?)?;
    write("arrays", "line.npy", &read("output.npy")?)?;
    nnc_runtime::npy::write_npz(
        &made.join("x.npz"),
        &["a", "b"].map(|n| (n.to_string(), nnc_runtime::tensor::Tensor::from_i64(&[4, 1], &[1, 2, 3, 4]))).into(),
    )
    .map_err(|e| e.message().to_string())?;
    write("arrays", "x.npz", &read("x.npz")?)?;
    // Artifacts with little code, so that changes meet the manifest too.
    let mut artifact = nnc_runtime::artifact::Artifact::read(&made.join("run/model.nnc")).map_err(|e| e.message().to_string())?;
    write("artifact", "line.nnc", &artifact.to_bytes())?;
    artifact.code.clear();
    write("artifact", "bare.nnc", &artifact.to_bytes())?;
    for (how, name, text) in
        [(2, "header", "a,b,kind\n1,2,0\n3,4,1\n5,6.5,2\n7,8e-1,0\n"), (0, "bare", "1,0\n2,1\n3,2\n"), (1 | 4, "named", "1\t2\t0\n3\t4\t1\n")]
    {
        write("csv", name, &[&[how], text.as_bytes()].concat())?;
    }
    write("csv", "words", &[&[2u8 | 16 | 32], &b"kind,a,b\ncat,1,\"2\"\ndog,3,4\ncat,5,6\ndog,1,2\n"[..]].concat())
}
