//! Bodies of functions: from bound parameters to results that agree with the signature; functions of single numbers in place; models as entries.

use crate::check::Checker;
use crate::check::calls::Given;
use crate::check::statements::Last;
use crate::check::typed::*;
use crate::check::types::{Declared, Takes};
use crate::check::value::*;
use crate::diagnostic::Diagnostic;
use crate::ir::{DType, ScalarOp, Size};
use crate::parse::tree::{self, FunctionKind};
use crate::span::Span;
use std::sync::Arc;

/// A named result.
pub type Named = (Option<Arc<str>>, Expr);

impl Checker<'_> {
    /// Elaborates the body of `f`, whose parameters are bound.
    pub(super) fn function_results(&mut self, b: &mut Body, f: &tree::Function) -> Option<Vec<Named>> {
        let mut declared = Vec::new();
        for r in &f.results {
            let ty = self.declared(b, r.name.as_ref().map(|n| n.name.clone()), &r.ty, true)?;
            if let Some(shape) = &ty.shape {
                let known: Vec<Size> = shape.iter().flatten().cloned().collect();
                for s in &known {
                    self.as_size(Value::Static(Static::Int(s.clone())), ty.span)?;
                }
                if !self.limit(&known, ty.span) {
                    return None;
                }
            }
            declared.push(ty);
        }
        b.weightless = matches!(f.kind, FunctionKind::Fn | FunctionKind::Loss | FunctionKind::Metric | FunctionKind::Init | FunctionKind::Schedule);
        b.optimizer = f.kind == FunctionKind::Optimizer;
        let before = self.errors();
        let last = self.statements(b, &f.body, &declared, true);
        match f.kind {
            FunctionKind::Loss => return self.accumulators(b, f, &["sum".into(), "weight".into()], false),
            FunctionKind::Metric => {
                let names: Vec<Arc<str>> = f.results.iter().filter_map(|r| r.name.as_ref()).map(|n| n.name.clone()).collect();
                return self.accumulators(b, f, &names, true);
            }
            FunctionKind::Optimizer => {
                let p = self.accumulators(b, f, &["p".into()], false)?;
                return Some(p);
            }
            FunctionKind::Model | FunctionKind::Block | FunctionKind::Layer | FunctionKind::Fn | FunctionKind::Init | FunctionKind::Schedule => {}
        }
        let values = self.result_values(b, f, &declared, last, self.errors() > before)?;
        if declared.is_empty() {
            let mut results = vec![];
            for (name, value) in values {
                results.push((name, self.result(b, value, None, f)?));
            }
            return Some(results);
        }
        let mut results = vec![];
        let mut good = true;
        for (d, (_, value)) in declared.iter().zip(values) {
            match self.result(b, value, Some(d), f) {
                Some(e) => results.push((d.name.clone(), e)),
                None => good = false,
            }
        }
        // A result that is wrong in itself is reported; callers go on with what the signature promises.
        good.then_some(results)
    }

    /// The values that the body gives for the declared results.
    fn result_values(
        &mut self,
        b: &mut Body,
        f: &tree::Function,
        declared: &[Declared],
        last: Last,
        failed: bool,
    ) -> Option<Vec<(Option<Arc<str>>, Value)>> {
        let end = Span { start: f.span.end.saturating_sub(1), ..f.span };
        let named = !declared.is_empty() && declared.iter().all(|d| d.name.is_some());
        let value = match last {
            Last::Value(v) => Some(v),
            Last::Binding(_) | Last::Nothing if named => None,
            Last::Binding(name) => b.lookup(&name).map(|x| x.value.clone()),
            Last::Nothing => {
                if !failed {
                    self.wrong("E0509", format!("`{}` has no value", f.name.name), f.name.span, "its body ends without one");
                }
                return None;
            }
        };
        let count = declared.len().max(1);
        match value {
            Some(Value::Poison) => None,
            Some(Value::Tuple(parts)) if named && parts.iter().all(|(n, _)| n.is_some()) => {
                let mut values = vec![];
                for d in declared {
                    match parts.iter().find(|(n, _)| *n == d.name) {
                        Some(p) => values.push(p.clone()),
                        None => {
                            let name = d.name.clone().unwrap_or_default();
                            self.wrong("E0509", format!("`{}` does not give its result `{name}`", f.name.name), end, "missing here");
                            return None;
                        }
                    }
                }
                Some(values)
            }
            Some(Value::Tuple(parts)) if parts.len() == count || declared.is_empty() => Some(parts),
            Some(Value::Tuple(parts)) => {
                let message = format!("`{}` declares {count} result{}, but gives {}", f.name.name, if count == 1 { "" } else { "s" }, parts.len());
                self.wrong("E0509", message, f.name.span, "declared here");
                None
            }
            Some(v) if count == 1 => Some(vec![(declared.first().and_then(|d| d.name.clone()), v)]),
            Some(_) if !named => {
                self.wrong("E0509", format!("`{}` declares {count} results, but gives one", f.name.name), f.name.span, "declared here");
                None
            }
            Some(_) | None => {
                let mut values = vec![];
                for d in declared {
                    let name = d.name.clone().unwrap_or_default();
                    match b.lookup(&name) {
                        Some(x) => values.push((Some(name), x.value.clone())),
                        None => {
                            if !failed {
                                let message = format!("`{}` does not give its result `{name}`", f.name.name);
                                let d = Diagnostic::error("E0509", message, end, "the body ends without it").label(d.span, "declared here");
                                self.report(d.note(format!("bind it: `{name} = ...`")));
                            }
                            return None;
                        }
                    }
                }
                Some(values)
            }
        }
    }

    /// One result against its declaration.
    fn result(&mut self, b: &mut Body, value: Value, declared: Option<&Declared>, f: &tree::Function) -> Option<Expr> {
        let Some(d) = declared else {
            let (dtype, meaning) = match &value {
                Value::Tensor(e) => (e.ty().dtype, e.ty().meaning.clone()),
                Value::Static(Static::Bool(_)) => (DType::Bool, Meaning::Mask),
                _ => (DType::F64, Meaning::Plain),
            };
            return self.fit(b, value, dtype, &meaning, f.span, "the result");
        };
        let span = match &value {
            Value::Tensor(e) => e.span,
            _ => d.span,
        };
        let given = match &value {
            Value::Tensor(e) => e.ty().shape.clone(),
            _ => vec![],
        };
        let e = self.fit(b, value, d.dtype, &d.meaning, span, &format!("the result of `{}`", f.name.name))?;
        if let Some(shape) = &d.shape {
            let same = shape.len() == given.len() && shape.iter().zip(&given).all(|(a, g)| a.as_ref().is_none_or(|a| a == g));
            if !same {
                let wanted: Vec<String> = shape.iter().map(|s| s.as_ref().map_or("_".into(), Size::to_string)).collect();
                let message =
                    format!("`{}` declares a result of shape [{}], but its value is {}", f.name.name, wanted.join(", "), shape_text(&given));
                let diagnostic = Diagnostic::error("E0302", message, span, format!("this is {}", e.ty())).label(d.span, "declared here");
                let diagnostic = self.made_at(diagnostic, b, &e);
                self.report(diagnostic);
                return None;
            }
        }
        let library = b.library();
        if e.ty().meaning == Meaning::Plain
            && matches!(d.meaning, Meaning::Probs | Meaning::LogProbs)
            && !library
            && matches!(f.kind, FunctionKind::Model | FunctionKind::Block)
        {
            let (word, by) = if d.meaning == Meaning::Probs { ("probabilities", "softmax") } else { ("logarithms of probabilities", "log_softmax") };
            let diagnostic = Diagnostic::error(
                "E0403",
                format!("the result of `{}` is declared as {word}, but nothing makes it so", f.name.name),
                span,
                "plain numbers",
            );
            let end = Span { start: span.end, ..span };
            self.report(diagnostic.label(d.span, "declared here").fix(format!("add `|> {by}`"), end, format!(" |> {by}")));
            return None;
        }
        let mut e = e;
        e.types[0].meaning = d.meaning.clone();
        Some(e)
    }

    /// The bindings that losses, metrics and optimizers give by name: single numbers for the first two.
    fn accumulators(&mut self, b: &mut Body, f: &tree::Function, names: &[Arc<str>], doubles: bool) -> Option<Vec<Named>> {
        let mut results = vec![];
        for name in names {
            let Some(found) = b.lookup(name).cloned() else {
                if self.errors() == 0 || !f.body.is_empty() {
                    let d = Diagnostic::error("E0509", format!("`{}` does not bind `{name}`", f.name.name), f.name.span, "missing in its body");
                    self.report(d.note(format!("a {} binds {}", kind_word(f.kind), super::listed(names))));
                }
                return None;
            };
            if f.kind == FunctionKind::Optimizer {
                let Value::Tensor(e) = found.value else { return None };
                results.push((Some(name.clone()), e));
                continue;
            }
            let dtype = match &found.value {
                Value::Tensor(e) if e.ty().dtype.is_float() && !doubles => e.ty().dtype,
                Value::Poison => return None,
                _ if doubles => DType::F64,
                _ => b.real,
            };
            let what = format!("`{name}` of `{}`", f.name.name);
            let value = self.widen(b, found.value, dtype, found.span);
            let e = self.fit(b, value, dtype, &Meaning::Plain, found.span, &what)?;
            if !e.ty().shape.is_empty() {
                self.wrong("E0309", format!("{what} is a single number"), found.span, format!("this is {}", e.ty()));
                return None;
            }
            results.push((Some(name.clone()), e));
        }
        Some(results)
    }

    /// Counts become floats.
    fn widen(&mut self, b: &mut Body, value: Value, dtype: DType, span: Span) -> Value {
        match &value {
            Value::Tensor(e) if e.ty().dtype == DType::I64 || (e.ty().dtype.is_float() && e.ty().dtype != dtype) => self.cast(b, dtype, value, span),
            Value::Static(Static::Int(_)) => self.cast(b, dtype, value, span),
            _ => value,
        }
    }

    /// `sum / weight` of a loss.
    pub(super) fn quotient(&mut self, b: &mut Body, parts: Vec<(Option<Arc<str>>, Value)>, span: Span) -> Value {
        self.op(b, ScalarOp::Div, parts.into_iter().map(|(_, v)| v).collect(), span)
    }

    /// A function of single numbers, in place: its value here.
    pub(super) fn inline(&mut self, b: &mut Body, def: DefId, given: Vec<Given>, span: Span) -> Value {
        self.called.insert(def);
        let d = self.scope.def(def);
        let (f, library) = (d.tree.clone(), d.library);
        if self.active.iter().any(|(d, _)| *d == def) {
            return self.wrong("E0508", format!("`{}` calls itself", f.name.name), span, "networks are finite: use `repeat` or `scan`");
        }
        if given.iter().any(|g| matches!(g.value, Value::Poison)) {
            return Value::Poison;
        }
        let Some(slots) = self.match_arguments(&f, given, span) else { return Value::Poison };
        if let Some(p) = f.params.iter().find(|p| p.ty.as_ref().is_some_and(|t| t.shape.is_some())) {
            let d = Diagnostic::error("E0321", format!("`{}` works on whole tensors", f.name.name), span, "called for one element");
            let d = d.label(p.name.span, "this parameter has axes");
            self.report(d.note("compute it in a binding of its own, then index that"));
            return Value::Poison;
        }
        // Implicit names of schedules (`step`, `epoch`) stay visible.
        let outer: Vec<(Arc<str>, Binding)> = if f.kind == FunctionKind::Schedule {
            ["step", "epoch", "steps", "steps_per_epoch"].iter().filter_map(|n| Some(((*n).into(), b.lookup(n)?.clone()))).collect()
        } else {
            vec![]
        };
        b.frames.push(Frame { barrier: true, library, ..Frame::default() });
        b.frame().names.extend(outer);
        self.active.push((def, span));
        let mut good = true;
        for (p, slot) in f.params.iter().zip(slots) {
            let (value, at) = match (slot, &p.default) {
                (Some(g), _) => (g.value, g.span),
                (None, Some(default)) => (self.expr(b, default), default.span),
                (None, None) => (Value::Poison, span),
            };
            let takes = p.ty.as_ref().map_or(Takes::Scalar, super::types::takes);
            if let (Takes::Int | Takes::Number, Value::Static(Static::Bool(_) | Static::Text(_))) | (Takes::Int, Value::Static(Static::Float(_))) =
                (takes, &value)
            {
                let word = if takes == Takes::Int { "a whole number" } else { "a number" };
                self.wrong("E0506", format!("`{}` of `{}` is {word}", p.name.name, f.name.name), at, format!("this is {}", value.describe()));
                good = false;
            }
            b.bind(&p.name.name, value, at);
        }
        let saved = std::mem::replace(&mut b.weightless, true);
        let last = if good { self.statements(b, &f.body, &[], true) } else { Last::Nothing };
        b.weightless = saved;
        let value = match last {
            Last::Value(v) => v,
            Last::Binding(name) => b.lookup(&name).map_or(Value::Poison, |x| x.value.clone()),
            Last::Nothing => Value::Poison,
        };
        self.active.pop();
        b.frames.pop();
        value
    }

    /// The instance of a model at its declared signature.
    pub(super) fn entry(&mut self, def: DefId, training: bool) -> Option<InstanceId> {
        let f = self.scope.def(def).tree.clone();
        let mut b = Body::new(f.name.name.clone(), training, self.options.real, false);
        let mut given = vec![];
        for p in &f.params {
            let Some(ty) = &p.ty else {
                self.wrong("E0510", format!("the parameter `{}` of a model needs a type", p.name.name), p.name.span, "no type");
                return None;
            };
            if super::types::takes(ty) != Takes::Tensor {
                if p.default.is_some() {
                    given.push(None);
                    continue;
                }
                if super::types::takes(ty) != Takes::Scalar {
                    let message = format!("the parameter `{}` of the model `{}` must be a tensor or have a default", p.name.name, f.name.name);
                    self.wrong("E0510", message, ty.span, "known only when compiling");
                    return None;
                }
            }
            if let Some(tree::Axis::Rest(span)) = ty.shape.iter().flatten().find(|a| matches!(a, tree::Axis::Rest(_))) {
                self.wrong("E0510", "a model's inputs have a fixed number of axes", *span, "how many?");
                return None;
            }
            let closed = self.closed(&mut b, ty)?;
            let local = b.local(&p.name.name, closed, p.name.span);
            given.push(Some(Given { name: None, value: Value::Tensor(b.read(local, p.name.span)), span: p.name.span }));
        }
        let prepared = self.prepare(&mut b, def, given, false)?;
        self.make(def, prepared, f.name.span).0.id
    }
}

/// The word that declares it.
pub fn kind_word(kind: FunctionKind) -> &'static str {
    match kind {
        FunctionKind::Model => "model",
        FunctionKind::Block => "block",
        FunctionKind::Layer => "layer",
        FunctionKind::Fn => "fn",
        FunctionKind::Init => "init",
        FunctionKind::Loss => "loss",
        FunctionKind::Metric => "metric",
        FunctionKind::Optimizer => "optimizer",
        FunctionKind::Schedule => "schedule",
    }
}
