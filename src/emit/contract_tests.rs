//! The engine's own law: random contractions, in every layout and size at which it cuts, give the interpreter's bits.

use super::tests::{law, program};
use super::{Level, micro, shared, single, stream};
use crate::ir::generate::{self, Random};
use crate::ir::*;
use crate::kernel::contract::{Side, packed, recognise};
use crate::span::Span;

fn c(n: i64) -> Size {
    Size::constant(n)
}

/// A variable of the box: its size, as written and as a number.
struct Var {
    size: Size,
    n: i64,
}

/// Sizes at which tiles, panels, leaves and blocks begin and end, and rows a page apart.
const EDGES: [i64; 17] = [1, 2, 3, 5, 11, 12, 13, 14, 25, 31, 32, 33, 64, 65, 130, 17, 1024];
const STEPS: [i64; 10] = [1, 3, 16, 17, 255, 256, 257, 300, 1023, 1025];

struct Maker {
    random: Random,
    f: Function,
    dims: Dims,
    dtype: DType,
    /// Multiplications left for the interpreter.
    budget: i64,
}

impl Maker {
    fn once_in(&mut self, n: usize) -> bool {
        self.random.once_in(n)
    }

    fn pick(&mut self, from: &[i64]) -> i64 {
        let most = self.budget.max(1);
        let fitting: Vec<i64> = from.iter().copied().filter(|n| *n <= most).collect();
        fitting[self.random.below(fitting.len())]
    }

    /// A variable, sometimes of a size known at launch only.
    fn var(&mut self, from: &[i64]) -> Var {
        let n = self.pick(from);
        self.budget /= n;
        if !self.once_in(2) {
            return Var { size: c(n), n };
        }
        let name = format!("D{}", self.dims.len());
        self.dims.insert(name.as_str().into(), n);
        Var { size: Size::dim(&name), n }
    }

    fn shuffled(&mut self, mut list: Vec<usize>) -> Vec<usize> {
        for i in (1..list.len()).rev() {
            list.swap(i, self.random.below(i + 1));
        }
        list
    }

    /// A factor that knows these variables: one axis each, in any order; some read shifted, in steps, beyond the edge, by number, or with another's.
    fn factor(&mut self, operand: usize, inputs: &mut Vec<Value>, vars: &[Var], known: Vec<usize>, reds: usize, simple: bool) -> Expr {
        let mut axes: Vec<Vec<usize>> = self.shuffled(known).into_iter().map(|v| vec![v]).collect();
        if !simple && axes.len() > 2 && self.once_in(2) {
            // A window: an output and a reduction variable share an axis.
            let out = axes.iter().position(|a| a[0] < reds);
            let red = axes.iter().position(|a| a[0] >= reds);
            if let (Some(out), Some(red)) = (out, red) {
                let var = axes[red][0];
                axes[out].push(var);
                axes.remove(red);
            }
        }
        let (mut shape, mut index, mut padded) = (vec![], vec![], false);
        for axis in axes {
            let mut at = Affine::var(axis[0]);
            let mut size = vars[axis[0]].size.clone();
            if let [_, with] = axis[..] {
                let stride = if self.once_in(3) { 2 } else { 1 };
                at = at.scale(&c(stride)).add(&Affine::var(with));
                if self.once_in(2) {
                    size = size.checked_mul(&c(stride)).unwrap();
                    at = at.sub(&Affine::constant(1));
                    padded = true;
                } else {
                    size = size.checked_mul(&c(stride)).unwrap().checked_add(&vars[with].size).unwrap();
                }
            } else if !simple && self.once_in(8) {
                // Backwards.
                at = Affine::constant(size.checked_add(&c(-1)).unwrap()).sub(&at);
            } else if !simple && self.once_in(8) {
                let ids = self.f.input(&format!("ids{}_{}", self.f.inputs.len(), shape.len()), Type::new(DType::I64, std::slice::from_ref(&size)));
                inputs.push(ids);
                index.push(Index::Gather(Box::new(load(inputs.len() - 1, [at]))));
                shape.push(size.checked_add(&c(3)).unwrap());
                continue;
            }
            index.push(Index::Affine(at));
            shape.push(size);
        }
        let name = format!("x{}", self.f.inputs.len());
        inputs[operand] = self.f.input(&name, Type::new(self.dtype, shape));
        let loaded = Expr::Load { operand, index, otherwise: padded.then(|| Scalar::float(self.dtype, 0.0)) };
        if simple || !self.once_in(6) { loaded } else { Expr::op(ScalarOp::Mul, [loaded, float(self.dtype, 0.5)]) }
    }

    /// A contraction, with something behind it half of the time.
    fn contraction(&mut self) -> Value {
        self.budget = 400_000;
        let (mut vars, mut kinds) = (vec![], vec![]);
        let steps = 1 + self.random.below(3);
        let mut reds = vec![];
        for _ in 0..steps {
            let long = steps == 1 || self.once_in(3);
            reds.push(self.var(if long { &STEPS } else { &EDGES }));
        }
        for (kind, most) in [(0, 2), (1, 3), (2, 3)] {
            let least = if kind == 2 { 1 } else { 0 };
            for _ in 0..least + self.random.below(most - least) {
                vars.push(self.var(if kind == 0 { &[1, 2, 3] } else { &EDGES }));
                kinds.push(kind);
            }
        }
        let order = self.shuffled((0..vars.len()).collect());
        let mut outs: Vec<Option<Var>> = vars.into_iter().map(Some).collect();
        let mut all: Vec<Var> = order.iter().map(|v| outs[*v].take().unwrap()).collect();
        let kinds: Vec<i32> = order.iter().map(|v| kinds[*v]).collect();
        let out = all.len();
        all.extend(reds);
        let knows = |kind: i32| (0..all.len()).filter(|v| *v >= out || kinds[*v] == 0 || kinds[*v] == kind).collect::<Vec<_>>();
        let simple = self.once_in(2);
        let placeholder = Value { node: NodeId(0), result: 0 };
        let mut inputs = vec![placeholder; 2];
        let first = self.factor(0, &mut inputs, &all, knows(1), out, simple);
        let second = self.factor(1, &mut inputs, &all, knows(2), out, simple);
        let product = if self.once_in(2) { [first, second] } else { [second, first] };
        let sizes = |vars: &[Var]| vars.iter().map(|v| v.size.clone()).collect::<Vec<_>>();
        let nest = Nest::fold(sizes(&all[..out]), sizes(&all[out..]), Fold::Dot, Expr::op(ScalarOp::Mul, product));
        assert!(all.iter().map(|v| v.n).product::<i64>() <= 400_000);
        let dot = self.f.nest(nest, inputs, Span::default());
        if self.once_in(2) {
            return dot;
        }
        let shape = sizes(&all[..out]);
        let bias = self.f.input(&format!("b{}", self.f.inputs.len()), Type::new(self.dtype, &shape[out - 1..]));
        let sum = Expr::op(ScalarOp::Add, [load_at(0, 0..out), load_at(1, [out - 1])]);
        let sum = self.f.nest(Nest::map(shape.clone(), sum), [dot, bias], Span::default());
        let zero = float(self.dtype, 0.0);
        self.f.nest(Nest::map(shape, Expr::op(ScalarOp::Max, [load_at(0, 0..out), zero])), [sum], Span::default())
    }
}

#[test]
fn random_contractions_are_what_they_mean() {
    let mut engine = 0;
    for seed in generate::seeds(6) {
        let dtype = if seed % 3 == 2 { DType::F64 } else { DType::F32 };
        let mut maker = Maker { random: Random::new(seed), f: Function::new("products"), dims: Dims::new(), dtype, budget: 0 };
        let results: Vec<Value> = (0..8).map(|_| maker.contraction()).collect();
        maker.f.results = results.iter().map(|v| (None, *v)).collect();
        let dims = maker.dims.clone();
        let module = program(maker.f);
        engine += crate::kernel::lower(&module).kernels.iter().filter(|k| recognise(k).is_some()).count();
        law(&module, &[dims], seed);
    }
    assert!(engine > 20, "{engine} kernels are contractions");
}

/// A convolution `[b, o, y, x]` of images `[b, c, y, x]` with weights `[o, c, r, s]`, or one of its gradients; then half of the time maps of its own box.
fn convolution(random: &mut Random, f: &mut Function) -> Value {
    let mut pick = |from: &[i64]| from[random.below(from.len())];
    let (pass, taps, size) = (pick(&[0, 1, 2]), pick(&[1, 3, 3, 5]), pick(&[2, 3, 4, 4, 7, 8, 9, 16, 17]));
    let (batch, stride) = (pick(&[1, 2, 3]), pick(&[1, 1, 1, 2]));
    let (from, to) = (pick(&[1, 3, 6, 17]), pick(&[1, 5, 13, 40]));
    // Lines of more columns than a vector has, at every second place.
    let (size, from, to) = if stride == 2 { (pick(&[9, 32, 33, 40]), from.min(3), to.min(5)) } else { (size, from, to) };
    let (map, batched) = (pick(&[0, 1]) == 1, pick(&[0, 1]) == 1);
    let out = (size + stride - 1) / stride;
    let images = if batched { Size::dim("B") } else { c(batch) };
    let (image, result) = ([images.clone(), c(from), c(size), c(size)], [images, c(to), c(out), c(out)]);
    let weight = [c(to), c(from), c(taps), c(taps)];
    let at = |v: usize, tap: usize| Affine::var(v).scale(&c(stride)).add(&Affine::var(tap)).sub(&Affine::constant(taps / 2));
    let back = |v: usize, tap: usize| Affine::var(v).add(&Affine::constant(taps / 2)).sub(&Affine::var(tap));
    let padded = |operand, index: [Affine; 4]| Expr::Load { operand, index: index.map(Index::Affine).to_vec(), otherwise: Some(Scalar::f32(0.0)) };
    let var = Affine::var;
    let (shapes, outer, reds, factors) = match pass {
        0 => ([&image, &weight], &result, weight[1..].to_vec(), [padded(0, [var(0), var(4), at(2, 5), at(3, 6)]), load_at(1, [1, 4, 5, 6])]),
        // Of a stride of one: others scatter.
        1 => {
            let index = [var(0), var(4), back(2, 5), back(3, 6)];
            let shapes = [&result, &weight];
            (shapes, &image, vec![c(to), c(taps), c(taps)], [padded(0, index), load_at(1, [4, 1, 5, 6])])
        }
        _ => {
            let reds = vec![result[0].clone(), c(out), c(out)];
            ([&result, &image], &weight, reds, [load_at(0, [4, 0, 5, 6]), padded(1, [var(4), var(1), at(5, 2), at(6, 3)])])
        }
    };
    let mut input = |shape: &[Size]| f.input(&format!("x{}", f.inputs.len()), Type::new(DType::F32, shape));
    let inputs = shapes.map(|s| input(s));
    let extra = [input(outer), input(&outer[1..2])];
    let nest = Nest::fold(outer.to_vec(), reds, Fold::Dot, Expr::op(ScalarOp::Mul, factors));
    let dot = f.nest(nest, inputs, Span::default());
    if !map {
        return dot;
    }
    // Bias and what is beside; the box itself where it is not batched.
    let beside = Expr::op(ScalarOp::Sub, [load_at(1, 0..4), Expr::op(ScalarOp::Mul, [load_at(0, 0..4), float(DType::F32, 0.5)])]);
    let beside = Expr::op(ScalarOp::Add, [beside, load_at(2, [1])]);
    f.nest(Nest::map(outer.to_vec(), beside), [dot, extra[0], extra[1]], Span::default())
}

#[test]
fn random_convolutions_are_what_they_mean() {
    let mut engine = 0;
    for seed in generate::seeds(8) {
        let mut random = Random::new(seed);
        let mut f = Function::new("convolutions");
        f.results = (0..6).map(|_| (None, convolution(&mut random, &mut f))).collect();
        let module = program(f);
        engine += crate::kernel::lower(&module).kernels.iter().filter(|k| recognise(k).is_some()).count();
        law(&module, &[[("B".into(), 1)].into(), [("B".into(), 3)].into()], seed);
    }
    assert!(engine > 20, "{engine} kernels are contractions");
}

/// Convolutions of small images whose weights are stored multiply these as packed panels: their points are rows, of one image or several, over more
/// than a leaf, at every second place, with borders and without, in both types.
#[test]
fn points_of_small_images_are_rows_beside_stored_weights() {
    let text = "dim B >= 1\n\nfn @f(x: f32[B, 30, 5, 7], w: f32[32, 30, 3, 3], u: f32[64, 30, 3, 3], v: f32[64, 32, 1, 1], t: f32[64], d: f64[B, 5, 6, 3], e: f64[16, 5, 3, 2]) {
  %y[b, o, i, j]: f32[B, 32, 5, 7] = dot[c < 30, r < 3, s < 3](%w[o, c, r, s] * %x[b, c, i + r - 1, j + s - 1, else 0.0])
  %z[b, o, i, j]: f32[B, 32, 5, 7] = maximum(%y[b, o, i, j], 0.0)
  %g[b, o, i, j]: f32[B, 64, 3, 4] = dot[c < 30, r < 3, s < 3](%u[o, c, r, s] * %x[b, c, 2*i + r - 1, 2*j + s - 1, else 0.0])
  %h[b, o, i, j]: f32[B, 64, 3, 4] = dot[c < 32, r < 1, s < 1](%v[o, c, r, s] * %z[b, c, 2*i + r, 2*j + s])
  %k[b, o, i, j]: f32[B, 64, 3, 4] = %g[b, o, i, j] * %t[o] - %h[b, o, i, j]
  %m[b, o, i, j]: f64[B, 16, 4, 2] = dot[c < 5, r < 3, s < 2](%e[o, c, r, s] * %d[b, c, i + r, j + s])
  return %z, %k, %m
}
";
    let mut module = crate::ir::parse::module(text).unwrap();
    let mut module = program(module.functions.remove(0));
    for (n, source) in module.entries[0].inputs.iter_mut().enumerate().filter(|(n, _)| ![0, 5].contains(n)) {
        *source = nnc_runtime::manifest::Source::Tensor(format!("t{n}").into());
    }
    let kernels = crate::plan::plan(&module, &crate::kernel::lower(&module), &crate::span::Sources::default()).0;
    let turned = |k: &&crate::kernel::Kernel| recognise(k).is_some_and(|c| c.rows.len() == 3 && packed(k, &c).is_some());
    assert_eq!(kernels.iter().filter(turned).count(), 4, "weights are columns");
    law(&module, &[[("B".into(), 1)].into(), [("B".into(), 3)].into()], 1);
}

/// Few rows meet the columns of many panels side by side, the last ones no whole panel, over several leaves: stored at once, with stages behind them, in
/// both types.
#[test]
fn few_rows_meet_panels_side_by_side() {
    let text = "dim M >= 0
dim N >= 0
dim K >= 0

fn @f(a: f32[M, K], b: f32[K, N], t: f32[N], c: f64[M, K], d: f64[K, N]) {
  %y[m, n]: f32[M, N] = dot[k < K](%a[m, k] * %b[k, n])
  %s[m, n]: f32[M, N] = dot[k < K](%b[k, n] * %a[m, k])
  %z[m, n]: f32[M, N] = maximum(%s[m, n] + %t[n], 0.0)
  %x[m, n]: f64[M, N] = dot[k < K](%c[m, k] * %d[k, n])
  return %y, %z, %x
}
";
    let mut module = crate::ir::parse::module(text).unwrap();
    let module = program(module.functions.remove(0));
    let kernels = crate::kernel::lower(&module).kernels;
    let streams = |k: &&crate::kernel::Kernel| recognise(k).is_some_and(|c| stream::takes(k, &c));
    assert_eq!(kernels.iter().filter(streams).count(), 3);
    let dims = |m: i64, n: i64, k: i64| -> Dims { [("M".into(), m), ("N".into(), n), ("K".into(), k)].into() };
    law(&module, &[dims(1, 4200, 9), dims(2, 70, 300), dims(3, 33, 513), dims(4, 64, 7), dims(5, 831, 6), dims(6, 47, 258), dims(7, 40, 5)], 1);
}

/// A single row meets columns along `k` as they lie: whole panels and not, whole squares of steps and not, over several leaves, A's steps beside each other
/// and apart, stored at once and with stages behind, in both types; several rows meet the same packed.
#[test]
fn a_single_row_meets_columns_as_they_lie() {
    let text = "dim M >= 0
dim N >= 0
dim K >= 0

fn @f(a: f32[M, K], b: f32[N, K], t: f32[N], c: f64[2, K, M], d: f64[N, 2, K]) {
  %y[m, n]: f32[M, N] = dot[k < K](%a[m, k] * %b[n, k])
  %s[m, n]: f32[M, N] = dot[k < K](%b[n, k] * %a[m, k])
  %z[m, n]: f32[M, N] = maximum(%s[m, n] + %t[n], 0.0)
  %x[i, m, n]: f64[2, M, N] = dot[k < K](%c[i, k, m] * %d[n, i, k])
  return %y, %z, %x
}
";
    let mut module = crate::ir::parse::module(text).unwrap();
    let module = program(module.functions.remove(0));
    let kernels = crate::kernel::lower(&module).kernels;
    let singles = |k: &&crate::kernel::Kernel| recognise(k).is_some_and(|c| single::takes(k, &c));
    assert_eq!(kernels.iter().filter(singles).count(), 3);
    let dims = |m: i64, n: i64, k: i64| -> Dims { [("M".into(), m), ("N".into(), n), ("K".into(), k)].into() };
    law(&module, &[dims(1, 70, 300), dims(1, 1, 1), dims(1, 33, 513), dims(1, 500, 64), dims(1, 17, 256), dims(1, 8, 0), dims(2, 40, 19)], 1);
}

/// Sums of nothing are zero, rows of nothing are nothing.
#[test]
fn empty_products_are_zero() {
    let [m, n, k] = ["M", "N", "K"].map(Size::dim);
    let mut f = Function::new("empty");
    let a = f.input("a", Type::new(DType::F32, &[m.clone(), k.clone()]));
    let b = f.input("b", Type::new(DType::F32, &[n.clone(), k.clone()]));
    let product = Expr::op(ScalarOp::Mul, [load_at(0, [0, 2]), load_at(1, [1, 2])]);
    let dot = f.nest(Nest::fold(vec![m, n], vec![k], Fold::Dot, product), [a, b], Span::default());
    f.results = vec![(None, dot)];
    let module = program(f);
    let dims = |m: i64, n: i64, k: i64| -> Dims { [("M".into(), m), ("N".into(), n), ("K".into(), k)].into() };
    law(&module, &[dims(0, 5, 7), dims(5, 0, 7), dims(5, 7, 0), dims(600, 33, 1), dims(1, 1, 2600)], 1);
}

/// A product whose rows take the steps on one side of a diagonal, and one whose points on one side are read, in every place that the diagonal may have.
#[test]
fn triangular_products_are_what_they_mean() {
    let text = "dim T >= 0\ndim S >= 0\ndim N >= 0\n\nfn @f(p: f32[2, T, S], q: f64[2, S, T], v: f32[S, 2, N], w: f64[2, S, N], k: f32[2, S, 7], r: f32[2, T, 7], b: f32[T]) {
  %below[i, t, j]: f32[2, T, N] = dot[s < S](%p[i, t, s] * %v[s, i, j]) where t + 3 >= s
  %shifted[i, t, j]: f64[2, T, N] = dot[s < S](%q[i, s, t] * %w[i, s, j]) where t >= s + 2
  %above[t, i, j]: f64[T, 2, N] = dot[s < S](%q[i, s, t] * %w[i, s, j]) where s >= t
  %late[i, t, j]: f32[2, T, N] = dot[s < S](%v[s, i, j] * %p[i, t, s]) where s >= t + 5
  %scores[i, t, s]: f32[2, T, S] = dot[e < 7](%r[i, t, e] * %k[i, s, e])
  %masked[i, t, s]: f32[2, T, S] = select([t >= s], exp(%scores[i, t, s] - %b[t]), 0.0)
  %others[i, t, s]: f32[2, T, S] = dot[e < 7](%r[i, t, e] * %k[i, s, e])
  %rest[i, t, s]: f32[2, T, S] = select([s >= t + 9], %others[i, t, s], inf)
  %third[i, t, s]: f32[2, T, S] = dot[e < 7](%r[i, t, e] * %k[i, s, e])
  %hidden[i, t, s]: f32[2, T, S] = exp(%third[i, t, s])
  %read[i, t, j]: f32[2, T, N] = dot[s < S](%hidden[i, t, s] * %v[s, i, j]) where t >= s
  return %below, %shifted, %above, %late, %masked, %rest, %read
}
";
    let mut module = crate::ir::parse::module(text).unwrap();
    let module = program(module.functions.remove(0));
    let kernels = crate::kernel::lower(&module).kernels;
    let found: Vec<_> = kernels.iter().filter_map(recognise).collect();
    let count = |such: &dyn Fn(&crate::kernel::contract::Contraction) -> bool| found.iter().filter(|c| such(c)).count();
    assert_eq!((found.len(), count(&|c| c.reach.is_some()), count(&|c| c.needs.is_some())), (8, 5, 3));
    let dims = |t: i64, s: i64, n: i64| -> Dims { [("T".into(), t), ("S".into(), s), ("N".into(), n)].into() };
    law(&module, &[dims(40, 40, 33), dims(1, 9, 32), dims(13, 300, 40), dims(270, 13, 32), dims(5, 5, 1)], 1);
    law(&module, &[dims(250, 261, 33), dims(261, 256, 2), dims(20, 1030, 2), dims(540, 530, 1), dims(0, 4, 4), dims(4, 0, 4)], 2);
}

/// What LLVM makes of the micro-kernels that are not assembly keeps every vector in registers: where rows take the steps on one side of a diagonal, and
/// where rows are few. Only the steps on the diagonal itself need more than AVX2 has, for their masks.
#[test]
fn micro_kernels_spill_nothing() {
    for (dtype, level) in [DType::F32, DType::F64].into_iter().flat_map(|t| Level::ALL.map(|l| (t, l))) {
        let sides = [Side::Below, Side::Above].map(|side| shared(|context, module| micro::define(context, module, dtype, level, Some(side))));
        let widest = if level == Level::V4 { "%zmm" } else { "%ymm" };
        for assembly in sides.into_iter().chain([shared(|context, module| stream::define(context, module, dtype, level))]) {
            let loops = assembly.split("\n.LBB").filter(|block| block.contains("vfmadd") && block.contains(widest));
            let loops: Vec<&str> = loops.filter(|block| level == Level::V4 || !block.contains("vblendv")).collect();
            assert!(loops.len() >= 6, "{} {dtype}: the loops are not found in\n{assembly}", level.name());
            let spills = |l: &&str| l.contains("mm") && ["(%rsp", "(%rbp"].iter().any(|stack| l.contains(stack));
            let spilled: Vec<&str> = loops.iter().flat_map(|block| block.lines().filter(spills)).collect();
            assert!(spilled.is_empty(), "{} {dtype}: {spilled:?} in\n{assembly}", level.name());
        }
    }
}

/// A product of what its own kernel computes first, as in attention with heads of width 1, is no contraction: its factor is not there to be packed.
#[test]
fn factors_of_the_same_kernel_are_not_packed() {
    let text = "fn @f(s: f32[2, 4, 5, 5], v: f32[2, 5, 4]) {
  %m[i, j, k]: f32[2, 4, 5] = argmax[l < 5](%s[i, j, k, l])
  %e[i, j, k, l]: f32[2, 4, 5, 5] = exp(%s[i, j, k, l] - %m[i, j, k])
  %y[i, j, k]: f32[2, 4, 5] = dot[l < 5](%e[i, j, k, l] * %v[i, l, j])
  return %y
}
";
    let mut module = crate::ir::parse::module(text).unwrap();
    let module = program(module.functions.remove(0));
    assert_eq!(crate::kernel::lower(&module).kernels.len(), 1);
    law(&module, &[Dims::new()], 1);
}
