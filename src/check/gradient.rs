//! Derivatives: `grad(e, wrt: x)` and derivatives written by hand.

use crate::check::Checker;
use crate::check::builtins::Call;
use crate::check::statements::Last;
use crate::check::typed::*;
use crate::check::types::Declared;
use crate::check::value::*;
use crate::diagnostic::Diagnostic;
use crate::parse::tree;
use crate::span::Span;
use std::sync::Arc;

impl Checker<'_> {
    /// `grad(e, wrt: x)`, `grad(e, wrt: (x, w))`
    pub(super) fn grad(&mut self, b: &mut Body, a: Call) -> Value {
        let Some(of) = self.tensor(a.first(), "grad") else { return Value::Poison };
        if !of.ty().shape.is_empty() || !of.ty().dtype.is_float() {
            let d = Diagnostic::error("E0315", "only a single real number has a gradient", a.first().span, format!("this is {}", of.ty()));
            let mut d = self.made_at(d, b, &of);
            if of.ty().dtype.is_float() {
                let indices = (1..=of.ty().shape.len()).map(|n| format!("i{n}")).collect::<Vec<_>>().join(", ");
                let name = Some(self.sources.text(a.first().span)).filter(|t| t.chars().all(|c| c.is_alphanumeric() || c == '_')).unwrap_or("y");
                d = d.note(format!("sum it first: `sum[{indices}]({name}[{indices}])`"));
            }
            self.report(d);
            return Value::Poison;
        }
        let Some(wrt) = a.get("wrt") else {
            return self.wrong("E0503", "`grad` needs `wrt:`", a.span, "with respect to what?");
        };
        let parts: Vec<Value> = match &wrt.value {
            Value::Tuple(parts) => parts.iter().map(|(_, v)| v.clone()).collect(),
            Value::List(parts) => parts.clone(),
            one => vec![one.clone()],
        };
        let (mut by, mut types) = (vec![], vec![]);
        for v in parts {
            match v {
                Value::Poison => return Value::Poison,
                Value::Tensor(e) if e.ty().dtype.is_float() => {
                    by.push(match e.kind {
                        ExprKind::Local(l) => Wrt::Local(l),
                        ExprKind::Weight(w) => Wrt::Weight(w),
                        _ => return self.wrong("E0316", "`wrt` takes names of bindings and parameters", wrt.span, "bind it to a name first"),
                    });
                    types.push(Type::plain(e.ty().dtype, e.ty().shape.clone()));
                }
                other => return self.wrong("E0316", "`wrt` takes real tensors", wrt.span, format!("this is {}", other.describe())),
            }
        }
        let names: Vec<Option<Arc<str>>> = vec![None; types.len()];
        let one = types.len() == 1;
        let e = Expr { kind: ExprKind::Grad { of: Box::new(of), wrt: by }, types, span: a.span };
        if one { Value::Tensor(e) } else { Value::Tuple(self.unpack(b, e, &names)) }
    }

    /// `gradient(dy) { ...; (x: dx, weight: dw) }`
    pub(super) fn gradient(&mut self, b: &mut Body, cotangents: &[tree::Ident], body: &[tree::Stmt], declared: &[Declared], last: &Last, span: Span) {
        if b.gradient.is_some() {
            self.wrong("E0522", "a function has one `gradient`", span, "the second one");
            return;
        }
        // The float results, as far as they are known before the end of the body.
        let mut values: Vec<Value> = vec![];
        if !declared.is_empty() && declared.iter().all(|d| d.name.is_some()) && !matches!(last, Last::Value(_)) {
            for d in declared {
                let name = d.name.clone().unwrap_or_default();
                values.push(b.lookup(&name).map_or(Value::Poison, |x| x.value.clone()));
            }
        } else {
            match last {
                Last::Value(Value::Tuple(parts)) => values.extend(parts.iter().map(|(_, v)| v.clone())),
                Last::Value(v) => values.push(v.clone()),
                Last::Binding(name) => values.push(b.lookup(name).map_or(Value::Poison, |x| x.value.clone())),
                Last::Nothing => {}
            }
        }
        if values.iter().any(|v| matches!(v, Value::Poison)) {
            return;
        }
        let types: Vec<Type> = values
            .iter()
            .filter_map(|v| match v {
                Value::Tensor(e) if e.ty().dtype.is_float() => Some(Type::plain(e.ty().dtype, e.ty().shape.clone())),
                _ => None,
            })
            .collect();
        if types.len() != cotangents.len() {
            let message = format!("{} cotangents for {} real result{}", cotangents.len(), types.len(), if types.len() == 1 { "" } else { "s" });
            self.wrong("E0522", message, span, "one for each real result, in order");
            return;
        }
        b.frames.push(Frame::default());
        let stmts = std::mem::take(&mut b.stmts);
        let mut locals = vec![];
        for (name, ty) in cotangents.iter().zip(types) {
            let local = b.local(&name.name, ty, name.span);
            let read = b.read(local, name.span);
            b.bind(&name.name, Value::Tensor(read), name.span);
            locals.push(local);
        }
        let end = self.statements(b, body, &[], true);
        let parts = match end {
            Last::Value(Value::Tuple(parts)) => parts,
            Last::Value(Value::Poison) => vec![],
            Last::Value(_) | Last::Binding(_) | Last::Nothing => {
                let d = Diagnostic::error("E0522", "a `gradient` ends with what it gives", span, "no `(x: dx, ...)` at its end");
                self.report(d.note("name the inputs and parameters: `(x: dx, weight: dw)`"));
                vec![]
            }
        };
        let mut results = vec![];
        for (name, value) in parts {
            let Some(name) = name else {
                self.wrong("E0522", "a gradient's results are named after inputs and parameters", span, "write `(x: dx)`");
                continue;
            };
            let input = b.locals.iter().position(|(n, ..)| *n == name).filter(|i| {
                let shadowed = matches!(b.lookup(&name), Some(Binding { value: Value::Static(_), .. }));
                !shadowed && self.is_input(b, *i)
            });
            let (of, ty) = match (b.own.get(&name), input) {
                (Some(w), _) => (GradientOf::Weight(*w), b.weights[w.0 as usize].ty.clone()),
                (None, Some(i)) => (GradientOf::Input(i), b.locals[i].1.clone()),
                (None, None) => {
                    let known: Vec<String> = b.own.keys().map(|k| k.to_string()).collect();
                    let known: Vec<&str> = known.iter().map(String::as_str).collect();
                    self.unknown("E0213", "the input or parameter", &name, span, &known);
                    continue;
                }
            };
            let at = match &value {
                Value::Tensor(e) => e.span,
                _ => span,
            };
            let what = format!("the gradient of `{name}`");
            let Some(e) = self.fit(b, value, ty.dtype, &Meaning::Plain, at, &what) else { continue };
            if e.ty().shape != ty.shape {
                let message = format!("{what} has the shape {}, but `{name}` has {}", shape_text(&e.ty().shape), shape_text(&ty.shape));
                self.wrong("E0302", message, at, format!("this is {}", e.ty()));
                continue;
            }
            results.push((of, e));
        }
        let body = std::mem::replace(&mut b.stmts, stmts);
        b.frames.pop();
        b.gradient = Some(Gradient { cotangents: locals, body, results });
    }

    fn is_input(&self, b: &Body, i: usize) -> bool {
        // Inputs come before every binding, and bindings are made by statements.
        let bound = |s: &Stmt| matches!(s, Stmt::Let { targets, .. } if targets.contains(&Local(i as u32)));
        i < b.inputs && !b.stmts.iter().any(bound)
    }
}
