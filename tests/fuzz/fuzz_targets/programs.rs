//! Graphs that the bytes choose: evaluator = passes = interpreted kernels = machine code of every level, bit for bit.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nnc::emit::{self, Level};
use nnc::ir::{Dims, Module, eval, generate, print};
use nnc::kernel::{self, interpret::Interpreter};
use nnc::span::Sources;
use nnc::{passes, plan};
use nnc_runtime::exec::{Kernels, Prepared};
use nnc_runtime::loader::{self, Loader};
use nnc_runtime::manifest::{DimDecl, Manifest, Source, VERSION};
use nnc_runtime::pool::Pool;
use nnc_runtime::tensor::Tensor;
use nnc_runtime::tensors::Tensors;

fuzz_target!(|data: &[u8]| {
    let case = generate::chosen(data);
    let evaluate = |module: &Module| eval::function(module, module.entries[0].function, &case.inputs, &case.dims).expect("such programs evaluate");
    let before = evaluate(&case.module);
    let module = passes::optimise(case.module.clone());
    same("the passes", &before, &evaluate(&module), &case.module);
    let module = passes::declare(passes::optimise(passes::define(case.module.clone())));
    let expected = evaluate(&module);
    let lowered = kernel::lower(&module);
    let (kernels, entries) = plan::plan(&module, &lowered, &Sources::default());
    let manifest = Manifest {
        version: VERSION,
        dims: module.dims.iter().map(|d| DimDecl { name: d.name.clone(), min: d.min, max: d.max }).collect(),
        kernels: kernels.iter().enumerate().map(|(i, k)| emit::declare(&format!("k{i}_{}", k.name), k)).collect(),
        entries,
        ..Manifest::default()
    };
    let objects = emit::compile(&kernels, &manifest.kernels, &Level::ALL).expect("LLVM takes it");
    let interpreter = Interpreter::new(kernels);
    same("the interpreter", &expected, &run(&manifest, &interpreter, &case.dims, &case.inputs), &module);
    for level in loader::levels() {
        let native = Loader::new(objects.iter().map(Vec::as_slice), &manifest.kernels, level).expect("code of our own");
        same(level, &expected, &run(&manifest, &native, &case.dims, &case.inputs), &module);
    }
});

fn same(who: &str, expected: &[Tensor], found: &[Tensor], module: &Module) {
    assert_eq!(expected.len(), found.len());
    for (n, (a, b)) in expected.iter().zip(found).enumerate() {
        assert!(a.same(b), "result {n} by {who} is\n{:?}, not\n{:?}\n{}", b.scalars(), a.scalars(), print::module(module));
    }
}

/// The results of the only entry, on a schedule of its own.
fn run(manifest: &Manifest, kernels: &dyn Kernels, dims: &Dims, inputs: &[Tensor]) -> Vec<Tensor> {
    let mut store = Tensors::new(&[]).expect("no tensors");
    let mut pool = Pool::new(2);
    let mut prepared = Prepared::new(manifest, &manifest.entries[0], dims, 2, &store).unwrap_or_else(|e| panic!("{}", e.message()));
    let mut random = generate::Random::new(inputs.len() as u64);
    prepared.reschedule(&mut || random.below(60_000) as f64);
    for i in 0..prepared.inputs().len() {
        let Source::Data(name) = &prepared.inputs()[i].end else { panic!("inputs are data") };
        let number: usize = name.trim_start_matches('x').parse().expect("inputs are called x0, x1, ...");
        prepared.input_mut(i).copy_from_slice(inputs[number].bytes());
    }
    prepared.run(kernels, &mut pool, &mut store).unwrap_or_else(|e| panic!("{}", e.message()));
    let result = |(i, port): (usize, &nnc_runtime::exec::Port<_>)| {
        let mut tensor = Tensor::zeros(port.dtype, &port.shape);
        tensor.bytes_mut().copy_from_slice(prepared.result(i, &store));
        tensor
    };
    prepared.results().iter().enumerate().map(result).collect()
}
