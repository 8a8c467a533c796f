//! Evaluates what depends on literals only, by the reference evaluator; loads of literal tensors at known places become literals.

use crate::ir::*;
use crate::math;
use crate::passes::rebuild::{each, keep, map_exprs, rebuild, tidy_node};
use nnc_runtime::tensor::{Tensor, elements};

/// Results up to this many elements are stored as literals, and boxes up to the square of it evaluated.
const LARGEST: i64 = 256;

/// Folds constants in every function.
pub fn run(module: &Module) -> Module {
    each(module, &mut |f| rebuild(f, &mut |new, node| self::node(module, new, node)))
}

fn node(module: &Module, f: &mut Function, mut node: Node) -> Vec<Value> {
    let literals: Vec<Option<Tensor>> = node.operands.iter().map(|v| literal(f, *v)).collect();
    // A dot keeps its product at the root.
    let root = matches!(&node.op, Op::Nest(Nest { fold: Fold::Dot, .. }));
    let change = |e: Expr| self::expr(e, &literals);
    match &mut node.op {
        Op::Nest(Nest { body: Expr::Op(_, factors), .. }) if root => factors.iter_mut().for_each(|a| *a = a.map(&mut |e| change(e))),
        op => map_exprs(op, &mut |e| change(e)),
    }
    tidy_node(&mut node);
    let literals: Vec<Option<Tensor>> = node.operands.iter().map(|v| literal(f, *v)).collect();
    match evaluated(module, &node, &literals) {
        Some(tensors) => {
            let constant = |(tensor, ty): (Tensor, &Type)| {
                let op = Op::Constant(tensor.scalars().into());
                let node = Node { op, operands: vec![], types: vec![ty.clone()], name: node.name.clone(), span: node.span };
                Value { node: f.push_node(node), result: 0 }
            };
            tensors.into_iter().zip(&node.types).map(constant).collect()
        }
        None => keep(f, node),
    }
}

/// The tensor, where the value is a literal.
fn literal(f: &Function, value: Value) -> Option<Tensor> {
    let node = f.node(value.node);
    let Op::Constant(values) = &node.op else { return None };
    let shape: Option<Vec<i64>> = node.types[0].shape.iter().map(Size::as_const).collect();
    Some(Tensor::from_scalars(node.types[0].dtype, &shape?, values))
}

/// The results, where all operands are literals and the work is small.
fn evaluated(module: &Module, node: &Node, literals: &[Option<Tensor>]) -> Option<Vec<Tensor>> {
    match node.op {
        Op::Nest(_) | Op::Place(_) | Op::Scatter(_) | Op::Sort { .. } | Op::Reshape => {}
        Op::Input(_) | Op::Constant(_) | Op::Scan(_) | Op::StopGradient | Op::Call(_) | Op::Check(_) => return None,
    }
    let operands: Option<Vec<&Tensor>> = literals.iter().map(Option::as_ref).collect();
    // A nest without operands is a formula: shorter than its values, unless it is one.
    let operands = operands.filter(|o| !o.is_empty() || node.types.iter().all(|t| t.shape.is_empty()))?;
    let small = |shape: &[Size], most: i64| {
        let sizes: Option<Vec<i64>> = shape.iter().map(Size::as_const).collect();
        sizes.and_then(|s| elements(&s)).is_some_and(|n| n <= most)
    };
    let work = crate::passes::rebuild::ranges(&node.op);
    if !node.types.iter().all(|t| small(&t.shape, LARGEST)) || !small(&work, LARGEST * LARGEST) {
        return None;
    }
    // What fails fails when it is run.
    crate::ir::eval::node(module, node, &operands, &[], &Dims::new()).ok()
}

fn expr(e: Expr, literals: &[Option<Tensor>]) -> Expr {
    let value = |e: &Expr| match e {
        Expr::Const(c) => Some(*c),
        Expr::Index(a) => a.as_size().and_then(Size::as_const).map(Scalar::i64),
        Expr::Load { .. } | Expr::Holds(_) | Expr::Op(..) | Expr::Cast(..) => None,
    };
    match &e {
        Expr::Op(op, args) => match args.iter().map(value).collect::<Option<Vec<Scalar>>>() {
            Some(args) => Expr::Const(math::apply(*op, &args)),
            None => e,
        },
        Expr::Cast(to, from) => value(from).map_or(e.clone(), |c| Expr::Const(math::cast(*to, c))),
        Expr::Load { operand, index, otherwise } => {
            let Some(tensor) = &literals[*operand] else { return e };
            let at = |i: &Index| match i {
                Index::Affine(a) => a.as_size().and_then(Size::as_const),
                Index::Gather(g) => value(g).map(Scalar::to_i64),
            };
            let Some(at) = index.iter().map(at).collect::<Option<Vec<i64>>>() else { return e };
            let inside = at.iter().zip(&tensor.shape).all(|(i, size)| (0..*size).contains(i));
            match (inside, otherwise) {
                (true, _) => Expr::Const(tensor.get(at.iter().zip(&tensor.shape).fold(0, |sum, (i, size)| sum * size + i) as usize)),
                (false, Some(value)) => Expr::Const(*value),
                (false, None) => e,
            }
        }
        Expr::Const(_) | Expr::Index(_) | Expr::Holds(_) => e,
    }
}
