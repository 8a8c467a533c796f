//! What comes before the grammar: where items start, which newlines end a statement, and whether brackets and texts are closed.
//!
//! In: any text. Out: the text with every newline that ends no statement turned into a carriage return (same length, so that places
//! stay), and its items. Then true: every item that is not `broken` has closed texts, balanced brackets, and is so shallow that recursive
//! functions over it are safe on a thread's usual stack.

use super::token::{Kind, Token, tokens};
use crate::diagnostic::Diagnostic;
use crate::span::{FileId, Span};

/// The words that start an item in the first column.
pub const ITEM_WORDS: [&str; 15] =
    ["nn", "import", "dim", "const", "model", "block", "layer", "fn", "init", "loss", "metric", "optimizer", "schedule", "data", "train"];

/// Brackets inside one another.
const MAX_BRACKETS: usize = 100;
/// Brackets and operators that a part of an expression may stand under.
const MAX_DEPTH: usize = 1000;
/// How many operators a bracket counts for: what an expression in brackets costs the parser on its stack.
const BRACKET: usize = MAX_DEPTH / MAX_BRACKETS;

/// One item's text, with the doc comment before it.
#[derive(Clone, Copy, Debug)]
pub struct Chunk {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
    /// Already reported.
    pub broken: bool,
    /// Starts with an item's word.
    pub item: bool,
}

/// A text that is ready for the grammar.
pub struct Layout {
    /// As long as the original.
    pub text: String,
    /// Tokens of the original.
    pub tokens: Vec<Token>,
    /// In order.
    pub chunks: Vec<Chunk>,
    /// What was found wrong.
    pub diagnostics: Vec<Diagnostic>,
}

/// An open bracket.
struct Bracket {
    token: Token,
    /// Operators since the bracket or the last comma in it.
    operators: usize,
}

/// See the module.
pub fn layout(text: &str, file: FileId) -> Layout {
    let tokens = tokens(text);
    let mut scan = Scan { text, file, tokens: &tokens, stack: vec![], operators: 0, depth: 0, chunks: vec![], diagnostics: vec![] };
    let mut bytes = text.as_bytes().to_vec();
    if text.starts_with('\u{feff}') {
        bytes[..3].fill(b' ');
    }
    let next = next_solid(&tokens);
    let mut doc = None;
    let mut line_start = true;
    for (i, token) in tokens.iter().enumerate() {
        match token.kind {
            Kind::Newline => {
                line_start = true;
                if !scan.ends_statement(i, next[i]) {
                    bytes[token.start] = b'\r';
                } else if !scan.in_bracket() {
                    scan.leave_expression();
                }
                continue;
            }
            Kind::Comment => {
                if line_start && doc.is_none() && token.text(text).starts_with("///") {
                    doc = Some(token.start);
                }
                continue;
            }
            _ => {}
        }
        if line_start {
            scan.line(i, doc);
        }
        doc = None;
        line_start = false;
        scan.token(token);
    }
    scan.close_chunk(text.len());
    let Scan { chunks, diagnostics, .. } = scan;
    let text = String::from_utf8(bytes).expect("only single-byte characters were replaced, and the mark at the start as a whole");
    Layout { text, tokens, chunks, diagnostics }
}

/// For every token the next one that is neither a newline nor a comment.
fn next_solid(tokens: &[Token]) -> Vec<Option<usize>> {
    let mut next = vec![None; tokens.len()];
    let mut solid = None;
    for (i, token) in tokens.iter().enumerate().rev() {
        next[i] = solid;
        if !matches!(token.kind, Kind::Newline | Kind::Comment) {
            solid = Some(i);
        }
    }
    next
}

/// Whether the token opens an item: an item's word in the first column, and what such a word is followed by.
pub fn starts_item(text: &str, tokens: &[Token], at: usize) -> bool {
    let before = &text[..tokens[at].start];
    (before.is_empty() || before.ends_with('\n') || before == "\u{feff}") && reads_as_item(text, tokens, at)
}

/// As [`starts_item`], in any column.
fn reads_as_item(text: &str, tokens: &[Token], at: usize) -> bool {
    let word = tokens[at].text(text);
    ITEM_WORDS.contains(&word)
        && tokens.get(at + 1).is_some_and(|next| match word {
            "nn" => next.kind == Kind::Number,
            "import" => matches!(next.kind, Kind::Text | Kind::OpenText),
            _ => matches!(next.kind, Kind::Word | Kind::Number),
        })
}

struct Scan<'a> {
    text: &'a str,
    file: FileId,
    tokens: &'a [Token],
    stack: Vec<Bracket>,
    /// Operators outside brackets since the statement began.
    operators: usize,
    /// Weights of all that is open.
    depth: usize,
    chunks: Vec<Chunk>,
    diagnostics: Vec<Diagnostic>,
}

impl Scan<'_> {
    fn span(&self, start: usize, end: usize) -> Span {
        Span { file: self.file, start: start as u32, end: end as u32 }
    }

    fn at(&self, token: &Token) -> Span {
        self.span(token.start, token.end)
    }

    fn broken(&self) -> bool {
        self.chunks.last().is_some_and(|c| c.broken)
    }

    /// Reports and gives the item up.
    fn give_up(&mut self, diagnostic: Diagnostic) {
        if self.diagnostics.len() < super::MAX_DIAGNOSTICS {
            self.diagnostics.push(diagnostic);
        }
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.broken = true;
        }
    }

    fn in_bracket(&self) -> bool {
        self.stack.last().is_some_and(|b| b.token.text(self.text) != "{")
    }

    /// Whether the newline `newline`, followed by the token `next`, ends a statement.
    fn ends_statement(&self, newline: usize, next: Option<usize>) -> bool {
        let Some(next) = next else { return true };
        if starts_item(self.text, self.tokens, next) {
            return true;
        }
        let before = self.tokens[..newline].iter().rev().find(|t| t.kind != Kind::Comment).filter(|t| t.kind != Kind::Newline);
        !(self.in_bracket()
            || before.is_some_and(|t| t.text(self.text) == "=")
            || matches!(self.tokens[next].text(self.text), "|>" | "->" | "=" | "{" | "then" | "else"))
    }

    /// The first token of a line: does an item start here?
    fn line(&mut self, at: usize, doc: Option<usize>) {
        let token = self.tokens[at];
        let start = doc.unwrap_or(token.start);
        if starts_item(self.text, self.tokens, at) {
            self.close_chunk(start);
            self.chunks.push(Chunk { start, end: start, broken: false, item: true });
            return;
        }
        let first_column = token.start == 0 || self.text.as_bytes()[token.start - 1] == b'\n';
        let continues = token.kind == Kind::Close || matches!(token.text(self.text), "|>" | "->" | "=" | "{" | "then" | "else");
        let follows_item = self.chunks.last().is_some_and(|c| c.item && !c.broken);
        let stray = first_column || reads_as_item(self.text, self.tokens, at);
        if self.chunks.is_empty() || (stray && self.stack.is_empty() && !continues && follows_item) {
            self.close_chunk(start);
            self.chunks.push(Chunk { start, end: start, broken: false, item: false });
        }
    }

    /// Ends the current chunk: brackets that are still open stay so.
    fn close_chunk(&mut self, end: usize) {
        let Some(chunk) = self.chunks.last().copied() else { return };
        if let (Some(bracket), false) = (self.stack.first(), chunk.broken) {
            let (token, content) = (bracket.token, self.text[..end].trim_end().len());
            let open = token.text(self.text);
            let (insert, place) = if open == "{" { ("\n}", content) } else { (closing(open), self.line_end(token.start)) };
            let diagnostic = Diagnostic::error("E0103", format!("`{open}` is never closed"), self.at(&token), "opened here")
                .label(self.span(content, content), "the item ends here")
                .fix(format!("close it with `{}`", closing(open)), self.span(place, place), insert);
            self.give_up(diagnostic);
        }
        self.stack.clear();
        (self.operators, self.depth) = (0, 0);
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.end = end;
        }
    }

    /// Where the content of the line around `at` ends.
    fn line_end(&self, at: usize) -> usize {
        let line = &self.tokens[self.tokens.partition_point(|t| t.start < at)..];
        let mut end = at;
        for token in line.iter().take_while(|t| !matches!(t.kind, Kind::Newline | Kind::Comment)) {
            if token.text(self.text) == "{" && token.start > at {
                break;
            }
            end = token.end;
        }
        end
    }

    fn token(&mut self, token: &Token) {
        if self.broken() {
            return;
        }
        match token.kind {
            Kind::OpenText => {
                let text = token.text(self.text);
                let end = token.start + text.trim_end_matches([')', ',', ']', '}', ' ', '\t']).len().max(1);
                let diagnostic = Diagnostic::error("E0105", "the text is not closed", self.at(token), "a text ends on the line where it starts").fix(
                    "close it",
                    self.span(end, end),
                    "\"",
                );
                self.give_up(diagnostic);
            }
            Kind::Open => {
                if self.stack.len() >= MAX_BRACKETS {
                    self.too_deep(token, "more brackets are open here than the parser takes");
                }
                self.stack.push(Bracket { token: *token, operators: 0 });
                self.depth += BRACKET;
            }
            Kind::Close => self.close(token),
            Kind::Mark if matches!(token.text(self.text), "," | ";") => self.leave_expression(),
            Kind::Mark if !matches!(token.text(self.text), ":" | "=") => self.operator(token, 1),
            Kind::Word => match token.text(self.text) {
                "if" | "scan" => self.operator(token, BRACKET),
                "and" | "or" | "not" => self.operator(token, 1),
                _ => {}
            },
            // Some programs show a new line there, others do not: what a comment hides is no matter of taste.
            Kind::Other if token.text(self.text) == "\r" => {
                let place = self.at(token);
                let diagnostic = Diagnostic::error("E0112", "a carriage return alone ends no line", place, "not part of the language");
                self.give_up(diagnostic.fix("end the line", place, "\n"));
            }
            Kind::Mark | Kind::Number | Kind::Text | Kind::Other | Kind::Newline | Kind::Comment => {}
        }
    }

    fn operator(&mut self, token: &Token, weight: usize) {
        *self.stack.last_mut().map_or(&mut self.operators, |b| &mut b.operators) += weight;
        self.depth += weight;
        if self.depth > MAX_DEPTH {
            self.too_deep(token, "this is one operator too many for one expression");
        }
    }

    /// A comma, a semicolon or a statement's end: what follows stands beside what was, not under it.
    fn leave_expression(&mut self) {
        let operators = self.stack.last_mut().map_or(&mut self.operators, |b| &mut b.operators);
        self.depth -= *operators;
        *operators = 0;
    }

    fn too_deep(&mut self, token: &Token, label: &str) {
        let diagnostic = Diagnostic::error("E0106", "the expression is nested too deeply", self.at(token), label)
            .note(format!("at most {MAX_BRACKETS} brackets, or {MAX_DEPTH} operators, may stand inside one another; name a part of it"));
        self.give_up(diagnostic);
    }

    fn close(&mut self, token: &Token) {
        let close = token.text(self.text);
        if self.stack.last().is_some_and(|b| closing(b.token.text(self.text)) == close) {
            let bracket = self.stack.pop().map_or(0, |b| b.operators);
            self.depth -= BRACKET + bracket;
            // `f(1)(2)(3)`: every call stands over the one before.
            self.operator(token, 1);
            return;
        }
        let opened = self.stack.iter().any(|b| closing(b.token.text(self.text)) == close);
        let diagnostic = match (self.stack.last(), opened) {
            (Some(bracket), true) => {
                let (inner, open) = (bracket.token, bracket.token.text(self.text));
                let place = self.line_end(inner.start).min(token.start);
                Diagnostic::error("E0103", format!("`{open}` is never closed"), self.at(&inner), "opened here")
                    .label(self.at(token), format!("`{}` was to come before this", closing(open)))
                    .fix(format!("close it with `{}`", closing(open)), self.span(place, place), closing(open))
            }
            (Some(bracket), false) => {
                let (inner, open) = (bracket.token, bracket.token.text(self.text));
                Diagnostic::error("E0104", format!("`{close}` does not close `{open}`"), self.at(token), format!("expected `{}`", closing(open)))
                    .label(self.at(&inner), "opened here")
                    .fix(format!("close it with `{}`", closing(open)), self.at(token), closing(open))
            }
            (None, _) => Diagnostic::error("E0104", format!("`{close}` closes nothing"), self.at(token), "no bracket is open here").fix(
                "remove it",
                self.at(token),
                "",
            ),
        };
        self.give_up(diagnostic);
    }
}

/// The bracket that closes `open`.
fn closing(open: &str) -> &'static str {
    match open {
        "(" => ")",
        "[" => "]",
        _ => "}",
    }
}
