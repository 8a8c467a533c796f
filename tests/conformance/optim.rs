//! Optimizers and schedules against PyTorch's: fed with the recorded gradients, in f64, step by step.

use crate::support::given::{clock, program, row};
use crate::support::{Named, Runnable, checked};
use nnc::ir::{DType, Dims};
use nnc_runtime::npy::read_npz_where;
use nnc_runtime::tensor::Tensor;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Each trajectory's optimizer as a recipe has it. Those of PyTorch that the library has not are left out, and named at the end.
const OPTIMIZERS: &str = include_str!("optim.txt");

/// Each schedule as the argument of an optimizer; those that PyTorch builds from a Python function, or that the library has not, are written out in [`OWN`].
const SCHEDULES: &str = include_str!("sched.txt");

const OWN: &str = "
schedule restarts(base: scalar) {
    i = step - 1
    begin = if i < 8 then 0 else if i < 24 then 8 else if i < 56 then 24 else 56
    over  = if i < 8 then 8 else if i < 24 then 16 else if i < 56 then 32 else 64
    0.001 + (base - 0.001) * 0.5 * (1 + cos(PI * (i - begin) / over))
}
schedule half_periods(base: scalar) = base * 0.5 * (1 + cos(PI * (step - 1) / 20))
schedule triangle(halvings: scalar) {
    cycle = floor(1 + (step - 1) / 14)
    x     = 1 + (step - 1) / 14 - cycle
    0.01 + 0.09 * (if x <= 0.5 then x / 0.5 else (1 - x) / 0.5) * 0.5^(halvings * (cycle - 1))
}
schedule inverse_root(base: scalar) = base * minimum(step^(-0.5), step * 8^(-1.5))
schedule two_of_three(base: scalar) = base * 0.9^(step - 1 - floor((step - 1) / 3))
";

/// Runs every schedule in the list. True if any failed.
pub fn schedules(folder: &Path, only: Option<&str>) -> bool {
    let (mut passed, mut failed) = (0, false);
    for (name, schedule) in SCHEDULES.lines().filter_map(|l| l.split_once(" = ")).filter(|(n, _)| only.is_none_or(|o| n.contains(o))) {
        // The gradient is -1, so each step adds the learning rate.
        let text = program(&[("w".into(), vec![1])], &format!("sgd(lr: {schedule})")) + OWN;
        let runnable = Runnable::new(&checked(&text, DType::F64), |_| {});
        let mut store = runnable.store();
        let want = &read_npz_where(&folder.join(format!("sched/{name}.npz")), &|n| n == "lr").unwrap_or_else(|e| panic!("{}", e.message()))["lr"];
        let at = store.find("M.w").unwrap();
        let mut before = 0.0;
        let mut worst = 0f64;
        for (i, want) in want.as_f64().iter().enumerate() {
            let mut inputs = clock(&runnable, i, 50, 1);
            inputs.insert("g_w".into(), Tensor::from_f64(&[1, 1], &[-1.0]));
            runnable.run("train:fit", &[("B".into(), 1)].into(), &mut store, &inputs);
            let now = f64::from_le_bytes(store.bytes(at).try_into().unwrap());
            worst = worst.max((now - before - want).abs());
            before = now;
        }
        if worst < 1e-12 {
            passed += 1;
        } else {
            failed = true;
            println!("FAILED schedule {name}: off by {worst:.1e}");
        }
    }
    println!("schedules: {passed} of 11 agree; those that watch a metric (plateau, plateau_abs, plateau_max) are not in the library");
    failed
}

/// Runs every trajectory whose optimizer is in the list. True if any failed.
pub fn run(folder: &Path, only: Option<&str>) -> bool {
    let (mut passed, mut failed, mut without) = (0, Vec::new(), Vec::new());
    let entries = std::fs::read_dir(folder.join("optim")).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut names: Vec<String> = entries.filter_map(|e| e.ok()?.file_name().to_str()?.strip_suffix(".npz").map(String::from)).collect();
    names.sort();
    let known: BTreeMap<&str, &str> = OPTIMIZERS.lines().filter_map(|l| l.split_once(" = ")).collect();
    std::panic::set_hook(Box::new(|_| {}));
    for name in names.iter().filter(|n| only.is_none_or(|o| n.contains(o))) {
        let Some(optimizer) = known.get(name.split('.').next().unwrap()) else {
            without.push(name.as_str());
            continue;
        };
        // PyTorch keeps NAdam's product of momenta and ASGD's step size in single precision, also for double parameters: no closer than that can anyone be.
        let tolerance = if name.starts_with("nadam") || name.starts_with("asgd") { 1e-7 } else { 1e-9 };
        match catch_unwind(AssertUnwindSafe(|| trajectory(&folder.join(format!("optim/{name}.npz")), optimizer, tolerance))) {
            Ok(Ok(())) => passed += 1,
            Ok(Err(why)) => failed.push((name, why)),
            Err(panic) => failed.push((name, panic.downcast_ref::<String>().cloned().unwrap_or_else(|| "panic".into()))),
        }
    }
    let _ = std::panic::take_hook();
    for (name, why) in &failed {
        println!("FAILED {name}: {}", why.lines().take(6).collect::<Vec<_>>().join("\n    "));
    }
    println!(
        "optimizers: {passed} of {} trajectories agree, {} fail, {} not in the library: {}",
        names.len(),
        failed.len(),
        without.len(),
        without.join(" ")
    );
    !failed.is_empty()
}

fn trajectory(file: &Path, optimizer: &str, tolerance: f64) -> Result<(), String> {
    let arrays = read_npz_where(file, &|name| name != "spec").map_err(|e| e.message().to_string())?;
    let parameters: Vec<(String, Vec<i64>)> =
        arrays.iter().filter_map(|(k, t)| Some((k.strip_prefix("p0.")?.to_string(), t.shape.clone()))).collect();
    let runnable = Runnable::new(&checked(&program(&parameters, optimizer), DType::F64), |_| {});
    let mut store = runnable.store();
    let init = runnable.manifest.entries.iter().any(|e| &*e.name == "init:fit");
    if init {
        runnable.run("init:fit", &Dims::new(), &mut store, &Named::new());
    }
    for (name, _) in &parameters {
        let at = store.find(&format!("M.{name}")).ok_or("no such parameter")?;
        store.bytes_mut(at).copy_from_slice(arrays[&format!("p0.{name}")].bytes());
    }
    let dims: Dims = [("B".into(), 1)].into();
    for step in 0..50 {
        let mut inputs = clock(&runnable, step, 50, 1);
        for (name, shape) in &parameters {
            inputs.insert(format!("g_{name}"), row(&arrays[&format!("f64.g.{name}")], step, &[&[1], shape.as_slice()].concat()));
        }
        runnable.run("train:fit", &dims, &mut store, &inputs);
        for (name, shape) in &parameters {
            let want = row(&arrays[&format!("f64.p.{name}")], step, shape);
            let got = store.bytes(store.find(&format!("M.{name}")).unwrap());
            // Element by element, or, where PyTorch itself rounds, in proportion to the largest.
            let least = if tolerance > 1e-9 { want.as_f64().iter().fold(0.0, |m: f64, w| m.max(w.abs())) } else { 1e-9 };
            for (i, (g, w)) in std::iter::zip(got.chunks_exact(8), want.as_f64()).enumerate() {
                let g = f64::from_le_bytes(g.try_into().unwrap());
                if (g - w).abs() > tolerance * w.abs().max(least) {
                    return Err(format!("{name}[{i}] after step {} is {g}, not {w}", step + 1));
                }
            }
        }
    }
    Ok(())
}
