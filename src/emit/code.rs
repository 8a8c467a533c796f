//! A thin layer over the instruction builder: values of scalars or vectors by element type and lane count.
//!
//! Nothing here fails on a well-typed kernel; a builder's refusal is a broken invariant and panics.

use crate::emit::cuda::Device;
use crate::ir::{DType, Scalar};
use inkwell::attributes::AttributeLoc;
use inkwell::basic_block::BasicBlock;
use inkwell::builder::Builder;
use inkwell::context::Context;
use inkwell::intrinsics::Intrinsic;
use inkwell::module::Module;
use inkwell::types::{BasicTypeEnum, VectorType};
use inkwell::values::{BasicValue, BasicValueEnum, FunctionValue, InstructionOpcode, IntValue, PointerValue, VectorValue};
use inkwell::{AddressSpace, FloatPredicate, IntPredicate};

/// Any value.
pub type V<'c> = BasicValueEnum<'c>;

/// Element types; `Bool` is `i1` in registers, a byte in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Elem {
    F32,
    F64,
    I8,
    I32,
    I64,
    Bool,
}

impl From<DType> for Elem {
    fn from(t: DType) -> Elem {
        match t {
            DType::F32 => Elem::F32,
            DType::F64 => Elem::F64,
            DType::I64 => Elem::I64,
            DType::Bool => Elem::Bool,
        }
    }
}

/// The result of building, which cannot fail on what we build.
pub fn ok<T, E: std::fmt::Debug>(result: Result<T, E>) -> T {
    result.expect("the instruction fits its operands")
}

/// The function being written.
pub struct Code<'c> {
    pub context: &'c Context,
    pub module: Module<'c>,
    pub builder: Builder<'c>,
    pub function: FunctionValue<'c>,
    /// Holds nothing but allocations.
    pub entry: BasicBlock<'c>,
    /// Where threads of a GPU run it; nothing: a CPU.
    pub device: Option<Device>,
}

impl<'c> Code<'c> {
    /// The type of `lanes` elements.
    pub fn ty(&self, elem: Elem, lanes: u32) -> BasicTypeEnum<'c> {
        let c = self.context;
        if lanes == 1 {
            return match elem {
                Elem::F32 => c.f32_type().into(),
                Elem::F64 => c.f64_type().into(),
                Elem::I8 => c.i8_type().into(),
                Elem::I32 => c.i32_type().into(),
                Elem::I64 => c.i64_type().into(),
                Elem::Bool => c.bool_type().into(),
            };
        }
        match elem {
            Elem::F32 => c.f32_type().vec_type(lanes).into(),
            Elem::F64 => c.f64_type().vec_type(lanes).into(),
            Elem::I8 => c.i8_type().vec_type(lanes).into(),
            Elem::I32 => c.i32_type().vec_type(lanes).into(),
            Elem::I64 => c.i64_type().vec_type(lanes).into(),
            Elem::Bool => c.bool_type().vec_type(lanes).into(),
        }
    }

    /// Whether the function may use AVX-512.
    pub fn avx512(&self) -> bool {
        let cpu = self.function.get_string_attribute(AttributeLoc::Function, "target-cpu");
        cpu.is_some_and(|cpu| cpu.get_string_value().to_bytes() == b"x86-64-v4")
    }

    /// An i64.
    pub fn int(&self, n: i64) -> IntValue<'c> {
        self.context.i64_type().const_int(n as u64, true)
    }

    /// A literal, in all lanes.
    pub fn constant(&self, s: Scalar, lanes: u32) -> V<'c> {
        let one: V<'c> = match s.dtype() {
            DType::F32 => self.context.f32_type().const_float(s.to_f64()).into(),
            DType::F64 => self.context.f64_type().const_float(s.to_f64()).into(),
            DType::I64 => self.int(s.bits() as i64).into(),
            DType::Bool => self.context.bool_type().const_int((s.bits() != 0) as u64, false).into(),
        };
        self.repeat_constant(one, lanes)
    }

    /// The constant in all lanes.
    pub fn repeat_constant(&self, one: V<'c>, lanes: u32) -> V<'c> {
        if lanes == 1 { one } else { VectorType::const_vector(&vec![one; lanes as usize]).into() }
    }

    /// `0, 1, 2, ...` as i64.
    pub fn lane_numbers(&self, lanes: u32) -> V<'c> {
        if lanes == 1 {
            return self.int(0).into();
        }
        VectorType::const_vector(&(0..lanes as i64).map(|i| self.int(i)).collect::<Vec<_>>()).into()
    }

    /// The same as i32.
    pub fn lane_numbers_32(&self, lanes: u32) -> V<'c> {
        let one = |i: u32| self.context.i32_type().const_int(i as u64, false);
        VectorType::const_vector(&(0..lanes).map(one).collect::<Vec<_>>()).into()
    }

    /// How many lanes a value has.
    pub fn lanes(v: V<'c>) -> u32 {
        match v {
            BasicValueEnum::VectorValue(v) => v.get_type().get_size(),
            _ => 1,
        }
    }

    /// The value in `lanes` lanes, repeated if it has one.
    pub fn splat(&self, v: V<'c>, lanes: u32) -> V<'c> {
        if Self::lanes(v) == lanes {
            return v;
        }
        let poison = match v.get_type() {
            BasicTypeEnum::FloatType(t) => t.vec_type(lanes).get_poison(),
            BasicTypeEnum::IntType(t) => t.vec_type(lanes).get_poison(),
            BasicTypeEnum::PointerType(t) => t.vec_type(lanes).get_poison(),
            other => panic!("splat of {other:?}"),
        };
        let zero = self.context.i32_type().const_zero();
        let first = ok(self.builder.build_insert_element(poison, v, zero, ""));
        let mask = self.context.i32_type().vec_type(lanes).const_zero();
        ok(self.builder.build_shuffle_vector(first, poison, mask, "")).into()
    }

    /// Lanes `from..from + count` of a vector.
    pub fn slice(&self, v: VectorValue<'c>, from: u32, count: u32) -> V<'c> {
        if count == 1 {
            return ok(self.builder.build_extract_element(v, self.context.i32_type().const_int(from as u64, false), ""));
        }
        let lanes: Vec<_> = (from..from + count).map(|i| self.context.i32_type().const_int(i as u64, false)).collect();
        ok(self.builder.build_shuffle_vector(v, v.get_type().get_poison(), VectorType::const_vector(&lanes), "")).into()
    }

    /// Pieces of equal length, a power of two of them, side by side.
    pub fn joined(&self, mut pieces: Vec<V<'c>>) -> V<'c> {
        if let (true, [BasicValueEnum::FloatValue(first), ..]) = (pieces.len() > 1, &pieces[..]) {
            let lanes = pieces.len() as u32;
            return (0..).zip(&pieces).fold(first.get_type().vec_type(lanes).get_poison().into(), |all: V<'c>, (n, piece)| {
                ok(self.builder.build_insert_element(all.into_vector_value(), *piece, self.context.i32_type().const_int(n, false), "")).into()
            });
        }
        while pieces.len() > 1 {
            let both = |pair: &[V<'c>]| -> V<'c> {
                let (a, b) = (pair[0].into_vector_value(), pair[1].into_vector_value());
                let all: Vec<_> = (0..2 * a.get_type().get_size()).map(|i| self.context.i32_type().const_int(i as u64, false)).collect();
                ok(self.builder.build_shuffle_vector(a, b, VectorType::const_vector(&all), "")).into()
            };
            pieces = pieces.chunks(2).map(both).collect();
        }
        pieces[0]
    }

    /// A two-operand instruction.
    pub fn binary(&self, op: InstructionOpcode, a: V<'c>, b: V<'c>) -> V<'c> {
        ok(self.builder.build_binop(op, a, b, ""))
    }

    /// A conversion.
    pub fn convert(&self, op: InstructionOpcode, a: V<'c>, to: BasicTypeEnum<'c>) -> V<'c> {
        ok(self.builder.build_cast(op, a, to, ""))
    }

    /// A comparison of integers.
    pub fn icmp(&self, p: IntPredicate, a: V<'c>, b: V<'c>) -> V<'c> {
        match (a, b) {
            (BasicValueEnum::VectorValue(a), BasicValueEnum::VectorValue(b)) => ok(self.builder.build_int_compare(p, a, b, "")).into(),
            _ => ok(self.builder.build_int_compare(p, a.into_int_value(), b.into_int_value(), "")).into(),
        }
    }

    /// A comparison of floats.
    pub fn fcmp(&self, p: FloatPredicate, a: V<'c>, b: V<'c>) -> V<'c> {
        match (a, b) {
            (BasicValueEnum::VectorValue(a), BasicValueEnum::VectorValue(b)) => ok(self.builder.build_float_compare(p, a, b, "")).into(),
            _ => ok(self.builder.build_float_compare(p, a.into_float_value(), b.into_float_value(), "")).into(),
        }
    }

    /// `a` where `c`, else `b`.
    pub fn select(&self, c: V<'c>, a: V<'c>, b: V<'c>) -> V<'c> {
        match c {
            BasicValueEnum::VectorValue(c) => ok(self.builder.build_select(c, a, b, "")),
            _ => ok(self.builder.build_select(c.into_int_value(), a, b, "")),
        }
    }

    /// Both.
    pub fn both(&self, a: V<'c>, b: V<'c>) -> V<'c> {
        let lanes = Self::lanes(a).max(Self::lanes(b));
        self.binary(InstructionOpcode::And, self.splat(a, lanes), self.splat(b, lanes))
    }

    /// Whether one of two vectors of truth values holds at least, lane by lane.
    pub fn one_of(&self, a: V<'c>, b: V<'c>) -> V<'c> {
        self.binary(InstructionOpcode::Or, a, b)
    }

    /// The opposite of a truth value.
    pub fn not(&self, a: V<'c>) -> V<'c> {
        let all = self.constant(Scalar::bool(true), Self::lanes(a));
        self.binary(InstructionOpcode::Xor, a, all)
    }

    /// Whether any lane is true.
    pub fn any(&self, a: V<'c>) -> IntValue<'c> {
        let BasicValueEnum::VectorValue(v) = a else { return a.into_int_value() };
        let ty = self.context.custom_width_int_type(std::num::NonZeroU32::new(v.get_type().get_size()).expect("a vector has lanes"));
        let ty = ok(ty);
        let bits = ok(self.builder.build_bit_cast(v, ty, "")).into_int_value();
        ok(self.builder.build_int_compare(IntPredicate::NE, bits, ty.const_zero(), ""))
    }

    /// A call of an intrinsic that [`super::target::check`] has found; `overload` are the types it is declared for.
    pub fn intrinsic(&self, name: &str, overload: &[BasicTypeEnum<'c>], args: &[V<'c>]) -> Option<V<'c>> {
        let function = self.declaration(name, overload);
        let args: Vec<_> = args.iter().map(|a| (*a).into()).collect();
        ok(self.builder.build_call(function, &args, "")).try_as_basic_value().basic()
    }

    /// The sum of two whole numbers.
    pub fn add(&self, a: IntValue<'c>, b: IntValue<'c>) -> IntValue<'c> {
        ok(self.builder.build_int_add(a, b, ""))
    }

    /// Their difference.
    pub fn sub(&self, a: IntValue<'c>, b: IntValue<'c>) -> IntValue<'c> {
        ok(self.builder.build_int_sub(a, b, ""))
    }

    /// Their product.
    pub fn mul(&self, a: IntValue<'c>, b: IntValue<'c>) -> IntValue<'c> {
        ok(self.builder.build_int_mul(a, b, ""))
    }

    /// What lies at an address.
    pub fn pointer_to(&self, address: IntValue<'c>) -> PointerValue<'c> {
        ok(self.builder.build_int_to_ptr(address, self.context.ptr_type(AddressSpace::default()), ""))
    }

    /// Lanes of both vectors, by number.
    pub fn shuffle(&self, a: V<'c>, b: V<'c>, lanes: &[i64]) -> V<'c> {
        let mask: Vec<_> = lanes.iter().map(|l| self.context.i32_type().const_int(*l as u64, false)).collect();
        ok(self.builder.build_shuffle_vector(a.into_vector_value(), b.into_vector_value(), VectorType::const_vector(&mask), "")).into()
    }

    /// Exchanges rows and lanes of a square: bit by bit of their numbers.
    pub fn transpose(&self, mut rows: Vec<V<'c>>) -> Vec<V<'c>> {
        let lanes = rows.len();
        let mut bit = lanes / 2;
        while bit > 0 {
            for i in (0..lanes).filter(|i| i & bit == 0) {
                let (a, b) = (rows[i], rows[i | bit]);
                let pick = |of: &dyn Fn(usize) -> usize| self.shuffle(a, b, &(0..lanes).map(|l| of(l) as i64).collect::<Vec<_>>());
                rows[i] = pick(&|l| if l & bit == 0 { l } else { lanes + (l ^ bit) });
                rows[i | bit] = pick(&|l| if l & bit == 0 { l ^ bit } else { lanes + l });
            }
            bit /= 2;
        }
        rows
    }

    /// Asks for the line at an address, which may be anywhere, to be brought to the second cache.
    pub fn prefetch(&self, at: PointerValue<'c>) {
        self.ask(at, 2);
    }

    /// The same, to the first cache: for loads soon that meet two lines each, where waiting for both costs twice.
    pub fn prefetch_near(&self, at: PointerValue<'c>) {
        self.ask(at, 3);
    }

    fn ask(&self, at: PointerValue<'c>, locality: u64) {
        let word = |n: u64| self.context.i32_type().const_int(n, false).into();
        self.intrinsic("llvm.prefetch", &[self.pointer()], &[at.into(), word(0), word(locality), word(1)]);
    }

    fn declaration(&self, name: &str, overload: &[BasicTypeEnum<'c>]) -> FunctionValue<'c> {
        let intrinsic = Intrinsic::find(name).unwrap_or_else(|| panic!("LLVM has no {name}"));
        intrinsic.get_declaration(&self.module, overload).unwrap_or_else(|| panic!("{name} takes other types"))
    }

    /// A masked load, store, gather or scatter. Up to LLVM 21 the alignment is an argument, at position `at`; later it is an attribute.
    pub fn masked(&self, name: &str, overload: &[BasicTypeEnum<'c>], mut args: Vec<V<'c>>, at: usize, align: u32) -> Option<V<'c>> {
        let function = self.declaration(name, overload);
        if function.count_params() as usize > args.len() {
            args.insert(at, self.context.i32_type().const_int(align as u64, false).into());
        }
        let args: Vec<_> = args.iter().map(|a| (*a).into()).collect();
        ok(self.builder.build_call(function, &args, "")).try_as_basic_value().basic()
    }

    /// A pointer type.
    pub fn pointer(&self) -> BasicTypeEnum<'c> {
        self.context.ptr_type(AddressSpace::default()).into()
    }

    /// `base` plus `index` elements.
    pub fn element(&self, elem: Elem, base: PointerValue<'c>, index: IntValue<'c>) -> PointerValue<'c> {
        let ty = self.ty(elem, 1);
        // Safety: an address computation; whoever loads or stores there answers for the bounds.
        unsafe { ok(self.builder.build_gep(ty, base, &[index], "")) }
    }

    /// The variable `index` places behind `base` in an array of them.
    pub fn step(&self, ty: BasicTypeEnum<'c>, base: PointerValue<'c>, index: IntValue<'c>) -> PointerValue<'c> {
        // Safety: an address computation; whoever loads or stores there answers for the bounds.
        unsafe { ok(self.builder.build_gep(ty, base, &[index], "")) }
    }

    /// Loads from memory as it is, aligned to `align` bytes.
    pub fn load(&self, ty: BasicTypeEnum<'c>, at: PointerValue<'c>, align: u32) -> V<'c> {
        let v = ok(self.builder.build_load(ty, at, ""));
        if let Some(i) = v.as_instruction_value() {
            ok(i.set_alignment(align));
        }
        v
    }

    /// Stores to memory as it is, aligned to `align` bytes.
    pub fn store(&self, at: PointerValue<'c>, v: V<'c>, align: u32) {
        ok(ok(self.builder.build_store(at, v)).set_alignment(align));
    }

    /// A variable of the function; becomes registers.
    pub fn variable(&self, ty: BasicTypeEnum<'c>) -> PointerValue<'c> {
        let b = self.context.create_builder();
        b.position_at_end(self.entry);
        ok(b.build_alloca(ty, ""))
    }

    /// The variable's value.
    pub fn get(&self, ty: BasicTypeEnum<'c>, at: PointerValue<'c>) -> V<'c> {
        ok(self.builder.build_load(ty, at, ""))
    }

    /// Sets a variable.
    pub fn set(&self, at: PointerValue<'c>, v: V<'c>) {
        ok(self.builder.build_store(at, v));
    }

    /// A new block at the function's end.
    pub fn block(&self) -> BasicBlock<'c> {
        self.context.append_basic_block(self.function, "")
    }

    /// Ends the present block with a jump and goes on in `to`.
    pub fn go(&self, to: BasicBlock<'c>) {
        self.jump(to);
        self.builder.position_at_end(to);
    }

    /// Ends the present block with a jump.
    pub fn jump(&self, to: BasicBlock<'c>) {
        ok(self.builder.build_unconditional_branch(to));
    }

    /// Ends the present block with a branch.
    pub fn branch(&self, c: IntValue<'c>, yes: BasicBlock<'c>, no: BasicBlock<'c>) {
        ok(self.builder.build_conditional_branch(c, yes, no));
    }

    /// The block being written.
    pub fn here(&self) -> BasicBlock<'c> {
        self.builder.get_insert_block().expect("the builder is in a block")
    }

    /// The value of `yes` where `c` holds, else of `no`, each in blocks of its own.
    pub fn either<E>(&self, c: IntValue<'c>, yes: impl FnOnce() -> Result<V<'c>, E>, no: impl FnOnce() -> Result<V<'c>, E>) -> Result<V<'c>, E> {
        let (then, otherwise, end) = (self.block(), self.block(), self.block());
        self.branch(c, then, otherwise);
        self.builder.position_at_end(then);
        let a = yes()?;
        let a_from = self.here();
        self.jump(end);
        self.builder.position_at_end(otherwise);
        let b = no()?;
        let b_from = self.here();
        self.go(end);
        let phi = ok(self.builder.build_phi(a.get_type(), ""));
        phi.add_incoming(&[(&a, a_from), (&b, b_from)]);
        Ok(phi.as_basic_value())
    }

    /// `body` where `c` holds.
    pub fn only_if<E>(&self, c: IntValue<'c>, body: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let (then, end) = (self.block(), self.block());
        self.branch(c, then, end);
        self.builder.position_at_end(then);
        body()?;
        self.go(end);
        Ok(())
    }

    /// `body(i)` for i = from, from + step, ... below `to`; gives the first i that is not (`from` itself for an empty range).
    pub fn range<E>(
        &self,
        from: IntValue<'c>,
        to: IntValue<'c>,
        step: i64,
        body: impl FnOnce(IntValue<'c>) -> Result<(), E>,
    ) -> Result<IntValue<'c>, E> {
        self.range_by(from, to, self.int(step), body)
    }

    /// The same with a step known at launch, above 0.
    pub fn range_by<E>(
        &self,
        from: IntValue<'c>,
        to: IntValue<'c>,
        step: IntValue<'c>,
        body: impl FnOnce(IntValue<'c>) -> Result<(), E>,
    ) -> Result<IntValue<'c>, E> {
        self.range_on(from, to, |i| {
            body(i)?;
            Ok(ok(self.builder.build_int_nsw_add(i, step, "")))
        })
    }

    /// The same where `body` says what comes after `i`.
    pub fn range_on<E>(
        &self,
        from: IntValue<'c>,
        to: IntValue<'c>,
        body: impl FnOnce(IntValue<'c>) -> Result<IntValue<'c>, E>,
    ) -> Result<IntValue<'c>, E> {
        let (head, inside, end) = (self.block(), self.block(), self.block());
        let before = self.here();
        self.go(head);
        let phi = ok(self.builder.build_phi(self.context.i64_type(), ""));
        let i = phi.as_basic_value().into_int_value();
        let more = ok(self.builder.build_int_compare(IntPredicate::SLT, i, to, ""));
        self.branch(more, inside, end);
        self.builder.position_at_end(inside);
        let next = body(i)?;
        phi.add_incoming(&[(&from, before), (&next, self.here())]);
        self.jump(head);
        self.builder.position_at_end(end);
        Ok(i)
    }
}
