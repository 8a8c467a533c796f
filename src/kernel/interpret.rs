//! The reference semantics of kernels: slow, obvious, every access checked.
//!
//! In: kernels and raw buffers. Out: what compiled code must write too, bit for bit. An access out of bounds gives a positive number and
//! leaves what was stored before. Fold orders are those of [`Fold`].

use crate::ir::{Affine, DType, Fold, Guard, IndexAtom, Relation, Scalar, ScalarOp, ScatterFold, Size};
use crate::kernel::canonical::map_sizes;
use crate::kernel::contract;
use crate::kernel::verify::{self, types};
use crate::kernel::{Index, Instr, Kernel, Stage, Target};
use crate::math;
use nnc_runtime::exec::Kernels;
use nnc_runtime::size::Dims;

/// Runs kernels by number.
#[derive(Clone, Debug, Default)]
pub struct Interpreter {
    kernels: Vec<Kernel>,
}

impl Interpreter {
    /// For the kernels that launches count into.
    ///
    /// # Panics
    /// If a kernel does not verify.
    pub fn new(kernels: Vec<Kernel>) -> Interpreter {
        kernels.iter().for_each(verify::check);
        Interpreter { kernels }
    }
}

impl Kernels for Interpreter {
    unsafe fn run(&self, number: u32, args: &[*mut u8], sizes: &[i64], lo: i64, hi: i64, _: *mut u8) -> i64 {
        let kernel = at_sizes(&self.kernels[number as usize], sizes);
        let shapes = kernel.params.iter().map(|p| numbers(&p.shape)).collect();
        let outer = numbers(&kernel.outer);
        let mut machine = Machine { kernel: &kernel, args, shapes, locals: vec![Scalar::i64(0); kernel.locals.len()], point: vec![], square: None };
        let contraction = contract::recognise(&self.kernels[number as usize]);
        let done = (lo..hi).try_for_each(|task| match &contraction {
            None => machine.run(&coordinates(task, &outer)),
            Some(c) => c.points(task, &outer, &mut |point| machine.run(point)),
        });
        if done.is_none() { 1 } else { 0 }
    }
}

/// The kernel for given sizes: every size a constant.
fn at_sizes(kernel: &Kernel, sizes: &[i64]) -> Kernel {
    assert_eq!(sizes.len(), kernel.sizes, "sizes of {}", kernel.name);
    let dims: Dims = sizes.iter().enumerate().map(|(i, n)| (format!("n{i}").into(), *n)).collect();
    map_sizes(kernel, &mut |s| Size::constant(s.eval(&dims).unwrap_or_else(|e| panic!("size {s} of kernel {}: {e}", kernel.name))))
}

fn number(size: &Size) -> i64 {
    size.as_const().unwrap_or_else(|| panic!("size {size} is not a constant"))
}

fn numbers(sizes: &[Size]) -> Vec<i64> {
    sizes.iter().map(number).collect()
}

/// The indices of the point number `linear`, the last index fastest.
fn coordinates(mut linear: i64, sizes: &[i64]) -> Vec<i64> {
    let mut point = vec![0; sizes.len()];
    for axis in (0..sizes.len()).rev() {
        (point[axis], linear) = (linear % sizes[axis], linear / sizes[axis]);
    }
    point
}

/// Calls `see` for every point of the box until it gives nothing.
fn each(sizes: &[i64], see: &mut dyn FnMut(i64, &[i64]) -> Option<()>) -> Option<()> {
    let count: i64 = sizes.iter().product();
    (0..count).try_for_each(|k| see(k, &coordinates(k, sizes)))
}

struct Machine<'a> {
    kernel: &'a Kernel,
    args: &'a [*mut u8],
    shapes: Vec<Vec<i64>>,
    locals: Vec<Scalar>,
    /// Outer indices, inner indices, reduction indices.
    point: Vec<i64>,
    /// The last square of results, or window of taps, and its first point.
    square: Option<(Vec<i64>, Vec<Scalar>)>,
}

impl Machine<'_> {
    /// Runs all stages at an outer point; nothing if an access is out of bounds.
    fn run(&mut self, point: &[i64]) -> Option<()> {
        self.point = point.to_vec();
        let kernel = self.kernel;
        kernel.stages.iter().try_for_each(|stage| self.stage(stage))
    }

    /// Runs a stage at an outer point; nothing if an access is out of bounds.
    fn stage(&mut self, stage: &Stage) -> Option<()> {
        let (inner, reds) = (numbers(&stage.inner), numbers(&stage.reds));
        let depth = self.point.len();
        let dtype = self.dtype(stage);
        each(&inner, &mut |_, at| {
            self.point.truncate(depth);
            self.point.extend(at);
            let mut values = Vec::new();
            if stage.skip && !holds(&stage.guards, &self.point) {
                return Some(());
            }
            let mut fold = Accumulator::new(stage.fold);
            let folded: &[i64] = if stage.fold.is_windowed() { &[0] } else { &reds };
            each(folded, &mut |k, at| {
                self.point.truncate(depth + inner.len());
                self.point.extend(at);
                if holds(&stage.guards, &self.point) {
                    values.clear();
                    self.block(&stage.body, &mut values)?;
                    fold.add(k, &stage.values.iter().map(|v| values[*v]).collect::<Vec<_>>());
                }
                Some(())
            })?;
            self.point.truncate(depth + inner.len());
            let results = match stage.values.as_slice() {
                _ if stage.fold.is_windowed() => vec![self.windowed(stage, &reds, dtype)?],
                several @ [_, _, ..] if stage.fold == Fold::None => several.iter().map(|v| values[*v]).collect(),
                _ => fold.finish(reds.iter().product(), dtype),
            };
            for store in &stage.stores {
                match &store.target {
                    Target::Local(local) => self.locals[*local] = results[store.result],
                    Target::Param { param, index, fold } => {
                        let at = self.position(*param, index, &values)?;
                        self.write(*param, at, results[store.result], *fold);
                    }
                }
            }
            Some(())
        })?;
        self.point.truncate(depth);
        Some(())
    }

    /// The value of a fold over windows at an outer point.
    fn windowed(&mut self, stage: &Stage, reds: &[i64], dtype: DType) -> Option<Scalar> {
        let [.., y, x] = self.point[..] else { return None };
        if stage.fold == Fold::DotLines {
            let factor = |n: usize, point: [i64; 3]| {
                let mut values = vec![];
                let load = &stage.body[stage.values[n]..=stage.values[n]];
                let at = Machine { point: [&self.point[..], &point].concat(), ..self.beside() };
                at.block(load, &mut values).map(|()| values[0]).ok_or(())
            };
            let both = &mut |point| Ok::<_, ()>([factor(0, point)?, factor(1, point)?]);
            return math::lines::sum(dtype, [reds[0], reds[1], reds[2]], both).ok();
        }
        let size = if stage.fold == Fold::Winograd { 2 } else { 3 };
        let mut corner = self.point.clone();
        corner.truncate(self.point.len() - 2);
        let before = corner.clone();
        corner.extend([y - y % size, x - x % size]);
        let known = self.square.take().filter(|(at, _)| *at == corner);
        let factor = |n: usize, taps: [i64; 2], reds: [i64; 3]| {
            let mut values = vec![];
            let load = &stage.body[stage.values[n]..=stage.values[n]];
            let at = Machine { point: [&before[..], &taps, &reds].concat(), ..self.beside() };
            at.block(load, &mut values).map(|()| values[0]).ok_or(())
        };
        let square = match known {
            Some((_, square)) => square,
            None if size == 3 => {
                let pixel = &mut |point, tap| factor(1, tap, point);
                math::winograd::window(dtype, [reds[0], reds[1], reds[2]], &mut |point| factor(0, [0, 0], point), pixel).ok()?.concat()
            }
            None => {
                let factor = |n: usize| move |k: i64, a: i64, b: i64| factor(n, [y - y % 2, x - x % 2], [k, a, b]);
                math::winograd::square(dtype, reds[0], reds[1] == 4, &mut factor(0), &mut factor(1)).ok()?.concat()
            }
        };
        let value = square[(y % size * size + x % size) as usize];
        self.square = Some((corner, square));
        Some(value)
    }

    /// Another machine on the same memory.
    fn beside(&self) -> Machine<'_> {
        Machine { kernel: self.kernel, args: self.args, shapes: self.shapes.clone(), locals: vec![], point: vec![], square: None }
    }

    /// The type of a stage's first value.
    fn dtype(&self, stage: &Stage) -> DType {
        types(self.kernel, &stage.body).expect("a verified kernel")[stage.values[0]]
    }

    fn block(&self, body: &[Instr], values: &mut Vec<Scalar>) -> Option<()> {
        for instr in body {
            let value = match instr {
                Instr::Const(c) => *c,
                Instr::Load { param, index, otherwise } => match (self.position(*param, index, values), otherwise) {
                    (Some(at), _) => self.read(*param, at),
                    (None, Some(otherwise)) => *otherwise,
                    (None, None) => return None,
                },
                Instr::Local(l) => self.locals[*l],
                Instr::Index(a) => Scalar::i64(affine(a, &self.point)),
                Instr::Holds(guards) => Scalar::bool(holds(guards, &self.point)),
                Instr::Op(op, args) => math::apply(*op, &args.iter().map(|a| values[*a]).collect::<Vec<_>>()),
                Instr::Cast(to, from) => math::cast(*to, values[*from]),
                Instr::Select { condition, then, otherwise } => {
                    let start = values.len();
                    let (block, value) = if values[*condition].to_bool() { &**then } else { &**otherwise };
                    self.block(block, values)?;
                    let value = values[*value];
                    values.truncate(start);
                    value
                }
            };
            values.push(value);
        }
        Some(())
    }

    /// The linear position; nothing where an index is out of bounds.
    fn position(&self, param: usize, index: &[Index], values: &[Scalar]) -> Option<usize> {
        index.iter().zip(&self.shapes[param]).try_fold(0, |linear: usize, (index, size)| {
            let i = match index {
                Index::Affine(a) => affine(a, &self.point),
                Index::Value(v) => values[*v].to_i64(),
            };
            (0..*size).contains(&i).then(|| linear * *size as usize + i as usize)
        })
    }

    fn read(&self, param: usize, at: usize) -> Scalar {
        let dtype = self.kernel.params[param].dtype;
        // Safety: `run`'s contract, and `position` checks every index.
        unsafe {
            let p = self.args[param].add(at * dtype.bytes());
            match dtype {
                DType::F32 => Scalar::f32(p.cast::<f32>().read()),
                DType::F64 => Scalar::f64(p.cast::<f64>().read()),
                DType::I64 => Scalar::i64(p.cast::<i64>().read()),
                DType::Bool => Scalar::bool(p.read() != 0),
            }
        }
    }

    fn write(&self, param: usize, at: usize, value: Scalar, fold: Option<ScatterFold>) {
        let old = || self.read(param, at);
        let value = match fold {
            None | Some(ScatterFold::Replace) => value,
            Some(ScatterFold::Sum) => math::apply(ScalarOp::Add, &[old(), value]),
            Some(ScatterFold::Prod) => math::apply(ScalarOp::Mul, &[old(), value]),
            Some(ScatterFold::Max) => math::apply(ScalarOp::Max, &[old(), value]),
            Some(ScatterFold::Min) => math::apply(ScalarOp::Min, &[old(), value]),
        };
        let bytes = value.bits().to_le_bytes();
        let size = value.dtype().bytes();
        // Safety: as in `read`.
        unsafe { self.args[param].add(at * size).copy_from_nonoverlapping(bytes.as_ptr(), size) }
    }
}

/// The value of an index expression; arithmetic wraps, and what a zero divides is zero.
pub fn affine(a: &Affine, point: &[i64]) -> i64 {
    let mut sum = number(&a.constant);
    for (atom, c) in &a.terms {
        let value = match atom {
            IndexAtom::Var(v) => point[*v],
            IndexAtom::Div(a, by) => affine(a, point).checked_div_euclid(number(by)).unwrap_or(0),
            IndexAtom::Mod(a, by) => affine(a, point).checked_rem_euclid(number(by)).unwrap_or(0),
        };
        sum = sum.wrapping_add(value.wrapping_mul(number(c)));
    }
    sum
}

fn holds(guards: &[Guard], point: &[i64]) -> bool {
    guards.iter().all(|g| {
        let value = affine(&g.expr, point);
        match g.relation {
            Relation::NonNegative => value >= 0,
            Relation::Zero => value == 0,
            Relation::NonZero => value != 0,
        }
    })
}

/// What a fold remembers between points.
enum Accumulator {
    /// No reduction: the value, if the point took part.
    One(Option<Scalar>),
    /// 16 lanes; those that no point reached are not there.
    Lanes(Fold, Box<[Option<Scalar>; 16]>),
    /// Finished leaves' sum, the open leaf's number and chain.
    Dot { sum: Option<Scalar>, leaf: i64, chain: Option<Scalar> },
    /// The best value and its position.
    Best(Fold, Option<(Scalar, i64)>),
}

const LEAF: i64 = 256;

impl Accumulator {
    fn new(fold: Fold) -> Accumulator {
        match fold {
            Fold::None => Accumulator::One(None),
            Fold::Sum | Fold::Prod | Fold::Max | Fold::Min => Accumulator::Lanes(fold, Box::new([None; 16])),
            Fold::Dot | Fold::Winograd | Fold::WinogradWeights | Fold::DotLines => Accumulator::Dot { sum: None, leaf: 0, chain: None },
            Fold::ArgMax | Fold::ArgMin => Accumulator::Best(fold, None),
        }
    }

    fn add(&mut self, k: i64, values: &[Scalar]) {
        let value = values[0];
        match self {
            Accumulator::One(slot) => *slot = Some(value),
            Accumulator::Lanes(fold, lanes) => {
                let lane = &mut lanes[(k % 16) as usize];
                let before = lane.unwrap_or_else(|| fold.neutral(value.dtype()));
                *lane = Some(math::apply(fold.join(), &[before, value]));
            }
            Accumulator::Dot { sum, leaf, chain } => {
                close(sum, leaf, chain, k / LEAF, value.dtype());
                let before = chain.unwrap_or_else(|| Fold::Dot.neutral(value.dtype()));
                *chain = Some(math::apply(ScalarOp::Fma, &[values[0], values[1], before]));
            }
            Accumulator::Best(fold, best) => {
                let nan = |x: Scalar| x.to_f64().is_nan();
                let beats = |old: Scalar| {
                    let pair = if *fold == Fold::ArgMax { [old, value] } else { [value, old] };
                    !nan(old) && (nan(value) || math::apply(ScalarOp::Lt, &pair).to_bool())
                };
                if best.is_none_or(|(old, _)| beats(old)) {
                    *best = Some((value, k));
                }
            }
        }
    }

    /// The fold's results over a box of `count` points.
    fn finish(self, count: i64, dtype: DType) -> Vec<Scalar> {
        let zero = Fold::Sum.neutral(dtype);
        match self {
            Accumulator::One(value) => vec![value.unwrap_or(zero)],
            Accumulator::Lanes(fold, lanes) => {
                let mut lanes = lanes.map(|l| l.unwrap_or_else(|| fold.neutral(dtype)));
                for half in [8, 4, 2, 1] {
                    for l in 0..half {
                        lanes[l] = math::apply(fold.join(), &[lanes[l], lanes[l + half]]);
                    }
                }
                vec![lanes[0]]
            }
            Accumulator::Dot { mut sum, mut leaf, mut chain } => {
                close(&mut sum, &mut leaf, &mut chain, (count - 1) / LEAF, dtype);
                let last = chain.unwrap_or(zero);
                vec![sum.map_or(last, |sum| math::apply(ScalarOp::Add, &[sum, last]))]
            }
            Accumulator::Best(fold, best) => {
                let (value, k) = best.unwrap_or((fold.neutral(dtype), 0));
                vec![value, Scalar::i64(k)]
            }
        }
    }
}

/// Adds the open leaf and leaves without points to the sum until leaf `to` is open.
fn close(sum: &mut Option<Scalar>, leaf: &mut i64, chain: &mut Option<Scalar>, to: i64, dtype: DType) {
    while *leaf < to {
        let value = chain.take().unwrap_or_else(|| Fold::Dot.neutral(dtype));
        *sum = Some(sum.map_or(value, |sum| math::apply(ScalarOp::Add, &[sum, value])));
        *leaf += 1;
    }
}
