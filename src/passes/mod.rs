//! Graph to graph: rewrites that keep every result to the bit.
//!
//! In: a verified module after differentiation (own gradients and `stop_gradient` have done their work). Out: a verified module that computes
//! the same from the same inputs. Adding a pass: its file and a line in [`LIST`]; its law (same bits on random programs) is tested by that.
//! [`algebra`] and [`windows`] are apart: they define gradients and sums over windows rather than keep bits; the one runs before everything here, the other after.

pub mod algebra;
mod compose;
mod drop_dead;
mod fold_constants;
mod folds;
mod handover;
mod inline;
mod loops;
mod permute;
mod rebuild;
mod rectified;
mod share;
mod simplify;
mod unit_axes;
pub mod windows;

use crate::ir::{Module, verify};

/// A rewrite of whole modules.
pub struct Pass {
    /// For `--pass` and messages.
    pub name: &'static str,
    /// What it does, in a line.
    pub about: &'static str,
    /// Proposes the rewritten module.
    pub run: fn(&Module) -> Module,
}

/// Every pass.
pub const LIST: &[Pass] = &[
    Pass { name: "inline", about: "puts the bodies of small functions, and of those called once, in place of their calls", run: inline::run },
    Pass { name: "simplify", about: "removes arithmetic, guards, divisions of indices and copies that do nothing", run: simplify::run },
    Pass { name: "unit_axes", about: "takes axes of size 1 out of nests", run: unit_axes::run },
    Pass { name: "fold_constants", about: "evaluates what depends on literals only", run: fold_constants::run },
    Pass {
        name: "loops",
        about: "computes folds that a loop does not carry for all its steps at once, and what nothing needs not at all",
        run: loops::batch::run,
    },
    Pass { name: "rectified", about: "compares the rectified value instead of what was rectified", run: rectified::run },
    Pass { name: "permute", about: "computes values in the order of axes in which they are read", run: permute::run },
    Pass { name: "handover", about: "hands values between functions once, not in parts", run: handover::run },
    Pass { name: "compose", about: "computes cheap elementwise values where they are read instead of storing them", run: compose::run },
    Pass { name: "share", about: "computes equal values once", run: share::run },
    Pass { name: "drop_dead", about: "removes nodes, inputs, results and functions that nothing needs", run: drop_dead::run },
];

/// The form of a differentiated graph that defines what is computed: bodies of small functions in place of calls, and what differentiation wrote
/// down worked out by [`algebra`], and every fold what it is to be (`folds`). Not to the bit, so it comes once and first.
pub fn define(mut module: Module) -> Module {
    // Differentiation is over: gradients written by hand are not needed any more.
    module.functions.iter_mut().for_each(|f| f.gradient = None);
    let module = drop_dead::run(&inline::run(&drop_dead::run(&module)));
    let module = drop_dead::run(&loops::accumulate::run(&module));
    let module = folds::run(&drop_dead::run(&algebra::normalise(&module)));
    if cfg!(debug_assertions)
        && let Err(broken) = verify::verify(&module)
    {
        panic!("the algebra broke the graph:\n{}", broken.join("\n"));
    }
    module
}

/// The passes in order, twice: what one uncovers, another may use. Verified after each in debug builds.
pub fn optimise(module: Module) -> Module {
    let mut module = module;
    // Differentiation is over: gradients written by hand are not needed any more.
    module.functions.iter_mut().for_each(|f| f.gradient = None);
    module = drop_dead::run(&module);
    for _ in 0..2 {
        for pass in LIST {
            module = apply(pass, &module);
        }
    }
    module
}

/// What is decided last, because no pass rewrites it any more: how sums over windows are taken ([`windows`]). Not to the bit.
pub fn declare(module: Module) -> Module {
    apply(
        &Pass { name: "windows", about: "declares how sums over windows of images are taken, where another order pays", run: windows::run },
        &module,
    )
}

/// One pass, verified in debug builds.
///
/// # Panics
/// In debug builds, if the pass broke an invariant.
pub fn apply(pass: &Pass, module: &Module) -> Module {
    let result = (pass.run)(module);
    if cfg!(debug_assertions)
        && let Err(broken) = verify::verify(&result)
    {
        panic!("pass {} broke the graph:\n{}", pass.name, broken.join("\n"));
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{eval, generate, print};

    fn same(seed: u64, name: &str, run: &dyn Fn(Module) -> Module) {
        let case = generate::case(seed);
        let before = eval::function(&case.module, case.function, &case.inputs, &case.dims).unwrap();
        let after = run(case.module.clone());
        let text = || format!("pass {name}, seed {seed}\n{}\nbecame\n{}", print::module(&case.module), print::module(&after));
        verify::verify(&after).unwrap_or_else(|e| panic!("{}\n{}", e.join("\n"), text()));
        let result = eval::function(&after, after.entries[0].function, &case.inputs, &case.dims).unwrap_or_else(|e| panic!("{e}\n{}", text()));
        assert!(before.len() == result.len() && before.iter().zip(&result).all(|(a, b)| a.same(b)), "{before:?}\n{result:?}\n{}", text());
    }

    /// The law of every pass, alone and together.
    #[test]
    fn passes_keep_every_bit() {
        for seed in generate::seeds(600) {
            for pass in LIST {
                same(seed, pass.name, &|m| (pass.run)(&m));
            }
            same(seed, "all", &optimise);
        }
    }

    /// A second run of a pass that only removes changes nothing.
    #[test]
    fn passes_come_to_rest() {
        for seed in generate::seeds(100) {
            let module = generate::case(seed).module;
            for pass in LIST.iter().filter(|p| ["share", "drop_dead"].contains(&p.name)) {
                let once = (pass.run)(&module);
                assert!((pass.run)(&once) == once, "pass {}, seed {seed}", pass.name);
            }
        }
    }
}
