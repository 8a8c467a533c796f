//! Schedules of the library that a run ends before: a warm-up that is not over, a decay that never comes.

use crate::check::Checker;
use crate::check::train::Plan;
use crate::diagnostic::Diagnostic;
use crate::parse::tree::{Arg, Expr, ExprKind, FunctionKind};
use nnc_runtime::recipe::Length;

impl Checker<'_> {
    /// How many steps an epoch has, only the data knows: epochs are compared with epochs, steps with steps.
    pub(in crate::check) fn warn_of_long_schedules(&mut self, plan: &Plan, length: Length) {
        let Some(ExprKind::Call { args, .. }) = plan.get("optimizer").map(|e| &e.kind) else { return };
        let mut calls: Vec<(&Expr, &[Arg])> = vec![];
        args.iter().for_each(|a| scheduled(&a.value, &mut calls));
        for (callee, args) in calls {
            let ExprKind::Name(name) = &callee.kind else { continue };
            let Some(def) = self.function(name, false).map(|def| self.scope.def(def)) else { continue };
            if !def.library || def.tree.kind != FunctionKind::Schedule {
                continue;
            }
            let parameters: Vec<String> = def.tree.params.iter().map(|p| p.name.name.to_string()).collect();
            for (i, arg) in args.iter().enumerate() {
                let parameter = arg.name.as_ref().map(|n| n.name.to_string()).or_else(|| parameters.get(i).cloned()).unwrap_or_default();
                let (unit, run) = match (parameter.as_str(), length) {
                    ("warmup" | "over", Length::Steps(n)) => ("steps", n),
                    ("every", Length::Epochs(n)) => ("epochs", n),
                    _ => continue,
                };
                let Some(own) = number(&arg.value) else { continue };
                let message = match unit {
                    "steps" if own > run as f64 => format!("the run ends before the `{parameter}` of `{name}`"),
                    "epochs" if own >= run as f64 => format!("the run ends before `{name}` changes anything"),
                    _ => continue,
                };
                let mut d = Diagnostic::warning("W0602", message, arg.value.span, format!("{own} {unit}"));
                if let Some(length) = plan.get(unit) {
                    d = d.label(length.span, format!("the run has {run}"));
                }
                self.report(d.note(format!("train longer, or lower `{parameter}`")));
            }
        }
    }
}

/// A number as it stands.
fn number(e: &Expr) -> Option<f64> {
    match &e.kind {
        ExprKind::Int(n) => Some(*n as f64),
        ExprKind::Float(x) => Some(*x),
        _ => None,
    }
}

/// Calls of names in arithmetic.
fn scheduled<'t>(e: &'t Expr, out: &mut Vec<(&'t Expr, &'t [Arg])>) {
    match &e.kind {
        ExprKind::Call { callee, args } => {
            out.push((callee, args));
            args.iter().for_each(|a| scheduled(&a.value, out));
        }
        ExprKind::Binary(_, a, b) | ExprKind::Pipe(a, b) => [a, b].into_iter().for_each(|e| scheduled(e, out)),
        ExprKind::Unary(_, a) => scheduled(a, out),
        _ => {}
    }
}
