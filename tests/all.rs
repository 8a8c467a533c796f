//! One binary for all integration tests.

mod std;
mod tidy;

mod refused;
