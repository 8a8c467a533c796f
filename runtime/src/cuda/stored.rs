//! The stored tensors' copy on the GPU. Either side may be the newer one; [`Store`](crate::tensors::Store) says which.

use super::Gpu;
use super::context::{Context, Memory};
use super::driver::Address;
use crate::error::Result;
use std::sync::Arc;

/// See the module.
pub(crate) struct Stored {
    context: Arc<Context>,
    memory: Memory,
    /// The version of the tensors that this is a copy of.
    pub version: u64,
    /// Whether it has changed since, and the host's have not.
    pub newer: bool,
}

impl Stored {
    /// A copy of nothing yet.
    pub fn new(gpu: &Gpu, bytes: usize) -> Result<Stored> {
        let context = gpu.context.clone();
        let _turn = gpu.context.turn()?;
        let memory = Memory::new(&context, bytes, "the stored tensors")?;
        Ok(Stored { context, memory, version: 0, newer: false })
    }

    /// Whether it is on this very GPU.
    pub fn of(&self, gpu: &Gpu) -> bool {
        Arc::ptr_eq(&self.context, &gpu.context)
    }

    pub fn start(&self) -> Address {
        self.memory.start
    }

    /// From the host.
    pub fn upload(&mut self, from: &[u8], version: u64) -> Result<()> {
        let _turn = self.context.turn()?;
        self.context.upload(self.memory.start, from)?;
        self.context.wait("the copying of stored tensors")?;
        (self.version, self.newer) = (version, false);
        Ok(())
    }

    /// To the host.
    pub fn download(&mut self, to: &mut [u8]) -> Result<()> {
        let _turn = self.context.turn()?;
        self.context.download(to, self.memory.start)?;
        self.context.wait("the copying of stored tensors")?;
        self.newer = false;
        Ok(())
    }
}
