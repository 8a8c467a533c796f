//! Every program in `models/refused` holds one mistake, which its first line names. The diagnostics are snapshots in `snapshots/refused`.
//! `models/refused/parts` holds what they import.

use nnc::check::{Options, check};
use nnc::diagnostic::render;
use nnc::span::Sources;
use std::path::Path;

#[test]
fn programs_are_refused_with_these_words() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut names: Vec<String> = std::fs::read_dir(root.join("models/refused"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".nn"))
        .collect();
    names.sort();
    assert!(names.len() >= 60, "only {} programs", names.len());
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../snapshots/refused");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let mut failed = vec![];
    for name in names {
        let path = format!("models/refused/{name}");
        let text = std::fs::read_to_string(root.join(&path)).unwrap();
        assert!(text.starts_with("// "), "{path}: the first line says what is wrong");
        let shown = refusal(&path, &text);
        let snapshot = || insta::assert_snapshot!(name.trim_end_matches(".nn"), shown);
        if settings.bind(|| std::panic::catch_unwind(std::panic::AssertUnwindSafe(snapshot)).is_err()) {
            failed.push(name);
        }
    }
    assert!(failed.is_empty(), "other words for {failed:?}; `cargo insta review` shows them");
}

/// What the compiler says of a program that it refuses.
fn refusal(path: &str, text: &str) -> String {
    let mut sources = Sources::default();
    let file = sources.add(path, text);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/refused");
    let loader = |name: &str| std::fs::read_to_string(folder.join(name)).map_err(|_| "no such file".to_string());
    let (program, diagnostics) = check(&mut sources, file, &loader, &Options::default());
    assert!(program.is_none() && !diagnostics.is_empty(), "{path} is accepted");
    render(&diagnostics, &sources, false)
}
