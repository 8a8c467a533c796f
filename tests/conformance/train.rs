//! Training runs against PyTorch's: the shipped models from the given weights and batches, loss by loss.

use crate::support::{Named, Runnable, checked};
use nnc::ir::{DType, Dims};
use nnc_runtime::dtype::Scalar;
use nnc_runtime::npy::read_npz;
use nnc_runtime::tensor::Tensor;
use serde_json::Value;
use std::path::Path;

/// How many steps are compared, and how closely.
const STEPS: usize = 100;
const TOLERANCE: f64 = 1e-4;

struct Run {
    case: &'static str,
    program: &'static str,
    model: &'static str,
    optimizer: &'static str,
    image: &'static [i64],
    /// Names there and paths here, below the model.
    weights: &'static [(&'static str, &'static str)],
}

const MLP: &[(&str, &str)] = &[("fc1.weight", "fc1.weight"), ("fc1.bias", "fc1.bias"), ("fc2.weight", "fc2.weight"), ("fc2.bias", "fc2.bias")];

const RUNS: [Run; 5] = [
    Run {
        case: "digits_mlp_sgd",
        program: include_str!("../../models/digits.nn"),
        model: "Digits",
        optimizer: "sgd(lr: 0.1)",
        image: &[64],
        weights: MLP,
    },
    Run {
        case: "digits_mlp_mom",
        program: include_str!("../../models/digits.nn"),
        model: "Digits",
        optimizer: "sgd(lr: 0.05, momentum: 0.9)",
        image: &[64],
        weights: MLP,
    },
    Run {
        case: "digits_mlp_adam",
        program: include_str!("../../models/digits.nn"),
        model: "Digits",
        optimizer: "adam(lr: 1e-3)",
        image: &[64],
        weights: MLP,
    },
    Run {
        case: "digits_cnn_adam",
        program: include_str!("../../models/digits_cnn.nn"),
        model: "Cnn",
        optimizer: "adam(lr: 2e-3)",
        image: &[1, 8, 8],
        weights: &[
            ("c1.weight", "c1.weight"),
            ("c1.bias", "c1.bias"),
            ("c2.weight", "c2.weight"),
            ("c2.bias", "c2.bias"),
            ("fc.weight", "fc.weight"),
            ("fc.bias", "fc.bias"),
        ],
    },
    Run {
        case: "digits_lstm_adam",
        program: include_str!("../../models/digits_lstm.nn"),
        model: "Reader",
        optimizer: "adam(lr: 5e-3)",
        image: &[8, 8],
        weights: &[
            ("rnn.weight_ih_l0", "lstm.ih.weight"),
            ("rnn.weight_hh_l0", "lstm.hh.weight"),
            ("rnn.bias_ih_l0", "lstm.ih.bias"),
            ("rnn.bias_hh_l0", "lstm.hh.bias"),
            ("fc.weight", "fc.weight"),
            ("fc.bias", "fc.bias"),
        ],
    },
];

/// Runs every training case. True if any failed.
pub fn run(folder: &Path, only: Option<&str>) -> bool {
    let mut failed = false;
    for run in RUNS.iter().filter(|r| only.is_none_or(|o| r.case.contains(o))) {
        let worst = compare(run, &folder.join(run.case));
        let verdict = if worst < TOLERANCE { "agrees" } else { "FAILED" };
        println!("training {}: {verdict}, largest relative difference of the loss in {STEPS} steps {worst:.1e}", run.case);
        failed |= worst >= TOLERANCE;
    }
    if only.is_none_or(|o| "chargpt_tiny".contains(o)) {
        let worst = character_gpt(folder);
        let verdict = if worst < TOLERANCE { "agrees" } else { "FAILED" };
        println!("training chargpt_tiny: {verdict}, largest relative difference of the loss in {STEPS} steps {worst:.1e}");
        failed |= worst >= TOLERANCE;
    }
    failed
}

/// Two layers, tied head, AdamW that decays matrices only, clipping, warm-up and cosine.
const GPT: &str = "nn 1
dim B, T <= 32
const D = 64, V = 65
block Layer(x: real[B, T, D]) -> real[B, T, D] {
    x = x + (x |> layer_norm(bias: false, name: \"ln1\") |> attention(heads: 2, causal: true, bias: false, name: \"attn\"))
    x + (x |> layer_norm(bias: false, name: \"ln2\") |> linear(4 * D, bias: false, name: \"fc\") |> gelu |> linear(D, bias: false, name: \"proj\"))
}
model Gpt(tokens: token<V>[B, T]) -> logits[B, T, V] {
    param wte: real[V, D] = normal(0.02)
    param wpe: real[32, D] = normal(0.02)
    x = (wte[tokens] + wpe[positions(T)]) |> repeat(2, Layer, name: \"h\")
    x |> layer_norm(bias: false, name: \"ln_f\") |> matmul(transpose(wte))
}
data text {
    windows = npz(\"windows.npz\")
    tokens = windows.column(\"tokens\"): token<V>
    next = windows.column(\"next\"): class<V>
}
train fit {
    data = text
    scores = Gpt(tokens)
    loss = cross_entropy(scores, next)
    optimizer = adamw(lr: cosine(1e-3, end: 1e-4, warmup: 20), beta2: 0.99, decay: 0.1, matrices_only: true)
    clip_norm = 1.0
    batch = 8
    steps = 300
}
";

fn character_gpt(folder: &Path) -> f64 {
    let case = folder.join("chargpt_tiny");
    let npz = |name: &str| read_npz(&case.join(name)).unwrap_or_else(|e| panic!("{}", e.message()));
    let (init, batches) = (npz("init.npz"), npz("batches.npz"));
    let result: Value = serde_json::from_str(&std::fs::read_to_string(case.join("result.json")).unwrap()).unwrap();
    let text = std::fs::read_to_string(folder.join("tinyshakespeare.txt")).unwrap();
    let letters: std::collections::BTreeSet<char> = text.chars().collect();
    let numbers: Vec<i64> = text.chars().map(|c| letters.iter().position(|l| *l == c).unwrap() as i64).collect();
    let mut runnable = Runnable::new(&checked(GPT, DType::F32), |_| {});
    runnable.kernels = runnable.kernels.into_iter().next_back().into_iter().collect();
    let mut store = runnable.store();
    runnable.run("init:fit", &Dims::new(), &mut store, &Named::new());
    let mut loaded = 0;
    for (theirs, tensor) in &init {
        let ours = theirs.replace("wte.weight", "wte").replace("wpe.weight", "wpe").replace("ln_1", "ln1").replace("ln_2", "ln2");
        let ours = ours.replace("c_attn", "attn.qkv").replace("c_proj", "attn.proj");
        let at = store.find(&format!("Gpt.{ours}")).unwrap_or_else(|| panic!("no {ours}"));
        store.bytes_mut(at).copy_from_slice(tensor.bytes());
        loaded += 1;
    }
    assert_eq!(loaded, 15);
    let dims: Dims = [("B".into(), 8), ("T".into(), 32)].into();
    let starts = batches["starts"].as_i64();
    let mut worst = 0f64;
    for step in 0..STEPS {
        let windows = |shift: usize| -> Vec<i64> {
            starts[step * 8..(step + 1) * 8].iter().flat_map(|s| numbers[*s as usize + shift..*s as usize + shift + 32].iter().copied()).collect()
        };
        let mut inputs = Named::new();
        inputs.insert("tokens".into(), Tensor::from_i64(&[8, 32], &windows(0)));
        inputs.insert("next".into(), Tensor::from_i64(&[8, 32], &windows(1)));
        inputs.insert("step".into(), Tensor::from_i64(&[], &[step as i64 + 1]));
        for (name, value) in [("epoch", 1.0), ("steps", 300.0), ("steps_per_epoch", 300.0)] {
            inputs.insert(name.into(), Tensor::scalar(Scalar::f64(value)));
        }
        for (name, value) in &runnable.manifest.recipes[0].scalars {
            inputs.insert(name.to_string(), Tensor::scalar(Scalar::f64(*value)));
        }
        let got = runnable.run("train:fit", &dims, &mut store, &inputs);
        let loss = got["loss.sum"].get(0).to_f64() / got["loss.weight"].get(0).to_f64();
        let want = result["trajectory"]["torch.float32"]["loss"][step].as_f64().unwrap();
        worst = worst.max((loss - want).abs() / want.abs());
    }
    worst
}

fn compare(run: &Run, folder: &Path) -> f64 {
    let npz = |name: &str| read_npz(&folder.join(name)).unwrap_or_else(|e| panic!("{}", e.message()));
    let (init, batches, data) = (npz("init.npz"), npz("batches.npz"), npz("data.npz"));
    let result: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("result.json")).unwrap()).unwrap();
    let line = run.program.lines().find(|l| l.trim_start().starts_with("optimizer")).unwrap();
    let text = run.program.replace(line, &format!("    optimizer = {}", run.optimizer));
    let mut runnable = Runnable::new(&checked(&text, DType::F32), |_| {});
    runnable.kernels = runnable.kernels.into_iter().next_back().into_iter().collect();
    let mut store = runnable.store();
    if runnable.manifest.entries.iter().any(|e| &*e.name == "init:fit") {
        runnable.run("init:fit", &Dims::new(), &mut store, &Named::new());
    }
    for (theirs, ours) in run.weights {
        let at = store.find(&format!("{}.{ours}", run.model)).unwrap_or_else(|| panic!("no {ours}"));
        store.bytes_mut(at).copy_from_slice(init[*theirs].bytes());
    }
    let (x, y, order) = (data["x_train"].as_f32(), data["y_train"].as_i64(), batches["order"].as_i64());
    let dims: Dims = [("B".into(), 32)].into();
    let mut worst = 0f64;
    for step in 0..STEPS {
        let picks = &order[step * 32..(step + 1) * 32];
        let images: Vec<f32> = picks.iter().flat_map(|&i| x[i as usize * 64..(i as usize + 1) * 64].iter().copied()).collect();
        let labels: Vec<i64> = picks.iter().map(|&i| y[i as usize]).collect();
        let mut inputs = Named::new();
        inputs.insert("image".into(), Tensor::from_f32(&[&[32], run.image].concat(), &images));
        inputs.insert("label".into(), Tensor::from_i64(&[32], &labels));
        inputs.insert("step".into(), Tensor::from_i64(&[], &[step as i64 + 1]));
        for (name, value) in &runnable.manifest.recipes[0].scalars {
            inputs.insert(name.to_string(), Tensor::scalar(Scalar::f64(*value)));
        }
        let got = runnable.run("train:fit", &dims, &mut store, &inputs);
        let loss = got["loss.sum"].get(0).to_f64() / got["loss.weight"].get(0).to_f64();
        let want = result["loss_f32"][step].as_f64().unwrap();
        worst = worst.max((loss - want).abs() / want.abs());
    }
    worst
}
