//! The image of a convolution in squares, as panels of squares: where these lie, and their windows transformed. For results ([`super::winograd`]) and for
//! gradients of weights ([`super::taps`]).
//!
//! The image is read in lines: of the 4 columns of a square's window the first two follow each other from square to square, and so do the last two,
//! which makes two loads and a shuffle of each. A vector's squares may lie in several lines of the image: *segments*. How many is known with the
//! columns; else code is written for one, for two and for any number of them.

use crate::emit::code::{Code, Elem, V, ok};
use crate::emit::contract::Engine;
use crate::emit::micro::PANEL;
use crate::ir::Size;
use crate::kernel::Kernel;
use crate::kernel::linear::Linear;
use crate::kernel::winograd::{Image, factors};
use crate::math::winograd;
use inkwell::IntPredicate;
use inkwell::values::{IntValue, PointerValue};

/// Panels of a group: as many as [`super::contract`] takes together.
pub const PANELS: i64 = 16;
/// Vectors of points of one line in a panel: half of a vector of squares each.
pub const VECTORS: i64 = 4;
/// Most segments of a vector: as many as squares, of 4 bytes a point.
const SEGMENTS: i64 = 8;
/// Words that are known of a segment.
const WORDS: i64 = 32;
/// Bytes of what is known of the panels, at the beginning of scratch.
pub const KNOWN: i64 = PANELS * VECTORS * SEGMENTS * WORDS * 8;

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
    sizes: [Size; 2],
    /// Segments of each vector.
    pub segments: IntValue<'c>,
    /// How many code is written for: others are read one after the other.
    ways: Vec<Way>,
}

/// So many segments, or any number.
pub type Way = Option<i64>;

/// A vector of a segment: the address of its first lane, and the lanes inside.
pub type Piece<'c> = (IntValue<'c>, V<'c>);

/// Vectors, each put together of a piece of every segment.
pub enum Pieces<'p, 'c> {
    /// Of each segment.
    Known(Vec<Vec<Piece<'c>>>),
    /// Of a segment.
    Any(Box<dyn Fn(IntValue<'c>) -> Vec<Piece<'c>> + 'p>),
}

/// The image, cut into squares of that many results, and the address of what it is multiplied by.
pub fn cut<'e, 'a, 'k, 'c>(e: &'e Engine<'a, 'k, 'c>, sizes: &[Size]) -> Result<(Squares<'e, 'a, 'k, 'c>, Linear), String> {
    let kernel: &Kernel = e.w.kernel;
    let (image, other) = factors(kernel, e.c).ok_or_else(|| format!("kernel {}: windows of no known form", kernel.name))?;
    let sizes = [sizes[0].clone(), sizes[1].clone()];
    let lanes = PANEL / 2 / e.elements();
    // A vector's squares begin anywhere in a line, unless lines and vectors end together.
    let half = lanes / 2;
    let of = |line: i64| match (line % half, half % line) {
        (0, _) => 1,
        (_, 0) => half / line,
        _ => (half - 1 + line - 1) / line + 1,
    };
    let (segments, ways) = match sizes[1].as_const().map(|columns| of((columns + 1) / 2)) {
        Some(segments) => (e.int(segments), vec![Some(segments)]),
        None => {
            let line = e.divide(e.add(e.w.size(&sizes[1]), e.int(1)), e.int(2)).0;
            let pick = |none, n: i64, others: IntValue<'c>| {
                let none = e.is(IntPredicate::EQ, none, e.int(0));
                e.w.code.select(none.into(), e.int(n).into(), others.into()).into_int_value()
            };
            // Lines that are longer than a vector's squares share it with one other at most.
            let long = pick(e.divide(line, e.int(half)).1, 1, e.int(2));
            let segments = (1..half).fold(long, |others, short| pick(e.sub(line, e.int(short)), of(short), others));
            (segments, vec![Some(1), Some(2), None])
        }
    };
    Ok((Squares { e, image, lanes, sizes, segments, ways }, other))
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

    pub fn known(&self, panel: IntValue<'c>, vector: IntValue<'c>, segment: IntValue<'c>, n: i64) -> IntValue<'c> {
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

    /// What `body` writes in each way, done in that of so many segments.
    pub fn by_segments(&self, body: &dyn Fn(Way) -> Result<(), String>) -> Result<(), String> {
        if let [all] = self.ways[..] {
            return body(all);
        }
        let known = self.ways.iter().flatten().copied().max().unwrap_or(0);
        self.ways.iter().try_for_each(|way| {
            let relation = if way.is_some() { IntPredicate::EQ } else { IntPredicate::SGT };
            self.code().only_if(self.e.is(relation, self.segments, self.int(way.unwrap_or(known))), || body(*way))
        })
    }

    /// The vectors of which `of` says what a segment's pieces are.
    pub fn pieces<'p>(&self, way: Way, of: impl Fn(IntValue<'c>) -> Vec<Piece<'c>> + 'p) -> Pieces<'p, 'c> {
        match way {
            Some(segments) => Pieces::Known((0..segments).map(|n| of(self.int(n))).collect()),
            None => Pieces::Any(Box::new(of)),
        }
    }

    /// These vectors at places so many bytes behind.
    pub fn read(&self, pieces: &Pieces<'_, 'c>, offsets: &[IntValue<'c>]) -> Vec<V<'c>> {
        let (e, code) = (self.e, self.code());
        let (ty, align) = (code.ty(e.c.dtype.into(), self.lanes as u32), e.elements() as u32);
        let load = |(at, inside): &Piece<'c>, offset: &IntValue<'c>, others: V<'c>| {
            let args = vec![e.pointer(e.add(*at, *offset)).into(), *inside, others];
            code.masked("llvm.masked.load", &[ty, code.pointer()], args, 1, align).expect("a value")
        };
        let of = match pieces {
            Pieces::Known(segments) => {
                let read = |(n, offset)| segments.iter().fold(ty.const_zero(), |others, pieces| load(&pieces[n], offset, others));
                return offsets.iter().enumerate().map(read).collect();
            }
            Pieces::Any(of) => of,
        };
        let values: Vec<_> = offsets.iter().map(|_| code.variable(ty)).collect();
        values.iter().for_each(|value| code.set(*value, ty.const_zero()));
        let Ok(_) = code.range(self.int(0), self.segments, 1, |segment| {
            for ((piece, offset), value) in of(segment).iter().zip(offsets).zip(&values) {
                code.set(*value, load(piece, offset, code.get(ty, *value)));
            }
            Ok::<(), std::convert::Infallible>(())
        });
        values.iter().map(|value| code.get(ty, *value)).collect()
    }

    /// Writes down what is known of a panel's segments, from a square on, of so many in all; `note` is what more is known of one at an image, a line and
    /// a column: the variables of the image's address, and words.
    pub fn survey(&self, panel: IntValue<'c>, [start, total]: [IntValue<'c>; 2], note: Place<'_, 'c>) -> Result<(), String> {
        let (e, code) = (self.e, self.code());
        let i64t = code.ty(Elem::I64, 1);
        let half = self.lanes / 2;
        let sizes = [0, 1].map(|n| e.w.size(&self.sizes[n]));
        let [lines, across] = sizes.map(|n| e.divide(e.add(n, self.int(1)), self.int(2)).0);
        let done = code.variable(i64t);
        let two = self.int(2);
        code.range(self.int(0), self.int(VECTORS), 1, |vector| {
            let start = e.add(start, e.mul(vector, self.int(half)));
            code.set(done, self.int(0).into());
            code.range(self.int(0), self.segments, 1, |segment| {
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
                let results = self.bits(from, e.w.lesser(to, e.sub(sizes[1], first)));
                put(RESULTS, inside(some, results));
                let second = e.is(IntPredicate::SLT, e.add(top, self.int(1)), sizes[0]);
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
        let align = e.elements() as u32;
        let form = &self.image.form;
        let [line, next] = [1, 2].map(|n| e.bytes(&form.steps[outer + n]));
        let unit = form.steps[outer + 2].as_const() == Some(1);
        if !unit {
            return Err(format!("kernel {}: lines of the image are not contiguous", e.w.kernel.name));
        }
        self.by_segments(&|way| {
            code.range(self.int(0), self.int(2), 1, |half| {
                // Of each line of the window two vectors of its first and second columns, and two of the others.
                let lines = [0, 1, 2, 3].map(|a| {
                    self.pieces(way, move |segment| {
                        let known = |v: i64, n: i64| self.known(panel, e.add(e.mul(half, self.int(2)), self.int(v)), segment, n);
                        let piece = |of: i64, v: i64| (known(v, ADDRESS), e.mask(known(v, INSIDE + 2 * a + of), lanes));
                        vec![piece(0, 0), piece(0, 1), piece(1, 0), piece(1, 1)]
                    })
                });
                let place = e.mul(half, self.int(PANEL / 2));
                code.range(self.int(0), steps, 1, |k| {
                    let offset = e.add(from, e.mul(k, step));
                    let d = [0, 1, 2, 3].map(|a: usize| {
                        let first = e.add(offset, e.mul(line, self.int(a as i64)));
                        let third = e.add(first, e.mul(next, self.int(2)));
                        let values = self.read(&lines[a], &[first, first, third, third]);
                        let pair = |of: usize, odd: i64| {
                            let order: Vec<i64> = (0..self.lanes).map(|l| 2 * l + odd).collect();
                            e.w.code.shuffle(values[2 * of], values[2 * of + 1], &order)
                        };
                        [pair(0, 0), pair(0, 1), pair(1, 0), pair(1, 1)]
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
        })
    }
}
