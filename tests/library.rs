//! Laws of every library function: its documented example is accepted, gives the same bits interpreted and compiled, in f32 and f64, and its derivatives agree with
//! central differences. Adding a function adds its tests.

use crate::support::differences::{below, check_gradients, random_store, uniform};
use crate::support::{self, Named, Runnable, checked, mistakes};
use nnc::ir::{DType, Dims};
use nnc::parse::tree::{Axis, ExprKind, Function, FunctionKind, Item, Param};
use nnc::span::FileId;
use nnc_runtime::tensor::Tensor;

/// Runs a law on every example.
fn law(examples: Vec<Example>, holds: impl Fn(&Example)) {
    support::law(
        &examples,
        |e| &e.code,
        |e| {
            holds(e);
            Ok(())
        },
    );
}

/// A library function and the example in its documentation.
struct Example {
    function: Function,
    code: String,
}

fn examples(kinds: &[FunctionKind]) -> Vec<Example> {
    let mut found = Vec::new();
    for (name, text) in nnc::std::FILES.iter().copied() {
        let (file, diagnostics) = nnc::parse::parse(text, FileId(0));
        assert!(diagnostics.is_empty(), "{name}");
        for item in file.items {
            if let Item::Function(function) = item
                && kinds.contains(&function.kind)
                && let Some((_, rest)) = function.doc.split_once("Example: `")
            {
                let code = rest.split('`').next().unwrap().to_string();
                found.push(Example { function: *function, code });
            }
        }
    }
    found
}

/// Small sizes for the names that the library's types use.
fn size(name: &str) -> i64 {
    match name {
        "B" => 3,
        "C" | "D" | "J" | "E" => 4,
        "H" => 6,
        "T" | "K" | "S" | "F" => 5,
        "N" | "W" => 6,
        "I" | "O" => 4,
        "R" => 3,
        _ => 4,
    }
}

/// The example's inputs: each parameter that it names, as a declaration and a value.
fn inputs(example: &Example, real: DType) -> (String, Named) {
    let used = |p: &&Param| example.code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == &*p.name.name);
    let (mut declared, mut values) = (Vec::new(), Named::new());
    for p in example.function.params.iter().filter(used) {
        let Some(ty) = &p.ty else { continue };
        let Some(axes) = &ty.shape else { continue };
        let mut shape = Vec::new();
        for axis in axes {
            match axis {
                Axis::Rest(_) => shape.extend([2, 3]),
                Axis::Size(e) => match &e.kind {
                    ExprKind::Name(name) => shape.push(size(name)),
                    ExprKind::Int(n) => shape.push(*n),
                    other => panic!("{other:?} in {}", example.function.name.name),
                },
                Axis::Named(..) => panic!("a named axis in a parameter"),
            }
        }
        let text: Vec<String> = shape.iter().map(|n| n.to_string()).collect();
        let seed = p.name.name.len() as u64 + 40;
        let (head, value) = match &*ty.head.name {
            "class" | "token" | "int" => {
                let bound = 4;
                let head = match (&*ty.head.name, ty.angle.as_ref().map(|a| &a.kind)) {
                    ("int", _) | (_, None) => "int".to_string(),
                    (word, Some(ExprKind::Name(name))) if name.chars().all(char::is_uppercase) => format!("{word}<{}>", size(name)),
                    _ => "int".to_string(),
                };
                // As many steps as there are.
                let steps = Tensor::from_i64(&[size("B")], &vec![size("T"); size("B") as usize]);
                (head, if &*p.name.name == "steps" { steps } else { below(&shape, bound, seed) })
            }
            "probs" => ("probs".into(), normalised(&shape, seed)),
            "logprobs" => ("logprobs".into(), uniform(&shape, -3.0, -0.1, seed)),
            // Within the domain of every function: probabilities, variances, arguments of asin and log; acosh wants more than 1.
            word if word == "real" || word == "logits" => {
                let domain = if &*example.function.name.name == "acosh" { (1.1, 2.0) } else { (0.15, 0.9) };
                let signed = !matches!(
                    &*example.function.name.name,
                    "acosh"
                        | "bce"
                        | "binary_entropy"
                        | "lgamma"
                        | "digamma"
                        | "logit"
                        | "log2"
                        | "rsqrt"
                        | "gaussian_nll"
                        | "weighted_cross_entropy"
                        | "weighted_nll"
                );
                (word.to_string(), uniform(&shape, if signed { -0.9 } else { domain.0 }, domain.1, seed))
            }
            other => panic!("a parameter of type {other}"),
        };
        declared.push(format!("{}: {head}[{}]", p.name.name, text.join(", ")));
        let value = if value.dtype == DType::F64 && real == DType::F32 { single(&value) } else { value };
        values.insert(p.name.name.to_string(), value);
    }
    (declared.join(", "), values)
}

fn single(t: &Tensor) -> Tensor {
    Tensor::from_f32(&t.shape, &t.as_f64().iter().map(|x| *x as f32).collect::<Vec<_>>())
}

fn normalised(shape: &[i64], seed: u64) -> Tensor {
    let mut t = uniform(shape, 0.1, 1.0, seed);
    let n = *shape.last().unwrap() as usize;
    for row in t.as_f64_mut().chunks_mut(n) {
        let sum: f64 = row.iter().sum();
        row.iter_mut().for_each(|x| *x /= sum);
    }
    t
}

const VALUES: &[FunctionKind] = &[FunctionKind::Layer, FunctionKind::Fn, FunctionKind::Loss];

#[test]
fn examples_give_the_same_bits_interpreted_and_compiled() {
    law(examples(VALUES), |example| {
        for real in [DType::F32, DType::F64] {
            let (declared, values) = inputs(example, real);
            let text = format!("nn 1\nmodel M({declared}) {{\n    {}\n}}\n", example.code);
            let program = Runnable::new(&checked(&text, real), |_| {});
            let mut store = if real == DType::F64 { random_store(&program) } else { program.store() };
            if real == DType::F32 {
                program.run("init", &Dims::new(), &mut store, &Named::new());
            }
            let results = program.run("infer:M", &Dims::new(), &mut store, &values);
            let finite = results.values().all(|t| t.scalars().iter().all(|s| s.to_f64().is_finite()));
            assert!(finite, "{} is not finite", example.code);
        }
    });
}

#[test]
fn examples_derivatives_agree_with_differences() {
    law(examples(VALUES), |example| {
        let (declared, values) = inputs(example, DType::F64);
        let has_parameters = example.function.kind == FunctionKind::Layer;
        let discrete = &*example.function.name.name == "argmax";
        if !discrete && (has_parameters || values.values().any(|t| t.dtype == DType::F64)) {
            check_gradients(&format!("nn 1\nmodel M({declared}) {{\n    {}\n}}\n", example.code), &[], &values);
        }
    });
}

#[test]
fn examples_refuse_wrong_shapes() {
    for example in examples(VALUES) {
        let (declared, _) = inputs(&example, DType::F32);
        // A first input with five axes too many of sizes that nothing else has.
        let Some(at) = declared.find('[') else { continue };
        if example.function.params[0].ty.as_ref().is_some_and(|t| t.shape.as_ref().is_some_and(|s| s.iter().any(|a| matches!(a, Axis::Rest(_))))) {
            continue;
        }
        let wrong = format!("{}[11, 13, 17, 19, 23, {}", &declared[..at], &declared[at + 1..]);
        let text = format!("nn 1\nmodel M({wrong}) {{\n    {}\n}}\n", example.code);
        mistakes(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    }
}

#[test]
fn initialisers_optimizers_schedules_and_metrics_work_in_a_program() {
    let program = |init: &str, optimizer: &str, metric: &str| {
        format!(
            "nn 1\ndim B\nmodel M(x: real[B, 4]) -> logits[B, 8] {{\n    {init}\n    y[b, o] = sum[i](x[b, i] * weight[o, i])\n}}\n\
             data d {{\n    t = csv(\"d.csv\")\n    x = t.columns(\"x0\"..\"x3\")\n    label = t.column(\"label\"): class<8>\n}}\n\
             train fit {{\n    data = d\n    scores = M(x)\n    loss = cross_entropy(scores, label)\n    {metric}\n    optimizer = {optimizer}\n    batch = 2\n    epochs = 1\n}}\n"
        )
    };
    let plain = "param weight: real[8, 4] = normal(0.1)";
    for e in examples(&[FunctionKind::Init]) {
        let init = e.code.replace("bias: real[8]", "bias2: real[8]");
        let init = if init.contains("bias2") { format!("{plain}\n    {init}") } else { init };
        run_steps(&program(&init, "sgd(lr: 0.1)", ""));
    }
    for e in examples(&[FunctionKind::Optimizer]) {
        run_steps(&program(plain, &e.code, ""));
    }
    for e in examples(&[FunctionKind::Schedule]) {
        run_steps(&program(plain, &format!("sgd(lr: {})", e.code), ""));
    }
    for e in examples(&[FunctionKind::Metric]).iter().filter(|e| e.code.contains("scores")) {
        run_steps(&program(plain, "sgd(lr: 0.1)", &format!("metrics = [{}]", e.code)));
    }
}

/// Two training steps: the loss is finite and the parameters move.
fn run_steps(text: &str) {
    let program = Runnable::new(&checked(text, DType::F32), |_| {});
    let mut store = program.store();
    program.run("init", &Dims::new(), &mut store, &Named::new());
    if program.manifest.entries.iter().any(|e| &*e.name == "init:fit") {
        program.run("init:fit", &Dims::new(), &mut store, &Named::new());
    }
    let at = store.find("M.weight").unwrap();
    let before = store.bytes(at).to_vec();
    for step in 1..=2 {
        let mut inputs = Named::new();
        inputs.insert("x".into(), single(&uniform(&[2, 4], -1.0, 1.0, step)));
        inputs.insert("label".into(), below(&[2], 8, step));
        inputs.insert("step".into(), Tensor::from_i64(&[], &[step as i64]));
        for (name, value) in program.manifest.recipes[0].scalars.iter().map(|(n, v)| (n.to_string(), *v)).chain([
            ("epoch".to_string(), 1.0),
            ("steps".to_string(), 10.0),
            ("steps_per_epoch".to_string(), 10.0),
        ]) {
            inputs.insert(name, Tensor::from_f64(&[], &[value]));
        }
        let dims: Dims = [("B".into(), 2)].into();
        let got = program.run("train:fit", &dims, &mut store, &inputs);
        assert!((got["loss.sum"].get(0).to_f64() / got["loss.weight"].get(0).to_f64()).is_finite(), "{text}");
    }
    assert_ne!(store.bytes(at), before, "the parameters did not move:\n{text}");
}
