//! One binary for all integration tests.

mod gradients;
mod library;
mod support;
mod texts;
mod tidy;
