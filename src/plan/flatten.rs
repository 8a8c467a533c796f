//! One entry's functions as one list of steps over one list of buffers.

use crate::ir::{FunctionId, Module};
use crate::kernel::Lowered;
use crate::kernel::lower::{self, Kind, Loop, Lower};
use crate::span::Span;
use nnc_runtime::manifest::{Buffer, BufferId, Entry, Launch, Part, Plan, Step, Storage};
use nnc_runtime::size::Size;
use std::collections::BTreeMap;

struct State<'a> {
    lowered: &'a Lowered,
    plan: Plan,
    lines: BTreeMap<String, u32>,
    line: &'a dyn Fn(Span) -> String,
    /// Literal data of a function is there once, however often it is called.
    constants: BTreeMap<(FunctionId, usize), BufferId>,
    /// The call or loop whose body is under way.
    call: Span,
}

/// A function in place: its buffers as far as they have been met.
struct Frame<'a> {
    function: FunctionId,
    body: &'a Lower,
    args: Vec<BufferId>,
    buffers: Vec<Option<BufferId>>,
}

/// The entry's plan, without lifetimes.
pub(super) fn entry(module: &Module, lowered: &Lowered, entry: &crate::ir::Entry, line: &dyn Fn(Span) -> String) -> Entry {
    let mut state = State { lowered, plan: Plan::default(), lines: BTreeMap::new(), line, constants: BTreeMap::new(), call: Span::default() };
    let inputs = &module.function(entry.function).inputs;
    let args: Vec<BufferId> =
        inputs.iter().map(|i| state.buffer(&lower::Buffer { ty: i.ty.clone(), kind: Kind::Own, name: i.name.clone() }, Storage::Input)).collect();
    let results = state.function(entry.function, args.clone(), &[]);
    let results = results.into_iter().map(|r| state.result(r)).collect::<Vec<_>>();
    let inputs = entry.inputs.iter().cloned().zip(args).collect();
    Entry { name: entry.name.clone(), inputs, results: entry.results.iter().cloned().zip(results).collect(), plan: state.plan }
}

fn function(lowered: &Lowered, id: FunctionId) -> &Lower {
    lowered.functions[id.0 as usize].as_ref().unwrap_or_else(|| panic!("function {id:?} is not lowered"))
}

impl<'a> State<'a> {
    fn buffer(&mut self, from: &lower::Buffer, storage: Storage) -> BufferId {
        let (dtype, shape, name) = (from.ty.dtype, from.ty.shape.clone(), from.name.clone());
        self.push(Buffer { dtype, shape, storage, first: 0, last: 0, name })
    }

    fn push(&mut self, buffer: Buffer) -> BufferId {
        self.plan.buffers.push(buffer);
        self.plan.buffers.len() as BufferId - 1
    }

    /// Appends the function's steps and returns the buffers of its results. Those `wanted` in a place are there, where nothing but the function's own
    /// steps fills them.
    fn function(&mut self, id: FunctionId, args: Vec<BufferId>, wanted: &[(usize, BufferId)]) -> Vec<BufferId> {
        let body = function(self.lowered, id);
        let mut frame = Frame { function: id, body, args, buffers: vec![None; body.buffers.len()] };
        for (result, place) in wanted {
            let mut own = body.results[*result];
            while let Kind::Alias(of) = body.buffers[own].kind {
                own = of;
            }
            if matches!(body.buffers[own].kind, Kind::Own | Kind::Returned) && frame.buffers[own].is_none() {
                let part = Buffer { shape: body.buffers[own].ty.shape.clone(), ..self.plan.buffers[*place as usize].clone() };
                frame.buffers[own] = Some(self.push(part));
            }
        }
        for step in &body.steps {
            match step {
                lower::Step::Launch(launch) => self.launch(&mut frame, launch),
                lower::Step::Copy { from, to } => {
                    let (from, to) = (self.at(&mut frame, *from), self.at(&mut frame, *to));
                    self.plan.steps.push(Step::Copy { from, to });
                }
                lower::Step::Check { condition, message, span } => {
                    let condition = self.at(&mut frame, *condition);
                    let line = self.line(*span);
                    self.plan.steps.push(Step::Check { condition, message: message.clone(), line });
                }
                lower::Step::Call { function, args, results, span } => {
                    let args = args.iter().map(|b| self.at(&mut frame, *b)).collect();
                    let wanted: Vec<(usize, BufferId)> = results.iter().enumerate().filter_map(|(k, b)| Some((k, frame.buffers[*b]?))).collect();
                    let returned = self.within(*span, |state| state.function(*function, args, &wanted));
                    results.iter().zip(returned).for_each(|(b, r)| frame.buffers[*b] = Some(r));
                }
                lower::Step::Scan(scan) => self.scan(&mut frame, scan),
            }
        }
        body.results.iter().map(|b| self.at(&mut frame, *b)).collect()
    }

    fn scan(&mut self, frame: &mut Frame<'a>, scan: &Loop) {
        let start = self.plan.steps.len();
        let index = self.at(frame, scan.index);
        self.plan.steps.push(Step::Loop { count: scan.count.clone(), body: 0, index, reversed: scan.reversed });
        let args: Vec<BufferId> = scan.args.iter().map(|b| self.at(frame, *b)).collect();
        let mut places = |list: &[(usize, usize)]| list.iter().map(|(k, b)| (*k, self.at(frame, *b))).collect::<Vec<_>>();
        let (parts, carries) = (places(&scan.parts), places(&scan.carries));
        let returned = self.within(scan.span, |state| state.function(scan.body, args, &parts));
        for (k, to) in parts {
            self.copy(returned[k], to);
        }
        // A new value that is another carry's old one is put aside before any carry changes.
        let mut news = vec![];
        for (k, carry) in &carries {
            let mut new = returned[*k];
            let same = |id: BufferId| self.whole(id) == self.whole(new);
            if !same(*carry) && carries.iter().any(|(_, c)| same(*c)) {
                new = self.push(Buffer { storage: Storage::Arena, ..self.plan.buffers[*carry as usize].clone() });
                self.plan.steps.push(Step::Copy { from: returned[*k], to: new });
            }
            news.push((new, *carry));
        }
        for (from, to) in news {
            self.copy(from, to);
        }
        let steps = (self.plan.steps.len() - start - 1) as u32;
        if let Step::Loop { body, .. } = &mut self.plan.steps[start] {
            *body = steps;
        }
    }

    /// What happens in the body of a call or loop.
    fn within<T>(&mut self, call: Span, body: impl FnOnce(&mut Self) -> T) -> T {
        let outer = self.call;
        self.call = call.seen_from(outer);
        let done = body(self);
        self.call = outer;
        done
    }

    /// A copy, unless both are the same memory.
    fn copy(&mut self, from: BufferId, to: BufferId) {
        if self.whole(from) != self.whole(to) {
            self.plan.steps.push(Step::Copy { from, to });
        }
    }

    /// The buffer as a part of the one that has memory.
    fn whole(&self, id: BufferId) -> Part {
        match &self.plan.buffers[id as usize].storage {
            Storage::Part(part) => part.clone(),
            storage => Part { of: storage.of().unwrap_or(id), start: Size::default(), along: vec![] },
        }
    }

    fn launch(&mut self, frame: &mut Frame<'a>, launch: &lower::Launch) {
        let args = launch.args.iter().map(|b| self.at(frame, *b)).collect();
        let line = self.line(launch.span);
        let lower::Launch { kernel, sizes, tasks, whole, cost, flops, .. } = launch.clone();
        self.plan.steps.push(Step::Launch(Launch { kernel, args, sizes, tasks, whole, cost, flops, line, beside: vec![], rows: None }));
    }

    fn line(&mut self, span: Span) -> u32 {
        let text = (self.line)(span.seen_from(self.call));
        let lines = &mut self.plan.lines;
        *self.lines.entry(text).or_insert_with_key(|text| {
            lines.push(text.clone());
            lines.len() as u32 - 1
        })
    }

    /// The plan's buffer for a function's.
    fn at(&mut self, frame: &mut Frame<'a>, buffer: usize) -> BufferId {
        if let Some(id) = frame.buffers[buffer] {
            return id;
        }
        let from = &frame.body.buffers[buffer];
        let id = match &from.kind {
            Kind::Input(n) => frame.args[*n],
            Kind::Own => self.buffer(from, Storage::Arena),
            Kind::Alias(of) => {
                let of = self.at(frame, *of);
                let storage = match &self.plan.buffers[of as usize].storage {
                    Storage::Part(part) => Storage::Part(part.clone()),
                    storage => Storage::Alias(storage.of().unwrap_or(of)),
                };
                self.buffer(from, storage)
            }
            Kind::Part { of, from: first, index } => {
                let stride = lower::product(&frame.body.buffers[*of].ty.shape[1..]);
                let of = self.at(frame, *of);
                let mut part = self.whole(of);
                part.start = &part.start + &lower::product(&[first.clone(), stride.clone()]);
                part.along.extend(index.map(|index| (self.at(frame, index), stride)));
                self.buffer(from, Storage::Part(part))
            }
            Kind::Constant(data) => match self.constants.get(&(frame.function, buffer)) {
                Some(id) => *id,
                None => {
                    let id = self.buffer(from, Storage::Constant(data.to_vec()));
                    self.constants.insert((frame.function, buffer), id);
                    id
                }
            },
            Kind::Returned => panic!("buffer {} is read before its call", from.name),
        };
        frame.buffers[buffer] = Some(id);
        id
    }

    /// The buffer whose memory it is.
    fn root(&self, id: BufferId) -> BufferId {
        self.plan.buffers[id as usize].storage.of().unwrap_or(id)
    }

    /// Makes the buffer a result: itself where its memory is the plan's own, all of it, and no other result's, else a copy.
    fn result(&mut self, id: BufferId) -> BufferId {
        let root = self.root(id);
        let buffer = self.plan.buffers[id as usize].clone();
        if self.plan.buffers[root as usize].storage != Storage::Arena || matches!(buffer.storage, Storage::Part(_)) {
            let to = self.push(Buffer { storage: Storage::Result, ..buffer });
            self.plan.steps.push(Step::Copy { from: id, to });
            return to;
        }
        // The memory belongs to the result; what it was made of is a view of it.
        for b in &mut self.plan.buffers {
            match &mut b.storage {
                Storage::Alias(of) | Storage::Part(Part { of, .. }) if *of == root => *of = id,
                _ => {}
            }
        }
        self.plan.buffers[root as usize].storage = Storage::Alias(id);
        self.plan.buffers[id as usize].storage = Storage::Result;
        id
    }
}
