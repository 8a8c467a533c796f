//! Elementwise kernels along one axis: what walks every buffer in the order of memory needs to know how many elements there are, and no shape.
//!
//! In: a kernel. Out: the same one over a single index, below the dim [`POINTS`], and how many points there are; nothing where the kernel folds, leaves
//! points out, or reads or writes in another order. So tensors of all shapes share the kernels of their initial values, of their states and of their
//! updates, also where shapes are constants; and rows have no tails.

use crate::ir::{Affine, Fold, IndexAtom, Size};
use crate::kernel::{Index, Instr, Kernel, Param, Stage, Store, Target};

/// The dim that stands for the number of points; no program can have one of this name.
pub const POINTS: &str = "#points";

/// The kernel over one index, and the value of [`POINTS`].
pub fn flat(kernel: &Kernel) -> Option<(Kernel, Size)> {
    let shape = &kernel.outer;
    if shape.is_empty() {
        return None;
    }
    let mut position = Affine::constant(Size::constant(0));
    let mut points = Size::constant(1);
    for (n, size) in shape.iter().enumerate().rev() {
        position.terms.push((IndexAtom::Var(n), points.clone()));
        points = points.checked_mul(size)?;
    }
    position.terms.sort();
    let mut walk = Walk { kernel, position, whole: vec![false; kernel.params.len()], fixed: vec![false; kernel.params.len()] };
    let stages = kernel.stages.iter().map(|s| walk.stage(s)).collect::<Option<Vec<Stage>>>()?;
    let along = |(param, whole): (&Param, &bool)| match whole {
        true => Param { shape: vec![Size::dim(POINTS)], ..param.clone() },
        false => param.clone(),
    };
    if std::iter::zip(&walk.whole, &walk.fixed).any(|(whole, fixed)| *whole && *fixed) {
        return None;
    }
    let params = std::iter::zip(&kernel.params, &walk.whole).map(along).collect();
    Some((Kernel { params, outer: vec![Size::dim(POINTS)], stages, ..kernel.clone() }, points))
}

struct Walk<'a> {
    kernel: &'a Kernel,
    /// A point's number in the order of memory.
    position: Affine,
    /// Parameters with an element a point.
    whole: Vec<bool>,
    /// Parameters of which every point reads the same elements.
    fixed: Vec<bool>,
}

impl Walk<'_> {
    fn stage(&mut self, stage: &Stage) -> Option<Stage> {
        if stage.fold != Fold::None || !stage.inner.is_empty() || !stage.guards.is_empty() {
            return None;
        }
        let body = self.block(&stage.body)?;
        let stores = stage.stores.iter().map(|s| self.store(s)).collect::<Option<Vec<Store>>>()?;
        Some(Stage { body, stores, ..stage.clone() })
    }

    fn store(&mut self, store: &Store) -> Option<Store> {
        let target = match &store.target {
            Target::Local(l) => Target::Local(*l),
            Target::Param { param, index, fold: None } if self.identity(*param, index) => {
                self.whole[*param] = true;
                Target::Param { param: *param, index: vec![Index::Affine(Affine::var(0))], fold: None }
            }
            Target::Param { .. } => return None,
        };
        Some(Store { result: store.result, target })
    }

    fn block(&mut self, body: &[Instr]) -> Option<Vec<Instr>> {
        body.iter().map(|i| self.instr(i)).collect()
    }

    fn instr(&mut self, instr: &Instr) -> Option<Instr> {
        Some(match instr {
            Instr::Load { param, index, otherwise: None } if self.identity(*param, index) => {
                self.whole[*param] = true;
                Instr::Load { param: *param, index: vec![Index::Affine(Affine::var(0))], otherwise: None }
            }
            Instr::Load { param, index, .. } => {
                self.fixed[*param] = true;
                let same = index.iter().all(|i| matches!(i, Index::Affine(a) if constant(a)));
                return same.then(|| instr.clone());
            }
            Instr::Index(a) if *a == self.position => Instr::Index(Affine::var(0)),
            Instr::Index(a) => return constant(a).then(|| instr.clone()),
            Instr::Holds(_) => return None,
            Instr::Select { condition, then, otherwise } => {
                let then = Box::new((self.block(&then.0)?, then.1));
                let otherwise = Box::new((self.block(&otherwise.0)?, otherwise.1));
                Instr::Select { condition: *condition, then, otherwise }
            }
            Instr::Const(_) | Instr::Local(_) | Instr::Op(..) | Instr::Cast(..) => instr.clone(),
        })
    }

    /// Whether it is the point's own element of a buffer with an element a point.
    fn identity(&self, param: usize, index: &[Index]) -> bool {
        let own = |(v, i): (usize, &Index)| matches!(i, Index::Affine(a) if *a == Affine::var(v));
        self.kernel.params[param].shape == self.kernel.outer && index.iter().enumerate().all(own)
    }
}

fn constant(a: &Affine) -> bool {
    a.terms.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::parse::kernel;
    use crate::kernel::print;

    #[test]
    fn elementwise_kernels_lose_their_shape() {
        let text = |own: &str| {
            format!(
                "kernel f(n0) {{\n  p0: f32[n0, 4]\n  p1: f32[]\n  p2: out f32[n0, 4]\n  outer [i0 < n0, i1 < 4]\n  stage map {{\n    %0 = load p0[{own}]\n    \
                 %1 = load p1[]\n    %2 = index 4*i0 + i1\n    %3 = f32 %2\n    %4 = fma %0, %1, %3\n    fold %4\n    p2[i0, i1] = result 0\n  }}\n}}\n"
            )
        };
        let (flat_kernel, points) = flat(&kernel(&text("i0, i1")).unwrap()).unwrap();
        assert_eq!(points.to_string(), "4*n0");
        let printed = print::kernel(&flat_kernel);
        for line in ["p0: f32[#points]", "p1: f32[]", "outer [i0 < #points]", "%0 = load p0[i0]", "%2 = index i0", "p2[i0] = result 0"] {
            assert!(printed.contains(line), "{printed}");
        }
        // Another order of memory.
        assert!(flat(&kernel(&text("i0, 3 - i1")).unwrap()).is_none());
        assert!(flat(&kernel(&text("i0, i1").replace("4*i0 + i1", "i0 + i1")).unwrap()).is_none());
    }

    #[test]
    fn folds_and_scalars_stay_as_they_are() {
        let fold = "kernel f() {\n  p0: f32[4, 8]\n  p1: out f32[4]\n  outer [i0 < 4]\n  stage sum [i1 < 8] {\n    %0 = load p0[i0, i1]\n    fold %0\n    p1[i0] = result 0\n  }\n}\n";
        assert!(flat(&kernel(fold).unwrap()).is_none());
        let scalar = "kernel f() {\n  p0: out f32[]\n  outer []\n  stage map {\n    %0 = 1.0\n    fold %0\n    p0[] = result 0\n  }\n}\n";
        assert!(flat(&kernel(scalar).unwrap()).is_none());
    }
}
