//! Where a contraction's factors are read: in place, packed in advance, or from scratch.

use crate::emit::contract::{A_AT, A_ROW, Engine, Group, LOW, Panel, TILE_STEP, named, reductions};
use crate::emit::dense::LINE;
use crate::emit::micro::{Field, PANEL};
use crate::ir::Size;
use crate::kernel::Kernel;
use crate::kernel::contract::{Contraction, ROWS, by_rows, packed};
use crate::kernel::linear::{Check, Linear, Run, linear, window};
use inkwell::IntPredicate;
use inkwell::values::IntValue;

/// Steps of a run that is worth to be read in place.
const LONG_RUN: i64 = 16;
/// Panels up to which A is read in place even where its steps lie apart.
const FEW_PANELS: i64 = 1;
/// Most tiles that read B in place where its rows are whole lines of a page: packing costs more than it saves. As many as [`LOW`] do where rows are not,
/// as long as a leaf of a panel stays in the caches.
const FEW_TILES: i64 = 20;
/// The same where rows are an odd number of pages apart: half of the leaf stays.
const LEAST_TILES: i64 = 3;
/// Bytes of a page. Rows a multiple of it apart meet in few sets of the caches.
const PAGE: i64 = 4096;

/// A where it can be read in place: rows one step apart, `k` in at most two runs, which are not short.
pub fn direct(kernel: &Kernel, c: &Contraction) -> Option<(Linear, Vec<Run>, Vec<Run>)> {
    let stage = &kernel.stages[c.stage];
    let form = linear(kernel, &stage.body[c.factors[0]], kernel.outer.len() + stage.reds.len())?;
    let rows = form.runs(&named(kernel, &c.rows));
    let steps = form.runs(&reductions(kernel, stage));
    let short = |run: &Run| run.extent.as_const().is_some_and(|n| n < LONG_RUN);
    let long = steps.len() < 2 || steps.len() == 2 && !short(&steps[1]);
    (rows.len() <= 1 && long).then_some((form, rows, steps))
}

/// B as a linear form, with what must hold for its loads not to be zero.
pub fn b_form(kernel: &Kernel, c: &Contraction) -> Option<(Linear, Vec<Check>)> {
    let stage = &kernel.stages[c.stage];
    let ranges: Vec<Size> = kernel.outer.iter().chain(&stage.reds).cloned().collect();
    window(kernel, &stage.body[c.factors[1]], &ranges)
}

fn b_rows(kernel: &Kernel, c: &Contraction) -> Option<(Linear, Vec<Check>, Option<i64>, i64)> {
    let (form, checks) = b_form(kernel, c)?;
    let apart = by_rows(kernel, &form, &c.columns)?;
    let runs = form.runs(&named(kernel, &c.columns));
    let run = if runs.len() == 1 { None } else { runs.last().and_then(|run| run.extent.as_const()) };
    Some((form, checks, run, apart))
}

/// B where whole panels of it can be read in place, and its step.
pub fn in_place(kernel: &Kernel, c: &Contraction) -> Option<(Linear, Size)> {
    let (form, ..) = b_rows(kernel, c).filter(|(_, checks, run, apart)| run.is_none() && checks.is_empty() && *apart == 1)?;
    let mut steps = form.runs(&reductions(kernel, &kernel.stages[c.stage]));
    let step = steps.pop().map_or_else(Size::default, |r| r.step);
    steps.is_empty().then_some((form, step))
}

/// Where the panel lies that comes next, and how many steps of it are needed.
pub struct Ahead<'c> {
    /// Whether it must be asked for.
    pub asked: IntValue<'c>,
    pub place: IntValue<'c>,
    pub steps: IntValue<'c>,
    /// Bytes from one of its steps to the next.
    pub step: IntValue<'c>,
    /// Bytes from it to the panel after it.
    pub panel: IntValue<'c>,
}

/// How A is read.
pub struct Walk<'c> {
    packs: IntValue<'c>,
    base: IntValue<'c>,
    /// Bytes between rows.
    pub row: IntValue<'c>,
    /// What was packed first.
    first: IntValue<'c>,
    tile: IntValue<'c>,
}

impl<'c> Engine<'_, '_, 'c> {
    /// Whether A is read in place from where its steps are contiguous.
    pub fn streams(&self) -> bool {
        self.direct.as_ref().is_some_and(|(_, _, steps)| steps.last().is_none_or(|run| run.step.as_const() == Some(1)))
    }

    /// The form of A where its rows are contiguous, its steps are not.
    pub fn a_columns(&self) -> Option<&Linear> {
        let (form, rows, _) = self.direct.as_ref().filter(|_| !self.streams())?;
        matches!(rows.as_slice(), [only] if only.step.as_const() == Some(1)).then_some(form)
    }

    /// Whether A is packed tile after tile, each `[k][rows]`; else row after row.
    fn a_by_steps(&self) -> bool {
        self.a_columns().is_some() || self.a_points().is_some()
    }

    /// Describes A for these tiles and steps, packed where it must be or where it pays, unless it was before (`begins` is false): the address that
    /// row 0 has or would have, and the bytes between rows.
    pub fn describe_a(
        &self,
        g: &Group<'c>,
        begins: IntValue<'c>,
        [block, steps]: [IntValue<'c>; 2],
        tiles: [IntValue<'c>; 2],
    ) -> Result<Walk<'c>, String> {
        let code = &self.w.code;
        let endless = self.int(i64::MAX);
        let base = self.address(self.at(A_AT));
        let element = self.int(self.elements());
        let rows = tiles.map(|tile| self.start(g, tile));
        let packed = match self.a_by_steps() {
            true => [base, element, self.int(TILE_STEP * self.elements()), endless, endless, self.int(0)],
            false => [base, self.int(A_ROW * self.elements()), element, endless, endless, self.int(0)],
        };
        let (packs, chosen) = match self.a_in_place(g, block) {
            None => (code.context.bool_type().const_all_ones(), packed),
            Some(direct) if self.streams() => (code.context.bool_type().const_zero(), direct),
            Some(direct) => {
                // Scattered over as many lines as there are steps: a few times is enough.
                let packs = self.is(IntPredicate::SGT, g.count, self.int(FEW_PANELS));
                let pick = |n: usize| code.select(packs.into(), packed[n].into(), direct[n].into()).into_int_value();
                (packs, [0, 1, 2, 3, 4, 5].map(pick))
            }
        };
        for (field, value) in [Field::ARow, Field::AStep, Field::Left, Field::Run, Field::Jump].into_iter().zip(&chosen[1..]) {
            self.field(field, *value);
        }
        if !self.streams() {
            let missing = self.and(packs, begins);
            let taken = self.taken(rows, block, steps);
            code.only_if(missing, || self.pack_a(g, block, taken, tiles))?;
        }
        Ok(Walk { packs, base: chosen[0], row: chosen[1], first: rows[0], tile: tiles[0] })
    }

    /// Where a tile's A begins.
    pub fn a_of(&self, walk: &Walk<'c>, tile: IntValue<'c>, row: IntValue<'c>) -> IntValue<'c> {
        let code = &self.w.code;
        let direct = self.add(walk.base, self.mul(row, walk.row));
        if self.streams() {
            return direct;
        }
        let packed = match self.a_by_steps() {
            true => self.mul(self.sub(tile, walk.tile), self.int(A_ROW * ROWS * self.elements())),
            false => self.mul(self.sub(row, walk.first), walk.row),
        };
        code.select(walk.packs.into(), self.add(walk.base, packed).into(), direct.into()).into_int_value()
    }

    /// A in place from step `block` on: the address of row 0, and the values of the fields from [`Field::ARow`] on.
    fn a_in_place(&self, g: &Group<'c>, block: IntValue<'c>) -> Option<[IntValue<'c>; 6]> {
        let (form, rows, runs) = self.direct.as_ref()?;
        let batch: Vec<_> = self.c.batch.iter().map(|v| (*v, g.point[*v])).collect();
        let base = self.form(form, &batch);
        let row = rows.first().map_or(self.int(0), |r| self.bytes(&r.step));
        let endless = self.int(i64::MAX);
        let step = |run: Option<&Run>| run.map_or(self.int(0), |r| self.bytes(&r.step));
        let inner = step(runs.last());
        let [outer, run] = match runs.as_slice() {
            [outer, inner] => [self.bytes(&outer.step), self.w.greater(self.w.size(&inner.extent), self.int(1))],
            _ => return Some([self.add(base, self.mul(block, inner)), row, inner, endless, endless, self.int(0)]),
        };
        let (number, within) = self.divide(block, run);
        let start = self.add(self.mul(number, outer), self.mul(within, inner));
        Some([self.add(base, start), row, inner, self.sub(run, within), run, self.sub(outer, self.mul(run, inner))])
    }

    /// Describes B for a panel from step `block` on, which is number `place` of those that are packed now.
    pub fn describe_b(&self, g: &Group<'c>, panel: &Panel<'c>, place: IntValue<'c>, few: IntValue<'c>, block: IntValue<'c>) {
        let code = &self.w.code;
        let (mut b, mut step) = (self.address(self.packed_panel(place)), self.int(PANEL));
        if let Some(packed) = self.packed_at(g, panel.first, block) {
            b = packed;
        } else if let Some((direct, base, apart)) = self.in_place(panel, few) {
            let pick = |a: IntValue<'c>, b: IntValue<'c>| code.select(direct.into(), a.into(), b.into()).into_int_value();
            (b, step) = (pick(self.add(base, self.mul(block, apart)), b), pick(apart, step));
        }
        self.field(Field::B, b);
        self.field(Field::BStep, step);
    }

    /// Where steps from `block` on lie of the panel that begins with a column, where panels were packed in advance.
    fn packed_at(&self, g: &Group<'c>, column: IntValue<'c>, block: IntValue<'c>) -> Option<IntValue<'c>> {
        let at = self.mul(self.mul(column, g.k), self.int(self.elements()));
        Some(self.add(self.add(self.address(self.w.params[self.packed()?]), at), self.mul(block, self.int(PANEL))))
    }

    /// What is multiplied after panel `next - 1` of the group: the next panel, behind the last one the first with the steps that follow, in the end the
    /// first panel of the next group. No processor that looks ahead by itself sees it coming where panels were packed in advance, or each is packed just
    /// before its tiles, as where tiles are few (`low`).
    pub fn after_b(&self, g: &Group<'c>, next: IntValue<'c>, [block, steps]: [IntValue<'c>; 2], low: IntValue<'c>) -> Option<Ahead<'c>> {
        let code = &self.w.code;
        let pick = |a: IntValue<'c>, b: IntValue<'c>, c: IntValue<'c>| code.select(a.into(), b.into(), c.into()).into_int_value();
        let more = self.is(IntPredicate::SLT, next, g.count);
        let follow = self.add(block, steps);
        let goes_on = self.is(IntPredicate::SLT, follow, g.k);
        let number = pick(more, next, pick(goes_on, self.int(0), g.count));
        let block = pick(more, block, pick(goes_on, follow, self.int(0)));
        let panel = self.panel(g, number);
        if let Some(place) = self.packed_at(g, panel.first, block) {
            let always = code.context.bool_type().const_all_ones();
            return Some(Ahead { asked: always, place, steps, step: self.int(PANEL), panel: self.mul(g.k, self.int(PANEL)) });
        }
        let (form, step) = in_place(self.w.kernel, self.c)?;
        let step = self.bytes(&step);
        let place = self.add(self.form(&form, &self.batch_point(&panel, &self.c.columns)), self.mul(block, step));
        Some(Ahead { asked: low, place, steps, step, panel: self.int(PANEL) })
    }

    /// B where its panels were packed in advance.
    pub fn packed(&self) -> Option<usize> {
        packed(self.w.kernel, self.c)
    }

    /// B as a linear form, with what must hold for its loads not to be zero.
    pub fn b_form(&self) -> Option<(Linear, Vec<Check>)> {
        b_form(self.w.kernel, self.c)
    }

    /// B where many of its columns follow each other one or two elements apart: how many, where it is not all, and how far.
    pub fn b_rows(&self) -> Option<(Linear, Vec<Check>, Option<i64>, i64)> {
        b_rows(self.w.kernel, self.c)
    }

    /// Whether so few tiles use B's panels that these are read in place, where that is possible at all.
    pub fn few(&self, g: &Group<'c>) -> IntValue<'c> {
        let single = self.is(IntPredicate::SLE, self.sub(self.start(g, g.to), self.start(g, g.from)), self.int(ROWS));
        let Some((_, step)) = in_place(self.w.kernel, self.c) else { return single };
        let (step, tiles) = (self.bytes(&step), self.sub(g.to, g.from));
        let most = |n: i64| self.is(IntPredicate::SLE, tiles, self.int(n));
        let rest = |by: i64| self.and(step, self.int(by - 1));
        let spread = |by: i64| self.is(IntPredicate::NE, rest(by), self.int(0));
        let whole_lines = self.and(self.not(spread(LINE)), self.is(IntPredicate::SLT, step, self.int(PAGE)));
        let few = self.or(most(LOW), self.and(whole_lines, most(FEW_TILES)));
        self.or(single, self.or(self.and(spread(2 * PAGE), most(LEAST_TILES)), self.and(spread(PAGE), few)))
    }

    /// Whether B is read in place, where that is possible at all: a whole panel, used by few rows. Then its address and the bytes between steps.
    pub fn in_place(&self, panel: &Panel<'c>, few: IntValue<'c>) -> Option<(IntValue<'c>, IntValue<'c>, IntValue<'c>)> {
        let (form, step) = in_place(self.w.kernel, self.c)?;
        let whole = self.is(IntPredicate::EQ, panel.columns, self.int(self.width));
        let base = self.form(&form, &self.batch_point(panel, &self.c.columns));
        Some((self.and(whole, few), base, self.bytes(&step)))
    }
}
