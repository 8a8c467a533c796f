//! `nnc build`: a program to one artifact, an executable, or files for a C compiler. An artifact given instead of a program is packed anew.

use super::Failure;
use super::input::{self, Source};
use super::ship::{self, Libraries, Runner, Runtime};
use super::time::Clock;
use crate::driver::{self, Checked};
use crate::emit::Level;
use crate::emit::cuda::Products;
use crate::ir::DType;
use nnc_runtime::artifact::{self, Artifact};
use nnc_runtime::commands::Device;
use nnc_runtime::program::weights_path;
use nnc_runtime::report::{Report, Style};
use nnc_runtime::tensors::Tensors;
use nnc_runtime::{files, weights};
use serde_json::json;
use std::path::{Path, PathBuf};

/// Arguments of `nnc build`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nnc build digits.nn                                   digits.nnc, without weights
  nnc build digits.nn --weights runs/digits/fit/1/best.safetensors -o shipped.nnc
  nnc build digits.nn --exe --weights run:fit           digits, an executable that needs nothing: ./digits infer --input image=x.npy
  nnc build runs/digits/fit/1/model.nnc --exe -o digits the same of what training left
  nnc build digits.nn --emit c --weights run:fit        digits_c, a folder with headers, libraries, an example
  nnc build digits.nn --set const.Hidden=128 --time     another size; what each stage takes")]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// Where it goes (default: the program's name with .nnc; the bare name of an executable, with _c of a folder for C)
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Weights to pack (.safetensors, .npz), or run:RECIPE for the best of its last run
    #[arg(long, value_name = "FILE")]
    weights: Option<String>,
    /// What is made
    #[arg(long, value_enum, default_value_t = Emit::Artifact)]
    emit: Emit,
    /// Makes an executable: --emit exe
    #[arg(long, conflicts_with = "emit")]
    exe: bool,
    /// The folder of the runtime that is shipped (default: nnc's own)
    #[arg(long, value_name = "DIR")]
    runtime: Option<PathBuf>,
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
    /// By tensor units, in three passes: about as precise, but not the same bits
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

/// What a program can be made into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Emit {
    /// A file for nnc and nnc-run
    Artifact,
    /// An executable with the runtime inside
    Exe,
    /// A folder for a C compiler: headers, the artifact as an object file, libnnc, an example
    C,
}

/// The same, with what of the runtime goes into it.
enum Pack {
    Artifact,
    Exe(Runner),
    C(Libraries),
}

/// Runs the command.
pub fn run(args: Args) -> Result<(), Failure> {
    let products = match (args.products, args.target) {
        (Precision::Exact, _) => Products::Exact,
        (Precision::Tensor, Target::Cuda) => Products::Tensor,
        (Precision::Tensor, Target::Cpu) => return Err(Failure::usage("--products tensor is for GPUs: add --target cuda")),
    };
    let clock = Clock::start();
    let file = &args.source.file;
    let emit = if args.exe { Emit::Exe } else { args.emit };
    let output = args.output.clone().unwrap_or_else(|| match emit {
        Emit::Artifact => file.with_extension("nnc"),
        Emit::Exe => file.with_extension(""),
        Emit::C => file.with_file_name(format!("{}_c", file.file_stem().unwrap_or_default().to_string_lossy())),
    });
    let same = |a: &Path, b: &Path| a == b || a.canonicalize().is_ok_and(|a| b.canonicalize().is_ok_and(|b| a == b));
    if same(&output, file) {
        return Err(Failure::usage(format!("{} would be overwritten: give another file with -o", file.display())));
    }
    // What is missing is said before anything is compiled.
    let runtime = Runtime::find(args.runtime.as_deref());
    let pack = match emit {
        Emit::Artifact => Pack::Artifact,
        Emit::Exe => Pack::Exe(runtime?.runner()?),
        Emit::C => Pack::C(runtime?.libraries()?),
    };
    let (mut artifact, folder) = source(&args, products, &clock)?;
    if let Some(text) = &args.weights {
        let mut store = Tensors::new(&artifact.manifest.tensors)?;
        let name = Path::new(&artifact.manifest.source).file_stem().unwrap_or_default();
        let found = weights_path(text, Path::new(""), &Path::new("runs").join(name))?;
        Report::new(if args.quiet || args.json { Style::Quiet } else { Style::Text }).weights(text, &found);
        weights::load(&mut store, &found)?;
        artifact.weights = Some(weights::to_bytes(&store, weights::MODEL, None)?);
    }
    let artifact = artifact.at(&output, &folder);
    let bytes = match pack {
        Pack::Artifact => {
            let bytes = artifact.to_bytes();
            files::write(&output, &bytes)?;
            bytes.len()
        }
        Pack::Exe(runner) => ship::executable(&runner, &artifact, &output)?,
        Pack::C(libraries) => ship::c(&libraries, &artifact, &output)?,
    };
    clock.mark("pack and write");
    if args.time {
        eprint!("{}", clock.text());
    }
    let kernels = artifact.manifest.kernels.len();
    if args.json {
        let object = json!({ "file": output, "kernels": kernels, "bytes": bytes, "weights": artifact.weights.is_some() });
        return super::print(&format!("{object}\n"));
    }
    if args.quiet { Ok(()) } else { super::print(&format!("{}: {kernels} kernels, {} KB\n", output.display(), bytes.div_ceil(1024))) }
}

/// The artifact that is to be packed, and the folder of the program's data.
fn source(args: &Args, products: Products, clock: &Clock) -> Result<(Artifact, PathBuf), Failure> {
    let file = &args.source.file;
    if artifact::is_artifact(file).unwrap_or(false) {
        if !args.source.set.is_empty() || args.target != Target::Cpu {
            return Err(Failure::usage(format!("{} is compiled already: --set and --target need the program's text", file.display())));
        }
        let artifact = Artifact::read(file)?;
        clock.mark("read");
        let folder = artifact.folder(file);
        return Ok((artifact, folder));
    }
    let checked = input::check_marked(&args.source, DType::F32, &|stage| clock.mark(stage))?;
    let artifact = artifact_by(&checked, args.target, products, clock)?;
    Ok((artifact, file.parent().unwrap_or(Path::new("")).to_path_buf()))
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
