//! What a tile's stages read and write at the tile's own points is asked for before the tile is multiplied: its rows lie far apart, and no processor looks
//! that way ahead by itself. A line that is written must be there first, too.

use crate::emit::code::{Elem, ok};
use crate::emit::contract::{Engine, Panel, named};
use crate::emit::dense::LINE;
use crate::emit::micro::PANEL;
use crate::kernel::linear::{Linear, address};
use crate::kernel::lower::product;
use crate::kernel::{Index, Instr, Target};
use inkwell::IntPredicate;
use inkwell::values::IntValue;

/// Buffers that are asked for, of those that are read and of those that are written; more would push out what is multiplied.
const MOST: usize = 4;
/// Steps of a product that takes long enough for its result's lines to come meanwhile to be worth the asking.
const LONG: i64 = 128;

impl<'c> Engine<'_, '_, 'c> {
    /// Those that have a row of memory for each row of the tile, and columns one after the other.
    fn rows_apart<'a>(&self, accesses: impl Iterator<Item = (usize, &'a [Index])>) -> Vec<Linear> {
        let (kernel, outer) = (self.w.kernel, self.w.kernel.outer.len());
        let mut found: Vec<Linear> = vec![];
        for (param, index) in accesses {
            let Some(form) = address(kernel, param, index, outer).filter(|_| kernel.params[param].dtype == self.c.dtype) else { continue };
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

    /// What the stages after the product read, then, where that is long, what all write.
    fn others(&self) -> Vec<Linear> {
        let stages = || self.w.kernel.stages.iter().enumerate().filter(|(_, s)| s.inner.is_empty());
        let loads = stages().filter(|(n, s)| *n != self.c.stage && s.reds.is_empty()).flat_map(|(_, s)| &s.body);
        let loads = self.rows_apart(loads.filter_map(|instr| match instr {
            Instr::Load { param, index, otherwise: None } => Some((*param, index.as_slice())),
            _ => None,
        }));
        let long = product(&self.stage.reds).as_const().is_none_or(|k| k >= LONG);
        let stores = stages().filter(|_| long).flat_map(|(_, s)| &s.stores);
        let stores = self.rows_apart(stores.filter_map(|store| match &store.target {
            Target::Param { param, index, fold: None } => Some((*param, index.as_slice())),
            _ => None,
        }));
        [loads, stores].concat()
    }

    /// Asks for what the stages read and write at `rows` rows of the panel, from `row` on.
    pub fn ask_ahead(&self, panel: &Panel<'c>, row: IntValue<'c>, rows: IntValue<'c>) -> Result<(), String> {
        let code = &self.w.code;
        let mut asked: Vec<IntValue<'c>> = vec![];
        for form in self.others() {
            let step = form.runs(&named(self.w.kernel, &self.c.rows)).first().map_or(self.int(0), |run| self.bytes(&run.step));
            let base = self.add(self.form(&form, &self.batch_point(panel, &self.c.columns)), self.mul(row, step));
            // What is updated in place is asked for once.
            let new =
                asked.iter().fold(code.context.bool_type().const_all_ones(), |new, other| self.and(new, self.is(IntPredicate::NE, base, *other)));
            asked.push(base);
            let rows = code.select(new.into(), rows.into(), self.int(0).into()).into_int_value();
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
