//! Packing of factors: B's panel as `[k][128 bytes of columns]`, a tile of A as rows along `k`.
//!
//! A factor's expression is evaluated, whatever it is: lanes along the columns, or along `k` for A. Loads with linear addresses are copied by rows,
//! or, where `k` is the contiguous axis, turned in registers square by square ([`super::turn`]). What is written beyond the last column or step is never used.

use crate::emit::Level;
use crate::emit::body::Scope;
use crate::emit::code::{Elem, V, ok};
use crate::emit::contract::{A_AT, A_ROW, B_BYTES, BASES, BASES_AT, Engine, Group, MASKS, MASKS_AT, Panel, STEPS_AT, TILE_STEP, reductions};
use crate::emit::dense::LINE;
use crate::emit::micro::PANEL;
use crate::emit::operand;
use crate::ir::{Scalar, Size};
use crate::kernel::contract::ROWS;
use crate::kernel::linear::{Check, Linear};
use inkwell::IntPredicate;
use inkwell::types::BasicTypeEnum;
use inkwell::values::{IntValue, PointerValue};
use std::convert::Infallible;

/// Steps that are asked for before they are packed, where they lie apart.
const AHEAD: i64 = 12;

/// Steps after which a row of B is packed that is asked for now.
const LATER: i64 = 8;
/// The same for the taps of windows.
const LATER_TAPS: i64 = 18;
/// The word of what is known of a panel that says whether each part's columns lie together.
const PLAIN: usize = BASES as usize - 1;

/// B's panels as rows that are copied.
struct Rows {
    form: Linear,
    checks: Vec<Check>,
    /// The first of the reduction variables that choose a mask.
    taps: usize,
    parts: Vec<Part>,
    /// Columns that lie together, where it is not all.
    run: Option<i64>,
    /// Elements from one column to the next: masks and loads have as many lanes for each, of which the first one counts.
    apart: i64,
}

impl Rows {
    /// Whether parts whose columns lie together are copied as they are.
    fn whole(&self) -> bool {
        self.checks.is_empty() && self.apart == 1
    }
}

/// Where some of a panel's columns lie, and what is written down of them.
#[derive(PartialEq)]
enum Part {
    /// All in one place: its address at the first step.
    One,
    /// In two: both addresses, that of the second as if it had the first's columns too, and bits of the columns in the first.
    Two,
}

impl<'c> Engine<'_, '_, 'c> {
    /// Packs `steps` steps of some of the group's panels, beginning with step `block`; but for those that a `few` rows read in place.
    pub fn pack_b(
        &self,
        g: &Group<'c>,
        [first, end]: [IntValue<'c>; 2],
        few: IntValue<'c>,
        [block, steps]: [IntValue<'c>; 2],
        level: Level,
    ) -> Result<(), String> {
        let code = &self.w.code;
        let in_place = code.select(few.into(), self.wholes(g).into(), self.int(0).into()).into_int_value();
        // Where all of them are read in place no step is walked either.
        let (from, steps) = match operand::in_place(self.w.kernel, self.c) {
            None => (first, steps),
            Some(_) => {
                let from = self.w.greater(first, in_place);
                (from, code.select(self.is(IntPredicate::SLT, from, end).into(), steps.into(), self.int(0).into()).into_int_value())
            }
        };
        let place = |n: IntValue<'c>| self.packed_panel(self.sub(n, first));
        if let Some((form, runs)) = self.b_turned() {
            return code.range(from, end, 1, |n| self.turn(&self.panel(g, n), &form, &runs, [block, steps], place(n), level)).map(drop);
        }
        if let Some(rows) = self.by_rows() {
            let plain = |n: IntValue<'c>| rows.whole().then(|| self.is(IntPredicate::NE, self.load_word(self.base(n, PLAIN)), self.int(0)));
            let row = |n: IntValue<'c>, k: IntValue<'c>| code.element(Elem::I8, place(n), self.mul(k, self.int(PANEL)));
            if self.even(&rows).is_some() {
                // All panels' columns of a step lie side by side in memory; whole panels' are copied as they are where nothing is left out.
                let one_row = operand::in_place(self.w.kernel, self.c).map(|(form, _)| {
                    let columns = self.batch_point(&self.panel(g, self.int(0)), &self.c.columns);
                    (self.form(&form, &columns), self.w.lesser(end, self.w.greater(from, self.wholes(g))))
                });
                let masked = one_row.map_or(from, |(_, wholes)| wholes);
                code.range(self.int(0), steps, 1, |k| {
                    let step = self.step(&rows, block, k);
                    let [later, _] = self.step(&rows, block, self.add(k, self.int(LATER)));
                    if let Some((base, wholes)) = one_row {
                        let [row, later] = [step[0], later].map(|offset| self.add(base, offset));
                        self.copy_row([row, later, self.address(self.at(0))], [from, wholes, first], k)?;
                    }
                    code.range(masked, end, 1, |n| {
                        self.copy_step(&rows, &self.known(&rows, n), plain(n).filter(|_| one_row.is_none()), n, [step[0], step[1], later], row(n, k))
                    })
                    .map(drop)
                })?;
            } else {
                // Several lie in the same few lines of an image.
                code.range(from, end, 1, |n| {
                    let (known, plain) = (self.known(&rows, n), plain(n));
                    code.range(self.int(0), steps, 1, |k| {
                        let [offset, tap] = self.step(&rows, block, k);
                        let [later, _] = self.step(&rows, block, self.w.lesser(self.add(k, self.int(LATER_TAPS)), self.sub(steps, self.int(1))));
                        self.copy_step(&rows, &known, plain, n, [offset, tap, later], row(n, k))
                    })
                    .map(drop)
                })?;
            }
            return Ok(());
        }
        if let Some(windows) = self.b_windows() {
            return code.range(from, end, 1, |n| self.turn_windows(&self.panel(g, n), &windows, [block, steps], place(n), level)).map(drop);
        }
        let expression = &self.factors[1];
        code.range(from, end, 1, |n| {
            let panel = self.panel(g, n);
            self.walk(block, steps, &mut |k, reds| {
                let scope = self.scope(&panel.point, reds);
                let row = code.element(Elem::I8, place(n), self.mul(k, self.int(PANEL)));
                self.columns(self.c.columns.len() - 1, &panel, &scope, &mut |scope, column| {
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

    /// B's panels as rows that are copied.
    fn by_rows(&self) -> Option<Rows> {
        if self.b_turned().is_some() || self.packed().is_some() {
            return None;
        }
        let (form, checks, run, apart) = self.b_rows()?;
        let taps = self.taps(&checks)?;
        let parts = match run {
            None => vec![Part::One],
            Some(run) if run % self.width == 0 => vec![Part::One],
            Some(run) if run % (self.width / 2) == 0 => vec![Part::One, Part::One],
            Some(_) => vec![Part::Two, Part::Two],
        };
        Some(Rows { form, checks, taps, parts, run, apart })
    }

    fn word(&self, at: i64, number: IntValue<'c>) -> PointerValue<'c> {
        self.w.code.element(Elem::I64, self.at(at), number)
    }

    pub fn load_word(&self, at: PointerValue<'c>) -> IntValue<'c> {
        self.w.code.load(self.w.code.ty(Elem::I64, 1), at, 8).into_int_value()
    }

    /// Where a panel's word number `n` stands.
    fn base(&self, panel: IntValue<'c>, n: usize) -> PointerValue<'c> {
        self.word(BASES_AT, self.add(self.mul(panel, self.int(BASES)), self.int(n as i64)))
    }

    /// All that was written down of a panel, part by part.
    fn known(&self, rows: &Rows, panel: IntValue<'c>) -> Vec<IntValue<'c>> {
        let words = rows.parts.iter().map(|part| if *part == Part::One { 1 } else { 3 }).sum();
        (0..words).map(|n| self.load_word(self.base(panel, n))).collect()
    }

    /// Writes down what packing needs to know of the group's panels: where rows begin, and which columns lie inside.
    pub fn begin_b(&self, g: &Group<'c>) -> Result<(), String> {
        let code = &self.w.code;
        let Some(rows) = self.by_rows() else { return Ok(()) };
        let lanes = self.int(self.width / rows.parts.len() as i64);
        code.range(self.int(0), g.count, 1, |n| {
            let panel = self.panel(g, n);
            let mut point = panel.point.clone();
            let mut base = |column: IntValue<'c>| {
                self.set(&self.c.columns, column, &mut point);
                let at: Vec<_> = self.c.batch.iter().chain(&self.c.columns).map(|v| (*v, point[*v])).collect();
                self.form(&rows.form, &at)
            };
            let (mut first, mut words) = (panel.first, vec![]);
            for part in &rows.parts {
                words.push(base(first));
                if let (Part::Two, Some(run)) = (part, rows.run) {
                    // Where the next run begins, if it begins within these columns.
                    let (_, within) = self.divide(first, self.int(run));
                    let own = self.w.lesser(lanes, self.sub(self.int(run), within));
                    let taken = self.mul(own, self.int(rows.apart));
                    words.push(self.sub(base(self.add(first, own)), self.mul(taken, self.int(self.elements()))));
                    words.push(self.sub(ok(code.builder.build_left_shift(self.int(1), taken, "")), self.int(1)));
                }
                first = self.add(first, lanes);
            }
            words.into_iter().enumerate().for_each(|(w, word)| code.store(self.base(n, w), word.into(), 8));
            let whole = self.is(IntPredicate::EQ, panel.columns, self.int(self.width));
            let split = rows.run.filter(|_| rows.parts.contains(&Part::Two));
            let plain = split.map_or(whole, |run| self.and(whole, self.in_run(&panel, run)));
            code.store(self.base(n, PLAIN), self.number(plain).into(), 8);
            self.masks(&panel, &rows, self.mul(n, self.int(MASKS)))
        })?;
        Ok(())
    }

    /// The step of `k` where rows lie evenly, with one mask for all.
    fn even(&self, rows: &Rows) -> Option<Size> {
        let mut runs = rows.form.runs(&reductions(self.w.kernel, self.stage));
        let last = runs.pop();
        (runs.is_empty() && rows.taps == self.stage.reds.len()).then(|| last.map_or_else(Size::default, |run| run.step))
    }

    /// Bytes from the first step's row to that of step `k` of the block, and its mask's number.
    fn step(&self, rows: &Rows, block: IntValue<'c>, k: IntValue<'c>) -> [IntValue<'c>; 2] {
        match self.even(rows) {
            Some(step) => [self.mul(self.add(block, k), self.bytes(&step)), self.int(0)],
            None => [0, 1].map(|n| self.load_word(self.word(STEPS_AT, self.add(self.mul(k, self.int(2)), self.int(n))))),
        }
    }

    /// Writes down the same for all steps of a block, where it takes more than a multiplication.
    pub fn begin_block(&self, [block, steps]: [IntValue<'c>; 2]) -> Result<(), String> {
        let Some(rows) = self.by_rows().filter(|rows| self.even(rows).is_none()) else { return Ok(()) };
        let outer = self.w.kernel.outer.len();
        self.walk(block, steps, &mut |k, reds| {
            let along = reds.iter().enumerate().map(|(n, v)| self.mul(*v, self.bytes(&rows.form.steps[outer + n])));
            let offset = along.fold(self.int(0), |sum, n| self.add(sum, n));
            let sizes = self.stage.reds.iter().enumerate().skip(rows.taps);
            let tap = sizes.fold(self.int(0), |tap, (n, size)| self.add(self.mul(tap, self.w.size(size)), reds[n]));
            for (n, value) in [offset, tap].into_iter().enumerate() {
                let place = self.word(STEPS_AT, self.add(self.mul(k, self.int(2)), self.int(n as i64)));
                self.w.code.store(place, value.into(), 8);
            }
            Ok(())
        })
    }

    /// Packs a step of whole panels `from..to`, of which `first` is packed first: a row in memory, that of panel 0 at `row`, another asked for.
    fn copy_row(&self, [row, later, packed]: [IntValue<'c>; 3], [from, to, first]: [IntValue<'c>; 3], k: IntValue<'c>) -> Result<(), String> {
        let code = &self.w.code;
        let packed = self.add(packed, self.mul(k, self.int(PANEL)));
        let vector = code.ty(self.c.dtype.into(), (LINE / self.elements()) as u32);
        code.range(from, to, 1, |n| {
            let (source, place) = (self.mul(n, self.int(PANEL)), self.mul(self.sub(n, first), self.int(B_BYTES)));
            for line in (0..PANEL).step_by(LINE as usize).map(|at| self.int(at)) {
                let at = self.add(source, line);
                code.prefetch_near(self.pointer(self.add(later, at)));
                let value = code.load(vector, self.pointer(self.add(row, at)), self.elements() as u32);
                code.store(self.pointer(self.add(packed, self.add(place, line))), value, self.elements() as u32);
            }
            Ok::<(), String>(())
        })
        .map(drop)
    }

    /// Packs a step of panel number `n`, of which this is known, to `to`: whole rows where `plain` holds.
    fn copy_step(
        &self,
        rows: &Rows,
        known: &[IntValue<'c>],
        plain: Option<IntValue<'c>>,
        n: IntValue<'c>,
        [offset, tap, later]: [IntValue<'c>; 3],
        to: PointerValue<'c>,
    ) -> Result<(), String> {
        let code = &self.w.code;
        let lanes = self.width / rows.parts.len() as i64;
        let part_bytes = lanes * rows.apart * self.elements();
        let mask = self.word(MASKS_AT, self.add(self.mul(n, self.int(MASKS)), tap));
        let (mut known, mut column) = (known.iter().copied(), 0);
        let mut next = || known.next().expect("a word of every part");
        for part in &rows.parts {
            let base = next();
            let from = self.pointer(self.add(base, offset));
            let asked = (0..part_bytes / LINE).map(|line| self.pointer(self.add(base, self.add(later, self.int(line * LINE)))));
            if rows.apart > 1 || *part == Part::Two && plain.is_none() {
                asked.for_each(|line| code.prefetch(line));
            } else if plain.is_some() {
                asked.for_each(|line| code.prefetch_near(line));
            }
            let width = (lanes * rows.apart) as u32;
            let (vector, align) = (code.ty(self.c.dtype.into(), width), self.elements() as u32);
            let bits = || ok(code.builder.build_right_shift(self.load_word(mask), self.int(column * rows.apart), false, ""));
            let value = match part {
                Part::One => self.plain_or(plain, vector, from, || self.masked_load(vector, from, self.mask(bits(), width), align)),
                Part::Two => {
                    let (other, own) = (self.pointer(self.add(next(), offset)), next());
                    self.plain_or(plain, vector, from, || {
                        let bits = bits();
                        let [first, second] = [self.and(bits, own), self.and(bits, self.not(own))].map(|bits| self.mask(bits, width));
                        let value = self.masked_load(vector, from, first, align);
                        code.masked("llvm.masked.load", &[vector, code.pointer()], vec![other.into(), second, value], 1, align).expect("a value")
                    })
                }
            };
            let value =
                if rows.apart == 1 { value } else { self.w.code.shuffle(value, value, &(0..lanes).map(|l| l * rows.apart).collect::<Vec<_>>()) };
            code.store(code.element(Elem::I8, to, self.int(column * self.elements())), value, align);
            column += lanes;
        }
        Ok(())
    }

    /// Elements that lie there as they are where that is known and holds, else others.
    fn plain_or(&self, plain: Option<IntValue<'c>>, ty: BasicTypeEnum<'c>, from: PointerValue<'c>, other: impl FnOnce() -> V<'c>) -> V<'c> {
        let Some(plain) = plain else { return other() };
        let load = || Ok::<_, Infallible>(self.w.code.load(ty, from, self.elements() as u32));
        let Ok(value) = self.w.code.either(plain, load, || Ok(other()));
        value
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

    /// Which of the panel's columns have a value, for every tap: bits, 8 bytes a tap, from the place `at` on.
    fn masks(&self, panel: &Panel<'c>, rows: &Rows, at: IntValue<'c>) -> Result<(), String> {
        let (code, first) = (&self.w.code, rows.taps);
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
            self.columns(self.c.columns.len() - 1, panel, &self.scope(&panel.point, &reds), &mut |scope, column| {
                let lanes = scope.lanes();
                let all = scope.mask.unwrap_or_else(|| code.constant(Scalar::bool(true), lanes));
                let inside = rows.checks.iter().fold(all, |mask, (index, size)| {
                    let i = code.splat(self.w.affine(index, scope, false), lanes);
                    code.both(mask, code.icmp(IntPredicate::ULT, i, code.splat(self.w.size(size).into(), lanes)))
                });
                let spread: Vec<i64> =
                    (0..lanes as i64 * rows.apart).map(|l| if l % rows.apart == 0 { l / rows.apart } else { lanes as i64 }).collect();
                let inside = self.w.code.shuffle(inside, code.constant(Scalar::bool(false), lanes), &spread);
                let word = std::num::NonZeroU32::new(spread.len() as u32).expect("lanes");
                let word = ok(code.builder.build_bit_cast(inside, ok(code.context.custom_width_int_type(word)), "")).into_int_value();
                let word = ok(code.builder.build_int_z_extend(word, code.context.i64_type(), ""));
                let word = ok(code.builder.build_left_shift(word, self.mul(column, self.int(rows.apart)), ""));
                code.set(bits, self.or(code.get(i64t, bits).into_int_value(), word).into());
                Ok(())
            })?;
            let at = code.element(Elem::I64, self.at(MASKS_AT), self.add(at, tap));
            code.store(at, code.get(i64t, bits), 8);
            Ok::<(), String>(())
        })?;
        Ok(())
    }

    pub fn pointer(&self, address: IntValue<'c>) -> PointerValue<'c> {
        self.w.code.pointer_to(address)
    }

    /// A mask of lanes from bits.
    pub fn mask(&self, bits: IntValue<'c>, lanes: u32) -> V<'c> {
        let code = &self.w.code;
        let word = ok(code.context.custom_width_int_type(std::num::NonZeroU32::new(lanes).expect("lanes")));
        ok(code.builder.build_bit_cast(ok(code.builder.build_int_truncate(bits, word, "")), code.ty(Elem::Bool, lanes), ""))
    }

    /// Lanes that the mask does not have are zero.
    pub fn masked_load(&self, vector: BasicTypeEnum<'c>, from: PointerValue<'c>, mask: V<'c>, align: u32) -> V<'c> {
        let code = &self.w.code;
        let args = vec![from.into(), mask, vector.const_zero()];
        code.masked("llvm.masked.load", &[vector, code.pointer()], args, 1, align).expect("a value")
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
        // Steps often lie in a page each, where no processor looks ahead by itself.
        let ahead = form.steps.last().map_or(self.int(0), |step| self.mul(self.int(AHEAD), self.bytes(step)));
        // Tiles of one row more come first: two runs of tiles of one height.
        let higher = self.w.lesser(self.w.greater(g.extra, tiles[0]), tiles[1]);
        let runs = [(tiles[0], higher, self.add(g.each, self.int(1))), (higher, tiles[1], g.each)].map(|(from, to, rows)| {
            let mask = code.icmp(IntPredicate::SLT, code.lane_numbers(lanes), code.splat(rows.into(), lanes));
            let source = self.mul(self.start(g, from), self.int(self.elements()));
            let place = self.mul(self.sub(from, tiles[0]), self.int(A_ROW * ROWS * self.elements()));
            (from, to, mask, self.mul(rows, self.int(self.elements())), source, place)
        });
        let packed = self.address(self.at(A_AT));
        let [source, place] = [(); 2].map(|()| code.variable(code.ty(Elem::I64, 1)));
        self.walk(self.add(block, from), self.sub(to, from), &mut |k, reds| {
            let mut point = batch.clone();
            point.extend(reds.iter().enumerate().map(|(n, v)| (outer + n, *v)));
            let base = self.form(form, &point);
            let row = self.add(packed, self.mul(self.add(from, k), self.int(TILE_STEP * self.elements())));
            for (from, to, mask, bytes, first, at) in runs {
                code.set(source, self.add(base, first).into());
                code.set(place, self.add(row, at).into());
                code.range(from, to, 1, |_| {
                    let [from, at] = [source, place].map(|of| code.get(code.ty(Elem::I64, 1), of).into_int_value());
                    let value = self.masked_load(vector, self.pointer(from), mask, align);
                    code.prefetch_near(self.pointer(self.add(from, ahead)));
                    code.store(self.pointer(at), value, align);
                    code.set(source, self.add(from, bytes).into());
                    code.set(place, self.add(at, self.int(A_ROW * ROWS * self.elements())).into());
                    Ok::<(), String>(())
                })?;
            }
            Ok(())
        })
    }

    /// Packs tiles of A, at least these steps of a block: rows, one after the other.
    pub fn pack_a(&self, g: &Group<'c>, block: IntValue<'c>, [from, steps]: [IntValue<'c>; 2], tiles: [IntValue<'c>; 2]) -> Result<(), String> {
        if let Some(form) = self.a_columns() {
            return self.pack_columns(g, form, block, [from, steps], tiles);
        }
        if let Some((form, checks)) = self.a_points() {
            return self.gather_points(g, &form, &checks, [block, from, steps], tiles);
        }
        let code = &self.w.code;
        let (to, expression, bytes) = (self.at(A_AT), &self.factors[0], self.elements());
        let row = self.start(g, tiles[0]);
        let rows = self.sub(self.start(g, tiles[1]), row);
        let Some(last) = self.stage.reds.len().checked_sub(1) else { return self.pack_point(g, row, rows, to) };
        let var = self.w.kernel.outer.len() + last;
        if let Some(window) = self.a_window() {
            return match self.short_runs(&window.0).filter(|_| window.1.is_empty()) {
                Some(runs) => self.copy_runs(g, &window.0, runs, [block, steps], [row, rows]),
                None => self.copy_windows(g, &window, [block, steps], tiles),
            };
        }
        code.range(self.int(0), rows, 1, |r| {
            let mut point = g.point.clone();
            self.set(&self.c.rows, self.add(row, r), &mut point);
            let to = code.element(self.c.dtype.into(), to, self.mul(r, self.int(A_ROW)));
            self.pieces(last, block, steps, &mut |at, reds, length| {
                let scope = self.scope(&point, reds);
                let to = code.element(self.c.dtype.into(), to, at);
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

    /// The step from one run of `k` to the next and how many steps a run has, where these are no more than a vector's lanes.
    pub fn short_runs(&self, form: &Linear) -> Option<(Size, i64)> {
        match form.runs(&reductions(self.w.kernel, self.stage)).as_slice() {
            [outer, inner] => Some((outer.step.clone(), inner.extent.as_const().filter(|n| (1..=16).contains(n))?)),
            _ => None,
        }
    }

    /// Packs rows of A run by run: one vector each. What is written beyond a run the next one overwrites.
    fn copy_runs(
        &self,
        g: &Group<'c>,
        form: &Linear,
        (outer, run): (Size, i64),
        [block, steps]: [IntValue<'c>; 2],
        [row, rows]: [IntValue<'c>; 2],
    ) -> Result<(), String> {
        let code = &self.w.code;
        let (lanes, element, i64t) = (16, self.elements(), code.ty(Elem::I64, 1));
        let (vector, align) = (code.ty(self.c.dtype.into(), lanes), element as u32);
        let (apart, run) = (self.bytes(&outer), self.int(run));
        let below = |n: IntValue<'c>| code.icmp(IntPredicate::SLT, code.lane_numbers(lanes), code.splat(n.into(), lanes));
        let (number, within) = self.divide(block, run);
        let start = self.mul(number, apart);
        let skipped = self.mul(within, self.int(element));
        let first = self.sub(run, within);
        code.range(self.int(0), rows, 1, |r| {
            let mut point = g.point.clone();
            self.set(&self.c.rows, self.add(row, r), &mut point);
            let batch: Vec<_> = self.c.batch.iter().chain(&self.c.rows).map(|v| (*v, point[*v])).collect();
            let from = self.add(self.form(form, &batch), start);
            let to = code.element(self.c.dtype.into(), self.at(A_AT), self.mul(r, self.int(A_ROW)));
            let value = self.masked_load(vector, self.pointer(self.add(from, skipped)), below(first), align);
            code.store(to, value, align);
            let source = code.variable(i64t);
            code.set(source, self.add(from, apart).into());
            let left = self.sub(steps, first);
            let whole = run.get_sign_extended_constant().unwrap_or(1);
            code.range(self.int(0), left, whole, |at| {
                let from = code.get(i64t, source).into_int_value();
                let value = self.masked_load(vector, self.pointer(from), below(run), align);
                code.store(code.element(self.c.dtype.into(), to, self.add(first, at)), value, align);
                code.set(source, self.add(from, apart).into());
                Ok::<(), String>(())
            })?;
            Ok::<(), String>(())
        })?;
        Ok(())
    }

    /// Packs rows of A where there are no reduction loops: one step.
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
