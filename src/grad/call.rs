//! Derivatives of calls: every function is differentiated once for each set of active inputs and given cotangents.

use crate::grad::Grad;
use crate::grad::points::zeros;
use crate::ir::{Function, FunctionId, Module, Node, NodeId, Op, Value};
use std::collections::BTreeMap;
use std::rc::Rc;

/// What is asked of a function's derivative.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Request {
    /// The function.
    pub function: FunctionId,
    /// Which inputs' cotangents are wanted.
    pub active: Vec<bool>,
    /// Which results have one.
    pub given: Vec<bool>,
    /// How many inputs behind the first, and how many first results, are a scan's carries: not available to the caller step by step.
    pub carries: usize,
}

/// A function's derivative.
#[derive(Debug)]
pub(super) struct Pair {
    /// The function with further results.
    pub forward: FunctionId,
    /// `(residuals.., cotangents..) -> cotangents of inputs`
    pub backward: FunctionId,
    /// What `backward` takes first.
    pub residuals: Vec<Residual>,
    /// The results whose cotangents it takes then.
    pub given: Vec<usize>,
    /// For each input, which result of `backward` is its cotangent.
    pub inputs: Vec<Option<usize>>,
}

/// A value of the forward run that the backward run needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Residual {
    /// The operand of the call.
    Input(usize),
    /// A result of `forward`.
    Result(usize),
}

impl Grad {
    /// The contributions of a call.
    pub(super) fn call(
        &mut self,
        module: &mut Module,
        f: &mut Function,
        id: NodeId,
        callee: FunctionId,
        active: &[bool],
        dys: &[Option<Value>],
    ) -> Vec<(Value, Value)> {
        // The forward function of a custom gradient keeps that gradient for its results; what it saves is differentiated as usual, at a call of
        // its own, so that the rule still holds when this one is differentiated again.
        let owner = module.functions.iter().find(|g| g.gradient.as_ref().is_some_and(|c| c.forward == callee));
        if let Some(owner) = owner {
            let (custom, count) = (owner.gradient.clone().expect("an owner has a gradient"), owner.results.len());
            let mut found = vec![];
            if dys[..count].iter().any(Option::is_some) {
                let pair = custom_pair(module, callee, count, &custom);
                found.extend(backward(module, f, id, &pair, active, dys));
            }
            if dys[count..].iter().any(Option::is_some) {
                let dys: Vec<Option<Value>> = dys.iter().enumerate().map(|(k, d)| d.filter(|_| k >= count)).collect();
                let given = dys.iter().map(Option::is_some).collect();
                let pair = self.pair(module, Request { function: callee, active: active.to_vec(), given, carries: 0 });
                let node = f.node(id).clone();
                let again = f.call(pair.forward, module.function(pair.forward), node.operands, node.span);
                found.extend(backward(module, f, again, &pair, active, &dys));
            }
            return found;
        }
        let given = dys.iter().map(Option::is_some).collect();
        let pair = self.pair(module, Request { function: callee, active: active.to_vec(), given, carries: 0 });
        if pair.inputs.iter().all(Option::is_none) {
            return vec![];
        }
        let forward = module.function(pair.forward);
        let types = forward.results.iter().map(|(_, v)| forward.ty(*v).clone());
        let node = &mut f.nodes[id.0 as usize];
        node.op = Op::Call(pair.forward);
        let have = node.types.len();
        node.types.extend(types.skip(have));
        backward(module, f, id, &pair, active, dys)
    }

    /// The function's derivative.
    pub(super) fn pair(&mut self, module: &mut Module, request: Request) -> Rc<Pair> {
        if let Some(known) = self.pairs.get(&request) {
            return known.clone();
        }
        let f = module.function(request.function);
        let pair = match f.gradient.clone() {
            Some(custom) => custom_pair(module, custom.forward, f.results.len(), &custom),
            None => self.derive(module, &request),
        };
        let pair = Rc::new(pair);
        self.pairs.insert(request, pair.clone());
        pair
    }

    fn derive(&mut self, module: &mut Module, request: &Request) -> Pair {
        let original = module.function(request.function).clone();
        let count = original.nodes.len();
        let mut both = original.clone();
        let given: Vec<usize> = (0..request.given.len()).filter(|k| request.given[*k]).collect();
        let seeds: Vec<(Value, Value)> = given
            .iter()
            .map(|k| {
                let (name, value) = &original.results[*k];
                let node = original.node(value.node);
                let name = name.clone().or_else(|| node.name.clone()).unwrap_or_else(|| format!("y{k}").into());
                (*value, both.input(&format!("d{name}"), original.ty(*value).clone()))
            })
            .collect();
        let numbers: Vec<(usize, Value)> = original
            .iter()
            .filter_map(|(node, n)| match n.op {
                Op::Input(i) if request.active[i] => Some((i, Value { node, result: 0 })),
                _ => None,
            })
            .collect();
        let wrt: Vec<Value> = numbers.iter().map(|(_, v)| *v).collect();
        let found = self.pull_back(module, &mut both, &seeds, &wrt);
        let mut inputs = vec![None; original.inputs.len()];
        let mut results: Vec<(Option<std::sync::Arc<str>>, Value)> = vec![];
        for ((i, _), cotangent) in numbers.iter().zip(found) {
            if let Some(cotangent) = cotangent {
                inputs[*i] = Some(results.len());
                results.push((Some(format!("d{}", original.inputs[*i].name).into()), cotangent));
            }
        }

        // Forward: the original nodes. Backward: the others, as far as they are needed.
        let mut needed = vec![false; both.nodes.len()];
        results.iter().for_each(|(_, v)| needed[v.node.0 as usize] = true);
        for n in (count..both.nodes.len()).rev() {
            if needed[n] {
                both.nodes[n].operands.iter().for_each(|v| needed[v.node.0 as usize] = true);
            }
        }
        let mut saved: Vec<Value> = results.iter().map(|(_, v)| *v).filter(|v| (v.node.0 as usize) < count).collect();
        for n in (count..both.nodes.len()).filter(|n| needed[*n]) {
            saved.extend(both.nodes[n].operands.iter().filter(|v| (v.node.0 as usize) < count));
        }
        saved.sort();
        saved.dedup();

        let mut forward = Function { nodes: both.nodes[..count].to_vec(), ..original.clone() };
        let mut backward = Function::new(&format!("{}.bwd", original.name));
        let mut place: BTreeMap<Value, Value> = BTreeMap::new();
        let mut residuals = vec![];
        let mut copies = vec![];
        for value in saved {
            let node = &both.nodes[value.node.0 as usize];
            let residual = match node.op {
                Op::Input(i) if !(1..=request.carries).contains(&i) => Some(Residual::Input(i)),
                Op::Input(_) => None,
                _ if node.operands.is_empty() => {
                    copies.push((value, node.clone()));
                    continue;
                }
                _ => None,
            };
            let residual = residual.unwrap_or_else(|| {
                let known = (request.carries..forward.results.len()).find(|k| forward.results[*k].1 == value);
                Residual::Result(known.unwrap_or_else(|| {
                    forward.results.push((node.name.clone(), value));
                    forward.results.len() - 1
                }))
            });
            residuals.push(residual);
            let name = node.name.clone().unwrap_or_else(|| format!("v{}", value.node.0).into());
            place.insert(value, backward.input(&name, both.ty(value).clone()));
        }
        for (k, (_, seed)) in given.iter().zip(&seeds) {
            let name = both.node(seed.node).name.clone().expect("an input has a name");
            place.insert(*seed, backward.input(&name, original.ty(original.results[*k].1).clone()));
        }
        for (value, node) in copies {
            place.insert(value, Value { node: backward.push_node(node), result: value.result });
        }
        for n in (count..both.nodes.len()).filter(|n| needed[*n]) {
            let node = both.nodes[n].clone();
            if matches!(node.op, Op::Input(_)) {
                continue;
            }
            let operands = node.operands.iter().map(|v| place[v]).collect();
            let results = node.types.len() as u32;
            let new = backward.push_node(Node { operands, ..node });
            for result in 0..results {
                place.insert(Value { node: NodeId(n as u32), result }, Value { node: new, result });
            }
        }
        backward.results = results.into_iter().map(|(name, v)| (name, place[&v])).collect();
        let forward = if forward == original {
            request.function
        } else {
            forward.name = format!("{}.fwd", original.name).into();
            module.add(forward)
        };
        Pair { forward, backward: module.add(backward), residuals, given, inputs }
    }
}

/// A derivative written by hand, of a function with `count` results.
fn custom_pair(module: &Module, forward: FunctionId, count: usize, custom: &crate::ir::CustomGradient) -> Pair {
    let f = module.function(forward);
    Pair {
        forward,
        backward: custom.backward,
        residuals: (count..f.results.len()).map(Residual::Result).collect(),
        given: (0..count).filter(|k| f.ty(f.results[*k].1).dtype.is_float()).collect(),
        inputs: (0..f.inputs.len()).map(|i| custom.wrt.iter().position(|w| *w == i)).collect(),
    }
}

/// Appends the call of `pair.backward` for the call node `id` of `pair.forward`.
fn backward(module: &Module, f: &mut Function, id: NodeId, pair: &Pair, active: &[bool], dys: &[Option<Value>]) -> Vec<(Value, Value)> {
    let node = f.node(id).clone();
    let mut operands: Vec<Value> = pair
        .residuals
        .iter()
        .map(|r| match r {
            Residual::Input(i) => node.operands[*i],
            Residual::Result(k) => Value { node: id, result: *k as u32 },
        })
        .collect();
    for k in &pair.given {
        operands.push(dys[*k].unwrap_or_else(|| zeros(f, &node.types[*k], node.span)));
    }
    let call = f.call(pair.backward, module.function(pair.backward), operands, node.span);
    // It is called after the first thing it gives.
    let first = node.operands.iter().zip(&pair.inputs).find(|(v, to)| **to == Some(0) && v.result == 0).map(|(v, _)| f.node(v.node).name.clone());
    f.nodes[call.0 as usize].name = first.flatten().map(|name| format!("d{name}").into());
    let result = |r: usize| Value { node: call, result: r as u32 };
    (0..node.operands.len()).filter(|i| active[*i]).filter_map(|i| pair.inputs[i].map(|r| (node.operands[i], result(r)))).collect()
}
