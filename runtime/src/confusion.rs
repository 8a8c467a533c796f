//! Which classes a classifier takes for which: its model's best scores against the labels of a part of the data.

use crate::data::Dataset;
use crate::dtype::DType;
use crate::error::{Result, wrong};
use crate::infer::infer;
use crate::program::{Machine, Program};
use crate::recipe::{Classifier, Recipe};
use crate::size::Dims;
use crate::tensor::Tensor;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Most samples at a time.
const CHUNK: i64 = 256;
/// Beyond it nobody reads the table, nor is it kept.
const MOST: i64 = 1000;
/// Beyond it the table is too wide for a terminal, and the worst mistakes are listed instead.
const WIDE: usize = 20;

/// Counts of labels and predictions.
#[derive(Clone, Debug, PartialEq)]
pub struct Confusion {
    /// `test`
    pub part: String,
    /// The classes' names, or their numbers.
    pub names: Vec<String>,
    /// Row after row: a row is a label, a column a prediction.
    pub counts: Vec<u64>,
}

impl Confusion {
    /// Of the samples `rows`, which `part` is a word for; nothing where the recipe is no classifier's.
    ///
    /// # Errors
    /// As [`infer`].
    pub fn of(
        program: &Program,
        recipe: &Recipe,
        data: &Dataset,
        part: &str,
        rows: &[u32],
        dims: &Dims,
        machine: &mut Machine,
    ) -> Result<Option<Confusion>> {
        let Some(Classifier { model, inputs, label, classes }) = recipe.classifier.as_ref().filter(|c| (1..=MOST).contains(&c.classes)) else {
            return Ok(None);
        };
        let (entry, classes) = (program.entry(&format!("infer:{model}"))?, *classes as usize);
        let Some(label) = data.find(label) else { return Ok(None) };
        let names = data.column(label).classes_named.clone();
        let names = if names.len() == classes { names } else { (0..classes).map(|k| k.to_string()).collect() };
        let mut confusion = Confusion { part: part.to_string(), names, counts: vec![0; classes * classes] };
        let most = program.manifest.dims.iter().find(|d| d.name == recipe.batch_dim).and_then(|d| d.max).unwrap_or(CHUNK);
        for rows in rows.chunks(CHUNK.min(most).max(1) as usize) {
            let column = |k: usize| {
                let mut tensor = Tensor::zeros(data.column(k).dtype, &[&[rows.len() as i64], data.column(k).shape.as_slice()].concat());
                data.gather(k, rows, tensor.bytes_mut());
                tensor
            };
            let mut given = BTreeMap::new();
            for (input, name) in inputs {
                let Some(k) = data.find(name) else { return Ok(None) };
                given.insert(input.to_string(), column(k));
            }
            let (labels, results) = (column(label), infer(program, entry, &given, dims, 0, machine)?);
            let Some((_, scores)) = results.first() else { return Ok(None) };
            if labels.dtype != DType::I64 || scores.shape.last() != Some(&(classes as i64)) || scores.len() != labels.len() * classes {
                return wrong!("{} gives {:?} for {} labels of {classes} classes", entry.name, scores.shape, labels.len());
            }
            for (i, &label) in labels.as_i64().iter().enumerate() {
                let score = |k: &usize| scores.get(i * classes + k).to_f64();
                // The first largest, as `argmax` has it.
                let best = (1..classes).fold(0, |best, k| if score(&k) > score(&best) { k } else { best });
                confusion.counts[label as usize * classes + best] += 1;
            }
        }
        Ok(Some(confusion))
    }

    /// How often `label` was taken for `prediction`.
    pub fn count(&self, label: usize, prediction: usize) -> u64 {
        self.counts[label * self.names.len() + prediction]
    }

    /// How much of the class was found (recall), and how much of what was taken for it was it (precision).
    pub fn shares(&self, class: usize) -> (f64, f64) {
        let all = 0..self.names.len();
        let (labels, predictions): (u64, u64) = (all.clone().map(|k| self.count(class, k)).sum(), all.map(|k| self.count(k, class)).sum());
        let hits = self.count(class, class) as f64;
        (hits / labels as f64, hits / predictions as f64)
    }

    /// Label, prediction and count of what is wrong, the most frequent first.
    pub fn mistakes(&self) -> Vec<(usize, usize, u64)> {
        let n = self.names.len();
        let mut found: Vec<_> = (0..n * n).filter(|k| k / n != k % n && self.counts[*k] > 0).map(|k| (k / n, k % n, self.counts[k])).collect();
        found.sort_by_key(|(label, prediction, count)| (std::cmp::Reverse(*count), *label, *prediction));
        found
    }

    /// A table, or what is confused most where that would be too wide.
    pub fn text(&self) -> String {
        let n = self.names.len();
        if n > WIDE {
            let worst = self.mistakes();
            let mut text = format!("the most frequent confusions of {} on {}:\n", n, self.part);
            for (label, prediction, count) in worst.iter().take(10) {
                let _ = writeln!(text, "  {} taken for {}: {count}", self.names[*label], self.names[*prediction]);
            }
            return text.trim_end().to_string();
        }
        let percent = |share: f64| if share.is_nan() { "-".to_string() } else { format!("{:.1}", 100.0 * share) };
        let width =
            self.names.iter().map(|name| name.chars().count()).chain(self.counts.iter().map(|c| c.to_string().len())).max().unwrap_or(1).max(5);
        let left = width.max("precision %".len());
        let mut text = format!("confusion on {}: a row is a label, a column what it was taken for\n{:left$}", self.part, "");
        self.names.iter().for_each(|name| _ = write!(text, "  {name:>width$}"));
        text += "  recall %\n";
        for (label, name) in self.names.iter().enumerate() {
            let _ = write!(text, "{name:>left$}");
            for prediction in 0..n {
                let count = self.count(label, prediction);
                let _ = if count == 0 { write!(text, "  {:>width$}", ".") } else { write!(text, "  {count:>width$}") };
            }
            let _ = writeln!(text, "  {:>8}", percent(self.shares(label).0));
        }
        let _ = write!(text, "{:>left$}", "precision %");
        (0..n).for_each(|class| _ = write!(text, "  {:>width$}", percent(self.shares(class).1)));
        text
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        let rows: Vec<&[u64]> = self.counts.chunks(self.names.len()).collect();
        json!({ "classes": self.names, "counts": rows })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_say_what_is_taken_for_what() {
        let names = |n: usize| (0..n).map(|k| format!("c{k}")).collect::<Vec<_>>();
        let small = Confusion { part: "test".into(), names: names(3), counts: vec![8, 2, 0, 0, 5, 0, 0, 0, 0] };
        let lines: Vec<String> = small.text().lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines[1..], ["c0 c1 c2 recall %", "c0 8 2 . 80.0", "c1 . 5 . 100.0", "c2 . . . -", "precision % 100.0 71.4 -"]);
        assert_eq!(small.json()["counts"][0][1], 2);
        let mut wide = Confusion { part: "test".into(), names: names(30), counts: vec![0; 900] };
        (wide.counts[31], wide.counts[7], wide.counts[40]) = (50, 1, 4);
        assert_eq!(wide.text(), "the most frequent confusions of 30 on test:\n  c1 taken for c10: 4\n  c0 taken for c7: 1");
    }
}
