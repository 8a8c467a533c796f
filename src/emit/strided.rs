//! Loads of lanes a few elements apart, and of elements that a few neighbouring lanes share: whole vectors of what lies there, and a shuffle. A
//! gather reads one element after the other.

use crate::emit::body::{Writer, stored};
use crate::emit::code::{Code, V, ok};
use crate::ir::Scalar;
use inkwell::types::VectorType;
use inkwell::values::{BasicValueEnum, IntValue};

/// Largest distance of lanes that is worth it.
const FARTHEST: i64 = 4;

/// Whether lanes so far apart are read this way.
pub fn near(step: i64) -> bool {
    (2..=FARTHEST).contains(&step)
}

impl<'c> Writer<'_, 'c> {
    /// Elements `step` apart for 16 lanes, the first at `first`; where the mask (in all lanes, if there is none) does not hold, what `other` has there.
    /// Nothing behind the last element is touched.
    pub fn strided(&self, param: usize, first: IntValue<'c>, step: i64, mask: Option<V<'c>>, other: V<'c>) -> V<'c> {
        let code = &self.code;
        let dtype = self.kernel.params[param].dtype;
        let (elem, align) = (stored(dtype), dtype.bytes() as u32);
        let ty = code.ty(elem, 16);
        let all = code.constant(Scalar::bool(true), 16);
        let none = all.get_type().const_zero();
        let pieces: Vec<V<'c>> = (0..step)
            .map(|piece| {
                let at = ok(code.builder.build_int_add(first, code.int(16 * piece), ""));
                let address = code.element(elem, self.params[param], at);
                // Elements that belong to a lane, and that lane's part of the mask; without a mask the others are read too, as far as the last lane's.
                let lane = |e: i64| (16 * piece + e) % step == 0;
                let within = |e: i64| 16 * piece + e <= 15 * step;
                if mask.is_none() && (0..16).all(within) {
                    return code.load(ty, address, align);
                }
                let chosen = mask.unwrap_or(all);
                let from = |e: i64| if lane(e) || (mask.is_none() && within(e)) { (16 * piece + e) / step } else { 16 };
                let mask = self.picked(chosen, none, (0..16).map(from));
                code.masked("llvm.masked.load", &[ty, code.pointer()], vec![address.into(), mask, other], 1, align).expect("a value")
            })
            .collect();
        let pair = |a: V<'c>, b: V<'c>| self.picked(a, b, 0..2 * Code::lanes(a) as i64);
        let (low, high) = match pieces.as_slice() {
            [a, b] => (*a, *b),
            [a, b, c] => (pair(*a, *b), pair(*c, *c)),
            [a, b, c, d] => (pair(*a, *b), pair(*c, *d)),
            _ => panic!("lanes {step} apart"),
        };
        self.picked(low, high, (0..16).map(|lane| lane * step))
    }

    /// For 16 lanes, elements that `share` neighbours have in common: lane `l` has element `(begins + l) / share` from the first on, with `begins`
    /// below `share`. Mask and `other` as in [`Writer::strided`].
    pub fn repeated(&self, param: usize, first: IntValue<'c>, begins: IntValue<'c>, share: i64, mask: Option<V<'c>>, other: V<'c>) -> V<'c> {
        let code = &self.code;
        let dtype = self.kernel.params[param].dtype;
        let (elem, align) = (stored(dtype), dtype.bytes() as u32);
        let ty = code.ty(elem, 16);
        let all = code.constant(Scalar::bool(true), 16);
        let none = all.get_type().const_zero();
        let pick = |of: &dyn Fn(i64) -> V<'c>| {
            (0..share - 1).rev().fold(of(share - 1), |rest, r| {
                let here = ok(code.builder.build_int_compare(inkwell::IntPredicate::EQ, begins, code.int(r), ""));
                code.select(here.into(), of(r), rest)
            })
        };
        // An element is read where one of its lanes takes part.
        let needed = pick(&|r| {
            let lane = |e: i64, d: i64| Some(e * share + d - r).filter(|l| (0..16).contains(l));
            let each = (0..share).map(|d| self.picked(mask.unwrap_or(all), none, (0..16).map(|e| lane(e, d).unwrap_or(16))));
            each.reduce(|a, b| code.one_of(a, b)).expect("a lane at least")
        });
        let address = code.element(elem, self.params[param], first);
        let read = code.masked("llvm.masked.load", &[ty, code.pointer()], vec![address.into(), needed, ty.const_zero()], 1, align).expect("a value");
        let value = pick(&|r| self.picked(read, read, (0..16).map(|l| (r + l) / share)));
        mask.map_or(value, |m| code.select(m, value, other))
    }

    /// The elements of `a`, followed by those of `b`, at these positions.
    fn picked(&self, a: V<'c>, b: V<'c>, at: impl Iterator<Item = i64>) -> V<'c> {
        let (BasicValueEnum::VectorValue(a), BasicValueEnum::VectorValue(b)) = (a, b) else { panic!("vectors are picked from") };
        let at: Vec<_> = at.map(|i| self.code.context.i32_type().const_int(i as u64, false)).collect();
        ok(self.code.builder.build_shuffle_vector(a, b, VectorType::const_vector(&at), "")).into()
    }
}
