//! `train` sections: settings of a closed schema, bindings, and what is done before and during training.

use crate::check::Checker;
use crate::check::data::DataInfo;
use crate::check::objective::Objective;
use crate::check::statements::visit_names;
use crate::check::typed::*;
use crate::diagnostic::{Diagnostic, did_you_mean};
use crate::parse::tree::{self, Entry, ExprKind, SectionKind};
use crate::span::Span;
use nnc_runtime::manifest::Role;
use nnc_runtime::recipe::{self, EarlyStop, Length};
use std::sync::Arc;

/// Names with a meaning of their own.
pub const SETTINGS: &[&str] =
    &["data", "loss", "metrics", "optimizer", "batch", "epochs", "steps", "seed", "shuffle", "drop_last", "clip_norm", "clip_value"];

/// Actions.
const ACTIONS: &[&str] = &["early_stop", "load", "freeze", "only"];

/// A section sorted by what its entries are.
pub struct Plan<'t> {
    /// The section.
    pub section: &'t tree::Section,
    /// Settings by name.
    settings: Vec<(&'t tree::Ident, &'t tree::Expr)>,
    /// Bindings in order.
    pub bindings: Vec<(&'t tree::Ident, &'t tree::Expr)>,
    /// Actions in order.
    actions: Vec<&'t tree::Expr>,
}

impl<'t> Plan<'t> {
    /// A setting's expression.
    pub fn get(&self, name: &str) -> Option<&'t tree::Expr> {
        self.settings.iter().find(|(n, _)| &*n.name == name).map(|(_, e)| *e)
    }
}

impl Checker<'_> {
    /// All `train` sections.
    pub(super) fn check_train_sections(&mut self) {
        for section in self.sections(SectionKind::Train) {
            let plan = self.plan(&section);
            self.unused_bindings(&plan);
            if let Some(recipe) = self.recipe(&plan) {
                self.program.recipes.push(recipe);
            }
        }
    }

    fn plan<'t>(&mut self, section: &'t tree::Section) -> Plan<'t> {
        let mut plan = Plan { section, settings: vec![], bindings: vec![], actions: vec![] };
        for entry in &section.entries {
            match entry {
                Entry::Set { name, value, ty } => {
                    if let Some(ty) = ty {
                        self.wrong("E0601", "a recipe's names need no type", ty.span, "only columns of `data` sections have one");
                    }
                    let settings = SETTINGS.contains(&&*name.name);
                    let old = plan.settings.iter().chain(&plan.bindings).find(|(n, _)| n.name == name.name);
                    if let Some((first, _)) = old
                        && settings
                    {
                        let d = Diagnostic::error("E0202", format!("`{}` is set twice", name.name), name.span, "again here");
                        self.report(d.label(first.span, "first here"));
                        continue;
                    }
                    if settings { plan.settings.push((name, value)) } else { plan.bindings.push((name, value)) }
                }
                Entry::Do(e) => plan.actions.push(e),
            }
        }
        plan
    }

    /// Bindings that nothing reads: often misspelt settings.
    fn unused_bindings(&mut self, plan: &Plan) {
        let mut read: Vec<Arc<str>> = vec![];
        for (_, e) in plan.settings.iter().chain(&plan.bindings) {
            visit_names(e, &mut |n| read.push(n.clone()));
        }
        for (name, _) in &plan.bindings {
            if read.contains(&name.name) {
                continue;
            }
            let mut d = Diagnostic::error("E0606", format!("`{}` is neither a setting nor used", name.name), name.span, "nothing reads it");
            match did_you_mean(&name.name, SETTINGS.iter().copied()) {
                Some(near) => d = d.fix(format!("did you mean `{near}`?"), name.span, near),
                None => d = d.note(format!("settings: {}", SETTINGS.join(", "))),
            }
            self.report(d);
        }
    }

    /// Whether a binding is this setting misspelt: reported already.
    fn misspelt(&self, plan: &Plan, setting: &str) -> bool {
        plan.bindings.iter().any(|(n, _)| did_you_mean(&n.name, SETTINGS.iter().copied()) == Some(setting))
    }

    fn required<'t>(&mut self, plan: &Plan<'t>, name: &str, example: &str) -> Option<&'t tree::Expr> {
        let found = plan.get(name);
        if found.is_none() && !self.misspelt(plan, name) {
            let d = Diagnostic::error("E0607", format!("the recipe `{}` has no `{name}`", plan.section.name.name), plan.section.name.span, "missing");
            self.report(d.note(format!("add `{name} = {example}`")));
        }
        found
    }

    fn recipe(&mut self, plan: &Plan) -> Option<Recipe> {
        let section = plan.section;
        let name = section.name.name.clone();
        let data = self.required(plan, "data", "digits");
        let loss = self.required(plan, "loss", "cross_entropy(scores, label)");
        let optimizer = self.required(plan, "optimizer", "adam(lr: 1e-3)");
        let data = data.and_then(|e| self.data_of(e));
        let batch = self.required(plan, "batch", "32").and_then(|e| {
            let n = self.whole(e)?;
            if n < 1 {
                self.wrong("E0608", "a batch has at least one sample", e.span, format!("this is {n}"));
            }
            (n >= 1).then_some(n)
        });
        let length = self.length(plan);
        let seed = plan.get("seed").map_or(Some(0), |e| self.natural(e, "a seed"));
        let shuffle = self.flag(plan, "shuffle", true);
        let drop_last = self.flag(plan, "drop_last", false);
        let objective = match (data, loss) {
            (Some(data), Some(loss)) => self.objective(plan, data, loss),
            _ => None,
        };
        let mut scalars: Vec<(Arc<str>, f64)> = vec![];
        let mut clip = None;
        for (setting, make) in [("clip_norm", Clip::Norm as fn(Arc<str>) -> Clip), ("clip_value", Clip::Value as fn(Arc<str>) -> Clip)] {
            let Some(e) = plan.get(setting) else { continue };
            let x = self.plain_number(e)?;
            if x.is_nan() || x <= 0.0 {
                self.wrong("E0608", format!("`{setting}` is above 0"), e.span, format!("this is {x}"));
            }
            if clip.is_some() {
                self.wrong("E0608", "gradients are clipped by norm or by value, not both", e.span, "the second one");
            }
            scalars.push((setting.into(), x));
            clip = Some(make(setting.into()));
        }
        let Some(objective) = objective else {
            // A wrong loss does not hide a wrong optimizer.
            plan.get("optimizer").and_then(|e| self.optimizer_named(e));
            return None;
        };
        let data_name = self.data[objective.data].name.clone();
        if let (Some(n), Some(max)) = (batch, self.program.dims.iter().find(|d| d.name == objective.batch_dim).and_then(|d| d.max))
            && n > max
        {
            let span = plan.get("batch").map_or(section.name.span, |e| e.span);
            let mut d = Diagnostic::error(
                "E0608",
                format!("the batch of {n} is larger than the dim `{}` allows", objective.batch_dim),
                span,
                format!("at most {max}"),
            );
            if let Some(at) = self.declared_at(&objective.batch_dim) {
                d = d.label(at, "declared here");
            }
            self.report(d);
        }
        let (frozen, load, early_stop) = self.actions(plan, &objective)?;
        let (updates, schedule, words) = self.updates(plan, optimizer?, &objective, &frozen, &mut scalars)?;
        self.warn_of_long_schedules(plan, length?);
        let settings = recipe::Recipe {
            name,
            data: data_name,
            batch_dim: objective.batch_dim.clone(),
            batch: batch?,
            length: length?,
            seed: seed? as u64,
            shuffle: shuffle?,
            drop_last: drop_last?,
            scalars,
            metrics: objective.metrics.clone(),
            early_stop,
            load,
            frozen,
            optimizer: words,
            classifier: self.classifier(plan, &objective),
        };
        Some(Recipe { settings, train: objective.train, eval: objective.eval, finish: objective.finish, updates, clip, schedule, span: section.span })
    }

    fn data_of(&mut self, e: &tree::Expr) -> Option<usize> {
        let ExprKind::Name(n) = &e.kind else {
            self.wrong("E0603", "`data` is the name of a `data` section", e.span, "here");
            return None;
        };
        let found = self.data.iter().position(|d| d.name == *n);
        if found.is_none() {
            let known: Vec<String> = self.data.iter().map(|d: &DataInfo| d.name.to_string()).collect();
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            self.unknown("E0602", "the `data` section", n, e.span, &known);
        }
        found
    }

    fn length(&mut self, plan: &Plan) -> Option<Length> {
        let (e, steps) = match (plan.get("epochs"), plan.get("steps")) {
            (Some(_), Some(e)) => {
                self.wrong("E0608", "a recipe has `epochs` or `steps`, not both", e.span, "the second one");
                return None;
            }
            (Some(e), None) => (e, false),
            (None, Some(e)) => (e, true),
            (None, None) if self.misspelt(plan, "epochs") || self.misspelt(plan, "steps") => return None,
            (None, None) => {
                let d = Diagnostic::error(
                    "E0607",
                    format!("the recipe `{}` has no `epochs`", plan.section.name.name),
                    plan.section.name.span,
                    "how long?",
                );
                self.report(d.note("add `epochs = 30` or `steps = 1000`"));
                return None;
            }
        };
        let n = self.natural(e, if steps { "`steps`" } else { "`epochs`" })?;
        Some(if steps { Length::Steps(n) } else { Length::Epochs(n) })
    }

    fn flag(&mut self, plan: &Plan, name: &str, default: bool) -> Option<bool> {
        match plan.get(name).map(|e| (&e.kind, e.span)) {
            None => Some(default),
            Some((ExprKind::Bool(x), _)) => Some(*x),
            Some((_, span)) => {
                self.wrong("E0603", format!("`{name}` is `true` or `false`"), span, "here");
                None
            }
        }
    }

    #[expect(clippy::type_complexity, reason = "frozen paths, what to load, when to stop")]
    fn actions(&mut self, plan: &Plan, objective: &Objective) -> Option<(Vec<Arc<str>>, Option<Arc<str>>, Option<EarlyStop>)> {
        let (mut frozen, mut load, mut stop) = (vec![], None, None);
        let mut good = true;
        for e in &plan.actions {
            let ExprKind::Call { callee, args } = &e.kind else {
                self.wrong("E0609", "this is no action", e.span, format!("actions: {}", ACTIONS.join(", ")));
                good = false;
                continue;
            };
            let ExprKind::Name(word) = &callee.kind else {
                self.wrong("E0609", "this is no action", callee.span, format!("actions: {}", ACTIONS.join(", ")));
                good = false;
                continue;
            };
            let before = self.errors();
            match &**word {
                "early_stop" => stop = self.early_stop(plan, args, e.span, objective),
                "load" => load = self.load_from(args, e.span),
                "freeze" => frozen.extend(self.below(args, objective)),
                "only" => {
                    let kept = self.below(args, objective);
                    let all = self.instance(objective.train).weights.iter().map(|w| w.path.clone());
                    frozen.extend(all.filter(|p| !kept.contains(p)));
                }
                other => {
                    self.unknown("E0609", "the action", other, callee.span, ACTIONS);
                }
            }
            good &= self.errors() == before;
        }
        frozen.sort();
        frozen.dedup();
        let trained = self.instance(objective.train).weights.iter().any(|w| w.role == Role::Parameter && !frozen.contains(&w.path));
        if good && !trained {
            self.wrong(
                "E0610",
                format!("nothing is left to train in `{}`", plan.section.name.name),
                plan.section.name.span,
                "no parameters, or all frozen",
            );
            good = false;
        }
        good.then_some((frozen, load, stop))
    }

    fn early_stop(&mut self, plan: &Plan, args: &[tree::Arg], span: Span, objective: &Objective) -> Option<EarlyStop> {
        let (mut on, mut patience, mut min_delta) = (None, 1, 0.0);
        for a in args {
            match a.name.as_ref().map(|n| &*n.name) {
                Some("on") => on = Some(&a.value),
                Some("patience") => {
                    patience = self.natural(&a.value, "`patience`")?;
                    if patience < 1 {
                        self.wrong("E0608", "`patience` is at least one epoch", a.value.span, "this is 0");
                        return None;
                    }
                }
                Some("min_delta") => min_delta = self.plain_number(&a.value)?,
                other => {
                    let at = a.name.as_ref().map_or(a.value.span, |n| n.span);
                    self.unknown("E0501", "`early_stop` has no parameter:", other.unwrap_or(""), at, &["on", "patience", "min_delta"]);
                    return None;
                }
            }
        }
        let Some(on) = on else {
            self.wrong("E0503", "`early_stop` needs `on:`", span, "for example `on: valid.accuracy`");
            return None;
        };
        let ExprKind::Field(base, metric) = &on.kind else {
            self.wrong("E0603", "`on:` is a part and a metric: `valid.accuracy`", on.span, "here");
            return None;
        };
        let ExprKind::Name(part) = &base.kind else {
            self.wrong("E0603", "`on:` is a part and a metric: `valid.accuracy`", on.span, "here");
            return None;
        };
        let parts: Vec<Arc<str>> = self.data[objective.data].parts.iter().map(|(p, _)| p.name.clone()).chain(["train".into()]).collect();
        if !parts.contains(part) {
            let known: Vec<&str> = parts.iter().map(|p| &**p).collect();
            self.unknown("E0602", "the data has no part:", part, base.span, &known);
            return None;
        }
        if &**part == "test" {
            let d = Diagnostic::warning("W0601", "early stopping reads the `test` part", base.span, "then it no longer tests");
            self.report(d.note("cut off a part for it: `valid = split(10%, seed: 1)`, and stop on that"));
        }
        let Some(found) = objective.metrics.iter().find(|m| m.name == metric.name) else {
            let known: Vec<&str> = objective.metrics.iter().map(|m| &*m.name).collect();
            self.unknown("E0602", "the metric", &metric.name, metric.span, &known);
            return None;
        };
        if found.larger_is_better.is_none() {
            let at = plan.get("metrics").map_or(metric.span, |e| e.span);
            let d = Diagnostic::error("E0611", format!("whether a larger `{}` is better is not known", metric.name), metric.span, "stops on this");
            let d = d.label(at, "a metric of one's own");
            self.report(d.note("say `Larger is better.` or `Smaller is better.` in the metric's doc comment"));
            return None;
        }
        Some(EarlyStop { part: part.clone(), metric: metric.name.clone(), patience, min_delta })
    }

    fn load_from(&mut self, args: &[tree::Arg], span: Span) -> Option<Arc<str>> {
        let [a] = args else {
            self.wrong("E0502", "`load` takes a file or a recipe", span, format!("{} are given", args.len()));
            return None;
        };
        match &a.value.kind {
            ExprKind::Text(t) => Some(t.clone()),
            ExprKind::Name(n) => {
                let recipes: Vec<Arc<str>> =
                    self.scope.sections.iter().filter(|s| s.kind == SectionKind::Train).map(|s| s.name.name.clone()).collect();
                if !recipes.contains(n) {
                    let known: Vec<&str> = recipes.iter().map(|n| &**n).collect();
                    self.unknown("E0602", "the recipe", n, a.value.span, &known);
                    return None;
                }
                Some(format!("run:{n}").into())
            }
            _ => {
                self.wrong("E0603", "`load` takes a path in quotes or the name of a recipe", a.value.span, "here");
                None
            }
        }
    }

    /// The weights of the recipe at or below the given paths.
    fn below(&mut self, args: &[tree::Arg], objective: &Objective) -> Vec<Arc<str>> {
        let all: Vec<Arc<str>> = self.instance(objective.train).weights.iter().map(|w| w.path.clone()).collect();
        let mut found = vec![];
        for a in args {
            let path: String = self.sources.text(a.value.span).chars().filter(|c| !c.is_whitespace()).collect();
            let prefix = format!("{path}.");
            let before = found.len();
            found.extend(all.iter().filter(|p| ***p == *path || p.starts_with(&prefix)).cloned());
            if found.len() == before {
                let mut known: Vec<&str> = vec![];
                for p in &all {
                    known.push(p);
                    known.extend(p.match_indices('.').map(|(i, _)| &p[..i]));
                }
                known.sort_unstable();
                known.dedup();
                self.unknown("E0602", "the recipe has no weights:", &path, a.value.span, &known);
            }
        }
        found
    }
}
