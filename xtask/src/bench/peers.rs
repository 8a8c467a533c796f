//! The peers: Python processes that time their own step of a workload.

use super::worker::Worker;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where they are.
#[derive(Clone, Copy)]
pub struct Environment<'a> {
    /// Holds `venv`; and the peers' own `artifacts`.
    pub peers: &'a Path,
    /// Holds peers.py.
    pub scripts: &'a Path,
}

impl Environment<'_> {
    fn python(&self) -> Command {
        let mut python = Command::new(self.peers.join("venv/bin/python"));
        python.env("PEERS_DIR", self.peers);
        python
    }

    /// PyTorch's weights and inputs of a workload, under our names: two files.
    ///
    /// # Errors
    /// The script's last words.
    pub fn export(&self, workload: &str, mode: &str, batch: &str) -> Result<(PathBuf, PathBuf), String> {
        let out = self.peers.join("nnc");
        let mut python = self.python();
        python.arg("benches/export.py").args([self.scripts, &out]).args([workload, mode, batch]);
        finish(&mut python, "export.py")?;
        Ok((out.join(format!("{workload}.npz")), out.join(format!("{workload}_b{batch}_{mode}.npz"))))
    }

    /// A peer, ready to be timed. A name that ends in `+` is PyTorch tuned: MKL's AVX-512 kernels, and an allocator that keeps what was freed.
    ///
    /// # Errors
    /// It is not installed, or fails: its last words.
    pub fn worker(&self, workload: &str, peer: &str, mode: &str, batch: &str, threads: usize) -> Result<Worker, String> {
        let plain = peer.trim_end_matches('+');
        self.prepare(workload, batch, plain)?;
        let mut python = self.python();
        python.arg("benches/measure.py").arg(self.scripts).args([workload, plain, mode, batch, &threads.to_string()]);
        if plain != peer {
            tune(&mut python, self.peers);
        }
        Worker::start(&format!("{peer} {threads}"), &mut python)
    }

    /// PyTorch's convolution, tuned, or one of its gradients.
    ///
    /// # Errors
    /// As [`Environment::worker`].
    pub fn convolution(&self, model: &str, sizes: &str, threads: usize) -> Result<Worker, String> {
        let mut python = self.python();
        python.arg("benches/measure.py").arg(self.scripts).args(["convolution", model, "torch", sizes, &threads.to_string()]);
        tune(&mut python, self.peers);
        Worker::start(&format!("torch+ {threads}"), &mut python)
    }

    /// A library's matrix product: NumPy's by OpenBLAS with its AVX-512 kernels, which it does not choose by itself on every CPU, or PyTorch's by MKL.
    ///
    /// # Errors
    /// As [`Environment::worker`].
    pub fn product(&self, library: &str, model: &str, sizes: &str, threads: usize) -> Result<Worker, String> {
        let mut python = self.python();
        python.arg("benches/measure.py").arg(self.scripts).args(["product", model, library, sizes, &threads.to_string()]);
        if library == "torch" {
            tune(&mut python, self.peers);
        } else if std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|t| t.contains("avx512vl")) {
            python.env("OPENBLAS_CORETYPE", "SkylakeX");
        }
        let name = if library == "torch" { "mkl" } else { "openblas" };
        Worker::start(&format!("{name} {threads}"), &mut python)
    }

    /// The peers' own exports, which some of them read.
    fn prepare(&self, workload: &str, batch: &str, peer: &str) -> Result<(), String> {
        let artifacts = self.peers.join("artifacts");
        let needed = match peer {
            "onnxruntime" | "openvino" => format!("{workload}_b{batch}.onnx"),
            "jax" | "jax_scan" | "numpy" => format!("{workload}.npz"),
            _ => return Ok(()),
        };
        if artifacts.join(needed).exists() {
            return Ok(());
        }
        let mut python = self.python();
        python.arg(self.scripts.join("peers.py")).args(["prepare", workload, "--batch", batch]);
        finish(&mut python, "peers.py prepare")
    }
}

/// PyTorch at its best: what its users could do, with some effort.
fn tune(python: &mut Command, peers: &Path) {
    let shim = peers.join("fakeintel.so");
    if shim.exists() {
        python.env("LD_PRELOAD", shim);
    }
    python.envs([("MALLOC_MMAP_THRESHOLD_", "4294967296"), ("MALLOC_TRIM_THRESHOLD_", "17179869184"), ("MALLOC_TOP_PAD_", "67108864")]);
}

/// Runs it to its end.
fn finish(command: &mut Command, name: &str) -> Result<(), String> {
    let output = command.output().map_err(|e| format!("cannot start {name}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(format!("{name}: {}", errors.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("failed")))
}
