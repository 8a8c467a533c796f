//! Whether a recipe trains a classifier whose mistakes can be counted: a model, fed with columns, whose scores are held against a column of classes.

use crate::check::Checker;
use crate::check::objective::Objective;
use crate::check::train::Plan;
use crate::check::typed::Meaning;
use crate::parse::tree::{Arg, Expr, ExprKind};
use nnc_runtime::recipe::Classifier;
use std::sync::Arc;

/// An argument, and the parameter that it is given for.
type Given<'t> = (Option<&'t Arc<str>>, &'t Expr);

/// A call's function and arguments, the piped one first.
fn call(e: &Expr) -> Option<(&Arc<str>, Vec<Given<'_>>)> {
    let (callee, args, first): (&Expr, &[Arg], Option<&Expr>) = match &e.kind {
        ExprKind::Call { callee, args } => (callee, args, None),
        ExprKind::Pipe(left, right) => match &right.kind {
            ExprKind::Call { callee, args } => (callee, args, Some(left)),
            _ => (right, &[], Some(left)),
        },
        _ => return None,
    };
    let ExprKind::Name(name) = &callee.kind else { return None };
    let given = args.iter().map(|a| (a.name.as_ref().map(|n| &n.name), &a.value));
    Some((name, first.map(|e| (None, e)).into_iter().chain(given).collect()))
}

fn name(e: &Expr) -> Option<&Arc<str>> {
    if let ExprKind::Name(n) = &e.kind { Some(n) } else { None }
}

impl Checker<'_> {
    /// The classifier of the first loss or metric that compares a model's scores with a column's classes.
    pub(super) fn classifier(&self, plan: &Plan, objective: &Objective) -> Option<Classifier> {
        let metrics: Vec<&Expr> = match plan.get("metrics").map(|e| (&e.kind, e)) {
            Some((ExprKind::List(parts), _)) => parts.iter().collect(),
            Some((ExprKind::Tuple(parts), _)) => parts.iter().map(|(_, e)| e).collect(),
            Some((_, e)) => vec![e],
            None => vec![],
        };
        plan.get("loss").into_iter().chain(metrics).find_map(|e| {
            let (_, args) = call(e)?;
            let [(_, scores), (_, label), ..] = args.as_slice() else { return None };
            let label = name(label)?;
            let columns = &self.data[objective.data].columns;
            let Meaning::Class(classes) = &columns.iter().find(|c| c.column.name == *label)?.meaning else { return None };
            let classes = classes.as_const()?;
            let bound = |n: &Arc<str>| plan.bindings.iter().find(|(b, _)| b.name == *n).map(|(_, e)| *e);
            let (model, args) = call(name(scores).and_then(bound).unwrap_or(scores))?;
            let declared = self.program.models.iter().find(|m| m.name == *model)?;
            let instance = self.instance(declared.infer);
            let [(_, result)] = instance.results.as_slice() else { return None };
            let scored = matches!(result.ty().meaning, Meaning::Logits | Meaning::Probs | Meaning::LogProbs);
            if !scored || result.ty().shape.last()?.as_const()? != classes || args.len() != instance.inputs {
                return None;
            }
            let inputs = args.iter().enumerate().map(|(i, (given, value))| {
                let column = columns.iter().find(|c| Some(&c.column.name) == name(value))?;
                let own = instance.locals.iter().take(instance.inputs).map(|l| &l.0);
                let input = given.map_or_else(|| own.clone().nth(i), |n| own.clone().find(|l| *l == n))?;
                Some((input.clone(), column.column.name.clone()))
            });
            Some(Classifier { model: model.clone(), inputs: inputs.collect::<Option<_>>()?, label: label.clone(), classes })
        })
    }
}
