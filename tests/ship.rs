//! What is shipped of a trained model does what `nnc run` does, to the bit, and says what is wrong: executables, C, Rust.

use crate::support::desk::{Desk, models, runtime};
use nnc_runtime::artifact::Artifact;
use nnc_runtime::model::{Metrics, Model};
use nnc_runtime::tensor::Tensor;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

/// Words to a program on the desk. Where this process has just written it, a child that another test starts may hold it open for a moment.
fn run(desk: &Desk, program: &str, args: &str) -> Output {
    let mut command = Command::new(desk.path(program));
    command.current_dir(desk.folder.path()).args(args.split_whitespace());
    for _ in 0..100 {
        match command.output() {
            Err(e) if e.kind() == ErrorKind::ExecutableFileBusy => std::thread::sleep(Duration::from_millis(20)),
            output => return output.unwrap(),
        }
    }
    panic!("{program} stays busy");
}

/// What must work.
fn done(desk: &Desk, program: &str, args: &str) -> String {
    let output = run(desk, program, args);
    assert!(output.status.success(), "{program} {args}\n{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What must fail: the code and a part of the sentence.
fn fails(output: Output, code: i32, says: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(said.starts_with("error: ") && said.contains(says), "{said}");
}

/// The folder that `nnc-run` is built into, which is where nnc looks for it.
fn runner() -> String {
    runtime("nnc-runtime", "nnc-run").parent().unwrap().display().to_string()
}

#[test]
fn an_executable_is_the_program_and_the_runtime() {
    let desk = Desk::new();
    let runner = runner();
    desk.done("run kinds.nn --quiet");
    desk.done(&format!("build kinds.nn --exe --weights run:fit --quiet --runtime {runner}"));
    let evaluated = done(&desk, "kinds", "eval");
    assert_eq!(evaluated, desk.done("run kinds.nn eval --weights run:fit"));
    done(&desk, "kinds", "infer --data train --output small");
    desk.done("run kinds.nn infer --data train --weights run:fit --output large");
    assert_eq!(desk.read("small/output.npy"), desk.read("large/output.npy"));
    done(&desk, "kinds", "train --quiet --run-dir again");
    assert_eq!(desk.read("again/best.safetensors"), desk.read("runs/kinds/fit/1/best.safetensors"));
    let help = done(&desk, "kinds", "--help");
    assert!(help.contains("infer:Kinds") && help.contains("x: f32[B, 2] -> output: f32[B, 3]") && help.contains("train:fit"), "{help}");
    assert!(done(&desk, "kinds", "-V").starts_with("kinds: kinds.nn, compiled by nnc "));
    fails(run(&desk, "kinds", ""), 2, "what to run?");
    fails(run(&desk, "kinds", "learn"), 2, "learn is none of train, eval, infer");
    // What training leaves is shipped as it is; what stands in the place of the new file is replaced.
    desk.done(&format!("build runs/kinds/fit/1/model.nnc --exe -o kinds --quiet --runtime {runner}"));
    assert_eq!(done(&desk, "kinds", "eval"), evaluated);
    // It needs nothing but itself, wherever it lies.
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::copy(desk.path("kinds"), elsewhere.path().join("other")).unwrap();
    std::fs::copy(desk.path("points.csv"), elsewhere.path().join("points.csv")).unwrap();
    let other = Command::new(elsewhere.path().join("other")).arg("eval").current_dir("/").env_clear().output().unwrap();
    assert_eq!(String::from_utf8_lossy(&other.stdout), evaluated);
}

#[test]
fn an_executable_that_is_not_whole_says_so() {
    let desk = Desk::new();
    let runner = runner();
    desk.done(&format!("build kinds.nn --exe --quiet --runtime {runner}"));
    fails(run(&desk, "kinds", "eval"), 2, "no trained weights");
    let (whole, bare) = (desk.read("kinds"), std::fs::metadata(Path::new(&runner).join("nnc-run")).unwrap().len() as usize);
    let ship = |bytes: &[u8]| {
        // Not written over what may still be starting.
        std::fs::remove_file(desk.path("kinds")).unwrap();
        nnc_runtime::files::write_executable(&desk.path("kinds"), bytes).unwrap();
        run(&desk, "kinds", "eval")
    };
    for left in [whole.len() - 1, bare + 100, bare, bare - 100] {
        fails(ship(&whole[..left]), 1, "is cut short: of the program that it carries");
    }
    let mut damaged = whole.clone();
    *damaged.last_mut().unwrap() ^= 1;
    fails(ship(&damaged), 1, "is damaged: its checksum does not fit");
}

#[test]
fn executables_are_made_of_what_fits_or_not_at_all() {
    let desk = Desk::new();
    std::fs::create_dir(desk.path("empty")).unwrap();
    let before = desk.names();
    fails(
        desk.run("build kinds.nn --exe --runtime empty"),
        4,
        "there is no nnc-run in empty: in nnc's source, `cargo build --release --package nnc-runtime`",
    );
    fails(desk.run("build kinds.nn --exe -o kinds.nn"), 2, "kinds.nn would be overwritten");
    fails(desk.run("build kinds.nn --exe --weights run:fit"), 4, "there is no run of fit");
    assert_eq!(desk.names(), before);
    desk.write("empty/nnc-run", "#!/bin/sh\n");
    fails(desk.run("build kinds.nn --exe --runtime empty"), 1, "empty/nnc-run is not nnc-run");
    std::fs::copy(Path::new(&runner()).join("nnc-run"), desk.path("empty/nnc-run")).unwrap();
    desk.done("build kinds.nn --exe --runtime empty --quiet");
    std::fs::rename(desk.path("kinds"), desk.path("empty/nnc-run")).unwrap();
    fails(desk.run("build kinds.nn --exe --runtime empty"), 1, "carries a program already");
    assert_eq!(desk.names(), before);
    desk.done("build kinds.nn --quiet");
    fails(desk.run("build kinds.nnc"), 2, "kinds.nnc would be overwritten");
    fails(desk.run("build kinds.nnc -o other.nnc --set train.epochs=3"), 2, "kinds.nnc is compiled already");
    fails(desk.run("build kinds.nnc --exe --emit exe"), 2, "cannot be used with");
    assert!(!desk.path("other.nnc").exists());
}

/// The README's own path, on the shipped model.
#[test]
fn a_trained_digits_model_is_shipped() {
    let desk = Desk::new();
    let program = models().join("digits.nn").display().to_string();
    desk.done(&format!("run {program} --quiet --set train.epochs=1"));
    desk.done(&format!("build runs/digits/fit/1/model.nnc --exe -o digits --quiet --runtime {}", runner()));
    let metrics = done(&desk, "digits", "eval --quiet --json");
    assert_eq!(metrics, desk.done(&format!("run {program} eval --quiet --json --weights run:fit")));
}

/// The numbers of `PROGRAM`'s data.
fn points() -> (Tensor, Tensor) {
    (Tensor::from_f32(&[4, 2], &[0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.5, 0.0]), Tensor::from_i64(&[4], &[0, 1, 2, 1]))
}

#[test]
fn c_programs_train_and_infer_to_the_same_bits() {
    let desk = Desk::new();
    let libraries = runtime("nnc-c", "libnnc_c.a").parent().unwrap().display().to_string();
    desk.done("run kinds.nn --quiet --run-dir run");
    desk.done(&format!("build run/model.nnc --emit c -o out --quiet --runtime {libraries}"));
    let compile = |compiler: &str, args: &str| {
        let output = Command::new(compiler).current_dir(desk.path("out")).args(args.split_whitespace()).output();
        let output = output.unwrap_or_else(|e| panic!("{compiler}, with which cargo links, cannot be started: {e}"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{compiler} {args}\n{said}");
    };
    let strict = "-std=c11 -Wall -Wextra -Werror -pedantic";
    compile("cc", &format!("{strict} kinds_example.c kinds.o libnnc.a -lm -lpthread -ldl -o fixed"));
    compile("cc", &format!("{strict} kinds_example.c kinds.o -L. -lnnc -Wl,-rpath,$ORIGIN -o shared"));
    let said = done(&desk, "out/fixed", "");
    assert_eq!(said, done(&desk, "out/shared", ""));
    desk.write("x.npy", nnc_runtime::npy::to_npy(&Tensor::from_f32(&[1, 2], &[0.0, 0.1])));
    desk.done("run run/model.nnc infer --input x=x.npy --quiet");
    let wanted = nnc_runtime::npy::read_npy(&desk.path("output.npy")).unwrap();
    let (name, numbers) = said.split_once('\n').unwrap();
    let numbers: Vec<u32> = numbers.lines().map(|l| l.parse::<f32>().unwrap().to_bits()).collect();
    assert_eq!((name, numbers), ("output", wanted.as_f32().iter().map(|x| x.to_bits()).collect()));
    // What can be done wrong, and training; from an artifact without weights.
    desk.done("build kinds.nn --quiet");
    desk.done(&format!("build kinds.nn --emit c -o out --quiet --runtime {libraries}"));
    let border = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ship/border.c");
    compile("cc", &format!("{strict} -I. {} kinds.o libnnc.a -lm -lpthread -ldl -o border", border.display()));
    assert_eq!(done(&desk, "out/border", "kinds.nnc kinds.nn weights.safetensors saved.nnc"), "all is well\n");
    assert_eq!(desk.read("weights.safetensors"), desk.read("run/best.safetensors"));
    assert!(desk.done("run saved.nnc eval").starts_with("train.loss "));
    let example = String::from_utf8(desk.read("out/kinds_example.c")).unwrap();
    assert!(example.contains("nnc_initialise"), "{example}");
}

/// Names and sizes that C reads otherwise.
#[test]
fn headers_are_c_and_cpp_whatever_the_names() {
    let desk = Desk::new();
    let libraries = runtime("nnc-c", "libnnc_c.a").parent().unwrap().display().to_string();
    let odd = "nn 1\n\ndim long, B\n\nmodel Odd(switch: f32[long, 2 * B + 1], model: int[B]) -> real[long] {\n    \
               y[i] = sum[j](switch[i, j])\n    n = sum[b](real(model[b]))\n    y + n\n}\n";
    desk.write("1-odd.nn", odd);
    let xor = models().join("xor.nn").display().to_string();
    for (program, name) in [("1-odd.nn", "m1_odd"), (&xor, "xor")] {
        desk.done(&format!("build {program} --emit c -o {name} --quiet --runtime {libraries}"));
        let example = format!("{name}_example.c");
        for compiler in ["gcc -std=c99 -pedantic", "g++ -x c++"] {
            let (compiler, language) = compiler.split_once(' ').unwrap();
            let mut command = Command::new(compiler);
            command.args(language.split(' ')).args(["-Wall", "-Wextra", "-Werror", "-fsyntax-only", &example]);
            let output = command.current_dir(desk.path(name)).output().unwrap_or_else(|e| panic!("{compiler} cannot be started: {e}"));
            assert!(output.status.success(), "{compiler} {example}\n{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// Epochs over arrays are the training loop's, to the bit; single steps over its batches, too.
#[test]
fn a_model_in_rust_trains_as_the_command_does() {
    let desk = Desk::new();
    let body = "x |> linear(8, name: \"in\") |> relu |> dropout(0.3) |> linear(3, name: \"fc\")";
    let schedule = "adamw(lr: step_decay(0.1, every: 3, gamma: 0.5))";
    let program = String::from_utf8(desk.read("kinds.nn")).unwrap();
    let program = program.replace("linear(x, 3, name: \"fc\")", body).replace("sgd(lr: 0.1)", schedule).replace("batch     = 2", "batch     = 3");
    desk.write("kinds.nn", program.replace("epochs    = 2", "epochs    = 7"));
    desk.done("run kinds.nn --quiet --run-dir run");
    desk.done("build kinds.nn --quiet");
    let (x, kind) = points();
    let columns = [("x", &x), ("kind", &kind)];
    let mut model = Model::open(desk.path("kinds.nnc")).unwrap();
    assert_eq!(model.infer(None, &[("x", &x)]).unwrap_err().exit_code(), 2, "there are no weights yet");
    let metrics: Vec<Metrics> = (0..7).map(|_| model.train_epoch(None, &columns).unwrap()).collect();
    assert!(metrics[6][0].1 < metrics[0][0].1 && &*metrics[0][0].0 == "loss");
    model.save_weights(desk.path("own.safetensors")).unwrap();
    assert_eq!(desk.read("own.safetensors"), desk.read("run/best.safetensors"));
    model.save(desk.path("own.nnc")).unwrap();
    let shipped = |name: &str| Artifact::read(&desk.path(name)).unwrap().at(Path::new("x"), Path::new(""));
    assert!(shipped("own.nnc") == shipped("run/model.nnc"), "what it saves is what training leaves");
    // Its metrics and results are the command's.
    let said = desk.done("run run/model.nnc eval --data all --json");
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let own = model.eval(None, &columns).unwrap();
    assert_eq!(said["all"]["loss"].as_f64(), Some(own[0].1));
    assert_eq!(model.eval_part(Some("fit"), "all").unwrap(), own);
    desk.done("run run/model.nnc infer --data all --quiet");
    let wanted = nnc_runtime::npy::read_npy(&desk.path("output.npy")).unwrap();
    for threads in [1, 3] {
        model.set_threads(threads).unwrap();
        for _ in 0..6 {
            let results = model.infer(Some("Kinds"), &[("x", &x)]).unwrap();
            assert!(results[0].0 == "output" && results[0].1.same(&wanted));
        }
    }
    // Steps over given batches.
    let order = [[0i64, 2, 3], [1, 3, 0], [2, 1, 0]];
    desk.write("order.npy", nnc_runtime::npy::to_npy(&Tensor::from_i64(&[3, 3], order.as_flattened())));
    desk.write("steps.nn", String::from_utf8(desk.read("kinds.nn")).unwrap().replace("step_decay(0.1, every: 3, gamma: 0.5)", "0.1"));
    desk.done("run steps.nn --quiet --run-dir steps --batches order.npy");
    desk.done("build steps.nn --quiet");
    let mut stepped = Model::open(desk.path("steps.nnc")).unwrap();
    for rows in order {
        let row = |i: &i64| &x.as_f32()[*i as usize * 2..][..2];
        let batch = Tensor::from_f32(&[3, 2], &rows.iter().flat_map(row).copied().collect::<Vec<f32>>());
        let labels = Tensor::from_i64(&[3], &rows.map(|i| kind.as_i64()[i as usize]));
        stepped.train_step(None, &[("x", &batch), ("kind", &labels)]).unwrap();
    }
    let given = desk.weights("steps");
    let paths: Vec<String> = stepped.tensors().map(|(path, ..)| path.to_string()).collect();
    for path in &paths {
        assert_eq!(stepped.tensor(path).unwrap().bytes(), given.bytes(given.find(path).unwrap()), "{path}");
    }
}

/// What does not fit is an error, and the model goes on.
#[test]
fn a_model_in_rust_refuses_what_does_not_fit() {
    let desk = Desk::new();
    desk.done("run kinds.nn --quiet --run-dir run");
    let mut model = Model::open(desk.path("run/model.nnc")).unwrap();
    let (x, kind) = points();
    let good = model.infer(None, &[("x", &x)]).unwrap();
    let names: Vec<String> = model.models().iter().chain(&model.recipes()).map(|s| s.to_string()).collect();
    assert_eq!(names, ["Kinds(x: f32[B, 2]) -> output: f32[B, 3]", "fit(x: f32[B, 2], kind: i64[B]) -> loss: f64"]);
    let (two, short) = (Tensor::from_f32(&[4, 2, 1], &[0.0; 8]), Tensor::from_i64(&[3], &[0, 1, 2]));
    let (bools, single) = (Tensor::from_bool(&[4, 2], &[false; 8]), Tensor::from_i64(&[], &[0]));
    for (inputs, says) in [
        (vec![], "needs the input x"),
        (vec![("x", &x), ("x", &x)], "given twice"),
        (vec![("x", &x), ("y", &x)], "has no input y"),
        (vec![("x", &two)], "x has the shape [4, 2, 1]"),
        (vec![("x", &bools)], "x is bool, but the program wants f32"),
    ] {
        let error = model.infer(None, &inputs).unwrap_err();
        assert!(error.message().contains(says), "{error}");
    }
    for (columns, says) in [
        (vec![("x", &x)], "the column kind is not given"),
        (vec![("x", &x), ("kind", &kind), ("kind", &kind)], "given twice"),
        (vec![("x", &x), ("kind", &kind), ("knd", &kind)], "no column knd; it has x, kind: did you mean kind?"),
        (vec![("x", &two), ("kind", &kind)], "samples of shape [2, 1], but the program wants [2]"),
        (vec![("x", &x), ("kind", &short)], "kind has 3 samples, but x has 4"),
        (vec![("x", &x), ("kind", &single)], "its first axis must be the samples"),
        (vec![("x", &x), ("kind", &x)], "kind has samples of shape [2], but the program wants []"),
    ] {
        for error in [model.train_step(None, &columns).unwrap_err(), model.eval(None, &columns).unwrap_err()] {
            assert!(error.message().contains(says), "{error}");
        }
    }
    assert!(model.tensor("Kinds.fc.wight").unwrap_err().message().contains("did you mean Kinds.fc.weight?"));
    assert!(model.load_weights(desk.path("points.csv")).is_err() && model.set(None, "batch", "many").is_err());
    assert_eq!(model.infer(None, &[("x", &x)]).unwrap(), good);
    // A schedule that counts epochs cannot be followed by steps alone.
    let program = String::from_utf8(desk.read("kinds.nn")).unwrap();
    desk.write("wave.nn", program.replace("sgd(lr: 0.1)", "sgd(lr: cosine(0.1))"));
    desk.done("build wave.nn --quiet");
    let mut wave = Model::open(desk.path("wave.nnc")).unwrap();
    let columns = [("x", &x), ("kind", &kind)];
    let error = wave.train_step(None, &columns).unwrap_err();
    assert!(error.message().contains("wants steps, which a step alone does not tell: set \"steps\""), "{error}");
    wave.set(None, "steps", "10").unwrap();
    wave.train_step(None, &columns).unwrap();
    desk.write("falls.nn", program.replace("sgd(lr: 0.1)", "sgd(lr: step_decay(0.1, every: 3, gamma: 0.5))"));
    desk.done("build falls.nn --quiet");
    let mut falls = Model::open(desk.path("falls.nnc")).unwrap();
    let error = falls.train_step(None, &columns).unwrap_err();
    assert!(error.message().ends_with("wants epoch, which a step alone does not tell: train by epochs"), "{error}");
    falls.train_epoch(None, &columns).unwrap();
}

/// The example of the runtime's documentation.
#[path = "../runtime/examples/model.rs"]
mod example;

#[test]
fn the_example_of_the_documentation_learns() {
    let desk = Desk::new();
    desk.done(&format!("build {} -o xor.nnc --quiet", models().join("xor.nn").display()));
    let scores = example::scores(desk.path("xor.nnc").to_str().unwrap()).unwrap();
    assert_eq!(scores.iter().map(|s| *s > 0.0).collect::<Vec<_>>(), [false, true, true, false], "{scores:?}");
}
