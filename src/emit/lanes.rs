//! The [`Machine`] that emits instructions: every basic operation is one instruction or intrinsic that x86-64-v3 has, on any number of lanes.

use crate::emit::code::{Code, Elem, V, ok};
use crate::ir::Scalar;
use crate::math::machine::{Machine, scale};
use inkwell::values::{BasicValueEnum, InstructionOpcode as Op};
use inkwell::{FloatPredicate, IntPredicate};

/// Floats of 32 or (`WIDE`) 64 bits, integers of the same width, in `lanes` lanes.
pub struct Lanes<'a, 'c, const WIDE: bool> {
    pub code: &'a Code<'c>,
    pub lanes: u32,
}

impl<'c, const W: bool> Lanes<'_, 'c, W> {
    fn elem(&self) -> Elem {
        if W { Elem::F64 } else { Elem::F32 }
    }

    fn integer(&self) -> Elem {
        if W { Elem::I64 } else { Elem::I32 }
    }

    /// What `part` makes of every `width` lanes, side by side.
    fn parts(&self, width: u32, args: &[V<'c>], part: &dyn Fn(&[V<'c>]) -> V<'c>) -> V<'c> {
        let slice = |v: V<'c>, from: u32| if self.lanes == width { v } else { self.code.slice(v.into_vector_value(), from, width) };
        let pieces = (0..self.lanes / width).map(|n| part(&args.iter().map(|a| slice(*a, n * width)).collect::<Vec<_>>())).collect();
        self.code.joined(pieces)
    }

    fn intrinsic(&self, name: &str, args: &[V<'c>]) -> V<'c> {
        self.code.intrinsic(name, &[self.code.ty(self.elem(), self.lanes)], args).expect("a value")
    }
}

#[rustfmt::skip]
impl<'a, 'c, const W: bool> Machine for Lanes<'a, 'c, W> {
    type F = V<'c>;
    type I = V<'c>;
    type B = V<'c>;
    type Wide = Lanes<'a, 'c, true>;
    const WIDE: bool = W;

    fn wide(&self) -> Lanes<'a, 'c, true> { Lanes { code: self.code, lanes: self.lanes } }
    fn widen(&self, a: V<'c>) -> V<'c> { if W { a } else { self.code.convert(Op::FPExt, a, self.code.ty(Elem::F64, self.lanes)) } }
    fn narrow(&self, a: V<'c>) -> V<'c> { if W { a } else { self.code.convert(Op::FPTrunc, a, self.code.ty(Elem::F32, self.lanes)) } }
    fn float(&self, x: f64) -> V<'c> { self.code.constant(if W { Scalar::f64(x) } else { Scalar::f32(x as f32) }, self.lanes) }
    fn int(&self, x: i64) -> V<'c> {
        let one = self.code.ty(self.integer(), 1).into_int_type().const_int(if W { x as u64 } else { x as u32 as u64 }, false);
        self.code.repeat_constant(one.into(), self.lanes)
    }
    fn neg(&self, a: V<'c>) -> V<'c> {
        match a {
            BasicValueEnum::VectorValue(a) => ok(self.code.builder.build_float_neg(a, "")).into(),
            _ => ok(self.code.builder.build_float_neg(a.into_float_value(), "")).into(),
        }
    }
    fn abs(&self, a: V<'c>) -> V<'c> { self.intrinsic("llvm.fabs", &[a]) }
    fn add(&self, a: V<'c>, b: V<'c>) -> V<'c> { self.code.binary(Op::FAdd, a, b) }
    fn sub(&self, a: V<'c>, b: V<'c>) -> V<'c> { self.code.binary(Op::FSub, a, b) }
    fn mul(&self, a: V<'c>, b: V<'c>) -> V<'c> { self.code.binary(Op::FMul, a, b) }
    fn div(&self, a: V<'c>, b: V<'c>) -> V<'c> { self.code.binary(Op::FDiv, a, b) }
    fn fma(&self, a: V<'c>, b: V<'c>, c: V<'c>) -> V<'c> { self.intrinsic("llvm.fma", &[a, b, c]) }
    fn sqrt(&self, a: V<'c>) -> V<'c> { self.intrinsic("llvm.sqrt", &[a]) }
    fn floor(&self, a: V<'c>) -> V<'c> { self.intrinsic("llvm.floor", &[a]) }
    fn ceil(&self, a: V<'c>) -> V<'c> { self.intrinsic("llvm.ceil", &[a]) }
    fn round(&self, a: V<'c>) -> V<'c> { self.intrinsic("llvm.roundeven", &[a]) }
    fn lt(&self, a: V<'c>, b: V<'c>) -> V<'c> { self.code.fcmp(FloatPredicate::OLT, a, b) }
    fn le(&self, a: V<'c>, b: V<'c>) -> V<'c> { self.code.fcmp(FloatPredicate::OLE, a, b) }
    fn eq(&self, a: V<'c>, b: V<'c>) -> V<'c> { self.code.fcmp(FloatPredicate::OEQ, a, b) }
    fn and(&self, a: V<'c>, b: V<'c>) -> V<'c> { self.code.binary(Op::And, a, b) }
    fn or(&self, a: V<'c>, b: V<'c>) -> V<'c> { self.code.binary(Op::Or, a, b) }
    fn not(&self, a: V<'c>) -> V<'c> { self.code.not(a) }
    fn pick(&self, c: V<'c>, a: V<'c>, b: V<'c>) -> V<'c> { self.code.select(c, a, b) }
    fn ipick(&self, c: V<'c>, a: V<'c>, b: V<'c>) -> V<'c> { self.code.select(c, a, b) }
    fn bits(&self, a: V<'c>) -> V<'c> { ok(self.code.builder.build_bit_cast(a, self.code.ty(self.integer(), self.lanes), "")) }
    fn from_bits(&self, a: V<'c>) -> V<'c> { ok(self.code.builder.build_bit_cast(a, self.code.ty(self.elem(), self.lanes), "")) }
    fn to_int(&self, a: V<'c>) -> V<'c> { self.code.convert(Op::FPToSI, a, self.code.ty(self.integer(), self.lanes)) }
    fn from_int(&self, a: V<'c>) -> V<'c> { self.code.convert(Op::SIToFP, a, self.code.ty(self.elem(), self.lanes)) }
    fn iadd(&self, a: V<'c>, b: V<'c>) -> V<'c> { self.code.binary(Op::Add, a, b) }
    fn isub(&self, a: V<'c>, b: V<'c>) -> V<'c> { self.code.binary(Op::Sub, a, b) }
    fn imul(&self, a: V<'c>, b: V<'c>) -> V<'c> { self.code.binary(Op::Mul, a, b) }
    fn idiv(&self, a: V<'c>, b: V<'c>) -> V<'c> { self.code.binary(Op::SDiv, a, b) }
    fn irem(&self, a: V<'c>, b: V<'c>) -> V<'c> { self.code.binary(Op::SRem, a, b) }
    fn iand(&self, a: V<'c>, b: V<'c>) -> V<'c> { self.code.binary(Op::And, a, b) }
    fn ior(&self, a: V<'c>, b: V<'c>) -> V<'c> { self.code.binary(Op::Or, a, b) }
    fn ixor(&self, a: V<'c>, b: V<'c>) -> V<'c> { self.code.binary(Op::Xor, a, b) }
    fn shl(&self, a: V<'c>, n: u32) -> V<'c> { self.code.binary(Op::Shl, a, self.int(n as i64)) }
    fn shr(&self, a: V<'c>, n: u32) -> V<'c> { self.code.binary(Op::LShr, a, self.int(n as i64)) }
    fn sar(&self, a: V<'c>, n: u32) -> V<'c> { self.code.binary(Op::AShr, a, self.int(n as i64)) }
    fn scale(&self, a: V<'c>, n: V<'c>) -> V<'c> {
        if W || !self.lanes.is_multiple_of(16) || !self.code.avx512() {
            return scale(self, a, n);
        }
        let (all, rounding) = (self.code.context.i16_type().const_all_ones(), self.code.context.i32_type().const_int(4, false));
        self.parts(16, &[a, self.from_int(n)], &|args| {
            self.code.intrinsic("llvm.x86.avx512.mask.scalef.ps.512", &[], &[args[0], args[1], args[0], all.into(), rounding.into()]).expect("a value")
        })
    }
    fn lookup(&self, table: &[f64; 16], n: V<'c>) -> V<'c> {
        let code = self.code;
        let entry = |x: &f64| code.constant(if W { Scalar::f64(*x) } else { Scalar::f32(*x as f32) }, 1);
        let entries = |part: &[f64]| -> V<'c> { inkwell::types::VectorType::const_vector(&part.iter().map(entry).collect::<Vec<_>>()).into() };
        let permute = |name: &str, table: V<'c>, n: V<'c>| code.intrinsic(name, &[], &[table, n]).expect("a value");
        if !W && self.lanes.is_multiple_of(16) && code.avx512() {
            return self.parts(16, &[n], &|n| permute("llvm.x86.avx512.permvar.sf.512", entries(table), n[0]));
        }
        if !W && self.lanes.is_multiple_of(8) {
            let upper = self.shl(n, 28);
            return self.parts(8, &[n, upper], &|n| {
                let [low, high] = [&table[..8], &table[8..]].map(|half| permute("llvm.x86.avx2.permps", entries(half), n[0]));
                code.select(code.icmp(IntPredicate::SLT, n[1], n[1].get_type().const_zero()), high, low)
            });
        }
        if code.device.is_some() {
            return code.chosen(&table.each_ref().map(entry), n);
        }
        let n = self.iand(n, self.int(15));
        self.parts(1, &[n], &|n| ok(code.builder.build_extract_element(entries(table).into_vector_value(), n[0].into_int_value(), "")))
    }
    fn ilt(&self, a: V<'c>, b: V<'c>) -> V<'c> { self.code.icmp(IntPredicate::SLT, a, b) }
    fn ieq(&self, a: V<'c>, b: V<'c>) -> V<'c> { self.code.icmp(IntPredicate::EQ, a, b) }
}
