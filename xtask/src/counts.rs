//! How many instructions a step takes, counted by valgrind's callgrind: a figure that other load on the machine does not change.
//!
//! In: programs of `models/bench`, an optimised nnc, valgrind where it is installed. Out: a table of instructions for a batch, twice and four times as much.
//! The start of the process is left out: of two runs one does a step more. valgrind has no AVX-512, so what is counted is the code for AVX2, on one thread.

use crate::variant::variant;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

/// A workload: program, entry, the smallest batch, sizes of other free dims, words of the program and others in their place. Small, because valgrind takes
/// some fifty times as long; where samples are rows of products, whole tiles of 12, so that twice as many are twice the work.
type Workload = (&'static str, &'static str, u64, &'static [&'static str], &'static [(&'static str, &'static str)]);
const WORKLOADS: &[Workload] = &[
    ("digits_mlp", "train", 48, &[], &[]),
    ("mnist_mlp", "train", 48, &[], &[]),
    ("mnist_mlp", "infer", 12, &[], &[]),
    ("simple_cnn", "train", 12, &[], &[]),
    ("simple_cnn", "infer", 12, &[], &[]),
    ("resnet18_c32", "train", 1, &[], &[("3, 32, 32", "3, 16, 16")]),
    ("resnet18_224", "infer", 1, &[], &[("3, 224, 224", "3, 64, 64")]),
    ("lstm", "train", 12, &["T=4"], &[]),
    ("lstm", "infer", 12, &["T=4"], &[]),
    // One layer and few words: most of a run is initial values, else.
    ("minilm", "infer:MiniLm", 2, &["T=12"], &[("V = 30522", "V = 300"), ("repeat(6,", "repeat(1,")]),
    ("minilm", "train", 2, &["T=12"], &[("V = 30522", "V = 300"), ("repeat(6,", "repeat(1,")]),
    ("gpt_small", "train", 2, &["T=12"], &[("repeat(6,", "repeat(1,")]),
];
/// The file that two of them import.
const IMPORTED: &str = "resnet.nn";
const FOLDER: &str = "target/bench";

/// Counts the workloads named in `args`, else all.
///
/// # Errors
/// No such workload; nnc cannot be built; a run fails.
pub fn run(args: &[String], build: &dyn Fn() -> Result<std::path::PathBuf, String>) -> Result<(), String> {
    if let Some(unknown) = args.iter().find(|a| WORKLOADS.iter().all(|(name, ..)| name != a)) {
        let known: BTreeSet<&str> = WORKLOADS.iter().map(|(name, ..)| *name).collect();
        return Err(format!("there is no workload {unknown} to count; there are {}", known.into_iter().collect::<Vec<_>>().join(", ")));
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("valgrind is not installed (apt install valgrind): nothing is counted");
        return Ok(());
    }
    let binaries = build()?;
    std::fs::create_dir_all(FOLDER).map_err(|e| format!("cannot make {FOLDER}: {e}"))?;
    std::fs::copy(Path::new("models/bench").join(IMPORTED), Path::new(FOLDER).join(IMPORTED)).map_err(|e| format!("cannot copy {IMPORTED}: {e}"))?;
    println!(
        "{:24}  {:>4}  {:>14}  {:>14}  {:>14}  {:>6}  {:>6}  {:>10}",
        "workload", "n", "instructions", "at 2n", "at 4n", "2n/n", "4n/2n", "increments"
    );
    // Other processes change no count: one workload a core, and lines come as they are known.
    let asked = WORKLOADS.iter().filter(|(name, ..)| args.is_empty() || args.iter().any(|a| a == name));
    let (left, failed) = (Mutex::new(asked), Mutex::new(vec![]));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()) {
            scope.spawn(|| {
                loop {
                    let next = left.lock().expect("no thread panics").next();
                    let Some(workload) = next else { return };
                    match line(workload, &binaries) {
                        Ok(line) => println!("{line}"),
                        Err(why) => failed.lock().expect("no thread panics").push(why),
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().map_err(|_| "a thread has panicked")?;
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) }
}

/// Counts one workload: its line of the table.
fn line((program, entry, batch, sizes, words): &Workload, binaries: &Path) -> Result<String, String> {
    // Files of its own: another entry of the same program may be counted beside it.
    let file = |ending: &str| Path::new(FOLDER).join(format!("{program}.{}.{ending}", entry.replace(':', "-")));
    let artifact = file("nnc");
    let mut nnc = Command::new(binaries.join("nnc"));
    let source = variant(&file("nn"), program, words)?;
    let built = nnc.arg("build").arg(source).arg("-o").arg(&artifact).arg("--quiet").status();
    if !built.map_err(|e| format!("cannot start nnc: {e}"))?.success() {
        return Err(format!("nnc cannot build models/bench/{program}.nn"));
    }
    let of = |batch: u64| -> Result<f64, String> {
        let count = |steps: u64| {
            let mut command = Command::new("valgrind");
            command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(binaries.join("nnc-run")).arg(&artifact);
            command.args(["bench", entry, "--threads", "1", "--steps", &steps.to_string(), "--dim", &format!("B={batch}")]);
            command.args(sizes.iter().flat_map(|size| ["--dim", size]));
            counted(&mut command)
        };
        // The second step is the first that finds everything in place.
        Ok(count(2)? - count(1)?)
    };
    let [one, two, four] = [of(*batch)?, of(2 * batch)?, of(4 * batch)?];
    // What does not depend on the batch (the optimizer, packed weights) is there once: growth is linear where the increments double.
    let (double, fourfold, increments) = (two / one, four / two, (four - two) / (two - one));
    let name = format!("{program} {entry}");
    Ok(format!("{name:24}  {batch:>4}  {one:>14.0}  {two:>14.0}  {four:>14.0}  {double:>6.2}  {fourfold:>6.2}  {increments:>10.2}"))
}

/// The instructions of a process that callgrind watches.
fn counted(command: &mut Command) -> Result<f64, String> {
    let output = command.output().map_err(|e| format!("cannot start valgrind: {e}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("a run under valgrind failed:\n{text}"));
    }
    collected(&text).ok_or_else(|| format!("callgrind says no count:\n{text}"))
}

/// The number after `Collected :`.
fn collected(text: &str) -> Option<f64> {
    text.rsplit_once("Collected :")?.1.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_read_from_what_callgrind_says() {
        assert_eq!(collected("==7== Events    : Ir\n==7== Collected : 673061677\n==7== \n"), Some(673061677.0));
        assert_eq!(collected("==7== nothing\n"), None);
    }

    #[test]
    fn every_workload_is_a_program() {
        for (program, ..) in WORKLOADS {
            assert!(Path::new("../models/bench").join(format!("{program}.nn")).exists(), "{program}");
        }
    }
}
