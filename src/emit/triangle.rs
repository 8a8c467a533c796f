//! Triangles: products whose rows take the steps on one side of a diagonal, or whose points on one side of one are needed.

use crate::emit::contract::{Engine, Panel};
use crate::emit::micro::Field;
use crate::kernel::contract::{Side, coefficient};
use inkwell::IntPredicate;
use inkwell::values::IntValue;

impl<'c> Engine<'_, '_, 'c> {
    /// Tells the micro-kernel which steps of a block the rows from `row` on take.
    pub fn describe_reach(&self, row: IntValue<'c>, block: IntValue<'c>) {
        if let Some(reach) = &self.c.reach {
            let first = self.sub(self.add(row, self.w.size(&reach.shift)), block);
            self.field(Field::Reach, if reach.side == Side::Below { self.add(first, self.int(1)) } else { first });
        }
    }

    /// The steps of a block that any of the rows takes: the first, and the one after the last.
    pub fn taken(&self, rows: [IntValue<'c>; 2], block: IntValue<'c>, steps: IntValue<'c>) -> [IntValue<'c>; 2] {
        let Some(reach) = &self.c.reach else { return [self.int(0), steps] };
        let reached = |row: IntValue<'c>| {
            let step = self.sub(self.add(row, self.w.size(&reach.shift)), block);
            self.w.greater(self.int(0), self.w.lesser(step, steps))
        };
        match reach.side {
            Side::Below => [self.int(0), reached(rows[1])],
            Side::Above => [reached(rows[0]), steps],
        }
    }

    /// Whether any point of a tile and panel needs its sum.
    pub fn needed(&self, panel: &Panel<'c>, row: IntValue<'c>, rows: IntValue<'c>) -> Option<IntValue<'c>> {
        let guard = self.c.needs.as_ref()?;
        let largest = [(self.c.rows[0], row, rows), (self.c.columns[0], panel.first, panel.columns)].into_iter().fold(
            self.w.size(&guard.expr.constant),
            |sum, (v, first, count)| match coefficient(&guard.expr, v) {
                None => sum,
                Some(1) => self.sub(self.add(sum, self.add(first, count)), self.int(1)),
                Some(_) => self.sub(sum, first),
            },
        );
        Some(self.is(IntPredicate::SGE, largest, self.int(0)))
    }

    /// Whether points that do not need the sum store nothing at all.
    pub fn silent(&self) -> bool {
        let others = self.w.kernel.stages.iter().enumerate().filter(|(n, _)| *n != self.c.stage);
        others.into_iter().all(|(_, s)| s.skip && s.guards.as_slice() == self.c.needs.as_slice())
    }
}
