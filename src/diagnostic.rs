//! What is wrong with a user's program, as data: a code, a message, labelled places, notes and a fix. Rendered in one place.

use crate::span::{Sources, Span};
pub use nnc_runtime::words::did_you_mean;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The program is refused.
    Error,
    /// The program is compiled; the user should look.
    Warning,
}

/// A replacement that would mend the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fix {
    /// What it does, as an order: "drop the softmax".
    pub title: String,
    /// The text to replace, possibly empty (an insertion).
    pub span: Span,
    /// What to put there.
    pub replacement: String,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// Stable code: `E0301`. The hundreds name the stage: 01 syntax, 02 names, 03 dims and shapes, 04 meanings, 05 calls and
    /// arguments, 06 recipes and data, 07 limits; `W...` for lints.
    pub code: &'static str,
    /// One sentence without a full stop.
    pub message: String,
    /// Places; the first is the primary one.
    pub labels: Vec<(Span, String)>,
    /// Further facts, one sentence each.
    pub notes: Vec<String>,
    /// At most one proposal.
    pub fix: Option<Fix>,
}

impl Diagnostic {
    /// An error at `span`.
    pub fn error(code: &'static str, message: impl Into<String>, span: Span, label: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Error, code, message: message.into(), labels: vec![(span, label.into())], notes: vec![], fix: None }
    }

    /// A warning at `span`.
    pub fn warning(code: &'static str, message: impl Into<String>, span: Span, label: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(code, message, span, label) }
    }

    /// With one more place.
    pub fn label(mut self, span: Span, text: impl Into<String>) -> Diagnostic {
        self.labels.push((span, text.into()));
        self
    }

    /// With one more fact.
    pub fn note(mut self, text: impl Into<String>) -> Diagnostic {
        self.notes.push(text.into());
        self
    }

    /// With a proposal.
    pub fn fix(mut self, title: impl Into<String>, span: Span, replacement: impl Into<String>) -> Diagnostic {
        self.fix = Some(Fix { title: title.into(), span, replacement: replacement.into() });
        self
    }
}

/// All diagnostics as text, laid out as rustc's; with ANSI colours if `colour`.
pub fn render(diagnostics: &[Diagnostic], sources: &Sources, colour: bool) -> String {
    crate::parse::render::render(diagnostics, sources, colour)
}
