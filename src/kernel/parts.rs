//! Kernels whose tasks fall into parts along some outer variables: what attention does for one head of one sample, for instance.
//!
//! In: a kernel. Out: along which variables tasks come part after part, and along how many of them each parameter lies so too. A chain of
//! launches can then be run part by part, and what one hands to the next need not be there for all parts at once.

use crate::ir::{Affine, Size};
use crate::kernel::contract::recognise;
use crate::kernel::{Index, Kernel, rows::accesses};

/// The parts of a kernel's tasks.
pub struct Parts {
    /// The variables' sizes, in the kernel's own: tasks at one point of the first of them, of the first two and so on, are consecutive, and equally many.
    pub sizes: Vec<Size>,
    /// For every parameter, along how many of these variables it lies as tasks do: by its first axes.
    pub along: Vec<usize>,
    /// Whether it is a product of matrices.
    pub product: bool,
}

/// The parts, where there are some.
pub fn parts(kernel: &Kernel) -> Option<Parts> {
    let contraction = recognise(kernel);
    let vars: Vec<usize> = match &contraction {
        Some(c) if c.windows.is_some() => return None,
        Some(c) => c.batch.clone(),
        None => (0..kernel.outer.len()).collect(),
    };
    let mut along = vec![vars.len(); kernel.params.len()];
    let mut see = |param: usize, index: &[Index]| {
        let shape = &kernel.params[param].shape;
        let same = |n: &usize| shape.get(*n) == Some(&kernel.outer[vars[*n]]) && index.get(*n) == Some(&Index::Affine(Affine::var(vars[*n])));
        along[param] = (0..along[param]).take_while(same).count();
    };
    if !accesses(kernel, &mut see) {
        return None;
    }
    let sizes: Vec<Size> = vars.iter().map(|v| kernel.outer[*v].clone()).collect();
    (!sizes.is_empty()).then(|| Parts { sizes, along, product: contraction.is_some() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::parse::kernel;

    #[test]
    fn parts_lie_along_the_first_axes() {
        let text = "kernel scores(n0, n1) {
  p0: f32[n0, n1, 24]
  p1: out f32[n0, 3, n1, n1]
  outer [i0 < n0, i1 < 3, i2 < n1, i3 < n1]
  stage dot [i4 < 4] {
    %0 = load p0[i0, i2, 4*i1 + i4]
    %1 = load p0[i0, i3, 4*i1 + i4 + 12]
    fold %0, %1
    p1[i0, i1, i2, i3] = result 0
  }
}";
        let of = |text: &str| parts(&kernel(text).unwrap()).map(|p| (p.sizes.len(), p.along, p.product));
        // Heads lie beside each other in what is read, one after the other in what is written.
        assert_eq!(of(text), Some((2, vec![1, 2], true)));
        assert_eq!(of(&text.replace("p1[i0, i1, i2, i3] =", "p1[i0, i1, i3, i2] =")), Some((2, vec![1, 2], true)));
        // Tasks of a product go head by head, wherever its result has them.
        let between = text.replace("outer [i0 < n0, i1 < 3, i2 < n1, i3 < n1]", "outer [i0 < n0, i1 < n1, i2 < 3, i3 < n1]");
        let between = between.replace("load p0[i0, i2, 4*i1 + i4]", "load p0[i0, i1, 4*i2 + i4]").replace("4*i1 +", "4*i2 +");
        let between = between.replace("p1[i0, i1, i2, i3] =", "p1[i0, i2, i1, i3] =");
        assert_eq!(of(&between), Some((2, vec![1, 2], true)));
        let turned = text.replace("p1[i0, i1, i2, i3] =", "p1[i1, i0, i2, i3] =").replace("f32[n0, 3, n1, n1]", "f32[3, n0, n1, n1]");
        assert_eq!(of(&turned), Some((2, vec![1, 0], true)));
    }
}
