//! Which variable the lanes run along: a decision from the kernel's structure alone, which changes no result.

use crate::ir::{Affine, DType, Fold, ScalarOp, Size};
use crate::kernel::{Index, Instr, Kernel, Stage, Target};

/// How the elements of an access lie along the lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// One element for all lanes.
    Same,
    /// One after the other.
    Contiguous,
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
    pub stages: Vec<Mode>,
}

/// Whether the expression is `var` plus what does not depend on it.
pub fn unit_step(a: &Affine, var: usize) -> bool {
    let mut seen = 0;
    a.visit_vars(&mut |v| seen += (v == var) as usize);
    let direct = a.terms.iter().any(|(atom, c)| *atom == crate::ir::IndexAtom::Var(var) && c.as_const() == Some(1));
    seen == 1 && direct
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

/// What a stage does along a variable.
#[derive(Default)]
struct Survey {
    /// Loads one after the other.
    contiguous: usize,
    /// Loads all over.
    scattered: usize,
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
        (false, true, Index::Affine(a)) if unit_step(a, var) => Access::Contiguous,
        _ => Access::Scattered,
    }
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
                    Access::Scattered => survey.scattered += 1,
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
    let Some(last) = kernel.outer.last().filter(|s| s.as_const() != Some(1)) else { return Modes { outer: None, stages: inside } };
    let surveys: Vec<Survey> = kernel.stages.iter().map(|s| survey(s, depth - 1, true)).collect();
    let storable = surveys.iter().all(|s| s.storable);
    let smooth = surveys.iter().all(|s| s.in_order && s.scattered == 0);
    let alternative = inside.iter().any(|m| *m != Mode::Scalar);
    let gains = surveys.iter().any(|s| s.in_order) || kernel.stages.iter().any(|s| s.fold == Fold::Dot);
    if storable && (smooth || (!alternative && gains)) {
        let stages: Vec<&Stage> = kernel.stages.iter().collect();
        let lanes = width(kernel, &stages, surveys.iter().any(|s| s.heavy), last);
        return Modes { outer: Some(lanes), stages: scalar };
    }
    Modes { outer: None, stages: inside }
}

fn mode(kernel: &Kernel, depth: usize, stage: &Stage) -> Mode {
    let inner = stage.inner.last().filter(|s| s.as_const() != Some(1)).map(|size| (size, survey(stage, depth + stage.inner.len() - 1, false)));
    let reds = stage.reds.last().filter(|size| {
        let lanes = matches!(stage.fold, Fold::Sum | Fold::Prod | Fold::Max | Fold::Min);
        lanes && (stage.reds.len() == 1 || size.as_const().is_some_and(|n| n % 16 == 0))
    });
    let reds = reds.map(|_| survey(stage, depth + stage.inner.len() + stage.reds.len() - 1, false));
    match (inner, reds) {
        (Some((size, s)), _) if s.storable && s.in_order && s.scattered == 0 => Mode::Inner(width(kernel, &[stage], s.heavy, size)),
        (_, Some(s)) if s.scattered == 0 && s.contiguous > 0 => Mode::Reds,
        (Some((size, s)), _) if s.storable && (s.in_order || stage.fold == Fold::Dot) => Mode::Inner(width(kernel, &[stage], s.heavy, size)),
        (_, Some(_)) => Mode::Reds,
        _ => Mode::Scalar,
    }
}
