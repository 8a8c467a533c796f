//! The transforms of Winograd's F(2x2, 3x3): a square of 2x2 results of a 3x3 window costs 16 products instead of 36.
//!
//! In: numbers, vectors or instructions, and what adds, subtracts and multiplies them. Out: the sums below, rows first, then columns, in the order
//! written. With `U` and `V` the transformed weights and image, summed over channels as `M = U * V` point by point, the results are those of `M`:
//!
//! ```text
//! weights  u0 = g0    u1 = ((g0 + g2) + g1) / 2    u2 = ((g0 + g2) - g1) / 2    u3 = g2
//! image    v0 = d0 - d2    v1 = d1 + d2    v2 = d2 - d1    v3 = d1 - d3
//! results  y0 = (m0 + m1) + m2    y1 = (m1 - m2) - m3
//! ```

use crate::ir::ScalarOp::{Add, Mul, Sub};
use crate::ir::{DType, Scalar, ScalarOp};
use crate::math::apply;

/// An operation on two values.
pub type Apply<'a, T> = &'a mut dyn FnMut(ScalarOp, [T; 2]) -> T;

/// 3x3 weights; `half` is 0.5.
pub fn weights<T: Copy>(half: T, op: Apply<T>, g: [[T; 3]; 3]) -> [[T; 4]; 4] {
    let mut line = |[g0, g1, g2]: [T; 3]| {
        let ends = op(Add, [g0, g2]);
        let [sum, rest] = [Add, Sub].map(|add| op(add, [ends, g1]));
        [g0, op(Mul, [sum, half]), op(Mul, [rest, half]), g2]
    };
    let rows = g.map(&mut line);
    turned([0, 1, 2, 3].map(|n| line(rows.map(|row| row[n]))))
}

/// A 4x4 square of the image.
pub fn image<T: Copy>(op: Apply<T>, d: [[T; 4]; 4]) -> [[T; 4]; 4] {
    let mut line = |[d0, d1, d2, d3]: [T; 4]| [op(Sub, [d0, d2]), op(Add, [d1, d2]), op(Sub, [d2, d1]), op(Sub, [d1, d3])];
    let rows = d.map(&mut line);
    turned([0, 1, 2, 3].map(|n| line(rows.map(|row| row[n]))))
}

/// The 2x2 results of 4x4 sums.
pub fn results<T: Copy>(op: Apply<T>, m: [[T; 4]; 4]) -> [[T; 2]; 2] {
    let mut line = |[m0, m1, m2, m3]: [T; 4]| {
        let (first, second) = (op(Add, [m0, m1]), op(Sub, [m1, m2]));
        [op(Add, [first, m2]), op(Sub, [second, m3])]
    };
    let rows = m.map(&mut line);
    let [[a, c], [b, d]] = [0, 1].map(|n| line(rows.map(|row| row[n])));
    [[a, b], [c, d]]
}

/// What a factor is at a step and a point of the window.
pub type Factor<'a, E> = &'a mut dyn FnMut(i64, i64, i64) -> Result<Scalar, E>;

/// The results of a square: `count` steps of weights (3x3, or `transformed`, 4x4) and image. Each of the 16 sums is one chain of fused multiply-adds
/// in leaves of 256 steps, which are added in order.
///
/// # Errors
/// The first of the factors.
pub fn square<E>(dtype: DType, count: i64, transformed: bool, weight: Factor<'_, E>, pixel: Factor<'_, E>) -> Result<[[Scalar; 2]; 2], E> {
    let op: Apply<Scalar> = &mut |op, args| apply(op, &args);
    let (zero, half) = (Scalar::float(dtype, 0.0), Scalar::float(dtype, 0.5));
    let (mut sum, mut leaf) = (None, [[zero; 4]; 4]);
    for k in 0..count {
        let u = if transformed {
            filled(&mut |a, b| weight(k, a as i64, b as i64), zero)?
        } else {
            weights(half, op, filled(&mut |r, s| weight(k, r as i64, s as i64), zero)?)
        };
        let v = image(op, filled(&mut |a, b| pixel(k, a as i64, b as i64), zero)?);
        each(&mut |a, b| leaf[a][b] = apply(ScalarOp::Fma, &[u[a][b], v[a][b], leaf[a][b]]));
        if (k + 1) % 256 == 0 || k + 1 == count {
            let all: &mut [[Scalar; 4]; 4] = sum.get_or_insert(leaf);
            if k >= 256 {
                each(&mut |a, b| all[a][b] = apply(Add, &[all[a][b], leaf[a][b]]));
            }
            leaf = [[zero; 4]; 4];
        }
    }
    Ok(results(op, sum.unwrap_or(leaf)))
}

fn each(see: &mut dyn FnMut(usize, usize)) {
    (0..16).for_each(|n| see(n / 4, n % 4));
}

/// A square from its elements.
///
/// # Errors
/// The first of the elements.
pub fn filled<T: Copy, E, const N: usize>(at: &mut dyn FnMut(usize, usize) -> Result<T, E>, zero: T) -> Result<[[T; N]; N], E> {
    let mut square = [[zero; N]; N];
    for n in 0..N * N {
        square[n / N][n % N] = at(n / N, n % N)?;
    }
    Ok(square)
}

fn turned<T: Copy>(columns: [[T; 4]; 4]) -> [[T; 4]; 4] {
    [0, 1, 2, 3].map(|row| columns.map(|column| column[row]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In whole numbers, where nothing is rounded, the transforms give the window's sums.
    #[test]
    fn squares_are_the_sums_of_their_windows() {
        let op: Apply<f64> = &mut |op, [a, b]: [f64; 2]| match op {
            Add => a + b,
            Sub => a - b,
            _ => a * b,
        };
        let number = |n: usize| ((n * 37 + 11) % 19) as f64 - 9.0;
        let g = [0, 1, 2].map(|r| [0, 1, 2].map(|s| number(3 * r + s)));
        let d = [0, 1, 2, 3].map(|a| [0, 1, 2, 3].map(|b| number(50 + 4 * a + b)));
        let (u, v) = (weights(0.5, op, g), image(op, d));
        let m = [0, 1, 2, 3].map(|a| [0, 1, 2, 3].map(|b| u[a][b] * v[a][b]));
        let y = results(op, m);
        for (i, j) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let sum: f64 = (0..9).map(|n| g[n / 3][n % 3] * d[i + n / 3][j + n % 3]).sum();
            assert_eq!(y[i][j], sum);
        }
    }
}
