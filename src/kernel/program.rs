//! What a kernel is: stages over an outer iteration space, each a nest in three-address form.

use crate::ir::{Affine, DType, Fold, Guard, Scalar, ScalarOp, Size};
use std::sync::Arc;

/// A loop program. Equal programs are compiled once: `name` takes no part in equality.
///
/// Sizes are constants or formulas in the kernel's own dims `n0`, `n1`, ... (values passed at launch), so that equal meanings are equal kernels.
/// For every point of `outer` (independent of each other; any order, any thread) the stages run in order.
/// Variables: 0..outer.len() are the outer indices; a stage's `inner` indices follow, then its `reds`.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// For readers: made of the names of what it computes.
    pub name: Arc<str>,
    /// How many size parameters it has.
    pub sizes: usize,
    /// Buffers, row-major.
    pub params: Vec<Param>,
    /// The parallel iteration space.
    pub outer: Vec<Size>,
    /// Types of the scalars that stages hand on, one value an outer point.
    pub locals: Vec<DType>,
    /// In order.
    pub stages: Vec<Stage>,
}

impl PartialEq for Kernel {
    fn eq(&self, other: &Kernel) -> bool {
        let meaning = |k: &Kernel| (k.sizes, k.params.clone(), k.outer.clone(), k.locals.clone());
        self.stages == other.stages && meaning(self) == meaning(other)
    }
}

impl Eq for Kernel {}

impl std::hash::Hash for Kernel {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.sizes, &self.params, &self.outer, &self.locals, &self.stages).hash(state);
    }
}

/// A buffer that a kernel touches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Param {
    /// Of the elements.
    pub dtype: DType,
    /// Row-major shape.
    pub shape: Vec<Size>,
    /// Reads only, or writes (and may read what it wrote). A written parameter shares memory with no other one, but for one that dies in the launch
    /// and of which no element is read after its place was written (`plan::reuse`).
    pub written: bool,
}

/// A nest inside a kernel: for every point of `inner`, fold `body` over `reds`, then `finish`, then store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stage {
    /// Further output loops, sequential.
    pub inner: Vec<Size>,
    /// Reduction loops; empty with [`Fold::None`].
    pub reds: Vec<Size>,
    /// Points that take part; without a fold, points left out have the value zero (or, with `skip`, are not stored).
    pub guards: Vec<Guard>,
    /// With [`Fold::None`]: points left out store nothing. Nobody reads what was not stored.
    pub skip: bool,
    /// How points are folded.
    pub fold: Fold,
    /// Three-address code; later instructions refer to earlier ones by position.
    pub body: Vec<Instr>,
    /// The value that is folded: one instruction, or the two factors of [`Fold::Dot`]. With [`Fold::None`] and no guards, all results.
    pub values: Vec<usize>,
    /// What happens to the fold's results.
    pub stores: Vec<Store>,
}

/// An instruction. It is numbered by its position in the stage's body, and refers to lower numbers only.
///
/// The blocks of a [`Instr::Select`] numbered `s` continue the numbering: their own instructions are `s`, `s + 1`, ... in both blocks, and may
/// refer to everything before `s` too. After the select those numbers are free again: the select itself is `s`, the next instruction `s + 1`.
/// A block may be empty, where its value was computed before.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Instr {
    /// A literal.
    Const(Scalar),
    /// An element of a buffer. Where any index is out of bounds it is `otherwise`, where given. Else affine indices are proved, and an
    /// [`Index::Value`] out of bounds stops the run.
    Load { param: usize, index: Vec<Index>, otherwise: Option<Scalar> },
    /// A scalar of an earlier stage.
    Local(usize),
    /// An index expression as i64.
    Index(Affine),
    /// Whether all guards hold, as bool.
    Holds(Vec<Guard>),
    /// An operation on earlier instructions; never [`ScalarOp::Select`].
    Op(ScalarOp, Vec<usize>),
    /// A conversion of an earlier instruction.
    Cast(DType, usize),
    /// The value of `then.1` where the bool instruction holds, else of `otherwise.1`; each side is a block of its own, so that only the chosen side's loads happen.
    Select { condition: usize, then: Box<(Vec<Instr>, usize)>, otherwise: Box<(Vec<Instr>, usize)> },
}

/// An index of a load or store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Index {
    /// From the point alone.
    Affine(Affine),
    /// The value of an i64 instruction. Always checked against the bounds of the axis: outside, the run stops with an error (but for loads
    /// that say what they give instead).
    Value(usize),
}

/// Where a stage's result number `result` goes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Store {
    /// Which result of the fold.
    pub result: usize,
    /// To a scalar of the outer point, or to an element of a buffer.
    pub target: Target,
}

/// See [`Store`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// A local; the stage has no inner loops.
    Local(usize),
    /// An element; with a fold it is joined with what is there (scatter; such kernels have no outer loops or only ones that keep updates
    /// apart). Affine indices are proved in bounds.
    Param { param: usize, index: Vec<Index>, fold: Option<crate::ir::ScatterFold> },
}
