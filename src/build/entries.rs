//! What can be run without derivatives: initial values, inference, evaluation, the metrics' results; and the list of stored tensors.

use super::expr::ty;
use super::frame::{Body, Frame, Name, fold_key};
use crate::check::typed::{Element, IndexVar, Instance, InstanceId, Program, Recipe, WeightDecl};
use crate::ir::{DType, Entry, Function, FunctionId, Module, Type, Value};
use crate::span::Span;
use nnc_runtime::manifest::{Role, Sink, Source, TensorDecl};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Adds `init`, `init:RECIPE`, `infer:MODEL`, `eval:RECIPE` and `finish:RECIPE`.
pub(super) fn add(module: &mut Module, program: &Program, done: &[FunctionId], updated: &[Vec<usize>]) {
    let weights: Vec<(Arc<str>, &WeightDecl)> = weights(program).into_iter().collect();
    add_init(module, program, "init", weights, Span::default());
    for recipe in &program.recipes {
        let states = states(program, recipe);
        if !states.is_empty() {
            add_init(module, program, &format!("init:{}", recipe.settings.name), states, recipe.span);
        }
    }
    for model in &program.models {
        let instance = &program.functions[model.infer.0 as usize];
        let function = without_updates(module, program, model.infer, done, updated);
        let path = |path: &str| absolute(&model.name, path);
        let inputs = sources(instance, &|name| Source::Data(name.into()), &path);
        let result = |(k, (name, _)): (usize, &(Option<Arc<str>>, _))| {
            Sink::Result(match (name, k) {
                (Some(name), _) => name.clone(),
                (None, 0) => "output".into(),
                (None, k) => format!("output{}", k + 1).into(),
            })
        };
        let results = instance.results.iter().enumerate().map(result).collect();
        module.entries.push(Entry { name: format!("infer:{}", model.name).into(), function, inputs, results });
    }
    for recipe in &program.recipes {
        let name = &recipe.settings.name;
        let instance = &program.functions[recipe.eval.0 as usize];
        let function = without_updates(module, program, recipe.eval, done, updated);
        let inputs = sources(instance, &|name| Source::Data(name.into()), &bare);
        let results = accumulators(recipe).into_iter().map(Sink::Accumulate).collect();
        module.entries.push(Entry { name: format!("eval:{name}").into(), function, inputs, results });

        let instance = &program.functions[recipe.finish.0 as usize];
        let inputs = sources(instance, &|name| Source::Scalar(name.into()), &bare);
        let results = recipe.settings.metrics.iter().map(|m| Sink::Result(m.name.clone())).collect();
        module.entries.push(Entry { name: format!("finish:{name}").into(), function: done[recipe.finish.0 as usize], inputs, results });
    }
}

/// Every stored tensor: parameters and states by path, then the optimizers' states.
pub fn tensors(program: &Program) -> Vec<TensorDecl> {
    let decl = |(path, weight): (Arc<str>, &WeightDecl), role| {
        let constant = |n: &crate::ir::Size| n.as_const().unwrap_or_else(|| panic!("the shape of {path} is not constant"));
        TensorDecl { path: path.clone(), dtype: weight.ty.dtype, shape: weight.ty.shape.iter().map(constant).collect(), role }
    };
    let mut all: Vec<TensorDecl> = weights(program).into_iter().map(|(path, w)| decl((path, w), w.role)).collect();
    for recipe in &program.recipes {
        all.extend(states(program, recipe).into_iter().map(|w| decl(w, Role::Optimizer)));
    }
    all
}

/// Parameters and states of all models and recipes, by absolute path.
fn weights(program: &Program) -> BTreeMap<Arc<str>, &WeightDecl> {
    let mut all = BTreeMap::new();
    for model in &program.models {
        for id in [model.infer, model.train] {
            for w in &program.functions[id.0 as usize].weights {
                all.entry(absolute(&model.name, &w.path)).or_insert(w);
            }
        }
    }
    for recipe in &program.recipes {
        for id in [recipe.train, recipe.eval] {
            for w in &program.functions[id.0 as usize].weights {
                all.entry(bare(&w.path)).or_insert(w);
            }
        }
    }
    all
}

/// The states of a recipe's optimizer: `fit/m/Digits.fc1.weight`.
fn states<'a>(program: &'a Program, recipe: &Recipe) -> Vec<(Arc<str>, &'a WeightDecl)> {
    let parameters = &program.functions[recipe.train.0 as usize].weights;
    let mut all = vec![];
    for update in &recipe.updates {
        let parameter = &bare(&parameters[update.parameter.0 as usize].path);
        for state in &program.functions[update.optimizer.0 as usize].weights {
            all.push((state_path(recipe, state, parameter), state));
        }
    }
    all
}

/// `fit/m/Digits.fc1.weight`
pub(super) fn state_path(recipe: &Recipe, state: &WeightDecl, parameter: &str) -> Arc<str> {
    format!("{}/{}/{parameter}", recipe.settings.name, state.path).into()
}

/// The absolute path of a model's weight: its own are relative to it, those of other models it calls are absolute and start with `/`.
fn absolute(model: &str, path: &str) -> Arc<str> {
    if path.starts_with('/') { bare(path) } else { format!("{model}.{path}").into() }
}

/// A weight's path without the mark of absolute ones.
pub(super) fn bare(path: &str) -> Arc<str> {
    path.strip_prefix('/').unwrap_or(path).into()
}

/// The names of all accumulators of a recipe, the loss's first.
pub(super) fn accumulators(recipe: &Recipe) -> Vec<Arc<str>> {
    recipe.settings.metrics.iter().flat_map(|m| m.accumulators.iter().cloned()).collect()
}

/// Where the inputs of an instance's function come from.
pub(super) fn sources(instance: &Instance, data: &dyn Fn(&str) -> Source, path: &dyn Fn(&str) -> Arc<str>) -> Vec<Source> {
    let mut all: Vec<Source> = instance.locals[..instance.inputs].iter().map(|(name, _, _)| data(name)).collect();
    all.extend(instance.weights.iter().map(|w| Source::Tensor(path(&w.path))));
    all.extend(instance.random.then_some(Source::Key));
    all
}

/// The instance's function, or one around it that drops the new values of states.
fn without_updates(module: &mut Module, program: &Program, id: InstanceId, done: &[FunctionId], updated: &[Vec<usize>]) -> FunctionId {
    let callee = done[id.0 as usize];
    if updated[id.0 as usize].is_empty() {
        return callee;
    }
    let of = module.function(callee).clone();
    let mut f = Function::new(&format!("{}.only", of.name));
    let operands: Vec<Value> = of.inputs.iter().map(|i| f.input(&i.name, i.ty.clone())).collect();
    let node = f.call(callee, &of, operands, Span::default());
    let declared = program.functions[id.0 as usize].results.len();
    f.results = (0..declared).map(|k| (of.results[k].0.clone(), Value { node, result: k as u32 })).collect();
    module.add(f)
}

/// A function and an entry that compute initial values: each tensor's randomness comes from the key folded with its path's hash, so that it stays when
/// others come or go. What the library declares stands `at` where it is used.
fn add_init(module: &mut Module, program: &Program, name: &str, weights: Vec<(Arc<str>, &WeightDecl)>, at: Span) {
    let random = weights.iter().any(|(_, w)| draws(&w.init));
    let nothing = Instance {
        name: name.into(),
        arguments: String::new(),
        inputs: 0,
        locals: vec![],
        weights: vec![],
        random,
        body: vec![],
        results: vec![],
        gradient: None,
        span: Span::default(),
    };
    let mut body = Body { program, module, done: &[], updated: &[], instance: &nothing, frames: vec![] };
    body.frames.push(Frame::new(&name.replace(':', "."), &nothing));
    let key = random.then(|| body.f().input("key", Type::scalar(DType::I64)));
    let mut results = vec![];
    for (path, weight) in &weights {
        let span = weight.span.seen_from(at);
        if let Some(key) = key.filter(|_| draws(&weight.init)) {
            let own = fold_key(body.f(), key, fnv64(path) as i64, span);
            body.bind(Name::Key, own);
        }
        let (vars, element) = &weight.init;
        let vars: Vec<_> = vars.iter().copied().zip(weight.ty.shape.iter().cloned()).collect();
        let value = body.comprehension(&vars, element, span);
        debug_assert_eq!(body.f().ty(value), &ty(&weight.ty), "initial value of {path}");
        body.f().nodes[value.node.0 as usize].name.get_or_insert_with(|| path.clone());
        results.push((Some(path.clone()), value));
    }
    body.f().results = results;
    let (f, _) = body.frames.pop().expect("the initialiser is under construction").finish();
    let function = module.add(f);
    let results = weights.into_iter().map(|(path, _)| Sink::Tensor(path)).collect();
    module.entries.push(Entry { name: name.into(), function, inputs: key.map(|_| Source::Key).into_iter().collect(), results });
}

fn draws((_, element): &(Vec<IndexVar>, Element)) -> bool {
    super::walk::mentions(element, &mut |_| ())
}

/// The 64-bit FNV-1a hash.
pub(super) fn fnv64(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ byte as u64).wrapping_mul(0x100_0000_01b3))
}
