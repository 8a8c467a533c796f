//! Accuracy against f64 (for f32) and against committed high-precision values (for f64); special values against the standard library.

use super::{apply, cast, random};
use crate::ir::{DType, Scalar, ScalarOp};
use ScalarOp::*;
use std::f64::consts::*;

/// Arguments per function; the figures of the module's documentation come from two million (`NNC_MATH_POINTS`).
fn points() -> usize {
    std::env::var("NNC_MATH_POINTS").ok().and_then(|n| n.parse().ok()).unwrap_or(200_000)
}

fn f32_of(op: ScalarOp, args: &[f32]) -> f32 {
    let args: Vec<Scalar> = args.iter().map(|x| Scalar::f32(*x)).collect();
    f32::from_bits(apply(op, &args).bits() as u32)
}

fn f64_of(op: ScalarOp, args: &[f64]) -> f64 {
    let args: Vec<Scalar> = args.iter().map(|x| Scalar::f64(*x)).collect();
    apply(op, &args).to_f64()
}

/// Distance of `got` from `exact` in units of f32's last place at `exact`.
fn ulps32(got: f32, exact: f64) -> f64 {
    let rounded = exact as f32;
    if got.is_nan() || exact.is_nan() {
        return if got.is_nan() && exact.is_nan() { 0.0 } else { f64::INFINITY };
    }
    if got == rounded {
        return if rounded.is_infinite() || (got == 0.0 && got.is_sign_negative() == exact.is_sign_negative()) {
            0.0
        } else if got == 0.0 {
            f64::INFINITY
        } else {
            (got as f64 - exact).abs() / unit32(exact)
        };
    }
    // Beyond the largest number, one step past it counts as one unit.
    let step = |x: f32| if x.is_infinite() { 2f64.powi(128).copysign(x as f64) } else { x as f64 };
    (step(got) - exact).abs() / unit32(exact)
}

fn unit32(exact: f64) -> f64 {
    let e = exact.abs().max(f32::MIN_POSITIVE as f64).to_bits() >> 52;
    2f64.powi((e as i32 - 1023).min(127) - 23)
}

const UNARY: [ScalarOp; 10] = [Exp, Expm1, Log, Log1p, Sin, Cos, Atan, Tanh, Sigmoid, Erf];

fn oracle(op: ScalarOp, x: f64) -> f64 {
    match op {
        Exp => x.exp(),
        Expm1 => x.exp_m1(),
        Log => x.ln(),
        Log1p => x.ln_1p(),
        Sin => x.sin(),
        Cos => x.cos(),
        Atan => x.atan(),
        Tanh => x.tanh(),
        Sigmoid => 1.0 / (1.0 + (-x).exp()),
        // The f64 version, itself held to reference.txt.
        Erf => f64_of(Erf, &[x]),
        _ => unreachable!("{op:?}"),
    }
}

/// Evenly through all bit patterns, then densely around where the functions are interesting.
fn argument(i: usize, n: usize) -> f32 {
    let mixed = random::fold_key(17, i as i64) as u64;
    if i.is_multiple_of(2) {
        f32::from_bits((i as u64 * (u32::MAX as u64 + 1) / n as u64) as u32 ^ (mixed as u32 & 0xfff))
    } else {
        let unit = (mixed >> 11) as f64 / (1u64 << 53) as f64;
        let spread = [2.0, 20.0, 110.0, 4.0][i / 2 % 4];
        ((unit * 2.0 - 1.0) * spread) as f32
    }
}

#[test]
fn single_precision_is_accurate_over_all_exponents() {
    let n = points();
    for op in UNARY {
        let (mut worst, mut at) = (0.0, 0.0);
        for i in 0..n {
            let x = argument(i, n);
            let e = ulps32(f32_of(op, &[x]), oracle(op, x as f64));
            if e > worst {
                (worst, at) = (e, x);
            }
        }
        println!("{op:?} f32: {worst:.2} ulp at {at:e}");
        assert!(worst < 2.5, "{op:?}({at:e}) is off by {worst} ulp");
    }
    let (mut worst, mut at) = (0.0, (0.0, 0.0));
    for i in 0..n {
        let (x, y) = (argument(i, n), argument(i * 7 % n, n));
        let x = if i % 3 == 0 { x } else { x.abs() };
        let e = ulps32(f32_of(Pow, &[x, y]), (x as f64).powf(y as f64));
        if e > worst {
            (worst, at) = (e, (x, y));
        }
    }
    println!("Pow f32: {worst:.2} ulp at {at:?}");
    assert!(worst < 1.0, "pow{at:?} is off by {worst} ulp");
}

#[test]
fn double_precision_is_accurate() {
    let path = std::env::var("NNC_MATH_REFERENCE");
    let text = path.map_or(include_str!("reference.txt").into(), |p| std::fs::read_to_string(p).unwrap());
    let mut worst: std::collections::BTreeMap<&str, (f64, &str)> = Default::default();
    for line in text.lines() {
        let mut words = line.split(' ');
        let name = words.next().unwrap();
        let op = *ScalarOp::ALL.iter().find(|op| op.name() == name).unwrap();
        let values: Vec<f64> = words.map(|w| f64::from_bits(u64::from_str_radix(w, 16).unwrap())).collect();
        let (args, exact) = values.split_at(op.arity());
        let got = f64_of(op, args);
        let e = exact[0].abs().max(f64::MIN_POSITIVE).to_bits() >> 52;
        let unit = if e > 52 { f64::from_bits((e - 52) << 52) } else { f64::from_bits(1 << (e - 1)) };
        let off = ((got - exact[0]) - exact[1]).abs() / unit;
        let off = if off.is_nan() { f64::INFINITY } else { off };
        let entry = worst.entry(name).or_insert((0.0, line));
        if off > entry.0 {
            *entry = (off, line);
        }
    }
    println!("{worst:#.2?}");
    assert_eq!(worst.len(), 11);
    for (name, (off, line)) in worst {
        assert!(off < 2.5, "{name} is off by {off} ulp: {line}");
    }
}

#[test]
fn special_values_are_those_of_c() {
    let inf = f64::INFINITY;
    let values = [0.0, -0.0, 1.0, -1.0, inf, -inf, f64::NAN, 5e-324, -5e-324, f64::MAX, f64::MIN, 1e-40, 3e38, -3e38, 0.5, -2.0, 3.0, -3.0, 2.5];
    let same = |a: f64, b: f64| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
    let close = |a: f64, b: f64| same(a, b) || ((a - b).abs() <= 4e-16 * b.abs() && b != 0.0) || (b != 0.0 && (a - b).abs() < 1e-323);
    for x in values {
        for op in UNARY {
            let (got, want) = (f64_of(op, &[x]), oracle(op, x));
            assert!(close(got, want), "{op:?}({x:e}) = {got:e}, not {want:e}");
            let (x, got) = (x as f32, f32_of(op, &[x as f32]));
            assert!(ulps32(got, oracle(op, x as f64)) < 2.5, "{op:?}({x:e}) = {got:e}");
        }
        for y in values.into_iter().chain([(1u64 << 53) as f64, 1e300, -0.3]) {
            let (got, want) = (f64_of(Pow, &[x, y]), x.powf(y));
            assert!(close(got, want), "pow({x:e}, {y:e}) = {got:e}, not {want:e}");
            let (x, y) = (x as f32, y as f32);
            let (got, want) = (f32_of(Pow, &[x, y]) as f64, x.powf(y) as f64);
            assert!(same(got, want) || (got - want).abs() <= 1e-7 * want.abs(), "pow({x:e}, {y:e}) = {got:e}, not {want:e}");
        }
    }
    assert_eq!(f64_of(Pow, &[3.0, 4.0]), 81.0);
    assert_eq!(f64_of(Erf, &[6.5]), 1.0);
    assert!((f64_of(Sin, &[FRAC_PI_6]) - 0.5).abs() < 2e-16);
}

#[test]
fn remainders_are_exact_and_take_the_divisors_sign() {
    let want = |a: f64, b: f64| {
        let r = a % b;
        if r == 0.0 {
            0f64.copysign(b)
        } else if (r < 0.0) != (b < 0.0) {
            r + b
        } else {
            r
        }
    };
    let inf = f64::INFINITY;
    let values = [0.0, -0.0, 1.0, -1.5, 7.0, 0.1, 1e300, -3e-310, 5e-324, f64::MAX, f64::NAN, inf, -inf, 1e17, 4503599627370497.0, PI];
    let mut pairs: Vec<(f64, f64)> = values.iter().flat_map(|a| values.iter().map(move |b| (*a, *b))).collect();
    pairs.extend((0..2000).map(|i| (f64::from_bits(random::fold_key(1, i) as u64), f64::from_bits(random::fold_key(2, i) as u64))));
    for (a, b) in pairs {
        let (got, want64) = (f64_of(Mod, &[a, b]), want(a, b));
        assert!(got.to_bits() == want64.to_bits() || (got.is_nan() && want64.is_nan()), "{a:e} mod {b:e} = {got:e}, not {want64:e}");
        let (a, b) = (a as f32, b as f32);
        let (got, r) = (f32_of(Mod, &[a, b]), a % b);
        let want = if r == 0.0 {
            0f32.copysign(b)
        } else if (r < 0.0) != (b < 0.0) {
            r + b
        } else {
            r
        };
        assert!(got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan()), "{a:e} mod {b:e} = {got:e}, not {want:e}");
    }
}

#[test]
fn integers_wrap_and_divide_downwards() {
    let int = |op: ScalarOp, a: i64, b: i64| apply(op, &[Scalar::i64(a), Scalar::i64(b)]).to_i64();
    for a in [i64::MIN, -7, -1, 0, 1, 7, i64::MAX] {
        for b in [i64::MIN, -3, -1, 0, 1, 3, i64::MAX] {
            let q = if b == 0 { 0 } else { a as i128 / b as i128 - ((a as i128 % b as i128 != 0 && (a < 0) != (b < 0)) as i128) };
            let r = if b == 0 { 0 } else { a as i128 - q * b as i128 };
            assert_eq!((int(FloorDiv, a, b), int(Mod, a, b)), (q as i64, r as i64), "{a} by {b}");
            assert_eq!(int(Mul, a, b), a.wrapping_mul(b));
            assert_eq!(int(Max, a, b), a.max(b));
        }
    }
    assert_eq!(apply(Abs, &[Scalar::i64(i64::MIN)]).to_i64(), i64::MIN);
    assert_eq!(cast(DType::I64, Scalar::f32(f32::NAN)), Scalar::i64(0));
    assert_eq!(cast(DType::I64, Scalar::f64(1e30)), Scalar::i64(i64::MAX));
    // Once, not by way of f64.
    assert_eq!(cast(DType::F32, Scalar::i64((1 << 54) + (1 << 30) + 1)), Scalar::f32(18014400656965632.0));
}

#[test]
fn largest_and_smallest_carry_nan_and_take_the_second_of_equals() {
    let nan = f64::NAN;
    for op in [Max, Min] {
        assert!(f64_of(op, &[nan, 1.0]).is_nan() && f64_of(op, &[1.0, nan]).is_nan());
        assert!(f64_of(op, &[0.0, -0.0]).is_sign_negative() && f64_of(op, &[-0.0, 0.0]).is_sign_positive());
    }
    assert_eq!((f64_of(Max, &[1.0, 2.0]), f64_of(Min, &[1.0, 2.0])), (2.0, 1.0));
}
