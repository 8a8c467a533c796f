//! Finds LLVM, or installs it where apt is; elsewhere says what to install. Nothing here needs LLVM: not to build, not to run.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// An LLVM that the compiler can be built with.
pub struct Llvm {
    /// 22, or 19 where 22 is not to be had.
    pub version: u32,
    /// Where `bin/llvm-config` and the libraries are.
    pub prefix: PathBuf,
}

/// Newest first.
const VERSIONS: [u32; 2] = [22, 19];

impl Llvm {
    /// The variable that tells the bindings where LLVM is.
    pub fn variable(&self) -> &'static str {
        variable(self.version)
    }

    /// Cargo's arguments that choose the bindings of this version.
    pub fn features(&self) -> Vec<&'static str> {
        match self.version {
            22 => vec![],
            _ => vec!["--no-default-features", "--features", "nnc/llvm19"],
        }
    }
}

fn variable(version: u32) -> &'static str {
    match version {
        22 => "LLVM_SYS_221_PREFIX",
        _ => "LLVM_SYS_191_PREFIX",
    }
}

/// The LLVM to use, installed if need be, with the C++ library that it is linked to.
pub fn ensure() -> Result<Llvm, String> {
    let (llvm, linkable) = (find()?, has_cxx_library());
    match llvm {
        Some(llvm) if linkable => return Ok(llvm),
        Some(_) if !works("apt-get") => return Err("LLVM is linked to the C++ library, which this system's `cc` does not find: install g++".into()),
        None if !works("apt-get") => {
            return Err(format!("nnc needs LLVM 22 or 19, and there is no apt-get to install it with.{}\n{}", others(), by_hand()));
        }
        Some(_) | None => {}
    }
    if !is_root() && !works("sudo") {
        let missing = [(!linkable).then_some("g++".into()), llvm.is_none().then(|| package(22))].into_iter().flatten().collect::<Vec<_>>().join(" ");
        return Err(format!(
            "{missing} must be installed, but this is not root and there is no sudo. As root, run:\n  apt-get update && apt-get install {missing}"
        ));
    }
    // A source that cannot be reached need not be the one that has LLVM.
    let fresh = apt(&["update", "-qq", "-o", "APT::Update::Error-Mode=any"]);
    let stale = if fresh { "" } else { "; so did `apt-get update` before it: is there a network, and may this user install packages?" };
    let install = |package: &str| {
        println!("installing {package}");
        let done = apt(&["install", "-y", "-qq", "--no-install-recommends", package]);
        if done { Ok(()) } else { Err(format!("`apt-get install {package}` failed, see above{stale}")) }
    };
    if !linkable {
        install("g++")?;
    }
    if let Some(llvm) = llvm {
        return Ok(llvm);
    }
    let Some(version) = VERSIONS.into_iter().find(|v| has_package(&package(*v))) else {
        let [newest, other] = VERSIONS.map(package);
        let stale = if fresh { "" } else { " (but `apt-get update` failed, see above: is there a network, and may this user install packages?)" };
        return Err(format!("nnc needs LLVM 22 or 19, and apt knows neither {newest} nor {other}{stale}.{}\n{}", others(), by_hand()));
    };
    install(&package(version))?;
    find()?.ok_or_else(|| format!("{} is installed, but /usr/lib/llvm-{version} is not the LLVM it should hold.\n{}", package(version), by_hand()))
}

fn package(version: u32) -> String {
    format!("llvm-{version}-dev")
}

fn by_hand() -> &'static str {
    "Install LLVM 22 with its development files, and set LLVM_SYS_221_PREFIX to the folder that holds bin/llvm-config and include/llvm-c\n\
     (for LLVM 19: LLVM_SYS_191_PREFIX)."
}

/// An installed LLVM: where its variable says, in Debian's place, or where the `llvm-config` on the path is from.
///
/// # Errors
/// A variable of the user's that leads elsewhere: silently another LLVM would not be what was asked for.
fn find() -> Result<Option<Llvm>, String> {
    for version in VERSIONS {
        let usual = PathBuf::from(format!("/usr/lib/llvm-{version}"));
        // Cargo's own setting, in .cargo/config.toml, is the usual place; only another one is somebody's choice.
        if let Some(prefix) = std::env::var_os(variable(version)).map(PathBuf::from).filter(|named| *named != usual) {
            return match major(&prefix) {
                Some(found) if found == version => Ok(Some(Llvm { version, prefix })),
                found => {
                    let holds = found.map_or("no bin/llvm-config with include/llvm-c/Core.h".into(), |n| format!("LLVM {n}, not {version}"));
                    Err(format!("{} is {}, which holds {holds}", variable(version), prefix.display()))
                }
            };
        }
        if let Some(prefix) = [Some(usual), on_path("--prefix").map(PathBuf::from)].into_iter().flatten().find(|p| major(p) == Some(version)) {
            return Ok(Some(Llvm { version, prefix }));
        }
    }
    Ok(None)
}

/// What the `llvm-config` on the path says.
fn on_path(question: &str) -> Option<String> {
    let said = Command::new("llvm-config").arg(question).output().ok()?;
    Some(String::from_utf8_lossy(&said.stdout).trim().to_string())
}

/// The major version of the LLVM at `prefix`, if it has its development files.
fn major(prefix: &Path) -> Option<u32> {
    let config = prefix.join("bin/llvm-config");
    if !prefix.join("include/llvm-c/Core.h").exists() {
        return None;
    }
    let said = Command::new(config).arg("--version").output().ok()?;
    String::from_utf8_lossy(&said.stdout).split('.').next()?.trim().parse().ok()
}

/// A sentence on the LLVMs that are there but cannot be used.
fn others() -> String {
    let mut found: Vec<String> = on_path("--version").map(|version| format!("{version} on the PATH")).into_iter().collect();
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().filter_map(|e| Some(e.ok()?.path()));
    found.extend(folders.filter(|p| p.to_string_lossy().contains("/llvm")).filter_map(|p| Some(format!("{} in {}", major(&p)?, p.display()))));
    found.sort();
    if found.is_empty() { String::new() } else { format!(" Found, but of no use: LLVM {}.", found.join(", ")) }
}

/// Whether the linker finds `libstdc++`, which a C compiler comes without.
fn has_cxx_library() -> bool {
    let said = Command::new("cc").arg("-print-file-name=libstdc++.so").output();
    said.is_ok_and(|o| Path::new(String::from_utf8_lossy(&o.stdout).trim()).is_absolute())
}

fn works(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

fn has_package(package: &str) -> bool {
    let shown = Command::new("apt-cache").args(["policy", package]).env("LC_ALL", "C").output();
    shown.is_ok_and(|o| String::from_utf8_lossy(&o.stdout).lines().any(|l| l.trim().starts_with("Candidate:") && !l.contains("(none)")))
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout.starts_with(b"0\n"))
}

/// apt-get, through sudo where not root: whether it did what it was asked to. What it says is shown.
fn apt(args: &[&str]) -> bool {
    let root = is_root();
    let mut command = Command::new(if root { "apt-get" } else { "sudo" });
    if !root {
        command.arg("apt-get");
    }
    command.args(args).env("DEBIAN_FRONTEND", "noninteractive").status().is_ok_and(|s| s.success())
}
