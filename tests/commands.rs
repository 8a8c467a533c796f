//! Commands around a model: a new project, snapshots, sweeps, derivatives checked, files looked into. Each on a desk of its own.

use crate::support::desk::{Desk, NNC, PROGRAM};
use serde_json::Value;
use std::process::{Command, Output};

/// Standard output.
fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

/// JSON lines.
fn objects(output: &Output) -> Vec<Value> {
    said(output).lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e} in {l}"))).collect()
}

#[test]
fn a_new_project_runs_at_once() {
    let desk = Desk::new();
    for template in ["table", "images", "text"] {
        desk.done(&format!("new {template} --template {template} --quiet"));
        desk.done(&format!("check {template}/{template}.nn --quiet"));
        assert_eq!(code(&desk.run(&format!("snap --ci {template}/{template}.nn"))), 0, "a new project's snapshots fit");
        desk.done(&format!("fmt --check {template}/{template}.nn"));
    }
    desk.done("run table/table.nn --quiet --run-dir run");
    let shown = said(&desk.run("run table/table.nn eval --weights run/best.safetensors --json"));
    let accuracy = serde_json::from_str::<Value>(&shown).unwrap()["test"]["accuracy"].as_f64().unwrap();
    assert!(accuracy > 0.8, "it learns: {shown}");
    let before = desk.read("table/table.nn");
    assert_eq!(code(&desk.run("new table")), 4, "what is there is not overwritten");
    assert_eq!(desk.read("table/table.nn"), before);
    // The largest file that the process may write stands for the disk's last free blocks.
    let full = format!("trap '' XFSZ; ulimit -f 2; exec {NNC} new digits --template images");
    let output = Command::new("sh").current_dir(desk.folder.path()).args(["-c", &full]).output().unwrap();
    assert_eq!((code(&output), output.stderr.is_empty()), (4, false));
    assert!(desk.names().iter().all(|n| !n.contains("digits")), "a project is whole or not there: {:?}", desk.names());
    for name in ["9lives", "a.b", "..", "a/..", "über"] {
        assert_eq!(code(&desk.run(&format!("new {name}"))), 2, "{name}");
    }
}

#[test]
fn snapshots_tell_what_changed_and_change_only_when_told() {
    let desk = Desk::new();
    assert_eq!(said(&desk.run("snap kinds.nn")), "kinds.nn: 5 new\n");
    assert_eq!(said(&desk.run("snap kinds.nn")), "kinds.nn: 5 as before\n");
    let snapshot = desk.read("snapshots/kinds.interface.snap");
    desk.write("kinds.nn", PROGRAM.replace("name: \"fc\"", "name: \"out\""));
    let drift = desk.run("snap kinds.nn --part interface");
    assert_eq!(code(&drift), 1);
    let text = said(&drift);
    assert!(text.contains("-    Kinds.fc.bias") && text.contains("+    Kinds.out.bias"), "{text}");
    let ci = desk.command("snap kinds.nn --part interface,kernels --json").env("CI", "true").output().unwrap();
    let outcomes: Vec<String> = objects(&ci).iter().map(|o| o["outcome"].as_str().unwrap().to_string()).collect();
    assert_eq!((code(&ci), outcomes), (1, vec!["different".into(), "different".into()]));
    assert!(!desk.path("snapshots/kinds.kernels.snap").exists(), "CI writes nothing");
    assert_eq!(desk.read("snapshots/kinds.interface.snap"), snapshot);
    assert_eq!(code(&desk.run("snap kinds.nn --review")), 2, "there is nobody to ask");
    assert!(said(&desk.run("snap kinds.nn --accept")).ends_with("accepted\n"));
    assert_eq!(code(&desk.run("snap kinds.nn --ci")), 0);
    // An upgrade is seen where it changes something, and named.
    let old = String::from_utf8(desk.read("snapshots/kinds.plan.snap")).unwrap();
    let other = old.replacen(&format!("# nnc {}", env!("CARGO_PKG_VERSION")), "# nnc 0.0.1", 1);
    desk.write("snapshots/kinds.plan.snap", &other);
    assert_eq!(code(&desk.run("snap kinds.nn --ci")), 0, "who wrote it is no difference");
    desk.write("snapshots/kinds.plan.snap", other.replace("launches", "starts"));
    let upgraded = said(&desk.run("snap kinds.nn --ci"));
    assert!(upgraded.contains("the snapshot is from nnc 0.0.1, this is "), "{upgraded}");
    desk.write("snapshots/kinds.plan.snap", "something else");
    assert_eq!(code(&desk.run("snap kinds.nn --accept")), 1, "a file that is no snapshot is not overwritten");
}

#[test]
fn a_sweep_compares_runs_and_finds_what_is_wrong_first() {
    let desk = Desk::new();
    let program = PROGRAM.replace("metrics", "").replace("    kind  =", "    valid = split(25%, seed: 1)\n    kind  =");
    desk.write("kinds.nn", program.replace("epochs    = 2", "epochs    = 20"));
    let output = desk.run("sweep kinds.nn --over optimizer.lr=0.0,0.5 --over seed=1..=3 --by valid.loss --json");
    let runs = objects(&output);
    assert_eq!((code(&output), runs.len()), (0, 6));
    let loss = |n: usize| runs[n]["metrics"]["valid.loss"].as_f64().unwrap();
    assert_eq!(runs[4]["settings"], serde_json::json!({ "optimizer.lr": "0.5", "seed": "2" }));
    assert_ne!(loss(0), loss(1), "another seed is another run");
    let best = (0..6).min_by(|a, b| loss(*a).total_cmp(&loss(*b))).unwrap();
    let table = said(&desk.run("sweep kinds.nn --over optimizer.lr=0.0,0.5 --over seed=1..=3 --by valid.loss"));
    let settings = format!("with optimizer.lr={} seed={}\n", ["0.0", "0.5"][best / 3], best % 3 + 1);
    assert!(table.contains(&format!("best valid.loss: {:.4} {settings}", loss(best))), "{table}");
    let mean = (loss(3) + loss(4) + loss(5)) / 3.0;
    assert!(table.contains(&format!("0.5           {mean:.4} ± ")), "{table}");
    assert_eq!(std::fs::read_dir(desk.path("runs/kinds/fit")).unwrap().count(), 12, "each run has its folder");
    // What is wrong is found before anything has run.
    for wrong in ["--over batch=2,many", "--over const.H=1,2", "--over optimizer.lr=0.1,x"] {
        assert_eq!(code(&desk.run(&format!("sweep kinds.nn {wrong}"))), 1, "{wrong}");
    }
    desk.done("build kinds.nn --quiet");
    assert_eq!(code(&desk.run("sweep kinds.nnc --over batch=2,many")), 2);
    for wrong in ["", "--over batch", "--over batch=2,,3", "--over batch=2 --over batch=3", "--over batch=2 --run-dir x", "infer --over batch=2"] {
        assert_eq!(code(&desk.run(&format!("sweep kinds.nn {wrong}"))), 2, "{wrong}");
    }
    assert_eq!(std::fs::read_dir(desk.path("runs/kinds/fit")).unwrap().count(), 12);
    assert_eq!(code(&desk.run("sweep kinds.nnc --over optimizer.lr=0.1 --quiet")), 0, "an artifact can be swept too");
}

#[test]
fn derivatives_that_are_wrong_are_found() {
    let desk = Desk::new();
    assert_eq!(code(&desk.run("gradcheck kinds.nn")), 0);
    let double = "fn double(x: real[B, C]) -> real[B, C] {\n    y[b, c] = 2 * x[b, c]\n    gradient(dy) {\n        dx[b, c] = 3 * dy[b, c]\n        (x: dx)\n    }\n    y\n}\n";
    let wrong = format!("{}\n{double}", PROGRAM.replace("linear(x, 3, name: \"fc\")", "double(linear(x, 3, name: \"fc\"))"));
    desk.write("wrong.nn", &wrong);
    let output = desk.run("gradcheck wrong.nn infer:Kinds --json");
    let rows = objects(&output);
    assert_eq!((code(&output), rows.len()), (1, 3));
    for row in &rows {
        let ratio = row["wrong"]["derivative"].as_f64().unwrap() / row["wrong"]["differences"].as_f64().unwrap();
        assert!((ratio - 1.5).abs() < 1e-6, "{row}");
    }
    assert!(said(&desk.run("gradcheck wrong.nn")).contains("WRONG: element 0"));
    desk.write("right.nn", wrong.replace("3 * dy", "2 * dy"));
    assert_eq!(code(&desk.run("gradcheck right.nn --samples 0")), 0);
    // Where a function has no derivative, nothing is wrong.
    desk.write("kink.nn", "nn 1\nmodel M(x: f32[3]) -> real[3] {\n    param w: real[3] = 0\n    relu(w) + x\n}\n");
    let kinks = desk.run("gradcheck kink.nn --json");
    assert_eq!((code(&kinks), objects(&kinks).iter().find(|r| r["tensor"] == "M.w").unwrap()["kinks"].as_u64()), (0, Some(3)), "{}", said(&kinks));
    assert_eq!(code(&desk.run("gradcheck kinds.nn infer:Other")), 1);
}

#[test]
fn what_recipes_do_is_no_command_and_says_so() {
    let output = Desk::new().run("train kinds.nn");
    assert_eq!(code(&output), 2);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "error: there is no command `train`: it is `nnc run FILE train`\n");
}

#[test]
fn files_are_looked_into() {
    let desk = Desk::new();
    desk.done("run kinds.nn --quiet --run-dir run");
    desk.done("build kinds.nn --quiet");
    let of = |file: &str| objects(&desk.run(&format!("inspect {file} --json"))).remove(0);
    let (program, bare, shipped, run, best) = (of("kinds.nn"), of("kinds.nnc"), of("run/model.nnc"), of("run"), of("run/best.safetensors"));
    let names = |v: &Value| v["tensors"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap().to_string()).collect::<Vec<_>>();
    assert_eq!(names(&program), ["Kinds.fc.bias", "Kinds.fc.weight"]);
    assert_eq!((names(&bare), names(&shipped), names(&best)), (names(&program), names(&program), names(&program)));
    assert_eq!(program["facts"]["entries"]["infer:Kinds"], "x: f32[B, 2] -> output: f32[B, 3]");
    assert!(bare["tensors"][0]["values"].is_null() && shipped["tensors"][0]["values"]["max"].is_f64());
    assert_eq!((run["facts"]["recipe"].as_str(), run["facts"]["epochs_done"].as_u64()), (Some("fit"), Some(2)));
    desk.done("run kinds.nn infer --data train --weights run/best.safetensors --quiet");
    assert_eq!(of("output.npy")["tensors"][0]["shape"], serde_json::json!([4, 3]));
    let table = of("points.csv");
    assert_eq!((table["facts"]["rows"].as_u64(), names(&table)), (Some(4), ["a", "b", "kind"].map(String::from).into()));
    assert_eq!((&table["tensors"][0]["dtype"], table["tensors"][2]["values"]["max"].as_f64()), (&serde_json::json!("numbers"), Some(2.0)));
    // A folder with runs below: each with what its log says last.
    desk.done("run kinds.nn --quiet --set epochs=3");
    let runs = of(".");
    assert_eq!(names(&runs), ["run", "runs/kinds/fit/1"]);
    assert!(runs["tensors"][1]["dtype"] == "epoch 3" && runs["tensors"][1]["note"].as_str().unwrap().starts_with("train.loss "), "{runs}");
    std::fs::create_dir(desk.path("empty")).unwrap();
    let whole = desk.read("kinds.nnc");
    desk.write("half.nnc", &whole[..whole.len() / 2]);
    desk.write("foreign.bin", "neither this nor that");
    for (file, expected) in [("half.nnc", 1), ("foreign.bin", 1), ("absent.npy", 4), ("empty", 1)] {
        let output = desk.run(&format!("inspect {file}"));
        assert_eq!(code(&output), expected, "{file}");
        assert!(!output.stderr.is_empty());
    }
    // One that cannot be read keeps none of the others back.
    let several = desk.run("inspect foreign.bin points.csv absent.npy kinds.nn");
    let (shown, refused) = (String::from_utf8_lossy(&several.stdout), String::from_utf8_lossy(&several.stderr));
    assert!(shown.contains("points.csv: ") && shown.contains("kinds.nn: ") && !shown.contains("foreign"), "{shown}");
    assert!(refused.contains("foreign.bin") && refused.contains("absent.npy") && code(&several) == 4, "{refused}");
    // What is no text is no program, whatever it is.
    desk.write("model.onnx", b"\x08\x07\x12\xff");
    let refused = desk.run("run model.onnx");
    assert!(code(&refused) == 1 && String::from_utf8_lossy(&refused.stderr).contains("model.onnx is no program: programs are UTF-8 text (.nn)"));
    let unknown = desk.run("run kinds.nn eval --weights run:fti");
    assert_eq!(code(&unknown), 4);
    assert!(String::from_utf8_lossy(&unknown.stderr).trim_end().ends_with("/fti; there are runs of fit"), "{unknown:?}");
}

#[test]
fn what_shells_and_manuals_know_is_every_command() {
    let desk = Desk::new();
    let help = said(&desk.run("--help"));
    let commands: Vec<&str> =
        help.lines().filter_map(|l| l.strip_prefix("  ")?.split(' ').next()).filter(|w| !w.is_empty() && !w.starts_with('-')).collect();
    assert!(commands.len() > 12, "{help}");
    desk.done("man pages");
    for shell in ["bash", "zsh", "fish"] {
        let text = said(&desk.run(&format!("completions {shell}")));
        assert!(commands.iter().all(|c| text.contains(c)), "{shell}");
    }
    for command in commands.iter().filter(|c| **c != "help") {
        let page = String::from_utf8(desk.read(&format!("pages/nnc-{command}.1"))).unwrap();
        assert!(page.contains(".SH SYNOPSIS"), "{command}");
        let own = said(&desk.run(&format!("{command} --help")));
        assert!(own.contains("\nExamples:\n  nnc "), "{command} has no example:\n{own}");
        assert!(own.contains("--json") || ["completions", "man"].contains(command), "{command} has no --json:\n{own}");
        let mistyped = Command::new(NNC).arg(&command[..command.len() - 1]).output().unwrap();
        assert!(String::from_utf8_lossy(&mistyped.stderr).contains(command), "{command} is proposed");
    }
    let doctor = desk.run("doctor --json");
    let found = &objects(&doctor)[0];
    assert!(code(&doctor) == 0 && found["compiling"]["ok"] == true, "{found}");
}
