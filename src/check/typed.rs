//! The typed program: every call resolved to an instance, every expression typed, index notation still as written (nested folds and all).
//!
//! `check` makes it, `build` puts it into normal form. An instance is a function at known static arguments, shapes, dtype and mode; shapes are
//! formulas in the program's free dims. Equal instances are one.

use crate::ir::{DType, Scalar, ScalarOp, Size};
use crate::span::Span;
use nnc_runtime::recipe;
use std::sync::Arc;

/// Index into [`Program::functions`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(pub u32);

/// Index into [`Instance::locals`]: inputs first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Local(pub u32);

/// Index into [`Instance::weights`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(pub u32);

/// An index variable of a comprehension, unique within the instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IndexVar(pub u32);

/// What a program's values stand for, beyond their type.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Meaning {
    /// Nothing in particular.
    Plain,
    /// Scores before softmax.
    Logits,
    /// Probabilities over the last axis.
    Probs,
    /// Logarithms of probabilities.
    LogProbs,
    /// Classes `0..n`.
    Class(Size),
    /// Words `0..n`.
    Token(Size),
    /// True or false, elementwise.
    Mask,
}

/// A tensor's type and meaning.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Type {
    /// Of the elements.
    pub dtype: DType,
    /// Outermost axis first.
    pub shape: Vec<Size>,
    /// What it stands for.
    pub meaning: Meaning,
}

/// A checked program.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// Free dims in declaration order.
    pub dims: Vec<crate::ir::Dim>,
    /// Instances; callees come before callers.
    pub functions: Vec<Instance>,
    /// One per `model`: the instance for inference and for training (equal where nothing depends on the mode).
    pub models: Vec<Model>,
    /// Data sections, complete for the runtime.
    pub data: Vec<recipe::Data>,
    /// Recipes.
    pub recipes: Vec<Recipe>,
}

/// A model: one set of weights, by absolute path.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its name, the first component of its paths.
    pub name: Arc<str>,
    /// In evaluation mode.
    pub infer: InstanceId,
    /// In training mode.
    pub train: InstanceId,
}

/// A function at known arguments.
#[derive(Clone, Debug)]
pub struct Instance {
    /// The source name; instances of one function share it.
    pub name: Arc<str>,
    /// Static arguments, for readers: `out: 64, bias: true`.
    pub arguments: String,
    /// Inputs (run-time arguments) are the first locals.
    pub inputs: usize,
    /// Names and types of inputs and bindings.
    pub locals: Vec<(Arc<str>, Type, Span)>,
    /// Parameters and states, own and callees', by path relative to this instance.
    pub weights: Vec<WeightDecl>,
    /// Uses `random` itself or through a callee: takes a key.
    pub random: bool,
    /// In order.
    pub body: Vec<Stmt>,
    /// Named where the signature names them.
    pub results: Vec<(Option<Arc<str>>, Expr)>,
    /// Hand-written derivative.
    pub gradient: Option<Gradient>,
    /// The declaration.
    pub span: Span,
}

/// A parameter or state that an instance needs.
#[derive(Clone, Debug)]
pub struct WeightDecl {
    /// `fc1.weight`, relative to the instance; `/Net.fc1.weight` for a weight of a model that is called (absolute). Of a recipe's instances all are
    /// absolute, without the slash. An `init`'s `Random` sites are the declaring instance's: the path is part of the key.
    pub path: Arc<str>,
    /// Trained, or updated by the layer.
    pub role: nnc_runtime::manifest::Role,
    /// Its type; the shape is constant.
    pub ty: Type,
    /// The initial value of an element: an expression over the index variables `index`, one an axis, whose `Random` uses the element's linear position.
    pub init: (Vec<IndexVar>, Element),
    /// Where it is declared.
    pub span: Span,
}

/// Derivative written in the source: sees the body's locals (those it uses are saved) and its own further bindings.
#[derive(Clone, Debug)]
pub struct Gradient {
    /// Cotangents of the float results, in order.
    pub cotangents: Vec<Local>,
    /// In order.
    pub body: Vec<Stmt>,
    /// For which inputs and weights, and what.
    pub results: Vec<(GradientOf, Expr)>,
}

/// What a cotangent belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GradientOf {
    /// The input with this number.
    Input(usize),
    /// A parameter.
    Weight(Weight),
}

/// A statement.
#[derive(Clone, Debug)]
pub enum Stmt {
    /// Binds the results of an expression, one local a result.
    Let { targets: Vec<Local>, value: Expr, span: Span },
    /// A layer state's new value; at most one a path.
    Update { weight: Weight, value: Expr, span: Span },
    /// A run-time assertion: every element of the bool tensor must hold.
    Check { condition: Expr, message: Arc<str>, span: Span },
}

/// A tensor-valued expression.
#[derive(Clone, Debug)]
pub struct Expr {
    /// What it is.
    pub kind: ExprKind,
    /// One type a result (calls and scans may have several, everything else has one).
    pub types: Vec<Type>,
    /// The source.
    pub span: Span,
}

/// The kinds of tensor expression.
#[derive(Clone, Debug)]
pub enum ExprKind {
    /// A binding.
    Local(Local),
    /// The value of a parameter or state (before the step's update).
    Weight(Weight),
    /// A rank-0 literal.
    Const(Scalar),
    /// A size as an i64 rank-0 value.
    Size(Size),
    /// `y[i, j] = element`: one index variable an output axis; `groups` says how many consecutive variables merge into each axis of the result (all 1 without grouping).
    Comprehension { vars: Vec<(IndexVar, Size)>, groups: Vec<usize>, element: Element },
    /// Elementwise on tensors; operands of smaller rank (scalars, missing leading axes) are broadcast along leading axes.
    Op(ScalarOp, Vec<Expr>),
    /// Elementwise conversion.
    Cast(DType, Box<Expr>),
    /// One result of several.
    Project(Box<Expr>, usize),
    /// `weights`: for each of the callee's weights, which of the caller's it is. `site` tells this call's randomness from others'.
    Call { instance: InstanceId, args: Vec<Expr>, weights: Vec<Weight>, site: u32 },
    /// Same elements in row-major order under another shape (adjacent axes split or merged).
    Reshape(Box<Expr>),
    /// Zero derivative.
    StopGradient(Box<Expr>),
    /// Along `axis`, in order.
    Concat { parts: Vec<Expr>, axis: usize },
    /// `base` with `piece` written at `start` (i64 scalars, one an axis), step 1.
    Write { base: Box<Expr>, piece: Box<Expr>, start: Vec<Expr> },
    /// Pieces at constant strided places over a fill: `(piece, start, stride)` with one size an axis each.
    Place { fill: Scalar, pieces: Vec<(Expr, Vec<Size>, Vec<Size>)> },
    /// Scattered update of `base`: over `vars`, `base[index] = fold(base[index], value)`.
    Scatter {
        base: Box<Expr>,
        vars: Vec<(IndexVar, Size)>,
        condition: Option<Element>,
        index: Vec<Element>,
        value: Element,
        fold: crate::ir::ScatterFold,
    },
    /// Results: sorted values, positions.
    Sort { of: Box<Expr>, descending: bool },
    /// See [`Scan`].
    Scan(Box<Scan>),
    /// The derivative of a scalar expression with respect to locals or weights, one result each.
    Grad { of: Box<Expr>, wrt: Vec<Wrt> },
}

/// What to differentiate by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrt {
    /// A binding.
    Local(Local),
    /// A parameter.
    Weight(Weight),
}

/// A loop over time. The body sees all outer locals (those it uses become constants of the loop).
#[derive(Clone, Debug)]
pub struct Scan {
    /// Sequences: the local that holds a step's element, the tensor, which axis is time.
    pub inputs: Vec<(Local, Expr, usize)>,
    /// The number of steps.
    pub length: Size,
    /// From the last to the first.
    pub reversed: bool,
    /// Carries: the local that holds it, the first value, the expression of the next (over the body's locals).
    pub carries: Vec<(Local, Expr, Expr)>,
    /// One step.
    pub body: Vec<Stmt>,
    /// Stacked results and where the axis of time goes. The scan's results are the final carries, then these.
    pub outputs: Vec<(Expr, usize)>,
    /// Tells this scan's randomness from others'.
    pub site: u32,
}

/// A scalar expression at one point of a comprehension. All types agree: `check` has put in the casts.
#[derive(Clone, Debug)]
pub enum Element {
    /// A literal.
    Const(Scalar),
    /// A size as i64.
    Size(Size),
    /// An index as i64.
    Index(IndexVar),
    /// An element of a tensor; indices are i64, one an axis. Out of bounds gives `otherwise`, or is a mistake.
    Load { tensor: Box<Expr>, indices: Vec<Element>, otherwise: Option<Scalar>, span: Span },
    /// A fold over further indices where the condition holds; `mean` is already sum over count.
    Fold { fold: FoldKind, vars: Vec<(IndexVar, Size)>, condition: Option<Box<Element>>, body: Box<Element>, span: Span },
    /// An operation.
    Op(ScalarOp, Vec<Element>),
    /// A conversion.
    Cast(DType, Box<Element>),
    /// Uniform in [0, 1) of this dtype, keyed by the function's key, this site and the linear position in the comprehension's output box.
    Random { site: u32, dtype: DType },
}

/// Folds of the language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoldKind {
    /// `sum`
    Sum,
    /// `prod`
    Prod,
    /// `max`: the derivative goes to the first largest.
    Max,
    /// `min`: the derivative goes to the first smallest.
    Min,
    /// `amax`: the derivative is shared evenly among the largest.
    AMax,
    /// `amin`
    AMin,
    /// `argmax`: linear position of the first largest, i64.
    ArgMax,
    /// `argmin`
    ArgMin,
}

/// A checked recipe. Its functions' inputs are the data columns they use, by name; their weights are absolute paths.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Settings for the runtime, complete; `metrics` in the order of `objective`'s results.
    pub settings: recipe::Recipe,
    /// In training mode: from columns to all accumulators, `loss.sum` and `loss.weight` first (rank 0, f32 or f64).
    pub train: InstanceId,
    /// The same in evaluation mode.
    pub eval: InstanceId,
    /// From all accumulators (f64 scalars) to the metrics' values (f64 scalars), in order.
    pub finish: InstanceId,
    /// One update per trained parameter of `train`, in the order of its weights.
    pub updates: Vec<Update>,
    /// `clip_norm` of all gradients together: from the run-time scalar of this name; or by value.
    pub clip: Option<Clip>,
    /// Run-time scalars computed every step from `step`, `epoch`, `steps`, `steps_per_epoch` and given scalars, all f64: an instance whose inputs are named after them. Result k is the value of `scheduled[k]`.
    pub schedule: Option<(InstanceId, Vec<Arc<str>>)>,
    /// The section.
    pub span: Span,
}

/// How gradients are clipped; the number is a run-time scalar's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Clip {
    /// All gradients are scaled by `min(1, limit / (norm + 1e-6))`.
    Norm(Arc<str>),
    /// Every element is kept within `-limit..limit`.
    Value(Arc<str>),
}

/// An optimizer at one parameter's shape: inputs `p`, `g`, the scalars (f64), `step` (i64); states are its weights, whose absolute path is `RECIPE/STATE/PATH`.
#[derive(Clone, Debug)]
pub struct Update {
    /// Index of the parameter among `train`'s weights.
    pub parameter: Weight,
    /// The optimizer's instance: the single result is the new `p`; `Stmt::Update`s give the new states.
    pub optimizer: InstanceId,
    /// For each input behind `p` and `g`: where its value comes from.
    pub scalars: Vec<ScalarArg>,
}

/// The source of an optimizer's scalar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScalarArg {
    /// A run-time scalar or a scheduled one, by name.
    Named(Arc<str>),
    /// The step, from 1, as f64.
    Step,
}
