//! `nnc show`: any stage of the road, as text.

use super::Failure;
use super::input::{self, Source};
use crate::driver::{self, Stage};
use crate::ir::DType;

/// Arguments of `nnc show`.
#[derive(clap::Args)]
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
}

/// Runs the command.
pub fn run(args: Args) -> Result<(), Failure> {
    let real = if args.f64 { DType::F64 } else { DType::F32 };
    let checked = input::check(&args.source, real)?;
    let text = driver::show(&checked, args.stage, args.only.as_deref()).map_err(|message| Failure { code: 3, message })?;
    super::print(&text)
}
