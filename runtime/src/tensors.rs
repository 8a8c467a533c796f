//! The stored tensors of a program: parameters, states and optimizer states, by path, one after the other in one piece of memory. Addresses are stable
//! for the store's whole life.
//!
//! Where the program runs on a GPU there is a copy of the piece, which runs change; [`Tensors::settle`] brings the changes back, and until then nobody may look.

use crate::cuda::{Gpu, Stored};
use crate::error::{Result, RunError};
use crate::manifest::{Role, TensorDecl};
use crate::memory::{ALIGN, Aligned};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Elements in a shape, or an error where they do not fit in memory.
pub fn elements(shape: &[i64]) -> Result<usize> {
    let count = shape.iter().try_fold(1i64, |n, &d| if d < 0 { None } else { n.checked_mul(d) });
    match count.map(usize::try_from) {
        Some(Ok(n)) if n <= isize::MAX as usize / 8 => Ok(n),
        _ => Err(RunError::World(format!("a tensor of shape {shape:?} does not fit in memory"))),
    }
}

fn next_version() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// All tensors that a program stores, in the manifest's order.
pub struct Tensors {
    decls: Vec<TensorDecl>,
    memory: Aligned,
    /// Where each one's bytes lie.
    places: Vec<Range<usize>>,
    index: BTreeMap<Arc<str>, usize>,
    version: u64,
    /// On a GPU.
    copy: Option<Stored>,
}

impl Tensors {
    /// Zeroed tensors for `decls`.
    ///
    /// # Errors
    /// Out of memory, or a path that appears twice.
    pub fn new(decls: &[TensorDecl]) -> Result<Tensors> {
        let (mut places, mut index, mut end) = (vec![], BTreeMap::new(), 0usize);
        for (i, decl) in decls.iter().enumerate() {
            let len = elements(&decl.shape)? * decl.dtype.bytes();
            places.push(end..end + len);
            let next = (end + len).checked_next_multiple_of(ALIGN).filter(|n| *n <= isize::MAX as usize / 8);
            end = next.ok_or_else(|| RunError::World("the program's tensors do not fit in memory".into()))?;
            if index.insert(decl.path.clone(), i).is_some() {
                return Err(RunError::Wrong(format!("the program stores two tensors called {}", decl.path)));
            }
        }
        Ok(Tensors { decls: decls.to_vec(), memory: Aligned::zeroed(end)?, places, index, version: next_version(), copy: None })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.decls.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.decls.is_empty()
    }

    /// The position of the tensor at `path`.
    pub fn find(&self, path: &str) -> Option<usize> {
        self.index.get(path).copied()
    }

    /// What number `i` is.
    pub fn decl(&self, i: usize) -> &TensorDecl {
        &self.decls[i]
    }

    /// The elements of number `i`.
    pub fn bytes(&self, i: usize) -> &[u8] {
        &self.settled()[self.places[i].clone()]
    }

    /// The elements of number `i`, to change.
    pub fn bytes_mut(&mut self, i: usize) -> &mut [u8] {
        self.settled();
        self.touch();
        &mut self.memory[self.places[i].clone()]
    }

    /// Another number than before whenever an element may have changed, and than any other store's.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Elements change.
    pub(crate) fn touch(&mut self) {
        self.version = next_version();
    }

    /// Brings back what a GPU has changed: before anyone looks at elements, or changes some.
    ///
    /// # Errors
    /// The GPU has failed.
    pub fn settle(&mut self) -> Result<()> {
        match &mut self.copy {
            Some(copy) if copy.newer => copy.download(&mut self.memory),
            _ => Ok(()),
        }
    }

    /// The elements, of which no GPU has newer ones.
    fn settled(&self) -> &[u8] {
        assert!(self.copy.as_ref().is_none_or(|c| !c.newer), "a GPU has newer tensors: settle first");
        &self.memory
    }

    /// Where the copy on the GPU begins, which is as new as the newest.
    pub(crate) fn on(&mut self, gpu: &Gpu) -> Result<u64> {
        if self.copy.as_ref().is_none_or(|c| !c.of(gpu)) {
            self.settle()?;
            self.copy = Some(Stored::new(gpu, self.memory.len())?);
        }
        let copy = self.copy.as_mut().expect("just made");
        if !copy.newer && copy.version != self.version {
            copy.upload(&self.memory, self.version)?;
        }
        Ok(copy.start())
    }

    /// The copy on the GPU changes.
    pub(crate) fn touch_on_gpu(&mut self) {
        self.touch();
        if let Some(copy) = &mut self.copy {
            (copy.version, copy.newer) = (self.version, true);
        }
    }

    /// Where they lie, and how many bytes.
    pub(crate) fn memory(&self) -> (*mut u8, usize) {
        (self.memory.as_ptr(), self.memory.len())
    }

    /// Where in the memory number `i` begins.
    pub(crate) fn place(&self, i: usize) -> usize {
        self.places[i].start
    }

    /// Address of number `i`, for kernels.
    pub(crate) fn address(&self, i: usize) -> *mut u8 {
        // Within the memory, or at its end where the tensor is empty.
        self.memory.as_ptr().wrapping_add(self.places[i].start)
    }

    /// All tensors whose role is among `roles`.
    pub fn iter<'a>(&'a self, roles: &'a [Role]) -> impl Iterator<Item = (&'a TensorDecl, &'a [u8])> {
        self.decls.iter().enumerate().filter(|(_, d)| roles.contains(&d.role)).map(|(i, d)| (d, self.bytes(i)))
    }

    /// The elements of everything: what to give to [`Tensors::restore`] later.
    ///
    /// # Errors
    /// Out of memory.
    pub fn snapshot(&self) -> Result<Aligned> {
        Aligned::copy_of(self.settled())
    }

    /// Back to a snapshot of this very store.
    pub fn restore(&mut self, snapshot: &Aligned) {
        self.copy.iter_mut().for_each(|c| c.newer = false);
        self.touch();
        self.memory.copy_from_slice(snapshot);
    }
}
