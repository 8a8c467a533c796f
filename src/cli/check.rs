//! `nnc check`: every mistake of a program, at once.

use super::input::{self, Source};
use super::{Failure, colour};
use crate::diagnostic::{Diagnostic, Severity};
use crate::ir::DType;
use crate::span::{Sources, Span};
use serde_json::json;

/// Arguments of `nnc check`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nnc check net.nn
  nnc check net.nn --json | jq -r .message")]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// Prints diagnostics as JSON, one object a line
    #[arg(long)]
    json: bool,
    /// Prints nothing where all is well
    #[arg(long, short)]
    quiet: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<(), Failure> {
    let checked = input::check_quietly(&args.source, DType::F32, &|_| {})?;
    let (errors, warnings) = checked.counts();
    if args.json {
        for diagnostic in &checked.diagnostics {
            super::print(&format!("{}\n", as_json(diagnostic, &checked.sources)))?;
        }
    } else {
        eprint!("{}", checked.rendered(colour()));
    }
    match errors {
        0 => {
            if !args.quiet && !args.json {
                let also = match warnings {
                    0 => String::new(),
                    1 => ", 1 warning".into(),
                    n => format!(", {n} warnings"),
                };
                super::print(&format!("{}: no mistakes{also}\n", args.source.file.display()))?;
            }
            Ok(())
        }
        _ if args.json => Err(Failure::program("")),
        1 => Err(Failure::program(format!("{} has 1 mistake", args.source.file.display()))),
        n => Err(Failure::program(format!("{} has {n} mistakes", args.source.file.display()))),
    }
}

fn as_json(diagnostic: &Diagnostic, sources: &Sources) -> serde_json::Value {
    let place = |span: Span| {
        let source = sources.get(span.file);
        let before = &source.text[..span.start as usize];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
        json!({ "file": *source.name, "line": line, "column": column, "start": span.start, "end": span.end })
    };
    json!({
        "severity": match diagnostic.severity { Severity::Error => "error", Severity::Warning => "warning" },
        "code": diagnostic.code,
        "message": diagnostic.message,
        "labels": diagnostic.labels.iter().map(|(span, text)| json!({ "at": place(*span), "text": text })).collect::<Vec<_>>(),
        "notes": diagnostic.notes,
        "fix": diagnostic.fix.as_ref().map(|f| json!({ "title": f.title, "at": place(f.span), "replacement": f.replacement })),
    })
}
