//! What is shipped of an artifact: an executable of its own. The runtime's part of it is built beside nnc, without LLVM.

use super::Failure;
use nnc_runtime::artifact::Artifact;
use nnc_runtime::{carried, files};
use std::path::{Path, PathBuf};

/// Where the runtime's files are.
pub struct Runtime {
    folder: PathBuf,
}

impl Runtime {
    /// In the folder that was given, or else in that of this executable.
    ///
    /// # Errors
    /// The executable cannot find itself.
    pub fn find(given: Option<&Path>) -> Result<Runtime, Failure> {
        let own = || {
            let path = std::env::current_exe().and_then(|p| p.canonicalize());
            path.map_err(|e| {
                Failure::world(format!("nnc cannot find its own file, beside which its runtime is: {e}; name its folder with --runtime"))
            })
        };
        let folder = match given {
            Some(folder) => folder.to_path_buf(),
            None => own()?.parent().unwrap_or(Path::new("/")).to_path_buf(),
        };
        Ok(Runtime { folder })
    }

    /// One of its files.
    fn file(&self, name: &str, package: &str, install: &str) -> Result<(PathBuf, Vec<u8>), Failure> {
        let path = self.folder.join(name);
        if !path.is_file() {
            let folder = self.folder.display();
            let fix = format!("in nnc's source, `cargo build --release --package {package}` makes it{install}; --runtime DIR names another folder");
            return Err(Failure::world(format!("there is no {name} in {folder}: {fix}")));
        }
        let bytes = files::read(&path)?;
        Ok((path, bytes))
    }

    /// `nnc-run`.
    ///
    /// # Errors
    /// It is not there: what makes it.
    pub fn runner(&self) -> Result<Runner, Failure> {
        let (path, bytes) = self.file("nnc-run", "nnc-runtime", ", `cargo install --path runtime` installs it beside an installed nnc")?;
        Ok(Runner { path, bytes })
    }
}

/// What runs artifacts.
pub struct Runner {
    path: PathBuf,
    bytes: Vec<u8>,
}

/// Writes an executable that runs `artifact`, and gives its size.
///
/// # Errors
/// What was found is no runner of this version; not writable.
pub fn executable(runner: &Runner, artifact: &Artifact, output: &Path) -> Result<usize, Failure> {
    let whole = carried::fill(&runner.bytes, &runner.path.display().to_string(), &artifact.to_bytes())?;
    files::write_executable(output, &whole)?;
    Ok(whole.len())
}
