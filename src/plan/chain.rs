//! Launches that can be run part by part, one after the other for each: attention's scores, their softmax and its product with the values, head by head.
//! What one hands to the next is then never in memory for all parts: it stays in a cache, and each thread needs one part's worth of it.
//!
//! In: an entry's steps before lifetimes are set. Out: its chains ([`nnc_runtime::manifest::Chain`]). Steps and buffers stay as they are: a run that does
//! not take a chain part by part (too few parts for its threads) is the same plan. No task changes, so no bit does.

use super::group::fails;
use super::lifetime::{buffers, root};
use super::reuse::loops;
use crate::ir::Size;
use crate::kernel::Kernel;
use crate::kernel::lower::product;
use crate::kernel::parts::parts;
use nnc_runtime::manifest::{BufferId, Chain, Entry, Launch, Plan, Step, Storage};

/// Sets them; launches count into `kernels`.
pub(super) fn chain(entry: &mut Entry, kernels: &[Kernel]) {
    let around = loops(&entry.plan.steps);
    let links: Vec<Option<Link>> = (0..entry.plan.steps.len())
        .map(|n| match &entry.plan.steps[n] {
            Step::Launch(launch) if n >= entry.plan.advance as usize && around[n].1 == usize::MAX => Link::of(&entry.plan, launch, kernels),
            _ => None,
        })
        .collect();
    let (mut chains, mut first) = (vec![], 0);
    while first < links.len() {
        // The smallest parts stay in the nearest cache.
        let counts = links[first].iter().flat_map(|link| link.counts());
        let best = counts.map(|count| found(entry, &links, first, count)).find(|chain| !chain.own.is_empty());
        first = best.as_ref().map_or(first + 1, |chain| (chain.first + chain.steps) as usize);
        chains.extend(best);
    }
    entry.plan.chains = chains;
}

/// A launch that could be part of a chain.
struct Link {
    /// How many parts along its first variable, its first two, and so on.
    counts: Vec<Size>,
    /// For every buffer that it touches the memory's root, along how many variables it lies as parts do (0 where it is only some of its memory), and
    /// whether it is written.
    touches: Vec<(BufferId, usize, bool)>,
    product: bool,
}

impl Link {
    fn of(plan: &Plan, launch: &Launch, kernels: &[Kernel]) -> Option<Link> {
        let kernel = &kernels[launch.kernel as usize];
        let parts = parts(kernel).filter(|_| launch.beside.is_empty() && !fails(kernel))?;
        let in_program = |name: &str| launch.sizes.get(name.strip_prefix('n')?.parse::<usize>().ok()?).cloned();
        let sizes: Vec<Size> = parts.sizes.iter().map(|size| size.substitute(&in_program)).collect();
        let counts = (1..=sizes.len()).map(|n| product(&sizes[..n])).collect();
        let whole = |id: &BufferId| !matches!(plan.buffers[*id as usize].storage, Storage::Part(_));
        let touches = launch.args.iter().enumerate().map(|(n, id)| {
            let along = if whole(id) { parts.along[n] } else { 0 };
            (root(plan, *id), along, kernel.params[n].written)
        });
        Some(Link { counts, touches: touches.collect(), product: parts.product })
    }

    /// Numbers of parts, the largest first.
    fn counts(&self) -> impl Iterator<Item = &Size> {
        self.counts.iter().rev().filter(|count| count.as_const() != Some(1))
    }

    /// Along how many variables it has so many parts.
    fn depth(&self, count: &Size) -> Option<usize> {
        self.counts.iter().position(|c| c == count).map(|n| n + 1)
    }
}

/// The longest chain of so many parts from a step on, with the buffers of which a part at a time is enough; none if no product is in it.
fn found(entry: &Entry, links: &[Option<Link>], first: usize, count: &Size) -> Chain {
    let plan = &entry.plan;
    // Roots, whether all touches so far are by parts, and whether one writes.
    let mut seen: Vec<(BufferId, bool, bool)> = vec![];
    let mut end = first;
    while let Some(Some(link)) = links.get(end)
        && let Some(depth) = link.depth(count)
    {
        let touches = || link.touches.iter().map(|&(root, along, written)| (root, along >= depth, written));
        let meets = |&(root, by_parts, written): &(BufferId, bool, bool)| {
            seen.iter().any(|&(other, as_parts, wrote)| other == root && (written || wrote) && !(by_parts && as_parts))
        };
        if touches().any(|touch| meets(&touch)) {
            break;
        }
        for (root, by_parts, written) in touches() {
            match seen.iter_mut().find(|(other, ..)| *other == root) {
                Some((_, all, wrote)) => (*all, *wrote) = (*all && by_parts, *wrote || written),
                None => seen.push((root, by_parts, written)),
            }
        }
        end += 1;
    }
    let range = first..end;
    let product = links[range.clone()].iter().flatten().any(|link| link.product);
    let elsewhere = |id: BufferId| {
        let steps = plan.steps.iter().enumerate().filter(|(n, _)| !range.contains(n));
        let mut touched = steps.flat_map(|(_, step)| buffers(step)).chain(entry.results.iter().map(|(_, b)| *b));
        touched.any(|b| root(plan, b) == id)
    };
    // Its views are as large as itself: a part is the same bytes of each.
    let alike = |id: BufferId| {
        let own = &plan.buffers[id as usize];
        let mut views = plan.buffers.iter().filter(|b| b.storage.of() == Some(id));
        views.all(|b| b.dtype == own.dtype && crate::kernel::lower::product(&b.shape) == crate::kernel::lower::product(&own.shape))
    };
    let local = |&(id, by_parts, _): &(BufferId, bool, bool)| {
        (by_parts && plan.buffers[id as usize].storage == Storage::Arena && alike(id) && !elsewhere(id)).then_some(id)
    };
    let own = if product && range.len() > 1 { seen.iter().filter_map(local).collect() } else { vec![] };
    Chain { first: first as u32, steps: range.len() as u32, parts: count.clone(), own }
}

#[cfg(test)]
mod tests {
    use crate::ir::{self, FunctionId};
    use crate::kernel::lower;
    use crate::plan::tests::{dims, f32s, law};
    use crate::plan::{plan, print::entry as print};
    use crate::span::Sources;
    use nnc_runtime::manifest::{Sink, Source};

    /// Attention's scores, weights and means of values, by heads; what comes before belongs to all heads.
    #[test]
    fn heads_go_through_attention_by_themselves() {
        let text = "dim B >= 1

fn @f(x: f32[B, 5, 24]) {
  %q[b, t, j]: f32[B, 5, 24] = exp(%x[b, t, j])
  %s[b, h, t, u]: f32[B, 3, 5, 5] = dot[k < 4](%q[b, t, 4*h + k] * %x[b, u, 4*h + k + 12])
  %m[b, h, t]: f32[B, 3, 5] = max[u < 5](%s[b, h, t, u])
  %e[b, h, t, u]: f32[B, 3, 5, 5] = exp(%s[b, h, t, u] - %m[b, h, t])
  %o[b, t, h, d]: f32[B, 5, 3, 4] = dot[u < 5](%e[b, h, t, u] * %x[b, u, 4*h + d])
  %z[b, t]: f32[B, 5] = sum[h < 3, d < 4](%o[b, t, h, d])
  return %z, %q
}
";
        let mut module = crate::ir::parse::module(text).unwrap();
        law(module.clone(), &[f32s(&[2, 5, 24], 0.1)], &dims(2));
        let results = ["z", "q"].map(|name| Sink::Result(name.into())).to_vec();
        module.entries = vec![ir::Entry { name: "infer:f".into(), function: FunctionId(0), inputs: vec![Source::Data("x".into())], results }];
        let (kernels, entries) = plan(&module, &lower(&module), &Sources::default());
        let text = print(&entries[0], &kernels);
        let steps: Vec<&str> = text.lines().filter(|l| l.contains("tasks") || l.contains(" parts,")).map(|l| l.split('(').next().unwrap()).collect();
        assert_eq!(steps.join("\n"), "  0: q\n  in 3*B parts, of each thread's own b2:\n    1: s\n    2: m_e\n    3: o\n  4: z", "{text}");
    }
}
