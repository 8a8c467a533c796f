//! `nnc sweep`: many trainings of one program, one for each combination of settings, and a table at the end.
//!
//! Settings that a compiled recipe lets change (rates, batch, epochs, seed) share one artifact; others are compiled once each.

use super::Failure;
use super::build::{self, Target};
use super::input::{self, Source};
use super::time::Clock;
use crate::ir::DType;
use nnc_runtime::artifact::{self, Artifact};
use nnc_runtime::commands::{self, Command, Device, What};
use nnc_runtime::error::RunError;
use nnc_runtime::loader;
use nnc_runtime::pool::Pool;
use nnc_runtime::program::{Machine, Program};
use nnc_runtime::recipe::Recipe;
use nnc_runtime::report::{Report, Style, took};
use nnc_runtime::settings;
use nnc_runtime::tensors::Tensors;
use nnc_runtime::train::{self, Summary};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Arguments of `nnc sweep`.
#[derive(clap::Args)]
#[command(after_help = "\
What differs:
  --over PATH=A,B,..  a setting and its values; 1..=5 stands for whole numbers; of several, every combination
  --by PART.METRIC    which metric is compared (default: what early stopping watches, else the first after the loss)
  --json              a JSON object a run instead of the table

Examples:
  nnc sweep digits.nn --over optimizer.lr=0.3,0.1,0.03
  nnc sweep digits.nn train:fit --over seed=1..=5 --over batch=16,64 --by valid.accuracy

Every run has a folder of its own, as with `nnc run`; other options are those of `nnc run FILE train`.")]
pub struct Args {
    /// A program or an artifact
    file: PathBuf,
    /// train:NAME, and options of `nnc run`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "--over PATH=A,B,..|OPTION")]
    rest: Vec<String>,
}

/// A setting and the values that it takes in turn.
struct Axis {
    path: String,
    values: Vec<String>,
}

/// Values of the axes, in their order.
type Point = Vec<(String, String)>;

/// A training that has ended.
struct Run {
    point: Point,
    seconds: f64,
    ended: Result<Summary, String>,
}

/// Runs the command.
pub fn run(args: Args) -> Result<(), Failure> {
    let (axes, by, rest) = own(&args.rest)?;
    let command = commands::parse(&rest)?;
    let What::Train(recipe) = &command.what else { return Err(Failure::usage("a sweep trains: say train:NAME, or nothing")) };
    if command.options.run_dir.is_some() || command.options.resume.is_some() {
        return Err(Failure::usage("every run of a sweep is new and has a folder of its own: leave out --run-dir and --resume"));
    }
    let points = product(&axes);
    let stop = commands::interruption()?;
    let mut programs =
        Programs { file: &args.file, target: Target::of(command.device), given: command.options.set.clone(), compiled: BTreeMap::new() };
    // A setting that is wrong is known before the first run.
    for point in &points {
        programs.split(recipe.as_deref(), point)?;
    }
    let (mut runs, mut shown) = (Vec::<Run>::new(), None);
    for (n, point) in points.iter().enumerate() {
        let start = Instant::now();
        let (recipe, ended) = programs.train(recipe.as_deref(), point, &command, &stop)?;
        let time = start.elapsed();
        let (by, _) = shown.get_or_insert_with(|| judge(&recipe, by.as_deref()));
        let run = Run { point: point.clone(), seconds: time.as_secs_f64(), ended };
        let words = format!("{}/{} {}: {}, {}", n + 1, points.len(), point_text(point), outcome(&run, by), took(time));
        match command.style {
            Style::Text => eprintln!("{words}"),
            Style::Json => super::print(&format!("{}\n", json_of(&run)))?,
            Style::Quiet => {}
        }
        runs.push(run);
        if stop.load(Ordering::Relaxed) {
            break;
        }
    }
    let (by, larger) = shown.unwrap_or_default();
    if command.style == Style::Text {
        super::print(&table(&axes, &runs, &by, larger))?;
    }
    let failed = runs.iter().filter(|r| r.ended.is_err()).count();
    match failed {
        _ if stop.load(Ordering::Relaxed) => {
            Err(Failure { code: 130, message: format!("after {} of {} runs; each is whole or says how to resume it", runs.len(), points.len()) })
        }
        0 => Ok(()),
        n => Err(Failure::program(format!("{n} of {} runs failed", runs.len()))),
    }
}

/// Axes, the metric that judges, and the other words.
type Words = (Vec<Axis>, Option<String>, Vec<String>);

/// What belongs to the sweep itself, and the other words.
fn own(words: &[String]) -> Result<Words, Failure> {
    let (mut axes, mut by, mut rest) = (Vec::<Axis>::new(), None, vec![]);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let (flag, inline) = word.split_once('=').map_or((word.as_str(), None), |(f, v)| (f, Some(v.to_string())));
        if flag != "--over" && flag != "--by" {
            rest.push(word.clone());
            continue;
        }
        let value = inline.or_else(|| words.next().cloned()).ok_or_else(|| Failure::usage(format!("{flag} needs a value")))?;
        if flag == "--by" {
            by = Some(value);
            continue;
        }
        let (path, values) = value.split_once('=').ok_or_else(|| Failure::usage(format!("--over takes PATH=A,B,.., not `{value}`")))?;
        let values = values_of(values);
        if values.iter().any(|v| v.is_empty()) {
            return Err(Failure::usage(format!("--over {path} has an empty value")));
        }
        if axes.iter().any(|a| a.path == path) {
            return Err(Failure::usage(format!("--over {path} is given twice")));
        }
        axes.push(Axis { path: path.trim().to_string(), values });
    }
    if axes.is_empty() {
        return Err(Failure::usage("a sweep needs --over PATH=A,B,..: which setting, and its values"));
    }
    Ok((axes, by, rest))
}

/// Values between commas; `1..=5` stands for all whole numbers from 1 to 5.
fn values_of(text: &str) -> Vec<String> {
    let range = |v: &str| -> Option<Vec<String>> {
        let (first, last) = v.split_once("..=")?;
        let (first, last) = (first.parse::<i64>().ok()?, last.parse::<i64>().ok()?);
        (first <= last && last - first < 10_000).then(|| (first..=last).map(|n| n.to_string()).collect())
    };
    text.split(',').map(str::trim).flat_map(|v| range(v).unwrap_or_else(|| vec![v.to_string()])).collect()
}

/// All combinations, the last axis fastest.
fn product(axes: &[Axis]) -> Vec<Point> {
    axes.iter().fold(vec![vec![]], |points: Vec<Point>, axis| {
        let with = |point: &Point, value: &String| [&point[..], &[(axis.path.clone(), value.clone())]].concat();
        points.iter().flat_map(|point| axis.values.iter().map(move |v| with(point, v))).collect()
    })
}

/// The program, compiled once for each combination of what must be known then.
struct Programs<'a> {
    file: &'a Path,
    target: Target,
    given: Point,
    compiled: BTreeMap<Point, (Artifact, PathBuf)>,
}

impl Programs<'_> {
    /// A training at a point. An error ends the sweep; what only this combination of settings makes wrong is in the result.
    fn train(
        &mut self,
        name: Option<&str>,
        point: &Point,
        command: &Command,
        stop: &std::sync::atomic::AtomicBool,
    ) -> Result<(Recipe, Result<Summary, String>), Failure> {
        let (before, later) = self.split(name, point)?;
        let (source, given) = (self.source(), self.given.clone());
        let (artifact, folder) = self.compile(&before)?;
        Device::fits(command.device, artifact)?;
        let kernels = loader::load_artifact(artifact)?;
        let kernels = kernels.as_ref();
        let program = Program { manifest: &artifact.manifest, kernels, folder: folder.clone(), artifact: Some(artifact) };
        let recipe = program.recipe(name)?.clone();
        let mut options = train::Options { runs: command.options.runs.join(program.name()), ..command.options.clone() };
        if source {
            (options.compiled, options.set) = ([given, before].concat(), later);
        } else {
            options.set.extend(later);
        }
        let threads = if command.threads > 0 { command.threads } else { std::thread::available_parallelism().map_or(1, |n| n.get()) };
        let store = Tensors::new(&artifact.manifest.tensors)?;
        let mut machine = Machine { kernels, pool: Pool::new(threads), store: store.into(), profile: None, numerics: None };
        match train::train(&program, name, &options, &mut machine, &Report::new(Style::Quiet), stop) {
            Ok(summary) => Ok((recipe, Ok(summary))),
            Err(RunError::Wrong(why) | RunError::Interrupted(why)) => Ok((recipe, Err(why))),
            Err(other) => Err(other.into()),
        }
    }

    fn source(&self) -> bool {
        !artifact::is_artifact(self.file).unwrap_or(false)
    }

    /// What must be known when the program is compiled, and what can be changed in a compiled one. Source is compiled for the first.
    fn split(&mut self, name: Option<&str>, point: &Point) -> Result<(Point, Point), Failure> {
        let source = self.source();
        let recipes = self.compile(&[])?.0.manifest.recipes.clone();
        let own = recipes.iter().find(|r| name.is_none_or(|n| *n == *r.name));
        let later = |pair: &(String, String)| own.is_some_and(|r| settings::apply(&mut r.clone(), std::slice::from_ref(pair)).is_ok());
        let (later, before): (Point, Point) = point.iter().cloned().partition(|pair| !source || later(pair));
        match own {
            // A compiled program refuses now what it cannot change.
            Some(recipe) if !source => settings::apply(&mut recipe.clone(), &later)?,
            _ => drop(self.compile(&before)?),
        }
        Ok((before, later))
    }

    fn compile(&mut self, set: &[(String, String)]) -> Result<&(Artifact, PathBuf), Failure> {
        if !self.compiled.contains_key(set) {
            let made = if !self.source() {
                let artifact = Artifact::read(self.file)?;
                let folder = artifact.folder(self.file);
                (artifact, folder)
            } else {
                let all = self.given.iter().chain(set).map(|(path, value)| format!("{path}={value}")).collect();
                let checked = input::check(&Source { file: self.file.to_path_buf(), set: all }, DType::F32)?;
                (build::artifact(&checked, self.target, &Clock::start())?, self.file.parent().unwrap_or(Path::new("")).to_path_buf())
            };
            self.compiled.insert(set.to_vec(), made);
        }
        Ok(&self.compiled[set])
    }
}

/// The metric that says which run is best, and whether larger is better: the one asked for, what early stopping watches, or the first after the loss.
fn judge(recipe: &Recipe, by: Option<&str>) -> (String, bool) {
    let first = recipe.metrics.iter().skip(1).find(|m| m.larger_is_better.is_some()).map_or("loss".to_string(), |m| m.name.to_string());
    let watched = recipe.early_stop.as_ref().map(|s| format!("{}.{}", s.part, s.metric));
    let by = by.map(str::to_string).or(watched).unwrap_or(first);
    let metric = by.rsplit('.').next().unwrap_or_default();
    let larger = recipe.metrics.iter().find(|m| *m.name == *metric).and_then(|m| m.larger_is_better).unwrap_or(false);
    (by, larger)
}

/// The value of a metric: `valid.accuracy`, or `accuracy` of `valid`, else of whatever part has it.
fn value(run: &Run, by: &str) -> Option<f64> {
    let metrics = &run.ended.as_ref().ok()?.metrics;
    let of = |part: Option<&str>, name: &str| metrics.iter().find(|(p, n, _)| part.is_none_or(|part| part == &**p) && name == &**n).map(|m| m.2);
    match by.split_once('.') {
        Some((part, name)) => of(Some(part), name),
        None => of(Some("valid"), by).or_else(|| of(None, by)),
    }
}

fn point_text(point: &Point) -> String {
    point.iter().map(|(path, value)| format!("{path}={value}")).collect::<Vec<_>>().join(" ")
}

fn outcome(run: &Run, by: &str) -> String {
    match &run.ended {
        Err(why) => format!("failed: {}", why.lines().next().unwrap_or_default()),
        Ok(_) => value(run, by).map_or("done".into(), |v| format!("{by} {v:.4}")),
    }
}

fn json_of(run: &Run) -> Value {
    let settings: Map<String, Value> = run.point.iter().map(|(path, value)| (path.clone(), json!(value))).collect();
    match &run.ended {
        Ok(s) => {
            let metrics: Map<String, Value> = s.metrics.iter().map(|(part, name, v)| (format!("{part}.{name}"), train::number(*v))).collect();
            json!({ "settings": settings, "seconds": run.seconds, "folder": s.folder, "epochs": s.epochs, "steps": s.steps, "metrics": metrics })
        }
        Err(why) => json!({ "settings": settings, "seconds": run.seconds, "error": why }),
    }
}

/// All runs, which is best, and where seeds were swept, means and deviations over them.
fn table(axes: &[Axis], runs: &[Run], by: &str, larger: bool) -> String {
    let mut columns: Vec<String> = vec![];
    for (part, name, _) in runs.iter().filter_map(|r| r.ended.as_ref().ok()).flat_map(|s| &s.metrics) {
        let column = format!("{part}.{name}");
        if !columns.contains(&column) {
            columns.push(column);
        }
    }
    let number = |v: Option<f64>| v.map_or("-".to_string(), |v| format!("{v:.4}"));
    let head = axes.iter().map(|a| a.path.clone()).chain(columns.clone()).chain(["seconds".into(), "run".into()]);
    let mut rows: Vec<Vec<String>> = vec![head.collect()];
    for run in runs {
        let settings = run.point.iter().map(|(_, v)| v.clone());
        let place =
            run.ended.as_ref().map_or_else(|why| format!("failed: {}", why.lines().next().unwrap_or_default()), |s| s.folder.display().to_string());
        let metrics = columns.iter().map(|c| number(value(run, c)));
        rows.push(settings.chain(metrics).chain([format!("{:.3}", run.seconds), place]).collect());
    }
    let mut text = aligned(&rows);
    let better = |new: f64, old: f64| if larger { new > old } else { new < old };
    let judged = runs.iter().filter_map(|r| Some((r, value(r, by).filter(|v| !v.is_nan())?)));
    // Of equals the first.
    match judged.reduce(|old, new| if better(new.1, old.1) { new } else { old }) {
        Some((best, v)) => text += &format!("\nbest {by}: {v:.4} with {}\n", point_text(&best.point)),
        None => text += &format!("\nno run has {by}: nothing says which is best\n"),
    }
    text + &over_seeds(axes, runs, &columns)
}

fn over_seeds(axes: &[Axis], runs: &[Run], columns: &[String]) -> String {
    let is_seed = |path: &str| path == "seed" || path.ends_with(".seed");
    if columns.is_empty() || axes.iter().all(|a| !is_seed(&a.path) || a.values.len() < 2) {
        return String::new();
    }
    let others = |run: &Run| run.point.iter().filter(|(path, _)| !is_seed(path)).cloned().collect::<Point>();
    let mut groups: Vec<(Point, Vec<&Run>)> = vec![];
    for run in runs.iter().filter(|r| r.ended.is_ok()) {
        let key = others(run);
        match groups.iter_mut().find(|(k, _)| *k == key) {
            Some((_, list)) => list.push(run),
            None => groups.push((key, vec![run])),
        }
    }
    let head = axes.iter().map(|a| a.path.clone()).filter(|p| !is_seed(p)).chain(columns.iter().cloned()).chain(["seeds".into()]);
    let mut rows: Vec<Vec<String>> = vec![head.collect()];
    for (key, list) in &groups {
        let spread = |column: &String| {
            let values: Vec<f64> = list.iter().filter_map(|r| value(r, column)).collect();
            let n = values.len() as f64;
            let mean = values.iter().sum::<f64>() / n;
            let deviation = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0)).sqrt();
            format!("{mean:.4} ± {deviation:.4}")
        };
        rows.push(key.iter().map(|(_, v)| v.clone()).chain(columns.iter().map(spread)).chain([list.len().to_string()]).collect());
    }
    format!("\nmean and standard deviation over seeds\n{}", aligned(&rows))
}

fn aligned(rows: &[Vec<String>]) -> String {
    let width = |n: usize| rows.iter().map(|r| r[n].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let line = |row: &Vec<String>| {
        row.iter().zip(&widths).map(|(cell, w)| format!("{cell:w$}")).collect::<Vec<_>>().join("  ").trim_end().to_string() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_split_and_ranges_counted() {
        assert_eq!(values_of("0.1, 0.01"), ["0.1", "0.01"]);
        assert_eq!(values_of("1..=3,7"), ["1", "2", "3", "7"]);
        assert_eq!(values_of("3..=1"), ["3..=1"]);
        let axis = |path: &str, values: &[&str]| Axis { path: path.into(), values: values.iter().map(|v| v.to_string()).collect() };
        let points = product(&[axis("a", &["1", "2"]), axis("b", &["x", "y"])]);
        assert_eq!(points.iter().map(point_text).collect::<Vec<_>>(), ["a=1 b=x", "a=1 b=y", "a=2 b=x", "a=2 b=y"]);
    }
}
