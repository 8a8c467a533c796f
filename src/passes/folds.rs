//! Which fold a sum of products and a largest value are. Not to the bit, so it is part of what defines a program, and decided once.
//!
//! A sum of products contracts where an axis of the result belongs to one factor alone: then one chain of multiply-adds feeds many results. Squares of
//! a row, products of two rows, statistics of a channel have no such axis; as plain sums they run in the 16 lanes of their own fold. A largest value
//! whose position nobody asks for is the plain maximum for the same reason.

use crate::ir::*;
use crate::passes::rebuild::{each, keep, rebuild};

/// In every function.
pub fn run(module: &Module) -> Module {
    each(module, &mut |f| {
        let mut placed = vec![false; f.nodes.len()];
        let read = f.nodes.iter().flat_map(|n| &n.operands).chain(f.results.iter().map(|(_, v)| v));
        read.filter(|v| v.result == 1).for_each(|v| placed[v.node.0 as usize] = true);
        let mut placed = placed.into_iter();
        rebuild(f, &mut |new, mut node| {
            let placed = placed.next().unwrap_or(true);
            let Op::Nest(nest) = &mut node.op else { return keep(new, node) };
            match nest.fold {
                Fold::Dot if !contracts(nest) => nest.fold = Fold::Sum,
                Fold::ArgMax | Fold::ArgMin if !placed => {
                    nest.fold = if nest.fold == Fold::ArgMax { Fold::Max } else { Fold::Min };
                    node.types.truncate(1);
                    // Nobody reads the second.
                    return [keep(new, node), vec![Value { node: NodeId(0), result: 0 }]].concat();
                }
                _ => {}
            }
            keep(new, node)
        })
    })
}

/// Whether an axis of the result belongs to one factor of the dot alone.
fn contracts(nest: &Nest) -> bool {
    let Expr::Op(ScalarOp::Mul, factors) = &nest.body else { return true };
    let [a, b] = [0, 1].map(|n| {
        let mut known = vec![false; nest.rank()];
        let mut see = |a: &Affine| a.visit_vars(&mut |v| known[v] = true);
        factors[n].visit(&mut |e| match e {
            Expr::Load { index, .. } => index.iter().for_each(|i| {
                if let Index::Affine(a) = i {
                    see(a);
                }
            }),
            Expr::Index(a) => see(a),
            Expr::Holds(guards) => guards.iter().for_each(|g| see(&g.expr)),
            Expr::Const(_) | Expr::Op(..) | Expr::Cast(..) => {}
        });
        known
    });
    a[..nest.outs.len()] != b[..nest.outs.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::span::Span;

    fn folds(nest: Nest, operands: usize, result: u32) -> Fold {
        let mut f = Function::new("f");
        let shape: Vec<Size> = nest.outs.iter().chain(&nest.reds).cloned().collect();
        let inputs: Vec<Value> = (0..operands).map(|_| f.input("x", Type::new(DType::F32, shape.clone()))).collect();
        let value = f.nest(nest, inputs, Span::default());
        f.results = vec![(None, Value { result, ..value })];
        let after = run(&Module { functions: vec![f], ..Module::default() });
        verify::verify(&after).unwrap();
        let fold = after.functions[0].nodes.iter().find_map(|n| if let Op::Nest(n) = &n.op { Some(n.fold) } else { None });
        fold.unwrap()
    }

    #[test]
    fn products_of_equal_axes_are_plain_sums() {
        let n = |n: i64| Size::constant(n);
        let dot = |outs: Vec<Size>, a: [usize; 3], b: [usize; 3]| {
            let body = Expr::op(ScalarOp::Mul, [load_at(0, a), load_at(1, b)]);
            folds(Nest::fold(outs, vec![n(4)], Fold::Dot, body), 2, 0)
        };
        // Every operand is [3, 3, 4].
        let fixed = |operand, last| load(operand, [Affine::var(0), Affine::constant(0), Affine::var(last)]);
        let rows = Nest::fold(vec![n(3), n(3)], vec![n(4)], Fold::Dot, Expr::op(ScalarOp::Mul, [fixed(0, 2), fixed(1, 2)]));
        assert_eq!(dot(vec![n(3), n(3)], [0, 1, 2], [0, 1, 2]), Fold::Sum);
        assert_eq!(folds(rows, 2, 0), Fold::Sum);
        let column = Nest::fold(vec![n(3), n(3)], vec![n(4)], Fold::Dot, Expr::op(ScalarOp::Mul, [load_at(0, [0, 1, 2]), fixed(1, 2)]));
        assert_eq!(folds(column, 2, 0), Fold::Dot);
    }

    #[test]
    fn a_position_that_is_read_stays() {
        let row = |fold| Nest::fold(vec![Size::constant(3)], vec![Size::constant(4)], fold, load_at(0, [0, 1]));
        assert_eq!((folds(row(Fold::ArgMax), 1, 0), folds(row(Fold::ArgMin), 1, 0)), (Fold::Max, Fold::Min));
        assert_eq!((folds(row(Fold::ArgMax), 1, 1), folds(row(Fold::Max), 1, 0)), (Fold::ArgMax, Fold::Max));
    }
}
