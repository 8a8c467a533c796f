//! The micro-kernel of a single row where steps of `k` lie beside each other in each column of B: nothing is packed.
//!
//! `multiply.<dtype>.<level>.single(tile, columns)` does for one row and so many columns what `multiply` does with a packed panel: a leaf of `k`, each element
//! one chain of fused multiply-adds from +0, joined with what `C` holds. `B` is the first column's first step, `BStep` the bytes from a column to the next.
//! Squares of columns and steps are turned in registers and multiplied there. A panel that was packed first would be used but once, and memory would wait
//! while it is multiplied.

use crate::emit::Level;
use crate::emit::code::{Code, Elem, V, ok};
use crate::emit::contract::{Engine, Panel, named};
use crate::emit::micro::{self, Field, PANEL};
use crate::emit::operand::direct;
use crate::emit::target;
use crate::emit::turn::turned;
use crate::ir::{DType, Scalar};
use crate::kernel::Kernel;
use crate::kernel::contract::{Contraction, packed};
use inkwell::IntPredicate;
use inkwell::context::Context;
use inkwell::module::Module;
use inkwell::values::{FunctionValue, InstructionOpcode as Op, IntValue, PointerValue};
use std::convert::Infallible;

/// Whether the contraction has a use for it: columns run along `k`, and there may be a single row, which takes all steps.
pub fn takes(kernel: &Kernel, c: &Contraction) -> bool {
    let single = c.extent(&c.rows, &kernel.outer).as_const().is_none_or(|n| n == 1);
    let whole = c.windows.is_none() && c.reach.is_none() && c.needs.is_none();
    let one_run = direct(kernel, c).is_none_or(|(_, _, steps)| steps.len() <= 1) && turned(kernel, c).is_some_and(|(_, runs)| runs.len() == 1);
    single && whole && one_run && packed(kernel, c).is_none()
}

/// The function, declared.
pub fn declare<'c>(context: &'c Context, module: &Module<'c>, dtype: DType, level: Level) -> FunctionValue<'c> {
    micro::add(context, module, &format!("{}.single", micro::name(dtype, level, None)))
}

/// Adds the function for one type at one level.
pub fn define<'c>(context: &'c Context, module: Module<'c>, dtype: DType, level: Level) -> Module<'c> {
    let function = declare(context, &module, dtype, level);
    target::attributes(context, function, level);
    let code = micro::begin(context, module, function);
    let bytes = match level {
        Level::V4 => 64,
        Level::V3 => 32,
    };
    let buffer = |bytes: i64| code.variable(code.context.i8_type().array_type(bytes as u32).into());
    let lanes = bytes / dtype.bytes() as i64;
    let (sums, square, starts) = (buffer(PANEL), buffer(lanes * bytes), buffer(8 * PANEL / dtype.bytes() as i64));
    let single = Single { code, dtype, bytes, lanes, sums, square, starts };
    let Ok(()) = single.write();
    micro::end(single.code)
}

struct Single<'c> {
    code: Code<'c>,
    dtype: DType,
    /// Of a vector.
    bytes: i64,
    lanes: i64,
    /// Sums of the leaf, for each column.
    sums: PointerValue<'c>,
    /// The last steps' square, turned.
    square: PointerValue<'c>,
    /// Where each column begins.
    starts: PointerValue<'c>,
}

impl<'c> Single<'c> {
    fn write(&self) -> Result<(), Infallible> {
        let code = &self.code;
        let tile = micro::parameter(code.function, 0).into_pointer_value();
        let columns = micro::parameter(code.function, 1).into_int_value();
        let get = |f: Field| micro::field(code, tile, f);
        let (b, apart) = (get(Field::B), get(Field::BStep));
        let last = self.code.sub(columns, code.int(1));
        code.range(code.int(0), code.int(PANEL / self.dtype.bytes() as i64), 1, |column| {
            // Columns beyond the last repeat it: what they give is never stored.
            let inside = code.icmp(IntPredicate::SLT, column.into(), last.into());
            let nearest = code.select(inside, column.into(), last.into()).into_int_value();
            let start = self.code.add(b, self.code.mul(nearest, apart));
            code.store(code.element(Elem::I64, self.starts, column), start.into(), 8);
            Ok::<(), Infallible>(())
        })?;
        let zero = code.constant(Scalar::float(self.dtype, 0.0), self.lanes as u32);
        (0..PANEL).step_by(self.bytes as usize).for_each(|at| code.store(self.sum(code.int(at)), zero, 8));
        let count = get(Field::Count);
        let whole = self.code.sub(count, code.int(self.lanes - 1));
        let (a, a_step) = (get(Field::A), get(Field::AStep));
        let rest = code.range(code.int(0), whole, self.lanes, |k| {
            code.range(code.int(0), columns, self.lanes, |column| {
                let mut a = self.code.add(a, self.code.mul(k, a_step));
                let sum = self.sum(self.offset(column));
                let mut chain = self.vector(sum);
                for steps in self.turned(k, column, None) {
                    chain = self.fma(a, steps, chain);
                    a = self.code.add(a, a_step);
                }
                code.store(sum, chain, 8);
                Ok::<(), Infallible>(())
            })
            .map(drop)
        })?;
        let left = self.code.sub(count, rest);
        let mask = code.icmp(IntPredicate::SLT, code.lane_numbers(self.lanes as u32), code.splat(left.into(), self.lanes as u32));
        let more = code.icmp(IntPredicate::SLT, rest.into(), count.into()).into_int_value();
        code.only_if(more, || {
            code.range(code.int(0), columns, self.lanes, |column| {
                let row = |n: IntValue<'c>| code.element(Elem::I8, self.square, self.code.mul(n, code.int(self.bytes)));
                for (n, steps) in (0..).zip(self.turned(rest, column, Some(mask))) {
                    code.store(row(code.int(n)), steps, 8);
                }
                let sum = self.sum(self.offset(column));
                code.range(code.int(0), left, 1, |n| {
                    let a = self.code.add(a, self.code.mul(self.code.add(rest, n), a_step));
                    code.store(sum, self.fma(a, self.vector(row(n)), self.vector(sum)), 8);
                    Ok::<(), Infallible>(())
                })
                .map(drop)
            })
            .map(drop)
        })?;
        let fresh = code.icmp(IntPredicate::NE, get(Field::First).into(), code.int(0).into());
        for at in (0..PANEL).step_by(self.bytes as usize) {
            let to = self.code.pointer_to(self.code.add(get(Field::C), code.int(at)));
            let sum = self.vector(self.sum(code.int(at)));
            let both = code.binary(Op::FAdd, self.load(to), sum);
            code.store(to, code.select(fresh, sum, both), self.dtype.bytes() as u32);
        }
        ok(code.builder.build_return(None));
        Ok(())
    }

    /// Vectors of columns, a step each, from those numbers on; steps that the mask does not have are not read.
    fn turned(&self, k: IntValue<'c>, column: IntValue<'c>, mask: Option<V<'c>>) -> Vec<V<'c>> {
        let code = &self.code;
        let along = self.code.mul(k, code.int(self.dtype.bytes() as i64));
        let vector = code.ty(self.dtype.into(), self.lanes as u32);
        let rows = (0..self.lanes).map(|n| {
            let start =
                code.load(code.ty(Elem::I64, 1), code.element(Elem::I64, self.starts, self.code.add(column, code.int(n))), 8).into_int_value();
            let from = self.code.pointer_to(self.code.add(start, along));
            match mask {
                None => self.load(from),
                Some(mask) => {
                    let args = vec![from.into(), mask, vector.const_zero()];
                    code.masked("llvm.masked.load", &[vector, code.pointer()], args, 1, self.dtype.bytes() as u32).expect("a value")
                }
            }
        });
        code.transpose(rows.collect())
    }

    /// The element of A at an address times these, added to the chain.
    fn fma(&self, a: IntValue<'c>, b: V<'c>, chain: V<'c>) -> V<'c> {
        let code = &self.code;
        let a = code.load(code.ty(self.dtype.into(), 1), self.code.pointer_to(a), self.dtype.bytes() as u32);
        code.intrinsic("llvm.fma", &[chain.get_type()], &[code.splat(a, self.lanes as u32), b, chain]).expect("a value")
    }

    fn sum(&self, at: IntValue<'c>) -> PointerValue<'c> {
        self.code.element(Elem::I8, self.sums, at)
    }

    fn offset(&self, column: IntValue<'c>) -> IntValue<'c> {
        self.code.mul(column, self.code.int(self.dtype.bytes() as i64))
    }

    /// From a buffer of the function's own.
    fn vector(&self, at: PointerValue<'c>) -> V<'c> {
        self.code.load(self.code.ty(self.dtype.into(), self.lanes as u32), at, 8)
    }

    fn load(&self, at: PointerValue<'c>) -> V<'c> {
        self.code.load(self.code.ty(self.dtype.into(), self.lanes as u32), at, self.dtype.bytes() as u32)
    }
}

impl<'c> Engine<'_, '_, 'c> {
    /// Whether a group's row is multiplied with columns as they lie, where that is possible at all.
    pub fn single(&self) -> Option<IntValue<'c>> {
        takes(self.w.kernel, self.c).then(|| self.is(IntPredicate::EQ, self.extent(&self.c.rows), self.int(1)))
    }

    /// Describes B for a panel's columns as they lie, from step `block` on.
    pub fn describe_columns(&self, panel: &Panel<'c>, block: IntValue<'c>) {
        let Some((form, _)) = turned(self.w.kernel, self.c) else { return };
        let columns = form.runs(&named(self.w.kernel, &self.c.columns));
        let base = self.form(&form, &self.batch_point(panel, &self.c.columns));
        self.field(Field::B, self.add(base, self.mul(block, self.int(self.elements()))));
        self.field(Field::BStep, self.bytes(&columns[0].step));
    }
}
