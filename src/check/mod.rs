//! From trees to a typed program: names, dims, shapes, meanings, parameter paths; all mistakes at once.
//!
//! In: the root file, and through the loader what it imports. Out: diagnostics, and the program if none is an error. Elaboration is by
//! instantiation: the walk over a body computes a `value::Value` for every expression; a call instantiates its callee at the static arguments, the
//! types and the mode, once for equal ones. So a function is checked where it is used, at known sizes; `model`s are always used. A wrong
//! value is poison: what follows from it is silent.

mod arguments;
mod arithmetic;
mod bounds;
mod builtins;
mod calls;
mod classifier;
mod comprehension;
mod data;
mod elements;
mod expressions;
mod foreign;
mod functions;
mod gradient;
mod lints;
mod objective;
mod optimizers;
mod overrides;
mod pieces;
pub mod print;
mod report;
mod scan;
mod scope;
mod statements;
#[cfg(test)]
mod tests;
mod train;
pub mod typed;
mod types;
mod uncalled;
mod value;
mod weights;

use crate::diagnostic::{Diagnostic, Severity};
use crate::ir::DType;
use crate::span::{FileId, Sources, Span};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use typed::{Instance, InstanceId, Program};
use value::DefId;

/// What a compilation is told besides the text.
#[derive(Clone, Debug)]
pub struct Options {
    /// What `real` is.
    pub real: DType,
    /// `--set PATH=VALUE`, in order.
    pub set: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Options {
        Options { real: DType::F32, set: vec![] }
    }
}

/// The state of one check.
pub(crate) struct Checker<'a> {
    sources: &'a mut Sources,
    options: &'a Options,
    diagnostics: Vec<Diagnostic>,
    scope: scope::Scope,
    /// Finished instances; callees first.
    instances: Vec<Instance>,
    /// Instances by what they were made from.
    memo: BTreeMap<calls::Key, calls::Made>,
    /// Functions being instantiated, outermost first, with the places of their calls.
    active: Vec<(DefId, Span)>,
    /// For every use of softmax in the program's text: the edit that drops it.
    softmaxes: Vec<crate::diagnostic::Fix>,
    /// Functions that were called.
    called: BTreeSet<DefId>,
    /// Data sections being checked.
    data: Vec<data::DataInfo>,
    program: Program,
}

/// Checks the program in `root`: the typed program, if it has no errors, and everything found. `loader` reads an import by its path, relative to
/// the root's folder.
pub fn check(
    sources: &mut Sources,
    root: FileId,
    loader: &dyn Fn(&str) -> Result<String, String>,
    options: &Options,
) -> (Option<Program>, Vec<Diagnostic>) {
    check_marked(sources, root, loader, options, &|| {})
}

/// [`check`], which calls `parsed` when all texts are trees.
pub fn check_marked(
    sources: &mut Sources,
    root: FileId,
    loader: &dyn Fn(&str) -> Result<String, String>,
    options: &Options,
    parsed: &dyn Fn(),
) -> (Option<Program>, Vec<Diagnostic>) {
    let mut c = Checker {
        sources,
        options,
        diagnostics: vec![],
        scope: scope::Scope::default(),
        instances: vec![],
        memo: BTreeMap::new(),
        active: vec![],
        softmaxes: vec![],
        called: Default::default(),
        data: vec![],
        program: Program::default(),
    };
    c.load(root, loader);
    parsed();
    c.apply_overrides();
    c.check_dims();
    c.check_models();
    c.check_data_sections();
    c.check_train_sections();
    c.finish_data();
    c.check_uncalled();
    // A mistake comes first: what looks unused may be its victim.
    if c.errors() == 0 {
        c.warn_of_dead_parameters();
        c.warn_of_unreached_parameters();
        c.warn_of_lost_biases();
    }
    // Items that did not parse are missing: that their names are not known is no news.
    let unread = c.diagnostics.iter().any(|d| d.code.starts_with("E01"));
    let mut seen = Vec::new();
    for d in c.diagnostics {
        if unread && matches!(d.code, "E0201" | "E0206" | "E0602" | "E0605" | "E0606" | "E0607" | "E0614") {
            continue;
        }
        if !seen.contains(&d) {
            seen.push(d);
        }
    }
    let failed = seen.iter().any(|d| d.severity == Severity::Error);
    c.program.functions = c.instances;
    ((!failed).then_some(c.program), seen)
}

impl Checker<'_> {
    /// Every `model`, at its declared signature, in both modes.
    fn check_models(&mut self) {
        for (name, def) in self.scope.models() {
            let (infer, train) = (self.model_instance(def, false), self.model_instance(def, true));
            if let (Some(infer), Some(train)) = (infer, train) {
                self.program.models.push(typed::Model { name, infer, train });
            }
        }
    }

    fn instance(&self, id: InstanceId) -> &Instance {
        &self.instances[id.0 as usize]
    }

    fn model_instance(&mut self, def: DefId, training: bool) -> Option<InstanceId> {
        self.entry(def, training)
    }
}

/// `1st`, `2nd`, `3rd`, `4th`
fn nth(n: usize) -> String {
    match (n % 10, n % 100) {
        (1, k) if k != 11 => format!("{n}st"),
        (2, k) if k != 12 => format!("{n}nd"),
        (3, k) if k != 13 => format!("{n}rd"),
        _ => format!("{n}th"),
    }
}

/// Names as `a`, `b` and `c`.
fn listed(names: &[Arc<str>]) -> String {
    match names {
        [] => String::new(),
        [one] => format!("`{one}`"),
        [first @ .., last] => format!("{} and `{last}`", first.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")),
    }
}
