//! What the columns of a CSV file hold, said before any program reads it: whether they are numbers or words, which, and what is missing.
//!
//! The file is guessed at, as a person would: the separator is the one of `,`, `;` and tab that the first line has most of; that line is a header unless one of
//! its cells is a number. What a program makes of the file says its data section ([`crate::table`]).

use crate::error::{Result, refuse};
use crate::inspect::{Row, Summary, values};
use serde_json::json;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// What [`inspect`] calls such a file.
pub(crate) const KIND: &str = "CSV table";
/// So many different words of a column are listed.
const WORDS: usize = 12;

/// Whether its name is that of such a file, which may be gzipped.
pub(crate) fn is_table(path: &Path) -> bool {
    let name = path.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default();
    let plain = name.strip_suffix(".gz").unwrap_or(&name);
    plain.ends_with(".csv") || plain.ends_with(".tsv")
}

/// A column so far.
#[derive(Default)]
struct Column {
    numbers: Vec<f64>,
    /// Those that are no numbers, how often, and in which row first.
    words: BTreeMap<String, (u64, usize)>,
    empty: u64,
}

impl Column {
    fn add(&mut self, text: &str, row: usize) {
        match text.parse::<f64>() {
            _ if text.is_empty() => self.empty += 1,
            Ok(x) => self.numbers.push(x),
            Err(_) => self.words.entry(text.to_string()).or_insert((0, row)).0 += 1,
        }
    }

    fn row(self, name: String, rows: usize) -> Row {
        let odd: u64 = self.words.values().map(|(count, _)| count).sum();
        // A column of numbers may have a few words that were meant otherwise; one of words may have some that look like numbers.
        let number = !self.numbers.is_empty() && self.numbers.len() as u64 >= 4 * odd;
        let mut notes = vec![];
        if number && odd > 0 {
            let (word, (_, first)) = self.words.iter().min_by_key(|(_, (_, first))| *first).expect("there is one");
            notes.push(format!("{odd} are no numbers, the first is `{word}` in row {first}"));
        } else if !number && self.words.len() <= WORDS {
            notes.extend(self.words.iter().map(|(word, (count, _))| format!("{word} {count}")));
        } else if !number {
            notes.push(format!("{} different words", self.words.len()));
        }
        if !number && !self.numbers.is_empty() {
            notes.push(format!("{} numbers", self.numbers.len()));
        }
        if self.empty > 0 {
            notes.push(format!("{} empty", self.empty));
        }
        let dtype = if number { "numbers" } else { "words" }.to_string();
        let values = number.then(|| values(self.numbers.iter().copied()));
        Row { name, dtype, shape: vec![rows as i64], bytes: 0, values, note: notes.join(", ") }
    }
}

/// The columns.
///
/// # Errors
/// Not readable, damaged, or rows of different lengths.
pub(crate) fn inspect(path: &Path) -> Result<Summary> {
    let name = path.display();
    let mut bytes = crate::files::read(path)?;
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("gz")) {
        let mut plain = Vec::new();
        flate2::read::MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut plain).map_err(|e| refuse!("{name} is not a whole gzip file: {e}"))?;
        bytes = plain;
    }
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    let first = text.split(|b| *b == b'\n').next().unwrap_or_default();
    let separator = *b",;\t".iter().max_by_key(|s| (first.iter().filter(|b| b == s).count(), **s == b',')).unwrap_or(&b',');
    let mut reader = csv::ReaderBuilder::new().delimiter(separator).has_headers(false).flexible(true).trim(csv::Trim::All).from_reader(text);
    let (mut names, mut columns, mut rows): (Vec<String>, Vec<Column>, usize) = (vec![], vec![], 0);
    let mut record = csv::ByteRecord::new();
    let mut header = false;
    while reader.read_byte_record(&mut record).map_err(|e| refuse!("{name}: {e}"))? {
        let cells: Vec<Cow<str>> = record.iter().map(String::from_utf8_lossy).collect();
        if columns.is_empty() {
            columns.resize_with(cells.len(), Column::default);
            header = cells.iter().all(|c| c.parse::<f64>().is_err());
            names = cells.iter().enumerate().map(|(i, c)| if header { c.to_string() } else { i.to_string() }).collect();
            if header {
                continue;
            }
        }
        rows += 1;
        if cells.len() != columns.len() {
            let line = record.position().map_or(0, csv::Position::line);
            return Err(refuse!("{name}: row {rows} (line {line}) has {} fields instead of {}", cells.len(), columns.len()));
        }
        columns.iter_mut().zip(&cells).for_each(|(column, cell)| column.add(cell, rows));
    }
    let separator = match separator {
        b',' => "comma",
        b';' => "semicolon",
        _ => "tab",
    };
    let facts = vec![("rows", json!(rows)), ("separator", json!(separator)), ("header", json!(if header { "the first line" } else { "none" }))];
    let tensors = names.into_iter().zip(columns).map(|(name, column)| column.row(name, rows)).collect();
    Ok(Summary { kind: KIND, facts, tensors })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, text: &[u8]) -> std::result::Result<String, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        inspect(&path).map(|s| s.text(100)).map_err(|e| e.message().replace(&path.display().to_string(), name))
    }

    #[test]
    fn columns_are_numbers_or_words_and_what_is_odd_is_named() {
        let text = of("a.csv", b"\xef\xbb\xbfsize, kind ,age\n1.5,cat,3\n2,dog,\n-4,cat,5\n1,cat,6\n1,dog,7\n1,dog,n/a\n").unwrap();
        assert!(text.contains("rows          6\n") && text.contains("  3 columns\n"), "{text}");
        assert!(text.contains("size  numbers  -4 to 2, mean 0.4167\n") && text.contains("kind  words    cat 3, dog 3\n"), "{text}");
        assert!(text.contains("age   numbers  3 to 7, mean 5.25  1 are no numbers, the first is `n/a` in row 6, 1 empty"), "{text}");
        let text = of("b.tsv", b"1\t2\n3\t4\n").unwrap();
        assert!(text.contains("separator     tab") && text.contains("header        none") && text.contains("    0  numbers  1 to 3"), "{text}");
        let text = of("c.csv", b"a;b\n1,5;x\n").unwrap();
        assert!(text.contains("separator     semicolon") && text.contains("a  words  1,5 1\n"), "{text}");
        assert_eq!(of("d.csv", b"a,b\n1,2\n3\n").unwrap_err(), "d.csv: row 2 (line 3) has 1 fields instead of 2");
        assert!(of("e.csv.gz", b"no gzip").unwrap_err().contains("not a whole gzip file"));
        assert!(of("f.csv", b"").unwrap().contains("rows          0"));
    }
}
