//! `nnc new`: a project that runs at once.

use super::{Failure, snap};
use clap::ValueEnum;
use nnc_runtime::error::RunError;
use nnc_runtime::files;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Arguments of `nnc new`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nnc new flowers                     a table of measures and their kinds
  nnc new digits --template images    pictures and their classes
  nnc new poet --template text        a small transformer that continues text")]
pub struct Args {
    /// The project's folder, which must not exist yet; its last part names the program
    folder: PathBuf,
    /// What to begin with
    #[arg(long, short, value_enum, default_value_t = Template::Table)]
    template: Template,
    /// Prints nothing where all is well
    #[arg(long, short)]
    quiet: bool,
    /// One JSON object: the folder and the program
    #[arg(long)]
    json: bool,
}

/// What a project begins with: a program of this repository with its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Template {
    /// Rows of a CSV file: 150 flowers, three kinds
    Table,
    /// 1,797 handwritten digits of 8x8 pixels
    Images,
    /// 65,536 characters of Shakespeare
    Text,
}

struct Content {
    program: &'static str,
    data: (&'static str, &'static [u8]),
    source: &'static str,
}

impl Template {
    fn content(self) -> Content {
        match self {
            Template::Table => Content {
                program: include_str!("../../models/iris.nn"),
                data: ("iris.csv", include_bytes!("../../models/data/iris.csv")),
                source: "150 flowers, four measures, species: R. A. Fisher 1936, UCI Machine Learning Repository; CC BY 4.0",
            },
            Template::Images => Content {
                program: include_str!("../../models/digits.nn"),
                data: ("digits.csv.gz", include_bytes!("../../models/data/digits.csv.gz")),
                source: "1,797 handwritten digits, 8x8 pixels of 0 to 16, then the class: E. Alpaydin and C. Kaynak, UCI Machine Learning Repository; CC BY 4.0",
            },
            Template::Text => Content {
                program: include_str!("../../models/tiny_gpt.nn"),
                data: ("shakespeare.npz", include_bytes!("../../models/data/shakespeare.npz")),
                source: "the first 65,536 characters of Tiny Shakespeare in windows of 32, as numbers, and the characters that follow: W. Shakespeare; public domain",
            },
        }
    }
}

/// Runs the command.
pub fn run(args: Args) -> Result<(), Failure> {
    let folder = &args.folder;
    let name = folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let good = name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-".contains(c));
    if !good {
        return Err(Failure::usage(format!("`{name}` cannot name a project: letters, digits, `_` and `-`, beginning with a letter")));
    }
    if folder.symlink_metadata().is_ok() {
        return Err(Failure::world(format!("{} exists already: choose another name", folder.display())));
    }
    // Aside first: a project is whole or not there.
    let aside = folder.with_file_name(format!(".{name}.{}.part", std::process::id()));
    let made = fill(&aside, &name, args.template.content())
        .and_then(|()| std::fs::rename(&aside, folder).map_err(|e| RunError::file("create the folder", folder, &e).into()));
    if let Err(failure) = made {
        let _ = std::fs::remove_dir_all(&aside);
        // Where it would have been.
        let message = failure.message.replace(&aside.display().to_string(), &folder.display().to_string());
        return Err(Failure { message, ..failure });
    }
    if args.json {
        return super::print(&format!("{}\n", json!({ "folder": folder, "program": folder.join(format!("{name}.nn")) })));
    }
    if args.quiet { Ok(()) } else { super::print(&format!("{}: a model, its data and its snapshots\n\n{}", folder.display(), next(&name, folder))) }
}

/// Writes a project's files.
fn fill(folder: &Path, name: &str, Content { program, data: (data, bytes), source }: Content) -> Result<(), Failure> {
    files::create_folder(&folder.join("data"))?;
    let write = |path: &str, bytes: &[u8]| files::write(&folder.join(path), bytes);
    write(&format!("{name}.nn"), program.as_bytes())?;
    write(&format!("data/{data}"), bytes)?;
    write("data/SOURCES.md", format!("`{data}`: {source}\n").as_bytes())?;
    write("README.md", readme(name).as_bytes())?;
    write(".gitignore", b"/runs\n*.nnc\n")?;
    snap::first(&folder.join(format!("{name}.nn")))
}

fn next(name: &str, folder: &Path) -> String {
    format!("  cd {}\n  nnc run {name}.nn           # trains; shows what it learned\n  nnc run {name}.nn eval --weights run:fit\n", folder.display())
}

fn readme(name: &str) -> String {
    format!(
        "# {name}

`{name}.nn` is the model, its loss and how it is trained. `data/` is what it learns from.

```sh
nnc check {name}.nn                           # every mistake at once, before anything runs
nnc run {name}.nn                             # trains: runs/{name}/fit/N has the best and the last weights, the log, model.nnc
nnc run {name}.nn eval --weights run:fit      # the best weights of the last run, on data they have not seen
nnc build {name}.nn --weights runs/{name}/fit/1/best.safetensors    # {name}.nnc: one file to ship
nnc snap {name}.nn                            # has anything changed that was not meant to? shapes, memory, FLOPs, fusion, the graph
```
"
    )
}
