//! Convolutions in squares of 2x2 results ([`Fold::Winograd`]) as contractions: rows are the weights', columns are squares.
//!
//! A panel holds as many squares as another one columns, in the order of the image, line after line. A task is one tile of one panel: all points of
//! its squares. Weights may be transformed in advance: then the window has 4x4 points ([`transformed`]).

use crate::ir::window::moves;
use crate::ir::{Affine, Fold, Size};
use crate::kernel::contract::Contraction;
use crate::kernel::linear::{Linear, address};
use crate::kernel::lower::product;
use crate::kernel::{Index, Instr, Kernel, Stage};

/// The image as it is read: its address, and of the two axes along which the window moves what is added and the size.
pub struct Image {
    pub form: Linear,
    /// Lines, then columns.
    pub axes: [(i64, Size); 2],
}

/// The contraction that the kernel is, if it has such a stage.
pub fn recognise(kernel: &Kernel) -> Option<Contraction> {
    let (number, stage) = kernel.stages.iter().enumerate().find(|(_, s)| s.fold == Fold::Winograd)?;
    let outer = kernel.outer.len();
    let known = |factor: usize| {
        let mut known = vec![false; outer + stage.reds.len()];
        if let Instr::Load { index, .. } = &stage.body[stage.values[factor]] {
            index.iter().for_each(|i| {
                if let Index::Affine(a) = i {
                    a.visit_vars(&mut |v| known[v] = true)
                }
            });
        }
        known
    };
    let (weights, image) = (known(0), known(1));
    let only = |a: &[bool], b: &[bool]| (0..outer).filter(|v| kernel.outer[*v].as_const() != Some(1) && a[*v] && !b[*v]).collect::<Vec<_>>();
    let (rows, columns) = (only(&weights, &image), only(&image, &weights));
    let batch = (0..outer).filter(|v| !rows.contains(v) && !columns.contains(v)).collect();
    let (near, dtype) = (columns.len().checked_sub(1)?, crate::kernel::verify::types(kernel, &stage.body).ok()?[stage.values[0]]);
    let factors = [stage.values[0], stage.values[1]];
    Some(Contraction { stage: number, dtype, factors, batch, rows, columns, near, reach: None, needs: None, squares: true })
}

/// Whether the stage's weights are transformed already.
pub fn transformed(stage: &Stage) -> bool {
    stage.reds.last().is_some_and(|n| n.as_const() == Some(4))
}

/// The image, and the weights' address.
pub fn factors(kernel: &Kernel, c: &Contraction) -> Option<(Image, Linear)> {
    let (stage, outer) = (&kernel.stages[c.stage], kernel.outer.len());
    let vars = outer + stage.reds.len();
    let [Instr::Load { param: weights, index: at, .. }, Instr::Load { param, index, .. }] = c.factors.map(|f| &stage.body[f]) else { return None };
    let axes: Vec<Affine> = index.iter().map(|i| if let Index::Affine(a) = i { Some(a.clone()) } else { None }).collect::<Option<_>>()?;
    let axis = |back: usize| {
        let (axis, offset) = moves(&axes, outer - back, vars - back)?;
        Some((offset, kernel.params[*param].shape[axis].clone()))
    };
    let image = Image { form: address(kernel, *param, index, vars)?, axes: [axis(2)?, axis(1)?] };
    Some((image, address(kernel, *weights, at, vars)?))
}

/// The sizes of some variables, and of squares along the last two of them.
pub fn halved(sizes: &[Size]) -> Vec<Size> {
    let last = sizes.len().saturating_sub(2);
    let half = |n: &Size| crate::kernel::contract::cut(n.clone(), 2);
    sizes.iter().enumerate().map(|(n, size)| if n < last { size.clone() } else { half(size) }).collect()
}

/// How many squares.
pub fn squares(sizes: &[Size]) -> Size {
    product(&halved(sizes))
}
