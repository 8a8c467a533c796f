//! Micro-kernels: the multiplication of a few rows of A with a panel of B, shared by all contractions of a program.
//!
//! `multiply.<dtype>.<level>(tile, rows)` does, for 1 to [`ROWS`] rows and a panel of 128 bytes of columns, what [`Field`] describes: leaves of 256
//! steps of `k`, each one chain of fused multiply-adds from +0 for every element, joined in order with what `C` holds. All sums of a leaf stay in
//! registers: per step two vectors of B are loaded, then every element of A is spread and used at once, so that no register is spilled.
//!
//! A wide level takes a tile at once; a narrow one has half the registers of half the width and takes it in quarters. At a wide level `multiply.<dtype>.v4.pair`
//! takes up to [`PAIR_ROWS`] rows and two panels: the same sums in as many registers, with half the loads of A; `multiply.<dtype>.v4.half` half a panel, where no
//! more of the last one is left.

use crate::emit::Level;
use crate::emit::code::{Code, Elem, V, ok};
pub use crate::emit::dense::AHEAD;
use crate::emit::dense::GROUP;
use crate::emit::{dense, target};
use crate::ir::{DType, Scalar};
use crate::kernel::Kernel;
use crate::kernel::contract::{Contraction, ROWS, Side, panel};
use inkwell::context::Context;
use inkwell::module::{Linkage, Module};
use inkwell::values::{FunctionValue, InstructionOpcode as Op, IntValue, PhiValue, PointerValue};
use inkwell::{AddressSpace, IntPredicate};

/// Steps of one chain.
pub const LEAF: i64 = 256;
/// Bytes of a panel's row, in B and C.
pub const PANEL: i64 = 128;
/// Most rows of two panels beside each other.
pub const PAIR_ROWS: i64 = ROWS / 2;

/// The words of a tile's description. Steps are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The first row's first element of A.
    A,
    /// From one row of A to the next.
    ARow,
    /// From one `k` to the next, within a run.
    AStep,
    /// Steps until the first run ends.
    Left,
    /// Steps of every other run.
    Run,
    /// What is added to a step at a run's end.
    Jump,
    /// The panel of B.
    B,
    /// From one `k` to the next.
    BStep,
    /// Where sums go: 128 bytes of each row.
    C,
    /// From one of its rows to the next.
    CRow,
    /// Steps in all.
    Count,
    /// Where what is read next begins, of which each [`AHEAD`] steps ask for a row of 128 bytes where steps of A and B are usual ones; or 0.
    Ahead,
    /// From one of those rows to the next.
    AheadStep,
    /// Whether `C` holds nothing yet.
    First,
    /// Where rows take some steps only: how many the first row takes (below the diagonal), or the step that it begins with.
    Reach,
    /// From a panel of B to the one beside it, where two are multiplied together.
    NextB,
    /// From where a panel's sums go to where those of the one beside it go.
    NextC,
    /// For [`super::stream`]: how many whole panels lie side by side.
    Panels,
    /// Bytes of the columns beside them, which are no whole panel.
    Rest,
    /// Where their sums go: 128 bytes of each row, one after the other.
    RestC,
    /// Where the sums of a leaf come and go.
    Sums,
}

/// How many words a description has.
pub const FIELDS: u32 = Field::Sums as u32 + 1;

/// The function's name.
pub fn name(dtype: DType, level: Level, side: Option<Side>) -> String {
    let part = match side {
        None => "",
        Some(Side::Below) => "below.",
        Some(Side::Above) => "above.",
    };
    format!("multiply.{part}{dtype}.{}", level.name())
}

/// The function, declared.
pub fn declare<'c>(context: &'c Context, module: &Module<'c>, dtype: DType, level: Level, side: Option<Side>) -> FunctionValue<'c> {
    add(context, module, &name(dtype, level, side))
}

/// The function for two panels beside each other, declared. Only wide levels have registers for it.
pub fn declare_pair<'c>(context: &'c Context, module: &Module<'c>, dtype: DType) -> FunctionValue<'c> {
    add(context, module, &pair_name(dtype))
}

fn pair_name(dtype: DType) -> String {
    format!("{}.pair", name(dtype, Level::V4, None))
}

/// Whether the contraction's last panel has so few columns, or may have, that half a panel holds them: a vector of a wide level.
pub fn halves(kernel: &Kernel, c: &Contraction) -> bool {
    let columns = c.width(&kernel.outer).as_const();
    let width = panel(c.dtype);
    c.windows.is_none() && c.reach.is_none() && columns.is_none_or(|n| (1..=width / 2).contains(&(n % width)))
}

/// The function for half a panel, declared, for a wide level.
pub fn declare_half<'c>(context: &'c Context, module: &Module<'c>, dtype: DType) -> FunctionValue<'c> {
    add(context, module, &half_name(dtype))
}

fn half_name(dtype: DType) -> String {
    format!("{}.half", name(dtype, Level::V4, None))
}

/// Adds the function for half a panel.
pub fn define_half<'c>(module: Module<'c>, dtype: DType) -> Module<'c> {
    module.set_inline_assembly(&dense::function(&half_name(dtype), dtype, Level::V4, ROWS as usize, 1));
    module
}

/// A function of a tile's description and its number of rows, if it is not there.
pub fn add<'c>(context: &'c Context, module: &Module<'c>, name: &str) -> FunctionValue<'c> {
    module.get_function(name).unwrap_or_else(|| {
        let ty = context.void_type().fn_type(&[context.ptr_type(AddressSpace::default()).into(), context.i64_type().into()], false);
        module.add_function(name, ty, None)
    })
}

/// Adds the functions for one type at one level.
pub fn define<'c>(context: &'c Context, module: Module<'c>, dtype: DType, level: Level, side: Option<Side>) -> Module<'c> {
    let name = name(dtype, level, side);
    match (side, level) {
        (None, Level::V4) => {
            let pair = dense::function(&pair_name(dtype), dtype, level, PAIR_ROWS as usize, 4);
            module.set_inline_assembly(&(dense::function(&name, dtype, level, ROWS as usize, 2) + &pair));
            module
        }
        (None, Level::V3) => {
            let quarter = format!("{name}.quarter");
            module.set_inline_assembly(&dense::function(&quarter, dtype, level, ROWS as usize / 2, 2));
            let function = add(context, &module, &quarter);
            whole(context, module, dtype, level, side, |code, tile, rows| _ = ok(code.builder.build_call(function, &[tile.into(), rows.into()], "")))
        }
        (Some(side), _) => parts(context, module, dtype, level, side),
    }
}

/// The function that takes tiles apart as the level's registers demand; `run` calls what multiplies so many rows of a part.
fn whole<'c>(
    context: &'c Context,
    module: Module<'c>,
    dtype: DType,
    level: Level,
    side: Option<Side>,
    run: impl Fn(&Code<'c>, PointerValue<'c>, IntValue<'c>),
) -> Module<'c> {
    let function = declare(context, &module, dtype, level, side);
    target::attributes(context, function, level);
    let code = begin(context, module, function);
    let tile = parameter(function, 0).into_pointer_value();
    let rows = parameter(function, 1).into_int_value();
    match level {
        Level::V4 => run(&code, tile, rows),
        Level::V3 => {
            let below = ok(code.builder.build_right_shift(rows, code.int(1), false, ""));
            let above = ok(code.builder.build_int_sub(rows, below, ""));
            quarters(&code, tile, [above, below], run);
        }
    }
    ok(code.builder.build_return(None));
    end(code)
}

/// Closes a function that [`begin`] has opened.
pub fn end(code: Code<'_>) -> Module<'_> {
    code.builder.position_at_end(code.entry);
    code.jump(code.function.get_basic_blocks()[1]);
    code.module
}

/// The functions for rows that take the steps on one side of a diagonal.
fn parts<'c>(context: &'c Context, mut module: Module<'c>, dtype: DType, level: Level, side: Side) -> Module<'c> {
    let (most, registers) = match level {
        Level::V3 => (ROWS / 2, 2),
        Level::V4 => (ROWS, 1),
    };
    let ty = context.void_type().fn_type(&[context.ptr_type(AddressSpace::default()).into()], false);
    let mut variants = vec![];
    for rows in 1..=most {
        let function = module.add_function(&format!("{}.{rows}", name(dtype, level, Some(side))), ty, Some(Linkage::Internal));
        target::attributes(context, function, level);
        let micro = Micro {
            code: begin(context, module, function),
            dtype,
            rows: rows as usize,
            lanes: (PANEL / 2 / registers / dtype.bytes() as i64) as u32,
        };
        micro.write(side);
        module = micro.code.module;
        variants.push(function);
    }
    whole(context, module, dtype, level, Some(side), |code, tile, rows| choose(code, &variants, tile, rows))
}

pub fn parameter(function: FunctionValue, n: u32) -> V {
    function.get_nth_param(n).expect("the function has this parameter")
}

/// A function's code: the entry for variables, then the block that is written.
pub fn begin<'c>(context: &'c Context, module: Module<'c>, function: FunctionValue<'c>) -> Code<'c> {
    let entry = context.append_basic_block(function, "entry");
    let start = context.append_basic_block(function, "start");
    let code = Code { context, module, builder: context.create_builder(), function, entry, device: None };
    code.builder.position_at_end(start);
    code
}

/// The word of a description.
pub fn word<'c>(code: &Code<'c>, tile: PointerValue<'c>, field: Field) -> PointerValue<'c> {
    code.element(Elem::I64, tile, code.int(field as i64))
}

pub fn field<'c>(code: &Code<'c>, tile: PointerValue<'c>, field: Field) -> IntValue<'c> {
    code.load(code.ty(Elem::I64, 1), word(code, tile, field), 8).into_int_value()
}

/// Calls the variant for `rows`, where there is one.
pub fn choose<'c>(code: &Code<'c>, variants: &[FunctionValue<'c>], tile: PointerValue<'c>, rows: IntValue<'c>) {
    let end = code.block();
    let blocks: Vec<_> = variants.iter().map(|_| code.block()).collect();
    let cases: Vec<_> = blocks.iter().enumerate().map(|(n, block)| (code.int(n as i64 + 1), *block)).collect();
    ok(code.builder.build_switch(rows, end, &cases));
    for (block, variant) in blocks.iter().zip(variants) {
        code.builder.position_at_end(*block);
        ok(code.builder.build_call(*variant, &[tile.into()], ""));
        code.jump(end);
    }
    code.builder.position_at_end(end);
}

/// Both halves of the rows with both halves of the columns.
fn quarters<'c>(code: &Code<'c>, tile: PointerValue<'c>, rows: [IntValue<'c>; 2], run: impl Fn(&Code<'c>, PointerValue<'c>, IntValue<'c>)) {
    let quarter = code.variable(code.context.i64_type().array_type(FIELDS).into());
    for n in 0..FIELDS {
        let at = |base| code.element(Elem::I64, base, code.int(n as i64));
        code.store(at(quarter), code.load(code.ty(Elem::I64, 1), at(tile), 8), 8);
    }
    let add = |a: IntValue<'c>, b: IntValue<'c>| ok(code.builder.build_int_add(a, b, ""));
    let (a, b, c) = (field(code, tile, Field::A), field(code, tile, Field::B), field(code, tile, Field::C));
    let skipped = rows[0];
    for (half, rows) in rows.into_iter().enumerate() {
        let (mut a, mut c) = (a, c);
        if half == 1 {
            code.store(word(code, quarter, Field::Reach), add(field(code, tile, Field::Reach), skipped).into(), 8);
            a = add(a, ok(code.builder.build_int_mul(skipped, field(code, tile, Field::ARow), "")));
            c = add(c, ok(code.builder.build_int_mul(skipped, field(code, tile, Field::CRow), "")));
        }
        for column in [0, PANEL / 2] {
            code.store(word(code, quarter, Field::A), a.into(), 8);
            code.store(word(code, quarter, Field::B), add(b, code.int(column)).into(), 8);
            code.store(word(code, quarter, Field::C), add(c, code.int(column)).into(), 8);
            run(code, quarter, rows);
        }
    }
}

struct Micro<'c> {
    code: Code<'c>,
    dtype: DType,
    rows: usize,
    /// Of one vector; a row has two.
    lanes: u32,
}

impl<'c> Micro<'c> {
    fn phi(&self, like: V<'c>) -> PhiValue<'c> {
        ok(self.code.builder.build_phi(like.get_type(), ""))
    }

    fn offset(&self, base: V<'c>, by: IntValue<'c>) -> V<'c> {
        self.code.element(Elem::I8, base.into_pointer_value(), by).into()
    }

    fn pointer(&self, address: IntValue<'c>) -> V<'c> {
        ok(self.code.builder.build_int_to_ptr(address, self.code.context.ptr_type(AddressSpace::default()), "")).into()
    }

    /// Pointers to every third row of A.
    fn pointers(&self, first: IntValue<'c>, row: IntValue<'c>) -> Vec<V<'c>> {
        let three_rows = ok(self.code.builder.build_int_mul(row, self.code.int(GROUP as i64), ""));
        let mut a = vec![self.pointer(first)];
        while a.len() < self.rows.div_ceil(GROUP) {
            a.push(self.offset(a[a.len() - 1], three_rows));
        }
        a
    }

    /// The sums after a step of A's pointers and B's: of the rows that take it, where a row's mask says which lanes do.
    fn step(&self, (a, b): (&[V<'c>], V<'c>), row: IntValue<'c>, sums: &[V<'c>], mask: &dyn Fn(usize) -> Option<V<'c>>) -> Vec<V<'c>> {
        let code = &self.code;
        let (vector, bytes) = (code.ty(self.dtype.into(), self.lanes), self.dtype.bytes() as u32);
        let half = code.int((self.lanes * bytes) as i64);
        let columns = [b, self.offset(b, half)].map(|p| code.load(vector, p.into_pointer_value(), bytes));
        let mut next = vec![];
        for r in 0..self.rows {
            let base = a[r / GROUP];
            let address =
                if r % GROUP == 0 { base } else { self.offset(base, ok(code.builder.build_int_mul(row, code.int((r % GROUP) as i64), ""))) };
            let element = code.splat(code.load(code.ty(self.dtype.into(), 1), address.into_pointer_value(), bytes), self.lanes);
            let takes = mask(r);
            for (half, column) in columns.iter().enumerate() {
                let sum = sums[2 * r + half];
                let new = code.intrinsic("llvm.fma", &[vector], &[element, *column, sum]).expect("a value");
                next.push(takes.map_or(new, |takes| code.select(takes, new, sum)));
            }
        }
        next
    }

    /// Sums of a leaf join those in C, or are the first there.
    fn join(&self, [c, c_row]: [IntValue<'c>; 2], fresh: IntValue<'c>, sums: &[V<'c>]) {
        let (code, b) = (&self.code, &self.code.builder);
        let (vector, bytes) = (code.ty(self.dtype.into(), self.lanes), self.dtype.bytes() as u32);
        let half = code.int((self.lanes * bytes) as i64);
        let places: Vec<PointerValue<'c>> = (0..2 * self.rows)
            .map(|n| {
                let row = self.offset(self.pointer(c), ok(b.build_int_mul(c_row, code.int(n as i64 / 2), "")));
                if n % 2 == 0 { row } else { self.offset(row, half) }.into_pointer_value()
            })
            .collect();
        let (set, add, joined) = (code.block(), code.block(), code.block());
        code.branch(ok(b.build_int_compare(IntPredicate::NE, fresh, code.int(0), "")), set, add);
        b.position_at_end(set);
        places.iter().zip(sums).for_each(|(p, s)| code.store(*p, *s, bytes));
        code.jump(joined);
        b.position_at_end(add);
        for (place, sum) in places.iter().zip(sums) {
            code.store(*place, code.binary(Op::FAdd, code.load(vector, *place, bytes), *sum), bytes);
        }
        code.go(joined);
    }

    /// The same where the rows take steps on one side of the diagonal only: a loop of the steps that all take, and one of those that some do.
    /// Leaves without a step count as sums of 0. A has one run.
    fn write(&self, side: Side) {
        let code = &self.code;
        let b = &code.builder;
        let tile = parameter(code.function, 0).into_pointer_value();
        let get = |f: Field| field(code, tile, f);
        let (a, row, step) = (get(Field::A), get(Field::ARow), get(Field::AStep));
        let (panel, b_step, c, c_row) = (get(Field::B), get(Field::BStep), get(Field::C), get(Field::CRow));
        let (count, first, reach) = (get(Field::Count), get(Field::First), get(Field::Reach));
        let add = |x: IntValue<'c>, y: IntValue<'c>| ok(b.build_int_add(x, y, ""));
        let mul = |x: IntValue<'c>, y: IntValue<'c>| ok(b.build_int_mul(x, y, ""));
        let pick =
            |p, x: IntValue<'c>, y: IntValue<'c>| code.select(ok(b.build_int_compare(p, x, y, "")).into(), x.into(), y.into()).into_int_value();
        let between = |from: IntValue<'c>, x: IntValue<'c>, to: IntValue<'c>| pick(IntPredicate::SGT, from, pick(IntPredicate::SLT, x, to));
        let zero = code.constant(Scalar::float(self.dtype, 0.0), self.lanes);
        let fresh = code.variable(code.ty(Elem::I64, 1));
        code.set(fresh, first.into());
        // Pointers are variables: what a loop can compute from its start becomes one long chain of additions.
        let pointers: Vec<V<'c>> = [self.pointers(a, row), vec![self.pointer(panel)]].concat();
        let slots: Vec<PointerValue<'c>> = pointers.iter().map(|p| code.variable(p.get_type())).collect();
        slots.iter().zip(&pointers).for_each(|(slot, p)| code.set(*slot, *p));
        // Once even where there is nothing to sum: sums are zero then.
        let finished = code.range(code.int(0), pick(IntPredicate::SGT, count, code.int(1)), LEAF, |leaf| {
            let end = pick(IntPredicate::SLT, count, add(leaf, code.int(LEAF)));
            let some = between(leaf, reach, end);
            let all = between(some, add(reach, code.int(self.rows as i64 - 1)), end);
            let steps = [step, b_step, row];
            let mut at: Vec<V<'c>> = slots.iter().map(|slot| code.get(pointers[0].get_type(), *slot)).collect();
            let mut sums = vec![zero; 2 * self.rows];
            match side {
                Side::Below => {
                    (at, sums) = self.steps(at, [leaf, some], steps, sums, None);
                    (at, sums) = self.steps(at, [some, all], steps, sums, Some((side, reach)));
                }
                Side::Above => {
                    let skipped = ok(b.build_int_sub(some, leaf, ""));
                    let (panel, rows) = at.split_last_mut().expect("B has a pointer");
                    rows.iter_mut().for_each(|p| *p = self.offset(*p, mul(skipped, step)));
                    *panel = self.offset(*panel, mul(skipped, b_step));
                    (at, sums) = self.steps(at, [some, all], steps, sums, Some((side, reach)));
                    (at, sums) = self.steps(at, [all, end], steps, sums, None);
                }
            }
            slots.iter().zip(&at).for_each(|(slot, p)| code.set(*slot, *p));
            self.join([c, c_row], code.get(code.ty(Elem::I64, 1), fresh).into_int_value(), &sums);
            code.set(fresh, code.int(0).into());
            Ok::<(), std::convert::Infallible>(())
        });
        let Ok(_) = finished;
        ok(b.build_return(None));
        b.position_at_end(code.entry);
        code.jump(code.function.get_basic_blocks()[1]);
    }

    /// The pointers and sums after these steps; with a side, of the rows that take them.
    fn steps(
        &self,
        start: Vec<V<'c>>,
        [from, end]: [IntValue<'c>; 2],
        [step, b_step, row]: [IntValue<'c>; 3],
        sums: Vec<V<'c>>,
        part: Option<(Side, IntValue<'c>)>,
    ) -> (Vec<V<'c>>, Vec<V<'c>>) {
        let (code, b) = (&self.code, &self.code.builder);
        let int = if self.dtype == DType::F64 { Elem::I64 } else { Elem::I32 };
        let whole = code.ty(int, 1).into_int_type();
        let numbers = |n: usize| code.repeat_constant(whole.const_int(n as u64, false).into(), self.lanes);
        // How many steps beyond the first row's: in lanes, because a comparison of scalars would become branches.
        let beyond: Vec<V<'c>> = part
            .iter()
            .map(|(_, reach)| {
                let first = ok(b.build_int_sub(from, *reach, ""));
                let first = if int == Elem::I64 { first } else { ok(b.build_int_truncate(first, whole, "")) };
                code.splat(first.into(), self.lanes)
            })
            .collect();
        let before = [start, sums, beyond, vec![from.into()]].concat();
        let (inside, after) = (code.block(), code.block());
        let entered = code.here();
        code.branch(ok(b.build_int_compare(IntPredicate::SLT, from, end, "")), inside, after);
        b.position_at_end(inside);
        let phis: Vec<PhiValue<'c>> = before.iter().map(|v| self.phi(*v)).collect();
        let now: Vec<V<'c>> = phis.iter().map(|p| p.as_basic_value()).collect();
        let (pointers, rest) = now.split_at(self.rows.div_ceil(GROUP) + 1);
        let (chain, rest) = rest.split_at(2 * self.rows);
        let (panel, rows) = pointers.split_last().expect("B has a pointer");
        let number = rest[rest.len() - 1];
        let takes = |r: usize| {
            let (side, _) = part?;
            Some(code.icmp(if side == Side::Below { IntPredicate::SLT } else { IntPredicate::SGE }, rest[0], numbers(r)))
        };
        let next = self.step((rows, *panel), row, chain, &takes);
        let number: V<'c> = ok(b.build_int_add(number.into_int_value(), code.int(1), "")).into();
        let moved = rows.iter().map(|p| self.offset(*p, step)).chain([self.offset(*panel, b_step)]).collect();
        let beyond = part.iter().map(|_| code.binary(Op::Add, rest[0], numbers(1))).collect();
        let then = [moved, next, beyond, vec![number]].concat();
        for (phi, (first, later)) in phis.iter().zip(before.iter().zip(&then)) {
            phi.add_incoming(&[(first, entered), (later, inside)]);
        }
        code.branch(ok(b.build_int_compare(IntPredicate::SLT, number.into_int_value(), end, "")), inside, after);
        b.position_at_end(after);
        let merged = before.iter().zip(&then).take(pointers.len() + chain.len()).map(|(first, last)| {
            let phi = self.phi(*last);
            phi.add_incoming(&[(first, entered), (last, inside)]);
            phi.as_basic_value()
        });
        let mut pointers_after: Vec<V<'c>> = merged.collect();
        let sums = pointers_after.split_off(pointers.len());
        (pointers_after, sums)
    }
}
