//! Declared types: what they say, and whether a value fits.

use crate::check::Checker;
use crate::check::arithmetic::{cast_expr, constant};
use crate::check::typed::*;
use crate::check::value::*;
use crate::diagnostic::{Diagnostic, Fix, did_you_mean};
use crate::ir::{DType, Size};
use crate::parse::tree::{self, Axis, TypeExpr};
use crate::span::Span;
use std::sync::Arc;

/// The words that types begin with.
pub const HEADS: [&str; 14] =
    ["real", "f32", "f64", "scalar", "int", "bool", "number", "string", "logits", "probs", "logprobs", "class", "token", "mask"];

/// What a parameter takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// A whole number when compiling.
    Int,
    /// Any number when compiling.
    Number,
    /// True or false when compiling.
    Bool,
    /// Text when compiling.
    Text,
    /// An f64 when running.
    Scalar,
    /// A tensor.
    Tensor,
}

/// A declared tensor type; sizes that it leaves open are `None`.
#[derive(Clone, Debug)]
pub struct Declared {
    /// Where the signature names it.
    pub name: Option<Arc<str>>,
    /// Element type.
    pub dtype: DType,
    /// What it stands for.
    pub meaning: Meaning,
    /// Axes; `None` where `...` is not known.
    pub shape: Option<Vec<Option<Size>>>,
    /// The type's text.
    pub span: Span,
}

/// What a type expression takes, by its head and whether it has axes.
pub fn takes(ty: &TypeExpr) -> Takes {
    match (&*ty.head.name, &ty.shape) {
        ("int", None) => Takes::Int,
        ("number", None) => Takes::Number,
        ("bool", None) => Takes::Bool,
        ("string", None) => Takes::Text,
        ("scalar", None) => Takes::Scalar,
        _ => Takes::Tensor,
    }
}

impl Checker<'_> {
    /// Element type and meaning of a head; `None` and a report if it is no type.
    pub(super) fn head(&mut self, b: &mut Body, ty: &TypeExpr, open: bool) -> Option<(DType, Meaning)> {
        let real = b.real;
        let (dtype, meaning) = match &*ty.head.name {
            "real" => (real, Meaning::Plain),
            "f32" => (self.options.real, Meaning::Plain),
            "f64" | "scalar" | "number" => (DType::F64, Meaning::Plain),
            "int" => (DType::I64, Meaning::Plain),
            "bool" | "mask" => (DType::Bool, Meaning::Mask),
            "string" => (DType::Bool, Meaning::Plain),
            "logits" => (real, Meaning::Logits),
            "probs" => (real, Meaning::Probs),
            "logprobs" => (real, Meaning::LogProbs),
            word @ ("class" | "token") => {
                let meaning = if word == "class" { Meaning::Class } else { Meaning::Token };
                let Some(angle) = &ty.angle else {
                    let d = Diagnostic::error("E0401", format!("`{word}` needs how many there are"), ty.head.span, "no number");
                    self.report(d.note(format!("write `{word}<10>`")));
                    return None;
                };
                if let tree::ExprKind::Name(n) = &angle.kind
                    && b.lookup(n).is_none()
                    && (b.library() || self.declared_at(n).is_none())
                {
                    if open {
                        return Some((DType::I64, Meaning::Plain));
                    }
                    self.unknown_size(b, n, angle.span);
                    return None;
                }
                let count = self.size(b, angle)?;
                if count.as_const().is_some_and(|n| n < 1) {
                    self.wrong("E0401", format!("`{word}` needs at least one"), angle.span, format!("this is {count}"));
                    return None;
                }
                (DType::I64, meaning(count))
            }
            _ => {
                self.unknown_type(&ty.head);
                return None;
            }
        };
        if ty.angle.is_some() && !matches!(meaning, Meaning::Class(_) | Meaning::Token(_)) {
            self.wrong("E0401", format!("`{}` takes nothing in angle brackets", ty.head.name), ty.span, "only `class` and `token` do");
        }
        Some((dtype, meaning))
    }

    fn unknown_size(&mut self, b: &Body, name: &str, span: Span) {
        let mut known: Vec<String> = b.names().iter().map(|s| s.to_string()).collect();
        if !b.library() {
            known.extend(self.scope.user.keys().map(|k| k.to_string()));
        }
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        let mut d = Diagnostic::error("E0206", format!("the size `{name}` is not known"), span, "not found");
        match crate::diagnostic::did_you_mean(name, known) {
            Some(near) => d = d.fix(format!("did you mean `{near}`?"), span, near),
            None => d = d.note(format!("declare it: `dim {name}` for a size chosen when the program runs, `const {name} = 10` for a fixed one")),
        }
        self.report(d);
    }

    /// A size in a type or a call: a whole number, known or a formula in dims, never negative.
    pub(super) fn size(&mut self, b: &mut Body, e: &tree::Expr) -> Option<Size> {
        let elements = std::mem::take(&mut b.elements);
        let value = if let tree::ExprKind::Name(n) = &e.kind
            && b.lookup(n).is_none()
            && (b.library() || self.declared_at(n).is_none())
            && !matches!(&**n, "inf" | "PI")
        {
            self.unknown_size(b, n, e.span);
            Value::Poison
        } else {
            self.expr(b, e)
        };
        b.elements = elements;
        self.as_size(value, e.span)
    }

    /// The value as a size.
    pub(super) fn as_size(&mut self, value: Value, span: Span) -> Option<Size> {
        match value {
            Value::Static(Static::Int(s)) => {
                if let (_, Some(high)) = self.interval(&s)
                    && high < 0
                {
                    self.wrong("E0303", "a size is negative", span, format!("this is {s}"));
                    return None;
                }
                Some(s)
            }
            Value::Poison => None,
            other => {
                self.wrong("E0305", "a size is a whole number known when compiling", span, format!("this is {}", other.describe()));
                None
            }
        }
    }

    /// The type at this point. `open`: names that nobody knows stay open instead of being reported.
    pub(super) fn declared(&mut self, b: &mut Body, name: Option<Arc<str>>, ty: &TypeExpr, open: bool) -> Option<Declared> {
        let (dtype, meaning) = self.head(b, ty, open)?;
        let mut shape = Some(vec![]);
        for axis in ty.shape.iter().flatten() {
            match axis {
                Axis::Rest(span) => match (b.rest().cloned(), &mut shape) {
                    (Some(rest), Some(s)) => s.extend(rest.into_iter().map(Some)),
                    (None, _) if open => shape = None,
                    (None, _) => {
                        self.wrong("E0307", "`...` stands for the axes of a parameter, and none has it", *span, "which axes?");
                        return None;
                    }
                    (Some(_), None) => {}
                },
                Axis::Size(e) => {
                    let unknown =
                        matches!(&e.kind, tree::ExprKind::Name(n) if b.lookup(n).is_none() && (b.library() || self.declared_at(n).is_none()));
                    let size = if unknown && open { None } else { Some(self.size(b, e)?) };
                    if let Some(s) = &mut shape {
                        s.push(size);
                    }
                }
                Axis::Named(name, e) => {
                    let size = self.size(b, e)?;
                    b.bind(&name.name, Value::Static(Static::Int(size.clone())), name.span);
                    if let Some(s) = &mut shape {
                        s.push(Some(size));
                    }
                }
            }
        }
        Some(Declared { name, dtype, meaning, shape, span: ty.span })
    }

    /// The declared type, all of it known.
    pub(super) fn closed(&mut self, b: &mut Body, ty: &TypeExpr) -> Option<Type> {
        let d = self.declared(b, None, ty, false)?;
        let shape = d.shape?.into_iter().collect::<Option<Vec<_>>>()?;
        let ty = Type { dtype: d.dtype, shape, meaning: d.meaning };
        self.limit(&ty.shape, d.span).then_some(ty)
    }

    /// Reports a type that is not there.
    pub(super) fn unknown_type(&mut self, head: &tree::Ident) {
        let meant = match &*head.name {
            "float" | "float32" | "Float" => Some("f32"),
            "double" | "float64" => Some("f64"),
            "tensor" | "Tensor" | "array" => Some("real"),
            "integer" | "i64" | "i32" | "int64" | "int32" => Some("int"),
            "boolean" => Some("bool"),
            "str" | "text" => Some("string"),
            "label" | "labels" => Some("class"),
            other => did_you_mean(other, HEADS.iter().copied()),
        };
        let d = Diagnostic::error("E0205", format!("the type `{}` is not known", head.name), head.span, "not found");
        let d = match meant {
            Some(meant) => d.fix(format!("did you mean `{meant}`?"), head.span, meant),
            None => d,
        };
        self.report(d.note(format!("the types are {}", HEADS.map(|h| format!("`{h}`")).join(", "))));
    }

    /// Reports a tensor of 2^63 elements or more.
    pub(super) fn limit(&mut self, shape: &[Size], span: Span) -> bool {
        let constants = shape.iter().filter_map(Size::as_const);
        // Eight bytes an element must be addressable.
        let bytes = constants.filter(|n| *n != 0).try_fold(8i64, i64::checked_mul);
        if bytes.is_none() {
            self.wrong("E0702", "a tensor is too large: its bytes do not fit in 63 bits", span, format!("{} elements", shape_text(shape)));
        }
        bytes.is_some()
    }

    /// A value as a tensor of this element type, for a parameter, a result or a place that `what` names; meanings are compared.
    pub(super) fn fit(&mut self, b: &Body, value: Value, dtype: DType, meaning: &Meaning, span: Span, what: &str) -> Option<Expr> {
        let e = match value {
            Value::Poison => return None,
            Value::Static(Static::Text(_)) | Value::Tuple(_) | Value::List(_) | Value::Function(_) => {
                self.wrong("E0505", format!("{what} is a tensor"), span, format!("this is {}", value.describe()));
                return None;
            }
            Value::Static(s) => constant(&s, span),
            Value::Tensor(e) => e,
            Value::Element(_) => {
                let d = Diagnostic::error("E0321", format!("{what} is a whole tensor, not one element"), span, "one element");
                self.report(d.note("inside index notation only functions of single numbers can be called"));
                return None;
            }
        };
        let ty = e.ty().clone();
        let literal = ty.shape.is_empty() && matches!(e.kind, ExprKind::Const(_) | ExprKind::Size(_));
        let numbers = ty.dtype != DType::Bool && dtype != DType::Bool;
        let adapts = ty.shape.is_empty() && numbers && (ty.dtype == DType::F64 && dtype.is_float() || literal && dtype.is_float())
            || ty.shape.is_empty() && dtype == DType::F64 && *meaning == Meaning::Plain && numbers;
        if ty.dtype != dtype && !adapts {
            let needs = match meaning {
                Meaning::Class(_) => "needs classes".into(),
                Meaning::Token(_) => "needs words".into(),
                _ => format!("needs {dtype} elements"),
            };
            let d = Diagnostic::error("E0405", format!("{what} {needs}, but this has {} elements", ty.dtype), span, format!("this is {ty}"));
            let d = match (ty.dtype, dtype) {
                _ if matches!(meaning, Meaning::Class(_)) => d.note("a column of classes says so: `y = table.column(\"kind\"): class<3>`"),
                (DType::Bool | DType::I64, t) if t.is_float() => d.note("convert with `real(x)`; classes become vectors with `one_hot(x, n)`"),
                _ => d.note(format!("convert with `{}(x)`", if dtype == DType::I64 { "int" } else { "real" })),
            };
            let d = self.made_at(d, b, &e);
            self.report(d);
            return None;
        }
        self.meanings(b, &e, &ty.meaning, meaning, span, what).then(|| cast_expr(e, dtype))
    }

    /// Labels where the value was made.
    pub(super) fn made_at(&self, d: Diagnostic, b: &Body, e: &Expr) -> Diagnostic {
        match e.kind {
            ExprKind::Local(l) => {
                let (name, ty, at) = &b.locals[l.0 as usize];
                d.label(*at, format!("`{name}` is {ty} from here"))
            }
            ExprKind::Weight(w) => {
                let w = &b.weights[w.0 as usize];
                d.label(w.span, format!("`{}` is {} from here", w.path, w.ty))
            }
            _ => d,
        }
    }

    fn meanings(&mut self, b: &Body, e: &Expr, given: &Meaning, wanted: &Meaning, span: Span, what: &str) -> bool {
        use Meaning::*;
        let (message, note) = match (wanted, given) {
            (Plain | Mask, _) | (_, Plain) => return true,
            (Logits, Logits) | (Probs, Probs) | (LogProbs, LogProbs) => return true,
            (Class(a), Class(c)) if a == c => return true,
            (Token(a), Token(c)) if a == c => return true,
            (Class(a), Class(c)) => (format!("{what} has {a} classes, but this has {c}"), "classes of one kind have one number"),
            (Token(a), Token(c)) => (format!("{what} has {a} words, but this has {c}"), "words of one vocabulary have one number"),
            (Class(_), Token(_)) => (format!("{what} takes classes, but this is words"), "a word is no class; convert on purpose with `int(x)`"),
            (Token(_), Class(_)) => (format!("{what} takes words, but this is classes"), "a class is no word; convert on purpose with `int(x)`"),
            (Logits, Probs) => (format!("{what} takes scores before softmax, but this is probabilities"), "softmax is applied inside"),
            (Logits, LogProbs) => {
                (format!("{what} takes scores before softmax, but this is logarithms of probabilities"), "softmax is applied inside")
            }
            (Probs, Logits) => (format!("{what} takes probabilities, but this is scores"), "apply `softmax` first"),
            (Probs, LogProbs) => {
                (format!("{what} takes probabilities, but this is their logarithms"), "apply `exp`, or use `softmax` instead of `log_softmax`")
            }
            (LogProbs, Logits) => (format!("{what} takes logarithms of probabilities, but this is scores"), "apply `log_softmax` first"),
            (LogProbs, Probs) => {
                (format!("{what} takes logarithms of probabilities, but this is probabilities"), "use `log_softmax` instead of `softmax`")
            }
            (_, _) => (format!("{what} takes another kind of value"), "see what it stands for"),
        };
        let mut d = Diagnostic::error("E0402", message, span, format!("this is {}", e.ty())).note(note);
        d = self.made_at(d, b, e);
        if matches!((wanted, given), (Logits, Probs | LogProbs))
            && let Some(fix) = self.dropped(b, e, span)
        {
            d = d.label(fix.span, "made here");
            if fix.span.file != span.file || fix.span.start < span.start || fix.span.end > span.end {
                d = d.note("a function without its softmax gives `logits[...]`");
            }
            d.fix = Some(fix);
        }
        self.report(d);
        false
    }

    /// The edit that drops the softmax that made `e`.
    fn dropped(&self, b: &Body, e: &Expr, span: Span) -> Option<Fix> {
        let inside = |outer: Span, f: &&Fix| f.span.file == outer.file && f.span.start >= outer.start && f.span.end <= outer.end;
        if let Some(fix) = self.softmaxes.iter().rfind(|f| inside(span, f)) {
            return Some(fix.clone());
        }
        let within = |id: InstanceId| {
            let body = self.instance(id).span;
            self.softmaxes.iter().rfind(|f| inside(body, f)).cloned()
        };
        if let ExprKind::Call { instance, .. } = &e.kind {
            return within(*instance);
        }
        let ExprKind::Local(l) = e.kind else { return None };
        let stmt = b.stmts.iter().find_map(|s| match s {
            Stmt::Let { targets, value, span } if targets.contains(&l) => Some((value, *span)),
            _ => None,
        })?;
        if let Some(fix) = self.softmaxes.iter().rfind(|f| inside(stmt.1, f)) {
            return Some(fix.clone());
        }
        match &stmt.0.kind {
            ExprKind::Call { instance, .. } => within(*instance),
            _ => None,
        }
    }
}
