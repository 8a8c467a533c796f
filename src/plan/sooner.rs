//! Stored tensors get their new values as soon as they may: a large gradient's memory is free again before the next one is computed.
//!
//! In: an entry's steps before memory is used again in place. Out: the same steps, updates of stored tensors moved up behind the last step that touches
//! what they write or end. Only launches that free much move: many small ones are better launched together (`group`).

use super::lifetime::{buffers, root};
use super::reuse::loops;
use crate::kernel::Kernel;
use crate::kernel::lower::product;
use nnc_runtime::manifest::{BufferId, Entry, Plan, Sink, Step, Storage};
use std::collections::BTreeSet;

/// Bytes that are worth a launch of their own.
const MUCH: i64 = 1 << 20;

/// Rewrites the entry; launches count into `kernels`.
pub(super) fn sooner(entry: &mut Entry, kernels: &[Kernel]) {
    let roots = |tensors: bool| {
        let wanted = entry.results.iter().filter(move |(sink, _)| !tensors || matches!(sink, Sink::Tensor(_)));
        wanted.map(|(_, b)| root(&entry.plan, *b)).collect::<BTreeSet<BufferId>>()
    };
    let (stored, results) = (roots(true), roots(false));
    let plan = &mut entry.plan;
    let around = loops(&plan.steps);
    let touched: Vec<BTreeSet<BufferId>> = plan.steps.iter().map(|s| touched(plan, s)).collect();
    let written: Vec<BTreeSet<BufferId>> = plan.steps.iter().map(|s| written(plan, s, kernels)).collect();
    let mut ends = vec![0; plan.buffers.len()];
    for (at, touched) in touched.iter().enumerate() {
        touched.iter().for_each(|b| ends[*b as usize] = at);
    }
    let moves = |step: usize| {
        let kind = matches!(plan.steps[step], Step::Launch(_) | Step::Copy { .. });
        kind && around[step].1 == usize::MAX && step >= plan.advance as usize
    };
    let ended = |k: usize| touched[k].iter().copied().filter(|b| ends[*b as usize] == k && !results.contains(b)).collect::<BTreeSet<BufferId>>();
    let frees = |k: usize| {
        let much = ended(k).iter().any(|b| plan.buffers[*b as usize].storage == Storage::Arena && bytes(plan, *b).is_some_and(|n| n >= MUCH));
        much && !written[k].is_empty() && written[k].is_subset(&stored)
    };
    let Some(last) = (0..plan.steps.len()).rev().find(|k| moves(*k) && frees(*k)) else { return };
    // Numbers that updates share, such as rates, are computed before any.
    let scalars = |k: usize| !written[k].is_empty() && written[k].iter().all(|b| bytes(plan, *b).is_some_and(|n| n <= 8));
    // Steps keep their numbers while they move.
    let mut order: Vec<usize> = (0..plan.steps.len()).collect();
    for k in (0..=last).filter(|k| moves(*k) && (frees(*k) || scalars(*k))) {
        let ended = ended(k);
        let waits = |step: &usize| {
            let made = !written[*step].is_disjoint(&touched[k]);
            made || !touched[*step].is_disjoint(&written[k]) || !touched[*step].is_disjoint(&ended) || !moves(*step)
        };
        let here = order.iter().position(|step| *step == k).unwrap_or(k);
        let to = order[..here].iter().rposition(waits).map_or(0, |before| before + 1);
        order[to..=here].rotate_right(1);
    }
    let mut steps: Vec<Option<Step>> = std::mem::take(&mut plan.steps).into_iter().map(Some).collect();
    plan.steps = order.into_iter().filter_map(|step| steps[step].take()).collect();
}

/// The memory that a step touches.
fn touched(plan: &Plan, step: &Step) -> BTreeSet<BufferId> {
    buffers(step).into_iter().map(|b| root(plan, b)).collect()
}

/// What of it a step may write.
fn written(plan: &Plan, step: &Step, kernels: &[Kernel]) -> BTreeSet<BufferId> {
    let Step::Launch(launch) = step else { return touched(plan, step) };
    let params = &kernels[launch.kernel as usize].params;
    launch.args.iter().zip(params).filter(|(_, p)| p.written).map(|(b, _)| root(plan, *b)).collect()
}

/// The size of a buffer, where it does not depend on dims.
fn bytes(plan: &Plan, id: BufferId) -> Option<i64> {
    let buffer = &plan.buffers[id as usize];
    product(&buffer.shape).as_const().map(|n| n.saturating_mul(buffer.dtype.bytes() as i64))
}
