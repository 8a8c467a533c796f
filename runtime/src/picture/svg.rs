//! A picture as SVG: its colours follow the reader's choice of light or dark, its text can be searched and copied, pointing at a box tells all about it.

use super::{Kind, Picture, layout};
use crate::page::escape;
use std::collections::BTreeSet;
use std::fmt::Write;

const LINE: f64 = 15.0;
/// Within a page, nothing but the picture has this look.
const STYLE: &str = "
svg.picture { color-scheme: light dark; background: var(--back); --back: #fff; --text: #1b1f24; --soft: #667; --line: #b8bfca; --box: #f5f6f8;
  --frame: rgb(120 130 150 / .06); --edge: #5b78b8; --input: #dbeafe; --parameter: #fef3c7; --constant: #ede9fe; --result: #d1fae5; width: auto; }
@media (prefers-color-scheme: dark) { svg.picture { --back: #14171c; --text: #e3e6ea; --soft: #98a0ab; --line: #4a5361; --box: #232933;
  --frame: rgb(150 160 180 / .07); --edge: #7f9bdb; --input: #1e3a5f; --parameter: #4d3d12; --constant: #3b2f63; --result: #12493a; } }
.picture text { font: 11px system-ui, sans-serif; fill: var(--soft); } .picture text.name { font: 600 12px ui-monospace, monospace; fill: var(--text); }
.picture text.label { font-size: 10px; text-anchor: middle; paint-order: stroke; stroke: var(--back); stroke-width: 3px; } .picture text.group { font-weight: 600; }
.picture .box { fill: var(--box); stroke: var(--line); } .picture .input { fill: var(--input); } .picture .parameter { fill: var(--parameter); }
.picture .constant { fill: var(--constant); } .picture .result { fill: var(--result); } .picture .frame { fill: var(--frame); stroke: var(--line); }
.picture .edge { fill: none; stroke: var(--edge); stroke-width: 1.2; stroke-opacity: 1; } .picture .head { fill: var(--edge); }
";

/// How wide a line of text is, about; a little more than most fonts need.
pub fn width(text: &str) -> f64 {
    text.chars().count() as f64 * 7.3
}

/// The picture's text, as a file or as a part of an HTML page.
pub fn write(picture: &Picture, file: bool) -> String {
    let sizes: Vec<(f64, f64)> = picture
        .nodes
        .iter()
        .map(|n| (n.lines.iter().map(|l| width(l)).fold(24.0, f64::max) + 16.0, n.lines.len().max(1) as f64 * LINE + 9.0))
        .collect();
    let mut labels: BTreeSet<(usize, &str)> = BTreeSet::new();
    let mut spare = vec![0.0f64; sizes.len()];
    for e in picture.edges.iter().filter(|e| !e.label.is_empty()) {
        labels.insert((e.from, &e.label));
        spare[e.from] = spare[e.from].max(width(&e.label) * 0.85);
    }
    let placed = layout::layout(picture, &sizes, &spare);
    let (w, h) = (placed.width.max(60.0).ceil(), placed.height.max(40.0).ceil());
    let space = if file { " xmlns=\"http://www.w3.org/2000/svg\"" } else { "" };
    let mut svg = format!(
        "<svg class=\"picture\"{space} viewBox=\"0 0 {w} {h}\" width=\"{w}\" height=\"{h}\" role=\"img\" aria-label=\"{}\">\n<style>{STYLE}</style>\n",
        text(&picture.title)
    );
    for (group, r) in picture.groups.iter().zip(&placed.groups) {
        let _ = writeln!(svg, "<rect class=\"frame\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"8\"/>", r.x, r.y, r.w, r.h);
        let _ = writeln!(svg, "<text class=\"group\" x=\"{:.1}\" y=\"{:.1}\">{}</text>", r.x + 10.0, r.y + 15.0, text(&group.name));
    }
    // Pieces that several arrows share are drawn once.
    let mut drawn = BTreeSet::new();
    for points in &placed.paths {
        for (k, pair) in points.windows(2).enumerate() {
            let [(x1, y1), (x2, y2)] = [pair[0], pair[1]];
            let middle = (y1 + y2) / 2.0;
            let last = k + 2 == points.len();
            let end = if last { y2 - 5.0 } else { y2 };
            let piece = if (x1 - x2).abs() < 0.05 {
                format!("M{x1:.1} {y1:.1}V{end:.1}")
            } else {
                format!("M{x1:.1} {y1:.1}C{x1:.1} {middle:.1} {x2:.1} {middle:.1} {x2:.1} {end:.1}")
            };
            if drawn.insert(piece.clone()) {
                let _ = writeln!(svg, "<path class=\"edge\" d=\"{piece}\"/>");
            }
            if last && drawn.insert(format!("{x2:.1} {y2:.1}")) {
                let _ = writeln!(svg, "<path class=\"head\" d=\"M{x2:.1} {y2:.1}l-3.5 -6.5h7z\"/>");
            }
        }
    }
    for (node, r) in picture.nodes.iter().zip(&placed.nodes) {
        let class = match node.kind {
            Kind::Input => "box input",
            Kind::Parameter => "box parameter",
            Kind::Constant => "box constant",
            Kind::Operation => "box",
            Kind::Result => "box result",
        };
        let round = if matches!(node.kind, Kind::Input | Kind::Result) { r.h / 2.0 } else { 4.0 };
        let about = if node.about.is_empty() { String::new() } else { format!("<title>{}</title>", text(&node.about)) };
        let _ = writeln!(
            svg,
            "<g>{about}<rect class=\"{class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"{round:.1}\"/>",
            r.x, r.y, r.w, r.h
        );
        for (k, line) in node.lines.iter().enumerate() {
            let class = if k == 0 { " class=\"name\"" } else { "" };
            let y = r.y + 4.0 + LINE * (k as f64 + 0.75);
            let _ = writeln!(svg, "<text{class} x=\"{:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{}</text>", r.x + r.w / 2.0, text(line));
        }
        svg.push_str("</g>\n");
    }
    let mut below = vec![0usize; sizes.len()];
    for (from, label) in labels {
        let r = placed.nodes[from];
        below[from] += 1;
        let y = r.y + r.h + 2.0 + 10.0 * below[from] as f64;
        let _ = writeln!(svg, "<text class=\"label\" x=\"{:.1}\" y=\"{y:.1}\">{}</text>", r.x + r.w / 2.0, text(label));
    }
    svg + "</svg>\n"
}

/// Text as XML has it: no control characters, which it has no way to write.
fn text(text: &str) -> String {
    escape(&text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect::<String>())
}
