//! Arithmetic of whole numbers in a contraction's code: 64 bits, sizes and addresses and masks in words.

use crate::emit::code::ok;
use crate::emit::contract::Engine;
use inkwell::IntPredicate;
use inkwell::values::IntValue;

impl<'c> Engine<'_, '_, 'c> {
    pub fn add(&self, a: IntValue<'c>, b: IntValue<'c>) -> IntValue<'c> {
        self.w.code.add(a, b)
    }

    pub fn sub(&self, a: IntValue<'c>, b: IntValue<'c>) -> IntValue<'c> {
        self.w.code.sub(a, b)
    }

    pub fn and(&self, a: IntValue<'c>, b: IntValue<'c>) -> IntValue<'c> {
        ok(self.w.code.builder.build_and(a, b, ""))
    }

    pub fn or(&self, a: IntValue<'c>, b: IntValue<'c>) -> IntValue<'c> {
        ok(self.w.code.builder.build_or(a, b, ""))
    }

    pub fn not(&self, a: IntValue<'c>) -> IntValue<'c> {
        ok(self.w.code.builder.build_not(a, ""))
    }

    pub fn mul(&self, a: IntValue<'c>, b: IntValue<'c>) -> IntValue<'c> {
        self.w.code.mul(a, b)
    }

    /// Quotient and remainder of what is not negative by what is positive.
    pub fn divide(&self, a: IntValue<'c>, b: IntValue<'c>) -> (IntValue<'c>, IntValue<'c>) {
        let q = ok(self.w.code.builder.build_int_unsigned_div(a, b, ""));
        (q, self.sub(a, self.mul(q, b)))
    }

    pub fn is(&self, p: IntPredicate, a: IntValue<'c>, b: IntValue<'c>) -> IntValue<'c> {
        ok(self.w.code.builder.build_int_compare(p, a, b, ""))
    }

    pub fn int(&self, n: i64) -> IntValue<'c> {
        self.w.code.int(n)
    }
}
