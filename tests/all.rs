//! One binary for all integration tests.

mod gradients;
mod library;
mod refused;
mod support;
mod texts;
mod tidy;
mod training;
