//! An entry on a GPU: its buffers there, and its launch table as one graph.
//!
//! In: a prepared entry, whose table is unrolled (loops are the host's, and their rounds are known) with the addresses on the host, each of which has its
//! place on the GPU. Out: the same results in the same places, or the first line that failed in the order of the table. A graph is recorded again only for
//! other copies of the stored tensors. Checks stop nothing on the GPU: what they found is looked at afterwards, and no kernel leaves its buffers.

use super::Gpu;
use super::context::{Context, Graph, Host, Memory};
use super::driver::{Address, Handle};
use crate::error::{Result, refuse, wrong};
use crate::exec::{At, Prepared, damaged};
use crate::launch::Op;
use crate::manifest::{Grid, Sink};
use crate::size::Dims;
use crate::tensors::Tensors;
use std::sync::Arc;

/// Parts of an allocation begin at multiples of this many bytes.
const ALIGN: usize = 256;

/// What there is of an entry on a GPU.
pub(crate) struct Recorded {
    context: Arc<Context>,
    /// The arena, the inputs that the caller fills, and the numbers from 0 on, which are the positions of loops.
    memory: Memory,
    given: Address,
    positions: Address,
    /// Where the stored tensors are: what the graphs were recorded for.
    store: Address,
    /// The whole table, and the part that depends on inputs.
    runs: [Option<Run>; 2],
}

/// A recorded run.
struct Run {
    graph: Graph,
    /// What comes back from the GPU: results, words of launches, checks' conditions.
    report: Host,
    there: Memory,
    /// Result, where in the report.
    results: Vec<(usize, usize)>,
    events: Vec<Event>,
    _bounce: Memory,
}

/// Something that can fail, in the order in which things happen: its line, where in the report, and how many conditions, or the word of a launch.
struct Event {
    line: usize,
    at: usize,
    conditions: Option<usize>,
}

/// Something that the GPU is to do.
enum Action {
    Launch {
        function: Handle,
        threads: u32,
        blocks: u32,
        params: Vec<u64>,
        word: usize,
    },
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
}

/// A round of a loop under way.
struct Round {
    lines: std::ops::Range<usize>,
    index: *mut i64,
    position: i64,
}

/// Where host memory is on the GPU, sorted: address, bytes, address there.
struct Places(Vec<(usize, usize, Address)>);

impl Places {
    fn find(&self, host: *mut u8) -> Option<Address> {
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
    pub(crate) fn run_on(&mut self, gpu: &Gpu, store: &mut Tensors) -> Result<()> {
        let stored = store.on(gpu)?;
        let context = gpu.context.clone();
        let turn = context.turn()?;
        let fits = |r: &Recorded| Arc::ptr_eq(&r.context, &context) && r.store == stored;
        let mut recorded = match self.recorded.take().filter(fits) {
            Some(recorded) => recorded,
            None => self.place(gpu, stored)?,
        };
        let later = self.advance > 0 && self.advanced == Some(store.version());
        let slot = &mut recorded.runs[later as usize];
        if slot.is_none() {
            self.bind(store);
            let places = self.places(stored, recorded.memory.start, recorded.given, store);
            *slot = Some(self.record(gpu, &places, recorded.positions, if later { self.advance } else { 0 })?);
        }
        let run = slot.as_mut().expect("just recorded");
        self.advanced = None;
        context.upload(recorded.given, &self.given)?;
        run.graph.run()?;
        context.download(run.report.bytes_mut(), run.there.start)?;
        let ended = context.wait(&self.name);
        if self.changes {
            store.touch_on_gpu();
        }
        ended?;
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
                At::Stored(_) => continue,
            };
            context.copy(stored + store.place(tensor) as u64, from, port.bytes)?;
        }
        if !self.stored.is_empty() {
            context.wait(&self.name)?;
        }
        drop(turn);
        self.advanced = Some(store.version());
        self.recorded = Some(recorded);
        // A result that is a stored tensor is looked for there.
        let looked_at = |p: &crate::exec::Port<Sink>| matches!(p.at, At::Stored(_)) && !matches!(p.end, Sink::Tensor(_));
        if self.results.iter().any(looked_at) { store.settle() } else { Ok(()) }
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
    fn places(&self, stored: Address, arena: Address, given: Address, store: &Tensors) -> Places {
        let (tensors, bytes) = store.memory();
        let all = [(self.arena.as_ptr(), self.arena.len(), arena), (self.given.as_ptr(), self.given.len(), given), (tensors, bytes, stored)];
        let mut places: Vec<_> = all.into_iter().filter(|(_, bytes, _)| *bytes > 0).map(|(at, bytes, there)| (at.addr(), bytes, there)).collect();
        places.sort_unstable();
        Places(places)
    }

    /// The table from a line on as a graph.
    fn record(&self, gpu: &Gpu, places: &Places, positions: Address, from: usize) -> Result<Run> {
        let (table, context) = (&self.table, &gpu.context);
        let (mut actions, mut events, mut rounds): (Vec<Action>, Vec<Event>, Vec<Round>) = (vec![], vec![], vec![]);
        let (mut words, mut conditions, mut bounce) = (0, 0, 0);
        table.unroll(from, &mut |line, args| {
            rounds.retain(|r| r.lines.contains(&line));
            // What has no elements may lie anywhere.
            let place = |slot: usize| match rounds.iter().find(|r| r.index.cast() == args[slot]) {
                Some(round) => positions + 8 * round.position as u64,
                None => places.find(args[slot]).unwrap_or(positions),
            };
            match &table.ops[line] {
                Op::Launch { kernel, calls, .. } => {
                    let Some((function, grid)) = gpu.kernels.get(*kernel as usize) else { return damaged(&self.name) };
                    let mut before = 0;
                    for call in &table.calls[calls.clone()] {
                        let sizes = &table.sizes[call.sizes.clone()];
                        let (tasks, blocks) = (call.end - before, grid.count(sizes)?);
                        before = call.end;
                        if tasks <= 0 || blocks == 0 {
                            continue;
                        }
                        let params = call.args.clone().map(place).chain(sizes.iter().map(|n| *n as u64)).collect();
                        actions.push(Action::Launch { function: *function, threads: grid.threads, blocks, params, word: words });
                        events.push(Event { line, at: words, conditions: None });
                        words += 1;
                    }
                }
                Op::Copy { at, bytes } => {
                    let (from, to, bytes) = (place(*at), place(*at + 1), *bytes);
                    if from.abs_diff(to) >= bytes as u64 {
                        actions.push(Action::Copy { to, from, bytes });
                    } else if from != to {
                        // By a detour, whose place is not known yet.
                        bounce = bounce.max(bytes);
                        actions.push(Action::Copy { to: 0, from, bytes });
                        actions.push(Action::Copy { to, from: 0, bytes });
                    }
                }
                Op::Check { at, count, .. } => {
                    actions.push(Action::Check { to: conditions, from: place(*at), bytes: *count });
                    events.push(Event { line, at: conditions, conditions: Some(*count) });
                    conditions += count;
                }
                Op::Loop { index, end, .. } => {
                    // SAFETY: a position in the arena, just written.
                    rounds.push(Round { lines: line + 1..*end, index: *index, position: unsafe { **index } });
                }
                Op::Again { .. } => unreachable!("it is no line of a run's"),
            }
            Ok(())
        })?;
        let (mut results, mut end) = (vec![], 0);
        for (i, port) in self.results.iter().enumerate() {
            if let (At::Arena(start), false) = (port.at, matches!(port.end, Sink::Tensor(_))) {
                results.push((i, end, start));
                end = (end + port.bytes).next_multiple_of(8);
            }
        }
        let (first_word, first_condition) = (end, end + 4 * words);
        for event in &mut events {
            event.at = if event.conditions.is_some() { first_condition + event.at } else { first_word + 4 * event.at };
        }
        let bytes = first_condition + conditions;
        let (there, report) = (Memory::new(context, bytes, &self.name)?, Host::new(context, bytes)?);
        let bounce = Memory::new(context, bounce, &self.name)?;
        let graph = context.graph(|| {
            context.zero(there.start + first_word as u64, 4 * words)?;
            for action in &mut actions {
                match action {
                    Action::Launch { function, threads, blocks, params, word } => {
                        params.push(there.start + (first_word + 4 * *word) as u64);
                        context.launch(*function, *blocks, *threads, params)?;
                    }
                    Action::Copy { to, from, bytes } => {
                        let through = |at: Address| if at == 0 { bounce.start } else { at };
                        context.copy(through(*to), through(*from), *bytes)?;
                    }
                    Action::Check { to, from, bytes } => context.copy(there.start + (first_condition + *to) as u64, *from, *bytes)?,
                }
            }
            results.iter().try_for_each(|&(i, to, start)| {
                let from = places.find(self.arena.as_ptr().wrapping_add(start)).unwrap_or(positions);
                context.copy(there.start + to as u64, from, self.results[i].bytes)
            })
        })?;
        let results = results.into_iter().map(|(i, at, _)| (i, at)).collect();
        Ok(Run { graph, report, there, results, events, _bounce: bounce })
    }
}
