//! The suite: nnc and the peers on the same workloads, in one run, taking turns.
//!
//! In: `benches/suite.txt`, the programs of `models/bench`, and where they are installed the peers. Out: a table, lines appended to a history, a picture.
//! Every round times one worker after the other, so that a ratio compares figures of the same moment. Without peers nnc is measured alone.

mod chart;
mod options;
mod peers;
mod products;
mod worker;

use options::Options;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Instant, SystemTime};
use worker::Worker;
pub use worker::middle;

/// What the suite consists of.
const SUITE: &str = include_str!("../../../benches/suite.txt");
/// Artifacts of the suite's programs, history and picture.
const FOLDER: &str = "target/bench";

/// A workload.
struct Row<'a> {
    workload: &'a str,
    mode: &'a str,
    batch: &'a str,
    program: &'a str,
    entry: &'a str,
    sizes: &'a str,
    threads: Vec<usize>,
    peers: Vec<&'a str>,
}

/// What was measured of a workload.
struct Measured {
    name: String,
    /// Those of nnc first.
    workers: Vec<Worker>,
    build: Build,
}

/// A program compiled to an artifact.
#[derive(Clone)]
struct Build {
    program: String,
    artifact: PathBuf,
    seconds: f64,
    bytes: u64,
}

/// Runs the suite.
///
/// # Errors
/// Options that do not fit; nnc cannot be built or fails.
pub fn run(args: &[String], build_nnc: &dyn Fn(bool) -> Result<PathBuf, String>) -> Result<(), String> {
    let options = options::parse(args)?;
    let binaries = build_nnc(options.dev)?;
    std::fs::create_dir_all(FOLDER).map_err(|e| format!("cannot make {FOLDER}: {e}"))?;
    if options.products {
        return products::run(&options, &binaries);
    }
    match (&options.peers, &options.scripts) {
        (Some(_), Some(_)) => {}
        _ => println!("no peers given (--peers DIR with Python in DIR/venv, --scripts DIR with peers.py): nnc is measured alone\n"),
    }
    let rows: Vec<Row> = SUITE.lines().filter(|l| !l.starts_with('#')).map(row).collect::<Result<_, _>>()?;
    let mut builds: Vec<Build> = vec![];
    let mut lines: Vec<Line> = vec![];
    println!("{}", Line::HEAD);
    for row in rows.iter().filter(|r| options.wants(&format!("{} {} {}", r.workload, r.mode, r.batch))) {
        let build = match builds.iter().find(|b| b.program == row.program) {
            Some(build) => build.clone(),
            None => {
                builds.push(build(row.program, options.gpu, &binaries)?);
                builds[builds.len() - 1].clone()
            }
        };
        match measure(row, build, &options, &binaries) {
            Ok(measured) => {
                let line = Line::of(&measured);
                println!("{}", line.text());
                append(&options.history, &record(&measured))?;
                lines.push(line);
            }
            Err(why) => println!("{:24}  failed: {why}", format!("{} {} {}", row.workload, row.mode, row.batch)),
        }
    }
    std::fs::write(&options.svg, chart::draw(&lines)).map_err(|e| format!("cannot write {}: {e}", options.svg.display()))?;
    println!("\nhistory: {}   picture: {}", options.history.display(), options.svg.display());
    Ok(())
}

fn row(line: &'static str) -> Result<Row<'static>, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let &[workload, mode, batch, program, entry, sizes, threads, peers] = &words[..] else {
        return Err(format!("a row of the suite has eight words, not {line:?}"));
    };
    let threads = threads.split(',').filter_map(|n| n.parse().ok()).collect();
    Ok(Row { workload, mode, batch, program, entry, sizes, threads, peers: peers.split(',').collect() })
}

/// Compiles a program of `models/bench`, timed.
fn build(program: &str, gpu: bool, binaries: &Path) -> Result<Build, String> {
    compile(Path::new(&format!("models/bench/{program}.nn")), program, gpu, binaries)
}

/// Compiles the text there to an artifact of this name, timed.
fn compile(text: &Path, program: &str, gpu: bool, binaries: &Path) -> Result<Build, String> {
    let target = if gpu { "cuda" } else { "cpu" };
    let artifact = Path::new(FOLDER).join(format!("{program}.{target}.nnc"));
    let began = Instant::now();
    let mut nnc = Command::new(binaries.join("nnc"));
    let status = nnc.arg("build").arg(text).arg("-o").arg(&artifact).args(["--quiet", "--target", target]).status();
    if !status.map_err(|e| format!("cannot start nnc: {e}"))?.success() {
        return Err(format!("nnc cannot build {}", text.display()));
    }
    let seconds = began.elapsed().as_secs_f64();
    let bytes = std::fs::metadata(&artifact).map(|m| m.len()).unwrap_or(0);
    Ok(Build { program: program.into(), artifact, seconds, bytes })
}

/// Starts all workers of a workload and lets them take turns.
fn measure(row: &Row, build: Build, options: &Options, binaries: &Path) -> Result<Measured, String> {
    let mut workers = vec![];
    let (one, torch): (&[usize], &[&str]) = (&[1], &["torch_cuda"]);
    let (all, peers) = if options.gpu { (one, torch) } else { (&row.threads[..], &row.peers[..]) };
    let files = options.environment().map(|e| e.export(row.workload, row.mode, row.batch)).transpose()?;
    for &threads in all {
        let mut command = Command::new(binaries.join("nnc-run"));
        command.arg(&build.artifact).args(["bench", row.entry, "--wait", "--json", "--threads", &threads.to_string()]);
        command.args(row.sizes.split(',').flat_map(|size| ["--dim", size]));
        if let Some((weights, inputs)) = &files {
            command.arg("--weights").arg(weights).arg("--inputs").arg(inputs);
        }
        workers.push(Worker::start(&format!("nnc {threads}"), &mut command)?);
    }
    if let Some(environment) = options.environment() {
        let wanted = peers.iter().filter(|p| options.slow || !p.ends_with('!'));
        for (peer, threads) in wanted.flat_map(|p| all.iter().map(move |t| (p.trim_end_matches('!'), *t))) {
            match environment.worker(row.workload, peer, row.mode, row.batch, threads) {
                Ok(worker) => workers.push(worker),
                Err(why) => println!("{:24}  left out: {why}", ""),
            }
        }
    }
    take_turns(&mut workers, options)?;
    Ok(Measured { name: format!("{} {} {}", row.workload, row.mode, row.batch), workers, build })
}

/// So many rounds, in each of which every worker is timed once; who is first changes.
fn take_turns(workers: &mut [Worker], options: &Options) -> Result<(), String> {
    for round in 0..options.rounds {
        let count = workers.len();
        for turn in 0..count {
            workers[(turn + round) % count].round(options.seconds)?;
        }
    }
    Ok(())
}

/// A line of the table.
pub struct Line {
    /// `mnist_mlp train 128`
    pub name: String,
    /// The faster number of threads of nnc: threads, median, minimum.
    pub nnc: (String, f64, f64),
    /// The fastest peer: name, median, minimum.
    pub peer: Option<(String, f64, f64)>,
    /// Median over rounds of nnc's time divided by that peer's.
    pub ratio: Option<f64>,
    gflops: Option<f64>,
    peak: f64,
    memory: (f64, Option<f64>),
    build: Build,
    start: f64,
}

impl Line {
    const HEAD: &str = "workload                   nnc ms       min  threads   best peer ms       min                   ratio  of min   GFLOP/s  of peak    MB  PyTorch's  start ms  build s     KB";

    fn of(measured: &Measured) -> Line {
        let fastest = |nnc: bool| {
            let of_kind = measured.workers.iter().filter(|w| w.name.starts_with("nnc ") == nnc);
            of_kind.min_by(|a, b| a.median().total_cmp(&b.median()))
        };
        let own = fastest(true).expect("nnc is always measured");
        let peer = fastest(false);
        let torch = measured.workers.iter().filter(|w| w.name.starts_with("torch")).map(|w| w.memory).reduce(f64::min);
        let peak = middle(own.rounds.iter().filter_map(|r| r.peak));
        Line {
            name: measured.name.clone(),
            nnc: (own.name["nnc ".len()..].to_string(), own.median(), own.min()),
            peer: peer.map(|p| (p.name.clone(), p.median(), p.min())),
            ratio: peer.map(|p| own.ratio(p)),
            gflops: own.head["flops"].as_f64().map(|f| f / own.median() / 1e6),
            peak,
            memory: (own.memory, torch),
            build: measured.build.clone(),
            start: own.start_seconds * 1e3,
        }
    }

    fn text(&self) -> String {
        let (threads, median, min) = &self.nnc;
        let (peer, its_median, its_min) = match &self.peer {
            Some((name, median, min)) => (name.as_str(), format!("{median:.4}"), format!("{min:.4}")),
            None => ("", String::new(), String::new()),
        };
        let ratio = self.ratio.map(|r| format!("{r:.2}")).unwrap_or_default();
        let of_min = self.peer.as_ref().map(|(_, _, its)| format!("{:.2}", min / its)).unwrap_or_default();
        let (speed, share) = match self.gflops {
            Some(g) => (format!("{g:.1}"), format!("{:.1} %", 100.0 * g / self.peak)),
            None => (String::new(), String::new()),
        };
        let torch = self.memory.1.map(|m| format!("{m:.0}")).unwrap_or_default();
        format!(
            "{:24} {median:8.4}  {min:8.4}  {threads:>7}       {its_median:>8}  {its_min:>8}  {peer:16} {ratio:>7}  {of_min:>6}  {speed:>8}  {share:>7}  {:4.0}  {torch:>9}  {:8.0}  {:7.2}  {:5}",
            self.name,
            self.memory.0,
            self.start,
            self.build.seconds,
            self.build.bytes.div_ceil(1024)
        )
    }
}

/// Everything about a workload, for the history.
fn record(measured: &Measured) -> Value {
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let commit = Command::new("git").args(["rev-parse", "--short", "HEAD"]).output().map(|o| String::from_utf8_lossy(&o.stdout).trim().to_string());
    let load = std::fs::read_to_string("/proc/loadavg").ok().and_then(|t| t.split(' ').next()?.parse::<f64>().ok());
    let workers: Vec<Value> = measured
        .workers
        .iter()
        .map(|w| {
            json!({ "name": w.name, "median_ms": w.median(), "min_ms": w.min(), "medians_ms": w.rounds.iter().map(|r| r.median).collect::<Vec<_>>(),
                "peak_gflops": middle(w.rounds.iter().filter_map(|r| r.peak)), "rss_mb": w.memory, "start_s": w.start_seconds, "head": w.head })
        })
        .collect();
    json!({ "unix_time": seconds, "commit": commit.unwrap_or_default(), "load": load, "workload": measured.name, "workers": workers,
        "build_s": measured.build.seconds, "artifact_bytes": measured.build.bytes })
}

fn append(path: &Path, record: &Value) -> Result<(), String> {
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut f| writeln!(f, "{record}")).map_err(|e| format!("cannot write {}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_names_a_program_and_what_to_time() {
        let rows: Vec<Row> = SUITE.lines().filter(|l| !l.starts_with('#')).map(|l| row(l).unwrap()).collect();
        assert!(rows.len() >= 15);
        for row in rows {
            let text = std::fs::read_to_string(format!("../models/bench/{}.nn", row.program)).unwrap_or_else(|e| panic!("{}: {e}", row.program));
            assert!(row.entry.starts_with(row.mode) && (row.mode == "infer" || text.contains("train fit")), "{}", row.workload);
            assert!(row.sizes.split(',').any(|s| s == format!("B={}", row.batch)), "{}", row.workload);
            assert!(!row.threads.is_empty() && !row.peers.is_empty(), "{}", row.workload);
        }
        assert!(row("mnist_mlp train 128").is_err());
    }

    #[test]
    fn the_picture_has_a_bar_a_comparison_and_green_is_faster() {
        let build = Build { program: "p".into(), artifact: "p.nnc".into(), seconds: 1.0, bytes: 2000 };
        let line = |name: &str, ratio: Option<f64>| Line {
            name: name.into(),
            nnc: ("1".into(), 2.0, 1.5),
            peer: ratio.map(|r| ("jax 1".into(), 2.0 / r, 1.5 / r)),
            ratio,
            gflops: Some(100.0),
            peak: 200.0,
            memory: (9.0, Some(500.0)),
            build: build.clone(),
            start: 20.0,
        };
        let lines = [line("fast", Some(0.5)), line("slow", Some(8.0)), line("alone", None)];
        let svg = chart::draw(&lines);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
        assert_eq!((svg.matches("#2a7").count(), svg.matches("#c63").count()), (1, 1));
        assert!(svg.contains("0.50 of jax 1") && svg.contains("8.00 of jax 1") && svg.contains("2.000 ms"));
        assert!(lines[0].text().contains("0.50") && lines[0].text().contains("50.0 %"), "{}", lines[0].text());
        assert!(lines.iter().all(|l| l.text().chars().count() <= Line::HEAD.len() + 2), "columns stand under their heads");
    }
}
