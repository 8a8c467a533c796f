//! A run's curves: read from its log, and as lines of blocks for a terminal.

use crate::error::Result;
use crate::report::figure;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// Epoch or step, value.
pub type Point = (f64, f64);

/// A name; `false` comes first.
type Sorted = (bool, String);

/// A metric on a part of the data over the epochs.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// `train`
    pub part: String,
    /// By epoch.
    pub points: Vec<Point>,
}

/// What a log holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curves {
    /// The loss first, then other metrics by name; of each all parts, `train` first.
    pub metrics: Vec<(String, Vec<Curve>)>,
    /// The loss of single steps.
    pub steps: Vec<Point>,
    /// Of all epochs in the log together.
    pub seconds: f64,
}

/// A number, or one that JSON has no figure for.
fn value(of: &Value) -> Option<f64> {
    of.as_f64().or_else(|| of.as_str()?.parse().ok())
}

impl Curves {
    /// From the file.
    ///
    /// # Errors
    /// Not readable; lines that are none of a log are left out.
    pub fn read(log: &Path) -> Result<Curves> {
        Ok(Curves::of(&String::from_utf8_lossy(&crate::files::read(log)?)))
    }

    /// From the text of a log.
    pub fn of(log: &str) -> Curves {
        let mut curves = Curves::default();
        let mut found: BTreeMap<Sorted, BTreeMap<Sorted, Vec<Point>>> = BTreeMap::new();
        for line in log.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok()) {
            if let Some(epoch) = line["epoch"].as_f64() {
                curves.seconds += line["seconds"].as_f64().unwrap_or(0.0);
                for (part, metrics) in line.as_object().into_iter().flatten() {
                    for (metric, v) in metrics.as_object().into_iter().flatten() {
                        let of = found.entry((metric != "loss", metric.clone())).or_default();
                        of.entry((part != "train", part.clone())).or_default().push((epoch, value(v).unwrap_or(f64::NAN)));
                    }
                }
            } else if let (Some(step), Some(loss)) = (line["step"].as_f64(), value(&line["loss"])) {
                curves.steps.push((step, loss));
            }
        }
        let parts = |parts: BTreeMap<(bool, String), _>| parts.into_iter().map(|((_, part), points)| Curve { part, points }).collect();
        curves.metrics = found.into_iter().map(|((_, metric), of)| (metric, parts(of))).collect();
        curves
    }
}

/// The smallest and the largest finite value.
pub fn range(points: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    points.filter(|v| v.is_finite()).fold(None, |range, v| Some(range.map_or((v, v), |(lo, hi): (f64, f64)| (lo.min(v), hi.max(v)))))
}

const WIDTH: usize = 48;

/// One line a metric and part, from the first value to the last; the parts of a metric share their scale. Nothing for a run of less than three points.
pub fn sparklines(curves: &Curves) -> String {
    let mut rows: Vec<(String, &[Point], (f64, f64))> = vec![];
    for (metric, parts) in &curves.metrics {
        let Some(scale) = range(parts.iter().flat_map(|c| c.points.iter().map(|p| p.1))) else { continue };
        rows.extend(parts.iter().map(|c| (format!("{}.{metric}", c.part), c.points.as_slice(), scale)));
    }
    if let Some(scale) = range(curves.steps.iter().map(|p| p.1)) {
        rows.push(("step loss".into(), &curves.steps, scale));
    }
    rows.retain(|(_, points, _)| points.len() >= 3);
    let width = rows.iter().map(|r| r.0.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, points, scale) in rows {
        let (first, last) = (points[0].1, points[points.len() - 1].1);
        let _ = writeln!(text, "{name:width$}  {:>9} {} {}", figure(first), blocks(points, scale), figure(last));
    }
    text.trim_end().to_string()
}

/// The last value of every stretch as a block.
fn blocks(points: &[Point], (lo, hi): (f64, f64)) -> String {
    let count = points.len().min(WIDTH);
    let block = |v: f64| match v.is_finite() {
        true => ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'][(((v - lo) / (hi - lo).max(f64::MIN_POSITIVE) * 7.0).round() as usize).min(7)],
        false => '×',
    };
    (1..=count).map(|k| block(points[points.len() * k / count - 1].1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_becomes_curves_and_lines_of_blocks() {
        let log = "{\"step\":1,\"loss\":3.0}\n\
            {\"epoch\":1,\"step\":2,\"seconds\":0.5,\"train\":{\"accuracy\":0.0,\"loss\":2.0},\"valid\":{\"accuracy\":0.5,\"loss\":\"NaN\"}}\n\
            {\"epoch\":2,\"step\":4,\"seconds\":0.5,\"train\":{\"accuracy\":0.5,\"loss\":1.0},\"valid\":{\"accuracy\":0.5,\"loss\":1.5}}\n\
            {\"epoch\":3,\"step\":6,\"seconds\":1.0,\"train\":{\"accuracy\":1.0,\"loss\":0.0},\"valid\":{\"accuracy\":0.75,\"loss\":1.0}}\n\
            {\"done\":{\"test\":{\"loss\":1}}}\nhalf a li";
        let curves = Curves::of(log);
        assert_eq!(curves.metrics.iter().map(|(m, _)| m.as_str()).collect::<Vec<_>>(), ["loss", "accuracy"]);
        assert_eq!((curves.metrics[0].1[0].part.as_str(), curves.seconds, curves.steps.as_slice()), ("train", 2.0, &[(1.0, 3.0)][..]));
        assert_eq!(
            sparklines(&curves),
            "train.loss         2.0000 █▅▁ 0.0000\n\
             valid.loss            NaN ×▆▅ 1.0000\n\
             train.accuracy     0.0000 ▁▅█ 1.0000\n\
             valid.accuracy     0.5000 ▅▅▆ 0.7500"
        );
        assert_eq!(sparklines(&Curves::of("")), "");
    }

    #[test]
    fn long_curves_keep_their_ends_and_flat_ones_lie_low() {
        let points: Vec<(f64, f64)> = (0..1000).map(|i| (i as f64, i as f64)).collect();
        let line: Vec<char> = blocks(&points, (0.0, 999.0)).chars().collect();
        assert_eq!((line.len(), line[0], line[WIDTH - 1]), (WIDTH, '▁', '█'));
        assert_eq!(blocks(&[(0.0, 2.0), (1.0, 2.0)], (2.0, 2.0)), "▁▁");
    }
}
