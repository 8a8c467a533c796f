//! Where something stands in the source: carried from the parser to the plan, so that a memory plan or a NaN report can name the line.

use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Which of [`Sources`]. The library's own files are sources too, and known by their number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct FileId(pub u32);

/// What the numbers of the library's files have that others have not.
const LIBRARY: u32 = 1 << 31;

/// A range of bytes in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Span {
    /// The file.
    pub file: FileId,
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    /// Whether it is the library's text.
    pub fn in_library(self) -> bool {
        self.file.0 & LIBRARY != 0
    }

    /// Where the program's author sees what stands here: what the library does, at its call, if that is known.
    pub fn seen_from(self, call: Span) -> Span {
        if self.in_library() && call != Span::default() { call } else { self }
    }

    /// The smallest span that covers both (of the same file).
    pub fn to(self, other: Span) -> Span {
        Span { file: self.file, start: self.start.min(other.start), end: self.end.max(other.end) }
    }
}

/// One source text and the name that diagnostics show for it.
#[derive(Clone, Debug)]
pub struct Source {
    /// Path as the user gave it, or `std/linear.nn` for the library's.
    pub name: Arc<str>,
    /// The text.
    pub text: Arc<str>,
}

/// All texts of one compilation.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    files: Vec<(FileId, Source)>,
}

impl Sources {
    /// Adds a file and returns its id.
    pub fn add(&mut self, name: &str, text: &str) -> FileId {
        self.push(name, text, 0)
    }

    /// The same for a file of the library.
    pub fn add_library(&mut self, name: &str, text: &str) -> FileId {
        self.push(name, text, LIBRARY)
    }

    fn push(&mut self, name: &str, text: &str, mark: u32) -> FileId {
        let id = FileId(self.files.len() as u32 | mark);
        self.files.push((id, Source { name: name.into(), text: text.into() }));
        id
    }

    /// The file's name and text.
    pub fn get(&self, id: FileId) -> &Source {
        &self.files[(id.0 & !LIBRARY) as usize].1
    }

    /// Every file with its id, in order of addition.
    pub fn iter(&self) -> impl Iterator<Item = (FileId, &Source)> {
        self.files.iter().map(|(id, source)| (*id, source))
    }

    /// The text under a span.
    pub fn text(&self, span: Span) -> &str {
        &self.get(span.file).text[span.start as usize..span.end as usize]
    }

    /// `model.nn:12`, the file and line (from 1) where the span starts.
    pub fn line(&self, span: Span) -> String {
        let source = self.get(span.file);
        let line = source.text[..span.start as usize].bytes().filter(|b| *b == b'\n').count() + 1;
        format!("{}:{line}", source.name)
    }
}
