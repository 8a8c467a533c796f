//! Gradients of windows' weights in lanes along lines of points ([`Fold::DotLines`](crate::ir::Fold::DotLines)).
//!
//! Rows are channels of the results, columns windows: channels and taps of the image. Nothing is turned: a vector of a line of the results' gradient meets
//! the windows' vectors of the same points, each of them 16 sums beside each other.
//!
//! ```text
//! for each panel of windows, for each 8 tiles of rows:
//!   for each block of 32 lines and 256 columns of an image:
//!     copy what the windows see of the image, zero outside            (it stays in the first cache, where channels are few)
//!     for each 3 rows, for each 9 windows (fewer where there are fewer registers):
//!       for each line, for each vector of points: 27 multiply-adds, sums in registers
//!       sums += those of the block
//!   join the lanes; the kernel's other stages, row by row
//! ```

use crate::emit::Level;
use crate::emit::code::{Code, Elem, V, ok};
use crate::emit::contract::{Engine, Group};
use crate::emit::dense::LINE;
use crate::emit::micro::PANEL;
use crate::ir::{DType, Scalar, ScalarOp};
use crate::kernel::Kernel;
use crate::kernel::contract::{Contraction, ROWS, panel};
use crate::kernel::linear::Linear;
use crate::kernel::lower::product;
use crate::kernel::winograd::{Image, factors};
use crate::math::lines::{COLUMNS, LANES, LINES};
use inkwell::IntPredicate;
use inkwell::types::BasicTypeEnum;
use inkwell::values::{IntValue, PointerValue};

/// Tiles whose sums wait together.
const TILES: i64 = 8;
/// Rows that are multiplied together.
const HIGH: i64 = 3;
/// Most points of a window along an axis.
const TAPS: i64 = 16;
/// Most windows that are multiplied together.
const WIDE: i64 = 9;

/// Most vectors of a line that are written one after the other, without a loop.
const SHORT: i64 = 4;

/// Where windows lie in the copy; then come sums, joined sums of a tile, the copy.
const OFFSETS_AT: i64 = 0;
const SUMS_AT: i64 = 8 * LINE;

const _: () = assert!((PANEL / 4 + WIDE) * 8 <= SUMS_AT, "a word for each window");

/// Bytes of one sum's lanes, of a row's sums (windows beyond the last repeat it; not a power of two, so that rows do not meet in one set of a cache), of a
/// line of the copy.
fn sum(c: &Contraction) -> i64 {
    LANES * c.dtype.bytes() as i64
}

fn row(c: &Contraction) -> i64 {
    (panel(c.dtype) + WIDE) * sum(c)
}

fn line(c: &Contraction) -> i64 {
    ((COLUMNS + 2 * TAPS) * c.dtype.bytes() as i64) | LINE
}

fn joined_at(c: &Contraction) -> i64 {
    SUMS_AT + TILES * ROWS * row(c)
}

fn copy_at(c: &Contraction) -> i64 {
    joined_at(c) + ROWS * PANEL
}

/// Points of the window along both axes.
fn taps(kernel: &Kernel) -> [i64; 2] {
    let last = kernel.outer.len() - 2;
    [last, last + 1].map(|v| kernel.outer[v].as_const().unwrap_or(TAPS))
}

/// Channels that a panel's windows may belong to.
fn channels(kernel: &Kernel, c: &Contraction) -> i64 {
    let [r, s] = taps(kernel);
    (panel(c.dtype) - 1 + r * s - 1) / (r * s) + 1
}

/// Bytes of a channel's lines in the copy.
fn plane(kernel: &Kernel, c: &Contraction) -> i64 {
    (LINES + taps(kernel)[0] - 1) * line(c)
}

/// Bytes of scratch that the kernel needs; vectors at the end of lines are read whole.
pub fn scratch(kernel: &Kernel, c: &Contraction) -> i64 {
    copy_at(c) + channels(kernel, c) * plane(kernel, c) + PANEL
}

/// The gradient being written.
struct Lines<'e, 'a, 'k, 'c> {
    e: &'e Engine<'a, 'k, 'c>,
    level: Level,
    image: Image,
    gradient: Linear,
    /// Lanes of a vector.
    lanes: i64,
    /// Windows that are multiplied together.
    wide: i64,
    /// Of those, how many after each other lie beside each other in the copy: the window's lines, where passes begin with them.
    run: i64,
    /// Columns of the copy before those that windows' first points see: so that the middle ones lie on cache lines.
    shift: i64,
}

/// Points of a block: the first one, and how many lines and columns.
struct Block<'c> {
    first: [IntValue<'c>; 3],
    size: [IntValue<'c>; 2],
    /// Whether it is the first one.
    begins: IntValue<'c>,
}

/// A panel's windows.
struct Windows<'c> {
    /// The first one's channel, and of how many they are.
    channels: [IntValue<'c>; 2],
    count: IntValue<'c>,
}

/// A group of the contraction's tasks.
pub fn group<'c>(e: &Engine<'_, '_, 'c>, g: &Group<'c>, level: Level) -> Result<(), String> {
    let (image, gradient) = factors(e.w.kernel, e.c).ok_or_else(|| format!("kernel {}: windows of no known form", e.w.kernel.name))?;
    let outer = e.w.kernel.outer.len();
    if [&image.form, &gradient].iter().any(|form| form.steps[outer + 2].as_const() != Some(1)) {
        return Err(format!("kernel {}: lines are not contiguous", e.w.kernel.name));
    }
    let (registers, wide) = if level == Level::V4 { (64, WIDE) } else { (32, 4) };
    // Where as few passes do, equal ones.
    let all = e.c.width(&e.w.kernel.outer).as_const();
    let windows = all.map_or(e.width, |n| n.min(e.width));
    let passes = (windows + wide - 1) / wide;
    let wide = (windows + passes - 1) / passes;
    let along = taps(e.w.kernel)[1];
    let run = if all == Some(windows) && windows % wide == 0 && wide % along == 0 { along } else { 1 };
    let before = image.axes[1].0;
    let shift = if (-TAPS..=0).contains(&before) { TAPS + before } else { 0 };
    Lines { e, level, image, gradient, lanes: registers / e.elements(), wide, run, shift }.group(g)
}

impl<'c> Lines<'_, '_, '_, 'c> {
    fn code(&self) -> &Code<'c> {
        &self.e.w.code
    }

    fn int(&self, n: i64) -> IntValue<'c> {
        self.e.int(n)
    }

    fn vector(&self) -> BasicTypeEnum<'c> {
        self.code().ty(self.e.c.dtype.into(), self.lanes as u32)
    }

    /// The place `bytes` behind this one in scratch.
    fn at(&self, base: i64, bytes: IntValue<'c>) -> PointerValue<'c> {
        self.code().element(Elem::I8, self.e.at(base), bytes)
    }

    fn group(&self, g: &Group<'c>) -> Result<(), String> {
        let (e, code, zero) = (self.e, self.code(), self.int(0));
        let [images, height, width] = [0, 1, 2].map(|n| e.w.size(&e.stage.reds[n]));
        let empty = e.is(IntPredicate::SLE, e.w.size(&product(&e.stage.reds)), zero);
        code.range(zero, g.count, 1, |panel| {
            let windows = self.windows(g, panel)?;
            code.range(g.from, g.to, TILES, |tile| {
                let rows = [e.start(g, tile), e.start(g, e.w.lesser(g.to, e.add(tile, self.int(TILES))))];
                code.only_if(empty, || self.clear(rows))?;
                code.range(zero, images, 1, |image| {
                    code.range(zero, height, LINES, |top| {
                        code.range(zero, width, COLUMNS, |left| {
                            let size = [(top, LINES, height), (left, COLUMNS, width)]
                                .map(|(from, most, size)| e.w.lesser(self.int(most), e.sub(size, from)));
                            let begins = e.is(IntPredicate::EQ, ok(code.builder.build_or(ok(code.builder.build_or(image, top, "")), left, "")), zero);
                            let block = Block { first: [image, top, left], size, begins };
                            self.copy(g, &windows, &block)?;
                            self.block(g, &windows, &block, rows)
                        })
                        .map(drop)
                    })
                    .map(drop)
                })?;
                self.finish(g, panel, rows)
            })
            .map(drop)
        })
        .map(drop)
    }

    /// Where a panel's windows lie in the copy. Beyond the last one it is there again.
    fn windows(&self, g: &Group<'c>, number: IntValue<'c>) -> Result<Windows<'c>, String> {
        let (e, code) = (self.e, self.code());
        let panel = e.panel(g, number);
        let [r, s] = taps(e.w.kernel);
        let highest = e.sub(panel.columns, self.int(1));
        let channel = |window: IntValue<'c>| e.divide(window, self.int(r * s));
        let first = channel(panel.first).0;
        code.range(self.int(0), self.int(e.width + WIDE), 1, |n| {
            let (own, tap) = channel(e.add(panel.first, e.w.lesser(n, highest)));
            let (down, along) = e.divide(tap, self.int(s));
            let line = e.add(e.mul(down, self.int(line(e.c))), e.mul(e.add(along, self.int(self.shift)), self.int(e.elements())));
            let offset = e.add(e.mul(e.sub(own, first), self.int(plane(e.w.kernel, e.c))), line);
            code.store(self.at(OFFSETS_AT, e.mul(n, self.int(8))), offset.into(), 8);
            Ok::<(), String>(())
        })?;
        let last = channel(e.add(panel.first, highest)).0;
        Ok(Windows { channels: [first, e.add(e.sub(last, first), self.int(1))], count: panel.columns })
    }

    /// Copies what the windows see of the image at a block's points.
    fn copy(&self, g: &Group<'c>, windows: &Windows<'c>, block: &Block<'c>) -> Result<(), String> {
        let (e, code, outer) = (self.e, self.code(), self.e.w.kernel.outer.len());
        let (lanes, align) = (self.lanes as u32, e.elements() as u32);
        let ([r, s], [(above, height), (before, width)]) = (taps(e.w.kernel), &self.image.axes);
        let [image, top, left] = block.first;
        // The first column that is copied, in the image.
        let first = e.add(left, self.int(before - self.shift));
        let columns = e.add(block.size[1], self.int(self.shift + s - 1));
        let below = e.bytes(&self.image.form.steps[outer + 1]);
        code.range(self.int(0), windows.channels[1], 1, |channel| {
            let mut point = g.point.clone();
            let [channels @ .., _, _] = &e.c.columns[..] else { return Err("windows have two axes".to_string()) };
            e.set(channels, e.add(windows.channels[0], channel), &mut point);
            let known: Vec<_> = e.c.batch.iter().chain(channels).map(|v| (*v, point[*v])).chain([(outer, image), (outer + 1, top)]).collect();
            let from = e.add(e.form(&self.image.form, &known), e.mul(e.sub(left, self.int(self.shift)), self.int(e.elements())));
            code.range(self.int(0), e.add(block.size[0], self.int(r - 1)), 1, |own| {
                let inside = e.is(IntPredicate::ULT, e.add(e.add(top, own), self.int(*above)), e.w.size(height));
                let from = e.add(from, e.mul(own, below));
                let to = e.add(e.mul(channel, self.int(plane(e.w.kernel, e.c))), e.mul(own, self.int(line(e.c))));
                // Outside nothing is below the width.
                let width = code.select(inside.into(), e.w.size(width).into(), self.int(0).into());
                code.range(self.int(0), columns, self.lanes, |column| {
                    let number = code.binary(
                        inkwell::values::InstructionOpcode::Add,
                        code.lane_numbers(lanes),
                        code.splat(e.add(first, column).into(), lanes),
                    );
                    let mask = code.icmp(IntPredicate::ULT, number, code.splat(width, lanes));
                    let bytes = e.mul(column, self.int(e.elements()));
                    let value = e.masked_load(self.vector(), e.pointer(e.add(from, bytes)), mask, align);
                    code.store(self.at(copy_at(e.c), e.add(to, bytes)), value, align);
                    Ok::<(), String>(())
                })
                .map(drop)
            })
            .map(drop)
        })
        .map(drop)
    }

    /// Adds what a block gives to the sums of some rows.
    fn block(&self, g: &Group<'c>, windows: &Windows<'c>, block: &Block<'c>, [from, to]: [IntValue<'c>; 2]) -> Result<(), String> {
        let (e, code, outer) = (self.e, self.code(), self.e.w.kernel.outer.len());
        let known: Vec<_> =
            e.c.batch.iter().map(|v| (*v, g.point[*v])).chain(block.first.into_iter().enumerate().map(|(n, v)| (outer + n, v))).collect();
        let gradient = e.form(&self.gradient, &known);
        let apart = e.c.rows.first().map_or(self.int(0), |v| e.bytes(&self.gradient.steps[*v]));
        code.range_on(from, to, |row| {
            // Two and two of the last four.
            let left = e.sub(to, row);
            let four = e.is(IntPredicate::EQ, left, self.int(4));
            let count = code.select(four.into(), self.int(2).into(), e.w.lesser(left, self.int(HIGH)).into()).into_int_value();
            let own = e.add(gradient, e.mul(row, apart));
            let sums = e.mul(e.sub(row, from), self.int(crate::emit::lines::row(e.c)));
            let next = e.add(own, e.mul(count, apart));
            for high in 1..=HIGH {
                code.only_if(e.is(IntPredicate::EQ, count, self.int(high)), || {
                    code.range(self.int(0), windows.count, self.wide, |window| {
                        let (pass, _) = e.divide(window, self.int(self.wide));
                        let ahead = e.add(next, e.mul(e.w.lesser(pass, self.int(high - 1)), apart));
                        let sums = e.add(sums, e.mul(window, self.int(sum(e.c))));
                        self.multiply(block, [own, apart, ahead], window, self.at(SUMS_AT, sums), high)
                    })
                    .map(drop)
                })?;
            }
            Ok::<_, String>(e.add(row, count))
        })
        .map(drop)
    }

    /// Adds what a block gives to the sums of a few rows and windows. The gradient's address at the first row, bytes to the next row's, and what is asked for
    /// meanwhile.
    fn multiply(
        &self,
        block: &Block<'c>,
        [gradient, apart, ahead]: [IntValue<'c>; 3],
        window: IntValue<'c>,
        sums: PointerValue<'c>,
        high: i64,
    ) -> Result<(), String> {
        let (e, code, outer) = (self.e, self.code(), self.e.w.kernel.outer.len());
        let (vector, align) = (self.vector(), e.elements() as u32);
        let offsets = self.at(OFFSETS_AT, e.mul(window, self.int(8)));
        let copy = e.address(e.at(copy_at(e.c)));
        let start = |n: i64| e.add(copy, code.load(code.ty(Elem::I64, 1), code.element(Elem::I64, offsets, self.int(n)), 8).into_int_value());
        let starts: Vec<IntValue<'c>> = (0..self.wide).step_by(self.run as usize).map(start).collect();
        let images: Vec<(IntValue<'c>, i64)> = (0..self.wide).map(|n| (starts[(n / self.run) as usize], n % self.run * e.elements())).collect();
        let gradients: Vec<IntValue<'c>> = (0..high).map(|n| e.add(gradient, e.mul(self.int(n), apart))).collect();
        let below = e.bytes(&self.gradient.steps[outer + 1]);
        let [lines, columns] = block.size;
        let (whole, rest) = e.divide(columns, self.int(LANES));
        let whole = e.mul(whole, self.int(sum(e.c)));
        // Whether there may be points that fill no lanes.
        let ragged = e.stage.reds[2].as_const().is_none_or(|n| n % LANES != 0);
        code.range(self.int(0), self.int(LANES), self.lanes, |part| {
            let first = e.mul(part, self.int(e.elements()));
            let bits = ok(code.builder.build_left_shift(self.int(1), rest, ""));
            let bits = ok(code.builder.build_right_shift(e.sub(bits, self.int(1)), part, false, ""));
            let some = e.mask(bits, self.lanes as u32);
            let chains: Vec<Vec<PointerValue<'c>>> = gradients.iter().map(|_| images.iter().map(|_| code.variable(vector)).collect()).collect();
            chains.iter().flatten().for_each(|chain| code.set(*chain, vector.const_zero()));
            code.range(self.int(0), lines, 1, |own| {
                let image = e.add(first, e.mul(own, self.int(line(e.c))));
                let place = e.add(first, e.mul(own, below));
                // At a place of the line, and so many bytes behind.
                let step = |bytes: IntValue<'c>, behind: i64, mask: Option<V<'c>>| {
                    let (image, place) = (e.add(image, bytes), e.add(place, bytes));
                    let at = |of: IntValue<'c>| code.element(Elem::I8, e.pointer(e.add(of, place)), self.int(behind));
                    code.prefetch_near(at(ahead));
                    let load = |from| mask.map_or_else(|| code.load(vector, from, align), |mask| e.masked_load(vector, from, mask, align));
                    let gradients: Vec<V<'c>> = gradients.iter().map(|gradient| load(at(*gradient))).collect();
                    for (n, (own, beside)) in images.iter().enumerate() {
                        let before: Vec<V<'c>> = chains.iter().map(|chains| code.get(vector, chains[n])).collect();
                        let after = self.multiply_add([*own, image], beside + behind, &gradients, &before, mask);
                        chains.iter().zip(after).for_each(|(chains, after)| code.set(chains[n], after));
                    }
                };
                match e.stage.reds[2].as_const().map(|n| n / LANES).filter(|n| *n <= SHORT) {
                    Some(short) => (0..short).for_each(|n| step(self.int(0), n * sum(e.c), None)),
                    None => code
                        .range(self.int(0), whole, sum(e.c), |bytes| {
                            step(bytes, 0, None);
                            Ok::<(), String>(())
                        })
                        .map(drop)?,
                }
                if ragged {
                    code.only_if(e.is(IntPredicate::SGT, rest, self.int(0)), || {
                        step(whole, 0, Some(some));
                        Ok::<(), String>(())
                    })?;
                }
                Ok::<(), String>(())
            })?;
            // Adding to -0 changes nothing.
            let nothing = code.constant(Scalar::float(e.c.dtype, -0.0), self.lanes as u32);
            for (n, chains) in (0..).zip(&chains) {
                for (m, chain) in (0..).zip(chains) {
                    let at = code.element(Elem::I8, sums, e.add(first, self.int(n * row(e.c) + m * sum(e.c))));
                    let before = code.select(block.begins.into(), nothing, code.load(vector, at, align));
                    code.store(at, e.w.op(ScalarOp::Add, &[before, code.get(vector, *chain)]), align);
                }
            }
            Ok::<(), String>(())
        })
        .map(drop)
    }

    /// Multiplies a vector of the image at an address, an index and a number of bytes with those of some rows, and adds that to their sums, where the mask
    /// says so. With 32 registers this is one piece of assembly: 31 are in use, and LLVM, which would load other vectors sooner, would spill.
    fn multiply_add(&self, [base, index]: [IntValue<'c>; 2], behind: i64, gradients: &[V<'c>], sums: &[V<'c>], mask: Option<V<'c>>) -> Vec<V<'c>> {
        let (e, code, vector) = (self.e, self.code(), self.vector());
        if self.level == Level::V3 {
            let at = code.element(Elem::I8, e.pointer(e.add(base, index)), self.int(behind));
            let pixels = code.load(vector, at, e.elements() as u32);
            let add = |(gradient, before): (&V<'c>, &V<'c>)| {
                let after = e.w.op(ScalarOp::Fma, &[*gradient, pixels, *before]);
                mask.map_or(after, |mask| code.select(mask, after, *before))
            };
            return gradients.iter().zip(sums).map(add).collect();
        }
        let high = gradients.len();
        let suffix = if e.c.dtype == DType::F64 { "pd" } else { "ps" };
        // Operands: sums, the image's vector, gradients, address and index, the sums as they were, the mask.
        let [image, first, base_at, index_at, mask_at] = [high, high + 1, 2 * high + 1, 2 * high + 2, 3 * high + 3];
        let mut text = format!("vmovu{suffix} {behind}(${base_at},${index_at}), ${image}");
        let under = if mask.is_some() { format!(" {{${mask_at}}}") } else { String::new() };
        (0..high).for_each(|n| text += &format!("\n\tvfmadd231{suffix} ${image}, ${}, ${n}{under}", first + n));
        let tied: Vec<String> = (0..high).map(|n| n.to_string()).collect();
        let mut constraints = [vec!["=&v".to_string(); high + 1], vec!["v".to_string(); high], vec!["r".to_string(); 2], tied].concat();
        let mut args: Vec<V<'c>> = [gradients, &[base.into(), index.into()], sums].concat();
        if let Some(mask) = mask {
            let bits = ok(code.context.custom_width_int_type(std::num::NonZeroU32::new(self.lanes as u32).expect("lanes")));
            args.push(ok(code.builder.build_bit_cast(mask, bits, "")));
            constraints.push("^Yk".into());
        }
        constraints.push("~{memory}".into());
        let types: Vec<_> = args.iter().map(|v| v.get_type().into()).collect();
        let ty = code.context.struct_type(&vec![vector; high + 1], false).fn_type(&types, false);
        let assembly = code.context.create_inline_asm(ty, text, constraints.join(","), true, false, None, false);
        let args: Vec<_> = args.into_iter().map(Into::into).collect();
        let results =
            ok(code.builder.build_indirect_call(ty, assembly, &args, "")).try_as_basic_value().expect_basic("a structure").into_struct_value();
        (0..high).map(|n| ok(code.builder.build_extract_value(results, n as u32, ""))).collect()
    }

    /// The sums of some rows where there are no points.
    fn clear(&self, [from, to]: [IntValue<'c>; 2]) -> Result<(), String> {
        let (e, code) = (self.e, self.code());
        let bytes = e.mul(e.sub(to, from), self.int(row(e.c)));
        code.range(self.int(0), bytes, self.lanes * e.elements(), |at| {
            code.store(self.at(SUMS_AT, at), self.vector().const_zero(), e.elements() as u32);
            Ok::<(), String>(())
        })
        .map(drop)
    }

    /// Joins lanes, and runs the kernel's other stages, a tile's height of rows at a time.
    fn finish(&self, g: &Group<'c>, panel: IntValue<'c>, [from, to]: [IntValue<'c>; 2]) -> Result<(), String> {
        let (e, code) = (self.e, self.code());
        let (ty, align) = (code.ty(e.c.dtype.into(), LANES as u32), e.elements() as u32);
        let panel = e.panel(g, panel);
        code.range(from, to, ROWS, |first| {
            let rows = e.w.lesser(self.int(ROWS), e.sub(to, first));
            e.ask_ahead(&panel, first, rows)?;
            code.range(self.int(0), rows, 1, |own| {
                let sums = e.mul(e.add(e.sub(first, from), own), self.int(row(e.c)));
                code.range(self.int(0), panel.columns, LANES, |column| {
                    let at = e.add(sums, e.mul(column, self.int(sum(e.c))));
                    let of = |n: i64| code.load(ty, self.at(SUMS_AT + n * sum(e.c), at), align);
                    let mut lanes = e.w.code.transpose((0..LANES).map(of).collect());
                    for half in [8, 4, 2, 1] {
                        lanes = (0..half).map(|lane| e.w.op(ScalarOp::Add, &[lanes[lane], lanes[lane + half]])).collect();
                    }
                    let to = e.add(e.mul(own, self.int(PANEL)), e.mul(column, self.int(e.elements())));
                    code.store(self.at(joined_at(e.c), to), lanes[0], align);
                    Ok::<(), String>(())
                })
                .map(drop)
            })?;
            e.rows(&panel, first, rows, e.at(joined_at(e.c)))
        })
        .map(drop)
    }
}
