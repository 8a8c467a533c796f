//! Loads and executes what nnc compiled. Holds no LLVM and no parser.
//!
//! Bottom up: [`size`] and [`dtype`] are the vocabulary, [`manifest`] and [`recipe`] what an artifact says, the rest executes it.

pub mod artifact;
pub mod dtype;
pub mod error;
pub mod exec;
pub mod files;
pub mod manifest;
pub mod memory;
pub mod npy;
pub mod pool;
pub mod random;
pub mod recipe;
pub mod size;
pub mod tensor;
pub mod tensors;
pub mod weights;
