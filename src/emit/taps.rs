//! The gradient of a convolution's weights in squares of 2x2 results: what a contraction's group of tasks does there ([`crate::kernel::winograd`]).
//!
//! ```text
//! for each few tiles of rows (channels of the image), for each few panels of columns (channels of the results):
//!   for each leaf of 128 squares:
//!     where its squares lie, and which lanes are inside          (as in `winograd`)
//!     transform the image: 16 times [row][squares]
//!     for each panel:
//!       turn the gradient, transform it: 16 times [square][128 bytes of columns]
//!       for each of the 16 sums, for each tile: M += V * Z       (the micro-kernel)
//!   for each panel, half by half: 9 taps of each element of M, turned: [column][row][tap]
//!     for each column: the kernel's stages, lanes along rows and taps
//! ```
//!
//! Nothing transformed goes to memory. Lanes of the image are squares, as everywhere; lanes of its gradient are columns, so that a panel is that of any
//! other product; and rows lie beside taps, so that results are written, and an optimizer's state is read, as they lie.

use crate::emit::Level;
use crate::emit::body::Scope;
use crate::emit::code::{Elem, V, ok};
use crate::emit::contract::{Engine, Group};
use crate::emit::micro::{self, Field, PANEL};
use crate::emit::modes::Mode;
use crate::emit::squares::{KNOWN, POINT, RESULTS, Squares, VECTORS, cut};
use crate::ir::Scalar;
use crate::kernel::contract::{Contraction, ROWS};
use crate::kernel::linear::Linear;
use crate::kernel::lower::product;
use crate::kernel::winograd::halved;
use crate::math::winograd::{self, SQUARES};
use inkwell::IntPredicate;
use inkwell::values::{IntValue, PointerValue};

/// Tiles that are multiplied together, so that a panel of the gradient is transformed once for all of them.
const TILES: i64 = 8;
/// Panels that are, so that the image is transformed once for all of them.
const PANELS: i64 = 2;
/// Rows of these tiles.
const MOST: i64 = TILES * ROWS;
/// Columns that are turned together, and points of a line, at most.
const LANES: i64 = 16;

/// Bytes from a sum to that of the next of 16 in Z, and from row to row in M: not a power of two, so that they do not meet in one set of a cache.
const Z_NEXT: i64 = (SQUARES + 1) * PANEL;
const M_ROW: i64 = 17 * PANEL;

const Z_AT: i64 = KNOWN;
const M_AT: i64 = Z_AT + 16 * Z_NEXT;
/// Two lines of points, turned.
const TURNED_AT: i64 = M_AT + PANELS * MOST * M_ROW;
const LINES_AT: i64 = TURNED_AT + 2 * LANES * PANEL;

/// Bytes from one column's taps to the next one's; what a row writes may reach beyond its 9.
fn line(c: &Contraction) -> i64 {
    (MOST * 9 + LANES) * c.dtype.bytes() as i64
}

fn images_at(c: &Contraction) -> i64 {
    LINES_AT + LANES * line(c)
}

/// Bytes of a row of the transformed image, and from a sum to the next one's.
fn row(c: &Contraction) -> i64 {
    SQUARES * c.dtype.bytes() as i64
}

fn next(c: &Contraction) -> i64 {
    MOST * row(c) + PANEL
}

/// Bytes of scratch that the kernel needs.
pub fn scratch(c: &Contraction) -> i64 {
    images_at(c) + 16 * next(c)
}

/// The gradient being written.
struct Taps<'e, 'a, 'k, 'c> {
    squares: Squares<'e, 'a, 'k, 'c>,
    gradient: Linear,
}

/// A group of the contraction's tasks.
pub fn group<'c>(e: &Engine<'_, '_, 'c>, g: &Group<'c>, level: Level) -> Result<(), String> {
    let (squares, gradient) = cut(e, &e.stage.reds[1..])?;
    Taps { squares, gradient }.group(g, level)
}

impl<'c> Taps<'_, '_, '_, 'c> {
    fn int(&self, n: i64) -> IntValue<'c> {
        self.squares.int(n)
    }

    fn group(&self, g: &Group<'c>, level: Level) -> Result<(), String> {
        let (s, e, code) = (&self.squares, self.squares.e, self.squares.code());
        let total = e.w.size(&product(&halved(&e.stage.reds)));
        let several = e.is(IntPredicate::SGT, total, self.int(SQUARES));
        let (leaf, width) = (self.int(SQUARES), e.width);
        code.range(g.from, g.to, TILES, |first| {
            let last = e.w.lesser(g.to, e.add(first, self.int(TILES)));
            let [from, to] = [first, last].map(|tile| e.start(g, tile));
            code.range(self.int(0), g.count, PANELS, |panel| {
                let panels = [panel, e.w.lesser(g.count, e.add(panel, self.int(PANELS)))];
                // Once even where there is no image: sums are zero then.
                code.range(self.int(0), e.w.greater(total, self.int(1)), SQUARES, |block| {
                    let count = e.w.lesser(leaf, e.sub(total, block));
                    // A single leaf of the image is there since the first panels.
                    let begins = e.is(IntPredicate::EQ, panel, self.int(0));
                    let missing = ok(code.builder.build_or(begins, several, ""));
                    code.only_if(missing, || {
                        code.range(self.int(0), count, width, |square| {
                            let number = e.divide(square, self.int(width)).0;
                            self.survey(g, number, [e.add(block, square), total])?;
                            let step = e.c.rows.first().map_or(self.int(0), |v| e.bytes(&s.step(*v)));
                            let place = e.add(self.int(images_at(e.c)), e.mul(number, self.int(PANEL)));
                            let rows = [e.mul(from, step), step, e.sub(to, from)];
                            s.image(number, rows, (s.at(0, place), row(e.c), next(e.c)))
                        })?;
                        Ok::<(), String>(())
                    })?;
                    let is_first = e.is(IntPredicate::EQ, block, self.int(0));
                    code.range(panels[0], panels[1], 1, |own| {
                        self.gradient(g, own, count)?;
                        for (field, value) in [Field::Left, Field::Run].into_iter().zip([self.int(i64::MAX); 2]) {
                            e.field(field, value);
                        }
                        e.field(Field::Jump, self.int(0));
                        e.field(Field::BStep, self.int(PANEL));
                        e.field(Field::CRow, self.int(M_ROW));
                        e.field(Field::ARow, self.int(row(e.c)));
                        e.field(Field::AStep, self.int(e.elements()));
                        e.field(Field::Count, count);
                        e.field(Field::First, ok(code.builder.build_int_z_extend(is_first, code.context.i64_type(), "")));
                        self.multiply(g, [first, last], e.sub(own, panel), level)
                    })?;
                    Ok::<(), String>(())
                })?;
                code.range(panels[0], panels[1], 1, |own| self.finish(g, own, e.sub(own, panel), [from, to]))?;
                Ok::<(), String>(())
            })?;
            Ok::<(), String>(())
        })?;
        Ok(())
    }

    /// Where the squares of a panel are, and the gradient's first lanes there.
    fn survey(&self, g: &Group<'c>, panel: IntValue<'c>, squares: [IntValue<'c>; 2]) -> Result<(), String> {
        let (e, outer) = (self.squares.e, self.squares.e.w.kernel.outer.len());
        self.squares.survey(panel, squares, &|[image, top, first]| {
            let mut known: Vec<_> = e.c.batch.iter().map(|v| (*v, g.point[*v])).collect();
            known.extend([(outer, image), (outer + 1, top), (outer + 2, first)]);
            let gradient = e.form(&self.gradient, &known);
            (known, vec![gradient])
        })
    }

    /// Turns and transforms so many squares of a panel of columns.
    fn gradient(&self, g: &Group<'c>, panel: IntValue<'c>, count: IntValue<'c>) -> Result<(), String> {
        let (s, e, code) = (&self.squares, self.squares.e, self.squares.code());
        let (lanes, kernel) = (s.lanes, e.w.kernel);
        let (ty, align) = (code.ty(e.c.dtype.into(), lanes as u32), e.elements() as u32);
        let part = PANEL / 2;
        let apart = e.c.columns.first().map_or(self.int(0), |v| e.bytes(&self.gradient.steps[*v]));
        let below = e.bytes(&self.gradient.steps[kernel.outer.len() + 1]);
        let first = e.mul(e.add(g.panel, panel), self.int(e.width));
        let highest = e.sub(g.columns, self.int(1));
        s.by_segments(&|way| {
            // By vectors of points, which are half as many squares.
            code.range(self.int(0), count, lanes / 2, |square| {
                let (number, vector) = e.divide(e.divide(square, self.int(lanes / 2)).0, self.int(VECTORS));
                code.range(self.int(0), self.int(2), 1, |side| {
                    // Columns beyond the last repeat it: what they give is never used.
                    let column = e.add(first, e.mul(side, self.int(lanes)));
                    let columns: Vec<IntValue<'c>> = (0..lanes).map(|n| e.mul(e.w.lesser(e.add(column, self.int(n)), highest), apart)).collect();
                    code.range(self.int(0), self.int(2), 1, |line| {
                        let offset = e.mul(line, below);
                        let pieces = s.pieces(way, |segment| {
                            let known = |n: IntValue<'c>| s.known_at(number, vector, segment, n);
                            vec![(known(self.int(POINT)), e.mask(known(e.add(line, self.int(RESULTS))), lanes as u32)); columns.len()]
                        });
                        let offsets: Vec<IntValue<'c>> = columns.iter().map(|column| e.add(offset, *column)).collect();
                        let turned = e.w.code.transpose(s.read(&pieces, &offsets));
                        let to = e.mul(line, self.int(LANES * PANEL));
                        for (n, value) in turned.into_iter().enumerate() {
                            code.store(s.at(TURNED_AT + n as i64 * part, to), value, align);
                        }
                        Ok::<(), String>(())
                    })?;
                    code.range(self.int(0), self.int(lanes / 2), 1, |own| {
                        let from = e.mul(own, self.int(2 * part));
                        let y = [0, 1].map(|i| [0, 1].map(|j| code.load(ty, s.at(TURNED_AT + i * LANES * PANEL + j * part, from), align)));
                        let z = winograd::gradient(&mut |op, args| e.w.op(op, &args), y);
                        let to = e.add(e.mul(e.add(square, own), self.int(PANEL)), e.mul(side, self.int(part)));
                        for (n, value) in z.into_iter().flatten().enumerate() {
                            code.store(s.at(Z_AT + n as i64 * Z_NEXT, to), value, align);
                        }
                        Ok::<(), String>(())
                    })?;
                    Ok::<(), String>(())
                })?;
                Ok::<(), String>(())
            })?;
            Ok(())
        })
    }

    /// Where the sums of a row are, of those that wait together.
    fn sums(&self, panel: IntValue<'c>, row: IntValue<'c>) -> PointerValue<'c> {
        let e = self.squares.e;
        self.squares.at(M_AT, e.mul(e.add(e.mul(panel, self.int(MOST)), row), self.int(M_ROW)))
    }

    /// Multiplies tiles with a panel, each of the 16 sums for itself.
    fn multiply(&self, g: &Group<'c>, [first, last]: [IntValue<'c>; 2], panel: IntValue<'c>, level: Level) -> Result<(), String> {
        let (s, e, code) = (&self.squares, self.squares.e, self.squares.code());
        let multiply = micro::declare(code.context, &code.module, e.c.dtype, level, None);
        let from = e.start(g, first);
        code.range(self.int(0), self.int(16), 1, |sum| {
            e.field(Field::B, e.address(s.at(Z_AT, e.mul(sum, self.int(Z_NEXT)))));
            code.range(first, last, 1, |tile| {
                let own = e.start(g, tile);
                let rows = e.sub(e.start(g, e.add(tile, self.int(1))), own);
                let place = e.sub(own, from);
                let image = e.add(e.mul(sum, self.int(next(e.c))), e.mul(place, self.int(row(e.c))));
                e.field(Field::A, e.address(s.at(images_at(e.c), image)));
                e.field(Field::C, e.add(e.address(self.sums(panel, place)), e.mul(sum, self.int(PANEL))));
                ok(code.builder.build_call(multiply, &[e.tile.into(), rows.into()], ""));
                Ok::<(), String>(())
            })?;
            Ok::<(), String>(())
        })?;
        Ok(())
    }

    /// The taps of a panel, and the kernel's other stages.
    fn finish(&self, g: &Group<'c>, panel: IntValue<'c>, place: IntValue<'c>, [from, to]: [IntValue<'c>; 2]) -> Result<(), String> {
        let (s, e, code) = (&self.squares, self.squares.e, self.squares.code());
        let (ty, align, bytes) = (code.ty(e.c.dtype.into(), LANES as u32), e.elements() as u32, e.elements());
        let half = code.constant(Scalar::float(e.c.dtype, 0.5), LANES as u32);
        let first = e.mul(e.add(g.panel, panel), self.int(e.width));
        let rows = e.sub(to, from);
        code.range(self.int(0), self.int(e.width), LANES, |part| {
            code.range(self.int(0), rows, 1, |own| {
                let sums = code.element(Elem::I8, self.sums(place, own), e.mul(part, self.int(bytes)));
                let at = |n: i64| code.element(Elem::I8, sums, self.int(n * PANEL));
                let m = [0, 1, 2, 3].map(|a| [0, 1, 2, 3].map(|b| code.load(ty, at(4 * a + b), align)));
                let w = winograd::taps(half, &mut |op, args| e.w.op(op, &args), m);
                let mut taps: Vec<V<'c>> = w.into_iter().flatten().collect();
                taps.resize(LANES as usize, ty.const_zero());
                // A row's taps end where the next one's begin, which are written later.
                for (n, column) in e.w.code.transpose(taps).into_iter().enumerate() {
                    code.store(s.at(LINES_AT + n as i64 * line(e.c), e.mul(own, self.int(9 * bytes))), column, align);
                }
                Ok::<(), String>(())
            })?;
            let column = e.add(first, part);
            let columns = e.w.lesser(self.int(LANES), e.sub(g.columns, column));
            code.range(self.int(0), columns, 1, |own| {
                let mut point = g.point.clone();
                e.set(&e.c.columns, e.add(column, own), &mut point);
                self.column(&point, e.mul(own, self.int(line(e.c))), [from, rows])
            })?;
            Ok::<(), String>(())
        })?;
        Ok(())
    }

    /// The kernel's stages at a column of so many rows from one on, whose taps are at a place of the lines.
    fn column(&self, point: &[IntValue<'c>], place: IntValue<'c>, [from, rows]: [IntValue<'c>; 2]) -> Result<(), String> {
        let (s, e, code) = (&self.squares, self.squares.e, self.squares.code());
        let (w, c, kernel) = (e.w, e.c, e.w.kernel);
        let last = kernel.outer.len() - 1;
        // What lies together in all that is read and stored: rows and taps, the taps, or those of a line.
        let (runs, run) = match c.near {
            0 => (self.int(1), e.mul(rows, self.int(9))),
            1 => (rows, self.int(9)),
            _ => (e.mul(rows, self.int(3)), self.int(3)),
        };
        code.range(self.int(0), runs, 1, |n| {
            let base = e.mul(n, run);
            w.groups(self.int(0), run, e.width as u32, &mut |i, lanes, mask| {
                let element = e.add(base, i);
                let (own, tap) = e.divide(element, self.int(9));
                let mut point = point.to_vec();
                e.set(&c.rows, e.add(from, own), &mut point);
                (point[last - 1], point[last]) = e.divide(tap, self.int(3));
                let ty = code.ty(c.dtype.into(), lanes);
                let at = s.at(LINES_AT, e.add(place, e.mul(element, self.int(e.elements()))));
                let value = code.load(ty, at, e.elements() as u32);
                let scope = Scope { point, ranges: kernel.outer.clone(), lane: Some((last, lanes)), mask, within: None, locals: w.locals(lanes) };
                kernel.stages.iter().enumerate().try_for_each(|(n, stage)| match n == c.stage {
                    true => w.results(stage, &[value], &scope, &[]),
                    false => w.stage(stage, Mode::Scalar, &scope),
                })
            })
        })?;
        Ok(())
    }
}
