//! One binary for all integration tests.

mod texts;
mod tidy;

mod refused;
