//! Packing of A where rows are points of an image, windows of which are summed up: lanes along rows, which lie anywhere.
//!
//! Of every row of a tile is written down where it lies and where that is in the axes that its window may leave; then each step gathers a vector of
//! each tile. Weights that were packed in advance make the panels then, and no point of the image is computed on padding.

use crate::emit::code::{Elem, V};
use crate::emit::contract::{A_AT, A_ROW, CHECKS, Engine, Group, POINTS, POINTS_AT, TILE_STEP};
use crate::ir::{Affine, IndexAtom, Scalar, Size};
use crate::kernel::contract::ROWS;
use crate::kernel::linear::{Check, Linear, window};
use inkwell::IntPredicate;
use inkwell::values::{InstructionOpcode as Op, IntValue, PointerValue};

/// Rows of a vector, at least those of a tile.
pub const LANES: i64 = 16;
/// Steps of a run that is worth to be copied along itself.
const LONG_RUN: i64 = 16;

impl<'c> Engine<'_, '_, 'c> {
    /// A as a load with a linear address, with the indices that may lead out of the image, where neither rows nor many steps lie together.
    pub fn a_points(&self) -> Option<(Linear, Vec<Check>)> {
        if self.direct.is_some() || self.c.rows.is_empty() || self.c.reach.is_some() {
            return None;
        }
        let ranges: Vec<Size> = self.w.kernel.outer.iter().chain(&self.stage.reds).cloned().collect();
        let (form, checks) = window(self.w.kernel, &self.stage.body[self.c.factors[0]], &ranges)?;
        let long = self.stage.reds.last().is_none_or(|n| n.as_const().is_none_or(|n| n >= LONG_RUN));
        let along = self.a_window().is_some_and(|(form, checks)| long || checks.is_empty() && self.short_runs(&form).is_some());
        (!along && checks.len() as i64 <= CHECKS && !self.stage.reds.is_empty()).then_some((form, checks))
    }

    /// Where word number `n` of a tile's rows stands.
    pub fn row_words(&self, tile: IntValue<'c>, n: usize) -> PointerValue<'c> {
        let number = self.add(self.mul(tile, self.int(1 + CHECKS)), self.int(n as i64));
        self.w.code.element(Elem::I8, self.at(POINTS_AT), self.mul(number, self.int(POINTS)))
    }

    /// Packs steps of tiles of A, each `[k][rows]`. Lanes beyond a tile's rows repeat the last one; what they write the next step overwrites.
    pub fn gather_points(
        &self,
        g: &Group<'c>,
        form: &Linear,
        checks: &[Check],
        [block, from, to]: [IntValue<'c>; 3],
        tiles: [IntValue<'c>; 2],
    ) -> Result<(), String> {
        let (code, outer) = (&self.w.code, self.w.kernel.outer.len());
        let (ty, align) = (code.ty(self.c.dtype.into(), LANES as u32), self.elements() as u32);
        let words = code.ty(Elem::I64, LANES as u32);
        let spread = |n: IntValue<'c>| code.splat(n.into(), LANES as u32);
        self.note_points(g, form, checks, tiles)?;
        self.walk(self.add(block, from), self.sub(to, from), &mut |k, reds| {
            let k = self.add(from, k);
            let along = |sum: IntValue<'c>, n: usize, step: &Size| self.add(sum, self.mul(reds[n], self.w.size(step)));
            let elements = (0..reds.len()).fold(self.int(0), |sum, n| along(sum, n, &form.steps[outer + n]));
            let offset = spread(self.mul(elements, self.int(self.elements())));
            let tap = |index: &Affine| {
                index.terms.iter().fold(self.int(0), |sum, (atom, step)| match atom {
                    IndexAtom::Var(v) if *v >= outer => along(sum, *v - outer, step),
                    _ => sum,
                })
            };
            let moved: Vec<V<'c>> = checks.iter().map(|(index, _)| spread(tap(index))).collect();
            code.range(tiles[0], tiles[1], 1, |tile| {
                let place = self.sub(tile, tiles[0]);
                let known = |n: usize| code.load(words, self.row_words(place, n), 8);
                let all = code.constant(Scalar::bool(true), LANES as u32);
                let inside = checks.iter().zip(&moved).enumerate().fold(all, |all, (n, ((_, size), moved))| {
                    let index = code.binary(Op::Add, known(1 + n), *moved);
                    code.both(all, code.icmp(IntPredicate::ULT, index, spread(self.w.size(size))))
                });
                let at = code.binary(Op::Add, known(0), offset);
                let at = code.convert(Op::IntToPtr, at, code.pointer().into_pointer_type().vec_type(LANES as u32).into());
                let args = vec![at, inside, ty.const_zero()];
                let value = code.masked("llvm.masked.gather", &[ty, at.get_type()], args, 1, align).expect("a value");
                let to = self.add(self.mul(place, self.int(A_ROW * ROWS)), self.mul(k, self.int(TILE_STEP)));
                code.store(code.element(self.c.dtype.into(), self.at(A_AT), to), value, align);
                Ok::<(), String>(())
            })?;
            Ok(())
        })
    }

    /// Writes down of every row of some tiles its address at the first step, and the indices that may lead out of the image there.
    pub fn note_points(&self, g: &Group<'c>, form: &Linear, checks: &[Check], tiles: [IntValue<'c>; 2]) -> Result<(), String> {
        let code = &self.w.code;
        let start = vec![self.int(0); self.stage.reds.len()];
        code.range(tiles[0], tiles[1], 1, |tile| {
            let first = self.start(g, tile);
            let last = self.sub(self.start(g, self.add(tile, self.int(1))), self.int(1));
            code.range(self.int(0), self.int(LANES), 1, |lane| {
                let mut point = g.point.clone();
                self.set(&self.c.rows, self.w.lesser(self.add(first, lane), last), &mut point);
                let at: Vec<_> = self.c.batch.iter().chain(&self.c.rows).map(|v| (*v, point[*v])).collect();
                let scope = self.scope(&point, &start);
                let indices = checks.iter().map(|(index, _)| self.w.affine(index, &scope, true).into_int_value());
                for (n, word) in std::iter::once(self.form(form, &at)).chain(indices).enumerate() {
                    let to = code.element(Elem::I64, self.row_words(self.sub(tile, tiles[0]), n), lane);
                    code.store(to, word.into(), 8);
                }
                Ok::<(), String>(())
            })?;
            Ok::<(), String>(())
        })?;
        Ok(())
    }
}
