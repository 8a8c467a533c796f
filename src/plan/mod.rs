//! The plan: every entry as a flat launch table over buffers with lifetimes.
//!
//! In: a module and its lowered functions. Out: the distinct kernels that are launched, in order of first use, and the manifest's entries.
//! Calls and scans are put in place: a callee's launches appear at every call, on that call's buffers, and share its kernels.

mod flatten;
mod lifetime;
mod print;

pub use print::entry as print;

use crate::ir::Module;
use crate::kernel::{Kernel, Lowered};
use crate::span::Span;
use nnc_runtime::manifest::{Entry, Step};
use std::collections::BTreeMap;

/// Plans every entry; lines are named by file number and first byte.
pub fn plan(module: &Module, lowered: &Lowered) -> (Vec<Kernel>, Vec<Entry>) {
    plan_lines(module, lowered, &|span| format!("{}:{}", span.file.0, span.start))
}

/// Plans every entry; `line` names the place in the source for profiles and reports.
pub fn plan_lines(module: &Module, lowered: &Lowered, line: &dyn Fn(Span) -> String) -> (Vec<Kernel>, Vec<Entry>) {
    let mut kernels = Vec::new();
    let mut numbers = BTreeMap::new();
    let entries = module.entries.iter().map(|entry| {
        let mut planned = flatten::entry(module, lowered, entry, line);
        for step in &mut planned.plan.steps {
            if let Step::Launch(launch) = step {
                launch.kernel = *numbers.entry(launch.kernel).or_insert_with(|| {
                    kernels.push(lowered.kernels[launch.kernel as usize].clone());
                    kernels.len() as u32 - 1
                });
            }
        }
        lifetime::set(&mut planned);
        planned
    });
    let entries = entries.collect();
    (kernels, entries)
}

#[cfg(test)]
mod tests;
