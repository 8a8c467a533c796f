//! A table of rewrites that keep every bit: arithmetic that does nothing, proved guards, divisions of indices, copies.

use crate::ir::bounds::Ranges;
use crate::ir::*;
use crate::passes::rebuild::{each, keep, map_exprs, ranges, rebuild, tidy_node};

/// Simplifies every function.
pub fn run(module: &Module) -> Module {
    each(module, &mut |f| rebuild(f, &mut |new, node| self::node(&module.dims, new, node)))
}

fn node(dims: &[Dim], f: &mut Function, mut node: Node) -> Vec<Value> {
    let sizes = ranges(&node.op);
    let ranges = Ranges { dims, sizes: &sizes };
    let types: Vec<DType> = node.operands.iter().map(|v| f.ty(*v).dtype).collect();
    match &mut node.op {
        Op::StopGradient => return node.operands,
        Op::Reshape if *f.ty(node.operands[0]) == node.types[0] => return node.operands,
        // A reshape of a reshape is one.
        Op::Reshape => {
            let from = f.node(node.operands[0].node);
            if from.op == Op::Reshape {
                node.operands = from.operands.clone();
            }
        }
        Op::Nest(nest) => guards(&mut nest.guards, &ranges),
        Op::Scatter(scatter) => guards(&mut scatter.guards, &ranges),
        Op::Input(_) | Op::Constant(_) | Op::Place(_) | Op::Scan(_) | Op::Sort { .. } | Op::Call(_) | Op::Check(_) => {}
    }
    // The root of a dot stays the product that it is.
    let root = match &node.op {
        Op::Nest(Nest { fold: Fold::Dot, body, .. }) => Some(body.clone()),
        _ => None,
    };
    map_exprs(&mut node.op, &mut |e| expr(e, &types, &ranges));
    match (&mut node.op, root) {
        (Op::Nest(nest), Some(Expr::Op(op, factors))) => {
            nest.body = Expr::Op(op, factors.iter().map(|a| a.map(&mut |e| expr(e, &types, &ranges))).collect());
        }
        (Op::Scatter(scatter), _) => scatter.index.iter_mut().for_each(|i| *i = index(i.clone(), &ranges)),
        _ => {}
    }
    tidy_node(&mut node);
    match copied(f, &node) {
        Some(value) => vec![value],
        None => keep(f, node),
    }
}

/// The operand that the node is a plain copy of.
pub fn copied(f: &Function, node: &Node) -> Option<Value> {
    let Op::Nest(Nest { fold: Fold::None, guards, body: Expr::Load { operand, index, .. }, outs, .. }) = &node.op else { return None };
    let straight = index.iter().enumerate().all(|(axis, i)| matches!(i, Index::Affine(a) if a.as_var() == Some(axis)));
    let value = node.operands[*operand];
    (straight && guards.is_empty() && f.ty(value).shape == *outs).then_some(value)
}

fn guards(guards: &mut Vec<Guard>, ranges: &Ranges) {
    for guard in guards.iter_mut() {
        guard.expr = ranges.simplify(&guard.expr);
    }
    guards.retain(|g| ranges.decide(g) != Some(true));
    if guards.iter().any(|g| ranges.decide(g) == Some(false)) {
        *guards = vec![Guard { expr: Affine::constant(-1), relation: Relation::NonNegative }];
    }
    guards.sort();
    guards.dedup();
}

fn index(index: Index, ranges: &Ranges) -> Index {
    match index {
        Index::Affine(a) => Index::Affine(ranges.simplify(&a)),
        Index::Gather(e) => match *e {
            Expr::Index(a) => Index::Affine(ranges.simplify(&a)),
            Expr::Const(c) => Index::Affine(Affine::constant(c.to_i64())),
            _ => Index::Gather(e),
        },
    }
}

/// Whether leaving the expression out can be noticed: a load that may stop the run.
pub fn may_fail(expr: &Expr) -> bool {
    let mut found = false;
    expr.visit(&mut |e| found |= matches!(e, Expr::Load { otherwise: None, .. }));
    found
}

/// One step at the root; the parts are simple already.
pub fn expr(e: Expr, types: &[DType], ranges: &Ranges) -> Expr {
    let dtype = |e: &Expr| e.dtype(&|k| types[k]);
    match e {
        Expr::Load { operand, index, otherwise } => {
            let index = index.into_iter().map(|i| self::index(i, ranges)).collect();
            Expr::Load { operand, index, otherwise }
        }
        Expr::Index(a) => Expr::Index(ranges.simplify(&a)),
        Expr::Holds(mut all) => {
            guards(&mut all, ranges);
            match all.as_slice() {
                [] => Expr::Const(Scalar::bool(true)),
                [one] if ranges.decide(one) == Some(false) => Expr::Const(Scalar::bool(false)),
                _ => Expr::Holds(all),
            }
        }
        Expr::Cast(to, from) if dtype(&from) == Some(to) => *from,
        // f32 to f64 and back loses nothing.
        Expr::Cast(DType::F32, from) => match *from {
            Expr::Cast(DType::F64, inner) if dtype(&inner) == Some(DType::F32) => *inner,
            other => Expr::Cast(DType::F32, Box::new(other)),
        },
        Expr::Op(op, args) => operation(op, args),
        Expr::Const(_) | Expr::Cast(..) => e,
    }
}

/// A small index expression's value as an affine one.
fn as_affine(e: &Expr) -> Option<Affine> {
    match e {
        Expr::Index(a) => Some(a.clone()),
        // Far from where an index could overflow.
        Expr::Const(c) if c.dtype() == DType::I64 && c.to_i64().unsigned_abs() < 1 << 31 => Some(Affine::constant(c.to_i64())),
        _ => None,
    }
}

fn operation(op: ScalarOp, args: Vec<Expr>) -> Expr {
    use ScalarOp::*;
    let float = |e: &Expr, x: f64| matches!(e, Expr::Const(c) if c.dtype().is_float() && *c == Scalar::float(c.dtype(), x));
    let int = |e: &Expr, x: i64| matches!(e, Expr::Const(c) if *c == Scalar::i64(x));
    let bool = |e: &Expr, x: bool| matches!(e, Expr::Const(c) if *c == Scalar::bool(x));
    let one = |e: &Expr| float(e, 1.0) || int(e, 1);
    if let [a, b] = args.as_slice()
        && (matches!(a, Expr::Index(_)) || matches!(b, Expr::Index(_)))
        && let (Some(x), Some(y)) = (as_affine(a), as_affine(b))
        && let Some(joined) = on_indices(op, &x, &y)
    {
        return joined;
    }
    match (op, args.as_slice()) {
        (Neg, [Expr::Op(Neg, x)]) => x[0].clone(),
        (Not, [Expr::Op(Not, x)]) => x[0].clone(),
        (Abs, [Expr::Op(Neg | Abs, x)]) => Expr::Op(Abs, x.clone()),
        // x + -0.0 is x, also for zeros; x + 0.0 is not.
        (Add, [x, zero]) | (Add, [zero, x]) if float(zero, -0.0) || int(zero, 0) => x.clone(),
        (Sub, [x, zero]) if float(zero, 0.0) || int(zero, 0) => x.clone(),
        (Mul, [x, unit]) | (Mul, [unit, x]) if one(unit) => x.clone(),
        (Div | FloorDiv, [x, unit]) if one(unit) => x.clone(),
        (Add, [a, Expr::Op(Neg, b)]) => operation(Sub, vec![a.clone(), b[0].clone()]),
        (Sub, [a, Expr::Op(Neg, b)]) => operation(Add, vec![a.clone(), b[0].clone()]),
        (Mul | Div, [Expr::Op(Neg, a), Expr::Op(Neg, b)]) => operation(op, vec![a[0].clone(), b[0].clone()]),
        (Max | Min | And | Or, [a, b]) if a == b => a.clone(),
        (And, [x, t]) | (And, [t, x]) if bool(t, true) => x.clone(),
        (Or, [x, f]) | (Or, [f, x]) if bool(f, false) => x.clone(),
        (And, [x, f]) | (And, [f, x]) if bool(f, false) && !may_fail(x) => f.clone(),
        (Or, [x, t]) | (Or, [t, x]) if bool(t, true) && !may_fail(x) => t.clone(),
        (And, [Expr::Holds(a), Expr::Holds(b)]) => Expr::Holds([a.as_slice(), b].concat()),
        (Select, [c, a, _]) if bool(c, true) => a.clone(),
        (Select, [c, _, b]) if bool(c, false) => b.clone(),
        (Select, [c, a, b]) if a == b && !may_fail(c) => a.clone(),
        (Select, [Expr::Op(Not, c), a, b]) => Expr::Op(Select, vec![c[0].clone(), b.clone(), a.clone()]),
        _ => Expr::Op(op, args),
    }
}

/// Arithmetic and comparisons of indices as index expressions and guards.
fn on_indices(op: ScalarOp, a: &Affine, b: &Affine) -> Option<Expr> {
    use ScalarOp::*;
    let positive = |s: &Affine| s.as_size().and_then(Size::as_const).filter(|n| *n > 0).map(Size::constant);
    match op {
        Add => Some(Expr::Index(a.add(b))),
        Sub => Some(Expr::Index(a.sub(b))),
        Mul => match (a.as_size(), b.as_size()) {
            (Some(by), _) => Some(Expr::Index(b.scale(by))),
            (None, Some(by)) => Some(Expr::Index(a.scale(by))),
            (None, None) => None,
        },
        FloorDiv => positive(b).map(|by| Expr::Index(a.div(&by))),
        Mod => positive(b).map(|by| Expr::Index(a.modulo(&by))),
        Eq => Some(Expr::Holds(vec![Guard::eq(a, b)])),
        Ne => Some(Expr::Holds(vec![Guard { expr: a.sub(b), relation: Relation::NonZero }])),
        Lt => Some(Expr::Holds(vec![Guard::lt(a, b)])),
        Le => Some(Expr::Holds(vec![Guard::le(a, b)])),
        Neg | Abs | Sign | Sqrt | Exp | Expm1 | Log | Log1p | Sin | Cos | Atan | Tanh | Sigmoid | Erf | Floor | Ceil | Round | Not | Div | Pow
        | Max | Min | And | Or | Select | Fma | FoldKey | Uniform => None,
    }
}
