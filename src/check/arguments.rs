//! Arguments as written, matched with parameters by position and by name.

use crate::check::Checker;
use crate::check::calls::Given;
use crate::diagnostic::Diagnostic;
use crate::parse::tree::{self, FunctionKind};
use crate::span::Span;
use std::sync::Arc;

impl Checker<'_> {
    /// Arguments by parameter, positional ones first.
    pub(super) fn match_arguments(&mut self, f: &tree::Function, given: Vec<Given>, span: Span) -> Option<Vec<Option<Given>>> {
        let mut slots: Vec<Option<Given>> = vec![None; f.params.len()];
        let (mut next, mut good) = (0, true);
        let kind = &f.name.name;
        for g in given {
            let at = match &g.name {
                Some(name) => match f.params.iter().position(|p| p.name.name == name.name) {
                    Some(i) => i,
                    None => {
                        let own = usize::from(f.kind == FunctionKind::Optimizer) * 2;
                        let known: Vec<&str> = f.params.iter().skip(own).map(|p| &*p.name.name).collect();
                        self.unknown("E0501", &format!("`{kind}` has no parameter:"), &name.name, name.span, &known);
                        good = false;
                        continue;
                    }
                },
                None => {
                    while slots.get(next).is_some_and(Option::is_some) {
                        next += 1;
                    }
                    next
                }
            };
            if at >= slots.len() {
                let n = slots.len();
                let d = Diagnostic::error("E0502", format!("`{kind}` takes {n} argument{}", if n == 1 { "" } else { "s" }), g.span, "one too many");
                self.report(self.signature(d, f));
                return None;
            }
            if let Some(old) = &slots[at] {
                let d = Diagnostic::error("E0504", format!("the parameter `{}` is given twice", f.params[at].name.name), g.span, "again here");
                let d = d.label(old.span, "first here");
                self.report(d);
                return None;
            }
            slots[at] = Some(g);
        }
        let missing: Vec<Arc<str>> =
            f.params.iter().zip(&slots).filter(|(p, s)| s.is_none() && p.default.is_none()).map(|(p, _)| p.name.name.clone()).collect();
        if !missing.is_empty() && good {
            let d = Diagnostic::error("E0503", format!("`{kind}` needs {}", super::listed(&missing)), span, "not given");
            self.report(self.signature(d, f));
            return None;
        }
        good.then_some(slots)
    }

    /// Shows the declaration of a function.
    pub(super) fn signature(&self, d: Diagnostic, f: &tree::Function) -> Diagnostic {
        let text: Vec<String> = f.params.iter().map(|p| self.parameter_text(p)).collect();
        let d = d.note(format!("it is declared `{}({})`", f.name.name, text.join(", ")));
        if f.name.span.in_library() { d } else { d.label(f.name.span, "declared here") }
    }

    fn parameter_text(&self, p: &tree::Param) -> String {
        let ty = p.ty.as_ref().map_or(String::new(), |t| format!(": {}", self.sources.text(t.span)));
        let default = p.default.as_ref().map_or(String::new(), |e| format!(" = {}", self.sources.text(e.span)));
        format!("{}{ty}{default}", p.name.name)
    }
}
