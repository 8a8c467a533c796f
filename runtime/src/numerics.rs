//! `--check-numerics`: where the first value comes from that is no finite number.
//!
//! In: a run of a prepared entry. Out: the same, or an error that names the launch, its source line, and the ranges of what it read. Nothing is looked at
//! while a run is good but its results. When one is not, the run is repeated from the state that it began with (which gives the same bits), line by line,
//! and every value is looked at as it is made.
//!
//! That a value on the way is infinite is no mistake: masks are. So the origin of NaN is what is looked for, and where there is none, of infinity. What a
//! model returns may be infinite, too; sums and stored tensors may not.

use crate::dtype::DType;
use crate::error::{Result, RunError, refuse, wrong};
use crate::exec::{Kernels, Prepared};
use crate::launch::{Op, Table};
use crate::manifest::{BufferId, Entry, Manifest, Sink, Source, Step};
use crate::pool::Pool;
use crate::tensors::{Store, Tensors};
use std::collections::BTreeMap;
use std::fmt;

/// Runs the entry as [`Prepared::run`] does; an error if a result is bad. The stored tensors are then as they were before.
///
/// # Errors
/// As there; a bad value.
pub(crate) fn run(prepared: &mut Prepared, manifest: &Manifest, kernels: &dyn Kernels, pool: &mut Pool, store: &mut Store) -> Result<()> {
    let before = store.here()?.snapshot()?;
    prepared.run_in(kernels, pool, store)?;
    if !bad_results(prepared, store.here()?) {
        return Ok(());
    }
    store.here()?.restore(&before);
    let Some(entry) = manifest.entries.iter().find(|e| e.name == prepared.name) else { return crate::exec::damaged(&prepared.name) };
    let found = explain(prepared, entry, manifest, kernels, store);
    store.here()?.restore(&before);
    match found? {
        Some(text) => Err(RunError::Wrong(text)),
        None => wrong!("a result of {} is not finite, but repeated from the same state it is", entry.name),
    }
}

fn bad_results(prepared: &Prepared, store: &Tensors) -> bool {
    prepared.results().iter().enumerate().any(|(i, port)| {
        let bytes = match &port.end {
            // On a GPU, new values of stored tensors are only there.
            Sink::Tensor(path) => store.find(path).map_or(&[][..], |k| store.bytes(k)),
            Sink::Accumulate(_) | Sink::Result(_) => prepared.result(i, store),
        };
        let range = Range::of(port.dtype, bytes);
        range.nan > 0 || range.infinite > 0 && !matches!(port.end, Sink::Result(_))
    })
}

/// What values there are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Range {
    finite: Option<(f64, f64)>,
    nan: usize,
    infinite: usize,
}

impl Range {
    fn of(dtype: DType, bytes: &[u8]) -> Range {
        let mut range = Range::default();
        if dtype.is_float() {
            bytes.chunks_exact(dtype.bytes()).for_each(|b| range.add(float(b)));
        }
        range
    }

    fn add(&mut self, x: f64) {
        match x {
            x if x.is_nan() => self.nan += 1,
            x if x.is_infinite() => self.infinite += 1,
            x => self.finite = Some(self.finite.map_or((x, x), |(lo, hi)| (lo.min(x), hi.max(x)))),
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.finite {
            Some((lo, hi)) if lo == hi => write!(f, "{lo:.4e}")?,
            Some((lo, hi)) => write!(f, "{lo:.4e} to {hi:.4e}")?,
            None => f.write_str("nothing finite")?,
        }
        for (count, what) in [(self.nan, "NaN"), (self.infinite, "infinite")] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        Ok(())
    }
}

fn float(bytes: &[u8]) -> f64 {
    match bytes {
        [a, b, c, d] => f32::from_le_bytes([*a, *b, *c, *d]) as f64,
        _ => bytes.try_into().map_or(0.0, f64::from_le_bytes),
    }
}

/// The names that buffers have for people, and their shapes.
struct Names<'a> {
    entry: &'a Entry,
    prepared: BTreeMap<BufferId, Vec<i64>>,
}

impl Names<'_> {
    fn name(&self, id: BufferId) -> String {
        let input = self.entry.inputs.iter().find(|(_, i)| *i == id).map(|(source, _)| match source {
            Source::Tensor(path) => path.to_string(),
            Source::Data(name) => format!("the input {name}"),
            Source::Scalar(name) => name.to_string(),
            Source::Step => "the step".into(),
            Source::Key => "the key".into(),
        });
        let result = self.entry.results.iter().find_map(|(sink, i)| match sink {
            Sink::Tensor(path) if *i == id => Some(format!("the new {path}")),
            Sink::Accumulate(name) if *i == id => Some(name.to_string()),
            _ => None,
        });
        let buffer = &self.entry.plan.buffers[id as usize];
        let name = input.or(result).unwrap_or_else(|| buffer.name.to_string());
        format!("{name} {}{:?}", buffer.dtype, self.prepared.get(&id).map_or(&[][..], |s| s))
    }
}

impl Names<'_> {
    /// Whose parameters are among the buffers.
    fn layer(&self, mut ids: impl Iterator<Item = BufferId>) -> Option<String> {
        ids.find_map(|id| {
            let source = self.entry.inputs.iter().find(|(_, i)| *i == id)?;
            let Source::Tensor(path) = &source.0 else { return None };
            // An optimizer's state is `fit/m/Net.fc.weight`.
            Some(path.rsplit('/').next()?.rsplit_once('.')?.0.to_string())
        })
    }
}

/// A launch that made bad values.
struct Origin {
    op: usize,
    /// The argument's buffer, how many are bad, of how many, which is the first.
    made: (BufferId, usize, usize, usize),
    read: Vec<(BufferId, Range)>,
}

/// Repeats the run from the stored tensors as they are, and says which launch made the first bad value.
fn explain(prepared: &mut Prepared, entry: &Entry, manifest: &Manifest, kernels: &dyn Kernels, store: &mut Store) -> Result<Option<String>> {
    let mut names = Names { entry, prepared: BTreeMap::new() };
    for (id, buffer) in entry.plan.buffers.iter().enumerate() {
        let shape = buffer.shape.iter().map(|s| s.eval(&prepared.dims)).collect::<std::result::Result<Vec<i64>, _>>();
        names.prepared.insert(id as u32, shape.map_err(|e| refuse!("{}: {e}", entry.name))?);
    }
    let stored = store.here()?;
    for (source, id) in &entry.inputs {
        if let Source::Tensor(path) = source
            && let Some(k) = stored.find(path)
        {
            let range = Range::of(stored.decl(k).dtype, stored.bytes(k));
            if range.nan > 0 || range.infinite > 0 {
                return Ok(Some(format!("{} is not finite before {} begins: {range}", names.name(*id), entry.name)));
            }
        }
    }
    let slots = slots(entry);
    let (mut infinite, mut nan): (Option<Origin>, Option<Origin>) = (None, None);
    let mut copies: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
    let mut see = |table: &Table, op: usize, done: bool| {
        let args = arguments(table, op, manifest);
        // The bytes that an argument stands for.
        let bytes = |slot: usize| {
            let id = slots[slot];
            let buffer = &entry.plan.buffers[id as usize];
            let count = names.prepared[&id].iter().product::<i64>() as usize;
            // SAFETY: the argument points at a buffer of this type and shape; nothing runs meanwhile.
            let bytes = unsafe { std::slice::from_raw_parts(table.args.get()[slot].cast_const(), count * buffer.dtype.bytes()) };
            (id, buffer.dtype, bytes)
        };
        if !done {
            copies = args.iter().map(|(slot, _)| (*slot, bytes(*slot))).filter(|(_, b)| b.1.is_float()).map(|(s, b)| (s, b.2.to_vec())).collect();
            return true;
        }
        for (slot, _) in args.iter().filter(|(slot, written)| *written && copies.contains_key(slot)) {
            let (id, dtype, now) = bytes(*slot);
            let made = |bad: &dyn Fn(f64) -> bool| {
                let pairs = now.chunks_exact(dtype.bytes()).zip(copies[slot].chunks_exact(dtype.bytes()));
                let mut places = pairs.enumerate().filter(|(_, (now, old))| now != old && bad(float(now))).map(|(i, _)| i);
                let first = places.next()?;
                Some((id, 1 + places.count(), now.len() / dtype.bytes(), first))
            };
            let origin = |made| {
                let read = args.iter().filter(|(s, written)| !written && copies.contains_key(s));
                let ranges = read.map(|(s, _)| (slots[*s], Range::of(entry.plan.buffers[slots[*s] as usize].dtype, &copies[s])));
                Origin { op, made, read: ranges.collect() }
            };
            if infinite.is_none() {
                infinite = made(&f64::is_infinite).map(origin);
            }
            if nan.is_none() {
                nan = made(&f64::is_nan).map(origin);
            }
        }
        nan.is_none()
    };
    match kernels.gpu() {
        Some(gpu) => prepared.step_through_on(gpu, store, &mut see)?,
        None => prepared.step_through(kernels, store.here()?, &mut see)?,
    }
    let text = |what: &str, origin: &Origin| {
        let (id, bad, all, first) = origin.made;
        let Op::Launch { kernel, line, .. } = &prepared.table.ops[origin.op] else { return String::new() };
        let line = entry.plan.lines.get(*line as usize).filter(|l| !l.is_empty()).map_or(String::new(), |l| format!(" at {l}"));
        let symbol = &manifest.kernels[*kernel as usize].symbol;
        let place = at(first, &names.prepared[&id]);
        let layer = names.layer(origin.read.iter().map(|(id, _)| *id)).map_or(String::new(), |layer| format!(", layer {layer}"));
        let made = names.name(id);
        let mut text = format!("{what} in {}{line}{layer}, by {symbol}: {bad} of {all} values of {made}, the first at {place}", entry.name);
        let mut told: Vec<BufferId> = vec![];
        for (id, range) in &origin.read {
            if !told.contains(id) {
                told.push(*id);
                text += &format!("\n  it read {}: {range}", names.name(*id));
            }
        }
        text
    };
    Ok(match (nan, infinite) {
        (Some(nan), Some(infinite)) if infinite.op != nan.op => {
            Some(format!("{}\n{}", text("the first NaN is made", &nan), text("before that, a value became infinite", &infinite)))
        }
        (Some(nan), _) => Some(text("the first NaN is made", &nan)),
        (None, infinite) => infinite.map(|infinite| text("the first infinite value is made", &infinite)),
    })
}

/// For every argument of the table, its buffer: in the order in which `resolve` appends them.
fn slots(entry: &Entry) -> Vec<BufferId> {
    let mut slots = vec![];
    for step in &entry.plan.steps {
        match step {
            Step::Launch(launch) => slots.extend(launch.buffers()),
            Step::Loop { index, .. } => slots.push(*index),
            Step::Copy { from, to } => slots.extend([*from, *to]),
            Step::Check { condition, .. } => slots.push(*condition),
        }
    }
    slots
}

/// The arguments of a launch and whether it writes them.
fn arguments(table: &Table, op: usize, manifest: &Manifest) -> Vec<(usize, bool)> {
    let Op::Launch { kernel, calls, .. } = &table.ops[op] else { return vec![] };
    let writes = &manifest.kernels[*kernel as usize].writes;
    table.calls[calls.clone()].iter().flat_map(|c| c.args.clone().enumerate().map(|(n, slot)| (slot, writes.contains(&(n as u32))))).collect()
}

/// Element number `i` as indices.
fn at(mut i: usize, shape: &[i64]) -> String {
    let mut indices: Vec<String> = vec![];
    for &n in shape.iter().rev() {
        let n = n.max(1) as usize;
        indices.insert(0, (i % n).to_string());
        i /= n;
    }
    format!("[{}]", indices.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_and_places_read_well() {
        let range = |values: &[f32]| Range::of(DType::F32, &values.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()).to_string();
        assert_eq!(range(&[1.0, -2.5, f32::NAN, f32::INFINITY]), "-2.5000e0 to 1.0000e0, 1 NaN, 1 infinite");
        assert_eq!(range(&[f32::NEG_INFINITY; 2]), "nothing finite, 2 infinite");
        assert_eq!(range(&[3.0]), "3.0000e0");
        assert_eq!((at(7, &[2, 5]), at(0, &[])), ("[1, 2]".into(), "[]".into()));
    }
}
