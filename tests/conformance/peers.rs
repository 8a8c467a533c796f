//! The benchmark workloads against PyTorch: the same weights and inputs, outputs and first losses. `--what peers --peers DIR --scripts DIR`, where DIR has a Python
//! environment `venv` with PyTorch, and the scripts define the workloads; elsewhere it says so.

use nnc::driver::{self, Input};
use nnc::emit::Level;
use nnc::ir::{DType, Dims};
use nnc_runtime::bench::{Bench, Setup};
use nnc_runtime::loader::{self, Loader};
use nnc_runtime::npy::read_npz;
use nnc_runtime::tensor::Tensor;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// The rows of the suite; its first lines say what is in them.
const SUITE: &str = include_str!("../../benches/suite.txt");

/// Of outputs, against the largest one; of losses, against each.
const TOLERANCE: f64 = 1e-5;

/// Runs every workload. True if any failed.
pub fn run(peers: &Path, scripts: &Path, only: Option<&str>) -> bool {
    let mut failed = false;
    for row in SUITE.lines().filter(|l| !l.starts_with('#')).map(|l| l.split_whitespace().collect::<Vec<_>>()) {
        let &[workload, mode, batch, program, entry, sizes, ..] = &row[..] else { panic!("a row of the suite has eight words: {row:?}") };
        if !only.is_none_or(|o| workload.contains(o)) {
            continue;
        }
        let name = format!("{workload} {mode} {batch}");
        match compare(peers, scripts, &[workload, mode, batch], program, entry, sizes) {
            Ok(worst) => {
                println!("peers {name}: {}, largest difference {worst:.1e}", if worst < TOLERANCE { "agrees" } else { "FAILED" });
                failed |= worst >= TOLERANCE;
            }
            Err(why) => {
                println!("peers {name}: FAILED, {why}");
                failed = true;
            }
        }
    }
    failed
}

fn compare(peers: &Path, scripts: &Path, case: &[&str; 3], program: &str, entry: &str, sizes: &str) -> Result<f64, String> {
    let out = peers.join("nnc");
    let export = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/export.py");
    let mut python = Command::new(peers.join("venv/bin/python"));
    python.arg(export).args([scripts, out.as_path()]).args(case).env("PEERS_DIR", peers);
    let ran = python.output().map_err(|e| format!("cannot start {}: {e}", peers.join("venv/bin/python").display()))?;
    if !ran.status.success() {
        return Err(String::from_utf8_lossy(&ran.stderr).lines().last().unwrap_or("export.py failed").to_string());
    }
    let [workload, mode, batch] = case;
    let arrays = read_npz(&out.join(format!("{workload}_b{batch}_{mode}.npz"))).map_err(|e| e.to_string())?;
    let weights = out.join(format!("{workload}.npz"));
    let dims = sizes.split(',').map(|pair| pair.split_once('=').map(|(n, v)| (n.into(), v.parse().unwrap())).unwrap()).collect();
    let got = with_bench(program, entry, dims, &arrays, &weights)?;
    let (want, relative) = match (arrays.get("losses"), arrays.get("expected")) {
        (Some(losses), _) => (losses.as_f64().to_vec(), true),
        (None, Some(expected)) => (expected.as_f32().iter().map(|x| *x as f64).collect(), false),
        (None, None) => return Err("there is nothing to compare with".into()),
    };
    if got.len() != want.len() {
        return Err(format!("{} values, not {}", got.len(), want.len()));
    }
    if let Some(exact) = arrays.get("losses_f64") {
        return Ok(beyond(&got, &want, exact.as_f64()));
    }
    let largest = want.iter().fold(0f64, |m, w| m.max(w.abs()));
    let difference = |(g, w): (&f64, &f64)| (g - w).abs() / if relative { w.abs() } else { largest };
    // A NaN is no agreement.
    Ok(got.iter().zip(&want).map(difference).fold(0.0, |m, d| if d <= m { m } else { d }))
}

/// Where PyTorch's single precision is itself away from its double precision: the largest relative distance from the latter beyond twice what PyTorch has had so far.
fn beyond(got: &[f64], single: &[f64], double: &[f64]) -> f64 {
    let (mut off, mut worst) = (0f64, 0f64);
    for ((g, s), d) in got.iter().zip(single).zip(double) {
        off = off.max((s - d).abs());
        let more = ((g - d).abs() - 2.0 * off) / d.abs();
        worst = if more <= worst { worst } else { more };
    }
    worst
}

/// The first five losses, or the output.
fn with_bench(program: &str, entry: &str, dims: Dims, inputs: &BTreeMap<String, Tensor>, weights: &Path) -> Result<Vec<f64>, String> {
    let folder = Path::new("models/bench");
    let text = std::fs::read_to_string(folder.join(format!("{program}.nn"))).map_err(|e| e.to_string())?;
    let load = |path: &str| std::fs::read_to_string(folder.join(path)).map_err(|e| e.to_string());
    let checked = driver::check(&Input { name: program, text: &text, load: &load, real: DType::F32, set: vec![] });
    let typed = checked.program.as_ref().ok_or_else(|| checked.rendered(false))?;
    let level = loader::level().map_err(|e| e.to_string())?;
    let compiled = driver::compile(typed, &checked.sources, &[if level == "v4" { Level::V4 } else { Level::V3 }], &|_| {})?;
    let kernels = Loader::new(compiled.objects.iter().map(|o| o.as_slice()), &compiled.manifest.kernels, level).map_err(|e| e.to_string())?;
    let setup = Setup { entry: Some(entry.into()), dims, threads: 2, weights: Some(weights.to_path_buf()) };
    let mut bench = Bench::new(&compiled.manifest, &kernels, &setup, inputs).map_err(|e| e.to_string())?;
    if entry.starts_with("train") {
        return (0..5).map(|_| bench.step().map(|loss| loss.unwrap_or(f64::NAN)).map_err(|e| e.to_string())).collect();
    }
    bench.step().map_err(|e| e.to_string())?;
    bench.outputs().map_err(|e| e.to_string())
}
