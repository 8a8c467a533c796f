//! Programs built for GPUs, as a person does it: on a machine without a GPU, and on one that is played.
//!
//! `tests/emulator` is also a driver of NVIDIA's, as far as the runtime can tell: the built `nnc` finds it as `libcuda.so.1`, and it runs the emulated code
//! of the very kernels whose PTX it is given.

use crate::support::checked;
use crate::support::desk::{Desk, models};
use nnc::driver;
use nnc::emit::cuda;
use nnc::ir::DType;
use nnc_runtime::artifact::Artifact;
use nnc_runtime::tensor::Tensor;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A desk on a machine with a GPU that is played.
struct Played {
    desk: Desk,
}

impl Played {
    /// With `program.nn`, and the file of data that it needs.
    fn new(text: &str, data: Option<&str>) -> Played {
        Played::by(text, data, cuda::Products::Exact)
    }

    fn by(text: &str, data: Option<&str>, products: cuda::Products) -> Played {
        let desk = Desk::new();
        desk.write("program.nn", text);
        if let Some(file) = data {
            std::fs::create_dir_all(desk.path(file).parent().unwrap()).unwrap();
            std::fs::copy(models().join(file), desk.path(file)).unwrap();
        }
        let checked = checked(text, DType::F32);
        let program = checked.program.as_ref().unwrap();
        let lowered = driver::lower(driver::graph(program), &checked.sources);
        let manifest = driver::manifest(program, &lowered, &checked.sources);
        std::fs::create_dir(desk.path("gpu")).unwrap();
        let lines = lowered.kernels.iter().zip(&manifest.kernels).map(|(k, m)| format!("{} {} {}\n", m.symbol, k.params.len(), k.sizes));
        desk.write("gpu/kernels", lines.collect::<String>());
        for (n, object) in cuda::emulated_by(&lowered.kernels, &manifest.kernels, products).unwrap().into_iter().enumerate() {
            desk.write(&format!("gpu/{n}.o"), object);
        }
        // Cargo puts the library where the test is.
        let library = std::env::current_exe().unwrap().with_file_name("libnnc_emulator.so");
        std::os::unix::fs::symlink(library, desk.path("gpu/libcuda.so.1")).unwrap();
        Played { desk }
    }

    /// A shipped program.
    fn model(name: &str, data: Option<&str>) -> Played {
        Played::new(&std::fs::read_to_string(models().join(name)).unwrap(), data)
    }

    fn command(&self, args: &str) -> Command {
        let mut command = self.desk.command(args);
        command.env("LD_LIBRARY_PATH", libraries(&self.desk)).env("NNC_FAKE_KERNELS", self.desk.path("gpu"));
        command
    }

    fn done(&self, args: &str) -> String {
        let output = self.command(args).output().unwrap();
        assert!(output.status.success(), "nnc {args}\n{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The exit code and what was said, with a GPU that has a fault.
    fn fails(&self, args: &str, fault: &str) -> (Option<i32>, String) {
        said(&self.command(args).env("NNC_FAKE_FAULT", fault).output().unwrap())
    }

    /// The same steps of an entry on both, whose losses must be equal.
    fn same_losses(&self, what: &str) {
        let [cpu, gpu] = ["cpu", "cuda"].map(|device| self.done(&format!("bench program.nn {what} --device {device} --threads 1")));
        assert_eq!(cpu, gpu, "{what}");
        assert!(cpu.contains("losses ["), "{cpu}");
    }
}

/// The folder with the played driver before those that the test itself looks into.
fn libraries(desk: &Desk) -> std::ffi::OsString {
    let mut folders = vec![desk.path("gpu")];
    folders.extend(std::env::var_os("LD_LIBRARY_PATH").iter().flat_map(|all| std::env::split_paths(all).collect::<Vec<_>>()));
    std::env::join_paths(folders).unwrap()
}

fn said(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).trim_end().to_string())
}

/// The log without times.
fn log(desk: &Desk, run: &str) -> Vec<serde_json::Value> {
    let text = String::from_utf8(desk.read(&format!("{run}/log.jsonl"))).unwrap();
    let lines = text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()).filter(|l| l.get("done").is_none());
    lines.map(|mut l| (l.as_object_mut().unwrap().remove("seconds"), l).1).collect()
}

#[test]
fn an_artifact_for_gpus_holds_ptx_and_is_no_program_for_cpus() {
    let desk = Desk::new();
    desk.done("build kinds.nn --target cuda -o gpu.nnc");
    let artifact = Artifact::read(&desk.path("gpu.nnc")).unwrap();
    let text: String = artifact.code.iter().map(|(_, text)| String::from_utf8(text.clone()).unwrap()).collect();
    assert!(text.contains(".target sm_80"), "{text}");
    let manifest = &artifact.manifest;
    assert_eq!(manifest.grids.len(), manifest.kernels.len());
    for (kernel, grid) in manifest.kernels.iter().zip(&manifest.grids) {
        assert!(text.contains(&format!(".entry {}(", kernel.symbol)), "{}", kernel.symbol);
        assert_eq!(grid.threads, 128);
    }
    let again = desk.path("again.nnc");
    desk.done("build kinds.nn --target cuda -o again.nnc");
    assert_eq!(std::fs::read(again).unwrap(), desk.read("gpu.nnc"), "the same program gives the same bytes");
    desk.done("build kinds.nn");
    for (command, why) in [
        ("run gpu.nnc --device cpu", "the artifact was built with --target cuda"),
        ("run kinds.nnc --device cuda", "the artifact was built with --target cpu"),
        ("bench kinds.nnc --device cuda", "the artifact was built with --target cpu"),
        ("run kinds.nn --device tpu", "--device is cpu or cuda, not tpu"),
    ] {
        let (code, said) = said(&desk.run(command));
        assert!(code == Some(2) && said.contains(why), "nnc {command}\n{said}");
    }
}

#[test]
fn without_a_gpu_every_command_says_what_is_missing() {
    let desk = Desk::new();
    desk.done("build kinds.nn --target cuda -o gpu.nnc");
    // A driver that is none, found before any other.
    std::fs::create_dir(desk.path("gpu")).unwrap();
    desk.write("gpu/libcuda.so.1", "nothing");
    for command in
        ["run gpu.nnc", "run gpu.nnc infer", "bench gpu.nnc train", "run kinds.nn --device cuda", "sweep kinds.nn --over seed=1,2 --device cuda"]
    {
        let (code, said) = said(&desk.command(command).env("LD_LIBRARY_PATH", libraries(&desk)).output().unwrap());
        let parts = ["built for GPUs (--target cuda)", "there is no driver for a GPU: libcuda.so.1", "install it or run on a CPU"];
        assert!(code == Some(4) && parts.iter().all(|p| said.contains(p)), "nnc {command}\n{said}");
    }
    let doctor = desk.command("doctor").env("LD_LIBRARY_PATH", libraries(&desk)).output().unwrap();
    let text = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(doctor.status.success() && text.contains("gpu             none (needed only for --device cuda): there is no driver"), "{text}");
}

#[test]
fn a_gpu_that_cannot_be_used_is_an_error_in_words() {
    let played = Played::new(crate::support::desk::PROGRAM, None);
    for (fault, parts) in [
        ("no-card", &["there is a driver, but no GPU that it can use", "run on a CPU"][..]),
        ("old-driver", &["the GPU's driver is too old: it is for CUDA 11.2, and programs need 11.4 or newer"]),
        ("old-card", &["the GPU is too old: A played GPU has compute capability 7.5, and programs need 8.0 or newer"]),
        ("broken-card", &["the GPU's driver cannot begin: unknown error (CUDA_ERROR_UNKNOWN)"]),
        ("code", &["does not take the program's code: a PTX JIT compilation failed (CUDA_ERROR_INVALID_PTX)", "\nptxas application ptx input"]),
        ("launch", &["the GPU failed while it ran init", "unspecified launch failure (CUDA_ERROR_LAUNCH_FAILED)"]),
        ("memory=100", &["bytes of the GPU's memory, of which 100 of 100 are free"]),
    ] {
        let (code, said) = played.fails("run program.nn --device cuda --quiet", fault);
        assert!(code == Some(4) && parts.iter().all(|p| said.contains(p)), "{fault}: {code:?}\n{said}");
    }
    let doctor = played.done("doctor");
    assert!(doctor.contains("gpu             A played GPU, compute capability 8.0, 1.1 GB, driver of CUDA 13.0"), "{doctor}");
}

/// One launch after the other, by the GPU's clock: the same bits, and where the time went.
#[test]
fn a_profile_of_a_gpu_has_its_kernels_and_changes_no_bit() {
    let played = Played::new(crate::support::desk::PROGRAM, None);
    played.done("run program.nn --device cuda --quiet --run-dir plain");
    let text = played.done("run program.nn --device cuda --profile=trace.json --run-dir timed");
    let part = |name: &str| text.split("\n\n").find(|part| part.starts_with(name)).unwrap_or_else(|| panic!("no {name} in\n{text}"));
    assert!(text.contains("one launch after the other on A played GPU, compute capability 8.0"), "{text}");
    let steps = part("train:fit: 4 runs, ");
    assert!(steps.contains("GFLOP/s     GB/s   kernel, line\n") && !steps.contains("roof") && !steps.contains("wake-ups"), "{steps}");
    let rows: Vec<&str> = steps.lines().filter(|l| l.contains("program.nn:")).collect();
    // The played clock: a microsecond for each block, of which a launch has one.
    let microsecond = |row: &&str| {
        let words: Vec<&str> = row.split_whitespace().collect();
        let unit = if words[3] == "us" { 1e3 } else { 1.0 };
        (words[2].parse::<f64>().unwrap() * unit - 1e3).abs() < 20.0 && words[4] == "1.0"
    };
    assert!(!rows.is_empty() && rows.iter().all(microsecond), "{steps}");
    assert_eq!(played.desk.read("plain/best.safetensors"), played.desk.read("timed/best.safetensors"));
    let trace: serde_json::Value = serde_json::from_slice(&played.desk.read("trace.json")).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    assert!(events.len() >= 4 * rows.len() && events.iter().any(|e| e["dur"].as_f64() > Some(0.5)), "{trace}");
    let timed = played.done("bench program.nn train --device cuda --profile --seconds 0.01 --rounds 1");
    assert!(timed.contains("train:fit: ") && timed.contains("one launch after the other on A played GPU"), "{timed}");
}

/// The first value that is not finite is found on a GPU with the words of the CPU, in loops too; what is stored stays as it was.
#[test]
fn bad_values_are_found_on_a_gpu_as_on_a_cpu() {
    let log = crate::support::desk::PROGRAM.replace("linear(x, 3, name: \"fc\")", "y[b, i] = log(x[b, i]) * 2\n    linear(y, 3, name: \"fc\")");
    let rate = crate::support::desk::PROGRAM.replace("sgd(lr: 0.1)", "sgd(lr: 1e39)");
    for (text, words) in [(&log, "at program.nn:6"), (&rate, "values of the new Kinds.fc.")] {
        let played = Played::new(text, None);
        let [cpu, gpu] = ["cpu", "cuda"].map(|device| {
            let (code, said) = played.fails(&format!("run program.nn --device {device} --check-numerics --quiet --run-dir {device}"), "");
            (code, said.replace(device, "DEVICE"))
        });
        assert_eq!(cpu, gpu);
        assert!(cpu.0 == Some(1) && cpu.1.contains(words) && cpu.1.contains("step 1: "), "{cpu:?}");
    }
    let played = Played::new(crate::support::desk::PROGRAM, None);
    for (folder, flags) in [("plain", "--device cpu"), ("looked-at", "--device cuda --check-numerics")] {
        played.done(&format!("run program.nn {flags} --quiet --run-dir {folder}"));
    }
    assert_eq!(played.desk.read("plain/best.safetensors"), played.desk.read("looked-at/best.safetensors"));
}

/// Trained, evaluated, inferred with, killed and gone on with on a GPU: everything that is written is what a CPU writes.
#[test]
fn a_run_on_a_gpu_writes_the_bytes_of_one_on_a_cpu() {
    let played = Played::model("digits.nn", Some("data/digits.csv.gz"));
    let settings = "--set train.epochs=2 --quiet";
    played.done(&format!("run program.nn train {settings} --run-dir cpu"));
    played.done("build program.nn --target cuda -o gpu.nnc --quiet");
    let args = format!("run gpu.nnc train {settings} --save-every 3 --run-dir gpu-run");
    let mut child = played.command(&args).stdout(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    while !played.desk.path("gpu-run/last.safetensors").exists() && began.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    played.done("run gpu.nnc train --quiet --resume gpu-run");
    assert_eq!(played.desk.read("cpu/best.safetensors"), played.desk.read("gpu-run/best.safetensors"));
    assert_eq!(log(&played.desk, "cpu"), log(&played.desk, "gpu-run"));
    let trained = Artifact::read(&played.desk.path("gpu-run/model.nnc")).unwrap();
    assert!(!trained.manifest.grids.is_empty() && trained.weights.is_some());
    for what in ["eval", "infer --data test --output"] {
        let with = |device: &str| {
            let output = if what == "eval" { String::new() } else { format!(" {device}-results") };
            played.done(&format!("run program.nn {what}{output} --device {device} --weights cpu/best.safetensors"))
        };
        let [cpu, gpu] = ["cpu", "cuda"].map(with);
        assert_eq!(cpu, gpu.replace("cuda-results", "cpu-results"));
    }
    let results: Vec<_> = std::fs::read_dir(played.desk.path("cpu-results")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!results.is_empty());
    for name in results {
        let [cpu, gpu] = ["cpu", "cuda"].map(|d| std::fs::read(played.desk.path(&format!("{d}-results")).join(&name)).unwrap());
        assert_eq!(cpu, gpu, "{name:?}");
    }
}

/// Loops, in which every round has addresses of its own; convolutions; attention; several recipes.
#[test]
fn steps_of_the_models_have_the_losses_of_a_cpu() {
    for (model, what) in [
        ("digits_lstm.nn", "train --steps 3 --batch 3"),
        ("digits_cnn.nn", "train --steps 2 --batch 2"),
        ("tiny_gpt.nn", "train --steps 2 --batch 2 --dim T=5"),
        ("gradient_penalty.nn", "train --steps 2"),
    ] {
        Played::model(model, None).same_losses(what);
    }
}

/// Tensor units, asked for: nearly the losses of a CPU, by other bits.
#[test]
fn products_by_tensor_units_are_asked_for_and_come_near() {
    let text = std::fs::read_to_string(models().join("digits.nn")).unwrap();
    let played = Played::by(&text, None, cuda::Products::Tensor);
    played.done("build program.nn --target cuda --products tensor -o units.nnc --quiet");
    let artifact = Artifact::read(&played.desk.path("units.nnc")).unwrap();
    assert!(artifact.code.iter().any(|(_, text)| String::from_utf8_lossy(text).contains("mma.sync.aligned.m16n8k8")));
    let losses = |file: &str| -> Vec<f64> {
        let line = played.done(&format!("bench {file} train --steps 6 --batch 40 --json"));
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        line["losses"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
    };
    let (cpu, gpu) = (losses("program.nn --threads 1"), losses("units.nnc"));
    assert_eq!(cpu.len(), 6);
    assert!(cpu.iter().zip(&gpu).all(|(a, b)| (a - b).abs() <= 1e-5 * a.abs()), "{cpu:?}\n{gpu:?}");
    assert_ne!(cpu, gpu);
    let (code, said) = said(&played.desk.run("build program.nn --products tensor"));
    assert!(code == Some(2) && said.contains("--products tensor is for GPUs: add --target cuda"), "{said}");
}

const PICK: &str = "\
nn 1

dim B

model Pick(word: token<5>[B]) -> real[B, 3] {
    param table: real[5, 3] = normal(1.0)
    table[word]
}
";

#[test]
fn a_failed_check_is_reported_with_its_line_as_on_a_cpu() {
    let played = Played::new(PICK, None);
    played.desk.write("word.npy", nnc_runtime::npy::to_npy(&Tensor::from_i64(&[3], &[1, 7, 2])));
    played.desk.write("good.npy", nnc_runtime::npy::to_npy(&Tensor::from_i64(&[3], &[1, 4, 2])));
    let manifest = Artifact::read(&{
        played.done("build program.nn --quiet");
        played.desk.path("program.nnc")
    })
    .unwrap()
    .manifest;
    let mut store = nnc_runtime::tensors::Tensors::new(&manifest.tensors).unwrap();
    store.bytes_mut(0)[3] = 64;
    let weights = nnc_runtime::weights::to_bytes(&store, nnc_runtime::weights::MODEL, None).unwrap();
    played.desk.write("w.safetensors", weights);
    let [cpu, gpu] =
        ["cpu", "cuda"].map(|d| played.fails(&format!("run program.nn infer --device {d} --weights w.safetensors --input word=word.npy"), ""));
    assert_eq!(cpu, gpu);
    assert!(cpu.0 == Some(1) && cpu.1.contains("an index is out of bounds at program.nn:7"), "{cpu:?}");
    played.done("run program.nn infer --device cuda --weights w.safetensors --input word=good.npy");
}
