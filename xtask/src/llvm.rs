//! Finds LLVM, or installs it where apt is; elsewhere says what to install.

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

/// The LLVM to use, installed if need be, together with a C linker.
pub fn ensure() -> Result<Llvm, String> {
    let linker = works("cc");
    if let (Some(llvm), true) = (find(), linker) {
        return Ok(llvm);
    }
    if !works("apt-get") {
        return Err(advice());
    }
    apt(&["update", "-qq"])?;
    if !linker {
        apt(&["install", "-y", "-qq", "--no-install-recommends", "gcc", "libc6-dev"])?;
    }
    if find().is_none() {
        let version = VERSIONS.into_iter().find(|v| has_package(&format!("llvm-{v}-dev"))).ok_or_else(advice)?;
        let package = format!("llvm-{version}-dev");
        println!("installing {package}");
        apt(&["install", "-y", "-qq", "--no-install-recommends", &package])?;
    }
    find().ok_or_else(advice)
}

fn advice() -> String {
    "LLVM 22 (or 19) and a C linker are needed, and this system has no apt-get or no such package.\n\
     Install LLVM 22 with its development files and set LLVM_SYS_221_PREFIX to its prefix (the folder that holds bin/llvm-config)."
        .into()
}

/// An installed LLVM: where its variable says, or in Debian's place.
fn find() -> Option<Llvm> {
    VERSIONS.into_iter().find_map(|version| {
        let named = std::env::var_os(variable(version)).map(PathBuf::from);
        let usual = PathBuf::from(format!("/usr/lib/llvm-{version}"));
        named.into_iter().chain([usual]).find(|prefix| is_development(prefix)).map(|prefix| Llvm { version, prefix })
    })
}

fn is_development(prefix: &Path) -> bool {
    prefix.join("bin/llvm-config").exists() && prefix.join("include/llvm-c/Core.h").exists()
}

fn works(program: &str) -> bool {
    Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
}

fn has_package(package: &str) -> bool {
    let shown = Command::new("apt-cache").args(["policy", package]).output();
    shown.is_ok_and(|o| String::from_utf8_lossy(&o.stdout).lines().any(|l| l.trim().starts_with("Candidate:") && !l.contains("(none)")))
}

/// apt-get, through sudo where not root.
fn apt(args: &[&str]) -> Result<(), String> {
    let root = Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout.starts_with(b"0\n"));
    let mut command = if root { Command::new("apt-get") } else { Command::new("sudo") };
    if !root {
        command.arg("apt-get");
    }
    let status = command.args(args).env("DEBIAN_FRONTEND", "noninteractive").status();
    match status {
        Ok(s) if s.success() => Ok(()),
        _ => Err(format!("`apt-get {}` failed; run it as root, or install the package by hand", args.join(" "))),
    }
}
