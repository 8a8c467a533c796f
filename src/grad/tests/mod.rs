//! Derivatives against central differences in f64, of functions built by hand; each also a second time, for second derivatives.

mod calls;
mod data;
mod kinks;
mod nests;
mod random;

use crate::grad::vjp;
use crate::ir::{Affine, DType, Dims, Expr, Function, Module, Op, Scalar, ScalarOp, Size, Type, Value, eval};
use nnc_runtime::tensor::Tensor;

/// A constant size.
pub fn n(n: i64) -> Size {
    Size::constant(n)
}

/// An f64 tensor type of constant shape.
pub fn real(shape: &[i64]) -> Type {
    Type::new(DType::F64, shape.iter().map(|s| n(*s)).collect::<Vec<_>>())
}

/// The variable `k`.
pub fn v(k: usize) -> Affine {
    Affine::var(k)
}

/// `constant + sum(coefficient * variable)`
pub fn affine(terms: &[(i64, usize)], constant: i64) -> Affine {
    terms.iter().fold(Affine::constant(constant), |sum, (c, k)| sum.add(&v(*k).scale(&n(*c))))
}

/// `a * b`
pub fn times(a: Expr, b: Expr) -> Expr {
    Expr::op(ScalarOp::Mul, [a, b])
}

/// A load that gives 0 outside.
pub fn padded(operand: usize, index: &[Affine]) -> Expr {
    match crate::ir::load(operand, index.to_vec()) {
        Expr::Load { operand, index, .. } => Expr::Load { operand, index, otherwise: Some(Scalar::f64(0.0)) },
        _ => unreachable!("a load"),
    }
}

/// Numbers in -1..1 that are never close to each other or to 0.
pub fn numbers(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / (1u64 << 31) as f64
    };
    (0..count).map(|_| (next() * 1.8 - 0.9) + 0.05).collect()
}

/// A value for every input that `given` does not have: random floats.
fn inputs(f: &Function, given: &[Tensor], dims: &Dims) -> Vec<Tensor> {
    let mut all = given.to_vec();
    for (k, input) in f.inputs.iter().enumerate().skip(given.len()) {
        let shape = eval::sizes(&input.ty.shape, dims).unwrap();
        let count = shape.iter().product::<i64>() as usize;
        all.push(Tensor::from_f64(&shape, &numbers(count, k as u64 + 7)));
    }
    all
}

/// `f` with inputs for the cotangents of its float results, and the cotangents of its float inputs as results.
pub fn backward(module: &mut Module, f: &Function) -> Function {
    let mut g = f.clone();
    let seeds: Vec<(Value, Value)> = f
        .results
        .iter()
        .enumerate()
        .filter(|(_, (_, v))| f.ty(*v).dtype.is_float())
        .map(|(k, (_, v))| (*v, g.input(&format!("dy{k}"), f.ty(*v).clone())))
        .collect();
    let wrt: Vec<Value> = float_inputs(f);
    g.results = vjp(module, &mut g, &seeds, &wrt).into_iter().map(|v| (None, v)).collect();
    let mut whole = module.clone();
    whole.add(g.clone());
    crate::ir::verify::verify(&whole).unwrap_or_else(|broken| panic!("{}\n{}", broken.join("\n"), crate::ir::print::module(&whole)));
    g
}

fn float_inputs(f: &Function) -> Vec<Value> {
    f.iter().filter(|(_, n)| matches!(n.op, Op::Input(_)) && n.types[0].dtype.is_float()).map(|(node, _)| Value { node, result: 0 }).collect()
}

/// The function's results.
pub fn run(module: &Module, f: &Function, values: &[Tensor], dims: &Dims) -> Vec<Tensor> {
    let mut module = module.clone();
    let id = module.add(f.clone());
    eval::function(&module, id, values, dims).unwrap_or_else(|e| panic!("{e}\n{}", crate::ir::print::module(&module)))
}

/// A module with free dims.
pub fn with_dims(names: &[&str]) -> Module {
    let dims = names.iter().map(|name| crate::ir::Dim { name: (*name).into(), min: 1, max: None }).collect();
    Module { dims, ..Module::default() }
}

/// Checks the derivatives of `f` up to `order` against central differences; inputs behind `given` are random.
pub fn check(module: &Module, f: &Function, given: &[Tensor], dims: &Dims, order: usize) {
    let values = inputs(f, given, dims);
    let mut module = module.clone();
    let g = backward(&mut module, f);
    let all = inputs(&g, &values, dims);
    let found = run(&module, &g, &all, dims);
    let loss = |values: &[Tensor]| -> f64 {
        let results = run(&module, f, values, dims);
        let floats = results.iter().filter(|r| r.dtype == DType::F64);
        floats.zip(&all[values.len()..]).map(|(y, dy)| y.as_f64().iter().zip(dy.as_f64()).map(|(a, b)| a * b).sum::<f64>()).sum()
    };
    let mut cotangents = found.iter();
    for (k, input) in f.inputs.iter().enumerate().filter(|(_, i)| i.ty.dtype.is_float()) {
        let dx = cotangents.next().unwrap();
        assert_eq!(dx.shape, values[k].shape, "shape of d{} in order {order} of {}", input.name, f.name);
        for i in 0..values[k].len() {
            let h = 1e-5;
            let at = |delta: f64| {
                let mut moved = values.clone();
                moved[k].as_f64_mut()[i] += delta;
                loss(&moved)
            };
            let expected = (at(h) - at(-h)) / (2.0 * h);
            let got = dx.as_f64()[i];
            assert!(
                (expected - got).abs() <= 1e-6 * (1.0 + expected.abs()),
                "d{}[{i}] = {got}, differences give {expected}; {} at {order} more orders\n{}",
                input.name,
                f.name,
                crate::ir::print::function(&module, &g)
            );
        }
    }
    if order > 1 {
        check(&module, &g, &all, dims, order - 1);
    }
}

/// [`check`] of a function without calls and free dims, to second order.
pub fn check_alone(f: &Function, given: &[Tensor]) {
    check(&Module::default(), f, given, &Dims::default(), 2);
}
