//! What only a GPU has, with a lowering to NVPTX and one to calls of an emulator.
//!
//! An emulated kernel's last parameter points to a table of functions, one a primitive in the order of [`Primitive`]; each takes that pointer and three
//! integers, of which it uses as many as the primitive has, and gives an integer. Code calls them from a thread's own stack, so that they may switch to another one.

use crate::emit::code::{Code, Elem, V, ok};
use crate::emit::cuda::THREADS;
use crate::emit::target;
use crate::ir::DType;
use inkwell::intrinsics::Intrinsic;
use inkwell::module::Linkage;
use inkwell::targets::{CodeModel, InitializationConfig, RelocMode, Target, TargetMachine, TargetTriple};
use inkwell::values::{IntValue, PointerValue};
use inkwell::{AddressSpace, OptimizationLevel};
use std::rc::Rc;
use std::sync::OnceLock;

/// What runs a GPU's threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// A GPU that reads PTX.
    Ptx,
    /// A CPU that plays one.
    Emulated,
}

/// An operation of a GPU. Integers have 64 bits, but for the words that threads hand each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Primitive {
    /// The thread's number within its block.
    Thread,
    /// The block's number.
    Block,
    /// How many blocks there are.
    Blocks,
    /// The address of the block's shared memory, of `SHARED` bytes.
    Shared,
    /// Notes that the check of this number (from 1) has failed.
    Fail,
    /// Waits for all threads of the block; what they have written can be read then.
    Barrier,
    /// The same among the threads of a warp that the mask names; whoever calls it is one of them.
    Team,
    /// By mask, word of 32 bits, distance: the word of the thread so many further in this half of the warp (any word beyond its end), or the half's
    /// first thread's for the distance 0. All threads of the mask give theirs.
    Shuffle,
    /// Adds the product of two matrices to a third, of which each thread of a warp holds a part: see `Code::tensor_product`. By the address of its words.
    Product,
}

/// Bytes of shared memory: as much as every GPU gives without being asked.
pub const SHARED: u32 = 48 * 1024;

const TRIPLE: &str = "nvptx64-nvidia-cuda";

/// Everything that the lowering to NVPTX names.
const INTRINSICS: [&str; 7] = [
    "llvm.nvvm.read.ptx.sreg.tid.x",
    "llvm.nvvm.read.ptx.sreg.ctaid.x",
    "llvm.nvvm.read.ptx.sreg.nctaid.x",
    "llvm.nvvm.bar.warp.sync",
    "llvm.nvvm.shfl.sync.down.i32",
    "llvm.nvvm.shfl.sync.idx.i32",
    PRODUCT,
];

const PRODUCT: &str = "llvm.nvvm.mma.m16n8k8.row.col.tf32";

/// The barrier's name, which has changed: the newer one takes the barrier's number.
const BARRIERS: [&str; 2] = ["llvm.nvvm.barrier.cta.sync.aligned.all", "llvm.nvvm.barrier0"];

/// Shuffles within halves of a warp.
const HALVES: u64 = (32 - 16) << 8 | 31;

/// Whether this LLVM can write PTX.
pub fn check() -> Result<(), String> {
    static CHECKED: OnceLock<Result<(), String>> = OnceLock::new();
    CHECKED
        .get_or_init(|| {
            Target::initialize_nvptx(&InitializationConfig::default());
            machine()?;
            if BARRIERS.iter().all(|name| Intrinsic::find(name).is_none()) {
                return Err(format!("this LLVM has no {}", BARRIERS[0]));
            }
            match INTRINSICS.iter().find(|name| Intrinsic::find(name).is_none()) {
                Some(name) => Err(format!("this LLVM has no {name}")),
                None => Ok(()),
            }
        })
        .clone()
}

/// A machine for one thread: any GPU from compute capability 8.0 on.
pub fn machine() -> Result<TargetMachine, String> {
    let triple = TargetTriple::create(TRIPLE);
    let target = Target::from_triple(&triple).map_err(|e| format!("this LLVM has no NVPTX: {e}"))?;
    target
        .create_target_machine(&triple, "sm_80", "", OptimizationLevel::Default, RelocMode::Default, CodeModel::Default)
        .ok_or_else(|| "this LLVM has no machine for sm_80".into())
}

impl Device {
    pub fn machine(self) -> Result<Rc<TargetMachine>, String> {
        match self {
            Device::Ptx => machine().map(Rc::new),
            Device::Emulated => target::machine(),
        }
    }
}

impl<'c> Code<'c> {
    /// The primitive's value, or 0.
    pub fn primitive(&self, primitive: Primitive, args: &[IntValue<'c>]) -> IntValue<'c> {
        match self.device.expect("a function of a GPU") {
            Device::Ptx => self.instruction(primitive, args),
            Device::Emulated => self.call(primitive, args),
        }
    }

    fn last_parameter(&self) -> PointerValue<'c> {
        self.function.get_last_param().expect("a kernel has parameters").into_pointer_value()
    }

    fn call(&self, primitive: Primitive, args: &[IntValue<'c>]) -> IntValue<'c> {
        let table = self.last_parameter();
        let at = self.element(Elem::I64, table, self.int(primitive as i64));
        let function = self.load(self.pointer(), at, 8).into_pointer_value();
        let int = self.context.i64_type();
        let ty = int.fn_type(&[self.pointer().into(), int.into(), int.into(), int.into()], false);
        let arg = |n: usize| args.get(n).copied().unwrap_or(self.int(0));
        let args = [table.into(), arg(0).into(), arg(1).into(), arg(2).into()];
        let call = ok(self.builder.build_indirect_call(ty, function, &args, ""));
        call.try_as_basic_value().basic().expect("an integer").into_int_value()
    }

    fn instruction(&self, primitive: Primitive, args: &[IntValue<'c>]) -> IntValue<'c> {
        let register = |name: &str| {
            let value = self.intrinsic(name, &[], &[]).expect("a value").into_int_value();
            ok(self.builder.build_int_z_extend(value, self.context.i64_type(), ""))
        };
        let word = |n: IntValue<'c>| -> V<'c> { ok(self.builder.build_int_truncate(n, self.context.i32_type(), "")).into() };
        let constant = |n: u64| -> V<'c> { self.context.i32_type().const_int(n, false).into() };
        match primitive {
            Primitive::Thread => register("llvm.nvvm.read.ptx.sreg.tid.x"),
            Primitive::Block => register("llvm.nvvm.read.ptx.sreg.ctaid.x"),
            Primitive::Blocks => register("llvm.nvvm.read.ptx.sreg.nctaid.x"),
            Primitive::Shared | Primitive::Product => panic!("its value is no integer"),
            Primitive::Fail => {
                self.store(self.last_parameter(), word(args[0]), 4);
                self.int(0)
            }
            Primitive::Barrier => {
                match Intrinsic::find(BARRIERS[0]) {
                    Some(_) => self.intrinsic(BARRIERS[0], &[], &[constant(0)]),
                    None => self.intrinsic(BARRIERS[1], &[], &[]),
                };
                self.int(0)
            }
            Primitive::Team => {
                self.intrinsic("llvm.nvvm.bar.warp.sync", &[], &[word(args[0])]);
                self.int(0)
            }
            Primitive::Shuffle => {
                let first = args[2].get_zero_extended_constant() == Some(0);
                let name = if first { "llvm.nvvm.shfl.sync.idx.i32" } else { "llvm.nvvm.shfl.sync.down.i32" };
                let words = [word(args[0]), word(args[1]), word(args[2]), constant(HALVES)];
                let there = self.intrinsic(name, &[], &words).expect("a value").into_int_value();
                ok(self.builder.build_int_z_extend(there, self.context.i64_type(), ""))
            }
        }
    }

    /// `c + a b` by the warp's tensor units, for `a` of 16 x 8, `b` of 8 x 8, `c` of 16 x 8 numbers; of the factors they look at 11 bits. Thread `4 g + t` of the
    /// warp holds of `a` rows `g` and `g + 8` at `t`, then the same at `t + 4`; of `b` rows `t` and `t + 4` at `g`; of `c` row `g` at `2 t` and `2 t + 1`, then row `g + 8`.
    pub fn tensor_product(&self, a: [V<'c>; 4], b: [V<'c>; 2], c: [V<'c>; 4]) -> [V<'c>; 4] {
        let words = a.into_iter().chain(b).chain(c);
        if self.device == Some(Device::Ptx) {
            let all = self.intrinsic(PRODUCT, &[], &words.collect::<Vec<_>>()).expect("a value").into_struct_value();
            return std::array::from_fn(|n| ok(self.builder.build_extract_value(all, n as u32, "")));
        }
        let (word, real) = (self.context.i32_type(), self.ty(Elem::from(DType::F32), 1));
        let memory = self.variable(word.array_type(10).into());
        let place = |n: usize| self.step(word.into(), memory, self.int(n as i64));
        words.enumerate().for_each(|(n, w)| self.store(place(n), w, 4));
        self.primitive(Primitive::Product, &[ok(self.builder.build_ptr_to_int(memory, self.context.i64_type(), ""))]);
        std::array::from_fn(|n| self.load(real, place(6 + n), 4))
    }

    /// `bytes` of the block's shared memory, the same whenever a function asks: who uses it again must have synchronised.
    pub fn shared(&self, bytes: u32) -> PointerValue<'c> {
        assert!(bytes <= SHARED, "{bytes} bytes of shared memory");
        if self.device == Some(Device::Emulated) {
            let address = self.primitive(Primitive::Shared, &[]);
            return ok(self.builder.build_int_to_ptr(address, self.context.ptr_type(AddressSpace::default()), ""));
        }
        let space = AddressSpace::from(3);
        let name = format!("{}.shared.{bytes}", self.function.get_name().to_string_lossy());
        let memory = self.module.get_global(&name).unwrap_or_else(|| {
            let ty = self.context.i8_type().array_type(bytes);
            let memory = self.module.add_global(ty, Some(space), &name);
            memory.set_linkage(Linkage::Internal);
            memory.set_alignment(16);
            memory.set_initializer(&ty.get_undef());
            memory
        });
        ok(self.builder.build_address_space_cast(memory.as_pointer_value(), self.context.ptr_type(AddressSpace::default()), ""))
    }

    /// Room for a fold's 16 lanes, each a variable of the type: the steps from one to the next, and the first.
    pub fn fold_lanes(&self, ty: inkwell::types::BasicTypeEnum<'c>) -> (i64, PointerValue<'c>) {
        if self.device.is_none() {
            return (1, self.variable(inkwell::types::BasicType::array_type(&ty, 16).into()));
        }
        // Each thread has its own places, next to its neighbours' of the same lane.
        let first = self.shared(16 * THREADS as u32 * 8);
        (THREADS, self.step(ty, first, self.primitive(Primitive::Thread, &[])))
    }

    /// A table's entry as a choice among constants: no memory is asked.
    pub fn chosen(&self, table: &[V<'c>], number: V<'c>) -> V<'c> {
        let mut entries = table.to_vec();
        let mut bit = 0;
        while entries.len() > 1 {
            let mask =
                self.binary(inkwell::values::InstructionOpcode::And, number, number.get_type().into_int_type().const_int(1 << bit, false).into());
            let odd = self.icmp(inkwell::IntPredicate::NE, mask, mask.get_type().const_zero());
            entries = entries.chunks(2).map(|pair| self.select(odd, pair[1], pair[0])).collect();
            bit += 1;
        }
        entries[0]
    }
}
