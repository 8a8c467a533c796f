//! Reverse-mode differentiation, symbolic and total.
//!
//! In: a function of primitives, cotangents of some of its values, and the values to differentiate by. Out: nodes appended to the function that
//! compute the cotangents of those values, out of the same primitives, so that the result can be differentiated again. Calls are differentiated
//! as functions: the call becomes one of `f.fwd` (the results and what the derivative needs besides), and `f.bwd` computes the cotangents.
//! Values stay valid: nodes are appended, or replaced by ones with the same results first.

mod activity;
mod bounds;
mod call;
mod data;
mod expr;
mod nest;
mod phases;
mod points;
mod scan;
mod solve;
mod table;
#[cfg(test)]
mod tests;

use crate::ir::{Function, FunctionId, Module, NodeId, Op, Value};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Appends to `f` what computes the cotangents of `wrt` from the cotangents `seeds` of some of its values (each of its value's type; several for
/// one value add up). Where there is no path, and for values that are not floats, the cotangent is zero. May add functions to the module, behind
/// those that are there; `f` itself is not in the module yet, or is put back by the caller as a new function.
pub fn vjp(module: &mut Module, f: &mut Function, seeds: &[(Value, Value)], wrt: &[Value]) -> Vec<Value> {
    let found = Grad::default().pull_back(module, f, seeds, wrt);
    let mut zeros: BTreeMap<Value, Value> = BTreeMap::new();
    found
        .into_iter()
        .zip(wrt)
        .map(|(cotangent, of)| {
            cotangent.unwrap_or_else(|| {
                *zeros.entry(*of).or_insert_with(|| {
                    let (ty, span) = (f.ty(*of).clone(), f.node(of.node).span);
                    points::zeros(f, &ty, span)
                })
            })
        })
        .collect()
}

/// One differentiation: what is already known about the module's functions.
#[derive(Default)]
struct Grad {
    pairs: BTreeMap<call::Request, Rc<call::Pair>>,
    activity: BTreeMap<(FunctionId, Vec<bool>), Vec<bool>>,
}

/// Contributions to the cotangents of values.
#[derive(Default)]
struct Cotangents {
    parts: BTreeMap<Value, Vec<Value>>,
    /// Nodes from here on are the derivative's own.
    first: u32,
}

impl Cotangents {
    fn push(&mut self, of: Value, part: Value) {
        self.parts.entry(of).or_default().push(part);
    }

    /// The sum of the contributions; later ones must not come.
    fn total(&mut self, f: &mut Function, of: Value) -> Option<Value> {
        let parts = self.parts.get_mut(&of)?;
        let node = f.node(of.node);
        let (name, span) = (node.name.clone().filter(|_| node.types.len() == 1), node.span);
        if parts.len() > 1 {
            *parts = vec![nest::add(f, parts, span)];
        }
        let total = parts[0];
        if total.node.0 >= self.first
            && let Some(name) = name
            && let node = &mut f.nodes[total.node.0 as usize]
            && node.name.is_none()
            && node.types.len() == 1
        {
            node.name = Some(format!("d{name}").into());
        }
        Some(total)
    }
}

impl Grad {
    /// As [`vjp`], with nothing where there is no path.
    fn pull_back(&mut self, module: &mut Module, f: &mut Function, seeds: &[(Value, Value)], wrt: &[Value]) -> Vec<Option<Value>> {
        let active = self.active(module, f, wrt);
        let is_active = |v: &Value| active[v.node.0 as usize][v.result as usize];
        let count = f.nodes.len();
        let mut cots = Cotangents { parts: BTreeMap::new(), first: count as u32 };
        for (of, cotangent) in seeds {
            debug_assert_eq!(f.ty(*of), f.ty(*cotangent), "a cotangent has its value's type");
            if f.ty(*of).dtype.is_float() {
                cots.push(*of, *cotangent);
            }
        }
        for n in (0..count).rev() {
            let id = NodeId(n as u32);
            let results: Vec<Value> = (0..f.node(id).types.len()).map(|r| Value { node: id, result: r as u32 }).collect();
            let operands: Vec<bool> = f.node(id).operands.iter().map(is_active).collect();
            if !operands.contains(&true) {
                continue;
            }
            let dys: Vec<Option<Value>> = results.iter().map(|v| if is_active(v) { cots.total(f, *v) } else { None }).collect();
            if dys.iter().all(Option::is_none) {
                continue;
            }
            for (of, part) in self.node(module, f, id, &operands, &dys) {
                if is_active(&of) {
                    cots.push(of, part);
                }
            }
        }
        wrt.iter().map(|v| cots.total(f, *v)).collect()
    }

    /// The contributions of one node, given the cotangents of its results, to the cotangents of its operands.
    fn node(&mut self, module: &mut Module, f: &mut Function, id: NodeId, active: &[bool], dys: &[Option<Value>]) -> Vec<(Value, Value)> {
        let first = |f: &Function| f.node(id).operands[0];
        match (&f.node(id).op, dys[0]) {
            (Op::Call(callee), _) => {
                let callee = *callee;
                self.call(module, f, id, callee, active, dys)
            }
            (Op::Scan(_), _) => self.scan(module, f, id, active, dys),
            (Op::Nest(_), Some(dy)) => nest::pull(&module.dims, f, id, active, dy),
            (Op::Place(_), Some(dy)) => data::place(&module.dims, f, id, active, dy),
            (Op::Scatter(_), Some(dy)) => data::scatter(&module.dims, f, id, active, dy),
            (Op::Sort { .. }, Some(dy)) => vec![(first(f), data::unsort(f, id, dy))],
            (Op::Reshape, Some(dy)) => {
                let (ty, span) = (f.ty(first(f)).clone(), f.node(id).span);
                vec![(first(f), f.push(Op::Reshape, [dy], ty, span))]
            }
            (Op::Check(_), Some(dy)) => vec![(first(f), dy)],
            (Op::Input(_) | Op::Constant(_) | Op::StopGradient, _) => vec![],
            (Op::Nest(_) | Op::Place(_) | Op::Scatter(_) | Op::Sort { .. } | Op::Reshape | Op::Check(_), None) => vec![],
        }
    }
}
