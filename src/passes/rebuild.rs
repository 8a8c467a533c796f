//! Copies functions node by node while a pass changes what it wants: operands always refer to the new function.

use crate::ir::*;

/// The function with every node replaced by what `rewrite` appends: it gets the new function and the node with operands of the new function,
/// and returns one value for each of the node's results.
pub fn rebuild(f: &Function, rewrite: &mut dyn FnMut(&mut Function, Node) -> Vec<Value>) -> Function {
    let mut new = Function::like(f);
    new.nodes.reserve(f.nodes.len());
    let mut values: Vec<Vec<Value>> = Vec::with_capacity(f.nodes.len());
    for (_, node) in f.iter() {
        let mut node = node.clone();
        node.operands.iter_mut().for_each(|v| *v = values[v.node.0 as usize][v.result as usize]);
        let results = node.types.len();
        values.push(rewrite(&mut new, node));
        debug_assert_eq!(values.last().map(Vec::len), Some(results));
    }
    new.results = f.results.iter().map(|(name, v)| (name.clone(), values[v.node.0 as usize][v.result as usize])).collect();
    new
}

/// Appends the node as it is.
pub fn keep(f: &mut Function, node: Node) -> Vec<Value> {
    let results = node.types.len() as u32;
    let node = f.push_node(node);
    (0..results).map(|result| Value { node, result }).collect()
}

/// The module with every function replaced.
pub fn each(module: &Module, rewrite: &mut dyn FnMut(&Function) -> Function) -> Module {
    module.with(module.functions.iter().map(rewrite).collect())
}

/// Drops operands that no expression loads and merges equal ones, from operand `fixed` on; gives the operands' new numbers.
pub fn tidy(operands: &mut Vec<Value>, fixed: usize, used: &dyn Fn(usize) -> bool) -> Vec<usize> {
    let mut kept: Vec<Value> = operands[..fixed].to_vec();
    let mut numbers: Vec<usize> = (0..fixed).collect();
    for (n, operand) in operands.iter().enumerate().skip(fixed) {
        match kept.iter().position(|v| v == operand) {
            Some(at) => numbers.push(at),
            None if used(n) => {
                kept.push(*operand);
                numbers.push(kept.len() - 1);
            }
            None => numbers.push(0),
        }
    }
    *operands = kept;
    numbers
}

/// Every expression of a node changed by `change`, parts first; other nodes stay.
pub fn map_exprs(op: &mut Op, change: &mut dyn FnMut(Expr) -> Expr) {
    match op {
        Op::Nest(nest) => nest.body = nest.body.map(change),
        Op::Scatter(scatter) => {
            scatter.value = scatter.value.map(change);
            scatter.index.iter_mut().for_each(|i| *i = i.map(change));
        }
        Op::Input(_)
        | Op::Constant(_)
        | Op::Place(_)
        | Op::Scan(_)
        | Op::Sort { .. }
        | Op::Reshape
        | Op::StopGradient
        | Op::Call(_)
        | Op::Check(_) => {}
    }
}

/// Calls `see` with every expression of a node.
pub fn visit_exprs(op: &Op, see: &mut dyn FnMut(&Expr)) {
    match op {
        Op::Nest(nest) => nest.body.visit(see),
        Op::Scatter(scatter) => {
            scatter.value.visit(see);
            for index in &scatter.index {
                match index {
                    Index::Affine(_) => {}
                    Index::Gather(e) => e.visit(see),
                }
            }
        }
        Op::Input(_)
        | Op::Constant(_)
        | Op::Place(_)
        | Op::Scan(_)
        | Op::Sort { .. }
        | Op::Reshape
        | Op::StopGradient
        | Op::Call(_)
        | Op::Check(_) => {}
    }
}

/// The sizes of a node's index variables.
pub fn ranges(op: &Op) -> Vec<Size> {
    match op {
        Op::Nest(nest) => nest.outs.iter().chain(&nest.reds).cloned().collect(),
        Op::Scatter(scatter) => scatter.points.clone(),
        Op::Input(_)
        | Op::Constant(_)
        | Op::Place(_)
        | Op::Scan(_)
        | Op::Sort { .. }
        | Op::Reshape
        | Op::StopGradient
        | Op::Call(_)
        | Op::Check(_) => vec![],
    }
}

/// Drops and merges the operands of a nest or scatter.
pub fn tidy_node(node: &mut Node) {
    let fixed = match node.op {
        Op::Nest(_) => 0,
        Op::Scatter(_) => 1,
        _ => return,
    };
    let mut used = vec![false; node.operands.len()];
    visit_exprs(&node.op, &mut |e| {
        if let Expr::Load { operand, .. } = e {
            used[*operand] = true;
        }
    });
    let numbers = tidy(&mut node.operands, fixed, &|n| used[n]);
    map_exprs(&mut node.op, &mut |e| match e {
        Expr::Load { operand, index, otherwise } => Expr::Load { operand: numbers[operand], index, otherwise },
        _ => e,
    });
}
