//! Files, read whole and written whole: a file that others may read is written aside and renamed, so that it is always complete.

use crate::error::{Result, RunError};
use std::fs::{self, File};
use std::io::{BufWriter, Read, Write};
use std::path::{Component, Path, PathBuf};

/// The whole file.
///
/// # Errors
/// It is missing, a directory, or unreadable.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes).map_err(|e| RunError::file("read", path, &e))?;
    Ok(bytes)
}

/// The file, to be read.
///
/// # Errors
/// It is missing, a directory, or unreadable.
pub fn open(path: &Path) -> Result<File> {
    let file = File::open(path).and_then(|f| if f.metadata()?.is_dir() { Err(std::io::Error::other("it is a directory")) } else { Ok(f) });
    file.map_err(|e| RunError::file("read", path, &e))
}

/// Writes `path` through `write`, aside first; on any error `path` is as it was.
///
/// # Errors
/// The folder is missing or not writable, or the disk is full.
pub fn write_with(path: &Path, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    replace(path, false, write)
}

fn replace(path: &Path, executable: bool, write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<()> {
    let shown = path;
    // A link stays one: what it leads to is replaced.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let old = fs::metadata(path).ok();
    if old.as_ref().is_some_and(|m| !m.is_file() && !m.is_dir()) {
        // A device or a pipe is written to, not replaced.
        let whole = || -> std::io::Result<()> {
            let mut file = BufWriter::with_capacity(1 << 16, fs::OpenOptions::new().write(true).open(path)?);
            write(&mut file)?;
            file.flush()
        };
        return whole().map_err(|e| RunError::file("write", shown, &e));
    }
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.part", std::process::id()));
    let aside: PathBuf = path.with_file_name(name);
    let whole = || -> std::io::Result<()> {
        let mut file = BufWriter::with_capacity(1 << 16, File::create(&aside)?);
        write(&mut file)?;
        file.flush()?;
        if let Some(old) = &old {
            fs::set_permissions(&aside, old.permissions())?;
        }
        #[cfg(unix)]
        if executable {
            use std::os::unix::fs::PermissionsExt;
            // Whoever may read it may run it.
            let mode = fs::metadata(&aside)?.permissions().mode();
            fs::set_permissions(&aside, fs::Permissions::from_mode(mode | (mode & 0o444) >> 2))?;
        }
        drop(file);
        fs::rename(&aside, path)
    };
    whole().map_err(|e| {
        let _ = fs::remove_file(&aside);
        RunError::file("write", shown, &e)
    })
}

/// Writes `bytes` as `path`; see [`write_with`].
///
/// # Errors
/// As [`write_with`].
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    write_with(path, |to| to.write_all(bytes))
}

/// Writes `bytes` as `path`, to be executed; see [`write_with`].
///
/// # Errors
/// As [`write_with`].
pub fn write_executable(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, true, |to| to.write_all(bytes))
}

/// The way from the folder `from` to the folder `to`, both of which exist; absolute where there is none.
pub fn way(from: &Path, to: &Path) -> String {
    let whole =
        |path: &Path| fs::canonicalize(if path.as_os_str().is_empty() { Path::new(".") } else { path }).unwrap_or_else(|_| path.to_path_buf());
    let (from, to) = (whole(from), whole(to));
    let shared = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    if shared == 0 {
        return to.to_string_lossy().into_owned();
    }
    let up = from.components().skip(shared).map(|_| Component::ParentDir);
    up.chain(to.components().skip(shared)).collect::<PathBuf>().to_string_lossy().into_owned()
}

/// The same folder as people would write it: without detours, from the working folder where it lies below.
pub fn short(path: &Path) -> PathBuf {
    let whole = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let here = std::env::current_dir().and_then(fs::canonicalize).ok();
    here.and_then(|here| whole.strip_prefix(here).ok().map(Path::to_path_buf)).unwrap_or(whole)
}

/// Creates a folder and those above it.
///
/// # Errors
/// Not permitted, or something else is there.
pub fn create_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| RunError::file("create the folder", path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_lead_from_folder_to_folder() {
        let place = tempfile::tempdir().unwrap();
        let at = |path: &str| place.path().join(path);
        create_folder(&at("runs/fit/1")).unwrap();
        create_folder(&at("models")).unwrap();
        for (from, to, expected) in
            [("runs/fit/1", "models", "../../../models"), ("runs", "runs/fit", "fit"), ("models", "models", ""), ("models", "", "..")]
        {
            assert_eq!(way(&at(from), &at(to)), expected);
            assert_eq!(short(&at(from).join(way(&at(from), &at(to)))), fs::canonicalize(at(to)).unwrap());
        }
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write(&path, b"old").unwrap();
        let full = |to: &mut dyn Write| to.write_all(b"new").and_then(|()| Err(std::io::Error::from(std::io::ErrorKind::StorageFull)));
        assert_eq!(write_with(&path, full).unwrap_err().exit_code(), 4);
        assert_eq!(read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(read(folder.path()).unwrap_err().message().ends_with("it is a directory"));
        assert_eq!(read(&folder.path().join("b")).unwrap_err().exit_code(), 4);
    }
}
