//! Equal operations on equal operands are computed once; equal functions are one.

use crate::ir::*;
use crate::passes::rebuild::{keep, rebuild};
use std::collections::BTreeMap;

/// Shares within every function, and functions that differ in their name only.
pub fn run(module: &Module) -> Module {
    let mut result = module.clone();
    let mut functions: BTreeMap<String, FunctionId> = BTreeMap::new();
    let mut same: Vec<FunctionId> = Vec::new();
    for (id, f) in module.functions.iter().enumerate() {
        let id = FunctionId(id as u32);
        let shared = function(f, &same);
        let key = key_of_function(&shared);
        result.functions[id.0 as usize] = shared;
        same.push(*functions.entry(key).or_insert(id));
    }
    result
}

fn function(f: &Function, same: &[FunctionId]) -> Function {
    let mut seen: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    rebuild(f, &mut |new, mut node| {
        match &mut node.op {
            Op::Call(callee) => *callee = same[callee.0 as usize],
            Op::Scan(scan) => scan.body = same[scan.body.0 as usize],
            Op::Input(_) => return keep(new, node),
            Op::Constant(_) | Op::Nest(_) | Op::Place(_) | Op::Scatter(_) | Op::Sort { .. } | Op::Reshape | Op::StopGradient | Op::Check(_) => {}
        }
        let key = key(&node);
        if let Some(values) = seen.get(&key) {
            return values.clone();
        }
        let values = keep(new, node);
        seen.insert(key, values.clone());
        values
    })
}

fn key(node: &Node) -> String {
    format!("{:?}{:?}{:?}", node.op, node.operands, node.types)
}

fn key_of_function(f: &Function) -> String {
    let types: Vec<&Type> = f.inputs.iter().map(|i| &i.ty).collect();
    let nodes: Vec<String> = f.nodes.iter().map(key).collect();
    let results: Vec<Value> = f.results.iter().map(|(_, v)| *v).collect();
    format!("{types:?}{nodes:?}{results:?}{:?}", f.gradient)
}
