//! `--check-numerics`: the first value that is not finite is named with where it was made and from what; runs that are good are not changed by looking.

use crate::support::desk::{Desk, PROGRAM, models};

/// The logarithm of an input that is 0 in the second row of the data.
fn logarithm(desk: &Desk) {
    desk.write("log.nn", PROGRAM.replace("linear(x, 3, name: \"fc\")", "y[b, i] = log(x[b, i]) * 2\n    linear(y, 3, name: \"fc\")"));
}

#[test]
fn the_first_bad_value_is_named() {
    let mut desk = Desk::new();
    logarithm(&desk);
    desk.write("rate.nn", PROGRAM.replace("sgd(lr: 0.1)", "sgd(lr: 1e39)"));
    // Without the flag nothing is said of it, as everywhere.
    desk.done("run log.nn --quiet --run-dir quiet");
    desk.fails(1, "run log.nn --quiet --check-numerics --run-dir log");
    let said = desk.transcript.clone();
    assert!(said.contains("error: step 1: ") && said.contains("at log.nn:6") && said.contains("infinite"), "{said}");
    assert!(said.contains("it read the input x f32[2, 2]: 0.0000e0 to 1.0000e0"), "{said}");
    desk.fails(1, "run rate.nn --quiet --check-numerics --run-dir rate");
    let said = desk.transcript.replace(&said, "");
    assert!(said.contains("the first infinite value is made in train:fit") && said.contains("values of the new Kinds.fc."), "{said}");
    // The checkpoint is the state before the bad step; a bad one is named as such.
    desk.fails(1, "run log.nn eval --check-numerics --weights quiet/best.safetensors");
    assert!(desk.transcript.contains("is not finite before eval:fit begins: nothing finite"), "{}", desk.transcript);
    // The same on any number of threads.
    let before = desk.transcript.len();
    desk.fails(1, "run log.nn --quiet --check-numerics --threads 3 --run-dir three");
    let alone = desk.transcript.split("$ nnc run log.nn --quiet --check-numerics --run-dir log\n").nth(1).unwrap();
    let (alone, three) = (alone.split("\n\n").next().unwrap(), desk.transcript[before..].split_once('\n').unwrap().1.trim_end());
    assert_eq!(alone, three);
}

#[test]
fn good_runs_are_as_they_were() {
    let desk = Desk::new();
    let cases = [("digits_cnn", "fit.epochs=1"), ("tiny_gpt", "fit.steps=3"), ("digits_lstm", "fit.epochs=1")];
    for (name, set) in cases {
        let program = models().join(format!("{name}.nn")).display().to_string();
        let text = std::fs::read_to_string(&program).unwrap();
        let set = if text.contains("    steps ") { set.replace("epochs=1", "steps=3") } else { set.replace("steps=3", "epochs=1") };
        for (folder, flag) in [("plain", ""), ("checked", "--check-numerics")] {
            desk.done(&format!("run {program} train:fit --quiet {flag} --set {set} --run-dir {name}.{folder}"));
        }
        let read = |folder: &str| desk.read(&format!("{name}.{folder}/best.safetensors"));
        assert_eq!(read("plain"), read("checked"), "{name}");
    }
}
