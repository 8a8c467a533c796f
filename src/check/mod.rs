//! From trees to a typed program: names, dims, shapes, meanings, parameter paths; all mistakes at once.

pub mod print;
pub mod typed;
