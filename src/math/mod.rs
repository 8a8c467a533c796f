//! The one meaning of scalar operations.

use crate::ir::{DType, Scalar, ScalarOp};
pub mod random;

/// Placeholder until the fixed sequences: std's functions.
pub fn apply(op: ScalarOp, args: &[Scalar]) -> Scalar {
    use ScalarOp::*;
    let dtype = args[0].dtype();
    let (a, b) = (args[0], args.get(1).copied().unwrap_or(args[0]));
    if op == Select {
        return if a.to_bool() { args[1] } else { args[2] };
    }
    match dtype {
        DType::F32 => {
            let f = |i: usize| f32::from_bits(args[i.min(args.len() - 1)].bits() as u32);
            let (x, y) = (f(0), f(1));
            match op {
                Eq => Scalar::bool(x == y),
                Ne => Scalar::bool(x != y),
                Lt => Scalar::bool(x < y),
                Le => Scalar::bool(x <= y),
                Add => Scalar::f32(x + y),
                Sub => Scalar::f32(x - y),
                Mul => Scalar::f32(x * y),
                Div => Scalar::f32(x / y),
                Sqrt => Scalar::f32(x.sqrt()),
                Fma => Scalar::f32(x.mul_add(y, f(2))),
                _ => Scalar::f32(float(op, x as f64, y as f64) as f32),
            }
        }
        DType::F64 => {
            let (x, y) = (a.to_f64(), b.to_f64());
            match op {
                Eq => Scalar::bool(x == y),
                Ne => Scalar::bool(x != y),
                Lt => Scalar::bool(x < y),
                Le => Scalar::bool(x <= y),
                Fma => Scalar::f64(x.mul_add(y, args[2].to_f64())),
                _ => Scalar::f64(float(op, x, y)),
            }
        }
        DType::I64 => {
            let (x, y) = (a.to_i64(), b.to_i64());
            match op {
                Neg => Scalar::i64(x.wrapping_neg()),
                Abs => Scalar::i64(x.wrapping_abs()),
                Sign => Scalar::i64(x.signum()),
                Add => Scalar::i64(x.wrapping_add(y)),
                Sub => Scalar::i64(x.wrapping_sub(y)),
                Mul => Scalar::i64(x.wrapping_mul(y)),
                FloorDiv => Scalar::i64(if y == 0 { 0 } else { nnc_runtime::size::floor_div(x, y) }),
                Mod => Scalar::i64(if y == 0 { 0 } else { x.wrapping_sub(y.wrapping_mul(nnc_runtime::size::floor_div(x, y))) }),
                Max => Scalar::i64(x.max(y)),
                Min => Scalar::i64(x.min(y)),
                Eq => Scalar::bool(x == y),
                Ne => Scalar::bool(x != y),
                Lt => Scalar::bool(x < y),
                Le => Scalar::bool(x <= y),
                FoldKey => Scalar::i64(random::fold_key(x, y)),
                Uniform => Scalar::f64(random::uniform(x, y)),
                _ => panic!("{op:?} of integers"),
            }
        }
        DType::Bool => {
            let (x, y) = (a.to_bool(), b.to_bool());
            Scalar::bool(match op {
                Not => !x,
                And => x && y,
                Or | Max => x || y,
                Min => x && y,
                Eq => x == y,
                Ne => x != y,
                Lt => !x && y,
                Le => !x || y,
                _ => panic!("{op:?} of bools"),
            })
        }
    }
}

fn float(op: ScalarOp, x: f64, y: f64) -> f64 {
    use ScalarOp::*;
    match op {
        Neg => -x,
        Abs => x.abs(),
        Sign => {
            if x.is_nan() {
                x
            } else if x > 0.0 {
                1.0
            } else if x < 0.0 {
                -1.0
            } else {
                0.0
            }
        }
        Sqrt => x.sqrt(),
        Exp => x.exp(),
        Expm1 => x.exp_m1(),
        Log => x.ln(),
        Log1p => x.ln_1p(),
        Sin => x.sin(),
        Cos => x.cos(),
        Atan => x.atan(),
        Tanh => x.tanh(),
        Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Erf => {
            // Abramowitz and Stegun 7.1.26.
            let t = 1.0 / (1.0 + 0.3275911 * x.abs());
            let p = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
            (1.0 - p * (-x * x).exp()).copysign(x)
        }
        Floor => x.floor(),
        Ceil => x.ceil(),
        Round => x.round_ties_even(),
        Add => x + y,
        Sub => x - y,
        Mul => x * y,
        Div => x / y,
        Pow => x.powf(y),
        Max => {
            if x.is_nan() || y.is_nan() {
                f64::NAN
            } else if x > y {
                x
            } else {
                y
            }
        }
        Min => {
            if x.is_nan() || y.is_nan() {
                f64::NAN
            } else if x < y {
                x
            } else {
                y
            }
        }
        Mod => {
            let r = x % y;
            if r != 0.0 && (r < 0.0) != (y < 0.0) { r + y } else { r }
        }
        _ => panic!("{op:?} of floats"),
    }
}

/// Conversion: float to int truncates and saturates, to bool is `!= 0`, from bool 0 or 1; integers to floats round once.
pub fn cast(to: DType, from: Scalar) -> Scalar {
    match (to, from.dtype()) {
        (DType::F32, DType::I64) => Scalar::f32(from.to_i64() as f32),
        (DType::F32 | DType::F64, _) => Scalar::float(to, from.to_f64()),
        (DType::I64, _) => Scalar::i64(from.to_i64()),
        (DType::Bool, DType::I64) => Scalar::bool(from.to_i64() != 0),
        (DType::Bool, _) => Scalar::bool(from.to_f64() != 0.0),
    }
}
