//! nnc compiles neural networks: one road from `.nn` text to native code that trains and infers.
//!
//! ```text
//! .nn text -parse-> tree -check-> typed program -build-> graph -grad-> graph -passes-> graph -lower-> kernels -plan-> plan -emit-> machine code -pack-> artifact
//! ```

pub mod span;
pub mod diagnostic;
pub mod driver;

pub mod parse;
pub mod check;
pub mod std;
pub mod build;
pub mod ir;
pub mod grad;
pub mod passes;
pub mod kernel;
pub mod math;
pub mod plan;
pub mod emit;

pub mod cli;
