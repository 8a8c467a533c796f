//! The command line of running: `train[:NAME]`, `eval[:NAME]`, `infer[:NAME]` and their flags, the same in `nnc run` and in `nnc-run`.

use crate::artifact::Artifact;
use crate::checkpoint::Every;
use crate::error::{Result, RunError};
use crate::evaluate::evaluate;
use crate::infer;
use crate::profile::Profile;
use crate::program::{Machine, Program, weights_path};
use crate::report::{Report, Style, figure};
use crate::tensors::Tensors;
use crate::train::{self, Options, number};
use crate::words::did_you_mean;
use crate::{pool::Pool, settings};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

/// For `--help`: everything after the program or artifact.
pub const HELP: &str = "\
What to run:
  train[:NAME]   a recipe (the only one without NAME); writes runs/PROGRAM/RECIPE/N
  eval[:NAME]    a recipe's metrics on a part of its data
  infer[:NAME]   a model

Options:
  --device cpu|cuda     where to run: this CPU, or a GPU of NVIDIA (default: what an artifact was built for, else the CPU)
  --threads N           threads; no result depends on it (default: all cores)
  --seed N              instead of the recipe's
  --set PATH=VALUE      changes a setting: train.batch=64, optimizer.lr=0.01
  --dim NAME=N          the size of a free dim
  --weights FILE        weights (.safetensors, .npz), or run:RECIPE for the best of its last run
  --run-dir DIR         where train writes (default: runs/PROGRAM/RECIPE/N)
  --resume DIR          goes on with the run in DIR, with its settings
  --batches FILE        train: the order of samples, whole numbers [steps, batch] (.npz, .npy)
  --log-steps           train: every step's loss in log.jsonl
  --save-every N|TIME   train: a checkpoint within epochs, every N steps or after 30s, 10m, 1h (default: 10m)
  --tensorboard         train: event files for TensorBoard in the run's folder
  --check-numerics      ends at the first step with a NaN or infinity: which launch and line made it, and from what
  --data PART|FILE      eval, infer: a part of the data section, or a file in its form (eval: test, else valid, else train)
  --input NAME=FILE     infer: an input (.npy)
  -o, --output DIR      infer: where results go, DIR/NAME.npy (default: .)
  --profile[=FILE]      time, FLOP/s and bytes/s of every kernel and line; with FILE, a trace for chrome://tracing too
  --json                JSON lines instead of words
  -q, --quiet           only errors
";

/// What to run.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// A recipe.
    Train(Option<String>),
    /// A recipe's metrics.
    Eval(Option<String>),
    /// A model.
    Infer(Option<String>),
}

/// What a program runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The processor.
    Cpu,
    /// A GPU of NVIDIA.
    Cuda,
}

impl Device {
    /// The value of `--device`.
    ///
    /// # Errors
    /// Another word.
    pub fn parse(text: &str) -> Result<Device> {
        match text {
            "cpu" => Ok(Device::Cpu),
            "cuda" => Ok(Device::Cuda),
            _ => Err(RunError::Usage(format!("--device is cpu or cuda, not {text}"))),
        }
    }

    /// Whether an artifact can run where it is asked to.
    ///
    /// # Errors
    /// It was built for something else.
    pub fn fits(asked: Option<Device>, artifact: &Artifact) -> Result<()> {
        let built = if artifact.manifest.grids.is_empty() { "cpu" } else { "cuda" };
        match asked {
            Some(device) if Device::parse(built)? != device => {
                Err(RunError::Usage(format!("the artifact was built with --target {built}: leave --device out, or build it for the other target")))
            }
            _ => Ok(()),
        }
    }
}

/// A parsed command line.
#[derive(Clone, Debug)]
pub struct Command {
    /// What to run.
    pub what: What,
    /// Seed, settings, dims, weights, folders.
    pub options: train::Options,
    /// Where, if it is said.
    pub device: Option<Device>,
    /// Threads; 0 for all cores.
    pub threads: usize,
    /// How to show it.
    pub style: Style,
    /// A part or a file.
    pub data: Option<String>,
    /// Inputs by name.
    pub inputs: Vec<(String, PathBuf)>,
    /// Where results go.
    pub output: PathBuf,
    /// Whether to measure what everything takes, and where the trace goes.
    pub profile: Option<Option<PathBuf>>,
    /// Whether to look for values that are not finite.
    pub numerics: bool,
}

/// Parses the arguments after the program; without any, `train`.
///
/// # Errors
/// [`RunError::Usage`].
pub fn parse(args: &[String]) -> Result<Command> {
    let usage = |text: String| Err(RunError::Usage(text));
    let options = Options { runs: "runs".into(), ..Default::default() };
    let mut command = Command {
        what: What::Train(None),
        options,
        device: None,
        threads: 0,
        style: Style::Text,
        data: None,
        inputs: vec![],
        output: ".".into(),
        profile: None,
        numerics: false,
    };
    let (mut chosen, mut rest) = (false, args.iter());
    while let Some(arg) = rest.next() {
        let (flag, inline) = match arg.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => (flag, Some(value.to_string())),
            _ => (arg.as_str(), None),
        };
        let mut value = || inline.clone().or_else(|| rest.next().cloned()).ok_or_else(|| RunError::Usage(format!("{flag} needs a value")));
        let whole = |text: String| text.parse::<u64>().map_err(|_| RunError::Usage(format!("{flag} needs a whole number, not {text}")));
        let pair = |text: String| match text.split_once('=') {
            Some((name, value)) if !name.is_empty() && !value.is_empty() => Ok((name.to_string(), value.to_string())),
            _ => Err(RunError::Usage(format!("{flag} needs NAME=VALUE, not {text}"))),
        };
        match flag {
            "--device" => command.device = Some(Device::parse(&value()?)?),
            "--threads" => match whole(value()?)? {
                n @ 1..=1024 => command.threads = n as usize,
                n => return usage(format!("--threads must be in 1..=1024, not {n}")),
            },
            "--seed" => command.options.seed = Some(whole(value()?)?),
            "--set" => command.options.set.push(pair(value()?)?),
            "--dim" => {
                let (name, size) = pair(value()?)?;
                let Ok(size) = size.parse::<i64>() else { return usage(format!("--dim {name} needs a whole number, not {size}")) };
                command.options.dims.insert(name.into(), size);
            }
            "--weights" => command.options.weights = Some(value()?),
            "--run-dir" => command.options.run_dir = Some(value()?.into()),
            "--resume" => command.options.resume = Some(value()?.into()),
            "--batches" => command.options.batches = Some(value()?.into()),
            "--log-steps" => command.options.log_steps = true,
            "--save-every" => {
                let text = value()?;
                let wrong = || RunError::Usage(format!("--save-every needs a number of steps or a time such as 30s, 10m, 1h, not {text}"));
                command.options.save_every = Every::parse(&text).ok_or_else(wrong)?;
            }
            "--tensorboard" => command.options.tensorboard = true,
            "--check-numerics" => command.numerics = true,
            "--data" => command.data = Some(value()?),
            "--input" => {
                let (name, file) = pair(value()?)?;
                command.inputs.push((name, file.into()));
            }
            "--output" | "-o" => command.output = value()?.into(),
            "--profile" => command.profile = Some(inline.clone().map(PathBuf::from)),
            "--json" => command.style = Style::Json,
            "--quiet" | "-q" => command.style = Style::Quiet,
            _ if flag.starts_with('-') => return Err(no_option(flag, HELP)),
            word if chosen => return usage(format!("{word} is one word too many")),
            word => {
                let (verb, name) = word.split_once(':').map_or((word, None), |(v, n)| (v, Some(n.to_string())));
                command.what = match verb {
                    "train" => What::Train(name),
                    "eval" => What::Eval(name),
                    "infer" => What::Infer(name),
                    _ => {
                        let meant = did_you_mean(verb, ["train", "eval", "infer"]).map_or(String::new(), |meant| format!(": did you mean {meant}?"));
                        return usage(format!("{word} is none of train, eval, infer{meant}"));
                    }
                };
                chosen = true;
            }
        }
    }
    Ok(command)
}

/// What is said of an option that is not in the help, with the one of it that may have been meant.
pub(crate) fn no_option(flag: &str, help: &str) -> RunError {
    let near = did_you_mean(flag, help.split_whitespace().filter(|w| w.starts_with("--")).map(|w| w.split(['[', '=']).next().unwrap_or(w)));
    RunError::Usage(format!("there is no option {flag}{}", near.map_or(String::new(), |near| format!(": did you mean {near}?"))))
}

/// Runs a command.
///
/// # Errors
/// What goes wrong, sorted by exit code.
pub fn run(program: &Program, command: &Command) -> Result<()> {
    let profile = command.profile.clone().map(|trace| Arc::new(Mutex::new(Profile::new(trace, program.kernels.gpu().map(|gpu| gpu.card())))));
    let report = Report::new(command.style);
    let ended = run_observed(program, command, &report, &profile);
    // What an interrupted run took is worth knowing too.
    let shown = profile.map_or(Ok(()), |p| show(&p.lock().unwrap_or_else(|e| e.into_inner()), &report));
    ended.and(shown)
}

pub(crate) fn show(profile: &Profile, report: &Report) -> Result<()> {
    // This machine's peak says nothing of a GPU's.
    let peak = if profile.card.is_none() { Some(crate::peak::measure()?) } else { None };
    report.line(&profile.text(peak.as_ref()), &profile.json(peak.as_ref()));
    match &profile.trace {
        Some(path) => crate::files::write(path, profile.chrome().to_string().as_bytes()),
        None => Ok(()),
    }
}

fn run_observed(program: &Program, command: &Command, report: &Report, profile: &Option<Arc<Mutex<Profile>>>) -> Result<()> {
    let threads = if command.threads > 0 { command.threads } else { std::thread::available_parallelism().map_or(1, |n| n.get()) };
    let options = &Options { runs: command.options.runs.join(program.name()), ..command.options.clone() };
    let mut machine = Machine {
        kernels: program.kernels,
        pool: Pool::new(threads),
        store: Tensors::new(&program.manifest.tensors)?.into(),
        profile: profile.clone(),
        numerics: command.numerics.then_some(program.manifest),
    };
    match &command.what {
        What::Train(name) => train::train(program, name.as_deref(), options, &mut machine, report, &*interruption()?).map(drop),
        What::Eval(name) => {
            let mut recipe = program.recipe(name.as_deref())?.clone();
            settings::apply(&mut recipe, &options.set)?;
            recipe.seed = options.seed.unwrap_or(recipe.seed);
            machine.store = trained(program, options, report)?.into();
            let section = crate::data::section(&program.manifest.data, &recipe.data)?;
            let declared = |part: &str| section.parts.iter().any(|p| &*p.name == part);
            let default = ["test", "valid"].into_iter().find(|p| declared(p)).unwrap_or("train");
            let part = command.data.as_deref().unwrap_or(default);
            let (values, confusion) = evaluate(program, &recipe, part, &options.dims, &mut machine)?;
            let named = || recipe.metrics.iter().zip(&values);
            let words: Vec<String> = named().map(|(m, v)| format!("{part}.{} {}", m.name, figure(*v))).collect();
            let mut json: Map<String, Value> = named().map(|(m, v)| (m.name.to_string(), number(*v))).collect();
            json.extend(confusion.iter().map(|c| ("confusion".to_string(), c.json())));
            let table = confusion.map_or(String::new(), |c| format!("\n\n{}", c.text()));
            report.line(&format!("{}{table}", words.join("  ")), &json!({ part: json }));
            Ok(())
        }
        What::Infer(name) => {
            let entry = infer::entry_of(program.manifest, name.as_deref())?;
            machine.store = trained(program, options, report)?.into();
            let seed = options.seed.unwrap_or(0);
            let results = match &command.data {
                Some(_) if !command.inputs.is_empty() => return Err(RunError::Usage("give either --input or --data".into())),
                Some(part) => infer::infer_data(program, entry, part, &options.dims, seed, &mut machine)?,
                None => infer::infer(program, entry, &infer::read_inputs(entry, &command.inputs)?, &options.dims, seed, &mut machine)?,
            };
            for ((_, tensor), path) in results.iter().zip(infer::write_results(&results, &command.output)?) {
                let words = format!("{}  {}{:?}", path.display(), tensor.dtype, tensor.shape);
                report.line(&words, &json!({ "file": path, "dtype": tensor.dtype.to_string(), "shape": tensor.shape }));
            }
            Ok(())
        }
    }
}

/// The weights to run with.
fn trained(program: &Program, options: &Options, report: &Report) -> Result<Tensors> {
    let Some(text) = options.weights.as_deref() else { return program.trained(None, &options.runs) };
    let file = weights_path(text, Path::new(""), &options.runs)?;
    report.weights(text, &file);
    program.trained(Some(&file), &options.runs)
}

/// A flag that Ctrl-C (or a polite kill) sets; the second one ends the process at once.
pub fn interruption() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        let failed = |e: std::io::Error| RunError::World(format!("cannot listen for Ctrl-C: {e}"));
        signal_hook::flag::register_conditional_shutdown(signal, 130, flag.clone()).map_err(failed)?;
        signal_hook::flag::register(signal, flag.clone()).map_err(failed)?;
    }
    Ok(flag)
}

/// Prints an error the way every command does, and gives the exit code.
pub fn finish(result: Result<()>) -> std::process::ExitCode {
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            let kind = if matches!(error, RunError::Interrupted(_)) { "interrupted" } else { "error" };
            eprintln!("{kind}: {error}");
            std::process::ExitCode::from(error.exit_code())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_have_short_forms_and_near_ones_are_named() {
        let line = |text: &str| parse(&text.split_whitespace().map(String::from).collect::<Vec<_>>());
        let command = line("infer -q -o scores").unwrap();
        assert_eq!((command.what, command.style, command.output), (What::Infer(None), Style::Quiet, "scores".into()));
        let refused = |text: &str| line(text).unwrap_err().to_string();
        assert!(refused("train --resum runs/1").ends_with("there is no option --resum: did you mean --resume?"));
        assert!(refused("train --qiet").ends_with("did you mean --quiet?"));
        assert!(refused("train -x").ends_with("there is no option -x"));
    }
}
