//! The gate of the code for GPUs: NVIDIA's assembler takes every kernel of every shipped model, and nothing is spilled to memory.
//!
//! It needs no GPU. The assembler comes from the package index at a pinned version, whose licence forbids to ship it; where it cannot be had, the gate
//! says that it has not run.

use nnc_runtime::artifact::Artifact;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

const PACKAGE: &str = "nvidia-cuda-nvcc==13.0.88";
const HOME: &str = "target/ptxas";
const BINARY: &str = "target/ptxas/nvidia/cu13/bin/ptxas";

/// What the models' kernels must run on: the oldest that is supported, and one with newer instructions.
const ARCHITECTURES: [&str; 2] = ["sm_80", "sm_90"];

/// Assembles the kernels of these programs, or of all shipped ones.
pub fn run(args: &[String], nnc: &dyn Fn() -> Result<PathBuf, String>) -> Result<(), String> {
    let ptxas = match fetched() {
        Ok(path) => path,
        Err(why) => {
            println!("NOT RUN: no kernel was assembled, because there is no ptxas: {why}");
            return Ok(());
        }
    };
    let nnc = nnc()?.join("nnc");
    let programs = if args.is_empty() { shipped()? } else { args.iter().map(PathBuf::from).collect() };
    let mut kernels: BTreeMap<String, PathBuf> = BTreeMap::new();
    for program in &programs {
        let shown = Command::new(&nnc).args(["show", "--stage", "ptx"]).arg(program).stderr(Stdio::inherit()).output();
        let shown = shown.map_err(|e| format!("cannot start {}: {e}", nnc.display()))?;
        if !shown.status.success() {
            return Err(format!("{} cannot be shown as PTX", program.display()));
        }
        let text = String::from_utf8_lossy(&shown.stdout).into_owned();
        for kernel in text.split("\n.version ").skip(1) {
            kernels.entry(format!(".version {kernel}")).or_insert_with(|| program.clone());
        }
    }
    let (count, left, done) = (kernels.len(), Mutex::new(kernels.into_iter().enumerate()), Mutex::new((vec![], 0)));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let next = left.lock().expect("no thread panics").next();
                    let Some((number, (text, program))) = next else { return };
                    for architecture in ARCHITECTURES {
                        let found = assemble(&ptxas, number, &text, architecture);
                        let mut done = done.lock().expect("no thread panics");
                        match found {
                            Ok(registers) => done.1 = registers.max(done.1),
                            Err(why) => done.0.push(format!("{} of {} for {architecture}: {why}", name(&text), program.display())),
                        }
                    }
                }
            });
        }
    });
    let (failed, registers) = done.into_inner().map_err(|_| "a thread has panicked")?;
    if !failed.is_empty() {
        return Err(format!("{} of {count} kernels do not assemble as they should:\n{}", failed.len(), failed.join("\n")));
    }
    println!("{count} kernels of {} programs for {}: none spills, at most {registers} registers", programs.len(), ARCHITECTURES.join(" and "));
    let texts = by_units(&nnc, &programs)?;
    for (number, (text, program)) in texts.iter().enumerate() {
        for architecture in ARCHITECTURES {
            assemble(&ptxas, count + number, text, architecture)
                .map_err(|why| format!("products by tensor units of {}: {why}", program.display()))?;
        }
    }
    // A text has kernels without products too, as many as happen to share it.
    let products = texts.keys().flat_map(|text| text.split(".entry ").skip(1)).filter(|kernel| kernel.contains("mma.sync")).count();
    println!("{products} kernels multiply by tensor units, in {} texts: none spills", texts.len());
    Ok(())
}

/// The texts in which tensor units multiply, where products are asked to be theirs.
fn by_units(nnc: &Path, programs: &[PathBuf]) -> Result<BTreeMap<String, PathBuf>, String> {
    let mut texts = BTreeMap::new();
    let file = format!("{HOME}/units.nnc");
    for program in programs {
        let built = Command::new(nnc).args(["build", "--target", "cuda", "--products", "tensor", "--quiet", "-o", &file]).arg(program).status();
        if !built.map_err(|e| format!("cannot start {}: {e}", nnc.display()))?.success() {
            return Err(format!("{} cannot be built", program.display()));
        }
        let artifact = Artifact::read(Path::new(&file)).map_err(|e| e.to_string())?;
        let units = artifact.code.into_iter().map(|(_, text)| String::from_utf8_lossy(&text).into_owned()).filter(|text| text.contains("mma.sync"));
        units.for_each(|text| _ = texts.entry(text).or_insert_with(|| program.clone()));
    }
    Ok(texts)
}

/// Registers of the kernel.
fn assemble(ptxas: &Path, number: usize, text: &str, architecture: &str) -> Result<u32, String> {
    let file = format!("{HOME}/{number}.ptx");
    std::fs::write(&file, text).map_err(|e| format!("{file}: {e}"))?;
    let checks = ["-v", "-Werror", "--warn-on-spills", "--warn-on-local-memory-usage", "-o", "/dev/null"];
    let output = Command::new(ptxas).args(checks).arg(format!("-arch={architecture}")).arg(&file).output();
    let output = output.map_err(|e| format!("cannot start {}: {e}", ptxas.display()))?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        return Err(format!("{file}\n{said}"));
    }
    let registers = said.split("Used ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    registers.ok_or_else(|| format!("ptxas does not say how many registers it used:\n{said}"))
}

fn name(text: &str) -> &str {
    text.split(".entry ").nth(1).and_then(|rest| rest.split('(').next()).unwrap_or("a kernel")
}

/// Every program in `models` and `models/bench`.
pub fn shipped() -> Result<Vec<PathBuf>, String> {
    let mut found = vec![];
    for folder in ["models", "models/bench"] {
        let entries = std::fs::read_dir(folder).map_err(|e| format!("{folder}: {e}"))?;
        found.extend(entries.flatten().map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "nn")));
    }
    found.sort();
    Ok(found)
}

/// The assembler: where it was put before, or fetched now.
fn fetched() -> Result<PathBuf, String> {
    let binary = PathBuf::from(BINARY);
    if binary.exists() {
        return Ok(binary);
    }
    std::fs::create_dir_all(HOME).map_err(|e| format!("{HOME}: {e}"))?;
    let python = |args: &[&str]| {
        let output = Command::new("python3").arg("-m").args(args).output().map_err(|e| format!("cannot start python3: {e}"))?;
        let why = String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_string();
        if output.status.success() { Ok(()) } else { Err(format!("`python3 -m {}` failed: {why}", args.join(" "))) }
    };
    python(&["pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "-d", HOME, PACKAGE])?;
    let wheels = std::fs::read_dir(HOME).map_err(|e| format!("{HOME}: {e}"))?.flatten().map(|e| e.path());
    let wheel = wheels.into_iter().find(|p| p.extension().is_some_and(|e| e == "whl")).ok_or("pip has left no wheel")?;
    python(&["zipfile", "-e", &wheel.to_string_lossy(), HOME])?;
    let mark = Command::new("chmod").args(["+x", BINARY]).status();
    if mark.is_ok_and(|s| s.success()) && binary.exists() { Ok(binary) } else { Err(format!("{PACKAGE} has no {BINARY}")) }
}
