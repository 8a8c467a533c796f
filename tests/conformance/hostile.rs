//! Files made to do harm: cut short, corrupt, or lying about their sizes. `nnc` takes them, or refuses them with a message, as the case says; it never panics, dies
//! of a signal, runs for long, asks for much memory, shows what is in other files, or writes. What it must take are the controls among them.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What stands in a file beside the cases, for those that try to have it read.
const CANARY: &str = "CANARY-7c1d-do-not-leak";
const LONGEST: Duration = Duration::from_secs(10);
/// Address space, in KB.
const MEMORY: u64 = 2 << 20;

/// Runs every case; whether one failed.
pub fn run(folder: &Path, only: Option<&str>) -> bool {
    let manifest = [folder.join("manifest.json"), folder.join("hostile/manifest.json")].into_iter().find(|p| p.exists());
    let Some(manifest) = manifest else { panic!("{} has no manifest.json", folder.display()) };
    let folder = manifest.parent().unwrap().to_path_buf();
    let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(&manifest).unwrap()).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let before = names(&folder);
    let mut counts: BTreeMap<String, (usize, usize, usize)> = BTreeMap::new();
    let (mut failed, mut not_read) = (false, 0);
    for case in &cases {
        let text = |key: &str| case[key].as_str().unwrap_or_default().to_string();
        if only.is_some_and(|word| !text("file").contains(word)) {
            continue;
        }
        if text("format") == "onnx" {
            not_read += 1;
            continue;
        }
        let command = if text("format") == "text" { "check" } else { "inspect" };
        let count = counts.entry(text("format")).or_default();
        match verdict(command, &folder.join(text("file")), &text("expect"), scratch.path()) {
            Ok(true) => count.0 += 1,
            Ok(false) => count.1 += 1,
            Err(why) => {
                count.2 += 1;
                failed = true;
                println!("hostile: {} ({}): {why}", text("file"), text("why"));
            }
        }
    }
    let written: Vec<PathBuf> = names(&folder).symmetric_difference(&before).cloned().collect();
    let left: Vec<PathBuf> = names(scratch.path()).into_iter().filter(|p| !p.ends_with("out") && !p.ends_with("err")).collect();
    if !written.is_empty() || !left.is_empty() {
        println!("hostile: files have come or gone: {written:?} {left:?}");
        failed = true;
    }
    for (format, (accepted, refused, wrong)) in counts {
        println!("hostile: {format}: {accepted} accepted, {refused} refused, {wrong} wrong");
    }
    if not_read > 0 {
        println!("hostile: {not_read} cases of ONNX not run, nnc does not read it yet");
    }
    failed
}

/// All files below.
fn names(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for path in std::fs::read_dir(folder).into_iter().flatten().map(|e| e.unwrap().path()) {
        if path.is_dir() && !path.is_symlink() {
            found.extend(names(&path));
        }
        found.insert(path);
    }
    found
}

/// Whether the file was accepted, if that was right and all else was too.
fn verdict(command: &str, file: &Path, expect: &str, scratch: &Path) -> Result<bool, String> {
    let (out, err) = (scratch.join("out"), scratch.join("err"));
    let to = |path: &Path| Stdio::from(std::fs::File::create(path).unwrap());
    let limited = format!("ulimit -v {MEMORY}; ulimit -c 0; exec \"$0\" {command} \"$1\"");
    let mut shell = Command::new("sh");
    shell.args(["-c", &limited, env!("CARGO_BIN_EXE_nnc")]).arg(file).current_dir(scratch);
    let mut process = shell.stdin(Stdio::null()).stdout(to(&out)).stderr(to(&err)).spawn().unwrap();
    let since = Instant::now();
    let status = loop {
        if let Some(status) = process.try_wait().unwrap() {
            break status;
        }
        if since.elapsed() > LONGEST {
            process.kill().unwrap();
            process.wait().unwrap();
            return Err(format!("still running after {} s", LONGEST.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let said = |path: &Path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
    let (out, err) = (said(&out), said(&err));
    let all = format!("{out}{err}");
    let accepted = status.success();
    match status.code() {
        None => Err(format!("died of signal {}", status.signal().unwrap_or(0))),
        Some(code) if code == 101 || code >= 128 || all.contains("panicked at") => Err(format!("panicked:\n{err}")),
        _ if all.contains(CANARY) || all.contains("root:x:0") => Err("shows what is in another file".into()),
        _ if all.len() > 100_000 => Err(format!("says {} bytes", all.len())),
        _ if !accepted && err.trim().is_empty() => Err("is refused without a word".into()),
        _ if accepted && expect == "reject" => Err("is accepted".into()),
        _ if !accepted && expect == "accept" => Err(format!("is refused: {}", err.trim())),
        Some(_) => Ok(accepted),
    }
}
