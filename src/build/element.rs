//! Comprehensions into normal form: one nest has one fold, at the root. Inner folds become nests of their own, over just the indices they
//! depend on, and are loaded.

use super::affine::{affine, conjuncts, guards, position};
use super::expr::is_constant;
use super::frame::{Body, Name};
use super::walk;
use crate::check::typed::{Element, FoldKind, IndexVar};
use crate::ir::{Affine, DType, Expr, Fold, Guard, Index, Nest, Scalar, ScalarOp, Size, Value, load_at};
use crate::span::Span;

/// The box of a nest under construction and the operands it loads from.
pub(super) struct Scope {
    /// Variables in the order of the box.
    pub vars: Vec<(IndexVar, Size)>,
    /// Operands so far.
    pub operands: Vec<Value>,
    /// The first operands, which expressions do not load.
    pub reserved: usize,
    /// The comprehension.
    pub span: Span,
}

impl Scope {
    /// A box without operands.
    pub fn new(vars: &[(IndexVar, Size)], span: Span) -> Scope {
        Scope { vars: vars.to_vec(), operands: vec![], reserved: 0, span }
    }

    /// The place of a variable in the box.
    pub fn place(&self, v: IndexVar) -> usize {
        self.vars.iter().position(|(u, _)| *u == v).unwrap_or_else(|| panic!("index {v:?} is not in scope of {:?}", self.vars))
    }

    /// The number of the operand `value`, added if new.
    pub fn operand(&mut self, value: Value) -> usize {
        let mut rest = self.operands.split_off(self.reserved);
        let k = operand(&mut rest, value);
        self.operands.extend(rest);
        self.reserved + k
    }

    fn sizes(&self) -> Vec<Size> {
        self.vars.iter().map(|(_, n)| n.clone()).collect()
    }
}

/// The number of the operand `value`, added if new.
pub(super) fn operand(operands: &mut Vec<Value>, value: Value) -> usize {
    operands.iter().position(|v| *v == value).unwrap_or_else(|| {
        operands.push(value);
        operands.len() - 1
    })
}

impl Body<'_> {
    /// The tensor over `vars` whose elements are `element`.
    pub fn comprehension(&mut self, vars: &[(IndexVar, Size)], element: &Element, span: Span) -> Value {
        if let Element::Fold { vars: reds, .. } = element
            && !reds.is_empty()
        {
            return self.fold(vars, element, span);
        }
        let mut scope = Scope::new(vars, span);
        let body = self.element(element, &mut scope);
        self.f().nest(Nest::map(scope.sizes(), body), scope.operands, span)
    }

    /// The scalar expression of an element in the box of `scope`.
    pub fn element(&mut self, e: &Element, scope: &mut Scope) -> Expr {
        if let Some(index) = affine(e, &|v| scope.place(v), &self.program.dims) {
            return index_value(index);
        }
        if let Some(guards) = guards(e, &|v| scope.place(v), &self.program.dims) {
            return if guards.is_empty() { Expr::Const(Scalar::bool(true)) } else { Expr::Holds(guards) };
        }
        match e {
            Element::Const(c) => Expr::Const(*c),
            Element::Size(_) | Element::Index(_) => panic!("{e:?} is affine"),
            Element::Load { tensor, indices, otherwise, .. } => {
                if tensor.types[0].shape.is_empty() && is_constant(tensor) {
                    return self.chain(tensor, 0, &mut vec![]);
                }
                let value = self.one(tensor);
                let index = indices.iter().map(|i| self.index(i, scope)).collect();
                Expr::Load { operand: scope.operand(value), index, otherwise: *otherwise }
            }
            Element::Fold { vars, .. } if !vars.is_empty() => {
                let mut used = vec![];
                let random = walk::mentions(e, &mut |v| used.push(v));
                let outs: Vec<_> = scope.vars.iter().filter(|(v, _)| random || used.contains(v)).cloned().collect();
                let value = self.fold(&outs, e, scope.span);
                let places: Vec<usize> = outs.iter().map(|(v, _)| scope.place(*v)).collect();
                load_at(scope.operand(value), places)
            }
            Element::Fold { fold: FoldKind::ArgMax | FoldKind::ArgMin, .. } => Expr::Const(Scalar::i64(0)),
            Element::Fold { fold, condition, body, .. } => {
                let body = self.element(body, scope);
                match condition {
                    None => body,
                    Some(condition) => {
                        let condition = self.element(condition, scope);
                        let identity = identity(*fold, self.dtype(&body, scope));
                        Expr::op(ScalarOp::Select, [condition, body, Expr::Const(identity)])
                    }
                }
            }
            Element::Op(op, args) => {
                let args: Vec<Expr> = args.iter().map(|a| self.element(a, scope)).collect();
                Expr::op(*op, args)
            }
            Element::Cast(to, a) => cast(*to, self.element(a, scope)),
            Element::Random { site, dtype } => {
                let key = self.get(Name::Key);
                let key = load_at(scope.operand(key), []);
                let key = Expr::op(ScalarOp::FoldKey, [key, Expr::Const(Scalar::i64(*site as i64))]);
                let uniform = Expr::op(ScalarOp::Uniform, [key, index_value(position(&scope.sizes()))]);
                if *dtype == DType::F64 { uniform } else { Expr::Cast(*dtype, Box::new(uniform)) }
            }
        }
    }

    /// An index of a load: affine where it is, else gathered.
    pub fn index(&mut self, e: &Element, scope: &mut Scope) -> Index {
        match affine(e, &|v| scope.place(v), &self.program.dims) {
            Some(index) => Index::Affine(index),
            None => Index::Gather(Box::new(self.element(e, scope))),
        }
    }

    /// The guards among the conjuncts of `condition`, and the rest as an expression.
    pub fn condition(&mut self, condition: Option<&Element>, scope: &mut Scope) -> (Vec<Guard>, Option<Expr>) {
        let (mut all, mut rest) = (vec![], None);
        for part in condition.map(conjuncts).unwrap_or_default() {
            match guards(part, &|v| scope.place(v), &self.program.dims) {
                Some(guards) => all.extend(guards),
                None => {
                    let part = self.element(part, scope);
                    rest = Some(match rest {
                        None => part,
                        Some(rest) => Expr::op(ScalarOp::And, [rest, part]),
                    });
                }
            }
        }
        (all, rest)
    }

    /// The nest of a fold, for every point of `outs`.
    fn fold(&mut self, outs: &[(IndexVar, Size)], e: &Element, span: Span) -> Value {
        let Element::Fold { fold, vars, condition, body, span: own } = e else { panic!("{e:?} is no fold") };
        let span = if *own == Span::default() { span } else { *own };
        let mut scope = Scope::new(&[outs, vars].concat(), span);
        let (guards, rest) = self.condition(condition.as_deref(), &mut scope);
        let mut body = self.element(body, &mut scope);
        let dtype = self.dtype(&body, &scope);
        if let Some(rest) = rest {
            body = Expr::op(ScalarOp::Select, [rest, body, Expr::Const(identity(*fold, dtype))]);
        }
        let (fold, result) = match fold {
            FoldKind::Sum if dtype.is_float() && is_product(&body) => (Fold::Dot, 0),
            FoldKind::Sum => (Fold::Sum, 0),
            FoldKind::Prod => (Fold::Prod, 0),
            FoldKind::Max if dtype.is_float() => (Fold::ArgMax, 0),
            FoldKind::Min if dtype.is_float() => (Fold::ArgMin, 0),
            FoldKind::Max | FoldKind::AMax => (Fold::Max, 0),
            FoldKind::Min | FoldKind::AMin => (Fold::Min, 0),
            FoldKind::ArgMax => (Fold::ArgMax, 1),
            FoldKind::ArgMin => (Fold::ArgMin, 1),
        };
        let sizes = |vars: &[(IndexVar, Size)]| vars.iter().map(|(_, n)| n.clone()).collect();
        let nest = Nest { outs: sizes(outs), reds: sizes(vars), guards, fold, body };
        Value { result, ..self.f().nest(nest, scope.operands, span) }
    }

    fn dtype(&mut self, e: &Expr, scope: &Scope) -> DType {
        let f = self.f();
        e.dtype(&|k| f.ty(scope.operands[k]).dtype).unwrap_or_else(|| panic!("ill-typed element {e:?}"))
    }
}

/// A product of two factors that both depend on loads.
fn is_product(e: &Expr) -> bool {
    let loads = |e: &Expr| {
        let mut found = false;
        e.visit(&mut |e| found |= matches!(e, Expr::Load { .. }));
        found
    };
    matches!(e, Expr::Op(ScalarOp::Mul, ab) if loads(&ab[0]) && loads(&ab[1]))
}

/// What a fold over nothing gives.
fn identity(fold: FoldKind, dtype: DType) -> Scalar {
    match (fold, dtype) {
        (FoldKind::Sum, _) => Scalar::float(dtype, 0.0),
        (FoldKind::Prod, _) => Scalar::float(dtype, 1.0),
        (FoldKind::Max | FoldKind::AMax | FoldKind::ArgMax, DType::I64) => Scalar::i64(i64::MIN),
        (FoldKind::Max | FoldKind::AMax | FoldKind::ArgMax, DType::Bool) => Scalar::bool(false),
        (FoldKind::Max | FoldKind::AMax | FoldKind::ArgMax, _) => Scalar::float(dtype, f64::NEG_INFINITY),
        (FoldKind::Min | FoldKind::AMin | FoldKind::ArgMin, DType::I64) => Scalar::i64(i64::MAX),
        (FoldKind::Min | FoldKind::AMin | FoldKind::ArgMin, DType::Bool) => Scalar::bool(true),
        (FoldKind::Min | FoldKind::AMin | FoldKind::ArgMin, _) => Scalar::float(dtype, f64::INFINITY),
    }
}

/// The value of an index expression; a literal where it is one.
pub(super) fn index_value(index: Affine) -> Expr {
    match index.as_size().and_then(Size::as_const) {
        Some(n) => Expr::Const(Scalar::i64(n)),
        None => Expr::Index(index),
    }
}

/// A conversion; of a literal, the literal converted (where that rounds once).
pub(super) fn cast(to: DType, e: Expr) -> Expr {
    match e {
        Expr::Const(c) if c.dtype() == to => e,
        Expr::Const(c) if c.dtype().is_float() || c.to_i64().unsigned_abs() <= 1 << 24 => Expr::Const(Scalar::float(to, c.to_f64())),
        e => Expr::Cast(to, Box::new(e)),
    }
}
