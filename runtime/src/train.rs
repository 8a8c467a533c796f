//! The training loop.
//!
//! In: a program, the name of a recipe, options. Out: a folder with the best weights, the last checkpoint and the log, and the final metrics.
//! Everything follows from the program, its data, the seed and the settings: the order of epoch `e` is a shuffle of the part's rows from
//! `key(seed, Order, e)`, the key of step `s` (from 1) is `key(seed, Step, s)`. A run that was interrupted and resumed ends in the same bytes.

use crate::checkpoint::{Folder, Position};
use crate::data::{self, Dataset};
use crate::error::{Result, RunError, refuse, wrong};
use crate::evaluate::{Evaluator, columns_used, scalars_of, sums_of};
use crate::program::{Batch, Machine, Program, Setting, StepValues, weights_path};
use crate::random::{Generator, Stream, key};
use crate::recipe::{Length, Recipe};
use crate::report::Report;
use crate::settings;
use crate::size::Dims;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What the user may choose for a run.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Instead of the recipe's.
    pub seed: Option<u64>,
    /// The run's folder, instead of the next number in `runs/RECIPE`.
    pub run_dir: Option<PathBuf>,
    /// Where the runs of the program's recipes are.
    pub runs: PathBuf,
    /// Continue the run in this folder.
    pub resume: Option<PathBuf>,
    /// Initial weights: a file, or `run:NAME`.
    pub weights: Option<String>,
    /// A `.npz` or `.npy` with the order of samples: whole numbers [steps, batch] or [epochs, steps, batch], positions in the part `train`.
    pub batches: Option<PathBuf>,
    /// Every step's loss into the log.
    pub log_steps: bool,
    /// `path=value`
    pub set: Vec<(String, String)>,
    /// Settings that are in the program already: recorded, not applied.
    pub compiled: Vec<(String, String)>,
    /// Sizes of free dims.
    pub dims: Dims,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Its folder.
    pub folder: PathBuf,
    /// Epochs done.
    pub epochs: u64,
    /// Steps done.
    pub steps: u64,
    /// Of the best weights: part, metric, value.
    pub metrics: Vec<(Arc<str>, Arc<str>, f64)>,
}

/// Where batches come from.
enum Order {
    /// Shuffled (or not) every epoch.
    Drawn,
    /// Given: rows of all steps, batch after batch; and steps an epoch, where the file has an axis of epochs.
    Given(Vec<u32>, Option<u64>),
}

/// Trains. `stop` ends the run after the present step, once the checkpoint is written.
///
/// # Errors
/// Whatever is wrong with program, data, settings or files; [`RunError::Interrupted`] if stopped.
pub fn train(program: &Program, name: Option<&str>, options: &Options, machine: &mut Machine, report: &Report, stop: &AtomicBool) -> Result<Summary> {
    if options.resume.is_some() && (options.weights.is_some() || options.run_dir.is_some()) {
        return Err(RunError::Usage("a run is resumed with its own weights and in its own folder: leave out --weights and --run-dir".into()));
    }
    let resumed = options.resume.as_deref().map(Position::read).transpose()?;
    let declared = program.recipe(name.or(resumed.as_ref().map(|p| p.recipe.as_str())))?;
    if let Some(position) = &resumed {
        if position.recipe != *declared.name {
            return wrong!("the run to resume is one of the recipe {}, not {}", position.recipe, declared.name);
        }
        if !options.compiled.starts_with(&position.compiled) {
            let set: Vec<String> = position.compiled.iter().map(|(path, value)| format!("--set {path}={value}")).collect();
            return wrong!("the run to resume was started from source with {}: resume it from the source", set.join(" "));
        }
    }
    let (mut folder, mut position) = match &options.resume {
        Some(path) => {
            let (folder, position) = Folder::resume(path, &mut machine.store)?;
            (Some(folder), position)
        }
        None => (None, Position { recipe: declared.name.to_string(), ..Position::default() }),
    };
    position.compiled.clone_from(&options.compiled);
    if folder.is_none() {
        position.dims.clone_from(&options.dims);
    }
    let dims = position.dims.clone();
    if let Some((name, n)) = options.dims.iter().find(|(name, n)| dims.get(*name) != Some(n)) {
        let own = dims.get(name).map_or("no --dim of that name".into(), |own| format!("--dim {name}={own}"));
        return wrong!("a run is resumed with its own sizes: it has {own}, not --dim {name}={n}");
    }
    position.set.extend(options.set.iter().cloned());
    let mut recipe = declared.clone();
    settings::apply(&mut recipe, &position.set)?;
    recipe.seed = options.seed.unwrap_or(recipe.seed);
    let order = match &options.batches {
        Some(path) => given_batches(path, &mut recipe)?,
        None => Order::Drawn,
    };
    match &folder {
        Some(_) if options.seed.is_some_and(|s| s != position.seed) || recipe.batch != position.batch => {
            return wrong!("a run is resumed with its own seed ({}) and batch ({})", position.seed, position.batch);
        }
        Some(_) => recipe.seed = position.seed,
        None => (position.seed, position.batch) = (recipe.seed, recipe.batch),
    }

    let used = columns_used(program, &recipe);
    let section = data::section(&program.manifest.data, &recipe.data)?;
    let data = Dataset::load(section, &program.folder, &|name| used.iter().any(|u| &**u == name))?;
    let rows = data.part("train")?;
    let length = plan_length(&recipe, rows.len(), &order)?;
    if let Some(stop) = &recipe.early_stop {
        data.part(&stop.part).map_err(|e| refuse!("early stopping watches {}: {e}", stop.part))?;
    }
    let order = match order {
        Order::Given(at, per_epoch) => {
            let row = |&i: &u32| {
                rows.get(i as usize).copied().map_or_else(|| wrong!("the given batches name sample {i}, but train has {}", rows.len()), Ok)
            };
            Order::Given(at.iter().map(row).collect::<Result<_>>()?, per_epoch)
        }
        Order::Drawn => Order::Drawn,
    };

    if folder.is_none() {
        program.initialise(recipe.seed, Some(&recipe.name), machine)?;
        if let Some(file) = &options.weights {
            crate::weights::load(&mut machine.store, &weights_path(file, Path::new(""), &options.runs)?)?;
        } else if let Some(file) = &recipe.load {
            crate::weights::load(&mut machine.store, &weights_path(file, &program.folder, &options.runs)?)?;
        }
    }
    let sums = sums_of(&recipe);
    let setting = Setting { program, data: &data, dims: &dims, sums: &sums };
    let evaluator = Evaluator::new(&setting, &recipe, machine)?;
    // What does not fit is found before there is a folder.
    let (count, scalars) = (recipe.batch as usize, scalars_of(&recipe));
    let full = Batch::new(&setting, program.entry(&format!("train:{}", recipe.name))?, count, &scalars, machine)?;
    let folder = match folder.take() {
        Some(folder) => folder,
        None => {
            let folder = Folder::create(options.run_dir.as_deref(), &options.runs, &recipe.name)?;
            let set = [position.compiled.as_slice(), &position.set].concat();
            let lock =
                json!({ "compiler": program.manifest.compiler, "source": program.manifest.source, "recipe": recipe, "set": set, "dims": dims });
            crate::files::write(&folder.path.join("run.json"), format!("{lock:#}\n").as_bytes())?;
            position.sums = vec![0; sums.len()];
            folder
        }
    };
    let mut run =
        Run { setting: &setting, recipe: &recipe, rows, order, length, position, folder, evaluator, report, batches: vec![(count, full)], scalars };
    run.set_scalar("steps", length.steps as f64);
    run.set_scalar("steps_per_epoch", length.per_epoch as f64);
    run.all(options.log_steps, machine, stop)
}

/// How many steps there are.
#[derive(Clone, Copy)]
struct Steps {
    per_epoch: u64,
    steps: u64,
}

fn plan_length(recipe: &Recipe, rows: usize, order: &Order) -> Result<Steps> {
    let batch = usize::try_from(recipe.batch).ok().filter(|&b| b > 0);
    let Some(batch) = batch else { return wrong!("the batch must have at least one sample, not {}", recipe.batch) };
    if batch > rows {
        let s = if rows == 1 { "" } else { "s" };
        return wrong!("the batch of {batch} is larger than the part train, which has {rows} sample{s}");
    }
    let per_epoch = match order {
        Order::Given(_, Some(n)) => *n,
        Order::Given(_, None) | Order::Drawn if recipe.drop_last => (rows / batch) as u64,
        Order::Given(_, None) | Order::Drawn => rows.div_ceil(batch) as u64,
    };
    let steps = match (order, recipe.length) {
        (Order::Given(at, _), _) => (at.len() / batch) as u64,
        (Order::Drawn, Length::Epochs(n)) => u64::try_from(n).ok().and_then(|n| n.checked_mul(per_epoch)).unwrap_or(0),
        (Order::Drawn, Length::Steps(n)) => u64::try_from(n).unwrap_or(0),
    };
    if steps == 0 { wrong!("the recipe {} has no steps to do", recipe.name) } else { Ok(Steps { per_epoch, steps }) }
}

/// The only array of a file, [steps, batch] or [epochs, steps, batch].
fn given_batches(path: &Path, recipe: &mut Recipe) -> Result<Order> {
    let name = path.display();
    let array = if path.extension().is_some_and(|e| e == "npy") {
        crate::npy::read_npy(path)?
    } else {
        let mut arrays = crate::npy::read_npz(path)?;
        match (arrays.pop_first(), arrays.len()) {
            (Some((_, array)), 0) => array,
            (_, more) => return wrong!("{name} must hold one array of batches, not {}", more + 1),
        }
    };
    if array.dtype != crate::dtype::DType::I64 || array.shape.len() < 2 || array.is_empty() {
        return wrong!("{name} holds {}{:?}, not whole numbers [steps, batch]", array.dtype, array.shape);
    }
    recipe.batch = array.shape.last().copied().unwrap_or(1);
    let row = |&i: &i64| u32::try_from(i).map_err(|_| refuse!("{name} names sample {i}"));
    let per_epoch = array.shape.len().checked_sub(3).map(|_| array.shape[array.shape.len() - 2] as u64);
    Ok(Order::Given(array.as_i64().iter().map(row).collect::<Result<_>>()?, per_epoch))
}

/// A run under way.
struct Run<'a> {
    setting: &'a Setting<'a>,
    recipe: &'a Recipe,
    rows: Vec<u32>,
    order: Order,
    length: Steps,
    position: Position,
    folder: Folder,
    evaluator: Evaluator,
    report: &'a Report,
    /// By number of samples: the full batch and the last one.
    batches: Vec<(usize, Batch)>,
    scalars: Vec<(Arc<str>, f64)>,
}

impl Run<'_> {
    fn set_scalar(&mut self, name: &str, value: f64) {
        self.scalars.iter_mut().filter(|(n, _)| &**n == name).for_each(|(_, v)| *v = value);
    }

    fn all(mut self, log_steps: bool, machine: &mut Machine, stop: &AtomicBool) -> Result<Summary> {
        let mut sums: Vec<f64> = self.position.sums.iter().map(|&b| f64::from_bits(b)).collect();
        sums.resize(self.setting.sums.len(), 0.0);
        while self.position.step < self.length.steps && !self.position.stopped {
            let ended = match self.epoch(&mut sums, log_steps, machine, stop) {
                Ok(ended) => ended,
                Err(e) => {
                    // What was good before is kept; that it cannot be written as well is not what the user must hear.
                    let _ = self.folder.write_best();
                    return Err(e);
                }
            };
            self.position.sums = sums.iter().map(|s| s.to_bits()).collect();
            let over = self.position.step >= self.length.steps || self.position.stopped;
            if !ended || over || self.folder.due() {
                self.folder.save(&machine.store, &mut self.position)?;
            }
            if !ended {
                self.report.end();
                let (step, path) = (self.position.step, self.folder.path.display());
                return Err(RunError::Interrupted(format!("stopped after step {step} of {}; go on with --resume {path}", self.length.steps)));
            }
        }
        self.report.end();
        self.finish(machine)
    }

    /// Trains to the end of the epoch, with its metrics, or until stopped: false.
    fn epoch(&mut self, sums: &mut [f64], log_steps: bool, machine: &mut Machine, stop: &AtomicBool) -> Result<bool> {
        let began = Instant::now();
        let epoch = self.position.epoch;
        let steps = self.length.per_epoch.min(self.length.steps - (self.position.step - self.position.in_epoch));
        let mut order = std::mem::take(&mut self.rows);
        let drawn = matches!(self.order, Order::Drawn) && self.recipe.shuffle;
        let plain = order.clone();
        if drawn {
            Generator::new(key(self.recipe.seed, Stream::Order, epoch)).shuffle(&mut order);
        }
        self.rows = plain;
        self.set_scalar("epoch", epoch as f64 + 1.0);
        self.report.begin(&format!("epoch {}", epoch + 1), self.position.in_epoch, steps);
        while self.position.in_epoch < steps {
            self.step(&order, sums, log_steps, machine)?;
            self.report.step();
            if stop.load(Ordering::Relaxed) && self.position.in_epoch < steps {
                return Ok(false);
            }
        }
        self.end_epoch(sums, began, machine)?;
        Ok(!stop.load(Ordering::Relaxed) || self.position.step >= self.length.steps || self.position.stopped)
    }

    fn step(&mut self, order: &[u32], sums: &mut [f64], log_steps: bool, machine: &mut Machine) -> Result<()> {
        let (step, batch) = (self.position.step + 1, self.recipe.batch as usize);
        self.set_scalar("step", step as f64);
        let (from, at) = match &self.order {
            Order::Given(rows, _) => (rows.as_slice(), self.position.step as usize * batch),
            Order::Drawn => (order, self.position.in_epoch as usize * batch),
        };
        let rows = &from[at..(at + batch).min(from.len())];
        let k = match self.batches.iter().position(|(count, _)| *count == rows.len()) {
            Some(k) => k,
            None => {
                let entry = self.setting.program.entry(&format!("train:{}", self.recipe.name))?;
                self.batches.push((rows.len(), Batch::new(self.setting, entry, rows.len(), &self.scalars, machine)?));
                self.batches.len() - 1
            }
        };
        let values = StepValues { rows, scalars: &self.scalars, step, key: key(self.recipe.seed, Stream::Step, step) };
        if log_steps {
            let mut own = vec![0.0; sums.len()];
            self.batches[k].1.step(machine, self.setting.data, &values, &mut own)?;
            sums.iter_mut().zip(&own).for_each(|(s, o)| *s += o);
            let loss = self.evaluator.values(&own, machine)?.first().copied().unwrap_or(f64::NAN);
            self.folder.log(&json!({ "step": step, "loss": number(loss) }))?;
        } else {
            self.batches[k].1.step(machine, self.setting.data, &values, sums)?;
        }
        self.position.step = step;
        self.position.in_epoch += 1;
        Ok(())
    }

    /// Metrics, log, best weights, early stopping.
    fn end_epoch(&mut self, sums: &mut [f64], began: Instant, machine: &mut Machine) -> Result<()> {
        self.position.epoch += 1;
        self.position.in_epoch = 0;
        let train = self.evaluator.values(sums, machine)?;
        sums.fill(0.0);
        let watched = self.recipe.early_stop.as_ref().map(|s| s.part.clone());
        let mut parts = vec![(Arc::from("train"), train)];
        for part in [Some("valid".into()), watched].into_iter().flatten() {
            if self.setting.data.has_part(&part) && parts.iter().all(|(p, _)| *p != part) {
                let rows = self.setting.data.part(&part)?;
                let values = self.evaluator.part(self.setting, self.recipe, &rows, &self.scalars, machine)?;
                parts.push((part, values));
            }
        }
        let better = self.judge(&parts);
        if better {
            self.folder.keep_best(&machine.store)?;
            self.position.best_epoch = self.position.epoch;
        }
        let seconds = (began.elapsed().as_secs_f64() * 1e3).round() / 1e3;
        let mut line = self.metrics_json(&parts);
        line.insert("epoch".into(), json!(self.position.epoch));
        line.insert("step".into(), json!(self.position.step));
        line.insert("seconds".into(), json!(seconds));
        let line = Value::Object(line);
        self.folder.log(&line)?;
        let words = format!(
            "epoch {:>3}  {}  {seconds:.2} s{}",
            self.position.epoch,
            self.metrics_words(&parts),
            if better && self.recipe.early_stop.is_some() { "  best" } else { "" }
        );
        self.report.line(&words, &line);
        Ok(())
    }

    /// Whether this epoch's weights are the best so far; without early stopping the last ones are.
    fn judge(&mut self, parts: &[(Arc<str>, Vec<f64>)]) -> bool {
        let Some(rule) = &self.recipe.early_stop else { return true };
        let metric = self.recipe.metrics.iter().position(|m| m.name == rule.metric);
        let value = metric.and_then(|m| parts.iter().find(|(p, _)| *p == rule.part).map(|(_, v)| v[m])).unwrap_or(f64::NAN);
        let larger = metric.and_then(|m| self.recipe.metrics[m].larger_is_better).unwrap_or(false);
        let better = match self.position.best.map(f64::from_bits) {
            None => true,
            Some(best) if best.is_nan() => !value.is_nan(),
            Some(best) => (if larger { value - best } else { best - value }) > rule.min_delta,
        };
        if better {
            (self.position.best, self.position.waited) = (Some(value.to_bits()), 0);
        } else {
            self.position.waited += 1;
            self.position.stopped = self.position.waited > rule.patience;
        }
        better
    }

    /// The best weights: evaluated on every part but `train`, and packed.
    fn finish(mut self, machine: &mut Machine) -> Result<Summary> {
        crate::weights::load(&mut machine.store, &self.folder.best())?;
        let mut parts = vec![];
        for part in self.setting.program.manifest.data.iter().filter(|d| d.name == self.recipe.data).flat_map(|d| &d.parts) {
            let rows = self.setting.data.part(&part.name)?;
            parts.push((part.name.clone(), self.evaluator.part(self.setting, self.recipe, &rows, &self.scalars, machine)?));
        }
        let mut line = self.metrics_json(&parts);
        line.insert("best_epoch".into(), json!(self.position.best_epoch));
        line.insert("steps".into(), json!(self.position.step));
        let largest = self.batches.iter().max_by_key(|(count, _)| *count);
        line.insert("arena_bytes".into(), json!(largest.map(|(_, batch)| batch.run.arena_bytes())));
        let line = json!({ "done": line, "folder": self.folder.path });
        self.folder.log(&line)?;
        if let Some(artifact) = self.setting.program.artifact {
            let weights = crate::weights::to_bytes(&machine.store, crate::weights::MODEL, None)?;
            let mut shipped = artifact.clone();
            shipped.weights = Some(weights);
            shipped.write_for(&self.folder.path.join("model.nnc"), &self.setting.program.folder)?;
        }
        let metrics = if parts.is_empty() { String::new() } else { format!("  {}", self.metrics_words(&parts)) };
        self.report.line(&format!("best epoch {}{metrics}\nsaved in {}", self.position.best_epoch, self.folder.path.display()), &line);
        let names = self.recipe.metrics.iter().map(|m| &m.name);
        let metrics = parts.iter().flat_map(|(p, values)| names.clone().zip(values).map(|(n, v)| (p.clone(), n.clone(), *v))).collect();
        Ok(Summary { folder: self.folder.path, epochs: self.position.epoch, steps: self.position.step, metrics })
    }

    fn metrics_json(&self, parts: &[(Arc<str>, Vec<f64>)]) -> Map<String, Value> {
        let of = |values: &[f64]| self.recipe.metrics.iter().zip(values).map(|(m, v)| (m.name.to_string(), number(*v))).collect::<Map<_, _>>();
        parts.iter().map(|(part, values)| (part.to_string(), Value::Object(of(values)))).collect()
    }

    fn metrics_words(&self, parts: &[(Arc<str>, Vec<f64>)]) -> String {
        let of = |(part, values): &(Arc<str>, Vec<f64>)| {
            self.recipe.metrics.iter().zip(values).map(|(m, v)| format!("{part}.{} {v:.4}", m.name)).collect::<Vec<_>>()
        };
        parts.iter().flat_map(of).collect::<Vec<_>>().join("  ")
    }
}

/// JSON has no NaN: such values become text.
pub fn number(x: f64) -> Value {
    if x.is_finite() { json!(x) } else { json!(x.to_string()) }
}

#[cfg(test)]
#[path = "train_tests.rs"]
mod tests;
