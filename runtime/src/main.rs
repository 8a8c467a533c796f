//! `nnc-run`: runs an artifact on a machine without nnc.

fn main() {}
