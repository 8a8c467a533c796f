//! `scan x in xs over T from (h: ...) { ... }`: a loop over time whose body is one step.

use crate::check::Checker;
use crate::check::statements::Last;
use crate::check::typed::*;
use crate::check::value::*;
use crate::diagnostic::Diagnostic;
use crate::ir::Size;
use crate::parse::tree;
use crate::span::Span;
use std::sync::Arc;

impl Checker<'_> {
    /// The scan's value: every step's carries and stacked results by name, and `last` with the final carries.
    pub(super) fn scan(&mut self, b: &mut Body, s: &tree::Scan, span: Span) -> Value {
        let Some(length) = self.size(b, &s.over) else { return Value::Poison };
        let mut good = true;
        let mut inputs: Vec<(tree::Ident, Expr, usize)> = vec![];
        for (name, e) in &s.inputs {
            match self.expr(b, e) {
                Value::Tensor(xs) => match self.time_axis(b, &xs, &length, e.span) {
                    Some(axis) => inputs.push((name.clone(), xs, axis)),
                    None => good = false,
                },
                Value::Poison => good = false,
                other => {
                    self.wrong("E0505", "a scan runs over tensors", e.span, format!("this is {}", other.describe()));
                    good = false;
                }
            }
        }
        let mut starts: Vec<(tree::Ident, Expr)> = vec![];
        for (name, e) in &s.from {
            let value = self.expr(b, e);
            let real = b.real;
            let ty = match &value {
                Value::Tensor(t) => t.ty().clone(),
                _ => Type::plain(real, vec![]),
            };
            match self.fit(b, value, ty.dtype, &Meaning::Plain, e.span, &format!("the start of `{}`", name.name)) {
                Some(t) => starts.push((name.clone(), t)),
                None => good = false,
            }
        }
        if !good {
            return Value::Poison;
        }
        // Where time goes in stacked results: as in the first sequence.
        let time = inputs.first().map_or(0, |(_, _, axis)| *axis);
        b.frames.push(Frame::default());
        let outer = std::mem::take(&mut b.stmts);
        let mut typed_inputs = vec![];
        for (name, xs, axis) in inputs {
            let mut ty = xs.ty().clone();
            ty.shape.remove(axis);
            let local = b.local(&name.name, ty, name.span);
            let read = b.read(local, name.span);
            b.bind(&name.name, Value::Tensor(read), name.span);
            typed_inputs.push((local, xs, axis));
        }
        let mut carries = vec![];
        for (name, start) in starts {
            let ty = Type::plain(start.ty().dtype, start.ty().shape.clone());
            let local = b.local(&name.name, ty, name.span);
            let read = b.read(local, name.span);
            b.bind(&name.name, Value::Tensor(read), name.span);
            carries.push((name, local, start));
        }
        let last = self.statements(b, &s.body, &[], true);
        let parts = self.step_results(b, last, &carries, span);
        let mut next = vec![];
        let mut stacked: Vec<(Option<Arc<str>>, Expr)> = vec![];
        match parts {
            None => good = false,
            Some((carried, others)) => {
                for ((name, local, _), value) in carries.iter().zip(carried) {
                    let ty = b.locals[local.0 as usize].1.clone();
                    let what = format!("the next `{}`", name.name);
                    let at = match &value {
                        Value::Tensor(e) => e.span,
                        _ => span,
                    };
                    match self.fit(b, value, ty.dtype, &Meaning::Plain, at, &what) {
                        Some(e) if e.ty().shape == ty.shape => next.push(b.hoist(&name.name, e)),
                        Some(e) => {
                            let message = format!("{what} has the shape {}, but it starts with {}", shape_text(&e.ty().shape), shape_text(&ty.shape));
                            let d = Diagnostic::error("E0302", message, at, format!("this is {}", e.ty())).label(name.span, format!("this is {ty}"));
                            self.report(d.note("a carried value keeps its shape from step to step"));
                            good = false;
                        }
                        None => good = false,
                    }
                }
                for (name, value) in others {
                    match value {
                        Value::Tensor(e) => {
                            let e = b.hoist("_", e);
                            stacked.push((name, e));
                        }
                        Value::Poison => good = false,
                        other => {
                            self.wrong("E0505", "a stacked result is a tensor", span, format!("this is {}", other.describe()));
                            good = false;
                        }
                    }
                }
            }
        }
        let body = std::mem::replace(&mut b.stmts, outer);
        b.frames.pop();
        if !good {
            return Value::Poison;
        }
        if let Some(Stmt::Update { span, .. }) = body.iter().find(|s| matches!(s, Stmt::Update { .. })) {
            return self.wrong("E0523", "a state cannot be updated at every step of a scan", *span, "in a layer called by the scan");
        }
        // Every carry is stacked too.
        let mut names: Vec<Option<Arc<str>>> = carries.iter().map(|(n, ..)| Some(n.name.clone())).collect();
        let mut outputs = vec![];
        for e in next.iter().cloned().chain(stacked.iter().map(|(_, e)| e.clone())) {
            let axis = time.min(e.ty().shape.len());
            outputs.push((e, axis));
        }
        let mut types: Vec<Type> = carries.iter().map(|(_, l, _)| b.locals[l.0 as usize].1.clone()).collect();
        for (e, axis) in &outputs {
            let mut shape = e.ty().shape.clone();
            shape.insert(*axis, length.clone());
            types.push(Type { shape, ..e.ty().clone() });
        }
        names.extend(carries.iter().map(|(n, ..)| Some(n.name.clone())));
        names.extend(stacked.iter().map(|(n, _)| n.clone()));
        let site = b.site();
        let count = carries.len();
        let scan = Scan {
            inputs: typed_inputs,
            length,
            reversed: s.reversed,
            carries: carries.into_iter().zip(next).map(|((_, local, start), next)| (local, start, next)).collect(),
            body,
            outputs,
            site,
        };
        let e = Expr { kind: ExprKind::Scan(Box::new(scan)), types, span };
        let mut values = self.unpack(b, e, &names);
        let mut result = values.split_off(count);
        result.push((Some("last".into()), Value::Tuple(values)));
        Value::Tuple(result)
    }

    /// Which axis of a sequence is time: axis 1 where it has the length, else the first that has.
    fn time_axis(&mut self, b: &Body, xs: &Expr, length: &Size, span: Span) -> Option<usize> {
        let shape = &xs.ty().shape;
        if shape.get(1) == Some(length) && shape.len() > 1 {
            return Some(1);
        }
        let found = shape.iter().position(|s| s == length);
        if found.is_none() {
            let d = Diagnostic::error(
                "E0317",
                format!("no axis of this has {length} elements, over which the scan runs"),
                span,
                format!("this is {}", xs.ty()),
            );
            let d = self.made_at(d, b, xs);
            self.report(d);
        }
        found
    }

    /// The next carries in order, and what else a step gives.
    #[expect(clippy::type_complexity, reason = "carries, then named others")]
    fn step_results(
        &mut self,
        b: &mut Body,
        last: Last,
        carries: &[(tree::Ident, Local, Expr)],
        span: Span,
    ) -> Option<(Vec<Value>, Vec<(Option<Arc<str>>, Value)>)> {
        let bound = |b: &Body| -> Vec<Value> { carries.iter().map(|(n, ..)| b.lookup(&n.name).map_or(Value::Poison, |x| x.value.clone())).collect() };
        match last {
            Last::Value(Value::Poison) => None,
            Last::Value(Value::Tuple(parts)) => {
                let named = parts.iter().any(|(n, _)| n.is_some());
                if named {
                    // Results by name; carries that are not named keep their binding.
                    let mut carried = bound(b);
                    let mut others = vec![];
                    for (name, value) in parts {
                        match carries.iter().position(|(n, ..)| Some(&n.name) == name.as_ref()) {
                            Some(i) => carried[i] = value,
                            None => others.push((name, value)),
                        }
                    }
                    return Some((carried, others));
                }
                if parts.len() != carries.len() {
                    self.wrong("E0509", format!("a step gives {} values for {} carries", parts.len(), carries.len()), span, "the numbers differ");
                    return None;
                }
                Some((parts.into_iter().map(|(_, v)| v).collect(), vec![]))
            }
            Last::Value(one) if carries.len() == 1 => Some((vec![one], vec![])),
            Last::Value(_) => {
                self.wrong("E0509", format!("a step gives one value for {} carries", carries.len()), span, "the numbers differ");
                None
            }
            Last::Binding(_) | Last::Nothing => Some((bound(b), vec![])),
        }
    }
}
