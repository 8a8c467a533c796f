//! Walks of a contraction: through steps of its reduction box, and along a panel's columns.

use crate::emit::body::Scope;
use crate::emit::code::{Elem, V, ok};
use crate::emit::contract::{Engine, Panel};
use crate::kernel::lower::product;
use inkwell::IntPredicate;
use inkwell::values::{IntValue, PointerValue};

/// What is done at a step of the reduction box: its number, and its variables.
type At<'a, 'c> = &'a mut dyn FnMut(IntValue<'c>, &[IntValue<'c>]) -> Result<(), String>;

/// The same for several steps of the last variable together.
type Piece<'a, 'c> = &'a mut dyn FnMut(IntValue<'c>, &[IntValue<'c>], IntValue<'c>) -> Result<(), String>;

impl<'c> Engine<'_, '_, 'c> {
    /// Sizes of the reduction box, its last variables from number `joined` on as one.
    fn box_sizes(&self, joined: usize) -> Vec<IntValue<'c>> {
        let one = self.int(1);
        let (single, group) = self.stage.reds.split_at(joined);
        let group = (!group.is_empty()).then(|| product(group));
        single.iter().chain(&group).map(|size| self.w.greater(self.w.size(size), one)).collect()
    }

    fn unravel_in(&self, sizes: &[IntValue<'c>], step: IntValue<'c>) -> Vec<IntValue<'c>> {
        let (mut rest, mut values) = (step, vec![step; sizes.len()]);
        for (n, size) in sizes.iter().enumerate().skip(1).rev() {
            (rest, values[n]) = self.divide(rest, *size);
        }
        if let Some(first) = values.first_mut() {
            *first = rest;
        }
        values
    }

    /// Runs `body` for `count` steps from number `from` on of the reduction box: the step's number from `from`, and the variables.
    pub fn walk(&self, from: IntValue<'c>, count: IntValue<'c>, body: At<'_, 'c>) -> Result<(), String> {
        let sizes = self.box_sizes(self.stage.reds.len());
        self.advance(&sizes, from, count, &|_| self.int(1), &mut |k, values, _| body(k, values))
    }

    /// The same by runs of the last variables, those from number `joined` on: the first step's number from the beginning, the variables there, and how
    /// many steps. Joined variables are all 0 but the last, which counts for all of them.
    pub fn pieces(&self, joined: usize, from: IntValue<'c>, count: IntValue<'c>, body: Piece<'_, 'c>) -> Result<(), String> {
        let sizes = self.box_sizes(joined);
        self.advance(&sizes, from, count, &|values| self.sub(sizes[joined], values[joined]), &mut |at, values, length| {
            let mut reds = vec![self.int(0); self.stage.reds.len()];
            reds[..joined].copy_from_slice(&values[..joined]);
            *reds.last_mut().expect("a variable") = values[joined];
            body(at, &reds, length)
        })
    }

    /// Steps through a box from a step on, by as many steps of the last variable as `stride` says, at most `count` in all.
    fn advance(
        &self,
        sizes: &[IntValue<'c>],
        from: IntValue<'c>,
        count: IntValue<'c>,
        stride: &dyn Fn(&[IntValue<'c>]) -> IntValue<'c>,
        body: Piece<'_, 'c>,
    ) -> Result<(), String> {
        let code = &self.w.code;
        let i64t = code.ty(Elem::I64, 1);
        let done = code.variable(i64t);
        code.set(done, self.int(0).into());
        let slots: Vec<PointerValue<'c>> = sizes.iter().map(|_| code.variable(i64t)).collect();
        slots.iter().zip(self.unravel_in(sizes, from)).for_each(|(slot, v)| code.set(*slot, v.into()));
        let (head, inside, end) = (code.block(), code.block(), code.block());
        code.go(head);
        let at = code.get(i64t, done).into_int_value();
        code.branch(self.is(IntPredicate::SLT, at, count), inside, end);
        code.builder.position_at_end(inside);
        let values: Vec<IntValue<'c>> = slots.iter().map(|s| code.get(i64t, *s).into_int_value()).collect();
        let step = self.w.lesser(stride(&values), self.sub(count, at));
        body(at, &values, step)?;
        let mut carry = step;
        for (n, size) in sizes.iter().enumerate().rev() {
            let next = self.add(values[n], carry);
            let wraps = self.is(IntPredicate::EQ, next, *size);
            code.set(slots[n], code.select(wraps.into(), self.int(0).into(), next.into()));
            carry = ok(code.builder.build_int_z_extend(wraps, code.context.i64_type(), ""));
        }
        code.set(done, self.add(at, step).into());
        code.jump(head);
        code.builder.position_at_end(end);
        Ok(())
    }

    /// Runs `body` for the panel's columns in pieces that are contiguous in the last variables, those from place `near` on: the scope in lanes of the
    /// last, which goes on beyond its size as if it counted all of them, and the first lane's column.
    pub fn columns(
        &self,
        near: usize,
        panel: &Panel<'c>,
        scope: &Scope<'c>,
        body: &mut dyn FnMut(&Scope<'c>, IntValue<'c>) -> Result<(), String>,
    ) -> Result<(), String> {
        let code = &self.w.code;
        let last = self.c.columns[self.c.columns.len() - 1];
        let lanes = self.width as u32;
        let several = self.c.columns[..near].iter().any(|v| self.w.kernel.outer[*v].as_const() != Some(1));
        let group = self.c.extent(&self.c.columns[near..], &self.w.kernel.outer);
        if !several {
            let inside = Scope { lane: Some((last, lanes)), ..scope.clone() };
            let whole = self.is(IntPredicate::EQ, panel.columns, self.int(self.width));
            let fixed = group.as_const();
            if fixed.is_some_and(|n| n % self.width == 0) {
                return body(&inside, self.int(0));
            }
            let masked = |body: &mut dyn FnMut(&Scope<'c>, IntValue<'c>) -> Result<(), String>| {
                let mask = code.icmp(IntPredicate::SLT, code.lane_numbers(lanes), code.splat(panel.columns.into(), lanes));
                body(&Scope { mask: Some(mask), ..inside.clone() }, self.int(0))
            };
            if fixed.is_some_and(|n| n < self.width) {
                return masked(body);
            }
            let (full, part, end) = (code.block(), code.block(), code.block());
            code.branch(whole, full, part);
            code.builder.position_at_end(full);
            body(&inside, self.int(0))?;
            code.jump(end);
            code.builder.position_at_end(part);
            masked(body)?;
            code.go(end);
            return Ok(());
        }
        if group.as_const().is_some_and(|n| n > 0 && n % self.width == 0) {
            return body(&Scope { lane: Some((last, lanes)), ..scope.clone() }, self.int(0));
        }
        let i64t = code.ty(Elem::I64, 1);
        let done = code.variable(i64t);
        code.set(done, self.int(0).into());
        let (head, inside, end) = (code.block(), code.block(), code.block());
        code.go(head);
        let at = code.get(i64t, done).into_int_value();
        code.branch(self.is(IntPredicate::SLT, at, panel.columns), inside, end);
        code.builder.position_at_end(inside);
        let size = self.w.size(&group);
        let (_, from) = self.divide(self.add(panel.first, at), size);
        let to = self.w.lesser(size, self.add(from, self.sub(panel.columns, at)));
        let mut groups = |i: IntValue<'c>, lanes: u32, mask: Option<V<'c>>| {
            let column = self.add(at, self.sub(i, from));
            let mut point = scope.point.clone();
            self.set(&self.c.columns, self.add(panel.first, column), &mut point);
            body(&Scope { point, lane: Some((last, lanes)), mask, ..scope.clone() }, column)
        };
        self.w.groups(from, to, lanes, &mut groups)?;
        code.set(done, self.add(at, self.sub(to, from)).into());
        code.jump(head);
        code.builder.position_at_end(end);
        Ok(())
    }

    /// A scope of the stage at an outer point and a point of the reduction box.
    pub fn scope(&self, outer: &[IntValue<'c>], reds: &[IntValue<'c>]) -> Scope<'c> {
        let ranges = self.w.kernel.outer.iter().chain(&self.stage.reds).cloned().collect();
        Scope { point: outer.iter().chain(reds).copied().collect(), ranges, lane: None, mask: None, within: None, locals: vec![] }
    }
}
