//! What a file is and what is in it, said without running anything: artifacts, runs and their checkpoints, safetensors, `.npy`, `.npz`, CSV.
//!
//! Files come from anywhere, so names and sizes in them are not trusted: they are cut to a length and freed of control characters before they are shown.

use crate::artifact::{Artifact, is_artifact};
use crate::checkpoint::Position;
use crate::columns;
use crate::error::{Result, RunError, wrong};
use crate::manifest::{BufferId, DimDecl, Entry, Manifest, Role, Sink, Source, TensorDecl};
use crate::npy;
use crate::recipe::{Data, Length, Recipe, Scaling};
use crate::tensor::Tensor;
use crate::weights;
use safetensors::tensor::{Dtype, SafeTensors};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// Most characters of a name or a value that are shown.
const LONGEST: usize = 120;
/// Most tensors that are listed as text.
pub const MOST_ROWS: usize = 500;

/// What a folder with folders of runs is called.
const RUNS: &str = "folder of runs";

/// What a file is, what is known about it, and its tensors.
#[derive(Clone, Debug)]
pub struct Summary {
    /// In a few words: `artifact`, `safetensors file`.
    pub kind: &'static str,
    /// Names and values in the order in which people ask for them.
    pub facts: Vec<(&'static str, Value)>,
    /// In the file's order; a table's columns.
    pub tensors: Vec<Row>,
}

/// A tensor in a file.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Its type as the file names it.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<i64>,
    /// Bytes of its elements in the file.
    pub bytes: u64,
    /// What its values are like, where they are numbers that we read.
    pub values: Option<Values>,
    /// What else is to be said of it.
    pub note: String,
}

/// What the values of a tensor are like.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Values {
    /// The smallest and the largest finite one; 0 where there is none.
    pub min: f64,
    /// See `min`.
    pub max: f64,
    /// The mean of the finite ones.
    pub mean: f64,
    /// How many are NaN.
    pub nan: u64,
    /// How many are infinite.
    pub infinite: u64,
}

/// Looks into a file or a run's folder.
///
/// # Errors
/// It cannot be read, is none of the known kinds, or is damaged.
pub fn inspect(path: &Path) -> Result<Summary> {
    let name = path.display().to_string();
    if path.is_dir() {
        let run = path.join("last.safetensors");
        return if run.is_file() { inspect(&run) } else { runs(path) };
    }
    if is_artifact(path)? {
        return artifact(&Artifact::read(path)?, &name);
    }
    if columns::is_table(path) {
        return columns::inspect(path);
    }
    let bytes = crate::files::read(path)?;
    if bytes.starts_with(b"\x93NUMPY") {
        return Ok(Summary { kind: "NumPy array", facts: vec![], tensors: vec![row("array", &npy::read_npy(path)?)] });
    }
    if bytes.starts_with(b"PK") {
        let arrays = npy::read_npz(path)?;
        return Ok(Summary { kind: "archive of NumPy arrays", facts: vec![], tensors: arrays.iter().map(|(n, t)| row(n, t)).collect() });
    }
    // Their files have no magic number, but a header's length and a brace, after which nothing else can be meant.
    let meant = path.extension().is_some_and(|e| e == "safetensors") || bytes.get(8) == Some(&b'{');
    if meant {
        safetensors(&bytes, &name)
    } else {
        wrong!("{name} is none of the kinds that can be looked into: .nn, .nnc, .safetensors, .npy, .npz, .csv, the folder of a run")
    }
}

/// The runs below a folder: how far each is, and what its log says last.
fn runs(folder: &Path) -> Result<Summary> {
    let mut found: Vec<PathBuf> = vec![];
    let mut level = vec![folder.to_path_buf()];
    // `runs/PROGRAM/RECIPE/N`, and the folder that holds `runs`.
    for _ in 0..4 {
        let below = level.iter().flat_map(|at| std::fs::read_dir(at).into_iter().flatten().flatten().map(|e| e.path()));
        let (runs, others): (Vec<_>, Vec<_>) = below.filter(|p| p.is_dir()).partition(|p| p.join("last.safetensors").is_file());
        (found, level) = ([found, runs].concat(), others);
    }
    if found.is_empty() {
        return wrong!("{} is a folder, but not that of a run, and there is none below: it has no last.safetensors", folder.display());
    }
    // 10 after 9.
    let key = |path: &PathBuf| path.iter().map(|part| (part.to_string_lossy().parse::<u64>().unwrap_or(0), part.to_os_string())).collect::<Vec<_>>();
    found.sort_by_key(key);
    let row = |path: &PathBuf| -> Option<Row> {
        let position = Position::read(path).ok()?;
        let log = std::fs::read_to_string(path.join("log.jsonl")).unwrap_or_default();
        let mut lines = log.lines().rev().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let last = lines.find(|line| line.get("epoch").is_some());
        let part = |name: &str| {
            Some(
                last.as_ref()?
                    .get(name)?
                    .as_object()?
                    .iter()
                    .map(|(k, v)| format!("{name}.{k} {:.4}", v.as_f64().unwrap_or(f64::NAN)))
                    .collect::<Vec<_>>()
                    .join("  "),
            )
        };
        let name = path.strip_prefix(folder).unwrap_or(path).display().to_string();
        let note = ["train", "valid", "test"].into_iter().filter_map(part).collect::<Vec<_>>().join("  ");
        Some(Row { name, dtype: format!("epoch {}", position.epoch), shape: vec![], bytes: 0, values: None, note })
    };
    Ok(Summary { kind: RUNS, facts: vec![], tensors: found.iter().filter_map(row).collect() })
}

fn row(name: &str, tensor: &Tensor) -> Row {
    let numbers = (0..tensor.len()).map(|i| tensor.get(i).to_f64());
    Row {
        name: name.into(),
        dtype: tensor.dtype.to_string(),
        shape: tensor.shape.clone(),
        bytes: tensor.bytes().len() as u64,
        values: Some(values(numbers)),
        note: String::new(),
    }
}

pub(crate) fn values(numbers: impl Iterator<Item = f64>) -> Values {
    let (mut found, mut count, mut sum) = (Values { min: f64::INFINITY, max: f64::NEG_INFINITY, ..Values::default() }, 0u64, 0.0);
    for x in numbers {
        if x.is_finite() {
            (found.min, found.max, sum, count) = (found.min.min(x), found.max.max(x), sum + x, count + 1);
        } else if x.is_nan() {
            found.nan += 1;
        } else {
            found.infinite += 1;
        }
    }
    if count == 0 { Values { min: 0.0, max: 0.0, mean: 0.0, ..found } } else { Values { mean: sum / count as f64, ..found } }
}

/// A safetensors file; if we wrote it as a checkpoint, how far the run was.
fn safetensors(bytes: &[u8], from: &str) -> Result<Summary> {
    let refused = |e: safetensors::SafeTensorError| RunError::Wrong(format!("{from} is not a whole safetensors file: {}", plain(&e.to_string())));
    let file = SafeTensors::deserialize(bytes).map_err(refused)?;
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(refused)?;
    let mut places: Vec<(usize, Row)> = file
        .iter()
        .map(|(name, view)| {
            let data = view.data();
            let shape = view.shape().iter().map(|&n| n as i64).collect();
            let dtype = format!("{:?}", view.dtype()).to_lowercase();
            let row = Row { name: name.into(), dtype, shape, bytes: data.len() as u64, values: of_bytes(view.dtype(), data), note: String::new() };
            (data.as_ptr() as usize, row)
        })
        .collect();
    places.sort_by(|(a, x), (b, y)| (a, &x.name).cmp(&(b, &y.name)));
    let tensors = places.into_iter().map(|(_, row)| row).collect();
    if let Some(position) = weights::note(bytes, from)?.and_then(|note| serde_json::from_str::<Position>(&note).ok()) {
        return Ok(Summary { kind: "checkpoint of a run", facts: progress(&position), tensors });
    }
    let mut notes: Vec<(String, Value)> = header.metadata().iter().flatten().map(|(k, v)| (k.clone(), json!(v))).collect();
    notes.sort_by(|a, b| a.0.cmp(&b.0));
    let facts = if notes.is_empty() { vec![] } else { vec![("metadata", Value::Object(notes.into_iter().collect()))] };
    Ok(Summary { kind: "safetensors file", facts, tensors })
}

/// The values of little-endian elements, where their type is one of the plain numbers.
fn of_bytes(dtype: Dtype, bytes: &[u8]) -> Option<Values> {
    macro_rules! numbers {
        ($t:ty) => {{
            let (whole, _) = bytes.as_chunks::<{ size_of::<$t>() }>();
            Some(values(whole.iter().map(|b| <$t>::from_le_bytes(*b) as f64)))
        }};
    }
    match dtype {
        Dtype::F64 => numbers!(f64),
        Dtype::F32 => numbers!(f32),
        Dtype::F16 => Some(values(bytes.as_chunks::<2>().0.iter().map(|b| npy::half(u16::from_le_bytes(*b)) as f64))),
        Dtype::BF16 => Some(values(bytes.as_chunks::<2>().0.iter().map(|b| f32::from_bits((u16::from_le_bytes(*b) as u32) << 16) as f64))),
        Dtype::I64 => numbers!(i64),
        Dtype::I32 => numbers!(i32),
        Dtype::I16 => numbers!(i16),
        Dtype::I8 => numbers!(i8),
        Dtype::U64 => numbers!(u64),
        Dtype::U32 => numbers!(u32),
        Dtype::U16 => numbers!(u16),
        Dtype::U8 | Dtype::BOOL => numbers!(u8),
        _ => None,
    }
}

fn progress(p: &Position) -> Vec<(&'static str, Value)> {
    let pairs = |list: &[(String, String)]| Value::Object(list.iter().map(|(k, v)| (k.clone(), json!(v))).collect());
    let mut facts = vec![("recipe", json!(p.recipe)), ("seed", json!(p.seed)), ("batch", json!(p.batch))];
    facts.push(("epochs done", json!(p.epoch)));
    facts.push(("steps done", json!(p.step)));
    if p.in_epoch > 0 {
        facts.push(("steps of the present epoch", json!(p.in_epoch)));
    }
    if let Some(best) = p.best {
        facts.push(("best epoch", json!(p.best_epoch)));
        facts.push(("best value watched", json!(f64::from_bits(best))));
    }
    let set = [&p.compiled[..], &p.set[..]].concat();
    if !set.is_empty() {
        facts.push(("settings", pairs(&set)));
    }
    if p.stopped {
        facts.push(("ended", json!("stopped early")));
    }
    facts
}

fn artifact(artifact: &Artifact, from: &str) -> Result<Summary> {
    let m = &artifact.manifest;
    let code: usize = artifact.code.iter().map(|(_, object)| object.len()).sum();
    let mut summary = program("artifact", m);
    summary.facts.insert(0, ("made by", json!(format!("nnc {} from {}", m.compiler, m.source))));
    summary.facts.push(("code", json!(format!("{} kernels in {code} bytes", m.kernels.len()))));
    summary
        .facts
        .push(("weights", json!(if artifact.weights.is_some() { "inside" } else { "none: initialised when trained, or given by --weights" })));
    if let Some(bytes) = &artifact.weights {
        summary.tensors = safetensors(bytes, &format!("the weights in {from}"))?.tensors;
    }
    Ok(summary)
}

/// What a compiled program says of itself.
pub fn program(kind: &'static str, m: &Manifest) -> Summary {
    let dim = |d: &DimDecl| match d.max {
        Some(max) => format!("{} in {}..={max}", d.name, d.min),
        None => format!("{} from {}", d.name, d.min),
    };
    let count = |role: Role| m.tensors.iter().filter(|t| t.role == role).map(|t| t.shape.iter().product::<i64>()).sum::<i64>();
    let mut facts = vec![
        ("dims", json!(m.dims.iter().map(dim).collect::<Vec<_>>())),
        ("entries", Value::Object(m.entries.iter().map(|e| (e.name.to_string(), json!(interface(e)))).collect())),
        ("recipes", Value::Object(m.recipes.iter().map(|r| (r.name.to_string(), json!(recipe(r)))).collect())),
        ("data", Value::Object(m.data.iter().map(|d| (d.name.to_string(), json!(d.tables.iter().map(|t| &*t.path).collect::<Vec<_>>()))).collect())),
        ("scaling", Value::Object(m.data.iter().flat_map(standards).collect())),
        ("parameters", json!(count(Role::Parameter))),
        ("states", json!(count(Role::State))),
    ];
    let known = |v: &Value| !matches!(v, Value::Array(a) if a.is_empty()) && !matches!(v, Value::Object(o) if o.is_empty()) && *v != json!(0);
    facts.retain(|(_, value)| known(value));
    Summary { kind, facts, tensors: declared(m) }
}

/// What training has found to standardize columns by, which who gives arrays must do alike.
fn standards(data: &Data) -> impl Iterator<Item = (String, Value)> {
    let list = |numbers: Vec<f64>| numbers.iter().map(|x| format!("{x:.6}")).collect::<Vec<_>>().join(", ");
    let text = move |step: &Scaling| match step {
        Scaling::Standard(s) => Some(json!(format!("minus {}, over {}", list(s.means()), list(s.deviations())))),
        Scaling::Add(_) | Scaling::Mul(_) | Scaling::Div(_) | Scaling::Standardize => None,
    };
    data.columns.iter().filter_map(move |c| Some((format!("{}.{}", data.name, c.name), c.steps.iter().find_map(text)?)))
}

fn declared(m: &Manifest) -> Vec<Row> {
    let trained = m.tensors.iter().filter(|t| t.role != Role::Optimizer);
    let bytes = |t: &TensorDecl| t.shape.iter().product::<i64>() as u64 * t.dtype.bytes() as u64;
    let row = |t: &TensorDecl| Row {
        name: t.path.to_string(),
        dtype: t.dtype.to_string(),
        shape: t.shape.clone(),
        bytes: bytes(t),
        values: None,
        note: String::new(),
    };
    trained.map(row).collect()
}

/// What an entry takes and gives: `image: f32[B, 64] -> output: f32[B, 10]`.
pub(crate) fn interface(entry: &Entry) -> String {
    let ty = |buffer: BufferId| {
        let b = &entry.plan.buffers[buffer as usize];
        let sizes: Vec<String> = b.shape.iter().map(|s| s.to_string()).collect();
        if sizes.is_empty() { b.dtype.to_string() } else { format!("{}[{}]", b.dtype, sizes.join(", ")) }
    };
    let named = |name: &str, b: &BufferId| format!("{name}: {}", ty(*b));
    let inputs: Vec<String> = entry.inputs.iter().filter_map(|(s, b)| if let Source::Data(n) = s { Some(named(n, b)) } else { None }).collect();
    let results: Vec<String> = entry.results.iter().filter_map(|(s, b)| if let Sink::Result(n) = s { Some(named(n, b)) } else { None }).collect();
    let changed = entry.results.iter().filter(|(s, _)| matches!(s, Sink::Tensor(_))).count();
    let arrow = if results.is_empty() { String::new() } else { format!("-> {}", results.join(", ")) };
    let changes = if changed == 0 { String::new() } else { format!("(changes {changed} tensors)") };
    [inputs.join(", "), arrow, changes].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// A recipe in a line.
pub(crate) fn recipe(r: &Recipe) -> String {
    let length = match r.length {
        Length::Epochs(n) => format!("{n} epochs"),
        Length::Steps(n) => format!("{n} steps"),
    };
    let metrics: Vec<&str> = r.metrics.iter().map(|m| &*m.name).collect();
    format!("{length} of {} in batches of {}, {}, {}, seed {}", r.data, r.batch, r.optimizer, metrics.join(", "), r.seed)
}

/// Fit for a terminal: without control characters, and not too long.
pub fn plain(text: &str) -> String {
    let mut shown: String = text.chars().take(LONGEST).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push_str("...");
    }
    shown
}

fn shape_text(shape: &[i64]) -> String {
    plain(&format!("[{}]", shape.iter().map(|n| n.to_string()).collect::<Vec<_>>().join(", ")))
}

fn fact_lines(name: &str, value: &Value) -> Vec<String> {
    let word = |v: &Value| match v {
        Value::String(s) => plain(s),
        Value::Array(list) => plain(&list.iter().map(|v| v.as_str().map_or(v.to_string(), str::to_string)).collect::<Vec<_>>().join(", ")),
        other => plain(&other.to_string()),
    };
    match value {
        Value::Object(map) => {
            let width = map.keys().map(|k| plain(k).chars().count()).max().unwrap_or(0).min(40);
            let rows = map.iter().take(MOST_ROWS).map(|(k, v)| format!("    {:width$}  {}", plain(k), word(v)).trim_end().to_string());
            std::iter::once(format!("  {name}")).chain(rows).collect()
        }
        other => vec![format!("  {name:12}  {}", word(other))],
    }
}

impl Summary {
    /// For people. At most `most` tensors are listed.
    pub fn text(&self, most: usize) -> String {
        let mut lines: Vec<String> = self.facts.iter().flat_map(|(name, value)| fact_lines(name, value)).collect();
        let elements: i128 = self.tensors.iter().map(|t| t.shape.iter().map(|&n| n as i128).product::<i128>()).sum();
        let bytes: u64 = self.tensors.iter().map(|t| t.bytes).sum();
        let s = if self.tensors.len() == 1 { "" } else { "s" };
        let count = self.tensors.len();
        lines.push(match self.kind {
            columns::KIND => format!("  {count} column{s}"),
            RUNS => format!("  {count} run{s}"),
            _ => format!("  {count} tensor{s}, {elements} elements, {bytes} bytes"),
        });
        let shown = &self.tensors[..self.tensors.len().min(most)];
        let cells: Vec<[String; 4]> = shown
            .iter()
            .map(|t| {
                let about = t.values.filter(|_| t.shape.iter().all(|&n| n > 0)).map_or(String::new(), |v| {
                    let number = |x: f64| format!("{x:.4}").trim_end_matches('0').trim_end_matches('.').to_string();
                    let number = |x: f64| if x != 0.0 && !(1e-3..1e6).contains(&x.abs()) { format!("{x:.3e}") } else { number(x) };
                    let bad = |n: u64, what: &str| if n > 0 { format!("  {n} {what}") } else { String::new() };
                    let range = format!("{} to {}, mean {}", number(v.min), number(v.max), number(v.mean));
                    format!("{range}{}{}", bad(v.nan, "NaN"), bad(v.infinite, "infinite"))
                });
                let about = [about, plain(&t.note)].into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join("  ");
                let shape = if matches!(self.kind, columns::KIND | RUNS) { String::new() } else { shape_text(&t.shape) };
                [plain(&t.name), t.dtype.clone(), shape, about]
            })
            .collect();
        let width = |n: usize| cells.iter().map(|c| c[n].chars().count()).max().unwrap_or(0);
        let widths = [width(0), width(1), width(2)];
        for [name, dtype, shape, about] in &cells {
            let shape = if widths[2] == 0 { String::new() } else { format!("{shape:w2$}  ", w2 = widths[2]) };
            let line = format!("    {name:w0$}  {dtype:w1$}  {shape}{about}", w0 = widths[0], w1 = widths[1]);
            lines.push(line.trim_end().to_string());
        }
        if shown.len() < self.tensors.len() {
            lines.push(format!("    and {} more", self.tensors.len() - shown.len()));
        }
        lines.join("\n") + "\n"
    }

    /// For programs: everything.
    pub fn json(&self) -> Value {
        let row = |t: &Row| {
            let mut object = json!({ "name": t.name, "dtype": t.dtype, "shape": t.shape, "bytes": t.bytes });
            if !t.note.is_empty() {
                object["note"] = json!(t.note);
            }
            if let Some(v) = t.values {
                let values = json!({ "min": v.min, "max": v.max, "mean": v.mean, "nan": v.nan, "infinite": v.infinite });
                object.as_object_mut().into_iter().for_each(|o| drop(o.insert("values".into(), values.clone())));
            }
            object
        };
        let facts: Map<String, Value> = self.facts.iter().map(|(n, v)| (n.replace(' ', "_"), v.clone())).collect();
        json!({ "kind": self.kind, "facts": facts, "tensors": self.tensors.iter().map(row).collect::<Vec<_>>() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_finite_elements() {
        let t = Tensor::from_f32(&[5], &[1.0, f32::NAN, -3.0, f32::NEG_INFINITY, 5.0]);
        assert_eq!(values(t.scalars().iter().map(|x| x.to_f64())), Values { min: -3.0, max: 5.0, mean: 1.0, nan: 1, infinite: 1 });
        assert_eq!(values([f64::NAN].into_iter()), Values { nan: 1, ..Values::default() });
        let halves = [0x3c00u16, 0xc000].map(u16::to_le_bytes).concat();
        assert_eq!(of_bytes(Dtype::F16, &halves), Some(Values { min: -2.0, max: 1.0, mean: -0.5, nan: 0, infinite: 0 }));
        let brain = [0x3f80u16, 0x7fc0].map(u16::to_le_bytes).concat();
        assert_eq!(of_bytes(Dtype::BF16, &brain), Some(Values { min: 1.0, max: 1.0, mean: 1.0, nan: 1, infinite: 0 }));
        assert_eq!(of_bytes(Dtype::I16, &(-7i16).to_le_bytes()), Some(Values { min: -7.0, max: -7.0, mean: -7.0, nan: 0, infinite: 0 }));
    }

    #[test]
    fn what_a_file_says_cannot_reach_the_terminal_raw_or_flood_it() {
        let name = format!("\u{1b}[31m{}", "x".repeat(1000));
        let rows = (0..MOST_ROWS + 7).map(|n| row(&format!("{n}{name}"), &Tensor::from_f32(&[1], &[0.0])));
        let summary = Summary { kind: "", facts: vec![("metadata", json!({ &name: &name }))], tensors: rows.collect() };
        let text = summary.text(MOST_ROWS);
        assert!(!text.contains('\u{1b}') && text.ends_with("and 7 more\n"), "{text}");
        assert!(text.lines().all(|l| l.chars().count() < 3 * LONGEST));
        assert_eq!(summary.json()["tensors"].as_array().unwrap().len(), MOST_ROWS + 7);
    }
}
