//! The road, top to bottom: text in, artifact out. Each stage is one function with values in and values out; [`show`] stops after any of them and prints.
//!
//! No I/O happens here: texts come in through [`Input`], the result is bytes or text.

use crate::check::typed::Program;
use crate::diagnostic::{Diagnostic, Severity};
use crate::emit::{self, Level};
use crate::ir::{DType, Module};
use crate::kernel::Kernel;
use crate::span::{FileId, Sources};
use crate::{build, check, kernel, passes, plan};
use nnc_runtime::manifest::{DimDecl, Entry, Manifest};

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
    let mut sources = Sources::default();
    let root = sources.add(input.name, input.text);
    let options = check::Options { real: input.real, set: input.set.clone() };
    let (program, diagnostics) = check::check(&mut sources, root, input.load, &options);
    Checked { sources, program, diagnostics }
}

/// Typed program to the graph of everything that can be run, training steps included, before optimisation.
pub fn graph(program: &Program) -> Module {
    build::steps(build::build(program), program)
}

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
    let module = passes::optimise(module);
    let lowered = kernel::lower(&module);
    let (kernels, entries) = plan::plan(&module, &lowered, sources);
    Lowered { module, kernels, entries }
}

/// Everything the runtime needs but the weights.
pub struct Compiled {
    /// The table of contents.
    pub manifest: Manifest,
    /// Relocatable objects.
    pub objects: Vec<Vec<u8>>,
}

/// Typed program to machine code for the given code levels.
///
/// # Errors
/// Where LLVM cannot be used: a sentence.
pub fn compile(program: &Program, sources: &Sources, levels: &[Level]) -> Result<Compiled, String> {
    let lowered = lower(graph(program), sources);
    let manifest = manifest(program, &lowered, sources);
    let objects = emit::compile(&lowered.kernels, &manifest.kernels, levels)?;
    Ok(Compiled { manifest, objects })
}

/// The manifest of a lowered program. Kernels are called `k0`, `k1`, ... with what they compute behind it.
pub fn manifest(program: &Program, lowered: &Lowered, sources: &Sources) -> Manifest {
    Manifest {
        version: nnc_runtime::manifest::VERSION,
        compiler: env!("CARGO_PKG_VERSION").into(),
        source: sources.get(FileId(0)).name.to_string(),
        dims: program.dims.iter().map(|d| DimDecl { name: d.name.clone(), min: d.min, max: d.max }).collect(),
        tensors: build::tensors(program),
        kernels: lowered.kernels.iter().enumerate().map(|(i, k)| format!("k{i}_{}", k.name)).collect(),
        entries: lowered.entries.clone(),
        data: program.data.clone(),
        recipes: program.recipes.iter().map(|r| r.settings.clone()).collect(),
    }
}
