//! What an entry computes of stored tensors alone, in advance: it runs again only when they have changed. And what a loop multiplies by in each of its
//! rounds, packed before the loop.
//!
//! In: the steps of an entry, as they stand. Out: the same results. In an entry that changes no tensor, first come steps that read nothing but stored
//! tensors and each other's results, whose memory nobody else uses, and [`Plan::advance`] is their number. Weights that contractions multiply by are
//! packed into panels by such steps; in every entry, by steps before the loop that does not change them.
//!
//! [`Plan::advance`]: nnc_runtime::manifest::Plan::advance

use super::lifetime::root;
use crate::ir::{Affine, DType, Fold, Scalar, Size};
use crate::kernel::contract::{Contraction, cut, packed, panel, panels, roles};
use crate::kernel::lower::{product, tasks};
use crate::kernel::winograd::{self, Advance};
use crate::kernel::{Index, Instr, Kernel, Param, Stage, Store, Target, canonical};
use nnc_runtime::manifest::{Buffer, BufferId, Entry, Launch, Plan, Sink, Source, Step, Storage};
use std::collections::BTreeSet;

/// Rewrites the entry; launches count into `kernels`, which may become more.
pub(super) fn advance(entry: &mut Entry, kernels: &mut Vec<Kernel>) {
    if !entry.results.iter().any(|(sink, _)| matches!(sink, Sink::Tensor(_))) {
        of_tensors(entry, kernels);
    }
    before_loops(entry, kernels);
}

/// In an entry that changes no tensor.
fn of_tensors(entry: &mut Entry, kernels: &mut Vec<Kernel>) {
    let tensors: BTreeSet<BufferId> = entry.inputs.iter().filter(|(source, _)| matches!(source, Source::Tensor(_))).map(|(_, id)| *id).collect();
    let mut packs: Vec<Launch> = vec![];
    for k in 0..entry.plan.steps.len() {
        if let Step::Launch(launch) = entry.plan.steps[k].clone()
            && let Some((reader, pack)) = prepack(entry, &launch, &|_, b| tensors.contains(&b), kernels, &packs)
        {
            entry.plan.steps[k] = Step::Launch(reader);
            packs.extend(pack);
        }
    }
    let packed = packs.len();
    entry.plan.steps.splice(0..0, packs.into_iter().map(Step::Launch));
    hoist(entry, &tensors, kernels, packed);
}

/// What loops leave as it is and multiply by is packed before the outermost of them.
fn before_loops(entry: &mut Entry, kernels: &mut Vec<Kernel>) {
    let plan = &entry.plan;
    let loops: Vec<(usize, usize)> = plan
        .steps
        .iter()
        .enumerate()
        .filter_map(|(at, step)| if let Step::Loop { body, .. } = step { Some((at, at + *body as usize)) } else { None })
        .collect();
    let changed = |(at, end): (usize, usize)| -> BTreeSet<BufferId> {
        plan.steps[at..=end].iter().flat_map(|step| written(step, kernels)).map(|b| root(plan, b)).collect()
    };
    let changed: Vec<BTreeSet<BufferId>> = loops.iter().map(|l| changed(*l)).collect();
    let mut packs: Vec<Vec<Launch>> = vec![vec![]; loops.len()];
    for ((at, end), n) in loops.iter().zip(0..) {
        for k in at + 1..=*end {
            let stays = |plan: &Plan, b: BufferId| {
                let moves = matches!(&plan.buffers[b as usize].storage, Storage::Part(part) if !part.along.is_empty());
                !moves && !changed[n].contains(&root(plan, b))
            };
            if let Step::Launch(launch) = entry.plan.steps[k].clone()
                && let Some((reader, pack)) = prepack(entry, &launch, &stays, kernels, &packs[n])
            {
                entry.plan.steps[k] = Step::Launch(reader);
                packs[n].extend(pack);
            }
        }
    }
    // The last first, so that what comes before stays where it is.
    for ((at, _), packs) in loops.iter().zip(packs).rev() {
        let more = packs.len() as u32;
        for (around, step) in entry.plan.steps[..*at].iter_mut().enumerate() {
            if let Step::Loop { body, .. } = step
                && around + *body as usize >= *at
            {
                *body += more;
            }
        }
        entry.plan.steps.splice(at..at, packs.into_iter().map(Step::Launch));
    }
}

/// The launch with its B packed if it stays, and the launch that packs it, unless one of those before does.
fn prepack(
    entry: &mut Entry,
    launch: &Launch,
    stays: &dyn Fn(&Plan, BufferId) -> bool,
    kernels: &mut Vec<Kernel>,
    before: &[Launch],
) -> Option<(Launch, Option<Launch>)> {
    let kernel = &kernels[launch.kernel as usize];
    let in_program = |size: &Size| size.substitute(&|name| launch.sizes.get(name.strip_prefix('n')?.parse::<usize>().ok()?).cloned());
    let Packing { param, dtype, packer, sizes, points, shape, cost, reader } =
        squares(kernel, &in_program).or_else(|| of_panels(kernel, &in_program))?;
    let of = launch.args[param];
    if !stays(&entry.plan, of) {
        return None;
    }
    let packer = number(kernels, packer);
    let known = before.iter().find(|l| l.kernel == packer && l.args[0] == of);
    let (to, pack) = match known {
        Some(known) => (known.args[1], None),
        None => {
            let name = format!("packed {}", entry.plan.buffers[of as usize].name).into();
            entry.plan.buffers.push(Buffer { dtype, shape, storage: Storage::Arena, first: 0, last: 0, name });
            let to = entry.plan.buffers.len() as BufferId - 1;
            let (tasks, cost) = (product(&points), Size::constant(cost));
            (
                to,
                Some(Launch {
                    kernel: packer,
                    args: vec![of, to],
                    sizes,
                    tasks,
                    whole: Size::default(),
                    cost,
                    flops: Size::default(),
                    line: launch.line,
                    beside: vec![],
                    rows: None,
                }),
            )
        }
    };
    let mut launch = launch.clone();
    launch.args.push(to);
    (launch.tasks, launch.whole, launch.cost) = tasks(&reader, &canonical::map_sizes(&reader, &mut |size| in_program(size)));
    launch.kernel = number(kernels, reader);
    Some((launch, pack))
}

/// How a factor is packed: by this kernel of these sizes, at these points, from a parameter of the contraction to a buffer of this shape, for this
/// contraction to read.
struct Packing {
    param: usize,
    dtype: DType,
    packer: Kernel,
    sizes: Vec<Size>,
    points: Vec<Size>,
    shape: Vec<Size>,
    /// Of a point.
    cost: i64,
    reader: Kernel,
}

/// B as panels.
fn of_panels(kernel: &Kernel, in_program: &dyn Fn(&Size) -> Size) -> Option<Packing> {
    let c = roles(kernel).filter(|c| packed(kernel, c).is_none())?;
    let (c, weights) = match plain(kernel, &c) {
        Some(weights) => (c, weights),
        None => {
            let c = turned(kernel, c)?;
            let weights = plain(kernel, &c)?;
            (c, weights)
        }
    };
    let ([column], reds) = (&c.columns[..], &kernel.stages[c.stage].reds) else { return None };
    let (columns, reds) = (in_program(&kernel.outer[*column]), reds.iter().map(in_program).collect::<Vec<Size>>());
    let (packer, sizes, points) = packer(kernel, &c, &weights, &columns, &reds);
    let shape = [std::slice::from_ref(&points[0]), &reds, &[Size::constant(panel(c.dtype))]].concat();
    let reader = reader(kernel, &c, &packer);
    roles(&reader).filter(|c| packed(&reader, c).is_some())?;
    Some(Packing { param: weights.param, dtype: c.dtype, packer, sizes, points, shape, cost: 4, reader })
}

/// Points of an image up to which they are better rows than columns: they fill panels badly.
const FEW_POINTS: i64 = 196;

/// The contraction with its rows as columns, where its columns are the points of small images and its rows fill panels.
fn turned(kernel: &Kernel, c: Contraction) -> Option<Contraction> {
    let ([row], [.., y, x]) = (&c.rows[..], &c.columns[..]) else { return None };
    let known = |v: usize| kernel.outer[v].as_const();
    let points = known(*y)?.checked_mul(known(*x)?)?;
    let turns = points <= FEW_POINTS && known(*row)? % panel(c.dtype) == 0;
    turns.then(|| Contraction { factors: [c.factors[1], c.factors[0]], rows: c.columns.clone(), columns: c.rows.clone(), ..c })
}

/// The weights of a convolution in squares, transformed.
fn squares(kernel: &Kernel, in_program: &dyn Fn(&Size) -> Size) -> Option<Packing> {
    let c = winograd::recognise(kernel)?;
    let Advance { weights, packer, points, shape, reader } = winograd::advance(kernel, &c)?;
    let [points, shape] = [points, shape].map(|sizes| sizes.iter().map(in_program).collect::<Vec<Size>>());
    Some(Packing { param: weights, dtype: c.dtype, packer, sizes: points.clone(), points, shape, cost: 64, reader })
}

/// A factor that is one load of a whole tensor: the parameter, and for each axis its variable.
struct Plain {
    param: usize,
    axes: Vec<usize>,
}

/// B, where it is one, of one column variable and every reduction variable.
fn plain(kernel: &Kernel, c: &Contraction) -> Option<Plain> {
    let (stage, outer) = (&kernel.stages[c.stage], kernel.outer.len());
    let Instr::Load { param, index, otherwise: None } = &stage.body[c.factors[1]] else { return None };
    let [column] = c.columns[..] else { return None };
    let axes = index.iter().map(|i| if let Index::Affine(a) = i { a.as_var() } else { None }).collect::<Option<Vec<usize>>>()?;
    let range = |v: usize| if v < outer { &kernel.outer[v] } else { &stage.reds[v - outer] };
    let whole = axes.iter().zip(&kernel.params[*param].shape).all(|(v, size)| range(*v) == size);
    let mut sorted = axes.clone();
    sorted.sort_unstable();
    let wanted: Vec<usize> = std::iter::once(column).chain(outer..outer + stage.reds.len()).collect();
    (whole && sorted == wanted && !stage.reds.is_empty()).then_some(Plain { param: *param, axes })
}

/// The kernel that packs, the values of its sizes, and its points in the program's sizes. Its own sizes: panels, columns, steps.
fn packer(kernel: &Kernel, c: &Contraction, weights: &Plain, columns: &Size, reds: &[Size]) -> (Kernel, Vec<Size>, Vec<Size>) {
    let width = panel(c.dtype);
    let panels = cut(columns.clone(), width);
    let own = |n: usize| Size::dim(&format!("n{n}"));
    let (outer, last) = (kernel.outer.len(), reds.len() + 1);
    let column = Affine::var(0).scale(&Size::constant(width)).add(&Affine::var(last));
    let axis = |v: &usize| if *v < outer { (own(1), column.clone()) } else { (own(v - outer + 2), Affine::var(v - outer + 1)) };
    let (shape, index): (Vec<Size>, Vec<Affine>) = weights.axes.iter().map(axis).unzip();
    let steps: Vec<Size> = (0..reds.len()).map(|n| own(n + 2)).collect();
    let points = [&[own(0)], &steps[..], &[Size::constant(width)]].concat();
    let load = Instr::Load { param: 0, index: index.into_iter().map(Index::Affine).collect(), otherwise: Some(Scalar::float(c.dtype, 0.0)) };
    let to = Target::Param { param: 1, index: (0..=last).map(|v| Index::Affine(Affine::var(v))).collect(), fold: None };
    let stage = Stage {
        inner: vec![],
        reds: vec![],
        guards: vec![],
        skip: false,
        fold: Fold::None,
        body: vec![load],
        values: vec![0],
        stores: vec![Store { result: 0, target: to }],
    };
    let param = |shape: Vec<Size>, written: bool| Param { dtype: c.dtype, shape, written };
    let packer = Kernel {
        name: "pack".into(),
        sizes: reds.len() + 2,
        params: vec![param(shape, false), param(points.clone(), true)],
        outer: points,
        locals: vec![],
        stages: vec![stage],
    };
    let sizes = [&[panels.clone(), columns.clone()], reds].concat();
    let points = [&[panels], reds, &[Size::constant(width)]].concat();
    (packer, sizes, points)
}

/// The contraction with a further parameter, the packed panels, that its B is read from.
fn reader(kernel: &Kernel, c: &Contraction, packer: &Kernel) -> Kernel {
    let mut reader = kernel.clone();
    let (stage, outer) = (&mut reader.stages[c.stage], kernel.outer.len());
    let width = panel(c.dtype);
    let count = cut(kernel.outer[c.columns[0]].clone(), width);
    let shape = [&[count], &stage.reds[..], &[Size::constant(width)]].concat();
    let index = panels(c.columns[0], outer..outer + stage.reds.len(), c.dtype);
    stage.body[c.factors[1]] = Instr::Load { param: kernel.params.len(), index, otherwise: None };
    reader.params.push(Param { shape, written: false, ..packer.params[1].clone() });
    reader
}

/// The kernel's number.
fn number(kernels: &mut Vec<Kernel>, kernel: Kernel) -> u32 {
    crate::kernel::verify::check(&kernel);
    let known = kernels.iter().position(|k| *k == kernel);
    known.unwrap_or_else(|| {
        kernels.push(kernel);
        kernels.len() - 1
    }) as u32
}

/// The buffers that a step writes.
fn written(step: &Step, kernels: &[Kernel]) -> Vec<BufferId> {
    match step {
        Step::Launch(launch) => launch.args.iter().zip(&kernels[launch.kernel as usize].params).filter(|(_, p)| p.written).map(|(b, _)| *b).collect(),
        Step::Copy { to, .. } => vec![*to],
        Step::Loop { index, .. } => vec![*index],
        Step::Check { .. } => vec![],
    }
}

/// Brings the steps that can run in advance to the front: the first ones, which pack, and launches outside of loops that read tensors and each other's
/// results, and write whole buffers of known size, hardly larger than what they read, that nobody else writes.
fn hoist(entry: &mut Entry, tensors: &BTreeSet<BufferId>, kernels: &[Kernel], packed: usize) {
    let plan = &mut entry.plan;
    let mut writers = vec![0; plan.buffers.len()];
    for step in &plan.steps {
        written(step, kernels).into_iter().for_each(|b| writers[root(plan, b) as usize] += 1);
    }
    entry.results.iter().for_each(|(_, b)| writers[root(plan, *b) as usize] += 1);
    let (mut known, mut first, mut rest) = (tensors.clone(), vec![], vec![]);
    let mut inside = 0;
    for (at, step) in std::mem::take(&mut plan.steps).into_iter().enumerate() {
        let outside = inside == 0;
        inside = if let Step::Loop { body, .. } = &step { inside.max(*body as usize + 1) } else { inside }.saturating_sub(1);
        let advances = outside
            && matches!(&step, Step::Launch(launch) if {
                let written = |n: &usize| kernels[launch.kernel as usize].params[*n].written;
                let elements = |n: &usize| product(&plan.buffers[launch.args[*n] as usize].shape).as_const();
                let (writes, reads): (Vec<usize>, Vec<usize>) = (0..launch.args.len()).partition(|n| written(n));
                let own = |n: &usize| {
                    let b = launch.args[*n];
                    plan.buffers[b as usize].storage == Storage::Arena && writers[b as usize] == 1
                };
                let sum = |of: &[usize]| of.iter().map(elements).try_fold(0i64, |sum, n| sum.checked_add(n?));
                let small = matches!((sum(&writes), sum(&reads)), (Some(w), Some(r)) if w <= r.saturating_mul(2) + 4096);
                !reads.is_empty() && writes.iter().all(own) && reads.iter().all(|n| known.contains(&launch.args[*n])) && (small || at < packed)
            });
        if let (true, Step::Launch(launch)) = (advances, &step) {
            for b in &launch.args {
                if known.insert(*b) {
                    // Its memory is its own from the first run to the last.
                    plan.buffers[*b as usize].storage = Storage::Result;
                }
            }
            first.push(step);
        } else {
            rest.push(step);
        }
    }
    plan.advance = first.len() as u32;
    plan.steps = first;
    plan.steps.append(&mut rest);
}
