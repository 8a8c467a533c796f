//! The command line of timing: the same in `nnc bench` and `nnc-run ARTIFACT bench`.
//!
//! Out: a table for people, or JSON lines: first what is timed (`entry`, `dims`, `threads`, `flops`, `bytes`, `launches`, `arena_bytes`, `losses`), then one line a round.

use super::{Bench, Round, Setup, read_inputs};
use crate::commands::{Device, no_option, show};
use crate::cuda::Card;
use crate::error::{Result, RunError};
use crate::exec::Kernels;
use crate::manifest::Manifest;
use crate::peak;
use crate::profile::Profile;
use crate::report::{Report, Style};
use crate::size::Dims;
use serde_json::json;
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// For `--help`: everything after the program or artifact.
pub const HELP: &str = "\
What to time (default: the recipe's training step, else the model):
  train[:NAME], eval[:NAME], infer[:NAME]

Options:
  --device cpu|cuda     where to run (default: what an artifact was built for, else the CPU)
  --threads N,N..       numbers of threads, one after the other (default: 1 and all cores)
  --batch N             samples: the size of the dim that batches are
  --dim NAME=N          the size of a free dim (default: the recipe's batch, the dim's upper bound, 1)
  --inputs FILE.npz     inputs by name (default: made up)
  --input NAME=FILE     one input (.npy)
  --weights FILE        weights (.safetensors, .npz; default: initial ones)
  --rounds N            rounds of steps (default: 5)
  --seconds S           the length of a round (default: 0.5)
  --steps N             does so many steps and times nothing, for tools that count instructions
  --wait                a round for each line on standard input, so that another program can alternate
  --profile[=FILE]      time, FLOP/s and bytes/s of every kernel and line; with FILE, a trace for chrome://tracing too
  --json                JSON lines
";

/// A parsed command line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Command {
    /// `train:fit`
    pub entry: Option<String>,
    /// Where, if it is said.
    pub device: Option<Device>,
    /// Numbers of threads; none: one, and all cores.
    pub threads: Vec<usize>,
    /// Samples.
    pub batch: Option<i64>,
    /// Sizes of free dims.
    pub dims: Dims,
    /// An `.npz` with inputs.
    pub inputs: Option<PathBuf>,
    /// Single inputs.
    pub single: Vec<(String, PathBuf)>,
    /// Instead of initial ones.
    pub weights: Option<PathBuf>,
    /// Rounds.
    pub rounds: usize,
    /// Of a round.
    pub seconds: f64,
    /// So many steps, untimed, instead of rounds.
    pub steps: Option<usize>,
    /// Rounds on demand.
    pub wait: bool,
    /// A table of the kernels, and where a trace goes.
    pub profile: Option<Option<PathBuf>>,
    /// For programs.
    pub json: bool,
}

/// Parses the arguments after the program.
///
/// # Errors
/// [`RunError::Usage`].
pub fn parse(args: &[String]) -> Result<Command> {
    let usage = |text: String| RunError::Usage(text);
    let mut command = Command { rounds: 5, seconds: 0.5, ..Command::default() };
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let (flag, inline) = match arg.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => (flag, Some(value.to_string())),
            _ => (arg.as_str(), None),
        };
        let mut value = || inline.clone().or_else(|| rest.next().cloned()).ok_or_else(|| usage(format!("{flag} needs a value")));
        let whole = |text: &str| match text.trim().parse::<i64>() {
            Ok(n) if n > 0 => Ok(n),
            _ => Err(usage(format!("{flag} needs a whole number above 0, not {text}"))),
        };
        let pair = |text: String| match text.split_once('=') {
            Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.to_string(), value.to_string())),
            _ => Err(usage(format!("{flag} needs NAME=VALUE, not {text}"))),
        };
        match flag {
            "--device" => command.device = Some(Device::parse(&value()?)?),
            "--threads" => {
                for n in value()?.split(',') {
                    command
                        .threads
                        .push(usize::try_from(whole(n)?).ok().filter(|n| *n <= 1024).ok_or_else(|| usage("--threads is at most 1024".into()))?);
                }
            }
            "--batch" => command.batch = Some(whole(&value()?)?),
            "--dim" => {
                let (name, size) = pair(value()?)?;
                command.dims.insert(name.into(), whole(&size)?);
            }
            "--inputs" => command.inputs = Some(value()?.into()),
            "--input" => {
                let (name, file) = pair(value()?)?;
                command.single.push((name, file.into()));
            }
            "--weights" => command.weights = Some(value()?.into()),
            "--rounds" => command.rounds = whole(&value()?)? as usize,
            "--seconds" => {
                let text = value()?;
                let seconds = text.parse::<f64>().ok().filter(|s| (0.0..=3600.0).contains(s));
                command.seconds = seconds.ok_or_else(|| usage(format!("--seconds needs a number from 0 to 3600, not {text}")))?;
            }
            "--steps" => command.steps = Some(whole(&value()?)? as usize),
            "--wait" => command.wait = true,
            "--profile" => command.profile = Some(inline.clone().map(PathBuf::from)),
            "--json" => command.json = true,
            _ if flag.starts_with('-') => return Err(no_option(flag, HELP)),
            word if command.entry.is_some() => return Err(usage(format!("{word} is one word too many"))),
            word => command.entry = Some(word.to_string()),
        }
    }
    let other = [("--wait", command.wait), ("--steps", command.steps.is_some())].into_iter().find(|(_, given)| *given);
    if let (Some((other, _)), true) = (other, command.profile.is_some()) {
        return Err(usage(format!("--profile times rounds of its own, and {other} asks for none: leave one of them out")));
    }
    Ok(command)
}

/// Times an entry of the program.
///
/// # Errors
/// As [`Bench::new`] and [`Bench::step`]; a closed output.
pub fn run(manifest: &Manifest, kernels: &dyn Kernels, command: &Command) -> Result<()> {
    let card = kernels.gpu().map(|gpu| gpu.card());
    let inputs = read_inputs(command.inputs.as_deref(), &command.single)?;
    let all = std::thread::available_parallelism().map_or(1, |n| n.get());
    let threads = match (&command.threads[..], all) {
        _ if card.is_some() => vec![1],
        ([], 1) => vec![1],
        ([], _) => vec![1, all],
        (given, _) => given.to_vec(),
    };
    let mut dims = command.dims.clone();
    if let Some(batch) = command.batch {
        let dim = manifest.recipes.first().map(|r| r.batch_dim.clone()).or(manifest.dims.first().map(|d| d.name.clone()));
        let Some(dim) = dim else { return Err(RunError::Usage("the program has no free dim that --batch could set".into())) };
        dims.insert(dim, batch);
    }
    let mut out = Output { json: command.json, card };
    for (n, &threads) in threads.iter().enumerate() {
        let setup = Setup { entry: command.entry.clone(), dims: dims.clone(), threads, weights: command.weights.clone() };
        let mut bench = Bench::new(manifest, kernels, &setup, &inputs)?;
        // The first steps touch memory for the first time; losses of training are worth seeing.
        let mut losses = vec![];
        for _ in 0..command.steps.unwrap_or(if command.wait { 1 } else { 3 }) {
            losses.extend(bench.step()?);
        }
        if let Some(steps) = command.steps {
            let entry = &bench.entry.name;
            let words = format!("{entry}: {steps} steps, losses {losses:?}");
            out.line(&if command.json { json!({ "entry": entry, "steps": steps, "losses": losses }).to_string() } else { words })?;
            continue;
        }
        let flops = manifest.flops.get(&bench.entry.name).and_then(|size| size.eval(&bench.dims).ok()).map(|n| n as f64);
        out.head(&bench, threads, flops, &losses, n == 0)?;
        let mut rounds = vec![];
        if command.wait {
            for line in std::io::stdin().lock().lines() {
                let text = line.unwrap_or_default();
                let seconds = text.trim().parse::<f64>().ok().filter(|s| (0.0..=3600.0).contains(s)).unwrap_or(command.seconds);
                let peak = peak::multiply_add(threads);
                bench.step()?;
                let round = bench.round(seconds)?;
                out.round(&round, threads, peak)?;
            }
            continue;
        }
        bench.round(command.seconds.min(0.3))?;
        let profile = command.profile.clone().map(|trace| Arc::new(Mutex::new(Profile::new(trace, card))));
        profile.iter().for_each(|profile| bench.observe(manifest, profile));
        for _ in 0..command.rounds {
            let peak = peak::multiply_add(threads);
            let round = bench.round(command.seconds)?;
            if command.json {
                out.round(&round, threads, peak)?;
            }
            rounds.push((round, peak));
        }
        if !command.json {
            out.row(&rounds, threads, flops, bench.traffic()?.1)?;
        }
        drop(bench);
        if let Some(profile) = profile {
            show(&profile.lock().unwrap_or_else(|e| e.into_inner()), &Report::new(if command.json { Style::Json } else { Style::Text }))?;
        }
    }
    Ok(())
}

/// Where lines go.
struct Output {
    json: bool,
    /// What computes, if it is no CPU: its peaks are not known.
    card: Option<&'static Card>,
}

impl Output {
    fn line(&self, text: &str) -> Result<()> {
        let mut out = std::io::stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush()).map_err(|e| RunError::World(format!("cannot write to standard output: {e}")))
    }

    fn head(&mut self, bench: &Bench, threads: usize, flops: Option<f64>, losses: &[f64], first: bool) -> Result<()> {
        let (launches, bytes) = bench.traffic()?;
        if self.json {
            let line = json!({ "entry": bench.entry.name, "dims": bench.dims, "threads": threads, "flops": flops, "bytes": bytes, "launches": launches,
                "arena_bytes": bench.arena_bytes(), "losses": losses, "rss_kb": peak_memory() });
            return self.line(&line.to_string());
        }
        if !first {
            return Ok(());
        }
        let sizes: Vec<String> = bench.dims.iter().map(|(name, n)| format!("{name} = {n}")).collect();
        self.line(&format!("{}{}{}", bench.entry.name, if sizes.is_empty() { "" } else { " at " }, sizes.join(", ")))?;
        let flops = flops.map(|f| format!("{} FLOP in contractions, ", scaled(f))).unwrap_or_default();
        let arena = scaled(bench.arena_bytes() as f64);
        self.line(&format!("{flops}{}B read and written by {launches} launches, {arena}B of arena", scaled(bytes as f64)))?;
        if let Some(read) = losses.first() {
            self.line(&format!("first loss {read}"))?;
        }
        if let Some(card) = self.card {
            self.line(&format!("on {card}"))?;
            return self.line("\n  median ms      min ms   10-90 %    GFLOP/s     GB/s");
        }
        self.line("\nthreads   median ms      min ms   10-90 %    GFLOP/s  of the peak     GB/s  of reading")
    }

    fn round(&self, round: &Round, threads: usize, peak: f64) -> Result<()> {
        let Round { steps, median, min, p10, p90 } = *round;
        let line = json!({ "threads": threads, "steps": steps, "median_ms": median, "min_ms": min, "p10_ms": p10, "p90_ms": p90, "peak_gflops": peak, "tile_gflops": peak::tile(threads), "rss_kb": peak_memory() });
        self.line(&line.to_string())
    }

    /// Medians of the rounds' medians; the least of their minima; shares of the peaks of this very run.
    fn row(&self, rounds: &[(Round, f64)], threads: usize, flops: Option<f64>, bytes: u64) -> Result<()> {
        let median = middle(rounds.iter().map(|(r, _)| r.median));
        let min = rounds.iter().map(|(r, _)| r.min).fold(f64::INFINITY, f64::min);
        let spread = middle(rounds.iter().map(|(r, _)| (r.p90 - r.p10) / r.median)) * 100.0;
        let (peak, moved) = (middle(rounds.iter().map(|(_, p)| *p)), bytes as f64 / median / 1e6);
        if self.card.is_some() {
            let products = flops.map_or(String::new(), |f| format!("{:.1}", f / median / 1e6));
            return self.line(&format!("{median:11.4}  {min:10.4}  {spread:6.1} %  {products:>9}  {moved:7.1}"));
        }
        let read = peak::read(threads)?;
        let products = match flops.map(|f| f / median / 1e6) {
            Some(speed) => format!("{speed:10.1}  {:5.1} % {:4.0}", 100.0 * speed / peak, peak),
            None => format!("{:>10}  {:>7} {peak:4.0}", "", ""),
        };
        self.line(&format!(
            "{threads:7}  {median:10.4}  {min:10.4}  {spread:6.1} %  {products}  {moved:7.1}  {:5.1} % {read:3.0}",
            100.0 * moved / read
        ))
    }
}

/// The middle one.
fn middle(values: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = values.collect();
    all.sort_unstable_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}

/// `1.5 M`
fn scaled(x: f64) -> String {
    let steps = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "K")];
    match steps.iter().find(|(unit, _)| x >= *unit) {
        Some((unit, letter)) => format!("{:.3} {letter}", x / unit),
        None => format!("{x} "),
    }
}

/// Most memory that this process has had, in KB, where the system says so.
pub fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Result<Command> {
        parse(&text.split_whitespace().map(String::from).collect::<Vec<_>>())
    }

    #[test]
    fn a_command_line_is_read_or_refused() {
        let command = words("infer:M --threads 1,2 --dim B=3 --dim=T=4 --rounds 2 --seconds 0.1 --json --batch 7").unwrap();
        assert_eq!(command.entry.as_deref(), Some("infer:M"));
        assert_eq!((command.threads, command.batch, command.rounds, command.seconds, command.json), (vec![1, 2], Some(7), 2, 0.1, true));
        assert_eq!(command.dims, Dims::from([("B".into(), 3), ("T".into(), 4)]));
        for (text, why) in [
            ("--threads 0", "a whole number above 0, not 0"),
            ("--threads 4000", "at most 1024"),
            ("--dim B", "NAME=VALUE, not B"),
            ("--seconds -1", "from 0 to 3600"),
            ("--fast", "no option --fast"),
            ("train infer", "infer is one word too many"),
            ("--rounds", "--rounds needs a value"),
            ("--wait --profile", "--profile times rounds of its own, and --wait asks for none"),
            ("--profile=trace.json --steps 3", "and --steps asks for none"),
        ] {
            let error = words(text).unwrap_err();
            assert!(error.exit_code() == 2 && error.message().contains(why), "{text}: {}", error.message());
        }
    }

    #[test]
    fn the_middle_is_a_median_and_sizes_have_letters() {
        assert_eq!(middle([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(scaled(411.0e6), "411.000 M");
        assert_eq!(scaled(12.0), "12 ");
    }
}
