//! Kernels as text.

pub fn kernel(kernel: &crate::kernel::Kernel) -> String {
    format!("{kernel:?}")
}
