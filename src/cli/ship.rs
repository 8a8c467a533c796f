//! What is shipped of an artifact: an executable of its own, or files for a C compiler. The runtime's part of it is built beside nnc, without LLVM.

use super::{Failure, header};
use crate::emit::data;
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
            let fix =
                format!("in nnc's source, `cargo build --release --package {package}` makes it{install}; then give --runtime SOURCE/target/release");
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

    /// `libnnc`, static and shared.
    ///
    /// # Errors
    /// It is not there: what makes it.
    pub fn libraries(&self) -> Result<Libraries, Failure> {
        let library = |name| self.file(name, "nnc-c", "").map(|(_, bytes)| bytes);
        Ok(Libraries { fixed: library("libnnc_c.a")?, shared: library("libnnc_c.so")? })
    }
}

/// What C programs are linked with.
pub struct Libraries {
    fixed: Vec<u8>,
    shared: Vec<u8>,
}

/// The functions of `libnnc`.
const HEADER: &str = include_str!("../../runtime/c/nnc.h");

/// Writes what a C compiler needs for `artifact` into `folder`, and gives its size.
///
/// # Errors
/// LLVM cannot be used; not writable.
pub fn c(libraries: &Libraries, artifact: &Artifact, folder: &Path) -> Result<usize, Failure> {
    let name = header::name(&artifact.manifest);
    let object = data::constant(&format!("{name}_artifact"), &artifact.to_bytes()).map_err(Failure::world)?;
    let (header, example) = (header::header(&artifact.manifest), header::example(&artifact.manifest, artifact.weights.is_some()));
    let own = [(format!("{name}.h"), header.as_bytes()), (format!("{name}.o"), &object)];
    let shared = [("nnc.h", HEADER.as_bytes()), ("libnnc.a", &libraries.fixed), ("libnnc.so", &libraries.shared)];
    let example = example.as_ref().map(|text| (format!("{name}_example.c"), text.as_bytes()));
    files::create_folder(folder)?;
    let mut bytes = 0;
    for (name, content) in shared.map(|(name, content)| (name.to_string(), content)).into_iter().chain(own).chain(example) {
        files::write(&folder.join(name), content)?;
        bytes += content.len();
    }
    Ok(bytes)
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
