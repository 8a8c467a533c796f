//! Convolutions in squares of 2x2 results: what a contraction's group of tasks does there ([`crate::kernel::winograd`]).
//!
//! ```text
//! what is known of the panels: where their squares lie, and which lanes are inside
//! for each few tiles of rows, as many as have 1024 steps of packed weights:
//!   for each block of 256 steps (channels):
//!     transform the weights: 16 times [tile][step][12 rows]    (unless they are, in advance; then they are read in place)
//!     for each panel, or two where weights come from memory:
//!       transform the image: 16 times [step][128 bytes of squares]
//!       for each of the 16 sums, each 4 tiles, each panel, each tile: M += U * V     (the micro-kernel; the next weights are asked for)
//!       after the last block: row by row the results of M, lines of points in lanes, then the kernel's stages on these
//! ```
//!
//! Where channels are few a line's 4 sums of some rows stay in registers, and become results there:
//!
//! ```text
//! for each panel: transform the image; for each 8 rows:
//!   for each 4 of them (one at the narrow level), each vector of squares, each line of the window:
//!     4 sums of each row, over the channels; their two results join those of the lines before
//!   the kernel's stages on these rows
//! ```
//!
//! Nothing transformed goes to memory.

use crate::emit::Level;
use crate::emit::body::Scope;
use crate::emit::code::{Elem, V, ok};
use crate::emit::contract::{Engine, Group, named};
use crate::emit::micro::{self, Field, LEAF, PANEL};
use crate::emit::modes::Mode;
use crate::emit::squares::{KNOWN, PANELS, POINT, RESULTS, Squares, VECTORS, cut};
use crate::ir::{Scalar, ScalarOp};
use crate::kernel::contract::{Contraction, ROWS};
use crate::kernel::linear::Linear;
use crate::kernel::winograd::{squares, transformed};
use crate::math::winograd;
use inkwell::IntPredicate;
use inkwell::types::BasicTypeEnum;
use inkwell::values::IntValue;

/// Packed steps of all tiles that are multiplied together.
const STEPS: i64 = 4 * LEAF;
/// Tiles that are multiplied together where their weights are transformed in advance: sums, images and weights fit the second cache.
const NEAR: i64 = 11;
/// Panels that are then, so that weights come from memory once for all of them.
const TOGETHER: i64 = 2;
/// Tiles that meet a panel while a leaf of it is in the first cache, and then the next one, while theirs are in the second.
const CLOSE: i64 = 4;
/// Rows of sums: of all panels where there are several blocks, else of few panels and more tiles.
const SUMS: i64 = PANELS * STEPS / LEAF * ROWS;
/// Bytes from a sum to that of the next of 16, in V, and from row to row in M: not a power of two, so that they do not meet in one set of a cache.
const V_NEXT: i64 = (LEAF + 1) * PANEL;
const M_ROW: i64 = 17 * PANEL;
/// From a panel's transformed image to the next one's.
const V_PANEL: i64 = 16 * V_NEXT;

/// Bytes of a row's lines of points: two of each of a panel's vectors.
const LINES: i64 = VECTORS * PANEL;
/// Rows whose lines are kept until the kernel's stages run on them: few, so that what is stored goes to memory while the next rows are computed.
const KEPT: i64 = 8;

/// Channels that are few: with more, what the micro-kernel saves in loads is more than what sums cost that come and go.
const FEW: i64 = 10;
/// Channels up to which their loop is written out.
const UNROLLED: i64 = 4;
/// Rows whose sums are in registers together, at a wide level and at a narrow one.
const WIDE_ROWS: i64 = 4;
const NARROW_ROWS: i64 = 1;

const V_AT: i64 = KNOWN;
const LINES_AT: i64 = V_AT + TOGETHER * V_PANEL;
const M_AT: i64 = LINES_AT + KEPT * LINES;
const U_AT: i64 = M_AT + SUMS * M_ROW;

/// Bytes of scratch that the kernel needs.
pub fn scratch(c: &Contraction) -> i64 {
    U_AT + 16 * u_next(c) + PANEL
}

/// Bytes from a sum's packed weights to the next one's.
fn u_next(c: &Contraction) -> i64 {
    STEPS * ROWS * c.dtype.bytes() as i64 + PANEL
}

/// The convolution being written.
struct Convolution<'e, 'a, 'k, 'c> {
    squares: Squares<'e, 'a, 'k, 'c>,
    weights: Linear,
    /// Channels.
    steps: IntValue<'c>,
    transformed: bool,
}

impl<'e, 'a, 'k, 'c> std::ops::Deref for Convolution<'e, 'a, 'k, 'c> {
    type Target = Squares<'e, 'a, 'k, 'c>;

    fn deref(&self) -> &Self::Target {
        &self.squares
    }
}

/// A group of the contraction's tasks.
pub fn group<'c>(e: &Engine<'_, '_, 'c>, g: &Group<'c>, level: Level) -> Result<(), String> {
    let last = e.w.kernel.outer.len() - 2;
    let (squares, weights) = cut(e, &e.w.kernel.outer[last..])?;
    let channels = &e.stage.reds[0];
    let few = channels.as_const().filter(|n| *n <= FEW);
    let convolution = Convolution { squares, weights, steps: e.w.size(channels), transformed: transformed(e.stage) };
    convolution.survey_columns(g)?;
    match few {
        Some(channels) => convolution.few(g, level, channels),
        None => convolution.group(g, level),
    }
}

impl<'c> Convolution<'_, '_, '_, 'c> {
    fn group(&self, g: &Group<'c>, level: Level) -> Result<(), String> {
        let (e, code) = (self.e, self.code());
        let (leaf, steps, one) = (self.int(LEAF), self.steps, self.int(1));
        let several = e.is(IntPredicate::SGT, steps, leaf);
        let pick = |a: IntValue<'c>, b: IntValue<'c>| code.select(several.into(), a.into(), b.into()).into_int_value();
        let multiply = micro::declare(code.context, &code.module, e.c.dtype, level, None);
        // Weights that are transformed already take no room; sums do, of all panels where there are several blocks.
        let packed = e.divide(self.int(STEPS), e.w.greater(e.w.lesser(steps, leaf), one)).0;
        let tiles = if self.transformed { pick(packed, e.w.greater(packed, self.int(NEAR))) } else { packed };
        let tiles = e.w.lesser(tiles, self.int(SUMS / ROWS / TOGETHER));
        let together = if self.transformed { TOGETHER } else { 1 };
        code.range_by(g.from, g.to, tiles, |first| {
            let last = e.w.lesser(g.to, e.add(first, tiles));
            let (row, end) = (e.start(g, first), e.start(g, last));
            // Once even where there is no channel: sums are zero then.
            code.range(self.int(0), e.w.greater(steps, one), LEAF, |block| {
                let steps = e.w.lesser(leaf, e.sub(steps, block));
                if !self.transformed {
                    self.weights(g, [first, last], &|tile| e.start(g, tile), [block, steps])?;
                }
                let begins = e.is(IntPredicate::EQ, block, self.int(0));
                let ends = e.is(IntPredicate::EQ, e.add(block, steps), self.steps);
                for (field, value) in [Field::Left, Field::Run].into_iter().zip([self.int(i64::MAX); 2]) {
                    e.field(field, value);
                }
                e.field(Field::Jump, self.int(0));
                e.field(Field::BStep, self.int(PANEL));
                e.field(Field::CRow, self.int(M_ROW));
                e.field(Field::Count, steps);
                e.field(Field::First, ok(code.builder.build_int_z_extend(begins, code.context.i64_type(), "")));
                let [row_step, step] = self.weight_steps();
                e.field(Field::ARow, row_step);
                e.field(Field::AStep, step);
                code.range(self.int(0), g.count, together, |panel| {
                    let panels = [panel, e.w.lesser(g.count, e.add(panel, self.int(together)))];
                    // Where a panel's image is, and where its sums of the first row are.
                    let image = |own: IntValue<'c>| e.mul(e.sub(own, panel), self.int(V_PANEL));
                    let sums = |own: IntValue<'c>| e.mul(pick(own, e.sub(own, panel)), e.mul(tiles, self.int(ROWS * M_ROW)));
                    code.range(panels[0], panels[1], 1, |own| {
                        let step = e.bytes(&self.step(e.w.kernel.outer.len()));
                        self.image(own, [e.mul(block, step), step, steps], (self.at(V_AT, image(own)), PANEL, V_NEXT))
                    })?;
                    code.range(self.int(0), self.int(16), 1, |sum| {
                        let base = self.weights_of(g, sum, block, row);
                        code.range(first, last, CLOSE, |close| {
                            let tiles = [close, e.w.lesser(last, e.add(close, self.int(CLOSE)))];
                            let [here, after] = tiles.map(|tile| e.add(base, e.mul(e.sub(e.start(g, tile), row), row_step)));
                            // The weights of the next tiles, or the next sum's first: they lie far apart.
                            let more = e.is(IntPredicate::SLT, tiles[1], last);
                            let next = code.select(more.into(), after.into(), self.weights_of(g, e.add(sum, self.int(1)), block, row).into());
                            code.range(panels[0], panels[1], 1, |own| {
                                let at = e.add(image(own), e.mul(sum, self.int(V_NEXT)));
                                e.field(Field::B, e.address(self.at(V_AT, at)));
                                code.range(tiles[0], tiles[1], 1, |tile| {
                                    let first_row = e.start(g, tile);
                                    let rows = e.sub(e.start(g, e.add(tile, self.int(1))), first_row);
                                    let from_first = e.sub(first_row, row);
                                    let packed = e.mul(e.mul(e.sub(tile, first), steps), step);
                                    let a = if self.transformed { e.mul(from_first, row_step) } else { packed };
                                    e.field(Field::A, e.add(base, a));
                                    let to = e.add(sums(own), e.add(e.mul(from_first, self.int(M_ROW)), e.mul(sum, self.int(PANEL))));
                                    e.field(Field::C, e.address(self.at(M_AT, to)));
                                    if self.transformed {
                                        let number = e.add(e.mul(e.sub(own, panel), self.int(CLOSE)), e.sub(tile, close));
                                        let part = e.mul(e.mul(number, steps), self.int(PANEL / micro::AHEAD));
                                        let asks = e.is(IntPredicate::SLT, part, e.sub(after, here));
                                        let place = e.add(next.into_int_value(), part);
                                        e.field(Field::Ahead, code.select(asks.into(), place.into(), self.int(0).into()).into_int_value());
                                    }
                                    ok(code.builder.build_call(multiply, &[e.tile.into(), rows.into()], ""));
                                    Ok::<(), String>(())
                                })?;
                                Ok::<(), String>(())
                            })?;
                            Ok::<(), String>(())
                        })?;
                        Ok::<(), String>(())
                    })?;
                    code.only_if(ends, || {
                        code.range(panels[0], panels[1], 1, |own| {
                            code.range(row, end, KEPT, |from| {
                                let to = e.w.lesser(e.add(from, self.int(KEPT)), end);
                                code.range(from, to, 1, |r| {
                                    let at = self.at(M_AT, e.add(sums(own), e.mul(e.sub(r, row), self.int(M_ROW))));
                                    for side in 0..2 {
                                        let place = |n: i64| code.element(Elem::I8, at, self.int(n * PANEL + side * PANEL / 2));
                                        let side = self.int(side);
                                        let m = [0, 1, 2, 3]
                                            .map(|a| [0, 1, 2, 3].map(|b| code.load(self.vector(), place(4 * a + b), e.elements() as u32)));
                                        self.lines(e.sub(r, from), side, winograd::results(&mut |op: ScalarOp, args| e.w.op(op, &args), m));
                                    }
                                    Ok::<(), String>(())
                                })?;
                                self.finish(g, own, [from, to])
                            })?;
                            Ok::<(), String>(())
                        })?;
                        Ok::<(), String>(())
                    })
                })?;
                Ok::<(), String>(())
            })?;
            Ok::<(), String>(())
        })?;
        Ok(())
    }

    /// A group of tasks where channels are few.
    fn few(&self, g: &Group<'c>, level: Level, channels: i64) -> Result<(), String> {
        let (e, code, zero) = (self.e, self.code(), self.int(0));
        let together = if level == Level::V4 { WIDE_ROWS } else { NARROW_ROWS };
        let step = e.bytes(&self.step(e.w.kernel.outer.len()));
        let [row_step, weight_step] = self.weight_steps();
        code.range(e.start(g, g.from), e.start(g, g.to), STEPS / FEW * ROWS, |row| {
            let end = e.w.lesser(e.start(g, g.to), e.add(row, self.int(STEPS / FEW * ROWS)));
            if !self.transformed {
                let start = |tile: IntValue<'c>| e.w.lesser(end, e.add(row, e.mul(tile, self.int(ROWS))));
                let tiles = e.divide(e.add(e.sub(end, row), self.int(ROWS - 1)), self.int(ROWS)).0;
                self.weights(g, [zero, tiles], &start, [zero, self.steps])?;
            }
            let weights = self.weights_of(g, zero, zero, row);
            code.range(zero, g.count, 1, |panel| {
                self.image(panel, [zero, step, self.steps], (self.at(V_AT, zero), PANEL, channels * PANEL))?;
                code.range(row, end, KEPT, |from| {
                    let to = e.w.lesser(end, e.add(from, self.int(KEPT)));
                    code.range(from, to, together, |first| {
                        let (tile, within) = e.divide(e.sub(first, row), self.int(ROWS));
                        let packed = e.add(e.mul(tile, self.int(ROWS * channels * e.elements())), e.mul(within, row_step));
                        // Beyond the last row packed weights repeat it; where they are read in place, it is read again.
                        let own = |n: i64| match self.transformed {
                            true => e.mul(e.sub(e.w.lesser(e.add(first, self.int(n)), e.sub(end, self.int(1))), row), row_step),
                            false => e.add(packed, self.int(n * e.elements())),
                        };
                        let rows: Vec<IntValue<'c>> = (0..together).map(|n| e.add(weights, own(n))).collect();
                        code.range(zero, self.int(2), 1, |side| {
                            let results = self.sums(&rows, weight_step, side, channels);
                            (0..).zip(results).for_each(|(n, y)| self.lines(e.add(e.sub(first, from), self.int(n)), side, y));
                            Ok::<(), String>(())
                        })?;
                        Ok::<(), String>(())
                    })?;
                    self.finish(g, panel, [from, to])
                })?;
                Ok::<(), String>(())
            })?;
            Ok::<(), String>(())
        })?;
        Ok(())
    }

    /// The results of some rows, whose weights begin at these addresses, and a vector of squares: line by line of the window, so that sums of one line and
    /// results of those before fill the registers.
    fn sums(&self, rows: &[IntValue<'c>], step: IntValue<'c>, side: IntValue<'c>, channels: i64) -> Vec<[[V<'c>; 2]; 2]> {
        let (e, code, outer) = (self.e, self.code(), self.e.w.kernel.outer.len());
        let (vector, align, lanes) = (self.vector(), e.elements() as u32, self.lanes as u32);
        let image = self.at(V_AT, e.mul(side, self.int(PANEL / 2)));
        let behind = |a: i64, b: i64| match self.transformed {
            true => {
                let along = |n: i64, axis: usize| e.mul(self.int(n), e.bytes(&self.weights.steps[outer + axis]));
                e.add(along(a, 1), along(b, 2))
            }
            false => self.int((4 * a + b) * u_next(e.c)),
        };
        let sums: Vec<_> = rows.iter().map(|_| [(); 4].map(|()| code.variable(vector))).collect();
        let mut y = vec![[[vector.const_zero(); 2]; 2]; rows.len()];
        for (n, a) in (0..4).enumerate() {
            sums.iter().flatten().for_each(|sum| code.set(*sum, vector.const_zero()));
            let channel = |k: IntValue<'c>| {
                let image = code.element(Elem::I8, image, e.mul(k, self.int(PANEL)));
                let v = [0, 1, 2, 3].map(|b| code.load(vector, code.element(Elem::I8, image, self.int((4 * a + b) * channels * PANEL)), align));
                for (row, sums) in rows.iter().zip(&sums) {
                    let row = e.pointer(e.add(*row, e.mul(k, step)));
                    for ((b, v), sum) in (0..).zip(v).zip(sums) {
                        let u = code.load(code.ty(e.c.dtype.into(), 1), code.element(Elem::I8, row, behind(a, b)), align);
                        code.set(*sum, e.w.op(ScalarOp::Fma, &[code.splat(u, lanes), v, code.get(vector, *sum)]));
                    }
                }
            };
            if channels <= UNROLLED {
                (0..channels).for_each(|k| channel(self.int(k)));
            } else {
                let Ok(_) = code.range(self.int(0), self.int(channels), 1, |k| {
                    channel(k);
                    Ok::<(), std::convert::Infallible>(())
                });
            }
            for (y, sums) in y.iter_mut().zip(&sums) {
                let op: winograd::Apply<V<'c>> = &mut |op, args| e.w.op(op, &args);
                let line = winograd::line(op, sums.map(|sum| code.get(vector, sum)));
                let [[a, b], [c, d]] = [0, 1].map(|i| winograd::join(op, n, [y[0][i], y[1][i]], line[i]));
                *y = [[a, c], [b, d]];
            }
        }
        y
    }

    /// Bytes between rows and between steps of the transformed weights.
    fn weight_steps(&self) -> [IntValue<'c>; 2] {
        let e = self.e;
        if !self.transformed {
            return [self.int(e.elements()), self.int(ROWS * e.elements())];
        }
        let runs = self.weights.runs(&named(e.w.kernel, &e.c.rows));
        let row = runs.first().map_or(self.int(0), |run| e.bytes(&run.step));
        [row, e.bytes(&self.weights.steps[e.w.kernel.outer.len()])]
    }

    /// The address of the first tile's weights for a sum.
    fn weights_of(&self, g: &Group<'c>, sum: IntValue<'c>, block: IntValue<'c>, row: IntValue<'c>) -> IntValue<'c> {
        let (e, outer) = (self.e, self.e.w.kernel.outer.len());
        if !self.transformed {
            return e.address(self.at(U_AT, e.mul(sum, self.int(u_next(e.c)))));
        }
        let (a, b) = e.divide(sum, self.int(4));
        let mut point: Vec<_> = e.c.batch.iter().map(|v| (*v, g.point[*v])).collect();
        point.extend([(outer, block), (outer + 1, a), (outer + 2, b)]);
        e.add(e.form(&self.weights, &point), e.mul(row, self.weight_steps()[0]))
    }

    /// Transforms the weights of some tiles, a vector of 16 rows at a time: 9 numbers of each are turned in registers. Rows beyond a tile's last repeat
    /// it, and what is written there the next step overwrites.
    fn weights(
        &self,
        g: &Group<'c>,
        [first, last]: [IntValue<'c>; 2],
        start: &dyn Fn(IntValue<'c>) -> IntValue<'c>,
        [block, steps]: [IntValue<'c>; 2],
    ) -> Result<(), String> {
        let (e, code, outer) = (self.e, self.code(), self.e.w.kernel.outer.len());
        let lanes = 16;
        let (vector, align) = (code.ty(e.c.dtype.into(), lanes), e.elements() as u32);
        let [step, r, s] = [0, 1, 2].map(|n| self.weights.steps[outer + n].clone());
        // Where its 9 numbers lie one after the other, or backwards, a row is one vector.
        let (nine, one) = (r.as_const().zip(s.as_const()), self.int(1));
        let taps: Vec<i64> = (0..9).map(|n| nine.map_or(0, |(r, s)| n / 3 * r + n % 3 * s)).collect();
        let least = *taps.iter().min().expect("nine taps");
        let near = taps.iter().all(|t| (0..16).contains(&(t - least)));
        if nine.is_none() || !near {
            return Err(format!("kernel {}: the window's weights lie apart", e.w.kernel.name));
        }
        let bits = taps.iter().fold(0, |bits, t| bits | 1 << (t - least));
        let mask = e.mask(self.int(bits), lanes);
        let apart = self.weights.runs(&named(e.w.kernel, &e.c.rows)).first().map_or(self.int(0), |run| e.bytes(&run.step));
        let point: Vec<_> = e.c.batch.iter().map(|v| (*v, g.point[*v])).chain([(outer, block)]).collect();
        let base = e.add(e.form(&self.weights, &point), self.int(least * e.elements()));
        let half = code.constant(Scalar::float(e.c.dtype, 0.5), lanes);
        code.range(first, last, 1, |tile| {
            let row = start(tile);
            let highest = e.sub(start(e.add(tile, one)), one);
            let rows: Vec<IntValue<'c>> = (0..ROWS).map(|n| e.add(base, e.mul(e.w.lesser(e.add(row, self.int(n)), highest), apart))).collect();
            let place = e.mul(e.mul(e.sub(tile, first), steps), self.int(ROWS * e.elements()));
            code.range(self.int(0), steps, 1, |k| {
                let offset = e.mul(k, e.bytes(&step));
                let mut lines: Vec<V<'c>> = rows.iter().map(|row| e.masked_load(vector, e.pointer(e.add(*row, offset)), mask, align)).collect();
                lines.resize(lanes as usize, vector.const_zero());
                let turned = e.w.code.transpose(lines);
                let g = [0, 1, 2].map(|r| [0, 1, 2].map(|s| turned[(taps[3 * r + s] - least) as usize]));
                let u = winograd::weights(half, &mut |op, args| e.w.op(op, &args), g);
                let place = e.add(place, e.mul(k, self.int(ROWS * e.elements())));
                for (n, value) in u.into_iter().flatten().enumerate() {
                    let at = e.add(place, self.int(n as i64 * u_next(e.c)));
                    code.store(self.at(U_AT, at), value, align);
                }
                Ok::<(), String>(())
            })?;
            Ok::<(), String>(())
        })?;
        Ok(())
    }

    /// Columns as squares, and their points in the columns' variables.
    fn survey_columns(&self, g: &Group<'c>) -> Result<(), String> {
        let (e, c, kernel) = (self.e, self.e.c, self.e.w.kernel);
        let total = e.w.size(&squares(&c.columns.iter().map(|v| kernel.outer[*v].clone()).collect::<Vec<_>>()));
        self.code().range(self.int(0), g.count, 1, |panel| {
            let start = e.mul(e.add(g.panel, panel), self.int(e.width));
            self.survey(panel, [start, total], &|[image, top, first]| {
                let mut point = g.point.clone();
                e.set(&c.columns[..c.columns.len() - 2], image, &mut point);
                let [.., y, x] = &mut point[..] else { unreachable!("squares have lines and columns") };
                (*y, *x) = (top, first);
                (c.batch.iter().chain(&c.columns).map(|v| (*v, point[*v])).collect(), c.columns.iter().map(|v| point[*v]).collect())
            })
        })?;
        Ok(())
    }

    /// A vector of squares, or of points.
    fn vector(&self) -> BasicTypeEnum<'c> {
        self.code().ty(self.e.c.dtype.into(), self.lanes as u32)
    }

    /// Keeps a row's results of a vector of squares, the first or second of the panel, as lines of points. Rows count from the first whose lines are kept.
    fn lines(&self, row: IntValue<'c>, side: IntValue<'c>, y: [[V<'c>; 2]; 2]) {
        let e = self.e;
        for (line, [even, odd]) in y.into_iter().enumerate() {
            for part in 0..2 {
                let place = |l: i64| part * self.lanes / 2 + l / 2 + if l % 2 == 0 { 0 } else { self.lanes };
                let value = e.w.code.shuffle(even, odd, &(0..self.lanes).map(place).collect::<Vec<_>>());
                let to = e.add(e.mul(row, self.int(LINES)), e.mul(side, self.int(PANEL)));
                self.code().store(self.at(LINES_AT + (line as i64 * VECTORS + part) * PANEL / 2, to), value, e.elements() as u32);
            }
        }
    }

    /// The kernel's other stages on rows of a panel whose lines are kept.
    fn finish(&self, g: &Group<'c>, panel: IntValue<'c>, [from, to]: [IntValue<'c>; 2]) -> Result<(), String> {
        let (e, code) = (self.e, self.code());
        let (w, c, kernel) = (e.w, e.c, e.w.kernel);
        let (lanes, align) = (self.lanes as u32, e.elements() as u32);
        let (y, x) = (kernel.outer.len() - 2, kernel.outer.len() - 1);
        code.range(self.int(0), self.int(VECTORS), 1, |vector| {
            code.range(self.int(0), self.segments, 1, |segment| {
                let known = |n: i64| self.known(panel, vector, segment, n);
                let mut point = g.point.clone();
                for (n, v) in c.columns.iter().enumerate() {
                    point[*v] = known(POINT + n as i64);
                }
                code.range(self.int(0), self.int(2), 1, |line| {
                    let bits = self.known_at(panel, vector, segment, e.add(self.int(RESULTS), line));
                    let some = e.is(IntPredicate::NE, bits, self.int(0));
                    let mask = e.mask(bits, lanes);
                    let place = e.mul(e.add(e.mul(line, self.int(VECTORS)), vector), self.int(PANEL / 2));
                    let mut point = point.clone();
                    point[y] = e.add(point[y], line);
                    code.only_if(some, || {
                        code.range(from, to, 1, |row| {
                            let mut point = point.clone();
                            e.set(&c.rows, row, &mut point);
                            let kept = e.add(place, e.mul(e.sub(row, from), self.int(LINES)));
                            let value = code.load(self.vector(), self.at(LINES_AT, kept), align);
                            let ranges = kernel.outer.clone();
                            let scope = Scope { point, ranges, lane: Some((x, lanes)), mask: Some(mask), within: None, locals: w.locals(lanes) };
                            kernel.stages.iter().enumerate().try_for_each(|(n, stage)| match n == c.stage {
                                true => w.results(stage, &[value], &scope, &[]),
                                false => w.stage(stage, Mode::Scalar, &scope),
                            })
                        })?;
                        Ok::<(), String>(())
                    })
                })?;
                Ok::<(), String>(())
            })?;
            Ok::<(), String>(())
        })?;
        Ok(())
    }
}
