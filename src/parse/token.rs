//! The text as tokens: enough to find layout, brackets and the token at a place, and to lay the text out anew.
//!
//! Every byte of the text belongs to one token or is a blank between tokens. Total on any text.

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The end of a line.
    Newline,
    /// `// ...`, without the end of the line.
    Comment,
    /// `"..."`
    Text,
    /// `"...` up to the end of the line.
    OpenText,
    /// A name or a word.
    Word,
    /// A number with its unit or `%`.
    Number,
    /// `(`, `[` or `{`
    Open,
    /// `)`, `]` or `}`
    Close,
    /// An operator or a mark.
    Mark,
    /// A character that is no part of the language.
    Other,
}

/// A token and the bytes it stands at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
}

impl Token {
    /// Its text, out of the text it was read from.
    pub fn text<'a>(&self, text: &'a str) -> &'a str {
        &text[self.start..self.end]
    }
}

/// Longest first.
const MARKS: [&str; 24] =
    ["...", "..", "->", "|>", "==", "!=", "<=", ">=", "+", "-", "*", "/", "^", "<", ">", "=", ",", ":", ";", ".", "%", "|", "&", "!"];

/// The tokens of a text.
pub fn tokens(text: &str) -> Vec<Token> {
    let bytes = text.as_bytes();
    let mut tokens: Vec<Token> = Vec::with_capacity(bytes.len() / 4);
    let mut at = if text.starts_with('\u{feff}') { 3 } else { 0 };
    while at < bytes.len() {
        let after = |from: usize, keep: &dyn Fn(u8) -> bool| from + bytes[from..].iter().take_while(|b| keep(**b)).count();
        let line = |from: usize| after(from, &|b| b != b'\n' && b != b'\r');
        let (kind, end) = match bytes[at] {
            b' ' | b'\t' => {
                at += 1;
                continue;
            }
            b'\r' if bytes.get(at + 1) == Some(&b'\n') => {
                at += 1;
                continue;
            }
            b'\n' => (Kind::Newline, at + 1),
            b'/' if bytes[at..].starts_with(b"//") => (Kind::Comment, line(at)),
            b'"' => quoted(bytes, at),
            b'0'..=b'9' => (Kind::Number, number(bytes, at)),
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => (Kind::Word, after(at, &is_letter)),
            b'(' | b'[' | b'{' => (Kind::Open, at + 1),
            b')' | b']' | b'}' => (Kind::Close, at + 1),
            _ => match MARKS.iter().find(|m| bytes[at..].starts_with(m.as_bytes())) {
                Some(mark) => (Kind::Mark, at + mark.len()),
                None => (Kind::Other, at + text[at..].chars().next().map_or(1, char::len_utf8)),
            },
        };
        tokens.push(Token { kind, start: at, end });
        at = end;
    }
    tokens
}

/// Whether a name may hold this byte.
pub fn is_letter(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The text that starts at `at`, closed or not.
fn quoted(bytes: &[u8], at: usize) -> (Kind, usize) {
    let mut end = at + 1;
    while end < bytes.len() {
        match bytes[end] {
            b'"' => return (Kind::Text, end + 1),
            b'\n' | b'\r' => break,
            b'\\' if end + 1 < bytes.len() && !matches!(bytes[end + 1], b'\n' | b'\r') => end += 2,
            _ => end += 1,
        }
    }
    (Kind::OpenText, end)
}

/// The end of the number that starts at `at`: digits, a fraction, an exponent, then a unit or `%`.
fn number(bytes: &[u8], at: usize) -> usize {
    let digits = |mut i: usize| {
        while i < bytes.len() && (bytes[i].is_ascii_digit() || bytes[i] == b'_') {
            i += 1;
        }
        i
    };
    let digit = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_digit);
    let mut end = digits(at);
    if bytes.get(end) == Some(&b'.') && digit(end + 1) {
        end = digits(end + 1);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        if digit(end + 1 + sign) {
            end = digits(end + 1 + sign);
        }
    }
    if bytes.get(end) == Some(&b'%') {
        return end + 1;
    }
    while end < bytes.len() && is_letter(bytes[end]) {
        end += 1;
    }
    end
}
