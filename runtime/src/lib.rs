//! Loads and executes what nnc compiled. Holds no LLVM and no parser.
//!
//! Programs use [`model::Model`], [`tensor::Tensor`] and [`error::RunError`]; `runtime/examples/model.rs`, which the tests run:
#![doc = concat!("```no_run\n", include_str!("../examples/model.rs"), "```")]
//!
//! What stands behind them, and behind `nnc run` and `nnc-run`, is public for nnc itself and changes with it.
//!
//! Bottom up: [`size`] and [`dtype`] are the vocabulary, [`manifest`] and [`recipe`] what an artifact says, the rest executes it.

pub mod artifact;
pub mod bench;
pub mod carried;
mod chains;
pub mod chart;
pub mod checkpoint;
mod columns;
pub mod commands;
pub mod confusion;
pub mod cuda;
pub mod data;
pub mod dtype;
pub mod error;
pub mod evaluate;
pub mod exec;
pub mod files;
pub mod infer;
pub mod inspect;
mod launch;
pub mod loader;
pub mod manifest;
pub mod memory;
pub mod meter;
pub mod model;
pub mod npy;
mod numerics;
mod observe;
mod order;
pub mod page;
pub mod peak;
pub mod phases;
pub mod picture;
pub mod place;
pub mod pool;
pub mod profile;
pub mod program;
pub mod random;
pub mod recipe;
pub mod report;
mod resolve;
mod sampling;
pub mod settings;
pub mod signature;
pub mod size;
pub mod split;
pub mod table;
pub mod tensor;
pub mod tensorboard;
pub mod tensors;
pub mod train;
pub mod weights;
pub mod words;
