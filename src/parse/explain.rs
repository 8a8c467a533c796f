//! What pest refuses, in a user's words: what was found, what was expected there, and the fix where it is evident.

use super::grammar::Rule;
use super::layout::{Chunk, ITEM_WORDS};
use super::token::{Kind, Token};
use crate::diagnostic::{Diagnostic, did_you_mean};
use crate::span::{FileId, Span};
use pest::error::{Error, ErrorVariant, InputLocation};

/// How a part of an axis is said.
pub const PARTS_OF_AXES: &str = "an index stands for all elements of its axis, a range for some: `y[i] = x[i, 0]`, `y[i, j in 4] = x[i, j + 2]`";

/// A text with its tokens.
pub struct Source<'a> {
    pub text: &'a str,
    pub file: FileId,
    pub tokens: &'a [Token],
}

/// The place of a refusal, and what stands around it.
struct Place<'a> {
    source: &'a Source<'a>,
    chunk: Chunk,
    /// The refused token, `None` at the end of the item.
    found: Option<Token>,
    /// The token before it, and the one after it.
    before: Option<Token>,
    after: Option<Token>,
    /// The innermost bracket that is open there, and whether what stands before it makes it a call.
    bracket: &'a str,
    call: bool,
    expected: Vec<Rule>,
}

/// See the module.
pub fn explain(source: &Source, chunk: Chunk, error: &Error<Rule>) -> Diagnostic {
    let at = chunk.start
        + match error.location {
            InputLocation::Pos(at) | InputLocation::Span((at, _)) => at,
        };
    let expected = match &error.variant {
        ErrorVariant::ParsingError { positives, .. } => positives.clone(),
        ErrorVariant::CustomError { .. } => vec![],
    };
    let first = source.tokens.partition_point(|t| t.start < chunk.start);
    let mut open: Vec<(&str, bool)> = vec![];
    let mut before: Option<Token> = None;
    let mut found = None;
    let mut after = None;
    for (i, token) in source.tokens.iter().enumerate().skip(first).take_while(|(_, t)| t.start < chunk.end) {
        let newline_is_blank = token.kind == Kind::Newline && open.last().is_some_and(|(b, _)| *b != "{");
        if newline_is_blank || token.kind == Kind::Comment {
            continue;
        }
        if token.start >= at {
            found = Some(*token);
            after = source.tokens.get(i + 1).filter(|t| t.start < chunk.end).copied();
            break;
        }
        match token.kind {
            Kind::Open => {
                let word = before.filter(|b| b.kind == Kind::Word).map(|b| b.text(source.text));
                // Behind an item's word and name stand its parameters.
                let item = i >= 2 && i - first <= 3 && ITEM_WORDS.contains(&source.tokens[i - 2].text(source.text));
                open.push((token.text(source.text), word.is_some() && !item));
            }
            Kind::Close => drop(open.pop()),
            _ => {}
        }
        before = Some(*token);
    }
    let (bracket, call) = open.last().copied().unwrap_or(("", false));
    let place = Place { source, chunk, found, before, after, bracket, call, expected };
    place.no_item().or_else(|| place.foreign()).or_else(|| place.assign_or_colon()).or_else(|| place.line()).unwrap_or_else(|| place.general())
}

/// An item that the grammar accepts, but that does not start in the first column.
pub fn indented(source: &Source, chunk: Chunk) -> Diagnostic {
    let span = |start: usize, end: usize| Span { file: source.file, start: start as u32, end: end as u32 };
    let first = source.tokens.iter().find(|t| t.start >= chunk.start && t.kind != Kind::Comment);
    let (start, end) = first.map_or((chunk.start, chunk.start), |t| (t.start, t.end));
    let blank = source.text[..start].trim_end_matches([' ', '\t']).len();
    Diagnostic::error("E0107", "an item starts in the first column", span(start, end), "blanks stand before this")
        .note("so that a mistake in one item does not hide those in the next")
        .fix("remove the blanks", span(blank, start), "")
}

impl Place<'_> {
    fn text(&self, token: Option<Token>) -> &str {
        token.map_or("", |t| t.text(self.source.text))
    }

    fn span(&self, start: usize, end: usize) -> Span {
        Span { file: self.source.file, start: start as u32, end: end as u32 }
    }

    fn at(&self, token: Token) -> Span {
        self.span(token.start, token.end)
    }

    /// The refused token's place, or where the item ends.
    fn place(&self) -> Span {
        match (self.found, self.before) {
            (Some(token), _) if token.kind != Kind::Newline => self.at(token),
            (_, Some(before)) => self.span(before.end, before.end),
            (_, None) => self.span(self.chunk.start, self.chunk.start),
        }
    }

    fn expects(&self, rule: Rule) -> bool {
        self.expected.contains(&rule)
    }

    /// Text that belongs to no item.
    fn no_item(&self) -> Option<Diagnostic> {
        let found = self.found.filter(|_| !self.chunk.item && self.before.is_none_or(|b| b.kind == Kind::Newline))?;
        let word = self.text(Some(found));
        let diagnostic = Diagnostic::error("E0107", "an item was expected", self.at(found), "no item starts like this");
        if ITEM_WORDS.contains(&word) {
            return Some(diagnostic.note(format!("`{word}` is followed by a name")));
        }
        let foreign = match word {
            "def" | "func" | "function" | "fun" => Some("fn"),
            "class" | "network" | "module" | "struct" => Some("model"),
            "dims" | "dimension" => Some("dim"),
            "let" | "var" => Some("const"),
            "use" | "include" | "from" => Some("import"),
            "edition" | "version" => Some("nn"),
            _ => did_you_mean(word, ITEM_WORDS),
        };
        Some(match foreign {
            Some(near) => diagnostic.fix(format!("did you mean `{near}`?"), self.at(found), near),
            None => diagnostic.note(format!("items start with {}", ITEM_WORDS[1..].iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", "))),
        })
    }

    /// Marks and words of other languages.
    fn foreign(&self) -> Option<Diagnostic> {
        let found = self.found?;
        let (word, before, after) = (self.text(Some(found)), self.text(self.before), self.text(self.after));
        let touches = |a: Option<Token>, b: Option<Token>| a.zip(b).is_some_and(|(a, b)| a.end == b.start);
        let error = |message: String, span: Span, title: &str, replacement: &str| {
            let title = if title.is_empty() { format!("write `{replacement}`") } else { title.to_string() };
            Some(Diagnostic::error("E0112", message, span, "not part of the language").fix(title, span, replacement))
        };
        let doubled = touches(self.found, self.after) && after == word;
        let both = self.after.map_or(self.at(found), |a| self.at(found).to(self.at(a)));
        match word {
            "&" | "|" if doubled => return error(format!("`{word}{word}` is no operator"), both, "", if word == "&" { "and" } else { "or" }),
            "&" => return error("`&` is no operator".into(), self.at(found), "", "and"),
            "!" => return error("`!` is no operator".into(), self.at(found), "", "not "),
            "*" if before == "*" && touches(self.before, self.found) => {
                let span = self.before.map_or(self.at(found), |b| self.at(b).to(self.at(found)));
                return error("`**` is no operator".into(), span, "", "^");
            }
            "=" if touches(self.before, self.found) && matches!(before, "+" | "-" | "*" | "/" | "^") => {
                let span = self.before.map_or(self.at(found), |b| self.at(b).to(self.at(found)));
                return Some(
                    Diagnostic::error("E0112", format!("`{before}=` is no operator"), span, "not part of the language")
                        .note(format!("bindings do not change; `x = x {before} y` binds the name anew, and `update x = ...` changes a state")),
                );
            }
            "%" => {
                return Some(
                    Diagnostic::error("E0112", "`%` is no operator", self.at(found), "not part of the language")
                        .note("`mod(a, b)` is the remainder of sizes, and `20%` is 0.2 where nothing follows it"),
                );
            }
            _ => {}
        }
        if found.kind == Kind::Number && self.source.text[found.start..found.end].ends_with('%') {
            return None;
        }
        if let ("let" | "var" | "val" | "return", Kind::Word | Kind::Number | Kind::Open, Some(before_token)) = (before, found.kind, self.before) {
            let span = self.span(before_token.start, found.start);
            let what = if before == "return" { "a body's last expression is its value" } else { "a name is bound by `name = value`" };
            return Some(Diagnostic::error("E0112", format!("`{before}` is no word of the language"), self.at(before_token), what).fix(
                "leave it out",
                span,
                "",
            ));
        }
        if found.kind != Kind::Other {
            return None;
        }
        let span = self.at(found);
        let c = word.chars().next()?;
        let (message, replacement) = match c {
            '\'' => {
                let line = self.source.text[found.end..self.chunk.end].lines().next().unwrap_or("");
                let Some(length) = line.find('\'') else { return error("texts stand in double quotes".into(), span, "", "\"") };
                let whole = self.span(found.start, found.end + length + 1);
                return error("texts stand in double quotes".into(), whole, "", &format!("\"{}\"", &line[..length]));
            }
            '\u{201c}' | '\u{201d}' | '\u{201e}' | '\u{2018}' | '\u{2019}' => ("texts stand in straight double quotes", "\""),
            '#' => ("a comment starts with `//`", "//"),
            '\u{2212}' | '\u{2013}' | '\u{2014}' => ("this is not the minus sign", "-"),
            '\u{d7}' | '\u{b7}' => ("this is not the multiplication sign", "*"),
            '\u{2264}' => ("this is not the sign for `at most`", "<="),
            '\u{2265}' => ("this is not the sign for `at least`", ">="),
            '\u{2260}' => ("this is not the sign for `unequal`", "!="),
            '\u{2192}' => ("this is not the arrow", "->"),
            '\u{a0}' | '\u{2009}' | '\u{202f}' | '\u{3000}' => ("this is not an ordinary blank", " "),
            '~' => ("`~` is no operator", "not "),
            '@' => {
                return Some(
                    Diagnostic::error("E0112", "`@` is no operator", span, "not part of the language").note("`matmul(a, b)` multiplies matrices"),
                );
            }
            _ if c.is_alphabetic() => {
                return Some(
                    Diagnostic::error("E0112", format!("`{c}` cannot stand in a name"), span, "not part of a name")
                        .note("names are made of the letters a to z and A to Z, digits and `_`"),
                );
            }
            _ => {
                let shown: String = c.escape_debug().collect();
                return Some(Diagnostic::error("E0112", format!("`{shown}` is no character of the language"), span, "not part of the language"));
            }
        };
        error(message.to_string(), span, "", replacement)
    }

    /// `=` where `:` belongs, and the other way round.
    fn assign_or_colon(&self) -> Option<Diagnostic> {
        let found = self.found?;
        let (word, before) = (self.text(Some(found)), self.text(self.before));
        let named = self.before.is_some_and(|b| b.kind == Kind::Word);
        if word == "=" && self.bracket == "(" && self.call && named {
            let span = self.span(self.before.map_or(found.start, |b| b.end), self.blank_end(found.end));
            return Some(
                Diagnostic::error("E0115", "an argument is named with `:`", self.at(found), "expected `:`")
                    .note("`=` binds a name in a body, `name: value` passes an argument by its name")
                    .fix("use `:`", span, ": "),
            );
        }
        if word == "=" && before == ":" {
            let span = self.before.map_or(self.at(found), |b| self.at(b).to(self.at(found)));
            return Some(Diagnostic::error("E0115", "a name is bound with `=`", span, "expected `=`").fix("use `=`", span, "="));
        }
        // `batch: 32`: what stands behind the colon is no type.
        if before == ":" && self.bracket == "{" && self.expects_type() && found.kind != Kind::Word && self.in_section() {
            let colon = self.before?;
            let start = self.source.text[..colon.start].trim_end().len();
            let span = self.span(start, self.blank_end(colon.end));
            return Some(Diagnostic::error("E0115", "a setting is written with `=`", self.at(colon), "expected `=`").fix("use `=`", span, " = "));
        }
        if word == ":" && matches!(self.bracket, "{" | "") && named && !self.expects(Rule::colon) {
            let span = self.span(self.before?.end, self.blank_end(found.end));
            let line = self.source.text[found.end..self.chunk.end].lines().next().unwrap_or("");
            let rest = line.split("//").next().unwrap_or("");
            // `y: real[B] = x`: what stands between is a type.
            if let Some(equals) = rest.find(" = ") {
                let ty = self.span(self.before?.end, found.end + equals);
                return Some(Diagnostic::error("E0115", "a binding has no type", self.at(found), "expected `=`").fix("leave the type out", ty, ""));
            }
            return Some(Diagnostic::error("E0115", "a name is bound with `=`", self.at(found), "expected `=`").fix("use `=`", span, " = "));
        }
        None
    }

    fn in_section(&self) -> bool {
        matches!(self.source.text[self.chunk.start..self.chunk.end].lines().find(|l| !l.starts_with("//")), Some(l) if l.starts_with("data ") || l.starts_with("train "))
    }

    /// A type starts with a name, as other things do that may also be an operand.
    fn expects_type(&self) -> bool {
        matches!(self.text(self.before), ":" | "->") && self.expects(Rule::name) && !self.expects(Rule::number)
    }

    fn blank_end(&self, at: usize) -> usize {
        let rest = &self.source.text[at..self.chunk.end];
        at + rest.len() - rest.trim_start_matches([' ', '\t']).len()
    }

    /// Expressions that were meant to go on in the next line.
    fn line(&self) -> Option<Diagnostic> {
        let before = self.before?;
        let joined =
            "the end of a line ends a statement; an expression goes on in the next line if brackets are open or the next line starts with `|>`";
        let ends = self.found.is_none_or(|f| f.kind == Kind::Newline);
        if ends && before.kind == Kind::Mark && self.expects(Rule::name) {
            let word = self.text(self.before);
            return Some(
                Diagnostic::error(
                    "E0108",
                    "the line ends where something is still expected",
                    self.at(before),
                    format!("`{word}` wants something behind it"),
                )
                .note(joined),
            );
        }
        let found = self.found?;
        if before.kind == Kind::Newline
            && found.kind == Kind::Mark
            && matches!(self.text(self.found), "+" | "*" | "/" | "^" | "<" | ">" | "==" | "<=" | ">=" | "!=")
        {
            let message = format!("a statement cannot start with `{}`", self.text(self.found));
            return Some(Diagnostic::error("E0108", message, self.at(found), "the line above has ended its statement").note(joined));
        }
        None
    }

    fn general(&self) -> Diagnostic {
        let found = match self.found {
            None => "the end of the item".to_string(),
            Some(token) if token.kind == Kind::Newline => "the end of the line".to_string(),
            Some(token) => {
                let text: String = self.text(Some(token)).chars().take(30).collect();
                format!("`{text}`")
            }
        };
        let words = self.expected_words();
        let expected = match words.split_last() {
            None => "something else".to_string(),
            Some((last, [])) => last.clone(),
            Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        };
        let diagnostic =
            Diagnostic::error("E0108", format!("found {found} where {expected} was expected"), self.place(), format!("expected {expected}"));
        let word = self.text(self.found);
        if self.expects(Rule::name) && matches!(word, "if" | "then" | "else" | "true" | "false" | "not" | "and" | "or" | "in") {
            return diagnostic.note(format!("`{word}` is a word of the language and cannot be a name"));
        }
        if word == ":" && self.bracket == "[" {
            return diagnostic.note(PARTS_OF_AXES);
        }
        if word == "=" && self.text(self.before) == "]" && self.in_section() {
            return diagnostic.note(
                "index notation belongs to functions, which a section calls: `fn shifted(x: real[B, D]) -> real[B, D] { y[b, d] = x[b, d] + 1 }`",
            );
        }
        if matches!(words.as_slice(), [only] if only == "`else`") {
            return diagnostic.note("an `if` that is a value has one in either case: `if c then a else b`");
        }
        if word == "," && self.bracket == "{" && self.expects(Rule::end_of_line) {
            return diagnostic.note("statements and settings are separated by ends of lines or `;`").fix("use `;`", self.place(), ";");
        }
        diagnostic
    }

    /// The tokens that could have stood there, the likeliest first. After an operand any operator could follow: that says little, so they
    /// are named only where nothing else could.
    fn expected_words(&self) -> Vec<String> {
        const OPERAND: [Rule; 4] = [Rule::number, Rule::expression, Rule::tuple, Rule::list];
        let mut words: Vec<String> = vec![];
        let mut add = |word: &str| {
            if !words.iter().any(|w| w == word) {
                words.push(word.to_string());
            }
        };
        let operand = self.expected.iter().any(|r| OPERAND.contains(r));
        if operand {
            add("an expression");
        }
        if self.expects_type() {
            add("a type");
        }
        for rule in &self.expected {
            match rule {
                Rule::statement | Rule::assignment => add("a statement"),
                Rule::name | Rule::parameter | Rule::dim | Rule::constant | Rule::scan_input | Rule::group_index
                    if !operand && !self.expects_type() =>
                {
                    add("a name")
                }
                Rule::axis | Rule::subscript => add("an index"),
                Rule::entry => add("a setting"),
                Rule::text if !operand => add("a text in quotes"),
                Rule::decimal if !operand => add("a number"),
                Rule::block | Rule::open_brace => add("`{`"),
                Rule::open | Rule::parameters if !operand && !self.expects(Rule::plus) => add("`(`"),
                Rule::close => add("`)`"),
                Rule::close_square => add("`]`"),
                Rule::close_brace => add("`}`"),
                Rule::comma => add("`,`"),
                Rule::colon => add("`:`"),
                Rule::assign => add("`=`"),
                Rule::arrow => add("`->`"),
                Rule::end_of_line | Rule::EOI => add("the end of the line"),
                Rule::greater if !self.expects(Rule::less) => add("`>`"),
                Rule::in_word => add("`in`"),
                Rule::then_word => add("`then`"),
                Rule::else_word => add("`else`"),
                Rule::over_word => add("`over`"),
                Rule::from_word => add("`from`"),
                Rule::into_word => add("`into`"),
                _ => {}
            }
        }
        if words.is_empty() && self.expects(Rule::plus) {
            words.push("an operator".into());
        }
        words
    }
}
