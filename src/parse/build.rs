//! Items, types and statements: pest's pairs to trees.
//!
//! In: the pairs of one item that the grammar accepted. Out: its tree; what the grammar is too coarse to refuse is reported, and the tree
//! is then not to be used. Panics only where the grammar and this file disagree.

use super::expression::{Entry as IndexEntry, EntryKind};
use super::grammar::Rule;
use super::tree::*;
use crate::diagnostic::Diagnostic;
use crate::span::{FileId, Span};
use pest::iterators::{Pair, Pairs};
use std::cell::RefCell;
use std::sync::Arc;

/// Turns the pairs of one item into its tree.
pub struct Builder<'a> {
    text: &'a str,
    file: FileId,
    /// Where the item's text starts in the file.
    base: usize,
    /// What was found wrong.
    pub diagnostics: RefCell<Vec<Diagnostic>>,
    /// Expressions that stand in brackets of their own.
    pub bracketed: RefCell<Vec<Span>>,
}

/// What one item's text holds.
pub enum Built {
    /// `nn 1`
    Edition(u32, Span),
    /// Anything else.
    Item(Box<Item>),
}

impl<'a> Builder<'a> {
    /// For the item that starts at the byte `base` of `text`.
    pub fn new(text: &'a str, file: FileId, base: usize) -> Builder<'a> {
        Builder { text, file, base, diagnostics: RefCell::default(), bracketed: RefCell::default() }
    }

    /// Notes a mistake.
    pub fn report(&self, diagnostic: Diagnostic) {
        self.diagnostics.borrow_mut().push(diagnostic);
    }

    /// The pair's place, without the blanks that pest counts to a rule whose end is optional.
    pub fn span(&self, pair: &Pair<Rule>) -> Span {
        let mut last = pair.clone();
        while let Some(inner) = last.clone().into_inner().next_back() {
            last = inner;
        }
        let (start, end) = (pair.as_span().start(), last.as_span().end());
        Span { file: self.file, start: (self.base + start) as u32, end: (self.base + end) as u32 }
    }

    /// The text at a place.
    pub fn source(&self, span: Span) -> &'a str {
        &self.text[span.start as usize..span.end as usize]
    }

    /// A name.
    pub fn ident(&self, pair: &Pair<Rule>) -> Ident {
        Ident { name: pair.as_str().into(), span: self.span(pair) }
    }

    /// Rule `item`.
    pub fn item(&self, pairs: Pairs<Rule>) -> Option<Built> {
        let mut doc = vec![];
        for pair in pairs.flat_map(Pair::into_inner) {
            match pair.as_rule() {
                Rule::doc => doc.push(pair.as_str()[3..].strip_prefix(' ').unwrap_or(&pair.as_str()[3..]).trim_end()),
                Rule::declaration => return pair.into_inner().next().map(|p| self.declaration(p, doc.join("\n").into())),
                _ => {}
            }
        }
        None
    }

    fn declaration(&self, pair: Pair<Rule>, doc: Arc<str>) -> Built {
        let span = self.span(&pair);
        let item = match pair.as_rule() {
            Rule::edition => {
                let number = pair.into_inner().find(|p| p.as_rule() == Rule::decimal);
                // An edition that is no small whole number is as unknown as edition 0.
                return Built::Edition(number.and_then(|p| p.as_str().parse().ok()).unwrap_or(0), span);
            }
            Rule::import => {
                let path = pair.into_inner().find(|p| p.as_rule() == Rule::text).map(|p| self.text(&p)).unwrap_or_default();
                Item::Import { path: path.into(), span }
            }
            Rule::dims => Item::Dim(pair.into_inner().filter(|p| p.as_rule() == Rule::dim).map(|p| self.dim(p)).collect()),
            Rule::constants => {
                Item::Const(pair.into_inner().filter(|p| p.as_rule() == Rule::constant).map(|p| (self.name(&p), self.value(p))).collect())
            }
            Rule::section => Item::Section(self.section(pair, doc, span)),
            Rule::function => Item::Function(Box::new(self.function(pair, doc, span))),
            rule => unreachable!("{rule:?} is no declaration"),
        };
        Built::Item(Box::new(item))
    }

    /// The first name directly inside.
    fn name(&self, pair: &Pair<Rule>) -> Ident {
        pair.clone().into_inner().find(|p| p.as_rule() == Rule::name).map(|p| self.ident(&p)).expect("the grammar holds a name here")
    }

    /// The one expression directly inside.
    fn value(&self, pair: Pair<Rule>) -> Expr {
        let [value] = self.expressions(pair.into_inner());
        value
    }

    fn dim(&self, pair: Pair<Rule>) -> DimDecl {
        let name = self.name(&pair);
        let (mut min, mut max) = (None, None);
        for size in pair.into_inner().filter(|p| p.as_rule() == Rule::size) {
            let size = self.expression(size);
            let bound = if size.span.start < name.span.start { &mut min } else { &mut max };
            *bound = Some(size);
        }
        DimDecl { name, min, max }
    }

    fn function(&self, pair: Pair<Rule>, doc: Arc<str>, span: Span) -> Function {
        let name = self.name(&pair);
        let mut function = Function { kind: FunctionKind::Fn, name, doc, params: vec![], results: vec![], body: vec![], span };
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::function_word => function.kind = function_kind(part.as_str()),
                Rule::parameters => {
                    function.params = part.into_inner().filter(|p| p.as_rule() == Rule::parameter).map(|p| self.parameter(p)).collect();
                }
                Rule::results => function.results = self.results(part),
                Rule::block => function.body = self.block(part),
                Rule::expression => {
                    let value = self.expression(part);
                    function.body = vec![Stmt { span: value.span, kind: StmtKind::Expr(value) }];
                }
                _ => {}
            }
        }
        function
    }

    fn parameter(&self, pair: Pair<Rule>) -> Param {
        let mut param = Param { name: self.name(&pair), ty: None, default: None };
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::r#type => param.ty = Some(self.type_expr(part)),
                Rule::expression => param.default = Some(self.expression(part)),
                _ => {}
            }
        }
        param
    }

    fn results(&self, pair: Pair<Rule>) -> Vec<ResultDecl> {
        pair.into_inner()
            .filter_map(|part| match part.as_rule() {
                Rule::r#type => Some(ResultDecl { name: None, ty: self.type_expr(part) }),
                Rule::result_type => {
                    let name = part.clone().into_inner().next().filter(|p| p.as_rule() == Rule::name).map(|p| self.ident(&p));
                    part.into_inner().find(|p| p.as_rule() == Rule::r#type).map(|p| ResultDecl { name, ty: self.type_expr(p) })
                }
                _ => None,
            })
            .collect()
    }

    fn type_expr(&self, pair: Pair<Rule>) -> TypeExpr {
        let mut ty = TypeExpr { head: self.name(&pair), angle: None, shape: None, span: self.span(&pair) };
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::angle => ty.angle = part.into_inner().find(|p| p.as_rule() == Rule::size).map(|p| self.expression(p)),
                Rule::shape => ty.shape = Some(part.into_inner().filter(|p| p.as_rule() == Rule::axis).map(|p| self.axis(p)).collect()),
                _ => {}
            }
        }
        ty
    }

    fn axis(&self, pair: Pair<Rule>) -> Axis {
        let first = pair.clone().into_inner().next().expect("an axis is not empty");
        match first.as_rule() {
            Rule::rest => Axis::Rest(self.span(&first)),
            Rule::name => Axis::Named(self.ident(&first), self.value(pair)),
            _ => Axis::Size(self.expression(first)),
        }
    }

    fn section(&self, pair: Pair<Rule>, doc: Arc<str>, span: Span) -> Section {
        let mut section = Section { kind: SectionKind::Data, name: self.name(&pair), doc, entries: vec![], span };
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::section_word if part.as_str() == "train" => section.kind = SectionKind::Train,
                Rule::entry => section.entries.push(self.entry(part, section.kind)),
                _ => {}
            }
        }
        section
    }

    fn entry(&self, pair: Pair<Rule>, section: SectionKind) -> Entry {
        let name = pair.clone().into_inner().next().filter(|p| p.as_rule() == Rule::name).map(|p| self.ident(&p));
        let ty = pair.clone().into_inner().find(|p| p.as_rule() == Rule::r#type).map(|p| self.type_expr(p));
        let colon = pair.clone().into_inner().find(|p| p.as_rule() == Rule::colon).map(|p| self.span(&p));
        let value = self.value(pair);
        match (name, ty, colon) {
            (Some(name), ty, _) => Entry::Set { name, value, ty },
            (None, Some(_), Some(colon)) => {
                self.report(Diagnostic::error("E0115", "a setting is written with `=`", colon, "expected `=`").fix("use `=`", colon, " ="));
                Entry::Do(value)
            }
            (None, _, _) => {
                if !matches!(value.kind, ExprKind::Call { .. }) {
                    let kind = match section {
                        SectionKind::Data => "data",
                        SectionKind::Train => "train",
                    };
                    let text = format!("a line of a `{kind}` section sets a name or calls something");
                    self.report(
                        Diagnostic::error("E0117", text, value.span, "neither `name = value` nor a call")
                            .note("as in `batch = 32` or `early_stop(on: valid.accuracy)`"),
                    );
                }
                Entry::Do(value)
            }
        }
    }

    /// Rule `block`: its statements; a value that nothing receives is reported.
    pub fn block(&self, pair: Pair<Rule>) -> Vec<Stmt> {
        let body: Vec<Stmt> = pair.into_inner().filter(|p| p.as_rule() == Rule::statement).map(|p| self.statement(p)).collect();
        for pair in body.windows(2) {
            let last = matches!(pair[1].kind, StmtKind::Gradient { .. } | StmtKind::Result(_));
            if let (StmtKind::Expr(value), false) = (&pair[0].kind, last) {
                let diagnostic = Diagnostic::error("E0117", "the value of this statement is not used", value.span, "nothing receives it")
                    .label(pair[1].span, "the body goes on here");
                let place = Span { end: value.span.start, ..value.span };
                self.report(match pair[1].kind {
                    StmtKind::Expr(Expr { kind: ExprKind::Unary(..), .. }) => {
                        diagnostic.note("the end of a line ends a statement; an expression goes on in the next line if brackets are open")
                    }
                    _ => diagnostic.fix("give it a name", place, "y = "),
                });
            }
        }
        body
    }

    fn statement(&self, pair: Pair<Rule>) -> Stmt {
        let span = self.span(&pair);
        let pair = pair.into_inner().next().expect("a statement is not empty");
        self.statement_of(pair, span)
    }

    fn statement_of(&self, pair: Pair<Rule>, span: Span) -> Stmt {
        let parts = || pair.clone().into_inner();
        let ty = || parts().find(|p| p.as_rule() == Rule::r#type).map(|p| self.type_expr(p));
        let kind = match pair.as_rule() {
            Rule::if_statement => return self.if_statement(pair, span),
            Rule::param => {
                let init = parts().find(|p| p.as_rule() == Rule::expression).map(|p| self.expression(p));
                StmtKind::Param { name: self.name(&pair), ty: ty().expect("the grammar holds a type here"), init }
            }
            Rule::state => StmtKind::State { name: self.name(&pair), ty: ty(), init: self.value(pair.clone()) },
            Rule::update => {
                let indices = parts().find(|p| p.as_rule() == Rule::subscripts).map(|p| self.target_indices(self.subscripts(p)));
                StmtKind::Update { target: self.name(&pair), indices, value: self.value(pair.clone()) }
            }
            Rule::require => {
                let message = parts().find(|p| p.as_rule() == Rule::text).map(|p| self.text(&p).into());
                StmtKind::Require { condition: self.value(pair.clone()), message }
            }
            Rule::gradient => {
                let cotangents = parts().filter(|p| p.as_rule() == Rule::name).map(|p| self.ident(&p)).collect();
                let body = parts().find(|p| p.as_rule() == Rule::block).map(|p| self.block(p)).unwrap_or_default();
                StmtKind::Gradient { cotangents, body }
            }
            Rule::result => StmtKind::Result(self.value(pair.clone())),
            Rule::scatter => {
                let mut names = parts().filter(|p| p.as_rule() == Rule::name).map(|p| self.ident(&p));
                let (Some(fold), Some(target)) = (names.next(), names.next()) else { unreachable!("a scatter names its fold and its target") };
                let indices = parts().find(|p| p.as_rule() == Rule::subscripts).map(|p| self.scatter_indices(p)).unwrap_or_default();
                let [value, base] = self.expressions(parts());
                StmtKind::Scatter { fold, target, indices, value, base }
            }
            Rule::assignment => self.assignment(pair),
            rule => unreachable!("{rule:?} is no statement"),
        };
        Stmt { kind, span }
    }

    fn if_statement(&self, pair: Pair<Rule>, span: Span) -> Stmt {
        let mut expressions = vec![];
        let mut branches = vec![];
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::expression => expressions.push(self.expression(part)),
                Rule::block => branches.push(self.block(part)),
                Rule::if_statement => {
                    let span = self.span(&part);
                    branches.push(vec![self.if_statement(part, span)]);
                }
                _ => {}
            }
        }
        let mut expressions = expressions.into_iter();
        let condition = expressions.next().expect("an `if` has a condition");
        if let (Some(then), Some(otherwise)) = (expressions.next(), expressions.next()) {
            let kind = ExprKind::If { condition: Box::new(condition), then: Box::new(then), otherwise: Box::new(otherwise) };
            return Stmt { kind: StmtKind::Expr(Expr { kind, span }), span };
        }
        let mut branches = branches.into_iter();
        let (then, otherwise) = (branches.next().unwrap_or_default(), branches.next().unwrap_or_default());
        Stmt { kind: StmtKind::If { condition, then, otherwise }, span }
    }

    /// `a, b = e`, `y[i] = e` or `e`. The left side was read as an expression, so that no text is read twice.
    fn assignment(&self, pair: Pair<Rule>) -> StmtKind {
        let mut parts: Vec<Pair<Rule>> = pair.into_inner().collect();
        if parts.len() == 1 {
            return StmtKind::Expr(self.expression(parts.remove(0)));
        }
        let value = self.expression(parts.pop().expect("an assignment ends with its value"));
        let mut first = parts.remove(0).into_inner();
        let further: Vec<Ident> = parts.iter().filter(|p| p.as_rule() == Rule::name).map(|p| self.ident(p)).collect();
        let whole = first.clone();
        let head = first.next().filter(|p| p.as_rule() == Rule::name).map(|p| self.ident(&p));
        match (head, first.next(), first.next()) {
            (Some(name), None, None) => {
                return StmtKind::Let { targets: std::iter::once(name).chain(further).collect(), value };
            }
            (Some(target), Some(index), None) if index.as_rule() == Rule::index && further.is_empty() => {
                let parts = index.clone().into_inner();
                if let (Some(subscripts), None) = (parts.clone().next(), parts.clone().find(|p| p.as_rule() == Rule::call)) {
                    return StmtKind::Index { target, indices: self.target_indices(self.subscripts(subscripts)), value };
                }
            }
            _ => {}
        }
        let ends = whole.clone().next().zip(whole.last());
        let span = ends.map_or(value.span, |(first, last)| self.span(&first).to(self.span(&last)));
        self.report(
            Diagnostic::error("E0111", "this cannot be given a value", span, "expected a name, or a name with indices")
                .note("as in `y = relu(x)`, `a, b = split(x, 2)` or `y[i, j] = x[j, i]`"),
        );
        StmtKind::Let { targets: further, value }
    }

    /// What stands in the square brackets on the left of `=`.
    fn target_indices(&self, entries: Vec<IndexEntry>) -> Vec<TargetIndex> {
        let mut indices = vec![];
        for entry in entries {
            self.no_condition(&entry);
            let span = entry.span;
            match entry.kind {
                EntryKind::Rest => indices.push(TargetIndex::Rest(span)),
                EntryKind::Group(group) => indices.push(TargetIndex::Group(group, span)),
                EntryKind::Value { value: Expr { kind: ExprKind::Name(name), span }, range } => {
                    indices.push(TargetIndex::Var(IndexDecl { name: Ident { name, span }, range }));
                }
                EntryKind::Value { .. } | EntryKind::Otherwise(_) => self.report(
                    Diagnostic::error("E0111", "the left side names indices", span, "expected the name of an index")
                        .note("`y[i] = x[i + 1]` says for every `i` what `y` holds there; what is computed stands on the right"),
                ),
            }
        }
        indices
    }
}

fn function_kind(word: &str) -> FunctionKind {
    match word {
        "model" => FunctionKind::Model,
        "block" => FunctionKind::Block,
        "layer" => FunctionKind::Layer,
        "init" => FunctionKind::Init,
        "loss" => FunctionKind::Loss,
        "metric" => FunctionKind::Metric,
        "optimizer" => FunctionKind::Optimizer,
        "schedule" => FunctionKind::Schedule,
        _ => FunctionKind::Fn,
    }
}
