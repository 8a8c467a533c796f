//! Which variable the lanes run along: a decision from the kernel's structure alone, which changes no result.

use crate::emit::strided::near;
use crate::ir::{Affine, DType, Fold, IndexAtom, ScalarOp, Size};
use crate::kernel::contract::coefficient;
use crate::kernel::{Index, Instr, Kernel, Stage, Target};

/// How the elements of an access lie along the lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// One element for all lanes.
    Same,
    /// One after the other.
    Contiguous,
    /// So many elements apart that whole vectors are read, and shuffled.
    Strided(i64),
    /// One after the other, each for so many neighbouring lanes: read as they lie, and shuffled.
    Repeated(i64),
    /// Anywhere.
    Scattered,
}

/// How a stage is run at one outer point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Point by point.
    Scalar,
    /// Lanes along the last inner variable.
    Inner(u32),
    /// 16 lanes along the last reduction variable, which are the fold's own.
    Reds,
}

/// The lanes along the last outer variable, if any, and each stage's mode (scalar where the outer variable has lanes).
pub struct Modes {
    pub outer: Option<u32>,
    /// Whether many lanes along the outer variable go through each fold together.
    pub columns: bool,
    pub stages: Vec<Mode>,
}

/// How an index that is `var`, a few times, plus what does not depend on it lies along the lanes.
pub fn along(a: &Affine, var: usize) -> Access {
    let mut seen = 0;
    a.visit_vars(&mut |v| seen += (v == var) as usize);
    let step = a.terms.iter().find(|(atom, _)| *atom == IndexAtom::Var(var)).and_then(|(_, c)| c.as_const());
    match step.filter(|_| seen == 1) {
        Some(1) => Access::Contiguous,
        Some(step) if near(step) => Access::Strided(step),
        _ if seen == 1 => shared(a, var).map_or(Access::Scattered, |(_, lanes)| Access::Repeated(lanes)),
        _ => Access::Scattered,
    }
}

/// Where `var` stands in one quotient only: what is divided, one more in each lane, and by how much.
pub fn shared(a: &Affine, var: usize) -> Option<(&Affine, i64)> {
    a.terms.iter().find_map(|(atom, c)| match atom {
        IndexAtom::Div(divided, by) if c.as_const() == Some(1) && along(divided, var) == Access::Contiguous => {
            by.as_const().filter(|n| near(*n)).map(|n| (divided.as_ref(), n))
        }
        _ => None,
    })
}

fn depends(a: &Affine, var: usize) -> bool {
    let mut seen = false;
    a.visit_vars(&mut |v| seen |= v == var);
    seen
}

/// Whether the code reads memory.
pub fn loads(body: &[Instr]) -> bool {
    body.iter().any(|i| match i {
        Instr::Load { .. } => true,
        Instr::Select { then, otherwise, .. } => loads(&then.0) || loads(&otherwise.0),
        Instr::Const(_) | Instr::Local(_) | Instr::Index(_) | Instr::Holds(_) | Instr::Op(..) | Instr::Cast(..) => false,
    })
}

/// Whether a value of the block, whose first one has number `start`, depends on what is read from memory in the block.
pub fn read(body: &[Instr], start: usize, value: usize) -> bool {
    let Some(at) = value.checked_sub(start) else { return false };
    match &body[at] {
        Instr::Load { .. } => true,
        Instr::Op(_, args) => args.iter().any(|a| read(body, start, *a)),
        Instr::Cast(_, from) => read(body, start, *from),
        Instr::Const(_) | Instr::Local(_) | Instr::Index(_) | Instr::Holds(_) | Instr::Select { .. } => false,
    }
}

/// Whether the code may as well run where its value is not asked for: a few cheap operations, and every element it reads is there.
pub fn harmless(body: &[Instr], kernel: &Kernel, ranges: &[Size]) -> bool {
    use ScalarOp::*;
    body.len() <= 8
        && body.iter().all(|i| match i {
            Instr::Const(_) | Instr::Local(_) | Instr::Index(_) | Instr::Holds(_) | Instr::Cast(..) => true,
            Instr::Op(op, _) => matches!(op, Add | Sub | Mul | Max | Min | Neg | Abs | And | Or | Not | Eq | Ne | Lt | Le | Select),
            Instr::Load { index, otherwise: None, param } => {
                index.iter().zip(&kernel.params[*param].shape).all(|(i, size)| matches!(i, Index::Affine(a) if inside(a, size, ranges)))
            }
            Instr::Load { .. } => false,
            Instr::Select { then, otherwise, .. } => harmless(&then.0, kernel, ranges) && harmless(&otherwise.0, kernel, ranges),
        })
}

/// Whether an index is in its axis wherever the variables are in their ranges; seen for variables, their quotients, and numbers.
fn inside(a: &Affine, axis: &Size, ranges: &[Size]) -> bool {
    if let (Some(n), Some(size)) = (a.as_size().and_then(Size::as_const), axis.as_const()) {
        return (0..size).contains(&n);
    }
    match a.terms.as_slice() {
        [(IndexAtom::Var(v), _)] => a.as_var() == Some(*v) && ranges[*v] == *axis,
        [(IndexAtom::Div(divided, by), c)] if c.as_const() == Some(1) && a.constant.as_const() == Some(0) => {
            divided.as_var().is_some_and(|v| axis.checked_mul(by).is_some_and(|n| n == ranges[v]))
        }
        _ => false,
    }
}

/// What a stage does along a variable.
#[derive(Default)]
struct Survey {
    /// Loads one after the other.
    contiguous: usize,
    /// Loads all over.
    scattered: usize,
    /// Whether some of them are further apart than elements of narrow rows.
    far: bool,
    /// Operations of many instructions.
    heavy: bool,
    /// Whether stores can be made in lanes, and one after the other.
    storable: bool,
    in_order: bool,
}

fn access(index: &[Index], var: usize, varying: &[bool]) -> Access {
    let changes = |i: &Index| match i {
        Index::Affine(a) => depends(a, var),
        Index::Value(v) => varying[*v],
    };
    let Some((last, before)) = index.split_last() else { return Access::Same };
    match (before.iter().any(changes), changes(last), last) {
        (false, false, _) => Access::Same,
        (false, true, Index::Affine(a)) => along(a, var),
        _ => Access::Scattered,
    }
}

/// Whether an access is at most a narrow row's elements further in the next lane.
fn narrow_step(index: &[Index], var: usize, varying: &[bool]) -> bool {
    let Some((Index::Affine(last), before)) = index.split_last() else { return false };
    let same = |i: &Index| match i {
        Index::Affine(a) => !depends(a, var),
        Index::Value(v) => !varying[*v],
    };
    before.iter().all(same) && coefficient(last, var).is_some_and(|step| (1..=NARROW).contains(&step))
}

fn walk(body: &[Instr], var: usize, outer: bool, varying: &mut Vec<bool>, survey: &mut Survey) {
    use ScalarOp::*;
    for instr in body {
        let changes = match instr {
            Instr::Const(_) => false,
            Instr::Load { index, .. } => {
                let access = access(index, var, varying);
                match access {
                    Access::Same => {}
                    Access::Contiguous => survey.contiguous += 1,
                    Access::Strided(_) | Access::Repeated(_) => {}
                    Access::Scattered => {
                        survey.scattered += 1;
                        survey.far |= !narrow_step(index, var, varying);
                    }
                }
                access != Access::Same
            }
            Instr::Local(_) => outer,
            Instr::Index(a) => depends(a, var),
            Instr::Holds(guards) => guards.iter().any(|g| depends(&g.expr, var)),
            Instr::Op(op, args) => {
                survey.heavy |= matches!(op, Sin | Cos | Pow | Mod | FloorDiv);
                args.iter().any(|a| varying[*a])
            }
            Instr::Cast(_, a) => varying[*a],
            Instr::Select { condition, then, otherwise } => {
                let start = varying.len();
                let mut changes = varying[*condition];
                for side in [then, otherwise] {
                    walk(&side.0, var, outer, varying, survey);
                    changes |= varying[side.1];
                    varying.truncate(start);
                }
                changes
            }
        };
        varying.push(changes);
    }
}

fn survey(stage: &Stage, var: usize, outer: bool) -> Survey {
    let mut s = Survey { storable: true, in_order: true, ..Survey::default() };
    let mut varying = Vec::new();
    walk(&stage.body, var, outer, &mut varying, &mut s);
    for store in &stage.stores {
        if let Target::Param { index, fold, .. } = &store.target {
            let affine = index.iter().all(|i| matches!(i, Index::Affine(_)));
            let access = if affine { access(index, var, &varying) } else { Access::Scattered };
            s.storable &= affine && fold.is_none() && access != Access::Same;
            s.far |= access == Access::Scattered && !narrow_step(index, var, &varying);
            s.in_order &= access == Access::Contiguous;
        }
    }
    s
}

/// Points at once: several registers' worth where chains of fma wait for each other.
fn width(kernel: &Kernel, stages: &[&Stage], heavy: bool, size: &Size) -> u32 {
    let wide = kernel.params.iter().any(|p| p.dtype == DType::F64);
    let most = match (stages.iter().any(|s| s.fold == Fold::Dot), heavy) {
        (true, false) => {
            if wide {
                32
            } else {
                64
            }
        }
        _ => 16,
    };
    size.as_const().map_or(most, |n| most.min((n.clamp(1, 64) as u32).next_multiple_of(16).next_power_of_two()))
}

/// The kernel's modes.
pub fn modes(kernel: &Kernel) -> Modes {
    let depth = kernel.outer.len();
    let inside: Vec<Mode> = kernel.stages.iter().map(|s| mode(kernel, depth, s)).collect();
    let scalar = vec![Mode::Scalar; kernel.stages.len()];
    let Some(last) = kernel.outer.last().filter(|s| s.as_const() != Some(1)) else { return Modes { outer: None, columns: false, stages: inside } };
    let surveys: Vec<Survey> = kernel.stages.iter().map(|s| survey(s, depth - 1, true)).collect();
    let storable = surveys.iter().all(|s| s.storable);
    let smooth = surveys.iter().all(|s| s.in_order && s.scattered == 0);
    let alternative = inside.iter().any(|m| *m != Mode::Scalar);
    let gains = surveys.iter().any(|s| s.in_order) || kernel.stages.iter().any(|s| s.fold == Fold::Dot);
    // Lanes along a narrow row would mostly be idle, and what is computed once a row would have none.
    let narrow = last.as_const().is_none_or(|n| n >= 16) && kernel.stages.iter().any(folds_row) && kernel.stages.iter().all(narrow);
    let narrow = narrow && surveys.iter().all(|s| !s.far);
    if storable && (smooth || narrow || (!alternative && gains)) {
        let stages: Vec<&Stage> = kernel.stages.iter().collect();
        let lanes = width(kernel, &stages, surveys.iter().any(|s| s.heavy), last);
        let columns = kernel.stages.iter().any(|s| s.inner.is_empty() && in_lanes(s.fold) && !few(s));
        return Modes { outer: Some(lanes), columns, stages: scalar };
    }
    Modes { outer: None, columns: false, stages: inside }
}

/// Most elements of a row that is narrow: lanes run across such rows, not along them.
const NARROW: i64 = 15;

/// Whether all that the stage does at an outer point is a narrow row.
fn narrow(stage: &Stage) -> bool {
    let points = [&stage.inner[..], &stage.reds[..]].concat();
    let fold = stage.fold == Fold::None || in_lanes(stage.fold);
    fold && stage.guards.is_empty() && points.len() <= 1 && points.iter().all(|n| n.as_const().is_some_and(|n| (1..=NARROW).contains(&n)))
}

/// Whether it folds a row of several elements.
fn folds_row(stage: &Stage) -> bool {
    matches!(&stage.reds[..], [n] if n.as_const() != Some(1))
}

/// Whether the fold has 16 lanes of its own.
fn in_lanes(fold: Fold) -> bool {
    matches!(fold, Fold::Sum | Fold::Prod | Fold::Max | Fold::Min)
}

/// Whether the reduction box has so few points that each has its own code: windows, narrow rows.
pub fn few(stage: &Stage) -> bool {
    let points = stage.reds.iter().try_fold(1i64, |n, size| Some(n.saturating_mul(size.as_const()?)));
    points.is_some_and(|n| (1..=16).contains(&n)) && stage.fold != Fold::Dot
}

/// How many stages from number `start` on run in one loop: they have the same box, in lanes along its last variable, and what one reads of what an
/// earlier one makes, it reads at the same point.
pub fn together(kernel: &Kernel, modes: &[Mode], start: usize) -> usize {
    let of = |n: usize| {
        let s = &kernel.stages[n];
        match modes[n] {
            Mode::Inner(16) if s.fold == Fold::None => Some(&s.inner),
            Mode::Reds if s.inner.is_empty() => Some(&s.reds),
            _ => None,
        }
    };
    let Some(first) = of(start) else { return 1 };
    let fits = |n: &usize| of(*n) == Some(first) && (start..*n).all(|before| apart(kernel, &kernel.stages[before], &kernel.stages[*n]));
    1 + (start + 1..modes.len()).take_while(fits).count()
}

/// Whether stage `b` may do its part of a point before `a`, which comes first, has done the points after it.
fn apart(kernel: &Kernel, a: &Stage, b: &Stage) -> bool {
    let vars = a.inner.len() + a.reds.len();
    let size = |p: usize| crate::kernel::lower::product(&kernel.params[p].shape);
    let mut fine = true;
    for store in &a.stores {
        match &store.target {
            Target::Local(l) => fine &= !reads_local(&b.body, *l),
            // Only what has its place for every point is read again at that point.
            Target::Param { param, index, fold } => {
                each_load(&b.body, &mut |p, at| fine &= p != *param || (a.fold == Fold::None && vars == 1 && fold.is_none() && at == index));
            }
        }
    }
    for store in &b.stores {
        let Target::Param { param, index, fold } = &store.target else { continue };
        let writes_too = a.stores.iter().any(|s| matches!(&s.target, Target::Param { param: p, .. } if p == param));
        fine &= !writes_too && fold.is_none();
        // The parameter may lie in the memory of one that is only read (`plan::reuse`); a fold stores when all points are done.
        let to = &kernel.params[*param];
        let shares = |p: usize| p == *param || (!kernel.params[p].written && kernel.params[p].dtype == to.dtype && size(p) == size(*param));
        each_load(&a.body, &mut |p, at| fine &= !shares(p) || b.fold != Fold::None || at == index);
    }
    fine
}

fn reads_local(body: &[Instr], local: usize) -> bool {
    body.iter().any(|i| match i {
        Instr::Local(l) => *l == local,
        Instr::Select { then, otherwise, .. } => reads_local(&then.0, local) || reads_local(&otherwise.0, local),
        Instr::Const(_) | Instr::Load { .. } | Instr::Index(_) | Instr::Holds(_) | Instr::Op(..) | Instr::Cast(..) => false,
    })
}

fn each_load(body: &[Instr], see: &mut dyn FnMut(usize, &[Index])) {
    for instr in body {
        match instr {
            Instr::Load { param, index, .. } => see(*param, index),
            Instr::Select { then, otherwise, .. } => {
                each_load(&then.0, see);
                each_load(&otherwise.0, see);
            }
            Instr::Const(_) | Instr::Local(_) | Instr::Index(_) | Instr::Holds(_) | Instr::Op(..) | Instr::Cast(..) => {}
        }
    }
}

fn mode(kernel: &Kernel, depth: usize, stage: &Stage) -> Mode {
    let inner = stage.inner.last().filter(|s| s.as_const() != Some(1)).map(|size| (size, survey(stage, depth + stage.inner.len() - 1, false)));
    // A window is narrower than lanes are.
    let reds = stage.reds.last().filter(|size| in_lanes(stage.fold) && size.as_const().is_none_or(|n| n >= 8));
    let reds = reds.map(|size| (size, survey(stage, depth + stage.inner.len() + stage.reds.len() - 1, false)));
    // Rows that begin at any lane cost more.
    let aligned = |size: &Size| stage.reds.len() == 1 || size.as_const().is_some_and(|n| n % 16 == 0);
    let reds = reds.filter(|(size, s)| aligned(size) || (s.scattered == 0 && s.contiguous > 0)).map(|(_, s)| s);
    match (inner, reds) {
        (Some((size, s)), _) if s.storable && s.in_order && s.scattered == 0 => Mode::Inner(width(kernel, &[stage], s.heavy, size)),
        (_, Some(s)) if s.scattered == 0 && s.contiguous > 0 => Mode::Reds,
        (Some((size, s)), _) if s.storable && (s.in_order || stage.fold == Fold::Dot) => Mode::Inner(width(kernel, &[stage], s.heavy, size)),
        (_, Some(_)) => Mode::Reds,
        _ => Mode::Scalar,
    }
}
