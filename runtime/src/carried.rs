//! Executables that carry their program: `nnc-run`, and behind its own bytes an artifact.
//!
//! `nnc-run` holds an empty [`Slot`]. [`fill`] makes of its file and an artifact's the file of an executable in which the slot says where the artifact
//! begins and ends, so that one that was cut short is told from one that carries nothing; the artifact itself has a checksum.

use crate::artifact::Artifact;
use crate::error::{Result, RunError, refuse, wrong};
use crate::inspect;
use crate::manifest::{Manifest, VERSION};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// What a slot begins with; the version of artifacts that the runner reads follows.
const MARK: [u8; 12] = *b"\x7fNNC-RUN\r\n\x1a\n";
/// In place of both numbers where nothing is carried.
const EMPTY: [u8; 16] = [0xff; 16];
/// Bytes of a slot.
const SLOT: usize = MARK.len() + 4 + EMPTY.len();

/// Where in its own file a runner finds what it carries.
#[repr(C)]
pub struct Slot {
    mark: [u8; MARK.len()],
    version: [u8; 4],
    /// First byte and length, little-endian.
    place: [u8; 16],
}

impl Slot {
    /// Nothing is carried.
    pub const EMPTY: Slot = Slot { mark: MARK, version: VERSION.to_le_bytes(), place: EMPTY };
}

/// The file of an executable: `runner`, the bytes of `nnc-run` from `from`, and an artifact's bytes, which it will run.
///
/// # Errors
/// It is not `nnc-run`, carries something already, or reads artifacts of another version.
pub fn fill(runner: &[u8], from: &str, artifact: &[u8]) -> Result<Vec<u8>> {
    let empty = |w: &[u8]| w.starts_with(&MARK) && w.ends_with(&EMPTY);
    let Some(at) = runner.windows(SLOT).position(empty) else {
        return wrong!("{from} is not nnc-run, or carries a program already");
    };
    let version = &runner[at + MARK.len()..][..4];
    if *version != VERSION.to_le_bytes() {
        return wrong!("{from} belongs to another version of nnc: build both from the same source");
    }
    let mut whole = [runner, artifact].concat();
    let place = [runner.len(), artifact.len()].map(|n| (n as u64).to_le_bytes()).concat();
    whole[at + SLOT - EMPTY.len()..at + SLOT].copy_from_slice(&place);
    Ok(whole)
}

/// What this process's executable carries, and the executable's own path. `slot` must be the one in its file: a static.
///
/// # Errors
/// The file cannot be read, was cut short, or is damaged.
pub fn read(slot: &'static Slot) -> Result<Option<(Artifact, PathBuf)>> {
    // SAFETY: a reference is valid to read. Volatile, as the file that was loaded may say something else than what was compiled.
    let place = unsafe { std::ptr::read_volatile(&slot.place) };
    if place == EMPTY {
        return Ok(None);
    }
    let path = std::env::current_exe().map_err(|e| RunError::World(format!("the executable cannot find its own file: {e}")))?;
    let number = |n: usize| place[8 * n..][..8].iter().rev().fold(0u64, |n, &b| n << 8 | b as u64);
    let (start, length) = (number(0), number(1));
    let mut bytes = vec![];
    // Whatever has become of the name since.
    let own = Path::new("/proc/self/exe");
    let file = File::open(if own.exists() { own } else { &path });
    let filled = file.and_then(|mut f| {
        f.seek(SeekFrom::Start(start))?;
        f.take(length).read_to_end(&mut bytes)
    });
    filled.map_err(|e| RunError::file("read", &path, &e))?;
    if (bytes.len() as u64) < length {
        let have = bytes.len();
        return wrong!("{} is cut short: of the program that it carries {have} of {length} bytes are left (strip cuts it, too)", path.display());
    }
    Ok(Some((Artifact::from_bytes(&bytes, &format!("the program in {}", path.display()))?, path)))
}

/// What an executable that carries `artifact` says of itself; `name` is its own.
pub fn about(artifact: &Artifact, name: &str) -> String {
    let Manifest { source, compiler, entries, recipes, .. } = &artifact.manifest;
    let mut lines: Vec<(String, String)> = vec![];
    for entry in entries.iter().filter(|e| e.name.starts_with("infer:")) {
        lines.push((entry.name.to_string(), inspect::interface(entry)));
    }
    for recipe in recipes {
        lines.push((format!("train:{0}, eval:{0}", recipe.name), inspect::recipe(recipe)));
    }
    lines.push(("weights".into(), if artifact.weights.is_some() { "inside" } else { "none: train, or give --weights" }.into()));
    let width = lines.iter().map(|(what, _)| what.len()).max().unwrap_or(0);
    let lines: String = lines.iter().map(|(what, is)| format!("  {what:width$}  {is}\n")).collect();
    format!("{name}: {source}, compiled by nnc {compiler}\n\nUsage: {name} WHAT [OPTIONS]\n\nThis program:\n{lines}\n{}", crate::commands::HELP)
}

/// The name that people call an executable by.
pub fn name(path: &Path) -> Result<String> {
    let name = path.file_name().and_then(|n| n.to_str());
    name.map(str::to_string).ok_or_else(|| refuse!("{} is no executable's name", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_empty_slot_of_this_version_is_filled() {
        let slot = [&MARK[..], &VERSION.to_le_bytes(), &EMPTY].concat();
        let runner = [&MARK[..], b"code that knows the mark", &slot, b"more"].concat();
        let filled = fill(&runner, "r", b"artifact").unwrap();
        assert_eq!(filled.len(), runner.len() + 8);
        assert!(filled.ends_with(b"moreartifact"));
        let place = runner.len() - 4 - 16;
        assert_eq!(filled[place..place + 16], [(runner.len() as u64).to_le_bytes(), 8u64.to_le_bytes()].concat());
        let says = |runner: &[u8]| fill(runner, "r", b"").unwrap_err().message().to_string();
        assert!(says(&filled).contains("carries a program already"));
        assert!(says(b"#!/bin/sh").contains("is not nnc-run"));
        let mut other = runner.clone();
        other[place - 4] ^= 1;
        assert!(says(&other).contains("another version"));
    }
}
