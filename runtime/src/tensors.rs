//! The stored tensors of a program: parameters, states and optimizer states, by path, one after the other in one piece of memory. Addresses are stable
//! for the store's whole life.
//!
//! [`Tensors`] are in this machine's memory, for all to look at. Where a program may run on a GPU, they are in a [`Store`]: runs there change a copy, and
//! the only way to the tensors, [`Store::here`], brings the changes back first. What they are called and where they lie ([`Places`]) is the same on both.

use crate::cuda::{Gpu, Stored};
use crate::error::{Result, RunError};
use crate::exec::Prepared;
use crate::manifest::{Role, TensorDecl};
use crate::memory::{ALIGN, Aligned};
use std::collections::BTreeMap;
use std::ops::{Deref, Range};
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

/// What tensors there are, in the manifest's order, and where each lies.
pub struct Places {
    decls: Vec<TensorDecl>,
    /// Where each one's bytes lie.
    ranges: Vec<Range<usize>>,
    index: BTreeMap<Arc<str>, usize>,
}

impl Places {
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

    /// All whose role is among `roles`.
    pub fn decls<'a>(&'a self, roles: &'a [Role]) -> impl Iterator<Item = &'a TensorDecl> {
        self.decls.iter().filter(|d| roles.contains(&d.role))
    }

    /// Where in the memory number `i` begins.
    pub(crate) fn start(&self, i: usize) -> usize {
        self.ranges[i].start
    }
}

/// All tensors that a program stores.
pub struct Tensors {
    places: Places,
    memory: Aligned,
    version: u64,
}

impl Deref for Tensors {
    type Target = Places;

    fn deref(&self) -> &Places {
        &self.places
    }
}

impl Tensors {
    /// Zeroed tensors for `decls`.
    ///
    /// # Errors
    /// Out of memory, or a path that appears twice.
    pub fn new(decls: &[TensorDecl]) -> Result<Tensors> {
        let (mut ranges, mut index, mut end) = (vec![], BTreeMap::new(), 0usize);
        for (i, decl) in decls.iter().enumerate() {
            let len = elements(&decl.shape)? * decl.dtype.bytes();
            ranges.push(end..end + len);
            let next = (end + len).checked_next_multiple_of(ALIGN).filter(|n| *n <= isize::MAX as usize / 8);
            end = next.ok_or_else(|| RunError::World("the program's tensors do not fit in memory".into()))?;
            if index.insert(decl.path.clone(), i).is_some() {
                return Err(RunError::Wrong(format!("the program stores two tensors called {}", decl.path)));
            }
        }
        Ok(Tensors { places: Places { decls: decls.to_vec(), ranges, index }, memory: Aligned::zeroed(end)?, version: next_version() })
    }

    /// The elements of number `i`.
    pub fn bytes(&self, i: usize) -> &[u8] {
        &self.memory[self.places.ranges[i].clone()]
    }

    /// The elements of number `i`, to change.
    pub fn bytes_mut(&mut self, i: usize) -> &mut [u8] {
        self.touch();
        &mut self.memory[self.places.ranges[i].clone()]
    }

    /// Another number than before whenever an element may have changed, and than any other store's.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Elements change.
    pub(crate) fn touch(&mut self) {
        self.version = next_version();
    }

    /// Where they lie, and how many bytes.
    pub(crate) fn memory(&self) -> (*mut u8, usize) {
        (self.memory.as_ptr(), self.memory.len())
    }

    /// All tensors whose role is among `roles`.
    pub fn iter<'a>(&'a self, roles: &'a [Role]) -> impl Iterator<Item = (&'a TensorDecl, &'a [u8])> {
        self.places.decls.iter().enumerate().filter(|(_, d)| roles.contains(&d.role)).map(|(i, d)| (d, self.bytes(i)))
    }

    /// The elements of everything: what to give to [`Tensors::restore`] later.
    ///
    /// # Errors
    /// Out of memory.
    pub fn snapshot(&self) -> Result<Aligned> {
        Aligned::copy_of(&self.memory)
    }

    /// Back to a snapshot of this very store.
    pub fn restore(&mut self, snapshot: &Aligned) {
        self.touch();
        self.memory.copy_from_slice(snapshot);
    }
}

/// Tensors of which a GPU may have newer ones.
pub struct Store {
    tensors: Tensors,
    /// On a GPU.
    copy: Option<Stored>,
}

impl From<Tensors> for Store {
    fn from(tensors: Tensors) -> Store {
        Store { tensors, copy: None }
    }
}

impl Deref for Store {
    type Target = Places;

    fn deref(&self) -> &Places {
        &self.tensors.places
    }
}

impl Store {
    /// The tensors, once what a GPU has changed is brought back.
    ///
    /// # Errors
    /// The GPU has failed.
    pub fn here(&mut self) -> Result<&mut Tensors> {
        if let Some(copy) = self.copy.as_mut().filter(|c| c.newer) {
            copy.download(&mut self.tensors.memory)?;
        }
        Ok(&mut self.tensors)
    }

    /// The tensors, brought back for good.
    ///
    /// # Errors
    /// As [`Store::here`].
    pub fn into_here(mut self) -> Result<Tensors> {
        self.here()?;
        Ok(self.tensors)
    }

    /// Result number `i` of the last run, here or on a GPU.
    pub(crate) fn result<'a>(&'a mut self, run: &'a Prepared, i: usize) -> Result<&'a [u8]> {
        match run.own(i) {
            Some(bytes) => Ok(bytes),
            None => Ok(run.result(i, self.here()?)),
        }
    }

    /// Where the copy on the GPU begins, which is as new as the newest.
    pub(crate) fn on(&mut self, gpu: &Gpu) -> Result<u64> {
        if self.copy.as_ref().is_none_or(|c| !c.of(gpu)) {
            let bytes = self.here()?.memory.len();
            self.copy = Some(Stored::new(gpu, bytes)?);
        }
        let copy = self.copy.as_mut().expect("just made");
        if !copy.newer && copy.version != self.tensors.version {
            copy.upload(&self.tensors.memory, self.tensors.version)?;
        }
        Ok(copy.start())
    }

    /// The copy on the GPU changes.
    pub(crate) fn touch_on_gpu(&mut self) {
        self.tensors.touch();
        if let Some(copy) = &mut self.copy {
            (copy.version, copy.newer) = (self.tensors.version, true);
        }
    }

    /// As [`Tensors::version`].
    pub(crate) fn version(&self) -> u64 {
        self.tensors.version
    }

    /// Where they lie on the host, and how many bytes.
    pub(crate) fn memory(&self) -> (*mut u8, usize) {
        self.tensors.memory()
    }
}
