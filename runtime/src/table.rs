//! Files of rows: CSV, `.npz`, `.npy`, each maybe gzipped, as columns of f64.
//!
//! In: a [`Table`] and the fields that somebody uses. Out: those fields' numbers, finite, row by row. Whatever cannot be a number is an error
//! that names file, row (from 1, without the header) and column.

use crate::error::{Result, RunError, refuse, wrong};
use crate::recipe::{Format, Header, Table};
use crate::tensor::Tensor;
use crate::{dtype::DType, files, npy};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

/// A field of every row.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Field {
    /// Numbers a row has.
    pub width: usize,
    /// Row after row.
    pub values: Vec<f64>,
    /// The shape that the file gives a row's numbers; empty for one number.
    pub shape: Vec<i64>,
    /// The file's name of each number of a row, where each has one.
    pub names: Vec<String>,
}

/// A field to read and the words that it may consist of: their positions are its values. Without words it must be a number.
/// `a..b` reads all columns of a CSV file from `a` to `b` as one field.
pub type Wanted<'a> = (&'a str, &'a [String]);

/// What was read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    /// How many rows.
    pub count: usize,
    /// The wanted fields, in the order asked for.
    pub fields: Vec<Field>,
}

/// Reads the `wanted` fields of the table at `path`; `name` is how messages call the file.
///
/// # Errors
/// The file is missing, damaged, or has other fields; a cell that is no number.
pub fn read(table: &Table, path: &Path, wanted: &[Wanted]) -> Result<Rows> {
    let name = path.display().to_string();
    let mut bytes = files::read(path)?;
    if path.extension().is_some_and(|e| e == "gz") {
        let mut plain = Vec::new();
        flate2::read::MultiGzDecoder::new(bytes.as_slice()).read_to_end(&mut plain).map_err(|e| refuse!("{name} is not a whole gzip file: {e}"))?;
        bytes = plain;
    }
    let rows = match &table.format {
        Format::Csv { header, separator } => csv(&bytes, &name, header, *separator, wanted),
        Format::Npz => {
            arrays(npy::parse_npz(std::io::Cursor::new(&bytes), bytes.len() as u64, &|_| true).map_err(|e| refuse!("{name}: {e}"))?, &name, wanted)
        }
        Format::Npy => arrays([("data".to_string(), npy::parse(&bytes).map_err(|e| refuse!("{name}: {e}"))?)].into(), &name, wanted),
    }?;
    if rows.count == 0 { wrong!("{name} has no rows") } else { Ok(rows) }
}

/// `a, b, c and 40 more`
fn list<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let (count, mut text) = (names.len(), String::new());
    for (i, name) in names.take(8).enumerate() {
        text += if i > 0 { ", " } else { "" };
        text += name;
    }
    if count > 8 { format!("{text} and {} more", count - 8) } else { text }
}

fn csv(bytes: &[u8], file: &str, header: &Header, separator: u8, wanted: &[Wanted]) -> Result<Rows> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let first = matches!(header, Header::First);
    let mut reader = csv::ReaderBuilder::new().delimiter(separator).has_headers(first).flexible(true).trim(csv::Trim::All).from_reader(bytes);
    let broken = |e: csv::Error| RunError::Wrong(format!("{file}: {e}"));
    let mut names: Vec<String> = match header {
        Header::First => reader.byte_headers().map_err(broken)?.iter().map(|n| String::from_utf8_lossy(n).into_owned()).collect(),
        Header::None => vec![],
        Header::Names(names) => names.clone(),
    };
    let mut record = csv::ByteRecord::new();
    let mut rows = Rows { count: 0, fields: vec![Field::default(); wanted.len()] };
    let mut at: Option<Vec<Range<usize>>> = None;
    while reader.read_byte_record(&mut record).map_err(broken)? {
        rows.count += 1;
        let line = record.position().map_or(0, csv::Position::line);
        if matches!(header, Header::None) && rows.count == 1 {
            names = (0..record.len()).map(|i| i.to_string()).collect();
        }
        if record.len() != names.len() {
            return wrong!("{file}: row {} (line {line}) has {} fields instead of {}", rows.count, record.len(), names.len());
        }
        if at.is_none() {
            let found = positions(&names, file, wanted)?;
            for (range, to) in found.iter().zip(&mut rows.fields) {
                to.width = range.len();
                to.shape = if range.len() == 1 { vec![] } else { vec![range.len() as i64] };
                to.names = names[range.clone()].to_vec();
            }
            at = Some(found);
        }
        for ((_, words), (range, to)) in wanted.iter().zip(at.iter().flatten().zip(&mut rows.fields)) {
            for i in range.clone() {
                let place = || format!("{file}: row {} (line {line}), column {}", rows.count, names[i]);
                let text: Cow<str> = String::from_utf8_lossy(&record[i]);
                to.values.push(if words.is_empty() { number(&text, &place)? } else { word(&text, words, &place)? });
            }
        }
    }
    if at.is_none() && !matches!(header, Header::None) {
        positions(&names, file, wanted)?;
    }
    Ok(rows)
}

/// Where in a row the wanted fields are: columns by name or number, or `from..to` in the file's order.
fn positions(names: &[String], file: &str, wanted: &[Wanted]) -> Result<Vec<Range<usize>>> {
    if names.is_empty() {
        return wrong!("{file} is empty");
    }
    let mut index: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    names.iter().enumerate().for_each(|(i, n)| index.entry(n).or_default().push(i));
    let find = |field: &str| match (index.get(field).map(Vec::as_slice), field.parse::<usize>()) {
        (Some([one]), _) => Ok(*one),
        (Some(many), _) => wrong!("{file} has {} columns called {field}", many.len()),
        (None, Ok(number)) if number < names.len() => Ok(number),
        (None, _) => {
            // A whole line taken for one name.
            let other = [(';', ";"), ('\t', "\\t"), (',', ",")].into_iter().find(|(c, _)| names.len() == 1 && names[0].contains(*c));
            let fix = other.map_or(String::new(), |(_, c)| format!("; is it separated by `{c}`? then say `separator: \"{c}\"`"));
            wrong!("{file} has no column {field}; it has {}{fix}", list(names.iter().map(String::as_str)))
        }
    };
    let range = |(field, _): &Wanted| match field.split_once("..") {
        Some((from, to)) if !index.contains_key(field) => match (find(from)?, find(to)?) {
            (from, to) if from <= to => Ok(from..to + 1),
            _ => wrong!("{file}: the column {to} comes before {from}, so {field} has no columns"),
        },
        Some(_) | None => find(field).map(|i| i..i + 1),
    };
    wanted.iter().map(range).collect()
}

/// A finite number.
fn number(text: &str, place: &dyn Fn() -> String) -> Result<f64> {
    match text.parse::<f64>() {
        Ok(x) if x.is_finite() => Ok(x),
        Ok(x) if x.is_nan() => wrong!("{}: the value is NaN", place()),
        Ok(_) => wrong!("{}: the value {text} is not finite", place()),
        Err(_) if text.is_empty() => wrong!("{}: the cell is empty", place()),
        Err(_) => wrong!("{}: {text:?} is not a number", place()),
    }
}

/// The position of a word.
fn word(text: &str, words: &[String], place: &dyn Fn() -> String) -> Result<f64> {
    match words.iter().position(|w| w == text) {
        Some(class) => Ok(class as f64),
        None => wrong!("{}: {text:?} is none of the classes {}", place(), list(words.iter().map(String::as_str))),
    }
}

fn arrays(arrays: BTreeMap<String, Tensor>, file: &str, wanted: &[Wanted]) -> Result<Rows> {
    let mut rows = Rows::default();
    for (field, words) in wanted {
        let Some(array) = arrays.get(*field) else {
            return wrong!("{file} has no array {field}; it has {}", list(arrays.keys().map(String::as_str)));
        };
        let (count, width) = rows_of(array).map_err(|e| refuse!("{file}: the array {field} {e}"))?;
        if !words.is_empty() {
            return wrong!("{file}: the array {field} holds numbers, not words");
        }
        if rows.fields.is_empty() {
            rows.count = count;
        } else if rows.count != count {
            return wrong!("{file}: {field} has {count} rows, {} has {}", wanted[0].0, rows.count);
        }
        let mut values = Vec::with_capacity(array.len());
        for i in 0..array.len() {
            let (value, row) = (array.get(i), i / width + 1);
            let x = value.to_f64();
            if !x.is_finite() {
                return wrong!("{file}: row {row}, column {field}: the value {x} is not finite");
            }
            if array.dtype == DType::I64 && value.to_i64().unsigned_abs() > 1 << 53 {
                return wrong!("{file}: row {row}, column {field}: the value {} is larger than 2^53", value.to_i64());
            }
            values.push(x);
        }
        rows.fields.push(Field { width, values, shape: array.shape[1..].to_vec(), names: vec![] });
    }
    if let (true, Some((name, array))) = (wanted.is_empty(), arrays.iter().next()) {
        rows.count = rows_of(array).map_err(|e| refuse!("{file}: the array {name} {e}"))?.0;
    }
    Ok(rows)
}

/// How many rows an array has, and how many numbers a row. Rows of nothing are refused: a header of a few bytes can claim any number of them.
fn rows_of(array: &Tensor) -> std::result::Result<(usize, usize), String> {
    match (array.shape.first(), array.len()) {
        (None, _) => Err("is a single number, not rows".into()),
        (Some(_), 0) => Err(format!("of shape {:?} has no numbers", array.shape)),
        (Some(&count), all) => Ok((count as usize, all / count as usize)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shapes with a 0 can claim any number of rows, and products of their other sizes need not fit in a number.
    #[test]
    fn arrays_without_numbers_are_refused() {
        for shape in [[1 << 31, 0, 1], [0, 1 << 62, 1 << 62], [5, 0, 1 << 62]] {
            let all: BTreeMap<String, Tensor> = [("a".to_string(), Tensor::zeros(DType::F32, &shape))].into();
            let with: [Wanted; 1] = [("a", &[])];
            for wanted in [&with[..], &[]] {
                let error = arrays(all.clone(), "x.npz", wanted).unwrap_err();
                assert!(error.message().ends_with("has no numbers"), "{}", error.message());
            }
        }
        let rows = arrays([("a".to_string(), Tensor::from_i64(&[2, 3], &[1, 2, 3, 4, 5, 6]))].into(), "x.npz", &[("a", &[])]).unwrap();
        assert_eq!((rows.count, rows.fields[0].width), (2, 3));
    }
}
