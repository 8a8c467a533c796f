//! Folds in their defined order.

use crate::emit::body::{Scope, Writer, dtype};
use crate::emit::code::{Code, Elem, V, ok};
use crate::emit::modes::{Mode, few};
use crate::ir::{DType, Fold, Scalar, ScalarOp};
use crate::kernel::Stage;
use inkwell::IntPredicate;
use inkwell::types::BasicTypeEnum;
use inkwell::values::{BasicValueEnum, InstructionOpcode as Op, IntValue, PointerValue};
use std::cell::RefCell;

/// Consecutive positions of one chain of fma.
const LEAF: i64 = 256;

impl<'c> Writer<'_, 'c> {
    /// The results of a stage's fold at a point, or at a group of lanes.
    pub fn fold(&self, stage: &Stage, mode: Mode, scope: &Scope<'c>) -> Result<Vec<V<'c>>, String> {
        let elem = self.value_type(stage)?;
        match stage.fold {
            Fold::None => Err(format!("kernel {}: no fold", self.kernel.name)),
            Fold::Winograd | Fold::WinogradWeights | Fold::DotLines => Err(format!("kernel {}: engines take windows as a whole", self.kernel.name)),
            Fold::Dot if stage.reds.len() == 1 => self.dot(stage, elem, scope).map(|v| vec![v]),
            Fold::Dot => self.dot_box(stage, elem, scope).map(|v| vec![v]),
            Fold::Sum | Fold::Prod | Fold::Max | Fold::Min => {
                let value = match mode {
                    Mode::Reds => self.fold_along(stage, scope),
                    _ if few(stage) => self.fold_few(stage, elem, scope),
                    _ => self.fold_lanes(stage, elem, scope),
                };
                value.map(|v| vec![v])
            }
            Fold::ArgMax | Fold::ArgMin => self.best(stage, elem, scope),
        }
    }

    /// The body's values at a point, in the scope's lanes.
    pub fn values(&self, stage: &Stage, scope: &Scope<'c>) -> Result<Vec<V<'c>>, String> {
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
        self.reduce(stage, 0, scope, &|scope: &Scope<'c>| {
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
        let ty = self.code.ty(elem.into(), scope.lanes());
        let bank = self.code.fold_lanes(ty);
        self.clear_bank(stage, ty, bank);
        self.reductions(stage, scope, &|scope, k, mask| self.fold_into(stage, ty, bank, scope, k, mask))?;
        Ok(self.joined_bank(stage, ty, bank))
    }

    /// Sets the 16 variables of a bank, so many places apart from the first on, to what the fold starts from.
    pub fn clear_bank(&self, stage: &Stage, ty: BasicTypeEnum<'c>, (apart, bank): (i64, PointerValue<'c>)) {
        let code = &self.code;
        let neutral = self.neutral(stage, ty);
        (0..16).for_each(|lane| code.set(code.step(ty, bank, code.int(lane * apart)), neutral));
    }

    /// Joins the value at position `k` to its variable.
    pub fn fold_into(
        &self,
        stage: &Stage,
        ty: BasicTypeEnum<'c>,
        (apart, bank): (i64, PointerValue<'c>),
        scope: &Scope<'c>,
        k: IntValue<'c>,
        mask: Option<V<'c>>,
    ) -> Result<(), String> {
        let code = &self.code;
        let value = self.values(stage, scope)?[0];
        let lane = code.binary(Op::And, k.into(), code.int(15).into());
        let lane = if apart == 1 { lane } else { code.binary(Op::Mul, lane, code.int(apart).into()) };
        let at = code.step(ty, bank, lane.into_int_value());
        let old = code.get(ty, at);
        code.set(at, self.kept(mask, self.op(stage.fold.join(), &[old, value]), old));
        Ok(())
    }

    /// The 16 variables as one value.
    pub fn joined_bank(&self, stage: &Stage, ty: BasicTypeEnum<'c>, (apart, bank): (i64, PointerValue<'c>)) -> V<'c> {
        let code = &self.code;
        let mut lanes: Vec<V<'c>> = (0..16).map(|lane| code.get(ty, code.step(ty, bank, code.int(lane * apart)))).collect();
        for half in [8, 4, 2, 1] {
            lanes = (0..half).map(|l| self.op(stage.fold.join(), &[lanes[l], lanes[l + half]])).collect();
        }
        lanes[0]
    }

    /// What the stage's fold starts from.
    pub fn neutral(&self, stage: &Stage, ty: BasicTypeEnum<'c>) -> V<'c> {
        self.code.constant(stage.fold.neutral(dtype(ty.const_zero())), Code::lanes(ty.const_zero()))
    }

    /// A fold of no more points than it has lanes. Lanes without a point hold what the fold starts from, and joining that changes nothing: no lane of a
    /// sum is -0, since each starts from +0.
    fn fold_few(&self, stage: &Stage, elem: DType, scope: &Scope<'c>) -> Result<V<'c>, String> {
        let code = &self.code;
        let ty = code.ty(elem.into(), scope.lanes());
        let neutral = self.neutral(stage, ty);
        let lanes = RefCell::new(vec![]);
        self.positions(stage, scope, &|scope, _| {
            let lane = code.variable(ty);
            code.set(lane, neutral);
            lanes.borrow_mut().push(lane);
            let guards = self.guards(&stage.guards, scope);
            self.where_holds(guards, scope, |scope, mask| {
                let value = self.values(stage, scope)?[0];
                code.set(lane, self.kept(mask, self.op(stage.fold.join(), &[neutral, value]), neutral));
                Ok(())
            })
        })?;
        let mut lanes: Vec<V<'c>> = lanes.into_inner().into_iter().map(|lane| code.get(ty, lane)).collect();
        for half in [8, 4, 2, 1] {
            for l in half..lanes.len() {
                lanes[l - half] = self.op(stage.fold.join(), &[lanes[l - half], lanes[l]]);
            }
            lanes.truncate(half);
        }
        Ok(lanes.first().copied().unwrap_or(neutral))
    }

    /// The fold's 16 lanes as one vector along the last reduction variable.
    fn fold_along(&self, stage: &Stage, scope: &Scope<'c>) -> Result<V<'c>, String> {
        let bank = self.open_lanes(stage)?;
        self.over(&stage.reds, true, scope, &mut |scope| self.join_lanes(stage, bank, scope))?;
        Ok(self.joined_lanes(stage, bank))
    }

    /// A vector of the fold's 16 lanes, as it starts.
    pub fn open_lanes(&self, stage: &Stage) -> Result<(BasicTypeEnum<'c>, PointerValue<'c>), String> {
        let ty = self.code.ty(self.value_type(stage)?.into(), 16);
        let bank = self.code.variable(ty);
        self.code.set(bank, self.neutral(stage, ty));
        Ok((ty, bank))
    }

    /// Joins the values at 16 points to their lanes, but for points that are left out.
    pub fn join_lanes(&self, stage: &Stage, (ty, bank): (BasicTypeEnum<'c>, PointerValue<'c>), scope: &Scope<'c>) -> Result<(), String> {
        let guards = self.guards(&stage.guards, scope);
        self.where_holds(guards, scope, |scope, _| {
            let value = self.code.splat(self.values(stage, scope)?[0], 16);
            let old = self.code.get(ty, bank);
            self.code.set(bank, self.kept(scope.mask, self.op(stage.fold.join(), &[old, value]), old));
            Ok(())
        })
    }

    /// The 16 lanes as one value.
    pub fn joined_lanes(&self, stage: &Stage, (ty, bank): (BasicTypeEnum<'c>, PointerValue<'c>)) -> V<'c> {
        let mut all = self.code.get(ty, bank);
        for half in [8, 4, 2, 1] {
            if let BasicValueEnum::VectorValue(v) = all {
                all = self.op(stage.fold.join(), &[self.code.slice(v, 0, half), self.code.slice(v, half, half)]);
            }
        }
        all
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
        self.reductions(stage, scope, &|scope, k, mask| {
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
