//! The project's own rules, about what may stand where.

use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `folder` with this ending, sorted, as paths from the root.
fn files(folder: &str, ending: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.map(|e| e.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == ending) {
                found.push(path.strip_prefix(root()).unwrap().to_string_lossy().into_owned());
            }
        }
    }
    found.sort();
    assert!(!found.is_empty() || !Path::new(folder).exists(), "no .{ending} file in {folder}");
    found
}

fn rust_sources() -> Vec<String> {
    ["src", "runtime/src", "runtime/c/src", "runtime/python/src", "xtask/src", "tests"].iter().flat_map(|f| files(f, "rs")).collect()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap()
}

/// The text without comments and string literals' contents would need a parser; rules look at lines that are not comments.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(i, l)| (i + 1, l)).filter(|(_, l)| !l.trim_start().starts_with("//"))
}

fn refuse(rule: &str, found: Vec<String>) {
    assert!(found.is_empty(), "{rule}:\n  {}", found.join("\n  "));
}

#[test]
fn each_outside_library_is_named_in_one_place() {
    let homes: [(&str, &[&str]); 4] =
        [("pest", &["src/parse/"]), ("petgraph", &["src/ir/graph.rs"]), ("inkwell", &["src/emit/"]), ("annotate_snippets", &["src/parse/render.rs"])];
    let mut found = Vec::new();
    for path in rust_sources().into_iter().filter(|p| p != "tests/tidy.rs" && !p.starts_with("xtask/")) {
        let text = read(&path);
        for (library, allowed) in homes {
            let named = code_lines(&text).find(|(_, l)| l.contains(&format!("{library}::")) || l.contains(&format!("use {library}")));
            if let (Some((line, _)), false) = (named, allowed.iter().any(|home| path.starts_with(home))) {
                found.push(format!("{path}:{line} names {library}"));
            }
        }
    }
    refuse("a library is named outside its home", found);
}

#[test]
fn the_compilers_core_does_no_input_or_output() {
    let mut found = Vec::new();
    for path in files("src", "rs").into_iter().filter(|p| !p.starts_with("src/cli/") && p != "src/main.rs" && !p.ends_with("tests.rs")) {
        let text = read(&path);
        let core = text.split("#[cfg(test)]").next().unwrap();
        for (line, code) in code_lines(core) {
            for word in ["std::fs", "std::io", "std::net", "std::process", "std::time", "std::env::var", "println!"] {
                if code.contains(word) {
                    found.push(format!("{path}:{line} {word}"));
                }
            }
        }
    }
    refuse("texts and bytes go in and come out; files, terminals and clocks belong to `cli` and the runtime", found);
}

#[test]
fn files_open_with_their_contract_and_stay_small() {
    let mut found = Vec::new();
    for path in rust_sources() {
        let text = read(&path);
        if !text.starts_with("//!") {
            found.push(format!("{path} has no module documentation"));
        }
        let lines = text.lines().count();
        if lines > 600 {
            found.push(format!("{path} has {lines} lines, more than 600"));
        }
    }
    refuse("a file does one thing and says which", found);
}

#[test]
fn nothing_is_left_for_later_or_depends_on_hash_order() {
    let mut found = Vec::new();
    for path in rust_sources().into_iter().filter(|p| p != "tests/tidy.rs") {
        let text = read(&path);
        for (line, code) in code_lines(&text) {
            for word in ["todo!", "unimplemented!", "#[ignore", "FIXME", "HashMap", "HashSet"] {
                // The header's note of a safetensors file is a HashMap in that library; it holds one entry.
                let foreign = path == "runtime/src/weights.rs" && word == "HashMap";
                if code.contains(word) && !foreign {
                    found.push(format!("{path}:{line} {word}"));
                }
            }
        }
    }
    refuse("unfinished or unordered", found);
}

#[test]
fn library_functions_are_documented_with_an_example() {
    let mut found = Vec::new();
    for path in files("src/std", "nn") {
        let text = read(&path);
        let lines: Vec<&str> = text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            let public = ["layer ", "fn ", "loss ", "metric ", "optimizer ", "schedule ", "init "].iter().any(|k| line.starts_with(k));
            let helper = line.contains("_size(");
            if public && !helper && !lines[..i].iter().rev().take_while(|l| l.starts_with("///")).any(|l| l.contains("Example: `")) {
                found.push(format!("{path}:{} {line}", i + 1));
            }
        }
    }
    refuse("a library function has a doc comment with an example", found);
}
