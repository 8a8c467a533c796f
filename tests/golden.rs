//! The library against PyTorch: values.json, which tests/golden/make.py writes, holds a case for every function, through `.nn` text, interpreted and compiled, in f64.

use crate::support::given::{axes, clock, indices, program, row};
use crate::support::{Named, Runnable, checked, compare, law};
use nnc::ir::{DType, Dims, ScalarOp};
use nnc::math::apply;
use nnc::parse::tree::{FunctionKind, Item};
use nnc::span::FileId;
use nnc_runtime::dtype::Scalar;
use nnc_runtime::tensor::Tensor;
use nnc_runtime::tensors::Tensors;
use serde_json::Value;

/// Both sides round each operation once.
const RTOL: f64 = 1e-9;
/// Where a result is a difference of numbers near 1, as far out in gelu, neither side knows more digits.
const ATOL: f64 = 1e-12;

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/values.json")).unwrap()
}

fn list<'a>(golden: &'a Value, kind: &str) -> &'a [Value] {
    golden[kind].as_array().unwrap()
}

fn word<'a>(case: &'a Value, key: &str) -> &'a str {
    case[key].as_str().unwrap()
}

fn real(v: &Value) -> f64 {
    v.as_f64().unwrap_or_else(|| v.as_str().unwrap().parse().unwrap())
}

fn shape(v: &Value) -> Vec<i64> {
    v.as_array().unwrap().iter().map(|n| n.as_i64().unwrap()).collect()
}

fn tensor(v: &Value) -> Tensor {
    let shape = shape(&v["shape"]);
    match v["int"].as_array() {
        Some(values) => Tensor::from_i64(&shape, &values.iter().map(|n| n.as_i64().unwrap()).collect::<Vec<_>>()),
        None => Tensor::from_f64(&shape, &v["real"].as_array().unwrap().iter().map(real).collect::<Vec<_>>()),
    }
}

/// A case's tensors of one kind, by name.
fn tensors(case: &Value, kind: &str) -> Vec<(String, Tensor)> {
    case[kind].as_object().map_or(vec![], |o| o.iter().map(|(name, v)| (name.clone(), tensor(v))).collect())
}

fn declared(name: &str, t: &Tensor) -> String {
    let head = if t.dtype == DType::I64 { "int" } else { "real" };
    if t.shape.is_empty() { format!("{name}: {head}") } else { format!("{name}: {head}[{}]", axes(&t.shape)) }
}

/// Zeroed, but for these; every parameter must be among them.
fn filled(program: &Runnable, model: &str, values: &[(String, Tensor)]) -> Tensors {
    let mut store = program.store();
    for (name, value) in values {
        let at = store.find(&format!("{model}.{name}")).unwrap_or_else(|| panic!("no parameter {name}"));
        assert_eq!(store.decl(at).shape, value.shape, "{name}");
        store.bytes_mut(at).copy_from_slice(value.bytes());
    }
    store
}

fn stored(store: &Tensors, name: &str) -> Tensor {
    let at = store.find(name).unwrap_or_else(|| panic!("no tensor {name}"));
    let mut t = Tensor::zeros(store.decl(at).dtype, &store.decl(at).shape);
    t.bytes_mut().copy_from_slice(store.bytes(at));
    t
}

#[test]
fn functions_give_pytorchs_results_and_gradients() {
    let golden = golden();
    law(list(&golden, "functions"), |case| word(case, "name"), |case| if case["after"].is_object() { in_training(case) } else { in_inference(case) });
}

fn in_inference(case: &Value) -> Result<(), String> {
    let inputs = tensors(case, "inputs");
    let parameters: Vec<String> = inputs.iter().map(|(name, t)| declared(name, t)).collect();
    let text = format!("nn 1\nmodel Case({}) {{\n    {}\n}}\n", parameters.join(", "), word(case, "body"));
    let program = Runnable::new(&checked(&text, DType::F64), |module| nnc::driver::add_derivative(module, "Case"));
    let weights = tensors(case, "parameters");
    let mut store = filled(&program, "Case", &[weights, tensors(case, "states")].concat());
    let cotangents = tensors(case, "cotangents").into_iter().map(|(name, t)| (format!("d.{name}"), t));
    let given: Named = inputs.into_iter().chain(cotangents).collect();
    let got = program.run("derivative:Case", &Dims::new(), &mut store, &given);
    for (name, want) in tensors(case, "results") {
        compare(&name, &got[&name], &want, real(&case["rtol"]), ATOL)?;
    }
    for (name, want) in tensors(case, "gradients") {
        let ours = if case["parameters"][&name].is_object() { format!("grad.Case.{name}") } else { format!("grad.{name}") };
        compare(&ours, &got[&ours], &want, real(&case["rtol"]), ATOL)?;
    }
    Ok(())
}

/// Inputs and cotangents become parameters of a recipe with steps of size 1: what a parameter loses is its gradient, and what a cotangent loses is the result.
fn in_training(case: &Value) -> Result<(), String> {
    let cotangents = tensors(case, "cotangents").into_iter().map(|(name, t)| (format!("d_{name}"), t)).collect();
    let moved = [tensors(case, "inputs"), cotangents].concat();
    let weights = [moved.clone(), tensors(case, "parameters")].concat();
    let params: Vec<String> = moved.iter().map(|(name, t)| format!("    param {} = constant(0)\n", declared(name, t))).collect();
    let at = indices(tensor(&case["results"]["output"]).shape.len());
    let body =
        format!("{}    output = {}\n    y[row] = one[row, 0] * sum[{at}](output[{at}] * d_output[{at}])\n", params.concat(), word(case, "body"));
    let program = Runnable::new(&checked(&step(&body, 1.0), DType::F64), |_| {});
    let mut store = filled(&program, "M", &[weights.clone(), tensors(case, "states")].concat());
    let mut inputs = clock(&program, 0, 1, 1);
    inputs.insert("one".into(), Tensor::from_f64(&[1, 1], &[1.0]));
    program.run("train:fit", &[("B".into(), 1)].into(), &mut store, &inputs);
    for (name, before) in &weights {
        let kind = if name == "d_output" { &case["results"]["output"] } else { &case["gradients"][name] };
        let after = stored(&store, &format!("M.{name}"));
        let lost: Vec<f64> = std::iter::zip(before.as_f64(), after.as_f64()).map(|(b, a)| b - a).collect();
        compare(name, &Tensor::from_f64(&before.shape, &lost), &tensor(kind), real(&case["rtol"]), ATOL)?;
    }
    for (name, want) in tensors(case, "after") {
        compare(&name, &stored(&store, &format!("M.{name}")), &want, real(&case["rtol"]), ATOL)?;
    }
    Ok(())
}

/// A recipe of one step of plain gradient descent on a model `M` of one row, with this body.
fn step(body: &str, lr: f64) -> String {
    format!(
        "nn 1\ndim B\nmodel M(one: real[B, 1]) -> real[B] {{\n{body}}}\ndata d {{\n    t = csv(\"d.csv\")\n    one = t.columns(\"one\")\n}}\n\
         train fit {{\n    data = d\n    y = M(one)\n    loss = sum[row](y[row])\n    optimizer = sgd(lr: {lr})\n    batch = 1\n    steps = 1\n}}\n"
    )
}

#[test]
fn optimizers_step_as_pytorchs() {
    let golden = golden();
    let (start, gradients) = (tensors(&golden["given"][0], "start"), tensors(&golden["given"][0], "gradients"));
    let shapes: Vec<(String, Vec<i64>)> = start.iter().map(|(name, t)| (name.clone(), t.shape.clone())).collect();
    law(
        list(&golden, "optimizers"),
        |case| word(case, "name"),
        |case| {
            // PyTorch keeps NAdam's product of momenta and ASGD's step size in single precision, also for double parameters.
            let rtol = if ["nadam", "asgd"].contains(&word(case, "name").split('.').next().unwrap()) { 1e-6 } else { RTOL };
            let runnable = Runnable::new(&checked(&program(&shapes, word(case, "code")), DType::F64), |_| {});
            let mut store = runnable.store();
            if runnable.manifest.entries.iter().any(|e| &*e.name == "init:fit") {
                runnable.run("init:fit", &Dims::new(), &mut store, &Named::new());
            }
            for (name, value) in &start {
                let at = store.find(&format!("M.{name}")).unwrap();
                store.bytes_mut(at).copy_from_slice(value.bytes());
            }
            for i in 0..6 {
                let mut inputs = clock(&runnable, i, 6, 6);
                for (name, all) in &gradients {
                    inputs.insert(format!("g_{name}"), row(all, i, &[&[1], &all.shape[1..]].concat()));
                }
                runnable.run("train:fit", &[("B".into(), 1)].into(), &mut store, &inputs);
                for (name, all) in tensors(case, "after") {
                    compare(
                        &format!("{name} after step {}", i + 1),
                        &stored(&store, &format!("M.{name}")),
                        &row(&all, i, &all.shape[1..]),
                        rtol,
                        ATOL,
                    )?;
                }
            }
            Ok(())
        },
    );
}

#[test]
fn schedules_give_pytorchs_learning_rates() {
    let golden = golden();
    law(
        list(&golden, "schedules"),
        |case| word(case, "name"),
        |case| {
            let text = program(&[("w".into(), vec![1])], &format!("sgd(lr: {})", word(case, "code")));
            let runnable = Runnable::new(&checked(&text, DType::F64), |_| {});
            let rates: Vec<f64> = case["rates"].as_array().unwrap().iter().map(real).collect();
            for (i, want) in rates.iter().enumerate() {
                let mut inputs = clock(&runnable, i, rates.len(), 5);
                inputs.insert("g_w".into(), Tensor::from_f64(&[1, 1], &[-1.0]));
                let mut store = runnable.store();
                runnable.run("train:fit", &[("B".into(), 1)].into(), &mut store, &inputs);
                compare(&format!("rate of step {}", i + 1), &stored(&store, "M.w"), &Tensor::from_f64(&[1], &[*want]), RTOL, ATOL)?;
            }
            Ok(())
        },
    );
}

/// Whether the elements look drawn, independently, from a distribution with known parameters: within its bounds, and no farther from its distribution function than
/// chance makes them (Kolmogorov's statistic is above 2.2 once in 8,000 draws; what is drawn here is always the same), neighbours uncorrelated.
fn drawn(name: &str, values: &[f64], from: &Value) -> Result<(), String> {
    let n = values.len() as f64;
    let (cdf, mean, std): (Box<dyn Fn(f64) -> f64>, f64, f64) = if from["std"].is_null() {
        let (low, high) = (real(&from["low"]), real(&from["high"]));
        let slack = 1e-6 * (high - low).max(high.abs());
        if let Some(out) = values.iter().find(|v| **v < low - slack || **v > high + slack) {
            return Err(format!("{name}: {out} is outside {low}..{high}"));
        }
        if low == high {
            return Ok(());
        }
        (Box::new(move |x| (x - low) / (high - low)), (low + high) / 2.0, (high - low) / 12f64.sqrt())
    } else {
        let (mean, std) = (real(&from["mean"]), real(&from["std"]));
        let erf = |x: f64| apply(ScalarOp::Erf, &[Scalar::f64(x)]).to_f64();
        (Box::new(move |x| 0.5 * (1.0 + erf((x - mean) / std / 2f64.sqrt()))), mean, std)
    };
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let far = sorted.iter().enumerate().map(|(i, x)| (cdf(*x) - i as f64 / n).abs().max(((i + 1) as f64 / n - cdf(*x)).abs())).fold(0.0, f64::max);
    if far * n.sqrt() > 2.2 {
        return Err(format!("{name}: {far:.4} from its distribution function, Kolmogorov's statistic {:.2}", far * n.sqrt()));
    }
    let together: f64 = values.windows(2).map(|w| (w[0] - mean) * (w[1] - mean)).sum::<f64>() / (std * std);
    if together.abs() > 5.0 * n.sqrt() {
        return Err(format!("{name}: neighbours correlate, {:.3}", together / n));
    }
    Ok(())
}

/// The parameters of a model of which only the initial values matter.
fn initial(text: &str, real: DType, names: &[String]) -> Vec<Vec<f64>> {
    let program = Runnable::new(&checked(text, real), |_| {});
    let mut store = program.store();
    program.run("init", &Dims::new(), &mut store, &Named::new());
    names.iter().map(|name| stored(&store, &format!("M.{name}")).scalars().iter().map(|s| s.to_f64()).collect()).collect()
}

#[test]
fn initialisers_draw_from_the_distributions_of_pytorchs() {
    let golden = golden();
    law(
        list(&golden, "initialisers"),
        |case| word(case, "name"),
        |case| {
            let axes = axes(&shape(&case["shape"]));
            let code = word(case, "code");
            let text = format!(
                "nn 1\nmodel M(x: real[2]) {{\n    param p: real[{axes}] = {code}\n    param q: real[{axes}] = {code}\n    y[i] = x[i] * p[0, 0, 0, 0] * q[0, 0, 0, 0]\n}}\n"
            );
            for real in [DType::F32, DType::F64] {
                let both = initial(&text, real, &["p".into(), "q".into()]);
                drawn("p", &both[0], case)?;
                drawn("q", &both[1], case)?;
                // Interleaved, two parameters that saw the same numbers would correlate.
                drawn("p and q", &std::iter::zip(&both[0], &both[1]).flat_map(|(p, q)| [*p, *q]).collect::<Vec<_>>(), case)?;
            }
            Ok(())
        },
    );
}

#[test]
fn layers_start_from_the_distributions_of_pytorchs() {
    let golden = golden();
    law(
        list(&golden, "layers"),
        |case| word(case, "name"),
        |case| {
            let inputs = case["shapes"].as_array().unwrap().iter().enumerate();
            // In the order of the names that bodies use.
            let inputs: Vec<String> = inputs
                .map(|(i, s)| {
                    format!("{}: real[{}]", [["x", "h", "c"], ["x", "z", ""]][word(case, "body").contains("z,") as usize][i], axes(&shape(s)))
                })
                .collect();
            let text = format!("nn 1\nmodel M({}) {{\n    {}\n}}\n", inputs.join(", "), word(case, "body"));
            let parameters = case["parameters"].as_object().unwrap();
            let names: Vec<String> = parameters.keys().cloned().collect();
            for (name, values) in std::iter::zip(&names, initial(&text, DType::F32, &names)) {
                drawn(name, &values, &parameters[name])?;
            }
            Ok(())
        },
    );
}

#[test]
fn dropout_keeps_its_share_scales_it_and_masks_the_gradient_alike() {
    const N: usize = 20_000;
    let body = |rate: f64| {
        format!(
            "    param x: real[200, 100] = constant(0)\n    param d: real[200, 100] = constant(0)\n    z = dropout(x, {rate:?})\n    y[row] = one[row, 0] * sum[i, j](z[i, j] * d[i, j])\n"
        )
    };
    let (x, d): (Vec<f64>, Vec<f64>) = ((0..N).map(|i| 1.0 + (i % 7) as f64).collect(), (0..N).map(|i| 2.0 + (i % 5) as f64).collect());
    let masks = |rate: f64, key: i64| {
        let program = Runnable::new(&checked(&step(&body(rate), 1.0), DType::F64), |_| {});
        let given = [("x", &x), ("d", &d)].map(|(name, v)| (name.to_string(), Tensor::from_f64(&[200, 100], v)));
        let mut store = filled(&program, "M", &given);
        let mut inputs = clock(&program, 0, 1, 1);
        inputs.insert("one".into(), Tensor::from_f64(&[1, 1], &[1.0]));
        inputs.insert("key".into(), Tensor::from_i64(&[], &[key]));
        program.run("train:fit", &[("B".into(), 1)].into(), &mut store, &inputs);
        // What x lost is d times the mask; what d lost is x times the mask.
        let lost = |name: &str, before: &[f64], by: &[f64]| -> Vec<f64> {
            let after = stored(&store, &format!("M.{name}"));
            (0..N).map(|i| (before[i] - after.as_f64()[i]) / by[i]).collect()
        };
        let (of_gradient, of_value) = (lost("x", &x, &d), lost("d", &d, &x));
        let scale = if rate < 1.0 { 1.0 / (1.0 - rate) } else { 0.0 };
        for (g, v) in std::iter::zip(&of_gradient, &of_value) {
            assert!((g - v).abs() < 1e-12 && (v.abs() < 1e-12 || (v - scale).abs() < 1e-12), "rate {rate}: value times {v}, gradient times {g}");
        }
        of_value.iter().map(|v| *v > 0.5).collect::<Vec<bool>>()
    };
    for rate in [0.0, 0.1, 0.5, 0.8, 1.0] {
        let mask = masks(rate, 3);
        // Five deviations of the binomial distribution: of all, and of every row and column.
        let near = |kept: usize, of: usize| (kept as f64 - of as f64 * (1.0 - rate)).abs() <= 5.0 * (of as f64 * rate * (1.0 - rate)).sqrt();
        let count = |rows: &mut dyn Iterator<Item = usize>| rows.filter(|i| mask[*i]).count();
        assert!(near(count(&mut (0..N)), N), "rate {rate}: {} of {N} kept", count(&mut (0..N)));
        assert!((0..200).all(|r| near(count(&mut (r * 100..(r + 1) * 100)), 100)), "rate {rate}: rows");
        assert!((0..100).all(|c| near(count(&mut (c..N).step_by(100)), 200)), "rate {rate}: columns");
    }
    assert_eq!(masks(0.5, 3), masks(0.5, 3), "a key gives a mask");
    assert_ne!(masks(0.5, 3), masks(0.5, 4), "another key, another mask");
}

#[test]
fn normal_noise_is_normal_and_new_in_every_step() {
    let body = "    param d: real[200, 100] = constant(0)\n    z = randn_like(d)\n    y[row] = one[row, 0] * sum[i, j](z[i, j] * d[i, j])\n";
    let noise = |key: i64| {
        let program = Runnable::new(&checked(&step(body, 1.0), DType::F64), |_| {});
        let mut store = filled(&program, "M", &[("d".to_string(), Tensor::from_f64(&[200, 100], &[0.0; 20_000]))]);
        let mut inputs = clock(&program, 0, 1, 1);
        inputs.insert("one".into(), Tensor::from_f64(&[1, 1], &[1.0]));
        inputs.insert("key".into(), Tensor::from_i64(&[], &[key]));
        program.run("train:fit", &[("B".into(), 1)].into(), &mut store, &inputs);
        // What d lost is the noise.
        stored(&store, "M.d").as_f64().iter().map(|d| -d).collect::<Vec<f64>>()
    };
    let [first, other] = [3, 4].map(noise);
    let normal = serde_json::json!({"mean": 0.0, "std": 1.0});
    drawn("a step", &first, &normal).unwrap();
    drawn("two steps", &std::iter::zip(&first, &other).flat_map(|(a, b)| [*a, *b]).collect::<Vec<_>>(), &normal).unwrap();
    assert_eq!(first, noise(3), "a key gives its noise");
}

#[test]
fn every_library_function_has_a_golden_case() {
    let golden = golden();
    // What has no case, and why.
    let elsewhere = [
        ("dropout", "random: its statistics and its gradient's mask are tested here"),
        ("randn_like", "random: its distribution is tested here"),
        ("resize_weights", "resize_bilinear2d is this, twice"),
        ("grid_place", "grid_sample is this, and four loads"),
        ("conv_size", "a size: every convolution's shape"),
        ("conv_transpose_size", "a size: every transposed convolution's shape"),
    ];
    let metrics = include_str!("metrics.rs");
    let mut without = Vec::new();
    for (file, text) in nnc::std::FILES.iter().copied() {
        for item in nnc::parse::parse(text, FileId(0)).0.items {
            let Item::Function(function) = item else { continue };
            let name = &*function.name.name;
            let called = |kind: &str, key: &str| list(&golden, kind).iter().any(|case| word(case, key).starts_with(&format!("{name}(")));
            let found = match function.kind {
                FunctionKind::Fn | FunctionKind::Loss => called("functions", "body"),
                // attention's parameters are those of its two linear layers, those of gates the cells'.
                FunctionKind::Layer => called("functions", "body") && (called("layers", "body") || ["attention", "gates"].contains(&name)),
                FunctionKind::Optimizer => called("optimizers", "code"),
                FunctionKind::Schedule => called("schedules", "code"),
                FunctionKind::Init => called("initialisers", "code"),
                FunctionKind::Metric => metrics.contains(&format!("\"{name}(")),
                FunctionKind::Model | FunctionKind::Block => true,
            };
            if !found && !elsewhere.iter().any(|(n, _)| *n == name) {
                without.push(format!("{file}: {name}"));
            }
        }
    }
    assert!(without.is_empty(), "add cases to tests/golden/make.py and run it:\n{}", without.join("\n"));
    let stale: Vec<&str> =
        elsewhere.iter().map(|e| e.0).filter(|n| !nnc::std::FILES.iter().any(|(_, text)| text.contains(&format!("fn {n}(")))).collect();
    assert!(stale.is_empty(), "{stale:?} are excused and no more in the library");
}
