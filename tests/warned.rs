//! Every program in `models/warned` is accepted, but hardly what was meant, which its first line names. The warnings are snapshots in `snapshots/warned`.
//! No program that is shipped is warned of.

use nnc::check::{Options, check};
use nnc::diagnostic::render;
use nnc::span::Sources;
use std::path::{Path, PathBuf};

fn programs(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|e| e == "nn"));
    found.sort();
    found
}

/// What is said of a program that is accepted.
fn warnings(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let mut sources = Sources::default();
    let shown = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap().to_string_lossy().into_owned();
    let file = sources.add(&shown, &text);
    let loader = |name: &str| std::fs::read_to_string(path.with_file_name(name)).map_err(|_| "no such file".to_string());
    let (program, diagnostics) = check(&mut sources, file, &loader, &Options::default());
    let shown = render(&diagnostics, &sources, false);
    assert!(program.is_some(), "{}: {shown}", path.display());
    shown
}

#[test]
fn programs_are_warned_of_with_these_words() {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("../snapshots/warned");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let programs = programs("models/warned");
    assert!(programs.len() >= 8, "only {}", programs.len());
    let failed: Vec<_> = programs
        .iter()
        .filter(|path| {
            let said = warnings(path);
            assert!(said.starts_with("warning"), "{} is not warned of: {said}", path.display());
            let name = path.file_stem().unwrap().to_str().unwrap();
            let snapshot = || insta::assert_snapshot!(name, said);
            settings.bind(|| std::panic::catch_unwind(std::panic::AssertUnwindSafe(snapshot)).is_err())
        })
        .collect();
    assert!(failed.is_empty(), "other words for {failed:?}; `cargo insta review` shows them");
}

#[test]
fn no_program_that_is_shipped_is_warned_of() {
    for path in [programs("models"), programs("models/bench")].concat() {
        assert_eq!(warnings(&path), "", "{}", path.display());
    }
}
