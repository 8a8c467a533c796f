//! Machine code: kernels to x86-64 objects through LLVM. The only folder that names inkwell.
//!
//! In: verified kernels ([`crate::kernel::verify`]) and a symbol for each. Out: ELF objects that need nothing but each other, in which a kernel called
//! `k` is the function `k.v3` or `k.v4`, one a level:
//!
//! ```text
//! extern "C" fn(args: *const *mut u8, sizes: *const i64, lo: i64, hi: i64, scratch: *mut u8) -> i64
//! ```
//!
//! It runs the tasks lo..hi (outer points, or tiles of a contraction: [`crate::kernel::contract`]); 0, or the number (from 1) of a checked access that was out of bounds. The bits it writes are those of
//! [`crate::kernel::interpret`] (NaN payloads apart) at every level and for every split of the range: fold orders and scalar operations are
//! fixed, lanes only run along independent points or along a fold's own 16 lanes, and no fast-math flag is ever set. The same input gives the
//! same bytes. An error means that a kernel or this LLVM is not what it should be.

mod ahead;
mod body;
mod code;
mod contract;
#[cfg(test)]
mod contract_tests;
pub mod cuda;
pub mod data;
mod dense;
mod fold;
mod home;
mod lanes;
mod lines;
mod merge;
mod micro;
mod modes;
mod operand;
mod pack;
mod pieces;
mod points;
#[cfg(test)]
mod rows_tests;
mod single;
mod squares;
mod stage;
mod stream;
mod strided;
mod taps;
mod target;
#[cfg(test)]
mod tests;
mod triangle;
mod turn;
mod walk;
mod whole;
mod windows;
mod winograd;
#[cfg(test)]
mod winograd_tests;

pub use target::version;

use crate::ir::{DType, ScalarOp};
use crate::kernel::contract::{Contraction, Side, recognise};
use crate::kernel::{Instr, Kernel};
use body::Writer;
use code::{Code, Elem, ok};
use cuda::Device;
use inkwell::AddressSpace;
use inkwell::basic_block::BasicBlock;
use inkwell::context::Context;
use inkwell::module::Module;
use inkwell::passes::PassBuilderOptions;
use inkwell::targets::{FileType, TargetMachine};
use inkwell::types::BasicTypeEnum;
use inkwell::values::FunctionValue;
use nnc_runtime::manifest::Kernel as Declaration;
use rayon::prelude::*;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::ops::Range;

/// What a CPU must have: see the x86-64 psABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// AVX2, FMA.
    V3,
    /// AVX-512 F, BW, CD, DQ, VL.
    V4,
}

impl Level {
    /// Every level.
    pub const ALL: [Level; 2] = [Level::V3, Level::V4];

    /// The end of symbols.
    pub fn name(self) -> &'static str {
        match self {
            Level::V3 => "v3",
            Level::V4 => "v4",
        }
    }
}

/// What [`text`] shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// LLVM's language, after the passes.
    Ir,
    /// Assembly.
    Assembly,
}

/// Kernels share a module up to this weight ([`weight`]): small enough to share the work out, the same whatever the number of threads.
const PER_MODULE: usize = 200;
/// What runs before code generation; vectors are made here, not found there.
const PASSES: &str = "function(mem2reg,simplifycfg,early-cse,instcombine<no-verify-fixpoint>,loop-mssa(licm),simplifycfg)";

/// What the runtime must know to call the kernel.
pub fn declare(symbol: &str, kernel: &Kernel) -> Declaration {
    let writes = (0..).zip(&kernel.params).filter(|(_, p)| p.written).map(|(n, _)| n).collect();
    Declaration { symbol: symbol.into(), scratch: contract::scratch(kernel) as u64, writes }
}

/// Objects that hold every kernel under its name at every level.
///
/// # Errors
/// A kernel that is not well formed, or an LLVM that lacks something.
pub fn compile(kernels: &[Kernel], names: &[Declaration], levels: &[Level]) -> Result<Vec<Vec<u8>>, String> {
    target::check()?;
    if kernels.len() != names.len() {
        return Err(format!("{} kernels have {} names", kernels.len(), names.len()));
    }
    in_parallel(jobs(kernels, levels), |job| {
        let context = Context::create();
        let mut module = module(&context, &*target::machine()?);
        match job {
            Job::Multiply(dtype, level, side) => module = micro::define(&context, module, dtype, level, side),
            Job::Half(dtype) => module = micro::define_half(module, dtype),
            Job::Stream(dtype, level) => module = stream::define(&context, module, dtype, level),
            Job::Single(dtype, level) => module = single::define(&context, module, dtype, level),
            Job::Kernels(range) => {
                for (kernel, name) in kernels[range.clone()].iter().zip(&names[range]) {
                    for level in levels {
                        module = function(&context, module, kernel, &name.symbol, *level)?;
                    }
                }
            }
        }
        object(&module)
    })
}

/// Whoever has nothing to do takes the next job, the heaviest first, so that all end at about the same time; results come in the order of jobs.
fn in_parallel<J: Send, T: Send>(jobs: Vec<(usize, J)>, make: impl Fn(J) -> Result<T, String> + Sync) -> Result<Vec<T>, String> {
    let made = jobs.into_iter().enumerate().par_bridge().map(|(n, (_, job))| Ok((n, make(job)?)));
    let mut made = made.collect::<Result<Vec<(usize, T)>, String>>()?;
    made.sort_by_key(|(n, _)| *n);
    Ok(made.into_iter().map(|(_, made)| made).collect())
}

/// What becomes one object.
enum Job {
    /// These kernels, at every level.
    Kernels(Range<usize>),
    /// The functions that multiply, for one type at one level, where rows take all steps or those on one side.
    Multiply(DType, Level, Option<Side>),
    /// The same for half a panel, at a wide level.
    Half(DType),
    /// The same for few rows of a B that is read in place.
    Stream(DType, Level),
    /// The same for a single row and columns that run along `k`.
    Single(DType, Level),
}

/// What there is to compile, the heaviest first: a decision from the kernels alone.
fn jobs(kernels: &[Kernel], levels: &[Level]) -> Vec<(usize, Job)> {
    let contractions: Vec<(&Kernel, Contraction)> = kernels.iter().filter_map(|k| Some((k, recognise(k)?))).collect();
    let used: BTreeSet<(DType, Option<Side>)> = contractions.iter().map(|(_, c)| (c.dtype, c.reach.as_ref().map(|r| r.side))).collect();
    let multiply = used.iter().flat_map(|(t, side)| levels.iter().map(|level| (MULTIPLY, Job::Multiply(*t, *level, *side))));
    let types = |such: fn(&Kernel, &Contraction) -> bool| -> BTreeSet<DType> {
        contractions.iter().filter(|(kernel, c)| such(kernel, c)).map(|(_, c)| c.dtype).collect()
    };
    let (streamed, singles, halves) = (types(stream::takes), types(single::takes), types(micro::halves));
    let stream = streamed.iter().flat_map(|t| levels.iter().map(|level| (STREAM, Job::Stream(*t, *level))));
    let single = singles.iter().flat_map(|t| levels.iter().map(|level| (SINGLE, Job::Single(*t, *level))));
    let half = halves.iter().filter(|_| levels.contains(&Level::V4)).map(|t| (HALF, Job::Half(*t)));
    let mut jobs: Vec<(usize, Job)> = multiply.chain(stream).chain(single).chain(half).collect();
    let (mut first, mut sum) = (0, 0);
    for (n, kernel) in kernels.iter().enumerate() {
        sum += weight(kernel);
        if sum >= PER_MODULE || n + 1 == kernels.len() {
            jobs.push((sum, Job::Kernels(first..n + 1)));
            (first, sum) = (n + 1, 0);
        }
    }
    jobs.sort_by_key(|(weight, _)| std::cmp::Reverse(*weight));
    jobs
}

/// The weight of the functions that multiply.
const MULTIPLY: usize = 450;
/// The weight of those for few rows.
const STREAM: usize = 200;
/// The weight of that for a single row.
const SINGLE: usize = 100;
/// The weight of that for half a panel.
const HALF: usize = 100;

/// How long the kernel takes to compile, in units of its instructions: what is packed and multiplied needs many more than it says.
fn weight(kernel: &Kernel) -> usize {
    fn block(body: &[Instr]) -> usize {
        use ScalarOp::*;
        let nested = |i: &Instr| match i {
            Instr::Select { then, otherwise, .. } => block(&then.0) + block(&otherwise.0),
            Instr::Op(Exp | Expm1 | Log | Log1p | Sin | Cos | Atan | Tanh | Sigmoid | Erf | Pow | Mod | FoldKey | Uniform, _) => 20,
            _ => 1,
        };
        body.iter().map(nested).sum()
    }
    let stages: usize = kernel.stages.iter().map(|s| 20 + block(&s.body)).sum();
    stages + if recognise(kernel).is_some() { 150 } else { 0 }
}

fn object(module: &Module) -> Result<Vec<u8>, String> {
    finish(module, &*target::machine()?, |machine| {
        let buffer = machine.write_to_memory_buffer(module, FileType::Object).map_err(|e| e.to_string())?;
        Ok(buffer.as_slice().to_vec())
    })
}

/// A kernel's code as text.
///
/// # Errors
/// As [`compile`].
pub fn text(kernel: &Kernel, level: Level, what: What) -> Result<String, String> {
    target::check()?;
    let context = Context::create();
    print(&function(&context, module(&context, &*target::machine()?), kernel, &kernel.name, level)?, &*target::machine()?, what)
}

fn print(module: &Module, machine: &TargetMachine, what: What) -> Result<String, String> {
    finish(module, machine, |machine| match what {
        What::Ir => Ok(module.print_to_string().to_string()),
        What::Assembly => assembly(module, machine),
    })
}

fn assembly(module: &Module, machine: &TargetMachine) -> Result<String, String> {
    let buffer = machine.write_to_memory_buffer(module, FileType::Assembly).map_err(|e| e.to_string())?;
    Ok(String::from_utf8_lossy(buffer.as_slice()).trim_end_matches('\0').to_string())
}

/// The assembly of functions that no kernel shows, such as those that multiply.
#[cfg(test)]
fn shared(define: impl for<'c> FnOnce(&'c Context, Module<'c>) -> Module<'c>) -> String {
    target::check().unwrap();
    let (context, machine) = (Context::create(), target::machine().unwrap());
    print(&define(&context, module(&context, &machine)), &machine, What::Assembly).unwrap()
}

/// Verifies, runs the passes, and hands on to code generation.
fn finish<T>(module: &Module, machine: &TargetMachine, then: impl FnOnce(&TargetMachine) -> Result<T, String>) -> Result<T, String> {
    module.verify().map_err(|e| format!("LLVM refuses the kernels: {e}"))?;
    module.run_passes(PASSES, machine, PassBuilderOptions::create()).map_err(|e| e.to_string())?;
    then(machine)
}

fn module<'c>(context: &'c Context, machine: &TargetMachine) -> Module<'c> {
    let module = context.create_module("kernels");
    module.set_triple(&machine.get_triple());
    module.set_data_layout(&machine.get_target_data().get_data_layout());
    module
}

/// The module with the kernel's function added.
fn function<'c>(context: &'c Context, module: Module<'c>, kernel: &Kernel, name: &str, level: Level) -> Result<Module<'c>, String> {
    let contraction = recognise(kernel);
    let merged = if contraction.is_none() { Some(merge::merged(kernel)) } else { None };
    let kernel = merged.as_ref().unwrap_or(kernel);
    let (pointer, int) = (context.ptr_type(AddressSpace::default()), context.i64_type());
    let ty = int.fn_type(&[pointer.into(), pointer.into(), int.into(), int.into(), pointer.into()], false);
    let function = module.add_function(&format!("{name}.{}", level.name()), ty, None);
    target::attributes(context, function, level);
    let (writer, start) = begin(context, module, function, kernel, None);
    let parameter = |n| function.get_nth_param(n).expect("the function has five parameters");
    let (lo, hi) = (parameter(2).into_int_value(), parameter(3).into_int_value());
    match contraction {
        None => writer.outer(&modes::modes(kernel), lo, hi)?,
        Some(c) => contract::write(&writer, &c, level, [lo, hi], parameter(4).into_pointer_value())?,
    }
    ok(writer.code.builder.build_return(Some(&writer.code.int(0))));
    Ok(end(writer, start))
}

/// Opens a kernel's function, whose first two parameters are the tables of arguments and sizes, or on a GPU these themselves. Code is written from the block that comes with the
/// writer on.
fn begin<'k, 'c>(
    context: &'c Context,
    module: Module<'c>,
    function: FunctionValue<'c>,
    kernel: &'k Kernel,
    device: Option<Device>,
) -> (Writer<'k, 'c>, BasicBlock<'c>) {
    let [entry, prologue, start] = ["entry", "prologue", "start"].map(|name| context.append_basic_block(function, name));
    let code = Code { context, module, builder: context.create_builder(), function, entry, device };
    code.builder.position_at_end(prologue);
    let parameter = |n: usize| function.get_nth_param(n as u32).expect("the function has parameters for all that the kernel takes");
    // Addresses are as wide as integers: both tables are read in steps of 8 bytes.
    let entry_of = |table: usize, ty: BasicTypeEnum<'c>, i: usize| {
        let at = code.element(Elem::I64, parameter(table).into_pointer_value(), code.int(i as i64));
        code.load(ty, at, 8)
    };
    let direct = device == Some(Device::Ptx);
    let param = |i: usize| if direct { parameter(i) } else { entry_of(0, code.pointer(), i) };
    let size = |i: usize| if direct { parameter(kernel.params.len() + i) } else { entry_of(1, code.ty(Elem::I64, 1), i) };
    let params = (0..kernel.params.len()).map(|i| param(i).into_pointer_value()).collect();
    let dims = (0..kernel.sizes).map(|i| size(i).into_int_value()).collect();
    code.builder.position_at_end(start);
    (Writer { code, kernel, prologue, params, dims, known: RefCell::default(), checks: Cell::new(0) }, start)
}

/// Closes the function: its blocks follow each other.
fn end<'c>(writer: Writer<'_, 'c>, start: BasicBlock<'c>) -> Module<'c> {
    let Writer { code, prologue, .. } = writer;
    code.builder.position_at_end(prologue);
    code.jump(start);
    code.builder.position_at_end(code.entry);
    code.jump(prologue);
    code.module
}
