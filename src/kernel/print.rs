//! Kernels as text.
pub fn kernel(k: &crate::kernel::Kernel) -> String {
    format!("{k:#?}")
}
