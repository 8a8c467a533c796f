//! The micro-kernel of few rows: it reads B as it lies, in whole rows.
//!
//! `multiply.<dtype>.<level>.stream(tile, rows)` does for 1 to [`FEW`] rows and several panels side by side what `multiply` does for one panel: a leaf of `k`,
//! each element one chain of fused multiply-adds from +0, joined with what `C` holds. A panel at a time would touch each row of B, which lies in a page
//! of its own, for two lines. Here a few rows of B are read from one end to the other, as processors look ahead, while sums come and go through the
//! first cache.

use crate::emit::Level;
use crate::emit::code::{Code, V, ok};
use crate::emit::contract::{C_AT, Engine, Group, PANELS};
use crate::emit::dense::LINE;
use crate::emit::micro::{self, Field, PANEL};
use crate::emit::operand::{direct, in_place};
use crate::emit::target;
use crate::ir::{DType, Scalar};
use crate::kernel::Kernel;
use crate::kernel::contract::{Contraction, ROWS, packed};
use crate::kernel::lower::product;
use inkwell::context::Context;
use inkwell::module::{Linkage, Module};
use inkwell::values::{FunctionValue, InstructionOpcode as Op, IntValue};
use inkwell::{AddressSpace, IntPredicate};
use std::convert::Infallible;

/// Most rows.
pub const FEW: i64 = 6;
/// Most panels side by side, times rows: their sums stay in the first cache, and the longer what is read from one end to the other, the better.
const WIDE: i64 = 128;
/// Bytes of B that stay in the second cache: a panel at a time is as good there, and less code.
const NEAR: i64 = 1 << 20;

/// Whether the contraction has a use for it: B may be read in place and be large, rows may be few, and all of them take all steps.
pub fn takes(kernel: &Kernel, c: &Contraction) -> bool {
    let [columns, steps] = [c.extent(&c.columns, &kernel.outer), product(&kernel.stages[c.stage].reds)].map(|n| n.as_const());
    let far = columns.zip(steps).is_none_or(|(columns, steps)| columns * steps * c.dtype.bytes() as i64 > NEAR);
    let few = c.extent(&c.rows, &kernel.outer).as_const().is_none_or(|n| n <= FEW);
    let whole = c.windows.is_none() && c.reach.is_none() && c.needs.is_none() && c.columns.len() == 1;
    let one_run = direct(kernel, c).is_none_or(|(_, _, steps)| steps.len() <= 1);
    far && few && whole && one_run && packed(kernel, c).is_none() && in_place(kernel, c).is_some()
}

/// The function's name.
fn name(dtype: DType, level: Level) -> String {
    format!("{}.stream", micro::name(dtype, level, None))
}

/// The function, declared.
fn declare<'c>(context: &'c Context, module: &Module<'c>, dtype: DType, level: Level) -> FunctionValue<'c> {
    micro::add(context, module, &name(dtype, level))
}

/// Adds the functions for one type at one level.
pub fn define<'c>(context: &'c Context, mut module: Module<'c>, dtype: DType, level: Level) -> Module<'c> {
    let ty = context.void_type().fn_type(&[context.ptr_type(AddressSpace::default()).into()], false);
    let mut variants = vec![];
    for rows in 1..=FEW {
        let function = module.add_function(&format!("{}.{rows}", name(dtype, level)), ty, Some(Linkage::Internal));
        target::attributes(context, function, level);
        // What stays in registers beside a row's sum: elements of A for these steps, and a vector of each step's B.
        let (bytes, steps) = match level {
            Level::V4 => (64, if (3..=5).contains(&rows) { 5 } else { 4 }),
            Level::V3 => (32, if rows <= 2 { 4 } else { 2 }),
        };
        let stream = Stream { code: micro::begin(context, module, function), dtype, rows, bytes, steps };
        let Ok(()) = stream.write();
        module = micro::end(stream.code);
        variants.push(function);
    }
    let function = declare(context, &module, dtype, level);
    target::attributes(context, function, level);
    let code = micro::begin(context, module, function);
    micro::choose(&code, &variants, micro::parameter(function, 0).into_pointer_value(), micro::parameter(function, 1).into_int_value());
    ok(code.builder.build_return(None));
    micro::end(code)
}

struct Stream<'c> {
    code: Code<'c>,
    dtype: DType,
    rows: i64,
    /// Of a vector.
    bytes: i64,
    /// Steps that are taken together.
    steps: i64,
}

impl<'c> Stream<'c> {
    fn vector(&self, at: IntValue<'c>) -> V<'c> {
        self.code.load(self.code.ty(self.dtype.into(), self.lanes()), self.code.pointer_to(at), self.dtype.bytes() as u32)
    }

    /// Lanes that the mask does not have are zero.
    fn masked(&self, at: IntValue<'c>, mask: V<'c>) -> V<'c> {
        let (code, vector) = (&self.code, self.code.ty(self.dtype.into(), self.lanes()));
        let args = vec![self.code.pointer_to(at).into(), mask, vector.const_zero()];
        code.masked("llvm.masked.load", &[vector, code.pointer()], args, 1, self.dtype.bytes() as u32).expect("a value")
    }

    fn store(&self, at: IntValue<'c>, value: V<'c>) {
        self.code.store(self.code.pointer_to(at), value, self.dtype.bytes() as u32);
    }

    fn lanes(&self) -> u32 {
        self.bytes as u32 / self.dtype.bytes() as u32
    }

    fn write(&self) -> Result<(), Infallible> {
        let code = &self.code;
        let tile = micro::parameter(code.function, 0).into_pointer_value();
        let get = |f: Field| micro::field(code, tile, f);
        let whole = self.code.mul(get(Field::Panels), code.int(PANEL));
        let ends = [whole, self.code.add(whole, get(Field::Rest))];
        // Sums lie vector by vector, all rows of one together.
        let zero = code.constant(Scalar::float(self.dtype, 0.0), self.lanes());
        code.range(code.int(0), ends[1], self.bytes, |at| {
            let at = self.code.add(get(Field::Sums), self.code.mul(at, code.int(self.rows)));
            (0..self.rows).for_each(|row| self.store(self.code.add(at, code.int(row * self.bytes)), zero));
            Ok::<(), Infallible>(())
        })?;
        let count = get(Field::Count);
        let together = self.code.sub(count, code.int(self.steps - 1));
        let rest = code.range(code.int(0), together, self.steps, |k| self.pass(k, self.steps, ends, &get))?;
        code.range(rest, count, 1, |k| self.pass(k, 1, ends, &get))?;
        code.range(code.int(0), get(Field::Panels), 1, |panel| {
            let to = self.code.add(get(Field::C), self.code.mul(panel, get(Field::NextC)));
            let vectors = (0..PANEL / self.bytes).map(|v| code.int(v * self.bytes));
            vectors
                .for_each(|at| self.join(self.code.add(self.code.mul(panel, code.int(PANEL)), at), [self.code.add(to, at), get(Field::CRow)], &get));
            Ok::<(), Infallible>(())
        })?;
        code.range(whole, ends[1], self.bytes, |at| {
            self.join(at, [self.code.add(get(Field::RestC), self.code.sub(at, whole)), code.int(PANEL)], &get);
            Ok::<(), Infallible>(())
        })?;
        ok(code.builder.build_return(None));
        Ok(())
    }

    /// So many steps from `k` on, along all columns: those of whole panels, and those beside them.
    fn pass(&self, k: IntValue<'c>, steps: i64, [whole, end]: [IntValue<'c>; 2], get: &dyn Fn(Field) -> IntValue<'c>) -> Result<(), Infallible> {
        let code = &self.code;
        let element = code.ty(self.dtype.into(), 1);
        let (a, a_step, a_row) = (get(Field::A), get(Field::AStep), get(Field::ARow));
        let (b, b_step, sums) = (get(Field::B), get(Field::BStep), get(Field::Sums));
        let first = self.code.add(b, self.code.mul(k, b_step));
        let numbers: Vec<IntValue<'c>> = (0..steps).map(|step| self.code.add(k, code.int(step))).collect();
        let lines: Vec<IntValue<'c>> = (0..steps).map(|step| self.code.add(first, self.code.mul(b_step, code.int(step)))).collect();
        let next = self.code.mul(b_step, code.int(steps));
        let factor = |row: i64, k: IntValue<'c>| {
            let at = self.code.add(self.code.add(a, self.code.mul(a_row, code.int(row))), self.code.mul(k, a_step));
            code.splat(code.load(element, self.code.pointer_to(at), self.dtype.bytes() as u32), self.lanes())
        };
        let factors: Vec<Vec<V<'c>>> = (0..self.rows).map(|row| numbers.iter().map(|k| factor(row, *k)).collect()).collect();
        let vector = |at: IntValue<'c>, read: &dyn Fn(IntValue<'c>) -> V<'c>| {
            let columns: Vec<V<'c>> = lines.iter().map(|line| read(self.code.add(*line, at))).collect();
            // The steps that come next, wherever they lie: each line is asked for once where a vector is one.
            if self.bytes == LINE {
                lines.iter().for_each(|line| code.prefetch_near(self.code.pointer_to(self.code.add(self.code.add(*line, next), at))));
            }
            let at = self.code.add(sums, self.code.mul(at, code.int(self.rows)));
            for (row, factors) in (0..).zip(&factors) {
                let place = self.code.add(at, code.int(row * self.bytes));
                let sum = factors.iter().zip(&columns).fold(self.vector(place), |sum, (factor, column)| {
                    code.intrinsic("llvm.fma", &[sum.get_type()], &[*factor, *column, sum]).expect("a value")
                });
                self.store(place, sum);
            }
            Ok::<(), Infallible>(())
        };
        code.range(code.int(0), whole, self.bytes, |at| vector(at, &|from| self.vector(from)))?;
        code.range(whole, end, self.bytes, |at| {
            let left = ok(code.builder.build_int_unsigned_div(self.code.sub(end, at), code.int(self.dtype.bytes() as i64), ""));
            let mask = code.icmp(IntPredicate::SLT, code.lane_numbers(self.lanes()), code.splat(left.into(), self.lanes()));
            vector(at, &|from| self.masked(from, mask))
        })?;
        Ok(())
    }

    /// The leaf's sums of a vector of columns join those at an address, rows so far apart, or are the first there.
    fn join(&self, at: IntValue<'c>, [to, apart]: [IntValue<'c>; 2], get: &dyn Fn(Field) -> IntValue<'c>) {
        let code = &self.code;
        let from = self.code.add(get(Field::Sums), self.code.mul(at, code.int(self.rows)));
        let fresh = code.icmp(IntPredicate::NE, get(Field::First).into(), code.int(0).into());
        for row in 0..self.rows {
            let sum = self.vector(self.code.add(from, code.int(row * self.bytes)));
            let to = self.code.add(to, self.code.mul(apart, code.int(row)));
            let both = code.binary(Op::FAdd, self.vector(to), sum);
            self.store(to, code.select(fresh, sum, both));
        }
    }
}

impl<'c> Engine<'_, '_, 'c> {
    /// Whether the panels of a group are multiplied side by side, where that is possible at all.
    pub fn streamed(&self, g: &Group<'c>) -> Option<IntValue<'c>> {
        takes(self.w.kernel, self.c).then(|| self.and(self.few_rows(), self.is(IntPredicate::SGT, g.count, self.int(1))))
    }

    fn few_rows(&self) -> IntValue<'c> {
        self.is(IntPredicate::SLE, self.extent(&self.c.rows), self.int(FEW))
    }

    /// The most panels of a group.
    pub fn side_by_side(&self) -> IntValue<'c> {
        if !takes(self.w.kernel, self.c) {
            return self.int(PANELS);
        }
        let rows = self.w.greater(self.extent(&self.c.rows), self.int(1));
        let wide = self.divide(self.int(WIDE), rows).0;
        self.w.code.select(self.few_rows().into(), wide.into(), self.int(PANELS).into()).into_int_value()
    }

    /// Multiplies a leaf of all panels side by side. There is one tile.
    pub fn stream(&self, g: &Group<'c>, [block, steps]: [IntValue<'c>; 2], level: Level) -> Result<(), String> {
        let code = &self.w.code;
        let row = self.start(g, g.from);
        let yes = code.context.bool_type().const_all_ones();
        let walk = self.describe_a(g, yes, [block, steps], [g.from, g.to])?;
        self.field(Field::A, self.a_of(&walk, g.from, row));
        let panel = self.panel(g, self.int(0));
        self.describe_b(g, &panel, self.int(0), yes, block);
        let (own, own_panel) = (self.address(self.at(C_AT)), self.int(ROWS * PANEL));
        let (mut c, mut c_row, mut c_panel) = (own, self.int(PANEL), own_panel);
        if let Some((_, base, step)) = self.home_of(&panel) {
            (c, c_row, c_panel) = (self.add(base, self.mul(row, step)), step, self.int(PANEL));
        }
        self.field(Field::C, c);
        self.field(Field::CRow, c_row);
        self.field(Field::NextC, c_panel);
        let wholes = self.wholes(g);
        let last = self.panel(g, self.sub(g.count, self.int(1)));
        let rest = code.select(self.is(IntPredicate::SLT, wholes, g.count).into(), last.columns.into(), self.int(0).into()).into_int_value();
        self.field(Field::Panels, wholes);
        self.field(Field::Rest, self.mul(rest, self.int(self.elements())));
        self.field(Field::RestC, self.add(own, self.mul(wholes, own_panel)));
        // No panel is packed.
        self.field(Field::Sums, self.address(self.packed_panel(self.int(0))));
        let multiply = declare(code.context, &code.module, self.c.dtype, level);
        let rows = self.sub(self.start(g, g.to), row);
        ok(code.builder.build_call(multiply, &[self.tile.into(), rows.into()], ""));
        Ok(())
    }
}
