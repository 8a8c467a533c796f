//! `nnc show`: any stage of the road, as text, and some as pictures.

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
  nnc show net.nn --stage asm --only softmax   machine code of one kernel
  nnc show net.nn --stage graph --format svg > net.svg
                                               a picture of the model, layer by layer, for a browser; dot: for Graphviz")]
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
    /// As a picture (stages graph, grad, passes, fused, kernels) of the models, or of the entries that --only names
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// One JSON object with the text
    #[arg(long)]
    json: bool,
}

/// How a stage is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Text that reads back, or code
    Text,
    /// For Graphviz
    Dot,
    /// For browsers and documents
    Svg,
}

/// Runs the command.
pub fn run(args: Args) -> Result<(), Failure> {
    let real = if args.f64 { DType::F64 } else { DType::F32 };
    let checked = input::check(&args.source, real)?;
    let stage = args.stage.to_possible_value().map(|v| v.get_name().to_string()).unwrap_or_default();
    let text = if args.format == Format::Text {
        driver::show(&checked, args.stage, args.only.as_deref()).map_err(|message| Failure { code: 3, message })?
    } else {
        let pictures = "graph, grad, passes, fused and kernels";
        let drawn = driver::picture(&checked, args.stage, args.only.as_deref());
        let picture = drawn.ok_or_else(|| Failure::usage(format!("the stage {stage} has no picture: {pictures} have one")))?;
        if picture.nodes.is_empty() {
            let word = args.only.as_deref().unwrap_or_default();
            return Err(Failure::usage(format!("no entry of {} has `{word}` in its name: `nnc inspect` lists them", args.source.file.display())));
        }
        if args.format == Format::Dot { picture.dot() } else { picture.svg() }
    };
    if args.json {
        return super::print(&format!("{}\n", json!({ "file": args.source.file, "stage": stage, "text": text })));
    }
    super::print(&text)
}
