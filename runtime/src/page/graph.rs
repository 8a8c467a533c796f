//! An entry's launches as a picture: one row each in the order in which they run, arcs from those that make a value to those that read it.

use super::escape;
use crate::manifest::{BufferId, Entry, Launch, Manifest, Sink, Source, Step};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

const ROW: f64 = 34.0;
const BOX: f64 = 24.0;
const LEFT: f64 = 150.0;
const WIDTH: f64 = 900.0;
/// Beyond it a picture shows nothing any more.
const MOST: usize = 400;

/// A row of the picture.
#[derive(Default)]
struct Row {
    name: String,
    detail: String,
    depth: usize,
    from: BTreeSet<usize>,
}

/// The picture.
pub(super) fn figure(manifest: &Manifest, entry: &Entry) -> String {
    let mut rows = rows(manifest, entry);
    let all = rows.len();
    rows.truncate(MOST);
    let height = ROW * rows.len() as f64 + 8.0;
    let top = |row: usize| 4.0 + ROW * row as f64;
    let mut svg = format!("<div class=\"wide\"><svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">\n", escape(&entry.name));
    for (to, row) in rows.iter().enumerate() {
        for &from in &row.from {
            let (y1, y2) = (top(from) + BOX, top(to));
            if from + 1 == to {
                let x = LEFT + 18.0 * row.depth as f64 + 16.0;
                let _ = writeln!(svg, "<path class=\"edge\" d=\"M{x} {y1}V{y2}\"/>");
            } else {
                let (y1, y2) = (top(from) + BOX / 2.0, top(to) + BOX / 2.0);
                let (x1, x2) = (LEFT + 18.0 * rows[from].depth as f64, LEFT + 18.0 * row.depth as f64);
                let bulge = LEFT - (16.0 + 9.0 * (from.abs_diff(to)) as f64).min(LEFT - 8.0);
                let _ = writeln!(svg, "<path class=\"edge\" d=\"M{x1} {y1}C{bulge} {y1} {bulge} {y2} {x2} {y2}\"/>");
            }
        }
    }
    for (k, row) in rows.iter().enumerate() {
        let (x, y) = (LEFT + 18.0 * row.depth as f64, top(k));
        let _ = writeln!(
            svg,
            "<rect class=\"box\" x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{BOX}\" rx=\"5\"/><text class=\"name\" x=\"{}\" y=\"{}\">{}</text>\
             <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            WIDTH - x - 2.0,
            x + 8.0,
            y + 16.0,
            escape(&row.name),
            WIDTH - 10.0,
            y + 16.0,
            escape(&row.detail)
        );
    }
    svg.push_str("</svg></div>\n");
    if all > MOST {
        let _ = writeln!(svg, "<p class=\"soft\">The first {MOST} of {all} launches.</p>");
    }
    svg
}

fn rows(manifest: &Manifest, entry: &Entry) -> Vec<Row> {
    let plan = &entry.plan;
    let shown = |id: BufferId| {
        let buffer = &plan.buffers[id as usize];
        let shape: Vec<String> = buffer.shape.iter().map(|s| s.to_string()).collect();
        format!("{} {}[{}]", buffer.name, buffer.dtype, shape.join(", "))
    };
    let mut rows: Vec<Row> = vec![];
    // By buffer, the row that made it last; memory that others are a part of counts as the buffer.
    let mut made: BTreeMap<BufferId, usize> = BTreeMap::new();
    let mut weights: BTreeMap<BufferId, &str> = BTreeMap::new();
    for (source, id) in &entry.inputs {
        match source {
            Source::Data(_) => {
                made.insert(*id, rows.len());
                rows.push(Row { name: shown(*id), detail: "input".into(), ..Row::default() });
            }
            Source::Tensor(path) => _ = weights.insert(*id, path),
            Source::Scalar(_) | Source::Step | Source::Key => {}
        }
    }
    let of = |made: &BTreeMap<BufferId, usize>, id: BufferId| {
        let whole = plan.buffers[id as usize].storage.of();
        made.get(&id).or_else(|| made.get(&whole?)).copied()
    };
    let mut loops: Vec<usize> = vec![];
    // What is computed of weights alone before a run is no part of the model.
    for (k, step) in plan.steps.iter().enumerate().skip(plan.advance as usize) {
        loops.retain(|end| k < *end);
        match step {
            Step::Launch(launch) => {
                let mut row = Row { depth: loops.len(), ..Row::default() };
                let (mut outputs, mut read) = (vec![], vec![]);
                for (id, written) in arguments(manifest, launch) {
                    if written {
                        outputs.push(id);
                    } else {
                        row.from.extend(of(&made, id));
                        read.extend(weights.get(&id).map(|w| w.to_string()));
                    }
                }
                let results = entry.results.iter().filter(|(sink, id)| matches!(sink, Sink::Result(_)) && outputs.contains(id));
                read.extend(results.map(|(sink, _)| if let Sink::Result(name) = sink { format!("→ {name}") } else { String::new() }));
                read.dedup();
                row.name = outputs.iter().map(|id| shown(*id)).collect::<Vec<_>>().join(", ");
                let line = plan.lines.get(launch.line as usize).map_or("", |l| l);
                read.push(line.to_string());
                row.detail = read.join(" · ");
                for id in outputs {
                    made.insert(id, rows.len());
                    made.extend(plan.buffers[id as usize].storage.of().map(|whole| (whole, rows.len())));
                }
                rows.push(row);
            }
            Step::Copy { from, to } => {
                let row = of(&made, *from);
                made.extend(row.map(|row| (*to, row)));
            }
            Step::Loop { count, body, .. } => {
                rows.push(Row { name: format!("{count} times"), depth: loops.len(), ..Row::default() });
                loops.push(k + 1 + *body as usize);
            }
            Step::Check { message, .. } => rows.push(Row { name: format!("check: {message}"), depth: loops.len(), ..Row::default() }),
        }
    }
    rows
}

/// All arguments of a launch, and whether it writes them.
fn arguments<'a>(manifest: &'a Manifest, launch: &'a Launch) -> impl Iterator<Item = (BufferId, bool)> + 'a {
    let writes = manifest.kernels.get(launch.kernel as usize).map_or(&[][..], |k| &k.writes);
    let calls = std::iter::once(&launch.args).chain(launch.beside.iter().map(|c| &c.args));
    calls.flat_map(move |args| args.iter().enumerate().map(move |(n, id)| (*id, writes.contains(&(n as u32)))))
}
