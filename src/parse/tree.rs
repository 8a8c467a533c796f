//! The syntax tree: what the text says, nothing resolved. Every node knows its span.

use crate::span::Span;
use std::sync::Arc;

/// A name and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Ident {
    /// The name.
    pub name: Arc<str>,
    /// Its place.
    pub span: Span,
}

/// A parsed file. Items that did not parse are missing here and reported as diagnostics.
#[derive(Clone, Debug, PartialEq)]
pub struct File {
    /// `nn 1`: the edition.
    pub edition: u32,
    /// In source order.
    pub items: Vec<Item>,
}

/// A top-level declaration.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// `import "layers/mine.nn"`
    Import { path: Arc<str>, span: Span },
    /// `dim B, T <= 1024`
    Dim(Vec<DimDecl>),
    /// `const D = 768, V = 50257`
    Const(Vec<(Ident, Expr)>),
    /// `model`, `block`, `layer`, `fn`, `init`, `loss`, `metric`, `optimizer`, `schedule`
    Function(Box<Function>),
    /// `data digits { ... }` and `train fit { ... }`
    Section(Section),
}

/// `T`, `T <= 1024`, `2 <= T <= 1024`
#[derive(Clone, Debug, PartialEq)]
pub struct DimDecl {
    /// The dim's name.
    pub name: Ident,
    /// Smallest size, where given.
    pub min: Option<Expr>,
    /// Largest size, where given.
    pub max: Option<Expr>,
}

/// What a function-like declaration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FunctionKind {
    /// One instance, however often it is called; owns the root of parameter paths.
    Model,
    /// A user's composition; a call creates parameters under its name.
    Block,
    /// As `block`, by convention a leaf of the library.
    Layer,
    /// No parameters.
    Fn,
    /// The value of one element of a parameter, from its position: `init kaiming_uniform(fan: int) = ...`
    Init,
    /// Results `sum` and `weight`; the loss is their quotient over all that was seen.
    Loss,
    /// Accumulators and a `result` of them.
    Metric,
    /// From `p`, `g`, states and scalars to updates.
    Optimizer,
    /// From `step` (counted from 1), `steps`, `epoch` to a scalar.
    Schedule,
}

/// A function-like declaration.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// The leading word.
    pub kind: FunctionKind,
    /// Its name.
    pub name: Ident,
    /// Doc comment lines, without `///`, joined by newlines.
    pub doc: Arc<str>,
    /// In order; `name: type = default`.
    pub params: Vec<Param>,
    /// `-> T`, `-> (h: T, c: T)`; empty where none is declared.
    pub results: Vec<ResultDecl>,
    /// Statements; `= expr` is one [`StmtKind::Expr`].
    pub body: Vec<Stmt>,
    /// The whole declaration.
    pub span: Span,
}

/// `out: int = 3`
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// The name.
    pub name: Ident,
    /// The type; optimizers' `p` and `g` and the like have none.
    pub ty: Option<TypeExpr>,
    /// The default, if the argument may be left out.
    pub default: Option<Expr>,
}

/// `h: real[B, H]` or just `real[B, H]`
#[derive(Clone, Debug, PartialEq)]
pub struct ResultDecl {
    /// Where named.
    pub name: Option<Ident>,
    /// The type.
    pub ty: TypeExpr,
}

/// `token<V>[B, T]`, `real[..., I]`, `f32`, `scalar`, `int`, `bool`
#[derive(Clone, Debug, PartialEq)]
pub struct TypeExpr {
    /// `real`, `f32`, `f64`, `int`, `bool`, `scalar`, `logits`, `probs`, `class`, `token`, `mask`, `string`
    pub head: Ident,
    /// What stands in angle brackets.
    pub angle: Option<Expr>,
    /// What stands in square brackets; `None` for a scalar.
    pub shape: Option<Vec<Axis>>,
    /// The whole type.
    pub span: Span,
}

/// One axis of a declared shape.
#[derive(Clone, Debug, PartialEq)]
pub enum Axis {
    /// `...`: any number of axes.
    Rest(Span),
    /// `B`, `4 * D`: a name not known yet is bound by the argument's size.
    Size(Expr),
    /// `P = conv_size(H, kernel)`: a named, computed size (results only).
    Named(Ident, Expr),
}

/// A statement.
#[derive(Clone, Debug, PartialEq)]
pub struct Stmt {
    /// What it says.
    pub kind: StmtKind,
    /// The whole statement.
    pub span: Span,
}

/// The kinds of statement.
#[derive(Clone, Debug, PartialEq)]
pub enum StmtKind {
    /// `x = e`, `i, f = split(x, 2)`
    Let { targets: Vec<Ident>, value: Expr },
    /// `y[..., o] = e`
    Index { target: Ident, indices: Vec<TargetIndex>, value: Expr },
    /// `param weight: real[out, I] = kaiming_uniform(fan: I)`
    Param { name: Ident, ty: TypeExpr, init: Option<Expr> },
    /// `state m = zeros_like(p)`, `state mean: real[C] = 0`
    State { name: Ident, ty: Option<TypeExpr>, init: Expr },
    /// `update m = e`, `update m[...] = e`
    Update { target: Ident, indices: Option<Vec<TargetIndex>>, value: Expr },
    /// `if bias { ... } else { ... }`, decided when compiling
    If { condition: Expr, then: Vec<Stmt>, otherwise: Vec<Stmt> },
    /// `require mod(D, heads) == 0` with an optional `, "message"`
    Require { condition: Expr, message: Option<Arc<str>> },
    /// `gradient(dy) { ...; (x: dx, weight: dw) }`: cotangents of the results in order; bindings of the body above are the saved values
    Gradient { cotangents: Vec<Ident>, body: Vec<Stmt> },
    /// `result hits / count`: a metric's value, from its accumulators alone
    Result(Expr),
    /// `scatter sum y[index[m], d] = x[m, d] into base`: `y` is `base` with every value folded into the place its indices name; `fold` is `replace`, `sum`, `prod`, `max`, `min`
    Scatter { fold: Ident, target: Ident, indices: Vec<Subscript>, value: Expr, base: Expr },
    /// The function's value, as last statement.
    Expr(Expr),
}

/// One index on the left of an index assignment.
#[derive(Clone, Debug, PartialEq)]
pub enum TargetIndex {
    /// `...`
    Rest(Span),
    /// `i`, `i in N`
    Var(IndexDecl),
    /// `(h e)`: merged into one axis, first outermost
    Group(Vec<IndexDecl>, Span),
}

/// An index being introduced; its range is inferred unless given.
#[derive(Clone, Debug, PartialEq)]
pub struct IndexDecl {
    /// The index.
    pub name: Ident,
    /// `in N`
    pub range: Option<Expr>,
}

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    /// What it says.
    pub kind: ExprKind,
    /// The whole expression.
    pub span: Span,
}

/// The kinds of expression.
#[derive(Clone, Debug, PartialEq)]
pub enum ExprKind {
    /// `10`, `1_000`
    Int(i64),
    /// `0.1`, `1e-3`; `20%` is 0.2
    Float(f64),
    /// `10min` in seconds, `2GiB` in bytes: value and unit's word
    Quantity(f64, Arc<str>),
    /// `"text"`
    Text(Arc<str>),
    /// `true`, `false`
    Bool(bool),
    /// `x`
    Name(Arc<str>),
    /// `...` as an argument: the sizes of the parameters' `...`, as in `reshape(x, ..., A, B)`
    Rest,
    /// `s.h`, `self.bias`, `h.3`
    Field(Box<Expr>, Ident),
    /// `f(x, out: 3)`
    Call { callee: Box<Expr>, args: Vec<Arg> },
    /// `x[b, i - 1, else: 0]`
    Load { base: Box<Expr>, indices: Vec<Subscript>, otherwise: Option<Box<Expr>> },
    /// `sum[i, j where i <= j](e)`; `fold` is `sum`, `max`, `min`, `prod`, `mean`, `amax`, `amin`, `argmax`, `argmin`, `any`, `all`
    Fold { fold: Ident, indices: Vec<FoldIndex>, condition: Option<Box<Expr>>, body: Box<Expr> },
    /// `-x`, `not x`
    Unary(UnaryOp, Box<Expr>),
    /// `a + b`
    Binary(BinaryOp, Box<Expr>, Box<Expr>),
    /// `x |> f(3)`: the left becomes the first argument
    Pipe(Box<Expr>, Box<Expr>),
    /// `(a, b)`, `(x: a, w: b)`
    Tuple(Vec<(Option<Ident>, Expr)>),
    /// `[a, b]`
    List(Vec<Expr>),
    /// `"p0".."p63"`
    Range(Box<Expr>, Box<Expr>),
    /// `if c then a else b`
    If { condition: Box<Expr>, then: Box<Expr>, otherwise: Box<Expr> },
    /// `scan x in xs, m in ms over T from (h: zeros(B, H)) { ... }`; `over T reversed` runs backwards
    Scan(Box<Scan>),
}

/// See [`ExprKind::Scan`].
#[derive(Clone, Debug, PartialEq)]
pub struct Scan {
    /// Element name and the tensor it is an element of.
    pub inputs: Vec<(Ident, Expr)>,
    /// The dim that time runs over.
    pub over: Expr,
    /// Runs from the last to the first.
    pub reversed: bool,
    /// Carried values: names and what they start from.
    pub from: Vec<(Ident, Expr)>,
    /// One step; its results are the next carries, in order or by name, and further named results are stacked.
    pub body: Vec<Stmt>,
}

/// A call's argument.
#[derive(Clone, Debug, PartialEq)]
pub struct Arg {
    /// `out:`
    pub name: Option<Ident>,
    /// The value.
    pub value: Expr,
}

/// One index of a load.
#[derive(Clone, Debug, PartialEq)]
pub enum Subscript {
    /// `...`: the same axes as the target's `...`
    Rest(Span),
    /// `i`, `i*stride - padding`, `label[b]`
    Expr(Expr),
    /// `(h e)`: `h * E + e`
    Group(Vec<Ident>, Span),
}

/// An index of a fold.
#[derive(Clone, Debug, PartialEq)]
pub enum FoldIndex {
    /// `i`, `i in N`
    Var(IndexDecl),
    /// `...`: every axis of the target's rest
    Rest(Span),
}

/// Operators of one operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnaryOp {
    /// `-x`
    Neg,
    /// `not x`
    Not,
}

/// Operators of two operands, loosest binding first: `or`, `and`, comparisons, `+ -`, `* /`, `^` (right, tightest; binds tighter than a leading `-`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinaryOp {
    /// `or`
    Or,
    /// `and`
    And,
    /// `==`
    Eq,
    /// `!=`
    Ne,
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `>`
    Gt,
    /// `>=`
    Ge,
    /// `+`
    Add,
    /// `-`
    Sub,
    /// `*`
    Mul,
    /// `/`, real division
    Div,
    /// `^`
    Pow,
}

/// `data name { ... }`, `train name { ... }`
#[derive(Clone, Debug, PartialEq)]
pub struct Section {
    /// Which of the two.
    pub kind: SectionKind,
    /// Its name.
    pub name: Ident,
    /// Doc comment.
    pub doc: Arc<str>,
    /// In order.
    pub entries: Vec<Entry>,
    /// The whole section.
    pub span: Span,
}

/// The closed schemas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SectionKind {
    /// Where samples come from.
    Data,
    /// How to train.
    Train,
}

/// One line of a section.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// `label = table.column("target"): class<10>`
    Set { name: Ident, value: Expr, ty: Option<TypeExpr> },
    /// `early_stop(on: valid.accuracy, patience: 5)`, `freeze(Net.fc1)`, `load("w.safetensors")`
    Do(Expr),
}
