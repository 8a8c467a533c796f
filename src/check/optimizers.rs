//! A recipe's optimizer: one instance for each shape, its scalars by name, schedules computed every step.

use crate::check::Checker;
use crate::check::calls::Given;
use crate::check::functions::kind_word;
use crate::check::objective::Objective;
use crate::check::statements::visit_stmts;
use crate::check::train::Plan;
use crate::check::typed::*;
use crate::check::types::{Takes, takes};
use crate::check::value::*;
use crate::diagnostic::Diagnostic;
use crate::ir::DType;
use crate::parse::tree::{self, ExprKind, FunctionKind};
use nnc_runtime::manifest::Role;
use std::sync::Arc;

/// Run-time scalars that schedules read.
const CLOCK: [&str; 4] = ["step", "epoch", "steps", "steps_per_epoch"];

type Schedule = (InstanceId, Vec<Arc<str>>);

impl Checker<'_> {
    /// The optimizer that a recipe names, and its arguments.
    pub(super) fn optimizer_named<'t>(&mut self, e: &'t tree::Expr) -> Option<(DefId, &'t [tree::Arg])> {
        let (callee, args): (&'t tree::Expr, &'t [tree::Arg]) = match &e.kind {
            ExprKind::Call { callee, args } => (callee, args),
            _ => (e, &[]),
        };
        let ExprKind::Name(name) = &callee.kind else {
            self.wrong("E0614", "`optimizer` is a call: `adam(lr: 1e-3)`", e.span, "here");
            return None;
        };
        let Some(def) = self.function(name, false) else {
            let known = self.optimizer_names();
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            self.unknown("E0614", "the optimizer", name, callee.span, &known);
            return None;
        };
        let f = self.scope.def(def).tree.clone();
        if f.kind != FunctionKind::Optimizer {
            let d = Diagnostic::error("E0614", format!("`{name}` is no optimizer"), callee.span, format!("this is a {}", kind_word(f.kind)));
            let known = self.optimizer_names();
            self.report(d.note(format!("known here: {}", known.join(", "))));
            return None;
        }
        Some((def, args))
    }

    /// The updates of all trained parameters, the schedule, and the optimizer in words.
    pub(super) fn updates(
        &mut self,
        plan: &Plan,
        e: &tree::Expr,
        objective: &Objective,
        frozen: &[Arc<str>],
        scalars: &mut Vec<(Arc<str>, f64)>,
    ) -> Option<(Vec<Update>, Option<Schedule>, Arc<str>)> {
        let (def, args) = self.optimizer_named(e)?;
        let f = self.scope.def(def).tree.clone();
        let name = &f.name.name;
        if f.params.len() < 2 || f.params[..2].iter().any(|p| p.ty.is_some()) {
            let d = Diagnostic::error("E0510", format!("the optimizer `{name}` begins with the parameter and its gradient"), f.name.span, "here");
            self.report(d.note(format!("declare it `optimizer {name}(p, g, lr: scalar = 0.1)`")));
            return None;
        }
        // Arguments are computed in the schedule's body: what is known now is a scalar, what is not is scheduled.
        let mut clock = Body::new(format!("{}.schedule", plan.section.name.name).into(), false, self.options.real, false);
        for word in CLOCK {
            let local = clock.local(word, Type::plain(DType::F64, vec![]), e.span);
            let read = clock.read(local, e.span);
            clock.bind(&word.into(), Value::Tensor(read), e.span);
        }
        clock.inputs = CLOCK.len();
        let given = self.arguments(&mut clock, args);
        if given.iter().any(|g| matches!(g.value, Value::Poison)) {
            return None;
        }
        // Positional arguments stand behind `p` and `g`.
        let blanks = f.params[..2].iter().map(|p| Given { name: Some(p.name.clone()), value: Value::int(0), span: e.span });
        let all: Vec<Given> = blanks.chain(given).collect();
        if let Some(g) = all[2..].iter().find(|g| g.name.as_ref().is_some_and(|n| f.params[..2].iter().any(|p| p.name.name == n.name))) {
            self.wrong("E0504", "the parameter and its gradient are given by the recipe", g.span, "leave it out");
            return None;
        }
        let slots = self.match_arguments(&f, all, e.span)?;
        let mut scheduled: Vec<(Arc<str>, Expr)> = vec![];
        let mut sources = vec![];
        let mut statics: Vec<(usize, Given)> = vec![];
        for (i, (p, slot)) in f.params.iter().zip(&slots).enumerate().skip(2) {
            let kind = p.ty.as_ref().map_or(Takes::Scalar, takes);
            if kind != Takes::Scalar {
                if let Some(g) = slot {
                    statics.push((i, g.clone()));
                }
                continue;
            }
            let path: Arc<str> = format!("optimizer.{}", p.name.name).into();
            let g = match (slot, &p.default) {
                (Some(g), _) => g.clone(),
                (None, Some(default)) => {
                    let mut b = Body::new("".into(), false, self.options.real, true);
                    let value = self.expr(&mut b, default);
                    Given { name: None, value, span: default.span }
                }
                (None, None) => return None,
            };
            match &g.value {
                Value::Static(s) if s.number().is_some() => scalars.push((path.clone(), s.number().unwrap_or(0.0))),
                Value::Static(_) => {
                    let (message, label) = (format!("`{}` of `{name}` is a number", p.name.name), format!("this is {}", g.value.describe()));
                    self.wrong("E0506", message, g.span, label);
                    return None;
                }
                _ => {
                    let e = self.scalar(&mut clock, &g, &format!("`{}` of `{name}`", p.name.name))?;
                    scheduled.push((path.clone(), e));
                }
            }
            sources.push(ScalarArg::Named(path));
        }
        let uses_step = {
            let mut found = false;
            visit_stmts(&f.body, &mut |n| found |= &**n == "step");
            found
        };
        if uses_step {
            sources.push(ScalarArg::Step);
        }
        let trained: Vec<(Weight, Type)> = self
            .instance(objective.train)
            .weights
            .iter()
            .enumerate()
            .filter(|(_, w)| w.role == Role::Parameter && !frozen.contains(&w.path))
            .map(|(i, w)| (Weight(i as u32), w.ty.clone()))
            .collect();
        let mut updates = vec![];
        for (parameter, ty) in trained {
            let mut scratch = Body::new(name.clone(), true, self.options.real, false);
            let mut slots: Vec<Option<Given>> = vec![None; f.params.len()];
            for (i, p) in f.params.iter().enumerate() {
                let t = match (i, p.ty.as_ref().map_or(Takes::Scalar, takes)) {
                    (0 | 1, _) => ty.clone(),
                    (_, Takes::Scalar) => Type::plain(DType::F64, vec![]),
                    _ => continue,
                };
                let local = scratch.local(&p.name.name, t, p.name.span);
                slots[i] = Some(Given { name: None, value: Value::Tensor(scratch.read(local, p.name.span)), span: p.name.span });
            }
            for (i, g) in &statics {
                slots[*i] = Some(g.clone());
            }
            let mut prepared = self.prepare(&mut scratch, def, slots, true)?;
            if uses_step {
                let local = prepared.body.local("step", Type::plain(DType::F64, vec![]), f.name.span);
                let read = prepared.body.read(local, f.name.span);
                prepared.body.bind(&"step".into(), Value::Tensor(read), f.name.span);
                prepared.body.inputs += 1;
            }
            let optimizer = self.make(def, prepared, e.span).0.id?;
            updates.push(Update { parameter, optimizer, scalars: sources.clone() });
        }
        let schedule = if scheduled.is_empty() {
            None
        } else {
            let names = scheduled.iter().map(|(n, _)| n.clone()).collect();
            let inputs = clock.inputs;
            let results = scheduled.into_iter().map(|(n, e)| (Some(n), e)).collect();
            Some((self.finish(clock, inputs, String::new(), results, e.span), names))
        };
        let words: Arc<str> = self.sources.text(e.span).split_whitespace().collect::<Vec<_>>().join(" ").into();
        Some((updates, schedule, words))
    }

    fn optimizer_names(&mut self) -> Vec<String> {
        let names: Vec<String> = self.scope.names(false).into_iter().map(str::to_string).collect();
        let mut found = vec![];
        for n in names {
            if let Some(def) = self.function(&n, false)
                && self.scope.def(def).tree.kind == FunctionKind::Optimizer
            {
                found.push(n);
            }
        }
        found
    }
}
