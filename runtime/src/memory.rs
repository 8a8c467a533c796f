//! Memory for tensors: aligned to a cache line, zeroed, refused with an error instead of an abort when there is none.
//!
//! What is large comes in huge pages where the system has them: to look up many pages of 4 KiB takes as long as to read them, above all in a virtual machine.

use crate::error::{Result, RunError};
use std::alloc::{Layout, alloc, dealloc};

/// Alignment of every tensor's first byte.
pub const ALIGN: usize = 64;
/// Bytes of a huge page.
const HUGE: usize = 2 << 20;

/// So that pages may be huge where there are as many bytes as they have.
fn alignment(len: usize) -> usize {
    if len >= HUGE { HUGE } else { ALIGN }
}

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
        // SAFETY: so many bytes were allocated, and are filled before anyone looks.
        unsafe {
            let new = Aligned::new(len)?;
            new.start.write_bytes(0, len);
            Ok(new)
        }
    }

    /// `len` bytes.
    ///
    /// # Safety
    /// All bytes are initialised before anyone looks at them as a slice.
    unsafe fn new(len: usize) -> Result<Aligned> {
        if len == 0 {
            return Ok(Aligned::default());
        }
        let none = || RunError::World(format!("cannot allocate {len} bytes of memory"));
        let layout = Layout::from_size_align(len, alignment(len)).map_err(|_| none())?;
        // SAFETY: the layout's size is not 0.
        let start = unsafe { alloc(layout) };
        if start.is_null() {
            return Err(none());
        }
        #[cfg(target_os = "linux")]
        if len >= HUGE {
            // SAFETY: a hint about memory that is ours. Where it is not taken, pages are small.
            unsafe { libc::madvise(start.cast(), len, libc::MADV_HUGEPAGE) };
        }
        Ok(Aligned { start, len })
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
        unsafe { Aligned::new(len) }.map(Scratch)
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
        if self.len > 0 {
            // SAFETY: allocated in `new` with this very layout, which was valid then.
            unsafe { dealloc(self.start, Layout::from_size_align_unchecked(self.len, alignment(self.len))) }
        }
    }
}
