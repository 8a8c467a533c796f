//! A value that something reads only to permute its axes is computed in the permuted order; what reads it otherwise reads through a view.

use crate::ir::*;
use crate::passes::rebuild::{each, keep, rebuild};
use std::collections::BTreeMap;

/// In every function.
pub fn run(module: &Module) -> Module {
    each(module, &mut |f| {
        let orders = orders(f);
        let mut at = 0;
        rebuild(f, &mut |new, node| {
            let order = orders.get(&NodeId(at));
            at += 1;
            match order {
                Some(order) => vec![permuted(new, node, order)],
                None => keep(new, node),
            }
        })
    })
}

/// The nodes that are better computed in another order: for each of their axes, which one it becomes.
fn orders(f: &Function) -> BTreeMap<NodeId, Vec<Var>> {
    let mut readers = vec![false; f.nodes.len()];
    let mut fixed = vec![false; f.nodes.len()];
    for node in &f.nodes {
        node.operands.iter().for_each(|v| readers[v.node.0 as usize] = true);
        if !matches!(node.op, Op::Nest(_)) {
            node.operands.iter().for_each(|v| fixed[v.node.0 as usize] = true);
        }
    }
    let mut orders = BTreeMap::new();
    for (id, node) in f.iter() {
        // A result alone may as well be copied.
        let Some((from, order)) = order(f, node).filter(|_| readers[id.0 as usize]) else { continue };
        if !fixed[from.0 as usize] {
            orders.entry(from).or_insert(order);
        }
    }
    orders
}

/// The nest that the node permutes, and which of the node's variables each of its axes is.
fn order(f: &Function, node: &Node) -> Option<(NodeId, Vec<Var>)> {
    let Op::Nest(Nest { outs, guards, fold: Fold::None, body: Expr::Load { operand, index, .. }, .. }) = &node.op else { return None };
    let from = node.operands[*operand].node;
    let Op::Nest(nest) = &f.node(from).op else { return None };
    if matches!(nest.body, Expr::Load { .. } | Expr::Const(_)) || nest.fold.results() > 1 || !guards.is_empty() || outs.len() != nest.outs.len() {
        return None;
    }
    let axis = |i: &Index| match i {
        Index::Affine(a) => a.as_var(),
        Index::Gather(_) => None,
    };
    // Every variable is some axis, at its whole length.
    let axes: Vec<Var> = index.iter().map(axis).collect::<Option<_>>()?;
    let whole = (0..outs.len()).all(|v| axes.contains(&v)) && axes.iter().zip(&nest.outs).all(|(v, size)| outs[*v] == *size);
    (whole && !axes.is_sorted()).then_some((from, axes))
}

/// Appends the nest with its axes in this order, and gives a view of it in the old one.
fn permuted(f: &mut Function, mut node: Node, axes: &[Var]) -> Value {
    let (span, Op::Nest(nest)) = (node.span, &mut node.op) else { panic!("only nests are permuted") };
    let of = |v: Var| Affine::var(if v < axes.len() { axes[v] } else { v });
    let old = nest.outs.clone();
    let mut outs = old.clone();
    axes.iter().zip(&old).for_each(|(v, size)| outs[*v] = size.clone());
    *nest =
        Nest { outs: outs.clone(), guards: nest.guards.iter().map(|g| g.substitute(&of)).collect(), body: nest.body.substitute(&of), ..nest.clone() };
    node.types[0].shape = outs;
    let values = keep(f, node);
    let mut index = vec![0; axes.len()];
    axes.iter().enumerate().for_each(|(axis, v)| index[*v] = axis);
    f.nest(Nest::map(old, load_at(0, index)), values, span)
}
