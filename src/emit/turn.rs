//! Packing of B where `k` is contiguous in memory: square blocks of columns and steps are turned in registers.

use crate::emit::Level;
use crate::emit::code::{Elem, V};
use crate::emit::contract::{Engine, Panel, named, reductions};
use crate::emit::micro::PANEL;
use crate::emit::operand::b_form;
use crate::kernel::Kernel;
use crate::kernel::contract::Contraction;
use crate::kernel::linear::{Linear, Run};
use inkwell::IntPredicate;
use inkwell::values::{IntValue, PointerValue};

/// Most steps of a column that is short.
const SHORT: i64 = 128;

/// B where `k` is contiguous and columns are one step apart: as a linear form, and the runs of `k`.
pub fn turned(kernel: &Kernel, c: &Contraction) -> Option<(Linear, Vec<Run>)> {
    let (form, _) = b_form(kernel, c).filter(|(_, checks)| checks.is_empty())?;
    let columns = form.runs(&named(kernel, &c.columns));
    let runs = form.runs(&reductions(kernel, &kernel.stages[c.stage]));
    let unit = runs.last().is_some_and(|r| r.step.as_const() == Some(1));
    (columns.len() == 1 && columns[0].step.as_const() != Some(1) && unit && runs.len() <= 2).then_some((form, runs))
}

impl<'c> Engine<'_, '_, 'c> {
    /// See [`turned`].
    pub fn b_turned(&self) -> Option<(Linear, Vec<Run>)> {
        turned(self.w.kernel, self.c)
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
            let turned = code.transpose(rows.collect());
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
