//! Executes an entry's launch table.
//!
//! In: an [`Entry`], concrete dims, kernels, stored tensors. [`Prepared::new`] resolves every size and address once; [`Prepared::run`] then walks flat
//! arrays (`launch`) and allocates nothing, once the first [`WARM`] runs have shown what each step takes. No result depends on the number of
//! threads or on times: tasks of a launch are independent, and steps that depend on each other run one after the other.

use crate::chains;
use crate::cuda::{Gpu, Recorded};
use crate::dtype::{DType, Scalar};
use crate::error::{Result, RunError, refuse, wrong};
use crate::launch::{Op, Table};
use crate::manifest::{Entry, Manifest, Sink, Source, Step, Storage};
use crate::memory::{ALIGN, Aligned, Scratch};
use crate::meter::Meter;
use crate::observe::Observer;
use crate::phases::{self, Loop, Work};
use crate::pool::Pool;
use crate::resolve::{Resolve, scratch};
use crate::size::{Dims, Size};
use crate::tensors::{Places, Store, Tensors, elements};
use std::sync::Arc;
use std::time::Instant;

/// The compiled (or interpreted) kernels of a program.
pub trait Kernels: Sync {
    /// Runs tasks `lo..hi` of kernel number `kernel`: 0, or the number (from 1) of a checked access that was out of bounds in the first task that failed.
    ///
    /// # Safety
    /// `args` point at buffers of the sizes that the kernel's parameters have at `sizes`, `scratch` at as many bytes as the kernel asks for
    /// ([`crate::manifest::Kernel::scratch`]), which nobody else uses meanwhile.
    unsafe fn run(&self, kernel: u32, args: &[*mut u8], sizes: &[i64], lo: i64, hi: i64, scratch: *mut u8) -> i64;

    /// The GPU whose kernels they are: it runs whole tables, and [`Kernels::run`] is never called.
    fn gpu(&self) -> Option<&Gpu> {
        None
    }
}

/// So many runs are timed step by step where there are threads to share the work; the fastest time of each step is taken for what it costs.
pub const WARM: u32 = 4;

/// An input or result whose memory the entry owns.
#[derive(Clone, Debug)]
pub struct Port<T> {
    /// Where it comes from or goes to.
    pub end: T,
    /// Of the elements.
    pub dtype: DType,
    /// At the dims it was prepared for.
    pub shape: Vec<i64>,
    pub(crate) at: At,
    pub(crate) bytes: usize,
}

/// Where a buffer lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum At {
    /// Bytes from the arena's start.
    Arena(usize),
    /// Bytes from the start of the inputs that the caller fills.
    Given(usize),
    /// The same, of what is the first thread's own: one part of a chain's.
    Own(usize),
    /// A stored tensor.
    Stored(usize),
}

/// An entry at given dims, ready to run many times.
pub struct Prepared {
    pub(crate) name: Arc<str>,
    pub(crate) table: Table,
    /// What it was prepared for.
    pub(crate) dims: Dims,
    /// For every line of the table, what it costs and touches; nothing for the marks of loops and checks.
    pub(crate) works: Vec<Option<Work>>,
    /// Its loops without loops inside.
    loops: Vec<Loop>,
    /// For every line of the table, its floating-point operations.
    pub(crate) flops: Vec<f64>,
    /// Arguments in stored tensors: position in the table's arguments, tensor, byte.
    bound: Vec<(usize, usize, usize)>,
    lines: Vec<String>,
    inputs: Vec<Port<Source>>,
    pub(crate) results: Vec<Port<Sink>>,
    /// Results that are new values of stored tensors, and not in their place already: result, tensor.
    pub(crate) stored: Vec<(usize, usize)>,
    pub(crate) arena: Aligned,
    /// Bytes that each buffer of the plan takes of it, where it has memory of its own there.
    pub sizes: Vec<usize>,
    /// Where in it literal data lies.
    pub(crate) constants: Vec<std::ops::Range<usize>>,
    pub(crate) given: Aligned,
    threads: usize,
    /// How many of the first lines need not run while the stored tensors are as they were at the last run, and those tensors' version.
    pub(crate) advance: usize,
    pub(crate) advanced: Option<u64>,
    /// Whether running changes stored tensors.
    pub(crate) changes: bool,
    /// Runs so far, as far as it matters.
    warm: u32,
    pub(crate) meter: Option<Meter>,
    pub(crate) observer: Option<Observer>,
    /// What there is of it on a GPU.
    pub(crate) recorded: Option<Recorded>,
}

// SAFETY: the pointers lead into `arena` and `given`, which move along, and into the stored tensors of one call of `run`.
unsafe impl Send for Prepared {}

/// Evaluates a size, with the entry and what it is for in the error.
pub(crate) fn eval(size: &Size, dims: &Dims, what: &dyn Fn() -> String) -> Result<i64> {
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
            return wrong!("the program has no free dim {name}{}", crate::words::hint(name, &known));
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
    pub fn new(manifest: &Manifest, entry: &Entry, dims: &Dims, threads: usize, store: &Places) -> Result<Prepared> {
        Prepared::made(manifest, entry, dims, threads, store, false)
    }

    /// The same to be stepped through: all that a launch writes is there until somebody has looked at it.
    ///
    /// # Errors
    /// As [`Prepared::new`].
    pub fn whole(manifest: &Manifest, entry: &Entry, dims: &Dims, threads: usize, store: &Places) -> Result<Prepared> {
        Prepared::made(manifest, entry, dims, threads, store, true)
    }

    fn made(manifest: &Manifest, entry: &Entry, dims: &Dims, threads: usize, store: &Places, whole: bool) -> Result<Prepared> {
        check_dims(manifest, dims)?;
        let plan = &entry.plan;
        let first = plan.steps.get(..plan.advance as usize);
        if first.is_none_or(|first| first.iter().any(|step| !matches!(step, Step::Launch(_)))) {
            return broken(entry);
        }
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
        // On a GPU all parts run at once.
        let placed = chains::place(entry, dims, &bytes, if whole || !manifest.grids.is_empty() { 0 } else { threads.max(1) })?;
        let mut at = placed.at;
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
                let end = given.checked_add(bytes[i]).and_then(align);
                given = end.ok_or_else(|| RunError::World(format!("the inputs of {} do not fit in memory", entry.name)))?;
            }
        }
        for i in 0..at.len() {
            at[i] = at[root(entry, i)?];
        }
        let (arena, given) = (Aligned::zeroed(placed.bytes)?, Aligned::zeroed(given)?);
        let mut constants = vec![];
        for (i, buffer) in plan.buffers.iter().enumerate() {
            if let (Storage::Constant(values), Some(At::Arena(start))) = (&buffer.storage, at[i]) {
                // SAFETY: `place` has kept `bytes[i]` bytes at `start` for this buffer.
                let to = unsafe { std::slice::from_raw_parts_mut(arena.as_ptr().add(start), bytes[i]) };
                if !write_scalars(to, buffer.dtype, values) {
                    return broken(entry);
                }
                constants.push(start..start + bytes[i]);
            }
        }
        let each = scratch(manifest, entry).filter(|each| each.checked_mul(threads.max(1)).is_some());
        let Some(scratch) = each else { return broken(entry) };
        let mut table = Table { scratch, ..Table::default() };
        let mut resolve = Resolve {
            manifest,
            entry,
            dims,
            at: &at,
            bytes: &bytes,
            arena: &arena,
            given: &given,
            table: &mut table,
            bound: vec![],
            works: vec![],
            flops: vec![],
            inner: vec![],
            loops: vec![],
            chains: &placed.chains,
            chain_of: &placed.chain_of,
        };
        resolve.all()?;
        let (bound, works, flops, loops) = (resolve.bound, resolve.works, resolve.flops, resolve.inner);
        let (mut results, mut stored) = (vec![], vec![]);
        for (sink, id) in &entry.results {
            let i = *id as usize;
            let Some(Some(at)) = at.get(i).copied() else { return broken(entry) };
            if let Sink::Tensor(path) = sink {
                let Some(k) = store.find(path) else { return wrong!("{} writes the tensor {path}, which the program does not store", entry.name) };
                if store.decl(k).dtype != plan.buffers[i].dtype || store.decl(k).shape != shapes[i] || matches!(at, At::Stored(other) if other != k) {
                    return broken(entry);
                }
                if at != At::Stored(k) {
                    stored.push((results.len(), k));
                }
            }
            results.push(Port { end: sink.clone(), dtype: plan.buffers[i].dtype, shape: shapes[i].clone(), at, bytes: bytes[i] });
        }
        table.open(phases::cut(&works, &loops, &table.chains, plan.advance as usize, threads), threads);
        let (name, lines) = (entry.name.clone(), plan.lines.clone());
        Ok(Prepared {
            name,
            table,
            dims: dims.clone(),
            works,
            loops,
            bound,
            lines,
            inputs,
            results,
            stored,
            arena,
            sizes: placed.sizes,
            constants,
            given,
            threads: threads.max(1),
            advance: plan.advance as usize,
            advanced: None,
            changes: entry.results.iter().any(|(sink, _)| matches!(sink, Sink::Tensor(_))),
            warm: 0,
            meter: None,
            flops,
            observer: None,
            recorded: None,
        })
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
        match (self.own(i), self.results[i].at) {
            (None, At::Stored(k)) => store.bytes(k),
            (own, _) => own.unwrap_or_default(),
        }
    }

    /// The elements of a result that is no stored tensor.
    pub(crate) fn own(&self, i: usize) -> Option<&[u8]> {
        let port = &self.results[i];
        match port.at {
            At::Arena(start) => Some(&self.arena[start..start + port.bytes]),
            At::Given(start) => Some(&self.given[start..start + port.bytes]),
            At::Own(_) | At::Stored(_) => None,
        }
    }

    /// How many threads it is prepared for.
    pub(crate) fn threads(&self) -> usize {
        self.threads
    }

    /// Bytes of the arena.
    pub fn arena_bytes(&self) -> usize {
        self.arena.len()
    }

    /// Bytes that the threads need beside the arena while it runs; entries that run in one pool share them.
    pub fn scratch_bytes(&self) -> usize {
        self.table.scratch * self.threads
    }

    /// Bytes of the inputs that the caller fills.
    pub fn input_bytes(&self) -> usize {
        self.given.len()
    }

    /// [`Prepared::run`] where the kernels are for: here, or on their GPU.
    ///
    /// # Errors
    /// As there; a GPU that fails.
    pub(crate) fn run_in(&mut self, kernels: &dyn Kernels, pool: &mut Pool, store: &mut Store) -> Result<()> {
        match kernels.gpu() {
            Some(gpu) => self.run_on(gpu, store),
            None => self.run(kernels, pool, store.here()?),
        }
    }

    /// Runs the table once and stores its tensors' new values; on an error no stored tensor has changed, unless the plan updates it in place.
    ///
    /// # Errors
    /// A checked access out of bounds or a failed check, with the source line; no memory for the threads.
    ///
    /// # Panics
    /// If the pool has more threads than this was prepared for.
    pub fn run(&mut self, kernels: &dyn Kernels, pool: &mut Pool, store: &mut Tensors) -> Result<()> {
        assert!(pool.threads() <= self.threads, "prepared for {} threads, run on {}", self.threads, pool.threads());
        self.bind(store, store.memory().0);
        let learns = self.warm < WARM && self.threads > 1;
        if learns && self.meter.is_none() {
            self.meter = Some(Meter::new(self.table.ops.len(), self.threads, 0));
        }
        let timed = learns || self.observer.as_ref().is_none_or(|o| o.runs.times());
        let began = self.observer.as_ref().filter(|_| timed).map(|_| Instant::now());
        let scratch = pool.scratch(self.table.scratch)?;
        // SAFETY: the plan's buffers have the sizes of the kernels' parameters (made so by the compiler), all of them lie in memory that lives now;
        // `phases::cut` keeps apart what touches the same memory; the number of threads was looked at.
        let from = if self.advanced == Some(store.version()) { self.advance } else { 0 };
        let ended = unsafe { self.table.run(from, kernels, pool, scratch, self.meter.as_ref().filter(|_| timed)) };
        self.advanced = None;
        if self.changes {
            store.touch();
        }
        if let (Some(observer), Some(meter)) = (&mut self.observer, &mut self.meter) {
            observer.runs.ran(began.map(|began| began.elapsed()), meter);
        }
        if let Err(line) = ended {
            return wrong!("{}", self.failure(line));
        }
        self.advanced = Some(store.version());
        for &(result, tensor) in &self.stored {
            let Port { at, bytes, .. } = self.results[result];
            let from = match at {
                At::Arena(start) => &self.arena[start..start + bytes],
                At::Given(start) => &self.given[start..start + bytes],
                At::Own(_) | At::Stored(_) => continue,
            };
            store.bytes_mut(tensor).copy_from_slice(from);
        }
        if learns {
            self.warm += 1;
            self.learn();
        }
        Ok(())
    }

    /// Sets the addresses of stored tensors, which begin at `start`.
    pub(crate) fn bind(&mut self, store: &Places, start: *mut u8) {
        for &(slot, tensor, byte) in &self.bound {
            // Within the memory, or at its end where the tensor is empty.
            self.table.args.set(slot, start.wrapping_add(store.start(tensor) + byte));
        }
    }

    /// Runs the table once, line by line on this thread, in memory that is zero at first, until `see` is not content: it is shown every line before and
    /// after (`true`) it is run. Stored tensors change where the plan updates them in place.
    pub(crate) fn step_through(
        &mut self,
        kernels: &dyn Kernels,
        store: &mut Tensors,
        see: &mut dyn FnMut(&Table, usize, bool) -> bool,
    ) -> Result<()> {
        self.bind(store, store.memory().0);
        self.advanced = None;
        store.touch();
        self.blank();
        let scratch = Scratch::new(self.table.scratch)?;
        // SAFETY: as in `run`.
        let ended = unsafe { self.table.step_through(kernels, scratch.as_ptr(), see) };
        ended.map_err(|line| refuse!("{}", self.failure(line)))
    }

    /// Zeroes the arena but for its constants.
    pub(crate) fn blank(&mut self) {
        self.constants.sort_by_key(|c| c.start);
        let mut from = 0;
        for constant in self.constants.iter().cloned().chain(std::iter::once(self.arena.len()..self.arena.len())) {
            self.arena[from.min(constant.start)..constant.start].fill(0);
            from = constant.end;
        }
    }

    /// Takes the measured times for costs, the first time and where they are lower than before, and cuts the phases anew once they are known.
    fn learn(&mut self) {
        let Some(meter) = &mut self.meter else { return };
        let lines = meter.lines();
        if let Some(observer) = &mut self.observer {
            observer.runs.keep(&lines);
        }
        for (work, (nanoseconds, launches)) in self.works.iter_mut().zip(lines) {
            if let (Some(work), true) = (work, launches > 0) {
                let each = (nanoseconds / launches as f64).max(1.0);
                work.nanoseconds = if self.warm == 1 { each } else { each.min(work.nanoseconds) };
            }
        }
        meter.clear();
        if self.warm == WARM {
            self.meter = self.meter.take().filter(|_| self.observer.is_some());
            self.cut();
        }
    }

    fn cut(&mut self) {
        self.table.open(phases::cut(&self.works, &self.loops, &self.table.chains, self.advance, self.threads), self.threads);
    }

    /// What one run does.
    pub fn figures(&self) -> Figures {
        let mut figures = Figures { launches: 0.0, flops: 0.0, bytes: 0.0, phases: 0.0, wakes: !self.table.phases.is_empty() as u64 };
        // Rounds of the loops around the line.
        let (mut times, mut around) = (1.0, vec![]);
        for (at, op) in self.table.ops.iter().enumerate() {
            figures.phases += if self.table.phases.iter().any(|p| p.first == at) { times } else { 0.0 };
            match op {
                Op::Loop { count, .. } => {
                    around.push(times);
                    times *= *count as f64;
                }
                Op::Again { .. } => times = around.pop().unwrap_or(1.0),
                Op::Launch { .. } => figures.launches += times,
                Op::Copy { .. } | Op::Check { .. } => {}
            }
            figures.flops += times * self.flops[at];
            figures.bytes += times * self.bytes(at);
        }
        figures
    }

    /// What one run does, by source line, the most work first; copies and loops are the line without a name.
    pub fn by_line(&self) -> Vec<Lines> {
        let mut lines: Vec<Lines> = vec![];
        let (mut times, mut around) = (1.0, vec![]);
        for (at, op) in self.table.ops.iter().enumerate() {
            let name = match op {
                Op::Loop { count, .. } => {
                    around.push(times);
                    times *= *count as f64;
                    continue;
                }
                Op::Again { .. } => {
                    times = around.pop().unwrap_or(1.0);
                    continue;
                }
                Op::Launch { line, .. } | Op::Check { line, .. } => self.line(*line),
                Op::Copy { .. } => "",
            };
            let launches = if matches!(op, Op::Launch { .. }) { times } else { 0.0 };
            let own = Lines { line: name.to_string(), launches, flops: times * self.flops[at], bytes: times * self.bytes(at) };
            match lines.iter_mut().find(|l| l.line == name) {
                Some(l) => (l.launches, l.flops, l.bytes) = (l.launches + own.launches, l.flops + own.flops, l.bytes + own.bytes),
                None => lines.push(own),
            }
        }
        lines.sort_by(|a, b| b.flops.total_cmp(&a.flops).then(b.bytes.total_cmp(&a.bytes)));
        lines
    }

    /// Bytes of all that a line touches.
    pub(crate) fn bytes(&self, line: usize) -> f64 {
        self.works[line].iter().flat_map(|w| &w.touches).map(|t| t.bytes as f64).sum()
    }

    /// Cuts the work as if steps took these times, and measures no more. No result depends on it.
    pub fn reschedule(&mut self, nanoseconds: &mut dyn FnMut() -> f64) {
        self.works.iter_mut().flatten().for_each(|work| work.nanoseconds = nanoseconds().max(1.0));
        (self.warm, self.meter) = (WARM, None);
        self.cut();
    }

    /// Why the run ended at this line of the table.
    pub(crate) fn failure(&self, line: usize) -> String {
        match &self.table.ops[line] {
            Op::Check { message, line, .. } => format!("{message}: {}", self.line(*line)),
            Op::Launch { line, .. } => format!("an index is out of bounds at {}", self.line(*line)),
            Op::Copy { .. } | Op::Loop { .. } | Op::Again { .. } => unreachable!("copies and loops do not fail"),
        }
    }

    pub(crate) fn line(&self, line: u32) -> &str {
        self.lines.get(line as usize).map_or(&*self.name, |l| l)
    }
}

/// What one run does at a line of the source; the fields are those of [`Figures`].
#[derive(Clone, Debug, PartialEq)]
pub struct Lines {
    /// The line.
    pub line: String,
    /// Launches.
    pub launches: f64,
    /// Floating-point operations.
    pub flops: f64,
    /// Bytes touched.
    pub bytes: f64,
}

/// What one run does, loops included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Launches.
    pub launches: f64,
    /// Floating-point operations.
    pub flops: f64,
    /// Bytes of the buffers that launches and copies touch.
    pub bytes: f64,
    /// Phases that are opened to other threads.
    pub phases: f64,
    /// How often the pool's threads are called: once for all phases, if there are any.
    pub wakes: u64,
}

/// The buffer that `i` is, once all aliases are followed.
pub(crate) fn root(entry: &Entry, i: usize) -> Result<usize> {
    let buffers = &entry.plan.buffers;
    let mut at = i;
    for _ in 0..=buffers.len() {
        match buffers.get(at).map(|b| b.storage.of()) {
            Some(Some(of)) => at = of as usize,
            Some(None) => return Ok(at),
            None => break,
        }
    }
    broken(entry)
}

/// The error for plans that contradict themselves: a damaged artifact.
pub(crate) fn broken<T>(entry: &Entry) -> Result<T> {
    damaged(&entry.name)
}

/// As [`broken`], for the entry of this name.
pub(crate) fn damaged<T>(name: &str) -> Result<T> {
    wrong!("the plan of {name} contradicts itself: the artifact is damaged")
}

/// The next multiple of [`ALIGN`].
pub(crate) fn align(n: usize) -> Option<usize> {
    n.checked_next_multiple_of(ALIGN)
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
