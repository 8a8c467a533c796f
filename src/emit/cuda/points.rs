//! The plain schedule: a thread takes an outer point, and then the one that lies as many further as the grid has threads.

use crate::emit::body::{Scope, Writer};
use crate::emit::code::ok;
use crate::emit::modes::{Mode, Modes};
use crate::kernel::lower::product;
use inkwell::values::IntValue;

/// Writes the kernel's code.
pub fn write(w: &Writer) -> Result<(), String> {
    let modes = Modes { outer: None, columns: false, stages: vec![Mode::Scalar; w.kernel.stages.len()] };
    let points = w.size(&product(&w.kernel.outer));
    let [first, threads] = w.grid();
    w.code.range_by(first, points, threads, |i| w.stages(&modes, &w.outer_point(i))).map(|_| ())
}

impl<'c> Writer<'_, 'c> {
    /// The scope of the outer point with this number, the last variable fastest.
    pub fn outer_point(&self, number: IntValue<'c>) -> Scope<'c> {
        let b = &self.code.builder;
        let (mut rest, mut point) = (number, vec![number; self.kernel.outer.len()]);
        for (axis, size) in self.kernel.outer.iter().enumerate().skip(1).rev() {
            let size = self.size(size);
            point[axis] = ok(b.build_int_unsigned_rem(rest, size, ""));
            rest = ok(b.build_int_unsigned_div(rest, size, ""));
        }
        if let Some(first) = point.first_mut() {
            *first = rest;
        }
        Scope { point, ranges: self.kernel.outer.clone(), lane: None, mask: None, locals: vec![] }
    }
}
