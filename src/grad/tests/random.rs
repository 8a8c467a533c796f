//! Random programs: total, well formed, and right wherever the program is smooth.

use super::{backward, numbers, run};
use crate::ir::*;
use nnc_runtime::tensor::Tensor;

#[test]
fn random_programs() {
    let mut compared = 0;
    for seed in 0..300 {
        let case = generate::case(seed);
        // All floats are f64, so that differences mean something.
        let text = print::module(&case.module).replace("f32", "f64");
        let mut module = parse::module(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        module.entries.clear();
        let f = module.function(case.function).clone();
        let mut values = generate::inputs(&module, case.function, &case.dims, seed);
        for (k, value) in values.iter_mut().enumerate().filter(|(_, v)| v.dtype == DType::F64) {
            let count = value.len();
            value.as_f64_mut().copy_from_slice(&numbers(count, seed * 100 + k as u64));
        }
        let g = backward(&mut module, &f);
        let mut all = values.clone();
        for input in &g.inputs[values.len()..] {
            let shape = eval::sizes(&input.ty.shape, &case.dims).unwrap();
            let count = shape.iter().product::<i64>() as usize;
            all.push(Tensor::from_f64(&shape, &numbers(count, seed)));
        }
        let found = run(&module, &g, &all, &case.dims);
        let loss = |values: &[Tensor]| -> f64 {
            let results = run(&module, &f, values, &case.dims);
            let floats = results.iter().filter(|r| r.dtype == DType::F64);
            floats.zip(&all[values.len()..]).map(|(y, dy)| y.as_f64().iter().zip(dy.as_f64()).map(|(a, b)| a * b).sum::<f64>()).sum()
        };
        let middle = loss(&values);
        for (k, dx) in (0..values.len()).filter(|k| values[*k].dtype == DType::F64).zip(&found) {
            for i in 0..values[k].len() {
                let at = |delta: f64| {
                    let mut moved = values.clone();
                    moved[k].as_f64_mut()[i] += delta;
                    loss(&moved)
                };
                let slope = |h: f64| [(at(h) - middle) / h, (middle - at(-h)) / h];
                let slopes = [slope(1e-4), slope(1e-6)].concat();
                let close = |a: f64, b: f64| (a - b).abs() <= 1e-2 * (1.0 + b.abs());
                let expected = (at(1e-5) - at(-1e-5)) / 2e-5;
                // Only where it is smooth and of a moderate size.
                if middle.abs() > 1e3 || !slopes.iter().all(|s| close(*s, expected)) || expected.abs() > 1e3 {
                    continue;
                }
                compared += 1;
                let got = dx.as_f64()[i];
                let name = &f.inputs[k].name;
                assert!(
                    (got - expected).abs() <= 1e-4 * (1.0 + expected.abs()),
                    "seed {seed}: d{name}[{i}] = {got}, differences give {expected}\n{text}\n{}",
                    print::function(&module, &g)
                );
            }
        }
    }
    assert!(compared > 1000, "{compared} derivatives compared");
}
