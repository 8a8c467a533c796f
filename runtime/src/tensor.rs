//! Tensors in memory: element type, shape, and row-major bytes aligned to 64, the widest vector that kernels load.
//!
//! In: shapes whose sizes are not negative and whose bytes fit in memory (the constructors panic otherwise; [`elements`] is for sizes that
//! a user controls). Typed views panic if the type is another: callers match on `dtype` first.

#![warn(missing_docs)]

use crate::dtype::{DType, Scalar};

/// A dense tensor on the CPU.
#[derive(Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Of the elements.
    pub dtype: DType,
    /// Empty for a scalar.
    pub shape: Vec<i64>,
    data: Vec<Chunk>,
}

/// What the allocation is made of; bytes behind the last element are zero.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C, align(64))]
struct Chunk([u8; 64]);

/// The number of elements, or nothing if a size is negative or the count does not fit in 63 bits.
pub fn elements(shape: &[i64]) -> Option<i64> {
    shape.iter().try_fold(1i64, |n, size| if *size < 0 { None } else { n.checked_mul(*size) })
}

macro_rules! views {
    ($($dtype:ident $t:ty, $from:ident $view:ident $view_mut:ident;)*) => {$(
        #[doc = concat!("A tensor of `", stringify!($t), "`, row-major. Panics if the shape has another number of elements.")]
        pub fn $from(shape: &[i64], values: &[$t]) -> Tensor {
            let mut tensor = Tensor::zeros(DType::$dtype, shape);
            tensor.$view_mut().copy_from_slice(values);
            tensor
        }

        #[doc = concat!("The elements as `", stringify!($t), "`. Panics if they are of another type.")]
        pub fn $view(&self) -> &[$t] {
            assert_eq!(self.dtype, DType::$dtype);
            // SAFETY: the allocation is aligned and holds `len` elements of this type, all written; every bit pattern is a value
            // (for bool: `set` and the views write only 0 and 1, and `bytes_mut` states that duty).
            unsafe { std::slice::from_raw_parts(self.data.as_ptr().cast(), self.len()) }
        }

        #[doc = concat!("The elements as `", stringify!($t), "`, to write. Panics if they are of another type.")]
        pub fn $view_mut(&mut self) -> &mut [$t] {
            assert_eq!(self.dtype, DType::$dtype);
            // SAFETY: as in the shared view, and `self` is borrowed mutably.
            unsafe { std::slice::from_raw_parts_mut(self.data.as_mut_ptr().cast(), self.len()) }
        }
    )*};
}

impl Tensor {
    /// All elements zero (false).
    pub fn zeros(dtype: DType, shape: &[i64]) -> Tensor {
        let count = elements(shape).unwrap_or_else(|| panic!("a tensor of shape {shape:?}"));
        let bytes = usize::try_from(count).ok().and_then(|n| n.checked_mul(dtype.bytes())).unwrap_or_else(|| panic!("a tensor of shape {shape:?}"));
        Tensor { dtype, shape: shape.to_vec(), data: vec![Chunk([0; 64]); bytes.div_ceil(64)] }
    }

    /// All elements `value`.
    pub fn filled(shape: &[i64], value: Scalar) -> Tensor {
        let mut tensor = Tensor::zeros(value.dtype(), shape);
        (0..tensor.len()).for_each(|i| tensor.set(i, value));
        tensor
    }

    /// A rank-0 tensor.
    pub fn scalar(value: Scalar) -> Tensor {
        Tensor::filled(&[], value)
    }

    /// From single values of `dtype`, row-major. Panics if the count differs.
    pub fn from_scalars(dtype: DType, shape: &[i64], values: &[Scalar]) -> Tensor {
        let mut tensor = Tensor::zeros(dtype, shape);
        assert_eq!(tensor.len(), values.len(), "elements of a tensor of shape {shape:?}");
        values.iter().enumerate().for_each(|(i, v)| tensor.set(i, *v));
        tensor
    }

    views! {
        F32 f32, from_f32 as_f32 as_f32_mut;
        F64 f64, from_f64 as_f64 as_f64_mut;
        I64 i64, from_i64 as_i64 as_i64_mut;
        Bool bool, from_bool as_bool as_bool_mut;
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product::<i64>() as usize
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements' bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the allocation holds that many bytes, all written.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr().cast(), self.len() * self.dtype.bytes()) }
    }

    /// The elements' bytes, to write; bools must stay 0 or 1.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as `bytes`, and `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.data.as_mut_ptr().cast(), self.len() * self.dtype.bytes()) }
    }

    /// Element `i` in row-major order.
    pub fn get(&self, i: usize) -> Scalar {
        match self.dtype {
            DType::F32 => Scalar::f32(self.as_f32()[i]),
            DType::F64 => Scalar::f64(self.as_f64()[i]),
            DType::I64 => Scalar::i64(self.as_i64()[i]),
            DType::Bool => Scalar::bool(self.as_bool()[i]),
        }
    }

    /// Writes element `i` in row-major order. Panics if `value` is of another type.
    pub fn set(&mut self, i: usize, value: Scalar) {
        assert_eq!(value.dtype(), self.dtype);
        match self.dtype {
            DType::F32 => self.as_f32_mut()[i] = f32::from_bits(value.bits() as u32),
            DType::F64 => self.as_f64_mut()[i] = f64::from_bits(value.bits()),
            DType::I64 => self.as_i64_mut()[i] = value.bits() as i64,
            DType::Bool => self.as_bool_mut()[i] = value.bits() != 0,
        }
    }

    /// The elements, row-major.
    pub fn scalars(&self) -> Vec<Scalar> {
        (0..self.len()).map(|i| self.get(i)).collect()
    }

    /// Bit for bit the same, where all NaNs count as one (no target promises their payload).
    pub fn same(&self, other: &Tensor) -> bool {
        self.dtype == other.dtype
            && self.shape == other.shape
            && (0..self.len()).all(|i| {
                let (a, b) = (self.get(i), other.get(i));
                a == b || (a.to_f64().is_nan() && b.to_f64().is_nan())
            })
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{:?}[", self.dtype, self.shape)?;
        for i in 0..self.len().min(64) {
            write!(f, "{}{}", if i > 0 { ", " } else { "" }, self.get(i))?;
        }
        write!(f, "{}]", if self.len() > 64 { ", ..." } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_and_bytes_agree() {
        let mut t = Tensor::from_f32(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(t.bytes().as_ptr() as usize % 64, 0);
        t.bytes_mut()[4..8].copy_from_slice(&9f32.to_ne_bytes());
        t.set(5, Scalar::f32(f32::NAN));
        assert_eq!((t.get(1), t.as_f32()[3], t.len()), (Scalar::f32(9.0), 4.0, 6));
        let mut other = t.clone();
        other.set(5, Scalar::f32(-f32::NAN));
        assert!(t.same(&other) && t != other);
        other.set(0, Scalar::f32(-1.0));
        assert!(!t.same(&other));
        assert_eq!(elements(&[1 << 40, 1 << 40]), None);
    }
}
