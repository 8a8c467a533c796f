//! `y[i, j] = e`: ranges of indices from what they index, the declared result or `in`; every access shown to stay inside where that can be shown.

use crate::check::Checker;
use crate::check::arithmetic::{cast_element, number};
use crate::check::typed::*;
use crate::check::types::Declared;
use crate::check::value::*;
use crate::diagnostic::Diagnostic;
use crate::ir::{DType, ScalarOp, Size};
use crate::parse::tree::{self, TargetIndex};
use crate::span::Span;
use std::collections::BTreeMap;

type Ranges = BTreeMap<IndexVar, Size>;

/// An index expression as a sum of variables: coefficients, constant, and whether nothing else is in it.
struct Linear {
    vars: Vec<(IndexVar, Size)>,
    low: Size,
    high: Size,
    exact: bool,
}

impl Checker<'_> {
    /// An index assignment's right side as a tensor.
    pub(super) fn comprehension(
        &mut self,
        b: &mut Body,
        indices: &[TargetIndex],
        value: &tree::Expr,
        declared: Option<&Declared>,
        span: Span,
    ) -> Option<Expr> {
        let (vars, groups) = self.open_comprehension(b, indices, value)?;
        let value = self.expr(b, value);
        b.frames.pop();
        let n = match value {
            Value::Static(Static::Text(_)) | Value::Tuple(_) | Value::List(_) | Value::Function(_) => {
                b.elements.pop();
                self.wrong("E0306", "an element is a number", span, format!("this is {}", value.describe()));
                return None;
            }
            Value::Static(s) => number(&s),
            Value::Element(n) => n,
            Value::Tensor(e) => match self.as_element(&e, span) {
                Some(n) => n,
                None => {
                    b.elements.pop();
                    return None;
                }
            },
            Value::Poison => {
                b.elements.pop();
                return None;
            }
        };
        self.finish_comprehension(b, vars, groups, n, declared, span)
    }

    /// Introduces a target's indices in a frame of their own: the variables, and how many make each axis.
    pub(super) fn open_comprehension(&mut self, b: &mut Body, indices: &[TargetIndex], value: &tree::Expr) -> Option<(Vec<IndexVar>, Vec<usize>)> {
        let rest = match indices.iter().find_map(|i| if let TargetIndex::Rest(at) = i { Some(*at) } else { None }) {
            None => None,
            Some(at) => {
                let sizes = match b.rest().cloned() {
                    Some(sizes) => Some(sizes),
                    None => self.rest_of(b, value),
                };
                let Some(sizes) = sizes else {
                    self.wrong("E0307", "`...` stands for the axes of a parameter, and none has it", at, "which axes?");
                    return None;
                };
                Some((sizes, at))
            }
        };
        b.elements.push(Comprehension::default());
        b.frames.push(Frame::default());
        let (mut vars, mut groups) = (vec![], vec![]);
        let mut seen: Vec<(std::sync::Arc<str>, Span)> = vec![];
        for index in indices {
            match index {
                TargetIndex::Rest(at) => {
                    let Some((sizes, _)) = &rest else { continue };
                    let mut own = vec![];
                    for (k, size) in sizes.iter().enumerate() {
                        let v = b.var();
                        if let Some(c) = b.elements.last_mut() {
                            c.vars.push((v, "...".into(), *at));
                            let what = format!("the {} axis of `...`", super::nth(k + 1));
                            c.ranges.insert(v, Range { size: size.clone(), span: *at, what, explicit: false });
                        }
                        own.push(v);
                        groups.push(1);
                    }
                    vars.extend(&own);
                    if let Some(c) = b.elements.last_mut() {
                        c.rest = Some(own);
                    }
                }
                TargetIndex::Var(decl) => {
                    self.twice(&mut seen, decl);
                    vars.push(self.index_var(b, decl));
                    groups.push(1);
                }
                TargetIndex::Group(decls, _) => {
                    for decl in decls {
                        self.twice(&mut seen, decl);
                        vars.push(self.index_var(b, decl));
                    }
                    groups.push(decls.len());
                }
            }
        }
        Some((vars, groups))
    }

    fn twice(&mut self, seen: &mut Vec<(std::sync::Arc<str>, Span)>, decl: &tree::IndexDecl) {
        if let Some((name, at)) = seen.iter().find(|(n, _)| *n == decl.name.name) {
            let d =
                Diagnostic::error("E0329", format!("the index `{name}` is introduced twice"), decl.name.span, "again here").label(*at, "first here");
            self.report(d.note("a diagonal is written with one index on the left: `y[i] = x[i, i]`"));
        }
        seen.push((decl.name.name.clone(), decl.name.span));
    }

    /// Closes the comprehension: all ranges must be known now.
    pub(super) fn finish_comprehension(
        &mut self,
        b: &mut Body,
        vars: Vec<IndexVar>,
        groups: Vec<usize>,
        n: Num,
        declared: Option<&Declared>,
        span: Span,
    ) -> Option<Expr> {
        let mut c = b.elements.pop()?;
        if let Some((Some(shape), d)) = declared.map(|d| (&d.shape, d))
            && shape.len() == groups.len()
        {
            let mut at = 0;
            for (k, (axis, group)) in shape.iter().zip(&groups).enumerate() {
                let own = vars[at..at + group].to_vec();
                at += group;
                let Some(size) = axis else { continue };
                if let [v] = own[..] {
                    let what = format!("the {} axis of the result", super::nth(k + 1));
                    match c.ranges.get(&v) {
                        None => {
                            c.ranges.insert(v, Range { size: size.clone(), span: d.span, what, explicit: false });
                        }
                        Some(r) if !r.explicit && r.size != *size => {
                            let name = c.vars.iter().find(|(x, ..)| *x == v).map(|(_, n, _)| n.clone()).unwrap_or_default();
                            let message = format!("the index `{name}` has two ranges: {} and {size}", r.size);
                            let e = Diagnostic::error("E0325", message, r.span, format!("{} is {}", r.what, r.size));
                            self.report(
                                e.label(d.span, format!("{what} is {size}")).note(format!("where only a part is meant, say it: `{name} in {size}`")),
                            );
                            return None;
                        }
                        Some(_) => {}
                    }
                } else {
                    c.groups.push((own, size.clone(), span));
                }
            }
        }
        let ranges = self.ranges(&mut c)?;
        let resolve = |name: &str| -> Option<Size> {
            let n = name.strip_prefix('#')?.parse().ok()?;
            ranges.get(&IndexVar(n)).cloned()
        };
        let mut element = n.element;
        settle(&mut element, &resolve);
        let before = self.errors();
        self.accesses(&element, &ranges, false);
        if self.errors() > before {
            return None;
        }
        let dtype = match declared {
            Some(d) if n.weak && n.dtype != DType::Bool && d.dtype != DType::Bool => {
                if n.dtype == DType::F64 && d.dtype == DType::I64 {
                    n.dtype
                } else {
                    d.dtype
                }
            }
            _ if n.weak && n.dtype == DType::F64 && !vars.is_empty() => b.real,
            _ => n.dtype,
        };
        let element = cast_element(element, n.dtype, dtype);
        let boxed: Vec<(IndexVar, Size)> = vars.iter().map(|v| (*v, ranges[v].clone())).collect();
        let mut shape = vec![];
        let mut at = 0;
        for group in &groups {
            let mut size = Size::constant(1);
            for (_, s) in &boxed[at..at + group] {
                let Some(product) = size.checked_mul(s) else {
                    self.wrong("E0701", "a number does not fit in 63 bits", span, "an axis of this tensor");
                    return None;
                };
                size = product;
            }
            at += group;
            shape.push(size);
        }
        if !self.limit(&shape, span) {
            return None;
        }
        Some(Expr::one(ExprKind::Comprehension { vars: boxed, groups, element }, Type::plain(dtype, shape), span))
    }

    /// The range of every variable of a comprehension.
    pub(super) fn ranges(&mut self, c: &mut Comprehension) -> Option<Ranges> {
        // `(h e)` gives the last unknown factor.
        for _ in 0..c.groups.len() {
            for (vars, size, at) in &c.groups {
                let unknown: Vec<IndexVar> = vars.iter().copied().filter(|v| !c.ranges.contains_key(v)).collect();
                let mut known = Size::constant(1);
                for v in vars {
                    if let Some(r) = c.ranges.get(v) {
                        known = known.checked_mul(&r.size).unwrap_or_default();
                    }
                }
                if let [v] = unknown[..]
                    && known.as_const() != Some(0)
                    && size.modulo(&known).and_then(|m| m.as_const()) == Some(0)
                    && let Some(size) = size.div(&known)
                {
                    c.ranges.insert(v, Range { size, span: *at, what: "the group".into(), explicit: false });
                }
            }
        }
        let mut out = Ranges::new();
        let mut good = true;
        for (v, name, at) in &c.vars {
            match c.ranges.get(v).or_else(|| c.fallback.get(v)) {
                Some(r) => {
                    out.insert(*v, r.size.clone());
                }
                None => {
                    let end = Span { start: at.end, ..*at };
                    let d = Diagnostic::error("E0327", format!("nothing says over what the index `{name}` runs"), *at, "no range");
                    let d = d.note("an index has the range of the axis that it stands at alone, or of the declared result's");
                    self.report(d.fix(format!("say it: `{name} in N`"), end, " in N"));
                    good = false;
                }
            }
        }
        if !good {
            return None;
        }
        // Counts of points (for means) are products of ranges.
        if out.values().try_fold(Size::constant(1), |s, r| s.checked_mul(r)).is_none() {
            let at = c.vars.first().map_or(Span::default(), |(_, _, at)| *at);
            self.wrong("E0701", "a number does not fit in 63 bits", at, "the number of points over all indices");
            return None;
        }
        for (vars, size, at) in &c.groups {
            let product = vars.iter().try_fold(Size::constant(1), |s, v| s.checked_mul(&out[v]));
            if product.as_ref() != Some(size) {
                let text = product.map_or("an overflow".into(), |p| p.to_string());
                self.wrong("E0302", format!("the grouped indices make an axis of {text}, but it has {size}"), *at, "here");
                good = false;
            }
        }
        good.then_some(out)
    }

    /// Reports accesses that leave their tensors. `guarded`: a condition around may prevent it.
    pub(super) fn accesses(&mut self, element: &Element, ranges: &Ranges, guarded: bool) {
        match element {
            Element::Const(_) | Element::Size(_) | Element::Index(_) | Element::Random { .. } => {}
            Element::Load { tensor, indices, otherwise, span } => {
                for (k, index) in indices.iter().enumerate() {
                    self.accesses(index, ranges, guarded);
                    if otherwise.is_none() && !guarded {
                        self.access(tensor.ty(), k, index, ranges, *span);
                    }
                }
            }
            Element::Fold { condition, body, .. } => {
                if let Some(c) = condition {
                    self.accesses(c, ranges, guarded);
                }
                self.accesses(body, ranges, guarded || condition.is_some());
            }
            Element::Op(ScalarOp::Select, args) => {
                self.accesses(&args[0], ranges, guarded);
                self.accesses(&args[1], ranges, true);
                self.accesses(&args[2], ranges, true);
            }
            Element::Op(_, args) => args.iter().for_each(|a| self.accesses(a, ranges, guarded)),
            Element::Cast(_, a) => self.accesses(a, ranges, guarded),
        }
    }

    fn access(&mut self, ty: &Type, axis: usize, index: &Element, ranges: &Ranges, span: Span) {
        let size = &ty.shape[axis];
        if let Element::Index(v) = index
            && ranges.get(v) == Some(size)
        {
            return;
        }
        let Some(l) = self.linear(index, ranges) else { return };
        let one = Size::constant(1);
        let (Some(low), Some(last)) = (self.extreme(&l, ranges, false), self.extreme(&l, ranges, true)) else { return };
        let inside = (self.at_most(&Size::default(), &low), last.checked_add(&one).and_then(|end| self.at_most(&end, size)));
        if !l.exact || (inside.0 != Some(false) && inside.1 != Some(false)) {
            return;
        }
        let message = format!("this access leaves the {} axis, which has {size} elements", super::nth(axis + 1));
        let d = Diagnostic::error("E0328", message, span, format!("the index runs from {low} to {last}"));
        self.report(d.note("say what is read outside, if that is meant: `x[i - 1, else: 0]`"));
    }

    fn extreme(&self, l: &Linear, ranges: &Ranges, high: bool) -> Option<Size> {
        let mut sum = if high { l.high.clone() } else { l.low.clone() };
        for (v, c) in &l.vars {
            let positive = match self.interval(c) {
                (Some(a), _) if a >= 0 => true,
                (_, Some(a)) if a <= 0 => false,
                _ => return None,
            };
            if positive == high {
                let last = ranges.get(v)?.checked_add(&Size::constant(-1))?;
                sum = sum.checked_add(&last.checked_mul(c)?)?;
            }
        }
        Some(sum)
    }

    fn linear(&self, e: &Element, ranges: &Ranges) -> Option<Linear> {
        let constant = |s: Size| Linear { vars: vec![], low: s.clone(), high: s, exact: true };
        Some(match e {
            Element::Const(c) if c.dtype() == DType::I64 => constant(Size::constant(c.to_i64())),
            Element::Size(s) => constant(s.clone()),
            Element::Index(v) => Linear { vars: vec![(*v, Size::constant(1))], low: Size::default(), high: Size::default(), exact: true },
            Element::Op(op @ (ScalarOp::Add | ScalarOp::Sub), args) => {
                let (mut a, mut c) = (self.linear(&args[0], ranges)?, self.linear(&args[1], ranges)?);
                if *op == ScalarOp::Sub {
                    c = scale(c, &Size::constant(-1), false)?;
                }
                for (v, k) in c.vars {
                    match a.vars.iter_mut().find(|(x, _)| *x == v) {
                        Some((_, old)) => *old = old.checked_add(&k)?,
                        None => a.vars.push((v, k)),
                    }
                }
                Linear { vars: a.vars, low: a.low.checked_add(&c.low)?, high: a.high.checked_add(&c.high)?, exact: a.exact && c.exact }
            }
            Element::Op(ScalarOp::Mul, args) => {
                let (a, c) = (self.linear(&args[0], ranges)?, self.linear(&args[1], ranges)?);
                let fixed = |l: &Linear| l.vars.is_empty() && l.low == l.high;
                let (form, factor) = match (fixed(&a), fixed(&c)) {
                    (_, true) => (a, c.low),
                    (true, false) => (c, a.low),
                    (false, false) => return None,
                };
                let positive = match self.interval(&factor) {
                    (Some(x), _) if x >= 0 => true,
                    (_, Some(x)) if x <= 0 => false,
                    _ => return None,
                };
                scale(form, &factor, positive)?
            }
            Element::Op(op @ (ScalarOp::FloorDiv | ScalarOp::Mod), args) => {
                let (a, c) = (self.linear(&args[0], ranges)?, self.linear(&args[1], ranges)?);
                if !c.vars.is_empty() || c.low != c.high || self.interval(&c.low).0.is_none_or(|x| x < 1) {
                    return None;
                }
                let exact = a.exact && a.vars.len() <= 1;
                if *op == ScalarOp::Mod {
                    return Some(Linear { vars: vec![], low: Size::default(), high: c.low.checked_add(&Size::constant(-1))?, exact: false });
                }
                let (low, high) = (self.extreme(&a, ranges, false)?, self.extreme(&a, ranges, true)?);
                Linear { vars: vec![], low: low.div(&c.low)?, high: high.div(&c.low)?, exact }
            }
            Element::Load { tensor, .. } => match &tensor.ty().meaning {
                Meaning::Class(n) | Meaning::Token(n) => {
                    Linear { vars: vec![], low: Size::default(), high: n.checked_add(&Size::constant(-1))?, exact: true }
                }
                Meaning::Plain | Meaning::Logits | Meaning::Probs | Meaning::LogProbs | Meaning::Mask => return None,
            },
            Element::Cast(DType::I64, a) => self.linear(a, ranges)?,
            Element::Const(_) | Element::Fold { .. } | Element::Op(..) | Element::Cast(..) | Element::Random { .. } => return None,
        })
    }
}

fn scale(l: Linear, by: &Size, positive: bool) -> Option<Linear> {
    let (low, high) = (l.low.checked_mul(by)?, l.high.checked_mul(by)?);
    let (low, high) = if positive { (low, high) } else { (high, low) };
    let vars = l.vars.into_iter().map(|(v, c)| Some((v, c.checked_mul(by)?))).collect::<Option<Vec<_>>>()?;
    Some(Linear { vars, low, high, exact: l.exact })
}

/// Puts the ranges where placeholders stand.
pub fn settle(e: &mut Element, resolve: &dyn Fn(&str) -> Option<Size>) {
    let fill = |s: &mut Size| {
        let mut open = false;
        s.visit_dims(&mut |d| open |= d.starts_with('#'));
        if open {
            *s = s.substitute(resolve);
        }
    };
    match e {
        Element::Const(_) | Element::Index(_) | Element::Random { .. } => {}
        Element::Size(s) => fill(s),
        Element::Load { indices, .. } => indices.iter_mut().for_each(|i| settle(i, resolve)),
        Element::Fold { vars, condition, body, .. } => {
            vars.iter_mut().for_each(|(_, s)| fill(s));
            if let Some(c) = condition {
                settle(c, resolve);
            }
            settle(body, resolve);
        }
        Element::Op(_, args) => args.iter_mut().for_each(|a| settle(a, resolve)),
        Element::Cast(_, a) => settle(a, resolve),
    }
}
