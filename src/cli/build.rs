//! `nnc build`: a program to one artifact.

use super::Failure;
use super::input::{self, Source};
use super::time::Clock;
use crate::driver::{self, Checked};
use crate::emit::Level;
use crate::emit::cuda::Products;
use crate::ir::DType;
use nnc_runtime::artifact::Artifact;
use nnc_runtime::commands::Device;
use nnc_runtime::tensors::Tensors;
use nnc_runtime::weights;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Arguments of `nnc build`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nnc build digits.nn                                   digits.nnc, without weights
  nnc build digits.nn --weights runs/digits/fit/1/best.safetensors -o shipped.nnc
  nnc build digits.nn --set const.Hidden=128 --time     another size; what each stage takes")]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// Where the artifact goes (default: the program's name with .nnc)
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Weights to pack (.safetensors, .npz)
    #[arg(long)]
    weights: Option<PathBuf>,
    /// What the program is to run on
    #[arg(long, value_enum, default_value_t = Target::Cpu)]
    target: Target,
    /// How products of f32 are computed on GPUs
    #[arg(long, value_enum, default_value_t = Precision::Exact)]
    products: Precision,
    /// Prints nothing where all is well
    #[arg(long, short)]
    quiet: bool,
    /// Prints what each stage took, to standard error
    #[arg(long)]
    time: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// What a program can be built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Target {
    /// x86-64
    Cpu,
    /// GPUs of NVIDIA, as PTX
    Cuda,
}

/// See [`Products`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Precision {
    /// To the bits of a CPU
    Exact,
    /// By tensor units, in three passes: faster, as precise, but not the same bits
    Tensor,
}

impl Target {
    /// The target of the device that a program is to run on.
    pub fn of(device: Option<Device>) -> Target {
        match device {
            Some(Device::Cuda) => Target::Cuda,
            Some(Device::Cpu) | None => Target::Cpu,
        }
    }
}

/// Runs the command.
pub fn run(args: Args) -> Result<(), Failure> {
    let products = match (args.products, args.target) {
        (Precision::Exact, _) => Products::Exact,
        (Precision::Tensor, Target::Cuda) => Products::Tensor,
        (Precision::Tensor, Target::Cpu) => return Err(Failure::usage("--products tensor is for GPUs: add --target cuda")),
    };
    let clock = Clock::start();
    let checked = input::check_marked(&args.source, DType::F32, &|stage| clock.mark(stage))?;
    let mut artifact = artifact_by(&checked, args.target, products, &clock)?;
    if let Some(path) = &args.weights {
        let mut store = Tensors::new(&artifact.manifest.tensors)?;
        weights::load(&mut store, path)?;
        artifact.weights = Some(weights::to_bytes(&store, weights::MODEL, None)?);
    }
    let output = args.output.unwrap_or_else(|| args.source.file.with_extension("nnc"));
    let artifact = artifact.write_for(&output, args.source.file.parent().unwrap_or(Path::new("")))?;
    clock.mark("pack and write");
    if args.time {
        eprint!("{}", clock.text());
    }
    let (kernels, bytes) = (artifact.manifest.kernels.len(), artifact.to_bytes().len());
    if args.json {
        let object = json!({ "file": output, "kernels": kernels, "bytes": bytes, "weights": artifact.weights.is_some() });
        return super::print(&format!("{object}\n"));
    }
    if args.quiet { Ok(()) } else { super::print(&format!("{}: {kernels} kernels, {} KB\n", output.display(), bytes.div_ceil(1024))) }
}

/// What an artifact holds code for.
pub const LEVELS: &[Level] = &[Level::V3, Level::V4];

/// Compiles a checked program, for a CPU at every code level; without weights.
///
/// # Errors
/// LLVM cannot be used on this machine.
pub fn artifact(checked: &Checked, target: Target, clock: &Clock) -> Result<Artifact, Failure> {
    artifact_by(checked, target, Products::Exact, clock)
}

fn artifact_by(checked: &Checked, target: Target, products: Products, clock: &Clock) -> Result<Artifact, Failure> {
    let program = checked.program.as_ref().expect("a checked program");
    let compiled = match target {
        Target::Cpu => driver::compile(program, &checked.sources, LEVELS, &|stage| clock.mark(stage)),
        Target::Cuda => driver::compile_for_gpus(program, &checked.sources, products, &|stage| clock.mark(stage)),
    };
    let compiled = compiled.map_err(|message| Failure { code: 4, message })?;
    let code = compiled.objects.into_iter().enumerate().map(|(i, object)| (i.to_string(), object)).collect();
    Ok(Artifact { manifest: compiled.manifest, code, weights: None })
}
