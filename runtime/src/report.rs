//! What a run shows while it runs: a bar on a terminal, plain lines on a pipe, JSON lines for programs, or nothing.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};

/// How to show it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
    /// Nothing but errors.
    Quiet,
}

/// Shows progress.
pub struct Report {
    style: Style,
    bar: Option<ProgressBar>,
}

impl Report {
    /// A report in this style.
    pub fn new(style: Style) -> Report {
        let shown = style == Style::Text && std::io::stderr().is_terminal();
        let plain = ProgressStyle::with_template("{prefix} {wide_bar} {pos}/{len} {eta}").unwrap_or_else(|_| ProgressStyle::default_bar());
        Report { style, bar: shown.then(|| ProgressBar::new(0).with_style(plain)) }
    }

    /// Begins a bar of `steps`, of which `done` are done.
    pub fn begin(&self, what: &str, done: u64, steps: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(steps);
            bar.set_position(done);
            bar.set_prefix(what.to_string());
            bar.reset_eta();
        }
    }

    /// One more step.
    pub fn step(&self) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }

    /// A line, in words and as JSON. That nobody reads it any more is no reason to stop.
    pub fn line(&self, words: &str, json: &serde_json::Value) {
        let write = || match self.style {
            Style::Text => writeln!(std::io::stdout(), "{words}"),
            Style::Json => writeln!(std::io::stdout(), "{json}"),
            Style::Quiet => Ok(()),
        };
        let _ = match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        };
    }

    /// Removes the bar.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
