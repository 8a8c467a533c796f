//! A group of nests as one kernel.
//!
//! In: a group as [`super::fuse`] decides it. Out: one stage a nest, in order, or for several maps (see [`super::join`]). A result that has no inner axes is a local for the nests after
//! it; it is written to memory only where someone outside of the group reads it. Other results go to memory and are read back from there.

use crate::ir::{Affine, DType, Expr, Fold, Function, NodeId, Op, ScalarOp, Size, Type, Value};
use crate::kernel::body::{Code, Source};
use crate::kernel::fuse::{Group, nest_of};
use crate::kernel::join::join;
use crate::kernel::lower::{Launch, State};
use crate::kernel::{Index, Kernel, Param, Stage, Store, Target};
use crate::span::Span;
use std::collections::BTreeMap;

/// A kernel while it is written: its parameters and the buffers they are bound to.
pub(super) struct Writer {
    pub kernel: Kernel,
    pub args: Vec<usize>,
}

impl Writer {
    /// An empty kernel over `outer`.
    pub fn new(name: &str, outer: Vec<Size>) -> Writer {
        let kernel = Kernel { name: name.into(), sizes: 0, params: vec![], outer, locals: vec![], stages: vec![] };
        Writer { kernel, args: vec![] }
    }

    /// The parameter that stands for the buffer.
    pub fn param(&mut self, buffer: usize, ty: &Type, written: bool) -> usize {
        let known = self.args.iter().zip(&self.kernel.params).position(|(b, p)| *b == buffer && p.shape == ty.shape);
        let param = known.unwrap_or_else(|| {
            self.args.push(buffer);
            self.kernel.params.push(Param { dtype: ty.dtype, shape: ty.shape.clone(), written });
            self.args.len() - 1
        });
        self.kernel.params[param].written |= written;
        param
    }

    /// A new local.
    pub fn local(&mut self, dtype: DType) -> usize {
        self.kernel.locals.push(dtype);
        self.kernel.locals.len() - 1
    }
}

/// A stage without loops of its own.
pub(super) fn map_stage(code: Code, value: usize, stores: Vec<Store>) -> Stage {
    Stage { inner: vec![], reds: vec![], guards: vec![], skip: false, fold: Fold::None, body: code.finish(), values: vec![value], stores }
}

/// A store of result 0 at the variables `vars` without a fold.
pub(super) fn store_at(param: usize, index: Vec<Index>) -> Store {
    Store { result: 0, target: Target::Param { param, index, fold: None } }
}

/// The variables `0..rank` as indices.
pub(super) fn identity(rank: usize) -> Vec<Index> {
    (0..rank).map(|v| Index::Affine(Affine::var(v))).collect()
}

/// The group's kernel, bound to buffers; results that leave the group get theirs here.
pub(super) fn kernel(state: &mut State, group: &Group) -> Launch {
    let f = state.f;
    let outer = nest_of(f, group.nodes[0]).outs[..group.outer].to_vec();
    let mut writer = Writer::new(&name(f, group), outer);
    let mut locals: BTreeMap<Value, usize> = BTreeMap::new();
    for id in &group.nodes {
        let nest = nest_of(f, *id);
        let operands = &f.node(*id).operands;
        // What nobody reads is neither computed nor stored, unless it is handed on in this kernel.
        let value = Value { node: *id, result: 0 };
        let stays = nest.outs.len() == group.outer && uses(f, group, value).0;
        let part = state.demanded(value).filter(|_| nest.fold == Fold::None && nest.guards.is_empty() && !stays).cloned();
        let mut source = |operand: usize| {
            let value = operands[operand];
            if let Some(local) = locals.get(&value) {
                return Source::Local(*local);
            }
            match state.constant(value) {
                Some(c) => Source::Const(c),
                None => Source::Param(writer.param(state.read(value), f.ty(value), false)),
            }
        };
        let mut code = Code::default();
        let body = match (&part, &nest.body) {
            (Some(guard), Expr::Op(ScalarOp::Select, args)) if args[0] == Expr::Holds(vec![guard.clone()]) => &args[1],
            (_, body) => body,
        };
        let values = values(nest.fold, body, &mut code, &mut source);
        let mut stores = Vec::new();
        for result in 0..nest.fold.results() {
            let value = Value { node: *id, result: result as u32 };
            let (inside, outside) = uses(f, group, value);
            let is_local = nest.outs.len() == group.outer;
            if is_local && inside {
                let local = writer.local(f.ty(value).dtype);
                locals.insert(value, local);
                stores.push(Store { result, target: Target::Local(local) });
            }
            if outside || (inside && !is_local) {
                let (buffer, ty, index) = state.target(value, inside && !is_local);
                let param = writer.param(buffer, &ty, true);
                let index = index.into_iter().map(Index::Affine).collect();
                stores.push(Store { result, target: Target::Param { param, index, fold: None } });
            }
        }
        writer.kernel.stages.push(Stage {
            inner: nest.outs[group.outer..].to_vec(),
            reds: nest.reds.clone(),
            skip: part.is_some(),
            guards: part.map_or_else(|| nest.guards.clone(), |guard| vec![guard]),
            fold: nest.fold,
            body: code.finish(),
            values,
            stores,
        });
    }
    let span = group.nodes.iter().map(|n| f.node(*n).span).find(|s| *s != Span::default()).unwrap_or_default();
    join(&mut writer.kernel);
    state.launch(&writer.kernel, writer.args, span)
}

fn values(fold: Fold, body: &Expr, code: &mut Code, source: &mut dyn FnMut(usize) -> Source) -> Vec<usize> {
    match (fold, body) {
        (fold, Expr::Op(ScalarOp::Mul, factors)) if fold.multiplies() => factors.iter().map(|e| code.expr(e, source)).collect(),
        (fold, other) if fold.multiplies() => panic!("the body of a dot is a product, not {other:?}"),
        (_, body) => vec![code.expr(body, source)],
    }
}

/// Whether nests of the group, and whether others (or the caller) read the value.
fn uses(f: &Function, group: &Group, value: Value) -> (bool, bool) {
    let (mut inside, mut outside) = (false, f.results.iter().any(|(_, v)| *v == value));
    for (id, node) in f.iter().skip(value.node.0 as usize) {
        if node.operands.contains(&value) {
            match group.nodes.contains(&id) {
                true => inside = true,
                false => outside = true,
            }
        }
    }
    (inside, outside)
}

/// `dot_h_max`: names where the source has them, else the kind of fold.
fn name(f: &Function, group: &Group) -> String {
    let word = |id: &NodeId| {
        let node = f.node(*id);
        let own = node.name.as_deref().unwrap_or(match &node.op {
            Op::Nest(nest) => nest.fold.name(),
            _ => "node",
        });
        own.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect::<String>()
    };
    group.nodes.iter().take(3).map(word).collect::<Vec<_>>().join("_")
}
