//! `nnc show`: any stage of the road, as text.

use super::Failure;
use super::input::{self, Source};
use crate::driver::{self, Stage};
use crate::ir::DType;
use clap::ValueEnum;
use serde_json::json;

/// Arguments of `nnc show`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nnc show net.nn                              the model and its gradient, as formulas on paper
  nnc show net.nn --stage fused                which loops became one, and why others did not
  nnc show net.nn --stage asm --only softmax   machine code of one kernel")]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// Which stage
    #[arg(long, value_enum, default_value_t = Stage::Formulas)]
    stage: Stage,
    /// Prints only what has this word in its name: a function, a kernel, an entry
    #[arg(long)]
    only: Option<String>,
    /// Shows the program in f64 instead of f32
    #[arg(long)]
    f64: bool,
    /// One JSON object with the text
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<(), Failure> {
    let real = if args.f64 { DType::F64 } else { DType::F32 };
    let checked = input::check(&args.source, real)?;
    let text = driver::show(&checked, args.stage, args.only.as_deref()).map_err(|message| Failure { code: 3, message })?;
    if args.json {
        let stage = args.stage.to_possible_value().map(|v| v.get_name().to_string());
        return super::print(&format!("{}\n", json!({ "file": args.source.file, "stage": stage, "text": text })));
    }
    super::print(&text)
}
