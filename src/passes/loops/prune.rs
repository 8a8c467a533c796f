//! Removes from loops what nothing needs: stacked results that are not read, carries that feed only themselves, inputs that the body does not use,
//! and second copies of what goes in or comes out.

use super::{Loop, each, results};
use crate::ir::*;
use std::collections::{BTreeMap, BTreeSet};

/// In every loop.
pub fn run(module: &Module) -> Module {
    each(module, &mut prune)
}

fn prune(f: &mut Function, mut l: Loop) -> (Vec<Value>, Function) {
    let carries = l.scan.carries;
    if !l.used.contains(&true) {
        let node = l.push(f);
        return (results(node, l.body.results.len()), l.body);
    }
    // Equal inputs are one, equal outputs too.
    let mut first: BTreeMap<(Value, Option<usize>), usize> = BTreeMap::new();
    let mut number: Vec<usize> = (0..=l.operands.len()).collect();
    for (n, number) in number.iter_mut().enumerate().skip(carries + 1) {
        let axis = l.scan.inputs.get(n - 1 - carries).copied();
        *number = *first.entry((l.operands[n - 1], axis)).or_insert(n);
    }
    let of: BTreeMap<usize, Value> = inputs(&l.body);
    let moved = |v: &mut Value, body: &Function| {
        if let Op::Input(n) = body.node(v.node).op
            && number[n] != n
            && let Some(kept) = of.get(&number[n])
        {
            *v = *kept;
        }
    };
    let old = l.body.clone();
    l.body.nodes.iter_mut().flat_map(|n| &mut n.operands).for_each(|v| moved(v, &old));
    l.body.results.iter_mut().for_each(|(_, v)| moved(v, &old));
    in_order(&mut l.body);
    let mut result: Vec<usize> = (0..l.body.results.len()).collect();
    for (k, result) in result.iter_mut().enumerate().skip(carries) {
        let same = |j: &usize| l.body.results[*j].1 == l.body.results[k].1 && l.scan.outputs[*j - carries] == l.scan.outputs[k - carries];
        *result = (carries..k).find(same).unwrap_or(k);
    }

    // What is needed: the results that are read, and the carries that those are made of.
    let mut wanted: BTreeSet<usize> = (0..result.len()).filter(|k| l.used[*k]).map(|k| result[k]).collect();
    let mut live;
    loop {
        live = vec![false; l.body.nodes.len()];
        wanted.iter().for_each(|k| live[l.body.results[*k].1.node.0 as usize] = true);
        for (id, node) in l.body.iter().rev() {
            if live[id.0 as usize] {
                node.operands.iter().for_each(|v| live[v.node.0 as usize] = true);
            }
        }
        let more = l.body.iter().filter_map(|(id, node)| match node.op {
            Op::Input(n) if live[id.0 as usize] && (1..=carries).contains(&n) => Some(n - 1),
            _ => None,
        });
        let before = wanted.len();
        wanted.extend(more.collect::<Vec<_>>());
        if wanted.len() == before {
            break;
        }
    }

    let needed: Vec<bool> = {
        let mut needed = vec![false; l.body.inputs.len()];
        needed[0] = true;
        wanted.iter().filter(|k| **k < carries).for_each(|k| needed[k + 1] = true);
        for (id, node) in l.body.iter() {
            if let Op::Input(n) = node.op {
                needed[n] |= live[id.0 as usize] && n > carries;
            }
        }
        needed
    };
    let count = result.len();
    let rank: BTreeMap<usize, u32> = wanted.iter().enumerate().map(|(new, k)| (*k, new as u32)).collect();
    shrink(&mut l, &needed, &wanted, &live);
    let node = l.push(f);
    // Any value stands for a result that nobody reads.
    let values = (0..count).map(|k| Value { node, result: rank.get(&result[k]).copied().unwrap_or(0) }).collect();
    (values, l.body)
}

/// The value of every input that has a node.
fn inputs(body: &Function) -> BTreeMap<usize, Value> {
    let node = |(node, n): (NodeId, &Node)| match n.op {
        Op::Input(n) => Some((n, Value { node, result: 0 })),
        _ => None,
    };
    body.iter().filter_map(node).collect()
}

/// Inputs first: what was read through a later input is now read through an earlier one, wherever its node stands.
fn in_order(body: &mut Function) {
    let (inputs, others): (Vec<NodeId>, Vec<NodeId>) = body.iter().map(|(id, _)| id).partition(|id| matches!(body.node(*id).op, Op::Input(_)));
    let order: Vec<NodeId> = inputs.into_iter().chain(others).collect();
    let mut at = vec![NodeId(0); order.len()];
    order.iter().enumerate().for_each(|(new, id)| at[id.0 as usize] = NodeId(new as u32));
    body.nodes = order.iter().map(|id| body.node(*id).clone()).collect();
    let moved = |v: &mut Value| v.node = at[v.node.0 as usize];
    body.nodes.iter_mut().flat_map(|n| &mut n.operands).for_each(moved);
    body.results.iter_mut().for_each(|(_, v)| moved(v));
}

/// Leaves the wanted results, the needed inputs and the live nodes.
fn shrink(l: &mut Loop, needed: &[bool], wanted: &BTreeSet<usize>, live: &[bool]) {
    let carries = l.scan.carries;
    let sequences = carries..carries + l.scan.inputs.len();
    l.scan.inputs = sequences.clone().filter(|k| needed[k + 1]).map(|k| l.scan.inputs[k - carries]).collect();
    l.scan.outputs = wanted.iter().filter(|k| **k >= carries).map(|k| l.scan.outputs[k - carries]).collect();
    l.scan.carries = wanted.iter().filter(|k| **k < carries).count();
    l.operands = (0..l.operands.len()).filter(|k| needed[k + 1]).map(|k| l.operands[k]).collect();
    let mut body = Function { nodes: vec![], inputs: vec![], results: vec![], ..l.body.clone() };
    body.inputs = (0..needed.len()).filter(|n| needed[*n]).map(|n| l.body.inputs[n].clone()).collect();
    let mut at: Vec<NodeId> = vec![];
    for (id, node) in l.body.iter() {
        at.push(NodeId(body.nodes.len() as u32));
        let mut node = node.clone();
        let keep = match &mut node.op {
            Op::Input(n) => {
                let keep = needed[*n];
                *n = needed[..*n].iter().filter(|k| **k).count();
                keep
            }
            _ => live[id.0 as usize],
        };
        if keep {
            node.operands.iter_mut().for_each(|v| v.node = at[v.node.0 as usize]);
            body.nodes.push(node);
        }
    }
    let moved = |v: Value| Value { node: at[v.node.0 as usize], ..v };
    body.results = wanted.iter().map(|k| (l.body.results[*k].0.clone(), moved(l.body.results[*k].1))).collect();
    l.body = body;
}
