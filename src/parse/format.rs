//! `nnc fmt`.

use crate::diagnostic::Diagnostic;

/// See the module.
pub fn format(text: &str) -> Result<String, Vec<Diagnostic>> {
    Ok(text.to_string())
}
