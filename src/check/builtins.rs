//! The tensor functions that the language has built in, as a list.

use crate::check::Checker;
use crate::check::arithmetic::{ELEMENTWISE, constant};
use crate::check::calls::Given;
use crate::check::elements::FOLDS;
use crate::check::typed::*;
use crate::check::value::*;
use crate::diagnostic::Diagnostic;
use crate::ir::{DType, Scalar, ScalarOp, Size};
use crate::span::Span;

/// What a builtin is called with.
pub struct Call<'a> {
    /// Arguments without names, in order.
    pub plain: Vec<Given>,
    /// Arguments with names, each among the builtin's.
    pub named: Vec<Given>,
    /// The builtin.
    pub builtin: &'a Builtin,
    /// The call.
    pub span: Span,
}

/// A built-in function.
pub struct Builtin {
    /// Its name.
    pub name: &'static str,
    /// How it is called, and what it gives.
    pub about: &'static str,
    /// Least and greatest number of plain arguments.
    pub arity: (usize, usize),
    /// Names that arguments may have.
    pub names: &'static [&'static str],
    run: fn(&mut Checker, &mut Body, Call) -> Value,
}

const MANY: usize = usize::MAX;

/// All of them.
pub const LIST: &[Builtin] = &[
    Builtin { name: "zeros", about: "zeros(sizes..): 0 everywhere", arity: (0, MANY), names: &[], run: |c, b, a| c.filled(b, a, 0) },
    Builtin { name: "ones", about: "ones(sizes..): 1 everywhere", arity: (0, MANY), names: &[], run: |c, b, a| c.filled(b, a, 1) },
    Builtin { name: "full", about: "full(value, sizes..): the value everywhere", arity: (1, MANY), names: &[], run: |c, b, a| c.full(b, a) },
    Builtin { name: "zeros_like", about: "zeros_like(x): 0 in the shape of x", arity: (1, 1), names: &[], run: |c, b, a| c.filled_like(b, a, 0) },
    Builtin { name: "ones_like", about: "ones_like(x): 1 in the shape of x", arity: (1, 1), names: &[], run: |c, b, a| c.filled_like(b, a, 1) },
    Builtin {
        name: "stop_gradient",
        about: "stop_gradient(x): x, with derivative 0",
        arity: (1, 1),
        names: &[],
        run: |c, b, a| c.stop_gradient(b, a),
    },
    Builtin {
        name: "split",
        about: "split(x, n, axis: -1) or split(x, [a, b], axis: -1): parts along an axis",
        arity: (2, 2),
        names: &["axis"],
        run: |c, b, a| c.split(b, a),
    },
    Builtin {
        name: "concat",
        about: "concat(a, b, .., axis: 0): one behind the other",
        arity: (1, MANY),
        names: &["axis"],
        run: |c, b, a| c.concat(b, a),
    },
    Builtin { name: "positions", about: "positions(T): 0, 1, .., T - 1", arity: (1, 1), names: &[], run: |c, b, a| c.positions(b, a) },
    Builtin { name: "size", about: "size(x): the number of elements", arity: (1, 1), names: &[], run: |c, b, a| c.element_count(b, a) },
    Builtin { name: "rank", about: "rank(x): the number of axes", arity: (1, 1), names: &[], run: |c, b, a| c.rank(b, a) },
    Builtin {
        name: "reshape",
        about: "reshape(x, sizes..): adjacent axes split or merged",
        arity: (1, MANY),
        names: &[],
        run: |c, b, a| c.reshape(b, a),
    },
    Builtin {
        name: "write",
        about: "write(base, piece, start..): base with piece at start",
        arity: (3, MANY),
        names: &[],
        run: |c, b, a| c.write(b, a),
    },
    Builtin {
        name: "place",
        about: "place(fill, sizes, (piece, [starts], [strides])..): pieces over a fill",
        arity: (3, MANY),
        names: &[],
        run: |c, b, a| c.place(b, a),
    },
    Builtin {
        name: "sort",
        about: "sort(x, descending: false): values along the last axis, and their positions",
        arity: (1, 1),
        names: &["descending"],
        run: |c, b, a| c.sort(b, a),
    },
    Builtin {
        name: "random",
        about: "random(): uniform in [0, 1), of one element or of sizes",
        arity: (0, MANY),
        names: &[],
        run: |c, b, a| c.random(b, a),
    },
    Builtin { name: "grad", about: "grad(e, wrt: x): derivative of a single number", arity: (1, 1), names: &["wrt"], run: |c, b, a| c.grad(b, a) },
    Builtin {
        name: "repeat",
        about: "repeat(x, n, Block, args.., name: \"h\"): the block n times, each with weights of its own",
        arity: (3, MANY),
        names: &["name"],
        run: |c, b, a| c.repeat(b, a),
    },
];

/// The builtin with this name.
pub fn find(name: &str) -> Option<&'static Builtin> {
    LIST.iter().find(|b| b.name == name)
}

/// Whether the language itself has a function of this name: a builtin, an operation, a conversion or a fold.
pub fn is_taken(name: &str) -> bool {
    find(name).is_some() || ELEMENTWISE.iter().any(|(n, _)| *n == name) || FOLDS.contains(&name) || ["real", "int", "f32", "f64"].contains(&name)
}

/// Calls a builtin.
pub fn call(c: &mut Checker, b: &mut Body, builtin: &'static Builtin, given: Vec<Given>, span: Span) -> Value {
    let (mut plain, mut named) = (vec![], vec![]);
    for g in given {
        match &g.name {
            None => match g.value {
                // `...` among sizes.
                Value::List(parts) if builtin.name != "split" && builtin.name != "place" => {
                    plain.extend(parts.into_iter().map(|value| Given { name: None, value, span: g.span }));
                }
                value => plain.push(Given { name: None, value, span: g.span }),
            },
            Some(n) if builtin.names.contains(&&*n.name) || builtin.name == "repeat" => named.push(g),
            Some(n) => return c.unknown("E0501", &format!("`{}` has no parameter:", builtin.name), &n.name, n.span, builtin.names),
        }
    }
    if plain.iter().chain(&named).any(|g| matches!(g.value, Value::Poison)) {
        return Value::Poison;
    }
    if plain.len() < builtin.arity.0 || plain.len() > builtin.arity.1 {
        let d = Diagnostic::error("E0502", format!("`{}` is not called like this", builtin.name), span, format!("{} arguments", plain.len()));
        c.report(d.note(builtin.about));
        return Value::Poison;
    }
    (builtin.run)(c, b, Call { plain, named, builtin, span })
}

impl Call<'_> {
    /// The first plain argument, as a value.
    pub fn first(&self) -> &Given {
        &self.plain[0]
    }

    /// A named argument.
    pub fn get(&self, name: &str) -> Option<&Given> {
        self.named.iter().find(|g| g.name.as_ref().is_some_and(|n| &*n.name == name))
    }
}

impl Checker<'_> {
    /// The argument as a tensor.
    pub(super) fn tensor(&mut self, g: &Given, what: &str) -> Option<Expr> {
        match &g.value {
            Value::Tensor(e) => Some(e.clone()),
            Value::Static(s @ (Static::Int(_) | Static::Float(_) | Static::Bool(_))) => Some(constant(s, g.span)),
            Value::Poison => None,
            other => {
                self.wrong("E0505", format!("`{what}` takes a tensor"), g.span, format!("this is {}", other.describe()));
                None
            }
        }
    }

    fn sizes(&mut self, given: &[Given]) -> Option<Vec<Size>> {
        let mut out = vec![];
        for g in given {
            out.push(self.as_size(g.value.clone(), g.span)?);
        }
        Some(out)
    }

    /// The same element everywhere.
    pub(super) fn constant_tensor(&mut self, b: &mut Body, shape: Vec<Size>, element: Element, dtype: DType, span: Span) -> Value {
        if !self.limit(&shape, span) {
            return Value::Poison;
        }
        let vars: Vec<(IndexVar, Size)> = shape.iter().map(|s| (b.var(), s.clone())).collect();
        let groups = vec![1; vars.len()];
        Value::Tensor(Expr::one(ExprKind::Comprehension { vars, groups, element }, Type::plain(dtype, shape), span))
    }

    fn filled(&mut self, b: &mut Body, a: Call, n: i64) -> Value {
        if b.initial {
            return Value::int(n);
        }
        let Some(shape) = self.sizes(&a.plain) else { return Value::Poison };
        let real = b.real;
        self.constant_tensor(b, shape, Element::Const(Scalar::float(real, n as f64)), real, a.span)
    }

    fn full(&mut self, b: &mut Body, a: Call) -> Value {
        if b.initial {
            return a.first().value.clone();
        }
        let Some(shape) = self.sizes(&a.plain[1..]) else { return Value::Poison };
        let real = b.real;
        let Some(e) = self.fit(b, a.first().value.clone(), real, &Meaning::Plain, a.first().span, "the value of `full`") else {
            return Value::Poison;
        };
        let e = b.hoist("_", e);
        match self.as_element(&e, a.span) {
            Some(n) => self.constant_tensor(b, shape, n.element, real, a.span),
            None => Value::Poison,
        }
    }

    fn filled_like(&mut self, b: &mut Body, a: Call, n: i64) -> Value {
        if b.initial {
            return Value::int(n);
        }
        let Some(e) = self.tensor(a.first(), a.builtin.name) else { return Value::Poison };
        let (dtype, shape) = (e.ty().dtype, e.ty().shape.clone());
        self.constant_tensor(b, shape, Element::Const(Scalar::float(dtype, n as f64)), dtype, a.span)
    }

    fn stop_gradient(&mut self, b: &mut Body, a: Call) -> Value {
        match a.first().value.clone() {
            Value::Tensor(e) if b.elements.is_empty() => {
                let ty = e.ty().clone();
                if !ty.dtype.is_float() {
                    return Value::Tensor(e);
                }
                Value::Tensor(Expr::one(ExprKind::StopGradient(Box::new(e)), ty, a.span))
            }
            Value::Tensor(e) => match self.as_element(&e, a.span) {
                Some(mut n) => {
                    stop_loads(&mut n.element);
                    Value::Element(n)
                }
                None => Value::Poison,
            },
            // Nothing flows into an element but through its loads.
            Value::Element(mut n) => {
                stop_loads(&mut n.element);
                Value::Element(n)
            }
            other => other,
        }
    }

    /// Where `axis:` points, counted from the front.
    fn axis(&mut self, a: &Call, rank: usize, default: i64) -> Option<usize> {
        let (n, span) = match a.get("axis") {
            None => (default, a.span),
            Some(g) => match &g.value {
                Value::Static(Static::Int(s)) => (self.constant_size(s, g.span, "an axis")?, g.span),
                other => {
                    self.wrong("E0506", "`axis` is a whole number", g.span, format!("this is {}", other.describe()));
                    return None;
                }
            },
        };
        let at = if n < 0 { n + rank as i64 } else { n };
        if at < 0 || at >= rank as i64 {
            self.wrong("E0308", format!("there is no axis {n}"), span, format!("the tensor has {rank} axes"));
            return None;
        }
        usize::try_from(at).ok()
    }

    fn split(&mut self, b: &mut Body, a: Call) -> Value {
        let Some(e) = self.tensor(a.first(), "split") else { return Value::Poison };
        let e = b.hoist("_", e);
        let shape = e.ty().shape.clone();
        let Some(axis) = self.axis(&a, shape.len(), -1) else { return Value::Poison };
        let by = &a.plain[1];
        let sizes = match &by.value {
            Value::Static(Static::Int(n)) => {
                let Some(n) = self.constant_size(n, by.span, "the number of parts") else { return Value::Poison };
                if n <= 0 || n > 10_000 {
                    return self.wrong("E0306", "the number of parts is between 1 and 10000", by.span, format!("this is {n}"));
                }
                let n_size = Size::constant(n);
                if shape[axis].modulo(&n_size).and_then(|m| m.as_const()) != Some(0) {
                    let message = format!("an axis of {} cannot be split into {n} equal parts", shape[axis]);
                    let d = Diagnostic::error("E0313", message, by.span, format!("{n} parts")).label(a.first().span, format!("this is {}", e.ty()));
                    let d = self.made_at(d, b, &e);
                    self.report(d);
                    return Value::Poison;
                }
                vec![shape[axis].div(&n_size).unwrap_or_default(); n as usize]
            }
            Value::List(parts) => {
                let given: Vec<Given> = parts.iter().map(|v| Given { name: None, value: v.clone(), span: by.span }).collect();
                let Some(sizes) = self.sizes(&given) else { return Value::Poison };
                let sum = sizes.iter().try_fold(Size::default(), |s, x| s.checked_add(x));
                if sum.as_ref() != Some(&shape[axis]) {
                    let message = format!("the parts have {} elements together, but the axis has {}", sum.unwrap_or_default(), shape[axis]);
                    return self.wrong("E0313", message, by.span, "these sizes");
                }
                sizes
            }
            other => {
                return self.wrong("E0506", "`split` takes a number of parts or a list of sizes", by.span, format!("this is {}", other.describe()));
            }
        };
        let mut start = Size::default();
        let mut parts = vec![];
        for size in sizes {
            let vars: Vec<(IndexVar, Size)> =
                shape.iter().enumerate().map(|(k, s)| (b.var(), if k == axis { size.clone() } else { s.clone() })).collect();
            let indices = vars.iter().enumerate().map(|(k, (v, _))| match (k == axis, start.as_const()) {
                (true, n) if n != Some(0) => {
                    let offset = n.map_or_else(|| Element::Size(start.clone()), |n| Element::Const(Scalar::i64(n)));
                    Element::Op(ScalarOp::Add, vec![Element::Index(*v), offset])
                }
                _ => Element::Index(*v),
            });
            let indices: Vec<Element> = indices.collect();
            let element = Element::Load { tensor: Box::new(e.clone()), indices, otherwise: None, span: a.span };
            let ty = Type { shape: vars.iter().map(|(_, s)| s.clone()).collect(), ..e.ty().clone() };
            let groups = vec![1; vars.len()];
            parts.push((None, Value::Tensor(Expr::one(ExprKind::Comprehension { vars, groups, element }, ty, a.span))));
            start = start.checked_add(&size).unwrap_or_default();
        }
        Value::Tuple(parts)
    }

    fn concat(&mut self, b: &mut Body, a: Call) -> Value {
        let mut parts: Vec<Expr> = vec![];
        for g in &a.plain {
            match self.tensor(g, "concat") {
                Some(e) => parts.push(e),
                None => return Value::Poison,
            }
        }
        let first = parts[0].ty().clone();
        let Some(axis) = self.axis(&a, first.shape.len(), 0) else { return Value::Poison };
        let mut shape = first.shape.clone();
        for (k, (p, g)) in parts.iter().zip(&a.plain).enumerate().skip(1) {
            let ty = p.ty();
            let fits = ty.shape.len() == first.shape.len() && ty.shape.iter().zip(&first.shape).enumerate().all(|(i, (x, y))| i == axis || x == y);
            if !fits || ty.dtype != first.dtype {
                let message = format!("{first} and {ty} cannot be joined along axis {axis}");
                let d = Diagnostic::error("E0302", message, g.span, format!("this is {ty}")).label(a.plain[0].span, format!("this is {first}"));
                let d = self.made_at(d, b, p);
                self.report(d.note("all other axes must be equal"));
                return Value::Poison;
            }
            let _ = k;
            let Some(sum) = shape[axis].checked_add(&ty.shape[axis]) else {
                return self.wrong("E0701", "a number does not fit in 63 bits", a.span, "the joined axis");
            };
            shape[axis] = sum;
        }
        let ty = Type { shape, ..first };
        Value::Tensor(Expr::one(ExprKind::Concat { parts, axis }, ty, a.span))
    }

    fn positions(&mut self, b: &mut Body, a: Call) -> Value {
        let Some(size) = self.as_size(a.first().value.clone(), a.first().span) else { return Value::Poison };
        let v = b.var();
        let kind = ExprKind::Comprehension { vars: vec![(v, size.clone())], groups: vec![1], element: Element::Index(v) };
        Value::Tensor(Expr::one(kind, Type::plain(DType::I64, vec![size]), a.span))
    }

    fn element_count(&mut self, _b: &mut Body, a: Call) -> Value {
        let shape = Self::shape_of(&a.first().value);
        match shape.iter().try_fold(Size::constant(1), |s, x| s.checked_mul(x)) {
            Some(s) => Value::Static(Static::Int(s)),
            None => self.wrong("E0701", "a number does not fit in 63 bits", a.span, "the number of elements"),
        }
    }

    fn rank(&mut self, _b: &mut Body, a: Call) -> Value {
        Value::int(Self::shape_of(&a.first().value).len() as i64)
    }

    fn reshape(&mut self, b: &mut Body, a: Call) -> Value {
        let Some(e) = self.tensor(a.first(), "reshape") else { return Value::Poison };
        let Some(shape) = self.sizes(&a.plain[1..]) else { return Value::Poison };
        let product = |s: &[Size]| s.iter().try_fold(Size::constant(1), |s, x| s.checked_mul(x));
        let (from, to) = (product(&e.ty().shape), product(&shape));
        // Sizes that hold a division are equal only when the program runs; constants decide now.
        let differ = match (&from, &to) {
            (Some(x), Some(y)) => x != y && (self.at_most(x, y) == Some(false) || self.at_most(y, x) == Some(false) || !divides(x) && !divides(y)),
            _ => true,
        };
        if differ {
            let message = format!("{} cannot become {}: the numbers of elements differ", shape_text(&e.ty().shape), shape_text(&shape));
            let d = Diagnostic::error("E0314", message, a.span, format!("{} elements", to.map_or("too many".into(), |s| s.to_string())));
            let d = d.label(a.first().span, format!("{} elements", from.map_or("too many".into(), |s| s.to_string())));
            let d = self.made_at(d, b, &e);
            self.report(d);
            return Value::Poison;
        }
        let ty = Type { shape, ..e.ty().clone() };
        Value::Tensor(Expr::one(ExprKind::Reshape(Box::new(e)), ty, a.span))
    }

    fn random(&mut self, b: &mut Body, a: Call) -> Value {
        let (site, dtype) = (b.site(), b.real);
        b.random = true;
        let element = Element::Random { site, dtype };
        if !b.elements.is_empty() {
            return Value::Element(Num { element, dtype, weak: false, named: false });
        }
        let Some(shape) = self.sizes(&a.plain) else { return Value::Poison };
        self.constant_tensor(b, shape, element, dtype, a.span)
    }
}

/// Whether a division is part of the size.
fn divides(s: &Size) -> bool {
    s.terms().iter().flat_map(|(atoms, _)| atoms).any(|a| !matches!(a, nnc_runtime::size::Atom::Dim(_)))
}

/// Puts `stop_gradient` around what is loaded.
fn stop_loads(e: &mut Element) {
    match e {
        Element::Const(_) | Element::Size(_) | Element::Index(_) | Element::Random { .. } => {}
        Element::Load { tensor, indices, .. } => {
            indices.iter_mut().for_each(stop_loads);
            if tensor.ty().dtype.is_float() && !matches!(tensor.kind, ExprKind::StopGradient(_)) {
                let (ty, span) = (tensor.ty().clone(), tensor.span);
                let inner = std::mem::replace(&mut **tensor, Expr::constant(Scalar::bool(false), span));
                **tensor = Expr::one(ExprKind::StopGradient(Box::new(inner)), ty, span);
            }
        }
        Element::Fold { condition, body, .. } => {
            if let Some(c) = condition {
                stop_loads(c);
            }
            stop_loads(body);
        }
        Element::Op(_, args) => args.iter_mut().for_each(stop_loads),
        Element::Cast(_, a) => stop_loads(a),
    }
}
