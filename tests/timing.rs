//! `nnc bench`: what it measures is what a run computes, and its figures are plausible.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};

const PROGRAM: &str = "\
nn 1

dim B, T <= 9

model Net(x: f32[B, T, 8], word: token<5>[B, T]) -> logits[B, T, 3] {
    linear(x, 4) + embedding(word, rows: 5, dim: 4) |> relu |> linear(3, name: \"out\")
}

data points {
    table = npz(\"points.npz\")
    x     = table.column(\"x\")
    word  = table.column(\"word\"): token<5>[T]
    kind  = table.column(\"kind\"): class<3>[T]
}

train fit {
    data      = points
    scores    = Net(x, word)
    loss      = cross_entropy(scores, kind)
    optimizer = sgd(lr: 0.5)
    batch     = 6
    steps     = 3
}
";

fn bench(folder: &Path, args: &str) -> Result<Vec<Value>, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nnc"));
    command.current_dir(folder).arg("bench").args(args.split_whitespace()).stdin(Stdio::null());
    let output = command.output().unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let text = String::from_utf8(output.stdout).unwrap();
    Ok(text.lines().map(|l| serde_json::from_str(l).unwrap_or(Value::String(l.into()))).collect())
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("net.nn"), PROGRAM).unwrap();
    folder
}

#[test]
fn a_step_is_described_timed_and_trains() {
    let folder = folder();
    let lines = bench(folder.path(), "net.nn --json --rounds 2 --seconds 0.01 --threads 1,2").unwrap();
    assert_eq!(lines.len(), 6, "{lines:?}");
    let (one, two) = (&lines[0], &lines[3]);
    assert_eq!(one["entry"], "train:fit");
    assert_eq!(one["dims"], serde_json::json!({ "B": 6, "T": 9 }), "the recipe's batch and the upper bound");
    let rows = 6.0 * 9.0;
    let forward = 2.0 * rows * (8.0 * 4.0 + 4.0 * 3.0);
    let backward = 2.0 * rows * (8.0 * 4.0 + 2.0 * 4.0 * 3.0);
    assert_eq!(one["flops"], forward + backward, "without the gradient of the input");
    let losses: Vec<f64> = one["losses"].as_array().unwrap().iter().map(|l| l.as_f64().unwrap()).collect();
    assert!(losses.len() == 3 && losses[0] > losses[1] && losses[1] > losses[2], "{losses:?}");
    assert_eq!(one["losses"], two["losses"], "the same bits on two threads");
    for round in [&lines[1], &lines[2], &lines[4], &lines[5]] {
        let of = |name: &str| round[name].as_f64().unwrap();
        assert!(0.0 < of("min_ms") && of("min_ms") <= of("p10_ms") && of("p10_ms") <= of("median_ms") && of("median_ms") <= of("p90_ms"), "{round}");
        assert!(of("steps") >= 3.0 && of("peak_gflops") > 0.1, "{round}");
    }
}

#[test]
fn sizes_inputs_and_weights_are_the_users_or_refused() {
    let folder = folder();
    let lines = bench(folder.path(), "net.nn infer --json --rounds 1 --seconds 0 --threads 1 --batch 2 --dim T=4").unwrap();
    assert_eq!(lines[0]["entry"], "infer:Net");
    assert_eq!(lines[0]["dims"], serde_json::json!({ "B": 2, "T": 4 }));
    assert_eq!(lines[0]["losses"], serde_json::json!([]));
    for (args, why) in [
        ("net.nn infer:Nat", "the program has no model Nat; it has Net"),
        ("net.nn predict", "there is nothing called predict to time"),
        ("net.nn --dim T=10", "dim T is 10, but the program allows at most 9"),
        ("net.nn --dim S=1", "the program has no free dim S"),
        ("net.nn --weights none.npz", "cannot read none.npz"),
    ] {
        let said = bench(folder.path(), args).unwrap_err();
        assert!(said.contains(why), "{args}: {said}");
    }
}

#[test]
fn an_artifact_is_timed_like_its_program() {
    let folder = folder();
    let built = Command::new(env!("CARGO_BIN_EXE_nnc")).current_dir(folder.path()).args(["build", "net.nn", "--quiet"]).status().unwrap();
    assert!(built.success());
    let args = "--json --rounds 1 --seconds 0 --threads 1";
    let (source, artifact) = (bench(folder.path(), &format!("net.nn {args}")).unwrap(), bench(folder.path(), &format!("net.nnc {args}")).unwrap());
    for what in ["entry", "dims", "flops", "bytes", "launches", "arena_bytes", "losses"] {
        assert_eq!(source[0][what], artifact[0][what], "{what}");
    }
}
