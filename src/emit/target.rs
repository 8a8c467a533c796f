//! The target: x86-64 ELF objects, one function attribute set per level.

use crate::emit::Level;
use inkwell::OptimizationLevel;
use inkwell::attributes::AttributeLoc;
use inkwell::context::Context;
use inkwell::intrinsics::Intrinsic;
use inkwell::llvm_sys::support::LLVMParseCommandLineOptions;
use inkwell::targets::{CodeModel, InitializationConfig, RelocMode, Target, TargetMachine, TargetTriple};
use inkwell::values::FunctionValue;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::OnceLock;

/// Where objects run. ELF whatever the host: our own loader reads it.
pub const TRIPLE: &str = "x86_64-unknown-linux-gnu";

/// Everything that emission names; asked for at the start, because LLVM ends the process where something is missing later.
const INTRINSICS: [&str; 15] = [
    "llvm.fma",
    "llvm.fabs",
    "llvm.sqrt",
    "llvm.floor",
    "llvm.ceil",
    "llvm.roundeven",
    "llvm.fptosi.sat",
    "llvm.masked.load",
    "llvm.masked.store",
    "llvm.masked.gather",
    "llvm.masked.scatter",
    "llvm.prefetch",
    "llvm.x86.avx512.mask.scalef.ps.512",
    "llvm.x86.avx512.permvar.sf.512",
    "llvm.x86.avx2.permps",
];

/// Whether this LLVM can do what emission needs.
pub fn check() -> Result<(), String> {
    static CHECKED: OnceLock<Result<(), String>> = OnceLock::new();
    CHECKED
        .get_or_init(|| {
            Target::initialize_x86(&InitializationConfig::default());
            leave_out();
            machine()?;
            match INTRINSICS.iter().find(|name| Intrinsic::find(name).is_none()) {
                Some(name) => Err(format!("this LLVM has no {name}")),
                None => Ok(()),
            }
        })
        .clone()
}

/// Which LLVM this is.
///
/// # Errors
/// It lacks something that emission needs.
pub fn version() -> Result<String, String> {
    check()?;
    let (major, minor, patch) = inkwell::support::get_llvm_version();
    Ok(format!("{major}.{minor}.{patch}"))
}

/// Tells code generation what not to do: strength reduction of loops takes a quarter of its time, and gives up registers for addresses that x86 computes
/// beside the access. Kernels are as fast without it, and smaller.
fn leave_out() {
    let words = [c"nnc".as_ptr(), c"-disable-lsr".as_ptr()];
    // SAFETY: as many words as stated, with a zero at the end each; called once, before any machine is made; nothing is printed.
    unsafe { LLVMParseCommandLineOptions(words.len() as i32, words.as_ptr(), std::ptr::null()) };
}

/// This thread's machine. It is kept, because what it works out of a level's instructions takes longer than a small kernel.
pub fn machine() -> Result<Rc<TargetMachine>, String> {
    thread_local! {
        static MACHINE: RefCell<Option<Rc<TargetMachine>>> = const { RefCell::new(None) };
    }
    MACHINE.with_borrow_mut(|known| {
        if known.is_none() {
            let triple = TargetTriple::create(TRIPLE);
            let target = Target::from_triple(&triple).map_err(|e| format!("this LLVM has no x86-64: {e}"))?;
            let (level, reloc, code) = (OptimizationLevel::Default, RelocMode::PIC, CodeModel::Small);
            *known = target.create_target_machine(&triple, "x86-64-v3", "", level, reloc, code).map(Rc::new);
        }
        known.clone().ok_or_else(|| "this LLVM has no machine for x86-64-v3".into())
    })
}

/// Says which instructions a function may use, and that its loops must not become calls.
pub fn attributes(context: &Context, function: FunctionValue, level: Level) {
    let width = match level {
        Level::V3 => "256",
        Level::V4 => "512",
    };
    let cpu = match level {
        Level::V3 => "x86-64-v3",
        Level::V4 => "x86-64-v4",
    };
    let pairs = [("target-cpu", cpu), ("prefer-vector-width", width), ("min-legal-vector-width", width), ("no-builtins", "")];
    for (key, value) in pairs {
        function.add_attribute(AttributeLoc::Function, context.create_string_attribute(key, value));
    }
    let kind = inkwell::attributes::Attribute::get_named_enum_kind_id("nounwind");
    function.add_attribute(AttributeLoc::Function, context.create_enum_attribute(kind, 0));
}
