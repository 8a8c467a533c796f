//! Executes an entry's launch table.
//!
//! In: an [`Entry`], concrete dims, kernels, stored tensors. [`Prepared::new`] resolves every size and address once; [`Prepared::run`] then walks flat
//! arrays and allocates nothing. No result depends on the number of threads: tasks of a launch are independent, and a launch ends before the next starts.

use crate::dtype::{DType, Scalar};
use crate::error::{Result, RunError, refuse, wrong};
use crate::manifest::{BufferId, Entry, Manifest, Sink, Source, Step, Storage};
use crate::memory::{ALIGN, Aligned};
use crate::pool::Pool;
use crate::size::{Dims, Size};
use crate::tensors::{Tensors, elements};
use std::ops::Range;
use std::sync::Arc;

/// The compiled (or interpreted) kernels of a program.
pub trait Kernels: Sync {
    /// Runs tasks `lo..hi` of kernel number `kernel`: 0, or the number (from 1) of a checked access that was out of bounds in the first task that failed.
    ///
    /// # Safety
    /// `args` point at buffers of the sizes that the kernel's parameters have at `sizes`, `scratch` at as many bytes as the kernel asks for
    /// ([`crate::manifest::Kernel::scratch`]), which nobody else uses meanwhile.
    unsafe fn run(&self, kernel: u32, args: &[*mut u8], sizes: &[i64], lo: i64, hi: i64, scratch: *mut u8) -> i64;
}

/// Launches cheaper than this (in units of [`crate::manifest::Launch::cost`]) stay on one thread.
const SERIAL: i64 = 40_000;
/// No thread is given less than this.
const GRAIN: i64 = 10_000;

/// An input or result whose memory the entry owns.
#[derive(Clone, Debug)]
pub struct Port<T> {
    /// Where it comes from or goes to.
    pub end: T,
    /// Of the elements.
    pub dtype: DType,
    /// At the dims it was prepared for.
    pub shape: Vec<i64>,
    at: At,
    bytes: usize,
}

/// Where a buffer lies.
#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    /// Bytes from the arena's start.
    Arena(usize),
    /// Bytes from the start of the inputs that the caller fills.
    Given(usize),
    /// A stored tensor.
    Stored(usize),
}

/// The launch table with everything resolved. Ranges index `args`, `sizes` and `ops`.
enum Op {
    Launch {
        kernel: u32,
        args: Range<usize>,
        sizes: Range<usize>,
        tasks: i64,
        parts: usize,
        line: u32,
    },
    Loop {
        count: i64,
        body: usize,
        index: *mut i64,
        reversed: bool,
    },
    /// Arguments `at` and `at + 1`: from, to.
    Copy {
        at: usize,
        bytes: usize,
    },
    /// Argument `at`.
    Check {
        at: usize,
        count: usize,
        message: Arc<str>,
        line: u32,
    },
}

/// An entry at given dims, ready to run many times.
pub struct Prepared {
    name: Arc<str>,
    ops: Vec<Op>,
    args: Vec<*mut u8>,
    /// Arguments that are stored tensors: position in `args`, tensor.
    bound: Vec<(usize, usize)>,
    sizes: Vec<i64>,
    lines: Vec<String>,
    inputs: Vec<Port<Source>>,
    results: Vec<Port<Sink>>,
    arena: Aligned,
    given: Aligned,
    /// As many bytes a thread as the hungriest kernel asks for.
    scratch: Aligned,
    scratch_each: usize,
    /// For results that are other stored tensors unchanged: copied here before any is overwritten.
    aside: Vec<(usize, Aligned)>,
}

// SAFETY: the pointers lead into `arena` and `given`, which move along, and into the stored tensors of one call of `run`.
unsafe impl Send for Prepared {}

/// Evaluates a size, with the entry and what it is for in the error.
fn eval(size: &Size, dims: &Dims, what: &dyn Fn() -> String) -> Result<i64> {
    match size.eval(dims) {
        Ok(n) if n >= 0 => Ok(n),
        Ok(n) => wrong!("{} would have the size {n} ({size})", what()),
        Err(e) => wrong!("{}: {e}", what()),
    }
}

/// Checks that given dims exist and keep their bounds.
///
/// # Errors
/// One sentence that names the dim.
pub fn check_dims(manifest: &Manifest, dims: &Dims) -> Result<()> {
    for (name, &value) in dims {
        let Some(decl) = manifest.dims.iter().find(|d| d.name == *name) else {
            let known: Vec<&str> = manifest.dims.iter().map(|d| &*d.name).collect();
            return wrong!("the program has no free dim {name}; it has {}", if known.is_empty() { "none".into() } else { known.join(", ") });
        };
        if value < decl.min {
            return wrong!("dim {name} is {value}, but the program needs at least {}", decl.min);
        }
        if let Some(max) = decl.max.filter(|&max| value > max) {
            return wrong!("dim {name} is {value}, but the program allows at most {max}");
        }
    }
    Ok(())
}

impl Prepared {
    /// Resolves `entry` of `manifest` at `dims`, for as many threads as `pool` has, over the tensors of `store`.
    ///
    /// # Errors
    /// A dim without a value or out of bounds; sizes that overflow; no memory; a plan that refers to what does not exist.
    pub fn new(manifest: &Manifest, entry: &Entry, dims: &Dims, threads: usize, store: &Tensors) -> Result<Prepared> {
        check_dims(manifest, dims)?;
        let plan = &entry.plan;
        let mut shapes = Vec::with_capacity(plan.buffers.len());
        let mut bytes = Vec::with_capacity(plan.buffers.len());
        for buffer in &plan.buffers {
            let what = || format!("{} in {}", buffer.name, entry.name);
            let shape = buffer.shape.iter().map(|s| eval(s, dims, &what)).collect::<Result<Vec<i64>>>()?;
            bytes.push(
                elements(&shape)?.checked_mul(buffer.dtype.bytes()).ok_or_else(|| RunError::World(format!("{} does not fit in memory", what())))?,
            );
            shapes.push(shape);
        }
        let placed = crate::place::plan(plan, &bytes).ok_or_else(|| RunError::World(format!("{} does not fit in memory", entry.name)))?;
        let (offsets, arena_bytes) = placed;
        let mut at: Vec<Option<At>> = offsets.into_iter().map(|o| o.map(At::Arena)).collect();
        let (mut inputs, mut given) = (vec![], 0usize);
        for (source, id) in &entry.inputs {
            let i = *id as usize;
            let (Some(buffer), true) = (plan.buffers.get(i), at.get(i).is_some_and(|a| a.is_none())) else { return broken(entry) };
            if let Source::Tensor(path) = source {
                let Some(k) = store.find(path) else { return wrong!("{} needs the tensor {path}, which the program does not store", entry.name) };
                if store.decl(k).dtype != buffer.dtype || store.decl(k).shape != shapes[i] {
                    return broken(entry);
                }
                at[i] = Some(At::Stored(k));
            } else {
                at[i] = Some(At::Given(given));
                inputs.push(Port { end: source.clone(), dtype: buffer.dtype, shape: shapes[i].clone(), at: At::Given(given), bytes: bytes[i] });
                given = align(given + bytes[i]);
            }
        }
        for i in 0..at.len() {
            at[i] = at[root(entry, i)?];
        }
        let (arena, given) = (Aligned::zeroed(arena_bytes)?, Aligned::zeroed(given)?);
        for (i, buffer) in plan.buffers.iter().enumerate() {
            if let (Storage::Constant(values), Some(At::Arena(start))) = (&buffer.storage, at[i]) {
                // SAFETY: `place` has kept `bytes[i]` bytes at `start` for this buffer.
                let to = unsafe { std::slice::from_raw_parts_mut(arena.as_ptr().add(start), bytes[i]) };
                if !write_scalars(to, buffer.dtype, values) {
                    return broken(entry);
                }
            }
        }
        let scratch_each = scratch(manifest, entry);
        let Some(scratch_bytes) = scratch_each.checked_mul(threads.max(1)) else { return broken(entry) };
        let mut made = Prepared {
            name: entry.name.clone(),
            ops: vec![],
            args: vec![],
            bound: vec![],
            sizes: vec![],
            lines: plan.lines.clone(),
            inputs,
            results: vec![],
            arena,
            given,
            scratch: Aligned::zeroed(scratch_bytes)?,
            scratch_each,
            aside: vec![],
        };
        let resolve = Resolve { manifest, entry, dims, at: &at, bytes: &bytes, threads };
        for (k, step) in plan.steps.iter().enumerate() {
            resolve.step(&mut made, k, step)?;
        }
        for (sink, id) in &entry.results {
            let i = *id as usize;
            let Some(Some(at)) = at.get(i) else { return broken(entry) };
            if let Sink::Tensor(path) = sink {
                let Some(k) = store.find(path) else { return wrong!("{} writes the tensor {path}, which the program does not store", entry.name) };
                if store.decl(k).dtype != plan.buffers[i].dtype || store.decl(k).shape != shapes[i] {
                    return broken(entry);
                }
                if matches!(at, At::Stored(other) if *other != k) {
                    made.aside.push((made.results.len(), Aligned::zeroed(bytes[i])?));
                }
            }
            made.results.push(Port { end: sink.clone(), dtype: plan.buffers[i].dtype, shape: shapes[i].clone(), at: *at, bytes: bytes[i] });
        }
        Ok(made)
    }

    /// The inputs that the caller fills, in order: everything but stored tensors.
    pub fn inputs(&self) -> &[Port<Source>] {
        &self.inputs
    }

    /// The memory of input number `i` of [`Prepared::inputs`].
    pub fn input_mut(&mut self, i: usize) -> &mut [u8] {
        let At::Given(start) = self.inputs[i].at else { unreachable!("inputs are given") };
        let bytes = self.inputs[i].bytes;
        &mut self.given[start..start + bytes]
    }

    /// Results in order.
    pub fn results(&self) -> &[Port<Sink>] {
        &self.results
    }

    /// The elements of result number `i`; of a stored tensor, look into the store instead.
    pub fn result<'a>(&'a self, i: usize, store: &'a Tensors) -> &'a [u8] {
        let port = &self.results[i];
        match port.at {
            At::Arena(start) => &self.arena[start..start + port.bytes],
            At::Given(start) => &self.given[start..start + port.bytes],
            At::Stored(k) => store.bytes(k),
        }
    }

    /// Bytes of the arena.
    pub fn arena_bytes(&self) -> usize {
        self.arena.len()
    }

    /// Runs the table once and stores its tensors' new values; on an error no stored tensor has changed, unless the plan updates it in place.
    ///
    /// # Errors
    /// A checked access out of bounds or a failed check, with the source line.
    pub fn run(&mut self, kernels: &dyn Kernels, pool: &mut Pool, store: &mut Tensors) -> Result<()> {
        for &(slot, tensor) in &self.bound {
            self.args[slot] = store.address(tensor);
        }
        self.steps(0..self.ops.len(), kernels, pool)?;
        for i in 0..self.aside.len() {
            let (k, _) = self.aside[i];
            let from = match self.results[k].at {
                At::Stored(t) => store.address(t),
                At::Arena(_) | At::Given(_) => continue,
            };
            // SAFETY: both are of the result's size and apart: one is a stored tensor, the other owned by `self`.
            unsafe { std::ptr::copy_nonoverlapping(from, self.aside[i].1.as_ptr(), self.results[k].bytes) };
        }
        for (i, port) in self.results.iter().enumerate() {
            let Sink::Tensor(path) = &port.end else { continue };
            let Some(k) = store.find(path) else { continue };
            match (port.at, self.aside.iter().find(|(r, _)| *r == i)) {
                (_, Some((_, copy))) => store.bytes_mut(k).copy_from_slice(copy),
                (At::Arena(start), None) => store.bytes_mut(k).copy_from_slice(&self.arena[start..start + port.bytes]),
                (At::Given(start), None) => store.bytes_mut(k).copy_from_slice(&self.given[start..start + port.bytes]),
                (At::Stored(_), None) => {}
            }
        }
        Ok(())
    }

    /// Runs steps `range`; recurses into loops.
    fn steps(&self, range: Range<usize>, kernels: &dyn Kernels, pool: &mut Pool) -> Result<()> {
        let mut k = range.start;
        while k < range.end {
            match &self.ops[k] {
                Op::Launch { kernel, args, sizes, tasks, parts, line } => {
                    let (args, sizes) = (Args(&self.args[args.clone()]), &self.sizes[sizes.clone()]);
                    let scratch = Scratch { start: self.scratch.as_ptr(), each: self.scratch_each };
                    // SAFETY: the plan's buffers have the sizes of the kernel's parameters (checked by the compiler), all of them lie in memory that lives now.
                    // There are at most as many parts as threads, and each has scratch of its own.
                    let code = pool.run(*tasks, *parts, &|part, lo, hi| unsafe { kernels.run(*kernel, args.get(), sizes, lo, hi, scratch.of(part)) });
                    if code != 0 {
                        return wrong!("an index is out of bounds at {}", self.line(*line));
                    }
                }
                Op::Loop { count, body, index, reversed } => {
                    for i in 0..*count {
                        // SAFETY: `index` is an i64 buffer inside the arena, aligned.
                        unsafe { **index = if *reversed { count - 1 - i } else { i } };
                        self.steps(k + 1..k + 1 + body, kernels, pool)?;
                    }
                    k += body;
                }
                // SAFETY: both buffers have `bytes` bytes; `copy` allows overlap.
                Op::Copy { at, bytes } => unsafe { std::ptr::copy(self.args[*at], self.args[*at + 1], *bytes) },
                Op::Check { at, count, message, line } => {
                    // SAFETY: a bool buffer of `count` bytes.
                    let held = unsafe { std::slice::from_raw_parts(self.args[*at], *count) };
                    if held.contains(&0) {
                        return wrong!("{message}: {}", self.line(*line));
                    }
                }
            }
            k += 1;
        }
        Ok(())
    }

    fn line(&self, line: u32) -> &str {
        self.lines.get(line as usize).map_or(&*self.name, |l| l)
    }
}

/// Argument pointers that may cross threads.
#[derive(Clone, Copy)]
struct Args<'a>(&'a [*mut u8]);

// SAFETY: kernels write disjoint elements for disjoint tasks.
unsafe impl Sync for Args<'_> {}

impl<'a> Args<'a> {
    fn get(&self) -> &'a [*mut u8] {
        self.0
    }
}

/// `each` bytes a thread.
#[derive(Clone, Copy)]
struct Scratch {
    start: *mut u8,
    each: usize,
}

// SAFETY: every part of a launch uses bytes of its own.
unsafe impl Sync for Scratch {}

impl Scratch {
    fn of(&self, part: usize) -> *mut u8 {
        self.start.wrapping_add(part * self.each)
    }
}

/// Bytes of scratch that a thread needs for the entry's kernels.
fn scratch(manifest: &Manifest, entry: &Entry) -> usize {
    let kernels = entry.plan.steps.iter().filter_map(|s| match s {
        Step::Launch(launch) => manifest.kernels.get(launch.kernel as usize),
        Step::Loop { .. } | Step::Copy { .. } | Step::Check { .. } => None,
    });
    align(kernels.map(|k| k.scratch as usize).max().unwrap_or(0))
}

/// What resolving a step looks at.
struct Resolve<'a> {
    manifest: &'a Manifest,
    entry: &'a Entry,
    dims: &'a Dims,
    at: &'a [Option<At>],
    bytes: &'a [usize],
    threads: usize,
}

impl Resolve<'_> {
    /// Appends the buffer to the arguments and returns its position there.
    fn arg(&self, made: &mut Prepared, id: BufferId) -> Result<usize> {
        let slot = made.args.len();
        match self.at.get(id as usize).copied().flatten() {
            // SAFETY: offsets lie inside the allocation, by `place` and by the sum of the inputs.
            Some(At::Arena(start)) => made.args.push(unsafe { made.arena.as_ptr().add(start) }),
            // SAFETY: as above.
            Some(At::Given(start)) => made.args.push(unsafe { made.given.as_ptr().add(start) }),
            Some(At::Stored(tensor)) => {
                made.args.push(std::ptr::null_mut());
                made.bound.push((slot, tensor));
            }
            None => return broken(self.entry),
        }
        Ok(slot)
    }

    fn step(&self, made: &mut Prepared, k: usize, step: &Step) -> Result<()> {
        let what = || format!("step {k} of {}", self.entry.name);
        let op = match step {
            Step::Launch(launch) => {
                if launch.kernel as usize >= self.manifest.kernels.len() {
                    return broken(self.entry);
                }
                let (args, sizes) = (made.args.len(), made.sizes.len());
                for id in &launch.args {
                    self.arg(made, *id)?;
                }
                for size in &launch.sizes {
                    made.sizes.push(size.eval(self.dims).map_err(|e| refuse!("{}: {e}", what()))?);
                }
                let tasks = eval(&launch.tasks, self.dims, &what)?;
                let cost = launch.cost.eval(self.dims).unwrap_or(i64::MAX).max(1).saturating_mul(tasks);
                let parts = if cost < SERIAL { 1 } else { (cost / GRAIN).min(self.threads as i64) as usize };
                let (args, sizes) = (args..made.args.len(), sizes..made.sizes.len());
                Op::Launch { kernel: launch.kernel, args, sizes, tasks, parts, line: launch.line }
            }
            Step::Loop { count, body, index, reversed } => {
                let slot = self.arg(made, *index)?;
                let (buffer, index) = (&self.entry.plan.buffers[*index as usize], made.args[slot]);
                let inside = k + 1 + *body as usize <= self.entry.plan.steps.len();
                if buffer.dtype != DType::I64 || self.bytes[index_of(step)] < 8 || index.is_null() || !inside {
                    return broken(self.entry);
                }
                Op::Loop { count: eval(count, self.dims, &what)?, body: *body as usize, index: index.cast(), reversed: *reversed }
            }
            Step::Copy { from, to } => {
                let at = self.arg(made, *from)?;
                self.arg(made, *to)?;
                let (from, to) = (self.bytes[*from as usize], self.bytes[*to as usize]);
                if from != to {
                    return broken(self.entry);
                }
                Op::Copy { at, bytes: from }
            }
            Step::Check { condition, message, line } => {
                let at = self.arg(made, *condition)?;
                Op::Check { at, count: self.bytes[*condition as usize], message: message.clone(), line: *line }
            }
        };
        made.ops.push(op);
        Ok(())
    }
}

/// The index buffer of a loop.
fn index_of(step: &Step) -> usize {
    match step {
        Step::Loop { index, .. } => *index as usize,
        Step::Launch(_) | Step::Copy { .. } | Step::Check { .. } => unreachable!("only loops have an index: {step:?}"),
    }
}

/// The buffer that `i` is, once all aliases are followed.
fn root(entry: &Entry, i: usize) -> Result<usize> {
    let buffers = &entry.plan.buffers;
    let mut at = i;
    for _ in 0..=buffers.len() {
        match buffers.get(at).map(|b| &b.storage) {
            Some(Storage::Alias(of)) => at = *of as usize,
            Some(Storage::Arena | Storage::Input | Storage::Result | Storage::Constant(_)) => return Ok(at),
            None => break,
        }
    }
    broken(entry)
}

/// The error for plans that contradict themselves: a damaged artifact.
fn broken<T>(entry: &Entry) -> Result<T> {
    wrong!("the plan of {} contradicts itself: the artifact is damaged", entry.name)
}

/// The next multiple of [`ALIGN`].
fn align(n: usize) -> usize {
    n.div_ceil(ALIGN) * ALIGN
}

/// Writes `values` as elements of `dtype`; false if they do not fit `to` exactly.
pub(crate) fn write_scalars(to: &mut [u8], dtype: DType, values: &[Scalar]) -> bool {
    let width = dtype.bytes();
    if to.len() != values.len() * width || values.iter().any(|v| v.dtype() != dtype) {
        return false;
    }
    for (to, value) in to.chunks_exact_mut(width).zip(values) {
        to.copy_from_slice(&value.bits().to_le_bytes()[..width]);
    }
    true
}

#[cfg(test)]
#[path = "exec_tests.rs"]
mod tests;
