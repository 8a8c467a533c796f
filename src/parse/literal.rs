//! Numbers and texts as written, to their values.

use super::build::Builder;
use super::grammar::Rule;
use super::tree::{Expr, ExprKind};
use crate::diagnostic::{Diagnostic, did_you_mean};
use pest::iterators::Pair;

/// Units with the number of seconds or bytes in one.
const UNITS: [(&str, f64); 17] = [
    ("ns", 1e-9),
    ("us", 1e-6),
    ("ms", 1e-3),
    ("s", 1.0),
    ("min", 60.0),
    ("h", 3600.0),
    ("d", 86400.0),
    ("B", 1.0),
    ("kB", 1e3),
    ("MB", 1e6),
    ("GB", 1e9),
    ("TB", 1e12),
    ("KiB", 1024.0),
    ("MiB", 1048576.0),
    ("GiB", 1073741824.0),
    ("TiB", 1099511627776.0),
    ("PiB", 1125899906842624.0),
];

impl Builder<'_> {
    /// `10`, `0.5`, `20%`, `10min`
    pub fn number(&self, pair: Pair<Rule>) -> Expr {
        let span = self.span(&pair);
        let mut inner = pair.into_inner();
        let Some(decimal) = inner.next() else { return Expr { kind: ExprKind::Int(0), span } };
        let digits: String = decimal.as_str().chars().filter(|c| *c != '_').collect();
        let value = digits.parse::<f64>().unwrap_or(f64::INFINITY);
        if !value.is_finite() {
            self.report(Diagnostic::error("E0109", "the number is too large", span, "not below 1.8e308"));
        }
        let kind = match inner.next() {
            Some(unit) if unit.as_rule() == Rule::percent => ExprKind::Float(value / 100.0),
            Some(unit) => self.quantity(value, &decimal, &unit),
            None if digits.bytes().all(|b| b.is_ascii_digit()) => match digits.parse::<i64>() {
                Ok(value) => ExprKind::Int(value),
                Err(_) => {
                    self.report(
                        Diagnostic::error("E0109", "the whole number is too large", span, "not below 2^63 = 9223372036854775808")
                            .note("a number with a fraction or an exponent, such as `1e19`, is a real one and may be larger"),
                    );
                    ExprKind::Int(0)
                }
            },
            None => ExprKind::Float(value),
        };
        Expr { kind, span }
    }

    fn quantity(&self, value: f64, decimal: &Pair<Rule>, unit: &Pair<Rule>) -> ExprKind {
        let word = unit.as_str();
        if let Some((name, factor)) = UNITS.iter().find(|(name, _)| *name == word) {
            return ExprKind::Quantity(value * factor, (*name).into());
        }
        let span = self.span(unit);
        let units = UNITS.map(|(name, _)| name);
        let near = UNITS.iter().map(|(name, _)| *name).find(|name| name.eq_ignore_ascii_case(word)).or_else(|| match word {
            "sec" | "secs" | "second" | "seconds" => Some("s"),
            "m" | "mins" | "minute" | "minutes" => Some("min"),
            "hour" | "hours" | "hr" => Some("h"),
            "day" | "days" => Some("d"),
            _ => did_you_mean(word, units).filter(|_| word.len() > 1),
        });
        let diagnostic = Diagnostic::error("E0110", format!("the unit `{word}` is not known"), span, "not a unit");
        self.report(match near {
            Some(near) => diagnostic.fix(format!("did you mean `{near}`?"), span, near),
            None => diagnostic.note(format!("the units are {}", units.map(|u| format!("`{u}`")).join(", "))).fix(
                format!("to multiply, write `{} * {word}`", decimal.as_str()),
                span,
                format!(" * {word}"),
            ),
        });
        ExprKind::Float(value)
    }

    /// What a text literal says.
    pub fn text(&self, pair: &Pair<Rule>) -> String {
        let raw = pair.as_str();
        let raw = &raw[1..raw.len() - 1];
        let mut text = String::with_capacity(raw.len());
        let mut chars = raw.char_indices();
        while let Some((at, c)) = chars.next() {
            if c != '\\' {
                text.push(c);
                continue;
            }
            match chars.next() {
                Some((_, c @ ('"' | '\\'))) => text.push(c),
                Some((_, 'n')) => text.push('\n'),
                Some((_, 't')) => text.push('\t'),
                Some((end, c)) => {
                    let mut span = self.span(pair);
                    span.end = span.start + 1 + (end + c.len_utf8()) as u32;
                    span.start += 1 + at as u32;
                    self.report(
                        Diagnostic::error("E0114", format!("`\\{c}` means nothing in a text"), span, "not an escape")
                            .note("the escapes are `\\\"`, `\\\\`, `\\n` and `\\t`")
                            .fix("for a backslash, write two", span, format!("\\\\{c}")),
                    );
                }
                None => {}
            }
        }
        text
    }
}
