//! `report.html`, the curves in the terminal, the table of confusions, and event files, of a trained classifier.

use crate::support::desk::{Desk, models};

/// Tags that are opened and not closed, or the other way round; names in angle brackets that are no tags.
fn unbalanced(html: &str) -> Vec<String> {
    let mut open: Vec<String> = vec![];
    let mut wrong = vec![];
    for part in html.split('<').skip(1) {
        let (tag, _) = part.split_once('>').unwrap_or((part, ""));
        let name: String = tag.trim_start_matches('/').chars().take_while(|c| c.is_alphanumeric() || *c == '!').collect();
        if tag.starts_with('!') || tag.ends_with('/') || name == "meta" {
            continue;
        }
        match tag.strip_prefix('/') {
            None => open.push(name),
            Some(_) if open.last() == Some(&name) => _ = open.pop(),
            Some(_) => wrong.push(format!("</{name}> in {open:?}")),
        }
    }
    wrong.extend(open);
    wrong
}

#[test]
fn a_run_of_a_classifier_leaves_a_page_that_stands_alone() {
    let desk = Desk::new();
    let program = models().join("digits.nn").display().to_string();
    let said = desk.done(&format!("run {program} --tensorboard --run-dir run --set train.epochs=6"));
    assert!(said.contains("epoch 1/6  train.loss ") && said.contains(" samples/s"), "{said}");
    let curve = said.lines().find(|l| l.starts_with("valid.accuracy ")).unwrap_or_else(|| panic!("{said}"));
    assert_eq!(curve.chars().filter(|c| ('▁'..='█').contains(c)).count(), 6, "{curve}");
    let page = String::from_utf8(desk.read("run/report.html")).unwrap();
    assert_eq!(unbalanced(&page), [""; 0]);
    for outside in ["http:", "https:", "<script", "<link", "src=", "url(", "@import"] {
        assert!(!page.contains(outside), "{outside}");
    }
    // What the log says is on it: best weights on the part that is kept for it, curves with a point an epoch, the settings, the program itself.
    let log = String::from_utf8(desk.read("run/log.jsonl")).unwrap();
    let done: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    let accuracy = format!("<b>{:.4}</b><span>test accuracy</span>", done["done"]["test"]["accuracy"].as_f64().unwrap());
    for part in
        [accuracy.as_str(), "sgd(lr: 0.1, momentum: 0.9)", "model Digits(image: f32[B, 64])", "prefers-color-scheme: dark", "Digits.fc2.weight"]
    {
        assert!(page.contains(part), "{part}");
    }
    assert_eq!(page.matches("<title>valid epoch ").count(), 2 * 6);
    // Every sample of the part is counted once, and right as often as the accuracy says.
    let evaluated = desk.done(&format!("run {program} eval --json --weights run/best.safetensors"));
    let evaluated: serde_json::Value = serde_json::from_str(&evaluated).unwrap();
    let rows: Vec<Vec<u64>> = serde_json::from_value(evaluated["test"]["confusion"]["counts"].clone()).unwrap();
    let (all, hits) = (rows.iter().flatten().sum::<u64>(), (0..10).map(|k| rows[k][k]).sum::<u64>());
    let accuracy = evaluated["test"]["accuracy"].as_f64().unwrap();
    assert!(all == 359 && (accuracy - hits as f64 / 359.0).abs() < 1e-12, "{hits} of {all}, {accuracy}");
    let words = desk.done(&format!("run {program} eval --weights run/best.safetensors"));
    assert!(words.starts_with("test.loss ") && words.contains("confusion on test") && words.contains("precision %"), "{words}");
    let events: Vec<_> =
        std::fs::read_dir(desk.path("run")).unwrap().map(|e| e.unwrap().path()).filter(|p| p.to_string_lossy().contains("tfevents")).collect();
    let bytes = std::fs::read(&events[0]).unwrap();
    let times = |tag: &[u8]| bytes.windows(tag.len()).filter(|w| *w == tag).count();
    assert_eq!((events.len(), times(b"train/loss"), times(b"valid/accuracy")), (1, 6, 6));
}

/// A recipe whose only epoch is long has a curve of steps; a program without classes has no table.
#[test]
fn runs_of_one_epoch_and_of_no_classes_have_their_page_too() {
    let desk = Desk::new();
    let linear = models().join("linear.nn").display().to_string();
    desk.done(&format!("run {linear} --quiet --run-dir run --set fit.epochs=1"));
    let page = String::from_utf8(desk.read("run/report.html")).unwrap();
    assert_eq!(unbalanced(&page), [""; 0]);
    assert!(page.contains("loss of steps") && !page.contains("taken for"), "{page}");
    let words = desk.done(&format!("run {linear} eval --weights run/best.safetensors"));
    assert_eq!(words.lines().count(), 1, "{words}");
}
