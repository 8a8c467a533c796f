//! Equal operations on equal operands are computed once; equal functions are one.

use crate::ir::*;
use crate::passes::rebuild::{keep, rebuild};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Shares within every function, and functions that differ in their name only.
pub fn run(module: &Module) -> Module {
    let mut result = module.with(vec![]);
    let mut alike: BTreeMap<u64, Vec<FunctionId>> = BTreeMap::new();
    let mut same: Vec<FunctionId> = Vec::new();
    for f in &module.functions {
        let shared = function(f, &same);
        let id = FunctionId(result.functions.len() as u32);
        let alike = alike.entry(hash(&|h| hash_function(&shared, h))).or_default();
        let known = alike.iter().find(|other| equal(result.function(**other), &shared)).copied();
        same.push(known.unwrap_or_else(|| {
            alike.push(id);
            id
        }));
        result.functions.push(shared);
    }
    result
}

fn function(f: &Function, same: &[FunctionId]) -> Function {
    let mut seen: BTreeMap<u64, Vec<NodeId>> = BTreeMap::new();
    rebuild(f, &mut |new, mut node| {
        match &mut node.op {
            Op::Call(callee) => *callee = same[callee.0 as usize],
            Op::Scan(scan) => scan.body = same[scan.body.0 as usize],
            Op::Input(_) => return keep(new, node),
            Op::Constant(_) | Op::Nest(_) | Op::Place(_) | Op::Scatter(_) | Op::Sort { .. } | Op::Reshape | Op::StopGradient | Op::Check(_) => {}
        }
        let alike = seen.entry(hash(&|h| what(&node).hash(h))).or_default();
        if let Some(id) = alike.iter().find(|id| what(new.node(**id)) == what(&node)) {
            return (0..node.types.len() as u32).map(|result| Value { node: *id, result }).collect();
        }
        alike.push(NodeId(new.nodes.len() as u32));
        keep(new, node)
    })
}

fn hash(of: &dyn Fn(&mut DefaultHasher)) -> u64 {
    let mut hasher = DefaultHasher::new();
    of(&mut hasher);
    hasher.finish()
}

/// What a node computes: all but names and places.
fn what(node: &Node) -> (&Op, &[Value], &[Type]) {
    (&node.op, &node.operands, &node.types)
}

fn hash_function(f: &Function, hasher: &mut DefaultHasher) {
    f.inputs.iter().for_each(|i| i.ty.hash(hasher));
    f.nodes.iter().for_each(|n| what(n).hash(hasher));
    f.results.iter().for_each(|(_, v)| v.hash(hasher));
}

fn equal(f: &Function, g: &Function) -> bool {
    f.inputs.iter().map(|i| &i.ty).eq(g.inputs.iter().map(|i| &i.ty))
        && f.nodes.iter().map(what).eq(g.nodes.iter().map(what))
        && f.results.iter().map(|(_, v)| v).eq(g.results.iter().map(|(_, v)| v))
        && f.gradient == g.gradient
}
