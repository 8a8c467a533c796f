//! Entries as pictures: one box a launch, arrows from those that make a value to those that read it.

use crate::manifest::{BufferId, Entry, Launch, Manifest, Sink, Source, Step};
use crate::picture::{Kind, Picture};
use std::collections::BTreeMap;

/// The entries of these names, a frame each where there are several. Launches in a row that belong to one layer are in a frame: the layer is
/// that of the stored tensors that they read, or of the launch before.
pub fn launches(manifest: &Manifest, names: &[&str]) -> Picture {
    let mut picture = Picture { title: names.join(", "), ..Picture::default() };
    for entry in manifest.entries.iter().filter(|e| names.contains(&&*e.name)) {
        let frame = if names.len() > 1 { Some(picture.group(&entry.name, None)) } else { None };
        draw(manifest, entry, frame, &mut picture);
    }
    picture
}

fn draw(manifest: &Manifest, entry: &Entry, outside: Option<usize>, picture: &mut Picture) {
    let plan = &entry.plan;
    let ty = |id: BufferId| {
        let buffer = &plan.buffers[id as usize];
        let shape: Vec<String> = buffer.shape.iter().map(|s| s.to_string()).collect();
        if shape.is_empty() { buffer.dtype.to_string() } else { format!("{}[{}]", buffer.dtype, shape.join(", ")) }
    };
    // By buffer, the box that made it last, or what it is until somebody reads it; memory that others are a part of counts as the buffer.
    let mut made: BTreeMap<BufferId, usize> = BTreeMap::new();
    let mut given: BTreeMap<BufferId, (&str, Kind)> = BTreeMap::new();
    for (source, id) in &entry.inputs {
        let what = match source {
            Source::Tensor(path) => (&**path, Kind::Parameter),
            Source::Data(name) | Source::Scalar(name) => (&**name, Kind::Input),
            Source::Step => ("step", Kind::Input),
            Source::Key => ("key", Kind::Input),
        };
        given.insert(*id, what);
    }
    let whole = |id: BufferId| plan.buffers[id as usize].storage.of();
    let mut frames: Vec<(usize, usize)> = vec![];
    let mut layer: Option<(Option<usize>, String, usize)> = None;
    // What is computed of weights alone before a run is no part of the model: what comes of it is stored too.
    let (advance, steps) = plan.steps.split_at((plan.advance as usize).min(plan.steps.len()));
    for launch in advance.iter().filter_map(|step| if let Step::Launch(launch) = step { Some(launch) } else { None }) {
        let written = arguments(manifest, launch).filter(|(_, written)| *written);
        given.extend(written.map(|(id, _)| (id, (&*plan.buffers[id as usize].name, Kind::Parameter))));
    }
    for (k, step) in steps.iter().enumerate() {
        if frames.iter().any(|(end, _)| k >= *end) {
            frames.retain(|(end, _)| k < *end);
            layer = None;
        }
        let around = frames.last().map(|f| f.1).or(outside);
        match step {
            Step::Launch(launch) => {
                let arguments: Vec<(BufferId, bool)> = arguments(manifest, launch).collect();
                let reads = arguments.iter().filter(|(_, written)| !written);
                let tensors = reads.filter_map(|(id, _)| entry.inputs.iter().find(|(_, i)| i == id));
                let path = tensors.filter_map(|(source, _)| if let Source::Tensor(path) = source { Some(path) } else { None }).next();
                // An optimizer's state is `fit/m/Net.fc.weight`.
                let own = path.and_then(|path| Some(path.rsplit('/').next()?.rsplit_once('.')?.0.to_string()));
                let frame = match (own, &layer) {
                    (Some(own), Some((group, name, frame))) if *group == around && own == *name => Some(*frame),
                    (Some(own), _) => {
                        let frame = picture.group(&own, around);
                        layer = Some((around, own, frame));
                        Some(frame)
                    }
                    (None, Some((group, _, frame))) if *group == around => Some(*frame),
                    (None, _) => around,
                };
                let mut lines: Vec<String> = vec![];
                for (id, _) in arguments.iter().filter(|(_, written)| *written) {
                    lines.push(plan.buffers[*id as usize].name.to_string());
                }
                let many = lines.len();
                if many > 4 {
                    lines.truncate(3);
                    lines.push(format!("and {} more", many - 3));
                }
                let symbol = manifest.kernels.get(launch.kernel as usize).map_or("", |k| &k.symbol);
                lines.push(symbol.to_string());
                let line = plan.lines.get(launch.line as usize).map_or("", |l| l);
                lines.push(line.to_string());
                lines.retain(|l| !l.is_empty());
                let node = picture.node(lines, format!("{symbol}, {} tasks, {line}", launch.tasks), Kind::Operation, frame);
                for (id, written) in &arguments {
                    if !written && let Some(from) = source(picture, &mut made, &given, whole(*id), *id, (frame, outside)) {
                        picture.edge(from, node, &ty(*id));
                    }
                }
                for (id, _) in arguments.iter().filter(|(_, written)| *written) {
                    made.insert(*id, node);
                    made.extend(whole(*id).map(|whole| (whole, node)));
                }
            }
            Step::Copy { from, to } => {
                if let Some(from) = source(picture, &mut made, &given, whole(*from), *from, (around, outside)) {
                    made.insert(*to, from);
                }
            }
            Step::Loop { count, body, .. } => {
                frames.push((k + 1 + *body as usize, picture.group(&format!("{count} times"), around)));
                layer = None;
            }
            Step::Check { condition, message, .. } => {
                let node = picture.node(vec!["check".into(), message.to_string()], String::new(), Kind::Operation, around);
                if let Some(from) = source(picture, &mut made, &given, whole(*condition), *condition, (around, outside)) {
                    picture.edge(from, node, &ty(*condition));
                }
            }
        }
    }
    for (sink, id) in &entry.results {
        let name = match sink {
            Sink::Result(name) => name.to_string(),
            Sink::Tensor(name) => format!("new {name}"),
            Sink::Accumulate(name) => format!("sum of {name}"),
        };
        if let Some(from) = source(picture, &mut made, &given, whole(*id), *id, (outside, outside)) {
            let node = picture.node(vec![name], String::new(), Kind::Result, outside);
            picture.edge(from, node, &ty(*id));
        }
    }
}

/// The box that a buffer's value comes from: what is stored is drawn in the frame that reads it, other inputs outside.
fn source(
    picture: &mut Picture,
    made: &mut BTreeMap<BufferId, usize>,
    given: &BTreeMap<BufferId, (&str, Kind)>,
    whole: Option<BufferId>,
    id: BufferId,
    (frame, outside): (Option<usize>, Option<usize>),
) -> Option<usize> {
    if let Some(node) = made.get(&id).or_else(|| made.get(&whole?)) {
        return Some(*node);
    }
    let id = if given.contains_key(&id) { id } else { whole? };
    let (name, kind) = given.get(&id)?;
    let node = picture.node(vec![name.to_string()], String::new(), *kind, if *kind == Kind::Parameter { frame } else { outside });
    // A tensor that other frames read too is drawn there again.
    if *kind != Kind::Parameter {
        made.insert(id, node);
    }
    Some(node)
}

/// All arguments of a launch, and whether it writes them.
fn arguments<'a>(manifest: &'a Manifest, launch: &'a Launch) -> impl Iterator<Item = (BufferId, bool)> + 'a {
    let writes = manifest.kernels.get(launch.kernel as usize).map_or(&[][..], |k| &k.writes);
    let calls = std::iter::once(&launch.args).chain(launch.beside.iter().map(|c| &c.args));
    calls.flat_map(move |args| args.iter().enumerate().map(move |(n, id)| (*id, writes.contains(&(n as u32)))))
}
