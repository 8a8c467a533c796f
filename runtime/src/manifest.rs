//! The artifact's table of contents: what can be run, with which inputs, by which launches, in how much memory.
//!
//! The compiler fills it in, the runtime executes it. All sizes are formulas in the dims (see [`crate::size`]).

use crate::dtype::{DType, Scalar};
use crate::size::Size;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bumped whenever the meaning of any field changes; other versions are refused.
pub const VERSION: u32 = 5;

/// Everything about a compiled program but its machine code and its weights.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// See [`VERSION`].
    pub version: u32,
    /// nnc's own version.
    pub compiler: String,
    /// The program's file name, for messages.
    pub source: String,
    /// The folder that paths in the program are relative to, as seen from the artifact's own; empty: the same.
    #[serde(default)]
    pub folder: String,
    /// Free dims.
    pub dims: Vec<DimDecl>,
    /// Stored tensors: parameters, states of layers, states of optimizers.
    pub tensors: Vec<TensorDecl>,
    /// Machine code; launches count into this table.
    pub kernels: Vec<Kernel>,
    /// How each kernel's work is shared out on a GPU. Empty: the code is for CPUs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grids: Vec<Grid>,
    /// What can be run.
    pub entries: Vec<Entry>,
    /// Operations of an entry's contractions, by its name: two for a multiply-add. For reports of speed.
    #[serde(default)]
    pub flops: BTreeMap<Arc<str>, Size>,
    /// Data sections.
    pub data: Vec<crate::recipe::Data>,
    /// Training recipes.
    pub recipes: Vec<crate::recipe::Recipe>,
}

/// A compiled kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// A code level `L` exports `<symbol>.<L>`.
    pub symbol: String,
    /// Bytes that every thread that runs it lends it for the time of a call, aligned to [`crate::memory::ALIGN`]; what is in them means nothing before or after.
    pub scratch: u64,
    /// Positions of the arguments that it writes; it only reads the others.
    pub writes: Vec<u32>,
}

/// The launch of a kernel on a GPU, which takes its arguments, its sizes, and the address of a word for the number of a check that fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grid {
    /// Threads of a block.
    pub threads: u32,
    /// Blocks that have work, in the kernel's own dims `n0`, `n1`, ... Fewer do it too.
    pub blocks: Size,
}

/// A free dim and its bounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DimDecl {
    /// Its name.
    pub name: Arc<str>,
    /// Smallest size.
    pub min: i64,
    /// Largest size, where bounded.
    pub max: Option<i64>,
}

/// A stored tensor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorDecl {
    /// `Digits.fc1.weight`; an optimizer's state is `fit/m/Digits.fc1.weight`.
    pub path: Arc<str>,
    /// Of the elements.
    pub dtype: DType,
    /// Constant shape.
    pub shape: Vec<i64>,
    /// What it is.
    pub role: Role,
}

/// What a stored tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Trained.
    Parameter,
    /// A layer's own, such as running statistics: saved with the parameters.
    State,
    /// An optimizer's: saved in checkpoints only.
    Optimizer,
}

/// Where an entry's input comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A stored tensor, by path.
    Tensor(Arc<str>),
    /// A named input: a column of the data section, or an inference input.
    Data(Arc<str>),
    /// A run-time f64 scalar of the recipe, such as `optimizer.lr`, evaluated by the recipe's schedule or set by the user.
    Scalar(Arc<str>),
    /// i64: optimizer steps done so far, plus 1.
    Step,
    /// i64: the key of all randomness of this step, from the seed and the step.
    Key,
}

/// Where an entry's result goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sink {
    /// The new value of a stored tensor.
    Tensor(Arc<str>),
    /// Returned to the caller under this name.
    Result(Arc<str>),
    /// Added up over batches under this name (`loss.sum`, `accuracy.hits`), in f64.
    Accumulate(Arc<str>),
}

/// A runnable: its interface and its plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// `init`, `train:fit`, `eval:fit`, `infer:Digits`, `finish:fit`
    pub name: Arc<str>,
    /// Inputs in order.
    pub inputs: Vec<(Source, BufferId)>,
    /// Results in order.
    pub results: Vec<(Sink, BufferId)>,
    /// The plan.
    pub plan: Plan,
}

/// Index into [`Plan::buffers`].
pub type BufferId = u32;

/// A flat launch table over buffers in one arena.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Every buffer, inputs and results included.
    pub buffers: Vec<Buffer>,
    /// What is executed, in order.
    pub steps: Vec<Step>,
    /// How many of the first steps depend on stored tensors alone: launches whose results stay from run to run, until a tensor changes.
    #[serde(default)]
    pub advance: u32,
    /// Steps that may be run part by part, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chains: Vec<Chain>,
    /// The source line of each distinct span, for profiles and reports.
    pub lines: Vec<String>,
}

/// A piece of memory: `elements * dtype.bytes()`, alive from step `first` to step `last` inclusive (positions in [`Plan::steps`]).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Buffer {
    /// Of the elements.
    pub dtype: DType,
    /// The shape, row-major.
    pub shape: Vec<Size>,
    /// Where the memory comes from.
    pub storage: Storage,
    /// First step that touches it.
    pub first: u32,
    /// Last step that touches it.
    pub last: u32,
    /// For readers.
    pub name: Arc<str>,
}

/// Where a buffer's memory comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Storage {
    /// Placed in the arena by [`crate::place`].
    Arena,
    /// Bound by the caller before the run: an input.
    Input,
    /// A result: placed in the arena, alive to the end, read by the caller.
    Result,
    /// The same memory as another buffer.
    Alias(BufferId),
    /// Some of another buffer's memory.
    Part(Part),
    /// Literal data, written when the entry is prepared and never after.
    Constant(Vec<Scalar>),
}

impl Storage {
    /// The buffer whose memory it is, where it has none of its own.
    pub fn of(&self) -> Option<BufferId> {
        match self {
            Storage::Alias(of) | Storage::Part(Part { of, .. }) => Some(*of),
            Storage::Arena | Storage::Input | Storage::Result | Storage::Constant(_) => None,
        }
    }
}

/// Consecutive elements of a buffer, from one on that may advance with loops: a step of a sequence is no copy but an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The buffer; it has memory of its own, or is an input.
    pub of: BufferId,
    /// The first element, where all indices are 0.
    pub start: Size,
    /// Index buffers of loops around whatever touches the part, and how many elements further it begins for each of the index's positions.
    pub along: Vec<(BufferId, Size)>,
}

/// One line of the launch table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Runs a kernel.
    Launch(Launch),
    /// Runs the `body` next steps `count` times; `index` (i64 scalar) holds the position, counted down if `reversed`.
    Loop { count: Size, body: u32, index: BufferId, reversed: bool },
    /// Copies the whole of `from` to `to`, byte for byte (same type and shape).
    Copy { from: BufferId, to: BufferId },
    /// Stops the run with the message unless every element of the bool buffer is true.
    Check { condition: BufferId, message: Arc<str>, line: u32 },
}

/// A kernel and its arguments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    /// Index into [`Manifest::kernels`].
    pub kernel: u32,
    /// Buffers, in the kernel's parameter order.
    pub args: Vec<BufferId>,
    /// Values of the kernel's size parameters, in order.
    pub sizes: Vec<Size>,
    /// Independent tasks: the kernel is called with ranges that cover `0..tasks`.
    pub tasks: Size,
    /// So many tasks, from a multiple of it on, share work: to cut between them costs something. 0 where tasks have nothing in common; 1 where each has a
    /// panel of its own, and panels that follow each other are read side by side.
    pub whole: Size,
    /// Rough cost of one task in nanoseconds at 1 FLOP each: tells serial from parallel.
    pub cost: Size,
    /// Floating-point operations of all tasks, for profiles.
    pub flops: Size,
    /// Index into [`Plan::lines`].
    pub line: u32,
    /// The same kernel on other buffers, at the same cost a task: nothing of one call depends on another. Their tasks follow this one's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub beside: Vec<Call>,
    /// Inside of loops the rows that its tasks are made of, where what a row writes, and reads of what others write, lies in that row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<Box<Rows>>,
}

/// See [`Launch::rows`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rows {
    /// How many.
    pub count: Size,
    /// So many pieces of nearly equal height, the higher ones first, have as many tasks each: between them the tasks can be cut.
    pub pieces: Size,
    /// Arguments that have a row for each along their first axis; those that are written are all among them.
    pub args: Vec<u32>,
}

/// Consecutive launches that can be run part by part: a part of the first one's tasks, the same part of the next one's, and so on. Each has as many tasks
/// in every part, and what one reads of what others write lies in the same part of a buffer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chain {
    /// The first launch.
    pub first: u32,
    /// How many launches.
    pub steps: u32,
    /// How many parts.
    pub parts: Size,
    /// Buffers of the arena that nothing else touches, nor any launch at another part than its own: so a thread needs no more than one part of each.
    pub own: Vec<BufferId>,
}

/// See [`Launch::beside`]; the fields are those of a launch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Buffers.
    pub args: Vec<BufferId>,
    /// Size parameters.
    pub sizes: Vec<Size>,
    /// Tasks of this call.
    pub tasks: Size,
    /// Floating-point operations.
    pub flops: Size,
}

impl Launch {
    /// The arguments of all its calls.
    pub fn buffers(&self) -> impl Iterator<Item = &BufferId> {
        self.args.iter().chain(self.beside.iter().flat_map(|c| &c.args))
    }

    /// The same, to be changed.
    pub fn buffers_mut(&mut self) -> impl Iterator<Item = &mut BufferId> {
        self.args.iter_mut().chain(self.beside.iter_mut().flat_map(|c| &mut c.args))
    }
}

impl Manifest {
    /// Whether every number in its plans names something that is there: buffers, kernels, lines.
    pub fn is_consistent(&self) -> bool {
        self.entries.iter().all(|entry| {
            let plan = &entry.plan;
            let known = |id: &BufferId| (*id as usize) < plan.buffers.len();
            let line = |n: &u32| (*n as usize) < plan.lines.len();
            let stored = |buffer: &Buffer| match &buffer.storage {
                Storage::Alias(of) => known(of),
                Storage::Part(part) => known(&part.of) && part.along.iter().all(|(index, _)| known(index)),
                Storage::Arena | Storage::Input | Storage::Result | Storage::Constant(_) => true,
            };
            let step = |step: &Step| match step {
                Step::Launch(l) => (l.kernel as usize) < self.kernels.len() && line(&l.line) && l.buffers().all(known),
                Step::Loop { index, .. } => known(index),
                Step::Copy { from, to } => known(from) && known(to),
                Step::Check { condition, line: at, .. } => known(condition) && line(at),
            };
            let chained = plan.chains.iter().all(|c| c.own.iter().all(known));
            let ends = entry.inputs.iter().map(|(_, id)| id).chain(entry.results.iter().map(|(_, id)| id));
            chained && ends.into_iter().all(known) && plan.buffers.iter().all(stored) && plan.steps.iter().all(step)
        })
    }
}
