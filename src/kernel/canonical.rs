//! Equal kernels are one: every symbolic size becomes a parameter `n0`, `n1`, ... in order of first appearance, then the numbers of random draws.
//! Elementwise kernels have lost their shapes before (`flat`), so that the number of points is a parameter even where it is a constant.
//!
//! In: kernels whose sizes are formulas in the program's dims. Out: distinct kernels, and for each kernel put in its number and the formulas
//! of its size parameters. A whole formula becomes one parameter, so kernels need no size arithmetic of their own.

use crate::ir::{Affine, Guard, IndexAtom, ScalarOp, Size};
use crate::kernel::flat::{POINTS, flat};
use crate::kernel::{Index, Instr, Kernel, Param, Stage, Store, Target};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Distinct kernels.
#[derive(Debug, Default)]
pub struct Registry {
    kernels: Vec<Kernel>,
    /// The numbers of the kernels with this hash.
    numbers: BTreeMap<u64, Vec<u32>>,
}

impl Registry {
    /// The kernel's number and the values of its size parameters.
    pub fn add(&mut self, kernel: &Kernel) -> (u32, Vec<Size>) {
        let mut formulas: Vec<Size> = Vec::new();
        let flat = flat(kernel);
        let mut canonical = map_sizes(flat.as_ref().map_or(kernel, |(flat, _)| flat), &mut |size| {
            if size.as_const().is_some() {
                return size.clone();
            }
            let n = formulas.iter().position(|f| f == size).unwrap_or_else(|| {
                formulas.push(size.clone());
                formulas.len() - 1
            });
            Size::dim(&format!("n{n}"))
        });
        if let Some((_, points)) = flat {
            formulas.iter_mut().filter(|f| **f == Size::dim(POINTS)).for_each(|f| *f = points.clone());
        }
        canonical.stages.iter_mut().for_each(|stage| keys(stage, &mut formulas));
        canonical.sizes = formulas.len();
        let mut hasher = DefaultHasher::new();
        canonical.hash(&mut hasher);
        let alike = self.numbers.entry(hasher.finish()).or_default();
        if let Some(number) = alike.iter().find(|n| self.kernels[**n as usize] == canonical) {
            return (*number, formulas);
        }
        let number = self.kernels.len() as u32;
        alike.push(number);
        self.kernels.push(canonical);
        (number, formulas)
    }

    /// A kernel by its number.
    pub fn kernel(&self, number: u32) -> &Kernel {
        &self.kernels[number as usize]
    }

    /// The distinct kernels, by number.
    pub fn finish(self) -> Vec<Kernel> {
        self.kernels
    }
}

/// The numbers of random draws become parameters too: each draw has its own, and layers that differ in nothing else share their kernels.
fn keys(stage: &mut Stage, formulas: &mut Vec<Size>) {
    for at in 0..stage.body.len() {
        let Instr::Op(ScalarOp::FoldKey, args) = &stage.body[at] else { continue };
        let number = args[1];
        if let Instr::Const(n) = stage.body[number] {
            stage.body[number] = Instr::Index(Affine::constant(Size::dim(&format!("n{}", formulas.len()))));
            formulas.push(Size::constant(n.bits() as i64));
        }
    }
}

/// The kernel with every size replaced by `of(size)`, asked in the order of the printed kernel.
pub fn map_sizes(kernel: &Kernel, of: &mut dyn FnMut(&Size) -> Size) -> Kernel {
    let params = kernel.params.iter().map(|p| Param { shape: sizes(&p.shape, of), ..p.clone() }).collect();
    let outer = sizes(&kernel.outer, of);
    let stages = kernel.stages.iter().map(|s| stage(s, of)).collect();
    Kernel { name: kernel.name.clone(), sizes: kernel.sizes, params, outer, locals: kernel.locals.clone(), stages }
}

fn sizes(list: &[Size], of: &mut dyn FnMut(&Size) -> Size) -> Vec<Size> {
    list.iter().map(of).collect()
}

fn stage(stage: &Stage, of: &mut dyn FnMut(&Size) -> Size) -> Stage {
    Stage {
        inner: sizes(&stage.inner, of),
        reds: sizes(&stage.reds, of),
        guards: guards(&stage.guards, of),
        skip: stage.skip,
        fold: stage.fold,
        body: block(&stage.body, of),
        values: stage.values.clone(),
        stores: stage.stores.iter().map(|s| store(s, of)).collect(),
    }
}

fn store(store: &Store, of: &mut dyn FnMut(&Size) -> Size) -> Store {
    let target = match &store.target {
        Target::Local(l) => Target::Local(*l),
        Target::Param { param, index, fold } => Target::Param { param: *param, index: indices(index, of), fold: *fold },
    };
    Store { result: store.result, target }
}

fn block(body: &[Instr], of: &mut dyn FnMut(&Size) -> Size) -> Vec<Instr> {
    body.iter().map(|i| instr(i, of)).collect()
}

fn instr(instr: &Instr, of: &mut dyn FnMut(&Size) -> Size) -> Instr {
    match instr {
        Instr::Load { param, index, otherwise } => Instr::Load { param: *param, index: indices(index, of), otherwise: *otherwise },
        Instr::Index(a) => Instr::Index(affine(a, of)),
        Instr::Holds(g) => Instr::Holds(guards(g, of)),
        Instr::Select { condition, then, otherwise } => {
            let then = Box::new((block(&then.0, of), then.1));
            let otherwise = Box::new((block(&otherwise.0, of), otherwise.1));
            Instr::Select { condition: *condition, then, otherwise }
        }
        Instr::Const(_) | Instr::Local(_) | Instr::Op(..) | Instr::Cast(..) => instr.clone(),
    }
}

fn indices(list: &[Index], of: &mut dyn FnMut(&Size) -> Size) -> Vec<Index> {
    let one = |i: &Index| match i {
        Index::Affine(a) => Index::Affine(affine(a, of)),
        Index::Value(v) => Index::Value(*v),
    };
    list.iter().map(one).collect()
}

fn guards(list: &[Guard], of: &mut dyn FnMut(&Size) -> Size) -> Vec<Guard> {
    list.iter().map(|g| Guard { expr: affine(&g.expr, of), relation: g.relation }).collect()
}

/// Terms stay apart even where their atoms become equal: the value is the same, and a size that is zero divides nothing here.
fn affine(from: &Affine, of: &mut dyn FnMut(&Size) -> Size) -> Affine {
    let atom = |atom: &IndexAtom, of: &mut dyn FnMut(&Size) -> Size| match atom {
        IndexAtom::Var(v) => IndexAtom::Var(*v),
        IndexAtom::Div(a, by) => IndexAtom::Div(Box::new(affine(a, of)), of(by)),
        IndexAtom::Mod(a, by) => IndexAtom::Mod(Box::new(affine(a, of)), of(by)),
    };
    let mut terms: Vec<(IndexAtom, Size)> = from.terms.iter().map(|(a, c)| (atom(a, of), of(c))).collect();
    terms.sort();
    Affine { terms, constant: of(&from.constant) }
}
