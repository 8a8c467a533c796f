//! One binary for all integration tests.

mod gradients;
mod library;
mod refused;
mod support;
mod textbook;
mod texts;
mod tidy;
mod training;
