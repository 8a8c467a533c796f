//! What the documents say to type works: every block of commands in README.md and docs/ is run, in order, in a folder with `nnc` on the path and `models/` beside.
//!
//! - ` ```sh `: each line must succeed. ` ```sh no-run: REASON ` is not run.
//! - ` ```console `: lines after `$ ` are run; what they print must be what follows, `...` standing for anything. A command before ` # fails` must fail.
//! - ` ```c FILE `, ` ```python FILE `, ` ```rust FILE `: the block is written to the file, for commands that follow. A program in Python or Rust that no command
//!   names is run where it stands; one in Rust is compiled against the built runtime. Python runs where there is one with NumPy ([`python`]); elsewhere the test
//!   says on standard error that it has not run.
//!
//! A document is one session: folders and files that one block makes, the next one finds. Commands within sentences and tables are not run, but every command and option
//! that they name exists.

use crate::support::desk::{NNC, runtime};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn documents() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(root().join("docs")).unwrap().map(|e| e.unwrap().path()).collect();
    all.retain(|p| p.extension().is_some_and(|e| e == "md"));
    all.push(root().join("README.md"));
    all.sort();
    all
}

/// A fenced block: what its fence says, its first line's number, its lines.
struct Block {
    info: String,
    line: usize,
    lines: Vec<String>,
}

fn blocks(text: &str) -> Vec<Block> {
    let (mut found, mut open): (Vec<Block>, Option<Block>) = (vec![], None);
    for (n, line) in text.lines().enumerate() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(_), Some(_)) => found.extend(open.take()),
            (Some(info), None) => open = Some(Block { info: info.trim().into(), line: n + 2, lines: vec![] }),
            (None, Some(block)) => block.lines.push(line.into()),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block has no end");
    found
}

/// A Python with NumPy, and the folder with the module `nnc` as it is built here: that of `NNC_PYTHON`, of `cargo xtask wheel`, or the system's.
fn python() -> Option<&'static (PathBuf, PathBuf)> {
    static FOUND: LazyLock<Option<(PathBuf, PathBuf)>> = LazyLock::new(|| {
        let given = std::env::var_os("NNC_PYTHON").map(PathBuf::from);
        let candidates = given.into_iter().chain([root().join("target/wheel/venv/bin/python"), "python3".into()]);
        let works = |python: &PathBuf| {
            let test = ["-c", "import numpy, sys; assert sys.version_info >= (3, 9)"];
            Command::new(python).args(test).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
        };
        let Some(python) = candidates.into_iter().find(works) else {
            let _ = writeln!(
                std::io::stderr(),
                "NOT RUN: the documents' programs in Python: there is no python3 with NumPy (`cargo xtask wheel` makes one)"
            );
            return None;
        };
        // What Python imports is a file of the module's name.
        let library = runtime("nnc-python", "libnnc_python.so");
        let folder = library.with_file_name("python-module");
        std::fs::create_dir_all(&folder).unwrap();
        let part = folder.join(format!("part-{}", std::process::id()));
        std::fs::copy(library, &part).and_then(|_| std::fs::rename(part, folder.join("nnc.abi3.so"))).unwrap();
        Some((python, folder))
    });
    FOUND.as_ref()
}

/// A shell that keeps its folder from one command to the next.
struct Session {
    folder: tempfile::TempDir,
    at: PathBuf,
}

impl Session {
    fn new() -> Session {
        let folder = tempfile::tempdir().unwrap();
        let copied = Command::new("cp").args(["-r"]).arg(root().join("models")).arg(folder.path()).status().unwrap();
        assert!(copied.success());
        let at = folder.path().to_path_buf();
        Session { folder, at }
    }

    /// Whether it succeeded, and all that it printed.
    fn run(&mut self, command: &str) -> (bool, String) {
        let path = format!("{}:{}:{}", self.bin().display(), Path::new(NNC).parent().unwrap().display(), std::env::var("PATH").unwrap_or_default());
        let place = self.folder.path().join(".at");
        let script = format!("exec 2>&1\n{command}\ncode=$?\npwd > '{}'\nexit $code\n", place.display());
        let mut shell = Command::new("sh");
        shell
            .arg("-c")
            .arg(script)
            .current_dir(&self.at)
            .env("PATH", path)
            .env_remove("CI")
            .env_remove("NNC_LEVEL")
            .env("LC_ALL", "C")
            .stdin(Stdio::null());
        let output = shell.output().unwrap();
        if let Ok(at) = std::fs::read_to_string(place) {
            self.at = PathBuf::from(at.trim_end());
        }
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Commands of the session's own.
    fn bin(&self) -> PathBuf {
        self.folder.path().join(".bin")
    }

    /// Gives it the command `python`, if there is one to be had.
    fn with_python(&self) -> bool {
        let Some((python, module)) = python() else { return false };
        let script = format!("#!/bin/sh\nPYTHONPATH='{}' exec '{}' \"$@\"\n", module.display(), python.display());
        std::fs::create_dir_all(self.bin()).unwrap();
        std::fs::write(self.bin().join("python"), script).unwrap();
        Command::new("chmod").arg("+x").arg(self.bin().join("python")).status().unwrap().success()
    }

    /// The command that compiles and runs a file in Rust as a crate that depends on the runtime.
    fn rust(file: &str) -> String {
        let library = runtime("nnc-runtime", "libnnc_runtime.rlib");
        let dependencies = library.with_file_name("deps");
        let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
        format!(
            "'{rustc}' --edition 2024 -D warnings --extern nnc_runtime='{}' -L dependency='{}' '{file}' -o ./.program && ./.program",
            library.display(),
            dependencies.display()
        )
    }
}

/// Whether a text is what was written down: `...` in a line stands for any part of a line, a line `...` for any lines.
fn fits(expected: &[&str], found: &[&str]) -> bool {
    match (expected.split_first(), found.split_first()) {
        (None, None) => true,
        (None, Some(_)) => false,
        (Some((&"...", rest)), _) => (0..=found.len()).any(|n| fits(rest, &found[n..])),
        (Some(_), None) => false,
        (Some((line, rest)), Some((other, others))) => line_fits(line, other) && fits(rest, others),
    }
}

fn line_fits(expected: &str, found: &str) -> bool {
    let mut parts = expected.trim_end().split("...");
    let Some(mut rest) = found.trim_end().strip_prefix(parts.next().unwrap_or("")) else { return false };
    let mut open = false;
    for part in parts {
        open = true;
        if part.is_empty() {
            continue;
        }
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
        open = false;
    }
    open || rest.is_empty()
}

/// A block's commands with what each must print, and whether it must fail.
fn session(block: &Block) -> Vec<(String, Vec<&str>, bool)> {
    let mut all: Vec<(String, Vec<&str>, bool)> = vec![];
    for line in &block.lines {
        match (line.strip_prefix("$ "), all.last_mut()) {
            (Some(command), _) => {
                let fails = command.contains(" # fails");
                all.push((command.into(), vec![], fails));
            }
            (None, Some((_, output, _))) => output.push(line),
            (None, None) => panic!("line {}: a console block begins with `$ `", block.line),
        }
    }
    all
}

/// What a document says that does not work.
fn wrong(path: &Path) -> Vec<String> {
    let name = path.strip_prefix(root()).unwrap().display().to_string();
    let (mut shell, mut wrong) = (Session::new(), vec![]);
    let blocks = blocks(&std::fs::read_to_string(path).unwrap());
    let commands: Vec<&String> = blocks.iter().filter(|b| ["sh", "console"].contains(&b.info.as_str())).flat_map(|b| &b.lines).collect();
    let python = blocks.iter().any(|b| b.info.starts_with("python ")) && shell.with_python();
    for block in &blocks {
        let place = format!("{name}:{}", block.line);
        match block.info.as_str() {
            "sh" => {
                for command in block.lines.iter().filter(|l| !l.trim().is_empty()) {
                    let (done, said) = shell.run(command);
                    if !done {
                        wrong.push(format!("{place}: {command}\n{said}"));
                    }
                }
            }
            "console" => {
                for (command, mut expected, fails) in session(block) {
                    if command.starts_with("python ") && !python {
                        continue;
                    }
                    let (done, said) = shell.run(&command);
                    let found: Vec<&str> = said.trim_end().lines().collect();
                    expected.truncate(expected.iter().rposition(|l| !l.is_empty()).map_or(0, |last| last + 1));
                    if done == fails || !fits(&expected, &found) {
                        wrong.push(format!("{place}: {command}\nprints\n{said}"));
                    }
                }
            }
            info if info.starts_with("sh no-run: ") || info.starts_with("console no-run: ") => {}
            "nn" | "text" | "pest" | "toml" | "json" | "html" => {}
            info => {
                let Some((language @ ("c" | "python" | "rust"), file)) = info.split_once(' ') else {
                    wrong.push(format!("{place}: a block of `{info}`: say what it is"));
                    continue;
                };
                std::fs::write(shell.at.join(file), block.lines.join("\n") + "\n").unwrap();
                let command = match language {
                    "python" if python => format!("python '{file}'"),
                    "rust" => Session::rust(file),
                    _ => continue,
                };
                let named = commands.iter().any(|line| line.starts_with("$ ") && line.split(' ').any(|word| word == file));
                let (done, said) = if named { (true, String::new()) } else { shell.run(&command) };
                if !done {
                    wrong.push(format!("{place}: {file}\n{said}"));
                }
            }
        }
    }
    wrong
}

#[test]
fn what_the_documents_say_to_type_works() {
    // Beside `nnc`, where documents find it.
    for (package, file) in [("nnc-runtime", "nnc-run"), ("nnc-c", "libnnc_c.a")] {
        assert_eq!(runtime(package, file).parent(), Path::new(NNC).parent());
    }
    let documents = documents();
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let sessions: Vec<_> = documents.iter().map(|path| scope.spawn(|| wrong(path))).collect();
        sessions.into_iter().flat_map(|s| s.join().unwrap()).collect()
    });
    assert!(wrong.is_empty(), "{} commands:\n\n{}", wrong.len(), wrong.join("\n\n"));
}

/// Commands in sentences, tables and the crate's page: those of `nnc` and `cargo xtask` exist, and so do their options.
#[test]
fn commands_that_are_named_exist() {
    let help = |command: &str| -> Option<String> {
        let output = Command::new(NNC).args([command, "--help"]).output().unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let chores = std::fs::read_to_string(root().join("xtask/src/main.rs")).unwrap();
    let mut wrong = vec![];
    let mut named = 0;
    for path in documents().into_iter().chain([root().join("src/lib.rs")]) {
        let text = std::fs::read_to_string(&path).unwrap();
        let spans = text
            .lines()
            .enumerate()
            .filter(|(_, l)| !l.starts_with("```"))
            .flat_map(|(n, l)| l.split('`').skip(1).step_by(2).map(move |s| (n + 1, s)));
        for (line, span) in spans {
            let place = format!("{}:{line}: `{span}`", path.display());
            let words: Vec<&str> = span.split_whitespace().collect();
            match words.as_slice() {
                ["nnc", command, rest @ ..] if command.chars().all(|c| c.is_ascii_lowercase()) => {
                    named += 1;
                    let Some(help) = help(command) else {
                        wrong.push(format!("{place}: there is no such command"));
                        continue;
                    };
                    for option in rest.iter().filter(|w| w.starts_with("--")) {
                        let option = option.split('=').next().unwrap();
                        if !help.contains(option) {
                            wrong.push(format!("{place}: `nnc {command}` has no {option}"));
                        }
                    }
                }
                ["cargo", "xtask", chore, ..] if !chores.contains(&format!("Some(\"{chore}\")")) => {
                    wrong.push(format!("{place}: there is no such chore"))
                }
                _ => {}
            }
        }
    }
    assert!(named > 12, "only {named} commands are named");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The programs that documents show whole are right.
#[test]
fn programs_in_the_documents_are_right() {
    let mut whole = 0;
    for path in documents() {
        for block in
            blocks(&std::fs::read_to_string(&path).unwrap()).iter().filter(|b| b.info == "nn" && b.lines.first().is_some_and(|l| l == "nn 1"))
        {
            whole += 1;
            let text = block.lines.join("\n") + "\n";
            let checked = crate::support::checked(&text, nnc::ir::DType::F32);
            assert_eq!(checked.counts(), (0, 0), "{}:{}\n{}", path.display(), block.line, checked.rendered(false));
        }
    }
    assert!(whole > 0);
}

#[test]
fn what_is_left_open_fits_anything_and_nothing_else_does() {
    for (expected, found, same) in [
        ("a...c", "abbc", true),
        ("a...c", "abbd", false),
        ("a...", "a", true),
        ("a", "ab", false),
        ("...b", "ab", true),
        ("x ... y ...", "x 1 y 2", true),
    ] {
        assert_eq!(line_fits(expected, found), same, "{expected} {found}");
    }
    assert!(fits(&["a", "...", "d"], &["a", "b", "c", "d"]) && !fits(&["a", "...", "d"], &["a", "b"]) && fits(&["..."], &[]));
}
