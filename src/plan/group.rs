//! Launches of one kernel on different buffers as one: the updates of many small parameters are one line of the table, and share one cost.
//!
//! In: an entry's steps before lifetimes are set. Out: the same meaning with fewer launches. Only steps that do not depend on each other, nor on
//! anything between them, come together, so that it does not matter in which order they run.

use super::lifetime::{buffers, root};
use super::reuse::{loops, remove};
use crate::kernel::{Index, Instr, Kernel, Store, Target};
use nnc_runtime::manifest::{BufferId, Call, Entry, Launch, Plan, Step};
use std::collections::BTreeSet;

/// Rewrites the entry; launches count into `kernels`.
pub(super) fn group(entry: &mut Entry, kernels: &[Kernel]) {
    let plan = &mut entry.plan;
    let mut dead = vec![false; plan.steps.len()];
    let around = loops(&plan.steps);
    let mut first = 0;
    while first < plan.steps.len() {
        let mut run = Run::default();
        let mut end = first;
        let advances = |step: usize| step < plan.advance as usize;
        while end < plan.steps.len() && around[end] == around[first] && advances(end) == advances(first) && run.takes(plan, end, kernels) {
            end += 1;
        }
        for at in first..end {
            let Step::Launch(mut launch) = plan.steps[at].clone() else { continue };
            if dead[at] {
                continue;
            }
            let mut lines = vec![launch.line];
            for (other, dead) in plan.steps[at + 1..end].iter().zip(&mut dead[at + 1..end]) {
                if let Step::Launch(next) = other
                    && !*dead
                    && alike(&launch, next, kernels)
                {
                    if !lines.contains(&next.line) {
                        lines.push(next.line);
                    }
                    let Launch { args, sizes, tasks, flops, .. } = next.clone();
                    launch.beside.push(Call { args, sizes, tasks, flops });
                    *dead = true;
                }
            }
            launch.line = together(&mut plan.lines, &lines);
            plan.steps[at] = Step::Launch(launch);
        }
        first = end.max(first + 1);
    }
    plan.advance -= dead[..plan.advance as usize].iter().filter(|dead| **dead).count() as u32;
    remove(&mut plan.steps, &dead);
}

/// The line that stands for all of these: `net.nn:12,15,18, std/linear.nn:10`.
fn together(lines: &mut Vec<String>, all: &[u32]) -> u32 {
    let [_, _, ..] = all else { return all[0] };
    let mut text = String::new();
    let mut file = None;
    for line in all.iter().map(|n| &lines[*n as usize]).filter(|l| !l.is_empty()) {
        let (name, number) = line.rsplit_once(':').unwrap_or((line, ""));
        match file {
            Some(same) if same == name => text.extend([",", number]),
            Some(_) => text.extend([", ", line]),
            None => text.push_str(line),
        }
        file = Some(name);
    }
    let known = lines.iter().position(|l| *l == text).unwrap_or_else(|| {
        lines.push(text);
        lines.len() - 1
    });
    known as u32
}

/// The same work a task, and where something can fail the same line of the source to blame.
fn alike(a: &Launch, b: &Launch, kernels: &[Kernel]) -> bool {
    a.kernel == b.kernel && (&a.cost, &a.whole) == (&b.cost, &b.whole) && (a.line == b.line || !fails(&kernels[a.kernel as usize]))
}

/// Whether an index may be out of bounds.
pub(super) fn fails(kernel: &Kernel) -> bool {
    fn computed(index: &[Index]) -> bool {
        index.iter().any(|i| matches!(i, Index::Value(_)))
    }
    fn block(body: &[Instr]) -> bool {
        body.iter().any(|i| match i {
            Instr::Load { index, otherwise, .. } => otherwise.is_none() && computed(index),
            Instr::Select { then, otherwise, .. } => block(&then.0) || block(&otherwise.0),
            Instr::Const(_) | Instr::Local(_) | Instr::Index(_) | Instr::Holds(_) | Instr::Op(..) | Instr::Cast(..) => false,
        })
    }
    let scatters = |store: &Store| matches!(&store.target, Target::Param { index, .. } if computed(index));
    kernel.stages.iter().any(|stage| block(&stage.body) || stage.stores.iter().any(scatters))
}

/// Launches that do not depend on each other: the memory that they touch, and what of it they write.
#[derive(Default)]
struct Run {
    touched: BTreeSet<BufferId>,
    written: BTreeSet<BufferId>,
}

impl Run {
    /// Adds a step, if it is a launch that depends on none of the others.
    fn takes(&mut self, plan: &Plan, step: usize, kernels: &[Kernel]) -> bool {
        let Step::Launch(launch) = &plan.steps[step] else { return false };
        let params = &kernels[launch.kernel as usize].params;
        let writes: BTreeSet<BufferId> = launch.args.iter().zip(params).filter(|(_, p)| p.written).map(|(b, _)| root(plan, *b)).collect();
        let touches: BTreeSet<BufferId> = buffers(&plan.steps[step]).into_iter().map(|b| root(plan, b)).collect();
        if !writes.is_disjoint(&self.touched) || !touches.is_disjoint(&self.written) {
            return false;
        }
        self.touched.extend(touches);
        self.written.extend(writes);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_come_together_are_all_named() {
        let mut lines: Vec<String> = ["net.nn:12", "net.nn:15", "", "std/linear.nn:8", "std/linear.nn:10"].map(String::from).into();
        assert_eq!(together(&mut lines, &[1]), 1);
        let all = together(&mut lines, &[0, 1, 2, 3, 4]);
        assert_eq!(lines[all as usize], "net.nn:12,15, std/linear.nn:8,10");
        assert_eq!((together(&mut lines, &[0, 1, 3, 4]), lines.len()), (all, 6), "known already");
    }
}
