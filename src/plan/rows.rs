//! The rows of launches inside of loops, for the runtime to find out whether threads can take them through all rounds by themselves.

use crate::kernel::{Kernel, rows};
use nnc_runtime::manifest::{Entry, Rows, Step};

/// Sets them.
pub(super) fn rows(entry: &mut Entry, kernels: &[Kernel]) {
    let mut end = 0;
    for n in 0..entry.plan.steps.len() {
        match &mut entry.plan.steps[n] {
            Step::Loop { body, .. } => end = end.max(n + 1 + *body as usize),
            // What can fail does so in the order of rounds.
            Step::Launch(launch) if n < end && launch.beside.is_empty() && !super::group::fails(&kernels[launch.kernel as usize]) => {
                let sizes = &launch.sizes;
                let in_program = |name: &str| sizes.get(name.strip_prefix('n')?.parse::<usize>().ok()?).cloned();
                launch.rows = rows::rows(&kernels[launch.kernel as usize]).map(|rows| {
                    let [count, pieces] = [rows.count, rows.pieces].map(|size| size.substitute(&in_program));
                    Box::new(Rows { count, pieces, args: rows.params })
                });
            }
            Step::Launch(_) | Step::Copy { .. } | Step::Check { .. } => {}
        }
    }
}
