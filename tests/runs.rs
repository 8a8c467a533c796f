//! Runs on a disk: they go on where they stopped, and what they leave behind runs by itself.

use crate::support::desk::{Desk, NNC, POINTS, PROGRAM, models, runtime};
use std::path::Path;
use std::process::{Command, Output};

/// What the log says, without how long it took.
fn log(desk: &Desk, run: &str) -> Vec<serde_json::Value> {
    let text = String::from_utf8(desk.read(&format!("{run}/log.jsonl"))).unwrap();
    let lines = text.lines().map(|line| {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        line.as_object_mut().unwrap().remove("seconds");
        line
    });
    lines.filter(|line| line.get("epoch").is_some()).collect()
}

/// The rate falls every third epoch, the layer in the middle forgets at random, the optimizer has two states a weight.
#[test]
fn five_epochs_and_five_more_are_ten() {
    let desk = Desk::new();
    let body = "x |> linear(8, name: \"in\") |> relu |> dropout(0.3) |> linear(3, name: \"fc\")";
    let schedule = "adamw(lr: step_decay(0.1, every: 3, gamma: 0.5))";
    desk.write(
        "kinds.nn",
        PROGRAM.replace("linear(x, 3, name: \"fc\")", body).replace("sgd(lr: 0.1)", schedule).replace("batch     = 2", "batch     = 3"),
    );
    desk.done("run kinds.nn --quiet --log-steps --run-dir whole --set train.epochs=10");
    desk.done("run kinds.nn --quiet --log-steps --run-dir parts --set train.epochs=5");
    assert_eq!((log(&desk, "whole").len(), log(&desk, "parts").len()), (10, 5));
    assert_ne!(desk.read("whole/best.safetensors"), desk.read("parts/best.safetensors"));
    desk.done("run kinds.nn --quiet --log-steps --resume parts --set train.epochs=10");
    assert_eq!(log(&desk, "whole"), log(&desk, "parts"));
    for file in ["best.safetensors", "model.nnc"] {
        assert_eq!(desk.read(&format!("whole/{file}")), desk.read(&format!("parts/{file}")), "{file}");
    }
    // Neither the forgetting nor the falling rate is idle.
    desk.write("still.nn", String::from_utf8(desk.read("kinds.nn")).unwrap().replace("every: 3", "every: 30"));
    desk.done("run still.nn --quiet --run-dir still --set train.epochs=10");
    assert_ne!(desk.read("still/best.safetensors"), desk.read("whole/best.safetensors"));
}

/// A free dim that no column decides is given once: a run that goes on keeps it.
#[test]
fn sizes_given_to_a_run_stay_its_own() {
    let mut desk = Desk::new();
    let body = "k = positions(N)\n    c[b, i] = x[b, i] + mean[n](cos(k[n]))\n    linear(c, 3, name: \"fc\")";
    desk.write("kinds.nn", PROGRAM.replace("dim B", "dim B, N").replace("linear(x, 3, name: \"fc\")", body));
    desk.done("run kinds.nn --quiet --dim N=5 --run-dir whole");
    desk.done("run kinds.nn --quiet --dim N=5 --run-dir parts --set train.epochs=1");
    desk.done("run kinds.nn --quiet --resume parts --set train.epochs=2");
    assert_eq!(desk.read("whole/best.safetensors"), desk.read("parts/best.safetensors"));
    desk.done("run kinds.nn --quiet --dim N=6 --run-dir other");
    assert_ne!(desk.read("whole/best.safetensors"), desk.read("other/best.safetensors"));
    desk.done("run kinds.nn --quiet --resume parts --dim N=5");
    desk.fails(1, "run kinds.nn --dim N=6 --resume parts");
    desk.fails(1, "run kinds.nn --dim B=4 --resume parts");
    desk.fails(2, "run kinds.nn --resume parts --weights whole/best.safetensors");
    desk.fails(2, "run kinds.nn --resume parts --run-dir more");
    desk.fails(1, "run kinds.nn --run-dir none");
    assert!(!desk.path("none").exists());
    desk.snapshot("resume");
}

/// The data lies where the program is; an artifact finds it from wherever it was written, and also when both have moved.
#[test]
fn artifacts_find_their_data() {
    let desk = Desk::new();
    std::fs::create_dir_all(desk.path("net/data")).unwrap();
    std::fs::create_dir_all(desk.path("out/deep")).unwrap();
    desk.write("net/kinds.nn", PROGRAM.replace("points.csv", "data/points.csv"));
    desk.write("net/data/points.csv", POINTS);
    desk.done("run net/kinds.nn --quiet");
    let good = desk.done("run net/kinds.nn eval --weights run:fit");
    assert!(good.starts_with("train.loss "), "{good}");
    assert_eq!(desk.done("run runs/kinds/fit/1/model.nnc eval"), good);
    desk.done("build net/kinds.nn --quiet -o out/deep/kinds.nnc --weights runs/kinds/fit/1/best.safetensors");
    assert_eq!(desk.done("run out/deep/kinds.nnc eval"), good);
    let inside = Command::new(NNC).current_dir(desk.path("out/deep")).args(["run", "kinds.nnc", "eval"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&inside.stdout), good);
    // An artifact trains too, and what it leaves behind finds the data as well.
    desk.done("run out/deep/kinds.nnc train --quiet --run-dir out/run");
    assert_eq!(desk.done("run out/run/model.nnc eval"), good);
    // All of it in another place.
    std::fs::create_dir(desk.path("moved")).unwrap();
    for name in ["net", "runs"] {
        std::fs::rename(desk.path(name), desk.path(&format!("moved/{name}"))).unwrap();
    }
    assert_eq!(desk.done("run moved/runs/kinds/fit/1/model.nnc eval"), good);
    // Without them: where the program was. Data beside the artifact will do.
    let said = desk.run("run out/deep/kinds.nnc eval");
    assert_eq!(said.status.code(), Some(4));
    assert_eq!(String::from_utf8_lossy(&said.stderr), "error: cannot read out/deep/data/points.csv: No such file or directory\n");
    std::fs::rename(desk.path("moved/net/data"), desk.path("out/deep/data")).unwrap();
    assert_eq!(desk.done("run out/deep/kinds.nnc eval"), good);
}

/// What was moved alone looks beside itself, and never in a folder that has nothing to do with it.
#[test]
fn a_model_that_was_moved_names_no_odd_folder() {
    let mut desk = Desk::new();
    desk.done("run kinds.nn --quiet --run-dir run");
    std::fs::create_dir_all(desk.path("a/b")).unwrap();
    std::fs::copy(desk.path("run/model.nnc"), desk.path("a/b/model.nnc")).unwrap();
    std::fs::copy(desk.path("run/model.nnc"), desk.path("model.nnc")).unwrap();
    desk.fails_with("moved alone", 4, "run a/b/model.nnc eval");
    desk.done("run model.nnc eval");
    std::fs::remove_file(desk.path("points.csv")).unwrap();
    desk.fails_with("the program is where it was, but its data is not", 4, "run run/model.nnc eval");
    desk.snapshot("moved");
}

#[test]
fn the_last_run_is_meant_and_named() {
    let desk = Desk::new();
    desk.done("run kinds.nn --quiet");
    desk.done("run kinds.nn --quiet --seed 2");
    for args in ["run kinds.nn eval", "run kinds.nn infer --data train", "build kinds.nn", "run kinds.nn train"] {
        let said = desk.run(&format!("{args} --weights run:fit"));
        assert!(said.status.success(), "{said:?}");
        assert_eq!(String::from_utf8_lossy(&said.stderr), "weights of runs/kinds/fit/2\n", "{args}");
    }
    let eval = |run: &str| desk.done(&format!("run kinds.nn eval --weights {run}"));
    assert_eq!(eval("run:fit"), eval("runs/kinds/fit/3/best.safetensors"));
    assert_ne!(eval("run:fit"), eval("runs/kinds/fit/1/best.safetensors"));
    assert!(desk.run("run kinds.nn eval --quiet --weights run:fit").stderr.is_empty());
}

/// What is imported is as if it stood in the program: the same graph but for names, the same weights.
#[test]
fn an_imported_layer_is_as_good_as_ones_own() {
    let desk = Desk::new();
    let layer = "layer scaled(x: real[B, I]) -> real[B, I] {\n    param gain: real[I] = normal(1.0)\n    y[b, i] = x[b, i] * gain[i] * Half\n}\n";
    let program = PROGRAM.replace("linear(x, 3, name: \"fc\")", "x |> scaled(name: \"s\") |> linear(3, name: \"fc\")");
    desk.write("own.nn", format!("{program}\nconst Half = 1 / 2\n\n{layer}"));
    std::fs::create_dir_all(desk.path("layers/deeper")).unwrap();
    desk.write("imports.nn", program.replace("dim B", "import \"layers/scaled.nn\"\n\ndim B"));
    desk.write("layers/scaled.nn", format!("nn 1\n\nimport \"layers/deeper/half.nn\"\n\n{layer}"));
    desk.write("layers/deeper/half.nn", "nn 1\n\nconst Half = 1 / 2\n");
    desk.done("check imports.nn");
    desk.done("run own.nn --quiet --run-dir own");
    desk.done("run imports.nn --quiet --run-dir imported");
    assert_eq!(desk.read("own/best.safetensors"), desk.read("imported/best.safetensors"));
    // A link does not lead out of the folder.
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("half.nn"), "nn 1\n\nconst Half = 1 / 2\n").unwrap();
    std::os::unix::fs::symlink(outside.path(), desk.path("layers/away")).unwrap();
    desk.write("away.nn", "nn 1\n\nimport \"layers/away/half.nn\"\n");
    let said = String::from_utf8(desk.run("check away.nn").stderr).unwrap();
    assert!(said.contains("imports stay inside the program's folder"), "{said}");
    // A mistake in it is shown where it stands.
    desk.write("layers/deeper/half.nn", "nn 1\n\nconst Half = 1 / 0\n");
    let said = String::from_utf8(desk.run("check imports.nn").stderr).unwrap();
    assert!(said.contains("--> layers/deeper/half.nn:3:"), "{said}");
}

/// Where no more than half a kilobyte may be written: an error, the old file as it was, and no half one.
#[test]
fn a_full_disk_leaves_no_half_file() {
    let desk = Desk::new();
    let ugly = format!("{}// end{}\n", PROGRAM.replace("    ", " "), ".".repeat(600));
    desk.write("ugly.nn", &ugly);
    desk.write("old.nnc", "what was there");
    desk.done("run kinds.nn --quiet --run-dir run");
    let before = desk.names();
    let x = nnc_runtime::tensor::Tensor::from_scalars(nnc::ir::DType::F32, &[400, 2], &[nnc::ir::Scalar::float(nnc::ir::DType::F32, 0.5); 800]);
    let inputs = tempfile::tempdir().unwrap();
    let x_file = inputs.path().join("x.npy");
    std::fs::write(&x_file, nnc_runtime::npy::to_npy(&x)).unwrap();
    for args in [
        "build kinds.nn -o new.nnc".to_string(),
        "build kinds.nn -o old.nnc".to_string(),
        "fmt ugly.nn".to_string(),
        format!("run run/model.nnc infer --input x={}", x_file.display()),
    ] {
        let output = Command::new("sh")
            .current_dir(desk.folder.path())
            .args(["-c", &format!("trap '' XFSZ; ulimit -f 1; exec {NNC} {args}")])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{args}: {said}");
        assert!(said.starts_with("error: cannot write ") && said.ends_with(": File too large\n"), "{args}: {said}");
        assert_eq!(desk.names(), before, "{args}");
    }
    assert_eq!(String::from_utf8(desk.read("ugly.nn")).unwrap(), ugly);
    assert_eq!(desk.read("old.nnc"), b"what was there");
}

/// The runtime alone does what `nnc run` does, to the bit, and ends the same way when something is wrong.
#[test]
fn an_artifact_needs_no_compiler() {
    let desk = Desk::new();
    let program = runtime("nnc-runtime", "nnc-run");
    let run = |args: &str| -> Output { Command::new(&program).current_dir(desk.folder.path()).args(args.split_whitespace()).output().unwrap() };
    let done = |args: &str| {
        let output = run(args);
        assert!(output.status.success(), "nnc-run {args}\n{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    desk.done("build kinds.nn --quiet");
    done("kinds.nnc train --quiet --run-dir small --set train.epochs=3");
    desk.done("run kinds.nn train --quiet --run-dir large --set train.epochs=3");
    assert_eq!(desk.read("small/best.safetensors"), desk.read("large/best.safetensors"));
    let evaluated = done("small/model.nnc eval");
    assert!(evaluated.starts_with("train.loss "), "{evaluated}");
    assert_eq!(evaluated, desk.done("run large/model.nnc eval"));
    done("small/model.nnc infer --data train --output small");
    desk.done("run large/model.nnc infer --data train --output large");
    assert_eq!(desk.read("small/output.npy"), desk.read("large/output.npy"));
    let linked = Command::new("ldd").arg(&program).output().map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    assert!(!linked.contains("LLVM"), "{linked}");
    assert!(done("--help").contains("train[:NAME]") && done("--version").starts_with("nnc-run "));
    for (code, args, says) in [
        (2, "", "which artifact?"),
        (4, "absent.nnc", "cannot read absent.nnc: No such file or directory"),
        (1, "kinds.nn", "kinds.nn is not an artifact of nnc"),
        (2, "kinds.nnc eval", "the program has no trained weights"),
        (2, "kinds.nnc learn", "learn is none of train, eval, infer\n"),
        (2, "kinds.nnc evl", "evl is none of train, eval, infer: did you mean eval?"),
    ] {
        let output = run(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args}: {said}");
        assert!(said.starts_with("error: ") && said.contains(says), "{args}: {said}");
    }
}

/// The shipped model, as the README runs it.
#[test]
fn a_trained_digits_model_evaluates_from_its_run() {
    let desk = Desk::new();
    let program = models().join("digits.nn");
    desk.done(&format!("run {} --quiet --set train.epochs=1", program.display()));
    let from_source = desk.done(&format!("run {} eval --weights run:fit --set train.epochs=1", program.display()));
    assert_eq!(desk.done("run runs/digits/fit/1/model.nnc eval"), from_source);
    assert!(Path::new(&desk.path("runs/digits/fit/1/model.nnc")).exists());
}
