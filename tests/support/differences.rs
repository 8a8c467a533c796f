//! Derivatives against central differences in f64.

use super::{Named, Runnable, checked};
use nnc::ir::{DType, Dims};
use nnc_runtime::manifest::{Role, Source};
use nnc_runtime::random::Generator;
use nnc_runtime::tensor::Tensor;
use nnc_runtime::tensors::Tensors;

/// Uniform in [lo, hi), from a seed.
pub fn uniform(shape: &[i64], lo: f64, hi: f64, seed: u64) -> Tensor {
    let mut generator = Generator::new(seed);
    let n = shape.iter().product::<i64>();
    let values: Vec<f64> = (0..n).map(|_| lo + (hi - lo) * (generator.draw() >> 11) as f64 / (1u64 << 53) as f64).collect();
    Tensor::from_f64(shape, &values)
}

/// Whole numbers in 0..n, from a seed.
pub fn below(shape: &[i64], n: i64, seed: u64) -> Tensor {
    let mut generator = Generator::new(seed);
    let values: Vec<i64> = (0..shape.iter().product::<i64>()).map(|_| generator.below(n as usize) as i64).collect();
    Tensor::from_i64(shape, &values)
}

/// Checks every derivative of a model's float inputs and parameters, at the given inputs, random parameters and random cotangents. `text` holds one model, called `M`.
/// Integer inputs must be given; float inputs that are missing are drawn from [-1, 1).
pub fn check_gradients(text: &str, dims: &[(&str, i64)], inputs: &Named) {
    let dims: Dims = dims.iter().map(|(n, v)| ((*n).into(), *v)).collect();
    let program = Runnable::new(&checked(text, DType::F64), |module| nnc::driver::add_derivative(module, "M"));
    let entry = program.manifest.entries.iter().find(|e| &*e.name == "derivative:M").unwrap();
    let mut store = random_store(&program);
    let mut inputs = inputs.clone();
    for (source, buffer) in &entry.inputs {
        let decl = &entry.plan.buffers[*buffer as usize];
        if let (Source::Data(name), true) = (source, decl.dtype.is_float()) {
            let shape: Vec<i64> = decl.shape.iter().map(|s| s.eval(&dims).unwrap()).collect();
            let seed = name.bytes().fold(17u64, |h, b| h.wrapping_mul(31).wrapping_add(b as u64));
            inputs.entry(name.to_string()).or_insert_with(|| uniform(&shape, -1.0, 1.0, seed));
        }
    }
    let derived = program.run("derivative:M", &dims, &mut store, &inputs);
    // The scalar whose derivative was asked for: results times their cotangents.
    let value = |program: &Runnable, store: &mut Tensors, inputs: &Named| -> f64 {
        let results = program.run("infer:M", &dims, store, inputs);
        let products = results.iter().filter(|(_, t)| t.dtype == DType::F64).map(|(name, t)| {
            let cotangent = &inputs[&format!("d.{name}")];
            std::iter::zip(t.as_f64(), cotangent.as_f64()).map(|(a, b)| a * b).sum::<f64>()
        });
        products.sum()
    };
    let mut fast = Runnable { manifest: program.manifest.clone(), kernels: vec![] };
    fast.kernels = program.kernels.into_iter().next_back().into_iter().collect();
    let step = 1e-5;
    let mut compared = 0;
    let names: Vec<String> = derived.keys().filter_map(|k| k.strip_prefix("grad.").map(String::from)).collect();
    for name in names {
        let gradient = &derived[&format!("grad.{name}")];
        // A few elements of each tensor, spread evenly, always the first and the last.
        let picks: Vec<usize> =
            if gradient.len() <= 12 { (0..gradient.len()).collect() } else { (0..12).map(|i| i * (gradient.len() - 1) / 11).collect() };
        for i in picks {
            let mut moved = |by: f64| {
                if let Some(at) = store.find(&name) {
                    let before = store.bytes(at).to_vec();
                    let cell = &mut store.bytes_mut(at)[i * 8..i * 8 + 8];
                    let x = f64::from_le_bytes((&*cell).try_into().unwrap());
                    cell.copy_from_slice(&(x + by).to_le_bytes());
                    let y = value(&fast, &mut store, &inputs);
                    store.bytes_mut(at).copy_from_slice(&before);
                    y
                } else {
                    let mut changed = inputs.clone();
                    changed.get_mut(&name).unwrap().as_f64_mut()[i] += by;
                    value(&fast, &mut store, &changed)
                }
            };
            let want = (moved(step) - moved(-step)) / (2.0 * step);
            let got = gradient.as_f64()[i];
            assert!((got - want).abs() <= 1e-6 + 1e-5 * want.abs().max(got.abs()), "grad.{name}[{i}] is {got}, differences give {want}\n{text}");
            compared += 1;
        }
    }
    assert!(compared > 0, "nothing was compared\n{text}");
}

/// Parameters drawn from [-0.7, 0.7), states from [0.5, 1.5).
pub fn random_store(program: &Runnable) -> Tensors {
    let mut store = program.store();
    for at in 0..store.len() {
        let decl = store.decl(at).clone();
        if decl.dtype == DType::F64 {
            let (lo, hi) = if decl.role == Role::Parameter { (-0.7, 0.7) } else { (0.5, 1.5) };
            store.bytes_mut(at).copy_from_slice(uniform(&decl.shape, lo, hi, 1000 + at as u64).bytes());
        }
    }
    store
}
