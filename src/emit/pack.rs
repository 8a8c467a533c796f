//! Packing of factors: B's panel as `[k][128 bytes of columns]`, a tile of A as rows along `k`.
//!
//! A factor's expression is evaluated, whatever it is: lanes along the columns, or along `k` for A. Loads with linear addresses are copied by rows,
//! or, where `k` is the contiguous axis, turned in registers square by square. What is written beyond the last column or step is never used.

use crate::emit::Level;
use crate::emit::body::Scope;
use crate::emit::code::{Elem, V, ok};
use crate::emit::contract::{A_AT, A_ROW, BASES_AT, Engine, Group, MASKS, MASKS_AT, Panel, TILE_STEP, named, reductions};
use crate::emit::micro::PANEL;
use crate::ir::{Affine, IndexAtom, Scalar, Size};
use crate::kernel::contract::ROWS;
use crate::kernel::linear::{Check, Linear, Run, window};
use inkwell::IntPredicate;
use inkwell::values::{IntValue, PointerValue};

impl<'c> Engine<'_, '_, 'c> {
    /// Packs `steps` steps of the group's panels from number `from` on, beginning with step `block`.
    pub fn pack_b(&self, g: &Group<'c>, from: IntValue<'c>, [block, steps]: [IntValue<'c>; 2], level: Level) -> Result<(), String> {
        let code = &self.w.code;
        let outer = self.w.kernel.outer.len();
        if let Some((form, runs)) = self.b_turned() {
            return code
                .range(from, g.count, 1, |n| self.turn(&self.panel(g, n), &form, &runs, [block, steps], self.packed_panel(n), level))
                .map(drop);
        }
        if let Some((form, checks)) = self.b_rows()
            && let Some(taps) = self.taps(&checks)
        {
            code.range(from, g.count, 1, |n| {
                let panel = self.panel(g, n);
                let base = self.form(&form, &self.batch_point(&panel, &self.c.columns));
                code.store(code.element(Elem::I64, self.at(BASES_AT), n), base.into(), 8);
                self.masks(&panel, &checks, taps, self.mul(n, self.int(MASKS)))
            })?;
            let wholes = self.wholes(g);
            // All panels' columns of a step lie side by side in memory.
            return self.walk(block, steps, &mut |k, reds| {
                let offset = reds.iter().enumerate().fold(self.int(0), |sum, (n, v)| self.add(sum, self.mul(*v, self.bytes(&form.steps[outer + n]))));
                let sizes = self.stage.reds.iter().enumerate().skip(taps);
                let tap = sizes.fold(self.int(0), |tap, (n, size)| self.add(self.mul(tap, self.w.size(size)), reds[n]));
                let to = self.mul(k, self.int(PANEL));
                code.range(from, g.count, 1, |n| {
                    let base = code.load(code.ty(Elem::I64, 1), code.element(Elem::I64, self.at(BASES_AT), n), 8).into_int_value();
                    let plain = Some(self.is(IntPredicate::SLT, n, wholes)).filter(|_| checks.is_empty());
                    let mask = self.add(self.mul(n, self.int(MASKS)), tap);
                    self.copy(self.add(base, offset), plain, mask, code.element(Elem::I8, self.packed_panel(n), to));
                    Ok::<(), String>(())
                })?;
                Ok(())
            });
        }
        let expression = &self.factors[1];
        code.range(from, g.count, 1, |n| {
            let panel = self.panel(g, n);
            self.walk(block, steps, &mut |k, reds| {
                let scope = self.scope(&panel.point, reds);
                let row = code.element(Elem::I8, self.packed_panel(n), self.mul(k, self.int(PANEL)));
                self.columns(&panel, &scope, &mut |scope, column| {
                    let mut values = vec![];
                    self.w.block(expression, scope, &mut values)?;
                    let value = code.splat(values[self.c.factors[1]], scope.lanes());
                    code.store(code.element(self.c.dtype.into(), row, column), value, self.elements() as u32);
                    Ok(())
                })
            })
        })?;
        Ok(())
    }

    /// The first of the last reduction variables that the checks know, where these have few points together: the taps of a window.
    fn taps(&self, checks: &[Check]) -> Option<usize> {
        let outer = self.w.kernel.outer.len();
        let mut first = self.stage.reds.len();
        let mut see = |v: usize| first = first.min(v.checked_sub(outer).unwrap_or(first));
        checks.iter().for_each(|(a, _)| a.visit_vars(&mut see));
        let taps = self.stage.reds[first..].iter().try_fold(1i64, |n, size| n.checked_mul(size.as_const()?));
        taps.is_some_and(|n| n <= MASKS).then_some(first)
    }

    /// Which of the panel's columns have a value, for every tap from reduction variable `first` on: bits, 8 bytes a tap, from the place `at` on.
    fn masks(&self, panel: &Panel<'c>, checks: &[Check], first: usize, at: IntValue<'c>) -> Result<(), String> {
        let code = &self.w.code;
        let taps = self.stage.reds[first..].iter().fold(1, |n, size| n * size.as_const().unwrap_or(1));
        let i64t = code.ty(Elem::I64, 1);
        let bits = code.variable(i64t);
        code.range(self.int(0), self.int(taps), 1, |tap| {
            let mut reds = vec![self.int(0); self.stage.reds.len()];
            let mut rest = tap;
            for n in (first..reds.len()).rev() {
                (rest, reds[n]) = self.divide(rest, self.w.greater(self.w.size(&self.stage.reds[n]), self.int(1)));
            }
            code.set(bits, self.int(0).into());
            self.columns(panel, &self.scope(&panel.point, &reds), &mut |scope, column| {
                let lanes = scope.lanes();
                let all = scope.mask.unwrap_or_else(|| code.constant(Scalar::bool(true), lanes));
                let inside = checks.iter().fold(all, |mask, (index, size)| {
                    let i = code.splat(self.w.affine(index, scope, false), lanes);
                    code.both(mask, code.icmp(IntPredicate::ULT, i, code.splat(self.w.size(size).into(), lanes)))
                });
                let word = std::num::NonZeroU32::new(lanes).expect("lanes");
                let word = ok(code.builder.build_bit_cast(inside, ok(code.context.custom_width_int_type(word)), "")).into_int_value();
                let word = ok(code.builder.build_int_z_extend(word, code.context.i64_type(), ""));
                let word = ok(code.builder.build_left_shift(word, column, ""));
                code.set(bits, ok(code.builder.build_or(code.get(i64t, bits).into_int_value(), word, "")).into());
                Ok(())
            })?;
            let at = code.element(Elem::I64, self.at(MASKS_AT), self.add(at, tap));
            code.store(at, code.get(i64t, bits), 8);
            Ok::<(), String>(())
        })?;
        Ok(())
    }

    /// Copies a panel's columns of one step: all of them where `plain` holds, else what the mask says.
    fn copy(&self, from: IntValue<'c>, plain: Option<IntValue<'c>>, mask: IntValue<'c>, to: PointerValue<'c>) {
        let code = &self.w.code;
        let lanes = self.width as u32;
        let (vector, align) = (code.ty(self.c.dtype.into(), lanes), self.elements() as u32);
        let from = ok(code.builder.build_int_to_ptr(from, code.pointer().into_pointer_type(), ""));
        let masked = || {
            let bits = code.load(code.ty(Elem::I64, 1), code.element(Elem::I64, self.at(MASKS_AT), mask), 8).into_int_value();
            let word = std::num::NonZeroU32::new(lanes).expect("lanes");
            let word = ok(code.builder.build_int_truncate(bits, ok(code.context.custom_width_int_type(word)), ""));
            let mask = ok(code.builder.build_bit_cast(word, code.ty(Elem::Bool, lanes), ""));
            Ok::<_, String>(
                code.masked("llvm.masked.load", &[vector, code.pointer()], vec![from.into(), mask, vector.const_zero()], 1, align).expect("a value"),
            )
        };
        let value = match plain {
            Some(plain) => code.either(plain, || Ok::<_, String>(code.load(vector, from, align)), masked),
            None => masked(),
        };
        code.store(to, value.expect("loads emit no error"), align);
    }

    /// B where `k` is contiguous and columns are one step apart.
    fn b_turned(&self) -> Option<(Linear, Vec<Run>)> {
        let (form, _) = self.b_form().filter(|(_, checks)| checks.is_empty())?;
        let columns = form.runs(&named(self.w.kernel, &self.c.columns));
        let runs = form.runs(&reductions(self.w.kernel, self.stage));
        let unit = runs.last().is_some_and(|r| r.step.as_const() == Some(1));
        (columns.len() == 1 && columns[0].step.as_const() != Some(1) && unit && runs.len() <= 2).then_some((form, runs))
    }

    /// Packs a panel whose columns are contiguous along `k`: square blocks are turned in registers.
    fn turn(
        &self,
        panel: &Panel<'c>,
        form: &Linear,
        runs: &[Run],
        [block, steps]: [IntValue<'c>; 2],
        to: PointerValue<'c>,
        level: Level,
    ) -> Result<(), String> {
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
        let to = code.element(Elem::I8, to, self.mul(at, self.int(PANEL)));
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

    /// Packs tiles of A whose rows are contiguous: for every step, a vector of each tile. What is written beyond a tile's rows the next step overwrites.
    fn pack_columns(
        &self,
        g: &Group<'c>,
        form: &Linear,
        block: IntValue<'c>,
        [from, to]: [IntValue<'c>; 2],
        tiles: [IntValue<'c>; 2],
    ) -> Result<(), String> {
        let code = &self.w.code;
        let outer = self.w.kernel.outer.len();
        let lanes = 16;
        let (vector, align) = (code.ty(self.c.dtype.into(), lanes), self.elements() as u32);
        let batch: Vec<_> = self.c.batch.iter().map(|v| (*v, g.point[*v])).collect();
        let mask = |rows: IntValue<'c>| code.icmp(IntPredicate::SLT, code.lane_numbers(lanes), code.splat(rows.into(), lanes));
        self.walk(self.add(block, from), self.sub(to, from), &mut |k, reds| {
            let k = self.add(from, k);
            let mut point = batch.clone();
            point.extend(reds.iter().enumerate().map(|(n, v)| (outer + n, *v)));
            let base = self.form(form, &point);
            code.range(tiles[0], tiles[1], 1, |tile| {
                let row = self.start(g, tile);
                let rows = self.sub(self.start(g, self.add(tile, self.int(1))), row);
                let from = self.add(base, self.mul(row, self.int(self.elements())));
                let from = ok(code.builder.build_int_to_ptr(from, code.pointer().into_pointer_type(), ""));
                let value = code
                    .masked("llvm.masked.load", &[vector, code.pointer()], vec![from.into(), mask(rows), vector.const_zero()], 1, align)
                    .expect("a value");
                let at = self.add(self.mul(self.sub(tile, tiles[0]), self.int(A_ROW * ROWS)), self.mul(k, self.int(TILE_STEP)));
                code.store(code.element(self.c.dtype.into(), self.at(A_AT), at), value, align);
                Ok::<(), String>(())
            })?;
            Ok(())
        })
    }

    /// Packs tiles of A, these steps of a block: rows, one after the other.
    pub fn pack_a(&self, g: &Group<'c>, block: IntValue<'c>, [from, to]: [IntValue<'c>; 2], tiles: [IntValue<'c>; 2]) -> Result<(), String> {
        if let Some(form) = self.a_columns() {
            return self.pack_columns(g, form, block, [from, to], tiles);
        }
        let steps = self.sub(to, from);
        let code = &self.w.code;
        let (panel, expression, bytes) = (self.at(A_AT), &self.factors[0], self.elements());
        let row = self.start(g, tiles[0]);
        let rows = self.sub(self.start(g, tiles[1]), row);
        let Some(last) = self.stage.reds.len().checked_sub(1) else { return self.pack_point(g, row, rows, panel) };
        let var = self.w.kernel.outer.len() + last;
        let window = self.a_window();
        let first = self.unravel(self.add(block, from));
        code.range(self.int(0), rows, 1, |r| {
            let mut point = g.point.clone();
            self.set(&self.c.rows, self.add(row, r), &mut point);
            let to = code.element(self.c.dtype.into(), panel, self.add(from, self.mul(r, self.int(A_ROW))));
            self.pieces(&first, steps, &mut |at, reds, length| {
                let scope = self.scope(&point, reds);
                let to = code.element(self.c.dtype.into(), to, at);
                if let Some((form, checks)) = &window {
                    return self.copy_window(form, checks, &scope, length, to);
                }
                let from = reds[last];
                let mut groups = |i: IntValue<'c>, lanes: u32, mask: Option<V<'c>>| {
                    let mut scope = Scope { lane: Some((var, lanes)), mask, ..scope.clone() };
                    scope.point[var] = i;
                    let mut values = vec![];
                    self.w.block(expression, &scope, &mut values)?;
                    let value = code.splat(values[self.c.factors[0]], lanes);
                    code.store(code.element(self.c.dtype.into(), to, self.sub(i, from)), value, bytes as u32);
                    Ok(())
                };
                self.w.groups(from, self.add(from, length), 16, &mut groups)
            })
        })?;
        Ok(())
    }

    /// A as a load that is contiguous along the last reduction variable, with what must hold for it not to be zero.
    fn a_window(&self) -> Option<(Linear, Vec<Check>)> {
        let ranges: Vec<Size> = self.w.kernel.outer.iter().chain(&self.stage.reds).cloned().collect();
        let last = ranges.len() - 1;
        let (form, checks) = window(self.w.kernel, &self.stage.body[self.c.factors[0]], &ranges)?;
        let along = |a: &Affine| a.terms.iter().all(|(atom, c)| *atom != IndexAtom::Var(last) || c.as_const() == Some(1));
        (form.steps[last].as_const() == Some(1) && checks.iter().all(|(a, _)| along(a))).then_some((form, checks))
    }

    /// Copies `length` steps of a window from the scope's point on. What is written beyond the last the next piece overwrites.
    fn copy_window(&self, form: &Linear, checks: &[Check], scope: &Scope<'c>, length: IntValue<'c>, to: PointerValue<'c>) -> Result<(), String> {
        let code = &self.w.code;
        let (lanes, last) = (16, form.steps.len() - 1);
        let (vector, align) = (code.ty(self.c.dtype.into(), lanes), self.elements() as u32);
        let from = self.form(form, &scope.point.iter().copied().enumerate().collect::<Vec<_>>());
        let (mut begin, mut end) = (self.int(0), length);
        for (index, size) in checks {
            let (at, size) = (self.w.affine(index, scope, true).into_int_value(), self.w.size(size));
            let mut along = false;
            index.visit_vars(&mut |v| along |= v == last);
            if along {
                begin = self.w.greater(begin, self.sub(self.int(0), at));
                end = self.w.lesser(end, self.sub(size, at));
            } else {
                end = code.select(self.is(IntPredicate::ULT, at, size).into(), end.into(), self.int(0).into()).into_int_value();
            }
        }
        let below = |n: IntValue<'c>| {
            let n = self.w.lesser(self.w.greater(n, self.int(0)), self.int(lanes as i64));
            self.sub(ok(code.builder.build_left_shift(self.int(1), n, "")), self.int(1))
        };
        code.range(self.int(0), length, lanes as i64, |i| {
            let word = ok(code.builder.build_and(below(self.sub(end, i)), ok(code.builder.build_not(below(self.sub(begin, i)), "")), ""));
            let word = ok(code.builder.build_int_truncate(word, code.context.i16_type(), ""));
            let mask = ok(code.builder.build_bit_cast(word, code.ty(Elem::Bool, lanes), ""));
            let from = self.add(from, self.mul(i, self.int(self.elements())));
            let from = ok(code.builder.build_int_to_ptr(from, code.pointer().into_pointer_type(), ""));
            let value =
                code.masked("llvm.masked.load", &[vector, code.pointer()], vec![from.into(), mask, vector.const_zero()], 1, align).expect("a value");
            code.store(code.element(self.c.dtype.into(), to, i), value, align);
            Ok::<(), String>(())
        })?;
        Ok(())
    }

    /// The same without reduction loops: one step.
    fn pack_point(&self, g: &Group<'c>, row: IntValue<'c>, rows: IntValue<'c>, to: PointerValue<'c>) -> Result<(), String> {
        let code = &self.w.code;
        code.range(self.int(0), rows, 1, |r| {
            let mut point = g.point.clone();
            self.set(&self.c.rows, self.add(row, r), &mut point);
            let mut values = vec![];
            self.w.block(&self.factors[0], &self.scope(&point, &[]), &mut values)?;
            code.store(code.element(self.c.dtype.into(), to, self.mul(r, self.int(A_ROW))), values[self.c.factors[0]], self.elements() as u32);
            Ok::<(), String>(())
        })?;
        Ok(())
    }
}
