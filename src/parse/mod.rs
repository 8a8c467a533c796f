//! From text to tree. The only folder that names pest.
//!
//! In: a text. Out: its tree, and a diagnostic for every item that is missing in it. `layout` cuts the text into items, each is parsed
//! by itself, so that all mistakes of a file are reported in one run. Total on any text: depth is bounded before the grammar sees it.

mod build;
mod explain;
mod expression;
mod format;
mod layout;
mod literal;
pub mod render;
mod spacing;
#[cfg(test)]
mod tests;
mod token;
pub mod tree;

pub use explain::PARTS_OF_AXES;
pub use format::format;

use crate::diagnostic::Diagnostic;
use crate::span::{FileId, Span};
use pest::Parser;

/// The parser that pest derives from the grammar, with one `Rule` for each of its rules.
mod grammar {
    #![allow(missing_docs)]
    #[derive(pest_derive::Parser)]
    #[grammar = "../grammar/nn.pest"]
    pub struct Grammar;
}

/// The edition that this compiler knows.
pub const EDITION: u32 = 1;

/// More are not reported: the text is not a program then.
const MAX_DIAGNOSTICS: usize = 50;

/// The tree of a text. Items with mistakes are left out of it and reported, in source order.
pub fn parse(text: &str, file: FileId) -> (tree::File, Vec<Diagnostic>) {
    let nothing = tree::File { edition: EDITION, items: vec![] };
    if u32::try_from(text.len()).is_err() {
        let message = Diagnostic::error("E0118", "the file is larger than 4 GiB", Span { file, start: 0, end: 0 }, "");
        return (nothing, vec![message]);
    }
    let layout::Layout { text: laid_out, tokens, chunks, mut diagnostics } = layout::layout(text, file);
    let source = explain::Source { text, file, tokens: &tokens };
    let mut items = vec![];
    let mut edition = None;
    for chunk in &chunks {
        if diagnostics.len() >= MAX_DIAGNOSTICS {
            break;
        }
        if chunk.broken {
            continue;
        }
        match grammar::Grammar::parse(grammar::Rule::item, &laid_out[chunk.start..chunk.end]) {
            Err(error) => diagnostics.push(explain::explain(&source, *chunk, &error)),
            Ok(_) if !chunk.item => diagnostics.push(explain::indented(&source, *chunk)),
            Ok(pairs) => {
                let builder = build::Builder::new(text, file, chunk.start);
                let built = builder.item(pairs);
                let sound = builder.diagnostics.borrow().is_empty();
                diagnostics.append(&mut builder.diagnostics.borrow_mut());
                match built {
                    Some(build::Built::Edition(value, span)) if edition.is_none() && items.is_empty() => edition = Some((value, span)),
                    Some(build::Built::Edition(_, span)) => diagnostics.push(
                        Diagnostic::error("E0102", "the edition stands once, before all items", span, "not here").fix("remove this line", span, ""),
                    ),
                    Some(build::Built::Item(item)) if sound => items.push(*item),
                    Some(build::Built::Item(_)) | None => {}
                }
            }
        }
    }
    match edition {
        Some((EDITION, _)) => {}
        Some((value, span)) => diagnostics.push(
            Diagnostic::error("E0102", format!("edition {value} of the language is not known"), span, "this compiler knows edition 1").fix(
                "use edition 1",
                span,
                "nn 1",
            ),
        ),
        // A first line that was meant to be the edition has been reported already.
        None if chunks.first().is_some_and(|c| text[c.start..].starts_with("nn ")) => {}
        None => diagnostics.push(missing_edition(text, file, &tokens, &chunks)),
    }
    diagnostics.sort_by_key(|d| d.labels.first().map(|(span, _)| span.start));
    if diagnostics.len() >= MAX_DIAGNOSTICS
        && let Some(last) = diagnostics.last_mut()
    {
        last.notes.push(format!("mistakes after the first {MAX_DIAGNOSTICS} are not reported"));
    }
    (tree::File { edition: EDITION, items }, diagnostics)
}

fn missing_edition(text: &str, file: FileId, tokens: &[token::Token], chunks: &[layout::Chunk]) -> Diagnostic {
    let span = |start: usize, end: usize| Span { file, start: start as u32, end: end as u32 };
    let first = chunks.first().map_or(text.len(), |c| c.start);
    let place = tokens.iter().find(|t| t.start >= first && t.kind != token::Kind::Comment).map_or(span(first, first), |t| span(t.start, t.end));
    Diagnostic::error("E0101", "the file does not name its edition", place, "expected `nn 1` before this")
        .note("the edition keeps an old file's meaning when the language changes")
        .fix("name the edition", span(first, first), "nn 1\n\n")
}
