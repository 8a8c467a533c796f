//! How few passes over memory a training step is: launches of the shipped models, and the form of strided gradients.

use crate::support::checked;
use nnc::driver::{Stage, graph, lower, show};
use nnc::ir::DType;
use nnc_runtime::manifest::Step;
use std::path::Path;

/// Launches and copies of a training step, those inside loops and those that pack what loops multiply by apart.
fn steps(model: &str) -> [usize; 3] {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(model);
    let checked = checked(&std::fs::read_to_string(path).unwrap(), DType::F32);
    let lowered = lower(graph(checked.program.as_ref().unwrap()), &checked.sources);
    let plan = &lowered.entries.iter().find(|e| *e.name == *"train:fit").unwrap().plan;
    let (mut counts, mut inside) = ([0; 3], 0);
    for step in &plan.steps {
        match step {
            Step::Loop { body, .. } => inside = *body + 1,
            Step::Launch(launch) if &*lowered.kernels[launch.kernel as usize].name == "pack" => counts[2] += 1,
            Step::Launch(_) | Step::Copy { .. } => counts[usize::from(inside > 0)] += 1,
            Step::Check { .. } => {}
        }
        inside = inside.saturating_sub(1);
    }
    counts
}

#[test]
fn training_steps_are_few_launches() {
    for (model, outside, inside, packs) in
        [("digits.nn", 9, 0, 0), ("digits_cnn.nn", 18, 0, 0), ("digits_lstm.nn", 13, 4, 2), ("bench/lstm.nn", 19, 8, 4), ("tiny_gpt.nn", 84, 0, 0)]
    {
        let [found, looped, packed] = steps(model);
        assert!(found <= outside && looped <= inside && packed == packs, "{model}: {found}, {looped} in loops, {packed} that pack");
    }
}

/// What a library layer does is shown where the program uses it.
#[test]
fn launches_name_the_authors_lines() {
    for model in ["digits_cnn.nn", "digits_lstm.nn", "tiny_gpt.nn", "bench/resnet18_c32.nn"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(model);
        let checked = checked(&std::fs::read_to_string(path).unwrap(), DType::F32);
        let lowered = lower(graph(checked.program.as_ref().unwrap()), &checked.sources);
        for plan in lowered.entries.iter().filter(|e| e.name.contains(':')).map(|e| &e.plan) {
            let strange: Vec<&String> = plan.lines.iter().filter(|line| line.starts_with("std/")).collect();
            assert!(strange.is_empty() && plan.lines.len() > 1, "{model}: {strange:?}");
        }
    }
}

/// Weights are packed when they have changed, narrow ones too, not in every step of inference.
#[test]
fn inference_packs_in_advance() {
    for model in ["mnist_mlp", "simple_cnn", "minilm"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/bench").join(model).with_extension("nn");
        let checked = checked(&std::fs::read_to_string(path).unwrap(), DType::F32);
        let lowered = lower(graph(checked.program.as_ref().unwrap()), &checked.sources);
        let plan = &lowered.entries.iter().find(|e| e.name.starts_with("infer:")).unwrap().plan;
        let packs = |step: &Step| matches!(step, Step::Launch(l) if &*lowered.kernels[l.kernel as usize].name == "pack");
        let (before, each) = plan.steps.split_at(plan.advance as usize);
        assert!(before.iter().any(packs) && !each.iter().any(packs), "{model}");
    }
}

/// Layers share their kernels, and so do their initial values: a deeper program is hardly more to compile.
#[test]
fn depth_adds_no_kernels() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/gpt.nn")).unwrap();
    assert!(text.contains("repeat(12,"));
    let kernels = |depth: usize| {
        let checked = checked(&text.replace("repeat(12,", &format!("repeat({depth},")), DType::F32);
        lower(graph(checked.program.as_ref().unwrap()), &checked.sources).kernels.len()
    };
    // The keys of initial values come 24 to a kernel; the last one may hold fewer.
    let (shallow, deep) = (kernels(2), kernels(24));
    assert!(deep <= shallow + 1, "{shallow} kernels of 2 layers, {deep} of 24");
}

/// The derivatives of strided convolutions and pools are dense: no remainders anywhere, no guards at a contraction.
#[test]
fn strided_gradients_are_dense() {
    let text = "nn 1
dim B
model M(x: real[B, 4, 9, 8], w: real[6, 4, 3, 3], v: real[6, 6, 1, 1], t: real[B, 6, 2, 1]) -> (dx: real[B, 4, 9, 8], dw: real[6, 4, 3, 3]) {
    y = convolve2d(x, w, stride: 2, padding: 1) |> relu |> max_pool2d(3, stride: 2, padding: 1)
    z = convolve2d(y, v, stride: 2)
    p = avg_pool2d(convolve2d(x, w, stride: 2, padding: 1), 3, stride: 2)
    dx, dw = grad(sum[b, o, i, j](z[b, o, i, j] * t[b, o, i, j]) + sum[b, o, i, j](p[b, o, i, j]^2), wrt: (x, w))
}
";
    let shown = show(&checked(text, DType::F32), Stage::Passes, None).unwrap();
    assert!(!shown.contains("mod("), "{shown}");
    let guarded = shown.lines().find(|l| l.contains("= dot[") && l.contains(" where "));
    assert_eq!(guarded, None, "{shown}");
    assert!(shown.contains("by [1, 1, 2, 2]"), "{shown}");
}
