//! The artifact: one file with the manifest, machine code, and maybe weights.
//!
//! Layout, little-endian: magic (8), format version (u32), sections (u32), length of the file (u64), CRC-32 of everything from byte 32 on (u64);
//! for each section its name (16, zero-padded), start (u64) and length (u64); then the sections. Names: `manifest` (JSON), `weights` (safetensors),
//! `code.NAME` (an object file). The code is native and trusted like a program; everything else is checked.

use crate::error::{Result, RunError, refuse, wrong};
use crate::manifest::{Manifest, VERSION};
use std::io::Read;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"\x7fNNC\r\n\x1a\n";
const HEAD: usize = 32;
const ENTRY: usize = 32;

/// A compiled program.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Artifact {
    /// What it can run.
    pub manifest: Manifest,
    /// Object files by name; each holds code for one or more levels.
    pub code: Vec<(String, Vec<u8>)>,
    /// Weights, as a safetensors file.
    pub weights: Option<Vec<u8>>,
}

/// Whether the file begins as an artifact does.
///
/// # Errors
/// It cannot be read.
pub fn is_artifact(path: &Path) -> Result<bool> {
    let mut start = vec![];
    let file = std::fs::File::open(path).and_then(|f| if f.metadata()?.is_dir() { Err(std::io::Error::other("it is a directory")) } else { Ok(f) });
    file.and_then(|f| f.take(MAGIC.len() as u64).read_to_end(&mut start)).map_err(|e| RunError::file("read", path, &e))?;
    Ok(start == MAGIC)
}

fn checksum(bytes: &[u8]) -> u64 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum() as u64
}

impl Artifact {
    /// The file's bytes; equal artifacts give equal bytes.
    ///
    /// # Panics
    /// If a level's name does not fit.
    pub fn to_bytes(&self) -> Vec<u8> {
        let manifest = serde_json::to_vec(&self.manifest).unwrap_or_else(|e| panic!("the manifest has no JSON: {e}"));
        let mut sections = vec![("manifest".to_string(), manifest.as_slice())];
        sections.extend(self.code.iter().map(|(level, code)| (format!("code.{level}"), code.as_slice())));
        sections.extend(self.weights.iter().map(|w| ("weights".to_string(), w.as_slice())));
        let (mut table, mut body) = (vec![], vec![]);
        let start = HEAD + ENTRY * sections.len();
        for (name, content) in &sections {
            assert!(name.len() <= 16, "section {name}");
            body.resize((start + body.len()).div_ceil(64) * 64 - start, 0);
            let mut padded = [0u8; 16];
            padded[..name.len()].copy_from_slice(name.as_bytes());
            table.extend(padded);
            table.extend(((start + body.len()) as u64).to_le_bytes());
            table.extend((content.len() as u64).to_le_bytes());
            body.extend_from_slice(content);
        }
        let rest = [table, body].concat();
        let mut out = MAGIC.to_vec();
        out.extend(VERSION.to_le_bytes());
        out.extend((sections.len() as u32).to_le_bytes());
        out.extend(((HEAD + rest.len()) as u64).to_le_bytes());
        out.extend(checksum(&rest).to_le_bytes());
        out.extend(rest);
        out
    }

    /// Reads an artifact that comes from `from`.
    ///
    /// # Errors
    /// One sentence: not an artifact, another version, cut short, or damaged.
    pub fn from_bytes(bytes: &[u8], from: &str) -> Result<Artifact> {
        let Some(head) = bytes.get(..HEAD).filter(|h| h.starts_with(MAGIC)) else {
            let text = if from.ends_with(".nn") { format!(": `nnc build {from}` makes one of a program") } else { String::new() };
            return wrong!("{from} is not an artifact of nnc{text}");
        };
        let u32_at = |at: usize| head[at..at + 4].iter().rev().fold(0u32, |n, &b| n << 8 | b as u32);
        let u64_of = |bytes: &[u8]| bytes.iter().rev().fold(0u64, |n, &b| n << 8 | b as u64);
        let version = u32_at(8);
        if version != VERSION {
            let age = if version < VERSION { "an older" } else { "a newer" };
            return wrong!("{from} was made by {age} nnc (artifact version {version}, this one reads {VERSION}): build it again");
        }
        let length = u64_of(&head[16..24]);
        if (bytes.len() as u64) < length {
            return wrong!("{from} is cut short: {} of {length} bytes", bytes.len());
        }
        let table = u32_at(12) as usize;
        let damaged = || wrong!("{from} is damaged: its checksum does not fit");
        let rest = bytes.get(HEAD..).unwrap_or_default();
        if bytes.len() as u64 != length || checksum(rest) != u64_of(&head[24..32]) || table.saturating_mul(ENTRY) > rest.len() {
            return damaged();
        }
        let (mut artifact, mut seen) = (Artifact::default(), false);
        for entry in rest.chunks_exact(ENTRY).take(table) {
            let name = String::from_utf8_lossy(&entry[..16]).trim_end_matches('\0').to_string();
            let start = usize::try_from(u64_of(&entry[16..24])).unwrap_or(usize::MAX);
            let end = start.saturating_add(usize::try_from(u64_of(&entry[24..32])).unwrap_or(usize::MAX));
            let Some(content) = bytes.get(start..end) else { return damaged() };
            match (name.as_str(), name.strip_prefix("code.")) {
                ("manifest", _) => {
                    artifact.manifest = serde_json::from_slice(content).map_err(|e| refuse!("{from} has a manifest that cannot be read: {e}"))?;
                    seen = true;
                }
                ("weights", _) => artifact.weights = Some(content.to_vec()),
                (_, Some(level)) => artifact.code.push((level.to_string(), content.to_vec())),
                _ => {}
            }
        }
        if !seen || artifact.manifest.version != VERSION {
            return wrong!("{from} has no manifest of version {VERSION}");
        }
        if !artifact.manifest.is_consistent() {
            return wrong!("{from} is damaged: its plan names what is not there");
        }
        Ok(artifact)
    }

    /// Reads an artifact.
    ///
    /// # Errors
    /// As [`Artifact::from_bytes`], or the file cannot be read.
    pub fn read(path: &Path) -> Result<Artifact> {
        Artifact::from_bytes(&crate::files::read(path)?, &path.display().to_string())
    }

    /// The artifact as it is to lie at `path`: it will look for its data in `folder`, the program's, for as long as the two lie to each other
    /// as they do now.
    pub fn at(mut self, path: &Path, folder: &Path) -> Artifact {
        self.manifest.folder = crate::files::way(path.parent().unwrap_or(Path::new("")), folder);
        self
    }

    /// Writes the artifact aside and renames it; see [`Artifact::at`].
    ///
    /// # Errors
    /// Not writable.
    pub fn write_for(self, path: &Path, folder: &Path) -> Result<Artifact> {
        let placed = self.at(path, folder);
        crate::files::write(path, &placed.to_bytes())?;
        Ok(placed)
    }

    /// Where the artifact at `path` looks for data: in the folder of the program it was made from, as it lay to the artifact's own, if the data or at
    /// least the program is still there; else beside itself. So what was moved names no folder that has nothing to do with it.
    pub fn folder(&self, path: &Path) -> PathBuf {
        let own = path.parent().unwrap_or(Path::new("")).to_path_buf();
        let made = own.join(&self.manifest.folder);
        let holds = |folder: &Path| self.manifest.data.iter().flat_map(|d| &d.tables).all(|t| folder.join(&*t.path).exists());
        let program = || Path::new(&self.manifest.source).file_name().is_some_and(|name| made.join(name).is_file());
        let there = !self.manifest.folder.is_empty() && made.is_dir() && (holds(&made) || !holds(&own) && program());
        if there { crate::files::short(&made) } else { own }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Entry, Plan, Sink};

    #[test]
    fn an_artifact_reads_back_or_says_what_is_wrong() {
        let manifest = Manifest { version: VERSION, compiler: "0.1".into(), ..Manifest::default() };
        let artifact = Artifact { manifest, code: vec![("v3".into(), vec![1; 100]), ("v4".into(), vec![2; 3])], weights: Some(vec![9]) };
        let bytes = artifact.to_bytes();
        assert_eq!(Artifact::from_bytes(&bytes, "a").unwrap(), artifact);
        let says = |bytes: &[u8]| Artifact::from_bytes(bytes, "a").unwrap_err().message().to_string();
        assert_eq!(says(b"model x"), "a is not an artifact of nnc");
        assert!(says(&bytes[..bytes.len() - 1]).starts_with("a is cut short"));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x40;
            assert!(Artifact::from_bytes(&bad, "a").is_err(), "byte {at} changed");
        }
        let mut old = bytes.clone();
        old[8] = 0;
        assert!(says(&old).contains("an older nnc"));
    }

    #[test]
    fn a_plan_names_what_is_there() {
        let plan = Plan { buffers: vec![], steps: vec![], advance: 0, chains: vec![], lines: vec![] };
        let entry = Entry { name: "infer:M".into(), inputs: vec![], results: vec![(Sink::Result("output".into()), 0)], plan };
        let artifact = Artifact { manifest: Manifest { version: VERSION, entries: vec![entry], ..Manifest::default() }, ..Artifact::default() };
        let refused = Artifact::from_bytes(&artifact.to_bytes(), "a").unwrap_err();
        assert_eq!(refused.message(), "a is damaged: its plan names what is not there");
    }
}
