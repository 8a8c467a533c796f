//! `nnc run`: trains, evaluates, infers; compiles first if given source. What happens then is the runtime's, the same as in `nnc-run`.

use super::Failure;
use super::build::{self, Target};
use super::input::{self, Source};
use super::time::Clock;
use crate::ir::DType;
use nnc_runtime::artifact::{self, Artifact};
use nnc_runtime::checkpoint::Position;
use nnc_runtime::commands::{self, Device, HELP};
use nnc_runtime::loader;
use nnc_runtime::program::Program;
use std::path::{Path, PathBuf};

const EXAMPLES: &str = "\
Examples:
  nnc run digits.nn                                     trains, in a run of its own: runs/digits/fit/1
  nnc run digits.nn train --set batch=64 --seed 7 --save-every 10m
  nnc run digits.nn train --resume runs/digits/fit/1    goes on where it was stopped
  nnc run digits.nn train --weights pretrained.safetensors   fine-tunes
  nnc run digits.nn eval --weights run:fit --data test
  nnc run digits.nn infer --weights run:fit --input image=x.npy -o results
  nnc run runs/digits/fit/1/model.nnc eval              what a run left";

/// Arguments of `nnc run`.
#[derive(clap::Args)]
#[command(after_help = format!("{HELP}\n\n{EXAMPLES}"))]
pub struct Args {
    /// A program or an artifact
    file: PathBuf,
    /// Prints what each stage of the compiler took, to standard error (before WHAT)
    #[arg(long)]
    time: bool,
    /// What to run, and options
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "WHAT|OPTION")]
    rest: Vec<String>,
}

/// Runs the command.
pub fn run(args: Args) -> Result<(), Failure> {
    let mut command = commands::parse(&args.rest)?;
    let clock = Clock::start();
    let (artifact, folder) = if artifact::is_artifact(&args.file).unwrap_or(false) {
        let artifact = Artifact::read(&args.file)?;
        Device::fits(command.device, &artifact)?;
        clock.mark("read");
        let folder = artifact.folder(&args.file);
        (artifact, folder)
    } else {
        // The program's own settings are overridden before it is compiled; nothing is left for the runtime to override.
        // A run that goes on does so with the settings it began with; what is given now comes after them.
        let mut all = match &command.options.resume {
            Some(folder) => Position::read(folder)?.compiled,
            None => vec![],
        };
        all.append(&mut command.options.set);
        let set = all.iter().map(|(path, value)| format!("{path}={value}")).collect();
        let source = Source { file: args.file.clone(), set };
        let checked = input::check_marked(&source, DType::F32, &|stage| clock.mark(stage))?;
        let artifact = build::artifact(&checked, Target::of(command.device), &clock)?;
        command.options.compiled = all;
        (artifact, args.file.parent().unwrap_or(Path::new("")).to_path_buf())
    };
    let kernels = loader::load_artifact(&artifact)?;
    clock.mark("load");
    if args.time {
        eprint!("{}", clock.text());
    }
    let program = Program { manifest: &artifact.manifest, kernels: kernels.as_ref(), folder, artifact: Some(&artifact) };
    Ok(commands::run(&program, &command)?)
}
