//! Element types and single values of them.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DType {
    /// IEEE single.
    F32,
    /// IEEE double.
    F64,
    /// Signed 64-bit integer: indices, classes, tokens, keys.
    I64,
    /// One byte, 0 or 1.
    Bool,
}

impl DType {
    /// Bytes an element takes in memory.
    pub fn bytes(self) -> usize {
        match self {
            DType::F32 => 4,
            DType::F64 | DType::I64 => 8,
            DType::Bool => 1,
        }
    }

    /// Whether it is a float.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F64)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::I64 => "i64",
            DType::Bool => "bool",
        })
    }
}

/// One value: its type and its bits, so that equality, order and hash are total (NaN equals itself, 0.0 differs from -0.0).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Scalar {
    dtype: DType,
    bits: u64,
}

impl Scalar {
    /// An f32.
    pub fn f32(x: f32) -> Scalar {
        Scalar { dtype: DType::F32, bits: x.to_bits() as u64 }
    }

    /// An f64.
    pub fn f64(x: f64) -> Scalar {
        Scalar { dtype: DType::F64, bits: x.to_bits() }
    }

    /// An i64.
    pub fn i64(x: i64) -> Scalar {
        Scalar { dtype: DType::I64, bits: x as u64 }
    }

    /// A bool.
    pub fn bool(x: bool) -> Scalar {
        Scalar { dtype: DType::Bool, bits: x as u64 }
    }

    /// `x` rounded to `dtype`; to I64 truncating and saturating, to Bool `x != 0`.
    pub fn float(dtype: DType, x: f64) -> Scalar {
        match dtype {
            DType::F32 => Scalar::f32(x as f32),
            DType::F64 => Scalar::f64(x),
            DType::I64 => Scalar::i64(x as i64),
            DType::Bool => Scalar::bool(x != 0.0),
        }
    }

    /// Its type.
    pub fn dtype(self) -> DType {
        self.dtype
    }

    /// Its bits, in the low bytes.
    pub fn bits(self) -> u64 {
        self.bits
    }

    /// From bits in the low bytes.
    pub fn from_bits(dtype: DType, bits: u64) -> Scalar {
        Scalar { dtype, bits }
    }

    /// As a float, whatever it is.
    pub fn to_f64(self) -> f64 {
        match self.dtype {
            DType::F32 => f32::from_bits(self.bits as u32) as f64,
            DType::F64 => f64::from_bits(self.bits),
            DType::I64 => self.bits as i64 as f64,
            DType::Bool => self.bits as f64,
        }
    }

    /// As an integer; floats truncate and saturate.
    pub fn to_i64(self) -> i64 {
        match self.dtype {
            DType::F32 | DType::F64 => self.to_f64() as i64,
            DType::I64 => self.bits as i64,
            DType::Bool => self.bits as i64,
        }
    }

    /// Whether it is not zero.
    pub fn to_bool(self) -> bool {
        self.to_f64() != 0.0
    }
}

impl fmt::Debug for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}{}", self.dtype)
    }
}

/// The shortest text that reads back as the same value: `0.5`, `-3`, `inf`, `nan`, `true`.
impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.dtype {
            DType::F32 => write!(f, "{:?}", f32::from_bits(self.bits as u32)),
            DType::F64 => write!(f, "{:?}", f64::from_bits(self.bits)),
            DType::I64 => write!(f, "{}", self.bits as i64),
            DType::Bool => write!(f, "{}", self.bits != 0),
        }
    }
}
