//! `nnc bench`: how long a step takes, with one batch in memory; compiles first if given source.

use super::Failure;
use super::build::{self, Target};
use super::input::{self, Source};
use super::time::Clock;
use crate::ir::DType;
use nnc_runtime::artifact::{self, Artifact};
use nnc_runtime::bench::command::{self, HELP};
use nnc_runtime::commands::Device;
use nnc_runtime::loader;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  nnc bench digits.nn                              a step of training, on one thread and on all
  nnc bench digits.nn infer --batch 1 --threads 1
  nnc bench digits.nn --profile                    which kernels and lines its time goes to";

/// Arguments of `nnc bench`.
#[derive(clap::Args)]
#[command(after_help = format!("{HELP}\n\n{EXAMPLES}"))]
pub struct Args {
    /// A program or an artifact
    file: PathBuf,
    /// What to time, and options
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "WHAT|OPTION")]
    rest: Vec<String>,
}

/// Runs the command.
pub fn run(args: Args) -> Result<(), Failure> {
    let command = command::parse(&args.rest)?;
    let artifact = if artifact::is_artifact(&args.file).unwrap_or(false) {
        let artifact = Artifact::read(&args.file)?;
        Device::fits(command.device, &artifact)?;
        artifact
    } else {
        let checked = input::check(&Source { file: args.file, set: vec![] }, DType::F32)?;
        build::artifact(&checked, Target::of(command.device), &Clock::start())?
    };
    let kernels = loader::load_artifact(&artifact)?;
    Ok(command::run(&artifact.manifest, kernels.as_ref(), &command)?)
}
