//! A program that can run: manifest, kernels, where its data lies. And the pieces that all drivers share: initial weights, entries, dims from shapes.

use crate::artifact::Artifact;
use crate::data::Dataset;
use crate::dtype::{DType, Scalar};
use crate::error::{Result, RunError, refuse, wrong};
use crate::exec::{Kernels, Port, Prepared};
use crate::manifest::{Entry, Manifest, Sink, Source};
use crate::pool::Pool;
use crate::profile::Profile;
use crate::random::{Stream, key};
use crate::recipe::Recipe;
use crate::size::Dims;
use crate::tensors::{Store, Tensors};
use crate::words;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// A program ready to run.
pub struct Program<'a> {
    /// What it can run.
    pub manifest: &'a Manifest,
    /// Its kernels, compiled or interpreted.
    pub kernels: &'a dyn Kernels,
    /// Paths in the program are relative to this folder.
    pub folder: PathBuf,
    /// The artifact it comes from: its weights, and what training packs the best weights into.
    pub artifact: Option<&'a Artifact>,
}

impl Program<'_> {
    /// The program's name: its file's, without ending. Its runs are in a folder of this name.
    pub fn name(&self) -> &str {
        Path::new(&self.manifest.source).file_stem().and_then(|s| s.to_str()).unwrap_or("program")
    }

    /// The entry called `name`.
    ///
    /// # Errors
    /// There is none.
    pub fn entry(&self, name: &str) -> Result<&Entry> {
        let known: Vec<&str> = self.manifest.entries.iter().map(|e| &*e.name).collect();
        let found = self.manifest.entries.iter().find(|e| &*e.name == name);
        found.ok_or_else(|| RunError::Wrong(format!("the program has no entry {name}; it has {}", known.join(", "))))
    }

    /// The recipe called `name`, or the only one.
    ///
    /// # Errors
    /// None or several.
    pub fn recipe(&self, name: Option<&str>) -> Result<&Recipe> {
        let recipes = &self.manifest.recipes;
        let known: Vec<&str> = recipes.iter().map(|r| &*r.name).collect();
        match (name, recipes.as_slice()) {
            (None, [one]) => Ok(one),
            (None, []) => wrong!("the program has no train section"),
            (None, _) => Err(RunError::Usage(format!("the program has several recipes: choose one of train:{}", known.join(", train:")))),
            (Some(name), _) => {
                let found = recipes.iter().find(|r| &*r.name == name);
                found.ok_or_else(|| RunError::Wrong(format!("the program has no recipe {name}{}", words::hint(name, &known))))
            }
        }
    }

    /// Initialises the machine's tensors from `seed`: the entries `init` and `init:*` of models, and `init:RECIPE` of the given recipe.
    ///
    /// # Errors
    /// No memory, or a check that fails.
    pub fn initialise(&self, seed: u64, recipe: Option<&str>, machine: &mut Machine) -> Result<()> {
        let others = |name: &str| self.manifest.recipes.iter().any(|r| &*r.name == name) && recipe != Some(name);
        for entry in &self.manifest.entries {
            let of = entry.name.strip_prefix("init:");
            if &*entry.name != "init" && of.is_none_or(others) {
                continue;
            }
            let mut run = machine.prepare(self.manifest, entry, &Dims::new())?;
            for i in 0..run.inputs().len() {
                match run.inputs()[i].end {
                    Source::Key => write(run.input_mut(i), DType::I64, 0.0, key(seed, Stream::Init, 0) as i64),
                    Source::Step | Source::Data(_) | Source::Scalar(_) | Source::Tensor(_) => {
                        return wrong!("the entry {} needs more than a key", entry.name);
                    }
                }
            }
            machine.run(&mut run)?;
        }
        Ok(())
    }

    /// Tensors with trained weights: from a file (see [`weights_path`]), or those inside the artifact.
    ///
    /// # Errors
    /// No weights, or ones that do not fit.
    pub fn trained(&self, weights: Option<&Path>, runs: &Path) -> Result<Tensors> {
        let mut store = Tensors::new(&self.manifest.tensors)?;
        match (weights, self.artifact.and_then(|a| a.weights.as_deref())) {
            (Some(file), _) => crate::weights::load(&mut store, file)?,
            (None, Some(inside)) => drop(crate::weights::from_bytes(&mut store, crate::weights::MODEL, inside, "the artifact's weights")?),
            (None, None) if store.decls(crate::weights::MODEL).next().is_some() => {
                // A recipe that has run, by its name.
                let names = || self.manifest.recipes.iter().map(|r| &*r.name);
                let name = names().find(|name| last_run(&runs.join(name)).is_some()).or(names().next()).unwrap_or("RECIPE");
                return Err(RunError::Usage(format!(
                    "the program has no trained weights: give --weights FILE, or --weights run:{name} for the best of the last run of {name}"
                )));
            }
            (None, None) => {}
        }
        Ok(store)
    }
}

/// Where a program runs: kernels, threads, stored tensors.
pub struct Machine<'a> {
    /// Compiled or interpreted.
    pub kernels: &'a dyn Kernels,
    /// Threads.
    pub pool: Pool,
    /// Parameters and states.
    pub store: Store,
    /// Where the times of all that is prepared go, if anyone wants to know.
    pub profile: Option<Arc<Mutex<Profile>>>,
    /// The program, where values that are not finite are looked for.
    pub numerics: Option<&'a Manifest>,
}

impl Machine<'_> {
    /// Runs an entry once; see [`Prepared::run`].
    ///
    /// # Errors
    /// As there.
    pub fn run(&mut self, entry: &mut Prepared) -> Result<()> {
        match self.numerics {
            // A metric of nothing is NaN, and no mistake.
            Some(manifest) if !entry.name.starts_with("finish:") => {
                crate::numerics::run(entry, manifest, self.kernels, &mut self.pool, &mut self.store)
            }
            _ => entry.run_in(self.kernels, &mut self.pool, &mut self.store),
        }
    }

    /// Prepares an entry for this machine.
    ///
    /// # Errors
    /// As [`Prepared::new`].
    pub fn prepare(&self, manifest: &Manifest, entry: &Entry, dims: &Dims) -> Result<Prepared> {
        let prepare = if self.numerics.is_some() { Prepared::whole } else { Prepared::new };
        let mut made = prepare(manifest, entry, dims, self.pool.threads(), &self.store)?;
        if let Some(profile) = &self.profile {
            made.observe(manifest, profile);
        }
        Ok(made)
    }
}

/// What is the same for all batches of a run.
pub struct Setting<'a> {
    /// The program.
    pub program: &'a Program<'a>,
    /// Where samples come from.
    pub data: &'a Dataset,
    /// Dims given by the user.
    pub dims: &'a Dims,
    /// The names that metrics are accumulated under.
    pub sums: &'a [Arc<str>],
}

/// The numbers of one step.
pub struct StepValues<'a> {
    /// The samples.
    pub rows: &'a [u32],
    /// Run-time scalars.
    pub scalars: &'a [(Arc<str>, f64)],
    /// From 1.
    pub step: u64,
    /// Of all its randomness.
    pub key: u64,
}

/// The file that `run:NAME`, the best weights of that recipe's last run, or a path relative to `folder` means.
///
/// # Errors
/// No run of that recipe.
pub fn weights_path(text: &str, folder: &Path, runs: &Path) -> Result<PathBuf> {
    let Some(name) = text.strip_prefix("run:") else { return Ok(folder.join(text)) };
    let folder = runs.join(name);
    let best = |n: u64| Some(folder.join(n.to_string()).join("best.safetensors")).filter(|p| p.exists());
    let found = numbers(&folder).into_iter().rev().find_map(best);
    found.ok_or_else(|| {
        let mut others: Vec<String> = std::fs::read_dir(runs).into_iter().flatten().filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
        others.retain(|other| !numbers(&runs.join(other)).is_empty());
        others.sort_unstable();
        let others = if others.is_empty() { String::new() } else { format!("; there are runs of {}", others.join(", ")) };
        RunError::World(format!("there is no run of {name} with weights in {}{others}", folder.display()))
    })
}

/// The largest number that names a folder in `folder`.
pub fn last_run(folder: &Path) -> Option<u64> {
    numbers(folder).pop()
}

/// The numbers that name something in `folder`, in order.
fn numbers(folder: &Path) -> Vec<u64> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut numbers: Vec<u64> = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

/// Writes a scalar input, `whole` where it is an integer.
pub(crate) fn write(to: &mut [u8], dtype: DType, real: f64, whole: i64) {
    let value = if dtype == DType::I64 { Scalar::i64(whole) } else { Scalar::float(dtype, real) };
    to.copy_from_slice(&value.bits().to_le_bytes()[..to.len()]);
}

/// Dims that make an entry's inputs fit `shapes` (one for each named input), over those `known`.
///
/// # Errors
/// An input of another rank or size than the program's; a dim with two values.
pub fn solve_dims(manifest: &Manifest, entry: &Entry, known: &Dims, shapes: &dyn Fn(&str) -> Option<Vec<i64>>) -> Result<Dims> {
    let mut dims = known.clone();
    let mut from: std::collections::BTreeMap<Arc<str>, Arc<str>> = known.keys().map(|k| (k.clone(), "--dim".into())).collect();
    let named = entry.inputs.iter().filter_map(|(source, id)| match source {
        Source::Data(name) => Some((name, entry.plan.buffers.get(*id as usize)?, shapes(name)?)),
        Source::Tensor(_) | Source::Scalar(_) | Source::Step | Source::Key => None,
    });
    let named: Vec<_> = named.collect();
    for (name, buffer, shape) in &named {
        if buffer.shape.len() != shape.len() {
            return wrong!("{name} has the shape {shape:?}, but the program wants {} axes: {}", buffer.shape.len(), axes(&buffer.shape));
        }
        for (size, &n) in buffer.shape.iter().zip(shape) {
            let Some(dim) = size.as_dim() else { continue };
            match dims.insert(dim.clone(), n).filter(|&old| old != n) {
                Some(old) => return wrong!("dim {dim} is {old} in {} and {n} in {name}", from[dim]),
                None => _ = from.entry(dim.clone()).or_insert_with(|| (*name).clone()),
            }
        }
    }
    crate::exec::check_dims(manifest, &dims)?;
    for (name, buffer, shape) in &named {
        for (axis, (size, &n)) in buffer.shape.iter().zip(shape).enumerate() {
            let wanted = size.eval(&dims).map_err(|e| refuse!("axis {axis} of {name}: {e}"))?;
            if wanted != n {
                return wrong!("{name} has the shape {shape:?}, but the program wants {}: axis {axis} would be {wanted}", axes(&buffer.shape));
            }
        }
    }
    Ok(dims)
}

fn axes(shape: &[crate::size::Size]) -> String {
    format!("[{}]", shape.iter().map(|s| s.to_string()).collect::<Vec<_>>().join(", "))
}

/// An entry prepared for batches of one size from a data set.
pub struct Batch {
    /// The entry.
    pub run: Prepared,
    /// Input, column.
    columns: Vec<(usize, usize)>,
    /// Input, position among the run-time scalars.
    scalars: Vec<(usize, usize)>,
    steps: Vec<usize>,
    keys: Vec<usize>,
    /// Result, position among the accumulators.
    sums: Vec<(usize, usize)>,
}

impl Batch {
    /// Prepares `entry` for `count` samples, with run-time scalars of these names.
    ///
    /// # Errors
    /// Columns or scalars that do not exist or do not fit; see [`Prepared::new`].
    pub fn new(setting: &Setting, entry: &Entry, count: usize, scalars: &[(Arc<str>, f64)], machine: &Machine) -> Result<Batch> {
        let Setting { program, data, dims, sums } = *setting;
        let shape = |name: &str| data.find(name).map(|i| [&[count as i64], data.column(i).shape.as_slice()].concat());
        let dims = solve_dims(program.manifest, entry, dims, &shape)?;
        let run = machine.prepare(program.manifest, entry, &dims)?;
        let mut batch = Batch { columns: vec![], scalars: vec![], steps: vec![], keys: vec![], sums: vec![], run };
        for (i, Port { end, dtype, .. }) in batch.run.inputs().iter().enumerate() {
            match end {
                Source::Data(name) => match data.find(name) {
                    Some(c) if data.column(c).dtype == *dtype => batch.columns.push((i, c)),
                    Some(c) => return wrong!("column {name} of data {} is {}, but {} wants {dtype}", data.name, data.column(c).dtype, entry.name),
                    None => return wrong!("data {} has no column {name}, which {} wants", data.name, entry.name),
                },
                Source::Scalar(name) => match scalars.iter().position(|(n, _)| n == name) {
                    Some(s) => batch.scalars.push((i, s)),
                    None => return wrong!("the recipe has no value for {name}, which {} wants", entry.name),
                },
                Source::Step => batch.steps.push(i),
                Source::Key => batch.keys.push(i),
                Source::Tensor(_) => {}
            }
        }
        for (i, port) in batch.run.results().iter().enumerate() {
            if let Sink::Accumulate(name) = &port.end {
                match sums.iter().position(|n| n == name) {
                    Some(s) => batch.sums.push((i, s)),
                    None => return wrong!("{} accumulates {name}, which no metric reads", entry.name),
                }
            }
        }
        Ok(batch)
    }

    /// Runs one batch and adds to `sums`. Allocates nothing.
    ///
    /// # Errors
    /// As [`Prepared::run`].
    pub fn step(&mut self, machine: &mut Machine, data: &Dataset, values: &StepValues, sums: &mut [f64]) -> Result<()> {
        let &StepValues { rows, scalars, step, key } = values;
        for &(i, column) in &self.columns {
            data.gather(column, rows, self.run.input_mut(i));
        }
        for &(i, s) in &self.scalars {
            let dtype = self.run.inputs()[i].dtype;
            write(self.run.input_mut(i), dtype, scalars[s].1, scalars[s].1 as i64);
        }
        for k in 0..self.steps.len() {
            let (i, dtype) = (self.steps[k], self.run.inputs()[self.steps[k]].dtype);
            write(self.run.input_mut(i), dtype, step as f64, step as i64);
        }
        for k in 0..self.keys.len() {
            write(self.run.input_mut(self.keys[k]), DType::I64, 0.0, key as i64);
        }
        machine.run(&mut self.run)?;
        for &(i, s) in &self.sums {
            sums[s] += scalar(self.run.results()[i].dtype, machine.store.result(&self.run, i)?);
        }
        Ok(())
    }
}

/// The first element of a result as f64.
pub fn scalar(dtype: DType, bytes: &[u8]) -> f64 {
    let bits = bytes.iter().take(dtype.bytes()).rev().fold(0u64, |n, &b| n << 8 | b as u64);
    Scalar::from_bits(dtype, bits).to_f64()
}

/// From sums over batches to metrics: the entry `finish:RECIPE`.
pub struct Finish {
    run: Prepared,
    /// For each input, the position among the sums.
    inputs: Vec<usize>,
    /// For each metric of the recipe, the result.
    results: Vec<usize>,
}

impl Finish {
    /// Prepares the entry.
    ///
    /// # Errors
    /// It does not fit the recipe's metrics.
    pub fn new(program: &Program, recipe: &Recipe, sums: &[Arc<str>], machine: &Machine) -> Result<Finish> {
        let entry = program.entry(&format!("finish:{}", recipe.name))?;
        let run = machine.prepare(program.manifest, entry, &Dims::new())?;
        let mut inputs = vec![];
        for port in run.inputs() {
            let (Source::Data(name) | Source::Scalar(name)) = &port.end else { return wrong!("{} wants other inputs than sums", entry.name) };
            match sums.iter().position(|n| n == name) {
                Some(s) => inputs.push(s),
                None => return wrong!("{} wants {name}, which nothing accumulates", entry.name),
            }
        }
        let find = |name: &Arc<str>| run.results().iter().position(|p| matches!(&p.end, Sink::Result(n) if n == name));
        let results = recipe
            .metrics
            .iter()
            .map(|m| find(&m.name).map_or_else(|| wrong!("{} does not give {}", entry.name, m.name), Ok))
            .collect::<Result<_>>()?;
        Ok(Finish { inputs, results, run })
    }

    /// The metrics' values, in the recipe's order.
    ///
    /// # Errors
    /// As [`Prepared::run`].
    pub fn values(&mut self, sums: &[f64], machine: &mut Machine) -> Result<Vec<f64>> {
        for (i, &s) in self.inputs.iter().enumerate() {
            let dtype = self.run.inputs()[i].dtype;
            write(self.run.input_mut(i), dtype, sums[s], sums[s] as i64);
        }
        machine.run(&mut self.run)?;
        self.results.iter().map(|&i| Ok(scalar(self.run.results()[i].dtype, machine.store.result(&self.run, i)?))).collect()
    }
}
