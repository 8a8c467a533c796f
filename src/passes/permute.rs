//! A value that is read only to permute its axes is computed in the permuted order.

use crate::ir::*;
use crate::passes::rebuild::{each, keep, rebuild};

/// In every function.
pub fn run(module: &Module) -> Module {
    each(module, &mut |f| {
        let mut uses = vec![0usize; f.nodes.len()];
        let operands = f.nodes.iter().flat_map(|n| &n.operands);
        operands.chain(f.results.iter().map(|(_, v)| v)).for_each(|v| uses[v.node.0 as usize] += 1);
        // Every node is replaced by one.
        rebuild(f, &mut |new, node| {
            let node = permuted(new, &node, &uses).unwrap_or(node);
            keep(new, node)
        })
    })
}

/// The node of which this one is the only reader, in the order that this one wants.
fn permuted(f: &Function, node: &Node, uses: &[usize]) -> Option<Node> {
    let Op::Nest(Nest { outs, guards, fold: Fold::None, body: Expr::Load { operand, index, .. }, .. }) = &node.op else { return None };
    let value = node.operands[*operand];
    let from = f.node(value.node);
    let Op::Nest(nest) = &from.op else { return None };
    if nest.fold == Fold::None || nest.fold.results() > 1 || uses[value.node.0 as usize] != 1 || !guards.is_empty() || outs.len() != nest.outs.len() {
        return None;
    }
    // Which of the reader's variables each axis is; every one is some axis, at its whole length.
    let axes: Option<Vec<Var>> = index
        .iter()
        .map(|i| match i {
            Index::Affine(a) => a.as_var(),
            Index::Gather(_) => None,
        })
        .collect();
    let axes = axes?;
    if !(0..outs.len()).all(|v| axes.contains(&v)) || axes.iter().zip(&nest.outs).any(|(v, size)| outs[*v] != *size) {
        return None;
    }
    let of = |v: Var| Affine::var(if v < axes.len() { axes[v] } else { v });
    let op = Op::Nest(Nest {
        outs: outs.clone(),
        guards: nest.guards.iter().map(|g| g.substitute(&of)).collect(),
        body: nest.body.substitute(&of),
        ..nest.clone()
    });
    let name = node.name.clone().or_else(|| from.name.clone());
    Some(Node { op, operands: from.operands.clone(), types: node.types.clone(), name, span: from.span })
}
