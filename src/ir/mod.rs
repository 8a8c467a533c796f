//! The graph: a module of functions over a closed set of primitives, in normal form.
//!
//! Stages from `build` to `lower` speak only this language. `text` prints and parses it, `verify` states and checks its invariants.

pub mod bounds;
pub mod eval;
pub mod formulas;
pub mod generate;
pub mod graph;
pub mod index;
pub mod lex;
pub mod nest;
pub mod parse;
pub mod print;
pub mod scalar;
pub mod verify;
pub mod window;
pub mod work;

pub use graph::*;
pub use index::*;
pub use nest::*;
pub use nnc_runtime::size;
pub use scalar::*;
pub use size::{Dims, Size};
