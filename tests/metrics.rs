//! Metrics against values computed by hand, over one batch and over two uneven ones: they are ratios of totals, not means of batches.

use crate::support::{Named, Runnable, checked};
use nnc::ir::DType;
use nnc_runtime::dtype::Scalar;
use nnc_runtime::tensor::Tensor;

/// A metric's value on rows of `x` (each of `width` numbers) and their labels or targets.
fn value(metric: &str, loss: &str, width: usize, label: &str, x: &[f64], y: &[f64], batches: &[usize]) -> f64 {
    let text = format!(
        "nn 1\ndim B\nmodel M(x: real[B, {width}]) -> real[B, {width}] {{\n    param w: real[{width}] = constant(1)\n    y[b, k] = x[b, k] * w[k]\n}}\n\
         data d {{\n    t = csv(\"d.csv\")\n    x = t.columns(\"x0\"..\"x{}\")\n    y = t.{label}\n}}\n\
         train fit {{\n    data = d\n    v = M(x)\n    loss = {loss}(v, y)\n    metrics = [{metric}]\n    optimizer = sgd()\n    batch = 2\n    epochs = 1\n}}\n",
        width - 1
    );
    let program = Runnable::new(&checked(&text, DType::F64), |_| {});
    let mut store = program.store();
    program.run("init", &Default::default(), &mut store, &Named::new());
    let mut totals = Named::new();
    let mut row = 0;
    for &count in batches {
        let rows = row..row + count;
        row += count;
        let x = Tensor::from_f64(&[count as i64, width as i64], &x[rows.start * width..rows.end * width]);
        let labels: Vec<i64> = y[rows.clone()].iter().map(|v| *v as i64).collect();
        let y = if label.contains("class") { Tensor::from_i64(&[count as i64], &labels) } else { Tensor::from_f64(&[count as i64, 1], &y[rows]) };
        let inputs: Named = [("x".to_string(), x), ("y".to_string(), y)].into();
        for (name, part) in program.run("eval:fit", &[("B".into(), count as i64)].into(), &mut store, &inputs) {
            let so_far = totals.get(&name).map_or(0.0, |t| t.get(0).to_f64());
            totals.insert(name, Tensor::scalar(Scalar::f64(so_far + part.get(0).to_f64())));
        }
    }
    let name = metric.split('(').next().unwrap();
    program.run("finish:fit", &Default::default(), &mut store, &totals)[name].get(0).to_f64()
}

fn same(metric: &str, loss: &str, width: usize, label: &str, x: &[f64], y: &[f64], want: f64) {
    for batches in [&[4][..], &[3, 1], &[1, 1, 2]] {
        let got = value(metric, loss, width, label, x, y, batches);
        assert!((got - want).abs() < 1e-12, "{metric} over batches of {batches:?} is {got}, not {want}");
    }
}

#[test]
fn of_classes() {
    // Predicted 0, 1, 2, 1.
    let scores = [0.9, 0.1, 0.0, 0.2, 0.5, 0.3, 0.1, 0.2, 0.7, 0.4, 0.6, 0.0];
    let labels = [0.0, 2.0, 2.0, 0.0];
    let check = |metric: &str, want: f64| same(metric, "cross_entropy", 3, "column(\"label\"): class<3>", &scores, &labels, want);
    check("accuracy(v, y)", 0.5);
    check("top_k(v, y, k: 1)", 0.5);
    check("top_k(v, y, k: 2)", 1.0);
    check("precision(v, y, of: 2)", 1.0);
    check("precision(v, y, of: 1)", 0.0);
    check("recall(v, y, of: 2)", 0.5);
    check("f1(v, y, of: 2)", 2.0 / 3.0);
}

#[test]
fn of_numbers() {
    let check = |metric: &str, x: &[f64], y: &[f64], want: f64| same(metric, "mse", 1, "columns(\"y\")", x, y, want);
    let (x, y) = ([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 2.0, 6.0]);
    check("mae(v, y)", &x, &y, 0.75);
    check("rmse(v, y)", &x, &y, 1.25f64.sqrt());
    check("r2(v, y)", &x, &y, 1.0 - 5.0 / 14.75);
    check("binary_accuracy(v, y)", &[1.0, -1.0, 2.0, -3.0], &[1.0, 1.0, 0.0, 0.0], 0.5);
}
