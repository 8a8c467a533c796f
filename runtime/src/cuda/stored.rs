//! Copies of the stored tensors on the GPU. Either side may be the newer one; [`Tensors`](crate::tensors::Tensors) says which.

use super::Gpu;
use super::context::{Context, Memory};
use super::driver::Address;
use crate::error::{Result, RunError};
use crate::memory::Aligned;
use std::sync::Arc;

/// Tensors begin at multiples of this many bytes.
const ALIGN: usize = 256;

/// See the module.
pub(crate) struct Stored {
    context: Arc<Context>,
    _memory: Memory,
    /// Where each begins.
    pub addresses: Arc<[Address]>,
    /// The version of the tensors that these are a copy of.
    pub version: u64,
    /// Whether they have changed since, and the host's have not.
    pub newer: bool,
}

impl Stored {
    /// Copies of nothing yet.
    pub fn new(gpu: &Gpu, tensors: &[Aligned]) -> Result<Stored> {
        let (mut places, mut end) = (vec![], 0usize);
        for tensor in tensors {
            places.push(end);
            let next = end.checked_add(tensor.len()).and_then(|n| n.checked_next_multiple_of(ALIGN));
            end = next.ok_or_else(|| RunError::World("the stored tensors do not fit in memory".into()))?;
        }
        let memory = Memory::new(&gpu.context, end, "the stored tensors")?;
        let addresses = places.into_iter().map(|at| memory.start + at as u64).collect();
        Ok(Stored { context: gpu.context.clone(), _memory: memory, addresses, version: 0, newer: false })
    }

    /// Whether the copies are this very GPU's.
    pub fn of(&self, gpu: &Gpu) -> bool {
        Arc::ptr_eq(&self.context, &gpu.context)
    }

    /// From the host.
    pub fn upload(&mut self, tensors: &[Aligned], version: u64) -> Result<()> {
        let context = self.context.clone();
        let _turn = context.turn()?;
        for (i, tensor) in tensors.iter().enumerate() {
            context.upload(self.addresses[i], tensor)?;
        }
        context.wait("the copying of stored tensors")?;
        (self.version, self.newer) = (version, false);
        Ok(())
    }

    /// To the host.
    pub fn download(&mut self, tensors: &mut [Aligned]) -> Result<()> {
        let context = self.context.clone();
        let _turn = context.turn()?;
        for (i, tensor) in tensors.iter_mut().enumerate() {
            context.download(tensor, self.addresses[i])?;
        }
        context.wait("the copying of stored tensors")?;
        self.newer = false;
        Ok(())
    }
}
