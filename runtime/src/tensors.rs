//! The stored tensors of a program: parameters, states and optimizer states, by path. Addresses are stable for the store's whole life.
//!
//! Where the program runs on a GPU there are copies of them, which runs change; [`Tensors::settle`] brings the changes back, and until then nobody may look.

use crate::cuda::{Gpu, Stored};
use crate::error::{Result, RunError};
use crate::manifest::{Role, TensorDecl};
use crate::memory::Aligned;
use std::collections::BTreeMap;
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
    bytes: Vec<Aligned>,
    index: BTreeMap<Arc<str>, usize>,
    version: u64,
    /// On a GPU.
    copies: Option<Stored>,
}

impl Tensors {
    /// Zeroed tensors for `decls`.
    ///
    /// # Errors
    /// Out of memory, or a path that appears twice.
    pub fn new(decls: &[TensorDecl]) -> Result<Tensors> {
        let mut store = Tensors { decls: decls.to_vec(), bytes: vec![], index: BTreeMap::new(), version: next_version(), copies: None };
        for (i, decl) in decls.iter().enumerate() {
            store.bytes.push(Aligned::zeroed(elements(&decl.shape)? * decl.dtype.bytes())?);
            if store.index.insert(decl.path.clone(), i).is_some() {
                return Err(RunError::Wrong(format!("the program stores two tensors called {}", decl.path)));
            }
        }
        Ok(store)
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
        &self.settled()[i]
    }

    /// The elements of number `i`, to change.
    pub fn bytes_mut(&mut self, i: usize) -> &mut [u8] {
        self.settled();
        self.touch();
        &mut self.bytes[i]
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
        match &mut self.copies {
            Some(copies) if copies.newer => copies.download(&mut self.bytes),
            _ => Ok(()),
        }
    }

    /// The elements, of which no GPU has newer ones.
    fn settled(&self) -> &[Aligned] {
        assert!(self.copies.as_ref().is_none_or(|c| !c.newer), "a GPU has newer tensors: settle first");
        &self.bytes
    }

    /// The copies on the GPU, as new as the newest.
    pub(crate) fn on(&mut self, gpu: &Gpu) -> Result<&Stored> {
        if self.copies.as_ref().is_none_or(|c| !c.of(gpu)) {
            self.settle()?;
            self.copies = Some(Stored::new(gpu, &self.bytes)?);
        }
        let copies = self.copies.as_mut().expect("just made");
        if !copies.newer && copies.version != self.version {
            copies.upload(&self.bytes, self.version)?;
        }
        Ok(copies)
    }

    /// The copies on the GPU change.
    pub(crate) fn touch_on_gpu(&mut self) {
        self.version = next_version();
        if let Some(copies) = &mut self.copies {
            (copies.version, copies.newer) = (self.version, true);
        }
    }

    /// Address of number `i`, for kernels.
    pub(crate) fn address(&self, i: usize) -> *mut u8 {
        self.bytes[i].as_ptr()
    }

    /// Bytes of number `i`.
    pub(crate) fn length(&self, i: usize) -> usize {
        self.bytes[i].len()
    }

    /// All tensors whose role is among `roles`.
    pub fn iter<'a>(&'a self, roles: &'a [Role]) -> impl Iterator<Item = (&'a TensorDecl, &'a [u8])> {
        self.decls.iter().zip(self.settled()).filter(|(d, _)| roles.contains(&d.role)).map(|(d, b)| (d, &**b))
    }

    /// The elements of everything, in order: what to give to [`Tensors::restore`] later.
    ///
    /// # Errors
    /// Out of memory.
    pub fn snapshot(&self) -> Result<Vec<Aligned>> {
        self.settled().iter().map(|b| Aligned::copy_of(b)).collect()
    }

    /// Takes a snapshot into memory that an earlier one has.
    pub fn snapshot_into(&self, snapshot: &mut [Aligned]) {
        snapshot.iter_mut().zip(self.settled()).for_each(|(to, from)| to.copy_from_slice(from));
    }

    /// Back to a snapshot of this very store.
    pub fn restore(&mut self, snapshot: &[Aligned]) {
        self.copies.iter_mut().for_each(|c| c.newer = false);
        self.touch();
        self.bytes.iter_mut().zip(snapshot).for_each(|(to, from)| to.copy_from_slice(from));
    }
}
