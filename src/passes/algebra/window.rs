//! Gradients of the largest values of windows that tile an array: each element but one of a window gets zero.
//!
//! What such a window took from a rectifier, it took rectified: whether it was positive is asked of the window's value, so that neither the array nor
//! what became of it is read again. And a sum over all elements is the sum over all windows.

use crate::ir::*;
use crate::passes::algebra::scalar::zero;
use crate::passes::rebuild::{keep, tidy_node};

/// An element gets `value` if the window at `at` has its extremum `from` there, which is at `position` of the window; else `none`.
struct Spread<'a> {
    position: &'a Affine,
    from: Value,
    at: Vec<Affine>,
    value: &'a Expr,
    none: &'a Expr,
}

fn affine(index: &[Index]) -> Option<Vec<Affine>> {
    index
        .iter()
        .map(|i| match i {
            Index::Affine(a) => Some(a.clone()),
            Index::Gather(_) => None,
        })
        .collect()
}

fn spread<'a>(operands: &[Value], e: &'a Expr) -> Option<Spread<'a>> {
    let Expr::Op(ScalarOp::Select, args) = e else { return None };
    let [Expr::Op(ScalarOp::Eq, sides), value, none] = args.as_slice() else { return None };
    let [Expr::Index(position), Expr::Load { operand, index, otherwise: None }] = sides.as_slice() else { return None };
    let from = operands[*operand];
    (from.result == 1 && zero(none)).then_some(Spread { position, from, at: affine(index)?, value, none })
}

/// The map that a node is, without guards.
fn map(node: &Node) -> Option<(&[Size], &Expr)> {
    match &node.op {
        Op::Nest(Nest { outs, guards, fold: Fold::None, body, .. }) if guards.is_empty() => Some((outs, body)),
        _ => None,
    }
}

/// The fold that finds the extremum.
fn extremum(f: &Function, from: Value) -> Option<(&Node, &Nest)> {
    let node = f.node(from.node);
    match &node.op {
        Op::Nest(nest) if matches!(nest.fold, Fold::ArgMax | Fold::ArgMin) && nest.guards.is_empty() => Some((node, nest)),
        _ => None,
    }
}

/// The index without remainders: `mod(e, n)` is `e - n*div(e, n)`.
fn plain(a: &Affine) -> Affine {
    let start = Affine { terms: vec![], constant: a.constant.clone() };
    a.terms.iter().fold(start, |sum, (atom, c)| {
        let value = match atom {
            IndexAtom::Var(v) => Affine::var(*v),
            IndexAtom::Div(e, n) => plain(e).div(n),
            IndexAtom::Mod(e, n) => remainder(&plain(e), n),
        };
        sum.add(&value.scale(c))
    })
}

fn remainder(e: &Affine, n: &Size) -> Affine {
    e.sub(&e.div(n).scale(n))
}

/// Whether an index without remainders is one by `n`.
fn is_remainder(a: &Affine, n: &Size) -> bool {
    a.terms.iter().any(|(atom, _)| matches!(atom, IndexAtom::Div(e, by) if by == n && remainder(e, n) == *a))
}

/// The position in a box of these sizes, the last varying fastest.
fn linear<'a>(places: impl Iterator<Item = (Affine, &'a Size)>) -> Affine {
    places.fold(Affine::default(), |sum, (at, size)| sum.scale(size).add(&at))
}

/// `select(x <= 0, 0, spread)` where the windows are those of `select(x <= 0, 0, x)`: the question is asked of each window's value, in a node
/// of its own, and spread.
pub fn rectified(f: &mut Function, node: &Node) -> Option<Node> {
    let (_, Expr::Op(ScalarOp::Select, args)) = map(node)? else { return None };
    let [Expr::Op(ScalarOp::Le, sides), none, inner] = args.as_slice() else { return None };
    let [Expr::Load { operand, index: element, otherwise: None }, nothing] = sides.as_slice() else { return None };
    let spread = spread(&node.operands, inner)?;
    let (window, nest) = extremum(f, spread.from)?;
    let (rest, outs) = (affine(element)?, nest.outs.len());
    // The window's own question is the same one.
    let Expr::Op(ScalarOp::Select, own) = &nest.body else { return None };
    let [Expr::Op(ScalarOp::Le, asked), floor, taken @ Expr::Load { operand: from, index, otherwise: None }] = own.as_slice() else { return None };
    let same = asked[0] == *taken && asked[1] == *nothing && window.operands[*from] == node.operands[*operand];
    if !same || !zero(nothing) || !zero(floor) || none != spread.none {
        return None;
    }
    // The place in its window of the element, from each axis that has one.
    let mut places: Vec<Option<Affine>> = vec![None; nest.reds.len()];
    for (read, element) in affine(index)?.iter().zip(&rest) {
        let corner = read.substitute(&|v| if v < outs { spread.at[v].clone() } else { Affine::default() });
        let place = plain(&element.sub(&corner));
        let taps: Vec<Var> = (outs..nest.rank()).filter(|v| read.terms.iter().any(|(atom, _)| *atom == IndexAtom::Var(*v))).collect();
        match taps.as_slice() {
            [] if place == Affine::default() => {}
            [tap] if *read == read.substitute(&|v| if v == *tap { Affine::default() } else { Affine::var(v) }).add(&Affine::var(*tap)) => {
                let known = is_remainder(&place, &nest.reds[tap - outs]) && places[tap - outs].is_none();
                places[tap - outs] = Some(known.then_some(place)?);
            }
            _ => return None,
        }
    }
    let places = places.into_iter().collect::<Option<Vec<Affine>>>()?;
    if linear(places.into_iter().zip(&nest.reds)) != plain(spread.position) {
        return None;
    }
    // The value at the window, where it is the same for all of its elements.
    let mut fits = true;
    let value = spread.value.map(&mut |e| match e {
        Expr::Load { operand, index, otherwise: None } => {
            let shape = &f.ty(node.operands[operand]).shape;
            let index = index.iter().zip(shape).map(|(i, size)| match i {
                Index::Affine(a) if a.terms.is_empty() => i.clone(),
                Index::Affine(a) => match (0..outs).find(|v| spread.at[*v] == *a && nest.outs[*v] == *size) {
                    Some(v) => Index::Affine(Affine::var(v)),
                    None => {
                        fits = false;
                        i.clone()
                    }
                },
                Index::Gather(_) => {
                    fits = false;
                    i.clone()
                }
            });
            Expr::Load { operand, index: index.collect(), otherwise: None }
        }
        Expr::Load { .. } | Expr::Index(_) | Expr::Holds(_) => {
            fits = false;
            e
        }
        Expr::Const(_) | Expr::Op(..) | Expr::Cast(..) => e,
    });
    if !fits {
        return None;
    }
    let shape = nest.outs.clone();
    let best = Value { result: 0, ..spread.from };
    let none = none.clone();
    let positive = Expr::op(ScalarOp::Le, [load_at(node.operands.len(), 0..outs), nothing.clone()]);
    let body = Expr::op(ScalarOp::Select, [positive, none.clone(), value]);
    let operands = node.operands.iter().copied().chain([best]).collect();
    let types = vec![Type::new(node.types[0].dtype, shape.clone())];
    let mut gate = Node { op: Op::Nest(Nest::map(shape, body)), operands, types, name: node.name.clone(), span: node.span };
    tidy_node(&mut gate);
    let (Expr::Op(_, parts), index) = (inner, spread.at.iter().cloned().map(Index::Affine).collect()) else { return None };
    let spread_value = Expr::Load { operand: node.operands.len(), index, otherwise: None };
    let body = Expr::op(ScalarOp::Select, [parts[0].clone(), spread_value, none]);
    let mut new = node.clone();
    new.operands.extend(keep(f, gate));
    if let Op::Nest(nest) = &mut new.op {
        nest.body = body;
    }
    tidy_node(&mut new);
    Some(new)
}

/// A sum over all elements of what was spread, as the sum over all windows of what was spread from them.
pub fn summed(f: &Function, node: &Node) -> Option<Node> {
    let Op::Nest(Nest { outs, reds, guards, fold: Fold::Sum, body: Expr::Load { operand, index, otherwise: None } }) = &node.op else { return None };
    let producer = f.node(node.operands[*operand].node);
    let (shape, body) = map(producer)?;
    let spread = spread(&producer.operands, body)?;
    let Expr::Load { operand: value, index: at, otherwise: None } = spread.value else { return None };
    let (_, window) = extremum(f, spread.from)?;
    if !guards.is_empty() || affine(at)? != spread.at || spread.at.len() != shape.len() {
        return None;
    }
    let mut vars: Vec<Var> = affine(index)?.iter().map(Affine::as_var).collect::<Option<_>>()?;
    let mut sizes = reds.clone();
    let mut places: Vec<(Affine, Size)> = vec![];
    for (axis, at) in spread.at.iter().enumerate() {
        match at.terms.as_slice() {
            _ if at.as_var() == Some(axis) => {}
            [(IndexAtom::Div(e, n), _)] if e.as_var() == Some(axis) && *at == Affine::var(axis).div(n) => {
                // Whole windows of what is summed, over a variable of its own.
                let red = vars[axis].checked_sub(outs.len())?;
                let whole = window.outs[axis].checked_mul(n).is_some_and(|size| size == shape[axis]);
                if !whole || reds[red] != shape[axis] || vars.iter().filter(|v| **v == vars[axis]).count() != 1 {
                    return None;
                }
                sizes[red] = window.outs[axis].clone();
                places.push((remainder(&Affine::var(axis), n), n.clone()));
            }
            _ => return None,
        }
    }
    // A window has as many points as elements.
    let sizes_of: Vec<&Size> = places.iter().map(|(_, n)| n).collect();
    let all = |sizes: &[&Size]| sizes.iter().try_fold(Size::constant(1), |n, size| n.checked_mul(size));
    let points = all(&sizes_of);
    if points.is_none()
        || points != all(&window.reds.iter().collect::<Vec<_>>())
        || linear(places.iter().map(|(at, n)| (at.clone(), n))) != plain(spread.position)
    {
        return None;
    }
    let index = vars.drain(..).map(|v| Index::Affine(Affine::var(v))).collect();
    let mut new = node.clone();
    new.operands = vec![producer.operands[*value]];
    if let Op::Nest(nest) = &mut new.op {
        nest.reds = sizes;
        nest.body = Expr::Load { operand: 0, index, otherwise: None };
    }
    Some(new)
}
