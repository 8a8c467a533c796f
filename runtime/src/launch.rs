//! An entry's steps at given dims: one flat table in which everything is a number or an address, and the walk over it.
//!
//! In: the table, kernels, threads. Out: memory as the steps leave it, or the step that failed. Serial steps are walked by one small loop on one thread at
//! a time; phases ([`crate::phases`]) are opened to the pool. Nothing is allocated.

use crate::error;
use crate::exec::Kernels;
use crate::meter::{Meter, ticks};
use crate::phases::{Chain, Own, Phase, Segment};
use crate::pool::{Apart, Pool, Region};
use std::cell::UnsafeCell;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::Relaxed};

/// Copies are cut at multiples of this many bytes.
pub(crate) const BLOCK: usize = 64;

/// A kernel on buffers. Ranges index `args` and `sizes`.
pub(crate) struct Call {
    pub args: Range<usize>,
    pub sizes: Range<usize>,
    /// One past its last task, counted through all calls of the line.
    pub end: i64,
}

/// A line of the table.
pub(crate) enum Op {
    /// The range indexes `calls`.
    Launch { kernel: u32, calls: Range<usize>, tasks: i64, line: u32 },
    /// Argument `at` to argument `at + 1`.
    Copy { at: usize, bytes: usize },
    /// Argument `at`.
    Check { at: usize, count: usize, message: Arc<str>, line: u32 },
    /// The lines up to `end`, which is an [`Op::Again`], `count` times; rounds are counted in `rounds[round]`.
    Loop {
        count: i64,
        end: usize,
        index: *mut i64,
        reversed: bool,
        round: usize,
        /// Arguments that lie elsewhere in every round.
        moves: Vec<Move>,
    },
    /// The end of the loop that begins at `start`.
    Again { start: usize },
}

/// An argument that advances with loops.
pub(crate) struct Move {
    /// Which argument.
    pub slot: usize,
    /// Positions of loops, and how many bytes further it begins for each.
    pub along: Vec<(*const i64, usize)>,
}

/// The arguments' addresses.
#[derive(Default)]
pub(crate) struct Args {
    /// Where all loops stand at position 0.
    first: Vec<*mut u8>,
    /// Where loops stand now. Changed by [`Region::next`] only, which never runs beside anything else of the region.
    now: UnsafeCell<Vec<*mut u8>>,
}

impl Args {
    pub fn len(&self) -> usize {
        self.first.len()
    }

    pub fn push(&mut self, address: *mut u8) {
        self.first.push(address);
        self.now.get_mut().push(address);
    }

    pub fn set(&mut self, slot: usize, address: *mut u8) {
        self.first[slot] = address;
        self.now.get_mut()[slot] = address;
    }

    pub fn get(&self) -> &[*mut u8] {
        // SAFETY: who changes an address is alone.
        unsafe { &*self.now.get() }
    }

    /// # Safety
    /// Nobody else uses the addresses meanwhile; the loops' positions can be read.
    unsafe fn advance(&self, Move { slot, along }: &Move) {
        // SAFETY: promised by the caller.
        unsafe {
            let bytes: usize = along.iter().map(|(position, stride)| **position as usize * stride).sum();
            (&mut *self.now.get())[*slot] = self.first[*slot].wrapping_add(bytes);
        }
    }
}

/// The table.
#[derive(Default)]
pub(crate) struct Table {
    pub ops: Vec<Op>,
    pub calls: Vec<Call>,
    pub args: Args,
    pub sizes: Vec<i64>,
    /// Touched by [`Region::next`] only.
    pub rounds: Vec<AtomicI64>,
    pub phases: Vec<Phase>,
    /// For every line the phase that begins there; [`NONE`] where it is serial.
    pub opens: Vec<u32>,
    /// What is run part by part.
    pub chains: Vec<Chain>,
    /// For every line the chain that begins there, or [`NONE`].
    pub links: Vec<u32>,
    /// For every thread the arguments' addresses where it stands in a loop whose rounds it walks by itself, or in a chain.
    pub own: Vec<Apart<UnsafeCell<Vec<*mut u8>>>>,
    /// The bytes that a thread needs beside the buffers: what the hungriest kernel asks for.
    pub scratch: usize,
}

const NONE: u32 = u32::MAX;

impl Table {
    /// Sets the phases, for so many threads.
    pub fn open(&mut self, phases: Vec<Phase>, threads: usize) {
        let apart = !self.chains.is_empty() || phases.iter().any(|phase| matches!(self.ops[phase.first], Op::Loop { .. }));
        self.own.resize_with(if apart { threads } else { 0 }, || Apart(UnsafeCell::new(vec![])));
        self.own.iter_mut().for_each(|own| own.0.get_mut().resize(self.args.len(), std::ptr::null_mut()));
        self.opens.clear();
        self.opens.resize(self.ops.len(), NONE);
        phases.iter().enumerate().for_each(|(n, phase)| self.opens[phase.first] = n as u32);
        self.phases = phases;
        self.links.clear();
        self.links.resize(self.ops.len(), NONE);
        self.chains.iter().enumerate().for_each(|(n, chain)| self.links[chain.first] = n as u32);
    }

    /// Runs it once from a line on, which no phase stretches over; the line that failed is the first one, whatever ran beside it.
    ///
    /// # Safety
    /// Every argument points at a buffer of the size that the kernels and copies assume; buffers of steps in one phase do not conflict; `scratch` has
    /// [`Table::scratch`] bytes for each of the pool's threads.
    pub unsafe fn run(&self, from: usize, kernels: &dyn Kernels, pool: &mut Pool, scratch: *mut u8, meter: Option<&Meter>) -> Result<(), usize> {
        let walk = Walk::new(self, from, kernels, scratch, meter);
        if self.phases.is_empty() {
            walk.next(0);
        } else {
            pool.run(&walk);
        }
        match walk.failed.into_inner() {
            usize::MAX => Ok(()),
            line => Err(line),
        }
    }
}

impl Table {
    /// Runs it once, one line after the other, as long as `see` is content: it is shown every line before and after (`true`) it is run.
    ///
    /// # Safety
    /// As [`Table::run`], on one thread.
    pub unsafe fn step_through(
        &self,
        kernels: &dyn Kernels,
        scratch: *mut u8,
        see: &mut dyn FnMut(&Table, usize, bool) -> bool,
    ) -> Result<(), usize> {
        let walk = Walk::new(self, 0, kernels, scratch, None);
        let mut at = 0;
        while at < self.ops.len() && see(self, at, false) {
            let next = walk.line(at, 0).ok_or(at)?;
            if !see(self, at, true) {
                break;
            }
            at = next;
        }
        Ok(())
    }
}

impl Table {
    /// Shows what a run from a line on would do, in order, as long as `see` is content: each launch, copy and check, and each round of a loop as it begins,
    /// with the arguments' addresses there. Of the memory, only the loops' positions change.
    pub fn unroll(&self, from: usize, see: &mut dyn FnMut(usize, &[*mut u8]) -> error::Result<bool>) -> error::Result<()> {
        let mut at = from;
        while at < self.ops.len() {
            let next = match self.ops[at] {
                Op::Loop { .. } => Some((at, 0)),
                Op::Again { start } => Some((start, self.done(start) + 1)),
                _ => None,
            };
            match next {
                Some((start, done)) => {
                    at = self.round(start, done);
                    if at == start + 1 && !see(start, self.args.get())? {
                        break;
                    }
                }
                None if !see(at, self.args.get())? => break,
                None => at += 1,
            }
        }
        Ok(())
    }

    /// Rounds of the loop at `start` that have begun before this one.
    fn done(&self, start: usize) -> i64 {
        let Op::Loop { round, .. } = &self.ops[start] else { unreachable!("loops begin with a loop") };
        self.rounds[*round].load(Relaxed)
    }

    /// Begins a round of the loop at `start`: the next line.
    fn round(&self, start: usize, done: i64) -> usize {
        let Op::Loop { count, end, index, reversed, round, moves } = &self.ops[start] else { unreachable!("loops begin with a loop") };
        if done == *count {
            return end + 1;
        }
        self.rounds[*round].store(done, Relaxed);
        // SAFETY: `index` is an i64 buffer inside the arena, aligned; nothing else of the table runs.
        unsafe {
            **index = if *reversed { count - 1 - done } else { done };
            moves.iter().for_each(|m| self.args.advance(m));
        }
        start + 1
    }
}

/// One run under way.
struct Walk<'a> {
    table: &'a Table,
    kernels: &'a dyn Kernels,
    /// [`Table::scratch`] bytes for each thread.
    scratch: *mut u8,
    meter: Option<&'a Meter>,
    /// Changed by [`Region::next`] only, which never runs beside anything else of the region.
    cursor: UnsafeCell<Cursor>,
    /// The first line that failed.
    failed: AtomicUsize,
}

struct Cursor {
    /// The next line.
    at: usize,
    /// The open phase.
    phase: usize,
}

// SAFETY: the pool calls `next` alone and `chunk` between two calls of it; kernels write disjoint elements for disjoint tasks; steps of one phase do not
// touch what another one of them writes.
unsafe impl Sync for Walk<'_> {}

impl<'a> Walk<'a> {
    fn new(table: &'a Table, from: usize, kernels: &'a dyn Kernels, scratch: *mut u8, meter: Option<&'a Meter>) -> Walk<'a> {
        Walk { table, kernels, scratch, meter, cursor: UnsafeCell::new(Cursor { at: from, phase: 0 }), failed: AtomicUsize::new(usize::MAX) }
    }

    /// Runs tasks `lo..hi` of a launch or copy, whose arguments are those in `args`; whether it succeeded.
    fn tasks(&self, op: &Op, lo: i64, hi: i64, thread: usize, all: &[*mut u8]) -> bool {
        let table = self.table;
        match op {
            Op::Launch { kernel, calls, .. } => {
                let scratch = self.scratch.wrapping_add(thread * table.scratch);
                let mut first = 0;
                table.calls[calls.clone()].iter().all(|Call { args, sizes, end }| {
                    let (from, to) = (lo.max(first) - first, hi.min(*end) - first);
                    first = *end;
                    let (args, sizes) = (&all[args.clone()], &table.sizes[sizes.clone()]);
                    // SAFETY: promised by the caller of `Table::run`; the scratch is this thread's.
                    from >= to || unsafe { self.kernels.run(*kernel, args, sizes, from, to, scratch) == 0 }
                })
            }
            Op::Copy { at, bytes } => {
                let (from, to) = (lo as usize * BLOCK, (*bytes).min(hi as usize * BLOCK));
                // SAFETY: both buffers have `bytes` bytes; `copy` allows overlap (such copies are never cut).
                unsafe { std::ptr::copy(all[*at].add(from), all[*at + 1].add(from), to - from) };
                true
            }
            Op::Check { .. } | Op::Loop { .. } | Op::Again { .. } => unreachable!("only launches and copies have tasks"),
        }
    }

    /// Runs a serial line and gives the next one, or nothing if it failed.
    fn line(&self, at: usize, thread: usize) -> Option<usize> {
        let (op, args) = (&self.table.ops[at], self.table.args.get());
        match op {
            Op::Launch { tasks, .. } => self.tasks(op, 0, *tasks, thread, args).then_some(at + 1),
            Op::Copy { bytes, .. } => self.tasks(op, 0, bytes.div_ceil(BLOCK) as i64, thread, args).then_some(at + 1),
            Op::Check { at: slot, count, .. } => {
                // SAFETY: a bool buffer of `count` bytes.
                let held = unsafe { std::slice::from_raw_parts(args[*slot], *count) };
                (!held.contains(&0)).then_some(at + 1)
            }
            Op::Loop { .. } => Some(self.table.round(at, 0)),
            Op::Again { start } => Some(self.table.round(*start, self.table.done(*start) + 1)),
        }
    }
}

impl Region for Walk<'_> {
    fn next(&self, thread: usize) -> usize {
        if self.failed.load(Relaxed) != usize::MAX {
            return 0;
        }
        // SAFETY: nothing else of the region runs.
        let cursor = unsafe { &mut *self.cursor.get() };
        let mut before = self.meter.map_or(0, |_| ticks());
        while let Some(&phase) = self.table.opens.get(cursor.at) {
            if phase != NONE {
                let opened = &self.table.phases[phase as usize];
                (cursor.at, cursor.phase) = (cursor.at + opened.steps, phase as usize);
                return opened.chunks.len();
            }
            if let Some(chain) = self.chain(cursor.at) {
                self.parts(chain, [0, chain.parts], thread);
                if self.failed.load(Relaxed) != usize::MAX {
                    return 0;
                }
                cursor.at = chain.end;
                before = self.meter.map_or(0, |_| ticks());
                continue;
            }
            let next = self.line(cursor.at, thread);
            if let Some(meter) = self.meter {
                let now = ticks();
                meter.record(thread, cursor.at, true, before, now);
                before = now;
            }
            match next {
                Some(next) => cursor.at = next,
                None => {
                    self.failed.store(cursor.at, Relaxed);
                    return 0;
                }
            }
        }
        0
    }

    fn chunk(&self, chunk: usize, thread: usize) {
        // SAFETY: `next` does not run meanwhile.
        let phase = &self.table.phases[unsafe { (*self.cursor.get()).phase }];
        let segments = &phase.chunks[chunk];
        match (self.chain(phase.first), &self.table.ops[phase.first]) {
            (Some(chain), _) => segments.iter().for_each(|s| self.parts(chain, [s.lo, s.hi], thread)),
            (None, Op::Loop { .. }) => self.rounds(phase.first, segments, thread),
            _ => self.segments(segments, thread, self.table.args.get()),
        }
    }
}

impl Walk<'_> {
    fn segments(&self, segments: &[Segment], thread: usize, args: &[*mut u8]) {
        let mut before = self.meter.map_or(0, |_| ticks());
        for &Segment { step, lo, hi } in segments {
            if !self.tasks(&self.table.ops[step as usize], lo, hi, thread, args) {
                self.failed.fetch_min(step as usize, Relaxed);
            }
            if let Some(meter) = self.meter {
                let now = ticks();
                meter.record(thread, step as usize, lo == 0, before, now);
                before = now;
            }
        }
    }

    fn chain(&self, line: usize) -> Option<&Chain> {
        let number = *self.table.links.get(line)?;
        (number != NONE).then(|| &self.table.chains[number as usize])
    }

    /// Runs some parts of a chain, all of its lines for one before the next.
    fn parts(&self, chain: &Chain, [from, to]: [i64; 2], thread: usize) {
        let table = self.table;
        // SAFETY: as in `rounds`.
        let own = unsafe { &mut *table.own[thread].0.get() };
        own.copy_from_slice(table.args.get());
        for part in from..to {
            for Own { slot, bytes, apart } in &chain.own {
                // A launch of this part touches what lies so many parts further.
                own[*slot] = table.args.get()[*slot].wrapping_add(thread * apart).wrapping_sub(part as usize * bytes);
            }
            for step in chain.first..chain.end {
                let Op::Launch { tasks, .. } = &table.ops[step] else { unreachable!("chains are launches") };
                let each = tasks / chain.parts;
                self.segments(&[Segment { step: step as u32, lo: part * each, hi: (part + 1) * each }], thread, own);
            }
        }
    }

    /// Runs the segments in every round of the loop at `first`: the rows of one chunk, which no other chunk of the phase waits for.
    fn rounds(&self, first: usize, segments: &[Segment], thread: usize) {
        let table = self.table;
        let Op::Loop { count, index, reversed, moves, .. } = &table.ops[first] else { unreachable!("loops begin with a loop") };
        // SAFETY: a thread runs one chunk at a time, and nobody else looks at what is its own.
        let own = unsafe { &mut *table.own[thread].0.get() };
        own.copy_from_slice(table.args.get());
        for done in 0..*count {
            let here = if *reversed { count - 1 - done } else { done };
            for Move { slot, along } in moves {
                // SAFETY: other loops' positions stay as they are while the phase runs; this one's is not in memory.
                let position = |p: *const i64| if std::ptr::eq(p, *index) { here } else { unsafe { *p } };
                let bytes: usize = along.iter().map(|(p, stride)| position(*p) as usize * stride).sum();
                own[*slot] = table.args.first[*slot].wrapping_add(bytes);
            }
            self.segments(segments, thread, own);
        }
    }
}
