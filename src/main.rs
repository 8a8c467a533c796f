//! `nnc`: arguments to commands.

fn main() {}
