//! One binary for all integration tests.

mod cli;
mod commands;
mod documents;
mod golden;
mod gpu;
mod gradients;
mod interrupted;
mod launches;
mod library;
mod metrics;
mod models;
mod numerics;
mod pages;
mod pictures;
mod refused;
mod runs;
mod ship;
mod steps;
mod support;
mod terminal;
mod textbook;
mod texts;
mod tidy;
mod timing;
mod training;
mod warned;
