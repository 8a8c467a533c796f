//! Kernels whose tasks fall into independent rows: what a row's tasks write, and read of what such kernels write, lies in that row.
//!
//! In: a kernel. Out: how many rows it has, how many pieces its tasks can be cut into between rows, and which parameters have a row for each along their
//! first axis. So a thread can take some rows through all the kernels of a loop's body, round after round, and need not wait for the others.

use crate::ir::{Affine, Size};
use crate::kernel::contract::recognise;
use crate::kernel::{Index, Instr, Kernel, Target};

/// The rows of a kernel's tasks.
pub struct Rows {
    /// How many.
    pub count: Size,
    /// So many pieces of nearly equal height, the higher ones first, of as many tasks each.
    pub pieces: Size,
    /// Parameters that are touched by rows; those that are written are all among them.
    pub params: Vec<u32>,
}

/// The rows, where it has some; sizes are those of `kernel`.
pub fn rows(kernel: &Kernel) -> Option<Rows> {
    let several = |v: &usize| kernel.outer[*v].as_const() != Some(1);
    let (row, pieces) = match recognise(kernel) {
        // Tasks count along panels first only where B stays near.
        Some(c) => {
            let batch = c.batch.iter().any(several);
            let mut rows = c.rows.iter().copied().filter(several);
            let (Some(row), None, true) = (rows.next(), rows.next(), c.stays && !batch) else { return None };
            (row, c.tiles(&kernel.outer))
        }
        None => {
            let row = (0..kernel.outer.len()).find(several)?;
            (row, kernel.outer[row].clone())
        }
    };
    let count = &kernel.outer[row];
    let mut by_rows = vec![true; kernel.params.len()];
    let mut see = |param: usize, index: &[Index]| {
        let shape = &kernel.params[param].shape;
        let axis = shape.iter().position(|n| n.as_const() != Some(1));
        by_rows[param] &= axis.is_some_and(|axis| shape[axis] == *count && index[axis] == Index::Affine(Affine::var(row)));
    };
    if !accesses(kernel, &mut see) {
        return None;
    }
    let apart = kernel.params.iter().zip(&by_rows).all(|(param, by_rows)| !param.written || *by_rows);
    let params = (0..).zip(by_rows).filter_map(|(param, by_rows)| by_rows.then_some(param)).collect();
    apart.then(|| Rows { count: count.clone(), pieces, params })
}

/// Shows all accesses of parameters; false where a result is folded into one, which has no order of tasks.
pub(super) fn accesses(kernel: &Kernel, see: &mut dyn FnMut(usize, &[Index])) -> bool {
    kernel.stages.iter().all(|stage| {
        loads(&stage.body, see);
        stage.stores.iter().all(|store| match &store.target {
            Target::Local(_) => true,
            Target::Param { param, index, fold } => {
                see(*param, index);
                fold.is_none()
            }
        })
    })
}

fn loads(body: &[Instr], see: &mut dyn FnMut(usize, &[Index])) {
    for instr in body {
        match instr {
            Instr::Load { param, index, .. } => see(*param, index),
            Instr::Select { then, otherwise, .. } => [then, otherwise].iter().for_each(|side| loads(&side.0, see)),
            Instr::Const(_) | Instr::Local(_) | Instr::Index(_) | Instr::Holds(_) | Instr::Op(..) | Instr::Cast(..) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::parse::kernel;

    #[test]
    fn rows_are_known_where_each_has_its_own_results() {
        let of = |text: &str| rows(&kernel(text).unwrap()).map(|r| (r.count.to_string(), r.params));
        let gates = "kernel gates(n0) {
  p0: f32[n0, 8]
  p1: f32[4]
  p2: out f32[n0, 4]
  outer [i0 < n0, i1 < 4]
  stage map {
    %0 = load p0[i0, i1 + 4]
    %1 = load p1[i1]
    %2 = %0 * %1
    fold %2
    p2[i0, i1] = result 0
  }
}";
        assert_eq!(of(gates), Some(("n0".into(), vec![0, 2])));
        // A result that lies along the other axis belongs to no row; what is read so belongs to all.
        let turned = gates.replace("p2[i0, i1] =", "p2[i1, i0] =").replace("p2: out f32[n0, 4]", "p2: out f32[4, n0]");
        assert_eq!(of(&turned), None);
        let other = gates.replace("p0[i0, i1 + 4]", "p0[i1, i0]").replace("p0: f32[n0, 8]", "p0: f32[4, n0]");
        assert_eq!(of(&other), Some(("n0".into(), vec![2])));
    }
}
