//! Tokens of the graph's text. In: any text. Out: tokens with their lines, or the line that holds something else.

/// A token.
#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    /// A name or keyword: letters, digits, `_ . /`, and `:` inside.
    Word(String),
    /// A quoted text, without its quotes and escapes.
    Text(String),
    /// A number as it is written, its type behind it.
    Number(String),
    /// `%name`, `%"name"~3#1`: what follows the percent sign, as written.
    Value(String),
    /// Punctuation.
    Sign(&'static str),
    /// Behind the last token.
    End,
}

/// Longer ones first.
const SIGNS: [&str; 27] =
    ["->", "<=", ">=", "==", "!=", "(", ")", "[", "]", "{", "}", "<", ">", "=", "+", "-", "*", "/", "^", ",", ";", ":", "@", "~", "#", "$", "|"];

/// The tokens of `text`, each with its line.
pub fn lex(text: &str) -> Result<Vec<(Token, usize)>, String> {
    let mut tokens = Vec::new();
    for (line, text) in text.lines().enumerate() {
        let line = line + 1;
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let (token, length) = match first {
                '%' => {
                    let name = named(&rest[1..]).ok_or_else(|| format!("line {line}: a value without a name"))?;
                    (Token::Value(rest[1..1 + name].into()), 1 + name)
                }
                '"' => {
                    let end = quoted(rest).ok_or_else(|| format!("line {line}: a text without an end"))?;
                    (Token::Text(unescape(&rest[1..end - 1]).ok_or_else(|| format!("line {line}: an unknown escape"))?), end)
                }
                '0'..='9' => {
                    let end = number(rest);
                    (Token::Number(rest[..end].into()), end)
                }
                'a'..='z' | 'A'..='Z' | '_' => {
                    let end = word(rest);
                    (Token::Word(rest[..end].into()), end)
                }
                _ => match SIGNS.into_iter().find(|s| rest.starts_with(s)) {
                    Some(sign) => (Token::Sign(sign), sign.len()),
                    None => return Err(format!("line {line}: unexpected {first:?}")),
                },
            };
            tokens.push((token, line));
            rest = rest[length..].trim_start();
        }
    }
    Ok(tokens)
}

fn word(text: &str) -> usize {
    let part = |b: u8| b.is_ascii_alphanumeric() || b"_./".contains(&b);
    let bytes = text.as_bytes();
    let inside = |i: usize| part(bytes[i]) || (bytes[i] == b':' && bytes.get(i + 1).is_some_and(|b| part(*b) || *b == b':'));
    (0..bytes.len()).find(|i| !inside(*i)).unwrap_or(bytes.len())
}

fn number(text: &str) -> usize {
    let bytes = text.as_bytes();
    let inside = |i: usize| bytes[i].is_ascii_alphanumeric() || bytes[i] == b'.' || (bytes[i] == b'-' && bytes[i - 1] == b'e');
    (0..bytes.len()).find(|i| !inside(*i)).unwrap_or(bytes.len())
}

fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

/// One past the closing quote.
fn quoted(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (i, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return Some(i + 1),
            _ => escaped = c == '\\' && !escaped,
        }
    }
    None
}

/// The length of a value's name with its number and result.
fn named(text: &str) -> Option<usize> {
    let mut end = match text.chars().next()? {
        '"' => quoted(text)?,
        '$' => 1 + digits(&text[1..]),
        '0'..='9' => digits(text),
        _ => word(text),
    };
    for sign in ['~', '#'] {
        if text[end..].starts_with(sign) {
            end += 1 + digits(&text[end + 1..]);
        }
    }
    (end > 0).then_some(end)
}

/// Undoes Rust's debug escapes.
fn unescape(text: &str) -> Option<String> {
    let mut plain = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            plain.push(c);
            continue;
        }
        plain.push(match chars.next()? {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            '0' => '\0',
            'u' => {
                let code: String = chars.by_ref().skip(1).take_while(|c| *c != '}').collect();
                char::from_u32(u32::from_str_radix(&code, 16).ok()?)?
            }
            c => c,
        });
    }
    Some(plain)
}
