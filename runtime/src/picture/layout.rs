//! Where boxes and arrows go: each group is laid out by itself, in layers, and then is a box of the group around it.
//!
//! A layer is what lies at one height; every arrow goes down. An arrow that passes layers has a place in each (a *bend*), and one that enters or leaves
//! a group has one at the group's edge (a *port*), so that no arrow runs through a box. Arrows with the same origin share their places. Orders within layers are
//! found by barycentres, positions by what lies above and below, as in Sugiyama's method.

use super::Picture;
use std::collections::BTreeMap;

/// A rectangle.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rect {
    pub x: f64,
    pub y: f64,
    pub w: f64,
    pub h: f64,
}

/// Everything's place.
#[derive(Default)]
pub struct Layout {
    /// By node.
    pub nodes: Vec<Rect>,
    /// By group.
    pub groups: Vec<Rect>,
    /// By edge, from its beginning to its end.
    pub paths: Vec<Vec<(f64, f64)>>,
    pub width: f64,
    pub height: f64,
}

const GAP_X: f64 = 22.0;
const GAP_Y: f64 = 38.0;
const PAD: f64 = 14.0;
/// Above the content of a group: its name.
pub const HEAD: f64 = 20.0;

/// What has a place in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Node(usize),
    Group(usize),
    /// Where what `node` makes enters.
    In(usize),
    /// Where what `node` makes leaves.
    Out(usize),
    /// Where what `node` makes passes a layer.
    Bend(usize, usize),
}

struct Item {
    what: What,
    w: f64,
    h: f64,
    rank: usize,
    /// Its middle.
    x: f64,
    y: f64,
}

/// A group laid out by itself.
struct Inside {
    items: BTreeMap<What, (f64, f64, f64)>,
    ranks: BTreeMap<What, usize>,
    /// Top and bottom of each layer.
    layers: Vec<(f64, f64)>,
    w: f64,
    h: f64,
}

/// Lays out a picture whose nodes have these sizes; `spare` is the least width that a node is given, for what is written below it.
pub fn layout(picture: &Picture, sizes: &[(f64, f64)], spare: &[f64]) -> Layout {
    let count = picture.groups.len();
    let mut inside: Vec<Option<Inside>> = (0..=count).map(|_| None).collect();
    // Inner groups come after the groups around them; `count` is the whole picture.
    for g in (0..=count).rev().map(|g| if g == count { None } else { Some(g) }).skip(1).chain([None]) {
        inside[g.unwrap_or(count)] = Some(one(picture, g, sizes, spare, &inside));
    }
    let mut out = Layout { nodes: vec![Rect::default(); sizes.len()], groups: vec![Rect::default(); count], ..Layout::default() };
    let whole = inside[count].as_ref().expect("laid out last");
    (out.width, out.height) = (whole.w, whole.h);
    place(&inside, None, (0.0, 0.0), sizes, &mut out);
    out.paths = picture.edges.iter().map(|e| path(picture, &inside, &out, e.from, e.to)).collect();
    out
}

/// The item of `group` that holds the node, if any does.
fn holder(picture: &Picture, group: Option<usize>, node: usize) -> Option<What> {
    let own = picture.nodes[node].group;
    if own == group {
        return Some(What::Node(node));
    }
    picture.frames(own).into_iter().find(|g| picture.groups[*g].within == group).map(What::Group)
}

fn one(picture: &Picture, group: Option<usize>, sizes: &[(f64, f64)], spare: &[f64], done: &[Option<Inside>]) -> Inside {
    let mut items: Vec<Item> = vec![];
    let mut at: BTreeMap<What, usize> = BTreeMap::new();
    let mut add = |items: &mut Vec<Item>, what, w, h| {
        at.entry(what).or_insert_with(|| {
            items.push(Item { what, w, h, rank: 0, x: 0.0, y: 0.0 });
            items.len() - 1
        });
        at[&what]
    };
    for n in (0..sizes.len()).filter(|n| picture.nodes[*n].group == group) {
        add(&mut items, What::Node(n), sizes[n].0.max(spare[n]), sizes[n].1);
    }
    for g in (0..picture.groups.len()).filter(|g| picture.groups[*g].within == group) {
        let inner = done[g].as_ref().expect("inner groups come first");
        add(&mut items, What::Group(g), inner.w, inner.h);
    }
    // From an item, by the node whose value it is, to another.
    let mut links: Vec<(usize, usize, usize)> = vec![];
    for e in &picture.edges {
        let link = match (holder(picture, group, e.from), holder(picture, group, e.to)) {
            (Some(a), Some(b)) if a == b => continue,
            (Some(a), Some(b)) => (add(&mut items, a, 0.0, 0.0), e.from, add(&mut items, b, 0.0, 0.0)),
            (None, Some(b)) => (add(&mut items, What::In(e.from), 1.0, 1.0), e.from, add(&mut items, b, 0.0, 0.0)),
            (Some(a), None) => (add(&mut items, a, 0.0, 0.0), e.from, add(&mut items, What::Out(e.from), 1.0, 1.0)),
            (None, None) => continue,
        };
        links.push(link);
    }
    links.sort_unstable();
    links.dedup();
    rank(&mut items, &links);
    let segments = bends(&mut items, &links);
    let mut layers: Vec<Vec<usize>> = vec![vec![]; items.iter().map(|i| i.rank + 1).max().unwrap_or(1)];
    (0..items.len()).for_each(|i| layers[items[i].rank].push(i));
    order(&mut layers, &segments, items.len());
    across(&mut items, &layers, &segments);
    // Down.
    let mut y = if group.is_some() { HEAD + PAD / 2.0 } else { PAD };
    let mut bands = vec![];
    for layer in &layers {
        let height = layer.iter().map(|i| items[*i].h).fold(0.0, f64::max);
        layer.iter().for_each(|i| items[*i].y = y + height / 2.0);
        bands.push((y, y + height));
        let ports = layer.iter().all(|i| matches!(items[*i].what, What::In(_) | What::Out(_)));
        y += height + if ports { GAP_Y / 3.0 } else { GAP_Y };
    }
    let h = bands.last().map_or(0.0, |b| b.1) + PAD;
    let left = items.iter().map(|i| i.x - i.w / 2.0).fold(f64::INFINITY, f64::min).min(f64::MAX);
    let name = group.map_or(0.0, |g| super::svg::width(&picture.groups[g].name) + 2.0 * PAD);
    let right = items.iter().map(|i| i.x + i.w / 2.0).fold(f64::NEG_INFINITY, f64::max);
    let content = if items.is_empty() { 0.0 } else { right - left };
    let w = (content + 2.0 * PAD).max(name);
    let shift = if items.is_empty() { 0.0 } else { (w - content) / 2.0 - left };
    Inside {
        items: items.iter().map(|i| (i.what, (i.x + shift, i.y, i.h))).collect(),
        ranks: items.iter().map(|i| (i.what, i.rank)).collect(),
        layers: bands,
        w,
        h,
    }
}

/// Layers: below everything that is read; what reads nothing is just above its first reader.
fn rank(items: &mut [Item], links: &[(usize, usize, usize)]) {
    let ports = items.iter().any(|i| matches!(i.what, What::In(_)));
    let first = usize::from(ports);
    for item in items.iter_mut() {
        item.rank = if matches!(item.what, What::In(_)) { 0 } else { first };
    }
    // As many rounds as there are layers settle it; the picture has no circles.
    for _ in 0..=items.len() {
        let mut moved = false;
        for &(a, _, b) in links {
            if items[b].rank <= items[a].rank {
                items[b].rank = items[a].rank + 1;
                moved = true;
            }
        }
        if !moved {
            break;
        }
    }
    let last = items.iter().filter(|i| !matches!(i.what, What::Out(_))).map(|i| i.rank).max().unwrap_or(0);
    for i in 0..items.len() {
        if matches!(items[i].what, What::Out(_)) {
            items[i].rank = last + 1;
        } else if !matches!(items[i].what, What::In(_))
            && !links.iter().any(|l| l.2 == i)
            && let Some(reader) = links.iter().filter(|l| l.0 == i).map(|l| items[l.2].rank).min()
        {
            items[i].rank = reader.saturating_sub(1).max(first);
        }
    }
}

/// Cuts links into pieces from one layer to the next.
fn bends(items: &mut Vec<Item>, links: &[(usize, usize, usize)]) -> Vec<(usize, usize)> {
    let mut at: BTreeMap<(usize, usize, usize), usize> = BTreeMap::new();
    let mut segments = vec![];
    for &(a, value, b) in links {
        let mut above = a;
        for rank in items[a].rank + 1..items[b].rank {
            let next = *at.entry((a, value, rank)).or_insert_with(|| {
                items.push(Item { what: What::Bend(value, rank), w: 6.0, h: 0.0, rank, x: 0.0, y: 0.0 });
                items.len() - 1
            });
            segments.push((above, next));
            above = next;
        }
        segments.push((above, b));
    }
    segments.sort_unstable();
    segments.dedup();
    segments
}

/// Orders each layer by the mean place of what its items are joined to, down and up in turn; the order with the fewest crossings is kept.
fn order(layers: &mut Vec<Vec<usize>>, segments: &[(usize, usize)], count: usize) {
    let (mut above, mut below) = (vec![vec![]; count], vec![vec![]; count]);
    for &(a, b) in segments {
        above[b].push(a);
        below[a].push(b);
    }
    let mut place = vec![0usize; count];
    let note = |layer: &[usize], place: &mut Vec<usize>| layer.iter().enumerate().for_each(|(k, i)| place[*i] = k);
    layers.iter().for_each(|l| note(l, &mut place));
    let crossings = |layers: &[Vec<usize>], place: &[usize]| -> usize {
        layers
            .iter()
            .map(|layer| {
                let ends: Vec<usize> = layer
                    .iter()
                    .flat_map(|i| {
                        let mut e: Vec<usize> = below[*i].iter().map(|b| place[*b]).collect();
                        e.sort_unstable();
                        e
                    })
                    .collect();
                (0..ends.len()).map(|k| ends[..k].iter().filter(|e| **e > ends[k]).count()).sum::<usize>()
            })
            .sum()
    };
    let (mut best, mut least) = (layers.clone(), crossings(layers, &place));
    for round in 0..12 {
        let down = round % 2 == 0;
        let sequence: Vec<usize> = if down { (0..layers.len()).collect() } else { (0..layers.len()).rev().collect() };
        for l in sequence {
            let joined = if down { &above } else { &below };
            let mean = |i: usize| match joined[i].as_slice() {
                [] => place[i] as f64,
                all => all.iter().map(|j| place[*j] as f64).sum::<f64>() / all.len() as f64,
            };
            let mut keyed: Vec<(f64, usize)> = layers[l].iter().map(|i| (mean(*i), *i)).collect();
            keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
            layers[l] = keyed.into_iter().map(|(_, i)| i).collect();
            note(&layers[l], &mut place);
        }
        let now = crossings(layers, &place);
        if now < least {
            (best, least) = (layers.clone(), now);
        }
    }
    *layers = best;
}

/// Middles within each layer: near what is joined, never closer than the gap.
fn across(items: &mut [Item], layers: &[Vec<usize>], segments: &[(usize, usize)]) {
    let between = |a: &Item, b: &Item| (a.w + b.w) / 2.0 + if matches!((a.what, b.what), (What::Bend(..), What::Bend(..))) { 8.0 } else { GAP_X };
    let mut joined = vec![vec![]; items.len()];
    for &(a, b) in segments {
        joined[a].push(b);
        joined[b].push(a);
    }
    for layer in layers {
        for k in 1..layer.len() {
            items[layer[k]].x = items[layer[k - 1]].x + between(&items[layer[k - 1]], &items[layer[k]]);
        }
        let middle = layer.last().map_or(0.0, |i| items[*i].x) / 2.0;
        layer.iter().for_each(|i| items[*i].x -= middle);
    }
    for round in 0..24 {
        let sequence: Vec<usize> = if round % 2 == 0 { (0..layers.len()).collect() } else { (0..layers.len()).rev().collect() };
        for l in sequence {
            let layer = &layers[l];
            let wish: Vec<f64> =
                layer
                    .iter()
                    .map(|i| {
                        if joined[*i].is_empty() {
                            items[*i].x
                        } else {
                            joined[*i].iter().map(|j| items[*j].x).sum::<f64>() / joined[*i].len() as f64
                        }
                    })
                    .collect();
            // From the left, everything at its wish or as near behind it as there is room; from the right likewise. The mean of two orders that keep the gaps keeps them.
            let (mut left, mut right) = (wish.clone(), wish);
            for k in 1..layer.len() {
                left[k] = left[k].max(left[k - 1] + between(&items[layer[k - 1]], &items[layer[k]]));
            }
            for k in (1..layer.len()).rev() {
                right[k - 1] = right[k - 1].min(right[k] - between(&items[layer[k - 1]], &items[layer[k]]));
            }
            layer.iter().enumerate().for_each(|(k, i)| items[*i].x = (left[k] + right[k]) / 2.0);
        }
    }
}

/// Absolute places of nodes and groups.
fn place(inside: &[Option<Inside>], group: Option<usize>, (x, y): (f64, f64), sizes: &[(f64, f64)], out: &mut Layout) {
    let own = inside[group.unwrap_or(inside.len() - 1)].as_ref().expect("laid out");
    if let Some(g) = group {
        out.groups[g] = Rect { x, y, w: own.w, h: own.h };
    }
    for (what, (cx, cy, _)) in &own.items {
        match what {
            What::Node(n) => out.nodes[*n] = Rect { x: x + cx - sizes[*n].0 / 2.0, y: y + cy - sizes[*n].1 / 2.0, w: sizes[*n].0, h: sizes[*n].1 },
            What::Group(g) => {
                let inner = inside[*g].as_ref().expect("laid out");
                place(inside, Some(*g), (x + cx - inner.w / 2.0, y + cy - inner.h / 2.0), sizes, out);
            }
            What::In(_) | What::Out(_) | What::Bend(..) => {}
        }
    }
}

/// The points of an edge.
fn path(picture: &Picture, inside: &[Option<Inside>], out: &Layout, from: usize, to: usize) -> Vec<(f64, f64)> {
    let (up, down) = (picture.frames(picture.nodes[from].group), picture.frames(picture.nodes[to].group));
    let common = up.iter().copied().find(|g| down.contains(g));
    let of = |group: Option<usize>| {
        let own = inside[group.unwrap_or(inside.len() - 1)].as_ref().expect("laid out");
        let corner = group.map_or((0.0, 0.0), |g| (out.groups[g].x, out.groups[g].y));
        (own, corner)
    };
    let start = out.nodes[from];
    let mut points = vec![(start.x + start.w / 2.0, start.y + start.h)];
    // Through the layers of one group, from below one item to above another.
    let mut through = |group: Option<usize>, a: What, b: What| {
        let (own, (x, y)) = of(group);
        let (Some(first), Some(last)) = (own.ranks.get(&a), own.ranks.get(&b)) else { return };
        for rank in first + 1..*last {
            if let Some((bx, _, _)) = own.items.get(&What::Bend(from, rank)) {
                points.push((x + bx, y + own.layers[rank].0));
                points.push((x + bx, y + own.layers[rank].1));
            }
        }
        if let (What::In(_) | What::Out(_), Some((px, py, _))) = (b, own.items.get(&b)) {
            points.push((x + px, y + py));
        }
        if let (What::In(_), Some((px, py, _))) = (a, own.items.get(&a)) {
            points.push((x + px, y + py));
        }
    };
    for g in up.iter().take_while(|g| Some(**g) != common) {
        if let Some(a) = holder(picture, Some(*g), from) {
            through(Some(*g), a, What::Out(from));
        }
    }
    if let (Some(a), Some(b)) = (holder(picture, common, from), holder(picture, common, to)) {
        through(common, a, b);
    }
    let entered: Vec<usize> = down.iter().copied().take_while(|g| Some(*g) != common).collect();
    for g in entered.into_iter().rev() {
        let (own, (x, y)) = of(Some(g));
        if let Some((px, py, _)) = own.items.get(&What::In(from)) {
            points.push((x + px, y + py));
        }
        let Some(b) = holder(picture, Some(g), to) else { continue };
        let (Some(first), Some(last)) = (own.ranks.get(&What::In(from)), own.ranks.get(&b)) else { continue };
        for rank in first + 1..*last {
            if let Some((bx, _, _)) = own.items.get(&What::Bend(from, rank)) {
                points.push((x + bx, y + own.layers[rank].0));
                points.push((x + bx, y + own.layers[rank].1));
            }
        }
    }
    let end = out.nodes[to];
    points.push((end.x + end.w / 2.0, end.y));
    points
}
