//! Products of f32 by tensor units, which look at 11 bits of a factor: each factor is cut into two such pieces, and of their four products the three that
//! matter are added up, the small ones first.
//!
//! What is left is about 2^-22 of a product. Sums are joined every 256 steps, as the plain units' are, so that what the units cut off when they add does
//! not pile up. An infinite factor has no second piece, and its first one meets first pieces alone, so that its products are what they are everywhere: infinite,
//! or NaN with 0. (A factor below 2^-136, whose first piece is 0, counts as 0 there.)

use super::tiles::Tiles;
use crate::emit::code::V;
use crate::ir::{DType, ScalarOp};
use inkwell::IntPredicate;
use inkwell::values::{InstructionOpcode, IntValue, PointerValue};

/// Rows, columns and steps of what the units multiply at a time.
const ROWS: i64 = 16;
const COLUMNS: i64 = 8;
const STEPS: i64 = 8;
/// Rows and columns of a warp, and such pieces in them.
const WARP: i64 = 32;
const DOWN: i64 = WARP / ROWS;
const ACROSS: i64 = WARP / COLUMNS;
/// Bits of a factor that the units look at.
const SEEN: u64 = 0xffff_e000;

/// A number's pieces: its first bits; those that follow, where it is finite; its first bits, where it is finite. Elsewhere they are 0.
const LARGE: usize = 0;
const REST: usize = 1;
const TAME: usize = 2;

impl<'c> Tiles<'_, '_, 'c> {
    /// First row and column of the thread's warp in the tile, and the thread's group of four and number in it.
    fn in_warp(&self) -> [IntValue<'c>; 4] {
        let (warp, lane) = self.divide(self.thread, self.int(32));
        let (column, row) = self.divide(warp, self.int(2));
        let (group, number) = self.divide(lane, self.int(4));
        [self.mul(row, self.int(WARP)), self.mul(column, self.int(WARP)), group, number]
    }

    /// Row and column in the tile of the thread's sum number `n`.
    pub(super) fn unit_place(&self, n: i64) -> [IntValue<'c>; 2] {
        let [row, column, group, number] = self.in_warp();
        let (piece, part) = (n / 4, n % 4);
        let row = self.add(self.add(row, group), self.int(piece / ACROSS * ROWS + part / 2 * 8));
        let beside = self.add(self.mul(number, self.int(2)), self.int(piece % ACROSS * COLUMNS + part % 2));
        [row, self.add(column, beside)]
    }

    /// Adds the products of so many steps in shared memory to the thread's chains.
    pub(super) fn multiply_by_units(&self, chains: &[PointerValue<'c>], steps: i64) {
        let (code, [row, column, group, number]) = (&self.w.code, self.in_warp());
        let real = code.ty(DType::F32.into(), 1);
        for first in (0..steps).step_by(STEPS as usize) {
            let piece = |factor: usize, start: IntValue<'c>, step: i64, along: i64| {
                let along = self.add(self.add(start, group), self.int(along));
                self.pieces(self.read(self.at(factor, self.add(number, self.int(first + step)), along)))
            };
            let halves = |all: Vec<[V<'c>; 3]>| -> [Vec<V<'c>>; 3] { [0, 1, 2].map(|half| all.iter().map(|p| p[half]).collect()) };
            let a: Vec<_> =
                (0..DOWN).map(|r| halves([(0, 0), (0, 8), (4, 0), (4, 8)].map(|(k, below)| piece(0, row, k, r * ROWS + below)).to_vec())).collect();
            let b: Vec<_> = (0..ACROSS).map(|c| halves([0, 4].map(|k| piece(1, column, k, c * COLUMNS)).to_vec())).collect();
            for (n, (a, b)) in a.iter().flat_map(|a| b.iter().map(move |b| (a, b))).enumerate() {
                let mine = &chains[n * 4..][..4];
                let mut sum: [V<'c>; 4] = std::array::from_fn(|i| code.get(real, mine[i]));
                for (of_a, of_b) in [(REST, TAME), (TAME, REST), (LARGE, LARGE)] {
                    sum = code.tensor_product(std::array::from_fn(|i| a[of_a][i]), std::array::from_fn(|i| b[of_b][i]), sum);
                }
                mine.iter().zip(sum).for_each(|(chain, sum)| code.set(*chain, sum));
            }
        }
    }

    /// The pieces of a number, as words.
    fn pieces(&self, x: V<'c>) -> [V<'c>; 3] {
        let code = &self.w.code;
        let (real, word) = (x.get_type(), code.context.i32_type());
        let constant = |n: u64| -> V<'c> { word.const_int(n, false).into() };
        let and = |a: V<'c>, bits: u64| code.binary(InstructionOpcode::And, a, constant(bits));
        let bits = code.convert(InstructionOpcode::BitCast, x, word.into());
        let large = and(bits, SEEN);
        let rest = self.w.op(ScalarOp::Sub, &[x, code.convert(InstructionOpcode::BitCast, large, real)]);
        let exponent = 0x7f80_0000;
        let finite = code.icmp(IntPredicate::NE, and(bits, exponent), constant(exponent));
        let rest = and(code.convert(InstructionOpcode::BitCast, rest, word.into()), SEEN);
        [large, code.select(finite, rest, constant(0)), code.select(finite, large, constant(0))]
    }
}
