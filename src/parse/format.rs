//! `nnc fmt`: the one way to lay a text out.
//!
//! In: a text that parses. Out: the same tokens and comments in the same order (a `;` at the end of a line is dropped), so it means the
//! same; formatting the result changes nothing. The author's line breaks stay, but for blank lines in a row and breaks that the style has
//! elsewhere; blanks, indentation, the `=` of settings and comments behind code follow the style. The `=` of neighbouring bindings share a
//! column where the author has put them into one. Signatures wider than [`WIDTH`] are broken.

use super::grammar::{Grammar, Rule};
use super::layout::{Layout, layout};
use super::spacing::{self, Role, Roles};
use super::token::{Kind, Token};
use crate::diagnostic::Diagnostic;
use crate::span::FileId;
use pest::Parser;

/// Columns after which a signature is broken.
pub const WIDTH: usize = 150;
const INDENT: usize = 4;

/// The text in the one style, or what keeps it from being parsed.
pub fn format(text: &str) -> Result<String, Vec<Diagnostic>> {
    let diagnostics = super::parse(text, FileId(0)).1;
    if !diagnostics.is_empty() {
        return Err(diagnostics);
    }
    let laid_out = layout(text, FileId(0));
    let mut roles = Roles::default();
    for chunk in &laid_out.chunks {
        if let Ok(pairs) = Grammar::parse(Rule::item, &laid_out.text[chunk.start..chunk.end]) {
            roles.add(pairs, chunk.start);
        }
    }
    let pieces = pieces(text, &laid_out, &roles);
    let lines = indented(text, &pieces);
    let lines = lines.into_iter().flat_map(|line| broken(text, line)).collect::<Vec<_>>();
    Ok(written(text, &lines))
}

/// A token to be written.
#[derive(Clone, Copy, Debug)]
struct Piece {
    token: Token,
    role: Role,
    /// How the line before it ended, if it starts a line.
    line: Option<Break>,
}

/// The start of a line.
#[derive(Clone, Copy, Debug)]
struct Break {
    /// An empty line stands before it.
    blank: bool,
    /// The line goes on with the statement of the line before.
    continues: bool,
}

/// The tokens without their newlines, with the line breaks of the style.
fn pieces(text: &str, layout: &Layout, roles: &Roles) -> Vec<Piece> {
    let spread = spread_braces(text, &layout.tokens);
    let mut pieces: Vec<Piece> = vec![];
    let (mut newlines, mut continues) = (0, false);
    for (i, token) in layout.tokens.iter().enumerate() {
        if token.kind == Kind::Newline {
            newlines += 1;
            continues = layout.text.as_bytes()[token.start] == b'\r';
            continue;
        }
        let word = token.text(text);
        let next = layout.tokens.get(i + 1);
        let next_word = next.map_or("", |n| n.text(text));
        let previous = pieces.last().map_or("", |p| p.token.text(text));
        if word == ";"
            && (next.is_none_or(|n| matches!(n.kind, Kind::Newline | Kind::Comment))
                || matches!(next_word, ";" | "}")
                || previous == "{"
                || newlines > 0)
        {
            continue;
        }
        let after_comment = pieces.last().is_some_and(|p| p.token.kind == Kind::Comment);
        let joined = !after_comment && continues && (word == "{" || (word == "else" && previous == "}"));
        let opened =
            spread.contains(&i) && word == "}" || pieces.last().is_some_and(|p| spread.binary_search(&p.role.index).is_ok() && previous == "{");
        let starts = pieces.is_empty() || (newlines > 0 && !joined) || (opened && (word == "}" || token.kind != Kind::Comment));
        let blank = newlines > 1 && previous != "{" && !continues && !matches!(word, "}" | ")" | "]");
        let line = starts.then_some(Break { blank, continues: continues && newlines > 0 });
        pieces.push(Piece { token: *token, role: Role { index: i, ..roles.of(token) }, line });
        (newlines, continues) = (0, false);
    }
    pieces
}

/// The braces, as indices of tokens, that hold more than one line: their content stands on lines of its own.
fn spread_braces(text: &str, tokens: &[Token]) -> Vec<usize> {
    let mut open: Vec<(usize, usize)> = vec![];
    let mut spread = vec![];
    let mut newlines = 0;
    for (i, token) in tokens.iter().enumerate() {
        match (token.kind, token.text(text)) {
            (Kind::Newline, _) => newlines += 1,
            (Kind::Open, "{") => open.push((i, newlines)),
            (Kind::Close, "}") => {
                if let Some((start, before)) = open.pop()
                    && newlines > before
                {
                    spread.extend([start, i]);
                }
            }
            _ => {}
        }
    }
    spread.sort_unstable();
    spread
}

/// A line of the result.
#[derive(Clone, Debug)]
struct Line {
    indent: usize,
    blank: bool,
    pieces: Vec<Piece>,
}

impl Line {
    /// Its text without the indentation and without a comment behind code.
    fn code(&self, text: &str) -> String {
        let code = match self.pieces.split_last() {
            Some((last, rest)) if last.token.kind == Kind::Comment && !rest.is_empty() => rest,
            _ => &self.pieces,
        };
        let mut out = String::new();
        for (i, piece) in code.iter().enumerate() {
            if i > 0 && spacing::between(&code[i - 1].role, &piece.role) {
                out.push(' ');
            }
            out.push_str(piece.token.text(text).trim_end());
        }
        out
    }

    /// The comment behind its code.
    fn comment<'a>(&self, text: &'a str) -> Option<&'a str> {
        self.pieces.last().filter(|p| p.token.kind == Kind::Comment && self.pieces.len() > 1).map(|p| p.token.text(text).trim_end())
    }

    fn width(&self, text: &str) -> usize {
        self.indent + self.code(text).chars().count()
    }

    /// `name = value` of a section.
    fn is_setting(&self) -> bool {
        self.pieces.get(1).is_some_and(|p| p.role.rule == Some(Rule::assign) && p.role.parent == Some(Rule::entry))
    }

    /// Of a binding or an update that starts here: the width of its left side, and the column of its `=` in the author's text.
    fn binding(&self, text: &str) -> Option<(usize, usize)> {
        let binds = |p: &Piece| p.role.rule == Some(Rule::assign) && matches!(p.role.parent, Some(Rule::assignment | Rule::update));
        let at = self.pieces.iter().position(binds).filter(|at| *at > 0)?;
        let left = Line { pieces: self.pieces[..at].to_vec(), ..self.clone() };
        let start = self.pieces[at].token.start;
        let line = text[..start].rfind('\n').map_or(0, |i| i + 1);
        Some((left.code(text).len(), text[line..start].trim_start().len()))
    }
}

/// The lines with their indentation.
fn indented(text: &str, pieces: &[Piece]) -> Vec<Line> {
    let mut lines: Vec<Line> = vec![];
    // For every open bracket: where lines in it start, and where the line starts that closes it.
    let mut open: Vec<(bool, usize, usize)> = vec![];
    let mut item_ended = false;
    for piece in pieces {
        let word = piece.token.text(text);
        if let Some(start) = piece.line {
            let inside = open.last().map_or(0, |(_, inside, _)| *inside);
            let in_brace = open.last().is_none_or(|(brace, ..)| *brace);
            let indent = match open.last() {
                Some((_, _, closing)) if piece.token.kind == Kind::Close => *closing,
                _ if start.continues && in_brace => inside + INDENT,
                _ => inside,
            };
            lines.push(Line { indent, blank: (start.blank || item_ended) && !lines.is_empty(), pieces: vec![] });
            item_ended = false;
        }
        let Some(line) = lines.last_mut() else { continue };
        match piece.token.kind {
            Kind::Open if word == "{" => {
                let base = match open.last() {
                    Some((true, inside, _)) => *inside,
                    Some((false, ..)) => line.indent,
                    None => 0,
                };
                open.push((true, base + INDENT, base));
            }
            Kind::Open => open.push((false, line.indent + INDENT, line.indent)),
            Kind::Close => {
                open.pop();
                item_ended = open.is_empty() && line.pieces.is_empty() && word == "}";
            }
            _ => {}
        }
        line.pieces.push(*piece);
    }
    lines
}

/// The line, in several if it belongs to a signature and is too wide.
fn broken(text: &str, line: Line) -> Vec<Line> {
    let header = |p: &Piece| p.role.header;
    if line.width(text) <= WIDTH || !line.pieces.first().is_some_and(header) {
        return vec![line];
    }
    let of_function = |p: &Piece, rule| p.role.rule == Some(rule) && p.role.parent == Some(Rule::function);
    let assign = line.pieces.iter().position(|p| of_function(p, Rule::assign)).map(|i| i + 1);
    let arrow = line.pieces.iter().position(|p| of_function(p, Rule::arrow));
    let comma = || {
        let commas = line
            .pieces
            .iter()
            .enumerate()
            .filter(|(_, p)| p.role.rule == Some(Rule::comma) && matches!(p.role.parent, Some(Rule::parameters | Rule::results)));
        let fits = |end: usize| Line { pieces: line.pieces[..end].to_vec(), ..line.clone() }.width(text) <= WIDTH;
        let ends: Vec<usize> = commas.map(|(i, _)| i + 1).collect();
        ends.iter().rev().find(|end| fits(**end)).or(ends.first()).copied()
    };
    let code = line.pieces.iter().rposition(|p| p.token.kind != Kind::Comment).map_or(0, |i| i + 1);
    let at = [assign, arrow, comma()].into_iter().flatten().find(|at| *at > 0 && *at < code);
    let Some(at) = at else { return vec![line] };
    let indent = if line.pieces[0].role.rule == Some(Rule::function_word) { line.indent + INDENT } else { line.indent };
    let mut rest = line.clone();
    let first = Line { pieces: line.pieces[..at].to_vec(), ..line };
    rest.pieces.drain(..at);
    rest.indent = indent;
    rest.blank = false;
    [broken(text, first), broken(text, rest)].concat()
}

/// The lines as text, with the `=` of settings and the comments behind code in columns.
fn written(text: &str, lines: &[Line]) -> String {
    let mut code: Vec<String> = lines.iter().map(|l| l.code(text)).collect();
    let whole = |i: usize| lines.get(i + 1).is_none_or(|next| next.indent <= lines[i].indent && !next.pieces[0].line.is_some_and(|b| b.continues));
    let in_run = |i: usize, keep: &dyn Fn(usize) -> bool, start: usize| i < lines.len() && keep(i) && (i == start || !lines[i].blank);
    let setting = |i: usize| lines[i].is_setting() && whole(i);
    for run in runs(lines.len(), &|i, start| in_run(i, &setting, start)) {
        let name = |i: usize| lines[i].pieces[0].token.text(text).len();
        let column = run.clone().map(name).max().unwrap_or(0);
        for i in run {
            code[i].insert_str(name(i), &" ".repeat(column - name(i)));
        }
    }
    let bindings: Vec<Option<(usize, usize)>> = (0..lines.len()).map(|i| lines[i].binding(text).filter(|_| whole(i))).collect();
    let column = |i: usize| bindings[i].map(|(_, column)| column);
    let aligned = |i: usize, start: usize| bindings[i].is_some() && column(i) == column(start) && lines[i].indent == lines[start].indent;
    for run in runs(lines.len(), &|i, start| in_run(i, &|i| aligned(i, start), start)) {
        let left = |i: usize| bindings[i].map_or(0, |(width, _)| width);
        let column = run.clone().map(left).max().unwrap_or(0);
        for i in run {
            code[i].insert_str(left(i), &" ".repeat(column - left(i)));
        }
    }
    let width = |line: &String, i: usize| lines[i].indent + line.chars().count();
    let mut comments = vec![0; lines.len()];
    let commented = |i: usize| lines[i].comment(text).is_some();
    for run in runs(lines.len(), &|i, start| in_run(i, &commented, start)) {
        let column = run.clone().map(|i| width(&code[i], i)).max().unwrap_or(0) + 2;
        comments[run].fill(column);
    }
    let mut out = String::with_capacity(text.len());
    for (i, line) in lines.iter().enumerate() {
        if line.blank {
            out.push('\n');
        }
        out.push_str(&" ".repeat(line.indent));
        out.push_str(&code[i]);
        if let Some(comment) = line.comment(text) {
            out.push_str(&" ".repeat(comments[i] - width(&code[i], i)));
            out.push_str(comment);
        }
        out.push('\n');
    }
    out
}

/// The longest ranges of neighbours that belong together: `keep(i, start)` says whether `i` belongs to the run from `start`.
fn runs(length: usize, keep: &dyn Fn(usize, usize) -> bool) -> Vec<std::ops::Range<usize>> {
    let mut runs = vec![];
    let mut start = 0;
    while start < length {
        let mut end = start;
        while end < length && keep(end, start) {
            end += 1;
        }
        if end > start {
            runs.push(start..end);
        }
        start = end.max(start + 1);
    }
    runs
}
