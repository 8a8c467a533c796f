//! Neighbouring loops that go through memory as one become one: fewer loops, longer runs of lanes.
//!
//! In: a kernel. Out: one that means the same, in which a buffer whose elements are all found from the point alone has one axis, and two loops next to
//! each other are one wherever every expression counts the outer one in steps of the inner one's whole range. Points keep their order, so folds and the
//! ranges of tasks do.

use crate::ir::{Affine, Guard, IndexAtom, Size};
use crate::kernel::lower::product;
use crate::kernel::{Index, Instr, Kernel, Param, Stage, Store, Target};

/// The kernel with its loops merged.
pub fn merged(kernel: &Kernel) -> Kernel {
    let mut kernel = kernel.clone();
    let mut flat = vec![true; kernel.params.len()];
    for stage in &kernel.stages {
        let mut see = |param: usize, index: &[Index], free: bool| {
            flat[param] &= free && linear(&kernel.params[param], index).is_some();
            None
        };
        map(stage, &mut see, &mut |a| a.clone());
    }
    for stage in &mut kernel.stages {
        let mut place = |param: usize, index: &[Index], _: bool| if flat[param] { linear(&kernel.params[param], index) } else { None };
        *stage = map(stage, &mut place, &mut |a| a.clone());
    }
    for (param, _) in kernel.params.iter_mut().zip(flat).filter(|(_, flat)| *flat) {
        param.shape = vec![product(&param.shape)];
    }
    let depth = kernel.outer.len();
    for outer in (1..depth).rev() {
        let size = kernel.outer[outer].clone();
        if kernel.stages.iter().all(|s| affines(s).iter().all(|a| follows(a, outer - 1, &size))) {
            join(&mut kernel.outer, outer);
            kernel.stages.iter_mut().for_each(|s| *s = without(s, outer - 1));
        }
    }
    let depth = kernel.outer.len();
    for stage in &mut kernel.stages {
        let inner = stage.inner.len();
        for v in (1..inner + stage.reds.len()).rev().filter(|v| *v != inner) {
            let size = if v < inner { &stage.inner[v] } else { &stage.reds[v - inner] };
            if affines(stage).iter().all(|a| follows(a, depth + v - 1, size)) {
                *stage = without(stage, depth + v - 1);
                if v < inner { join(&mut stage.inner, v) } else { join(&mut stage.reds, v - inner) }
            }
        }
    }
    kernel
}

/// Makes one size of number `at` and the one before it.
fn join(sizes: &mut Vec<Size>, at: usize) {
    sizes[at - 1] = product(&sizes[at - 1..=at]);
    sizes.remove(at);
}

/// The position of an affine index in the buffer.
fn linear(param: &Param, index: &[Index]) -> Option<Affine> {
    index.iter().enumerate().try_fold(Affine::default(), |sum, (axis, index)| match index {
        Index::Affine(a) => sum.checked_add(&a.checked_scale(&product(&param.shape[axis + 1..]))?),
        Index::Value(_) => None,
    })
}

/// Whether the expression counts variable `v` in steps of the whole range `size` of the next one, and neither inside of a division.
fn follows(a: &Affine, v: usize, size: &Size) -> bool {
    let mut steps = [Size::default(), Size::default()];
    for (atom, c) in &a.terms {
        match atom {
            IndexAtom::Var(w) if *w == v || *w == v + 1 => steps[*w - v] = c.clone(),
            IndexAtom::Var(_) => {}
            IndexAtom::Div(a, _) | IndexAtom::Mod(a, _) => {
                let mut inside = false;
                a.visit_vars(&mut |w| inside |= w == v || w == v + 1);
                if inside {
                    return false;
                }
            }
        }
    }
    steps[1].checked_mul(size).as_ref() == Some(&steps[0])
}

/// The stage with variable `v` left out, the later ones one lower.
fn without(stage: &Stage, v: usize) -> Stage {
    let put = |w: usize| match w {
        w if w < v => Affine::var(w),
        w if w == v => Affine::default(),
        w => Affine::var(w - 1),
    };
    map(stage, &mut |_, _, _| None, &mut |a| a.substitute(&put))
}

/// Every expression in the variables.
fn affines(stage: &Stage) -> Vec<Affine> {
    let mut all = vec![];
    map(stage, &mut |_, _, _| None, &mut |a| {
        all.push(a.clone());
        a.clone()
    });
    all
}

/// A parameter's index to one position, where there is one; `free`: the access is never out of bounds.
type Place<'a> = &'a mut dyn FnMut(usize, &[Index], bool) -> Option<Affine>;

/// The stage with indices and expressions replaced.
fn map(stage: &Stage, place: Place, of: &mut dyn FnMut(&Affine) -> Affine) -> Stage {
    let stores = stage.stores.iter().map(|store| match &store.target {
        Target::Local(_) => store.clone(),
        Target::Param { param, index, fold } => {
            let target = Target::Param { param: *param, index: indices(*param, index, true, place, of), fold: *fold };
            Store { result: store.result, target }
        }
    });
    let stores = stores.collect();
    Stage { guards: guards(&stage.guards, of), body: block(&stage.body, place, of), stores, ..stage.clone() }
}

fn block(body: &[Instr], place: Place, of: &mut dyn FnMut(&Affine) -> Affine) -> Vec<Instr> {
    let mut instr = |instr: &Instr| match instr {
        Instr::Load { param, index, otherwise } => {
            Instr::Load { param: *param, index: indices(*param, index, otherwise.is_none(), place, of), otherwise: *otherwise }
        }
        Instr::Index(a) => Instr::Index(of(a)),
        Instr::Holds(list) => Instr::Holds(guards(list, of)),
        Instr::Select { condition, then, otherwise } => {
            let then = Box::new((block(&then.0, place, of), then.1));
            let otherwise = Box::new((block(&otherwise.0, place, of), otherwise.1));
            Instr::Select { condition: *condition, then, otherwise }
        }
        Instr::Const(_) | Instr::Local(_) | Instr::Op(..) | Instr::Cast(..) => instr.clone(),
    };
    body.iter().map(&mut instr).collect()
}

fn guards(list: &[Guard], of: &mut dyn FnMut(&Affine) -> Affine) -> Vec<Guard> {
    list.iter().map(|g| Guard { expr: of(&g.expr), relation: g.relation }).collect()
}

fn indices(param: usize, index: &[Index], free: bool, place: Place, of: &mut dyn FnMut(&Affine) -> Affine) -> Vec<Index> {
    if let Some(position) = place(param, index, free) {
        return vec![Index::Affine(position)];
    }
    let one = |i: &Index| match i {
        Index::Affine(a) => Index::Affine(of(a)),
        Index::Value(v) => Index::Value(*v),
    };
    index.iter().map(one).collect::<Vec<_>>()
}
