//! A plan's steps at given dims as lines of the launch table, with what each costs and touches.
//!
//! In: an entry, dims, where its buffers lie. Out: the table's lines and arguments; an error for a plan that contradicts itself.

use crate::chains::Active;
use crate::dtype::DType;
use crate::error::{Result, refuse};
use crate::exec::{At, align, broken, eval, root};
use crate::launch::{BLOCK, Call, Move, Op, Table};
use crate::manifest::{BufferId, Entry, Manifest, Part, Step, Storage};
use crate::memory::{ALIGN, Aligned};
use crate::phases::{Chain, Loop, Own, Rows, Touch, Work};
use crate::size::{Dims, Size};

/// Until measured, a nanosecond is this many units of [`crate::manifest::Launch::cost`].
const UNITS: f64 = 4.0;

/// Bytes of scratch that a thread needs for the entry's kernels, where there can be so many.
pub(crate) fn scratch(manifest: &Manifest, entry: &Entry) -> Option<usize> {
    let kernels = entry.plan.steps.iter().filter_map(|s| match s {
        Step::Launch(launch) => manifest.kernels.get(launch.kernel as usize),
        Step::Loop { .. } | Step::Copy { .. } | Step::Check { .. } => None,
    });
    align(kernels.map(|k| k.scratch as usize).max().unwrap_or(0))
}

/// What resolving the steps looks at, and what it makes.
pub(crate) struct Resolve<'a> {
    pub manifest: &'a Manifest,
    pub entry: &'a Entry,
    pub dims: &'a Dims,
    pub at: &'a [Option<At>],
    pub bytes: &'a [usize],
    pub arena: &'a Aligned,
    pub given: &'a Aligned,
    pub table: &'a mut Table,
    pub bound: Vec<(usize, usize, usize)>,
    pub works: Vec<Option<Work>>,
    pub flops: Vec<f64>,
    /// Loops without loops inside.
    pub inner: Vec<Loop>,
    /// Around the present step, the innermost last.
    pub loops: Vec<Around>,
    /// What is run part by part, and for every buffer which of these it belongs to.
    pub chains: &'a [Active],
    pub chain_of: &'a [Option<usize>],
}

/// A loop around a step.
#[derive(Clone, Copy)]
pub(crate) struct Around {
    /// Its line.
    line: usize,
    /// The step after its last.
    end: usize,
    count: i64,
    index: BufferId,
    position: *const i64,
}

impl Resolve<'_> {
    /// Every step, and the end of every loop.
    pub fn all(&mut self) -> Result<()> {
        let steps = &self.entry.plan.steps;
        for k in 0..=steps.len() {
            while let Some(Around { line, .. }) = self.loops.pop_if(|l| l.end == k) {
                let here = self.table.ops.len();
                if let Op::Loop { end, .. } = &mut self.table.ops[line] {
                    *end = here;
                }
                if let Some(inner) = self.inner.last_mut().filter(|inner| inner.first == line) {
                    inner.end = here;
                }
                self.push(Op::Again { start: line }, None);
            }
            let Some(step) = steps.get(k) else { break };
            if let Some(chain) = self.chains.iter().find(|chain| chain.first == k) {
                let first = self.table.ops.len();
                // Steps of a chain are launches, each a line.
                let end = first + chain.end - chain.first;
                if !self.loops.is_empty() {
                    return broken(self.entry);
                }
                self.table.chains.push(Chain { first, end, parts: chain.parts, own: vec![] });
            }
            self.step(k, step)?;
            if let Step::Loop { body, index, .. } = step {
                let (line, end) = (self.table.ops.len() - 1, k + 1 + *body as usize);
                let Op::Loop { count, index: position, .. } = self.table.ops[line] else { unreachable!("just pushed") };
                if end > self.loops.last().map_or(steps.len(), |l| l.end) {
                    return broken(self.entry);
                }
                self.loops.push(Around { line, end, count, index: *index, position });
            }
        }
        Ok(())
    }

    fn push(&mut self, op: Op, work: Option<Work>) {
        self.table.ops.push(op);
        self.works.push(work);
        self.flops.push(0.0);
    }

    /// Appends the buffer to the arguments, and says what memory that is.
    fn arg(&mut self, id: BufferId, written: bool) -> Result<Touch> {
        let slot = self.table.args.len();
        let Some(at) = self.at.get(id as usize).copied().flatten() else { return broken(self.entry) };
        let bytes = self.bytes[id as usize];
        let (first, reach, whole) = self.part(id, slot)?;
        let (place, start) = match at {
            At::Arena(start) => (0, start + first),
            At::Own(start) => {
                let root = root(self.entry, id as usize)?;
                let (chain, all) = (self.chain_of[root], self.bytes[root]);
                let last = self.table.chains.len().checked_sub(1);
                let here = self.table.chains.last_mut().filter(|chain| self.table.ops.len() < chain.end);
                // The launches of its own chain touch the whole of it, and nothing else does.
                let part = matches!(self.entry.plan.buffers[id as usize].storage, Storage::Part(_));
                let Some(here) = here.filter(|_| chain == last && !part && bytes == all) else {
                    return broken(self.entry);
                };
                let part = bytes / here.parts as usize;
                here.own.push(Own { slot, bytes: part, apart: part.next_multiple_of(ALIGN) });
                (usize::MAX, start)
            }
            At::Given(start) => (1, start + first),
            At::Stored(tensor) => (2 + tensor, first),
        };
        self.table.args.push(match at {
            // Offsets lie inside the allocation, by `place` and by the sum of the inputs.
            At::Arena(_) | At::Own(_) => self.arena.as_ptr().wrapping_add(start),
            At::Given(_) => self.given.as_ptr().wrapping_add(start),
            At::Stored(tensor) => {
                self.bound.push((slot, tensor, start));
                std::ptr::null_mut()
            }
        });
        Ok(Touch { place, start, end: start + reach + bytes, bytes, written, rows: whole })
    }

    /// At which byte of its memory the buffer begins where all loops stand at position 0, how much further at their last ones, and whether by multiples of
    /// its own size. Argument `slot` moves with them.
    fn part(&mut self, id: BufferId, slot: usize) -> Result<(usize, usize, bool)> {
        let entry = self.entry;
        let whole = self.bytes[root(entry, id as usize)?];
        let buffer = &entry.plan.buffers[id as usize];
        let none = Part { of: id, start: Size::default(), along: vec![] };
        let Part { start, along, .. } = if let Storage::Part(part) = &buffer.storage { part } else { &none };
        let bytes = |size: &Size| -> Result<usize> {
            let elements = eval(size, self.dims, &|| format!("{} in {}", buffer.name, entry.name))?;
            (elements as usize).checked_mul(buffer.dtype.bytes()).map_or_else(|| broken(entry), Ok)
        };
        let first = bytes(start)?;
        let (mut reach, mut inner, mut runs, mut whole_steps, mut moves) = (0usize, None, true, true, vec![]);
        for (index, stride) in along {
            let Some(at) = self.loops.iter().rposition(|l| l.index == *index) else { return broken(entry) };
            let (around, stride) = (self.loops[at], bytes(stride)?);
            runs &= around.count > 0;
            whole_steps &= stride.checked_rem(self.bytes[id as usize]) == Some(0);
            let Some(sum) = stride.checked_mul((around.count - 1).max(0) as usize).and_then(|n| n.checked_add(reach)) else { return broken(entry) };
            (reach, inner) = (sum, inner.max(Some(at)));
            moves.push((around.position, stride));
        }
        // A round that never comes may be beyond the end.
        if !runs {
            return Ok((0, 0, false));
        }
        if first.checked_add(reach).and_then(|n| n.checked_add(self.bytes[id as usize])).is_none_or(|end| end > whole) {
            return broken(entry);
        }
        if let Some(at) = inner
            && let Op::Loop { moves: to, .. } = &mut self.table.ops[self.loops[at].line]
        {
            to.push(Move { slot, along: moves });
        }
        Ok((first, reach, whole_steps))
    }

    fn step(&mut self, k: usize, step: &Step) -> Result<()> {
        let (entry, dims) = (self.entry, self.dims);
        let what = || format!("step {k} of {}", entry.name);
        let at = self.table.args.len();
        match step {
            Step::Launch(launch) => {
                let Some(kernel) = self.manifest.kernels.get(launch.kernel as usize) else { return broken(entry) };
                let (mut touches, mut tasks, mut flops) = (vec![], 0i64, 0.0);
                let first = self.table.calls.len();
                let own = (&launch.args, &launch.sizes, &launch.tasks, &launch.flops);
                for (args, sizes, count, work) in [own].into_iter().chain(launch.beside.iter().map(|c| (&c.args, &c.sizes, &c.tasks, &c.flops))) {
                    let (at, from) = (self.table.args.len(), self.table.sizes.len());
                    for (n, id) in args.iter().enumerate() {
                        let touch = self.arg(*id, kernel.writes.contains(&(n as u32)))?;
                        let by_rows = launch.rows.as_ref().is_some_and(|rows| rows.args.contains(&(n as u32)));
                        touches.push(Touch { rows: touch.rows && by_rows, ..touch });
                    }
                    for size in sizes {
                        let size = size.eval(dims).map_err(|e| refuse!("{}: {e}", what()))?;
                        self.table.sizes.push(size);
                    }
                    let Some(end) = tasks.checked_add(eval(count, dims, &what)?) else { return broken(entry) };
                    tasks = end;
                    flops += work.eval(dims).unwrap_or(i64::MAX) as f64;
                    self.table.calls.push(Call { args: at..self.table.args.len(), sizes: from..self.table.sizes.len(), end });
                }
                if self.table.chains.last().is_some_and(|chain| self.table.ops.len() < chain.end && tasks % chain.parts != 0) {
                    return broken(entry);
                }
                let cost = launch.cost.eval(dims).unwrap_or(i64::MAX).max(1) as f64 * tasks as f64;
                let whole = eval(&launch.whole, dims, &what)?.max(0);
                let rows = match &launch.rows {
                    // Rows of several calls do not lie side by side.
                    Some(_) if !launch.beside.is_empty() => return broken(entry),
                    Some(rows) => Some(Rows { count: eval(&rows.count, dims, &what)?, pieces: eval(&rows.pieces, dims, &what)? }),
                    None => None,
                };
                let work = Work { tasks, whole, nanoseconds: (cost / UNITS).max(1.0), touches, rows };
                self.push(Op::Launch { kernel: launch.kernel, calls: first..self.table.calls.len(), tasks, line: launch.line }, Some(work));
                *self.flops.last_mut().expect("just pushed") = flops;
            }
            Step::Loop { count, index: id, reversed, .. } => {
                let touch = self.arg(*id, true)?;
                let (id, index) = (*id as usize, self.table.args.get()[at]);
                if entry.plan.buffers[id].dtype != DType::I64 || self.bytes[id] < 8 || index.is_null() {
                    return broken(entry);
                }
                let round = self.table.rounds.len();
                self.table.rounds.push(0.into());
                let count = eval(count, dims, &what)?;
                // The one around it is not an inner one.
                self.inner.pop_if(|inner| inner.end == 0);
                self.inner.push(Loop { first: self.table.ops.len(), end: 0, rounds: count, index: touch });
                self.push(Op::Loop { count, end: 0, index: index.cast(), reversed: *reversed, round, moves: vec![] }, None);
            }
            Step::Copy { from, to } => {
                let touches = vec![self.arg(*from, false)?, self.arg(*to, true)?];
                let bytes = self.bytes[*from as usize];
                if bytes != self.bytes[*to as usize] {
                    return broken(entry);
                }
                // Between buffers that overlap it is never cut.
                let overlap = touches[0].place == touches[1].place && touches[0].start < touches[1].end && touches[1].start < touches[0].end;
                let tasks = bytes.div_ceil(BLOCK) as i64;
                let work = (!overlap).then_some(Work { tasks, whole: 1, nanoseconds: (bytes as f64 / 8.0).max(1.0), touches, rows: None });
                self.push(Op::Copy { at, bytes }, work);
            }
            Step::Check { condition, message, line } => {
                self.arg(*condition, false)?;
                let count = self.bytes[*condition as usize];
                self.push(Op::Check { at, count, message: message.clone(), line: *line }, None);
            }
        }
        Ok(())
    }
}
