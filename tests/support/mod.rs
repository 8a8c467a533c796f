//! What the tests share: a program from text to something that runs, by the interpreter and by machine code.

#![allow(dead_code, reason = "each test binary uses its part, so in one of them nothing is dead")]

pub mod desk;
pub mod differences;
pub mod given;

use nnc::driver::{self, Checked, Input, Lowered};
use nnc::emit::cuda;
use nnc::ir::{DType, Dims, Module};
use nnc_emulator::{Emulator, Order};
use nnc_runtime::exec::{Kernels, Prepared};
use nnc_runtime::loader::Loader;
use nnc_runtime::manifest::{Manifest, Sink, Source};
use nnc_runtime::pool::Pool;
use nnc_runtime::random::Generator;
use nnc_runtime::tensor::Tensor;
use nnc_runtime::tensors::Tensors;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Tensors by name.
pub type Named = BTreeMap<String, Tensor>;

/// Checks a program that imports nothing; panics with its diagnostics if it is wrong.
pub fn checked(text: &str, real: DType) -> Checked {
    let load = |_: &str| Err("there are no imports here".to_string());
    let checked = driver::check(&Input { name: "test.nn", text, load: &load, real, set: vec![] });
    assert!(checked.program.is_some() && checked.counts().0 == 0, "{}", checked.rendered(false));
    checked
}

/// The diagnostics of a wrong program, as text.
pub fn mistakes(text: &str) -> Result<String, String> {
    let load = |_: &str| Err("there is no such file".to_string());
    let checked = driver::check(&Input { name: "test.nn", text, load: &load, real: DType::F32, set: vec![] });
    if checked.counts().0 == 0 { Err("the program is accepted".into()) } else { Ok(checked.rendered(false)) }
}

/// Runs a law on every item and panics with all that break it, by name.
pub fn law<T>(items: &[T], name: impl Fn(&T) -> &str, holds: impl Fn(&T) -> Result<(), String>) {
    std::panic::set_hook(Box::new(|_| {}));
    let broken: Vec<String> = items
        .iter()
        .filter_map(|item| {
            let why = match catch_unwind(AssertUnwindSafe(|| holds(item))) {
                Ok(Ok(())) => return None,
                Ok(Err(why)) => why,
                Err(panic) => {
                    panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default()
                }
            };
            Some(format!("{}: {why}", name(item)))
        })
        .collect();
    let _ = std::panic::take_hook();
    assert!(broken.is_empty(), "{} of {}:\n{}", broken.len(), items.len(), broken.join("\n"));
}

/// Same shape, and `|got - want| <= atol + rtol |want|` everywhere; NaN equals NaN.
pub fn compare(name: &str, got: &Tensor, want: &Tensor, rtol: f64, atol: f64) -> Result<(), String> {
    if got.shape != want.shape {
        return Err(format!("{name} has shape {:?}, not {:?}", got.shape, want.shape));
    }
    for i in 0..got.len() {
        let (g, w) = (got.get(i).to_f64(), want.get(i).to_f64());
        let close = g == w || (g.is_nan() && w.is_nan()) || (g - w).abs() <= atol + rtol * w.abs();
        if !close {
            return Err(format!("{name}[{i}] is {g}, not {w}"));
        }
    }
    Ok(())
}

/// A program ready to run.
pub struct Runnable {
    /// Its table of contents.
    pub manifest: Manifest,
    /// Its kernels: interpreted, and native at every level of this CPU, the most demanding last; then those of a GPU, where asked for.
    pub kernels: Vec<(&'static str, Box<dyn Kernels>)>,
}

impl Runnable {
    /// From a checked program, through `change` of its graph.
    pub fn new(checked: &Checked, change: impl FnOnce(&mut Module)) -> Runnable {
        let program = checked.program.as_ref().unwrap();
        let mut module = driver::graph(program);
        change(&mut module);
        let lowered = driver::lower(module, &checked.sources);
        let manifest = driver::manifest(program, &lowered, &checked.sources);
        Runnable { kernels: both(&lowered, &manifest), manifest }
    }

    /// The same, with a GPU that is played.
    pub fn with_gpu(checked: &Checked) -> Runnable {
        let program = checked.program.as_ref().unwrap();
        let lowered = driver::lower(driver::graph(program), &checked.sources);
        let manifest = driver::manifest(program, &lowered, &checked.sources);
        let objects = cuda::emulated(&lowered.kernels, &manifest.kernels).unwrap();
        let mut kernels = both(&lowered, &manifest);
        for (name, blocks, order) in [("two blocks", 2, Order::Forward), ("three blocks", 3, Order::Random(11))] {
            let loader = Loader::new(objects.iter().map(|o| o.as_slice()), &manifest.kernels, "v3").unwrap();
            kernels.push((name, Box::new(Emulator::new(loader, cuda::THREADS as usize, blocks, order))));
        }
        Runnable { kernels, manifest }
    }

    /// Runs an entry by every set of kernels, asserts that all give the same bits, and returns its results by name.
    pub fn run(&self, entry: &str, dims: &Dims, store: &mut Tensors, inputs: &Named) -> Named {
        let entry = self.manifest.entries.iter().find(|e| &*e.name == entry).unwrap_or_else(|| panic!("no entry {entry}"));
        let before = store.snapshot().unwrap();
        let mut first: Option<(Named, Vec<Vec<u8>>)> = None;
        for (name, kernels) in &self.kernels {
            store.restore(&before);
            let mut pool = Pool::new(3);
            // Nor does it matter whether parts of it run one after the other.
            let prepare = if first.is_some() { Prepared::new } else { Prepared::whole };
            let mut prepared = prepare(&self.manifest, entry, dims, 3, store).unwrap_or_else(|e| panic!("{}", e.message()));
            // Machine code runs on whatever schedule: no result depends on it.
            if first.is_some() {
                let mut random = Generator::new(prepared.arena_bytes() as u64 + name.len() as u64);
                prepared.reschedule(&mut || random.below(60_000) as f64);
            }
            for i in 0..prepared.inputs().len() {
                let port = prepared.inputs()[i].clone();
                let tensor = match &port.end {
                    Source::Data(n) | Source::Scalar(n) => inputs.get(&**n).unwrap_or_else(|| panic!("no input {n}")).clone(),
                    Source::Step => inputs.get("step").cloned().unwrap_or_else(|| Tensor::from_i64(&[], &[1])),
                    Source::Key => inputs.get("key").cloned().unwrap_or_else(|| Tensor::from_i64(&[], &[7])),
                    Source::Tensor(_) => continue,
                };
                assert_eq!((tensor.dtype, &tensor.shape), (port.dtype, &port.shape), "{:?}", port.end);
                prepared.input_mut(i).copy_from_slice(tensor.bytes());
            }
            prepared.run(kernels.as_ref(), &mut pool, store).unwrap_or_else(|e| panic!("{name}: {}", e.message()));
            let mut results = Named::new();
            for (i, port) in prepared.results().iter().enumerate() {
                let key = match &port.end {
                    Sink::Result(n) | Sink::Accumulate(n) | Sink::Tensor(n) => n.to_string(),
                };
                let mut tensor = Tensor::zeros(port.dtype, &port.shape);
                tensor.bytes_mut().copy_from_slice(prepared.result(i, store));
                results.insert(key, tensor);
            }
            let stored: Vec<Vec<u8>> = (0..store.len()).map(|i| store.bytes(i).to_vec()).collect();
            match &first {
                None => first = Some((results, stored)),
                Some((expected, _)) => {
                    for (key, tensor) in &results {
                        assert!(tensor.same(&expected[key]), "{}: {key} by {name} differs from the interpreter's", entry.name);
                    }
                }
            }
        }
        first.unwrap().0
    }

    /// Freshly zeroed tensors of the program.
    pub fn store(&self) -> Tensors {
        Tensors::new(&self.manifest.tensors).unwrap_or_else(|e| panic!("{}", e.message()))
    }
}

/// The interpreter, and machine code for every level that this CPU has.
fn both(lowered: &Lowered, manifest: &Manifest) -> Vec<(&'static str, Box<dyn Kernels>)> {
    let interpreted = nnc::kernel::interpret::Interpreter::new(lowered.kernels.clone());
    let objects = nnc::emit::compile(&lowered.kernels, &manifest.kernels, &[nnc::emit::Level::V3, nnc::emit::Level::V4]).unwrap();
    let mut all: Vec<(&'static str, Box<dyn Kernels>)> = vec![("interpreter", Box::new(interpreted))];
    for level in nnc_runtime::loader::levels() {
        let native = Loader::new(objects.iter().map(|o| o.as_slice()), &manifest.kernels, level).unwrap();
        all.push((level, Box::new(native)));
    }
    all
}
