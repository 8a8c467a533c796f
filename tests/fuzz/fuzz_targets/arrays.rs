//! `.npy` and `.npz`: looked into, and read as columns of a data section, or refused.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nnc_fuzz::{file, folder, inspected, said};
use nnc_runtime::data::Dataset;
use nnc_runtime::dtype::DType;
use nnc_runtime::recipe::{Column, Data, Format, Part, Scaling, Table};

fuzz_target!(|data: &[u8]| {
    let (name, format, fields) = if data.starts_with(b"PK") { ("x.npz", Format::Npz, ["a", "b"]) } else { ("x.npy", Format::Npy, ["data", "data"]) };
    inspected(&file(name, data));
    let column = |field: &str, dtype, shape: &[i64], steps| Column {
        name: field.into(),
        table: 0,
        fields: vec![field.into()],
        classes_named: vec![],
        steps,
        dtype,
        shape: shape.to_vec(),
        bound: None,
    };
    let section = Data {
        name: "d".into(),
        tables: vec![Table { name: "t".into(), path: name.into(), format }],
        columns: vec![column(fields[0], DType::F32, &[-1], vec![Scaling::Standardize]), column(fields[1], DType::I64, &[], vec![])],
        parts: vec![Part { name: "test".into(), fraction: 0.5, seed: 1, stratify: None }],
    };
    for one in [true, false] {
        match Dataset::load(&section, folder(), &|name| !one || name == fields[0]) {
            Ok(data) => assert!(!data.part("all").expect("all rows").is_empty()),
            Err(error) => _ = said(&error),
        }
    }
});
