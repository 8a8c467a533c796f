//! Loops: the outer range, stages one after the other or in one sweep, a stage's inner loops.

use crate::emit::body::{Scope, Writer};
use crate::emit::code::{Code, Elem, V, ok};
use crate::emit::modes::{Mode, Modes, few, together};
use crate::emit::pieces;
use crate::ir::{DType, Fold, IndexAtom, Relation, Scalar, ScalarOp, ScatterFold, Size};
use crate::kernel::contract::coefficient;
use crate::kernel::{Stage, Target};
use inkwell::IntPredicate;
use inkwell::types::BasicTypeEnum;
use inkwell::values::{IntValue, PointerValue};

/// What runs at a point of the reduction box: its scope, its position, and the lanes that take part where not all do.
pub type PointBody<'a, 'c> = &'a dyn Fn(&Scope<'c>, IntValue<'c>, Option<V<'c>>) -> Result<(), String>;
/// The same without regard to guards.
pub type PositionBody<'a, 'c> = &'a dyn Fn(&Scope<'c>, IntValue<'c>) -> Result<(), String>;

impl<'c> Writer<'_, 'c> {
    /// The loop over outer points `lo..hi`.
    pub fn outer(&self, modes: &Modes, lo: IntValue<'c>, hi: IntValue<'c>) -> Result<(), String> {
        let code = &self.code;
        let scope = Scope { point: vec![], ranges: self.kernel.outer.clone(), lane: None, mask: None, within: None, locals: vec![] };
        let Some((last, before)) = self.kernel.outer.split_last() else {
            code.range(lo, hi, 1, |_| self.stages(modes, &scope))?;
            return Ok(());
        };
        let pieces = pieces::pieces(self.kernel);
        let run = |point: &[IntValue<'c>], from: IntValue<'c>, to: IntValue<'c>| {
            let scope = Scope { point: point.to_vec(), ..scope.clone() };
            match modes.outer {
                Some(_) if modes.columns => self.columns(from, to, &scope),
                Some(lanes) => pieces.iter().try_for_each(|piece| {
                    let (from, to) = match piece {
                        None => (from, to),
                        Some(piece) => (self.greater(from, code.int(piece.start)), self.lesser(to, code.int(piece.end))),
                    };
                    let scope = Scope { within: piece.clone().map(|piece| (point.len(), piece)), ..scope.clone() };
                    self.lanes(from, to, lanes, &scope, &mut |scope| self.stages(modes, scope))
                }),
                None => code.range(from, to, 1, |i| self.stages(modes, &self.at(&scope, i))).map(|_| ()),
            }
        };
        if before.is_empty() {
            return run(&[], lo, hi);
        }
        // Row by row of the last variable: the first point by division, the others by carrying.
        let b = &code.builder;
        let any = ok(b.build_int_compare(IntPredicate::SLT, lo, hi, ""));
        code.only_if(any, || {
            let i64t = code.ty(Elem::I64, 1);
            let number = |at: PointerValue<'c>| code.get(i64t, at).into_int_value();
            let at: Vec<PointerValue<'c>> = (0..=self.kernel.outer.len()).map(|_| code.variable(i64t)).collect();
            let (linear, coordinates) = (at[0], &at[1..]);
            let mut rest = lo;
            for (axis, size) in self.kernel.outer.iter().enumerate().skip(1).rev() {
                let size = self.size(size);
                code.set(coordinates[axis], ok(b.build_int_unsigned_rem(rest, size, "")).into());
                rest = ok(b.build_int_unsigned_div(rest, size, ""));
            }
            code.set(coordinates[0], rest.into());
            code.set(linear, lo.into());
            let (head, inside, end) = (code.block(), code.block(), code.block());
            code.go(head);
            let now = number(linear);
            let more = ok(b.build_int_compare(IntPredicate::SLT, now, hi, ""));
            code.branch(more, inside, end);
            b.position_at_end(inside);
            let point: Vec<IntValue<'c>> = coordinates[..before.len()].iter().map(|at| number(*at)).collect();
            let from = number(coordinates[before.len()]);
            let rest = ok(b.build_int_add(from, ok(b.build_int_sub(hi, now, "")), ""));
            let to = self.lesser(self.size(last), rest);
            run(&point, from, to)?;
            code.set(linear, ok(b.build_int_add(now, ok(b.build_int_sub(to, from, "")), "")).into());
            code.set(coordinates[before.len()], code.int(0).into());
            let mut carry = code.int(1);
            for (axis, size) in before.iter().enumerate().rev() {
                let next = ok(b.build_int_add(point[axis], carry, ""));
                if axis == 0 {
                    code.set(coordinates[0], next.into());
                    break;
                }
                let full = ok(b.build_int_compare(IntPredicate::EQ, next, self.size(size), ""));
                code.set(coordinates[axis], code.select(full.into(), code.int(0).into(), next.into()));
                carry = ok(b.build_int_z_extend(full, code.context.i64_type(), ""));
            }
            code.jump(head);
            b.position_at_end(end);
            Ok(())
        })
    }

    /// The last outer variable from `from` to `to` where lanes run along it and folds have 16 values a lane: many lanes go through a fold together, so
    /// that memory is read in long pieces.
    fn columns(&self, from: IntValue<'c>, to: IntValue<'c>, scope: &Scope<'c>) -> Result<(), String> {
        const GROUPS: u32 = 8;
        let code = &self.code;
        let var = scope.point.len();
        let many = |ty: BasicTypeEnum<'c>, n: u32| code.variable(inkwell::types::BasicType::array_type(&ty, n).into());
        let locals: Vec<_> = self.kernel.locals.iter().map(|t| code.ty((*t).into(), 16)).map(|ty| (ty, many(ty, GROUPS))).collect();
        let folds = self.kernel.stages.iter().map(|stage| match stage.fold {
            Fold::Sum | Fold::Prod | Fold::Max | Fold::Min if stage.inner.is_empty() && !few(stage) => {
                let ty = code.ty(self.value_type(stage)?.into(), 16);
                Ok(Some((ty, many(ty, 16 * GROUPS))))
            }
            _ => Ok(None),
        });
        let folds = folds.collect::<Result<Vec<_>, String>>()?;
        code.range(from, to, 16 * GROUPS as i64, |first| {
            let end = self.lesser(to, ok(code.builder.build_int_add(first, code.int(16 * GROUPS as i64), "")));
            let group = |i: IntValue<'c>| ok(code.builder.build_right_shift(ok(code.builder.build_int_sub(i, first, "")), code.int(4), false, ""));
            // The group of lanes from `i` on, at a point of the other variables.
            let within = |scope: &Scope<'c>, i: IntValue<'c>, mask: Option<V<'c>>| {
                let mut scope = Scope { lane: Some((var, 16)), mask, ..scope.clone() };
                scope.point[var] = i;
                scope.locals = locals.iter().map(|(ty, at)| (*ty, code.step(*ty, *at, group(i)))).collect();
                scope
            };
            let start = self.at(scope, first);
            self.kernel.stages.iter().zip(&folds).try_for_each(|(stage, fold)| {
                let start = Scope { ranges: self.ranges(stage), ..start.clone() };
                let Some((ty, banks)) = fold else {
                    return self.groups(first, end, 16, &mut |i, _, mask| self.stage(stage, Mode::Scalar, &within(&start, i, mask)));
                };
                let bank = |i: IntValue<'c>| code.step(*ty, *banks, ok(code.builder.build_left_shift(group(i), code.int(4), "")));
                code.range(first, end, 16, |i| {
                    self.clear_bank(stage, *ty, (1, bank(i)));
                    Ok::<(), String>(())
                })?;
                self.positions(stage, &start, &|scope, k| {
                    self.groups(first, end, 16, &mut |i, _, mask| {
                        let scope = within(scope, i, mask);
                        let guards = self.guards(&stage.guards, &scope);
                        self.where_holds(guards, &scope, |scope, mask| self.fold_into(stage, *ty, (1, bank(i)), scope, k, mask))
                    })
                })?;
                self.groups(first, end, 16, &mut |i, _, mask| {
                    let sum = self.joined_bank(stage, *ty, (1, bank(i)));
                    self.results(stage, &[sum], &within(&start, i, mask), &[])
                })
            })
        })
        .map(|_| ())
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

    pub fn at(&self, scope: &Scope<'c>, i: IntValue<'c>) -> Scope<'c> {
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
        let exact = |n: IntValue<'c>| n.get_sign_extended_constant();
        let count = exact(to).filter(|_| exact(from) == Some(0));
        let rest = if count.is_some_and(|n| n < lanes as i64) {
            from
        } else {
            let whole = ok(code.builder.build_int_sub(to, code.int(lanes as i64 - 1), ""));
            code.range(from, whole, lanes as i64, |i| body(i, lanes, None))?
        };
        if count.is_some_and(|n| n % lanes as i64 == 0) {
            return Ok(());
        }
        let mut masked = |i: IntValue<'c>| {
            let left = ok(code.builder.build_int_sub(to, i, ""));
            // Below 16 or all lanes: 32 bits are enough, and half the work.
            let left = self.lesser(left, code.int(16));
            let left = ok(code.builder.build_int_truncate(left, code.context.i32_type(), ""));
            let mask = code.icmp(IntPredicate::SLT, code.lane_numbers_32(16), code.splat(left.into(), 16));
            body(i, 16, Some(mask))
        };
        if lanes > 16 {
            return code.range(rest, to, 16, masked).map(|_| ());
        }
        let some = ok(code.builder.build_int_compare(IntPredicate::SLT, rest, to, ""));
        code.only_if(some, || masked(rest))
    }

    /// All stages at an outer point.
    pub fn stages(&self, modes: &Modes, scope: &Scope<'c>) -> Result<(), String> {
        let scope = Scope { locals: self.locals(scope.lanes()), ..scope.clone() };
        let mut start = 0;
        while start < modes.stages.len() {
            let count = together(self.kernel, &modes.stages, start);
            let stages = &self.kernel.stages[start..start + count];
            match stages {
                [stage] if !self.sweeps(stage, modes.stages[start]) => self.stage(stage, modes.stages[start], &scope)?,
                _ => self.sweep(stages, &scope)?,
            }
            start += count;
        }
        Ok(())
    }

    fn sweeps(&self, stage: &Stage, mode: Mode) -> bool {
        mode == Mode::Reds && stage.inner.is_empty()
    }

    /// Stages over the same box in one loop, lanes along its last variable: each does its part of a group of lanes before the next one does.
    fn sweep(&self, stages: &[Stage], scope: &Scope<'c>) -> Result<(), String> {
        let scope = Scope { ranges: self.ranges(&stages[0]), ..scope.clone() };
        let limit = self.limit(stages, &scope);
        let whole: Vec<Stage> = stages.iter().map(|s| Stage { guards: vec![], skip: false, ..s.clone() }).collect();
        let stages = if limit.is_some() { &whole } else { stages };
        let banks = stages.iter().map(|stage| match stage.fold {
            Fold::None => Ok(None),
            _ => self.open_lanes(stage).map(Some),
        });
        let banks = banks.collect::<Result<Vec<_>, String>>()?;
        let sizes = if stages[0].reds.is_empty() { &stages[0].inner } else { &stages[0].reds };
        let folds = stages.iter().any(|s| s.fold != Fold::None);
        let mut body = |scope: &Scope<'c>| {
            stages.iter().zip(&banks).try_for_each(|(stage, bank)| match bank {
                None => self.guarded_point(stage, Mode::Scalar, scope),
                Some(bank) => self.join_lanes(stage, *bank, scope),
            })
        };
        match limit {
            Some(limit) => self.lanes(self.code.int(0), limit, 16, &scope, &mut body)?,
            None => self.over(sizes, folds, &scope, &mut body)?,
        }
        stages.iter().zip(&banks).try_for_each(|(stage, bank)| match bank {
            None => Ok(()),
            Some(bank) => self.results(stage, &[self.joined_lanes(stage, *bank)], &scope, &[]),
        })
    }

    /// Where the points that take part in each of the stages end, if their guard says no more than that: one loop, up to some place of it.
    fn limit(&self, stages: &[Stage], scope: &Scope<'c>) -> Option<IntValue<'c>> {
        let size = match (&stages[0].inner[..], &stages[0].reds[..]) {
            ([size], []) | ([], [size]) => size,
            _ => return None,
        };
        let [guard] = &stages[0].guards[..] else { return None };
        let var = self.kernel.outer.len();
        if guard.relation != Relation::NonNegative || coefficient(&guard.expr, var) != Some(-1) {
            return None;
        }
        let same = |s: &Stage| s.guards == stages[0].guards && s.skip == (s.fold == Fold::None);
        let mut other = guard.expr.clone();
        other.terms.retain(|(atom, _)| *atom != IndexAtom::Var(var));
        let mut knows = false;
        other.visit_vars(&mut |v| knows |= v == var || scope.lane.is_some_and(|(lane, _)| lane == v));
        if knows || !stages.iter().all(same) {
            return None;
        }
        let last = self.affine(&other, scope, true).into_int_value();
        Some(self.lesser(self.size(size), ok(self.code.builder.build_int_add(last, self.code.int(1), ""))))
    }

    /// The loops of a box, 16 lanes along the last one; where `folds`, every point in the lane that its position in the box gives it.
    pub fn over(&self, sizes: &[Size], folds: bool, scope: &Scope<'c>, body: &mut dyn FnMut(&Scope<'c>) -> Result<(), String>) -> Result<(), String> {
        let (last, before) = sizes.split_last().expect("a box has variables");
        let row = if folds { self.rows(sizes) } else { None };
        self.boxes(before, scope, &mut |scope| self.row(self.size(last), row, scope, body))
    }

    /// The loops of a box, point by point.
    fn boxes(&self, sizes: &[Size], scope: &Scope<'c>, body: &mut dyn FnMut(&Scope<'c>) -> Result<(), String>) -> Result<(), String> {
        let Some((first, rest)) = sizes.split_first() else { return body(scope) };
        self.code.range(self.code.int(0), self.size(first), 1, |i| self.boxes(rest, &self.at(scope, i), body)).map(|_| ())
    }

    /// Where the rows of a box do not all begin at a lane 0: the lane that the next one begins at.
    fn rows(&self, sizes: &[Size]) -> Option<PointerValue<'c>> {
        let (last, before) = sizes.split_last()?;
        if before.is_empty() || last.as_const().is_some_and(|n| n % 16 == 0) {
            return None;
        }
        let lane = self.code.variable(self.code.ty(Elem::I64, 1));
        self.code.set(lane, self.code.int(0).into());
        Some(lane)
    }

    /// A row of a box from lane `begins` on.
    fn row(
        &self,
        size: IntValue<'c>,
        begins: Option<PointerValue<'c>>,
        scope: &Scope<'c>,
        body: &mut dyn FnMut(&Scope<'c>) -> Result<(), String>,
    ) -> Result<(), String> {
        let code = &self.code;
        let Some(begins) = begins else { return self.lanes(code.int(0), size, 16, scope, body) };
        let b = &code.builder;
        let lane = code.get(code.ty(Elem::I64, 1), begins).into_int_value();
        let later = ok(b.build_int_compare(IntPredicate::NE, lane, code.int(0), ""));
        code.only_if(later, || {
            let numbers = code.lane_numbers(16);
            let end = ok(b.build_int_add(lane, size, ""));
            let from = code.icmp(IntPredicate::SGE, numbers, code.splat(lane.into(), 16));
            let to = code.icmp(IntPredicate::SLT, numbers, code.splat(end.into(), 16));
            let mask = code.both(from, to);
            let first = ok(b.build_int_neg(lane, ""));
            body(&Scope { lane: Some((scope.point.len(), 16)), mask: Some(mask), ..self.at(scope, first) })
        })?;
        let used = ok(b.build_and(ok(b.build_int_neg(lane, "")), code.int(15), ""));
        self.lanes(used, size, 16, scope, body)?;
        code.set(begins, ok(b.build_and(ok(b.build_int_add(lane, size, "")), code.int(15), "")).into());
        Ok(())
    }

    /// The ranges of a stage's variables.
    pub fn ranges(&self, stage: &Stage) -> Vec<Size> {
        self.kernel.outer.iter().chain(&stage.inner).chain(&stage.reds).cloned().collect()
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
        self.inner(stage, mode, 0, &Scope { ranges: self.ranges(stage), ..scope.clone() })
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

    /// A point, if it takes part.
    pub fn guarded_point(&self, stage: &Stage, mode: Mode, scope: &Scope<'c>) -> Result<(), String> {
        let guards = if stage.skip { self.guards(&stage.guards, scope) } else { None };
        self.where_holds(guards, scope, |scope, _| self.point(stage, mode, scope))
    }

    /// Runs `body` where the condition holds (everywhere if there is none), with the condition as further mask if it differs between lanes.
    pub fn where_holds(
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
            stage.values.iter().map(|v| values[*v]).collect()
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

    pub fn value_type(&self, stage: &Stage) -> Result<DType, String> {
        let types = crate::kernel::verify::types(self.kernel, &stage.body).map_err(|e| format!("kernel {}: {e}", self.kernel.name))?;
        let value = stage.values.first().and_then(|v| types.get(*v));
        value.copied().ok_or_else(|| format!("kernel {}: a stage without a value", self.kernel.name))
    }

    /// Runs `body(scope, k)` for every point of the reduction box where the guards hold; the mask is that of lanes left out by guards.
    pub fn reductions(&self, stage: &Stage, scope: &Scope<'c>, body: PointBody<'_, 'c>) -> Result<(), String> {
        self.positions(stage, scope, &|scope, k| {
            let guards = if stage.skip { None } else { self.guards(&stage.guards, scope) };
            self.where_holds(guards, scope, |scope, mask| body(scope, k, mask))
        })
    }

    /// Runs `body(scope, k)` for every point of the reduction box.
    pub fn positions(&self, stage: &Stage, scope: &Scope<'c>, body: PositionBody<'_, 'c>) -> Result<(), String> {
        let i64t = self.code.ty(Elem::I64, 1);
        let k = self.code.variable(i64t);
        self.code.set(k, self.code.int(0).into());
        self.reduce(stage, 0, scope, &|scope: &Scope<'c>| {
            let now = self.code.get(i64t, k).into_int_value();
            body(scope, now)?;
            self.code.set(k, ok(self.code.builder.build_int_add(now, self.code.int(1), "")).into());
            Ok(())
        })
    }

    /// The loops of the reduction box from number `depth` on; a few points one after the other instead.
    pub fn reduce(&self, stage: &Stage, depth: usize, scope: &Scope<'c>, body: &dyn Fn(&Scope<'c>) -> Result<(), String>) -> Result<(), String> {
        let Some(size) = stage.reds.get(depth) else { return body(scope) };
        if few(stage)
            && let Some(n) = size.as_const()
        {
            return (0..n).try_for_each(|i| self.reduce(stage, depth + 1, &self.at(scope, self.code.int(i)), body));
        }
        self.code.range(self.code.int(0), self.size(size), 1, |i| self.reduce(stage, depth + 1, &self.at(scope, i), body)).map(|_| ())
    }
}
