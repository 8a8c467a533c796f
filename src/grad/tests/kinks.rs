//! Ties, kinks and the scalar table.

use super::{affine, backward, check_alone, n, numbers, real, run};
use crate::ir::*;
use crate::span::Span;
use nnc_runtime::tensor::Tensor;

fn function(shape: &[i64], second: Option<&[i64]>, nest: Nest) -> Function {
    let mut f = Function::new("f");
    let mut operands = vec![f.input("x", real(shape))];
    operands.extend(second.map(|s| f.input("z", real(s))));
    let y = f.nest(nest, operands, Span::default());
    f.results = vec![(None, y)];
    f
}

/// The cotangents of the inputs of `f` at `values` and `dy`.
fn at(f: &Function, values: &[Tensor], dy: Tensor) -> Vec<Vec<f64>> {
    let mut module = Module::default();
    let g = backward(&mut module, f);
    let all: Vec<Tensor> = values.iter().cloned().chain([dy]).collect();
    run(&module, &g, &all, &Dims::default()).iter().map(|t| t.as_f64().to_vec()).collect()
}

/// Windows of 3 with step 2 over 7 elements.
fn windows(fold: Fold) -> Function {
    function(&[7], None, Nest::fold(vec![n(3)], vec![n(3)], fold, load(0, [affine(&[(2, 0), (1, 1)], 0)])))
}

#[test]
fn pooling_with_ties() {
    let x = Tensor::from_f64(&[7], &[1.0, 5.0, 5.0, 2.0, 5.0, 5.0, 5.0]);
    let dy = || Tensor::from_f64(&[3], &[1.0, 10.0, 100.0]);
    assert_eq!(at(&windows(Fold::ArgMax), std::slice::from_ref(&x), dy()), [[0.0, 1.0, 10.0, 0.0, 100.0, 0.0, 0.0]]);
    let third = 100.0 / 3.0;
    assert_eq!(at(&windows(Fold::Max), std::slice::from_ref(&x), dy()), [[0.0, 0.5, 5.5, 0.0, 5.0 + third, third, third]]);
    let mut low = x;
    low.as_f64_mut().iter_mut().for_each(|x| *x = -*x);
    assert_eq!(at(&windows(Fold::ArgMin), &[low.clone()], dy()), [[0.0, 1.0, 10.0, 0.0, 100.0, 0.0, 0.0]]);
    assert_eq!(at(&windows(Fold::Min), &[low], dy()), [[0.0, 0.5, 5.5, 0.0, 5.0 + third, third, third]]);
    for fold in [Fold::ArgMax, Fold::ArgMin, Fold::Max, Fold::Min] {
        check_alone(&windows(fold), &[]);
    }
    // Two reductions and a guard: positions count the points that are left out.
    let square = Expr::op(ScalarOp::Sin, [load_at(0, [0, 2, 1])]);
    for fold in [Fold::ArgMax, Fold::Min] {
        let mut nest = Nest::fold(vec![n(2)], vec![n(3), n(2)], fold, square.clone());
        nest.guards = vec![Guard { expr: affine(&[(1, 1), (2, 2)], -3), relation: Relation::NonZero }];
        check_alone(&function(&[2, 2, 3], None, nest), &[]);
    }
}

/// Every operation, away from its kinks, to second order; positive and negative arguments where both are in its domain.
#[test]
fn every_scalar_operation() {
    use ScalarOp::*;
    for op in ScalarOp::ALL {
        let args: Vec<Expr> = match op {
            Select => vec![Expr::op(Lt, [load_at(1, [0]), load_at(0, [0])]), load_at(0, [0]), load_at(1, [0])],
            Fma => vec![load_at(0, [0]), load_at(1, [0]), load_at(0, [0])],
            _ => (0..op.arity()).map(|k| load_at(k, [0])).collect(),
        };
        let body = Expr::op(op, args);
        let types = |_: usize| DType::F64;
        if body.dtype(&types) != Some(DType::F64) {
            continue;
        }
        let f = function(&[6], Some(&[6]), Nest::map(vec![n(6)], body));
        let (x, z) = (numbers(6, 5), numbers(6, 9));
        let positive = matches!(op, Sqrt | Log | Log1p | Pow);
        let x: Vec<f64> = x.iter().map(|x| if positive { x.abs() + 0.2 } else { *x }).collect();
        let z: Vec<f64> = z.iter().map(|z| z + 0.5 * z.signum()).collect();
        check_alone(&f, &[Tensor::from_f64(&[6], &x), Tensor::from_f64(&[6], &z)]);
    }
    for power in [0.0, 1.0, 2.0, 3.0, -1.5] {
        let body = Expr::op(Pow, [load_at(0, [0]), float(DType::F64, power)]);
        check_alone(&function(&[4], None, Nest::map(vec![n(4)], body)), &[Tensor::from_f64(&[4], &[0.3, 0.7, 1.2, 2.0])]);
    }
}

#[test]
fn conventions_at_kinks() {
    use ScalarOp::*;
    let inf = f64::INFINITY;
    let x = || load_at(0, [0]);
    let z = || load_at(1, [0]);
    let zero = || float(DType::F64, 0.0);
    let two = |body: Expr, x: &[f64], z: &[f64]| {
        let len = x.len() as i64;
        let f = function(&[len], Some(&[len]), Nest::map(vec![n(len)], body));
        at(&f, &[Tensor::from_f64(&[len], x), Tensor::from_f64(&[len], z)], Tensor::from_f64(&[len], &vec![1.0; x.len()]))
    };
    assert_eq!(two(Expr::op(Abs, [x()]), &[0.0, -0.0], &[0.0; 2])[0], [0.0, 0.0]);
    assert_eq!(two(Expr::op(Sqrt, [x()]), &[0.0], &[0.0])[0], [inf]);
    assert_eq!(two(Expr::op(Max, [x(), z()]), &[1.0, 1.0, 2.0], &[1.0, 3.0, 1.0]), [[0.5, 0.0, 1.0], [0.5, 1.0, 0.0]]);
    assert_eq!(two(Expr::op(Min, [x(), z()]), &[1.0, 1.0, 2.0], &[1.0, 3.0, 1.0]), [[0.5, 1.0, 0.0], [0.5, 0.0, 1.0]]);
    assert_eq!(two(Expr::op(Pow, [x(), z()]), &[0.0, 0.0, 0.0], &[0.0, 2.0, 1.0]), [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]);
    let relu = Expr::op(Select, [Expr::op(Lt, [zero(), x()]), x(), zero()]);
    assert_eq!(two(relu, &[0.0, -1.0, 2.0], &[0.0; 3])[0], [0.0, 0.0, 1.0]);
    // The side that is not chosen hands back exactly nothing, however infinite its slope is.
    let safe = Expr::op(Select, [Expr::op(Lt, [zero(), x()]), Expr::op(Mul, [Expr::op(Log, [x()]), z()]), Expr::op(Sqrt, [z()])]);
    assert_eq!(two(safe, &[0.0, -1.0, 1.0], &[4.0, 1.0, 0.0]), [[0.0, 0.0, 0.0], [0.25, 0.5, 0.0]]);
}

#[test]
fn mixed_types() {
    let mut f = Function::new("mixed");
    let x = f.input("x", real(&[3]));
    let single = Expr::Cast(DType::F32, Box::new(load_at(0, [0])));
    let y = f.nest(Nest::map(vec![n(3)], Expr::op(ScalarOp::Mul, [single.clone(), single])), [x], Span::default());
    let whole = Expr::Cast(DType::I64, Box::new(load_at(0, [0])));
    let sum = Expr::op(ScalarOp::Add, [Expr::Cast(DType::F64, Box::new(load_at(1, [0]))), Expr::Cast(DType::F64, Box::new(whole))]);
    let z = f.nest(Nest::map(vec![n(3)], sum), [x, y], Span::default());
    f.results = vec![(None, z)];
    let values = Tensor::from_f64(&[3], &[1.5, -2.0, 0.0]);
    assert_eq!(at(&f, &[values], Tensor::from_f64(&[3], &[1.0, 1.0, 2.0])), [[3.0, -4.0, 0.0]]);
}
