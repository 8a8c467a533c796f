//! The gradient of a window's weights in lanes along lines of points ([`Fold::DotLines`](crate::ir::Fold::DotLines)): the order of its sums.
//!
//! Points of the results are cut into blocks of [`LINES`] lines and [`COLUMNS`] columns, image by image, lines before columns. Column `x` belongs to lane
//! `x mod 16`; each lane of a block is one chain of fused multiply-adds from +0 over its points, line by line. Lanes of blocks are added in order to those
//! of the first, then joined as those of `Sum`. Nothing is turned or moved that way: what lies beside each other in memory belongs to lanes beside each
//! other, in the results' gradient as in the image.

use super::apply;
use crate::ir::{DType, Scalar, ScalarOp};

/// Lines of a block.
pub const LINES: i64 = 32;
/// Columns of a block.
pub const COLUMNS: i64 = 256;
/// Lanes.
pub const LANES: i64 = 16;

/// The sum over all points of so many images, lines and columns, by both factors at a point.
///
/// # Errors
/// The first of the factors'.
pub fn sum<E>(dtype: DType, [images, height, width]: [i64; 3], factors: &mut dyn FnMut([i64; 3]) -> Result<[Scalar; 2], E>) -> Result<Scalar, E> {
    let zeros = [Scalar::float(dtype, 0.0); LANES as usize];
    let add = |a, b| apply(ScalarOp::Add, &[a, b]);
    let mut sums: Option<[Scalar; LANES as usize]> = None;
    for image in 0..images {
        for top in (0..height).step_by(LINES as usize) {
            for first in (0..width).step_by(COLUMNS as usize) {
                let mut chains = zeros;
                for y in top..height.min(top + LINES) {
                    for x in first..width.min(first + COLUMNS) {
                        let [a, b] = factors([image, y, x])?;
                        let chain = &mut chains[(x % LANES) as usize];
                        *chain = apply(ScalarOp::Fma, &[a, b, *chain]);
                    }
                }
                sums = Some(sums.map_or(chains, |sums| std::array::from_fn(|lane| add(sums[lane], chains[lane]))));
            }
        }
    }
    let mut lanes = sums.unwrap_or(zeros);
    for half in [8, 4, 2, 1] {
        (0..half).for_each(|lane| lanes[lane] = add(lanes[lane], lanes[lane + half]));
    }
    Ok(lanes[0])
}
