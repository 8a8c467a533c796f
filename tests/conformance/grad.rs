//! Gradients against PyTorch's: each case's body, through `.nn` text, in f64 by machine code and by the interpreter.

use crate::support::{Named, Runnable, checked, compare};
use nnc::ir::{DType, Dims};
use nnc_runtime::npy::read_npz;
use nnc_runtime::tensor::Tensor;
use serde_json::Value;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

const BODIES: &str = include_str!("grad.txt");

/// Runs every case that has a body; prints a line a failure and the totals. True if any failed.
pub fn run(folder: &Path, only: Option<&str>) -> bool {
    let (prelude, bodies) = bodies();
    let mut names: Vec<String> = match std::fs::read_dir(folder) {
        Ok(entries) => entries
            .filter_map(|e| e.ok())
            .filter(|e| e.path().join("case.json").exists())
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect(),
        Err(e) => panic!("{}: {e}", folder.display()),
    };
    names.sort();
    std::panic::set_hook(Box::new(|_| {}));
    let (mut passed, mut failed, mut without) = (0, Vec::new(), Vec::new());
    for name in names.iter().filter(|n| only.is_none_or(|o| n.contains(o))) {
        let Some(body) = bodies.get(name.as_str()) else {
            without.push(name.as_str());
            continue;
        };
        match catch_unwind(AssertUnwindSafe(|| case(&folder.join(name), &prelude, body))) {
            Ok(Ok(())) => passed += 1,
            Ok(Err(why)) => failed.push((name, why)),
            Err(panic) => {
                let why = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()));
                failed.push((name, format!("panic: {}", why.unwrap_or_default())));
            }
        }
    }
    let _ = std::panic::take_hook();
    for (name, why) in &failed {
        let why: String = why.lines().take(if only.is_some() { 60 } else { 4 }).collect::<Vec<_>>().join("\n    ");
        println!("FAILED {name}: {why}");
    }
    println!("gradients: {passed} of {} cases agree, {} fail, {} have no body here: {}", names.len(), failed.len(), without.len(), without.join(" "));
    !failed.is_empty()
}

/// The common declarations, and the body of each case.
fn bodies() -> (String, BTreeMap<&'static str, &'static str>) {
    let mut sections = BODIES.split("\n== ");
    let prelude = sections.next().unwrap().to_string();
    let bodies = sections.map(|s| s.split_once('\n').unwrap()).collect();
    (prelude, bodies)
}

fn shape(v: &Value) -> String {
    let sizes: Vec<String> = v.as_array().unwrap().iter().map(|n| n.to_string()).collect();
    if sizes.is_empty() { String::new() } else { format!("[{}]", sizes.join(", ")) }
}

fn case(folder: &Path, prelude: &str, body: &str) -> Result<(), String> {
    let case: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("case.json")).unwrap()).unwrap();
    let arrays = read_npz(&folder.join("case.npz")).map_err(|e| e.message().to_string())?;
    let tensors = case["tensors"].as_array().unwrap();
    let params: Vec<String> = tensors
        .iter()
        .map(|t| {
            let head = match t["dtype"].as_str().unwrap() {
                // An `int` without axes would be a number known when compiling.
                "int64" if t["shape"].as_array().unwrap().is_empty() => "token<1000>",
                "int64" => "int",
                "bool" => "bool",
                _ => "real",
            };
            format!("{}: {head}{}", t["name"].as_str().unwrap(), shape(&t["shape"]))
        })
        .collect();
    let outputs = case["outputs"].as_array().unwrap();
    let results = if outputs.len() == 1 {
        format!("real{}", shape(&outputs[0]["shape"]))
    } else {
        let named: Vec<String> = outputs.iter().enumerate().map(|(i, o)| format!("y{i}: real{}", shape(&o["shape"]))).collect();
        format!("({})", named.join(", "))
    };
    let text = format!("nn 1\n{prelude}\nmodel Case({}) -> {results} {{\n{body}\n}}\n", params.join(", "));
    let checked = checked(&text, DType::F64);
    let program = Runnable::new(&checked, |module| nnc::driver::add_derivative(module, "Case"));
    let mut inputs = Named::new();
    for t in tensors {
        let name = t["name"].as_str().unwrap();
        inputs.insert(name.into(), arrays[&format!("in.{name}")].clone());
    }
    let output = |i: usize| if outputs.len() == 1 { "output".to_string() } else { format!("y{i}") };
    for i in 0..outputs.len() {
        inputs.insert(format!("d.{}", output(i)), find(&arrays, &format!("dy.{i}")));
    }
    let got = program.run("derivative:Case", &Dims::new(), &mut program.store(), &inputs);
    let (rtol, atol) = (case["rtol"].as_f64().unwrap(), case["atol"].as_f64().unwrap());
    for i in 0..outputs.len() {
        compare(&output(i), &got[&output(i)], &find(&arrays, &format!("out.{i}")), rtol, atol)?;
    }
    for t in tensors.iter().filter(|t| t["grad"].as_bool().unwrap()) {
        let name = t["name"].as_str().unwrap();
        compare(&format!("grad.{name}"), &got[&format!("grad.{name}")], &find(&arrays, &format!("grad.{name}")), rtol, atol)?;
    }
    Ok(())
}

fn find(arrays: &BTreeMap<String, Tensor>, name: &str) -> Tensor {
    arrays.get(name).cloned().unwrap_or_else(|| panic!("no {name} among {:?}", arrays.keys().collect::<Vec<_>>()))
}
