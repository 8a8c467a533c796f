//! Rows: half a warp takes an outer point, a thread for each of the 16 lanes that folds have anyway.
//!
//! A lane's values are folded by its thread in their order, and the lanes joined by shuffles as the fold's tree says. Points of a stage's inner loops are
//! shared out among the threads; what is one value of the point is computed by the first of them. Between stages the team waits for each other, because
//! one reads what another has stored.

use super::{Primitive, THREADS, unravelled};
use crate::emit::body::{Scope, Writer};
use crate::emit::code::{Elem, V, ok};
use crate::emit::modes::{Mode, few, modes};
use crate::ir::{DType, Fold, Scalar, ScalarOp, Size};
use crate::kernel::lower::product;
use crate::kernel::{Index, Kernel, Stage, Target};
use crate::math::lines::{COLUMNS, LANES, LINES};
use inkwell::IntPredicate;
use inkwell::values::{InstructionOpcode as Op, IntValue};

/// Threads of a team.
pub const TEAM: i64 = 16;

/// Whether the kernel gains by it: lanes do not run along the outer points, and there are folds of more points than a few.
pub fn fits(kernel: &Kernel) -> bool {
    modes(kernel).outer.is_none() && kernel.stages.iter().any(|s| in_lanes(s) && product(&s.reds).as_const().is_none_or(|n| n >= TEAM))
}

/// Whether the stage's fold has 16 lanes.
fn in_lanes(stage: &Stage) -> bool {
    stage.fold == Fold::DotLines || matches!(stage.fold, Fold::Sum | Fold::Prod | Fold::Max | Fold::Min) && !few(stage)
}

/// Whether the points of the stage's inner loops may be taken in any order.
fn free(stage: &Stage) -> bool {
    let alone = |target: &Target| match target {
        Target::Local(_) => false,
        Target::Param { index, fold, .. } => fold.is_none() && index.iter().all(|i| matches!(i, Index::Affine(_))),
    };
    !stage.inner.is_empty() && stage.stores.iter().all(|s| alone(&s.target))
}

/// A thread within its team.
struct Member<'a, 'k, 'c> {
    w: &'a Writer<'k, 'c>,
    lane: IntValue<'c>,
    /// The team's threads within their warp.
    mask: IntValue<'c>,
}

/// Writes the kernel's code.
pub fn write(w: &Writer) -> Result<(), String> {
    let b = &w.code.builder;
    let points = w.size(&product(&w.kernel.outer));
    let [thread, threads] = w.grid();
    let lane = ok(b.build_and(thread, w.code.int(TEAM - 1), ""));
    let mask = ok(b.build_left_shift(w.code.int((1 << TEAM) - 1), ok(b.build_and(thread, w.code.int(TEAM), "")), ""));
    let member = Member { w, lane, mask };
    let [team, teams] = [thread, threads].map(|n| ok(b.build_int_unsigned_div(n, w.code.int(TEAM), "")));
    let run = |i| {
        let scope = Scope { locals: w.locals(1), ..w.outer_point(i) };
        w.kernel.stages.iter().enumerate().try_for_each(|(n, stage)| {
            if n > 0 {
                w.code.primitive(Primitive::Team, &[mask]);
            }
            member.stage(stage, &Scope { ranges: w.ranges(stage), ..scope.clone() })
        })
    };
    w.code.range_by(team, points, teams, run).map(|_| ())
}

impl<'c> Member<'_, '_, 'c> {
    fn stage(&self, stage: &Stage, scope: &Scope<'c>) -> Result<(), String> {
        if in_lanes(stage) {
            return self.inner(stage, 0, scope);
        }
        if free(stage) {
            return self.shared_out(&stage.inner, scope, &|scope, _| self.w.guarded_point(stage, Mode::Scalar, scope));
        }
        self.first(|| self.w.stage(stage, Mode::Scalar, scope))?;
        self.tell(stage, scope);
        Ok(())
    }

    /// Runs `body` on the first thread.
    fn first(&self, body: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
        let first = ok(self.w.code.builder.build_int_compare(IntPredicate::EQ, self.lane, self.w.code.int(0), ""));
        self.w.code.only_if(first, body)
    }

    /// Gives all threads the locals that the first one has computed.
    fn tell(&self, stage: &Stage, scope: &Scope<'c>) {
        for store in &stage.stores {
            if let Target::Local(l) = store.target {
                let (ty, at) = scope.locals[l];
                self.w.code.set(at, self.handed(self.w.code.get(ty, at), 0));
            }
        }
    }

    /// The inner loops from number `depth` on, which all threads go through together.
    fn inner(&self, stage: &Stage, depth: usize, scope: &Scope<'c>) -> Result<(), String> {
        let w = self.w;
        let Some(size) = stage.inner.get(depth) else {
            let guards = if stage.skip { w.guards(&stage.guards, scope) } else { None };
            return w.where_holds(guards, scope, |scope, _| self.fold(stage, scope));
        };
        w.code.range(w.code.int(0), w.size(size), 1, |i| self.inner(stage, depth + 1, &w.at(scope, i))).map(|_| ())
    }

    /// A fold: each thread its lane, then lanes of threads ever nearer to each other.
    fn fold(&self, stage: &Stage, scope: &Scope<'c>) -> Result<(), String> {
        let w = self.w;
        let mut all = if stage.fold == Fold::DotLines { self.lines(stage, scope)? } else { self.lane(stage, scope)? };
        for half in [8, 4, 2, 1] {
            all = w.op(stage.fold.join(), &[all, self.handed(all, half)]);
        }
        // The first thread's is the fold's value; the others have joined what lies behind the last lane.
        let value = self.handed(all, 0);
        let kept = |local: bool| {
            let stores = stage.stores.iter().filter(|s| matches!(s.target, Target::Local(_)) == local).cloned().collect();
            Stage { stores, ..stage.clone() }
        };
        w.results(&kept(true), &[value], scope, &[])?;
        self.first(|| w.results(&kept(false), &[value], scope, &[]))
    }

    /// What the thread's lane of a fold's 16 comes to.
    fn lane(&self, stage: &Stage, scope: &Scope<'c>) -> Result<V<'c>, String> {
        let (w, code) = (self.w, &self.w.code);
        let ty = code.ty(w.value_type(stage)?.into(), 1);
        let lane = code.variable(ty);
        code.set(lane, w.neutral(stage, ty));
        self.shared_out(&stage.reds, scope, &|scope, _| {
            let guards = if stage.skip { None } else { w.guards(&stage.guards, scope) };
            w.where_holds(guards, scope, |scope, _| {
                let value = w.values(stage, scope)?[0];
                code.set(lane, w.op(stage.fold.join(), &[code.get(ty, lane), value]));
                Ok(())
            })
        })?;
        Ok(code.get(ty, lane))
    }

    /// The same of [`Fold::DotLines`]. The blocks' sum starts from -0, which adds nothing to any first one.
    fn lines(&self, stage: &Stage, scope: &Scope<'c>) -> Result<V<'c>, String> {
        let (w, code) = (self.w, &self.w.code);
        let elem = w.value_type(stage)?;
        let ty = code.ty(elem.into(), 1);
        let (sum, chain) = (code.variable(ty), code.variable(ty));
        let number = |x: f64| code.constant(Scalar::float(elem, x), 1);
        let add = |a, b| ok(code.builder.build_int_add(a, b, ""));
        let [images, height, width] = [0, 1, 2].map(|n| w.size(&stage.reds[n]));
        let points = w.size(&product(&stage.reds));
        let some = ok(code.builder.build_int_compare(IntPredicate::SGT, points, code.int(0), ""));
        code.set(sum, code.select(some.into(), number(-0.0), number(0.0)));
        let block = |image, top, first| -> Result<(), String> {
            let [end, last] = [(top, LINES, height), (first, COLUMNS, width)].map(|(from, by, size)| w.lesser(size, add(from, code.int(by))));
            code.set(chain, number(0.0));
            code.range(top, end, 1, |y| {
                code.range(add(first, self.lane), last, LANES, |x| {
                    let scope = [image, y, x].into_iter().fold(scope.clone(), |scope, n| w.at(&scope, n));
                    let values = w.values(stage, &scope)?;
                    code.set(chain, w.op(ScalarOp::Fma, &[values[0], values[1], code.get(ty, chain)]));
                    Ok::<(), String>(())
                })
                .map(drop)
            })?;
            code.set(sum, w.op(ScalarOp::Add, &[code.get(ty, sum), code.get(ty, chain)]));
            Ok(())
        };
        code.range(code.int(0), images, 1, |image| {
            code.range(code.int(0), height, LINES, |top| code.range(code.int(0), width, COLUMNS, |first| block(image, top, first)).map(drop))
                .map(drop)
        })?;
        Ok(code.get(ty, sum))
    }

    /// Runs `body` for the points of a box whose number the thread's lane is, modulo 16.
    fn shared_out(&self, sizes: &[Size], scope: &Scope<'c>, body: &dyn Fn(&Scope<'c>, IntValue<'c>) -> Result<(), String>) -> Result<(), String> {
        let w = self.w;
        let count = w.size(&product(sizes));
        let run = |k| {
            let mut scope = scope.clone();
            scope.point.extend(unravelled(w, sizes, k));
            body(&scope, k)
        };
        w.code.range(self.lane, count, TEAM, run).map(|_| ())
    }

    /// The value of the thread so many further in the team; by 0, the first one's.
    fn handed(&self, value: V<'c>, by: i64) -> V<'c> {
        let code = &self.w.code;
        let int = code.ty(Elem::I64, 1);
        let word = |word: V<'c>| -> V<'c> { code.primitive(Primitive::Shuffle, &[self.mask, word.into_int_value(), code.int(by)]).into() };
        let bits = |ty| ok(code.builder.build_bit_cast(value, ty, ""));
        match crate::emit::body::dtype(value) {
            DType::F32 => {
                let there = word(code.convert(Op::ZExt, bits(code.ty(Elem::I32, 1)), int));
                ok(code.builder.build_bit_cast(code.convert(Op::Trunc, there, code.ty(Elem::I32, 1)), value.get_type(), ""))
            }
            DType::Bool => code.convert(Op::Trunc, word(code.convert(Op::ZExt, value, int)), value.get_type()),
            DType::F64 | DType::I64 => {
                let all = bits(int);
                let low = code.binary(Op::And, all, code.int(u32::MAX as i64).into());
                let [low, high] = [low, code.binary(Op::LShr, all, code.int(32).into())].map(word);
                let all = code.binary(Op::Or, low, code.binary(Op::Shl, high, code.int(32).into()));
                ok(code.builder.build_bit_cast(all, value.get_type(), ""))
            }
        }
    }
}

const _: () = assert!(THREADS % 32 == 0, "teams do not reach over the end of a block");
