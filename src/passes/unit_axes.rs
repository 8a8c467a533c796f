//! Axes of size 1 leave a nest's box; a reshape of its result puts them back, and loads read through that. So an axis that only shapes have, like
//! the groups of an ordinary convolution, keeps no two nests apart.

use crate::ir::*;
use crate::passes::rebuild::{each, keep, rebuild, tidy_node};

/// In every nest of every function.
pub fn run(module: &Module) -> Module {
    each(module, &mut |f| rebuild(f, &mut |new, node| self::node(new, node)))
}

fn node(f: &mut Function, mut node: Node) -> Vec<Value> {
    let Op::Nest(nest) = &mut node.op else { return keep(f, node) };
    let one = |size: &Size| size.as_const() == Some(1);
    let outs = nest.outs.len();
    let mut gone: Vec<bool> = nest.outs.iter().map(one).collect();
    // A fold over nothing would be no fold: of reductions of one point each, one stays.
    let mut left = nest.reds.len();
    for size in nest.reds.iter().rev() {
        let drop = one(size) && left > 1;
        left -= usize::from(drop);
        gone.insert(outs, drop);
    }
    if !gone.contains(&true) {
        return keep(f, node);
    }
    let rank = |v: Var| gone[..v].iter().filter(|g| !**g).count();
    let of = |v: Var| if gone[v] { Affine::default() } else { Affine::var(rank(v)) };
    let kept = |sizes: &[Size], first: usize| sizes.iter().enumerate().filter(|(k, _)| !gone[first + k]).map(|(_, s)| s.clone()).collect::<Vec<_>>();
    let (types, span) = (node.types.clone(), node.span);
    *nest = Nest {
        outs: kept(&nest.outs, 0),
        reds: kept(&nest.reds, outs),
        guards: nest.guards.iter().map(|g| g.substitute(&of)).collect(),
        fold: nest.fold,
        body: nest.body.substitute(&of),
    };
    let shape = nest.outs.clone();
    node.types.iter_mut().for_each(|t| t.shape.clone_from(&shape));
    tidy_node(&mut node);
    let values = keep(f, node);
    let whole = |(v, ty): (Value, Type)| if *f.ty(v) == ty { v } else { f.push(Op::Reshape, [v], ty, span) };
    values.into_iter().zip(types).map(whole).collect()
}
