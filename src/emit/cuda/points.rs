//! The plain schedule: a thread takes an outer point, and then the one that lies as many further as the grid has threads.

use crate::emit::body::Writer;
use crate::emit::modes::{Mode, Modes};
use crate::kernel::lower::product;

/// Writes the kernel's code.
pub fn write(w: &Writer) -> Result<(), String> {
    let modes = Modes { outer: None, columns: false, stages: vec![Mode::Scalar; w.kernel.stages.len()] };
    let points = w.size(&product(&w.kernel.outer));
    let [first, threads] = w.grid();
    w.code.range_by(first, points, threads, |i| w.stages(&modes, &w.outer_point(i))).map(|_| ())
}
