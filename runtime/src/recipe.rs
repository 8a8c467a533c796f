//! Data sections and training recipes as the runtime executes them: closed, typed settings; everything computed per step is in the entries.

use crate::dtype::DType;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A `data` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Data {
    /// Its name.
    pub name: Arc<str>,
    /// The files.
    pub tables: Vec<Table>,
    /// What a sample consists of.
    pub columns: Vec<Column>,
    /// Parts cut off in this order; what remains is `train`.
    pub parts: Vec<Part>,
}

/// A file of rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Its name in the section.
    pub name: Arc<str>,
    /// Relative to the `.nn` file.
    pub path: Arc<str>,
    /// How to read it. A path that ends in `.gz` is decompressed first.
    pub format: Format,
}

/// File formats.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Comma-separated text.
    Csv { header: Header, separator: u8 },
    /// A NumPy archive; fields are its members, rows their first axis.
    Npz,
    /// One NumPy array; the only field is `data`.
    Npy,
}

/// Where a CSV's column names come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Header {
    /// The first row.
    First,
    /// Nowhere: columns are numbered from 0.
    None,
    /// The program.
    Names(Vec<String>),
}

/// A named input of the recipe, sample by sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: Arc<str>,
    /// Index into [`Data::tables`].
    pub table: usize,
    /// Column names (or numbers) in the table; empty: the rows' own number. `a..b` stands for all columns from `a` to `b` in the file's order.
    pub fields: Vec<String>,
    /// Words and the classes they stand for, where the field is text: position is the class.
    pub classes_named: Vec<String>,
    /// Applied in order, in f64, before rounding to `dtype`.
    pub steps: Vec<Scaling>,
    /// Element type the entries expect.
    pub dtype: DType,
    /// One sample's shape; empty for a scalar; -1 where the size is a free dim, which the file decides.
    pub shape: Vec<i64>,
    /// Values must be whole and in `0..bound`: classes, tokens.
    pub bound: Option<i64>,
}

/// A step of preprocessing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scaling {
    /// `x + c`
    Add(f64),
    /// `x * c`
    Mul(f64),
    /// `x / c`
    Div(f64),
    /// `(x - mean) / deviation`, field by field, both of the `train` part (deviation of the whole population; 1 where it is 0).
    Standardize,
    /// The same by what a run has found: in an artifact that training has left, which so needs its training data no more.
    Standard(Standard),
}

/// Means and deviations, field by field. Kept as bits, so that they are read as they were.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standard {
    means: Vec<u64>,
    deviations: Vec<u64>,
}

impl Standard {
    /// Of these numbers, as many of each.
    pub fn new(means: &[f64], deviations: &[f64]) -> Standard {
        let bits = |numbers: &[f64]| numbers.iter().map(|x| x.to_bits()).collect();
        Standard { means: bits(means), deviations: bits(deviations) }
    }

    /// The means.
    pub fn means(&self) -> Vec<f64> {
        self.means.iter().map(|&b| f64::from_bits(b)).collect()
    }

    /// The deviations.
    pub fn deviations(&self) -> Vec<f64> {
        self.deviations.iter().map(|&b| f64::from_bits(b)).collect()
    }
}

/// `test = split(20%, seed: 42, stratify: label)`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// `test`, `valid`
    pub name: Arc<str>,
    /// Share of all rows of the file.
    pub fraction: f64,
    /// Shuffles the rows before cutting.
    pub seed: u64,
    /// Keeps the classes' shares of this column.
    pub stratify: Option<Arc<str>>,
}

/// A `train` section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// Its name.
    pub name: Arc<str>,
    /// The data section's name.
    pub data: Arc<str>,
    /// The dim that the batch is.
    pub batch_dim: Arc<str>,
    /// Samples a step.
    pub batch: i64,
    /// How long.
    pub length: Length,
    /// Of initialisation, shuffling and dropout.
    pub seed: u64,
    /// New order every epoch.
    pub shuffle: bool,
    /// Leaves out a last batch that is not full.
    pub drop_last: bool,
    /// Run-time scalars and their values before `--set`; `step` and `epoch` (both from 1), `steps` and `steps_per_epoch` are filled in by the loop.
    pub scalars: Vec<(Arc<str>, f64)>,
    /// Metrics in order; the first is always `loss`.
    pub metrics: Vec<Metric>,
    /// When to stop early.
    pub early_stop: Option<EarlyStop>,
    /// Which weights to start from; paths relative to the `.nn` file, or `run:NAME` for the best of the last run of another recipe.
    pub load: Option<Arc<str>>,
    /// Paths of parameters and states that must not change.
    pub frozen: Vec<Arc<str>>,
    /// Lower-case words for people: `sgd(lr: 0.1, momentum: 0.9)`.
    pub optimizer: Arc<str>,
    /// Whose scores are held against which labels, where it trains a classifier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classifier: Option<Classifier>,
}

/// A model that gives one score a class, and the column of the labels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Classifier {
    /// The model.
    pub model: Arc<str>,
    /// Its inputs, and the columns that they are.
    pub inputs: Vec<(Arc<str>, Arc<str>)>,
    /// The labels' column.
    pub label: Arc<str>,
    /// How many classes.
    pub classes: i64,
}

/// How long a recipe runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Length {
    /// Passes over the training part.
    Epochs(i64),
    /// Optimizer steps.
    Steps(i64),
}

/// A metric: its accumulators are results of the train and eval entries and inputs of `finish`, whose result has the metric's name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// `loss`, `accuracy`
    pub name: Arc<str>,
    /// `loss.sum`, `loss.weight`
    pub accumulators: Vec<Arc<str>>,
    /// Whether larger is better; unknown for custom expressions.
    pub larger_is_better: Option<bool>,
}

/// Stop when a metric no longer improves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EarlyStop {
    /// `valid`
    pub part: Arc<str>,
    /// `accuracy`
    pub metric: Arc<str>,
    /// Epochs without improvement that are allowed.
    pub patience: i64,
    /// Improvements below this do not count.
    pub min_delta: f64,
}
