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
    // A source that cannot be reached need not be the one that has LLVM.
    let fresh = apt(&["update", "-qq", "-o", "APT::Update::Error-Mode=any"]);
    let stale = || fresh.as_ref().err().map_or(String::new(), |reason| format!(" (its lists may be old: {reason})"));
    let install = |package: &str| {
        println!("installing {package}");
        let done = apt(&["install", "-y", "-qq", "--no-install-recommends", package]);
        done.map_err(|reason| format!("cannot install {package}{}: {reason}", stale()))
    };
    if !linkable {
        install("g++")?;
    }
    if let Some(llvm) = llvm {
        return Ok(llvm);
    }
    let Some(version) = VERSIONS.into_iter().find(|v| has_package(&package(*v))) else {
        let [newest, other] = VERSIONS.map(package);
        return Err(format!("nnc needs LLVM 22 or 19, and apt knows neither {newest} nor {other}{}.{}\n{}", stale(), others(), by_hand()));
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

/// An installed LLVM: where its variable says, or in Debian's place.
///
/// # Errors
/// A variable of the user's that leads elsewhere: silently another LLVM would not be what was asked for.
fn find() -> Result<Option<Llvm>, String> {
    for version in VERSIONS {
        let usual = PathBuf::from(format!("/usr/lib/llvm-{version}"));
        // Cargo's own setting, in .cargo/config.toml, is the usual place; only another one is somebody's choice.
        let named = std::env::var_os(variable(version)).map(PathBuf::from).filter(|named| *named != usual);
        let prefix = named.as_ref().unwrap_or(&usual).clone();
        match (major(&prefix), named) {
            (Some(found), _) if found == version => return Ok(Some(Llvm { version, prefix })),
            (_, None) => {}
            (found, Some(_)) => {
                let holds = found.map_or("no bin/llvm-config with include/llvm-c/Core.h".into(), |n| format!("LLVM {n}, not {version}"));
                return Err(format!("{} is {}, which holds {holds}", variable(version), prefix.display()));
            }
        }
    }
    Ok(None)
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
    let on_path = Command::new("llvm-config").arg("--version").output();
    let mut found: Vec<String> = on_path.iter().map(|o| format!("{} on the PATH", String::from_utf8_lossy(&o.stdout).trim())).collect();
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

/// apt-get, through sudo where not root.
fn apt(args: &[&str]) -> Result<(), String> {
    let root = Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout.starts_with(b"0\n"));
    let line = format!("apt-get {}", args.join(" "));
    if !root && !works("sudo") {
        return Err(format!("this is not root and there is no sudo; as root, run `{line}`"));
    }
    let mut command = Command::new(if root { "apt-get" } else { "sudo" });
    if !root {
        command.arg("apt-get");
    }
    let status = command.args(args).env("DEBIAN_FRONTEND", "noninteractive").status();
    match status {
        Ok(s) if s.success() => Ok(()),
        _ => Err(format!("`{line}` failed, see above; is there a network, and may this user do it?")),
    }
}
