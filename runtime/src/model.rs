//! A compiled model in one value: load, infer, train step by step or whole, evaluate, save. What the C library and the Python module are made of.
//!
//! In: an artifact; arrays by name, row-major, in the units of the program's inputs (what a data section does to the files' values, such as `/ 16`, is
//! done by whoever gives arrays). Out: arrays and metrics. The numbers are those of `nnc run`: a batch infers to the same bits, and epochs over a part's rows
//! end in the same weights as `nnc run FILE train`.

#![warn(missing_docs)]

use crate::artifact::Artifact;
use crate::data::{self, Dataset};
use crate::dtype::DType;
use crate::error::{Result, RunError, refuse};
use crate::evaluate::{self, Evaluator, evaluate, scalars_of, sums_of};
use crate::exec::{Kernels, Prepared};
use crate::infer;
use crate::loader;
use crate::manifest::{BufferId, Role, Source};
use crate::order::{Order, plan_length};
use crate::pool::Pool;
use crate::program::{Batch, Machine, Program, Setting, StepValues, solve_dims};
use crate::random::{Generator, Stream, key};
use crate::recipe::{Length, Recipe};
use crate::report::{Report, Style};
use crate::signature::{self, Signature};
use crate::size::Dims;
use crate::tensor::Tensor;
use crate::tensors::{Store, Tensors};
use crate::train::{self, Options, Summary};
use crate::{settings, weights};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Arrays by name.
pub type Arrays<'a> = [(&'a str, &'a Tensor)];

/// Metrics by name; the first is `loss`.
pub type Metrics = Vec<(Arc<str>, f64)>;

/// So many kinds of batches are kept ready; each has memory of its own.
const READY: usize = 4;

/// An entry at the sizes of inputs that have been seen.
struct Ready {
    entry: usize,
    dims: Dims,
    run: Prepared,
}

/// A recipe under way.
struct Session {
    recipe: Arc<str>,
    /// Steps and whole epochs done.
    step: u64,
    epoch: u64,
    /// The samples' shapes for which the following is ready.
    samples: Vec<(String, Vec<i64>)>,
    batches: Vec<(usize, Batch)>,
    evaluator: Option<Evaluator>,
}

/// A compiled program with its weights, ready to run on this machine's CPU, or on its GPU if it was built for one.
pub struct Model {
    artifact: Artifact,
    folder: PathBuf,
    kernels: Box<dyn Kernels + Send>,
    pool: Pool,
    /// Brought back from a GPU where someone looks at them.
    store: Store,
    /// Sizes that were given; others follow from arrays.
    dims: Dims,
    /// Whether the stored tensors have values that mean something.
    trained: bool,
    ready: Vec<Ready>,
    sessions: Vec<Session>,
}

impl Model {
    /// Loads the artifact at `path` (`.nnc`), with the weights that are inside.
    ///
    /// # Errors
    /// It cannot be read, is damaged, was made by another version, or is not for this CPU.
    pub fn open(path: impl AsRef<Path>) -> Result<Model> {
        let artifact = Artifact::read(path.as_ref())?;
        let folder = artifact.folder(path.as_ref());
        Model::new(artifact, folder)
    }

    /// Loads an artifact from memory; its data sections' files are looked for in the working folder.
    ///
    /// # Errors
    /// As [`Model::open`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Model> {
        Model::new(Artifact::from_bytes(bytes, "the artifact in memory")?, PathBuf::new())
    }

    fn new(mut artifact: Artifact, folder: PathBuf) -> Result<Model> {
        let kernels = loader::load_artifact(&artifact)?;
        let mut store = Tensors::new(&artifact.manifest.tensors)?;
        let inside = artifact.weights.take();
        if let Some(bytes) = &inside {
            weights::from_bytes(&mut store, weights::MODEL, bytes, "the artifact's weights")?;
        }
        let trained = inside.is_some() || store.decls(weights::MODEL).next().is_none();
        let pool = Pool::new(std::thread::available_parallelism().map_or(1, |n| n.get()));
        Ok(Model { artifact, folder, kernels, pool, store: store.into(), dims: Dims::new(), trained, ready: vec![], sessions: vec![] })
    }

    /// How many threads run it, the caller's included; all cores at first. No result depends on it.
    ///
    /// # Errors
    /// Not in 1..=1024.
    pub fn set_threads(&mut self, threads: usize) -> Result<()> {
        if !(1..=1024).contains(&threads) {
            return Err(RunError::Usage(format!("the number of threads must be in 1..=1024, not {threads}")));
        }
        self.pool = Pool::new(threads);
        self.ready.clear();
        self.sessions.iter_mut().for_each(Session::forget);
        Ok(())
    }

    /// Gives a free dim a size, which is needed where no array's shape decides it.
    ///
    /// # Errors
    /// The program has no such dim, or not of that size.
    pub fn set_dim(&mut self, name: &str, size: i64) -> Result<()> {
        let dims = Dims::from([(name.into(), size)]);
        crate::exec::check_dims(&self.artifact.manifest, &dims)?;
        self.dims.extend(dims);
        self.sessions.iter_mut().for_each(Session::forget);
        Ok(())
    }

    /// The program's file name.
    pub fn source(&self) -> &str {
        &self.artifact.manifest.source
    }

    /// The models that can infer.
    pub fn models(&self) -> Vec<Signature> {
        signature::models(&self.artifact.manifest)
    }

    /// The recipes that can train and evaluate.
    pub fn recipes(&self) -> Vec<Signature> {
        signature::recipes(&self.artifact.manifest)
    }

    /// Paths, types and shapes of the parameters and the layers' states.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, DType, &[i64])> {
        self.store.decls(weights::MODEL).map(|d| (&*d.path, d.dtype, d.shape.as_slice()))
    }

    /// A copy of the parameter or state at `path`, such as `Digits.fc1.weight`.
    ///
    /// # Errors
    /// There is none, or it has no value yet; the GPU has failed.
    pub fn tensor(&mut self, path: &str) -> Result<Tensor> {
        self.needs_weights()?;
        let i = self.place(path)?;
        let mut tensor = Tensor::zeros(self.store.decl(i).dtype, &self.store.decl(i).shape);
        tensor.bytes_mut().copy_from_slice(self.store.here()?.bytes(i));
        Ok(tensor)
    }

    fn place(&self, path: &str) -> Result<usize> {
        let known: Vec<&str> = self.tensors().map(|(path, ..)| path).collect();
        let unknown = || refuse!("the program has no tensor {path}{}", crate::words::hint(path, &known));
        self.store.find(path).filter(|&i| self.store.decl(i).role != Role::Optimizer).ok_or_else(unknown)
    }

    fn needs_weights(&self) -> Result<()> {
        let none = "the model has no weights: the artifact holds none; load them, initialise them, or train";
        if self.trained { Ok(()) } else { Err(RunError::Usage(none.into())) }
    }

    /// Gives all parameters and states their initial values, drawn from `seed`. Recipes begin anew.
    ///
    /// # Errors
    /// No memory.
    pub fn initialise(&mut self, seed: u64) -> Result<()> {
        self.sessions.clear();
        self.on_machine(|program, machine| program.initialise(seed, None, machine))?;
        self.trained = true;
        Ok(())
    }

    /// Reads parameters and states from a file (`.safetensors`, `.npz`). Recipes begin anew.
    ///
    /// # Errors
    /// Not readable, or other tensors than the program's: every difference; the weights are as they were.
    pub fn load_weights(&mut self, path: impl AsRef<Path>) -> Result<()> {
        weights::load(self.store.here()?, path.as_ref())?;
        self.sessions.clear();
        self.trained = true;
        Ok(())
    }

    /// Writes parameters and states as a safetensors file, aside first.
    ///
    /// # Errors
    /// There are none yet; not writable.
    pub fn save_weights(&mut self, path: impl AsRef<Path>) -> Result<()> {
        self.needs_weights()?;
        crate::files::write(path.as_ref(), &weights::to_bytes(self.store.here()?, weights::MODEL, None)?)
    }

    /// Writes the artifact with the present weights inside, aside first.
    ///
    /// # Errors
    /// As [`Model::save_weights`].
    pub fn save(&mut self, path: impl AsRef<Path>) -> Result<()> {
        self.needs_weights()?;
        let inside = weights::to_bytes(self.store.here()?, weights::MODEL, None)?;
        let artifact = Artifact { weights: Some(inside), ..self.artifact.clone() };
        artifact.write_for(path.as_ref(), &self.folder).map(drop)
    }

    /// Runs a model (the only one without a name) on arrays, which are converted where they are floats or integers and floats are wanted. Free dims follow from
    /// the arrays' shapes. The same sizes as in one of the last calls cost no preparation.
    ///
    /// # Errors
    /// No such model; arrays that are missing, unknown or do not fit; no weights; a check of the program that fails.
    pub fn infer(&mut self, model: Option<&str>, inputs: &Arrays) -> Result<Vec<(String, Tensor)>> {
        self.needs_weights()?;
        let manifest = &self.artifact.manifest;
        let entry = infer::entry_of(manifest, model)?;
        infer::check_names(entry, &inputs.iter().map(|(name, _)| *name).collect::<Vec<_>>())?;
        let given = |name: &str| inputs.iter().find(|(n, _)| *n == name).map(|(_, t)| *t);
        let dims = solve_dims(manifest, entry, &self.dims, &|name| given(name).map(|t| t.shape.clone()))?;
        let number = manifest.entries.iter().position(|e| std::ptr::eq(e, entry)).unwrap_or(0);
        let mut ready = match self.ready.iter().position(|r| r.entry == number && r.dims == dims) {
            Some(at) => self.ready.remove(at),
            None => Ready { entry: number, run: Prepared::new(manifest, entry, &dims, self.pool.threads(), &self.store)?, dims },
        };
        infer::fill(&mut ready.run, entry, &given, 0)?;
        ready.run.run_in(self.kernels.as_ref(), &mut self.pool, &mut self.store)?;
        let results = infer::results(&ready.run, &mut self.store)?;
        if self.ready.len() == READY {
            self.ready.remove(0);
        }
        self.ready.push(ready);
        Ok(results)
    }

    /// Changes a setting of a recipe (the only one without a name), as `--set` does: `optimizer.lr` to `0.01`, `batch`, `steps`, `seed`.
    ///
    /// # Errors
    /// No such recipe or setting; a value of the wrong kind.
    pub fn set(&mut self, recipe: Option<&str>, path: &str, value: &str) -> Result<()> {
        let at = self.recipe(recipe)?;
        let changed = &mut self.artifact.manifest.recipes[at];
        // There is no command line to speak of.
        let plain = |e: RunError| RunError::Usage(e.message().trim_start_matches("--set ").to_string());
        settings::apply(changed, &[(path.to_string(), value.to_string())]).map_err(plain)?;
        let name = changed.name.clone();
        self.sessions.iter_mut().filter(|s| s.recipe == name).for_each(Session::forget);
        Ok(())
    }

    /// One step of a recipe's optimizer on a batch of any size: an array for every column that the recipe reads, samples along the first axis. Gives the
    /// batch's metrics, of before the step. Weights that are not there yet are initialised from the recipe's seed.
    ///
    /// # Errors
    /// No such recipe; columns that are missing, unknown or do not fit; a schedule that needs the number of steps where none is set.
    pub fn train_step(&mut self, recipe: Option<&str>, columns: &Arrays) -> Result<Metrics> {
        self.session(recipe, columns, |run| {
            let mut sums = vec![0.0; run.sums.len()];
            let steps = match run.recipe.length {
                Length::Steps(n) => Some(n as f64),
                Length::Epochs(_) => None,
            };
            let known = [("epoch", None), ("steps", steps), ("steps_per_epoch", None)];
            run.step(&run.data.part("all")?, &known, &mut sums)?;
            run.metrics(&sums)
        })
    }

    /// A pass of training over all samples of the columns, in the recipe's batches and in an order drawn from its seed, as in the training loop. Gives the
    /// epoch's metrics.
    ///
    /// # Errors
    /// As [`Model::train_step`]; fewer samples than a batch.
    pub fn train_epoch(&mut self, recipe: Option<&str>, columns: &Arrays) -> Result<Metrics> {
        self.session(recipe, columns, |run| {
            let mut rows = run.data.part("all")?;
            let length = plan_length(run.recipe, rows.len(), &Order::Drawn)?;
            if run.recipe.shuffle {
                Generator::new(key(run.recipe.seed, Stream::Order, run.session.epoch)).shuffle(&mut rows);
            }
            let mut sums = vec![0.0; run.sums.len()];
            let known = [("epoch", run.session.epoch + 1), ("steps", length.steps), ("steps_per_epoch", length.per_epoch)];
            let known = known.map(|(name, n)| (name, Some(n as f64)));
            for batch in rows.chunks(run.recipe.batch as usize).take(length.per_epoch as usize) {
                run.step(batch, &known, &mut sums)?;
            }
            run.session.epoch += 1;
            run.metrics(&sums)
        })
    }

    /// A recipe's metrics on all samples of the columns, with the present weights.
    ///
    /// # Errors
    /// As [`Model::train_step`]; no weights.
    pub fn eval(&mut self, recipe: Option<&str>, columns: &Arrays) -> Result<Metrics> {
        self.needs_weights()?;
        self.session(recipe, columns, |run| {
            let (rows, scalars) = (run.data.part("all")?, scalars_of(run.recipe));
            run.prepare_evaluator()?;
            let (setting, Some(evaluator)) = (run.setting(), &mut run.session.evaluator) else { unreachable!("it is prepared") };
            let values = evaluator.part(&setting, run.recipe, &rows, &scalars, run.machine)?;
            Ok(run.named(values))
        })
    }

    /// A recipe's metrics on a part of its own data section (`test`), or on the rows of a file in its form, with the present weights.
    ///
    /// # Errors
    /// No such recipe, part or file; data that is wrong; no weights.
    pub fn eval_part(&mut self, recipe: Option<&str>, part: &str) -> Result<Metrics> {
        self.needs_weights()?;
        let recipe = self.artifact.manifest.recipes[self.recipe(recipe)?].clone();
        let dims = self.dims.clone();
        let (values, _) = self.on_machine(|program, machine| evaluate(program, &recipe, part, &dims, machine))?;
        Ok(recipe.metrics.iter().map(|m| m.name.clone()).zip(values).collect())
    }

    /// Runs a whole recipe on its own data section, into a run's folder, as `nnc run FILE train` does; `stop` ends it after the present step. The model has the
    /// best weights then.
    ///
    /// # Errors
    /// As there; [`RunError::Interrupted`] if stopped.
    pub fn train(&mut self, recipe: Option<&str>, options: &Options, stop: &AtomicBool) -> Result<Summary> {
        self.sessions.clear();
        let quiet = Report::new(Style::Quiet);
        let summary = self.on_machine(|program, machine| train::train(program, recipe, options, machine, &quiet, stop))?;
        self.trained = true;
        Ok(summary)
    }

    fn recipe(&self, name: Option<&str>) -> Result<usize> {
        let program = Program { manifest: &self.artifact.manifest, kernels: self.kernels.as_ref(), folder: PathBuf::new(), artifact: None };
        let found = program.recipe(name)?;
        Ok(self.artifact.manifest.recipes.iter().position(|r| r.name == found.name).unwrap_or(0))
    }

    /// Lends threads and tensors to the drivers of whole programs.
    fn on_machine<T>(&mut self, work: impl FnOnce(&Program, &mut Machine) -> Result<T>) -> Result<T> {
        let store = std::mem::replace(&mut self.store, Tensors::new(&[])?.into());
        let pool = std::mem::replace(&mut self.pool, Pool::new(1));
        let mut machine = Machine { kernels: self.kernels.as_ref(), pool, store, profile: None, numerics: None };
        let program = Program {
            manifest: &self.artifact.manifest,
            kernels: self.kernels.as_ref(),
            folder: self.folder.clone(),
            artifact: Some(&self.artifact),
        };
        let ended = work(&program, &mut machine);
        (self.store, self.pool) = (machine.store, machine.pool);
        ended
    }

    /// Does something with a recipe on these columns.
    fn session<T>(&mut self, recipe: Option<&str>, columns: &Arrays, work: impl FnOnce(&mut Work) -> Result<T>) -> Result<T> {
        let recipe = self.artifact.manifest.recipes[self.recipe(recipe)?].clone();
        let at = self.sessions.iter().position(|s| s.recipe == recipe.name);
        let mut session = match at {
            Some(at) => self.sessions.remove(at),
            None => Session { recipe: recipe.name.clone(), step: 0, epoch: 0, samples: vec![], batches: vec![], evaluator: None },
        };
        let (begins, mut trained, dims) = (at.is_none(), self.trained, self.dims.clone());
        let ended = self.on_machine(|program, machine| {
            let wanted = evaluate::columns_used(program, &recipe);
            let section = data::section(&program.manifest.data, &recipe.data)?;
            let data = Dataset::given(section, columns, &|name| wanted.iter().any(|w| &**w == name))?;
            if begins {
                // Optimizers' states; weights that are there stay.
                let kept = if trained { Some(weights::to_bytes(machine.store.here()?, weights::MODEL, None)?) } else { None };
                program.initialise(recipe.seed, Some(&recipe.name), machine)?;
                if let Some(bytes) = kept {
                    weights::from_bytes(machine.store.here()?, weights::MODEL, &bytes, "the model's weights")?;
                }
                trained = true;
            }
            let samples = columns.iter().map(|(name, t)| (name.to_string(), t.shape.iter().skip(1).copied().collect())).collect();
            if session.samples != samples {
                session.forget();
                session.samples = samples;
            }
            let sums = sums_of(&recipe);
            work(&mut Work { program, recipe: &recipe, data: &data, sums: &sums, dims: &dims, session: &mut session, machine })
        });
        self.trained = trained;
        self.sessions.push(session);
        ended
    }
}

impl Session {
    /// What is ready no longer fits.
    fn forget(&mut self) {
        self.batches.clear();
        self.evaluator = None;
    }
}

/// A recipe, its data, and where it runs.
struct Work<'a, 'm> {
    program: &'a Program<'a>,
    recipe: &'a Recipe,
    data: &'a Dataset,
    sums: &'a [Arc<str>],
    dims: &'a Dims,
    session: &'a mut Session,
    machine: &'a mut Machine<'m>,
}

impl<'a> Work<'a, '_> {
    fn setting(&self) -> Setting<'a> {
        Setting { program: self.program, data: self.data, dims: self.dims, sums: self.sums }
    }

    fn prepare_evaluator(&mut self) -> Result<()> {
        if self.session.evaluator.is_none() {
            self.session.evaluator = Some(Evaluator::new(&self.setting(), self.recipe, self.machine)?);
        }
        Ok(())
    }

    /// Trains on these rows; `known` are the numbers of the loop that a schedule may want.
    fn step(&mut self, rows: &[u32], known: &[(&str, Option<f64>)], sums: &mut [f64]) -> Result<()> {
        let entry = self.program.entry(&format!("train:{}", self.recipe.name))?;
        let step = self.session.step + 1;
        let mut scalars = scalars_of(self.recipe);
        for (name, value) in [("step", Some(step as f64))].iter().chain(known) {
            let wanted = |(source, _): &(Source, BufferId)| matches!(source, Source::Scalar(n) if **n == **name);
            if value.is_none() && entry.inputs.iter().any(wanted) {
                let fix = if *name == "steps" { "set \"steps\", or train by epochs" } else { "train by epochs" };
                return Err(RunError::Usage(format!("the schedule of {} wants {name}, which a step alone does not tell: {fix}", self.recipe.name)));
            }
            scalars.iter_mut().filter(|(n, _)| **n == **name).for_each(|(_, v)| *v = value.unwrap_or(0.0));
        }
        let at = match self.session.batches.iter().position(|(count, _)| *count == rows.len()) {
            Some(at) => at,
            None => {
                let batch = Batch::new(&self.setting(), entry, rows.len(), &scalars, self.machine)?;
                if self.session.batches.len() == READY {
                    self.session.batches.remove(0);
                }
                self.session.batches.push((rows.len(), batch));
                self.session.batches.len() - 1
            }
        };
        let values = StepValues { rows, scalars: &scalars, step, key: key(self.recipe.seed, Stream::Step, step) };
        self.session.batches[at].1.step(self.machine, self.data, &values, sums)?;
        self.session.step = step;
        Ok(())
    }

    /// The metrics of sums over batches.
    fn metrics(&mut self, sums: &[f64]) -> Result<Metrics> {
        self.prepare_evaluator()?;
        let Some(evaluator) = &mut self.session.evaluator else { unreachable!("it is prepared") };
        let values = evaluator.values(sums, self.machine)?;
        Ok(self.named(values))
    }

    fn named(&self, values: Vec<f64>) -> Metrics {
        self.recipe.metrics.iter().map(|m| m.name.clone()).zip(values).collect()
    }
}
