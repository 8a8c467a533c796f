//! Removes what nothing needs: nodes, functions that no entry reaches, inputs and results of functions that are only called, and numbers that an entry
//! asks its loop for (scalars, the step, a key) without reading them. Data and tensors are what a program declares: entries keep them.

use crate::ir::*;
use nnc_runtime::manifest::Source;

/// Drops until nothing is left to drop.
pub fn run(module: &Module) -> Module {
    let mut module = module.clone();
    loop {
        let before = size(&module);
        module.functions.iter_mut().for_each(nodes);
        signatures(&mut module);
        functions(&mut module);
        if size(&module) == before {
            return module;
        }
    }
}

/// Drops nodes only.
pub fn nodes_of(module: &mut Module) {
    module.functions.iter_mut().for_each(nodes);
}

fn size(module: &Module) -> [usize; 4] {
    let sum = |count: &dyn Fn(&Function) -> usize| module.functions.iter().map(count).sum();
    [module.functions.len(), sum(&|f| f.nodes.len()), sum(&|f| f.inputs.len()), sum(&|f| f.results.len())]
}

/// Nodes that no result needs; every input keeps its node.
fn nodes(f: &mut Function) {
    let mut needed = vec![false; f.nodes.len()];
    f.results.iter().for_each(|(_, v)| needed[v.node.0 as usize] = true);
    for (id, node) in f.iter().rev() {
        needed[id.0 as usize] |= matches!(node.op, Op::Input(_));
        if needed[id.0 as usize] {
            node.operands.iter().for_each(|v| needed[v.node.0 as usize] = true);
        }
    }
    let mut ids: Vec<NodeId> = Vec::new();
    let mut kept = 0;
    for needed in &needed {
        ids.push(NodeId(kept));
        kept += u32::from(*needed);
    }
    let mut at = needed.iter();
    f.nodes.retain(|_| *at.next().unwrap_or(&true));
    let moved = |v: &mut Value| v.node = ids[v.node.0 as usize];
    f.nodes.iter_mut().flat_map(|n| &mut n.operands).for_each(moved);
    f.results.iter_mut().for_each(|(_, v)| moved(v));
}

/// Functions that are called and nothing else: not an entry's, not a scan's body, without a part in a gradient.
pub(super) fn only_called(module: &Module) -> Vec<bool> {
    let mut free = vec![!module.entries.is_empty(); module.functions.len()];
    let mut bind = |id: FunctionId| free[id.0 as usize] = false;
    module.entries.iter().for_each(|e| bind(e.function));
    for (at, f) in module.functions.iter().enumerate() {
        if let Some(g) = &f.gradient {
            [g.forward, g.backward, FunctionId(at as u32)].into_iter().for_each(&mut bind);
        }
        for node in &f.nodes {
            if let Op::Scan(scan) = &node.op {
                bind(scan.body);
            }
        }
    }
    free
}

/// For every function the entry that runs it, where nothing else uses it.
fn asked(module: &Module) -> Vec<Option<usize>> {
    let mut users: Vec<Vec<Option<usize>>> = vec![vec![]; module.functions.len()];
    let mut user = |id: FunctionId, entry: Option<usize>| users[id.0 as usize].push(entry);
    module.entries.iter().enumerate().for_each(|(n, e)| user(e.function, Some(n)));
    for (at, f) in module.functions.iter().enumerate() {
        let parts = f.gradient.iter().flat_map(|g| [g.forward, g.backward, FunctionId(at as u32)]);
        let called = f.nodes.iter().filter_map(|n| match &n.op {
            Op::Call(callee) => Some(*callee),
            Op::Scan(scan) => Some(scan.body),
            _ => None,
        });
        parts.chain(called).for_each(|id| user(id, None));
    }
    users.into_iter().map(|users| if let [Some(entry)] = users[..] { Some(entry) } else { None }).collect()
}

fn signatures(module: &mut Module) {
    let free = only_called(module);
    let mut results: Vec<Vec<bool>> = module.functions.iter().map(|f| vec![false; f.results.len()]).collect();
    for f in &module.functions {
        let mut used = |v: &Value| {
            if let Op::Call(callee) = f.node(v.node).op {
                results[callee.0 as usize][v.result as usize] = true;
            }
        };
        f.nodes.iter().flat_map(|n| &n.operands).for_each(&mut used);
        f.results.iter().for_each(|(_, v)| used(v));
    }
    let asked = asked(module);
    let mut inputs: Vec<Vec<bool>> = Vec::new();
    for (at, f) in module.functions.iter().enumerate() {
        let number = |n: usize| asked[at].is_some_and(|e| matches!(module.entries[e].inputs[n], Source::Scalar(_) | Source::Step | Source::Key));
        let mut used: Vec<bool> = (0..f.inputs.len()).map(|n| !free[at] && !number(n)).collect();
        let mut see = |v: Value| {
            if let Op::Input(n) = f.node(v.node).op {
                used[n] = true;
            }
        };
        f.nodes.iter().flat_map(|n| &n.operands).for_each(|v| see(*v));
        f.results.iter().for_each(|(_, v)| see(*v));
        inputs.push(used);
        if !free[at] {
            results[at].fill(true);
        }
    }
    for (at, entry) in asked.iter().enumerate() {
        entry.iter().for_each(|e| retain(&mut module.entries[*e].inputs, &inputs[at]));
    }
    let rank = |used: &[bool], n: usize| used[..n].iter().filter(|u| **u).count();
    for (at, f) in module.functions.iter_mut().enumerate() {
        for n in 0..f.nodes.len() {
            let Op::Call(callee) = f.nodes[n].op else { continue };
            let (keep_inputs, keep_results) = (&inputs[callee.0 as usize], &results[callee.0 as usize]);
            retain(&mut f.nodes[n].operands, keep_inputs);
            retain(&mut f.nodes[n].types, keep_results);
            let moved = |v: &mut Value| {
                if v.node.0 as usize == n {
                    v.result = rank(keep_results, v.result as usize) as u32;
                }
            };
            f.nodes[n + 1..].iter_mut().flat_map(|n| &mut n.operands).for_each(moved);
            f.results.iter_mut().for_each(|(_, v)| moved(v));
        }
        retain(&mut f.results, &results[at]);
        if inputs[at].contains(&false) {
            // Dropped inputs' nodes have no use: they go before the inputs do.
            let kept = inputs[at].clone();
            drop_inputs(f, &kept);
        }
    }
}

fn drop_inputs(f: &mut Function, kept: &[bool]) {
    let gone = |node: &Node| matches!(node.op, Op::Input(n) if !kept[n]);
    let mut ids = Vec::new();
    let mut count = 0;
    for node in &f.nodes {
        ids.push(NodeId(count));
        count += u32::from(!gone(node));
    }
    f.nodes.retain(|node| !gone(node));
    for node in &mut f.nodes {
        if let Op::Input(n) = &mut node.op {
            *n = kept[..*n].iter().filter(|k| **k).count();
        }
        node.operands.iter_mut().for_each(|v| v.node = ids[v.node.0 as usize]);
    }
    f.results.iter_mut().for_each(|(_, v)| v.node = ids[v.node.0 as usize]);
    retain(&mut f.inputs, kept);
}

fn retain<T>(items: &mut Vec<T>, kept: &[bool]) {
    let mut at = kept.iter();
    items.retain(|_| *at.next().unwrap_or(&true));
}

/// Functions that no entry reaches; without entries everything stays.
fn functions(module: &mut Module) {
    if module.entries.is_empty() {
        return;
    }
    let mut needed = vec![false; module.functions.len()];
    let mut open: Vec<FunctionId> = module.entries.iter().map(|e| e.function).collect();
    while let Some(id) = open.pop() {
        if std::mem::replace(&mut needed[id.0 as usize], true) {
            continue;
        }
        let f = module.function(id);
        open.extend(f.gradient.iter().flat_map(|g| [g.forward, g.backward]));
        open.extend(f.nodes.iter().filter_map(|n| match &n.op {
            Op::Call(callee) => Some(*callee),
            Op::Scan(scan) => Some(scan.body),
            _ => None,
        }));
    }
    let moved = |id: &mut FunctionId| id.0 = needed[..id.0 as usize].iter().filter(|n| **n).count() as u32;
    module.entries.iter_mut().for_each(|e| moved(&mut e.function));
    for f in &mut module.functions {
        if let Some(g) = &mut f.gradient {
            moved(&mut g.forward);
            moved(&mut g.backward);
        }
        for node in &mut f.nodes {
            match &mut node.op {
                Op::Call(callee) => moved(callee),
                Op::Scan(scan) => moved(&mut scan.body),
                _ => {}
            }
        }
    }
    retain(&mut module.functions, &needed);
}

#[cfg(test)]
mod tests {
    use super::*;
    use nnc_runtime::manifest::Sink;

    /// An entry asks for the numbers that it reads, whatever its schedule was offered; data and tensors are its signature.
    #[test]
    fn entries_ask_for_no_number_that_they_do_not_read() {
        let text = "fn @step(x: f32[3], w: f32[3], step: i64, epoch: f64, lr: f64, key: i64) {
  %n[i]: f32[3] = %w[i] * f32(%lr)
  return %n
}
";
        let mut module = crate::ir::parse::module(text).unwrap();
        let [epoch, lr] = ["epoch", "lr"].map(|n| Source::Scalar(n.into()));
        let (x, w) = (Source::Data("x".into()), Source::Tensor("w".into()));
        let inputs = vec![x.clone(), w.clone(), Source::Step, epoch, lr.clone(), Source::Key];
        module.entries = vec![Entry { name: "train:test".into(), function: FunctionId(0), inputs, results: vec![Sink::Tensor("w".into())] }];
        // A second entry of the same function keeps them: its caller counts on their order.
        let mut shared = module.clone();
        shared.entries.push(shared.entries[0].clone());
        assert_eq!(run(&shared).entries[0].inputs.len(), 6);
        let module = run(&module);
        assert_eq!(module.entries[0].inputs, [x, w, lr]);
        let names: Vec<&str> = module.functions[0].inputs.iter().map(|i| &*i.name).collect();
        assert_eq!(names, ["x", "w", "lr"]);
        crate::ir::verify::verify(&module).unwrap();
    }
}
