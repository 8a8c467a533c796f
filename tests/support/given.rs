//! Recipes whose gradients are given: the loss is a sum of parameters times inputs, so that an optimizer or a schedule can be fed step by step.

use super::{Named, Runnable};
use nnc_runtime::dtype::Scalar;
use nnc_runtime::tensor::Tensor;

/// Names of indices for a tensor of this rank: `i, j`.
pub fn indices(rank: usize) -> String {
    ["i", "j", "k", "l", "m"][..rank].join(", ")
}

/// Sizes as text: `2, 3`.
pub fn axes(shape: &[i64]) -> String {
    shape.iter().map(|n| n.to_string()).collect::<Vec<_>>().join(", ")
}

/// A model `M` whose loss is the sum of its parameters times the inputs `g_NAME`: those are the gradients of `train:fit`, of batch 1.
pub fn program(parameters: &[(String, Vec<i64>)], optimizer: &str) -> String {
    let mut text = String::from("nn 1\ndim B\nmodel M(");
    let list = |f: &dyn Fn(&str, &[i64]) -> String, by: &str| parameters.iter().map(|(n, s)| f(n, s)).collect::<Vec<_>>().join(by);
    text += &list(&|n, s| format!("g_{n}: real[B, {}]", axes(s)), ", ");
    text += ") -> real[B] {\n";
    text += &list(&|n, s| format!("    param {n}: real[{}] = constant(0)\n", axes(s)), "");
    text += &format!("    y[row] = {}\n}}\n", list(&|n, s| format!("sum[{0}]({n}[{0}] * g_{n}[row, {0}])", indices(s.len())), " + "));
    text += "data given {\n    t = npz(\"given.npz\")\n";
    text += &list(&|n, s| format!("    g_{n} = reshape(t.column(\"{n}\"), {})\n", axes(s)), "");
    let arguments = list(&|n, _| format!("g_{n}"), ", ");
    text + &format!(
        "}}\ntrain fit {{\n    data = given\n    y = M({arguments})\n    loss = sum[row](y[row])\n    optimizer = {optimizer}\n    batch = 1\n    steps = 50\n}}\n"
    )
}

/// The run-time scalars of step number `i` (from 0) of `steps`: settings as in the recipe, and the clock.
pub fn clock(runnable: &Runnable, i: usize, steps: usize, an_epoch: usize) -> Named {
    let settings = runnable.manifest.recipes[0].scalars.iter().map(|(name, value)| (name.to_string(), *value));
    let clock = [("epoch", i / an_epoch + 1), ("steps", steps), ("steps_per_epoch", an_epoch)].map(|(name, value)| (name.to_string(), value as f64));
    let mut inputs: Named = settings.chain(clock).map(|(name, value)| (name, Tensor::scalar(Scalar::f64(value)))).collect();
    inputs.insert("step".into(), Tensor::from_i64(&[], &[i as i64 + 1]));
    inputs
}

/// Element `i` of the first axis, under another shape.
pub fn row(of: &Tensor, i: usize, shape: &[i64]) -> Tensor {
    let n = shape.iter().product::<i64>() as usize;
    Tensor::from_f64(shape, &of.as_f64()[i * n..(i + 1) * n])
}
