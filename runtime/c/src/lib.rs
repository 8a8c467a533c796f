//! `libnnc`: [`nnc_runtime::model::Model`] for C, as `nnc.h` says. Every pointer is looked at for null, every text for UTF-8, every shape for sense; no panic
//! crosses the border. What cannot be looked at is the caller's duty: that pointers lead to as much as they say.

use nnc_runtime::dtype::DType;
use nnc_runtime::error::{Result, RunError};
use nnc_runtime::model::{Arrays, Metrics, Model};
use nnc_runtime::tensor::Tensor;
use nnc_runtime::tensors::elements;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{null, null_mut};
use std::sync::{Mutex, TryLockError};

/// `nnc_status`
type Status = i32;
const BROKEN: Status = 5;

const DTYPES: [DType; 4] = [DType::F32, DType::F64, DType::I64, DType::Bool];

/// `nnc_array`
#[repr(C)]
pub struct Array {
    name: *const c_char,
    dtype: i32,
    rank: usize,
    shape: *const i64,
    data: *const c_void,
}

/// `nnc_model`
pub struct Handle(Mutex<Inside>);

struct Inside {
    model: Model,
    results: Vec<(CString, Tensor)>,
    /// Into `results`.
    arrays: Vec<Array>,
}

// SAFETY: the pointers lead into `results`, which move along on the heap and are only written with the whole.
unsafe impl Send for Inside {}

thread_local! {
    static ERROR: RefCell<CString> = RefCell::default();
}

/// Runs what may fail, and keeps what it says.
fn guarded(work: impl FnOnce() -> Result<()>) -> Status {
    let (status, text) = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => (0, String::new()),
        Ok(Err(error)) => (error.exit_code().min(BROKEN as u8 - 1).into(), error.message().to_string()),
        Err(_) => (BROKEN, "nnc has failed, which is a mistake of nnc itself".into()),
    };
    ERROR.with(|e| *e.borrow_mut() = c_text(&text));
    status
}

fn c_text(text: &str) -> CString {
    CString::new(text.replace('\0', " ")).unwrap_or_default()
}

fn usage<T>(text: String) -> Result<T> {
    Err(RunError::Usage(text))
}

/// Works on a model. A panic while it is locked poisons it, and it is refused from then on.
///
/// # Safety
/// `model` is null or comes from `nnc_open`, and is not closed.
unsafe fn with(model: *mut Handle, work: impl FnOnce(&mut Inside) -> Result<()>) -> Status {
    guarded(|| {
        // SAFETY: the caller's.
        let Some(Handle(inside)) = (unsafe { model.as_ref() }) else { return usage("the model is NULL".into()) };
        match inside.try_lock() {
            Ok(mut inside) => work(&mut inside),
            Err(TryLockError::WouldBlock) => usage("the model is in use by another thread: one thread at a time".into()),
            Err(TryLockError::Poisoned(_)) => usage("the model is broken by an earlier failure of nnc: close it".into()),
        }
    })
}

/// A text that may be null.
///
/// # Safety
/// `text` is null or ends in a zero.
unsafe fn optional<'a>(text: *const c_char, what: &str) -> Result<Option<&'a str>> {
    if text.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's.
    match unsafe { CStr::from_ptr(text) }.to_str() {
        Ok(text) => Ok(Some(text)),
        Err(_) => usage(format!("{what} is not UTF-8 text")),
    }
}

/// A text.
///
/// # Safety
/// As [`optional`].
unsafe fn text<'a>(text: *const c_char, what: &str) -> Result<&'a str> {
    // SAFETY: the caller's.
    unsafe { optional(text, what) }?.map_or_else(|| usage(format!("{what} is NULL")), Ok)
}

/// Copies of arrays.
///
/// # Safety
/// `arrays` is null or leads to `count` arrays whose pointers are null or lead to what they say.
unsafe fn copies<'a>(arrays: *const Array, count: usize) -> Result<Vec<(&'a str, Tensor)>> {
    if arrays.is_null() && count > 0 {
        return usage(format!("the arrays are NULL, but there are to be {count}"));
    }
    let mut made = vec![];
    for i in 0..count {
        // SAFETY: the caller's.
        let array = unsafe { &*arrays.add(i) };
        // SAFETY: the caller's.
        let name = unsafe { text(array.name, "an array's name") }?;
        let dtype = usize::try_from(array.dtype).ok().and_then(|n| DTYPES.get(n).copied());
        let Some(dtype) = dtype else { return usage(format!("{name} has the type {}, which is none of NNC_F32 to NNC_BOOL", array.dtype)) };
        if array.rank > 64 || array.shape.is_null() && array.rank > 0 {
            return usage(format!("{name} has {} axes{}", array.rank, if array.shape.is_null() { ", but its shape is NULL" } else { "" }));
        }
        // SAFETY: the caller's; an empty slice needs a pointer that is not null.
        let shape = if array.rank == 0 { &[] } else { unsafe { std::slice::from_raw_parts(array.shape, array.rank) } };
        let bytes = elements(shape).or_else(|_| usage(format!("{name} has the shape {shape:?}")))? * dtype.bytes();
        if array.data.is_null() && bytes > 0 {
            return usage(format!("the data of {name} are NULL"));
        }
        let mut tensor = Tensor::zeros(dtype, shape);
        if bytes > 0 {
            // SAFETY: the caller's.
            let from = unsafe { std::slice::from_raw_parts(array.data.cast::<u8>(), bytes) };
            if dtype == DType::Bool && from.iter().any(|&b| b > 1) {
                return usage(format!("{name} has bools that are neither 0 nor 1"));
            }
            tensor.bytes_mut().copy_from_slice(from);
        }
        made.push((name, tensor));
    }
    Ok(made)
}

impl Inside {
    fn give(&mut self, results: Vec<(String, Tensor)>) {
        self.arrays.clear();
        self.results = results.into_iter().map(|(name, tensor)| (c_text(&name), tensor)).collect();
        let array = |(name, t): &(CString, Tensor)| Array {
            name: name.as_ptr(),
            dtype: DTYPES.iter().position(|d| *d == t.dtype).unwrap_or(0) as i32,
            rank: t.shape.len(),
            shape: if t.shape.is_empty() { null() } else { t.shape.as_ptr() },
            data: t.bytes().as_ptr().cast(),
        };
        self.arrays = self.results.iter().map(array).collect();
    }
}

fn open(model: *mut *mut Handle, load: impl FnOnce() -> Result<Model>) -> Status {
    guarded(|| {
        // SAFETY: null or a place for a pointer, as nnc.h says.
        let Some(place) = (unsafe { model.as_mut() }) else { return usage("there is no place for the model: NULL".into()) };
        *place = null_mut();
        let inside = Inside { model: load()?, results: vec![], arrays: vec![] };
        *place = Box::into_raw(Box::new(Handle(Mutex::new(inside))));
        Ok(())
    })
}

/// See nnc.h.
#[unsafe(no_mangle)]
pub extern "C" fn nnc_error() -> *const c_char {
    ERROR.with(|e| e.borrow().as_ptr())
}

/// See nnc.h.
///
/// # Safety
/// As nnc.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nnc_open(path: *const c_char, model: *mut *mut Handle) -> Status {
    // SAFETY: the caller's.
    open(model, || Model::open(unsafe { text(path, "the path") }?))
}

/// See nnc.h.
///
/// # Safety
/// As nnc.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nnc_open_memory(bytes: *const c_void, size: usize, model: *mut *mut Handle) -> Status {
    open(model, || {
        if bytes.is_null() {
            return usage("the artifact is NULL".into());
        }
        // SAFETY: the caller's.
        Model::from_bytes(unsafe { std::slice::from_raw_parts(bytes.cast(), size) })
    })
}

/// See nnc.h.
///
/// # Safety
/// As nnc.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nnc_close(model: *mut Handle) {
    if !model.is_null() {
        // SAFETY: the caller's: from `nnc_open`, and never used again.
        guarded(|| {
            drop(unsafe { Box::from_raw(model) });
            Ok(())
        });
    }
}

/// See nnc.h.
///
/// # Safety
/// As nnc.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nnc_set_threads(model: *mut Handle, threads: usize) -> Status {
    // SAFETY: the caller's.
    unsafe { with(model, |inside| inside.model.set_threads(threads)) }
}

/// See nnc.h.
///
/// # Safety
/// As nnc.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nnc_set_dim(model: *mut Handle, name: *const c_char, size: i64) -> Status {
    // SAFETY: the caller's.
    unsafe { with(model, |inside| inside.model.set_dim(text(name, "the dim's name")?, size)) }
}

/// See nnc.h.
///
/// # Safety
/// As nnc.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nnc_infer(model: *mut Handle, name: *const c_char, inputs: *const Array, count: usize) -> Status {
    // SAFETY: the caller's.
    unsafe {
        with(model, |inside| {
            let (name, given) = (optional(name, "the model's name")?, copies(inputs, count)?);
            let results = inside.model.infer(name, &borrowed(&given))?;
            inside.give(results);
            Ok(())
        })
    }
}

fn borrowed<'a>(given: &'a [(&'a str, Tensor)]) -> Vec<(&'a str, &'a Tensor)> {
    given.iter().map(|(name, tensor)| (*name, tensor)).collect()
}

/// What a recipe does with columns.
type Recipe = fn(&mut Model, Option<&str>, &Arrays) -> Result<Metrics>;

/// # Safety
/// As nnc.h says of the functions that call it.
unsafe fn recipe(model: *mut Handle, recipe: *const c_char, columns: *const Array, count: usize, work: Recipe) -> Status {
    // SAFETY: the caller's.
    unsafe {
        with(model, |inside| {
            let (name, given) = (optional(recipe, "the recipe's name")?, copies(columns, count)?);
            let metrics = work(&mut inside.model, name, &borrowed(&given))?;
            inside.give(metrics.iter().map(|(name, value)| (name.to_string(), Tensor::from_f64(&[], &[*value]))).collect());
            Ok(())
        })
    }
}

/// See nnc.h.
///
/// # Safety
/// As nnc.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nnc_train_step(model: *mut Handle, name: *const c_char, columns: *const Array, count: usize) -> Status {
    // SAFETY: the caller's.
    unsafe { recipe(model, name, columns, count, Model::train_step) }
}

/// See nnc.h.
///
/// # Safety
/// As nnc.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nnc_train_epoch(model: *mut Handle, name: *const c_char, columns: *const Array, count: usize) -> Status {
    // SAFETY: the caller's.
    unsafe { recipe(model, name, columns, count, Model::train_epoch) }
}

/// See nnc.h.
///
/// # Safety
/// As nnc.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nnc_eval(model: *mut Handle, name: *const c_char, columns: *const Array, count: usize) -> Status {
    // SAFETY: the caller's.
    unsafe { recipe(model, name, columns, count, Model::eval) }
}

/// See nnc.h.
///
/// # Safety
/// As nnc.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nnc_set(model: *mut Handle, recipe: *const c_char, setting: *const c_char, value: *const c_char) -> Status {
    // SAFETY: the caller's.
    unsafe {
        with(model, |inside| inside.model.set(optional(recipe, "the recipe's name")?, text(setting, "the setting")?, text(value, "the value")?))
    }
}

/// See nnc.h.
///
/// # Safety
/// As nnc.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nnc_results(model: *mut Handle, count: *mut usize) -> *const Array {
    let mut found = (null(), 0);
    // SAFETY: the caller's.
    unsafe {
        with(model, |inside| {
            found = (inside.arrays.as_ptr(), inside.arrays.len());
            Ok(())
        });
        if let Some(count) = count.as_mut() {
            *count = found.1;
        }
    }
    if found.1 == 0 { null() } else { found.0 }
}

/// See nnc.h.
///
/// # Safety
/// As nnc.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nnc_initialise(model: *mut Handle, seed: u64) -> Status {
    // SAFETY: the caller's.
    unsafe { with(model, |inside| inside.model.initialise(seed)) }
}

/// See nnc.h.
///
/// # Safety
/// As nnc.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nnc_load_weights(model: *mut Handle, path: *const c_char) -> Status {
    // SAFETY: the caller's.
    unsafe { with(model, |inside| inside.model.load_weights(text(path, "the path")?)) }
}

/// See nnc.h.
///
/// # Safety
/// As nnc.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nnc_save_weights(model: *mut Handle, path: *const c_char) -> Status {
    // SAFETY: the caller's.
    unsafe { with(model, |inside| inside.model.save_weights(text(path, "the path")?)) }
}

/// See nnc.h.
///
/// # Safety
/// As nnc.h says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nnc_save(model: *mut Handle, path: *const c_char) -> Status {
    // SAFETY: the caller's.
    unsafe { with(model, |inside| inside.model.save(text(path, "the path")?)) }
}
