//! Expressions: pest's rows of operands and operators to trees.

use super::build::Builder;
use super::grammar::Rule;
use super::tree::{Arg, BinaryOp, Expr, ExprKind, FoldIndex, Ident, IndexDecl, Scan, Subscript, UnaryOp};
use crate::diagnostic::{Diagnostic, did_you_mean};
use crate::span::Span;
use pest::iterators::{Pair, Pairs};
use pest::pratt_parser::{Assoc, Op, PrattParser};
use std::sync::LazyLock;

/// Loosest first.
static PRECEDENCE: LazyLock<PrattParser<Rule>> = LazyLock::new(|| {
    let left = |rule| Op::infix(rule, Assoc::Left);
    PrattParser::new()
        .op(left(Rule::pipe))
        .op(left(Rule::or))
        .op(left(Rule::and))
        .op(Op::prefix(Rule::not))
        .op(left(Rule::equal) | left(Rule::unequal) | left(Rule::less) | left(Rule::at_most) | left(Rule::greater) | left(Rule::at_least))
        .op(left(Rule::range))
        .op(left(Rule::plus) | left(Rule::minus))
        .op(left(Rule::times) | left(Rule::divide))
        .op(Op::prefix(Rule::negative))
        .op(Op::infix(Rule::power, Assoc::Right))
        .op(Op::postfix(Rule::field) | Op::postfix(Rule::call) | Op::postfix(Rule::index))
});

/// What may stand before `[..](..)`.
pub const FOLDS: [&str; 11] = ["sum", "max", "min", "prod", "mean", "amax", "amin", "argmax", "argmin", "any", "all"];

/// One entry of square brackets as written; what it may hold depends on what the brackets turn out to be.
pub struct Entry {
    pub kind: EntryKind,
    pub condition: Option<Expr>,
    pub span: Span,
}

/// See [`Entry`].
pub enum EntryKind {
    Rest,
    Otherwise(Expr),
    Group(Vec<IndexDecl>),
    Value { value: Expr, range: Option<Expr> },
}

impl Builder<'_> {
    /// Rules `expression` and `size`.
    pub fn expression(&self, pair: Pair<Rule>) -> Expr {
        PRECEDENCE
            .map_primary(|pair| self.primary(pair))
            .map_prefix(|op, operand| {
                let span = self.span(&op).to(operand.span);
                let op = if op.as_rule() == Rule::not { UnaryOp::Not } else { UnaryOp::Neg };
                Expr { kind: ExprKind::Unary(op, Box::new(operand)), span }
            })
            .map_postfix(|base, op| self.postfix(base, op))
            .map_infix(|left, op, right| self.infix(left, op, right))
            .parse(pair.into_inner())
    }

    fn infix(&self, left: Expr, op: Pair<Rule>, right: Expr) -> Expr {
        let span = left.span.to(right.span);
        let binary = match op.as_rule() {
            Rule::pipe => return Expr { kind: ExprKind::Pipe(Box::new(left), Box::new(right)), span },
            Rule::range => return Expr { kind: ExprKind::Range(Box::new(left), Box::new(right)), span },
            Rule::or => BinaryOp::Or,
            Rule::and => BinaryOp::And,
            Rule::equal => BinaryOp::Eq,
            Rule::unequal => BinaryOp::Ne,
            Rule::less => BinaryOp::Lt,
            Rule::at_most => BinaryOp::Le,
            Rule::greater => BinaryOp::Gt,
            Rule::at_least => BinaryOp::Ge,
            Rule::plus => BinaryOp::Add,
            Rule::minus => BinaryOp::Sub,
            Rule::times => BinaryOp::Mul,
            Rule::divide => BinaryOp::Div,
            Rule::power => BinaryOp::Pow,
            rule => unreachable!("{rule:?} is no infix operator"),
        };
        if is_comparison(binary)
            && let ExprKind::Binary(first, _, middle) = &left.kind
            && is_comparison(*first)
            // `(a < b) == c` compares a truth, which its brackets say.
            && !self.bracketed.borrow().contains(&left.span)
        {
            let middle = middle.span;
            self.report(
                Diagnostic::error("E0113", "comparisons do not chain", self.span(&op), "compares the truth of what stands on its left")
                    .label(left.span, "this is true or false")
                    .note("`a < b and b < c` asks for both")
                    .fix("repeat the middle", Span { start: middle.end, end: middle.end, ..middle }, format!(" and {}", self.source(middle))),
            );
        }
        Expr { kind: ExprKind::Binary(binary, Box::new(left), Box::new(right)), span }
    }

    fn primary(&self, pair: Pair<Rule>) -> Expr {
        let span = self.span(&pair);
        let kind = match pair.as_rule() {
            Rule::number => return self.number(pair),
            Rule::text => ExprKind::Text(self.text(&pair).into()),
            Rule::truth => ExprKind::Bool(pair.as_str() == "true"),
            Rule::name => ExprKind::Name(pair.as_str().into()),
            Rule::rest => ExprKind::Rest,
            Rule::list => ExprKind::List(pair.into_inner().filter(|p| p.as_rule() == Rule::expression).map(|p| self.expression(p)).collect()),
            Rule::if_expression => {
                let [condition, then, otherwise] = self.expressions(pair.into_inner());
                ExprKind::If { condition: Box::new(condition), then: Box::new(then), otherwise: Box::new(otherwise) }
            }
            Rule::scan => ExprKind::Scan(Box::new(self.scan(pair))),
            Rule::tuple => {
                let trailing_comma = pair.clone().into_inner().any(|p| p.as_rule() == Rule::comma);
                let mut elements = self.elements(pair);
                if elements.len() == 1 && elements[0].name.is_none() && !trailing_comma {
                    let inner = elements.remove(0).value;
                    self.bracketed.borrow_mut().push(span);
                    return Expr { kind: inner.kind, span };
                }
                ExprKind::Tuple(elements.into_iter().map(|a| (a.name, a.value)).collect())
            }
            rule => unreachable!("{rule:?} is no operand"),
        };
        Expr { kind, span }
    }

    /// The `N` expressions among the pairs.
    pub fn expressions<const N: usize>(&self, pairs: Pairs<Rule>) -> [Expr; N] {
        let mut expressions = pairs.filter(|p| p.as_rule() == Rule::expression);
        std::array::from_fn(|_| self.expression(expressions.next().expect("the grammar holds as many expressions here")))
    }

    /// `(a, x: b)`, of a call or a tuple.
    fn elements(&self, pair: Pair<Rule>) -> Vec<Arg> {
        pair.into_inner()
            .filter(|p| p.as_rule() == Rule::element)
            .map(|element| {
                let name = element.clone().into_inner().next().filter(|p| p.as_rule() == Rule::name).map(|p| self.ident(&p));
                let [value] = self.expressions(element.into_inner());
                Arg { name, value }
            })
            .collect()
    }

    fn scan(&self, pair: Pair<Rule>) -> Scan {
        let mut scan =
            Scan { inputs: vec![], over: Expr { kind: ExprKind::Rest, span: self.span(&pair) }, reversed: false, from: vec![], body: vec![] };
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::scan_input => {
                    let name = part.clone().into_inner().next().map(|p| self.ident(&p)).expect("a scan's input starts with its name");
                    let [value] = self.expressions(part.into_inner());
                    scan.inputs.push((name, value));
                }
                Rule::expression => scan.over = self.expression(part),
                Rule::reversed_word => scan.reversed = true,
                Rule::tuple => {
                    for arg in self.elements(part) {
                        let span = arg.value.span;
                        match arg.name {
                            Some(name) => scan.from.push((name, arg.value)),
                            None => self.report(Diagnostic::error("E0115", "what a scan carries has no name", span, "expected `name: start`").note(
                                "the body reads the carried value by this name, and `s.name` is what it was at every step: `from (h: zeros(B, H))`",
                            )),
                        }
                    }
                }
                Rule::block => scan.body = self.block(part),
                _ => {}
            }
        }
        scan
    }

    fn postfix(&self, base: Expr, pair: Pair<Rule>) -> Expr {
        let span = base.span.to(self.span(&pair));
        let kind = match pair.as_rule() {
            Rule::field => {
                let name = pair.into_inner().nth(1).map(|p| self.ident(&p)).expect("a field has a name");
                ExprKind::Field(Box::new(base), name)
            }
            Rule::call => ExprKind::Call { callee: Box::new(base), args: self.elements(pair) },
            Rule::index => {
                let mut parts = pair.into_inner().filter(|p| matches!(p.as_rule(), Rule::subscripts | Rule::call));
                let entries = parts.next().map(|p| self.subscripts(p)).unwrap_or_default();
                match parts.next() {
                    Some(call) => return self.fold(base, entries, call, span),
                    None => self.load(base, entries),
                }
            }
            rule => unreachable!("{rule:?} follows no operand"),
        };
        Expr { kind, span }
    }

    /// The entries of square brackets.
    pub fn subscripts(&self, pair: Pair<Rule>) -> Vec<Entry> {
        pair.into_inner().filter(|p| p.as_rule() == Rule::subscript).map(|p| self.subscript(p)).collect()
    }

    fn subscript(&self, pair: Pair<Rule>) -> Entry {
        let span = self.span(&pair);
        let mut kind = EntryKind::Rest;
        let mut condition = None;
        let mut word = None;
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::rest => {}
                Rule::otherwise => {
                    let [value] = self.expressions(part.into_inner());
                    kind = EntryKind::Otherwise(value);
                }
                Rule::group => kind = EntryKind::Group(self.group(part)),
                Rule::expression if word == Some(Rule::where_word) => condition = Some(self.expression(part)),
                Rule::expression if word == Some(Rule::in_word) => {
                    if let EntryKind::Value { range, .. } = &mut kind {
                        *range = Some(self.expression(part));
                    }
                }
                Rule::expression => kind = EntryKind::Value { value: self.expression(part), range: None },
                rule => word = Some(rule),
            }
        }
        Entry { kind, condition, span }
    }

    fn group(&self, pair: Pair<Rule>) -> Vec<IndexDecl> {
        pair.into_inner()
            .filter(|p| p.as_rule() == Rule::group_index)
            .map(|index| {
                let mut parts = index.into_inner();
                let name = parts.next().map(|p| self.ident(&p)).expect("an index of a group starts with its name");
                IndexDecl { name, range: parts.find(|p| p.as_rule() == Rule::size).map(|p| self.expression(p)) }
            })
            .collect()
    }

    fn load(&self, base: Expr, entries: Vec<Entry>) -> ExprKind {
        let mut otherwise: Option<Box<Expr>> = None;
        let mut indices = vec![];
        for entry in entries {
            self.no_condition(&entry);
            match entry.kind {
                EntryKind::Otherwise(value) if otherwise.is_none() => otherwise = Some(Box::new(value)),
                EntryKind::Otherwise(_) => {
                    self.report(Diagnostic::error("E0116", "a load says twice what it gives outside", entry.span, "the second `else:`"));
                }
                _ if otherwise.is_some() => {
                    self.report(Diagnostic::error("E0116", "an index stands after `else:`", entry.span, "`else:` comes last"));
                }
                kind => indices.push(self.load_index(kind, entry.span)),
            }
        }
        ExprKind::Load { base: Box::new(base), indices, otherwise }
    }

    fn load_index(&self, kind: EntryKind, span: Span) -> Subscript {
        let range = match &kind {
            EntryKind::Group(group) => group.iter().find_map(|g| g.range.as_ref()),
            EntryKind::Value { range, .. } => range.as_ref(),
            EntryKind::Rest | EntryKind::Otherwise(_) => None,
        };
        if let Some(range) = range {
            self.report(
                Diagnostic::error("E0116", "a load introduces no index", range.span, "a range is given where an index is introduced")
                    .note("ranges stand on the left of `=`, as in `y[i in N] = x[i]`, or in a fold, as in `sum[i in N](x[i])`"),
            );
        }
        match kind {
            EntryKind::Rest | EntryKind::Otherwise(_) => Subscript::Rest(span),
            EntryKind::Group(group) => Subscript::Group(group.into_iter().map(|g| g.name).collect(), span),
            EntryKind::Value { value, .. } => Subscript::Expr(value),
        }
    }

    /// Indices of a load on the left of a scatter.
    pub fn scatter_indices(&self, pair: Pair<Rule>) -> Vec<Subscript> {
        let ExprKind::Load { indices, otherwise, .. } = self.load(Expr { kind: ExprKind::Rest, span: self.span(&pair) }, self.subscripts(pair))
        else {
            return vec![];
        };
        if let Some(value) = otherwise {
            self.report(
                Diagnostic::error("E0116", "a scatter writes nothing outside the tensor", value.span, "`else:` belongs to loads")
                    .note("an index outside the tensor is left out by a condition of the value"),
            );
        }
        indices
    }

    /// Reports a `where` outside a fold.
    pub fn no_condition(&self, entry: &Entry) {
        if let Some(condition) = &entry.condition {
            self.report(
                Diagnostic::error("E0116", "only a fold has a condition", condition.span, "`where` outside a fold")
                    .note("`if c then a else b` chooses between two values"),
            );
        }
    }

    fn fold(&self, base: Expr, entries: Vec<Entry>, call: Pair<Rule>, span: Span) -> Expr {
        let broken = Expr { kind: ExprKind::Rest, span };
        let ExprKind::Name(name) = &base.kind else {
            self.report(
                Diagnostic::error("E0116", "an element is called", self.span(&call), "square brackets with a call behind them are a fold")
                    .label(base.span, "expected the name of a fold, such as `sum`"),
            );
            return broken;
        };
        if !FOLDS.contains(&name.as_ref()) {
            let diagnostic =
                Diagnostic::error("E0116", format!("`{name}` is no fold"), base.span, "square brackets with a call behind them are a fold")
                    .note(format!("the folds are {}", FOLDS.map(|f| format!("`{f}`")).join(", ")));
            self.report(match did_you_mean(name, FOLDS) {
                Some(near) => diagnostic.fix(format!("did you mean `{near}`?"), base.span, near),
                None => diagnostic,
            });
            return broken;
        }
        let fold = Ident { name: name.clone(), span: base.span };
        let mut condition = None;
        let mut indices = vec![];
        let last = entries.len().saturating_sub(1);
        for (i, entry) in entries.into_iter().enumerate() {
            if let Some(c) = entry.condition {
                if i < last {
                    self.report(
                        Diagnostic::error("E0116", "an index stands after the fold's condition", c.span, "`where` comes last")
                            .note("several conditions are joined by `and`"),
                    );
                }
                condition = Some(Box::new(c));
            }
            match self.fold_index(entry.kind, entry.span) {
                Ok(index) => indices.push(index),
                Err(label) => {
                    self.report(Diagnostic::error("E0116", "a fold runs over indices", entry.span, label).note("as in `sum[i, j in N](x[i, j])`"))
                }
            }
        }
        let mut args = self.elements(call.clone());
        let named = args.first().and_then(|a| a.name.clone());
        if args.len() != 1 || named.is_some() {
            let place = named.map_or(self.span(&call), |n| n.span);
            self.report(
                Diagnostic::error("E0116", format!("`{name}` folds one value"), place, "expected one expression in these brackets")
                    .label(base.span, "this fold"),
            );
            return broken;
        }
        let body = Box::new(args.remove(0).value);
        Expr { kind: ExprKind::Fold { fold, indices, condition, body }, span }
    }

    /// What stands wrongly among a fold's indices, in words, or the index.
    fn fold_index(&self, kind: EntryKind, span: Span) -> Result<FoldIndex, &'static str> {
        match kind {
            EntryKind::Rest => Ok(FoldIndex::Rest(span)),
            EntryKind::Value { value: Expr { kind: ExprKind::Name(name), span }, range } => {
                Ok(FoldIndex::Var(IndexDecl { name: Ident { name, span }, range }))
            }
            EntryKind::Value { .. } => Err("expected the name of an index"),
            EntryKind::Group(_) => Err("a fold takes the indices of a group one by one, with commas between"),
            EntryKind::Otherwise(_) => Err("`else:` belongs to loads"),
        }
    }
}

fn is_comparison(op: BinaryOp) -> bool {
    match op {
        BinaryOp::Eq | BinaryOp::Ne | BinaryOp::Lt | BinaryOp::Le | BinaryOp::Gt | BinaryOp::Ge => true,
        BinaryOp::Or | BinaryOp::And | BinaryOp::Add | BinaryOp::Sub | BinaryOp::Mul | BinaryOp::Div | BinaryOp::Pow => false,
    }
}
