//! Packing of windows whose steps lie along memory: piece by piece of an image's lines, each window masked to what of it lies inside.
//!
//! Of every window is written down where it lies and where that is in each axis that it may leave. B's are turned square by square, A's rows are copied.

use crate::emit::Level;
use crate::emit::code::{Elem, V};
use crate::emit::contract::{A_AT, A_ROW, CHECKS, Engine, Group, MASKS_AT, Panel};
use crate::emit::micro::PANEL;
use crate::emit::points::LANES;
use crate::ir::{Affine, IndexAtom, Size};
use crate::kernel::contract::by_steps;
use crate::kernel::linear::{Check, Linear, window};
use inkwell::IntPredicate;
use inkwell::values::{InstructionOpcode as Op, IntValue, PointerValue};

/// Steps that are one piece of memory in every window.
struct Piece<'c> {
    /// The first one's number in the block.
    at: IntValue<'c>,
    /// How many.
    length: IntValue<'c>,
    /// Bytes from a window's first step to the piece.
    offset: IntValue<'c>,
    /// The same in each check.
    moved: Vec<IntValue<'c>>,
}

impl<'c> Engine<'_, '_, 'c> {
    /// B where some steps of `k` are contiguous, however columns lie.
    pub fn b_windows(&self) -> Option<(Linear, Vec<Check>, i64)> {
        let (form, checks) = self.b_form()?;
        let apart = by_steps(self.w.kernel, self.stage, &form).filter(|apart| self.along(&form, &checks, *apart))?;
        Some((form, checks, apart))
    }

    /// A as a load that is contiguous along the last reduction variable, with what must hold for it not to be zero.
    pub fn a_window(&self) -> Option<(Linear, Vec<Check>)> {
        let ranges: Vec<Size> = self.w.kernel.outer.iter().chain(&self.stage.reds).cloned().collect();
        let (form, checks) = window(self.w.kernel, &self.stage.body[self.c.factors[0]], &ranges)?;
        let along = self.along(&form, &checks, 1) && checks.len() as i64 <= CHECKS;
        along.then_some((form, checks))
    }

    /// Whether the last reduction variable's steps are so many elements apart in memory, and in every check that knows it.
    fn along(&self, form: &Linear, checks: &[Check], apart: i64) -> bool {
        let last = self.w.kernel.outer.len() + self.stage.reds.len() - 1;
        let once = |a: &Affine| a.terms.iter().all(|(atom, c)| *atom != IndexAtom::Var(last) || c.as_const() == Some(apart));
        !self.stage.reds.is_empty() && form.steps[last].as_const() == Some(apart) && checks.iter().all(|(a, _)| once(a))
    }

    /// Packs a panel of windows: square blocks are turned in registers.
    pub fn turn_windows(
        &self,
        panel: &Panel<'c>,
        (form, checks, apart): &(Linear, Vec<Check>, i64),
        block: [IntValue<'c>; 2],
        to: PointerValue<'c>,
        level: Level,
    ) -> Result<(), String> {
        let code = &self.w.code;
        let apart = *apart;
        let bytes = self.elements();
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
        let masks = code.variable(words);
        self.window_pieces(form, checks, block, &mut |piece| {
            code.range(self.int(0), self.int(self.width), lanes, |column| {
                let inside = self.inside(checks, apart, &piece, lanes, &|n| code.load(words, table(n + 1, column), 8));
                code.range(self.int(0), piece.length, lanes, |x| {
                    code.set(masks, self.inside_bits(inside, apart, x, lanes));
                    let step = self.add(piece.offset, self.mul(x, self.int(bytes * apart)));
                    let rows = (0..lanes).map(|l| {
                        let column = self.add(column, self.int(l));
                        let from = self.pointer(self.add(self.load_word(table(0, column)), step));
                        let bits = self.load_word(code.element(Elem::I64, masks, self.int(l)));
                        let row = self.masked_load(vector, from, self.mask(bits, (lanes * apart) as u32), align);
                        if apart == 1 { row } else { self.w.code.shuffle(row, row, &(0..lanes).map(|l| l * apart).collect::<Vec<_>>()) }
                    });
                    let turned = self.w.code.transpose(rows.collect());
                    let corner = self.add(self.mul(self.add(piece.at, x), self.int(PANEL)), self.mul(column, self.int(bytes)));
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

    /// Packs tiles of A whose rows are windows. What is written beyond a piece the next one overwrites.
    pub fn copy_windows(
        &self,
        g: &Group<'c>,
        (form, checks): &(Linear, Vec<Check>),
        block: [IntValue<'c>; 2],
        tiles: [IntValue<'c>; 2],
    ) -> Result<(), String> {
        let code = &self.w.code;
        let (vector, words, align) = (code.ty(self.c.dtype.into(), LANES as u32), code.ty(Elem::I64, LANES as u32), self.elements() as u32);
        self.note_points(g, form, checks, tiles)?;
        let first = self.start(g, tiles[0]);
        let masks = code.variable(words);
        self.window_pieces(form, checks, block, &mut |piece| {
            code.range(tiles[0], tiles[1], 1, |tile| {
                let place = self.sub(tile, tiles[0]);
                let [start, end] = [tile, self.add(tile, self.int(1))].map(|tile| self.start(g, tile));
                let inside = self.inside(checks, 1, &piece, LANES, &|n| code.load(words, self.row_words(place, n + 1), 8));
                let to = self.add(self.mul(self.sub(start, first), self.int(A_ROW)), piece.at);
                code.range(self.int(0), piece.length, LANES, |x| {
                    code.set(masks, self.inside_bits(inside, 1, x, LANES));
                    let step = self.add(piece.offset, self.mul(x, self.int(self.elements())));
                    let to = self.add(to, x);
                    code.range(self.int(0), self.sub(end, start), 1, |r| {
                        let from = self.pointer(self.add(self.load_word(code.element(Elem::I64, self.row_words(place, 0), r)), step));
                        let bits = self.load_word(code.element(Elem::I64, masks, r));
                        let value = self.masked_load(vector, from, self.mask(bits, LANES as u32), align);
                        let to = self.add(to, self.mul(r, self.int(A_ROW)));
                        code.store(code.element(self.c.dtype.into(), self.at(A_AT), to), value, align);
                        Ok::<(), String>(())
                    })
                    .map(drop)
                })
                .map(drop)
            })
            .map(drop)
        })
    }

    /// Runs `body` for the pieces of some steps of a block.
    fn window_pieces(
        &self,
        form: &Linear,
        checks: &[Check],
        [block, steps]: [IntValue<'c>; 2],
        body: &mut dyn FnMut(Piece<'c>) -> Result<(), String>,
    ) -> Result<(), String> {
        let outer = self.w.kernel.outer.len();
        let joined = if checks.is_empty() { self.joined(form) } else { self.stage.reds.len() - 1 };
        let begin = vec![self.int(0); outer];
        self.pieces(joined, block, steps, &mut |at, reds, length| {
            let scope = self.scope(&begin, reds);
            let offset = reds.iter().enumerate().fold(self.int(0), |sum, (n, v)| self.add(sum, self.mul(*v, self.bytes(&form.steps[outer + n]))));
            let of_steps = |index: &Affine| Affine {
                terms: index.terms.iter().filter(|(atom, _)| matches!(atom, IndexAtom::Var(v) if *v >= outer)).cloned().collect(),
                constant: Size::default(),
            };
            let moved = checks.iter().map(|(index, _)| self.w.affine(&of_steps(index), &scope, true).into_int_value()).collect();
            body(Piece { at, length, offset, moved })
        })
    }

    /// The first step of a piece that lies inside of some windows, and the first one that no longer does; `starts` has their places in a check at first.
    fn inside(&self, checks: &[Check], apart: i64, piece: &Piece<'c>, windows: i64, starts: &dyn Fn(usize) -> V<'c>) -> [V<'c>; 2] {
        let code = &self.w.code;
        let last = self.w.kernel.outer.len() + self.stage.reds.len() - 1;
        let splat = |n: IntValue<'c>| code.splat(n.into(), windows as u32);
        let pick = |p, a: V<'c>, b: V<'c>| code.select(code.icmp(p, a, b), a, b);
        let (mut from, mut end) = (splat(self.int(0)), splat(piece.length));
        for (n, (index, size)) in checks.iter().enumerate() {
            let here = code.binary(Op::Add, starts(n), splat(piece.moved[n]));
            let size = splat(self.w.size(size));
            let mut along = false;
            index.visit_vars(&mut |v| along |= v == last);
            if along {
                // Rounded up.
                let up =
                    |n: V<'c>| if apart == 1 { n } else { code.binary(Op::AShr, code.binary(Op::Add, n, splat(self.int(1))), splat(self.int(1))) };
                from = pick(IntPredicate::SGT, up(code.binary(Op::Sub, splat(self.int(0)), here)), from);
                end = pick(IntPredicate::SLT, up(code.binary(Op::Sub, size, here)), end);
            } else {
                end = code.select(code.icmp(IntPredicate::ULT, here, size), end, splat(self.int(0)));
            }
        }
        [from, end]
    }

    /// Of each window, which of as many steps lie inside, from step `x` on: bits, every second one where steps are two elements apart.
    fn inside_bits(&self, [from, end]: [V<'c>; 2], apart: i64, x: IntValue<'c>, windows: i64) -> V<'c> {
        let code = &self.w.code;
        let splat = |n: IntValue<'c>| code.splat(n.into(), windows as u32);
        let pick = |p, a: V<'c>, b: V<'c>| code.select(code.icmp(p, a, b), a, b);
        // Bits of the steps before a number.
        let below = |n: V<'c>| {
            let n = code.binary(Op::Sub, n, splat(x));
            let n = pick(IntPredicate::SGT, n, splat(self.int(0)));
            let n = pick(IntPredicate::SLT, n, splat(self.int(windows)));
            let power = code.binary(Op::Shl, splat(self.int(1)), n);
            code.binary(Op::Sub, power, splat(self.int(1)))
        };
        let (before, within) = (below(from), below(end));
        let bits = code.binary(Op::And, within, code.binary(Op::Xor, before, splat(self.int(-1))));
        if apart == 1 {
            return bits;
        }
        [(8, 0x00ff_00ff), (4, 0x0f0f_0f0f), (2, 0x3333_3333), (1, 0x5555_5555)].into_iter().fold(bits, |bits, (by, mask)| {
            let both = code.binary(Op::Or, bits, code.binary(Op::Shl, bits, splat(self.int(by))));
            code.binary(Op::And, both, splat(self.int(mask)))
        })
    }
}
