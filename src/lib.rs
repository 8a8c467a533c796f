//! nnc compiles neural networks: one road from `.nn` text to native code that trains and infers.
//!
//! ```text
//! .nn text -parse-> tree -check-> typed program -build-> graph -grad-> graph -passes-> graph -lower-> kernels -plan-> plan -emit-> machine code -pack-> artifact
//! ```

pub mod build;
pub mod check;
pub mod diagnostic;
pub mod emit;
pub mod grad;
pub mod ir;
pub mod kernel;
pub mod math;
pub mod parse;
pub mod passes;
pub mod plan;
pub mod span;
pub mod std;
