//! What is shipped of a trained model does what `nnc run` does, to the bit, and says what is wrong: executables.

use crate::support::desk::{Desk, models, runtime};
use std::path::Path;
use std::process::{Command, Output};

/// Words to a program on the desk.
fn run(desk: &Desk, program: &str, args: &str) -> Output {
    Command::new(desk.path(program)).current_dir(desk.folder.path()).args(args.split_whitespace()).output().unwrap()
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
