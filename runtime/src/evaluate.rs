//! Metrics of a part of the data: the entry `eval:RECIPE` over batches, sums in f64, then `finish:RECIPE`.

use crate::confusion::Confusion;
use crate::data::Dataset;
use crate::error::Result;
use crate::program::{Batch, Finish, Machine, Program, Setting, StepValues};
use crate::random::{Stream, key};
use crate::recipe::Recipe;
use crate::size::Dims;
use std::sync::Arc;

/// The names that a recipe's metrics are accumulated under, in order.
pub fn sums_of(recipe: &Recipe) -> Vec<Arc<str>> {
    let mut names: Vec<Arc<str>> = vec![];
    for name in recipe.metrics.iter().flat_map(|m| &m.accumulators) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names
}

/// Evaluates parts; what it prepares once serves every epoch.
pub struct Evaluator {
    batches: Vec<(usize, Batch)>,
    finish: Finish,
    sums: Vec<f64>,
}

impl Evaluator {
    /// An evaluator of `recipe`.
    ///
    /// # Errors
    /// The program has no `finish:RECIPE` that fits.
    pub fn new(setting: &Setting, recipe: &Recipe, machine: &Machine) -> Result<Evaluator> {
        let finish = Finish::new(setting.program, recipe, setting.sums, machine)?;
        Ok(Evaluator { batches: vec![], finish, sums: vec![0.0; setting.sums.len()] })
    }

    /// The metrics of the samples `rows`, in the recipe's order.
    ///
    /// # Errors
    /// As [`Batch::new`] and [`Batch::step`].
    pub fn part(&mut self, setting: &Setting, recipe: &Recipe, rows: &[u32], scalars: &[(Arc<str>, f64)], machine: &mut Machine) -> Result<Vec<f64>> {
        let entry = setting.program.entry(&format!("eval:{}", recipe.name))?;
        self.sums.fill(0.0);
        for (n, rows) in rows.chunks(usize::try_from(recipe.batch).unwrap_or(1).max(1)).enumerate() {
            let at = match self.batches.iter().position(|(count, _)| *count == rows.len()) {
                Some(at) => at,
                None => {
                    self.batches.push((rows.len(), Batch::new(setting, entry, rows.len(), scalars, machine)?));
                    self.batches.len() - 1
                }
            };
            let values = StepValues { rows, scalars, step: n as u64 + 1, key: key(recipe.seed, Stream::Eval, n as u64) };
            self.batches[at].1.step(machine, setting.data, &values, &mut self.sums)?;
        }
        self.finish.values(&self.sums, machine)
    }

    /// Metrics of sums that came from elsewhere.
    ///
    /// # Errors
    /// As [`Finish::values`].
    pub fn values(&mut self, sums: &[f64], machine: &mut Machine) -> Result<Vec<f64>> {
        self.finish.values(sums, machine)
    }
}

/// The columns that a recipe's entries read.
pub fn columns_used(program: &Program, recipe: &Recipe) -> Vec<Arc<str>> {
    let names = [format!("train:{}", recipe.name), format!("eval:{}", recipe.name)];
    let entries = program.manifest.entries.iter().filter(|e| names.contains(&e.name.to_string()));
    let sources = entries.flat_map(|e| &e.inputs).filter_map(|(source, _)| match source {
        crate::manifest::Source::Data(name) => Some(name.clone()),
        _ => None,
    });
    sources.collect()
}

/// Run-time scalars of an evaluation: the recipe's, and those that the loop fills in.
pub fn scalars_of(recipe: &Recipe) -> Vec<(Arc<str>, f64)> {
    let mut scalars = recipe.scalars.clone();
    for name in ["step", "epoch", "steps", "steps_per_epoch"] {
        if scalars.iter().all(|(n, _)| &**n != name) {
            scalars.push((name.into(), 0.0));
        }
    }
    scalars
}

/// Evaluates `part` (or the rows of a file) with the machine's weights: the metrics, and a classifier's mistakes.
///
/// # Errors
/// No such part; data that is wrong.
pub fn evaluate(program: &Program, recipe: &Recipe, part: &str, dims: &Dims, machine: &mut Machine) -> Result<(Vec<f64>, Option<Confusion>)> {
    let used = columns_used(program, recipe);
    let section = crate::data::section(&program.manifest.data, &recipe.data)?;
    let (data, rows) = Dataset::meant(section, &program.folder, part, &|name| used.iter().any(|u| &**u == name))?;
    let sums = sums_of(recipe);
    let setting = Setting { program, data: &data, dims, sums: &sums };
    let values = Evaluator::new(&setting, recipe, machine)?.part(&setting, recipe, &rows, &scalars_of(recipe), machine)?;
    Ok((values, Confusion::of(program, recipe, &data, part, &rows, dims, machine)?))
}
