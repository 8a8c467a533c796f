//! The result as the place of a contraction's sums: where the product is all that is stored, tiles are summed up there at once.

use crate::emit::contract::{Engine, Group, Panel, named};
use crate::emit::micro;
use crate::ir::Size;
use crate::kernel::contract::{Contraction, panel};
use crate::kernel::linear::{Linear, address};
use crate::kernel::{Kernel, Store, Target};
use inkwell::IntPredicate;
use inkwell::values::IntValue;

/// The result where rows lie one step apart and the columns of most panels are contiguous.
pub struct Home {
    form: Linear,
    /// From one row to the next.
    step: Size,
    /// Columns that are contiguous, where some panels reach beyond: points of an image, the next of which lies elsewhere.
    run: Option<i64>,
}

impl Home {
    pub fn of(kernel: &Kernel, c: &Contraction) -> Option<Home> {
        let ([stage], outer) = (&kernel.stages[..], kernel.outer.len()) else { return None };
        let [Store { target: Target::Param { param, index, fold: None }, .. }] = &stage.stores[..] else { return None };
        let form = address(kernel, *param, index, outer).filter(|_| kernel.params[*param].dtype == c.dtype)?;
        let rows = form.runs(&named(kernel, &c.rows));
        let columns = form.runs(&named(kernel, &c.columns));
        let last = columns.last().filter(|run| run.step.as_const() == Some(1))?;
        let width = panel(c.dtype);
        let run = match last.extent.as_const() {
            _ if columns.len() == 1 => None,
            Some(n) if n % width == 0 => None,
            // Where runs are shorter most panels reach beyond theirs.
            Some(n) if n >= 2 * width => Some(n),
            _ => return None,
        };
        let step = rows.first().map_or_else(Size::default, |r| r.step.clone());
        (rows.len() <= 1).then_some(Home { form, step, run })
    }
}

impl<'c> Engine<'_, '_, 'c> {
    /// How many of the group's panels are whole.
    pub fn wholes(&self, g: &Group<'c>) -> IntValue<'c> {
        let whole = self.divide(g.columns, self.int(self.width)).0;
        self.w.lesser(g.count, self.sub(whole, g.panel))
    }

    /// Whether a whole panel's columns belong to one run of so many.
    pub fn in_run(&self, panel: &Panel<'c>, run: i64) -> IntValue<'c> {
        let (_, within) = self.divide(panel.first, self.int(run));
        self.is(IntPredicate::SLE, within, self.int(run - self.width))
    }

    /// Whether sums of some of the group's panels cannot be stored at once.
    pub fn elsewhere(&self, g: &Group<'c>) -> IntValue<'c> {
        let part = self.is(IntPredicate::SLT, self.wholes(g), g.count);
        if self.home.as_ref().is_some_and(|home| home.run.is_none()) { part } else { self.w.code.context.bool_type().const_all_ones() }
    }

    /// Where the panel's sums are stored at once: whether they are, the address of row 0, the bytes between rows.
    pub fn home_of(&self, panel: &Panel<'c>) -> Option<(IntValue<'c>, IntValue<'c>, IntValue<'c>)> {
        let home = self.home.as_ref()?;
        let whole = self.is(IntPredicate::EQ, panel.columns, self.int(self.width));
        let contiguous = home.run.map_or(whole, |run| self.and(whole, self.in_run(panel, run)));
        Some((contiguous, self.form(&home.form, &self.batch_point(panel, &self.c.columns)), self.bytes(&home.step)))
    }

    /// The bytes from where a panel's sums are stored at once to where the next one's are.
    pub fn home_apart(&self, g: &Group<'c>, number: IntValue<'c>) -> IntValue<'c> {
        let base = |number| self.home_of(&self.panel(g, number)).map_or(self.int(0), |(_, base, _)| base);
        self.sub(base(self.add(number, self.int(1))), base(number))
    }

    /// Whether the panel after `number` is multiplied together with it.
    pub fn beside(&self, g: &Group<'c>, pairs: IntValue<'c>, number: IntValue<'c>, end: IntValue<'c>) -> IntValue<'c> {
        let next = self.add(number, self.int(1));
        let mut both = self.and(pairs, self.is(IntPredicate::SLT, next, end));
        if micro::halves(self.w.kernel, self.c) {
            both = self.and(both, self.is(IntPredicate::SGT, self.panel(g, next).columns, self.int(self.width / 2)));
        }
        // Sums of both go to the result itself, or none.
        let [own, other] = [number, next].map(|number| self.home_of(&self.panel(g, number)).map(|(whole, ..)| whole));
        own.zip(other).map_or(both, |(own, other)| self.and(both, self.is(IntPredicate::EQ, own, other)))
    }
}
