//! Place, scatter, sort, reshape.

use super::{backward, check_alone, n, real, run, times};
use crate::ir::*;
use crate::span::Span;
use nnc_runtime::tensor::Tensor;

#[test]
fn place_pieces() {
    let mut f = Function::new("place");
    let base = f.input("base", real(&[6, 2]));
    let a = f.input("a", real(&[3, 2]));
    let b = f.input("b", real(&[2, 1]));
    let piece = |shape: &[i64], start: &[i64], stride: &[i64]| Piece {
        shape: shape.iter().map(|s| n(*s)).collect(),
        start: start.iter().map(|s| Start::Size(n(*s))).collect(),
        stride: stride.iter().map(|s| n(*s)).collect(),
    };
    let pieces = vec![piece(&[3, 2], &[0, 0], &[2, 1]), piece(&[2, 1], &[1, 1], &[4, 1])];
    let place = Place { shape: vec![n(6), n(2)], base: Base::Operand, pieces: pieces.clone() };
    let y = f.push(Op::Place(place.clone()), [base, a, b], real(&[6, 2]), Span::default());
    let filled = f.push(Op::Place(Place { base: Base::Fill(Scalar::f64(0.5)), ..place }), [a, b], real(&[6, 2]), Span::default());
    let z = f.nest(Nest::map(vec![n(6), n(2)], times(load_at(0, [0, 1]), load_at(1, [0, 1]))), [y, filled], Span::default());
    let flat = f.push(Op::Reshape, [z], real(&[3, 4]), Span::default());
    f.results = vec![(None, flat)];
    check_alone(&f, &[]);
}

#[test]
fn place_at_run_time() {
    for start in [-3, 1, 2, 9] {
        let mut f = Function::new("update");
        let at = f.input("at", Type::scalar(DType::I64));
        let base = f.input("base", real(&[5]));
        let a = f.input("a", real(&[2]));
        let piece = Piece { shape: vec![n(2)], start: vec![Start::Runtime(0)], stride: vec![n(2)] };
        let place = Place { shape: vec![n(5)], base: Base::Operand, pieces: vec![piece] };
        let y = f.push(Op::Place(place), [base, a, at], real(&[5]), Span::default());
        let z = f.nest(Nest::map(vec![n(5)], times(load_at(0, [0]), load_at(0, [0]))), [y], Span::default());
        f.results = vec![(None, z)];
        check_alone(&f, &[Tensor::scalar(Scalar::i64(start))]);
    }
}

/// `out[ids[i]] fold= x[i]^2 * w`, with a point left out.
fn scattered(fold: ScatterFold) -> Function {
    let mut f = Function::new(fold.name());
    let ids = f.input("ids", Type::new(DType::I64, [n(5)]));
    let base = f.input("base", real(&[3]));
    let x = f.input("x", real(&[5]));
    let w = f.input("w", real(&[]));
    let square = times(load_at(2, [0]), load_at(2, [0]));
    let scatter = Scatter {
        shape: vec![n(3)],
        points: vec![n(5)],
        guards: vec![Guard { expr: Affine::var(0).sub(&Affine::constant(3)), relation: Relation::NonZero }],
        index: vec![Index::Gather(Box::new(load_at(1, [0])))],
        value: times(square, load_at(3, [])),
        fold,
    };
    let y = f.push(Op::Scatter(scatter), [base, ids, x, w], real(&[3]), Span::default());
    f.results = vec![(None, y)];
    f
}

#[test]
fn scatters() {
    use ScatterFold::*;
    let ids = || Tensor::from_i64(&[5], &[2, 0, 2, 1, 2]);
    for fold in [Replace, Sum, Prod, Max, Min] {
        check_alone(&scattered(fold), &[ids()]);
    }
    // Zeros in the base and among the updates of one element.
    let base = Tensor::from_f64(&[3], &[0.0, 0.5, 1.5]);
    check_alone(&scattered(Prod), &[ids(), base, Tensor::from_f64(&[5], &[0.3, 0.7, 0.0, 0.2, 0.9])]);
    // Three equal maxima, one of them the base's.
    let mut module = Module::default();
    let g = backward(&mut module, &scattered(Max));
    let values = [
        ids(),
        Tensor::from_f64(&[3], &[9.0, 0.0, 4.0]),
        Tensor::from_f64(&[5], &[2.0, 3.0, -2.0, 7.0, 1.0]),
        Tensor::from_f64(&[], &[1.0]),
        Tensor::from_f64(&[3], &[2.0, 1.0, 3.0]),
    ];
    let found = run(&module, &g, &values, &Dims::default());
    assert_eq!(found[0].as_f64(), [1.0, 1.0, 1.0]);
    assert_eq!(found[1].as_f64(), [4.0, 6.0, -4.0, 0.0, 0.0]);
    assert_eq!(found[2].as_f64(), [4.0 + 9.0 + 4.0]);
}

#[test]
fn sorting() {
    let mut f = Function::new("sort");
    let x = f.input("x", real(&[2, 4]));
    let types = vec![real(&[2, 4]), Type::new(DType::I64, [n(2), n(4)])];
    let node = Node { op: Op::Sort { descending: true }, operands: vec![x], types, name: None, span: Span::default() };
    let sorted = Value { node: f.push_node(node), result: 0 };
    let body = times(load_at(0, [0, 1]), Expr::op(ScalarOp::Exp, [load_at(0, [0, 1])]));
    let y = f.nest(Nest::map(vec![n(2), n(4)], body), [sorted], Span::default());
    f.results = vec![(None, y)];
    check_alone(&f, &[]);
}

#[test]
fn no_path_is_zero() {
    let mut f = Function::new("stop");
    let x = f.input("x", real(&[2]));
    let ids = f.input("ids", Type::new(DType::I64, [n(2)]));
    let stopped = f.push(Op::StopGradient, [x], real(&[2]), Span::default());
    let y = f.nest(Nest::map(vec![n(2)], times(load_at(0, [0]), load_at(1, [0]))), [x, stopped], Span::default());
    let dy = f.input("dy", real(&[2]));
    let found = crate::grad::vjp(&mut Module::default(), &mut f, &[(y, dy)], &[x, ids, stopped]);
    f.results = found.into_iter().map(|v| (None, v)).collect();
    let values = [Tensor::from_f64(&[2], &[2.0, 3.0]), Tensor::from_i64(&[2], &[5, 5]), Tensor::from_f64(&[2], &[1.0, 10.0])];
    let got = run(&Module::default(), &f, &values, &Dims::default());
    assert_eq!(got[0].as_f64(), [2.0, 30.0]);
    assert_eq!(got[1].as_i64(), [0, 0]);
    assert_eq!(got[2].as_f64(), [2.0, 30.0]);
}
