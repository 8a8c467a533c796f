//! What a program's models and recipes take and give, by name, type and shape.

#![warn(missing_docs)]

use crate::dtype::DType;
use crate::manifest::{BufferId, Entry, Manifest, Sink, Source};
use crate::size::Size;
use std::fmt;
use std::sync::Arc;

/// A named array that is taken or given.
#[derive(Clone, Debug, PartialEq)]
pub struct Argument {
    /// Its name.
    pub name: Arc<str>,
    /// Of its elements.
    pub dtype: DType,
    /// Sizes, which may be free dims or formulas of them; empty for a single number.
    pub shape: Vec<Size>,
}

/// What can be run.
#[derive(Clone, Debug, PartialEq)]
pub struct Signature {
    /// A model's or a recipe's name.
    pub name: Arc<str>,
    /// What it takes.
    pub inputs: Vec<Argument>,
    /// What it gives: a model's results; a recipe's metrics, the loss first, which are single numbers in f64.
    pub results: Vec<Argument>,
}

/// `image: f32[B, 64]`
impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sizes: Vec<String> = self.shape.iter().map(|s| s.to_string()).collect();
        let shape = if sizes.is_empty() { String::new() } else { format!("[{}]", sizes.join(", ")) };
        write!(f, "{}: {}{shape}", self.name, self.dtype)
    }
}

/// `Digits(image: f32[B, 64]) -> output: f32[B, 10]`
impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = |all: &[Argument]| all.iter().map(|a| a.to_string()).collect::<Vec<_>>().join(", ");
        write!(f, "{}({}) -> {}", self.name, words(&self.inputs), words(&self.results))
    }
}

/// The models that can infer.
pub fn models(manifest: &Manifest) -> Vec<Signature> {
    let entries = manifest.entries.iter();
    entries.filter_map(|e| Some(Signature { name: e.name.strip_prefix("infer:")?.into(), inputs: inputs(e), results: results(e) })).collect()
}

/// The recipes that can train and evaluate. Their inputs are columns in the order of the data section, a sample in each row.
pub fn recipes(manifest: &Manifest) -> Vec<Signature> {
    let of = |r: &crate::recipe::Recipe| {
        let named = |kind: &str| manifest.entries.iter().find(|e| *e.name == *format!("{kind}:{}", r.name));
        let mut inputs = inputs(named("train")?);
        // A metric may read what the loss does not.
        inputs.extend(self::inputs(named("eval")?).into_iter().filter(|i| inputs.iter().all(|known| known.name != i.name)).collect::<Vec<_>>());
        let section = manifest.data.iter().find(|d| d.name == r.data)?;
        inputs.sort_by_key(|i| section.columns.iter().position(|c| c.name == i.name));
        let results = r.metrics.iter().map(|m| Argument { name: m.name.clone(), dtype: DType::F64, shape: vec![] }).collect();
        Some(Signature { name: r.name.clone(), inputs, results })
    };
    manifest.recipes.iter().filter_map(of).collect()
}

fn argument(entry: &Entry, name: &Arc<str>, id: BufferId) -> Option<Argument> {
    let buffer = entry.plan.buffers.get(id as usize)?;
    Some(Argument { name: name.clone(), dtype: buffer.dtype, shape: buffer.shape.clone() })
}

fn inputs(entry: &Entry) -> Vec<Argument> {
    entry.inputs.iter().filter_map(|(s, id)| if let Source::Data(name) = s { argument(entry, name, *id) } else { None }).collect()
}

fn results(entry: &Entry) -> Vec<Argument> {
    entry.results.iter().filter_map(|(s, id)| if let Sink::Result(name) = s { argument(entry, name, *id) } else { None }).collect()
}
