//! Where a plan's buffers lie in its one arena.
//!
//! In: a plan and the bytes of every buffer at given dims. Out: an offset, a multiple of [`ALIGN`], for every buffer that has memory in the
//! arena, and the arena's size. Buffers that are alive at the same time do not overlap; the same question always gets the same answer, so
//! what a plan says about memory is what a run allocates.

use crate::manifest::{Plan, Storage};
use std::ops::Range;

/// Every buffer starts at a multiple of this many bytes: the widest vector that kernels load, and a cache line.
pub const ALIGN: usize = 64;

/// A piece of memory: how large, and from which step to which (inclusive) it is alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its size.
    pub bytes: usize,
    /// First step.
    pub first: u32,
    /// Last step.
    pub last: u32,
}

/// Offsets and the arena's size.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// For every item asked for.
    pub offsets: Vec<usize>,
    /// The end of the last one.
    pub bytes: usize,
}

/// Places items: the largest first, each into the smallest gap that takes it between those alive at the same time. Nothing if the arena would
/// have more than 2^62 bytes.
pub fn place(items: &[Item]) -> Option<Placement> {
    let mut order: Vec<usize> = (0..items.len()).filter(|i| items[*i].bytes > 0).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(items[*i].bytes), items[*i].first, *i));
    let mut offsets = vec![0; items.len()];
    // By offset.
    let mut placed: Vec<usize> = Vec::with_capacity(order.len());
    let mut total = 0;
    for i in order {
        let item = items[i];
        let bytes = item.bytes.checked_next_multiple_of(ALIGN)?;
        let (mut end, mut best) = (0, None);
        for &other in placed.iter().filter(|o| items[**o].first <= item.last && item.first <= items[**o].last) {
            let start = offsets[other];
            if start >= end + bytes && best.is_none_or(|(gap, _)| start - end < gap) {
                best = Some((start - end, end));
            }
            end = end.max(start + items[other].bytes.next_multiple_of(ALIGN));
        }
        offsets[i] = best.map_or(end, |(_, at)| at);
        total = total.max(offsets[i].checked_add(bytes).filter(|n| *n <= 1 << 62)?);
        let at = placed.partition_point(|o| (offsets[*o], *o) < (offsets[i], i));
        placed.insert(at, i);
    }
    Some(Placement { offsets, bytes: total })
}

/// Places a plan's buffers, of which buffer `n` has `bytes[n]` bytes. Inputs have no offset; aliases and parts have
/// that of the buffer whose memory they are. What steps of a `chained` range touch lives through all of it: some parts are done before others begin.
pub fn plan(plan: &Plan, bytes: &[usize], chained: &[Range<usize>]) -> Option<(Vec<Option<usize>>, usize)> {
    let owned = |i: &usize| matches!(plan.buffers[*i].storage, Storage::Arena | Storage::Result | Storage::Constant(_));
    let ids: Vec<usize> = (0..plan.buffers.len()).filter(owned).collect();
    let item = |i: &usize| {
        let mut item = Item { bytes: bytes[*i], first: plan.buffers[*i].first, last: plan.buffers[*i].last };
        for steps in chained {
            let (first, last) = (steps.start as u32, steps.end as u32 - 1);
            if item.first <= last && first <= item.last {
                (item.first, item.last) = (item.first.min(first), item.last.max(last));
            }
        }
        item
    };
    let items: Vec<Item> = ids.iter().map(item).collect();
    let placement = place(&items)?;
    let mut offsets = vec![None; plan.buffers.len()];
    ids.iter().zip(placement.offsets).for_each(|(i, at)| offsets[*i] = Some(at));
    for i in 0..plan.buffers.len() {
        if let Some(of) = plan.buffers[i].storage.of() {
            offsets[i] = offsets.get(of as usize).copied().flatten();
        }
    }
    Some((offsets, placement.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers without a pattern, the same every time.
    fn numbers(seed: u64) -> impl FnMut(u64) -> u64 {
        let mut state = seed;
        move |below| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 33) % below
        }
    }

    #[test]
    fn what_lives_together_lies_apart() {
        for seed in 0..200 {
            let mut next = numbers(seed);
            let item = |_| {
                let first = next(30) as u32;
                Item { bytes: next(1000) as usize, first, last: first + next(8) as u32 }
            };
            let items: Vec<Item> = (0..40).map(item).collect();
            let placement = place(&items).unwrap();
            let range = |i: usize| placement.offsets[i]..placement.offsets[i] + items[i].bytes;
            for i in 0..items.len() {
                assert_eq!(placement.offsets[i] % ALIGN, 0);
                for j in 0..i {
                    let together = items[i].first <= items[j].last && items[j].first <= items[i].last;
                    let overlap = range(i).start < range(j).end && range(j).start < range(i).end;
                    assert!(!(together && overlap), "{:?} at {:?} and {:?} at {:?}", items[i], range(i), items[j], range(j));
                }
            }
            let end = (0..items.len()).map(|i| range(i).end.next_multiple_of(ALIGN)).max().unwrap();
            assert_eq!(placement.bytes, end);
            assert_eq!(place(&items).unwrap(), placement);
        }
    }

    #[test]
    fn memory_is_used_again_and_overflow_is_noticed() {
        let item = |bytes, first, last| Item { bytes, first, last };
        let chain = place(&[item(64, 0, 1), item(64, 1, 2), item(64, 2, 3), item(0, 0, 3)]).unwrap();
        assert_eq!(chain.bytes, 128);
        assert_eq!(place(&[item(usize::MAX - 3, 0, 0)]), None);
        assert_eq!(place(&[item(1 << 61, 0, 0), item(1 << 61, 0, 0), item(64, 0, 0)]), None);
    }
}
