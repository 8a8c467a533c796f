//! The derivative of every scalar operation. One table: each line is the cotangent of one operand.
//!
//! Ties and kinks: `|.|'(0) = sign'(x) = 0`; rounding and comparisons are flat; equal operands of `maximum` and `minimum` share evenly;
//! `sqrt'(0)` is infinite; `a^0` is flat in `a`, and `0^b` (b >= 0) in `b`; `select` passes to the chosen side only.

use crate::grad::expr::{add, binary, div, literal, mul, neg, select, unary, zero};
use crate::ir::{DType, Expr, ScalarOp, float};

/// The cotangent of operand `k` of `op(args)`, whose value is `value` and whose cotangent is `adj`; nothing where it is always zero.
/// `dtype` is the operation's float type.
pub fn cotangent(op: ScalarOp, args: &[Expr], k: usize, value: &Expr, adj: Expr, dtype: DType) -> Option<Expr> {
    use ScalarOp::*;
    let a = || args[0].clone();
    let b = || args[1].clone();
    let v = || value.clone();
    let num = |x: f64| float(dtype, x);
    Some(match (op, k) {
        (Neg, _) => neg(adj),
        (Abs, _) => mul(adj, unary(Sign, a())),
        (Sqrt, _) => div(adj, mul(num(2.0), v())),
        (Exp, _) => mul(adj, v()),
        (Expm1, _) => mul(adj, add(dtype, v(), num(1.0))),
        (Log, _) => div(adj, a()),
        (Log1p, _) => div(adj, add(dtype, a(), num(1.0))),
        (Sin, _) => mul(adj, unary(Cos, a())),
        (Cos, _) => neg(mul(adj, unary(Sin, a()))),
        (Atan, _) => div(adj, add(dtype, mul(a(), a()), num(1.0))),
        (Tanh, _) => mul(adj, binary(Sub, num(1.0), mul(v(), v()))),
        (Sigmoid, _) => mul(adj, mul(binary(Sub, num(1.0), v()), v())),
        (Erf, _) => mul(adj, mul(num(std::f64::consts::FRAC_2_SQRT_PI), unary(Exp, neg(mul(a(), a()))))),
        (Add, _) | (Sub, 0) | (Mod, 0) => adj,
        (Sub, _) => neg(adj),
        (Mul, 0) => mul(adj, b()),
        (Mul, _) => mul(adj, a()),
        (Div, 0) => div(adj, b()),
        (Div, _) => neg(div(mul(adj, v()), b())),
        (Pow, 0) => match literal(&args[1]) {
            Some(0.0) => return None,
            Some(1.0) => adj,
            Some(2.0) => mul(adj, mul(num(2.0), a())),
            Some(n) => mul(adj, mul(num(n), binary(Pow, a(), num(n - 1.0)))),
            None => select(binary(Eq, b(), num(0.0)), zero(dtype), mul(adj, mul(b(), binary(Pow, a(), binary(Sub, b(), num(1.0)))))),
        },
        (Pow, _) => {
            let flat = binary(And, binary(Eq, a(), num(0.0)), binary(Le, num(0.0), b()));
            select(flat, zero(dtype), mul(adj, mul(v(), unary(Log, a()))))
        }
        (Max, 0) => larger(a(), b(), adj, dtype),
        (Max, _) => larger(b(), a(), adj, dtype),
        (Min, 0) => smaller(a(), b(), adj, dtype),
        (Min, _) => smaller(b(), a(), adj, dtype),
        (Mod, _) => neg(mul(adj, unary(Floor, binary(Div, a(), b())))),
        (Select, 1) => select(a(), adj, zero(dtype)),
        (Select, 2) => select(a(), zero(dtype), adj),
        (Fma, 0) => mul(adj, b()),
        (Fma, 1) => mul(adj, a()),
        (Fma, _) => adj,
        (Sign | Floor | Ceil | Round | Not | FloorDiv | And | Or | Eq | Ne | Lt | Le | Select | FoldKey | Uniform, _) => return None,
    })
}

/// The share of `mine` in the larger of two; NaN passes on.
fn larger(mine: Expr, other: Expr, adj: Expr, dtype: DType) -> Expr {
    share(binary(ScalarOp::Lt, mine.clone(), other.clone()), mine, other, adj, dtype)
}

/// The share of `mine` in the smaller of two.
fn smaller(mine: Expr, other: Expr, adj: Expr, dtype: DType) -> Expr {
    share(binary(ScalarOp::Lt, other.clone(), mine.clone()), mine, other, adj, dtype)
}

fn share(lost: Expr, mine: Expr, other: Expr, adj: Expr, dtype: DType) -> Expr {
    let half = mul(float(dtype, 0.5), adj.clone());
    select(lost, zero(dtype), select(binary(ScalarOp::Eq, mine, other), half, adj))
}
