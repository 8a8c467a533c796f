//! What all fuzz targets share: an allocator that refuses what no small file can ask for, and a folder for files.
//!
//! A target is a function of any bytes that must come back: with a result or with an error. A panic, a signal, a run longer than the time limit and an
//! allocation beyond [`MOST`] are findings.

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// The largest single allocation that inputs of at most 64 KB may cause. Deflate makes at most 1,032 bytes of one, and numbers take eight for a byte of text.
pub const MOST: usize = 1 << 28;

/// The system's allocator, without what is too large. Who asks for that and can do without gets an error to handle; who cannot, aborts.
struct Bounded;

#[global_allocator]
static ALLOCATOR: Bounded = Bounded;

// SAFETY: the system's allocator, or no memory at all, which an allocator may always answer.
unsafe impl GlobalAlloc for Bounded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() > MOST { std::ptr::null_mut() } else { unsafe { System.alloc(layout) } }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.size() > MOST { std::ptr::null_mut() } else { unsafe { System.alloc_zeroed(layout) } }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        unsafe { System.dealloc(start, layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if size > MOST { std::ptr::null_mut() } else { unsafe { System.realloc(start, layout, size) } }
    }
}

/// A folder of this process alone, in memory where the system has such a place.
static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = Path::new("/dev/shm");
    let root = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
    let folder = root.join(format!("nnc-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    folder
});

/// The folder.
pub fn folder() -> &'static Path {
    &FOLDER
}

/// A file in it, which holds these bytes now.
pub fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = FOLDER.join(name);
    std::fs::write(&path, bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    path
}

/// Looks into a file as `nnc inspect` does; what it would print.
pub fn inspected(path: &Path) -> String {
    match nnc_runtime::inspect::inspect(path) {
        Ok(summary) => format!("{}{}", summary.text(nnc_runtime::inspect::MOST_ROWS), summary.json()),
        Err(error) => said(&error),
    }
}

/// An error's text, which is one.
pub fn said(error: &nnc_runtime::error::RunError) -> String {
    let text = error.message().to_string();
    assert!(!text.is_empty(), "an error says something");
    text
}
