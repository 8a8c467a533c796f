//! Sizes, index expressions, and the three-address code of stages.

use crate::emit::code::{Code, Elem, V, ok};
use crate::emit::cuda::Primitive;
use crate::emit::lanes::Lanes;
use crate::emit::modes::{Access, along, harmless, loads, read, shared};
use crate::emit::pieces;
use crate::ir::{Affine, DType, Guard, IndexAtom, Relation, Scalar, ScalarOp, Size};
use crate::kernel::{Index, Instr, Kernel};
use crate::math;
use inkwell::IntPredicate;
use inkwell::basic_block::BasicBlock;
use inkwell::types::BasicTypeEnum;
use inkwell::values::{InstructionOpcode as Op, IntValue, PointerValue};
use nnc_runtime::size::Atom;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::Range;

/// The function being written and what its prologue computed.
pub struct Writer<'k, 'c> {
    pub code: Code<'c>,
    pub kernel: &'k Kernel,
    /// Computes sizes; ends when the function does.
    pub prologue: BasicBlock<'c>,
    pub params: Vec<PointerValue<'c>>,
    pub dims: Vec<IntValue<'c>>,
    pub known: RefCell<BTreeMap<Size, IntValue<'c>>>,
    /// Checked accesses so far.
    pub checks: Cell<u64>,
}

/// Where in the iteration space the code runs.
#[derive(Clone)]
pub struct Scope<'c> {
    /// Values of the variables; the first lane's for the one that the lanes run along.
    pub point: Vec<IntValue<'c>>,
    /// Their ranges.
    pub ranges: Vec<Size>,
    /// The variable that the lanes run along, and how many there are.
    pub lane: Option<(usize, u32)>,
    /// Lanes that take part (all, where nothing is said). Code runs only where at least one does.
    pub mask: Option<V<'c>>,
    /// A variable that is known to lie in a part of its range.
    pub within: Option<(usize, Range<i64>)>,
    /// The kernel's locals.
    pub locals: Vec<(BasicTypeEnum<'c>, PointerValue<'c>)>,
}

impl Scope<'_> {
    /// How many points the code handles at once.
    pub fn lanes(&self) -> u32 {
        self.lane.map_or(1, |l| l.1)
    }
}

/// The type of a value in registers.
pub fn dtype(v: V) -> DType {
    let ty = match v.get_type() {
        BasicTypeEnum::VectorType(t) => t.get_element_type(),
        t => t,
    };
    match ty {
        BasicTypeEnum::FloatType(t) if t == t.get_context().f32_type() => DType::F32,
        BasicTypeEnum::FloatType(_) => DType::F64,
        BasicTypeEnum::IntType(t) if t.get_bit_width() == 1 => DType::Bool,
        _ => DType::I64,
    }
}

/// Elements in memory.
pub fn stored(dtype: DType) -> Elem {
    if dtype == DType::Bool { Elem::I8 } else { dtype.into() }
}

impl<'c> Writer<'_, 'c> {
    /// A size's value, computed once in the prologue.
    pub fn size(&self, s: &Size) -> IntValue<'c> {
        if let Some(n) = s.as_const() {
            return self.code.int(n);
        }
        if let Some(v) = self.known.borrow().get(s) {
            return *v;
        }
        let here = self.code.builder.get_insert_block();
        self.code.builder.position_at_end(self.prologue);
        let b = &self.code.builder;
        let mut sum = self.code.int(0);
        for (atoms, n) in s.terms() {
            let product = atoms.iter().fold(self.code.int(*n), |p, atom| ok(b.build_int_mul(p, self.atom(atom), "")));
            sum = ok(b.build_int_add(sum, product, ""));
        }
        if let Some(here) = here {
            b.position_at_end(here);
        }
        self.known.borrow_mut().insert(s.clone(), sum);
        sum
    }

    fn atom(&self, atom: &Atom) -> IntValue<'c> {
        let divide = |a: &Size, b: &Size, op: ScalarOp| {
            let (a, b) = (self.size(a), self.size(b));
            self.code.builder.position_at_end(self.prologue);
            math::integer(&Lanes::<true> { code: &self.code, lanes: 1 }, op, &[a.into(), b.into()]).into_int_value()
        };
        match atom {
            Atom::Dim(name) => {
                let n: usize = name.strip_prefix('n').and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("kernel dim {name}"));
                self.dims[n]
            }
            Atom::Div(a, b) => divide(a, b, ScalarOp::FloorDiv),
            Atom::Mod(a, b) => divide(a, b, ScalarOp::Mod),
        }
    }

    /// Elements between neighbours along an axis.
    fn stride(&self, param: usize, axis: usize) -> IntValue<'c> {
        let shape = &self.kernel.params[param].shape;
        let product = shape[axis + 1..].iter().try_fold(Size::constant(1), |p, s| p.checked_mul(s));
        match product {
            Some(size) => self.size(&size),
            // Coefficients too large for a formula: the buffer cannot exist, any value will do.
            None => self.code.int(0),
        }
    }

    /// The value of an index expression, in one lane if it is the same in all. `flat`: of the first lane.
    pub fn affine(&self, a: &Affine, scope: &Scope<'c>, flat: bool) -> V<'c> {
        let mut sum: V<'c> = self.size(&a.constant).into();
        for (atom, c) in &a.terms {
            let value = match atom {
                IndexAtom::Var(v) => match scope.lane {
                    Some((lane, lanes)) if lane == *v && !flat => {
                        let first = self.code.splat(scope.point[*v].into(), lanes);
                        self.code.binary(Op::Add, first, self.code.lane_numbers(lanes))
                    }
                    _ => scope.point[*v].into(),
                },
                IndexAtom::Div(a, by) => self.divide(self.affine(a, scope, flat), by).0,
                IndexAtom::Mod(a, by) => self.divide(self.affine(a, scope, flat), by).1,
            };
            let value = if c.as_const() == Some(1) { value } else { self.arithmetic(Op::Mul, value, self.size(c).into()) };
            let zero = matches!(sum, V::IntValue(n) if n.get_zero_extended_constant() == Some(0));
            sum = if zero { value } else { self.arithmetic(Op::Add, sum, value) };
        }
        sum
    }

    /// An operation on integers of possibly different lane counts.
    pub fn arithmetic(&self, op: Op, a: V<'c>, b: V<'c>) -> V<'c> {
        let lanes = Code::lanes(a).max(Code::lanes(b));
        self.code.binary(op, self.code.splat(a, lanes), self.code.splat(b, lanes))
    }

    /// Quotient rounded down and remainder by a positive size; 0 by 0.
    fn divide(&self, a: V<'c>, by: &Size) -> (V<'c>, V<'c>) {
        let code = &self.code;
        let lanes = Code::lanes(a);
        let all = |n: IntValue<'c>| code.splat(n.into(), lanes);
        if let Some(n) = by.as_const().filter(|n| n.count_ones() == 1 && *n > 0) {
            let quotient = code.binary(Op::AShr, a, all(code.int(n.trailing_zeros() as i64)));
            return (quotient, code.binary(Op::And, a, all(code.int(n - 1))));
        }
        let size = self.size(by);
        let one = code.int(1);
        let positive = ok(code.builder.build_int_compare(IntPredicate::SGT, size, code.int(0), ""));
        let safe = all(code.select(positive.into(), size.into(), one.into()).into_int_value());
        let (q, r) = (code.binary(Op::SDiv, a, safe), code.binary(Op::SRem, a, safe));
        let zero = all(code.int(0));
        let below = code.icmp(IntPredicate::SLT, r, zero);
        let q = code.select(below, code.binary(Op::Sub, q, all(one)), q);
        let r = code.select(below, code.binary(Op::Add, r, safe), r);
        if by.as_const().is_some_and(|n| n > 0) {
            return (q, r);
        }
        let positive = code.splat(positive.into(), lanes);
        (code.select(positive, q, zero), code.select(positive, r, zero))
    }

    /// Whether all guards hold; nothing if there are none.
    pub fn guards(&self, guards: &[Guard], scope: &Scope<'c>) -> Option<V<'c>> {
        let each = guards.iter().map(|g| {
            if let Some(holds) = scope.within.as_ref().and_then(|(var, range)| pieces::known(g, *var, range)) {
                return self.code.constant(Scalar::bool(holds), 1);
            }
            let value = self.affine(&g.expr, scope, false);
            let zero = self.code.splat(self.code.int(0).into(), Code::lanes(value));
            let relation = match g.relation {
                Relation::NonNegative => IntPredicate::SGE,
                Relation::Zero => IntPredicate::EQ,
                Relation::NonZero => IntPredicate::NE,
            };
            self.code.icmp(relation, value, zero)
        });
        each.reduce(|a, b| self.code.both(a, b))
    }

    /// Writes `body`; every instruction's value goes onto `values`.
    pub fn block(&self, body: &[Instr], scope: &Scope<'c>, values: &mut Vec<V<'c>>) -> Result<(), String> {
        let start = values.len();
        for instr in body {
            let value = match instr {
                Instr::Const(c) => self.code.constant(*c, 1),
                Instr::Load { param, index, otherwise } => self.load(*param, index, *otherwise, scope, values),
                Instr::Local(l) => self.code.get(scope.locals[*l].0, scope.locals[*l].1),
                Instr::Index(a) => self.affine(a, scope, false),
                Instr::Holds(guards) => self.guards(guards, scope).unwrap_or_else(|| self.code.constant(Scalar::bool(true), 1)),
                Instr::Op(op, args) => self.op(*op, &args.iter().map(|a| values[*a]).collect::<Vec<_>>()),
                Instr::Cast(to, from) => self.cast(*to, values[*from]),
                Instr::Select { condition, then, otherwise } => {
                    self.choose(values[*condition], read(body, start, *condition), [then, otherwise], scope, values)?
                }
            };
            values.push(value);
        }
        Ok(())
    }

    /// One of two blocks' values. Where the condition was `read` from memory, lanes hardly ever agree, and cheap sides are both computed.
    fn choose(&self, c: V<'c>, read: bool, sides: [&(Vec<Instr>, usize); 2], scope: &Scope<'c>, values: &mut Vec<V<'c>>) -> Result<V<'c>, String> {
        let code = &self.code;
        let start = values.len();
        let mut side = |side: &(Vec<Instr>, usize), scope: &Scope<'c>| -> Result<V<'c>, String> {
            self.block(&side.0, scope, values)?;
            let value = values[side.1];
            values.truncate(start);
            Ok(value)
        };
        let [then, otherwise] = sides;
        let known = if Code::lanes(c) == 1 { c.into_int_value().get_zero_extended_constant() } else { None };
        if let Some(holds) = known {
            return side(if holds != 0 { then } else { otherwise }, scope);
        }
        let both = |side: &(Vec<Instr>, usize)| !loads(&side.0) || (read && Code::lanes(c) > 1 && harmless(&side.0, self.kernel, &scope.ranges));
        if both(then) && both(otherwise) {
            let (a, b) = (side(then, scope)?, side(otherwise, scope)?);
            let lanes = Code::lanes(c).max(Code::lanes(a)).max(Code::lanes(b));
            return Ok(code.select(code.splat(c, lanes), code.splat(a, lanes), code.splat(b, lanes)));
        }
        if Code::lanes(c) > 1 {
            let lanes = scope.lanes();
            let mut under = |s: &(Vec<Instr>, usize), c: V<'c>| {
                let mask = scope.mask.map_or(c, |m| code.both(m, c));
                let scope = Scope { mask: Some(mask), ..scope.clone() };
                self.when_any(mask, || Ok(code.splat(side(s, &scope)?, lanes)))
            };
            let a = under(then, c)?;
            let b = under(otherwise, code.not(c))?;
            return Ok(code.select(c, a, b));
        }
        // A branch; the sides' values get as many lanes as the wider of them.
        let (yes, no, end) = (code.block(), code.block(), code.block());
        code.branch(c.into_int_value(), yes, no);
        code.builder.position_at_end(yes);
        let a = side(then, scope)?;
        let a_from = code.here();
        code.builder.position_at_end(no);
        let b = side(otherwise, scope)?;
        let lanes = Code::lanes(a).max(Code::lanes(b));
        let b = code.splat(b, lanes);
        let b_from = code.here();
        code.jump(end);
        code.builder.position_at_end(a_from);
        let a = code.splat(a, lanes);
        code.go(end);
        let phi = ok(code.builder.build_phi(a.get_type(), ""));
        phi.add_incoming(&[(&a, a_from), (&b, b_from)]);
        Ok(phi.as_basic_value())
    }

    /// `value`, computed only if any lane of `mask` takes part; else zeros.
    pub fn when_any(&self, mask: V<'c>, value: impl FnOnce() -> Result<V<'c>, String>) -> Result<V<'c>, String> {
        let code = &self.code;
        let (inside, end) = (code.block(), code.block());
        let from = code.here();
        code.branch(code.any(mask), inside, end);
        code.builder.position_at_end(inside);
        let v = value()?;
        let v_from = code.here();
        code.go(end);
        let phi = ok(code.builder.build_phi(v.get_type(), ""));
        let zero = v.get_type().const_zero();
        phi.add_incoming(&[(&v, v_from), (&zero, from)]);
        Ok(phi.as_basic_value())
    }

    /// An operation, in as many lanes as its widest operand.
    pub fn op(&self, op: ScalarOp, args: &[V<'c>]) -> V<'c> {
        use ScalarOp::*;
        let lanes = args.iter().map(|a| Code::lanes(*a)).max().unwrap_or(1);
        let args: Vec<V<'c>> = args.iter().map(|a| self.code.splat(*a, lanes)).collect();
        let (single, double) = (Lanes::<false> { code: &self.code, lanes }, Lanes::<true> { code: &self.code, lanes });
        match (dtype(args[0]), op) {
            (_, Select) => self.code.select(args[0], args[1], args[2]),
            (DType::F32, Eq | Ne | Lt | Le) => math::compare(&single, op, args[0], args[1]),
            (DType::F64, Eq | Ne | Lt | Le) => math::compare(&double, op, args[0], args[1]),
            (DType::I64, Eq | Ne | Lt | Le) => math::compare_integers(&double, op, args[0], args[1]),
            (DType::F32, _) => math::float(&single, op, &args),
            (DType::F64, _) => math::float(&double, op, &args),
            (DType::I64, Uniform) => math::random::uniform_on(&double, args[0], args[1]),
            (DType::I64, _) => math::integer(&double, op, &args),
            (DType::Bool, _) => math::boolean(&double, op, &args),
        }
    }

    fn cast(&self, to: DType, from: V<'c>) -> V<'c> {
        use DType::*;
        let code = &self.code;
        let lanes = Code::lanes(from);
        let ty = code.ty(to.into(), lanes);
        match (dtype(from), to) {
            (F32, F32) | (F64, F64) | (I64, I64) | (Bool, Bool) => from,
            (F32, F64) => code.convert(Op::FPExt, from, ty),
            (F64, F32) => code.convert(Op::FPTrunc, from, ty),
            (I64, F32 | F64) => code.convert(Op::SIToFP, from, ty),
            (Bool, F32 | F64) => code.convert(Op::UIToFP, from, ty),
            (Bool, I64) => code.convert(Op::ZExt, from, ty),
            (F32 | F64, I64) => code.intrinsic("llvm.fptosi.sat", &[ty, from.get_type()], &[from]).expect("a value"),
            (F32 | F64, Bool) => code.fcmp(inkwell::FloatPredicate::UNE, from, from.get_type().const_zero()),
            (I64, Bool) => code.icmp(IntPredicate::NE, from, from.get_type().const_zero()),
        }
    }

    /// The indices of an access, and whether those that need it are in bounds: all but proved ones where `all`, else the computed ones.
    fn indices(&self, param: usize, index: &[Index], all: bool, scope: &Scope<'c>, values: &[V<'c>]) -> (Vec<V<'c>>, Option<V<'c>>) {
        let shape = &self.kernel.params[param].shape;
        let mut inside: Option<V<'c>> = None;
        let at = index.iter().zip(shape).map(|(index, size)| {
            let (i, check) = match index {
                Index::Affine(a) => (self.affine(a, scope, false), all && a.as_var().is_none_or(|v| scope.ranges[v] != *size)),
                Index::Value(v) => (values[*v], true),
            };
            if check {
                // Unsigned, a negative index is a large one.
                let size = self.code.splat(self.size(size).into(), Code::lanes(i));
                let within = self.code.icmp(IntPredicate::ULT, i, size);
                inside = Some(inside.map_or(within, |b| self.code.both(b, within)));
            }
            i
        });
        (at.collect(), inside)
    }

    fn offset(&self, param: usize, at: &[V<'c>]) -> V<'c> {
        let terms = at.iter().enumerate().map(|(axis, i)| {
            let stride = self.stride(param, axis);
            if stride.get_sign_extended_constant() == Some(1) { *i } else { self.arithmetic(Op::Mul, *i, stride.into()) }
        });
        terms.reduce(|a, b| self.arithmetic(Op::Add, a, b)).unwrap_or(self.code.int(0).into())
    }

    /// Leaves the function with the next check's number (or reports it, on a GPU) unless `inside` holds in every lane that takes part.
    fn check(&self, inside: V<'c>, scope: &Scope<'c>) {
        let code = &self.code;
        let outside = code.not(inside);
        let bad = match scope.mask {
            Some(mask) if Code::lanes(outside) > 1 => code.both(outside, mask),
            _ => outside,
        };
        self.checks.set(self.checks.get() + 1);
        let (fail, go_on) = (code.block(), code.block());
        code.branch(code.any(bad), fail, go_on);
        code.builder.position_at_end(fail);
        let number = code.int(self.checks.get() as i64);
        if code.device.is_some() {
            code.primitive(Primitive::Fail, &[number]);
            code.jump(go_on);
        } else {
            ok(code.builder.build_return(Some(&number)));
        }
        code.builder.position_at_end(go_on);
    }

    /// How an access lies along the lanes: the address of the first lane's element where they follow each other, at a few elements' distance if `shuffled`.
    fn layout(&self, param: usize, index: &[Index], at: &[V<'c>], shuffled: bool, scope: &Scope<'c>) -> (Access, V<'c>) {
        if at.iter().all(|i| Code::lanes(*i) == 1) {
            return (Access::Same, self.offset(param, at));
        }
        let (last, before) = at.split_last().expect("an index has lanes");
        if let (Some(Index::Affine(a)), Some((lane, _))) = (index.last(), scope.lane)
            && before.iter().all(|i| Code::lanes(*i) == 1)
            && Code::lanes(*last) > 1
            && let access @ (Access::Contiguous | Access::Strided(_) | Access::Repeated(_)) = along(a, lane)
            && (access == Access::Contiguous || shuffled)
        {
            let first: Vec<V<'c>> = before.iter().copied().chain([self.affine(a, scope, true)]).collect();
            return (access, self.offset(param, &first));
        }
        (Access::Scattered, self.offset(param, at))
    }

    fn address(&self, param: usize, offset: V<'c>) -> PointerValue<'c> {
        self.code.element(stored(self.kernel.params[param].dtype), self.params[param], offset.into_int_value())
    }

    /// One address a lane.
    fn addresses(&self, param: usize, offset: V<'c>) -> V<'c> {
        let code = &self.code;
        let lanes = Code::lanes(offset);
        let bytes = code.splat(code.int(self.kernel.params[param].dtype.bytes() as i64).into(), lanes);
        let base = ok(code.builder.build_ptr_to_int(self.params[param], code.context.i64_type(), ""));
        let at = code.binary(Op::Add, code.splat(base.into(), lanes), code.binary(Op::Mul, offset, bytes));
        code.convert(Op::IntToPtr, at, code.context.ptr_type(Default::default()).vec_type(lanes).into())
    }

    fn load(&self, param: usize, index: &[Index], otherwise: Option<Scalar>, scope: &Scope<'c>, values: &[V<'c>]) -> V<'c> {
        let code = &self.code;
        let dtype = self.kernel.params[param].dtype;
        let (elem, align) = (stored(dtype), dtype.bytes() as u32);
        let (at, mut inside) = self.indices(param, index, otherwise.is_some(), scope, values);
        let mut otherwise = otherwise;
        match inside {
            // A thread of a GPU reports it and goes on with a zero: others may wait for it.
            Some(within) if otherwise.is_none() && code.device.is_some() => {
                self.check(within, scope);
                otherwise = Some(Scalar::from_bits(dtype, 0));
            }
            Some(within) if otherwise.is_none() => {
                self.check(within, scope);
                inside = None;
            }
            _ => {}
        }
        let widest = at.iter().map(|i| Code::lanes(*i)).max().unwrap_or(1);
        if widest == 1 {
            let read = || {
                let v = code.load(code.ty(elem, 1), self.address(param, self.offset(param, &at)), align);
                Ok::<_, String>(self.loaded(v, dtype))
            };
            let v = match (inside, otherwise) {
                (Some(inside), Some(other)) => code.either(inside.into_int_value(), read, || Ok(code.constant(other, 1))),
                _ => read(),
            };
            return v.expect("reading emits no error");
        }
        let lanes = scope.lanes();
        let mask = match (inside, scope.mask) {
            (Some(a), Some(b)) => Some(code.both(code.splat(a, lanes), b)),
            (Some(a), None) => Some(code.splat(a, lanes)),
            (None, b) => b,
        };
        let ty = code.ty(elem, lanes);
        let other = otherwise
            .map_or(ty.const_zero(), |s| if dtype == DType::Bool { self.storable(code.constant(s, lanes)) } else { code.constant(s, lanes) });
        let v = match self.layout(param, index, &at, lanes == 16, scope) {
            (Access::Contiguous, offset) => {
                let address = self.address(param, offset);
                match mask {
                    None => code.load(ty, address, align),
                    Some(mask) => {
                        code.masked("llvm.masked.load", &[ty, code.pointer()], vec![address.into(), mask, other], 1, align).expect("a value")
                    }
                }
            }
            (Access::Strided(step), offset) => self.strided(param, offset.into_int_value(), step, mask, other),
            (Access::Repeated(share), offset) => {
                let begins = match (index.last(), scope.lane) {
                    (Some(Index::Affine(a)), Some((lane, _))) => shared(a, lane).map(|(a, _)| self.affine(a, scope, true)),
                    _ => None,
                };
                let begins = self.divide(begins.expect("an access is what its index says"), &Size::constant(share)).1;
                self.repeated(param, offset.into_int_value(), begins.into_int_value(), share, mask, other)
            }
            (Access::Scattered | Access::Same, offset) => {
                let addresses = self.addresses(param, offset);
                let mask = mask.unwrap_or_else(|| code.constant(Scalar::bool(true), lanes));
                let overload = [ty, addresses.get_type()];
                code.masked("llvm.masked.gather", &overload, vec![addresses, mask, other], 1, align).expect("a value")
            }
        };
        self.loaded(v, dtype)
    }

    /// Stores `value`, or what `join` makes of the old value and it (one lane only), at an element.
    pub fn store(
        &self,
        param: usize,
        index: &[Index],
        value: V<'c>,
        join: Option<ScalarOp>,
        scope: &Scope<'c>,
        values: &[V<'c>],
    ) -> Result<(), String> {
        let code = &self.code;
        if index.iter().any(|i| matches!(i, Index::Value(v) if *v >= values.len())) {
            return Err(format!("kernel {}: a store's index is computed where the value is not", self.kernel.name));
        }
        let (at, inside) = self.indices(param, index, false, scope, values);
        if let Some(inside) = inside {
            self.check(inside, scope);
        }
        if let (Some(inside), Some(_)) = (inside, code.device) {
            return code.only_if(inside.into_int_value(), || self.store_at(param, index, &at, value, join, scope));
        }
        self.store_at(param, index, &at, value, join, scope)
    }

    /// The same where the element is there.
    fn store_at(&self, param: usize, index: &[Index], at: &[V<'c>], value: V<'c>, join: Option<ScalarOp>, scope: &Scope<'c>) -> Result<(), String> {
        let code = &self.code;
        let dtype = self.kernel.params[param].dtype;
        let (elem, align, lanes) = (stored(dtype), dtype.bytes() as u32, scope.lanes());
        let value = code.splat(value, lanes);
        let (access, offset) = self.layout(param, index, at, false, scope);
        match access {
            Access::Same if lanes == 1 => {
                let address = self.address(param, offset);
                let value = match join {
                    None => value,
                    Some(op) => {
                        let old = self.loaded(code.load(code.ty(elem, 1), address, align), dtype);
                        self.op(op, &[old, value])
                    }
                };
                code.store(address, self.storable(value), align);
            }
            _ if join.is_some() => return Err(format!("kernel {}: a joining store in lanes", self.kernel.name)),
            Access::Contiguous => {
                let (address, value) = (self.address(param, offset), self.storable(value));
                match scope.mask {
                    None => code.store(address, value, align),
                    Some(mask) => {
                        let overload = [value.get_type(), code.pointer()];
                        code.masked("llvm.masked.store", &overload, vec![value, address.into(), mask], 2, align);
                    }
                }
            }
            Access::Same | Access::Strided(_) | Access::Repeated(_) | Access::Scattered => {
                let (addresses, value) = (self.addresses(param, code.splat(offset, lanes)), self.storable(value));
                let mask = scope.mask.unwrap_or_else(|| code.constant(Scalar::bool(true), lanes));
                let overload = [value.get_type(), addresses.get_type()];
                code.masked("llvm.masked.scatter", &overload, vec![value, addresses, mask], 2, align);
            }
        }
        Ok(())
    }

    fn loaded(&self, v: V<'c>, dtype: DType) -> V<'c> {
        if dtype == DType::Bool { self.code.icmp(IntPredicate::NE, v, v.get_type().const_zero()) } else { v }
    }

    fn storable(&self, v: V<'c>) -> V<'c> {
        if dtype(v) == DType::Bool { self.code.convert(Op::ZExt, v, self.code.ty(Elem::I8, Code::lanes(v))) } else { v }
    }
}
