//! The typed program into the graph.
//!
//! In: a checked program. Out: a module with one function an instance and the entries that need no derivative ([`build`]), then the training steps
//! ([`steps`]). A function's inputs are the run-time arguments, the weights in their order, then the key if it is random; its results are the declared
//! ones, then the new values of the states it updates, itself or through callees, in the weights' order. Nests are in normal form, spans and source
//! names are kept, calls stay calls.

mod affine;
mod element;
mod entries;
mod expr;
mod frame;
mod scan;
mod steps;
#[cfg(test)]
mod tests;
mod walk;

pub use entries::tensors;
pub use steps::steps;

use crate::check::typed::{Gradient, GradientOf, Instance, InstanceId, Program, Stmt};
use crate::ir::{CustomGradient, DType, Function, FunctionId, Module, Op, Type, Value};
use entries::bare;
use expr::ty;
use frame::{Body, Frame, Name, inputs_first};
use std::collections::{BTreeMap, BTreeSet};

/// The graph of everything but the training steps.
pub fn build(program: &Program) -> Module {
    let mut module = Module { dims: program.dims.clone(), ..Module::default() };
    let updated = updated(program);
    let names = names(program);
    let mut done = vec![];
    for (k, instance) in program.functions.iter().enumerate() {
        let mut body = Body { program, module: &mut module, done: &done, updated: &updated, instance, frames: vec![] };
        let f = body.instance(&names[k], &updated[k]);
        done.push(module.add(f));
        debug_assert_eq!(*module.function(done[k]).name, names[k], "instances keep their names");
    }
    entries::add(&mut module, program, &done, &updated);
    module
}

/// For every instance, the weights that it updates, itself or through callees, in order.
fn updated(program: &Program) -> Vec<Vec<usize>> {
    let mut all: Vec<Vec<usize>> = vec![];
    for instance in &program.functions {
        let (mut called, mut own) = (vec![], BTreeSet::new());
        let mut see = |e: &crate::check::typed::Expr| {
            if let crate::check::typed::ExprKind::Call { instance, weights, .. } = &e.kind {
                called.extend(all[instance.0 as usize].iter().map(|w| weights[*w].0 as usize));
            }
        };
        let mut update = |w| {
            own.insert(w);
        };
        walk::stmts(&instance.body, &mut see, &mut update);
        for (_, e) in &instance.results {
            walk::expr(e, &mut see, &mut update);
        }
        own.extend(called);
        all.push(own.into_iter().collect());
    }
    all
}

/// The functions' names: the instances' own, numbered where several share one.
fn names(program: &Program) -> Vec<String> {
    let mut count = BTreeMap::new();
    let name = |instance: &Instance| {
        let n = count.entry(instance.name.clone()).and_modify(|n| *n += 1).or_insert(1);
        if *n == 1 { instance.name.to_string() } else { format!("{}.{n}", instance.name) }
    };
    program.functions.iter().map(name).collect()
}

/// The function of an instance, in a module that [`build`] made.
fn function_of(module: &Module, program: &Program, id: InstanceId) -> FunctionId {
    let name = &names(program)[id.0 as usize];
    module.find(name).unwrap_or_else(|| panic!("no function {name}"))
}

impl Body<'_> {
    /// The function of the instance at hand.
    fn instance(&mut self, name: &str, updated: &[usize]) -> Function {
        self.frames.push(Frame::new(name, self.instance));
        for k in 0..self.instance.inputs {
            self.input(k, ty(&self.instance.locals[k].1));
        }
        for (k, w) in self.instance.weights.iter().enumerate() {
            let value = self.f().input(&bare(&w.path), ty(&w.ty));
            self.bind(Name::Weight(k), value);
            self.bind(Name::Latest(k), value);
        }
        if self.instance.random {
            let key = self.f().input("key", Type::scalar(DType::I64));
            self.bind(Name::Key, key);
        }
        self.stmts(&self.instance.body);
        let mut results = vec![];
        for (name, e) in &self.instance.results {
            let before = self.f().nodes.len();
            let value = self.one(e);
            if let Some(name) = name {
                self.name(value, before, name);
            }
            results.push((name.clone(), value));
        }
        for w in updated {
            results.push((Some(bare(&self.instance.weights[*w].path)), self.get(Name::Latest(*w))));
        }
        self.f().results = results;
        let gradient = self.instance.gradient.as_ref().map(|g| self.gradient(g, updated));
        let (mut f, _) = self.frames.pop().expect("the instance is under construction").finish();
        if let Some((of, saved, backward)) = gradient {
            let mut forward = f.clone();
            forward.name = format!("{name}.forward").into();
            forward.results.extend(saved.into_iter().map(|v| (None, v)));
            let forward = self.module.add(forward);
            f.gradient = Some(CustomGradient { forward, backward: self.module.add(backward), wrt: of });
        }
        f
    }

    /// The inputs a hand-written derivative is for, the values it saves, and its function.
    fn gradient(&mut self, gradient: &Gradient, updated: &[usize]) -> (Vec<usize>, Vec<Value>, Function) {
        let name = format!("{}.backward", self.frames[0].f.name);
        self.frames.push(Frame::new(&name, self.instance));
        for local in &gradient.cotangents {
            self.input(local.0 as usize, ty(&self.instance.locals[local.0 as usize].1));
        }
        for w in updated.iter().map(|w| &self.instance.weights[*w]).filter(|w| w.ty.dtype.is_float()) {
            self.f().input(&format!("d.{}", bare(&w.path)), ty(&w.ty));
        }
        let given = self.f().inputs.len();
        self.stmts(&gradient.body);
        let mut of = vec![];
        for (target, e) in &gradient.results {
            let value = self.one(e);
            self.f().results.push((None, value));
            of.push(match target {
                GradientOf::Input(k) => *k,
                GradientOf::Weight(w) => self.instance.inputs + w.0 as usize,
            });
        }
        let (mut backward, saved) = self.frames.pop().expect("the derivative is under construction").finish();
        // Saved values come first.
        backward.inputs.rotate_left(given);
        for node in &mut backward.nodes {
            if let Op::Input(n) = &mut node.op {
                *n = if *n < given { *n + saved.len() } else { *n - given };
            }
        }
        inputs_first(&mut backward);
        (of, saved, backward)
    }

    /// Statements, in order.
    fn stmts(&mut self, stmts: &[Stmt]) {
        for stmt in stmts {
            match stmt {
                Stmt::Let { targets, value, .. } => {
                    let before = self.f().nodes.len();
                    let values = self.expr(value);
                    for (target, value) in targets.iter().zip(&values) {
                        self.bind(Name::Local(target.0 as usize), *value);
                    }
                    if let ([target], [value]) = (targets.as_slice(), values.as_slice()) {
                        let name = self.instance.locals[target.0 as usize].0.clone();
                        self.name(*value, before, &name);
                    }
                }
                Stmt::Update { weight, value, .. } => {
                    let value = self.one(value);
                    self.bind(Name::Latest(weight.0 as usize), value);
                }
                Stmt::Check { condition, message, span } => {
                    let condition = self.one(condition);
                    self.top().checks.push((condition, message.clone(), *span));
                }
            }
        }
    }

    /// Names the node of a value that was made since `before`; a call has had its callee's name until now.
    fn name(&mut self, value: Value, before: usize, name: &std::sync::Arc<str>) {
        let node = &mut self.f().nodes[value.node.0 as usize];
        if value.node.0 as usize >= before && (node.name.is_none() || matches!(node.op, Op::Call(_))) && &**name != "_" {
            node.name = Some(name.clone());
        }
    }
}
