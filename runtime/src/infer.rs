//! Inference: named inputs from `.npy` files or from a data section, results to `.npy` files.

use crate::data::Dataset;
use crate::dtype::{DType, Scalar};
use crate::error::{Result, RunError, wrong};
use crate::exec::Prepared;
use crate::files;
use crate::manifest::{Entry, Manifest, Sink, Source};
use crate::npy;
use crate::program::{Machine, Program, solve_dims};
use crate::random::{Stream, key};
use crate::size::Dims;
use crate::tensor::Tensor;
use crate::tensors::Store;
use crate::words::hint;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Most samples at a time where they come from a data section.
const CHUNK: usize = 256;

/// The entry `infer:NAME`, or the only one.
///
/// # Errors
/// None or several.
pub fn entry_of<'a>(manifest: &'a Manifest, name: Option<&str>) -> Result<&'a Entry> {
    let all: Vec<&Entry> = manifest.entries.iter().filter(|e| e.name.starts_with("infer:")).collect();
    let known: Vec<&str> = all.iter().map(|e| &*e.name).collect();
    match (name, all.as_slice()) {
        (None, [one]) => Ok(one),
        (None, []) => wrong!("the program has no model to infer with"),
        (None, _) => Err(RunError::Usage(format!("the program has several models: choose one of {}", known.join(", ")))),
        (Some(name), all) => {
            let found = all.iter().find(|e| e.name.strip_prefix("infer:") == Some(name));
            let models: Vec<&str> = known.iter().map(|k| &k["infer:".len()..]).collect();
            found.copied().ok_or_else(|| RunError::Wrong(format!("the program has no model {name}{}", hint(name, &models))))
        }
    }
}

/// The names of the inputs that an entry wants.
fn wanted(entry: &Entry) -> Vec<&str> {
    let name = |source: &'_ Source| matches!(source, Source::Data(_));
    entry.inputs.iter().filter(|(s, _)| name(s)).filter_map(|(s, _)| if let Source::Data(n) = s { Some(&**n) } else { None }).collect()
}

/// Reads `NAME=FILE.npy` pairs; every input must be there, and no other.
///
/// # Errors
/// A missing, unknown or repeated input; a file that is wrong.
pub fn read_inputs(entry: &Entry, files: &[(String, PathBuf)]) -> Result<BTreeMap<String, Tensor>> {
    let wanted = wanted(entry);
    let mut inputs = BTreeMap::new();
    for (name, path) in files {
        if !wanted.contains(&name.as_str()) {
            return Err(RunError::Usage(format!("{} has no input {name}{}", entry.name, hint(name, &wanted))));
        }
        if inputs.insert(name.clone(), npy::read_npy(path)?).is_some() {
            return Err(RunError::Usage(format!("the input {name} is given twice")));
        }
    }
    match wanted.iter().find(|w| !inputs.contains_key(**w)) {
        Some(missing) => Err(RunError::Usage(format!("{} needs the input {missing}: give --input {missing}=FILE.npy", entry.name))),
        None => Ok(inputs),
    }
}

/// Every input of the entry must be among `names` once, and nothing else.
///
/// # Errors
/// A missing, unknown or repeated input.
pub(crate) fn check_names(entry: &Entry, names: &[&str]) -> Result<()> {
    let wanted = wanted(entry);
    for (i, name) in names.iter().enumerate() {
        if !wanted.contains(name) {
            return Err(RunError::Usage(format!("{} has no input {name}{}", entry.name, hint(name, &wanted))));
        }
        if names[..i].contains(name) {
            return Err(RunError::Usage(format!("the input {name} is given twice")));
        }
    }
    match wanted.iter().find(|w| !names.contains(w)) {
        Some(missing) => Err(RunError::Usage(format!("{} needs the input {missing}", entry.name))),
        None => Ok(()),
    }
}

/// Runs the entry once.
///
/// # Errors
/// Inputs that do not fit; a failed check.
pub fn infer(
    program: &Program,
    entry: &Entry,
    inputs: &BTreeMap<String, Tensor>,
    dims: &Dims,
    seed: u64,
    machine: &mut Machine,
) -> Result<Vec<(String, Tensor)>> {
    let dims = solve_dims(program.manifest, entry, dims, &|name| inputs.get(name).map(|t| t.shape.clone()))?;
    let mut run = machine.prepare(program.manifest, entry, &dims)?;
    fill(&mut run, entry, &|name| inputs.get(name), seed)?;
    machine.run(&mut run)?;
    results(&run, &mut machine.store)
}

/// Copies the inputs of the prepared `entry` to where it reads them; their shapes are those it was prepared for.
///
/// # Errors
/// An input that is missing or of another type.
pub(crate) fn fill<'a>(run: &mut Prepared, entry: &Entry, given: &dyn Fn(&str) -> Option<&'a Tensor>, seed: u64) -> Result<()> {
    for i in 0..run.inputs().len() {
        let port = &run.inputs()[i];
        let from = match &port.end {
            Source::Data(name) => match given(name) {
                Some(tensor) => convert(name, tensor, port.dtype)?,
                None => return wrong!("{} needs the input {name}", entry.name),
            },
            Source::Key => Cow::Owned(Tensor::scalar(Scalar::i64(key(seed, Stream::Eval, 0) as i64))),
            Source::Step => Cow::Owned(Tensor::scalar(Scalar::float(port.dtype, 1.0))),
            Source::Scalar(name) | Source::Tensor(name) => return wrong!("{} wants a value for {name}, which inference has not", entry.name),
        };
        if from.dtype != port.dtype {
            return wrong!("{} wants an input of type {}", entry.name, port.dtype);
        }
        run.input_mut(i).copy_from_slice(from.bytes());
    }
    Ok(())
}

/// The named results, copied.
pub(crate) fn results(run: &Prepared, store: &mut Store) -> Result<Vec<(String, Tensor)>> {
    let mut made = vec![];
    for (i, port) in run.results().iter().enumerate() {
        if let Sink::Result(name) = &port.end {
            let mut tensor = Tensor::zeros(port.dtype, &port.shape);
            tensor.bytes_mut().copy_from_slice(store.result(run, i)?);
            made.push((name.to_string(), tensor));
        }
    }
    Ok(made)
}

/// Floats become the float that is wanted, integers become floats; nothing else changes its type.
pub(crate) fn convert<'a>(name: &str, tensor: &'a Tensor, dtype: DType) -> Result<Cow<'a, Tensor>> {
    if tensor.dtype == dtype {
        return Ok(Cow::Borrowed(tensor));
    }
    if !dtype.is_float() || tensor.dtype == DType::Bool {
        return wrong!("the input {name} is {}, but the program wants {dtype}", tensor.dtype);
    }
    let mut made = Tensor::zeros(dtype, &tensor.shape);
    (0..tensor.len()).for_each(|i| made.set(i, Scalar::float(dtype, tensor.get(i).to_f64())));
    Ok(Cow::Owned(made))
}

/// Runs the entry over a part of a data section (the first that has all inputs), or over the rows of a file in its form.
///
/// # Errors
/// No section fits; data that is wrong.
pub fn infer_data(program: &Program, entry: &Entry, part: &str, dims: &Dims, seed: u64, machine: &mut Machine) -> Result<Vec<(String, Tensor)>> {
    let wanted = wanted(entry);
    let fits = |d: &&crate::recipe::Data| wanted.iter().all(|w| d.columns.iter().any(|c| &*c.name == *w));
    let Some(section) = program.manifest.data.iter().find(fits) else {
        return wrong!("no data section has all inputs of {}: {}", entry.name, wanted.join(", "));
    };
    let used = |name: &str| wanted.contains(&name);
    let (data, rows) = Dataset::meant(section, &program.folder, part, &used)?;
    let chunk = if by_sample(entry, &wanted) { CHUNK } else { rows.len() };
    let mut made: Vec<(String, Vec<Tensor>)> = vec![];
    for rows in rows.chunks(chunk.max(1)) {
        let mut inputs = BTreeMap::new();
        for (name, i) in wanted.iter().filter_map(|w| Some((w, data.find(w)?))) {
            let mut tensor = Tensor::zeros(data.column(i).dtype, &[&[rows.len() as i64], data.column(i).shape.as_slice()].concat());
            data.gather(i, rows, tensor.bytes_mut());
            inputs.insert(name.to_string(), tensor);
        }
        for (k, (name, tensor)) in infer(program, entry, &inputs, dims, seed, machine)?.into_iter().enumerate() {
            match made.get_mut(k) {
                Some((_, parts)) => parts.push(tensor),
                None => made.push((name, vec![tensor])),
            }
        }
    }
    Ok(made.into_iter().map(|(name, parts)| (name, join(parts))).collect())
}

/// Whether inputs and results all have the same free dim as their first axis: then samples may be run in pieces.
fn by_sample(entry: &Entry, wanted: &[&str]) -> bool {
    let first = |id: u32| entry.plan.buffers.get(id as usize).and_then(|b| b.shape.first()).and_then(|s| s.as_dim().cloned());
    let inputs = entry.inputs.iter().filter(|(s, _)| matches!(s, Source::Data(_))).map(|(_, id)| first(*id));
    let mut all = inputs.chain(entry.results.iter().map(|(_, id)| first(*id)));
    match all.next().flatten() {
        Some(dim) => !wanted.is_empty() && all.all(|d| d.as_ref() == Some(&dim)),
        None => false,
    }
}

/// One after the other along the first axis.
fn join(mut parts: Vec<Tensor>) -> Tensor {
    if parts.len() == 1 {
        return parts.swap_remove(0);
    }
    let mut shape = parts[0].shape.clone();
    shape[0] = parts.iter().map(|p| p.shape[0]).sum();
    let mut whole = Tensor::zeros(parts[0].dtype, &shape);
    let mut rest = whole.bytes_mut();
    for part in &parts {
        let (to, after) = rest.split_at_mut(part.bytes().len());
        to.copy_from_slice(part.bytes());
        rest = after;
    }
    whole
}

/// Writes `DIR/NAME.npy` for every result.
///
/// # Errors
/// Not writable; a name that is no file name.
pub fn write_results(results: &[(String, Tensor)], folder: &Path) -> Result<Vec<PathBuf>> {
    files::create_folder(folder)?;
    let mut paths = vec![];
    for (name, tensor) in results {
        if name.is_empty() || name.contains(['/', '\\', '\0']) || name.starts_with('.') {
            return wrong!("the result {name:?} cannot be a file's name");
        }
        let path = folder.join(format!("{name}.npy"));
        files::write(&path, &npy::to_npy(tensor))?;
        paths.push(path);
    }
    Ok(paths)
}
