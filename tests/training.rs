//! Whole programs, from text through the graph's reference evaluator: what a training step, an evaluation and an initialisation do to every stored tensor.

use nnc::check::{self, Options};
use nnc::ir::{self, DType, Dims, Module, Scalar};
use nnc::span::Sources;
use nnc_runtime::manifest::{Sink, Source, TensorDecl};
use nnc_runtime::tensor::Tensor;
use std::collections::BTreeMap;

/// A program's graph and stored tensors, with the dim `B` set.
struct Program {
    module: Module,
    tensors: Vec<TensorDecl>,
    dims: Dims,
    /// The recipes' own values of run-time scalars.
    scalars: Values,
}

type Values = BTreeMap<String, Vec<f64>>;

fn program(text: &str, b: i64) -> Program {
    let mut sources = Sources::default();
    let file = sources.add("test.nn", text);
    let options = Options { real: DType::F64, set: vec![] };
    let (program, diagnostics) = check::check(&mut sources, file, &|_| Err("no files here".into()), &options);
    let program = program.unwrap_or_else(|| panic!("{diagnostics:#?}"));
    let module = nnc::build::steps(nnc::build::build(&program), &program);
    ir::verify::verify(&module).unwrap_or_else(|e| panic!("{}", e.join("\n")));
    let scalars = program.recipes.iter().flat_map(|r| &r.settings.scalars).map(|(name, x)| (name.to_string(), vec![*x])).collect();
    Program { module, tensors: nnc::build::tensors(&program), dims: [("B".into(), b)].into(), scalars }
}

impl Program {
    /// The results of an entry by name; inputs by name, with `step` 1 and `key` 7 unless given.
    fn run(&self, entry: &str, inputs: &Values) -> Values {
        let entry = self.module.entries.iter().find(|e| &*e.name == entry).unwrap_or_else(|| panic!("no entry {entry}"));
        let f = self.module.function(entry.function);
        let given = f.inputs.iter().zip(&entry.inputs).map(|(input, source)| {
            let (name, default) = match source {
                Source::Tensor(n) | Source::Data(n) | Source::Scalar(n) => (&**n, None),
                Source::Step => ("step", Some(vec![1.0])),
                Source::Key => ("key", Some(vec![7.0])),
            };
            let values = inputs.get(name).or(self.scalars.get(name)).cloned().or(default).unwrap_or_else(|| panic!("no input {name}"));
            let shape: Vec<i64> = input.ty.shape.iter().map(|s| s.eval(&self.dims).unwrap()).collect();
            let scalar = |x: &f64| if input.ty.dtype == DType::I64 { Scalar::i64(*x as i64) } else { Scalar::float(input.ty.dtype, *x) };
            Tensor::from_scalars(input.ty.dtype, &shape, &values.iter().map(scalar).collect::<Vec<_>>())
        });
        let given: Vec<Tensor> = given.collect();
        let results = ir::eval::function(&self.module, entry.function, &given, &self.dims).unwrap_or_else(|e| panic!("{}: {e}", entry.name));
        let name = |sink: &Sink| match sink {
            Sink::Tensor(n) | Sink::Result(n) | Sink::Accumulate(n) => n.to_string(),
        };
        entry.results.iter().map(name).zip(results.iter().map(|t| t.scalars().into_iter().map(Scalar::to_f64).collect())).collect()
    }

    fn paths(&self) -> Vec<&str> {
        self.tensors.iter().map(|t| &*t.path).collect()
    }
}

/// The named values, on top of `base`.
fn with(base: &Values, more: &[(&str, &[f64])]) -> Values {
    let mut all = base.clone();
    all.extend(more.iter().map(|(n, v)| (n.to_string(), v.to_vec())));
    all
}

fn close(a: &[f64], b: &[f64]) {
    assert!(a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-9 * (1.0 + b.abs())), "{a:?}, not {b:?}");
}

const DATA: &str = r#"
data points {
    table = csv("points.csv")
    x     = table.columns("x0".."x1")
    y     = table.columns("y0".."y1")
}
"#;

#[test]
fn batch_norm_trains_on_the_batch_and_evaluates_on_running_statistics() {
    let text = format!(
        r#"nn 1
dim B
block Half(x: real[B, 2]) -> real[B, 2] {{
    x |> batch_norm1d(name: "bn")
}}
model Net(x: f32[B, 2]) -> real[B, 2] {{
    x |> repeat(2, Half, name: "h")
}}
{DATA}
train fit {{
    data      = points
    z         = Net(x)
    loss      = mse(z, y)
    optimizer = sgd(lr: 0.5)
    batch     = 4
    epochs    = 1
    seed      = 1
}}
"#
    );
    let p = program(&text, 4);
    let paths = ["bias", "running_mean", "running_var", "weight"];
    assert_eq!(p.paths(), [0, 1].map(|h| paths.map(|w| format!("Net.h.{h}.bn.{w}"))).concat());
    let start = p.run("init", &Values::new());
    close(&start["Net.h.0.bn.weight"], &[1.0, 1.0]);
    close(&start["Net.h.1.bn.running_var"], &[1.0, 1.0]);

    let x = [1.0, 2.0, 3.0, 4.0, 5.0, 0.0, 7.0, 2.0];
    let inputs = with(&start, &[("x", &x), ("y", &[0.0; 8]), ("optimizer.lr", &[0.5]), ("lr", &[0.5])]);
    let step = p.run("train:fit", &inputs);
    // means 4 and 2; unbiased variances 20/3 and 8/3
    close(&step["Net.h.0.bn.running_mean"], &[0.4, 0.2]);
    close(&step["Net.h.0.bn.running_var"], &[0.9 + 2.0 / 3.0, 0.9 + 0.8 / 3.0]);
    // the second one sees what the first one makes: mean 0, variance just under 1
    assert!(step["Net.h.1.bn.running_mean"].iter().all(|m| m.abs() < 1e-12));
    assert!(step["Net.h.1.bn.running_var"].iter().all(|v| (v - 0.9 - 0.4 / 3.0).abs() < 1e-5), "{step:?}");
    // the loss is the mean square of a normalised batch
    assert!((step["loss.sum"][0] / step["loss.weight"][0] - 1.0).abs() < 1e-4);

    // evaluation: (x - mean) / sqrt(var + eps), twice, and nothing changes
    let inputs = with(&inputs, &[("Net.h.0.bn.running_mean", &[1.0, -1.0]), ("Net.h.0.bn.running_var", &[4.0, 9.0])]);
    let z = p.run("infer:Net", &inputs).into_values().next().unwrap();
    let eps = 1e-5f64;
    let expected =
        |k: usize, x: f64| if k.is_multiple_of(2) { (x - 1.0) / (4.0 + eps).sqrt() } else { (x + 1.0) / (9.0 + eps).sqrt() } / (1.0 + eps).sqrt();
    let expected: Vec<f64> = x.iter().enumerate().map(|(k, x)| expected(k, *x)).collect();
    close(&z, &expected);
    let seen = p.run("eval:fit", &inputs);
    close(&[seen["loss.sum"][0] / seen["loss.weight"][0]], &[expected.iter().map(|z| z * z).sum::<f64>() / 8.0]);
    assert_eq!(seen.keys().filter(|n| n.starts_with("Net")).count(), 0, "evaluation stores nothing");
}

#[test]
fn dropout_has_one_mask_for_both_directions() {
    let text = format!(
        r#"nn 1
dim B
layer scale(x: real[B, I]) -> real[B, I] {{
    param weight: real[I] = constant(1)
    y[b, i] = x[b, i] * weight[i]
}}
model Net(x: f32[B, 2]) -> real[B, 2] {{
    x |> scale |> dropout(0.5)
}}
{DATA}
loss total(x: real[B, I], target: real[B, I]) {{
    sum    = sum[b, i](x[b, i] * target[b, i])
    weight = 1
}}
train fit {{
    data      = points
    z         = Net(x)
    loss      = total(z, y)
    optimizer = sgd(lr: 1)
    batch     = 4
    epochs    = 1
    seed      = 1
}}
"#
    );
    let p = program(&text, 4);
    let x = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];
    let base = with(&Values::new(), &[("x", &x), ("y", &[1.0; 8]), ("Net.scale.weight", &[1.0, 1.0]), ("optimizer.lr", &[1.0])]);
    let mut kept = std::collections::BTreeSet::new();
    for key in 0..8 {
        let step = p.run("train:fit", &with(&base, &[("key", &[key as f64])]));
        let down: Vec<f64> = step["Net.scale.weight"].iter().map(|w| 1.0 - w).collect();
        // powers of two: the sum over the kept elements says which ones they were
        let sum = step["loss.sum"][0];
        assert_eq!(down[0] + down[1], sum, "the derivative sees the forward mask");
        let mask = (sum / 2.0) as u64;
        assert_eq!(down[0], 2.0 * (mask & 0b0101_0101) as f64);
        kept.insert(mask);
    }
    assert!(kept.len() >= 6, "every key has a mask of its own: {kept:?}");
    let plain = p.run("eval:fit", &base);
    assert_eq!(plain["loss.sum"], [255.0], "evaluation keeps everything");
    close(&p.run("infer:Net", &base).into_values().next().unwrap(), &x);
}

#[test]
fn a_frozen_layer_stays_and_recipes_have_states_of_their_own() {
    let recipe = |name: &str, more: &str| {
        format!(
            "train {name} {{
    data      = points
    z         = Net(x)
    loss      = mse(z, y)
    optimizer = sgd(lr: 0.1, momentum: 0.9)
    batch     = 4
    epochs    = 1
    seed      = 1
{more}}}
"
        )
    };
    let text = format!(
        "nn 1
dim B
model Net(x: f32[B, 2]) -> real[B, 2] {{
    x |> linear(3, name: \"fc1\") |> batch_norm1d(name: \"bn\") |> relu |> linear(2, name: \"fc2\")
}}
{DATA}
{}
{}",
        recipe("fit", ""),
        recipe("tune", "    load(fit)\n    freeze(Net.fc1, Net.bn)\n")
    );
    let p = program(&text, 4);
    let frozen: Vec<&str> = p.paths().into_iter().filter(|path| path.starts_with("tune/") && !path.contains("fc2")).collect();
    assert_eq!(frozen, Vec::<&str>::new(), "what does not change has no velocity");
    assert!(p.paths().iter().any(|path| path.starts_with("fit/") && path.ends_with("Net.fc1.weight")));

    let mut inputs = p.run("init", &Values::new());
    inputs.extend(p.run("init:fit", &Values::new()));
    inputs.extend(p.run("init:tune", &Values::new()));
    let inputs = with(&inputs, &[("x", &[1.0, 2.0, 3.0, 4.0, 5.0, 0.0, 7.0, 2.0]), ("y", &[1.0; 8]), ("optimizer.lr", &[0.1])]);
    let fit = p.run("train:fit", &inputs);
    let tune = p.run("train:tune", &inputs);
    assert_eq!(fit["loss.sum"], tune["loss.sum"]);
    assert!(fit.contains_key("Net.fc1.weight") && fit.contains_key("Net.bn.running_mean"));
    let changed: Vec<&String> = tune.keys().filter(|n| n.starts_with("Net.")).collect();
    assert_eq!(changed, ["Net.fc2.bias", "Net.fc2.weight"]);
    close(&tune["Net.fc2.weight"], &fit["Net.fc2.weight"]);
    let finish = p.run("finish:tune", &tune);
    close(&finish["loss"], &[tune["loss.sum"][0] / tune["loss.weight"][0]]);
}
