//! What leaves a loop, and that the values stay.

use super::{accumulate, batch};
use crate::ir::*;

/// A cell with a product of the input alone, one of the carry, a result that only leaves, and two carried sums.
const CELL: &str = "dim B >= 1
fn @step(t: i64, h: f64[B, 3], dU: f64[3, 2], dR: f64[3, 3], x: f64[B, 2], U: f64[3, 2], R: f64[3, 3]) {
  %p[b, i]: f64[B, 3] = dot[j < 2](%x[b, j] * %U[i, j])
  %q[b, i]: f64[B, 3] = dot[j < 3](%h[b, j] * %R[i, j])
  %n[b, i]: f64[B, 3] = tanh(%p[b, i] + %q[b, i])
  %gU[i, j]: f64[3, 2] = dot[b < B](%n[b, i] * %x[b, j])
  %dU2[i, j]: f64[3, 2] = %dU[i, j] + %gU[i, j]
  %gR[i, j]: f64[3, 3] = dot[b < B](%n[b, i] * %h[b, j])
  %late[i, j]: f64[3, 3] = sum[b < B](select(%t == 1, %n[b, i] + %q[b, j], 0.0f64))
  %dR2[i, j]: f64[3, 3] = %gR[i, j] + (%dR[i, j] + %late[i, j])
  %y[b, i]: f64[B, 3] = dot[j < 3](%n[b, j] * %R[j, i])
  return h: %n, dU: %dU2, dR: %dR2, %y
}

fn @f(h: f64[B, 3], dU: f64[3, 2], dR: f64[3, 3], x: f64[B, 4, 2], U: f64[3, 2], R: f64[3, 3]) {
  %loop: f64[B, 3], f64[3, 2], f64[3, 3], f64[B, 4, 3] = scan @step[4](%h, %dU, %dR; %x along 1; %U, %R) to [1]
  return %loop, %loop#1, %loop#2, %loop#3
}
";

fn rewritten(text: &str, run: fn(&Module) -> Module) -> (Module, Module) {
    let module = parse::module(text).unwrap();
    verify::verify(&module).unwrap_or_else(|e| panic!("{}", e.join("\n")));
    let new = run(&module);
    verify::verify(&new).unwrap_or_else(|e| panic!("{}\n{}", e.join("\n"), print::module(&new)));
    (module, new)
}

fn values(module: &Module) -> Vec<Vec<f64>> {
    let dims = [("B".into(), 2)].into();
    let f = module.find("f").unwrap();
    let mut inputs = generate::inputs(module, f, &dims, 1);
    for (at, tensor) in inputs.iter_mut().enumerate() {
        for i in 0..tensor.len() {
            tensor.set(i, Scalar::f64((i * 7 % 11) as f64 / 8.0 - 0.6 + at as f64 / 16.0));
        }
    }
    eval::function(module, f, &inputs, &dims).unwrap().iter().map(|t| t.as_f64().to_vec()).collect()
}

fn the_loop(module: &Module) -> (&Scan, &Function) {
    let f = module.function(module.find("f").unwrap());
    let scan = f.nodes.iter().find_map(|n| if let Op::Scan(scan) = &n.op { Some(scan) } else { None }).unwrap();
    (scan, module.function(scan.body))
}

fn dots(f: &Function) -> usize {
    f.nodes.iter().filter(|n| matches!(&n.op, Op::Nest(nest) if nest.fold == Fold::Dot)).count()
}

#[test]
fn carried_sums_become_one_contraction() {
    for text in [CELL.to_string(), CELL.replace("scan @step", "scan reversed @step")] {
        let (before, after) = rewritten(&text, accumulate::run);
        let text = print::module(&after);
        for (a, b) in values(&before).iter().flatten().zip(values(&after).iter().flatten()) {
            assert!((a - b).abs() < 1e-12, "{a} became {b}\n{text}");
        }
        let (scan, body) = the_loop(&after);
        // The state stays; its dots are the two that compute it, and the one that leaves.
        assert_eq!((scan.carries, dots(body)), (1, 3), "{text}");
        assert!(text.contains("dot[i < 4, b < B]") || text.contains("dot[k < 4, b < B]"), "{text}");
    }
}

#[test]
fn what_no_carry_needs_is_computed_once() {
    for text in [CELL.to_string(), CELL.replace("scan @step", "scan reversed @step")] {
        let (before, after) = rewritten(&text, |m| batch::run(&accumulate::run(m)));
        let again = batch::run(&before);
        let text = print::module(&after);
        assert!(values(&before) == values(&again), "batching alone keeps every bit\n{}", print::module(&again));
        for (a, b) in values(&before).iter().flatten().zip(values(&after).iter().flatten()) {
            assert!((a - b).abs() < 1e-12, "{a} became {b}\n{text}");
        }
        let (scan, body) = the_loop(&after);
        assert_eq!((scan.carries, dots(body)), (1, 1), "the recurrent product stays\n{text}");
        // Time keeps its place behind the batch, so that the input's rows stay neighbours.
        assert!(text.contains("f64[B, 4, 3] = dot[") && !text.contains("%y[b, i]"), "{text}");
    }
}
