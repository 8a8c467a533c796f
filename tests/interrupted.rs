//! Runs that end before their time: by Ctrl-C, by a kill at any moment, by a full disk. What is on the disk is always whole, and what goes on ends in the
//! same bytes as what was never stopped.

use crate::support::desk::{Desk, NNC, models};
use nnc_runtime::random::Generator;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

/// A desk with `digits.nnc`, which never stops early, and its data.
fn digits() -> Desk {
    let desk = Desk::new();
    let text = std::fs::read_to_string(models().join("digits.nn")).unwrap();
    let text: String = text.lines().filter(|l| !l.contains("early_stop")).map(|l| format!("{l}\n")).collect();
    desk.write("digits.nn", text);
    std::fs::create_dir(desk.path("data")).unwrap();
    std::fs::copy(models().join("data/digits.csv.gz"), desk.path("data/digits.csv.gz")).unwrap();
    desk.done("build digits.nn --quiet");
    desk
}

fn start(desk: &Desk, args: &str) -> Child {
    desk.command(args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn signal(child: &Child, signal: i32) {
    // SAFETY: the process is our child and has not been waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

/// What the folder of a run must hold wherever it was stopped: no file that does not read.
fn whole(desk: &Desk) {
    if desk.path("run/best.safetensors").exists() {
        desk.done("run digits.nnc eval --quiet --weights run/best.safetensors");
    }
    if desk.path("run/last.safetensors").exists() {
        nnc_runtime::checkpoint::Position::read(&desk.path("run")).unwrap();
    }
}

#[test]
fn killed_at_any_moment_a_run_goes_on_from_its_last_checkpoint() {
    let desk = digits();
    let settings = "--set train.epochs=1200 --save-every 130 --threads 1 --quiet";
    desk.done(&format!("run digits.nnc train {settings} --run-dir never"));
    let seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let mut random = Generator::new(seed);
    let (mut kills, mut reached) = (0, 0);
    while kills < 12 {
        let resumed = desk.path("run/last.safetensors").exists();
        let args = if resumed { "--save-every 130 --threads 1 --quiet --resume run".into() } else { format!("{settings} --run-dir run") };
        let mut child = start(&desk, &format!("run digits.nnc train {args}"));
        std::thread::sleep(Duration::from_millis(random.below(160) as u64));
        if child.try_wait().unwrap().is_some() {
            break;
        }
        signal(&child, libc::SIGKILL);
        child.wait().unwrap();
        kills += 1;
        whole(&desk);
        if desk.path("run/last.safetensors").exists() {
            let step = nnc_runtime::checkpoint::Position::read(&desk.path("run")).unwrap().step;
            assert!(step >= reached, "seed {seed}: step {step} after {reached}");
            reached = step;
        }
    }
    let last = if desk.path("run/last.safetensors").exists() { "--quiet --resume run".into() } else { format!("{settings} --run-dir run") };
    desk.done(&format!("run digits.nnc train {last}"));
    for file in ["best.safetensors", "model.nnc"] {
        assert_eq!(desk.read(&format!("never/{file}")), desk.read(&format!("run/{file}")), "seed {seed}, {kills} kills: {file}");
    }
    assert_eq!(epochs(&desk, "never"), epochs(&desk, "run"), "seed {seed}");
    let left: Vec<String> = std::fs::read_dir(desk.path("run")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(left.iter().all(|name| !name.ends_with(".part")), "{left:?}");
}

/// The log without times.
fn epochs(desk: &Desk, run: &str) -> Vec<String> {
    let text = String::from_utf8(desk.read(&format!("{run}/log.jsonl"))).unwrap();
    let lines = text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()).filter(|l| l.get("done").is_none());
    lines.map(|mut l| (l.as_object_mut().unwrap().remove("seconds"), l.to_string()).1).collect()
}

/// With one sample a step an epoch has 1,258 steps: most moments are in the middle of one.
#[test]
fn stopped_within_an_epoch_a_run_goes_on_to_the_same_bytes() {
    let desk = digits();
    let settings = "--set train.batch=1 --set train.epochs=12 --set optimizer.lr=0.01 --threads 1";
    desk.done(&format!("run digits.nnc train {settings} --quiet --run-dir whole"));
    let (mut within, mut patience) = (0, 25);
    let mut child = start(&desk, &format!("run digits.nnc train {settings} --run-dir parts"));
    loop {
        while !desk.path("parts/run.json").exists() {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(patience));
        if child.try_wait().unwrap().is_none() {
            signal(&child, libc::SIGINT);
        }
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        if output.status.success() {
            break;
        }
        if output.status.code().is_none() {
            // It was not even training yet: nothing is lost.
            patience += 25;
            child = start(&desk, "run digits.nnc train --resume parts --threads 1");
            continue;
        }
        assert_eq!(output.status.code(), Some(130), "{said}");
        let step: u64 = said.split_whitespace().nth(4).unwrap().parse().unwrap();
        within += u64::from(!step.is_multiple_of(1258));
        assert!(String::from_utf8(desk.read("parts/report.html")).unwrap().contains("can be resumed"));
        child = start(&desk, "run digits.nnc train --resume parts --threads 1");
    }
    assert!(within > 0, "never stopped within an epoch");
    for file in ["best.safetensors", "model.nnc"] {
        assert_eq!(desk.read(&format!("whole/{file}")), desk.read(&format!("parts/{file}")), "{file}");
    }
    assert_eq!(epochs(&desk, "whole"), epochs(&desk, "parts"));
}

#[test]
fn a_folder_belongs_to_one_process() {
    let mut desk = digits();
    let mut child = start(&desk, "run digits.nnc train --set train.epochs=1000000 --run-dir run");
    while !desk.path("run/last.safetensors").exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    desk.fails(4, "run digits.nnc train --resume run");
    desk.fails(4, "run digits.nnc train --run-dir run");
    signal(&child, libc::SIGKILL);
    child.wait().unwrap();
    // Its lock died with it.
    desk.fails_with("after its death", 1, "run digits.nnc train --run-dir run");
    desk.done("run digits.nnc train --resume run --quiet --set train.epochs=1");
    desk.fails(2, "run digits.nnc train --save-every 0");
    desk.fails(2, "run digits.nnc train --save-every 10d");
    desk.fails(2, "run digits.nnc train --chek-numerics");
    desk.fails(4, "run digits.nnc train --run-dir /proc/run");
    desk.snapshot("interrupted");
}

/// A disk without room: what was there stays, what is new is removed, the error says which file.
#[test]
fn nothing_half_written_is_left_where_there_is_no_room() {
    let desk = digits();
    desk.done("run digits.nnc train --quiet --run-dir run --set train.epochs=2");
    let names = |run: &str| {
        let mut names: Vec<String> = std::fs::read_dir(desk.path(run)).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    let files = ["best.safetensors", "last.safetensors", "log.jsonl", "model.nnc", "report.html", "run.json"];
    assert_eq!(names("run"), files);
    // Room for so many half kilobytes a file: checkpoints, the artifact or the page do not fit.
    for blocks in [1, 30, 60, 90] {
        let args = format!("run digits.nnc train --quiet --run-dir small{blocks} --set train.epochs=2");
        let limited = format!("trap '' XFSZ; ulimit -f {blocks}; exec {NNC} {args}");
        let output = Command::new("sh").current_dir(desk.folder.path()).args(["-c", &limited]).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(4), "{blocks}: {said}");
        assert!(said.starts_with("error: cannot write ") && said.ends_with(": File too large\n"), "{said}");
        let names = names(&format!("small{blocks}"));
        assert!(names.iter().all(|name| files.contains(&name.as_str())), "{names:?}");
        if names.contains(&"last.safetensors".to_string()) {
            desk.done(&format!("run digits.nnc train --quiet --resume small{blocks}"));
            assert_eq!(desk.read(&format!("small{blocks}/model.nnc")), desk.read("run/model.nnc"));
        }
    }
}
