//! Scalar arithmetic inside nests: constants, loads, index values and a closed set of operations, typed by their operands.

use crate::ir::index::{Affine, Guard, Index, Var};
pub use nnc_runtime::dtype::{DType, Scalar};

/// A scalar expression of a nest. Evaluated for one point of the nest's box.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Expr {
    /// A literal.
    Const(Scalar),
    /// An element of the nest's operand number `operand`. Out of bounds: `otherwise`, where given; else the load is proved or checked.
    Load { operand: usize, index: Vec<Index>, otherwise: Option<Scalar> },
    /// The value of an index expression, as i64.
    Index(Affine),
    /// Whether all guards hold at this point, as bool.
    Holds(Vec<Guard>),
    /// An operation; `args.len() == op.arity()`.
    Op(ScalarOp, Vec<Expr>),
    /// Conversion: float to int truncates and saturates, to bool is `!= 0`, from bool 0 or 1.
    Cast(DType, Box<Expr>),
}

/// Operations on scalars. Every float operation rounds once, to nearest even; the transcendental ones are the fixed polynomial sequences of
/// `crate::math`, the same bits on every target that shares the numeric order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ScalarOp {
    /// `-a`
    Neg,
    /// `|a|`
    Abs,
    /// -1, 0 (of either zero) or 1; NaN of NaN
    Sign,
    /// Square root
    Sqrt,
    /// `e^a`
    Exp,
    /// `e^a - 1`
    Expm1,
    /// Natural logarithm
    Log,
    /// `log(1 + a)`
    Log1p,
    /// Sine
    Sin,
    /// Cosine
    Cos,
    /// Arc tangent
    Atan,
    /// Hyperbolic tangent
    Tanh,
    /// `1 / (1 + e^-a)`
    Sigmoid,
    /// Error function
    Erf,
    /// Largest integer not above
    Floor,
    /// Smallest integer not below
    Ceil,
    /// Nearest integer, ties to even
    Round,
    /// Logical not
    Not,
    /// `a + b`; integers wrap
    Add,
    /// `a - b`; integers wrap
    Sub,
    /// `a * b`; integers wrap
    Mul,
    /// `a / b` for floats
    Div,
    /// `a ^ b` for floats, as C's pow
    Pow,
    /// The larger; NaN if either is; of equals the second
    Max,
    /// The smaller; NaN if either is; of equals the second
    Min,
    /// Floor division of integers; by zero 0
    FloorDiv,
    /// Remainder with the sign of `b`: floats `a - b*floor(a/b)` exactly as fmod then corrected; integers by zero 0
    Mod,
    /// Logical and
    And,
    /// Logical or
    Or,
    /// `a == b`
    Eq,
    /// `a != b`
    Ne,
    /// `a < b`
    Lt,
    /// `a <= b`
    Le,
    /// `select(c, a, b)`: `a` where `c`, else `b`; only the chosen side's loads happen
    Select,
    /// `a*b + c`, rounded once
    Fma,
    /// A new i64 key from a key and a number: `fold_key(key, n)`
    FoldKey,
    /// Uniform in [0, 1): `uniform(key, position)`, i64 both; an f64 multiple of 2^-24, exact in f32 too
    Uniform,
}

impl ScalarOp {
    /// Every operation, in declaration order.
    pub const ALL: [ScalarOp; 37] = {
        use ScalarOp::*;
        [
            Neg, Abs, Sign, Sqrt, Exp, Expm1, Log, Log1p, Sin, Cos, Atan, Tanh, Sigmoid, Erf, Floor, Ceil, Round, Not, Add, Sub, Mul, Div, Pow, Max,
            Min, FloorDiv, Mod, And, Or, Eq, Ne, Lt, Le, Select, Fma, FoldKey, Uniform,
        ]
    };

    /// How many operands it takes.
    pub fn arity(self) -> usize {
        use ScalarOp::*;
        match self {
            Neg | Abs | Sign | Sqrt | Exp | Expm1 | Log | Log1p | Sin | Cos | Atan | Tanh | Sigmoid | Erf | Floor | Ceil | Round | Not => 1,
            Add | Sub | Mul | Div | Pow | Max | Min | FloorDiv | Mod | And | Or | Eq | Ne | Lt | Le | FoldKey | Uniform => 2,
            Select | Fma => 3,
        }
    }

    /// The result's type, or nothing if the operands' types do not fit.
    pub fn result(self, args: &[DType]) -> Option<DType> {
        use DType::*;
        use ScalarOp::*;
        let float = |t: DType| matches!(t, F32 | F64).then_some(t);
        let number = |t: DType| (t != Bool).then_some(t);
        match (self, args) {
            (Neg | Abs | Sign, [a]) => number(*a),
            (Sqrt | Exp | Expm1 | Log | Log1p | Sin | Cos | Atan | Tanh | Sigmoid | Erf | Floor | Ceil | Round, [a]) => float(*a),
            (Not, [Bool]) => Some(Bool),
            (Add | Sub | Mul | Mod, [a, b]) if a == b => number(*a),
            (Div | Pow, [a, b]) if a == b => float(*a),
            (Max | Min, [a, b]) if a == b => Some(*a),
            (FloorDiv, [I64, I64]) => Some(I64),
            (And | Or, [Bool, Bool]) => Some(Bool),
            (Eq | Ne | Lt | Le, [a, b]) if a == b => Some(Bool),
            (Select, [Bool, a, b]) if a == b => Some(*a),
            (ScalarOp::Fma, [a, b, c]) if a == b && b == c => float(*a),
            (FoldKey, [I64, I64]) => Some(I64),
            (Uniform, [I64, I64]) => Some(F64),
            _ => None,
        }
    }

    /// The word in printed graphs and kernels; infix operations print as their sign.
    pub fn name(self) -> &'static str {
        use ScalarOp::*;
        match self {
            Neg => "neg",
            Abs => "abs",
            Sign => "sign",
            Sqrt => "sqrt",
            Exp => "exp",
            Expm1 => "expm1",
            Log => "log",
            Log1p => "log1p",
            Sin => "sin",
            Cos => "cos",
            Atan => "atan",
            Tanh => "tanh",
            Sigmoid => "sigmoid",
            Erf => "erf",
            Floor => "floor",
            Ceil => "ceil",
            Round => "round",
            Not => "not",
            Add => "+",
            Sub => "-",
            Mul => "*",
            Div => "/",
            Pow => "^",
            Max => "maximum",
            Min => "minimum",
            FloorDiv => "div",
            Mod => "mod",
            And => "and",
            Or => "or",
            Eq => "==",
            Ne => "!=",
            Lt => "<",
            Le => "<=",
            Select => "select",
            Fma => "fma",
            FoldKey => "fold_key",
            Uniform => "uniform",
        }
    }
}

impl Expr {
    /// `op(args)`.
    pub fn op(op: ScalarOp, args: impl Into<Vec<Expr>>) -> Expr {
        let args = args.into();
        assert_eq!(args.len(), op.arity(), "{op:?} takes {} operands", op.arity());
        Expr::Op(op, args)
    }

    /// The type, given the operands' types.
    pub fn dtype(&self, operands: &dyn Fn(usize) -> DType) -> Option<DType> {
        match self {
            Expr::Const(c) => Some(c.dtype()),
            Expr::Load { operand, .. } => Some(operands(*operand)),
            Expr::Index(_) => Some(DType::I64),
            Expr::Holds(_) => Some(DType::Bool),
            Expr::Op(op, args) => {
                let types: Option<Vec<DType>> = args.iter().map(|a| a.dtype(operands)).collect();
                op.result(&types?)
            }
            Expr::Cast(to, from) => from.dtype(operands).map(|_| *to),
        }
    }

    /// Calls `see` with every expression below and including this one, parents first; gathered indices included.
    pub fn visit(&self, see: &mut dyn FnMut(&Expr)) {
        see(self);
        match self {
            Expr::Const(_) | Expr::Index(_) | Expr::Holds(_) => {}
            Expr::Load { index, .. } => {
                for i in index {
                    if let Index::Gather(e) = i {
                        e.visit(see);
                    }
                }
            }
            Expr::Op(_, args) => args.iter().for_each(|a| a.visit(see)),
            Expr::Cast(_, a) => a.visit(see),
        }
    }

    /// The expression with every part replaced by `f` of it, innermost first; gathered indices included.
    pub fn map(&self, f: &mut dyn FnMut(Expr) -> Expr) -> Expr {
        let whole = match self {
            Expr::Const(_) | Expr::Index(_) | Expr::Holds(_) => self.clone(),
            Expr::Load { operand, index, otherwise } => {
                Expr::Load { operand: *operand, index: index.iter().map(|i| i.map(f)).collect(), otherwise: *otherwise }
            }
            Expr::Op(op, args) => Expr::Op(*op, args.iter().map(|a| a.map(f)).collect()),
            Expr::Cast(to, from) => Expr::Cast(*to, Box::new(from.map(f))),
        };
        f(whole)
    }

    /// Every index variable replaced by `of(variable)`.
    pub fn substitute(&self, of: &dyn Fn(Var) -> Affine) -> Expr {
        self.map(&mut |e| match e {
            Expr::Index(a) => Expr::Index(a.substitute(of)),
            Expr::Holds(guards) => Expr::Holds(guards.iter().map(|g| g.substitute(of)).collect()),
            Expr::Load { operand, index, otherwise } => {
                let index = index.into_iter().map(|i| match i {
                    Index::Affine(a) => Index::Affine(a.substitute(of)),
                    Index::Gather(e) => Index::Gather(e),
                });
                Expr::Load { operand, index: index.collect(), otherwise }
            }
            Expr::Const(_) | Expr::Op(..) | Expr::Cast(..) => e,
        })
    }

    /// Every operand's number replaced by `of(number)`.
    pub fn renumber(&self, of: &dyn Fn(usize) -> usize) -> Expr {
        self.map(&mut |e| match e {
            Expr::Load { operand, index, otherwise } => Expr::Load { operand: of(operand), index, otherwise },
            Expr::Const(_) | Expr::Index(_) | Expr::Holds(_) | Expr::Op(..) | Expr::Cast(..) => e,
        })
    }
}
