//! Which elements of a value anyone reads, where those lie on one side of a diagonal: weights of attention that sees no later position.
//!
//! In: a function. Out: for values of which every read stands under the same comparison of two axes, that comparison. What nobody reads is not stored.

use crate::ir::{Affine, Expr, Function, Guard, Index, IndexAtom, NodeId, Op, Relation, ScalarOp, Value};
use std::collections::BTreeMap;

/// Under which guard, over the value's own axes, a value's elements are read.
pub fn demand(f: &Function) -> BTreeMap<Value, Guard> {
    let mut found: BTreeMap<Value, Vec<Guard>> = BTreeMap::new();
    for (_, node) in f.iter() {
        match &node.op {
            Op::Nest(nest) => reads(&nest.body, &mut nest.guards.clone(), &mut |operand, index, under| {
                let guards = under.iter().filter_map(|g| own(g, index)).collect();
                meet(&mut found, node.operands[operand], guards);
            }),
            _ => node.operands.iter().for_each(|v| meet(&mut found, *v, vec![])),
        }
    }
    f.results.iter().for_each(|(_, v)| meet(&mut found, *v, vec![]));
    let computed = |id: NodeId| matches!(f.node(id).op, Op::Nest(_));
    found.into_iter().filter(|(v, _)| computed(v.node)).filter_map(|(v, guards)| Some((v, guards.into_iter().next()?))).collect()
}

/// What holds for this read and for all before it.
fn meet(found: &mut BTreeMap<Value, Vec<Guard>>, value: Value, guards: Vec<Guard>) {
    found.entry(value).and_modify(|all| all.retain(|g| guards.contains(g))).or_insert(guards);
}

/// What is done at a load: the operand, its index, and what holds there.
type See<'a> = &'a mut dyn FnMut(usize, &[Index], &[Guard]);

/// Every load with the guards that it stands under.
fn reads(e: &Expr, under: &mut Vec<Guard>, see: See) {
    match e {
        Expr::Const(_) | Expr::Index(_) | Expr::Holds(_) => {}
        Expr::Load { operand, index, .. } => {
            see(*operand, index, under);
            index.iter().for_each(|i| {
                if let Index::Gather(e) = i {
                    reads(e, under, see);
                }
            });
        }
        Expr::Op(ScalarOp::Select, args) => {
            reads(&args[0], under, see);
            let before = under.len();
            if let Expr::Holds(list) = &args[0] {
                under.extend(list.iter().cloned());
            }
            reads(&args[1], under, see);
            under.truncate(before);
            reads(&args[2], under, see);
        }
        Expr::Op(_, args) => args.iter().for_each(|a| reads(a, under, see)),
        Expr::Cast(_, a) => reads(a, under, see),
    }
}

/// A comparison of two variables as one of the axes that they index.
fn own(guard: &Guard, index: &[Index]) -> Option<Guard> {
    let [(IndexAtom::Var(a), x), (IndexAtom::Var(b), y)] = &guard.expr.terms[..] else { return None };
    let opposite = matches!((x.as_const(), y.as_const()), (Some(1), Some(-1)) | (Some(-1), Some(1)));
    let axis = |v: usize| {
        let mut at = index.iter().enumerate().filter(|(_, i)| matches!(i, Index::Affine(a) if a.as_var() == Some(v)));
        at.next().filter(|_| at.next().is_none()).map(|(n, _)| n)
    };
    let plain = index.iter().all(|i| matches!(i, Index::Affine(a) if a.as_var().is_some()));
    if !opposite || !plain || guard.relation != Relation::NonNegative {
        return None;
    }
    let expr = Affine::var(axis(*a)?).scale(x).add(&Affine::var(axis(*b)?).scale(y)).add(&Affine::constant(guard.expr.constant.clone()));
    Some(Guard { expr, relation: Relation::NonNegative })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{parse, print};
    use crate::kernel::{lower, print as kernels};

    #[test]
    fn what_is_read_on_one_side_is_stored_there() {
        let text = "fn @f(x: f32[5, 5], v: f32[5, 3]) {
  %p[t, s]: f32[5, 5] = select([t >= s], exp(%x[t, s]), 0.0)
  %q[t, s]: f32[5, 5] = exp(%x[s, t])
  %y[t, f]: f32[5, 3] = dot[s < 5](%p[t, s] * %v[s, f]) where t >= s
  %z[s, f]: f32[5, 3] = dot[t < 5](%p[t, s] * %v[t, f]) where t >= s
  %w[s, f]: f32[5, 3] = dot[t < 5](%q[t, s] * %v[t, f]) where t >= s
  %u[t]: f32[5] = sum[s < 5](%q[t, s])
  return %y, %z, %w, %u
}
";
        let module = parse::module(text).unwrap();
        let f = &module.functions[0];
        let found: Vec<String> = demand(f).keys().filter_map(|v| f.node(v.node).name.as_deref().map(str::to_string)).collect();
        assert_eq!(found, ["p"], "{}", print::module(&module));
        let lowered = lower(&module);
        let text: String = lowered.kernels.iter().map(kernels::kernel).collect();
        assert_eq!(text.matches(" skip").count(), 1, "{text}");
    }
}
