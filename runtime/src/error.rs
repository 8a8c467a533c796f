//! What can go wrong while running, sorted by whose fault it is. The exit code follows from the kind.

#![warn(missing_docs)]

use std::fmt;
use std::path::Path;

/// Why a run ended early. The text is one or more complete sentences without a final full stop.
#[derive(Clone, Debug, PartialEq)]
pub enum RunError {
    /// The program or its data is wrong: exit code 1.
    Wrong(String),
    /// The command line is wrong: exit code 2.
    Usage(String),
    /// Valid, but not supported: exit code 3.
    Unsupported(String),
    /// A file is missing, the disk is full, memory ran out: exit code 4.
    World(String),
    /// Stopped by the user after saving; the text says how to go on: exit code 130.
    Interrupted(String),
}

impl RunError {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            RunError::Wrong(_) => 1,
            RunError::Usage(_) => 2,
            RunError::Unsupported(_) => 3,
            RunError::World(_) => 4,
            RunError::Interrupted(_) => 130,
        }
    }

    /// The message.
    pub fn message(&self) -> &str {
        match self {
            RunError::Wrong(m) | RunError::Usage(m) | RunError::Unsupported(m) | RunError::World(m) | RunError::Interrupted(m) => m,
        }
    }

    /// A failed operation on a file: `cannot read PATH: No such file or directory`.
    pub fn file(doing: &str, path: &Path, error: &std::io::Error) -> RunError {
        let text = error.to_string();
        let reason = text.split(" (os error").next().unwrap_or(&text);
        RunError::World(format!("cannot {doing} {}: {reason}", path.display()))
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for RunError {}

/// The result of everything that can fail in a run.
pub type Result<T> = std::result::Result<T, RunError>;

/// `RunError::Wrong(..)` from a format string.
macro_rules! refuse {
    ($($arg:tt)*) => { $crate::error::RunError::Wrong(format!($($arg)*)) };
}
pub(crate) use refuse;

/// `Err(RunError::Wrong(..))` from a format string.
macro_rules! wrong {
    ($($arg:tt)*) => { Err($crate::error::refuse!($($arg)*)) };
}
pub(crate) use wrong;
