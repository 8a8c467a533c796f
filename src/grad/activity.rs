//! Which values depend differentiably on given ones.

use crate::grad::Grad;
use crate::ir::{Function, FunctionId, Module, Op, Scan, Value};

impl Grad {
    /// For every result of every node: whether it is a float that depends on a float of `wrt`.
    pub(super) fn active(&mut self, module: &Module, f: &Function, wrt: &[Value]) -> Vec<Vec<bool>> {
        let mut active: Vec<Vec<bool>> = vec![];
        for (id, node) in f.iter() {
            let operands: Vec<bool> = node.operands.iter().map(|v| active[v.node.0 as usize][v.result as usize]).collect();
            let any = operands.contains(&true);
            let mut results = match &node.op {
                Op::Input(_) | Op::Constant(_) | Op::StopGradient => vec![false; node.types.len()],
                Op::Nest(_) | Op::Place(_) | Op::Scatter(_) | Op::Sort { .. } | Op::Reshape => vec![any; node.types.len()],
                Op::Check(_) => vec![operands[0]],
                Op::Call(callee) if any => self.active_results(module, *callee, &operands),
                Op::Scan(scan) if any => {
                    let inputs = self.active_in_scan(module, scan, &operands);
                    self.active_results(module, scan.body, &inputs)
                }
                Op::Call(_) | Op::Scan(_) => vec![false; node.types.len()],
            };
            for (r, slot) in results.iter_mut().enumerate() {
                let value = Value { node: id, result: r as u32 };
                *slot = (*slot || wrt.contains(&value)) && node.types[r].dtype.is_float();
            }
            active.push(results);
        }
        active
    }

    /// For every result of the function: whether it depends on an active input.
    pub(super) fn active_results(&mut self, module: &Module, id: FunctionId, inputs: &[bool]) -> Vec<bool> {
        let key = (id, inputs.to_vec());
        if let Some(known) = self.activity.get(&key) {
            return known.clone();
        }
        let f = module.function(id);
        let results = match &f.gradient {
            Some(custom) => {
                let any = custom.wrt.iter().any(|i| inputs[*i]);
                f.results.iter().map(|(_, v)| any && f.ty(*v).dtype.is_float()).collect()
            }
            None => {
                let active = self.active(module, f, &input_values(f, inputs));
                f.results.iter().map(|(_, v)| active[v.node.0 as usize][v.result as usize]).collect()
            }
        };
        self.activity.insert(key, Vec::clone(&results));
        results
    }

    /// Which inputs of a scan's body are active: a carry is, once its first value or the body makes it so.
    pub(super) fn active_in_scan(&mut self, module: &Module, scan: &Scan, operands: &[bool]) -> Vec<bool> {
        let mut inputs: Vec<bool> = std::iter::once(false).chain(operands.iter().copied()).collect();
        loop {
            let results = self.active_results(module, scan.body, &inputs);
            let before = inputs.clone();
            for k in 0..scan.carries {
                inputs[1 + k] |= results[k];
            }
            if inputs == before {
                return inputs;
            }
        }
    }
}

/// The values of the inputs that are marked.
pub(super) fn input_values(f: &Function, marked: &[bool]) -> Vec<Value> {
    f.iter()
        .filter_map(|(node, n)| match n.op {
            Op::Input(i) if marked[i] => Some(Value { node, result: 0 }),
            _ => None,
        })
        .collect()
}
