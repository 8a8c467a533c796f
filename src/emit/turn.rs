//! Packing of B where `k` is contiguous in memory: square blocks of columns and steps are turned in registers.

use crate::emit::Level;
use crate::emit::code::{Elem, V};
use crate::emit::contract::{BASES_AT, Engine, MASKS_AT, Panel, named, reductions};
use crate::emit::micro::PANEL;
use crate::ir::{Affine, IndexAtom, Size};
use crate::kernel::contract::by_steps;
use crate::kernel::linear::{Check, Linear, Run};
use inkwell::IntPredicate;
use inkwell::values::{InstructionOpcode as Op, IntValue, PointerValue};

/// Most steps of a column that is short.
const SHORT: i64 = 128;

impl<'c> Engine<'_, '_, 'c> {
    /// B where `k` is contiguous and columns are one step apart.
    pub fn b_turned(&self) -> Option<(Linear, Vec<Run>)> {
        let (form, _) = self.b_form().filter(|(_, checks)| checks.is_empty())?;
        let columns = form.runs(&named(self.w.kernel, &self.c.columns));
        let runs = form.runs(&reductions(self.w.kernel, self.stage));
        let unit = runs.last().is_some_and(|r| r.step.as_const() == Some(1));
        (columns.len() == 1 && columns[0].step.as_const() != Some(1) && unit && runs.len() <= 2).then_some((form, runs))
    }

    /// Packs a panel whose columns are contiguous along `k`: square blocks are turned in registers.
    pub fn turn(
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
        let short = runs.last().is_some_and(|run| run.extent.as_const().is_some_and(|n| n <= SHORT));
        self.turn_run(panel, start, (apart, short), length, to, level)?;
        code.set(done, self.add(at, length).into());
        code.jump(head);
        code.builder.position_at_end(end);
        Ok(())
    }

    /// Turns `length` contiguous steps of all columns, which are `apart`; where they are short, more follow soon than a processor looks ahead for.
    fn turn_run(
        &self,
        panel: &Panel<'c>,
        start: IntValue<'c>,
        (apart, short): (IntValue<'c>, bool),
        length: IntValue<'c>,
        to: PointerValue<'c>,
        level: Level,
    ) -> Result<(), String> {
        let code = &self.w.code;
        let bytes = self.elements();
        let lanes = self.lanes(level);
        let (vector, align) = (code.ty(self.c.dtype.into(), lanes as u32), bytes as u32);
        let last = self.sub(panel.columns, self.int(1));
        let square = |k: IntValue<'c>, column: IntValue<'c>, mask: Option<V<'c>>| {
            let here = self.add(start, self.mul(k, self.int(bytes)));
            // Columns beyond the last repeat it: what they give is never stored.
            let rows = (0..lanes).map(|l| {
                let column = self.w.lesser(self.add(column, self.int(l)), last);
                let from = self.add(here, self.mul(column, apart));
                if short {
                    code.prefetch_near(self.pointer(self.add(from, self.mul(apart, self.int(self.width)))));
                }
                let from = self.pointer(from);
                match mask {
                    None => code.load(vector, from, align),
                    Some(mask) => self.masked_load(vector, from, mask, align),
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
    pub fn transpose(&self, mut rows: Vec<V<'c>>) -> Vec<V<'c>> {
        let lanes = rows.len();
        let mut bit = lanes / 2;
        while bit > 0 {
            for i in (0..lanes).filter(|i| i & bit == 0) {
                let (a, b) = (rows[i], rows[i | bit]);
                let pick = |of: &dyn Fn(usize) -> usize| self.shuffle(a, b, &(0..lanes).map(|l| of(l) as i64).collect::<Vec<_>>());
                rows[i] = pick(&|l| if l & bit == 0 { l } else { lanes + (l ^ bit) });
                rows[i | bit] = pick(&|l| if l & bit == 0 { l ^ bit } else { lanes + l });
            }
            bit /= 2;
        }
        rows
    }

    /// B where some steps of `k` are contiguous, however columns lie.
    pub fn b_windows(&self) -> Option<(Linear, Vec<Check>, i64)> {
        let (form, checks) = self.b_form()?;
        let apart = by_steps(self.w.kernel, self.stage, &form).filter(|apart| self.along(&form, &checks, *apart))?;
        Some((form, checks, apart))
    }

    /// Whether the last reduction variable's steps are so many elements apart in memory, and in every check that knows it.
    pub fn along(&self, form: &Linear, checks: &[Check], apart: i64) -> bool {
        let last = self.w.kernel.outer.len() + self.stage.reds.len() - 1;
        let once = |a: &Affine| a.terms.iter().all(|(atom, c)| *atom != IndexAtom::Var(last) || c.as_const() == Some(apart));
        !self.stage.reds.is_empty() && form.steps[last].as_const() == Some(apart) && checks.iter().all(|(a, _)| once(a))
    }

    /// Packs a panel of windows: square blocks are turned in registers, each row masked to the part of its column's window that lies inside.
    pub fn turn_windows(
        &self,
        panel: &Panel<'c>,
        (form, checks, apart): &(Linear, Vec<Check>, i64),
        [block, steps]: [IntValue<'c>; 2],
        to: PointerValue<'c>,
        level: Level,
    ) -> Result<(), String> {
        let code = &self.w.code;
        let apart = *apart;
        let (outer, bytes) = (self.w.kernel.outer.len(), self.elements());
        let lanes = self.lanes(level);
        let (vector, words, align) = (code.ty(self.c.dtype.into(), (lanes * apart) as u32), code.ty(Elem::I64, lanes as u32), bytes as u32);
        // Of every column: its address, and where it begins in each check, at the first step.
        let table = |n: usize, column: IntValue<'c>| code.element(Elem::I64, self.at(MASKS_AT), self.add(self.int(n as i64 * self.width), column));
        let last = self.sub(panel.columns, self.int(1));
        let nowhere = vec![self.int(0); self.stage.reds.len()];
        code.range(self.int(0), self.int(self.width), 1, |column| {
            let mut point = panel.point.clone();
            // Columns beyond the last repeat it: what they give is never stored.
            self.set(&self.c.columns, self.add(panel.first, self.w.lesser(column, last)), &mut point);
            let scope = self.scope(&point, &nowhere);
            let base = self.form(form, &point.iter().copied().enumerate().collect::<Vec<_>>());
            code.store(table(0, column), base.into(), 8);
            for (n, (index, _)) in checks.iter().enumerate() {
                code.store(table(n + 1, column), self.w.affine(index, &scope, true), 8);
            }
            Ok::<(), String>(())
        })?;
        let begin = vec![self.int(0); outer];
        let joined = if checks.is_empty() { self.joined(form) } else { self.stage.reds.len() - 1 };
        self.pieces(joined, block, steps, &mut |at, reds, length| {
            let scope = self.scope(&begin, reds);
            let offset = reds.iter().enumerate().fold(self.int(0), |sum, (n, v)| self.add(sum, self.mul(*v, self.bytes(&form.steps[outer + n]))));
            let moved: Vec<IntValue<'c>> = checks
                .iter()
                .map(|(index, _)| {
                    let of_steps = Affine {
                        terms: index.terms.iter().filter(|(atom, _)| of_reduction(atom, outer)).cloned().collect(),
                        constant: Size::default(),
                    };
                    self.w.affine(&of_steps, &scope, true).into_int_value()
                })
                .collect();
            code.range(self.int(0), self.int(self.width), lanes, |column| {
                let splat = |n: IntValue<'c>| code.splat(n.into(), lanes as u32);
                let pick = |p, a: V<'c>, b: V<'c>| code.select(code.icmp(p, a, b), a, b);
                let (mut from, mut end) = (splat(self.int(0)), splat(length));
                for (n, (index, size)) in checks.iter().enumerate() {
                    let start = code.load(words, table(n + 1, column), 8);
                    let here = code.binary(Op::Add, start, splat(moved[n]));
                    let size = splat(self.w.size(size));
                    let mut along = false;
                    index.visit_vars(&mut |v| along |= v == outer + self.stage.reds.len() - 1);
                    if along {
                        // Rounded up: the first step that is inside, the first that no longer is.
                        let up = |n: V<'c>| {
                            if apart == 1 { n } else { code.binary(Op::AShr, code.binary(Op::Add, n, splat(self.int(1))), splat(self.int(1))) }
                        };
                        from = pick(IntPredicate::SGT, up(code.binary(Op::Sub, splat(self.int(0)), here)), from);
                        end = pick(IntPredicate::SLT, up(code.binary(Op::Sub, size, here)), end);
                    } else {
                        end = code.select(code.icmp(IntPredicate::ULT, here, size), end, splat(self.int(0)));
                    }
                }
                code.range(self.int(0), length, lanes, |x| {
                    // Bits of the steps before a number, from `x` on.
                    let below = |n: V<'c>| {
                        let n = code.binary(Op::Sub, n, splat(x));
                        let n = pick(IntPredicate::SGT, n, splat(self.int(0)));
                        let n = pick(IntPredicate::SLT, n, splat(self.int(lanes)));
                        let power = code.binary(Op::Shl, splat(self.int(1)), n);
                        code.binary(Op::Sub, power, splat(self.int(1)))
                    };
                    let (before, within) = (below(from), below(end));
                    let bits = code.binary(Op::And, within, code.binary(Op::Xor, before, splat(self.int(-1))));
                    let masks = code.element(Elem::I64, self.at(BASES_AT), self.int(0));
                    // Two lanes for each step, of which the first one counts.
                    let spread = |bits: V<'c>| {
                        [(8, 0x00ff_00ff), (4, 0x0f0f_0f0f), (2, 0x3333_3333), (1, 0x5555_5555)].into_iter().fold(bits, |bits, (by, mask)| {
                            let both = code.binary(Op::Or, bits, code.binary(Op::Shl, bits, splat(self.int(by))));
                            code.binary(Op::And, both, splat(self.int(mask)))
                        })
                    };
                    code.store(masks, if apart == 1 { bits } else { spread(bits) }, 8);
                    let step = self.add(offset, self.mul(x, self.int(bytes * apart)));
                    let rows = (0..lanes).map(|l| {
                        let column = self.add(column, self.int(l));
                        let base = code.load(code.ty(Elem::I64, 1), table(0, column), 8).into_int_value();
                        let bits = code.load(code.ty(Elem::I64, 1), code.element(Elem::I64, masks, self.int(l)), 8).into_int_value();
                        let row = self.masked_load(vector, self.pointer(self.add(base, step)), self.mask(bits, (lanes * apart) as u32), align);
                        if apart == 1 { row } else { self.shuffle(row, row, &(0..lanes).map(|l| l * apart).collect::<Vec<_>>()) }
                    });
                    let turned = self.transpose(rows.collect());
                    let corner = self.add(self.mul(self.add(at, x), self.int(PANEL)), self.mul(column, self.int(bytes)));
                    for (n, row) in turned.into_iter().enumerate() {
                        code.store(code.element(Elem::I8, to, self.add(corner, self.int(n as i64 * PANEL))), row, align);
                    }
                    Ok::<(), String>(())
                })?;
                Ok::<(), String>(())
            })?;
            Ok(())
        })
    }

    /// The first of the last reduction variables that run along memory as one.
    pub fn joined(&self, form: &Linear) -> usize {
        let last = self.stage.reds.len() - 1;
        let reds = reductions(self.w.kernel, self.stage);
        let one = |cut: &usize| matches!(form.runs(&reds[*cut..]).as_slice(), [] | [_]);
        (0..last).find(one).unwrap_or(last)
    }

    pub fn lanes(&self, level: Level) -> i64 {
        match level {
            Level::V3 => 32 / self.elements(),
            Level::V4 => 64 / self.elements(),
        }
    }
}

fn of_reduction(atom: &IndexAtom, outer: usize) -> bool {
    matches!(atom, IndexAtom::Var(v) if *v >= outer)
}
