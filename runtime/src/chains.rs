//! Which of a plan's chains are run part by part here, and where each thread has its parts.
//!
//! In: a plan at given dims, and how many threads. Out: those of its chains whose parts are enough for the threads and worth it, and the arena with memory
//! for one part a thread of what these hand from launch to launch. Other chains' launches run one after the other, each for all parts.

use crate::error::{Result, RunError};
use crate::exec::{At, align, broken, eval};
use crate::manifest::{Entry, Step, Storage};
use crate::place;
use crate::size::Dims;

/// Below so many bytes in all parts together everything stays in the second cache anyway.
const NEAR: usize = 512 << 10;
/// Below so many bytes a part is done sooner than it is begun.
const SMALL: usize = 16 << 10;

/// A chain that is run part by part.
pub(crate) struct Active {
    /// Its first step.
    pub first: usize,
    /// The step after its last.
    pub end: usize,
    pub parts: i64,
}

/// Where a plan's buffers lie.
pub(crate) struct Placed {
    /// Nothing for inputs.
    pub at: Vec<Option<At>>,
    /// The arena's size.
    pub bytes: usize,
    /// What of it each buffer takes that has memory of its own.
    pub sizes: Vec<usize>,
    pub chains: Vec<Active>,
    /// For every buffer the chain that it belongs to, by position in `chains`.
    pub chain_of: Vec<Option<usize>>,
}

/// Places the buffers, which have `bytes`, for so many threads; no chain is taken where a run is to be seen launch by launch: for 0 threads.
///
/// # Errors
/// A plan that contradicts itself, or does not fit in memory.
pub(crate) fn place(entry: &Entry, dims: &Dims, bytes: &[usize], threads: usize) -> Result<Placed> {
    let plan = &entry.plan;
    let none = || RunError::World(format!("{} does not fit in memory", entry.name));
    let (mut chains, mut chain_of, mut sizes) = (vec![], vec![None; bytes.len()], bytes.to_vec());
    for chain in &plan.chains {
        let (first, end) = (chain.first as usize, chain.first as usize + chain.steps as usize);
        let after = chains.last().map_or(plan.advance as usize, |last: &Active| last.end);
        let launches = plan.steps.get(first..end).filter(|_| first >= after);
        let alone = |step: &Step| matches!(step, Step::Launch(launch) if launch.beside.is_empty());
        if launches.is_none_or(|steps| steps.is_empty() || !steps.iter().all(alone)) {
            return broken(entry);
        }
        let parts = eval(&chain.parts, dims, &|| format!("the parts of step {first} of {}", entry.name))?;
        let ids: Vec<usize> = chain.own.iter().map(|id| *id as usize).collect();
        let all = ids.iter().try_fold(0usize, |sum, id| sum.checked_add(bytes[*id])).ok_or_else(none)?;
        if !worth(parts, threads, all) {
            continue;
        }
        for id in ids {
            let buffer = &plan.buffers[id];
            if buffer.storage != Storage::Arena || chain_of[id].is_some() || !bytes[id].is_multiple_of(parts as usize) {
                return broken(entry);
            }
            chain_of[id] = Some(chains.len());
            sizes[id] = align(bytes[id] / parts as usize).and_then(|part| part.checked_mul(threads)).ok_or_else(none)?;
        }
        chains.push(Active { first, end, parts });
    }
    let chained: Vec<_> = chains.iter().map(|chain: &Active| chain.first..chain.end).collect();
    let (offsets, bytes) = place::plan(plan, &sizes, &chained).ok_or_else(none)?;
    let at = |(offset, chain): (Option<usize>, &Option<usize>)| offset.map(if chain.is_some() { At::Own } else { At::Arena });
    let at = offsets.into_iter().zip(&chain_of).map(at).collect();
    Ok(Placed { at, bytes, sizes, chains, chain_of })
}

/// Whether threads get equal shares of the parts, and parts are not too small for the trouble.
fn worth(parts: i64, threads: usize, bytes: usize) -> bool {
    let parts = parts.max(0) as usize;
    let equal = || parts.div_ceil(threads).checked_mul(threads).is_some_and(|n| n <= parts + parts / 8);
    parts > 1 && threads > 0 && equal() && bytes >= NEAR && bytes / parts >= SMALL
}

#[cfg(test)]
mod tests {
    use super::worth;

    #[test]
    fn chains_are_for_enough_parts_of_some_size() {
        let (head, heads) = (64 << 10, 12 * 8);
        assert!(worth(heads, 1, head * 96) && worth(heads, 2, head * 96) && worth(12, 4, head * 12));
        // Twelve parts are no equal shares for eight threads, nor for more than twelve.
        assert!(!worth(12, 8, head * 12) && !worth(12, 16, head * 12));
        assert!(!worth(heads, 2, 96 * 1024) && !worth(4, 2, head * 4) && !worth(1, 1, 1 << 30) && !worth(heads, 0, head * 96));
    }
}
