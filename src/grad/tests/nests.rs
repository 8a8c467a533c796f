//! Nests: affine loads that solve, guards, gathers, folds.

use super::{affine, check, check_alone, n, numbers, padded, real, run, times, v, with_dims};
use crate::ir::*;
use crate::span::Span;
use nnc_runtime::tensor::Tensor;

fn function(name: &str, inputs: &[&[i64]], nest: Nest) -> Function {
    let mut f = Function::new(name);
    let operands: Vec<Value> = inputs.iter().enumerate().map(|(k, shape)| f.input(&format!("x{k}"), real(shape))).collect();
    let y = f.nest(nest, operands, Span::default());
    f.results = vec![(None, y)];
    f
}

fn sizes(s: &[i64]) -> Vec<Size> {
    s.iter().map(|s| n(*s)).collect()
}

/// The nests that the value is made of: itself, or the pieces of a place.
fn pieces(f: &Function, value: Value) -> Vec<&Nest> {
    let node = f.node(value.node);
    match &node.op {
        Op::Place(_) => node.operands.iter().map(|v| ops(&f.node(v.node).op)).collect(),
        op => vec![ops(op)],
    }
}

fn ops(op: &Op) -> &Nest {
    match op {
        Op::Nest(nest) => nest,
        other => panic!("not a nest: {other:?}"),
    }
}

#[test]
fn linear_reads_like_a_textbook() {
    let mut f = Function::new("linear");
    let dim = Size::dim;
    let x = f.input("x", Type::new(DType::F64, [dim("B"), n(3)]));
    let w = f.input("W", Type::new(DType::F64, [n(4), n(3)]));
    let b = f.input("b", Type::new(DType::F64, [n(4)]));
    let product = Nest::fold(vec![dim("B"), n(4)], vec![n(3)], Fold::Dot, times(load_at(0, [0, 2]), load_at(1, [1, 2])));
    let z = f.nest(product, [x, w], Span::default());
    let y = f.nest(Nest::map(vec![dim("B"), n(4)], Expr::op(ScalarOp::Add, [load_at(0, [0, 1]), load_at(1, [1])])), [z, b], Span::default());
    f.results = vec![(None, y)];
    let module = with_dims(&["B"]);
    check(&module, &f, &[], &[("B".into(), 2)].into(), 2);
    let g = super::backward(&mut module.clone(), &f);
    let (dx, dw, db) = (g.results[0].1, g.results[1].1, g.results[2].1);
    let dy = Value { node: NodeId(f.nodes.len() as u32), result: 0 };
    assert_eq!(ops(&g.node(dx.node).op), &Nest::fold(vec![dim("B"), n(3)], vec![n(4)], Fold::Dot, times(load_at(0, [0, 2]), load_at(1, [2, 1]))));
    assert_eq!(ops(&g.node(dw.node).op), &Nest::fold(vec![n(4), n(3)], vec![dim("B")], Fold::Dot, times(load_at(0, [2, 0]), load_at(1, [2, 1]))));
    assert_eq!(ops(&g.node(db.node).op), &Nest::fold(vec![n(4)], vec![dim("B")], Fold::Sum, load_at(0, [1, 0])));
    assert_eq!(g.node(dw.node).operands, [dy, x]);
    assert_eq!(g.node(dw.node).name.as_deref(), Some("dW"));
    assert_eq!(g.nodes.len(), f.nodes.len() + 4);
}

/// `y[b,o,p,q] = sum[c,r,s](x[b,c,2p+2r-2,..] * w[o,c,r,s])`, and with two groups.
#[test]
fn convolutions() {
    let at = |p, r| affine(&[(2, p), (2, r)], -2);
    let body = times(padded(0, &[v(0), v(4), at(2, 5), at(3, 6)]), load_at(1, [1, 4, 5, 6]));
    let conv = Nest::fold(sizes(&[2, 2, 3, 2]), sizes(&[2, 3, 2]), Fold::Dot, body);
    let f = function("conv", &[&[2, 2, 5, 4], &[2, 2, 3, 2]], conv);
    check_alone(&f, &[]);
    // Stride and dilation are 2: only elements of one phase are read, and their gradient is a convolution of stride 1.
    let g = super::backward(&mut Module::default(), &f);
    let dx = pieces(&g, g.results[0].1);
    assert_eq!(dx.len(), 1);
    let factor = padded(2, &[v(0), v(4), affine(&[(1, 2), (-1, 5)], 1), affine(&[(1, 3), (-1, 6)], 1)]);
    assert_eq!(dx[0].body, times(renumbered(factor), load_at(1, [4, 1, 5, 6])));
    assert_eq!((dx[0].fold, dx[0].reds.len(), dx[0].guards.len()), (Fold::Dot, 3, 0));

    let outs = sizes(&[1, 4, 3]);
    let group = v(1).div(&n(2)).scale(&n(2)).add(&v(3));
    let body = times(padded(0, &[v(0), group, affine(&[(1, 2), (1, 4)], -1)]), load_at(1, [1, 3, 4]));
    check_alone(&function("grouped", &[&[1, 4, 3], &[4, 2, 3]], Nest::fold(outs, sizes(&[2, 3]), Fold::Dot, body)), &[]);
}

fn renumbered(e: Expr) -> Expr {
    e.renumber(&|_| 0)
}

/// `y[b,p] = sum[c,r](x[b,c,2p+r-1] * w[c,r])` with a kernel of 3: even elements meet the middle, odd ones the two ends. Rows of stride 3 under a
/// kernel of 2 leave every third element out.
#[test]
fn strides_are_phases() {
    let conv = |outs: i64, kernel: i64, stride: i64, padding: i64| {
        let body = times(padded(0, &[v(0), v(2), affine(&[(stride, 1), (1, 3)], -padding)]), load_at(1, [2, 3]));
        Nest::fold(sizes(&[2, outs]), sizes(&[3, kernel]), Fold::Dot, body)
    };
    for (name, size, kernel, nest, reds) in [
        ("overlapping", 7, 3, conv(4, 3, 2, 1), vec![0, 1]),
        ("apart", 8, 2, conv(3, 2, 3, 0), vec![0, 0]),
        ("single", 5, 1, conv(3, 1, 2, 0), vec![0]),
        ("steep", 9, 7, conv(3, 7, 4, 3), vec![0, 1, 1, 1]),
    ] {
        let f = function(name, &[&[2, 3, size], &[3, kernel]], nest);
        check_alone(&f, &[]);
        let g = super::backward(&mut Module::default(), &f);
        let dx = pieces(&g, g.results[0].1);
        assert_eq!(dx.iter().map(|n| n.reds.len()).collect::<Vec<_>>(), reds, "{name}");
        assert!(dx.iter().all(|n| n.guards.is_empty()), "{name}: {dx:?}");
        let text = crate::ir::print::function(&Module::default(), &g);
        assert!(!text.contains("mod("), "{name}: {text}");
    }
    // A free size: as many elements of each phase as there are.
    let mut f = Function::new("free");
    let x = f.input("x", Type::new(DType::F64, [Size::dim("T")]));
    let half = (&Size::dim("T") + &n(1)).div(&n(2)).unwrap();
    let y = f.nest(Nest::map(vec![half], times(load(0, [affine(&[(2, 0)], 0)]), load(0, [affine(&[(2, 0)], 0)]))), [x], Span::default());
    f.results = vec![(None, y)];
    for size in [4, 5] {
        check(&with_dims(&["T"]), &f, &[], &[("T".into(), size)].into(), 2);
    }
}

/// The convolution's gradient, written forward: `y[i,p] = sum[r](x[i, div(p + 1 - r, 2)] * w[r])` where the division is exact.
#[test]
fn transposed_convolution() {
    let shifted = affine(&[(1, 1), (-1, 2)], 1);
    let mut nest = Nest::fold(sizes(&[2, 7]), sizes(&[3]), Fold::Dot, times(padded(0, &[v(0), shifted.div(&n(2))]), load_at(1, [2])));
    nest.guards = vec![Guard { expr: shifted.modulo(&n(2)), relation: Relation::Zero }];
    let f = function("transposed", &[&[2, 4], &[3]], nest);
    check_alone(&f, &[]);
    let g = super::backward(&mut Module::default(), &f);
    let dx = ops(&g.node(g.results[0].1.node).op);
    let Expr::Op(ScalarOp::Mul, factors) = &dx.body else { panic!("{dx:?}") };
    assert_eq!(factors[0], padded(0, &[v(0), affine(&[(2, 1), (1, 2)], -1)]), "an ordinary strided convolution");
    assert_eq!(dx.reds, sizes(&[3]));
}

#[test]
fn guards_diagonals_and_divisions() {
    let map = |outs: &[i64], body| Nest::map(sizes(outs), body);
    check_alone(&function("diagonal", &[&[3, 3]], map(&[3], load_at(0, [0, 0]))), &[]);
    let mut triangle = map(&[3, 3], times(load_at(0, [0, 1]), load_at(0, [1, 0])));
    triangle.guards = vec![Guard::le(&v(1), &v(0))];
    check_alone(&function("triangle", &[&[3, 3]], triangle), &[]);
    let mut embed = map(&[3, 3], load_at(0, [0]));
    embed.guards = vec![Guard::eq(&v(0), &v(1))];
    let f = function("embed diagonal", &[&[3]], embed);
    check_alone(&f, &[]);
    let g = super::backward(&mut Module::default(), &f);
    assert!(ops(&g.node(g.results[0].1.node).op).reds.is_empty(), "an equality leaves nothing to sum over");
    let mut cumulative = Nest::fold(sizes(&[4]), sizes(&[4]), Fold::Sum, Expr::op(ScalarOp::Exp, [load_at(0, [1])]));
    cumulative.guards = vec![Guard::le(&v(1), &v(0))];
    check_alone(&function("cumulative", &[&[4]], cumulative), &[]);

    let half = v(0).div(&n(2));
    check_alone(&function("upsample", &[&[3]], map(&[6], times(load(0, [half.clone()]), load(0, [half])))), &[]);
    check_alone(&function("wrap", &[&[3]], map(&[8], load(0, [v(0).modulo(&n(3))]))), &[]);
    check_alone(&function("split", &[&[2, 3]], map(&[6], load(0, [v(0).div(&n(3)), v(0).modulo(&n(3))]))), &[]);
    check_alone(&function("merge", &[&[6]], map(&[2, 3], times(load(0, [affine(&[(3, 0), (1, 1)], 0)]), load_at(0, [1])))), &[]);
    // Mixed radix digits: splitting heads, patches, and patches with gaps leave nothing to sum over.
    let heads = map(&[2, 3, 2], load(0, [affine(&[(6, 0), (2, 1), (1, 2)], 0)]));
    let patches = map(&[3, 2], load(0, [affine(&[(2, 0), (1, 1)], 0)]));
    let gaps = map(&[2, 2], load(0, [affine(&[(-3, 0), (1, 1)], 3)]));
    for (name, size, nest) in [("heads", 12, heads), ("patches", 7, patches), ("gaps", 5, gaps)] {
        let f = function(name, &[&[size]], nest);
        check_alone(&f, &[]);
        let g = super::backward(&mut Module::default(), &f);
        assert!(pieces(&g, g.results[0].1).iter().all(|n| n.reds.is_empty()), "{name}");
    }
    check_alone(&function("backwards", &[&[5]], map(&[2], load(0, [affine(&[(-2, 0)], 4)]))), &[]);
    check_alone(&function("windows", &[&[9]], Nest::fold(sizes(&[4]), sizes(&[3]), Fold::Sum, load(0, [affine(&[(2, 0), (1, 1)], 0)]))), &[]);
    check_alone(&function("outside", &[&[4]], map(&[6], padded(0, &[affine(&[(1, 0)], -1)]))), &[]);
    // Two indices of one load share a variable: does not solve by substitution alone.
    check_alone(&function("coupled", &[&[5, 7]], map(&[3, 2], load(0, [affine(&[(1, 0), (2, 1)], 0), affine(&[(2, 0), (2, 1)], 0)]))), &[]);
    check_alone(&function("nested", &[&[4]], map(&[4], load(0, [v(0).modulo(&n(2)).add(&v(0).div(&n(2)))]))), &[]);
}

#[test]
fn gathers_scatter() {
    let mut f = Function::new("embedding");
    let ids = f.input("ids", Type::new(DType::I64, [n(4)]));
    let table = f.input("table", real(&[3, 2]));
    let row =
        |operand, otherwise| Expr::Load { operand: 1, index: vec![Index::Gather(Box::new(load_at(operand, [0]))), Index::Affine(v(1))], otherwise };
    let y = f.nest(Nest::map(sizes(&[4, 2]), times(row(0, None), row(0, None))), [ids, table], Span::default());
    f.results = vec![(None, y)];
    check_alone(&f, &[Tensor::from_i64(&[4], &[2, 0, 2, 1])]);

    // One element a row: the gradient is one-hot, without a scatter.
    let mut f = Function::new("pick");
    let ids = f.input("ids", Type::new(DType::I64, [n(2)]));
    let x = f.input("x", real(&[2, 3]));
    let index = vec![Index::Affine(v(0)), Index::Gather(Box::new(load_at(0, [0])))];
    let pick = Expr::Load { operand: 1, index, otherwise: None };
    let y = f.nest(Nest::map(sizes(&[2]), times(pick.clone(), pick)), [ids, x], Span::default());
    f.results = vec![(None, y)];
    check_alone(&f, &[Tensor::from_i64(&[2], &[2, 0])]);
    let g = super::backward(&mut Module::default(), &f);
    assert!(ops(&g.node(g.results[0].1.node).op).reds.is_empty());

    // Out of range where the load says so, and where the other side of a select is taken.
    let mut f = Function::new("partial");
    let ids = f.input("ids", Type::new(DType::I64, [n(4)]));
    let table = f.input("table", real(&[3, 2]));
    let valid = Expr::op(ScalarOp::Lt, [load_at(0, [0]), Expr::Const(Scalar::i64(3))]);
    let guarded = Expr::op(ScalarOp::Select, [valid, times(row(0, None), load_at(1, [1, 1])), Expr::Const(Scalar::f64(2.0))]);
    let body = Expr::op(ScalarOp::Add, [guarded, row(0, Some(Scalar::f64(0.0)))]);
    let mut nest = Nest::map(sizes(&[4, 2]), body);
    nest.guards = vec![Guard::le(&v(1), &v(0))];
    let y = f.nest(nest, [ids, table], Span::default());
    f.results = vec![(None, y)];
    check_alone(&f, &[Tensor::from_i64(&[4], &[2, 0, 5, 1])]);
}

#[test]
fn products_are_exact_with_zeros() {
    let mut nest = Nest::fold(sizes(&[2]), sizes(&[2, 2]), Fold::Prod, Expr::op(ScalarOp::Sin, [load_at(0, [0, 1, 2])]));
    nest.guards = vec![Guard { expr: affine(&[(1, 1), (1, 2), (1, 0)], -3), relation: Relation::NonZero }];
    for zeros in 0..3 {
        let mut x = numbers(8, 3);
        x[..zeros].fill(0.0);
        check_alone(&function("prod", &[&[2, 2, 2]], nest.clone()), &[Tensor::from_f64(&[2, 2, 2], &x)]);
    }
}

#[test]
fn free_dims() {
    let (b, t) = (Size::dim("B"), Size::dim("T"));
    let module = with_dims(&["B", "T"]);
    let mut f = Function::new("scores");
    let q = f.input("q", Type::new(DType::F64, [b.clone(), t.clone(), n(2)]));
    let k = f.input("k", Type::new(DType::F64, [b.clone(), t.clone(), n(2)]));
    let mut nest = Nest::fold(vec![b.clone(), t.clone(), t.clone()], vec![n(2)], Fold::Dot, times(load_at(0, [0, 1, 3]), load_at(1, [0, 2, 3])));
    nest.guards = vec![Guard::le(&v(2), &v(1))];
    let scores = f.nest(nest, [q, k], Span::default());
    // Flattened by division and remainder by a dim.
    let flat = Nest::map(vec![&(&b * &t) * &t], load(0, [v(0).div(&t).div(&t), v(0).div(&t).modulo(&t), v(0).modulo(&t)]));
    let y = f.nest(flat, [scores], Span::default());
    f.results = vec![(None, y)];
    check(&module, &f, &[], &[("B".into(), 2), ("T".into(), 3)].into(), 2);
}

#[test]
fn invariant_factors_leave_the_sum() {
    // mean[b]((w*x[b] - t[b])^2)
    let mut f = Function::new("mse");
    let b = Size::dim("B");
    let x = f.input("x", Type::new(DType::F64, [b.clone()]));
    let t = f.input("t", Type::new(DType::F64, [b.clone()]));
    let w = f.input("w", Type::scalar(DType::F64));
    let error = Expr::op(ScalarOp::Sub, [times(load_at(2, []), load_at(0, [0])), load_at(1, [0])]);
    let square = Expr::op(ScalarOp::Pow, [error, float(DType::F64, 2.0)]);
    let total = f.nest(Nest::fold(vec![], vec![b.clone()], Fold::Sum, square), [x, t, w], Span::default());
    let count = Expr::Cast(DType::F64, Box::new(Expr::Index(Affine::constant(b))));
    let y = f.nest(Nest::map(vec![], Expr::op(ScalarOp::Div, [load_at(0, []), count.clone()])), [total], Span::default());
    f.results = vec![(None, y)];
    check(&with_dims(&["B"]), &f, &[], &[("B".into(), 3)].into(), 3);
    let one = f.nest(Nest::map(vec![], float(DType::F64, 1.0)), [], Span::default());
    let dw = super::vjp(&mut Module::default(), &mut f, &[(y, one)], &[w])[0];
    assert_eq!(ops(&f.node(dw.node).op), &Nest::map(vec![], Expr::op(ScalarOp::Div, [load_at(0, []), count])));
    let summed = ops(&f.node(f.node(dw.node).operands[0].node).op);
    let error = Expr::op(ScalarOp::Sub, [times(load_at(0, []), load_at(1, [0])), load_at(2, [0])]);
    assert_eq!(summed.body, times(times(float(DType::F64, 2.0), error), load_at(1, [0])));
    f.results = vec![(None, dw)];
    let values = [Tensor::from_f64(&[2], &[1.0, 2.0]), Tensor::from_f64(&[2], &[0.5, 0.0]), Tensor::from_f64(&[], &[3.0])];
    assert_eq!(run(&Module::default(), &f, &values, &[("B".into(), 2)].into())[0].as_f64(), [(2.0 * 2.5 + 2.0 * 6.0 * 2.0) / 2.0]);
}
