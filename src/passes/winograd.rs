//! Which convolutions are computed in squares of 2x2 results ([`Fold::Winograd`]), and which gradients of their weights over such squares
//! ([`Fold::WinogradWeights`]). Not to the bit, so it is part of what defines a program; decided
//! where nothing is rewritten any more.
//!
//! A sum of products over channels and a 3x3 window that moves by one point costs 36 products a square, or 16 and the transforms, which are shared: those
//! of the image by all rows of the result, those of the weights by all its points. It pays where there are enough channels and rows, and images large
//! or many enough to fill panels with squares. The gradient of the weights shares what is transformed alike: the image by all rows of the result, its
//! gradient by all channels of the image.

use crate::ir::bounds::Ranges;
use crate::ir::window::{affine, is_winograd, is_winograd_weights, moves};
use crate::ir::*;
use crate::passes::rebuild::{each, keep, rebuild};
use nnc_runtime::manifest::Sink;

/// Channels and rows from which on the transforms are small beside the products.
const LEAST: i64 = 32;

/// Squares that an image must have to fill a panel more or less, and where it is one of a batch.
const PANEL: i64 = 32;
const BATCHED: i64 = 4;

/// In every function.
pub fn run(module: &Module) -> Module {
    let alone = alone(module);
    let mut alone = alone.into_iter();
    each(module, &mut |f| {
        let full = if alone.next().unwrap_or(true) { PANEL } else { BATCHED };
        rebuild(f, &mut |new, mut node| {
            if let Some(squares) = squares(module, new, &node).filter(|nest| pays(nest, full)) {
                node.op = Op::Nest(squares);
            }
            keep(new, node)
        })
    })
}

/// The functions that may run on one image: those which are not only part of entries that change tensors. Training runs on batches.
fn alone(module: &Module) -> Vec<bool> {
    let mut alone = vec![module.entries.is_empty(); module.functions.len()];
    let changes = |entry: &Entry| entry.results.iter().any(|sink| matches!(sink, Sink::Tensor(_)));
    module.entries.iter().filter(|entry| !changes(entry)).for_each(|entry| alone[entry.function.0 as usize] = true);
    // Callees come before callers.
    for n in (0..module.functions.len()).rev() {
        for node in &module.functions[n].nodes {
            if let (true, Op::Call(id) | Op::Scan(Scan { body: id, .. })) = (alone[n], &node.op) {
                alone[id.0 as usize] = true;
            }
        }
    }
    alone
}

/// The node in squares, where it is a convolution that can be computed so, or the gradient of one's weights.
pub fn squares(module: &Module, f: &Function, node: &Node) -> Option<Nest> {
    let Op::Nest(nest) = &node.op else { return None };
    let (outs, rank) = (nest.outs.len(), nest.rank());
    let Expr::Op(ScalarOp::Mul, factors) = &nest.body else { return None };
    if nest.fold != Fold::Dot || outs < 3 || rank != outs + 3 {
        return None;
    }
    let knows_place = |e: &Expr| {
        let mut knows = false;
        if let Expr::Load { index, .. } = e
            && let Some(index) = affine(index)
        {
            index.iter().for_each(|a| a.visit_vars(&mut |v| knows |= v + 1 == outs));
        }
        knows
    };
    // The last of the results' indices, that of a point or of a tap, only the image knows.
    let (image, other) = match &factors[..] {
        [a, b] if knows_place(a) && !knows_place(b) => (a, b),
        [a, b] if knows_place(b) && !knows_place(a) => (b, a),
        _ => return None,
    };
    let (Expr::Load { operand, index: image, otherwise }, Expr::Load { operand: of, index: other, otherwise: None }) = (image, other) else {
        return None;
    };
    let (mut image, mut other) = (affine(image)?, affine(other)?);
    if otherwise.is_some_and(|zero| zero.bits() != 0) {
        return None;
    }
    // Weights lie as windows, of one number each or nine.
    let fold = match &other[..] {
        [.., r, s] if r.as_var() == Some(rank - 2) && s.as_var() == Some(rank - 1) && nest.reds[1..].iter().all(|n| n.as_const() == Some(3)) => {
            Fold::Winograd
        }
        _ => Fold::WinogradWeights,
    };
    // A window that is read backwards is one of weights that are.
    for back in [2, 1] {
        if fold == Fold::Winograd && moves(&image, outs - back, rank - back).is_none() {
            let turned = Affine::constant(2).sub(&Affine::var(rank - back));
            let of = |v: Var| if v == rank - back { turned.clone() } else { Affine::var(v) };
            image.iter_mut().chain(&mut other).for_each(|a| *a = a.substitute(&of));
        }
    }
    let (y, x) = (moves(&image, outs - 2, rank - 2)?.0, moves(&image, outs - 1, rank - 1)?.0);
    let sizes: Vec<Size> = nest.outs.iter().chain(&nest.reds).cloned().collect();
    let ranges = Ranges { dims: &module.dims, sizes: &sizes };
    let axes = image.iter().zip(&f.ty(node.operands[*operand]).shape).enumerate();
    if !axes.filter(|(axis, _)| *axis != y && *axis != x).all(|(_, (a, size))| ranges.inside(a, size)) {
        return None;
    }
    let load =
        |operand: usize, index: Vec<Affine>, otherwise| Expr::Load { operand, index: index.into_iter().map(Index::Affine).collect(), otherwise };
    // Squares at the edge reach a point further.
    let image = load(*operand, image, Some(Scalar::float(node.types[0].dtype, 0.0)));
    let squares = Nest { fold, body: Expr::op(ScalarOp::Mul, [load(*of, other, None), image]), ..nest.clone() };
    (is_winograd(&squares) || is_winograd_weights(&squares)).then_some(squares)
}

/// Whether that is faster, where images of so many squares fill panels.
fn pays(nest: &Nest, full: i64) -> bool {
    let known = |size: &Size| size.as_const().unwrap_or(i64::MAX);
    let Expr::Op(_, factors) = &nest.body else { return false };
    let [other, image] = [0, 1].map(|n| {
        let mut knows = vec![false; nest.rank()];
        if let Expr::Load { index, .. } = &factors[n] {
            affine(index).into_iter().flatten().for_each(|a| a.visit_vars(&mut |v| knows[v] = true));
        }
        knows
    });
    let extent =
        |such: &dyn Fn(usize) -> bool| (0..nest.outs.len() - 2).filter(|v| such(*v)).fold(1i64, |n, v| n.saturating_mul(known(&nest.outs[v])));
    let rows = extent(&|v| other[v]);
    // Squares are of results or, of the weights' gradient, of what is summed up; what image and weights share is the other way round.
    let (points, shared) = match nest.fold {
        Fold::WinogradWeights => (&nest.reds[1..], extent(&|v| image[v])),
        _ => (&nest.outs[nest.outs.len() - 2..], known(&nest.reds[0])),
    };
    let squares = points.iter().fold(1i64, |n, size| n.saturating_mul((known(size) + 1) / 2));
    shared >= LEAST && rows >= LEAST && squares >= full
}
