//! Where `x <= 0` is asked and `y = select(x <= 0, 0, x)` is there already, `y <= 0` says the same: the gradient of a rectifier needs its result
//! only, and what went into it need not be stored.

use crate::ir::*;
use crate::passes::rebuild::{each, keep, rebuild, tidy_node, visit_exprs};
use std::collections::BTreeMap;

/// In every function.
pub fn run(module: &Module) -> Module {
    each(module, &mut |f| {
        let mut known: BTreeMap<Value, Value> = BTreeMap::new();
        rebuild(f, &mut |new, mut node| {
            let own = rectifies(&node);
            if own.is_none() {
                compare(&mut node, &known);
            }
            let values = keep(new, node);
            if let Some(x) = own {
                known.entry(x).or_insert(values[0]);
            }
            values
        })
    })
}

fn is_zero(e: &Expr) -> bool {
    matches!(e, Expr::Const(c) if c.dtype().is_float() && c.to_f64() == 0.0)
}

/// What the node is the rectified value of.
fn rectifies(node: &Node) -> Option<Value> {
    let Op::Nest(Nest { outs, guards, fold: Fold::None, body: Expr::Op(ScalarOp::Select, args), .. }) = &node.op else { return None };
    let (Expr::Op(ScalarOp::Le, sides), Expr::Load { operand, index, otherwise: None }) = (&args[0], &args[2]) else { return None };
    let own = index.len() == outs.len() && index.iter().enumerate().all(|(k, i)| matches!(i, Index::Affine(a) if a.as_var() == Some(k)));
    (own && guards.is_empty() && sides[0] == args[2] && is_zero(&sides[1]) && is_zero(&args[1])).then(|| node.operands[*operand])
}

fn compare(node: &mut Node, known: &BTreeMap<Value, Value>) {
    let mut operands = node.operands.clone();
    // A value that is read in another way too is there anyway.
    let mut compared: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    visit_exprs(&node.op, &mut |e| match e {
        Expr::Load { operand, .. } => compared.entry(*operand).or_default().0 += 1,
        Expr::Op(ScalarOp::Le, sides) if is_zero(&sides[1]) => {
            if let Expr::Load { operand, otherwise: None, .. } = &sides[0] {
                compared.entry(*operand).or_default().1 += 1;
            }
        }
        _ => {}
    });
    let mut changed = false;
    crate::passes::rebuild::map_exprs(&mut node.op, &mut |e| {
        if let Expr::Op(ScalarOp::Le, sides) = &e
            && is_zero(&sides[1])
            && let Expr::Load { operand, index, otherwise: None } = &sides[0]
            && compared.get(operand).is_some_and(|(loads, compared)| loads == compared)
            && let Some(rectified) = known.get(&node.operands[*operand])
        {
            operands.push(*rectified);
            changed = true;
            let load = Expr::Load { operand: operands.len() - 1, index: index.clone(), otherwise: None };
            return Expr::Op(ScalarOp::Le, vec![load, sides[1].clone()]);
        }
        e
    });
    if changed {
        node.operands = operands;
        tidy_node(node);
    }
}
