//! Puts bodies in place of calls: of small functions everywhere, of others where they are called once. What is called several times and is not
//! small stays a function, so that its code exists once.

use crate::ir::*;
use crate::passes::rebuild::{keep, rebuild};

/// Bodies of up to this many nodes, inputs not counted, are small.
const SMALL: usize = 8;

/// Inlines in every function, callees first.
pub fn run(module: &Module) -> Module {
    let mut uses = vec![0usize; module.functions.len()];
    for node in module.functions.iter().flat_map(|f| &f.nodes) {
        match &node.op {
            Op::Call(callee) => uses[callee.0 as usize] += 1,
            // A scan's body stays a function of its own.
            Op::Scan(scan) => uses[scan.body.0 as usize] += 2,
            _ => {}
        }
    }
    let mut result = module.with(vec![]);
    for f in &module.functions {
        let inlined = rebuild(f, &mut |new, node| match node.op {
            Op::Call(callee) => {
                let body = &result.functions[callee.0 as usize];
                let size = body.nodes.len() - body.inputs.len();
                let own_gradient = body.gradient.is_some();
                match !own_gradient && (size <= SMALL || uses[callee.0 as usize] == 1) {
                    true => inline(new, body, &node),
                    false => keep(new, node),
                }
            }
            _ => keep(new, node),
        });
        result.functions.push(inlined);
    }
    result
}

fn inline(f: &mut Function, body: &Function, call: &Node) -> Vec<Value> {
    let mut values: Vec<Vec<Value>> = Vec::with_capacity(body.nodes.len());
    for (_, inner) in body.iter() {
        if let Op::Input(n) = inner.op {
            values.push(vec![call.operands[n]]);
            continue;
        }
        let mut inner = Node { span: inner.span.seen_from(call.span), ..inner.clone() };
        inner.operands.iter_mut().for_each(|v| *v = values[v.node.0 as usize][v.result as usize]);
        values.push(keep(f, inner));
    }
    let results: Vec<Value> = body.results.iter().map(|(_, v)| values[v.node.0 as usize][v.result as usize]).collect();
    for (r, (value, (name, _))) in results.iter().zip(&body.results).enumerate() {
        let name = if r == 0 { call.name.as_ref().or(name.as_ref()) } else { name.as_ref() };
        let node = &mut f.nodes[value.node.0 as usize];
        if name.is_some() && node.types.len() == 1 && !call.operands.contains(value) {
            node.name = name.cloned();
        }
    }
    results
}
