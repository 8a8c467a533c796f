//! Which convolutions are computed in squares of 2x2 results ([`Fold::Winograd`]), and which gradients of their weights over such squares
//! ([`Fold::WinogradWeights`]) or in lanes along lines of points ([`Fold::DotLines`]). Not to the bit, so it is part of what defines a program; decided
//! where nothing is rewritten any more.
//!
//! A sum of products over channels and a 3x3 window that moves by one point costs 36 products a square, or 16 and the transforms, which are shared: those
//! of the image by all rows of the result, those of the weights by all its points. It pays where there are enough channels and rows, and images large
//! or many enough to fill panels with squares. The gradient of the weights shares what is transformed alike: the image by all rows of the result, its
//! gradient by all channels of the image.
//!
//! Lanes along lines turn nothing, where a product turns the image's windows into its panels. That pays where few rows share what is turned, or few windows
//! are all that each line of the gradient is read for.

use crate::ir::bounds::{Ranges, nonnegative};
use crate::ir::window::{affine, is_dot_lines, is_winograd, is_winograd_weights, moves};
use crate::ir::*;
use crate::math::lines::{LANES, LINES};
use crate::passes::rebuild::{each, keep, rebuild};
use nnc_runtime::manifest::Sink;

/// Channels of the image, and of the results, from which on squares are faster. With one or two channels they are not tried: such images are mostly grey,
/// with much that is exactly zero and should stay so.
const RESULTS: [i64; 2] = [3, 3];
/// The same for gradients of weights. They are faster from 8 and 16 on, but what is exactly zero, as where an image is empty, becomes what its neighbours
/// round: of few channels that took Adam, which divides by a gradient's size, a thousandth away from PyTorch's losses in a hundred steps.
const WEIGHTS: [i64; 2] = [32, 32];
/// Channels of the image where only a bound of their dim is known: then no code is written that keeps the sums of few in registers.
const BOUNDED: i64 = 8;

/// Results, and vectors of a block's points, from which on gradients of weights are faster in lanes along lines.
const ROWS: i64 = 3;
const STEPS: i64 = 16;
/// Rows, or windows, up to which they are.
const FEW: i64 = 32;

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
            let squares = squares(module, new, &node).filter(|nest| pays(module, nest, full));
            if let Some(nest) = squares.or_else(|| lines(module, new, &node).filter(|nest| pays_along_lines(module, nest))) {
                node.op = Op::Nest(nest);
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
    windowed(module, f, node).filter(|nest| is_winograd(nest) || is_winograd_weights(nest))
}

/// The node in lanes along lines, where it is the gradient of a convolution's weights.
pub fn lines(module: &Module, f: &Function, node: &Node) -> Option<Nest> {
    let nest = Nest { fold: Fold::DotLines, ..windowed(module, f, node)? };
    is_dot_lines(&nest).then_some(nest)
}

/// The node as such a nest, if its windows are what they must be.
fn windowed(module: &Module, f: &Function, node: &Node) -> Option<Nest> {
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
    Some(Nest { fold, body: Expr::op(ScalarOp::Mul, [load(*of, other, None), image]), ..nest.clone() })
}

/// The variables that the factor of a nest over windows knows.
fn known(nest: &Nest, factor: usize) -> Vec<bool> {
    let mut known = vec![false; nest.rank()];
    if let Expr::Op(_, factors) = &nest.body
        && let Expr::Load { index, .. } = &factors[factor]
    {
        affine(index).into_iter().flatten().for_each(|a| a.visit_vars(&mut |v| known[v] = true));
    }
    known
}

/// Whether lanes along lines are faster.
fn pays_along_lines(module: &Module, nest: &Nest) -> bool {
    let [gradient, image] = [0, 1].map(|n| known(nest, n));
    // What only one of both knows: rows of the product, and its columns.
    let [rows, windows] = [(&gradient, &image), (&image, &gradient)].map(|(own, other)| {
        let own = (0..nest.outs.len()).filter(|v| own[*v] && !other[*v]).map(|v| &nest.outs[v]);
        own.fold(Size::constant(1), |n, size| n.checked_mul(size).unwrap_or(Size::constant(i64::MAX)))
    });
    let enough = nonnegative(&module.dims, &(&rows - &Size::constant(ROWS)));
    let few = [rows, windows].iter().any(|n| n.as_const().is_some_and(|n| n <= FEW));
    let [height, width] = [1, 2].map(|n| nest.reds[n].as_const());
    let vectors = |n: i64| (n + LANES - 1) / LANES;
    let filled = width.is_none_or(|n| 4 * n >= 3 * LANES * vectors(n));
    let long = width.zip(height).is_none_or(|(width, height)| vectors(width) * height.min(LINES) >= STEPS);
    enough && few && filled && long
}

/// Whether that is faster, where images of so many squares fill panels. Images of a size known at run time only are taken to be large enough; channels
/// count where the bounds of dims say that there are so many.
fn pays(module: &Module, nest: &Nest, full: i64) -> bool {
    let [other, image] = [0, 1].map(|n| known(nest, n));
    // Along what only one of both knows: groups are products of their own.
    let extent = |one: &[bool], both: &[bool]| {
        let own = (0..nest.outs.len() - 2).filter(|v| one[*v] && !both[*v]);
        own.fold(Size::constant(1), |n, v| n.checked_mul(&nest.outs[v]).unwrap_or(Size::constant(i64::MAX)))
    };
    // Squares are of results or, of the weights' gradient, of what is summed up; what image and weights share is the other way round.
    let (points, shared, least) = match nest.fold {
        Fold::WinogradWeights => (&nest.reds[1..], extent(&image, &other), WEIGHTS),
        _ => {
            let channels = if nest.reds[0].as_const().is_some() { RESULTS[0] } else { BOUNDED };
            (&nest.outs[nest.outs.len() - 2..], nest.reds[0].clone(), [channels, RESULTS[1]])
        }
    };
    let enough = |size: Size, least: i64| nonnegative(&module.dims, &(&size - &Size::constant(least)));
    let squares = points.iter().map(|size| size.as_const().map_or(i64::MAX, |n| (n + 1) / 2)).fold(1, i64::saturating_mul);
    enough(shared, least[0]) && enough(extent(&other, &image), least[1]) && squares >= full
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{parse, print};

    /// Images of a size that is known at run time only are in squares, channels only where dims bound them.
    #[test]
    fn sizes_decide() {
        for (dims, channels, size, training, expected) in [
            ("B >= 1", "8", "16", false, true),
            ("B >= 1", "8", "8", false, false),
            ("B >= 1", "8", "8", true, true),
            ("B >= 1", "3", "16", false, true),
            ("B >= 1", "2", "16", false, false),
            ("H >= 1", "8", "H", false, true),
            ("C >= 8", "C", "16", false, true),
            ("C >= 7", "C", "16", false, false),
        ] {
            let text = format!(
                "dim {dims}\n\nfn @f(x: f32[4, {channels}, {size}, {size}], w: f32[32, {channels}, 3, 3]) {{
  %y[b, o, i, j]: f32[4, 32, {size}, {size}] = dot[c < {channels}, r < 3, s < 3](%w[o, c, r, s] * %x[b, c, i + r - 1, j + s - 1, else 0.0])
  return %y
}}
"
            );
            let mut module = parse::module(&text).unwrap();
            let sink = if training { Sink::Tensor("y".into()) } else { Sink::Result("y".into()) };
            module.entries = vec![Entry { name: "infer:test".into(), function: FunctionId(0), inputs: vec![], results: vec![sink] }];
            let text = print::module(&run(&module));
            assert_eq!(text.contains("winograd["), expected, "{text}");
        }
    }

    /// Gradients of weights need many channels and results: few would make steps of what zeros round to.
    #[test]
    fn gradients_of_few_weights_are_exact_where_zero() {
        for (channels, results, expected) in [(32, 32, true), (31, 32, false), (32, 31, false)] {
            let text = format!(
                "fn @f(x: f32[4, {channels}, 16, 16], d: f32[4, {results}, 16, 16]) {{
  %g[o, c, r, s]: f32[{results}, {channels}, 3, 3] = dot[b < 4, i < 16, j < 16](%d[b, o, i, j] * %x[b, c, i + r - 1, j + s - 1, else 0.0])
  return %g
}}
"
            );
            let text = print::module(&run(&parse::module(&text).unwrap()));
            assert_eq!(text.contains("winograd_weights["), expected, "{text}");
        }
    }

    /// Lines pay for few windows or few rows, where they fill vectors and are many.
    #[test]
    fn few_windows_or_rows_are_along_lines() {
        for (channels, results, size, expected) in [
            (3, 64, 32, true),
            (1, 8, 28, true),
            (16, 32, 32, true),
            (16, 64, 32, false),
            (4, 64, 32, false),
            (3, 2, 32, false),
            (3, 64, 20, false),
            (3, 64, 8, false),
        ] {
            let text = format!(
                "fn @f(x: f32[4, {channels}, {size}, {size}], d: f32[4, {results}, {size}, {size}]) {{
  %g[o, c, r, s]: f32[{results}, {channels}, 3, 3] = dot[b < 4, i < {size}, j < {size}](%d[b, o, i, j] * %x[b, c, i + r - 1, j + s - 1, else 0.0])
  return %g
}}
"
            );
            let text = print::module(&run(&parse::module(&text).unwrap()));
            assert_eq!(text.contains("dot_lines["), expected, "{text}");
        }
    }
}
