//! NumPy's `.npy` and `.npz`: plain numbers in, tensors out, and back.
//!
//! The header is a Python literal; only the one form that it can have is read, so that neither its nesting nor its numbers can hurt. Half, single
//! and double floats, all integers and bools are read, in either byte order, C or Fortran; pickled objects are refused.
//! Sizes are compared with the file's before anything is allocated.

use crate::dtype::DType;
use crate::error::{Result, RunError, refuse};
use crate::tensor::{Tensor, elements};
use std::collections::BTreeMap;
use std::io::{BufReader, Cursor, Read, Seek, Write};
use std::path::Path;

/// Largest header that is read; NumPy pads to 64 bytes and warns above 10,000.
const MAX_HEADER: usize = 1 << 16;

/// The array in a `.npy` file.
///
/// # Errors
/// Not readable; not such a file; objects inside.
pub fn read_npy(path: &Path) -> Result<Tensor> {
    parse(&crate::files::read(path)?).map_err(|e| refuse!("{}: {e}", path.display()))
}

/// The arrays in a `.npz` file, by name.
///
/// # Errors
/// Not readable; not such a file; objects inside.
pub fn read_npz(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    read_npz_where(path, &|_| true)
}

/// The arrays of a `.npz` archive whose names are `wanted`; the others may hold anything.
///
/// # Errors
/// As [`read_npz`].
pub fn read_npz_where(path: &Path, wanted: &dyn Fn(&str) -> bool) -> Result<BTreeMap<String, Tensor>> {
    // One array after the other is in memory twice, not all of them; what is no file comes whole, because nothing is found again in it.
    let file = crate::files::open(path)?;
    let arrays = match file.metadata() {
        Ok(known) if known.is_file() => parse_npz(BufReader::new(file), known.len(), wanted),
        _ => {
            let bytes = crate::files::read(path)?;
            let len = bytes.len() as u64;
            parse_npz(Cursor::new(bytes), len, wanted)
        }
    };
    arrays.map_err(|e| refuse!("{}: {e}", path.display()))
}

/// The arrays of a `.npz` archive of `len` bytes whose names are `wanted`.
pub(crate) fn parse_npz(archive: impl Read + Seek, len: u64, wanted: &dyn Fn(&str) -> bool) -> std::result::Result<BTreeMap<String, Tensor>, String> {
    let mut archive = zip::ZipArchive::new(archive).map_err(|e| format!("this is no .npz archive ({e})"))?;
    let mut arrays = BTreeMap::new();
    // The sizes that the archive claims are not believed: all members together cannot be more than deflate makes of the file at most.
    let mut budget = len.saturating_mul(1040).saturating_add(1 << 16);
    for i in 0..archive.len() {
        let mut member = archive.by_index(i).map_err(|e| format!("member {i} cannot be read ({e})"))?;
        let name = member.name().map_err(|e| format!("member {i} has no readable name ({e})"))?.to_string();
        let name = name.strip_suffix(".npy").unwrap_or(&name).to_string();
        if !wanted(&name) {
            continue;
        }
        let mut content = Vec::new();
        let read = (&mut member).take(budget).read_to_end(&mut content);
        budget -= read.map_err(|e| format!("{name} cannot be read ({e})"))? as u64;
        let array = parse(&content).map_err(|e| format!("{name}: {e}"))?;
        if arrays.insert(name.clone(), array).is_some() {
            return Err(format!("two arrays are called {name}"));
        }
    }
    Ok(arrays)
}

/// The array of a `.npy` file in memory.
pub(crate) fn parse(bytes: &[u8]) -> std::result::Result<Tensor, String> {
    let Some(rest) = bytes.strip_prefix(b"\x93NUMPY") else { return Err("this is no .npy file".into()) };
    let cut = || "the file is cut short".to_string();
    let (start, len) = match rest.first().ok_or_else(cut)? {
        1 => (4, u16::from_le_bytes(rest.get(2..4).ok_or_else(cut)?.try_into().unwrap_or_default()) as usize),
        2 | 3 => (6, u32::from_le_bytes(rest.get(2..6).ok_or_else(cut)?.try_into().unwrap_or_default()) as usize),
        v => return Err(format!("version {v} of the .npy format is not known")),
    };
    if len > MAX_HEADER {
        return Err(format!("its header claims {len} bytes"));
    }
    let header = rest.get(start..start + len).ok_or_else(cut)?;
    let (descr, fortran, shape) = header_fields(header).ok_or("its header cannot be read")?;
    let (order, kind) = descr.split_at_checked(1).ok_or("its header cannot be read")?;
    if kind.starts_with('O') || order == "O" {
        return Err("it holds Python objects, which are never loaded".into());
    }
    let width: usize = kind.get(1..).and_then(|w| w.parse().ok()).unwrap_or(0);
    let (dtype, convert) = conversion(kind.get(..1).unwrap_or(""), width).ok_or_else(|| format!("elements of type {descr} are not supported"))?;
    let data = &rest[start + len..];
    let count = elements(&shape).and_then(|n| usize::try_from(n).ok()).filter(|n| n.checked_mul(width).is_some_and(|b| b == data.len()));
    let Some(count) = count else {
        return Err(format!("it has {} bytes of elements, which is not what shape {shape:?} of {descr} takes", data.len()));
    };
    let mut tensor = Tensor::zeros(dtype, &shape);
    let mut element = [0u8; 8];
    let place = fortran_positions(&shape, fortran && shape.len() > 1);
    let out = tensor.bytes_mut();
    // Most arrays lie as tensors do.
    if order != ">" && !(fortran && shape.len() > 1) && matches!(kind, "f4" | "f8" | "i8") {
        out.copy_from_slice(data);
        return Ok(tensor);
    }
    for (i, from) in data.chunks_exact(width).enumerate().take(count) {
        element[..width].copy_from_slice(from);
        if order == ">" {
            element[..width].reverse();
        }
        let to = place(i) * dtype.bytes();
        let value = convert(element).ok_or("an unsigned number does not fit in 63 bits")?;
        out[to..to + dtype.bytes()].copy_from_slice(&value[..dtype.bytes()]);
    }
    Ok(tensor)
}

/// From a position in the file to one in row-major order.
fn fortran_positions(shape: &[i64], fortran: bool) -> impl Fn(usize) -> usize {
    let sizes: Vec<usize> = if fortran { shape.iter().map(|&n| n as usize).collect() } else { vec![] };
    move |i| {
        let (mut rest, mut at, mut stride) = (i, if fortran { 0 } else { i }, sizes.iter().product::<usize>());
        for &n in &sizes {
            stride /= n;
            at += rest % n * stride;
            rest /= n;
        }
        at
    }
}

type Convert = fn([u8; 8]) -> Option<[u8; 8]>;

/// The tensor type for a kind and width, and how an element (little-endian, zero-extended) becomes one.
fn conversion(kind: &str, width: usize) -> Option<(DType, Convert)> {
    let (dtype, convert): (DType, Convert) = match (kind, width) {
        ("f", 2) => (DType::F32, |b| Some(wide(half(u16::from_le_bytes([b[0], b[1]])).to_le_bytes()))),
        ("f", 4) => (DType::F32, Some),
        ("f", 8) => (DType::F64, Some),
        ("i", 1) => (DType::I64, |b| Some((b[0] as i8 as i64).to_le_bytes())),
        ("i", 2) => (DType::I64, |b| Some((i16::from_le_bytes([b[0], b[1]]) as i64).to_le_bytes())),
        ("i", 4) => (DType::I64, |b| Some((i32::from_le_bytes([b[0], b[1], b[2], b[3]]) as i64).to_le_bytes())),
        ("i", 8) => (DType::I64, Some),
        ("u", 1 | 2 | 4 | 8) => (DType::I64, |b| (b[7] < 128).then_some(b)),
        ("b", 1) => (DType::Bool, |b| Some(wide([(b[0] != 0) as u8, 0, 0, 0]))),
        _ => return None,
    };
    Some((dtype, convert))
}

fn wide(b: [u8; 4]) -> [u8; 8] {
    [b[0], b[1], b[2], b[3], 0, 0, 0, 0]
}

/// A half float's value, exactly.
pub(crate) fn half(bits: u16) -> f32 {
    let (sign, exponent, fraction) = (bits >> 15, (bits >> 10) & 31, (bits & 1023) as f32);
    let size = match exponent {
        0 => fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => f32::INFINITY,
        31 => f32::NAN,
        e => (1024.0 + fraction) * 2f32.powi(e as i32 - 25),
    };
    if sign == 1 { -size } else { size }
}

/// `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`, keys in any order.
fn header_fields(header: &[u8]) -> Option<(String, bool, Vec<i64>)> {
    let mut text = std::str::from_utf8(header).ok()?.trim().strip_prefix('{')?.strip_suffix('}')?.trim();
    let (mut descr, mut fortran, mut shape) = (None, None, None);
    while !text.is_empty() {
        let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
        let (key, rest) = text[1..].split_once(quote)?;
        let rest = rest.trim_start().strip_prefix(':')?.trim_start();
        text = match key {
            "descr" => {
                let quote = rest.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
                let (value, rest) = rest[1..].split_once(quote)?;
                descr = Some(value.to_string());
                rest
            }
            "fortran_order" => {
                fortran = Some(rest.starts_with("True"));
                rest.strip_prefix("True").or_else(|| rest.strip_prefix("False"))?
            }
            "shape" => {
                let (inside, rest) = rest.strip_prefix('(')?.split_once(')')?;
                let sizes = inside.split(',').map(str::trim).filter(|s| !s.is_empty());
                shape = Some(sizes.map(|s| s.trim_end_matches('L').parse().ok().filter(|&n: &i64| n >= 0)).collect::<Option<Vec<i64>>>()?);
                rest
            }
            _ => return None,
        };
        text = text.trim_start().strip_prefix(',').unwrap_or(text.trim_start()).trim_start();
    }
    Some((descr?, fortran?, shape?)).filter(|(_, _, shape)| shape.len() <= 64)
}

/// The bytes of a `.npy` file.
pub fn to_npy(tensor: &Tensor) -> Vec<u8> {
    npy_bytes(tensor.dtype, &tensor.shape, tensor.bytes())
}

/// The bytes of a `.npy` file of row-major elements.
pub fn npy_bytes(dtype: DType, shape: &[i64], bytes: &[u8]) -> Vec<u8> {
    let descr = match dtype {
        DType::F32 => "<f4",
        DType::F64 => "<f8",
        DType::I64 => "<i8",
        DType::Bool => "|b1",
    };
    let sizes: String = shape.iter().map(|n| format!("{n}, ")).collect();
    let sizes = if shape.len() == 1 { sizes.trim_end() } else { sizes.trim_end_matches(", ") };
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({sizes}), }}");
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend((header.len() as u16).to_le_bytes());
    out.extend(header.as_bytes());
    out.extend(bytes);
    out
}

/// Writes a `.npz` file, uncompressed as `numpy.savez` does.
///
/// # Errors
/// Not writable.
pub fn write_npz(path: &Path, arrays: &BTreeMap<String, Tensor>) -> Result<()> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let failed = |e: String| RunError::World(format!("cannot write {}: {e}", path.display()));
    for (name, tensor) in arrays {
        archive.start_file(format!("{name}.npy"), options).map_err(|e| failed(e.to_string()))?;
        archive.write_all(&to_npy(tensor)).map_err(|e| failed(e.to_string()))?;
    }
    let bytes = archive.finish().map_err(|e| failed(e.to_string()))?.into_inner();
    crate::files::write(path, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes(), data].concat()
    }

    #[test]
    fn what_is_written_reads_back() {
        let folder = tempfile::tempdir().unwrap();
        let arrays: BTreeMap<String, Tensor> = [
            ("a".to_string(), Tensor::from_f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, f32::INFINITY])),
            ("b".to_string(), Tensor::from_i64(&[], &[-7])),
            ("c".to_string(), Tensor::from_bool(&[3], &[true, false, true])),
            ("d".to_string(), Tensor::from_f64(&[0, 2], &[])),
        ]
        .into();
        let path = folder.path().join("x.npz");
        write_npz(&path, &arrays).unwrap();
        assert_eq!(read_npz(&path).unwrap(), arrays);
    }

    #[test]
    fn orders_and_widths() {
        let fortran = file("{'descr': '>i2', 'fortran_order': True, 'shape': (2, 3), }", &[0, 1, 0, 4, 0, 2, 0, 5, 0, 3, 255, 255]);
        assert_eq!(parse(&fortran).unwrap(), Tensor::from_i64(&[2, 3], &[1, 2, 3, 4, 5, -1]));
        let halves = file("{'shape': (3,), 'descr': '<f2', 'fortran_order': False}", &[0, 0x3c, 1, 0, 0, 0xfc]);
        assert_eq!(parse(&halves).unwrap(), Tensor::from_f32(&[3], &[1.0, 2f32.powi(-24), f32::NEG_INFINITY]));
    }

    #[test]
    fn refused() {
        let says = |header: &str, data: &[u8]| parse(&file(header, data)).unwrap_err();
        assert!(says("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", &[0]).contains("Python objects"));
        assert!(says("{'descr': '<f4', 'fortran_order': False, 'shape': (1152921504606846976, 16), }", &[0; 4]).contains("takes"));
        assert!(says("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", &[0; 7]).contains("7 bytes"));
        assert!(says(&"(".repeat(60000), &[]).contains("header"));
        assert!(says("{'descr': '<c8', 'fortran_order': False, 'shape': (0,), }", &[]).contains("<c8"));
        assert!(parse(b"\x93NUMPY\x02\x00\xff\xff\xff\xff").unwrap_err().contains("claims"));
        assert!(parse_npz(Cursor::new(b"PK\x03\x04junk"), 8, &|_| true).unwrap_err().contains("npz"));
    }
}
