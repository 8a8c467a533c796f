//! Expressions by kind. Inside a comprehension the same words mean single elements.

use crate::check::Checker;
use crate::check::arithmetic::ELEMENTWISE;
use crate::check::builtins;
use crate::check::calls::Given;
use crate::check::value::*;
use crate::diagnostic::Diagnostic;
use crate::ir::{DType, ScalarOp};
use crate::parse::tree::{self, BinaryOp, ExprKind, UnaryOp};
use crate::span::Span;
use std::sync::Arc;

impl Checker<'_> {
    /// The value of an expression.
    pub(super) fn expr(&mut self, b: &mut Body, e: &tree::Expr) -> Value {
        match &e.kind {
            ExprKind::Int(n) => Value::int(*n),
            ExprKind::Float(x) | ExprKind::Quantity(x, _) => Value::Static(Static::Float(*x)),
            ExprKind::Text(t) => Value::Static(Static::Text(t.clone())),
            ExprKind::Bool(x) => Value::Static(Static::Bool(*x)),
            ExprKind::Name(n) => self.name(b, n, e.span),
            ExprKind::Field(base, field) => self.field(b, base, field, e.span),
            ExprKind::Call { callee, args } => {
                let given = self.arguments(b, args);
                self.call(b, callee, given, e.span)
            }
            ExprKind::Load { base, indices, otherwise } => self.load_expr(b, base, indices, otherwise.as_deref(), e.span),
            ExprKind::Fold { fold, indices, condition, body } => self.fold_expr(b, fold, indices, condition.as_deref(), body, e.span),
            ExprKind::Unary(op, a) => {
                let a = self.expr(b, a);
                let op = match op {
                    UnaryOp::Neg => ScalarOp::Neg,
                    UnaryOp::Not => ScalarOp::Not,
                };
                self.op(b, op, vec![a], e.span)
            }
            ExprKind::Binary(op, x, y) => self.binary(b, *op, x, y, e.span),
            ExprKind::Pipe(left, right) => {
                let first = Given { name: None, value: self.expr(b, left), span: left.span };
                match &right.kind {
                    ExprKind::Call { callee, args } => {
                        let mut given = vec![first];
                        given.extend(self.arguments(b, args));
                        self.call(b, callee, given, right.span)
                    }
                    _ => self.call(b, right, vec![first], right.span),
                }
            }
            ExprKind::Tuple(parts) => {
                let parts = parts.iter().map(|(n, e)| (n.as_ref().map(|n| n.name.clone()), self.expr(b, e))).collect();
                Value::Tuple(parts)
            }
            ExprKind::List(parts) => Value::List(parts.iter().map(|e| self.expr(b, e)).collect()),
            ExprKind::Rest => self.wrong("E0513", "`...` has a meaning in shapes and indices only", e.span, "here"),
            ExprKind::Range(..) => self.no_range(e),
            ExprKind::If { condition, then, otherwise } => {
                let c = self.expr(b, condition);
                match c {
                    Value::Static(Static::Bool(true)) => self.expr(b, then),
                    Value::Static(Static::Bool(false)) => self.expr(b, otherwise),
                    c => {
                        let (x, y) = (self.expr(b, then), self.expr(b, otherwise));
                        self.op(b, ScalarOp::Select, vec![c, x, y], e.span)
                    }
                }
            }
            ExprKind::Scan(s) => {
                if !b.elements.is_empty() {
                    return self.wrong("E0321", "a scan works on whole tensors", e.span, "inside index notation");
                }
                self.scan(b, s, e.span)
            }
        }
    }

    fn binary(&mut self, b: &mut Body, op: BinaryOp, x: &tree::Expr, y: &tree::Expr, span: Span) -> Value {
        let left = self.expr(b, x);
        // The right side of a decided `and`/`or` may be meaningless.
        match (op, &left) {
            (BinaryOp::And, Value::Static(Static::Bool(false))) | (BinaryOp::Or, Value::Static(Static::Bool(true))) => return left,
            _ => {}
        }
        let right = self.expr(b, y);
        match (op, &left, &right) {
            (BinaryOp::And, Value::Static(Static::Bool(true)), _) | (BinaryOp::Or, Value::Static(Static::Bool(false)), _) => return right,
            (BinaryOp::And | BinaryOp::Or, _, Value::Static(Static::Bool(c))) if *c == (op == BinaryOp::And) => return left,
            (BinaryOp::Eq | BinaryOp::Ne, Value::Static(Static::Text(s)), Value::Static(Static::Text(t))) => {
                return Value::Static(Static::Bool((s == t) == (op == BinaryOp::Eq)));
            }
            _ => {}
        }
        let (op, swap) = match op {
            BinaryOp::Or => (ScalarOp::Or, false),
            BinaryOp::And => (ScalarOp::And, false),
            BinaryOp::Eq => (ScalarOp::Eq, false),
            BinaryOp::Ne => (ScalarOp::Ne, false),
            BinaryOp::Lt => (ScalarOp::Lt, false),
            BinaryOp::Le => (ScalarOp::Le, false),
            BinaryOp::Gt => (ScalarOp::Lt, true),
            BinaryOp::Ge => (ScalarOp::Le, true),
            BinaryOp::Add => (ScalarOp::Add, false),
            BinaryOp::Sub => (ScalarOp::Sub, false),
            BinaryOp::Mul => (ScalarOp::Mul, false),
            BinaryOp::Div => (ScalarOp::Div, false),
            BinaryOp::Pow => (ScalarOp::Pow, false),
        };
        let args = if swap { vec![right, left] } else { vec![left, right] };
        self.op(b, op, args, span)
    }

    fn name(&mut self, b: &mut Body, name: &Arc<str>, span: Span) -> Value {
        if let Some(found) = b.lookup(name) {
            // A use is shown where it stands.
            return match found.value.clone() {
                Value::Tensor(mut e) => {
                    e.span = span;
                    Value::Tensor(e)
                }
                other => other,
            };
        }
        let library = b.library();
        if !library && let Some(value) = self.global(name) {
            return value;
        }
        match &**name {
            "training" => {
                b.uses_mode = true;
                return Value::Static(Static::Bool(b.training));
            }
            "inf" => return Value::Static(Static::Float(f64::INFINITY)),
            "PI" => return Value::Static(Static::Float(std::f64::consts::PI)),
            _ => {}
        }
        if let Some(def) = self.function(name, library) {
            return Value::Function(def);
        }
        if builtins::find(name).is_some() || ELEMENTWISE.iter().any(|(n, _)| *n == &**name) {
            return self.wrong("E0507", format!("`{name}` is a function and needs arguments"), span, format!("write `{name}(...)`"));
        }
        let mut known: Vec<String> = b.names().iter().map(|s| s.to_string()).filter(|s| s != "...").collect();
        if !library {
            known.extend(self.scope.user.keys().map(|k| k.to_string()));
        }
        if matches!(&**name, "True" | "False") {
            known = vec![name.to_lowercase()];
        }
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        if !b.elements.is_empty() && crate::diagnostic::did_you_mean(name, known.iter().copied().filter(|k| k.len() > 1)).is_none() {
            let d = Diagnostic::error("E0320", format!("the index `{name}` is not known"), span, "not found");
            self.report(d.note("an index is introduced on the left of `=` or by a fold: `sum[i](...)`"));
            return Value::Poison;
        }
        self.unknown("E0201", "the name", name, span, &known)
    }

    fn field(&mut self, b: &mut Body, base: &tree::Expr, field: &tree::Ident, span: Span) -> Value {
        if let ExprKind::Name(n) = &base.kind {
            if &**n == "self" {
                return match b.own.get(&field.name) {
                    Some(w) => Value::Tensor(self.read_weight(b, *w, span)),
                    None => {
                        let mut known: Vec<String> = b.own.keys().map(|k| k.to_string()).collect();
                        known.sort();
                        let known: Vec<&str> = known.iter().map(String::as_str).collect();
                        self.unknown("E0210", "the parameter", &field.name, field.span, &known)
                    }
                };
            }
            if b.lookup(n).is_none()
                && let Some(w) = self.weight_path(b, base, field)
            {
                return Value::Tensor(self.read_weight(b, w, span));
            }
        }
        match self.expr(b, base) {
            Value::Poison => Value::Poison,
            Value::Tuple(parts) => {
                let at = field.name.parse::<usize>().ok().filter(|i| *i < parts.len());
                match at.or_else(|| parts.iter().position(|(n, _)| n.as_ref() == Some(&field.name))) {
                    Some(i) => parts[i].1.clone(),
                    None => {
                        let known: Vec<&str> = parts.iter().filter_map(|(n, _)| n.as_deref()).collect();
                        self.unknown("E0211", "the field", &field.name, field.span, &known)
                    }
                }
            }
            other => self.no_field(b, &other, field),
        }
    }

    /// Arguments in order.
    pub(super) fn arguments(&mut self, b: &mut Body, args: &[tree::Arg]) -> Vec<Given> {
        args.iter()
            .map(|a| {
                let value = match &a.value.kind {
                    ExprKind::Rest => match b.rest().cloned() {
                        Some(sizes) => Value::List(sizes.into_iter().map(|s| Value::Static(Static::Int(s))).collect()),
                        None => self.wrong("E0307", "`...` stands for the axes of a parameter, and none has it", a.value.span, "which axes?"),
                    },
                    _ => self.expr(b, &a.value),
                };
                Given { name: a.name.clone(), value, span: a.value.span }
            })
            .collect()
    }

    /// A call of whatever the callee names.
    pub(super) fn call(&mut self, b: &mut Body, callee: &tree::Expr, given: Vec<Given>, span: Span) -> Value {
        let ExprKind::Name(name) = &callee.kind else {
            if let Some(poison) = self.no_module(b, callee) {
                return poison;
            }
            return match self.expr(b, callee) {
                Value::Poison => Value::Poison,
                Value::Function(def) => self.call_function(b, def, given, span),
                other => self.wrong("E0507", "this cannot be called", callee.span, format!("this is {}", other.describe())),
            };
        };
        if let Some(Binding { value: Value::Function(def), .. }) = b.lookup(name) {
            let def = *def;
            return self.call_function(b, def, given, span);
        }
        let library = b.library();
        if let Some(def) = self.function(name, library) {
            return self.call_function(b, def, given, span);
        }
        let cast = match &**name {
            "real" => Some(b.real),
            "int" => Some(DType::I64),
            "f32" => Some(self.options.real),
            "f64" => Some(DType::F64),
            _ => None,
        };
        if let Some(to) = cast {
            return match <[Given; 1]>::try_from(given) {
                Ok([g]) => self.cast(b, to, g.value, span),
                Err(given) => self.wrong("E0502", format!("`{name}` takes 1 argument"), span, format!("{} are given", given.len())),
            };
        }
        if let Some((_, op)) = ELEMENTWISE.iter().find(|(n, _)| *n == &**name) {
            if given.len() != op.arity() || given.iter().any(|g| g.name.is_some()) {
                if given.iter().any(|g| matches!(g.value, Value::Poison)) {
                    return Value::Poison;
                }
                let n = op.arity();
                let plural = if n == 1 { "" } else { "s" };
                return self.wrong("E0502", format!("`{name}` takes {n} argument{plural} without names"), span, format!("{} are given", given.len()));
            }
            return self.op(b, *op, given.into_iter().map(|g| g.value).collect(), span);
        }
        if let Some(builtin) = builtins::find(name) {
            return builtins::call(self, b, builtin, given, span);
        }
        if let Some(found) = b.lookup(name) {
            let what = found.value.describe();
            return self.wrong("E0507", format!("`{name}` cannot be called"), callee.span, format!("this is {what}"));
        }
        if !library && self.declared_at(name).is_some() {
            return self.wrong("E0507", format!("`{name}` cannot be called"), callee.span, "no function");
        }
        self.no_function(b, name, callee)
    }
}
