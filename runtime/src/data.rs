//! Data sections: files in, samples out.
//!
//! [`Dataset::load`] reads the columns that are used, applies their steps in f64, checks every value, and divides the rows into parts.
//! [`Dataset::gather`] copies samples into a batch.

use crate::dtype::{DType, Scalar};
use crate::error::{Result, RunError, refuse, wrong};
use crate::recipe::{Column, Data, Scaling, Standard};
use crate::split::split;
use crate::table;
use crate::tensor::Tensor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A column, ready for batches.
pub struct Values {
    /// What it is.
    pub column: Column,
    /// Row after row, in the column's type.
    bytes: Vec<u8>,
    /// Bytes a row takes.
    stride: usize,
    /// Means and deviations of each standardizing step, field by field.
    statistics: Vec<(Vec<f64>, Vec<f64>)>,
}

/// The samples of a data section.
pub struct Dataset {
    /// The section's name.
    pub name: Arc<str>,
    rows: usize,
    values: Vec<Values>,
    parts: Vec<(Arc<str>, Vec<u32>)>,
}

impl Dataset {
    /// Reads the columns of `data` that `used` names; paths are relative to `folder`.
    ///
    /// # Errors
    /// Files, rows, cells or parts that are missing or wrong; see [`table::read`] and [`split`].
    pub fn load(data: &Data, folder: &Path, used: &dyn Fn(&str) -> bool) -> Result<Dataset> {
        let stratum = |name: &str| data.parts.iter().any(|p| p.stratify.as_deref() == Some(name));
        let columns: Vec<&Column> = data.columns.iter().filter(|c| used(&c.name) || stratum(&c.name)).collect();
        let (rows, mut raw) = read_columns(data, &columns, &|t| folder.join(&*data.tables[t].path))?;
        let classes = |name: &str| -> Result<Vec<i64>> {
            let Some(k) = columns.iter().position(|c| &*c.name == name) else {
                return wrong!("data {} has no column {name} to stratify by", data.name);
            };
            let (column, field) = (columns[k], &raw[k]);
            if column.dtype != DType::I64 || field.width != 1 || column.steps.contains(&Scaling::Standardize) {
                return wrong!("data {}: parts can be stratified by a column of classes, which {name} is not", data.name);
            }
            let mut copy = field.clone();
            scale(column, &mut copy, &[], &mut vec![], None)?;
            Ok(copy.values.iter().map(|&x| x as i64).collect())
        };
        let parts = split(&data.parts, rows, &classes).map_err(|e| refuse!("data {}: {e}", data.name))?;
        let mut values = vec![];
        for (column, field) in columns.iter().zip(&mut raw) {
            values.push(
                finish(column, field, &parts[0].1, None).map_err(|e| refuse!("{}: {e}", folder.join(&*data.tables[column.table].path).display()))?,
            );
        }
        Ok(Dataset { name: data.name.clone(), rows, values, parts })
    }

    /// What a person means by `part`: samples of a part of the section, or the rows of a file in the form of its only table, scaled as the section is.
    ///
    /// # Errors
    /// As [`Dataset::load`]; a file for a section of several tables.
    pub fn meant(data: &Data, folder: &Path, part: &str, used: &dyn Fn(&str) -> bool) -> Result<(Dataset, Vec<u32>)> {
        let declared = ["train", "all"].contains(&part) || data.parts.iter().any(|p| *p.name == *part);
        let file = Path::new(part);
        if declared || !file.is_file() {
            let own = Dataset::load(data, folder, used)?;
            let rows = own.part(part)?;
            return Ok((own, rows));
        }
        let [_] = data.tables.as_slice() else { return wrong!("data {} reads {} files: one cannot stand for them", data.name, data.tables.len()) };
        let columns: Vec<&Column> = data.columns.iter().filter(|c| used(&c.name)).collect();
        // Only means and deviations that are not known yet need the section's own rows.
        let unknown = columns.iter().any(|c| c.steps.contains(&Scaling::Standardize));
        let own = if unknown { Some(Dataset::load(data, folder, used)?) } else { None };
        let (rows, mut raw) = read_columns(data, &columns, &|_| PathBuf::from(file))?;
        let mut values = vec![];
        for (column, field) in columns.iter().zip(&mut raw) {
            let known = own.iter().flat_map(|own| &own.values).find(|v| v.column.name == column.name);
            let done = finish(column, field, &[], known.map(|v| v.statistics.as_slice()));
            values.push(done.map_err(|e| refuse!("{}: {e}", file.display()))?);
        }
        let made = Dataset { name: data.name.clone(), rows, values, parts: vec![] };
        let rows = made.part("all")?;
        Ok((made, rows))
    }

    /// The section with the means and deviations that were found for its columns.
    pub fn settled(&self, data: &Data) -> Data {
        let mut settled = data.clone();
        for column in &mut settled.columns {
            let Some(values) = self.values.iter().find(|v| v.column.name == column.name) else { continue };
            let standard = column.steps.iter_mut().filter(|step| matches!(step, Scaling::Standardize | Scaling::Standard(_)));
            standard.zip(&values.statistics).for_each(|(step, (means, deviations))| *step = Scaling::Standard(Standard::new(means, deviations)));
        }
        settled
    }

    /// The samples of arrays that have the columns' values already: nothing is scaled, and numbers that must be classes are looked at. Those that `used` does not
    /// name may be left out.
    ///
    /// # Errors
    /// Columns that are missing, unknown or given twice; other shapes, types or values than the section's; different numbers of samples.
    pub fn given(data: &Data, arrays: &[(&str, &Tensor)], used: &dyn Fn(&str) -> bool) -> Result<Dataset> {
        let known: Vec<&str> = data.columns.iter().map(|c| &*c.name).collect();
        if let Some(missing) = known.iter().find(|name| used(name) && arrays.iter().all(|(n, _)| n != *name)) {
            return Err(RunError::Usage(format!("the column {missing} is not given")));
        }
        let mut made = Dataset { name: data.name.clone(), rows: 0, values: vec![], parts: vec![] };
        for (name, tensor) in arrays {
            let Some(column) = data.columns.iter().find(|c| *c.name == **name) else {
                return Err(RunError::Usage(format!("data {} has no column {name}{}", data.name, crate::words::hint(name, &known))));
            };
            if made.find(name).is_some() {
                return Err(RunError::Usage(format!("the column {name} is given twice")));
            }
            let Some((&rows, sample)) = tensor.shape.split_first() else {
                return wrong!("{name} is a single number: its first axis must be the samples");
            };
            if sample.len() != column.shape.len() || sample.iter().zip(&column.shape).any(|(n, wanted)| *wanted >= 0 && n != wanted) {
                return wrong!("{name} has samples of shape {sample:?}, but the program wants {}", axes(&column.shape));
            }
            let Ok(count) = u32::try_from(rows) else { return wrong!("{name} has {rows} samples, more than can be numbered") };
            if let Some(other) = made.values.first().filter(|_| made.rows != count as usize) {
                return wrong!("{name} has {rows} samples, but {} has {}", other.column.name, made.rows);
            }
            let tensor = crate::infer::convert(name, tensor, column.dtype)?;
            let outside = |bound: i64| tensor.scalars().into_iter().find(|x| !(0..bound).contains(&x.to_i64()));
            if let Some(bad) = column.bound.and_then(outside) {
                return wrong!("{name} holds {bad}, but must be in 0..{}", column.bound.unwrap_or(0));
            }
            let stride = tensor.bytes().len() / rows.max(1) as usize;
            // Where it comes from is of no use any more.
            let (fields, classes_named, steps) = (vec![], vec![], vec![]);
            let &Column { ref name, table, dtype, bound, .. } = column;
            let column = Column { name: name.clone(), table, fields, classes_named, steps, dtype, shape: sample.to_vec(), bound };
            made.rows = count as usize;
            made.values.push(Values { column, bytes: tensor.bytes().to_vec(), stride, statistics: vec![] });
        }
        Ok(made)
    }

    /// The rows of a part; `all` are all rows.
    ///
    /// # Errors
    /// No such part.
    pub fn part(&self, name: &str) -> Result<Vec<u32>> {
        match self.parts.iter().find(|(n, _)| &**n == name) {
            Some((_, rows)) => Ok(rows.clone()),
            None if name == "all" => Ok((0..self.rows as u32).collect()),
            None => {
                let names: Vec<&str> = self.parts.iter().map(|(n, _)| &**n).chain(["all"]).collect();
                wrong!("data {} has no part {name}{}", self.name, crate::words::hint(name, &names))
            }
        }
    }

    /// Whether there is a part of this name.
    pub fn has_part(&self, name: &str) -> bool {
        self.parts.iter().any(|(n, _)| &**n == name)
    }

    /// The position of a column.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.values.iter().position(|v| &*v.column.name == name)
    }

    /// What column number `i` is.
    pub fn column(&self, i: usize) -> &Column {
        &self.values[i].column
    }

    /// Copies the samples `rows` of column number `i` to `to`, which has room for exactly these.
    pub fn gather(&self, i: usize, rows: &[u32], to: &mut [u8]) {
        let Values { bytes, stride, .. } = &self.values[i];
        if *stride > 0 {
            for (to, &row) in to.chunks_exact_mut(*stride).zip(rows) {
                to.copy_from_slice(&bytes[row as usize * stride..][..*stride]);
            }
        }
    }
}

/// The fields of every column, concatenated row by row, before any step.
fn read_columns(data: &Data, columns: &[&Column], path: &dyn Fn(usize) -> PathBuf) -> Result<(usize, Vec<table::Field>)> {
    let mut raw: Vec<table::Field> = vec![table::Field::default(); columns.len()];
    let mut rows: Option<(usize, &str)> = None;
    for (t, table) in data.tables.iter().enumerate() {
        let mine: Vec<usize> = (0..columns.len()).filter(|&k| columns[k].table == t).collect();
        if mine.is_empty() {
            continue;
        }
        let wanted: Vec<table::Wanted> =
            mine.iter().flat_map(|&k| columns[k].fields.iter().map(move |f| (f.as_str(), columns[k].classes_named.as_slice()))).collect();
        let read = table::read(table, &path(t), &wanted)?;
        match rows {
            Some((count, other)) if count != read.count => {
                return wrong!("data {}: {} has {} rows, {other} has {count}", data.name, table.path, read.count);
            }
            _ => rows = Some((read.count, &table.path)),
        }
        let mut fields = read.fields.into_iter();
        for &k in &mine {
            let parts: Vec<table::Field> = fields.by_ref().take(columns[k].fields.len()).collect();
            raw[k] = match parts.len() {
                0 => table::Field { width: 1, values: (0..read.count).map(|i| i as f64).collect(), ..table::Field::default() },
                1 => parts.into_iter().next().unwrap_or_default(),
                _ => table::Field {
                    width: parts.iter().map(|f| f.width).sum(),
                    shape: vec![parts.iter().map(|f| f.width as i64).sum()],
                    names: if parts.iter().all(|f| f.names.len() == f.width) { parts.iter().flat_map(|f| f.names.clone()).collect() } else { vec![] },
                    values: (0..read.count)
                        .flat_map(|i| parts.iter().flat_map(move |f| &f.values[i * f.width..(i + 1) * f.width]))
                        .copied()
                        .collect(),
                },
            };
        }
    }
    match rows {
        Some((count, _)) => Ok((count, raw)),
        None => wrong!("data {} has no columns that are used", data.name),
    }
}

/// Applies the steps and checks the values; `train` are the rows that standardize, unless the statistics are `known`.
fn finish(column: &Column, field: &mut table::Field, train: &[u32], known: Option<&[(Vec<f64>, Vec<f64>)]>) -> Result<Values> {
    let column = &Column { shape: resolve(column, field)?, ..column.clone() };
    let per_sample = field.width;
    let mut statistics = vec![];
    scale(column, field, train, &mut statistics, known)?;
    let width = column.dtype.bytes();
    let mut bytes = Vec::with_capacity(field.values.len() * width);
    for &x in &field.values {
        bytes.extend_from_slice(&Scalar::float(column.dtype, x).bits().to_le_bytes()[..width]);
    }
    Ok(Values { column: column.clone(), bytes, stride: width * per_sample, statistics })
}

/// The shape of a sample: the program's, with the file's sizes where the program leaves them free.
fn resolve(column: &Column, field: &table::Field) -> Result<Vec<i64>> {
    let mut shape = column.shape.clone();
    // As many axes of other sizes are another order of axes (rows, columns, channels), and no reshaping.
    let turned = shape.len() > 1 && shape.len() == field.shape.len() && shape.iter().zip(&field.shape).any(|(&want, &has)| want >= 0 && want != has);
    if turned {
        let wanted = axes(&shape);
        return wrong!(
            "column {} has samples of shape {:?} in the file, but the program wants {wanted}: turn its axes when the file is written",
            column.name,
            field.shape
        );
    }
    let fixed = crate::tensors::elements(&shape.iter().copied().filter(|&n| n >= 0).collect::<Vec<_>>())?;
    let fits = match shape.iter().filter(|&&n| n < 0).count() {
        0 => field.width == fixed,
        1 if fixed > 0 && field.width.is_multiple_of(fixed) => {
            shape.iter_mut().filter(|n| **n < 0).for_each(|n| *n = (field.width / fixed) as i64);
            true
        }
        _ => {
            let same = field.shape.len() == shape.len() && shape.iter().zip(&field.shape).all(|(&want, &has)| want < 0 || want == has);
            shape.clone_from(&field.shape);
            same
        }
    };
    if fits {
        return Ok(shape);
    }
    wrong!("column {} has {} numbers a row, but its samples have the shape {}", column.name, field.width, axes(&column.shape))
}

/// A sample's shape, in which what is left open has no number.
fn axes(shape: &[i64]) -> String {
    let sizes: Vec<String> = shape.iter().map(|&n| if n < 0 { "any".into() } else { n.to_string() }).collect();
    format!("[{}]", sizes.join(", "))
}

fn scale(
    column: &Column,
    field: &mut table::Field,
    train: &[u32],
    statistics: &mut Vec<(Vec<f64>, Vec<f64>)>,
    known: Option<&[(Vec<f64>, Vec<f64>)]>,
) -> Result<()> {
    let (width, values) = (field.width, &mut field.values);
    let names = &field.names;
    for step in &column.steps {
        let (means, deviations) = match step {
            Scaling::Add(c) => {
                values.iter_mut().for_each(|x| *x += c);
                continue;
            }
            Scaling::Mul(c) => {
                values.iter_mut().for_each(|x| *x *= c);
                continue;
            }
            Scaling::Div(c) => {
                values.iter_mut().for_each(|x| *x /= c);
                continue;
            }
            Scaling::Standard(known) => (known.means(), known.deviations()),
            Scaling::Standardize => match known.and_then(|k| k.get(statistics.len())) {
                Some(known) => known.clone(),
                None => (0..width).map(|j| standard(train, &|row| values[row as usize * width + j])).unzip(),
            },
        };
        if means.len() != width || deviations.len() != width {
            return wrong!("column {} has {width} numbers a row, and {} when the program was trained", column.name, means.len());
        }
        for (i, x) in values.iter_mut().enumerate() {
            *x = (*x - means[i % width]) / deviations[i % width];
        }
        statistics.push((means, deviations));
    }
    for (i, &x) in values.iter().enumerate() {
        let place = || {
            let (row, at) = (i / width + 1, i % width);
            let name = if names.len() == width { &names[at] } else { &*column.name };
            if *name == *column.name { format!("row {row}, column {name}") } else { format!("row {row}, column {name} (of {})", column.name) }
        };
        if !Scalar::float(column.dtype, x).to_f64().is_finite() {
            return wrong!("{}: the value is {x:?} after scaling", place());
        }
        let whole = x.fract() == 0.0;
        match (column.bound, column.dtype) {
            (Some(bound), _) if !whole || x < 0.0 || x >= bound as f64 => return wrong!("{}: {x} is not a whole number in 0..{bound}", place()),
            (_, DType::I64) if !whole || x.abs() > (1u64 << 53) as f64 => return wrong!("{}: {x} is not a whole number", place()),
            (_, DType::Bool) if x != 0.0 && x != 1.0 => return wrong!("{}: {x} is neither 0 nor 1", place()),
            (_, DType::F32 | DType::F64 | DType::I64 | DType::Bool) => {}
        }
    }
    Ok(())
}

/// Mean and deviation (of the whole population; 1 where it is 0), summed in row order.
fn standard(rows: &[u32], value: &dyn Fn(u32) -> f64) -> (f64, f64) {
    let n = rows.len() as f64;
    let mean = rows.iter().map(|&r| value(r)).sum::<f64>() / n;
    let variance = rows.iter().map(|&r| (value(r) - mean) * (value(r) - mean)).sum::<f64>() / n;
    (mean, if variance > 0.0 { variance.sqrt() } else { 1.0 })
}

/// Reads a section by name from a program's.
///
/// # Errors
/// No such section.
pub fn section<'a>(sections: &'a [Data], name: &str) -> Result<&'a Data> {
    sections.iter().find(|d| &*d.name == name).ok_or_else(|| RunError::Wrong(format!("the program has no data section {name}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recipe::{Format, Header, Part, Table};
    use std::io::Write;

    fn section_of(path: &str, header: Header) -> Data {
        let column = |name: &str, fields: &[&str], dtype, shape: &[i64], bound, steps| Column {
            name: name.into(),
            table: 0,
            fields: fields.iter().map(|f| f.to_string()).collect(),
            classes_named: if name == "kind" { vec!["cat".into(), "dog".into()] } else { vec![] },
            steps,
            dtype,
            shape: shape.to_vec(),
            bound,
        };
        Data {
            name: "pets".into(),
            tables: vec![Table { name: "t".into(), path: path.into(), format: Format::Csv { header, separator: b',' } }],
            columns: vec![
                column("x", &["a..b"], DType::F32, &[-1], None, vec![Scaling::Div(2.0), Scaling::Standardize]),
                column("kind", &["kind"], DType::I64, &[], Some(2), vec![]),
                column("row", &[], DType::I64, &[], None, vec![Scaling::Add(1.0)]),
            ],
            parts: vec![Part { name: "test".into(), fraction: 0.5, seed: 1, stratify: Some("kind".into()) }],
        }
    }

    fn load(text: &str) -> Result<Dataset> {
        let folder = tempfile::tempdir().unwrap();
        let mut gz = flate2::write::GzEncoder::new(std::fs::File::create(folder.path().join("p.csv.gz")).unwrap(), flate2::Compression::fast());
        gz.write_all(text.as_bytes()).unwrap();
        gz.finish().unwrap();
        Dataset::load(&section_of("p.csv.gz", Header::First), folder.path(), &|_| true)
    }

    #[test]
    fn rows_become_samples() {
        let data = load("kind,a,b\ncat,2,10\ndog,4,10\ncat,2,10\n dog ,4,10\n").unwrap();
        let train = data.part("train").unwrap();
        assert_eq!((train.len(), data.part("test").unwrap().len()), (2, 2));
        let mut x = [0u8; 16];
        data.gather(0, &train, &mut x);
        let x: Vec<f32> = x.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(x.iter().map(|v| v.abs()).collect::<Vec<_>>(), [1.0, 0.0, 1.0, 0.0]);
        let mut row = [0u8; 8];
        data.gather(2, &[3], &mut row);
        assert_eq!(i64::from_le_bytes(row), 4);
        assert!(data.part("valid").unwrap_err().message().contains("it has train, test, all"));
    }

    /// Images whose channels come last are no images whose channels come first.
    #[test]
    fn axes_are_not_turned_in_silence() {
        let column = |shape: &[i64]| Column {
            name: "image".into(),
            table: 0,
            fields: vec![],
            classes_named: vec![],
            steps: vec![],
            dtype: DType::F32,
            shape: shape.to_vec(),
            bound: None,
        };
        let field = |shape: &[i64]| table::Field { width: shape.iter().product::<i64>() as usize, shape: shape.to_vec(), ..table::Field::default() };
        let message = resolve(&column(&[3, 8, 8]), &field(&[8, 8, 3])).unwrap_err();
        assert!(message.message().contains("samples of shape [8, 8, 3] in the file, but the program wants [3, 8, 8]"), "{message}");
        for (wanted, has) in [(&[64][..], &[8, 8][..]), (&[1, 8, 8], &[8, 8]), (&[3, 8, 8], &[192]), (&[-1, 8], &[5, 8]), (&[8, 8], &[8, 8])] {
            assert!(resolve(&column(wanted), &field(has)).is_ok(), "{wanted:?} of {has:?}");
        }
    }

    /// What a run has found to standardize by stands for the rows that it was found in.
    #[test]
    fn a_settled_section_scales_other_files_alone() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        write("p.csv", "kind,a,b\ncat,2,10.5\ndog,4,10\ncat,3.1,10\n dog ,4,17\n");
        write("more.csv", "kind,a,b\ndog,3,11\ncat,8,0.25\n");
        let section = section_of("p.csv", Header::First);
        let settled = Dataset::load(&section, folder.path(), &|_| true).unwrap().settled(&section);
        assert_ne!(settled, section);
        let settled: Data = serde_json::from_str(&serde_json::to_string(&settled).unwrap()).unwrap();
        let scaled = |section: &Data, used: &dyn Fn(&str) -> bool| {
            let more = folder.path().join("more.csv").display().to_string();
            let (data, rows) = Dataset::meant(section, folder.path(), &more, used)?;
            let mut x = [0u8; 16];
            data.gather(0, &rows, &mut x);
            Ok::<_, RunError>(x)
        };
        let before = scaled(&section, &|_| true).unwrap();
        assert_eq!(scaled(&settled, &|_| true).unwrap(), before);
        std::fs::remove_file(folder.path().join("p.csv")).unwrap();
        assert_eq!(scaled(&settled, &|_| true).unwrap(), before);
        assert!(scaled(&section, &|_| true).is_err());
        // Columns that nobody asks for need not be there.
        write("more.csv", "a,b\n3,11\n8,0.25\n");
        assert_eq!(scaled(&settled, &|name| name == "x").unwrap(), before);
        write("more.csv", "a,c,b\n3,1,11\n");
        assert!(scaled(&settled, &|name| name == "x").unwrap_err().message().contains("has 3 numbers a row, and 2 when the program was trained"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, expected) in [
            ("a,b,kind\n1,2,cat\n1,x,dog\n", "row 2 (line 3), column b: \"x\" is not a number"),
            ("a,b,kind\n1,,cat\n", "column b: the cell is empty"),
            ("a,b,kind\n1,nan,cat\n", "column b: the value is NaN"),
            ("a,b,kind\n1,2,cow\n", "column kind: \"cow\" is none of the classes cat, dog"),
            ("a,b,kind\n1,2\n", "row 1 (line 2) has 2 fields instead of 3"),
            ("a,c,kind\n1,2,cat\n", "has no column b; it has a, c, kind"),
            ("b,a,kind\n1,2,cat\n", "the column b comes before a"),
            ("a;b;kind\n1;2;cat\n", "has no column a; it has a;b;kind; is it separated by `;`? then say `separator: \";\"`"),
            ("a,b,kind\n", "has no rows"),
            ("", "is empty"),
        ] {
            let message = load(text).err().map_or("accepted".to_string(), |e| e.message().to_string());
            assert!(message.contains(expected), "{message}\n{expected}");
        }
        let mut bound = section_of("p.csv", Header::Names(vec!["a".into(), "b".into(), "kind".into()]));
        bound.columns[1].classes_named.clear();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("p.csv"), "1,2,0\n1,2,2\n").unwrap();
        let message = Dataset::load(&bound, folder.path(), &|_| true).err().unwrap();
        assert!(message.message().ends_with("row 2, column kind: 2 is not a whole number in 0..2"), "{message}");
    }
}
