//! The stages as a reader sees them: source and result in one snapshot in `snapshots/ir`, and a small network through all stages in `snapshots/models`.

use crate::support::checked;
use nnc::driver::{Stage, show};
use nnc::ir::DType;

fn snapshot(folder: &str, name: &str, shown: String) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(format!("../snapshots/{folder}"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, shown));
}

/// Source, formulas and the exact graph of a program's gradients.
fn gradients(name: &str, text: &str) {
    let checked = checked(text, DType::F32);
    let stage = |stage| show(&checked, stage, None).unwrap();
    snapshot("ir", name, format!("{text}\n---- formulas\n{}\n---- grad\n{}", stage(Stage::Formulas), stage(Stage::Grad)));
}

#[test]
fn least_squares() {
    gradients(
        "least_squares",
        "nn 1
dim B
model Line(w: real, x: real[B], t: real[B]) -> (dw: real) {
    loss = mean[b]((w * x[b] - t[b])^2)
    dw   = grad(loss, wrt: w)
}
",
    );
}

#[test]
fn linear_layer() {
    gradients(
        "linear_layer",
        "nn 1
dim B, I, O
model Linear(x: real[B, I], W: real[O, I], b: real[O], dy: real[B, O]) -> (dW: real[O, I], dx: real[B, I], db: real[O]) {
    y[n, o] = sum[i](x[n, i] * W[o, i]) + b[o]
    dW, dx, db = grad(sum[n, o](dy[n, o] * y[n, o]), wrt: (W, x, b))
}
",
    );
}

#[test]
fn softmax_and_cross_entropy() {
    gradients(
        "softmax_and_cross_entropy",
        "nn 1
dim B
const K = 10
model Scores(z: logits[B, K], label: class<K>[B]) -> (dz: real[B, K]) {
    dz = grad(cross_entropy(z, label), wrt: z)
}
",
    );
}

/// Two layers, from the typed program to the launch table.
#[test]
fn two_layers_through_all_stages() {
    let text = "nn 1
dim B
model Xor(x: real[B, 2]) -> real[B, 1] {
    x |> linear(8, name: \"fc1\") |> tanh |> linear(1, name: \"fc2\")
}
data table {
    rows = csv(\"xor.csv\")
    x    = rows.columns(\"a\", \"b\")
    y    = rows.columns(\"y\")
}
train fit {
    data      = table
    loss      = mse(Xor(x), y)
    optimizer = sgd(lr: 0.5)
    batch     = 4
    epochs    = 10
}
";
    let checked = checked(text, DType::F32);
    for (name, stage) in [
        ("typed", Stage::Typed),
        ("graph", Stage::Graph),
        ("formulas", Stage::Formulas),
        ("fused", Stage::Fused),
        ("kernels", Stage::Kernels),
        ("plan", Stage::Plan),
    ] {
        snapshot("models", &format!("two_layers_{name}"), format!("{text}\n---- {name}\n{}", show(&checked, stage, None).unwrap()));
    }
}
