//! How long a step takes: one entry, one batch that stays in memory, one step after the other.
//!
//! In: a program, an entry, sizes, inputs (made up where none are given), threads. Out: the losses of training steps, results, times. Nothing is read,
//! gathered or logged between the steps that are timed.

pub mod command;

use crate::dtype::{DType, Scalar};
use crate::error::{Result, refuse, wrong};
use crate::evaluate::{scalars_of, sums_of};
use crate::exec::{Kernels, Prepared};
use crate::infer;
use crate::manifest::{Entry, Manifest, Sink, Source, Step};
use crate::pool::Pool;
use crate::profile::Profile;
use crate::program::{Finish, Machine, Program, scalar, solve_dims, write};
use crate::random::{Generator, Stream, key};
use crate::recipe::Recipe;
use crate::size::{Dims, Size};
use crate::tensor::Tensor;
use crate::tensors::Tensors;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What to time.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// `train[:RECIPE]`, `eval[:RECIPE]` or `infer[:MODEL]`; without it, the recipe if there is one, else the model.
    pub entry: Option<String>,
    /// Sizes of free dims, where the inputs do not say.
    pub dims: Dims,
    /// Threads.
    pub threads: usize,
    /// Weights (.safetensors, .npz); without them, initial ones.
    pub weights: Option<PathBuf>,
}

/// An entry with its inputs in memory.
pub struct Bench<'a> {
    /// Its name.
    pub entry: &'a Entry,
    /// Its sizes.
    pub dims: Dims,
    machine: Machine<'a>,
    run: Prepared,
    /// Of a training entry: what makes a loss of its sums, and the sums' names.
    finish: Option<Finish>,
    sums: Vec<std::sync::Arc<str>>,
    steps: u64,
}

/// The times of one round of steps, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Round {
    /// Steps.
    pub steps: usize,
    /// Of a step.
    pub median: f64,
    /// The fastest.
    pub min: f64,
    /// A tenth is faster.
    pub p10: f64,
    /// A tenth is slower.
    pub p90: f64,
}

impl<'a> Bench<'a> {
    /// Prepares the entry with these inputs. Those not given are made up: reals between -1 and 1, classes and words below the data section's bound (2 without one).
    ///
    /// # Errors
    /// No such entry; inputs, sizes or weights that do not fit; no memory.
    pub fn new(manifest: &'a Manifest, kernels: &'a dyn Kernels, setup: &Setup, inputs: &BTreeMap<String, Tensor>) -> Result<Bench<'a>> {
        let program = Program { manifest, kernels, folder: PathBuf::new(), artifact: None };
        let (entry, recipe) = entry_of(manifest, &program, setup.entry.as_deref())?;
        let known = solve_dims(manifest, entry, &setup.dims, &|name| inputs.get(name).map(|t| t.shape.clone()))?;
        let needed: Dims = sizes(manifest, &known);
        let dims = solve_dims(manifest, entry, &needed, &|name| inputs.get(name).map(|t| t.shape.clone()))?;
        let mut machine =
            Machine { kernels, pool: Pool::new(setup.threads), store: Tensors::new(&manifest.tensors)?.into(), profile: None, numerics: None };
        program.initialise(0, recipe.map(|r| &*r.name), &mut machine)?;
        if let Some(path) = &setup.weights {
            crate::weights::load(machine.store.here()?, path)?;
        }
        let run = machine.prepare(manifest, entry, &dims)?;
        let sums = recipe.map(sums_of).unwrap_or_default();
        let finish = recipe.map(|r| Finish::new(&program, r, &sums, &machine)).transpose()?;
        let mut bench = Bench { entry, dims, machine, run, finish, sums, steps: 0 };
        bench.fill(manifest, recipe, inputs)?;
        Ok(bench)
    }

    fn fill(&mut self, manifest: &Manifest, recipe: Option<&Recipe>, inputs: &BTreeMap<String, Tensor>) -> Result<()> {
        let scalars = recipe.map(scalars_of).unwrap_or_default();
        let mut random = Generator::new(key(0, Stream::Eval, 0));
        for i in 0..self.run.inputs().len() {
            let port = self.run.inputs()[i].clone();
            match &port.end {
                Source::Data(name) => {
                    let tensor = match inputs.get(&**name) {
                        Some(tensor) => infer::convert(name, tensor, port.dtype)?,
                        None => Cow::Owned(made_up(port.dtype, &port.shape, bound(manifest, name), &mut random)),
                    };
                    self.run.input_mut(i).copy_from_slice(tensor.bytes());
                }
                Source::Scalar(name) => {
                    // The clock stands at the first of a hundred steps of one epoch.
                    let clock = |n: &str| if n.starts_with("steps") { 100.0 } else { 1.0 };
                    let own = scalars.iter().find(|(n, _)| n == name).map(|(_, v)| *v);
                    let filled = matches!(&**name, "step" | "epoch" | "steps" | "steps_per_epoch");
                    let Some(value) = own.filter(|_| !filled).or(filled.then(|| clock(name))) else {
                        return wrong!("{} wants a value for {name}, which nothing gives", self.entry.name);
                    };
                    write(self.run.input_mut(i), port.dtype, value, value as i64);
                }
                Source::Key => write(self.run.input_mut(i), DType::I64, 0.0, key(0, Stream::Step, 1) as i64),
                Source::Step | Source::Tensor(_) => {}
            }
        }
        Ok(())
    }

    /// From now on the time of every kernel is added to `profile`, at the latest when this is dropped.
    pub fn observe(&mut self, manifest: &Manifest, profile: &Arc<Mutex<Profile>>) {
        self.run.observe(manifest, profile);
    }

    /// One step; the loss of its batch, if it has one.
    ///
    /// # Errors
    /// A check that fails, an index out of bounds.
    pub fn step(&mut self) -> Result<Option<f64>> {
        self.go()?;
        let Some(finish) = &mut self.finish else { return Ok(None) };
        let mut sums = vec![0.0; self.sums.len()];
        for (i, port) in self.run.results().iter().enumerate() {
            if let Sink::Accumulate(name) = &port.end
                && let Some(s) = self.sums.iter().position(|n| n == name)
            {
                sums[s] += scalar(port.dtype, self.machine.store.result(&self.run, i)?);
            }
        }
        Ok(finish.values(&sums, &mut self.machine)?.first().copied())
    }

    /// What is timed.
    fn go(&mut self) -> Result<()> {
        self.steps += 1;
        for i in 0..self.run.inputs().len() {
            if matches!(self.run.inputs()[i].end, Source::Step) {
                let dtype = self.run.inputs()[i].dtype;
                write(self.run.input_mut(i), dtype, self.steps as f64, self.steps as i64);
            }
        }
        self.machine.run(&mut self.run)
    }

    /// The last step's results, one after the other.
    ///
    /// # Errors
    /// The GPU has failed.
    pub fn outputs(&mut self) -> Result<Vec<f64>> {
        let mut values = vec![];
        for (i, port) in self.run.results().iter().enumerate().filter(|(_, port)| matches!(port.end, Sink::Result(_))) {
            let bytes = self.machine.store.result(&self.run, i)?;
            values.extend(bytes.chunks_exact(port.dtype.bytes()).map(|element| scalar(port.dtype, element)));
        }
        Ok(values)
    }

    /// Steps for so many seconds, at least three, each timed.
    ///
    /// # Errors
    /// As [`Bench::step`].
    pub fn round(&mut self, seconds: f64) -> Result<Round> {
        let mut times: Vec<f64> = Vec::with_capacity(1 << 16);
        let (began, length) = (Instant::now(), Duration::from_secs_f64(seconds));
        while (began.elapsed() < length || times.len() < 3) && times.len() < times.capacity() {
            let start = Instant::now();
            self.go()?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
        Ok(Round { steps: times.len(), median: at(0.5), min: times[0], p10: at(0.1), p90: at(0.9) })
    }

    /// Bytes of the arena.
    pub fn arena_bytes(&self) -> usize {
        self.run.arena_bytes()
    }

    /// Launches a step, and the bytes of the buffers that they read and write.
    ///
    /// # Errors
    /// A size that overflows.
    pub fn traffic(&self) -> Result<(u64, u64)> {
        let plan = &self.entry.plan;
        let mut bytes = Vec::with_capacity(plan.buffers.len());
        for buffer in &plan.buffers {
            let mut n = buffer.dtype.bytes() as u64;
            for size in &buffer.shape {
                n = n.saturating_mul(evaluate(size, &self.dims)?);
            }
            bytes.push(n);
        }
        let (mut launches, mut moved) = (0, 0u64);
        // How often the present step runs, and where each surrounding loop ends.
        let mut loops: Vec<(usize, u64)> = vec![];
        for (k, step) in plan.steps.iter().enumerate() {
            loops.retain(|(end, _)| k < *end);
            let times: u64 = loops.iter().map(|(_, n)| n).product();
            match step {
                Step::Launch(launch) => {
                    let mut args: Vec<u32> = launch.buffers().copied().collect();
                    args.sort_unstable();
                    args.dedup();
                    launches += times;
                    moved = moved.saturating_add(times.saturating_mul(args.iter().map(|a| bytes[*a as usize]).sum()));
                }
                Step::Loop { count, body, .. } => loops.push((k + 1 + *body as usize, evaluate(count, &self.dims)?)),
                Step::Copy { from, .. } => moved = moved.saturating_add(times.saturating_mul(2 * bytes[*from as usize])),
                Step::Check { .. } => {}
            }
        }
        Ok((launches, moved))
    }
}

fn evaluate(size: &Size, dims: &Dims) -> Result<u64> {
    size.eval(dims).map(|n| n.max(0) as u64).map_err(|e| refuse!("{size}: {e}"))
}

/// The entry, and the recipe that it belongs to.
fn entry_of<'a>(manifest: &'a Manifest, program: &Program, name: Option<&str>) -> Result<(&'a Entry, Option<&'a Recipe>)> {
    let fallback = if manifest.recipes.is_empty() { "infer" } else { "train" };
    let (verb, of) = match name.unwrap_or(fallback).split_once(':') {
        Some((verb, of)) => (verb, Some(of)),
        None => (name.unwrap_or(fallback), None),
    };
    let (full, recipe) = match verb {
        "train" | "eval" => {
            let recipe = program.recipe(of)?.name.clone();
            (format!("{verb}:{recipe}"), manifest.recipes.iter().find(|r| r.name == recipe))
        }
        "infer" => (infer::entry_of(program.manifest, of)?.name.to_string(), None),
        other => return wrong!("there is nothing called {other} to time: say train, eval or infer, with :NAME where there are several"),
    };
    match manifest.entries.iter().find(|e| *e.name == *full) {
        Some(entry) => Ok((entry, recipe)),
        None => wrong!("the program has no entry {full}"),
    }
}

/// Every free dim's size: the given one; else the recipe's batch; else its upper bound; else 1.
pub fn sizes(manifest: &Manifest, given: &Dims) -> Dims {
    let mut all = given.clone();
    for dim in &manifest.dims {
        let batch = manifest.recipes.iter().find(|r| r.batch_dim == dim.name).map(|r| r.batch);
        all.entry(dim.name.clone()).or_insert(batch.or(dim.max).unwrap_or(1));
    }
    all
}

/// Below what the whole numbers of an input called so must be.
pub fn bound(manifest: &Manifest, name: &str) -> i64 {
    let columns = manifest.data.iter().flat_map(|d| &d.columns);
    columns.filter(|c| *c.name == *name).find_map(|c| c.bound).unwrap_or(2).max(1)
}

/// A tensor of reals between -1 and 1, or of whole numbers below `bound`.
pub fn made_up(dtype: DType, shape: &[i64], bound: i64, random: &mut Generator) -> Tensor {
    let mut tensor = Tensor::zeros(dtype, shape);
    for i in 0..tensor.len() {
        let value = match dtype {
            DType::F32 | DType::F64 => Scalar::float(dtype, random.below(1 << 20) as f64 / f64::from(1 << 19) - 1.0),
            DType::I64 => Scalar::i64(random.below(bound as usize) as i64),
            DType::Bool => Scalar::from_bits(DType::Bool, random.below(2) as u64),
        };
        tensor.set(i, value);
    }
    tensor
}

/// Inputs from files: a whole `.npz`, of which names that the entry does not know are left aside, and single `.npy`s.
///
/// # Errors
/// Not readable.
pub fn read_inputs(all: Option<&Path>, single: &[(String, PathBuf)]) -> Result<BTreeMap<String, Tensor>> {
    let mut inputs = match all {
        Some(path) => crate::npy::read_npz(path)?,
        None => BTreeMap::new(),
    };
    for (name, path) in single {
        inputs.insert(name.clone(), crate::npy::read_npy(path)?);
    }
    Ok(inputs)
}
