//! `nest`, the tensor comprehension: a box of output and reduction indices, guards, one scalar expression, one fold at the root.

use crate::ir::index::{Affine, Guard, Index};
use crate::ir::scalar::{DType, Expr, Scalar, ScalarOp};
use crate::ir::size::Size;

/// For every point of `outs`: the fold, over the points of `reds` where all guards hold, of `body`.
///
/// Variables 0..outs.len() are the output indices, the next ones the reduction indices. Without a fold `reds` is empty and a point where a
/// guard fails is zero. The body's type is the result's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nest {
    /// The result's shape.
    pub outs: Vec<Size>,
    /// The reduction box; folded in lexical order, last index fastest.
    pub reds: Vec<Size>,
    /// Points that take part.
    pub guards: Vec<Guard>,
    /// How the points of `reds` become one value.
    pub fold: Fold,
    /// The value at a point.
    pub body: Expr,
}

/// Folds and their numeric order, which no pass and no schedule may change. `k` is the linear position in the reduction box.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fold {
    /// No reduction.
    None,
    /// Sum over 16 lanes: lane `k mod 16` adds in increasing `k` from +0; then lanes `l` and `l+8` are added, then `l+4`, `l+2`, `l+1`.
    Sum,
    /// Sum of products: the body is `Mul(a, b)`; one chain `acc = fma(a, b, acc)` from +0 in increasing `k` within each leaf of 256 consecutive
    /// `k`; leaves added in order from the first. Points that a guard leaves out keep their `k`.
    Dot,
    /// Sum of products of weights and the window of an image, in squares of 2x2 points of the last two output indices: [`crate::math::winograd`].
    ///
    /// The body is `Mul(weights, image)` of two loads. Of three reduction indices the last two are the window's, both of 3 points; the weights do not
    /// know the last two output indices, the image's index moves with each of these as with that of the window and is 0 outside (`otherwise`). At
    /// the square's first point: `U` of the weights, `V` of the image at 4x4 points of the window, `M = U * V` summed over the first reduction
    /// index as by `Dot`, each of the 16 sums for itself, and the results of `M`. With 4 points each the window's indices are those of `U`, which
    /// the weights already are.
    Winograd,
    /// Its transpose, the gradient of a window's weights: a sum of products of the gradient of results and the image that the window sees, in squares
    /// of 2x2 points of the last two reduction indices: [`crate::math::winograd::window`].
    ///
    /// The body is `Mul(gradient, image)` of two loads. The last two output indices are the window's, both of 3 points; of three reduction indices the
    /// last two are the points of the results. The gradient does not know the window's indices and is 0 beyond the box, the image's index moves with each
    /// of them as with that of the results and is 0 outside (`otherwise`).
    WinogradWeights,
    /// Sum of products of a window's weights' gradient, in lanes along lines of points: [`crate::math::lines`].
    ///
    /// The body is as [`Fold::WinogradWeights`] has it, with a window of any known size from 2 to 16 points along each axis.
    DotLines,
    /// Product, over 16 lanes from 1, joined as `Sum`'s.
    Prod,
    /// Largest; NaN if any is NaN; the empty fold is -inf (the least integer, false). Over 16 lanes from that value, joined as `Sum`'s
    /// (which shows in the sign of a zero only: of equals the later stays).
    Max,
    /// Smallest; NaN if any is NaN; the empty fold is +inf (the greatest integer, true). In lanes as `Max`.
    Min,
    /// Two results: the largest and the `k` of its first occurrence, i64 (NaN counts as largest; the empty fold has position 0).
    ArgMax,
    /// Two results: the smallest and the `k` of its first occurrence, i64 (NaN counts as smallest).
    ArgMin,
}

impl Fold {
    /// Every fold, as readers of printed graphs and kernels look for them.
    pub const ALL: [Fold; 11] = [
        Fold::None,
        Fold::Sum,
        Fold::Dot,
        Fold::Winograd,
        Fold::WinogradWeights,
        Fold::DotLines,
        Fold::Prod,
        Fold::Max,
        Fold::Min,
        Fold::ArgMax,
        Fold::ArgMin,
    ];

    /// The number of results.
    pub fn results(self) -> usize {
        match self {
            Fold::ArgMax | Fold::ArgMin => 2,
            Fold::None | Fold::Sum | Fold::Dot | Fold::Winograd | Fold::WinogradWeights | Fold::DotLines | Fold::Prod | Fold::Max | Fold::Min => 1,
        }
    }

    /// The word in printed graphs.
    pub fn name(self) -> &'static str {
        match self {
            Fold::None => "map",
            Fold::Sum => "sum",
            Fold::Dot => "dot",
            Fold::Winograd => "winograd",
            Fold::WinogradWeights => "winograd_weights",
            Fold::DotLines => "dot_lines",
            Fold::Prod => "prod",
            Fold::Max => "max",
            Fold::Min => "min",
            Fold::ArgMax => "argmax",
            Fold::ArgMin => "argmin",
        }
    }

    /// Whether the body is a product of two factors, which are summed up.
    pub fn multiplies(self) -> bool {
        self == Fold::Dot || self.is_windowed()
    }

    /// Whether it is over the windows of an image, as a whole.
    pub fn is_windowed(self) -> bool {
        matches!(self, Fold::Winograd | Fold::WinogradWeights | Fold::DotLines)
    }

    /// What it starts from, and the value of the empty fold.
    pub fn neutral(self, dtype: DType) -> Scalar {
        let extreme = |float: f64, int: i64, bool: bool| match dtype {
            DType::F32 | DType::F64 => Scalar::float(dtype, float),
            DType::I64 => Scalar::i64(int),
            DType::Bool => Scalar::bool(bool),
        };
        match self {
            Fold::None | Fold::Sum | Fold::Dot | Fold::Winograd | Fold::WinogradWeights | Fold::DotLines => Scalar::float(dtype, 0.0),
            Fold::Prod => Scalar::float(dtype, 1.0),
            Fold::Max | Fold::ArgMax => extreme(f64::NEG_INFINITY, i64::MIN, false),
            Fold::Min | Fold::ArgMin => extreme(f64::INFINITY, i64::MAX, true),
        }
    }

    /// The operation that joins two lanes.
    pub fn join(self) -> ScalarOp {
        match self {
            Fold::Prod => ScalarOp::Mul,
            Fold::Max => ScalarOp::Max,
            Fold::Min => ScalarOp::Min,
            Fold::None | Fold::Sum | Fold::Dot | Fold::Winograd | Fold::WinogradWeights | Fold::DotLines | Fold::ArgMax | Fold::ArgMin => {
                ScalarOp::Add
            }
        }
    }
}

impl Nest {
    /// Whether it multiplies and sums: what engines are made for.
    pub fn multiplies(&self) -> bool {
        self.fold.multiplies()
    }

    /// A map: `body` at every point of `outs`.
    pub fn map(outs: Vec<Size>, body: Expr) -> Nest {
        Nest { outs, reds: vec![], guards: vec![], fold: Fold::None, body }
    }

    /// A fold over `reds`.
    pub fn fold(outs: Vec<Size>, reds: Vec<Size>, fold: Fold, body: Expr) -> Nest {
        Nest { outs, reds, guards: vec![], fold, body }
    }

    /// The size of variable `v`.
    pub fn range(&self, v: usize) -> &Size {
        if v < self.outs.len() { &self.outs[v] } else { &self.reds[v - self.outs.len()] }
    }

    /// Output and reduction variables together.
    pub fn rank(&self) -> usize {
        self.outs.len() + self.reds.len()
    }
}

/// A load of operand `operand` at affine indices.
pub fn load(operand: usize, index: impl IntoIterator<Item = Affine>) -> Expr {
    Expr::Load { operand, index: index.into_iter().map(Index::Affine).collect(), otherwise: None }
}

/// A load of operand `operand` at the variables `vars`, in order.
pub fn load_at(operand: usize, vars: impl IntoIterator<Item = usize>) -> Expr {
    load(operand, vars.into_iter().map(Affine::var))
}

/// A float literal of `dtype`.
pub fn float(dtype: DType, x: f64) -> Expr {
    Expr::Const(Scalar::float(dtype, x))
}

/// Pieces written to disjoint strided boxes over a fill or a base: concat, pad, stride phases, slice update, cache append.
///
/// Operands: the base, if `base` is `Base::Operand`, then one tensor a piece (of the piece's shape), then the i64 scalars that
/// [`Start::Runtime`] counts from 0.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The result's shape.
    pub shape: Vec<Size>,
    /// What is there before the pieces.
    pub base: Base,
    /// Where each piece goes.
    pub pieces: Vec<Piece>,
}

/// What a `place` starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Base {
    /// The same value everywhere.
    Fill(Scalar),
    /// Operand 0, of the result's shape.
    Operand,
}

/// Element `i` of the piece goes to `start + i * stride`, axis by axis.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Piece {
    /// The piece's shape.
    pub shape: Vec<Size>,
    /// First position, an axis each.
    pub start: Vec<Start>,
    /// Step, an axis each, at least 1.
    pub stride: Vec<Size>,
}

impl Piece {
    /// Whether the two surely write a position both: along every axis they are the same, or of known sizes and meet.
    pub fn overlaps(&self, other: &Piece) -> bool {
        let axis = |p: &Piece, k: usize| (p.start[k].clone(), p.shape[k].clone(), p.stride[k].clone());
        (0..self.shape.len()).all(|k| {
            let (a, b) = (axis(self, k), axis(other, k));
            let none = |(_, n, _): &(Start, Size, Size)| n.as_const().is_some_and(|n| n < 1);
            !none(&a) && !none(&b) && (a == b || progression(&a).zip(progression(&b)).is_some_and(|(a, b)| meet(a, b)))
        })
    }
}

/// The largest step for which it is worked out whether pieces meet.
const LARGEST_STEP: i128 = 1 << 16;

/// First position, last position and step, where all are known.
fn progression((start, count, step): &(Start, Size, Size)) -> Option<(i128, i128, i128)> {
    let Start::Size(start) = start else { return None };
    let (start, count, step) = (start.as_const()? as i128, count.as_const()? as i128, step.as_const()? as i128);
    // One position needs no step.
    if count == 1 { Some((start, start, 1)) } else { (1..=LARGEST_STEP).contains(&step).then(|| (start, start + step * (count - 1), step)) }
}

/// Whether two arithmetic progressions have a number in common.
fn meet(a: (i128, i128, i128), b: (i128, i128, i128)) -> bool {
    let ((first, last, step), (other, end, by)) = if a.2 >= b.2 { (a, b) } else { (b, a) };
    // Remainders by the smaller step repeat after at most that many terms.
    let Some(common) = (0..by).map(|i| first + i * step).find(|x| (x - other).rem_euclid(by) == 0) else { return false };
    let Some(period) = (1..=by).map(|i| i * step).find(|n| n % by == 0) else { return false };
    // The first of the common numbers that both have begun with.
    let x = common + ((first.max(other) - common).max(0) + period - 1) / period * period;
    x <= last.min(end)
}

/// Where a piece starts along an axis.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Start {
    /// A formula in the dims.
    Size(Size),
    /// The run-time i64 scalar number `n` behind the pieces; clamped so that the piece fits.
    Runtime(usize),
}

/// Folds updates into a copy of the base: for every point of `points`, in lexical order (last index fastest), where the guards hold,
/// `out[index] = fold(out[index], value)`. Operand 0 is the base, of the result's shape and type; expressions load the others, numbered as usual from 0
/// (so a load of operand 1 is the first tensor after the base).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scatter {
    /// The result's shape.
    pub shape: Vec<Size>,
    /// The box of updates; its variables are 0..points.len().
    pub points: Vec<Size>,
    /// Updates that take part.
    pub guards: Vec<Guard>,
    /// Where each update goes; out of bounds is a run-time error.
    pub index: Vec<Index>,
    /// The update.
    pub value: Expr,
    /// How it joins what is there.
    pub fold: ScatterFold,
}

/// How a scatter's update joins what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ScatterFold {
    /// The last update stays.
    Replace,
    /// `old + new`
    Sum,
    /// `old * new`
    Prod,
    /// `maximum(old, new)`
    Max,
    /// `minimum(old, new)`
    Min,
}

impl ScatterFold {
    /// The word in printed graphs.
    pub fn name(self) -> &'static str {
        match self {
            ScatterFold::Replace => "replace",
            ScatterFold::Sum => "sum",
            ScatterFold::Prod => "prod",
            ScatterFold::Max => "max",
            ScatterFold::Min => "min",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_meet_where_a_position_is_in_both() {
        let piece = |(start, count, step): (i64, i64, i64)| Piece {
            shape: vec![Size::constant(count), Size::dim("B")],
            start: vec![Start::Size(Size::constant(start)), Start::Size(Size::default())],
            stride: vec![Size::constant(step), Size::constant(1)],
        };
        let all: Vec<(i64, i64, i64)> = (0..5).flat_map(|s| (0..4).flat_map(move |n| (1..5).map(move |t| (s, n, t)))).collect();
        let positions = |(s, n, t): (i64, i64, i64)| (0..n).map(move |i| s + i * t).collect::<Vec<_>>();
        for a in &all {
            for b in &all {
                let both = positions(*a).iter().any(|x| positions(*b).contains(x));
                assert_eq!(piece(*a).overlaps(&piece(*b)), both, "{a:?} {b:?}");
            }
        }
        let enormous = [(0, i64::MAX, i64::MAX), (i64::MAX, i64::MAX, 1), (i64::MIN, 2, i64::MAX), (0, 1, i64::MAX)];
        enormous.iter().for_each(|a| enormous.iter().for_each(|b| _ = piece(*a).overlaps(&piece(*b))));
        let mut apart = piece((0, 4, 1));
        apart.start[1] = Start::Runtime(0);
        assert!(!apart.overlaps(&piece((0, 4, 1))), "where a run decides, nothing is sure");
    }
}
