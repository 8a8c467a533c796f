//! The training loop.
//!
//! In: a program, the name of a recipe, options. Out: a folder with the best weights, the last checkpoint and the log, and the final metrics.
//! Everything follows from the program, its data, the seed and the settings: the order of epoch `e` is a shuffle of the part's rows from
//! `key(seed, Order, e)`, the key of step `s` (from 1) is `key(seed, Step, s)`. A run that was interrupted and resumed ends in the same bytes.

use crate::chart::Curves;
use crate::checkpoint::{Every, Folder, Position};
use crate::confusion::Confusion;
use crate::data::{self, Dataset};
use crate::error::{Result, RunError, refuse, wrong};
use crate::evaluate::{Evaluator, columns_used, scalars_of, sums_of};
use crate::order::{Order, Steps, given_batches, plan_length};
use crate::page::Page;
use crate::program::{Batch, Machine, Program, Setting, StepValues, weights_path};
use crate::random::{Generator, Stream, key};
use crate::recipe::Recipe;
use crate::report::{Report, clock, figure, rate, took};
use crate::settings;
use crate::size::Dims;
use crate::tensorboard::Events;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

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
    /// When checkpoints are written within epochs.
    pub save_every: Every,
    /// Metrics for TensorBoard too.
    pub tensorboard: bool,
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
            let (folder, position) = Folder::resume(path, machine.store.here()?)?;
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
        let given = options.weights.as_deref().map(|text| (text, Path::new("")));
        if let Some((text, folder)) = given.or(recipe.load.as_deref().map(|text| (text, program.folder.as_path()))) {
            let file = weights_path(text, folder, &options.runs)?;
            report.weights(text, &file);
            crate::weights::load(machine.store.here()?, &file)?;
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
    let events = options.tensorboard.then(|| Events::create(&folder.path, position.step)).transpose()?;
    let mut run = Run {
        setting: &setting,
        recipe: &recipe,
        rows,
        order,
        length,
        log_every: log_every(options.log_steps, length),
        save_every: options.save_every,
        began: (Instant::now(), position.step),
        position,
        folder,
        events,
        evaluator,
        report,
        batches: vec![(count, full)],
        scalars,
    };
    run.set_scalar("steps", length.steps as f64);
    run.set_scalar("steps_per_epoch", length.per_epoch as f64);
    run.all(machine, stop)
}

/// A curve of few epochs is made of so many steps.
const POINTS: u64 = 200;

/// Which steps' losses go into the log: all, or those that a curve needs that has few epochs; 0 for none.
fn log_every(all: bool, length: Steps) -> u64 {
    match all {
        true => 1,
        false if length.epochs() * 10 >= POINTS => 0,
        false => length.steps.div_ceil(POINTS),
    }
}

/// Parts of the data and the metrics' values on them.
pub(crate) type Parts = Vec<(Arc<str>, Vec<f64>)>;

/// A run under way.
struct Run<'a> {
    setting: &'a Setting<'a>,
    recipe: &'a Recipe,
    rows: Vec<u32>,
    order: Order,
    length: Steps,
    /// The loss of steps whose number is a multiple goes into the log; 0 for none.
    log_every: u64,
    save_every: Every,
    /// When this process began, and with which step done.
    began: (Instant, u64),
    position: Position,
    folder: Folder,
    events: Option<Events>,
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

    fn all(mut self, machine: &mut Machine, stop: &AtomicBool) -> Result<Summary> {
        let mut sums: Vec<f64> = self.position.sums.iter().map(|&b| f64::from_bits(b)).collect();
        sums.resize(self.setting.sums.len(), 0.0);
        while self.position.step < self.length.steps && !self.position.stopped {
            let ended = match self.epoch(&mut sums, machine, stop) {
                Ok(ended) => ended,
                Err(e) => {
                    self.report.end();
                    // What was good before is kept; that it cannot be written as well is not what the user must hear.
                    let _ = self.folder.write_best();
                    return Err(e);
                }
            };
            let over = self.position.step >= self.length.steps || self.position.stopped;
            if !ended || over || self.folder.due() {
                self.save(&sums, machine)?;
            }
            if !ended {
                self.report.end();
                self.write_page(vec![], &Curves::read(&self.folder.log_path())?, machine)?;
                let (step, path) = (self.position.step, self.folder.path.display());
                return Err(RunError::Interrupted(format!("stopped after step {step} of {}; go on with --resume {path}", self.length.steps)));
            }
        }
        self.report.end();
        self.finish(machine)
    }

    /// A checkpoint.
    fn save(&mut self, sums: &[f64], machine: &mut Machine) -> Result<()> {
        self.position.sums = sums.iter().map(|s| s.to_bits()).collect();
        self.folder.save(machine.store.here()?, &mut self.position)
    }

    /// Trains to the end of the epoch, with its metrics, or until stopped: false.
    fn epoch(&mut self, sums: &mut [f64], machine: &mut Machine, stop: &AtomicBool) -> Result<bool> {
        let began = (Instant::now(), self.position.in_epoch);
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
        let place = self.place(epoch + 1);
        self.report.begin(&place, self.position.in_epoch, steps);
        while self.position.in_epoch < steps {
            self.step(&order, sums, machine)?;
            if self.report.step() {
                let words = self.goes(sums, began, machine)?;
                self.report.goes(&format!("{place}  step {} of {}", self.position.step, self.length.steps), &words);
            }
            if self.position.in_epoch == steps {
                break;
            }
            if stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            if self.folder.due_within(self.save_every, self.position.step) {
                self.save(sums, machine)?;
            }
        }
        self.end_epoch(sums, began, machine)?;
        Ok(!stop.load(Ordering::Relaxed) || self.position.step >= self.length.steps || self.position.stopped)
    }

    /// `epoch  3/30`
    fn place(&self, epoch: u64) -> String {
        let all = self.length.epochs().to_string();
        format!("epoch {epoch:>width$}/{all}", width = all.len())
    }

    /// The metrics of the epoch so far, samples a second, and the time that is left at the pace of this process.
    fn goes(&mut self, sums: &[f64], began: (Instant, u64), machine: &mut Machine) -> Result<String> {
        let values = self.evaluator.values(sums, machine)?;
        let metrics: Vec<String> = self.recipe.metrics.iter().zip(&values).map(|(m, v)| format!("{} {}", m.name, figure(*v))).collect();
        let done = self.position.step - self.began.1;
        let left = self.began.0.elapsed().div_f64(done.max(1) as f64).as_secs_f64() * (self.length.steps - self.position.step) as f64;
        let left = Duration::try_from_secs_f64(left).unwrap_or_default();
        Ok(format!("{}  {} samples/s  {} left", metrics.join("  "), self.speed(began), clock(left)))
    }

    /// Samples a second since the epoch began, in which this process has done steps from a number on.
    fn speed(&self, (began, from): (Instant, u64)) -> String {
        let samples = (self.position.in_epoch - from) as i64 * self.recipe.batch;
        rate(samples.min(self.rows.len() as i64) as f64, began.elapsed())
    }

    fn step(&mut self, order: &[u32], sums: &mut [f64], machine: &mut Machine) -> Result<()> {
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
        // Which step it was is news only to those who look for a bad one.
        let numerics = machine.numerics.is_some();
        let placed = |e: RunError| if numerics { refuse!("step {step}: {e}") } else { e };
        if self.log_every > 0 && step.is_multiple_of(self.log_every) {
            let mut own = vec![0.0; sums.len()];
            self.batches[k].1.step(machine, self.setting.data, &values, &mut own).map_err(placed)?;
            sums.iter_mut().zip(&own).for_each(|(s, o)| *s += o);
            let loss = self.evaluator.values(&own, machine)?.first().copied().unwrap_or(f64::NAN);
            self.folder.log(&json!({ "step": step, "loss": number(loss) }))?;
            self.events.as_mut().map_or(Ok(()), |e| e.scalar(step, "step/loss", loss))?;
        } else {
            self.batches[k].1.step(machine, self.setting.data, &values, sums).map_err(placed)?;
        }
        self.position.step = step;
        self.position.in_epoch += 1;
        Ok(())
    }

    /// Metrics, log, best weights, early stopping.
    fn end_epoch(&mut self, sums: &mut [f64], began: (Instant, u64), machine: &mut Machine) -> Result<()> {
        let speed = self.speed(began);
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
            self.folder.keep_best(machine.store.here()?)?;
            self.position.best_epoch = self.position.epoch;
        }
        let time = began.0.elapsed();
        let mut line = self.metrics_json(&parts);
        line.insert("epoch".into(), json!(self.position.epoch));
        line.insert("step".into(), json!(self.position.step));
        line.insert("seconds".into(), json!(time.as_micros() as f64 / 1e6));
        let line = Value::Object(line);
        self.folder.log(&line)?;
        if let Some(events) = &mut self.events {
            let names = self.recipe.metrics.iter().map(|m| &m.name);
            parts
                .iter()
                .flat_map(|(part, values)| names.clone().zip(values).map(move |(name, value)| (format!("{part}/{name}"), *value)))
                .try_for_each(|(tag, value)| events.scalar(self.position.step, &tag, value))?;
            events.flush()?;
        }
        let words = format!(
            "{}  {}  {}  {speed} samples/s{}",
            self.place(self.position.epoch),
            self.metrics_words(&parts),
            took(time),
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
        crate::weights::load(machine.store.here()?, &self.folder.best())?;
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
            let weights = crate::weights::to_bytes(machine.store.here()?, crate::weights::MODEL, None)?;
            let mut shipped = artifact.clone();
            shipped.weights = Some(weights);
            // Who has the model needs not have what it learned from.
            shipped.manifest.data.iter_mut().filter(|d| d.name == self.recipe.data).for_each(|d| *d = self.setting.data.settled(d));
            shipped.write_for(&self.folder.path.join("model.nnc"), &self.setting.program.folder)?;
        }
        let metrics = if parts.is_empty() { String::new() } else { format!("  {}", self.metrics_words(&parts)) };
        let curves = Curves::read(&self.folder.log_path())?;
        self.report.words(&crate::chart::sparklines(&curves));
        self.report.line(&format!("best epoch {}{metrics}\nsaved in {}", self.position.best_epoch, self.folder.path.display()), &line);
        let names = self.recipe.metrics.iter().map(|m| &m.name);
        let summary = parts.iter().flat_map(|(p, values)| names.clone().zip(values).map(|(n, v)| (p.clone(), n.clone(), *v))).collect();
        self.write_page(parts, &curves, machine)?;
        Ok(Summary { folder: self.folder.path, epochs: self.position.epoch, steps: self.position.step, metrics: summary })
    }

    /// `report.html`: what the run has come to, with the metrics of the best weights, if these are in place.
    fn write_page(&self, parts: Parts, curves: &Curves, machine: &mut Machine) -> Result<()> {
        let Setting { program, data, dims, .. } = *self.setting;
        // The part that nothing was chosen by, where there is one.
        let held = ["test", "valid"].into_iter().find(|p| parts.iter().any(|(part, _)| &**part == *p));
        let confusion = match held {
            Some(part) => Confusion::of(program, self.recipe, data, part, &data.part(part)?, dims, machine)?,
            None => None,
        };
        let lock: Value = serde_json::from_slice(&crate::files::read(&self.folder.path.join("run.json"))?).unwrap_or_default();
        let largest = self.batches.iter().max_by_key(|(count, _)| *count).map(|(_, batch)| &batch.run);
        let page = Page {
            program,
            recipe: self.recipe,
            lock: &lock,
            curves,
            position: &self.position,
            steps: self.length.steps,
            parts: &parts,
            confusion: confusion.as_ref(),
            run: largest,
        };
        crate::files::write(&self.folder.path.join("report.html"), page.html().as_bytes())
    }

    fn metrics_json(&self, parts: &[(Arc<str>, Vec<f64>)]) -> Map<String, Value> {
        let of = |values: &[f64]| self.recipe.metrics.iter().zip(values).map(|(m, v)| (m.name.to_string(), number(*v))).collect::<Map<_, _>>();
        parts.iter().map(|(part, values)| (part.to_string(), Value::Object(of(values)))).collect()
    }

    fn metrics_words(&self, parts: &[(Arc<str>, Vec<f64>)]) -> String {
        let of = |(part, values): &(Arc<str>, Vec<f64>)| {
            self.recipe.metrics.iter().zip(values).map(|(m, v)| format!("{part}.{} {}", m.name, figure(*v))).collect::<Vec<_>>()
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
