//! `nnc-run`: runs an artifact on a machine without nnc: one that it is given, or the one that it carries (`nnc build --exe`).

use nnc_runtime::artifact::Artifact;
use nnc_runtime::bench;
use nnc_runtime::carried::{self, Slot};
use nnc_runtime::commands::{self, Device, HELP};
use nnc_runtime::error::{Result, RunError};
use nnc_runtime::loader;
use nnc_runtime::program::Program;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// Filled in by `nnc build --exe`, in a copy of this executable's file.
static SLOT: Slot = Slot::EMPTY;

const USAGE: &str = "Usage: nnc-run ARTIFACT [WHAT] [OPTIONS]";

fn run(args: &[String]) -> Result<()> {
    let asked = |flags: [&str; 2]| args.iter().any(|a| flags.contains(&a.as_str()));
    let (help, version) = (asked(["-h", "--help"]), asked(["-V", "--version"]));
    if let Some((artifact, path)) = carried::read(&SLOT)? {
        let name = carried::name(&path)?;
        return match args.first() {
            _ if help => say(&carried::about(&artifact, &name)),
            _ if version => say(&format!("{name}: {}, compiled by nnc {}\n", artifact.manifest.source, artifact.manifest.compiler)),
            None => Err(RunError::Usage(format!("what to run?\n{}", carried::about(&artifact, &name)))),
            Some(_) => execute(&artifact, &path, args),
        };
    }
    if help {
        return say(&format!("Runs a compiled program.\n\n{USAGE}\n\n{HELP}"));
    }
    if version {
        return say(concat!("nnc-run ", env!("CARGO_PKG_VERSION"), "\n"));
    }
    let Some((file, rest)) = args.split_first().filter(|(file, _)| !file.starts_with('-')) else {
        return Err(RunError::Usage(format!("which artifact?\n{USAGE}\n\n{HELP}")));
    };
    let path = Path::new(file);
    execute(&Artifact::read(path)?, path, rest)
}

/// Runs what `args` say with the artifact, which lies at `path`.
fn execute(artifact: &Artifact, path: &Path, args: &[String]) -> Result<()> {
    if args.first().is_some_and(|word| word == "bench") {
        let command = bench::command::parse(&args[1..])?;
        Device::fits(command.device, artifact)?;
        return bench::command::run(&artifact.manifest, loader::load_artifact(artifact)?.as_ref(), &command);
    }
    let command = commands::parse(args)?;
    Device::fits(command.device, artifact)?;
    let kernels = loader::load_artifact(artifact)?;
    let folder = artifact.folder(path);
    commands::run(&Program { manifest: &artifact.manifest, kernels: kernels.as_ref(), folder, artifact: Some(artifact) }, &command)
}

/// To standard output; nobody need be there to read it.
fn say(text: &str) -> Result<()> {
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args_os().skip(1).map(|a| a.to_string_lossy().into_owned()).collect();
    commands::finish(run(&args))
}
