//! Random programs: total, well formed, and right wherever the program is smooth.

use super::{backward, numbers, run};
use crate::ir::*;
use nnc_runtime::tensor::Tensor;

/// How many programs.
const SEEDS: u64 = 100;

/// The program with f64 for every f32, so that differences mean something.
fn widened(module: &Module) -> Module {
    let mut module = Module { entries: vec![], ..module.clone() };
    for f in &mut module.functions {
        f.inputs.iter_mut().for_each(|i| wide(&mut i.ty.dtype));
        for node in &mut f.nodes {
            node.types.iter_mut().for_each(|t| wide(&mut t.dtype));
            match &mut node.op {
                Op::Constant(elements) => *elements = elements.iter().map(|e| wide_scalar(*e)).collect(),
                Op::Nest(nest) => wide_expr(&mut nest.body),
                // Differences see through it.
                Op::StopGradient => node.op = Op::Reshape,
                Op::Place(place) => {
                    if let Base::Fill(fill) = &mut place.base {
                        *fill = wide_scalar(*fill);
                    }
                }
                Op::Scatter(scatter) => {
                    wide_expr(&mut scatter.value);
                    scatter.index.iter_mut().for_each(wide_index);
                }
                Op::Input(_) | Op::Scan(_) | Op::Sort { .. } | Op::Reshape | Op::Call(_) | Op::Check(_) => {}
            }
        }
    }
    module
}

fn wide(dtype: &mut DType) {
    if *dtype == DType::F32 {
        *dtype = DType::F64;
    }
}

fn wide_scalar(s: Scalar) -> Scalar {
    if s.dtype() == DType::F32 { Scalar::f64(s.to_f64()) } else { s }
}

fn wide_index(index: &mut Index) {
    match index {
        Index::Affine(_) => {}
        Index::Gather(e) => wide_expr(e),
    }
}

fn wide_expr(e: &mut Expr) {
    match e {
        Expr::Const(c) => *c = wide_scalar(*c),
        Expr::Load { index, otherwise, .. } => {
            *otherwise = otherwise.map(wide_scalar);
            index.iter_mut().for_each(wide_index);
        }
        Expr::Op(_, args) => args.iter_mut().for_each(wide_expr),
        Expr::Cast(to, a) => {
            wide(to);
            wide_expr(a);
        }
        Expr::Index(_) | Expr::Holds(_) => {}
    }
}

#[test]
fn random_programs() {
    let (mut compared, mut singular) = (0, 0);
    for seed in 0..SEEDS {
        let case = generate::case(seed);
        // As it is, with both float types: well formed.
        backward(&mut case.module.clone(), case.module.function(case.function));
        let mut module = widened(&case.module);
        let text = print::module(&module);
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
        if seed % 8 == 0 {
            let second = backward(&mut module, &g);
            let shape = |i: &Input| eval::sizes(&i.ty.shape, &case.dims).unwrap();
            let seeds = second.inputs[all.len()..].iter().map(|i| Tensor::zeros(i.ty.dtype, &shape(i)));
            run(&module, &second, &all.iter().cloned().chain(seeds).collect::<Vec<_>>(), &case.dims);
        }
        let loss = |values: &[Tensor]| -> f64 {
            let results = run(&module, &f, values, &case.dims);
            let floats = results.iter().filter(|r| r.dtype == DType::F64);
            floats.zip(&all[values.len()..]).map(|(y, dy)| y.as_f64().iter().zip(dy.as_f64()).map(|(a, b)| a * b).sum::<f64>()).sum()
        };
        let middle = loss(&values);
        for (k, dx) in (0..values.len()).filter(|k| values[*k].dtype == DType::F64).zip(&found) {
            for i in (0..values[k].len()).step_by(values[k].len() / 3 + 1) {
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
                let got = dx.as_f64()[i];
                // An infinite slope on the way, of a zero cotangent.
                if !got.is_finite() {
                    singular += 1;
                    continue;
                }
                compared += 1;
                let name = &f.inputs[k].name;
                assert!(
                    (got - expected).abs() <= 1e-4 * (1.0 + expected.abs()),
                    "seed {seed}: d{name}[{i}] = {got}, differences give {expected}\n{text}\n{}",
                    print::function(&module, &g)
                );
            }
        }
    }
    assert!(compared > 2 * SEEDS as usize && singular * 50 < compared, "{compared} derivatives compared, {singular} singular");
}
