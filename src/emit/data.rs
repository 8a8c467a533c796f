//! Bytes as an object file, for programs that a C compiler links.

use super::{module, object, target};
use inkwell::context::Context;
use inkwell::module::Linkage;

/// An object with two constants: `symbol`, these bytes, and `symbol_size`, how many they are, as an integer of 64 bits.
///
/// # Errors
/// LLVM cannot be used on this machine.
pub fn constant(symbol: &str, bytes: &[u8]) -> Result<Vec<u8>, String> {
    target::check()?;
    if u32::try_from(bytes.len()).is_err() {
        return Err(format!("{} bytes are too many for an object file", bytes.len()));
    }
    let context = Context::create();
    let module = module(&context, &*target::machine()?);
    let text = context.const_string(bytes, false);
    let size = context.i64_type().const_int(bytes.len() as u64, false);
    let data = module.add_global(text.get_type(), None, symbol);
    data.set_initializer(&text);
    data.set_alignment(64);
    let count = module.add_global(context.i64_type(), None, &format!("{symbol}_size"));
    count.set_initializer(&size);
    for global in [data, count] {
        global.set_constant(true);
        global.set_linkage(Linkage::External);
    }
    object(&module)
}
