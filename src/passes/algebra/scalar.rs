//! Rules of real arithmetic on scalar expressions, applied innermost first.

use crate::ir::*;
use crate::math;
use crate::passes::compose::loads;
use ScalarOp::*;

/// The expression in normal form; its parts are already.
pub fn expr(e: Expr, dtype: &dyn Fn(&Expr) -> Option<DType>) -> Expr {
    match e {
        Expr::Op(op, args) => {
            let float = args.last().and_then(dtype).is_some_and(DType::is_float);
            operation(op, args, float)
        }
        // A truth value as a number is a selection.
        Expr::Cast(to, from) if to.is_float() && dtype(&from) == Some(DType::Bool) => {
            operation(Select, vec![*from, float(to, 1.0), float(to, 0.0)], true)
        }
        Expr::Cast(to, from) => match *from {
            Expr::Const(c) => Expr::Const(math::cast(to, c)),
            from if dtype(&from) == Some(to) => from,
            from => Expr::Cast(to, Box::new(from)),
        },
        Expr::Const(_) | Expr::Load { .. } | Expr::Index(_) | Expr::Holds(_) => e,
    }
}

/// The literal's value, where it is one.
fn number(e: &Expr) -> Option<f64> {
    match e {
        Expr::Const(c) if c.dtype().is_float() => Some(c.to_f64()),
        _ => None,
    }
}

/// Whether it is a float zero.
pub fn zero(e: &Expr) -> bool {
    number(e) == Some(0.0)
}

/// Neither a literal nor dependent on any tensor or index: `f32(B)`.
pub fn invariant(e: &Expr) -> bool {
    let mut varies = loads(e);
    e.visit(&mut |e| match e {
        Expr::Index(a) => varies |= !a.terms.is_empty(),
        Expr::Holds(_) => varies = true,
        Expr::Const(_) | Expr::Load { .. } | Expr::Op(..) | Expr::Cast(..) => {}
    });
    !varies
}

/// `op(args)` with the rules applied.
pub fn make(op: ScalarOp, args: impl Into<Vec<Expr>>) -> Expr {
    operation(op, args.into(), true)
}

/// `-e`
pub fn neg(e: &Expr) -> Expr {
    make(Neg, [e.clone()])
}

/// The branches of `select(c, x, 0)`.
fn chosen(e: &Expr) -> Option<(&Expr, &Expr)> {
    match e {
        Expr::Op(Select, args) if zero(&args[2]) => Some((&args[0], &args[1])),
        _ => None,
    }
}

fn select(c: &Expr, x: Expr, like: &Expr) -> Expr {
    let Expr::Op(_, args) = like else { unreachable!("a selection") };
    make(Select, [c.clone(), x, args[2].clone()])
}

fn operation(op: ScalarOp, args: Vec<Expr>, float: bool) -> Expr {
    if let Some(values) = args.iter().map(|a| if let Expr::Const(c) = a { Some(*c) } else { None }).collect::<Option<Vec<_>>>() {
        return Expr::Const(math::apply(op, &values));
    }
    let plain = |args: Vec<Expr>| Expr::Op(op, args);
    if op == Select {
        return selection(args);
    }
    if !float {
        return plain(args);
    }
    match (op, args.as_slice()) {
        (Neg, [a]) => match a {
            Expr::Op(Neg, x) => x[0].clone(),
            Expr::Op(Sub, x) => make(Sub, [x[1].clone(), x[0].clone()]),
            Expr::Op(op @ (Mul | Div), x) if number(&x[0]).is_some() => make(*op, [neg(&x[0]), x[1].clone()]),
            _ => match chosen(a) {
                Some((c, x)) => select(c, neg(x), a),
                None => plain(args),
            },
        },
        (Add, [a, b]) => sum(a, b),
        (Sub, [a, b]) => difference(a, b),
        (Mul, [a, b]) => product(a, b),
        (Div, [a, b]) => quotient(a, b),
        (Pow, [a, b]) if number(b) == Some(1.0) => a.clone(),
        (Pow, [_, Expr::Const(c)]) if c.to_f64() == 0.0 => Expr::Const(Scalar::float(c.dtype(), 1.0)),
        _ => plain(args),
    }
}

fn selection(args: Vec<Expr>) -> Expr {
    let [c, a, b] = args.as_slice() else { return Expr::Op(Select, args) };
    match c {
        _ if a == b => return a.clone(),
        Expr::Const(c) => return if c.to_bool() { a.clone() } else { b.clone() },
        Expr::Holds(guards) if guards.is_empty() => return a.clone(),
        Expr::Op(Not, c) => return make(Select, [c[0].clone(), b.clone(), a.clone()]),
        _ => {}
    }
    match (a, b) {
        (Expr::Op(Select, inner), _) if inner[0] == *c => make(Select, [c.clone(), inner[1].clone(), b.clone()]),
        (_, Expr::Op(Select, inner)) if inner[0] == *c => make(Select, [c.clone(), a.clone(), inner[2].clone()]),
        (Expr::Op(Div, x), _) if zero(b) && invariant(&x[1]) => make(Div, [make(Select, [c.clone(), x[0].clone(), b.clone()]), x[1].clone()]),
        _ => Expr::Op(Select, args),
    }
}

fn sum(a: &Expr, b: &Expr) -> Expr {
    match (a, b) {
        _ if zero(a) => b.clone(),
        _ if zero(b) => a.clone(),
        (_, Expr::Op(Neg, y)) => make(Sub, [a.clone(), y[0].clone()]),
        (Expr::Op(Neg, x), _) => make(Sub, [b.clone(), x[0].clone()]),
        (Expr::Op(Div, x), Expr::Op(Div, y)) if x[1] == y[1] && invariant(&x[1]) => {
            make(Div, [make(Add, [x[0].clone(), y[0].clone()]), x[1].clone()])
        }
        _ if a == b => match two_like(a) {
            Some(two) => make(Mul, [two, a.clone()]),
            None => Expr::Op(Add, vec![a.clone(), b.clone()]),
        },
        _ => match (chosen(a), chosen(b)) {
            (Some((c, x)), Some((d, y))) if c == d => select(c, make(Add, [x.clone(), y.clone()]), a),
            (_, Some((c, Expr::Op(Neg, y)))) => make(Sub, [a.clone(), select(c, y[0].clone(), b)]),
            (Some((c, Expr::Op(Neg, x))), _) => make(Sub, [b.clone(), select(c, x[0].clone(), a)]),
            (_, Some((c, y))) if number(y).is_some_and(|y| y < 0.0) => make(Sub, [a.clone(), select(c, neg(y), b)]),
            (Some((c, x)), _) if number(x).is_some_and(|x| x < 0.0) => make(Sub, [b.clone(), select(c, neg(x), a)]),
            _ => Expr::Op(Add, vec![a.clone(), b.clone()]),
        },
    }
}

/// The literal 2 of the expression's type, where a literal in it tells the type.
fn two_like(e: &Expr) -> Option<Expr> {
    let mut found = None;
    let arithmetic = |e: &Expr| match e {
        Expr::Op(Add | Sub | Mul | Div | Neg, args) => args.clone(),
        _ => vec![],
    };
    let mut open = vec![e.clone()];
    while let Some(e) = open.pop() {
        match &e {
            Expr::Const(c) => found = Some(float(c.dtype(), 2.0)),
            Expr::Cast(to, _) => found = Some(float(*to, 2.0)),
            _ => open.extend(arithmetic(&e)),
        }
    }
    found
}

fn difference(a: &Expr, b: &Expr) -> Expr {
    match (a, b) {
        _ if zero(b) => a.clone(),
        _ if zero(a) => neg(b),
        (Expr::Op(Neg, x), Expr::Op(Neg, y)) => make(Sub, [y[0].clone(), x[0].clone()]),
        (_, Expr::Op(Neg, y)) => make(Add, [a.clone(), y[0].clone()]),
        (Expr::Op(Div, x), Expr::Op(Div, y)) if x[1] == y[1] && invariant(&x[1]) => {
            make(Div, [make(Sub, [x[0].clone(), y[0].clone()]), x[1].clone()])
        }
        _ => match (chosen(a), chosen(b)) {
            (Some((c, x)), Some((d, y))) if c == d => select(c, make(Sub, [x.clone(), y.clone()]), a),
            (_, Some((c, Expr::Op(Neg, y)))) => make(Add, [a.clone(), select(c, y[0].clone(), b)]),
            _ => Expr::Op(Sub, vec![a.clone(), b.clone()]),
        },
    }
}

fn product(a: &Expr, b: &Expr) -> Expr {
    match (a, b) {
        _ if zero(a) => a.clone(),
        _ if zero(b) => b.clone(),
        _ if number(a) == Some(1.0) => b.clone(),
        _ if number(b) == Some(1.0) => a.clone(),
        _ if number(a) == Some(-1.0) => neg(b),
        _ if number(b) == Some(-1.0) => neg(a),
        // Literals first, and one of them.
        (Expr::Op(Mul, x), Expr::Const(_)) if number(&x[0]).is_some() => make(Mul, [make(Mul, [x[0].clone(), b.clone()]), x[1].clone()]),
        (_, Expr::Const(_)) => make(Mul, [b.clone(), a.clone()]),
        (Expr::Const(_), Expr::Op(Mul, y)) if number(&y[0]).is_some() => make(Mul, [make(Mul, [a.clone(), y[0].clone()]), y[1].clone()]),
        (Expr::Const(_), Expr::Op(Neg, y)) => make(Mul, [neg(a), y[0].clone()]),
        (Expr::Op(Neg, x), _) => neg(&make(Mul, [x[0].clone(), b.clone()])),
        (_, Expr::Op(Neg, y)) => neg(&make(Mul, [a.clone(), y[0].clone()])),
        (Expr::Op(Div, x), _) if number(&x[0]) == Some(1.0) => make(Div, [b.clone(), x[1].clone()]),
        (_, Expr::Op(Div, y)) if number(&y[0]) == Some(1.0) => make(Div, [a.clone(), y[1].clone()]),
        (Expr::Op(Div, x), _) if invariant(&x[1]) => make(Div, [make(Mul, [x[0].clone(), b.clone()]), x[1].clone()]),
        (_, Expr::Op(Div, y)) if invariant(&y[1]) => make(Div, [make(Mul, [a.clone(), y[0].clone()]), y[1].clone()]),
        (_, Expr::Op(Mul, y)) if number(&y[0]).is_some() => make(Mul, [y[0].clone(), make(Mul, [a.clone(), y[1].clone()])]),
        (Expr::Op(Mul, x), _) if number(&x[0]).is_some() => make(Mul, [x[0].clone(), make(Mul, [x[1].clone(), b.clone()])]),
        _ => match (chosen(a), chosen(b)) {
            (Some((c, x)), _) => select(c, make(Mul, [x.clone(), b.clone()]), a),
            (_, Some((c, y))) => select(c, make(Mul, [a.clone(), y.clone()]), b),
            (None, None) => Expr::Op(Mul, vec![a.clone(), b.clone()]),
        },
    }
}

fn quotient(a: &Expr, b: &Expr) -> Expr {
    match (a, b) {
        _ if zero(a) && !zero(b) => a.clone(),
        _ if number(b) == Some(1.0) => a.clone(),
        (Expr::Op(Neg, x), _) => neg(&make(Div, [x[0].clone(), b.clone()])),
        // Divisors that do not vary go last.
        (Expr::Op(Div, x), _) if invariant(&x[1]) && !invariant(b) => make(Div, [make(Div, [x[0].clone(), b.clone()]), x[1].clone()]),
        _ => Expr::Op(Div, vec![a.clone(), b.clone()]),
    }
}
