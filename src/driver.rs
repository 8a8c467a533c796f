//! The road, top to bottom: text in, artifact out. Each stage is one function with values in and values out; [`show`] stops after any of them and prints.
//!
//! No I/O happens here: texts come in through [`Input`], the result is bytes or text.

use crate::check::typed::Program;
use crate::diagnostic::{Diagnostic, Severity};
use crate::emit::{self, Level};
use crate::ir::{DType, Function, Module, Value};
use crate::kernel::Kernel;
use crate::span::{FileId, Sources, Span};
use crate::{build, check, grad, ir, kernel, passes, picture, plan};
use nnc_runtime::manifest::{DimDecl, Entry, Manifest, Sink, Source};
use nnc_runtime::picture::Picture;

/// The texts of one compilation and how to read them.
pub struct Input<'a> {
    /// The root file's name, as diagnostics show it.
    pub name: &'a str,
    /// The root file's text.
    pub text: &'a str,
    /// Reads an imported file, by its path relative to the root's folder.
    pub load: &'a dyn Fn(&str) -> Result<String, String>,
    /// What `real` stands for.
    pub real: DType,
    /// `--set path=value`, in order.
    pub set: Vec<(String, String)>,
}

/// What `check` found.
pub struct Checked {
    /// All texts, the library's included.
    pub sources: Sources,
    /// The program; absent if there are errors.
    pub program: Option<Program>,
    /// Errors and warnings, in source order.
    pub diagnostics: Vec<Diagnostic>,
}

impl Checked {
    /// The diagnostics as text.
    pub fn rendered(&self, colour: bool) -> String {
        crate::diagnostic::render(&self.diagnostics, &self.sources, colour)
    }

    /// How many errors and warnings there are.
    pub fn counts(&self) -> (usize, usize) {
        let errors = self.diagnostics.iter().filter(|d| d.severity == Severity::Error).count();
        (errors, self.diagnostics.len() - errors)
    }
}

/// Text to typed program.
pub fn check(input: &Input) -> Checked {
    check_marked(input, &|_| {})
}

/// [`check()`], with the end of its stages marked.
pub fn check_marked(input: &Input, mark: Mark) -> Checked {
    let mut sources = Sources::default();
    let root = sources.add(input.name, input.text);
    let options = check::Options { real: input.real, set: input.set.clone() };
    let (program, diagnostics) = check::check_marked(&mut sources, root, input.load, &options, &|| mark("parse"));
    mark("check");
    Checked { sources, program, diagnostics }
}

/// Typed program to the graph of everything that can be run, training steps and their gradients included.
pub fn graph(program: &Program) -> Module {
    build::steps(build::build(program), program)
}

/// Told the name of each stage when it ends.
pub type Mark<'a> = &'a dyn Fn(&'static str);

/// A program as kernels and launch tables.
pub struct Lowered {
    /// The graph after all passes.
    pub module: Module,
    /// Distinct kernels.
    pub kernels: Vec<Kernel>,
    /// One plan an entry.
    pub entries: Vec<Entry>,
}

/// Graph to kernels and plans.
pub fn lower(module: Module, sources: &Sources) -> Lowered {
    lower_marked(module, sources, &|_| {})
}

fn lower_marked(module: Module, sources: &Sources, mark: Mark) -> Lowered {
    let module = passes::declare(passes::optimise(passes::define(module)));
    mark("passes");
    let units = kernel::units(&module);
    mark("fuse");
    let lowered = kernel::lower_units(&module, units);
    mark("lower");
    let (kernels, entries) = plan::plan(&module, &lowered, sources);
    mark("plan");
    Lowered { module, kernels, entries }
}

/// Everything the runtime needs but the weights.
pub struct Compiled {
    /// The table of contents.
    pub manifest: Manifest,
    /// Relocatable objects, or texts of PTX.
    pub objects: Vec<Vec<u8>>,
}

/// Typed program to machine code for the given code levels.
///
/// # Errors
/// Where LLVM cannot be used: a sentence.
pub fn compile(program: &Program, sources: &Sources, levels: &[Level], mark: Mark) -> Result<Compiled, String> {
    let lowered = lower_program(program, sources, mark);
    let manifest = manifest(program, &lowered, sources);
    let objects = emit::compile(&lowered.kernels, &manifest.kernels, levels)?;
    mark("emit");
    Ok(Compiled { manifest, objects })
}

/// Typed program to PTX for GPUs.
///
/// # Errors
/// As [`compile`].
pub fn compile_for_gpus(program: &Program, sources: &Sources, products: emit::cuda::Products, mark: Mark) -> Result<Compiled, String> {
    let lowered = lower_program(program, sources, mark);
    let grids = lowered.kernels.iter().map(emit::cuda::grid).collect();
    let mut manifest = Manifest { grids, ..manifest(program, &lowered, sources) };
    manifest.kernels.iter_mut().for_each(|k| k.scratch = 0);
    let texts = emit::cuda::ptx(&lowered.kernels, &manifest.kernels, products)?;
    mark("emit");
    Ok(Compiled { manifest, objects: texts.into_iter().map(String::into_bytes).collect() })
}

fn lower_program(program: &Program, sources: &Sources, mark: Mark) -> Lowered {
    let module = build::build(program);
    mark("build");
    let module = build::steps(module, program);
    mark("grad");
    lower_marked(module, sources, mark)
}

/// The manifest of a lowered program. Kernels are called `k0`, `k1`, ... with what they compute behind it.
pub fn manifest(program: &Program, lowered: &Lowered, sources: &Sources) -> Manifest {
    let flops = ir::work::flops(&lowered.module);
    let of = |e: &ir::Entry| Some((e.name.clone(), flops[e.function.0 as usize].clone()?));
    Manifest {
        version: nnc_runtime::manifest::VERSION,
        compiler: env!("CARGO_PKG_VERSION").into(),
        source: sources.get(FileId(0)).name.to_string(),
        folder: String::new(),
        dims: program.dims.iter().map(|d| DimDecl { name: d.name.clone(), min: d.min, max: d.max }).collect(),
        tensors: build::tensors(program),
        kernels: lowered.kernels.iter().enumerate().map(|(i, k)| emit::declare(&format!("k{i}_{}", k.name), k)).collect(),
        grids: vec![],
        entries: lowered.entries.clone(),
        flops: lowered.module.entries.iter().filter_map(of).collect(),
        data: program.data.clone(),
        recipes: program.recipes.iter().map(|r| r.settings.clone()).collect(),
    }
}

/// What [`show`] can print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Stage {
    /// The text in the one layout
    Tree,
    /// Every call resolved, every expression typed
    Typed,
    /// The graph of the models and objectives, before differentiation
    Graph,
    /// The graph with gradients and training steps, in the form that defines what is computed
    Grad,
    /// The same, as formulas on paper
    Formulas,
    /// The graph after all passes
    Passes,
    /// Which nests become one kernel, and why others do not
    Fused,
    /// Loop programs
    Kernels,
    /// Launch tables
    Plan,
    /// LLVM's intermediate representation
    Llvm,
    /// Machine code
    Asm,
    /// Code for GPUs of NVIDIA
    Ptx,
}

/// A stage as text; with `only`, just the functions, kernels or entries with that word in their name.
///
/// # Errors
/// There is no machine code to show, because LLVM cannot be used: a sentence.
pub fn show(checked: &Checked, stage: Stage, only: Option<&str>) -> Result<String, String> {
    let program = checked.program.as_ref().expect("only a correct program has stages");
    let wanted = |name: &str| only.is_none_or(|word| name.contains(word));
    let some = |module: Module| match only {
        None => ir::print::module(&module),
        Some(_) => module.functions.iter().filter(|f| wanted(&f.name)).map(|f| ir::print::function(&module, f)).collect::<Vec<_>>().join("\n"),
    };
    let optimised = |program| passes::declare(passes::optimise(passes::define(graph(program))));
    let lowered = || lower(graph(program), &checked.sources);
    let kernels = |print: &dyn Fn(&Kernel) -> Result<String, String>| -> Result<String, String> {
        let texts: Result<Vec<String>, String> = lowered().kernels.iter().filter(|k| wanted(&k.name)).map(print).collect();
        Ok(texts?.join("\n"))
    };
    Ok(match stage {
        Stage::Tree => crate::parse::format(&checked.sources.get(FileId(0)).text).expect("it has parsed"),
        Stage::Typed => check::print::program(program),
        Stage::Graph => some(build::build(program)),
        Stage::Grad => some(passes::define(graph(program))),
        Stage::Formulas => {
            let module = passes::define(graph(program));
            let all = module.functions.iter().filter(|f| wanted(&f.name)).map(|f| ir::print::formulas(&module, f));
            all.filter(|text| !text.is_empty()).collect::<Vec<_>>().join("\n")
        }
        Stage::Passes => some(optimised(program)),
        Stage::Fused => {
            let module = optimised(program);
            module.functions.iter().filter(|f| wanted(&f.name)).map(kernel::fuse::describe).collect::<Vec<_>>().join("\n")
        }
        Stage::Kernels => kernels(&|k| Ok(kernel::print::kernel(k)))?,
        Stage::Plan => {
            let lowered = lowered();
            lowered.entries.iter().filter(|e| wanted(&e.name)).map(|e| plan::print::entry(e, &lowered.kernels)).collect::<Vec<_>>().join("\n")
        }
        Stage::Llvm => kernels(&|k| emit::text(k, Level::V3, emit::What::Ir))?,
        Stage::Asm => kernels(&|k| emit::text(k, Level::V3, emit::What::Assembly))?,
        Stage::Ptx => kernels(&|k| emit::cuda::text(k, emit::What::Assembly))?,
    })
}

/// A stage as a picture of the models, or of the entries with `only` in their name; nothing for stages that are no graphs.
pub fn picture(checked: &Checked, stage: Stage, only: Option<&str>) -> Option<Picture> {
    let program = checked.program.as_ref().expect("only a correct program has stages");
    let optimised = || passes::declare(passes::optimise(passes::define(graph(program))));
    Some(match stage {
        Stage::Graph => picture::module(&build::build(program), only, false),
        Stage::Grad => picture::module(&passes::define(graph(program)), only, false),
        Stage::Passes => picture::module(&optimised(), only, false),
        Stage::Fused => picture::module(&optimised(), only, true),
        Stage::Kernels => {
            let manifest = manifest(program, &lower(graph(program), &checked.sources), &checked.sources);
            let names = picture::wanted(manifest.entries.iter().map(|e| &*e.name), only);
            nnc_runtime::page::launches(&manifest, &names)
        }
        Stage::Tree | Stage::Typed | Stage::Formulas | Stage::Plan | Stage::Llvm | Stage::Asm | Stage::Ptx => return None,
    })
}

/// Adds an entry `derivative:MODEL` to the graph: from the model's inputs and one cotangent `d.RESULT` a float result, the results and `grad.INPUT` of every float input
/// and, by its path, every parameter. What the comparisons with other frameworks run.
pub fn add_derivative(module: &mut Module, model: &str) {
    differentiate(module, &format!("infer:{model}"), &format!("derivative:{model}"));
}

/// The same of any entry, under any name; of a recipe's evaluation the results are what the loss is made of.
pub fn differentiate(module: &mut Module, of: &str, name: &str) {
    let entry = module.entries.iter().find(|e| *e.name == *of).expect("an entry of the module").clone();
    let callee = module.function(entry.function).clone();
    let mut f = Function::new(&format!("derivative.{}", callee.name));
    let mut sources = entry.inputs.clone();
    let inputs: Vec<Value> = callee.inputs.iter().map(|i| f.input(&i.name, i.ty.clone())).collect();
    let call = f.call(entry.function, &callee, inputs.clone(), Span::default());
    let (mut seeds, mut sinks) = (Vec::new(), entry.results.clone());
    for (k, sink) in entry.results.iter().enumerate() {
        let value = Value { node: call, result: k as u32 };
        f.results.push((None, value));
        let name = match sink {
            Sink::Result(name) => Some(name),
            Sink::Accumulate(name) => Some(name).filter(|n| n.starts_with("loss.")),
            Sink::Tensor(_) => None,
        };
        if let (Some(name), true) = (name, f.ty(value).dtype.is_float()) {
            let name: std::sync::Arc<str> = format!("d.{name}").into();
            let cotangent = f.input(&name, f.ty(value).clone());
            sources.push(Source::Data(name));
            seeds.push((value, cotangent));
        }
    }
    let active: Vec<(Value, String)> = std::iter::zip(&inputs, &entry.inputs)
        .filter(|(v, _)| f.ty(**v).dtype.is_float())
        .filter_map(|(v, source)| match source {
            Source::Data(name) | Source::Tensor(name) => Some((*v, format!("grad.{name}"))),
            Source::Scalar(_) | Source::Step | Source::Key => None,
        })
        .collect();
    let wrt: Vec<Value> = active.iter().map(|(v, _)| *v).collect();
    let gradients = grad::vjp(module, &mut f, &seeds, &wrt);
    for ((_, name), gradient) in std::iter::zip(active, gradients) {
        f.results.push((Some(name.as_str().into()), gradient));
        sinks.push(Sink::Result(name.into()));
    }
    let function = module.add(f);
    module.entries.push(crate::ir::Entry { name: name.into(), function, inputs: sources, results: sinks });
}
