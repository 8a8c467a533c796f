//! The plan: every entry as a flat launch table over buffers with lifetimes.
//!
//! In: a module and its lowered functions. Out: the distinct kernels that are launched, in order of first use, and the manifest's entries.
//! Calls and scans are put in place: a callee's launches appear at every call, on that call's buffers, and share its kernels. Memory is used again in
//! place where the kernels allow it, and updates that free large gradients come as soon as they may. What depends on weights alone is computed in
//! advance. Launches of one kernel that do not depend on each other become one. It is said which launches
//! can be run part by part, and in loops which rows go from round to round by themselves.

mod advance;
mod chain;
mod flatten;
mod group;
mod lifetime;
pub mod print;
mod reuse;
mod rows;
mod sooner;

use crate::ir::Module;
use crate::kernel::{Kernel, Lowered};
use crate::span::{Sources, Span};
use nnc_runtime::manifest::{Entry, Step};
use std::collections::BTreeMap;

/// Plans every entry; `sources` name the lines of launches.
pub fn plan(module: &Module, lowered: &Lowered, sources: &Sources) -> (Vec<Kernel>, Vec<Entry>) {
    let known = |span: Span| sources.iter().any(|(id, source)| id == span.file && span.end > 0 && span.end as usize <= source.text.len());
    let line = |span: Span| if known(span) { sources.line(span) } else { String::new() };
    let mut kernels = Vec::new();
    let mut numbers = BTreeMap::new();
    let entries = module.entries.iter().map(|entry| {
        let mut planned = flatten::entry(module, lowered, entry, &line);
        for step in &mut planned.plan.steps {
            if let Step::Launch(launch) = step {
                launch.kernel = *numbers.entry(launch.kernel).or_insert_with(|| {
                    kernels.push(lowered.kernels[launch.kernel as usize].clone());
                    kernels.len() as u32 - 1
                });
            }
        }
        advance::advance(&mut planned, &mut kernels);
        sooner::sooner(&mut planned, &kernels);
        reuse::reuse(&mut planned, &kernels);
        group::group(&mut planned, &kernels);
        chain::chain(&mut planned, &kernels);
        rows::rows(&mut planned, &kernels);
        lifetime::set(&mut planned);
        planned
    });
    let entries = entries.collect();
    launched(kernels, entries)
}

/// The kernels that are still launched, renumbered.
fn launched(kernels: Vec<Kernel>, mut entries: Vec<Entry>) -> (Vec<Kernel>, Vec<Entry>) {
    let mut used = vec![false; kernels.len()];
    let launches = |step: &Step| if let Step::Launch(launch) = step { Some(launch.kernel as usize) } else { None };
    entries.iter().flat_map(|e| &e.plan.steps).filter_map(launches).for_each(|k| used[k] = true);
    let numbers: Vec<u32> = used.iter().scan(0, |next, used| Some(std::mem::replace(next, *next + *used as u32))).collect();
    for step in entries.iter_mut().flat_map(|e| &mut e.plan.steps) {
        if let Step::Launch(launch) = step {
            launch.kernel = numbers[launch.kernel as usize];
        }
    }
    (kernels.into_iter().zip(used).filter_map(|(kernel, used)| used.then_some(kernel)).collect(), entries)
}

#[cfg(test)]
mod tests;
