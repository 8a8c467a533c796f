//! One binary for all integration tests.

mod cli;
mod golden;
mod gpu;
mod gradients;
mod launches;
mod library;
mod metrics;
mod models;
mod refused;
mod runs;
mod steps;
mod support;
mod textbook;
mod texts;
mod tidy;
mod timing;
mod training;
