//! Algebra that defines gradients.
use crate::ir::Module;
/// Stub.
pub fn normalise(module: &Module) -> Module {
    module.clone()
}
