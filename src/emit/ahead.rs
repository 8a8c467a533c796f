//! What a tile's other stages read at the tile's own points is asked for before the tile is multiplied: its rows lie far apart, and no processor looks
//! that way ahead by itself.

use crate::emit::code::{Elem, ok};
use crate::emit::contract::{Engine, Panel, named};
use crate::emit::micro::PANEL;
use crate::kernel::Instr;
use crate::kernel::linear::{Linear, address};
use inkwell::values::IntValue;

/// Buffers that are asked for; more would push out what is multiplied.
const MOST: usize = 4;
/// Bytes of a line of the caches.
const LINE: i64 = 64;

impl<'c> Engine<'_, '_, 'c> {
    /// Loads of the other stages that have a row of memory for each row of the tile, and columns one after the other.
    fn others(&self) -> Vec<Linear> {
        let (kernel, outer) = (self.w.kernel, self.w.kernel.outer.len());
        let mut found: Vec<Linear> = vec![];
        let stages = kernel.stages.iter().enumerate().filter(|(n, s)| *n != self.c.stage && s.inner.is_empty() && s.reds.is_empty());
        for instr in stages.flat_map(|(_, s)| &s.body) {
            let Instr::Load { param, index, otherwise: None } = instr else { continue };
            let Some(form) = address(kernel, *param, index, outer).filter(|_| kernel.params[*param].dtype == self.c.dtype) else { continue };
            let (rows, columns) = (form.runs(&named(kernel, &self.c.rows)), form.runs(&named(kernel, &self.c.columns)));
            let near = matches!(columns.as_slice(), [only] if only.step.as_const() == Some(1));
            let apart = matches!(rows.as_slice(), [only] if only.step.as_const() != Some(0));
            if near && apart && !found.contains(&form) {
                found.push(form);
            }
        }
        found.truncate(MOST);
        found
    }

    /// Asks for what the stages after the product read at `rows` rows of the panel, from `row` on.
    pub fn ask_ahead(&self, panel: &Panel<'c>, row: IntValue<'c>, rows: IntValue<'c>) -> Result<(), String> {
        let code = &self.w.code;
        for form in self.others() {
            let step = form.runs(&named(self.w.kernel, &self.c.rows)).first().map_or(self.int(0), |run| self.bytes(&run.step));
            let base = self.add(self.form(&form, &self.batch_point(panel, &self.c.columns)), self.mul(row, step));
            code.range(self.int(0), rows, 1, |r| {
                let from = self.add(base, self.mul(r, step));
                let from = ok(code.builder.build_int_to_ptr(from, code.pointer().into_pointer_type(), ""));
                (0..PANEL / LINE).for_each(|line| code.prefetch(code.element(Elem::I8, from, self.int(line * LINE))));
                Ok::<(), String>(())
            })?;
        }
        Ok(())
    }
}
