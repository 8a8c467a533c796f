//! `nnc-run`: runs an artifact on a machine without nnc.

use nnc_runtime::artifact::Artifact;
use nnc_runtime::bench;
use nnc_runtime::commands::{self, Device, HELP};
use nnc_runtime::error::{Result, RunError};
use nnc_runtime::loader;
use nnc_runtime::program::Program;
use std::path::Path;
use std::process::ExitCode;

fn run(args: &[String]) -> Result<()> {
    let Some((file, rest)) = args.split_first().filter(|(file, _)| !file.starts_with('-')) else {
        return Err(RunError::Usage(format!("which artifact?\nUsage: nnc-run ARTIFACT [WHAT] [OPTIONS]\n\n{HELP}")));
    };
    let timing = rest.first().is_some_and(|word| word == "bench");
    let path = Path::new(file);
    let artifact = Artifact::read(path)?;
    if timing {
        let command = bench::command::parse(&rest[1..])?;
        Device::fits(command.device, &artifact)?;
        return bench::command::run(&artifact.manifest, loader::load_artifact(&artifact)?.as_ref(), &command);
    }
    let command = commands::parse(rest)?;
    Device::fits(command.device, &artifact)?;
    let kernels = loader::load_artifact(&artifact)?;
    commands::run(
        &Program { manifest: &artifact.manifest, kernels: kernels.as_ref(), folder: artifact.folder(path), artifact: Some(&artifact) },
        &command,
    )
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    if args.iter().any(|a| matches!(a.as_str(), "-h" | "--help")) {
        println!("Runs a compiled program.\n\nUsage: nnc-run ARTIFACT [WHAT] [OPTIONS]\n\n{HELP}");
        return ExitCode::SUCCESS;
    }
    if args.iter().any(|a| matches!(a.as_str(), "-V" | "--version")) {
        println!("nnc-run {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    commands::finish(run(&args))
}
