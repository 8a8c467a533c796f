//! The built command on a disk: what it says, how it ends, and that nothing is lost. Transcripts are in `snapshots/cli`.

use crate::support::desk::{Desk, NNC, PROGRAM, models};
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Command, Stdio};

#[test]
fn files_that_are_none() {
    let mut desk = Desk::new();
    std::fs::create_dir(desk.path("folder.nn")).unwrap();
    desk.write("latin.nn", b"nn 1\n// caf\xe9\n");
    desk.write("empty.nn", "");
    for command in ["check", "build", "run", "show --stage graph", "plan", "fmt"] {
        desk.fails(4, &format!("{command} absent.nn"));
        desk.fails(4, &format!("{command} folder.nn"));
        desk.fails(1, &format!("{command} latin.nn"));
    }
    desk.fails(1, "check empty.nn");
    desk.fails(4, "check kinsd.nn");
    assert_eq!(desk.names(), ["empty.nn", "folder.nn", "kinds.nn", "latin.nn", "points.csv"]);
    desk.snapshot("files");
}

#[test]
fn data_that_is_wrong() {
    let mut desk = Desk::new();
    for (what, text) in [
        ("a cell that is no number", "a,b,kind\n0,1,0\n1,O,1\n"),
        ("an empty cell", "a,b,kind\n0,,0\n"),
        ("a short row", "a,b,kind\n0,1,0\n1,0\n"),
        ("not a number", "a,b,kind\n0,1,0\n1,nan,1\n"),
        ("infinite", "a,b,kind\n0,1,0\n1,inf,1\n"),
        ("larger than f32", "a,b,kind\n0,1,0\n1,1e39,1\n"),
        ("a label out of range", "a,b,kind\n0,1,0\n1,0,3\n"),
        ("a label that is not whole", "a,b,kind\n0,1,0.5\n"),
        ("a label below zero", "a,b,kind\n0,1,-1\n"),
        ("no rows", "a,b,kind\n"),
        ("an empty file", ""),
        ("another header", "a,c,kind\n0,1,0\n"),
        ("one row, but a batch of two", "a,b,kind\n0,1,0\n"),
    ] {
        desk.write("points.csv", text);
        desk.fails_with(what, 1, "run kinds.nn");
    }
    std::fs::remove_file(desk.path("points.csv")).unwrap();
    desk.fails_with("no file", 4, "run kinds.nn");
    std::fs::create_dir(desk.path("points.csv")).unwrap();
    desk.fails_with("a directory", 4, "run kinds.nn");
    assert!(!desk.path("runs").exists(), "a run that cannot begin leaves no folder");
    desk.snapshot("data");
}

#[test]
fn weights_that_do_not_fit() {
    let mut desk = Desk::new();
    desk.write("other.nn", PROGRAM.replace("linear(x, 3, name: \"fc\")", "x |> linear(4, name: \"fc\") |> relu |> linear(3, name: \"out\")"));
    desk.done("run other.nn --quiet --run-dir other");
    desk.fails_with("of another model", 1, "run kinds.nn eval --weights other/best.safetensors");
    desk.fails(1, "run kinds.nn train --weights other/best.safetensors");
    desk.fails_with("none", 2, "run kinds.nn eval");
    desk.fails(4, "run kinds.nn eval --weights absent.safetensors");
    desk.fails(4, "run kinds.nn eval --weights run:fit");
    desk.fails(4, "run kinds.nn --resume absent");
    let whole = desk.read("other/best.safetensors");
    desk.write("half.safetensors", &whole[..whole.len() / 2]);
    desk.fails(1, "run other.nn eval --weights half.safetensors");
    desk.fails_with("a run of another model", 1, "run kinds.nn --resume other");
    desk.fails(1, "run other.nn --run-dir other");
    assert_eq!(desk.read("other/best.safetensors"), whole);
    desk.snapshot("weights");
}

#[test]
fn outputs_that_cannot_be_written() {
    let mut desk = Desk::new();
    desk.write("plain", "a file");
    desk.done("run kinds.nn --quiet --run-dir run");
    std::fs::create_dir(desk.path("folder")).unwrap();
    desk.fails_with("no room", 4, "build kinds.nn -o /dev/full");
    desk.fails(4, "build kinds.nn -o plain/kinds.nnc");
    desk.fails(4, "build kinds.nn -o folder");
    desk.fails(4, "build kinds.nn -o absent/kinds.nnc");
    desk.fails(4, "run kinds.nn --run-dir plain/run");
    desk.fails(4, "run kinds.nn infer --data train --weights run/best.safetensors --output plain/results");
    assert_eq!(desk.read("plain"), b"a file");
    assert_eq!(desk.names(), ["folder", "kinds.nn", "plain", "points.csv", "run"]);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = desk.command("show kinds.nn --stage graph").stdout(full).output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).contains("No space left")), (Some(4), true));
    desk.snapshot("outputs");
}

#[test]
fn a_full_disk_keeps_the_last_checkpoint() {
    let desk = Desk::new();
    let program = models().join("digits.nn").display().to_string();
    desk.done(&format!("run {program} --quiet --run-dir run --set train.epochs=1"));
    let files = ["run/best.safetensors", "run/last.safetensors", "run/model.nnc"];
    let before = files.map(|f| desk.read(f));
    // The largest file that the process may write stands for the disk's last free blocks.
    let resume = format!("trap '' XFSZ; ulimit -f 16; exec {} run {program} --quiet --resume run --set train.epochs=2", NNC);
    let output = Command::new("sh").current_dir(desk.folder.path()).args(["-c", &resume]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("error: cannot write run/"), "{said}");
    assert!(files.iter().zip(&before).all(|(f, old)| desk.read(f) == *old));
    desk.done(&format!("run {program} --quiet --resume run --set train.epochs=2"));
    assert_ne!(desk.read(files[0]), before[0]);
}

#[test]
fn words_that_mean_nothing() {
    let mut desk = Desk::new();
    desk.write("two.nn", format!("{PROGRAM}\n{}", PROGRAM[PROGRAM.find("train fit").unwrap()..].replace("train fit", "train again")));
    desk.fails(1, "run kinds.nn --set train.bach=4");
    desk.fails(1, "run kinds.nn --set fti.batch=4");
    desk.fails(1, "run kinds.nn --set const.H=4");
    desk.fails(1, "run kinds.nn --set train.batch=many");
    desk.fails(2, "run kinds.nn --set train.batch");
    desk.fails(1, "run kinds.nn train:fti");
    desk.fails(2, "run two.nn");
    desk.fails(2, "run kinds.nn learn");
    desk.fails(2, "run kinds.nn --epochs 3");
    desk.fails(2, "run kinds.nn --threads 0");
    desk.fails(1, "run kinds.nn --dim C=3");
    desk.fails(1, "run kinds.nn infer:Kind --data train");
    desk.fails(2, "run kinds.nn --data");
    desk.done("run kinds.nn --quiet --run-dir run");
    desk.fails(1, "run kinds.nn eval --data test --weights run/best.safetensors");
    desk.fails(2, "run kinds.nn infer --weights run/best.safetensors");
    desk.fails(4, "run kinds.nn infer --weights run/best.safetensors --input x=absent.npy");
    assert!(!desk.path("runs").exists());
    desk.snapshot("words");
}

#[test]
fn artifacts_that_are_damaged() {
    let mut desk = Desk::new();
    desk.done("run kinds.nn --quiet --run-dir run");
    let whole = desk.read("run/model.nnc");
    desk.write("model.nnc", &whole);
    let good = desk.done("run model.nnc eval");
    assert_eq!(good, desk.done("run kinds.nn eval --weights run/best.safetensors"));
    desk.write("short.nnc", &whole[..whole.len() - 1]);
    desk.write("head.nnc", &whole[..20]);
    let changed = |at: usize, to: u8| {
        let mut bytes = whole.clone();
        bytes[at] = to;
        bytes
    };
    desk.write("flipped.nnc", changed(whole.len() / 2, whole[whole.len() / 2] ^ 1));
    desk.write("old.nnc", changed(8, 0));
    desk.write("new.nnc", changed(8, 99));
    for name in ["short", "head", "flipped", "old", "new"] {
        desk.fails(1, &format!("run {name}.nnc eval"));
    }
    for k in 0..24 {
        let at = whole.len() * k / 24;
        desk.write("any.nnc", changed(at, whole[at] ^ 0x10));
        let code = desk.run("run any.nnc eval").status.code();
        assert_eq!(code, Some(1), "byte {at}");
    }
    desk.stands_for(&format!("{} of {} bytes", whole.len() - 1, whole.len()), "N - 1 of N bytes");
    desk.snapshot("artifacts");
}

#[test]
fn a_closed_pipe_ends_reading_but_not_training() {
    let desk = Desk::new();
    let program = models().join("digits.nn").display().to_string();
    for (args, finishes) in [(format!("show {program} --stage llvm"), false), (format!("run {program} --set train.epochs=8 --run-dir run"), true)] {
        let mut child = desk.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(!line.is_empty());
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert_eq!(output.status.success(), finishes, "{}", output.status);
    }
    assert!(desk.path("run/model.nnc").exists());
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_goes_on_to_the_same_bytes() {
    let desk = Desk::new();
    let program = models().join("digits.nn").display().to_string();
    let settings = "--set train.epochs=60 --set fit.optimizer.lr=0.05 --seed 3 --threads 2";
    desk.done(&format!("run {program} {settings} --run-dir whole"));
    let mut child = desk.command(&format!("run {program} {settings} --run-dir parts")).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    lines.read_line(&mut String::new()).unwrap();
    // SAFETY: the process is our child and has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGINT) }, 0);
    lines.read_to_string(&mut String::new()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.starts_with("interrupted: stopped after step ") && said.ends_with("go on with --resume parts\n"), "{said}");
    assert!(!desk.path("parts/model.nnc").exists());
    desk.done(&format!("run {program} --resume parts"));
    for file in ["best.safetensors", "model.nnc"] {
        assert_eq!(desk.read(&format!("whole/{file}")), desk.read(&format!("parts/{file}")), "{file}");
    }
}

#[test]
fn layout_is_written_whole() {
    let mut desk = Desk::new();
    let ugly = PROGRAM.replace("    ", " ").replace("dim B", "dim   B // samples");
    desk.write("ugly.nn", &ugly);
    desk.write("broken.nn", "nn 1\nmodel {");
    desk.fails(1, "fmt --check ugly.nn");
    desk.done("fmt ugly.nn");
    let neat = desk.read("ugly.nn");
    assert_eq!(String::from_utf8_lossy(&neat), PROGRAM.replace("dim B", "dim B  // samples"));
    desk.done("fmt --check ugly.nn");
    desk.fails(1, "fmt broken.nn");
    assert_eq!(desk.read("broken.nn"), b"nn 1\nmodel {");
    assert_eq!(desk.names(), ["broken.nn", "kinds.nn", "points.csv", "ugly.nn"]);
    desk.snapshot("layout");
}

#[test]
fn mistakes_as_json() {
    let desk = Desk::new();
    desk.write("wrong.nn", PROGRAM.replace("3, name", "3, nam").replace(": class<3>", ": clas<3>"));
    let output = desk.run("check --json wrong.nn");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(1), &b""[..]));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let shown = serde_json::to_string_pretty(&lines).unwrap();
    assert!(lines.len() >= 2 && lines.iter().all(|l| l["severity"] == "error" && l["labels"][0]["at"]["line"].is_u64()), "{shown}");
    assert_eq!(desk.done("check --json kinds.nn"), "");
}

/// Every file of `models` that has a recipe is trained for an epoch and evaluated; runs are where the program's name says.
#[test]
fn every_model_trains_and_evaluates() {
    let desk = Desk::new();
    let mut names: Vec<PathBuf> =
        std::fs::read_dir(models()).unwrap().map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "nn")).collect();
    names.sort();
    let recipe = |path: &PathBuf| std::fs::read_to_string(path).unwrap().contains("\ntrain fit {");
    names.retain(recipe);
    assert!(names.len() >= 12);
    for path in names {
        let (file, stem) = (path.display(), path.file_stem().unwrap().to_string_lossy());
        desk.done(&format!("run {file} train:fit --quiet --set fit.epochs=1"));
        let words = desk.done(&format!("run {file} eval:fit --weights run:fit --json"));
        let values: serde_json::Value = serde_json::from_str(&words).unwrap();
        let loss = values.as_object().and_then(|o| o.values().next()).map(|part| part["loss"].clone());
        assert!(loss.as_ref().is_some_and(|l| l.is_f64()), "{file}: {words}");
        assert!(desk.path(&format!("runs/{stem}/fit/1/model.nnc")).exists());
    }
    // Fine-tuning starts from the best weights of the other recipe and leaves the frozen layer as it is.
    let net = models().join("net.nn").display().to_string();
    desk.done(&format!("run {net} train:finetune --quiet --set finetune.epochs=2"));
    let (fit, finetune) = (desk.weights("runs/net/fit/1"), desk.weights("runs/net/finetune/1"));
    for i in 0..fit.len() {
        assert_eq!(fit.bytes(i) == finetune.bytes(i), fit.decl(i).path.starts_with("Net.fc1."), "{}", fit.decl(i).path);
    }
}

/// A loop over time is one phase, in which each thread takes its rows through all steps: no bit knows how many threads there were.
#[test]
fn rows_of_a_recurrent_model_go_through_time_by_themselves() {
    let desk = Desk::new();
    let program = models().join("digits_lstm.nn").display().to_string();
    let plan: serde_json::Value = serde_json::from_str(&desk.done(&format!("plan {program} --threads 2 --json"))).unwrap();
    let entry = plan["entries"].as_array().unwrap().iter().find(|e| e["name"] == "infer:Reader").unwrap();
    assert!(entry["launches"].as_f64().unwrap() > 16.0, "8 steps of 2 launches: {entry}");
    assert_eq!(entry["phases"], 1.0, "{entry}");
    let weights = [1, 2, 4].map(|threads| {
        desk.done(&format!("run {program} --quiet --set train.epochs=1 --threads {threads} --run-dir {threads}"));
        desk.read(&format!("{threads}/best.safetensors"))
    });
    assert!(weights.iter().all(|w| *w == weights[0]));
}

/// The number of threads and the code level change no bit; the plan says to the byte what is allocated.
#[test]
fn digits_are_the_same_everywhere() {
    let desk = Desk::new();
    let program = models().join("digits.nn").display().to_string();
    let mut first = None;
    for level in nnc_runtime::loader::levels() {
        for threads in [1, 2, 3, 7] {
            let args = format!("run {program} --quiet --set train.epochs=2 --threads {threads} --run-dir {level}.{threads}");
            let output = desk.command(&args).env("NNC_LEVEL", level).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let best = desk.read(&format!("{level}.{threads}/best.safetensors"));
            assert!(*first.get_or_insert_with(|| best.clone()) == best, "{level}, {threads} threads");
        }
    }
    let plan: serde_json::Value = serde_json::from_str(&desk.done(&format!("plan {program} --json"))).unwrap();
    let planned = plan["entries"].as_array().unwrap().iter().find(|e| e["name"] == "train:fit").unwrap()["arena_bytes"].clone();
    let log = String::from_utf8(desk.read("v3.1/log.jsonl")).unwrap();
    let done: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert!(planned.as_u64().is_some_and(|n| n > 0));
    assert_eq!(done["done"]["arena_bytes"], planned);
}
