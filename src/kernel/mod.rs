//! Kernels: fused groups of nests as loop programs over buffers. The reference semantics is [`interpret`].
//!
//! In: the graph after passes. Out: a set of distinct kernels and, per function, the launches that make it up.

pub mod program;

pub use program::*;
