//! Kernels: fused groups of nests as loop programs over buffers. The reference semantics is [`interpret`].
//!
//! In: the graph after passes. Out: a set of distinct kernels and, per function, the launches that make it up.

mod body;
pub mod canonical;
pub mod contract;
mod demand;
mod flat;
pub mod fuse;
mod group;
pub mod interpret;
mod join;
pub mod linear;
pub mod lower;
mod movement;
pub mod parse;
pub mod parts;
mod placed;
pub mod print;
pub mod program;
pub mod rows;
pub mod verify;
pub mod winograd;

pub use lower::{Lowered, lower, lower_units, units};
pub use program::*;
