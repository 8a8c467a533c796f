//! Contractions: a block takes a tile of the result at a time.
//!
//! Of both factors [`STEPS`] steps are brought to shared memory, whatever expressions they are; then each thread adds to its own piece of the tile, as
//! many rows as fit its registers and [`MINE`] columns. An element's chain is the one that the law states: fused multiply-adds over leaves of 256 steps,
//! and the leaves in order. That is why products of f32 use the plain units: a product of the tensor units is rounded otherwise, in one pass to 11 bits,
//! and even as three passes (`tensor`) it is another number than the interpreter's. Then the tile goes through shared memory, so that what follows the
//! product reads and writes rows as they lie.

use super::{Primitive, THREADS, unravelled};
use crate::emit::body::{Scope, Writer};
use crate::emit::code::{V, ok};
use crate::emit::contract::pruned;
use crate::emit::modes::Mode;
use crate::ir::{DType, Fold, Scalar, ScalarOp, Size};
use crate::kernel::contract::{Contraction, cut, recognise};
use crate::kernel::linear::window;
use crate::kernel::lower::product;
use crate::kernel::{Instr, Kernel, Stage};
use inkwell::IntPredicate;
use inkwell::values::{IntValue, PointerValue};

/// Columns of a tile.
const COLUMNS: i64 = 64;
/// Columns of a thread, as many apart as there are threads side by side.
const MINE: i64 = 4;
/// Threads side by side, and one below the other.
const ACROSS: i64 = COLUMNS / MINE;
const DOWN: i64 = THREADS / ACROSS;
/// Steps in shared memory at a time; they divide a leaf.
const STEPS: i64 = 16;
const LEAF: i64 = 256;
/// Elements between steps that are not used, so that neighbours in `k` lie in other banks.
const PAD: i64 = 4;
/// The same for tensor units, which read four steps at eight places at a time.
const TENSOR_PAD: i64 = 8;

/// The contraction that the kernel is, where it is done in tiles: rows and columns (which are no squares), and nothing after it but maps of the same box.
pub fn tiled(kernel: &Kernel) -> Option<Contraction> {
    let map = |s: &Stage| s.fold == Fold::None && s.inner.is_empty();
    recognise(kernel).filter(|c| !c.rows.is_empty() && c.windows.is_none() && c.stage == 0 && kernel.stages[1..].iter().all(map))
}

/// Whether tensor units can multiply: only f32, and nothing that is left out by a condition.
pub fn tensor(c: &Contraction, kernel: &Kernel) -> bool {
    c.dtype == DType::F32 && kernel.stages[c.stage].guards.is_empty()
}

/// Rows of a thread.
fn mine(c: &Contraction) -> i64 {
    if c.dtype == DType::F64 { 4 } else { 8 }
}

/// How many tiles there are.
pub fn count(c: &Contraction, kernel: &Kernel) -> Size {
    let extent = |vars: &[usize]| c.extent(vars, &kernel.outer);
    product(&[extent(&c.batch), cut(extent(&c.rows), mine(c) * DOWN), cut(extent(&c.columns), COLUMNS)])
}

pub(super) struct Tiles<'a, 'k, 'c> {
    pub(super) w: &'a Writer<'k, 'c>,
    c: &'a Contraction,
    stage: &'k Stage,
    /// The expressions of A and B.
    factors: [Vec<Instr>; 2],
    /// Rows of a thread.
    mine: i64,
    pub(super) thread: IntValue<'c>,
    /// Whether the tensor units multiply.
    tensor: bool,
    shared: PointerValue<'c>,
    /// How many rows, columns and steps there are.
    sizes: [IntValue<'c>; 3],
}

/// Writes the kernel's code.
pub fn write(w: &Writer, c: &Contraction, tensor: bool) -> Result<(), String> {
    let stage = &w.kernel.stages[c.stage];
    let mine = mine(c);
    let extent = |vars: &[usize]| c.extent(vars, &w.kernel.outer);
    let (rows, columns, batch) = (extent(&c.rows), extent(&c.columns), extent(&c.batch));
    let sizes = [&rows, &columns, &product(&stage.reds)].map(|s| w.size(s));
    let height = mine * DOWN;
    let pad = if tensor { TENSOR_PAD } else { PAD };
    let tile = (STEPS * (height + pad + COLUMNS + pad)).max(height * COLUMNS);
    let shared = w.code.shared((tile * c.dtype.bytes() as i64) as u32);
    let thread = w.code.primitive(Primitive::Thread, &[]);
    let factors = c.factors.map(|f| pruned(&stage.body, f));
    let tiles = Tiles { w, c, stage, factors, mine, thread, tensor, shared, sizes };
    let [below, beside] = [(sizes[0], height), (sizes[1], COLUMNS)].map(|(n, by)| tiles.divide(tiles.add(n, tiles.int(by - 1)), tiles.int(by)).0);
    let count = tiles.mul(tiles.mul(below, beside), w.size(&batch));
    let [block, blocks] = [Primitive::Block, Primitive::Blocks].map(|p| w.code.primitive(p, &[]));
    let run = |tile| {
        let (rest, row) = tiles.divide(tile, below);
        let (batch, column) = tiles.divide(rest, beside);
        let mut point = vec![w.code.int(0); w.kernel.outer.len()];
        tiles.set(&c.batch, batch, &mut point);
        tiles.tile(&point, [tiles.mul(row, tiles.int(height)), tiles.mul(column, tiles.int(COLUMNS))])
    };
    w.code.range_by(block, count, blocks, run).map(|_| ())
}

impl<'c> Tiles<'_, '_, 'c> {
    pub(super) fn int(&self, n: i64) -> IntValue<'c> {
        self.w.code.int(n)
    }

    pub(super) fn add(&self, a: IntValue<'c>, b: IntValue<'c>) -> IntValue<'c> {
        ok(self.w.code.builder.build_int_add(a, b, ""))
    }

    fn sub(&self, a: IntValue<'c>, b: IntValue<'c>) -> IntValue<'c> {
        ok(self.w.code.builder.build_int_sub(a, b, ""))
    }

    pub(super) fn mul(&self, a: IntValue<'c>, b: IntValue<'c>) -> IntValue<'c> {
        ok(self.w.code.builder.build_int_mul(a, b, ""))
    }

    /// Quotient and remainder of what is not negative.
    pub(super) fn divide(&self, a: IntValue<'c>, b: IntValue<'c>) -> (IntValue<'c>, IntValue<'c>) {
        let b_ = &self.w.code.builder;
        (ok(b_.build_int_unsigned_div(a, b, "")), ok(b_.build_int_unsigned_rem(a, b, "")))
    }

    fn less(&self, a: IntValue<'c>, b: IntValue<'c>) -> IntValue<'c> {
        ok(self.w.code.builder.build_int_compare(IntPredicate::SLT, a, b, ""))
    }

    fn wait(&self) {
        self.w.code.primitive(Primitive::Barrier, &[]);
    }

    /// Sets the variables to the point number `n` of their box.
    fn set(&self, vars: &[usize], n: IntValue<'c>, point: &mut [IntValue<'c>]) {
        let sizes: Vec<Size> = vars.iter().map(|v| self.w.kernel.outer[*v].clone()).collect();
        vars.iter().zip(unravelled(self.w, &sizes, n)).for_each(|(v, i)| point[*v] = i);
    }

    /// An element of shared memory.
    fn place(&self, at: IntValue<'c>) -> PointerValue<'c> {
        self.w.code.element(self.c.dtype.into(), self.shared, at)
    }

    pub(super) fn read(&self, at: IntValue<'c>) -> V<'c> {
        self.w.code.load(self.w.code.ty(self.c.dtype.into(), 1), self.place(at), self.c.dtype.bytes() as u32)
    }

    fn write(&self, at: IntValue<'c>, value: V<'c>) {
        self.w.code.store(self.place(at), value, self.c.dtype.bytes() as u32);
    }

    /// Rows of A's or columns of B's tile.
    fn width(&self, factor: usize) -> i64 {
        if factor == 0 { self.mine * DOWN } else { COLUMNS }
    }

    /// Where an element of a factor's tile lies.
    pub(super) fn at(&self, factor: usize, step: IntValue<'c>, along: IntValue<'c>) -> IntValue<'c> {
        let pad = if self.tensor { TENSOR_PAD } else { PAD };
        let first = if factor == 0 { 0 } else { STEPS * (self.width(0) + pad) };
        self.add(self.add(self.mul(step, self.int(self.width(factor) + pad)), along), self.int(first))
    }

    /// The tile of one batch from these row and column on.
    fn tile(&self, point: &[IntValue<'c>], first: [IntValue<'c>; 2]) -> Result<(), String> {
        let (code, [_, _, steps]) = (&self.w.code, self.sizes);
        let ty = code.ty(self.c.dtype.into(), 1);
        let number = |x: f64| code.constant(Scalar::float(self.c.dtype, x), 1);
        let several = |n: i64| (0..n).map(|_| code.variable(ty)).collect::<Vec<_>>();
        let (sums, chains) = (several(self.mine * MINE), several(self.mine * MINE));
        // Adding to -0 changes nothing, so that the first leaf's chain is the sum.
        let empty = ok(code.builder.build_int_compare(IntPredicate::SLE, steps, self.int(0), ""));
        sums.iter().for_each(|sum| code.set(*sum, code.select(empty.into(), number(0.0), number(-0.0))));
        code.range(self.int(0), steps, LEAF, |leaf| {
            chains.iter().for_each(|chain| code.set(*chain, number(0.0)));
            let end = self.w.lesser(steps, self.add(leaf, self.int(LEAF)));
            code.range(leaf, end, STEPS, |from| {
                let elements = [self.elements(0, point, first[0], from)?, self.elements(1, point, first[1], from)?];
                // Nobody reads the steps before any more; then everybody has brought his part of these.
                self.wait();
                elements.into_iter().flatten().for_each(|(at, value)| self.write(at, value));
                self.wait();
                if self.tensor {
                    self.multiply_by_units(&chains, STEPS);
                    return Ok(());
                }
                let count = self.w.lesser(self.int(STEPS), self.sub(end, from));
                code.range(self.int(0), count, 1, |step| self.multiply(&chains, step, point, first[0], self.add(from, step))).map(|_| ())
            })?;
            for (sum, chain) in sums.iter().zip(&chains) {
                code.set(*sum, self.w.op(ScalarOp::Add, &[code.get(ty, *sum), code.get(ty, *chain)]));
            }
            Ok::<(), String>(())
        })?;
        self.wait();
        for (n, sum) in (0..).zip(&sums) {
            let [row, column] = if self.tensor { self.unit_place(n) } else { self.sum_place(n) };
            self.write(self.add(self.mul(row, self.int(COLUMNS)), column), code.get(ty, *sum));
        }
        self.wait();
        self.store(point, first)
    }

    /// The thread's first row and column in the tile.
    fn mine_at(&self) -> [IntValue<'c>; 2] {
        let (below, beside) = self.divide(self.thread, self.int(ACROSS));
        [self.mul(below, self.int(self.mine)), beside]
    }

    /// Row and column in the tile of the thread's sum number `n`.
    fn sum_place(&self, n: i64) -> [IntValue<'c>; 2] {
        let [below, beside] = self.mine_at();
        [self.add(below, self.int(n / MINE)), self.add(beside, self.int(n % MINE * ACROSS))]
    }

    /// The elements of a factor that the thread brings, for the steps from `from` on. Beyond the last row, column or step they are some other
    /// element, which goes into no sum that is stored; tensor units, which take whole pieces of `k`, find zeros there.
    fn elements(&self, factor: usize, point: &[IntValue<'c>], first: IntValue<'c>, from: IntValue<'c>) -> Result<Vec<(IntValue<'c>, V<'c>)>, String> {
        let (vars, width) = (if factor == 0 { &self.c.rows } else { &self.c.columns }, self.width(factor));
        let inside = |n: IntValue<'c>, size: IntValue<'c>| self.w.lesser(n, self.sub(size, self.int(1)));
        let each = (0..width * STEPS / THREADS).map(|n| {
            // Neighbours in memory belong to neighbouring threads.
            let (step, along) = if self.along_steps(factor) {
                let (along, step) = self.divide(self.thread, self.int(STEPS));
                (step, self.add(along, self.int(n * (THREADS / STEPS))))
            } else {
                let (step, along) = self.divide(self.thread, self.int(width));
                (self.add(step, self.int(n * (THREADS / width))), along)
            };
            let mut point = point.to_vec();
            self.set(vars, inside(self.add(first, along), self.sizes[factor]), &mut point);
            let k = inside(self.add(from, step), self.sizes[2]);
            point.extend(unravelled(self.w, &self.stage.reds, k));
            let mut values = vec![];
            self.w.block(&self.factors[factor], &self.scope(point), &mut values)?;
            let value = values[self.c.factors[factor]];
            if !self.tensor {
                return Ok((self.at(factor, step, along), value));
            }
            let there = self.less(self.add(from, step), self.sizes[2]);
            let zero = self.w.code.constant(Scalar::float(self.c.dtype, 0.0), 1);
            Ok((self.at(factor, step, along), self.w.code.select(there.into(), value, zero)))
        });
        each.collect()
    }

    /// Whether the factor lies along the last variable of `k`.
    fn along_steps(&self, factor: usize) -> bool {
        let ranges = self.w.ranges(self.stage);
        let form = window(self.w.kernel, &self.stage.body[self.c.factors[factor]], &ranges);
        form.is_some_and(|(form, _)| !self.stage.reds.is_empty() && form.steps[ranges.len() - 1].as_const() == Some(1))
    }

    fn scope(&self, point: Vec<IntValue<'c>>) -> Scope<'c> {
        Scope { point, ranges: self.w.ranges(self.stage), lane: None, mask: None, within: None, locals: vec![] }
    }

    /// A step of the thread's chains.
    fn multiply(
        &self,
        chains: &[PointerValue<'c>],
        step: IntValue<'c>,
        point: &[IntValue<'c>],
        first: IntValue<'c>,
        k: IntValue<'c>,
    ) -> Result<(), String> {
        let code = &self.w.code;
        let [below, beside] = self.mine_at();
        let rows: Vec<V<'c>> = (0..self.mine).map(|n| self.read(self.at(0, step, self.add(below, self.int(n))))).collect();
        let columns: Vec<V<'c>> = (0..MINE).map(|n| self.read(self.at(1, step, self.add(beside, self.int(n * ACROSS))))).collect();
        for (r, row) in (0..).zip(&rows) {
            // A condition on row and step: what is left out is not added as a zero.
            let takes = (!self.stage.guards.is_empty()).then(|| {
                let mut point = point.to_vec();
                self.set(&self.c.rows, self.add(first, self.add(below, self.int(r))), &mut point);
                point.extend(unravelled(self.w, &self.stage.reds, k));
                self.w.guards(&self.stage.guards, &self.scope(point)).expect("there are guards")
            });
            for (n, column) in columns.iter().enumerate() {
                let chain = chains[(r * MINE) as usize + n];
                let old = code.get(column.get_type(), chain);
                let new = self.w.op(ScalarOp::Fma, &[*row, *column, old]);
                code.set(chain, takes.map_or(new, |c| code.select(c, new, old)));
            }
        }
        Ok(())
    }

    /// What follows the product, at each element of the tile that there is.
    fn store(&self, point: &[IntValue<'c>], first: [IntValue<'c>; 2]) -> Result<(), String> {
        let (w, code) = (self.w, &self.w.code);
        code.range(self.thread, self.int(self.width(0) * COLUMNS), THREADS, |n| {
            let (row, column) = self.divide(n, self.int(COLUMNS));
            let [row, column] = [self.add(first[0], row), self.add(first[1], column)];
            let there = ok(code.builder.build_and(self.less(row, self.sizes[0]), self.less(column, self.sizes[1]), ""));
            code.only_if(there, || {
                let mut point = point.to_vec();
                self.set(&self.c.rows, row, &mut point);
                self.set(&self.c.columns, column, &mut point);
                let scope = Scope { ranges: w.kernel.outer.clone(), locals: w.locals(1), ..self.scope(point) };
                w.results(self.stage, &[self.read(n)], &scope, &[])?;
                w.kernel.stages[1..].iter().try_for_each(|stage| w.stage(stage, Mode::Scalar, &scope))
            })
        })
        .map(|_| ())
    }
}
