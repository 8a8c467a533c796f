//! Memory for tensors: aligned to a cache line, zeroed, refused with an error instead of an abort when there is none.
//!
//! What is large comes in pages of its own, huge ones where the system has them: reading a weight row by row, or much of anything in a virtual machine, costs
//! more in looking up pages of 4 KiB than in reading them.

use crate::error::{Result, RunError};
use std::alloc::{Layout, alloc, alloc_zeroed, dealloc};

/// Alignment of every tensor's first byte.
pub const ALIGN: usize = 64;
/// Bytes of a huge page, and what is large.
const HUGE: usize = 2 << 20;
/// What lengths are rounded up to: pages of any size that a system has, where they are not huge.
const PAGE: usize = 64 << 10;

/// Bytes aligned to [`ALIGN`], at an address that never changes.
pub struct Aligned {
    start: *mut u8,
    len: usize,
}

// SAFETY: an `Aligned` owns its bytes alone, like a `Vec`; shared access only reads.
unsafe impl Send for Aligned {}
// SAFETY: as above.
unsafe impl Sync for Aligned {}

impl Aligned {
    /// `len` zero bytes.
    ///
    /// # Errors
    /// The system has no such memory.
    pub fn zeroed(len: usize) -> Result<Aligned> {
        // SAFETY: `alloc_zeroed` fills what it gives.
        unsafe { Aligned::with(len, alloc_zeroed) }
    }

    /// `len` bytes, small ones from an allocator; pages are zero.
    ///
    /// # Safety
    /// All bytes are initialised before anyone looks at them as a slice.
    unsafe fn with(len: usize, allocator: unsafe fn(Layout) -> *mut u8) -> Result<Aligned> {
        if len == 0 {
            return Ok(Aligned::default());
        }
        let none = || RunError::World(format!("cannot allocate {len} bytes of memory"));
        if len >= HUGE {
            return pages(len).map(|start| Aligned { start, len }).ok_or_else(none);
        }
        let layout = Layout::from_size_align(len, ALIGN).map_err(|_| none())?;
        // SAFETY: the layout's size is not 0.
        let start = unsafe { allocator(layout) };
        if start.is_null() { Err(none()) } else { Ok(Aligned { start, len }) }
    }

    /// A copy of `bytes`.
    ///
    /// # Errors
    /// The system has no such memory.
    pub fn copy_of(bytes: &[u8]) -> Result<Aligned> {
        let mut copy = Aligned::zeroed(bytes.len())?;
        copy.copy_from_slice(bytes);
        Ok(copy)
    }

    /// The address of the first byte, for kernels.
    pub fn as_ptr(&self) -> *mut u8 {
        self.start
    }
}

/// Zeroed pages for `len` bytes that begin where a huge page may; none are resident before they are touched.
fn pages(len: usize) -> Option<*mut u8> {
    let len = len.checked_next_multiple_of(PAGE)?;
    let size = len.checked_add(HUGE)?;
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping that nobody else knows.
    let all = unsafe { libc::mmap(std::ptr::null_mut(), size, access, kind, -1, 0) };
    if all == libc::MAP_FAILED {
        return None;
    }
    let all: *mut u8 = all.cast();
    let before = all.align_offset(HUGE);
    // SAFETY: what is given back lies within the mapping, before and after what is kept; it begins at a page, and ends with one.
    unsafe {
        let start = all.add(before);
        if before > 0 {
            libc::munmap(all.cast(), before);
        }
        libc::munmap(start.add(len).cast(), size - before - len);
        // Refused on systems without huge pages: then these are pages as any other.
        #[cfg(target_os = "linux")]
        libc::madvise(start.cast(), len, libc::MADV_HUGEPAGE);
        Some(start)
    }
}

/// Memory that kernels write before they read it: nothing is filled in, so that what no kernel touches is never resident.
#[derive(Default)]
pub struct Scratch(Aligned);

impl Scratch {
    /// `len` bytes.
    ///
    /// # Errors
    /// The system has no such memory.
    pub fn new(len: usize) -> Result<Scratch> {
        // SAFETY: a scratch shows its address and its length only.
        unsafe { Aligned::with(len, alloc) }.map(Scratch)
    }

    /// The address of the first byte, for kernels.
    pub fn as_ptr(&self) -> *mut u8 {
        self.0.start
    }

    /// Bytes.
    pub fn bytes(&self) -> usize {
        self.0.len
    }
}

impl Default for Aligned {
    fn default() -> Aligned {
        Aligned { start: std::ptr::without_provenance_mut(ALIGN), len: 0 }
    }
}

impl std::ops::Deref for Aligned {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `start` points at `len` initialised bytes that live as long as `self`; dangling but aligned where `len` is 0.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl std::ops::DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `self` is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        if self.len >= HUGE {
            // SAFETY: mapped in `pages`, so many.
            unsafe { libc::munmap(self.start.cast(), self.len.next_multiple_of(PAGE)) };
        } else if self.len > 0 {
            // SAFETY: allocated in `zeroed` with this very layout, which was valid then.
            unsafe { dealloc(self.start, Layout::from_size_align_unchecked(self.len, ALIGN)) }
        }
    }
}
