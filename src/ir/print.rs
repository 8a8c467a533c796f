//! Stub.

/// One node as text.
pub fn node(_module: &crate::ir::Module, _function: &crate::ir::Function, _id: crate::ir::NodeId) -> String {
    String::new()
}
