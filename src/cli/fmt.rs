//! `nnc fmt`: the one layout.

use super::input::read;
use super::{Failure, colour};
use crate::span::Sources;
use nnc_runtime::files;
use serde_json::json;
use std::path::PathBuf;

/// Arguments of `nnc fmt`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nnc fmt *.nn
  nnc fmt --check *.nn      for continuous integration")]
pub struct Args {
    /// Programs to lay out in place
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Changes nothing; fails if a file is not laid out as it should be
    #[arg(long)]
    check: bool,
    /// One JSON object a file: laid out, changed, or wrong
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<(), Failure> {
    let (mut wrong, mut broken) = (0, 0);
    for path in &args.files {
        let text = read(path)?;
        let formatted = crate::parse::format(&text);
        if args.json {
            let state = match &formatted {
                Ok(formatted) if *formatted == text => "laid out",
                Ok(_) if args.check => "not laid out",
                Ok(_) => "changed",
                Err(_) => "wrong",
            };
            super::print(&format!("{}\n", json!({ "file": path, "state": state })))?;
        }
        match formatted {
            Ok(formatted) if formatted == text => {}
            Ok(_) if args.check => {
                eprintln!("{} is not laid out as `nnc fmt` does", path.display());
                wrong += 1;
            }
            Ok(formatted) => files::write(path, formatted.as_bytes())?,
            Err(diagnostics) => {
                let mut sources = Sources::default();
                sources.add(&path.to_string_lossy(), &text);
                eprint!("{}", crate::diagnostic::render(&diagnostics, &sources, colour()));
                broken += 1;
            }
        }
    }
    match (broken, wrong) {
        (0, 0) => Ok(()),
        (0, n) => Err(Failure::program(format!("{n} of {} files would change", args.files.len()))),
        (n, _) => Err(Failure::program(format!("{n} of {} files do not parse and were left as they are", args.files.len()))),
    }
}
