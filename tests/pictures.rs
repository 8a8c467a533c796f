//! `nnc show --format dot|svg`: what is drawn of every shipped model can be read, and two small ones are as they were.

use crate::support::desk::models;
use nnc::driver::{self, Checked, Input, Stage};
use nnc::ir::DType;
use nnc_runtime::picture::{Kind, Picture};
use std::collections::BTreeSet;

const STAGES: [Stage; 5] = [Stage::Graph, Stage::Grad, Stage::Passes, Stage::Fused, Stage::Kernels];

fn checked(name: &str) -> Checked {
    let text = std::fs::read_to_string(models().join(name)).unwrap();
    let load = |path: &str| std::fs::read_to_string(models().join(path)).map_err(|e| e.to_string());
    driver::check(&Input { name, text: &text, load: &load, real: DType::F32, set: vec![] })
}

/// Statements of DOT: words outside of strings, with strings taken out.
fn bare(dot: &str) -> String {
    let (mut out, mut inside, mut escaped) = (String::new(), false, false);
    for c in dot.chars() {
        match (inside, c) {
            (true, _) if escaped => escaped = false,
            (true, '\\') => escaped = true,
            (_, '"') => inside = !inside,
            (true, _) => {}
            (false, c) => out.push(c),
        }
    }
    assert!(!inside, "a string has no end");
    out
}

/// Graphviz could read it: braces are balanced, and every arrow joins two nodes that are declared once.
fn valid_dot(picture: &Picture) {
    let text = bare(&picture.dot());
    let mut depth = 0;
    for c in text.chars() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        assert!(depth >= 0);
    }
    assert_eq!(depth, 0, "braces");
    let (mut declared, mut arrows) = (BTreeSet::new(), vec![]);
    for line in text.lines().map(str::trim).filter(|l| l.starts_with('n') && l[1..].starts_with(|c: char| c.is_ascii_digit())) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[1] {
            "->" => arrows.push((words[0].to_string(), words[2].to_string())),
            _ => assert!(declared.insert(words[0].to_string()), "{line}"),
        }
    }
    assert_eq!((declared.len(), arrows.len()), (picture.nodes.len(), picture.edges.len()));
    assert!(arrows.iter().all(|(a, b)| declared.contains(a) && declared.contains(b) && a != b));
}

/// `key="number"` of a tag.
fn number(tag: &str, key: &str) -> f64 {
    let value = tag.split_once(&format!(" {key}=\"")).and_then(|(_, rest)| rest.split_once('"')).unwrap_or_else(|| panic!("no {key} in {tag}"));
    value.0.parse().unwrap()
}

/// Tags are closed in order, no box lies on another or outside, all text is there and nothing in it is markup.
fn legible_svg(picture: &Picture) {
    let svg = picture.svg();
    let mut open: Vec<&str> = vec![];
    let mut boxes: Vec<[f64; 4]> = vec![];
    for part in svg.split('<').skip(1) {
        let (tag, text) = part.split_once('>').expect("a tag ends");
        assert!(!text.contains('>') || open.last() == Some(&"style") || tag.starts_with("style"), "{part}");
        let name = tag.trim_start_matches('/').split([' ', '/']).next().unwrap();
        match (tag.starts_with('/'), tag.ends_with('/')) {
            (true, _) => assert_eq!(open.pop(), Some(name)),
            (_, true) => {}
            _ => open.push(name),
        }
        if tag.starts_with("rect class=\"box") {
            boxes.push(["x", "y", "width", "height"].map(|key| number(tag, key)));
        }
    }
    assert_eq!(open, [""; 0]);
    assert_eq!(boxes.len(), picture.nodes.len());
    let (w, h) = (number(&svg, "width"), number(&svg, "height"));
    for (n, a) in boxes.iter().enumerate() {
        assert!(a[0] >= 0.0 && a[1] >= 0.0 && a[0] + a[2] <= w && a[1] + a[3] <= h, "box {n} at {a:?} of {w} x {h}");
        for (m, b) in boxes[..n].iter().enumerate() {
            let apart = a[0] + a[2] <= b[0] || b[0] + b[2] <= a[0] || a[1] + a[3] <= b[1] || b[1] + b[3] <= a[1];
            assert!(apart, "boxes {n} and {m} overlap: {a:?}, {b:?}");
        }
    }
}

#[test]
fn every_shipped_model_has_pictures() {
    let mut names: Vec<String> = std::fs::read_dir(models()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|n| n.ends_with(".nn"));
    names.sort();
    assert!(names.len() > 8);
    for name in names {
        let checked = checked(&name);
        for stage in STAGES {
            let picture = driver::picture(&checked, stage, None).unwrap();
            assert!(!picture.nodes.is_empty() && picture.nodes.iter().any(|n| n.kind == Kind::Result), "{name} {stage:?}");
            // Whatever is computed is computed for something: at least, within a loop, for its next round.
            for (n, node) in picture.nodes.iter().enumerate() {
                let read = picture.edges.iter().any(|e| e.from == n) || node.kind == Kind::Result || node.lines[0] == "check";
                let mut frames = std::iter::successors(node.group, |g| picture.groups[*g].within);
                let repeated = frames.any(|g| picture.groups[g].name.contains(" times"));
                assert!(read || repeated, "{name} {stage:?}: {node:?} goes nowhere");
            }
            valid_dot(&picture);
            legible_svg(&picture);
        }
    }
}

#[test]
fn small_pictures_are_as_they_were() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../snapshots/pictures");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let digits = checked("digits.nn");
    settings.bind(|| {
        insta::assert_snapshot!("digits_graph", driver::picture(&digits, Stage::Graph, None).unwrap().dot());
        insta::assert_snapshot!("digits_fused", driver::picture(&digits, Stage::Fused, None).unwrap().dot());
        insta::assert_snapshot!("digits_kernels", driver::picture(&digits, Stage::Kernels, None).unwrap().svg());
    });
}

/// Names come from files: nothing in them can end a string or begin a tag.
#[test]
fn names_may_hold_anything() {
    let mut picture = Picture { title: "\"]; evil -> it <script>".into(), ..Picture::default() };
    let frame = picture.group("a\"b\\ <c> & \u{1b}[31m", None);
    let a = picture.node(vec!["x\" ]; n7 -> n8 [\"".into(), "</text><script>".into()], "\\".into(), Kind::Input, None);
    let b = picture.node(vec!["\n\u{0}é漢字".into()], "a\nb".into(), Kind::Result, Some(frame));
    picture.edge(a, b, "f32[\"B\"]<");
    picture.edge(a, b, "f32[\"B\"]<");
    assert_eq!(picture.edges.len(), 1, "the same arrow is one");
    valid_dot(&picture);
    legible_svg(&picture);
    let svg = picture.svg();
    assert!(!svg.contains("<script") && !svg.contains('\u{1b}') && !svg.contains('\u{0}'));
}
