//! Random well-typed programs, the same for the same seed: what the laws of passes, kernels and code are tested on.
//!
//! Out: modules that verify and whose evaluation succeeds (every load is in bounds or says what it gives outside), with every primitive,
//! fold, guard, index form, both float types, free dims, calls and scans; and inputs for them, special values included.

use crate::ir::*;
use nnc_runtime::manifest::{Sink, Source};
use nnc_runtime::random::mix;
use nnc_runtime::tensor::Tensor;

/// A program to run.
pub struct Case {
    /// With one entry, `infer:main`.
    pub module: Module,
    /// The entry's function.
    pub function: FunctionId,
    /// Values of the free dims.
    pub dims: Dims,
    /// Inputs of the function.
    pub inputs: Vec<Tensor>,
}

/// The program of this seed.
pub fn case(seed: u64) -> Case {
    made(Random::new(mix(seed.wrapping_add(0x5eed))), seed)
}

/// The program that these bytes choose, each of them one choice; what they leave open is random. What a fuzzer changes a little, it changes here a little.
pub fn chosen(bytes: &[u8]) -> Case {
    made(Random { state: mix(bytes.len() as u64), choices: Vec::from(bytes).into_iter() }, bytes.len() as u64)
}

fn made(mut random: Random, seed: u64) -> Case {
    let mut module = Module::default();
    for (name, min) in [("B", 1), ("T", 1)] {
        module.dims.push(Dim { name: name.into(), min, max: Some(8) });
    }
    for n in 0..random.below(3) {
        let mut inputs: Vec<Type> = (0..1 + random.below(3)).map(|_| random.ty()).collect();
        let mut results = vec![];
        if random.once_in(2) {
            // The body of a scan: position, carries, and what else there is; carries and stacked values.
            let carries = inputs[..1 + random.below(inputs.len())].to_vec();
            inputs.insert(0, Type::scalar(DType::I64));
            results = [carries, vec![random.ty()]].concat();
        }
        let body = build(&module, &mut random, &format!("f{n}"), &inputs, &results);
        module.add(body);
    }
    let inputs: Vec<Type> = (0..1 + random.below(4)).map(|_| random.ty()).collect();
    let main = build(&module, &mut random, "main", &inputs, &[]);
    let function = module.add(main);
    let f = module.function(function);
    let inputs = f.inputs.iter().map(|i| Source::Data(i.name.clone())).collect();
    let results = (0..f.results.len()).map(|n| Sink::Result(format!("r{n}").into())).collect();
    module.entries.push(Entry { name: "infer:main".into(), function, inputs, results });
    let dims: Dims = [("B".into(), 1 + random.below(4) as i64), ("T".into(), 1 + random.below(5) as i64)].into();
    let inputs = self::inputs(&module, function, &dims, seed);
    Case { module, function, dims, inputs }
}

/// Random inputs for a function.
///
/// # Panics
/// If a dim of an input has no value.
pub fn inputs(module: &Module, function: FunctionId, dims: &Dims, seed: u64) -> Vec<Tensor> {
    let mut random = Random::new(mix(seed ^ 0xda7a));
    let f = module.function(function);
    let tensor = |i: &Input| {
        let shape = crate::ir::eval::sizes(&i.ty.shape, dims).expect("an input's size");
        let mut tensor = Tensor::zeros(i.ty.dtype, &shape);
        (0..tensor.len()).for_each(|at| tensor.set(at, random.value(i.ty.dtype)));
        tensor
    };
    f.inputs.iter().map(tensor).collect()
}

/// A stream of numbers.
pub struct Random {
    state: u64,
    /// Small numbers are taken from here as long as there are any.
    choices: std::vec::IntoIter<u8>,
}

impl Random {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Random {
        Random { state: seed, choices: vec![].into_iter() }
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(crate::math::random::GOLDEN);
        mix(self.state)
    }

    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        match self.choices.next().filter(|_| n <= 256) {
            Some(choice) => choice as usize % n,
            None => (self.bits() % n as u64) as usize,
        }
    }

    /// One of `items`.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// True once in `n`.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// A value, sometimes a special one.
    pub fn value(&mut self, dtype: DType) -> Scalar {
        let special = self.once_in(6);
        match dtype {
            DType::F32 | DType::F64 if special => {
                let values = [0.0, -0.0, -0.0, 1.0, -1.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 1e-40, 3e38, -1e-310, 1e20, 0.5];
                Scalar::float(dtype, *self.pick(&values))
            }
            DType::F32 | DType::F64 => Scalar::float(dtype, (self.below(1 << 20) as f64 / (1 << 18) as f64) - 2.0),
            DType::I64 if special => Scalar::i64(*self.pick(&[0, -1, i64::MAX, i64::MIN, 1 << 40])),
            DType::I64 => Scalar::i64(self.below(12) as i64 - 3),
            DType::Bool => Scalar::bool(self.once_in(2)),
        }
    }

    fn dtype(&mut self) -> DType {
        *self.pick(&[DType::F32, DType::F32, DType::F32, DType::F64, DType::I64, DType::Bool])
    }

    fn size(&mut self) -> Size {
        let (b, t) = (Size::dim("B"), Size::dim("T"));
        match self.below(12) {
            0..3 => b,
            3..5 => t,
            5 => &b + &Size::constant(1),
            6 => &Size::constant(2) * &t,
            7 => Size::constant(17),
            8 => Size::constant(1),
            _ => Size::constant(2 + self.below(4) as i64),
        }
    }

    fn ty(&mut self) -> Type {
        let rank = *self.pick(&[0, 1, 1, 2, 2, 3]);
        Type { dtype: self.dtype(), shape: (0..rank).map(|_| self.size()).collect() }
    }
}

/// A function from `inputs` to `results` and some more.
fn build(module: &Module, random: &mut Random, name: &str, inputs: &[Type], results: &[Type]) -> Function {
    let mut f = Function::new(name);
    inputs.iter().enumerate().for_each(|(n, ty)| {
        f.input(&format!("x{n}"), ty.clone());
    });
    let mut b = Builder { module, random, f };
    for _ in 0..3 + b.random.below(7) {
        b.step();
    }
    let mut values: Vec<Value> = results.iter().map(|ty| b.make(ty)).collect();
    if results.is_empty() {
        let nodes = b.f.nodes.len();
        for node in [nodes - 1, nodes - 2.min(nodes), b.random.below(nodes)] {
            values.push(Value { node: NodeId(node as u32), result: b.f.nodes[node].types.len() as u32 - 1 });
        }
    }
    b.f.results = values.into_iter().enumerate().map(|(n, v)| (n.is_multiple_of(2).then(|| format!("r{n}").into()), v)).collect();
    b.f
}

struct Builder<'a> {
    module: &'a Module,
    random: &'a mut Random,
    f: Function,
}

/// An expression being built: the box and the operands so far.
struct Scope {
    ranges: Vec<Size>,
    operands: Vec<Value>,
}

impl Builder<'_> {
    fn values(&self) -> Vec<Value> {
        self.f.iter().flat_map(|(node, n)| (0..n.types.len()).map(move |r| Value { node, result: r as u32 })).collect()
    }

    fn node(&mut self, op: Op, operands: Vec<Value>, types: Vec<Type>) -> Value {
        let name = self.random.once_in(2).then(|| self.random.pick(&["y", "h", "loss", "fc1.weight", "a b"]).to_string().into());
        Value { node: self.f.push_node(Node { op, operands, types, name, span: Default::default() }), result: 0 }
    }

    /// A value of exactly this type: one that is there, or a new map.
    fn make(&mut self, ty: &Type) -> Value {
        let fit: Vec<Value> = self.values().into_iter().filter(|v| self.f.ty(*v) == ty).collect();
        if !fit.is_empty() && !self.random.once_in(3) {
            return *self.random.pick(&fit);
        }
        let mut scope = Scope { ranges: ty.shape.clone(), operands: vec![] };
        let body = self.expr(&mut scope, ty.dtype, 2);
        let guards = self.guards(&scope.ranges, 6);
        let nest = Nest { outs: ty.shape.clone(), reds: vec![], guards, fold: Fold::None, body };
        self.node(Op::Nest(nest), scope.operands, vec![ty.clone()])
    }

    fn step(&mut self) {
        match self.random.below(22) {
            0..7 => {
                let ty = self.random.ty();
                let mut scope = Scope { ranges: ty.shape.clone(), operands: vec![] };
                let body = self.expr(&mut scope, ty.dtype, 4);
                let guards = self.guards(&scope.ranges, 4);
                let nest = Nest { outs: ty.shape.clone(), reds: vec![], guards, fold: Fold::None, body };
                self.node(Op::Nest(nest), scope.operands, vec![ty]);
            }
            7..13 => self.fold(),
            13 => self.constant(),
            14 => self.place(),
            15 => self.scatter(),
            16 => {
                let ty = Type { shape: vec![self.random.size(), self.random.size()], ..self.random.ty() };
                let x = self.make(&ty);
                let descending = self.random.once_in(2);
                self.node(Op::Sort { descending }, vec![x], vec![ty.clone(), Type::new(DType::I64, ty.shape)]);
            }
            17 => self.reshape(),
            18 => {
                let values = self.values();
                let x = *self.random.pick(&values);
                let ty = self.f.ty(x).clone();
                self.node(Op::StopGradient, vec![x], vec![ty]);
            }
            19 => {
                let values = self.values();
                let x = *self.random.pick(&values);
                let ty = self.f.ty(x).clone();
                let truth = Nest::map(ty.shape.clone(), Expr::Holds(vec![]));
                let condition = self.node(Op::Nest(truth), vec![], vec![Type::new(DType::Bool, ty.shape.clone())]);
                self.node(Op::Check("never".into()), vec![x, condition], vec![ty]);
            }
            _ => self.call(),
        }
    }

    fn fold(&mut self) {
        let folds = [Fold::Sum, Fold::Sum, Fold::Dot, Fold::Dot, Fold::Prod, Fold::Max, Fold::Min, Fold::ArgMax, Fold::ArgMin];
        let fold = *self.random.pick(&folds);
        let dtype = match fold {
            Fold::Sum | Fold::Prod => *self.random.pick(&[DType::F32, DType::F64, DType::I64]),
            Fold::Dot | Fold::Winograd | Fold::WinogradWeights | Fold::DotLines => *self.random.pick(&[DType::F32, DType::F64]),
            Fold::None | Fold::Max | Fold::Min | Fold::ArgMax | Fold::ArgMin => self.random.dtype(),
        };
        let outs: Vec<Size> = (0..self.random.below(3)).map(|_| self.random.size()).collect();
        let mut reds: Vec<Size> = (0..1 + self.random.below(2)).map(|_| self.random.size()).collect();
        if self.random.once_in(8) {
            // Longer than a leaf of a dot.
            reds = vec![Size::constant(300)];
        }
        let mut scope = Scope { ranges: [outs.clone(), reds.clone()].concat(), operands: vec![] };
        let body = match fold {
            Fold::Dot | Fold::Winograd | Fold::WinogradWeights | Fold::DotLines => {
                Expr::op(ScalarOp::Mul, [self.expr(&mut scope, dtype, 1), self.expr(&mut scope, dtype, 1)])
            }
            Fold::None | Fold::Sum | Fold::Prod | Fold::Max | Fold::Min | Fold::ArgMax | Fold::ArgMin => self.expr(&mut scope, dtype, 3),
        };
        let guards = self.guards(&scope.ranges, 3);
        let mut types = vec![Type::new(dtype, outs.clone())];
        if fold.results() == 2 {
            types.push(Type::new(DType::I64, outs.clone()));
        }
        self.node(Op::Nest(Nest { outs, reds, guards, fold, body }), scope.operands, types);
    }

    fn constant(&mut self) {
        let dtype = self.random.dtype();
        let shape: Vec<i64> = (0..self.random.below(3)).map(|_| 1 + self.random.below(3) as i64).collect();
        let values: Vec<Scalar> = (0..shape.iter().product()).map(|_: i64| self.random.value(dtype)).collect();
        let shape: Vec<Size> = shape.into_iter().map(Size::constant).collect();
        self.node(Op::Constant(values.into()), vec![], vec![Type { dtype, shape }]);
    }

    fn place(&mut self) {
        let dtype = self.random.dtype();
        let (n, rest) = (self.random.size(), self.random.size());
        let one = Size::constant(1);
        let piece =
            |shape: &[&Size], start: Vec<Start>, stride: Vec<Size>| Piece { shape: shape.iter().map(|s| (*s).clone()).collect(), start, stride };
        let zero = || Start::Size(Size::default());
        let fill = Base::Fill(self.random.value(dtype));
        match self.random.below(4) {
            0 => {
                let m = self.random.size();
                let a = self.make(&Type::new(dtype, [n.clone(), rest.clone()]));
                let b = self.make(&Type::new(dtype, [m.clone(), rest.clone()]));
                let shape = vec![&n + &m, rest.clone()];
                let pieces = vec![
                    piece(&[&n, &rest], vec![zero(), zero()], vec![one.clone(), one.clone()]),
                    piece(&[&m, &rest], vec![Start::Size(n.clone()), zero()], vec![one.clone(), one]),
                ];
                self.node(Op::Place(Place { shape: shape.clone(), base: fill, pieces }), vec![a, b], vec![Type { dtype, shape }]);
            }
            1 => {
                let two = Size::constant(2);
                let ty = Type::new(dtype, [n.clone()]);
                let (a, b) = (self.make(&ty), self.make(&ty));
                let shape = vec![&n * &two];
                let pieces = vec![piece(&[&n], vec![zero()], vec![two.clone()]), piece(&[&n], vec![Start::Size(one)], vec![two])];
                self.node(Op::Place(Place { shape: shape.clone(), base: fill, pieces }), vec![a, b], vec![Type { dtype, shape }]);
            }
            2 => {
                let a = self.make(&Type::new(dtype, [n.clone()]));
                let shape = vec![&n + &Size::constant(3)];
                let pieces = vec![piece(&[&n], vec![Start::Size(Size::constant(2))], vec![one])];
                self.node(Op::Place(Place { shape: shape.clone(), base: fill, pieces }), vec![a], vec![Type { dtype, shape }]);
            }
            _ => {
                let whole = Type::new(dtype, [&n + &Size::constant(2)]);
                let (base, a, at) = (self.make(&whole), self.make(&Type::new(dtype, [n.clone()])), self.make(&Type::scalar(DType::I64)));
                let pieces = vec![piece(&[&n], vec![Start::Runtime(0)], vec![one])];
                self.node(Op::Place(Place { shape: whole.shape.clone(), base: Base::Operand, pieces }), vec![base, a, at], vec![whole]);
            }
        }
    }

    fn scatter(&mut self) {
        let fold =
            *self.random.pick(&[ScatterFold::Replace, ScatterFold::Sum, ScatterFold::Sum, ScatterFold::Prod, ScatterFold::Max, ScatterFold::Min]);
        let dtype = *self.random.pick(&[DType::F32, DType::F64, DType::I64]);
        let ty = Type { dtype, shape: (0..1 + self.random.below(2)).map(|_| self.random.size()).collect() };
        let base = self.make(&ty);
        let points: Vec<Size> = (0..1 + self.random.below(2)).map(|_| self.random.size()).collect();
        let mut scope = Scope { ranges: points.clone(), operands: vec![base] };
        let value = self.expr(&mut scope, dtype, 2);
        let index = ty.shape.iter().map(|size| self.inside(&mut scope, size)).collect();
        let guards = self.guards(&points, 3);
        let scatter = Scatter { shape: ty.shape.clone(), points, guards, index, value, fold };
        self.node(Op::Scatter(scatter), scope.operands, vec![ty]);
    }

    fn reshape(&mut self) {
        let values: Vec<Value> = self.values().into_iter().filter(|v| self.f.ty(*v).shape.len() >= 2).collect();
        if values.is_empty() {
            return;
        }
        let x = *self.random.pick(&values);
        let mut ty = self.f.ty(x).clone();
        let axis = self.random.below(ty.shape.len() - 1);
        match self.random.once_in(4) {
            true => ty.shape.insert(axis, Size::constant(1)),
            false => {
                let inner = ty.shape.remove(axis + 1);
                ty.shape[axis] = &ty.shape[axis] * &inner;
            }
        }
        self.node(Op::Reshape, vec![x], vec![ty]);
    }

    fn call(&mut self) {
        let callees: Vec<FunctionId> = (0..self.module.functions.len()).map(|i| FunctionId(i as u32)).collect();
        if callees.is_empty() {
            return self.fold();
        }
        let id = *self.random.pick(&callees);
        let callee = self.module.function(id);
        // A function whose first input is an i64 scalar can be a scan's body if its results include its second input's type.
        let types: Vec<Type> = callee.inputs.iter().map(|i| i.ty.clone()).collect();
        let results: Vec<Type> = callee.results.iter().map(|(_, v)| callee.ty(*v).clone()).collect();
        if types[0] == Type::scalar(DType::I64) {
            let carries = (0..results.len()).take_while(|n| types.get(n + 1) == Some(&results[*n])).count();
            let slices = types.len() - 1 - carries - usize::from(types.len() > 1 + carries && self.random.once_in(2));
            let length = self.random.size();
            let mut operands = Vec::new();
            let mut inputs = Vec::new();
            for (n, ty) in types[1..].iter().enumerate() {
                let mut ty = ty.clone();
                if (carries..carries + slices).contains(&n) {
                    let axis = self.random.below(ty.shape.len() + 1);
                    ty.shape.insert(axis, length.clone());
                    inputs.push(axis);
                }
                operands.push(self.make(&ty));
            }
            let mut outputs = Vec::new();
            let mut out = results.clone();
            for ty in &mut out[carries..] {
                let axis = self.random.below(ty.shape.len() + 1);
                ty.shape.insert(axis, length.clone());
                outputs.push(axis);
            }
            let reversed = self.random.once_in(2);
            self.node(Op::Scan(Scan { body: id, length, reversed, carries, inputs, outputs }), operands, out);
            return;
        }
        let operands = types.iter().map(|ty| self.make(ty)).collect();
        self.node(Op::Call(id), operands, results);
    }

    fn guards(&mut self, ranges: &[Size], rarity: usize) -> Vec<Guard> {
        if ranges.is_empty() || !self.random.once_in(rarity) {
            return vec![];
        }
        (0..1 + self.random.below(2))
            .map(|_| {
                let relation = *self.random.pick(&[Relation::NonNegative, Relation::NonNegative, Relation::Zero, Relation::NonZero]);
                Guard { expr: self.affine(ranges), relation }
            })
            .collect()
    }

    fn affine(&mut self, ranges: &[Size]) -> Affine {
        let mut sum = Affine::constant(self.random.below(5) as i64 - 2);
        if self.random.once_in(5) {
            sum = sum.add(&Affine::constant(self.random.size()));
        }
        for _ in 0..1 + self.random.below(2) {
            if ranges.is_empty() {
                break;
            }
            let mut term = Affine::var(self.random.below(ranges.len()));
            match self.random.below(8) {
                0 => term = term.div(&Size::constant(2)),
                1 => term = term.add(&Affine::constant(1)).modulo(&self.random.size()),
                _ => {}
            }
            let by = *self.random.pick(&[1, 1, 1, -1, -1, 2, 3]);
            sum = sum.add(&term.scale(&Size::constant(by)));
        }
        sum
    }

    /// An index that is surely inside of an axis of this size.
    fn inside(&mut self, scope: &mut Scope, size: &Size) -> Index {
        let vars: Vec<Var> = (0..scope.ranges.len()).filter(|v| scope.ranges[*v] == *size).collect();
        let last = Affine::constant(size - &Size::constant(1));
        match self.random.below(8) {
            0 => Index::Affine(last),
            1 => Index::Affine(Affine::constant(0)),
            2 => Index::Affine(self.affine(&scope.ranges).modulo(size)),
            3 => {
                let number = self.expr(scope, DType::I64, 1);
                let size = Expr::Index(Affine::constant(size.clone()));
                Index::Gather(Box::new(Expr::op(ScalarOp::Mod, [number, size])))
            }
            4 if !vars.is_empty() => Index::Affine(last.sub(&Affine::var(*self.random.pick(&vars)))),
            _ if !vars.is_empty() => Index::Affine(Affine::var(*self.random.pick(&vars))),
            _ => Index::Affine(self.affine(&scope.ranges).modulo(size)),
        }
    }

    fn load(&mut self, scope: &mut Scope, dtype: DType) -> Option<Expr> {
        let values: Vec<Value> = self.values().into_iter().filter(|v| self.f.ty(*v).dtype == dtype).collect();
        if values.is_empty() {
            return None;
        }
        let value = *self.random.pick(&values);
        let shape = self.f.ty(value).shape.clone();
        let outside = !shape.is_empty() && self.random.once_in(4);
        let index: Vec<Index> = shape
            .iter()
            .map(|size| match outside && self.random.once_in(2) {
                true => Index::Affine(self.affine(&scope.ranges)),
                false => self.inside(scope, size),
            })
            .collect();
        let operand = match scope.operands.iter().position(|v| *v == value) {
            Some(at) if !self.random.once_in(10) => at,
            _ => {
                scope.operands.push(value);
                scope.operands.len() - 1
            }
        };
        Some(Expr::Load { operand, index, otherwise: outside.then(|| self.random.value(dtype)) })
    }

    fn expr(&mut self, scope: &mut Scope, dtype: DType, depth: usize) -> Expr {
        use ScalarOp::*;
        if depth == 0 || self.random.once_in(5) {
            if !self.random.once_in(5)
                && let Some(load) = self.load(scope, dtype)
            {
                return load;
            }
            return match dtype {
                DType::I64 if self.random.once_in(2) => Expr::Index(self.affine(&scope.ranges)),
                DType::Bool if self.random.once_in(2) => Expr::Holds(self.guards(&scope.ranges, 1)),
                DType::F32 | DType::F64 | DType::I64 | DType::Bool => Expr::Const(self.random.value(dtype)),
            };
        }
        let depth = depth - 1;
        let binary = |b: &mut Self, scope: &mut Scope, op: ScalarOp, dtype: DType| {
            let mut args = [b.expr(scope, dtype, depth), b.expr(scope, dtype, depth)];
            // What simplifications look for: an operation with a neutral literal, a negation, or twice the same operand.
            let at = b.random.below(2);
            match b.random.below(12) {
                0..4 => args[at] = Expr::Const(Scalar::float(dtype, *b.random.pick(&[0.0, -0.0, 1.0, -1.0]))),
                4 if dtype != DType::Bool => args[at] = Expr::op(Neg, [args[at].clone()]),
                5 => args[at] = args[1 - at].clone(),
                _ => {}
            }
            Expr::op(op, args)
        };
        match dtype {
            _ if self.random.once_in(9) => {
                let c = self.expr(scope, DType::Bool, depth);
                Expr::op(Select, [c, self.expr(scope, dtype, depth), self.expr(scope, dtype, depth)])
            }
            _ if self.random.once_in(9) => {
                let from = self.random.dtype();
                Expr::Cast(dtype, Box::new(self.expr(scope, from, depth)))
            }
            DType::F32 | DType::F64 => match self.random.below(12) {
                0..4 => {
                    let unary = [Neg, Neg, Abs, Sign, Sqrt, Exp, Expm1, Log, Log1p, Sin, Cos, Atan, Tanh, Sigmoid, Erf, Floor, Ceil, Round];
                    Expr::op(*self.random.pick(&unary), [self.expr(scope, dtype, depth)])
                }
                4 => {
                    let args = [self.expr(scope, dtype, depth), self.expr(scope, dtype, depth), self.expr(scope, dtype, depth)];
                    Expr::op(Fma, args)
                }
                5 if dtype == DType::F64 => binary(self, scope, Uniform, DType::I64),
                _ => {
                    let op = *self.random.pick(&[Add, Add, Sub, Sub, Mul, Mul, Div, Pow, Max, Min, Mod]);
                    binary(self, scope, op, dtype)
                }
            },
            DType::I64 => match self.random.below(4) {
                0 => Expr::op(*self.random.pick(&[Neg, Abs, Sign]), [self.expr(scope, dtype, depth)]),
                _ => {
                    let op = *self.random.pick(&[Add, Sub, Mul, Max, Min, FloorDiv, Mod, FoldKey]);
                    binary(self, scope, op, dtype)
                }
            },
            DType::Bool => match self.random.below(4) {
                0 => Expr::op(Not, [self.expr(scope, dtype, depth)]),
                1 => {
                    let op = *self.random.pick(&[And, Or, Max, Min]);
                    binary(self, scope, op, dtype)
                }
                _ => {
                    let of = self.random.dtype();
                    let op = *self.random.pick(&[Eq, Ne, Lt, Le]);
                    binary(self, scope, op, of)
                }
            },
        }
    }
}

/// The seeds that a law is tried on: the first `default`, or those of `NNC_LAW_SEEDS`, which is a number or a range `a..b`.
#[cfg(test)]
pub fn seeds(default: u64) -> std::ops::Range<u64> {
    let Ok(asked) = std::env::var("NNC_LAW_SEEDS") else { return 0..default };
    let number = |s: &str| s.trim().parse().expect("NNC_LAW_SEEDS is a number or a range");
    asked.split_once("..").map_or_else(|| 0..number(&asked), |(from, to)| number(from)..number(to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{eval, parse, print, verify};

    /// Every program verifies, prints to what reads back as itself, and evaluates.
    #[test]
    fn programs_are_well_typed_and_their_text_is_exact() {
        for seed in 0..600 {
            let case = case(seed);
            let text = print::module(&case.module);
            verify::verify(&case.module).unwrap_or_else(|e| panic!("seed {seed}: {}\n{text}", e.join("\n")));
            let read = parse::module(&text).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{text}"));
            assert!(read == case.module, "seed {seed}: reads back as\n{}\nfrom\n{text}", print::module(&read));
            eval::function(&case.module, case.function, &case.inputs, &case.dims).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{text}"));
        }
    }
}
