//! Sums that a loop carries become one sum after it: `dW = dW + dot[b](dy[b, i] * x[b, j])` in every step is one contraction over all steps.
//!
//! That is how the gradients of a loop's weights come out of differentiation. The terms are added in another order, so this belongs to what defines
//! a gradient, not to the passes that keep bits. The carry itself is left to [`super::prune`].

use super::{Loop, Source, Time, each, lift, results};
use crate::ir::*;
use std::collections::BTreeMap;

/// A carry's term: the fold that it is, and the shape that it is given.
struct Term {
    fold: Node,
    sources: Vec<Source>,
    shape: Type,
}

/// In every loop.
pub fn run(module: &Module) -> Module {
    super::prune::run(&each(module, &mut accumulate))
}

fn accumulate(f: &mut Function, mut l: Loop) -> (Vec<Value>, Function) {
    let count = l.body.results.len();
    let mut sums: Vec<(usize, Vec<Term>)> = vec![];
    for k in 0..l.scan.carries {
        if l.used[k]
            && let Some(terms) = terms(&mut l, k)
        {
            sums.push((k, terms));
        }
    }
    let id = l.push(f);
    let mut values = results(id, count);
    for (k, terms) in sums {
        let mut sum = l.operands[k];
        let name = l.body.results[k].0.clone();
        for term in terms {
            let operands: Vec<_> = term.sources.iter().map(|s| l.outside(*s, id)).collect();
            let mut total = lift(f, &term.fold, &operands, Time::Red, &l.scan.length);
            if *f.ty(total) != term.shape {
                total = f.push(Op::Reshape, [total], term.shape.clone(), term.fold.span);
            }
            let rank = term.shape.shape.len();
            let add = Expr::op(ScalarOp::Add, [load_at(0, 0..rank), load_at(1, 0..rank)]);
            sum = f.nest(Nest::map(term.shape.shape.clone(), add), [sum, total], term.fold.span);
        }
        f.nodes[sum.node.0 as usize].name = name;
        values[k] = sum;
    }
    (values, l.body)
}

/// The terms that carry `k` grows by in every step, where it does nothing else.
fn terms(l: &mut Loop, k: usize) -> Option<Vec<Term>> {
    let mut uses: BTreeMap<Value, usize> = BTreeMap::new();
    let operands = l.body.nodes.iter().flat_map(|n| &n.operands);
    operands.chain(l.body.results.iter().map(|(_, v)| v)).for_each(|v| *uses.entry(*v).or_default() += 1);
    let (mut folds, mut carried) = (vec![], 0);
    let next = l.body.results[k].1;
    if !l.body.ty(next).dtype.is_float() {
        return None;
    }
    let mut open = vec![next];
    while let Some(value) = open.pop() {
        let node = l.body.node(value.node);
        match &node.op {
            Op::Input(n) if *n == k + 1 && uses.get(&value) == Some(&1) => carried += 1,
            Op::Nest(nest) if matches!(nest.fold, Fold::Sum | Fold::Dot) => folds.push((node.clone(), node.types[0].clone())),
            Op::Reshape => {
                let from = l.body.node(node.operands[0].node);
                match &from.op {
                    Op::Nest(nest) if matches!(nest.fold, Fold::Sum | Fold::Dot) => folds.push((from.clone(), node.types[0].clone())),
                    _ => return None,
                }
            }
            Op::Nest(nest) if nest.fold == Fold::None && nest.guards.is_empty() && uses.get(&value) == Some(&1) => {
                added(&nest.body, nest.outs.len(), &mut |operand| open.push(node.operands[operand]))?;
            }
            _ => return None,
        }
    }
    if carried != 1 || folds.is_empty() {
        return None;
    }
    let terms = folds.into_iter().rev().map(|(fold, shape)| {
        let sources = fold.operands.iter().map(|v| l.expose(*v)).collect();
        Term { fold, sources, shape }
    });
    Some(terms.collect())
}

/// Calls `see` with the operands of a sum of elements at the nest's own point; nothing where the expression is anything else.
fn added(e: &Expr, rank: usize, see: &mut dyn FnMut(usize)) -> Option<()> {
    match e {
        Expr::Op(ScalarOp::Add, args) => args.iter().try_for_each(|a| added(a, rank, see)),
        Expr::Load { operand, index, otherwise: None } if index.len() == rank => {
            let own = index.iter().enumerate().all(|(k, i)| matches!(i, Index::Affine(a) if a.as_var() == Some(k)));
            own.then(|| see(*operand))
        }
        _ => None,
    }
}
