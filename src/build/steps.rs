//! Training steps: forward, derivative, clipping, schedule and the optimizer's update as one function a recipe.

use super::entries::{accumulators, bare, fnv64, sources, state_path};
use super::expr::ty;
use super::frame::{fold_key, inputs_first};
use super::{function_of, updated};
use crate::check::typed::{Clip, Instance, Program, Recipe, ScalarArg};
use crate::grad;
use crate::ir::{DType, Entry, Expr, Fold, Function, FunctionId, Module, Nest, Op, Scalar, ScalarOp, Type, Value, load_at};
use crate::span::Span;
use nnc_runtime::manifest::{Sink, Source};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Adds `train:RECIPE` for every recipe: one step from columns, weights, states, scalars and key to new weights and states, and what it adds to the
/// accumulators.
pub fn steps(mut module: Module, program: &Program) -> Module {
    let updated = updated(program);
    for recipe in &program.recipes {
        let function = function_of(&module, program, recipe.train);
        let entry = Step::new(&module, program, recipe, function).build(&mut module, &updated[recipe.train.0 as usize]);
        module.entries.push(entry);
    }
    module
}

/// A training step under construction.
struct Step<'a> {
    program: &'a Program,
    recipe: &'a Recipe,
    objective: &'a Instance,
    f: Function,
    sources: Vec<Source>,
    /// The scalars so far, by name, and the step.
    scalars: BTreeMap<Arc<str>, Value>,
    span: Span,
}

impl<'a> Step<'a> {
    /// Starts from the objective's own nodes, so that forward and backward are one graph.
    fn new(module: &Module, program: &'a Program, recipe: &'a Recipe, function: FunctionId) -> Step<'a> {
        let objective = &program.functions[recipe.train.0 as usize];
        let mut f = module.function(function).clone();
        f.name = format!("train.{}", recipe.settings.name).into();
        f.gradient = None;
        let sources = sources(objective, &|name| Source::Data(name.into()), &bare);
        Step { program, recipe, objective, f, sources, scalars: BTreeMap::new(), span: recipe.span }
    }

    fn build(mut self, module: &mut Module, updated: &[usize]) -> Entry {
        let forward = std::mem::take(&mut self.f.results);
        let parameters: Vec<Value> = self.recipe.updates.iter().map(|u| self.input(self.objective.inputs + u.parameter.0 as usize)).collect();

        let loss = self.loss(forward[0].1, forward[1].1);
        let one = Scalar::float(self.f.ty(loss).dtype, 1.0);
        let one = self.f.push(Op::Constant([one].into()), [], Type::scalar(one.dtype()), self.span);
        let gradients = grad::vjp(module, &mut self.f, &[(loss, one)], &parameters);
        for (update, gradient) in self.recipe.updates.iter().zip(&gradients) {
            let path = &bare(&self.objective.weights[update.parameter.0 as usize].path);
            let node = &mut self.f.nodes[gradient.node.0 as usize];
            if node.types.len() == 1 {
                node.name.get_or_insert_with(|| format!("d.{path}").into());
            }
        }
        let gradients = self.clip(gradients);
        self.schedule(module);

        let (mut results, mut sinks) = (vec![], vec![]);
        for (name, (_, value)) in accumulators(self.recipe).into_iter().zip(&forward) {
            results.push((Some(name.clone()), *value));
            sinks.push(Sink::Accumulate(name));
        }
        let declared = self.objective.results.len();
        for (w, (_, value)) in updated.iter().zip(&forward[declared..]) {
            let path = &bare(&self.objective.weights[*w].path);
            if !self.recipe.settings.frozen.iter().any(|frozen| bare(frozen) == *path) {
                results.push((Some(path.clone()), *value));
                sinks.push(Sink::Tensor(path.clone()));
            }
        }
        for (k, (parameter, gradient)) in parameters.into_iter().zip(gradients).enumerate() {
            for (path, value) in self.update(module, k, parameter, gradient) {
                results.push((Some(path.clone()), value));
                sinks.push(Sink::Tensor(path));
            }
        }
        self.f.results = results;
        inputs_first(&mut self.f);
        let function = module.add(self.f);
        Entry { name: format!("train:{}", self.recipe.settings.name).into(), function, inputs: self.sources, results: sinks }
    }

    /// The value of input number `n`.
    fn input(&self, n: usize) -> Value {
        let id = self.f.iter().find(|(_, node)| node.op == Op::Input(n)).map(|(id, _)| id);
        Value { node: id.unwrap_or_else(|| panic!("input {n} of {} has no node", self.f.name)), result: 0 }
    }

    fn source(&mut self, name: &str, source: Source, dtype: DType) -> Value {
        self.sources.push(source);
        self.f.input(name, Type::scalar(dtype))
    }

    /// A run-time or scheduled scalar, f64.
    fn scalar(&mut self, name: &Arc<str>) -> Value {
        if let Some(value) = self.scalars.get(name) {
            return *value;
        }
        let value = if &**name == "step" {
            let step = self.step();
            self.map([step], Expr::Cast(DType::F64, Box::new(load_at(0, []))))
        } else {
            self.source(name, Source::Scalar(name.clone()), DType::F64)
        };
        self.scalars.insert(name.clone(), value);
        value
    }

    /// The number of the step, i64.
    fn step(&mut self) -> Value {
        match self.sources.iter().position(|s| *s == Source::Step) {
            Some(n) => self.input(n),
            None => self.source("step", Source::Step, DType::I64),
        }
    }

    /// A node of rank 0.
    fn map(&mut self, operands: impl Into<Vec<Value>>, body: Expr) -> Value {
        self.f.nest(Nest::map(vec![], body), operands, self.span)
    }

    /// `loss.sum / loss.weight`, in the sum's type.
    fn loss(&mut self, sum: Value, weight: Value) -> Value {
        let to = self.f.ty(sum).dtype;
        let mut divisor = load_at(1, []);
        if self.f.ty(weight).dtype != to {
            divisor = Expr::Cast(to, Box::new(divisor));
        }
        let loss = self.map([sum, weight], Expr::op(ScalarOp::Div, [load_at(0, []), divisor]));
        self.f.nodes[loss.node.0 as usize].name = Some("loss".into());
        loss
    }

    /// Gradients within the recipe's limit.
    fn clip(&mut self, gradients: Vec<Value>) -> Vec<Value> {
        match &self.recipe.clip {
            None => gradients,
            Some(Clip::Value(name)) => {
                let limit = self.scalar(name);
                let within = |dtype| {
                    let limit = cast(dtype, DType::F64, load_at(1, []));
                    let above = Expr::op(ScalarOp::Min, [load_at(0, []), limit.clone()]);
                    Expr::op(ScalarOp::Max, [above, Expr::op(ScalarOp::Neg, [limit])])
                };
                gradients.into_iter().map(|g| self.each(g, limit, &within)).collect()
            }
            Some(Clip::Norm(name)) => {
                let limit = self.scalar(name);
                let mut total: Option<Value> = None;
                for g in &gradients {
                    let ty = self.f.ty(*g).clone();
                    let at = load_at(0, 0..ty.shape.len());
                    let squares = Expr::op(ScalarOp::Mul, [at.clone(), at]);
                    let sum = if ty.shape.is_empty() {
                        self.map([*g], squares)
                    } else {
                        self.f.nest(Nest::fold(vec![], ty.shape, Fold::Dot, squares), [*g], self.span)
                    };
                    let sum = if ty.dtype == DType::F64 { sum } else { self.map([sum], Expr::Cast(DType::F64, Box::new(load_at(0, [])))) };
                    total = Some(match total {
                        None => sum,
                        Some(total) => self.map([total, sum], Expr::op(ScalarOp::Add, [load_at(0, []), load_at(1, [])])),
                    });
                }
                let Some(total) = total else { return gradients };
                let norm = Expr::op(ScalarOp::Sqrt, [load_at(0, [])]);
                let above = Expr::op(ScalarOp::Add, [norm, Expr::Const(Scalar::f64(1e-6))]);
                let ratio = Expr::op(ScalarOp::Div, [load_at(1, []), above]);
                let factor = self.map([total, limit], Expr::op(ScalarOp::Min, [Expr::Const(Scalar::f64(1.0)), ratio]));
                self.f.nodes[factor.node.0 as usize].name = Some("clip".into());
                let scaled = |dtype| Expr::op(ScalarOp::Mul, [load_at(0, []), cast(dtype, DType::F64, load_at(1, []))]);
                gradients.into_iter().map(|g| self.each(g, factor, &scaled)).collect()
            }
        }
    }

    /// An elementwise function, given at rank 0, of a tensor (operand 0) and an f64 scalar (operand 1).
    fn each(&mut self, tensor: Value, scalar: Value, of: &dyn Fn(DType) -> Expr) -> Value {
        let ty = self.f.ty(tensor).clone();
        let body = at_rank(of(ty.dtype), ty.shape.len());
        self.f.nest(Nest::map(ty.shape, body), [tensor, scalar], self.span)
    }

    /// Computes the scheduled scalars.
    fn schedule(&mut self, module: &Module) {
        let Some((id, names)) = &self.recipe.schedule else { return };
        let instance = &self.program.functions[id.0 as usize];
        let target = function_of(module, self.program, *id);
        let operands: Vec<Value> = instance.locals[..instance.inputs].iter().map(|(name, _, _)| self.scalar(name)).collect();
        let node = self.f.call(target, module.function(target), operands, self.span);
        for (k, name) in names.iter().enumerate() {
            self.scalars.insert(name.clone(), Value { node, result: k as u32 });
        }
    }

    /// Calls the optimizer for update number `k`: the new parameter and the new states, by path.
    fn update(&mut self, module: &Module, k: usize, parameter: Value, gradient: Value) -> Vec<(Arc<str>, Value)> {
        let recipe = self.recipe;
        let update = &recipe.updates[k];
        let instance = &self.program.functions[update.optimizer.0 as usize];
        let path = &bare(&self.objective.weights[update.parameter.0 as usize].path);
        let mut operands = vec![parameter, gradient];
        for (k, scalar) in update.scalars.iter().enumerate() {
            let wanted = instance.locals[2 + k].1.dtype;
            let value = match scalar {
                ScalarArg::Named(name) => self.scalar(name),
                ScalarArg::Step if wanted == DType::I64 => self.step(),
                ScalarArg::Step => self.scalar(&"step".into()),
            };
            let given = self.f.ty(value).dtype;
            operands.push(if given == wanted { value } else { self.map([value], Expr::Cast(wanted, Box::new(load_at(0, [])))) });
        }
        for state in &instance.weights {
            let path = state_path(recipe, state, path);
            self.sources.push(Source::Tensor(path.clone()));
            operands.push(self.f.input(&path, ty(&state.ty)));
        }
        if instance.random {
            let key = match self.sources.iter().position(|s| *s == Source::Key) {
                Some(n) => self.input(n),
                None => self.source("key", Source::Key, DType::I64),
            };
            operands.push(fold_key(&mut self.f, key, fnv64(path) as i64, self.span));
        }
        let target = function_of(module, self.program, update.optimizer);
        let callee = module.function(target);
        let node = self.f.call(target, callee, operands, self.span);
        let mut results = vec![(path.clone(), Value { node, result: 0 })];
        let declared = instance.results.len();
        for (k, (state, _)) in callee.results.iter().enumerate().skip(declared) {
            let state = instance.weights.iter().find(|w| Some(bare(&w.path)) == *state).expect("a result behind the declared ones is a state");
            let value = self.normal(Value { node, result: k as u32 });
            results.push((state_path(recipe, state, path), value));
        }
        results
    }

    /// The state to store: 0 for what is less than every normal number. A momentum whose gradient has become 0, as that of a pixel that is always black, would
    /// else end at such a number and stay there, since 0.9 times the fourth is the fourth again, and processors multiply these numbers a hundred times more slowly.
    fn normal(&mut self, state: Value) -> Value {
        let ty = self.f.ty(state).clone();
        let least = match ty.dtype {
            DType::F32 => Scalar::f32(f32::MIN_POSITIVE),
            DType::F64 => Scalar::f64(f64::MIN_POSITIVE),
            DType::I64 | DType::Bool => return state,
        };
        let at = load_at(0, 0..ty.shape.len());
        let size = Expr::op(ScalarOp::Abs, [at.clone()]);
        let tiny = Expr::op(ScalarOp::Lt, [size, Expr::Const(least)]);
        let body = Expr::op(ScalarOp::Select, [tiny, Expr::Const(Scalar::float(ty.dtype, 0.0)), at]);
        self.f.nest(Nest::map(ty.shape, body), [state], self.span)
    }
}

/// A conversion, where the types differ.
fn cast(to: DType, from: DType, e: Expr) -> Expr {
    if to == from { e } else { Expr::Cast(to, Box::new(e)) }
}

/// The expression with loads of operand 0 at every variable of a box of `rank`.
fn at_rank(e: Expr, rank: usize) -> Expr {
    match e {
        Expr::Load { operand: 0, .. } => load_at(0, 0..rank),
        Expr::Op(op, args) => Expr::Op(op, args.into_iter().map(|a| at_rank(a, rank)).collect()),
        Expr::Cast(to, a) => Expr::Cast(to, Box::new(at_rank(*a, rank))),
        Expr::Load { .. } | Expr::Const(_) | Expr::Index(_) | Expr::Holds(_) => e,
    }
}
