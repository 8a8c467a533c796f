//! The graph to kernels: per function a list of steps over named buffers.
//!
//! In: a verified module. Out: distinct kernels, and for every function that an entry reaches (every function, where there are no entries) its
//! steps in an order of execution. Buffers are row-major and as large as their value. Calls and scans stay references to functions; the plan
//! puts their steps in place.

use crate::ir::{
    Affine, Base, DType, Expr, Fold, Function, FunctionId, Guard, Index, Module, NodeId, Op, Place, Scalar, ScalarOp, Scan, Size, Type, Value,
};
use crate::kernel::canonical::Registry;
use crate::kernel::contract::{self, Contraction};
use crate::kernel::demand::demand;
use crate::kernel::fuse::{Unit, fuse};
use crate::kernel::placed::{Spot, covers, spots, uses};
use crate::kernel::{Instr, Kernel, Stage, group, movement, verify};
use crate::span::Span;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Every function as steps over kernels.
#[derive(Clone, Debug, Default)]
pub struct Lowered {
    /// Distinct kernels; names may repeat.
    pub kernels: Vec<Kernel>,
    /// As in the module; nothing for a function that no entry reaches.
    pub functions: Vec<Option<Lower>>,
}

/// A function's steps and buffers.
#[derive(Clone, Debug, Default)]
pub struct Lower {
    /// Everything the steps touch.
    pub buffers: Vec<Buffer>,
    /// In order.
    pub steps: Vec<Step>,
    /// The buffer of every result.
    pub results: Vec<usize>,
}

/// A value's memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    /// Element type and shape.
    pub ty: Type,
    /// Where the memory comes from.
    pub kind: Kind,
    /// For readers.
    pub name: Arc<str>,
}

/// Where a buffer's memory comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// Input number `n` of the function.
    Input(usize),
    /// Written by the function's own steps.
    Own,
    /// The same memory as an earlier buffer, in another shape.
    Alias(usize),
    /// Part of an earlier buffer: from position `from` of its first axis on, and as many further as the loop with this index stands.
    Part { of: usize, from: Size, index: Option<usize> },
    /// Literal data.
    Constant(Arc<[Scalar]>),
    /// Whatever a [`Step::Call`] or [`Step::Scan`] says its callee's result is.
    Returned,
}

/// What a function does.
#[derive(Clone, Debug)]
pub enum Step {
    /// Runs a kernel.
    Launch(Launch),
    /// Copies a whole buffer.
    Copy { from: usize, to: usize },
    /// Stops the run with the message unless every element is true.
    Check { condition: usize, message: Arc<str>, span: Span },
    /// The steps of a function; its result buffers become `results`.
    Call { function: FunctionId, args: Vec<usize>, results: Vec<usize>, span: Span },
    /// A loop.
    Scan(Loop),
}

/// `count` times: the body's steps on `args`, then its results (by number) are in their places.
#[derive(Clone, Debug)]
pub struct Loop {
    /// How often.
    pub count: Size,
    /// From the last position to the first.
    pub reversed: bool,
    /// The position, i64 scalar.
    pub index: usize,
    /// The body.
    pub body: FunctionId,
    /// The body's inputs.
    pub args: Vec<usize>,
    /// Results that have a place of their own in every round: part of a sequence.
    pub parts: Vec<(usize, usize)>,
    /// Results that take the place of what the round may still read.
    pub carries: Vec<(usize, usize)>,
    /// Where the loop stands.
    pub span: Span,
}

/// A kernel and its arguments.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Index into [`Lowered::kernels`].
    pub kernel: u32,
    /// In the order of the kernel's parameters.
    pub args: Vec<usize>,
    /// Values of its size parameters.
    pub sizes: Vec<Size>,
    /// Independent tasks: outer points, or tiles of a contraction.
    pub tasks: Size,
    /// Consecutive tasks that share work: the tiles of a panel; 0 where tasks have nothing in common.
    pub whole: Size,
    /// Operations per task.
    pub cost: Size,
    /// Floating-point operations of all tasks.
    pub flops: Size,
    /// The source.
    pub span: Span,
}

/// Lowers the module.
pub fn lower(module: &Module) -> Lowered {
    lower_units(module, units(module))
}

/// What is one kernel, in every function that an entry reaches.
pub fn units(module: &Module) -> Vec<Option<Vec<Unit>>> {
    module.functions.iter().zip(reached(module)).map(|(f, reached)| reached.then(|| fuse(f).units)).collect()
}

/// Lowers the module's functions, fused as `units` says.
pub fn lower_units(module: &Module, units: Vec<Option<Vec<Unit>>>) -> Lowered {
    let mut registry = Registry::default();
    let functions = module.functions.iter().zip(units).map(|(f, units)| Some(function(module, f, units?, &mut registry))).collect();
    let kernels = registry.finish();
    if cfg!(debug_assertions) {
        kernels.iter().for_each(verify::check);
    }
    Lowered { kernels, functions }
}

/// Which functions an entry reaches.
fn reached(module: &Module) -> Vec<bool> {
    let mut reached = vec![module.entries.is_empty(); module.functions.len()];
    module.entries.iter().for_each(|e| reached[e.function.0 as usize] = true);
    // Callees come before callers.
    for n in (0..module.functions.len()).rev().filter(|n| reached[*n]).collect::<Vec<_>>() {
        visit_callees(module, n, &mut reached);
    }
    reached
}

fn visit_callees(module: &Module, n: usize, reached: &mut [bool]) {
    for node in &module.functions[n].nodes {
        if let Op::Call(id) | Op::Scan(Scan { body: id, .. }) = &node.op {
            let id = id.0 as usize;
            if !std::mem::replace(&mut reached[id], true) {
                visit_callees(module, id, reached);
            }
        }
    }
}

/// A function while it is lowered.
pub(super) struct State<'a> {
    pub module: &'a Module,
    pub f: &'a Function,
    pub out: Lower,
    pub registry: &'a mut Registry,
    /// The buffer of every value that has one.
    values: BTreeMap<Value, usize>,
    /// How often each value is read.
    uses: BTreeMap<Value, usize>,
    /// What is read of values of which not all is.
    demand: BTreeMap<Value, Guard>,
    /// Values that are computed as parts of others.
    spots: BTreeMap<Value, Spot>,
    /// Those of them that have been.
    placed: BTreeSet<Value>,
}

fn function(module: &Module, f: &Function, units: Vec<Unit>, registry: &mut Registry) -> Lower {
    let uses = uses(f);
    let (spots, demand) = (spots(f, &uses), demand(f));
    let mut state = State { module, f, out: Lower::default(), registry, values: BTreeMap::new(), uses, demand, spots, placed: BTreeSet::new() };
    for unit in units {
        match unit {
            Unit::Group(g) => {
                let launch = group::kernel(&mut state, &g);
                state.out.steps.push(Step::Launch(launch));
            }
            Unit::Node(id) => state.node(id),
        }
    }
    state.out.results = f.results.iter().map(|(_, v)| state.read(*v)).collect();
    state.out
}

impl State<'_> {
    /// A new buffer.
    pub fn buffer(&mut self, ty: Type, kind: Kind, name: &str) -> usize {
        self.out.buffers.push(Buffer { ty, kind, name: name.into() });
        self.out.buffers.len() - 1
    }

    /// The buffer that an earlier step (or the caller) fills with the value.
    pub fn read(&mut self, value: Value) -> usize {
        if let Some(buffer) = self.values.get(&value) {
            return *buffer;
        }
        let node = self.f.node(value.node);
        let kind = match &node.op {
            Op::Input(n) => Kind::Input(*n),
            Op::Constant(data) => Kind::Constant(data.clone()),
            other => panic!("%{} of @{} is read before it is computed: {other:?}", value.node.0, self.f.name),
        };
        self.define(value, kind)
    }

    /// A new buffer for the value.
    pub fn define(&mut self, value: Value, kind: Kind) -> usize {
        let node = self.f.node(value.node);
        let name = node.name.as_deref().map_or_else(|| format!("{}.{}", self.f.name, value.node.0), str::to_string);
        let buffer = self.buffer(self.f.ty(value).clone(), kind, &name);
        self.values.insert(value, buffer);
        buffer
    }

    /// The buffer of a value that starts as `from` and is then changed: a copy, or that very memory, where a nest has computed it for this alone.
    fn begin(&mut self, value: Value, from: Value) -> usize {
        let buffer = self.read(from);
        let own = matches!(self.f.node(from.node).op, Op::Nest(_)) && self.out.buffers[buffer].kind == Kind::Own;
        if own && self.uses.get(&from) == Some(&1) {
            self.values.insert(value, buffer);
            return buffer;
        }
        self.copied(value, from)
    }

    fn copied(&mut self, value: Value, from: Value) -> usize {
        let from = self.read(from);
        let to = self.define(value, Kind::Own);
        self.out.steps.push(Step::Copy { from, to });
        to
    }

    /// The buffer of a place over a fill, filled where its pieces leave something of it.
    fn open(&mut self, id: NodeId) -> usize {
        let value = Value { node: id, result: 0 };
        let node = self.f.node(id);
        let Op::Place(place @ Place { base: Base::Fill(fill), .. }) = &node.op else { panic!("nothing to fill: {node:?}") };
        if let Some(buffer) = self.values.get(&value) {
            return *buffer;
        }
        let to = self.define(value, Kind::Own);
        if !covers(place) {
            let (kernel, args) = movement::fill(self, to, *fill);
            self.push(&kernel, args, node.span);
        }
        to
    }

    /// Where a nest of a kernel stores its value: the buffer, its type, and the index of each element. A value that is only a piece of another goes
    /// there, unless the kernel itself reads it back.
    pub fn target(&mut self, value: Value, read_back: bool) -> (usize, Type, Vec<Affine>) {
        if let Some(spot) = self.spots.get(&value).filter(|_| !read_back).cloned() {
            self.placed.insert(value);
            return (self.open(spot.place), self.f.node(spot.place).types[0].clone(), spot.index);
        }
        let ty = self.f.ty(value).clone();
        let own = (0..ty.shape.len()).map(Affine::var).collect();
        (self.define(value, Kind::Own), ty, own)
    }

    /// The guard that all who read the value read it under.
    pub fn demanded(&self, value: Value) -> Option<&Guard> {
        self.demand.get(&value).filter(|_| !self.spots.contains_key(&value))
    }

    /// The value as a literal, where it is a scalar (an index of a larger one may be out of bounds).
    pub fn constant(&self, value: Value) -> Option<Scalar> {
        match &self.f.node(value.node).op {
            Op::Constant(data) if self.f.ty(value).shape.is_empty() => data.first().copied(),
            _ => None,
        }
    }

    /// Registers the kernel and makes its launch.
    pub fn launch(&mut self, kernel: &Kernel, args: Vec<usize>, span: Span) -> Launch {
        let (number, sizes) = self.registry.add(kernel);
        let (tasks, whole, cost) = tasks(self.registry.kernel(number), kernel);
        Launch { kernel: number, args, sizes, tasks, whole, cost, flops: flops(kernel), span }
    }

    fn node(&mut self, id: NodeId) {
        let node = self.f.node(id);
        let value = Value { node: id, result: 0 };
        match &node.op {
            Op::Input(_) | Op::Constant(_) => {}
            Op::Nest(_) => panic!("nests are in groups: {node:?}"),
            Op::Reshape => {
                let from = self.read(node.operands[0]);
                self.define(value, Kind::Alias(from));
            }
            Op::StopGradient => {
                let from = self.read(node.operands[0]);
                self.values.insert(value, from);
            }
            Op::Check(message) => {
                let condition = self.read(node.operands[1]);
                self.out.steps.push(Step::Check { condition, message: message.clone(), span: node.span });
                let from = self.read(node.operands[0]);
                self.values.insert(value, from);
            }
            Op::Call(callee) => {
                let args = node.operands.iter().map(|v| self.read(*v)).collect();
                let results = (0..node.types.len() as u32).map(|result| self.define(Value { node: id, result }, Kind::Returned)).collect();
                self.out.steps.push(Step::Call { function: *callee, args, results, span: node.span });
            }
            Op::Scan(scan) => self.scan(id, scan),
            Op::Place(place) => {
                let first = match place.base {
                    Base::Fill(_) => {
                        self.open(id);
                        0
                    }
                    Base::Operand => {
                        self.begin(value, node.operands[0]);
                        1
                    }
                };
                for (n, piece) in place.pieces.iter().enumerate() {
                    if self.placed.contains(&node.operands[first + n]) {
                        continue;
                    }
                    let starts = &node.operands[first + place.pieces.len()..];
                    let (kernel, args) = movement::piece(self, value, piece, node.operands[first + n], starts);
                    self.push(&kernel, args, node.span);
                }
            }
            Op::Scatter(scatter) => {
                // An update that reads the base reads it as it was.
                let mut reads = scatter.index.iter().any(|i| matches!(i, Index::Gather(e) if reads_base(e)));
                reads |= reads_base(&scatter.value);
                let to = if reads { self.copied(value, node.operands[0]) } else { self.begin(value, node.operands[0]) };
                let (kernel, args) = movement::scatter(self, to, scatter, &node.operands);
                self.push(&kernel, args, node.span);
            }
            Op::Sort { descending } => {
                let (kernel, args) = movement::sort(self, id, *descending);
                self.push(&kernel, args, node.span);
            }
        }
    }

    fn push(&mut self, kernel: &Kernel, args: Vec<usize>, span: Span) {
        let launch = self.launch(kernel, args, span);
        self.out.steps.push(Step::Launch(launch));
    }

    /// A loop: its steps' values are parts of buffers whose first axis is time. A carry that is stacked, before or after a step, goes through all of its
    /// values: every step reads it where the one before has left it.
    fn scan(&mut self, id: NodeId, scan: &Scan) {
        let node = self.f.node(id);
        let body = self.module.function(scan.body);
        let (initial, rest) = node.operands.split_at(scan.carries);
        let (sequences, constants) = rest.split_at(scan.inputs.len());
        let index = self.buffer(Type::scalar(DType::I64), Kind::Own, "i");
        let (zero, one, length) = (Size::default(), Size::constant(1), &scan.length);
        let (mut args, mut parts, mut carries, mut histories) = (vec![index], vec![], vec![], BTreeMap::new());
        let values: Vec<Value> = body.results.iter().map(|(_, v)| *v).collect();
        for (n, from) in initial.iter().enumerate() {
            let value = Value { node: id, result: n as u32 };
            let before = |v: &Value| body.node(v.node).op == Op::Input(n + 1);
            if !values[scan.carries..].iter().any(|v| *v == values[n] || before(v)) {
                let carry = self.begin(value, *from);
                args.push(carry);
                carries.push((n, carry));
                continue;
            }
            // A step finds the value at its own position and leaves it at the next one; backwards it is the other way round.
            let (old, new) = if scan.reversed { (&one, &zero) } else { (&zero, &one) };
            let (first, last) = if scan.reversed { (length, &zero) } else { (&zero, length) };
            let ty = self.f.ty(value).clone();
            let all = self.buffer(along(&(length + &one), &ty), Kind::Own, "history");
            let from = self.read(*from);
            let to = self.part(all, first, None, &ty);
            self.out.steps.push(Step::Copy { from, to });
            args.push(self.part(all, old, Some(index), &ty));
            parts.push((n, self.part(all, new, Some(index), &ty)));
            self.define(value, Kind::Part { of: all, from: last.clone(), index: None });
            for k in scan.carries..values.len() {
                let from = if values[k] == values[n] { Some(new) } else { before(&values[k]).then_some(old) };
                if let Some(from) = from {
                    histories.entry(k).or_insert(Kind::Part { of: all, from: from.clone(), index: None });
                }
            }
        }
        for (sequence, axis) in sequences.iter().zip(&scan.inputs) {
            let mut ty = self.f.ty(*sequence).clone();
            ty.shape.remove(*axis);
            let mut from = self.read(*sequence);
            if *axis > 0 {
                let to = self.buffer(along(length, &ty), Kind::Own, "steps");
                self.move_axis(from, to, *axis, 0, node.span);
                from = to;
            }
            args.push(self.part(from, &zero, Some(index), &ty));
        }
        for constant in constants {
            args.push(self.read(*constant));
        }
        let mut moved = vec![];
        for (k, axis) in (scan.carries..).zip(&scan.outputs) {
            let (value, ty) = (Value { node: id, result: k as u32 }, body.ty(values[k]).clone());
            let known = histories.remove(&k);
            let fresh = known.is_none();
            let kind = known.unwrap_or(Kind::Own);
            let all = if *axis == 0 { self.define(value, kind) } else { self.buffer(along(length, &ty), kind, "steps") };
            if fresh {
                parts.push((k, self.part(all, &zero, Some(index), &ty)));
            }
            if *axis > 0 {
                moved.push((all, value, *axis));
            }
        }
        let (count, reversed) = (scan.length.clone(), scan.reversed);
        self.out.steps.push(Step::Scan(Loop { count, reversed, index, body: scan.body, args, parts, carries, span: node.span }));
        for (from, value, axis) in moved {
            let to = self.define(value, Kind::Own);
            self.move_axis(from, to, 0, axis, node.span);
        }
    }

    /// What lies in `of` from this position of its first axis on.
    fn part(&mut self, of: usize, from: &Size, index: Option<usize>, ty: &Type) -> usize {
        self.buffer(ty.clone(), Kind::Part { of, from: from.clone(), index }, "step")
    }

    /// Copies with axis `a` as axis `b`.
    fn move_axis(&mut self, from: usize, to: usize, a: usize, b: usize, span: Span) {
        let (kernel, args) = movement::move_axis(self, from, to, a, b);
        self.push(&kernel, args, span);
    }
}

/// How many independent tasks a kernel has, how many of them share work, and what one costs; the kernel as it is shared, and in the program's sizes.
pub fn tasks(shared: &Kernel, kernel: &Kernel) -> (Size, Size, Size) {
    match contract::recognise(shared) {
        None => (product(&kernel.outer), Size::default(), cost(kernel)),
        Some(c) => (c.tasks(&kernel.outer), c.whole(&kernel.outer), contract_cost(kernel, &c)),
    }
}

/// So many of them one after the other.
fn along(length: &Size, ty: &Type) -> Type {
    Type::new(ty.dtype, [std::slice::from_ref(length), &ty.shape].concat())
}

fn reads_base(e: &Expr) -> bool {
    let mut found = false;
    e.visit(&mut |e| found |= matches!(e, Expr::Load { operand: 0, .. }));
    found
}

/// The sizes' product; a coefficient beyond 63 bits stays there, so that evaluating it reports the overflow.
pub fn product(sizes: &[Size]) -> Size {
    sizes.iter().fold(Size::constant(1), |p, s| p.checked_mul(s).unwrap_or(Size::constant(i64::MAX)))
}

/// The same for a task of a contraction: products run some ten times as fast as code that waits for memory.
fn contract_cost(kernel: &Kernel, c: &Contraction) -> Size {
    let rest: Vec<Stage> = kernel.stages.iter().enumerate().filter(|(n, _)| *n != c.stage).map(|(_, s)| s.clone()).collect();
    let points = Size::constant(contract::ROWS * contract::panel(c.dtype));
    let rest = product(&[stages_cost(&rest), points]);
    let multiply = product(&[product(&kernel.stages[c.stage].reds), Size::constant(contract::panel(c.dtype))]);
    multiply.checked_add(&rest).unwrap_or(Size::constant(i64::MAX))
}

/// Instructions that one outer point executes, roughly.
fn cost(kernel: &Kernel) -> Size {
    stages_cost(&kernel.stages)
}

fn stages_cost(stages: &[Stage]) -> Size {
    let mut sum = Size::default();
    for stage in stages {
        let points = product(&[product(&stage.inner), product(&stage.reds)]);
        let each = Size::constant(stage.body.len() as i64 + 1);
        sum = points.checked_mul(&each).and_then(|c| sum.checked_add(&c)).unwrap_or(Size::constant(i64::MAX));
    }
    sum
}

/// Arithmetic operations of all outer points, as the kernel states them: a fused multiply-add is two, a transcendental function one.
fn flops(kernel: &Kernel) -> Size {
    let mut sum = Size::default();
    for stage in &kernel.stages {
        let points = product(&[product(&stage.inner), product(&stage.reds)]);
        let fold = match stage.fold {
            Fold::None => 0,
            Fold::Dot | Fold::Winograd | Fold::WinogradWeights | Fold::DotLines => 2,
            Fold::Sum | Fold::Prod | Fold::Max | Fold::Min | Fold::ArgMax | Fold::ArgMin => 1,
        };
        let each = Size::constant(arithmetic(&stage.body) + fold);
        sum = points.checked_mul(&each).and_then(|c| sum.checked_add(&c)).unwrap_or(Size::constant(i64::MAX));
    }
    product(&[product(&kernel.outer), sum])
}

fn arithmetic(body: &[Instr]) -> i64 {
    use ScalarOp::*;
    let of = |instr: &Instr| match instr {
        Instr::Op(Not | And | Or | Eq | Ne | Lt | Le | Select | FloorDiv | FoldKey, _) => 0,
        Instr::Op(Fma, _) => 2,
        Instr::Op(..) => 1,
        Instr::Select { then, otherwise, .. } => arithmetic(&then.0).max(arithmetic(&otherwise.0)),
        Instr::Const(_) | Instr::Load { .. } | Instr::Local(_) | Instr::Index(_) | Instr::Holds(_) | Instr::Cast(..) => 0,
    };
    body.iter().map(of).sum()
}
