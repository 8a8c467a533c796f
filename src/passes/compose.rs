//! Reads through maps: a load of a map nest becomes the map's own expression at that place, so that the value between need not be stored.
//!
//! Bits stay: the same operations happen on the same values, and folds keep their boxes. A map is read through where that costs nothing (the
//! consumer visits each of its points once) or little (a few cheap operations), and the load is proved in bounds or says what it gives outside.
//! Into the factors of a dot go loads only, so that contractions keep seeing plain operands. What a dot is followed by at its own points (bias,
//! activation) stays with it, where it costs nothing, and is read from there.

use crate::ir::bounds::Ranges;
use crate::ir::*;
use crate::passes::drop_dead;
use crate::passes::rebuild::{each, keep, map_exprs, ranges, rebuild, tidy_node, visit_exprs};

/// Expressions do not grow over this many parts.
const LARGEST: usize = 96;
/// What may be computed again at every point of the consumer.
const CHEAP: usize = 2;

/// What a formula may compute again for the sake of its form: a factor with two divisions.
const SCALING: usize = 6;

/// A function as a series of operations; in formulas its value keeps a name that it has.
const SERIES: usize = 12;

/// What may be read through.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// What is free or cheap; into a dot loads only.
    Cheap,
    /// What is free, formulas without loads, and scale factors used once (but those not into dots).
    Formulas,
}

/// Composes in every function.
pub fn run(module: &Module) -> Module {
    with(module, Policy::Cheap)
}

/// Composes by this policy.
pub fn with(module: &Module, policy: Policy) -> Module {
    // Only living uses count.
    let mut module = module.clone();
    drop_dead::nodes_of(&mut module);
    let module = &module;
    each(module, &mut |f| {
        let uses = uses(f);
        let mut names: Vec<usize> = Vec::new();
        rebuild(f, &mut |new, node| {
            // How often each new node is used is known from the old one it came from.
            let old = names.len();
            names.push(uses[old]);
            let values = self::node(module, new, node, &names, policy);
            debug_assert_eq!(new.nodes.len(), names.len());
            values
        })
    })
}

/// How many loads and other uses each node has.
fn uses(f: &Function) -> Vec<usize> {
    let mut uses = vec![0; f.nodes.len()];
    for node in &f.nodes {
        match &node.op {
            Op::Nest(_) | Op::Scatter(_) => {
                visit_exprs(&node.op, &mut |e| {
                    if let Expr::Load { operand, .. } = e {
                        uses[node.operands[*operand].node.0 as usize] += 1;
                    }
                });
                if matches!(node.op, Op::Scatter(_)) {
                    uses[node.operands[0].node.0 as usize] += 1;
                }
            }
            _ => node.operands.iter().for_each(|v| uses[v.node.0 as usize] += 1),
        }
    }
    f.results.iter().for_each(|(_, v)| uses[v.node.0 as usize] += 1);
    uses
}

fn node(module: &Module, f: &mut Function, mut node: Node, uses: &[usize], policy: Policy) -> Vec<Value> {
    let sizes = ranges(&node.op);
    let ranges = Ranges { dims: &module.dims, sizes: &sizes };
    let dot = matches!(&node.op, Op::Nest(Nest { fold: Fold::Dot, .. }));
    let map = match &node.op {
        Op::Nest(Nest { fold: Fold::None, outs, .. }) => Some(outs.clone()),
        _ => None,
    };
    // A producer may itself read a map: a few rounds reach the loads that stay.
    for _ in 0..4 {
        let mut size = 0;
        visit_exprs(&node.op, &mut |_| size += 1);
        let mut operands = node.operands.clone();
        let mut changed = false;
        map_exprs(&mut node.op, &mut |e| {
            let Expr::Load { operand, index, otherwise } = &e else { return e };
            let value = operands[*operand];
            let joins = uses[value.node.0 as usize] == 1 && map.as_ref() == Some(&f.ty(value).shape) && own_point(index);
            if policy == Policy::Cheap && !joins && is_epilogue(f, value) {
                return e;
            }
            let read = read_through(f, value, index, *otherwise, &ranges, &|body| {
                let weight = weight(body);
                let free = uses[value.node.0 as usize] == 1 && visits_once(index, sizes.len());
                match policy {
                    Policy::Cheap if dot => matches!(body, Expr::Load { .. }) && otherwise.is_none(),
                    Policy::Cheap => free || weight <= CHEAP,
                    Policy::Formulas if weight >= SERIES && f.node(value.node).name.is_some() => false,
                    Policy::Formulas => free || !loads(body) || (!dot && uses[value.node.0 as usize] == 1 && weight <= SCALING),
                }
            });
            let Some((body, from)) = read else { return e };
            let mut parts = 0;
            body.visit(&mut |_| parts += 1);
            if size + parts > LARGEST {
                return e;
            }
            size += parts;
            changed = true;
            let first = operands.len();
            operands.extend(from);
            body.renumber(&|k| first + k)
        });
        node.operands = operands;
        if !changed {
            break;
        }
    }
    tidy_node(&mut node);
    keep(f, node)
}

/// The expression of the map that `value` is, at `index`, and that map's operands.
fn read_through(
    f: &Function,
    value: Value,
    index: &[Index],
    otherwise: Option<Scalar>,
    ranges: &Ranges,
    worth: &dyn Fn(&Expr) -> bool,
) -> Option<(Expr, Vec<Value>)> {
    let producer = f.node(value.node);
    let at: Option<Vec<&Affine>> = index
        .iter()
        .map(|i| match i {
            Index::Affine(a) => Some(a),
            Index::Gather(_) => None,
        })
        .collect();
    let at = at?;
    if producer.op == Op::Reshape {
        return reshaped(f, producer, &at, otherwise, ranges);
    }
    let Op::Nest(Nest { fold: Fold::None, outs, guards, body, .. }) = &producer.op else { return None };
    let inside = at.iter().zip(outs).all(|(a, size)| ranges.inside(a, size));
    if (!inside && otherwise.is_none()) || !worth(body) {
        return None;
    }
    let of = |v: Var| at[v].clone();
    let zero = Scalar::float(producer.types[0].dtype, 0.0);
    let mut read = body.substitute(&of);
    if !guards.is_empty() {
        let holds = Expr::Holds(guards.iter().map(|g| g.substitute(&of)).collect());
        read = Expr::op(ScalarOp::Select, [holds, read, Expr::Const(zero)]);
    }
    if let (false, Some(outside)) = (inside, otherwise) {
        let mut bounds = Vec::new();
        for (a, size) in at.iter().zip(outs) {
            bounds.push(Guard { expr: (*a).clone(), relation: Relation::NonNegative });
            bounds.push(Guard::lt(a, &Affine::constant(size.clone())));
        }
        read = Expr::op(ScalarOp::Select, [Expr::Holds(bounds), read, Expr::Const(outside)]);
    }
    Some((read, producer.operands.clone()))
}

/// A load of a reshape as a load of what was reshaped, where its indices come out without divisions.
fn reshaped(f: &Function, producer: &Node, at: &[&Affine], otherwise: Option<Scalar>, ranges: &Ranges) -> Option<(Expr, Vec<Value>)> {
    let new = &producer.types[0].shape;
    let old = &f.ty(producer.operands[0]).shape;
    // Axes of size 1 come and go; a load that may be outside stays outside.
    let one = |size: &Size| size.as_const() == Some(1);
    if old.iter().filter(|s| !one(s)).eq(new.iter().filter(|s| !one(s))) {
        let (inner, outer): (Vec<_>, Vec<_>) = at.iter().zip(new).partition(|(_, size)| !one(size));
        if outer.iter().all(|(a, size)| ranges.inside(a, size)) {
            let mut inner = inner.into_iter();
            let mut next = || inner.next().map(|(a, _)| (*a).clone()).unwrap_or_default();
            let index = old.iter().map(|size| Index::Affine(if one(size) { Affine::default() } else { next() }));
            return Some((Expr::Load { operand: 0, index: index.collect(), otherwise }, producer.operands.clone()));
        }
    }
    if !at.iter().zip(new).all(|(a, size)| ranges.inside(a, size)) || otherwise.is_some() {
        return None;
    }
    let linear = at.iter().zip(new).fold(Affine::default(), |sum, (a, size)| sum.scale(size).add(a));
    let mut rest = linear;
    let mut index = Vec::new();
    for (axis, size) in old.iter().enumerate().rev() {
        index.push(if axis == 0 { rest.clone() } else { ranges.simplify(&rest.modulo(size)) });
        rest = ranges.simplify(&rest.div(size));
    }
    index.reverse();
    let plain = |a: &Affine| a.terms.iter().all(|(atom, _)| matches!(atom, IndexAtom::Var(_)));
    if !index.iter().all(plain) {
        return None;
    }
    let index = index.into_iter().map(Index::Affine).collect();
    Some((Expr::Load { operand: 0, index, otherwise: None }, producer.operands.clone()))
}

/// Whether the value is a map that reads a dot at its own points, directly or through another such map.
fn is_epilogue(f: &Function, value: Value) -> bool {
    let node = f.node(value.node);
    let Op::Nest(Nest { fold: Fold::None, outs, body, .. }) = &node.op else { return false };
    let mut found = false;
    body.visit(&mut |e| {
        if let Expr::Load { operand, index, .. } = e
            && !found
            && own_point(index)
            && f.ty(node.operands[*operand]).shape == *outs
        {
            let from = node.operands[*operand];
            found = matches!(&f.node(from.node).op, Op::Nest(Nest { fold: Fold::Dot, .. })) || is_epilogue(f, from);
        }
    });
    found
}

fn own_point(index: &[Index]) -> bool {
    index.iter().enumerate().all(|(k, i)| matches!(i, Index::Affine(a) if a.as_var() == Some(k)))
}

/// Whether a box of `rank` variables goes over each index at most once: every variable takes part.
fn visits_once(index: &[Index], rank: usize) -> bool {
    let mut seen = vec![false; rank];
    for i in index {
        if let Index::Affine(a) = i
            && let Some(v) = a.as_var()
        {
            seen[v] = true;
        }
    }
    seen.into_iter().all(|s| s)
}

/// Whether the expression reads a tensor.
pub fn loads(e: &Expr) -> bool {
    let mut found = false;
    e.visit(&mut |e| found |= matches!(e, Expr::Load { .. }));
    found
}

/// Rough cost: 1 an operation, more where it is a series.
fn weight(e: &Expr) -> usize {
    let mut sum = 0;
    e.visit(&mut |e| {
        use ScalarOp::*;
        sum += match e {
            Expr::Op(op, _) => match op {
                Exp | Expm1 | Log | Log1p | Sin | Cos | Atan | Tanh | Sigmoid | Erf | Pow | Mod | FloorDiv | FoldKey | Uniform => SERIES,
                Div | Sqrt => 3,
                Neg | Abs | Sign | Floor | Ceil | Round | Not | Add | Sub | Mul | Max | Min | And | Or | Eq | Ne | Lt | Le | Select | Fma => 1,
            },
            Expr::Load { index, .. } if index.iter().any(|i| matches!(i, Index::Gather(_))) => 3,
            Expr::Const(_) | Expr::Load { .. } | Expr::Index(_) | Expr::Holds(_) | Expr::Cast(..) => 0,
        };
    });
    sum
}
