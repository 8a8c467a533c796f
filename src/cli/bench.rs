//! `nnc bench`: how long a step takes, with one batch in memory; compiles first if given source.

use super::input::{self, Source};
use super::{Failure, build};
use crate::driver;
use crate::ir::DType;
use nnc_runtime::artifact::{self, Artifact};
use nnc_runtime::bench::command::{self, HELP};
use nnc_runtime::loader::{self, Loader};
use std::path::PathBuf;

/// Arguments of `nnc bench`.
#[derive(clap::Args)]
#[command(after_help = HELP)]
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
    let level = loader::level()?;
    if artifact::is_artifact(&args.file).unwrap_or(false) {
        let artifact = Artifact::read(&args.file)?;
        let kernels = loader::load_artifact(&artifact)?;
        return Ok(command::run(&artifact.manifest, &kernels, &command)?);
    }
    let checked = input::check(&Source { file: args.file, set: vec![] }, DType::F32)?;
    let program = checked.program.as_ref().expect("a checked program");
    let compiled = driver::compile(program, &checked.sources, build::LEVELS, &|_| {}).map_err(Failure::world)?;
    let kernels = Loader::new(compiled.objects.iter().map(|o| o.as_slice()), &compiled.manifest.kernels, level)?;
    Ok(command::run(&compiled.manifest, &kernels, &command)?)
}
