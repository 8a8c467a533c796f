//! `cargo xtask docs`: writes `docs/library.md` and `docs/reference.md` from what they describe: the library's texts, the grammar, the tables of built-in
//! functions, the programs that are refused and warned of. A test says when the committed pages are stale.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// Pages and what should be in them; `root` is the repository.
pub fn pages(root: &Path) -> Result<Vec<(&'static str, String)>, String> {
    Ok(vec![("docs/library.md", library(root)?), ("docs/reference.md", reference(root)?)])
}

/// Writes the pages.
pub fn run() -> Result<(), String> {
    for (path, text) in pages(Path::new("."))? {
        let part = format!("{path}.part");
        std::fs::write(&part, &text).and_then(|()| std::fs::rename(&part, path)).map_err(|e| format!("{path}: {e}"))?;
        println!("{path}: {} lines", text.lines().count());
    }
    Ok(())
}

fn read(root: &Path, path: &str) -> Result<String, String> {
    std::fs::read_to_string(root.join(path)).map_err(|e| format!("{path}: {e}"))
}

/// Names with this ending in a folder, sorted.
fn list(root: &Path, folder: &str, ending: &str) -> Result<Vec<String>, String> {
    let entries = std::fs::read_dir(root.join(folder)).map_err(|e| format!("{folder}: {e}"))?;
    let mut names: Vec<String> = entries.filter_map(|e| e.ok()?.file_name().into_string().ok()?.strip_suffix(ending).map(String::from)).collect();
    names.sort();
    Ok(names)
}

/// A function of the library.
struct Entry {
    kind: String,
    name: String,
    about: Vec<String>,
    source: String,
}

/// The functions of a text that have a documented example; helpers have none.
fn functions(text: &str) -> Vec<Entry> {
    let lines: Vec<&str> = text.lines().collect();
    let (mut found, mut about) = (vec![], vec![]);
    let mut i = 0;
    while i < lines.len() {
        let line = lines[i];
        if let Some(doc) = line.strip_prefix("///") {
            about.push(doc.trim().to_string());
            i += 1;
            continue;
        }
        let word = line.split(' ').next().unwrap_or("");
        if ["layer", "block", "fn", "init", "loss", "metric", "optimizer", "schedule"].contains(&word) {
            // To its closing brace, or to the first empty line.
            let end = if line.ends_with('{') {
                (i..lines.len()).find(|k| lines[*k] == "}")
            } else {
                (i..lines.len()).find(|k| lines[*k].is_empty()).map(|k| k - 1)
            };
            let end = end.unwrap_or(lines.len() - 1);
            let name: String = line[word.len() + 1..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if about.iter().any(|l: &String| l.contains("Example: `")) {
                found.push(Entry { kind: word.into(), name, about: about.clone(), source: lines[i..=end].join("\n") });
            }
            i = end;
        }
        about.clear();
        i += 1;
    }
    found
}

fn library(root: &Path) -> Result<String, String> {
    let mut page = String::from(
        "# The library\n\n<!-- Written by `cargo xtask docs` from src/std/*.nn and src/check: change those. -->\n\n\
         Everything below is visible in every program. It is written in the language itself: the source is the definition, and shapes are in the signature: names \
         of sizes are bound by the arguments. Each example is compiled, run, compared with the interpreter and differentiated by the tests (`tests/library.rs`), each function compared with PyTorch's (`tests/golden.rs`).\n\n",
    );
    let (mut contents, mut body) = (String::new(), String::new());
    for file in list(root, "src/std", ".nn")? {
        let text = read(root, &format!("src/std/{file}.nn"))?;
        let remark: Vec<&str> = text.lines().skip(1).skip_while(|l| l.is_empty()).take_while(|l| l.starts_with("// ")).map(|l| &l[3..]).collect();
        let all = functions(&text);
        let names: Vec<String> = all.iter().map(|f| format!("[`{}`](#{}-{})", f.name, f.kind, f.name)).collect();
        let _ = writeln!(contents, "- [{file}](#{file}nn): {}", names.join(", "));
        let _ = writeln!(body, "## {file}.nn\n\n{}\n", remark.join("\n"));
        for f in &all {
            let _ = writeln!(body, "### {} {}\n", f.kind, f.name);
            for line in &f.about {
                match line.split_once("Example: `").and_then(|(before, rest)| Some((before, rest.split_once('`')?))) {
                    None => _ = writeln!(body, "{line}"),
                    Some((before, (code, after))) => {
                        let gap = if before.is_empty() { "" } else { "\n" };
                        let _ = writeln!(body, "{before}{gap}\nExample: `{code}`{after}");
                    }
                }
            }
            let _ = writeln!(body, "\n```nn\n{}\n```\n", f.source);
        }
    }
    page += &contents;
    page += "- [built in](#built-in)\n\n";
    page += &body;
    page += "## Built in\n\nWhat cannot be written in the language, because it works on any shape or is an operation of the machine.\n\n| function | gives |\n|---|---|\n";
    for about in between(&read(root, "src/check/builtins.rs")?, "about: \"", "\",") {
        let about = about.replace("\\\"", "\"");
        let (call, what) =
            about.split_once(": ").filter(|_| about.matches(": ").count() == 1).or_else(|| about.rsplit_once("): ")).unwrap_or((&about, ""));
        let close = if call.matches('(').count() > call.matches(')').count() { ")" } else { "" };
        let _ = writeln!(page, "| `{call}{close}` | {what} |");
    }
    let table = read(root, "src/check/arithmetic.rs")?;
    let table = between(&table, "pub const ELEMENTWISE", "];").into_iter().next().ok_or("src/check/arithmetic.rs has no ELEMENTWISE")?;
    let names: Vec<String> = between(&table, "(\"", "\"").into_iter().map(|n| format!("`{n}`")).collect();
    let _ = writeln!(page, "\nElement by element, on numbers and on tensors of one shape: {}.", names.join(", "));
    let folds = read(root, "src/check/elements.rs")?;
    let folds = between(&folds, "pub const FOLDS: &[&str] = &[", "]").into_iter().next().ok_or("src/check/elements.rs has no FOLDS")?;
    let names: Vec<String> = between(&folds, "\"", "\"").into_iter().step_by(1).map(|n| format!("`{n}`")).collect();
    let _ = writeln!(page, "\nFolds over indices, as in `sum[i](x[i])`: {}.", names.join(", "));
    Ok(page)
}

/// The texts between each `open` and the next `close`.
fn between(text: &str, open: &str, close: &str) -> Vec<String> {
    let (mut rest, mut found) = (text, vec![]);
    while let Some((_, after)) = rest.split_once(open) {
        let Some((inside, behind)) = after.split_once(close) else { break };
        found.push(inside.to_string());
        rest = behind;
    }
    found
}

fn reference(root: &Path) -> Result<String, String> {
    let grammar = read(root, "grammar/nn.pest")?;
    let mut page = String::from(
        "# Reference: keywords, grammar, diagnostics\n\n<!-- Written by `cargo xtask docs` from grammar/nn.pest, models/refused, models/warned and snapshots: change those. -->\n\n\
         What the language means is in [language.md](language.md), the library in [library.md](library.md).\n\n## Keywords\n\n",
    );
    let mut words: Vec<String> = grammar.lines().filter(|l| !l.trim_start().starts_with("//")).flat_map(|l| between(l, "\"", "\"")).collect();
    words.retain(|w| w.len() > 1 && w.chars().all(|c| c.is_ascii_lowercase() || c == '_'));
    words.sort();
    words.dedup();
    let _ = writeln!(page, "{}\n", words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", "));
    page += "## Grammar\n\nAs [pest](https://pest.rs) reads it: `~` is \"then\", `|` \"or else\", `*`, `+`, `?` as usual, `!` \"not here\". An example stands before each rule; a test accepts it.\n\n";
    let _ = writeln!(page, "```pest\n{}\n```\n", grammar.trim());
    page += "## Diagnostics\n\nEvery mistake has a code, a place, a cause and, where there is one, a fix; the hundreds name the stage: 01 syntax, 02 names, 03 dims and shapes, 04 meanings, 05 calls and \
             arguments, 06 recipes and data, 07 limits; `W` warns of what is legal. The first program of each code is shown with what `nnc check` says of it; the others are in the folder.\n\n";
    let mut codes: BTreeMap<String, Vec<(String, String, String)>> = BTreeMap::new();
    for folder in ["refused", "warned"] {
        for name in list(root, &format!("models/{folder}"), ".nn")? {
            let program = read(root, &format!("models/{folder}/{name}.nn"))?;
            let snapshot = read(root, &format!("snapshots/{folder}/{name}.snap"))?;
            let said = snapshot.splitn(3, "---\n").nth(2).ok_or(format!("snapshots/{folder}/{name}.snap has no content"))?.trim_end().to_string();
            let code = between(&said, "[", "]").into_iter().next().ok_or(format!("{name}: a diagnostic without a code"))?;
            codes.entry(code).or_default().push((format!("models/{folder}/{name}.nn"), program, said));
        }
    }
    let mut all: Vec<_> = codes.into_iter().collect();
    all.sort_by_key(|(code, _)| (code.starts_with('W'), code.clone()));
    for (code, programs) in all {
        let _ = writeln!(page, "### {code}\n");
        for (k, (path, program, said)) in programs.iter().enumerate() {
            let what = program.lines().next().unwrap_or("").trim_start_matches("// ");
            let message = said.lines().next().and_then(|l| l.split_once("]: ")).map_or("", |(_, m)| m);
            let _ = writeln!(page, "- {what} {} — [{path}](../{path})", code_span(message));
            if k == 0 {
                let _ = writeln!(page, "\n```text\n{said}\n```\n");
            }
        }
        page.push('\n');
    }
    Ok(page.trim_end().to_string() + "\n")
}

/// Text as code, whatever it holds.
fn code_span(text: &str) -> String {
    if text.contains('`') { format!("`` {text} ``") } else { format!("`{text}`") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_pages_are_what_the_sources_say() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        for (path, text) in pages(root).unwrap() {
            assert!(read(root, path).is_ok_and(|committed| committed == text), "{path} is stale: `cargo xtask docs` writes it anew");
        }
    }

    /// Nothing that a user can call is left out.
    #[test]
    fn every_documented_function_is_in_the_manual() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let page = library(root).unwrap();
        for file in list(root, "src/std", ".nn").unwrap() {
            let text = read(root, &format!("src/std/{file}.nn")).unwrap();
            let examples = text.lines().filter(|l| l.starts_with("///") && l.contains("Example: `")).count();
            assert_eq!(functions(&text).len(), examples, "{file}.nn");
        }
        assert!(page.contains("### layer linear\n") && page.contains("| `stop_gradient(x)` | x, with derivative 0 |"), "{page}");
    }
}
