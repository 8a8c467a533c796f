//! Normal forms are equal as numbers, and the textbook's.

use super::*;
use crate::ir::{eval, generate, parse, print, verify};

/// The values stay, up to rounding, on programs without special values.
#[test]
fn values_stay() {
    let text = "dim B >= 1
fn @f(x: f32[B, 5], t: f32[B, 5], label: i64[B], s: f32) {
  %one: f32 = 1.0 / f32(index(B))
  %d[b, i]: f32[B, 5] = 2.0 * (%x[b, i] - %t[b, i]) * %one
  %dw: f32 = dot[b < B, i < 5](%d[b, i] * %x[b, i])
  %hot[b, i]: f32[B, 5] = f32(i == %label[b])
  %at[b]: f32[B] = sum[i < 5](%hot[b, i] * %x[b, i])
  %diag[i]: f32[5] = sum[j < 5](select([i == j], %x[0, j], 0.0) * %s)
  %shift[i]: f32[5] = sum[j < 5](select([i == j + 2], -%x[0, j], 0.0))
  %many: f32 = sum[b < B, i < 5](%s * 1.0 + 0.0)
  %none[b]: f32[B] = sum[i < 5](%x[b, i] * 0.0)
  return %dw, %at, %diag, %shift, %many, %none
}
";
    let module = parse::module(text).unwrap();
    verify::verify(&module).unwrap_or_else(|e| panic!("{}", e.join("\n")));
    let normal = normalise(&module);
    verify::verify(&normal).unwrap_or_else(|e| panic!("{}\n{}", e.join("\n"), print::module(&normal)));
    let dims = [("B".into(), 3)].into();
    let mut inputs = generate::inputs(&module, FunctionId(0), &dims, 1);
    for (at, tensor) in inputs.iter_mut().enumerate() {
        for i in 0..tensor.len() {
            tensor.set(i, if tensor.dtype == DType::I64 { Scalar::i64(i as i64) } else { Scalar::f32((i * 7 % 11) as f32 - 4.5 + at as f32) });
        }
    }
    let run = |m: &Module| eval::function(m, FunctionId(0), &inputs, &dims).unwrap();
    for (a, b) in run(&module).iter().zip(&run(&normal)) {
        assert_eq!(a.shape, b.shape);
        for (x, y) in a.as_f32().iter().zip(b.as_f32()) {
            assert!((x - y).abs() <= 1e-5 * (1.0 + x.abs()), "{a:?}\n{b:?}\n{}", print::module(&normal));
        }
    }
    let expected = "  %4: f32 = dot[b < B, i < 5](2.0 * ((%x[b, i] - %t[b, i]) * %x[b, i]))
  %dw: f32 = %4 / f32(index(B))
  %at[b]: f32[B] = select(0 <= %label[b] and %label[b] < index(5), %x[b, %label[b]], 0.0) of %x, %label
  %diag[i]: f32[5] = %x[0, i] * %s
  %shift[i]: f32[5] = -%x[0, i - 2] where i >= 2
  %many: f32 = 5.0 * (f32(index(B)) * %s)
  %none[b]: f32[B] = 0.0
";
    let printed = print::module(&normal);
    assert!(printed.contains(expected), "{printed}");
}

/// Random programs stay well-typed, with the results' types.
#[test]
fn normal_forms_verify() {
    for seed in generate::seeds(300) {
        let case = generate::case(seed);
        let normal = normalise(&case.module);
        verify::verify(&normal).unwrap_or_else(|e| panic!("seed {seed}: {}", e.join("\n")));
        let types = |m: &Module| {
            let f = m.function(m.entries[0].function);
            f.results.iter().map(|(_, v)| f.ty(*v).clone()).collect::<Vec<_>>()
        };
        assert_eq!(types(&case.module), types(&normal), "seed {seed}");
        eval::function(&normal, normal.entries[0].function, &case.inputs, &case.dims).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    }
}

/// The gradient of the largest of rectified values reads neither them nor where they came from, and its sum is that of the windows.
#[test]
fn windows_that_tile() {
    let text = "dim B >= 1
fn @f(x: f32[B, 2, 6, 9], t: f32[B, 2, 3, 3]) {
  %y[b, c, p, q]: f32[B, 2, 3, 3] = argmax[r < 2, s < 3](select(%x[b, c, 2*p + r, 3*q + s] <= 0.0, 0.0, %x[b, c, 2*p + r, 3*q + s]))
  %dy[b, c, p, q]: f32[B, 2, 3, 3] = select(%y[b, c, p, q] <= %t[b, c, p, q], 1.0, -3.0)
  %dx[b, c, i, j]: f32[B, 2, 6, 9] = select(%x[b, c, i, j] <= 0.0, 0.0, select(index(3*mod(i, 2) + mod(j, 3)) == %y#1[b, c, div(i, 2), div(j, 3)], %dy[b, c, div(i, 2), div(j, 3)], 0.0))
  %sums[c]: f32[2] = sum[b < B, i < 6, j < 9](%dx[b, c, i, j])
  return %dx, %sums
}
";
    let module = parse::module(text).unwrap();
    verify::verify(&module).unwrap_or_else(|e| panic!("{}", e.join("\n")));
    let normal = normalise(&module);
    verify::verify(&normal).unwrap_or_else(|e| panic!("{}\n{}", e.join("\n"), print::module(&normal)));
    let dims = [("B".into(), 5)].into();
    for seed in 0..20 {
        // Among them infinities, NaN and ties.
        let inputs = generate::inputs(&module, FunctionId(0), &dims, seed);
        let run = |m: &Module| eval::function(m, FunctionId(0), &inputs, &dims).unwrap();
        let (given, found) = (run(&module), run(&normal));
        assert!(given[0].same(&found[0]), "{given:?}\n{found:?}");
        // Sums of small integers.
        assert!(given[1].same(&found[1]), "{given:?}\n{found:?}");
    }
    let expected = "  %dx[b, i, j, k]: f32[B, 2, 3, 3] = select(%y[b, i, j, k] <= 0.0, 0.0, select(%y[b, i, j, k] <= %t[b, i, j, k], 1.0, -3.0))
  %dx~4[b, i, j, k]: f32[B, 2, 6, 9] = select(index(3*mod(j, 2) + mod(k, 3)) == %y#1[b, i, div(j, 2), div(k, 3)], %dx[b, i, div(j, 2), div(k, 3)], 0.0)
  %sums[i]: f32[2] = sum[b < B, j < 3, k < 3](%dx[b, i, j, k])
";
    let printed = print::module(&normal);
    assert!(printed.contains(expected), "{printed}");

    // Windows of other places, or a box that they do not fill, are left as they are.
    for (from, to) in
        [("index(3*mod(i, 2)", "index(2*mod(i, 2)"), ("select(%x[b, c, i, j] <= 0.0, 0.0, select", "select(%x[b, 0, i, j] <= 0.0, 0.0, select")]
    {
        let module = parse::module(&text.replace(from, to)).unwrap();
        let printed = print::module(&normalise(&module));
        assert!(printed.contains("sum[b < B, j < 6, k < 9]"), "{printed}");
    }
}
