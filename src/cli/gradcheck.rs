//! `nnc gradcheck`: the derivatives of a user's own program against central differences, in f64.
//!
//! What is checked is the sum of an entry's results, each times a random number: of every model, and of every recipe's loss. Both are compiled in f64, from
//! the program's initial weights and made-up inputs. Layers and losses with a `gradient` of their own are what mostly goes wrong.

use super::Failure;
use super::input::{self, Source as File};
use super::plan;
use crate::driver::{self, Checked};
use crate::emit::{self, Level};
use crate::ir::DType;
use nnc_runtime::bench;
use nnc_runtime::exec::Prepared;
use nnc_runtime::loader::{self, Loader};
use nnc_runtime::manifest::{Manifest, Sink, Source};
use nnc_runtime::pool::Pool;
use nnc_runtime::program::{Machine, Program};
use nnc_runtime::random::{Generator, Stream, key};
use nnc_runtime::size::Dims;
use nnc_runtime::tensor::Tensor;
use nnc_runtime::tensors::Tensors;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Arguments of `nnc gradcheck`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nnc gradcheck net.nn                        every model and every recipe's loss
  nnc gradcheck net.nn infer:Net --dim B=3    one of them, at this size
  nnc gradcheck net.nn --samples 0            every element of every tensor")]
pub struct Args {
    #[command(flatten)]
    source: File,
    /// infer:MODEL or eval:RECIPE (default: all)
    entry: Option<String>,
    /// The size of a free dim (default: 2, inside its bounds)
    #[arg(long, value_name = "NAME=N")]
    dim: Vec<String>,
    /// Elements that are compared of each tensor, evenly spread; 0 for all
    #[arg(long, default_value_t = 12)]
    samples: usize,
    /// Of inputs, weights and factors
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// One JSON object a tensor
    #[arg(long)]
    json: bool,
}

/// How far an element moves to either side, for numbers of size 1.
const STEP: f64 = 1e-5;
/// Largest difference, as a share of the derivative, and for small ones of 1.
const RELATIVE: f64 = 1e-5;
const ABSOLUTE: f64 = 1e-6;

/// An input or a parameter, and how its derivatives compare.
struct Row {
    name: String,
    elements: usize,
    compared: usize,
    /// Elements at which the differences to the left and to the right are not the same: no derivative is right there.
    kinks: usize,
    /// The largest difference between a derivative and the differences that is allowed.
    worst: f64,
    /// Of the first element that is wrong: its number, the derivative, the differences.
    wrong: Option<(usize, f64, f64)>,
}

/// Runs the command.
pub fn run(args: Args) -> Result<(), Failure> {
    let checked = input::check(&args.source, DType::F64)?;
    let given = plan::dims(&args.dim)?;
    let module = driver::graph(checked.program.as_ref().expect("a checked program"));
    let all: Vec<String> = module.entries.iter().map(|e| e.name.to_string()).filter(|n| n.starts_with("infer:") || n.starts_with("eval:")).collect();
    let chosen = match &args.entry {
        Some(name) if all.contains(name) => vec![name.clone()],
        Some(name) => return Err(Failure::program(format!("there is no {name} to check; there is {}", all.join(", ")))),
        None => all,
    };
    let (mut wrong, mut compared) = (0, 0);
    for entry in &chosen {
        let (dims, rows) = Check::new(&checked, entry, &given, args.seed)?.rows(args.samples)?;
        if !args.json {
            let sizes: Vec<String> = dims.iter().map(|(n, v)| format!("{n} = {v}")).collect();
            super::print(&format!("{entry}{}\n", if sizes.is_empty() { String::new() } else { format!(" at {}", sizes.join(", ")) }))?;
        }
        let width = rows.iter().map(|r| r.name.len()).max().unwrap_or(0);
        for row in &rows {
            wrong += usize::from(row.wrong.is_some());
            compared += row.compared;
            super::print(&if args.json { format!("{}\n", row.json(entry)) } else { row.text(width) })?;
        }
    }
    match (wrong, compared) {
        (0, 0) => Err(Failure::program("there is nothing to compare: no float input and no parameter")),
        (0, n) if !args.json => super::print(&format!("all {n} derivatives that were compared agree with differences\n")),
        (0, _) => Ok(()),
        (n, _) => {
            let s = if n == 1 { " has" } else { "s have" };
            Err(Failure::program(format!("{n} tensor{s} wrong derivatives: look at the `gradient` blocks of what uses them")))
        }
    }
}

impl Row {
    fn text(&self, width: usize) -> String {
        let kinks = if self.kinks > 0 { format!(", {} at kinks left out", self.kinks) } else { String::new() };
        let head = format!("  {:width$}  {} of {} elements{kinks}", self.name, self.compared, self.elements);
        match self.wrong {
            None => format!("{head}, largest difference {:.0e}\n", self.worst),
            Some((at, got, want)) => format!("{head}\n  {:width$}  WRONG: element {at} has {got:e}, differences give {want:e}\n", ""),
        }
    }

    fn json(&self, entry: &str) -> serde_json::Value {
        let wrong = self.wrong.map(|(at, got, want)| json!({ "element": at, "derivative": got, "differences": want }));
        json!({ "entry": entry, "tensor": self.name, "elements": self.elements, "compared": self.compared, "kinks": self.kinks, "worst": self.worst, "wrong": wrong })
    }
}

/// An entry and its derivative, compiled in f64, with everything that they read.
struct Check {
    manifest: Manifest,
    kernels: Loader,
    entry: String,
    dims: Dims,
    inputs: BTreeMap<String, Tensor>,
    store: Tensors,
    seed: u64,
}

const DERIVATIVE: &str = "derivative";

impl Check {
    fn new(checked: &Checked, entry: &str, given: &Dims, seed: u64) -> Result<Check, Failure> {
        let program = checked.program.as_ref().expect("a checked program");
        let mut module = driver::graph(program);
        driver::differentiate(&mut module, entry, DERIVATIVE);
        module.entries.retain(|e| *e.name == *entry || &*e.name == DERIVATIVE || e.name.starts_with("init"));
        let lowered = driver::lower(module, &checked.sources);
        let manifest = driver::manifest(program, &lowered, &checked.sources);
        let level = loader::level()?;
        let native = if level == "v4" { Level::V4 } else { Level::V3 };
        let objects = emit::compile(&lowered.kernels, &manifest.kernels, &[native]).map_err(Failure::world)?;
        let kernels = Loader::new(objects.iter().map(|o| o.as_slice()), &manifest.kernels, level)?;
        let mut dims = given.clone();
        for dim in &manifest.dims {
            dims.entry(dim.name.clone()).or_insert_with(|| 2.clamp(dim.min, dim.max.unwrap_or(i64::MAX)));
        }
        let start = Program { manifest: &manifest, kernels: &kernels, folder: PathBuf::new(), artifact: None };
        let mut machine =
            Machine { kernels: &kernels, pool: Pool::new(1), store: Tensors::new(&manifest.tensors)?.into(), profile: None, numerics: None };
        start.initialise(seed, None, &mut machine)?;
        let store = machine.store.into_here()?;
        let mut check = Check { manifest, kernels, entry: entry.to_string(), dims, inputs: BTreeMap::new(), store, seed };
        check.draw()?;
        Ok(check)
    }

    fn prepare(&self, entry: &str) -> Result<Prepared, Failure> {
        let found = self.manifest.entries.iter().find(|e| *e.name == *entry).expect("kept");
        Ok(Prepared::new(&self.manifest, found, &self.dims, 1, &self.store)?)
    }

    /// Makes up what the derivative reads: reals and factors in [-1, 1), whole numbers below the data section's bound.
    fn draw(&mut self) -> Result<(), Failure> {
        let prepared = self.prepare(DERIVATIVE)?;
        let mut random = Generator::new(key(self.seed, Stream::Eval, 0));
        for port in prepared.inputs() {
            let Source::Data(name) = &port.end else { continue };
            let below = bench::bound(&self.manifest, name);
            self.inputs.insert(name.to_string(), bench::made_up(port.dtype, &port.shape, below, &mut random));
        }
        Ok(())
    }

    fn run(&mut self, prepared: &mut Prepared) -> Result<(), Failure> {
        for i in 0..prepared.inputs().len() {
            let bytes = match &prepared.inputs()[i].end {
                Source::Data(name) => self.inputs[&**name].bytes().to_vec(),
                Source::Key => (key(self.seed, Stream::Step, 1) as i64).to_le_bytes().to_vec(),
                Source::Step => 1i64.to_le_bytes().to_vec(),
                Source::Scalar(_) => 1f64.to_le_bytes().to_vec(),
                Source::Tensor(_) => continue,
            };
            prepared.input_mut(i).copy_from_slice(&bytes);
        }
        Ok(prepared.run(&self.kernels, &mut Pool::new(1), &mut self.store)?)
    }

    /// The number whose derivatives are checked: results times their factors.
    fn value(&mut self, prepared: &mut Prepared) -> Result<f64, Failure> {
        self.run(prepared)?;
        let mut sum = 0.0;
        for (i, port) in prepared.results().iter().enumerate() {
            let (Sink::Result(name) | Sink::Accumulate(name)) = &port.end else { continue };
            if let Some(factors) = self.inputs.get(&format!("d.{name}")) {
                let values = prepared.result(i, &self.store).as_chunks::<8>().0;
                sum += values.iter().zip(factors.as_f64()).map(|(y, d)| f64::from_le_bytes(*y) * d).sum::<f64>();
            }
        }
        Ok(sum)
    }

    /// The value with an element of an input or a parameter moved.
    fn moved(&mut self, prepared: &mut Prepared, name: &str, element: usize, by: f64) -> Result<f64, Failure> {
        let at = self.store.find(name);
        let cell = |check: &mut Check, new: Option<f64>| match at {
            Some(at) => {
                let bytes = &mut check.store.bytes_mut(at)[element * 8..element * 8 + 8];
                let old = f64::from_le_bytes(bytes.as_chunks::<8>().0[0]);
                new.into_iter().for_each(|x| bytes.copy_from_slice(&x.to_le_bytes()));
                old
            }
            None => {
                let values = check.inputs.get_mut(name).expect("an input").as_f64_mut();
                let old = values[element];
                new.into_iter().for_each(|x| values[element] = x);
                old
            }
        };
        let old = cell(self, None);
        cell(self, Some(old + by));
        let value = self.value(prepared);
        cell(self, Some(old));
        value
    }

    fn rows(mut self, samples: usize) -> Result<(Dims, Vec<Row>), Failure> {
        let mut derivative = self.prepare(DERIVATIVE)?;
        self.run(&mut derivative)?;
        let mut gradients: Vec<(String, Vec<f64>)> = vec![];
        for (i, port) in derivative.results().iter().enumerate() {
            if let Sink::Result(name) = &port.end
                && let Some(name) = name.strip_prefix("grad.")
            {
                let values = derivative.result(i, &self.store).as_chunks::<8>().0;
                gradients.push((name.to_string(), values.iter().map(|b| f64::from_le_bytes(*b)).collect()));
            }
        }
        let mut forward = self.prepare(&self.entry)?;
        let base = self.value(&mut forward)?;
        let mut rows = vec![];
        for (name, gradient) in gradients {
            let n = gradient.len();
            let count = if samples == 0 { n } else { samples.min(n) };
            let mut row = Row { name, elements: n, compared: 0, kinks: 0, worst: 0.0, wrong: None };
            for k in 0..count {
                let i = if count > 1 { k * (n - 1) / (count - 1) } else { 0 };
                let [right, left] = [STEP, -STEP].map(|by| self.moved(&mut forward, &row.name, i, by));
                let (right, left) = (right?, left?);
                let (want, got) = ((right - left) / (2.0 * STEP), gradient[i]);
                let allowed = |want: f64| ABSOLUTE + RELATIVE * want.abs().max(got.abs());
                let sides = [(right - base) / STEP, (base - left) / STEP];
                let error = (got - want).abs();
                // NaN counts as an error.
                if error <= allowed(want) {
                    row.compared += 1;
                    row.worst = row.worst.max(error);
                } else if (sides[0] - sides[1]).abs() > 1e-2 * sides[0].abs().max(sides[1].abs())
                    && sides.iter().any(|s| (got - s).abs() <= 100.0 * allowed(*s))
                {
                    row.kinks += 1;
                } else {
                    row.compared += 1;
                    row.wrong = row.wrong.or(Some((i, got, want)));
                }
            }
            rows.push(row);
        }
        Ok((self.dims, rows))
    }
}
