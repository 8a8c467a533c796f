//! Loads and folds: one element at a point of the comprehension around; outside of one, a gather by whole tensors and a fold to a single number.

use crate::check::Checker;
use crate::check::arithmetic::{cast_element, number};
use crate::check::typed::*;
use crate::check::value::*;
use crate::diagnostic::Diagnostic;
use crate::ir::{DType, Scalar, ScalarOp, Size};
use crate::parse::tree::{self, FoldIndex, IndexDecl, Subscript};
use crate::span::Span;

/// The folds of the language.
pub const FOLDS: &[&str] = &["sum", "prod", "max", "min", "mean", "amax", "amin", "argmax", "argmin", "any", "all"];

/// The range of a variable that is not known yet.
pub fn placeholder(v: IndexVar) -> Size {
    Size::dim(&format!("#{}", v.0))
}

impl Checker<'_> {
    /// `base[indices]`.
    pub(super) fn load_expr(&mut self, b: &mut Body, base: &tree::Expr, indices: &[Subscript], otherwise: Option<&tree::Expr>, span: Span) -> Value {
        let elements = std::mem::take(&mut b.elements);
        let tensor = self.expr(b, base);
        b.elements = elements;
        let tensor = match tensor {
            Value::Tensor(e) => b.hoist("_", e),
            Value::Poison => {
                // The indices' own mistakes still count.
                return Value::Poison;
            }
            other => return self.wrong("E0323", "only tensors can be indexed", base.span, format!("this is {}", other.describe())),
        };
        if b.elements.is_empty() {
            self.gather(b, base, tensor, indices, otherwise, span)
        } else {
            self.element_load(b, base, tensor, indices, otherwise, span)
        }
    }

    fn element_load(
        &mut self,
        b: &mut Body,
        base: &tree::Expr,
        tensor: Expr,
        indices: &[Subscript],
        otherwise: Option<&tree::Expr>,
        span: Span,
    ) -> Value {
        let shape = tensor.ty().shape.clone();
        let rest = indices.iter().filter(|i| matches!(i, Subscript::Rest(_))).count();
        let fits = if rest > 0 { indices.len() - 1 <= shape.len() } else { indices.len() == shape.len() };
        if !fits || rest > 1 {
            let text = self.sources.text(base.span).to_string();
            let given = indices.len() - rest;
            let mut d = Diagnostic::error(
                "E0323",
                format!("`{text}` has {} axes, but {given} {} given", shape.len(), if given == 1 { "index is" } else { "indices are" }),
                span,
                format!("this is {}", tensor.ty()),
            );
            d = self.made_at(d, b, &tensor);
            self.report(d);
            return Value::Poison;
        }
        let free = shape.len() - (indices.len() - rest);
        let mut elements = vec![];
        let name = self.sources.text(base.span).to_string();
        for index in indices {
            let axis = elements.len();
            match index {
                Subscript::Rest(at) => {
                    let Some(vars) = self.rest_vars(b, &shape[axis..axis + free], *at) else { return Value::Poison };
                    if vars.len() != free {
                        let d =
                            Diagnostic::error("E0323", format!("`...` stands for {} axes, but {free} are left of `{name}`", vars.len()), *at, "here");
                        self.report(self.made_at(d, b, &tensor));
                        return Value::Poison;
                    }
                    for (k, v) in vars.into_iter().enumerate() {
                        self.constrain(
                            b,
                            v,
                            &shape[axis + k],
                            *at,
                            || format!("the {} axis of `{name}`", super::nth(axis + k + 1)),
                            otherwise.is_some(),
                        );
                        elements.push(Element::Index(v));
                    }
                }
                Subscript::Group(names, at) => {
                    let mut vars = vec![];
                    for n in names {
                        match b.lookup(&n.name).map(|x| x.value.clone()) {
                            Some(Value::Element(Num { element: Element::Index(v), .. })) => vars.push(v),
                            _ => {
                                return self.unknown("E0320", "the index", &n.name, n.span, &b_names(b));
                            }
                        }
                    }
                    let mut sum: Option<Element> = None;
                    for v in &vars {
                        let v_index = Element::Index(*v);
                        sum = Some(match sum {
                            None => v_index,
                            Some(s) => Element::Op(ScalarOp::Add, vec![Element::Op(ScalarOp::Mul, vec![s, Element::Size(placeholder(*v))]), v_index]),
                        });
                    }
                    if let Some(c) = b.elements.last_mut() {
                        c.groups.push((vars, shape[axis].clone(), *at));
                    }
                    elements.push(sum.unwrap_or(Element::Const(Scalar::i64(0))));
                }
                Subscript::Expr(e) => {
                    let value = self.expr(b, e);
                    let n = match value {
                        Value::Poison => return Value::Poison,
                        Value::Static(s @ Static::Int(_)) => number(&s),
                        Value::Element(n) => n,
                        Value::Tensor(t) => match self.as_element(&t, e.span) {
                            Some(n) => n,
                            None => return Value::Poison,
                        },
                        other => return self.wrong("E0323", "an index is a whole number", e.span, format!("this is {}", other.describe())),
                    };
                    if n.dtype != DType::I64 {
                        return self.wrong("E0323", "an index is a whole number", e.span, format!("this is {}", n.dtype));
                    }
                    if let Element::Index(v) = n.element {
                        self.constrain(b, v, &shape[axis], e.span, || format!("the {} axis of `{name}`", super::nth(axis + 1)), otherwise.is_some());
                    }
                    elements.push(n.element);
                }
            }
        }
        let dtype = tensor.ty().dtype;
        let otherwise = match otherwise {
            None => None,
            Some(e) => match self.expr(b, e) {
                Value::Static(s) => match (&s, s.number()) {
                    (Static::Bool(x), _) if dtype == DType::Bool => Some(Scalar::bool(*x)),
                    (_, Some(x)) => Some(Scalar::float(dtype, x)),
                    _ => None,
                },
                Value::Poison => return Value::Poison,
                other => return self.wrong("E0324", "`else:` takes a number known when compiling", e.span, format!("this is {}", other.describe())),
            },
        };
        let weak = shape.is_empty() && dtype != DType::F32;
        let named = tensor.ty().named();
        Value::Element(Num { element: Element::Load { tensor: Box::new(tensor), indices: elements, otherwise, span }, dtype, weak, named })
    }

    /// The variables of `...` at this point.
    fn rest_vars(&mut self, b: &mut Body, sizes: &[Size], span: Span) -> Option<Vec<IndexVar>> {
        match b.elements.last().and_then(|c| c.rest.clone()) {
            Some(vars) => Some(vars),
            None if sizes.is_empty() => Some(vec![]),
            None => {
                self.wrong("E0320", "`...` is neither among the target's indices nor among a fold's", span, "which indices?");
                None
            }
        }
    }

    /// Records that a variable runs over an axis.
    fn constrain(&mut self, b: &mut Body, v: IndexVar, size: &Size, span: Span, what: impl Fn() -> String, optional: bool) {
        let Some(c) = b.elements.iter_mut().rev().find(|c| c.vars.iter().any(|(x, ..)| *x == v)) else { return };
        let map = if optional { &mut c.fallback } else { &mut c.ranges };
        let old = match map.get(&v) {
            None => {
                map.insert(v, Range { size: size.clone(), span, what: what(), explicit: false });
                return;
            }
            Some(old) if old.explicit || optional || old.size == *size => return,
            Some(old) => old.clone(),
        };
        let name = c.vars.iter().find(|(x, ..)| *x == v).map(|(_, n, _)| n.clone()).unwrap_or_default();
        // One report an index.
        if let Some(r) = c.ranges.get_mut(&v) {
            r.explicit = true;
        }
        let message = format!("the index `{name}` has two ranges: {} and {size}", old.size);
        let d = Diagnostic::error("E0325", message, span, format!("{} is {size}", what())).label(old.span, format!("{} is {}", old.what, old.size));
        self.report(d);
    }

    /// Introduces an index.
    pub(super) fn index_var(&mut self, b: &mut Body, decl: &IndexDecl) -> IndexVar {
        let range = decl.range.as_ref().map(|e| (self.size(b, e), e.span));
        let v = b.var();
        let name = decl.name.name.clone();
        if let Some(Binding { value: Value::Element(Num { element: Element::Index(_), .. }), span }) = b.lookup(&name) {
            let d = Diagnostic::error("E0330", format!("the index `{name}` is in use here"), decl.name.span, "again here");
            self.report(d.label(*span, "first here").note("an index inside another has a name of its own"));
        }
        if let Some(c) = b.elements.last_mut() {
            c.vars.push((v, name.clone(), decl.name.span));
            match range {
                Some((Some(size), span)) => {
                    c.ranges.insert(v, Range { size, span, what: "the range written here".into(), explicit: true });
                }
                // Reported already: no second report for a missing range.
                Some((None, span)) => {
                    c.ranges.insert(v, Range { size: Size::constant(1), span, what: String::new(), explicit: true });
                }
                None => {}
            }
        }
        b.bind(&name, Value::Element(Num { element: Element::Index(v), dtype: DType::I64, weak: true, named: false }), decl.name.span);
        v
    }

    /// `sum[i](e)` and the like.
    pub(super) fn fold_expr(
        &mut self,
        b: &mut Body,
        fold: &tree::Ident,
        indices: &[FoldIndex],
        condition: Option<&tree::Expr>,
        body: &tree::Expr,
        span: Span,
    ) -> Value {
        if !FOLDS.contains(&&*fold.name) {
            return self.unknown("E0326", "the fold", &fold.name, fold.span, FOLDS);
        }
        if b.elements.is_empty() {
            // A fold of whole tensors is a comprehension without axes.
            b.elements.push(Comprehension::default());
            let value = self.fold_expr(b, fold, indices, condition, body, span);
            return match value {
                Value::Element(n) => match self.finish_comprehension(b, vec![], vec![], n, None, span) {
                    Some(e) => Value::Tensor(e),
                    None => Value::Poison,
                },
                _ => {
                    b.elements.pop();
                    Value::Poison
                }
            };
        }
        b.frames.push(Frame::default());
        let outer_rest = b.elements.last().and_then(|c| c.rest.clone());
        let mut vars = vec![];
        for i in indices {
            match i {
                FoldIndex::Var(decl) => vars.push(self.index_var(b, decl)),
                FoldIndex::Rest(at) => {
                    let sizes = match b.rest().cloned() {
                        Some(sizes) => sizes,
                        None => match self.rest_of(b, body) {
                            Some(sizes) => sizes,
                            None => {
                                self.wrong("E0307", "`...` stands for the axes of a parameter, and none has it", *at, "which axes?");
                                b.frames.pop();
                                return Value::Poison;
                            }
                        },
                    };
                    let mut rest = vec![];
                    for (k, size) in sizes.into_iter().enumerate() {
                        let v = b.var();
                        if let Some(c) = b.elements.last_mut() {
                            c.vars.push((v, "...".into(), *at));
                            let what = format!("the {} axis of `...`", super::nth(k + 1));
                            c.ranges.insert(v, Range { size, span: *at, what, explicit: false });
                        }
                        rest.push(v);
                    }
                    vars.extend(&rest);
                    if let Some(c) = b.elements.last_mut() {
                        c.rest = Some(rest);
                    }
                }
            }
        }
        let condition = condition.map(|c| (self.expr(b, c), c.span));
        let value = self.expr(b, body);
        if let Some(c) = b.elements.last_mut() {
            c.rest = outer_rest;
        }
        b.frames.pop();
        let condition = match condition {
            None | Some((Value::Static(Static::Bool(true)), _)) => None,
            Some((Value::Element(Num { element, dtype: DType::Bool, .. }), _)) => Some(Box::new(element)),
            Some((Value::Static(Static::Bool(false)), _)) => Some(Box::new(Element::Const(Scalar::bool(false)))),
            Some((Value::Poison, _)) => return Value::Poison,
            Some((other, at)) => return self.wrong("E0407", "a condition is needed", at, format!("this is {}", other.describe())),
        };
        let n = match value {
            Value::Poison => return Value::Poison,
            Value::Static(Static::Text(_)) => return self.wrong("E0306", "a fold is over numbers", body.span, "text"),
            Value::Static(s) => number(&s),
            Value::Element(n) => n,
            Value::Tensor(e) => match self.as_element(&e, body.span) {
                Some(n) => n,
                None => return Value::Poison,
            },
            other => return self.wrong("E0306", "a fold is over numbers", body.span, format!("this is {}", other.describe())),
        };
        self.fold_of(b, &fold.name, vars, condition, n, span)
    }

    fn fold_of(&mut self, b: &Body, fold: &str, vars: Vec<IndexVar>, condition: Option<Box<Element>>, n: Num, span: Span) -> Value {
        if n.named && matches!(fold, "sum" | "prod" | "mean") {
            return self.no_quantity(fold, span, "this is over classes or tokens");
        }
        let truth = n.dtype == DType::Bool;
        let boxed: Vec<(IndexVar, Size)> = vars.iter().map(|v| (*v, placeholder(*v))).collect();
        let make = |fold, element, condition| Element::Fold { fold, vars: boxed.clone(), condition, body: Box::new(element), span };
        let (kind, dtype) = match fold {
            "any" | "all" if !truth => {
                return self.wrong("E0407", format!("`{fold}` is over conditions"), span, format!("this is over {}", n.dtype));
            }
            "any" => (FoldKind::Max, DType::Bool),
            "all" => (FoldKind::Min, DType::Bool),
            "sum" | "prod" if truth => (if fold == "sum" { FoldKind::Sum } else { FoldKind::Prod }, DType::I64),
            "sum" => (FoldKind::Sum, n.dtype),
            "prod" => (FoldKind::Prod, n.dtype),
            "max" => (FoldKind::Max, n.dtype),
            "min" => (FoldKind::Min, n.dtype),
            "amax" => (FoldKind::AMax, n.dtype),
            "amin" => (FoldKind::AMin, n.dtype),
            "argmax" => (FoldKind::ArgMax, n.dtype),
            "argmin" => (FoldKind::ArgMin, n.dtype),
            _ => (FoldKind::Sum, if n.dtype.is_float() { n.dtype } else { b.real }),
        };
        let element = cast_element(n.element, n.dtype, dtype);
        if matches!(kind, FoldKind::ArgMax | FoldKind::ArgMin) {
            return Value::Element(Num { element: make(kind, element, condition), dtype: DType::I64, weak: false, named: false });
        }
        if fold != "mean" {
            let counted = dtype == DType::I64 && (n.weak || truth);
            let weak = counted || n.weak && dtype != DType::F32 && !truth;
            return Value::Element(Num { element: make(kind, element, condition), dtype, weak, named: n.named });
        }
        let count = match &condition {
            // How many points take part.
            Some(_) => make(FoldKind::Sum, Element::Const(Scalar::float(dtype, 1.0)), condition.clone()),
            None => {
                let product = vars.iter().fold(Size::constant(1), |s, v| &s * &placeholder(*v));
                Element::Cast(dtype, Box::new(Element::Size(product)))
            }
        };
        let sum = make(FoldKind::Sum, element, condition);
        Value::Element(Num { element: Element::Op(ScalarOp::Div, vec![sum, count]), dtype, weak: n.weak && n.dtype == dtype, named: false })
    }

    /// What `...` stands for where no parameter says it: the leading axes of the first tensor that is loaded with it.
    pub(super) fn rest_of(&mut self, b: &mut Body, e: &tree::Expr) -> Option<Vec<Size>> {
        let mut found = None;
        find_rest(e, &mut |base, others| {
            if found.is_none()
                && let Some(Binding { value: Value::Tensor(t), .. }) = b.lookup(base)
                && t.ty().shape.len() >= others.0 + others.1
            {
                found = Some(t.ty().shape[others.0..t.ty().shape.len() - others.1].to_vec());
            }
        });
        found
    }
}

/// Visible names, for proposals.
fn b_names(b: &Body) -> Vec<&str> {
    b.names()
}

/// Calls `see` with the base name of every load that has `...`, and how many indices stand before and behind it.
fn find_rest(e: &tree::Expr, see: &mut dyn FnMut(&str, (usize, usize))) {
    use tree::ExprKind::*;
    match &e.kind {
        Load { base, indices, .. } => {
            if let (Name(n), Some(at)) = (&base.kind, indices.iter().position(|i| matches!(i, Subscript::Rest(_)))) {
                see(n, (at, indices.len() - at - 1));
            }
            for i in indices {
                if let Subscript::Expr(e) = i {
                    find_rest(e, see);
                }
            }
        }
        Call { args, .. } => args.iter().for_each(|a| find_rest(&a.value, see)),
        Fold { body, .. } => find_rest(body, see),
        Unary(_, a) => find_rest(a, see),
        Binary(_, a, c) => {
            find_rest(a, see);
            find_rest(c, see);
        }
        If { condition, then, otherwise } => [condition, then, otherwise].into_iter().for_each(|e| find_rest(e, see)),
        Int(_) | Float(_) | Quantity(..) | Text(_) | Bool(_) | Name(_) | Field(..) | Pipe(..) | Tuple(_) | List(_) | Range(..) | Scan(_) | Rest => {}
    }
}
