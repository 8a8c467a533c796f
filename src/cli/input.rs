//! Reading programs from disk, and refusing them with their diagnostics.

use super::{Failure, colour};
use crate::diagnostic::did_you_mean;
use crate::driver::{self, Checked, Mark};
use crate::ir::DType;
use std::io::ErrorKind;
use std::path::{Component, Path, PathBuf};

/// Flags that every command on source shares.
#[derive(clap::Args, Debug, Clone)]
pub struct Source {
    /// The program
    pub file: PathBuf,
    /// Overrides a setting: train.batch=64, fit.optimizer.lr=0.01, const.H=32
    #[arg(long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
}

/// The file's text.
///
/// # Errors
/// Missing, unreadable, a directory, not UTF-8.
pub fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|e| {
        let name = path.display();
        match e.kind() {
            ErrorKind::NotFound => Failure::world(format!("there is no file {name}{}", meant(path))),
            ErrorKind::IsADirectory => Failure::world(format!("{name} is a directory, not a file")),
            ErrorKind::InvalidData if path.extension().is_some_and(|e| e == "nn") => Failure::program(format!("{name} is not UTF-8 text")),
            ErrorKind::InvalidData => {
                Failure::program(format!("{name} is no program: programs are UTF-8 text (.nn), artifacts come from `nnc build` (.nnc)"))
            }
            _ => Failure::world(format!("cannot read {name}: {e}")),
        }
    })
}

/// The program beside a missing one that may have been meant.
fn meant(missing: &Path) -> String {
    let folder = missing.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let beside = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let programs: Vec<String> = beside.filter(|name| name.ends_with(".nn")).collect();
    let name = missing.file_name().unwrap_or_default().to_string_lossy();
    let near = did_you_mean(&name, programs.iter().map(String::as_str));
    near.map_or(String::new(), |near| format!(": did you mean {}?", missing.with_file_name(near).display()))
}

/// Checks the program and reports what was found; fails if there are errors.
///
/// # Errors
/// The file cannot be read, `--set` is malformed, the program is wrong (its diagnostics are printed).
pub fn check(source: &Source, real: DType) -> Result<Checked, Failure> {
    check_marked(source, real, &|_| {})
}

/// [`check`], with the end of its stages marked.
///
/// # Errors
/// As [`check`].
pub fn check_marked(source: &Source, real: DType, mark: Mark) -> Result<Checked, Failure> {
    let checked = check_quietly(source, real, mark)?;
    eprint!("{}", checked.rendered(colour()));
    match checked.counts() {
        (0, _) => Ok(checked),
        (1, _) => Err(Failure::program(format!("{} has 1 mistake", source.file.display()))),
        (n, _) => Err(Failure::program(format!("{} has {n} mistakes", source.file.display()))),
    }
}

/// Checks the program without printing.
///
/// # Errors
/// The file cannot be read, `--set` is malformed.
pub fn check_quietly(source: &Source, real: DType, mark: Mark) -> Result<Checked, Failure> {
    let text = read(&source.file)?;
    let folder = source.file.parent().map(Path::to_path_buf).unwrap_or_default();
    let load = |path: &str| load(&folder, path);
    let mut set = Vec::new();
    for pair in &source.set {
        let (path, value) = pair.split_once('=').ok_or_else(|| Failure::usage(format!("--set takes PATH=VALUE, not `{pair}`")))?;
        set.push((path.trim().to_string(), value.trim().to_string()));
    }
    Ok(driver::check_marked(&driver::Input { name: &source.file.to_string_lossy(), text: &text, load: &load, real, set }, mark))
}

/// An imported file's text; imports stay inside the root's folder, symbolic links included.
fn load(folder: &Path, path: &str) -> Result<String, String> {
    let relative = Path::new(path);
    if relative.components().any(|c| !matches!(c, Component::Normal(_) | Component::CurDir)) {
        return Err("imports stay inside the program's folder".into());
    }
    let base = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let (inside, file) = (base.canonicalize(), base.join(relative).canonicalize());
    match (inside, file) {
        (Ok(inside), Ok(file)) if file.starts_with(&inside) => std::fs::read_to_string(&file).map_err(|e| e.to_string()),
        (Ok(_), Ok(_)) => Err("imports stay inside the program's folder".into()),
        (_, Err(e)) | (Err(e), _) if e.kind() == ErrorKind::NotFound => Err("there is no such file".into()),
        (_, Err(e)) | (Err(e), _) => Err(e.to_string()),
    }
}
