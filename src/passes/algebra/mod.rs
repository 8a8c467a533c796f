//! The algebra that defines gradients: what differentiation writes down becomes what a textbook would.
//!
//! In: a module whose functions hold derived gradients. Out: one whose results are equal as real numbers, not to the bit: products with 0 and 1,
//! sums with 0, constant factors, selections, one-hot sums and windows' extrema are worked out. It runs once, before anything that keeps bits, so that its
//! output is what the gradient *is*. What could overflow where the original does not is left alone: only divisors without loads move.

mod fold;
mod scalar;
mod window;

use crate::ir::*;
use crate::passes::compose::{Policy, with};
use crate::passes::rebuild::{each, map_exprs, rebuild, tidy_node};
use crate::passes::{drop_dead, fold_constants, share, simplify};

/// The module in normal form.
pub fn normalise(module: &Module) -> Module {
    let mut module = module.clone();
    for _ in 0..3 {
        module = with(&fold_constants::run(&module), Policy::Formulas);
        module = each(&module, &mut |f| rebuild(f, &mut |new, node| self::node(&module.dims, new, node)));
        module = share::run(&module);
    }
    drop_dead::nodes_of(&mut module);
    module
}

fn node(dims: &[Dim], f: &mut Function, mut node: Node) -> Vec<Value> {
    // Differentiation is over.
    if node.op == Op::StopGradient {
        return node.operands;
    }
    let types: Vec<DType> = node.operands.iter().map(|v| f.ty(*v).dtype).collect();
    let dtype = |e: &Expr| e.dtype(&|k| types[k]);
    map_exprs(&mut node.op, &mut |e| scalar::expr(e, &dtype));
    if let Op::Nest(nest) = &node.op
        && matches!(nest.fold, Fold::Sum | Fold::Dot)
    {
        let node = window::summed(f, &node).unwrap_or(node);
        return fold::fold(dims, f, node);
    }
    tidy_node(&mut node);
    if let Some(spread) = window::rectified(f, &node) {
        node = spread;
    }
    match simplify::copied(f, &node) {
        Some(value) => vec![value],
        None => crate::passes::rebuild::keep(f, node),
    }
}

#[cfg(test)]
mod tests;
