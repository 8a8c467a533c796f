//! `nnc inspect`: what a file is and what is in it.

use super::Failure;
use super::input::{self, Source};
use crate::driver;
use crate::ir::DType;
use nnc_runtime::inspect::{self, MOST_ROWS, Summary};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Arguments of `nnc inspect`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nnc inspect runs/digits/fit/1               how far a run is, and its weights
  nnc inspect runs                            all runs, and what came of them
  nnc inspect data/iris.csv                   a table's columns: numbers or words, which, what is missing
  nnc inspect model.nnc                       what an artifact can run
  nnc inspect weights.safetensors --json | jq '.tensors[] | {name, shape}'")]
pub struct Args {
    /// Programs, artifacts, weights (.safetensors, .npz, .npy), tables (.csv, .tsv), folders of runs
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Lists every tensor, however many there are
    #[arg(long)]
    all: bool,
    /// One JSON object a file
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<(), Failure> {
    let mut failed = None;
    for path in &args.files {
        let summary = match summary(path) {
            Ok(summary) => summary,
            // The others are looked at all the same.
            Err(failure) => {
                failure.report();
                failed = Some(Failure { message: String::new(), ..failure });
                continue;
            }
        };
        if args.json {
            let mut object = summary.json();
            object["file"] = json!(path);
            super::print(&format!("{object}\n"))?;
        } else {
            let most = if args.all { usize::MAX } else { MOST_ROWS };
            super::print(&format!("{}: {}\n{}", path.display(), summary.kind, summary.text(most)))?;
        }
    }
    failed.map_or(Ok(()), Err)
}

fn summary(path: &Path) -> Result<Summary, Failure> {
    if path.extension().is_none_or(|e| e != "nn") || path.is_dir() {
        return Ok(inspect::inspect(path)?);
    }
    let checked = input::check(&Source { file: path.to_path_buf(), set: vec![] }, DType::F32)?;
    let program = checked.program.as_ref().expect("a checked program");
    let lowered = driver::lower(driver::graph(program), &checked.sources);
    Ok(inspect::program("program", &driver::manifest(program, &lowered, &checked.sources)))
}
