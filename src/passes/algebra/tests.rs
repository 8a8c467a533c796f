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
