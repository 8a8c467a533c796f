//! Matrix products and convolutions alone: what the contraction engine reaches, against OpenBLAS, MKL and oneDNN (by PyTorch), and the `gemm` crate.

use super::options::Options;
use super::worker::{Worker, middle};
use super::{Build, FOLDER, append, build, compile, take_turns};
use crate::variant::variant;
use serde_json::json;
use std::path::Path;
use std::process::Command;

/// Model of `product.nn`, M, N, K.
const PRODUCTS: &[(&str, [u64; 3])] = &[
    ("Plain", [512, 512, 512]),
    ("Plain", [1024, 1024, 1024]),
    ("Plain", [2048, 2048, 2048]),
    ("Plain", [128, 768, 768]),
    ("Linear", [128, 768, 768]),
    ("Packed768", [128, 768, 768]),
    ("Weights", [128, 768, 768]),
    ("Linear", [1024, 1024, 1024]),
    ("Weights", [1024, 1024, 1024]),
    ("Plain", [197, 768, 768]),
    ("Linear", [197, 768, 768]),
    ("Packed768", [197, 768, 768]),
    ("Plain", [32, 3072, 768]),
    ("Linear", [32, 3072, 768]),
    ("Packed3072", [32, 3072, 768]),
    ("Plain", [1, 4096, 4096]),
    ("Linear", [1, 4096, 4096]),
    ("Packed4096", [1, 4096, 4096]),
    ("Plain", [1000, 1000, 1000]),
    ("Plain", [197, 769, 771]),
    ("Plain", [511, 513, 515]),
    ("Plain", [5, 769, 771]),
];

/// Batch, channels in, channels out, height and width; height and width of the window, stride.
const CONVOLUTIONS: &[[u64; 6]] =
    &[[16, 64, 64, 32, 3, 1], [16, 256, 256, 14, 3, 1], [16, 3, 64, 32, 3, 1], [16, 64, 128, 32, 3, 2], [16, 256, 256, 14, 1, 1]];
/// So many of them, from the first on, are timed with sizes known at run time only, too.
const FREE: usize = 3;
/// Channels from which on a program may say that there are so many, and what it declares then.
const MANY: u64 = 32;
const BOUNDED: &str = "dim B, 32 <= C, 32 <= O, H, W\nconst Side = 3, Stride = 1, Padding = 1\n";
/// What `convolution.nn` declares.
const DIMS: &str = "dim B, C, O, H, W\nconst Side = 3, Stride = 1, Padding = 1\n";

/// Prints a line for each shape and number of threads.
///
/// # Errors
/// nnc cannot be built or fails.
pub fn run(options: &Options, binaries: &Path) -> Result<(), String> {
    let all = std::thread::available_parallelism().map_or(1, |n| n.get());
    let threads = if all > 1 { vec![1, all] } else { vec![1] };
    let gemm = options.slow.then(gemm).transpose()?;
    if gemm.is_none() {
        println!("without the `gemm` crate, which is compiled and compared with --slow");
    }
    println!("{:36} threads   nnc GFLOP/s  of peak  of tile    others: GFLOP/s, nnc's speed divided by theirs", "shape");
    let product = build("product", false, binaries)?;
    for (model, [m, n, k]) in PRODUCTS {
        let name = format!("{model} {m}x{n}x{k}");
        if !options.wants(&name) {
            continue;
        }
        for &threads in &threads {
            let sizes = [format!("M={m}"), format!("N={n}"), format!("K={k}")];
            let mut workers = vec![own(binaries, &product.artifact, model, &sizes, threads)?];
            let shape = format!("{m},{n},{k}");
            if let Some(environment) = options.environment() {
                for library in ["numpy", "torch"] {
                    keep(&mut workers, environment.product(library, model, &shape, threads));
                }
            }
            if let Some(binary) = &gemm {
                let mut command = Command::new(binary);
                keep(&mut workers, Worker::start(&format!("gemm {threads}"), command.args([*model, &shape, &threads.to_string()])));
            }
            report(options, &name, threads, (2 * m * n * k) as f64, &mut workers)?;
        }
    }
    let free = build("convolution", false, binaries)?;
    let bounded = declared("convolution_of_many", BOUNDED, binaries)?;
    for (number, [b, c, o, size, side, stride]) in CONVOLUTIONS.iter().enumerate() {
        let window = if (*side, *stride) == (3, 1) { String::new() } else { format!(" {side}x{side}/{stride}") };
        let constants =
            format!("dim B\nconst C = {c}, O = {o}, H = {size}, W = {size}\nconst Side = {side}, Stride = {stride}, Padding = {}\n", side / 2);
        let batch = format!("B={b}");
        let sizes = [batch.clone(), format!("C={c}"), format!("O={o}"), format!("H={size}"), format!("W={size}")];
        let mut ways = vec![("layer", declared(&format!("layer_{c}_{o}_{size}_{side}_{stride}"), &constants, binaries)?.artifact, vec![batch])];
        if number < FREE && *c.min(o) >= MANY {
            ways.push(("convolution", bounded.artifact.clone(), sizes.to_vec()));
        }
        if number < FREE {
            ways.push(("unbounded", free.artifact.clone(), sizes.to_vec()));
        }
        for (model, (what, artifact, sizes)) in ["Forward", "Data", "Weights"].iter().flat_map(|m| ways.iter().map(move |way| (m, way))) {
            let name = format!("{what} {model} {b}x{c}->{o}x{size}x{size}{window}");
            if !options.wants(&name) {
                continue;
            }
            for &threads in &threads {
                let mut workers = vec![own(binaries, artifact, model, sizes, threads)?];
                if let Some(environment) = options.environment() {
                    keep(&mut workers, environment.convolution(model, &format!("{b},{c},{o},{size},{side},{stride}"), threads));
                }
                report(options, &name, threads, (2 * b * c * o * (size / stride).pow(2) * side * side) as f64, &mut workers)?;
            }
        }
    }
    Ok(())
}

/// The convolutions where a program says so much of their sizes: what nnc knows lets it choose how to compute them.
fn declared(name: &str, sizes: &str, binaries: &Path) -> Result<Build, String> {
    let file = Path::new(FOLDER).join(format!("{name}.nn"));
    compile(&variant(&file, "convolution", &[(DIMS, sizes)])?, name, false, binaries)
}

fn own(binaries: &Path, artifact: &Path, model: &str, sizes: &[String], threads: usize) -> Result<Worker, String> {
    let mut command = Command::new(binaries.join("nnc-run"));
    command.arg(artifact).args(["bench", &format!("infer:{model}"), "--wait", "--json", "--threads", &threads.to_string()]);
    command.args(sizes.iter().flat_map(|size| ["--dim", size.as_str()]));
    Worker::start(&format!("nnc {threads}"), &mut command)
}

fn keep(workers: &mut Vec<Worker>, worker: Result<Worker, String>) {
    match worker {
        Ok(worker) => workers.push(worker),
        Err(why) => println!("  left out: {why}"),
    }
}

/// The crate `gemm` as a process like the others. It stands apart from the workspace, so that only those who compare compile it.
fn gemm() -> Result<std::path::PathBuf, String> {
    let manifest = Path::new("benches/gemm/Cargo.toml");
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--release", "--target-dir", "target/bench/gemm", "--manifest-path"]).arg(manifest);
    match command.status() {
        Ok(status) if status.success() => Ok("target/bench/gemm/release/gemm-worker".into()),
        Ok(_) => Err("the gemm crate cannot be built".into()),
        Err(e) => Err(format!("cannot start cargo: {e}")),
    }
}

fn report(options: &Options, name: &str, threads: usize, flops: f64, workers: &mut [Worker]) -> Result<(), String> {
    take_turns(workers, options)?;
    let speed = |w: &Worker| flops / w.median() / 1e6;
    let (own, others) = workers.split_first().expect("nnc is first");
    let peak = middle(own.rounds.iter().filter_map(|r| r.peak));
    let tile = middle(own.rounds.iter().filter_map(|r| r.tile));
    let share = |most: f64| 100.0 * speed(own) / most;
    let mut text = format!("{name:36} {threads:7}   {:11.1}  {:5.1} %  {:5.1} %   ", speed(own), share(peak), share(tile));
    for other in others {
        text += &format!("  {} {:.1}, {:.2}", other.name.split(' ').next().unwrap_or_default(), speed(other), 1.0 / own.ratio(other));
    }
    println!("{text}");
    let speeds: Vec<_> = workers.iter().map(|w| json!({ "name": w.name, "gflops": speed(w), "best_gflops": flops / w.min() / 1e6 })).collect();
    append(&options.history, &json!({ "contraction": name, "threads": threads, "peak_gflops": peak, "tile_gflops": tile, "workers": speeds }))
}
