//! Gathers by whole tensors, pieces written into others, scatters, sorting, and blocks repeated.

use crate::check::Checker;
use crate::check::arithmetic::{cast_element, cast_expr, constant, number};
use crate::check::builtins::Call;
use crate::check::calls::Given;
use crate::check::comprehension::settle;
use crate::check::typed::*;
use crate::check::value::*;
use crate::diagnostic::Diagnostic;
use crate::ir::{DType, Piece, Scalar, ScatterFold, Size, Start};
use crate::parse::tree::{self, Subscript};
use crate::span::Span;

impl Checker<'_> {
    /// `wte[tokens]`, `x[0]`, `x[..., 0]`: single numbers take one position, whole tensors of positions put their axes there.
    pub(super) fn gather(
        &mut self,
        b: &mut Body,
        base: &tree::Expr,
        tensor: Expr,
        indices: &[Subscript],
        otherwise: Option<&tree::Expr>,
        span: Span,
    ) -> Value {
        let shape = tensor.ty().shape.clone();
        if let Some(e) = otherwise {
            return self.wrong("E0324", "`else:` belongs to index notation", e.span, "here whole tensors are read");
        }
        let rests = indices.iter().filter(|i| matches!(i, Subscript::Rest(_))).count();
        if indices.len() - rests > shape.len() || rests > 1 {
            let text = self.sources.text(base.span).to_string();
            let message = format!("`{text}` has {} axes, but {} indices are given", shape.len(), indices.len() - rests);
            let d = Diagnostic::error("E0323", message, span, format!("this is {}", tensor.ty()));
            let d = self.made_at(d, b, &tensor);
            self.report(d);
            return Value::Poison;
        }
        let free = shape.len() - (indices.len() - rests);
        let mut vars: Vec<(IndexVar, Size)> = vec![];
        let mut elements = vec![];
        // Axes of positions, shared by all gathered indices.
        let mut gathered: Option<(Vec<Size>, Vec<IndexVar>)> = None;
        let keep = |b: &mut Body, vars: &mut Vec<(IndexVar, Size)>, elements: &mut Vec<Element>, n: usize| {
            for _ in 0..n {
                let v = b.var();
                vars.push((v, shape[elements.len()].clone()));
                elements.push(Element::Index(v));
            }
        };
        for index in indices {
            let e = match index {
                Subscript::Rest(_) => {
                    keep(b, &mut vars, &mut elements, free);
                    continue;
                }
                Subscript::Group(_, at) => {
                    return self.wrong("E0321", "grouped indices belong to index notation", *at, "here whole tensors are read");
                }
                Subscript::Expr(e) => e,
            };
            let value = self.expr(b, e);
            match value {
                Value::Poison => return Value::Poison,
                Value::Static(s @ Static::Int(_)) => {
                    if let Static::Int(size) = &s {
                        let axis = &shape[elements.len()];
                        let negative = self.interval(size).1.is_some_and(|x| x < 0);
                        if negative || self.at_most(axis, size) == Some(true) {
                            let d =
                                Diagnostic::error("E0328", format!("there is no element {size}"), e.span, format!("the axis has {axis} elements"));
                            let d = match axis.checked_add(size).filter(|last| negative && self.interval(last).1.is_none_or(|x| x >= 0)) {
                                Some(last) => d.fix(format!("count from the end: `{last}`"), e.span, last.to_string()),
                                None => d,
                            };
                            let d = self.made_at(d, b, &tensor);
                            self.report(d);
                            return Value::Poison;
                        }
                    }
                    elements.push(number(&s).element);
                }
                Value::Tensor(t) if t.ty().dtype == DType::I64 => {
                    let t = b.hoist("_", t);
                    let own = t.ty().shape.clone();
                    if let Meaning::Class(n) | Meaning::Token(n) = &t.ty().meaning
                        && self.at_most(n, &shape[elements.len()]) == Some(false)
                    {
                        let axis = &shape[elements.len()];
                        let d = Diagnostic::error("E0328", format!("{} can leave an axis of {axis} elements", t.ty()), e.span, "these positions");
                        let d = self.made_at(d, b, &tensor);
                        self.report(d);
                        return Value::Poison;
                    }
                    let own_vars = match &gathered {
                        _ if own.is_empty() => vec![],
                        Some((sizes, vars)) if *sizes == own => vars.clone(),
                        Some((sizes, _)) => {
                            let message = format!("the positions have different shapes: {} and {}", shape_text(sizes), shape_text(&own));
                            return self.wrong("E0302", message, e.span, format!("this is {}", t.ty()));
                        }
                        None => {
                            let new: Vec<IndexVar> = own.iter().map(|_| b.var()).collect();
                            vars.extend(new.iter().copied().zip(own.iter().cloned()));
                            gathered = Some((own, new.clone()));
                            new
                        }
                    };
                    let at = own_vars.into_iter().map(Element::Index).collect();
                    elements.push(Element::Load { tensor: Box::new(t), indices: at, otherwise: None, span: e.span });
                }
                other => return self.wrong("E0323", "an index is a whole number", e.span, format!("this is {}", other.describe())),
            }
        }
        let left = shape.len() - elements.len();
        keep(b, &mut vars, &mut elements, left);
        let ty = Type { shape: vars.iter().map(|(_, s)| s.clone()).collect(), ..tensor.ty().clone() };
        let element = Element::Load { tensor: Box::new(tensor), indices: elements, otherwise: None, span };
        let groups = vec![1; vars.len()];
        Value::Tensor(Expr::one(ExprKind::Comprehension { vars, groups, element }, ty, span))
    }

    /// `write(base, piece, start..)`
    pub(super) fn write(&mut self, b: &mut Body, a: Call) -> Value {
        let (Some(base), Some(piece)) = (self.tensor(a.first(), "write"), self.tensor(&a.plain[1], "write")) else { return Value::Poison };
        let (bt, pt) = (base.ty().clone(), piece.ty().clone());
        if bt.shape.len() != pt.shape.len() || bt.dtype != pt.dtype || a.plain.len() != bt.shape.len() + 2 {
            let message = format!("a piece {pt} is written into {bt} with {} starts", a.plain.len() - 2);
            let d = Diagnostic::error("E0302", message, a.span, "these do not fit together");
            self.report(d.note("the piece has as many axes as the base and its type, with one start an axis"));
            return Value::Poison;
        }
        let mut start = vec![];
        for (k, g) in a.plain[2..].iter().enumerate() {
            if self.at_most(&pt.shape[k], &bt.shape[k]) == Some(false) {
                let message = format!("the piece is larger than the base on the {} axis: {} and {}", super::nth(k + 1), pt.shape[k], bt.shape[k]);
                return self.wrong("E0302", message, a.plain[1].span, format!("this is {pt}"));
            }
            if let Value::Static(Static::Int(s)) = &g.value {
                let end = s.checked_add(&pt.shape[k]).unwrap_or_default();
                if self.at_most(&end, &bt.shape[k]) == Some(false) {
                    let message = format!("the piece ends at {end} on the {} axis, which has {}", super::nth(k + 1), bt.shape[k]);
                    return self.wrong("E0328", message, g.span, format!("starts at {s}"));
                }
            }
            match self.fit(b, g.value.clone(), DType::I64, &Meaning::Plain, g.span, "a start") {
                Some(e) if e.ty().shape.is_empty() => start.push(e),
                Some(e) => return self.wrong("E0308", "a start is a single number", g.span, format!("this is {}", e.ty())),
                None => return Value::Poison,
            }
        }
        Value::Tensor(Expr::one(ExprKind::Write { base: Box::new(base), piece: Box::new(piece), start }, bt, a.span))
    }

    /// `place(fill, [sizes], (piece, [starts], [strides])..)`
    pub(super) fn place(&mut self, _b: &mut Body, a: Call) -> Value {
        let Some(shape) = self.size_list(&a.plain[1]) else { return Value::Poison };
        let mut pieces = vec![];
        let mut dtype = None;
        let mut covered: Vec<(Piece, Span)> = vec![];
        for g in &a.plain[2..] {
            let Value::Tuple(parts) = &g.value else {
                return self.wrong("E0505", "a piece is `(tensor, [starts], [strides])`", g.span, format!("this is {}", g.value.describe()));
            };
            let given: Vec<Given> = parts.iter().map(|(_, v)| Given { name: None, value: v.clone(), span: g.span }).collect();
            if given.len() < 2 || given.len() > 3 {
                return self.wrong("E0505", "a piece is `(tensor, [starts], [strides])`", g.span, format!("{} parts", given.len()));
            }
            let Some(piece) = self.tensor(&given[0], "place") else { return Value::Poison };
            let Some(starts) = self.size_list(&given[1]) else { return Value::Poison };
            let strides = match given.get(2) {
                Some(s) => self.size_list(s),
                None => Some(vec![Size::constant(1); shape.len()]),
            };
            let Some(strides) = strides else { return Value::Poison };
            if let Some(step) = strides.iter().find(|s| s.as_const().is_some_and(|n| n < 1)) {
                return self.wrong("E0306", "a piece goes forward, by strides of at least 1", g.span, format!("a stride is {step}"));
            }
            if let Some(start) = starts.iter().find(|s| s.as_const().is_some_and(|n| n < 0)) {
                return self.wrong("E0328", "a piece starts at 0 or behind", g.span, format!("a start is {start}"));
            }
            let own = piece.ty().shape.clone();
            if own.len() != shape.len() || starts.len() != shape.len() || strides.len() != shape.len() {
                return self.wrong("E0308", format!("a piece of {} axes is placed in {}", own.len(), shape_text(&shape)), g.span, "axes differ");
            }
            for k in 0..shape.len() {
                let last = own[k].checked_add(&Size::constant(-1)).and_then(|n| n.checked_mul(&strides[k])).and_then(|n| n.checked_add(&starts[k]));
                let Some(last) = last else { return self.wrong("E0701", "a number does not fit in 63 bits", g.span, "the piece's end") };
                if self.at_most(&shape[k], &last) == Some(true) {
                    let message = format!("the piece reaches {last} on the {} axis, which has {}", super::nth(k + 1), shape[k]);
                    return self.wrong("E0328", message, g.span, format!("this is {}", piece.ty()));
                }
            }
            if *dtype.get_or_insert(piece.ty().dtype) != piece.ty().dtype {
                return self.wrong("E0406", "the pieces have different types", g.span, format!("this is {}", piece.ty()));
            }
            let start = starts.iter().cloned().map(Start::Size).collect();
            let covers = Piece { shape: own, start, stride: strides.clone() };
            if let Some((_, before)) = covered.iter().find(|(other, _)| covers.overlaps(other)) {
                let d = Diagnostic::error("E0331", "two pieces are placed at one position", g.span, "this one").label(*before, "and this one");
                self.report(d.note("which of them would stay? add them up, or place them apart"));
                return Value::Poison;
            }
            covered.push((covers, g.span));
            pieces.push((piece, starts, strides));
        }
        let dtype = dtype.unwrap_or(DType::F32);
        let fill = match &a.first().value {
            Value::Static(s) => s.number().map(|x| Scalar::float(dtype, x)),
            _ => None,
        };
        let Some(fill) = fill else {
            return self.wrong(
                "E0506",
                "what `place` fills with is a number known when compiling",
                a.first().span,
                format!("this is {}", a.first().value.describe()),
            );
        };
        if !self.limit(&shape, a.span) {
            return Value::Poison;
        }
        Value::Tensor(Expr::one(ExprKind::Place { fill, pieces }, Type::plain(dtype, shape), a.span))
    }

    fn size_list(&mut self, g: &Given) -> Option<Vec<Size>> {
        let Value::List(parts) = &g.value else {
            self.wrong("E0505", "a list of sizes is needed: `[2, 3]`", g.span, format!("this is {}", g.value.describe()));
            return None;
        };
        parts.iter().map(|v| self.as_size(v.clone(), g.span)).collect()
    }

    /// `sort(x, descending: false)`
    pub(super) fn sort(&mut self, _b: &mut Body, a: Call) -> Value {
        let Some(e) = self.tensor(a.first(), "sort") else { return Value::Poison };
        let ty = e.ty().clone();
        if ty.shape.is_empty() {
            return self.wrong("E0308", "a single number cannot be sorted", a.first().span, format!("this is {ty}"));
        }
        let descending = match a.get("descending").map(|g| (&g.value, g.span)) {
            None => false,
            Some((Value::Static(Static::Bool(x)), _)) => *x,
            Some((other, span)) => return self.wrong("E0506", "`descending` is `true` or `false`", span, format!("this is {}", other.describe())),
        };
        let places = Type::plain(DType::I64, ty.shape.clone());
        let kind = ExprKind::Sort { of: Box::new(e), descending };
        let sort = Expr { kind, types: vec![Type::plain(ty.dtype, ty.shape), places], span: a.span };
        Value::Tuple(self.unpack(_b, sort, &[Some("values".into()), Some("positions".into())]))
    }

    /// `repeat(x, n, Block, args.., name: "h")`
    pub(super) fn repeat(&mut self, b: &mut Body, a: Call) -> Value {
        let at = a.plain.iter().position(|g| matches!(g.value, Value::Function(_)));
        let Some(at) = at else {
            let d = Diagnostic::error("E0502", "`repeat` needs the block that it repeats", a.span, "which block?");
            self.report(d.note("write `x |> repeat(12, Layer, name: \"h\")`"));
            return Value::Poison;
        };
        let Value::Function(def) = a.plain[at].value else { return Value::Poison };
        // By pipe the value comes first, else behind the block.
        let (count, first, rest) = match (at, &a.plain[..]) {
            (2, [x, n, _, rest @ ..]) => (n, x.clone(), rest.to_vec()),
            (1, [n, _, x, rest @ ..]) => (n, x.clone(), rest.to_vec()),
            _ => return self.wrong("E0502", "`repeat` is called as `x |> repeat(12, Layer)`", a.span, "number, block and value"),
        };
        let n = match &count.value {
            Value::Static(Static::Int(s)) => self.constant_size(s, count.span, "how often a block is repeated"),
            other => {
                self.wrong("E0506", "how often a block is repeated is a whole number", count.span, format!("this is {}", other.describe()));
                None
            }
        };
        let Some(n) = n else { return Value::Poison };
        if !(0..=10_000).contains(&n) {
            return self.wrong("E0306", "a block is repeated between 0 and 10000 times", count.span, format!("this is {n}"));
        }
        let own = self.scope_name(def);
        let base = match a.get("name").map(|g| (&g.value, g.span)) {
            None => own.clone(),
            Some((Value::Static(Static::Text(t)), _)) => t.clone(),
            Some((other, span)) => return self.wrong("E0506", "`name` is a text", span, format!("this is {}", other.describe())),
        };
        let mut value = first.value;
        let mut claimed = false;
        for i in 0..n {
            let mut given = vec![Given { name: None, value, span: first.span }];
            given.extend(rest.iter().cloned());
            given.extend(a.named.iter().filter(|g| g.name.as_ref().is_some_and(|n| &*n.name != "name")).cloned());
            let before = b.weights.len();
            value = self.call_repeated(b, def, given, &format!("{base}.{i}"), a.span);
            if b.weights.len() > before && !claimed {
                claimed = true;
                if self.claim(b, &base, a.span).is_none() {
                    return Value::Poison;
                }
            }
            value = match value {
                Value::Tensor(e) => Value::Tensor(b.hoist(&base, e)),
                Value::Poison => return Value::Poison,
                other => return self.wrong("E0505", "a repeated block has one result", a.span, format!("it gives {}", other.describe())),
            };
        }
        value
    }

    fn scope_name(&self, def: DefId) -> std::sync::Arc<str> {
        self.scope.def(def).tree.name.name.clone()
    }

    /// `scatter sum y[index[m], d] = x[m, d] into base`
    pub(super) fn scatter(
        &mut self,
        b: &mut Body,
        fold: &tree::Ident,
        indices: &[Subscript],
        value: &tree::Expr,
        base: &tree::Expr,
        span: Span,
    ) -> Value {
        let fold = match &*fold.name {
            "replace" => ScatterFold::Replace,
            "sum" => ScatterFold::Sum,
            "prod" => ScatterFold::Prod,
            "max" => ScatterFold::Max,
            "min" => ScatterFold::Min,
            other => return self.unknown("E0326", "the fold", other, fold.span, &["replace", "sum", "prod", "max", "min"]),
        };
        let base_value = self.expr(b, base);
        let Some(base_expr) = (match base_value {
            Value::Tensor(e) => Some(b.hoist("_", e)),
            Value::Poison => None,
            other => {
                self.wrong("E0505", "a scatter starts from a tensor", base.span, format!("this is {}", other.describe()));
                None
            }
        }) else {
            return Value::Poison;
        };
        let ty = base_expr.ty().clone();
        b.elements.push(Comprehension::default());
        b.frames.push(Frame::default());
        let names = self.free_indices(b, indices, value);
        for ident in &names {
            self.index_var(b, &tree::IndexDecl { name: ident.clone(), range: None });
        }
        let mut places = vec![];
        let mut good = indices.len() == ty.shape.len();
        if !good {
            self.wrong(
                "E0323",
                format!("the base has {} axes, but {} indices are given", ty.shape.len(), indices.len()),
                span,
                format!("it is {ty}"),
            );
        }
        for (k, i) in indices.iter().enumerate() {
            let Subscript::Expr(e) = i else {
                self.wrong("E0323", "a scatter's indices are plain expressions", span, "here");
                good = false;
                continue;
            };
            let n = match self.expr(b, e) {
                Value::Element(n) if n.dtype == DType::I64 => n,
                Value::Static(s @ Static::Int(_)) => number(&s),
                Value::Poison => {
                    good = false;
                    continue;
                }
                other => {
                    self.wrong("E0323", "an index is a whole number", e.span, format!("this is {}", other.describe()));
                    good = false;
                    continue;
                }
            };
            if let (Element::Index(v), Some(size)) = (&n.element, ty.shape.get(k))
                && let Some(c) = b.elements.last_mut()
            {
                let range = Range { size: size.clone(), span: e.span, what: format!("the {} axis of the base", super::nth(k + 1)), explicit: false };
                c.fallback.entry(*v).or_insert(range);
            }
            places.push(n.element);
        }
        let n = match self.expr(b, value) {
            Value::Element(n) => Some(n),
            Value::Static(s) => Some(number(&s)),
            Value::Tensor(e) => self.as_element(&e, value.span),
            Value::Poison => None,
            other => {
                self.wrong("E0306", "an element is a number", value.span, format!("this is {}", other.describe()));
                None
            }
        };
        b.frames.pop();
        let Some(mut c) = b.elements.pop() else { return Value::Poison };
        let (Some(n), true) = (n, good) else { return Value::Poison };
        let Some(ranges) = self.ranges(&mut c) else { return Value::Poison };
        if n.dtype != ty.dtype && !n.weak {
            return self.wrong("E0405", format!("the base has {} elements, but the value is {}", ty.dtype, n.dtype), value.span, "another type");
        }
        let resolve = |name: &str| ranges.get(&IndexVar(name.strip_prefix('#')?.parse().ok()?)).cloned();
        let mut element = cast_element(n.element, n.dtype, ty.dtype);
        settle(&mut element, &resolve);
        places.iter_mut().for_each(|p| settle(p, &resolve));
        self.accesses(&element, &ranges, false);
        places.iter().for_each(|p| self.accesses(p, &ranges, false));
        let vars = c.vars.iter().map(|(v, ..)| (*v, ranges[v].clone())).collect();
        let kind = ExprKind::Scatter { base: Box::new(base_expr), vars, condition: None, index: places, value: element, fold };
        Value::Tensor(Expr::one(kind, Type { meaning: Type::plain(ty.dtype, vec![]).meaning, ..ty }, span))
    }

    /// Names in a scatter that nobody has bound, in order of appearance: its indices.
    fn free_indices(&mut self, b: &Body, indices: &[Subscript], value: &tree::Expr) -> Vec<tree::Ident> {
        let mut names: Vec<tree::Ident> = vec![];
        let exprs: Vec<&tree::Expr> = indices.iter().filter_map(|i| if let Subscript::Expr(e) = i { Some(e) } else { None }).chain([value]).collect();
        for e in exprs {
            index_names(e, &mut |name, span| {
                let known = b.lookup(name).is_some() || (!b.library() && self.declared_at(name).is_some());
                if !known && !names.iter().any(|n| n.name == *name) {
                    names.push(tree::Ident { name: name.clone(), span });
                }
            });
        }
        names
    }

    /// A scalar for places that take any number.
    pub(super) fn scalar(&mut self, b: &mut Body, g: &Given, what: &str) -> Option<Expr> {
        let e = match &g.value {
            Value::Static(s) => cast_expr(constant(s, g.span), DType::F64),
            _ => self.fit(b, g.value.clone(), DType::F64, &Meaning::Plain, g.span, what)?,
        };
        if !e.ty().shape.is_empty() {
            self.wrong("E0308", format!("{what} is a single number"), g.span, format!("this is {}", e.ty()));
            return None;
        }
        Some(e)
    }
}

/// Calls `see` with the plain names that may be indices: all but tensors that are loaded.
fn index_names(e: &tree::Expr, see: &mut dyn FnMut(&std::sync::Arc<str>, Span)) {
    use tree::ExprKind::*;
    match &e.kind {
        Name(n) => see(n, e.span),
        Load { indices, .. } => {
            for i in indices {
                if let Subscript::Expr(e) = i {
                    index_names(e, see);
                }
            }
        }
        Unary(_, a) => index_names(a, see),
        Binary(_, a, c) => {
            index_names(a, see);
            index_names(c, see);
        }
        Call { args, .. } => args.iter().for_each(|a| index_names(&a.value, see)),
        If { condition, then, otherwise } => [condition, then, otherwise].into_iter().for_each(|e| index_names(e, see)),
        Int(_)
        | Float(_)
        | Quantity(..)
        | Text(_)
        | Bool(_)
        | Field(..)
        | Fold { .. }
        | Pipe(..)
        | Tuple(_)
        | List(_)
        | Range(..)
        | Scan(_)
        | Rest => {}
    }
}
