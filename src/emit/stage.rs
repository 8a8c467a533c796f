//! Loops: the outer range, a stage's inner loops, folds in their defined order.

use crate::emit::body::{Scope, Writer, dtype};
use crate::emit::code::{Code, Elem, V, ok};
use crate::emit::modes::{Mode, Modes};
use crate::ir::{DType, Fold, Scalar, ScalarOp, ScatterFold};
use crate::kernel::{Stage, Target};
use inkwell::IntPredicate;
use inkwell::types::{BasicType, BasicTypeEnum};
use inkwell::values::{BasicValueEnum, InstructionOpcode as Op, IntValue, PointerValue};

/// What runs at a point of the reduction box: its scope, its position, and the lanes that take part where not all do.
type PointBody<'a, 'c> = &'a dyn Fn(&Scope<'c>, IntValue<'c>, Option<V<'c>>) -> Result<(), String>;

/// Consecutive positions of one chain of fma.
const LEAF: i64 = 256;

impl<'c> Writer<'_, 'c> {
    /// The loop over outer points `lo..hi`.
    pub fn outer(&self, modes: &Modes, lo: IntValue<'c>, hi: IntValue<'c>) -> Result<(), String> {
        let code = &self.code;
        let scope = Scope { point: vec![], ranges: self.kernel.outer.clone(), lane: None, mask: None, locals: vec![] };
        let Some((last, before)) = self.kernel.outer.split_last() else {
            code.range(lo, hi, 1, |_| self.stages(modes, &scope))?;
            return Ok(());
        };
        // Row by row of the last variable.
        let b = &code.builder;
        let size = self.size(last);
        let linear = code.variable(code.ty(Elem::I64, 1));
        code.set(linear, lo.into());
        let (head, inside, end) = (code.block(), code.block(), code.block());
        code.go(head);
        let at = code.get(code.ty(Elem::I64, 1), linear).into_int_value();
        let more = ok(b.build_int_compare(IntPredicate::SLT, at, hi, ""));
        code.branch(more, inside, end);
        b.position_at_end(inside);
        let mut row = ok(b.build_int_unsigned_div(at, size, ""));
        let from = ok(b.build_int_sub(at, ok(b.build_int_mul(row, size, "")), ""));
        let rest = ok(b.build_int_add(from, ok(b.build_int_sub(hi, at, "")), ""));
        let to = self.lesser(size, rest);
        let mut point = vec![];
        for (i, size) in before.iter().enumerate().rev() {
            if i == 0 {
                point.push(row);
            } else {
                let size = self.size(size);
                point.push(ok(b.build_int_unsigned_rem(row, size, "")));
                row = ok(b.build_int_unsigned_div(row, size, ""));
            }
        }
        point.reverse();
        let scope = Scope { point, ..scope };
        let mut run = |scope: &Scope<'c>| self.stages(modes, scope);
        match modes.outer {
            Some(lanes) => self.lanes(from, to, lanes, &scope, &mut run)?,
            None => {
                code.range(from, to, 1, |i| run(&self.at(&scope, i)))?;
            }
        }
        code.set(linear, ok(code.builder.build_int_add(at, ok(code.builder.build_int_sub(to, from, "")), "")).into());
        code.jump(head);
        code.builder.position_at_end(end);
        Ok(())
    }

    /// The lesser of two integers.
    pub fn lesser(&self, a: IntValue<'c>, b: IntValue<'c>) -> IntValue<'c> {
        let less = ok(self.code.builder.build_int_compare(IntPredicate::SLT, a, b, ""));
        self.code.select(less.into(), a.into(), b.into()).into_int_value()
    }

    /// The greater of two integers.
    pub fn greater(&self, a: IntValue<'c>, b: IntValue<'c>) -> IntValue<'c> {
        let more = ok(self.code.builder.build_int_compare(IntPredicate::SGT, a, b, ""));
        self.code.select(more.into(), a.into(), b.into()).into_int_value()
    }

    fn at(&self, scope: &Scope<'c>, i: IntValue<'c>) -> Scope<'c> {
        let mut scope = scope.clone();
        scope.point.push(i);
        scope
    }

    /// The next variable from `from` to `to` in lanes: whole groups, then groups of 16 of which those below `to` take part.
    fn lanes(
        &self,
        from: IntValue<'c>,
        to: IntValue<'c>,
        lanes: u32,
        scope: &Scope<'c>,
        body: &mut dyn FnMut(&Scope<'c>) -> Result<(), String>,
    ) -> Result<(), String> {
        let var = scope.point.len();
        self.groups(from, to, lanes, &mut |i, lanes, mask| body(&Scope { lane: Some((var, lanes)), mask: mask.or(scope.mask), ..self.at(scope, i) }))
    }

    /// Runs `body(first, lanes, mask)` for groups of lanes from `from` to `to`, as [`Writer::lanes`] does.
    pub fn groups(
        &self,
        from: IntValue<'c>,
        to: IntValue<'c>,
        lanes: u32,
        body: &mut dyn FnMut(IntValue<'c>, u32, Option<V<'c>>) -> Result<(), String>,
    ) -> Result<(), String> {
        let code = &self.code;
        let whole = ok(code.builder.build_int_sub(to, code.int(lanes as i64 - 1), ""));
        let rest = code.range(from, whole, lanes as i64, |i| body(i, lanes, None))?;
        let exact = |n: IntValue<'c>| n.get_sign_extended_constant();
        if exact(from) == Some(0) && exact(to).is_some_and(|n| n % lanes as i64 == 0) {
            return Ok(());
        }
        code.range(rest, to, 16, |i| {
            let left = ok(code.builder.build_int_sub(to, i, ""));
            let mask = code.icmp(IntPredicate::SLT, code.lane_numbers(16), code.splat(left.into(), 16));
            body(i, 16, Some(mask))
        })?;
        Ok(())
    }

    fn stages(&self, modes: &Modes, scope: &Scope<'c>) -> Result<(), String> {
        let scope = Scope { locals: self.locals(scope.lanes()), ..scope.clone() };
        self.kernel.stages.iter().zip(&modes.stages).try_for_each(|(stage, mode)| self.stage(stage, *mode, &scope))
    }

    /// Variables for the kernel's locals, of so many lanes.
    pub fn locals(&self, lanes: u32) -> Vec<(BasicTypeEnum<'c>, PointerValue<'c>)> {
        let local = |t: &DType| {
            let ty = self.code.ty((*t).into(), lanes);
            (ty, self.code.variable(ty))
        };
        self.kernel.locals.iter().map(local).collect()
    }

    /// A stage at an outer point.
    pub fn stage(&self, stage: &Stage, mode: Mode, scope: &Scope<'c>) -> Result<(), String> {
        let mut scope = scope.clone();
        scope.ranges.truncate(self.kernel.outer.len());
        scope.ranges.extend(stage.inner.iter().chain(&stage.reds).cloned());
        self.inner(stage, mode, 0, &scope)
    }

    /// The inner loops from number `depth` on.
    fn inner(&self, stage: &Stage, mode: Mode, depth: usize, scope: &Scope<'c>) -> Result<(), String> {
        let Some(size) = stage.inner.get(depth) else { return self.guarded_point(stage, mode, scope) };
        let size = self.size(size);
        match mode {
            Mode::Inner(lanes) if depth + 1 == stage.inner.len() => {
                self.lanes(self.code.int(0), size, lanes, scope, &mut |scope| self.guarded_point(stage, mode, scope))
            }
            _ => self.code.range(self.code.int(0), size, 1, |i| self.inner(stage, mode, depth + 1, &self.at(scope, i))).map(|_| ()),
        }
    }

    fn guarded_point(&self, stage: &Stage, mode: Mode, scope: &Scope<'c>) -> Result<(), String> {
        let guards = if stage.skip { self.guards(&stage.guards, scope) } else { None };
        self.where_holds(guards, scope, |scope, _| self.point(stage, mode, scope))
    }

    /// Runs `body` where the condition holds (everywhere if there is none), with the condition as further mask if it differs between lanes.
    fn where_holds(
        &self,
        condition: Option<V<'c>>,
        scope: &Scope<'c>,
        body: impl FnOnce(&Scope<'c>, Option<V<'c>>) -> Result<(), String>,
    ) -> Result<(), String> {
        match condition {
            None => body(scope, None),
            Some(c) if Code::lanes(c) == 1 => self.code.only_if(c.into_int_value(), || body(scope, None)),
            Some(c) => {
                let mask = scope.mask.map_or(c, |m| self.code.both(m, c));
                let inside = Scope { mask: Some(mask), ..scope.clone() };
                self.code.only_if(self.code.any(mask), || body(&inside, Some(mask)))
            }
        }
    }

    /// One point (or one group of lanes) of the output box: values, folds, stores.
    fn point(&self, stage: &Stage, mode: Mode, scope: &Scope<'c>) -> Result<(), String> {
        let mut values = Vec::new();
        let results = if stage.fold != Fold::None {
            self.fold(stage, mode, scope)?
        } else if stage.guards.is_empty() || stage.skip {
            self.block(&stage.body, scope, &mut values)?;
            vec![values[stage.values[0]]]
        } else {
            let ty = self.value_type(stage)?;
            let slot = self.code.variable(self.code.ty(ty.into(), scope.lanes()));
            let zero = self.code.constant(Scalar::float(ty, 0.0), scope.lanes());
            self.code.set(slot, zero);
            let guards = self.guards(&stage.guards, scope);
            self.where_holds(guards, scope, |scope, mask| {
                let mut values = Vec::new();
                self.block(&stage.body, scope, &mut values)?;
                let value = self.code.splat(values[stage.values[0]], scope.lanes());
                self.code.set(slot, mask.map_or(value, |m| self.code.select(m, value, zero)));
                Ok(())
            })?;
            vec![self.code.get(self.code.ty(ty.into(), scope.lanes()), slot)]
        };
        self.results(stage, &results, scope, &values)
    }

    /// Stores what a stage has computed at a point; `values` are those of its body where it has no fold.
    pub fn results(&self, stage: &Stage, results: &[V<'c>], scope: &Scope<'c>, values: &[V<'c>]) -> Result<(), String> {
        for store in &stage.stores {
            let value = results[store.result];
            match &store.target {
                Target::Local(l) => self.code.set(scope.locals[*l].1, self.code.splat(value, scope.lanes())),
                Target::Param { param, index, fold } => {
                    let join = match fold {
                        None | Some(ScatterFold::Replace) => None,
                        Some(ScatterFold::Sum) => Some(ScalarOp::Add),
                        Some(ScatterFold::Prod) => Some(ScalarOp::Mul),
                        Some(ScatterFold::Max) => Some(ScalarOp::Max),
                        Some(ScatterFold::Min) => Some(ScalarOp::Min),
                    };
                    self.store(*param, index, value, join, scope, values)?;
                }
            }
        }
        Ok(())
    }

    fn value_type(&self, stage: &Stage) -> Result<DType, String> {
        let types = crate::kernel::verify::types(self.kernel, &stage.body).map_err(|e| format!("kernel {}: {e}", self.kernel.name))?;
        let value = stage.values.first().and_then(|v| types.get(*v));
        value.copied().ok_or_else(|| format!("kernel {}: a stage without a value", self.kernel.name))
    }

    /// Runs `body(scope, k)` for every point of the reduction box where the guards hold; the mask is that of lanes left out by guards
    /// (with [`Mode::Reds`] also by the box's end).
    fn reductions(&self, stage: &Stage, mode: Mode, scope: &Scope<'c>, body: PointBody<'_, 'c>) -> Result<(), String> {
        let i64t = self.code.ty(Elem::I64, 1);
        let k = self.code.variable(i64t);
        self.code.set(k, self.code.int(0).into());
        self.reduce(stage, mode, 0, scope, &|scope: &Scope<'c>| {
            let now = self.code.get(i64t, k).into_int_value();
            let guards = if stage.skip { None } else { self.guards(&stage.guards, scope) };
            self.where_holds(guards, scope, |scope, mask| {
                let mask = if mode == Mode::Reds { scope.mask } else { mask };
                body(scope, now, mask)
            })?;
            self.code.set(k, ok(self.code.builder.build_int_add(now, self.code.int(1), "")).into());
            Ok(())
        })
    }

    fn reduce(
        &self,
        stage: &Stage,
        mode: Mode,
        depth: usize,
        scope: &Scope<'c>,
        body: &dyn Fn(&Scope<'c>) -> Result<(), String>,
    ) -> Result<(), String> {
        let Some(size) = stage.reds.get(depth) else { return body(scope) };
        let (zero, size) = (self.code.int(0), self.size(size));
        if mode == Mode::Reds && depth + 1 == stage.reds.len() {
            return self.lanes(zero, size, 16, scope, &mut |scope| body(scope));
        }
        self.code.range(zero, size, 1, |i| self.reduce(stage, mode, depth + 1, &self.at(scope, i), body)).map(|_| ())
    }

    fn fold(&self, stage: &Stage, mode: Mode, scope: &Scope<'c>) -> Result<Vec<V<'c>>, String> {
        let elem = self.value_type(stage)?;
        match stage.fold {
            Fold::None => Err(format!("kernel {}: no fold", self.kernel.name)),
            Fold::Dot if stage.reds.len() == 1 => self.dot(stage, elem, scope).map(|v| vec![v]),
            Fold::Dot => self.dot_box(stage, elem, scope).map(|v| vec![v]),
            Fold::Sum | Fold::Prod | Fold::Max | Fold::Min => {
                if mode == Mode::Reds { self.fold_along(stage, elem, scope) } else { self.fold_lanes(stage, elem, scope) }.map(|v| vec![v])
            }
            Fold::ArgMax | Fold::ArgMin => self.best(stage, elem, scope),
        }
    }

    /// The body's values at a point, in the scope's lanes.
    fn values(&self, stage: &Stage, scope: &Scope<'c>) -> Result<Vec<V<'c>>, String> {
        let mut values = Vec::new();
        self.block(&stage.body, scope, &mut values)?;
        Ok(stage.values.iter().map(|v| self.code.splat(values[*v], scope.lanes())).collect())
    }

    fn kept(&self, mask: Option<V<'c>>, new: V<'c>, old: V<'c>) -> V<'c> {
        mask.map_or(new, |m| self.code.select(m, new, old))
    }

    fn multiply_add(&self, stage: &Stage, scope: &Scope<'c>, chain: PointerValue<'c>, mask: Option<V<'c>>) -> Result<(), String> {
        let values = self.values(stage, scope)?;
        let &[a, b] = values.as_slice() else { return Err(format!("kernel {}: a dot has two factors", self.kernel.name)) };
        let old = self.code.get(a.get_type(), chain);
        self.code.set(chain, self.kept(mask, self.op(ScalarOp::Fma, &[a, b, old]), old));
        Ok(())
    }

    /// Chains of fma over one reduction loop, leaf by leaf. The leaves' sum starts from -0, which adds nothing to any first leaf.
    fn dot(&self, stage: &Stage, elem: DType, scope: &Scope<'c>) -> Result<V<'c>, String> {
        let code = &self.code;
        let ty = code.ty(elem.into(), scope.lanes());
        let (sum, chain) = (code.variable(ty), code.variable(ty));
        let size = self.size(&stage.reds[0]);
        let number = |x: f64| code.constant(Scalar::float(elem, x), scope.lanes());
        let empty = ok(code.builder.build_int_compare(IntPredicate::SLE, size, code.int(0), ""));
        code.set(sum, code.select(empty.into(), number(0.0), number(-0.0)));
        code.range(code.int(0), size, LEAF, |leaf| {
            code.set(chain, number(0.0));
            let to = self.lesser(size, ok(code.builder.build_int_add(leaf, code.int(LEAF), "")));
            code.range(leaf, to, 1, |k| {
                let scope = self.at(scope, k);
                let guards = if stage.skip { None } else { self.guards(&stage.guards, &scope) };
                self.where_holds(guards, &scope, |scope, mask| self.multiply_add(stage, scope, chain, mask))
            })?;
            code.set(sum, self.op(ScalarOp::Add, &[code.get(ty, sum), code.get(ty, chain)]));
            Ok::<(), String>(())
        })?;
        Ok(code.get(ty, sum))
    }

    /// The same over several reduction loops: the chain is closed whenever the position reaches a new leaf.
    fn dot_box(&self, stage: &Stage, elem: DType, scope: &Scope<'c>) -> Result<V<'c>, String> {
        let code = &self.code;
        let ty = code.ty(elem.into(), scope.lanes());
        let (sum, chain) = (code.variable(ty), code.variable(ty));
        let number = |x: f64| code.constant(Scalar::float(elem, x), scope.lanes());
        code.set(sum, number(-0.0));
        code.set(chain, number(-0.0));
        let i64t = code.ty(Elem::I64, 1);
        let position = code.variable(i64t);
        code.set(position, code.int(0).into());
        self.reduce(stage, Mode::Scalar, 0, scope, &|scope: &Scope<'c>| {
            let k = code.get(i64t, position);
            let within = code.binary(Op::And, k, code.int(LEAF - 1).into());
            let starts = code.icmp(IntPredicate::EQ, within, code.int(0).into()).into_int_value();
            code.only_if(starts, || {
                code.set(sum, self.op(ScalarOp::Add, &[code.get(ty, sum), code.get(ty, chain)]));
                code.set(chain, number(0.0));
                Ok::<(), String>(())
            })?;
            let guards = if stage.skip { None } else { self.guards(&stage.guards, scope) };
            self.where_holds(guards, scope, |scope, mask| self.multiply_add(stage, scope, chain, mask))?;
            code.set(position, code.binary(Op::Add, k, code.int(1).into()));
            Ok(())
        })?;
        let total = self.op(ScalarOp::Add, &[code.get(ty, sum), code.get(ty, chain)]);
        let empty = code.icmp(IntPredicate::EQ, code.get(i64t, position), code.int(0).into());
        Ok(code.select(empty, number(0.0), total))
    }

    /// The fold's 16 lanes as 16 variables in memory, each of the scope's lanes.
    fn fold_lanes(&self, stage: &Stage, elem: DType, scope: &Scope<'c>) -> Result<V<'c>, String> {
        let code = &self.code;
        let ty = code.ty(elem.into(), scope.lanes());
        let bank = code.variable(ty.array_type(16).into());
        let slot = |k: IntValue<'c>| {
            // Safety: an address computation; k is below 16.
            unsafe { ok(code.builder.build_gep(ty, bank, &[k], "")) }
        };
        let neutral = code.constant(stage.fold.neutral(elem), scope.lanes());
        for lane in 0..16 {
            code.set(slot(code.int(lane)), neutral);
        }
        self.reductions(stage, Mode::Scalar, scope, &|scope, k, mask| {
            let value = self.values(stage, scope)?[0];
            let at = slot(code.binary(Op::And, k.into(), code.int(15).into()).into_int_value());
            let old = code.get(ty, at);
            code.set(at, self.kept(mask, self.op(stage.fold.join(), &[old, value]), old));
            Ok(())
        })?;
        let mut lanes: Vec<V<'c>> = (0..16).map(|lane| code.get(ty, slot(code.int(lane)))).collect();
        for half in [8, 4, 2, 1] {
            lanes = (0..half).map(|l| self.op(stage.fold.join(), &[lanes[l], lanes[l + half]])).collect();
        }
        Ok(lanes[0])
    }

    /// The fold's 16 lanes as one vector along the last reduction variable.
    fn fold_along(&self, stage: &Stage, elem: DType, scope: &Scope<'c>) -> Result<V<'c>, String> {
        let code = &self.code;
        let ty: BasicTypeEnum<'c> = code.ty(elem.into(), 16);
        let bank = code.variable(ty);
        code.set(bank, code.constant(stage.fold.neutral(elem), 16));
        self.reductions(stage, Mode::Reds, scope, &|scope, _, mask| {
            let value = code.splat(self.values(stage, scope)?[0], 16);
            let old = code.get(ty, bank);
            code.set(bank, self.kept(mask, self.op(stage.fold.join(), &[old, value]), old));
            Ok(())
        })?;
        let mut all = code.get(ty, bank);
        for half in [8, 4, 2, 1] {
            if let BasicValueEnum::VectorValue(v) = all {
                all = self.op(stage.fold.join(), &[code.slice(v, 0, half), code.slice(v, half, half)]);
            }
        }
        Ok(all)
    }

    /// The best value and its position: the first of equals, NaN above all.
    fn best(&self, stage: &Stage, elem: DType, scope: &Scope<'c>) -> Result<Vec<V<'c>>, String> {
        let code = &self.code;
        let lanes = scope.lanes();
        let (ty, at_ty, any_ty) = (code.ty(elem.into(), lanes), code.ty(Elem::I64, lanes), code.ty(Elem::Bool, lanes));
        let (best, at, any) = (code.variable(ty), code.variable(at_ty), code.variable(any_ty));
        code.set(best, code.constant(stage.fold.neutral(elem), lanes));
        code.set(at, at_ty.const_zero());
        code.set(any, any_ty.const_zero());
        self.reductions(stage, Mode::Scalar, scope, &|scope, k, mask| {
            let value = self.values(stage, scope)?[0];
            let (old, old_at, seen) = (code.get(ty, best), code.get(at_ty, at), code.get(any_ty, any));
            let pair = if stage.fold == Fold::ArgMax { [old, value] } else { [value, old] };
            let mut beats = self.op(ScalarOp::Lt, &pair);
            if elem.is_float() {
                let nan = |x: V<'c>| self.op(ScalarOp::Ne, &[x, x]);
                beats = self.op(ScalarOp::And, &[code.not(nan(old)), self.op(ScalarOp::Or, &[nan(value), beats])]);
            }
            let takes = self.op(ScalarOp::Or, &[code.not(seen), beats]);
            let takes = mask.map_or(takes, |m| code.both(takes, m));
            code.set(best, code.select(takes, value, old));
            code.set(at, code.select(takes, code.splat(k.into(), lanes), old_at));
            let seen_now = code.constant(Scalar::bool(true), lanes);
            code.set(any, self.kept(mask, seen_now, seen));
            Ok(())
        })?;
        debug_assert_eq!(dtype(code.get(ty, best)), elem);
        Ok(vec![code.get(ty, best), code.get(at_ty, at)])
    }
}
