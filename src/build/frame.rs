//! Functions under construction: a stack of them, because the body of a loop or of a hand-written derivative sees its surroundings.
//!
//! What an inner function uses of the outer one becomes an input of it when it is first used (a capture), so that inner functions take what they need
//! and nothing else.

use super::entries::bare;
use crate::check::typed::{Instance, Program};
use crate::ir::{DType, Expr, Function, FunctionId, Module, Nest, Node, NodeId, Op, Scalar, ScalarOp, Type, Value, load_at};
use crate::span::Span;
use std::sync::Arc;

/// Something of the instance that a function may mention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// A binding.
    Local(usize),
    /// A parameter or state, before any update.
    Weight(usize),
    /// A parameter or state, with the updates so far.
    Latest(usize),
    /// The key of randomness.
    Key,
}

/// One function under construction.
pub(super) struct Frame {
    /// The function.
    pub f: Function,
    /// The values of names, by [`slot`].
    values: Vec<Option<Value>>,
    /// For each captured input: the outer function's value.
    pub captures: Vec<Value>,
    /// In a loop's body: its site and the position in time, folded into the key.
    pub time: Option<(u32, Value)>,
    /// Assertions, to be hung on the first result.
    pub checks: Vec<(Value, Arc<str>, Span)>,
}

/// The instance at hand and its functions, outermost first.
pub(super) struct Body<'a> {
    pub program: &'a Program,
    pub module: &'a mut Module,
    /// The functions of the instances before this one.
    pub done: &'a [FunctionId],
    /// For every instance, the weights it updates.
    pub updated: &'a [Vec<usize>],
    pub instance: &'a Instance,
    pub frames: Vec<Frame>,
}

impl Frame {
    /// An empty function called `name`, for `instance`.
    pub fn new(name: &str, instance: &Instance) -> Frame {
        let slots = instance.locals.len() + 2 * instance.weights.len() + 1;
        Frame { f: Function::new(name), values: vec![None; slots], captures: vec![], time: None, checks: vec![] }
    }
}

impl Body<'_> {
    /// The function being built.
    pub fn f(&mut self) -> &mut Function {
        &mut self.top().f
    }

    /// The innermost frame.
    pub fn top(&mut self) -> &mut Frame {
        self.frames.last_mut().expect("a function is under construction")
    }

    fn slot(&self, name: Name) -> usize {
        let (locals, weights) = (self.instance.locals.len(), self.instance.weights.len());
        match name {
            Name::Local(n) => n,
            Name::Weight(n) => locals + n,
            Name::Latest(n) => locals + weights + n,
            Name::Key => locals + 2 * weights,
        }
    }

    /// Binds a name in the innermost function.
    pub fn bind(&mut self, name: Name, value: Value) {
        let slot = self.slot(name);
        self.top().values[slot] = Some(value);
    }

    /// The value of a name in the innermost function, captured where it belongs to an outer one.
    pub fn get(&mut self, name: Name) -> Value {
        self.get_at(self.frames.len() - 1, name)
    }

    fn get_at(&mut self, depth: usize, name: Name) -> Value {
        let slot = self.slot(name);
        if let Some(value) = self.frames[depth].values[slot] {
            return value;
        }
        // A loop continues where the outer function stands: its states start from the latest ones.
        let outer_name = match name {
            Name::Weight(n) if self.frames[depth].time.is_some() => Name::Latest(n),
            Name::Local(_) | Name::Weight(_) | Name::Latest(_) | Name::Key => name,
        };
        assert!(depth > 0, "{name:?} of {} has no value", self.instance.name);
        let outer = self.get_at(depth - 1, outer_name);
        if let Some(k) = self.frames[depth].captures.iter().position(|v| *v == outer)
            && name != Name::Key
        {
            let value = self.frames[depth].capture(k);
            self.frames[depth].values[slot] = Some(value);
            return value;
        }
        let ty = self.frames[depth - 1].f.ty(outer).clone();
        let text = match name {
            Name::Local(n) => self.instance.locals[n].0.clone(),
            Name::Weight(n) | Name::Latest(n) => bare(&self.instance.weights[n].path),
            Name::Key => "key".into(),
        };
        let frame = &mut self.frames[depth];
        frame.captures.push(outer);
        let mut value = frame.f.input(&text, ty);
        if let (Name::Key, Some((site, i))) = (name, frame.time) {
            let once = Expr::op(ScalarOp::FoldKey, [load_at(0, []), Expr::Const(Scalar::i64(site as i64))]);
            let body = Expr::op(ScalarOp::FoldKey, [once, load_at(1, [])]);
            value = frame.f.nest(Nest::map(vec![], body), [value, i], Span::default());
        }
        frame.values[slot] = Some(value);
        value
    }

    /// A rank-0 literal.
    pub fn constant(&mut self, c: Scalar, span: Span) -> Value {
        self.f().push(Op::Constant([c].into()), [], Type::scalar(c.dtype()), span)
    }

    /// The function's key folded with `site`.
    pub fn key(&mut self, site: u32, span: Span) -> Value {
        let key = self.get(Name::Key);
        fold_key(self.f(), key, site as i64, span)
    }
}

impl Frame {
    /// The value of captured input number `k`: captures are the last inputs.
    fn capture(&self, k: usize) -> Value {
        let n = self.f.inputs.len() - self.captures.len() + k;
        let id = self.f.iter().find(|(_, node)| node.op == Op::Input(n)).map(|(id, _)| id).expect("every input has a node");
        Value { node: id, result: 0 }
    }

    /// Hangs the assertions on the first result and gives the function and what it captured.
    pub fn finish(mut self) -> (Function, Vec<Value>) {
        for (condition, message, span) in std::mem::take(&mut self.checks) {
            if let Some((_, first)) = self.f.results.first().cloned() {
                let ty = self.f.ty(first).clone();
                self.f.results[0].1 = self.f.push(Op::Check(message), [first, condition], ty, span);
            }
        }
        (self.f, self.captures)
    }
}

/// Moves the inputs' nodes to the front, in order, for readers.
pub(super) fn inputs_first(f: &mut Function) {
    let mut order: Vec<usize> = (0..f.nodes.len()).collect();
    order.sort_by_key(|k| match f.nodes[*k].op {
        Op::Input(n) => (0, n),
        _ => (1, *k),
    });
    let mut new = vec![0; order.len()];
    for (at, old) in order.iter().enumerate() {
        new[*old] = at as u32;
    }
    let moved = |v: &mut Value| v.node = NodeId(new[v.node.0 as usize]);
    let mut nodes: Vec<Option<Node>> = std::mem::take(&mut f.nodes).into_iter().map(Some).collect();
    f.nodes = order.iter().filter_map(|old| nodes[*old].take()).collect();
    f.nodes.iter_mut().flat_map(|n| &mut n.operands).for_each(&moved);
    f.results.iter_mut().for_each(|(_, v)| moved(v));
}

/// `fold_key(key, n)` as a node of rank 0.
pub(super) fn fold_key(f: &mut Function, key: Value, n: i64, span: Span) -> Value {
    debug_assert_eq!(f.ty(key).dtype, DType::I64);
    let body = Expr::op(ScalarOp::FoldKey, [load_at(0, []), Expr::Const(Scalar::i64(n))]);
    f.nest(Nest::map(vec![], body), [key], span)
}
