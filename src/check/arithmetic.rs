//! Operations on values: folded where known, else typed with the casts put in. Shapes must be equal but for missing leading axes.

use crate::check::Checker;
use crate::check::typed::*;
use crate::check::value::*;
use crate::diagnostic::Diagnostic;
use crate::ir::{DType, Scalar, ScalarOp, Size};
use crate::span::Span;

/// The elementwise functions that the language has built in.
pub const ELEMENTWISE: &[(&str, ScalarOp)] = &[
    ("exp", ScalarOp::Exp),
    ("expm1", ScalarOp::Expm1),
    ("log", ScalarOp::Log),
    ("log1p", ScalarOp::Log1p),
    ("sqrt", ScalarOp::Sqrt),
    ("abs", ScalarOp::Abs),
    ("sign", ScalarOp::Sign),
    ("sin", ScalarOp::Sin),
    ("cos", ScalarOp::Cos),
    ("atan", ScalarOp::Atan),
    ("tanh", ScalarOp::Tanh),
    ("sigmoid", ScalarOp::Sigmoid),
    ("erf", ScalarOp::Erf),
    ("floor", ScalarOp::Floor),
    ("ceil", ScalarOp::Ceil),
    ("round", ScalarOp::Round),
    ("maximum", ScalarOp::Max),
    ("minimum", ScalarOp::Min),
    ("max", ScalarOp::Max),
    ("min", ScalarOp::Min),
    ("pow", ScalarOp::Pow),
    ("div", ScalarOp::FloorDiv),
    ("mod", ScalarOp::Mod),
    ("select", ScalarOp::Select),
];

/// What operands of an operation must be.
#[derive(Clone, Copy, PartialEq)]
enum Class {
    /// Numbers of one type.
    Numbers,
    /// Floats.
    Floats,
    /// Whole numbers, or floats.
    Whole,
    /// Truth values.
    Truth,
    /// Anything of one type.
    Same,
}

fn class(op: ScalarOp) -> Class {
    use ScalarOp::*;
    match op {
        Neg | Abs | Sign | Add | Sub | Mul | Max | Min | Mod | Lt | Le => Class::Numbers,
        Sqrt | Exp | Expm1 | Log | Log1p | Sin | Cos | Atan | Tanh | Sigmoid | Erf | Floor | Ceil | Round | Div | Pow | Fma => Class::Floats,
        FloorDiv | FoldKey | Uniform => Class::Whole,
        Not | And | Or => Class::Truth,
        Eq | Ne | Select => Class::Same,
    }
}

const NAMES_ARE_NO_QUANTITIES: &str = "a class is a name, not a quantity; `one_hot(x, n)` makes a vector of it, `real(x)` its number";

/// Whether the operation may be applied to classes and tokens: it compares or chooses.
fn keeps_names(op: ScalarOp) -> bool {
    use ScalarOp::*;
    matches!(op, Eq | Ne | Lt | Le | Max | Min | Select)
}

impl Checker<'_> {
    /// `op(args)`.
    pub(super) fn op(&mut self, b: &mut Body, op: ScalarOp, args: Vec<Value>, span: Span) -> Value {
        if args.iter().any(|a| matches!(a, Value::Poison)) {
            return Value::Poison;
        }
        for a in &args {
            if matches!(a, Value::Tuple(_) | Value::List(_) | Value::Function(_) | Value::Static(Static::Text(_))) {
                return self.wrong("E0306", format!("`{}` needs numbers", op.name()), span, format!("got {}", a.describe()));
            }
        }
        if args.iter().all(|a| matches!(a, Value::Static(_))) {
            let statics: Vec<Static> = args.iter().filter_map(|a| if let Value::Static(s) = a { Some(s.clone()) } else { None }).collect();
            match self.fold(op, &statics, span) {
                Some(value) => return value,
                None => {
                    // Known only when the program runs: a formula in free dims.
                    let args = args.into_iter().map(|a| self.tensor_of(b, a, span)).collect();
                    return self.dynamic(b, op, args, span);
                }
            }
        }
        if op == ScalarOp::Select
            && let Value::Static(Static::Bool(c)) = &args[0]
        {
            return args[if *c { 1 } else { 2 }].clone();
        }
        self.dynamic(b, op, args, span)
    }

    /// Refuses to calculate with names.
    pub(super) fn no_quantity(&mut self, what: &str, span: Span, label: impl Into<String>) -> Value {
        let d = Diagnostic::error("E0408", format!("`{what}` calculates with classes"), span, label);
        self.report(d.note(NAMES_ARE_NO_QUANTITIES));
        Value::Poison
    }

    /// The static value as a rank-0 tensor, or as an element inside comprehensions.
    fn tensor_of(&mut self, b: &Body, value: Value, span: Span) -> Value {
        let Value::Static(s) = value else { return value };
        if b.elements.is_empty() { Value::Tensor(constant(&s, span)) } else { Value::Element(number(&s)) }
    }

    fn dynamic(&mut self, b: &mut Body, op: ScalarOp, mut args: Vec<Value>, span: Span) -> Value {
        let element = !b.elements.is_empty();
        // Of each: type, whether it adapts.
        let mut types = Vec::new();
        for a in &mut args {
            types.push(match a {
                Value::Static(Static::Int(_)) => (DType::I64, true),
                Value::Static(Static::Float(_)) => (DType::F64, true),
                Value::Static(Static::Bool(_)) => (DType::Bool, true),
                Value::Tensor(e) if element => {
                    let Some(n) = self.as_element(e, span) else { return Value::Poison };
                    let t = (n.dtype, n.weak);
                    *a = Value::Element(n);
                    t
                }
                Value::Tensor(e) => {
                    let t = e.ty();
                    (t.dtype, t.shape.is_empty() && t.dtype != DType::F32)
                }
                Value::Element(n) if element => (n.dtype, n.weak),
                Value::Element(_) => {
                    return self.wrong("E0321", "an index is used outside its comprehension", span, "here whole tensors are computed");
                }
                other => return self.wrong("E0306", format!("`{}` needs numbers", op.name()), span, format!("got {}", other.describe())),
            });
        }
        let op_class = class(op);
        let from = usize::from(op == ScalarOp::Select);
        if from == 1 && types[0].0 != DType::Bool {
            let d = Diagnostic::error("E0407", "a condition is needed", span, format!("it is {}", types[0].0));
            self.report(d.note("compare with something: `if x > 0 then a else b`"));
            return Value::Poison;
        }
        let Some((mut dtype, mut weak)) = self.meet(op, &types[from..], op_class, &args[from..], span) else { return Value::Poison };
        let named = args[from..].iter().find_map(|a| match a {
            Value::Tensor(e) if e.ty().named() => Some(a.describe()),
            Value::Element(n) if n.named => Some("a class or a token".into()),
            _ => None,
        });
        if let (Some(what), false) = (&named, keeps_names(op)) {
            return self.no_quantity(op.name(), span, format!("this is {what}"));
        }
        let mut op = op;
        if op == ScalarOp::FloorDiv && dtype.is_float() {
            // floor(a / b)
            let quotient = self.op(b, ScalarOp::Div, args, span);
            return self.op(b, ScalarOp::Floor, vec![quotient], span);
        }
        if op_class == Class::Floats && dtype == DType::I64 {
            if matches!(op, ScalarOp::Floor | ScalarOp::Ceil | ScalarOp::Round) {
                return args.remove(0);
            }
            (dtype, weak) = (DType::F64, true);
        }
        if dtype == DType::Bool && matches!(op, ScalarOp::Max | ScalarOp::Min) {
            op = if op == ScalarOp::Max { ScalarOp::Or } else { ScalarOp::And };
        }
        let truth = matches!(op, ScalarOp::Eq | ScalarOp::Ne | ScalarOp::Lt | ScalarOp::Le);
        let result = if truth { DType::Bool } else { dtype };
        if element {
            let elements = args.into_iter().enumerate().map(|(i, a)| to_element(a, if i < from { DType::Bool } else { dtype })).collect();
            return Value::Element(Num { element: Element::Op(op, elements), dtype: result, weak: weak && !truth, named: named.is_some() && !truth });
        }
        let mut shape: Vec<Size> = vec![];
        let mut owner: Option<Span> = None;
        for a in &args {
            let Value::Tensor(e) = a else { continue };
            let other = &e.ty().shape;
            let (long, short) = if other.len() > shape.len() { (other, &shape) } else { (&shape, other) };
            if long[long.len() - short.len()..] != short[..] {
                let (a, c) = (shape_text(&shape), shape_text(other));
                let d = Diagnostic::error(
                    "E0302",
                    format!("the shapes {a} and {c} do not fit together"),
                    span,
                    format!("`{}` needs equal shapes", op.name()),
                );
                let d = d.label(owner.unwrap_or(span), format!("this is {a}")).label(e.span, format!("this is {c}"));
                let d = self.origin(d, b, args.iter());
                self.report(d.note("only scalars and missing leading axes are repeated; use index notation for anything else"));
                return Value::Poison;
            }
            if other.len() >= shape.len() {
                shape = other.clone();
                owner = Some(e.span);
            }
        }
        let operands = args.into_iter().enumerate().map(|(i, a)| to_tensor(a, if i < from { DType::Bool } else { dtype }, span)).collect();
        Value::Tensor(Expr::one(ExprKind::Op(op, operands), Type::plain(result, shape), span))
    }

    /// Labels where the locals among `values` were bound.
    fn origin<'v>(&self, mut d: Diagnostic, b: &Body, values: impl Iterator<Item = &'v Value>) -> Diagnostic {
        for v in values {
            if let Value::Tensor(Expr { kind: ExprKind::Local(l), .. }) = v {
                let (name, ty, at) = &b.locals[l.0 as usize];
                if !d.labels.iter().any(|(s, _)| s == at) {
                    d = d.label(*at, format!("`{name}` is {ty} from here"));
                }
            }
        }
        d
    }

    /// The type in which operands of these types are computed, and whether the result adapts further.
    fn meet(&mut self, op: ScalarOp, types: &[(DType, bool)], class: Class, args: &[Value], span: Span) -> Option<(DType, bool)> {
        let bad = types.iter().position(|(t, _)| match class {
            Class::Truth => *t != DType::Bool,
            Class::Numbers | Class::Floats | Class::Whole => *t == DType::Bool && !matches!(op, ScalarOp::Max | ScalarOp::Min),
            Class::Same => false,
        });
        if let Some(i) = bad {
            let (what, hint) = match class {
                Class::Truth => ("truth values", "compare first: `x > 0`"),
                Class::Numbers | Class::Floats | Class::Whole | Class::Same => ("numbers", "convert with `real(...)`"),
            };
            let d = Diagnostic::error("E0407", format!("`{}` works on {what}", op.name()), span, format!("this is {}", args[i].describe()));
            self.report(d.note(hint));
            return None;
        }
        let (mut dtype, mut weak) = types[0];
        for &(t, w) in &types[1..] {
            (dtype, weak) = match (dtype, t) {
                (a, c) if a == c => (a, weak && w),
                (DType::I64, f) if f.is_float() && (weak || op == ScalarOp::Div) => (f, w),
                (f, DType::I64) if f.is_float() && (w || op == ScalarOp::Div) => (f, weak),
                (a, c) if a.is_float() && c.is_float() && weak != w => (if weak { c } else { a }, false),
                (DType::I64, DType::F64) if w && op == ScalarOp::Pow => (DType::F64, true),
                (a, c) => {
                    let mut d = Diagnostic::error("E0406", format!("`{}` mixes {a} and {c}", op.name()), span, "operands of two types");
                    for v in args {
                        if let Value::Tensor(e) = v {
                            d = d.label(e.span, format!("this is {}", e.ty()));
                        }
                    }
                    let class = |v: &Value| matches!(v, Value::Tensor(e) if e.ty().named());
                    self.report(if args.iter().any(class) {
                        d.note(NAMES_ARE_NO_QUANTITIES)
                    } else {
                        d.note("convert one of them: `real(x)` or `int(x)`")
                    });
                    return None;
                }
            };
        }
        Some((dtype, weak))
    }

    /// A rank-0 tensor as an element.
    pub(super) fn as_element(&mut self, e: &Expr, span: Span) -> Option<Num> {
        let ty = e.ty();
        if !ty.shape.is_empty() {
            let blanks = vec!["i"; ty.shape.len()].join(", ");
            let d = Diagnostic::error("E0322", "a whole tensor stands where one element is needed", e.span, format!("this is {ty}"));
            self.report(d.note(format!("index it: it has {} axes, as `x[{blanks}]` has", ty.shape.len())));
            return None;
        }
        if let ExprKind::Const(c) = e.kind {
            return Some(Num { element: Element::Const(c), dtype: c.dtype(), weak: c.dtype() != DType::F32, named: false });
        }
        let element = Element::Load { tensor: Box::new(e.clone()), indices: vec![], otherwise: None, span };
        Some(Num { element, dtype: ty.dtype, weak: ty.dtype != DType::F32, named: ty.named() })
    }

    /// A conversion: `real(x)`, `int(x)`.
    pub(super) fn cast(&mut self, b: &mut Body, to: DType, value: Value, span: Span) -> Value {
        match value {
            Value::Poison => Value::Poison,
            Value::Static(s) => match (s.number(), to) {
                (Some(x), DType::I64) => Value::int(x as i64),
                (Some(x), DType::F32 | DType::F64) => Value::Static(Static::Float(x)),
                _ if matches!((&s, to), (Static::Int(_), DType::I64)) => Value::Static(s),
                _ => {
                    if let Static::Text(_) = s {
                        return self.wrong("E0306", "text is no number", span, "here");
                    }
                    let value = self.tensor_of(b, Value::Static(s), span);
                    self.cast(b, to, value, span)
                }
            },
            Value::Tensor(e) if !b.elements.is_empty() => match self.as_element(&e, span) {
                Some(n) => self.cast(b, to, Value::Element(n), span),
                None => Value::Poison,
            },
            Value::Tensor(e) => {
                let mut e = cast_expr(e, to);
                // A conversion on purpose takes away what the numbers stand for, also where their type stays.
                e.types[0].meaning = Meaning::Plain;
                Value::Tensor(e)
            }
            Value::Element(n) => Value::Element(Num { element: cast_element(n.element, n.dtype, to), dtype: to, weak: false, named: false }),
            other @ (Value::Tuple(_) | Value::List(_) | Value::Function(_)) => {
                self.wrong("E0306", "only numbers can be converted", span, format!("this is {}", other.describe()))
            }
        }
    }
}

/// The element as `to`; literals are rounded at once.
pub fn cast_element(element: Element, from: DType, to: DType) -> Element {
    match element {
        _ if from == to => element,
        Element::Const(c) => Element::Const(convert(c, to)),
        Element::Size(ref s) if s.as_const().is_some() => Element::Const(Scalar::float(to, s.as_const().unwrap_or(0) as f64)),
        other => Element::Cast(to, Box::new(other)),
    }
}

fn convert(c: Scalar, to: DType) -> Scalar {
    match (c.dtype(), to) {
        (a, t) if a == t => c,
        _ => Scalar::float(to, c.to_f64()),
    }
}

/// The tensor as `to`.
pub fn cast_expr(e: Expr, to: DType) -> Expr {
    let (span, ty) = (e.span, e.ty().clone());
    match e.kind {
        _ if ty.dtype == to => e,
        ExprKind::Const(c) => Expr::constant(convert(c, to), span),
        _ => Expr::one(ExprKind::Cast(to, Box::new(e)), Type::plain(to, ty.shape), span),
    }
}

/// A static value as a rank-0 tensor.
pub fn constant(s: &Static, span: Span) -> Expr {
    match s {
        Static::Int(size) => match size.as_const() {
            Some(n) => Expr::constant(Scalar::i64(n), span),
            None => Expr::one(ExprKind::Size(size.clone()), Type::plain(DType::I64, vec![]), span),
        },
        Static::Float(x) => Expr::constant(Scalar::f64(*x), span),
        Static::Bool(x) => Expr::constant(Scalar::bool(*x), span),
        Static::Text(_) => Expr::constant(Scalar::bool(false), span),
    }
}

/// A static value as an element.
pub fn number(s: &Static) -> Num {
    let (element, dtype) = match s {
        Static::Int(size) => match size.as_const() {
            Some(n) => (Element::Const(Scalar::i64(n)), DType::I64),
            None => (Element::Size(size.clone()), DType::I64),
        },
        Static::Float(x) => (Element::Const(Scalar::f64(*x)), DType::F64),
        Static::Bool(x) => (Element::Const(Scalar::bool(*x)), DType::Bool),
        Static::Text(_) => (Element::Const(Scalar::bool(false)), DType::Bool),
    };
    Num { element, dtype, weak: true, named: false }
}

fn to_element(value: Value, to: DType) -> Element {
    match value {
        Value::Element(n) => cast_element(n.element, n.dtype, to),
        Value::Static(s) => {
            let n = number(&s);
            cast_element(n.element, n.dtype, to)
        }
        other => panic!("no element: {other:?}"),
    }
}

fn to_tensor(value: Value, to: DType, span: Span) -> Expr {
    match value {
        Value::Tensor(e) => cast_expr(e, to),
        Value::Static(s) => cast_expr(constant(&s, span), to),
        other => panic!("no tensor: {other:?}"),
    }
}
