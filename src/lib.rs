//! nnc compiles neural networks: one road from `.nn` text to native code that trains and infers.
//!
//! ```text
//! .nn text -parse-> tree -check-> typed program -build-> graph -grad-> graph -passes-> graph
//!          -lower-> kernels -plan-> launch tables -emit-> machine code -pack-> artifact -> runtime
//! ```
//!
//! Each arrow is one function with values in and values out; [`driver`] reads top to bottom as that line and can stop after any stage and print it
//! (`nnc show --stage ...`). The modules below stand in the road's order.
//!
//! # The languages on the way
//! * **Tree** ([`parse::tree`]): what the text says, nothing resolved.
//! * **Typed program** ([`check::typed`]): every call resolved to an instance (a function at known static arguments, shapes, dtype and mode), every
//!   expression typed, index notation still as written. Sizes are [`ir::Size`], polynomials in the free dims in a normal form, so that equal sizes are
//!   equal values.
//! * **Graph** ([`ir`]): functions of a closed set of primitives. The main one is [`ir::Nest`], a tensor comprehension: a box of output and reduction
//!   indices, affine guards, one scalar expression, one fold at the root. Elementwise operations, transposes, products, convolutions, pooling, embedding
//!   are all nests. Derivatives ([`grad`]) are symbolic and end in the same primitives, so they can be differentiated again.
//! * **Kernels** ([`kernel`]): fused groups of nests as loop programs over buffers, in three-address form. Equal ones are compiled once.
//! * **Plan** ([`plan`], `nnc_runtime::manifest`): a flat launch table over buffers in one arena, sizes as formulas. Calls and loops are flattened into
//!   it, so that depth costs no code. Results lie over operands that die, stored tensors' new values over the old ones. What an entry computes of
//!   weights alone, packed weights above all, comes first and stays until they change; what a loop multiplies by is packed before it.
//!   The runtime binds it to sizes once, and shares out the steps that are worth it (`nnc_runtime::phases`, `nnc_runtime::pool`), loops by rows,
//!   attention by heads (`nnc_runtime::manifest::Chain`).
//! * **Machine code** ([`emit`]): one function a kernel and code level (x86-64-v3, -v4), which calls nothing but the program's
//!   micro-kernels: products and convolutions are cut into tiles and packed (`emit::contract`), points of small images gathered as rows
//!   (`emit::points`), 3x3 windows cut into squares (`emit::squares`), gradients of few weights along lines (`emit::lines`). The micro-kernels' loops are assembly (`emit::dense`); where rows are few, B is read in whole rows (`emit::stream`), a single one meets columns along `k` as they lie (`emit::single`).
//!   For GPUs the same writers make PTX ([`emit::cuda`]).
//!
//! # The numeric order is part of the meaning
//! Every fold has one order, stated in [`ir::Fold`]: sums run over 16 lanes joined by a fixed tree, contractions are one chain of fused multiply-adds
//! in leaves of 256. Transcendental functions are fixed sequences of basic operations ([`math`]), the same for constants, interpreters and machine
//! code. So no pass, schedule, thread count or code level can change a bit of a result, and "interpreter = compiled" is equality of bits (all NaN count
//! as one). Two passes define a program rather than keep its bits: the algebra of a gradient's formula ([`passes::algebra`]), before all others, and which
//! sums over windows are taken in another order ([`passes::windows`]: squares, lanes along lines; folds of their own), after all others.
//!
//! # Invariants, and the tests that hold them
//! | invariant | held by |
//! |---|---|
//! | a pass keeps every bit | `passes_keep_every_bit` in `src/passes/mod.rs`, on random programs |
//! | fused, lowered and planned = the graph's evaluator | `plan::tests`, on random programs |
//! | machine code = interpreted kernels, at every code level | `emit::tests`, and every test that runs a program (`tests/support`) |
//! | code for GPUs = interpreted kernels, whatever the order of threads | `emit::tests`, `tests/models.rs`, by an emulator of threads; assembled by `cargo xtask ptxas` |
//! | a run on a GPU writes the CPU's bytes, and fails in words | `tests/gpu.rs`, on a driver that is played |
//! | every library function: example accepted, interpreted = compiled, derivatives = differences, wrong shapes refused | `tests/library.rs` |
//! | every library function, optimizer, schedule, initial value = PyTorch's | `tests/golden.rs`, on `tests/golden/values.json` |
//! | planned memory = allocated memory, to the byte; a step allocates nothing on any thread | `tests/steps.rs`, by an allocator that counts |
//! | no schedule changes a bit | `tests/support` runs machine code on random ones; `schedules_change_nothing` in the runtime |
//! | graph and kernels print and parse back | `ir`'s and `plan`'s tests |
//! | pest, petgraph, inkwell and annotate-snippets are each named in one place; the core does no I/O; file sizes; no hash order | `tests/tidy.rs` |
//! | user mistakes are diagnostics with these words, and no shipped program is warned of | `tests/refused.rs`, `tests/warned.rs` |
//! | killed at any moment or stopped within an epoch, a run goes on to the same bytes | `tests/interrupted.rs` |
//! | executables, C, Rust and Python give the command's bits, and refuse what does not fit | `tests/ship.rs`, `cargo xtask wheel` |
//! | every command has help with an example, refuses wrong words, and loses nothing | `tests/cli.rs`, `tests/commands.rs` |
//! | any bytes are taken or refused with a sentence; random graphs = their machine code | `tests/fuzz`, by libFuzzer: `cargo xtask fuzz` |
//! | every picture of a shipped model is valid DOT, and SVG in which nothing overlaps | `tests/pictures.rs` |
//! | what documents say to type works, and prints what they say; generated pages are fresh | `tests/documents.rs`, `xtask/src/manual.rs` |
//! | adding a library function touches one `.nn` file | `tests/library.rs` walks the texts |
//!
//! # Who does what
//! User mistakes are collected as [`diagnostic::Diagnostic`]s; broken invariants of the compiler panic with the node printed. Files, terminals and clocks
//! belong to [`cli`] and to the runtime crate, which holds no LLVM and no parser: it loads artifacts, owns tensors, data, the training loop, checkpoints.

pub mod diagnostic;
pub mod driver;
pub mod span;

pub mod parse;

pub mod check;
pub mod std;

pub mod build;
pub mod ir;

pub mod grad;

pub mod passes;

pub mod kernel;
pub mod math;

pub mod picture;
pub mod plan;

pub mod emit;

pub mod cli;
