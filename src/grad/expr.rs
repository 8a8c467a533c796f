//! Building derivative expressions that stay clean: no zero terms, no factors of one, zero sides of `select` kept outermost.

use crate::ir::{Affine, DType, Expr, Guard, Index, Scalar, ScalarOp, Var, float};

/// `0` of a float type.
pub fn zero(dtype: DType) -> Expr {
    float(dtype, 0.0)
}

/// The literal's value; conversions of literals count.
pub fn literal(e: &Expr) -> Option<f64> {
    match e {
        Expr::Const(c) => Some(c.to_f64()),
        Expr::Cast(to, a) if to.is_float() => literal(a),
        Expr::Cast(..) | Expr::Load { .. } | Expr::Index(_) | Expr::Holds(_) | Expr::Op(..) => None,
    }
}

/// Whether it is literally zero.
pub fn is_zero(e: &Expr) -> bool {
    literal(e) == Some(0.0)
}

/// `op(a)`
pub fn unary(op: ScalarOp, a: Expr) -> Expr {
    Expr::op(op, [a])
}

/// `op(a, b)`
pub fn binary(op: ScalarOp, a: Expr, b: Expr) -> Expr {
    Expr::op(op, [a, b])
}

/// Applies `of` under every `select` that has a zero side, so that the other side never meets a product with infinity.
fn under_select(e: Expr, of: &dyn Fn(Expr) -> Expr, zero_of: &dyn Fn(Expr) -> Expr) -> Result<Expr, Expr> {
    match e {
        Expr::Op(ScalarOp::Select, mut args) if is_zero(&args[1]) || is_zero(&args[2]) => {
            for arm in &mut args[1..] {
                let arm_value = std::mem::replace(arm, Expr::Holds(vec![]));
                *arm = if is_zero(&arm_value) { zero_of(arm_value) } else { of(arm_value) };
            }
            Ok(Expr::Op(ScalarOp::Select, args))
        }
        other => Err(other),
    }
}

/// `a * b`
pub fn mul(a: Expr, b: Expr) -> Expr {
    if is_zero(&a) || literal(&b) == Some(1.0) {
        return a;
    }
    if is_zero(&b) || literal(&a) == Some(1.0) {
        return b;
    }
    let a = match under_select(a, &|x| mul(x, b.clone()), &|z| z) {
        Ok(done) => return done,
        Err(a) => a,
    };
    let b = match under_select(b, &|x| mul(a.clone(), x), &|z| z) {
        Ok(done) => return done,
        Err(b) => b,
    };
    match (a, b) {
        (Expr::Op(ScalarOp::Neg, mut x), b) => neg(mul(x.remove(0), b)),
        (a, Expr::Op(ScalarOp::Neg, mut x)) => neg(mul(a, x.remove(0))),
        (Expr::Op(ScalarOp::Div, mut x), b) if literal(&x[0]) == Some(1.0) => div(b, x.remove(1)),
        (a, Expr::Op(ScalarOp::Div, mut x)) if literal(&x[0]) == Some(1.0) => div(a, x.remove(1)),
        (a, b) if literal(&a) == Some(-1.0) => neg(b),
        (a, b) if literal(&b) == Some(-1.0) => neg(a),
        (a, b) => binary(ScalarOp::Mul, a, b),
    }
}

/// `a / b`
pub fn div(a: Expr, b: Expr) -> Expr {
    if is_zero(&a) || literal(&b) == Some(1.0) {
        return a;
    }
    match under_select(a, &|x| div(x, b.clone()), &|z| z) {
        Ok(done) => done,
        Err(Expr::Op(ScalarOp::Neg, mut x)) => neg(div(x.remove(0), b)),
        Err(a) => binary(ScalarOp::Div, a, b),
    }
}

/// `-a`
pub fn neg(a: Expr) -> Expr {
    if is_zero(&a) {
        return a;
    }
    match under_select(a, &neg, &|z| z) {
        Ok(done) => done,
        Err(Expr::Const(c)) => float_like(c, -c.to_f64()),
        Err(Expr::Op(ScalarOp::Neg, mut x)) => x.remove(0),
        Err(a) => unary(ScalarOp::Neg, a),
    }
}

fn float_like(c: Scalar, x: f64) -> Expr {
    Expr::Const(Scalar::float(c.dtype(), x))
}

/// `a + b`, both of `dtype`.
pub fn add(dtype: DType, a: Expr, b: Expr) -> Expr {
    use ScalarOp::Select;
    if is_zero(&a) {
        return b;
    }
    if is_zero(&b) {
        return a;
    }
    match (a, b) {
        (a, b) if a == b => mul(float(dtype, 2.0), a),
        (Expr::Op(Select, x), Expr::Op(Select, y)) if x[0] == y[0] && x[1..].iter().chain(&y[1..]).any(is_zero) => {
            let [c, x1, x2]: [Expr; 3] = x.try_into().expect("three operands");
            let [_, y1, y2]: [Expr; 3] = y.try_into().expect("three operands");
            Expr::Op(Select, vec![c, add(dtype, x1, y1), add(dtype, x2, y2)])
        }
        (a, Expr::Op(ScalarOp::Neg, mut y)) => binary(ScalarOp::Sub, a, y.remove(0)),
        (Expr::Op(ScalarOp::Neg, mut x), b) => binary(ScalarOp::Sub, b, x.remove(0)),
        (a, b) => binary(ScalarOp::Add, a, b),
    }
}

/// Conversion from one float type to another.
pub fn cast(from: DType, to: DType, a: Expr) -> Expr {
    if from == to {
        return a;
    }
    match under_select(a, &|x| cast(from, to, x), &|_| zero(to)) {
        Ok(done) => done,
        Err(Expr::Const(c)) => Expr::Const(Scalar::float(to, c.to_f64())),
        Err(a) => Expr::Cast(to, Box::new(a)),
    }
}

/// `a` where `c`, else `b`.
pub fn select(c: Expr, a: Expr, b: Expr) -> Expr {
    if a == b { a } else { Expr::Op(ScalarOp::Select, vec![c, a, b]) }
}

/// The expression with variables replaced and operands renumbered; `tidy` sees every index expression that comes out.
pub fn rewrite(e: &Expr, var: &dyn Fn(Var) -> Affine, operand: &dyn Fn(usize) -> usize, tidy: &dyn Fn(Affine) -> Affine) -> Expr {
    let again = |e: &Expr| rewrite(e, var, operand, tidy);
    match e {
        Expr::Const(c) => Expr::Const(*c),
        Expr::Load { operand: k, index, otherwise } => {
            let index = index.iter().map(|i| rewrite_index(i, var, operand, tidy)).collect();
            Expr::Load { operand: operand(*k), index, otherwise: *otherwise }
        }
        Expr::Index(a) => Expr::Index(tidy(a.substitute(var))),
        Expr::Holds(guards) => Expr::Holds(guards.iter().map(|g| Guard { expr: tidy(g.expr.substitute(var)), relation: g.relation }).collect()),
        Expr::Op(op, args) => Expr::Op(*op, args.iter().map(again).collect()),
        Expr::Cast(to, a) => Expr::Cast(*to, Box::new(again(a))),
    }
}

/// The same for one index of a load.
pub fn rewrite_index(i: &Index, var: &dyn Fn(Var) -> Affine, operand: &dyn Fn(usize) -> usize, tidy: &dyn Fn(Affine) -> Affine) -> Index {
    match i {
        Index::Affine(a) => Index::Affine(tidy(a.substitute(var))),
        Index::Gather(e) => Index::Gather(Box::new(rewrite(e, var, operand, tidy))),
    }
}

/// The expression with operands renumbered.
pub fn renumber(e: &Expr, operand: &dyn Fn(usize) -> usize) -> Expr {
    rewrite(e, &Affine::var, operand, &|a| a)
}

/// Whether the expression depends on a variable at or above `first`.
pub fn depends_from(e: &Expr, first: Var) -> bool {
    let mut found = false;
    let mut affine = |a: &Affine| a.visit_vars(&mut |v| found |= v >= first);
    e.visit(&mut |e| match e {
        Expr::Load { index, .. } => {
            for i in index {
                match i {
                    Index::Affine(a) => affine(a),
                    Index::Gather(_) => {}
                }
            }
        }
        Expr::Index(a) => affine(a),
        Expr::Holds(guards) => guards.iter().for_each(|g| affine(&g.expr)),
        Expr::Const(_) | Expr::Op(..) | Expr::Cast(..) => {}
    });
    found
}
