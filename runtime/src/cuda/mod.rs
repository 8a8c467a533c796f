//! Runs programs on a GPU of NVIDIA, through its driver alone.
//!
//! ```text
//! artifact -Gpu::load-> kernels on the GPU          Tensors <-> their copies there (`stored`)
//! Prepared::run -> memory there, one graph a run (`run`): inputs up, the graph, results down
//! ```
//! The border to everything else is [`Machine::run`](crate::program::Machine::run), which hands over to [`Gpu`] where the kernels are a GPU's
//! ([`Kernels::gpu`](crate::exec::Kernels::gpu)): training, evaluation, inference and timing know nothing of it. The plan is the CPU's, and so are the
//! places in the arena. [`probe`] is the only way in.

mod context;
mod driver;
mod run;
mod steps;
mod stored;

pub use context::Gpu;
pub use driver::Card;
pub(crate) use run::Recorded;
pub(crate) use stored::Stored;

use crate::error::Result;

/// The GPU that programs run on: the first that the driver shows.
///
/// # Errors
/// [`RunError::World`](crate::error::RunError::World): there is none, or it or its driver is too old.
pub fn probe() -> Result<&'static Card> {
    driver::probe().map(|(_, card)| card)
}
