//! Kernels from text.
