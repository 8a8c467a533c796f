//! What a run shows while it runs: a bar on a terminal, plain lines on a pipe, JSON lines for programs, or nothing.

use indicatif::{ProgressBar, ProgressStyle};
use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

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

/// From one look at the metrics to the next, on a terminal and on a pipe.
const LOOKS: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(30)];

/// Shows progress.
pub struct Report {
    style: Style,
    bar: Option<ProgressBar>,
    looked: Cell<Instant>,
}

impl Report {
    /// A report in this style.
    pub fn new(style: Style) -> Report {
        let shown = style == Style::Text && std::io::stderr().is_terminal();
        let plain = ProgressStyle::with_template("{prefix} {bar:24} {pos}/{len}  {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
        Report { style, bar: shown.then(|| ProgressBar::new(0).with_style(plain.progress_chars("━╸─"))), looked: Cell::new(Instant::now()) }
    }

    /// Begins a bar of `steps`, of which `done` are done.
    pub fn begin(&self, what: &str, done: u64, steps: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(steps);
            bar.set_position(done);
            bar.set_prefix(what.to_string());
        }
    }

    /// One more step. Whether it is time to say how it goes: see [`Report::goes`].
    pub fn step(&self) -> bool {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
        let due = self.style == Style::Text && self.looked.get().elapsed() >= LOOKS[self.bar.is_none() as usize];
        if due {
            self.looked.set(Instant::now());
        }
        due
    }

    /// How it goes: beside the bar, or as a line that says where it is.
    pub fn goes(&self, place: &str, words: &str) {
        match &self.bar {
            Some(bar) => bar.set_message(words.to_string()),
            None => self.line(&format!("{place}  {words}"), &serde_json::Value::Null),
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

    /// The file that `--weights text` has come to, where `text` names no file: the last run need not be the one that is meant.
    pub fn weights(&self, text: &str, file: &Path) {
        if self.style == Style::Text && text.starts_with("run:") {
            eprintln!("weights of {}", file.parent().unwrap_or(file).display());
        }
    }

    /// Lines that only people read, if any.
    pub fn words(&self, words: &str) {
        if self.style == Style::Text && !words.is_empty() {
            self.line(words, &serde_json::Value::Null);
        }
    }

    /// Removes the bar.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// `41 s`, `3:07`, `2:03:20`
pub fn clock(time: Duration) -> String {
    let s = time.as_secs_f64().round().min(1e15) as u64;
    match (s / 3600, s / 60 % 60, s % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m}:{s:02}"),
        (h, m, s) => format!("{h}:{m:02}:{s:02}"),
    }
}

/// `0.4 ms`, `12 ms`, `1.25 s`, `41 s`, `3:07`
pub fn took(time: Duration) -> String {
    match time.as_secs_f64() {
        s if s < 0.00995 => format!("{:.1} ms", s * 1e3),
        s if s < 0.0995 => format!("{:.0} ms", s * 1e3),
        s if s < 9.995 => format!("{s:.2} s"),
        _ => clock(time),
    }
}

/// Samples a second with three figures at least: `0.213`, `14.2`, `3,210`.
pub fn rate(samples: f64, time: Duration) -> String {
    let rate = samples / time.as_secs_f64().max(1e-9);
    match rate {
        r if r < 1.0 => format!("{r:.3}"),
        r if r < 100.0 => format!("{r:.1}"),
        r => thousands(r.round() as u64),
    }
}

/// A metric's value: four places, or powers of ten where these would say nothing.
pub fn figure(value: f64) -> String {
    let plain = value == 0.0 || !value.is_finite() || (1e-3..1e7).contains(&value.abs());
    if plain { format!("{value:.4}") } else { format!("{value:.3e}") }
}

/// `1,234,567`
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_rates_as_people_write_them() {
        let of = |s| clock(Duration::from_secs_f64(s));
        assert_eq!([of(0.4), of(59.6), of(187.0), of(7400.0)], ["0 s", "1:00", "3:07", "2:03:20"]);
        let took = |s| took(Duration::from_secs_f64(s));
        assert_eq!([3.6e-4, 0.00997, 0.0123, 0.0996, 1.25, 9.996, 187.0].map(took), ["0.4 ms", "10 ms", "12 ms", "0.10 s", "1.25 s", "10 s", "3:07"]);
        assert_eq!([0.0, 12.5, -2e-5, 1e30, f64::NAN].map(figure), ["0.0000", "12.5000", "-2.000e-5", "1.000e30", "NaN"]);
        let each = |n| rate(n, Duration::from_secs(2));
        assert_eq!([each(0.5), each(31.0), each(6420.0), each(2e6)], ["0.250", "15.5", "3,210", "1,000,000"]);
    }
}
