//! Rewrites of a scan together with its body and what stands around it.
//!
//! A loop's body is a function of its own, so such a rewrite changes two functions at once: [`each`] gives it the loop, lets it append to the
//! function around it, and puts the changed body in place. A body that several loops share is copied first.

pub mod accumulate;
pub mod batch;
pub mod major;
pub mod prune;
pub mod views;

use crate::ir::*;
use crate::passes::rebuild::{keep, rebuild};
use crate::span::Span;
use std::sync::Arc;

/// A scan with its body, while it is rewritten.
pub struct Loop {
    /// The node's operation.
    pub scan: Scan,
    /// Of the node, in the function under construction.
    pub operands: Vec<Value>,
    /// Which of the node's results the function needs.
    pub used: Vec<bool>,
    /// The body.
    pub body: Function,
    name: Option<Arc<str>>,
    span: Span,
}

/// What a value of the body is outside of the loop.
#[derive(Clone, Copy, Debug)]
pub enum Outside {
    /// The position along time.
    Position,
    /// The same value in every step.
    Same(Value),
    /// All steps' values, with the axis of time.
    Stacked(Value, usize),
}

/// Where a value of the body is known outside.
#[derive(Clone, Copy, Debug)]
pub enum Source {
    /// Before the loop.
    Known(Outside),
    /// As this result of the loop.
    Result(usize),
}

impl Loop {
    /// Appends the loop to the function; results are typed by the body.
    pub fn push(&self, f: &mut Function) -> NodeId {
        let types = self.body.results.iter().enumerate().map(|(k, (_, v))| {
            let mut ty = self.body.ty(*v).clone();
            if k >= self.scan.carries {
                ty.shape.insert(self.scan.outputs[k - self.scan.carries], self.scan.length.clone());
            }
            ty
        });
        let types = types.collect();
        let op = Op::Scan(self.scan.clone());
        f.push_node(Node { op, operands: self.operands.clone(), types, name: self.name.clone(), span: self.span })
    }

    /// What input `n` of the body is outside; nothing for a carry.
    pub fn input(&self, n: usize) -> Option<Outside> {
        let carries = self.scan.carries;
        match n {
            0 => Some(Outside::Position),
            n if n <= carries => None,
            n if n <= carries + self.scan.inputs.len() => Some(Outside::Stacked(self.operands[n - 1], self.scan.inputs[n - 1 - carries])),
            n => Some(Outside::Same(self.operands[n - 1])),
        }
    }

    /// The value as known outside, made a stacked result where it is not.
    pub fn expose(&mut self, value: Value) -> Source {
        if let Op::Input(n) = self.body.node(value.node).op
            && let Some(known) = self.input(n)
        {
            return Source::Known(known);
        }
        let stacked = self.scan.carries..self.body.results.len();
        let known = stacked.into_iter().find(|k| self.body.results[*k].1 == value);
        Source::Result(known.unwrap_or_else(|| {
            let name = self.body.node(value.node).name.clone();
            self.body.results.push((name, value));
            self.scan.outputs.push(0);
            self.body.results.len() - 1
        }))
    }

    /// The source, once the loop is node `id`.
    pub fn outside(&self, source: Source, id: NodeId) -> Outside {
        match source {
            Source::Known(known) => known,
            Source::Result(k) => Outside::Stacked(Value { node: id, result: k as u32 }, self.scan.outputs[k - self.scan.carries]),
        }
    }
}

/// What time becomes in a nest over all steps.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Time {
    /// This output index.
    Out(Var),
    /// The first reduction index.
    Red,
}

/// Appends the nest of a body's node over all steps; `operands` says what the nest's operands are outside.
pub fn lift(f: &mut Function, node: &Node, operands: &[Outside], time: Time, length: &Size) -> Value {
    let Op::Nest(nest) = &node.op else { panic!("only nests are lifted: {node:?}") };
    let at = match time {
        Time::Out(at) => at,
        Time::Red => nest.outs.len(),
    };
    let shift = |v: Var| Affine::var(if v >= at { v + 1 } else { v });
    let mut values = vec![];
    let mut numbers = vec![];
    for outside in operands {
        numbers.push(values.len());
        match outside {
            Outside::Position => {}
            Outside::Same(value) | Outside::Stacked(value, _) => values.push(*value),
        }
    }
    let body = nest.body.substitute(&shift).map(&mut |e| match e {
        Expr::Load { operand, mut index, otherwise } => match operands[operand] {
            Outside::Position => Expr::Index(Affine::var(at)),
            Outside::Same(_) => Expr::Load { operand: numbers[operand], index, otherwise },
            Outside::Stacked(_, axis) => {
                index.insert(axis, Index::Affine(Affine::var(at)));
                Expr::Load { operand: numbers[operand], index, otherwise }
            }
        },
        e => e,
    });
    let mut lifted = Nest { body, guards: nest.guards.iter().map(|g| g.substitute(&shift)).collect(), ..nest.clone() };
    match time {
        Time::Out(at) => lifted.outs.insert(at, length.clone()),
        Time::Red => lifted.reds.insert(0, length.clone()),
    }
    let ty = Type::new(node.types[0].dtype, lifted.outs.clone());
    let mut new = Node { op: Op::Nest(lifted), operands: values, types: vec![ty], name: node.name.clone(), span: node.span };
    crate::passes::rebuild::tidy_node(&mut new);
    keep(f, new)[0]
}

/// Appends a rewritten loop: the values of its results, and its new body.
type Change<'a> = &'a mut dyn FnMut(&mut Function, Loop) -> (Vec<Value>, Function);

/// The module with every loop replaced by what `change` appends: it gives the values of the loop's results and the loop with its new body. The
/// loop's `scan.body` is the number that the body will have.
pub fn each(module: &Module, change: Change) -> Module {
    let mut uses = vec![0usize; module.functions.len()];
    let mut count = |id: &FunctionId| uses[id.0 as usize] += 1;
    for f in &module.functions {
        f.gradient.iter().flat_map(|g| [g.forward, g.backward]).for_each(|id| count(&id));
        for node in &f.nodes {
            if let Op::Call(id) | Op::Scan(Scan { body: id, .. }) = &node.op {
                count(id);
            }
        }
    }
    module.entries.iter().for_each(|e| count(&e.function));
    let mut new = module.with(vec![]);
    let mut ids: Vec<FunctionId> = vec![];
    for f in &module.functions {
        let used = used(f);
        let mut at = used.iter();
        let mut g = rebuild(f, &mut |out, mut node| {
            let used = at.next().cloned().unwrap_or_default();
            match &mut node.op {
                Op::Call(id) => *id = ids[id.0 as usize],
                Op::Scan(scan) => {
                    let old = scan.body;
                    let at = ids[old.0 as usize];
                    let body = new.functions[at.0 as usize].clone();
                    let own = uses[old.0 as usize] == 1;
                    let id = if own { at } else { FunctionId(new.functions.len() as u32) };
                    let scan = Scan { body: id, ..scan.clone() };
                    let first = out.nodes.len();
                    let l = Loop { scan, operands: node.operands, used, body: body.clone(), name: node.name, span: node.span };
                    let (values, changed) = change(out, l);
                    if own {
                        new.functions[at.0 as usize] = changed;
                    } else if changed != body {
                        assert_eq!(new.add(changed), id);
                    } else {
                        // Nothing to copy.
                        for node in &mut out.nodes[first..] {
                            if let Op::Scan(scan) = &mut node.op {
                                scan.body = at;
                            }
                        }
                    }
                    return values;
                }
                _ => {}
            }
            keep(out, node)
        });
        if let Some(gradient) = &mut g.gradient {
            gradient.forward = ids[gradient.forward.0 as usize];
            gradient.backward = ids[gradient.backward.0 as usize];
        }
        ids.push(new.add(g));
    }
    new.entries.iter_mut().for_each(|e| e.function = ids[e.function.0 as usize]);
    new
}

/// For every node, which results something reads.
fn used(f: &Function) -> Vec<Vec<bool>> {
    let mut used: Vec<Vec<bool>> = f.nodes.iter().map(|n| vec![false; n.types.len()]).collect();
    let operands = f.nodes.iter().flat_map(|n| &n.operands);
    for v in operands.chain(f.results.iter().map(|(_, v)| v)) {
        used[v.node.0 as usize][v.result as usize] = true;
    }
    used
}

/// Appends a view of the value with axis `a` as axis `b`.
pub fn move_axis(f: &mut Function, value: Value, a: usize, b: usize, span: Span) -> Value {
    let mut shape = f.ty(value).shape.clone();
    let size = shape.remove(a);
    shape.insert(b, size);
    let mut index: Vec<Var> = (0..shape.len()).collect();
    let moved = index.remove(b);
    index.insert(a, moved);
    f.nest(Nest::map(shape, load_at(0, index)), [value], span)
}

/// All results of the node.
pub fn results(id: NodeId, count: usize) -> Vec<Value> {
    (0..count as u32).map(|result| Value { node: id, result }).collect()
}

#[cfg(test)]
mod tests;
