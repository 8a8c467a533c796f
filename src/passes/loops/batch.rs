//! Folds of a loop's body that no carry reaches are computed for all steps at once, before the loop; those that only leave it, after the loop.
//!
//! In a recurrent cell that is the product of the input with its weights: one large contraction instead of one a step. Every element is folded as
//! before, so no bit changes.

use super::{Loop, Outside, Time, each, lift, move_axis, results};
use crate::ir::*;
use crate::passes::loops::{major, prune, views};
use std::collections::BTreeMap;

/// Hoists, sinks, and hands on what is left once, with time as the first axis.
pub fn run(module: &Module) -> Module {
    major::run(&prune::run(&views::run(&each(&each(module, &mut hoist), &mut sink))))
}

fn fold(node: &Node) -> Option<Fold> {
    match &node.op {
        Op::Nest(nest) if nest.fold != Fold::None && nest.fold.results() == 1 => Some(nest.fold),
        _ => None,
    }
}

fn hoist(f: &mut Function, mut l: Loop) -> (Vec<Value>, Function) {
    let mut free: Vec<bool> = vec![];
    for (_, node) in l.body.iter() {
        let operands = || node.operands.iter().all(|v| free[v.node.0 as usize]);
        free.push(match &node.op {
            Op::Input(n) => l.input(*n).is_some(),
            Op::Constant(_) => true,
            Op::Nest(nest) => nest.fold.results() == 1 && operands(),
            Op::Reshape => operands(),
            Op::Place(_) | Op::Scatter(_) | Op::Scan(_) | Op::Sort { .. } | Op::StopGradient | Op::Call(_) | Op::Check(_) => false,
        });
    }
    let roots: Vec<NodeId> = l.body.iter().filter(|(id, node)| free[id.0 as usize] && fold(node).is_some()).map(|(id, _)| id).collect();
    let mut known: BTreeMap<NodeId, Outside> = BTreeMap::new();
    let found: Vec<(NodeId, Outside)> = roots.iter().map(|id| (*id, before(f, &l, *id, &mut known))).collect();
    // The body takes them as sequences behind its own, and as constants behind its own.
    let (old, behind) = (1 + l.scan.carries + l.scan.inputs.len(), l.operands.len());
    let stacked = found.iter().filter(|(_, o)| matches!(o, Outside::Stacked(..))).count();
    for node in &mut l.body.nodes {
        if let Op::Input(n) = &mut node.op
            && *n >= old
        {
            *n += stacked;
        }
    }
    let (mut sequences, mut constants) = (0, 0);
    for (id, outside) in found {
        let node = &mut l.body.nodes[id.0 as usize];
        let input = Input { name: node.name.clone().unwrap_or_else(|| format!("v{}", id.0).into()), ty: node.types[0].clone() };
        let number = match outside {
            Outside::Stacked(value, axis) => {
                l.operands.insert(old - 1 + sequences, value);
                l.scan.inputs.push(axis);
                sequences += 1;
                old + sequences - 1
            }
            Outside::Same(value) => {
                l.operands.push(value);
                constants += 1;
                behind + stacked + constants
            }
            Outside::Position => panic!("a fold is not the position"),
        };
        (node.op, node.operands) = (Op::Input(number), vec![]);
        l.body.inputs.insert(number.min(l.body.inputs.len()), input);
    }
    let node = l.push(f);
    (results(node, l.body.results.len()), l.body)
}

/// A value of the body that no carry reaches, before the loop.
fn before(f: &mut Function, l: &Loop, id: NodeId, known: &mut BTreeMap<NodeId, Outside>) -> Outside {
    if let Some(known) = known.get(&id) {
        return *known;
    }
    let node = l.body.node(id);
    let operands: Vec<Outside> = node.operands.iter().map(|v| before(f, l, v.node, known)).collect();
    let varies = operands.iter().any(|o| !matches!(o, Outside::Same(_)));
    let copy =
        |f: &mut Function, operands: Vec<Value>, types: Vec<Type>| Value { node: f.push_node(Node { operands, types, ..node.clone() }), result: 0 };
    let same = |o: &Outside| match o {
        Outside::Same(value) => *value,
        other => panic!("{other:?} varies"),
    };
    let outside = match &node.op {
        Op::Input(n) => l.input(*n).expect("no carry reaches it"),
        Op::Constant(_) | Op::Nest(_) | Op::Reshape if !varies => Outside::Same(copy(f, operands.iter().map(same).collect(), node.types.clone())),
        Op::Nest(nest) => {
            let at = time(nest, &operands);
            Outside::Stacked(lift(f, node, &operands, Time::Out(at), &l.scan.length), at)
        }
        Op::Reshape => {
            let Outside::Stacked(value, axis) = operands[0] else { panic!("the position has no axes") };
            let value = if axis == 0 { value } else { move_axis(f, value, axis, 0, node.span) };
            let mut ty = node.types[0].clone();
            ty.shape.insert(0, l.scan.length.clone());
            Outside::Stacked(copy(f, vec![value], vec![ty]), 0)
        }
        other => panic!("{other:?} stays in the loop"),
    };
    known.insert(id, outside);
    outside
}

/// Which axis time becomes: the one it has in an operand whose axes before it are the nest's own, so that they stay together in memory.
fn time(nest: &Nest, operands: &[Outside]) -> Var {
    let mut found = None;
    nest.body.visit(&mut |e| {
        if let Expr::Load { operand, index, .. } = e
            && let Outside::Stacked(_, axis) = operands[*operand]
            && axis <= nest.outs.len()
            && found.is_none()
            && index[..axis].iter().enumerate().all(|(k, i)| matches!(i, Index::Affine(a) if a.as_var() == Some(k)))
        {
            found = Some(axis);
        }
    });
    found.unwrap_or(0)
}

/// Contractions that only leave the loop.
fn sink(f: &mut Function, mut l: Loop) -> (Vec<Value>, Function) {
    let mut uses: BTreeMap<Value, usize> = BTreeMap::new();
    let operands = l.body.nodes.iter().flat_map(|n| &n.operands);
    operands.chain(l.body.results.iter().map(|(_, v)| v)).for_each(|v| *uses.entry(*v).or_default() += 1);
    let count = l.body.results.len();
    let mut sunk = vec![];
    let read = l.used.clone();
    for k in (l.scan.carries..count).filter(|k| read[*k]) {
        let value = l.body.results[k].1;
        let node = l.body.node(value.node).clone();
        if fold(&node) == Some(Fold::Dot) && uses.get(&value) == Some(&1) {
            let sources: Vec<_> = node.operands.iter().map(|v| l.expose(*v)).collect();
            sunk.push((k, node, sources));
        }
    }
    let id = l.push(f);
    let mut values = results(id, count);
    for (k, node, sources) in sunk {
        let operands: Vec<Outside> = sources.iter().map(|s| l.outside(*s, id)).collect();
        values[k] = lift(f, &node, &operands, Time::Out(l.scan.outputs[k - l.scan.carries]), &l.scan.length);
    }
    (values, l.body)
}
