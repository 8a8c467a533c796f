//! `nnc snap`: snapshots of what the compiler makes of a user's model, kept beside it and compared.
//!
//! For `net.nn` there is a file `snapshots/net.PART.snap` for each part: its first line says who wrote it, the rest is compared. So a change of the model,
//! of a dependency of it, or of nnc itself that changes a shape, a parameter's name, the memory, the FLOPs, what is fused or the graph does not go unseen.

use super::Failure;
use super::input::{self, Source};
use super::plan::{self, Needs};
use crate::driver::{self, Checked, Stage};
use crate::ir::DType;
use clap::ValueEnum;
use nnc_runtime::files;
use nnc_runtime::inspect;
use nnc_runtime::size::Dims;
use serde_json::json;
use similar::{ChangeTag, TextDiff};
use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

/// Arguments of `nnc snap`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nnc snap net.nn             writes what is missing, compares the rest; ends with 1 where something differs
  nnc snap net.nn --review    shows every difference and asks
  nnc snap net.nn --accept    takes what is now as right
  nnc snap *.nn --ci          writes nothing: missing and outdated snapshots fail")]
pub struct Args {
    /// Programs
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Which parts (default: all but kernels)
    #[arg(long, value_enum, value_delimiter = ',')]
    part: Vec<Part>,
    /// The size of a free dim, for the plan (default: the first recipe's batch, else its upper bound, else 1)
    #[arg(long, value_name = "NAME=N")]
    dim: Vec<String>,
    /// Overrides a setting, as in `nnc build`
    #[arg(long, value_name = "PATH=VALUE")]
    set: Vec<String>,
    /// Takes all differences as right
    #[arg(long, conflicts_with_all = ["review", "ci"])]
    accept: bool,
    /// Shows the differences one by one and asks about each
    #[arg(long, conflicts_with = "ci")]
    review: bool,
    /// One JSON object a snapshot: its file and whether it is same, new, accepted or different
    #[arg(long, conflicts_with = "review")]
    json: bool,
    /// Writes nothing; a missing snapshot is a difference (as if CI is set in the environment)
    #[arg(long)]
    ci: bool,
}

/// A part of what is known about a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Entries with their inputs and results, recipes, parameters by name and shape
    Interface,
    /// Every call with its shapes
    Typed,
    /// Memory by line, launches, FLOPs, bytes moved
    Plan,
    /// Which nests become one kernel, and why others do not
    Fused,
    /// The graph with gradients and training steps
    Graph,
    /// Loop programs
    Kernels,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::Interface => "interface",
            Part::Typed => "typed",
            Part::Plan => "plan",
            Part::Fused => "fused",
            Part::Graph => "graph",
            Part::Kernels => "kernels",
        }
    }

    fn text(self, checked: &Checked, dims: &Dims) -> Result<String, Failure> {
        let stage = |stage| driver::show(checked, stage, None).map_err(Failure::world);
        match self {
            Part::Typed => stage(Stage::Typed),
            Part::Fused => stage(Stage::Fused),
            Part::Graph => stage(Stage::Grad),
            Part::Kernels => stage(Stage::Kernels),
            Part::Interface | Part::Plan => {
                let program = checked.program.as_ref().expect("a checked program");
                let lowered = driver::lower(driver::graph(program), &checked.sources);
                let manifest = driver::manifest(program, &lowered, &checked.sources);
                Ok(match self {
                    Part::Plan => Needs::new(&manifest, dims, 1)?.text(),
                    _ => inspect::program("program", &manifest).text(usize::MAX),
                })
            }
        }
    }
}

const DEFAULT: [Part; 5] = [Part::Interface, Part::Typed, Part::Plan, Part::Fused, Part::Graph];

/// The first line of every snapshot; what stands behind it is free.
const HEAD: &str = "# nnc ";

/// What is to happen with what differs.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Compare,
    Accept,
    Review,
    Ci,
    /// Says nothing: there are none yet.
    First,
}

/// Runs the command.
pub fn run(args: Args) -> Result<(), Failure> {
    let ci = args.ci || std::env::var_os("CI").is_some_and(|v| !v.is_empty() && v != "0" && v != "false");
    let mode = match (args.accept, args.review, ci) {
        (true, ..) => Mode::Accept,
        (_, true, _) if !std::io::stdin().is_terminal() => {
            return Err(Failure::usage(
                "--review asks questions, and standard input is no terminal: use --accept, or look at the differences that `nnc snap` prints",
            ));
        }
        (_, true, _) => Mode::Review,
        (.., true) => Mode::Ci,
        _ => Mode::Compare,
    };
    let parts = if args.part.is_empty() { DEFAULT.to_vec() } else { args.part };
    let dims = plan::dims(&args.dim)?;
    let mut differences = 0;
    for file in &args.files {
        differences += compare(&Source { file: file.clone(), set: args.set.clone() }, &parts, &dims, mode, args.json)?;
    }
    match differences {
        0 => Ok(()),
        n => {
            let s = if n == 1 { " differs" } else { "s differ" };
            Err(Failure::program(format!("{n} snapshot{s}: `nnc snap FILE --review` asks about each, `--accept` takes them all")))
        }
    }
}

/// Writes the first snapshots of a new program.
pub fn first(file: &Path) -> Result<(), Failure> {
    compare(&Source { file: file.to_path_buf(), set: vec![] }, &DEFAULT, &Dims::new(), Mode::First, false).map(drop)
}

/// What has become of a snapshot.
#[derive(Clone, Copy, PartialEq)]
enum Outcome {
    Same,
    New,
    Accepted,
    Different,
}

impl Outcome {
    const ALL: [(Outcome, &str); 4] =
        [(Outcome::Same, "as before"), (Outcome::New, "new"), (Outcome::Accepted, "accepted"), (Outcome::Different, "different")];
}

/// How many of a program's parts differ from their snapshots, and stay so.
fn compare(source: &Source, parts: &[Part], dims: &Dims, mode: Mode, json: bool) -> Result<usize, Failure> {
    let checked = input::check(source, DType::F32)?;
    let folder = source.file.parent().unwrap_or(Path::new("")).join("snapshots");
    let stem = source.file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut outcomes = vec![];
    for part in parts {
        let path = folder.join(format!("{stem}.{}.snap", part.name()));
        // Paths in a text are as they were typed: seen from the program's folder they are the same wherever nnc is called.
        let (typed, plain) = (source.file.display().to_string(), source.file.file_name().unwrap_or_default().to_string_lossy());
        let now = part.text(&checked, dims)?.replace(&typed, &plain);
        let old = read(&path)?;
        let outcome = match &old {
            Some((_, old)) if *old == now => Outcome::Same,
            None if mode != Mode::Ci => Outcome::New,
            _ => {
                if !json {
                    super::print(&difference(&path, old.as_ref(), &now))?;
                }
                if mode == Mode::Accept || mode == Mode::Review && agreed(&path)? { Outcome::Accepted } else { Outcome::Different }
            }
        };
        if matches!(outcome, Outcome::New | Outcome::Accepted) {
            files::create_folder(&folder)?;
            files::write(&path, format!("{HEAD}{}\n{now}", env!("CARGO_PKG_VERSION")).as_bytes())?;
        }
        outcomes.push((path, outcome));
    }
    let count = |of: Outcome| outcomes.iter().filter(|(_, outcome)| *outcome == of).count();
    if json {
        for (path, outcome) in &outcomes {
            let name = Outcome::ALL.iter().find(|(o, _)| o == outcome).map(|(_, name)| *name);
            super::print(&format!("{}\n", json!({ "snapshot": path, "outcome": name })))?;
        }
    } else if mode != Mode::First {
        let words = Outcome::ALL.iter().filter(|(o, _)| count(*o) > 0).map(|(o, name)| format!("{} {name}", count(*o)));
        super::print(&format!("{}: {}\n", source.file.display(), words.collect::<Vec<_>>().join(", ")))?;
    }
    Ok(count(Outcome::Different))
}

/// Who wrote a snapshot, and its text; nothing if there is none.
fn read(path: &Path) -> Result<Option<(String, String)>, Failure> {
    if !path.exists() {
        return Ok(None);
    }
    let text = input::read(path)?;
    match text.strip_prefix(HEAD).and_then(|rest| rest.split_once('\n')) {
        Some((by, rest)) => Ok(Some((by.to_string(), rest.to_string()))),
        None => Err(Failure::program(format!("{} is no snapshot of nnc: it does not begin with `{}`", path.display(), HEAD.trim_end()))),
    }
}

/// A difference with three lines around each change.
fn difference(path: &Path, old: Option<&(String, String)>, new: &str) -> String {
    let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let paint = |tag: ChangeTag, line: &str| match tag {
        ChangeTag::Delete if colour => format!("\x1b[31m-{line}\x1b[0m"),
        ChangeTag::Insert if colour => format!("\x1b[32m+{line}\x1b[0m"),
        ChangeTag::Delete => format!("-{line}"),
        ChangeTag::Insert => format!("+{line}"),
        ChangeTag::Equal => format!(" {line}"),
    };
    let Some((by, old)) = old else { return format!("{}: there is no such snapshot yet\n", path.display()) };
    let version = env!("CARGO_PKG_VERSION");
    let whose = if by == version { "not as in the snapshot".into() } else { format!("the snapshot is from nnc {by}, this is {version}") };
    let mut out = format!("{}: {whose}\n", path.display());
    let diff = TextDiff::from_lines(old.as_str(), new);
    for group in diff.grouped_ops(3) {
        out += "  ...\n";
        for change in group.iter().flat_map(|op| diff.iter_changes(op)) {
            out += &format!("  {}\n", paint(change.tag(), change.value().trim_end_matches('\n')));
        }
    }
    out
}

/// Asks until there is an answer.
fn agreed(path: &Path) -> Result<bool, Failure> {
    let mut lines = std::io::stdin().lock().lines();
    loop {
        eprint!("accept {}? [y]es, [n]o, [q]uit: ", path.display());
        let _ = std::io::stderr().flush();
        match lines.next().and_then(|l| l.ok()).as_deref().map(str::trim) {
            Some("y" | "yes") => return Ok(true),
            Some("n" | "no") => return Ok(false),
            Some("q" | "quit") | None => {
                return Err(Failure { code: 130, message: "the review was left; what was accepted before is written".into() });
            }
            Some(_) => {}
        }
    }
}
