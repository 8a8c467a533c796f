//! An entry on a GPU: its buffers there, and its launch table as one graph.
//!
//! In: a prepared entry, whose table is unrolled (loops are the host's, and their rounds are known) with the addresses on the host, each of which has its
//! place on the GPU. Out: the same results in the same places, or the first line that failed in the order of the table. A graph is recorded again only for
//! other copies of the stored tensors. Checks stop nothing on the GPU: what they found is looked at afterwards, and no kernel leaves its buffers.

use super::Gpu;
use super::context::{Context, Graph, Host, Marks, Memory};
use super::driver::{Address, Handle};
use crate::error::{Result, refuse, wrong};
use crate::exec::{At, Prepared, damaged};
use crate::launch::{Op, Table};
use crate::manifest::{Grid, Sink};
use crate::meter::ticks;
use crate::size::Dims;
use crate::tensors::Store;
use std::sync::Arc;
use std::time::Instant;

/// Parts of an allocation begin at multiples of this many bytes.
const ALIGN: usize = 256;

/// What there is of an entry on a GPU.
pub(crate) struct Recorded {
    pub(super) context: Arc<Context>,
    /// The arena, the inputs that the caller fills, and the numbers from 0 on, which are the positions of loops.
    pub(super) memory: Memory,
    pub(super) given: Address,
    pub(super) positions: Address,
    /// Where the stored tensors are: what the graphs were recorded for.
    store: Address,
    /// The whole table, and the part that depends on inputs.
    runs: [Option<Run>; 2],
}

/// A recorded run.
struct Run {
    work: Work,
    /// What comes back from the GPU: results, words of launches, checks' conditions.
    report: Host,
    there: Memory,
    /// Result, where in the report.
    results: Vec<(usize, usize)>,
    events: Vec<Event>,
    _bounce: Memory,
}

/// What a run asks for.
enum Work {
    /// All at once.
    Whole(Graph),
    /// One thing after the other, each with its time.
    Timed(Vec<Item>, Marks),
}

/// Something that can fail, in the order in which things happen: its line, where in the report, and how many conditions, or the word of a launch.
struct Event {
    line: usize,
    at: usize,
    conditions: Option<usize>,
}

/// An action of a line of the table; several of one line follow each other, and the first is marked.
pub(super) struct Item {
    pub line: usize,
    first: bool,
    action: Action,
}

/// Something that the GPU is to do.
enum Action {
    /// The last parameter, the place of its word for failures, is first a number.
    Launch {
        function: Handle,
        threads: u32,
        blocks: u32,
        params: Vec<u64>,
    },
    /// To or from [`BOUNCE`], where there is a detour.
    Copy {
        to: Address,
        from: Address,
        bytes: usize,
    },
    /// To this byte of the conditions.
    Check {
        to: usize,
        from: Address,
        bytes: usize,
    },
    Clear {
        at: Address,
        bytes: usize,
    },
}

/// A place for what is copied by a detour, before it is known.
const BOUNCE: Address = 0;
/// The line of what belongs to no line.
const NO_LINE: usize = usize::MAX;

impl Item {
    /// Sets the places that were not known yet: of each word, of the conditions, of the detour.
    pub(super) fn settle(&mut self, word: &dyn Fn(u64) -> Address, conditions: Address, bounce: Address) {
        let through = |at: Address| if at == BOUNCE { bounce } else { at };
        match &mut self.action {
            Action::Launch { params, .. } => {
                if let Some(last) = params.last_mut() {
                    *last = word(*last);
                }
            }
            Action::Copy { to, from, .. } => (*to, *from) = (through(*to), through(*from)),
            Action::Check { to, from, bytes } => self.action = Action::Copy { to: conditions + *to as u64, from: *from, bytes: *bytes },
            Action::Clear { .. } => {}
        }
    }

    pub(super) fn perform(&self, context: &Context) -> Result<()> {
        match &self.action {
            Action::Launch { function, threads, blocks, params } => context.launch(*function, *blocks, *threads, params),
            Action::Copy { to, from, bytes } => context.copy(*to, *from, *bytes),
            Action::Check { .. } => unreachable!("settled before"),
            Action::Clear { at, bytes } => context.clear(*at, *bytes),
        }
    }
}

/// A round of a loop under way.
struct Round {
    lines: std::ops::Range<usize>,
    index: *mut i64,
    position: i64,
}

/// A table as actions, while it is unrolled.
pub(super) struct Unrolled<'a> {
    gpu: &'a Gpu,
    table: &'a Table,
    name: &'a str,
    places: &'a Places,
    positions: Address,
    rounds: Vec<Round>,
    pub items: Vec<Item>,
    events: Vec<Event>,
    words: u64,
    conditions: usize,
    /// The largest detour.
    pub bounce: usize,
}

impl<'a> Unrolled<'a> {
    pub fn new(gpu: &'a Gpu, run: &'a Prepared, places: &'a Places, positions: Address) -> Unrolled<'a> {
        let (items, events, rounds) = (vec![], vec![], vec![]);
        Unrolled { gpu, table: &run.table, name: &run.name, places, positions, rounds, items, events, words: 0, conditions: 0, bounce: 0 }
    }

    /// Appends what a line does, with its arguments' addresses on the host.
    pub fn line(&mut self, line: usize, args: &[*mut u8]) -> Result<()> {
        let (table, positions) = (self.table, self.positions);
        self.rounds.retain(|r| r.lines.contains(&line));
        let (rounds, places) = (&self.rounds, self.places);
        // What has no elements may lie anywhere.
        let place = |slot: usize| match rounds.iter().find(|r| r.index.cast() == args[slot]) {
            Some(round) => positions + 8 * round.position as u64,
            None => places.find(args[slot]).unwrap_or(positions),
        };
        let mut first = true;
        let mut item = |action| Item { line, first: std::mem::take(&mut first), action };
        match &table.ops[line] {
            Op::Launch { kernel, calls, .. } => {
                let Some((function, grid)) = self.gpu.kernels.get(*kernel as usize) else { return damaged(self.name) };
                let mut before = 0;
                for call in &table.calls[calls.clone()] {
                    let sizes = &table.sizes[call.sizes.clone()];
                    let (tasks, blocks) = (call.end - before, grid.count(sizes)?);
                    before = call.end;
                    if tasks <= 0 || blocks == 0 {
                        continue;
                    }
                    let params = call.args.clone().map(place).chain(sizes.iter().map(|n| *n as u64)).chain([self.words]).collect();
                    self.items.push(item(Action::Launch { function: *function, threads: grid.threads, blocks, params }));
                    self.events.push(Event { line, at: self.words as usize, conditions: None });
                    self.words += 1;
                }
            }
            Op::Copy { at, bytes } => {
                let (from, to, bytes) = (place(*at), place(*at + 1), *bytes);
                if from.abs_diff(to) >= bytes as u64 {
                    self.items.push(item(Action::Copy { to, from, bytes }));
                } else if from != to {
                    self.bounce = self.bounce.max(bytes);
                    self.items.push(item(Action::Copy { to: BOUNCE, from, bytes }));
                    self.items.push(item(Action::Copy { to, from: BOUNCE, bytes }));
                }
            }
            Op::Check { at, count, .. } => {
                self.items.push(item(Action::Check { to: self.conditions, from: place(*at), bytes: *count }));
                self.events.push(Event { line, at: self.conditions, conditions: Some(*count) });
                self.conditions += count;
            }
            Op::Loop { index, end, .. } => {
                // SAFETY: a position in the arena, just written.
                self.rounds.push(Round { lines: line + 1..*end, index: *index, position: unsafe { **index } });
            }
            Op::Again { .. } => unreachable!("it is no line of a run's"),
        }
        Ok(())
    }
}

/// Where host memory is on the GPU, sorted: address, bytes, address there.
pub(super) struct Places(Vec<(usize, usize, Address)>);

impl Places {
    pub fn find(&self, host: *mut u8) -> Option<Address> {
        let (start, bytes, there) = *self.0[..self.0.partition_point(|(start, ..)| *start <= host.addr())].last()?;
        let offset = host.addr() - start;
        (offset < bytes).then_some(there + offset as u64)
    }
}

fn up(n: usize) -> usize {
    n.next_multiple_of(ALIGN)
}

impl Grid {
    /// Blocks of a launch with these sizes.
    fn count(&self, sizes: &[i64]) -> Result<u32> {
        let dims: Dims = sizes.iter().enumerate().map(|(i, n)| (format!("n{i}").into(), *n)).collect();
        let blocks = self.blocks.eval(&dims).map_err(|e| refuse!("a kernel's grid: {e}"))?;
        // Fewer blocks do the same work.
        Ok(blocks.clamp(0, i32::MAX as i64) as u32)
    }
}

impl Prepared {
    /// [`Prepared::run`] on a GPU.
    pub(crate) fn run_on(&mut self, gpu: &Gpu, store: &mut Store) -> Result<()> {
        let stored = store.on(gpu)?;
        let context = gpu.context.clone();
        let turn = context.turn()?;
        let mut recorded = self.placed(gpu, stored)?;
        let later = self.advance > 0 && self.advanced == Some(store.version());
        let slot = &mut recorded.runs[later as usize];
        if slot.is_none() {
            self.bind(store, store.memory().0);
            let places = self.places(stored, recorded.memory.start, recorded.given, store);
            *slot = Some(self.record(gpu, &places, recorded.positions, if later { self.advance } else { 0 })?);
        }
        let run = slot.as_mut().expect("just recorded");
        self.advanced = None;
        let began = self.is_observed().then(|| (Instant::now(), ticks()));
        context.upload(recorded.given, &self.given)?;
        run.ask(&context)?;
        context.download(run.report.bytes_mut(), run.there.start)?;
        let ended = context.wait(&self.name);
        if self.changes {
            store.touch_on_gpu();
        }
        ended?;
        if let Some((began, clock)) = began {
            let times = run.times()?;
            self.took(began.elapsed(), clock, &times);
        }
        let report = run.report.bytes();
        let failed = run.events.iter().find(|e| match e.conditions {
            Some(count) => report[e.at..e.at + count].contains(&0),
            None => report[e.at..e.at + 4] != [0; 4],
        });
        if let Some(event) = failed {
            let text = self.failure(event.line);
            self.recorded = Some(recorded);
            return wrong!("{text}");
        }
        for &(result, from) in &run.results {
            let (at, bytes) = (self.results[result].at, self.results[result].bytes);
            if let At::Arena(start) = at {
                self.arena[start..start + bytes].copy_from_slice(&report[from..from + bytes]);
            }
        }
        for &(result, tensor) in &self.stored {
            let port = &self.results[result];
            let from = match port.at {
                At::Arena(start) => recorded.memory.start + start as u64,
                At::Given(start) => recorded.given + start as u64,
                At::Own(_) | At::Stored(_) => continue,
            };
            context.copy(stored + store.start(tensor) as u64, from, port.bytes)?;
        }
        if !self.stored.is_empty() {
            context.wait(&self.name)?;
        }
        drop(turn);
        self.advanced = Some(store.version());
        self.recorded = Some(recorded);
        Ok(())
    }

    /// What there is of the entry for this copy of the stored tensors.
    pub(super) fn placed(&mut self, gpu: &Gpu, stored: Address) -> Result<Recorded> {
        match self.recorded.take().filter(|r| Arc::ptr_eq(&r.context, &gpu.context) && r.store == stored) {
            Some(recorded) => Ok(recorded),
            None => {
                self.advanced = None;
                self.place(gpu, stored)
            }
        }
    }

    /// Memory for the entry's buffers, with the constants in it.
    fn place(&self, gpu: &Gpu, store: Address) -> Result<Recorded> {
        let context = &gpu.context;
        let rounds = self.table.ops.iter().map(|op| if let Op::Loop { count, .. } = op { *count } else { 0 }).max().unwrap_or(0);
        let (given, positions) = (up(self.arena.len()), up(self.arena.len()) + up(self.given.len()));
        let memory = Memory::new(context, positions + rounds as usize * 8, &self.name)?;
        let numbers: Vec<u8> = (0..rounds).flat_map(i64::to_le_bytes).collect();
        for constant in &self.constants {
            context.upload(memory.start + constant.start as u64, &self.arena[constant.clone()])?;
        }
        let (given, positions) = (memory.start + given as u64, memory.start + positions as u64);
        context.upload(positions, &numbers)?;
        context.wait(&self.name)?;
        Ok(Recorded { context: context.clone(), memory, given, positions, store, runs: [None, None] })
    }

    /// Where the memory that arguments lie in is on the GPU.
    pub(super) fn places(&self, stored: Address, arena: Address, given: Address, store: &Store) -> Places {
        let (tensors, bytes) = store.memory();
        let all = [(self.arena.as_ptr(), self.arena.len(), arena), (self.given.as_ptr(), self.given.len(), given), (tensors, bytes, stored)];
        let mut places: Vec<_> = all.into_iter().filter(|(_, bytes, _)| *bytes > 0).map(|(at, bytes, there)| (at.addr(), bytes, there)).collect();
        places.sort_unstable();
        Places(places)
    }

    /// The table from a line on.
    fn record(&self, gpu: &Gpu, places: &Places, positions: Address, from: usize) -> Result<Run> {
        let context = &gpu.context;
        let mut all = Unrolled::new(gpu, self, places, positions);
        self.table.unroll(from, &mut |line, args| all.line(line, args).map(|()| true))?;
        let Unrolled { mut items, mut events, words, conditions, bounce, .. } = all;
        let (mut results, mut end) = (vec![], 0);
        for (i, port) in self.results.iter().enumerate() {
            if let (At::Arena(start), false) = (port.at, matches!(port.end, Sink::Tensor(_))) {
                results.push((i, end, start));
                end = (end + port.bytes).next_multiple_of(8);
            }
        }
        let (first_word, first_condition) = (end, end + 4 * words as usize);
        for event in &mut events {
            event.at = if event.conditions.is_some() { first_condition + event.at } else { first_word + 4 * event.at };
        }
        let bytes = first_condition + conditions;
        let (there, report) = (Memory::new(context, bytes, &self.name)?, Host::new(context, bytes)?);
        let bounce = Memory::new(context, bounce, &self.name)?;
        let at = |byte: usize| there.start + byte as u64;
        items.iter_mut().for_each(|item| item.settle(&|n| at(first_word) + 4 * n, at(first_condition), bounce.start));
        let own = |action| Item { line: NO_LINE, first: false, action };
        items.insert(0, own(Action::Clear { at: at(first_word), bytes: 4 * words as usize }));
        for &(i, to, start) in &results {
            let from = places.find(self.arena.as_ptr().wrapping_add(start)).unwrap_or(positions);
            items.push(own(Action::Copy { to: at(to), from, bytes: self.results[i].bytes }));
        }
        let work = if self.is_observed() {
            let marks = Marks::new(context, items.len() + 1)?;
            Work::Timed(items, marks)
        } else {
            Work::Whole(context.graph(|| items.iter().try_for_each(|item| item.perform(context)))?)
        };
        let results = results.into_iter().map(|(i, at, _)| (i, at)).collect();
        Ok(Run { work, report, there, results, events, _bounce: bounce })
    }
}

impl Run {
    fn ask(&self, context: &Context) -> Result<()> {
        match &self.work {
            Work::Whole(graph) => graph.run(),
            Work::Timed(items, marks) => {
                marks.set(0)?;
                items.iter().enumerate().try_for_each(|(n, item)| item.perform(context).and_then(|()| marks.set(n + 1)))
            }
        }
    }

    /// What each line took, once that is done: the line, whether a launch of it begins, nanoseconds from the run's begin to its begin and its end.
    fn times(&self) -> Result<Vec<(usize, bool, f64, f64)>> {
        let Work::Timed(items, marks) = &self.work else { return Ok(vec![]) };
        let mut times = vec![];
        let mut before = 0.0;
        for (n, item) in items.iter().enumerate() {
            let end = before + marks.from(n)?;
            if item.line != NO_LINE {
                times.push((item.line, item.first, before, end));
            }
            before = end;
        }
        Ok(times)
    }
}
