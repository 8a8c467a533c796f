//! The Python module: its wheel is built, installed into an environment of its own, and used.
//!
//! Python, its packages and their index are outside of this repository; where they cannot be had, the check says that it has not run.

use std::path::{Path, PathBuf};
use std::process::Command;

const HOME: &str = "target/wheel";

/// Builds and tries the wheel. `nnc` builds nnc and gives its folder.
pub fn run(nnc: &dyn Fn() -> Result<PathBuf, String>) -> Result<(), String> {
    let tools = match tools() {
        Ok(tools) => tools,
        Err(why) => {
            println!("NOT RUN: the Python module was not built, because its tools cannot be had: {why}");
            return Ok(());
        }
    };
    let nnc = nnc()?.join("nnc");
    let dist = format!("{HOME}/dist");
    let _ = std::fs::remove_dir_all(&dist);
    done(Command::new(tools.join("maturin")).args([
        "build",
        "--quiet",
        "--release",
        "--manifest-path",
        "runtime/python/Cargo.toml",
        "--out",
        &dist,
    ]))?;
    let files = std::fs::read_dir(&dist).map_err(|e| format!("{dist}: {e}"))?.flatten().map(|e| e.path());
    let wheel = files.into_iter().find(|p| p.extension().is_some_and(|e| e == "whl")).ok_or("maturin has left no wheel")?;
    done(Command::new(tools.join("python")).args(["-m", "pip", "install", "--quiet", "--no-deps", "--force-reinstall"]).arg(&wheel))?;
    let at = |name: &str| format!("{HOME}/{name}");
    let _ = std::fs::remove_dir_all(at("run"));
    let image = "import sys, numpy; numpy.save(sys.argv[1], (numpy.arange(64) % 17).reshape(1, 64).astype('float32') / 16)";
    done(Command::new(tools.join("python")).args(["-c", image, &at("image.npy")]))?;
    let (run, model, bare) = (at("run"), at("run/model.nnc"), at("digits.nnc"));
    done(Command::new(&nnc).args(["run", "models/digits.nn", "train", "--quiet", "--set", "train.epochs=1", "--run-dir", &run]))?;
    done(Command::new(&nnc).args(["build", "models/digits.nn", "--quiet", "-o", &bare]))?;
    done(Command::new(&nnc).args(["run", &model, "infer", "--quiet", "--output", HOME, "--input", &format!("image={}", at("image.npy"))]))?;
    done(Command::new(tools.join("python")).arg("runtime/python/test_nnc.py").args([&model, &bare, &at("image.npy"), &at("output.npy")]))?;
    println!("{} is built, installed and tried", wheel.display());
    Ok(())
}

/// The folder with Python, maturin and NumPy, made once.
fn tools() -> Result<PathBuf, String> {
    let folder = Path::new(HOME).join("venv/bin");
    let whole = Path::new(HOME).join("tools");
    if whole.exists() {
        return Ok(folder);
    }
    std::fs::create_dir_all(HOME).map_err(|e| format!("{HOME}: {e}"))?;
    done(Command::new("python3").args(["-m", "venv", "--clear", &format!("{HOME}/venv")]))?;
    done(Command::new(folder.join("python")).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "maturin>=1.9,<2", "numpy"]))?;
    std::fs::write(&whole, "").map_err(|e| format!("{}: {e}", whole.display()))?;
    Ok(folder)
}

/// Runs what must work; what it prints is seen.
fn done(command: &mut Command) -> Result<(), String> {
    let name = Path::new(command.get_program()).display().to_string();
    let status = command.status().map_err(|e| format!("cannot start {name}: {e}"))?;
    let words: Vec<String> = command.get_args().map(|a| a.to_string_lossy().into_owned()).collect();
    if status.success() { Ok(()) } else { Err(format!("`{name} {}` failed", words.join(" "))) }
}
