//! CSV files, gzipped or not, with and without a header: read as a data section's columns, or refused. The first byte chooses how.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nnc_fuzz::{file, folder, said};
use nnc_runtime::data::Dataset;
use nnc_runtime::dtype::DType;
use nnc_runtime::recipe::{Column, Data, Format, Header, Part, Scaling, Table};

fuzz_target!(|data: &[u8]| {
    let Some((how, data)) = data.split_first() else { return };
    let header = match how & 3 {
        0 => Header::None,
        1 => Header::Names(vec!["a".into(), "b".into(), "kind".into()]),
        _ => Header::First,
    };
    let separator = if how & 4 == 0 { b',' } else { b'\t' };
    let name = if how & 8 == 0 { "x.csv" } else { "x.csv.gz" };
    file(name, data);
    let fields: [&str; 3] = if matches!(header, Header::None) { ["0", "1", "0..1"] } else { ["a", "kind", "a..b"] };
    let column = |name: &str, field: &str, dtype, shape: &[i64], bound, steps| Column {
        name: name.into(),
        table: 0,
        fields: vec![field.into()],
        classes_named: if how & 16 != 0 && name == "kind" { vec!["cat".into(), "dog".into()] } else { vec![] },
        steps,
        dtype,
        shape: shape.to_vec(),
        bound,
    };
    let section = Data {
        name: "d".into(),
        tables: vec![Table { name: "t".into(), path: name.into(), format: Format::Csv { header: header.clone(), separator } }],
        columns: vec![
            column("x", fields[0], DType::F32, &[], None, vec![Scaling::Div(16.0), Scaling::Standardize]),
            column("kind", fields[1], DType::I64, &[], Some(3), vec![]),
            column("both", fields[2], DType::F64, &[-1], None, vec![Scaling::Mul(2.0)]),
        ],
        parts: vec![Part { name: "test".into(), fraction: 0.25, seed: 1, stratify: (how & 32 != 0).then(|| "kind".into()) }],
    };
    for one in [true, false] {
        match Dataset::load(&section, folder(), &|name| !one || name == "x") {
            Ok(data) => assert!(!data.part("all").expect("all rows").is_empty()),
            Err(error) => _ = said(&error),
        }
    }
});
