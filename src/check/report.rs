//! Adds diagnostics. A mistake found inside the library is shown where the program's own text called it.

use crate::check::Checker;
use crate::check::value::Value;
use crate::diagnostic::{Diagnostic, did_you_mean};
use crate::span::Span;

impl Checker<'_> {
    /// Adds a diagnostic.
    pub(super) fn report(&mut self, mut diagnostic: Diagnostic) {
        if diagnostic.labels[0].0.in_library()
            && let Some(&(def, call)) = self.active.iter().rev().find(|(_, call)| !call.in_library())
        {
            let name = self.scope.def(def).tree.name.name.clone();
            diagnostic.labels.insert(0, (call, format!("in this use of `{name}`")));
        }
        self.diagnostics.push(diagnostic);
    }

    /// Adds an error and gives the value that silences what follows.
    pub(super) fn wrong(&mut self, code: &'static str, message: impl Into<String>, span: Span, label: impl Into<String>) -> Value {
        self.report(Diagnostic::error(code, message, span, label));
        Value::Poison
    }

    /// An unknown name, with what may have been meant.
    pub(super) fn unknown(&mut self, code: &'static str, what: &str, name: &str, span: Span, known: &[&str]) -> Value {
        // `what` ends with a colon where it is a whole sentence but for the name.
        let message = match what.strip_suffix(':') {
            Some(sentence) => format!("{sentence} `{name}`"),
            None => format!("{what} `{name}` is not known"),
        };
        let mut d = Diagnostic::error(code, message, span, "not found");
        // Any letter is near to any other.
        let near = if name.chars().count() > 1 { did_you_mean(name, known.iter().copied()) } else { None };
        if let Some(near) = near {
            d = d.fix(format!("did you mean `{near}`?"), span, near);
        } else if !known.is_empty() && known.len() <= 12 {
            d = d.note(format!("known here: {}", known.join(", ")));
        }
        self.report(d);
        Value::Poison
    }
}
