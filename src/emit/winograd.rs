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
//! Nothing transformed goes to memory. The image is read in lines: of the 4 columns of a square's window the first two follow each other from square to
//! square, and so do the last two, which makes two loads and a shuffle of each. A vector's squares may lie in several lines of the image: *segments*.

use crate::emit::Level;
use crate::emit::body::Scope;
use crate::emit::code::{Code, Elem, V, ok};
use crate::emit::contract::{Engine, Group, named};
use crate::emit::micro::{self, Field, LEAF, PANEL};
use crate::emit::modes::Mode;
use crate::ir::{Scalar, ScalarOp, Size};
use crate::kernel::Kernel;
use crate::kernel::contract::{Contraction, ROWS};
use crate::kernel::linear::Linear;
use crate::kernel::winograd::{Image, factors, squares, transformed};
use crate::math::winograd;
use inkwell::IntPredicate;
use inkwell::values::{IntValue, PointerValue};

/// Panels of a group: as many as [`super::contract`] takes together.
const PANELS: i64 = 16;
/// Vectors of points of one line in a panel: half of a vector of squares each.
pub const VECTORS: i64 = 4;
/// Most segments of a vector.
const SEGMENTS: i64 = 8;
/// Words that are known of a segment.
const WORDS: i64 = 32;
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

pub const V_AT: i64 = PANELS * VECTORS * SEGMENTS * WORDS * 8;
const LINES_AT: i64 = V_AT + TOGETHER * V_PANEL;
const M_AT: i64 = LINES_AT + VECTORS * PANEL;
const U_AT: i64 = M_AT + SUMS * M_ROW;

/// Bytes of scratch that the kernel needs.
pub fn scratch(c: &Contraction) -> i64 {
    U_AT + 16 * u_next(c) + PANEL
}

/// Bytes from a sum's packed weights to the next one's.
fn u_next(c: &Contraction) -> i64 {
    STEPS * ROWS * c.dtype.bytes() as i64 + PANEL
}

/// Words of a segment: the address of the image at its first lane, lanes inside of two vectors in each of 4 lines, lanes of both lines of results, the
/// first lane's point in the image and in the columns' variables.
const ADDRESS: i64 = 0;
const INSIDE: i64 = 1;
pub const RESULTS: i64 = 9;
pub const POINT: i64 = 11;

/// What a square's image, line and column are in variables, and words to keep.
type Place<'p, 'c> = &'p dyn Fn([IntValue<'c>; 3]) -> (Vec<(usize, IntValue<'c>)>, Vec<IntValue<'c>>);

/// The image that is cut into squares.
pub struct Squares<'e, 'a, 'k, 'c> {
    pub e: &'e Engine<'a, 'k, 'c>,
    image: Image,
    /// Lanes of a vector, which hold as many squares, or half as many of their points.
    pub lanes: i64,
    /// Lines and columns of results.
    pub sizes: [i64; 2],
    pub segments: i64,
}

/// The convolution being written.
struct Convolution<'e, 'a, 'k, 'c> {
    squares: Squares<'e, 'a, 'k, 'c>,
    weights: Linear,
    /// Channels.
    steps: i64,
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
    let steps = known(e, &e.stage.reds[0])?;
    Convolution { squares, weights, steps, transformed: transformed(e.stage) }.group(g, level)
}

fn known(e: &Engine, size: &Size) -> Result<i64, String> {
    size.as_const().ok_or_else(|| format!("kernel {}: windows of no known form", e.w.kernel.name))
}

/// The image, cut into squares of that many results, and the address of what it is multiplied by.
pub fn cut<'e, 'a, 'k, 'c>(e: &'e Engine<'a, 'k, 'c>, sizes: &[Size]) -> Result<(Squares<'e, 'a, 'k, 'c>, Linear), String> {
    let kernel: &Kernel = e.w.kernel;
    let (image, other) = factors(kernel, e.c).ok_or_else(|| format!("kernel {}: windows of no known form", kernel.name))?;
    let sizes = [known(e, &sizes[0])?, known(e, &sizes[1])?];
    let lanes = PANEL / 2 / e.elements();
    // A vector's squares begin anywhere in a line, unless lines and vectors end together.
    let (line, half) = ((sizes[1] + 1) / 2, lanes / 2);
    let segments = if line % half == 0 {
        1
    } else if half % line == 0 {
        half / line
    } else {
        (half - 1 + line - 1) / line + 1
    };
    Ok((Squares { e, image, lanes, sizes, segments }, other))
}

impl<'c> Squares<'_, '_, '_, 'c> {
    pub fn code(&self) -> &Code<'c> {
        &self.e.w.code
    }

    pub fn int(&self, n: i64) -> IntValue<'c> {
        self.e.int(n)
    }

    /// The place `bytes` behind this one in scratch.
    pub fn at(&self, base: i64, bytes: IntValue<'c>) -> PointerValue<'c> {
        self.code().element(Elem::I8, self.e.at(base), bytes)
    }

    /// Where word number `n` of a panel's segment is.
    fn word(&self, panel: IntValue<'c>, vector: IntValue<'c>, segment: IntValue<'c>, n: IntValue<'c>) -> PointerValue<'c> {
        let e = self.e;
        let number = e.add(e.mul(e.add(e.mul(panel, self.int(VECTORS)), vector), self.int(SEGMENTS)), segment);
        self.code().element(Elem::I64, self.e.at(0), e.add(e.mul(number, self.int(WORDS)), n))
    }

    /// Elements between neighbours of the image along a variable.
    pub fn step(&self, var: usize) -> Size {
        self.image.form.steps[var].clone()
    }

    fn known(&self, panel: IntValue<'c>, vector: IntValue<'c>, segment: IntValue<'c>, n: i64) -> IntValue<'c> {
        self.known_at(panel, vector, segment, self.int(n))
    }

    /// That word.
    pub fn known_at(&self, panel: IntValue<'c>, vector: IntValue<'c>, segment: IntValue<'c>, n: IntValue<'c>) -> IntValue<'c> {
        self.code().load(self.code().ty(Elem::I64, 1), self.word(panel, vector, segment, n), 8).into_int_value()
    }

    /// Bits `from..to` of a vector.
    fn bits(&self, from: IntValue<'c>, to: IntValue<'c>) -> IntValue<'c> {
        let (e, b) = (self.e, &self.code().builder);
        let below = |n: IntValue<'c>| {
            let n = e.w.lesser(e.w.greater(n, self.int(0)), self.int(self.lanes));
            e.sub(ok(b.build_left_shift(self.int(1), n, "")), self.int(1))
        };
        e.and(below(to), e.not(below(from)))
    }

    /// Writes down what is known of a panel's segments, from a square on, of so many in all; `note` is what more is known of one at an image, a line and
    /// a column: the variables of the image's address, and words.
    pub fn survey(&self, panel: IntValue<'c>, [start, total]: [IntValue<'c>; 2], note: Place<'_, 'c>) -> Result<(), String> {
        let (e, code) = (self.e, self.code());
        let i64t = code.ty(Elem::I64, 1);
        let half = self.lanes / 2;
        let halves = |n: i64| self.int((n + 1) / 2);
        let [lines, across] = self.sizes.map(halves);
        let done = code.variable(i64t);
        let two = self.int(2);
        code.range(self.int(0), self.int(VECTORS), 1, |vector| {
            let start = e.add(start, e.mul(vector, self.int(half)));
            code.set(done, self.int(0).into());
            code.range(self.int(0), self.int(self.segments), 1, |segment| {
                let taken = code.get(i64t, done).into_int_value();
                let square = e.add(start, taken);
                let (line, place) = e.divide(square, across);
                let (image, line) = e.divide(line, lines);
                let left = e.w.lesser(e.sub(self.int(half), taken), e.sub(total, square));
                let count = e.w.greater(e.w.lesser(e.sub(across, place), left), self.int(0));
                let some = e.is(IntPredicate::SGT, count, self.int(0));
                let [from, to] = [taken, e.add(taken, count)].map(|n| e.mul(n, two));
                let [top, first] = [e.mul(line, two), e.mul(e.sub(place, taken), two)];
                let put = |n: i64, value: IntValue<'c>| code.store(self.word(panel, vector, segment, self.int(n)), value.into(), 8);
                let (known, words) = note([image, top, first]);
                let nowhere = e.address(e.w.params[self.image.form.param]);
                put(ADDRESS, code.select(some.into(), e.form(&self.image.form, &known).into(), nowhere.into()).into_int_value());
                words.into_iter().enumerate().for_each(|(n, word)| put(POINT + n as i64, word));
                let zero = self.int(0);
                let inside = |such: IntValue<'c>, bits: IntValue<'c>| code.select(such.into(), bits.into(), zero.into()).into_int_value();
                let [(above, height), (before, width)] = &self.image.axes;
                for next in [0, 2] {
                    let at = e.add(first, self.int(before + next));
                    let bits = self.bits(e.w.greater(from, e.sub(zero, at)), e.w.lesser(to, e.sub(e.w.size(width), at)));
                    for a in 0..4 {
                        let line = e.add(top, self.int(above + a));
                        let within = e.is(IntPredicate::ULT, line, e.w.size(height));
                        put(INSIDE + 2 * a + next / 2, inside(within, bits));
                    }
                }
                let results = self.bits(from, e.w.lesser(to, e.sub(self.int(self.sizes[1]), first)));
                put(RESULTS, inside(some, results));
                let second = e.is(IntPredicate::SLT, e.add(top, self.int(1)), self.int(self.sizes[0]));
                put(RESULTS + 1, inside(self.e.and(some, second), results));
                code.set(done, e.add(taken, count).into());
                Ok::<(), String>(())
            })?;
            Ok::<(), String>(())
        })?;
        Ok(())
    }

    /// Transforms some steps of a panel of the image: so many from a place on, each so many bytes behind the one before. Where they go: the first of 16
    /// values of the first step, the bytes to the next step's, and to the next value.
    pub fn image(
        &self,
        panel: IntValue<'c>,
        [from, step, steps]: [IntValue<'c>; 3],
        (to, apart, next_value): (PointerValue<'c>, i64, i64),
    ) -> Result<(), String> {
        let (e, code, outer) = (self.e, self.code(), self.e.w.kernel.outer.len());
        let lanes = self.lanes as u32;
        let (ty, align) = (code.ty(e.c.dtype.into(), lanes), e.elements() as u32);
        let form = &self.image.form;
        let [line, next] = [1, 2].map(|n| e.bytes(&form.steps[outer + n]));
        let unit = form.steps[outer + 2].as_const() == Some(1);
        if !unit {
            return Err(format!("kernel {}: lines of the image are not contiguous", e.w.kernel.name));
        }
        code.range(self.int(0), self.int(2), 1, |half| {
            // Of two vectors of points and each segment: where it is, and lanes inside.
            let segments: Vec<Vec<(IntValue<'c>, Vec<V<'c>>)>> = (0..2)
                .map(|v| {
                    let vector = e.add(e.mul(half, self.int(2)), self.int(v));
                    let segment = |s: i64| {
                        let known = |n: i64| self.known(panel, vector, self.int(s), n);
                        (known(ADDRESS), (0..8).map(|n| e.mask(known(INSIDE + n), lanes)).collect())
                    };
                    (0..self.segments).map(segment).collect()
                })
                .collect();
            let place = e.mul(half, self.int(PANEL / 2));
            code.range(self.int(0), steps, 1, |k| {
                let offset = e.add(from, e.mul(k, step));
                let d = [0, 1, 2, 3].map(|a: usize| {
                    let offset = e.add(offset, e.mul(line, self.int(a as i64)));
                    let pair = |of: i64| {
                        let offset = e.add(offset, e.mul(next, self.int(2 * of)));
                        let read = |v: usize| {
                            segments[v].iter().fold(ty.const_zero(), |others, (at, inside)| {
                                let args = vec![e.pointer(e.add(*at, offset)).into(), inside[2 * a + of as usize], others];
                                code.masked("llvm.masked.load", &[ty, code.pointer()], args, 1, align).expect("a value")
                            })
                        };
                        let (low, high) = (read(0), read(1));
                        [0, 1].map(|odd| e.shuffle(low, high, &(0..self.lanes).map(|l| 2 * l + odd).collect::<Vec<_>>()))
                    };
                    let ([first, second], [third, fourth]) = (pair(0), pair(1));
                    [first, second, third, fourth]
                });
                let v = winograd::image(&mut |op, args| e.w.op(op, &args), d);
                let place = e.add(place, e.mul(k, self.int(apart)));
                for (n, value) in v.into_iter().flatten().enumerate() {
                    let place = e.add(place, self.int(n as i64 * next_value));
                    code.store(code.element(Elem::I8, to, place), value, align);
                }
                Ok::<(), String>(())
            })?;
            Ok::<(), String>(())
        })?;
        Ok(())
    }
}

impl<'c> Convolution<'_, '_, '_, 'c> {
    fn group(&self, g: &Group<'c>, level: Level) -> Result<(), String> {
        let (e, code) = (self.e, self.code());
        self.survey_columns(g)?;
        let most = self.steps.min(LEAF);
        let several = self.steps > LEAF;
        let multiply = micro::declare(code.context, &code.module, e.c.dtype, level, None);
        // Weights that are transformed already take no room; sums do, of all panels where there are several blocks.
        let tiles = if self.transformed && !several { NEAR.max(STEPS / most) } else { STEPS / most }.min(SUMS / ROWS / TOGETHER);
        let together = if self.transformed { TOGETHER } else { 1 };
        code.range(g.from, g.to, tiles, |first| {
            let last = e.w.lesser(g.to, e.add(first, self.int(tiles)));
            let (row, end) = (e.start(g, first), e.start(g, last));
            code.range(self.int(0), self.int(self.steps), LEAF, |block| {
                let steps = e.w.lesser(self.int(LEAF), e.sub(self.int(self.steps), block));
                if !self.transformed {
                    self.weights(g, [first, last], [block, steps])?;
                }
                let begins = e.is(IntPredicate::EQ, block, self.int(0));
                let ends = e.is(IntPredicate::EQ, e.add(block, steps), self.int(self.steps));
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
                    let sums = |own: IntValue<'c>| e.mul(if several { own } else { e.sub(own, panel) }, self.int(tiles * ROWS * M_ROW));
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
                            code.range(row, end, 1, |r| {
                                let sums = e.add(sums(own), e.mul(e.sub(r, row), self.int(M_ROW)));
                                self.row(g, own, r, self.at(M_AT, sums))
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
    fn weights(&self, g: &Group<'c>, [first, last]: [IntValue<'c>; 2], [block, steps]: [IntValue<'c>; 2]) -> Result<(), String> {
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
            let row = e.start(g, tile);
            let highest = e.sub(e.start(g, e.add(tile, one)), one);
            let rows: Vec<IntValue<'c>> = (0..ROWS).map(|n| e.add(base, e.mul(e.w.lesser(e.add(row, self.int(n)), highest), apart))).collect();
            let place = e.mul(e.mul(e.sub(tile, first), steps), self.int(ROWS * e.elements()));
            code.range(self.int(0), steps, 1, |k| {
                let offset = e.mul(k, e.bytes(&step));
                let mut lines: Vec<V<'c>> = rows.iter().map(|row| e.masked_load(vector, e.pointer(e.add(*row, offset)), mask, align)).collect();
                lines.resize(lanes as usize, vector.const_zero());
                let turned = e.transpose(lines);
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

    /// The results of a row of a panel, and the kernel's other stages.
    fn row(&self, g: &Group<'c>, panel: IntValue<'c>, row: IntValue<'c>, sums: PointerValue<'c>) -> Result<(), String> {
        let (e, code) = (self.e, self.code());
        let (w, c, kernel) = (e.w, e.c, e.w.kernel);
        let lanes = self.lanes as u32;
        let (ty, align) = (code.ty(c.dtype.into(), lanes), e.elements() as u32);
        let half = PANEL / 2;
        for side in 0..2 {
            let at = |n: i64| code.element(Elem::I8, sums, self.int(n * PANEL + side * half));
            let m = [0, 1, 2, 3].map(|a| [0, 1, 2, 3].map(|b| code.load(ty, at(4 * a + b), align)));
            let y = winograd::results(&mut |op: ScalarOp, args| w.op(op, &args), m);
            for (line, [even, odd]) in y.into_iter().enumerate() {
                for part in 0..2 {
                    let place = |l: i64| part * self.lanes / 2 + l / 2 + if l % 2 == 0 { 0 } else { self.lanes };
                    let value = e.shuffle(even, odd, &(0..self.lanes).map(place).collect::<Vec<_>>());
                    let to = (line as i64 * VECTORS + 2 * side + part) * half;
                    code.store(self.at(LINES_AT, self.int(to)), value, align);
                }
            }
        }
        let mut point = g.point.clone();
        e.set(&c.rows, row, &mut point);
        let (y, x) = (kernel.outer.len() - 2, kernel.outer.len() - 1);
        code.range(self.int(0), self.int(VECTORS), 1, |vector| {
            code.range(self.int(0), self.int(self.segments), 1, |segment| {
                let known = |n: i64| self.known(panel, vector, segment, n);
                let mut point = point.clone();
                for (n, v) in c.columns.iter().enumerate() {
                    point[*v] = known(POINT + n as i64);
                }
                code.range(self.int(0), self.int(2), 1, |line| {
                    let bits = self.known(panel, vector, segment, RESULTS);
                    let second = self.known(panel, vector, segment, RESULTS + 1);
                    let is_second = e.is(IntPredicate::NE, line, self.int(0));
                    let bits = code.select(is_second.into(), second.into(), bits.into()).into_int_value();
                    let some = e.is(IntPredicate::NE, bits, self.int(0));
                    let mut point = point.clone();
                    point[y] = e.add(point[y], line);
                    code.only_if(some, || {
                        let from = e.add(e.mul(line, self.int(VECTORS)), vector);
                        let value = code.load(ty, self.at(LINES_AT, e.mul(from, self.int(half))), align);
                        let (ranges, mask) = (kernel.outer.clone(), Some(e.mask(bits, lanes)));
                        let scope = Scope { point, ranges, lane: Some((x, lanes)), mask, within: None, locals: w.locals(lanes) };
                        kernel.stages.iter().enumerate().try_for_each(|(n, stage)| match n == c.stage {
                            true => w.results(stage, &[value], &scope, &[]),
                            false => w.stage(stage, Mode::Scalar, &scope),
                        })
                    })
                })?;
                Ok::<(), String>(())
            })?;
            Ok::<(), String>(())
        })?;
        Ok(())
    }
}
