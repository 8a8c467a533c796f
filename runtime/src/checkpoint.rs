//! The folder of a training run: `best.safetensors`, `last.safetensors` (with optimizer states and the position), `log.jsonl`, `run.json`.
//!
//! Every file but the log is written aside and renamed. The log is only appended to; a checkpoint knows its length, so that resuming cuts off
//! lines written after it.
//!
//! Replacing a file makes the system write to the disk, which takes longer than an epoch of a small model: where epochs are short, files are written once
//! in `PAUSE`, and when the run ends or is stopped; where they are long, also within them ([`Every`]). A run that fails or is killed loses no more work
//! than that. Whoever writes into the folder holds its lock: the system gives it back when the process ends, however that happens.

use crate::error::{Result, RunError, refuse, wrong};
use crate::files;
use crate::program::last_run;
use crate::size::Dims;
use crate::tensors::Tensors;
use crate::weights::{self, ALL, MODEL};
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// From one checkpoint to the next, at least, where epochs are short.
const PAUSE: Duration = Duration::from_secs(1);

/// When checkpoints are written within epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Every {
    /// So many steps, counted from the first of the run.
    Steps(u64),
    /// So much time after the last one.
    Time(Duration),
}

impl Default for Every {
    fn default() -> Every {
        Every::Time(Duration::from_secs(600))
    }
}

impl Every {
    /// `500` steps, `90s`, `10m`, `2h`; not 0.
    pub fn parse(text: &str) -> Option<Every> {
        let unit = |suffix, seconds: u64| Some((text.strip_suffix(suffix)?, seconds));
        match unit('s', 1).or_else(|| unit('m', 60)).or_else(|| unit('h', 3600)) {
            None => text.parse().ok().filter(|&n| n > 0).map(Every::Steps),
            Some((n, seconds)) => n.parse::<u64>().ok().filter(|&n| n > 0)?.checked_mul(seconds).map(|s| Every::Time(Duration::from_secs(s))),
        }
    }
}

/// How far a run is: everything that the next step depends on but the tensors. Floats are kept as bits, so that resuming is exact.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Position {
    /// The recipe's name.
    pub recipe: String,
    /// Of initialisation, order and dropout.
    pub seed: u64,
    /// Samples a step.
    pub batch: i64,
    /// Settings given on the command line and applied by the runtime, in order.
    pub set: Vec<(String, String)>,
    /// Settings that the program was compiled with, in order.
    #[serde(default)]
    pub compiled: Vec<(String, String)>,
    /// Sizes of free dims given on the command line.
    #[serde(default)]
    pub dims: Dims,
    /// Steps done.
    pub step: u64,
    /// Epochs done.
    pub epoch: u64,
    /// Steps done in the present epoch.
    pub in_epoch: u64,
    /// Sums over the present epoch, as bits.
    pub sums: Vec<u64>,
    /// The best value so far of what early stopping watches, as bits.
    pub best: Option<u64>,
    /// The epoch (from 1) of the best weights.
    pub best_epoch: u64,
    /// Epochs since the last improvement.
    pub waited: i64,
    /// Length of the log.
    pub log: u64,
    /// Whether early stopping has ended the run.
    pub stopped: bool,
}

impl Position {
    /// How far the run in `folder` is.
    ///
    /// # Errors
    /// There is no checkpoint.
    pub fn read(folder: &Path) -> Result<Position> {
        let last = folder.join("last.safetensors");
        let name = last.display();
        let bytes = files::read(&last).map_err(|e| RunError::World(format!("{e}; {} holds no run to resume", folder.display())))?;
        let note = weights::note(&bytes, &name.to_string())?;
        let position = note.as_deref().and_then(|n| serde_json::from_str(n).ok());
        position.map_or_else(|| wrong!("{name} is no checkpoint: it does not say how far the run was"), Ok)
    }
}

/// A run's folder, open for writing.
pub struct Folder {
    /// Where it is.
    pub path: PathBuf,
    log: File,
    length: u64,
    /// When the folder was opened, and when `last` was written by this process.
    opened: Instant,
    saved: Option<Instant>,
    /// What `best` is to hold, while it does not.
    best: Option<Vec<u8>>,
}

impl Folder {
    /// A new folder: `at`, or the next free number in `runs/RECIPE`.
    ///
    /// # Errors
    /// Not writable, or `at` already holds a run.
    pub fn create(at: Option<&Path>, runs: &Path, name: &str) -> Result<Folder> {
        let path = match at {
            Some(path) => {
                files::create_folder(path)?;
                path.to_path_buf()
            }
            None => {
                let parent = runs.join(name);
                files::create_folder(&parent)?;
                next_number(&parent)?
            }
        };
        let folder = Folder::open(path)?;
        let shown = folder.path.display();
        if folder.path.join("last.safetensors").exists() {
            return wrong!("{shown} already holds a run: resume it with --resume {shown}, or choose another folder");
        }
        folder.cut(0)
    }

    /// The folder, locked against other processes; what one that was killed has left half written is removed.
    fn open(path: PathBuf) -> Result<Folder> {
        let log_path = path.join("log.jsonl");
        let log = OpenOptions::new().append(true).create(true).open(&log_path).map_err(|e| RunError::file("write", &log_path, &e))?;
        // A file system without locks is no reason not to train.
        if let Err(TryLockError::WouldBlock) = log.try_lock() {
            return Err(RunError::World(format!("another process is training in {}: wait for its end, or choose another folder", path.display())));
        }
        let entries = std::fs::read_dir(&path).into_iter().flatten().filter_map(|e| Some(e.ok()?.path()));
        for half in entries.filter(|p| p.extension().is_some_and(|e| e == "part")) {
            let _ = std::fs::remove_file(half);
        }
        Ok(Folder { path, log, length: 0, opened: Instant::now(), saved: None, best: None })
    }

    /// The log cut to `length`, if it is longer.
    fn cut(mut self, length: u64) -> Result<Folder> {
        let cut = || -> std::io::Result<u64> {
            let length = length.min(self.log.metadata()?.len());
            self.log.set_len(length)?;
            Ok(length)
        };
        self.length = cut().map_err(|e| RunError::file("write", &self.log_path(), &e))?;
        Ok(self)
    }

    /// The path of the log.
    pub fn log_path(&self) -> PathBuf {
        self.path.join("log.jsonl")
    }

    /// An existing folder, its tensors and its position; the log is cut to where the checkpoint was made.
    ///
    /// # Errors
    /// No checkpoint there, or one of another program.
    pub fn resume(path: &Path, store: &mut Tensors) -> Result<(Folder, Position)> {
        let last = path.join("last.safetensors");
        // Before there is a log in it.
        Position::read(path)?;
        let folder = Folder::open(path.to_path_buf())?;
        // The last writer may have written since.
        let position = Position::read(path)?;
        weights::from_bytes(store, ALL, &files::read(&last)?, &last.display().to_string())?;
        let length = position.log;
        Ok((folder.cut(length)?, position))
    }

    /// Appends a line to the log.
    ///
    /// # Errors
    /// Not writable.
    pub fn log(&mut self, value: &serde_json::Value) -> Result<()> {
        let line = format!("{value}\n");
        self.log.write_all(line.as_bytes()).map_err(|e| RunError::file("write", &self.log_path(), &e))?;
        self.length += line.len() as u64;
        Ok(())
    }

    /// Whether it is time for a checkpoint at the end of an epoch.
    pub fn due(&self) -> bool {
        self.saved.is_none_or(|at| at.elapsed() >= PAUSE)
    }

    /// Whether it is time for a checkpoint within an epoch, after `step`.
    pub fn due_within(&self, every: Every, step: u64) -> bool {
        match every {
            Every::Steps(n) => step.is_multiple_of(n),
            Every::Time(time) => self.saved.unwrap_or(self.opened).elapsed() >= time,
        }
    }

    /// Writes `last`, and `best` where it has changed.
    ///
    /// # Errors
    /// Not writable; the former checkpoint is then still there.
    pub fn save(&mut self, store: &Tensors, position: &mut Position) -> Result<()> {
        self.write_best()?;
        position.log = self.length;
        let note = serde_json::to_string(position).map_err(|e| refuse!("the position cannot be written: {e}"))?;
        files::write(&self.path.join("last.safetensors"), &weights::to_bytes(store, ALL, Some(&note))?)?;
        self.saved = Some(Instant::now());
        Ok(())
    }

    /// The present weights are the best: [`Folder::save`] or [`Folder::write_best`] will write them.
    ///
    /// # Errors
    /// They cannot be a file.
    pub fn keep_best(&mut self, store: &Tensors) -> Result<()> {
        self.best = Some(weights::to_bytes(store, MODEL, None)?);
        Ok(())
    }

    /// Writes `best` where it has changed.
    ///
    /// # Errors
    /// Not writable; the former one is then still there.
    pub fn write_best(&mut self) -> Result<()> {
        match self.best.take() {
            Some(bytes) => files::write(&self.best(), &bytes),
            None => Ok(()),
        }
    }

    /// The path of `best`.
    pub fn best(&self) -> PathBuf {
        self.path.join("best.safetensors")
    }
}

/// Creates `parent/N` for the smallest N above all that exist, also when others do so at the same time.
fn next_number(parent: &Path) -> Result<PathBuf> {
    loop {
        let path = parent.join((last_run(parent).unwrap_or(0) + 1).to_string());
        match std::fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(RunError::file("create the folder", &path, &e)),
        }
    }
}
