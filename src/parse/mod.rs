//! From text to tree. The only folder that names pest.

pub mod render;
pub mod tree;
