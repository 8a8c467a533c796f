//! From which step to which every buffer is alive.

use nnc_runtime::manifest::{BufferId, Entry, Part, Plan, Step, Storage};

/// Sets `first` and `last` of every buffer, and leaves out buffers that nothing touches.
pub(super) fn set(entry: &mut Entry) {
    let touched = touches(entry);
    compact(entry, &touched.iter().map(Option::is_some).collect::<Vec<_>>());
    let last_step = (entry.plan.steps.len() as u32).saturating_sub(1);
    let mut lives = touches(entry);
    for (start, step) in entry.plan.steps.iter().enumerate().rev() {
        // Inner loops come later, so they have been seen: what lives across an edge of a loop lives through all of its rounds.
        if let Step::Loop { body, index, .. } = step {
            let (start, end) = (start as u32, start as u32 + body);
            lives[*index as usize] = lives[*index as usize].map(|(first, last)| (first.min(start), last.max(end)));
            for (first, last) in lives.iter_mut().flatten() {
                let touches = *first <= end && *last >= start;
                if touches && (*first < start || *last > end) {
                    (*first, *last) = ((*first).min(start), (*last).max(end));
                }
            }
        }
    }
    for (buffer, life) in entry.plan.buffers.iter_mut().zip(&lives) {
        let (first, last) = life.unwrap_or((0, last_step));
        (buffer.first, buffer.last) = match buffer.storage {
            Storage::Arena => (first, last.min(last_step)),
            Storage::Result => (first, last_step),
            Storage::Input | Storage::Constant(_) => (0, last_step),
            // Set below.
            Storage::Alias(_) | Storage::Part(_) => (0, 0),
        };
    }
    for i in 0..entry.plan.buffers.len() {
        if let Some(of) = entry.plan.buffers[i].storage.of() {
            let of = &entry.plan.buffers[of as usize];
            let life = (of.first, of.last);
            (entry.plan.buffers[i].first, entry.plan.buffers[i].last) = life;
        }
    }
}

/// The buffers that a step touches.
pub(super) fn buffers(step: &Step) -> Vec<BufferId> {
    match step {
        Step::Launch(launch) => launch.buffers().copied().collect(),
        Step::Loop { index, .. } => vec![*index],
        Step::Copy { from, to } => vec![*from, *to],
        Step::Check { condition, .. } => vec![*condition],
    }
}

/// First and last step that touches each buffer's memory, through an alias too; entry inputs and results count as touched,
/// results behind the last step: a loop that ends the entry is not their whole life.
fn touches(entry: &Entry) -> Vec<Option<(u32, u32)>> {
    let plan = &entry.plan;
    let mut lives: Vec<Option<(u32, u32)>> = vec![None; plan.buffers.len()];
    let mut touch = |id: BufferId, at: u32| {
        for id in [id, root(plan, id)] {
            let life = &mut lives[id as usize];
            *life = Some(life.map_or((at, at), |(first, last)| (first.min(at), last.max(at))));
        }
    };
    for (at, step) in plan.steps.iter().enumerate() {
        buffers(step).into_iter().for_each(|b| touch(b, at as u32));
    }
    entry.inputs.iter().for_each(|(_, b)| touch(*b, 0));
    entry.results.iter().for_each(|(_, b)| touch(*b, plan.steps.len() as u32));
    lives
}

/// The buffer whose memory it is.
pub(super) fn root(plan: &Plan, id: BufferId) -> BufferId {
    plan.buffers[id as usize].storage.of().unwrap_or(id)
}

/// Keeps the marked buffers and renumbers.
fn compact(entry: &mut Entry, keep: &[bool]) {
    let next = |count: &mut BufferId, k: &bool| Some(std::mem::replace(count, *count + *k as BufferId));
    let new: Vec<BufferId> = keep.iter().scan(0, next).collect();
    let to = |id: &mut BufferId| *id = new[*id as usize];
    let mut kept = keep.iter();
    entry.plan.buffers.retain(|_| *kept.next().unwrap_or(&true));
    for buffer in &mut entry.plan.buffers {
        match &mut buffer.storage {
            Storage::Alias(of) => to(of),
            Storage::Part(Part { of, along, .. }) => [of].into_iter().chain(along.iter_mut().map(|(index, _)| index)).for_each(to),
            Storage::Arena | Storage::Input | Storage::Result | Storage::Constant(_) => {}
        }
    }
    for step in &mut entry.plan.steps {
        match step {
            Step::Launch(launch) => launch.buffers_mut().for_each(to),
            Step::Loop { index, .. } => to(index),
            Step::Copy { from, to: target } => [from, target].into_iter().for_each(to),
            Step::Check { condition, .. } => to(condition),
        }
    }
    entry.plan.chains.iter_mut().flat_map(|chain| &mut chain.own).for_each(to);
    entry.inputs.iter_mut().map(|(_, b)| b).for_each(to);
    entry.results.iter_mut().map(|(_, b)| b).for_each(to);
}
