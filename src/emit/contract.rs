//! Contractions: panels of B packed once, tiles multiplied by shared micro-kernels, the rest of the kernel row by row while results are near.
//!
//! What a task is, and which factor is A, says [`crate::kernel::contract`]. Consecutive tasks are taken together:
//!
//! ```text
//! for each (batch, tiles, up to 16 panels):
//!   for each 40 of the tiles:
//!     for each block of 512 k, or 256 where there are at most 10 tiles:
//!       for all panels together, or for each where there are at most 10 tiles:
//!         pack B: [k][128 bytes of columns]                 (unless still there, packed in advance, or read in place)
//!         for each few tiles:                               (their block of A stays in the second cache)
//!           pack A                                          (unless still there, or read in place)
//!           for each panel or pair of panels, for each tile:
//!             C += A * B, leaf by leaf                      (the micro-kernel; a pair takes the tile in halves)
//!             after the last block: the kernel's stages, row by row, lanes along the columns; the product is read from C
//!                                                           (unless the product is all, and C the result itself)
//! ```
//!
//! Where factors are read says [`super::operand`], how they are packed [`super::pack`], [`super::turn`] and [`super::windows`], where sums lie [`super::home`].

use crate::emit::Level;
use crate::emit::body::{Scope, Writer};
use crate::emit::code::{Elem, ok};
use crate::emit::dense::LINE;
use crate::emit::home::Home;
use crate::emit::micro::{self, Field, PAIR_ROWS, PANEL};
use crate::emit::modes::Mode;
use crate::emit::operand::{Ahead, Walk, direct, in_place};
use crate::emit::{lines, single, taps, winograd};
use crate::ir::{Scalar, Size};
use crate::kernel::contract::{Contraction, ROWS, Windows, panel, recognise};
use crate::kernel::linear::{Linear, Run};
use crate::kernel::lower::product;
use crate::kernel::{Index, Instr, Kernel, Stage};
use inkwell::IntPredicate;
use inkwell::values::{IntValue, PointerValue};

/// Most steps of k that are packed at once: leaves that fit the second cache with what is multiplied.
const BLOCK: i64 = 2 * micro::LEAF;
/// Tiles whose sums are kept between blocks.
pub const CHUNK: i64 = 40;
/// Panels that are packed together, so that A comes from memory once for all of them.
pub const PANELS: i64 = 16;
/// Tiles whose block of A stays in the second cache while it meets all panels, where A is read in place.
const NEAR: i64 = 3;
/// The same where it is packed.
const NEAR_PACKED: i64 = 20;
/// Tiles that meet a leaf of a panel after the other, so that B comes to the first cache once.
pub const LOW: i64 = 10;
/// Steps that packing may write beyond the last.
const SLACK: i64 = 16;
/// Most axes of an image that a window may leave.
pub const CHECKS: i64 = 3;
/// Elements between packed rows of A: not a power of two, so that rows do not meet in one set of the first cache.
pub const A_ROW: i64 = BLOCK + 32;
/// Elements from one step to the next of A packed as [k][rows].
pub const TILE_STEP: i64 = ROWS;
/// Most bytes of a row of A that is short.
const SHORT: i64 = 512;

/// Bytes of a packed panel; then come what packing knows of panels, sums, packed rows of A.
pub const B_BYTES: i64 = (BLOCK + SLACK) * PANEL;
pub const MASKS_AT: i64 = PANELS * B_BYTES;
pub const MASKS: i64 = 64;
pub const BASES_AT: i64 = MASKS_AT + PANELS * MASKS * 8;
/// Words that packing knows of a panel's part.
pub const BASES: i64 = 8;
/// Of every step of a block: where it is read, and its mask.
pub const STEPS_AT: i64 = BASES_AT + PANELS * BASES * 8;
pub const C_AT: i64 = STEPS_AT + BLOCK * 2 * 8;
/// What packing knows of a tile's rows: several words of each of 16.
pub const POINTS_AT: i64 = C_AT + (PANELS * CHUNK * ROWS + 1) * PANEL;
pub const POINTS: i64 = 16 * 8;
pub const A_AT: i64 = POINTS_AT + NEAR_PACKED * (1 + CHECKS) * POINTS;

/// Bytes of scratch that the kernel needs.
pub fn scratch(kernel: &Kernel) -> i64 {
    recognise(kernel).map_or(0, |c| match c.windows {
        Some(Windows::Results) => winograd::scratch(&c),
        Some(Windows::Taps) => taps::scratch(&c),
        Some(Windows::Lines) => lines::scratch(kernel, &c),
        None => A_AT + NEAR_PACKED * ROWS * A_ROW * c.dtype.bytes() as i64,
    })
}

pub fn named(kernel: &Kernel, vars: &[usize]) -> Vec<(usize, Size)> {
    vars.iter().map(|v| (*v, kernel.outer[*v].clone())).collect()
}

pub fn reductions(kernel: &Kernel, stage: &Stage) -> Vec<(usize, Size)> {
    stage.reds.iter().enumerate().map(|(n, size)| (kernel.outer.len() + n, size.clone())).collect()
}

/// The body with everything that the value does not need replaced by nothing.
pub fn pruned(body: &[Instr], value: usize) -> Vec<Instr> {
    let mut needed = vec![false; body.len()];
    needed[value] = true;
    for n in (0..body.len()).rev() {
        if needed[n] {
            operands(&body[n], &mut |m| {
                if m < n {
                    needed[m] = true;
                }
            });
        }
    }
    let unused = Instr::Const(Scalar::i64(0));
    body.iter().zip(needed).map(|(i, needed)| if needed { i.clone() } else { unused.clone() }).collect()
}

fn operands(instr: &Instr, see: &mut dyn FnMut(usize)) {
    match instr {
        Instr::Const(_) | Instr::Local(_) | Instr::Index(_) | Instr::Holds(_) => {}
        Instr::Load { index, .. } => index.iter().for_each(|i| {
            if let Index::Value(v) = i {
                see(*v);
            }
        }),
        Instr::Op(_, args) => args.iter().for_each(|a| see(*a)),
        Instr::Cast(_, a) => see(*a),
        Instr::Select { condition, then, otherwise } => {
            see(*condition);
            for side in [then, otherwise] {
                see(side.1);
                side.0.iter().for_each(|i| operands(i, see));
            }
        }
    }
}

/// The contraction being written, and what stays the same in it.
pub struct Engine<'a, 'k, 'c> {
    pub w: &'a Writer<'k, 'c>,
    pub c: &'a Contraction,
    pub stage: &'k Stage,
    /// The expressions of A and B.
    pub factors: [Vec<Instr>; 2],
    pub direct: Option<(Linear, Vec<Run>, Vec<Run>)>,
    pub home: Option<Home>,
    pub scratch: PointerValue<'c>,
    /// The description handed to the micro-kernel.
    pub tile: PointerValue<'c>,
    pub width: i64,
}

/// Tiles `from..to` of `count` panels from number `panel` on, of one batch.
pub struct Group<'c> {
    /// Values of the batch's variables.
    pub point: Vec<IntValue<'c>>,
    pub panel: IntValue<'c>,
    pub count: IntValue<'c>,
    pub from: IntValue<'c>,
    pub to: IntValue<'c>,
    /// Rows of a tile, and how many tiles have one more.
    pub each: IntValue<'c>,
    pub extra: IntValue<'c>,
    /// Columns and steps in all.
    pub columns: IntValue<'c>,
    pub k: IntValue<'c>,
}

/// How a group's panels are multiplied.
struct Way<'c> {
    /// Where they lie, not packed, if they can be: [`Engine::few`].
    few: IntValue<'c>,
    /// Two that are packed at a time, where that is possible at all: each element of A is loaded half as often then.
    pairs: Option<IntValue<'c>>,
    /// All side by side, where that is possible at all.
    streams: Option<IntValue<'c>>,
    /// By a single row, columns along `k` as they lie, where that is possible at all.
    single: Option<IntValue<'c>>,
}

/// Where the packed panel stands.
pub struct Panel<'c> {
    /// Values of the outer variables; columns at the panel's first, rows at 0.
    pub point: Vec<IntValue<'c>>,
    /// The panel's first column, and how many there are.
    pub first: IntValue<'c>,
    pub columns: IntValue<'c>,
}

/// Writes the kernel's body for tasks `lo..hi`.
pub fn write<'c>(w: &Writer<'_, 'c>, c: &Contraction, level: Level, [lo, hi]: [IntValue<'c>; 2], scratch: PointerValue<'c>) -> Result<(), String> {
    let stage = &w.kernel.stages[c.stage];
    let factors = c.factors.map(|f| pruned(&stage.body, f));
    let tile = w.code.variable(w.code.context.i64_type().array_type(micro::FIELDS).into());
    let direct = direct(w.kernel, c);
    for (field, value) in [(Field::Ahead, 0), (Field::AheadStep, PANEL)] {
        w.code.store(micro::word(&w.code, tile, field), w.code.int(value).into(), 8);
    }
    let engine = Engine { w, c, stage, factors, direct, home: Home::of(w.kernel, c), scratch, tile, width: panel(c.dtype) };
    engine.tasks(level, lo, hi)
}

impl<'c> Engine<'_, '_, 'c> {
    pub fn extent(&self, vars: &[usize]) -> IntValue<'c> {
        self.w.size(&self.c.extent(vars, &self.w.kernel.outer))
    }

    pub fn elements(&self) -> i64 {
        self.c.dtype.bytes() as i64
    }

    /// Sets the variables to the point number `n` of their box.
    pub fn set(&self, vars: &[usize], mut n: IntValue<'c>, point: &mut [IntValue<'c>]) {
        for (place, v) in vars.iter().enumerate().rev() {
            if self.w.kernel.outer[*v].as_const() == Some(1) {
                point[*v] = self.int(0);
            } else if vars[..place].iter().all(|v| self.w.kernel.outer[*v].as_const() == Some(1)) {
                point[*v] = n;
                n = self.int(0);
            } else {
                (n, point[*v]) = self.divide(n, self.w.size(&self.w.kernel.outer[*v]));
            }
        }
    }

    pub fn at(&self, bytes: i64) -> PointerValue<'c> {
        self.w.code.element(Elem::I8, self.scratch, self.int(bytes))
    }

    pub fn field(&self, field: Field, value: IntValue<'c>) {
        let code = &self.w.code;
        code.store(micro::word(code, self.tile, field), value.into(), 8);
    }

    pub fn address(&self, p: PointerValue<'c>) -> IntValue<'c> {
        ok(self.w.code.builder.build_ptr_to_int(p, self.w.code.context.i64_type(), ""))
    }

    /// Groups of tasks that share panels of B or rows of A: parts of one panel or tile, or several whole ones.
    fn tasks(&self, level: Level, lo: IntValue<'c>, hi: IntValue<'c>) -> Result<(), String> {
        let code = &self.w.code;
        let i64t = code.ty(Elem::I64, 1);
        let (rows, columns) = (self.extent(&self.c.rows), self.w.size(&self.c.width(&self.w.kernel.outer)));
        let one = self.int(1);
        let up = |n: IntValue<'c>, by: i64| self.divide(self.add(n, self.int(by - 1)), self.int(by)).0;
        // At least one, because nothing may be divided by nothing even where there are no tasks.
        let some = |n: IntValue<'c>| self.w.greater(n, one);
        let (tiles, panels) = (some(self.w.size(&self.c.tiles(&self.w.kernel.outer))), some(up(columns, self.width)));
        let (each, extra) = self.divide(rows, tiles);
        // What counts fastest, and what comes in several wholes of it.
        let tall = if self.c.stays { code.context.bool_type().const_all_ones() } else { self.is(IntPredicate::SGT, rows, columns) };
        let pick = |a: IntValue<'c>, b: IntValue<'c>| code.select(tall.into(), a.into(), b.into()).into_int_value();
        let (inner, outer) = (pick(panels, tiles), pick(tiles, panels));
        let next = code.variable(i64t);
        code.set(next, lo.into());
        let (head, inside, end) = (code.block(), code.block(), code.block());
        code.go(head);
        let task = code.get(i64t, next).into_int_value();
        code.branch(self.is(IntPredicate::SLT, task, hi), inside, end);
        code.builder.position_at_end(inside);
        let (number, from) = self.divide(task, inner);
        let left = self.sub(hi, task);
        let to = self.w.lesser(inner, self.add(from, left));
        let (batch, number) = self.divide(number, outer);
        let most = self.sub(outer, number);
        let side_by_side = self.side_by_side();
        let most = pick(most, self.w.lesser(side_by_side, most));
        let several = some(self.w.lesser(most, self.divide(left, inner).0));
        let begins = self.is(IntPredicate::EQ, from, self.int(0));
        let count = code.select(begins.into(), several.into(), one.into()).into_int_value();
        code.set(next, self.add(task, self.mul(count, self.sub(to, from))).into());
        let mut point = vec![self.int(0); self.w.kernel.outer.len()];
        self.set(&self.c.batch, batch, &mut point);
        let k = self.w.size(&product(&self.stage.reds));
        let ends = self.add(number, count);
        let [first_tile, end_tile] = [pick(number, from), pick(ends, to)];
        let [first_panel, end_panel] = [pick(from, number), pick(to, ends)];
        // Columns that a single tile reads along `k` are read from one end to the other, a panel at a time.
        let single = self.is(IntPredicate::EQ, self.sub(end_tile, first_tile), one);
        let together =
            if self.b_turned().is_some() { code.select(single.into(), one.into(), side_by_side.into()).into_int_value() } else { side_by_side };
        code.range_by(first_panel, end_panel, together, |panel| {
            let count = self.w.lesser(together, self.sub(end_panel, panel));
            let group = Group { point: point.clone(), panel, count, from: first_tile, to: end_tile, each, extra, columns, k };
            match self.c.windows {
                Some(Windows::Results) => winograd::group(self, &group, level),
                Some(Windows::Taps) => taps::group(self, &group, level),
                Some(Windows::Lines) => lines::group(self, &group, level),
                None => self.group(&group, level),
            }
        })?;
        code.jump(head);
        code.builder.position_at_end(end);
        Ok(())
    }

    pub fn panel(&self, g: &Group<'c>, number: IntValue<'c>) -> Panel<'c> {
        let first = self.mul(self.add(g.panel, number), self.int(self.width));
        let mut point = g.point.clone();
        self.set(&self.c.columns, first, &mut point);
        Panel { point, first, columns: self.w.lesser(self.int(self.width), self.sub(g.columns, first)) }
    }

    fn group(&self, g: &Group<'c>, level: Level) -> Result<(), String> {
        let code = &self.w.code;
        let i64t = code.ty(Elem::I64, 1);
        let packed = code.variable(i64t);
        code.set(packed, self.int(-1).into());
        let way = self.way(g, level);
        let few = way.few;
        // Few tiles meet each panel while a leaf of it is in the first cache; more would wait too long for their sums.
        let low = self.is(IntPredicate::SLE, self.sub(g.to, g.from), self.int(LOW));
        let pick = |low_value: i64, other: i64| code.select(low.into(), self.int(low_value).into(), self.int(other).into()).into_int_value();
        let (size, close) = (pick(micro::LEAF, BLOCK), pick(LOW, if self.streams() { NEAR } else { NEAR_PACKED }));
        // Sums of a single block are used at once, those of several wait for the others.
        let waits = self.is(IntPredicate::SGT, g.k, size);
        // Sums wait in scratch, unless the result holds them all.
        let elsewhere = self.elsewhere(g);
        let kept = code.select(elsewhere.into(), self.int(CHUNK).into(), self.sub(g.to, g.from).into()).into_int_value();
        let kept = if self.home.is_some() { kept } else { self.int(CHUNK) };
        let waits = way.streams.map_or(waits, |streams| self.or(waits, streams));
        // Rows of scratch from the sums of one panel to those of the next.
        let apart = self.int(CHUNK * ROWS);
        let apart = way.streams.map_or(apart, |streams| code.select(streams.into(), self.int(ROWS).into(), apart.into()).into_int_value());
        self.begin_b(g)?;
        // Panels that are packed together: all of them, or those that are multiplied together just before their tiles.
        let alone = way.pairs.map_or(self.int(1), |pairs| self.add(self.int(1), self.number(pairs)));
        let together = code.select(low.into(), alone.into(), g.count.into()).into_int_value();
        code.range_by(g.from, g.to, kept, |chunk| {
            let chunk_end = self.w.lesser(g.to, self.add(chunk, kept));
            // Once even where there is nothing to sum: sums are zero then.
            code.range_by(self.int(0), self.w.greater(g.k, self.int(1)), size, |block| {
                let steps = self.w.lesser(size, self.sub(g.k, block));
                let last = self.is(IntPredicate::EQ, self.add(block, steps), g.k);
                self.field(Field::Count, steps);
                let is_first = self.is(IntPredicate::EQ, block, self.int(0));
                self.field(Field::First, ok(code.builder.build_int_z_extend(is_first, code.context.i64_type(), "")));
                let missing = self.is(IntPredicate::NE, code.get(i64t, packed).into_int_value(), block);
                code.set(packed, block.into());
                // Nothing is packed where panels are read side by side, or a single row meets columns as they lie.
                let in_place = way.streams.or(way.single);
                let packs = |so| in_place.map_or(so, |in_place| self.and(so, self.not(in_place)));
                code.only_if(packs(missing), || self.begin_block([block, steps]))?;
                if let Some(streams) = way.streams {
                    code.only_if(streams, || self.stream(g, [block, steps], level))?;
                }
                code.range_by(self.int(0), g.count, together, |first| {
                    let end = self.w.lesser(g.count, self.add(first, together));
                    let pack = packs(self.or(missing, low));
                    code.only_if(pack, || if self.packed().is_some() { Ok(()) } else { self.pack_b(g, [first, end], few, [block, steps], level) })?;
                    code.range_by(chunk, chunk_end, close, |near| {
                        let near = [near, self.w.lesser(chunk_end, self.add(near, close))];
                        // Where panels come one by one all tiles come together: A is there since the first panel.
                        let begins = self.is(IntPredicate::EQ, first, self.int(0));
                        let begins = way.streams.map_or(begins, |streams| self.and(begins, self.not(streams)));
                        let walk = self.describe_a(g, begins, [block, steps], near)?;
                        code.range_on(first, end, |number| {
                            let beside = way.pairs.map(|pairs| self.beside(g, pairs, number, end));
                            let panel = self.panel(g, number);
                            self.describe_b(g, &panel, self.sub(number, first), few, block);
                            if let Some(single) = way.single {
                                code.only_if(single, || {
                                    self.describe_columns(&panel, block);
                                    Ok::<(), String>(())
                                })?;
                            }
                            let sums = self.sub(self.mul(number, apart), self.start(g, chunk));
                            let next = self.add(number, beside.map_or(self.int(1), |beside| self.add(self.int(1), self.number(beside))));
                            let ahead = self.after_b(g, next, [block, steps], low);
                            self.tiles(g, (number, beside, ahead, &way), near, &walk, (waits, sums, block, last), level)?;
                            Ok::<_, String>(next)
                        })?;
                        Ok::<(), String>(())
                    })?;
                    Ok::<(), String>(())
                })?;
                Ok::<(), String>(())
            })?;
            Ok::<(), String>(())
        })?;
        Ok(())
    }

    /// See [`Way`].
    fn way(&self, g: &Group<'c>, level: Level) -> Way<'c> {
        let (few, streams, single) = (self.few(g), self.streamed(g), self.single());
        let pairs = (level == Level::V4 && self.c.reach.is_none() && self.c.needs.is_none()).then(|| {
            // Tiles are taken in halves then, which must not be lower than the registers demand.
            let highest = self.add(g.each, self.number(self.is(IntPredicate::SGT, g.extra, self.int(0))));
            let halves = self.is(IntPredicate::SGE, g.each, self.int(2 * (PAIR_ROWS - 1)));
            let fits = self.or(halves, self.is(IntPredicate::SLE, highest, self.int(PAIR_ROWS)));
            // Panels that are read in place are not packed panels beside each other.
            let in_place = self.packed().is_none() && in_place(self.w.kernel, self.c).is_some();
            let fits = if in_place { self.and(fits, self.not(few)) } else { fits };
            single.map_or(fits, |single| self.and(fits, self.not(single)))
        });
        Way { few, pairs, streams, single }
    }

    /// 1 where it is so, else 0.
    pub fn number(&self, so: IntValue<'c>) -> IntValue<'c> {
        ok(self.w.code.builder.build_int_z_extend(so, self.w.code.context.i64_type(), ""))
    }

    /// Multiplies tiles with panel `number`, and with the next one where that is `beside`, and runs the kernel's other stages where this was the `last`
    /// block. Sums of row `r` wait in row `sums + r` of scratch, where they must wait. `ahead` is what is multiplied next, where it must be asked for.
    fn tiles(
        &self,
        g: &Group<'c>,
        (number, beside, ahead, way): (IntValue<'c>, Option<IntValue<'c>>, Option<Ahead<'c>>, &Way<'c>),
        [from, to]: [IntValue<'c>; 2],
        walk: &Walk<'c>,
        (waits, sums, block, last): (IntValue<'c>, IntValue<'c>, IntValue<'c>, IntValue<'c>),
        level: Level,
    ) -> Result<(), String> {
        let code = &self.w.code;
        let panel = self.panel(g, number);
        let home = self.home_of(&panel);
        let row_step = home.map_or(self.int(PANEL), |(whole, _, row)| code.select(whole.into(), row.into(), self.int(PANEL).into()).into_int_value());
        self.field(Field::CRow, row_step);
        // From the sums of one panel to those of the next.
        let apart = code.select(waits.into(), self.int(CHUNK * ROWS * PANEL).into(), self.int(ROWS * PANEL).into()).into_int_value();
        if beside.is_some() {
            let packed = if self.packed().is_some() { self.mul(g.k, self.int(PANEL)) } else { self.int(B_BYTES) };
            self.field(Field::NextB, packed);
            let next = home.map_or(apart, |(whole, ..)| code.select(whole.into(), self.home_apart(g, number).into(), apart.into()).into_int_value());
            self.field(Field::NextC, next);
        }
        let each = |f: &dyn Fn(IntValue<'c>, &Panel<'c>) -> Result<(), String>| match beside {
            None => f(self.int(0), &panel),
            Some(beside) => {
                let count = self.add(self.int(1), self.number(beside));
                code.range(self.int(0), count, 1, |n| f(n, &self.panel(g, self.add(number, n)))).map(drop)
            }
        };
        code.range(from, to, 1, |tile| {
            let row = self.start(g, tile);
            let rows = self.sub(self.start(g, self.add(tile, self.int(1))), row);
            let a = self.a_of(walk, tile, row);
            self.field(Field::A, a);
            let place = code.select(waits.into(), self.add(sums, row).into(), self.int(0).into()).into_int_value();
            let sums = code.element(Elem::I8, self.at(C_AT), self.mul(place, self.int(PANEL)));
            let (mut c, mut after, mut ends) = (self.address(sums), last, last);
            if let Some((whole, base, step)) = home {
                c = code.select(whole.into(), self.add(base, self.mul(row, step)).into(), c.into()).into_int_value();
                after = self.and(last, self.not(whole));
            }
            self.field(Field::C, c);
            let needed = self.needed(&panel, row, rows);
            if let Some(needed) = needed.filter(|_| self.silent()) {
                after = self.and(after, needed);
                ends = self.and(ends, needed);
            }
            code.only_if(ends, || each(&|_, panel| self.ask_ahead(panel, row, rows)))?;
            self.ask_for_rows(walk, number, [tile, row, rows])?;
            self.describe_reach(row, block);
            let turn = self.sub(tile, from);
            self.ask_for_part(&ahead, turn, self.is(IntPredicate::SGT, self.sub(to, from), self.int(1)));
            let multiply = micro::declare(code.context, &code.module, self.c.dtype, level, self.c.reach.as_ref().map(|r| r.side));
            let call = |function, rows: IntValue<'c>| -> Result<(), String> {
                ok(code.builder.build_call(function, &[self.tile.into(), rows.into()], ""));
                Ok(())
            };
            // Whether a panel is multiplied here, where not always.
            let alone = way.streams.map(|streams| self.not(streams));
            let half = (level == Level::V4 && micro::halves(self.w.kernel, self.c)).then(|| {
                let half = self.is(IntPredicate::SLE, panel.columns, self.int(self.width / 2));
                (half, micro::declare_half(code.context, &code.module, self.c.dtype))
            });
            let by_width = || match half {
                None => call(multiply, rows),
                Some((half, function)) => {
                    code.only_if(half, || call(function, rows))?;
                    code.only_if(self.not(half), || call(multiply, rows))
                }
            };
            let by_width = || match way.single {
                None => by_width(),
                Some(so) => {
                    let function = single::declare(code.context, &code.module, self.c.dtype, level);
                    code.only_if(so, || call(function, panel.columns))?;
                    code.only_if(self.not(so), by_width)
                }
            };
            let single = || match needed.or(alone) {
                None => by_width(),
                Some(needed) => code.only_if(needed, by_width),
            };
            match beside {
                None => single()?,
                Some(beside) => {
                    let (two, one, done) = (code.block(), code.block(), code.block());
                    code.branch(beside, two, one);
                    code.builder.position_at_end(one);
                    single()?;
                    code.jump(done);
                    code.builder.position_at_end(two);
                    // One half, or two of nearly equal height.
                    let whole = self.is(IntPredicate::SLE, rows, self.int(PAIR_ROWS));
                    let low = self.divide(self.add(rows, self.int(1)), self.int(2)).0;
                    let half = self.w.greater(code.select(whole.into(), rows.into(), low.into()).into_int_value(), self.int(1));
                    // What few rows meet is read as fast as it comes, asked for or not.
                    let share = self.or(self.not(whole), self.is(IntPredicate::SGT, self.sub(to, from), self.int(1)));
                    let pair = micro::declare_pair(code.context, &code.module, self.c.dtype);
                    code.range_by(self.int(0), rows, half, |r| {
                        self.field(Field::A, self.add(a, self.mul(r, walk.row)));
                        self.field(Field::C, self.add(c, self.mul(r, row_step)));
                        let second = self.number(self.is(IntPredicate::SGT, r, self.int(0)));
                        self.ask_for_part(&ahead, self.add(self.mul(turn, self.int(2)), second), share);
                        call(pair, self.w.lesser(half, self.sub(rows, r)))
                    })?;
                    code.go(done);
                }
            }
            code.only_if(after, || each(&|n, panel| self.rows(panel, row, rows, code.element(Elem::I8, sums, self.mul(n, apart)))))
        })?;
        Ok(())
    }

    /// Asks for the next tile's rows of A before the first panel meets this one, where they are read in place and so short that no processor sees them coming.
    fn ask_for_rows(&self, walk: &Walk<'c>, number: IntValue<'c>, [tile, row, rows]: [IntValue<'c>; 3]) -> Result<(), String> {
        let code = &self.w.code;
        let bytes = product(&self.stage.reds).as_const().map(|n| n * self.elements());
        let Some(bytes) = bytes.filter(|bytes| self.streams() && (1..=SHORT).contains(bytes)) else { return Ok(()) };
        code.only_if(self.is(IntPredicate::EQ, number, self.int(0)), || {
            let next = self.a_of(walk, self.add(tile, self.int(1)), self.add(row, rows));
            code.range(self.int(0), rows, 1, |r| {
                let at = self.add(next, self.mul(r, walk.row));
                (0..bytes).step_by(LINE as usize).for_each(|line| code.prefetch_near(self.pointer(self.add(at, self.int(line)))));
                Ok::<(), String>(())
            })
            .map(drop)
        })
    }

    /// Has the micro-kernel ask for its part of what comes next, where that is known and many enough `share` it: calls count from 0.
    fn ask_for_part(&self, ahead: &Option<Ahead<'c>>, call: IntValue<'c>, share: IntValue<'c>) {
        let Some(ahead) = ahead else { return };
        let (panel, part) = self.divide(call, self.int(micro::AHEAD));
        let rows = self.divide(ahead.steps, self.int(micro::AHEAD)).0;
        // A call asks for as many rows as it has rounds.
        let offset = self.add(self.mul(panel, ahead.panel), self.mul(self.mul(part, rows), ahead.step));
        // Two panels are multiplied together at most.
        let asks = self.and(self.and(share, ahead.asked), self.is(IntPredicate::SLT, panel, self.int(2)));
        let pick = |a: IntValue<'c>, b: i64| self.w.code.select(asks.into(), a.into(), self.int(b).into()).into_int_value();
        self.field(Field::Ahead, pick(self.add(ahead.place, offset), 0));
        self.field(Field::AheadStep, pick(ahead.step, PANEL));
    }

    /// The first row of a tile.
    pub fn start(&self, g: &Group<'c>, tile: IntValue<'c>) -> IntValue<'c> {
        self.add(self.mul(tile, g.each), self.w.lesser(tile, g.extra))
    }

    pub fn packed_panel(&self, number: IntValue<'c>) -> PointerValue<'c> {
        self.w.code.element(Elem::I8, self.scratch, self.mul(number, self.int(B_BYTES)))
    }

    /// The address of a linear form's element at given variables: those not in `point` are 0.
    pub fn form(&self, form: &Linear, point: &[(usize, IntValue<'c>)]) -> IntValue<'c> {
        let sum = point
            .iter()
            .filter(|(v, _)| form.steps[*v].as_const() != Some(0))
            .fold(self.w.size(&form.constant), |sum, (v, value)| self.add(sum, self.mul(*value, self.w.size(&form.steps[*v]))));
        self.add(self.address(self.w.params[form.param]), self.mul(sum, self.int(self.elements())))
    }

    pub fn batch_point(&self, panel: &Panel<'c>, also: &[usize]) -> Vec<(usize, IntValue<'c>)> {
        self.c.batch.iter().chain(also).map(|v| (*v, panel.point[*v])).collect()
    }

    pub fn bytes(&self, size: &Size) -> IntValue<'c> {
        self.mul(self.w.size(size), self.int(self.elements()))
    }

    /// All stages at the rows of a tile; the product's sums are at `sums`.
    pub fn rows(&self, panel: &Panel<'c>, row: IntValue<'c>, rows: IntValue<'c>, sums: PointerValue<'c>) -> Result<(), String> {
        let (w, code) = (self.w, &self.w.code);
        code.range(self.int(0), rows, 1, |r| {
            let mut point = panel.point.clone();
            self.set(&self.c.rows, self.add(row, r), &mut point);
            let ranges = w.kernel.outer.clone();
            let scope = Scope { point, ranges, lane: None, mask: None, within: None, locals: vec![] };
            let sums = code.element(Elem::I8, sums, self.mul(r, self.int(PANEL)));
            self.columns(self.c.near, panel, &scope, &mut |scope, column| {
                let scope = Scope { locals: w.locals(scope.lanes()), ..scope.clone() };
                for (n, stage) in w.kernel.stages.iter().enumerate() {
                    if n != self.c.stage {
                        w.stage(stage, Mode::Scalar, &scope)?;
                        continue;
                    }
                    let vector = code.ty(self.c.dtype.into(), scope.lanes());
                    let sum = code.load(vector, code.element(self.c.dtype.into(), sums, column), self.elements() as u32);
                    w.results(stage, &[sum], &scope, &[])?;
                }
                Ok(())
            })
        })?;
        Ok(())
    }
}
