//! `import nnc`: [`nnc_runtime::model::Model`] for Python, with NumPy's arrays in and out. While the model works, other threads of Python run.
//!
//! Arrays are copied in and out by NumPy's own `tobytes` and `frombuffer`, so that neither NumPy's version nor Python's matters to the binary.

use nnc_runtime::dtype::DType;
use nnc_runtime::error::RunError;
use nnc_runtime::model::{Arrays, Metrics};
use nnc_runtime::tensor::Tensor;
use pyo3::exceptions::{PyKeyboardInterrupt, PyNotImplementedError, PyOSError, PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDict};
use std::path::PathBuf;
use std::sync::Mutex;

fn exception(error: RunError) -> PyErr {
    let text = error.message().to_string();
    match error {
        RunError::Wrong(_) | RunError::Usage(_) => PyValueError::new_err(text),
        RunError::Unsupported(_) => PyNotImplementedError::new_err(text),
        RunError::World(_) => PyOSError::new_err(text),
        RunError::Interrupted(_) => PyKeyboardInterrupt::new_err(text),
    }
}

/// NumPy's names of our types.
fn name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float32",
        DType::F64 => "float64",
        DType::I64 => "int64",
        DType::Bool => "bool",
    }
}

/// Whatever NumPy makes an array of; narrower numbers become ours.
fn tensor(of: &str, value: &Bound<PyAny>) -> PyResult<Tensor> {
    let numpy = value.py().import("numpy")?;
    let array = numpy.call_method1("asarray", (value,))?;
    let given: String = array.getattr("dtype")?.getattr("name")?.extract()?;
    let dtype = match given.as_str() {
        "float32" | "float16" => DType::F32,
        "float64" => DType::F64,
        "int64" | "int32" | "int16" | "int8" | "uint32" | "uint16" | "uint8" => DType::I64,
        "bool" => DType::Bool,
        other => return Err(PyTypeError::new_err(format!("{of} has the type {other}, which is no number that programs take"))),
    };
    let array = if given == name(dtype) { array } else { array.call_method1("astype", (name(dtype),))? };
    let shape: Vec<i64> = array.getattr("shape")?.extract()?;
    let bytes = array.call_method0("tobytes")?;
    let mut made = Tensor::zeros(dtype, &shape);
    made.bytes_mut().copy_from_slice(bytes.cast::<PyBytes>()?.as_bytes());
    Ok(made)
}

fn array<'py>(py: Python<'py>, tensor: &Tensor) -> PyResult<Bound<'py, PyAny>> {
    let bytes = PyByteArray::new(py, tensor.bytes());
    py.import("numpy")?.call_method1("frombuffer", (bytes, name(tensor.dtype)))?.call_method1("reshape", (tensor.shape.clone(),))
}

/// A compiled program with its weights.
#[pyclass(frozen, module = "nnc")]
struct Model(Mutex<nnc_runtime::model::Model>);

impl Model {
    /// Works on the model, while Python goes on.
    fn with<T: Send>(&self, py: Python, work: impl FnOnce(&mut nnc_runtime::model::Model) -> nnc_runtime::error::Result<T> + Send) -> PyResult<T> {
        let broken = || RunError::Wrong(String::new());
        let ended = py.detach(|| match self.0.lock() {
            Ok(mut model) => Ok(work(&mut model)),
            Err(_) => Err(broken()),
        });
        match ended {
            Ok(ended) => ended.map_err(exception),
            Err(_) => Err(PyRuntimeError::new_err("the model is broken by an earlier failure of nnc: load it again")),
        }
    }

    /// A recipe's metrics.
    fn recipe<'py>(
        &self,
        py: Python<'py>,
        recipe: Option<String>,
        columns: Option<&Bound<'py, PyDict>>,
        work: fn(&mut nnc_runtime::model::Model, Option<&str>, &Arrays) -> nnc_runtime::error::Result<Metrics>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let given = tensors(columns)?;
        let metrics = self.with(py, |model| work(model, recipe.as_deref(), &borrowed(&given)))?;
        let named = PyDict::new(py);
        metrics.iter().try_for_each(|(name, value)| named.set_item(&**name, *value))?;
        Ok(named)
    }
}

fn tensors(arrays: Option<&Bound<PyDict>>) -> PyResult<Vec<(String, Tensor)>> {
    let Some(arrays) = arrays else { return Ok(vec![]) };
    let one = |(name, value): (Bound<PyAny>, Bound<PyAny>)| {
        let name: String = name.extract()?;
        let tensor = tensor(&name, &value)?;
        Ok((name, tensor))
    };
    arrays.iter().map(one).collect()
}

fn borrowed(given: &[(String, Tensor)]) -> Vec<(&str, &Tensor)> {
    given.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect()
}

#[pymethods]
impl Model {
    /// infer(model=None, /, **inputs) -> dict of arrays. `model` may be left out where there is only one.
    #[pyo3(signature = (model=None, /, **inputs))]
    fn infer<'py>(&self, py: Python<'py>, model: Option<String>, inputs: Option<&Bound<'py, PyDict>>) -> PyResult<Bound<'py, PyDict>> {
        let given = tensors(inputs)?;
        let results = self.with(py, |inside| inside.infer(model.as_deref(), &borrowed(&given)))?;
        let named = PyDict::new(py);
        results.iter().try_for_each(|(name, tensor)| named.set_item(name, array(py, tensor)?))?;
        Ok(named)
    }

    /// train_step(recipe=None, /, **columns) -> dict of metrics. A step of the optimizer on one batch; the first axis are samples.
    #[pyo3(signature = (recipe=None, /, **columns))]
    fn train_step<'py>(&self, py: Python<'py>, recipe: Option<String>, columns: Option<&Bound<'py, PyDict>>) -> PyResult<Bound<'py, PyDict>> {
        self.recipe(py, recipe, columns, nnc_runtime::model::Model::train_step)
    }

    /// train_epoch(recipe=None, /, **columns) -> dict of metrics. A pass over all samples in the recipe's batches, shuffled as the recipe says.
    #[pyo3(signature = (recipe=None, /, **columns))]
    fn train_epoch<'py>(&self, py: Python<'py>, recipe: Option<String>, columns: Option<&Bound<'py, PyDict>>) -> PyResult<Bound<'py, PyDict>> {
        self.recipe(py, recipe, columns, nnc_runtime::model::Model::train_epoch)
    }

    /// eval(recipe=None, /, **columns) -> dict of metrics of all samples.
    #[pyo3(signature = (recipe=None, /, **columns))]
    fn eval<'py>(&self, py: Python<'py>, recipe: Option<String>, columns: Option<&Bound<'py, PyDict>>) -> PyResult<Bound<'py, PyDict>> {
        self.recipe(py, recipe, columns, nnc_runtime::model::Model::eval)
    }

    /// Changes a recipe's setting: set("optimizer.lr", 0.01).
    #[pyo3(signature = (setting, value, recipe=None))]
    fn set(&self, py: Python, setting: String, value: &Bound<PyAny>, recipe: Option<String>) -> PyResult<()> {
        let text = value.str()?.to_string();
        let text = if text == "True" || text == "False" { text.to_lowercase() } else { text };
        self.with(py, |model| model.set(recipe.as_deref(), &setting, &text))
    }

    /// The size of a free dim that no array's shape decides.
    fn set_dim(&self, py: Python, name: String, size: i64) -> PyResult<()> {
        self.with(py, |model| model.set_dim(&name, size))
    }

    /// So many threads; no result depends on it.
    fn set_threads(&self, py: Python, threads: usize) -> PyResult<()> {
        self.with(py, |model| model.set_threads(threads))
    }

    /// Initial weights, drawn from the seed.
    fn initialise(&self, py: Python, seed: u64) -> PyResult<()> {
        self.with(py, |model| model.initialise(seed))
    }

    /// Weights from a file (.safetensors, .npz).
    fn load_weights(&self, py: Python, path: PathBuf) -> PyResult<()> {
        self.with(py, |model| model.load_weights(&path))
    }

    /// Weights to a file (.safetensors).
    fn save_weights(&self, py: Python, path: PathBuf) -> PyResult<()> {
        self.with(py, |model| model.save_weights(&path))
    }

    /// The artifact with the present weights inside, to a file (.nnc).
    fn save(&self, py: Python, path: PathBuf) -> PyResult<()> {
        self.with(py, |model| model.save(&path))
    }

    /// Parameters and states by path, copied.
    fn tensors<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let all = self.with(py, |model| {
            let paths: Vec<String> = model.tensors().map(|(path, ..)| path.to_string()).collect();
            paths.into_iter().map(|path| Ok((model.tensor(&path)?, path))).collect::<nnc_runtime::error::Result<Vec<_>>>()
        })?;
        let named = PyDict::new(py);
        all.iter().try_for_each(|(tensor, path)| named.set_item(path, array(py, tensor)?))?;
        Ok(named)
    }

    /// What can be inferred, a line a model.
    #[getter]
    fn models(&self, py: Python) -> PyResult<Vec<String>> {
        self.with(py, |model| Ok(model.models().iter().map(|s| s.to_string()).collect()))
    }

    /// What can be trained and evaluated, a line a recipe.
    #[getter]
    fn recipes(&self, py: Python) -> PyResult<Vec<String>> {
        self.with(py, |model| Ok(model.recipes().iter().map(|s| s.to_string()).collect()))
    }

    fn __repr__(&self, py: Python) -> PyResult<String> {
        let source = self.with(py, |model| Ok(model.source().to_string()))?;
        Ok(format!("<nnc.Model of {source}: {}>", [self.models(py)?, self.recipes(py)?].concat().join("; ")))
    }
}

/// load(path) -> Model. Loads an artifact (.nnc), with the weights that are inside.
#[pyfunction]
fn load(py: Python, path: PathBuf) -> PyResult<Model> {
    let model = py.detach(|| nnc_runtime::model::Model::open(&path)).map_err(exception)?;
    Ok(Model(Mutex::new(model)))
}

/// Runs what nnc has compiled.
#[pymodule]
fn nnc(module: &Bound<PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_class::<Model>()?;
    module.add_function(wrap_pyfunction!(load, module)?)
}
