//! The law of emission on what row kernels are made of: windows, elements that lanes share, stages that share a loop, sums of columns.

use super::tests::{law, program};
use crate::ir::*;
use crate::span::Span;

fn c(n: i64) -> Size {
    Size::constant(n)
}

/// Windows of neighbours: lanes a few elements apart, padded or not, points left out by guards.
fn windows(t: DType) -> Module {
    let n = Size::dim("N");
    let mut f = Function::new("windows");
    let image = f.input("image", Type::new(t, [n.clone(), c(44), n.checked_mul(&c(4)).unwrap().checked_add(&c(2)).unwrap()]));
    let mut results = vec![];
    for fold in [Fold::Sum, Fold::Prod, Fold::Max, Fold::Min, Fold::ArgMax] {
        for step in [2, 3, 4] {
            let along = |v: usize, tap: usize| Affine::var(v).scale(&c(step)).add(&Affine::var(tap));
            let inside = load(0, [Affine::var(0), along(1, 3), along(2, 4)]);
            let outs = vec![n.clone(), c(10), n.clone()];
            let plain = Nest::fold(outs.clone(), vec![c(2), c(2)], fold, inside.clone());
            let ordered = Nest { guards: vec![Guard::le(&Affine::var(3), &Affine::var(1))], ..plain.clone() };
            let masked = Nest { guards: vec![Guard::lt(&Affine::var(4), &Affine::var(2))], ..plain.clone() };
            let before = |a: Affine| a.sub(&Affine::constant(1));
            let index = [Affine::var(0), before(along(1, 3)), before(along(2, 4))].map(Index::Affine).to_vec();
            let padded = Expr::Load { operand: 0, index, otherwise: Some(Scalar::float(t, -2.0)) };
            let padded = Nest::fold(outs, vec![c(3), c(3)], fold, padded);
            results.extend([plain, ordered, masked, padded].map(|nest| f.nest(nest, [image], Span::default())));
        }
    }
    f.results = results.iter().map(|v| (None, *v)).collect();
    program(f)
}

/// Elements that neighbours share, chosen by what they or others are, by where they lie, or only where they are inside.
fn shared(t: DType) -> Module {
    let n = Size::dim("N");
    let mut f = Function::new("shared");
    let x = f.input("x", Type::new(t, [n.clone(), n.clone()]));
    let mut results = vec![];
    for by in [2, 3, 4, 5] {
        let wide = n.checked_mul(&c(by)).unwrap();
        let outs = vec![n.clone(), wide.clone()];
        let y = f.input(format!("y{by}").as_str(), Type::new(t, outs.clone()));
        let at = |a: Affine, otherwise| Expr::Load { operand: 0, index: [Affine::var(0), a.div(&c(by))].map(Index::Affine).to_vec(), otherwise };
        let value = at(Affine::var(1), None);
        let own = load_at(1, [0, 1]);
        let either = |condition: Expr| Expr::op(ScalarOp::Select, [condition, value.clone(), Expr::Const(Scalar::float(t, -1.0))]);
        let less = either(Expr::op(ScalarOp::Le, [own.clone(), Expr::Const(Scalar::float(t, 0.0))]));
        let less = Expr::op(ScalarOp::Select, [Expr::op(ScalarOp::Lt, [own, value.clone()]), less, value.clone()]);
        let odd = either(Expr::op(ScalarOp::Eq, [Expr::Index(Affine::var(1).modulo(&c(3))), Expr::Const(Scalar::i64(1))]));
        let padded = at(Affine::var(1).add(&Affine::var(0)).sub(&Affine::constant(7)), Some(Scalar::float(t, 4.0)));
        results.extend([value.clone(), less, odd, padded].map(|e| f.nest(Nest::map(outs.clone(), e), [x, y], Span::default())));
        let sum = Nest::fold(vec![n.clone()], vec![wide], Fold::Sum, value);
        results.push(f.nest(sum, [x, y], Span::default()));
    }
    f.results = results.iter().map(|v| (None, *v)).collect();
    program(f)
}

/// Rows: the largest, what is left of each element, its sum, its share; and sums down the columns of several at once.
fn rows(t: DType) -> Module {
    let n = Size::dim("N");
    let mut f = Function::new("rows");
    let shape = vec![c(3), n.clone(), n.clone()];
    let x = f.input("x", Type::new(t, shape.clone()));
    let s = Span::default();
    let (row, all) = (vec![c(3), n.clone()], [0, 1, 2]);
    let mut causal = Nest::fold(row.clone(), vec![n.clone()], Fold::Max, load_at(0, all));
    causal.guards = vec![Guard::le(&Affine::var(2), &Affine::var(1))];
    let largest = f.nest(causal, [x], s);
    let less = Expr::op(ScalarOp::Sub, [load_at(0, all), load_at(1, [0, 1])]);
    let powers = f.nest(Nest::map(shape.clone(), Expr::op(ScalarOp::Exp, [less])), [x, largest], s);
    let total = f.nest(Nest::fold(row.clone(), vec![n.clone()], Fold::Sum, load_at(0, all)), [powers], s);
    let turned = f.nest(Nest::fold(row, vec![n.clone()], Fold::Sum, load_at(0, [0, 2, 1])), [powers], s);
    let share = f.nest(Nest::map(shape, Expr::op(ScalarOp::Div, [load_at(0, all), load_at(1, [0, 1])])), [powers, total], s);
    let squares = Expr::op(ScalarOp::Mul, [load_at(0, [1, 2, 0]), load_at(1, [1, 2, 0])]);
    let columns = f.nest(Nest::fold(vec![n.clone()], vec![c(3), n.clone()], Fold::Sum, squares), [share, x], s);
    let mut halves = Nest::fold(vec![n.clone()], vec![c(3), n.clone()], Fold::Min, load_at(0, [1, 2, 0]));
    halves.guards = vec![Guard::lt(&Affine::var(2), &Affine::var(0))];
    let halves = f.nest(halves, [x], s);
    // Rows that begin at any of the fold's lanes, and leave some out.
    let mut apart = Nest::fold(vec![n.clone()], vec![c(3), n.clone()], Fold::Sum, load_at(0, [1, 0, 2]));
    let broken = f.nest(apart.clone(), [powers], s);
    apart.guards = vec![Guard::le(&Affine::var(0), &Affine::var(2))];
    let apart = f.nest(Nest { fold: Fold::Max, ..apart }, [powers], s);
    let both = Expr::op(ScalarOp::Add, [load_at(0, [0]), load_at(1, [0])]);
    let both = f.nest(Nest::map(vec![n], both), [columns, halves], s);
    f.results = [powers, total, turned, share, columns, both, broken, apart].map(|v| (None, v)).to_vec();
    program(f)
}

/// The logarithm of a sum of powers and the shares, as a classifier's loss has them, of rows with so few elements that lanes run across rows.
fn narrow(t: DType, wide: i64) -> Module {
    let n = Size::dim("N");
    let mut f = Function::new("narrow");
    let (shape, row) = (vec![n.clone(), c(wide)], vec![n.clone()]);
    let x = f.input("x", Type::new(t, shape.clone()));
    let label = f.input("label", Type::new(DType::I64, row.clone()));
    let s = Span::default();
    let largest = f.nest(Nest::fold(row.clone(), vec![c(wide)], Fold::Max, load_at(0, [0, 1])), [x], s);
    let less = Expr::op(ScalarOp::Exp, [Expr::op(ScalarOp::Sub, [load_at(0, [0, 1]), load_at(1, [0])])]);
    let total = f.nest(Nest::fold(row.clone(), vec![c(wide)], Fold::Sum, less.clone()), [x, largest], s);
    let log = Expr::op(ScalarOp::Add, [load_at(1, [0]), Expr::op(ScalarOp::Log, [load_at(0, [0])])]);
    let log = f.nest(Nest::map(row.clone(), log), [total, largest], s);
    let share = Expr::op(ScalarOp::Exp, [Expr::op(ScalarOp::Sub, [load_at(0, [0, 1]), load_at(1, [0])])]);
    let own = Expr::op(ScalarOp::Eq, [load_at(2, [0]), Expr::Index(Affine::var(1))]);
    let one = Expr::op(ScalarOp::Select, [own, Expr::Const(Scalar::float(t, 1.0)), Expr::Const(Scalar::float(t, 0.0))]);
    let share = f.nest(Nest::map(shape, Expr::op(ScalarOp::Sub, [share, one])), [x, log, label], s);
    let least = f.nest(Nest::fold(row, vec![c(wide)], Fold::Min, load_at(0, [0, 1])), [share], s);
    f.results = [log, share, least].map(|v| (None, v)).to_vec();
    program(f)
}

#[test]
fn windows_are_what_they_mean() {
    for t in [DType::F32, DType::F64] {
        law(&windows(t), &[1, 7, 21].map(|n| [("N".into(), n)].into()), 5);
    }
}

#[test]
fn shared_elements_are_what_they_mean() {
    for t in [DType::F32, DType::F64, DType::I64] {
        law(&shared(t), &[1, 7, 16, 21].map(|n| [("N".into(), n)].into()), 3);
    }
}

#[test]
fn rows_and_columns_are_what_they_mean() {
    for t in [DType::F32, DType::F64] {
        law(&rows(t), &[0, 1, 16, 37, 150].map(|n| [("N".into(), n)].into()), 7);
    }
}

#[test]
fn narrow_rows_are_what_they_mean() {
    for t in [DType::F32, DType::F64] {
        for wide in [2, 3, 10, 15, 16] {
            law(&narrow(t, wide), &[0, 1, 15, 16, 37].map(|n| [("N".into(), n)].into()), 7);
        }
    }
}
