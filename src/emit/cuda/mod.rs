//! CUDA: kernels to PTX, and the same code for a CPU that plays the GPU.
//!
//! In: verified kernels and a symbol for each. Out: PTX (of [`ptx`]) with an entry for each kernel, or x86-64 objects (of [`emulated`]) that run one of its
//! threads at a time. Both come from the same writers; what only a GPU has goes through [`Primitive`], which has a lowering for each. The bits written
//! are those of [`crate::kernel::interpret`] (NaN payloads apart), for any number of blocks: folds keep their order, and nothing is contracted, flushed
//! or approximated; but for products by tensor units, where these are asked for ([`Products`]).
//!
//! ```text
//! .entry k(params..., sizes..., status)
//! ```
//! Blocks have [`THREADS`] threads, and any number of blocks does all of the kernel's work: each takes every so many-th piece. A checked access that is
//! out of bounds writes its number (from 1) to `status` and goes on with a zero, or without its store, so that no thread leaves others waiting.

mod points;
mod primitive;
mod squares;
mod teams;
mod tensor;
#[cfg(test)]
pub mod tests;
mod tiles;

pub use primitive::{Device, Primitive};

use super::body::{Scope, Writer};
use super::code::ok;
use super::{Job, What, assembly, begin, end, finish, in_parallel, jobs, merge, module, object, print, target};
use crate::ir::Size;
use crate::kernel::Kernel;
use crate::kernel::contract::{Contraction, Windows, cut, recognise};
use crate::kernel::lower::product;
use inkwell::AddressSpace;
use inkwell::attributes::AttributeLoc;
use inkwell::context::Context;
use inkwell::module::Module;
use inkwell::values::IntValue;
use nnc_runtime::manifest::{Grid, Kernel as Declaration};

/// Threads of a block.
pub const THREADS: i64 = 128;

/// LLVM's number of the calling convention of kernels.
const KERNEL_CONVENTION: u32 = 71;

/// How a grid's threads share out a kernel.
enum Schedule {
    /// A thread an outer point.
    Points,
    /// Half a warp.
    Teams,
    /// A thread a square of results, or all taps of a window.
    Squares(Box<Contraction>),
    /// A block a tile of a product, which the tensor units compute or not.
    Tiles(Box<Contraction>, bool),
}

impl Schedule {
    /// Blocks that a multiprocessor has room for at least: so many registers a thread may have. Left alone, ptxas sometimes takes fewer, and spills.
    fn room(&self) -> i64 {
        match self {
            Schedule::Points | Schedule::Teams => 4,
            Schedule::Squares(_) | Schedule::Tiles(..) => 2,
        }
    }
}

/// How products of f32 are computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Products {
    /// By multiply-adds, in the order that the law states.
    #[default]
    Exact,
    /// By the tensor units where they can, as three products of halves of the factors: about as near to the true value as f32 gets, and other bits.
    Tensor,
}

/// A decision from the kernel's structure alone, which changes no result as long as products are exact.
fn schedule(kernel: &Kernel, products: Products) -> Schedule {
    match recognise(kernel).filter(|c| c.windows.is_some()) {
        Some(c) if c.windows == Some(Windows::Lines) => return Schedule::Teams,
        Some(squares) => return Schedule::Squares(Box::new(squares)),
        None => {}
    }
    match tiles::tiled(kernel) {
        Some(contraction) => {
            let tensor = products == Products::Tensor && tiles::tensor(&contraction, kernel);
            Schedule::Tiles(Box::new(contraction), tensor)
        }
        None if teams::fits(kernel) => Schedule::Teams,
        None => Schedule::Points,
    }
}

/// The kernel as it is written: with its loops merged, where these are not a contraction's.
fn simplified(kernel: &Kernel) -> Kernel {
    if recognise(kernel).is_none() { merge::merged(kernel) } else { kernel.clone() }
}

/// How a launch of the kernel is shared out, however products are computed.
pub fn grid(kernel: &Kernel) -> Grid {
    let kernel = simplified(kernel);
    let points = product(&kernel.outer);
    let blocks = match schedule(&kernel, Products::Exact) {
        Schedule::Points => cut(points, THREADS),
        Schedule::Teams => cut(points, THREADS / teams::TEAM),
        Schedule::Squares(contraction) => cut(product(&squares::corners(&contraction, &kernel)), THREADS),
        Schedule::Tiles(contraction, _) => tiles::count(&contraction, &kernel),
    };
    Grid { threads: THREADS as u32, blocks }
}

/// Texts of PTX that hold every kernel under its name.
///
/// # Errors
/// A kernel that is not well formed, or an LLVM that lacks something.
pub fn ptx(kernels: &[Kernel], names: &[Declaration], products: Products) -> Result<Vec<String>, String> {
    primitive::check()?;
    each_module(kernels, names, Device::Ptx, products, |module| finish(module, &primitive::machine()?, |machine| assembly(module, machine)))
}

/// Objects that hold every kernel as `<name>.v3`, for an emulator of threads: the function's last argument is what [`Primitive`] says.
///
/// # Errors
/// As [`ptx`].
pub fn emulated(kernels: &[Kernel], names: &[Declaration]) -> Result<Vec<Vec<u8>>, String> {
    emulated_by(kernels, names, Products::Exact)
}

/// The same, with products of any kind.
///
/// # Errors
/// As [`ptx`].
pub fn emulated_by(kernels: &[Kernel], names: &[Declaration], products: Products) -> Result<Vec<Vec<u8>>, String> {
    target::check()?;
    each_module(kernels, names, Device::Emulated, products, object)
}

/// A kernel's code as text.
///
/// # Errors
/// As [`ptx`].
pub fn text(kernel: &Kernel, what: What) -> Result<String, String> {
    primitive::check()?;
    let context = Context::create();
    let module = function(&context, module(&context, &primitive::machine()?), kernel, &format!("k_{}", kernel.name), Device::Ptx, Products::Exact)?;
    print(&module, &primitive::machine()?, what)
}

fn each_module<T: Send>(
    kernels: &[Kernel],
    names: &[Declaration],
    device: Device,
    products: Products,
    then: impl Fn(&Module) -> Result<T, String> + Sync,
) -> Result<Vec<T>, String> {
    if kernels.len() != names.len() {
        return Err(format!("{} kernels have {} names", kernels.len(), names.len()));
    }
    in_parallel(jobs(kernels, &[]), |job| {
        let Job::Kernels(range) = job else { return Err("a GPU has no functions that multiply".into()) };
        let context = Context::create();
        let mut module = module(&context, &*device.machine()?);
        for (kernel, name) in kernels[range.clone()].iter().zip(&names[range]) {
            module = function(&context, module, kernel, &name.symbol, device, products)?;
        }
        then(&module)
    })
}

/// The module with the kernel's function added.
fn function<'c>(
    context: &'c Context,
    module: Module<'c>,
    kernel: &Kernel,
    name: &str,
    device: Device,
    products: Products,
) -> Result<Module<'c>, String> {
    let kernel = &simplified(kernel);
    let schedule = schedule(kernel, products);
    let (pointer, int) = (context.ptr_type(AddressSpace::default()), context.i64_type());
    let function = match device {
        Device::Ptx => {
            let params = kernel.params.iter().map(|_| pointer.into()).chain((0..kernel.sizes).map(|_| int.into())).chain([pointer.into()]);
            let function = module.add_function(name, context.void_type().fn_type(&params.collect::<Vec<_>>(), false), None);
            function.set_call_conventions(KERNEL_CONVENTION);
            for (key, value) in [("nvvm.reqntid", THREADS), ("nvvm.minctasm", schedule.room())] {
                function.add_attribute(AttributeLoc::Function, context.create_string_attribute(key, &value.to_string()));
            }
            function
        }
        Device::Emulated => {
            let ty = int.fn_type(&[pointer.into(), pointer.into(), int.into(), int.into(), pointer.into()], false);
            let function = module.add_function(&format!("{name}.v3"), ty, None);
            target::attributes(context, function, super::Level::V3);
            function
        }
    };
    let (writer, start) = begin(context, module, function, kernel, Some(device));
    match schedule {
        Schedule::Points => points::write(&writer)?,
        Schedule::Teams => teams::write(&writer)?,
        Schedule::Squares(contraction) => squares::write(&writer, &contraction)?,
        Schedule::Tiles(contraction, tensor) => tiles::write(&writer, &contraction, tensor)?,
    }
    let result = (device == Device::Emulated).then(|| writer.code.int(0));
    ok(match &result {
        Some(zero) => writer.code.builder.build_return(Some(zero)),
        None => writer.code.builder.build_return(None),
    });
    Ok(end(writer, start))
}

/// The point of a box with this number, the last variable fastest.
fn unravelled<'c>(w: &Writer<'_, 'c>, sizes: &[Size], number: IntValue<'c>) -> Vec<IntValue<'c>> {
    let b = &w.code.builder;
    let (mut rest, mut point) = (number, vec![w.code.int(0); sizes.len()]);
    let several: Vec<usize> = (0..sizes.len()).filter(|v| sizes[*v].as_const() != Some(1)).collect();
    let Some((first, others)) = several.split_first() else { return point };
    for v in others.iter().rev() {
        let size = w.size(&sizes[*v]);
        point[*v] = ok(b.build_int_unsigned_rem(rest, size, ""));
        rest = ok(b.build_int_unsigned_div(rest, size, ""));
    }
    point[*first] = rest;
    point
}

impl<'c> Writer<'_, 'c> {
    /// The thread's number within the grid, and how many threads the grid has.
    fn grid(&self) -> [IntValue<'c>; 2] {
        let b = &self.code.builder;
        let [thread, block, blocks] = [Primitive::Thread, Primitive::Block, Primitive::Blocks].map(|p| self.code.primitive(p, &[]));
        let threads = self.code.int(THREADS);
        [ok(b.build_int_add(ok(b.build_int_mul(block, threads, "")), thread, "")), ok(b.build_int_mul(blocks, threads, ""))]
    }

    /// The scope of the outer point with this number.
    fn outer_point(&self, number: IntValue<'c>) -> Scope<'c> {
        let (point, ranges) = (unravelled(self, &self.kernel.outer, number), self.kernel.outer.clone());
        Scope { point, ranges, lane: None, mask: None, within: None, locals: vec![] }
    }
}
