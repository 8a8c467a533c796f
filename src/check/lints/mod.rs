//! What is legal but hardly meant: warnings about the program's own functions and recipes. None of them may be a false alarm.

mod norms;
mod reach;
mod schedules;

use crate::check::Checker;
use crate::check::statements::visit_stmts;
use crate::diagnostic::Diagnostic;
use crate::parse::tree::{Ident, Stmt, StmtKind};

impl Checker<'_> {
    /// Parameters that nothing reads: they would be stored, and keep their first value for ever.
    pub(super) fn warn_of_dead_parameters(&mut self) {
        let own: Vec<_> = self.scope.own().into_iter().map(|def| self.scope.def(def).tree.clone()).collect();
        for f in &own {
            let mut read = vec![];
            visit_stmts(&f.body, &mut |name| read.push(name.clone()));
            let mut declared = vec![];
            parameters(&f.body, &mut declared);
            for name in declared.into_iter().filter(|d| !read.contains(&d.name)) {
                // `self.weight`, `Net.fc.weight`: by a path, from here or elsewhere.
                let path = format!(".{}", name.name);
                if own.iter().all(|f| !self.sources.text(f.span).contains(&path)) {
                    let message = format!("the parameter `{}` of `{}` is never read", name.name, f.name.name);
                    let d = Diagnostic::warning("W0501", message, name.span, "no loss depends on it");
                    self.report(d.note("it would be stored and stay as it begins; use it, or leave it out"));
                }
            }
        }
    }
}

/// Where parameters are declared.
fn parameters<'a>(stmts: &'a [Stmt], found: &mut Vec<&'a Ident>) {
    for stmt in stmts {
        match &stmt.kind {
            StmtKind::Param { name, .. } => found.push(name),
            StmtKind::If { then, otherwise, .. } => [then, otherwise].into_iter().for_each(|s| parameters(s, found)),
            _ => {}
        }
    }
}
