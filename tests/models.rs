//! Every shipped model: each of its entries gives the same bits interpreted and compiled, at every code level and by a GPU that is played, in f32 and f64.

use crate::support::differences::{below, uniform};
use crate::support::{Named, Runnable, checked};
use nnc::ir::{DType, Dims};
use nnc_runtime::manifest::{Entry, Source};
use nnc_runtime::tensor::Tensor;

/// Inputs that every model takes: reals in [-1, 1), classes and words 0 or 1, the recipes' own scalars.
fn inputs(program: &Runnable, entry: &Entry, dims: &Dims) -> Named {
    let mut inputs = Named::new();
    let scalars = program.manifest.recipes.iter().flat_map(|r| &r.scalars);
    for (name, value) in
        scalars.map(|(n, v)| (n.to_string(), *v)).chain([("epoch", 1.0), ("steps", 9.0), ("steps_per_epoch", 9.0)].map(|(n, v)| (n.to_string(), v)))
    {
        inputs.insert(name, Tensor::from_f64(&[], &[value]));
    }
    for (source, buffer) in &entry.inputs {
        let decl = &entry.plan.buffers[*buffer as usize];
        let shape: Vec<i64> = decl.shape.iter().map(|s| s.eval(dims).unwrap()).collect();
        let reals = uniform(&shape, -1.0, 1.0, 5);
        let value = match (source, decl.dtype) {
            (Source::Data(_), DType::I64) => below(&shape, 2, 3),
            (Source::Data(_), DType::F64) => reals,
            (Source::Data(_), DType::F32) => Tensor::from_f32(&shape, &reals.as_f64().iter().map(|x| *x as f32).collect::<Vec<_>>()),
            // Accumulators' totals are the inputs of `finish`.
            (Source::Scalar(name), _) if !inputs.contains_key(&**name) => Tensor::from_f64(&[], &[3.0]),
            _ => continue,
        };
        let (Source::Data(name) | Source::Scalar(name)) = source else { continue };
        inputs.insert(name.to_string(), value);
    }
    inputs
}

#[test]
fn entries_give_the_same_bits_interpreted_and_compiled() {
    let mut ran = 0;
    for path in std::fs::read_dir("models").unwrap().map(|e| e.unwrap().path()) {
        // The large one is there to time the compiler; its blocks are those of tiny_gpt.
        if path.extension().is_none_or(|e| e != "nn") || path.ends_with("gpt.nn") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for real in [DType::F32, DType::F64] {
            let program = Runnable::with_gpu(&checked(&text, real));
            let dims: Dims = program.manifest.dims.iter().map(|d| (d.name.clone(), if &*d.name == "B" { 3 } else { 5 })).collect();
            let mut store = program.store();
            for entry in program.manifest.entries.clone() {
                let inputs = inputs(&program, &entry, &dims);
                let dims = if entry.name.starts_with("init") || entry.name.starts_with("finish") { Dims::new() } else { dims.clone() };
                let results = program.run(&entry.name, &dims, &mut store, &inputs);
                assert!(results.values().all(|t| t.scalars().iter().all(|s| !s.to_f64().is_nan())), "{}: {} has NaN", path.display(), entry.name);
                ran += 1;
            }
        }
    }
    assert!(ran > 100, "{ran} entries");
}
