//! Packing of factors: B's panel as `[k][128 bytes of columns]`, a tile of A as rows along `k`.
//!
//! A factor's expression is evaluated, whatever it is: lanes along the columns, or along `k` for A. Loads with linear addresses are copied by rows,
//! or, where `k` is the contiguous axis, turned in registers square by square. What is written beyond the last column or step is never used.

use crate::emit::Level;
use crate::emit::body::Scope;
use crate::emit::code::{Elem, V, ok};
use crate::emit::contract::{A_AT, A_ROW, Engine, Panel, named, reductions};
use crate::emit::linear::{Linear, Run};
use crate::emit::micro::{Field, PANEL};
use inkwell::IntPredicate;
use inkwell::values::{IntValue, PointerValue};

impl<'c> Engine<'_, '_, 'c> {
    /// Packs `steps` rows of B from `block` on.
    pub fn pack_b(&self, panel: &Panel<'c>, block: IntValue<'c>, steps: IntValue<'c>, level: Level) -> Result<(), String> {
        let code = &self.w.code;
        if let Some((form, runs)) = self.b_turned() {
            return self.turn(panel, &form, &runs, block, steps, level);
        }
        let expression = &self.factors[1];
        self.walk(block, steps, &mut |k, reds| {
            let scope = self.scope(&panel.point, reds);
            let row = code.element(Elem::I8, self.scratch, self.mul(k, self.int(PANEL)));
            if let Some((form, _)) = self.b_rows() {
                let mut point = self.batch_point(panel, &self.c.columns);
                point.extend(reds.iter().enumerate().map(|(n, v)| (self.w.kernel.outer.len() + n, *v)));
                return self.copy(panel, self.form(&form, &point), row);
            }
            self.columns(panel, &scope, &mut |scope, column| {
                let mut values = vec![];
                self.w.block(expression, scope, &mut values)?;
                let value = code.splat(values[self.c.factors[1]], scope.lanes());
                code.store(code.element(self.c.dtype.into(), row, column), value, self.elements() as u32);
                Ok(())
            })
        })
    }

    /// Copies a panel's row.
    fn copy(&self, panel: &Panel<'c>, from: IntValue<'c>, to: PointerValue<'c>) -> Result<(), String> {
        let code = &self.w.code;
        let lanes = self.width as u32;
        let (vector, align) = (code.ty(self.c.dtype.into(), lanes), self.elements() as u32);
        let from = ok(code.builder.build_int_to_ptr(from, code.pointer().into_pointer_type(), ""));
        let whole = self.is(IntPredicate::EQ, panel.columns, self.int(self.width));
        let value = code.either(
            whole,
            || Ok::<_, String>(code.load(vector, from, align)),
            || {
                let mask = code.icmp(IntPredicate::SLT, code.lane_numbers(lanes), code.splat(panel.columns.into(), lanes));
                Ok(code
                    .masked("llvm.masked.load", &[vector, code.pointer()], vec![from.into(), mask, vector.const_zero()], 1, align)
                    .expect("a value"))
            },
        )?;
        code.store(to, value, align);
        Ok(())
    }

    /// B where `k` is contiguous and columns are one step apart.
    fn b_turned(&self) -> Option<(Linear, Vec<Run>)> {
        let form = self.b_form()?;
        let columns = form.runs(&named(self.w.kernel, &self.c.columns));
        let runs = form.runs(&reductions(self.w.kernel, self.stage));
        let unit = runs.last().is_some_and(|r| r.step.as_const() == Some(1));
        (columns.len() == 1 && columns[0].step.as_const() != Some(1) && unit && runs.len() <= 2).then_some((form, runs))
    }

    /// Packs a panel whose columns are contiguous along `k`: square blocks are turned in registers.
    fn turn(&self, panel: &Panel<'c>, form: &Linear, runs: &[Run], block: IntValue<'c>, steps: IntValue<'c>, level: Level) -> Result<(), String> {
        let code = &self.w.code;
        let i64t = code.ty(Elem::I64, 1);
        let base = self.form(form, &self.batch_point(panel, &self.c.columns));
        let columns = form.runs(&named(self.w.kernel, &self.c.columns));
        let apart = self.bytes(&columns[0].step);
        let [outer, run] = match runs {
            [outer, inner] => [self.bytes(&outer.step), self.w.greater(self.w.size(&inner.extent), self.int(1))],
            _ => [self.int(0), self.int(i64::MAX)],
        };
        let done = code.variable(i64t);
        code.set(done, self.int(0).into());
        let (head, inside, end) = (code.block(), code.block(), code.block());
        code.go(head);
        let at = code.get(i64t, done).into_int_value();
        code.branch(self.is(IntPredicate::SLT, at, steps), inside, end);
        code.builder.position_at_end(inside);
        let (number, within) = self.divide(self.add(block, at), run);
        let length = self.w.lesser(self.sub(steps, at), self.sub(run, within));
        let start = self.add(base, self.add(self.mul(number, outer), self.mul(within, self.int(self.elements()))));
        let to = code.element(Elem::I8, self.scratch, self.mul(at, self.int(PANEL)));
        self.turn_run(panel, start, apart, length, to, level)?;
        code.set(done, self.add(at, length).into());
        code.jump(head);
        code.builder.position_at_end(end);
        Ok(())
    }

    /// Turns `length` contiguous steps of all columns.
    fn turn_run(
        &self,
        panel: &Panel<'c>,
        start: IntValue<'c>,
        apart: IntValue<'c>,
        length: IntValue<'c>,
        to: PointerValue<'c>,
        level: Level,
    ) -> Result<(), String> {
        let code = &self.w.code;
        let bytes = self.elements();
        let lanes = match level {
            Level::V3 => 32 / bytes,
            Level::V4 => 64 / bytes,
        };
        let (vector, align) = (code.ty(self.c.dtype.into(), lanes as u32), bytes as u32);
        let last = self.sub(panel.columns, self.int(1));
        let square = |k: IntValue<'c>, column: IntValue<'c>, mask: Option<V<'c>>| {
            let here = self.add(start, self.mul(k, self.int(bytes)));
            // Columns beyond the last repeat it: what they give is never stored.
            let rows = (0..lanes).map(|l| {
                let column = self.w.lesser(self.add(column, self.int(l)), last);
                let from = self.add(here, self.mul(column, apart));
                let from = ok(code.builder.build_int_to_ptr(from, code.pointer().into_pointer_type(), ""));
                match mask {
                    None => code.load(vector, from, align),
                    Some(mask) => code
                        .masked("llvm.masked.load", &[vector, code.pointer()], vec![from.into(), mask, vector.const_zero()], 1, align)
                        .expect("a value"),
                }
            });
            let turned = self.transpose(rows.collect());
            let corner = self.add(self.mul(k, self.int(PANEL)), self.mul(column, self.int(bytes)));
            for (n, row) in turned.into_iter().enumerate() {
                code.store(code.element(Elem::I8, to, self.add(corner, self.int(n as i64 * PANEL))), row, align);
            }
        };
        code.range(self.int(0), panel.columns, lanes, |column| {
            let whole = self.sub(length, self.int(lanes - 1));
            let rest = code.range(self.int(0), whole, lanes, |k| {
                square(k, column, None);
                Ok::<(), String>(())
            })?;
            // Rows of zeros beyond the run: what follows overwrites them.
            code.only_if(self.is(IntPredicate::SLT, rest, length), || {
                let left = self.sub(length, rest);
                let mask = code.icmp(IntPredicate::SLT, code.lane_numbers(lanes as u32), code.splat(left.into(), lanes as u32));
                square(rest, column, Some(mask));
                Ok::<(), String>(())
            })
        })?;
        Ok(())
    }

    /// Exchanges rows and lanes of a square: bit by bit of their numbers.
    fn transpose(&self, mut rows: Vec<V<'c>>) -> Vec<V<'c>> {
        let code = &self.w.code;
        let lanes = rows.len();
        let mut bit = lanes / 2;
        while bit > 0 {
            for i in (0..lanes).filter(|i| i & bit == 0) {
                let (a, b) = (rows[i].into_vector_value(), rows[i | bit].into_vector_value());
                let pick = |of: &dyn Fn(usize) -> usize| {
                    let mask: Vec<_> = (0..lanes).map(|l| code.context.i32_type().const_int(of(l) as u64, false)).collect();
                    ok(code.builder.build_shuffle_vector(a, b, inkwell::types::VectorType::const_vector(&mask), "")).into()
                };
                rows[i] = pick(&|l| if l & bit == 0 { l } else { lanes + (l ^ bit) });
                rows[i | bit] = pick(&|l| if l & bit == 0 { l ^ bit } else { lanes + l });
            }
            bit /= 2;
        }
        rows
    }

    /// Packs a tile of A, row by row, and describes it.
    pub fn pack_a(&self, panel: &Panel<'c>, block: IntValue<'c>, steps: IntValue<'c>, row: IntValue<'c>, rows: IntValue<'c>) -> Result<(), String> {
        let code = &self.w.code;
        let (to, expression) = (self.at(A_AT), &self.factors[0]);
        let bytes = self.elements();
        for (field, value) in [
            (Field::A, self.address(to)),
            (Field::ARow, self.int(A_ROW * bytes)),
            (Field::AStep, self.int(bytes)),
            (Field::Left, self.int(i64::MAX)),
            (Field::Run, self.int(i64::MAX)),
            (Field::Jump, self.int(0)),
        ] {
            self.field(field, value);
        }
        let Some(last) = self.stage.reds.len().checked_sub(1) else { return self.pack_point(panel, row, rows, to) };
        let size = self.w.greater(self.w.size(&self.stage.reds[last]), self.int(1));
        let i64t = code.ty(Elem::I64, 1);
        code.range(self.int(0), rows, 1, |r| {
            let mut point = panel.point.clone();
            self.set(&self.c.rows, self.add(row, r), &mut point);
            let to = code.element(self.c.dtype.into(), to, self.mul(r, self.int(A_ROW)));
            let done = code.variable(i64t);
            code.set(done, self.int(0).into());
            let (head, inside, end) = (code.block(), code.block(), code.block());
            code.go(head);
            let at = code.get(i64t, done).into_int_value();
            code.branch(self.is(IntPredicate::SLT, at, steps), inside, end);
            code.builder.position_at_end(inside);
            let mut reds = vec![self.int(0); last + 1];
            let mut rest = self.add(block, at);
            for n in (1..=last).rev() {
                (rest, reds[n]) = self.divide(rest, self.w.greater(self.w.size(&self.stage.reds[n]), self.int(1)));
            }
            reds[0] = rest;
            let scope = self.scope(&point, &reds);
            let from = reds[last];
            let until = self.w.lesser(size, self.add(from, self.sub(steps, at)));
            let var = self.w.kernel.outer.len() + last;
            let mut groups = |i: IntValue<'c>, lanes: u32, mask: Option<V<'c>>| {
                let mut scope = Scope { lane: Some((var, lanes)), mask, ..scope.clone() };
                scope.point[var] = i;
                let mut values = vec![];
                self.w.block(expression, &scope, &mut values)?;
                let value = code.splat(values[self.c.factors[0]], lanes);
                code.store(code.element(self.c.dtype.into(), to, self.add(at, self.sub(i, from))), value, bytes as u32);
                Ok(())
            };
            self.w.groups(from, until, 16, &mut groups)?;
            code.set(done, self.add(at, self.sub(until, from)).into());
            code.jump(head);
            code.builder.position_at_end(end);
            Ok::<(), String>(())
        })?;
        Ok(())
    }

    /// The same without reduction loops: one step.
    fn pack_point(&self, panel: &Panel<'c>, row: IntValue<'c>, rows: IntValue<'c>, to: PointerValue<'c>) -> Result<(), String> {
        let code = &self.w.code;
        code.range(self.int(0), rows, 1, |r| {
            let mut point = panel.point.clone();
            self.set(&self.c.rows, self.add(row, r), &mut point);
            let mut values = vec![];
            self.w.block(&self.factors[0], &self.scope(&point, &[]), &mut values)?;
            code.store(code.element(self.c.dtype.into(), to, self.mul(r, self.int(A_ROW))), values[self.c.factors[0]], self.elements() as u32);
            Ok::<(), String>(())
        })?;
        Ok(())
    }
}
