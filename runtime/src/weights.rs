//! Weights in files: safetensors in and out, `.npz` in. Names, shapes and types must all fit; every difference is listed.

use crate::dtype::DType;
use crate::error::{Result, RunError, wrong};
use crate::manifest::Role;
use crate::tensors::{Places, Tensors};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// What an artifact and `best` hold.
pub const MODEL: &[Role] = &[Role::Parameter, Role::State];
/// What a checkpoint to resume from holds.
pub const ALL: &[Role] = &[Role::Parameter, Role::State, Role::Optimizer];
/// The name of our one entry in the file's metadata.
const NOTE: &str = "nnc";

fn dtype_name(dtype: DType) -> Dtype {
    match dtype {
        DType::F32 => Dtype::F32,
        DType::F64 => Dtype::F64,
        DType::I64 => Dtype::I64,
        DType::Bool => Dtype::BOOL,
    }
}

/// A safetensors file of the tensors with one of the `roles`, with `note` in its metadata.
///
/// # Errors
/// The tensors' names do not fit in the format's header.
pub fn to_bytes(store: &Tensors, roles: &[Role], note: Option<&str>) -> Result<Vec<u8>> {
    let failed = |e: safetensors::SafeTensorError| RunError::Wrong(format!("the weights cannot be written as safetensors: {e}"));
    let mut views = Vec::new();
    for (decl, bytes) in store.iter(roles) {
        let shape = decl.shape.iter().map(|&n| n as usize).collect();
        views.push((decl.path.to_string(), TensorView::new(dtype_name(decl.dtype), shape, bytes).map_err(failed)?));
    }
    // One entry only: the order of several would differ from run to run.
    let metadata = note.map(|n| HashMap::from([(NOTE.to_string(), n.to_string())]));
    safetensors::serialize(views, metadata).map_err(failed)
}

/// A tensor in a file.
struct Found<'a> {
    dtype: String,
    shape: Vec<i64>,
    bytes: Cow<'a, [u8]>,
}

/// Reads all tensors with one of the `roles` from safetensors `bytes` that come from `from`; returns our note. On an error nothing has changed.
///
/// # Errors
/// Not safetensors, or other tensors than the program's: all differences.
pub fn from_bytes(store: &mut Tensors, roles: &[Role], bytes: &[u8], from: &str) -> Result<Option<String>> {
    let refused = |e: safetensors::SafeTensorError| RunError::Wrong(format!("{from} is not a whole safetensors file: {e}"));
    let file = SafeTensors::deserialize(bytes).map_err(refused)?;
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(refused)?;
    let mut found = BTreeMap::new();
    for (name, view) in file.iter() {
        let dtype = format!("{:?}", view.dtype()).to_lowercase();
        let shape = view.shape().iter().map(|&n| n as i64).collect();
        found.insert(name.to_string(), Found { dtype, shape, bytes: view.data().into() });
    }
    fill(store, roles, found, from)?;
    Ok(metadata.metadata().as_ref().and_then(|m| m.get(NOTE).cloned()))
}

/// Our note in safetensors `bytes` that come from `from`.
///
/// # Errors
/// Not safetensors.
pub fn note(bytes: &[u8], from: &str) -> Result<Option<String>> {
    let refused = |e: safetensors::SafeTensorError| RunError::Wrong(format!("{from} is not a whole safetensors file: {e}"));
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(refused)?;
    Ok(metadata.metadata().as_ref().and_then(|m| m.get(NOTE).cloned()))
}

/// Reads parameters and states from a file: `.npz`, or else safetensors.
///
/// # Errors
/// Not readable, or other tensors than the program's: all differences.
pub fn load(store: &mut Tensors, path: &Path) -> Result<()> {
    let from = path.display().to_string();
    if path.extension().is_some_and(|e| e == "npz") {
        let arrays = crate::npy::read_npz(path)?;
        let found =
            arrays.iter().map(|(name, t)| (name.clone(), Found { dtype: t.dtype.to_string(), shape: t.shape.clone(), bytes: t.bytes().into() }));
        return fill(store, MODEL, found.collect(), &from);
    }
    from_bytes(store, MODEL, &crate::files::read(path)?, &from).map(drop)
}

/// Where all tensors belong to one model, files of other tools leave out its name.
fn with_prefix<'a>(store: &Places, roles: &[Role], found: BTreeMap<String, Found<'a>>) -> BTreeMap<String, Found<'a>> {
    let mut models: Vec<&str> = store.decls(roles).filter_map(|d| d.path.split('.').next()).collect();
    models.dedup();
    match models.as_slice() {
        [model] if !found.is_empty() && found.keys().all(|name| !name.starts_with(&format!("{model}."))) => {
            found.into_iter().map(|(name, tensor)| (format!("{model}.{name}"), tensor)).collect()
        }
        _ => found,
    }
}

/// Compares everything, then copies.
fn fill(store: &mut Tensors, roles: &[Role], found: BTreeMap<String, Found>, from: &str) -> Result<()> {
    let mut found = with_prefix(store, roles, found);
    let mut problems: Vec<String> = vec![];
    let mut copies: Vec<(usize, Cow<[u8]>)> = vec![];
    for i in (0..store.len()).filter(|&i| roles.contains(&store.decl(i).role)) {
        let decl = store.decl(i);
        match found.remove(&*decl.path) {
            None => problems.push(format!("missing: {} {}{:?}", decl.path, decl.dtype, decl.shape)),
            Some(t) if t.shape != decl.shape => {
                problems.push(format!("shape: {} is {:?} in the file, {:?} in the program", decl.path, t.shape, decl.shape))
            }
            Some(t) if t.dtype != decl.dtype.to_string() => {
                problems.push(format!("dtype: {} is {} in the file, {} in the program", decl.path, t.dtype, decl.dtype))
            }
            Some(t) if decl.dtype == DType::Bool && t.bytes.iter().any(|&b| b > 1) => {
                problems.push(format!("value: {} has bools that are neither 0 nor 1", decl.path))
            }
            Some(t) => copies.push((i, t.bytes)),
        }
    }
    problems.extend(found.iter().map(|(name, t)| format!("unexpected: {name} {}{:?}", t.dtype, t.shape)));
    if !problems.is_empty() {
        let s = if problems.len() == 1 { "" } else { "s" };
        return wrong!("{from} does not fit the program, {} difference{s}:\n  {}", problems.len(), problems.join("\n  "));
    }
    for (i, bytes) in copies {
        store.bytes_mut(i).copy_from_slice(&bytes);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::TensorDecl;

    fn decl(path: &str, shape: &[i64], role: Role) -> TensorDecl {
        TensorDecl { path: path.into(), dtype: DType::F32, shape: shape.to_vec(), role }
    }

    #[test]
    fn weights_round_trip_and_every_difference_is_listed() {
        let mut store =
            Tensors::new(&[decl("M.w", &[2], Role::Parameter), decl("M.b", &[1], Role::State), decl("fit/m/M.w", &[2], Role::Optimizer)]).unwrap();
        store.bytes_mut(0).copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        let bytes = to_bytes(&store, MODEL, Some("note")).unwrap();
        let mut other = Tensors::new(&[decl("M.w", &[2], Role::Parameter), decl("M.b", &[1], Role::State)]).unwrap();
        assert_eq!(from_bytes(&mut other, MODEL, &bytes, "f").unwrap().as_deref(), Some("note"));
        assert_eq!(other.bytes(0), store.bytes(0));
        let mut foreign = Tensors::new(&[decl("M.w", &[3], Role::Parameter), decl("M.c", &[], Role::Parameter)]).unwrap();
        let message = from_bytes(&mut foreign, MODEL, &bytes, "f").unwrap_err();
        assert_eq!(
            message.message(),
            "f does not fit the program, 3 differences:\n  shape: M.w is [2] in the file, [3] in the program\n  missing: M.c f32[]\n  unexpected: M.b f32[1]"
        );
        for cut in [0, 7, 20, bytes.len() - 1] {
            assert_eq!(from_bytes(&mut other, MODEL, &bytes[..cut], "f").unwrap_err().exit_code(), 1);
        }
    }
}
