//! Loads and executes what nnc compiled. Holds no LLVM and no parser.
//!
//! Bottom up: [`size`] and [`dtype`] are the vocabulary, [`manifest`] and [`recipe`] what an artifact says, the rest executes it.

pub mod dtype;
pub mod manifest;
pub mod place;
pub mod recipe;
pub mod size;
pub mod tensor;
