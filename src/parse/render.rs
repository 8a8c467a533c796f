//! Diagnostics as text, laid out as rustc's by rustc's own library. The only file that names it.
//!
//! In: diagnostics whose spans lie in the sources. Out: one block each, a blank line between; the same text for the same diagnostics.

use crate::diagnostic::{Diagnostic, Severity};
use crate::span::{FileId, Sources, Span};
use annotate_snippets::{AnnotationKind, Group, Level, Patch, Renderer, Snippet};

/// See [`crate::diagnostic::render`].
pub fn render(diagnostics: &[Diagnostic], sources: &Sources, colour: bool) -> String {
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let mut text = String::new();
    for diagnostic in diagnostics {
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&renderer.render(&report(diagnostic, sources)));
        text.push('\n');
    }
    text
}

fn report<'a>(diagnostic: &'a Diagnostic, sources: &'a Sources) -> Vec<Group<'a>> {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let mut group = Group::with_title(level.primary_title(&diagnostic.message).id(diagnostic.code));
    // One excerpt per file, the primary label's file first.
    let mut files: Vec<FileId> = vec![];
    for (span, _) in &diagnostic.labels {
        if !files.contains(&span.file) {
            files.push(span.file);
        }
    }
    for file in files {
        let source = sources.get(file);
        let labels = diagnostic.labels.iter().enumerate().filter(|(_, (span, _))| span.file == file);
        group = group.element(Snippet::source(&*source.text).path(&*source.name).annotations(labels.map(|(i, (span, label))| {
            let kind = if i == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
            let annotation = kind.span(range(*span, &source.text));
            if label.is_empty() { annotation } else { annotation.label(label) }
        })));
    }
    group = group.elements(diagnostic.notes.iter().map(|note| Level::NOTE.message(note)));
    let mut groups = vec![group];
    if let Some(fix) = &diagnostic.fix {
        let source = sources.get(fix.span.file);
        let patch = Patch::new(range(fix.span, &source.text), &fix.replacement);
        groups.push(
            Group::with_title(Level::HELP.secondary_title(&fix.title)).element(Snippet::source(&*source.text).path(&*source.name).patch(patch)),
        );
    }
    groups
}

/// The span's bytes, moved to where the text's characters begin and into the text: a diagnostic is shown whatever its spans are.
fn range(span: Span, text: &str) -> std::ops::Range<usize> {
    let inside = |at: u32| (0..=(at as usize).min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    let start = inside(span.start);
    start..inside(span.end).max(start)
}
