//! Memory that is used again in place: a result written over the operand that dies there, a copy of what dies there that is no copy.
//!
//! In: an entry's steps before lifetimes are set. Out: the same meaning with fewer buffers and copies. A stored tensor's new value is written over the
//! old one where the kernel that makes it is the last to read that, or where nothing reads that; a loop's carry likewise.

use super::lifetime::{buffers, root};
use crate::ir::{Affine, IndexAtom};
use crate::kernel::{Index, Instr, Kernel, Target};
use nnc_runtime::manifest::{Buffer, BufferId, Entry, Launch, Part, Sink, Source, Step, Storage};

/// Rewrites the entry; launches count into `kernels`.
pub(super) fn reuse(entry: &mut Entry, kernels: &[Kernel]) {
    let mut pass = Pass::new(entry);
    // Carries first: a copy in every round is worth more than another operand's memory.
    for k in 0..pass.entry.plan.steps.len() {
        if let Step::Copy { from, to } = pass.entry.plan.steps[k] {
            pass.carry(k, from, to, kernels);
        }
    }
    for k in 0..pass.entry.plan.steps.len() {
        match pass.entry.plan.steps[k].clone() {
            Step::Launch(launch) => pass.launch(k, &launch, &kernels[launch.kernel as usize]),
            Step::Copy { from, to } => pass.copy(k, from, to),
            Step::Loop { .. } | Step::Check { .. } => {}
        }
    }
    pass.made_in_store();
    let dead = pass.dead;
    remove(&mut entry.plan.steps, &dead);
}

/// First and last step that touches a buffer's memory.
type Span = Option<(usize, usize)>;

struct Pass<'a> {
    entry: &'a mut Entry,
    spans: Vec<Span>,
    /// For every step, the innermost loop that it is in: its first and last step.
    loops: Vec<(usize, usize)>,
    /// Copies that are none any more.
    dead: Vec<bool>,
}

impl<'a> Pass<'a> {
    fn new(entry: &'a mut Entry) -> Pass<'a> {
        let steps = &entry.plan.steps;
        let loops = loops(steps);
        let mut spans: Vec<Span> = vec![None; entry.plan.buffers.len()];
        let mut touch = |id: BufferId, at: usize| {
            let span = &mut spans[root(&entry.plan, id) as usize];
            *span = Some(span.map_or((at, at), |(first, last)| (first.min(at), last.max(at))));
        };
        for (at, step) in steps.iter().enumerate() {
            buffers(step).into_iter().for_each(|b| touch(b, at));
        }
        entry.results.iter().for_each(|(_, b)| touch(*b, steps.len()));
        let dead = vec![false; steps.len()];
        Pass { entry, spans, loops, dead }
    }

    fn root(&self, id: BufferId) -> BufferId {
        root(&self.entry.plan, id)
    }

    /// Whether the buffer is all of its memory.
    fn whole(&self, id: BufferId) -> bool {
        !matches!(self.entry.plan.buffers[id as usize].storage, Storage::Part(_))
    }

    /// Whether all touches of a root lie in the innermost loop around step `k`, so that it does not live from round to round.
    fn local(&self, id: BufferId, k: usize) -> bool {
        let (start, end) = self.loops[k];
        // What comes from outside is read again in every round.
        let outside = self.entry.plan.buffers[id as usize].storage == Storage::Input;
        let inside = |(first, last): (usize, usize)| end == usize::MAX || (!outside && first > start && last <= end);
        self.spans[id as usize].is_some_and(inside)
    }

    fn launch(&mut self, k: usize, launch: &Launch, kernel: &Kernel) {
        for w in (0..launch.args.len()).filter(|w| kernel.params[*w].written) {
            let born = self.root(launch.args[w]);
            if !self.whole(launch.args[w]) || self.spans[born as usize].map(|s| s.0) != Some(k) || !self.local(born, k) {
                continue;
            }
            let dies = |r: &usize| {
                let (r, old) = (*r, self.root(launch.args[*r]));
                let dies = old != born && self.spans[old as usize].map(|s| s.1) == Some(k) && self.local(old, k);
                dies && self.whole(launch.args[r]) && self.may_join(old, born) && alone(self, launch, r, old) && in_place(kernel, r, w)
            };
            // The old value of the same stored tensor first: any other memory would have to stay beside it.
            let stored = |r: &usize| self.entry.plan.buffers[self.root(launch.args[*r]) as usize].storage == Storage::Input;
            let (own, other): (Vec<usize>, Vec<usize>) = (0..launch.args.len()).partition(stored);
            let dying = own.into_iter().chain(other).find(dies);
            if let Some(r) = dying {
                self.join(self.root(launch.args[r]), born);
            }
        }
    }

    fn carry(&mut self, k: usize, from: BufferId, to: BufferId, kernels: &[Kernel]) {
        let (old, new) = (self.root(from), self.root(to));
        if old != new && self.whole(from) && self.whole(to) && self.carried(k, old, new, kernels) {
            self.join(old, new);
            self.dead[k] = true;
        }
    }

    fn copy(&mut self, k: usize, from: BufferId, to: BufferId) {
        let (old, new) = (self.root(from), self.root(to));
        let (Some(a), Some(b)) = (self.spans[old as usize], self.spans[new as usize]) else { return };
        let dies = old != new && a.1 == k && b.0 == k && self.local(old, k) && self.local(new, k);
        if dies && self.whole(from) && self.whole(to) && self.may_join(old, new) {
            self.join(old, new);
            self.dead[k] = true;
        }
    }

    /// What becomes a stored tensor's value, where the entry knows nothing of the old one (initial values), is made in the tensor's own memory.
    fn made_in_store(&mut self) {
        for (sink, id) in self.entry.results.clone() {
            let (Sink::Tensor(path), root) = (sink, self.root(id)) else { continue };
            let known = self.entry.inputs.iter().any(|(source, _)| matches!(source, Source::Tensor(other) if *other == path));
            let sinks =
                self.entry.results.iter().filter(|(sink, id)| self.root(*id) == root || matches!(sink, Sink::Tensor(other) if *other == path));
            let only = sinks.count() == 1;
            if !known && only && self.whole(id) && self.entry.plan.buffers[root as usize].storage == Storage::Result {
                self.entry.plan.buffers[root as usize].storage = Storage::Input;
                self.entry.inputs.push((Source::Tensor(path), root));
            }
        }
    }

    /// Whether `old`, made in this round of a loop and copied to the carry `new` in step `k`, may be made in the carry's place: nobody reads the
    /// carry's value from the round before after that.
    fn carried(&self, k: usize, old: BufferId, new: BufferId, kernels: &[Kernel]) -> bool {
        let Some((born, last)) = self.spans[old as usize] else { return false };
        let plan = &self.entry.plan;
        let Step::Launch(launch) = &plan.steps[born] else { return false };
        let own = |id: BufferId| matches!(plan.buffers[id as usize].storage, Storage::Arena | Storage::Result);
        if last != k || self.loops[born] != self.loops[k] || self.loops[k].1 == usize::MAX || !own(old) || !own(new) {
            return false;
        }
        let touches = |id: BufferId| self.root(id) == new;
        if plan.steps[born + 1..k].iter().any(|s| buffers(s).into_iter().any(touches)) {
            return false;
        }
        // What reads the value after the copy reads the carry, and does so until the next round makes it anew.
        let kernel = &kernels[launch.kernel as usize];
        let Some(w) = launch.args.iter().position(|b| self.root(*b) == old) else { return false };
        let reads: Vec<usize> = (0..launch.args.len()).filter(|r| touches(launch.args[*r])).collect();
        alone(self, launch, w, old) && reads.iter().all(|&r| in_place(kernel, r, w))
    }

    /// Whether the memory of `old` may become that of `new`: both the plan's own, or a stored tensor and its new value.
    fn may_join(&self, old: BufferId, new: BufferId) -> bool {
        let buffer = |id: BufferId| -> &Buffer { &self.entry.plan.buffers[id as usize] };
        let (a, b) = (buffer(old), buffer(new));
        if a.dtype != b.dtype || crate::kernel::lower::product(&a.shape) != crate::kernel::lower::product(&b.shape) {
            return false;
        }
        match (&a.storage, &b.storage) {
            (Storage::Arena, Storage::Arena | Storage::Result) => true,
            (Storage::Input, Storage::Result) => {
                let source = self.entry.inputs.iter().find(|(_, id)| *id == old).map(|(source, _)| source);
                let mut sinks = self.entry.results.iter().filter(|(_, id)| self.root(*id) == new).map(|(sink, _)| sink);
                match (source, sinks.next(), sinks.next()) {
                    (Some(Source::Tensor(from)), Some(Sink::Tensor(to)), None) => from == to,
                    _ => false,
                }
            }
            _ => false,
        }
    }

    /// Makes one memory of both.
    fn join(&mut self, old: BufferId, new: BufferId) {
        let kept =
            if self.entry.plan.buffers[new as usize].storage == Storage::Result && self.entry.plan.buffers[old as usize].storage == Storage::Arena {
                new
            } else {
                old
            };
        let gone = old + new - kept;
        for (id, buffer) in self.entry.plan.buffers.iter_mut().enumerate() {
            match &mut buffer.storage {
                Storage::Part(Part { of, .. }) if *of == gone => *of = kept,
                Storage::Alias(of) if *of == gone => *of = kept,
                storage if id as BufferId == gone => *storage = Storage::Alias(kept),
                _ => {}
            }
        }
        let spans = [self.spans[old as usize], self.spans[new as usize]];
        let ends = spans.iter().flatten().fold((usize::MAX, 0), |(first, last), s| (first.min(s.0), last.max(s.1)));
        self.spans[kept as usize] = Some(ends);
        self.spans[gone as usize] = None;
    }
}

/// For every step, the innermost loop that it is in: its first and last step.
pub(super) fn loops(steps: &[Step]) -> Vec<(usize, usize)> {
    let mut loops = vec![(0, usize::MAX); steps.len()];
    for (start, step) in steps.iter().enumerate() {
        if let Step::Loop { body, .. } = step {
            let end = start + *body as usize;
            loops[start + 1..=end].fill((start, end));
        }
    }
    loops
}

/// Whether argument `n` is the launch's only one in its memory.
fn alone(pass: &Pass, launch: &Launch, n: usize, of: BufferId) -> bool {
    launch.args.iter().enumerate().all(|(i, b)| i == n || pass.root(*b) != of)
}

/// Whether the kernel may be launched with parameter `w`, which it writes, in the memory of `r`, which it reads: no element of `r` is read after
/// that element of `w` was written, whatever the order of outer points and the number of lanes. Lanes and tiles of a stage read before they store.
pub(super) fn in_place(kernel: &Kernel, r: usize, w: usize) -> bool {
    let (old, new) = (&kernel.params[r], &kernel.params[w]);
    if old.written || old.dtype != new.dtype || old.shape != new.shape {
        return false;
    }
    let mut stores = kernel.stages.iter().enumerate().flat_map(|(n, stage)| {
        stage.stores.iter().filter_map(move |store| match &store.target {
            Target::Param { param, index, fold } if *param == w => Some((n, index, fold)),
            Target::Param { .. } | Target::Local(_) => None,
        })
    });
    let (Some((at, stored, None)), None) = (stores.next(), stores.next()) else { return false };
    let variables: Option<Vec<Option<usize>>> = stored.iter().map(variable).collect();
    let Some(variables) = variables else { return false };
    let distinct = variables.iter().enumerate().all(|(i, v)| v.is_none() || !variables[..i].contains(v));
    let covered = (0..kernel.outer.len()).all(|v| variables.contains(&Some(v)) || kernel.outer[v].as_const() == Some(1));
    if !distinct || !covered {
        return false;
    }
    let outer = |v: &Option<usize>| v.is_some_and(|v| v < kernel.outer.len());
    kernel.stages.iter().enumerate().all(|(n, stage)| {
        let same = n == at && !stage.inner.is_empty();
        every_load(&stage.body, &mut |param, index| {
            if param != r {
                return true;
            }
            // Before the storing stage, anything of the point's own part; in it, the very element that is stored next.
            let own = || std::iter::zip(index, stored).zip(&variables).all(|((i, s), v)| !outer(v) || i == s);
            if same { index == stored } else { n <= at && own() }
        })
    })
}

/// The variable that the index is (or none, where it is the constant 0).
fn variable(index: &Index) -> Option<Option<usize>> {
    match index {
        Index::Affine(Affine { terms, constant }) if constant.as_const() == Some(0) => match terms.as_slice() {
            [] => Some(None),
            [(IndexAtom::Var(v), one)] if one.as_const() == Some(1) => Some(Some(*v)),
            _ => None,
        },
        Index::Affine(_) | Index::Value(_) => None,
    }
}

fn every_load(body: &[Instr], holds: &mut dyn FnMut(usize, &[Index]) -> bool) -> bool {
    body.iter().all(|instr| match instr {
        Instr::Load { param, index, .. } => holds(*param, index),
        Instr::Select { then, otherwise, .. } => every_load(&then.0, holds) && every_load(&otherwise.0, holds),
        Instr::Const(_) | Instr::Local(_) | Instr::Index(_) | Instr::Holds(_) | Instr::Op(..) | Instr::Cast(..) => true,
    })
}

/// Removes the marked steps; loops shrink with their bodies.
pub(super) fn remove(steps: &mut Vec<Step>, dead: &[bool]) {
    for (start, step) in steps.iter_mut().enumerate() {
        if let Step::Loop { body, .. } = step {
            let inside = &dead[start + 1..=start + *body as usize];
            *body -= inside.iter().filter(|d| **d).count() as u32;
        }
    }
    let mut dead = dead.iter();
    steps.retain(|_| !dead.next().unwrap_or(&false));
}
