//! One entry's functions as one list of steps over one list of buffers.

use crate::ir::{FunctionId, Module};
use crate::kernel::Lowered;
use crate::kernel::lower::{self, Kind, Loop, Lower};
use crate::span::Span;
use nnc_runtime::manifest::{Buffer, BufferId, Entry, Launch, Plan, Step, Storage};
use std::collections::BTreeMap;

struct State<'a> {
    lowered: &'a Lowered,
    plan: Plan,
    lines: BTreeMap<String, u32>,
    line: &'a dyn Fn(Span) -> String,
    /// Literal data of a function is there once, however often it is called.
    constants: BTreeMap<(FunctionId, usize), BufferId>,
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
    let mut state = State { lowered, plan: Plan::default(), lines: BTreeMap::new(), line, constants: BTreeMap::new() };
    let inputs = &module.function(entry.function).inputs;
    let args: Vec<BufferId> =
        inputs.iter().map(|i| state.buffer(&lower::Buffer { ty: i.ty.clone(), kind: Kind::Own, name: i.name.clone() }, Storage::Input)).collect();
    let results = state.function(entry.function, args.clone());
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
        self.plan.buffers.push(Buffer { dtype, shape, storage, first: 0, last: 0, name });
        self.plan.buffers.len() as BufferId - 1
    }

    /// Appends the function's steps and returns the buffers of its results.
    fn function(&mut self, id: FunctionId, args: Vec<BufferId>) -> Vec<BufferId> {
        let body = function(self.lowered, id);
        let mut frame = Frame { function: id, body, args, buffers: vec![None; body.buffers.len()] };
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
                lower::Step::Call { function, args, results } => {
                    let args = args.iter().map(|b| self.at(&mut frame, *b)).collect();
                    let returned = self.function(*function, args);
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
        scan.before.iter().for_each(|l| self.launch(frame, l));
        let args: Vec<BufferId> = scan.args.iter().map(|b| self.at(frame, *b)).collect();
        let returned = self.function(scan.body, args);
        scan.results.iter().zip(&returned).for_each(|(b, r)| frame.buffers[*b] = Some(*r));
        scan.after.iter().for_each(|l| self.launch(frame, l));
        let carries: Vec<BufferId> = scan.carries.iter().map(|b| self.at(frame, *b)).collect();
        // A new value that is another carry's old one is put aside before any carry changes.
        let mut news = returned[..carries.len()].to_vec();
        for (new, carry) in news.iter_mut().zip(&carries) {
            let root = self.root(*new);
            if root != *carry && carries.contains(&root) {
                let aside = Buffer { storage: Storage::Arena, ..self.plan.buffers[*carry as usize].clone() };
                self.plan.buffers.push(aside);
                let to = self.plan.buffers.len() as BufferId - 1;
                self.plan.steps.push(Step::Copy { from: *new, to });
                *new = to;
            }
        }
        for (from, to) in news.into_iter().zip(carries) {
            if self.root(from) != to {
                self.plan.steps.push(Step::Copy { from, to });
            }
        }
        let steps = (self.plan.steps.len() - start - 1) as u32;
        if let Step::Loop { body, .. } = &mut self.plan.steps[start] {
            *body = steps;
        }
    }

    fn launch(&mut self, frame: &mut Frame<'a>, launch: &lower::Launch) {
        let args = launch.args.iter().map(|b| self.at(frame, *b)).collect();
        let line = self.line(launch.span);
        let lower::Launch { kernel, sizes, tasks, cost, flops, .. } = launch.clone();
        self.plan.steps.push(Step::Launch(Launch { kernel, args, sizes, tasks, cost, flops, line }));
    }

    fn line(&mut self, span: Span) -> u32 {
        let text = (self.line)(span);
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
                let root = self.root(of);
                self.buffer(from, Storage::Alias(root))
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
        match self.plan.buffers[id as usize].storage {
            Storage::Alias(of) => of,
            Storage::Arena | Storage::Input | Storage::Result | Storage::Constant(_) => id,
        }
    }

    /// Makes the buffer a result: itself where its memory is the plan's own and no other result's, else a copy.
    fn result(&mut self, id: BufferId) -> BufferId {
        let root = self.root(id);
        let buffer = self.plan.buffers[id as usize].clone();
        if self.plan.buffers[root as usize].storage != Storage::Arena {
            self.plan.buffers.push(Buffer { storage: Storage::Result, ..buffer });
            let to = self.plan.buffers.len() as BufferId - 1;
            self.plan.steps.push(Step::Copy { from: id, to });
            return to;
        }
        // The memory belongs to the result; what it was made of is a view of it.
        for b in &mut self.plan.buffers {
            if b.storage == Storage::Alias(root) {
                b.storage = Storage::Alias(id);
            }
        }
        self.plan.buffers[root as usize].storage = Storage::Alias(id);
        self.plan.buffers[id as usize].storage = Storage::Result;
        id
    }
}
