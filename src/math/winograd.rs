//! The transforms of Winograd's F(2x2, 3x3): a square of 2x2 results of a 3x3 window costs 16 products instead of 36. And those of F(3x3, 2x2), the
//! same ones transposed: what the gradient of a square of results adds to that of the 3x3 weights costs as many.
//!
//! In: numbers, vectors or instructions, and what adds, subtracts and multiplies them. Out: the sums below, rows first, then columns, in the order
//! written. With `U` and `V` the transformed weights and image, summed over channels as `M = U * V` point by point, the results are those of `M`:
//!
//! ```text
//! weights  u0 = g0    u1 = ((g0 + g2) + g1) / 2    u2 = ((g0 + g2) - g1) / 2    u3 = g2
//! image    v0 = d0 - d2    v1 = d1 + d2    v2 = d2 - d1    v3 = d1 - d3
//! results  y0 = (m0 + m1) + m2    y1 = (m1 - m2) - m3
//! ```
//!
//! With `Z` the transformed gradient of the results, summed over squares as `M = V * Z`, the gradient of the weights is that of `M`:
//!
//! ```text
//! gradient  z0 = y0    z1 = y0 + y1    z2 = y0 - y1    z3 = y1
//! weights   w0 = m0 + (m1 + m2) / 2    w1 = (m1 - m2) / 2    w2 = (m1 + m2) / 2 - m3
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

/// What sum number `n` of a line makes of its two results, which sums before it began.
pub fn join<T: Copy>(op: Apply<T>, n: usize, [y0, y1]: [T; 2], sum: T) -> [T; 2] {
    match n {
        0 => [sum, sum],
        1 => [op(Add, [y0, sum]), sum],
        2 => [op(Add, [y0, sum]), op(Sub, [y1, sum])],
        _ => [y0, op(Sub, [y1, sum])],
    }
}

/// The two results of a line's sums.
pub fn line<T: Copy>(op: Apply<T>, m: [T; 4]) -> [T; 2] {
    (0..4).fold([m[0]; 2], |y, n| join(op, n, y, m[n]))
}

/// The 2x2 results of 4x4 sums.
pub fn results<T: Copy>(op: Apply<T>, m: [[T; 4]; 4]) -> [[T; 2]; 2] {
    let mut line = |m: [T; 4]| line(op, m);
    let rows = m.map(&mut line);
    let [[a, c], [b, d]] = [0, 1].map(|n| line(rows.map(|row| row[n])));
    [[a, b], [c, d]]
}

/// The gradient of 2x2 results.
pub fn gradient<T: Copy>(op: Apply<T>, y: [[T; 2]; 2]) -> [[T; 4]; 4] {
    let mut line = |[y0, y1]: [T; 2]| [y0, op(Add, [y0, y1]), op(Sub, [y0, y1]), y1];
    let rows = y.map(&mut line);
    turned([0, 1, 2, 3].map(|n| line(rows.map(|row| row[n]))))
}

/// The gradient of 3x3 weights, of 4x4 sums; `half` is 0.5.
pub fn taps<T: Copy>(half: T, op: Apply<T>, m: [[T; 4]; 4]) -> [[T; 3]; 3] {
    let mut line = |[m0, m1, m2, m3]: [T; 4]| {
        let [both, apart] = [Add, Sub].map(|add| op(add, [m1, m2]));
        let [both, apart] = [both, apart].map(|sum| op(Mul, [sum, half]));
        [op(Add, [m0, both]), apart, op(Sub, [both, m3])]
    };
    let rows = m.map(&mut line);
    let columns = [0, 1, 2].map(|n| line(rows.map(|row| row[n])));
    [0, 1, 2].map(|row| columns.map(|column| column[row]))
}

/// Steps of a leaf of [`square`], and squares of a leaf of [`window`].
pub const STEPS: i64 = 256;
pub const SQUARES: i64 = 128;

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
    let sums = sums(zero, count, STEPS, &mut |k| {
        let u = if transformed {
            filled(&mut |a, b| weight(k, a as i64, b as i64), zero)?
        } else {
            weights(half, op, filled(&mut |r, s| weight(k, r as i64, s as i64), zero)?)
        };
        Ok([u, image(op, filled(&mut |a, b| pixel(k, a as i64, b as i64), zero)?)])
    })?;
    Ok(results(op, sums))
}

/// The gradient at a point of the results, and the image at a square's first point and a point of the 4x4 window.
pub type Gradient<'a, E> = &'a mut dyn FnMut([i64; 3]) -> Result<Scalar, E>;
pub type Pixel<'a, E> = &'a mut dyn FnMut([i64; 3], [i64; 2]) -> Result<Scalar, E>;

/// The gradient of a window's weights over the squares of so many results of `[images, lines, columns]`, in this order. Beyond these the gradient is 0.
/// Each of the 16 sums is one chain of fused multiply-adds in leaves of [`SQUARES`], which are added in order.
///
/// # Errors
/// The first of the factors.
pub fn window<E>(dtype: DType, [images, height, width]: [i64; 3], slope: Gradient<'_, E>, pixel: Pixel<'_, E>) -> Result<[[Scalar; 3]; 3], E> {
    let op: Apply<Scalar> = &mut |op, args| apply(op, &args);
    let (zero, half) = (Scalar::float(dtype, 0.0), Scalar::float(dtype, 0.5));
    let [lines, across] = [height, width].map(|n| (n + 1) / 2);
    let sums = sums(zero, images * lines * across, SQUARES, &mut |k| {
        let [n, y, x] = [k / (lines * across), k / across % lines * 2, k % across * 2];
        let z = filled(
            &mut |i, j| {
                let (y, x) = (y + i as i64, x + j as i64);
                if y < height && x < width { slope([n, y, x]) } else { Ok(zero) }
            },
            zero,
        )?;
        Ok([image(op, filled(&mut |a, b| pixel([n, y, x], [a as i64, b as i64]), zero)?), gradient(op, z)])
    })?;
    Ok(taps(half, op, sums))
}

/// 16 sums of `count` products, in leaves.
fn sums<E>(zero: Scalar, count: i64, of: i64, factors: &mut dyn FnMut(i64) -> Result<[[[Scalar; 4]; 4]; 2], E>) -> Result<[[Scalar; 4]; 4], E> {
    let (mut sum, mut leaf) = (None, [[zero; 4]; 4]);
    for k in 0..count {
        let [u, v] = factors(k)?;
        each(&mut |a, b| leaf[a][b] = apply(ScalarOp::Fma, &[u[a][b], v[a][b], leaf[a][b]]));
        if (k + 1) % of == 0 || k + 1 == count {
            let all: &mut [[Scalar; 4]; 4] = sum.get_or_insert(leaf);
            if k >= of {
                each(&mut |a, b| all[a][b] = apply(Add, &[all[a][b], leaf[a][b]]));
            }
            leaf = [[zero; 4]; 4];
        }
    }
    Ok(sum.unwrap_or(leaf))
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

    /// So do their transposed ones with the sums over a square's results.
    #[test]
    fn gradients_are_the_sums_of_their_squares() {
        let op: Apply<f64> = &mut |op, [a, b]: [f64; 2]| match op {
            Add => a + b,
            Sub => a - b,
            _ => a * b,
        };
        let number = |n: usize| ((n * 41 + 7) % 23) as f64 - 11.0;
        let y = [0, 1].map(|i| [0, 1].map(|j| number(2 * i + j)));
        let d = [0, 1, 2, 3].map(|a| [0, 1, 2, 3].map(|b| number(30 + 4 * a + b)));
        let (z, v) = (gradient(op, y), image(op, d));
        let m = [0, 1, 2, 3].map(|a| [0, 1, 2, 3].map(|b| z[a][b] * v[a][b]));
        let w = taps(0.5, op, m);
        for (r, s) in (0..9).map(|n| (n / 3, n % 3)) {
            let sum: f64 = (0..4).map(|n| y[n / 2][n % 2] * d[r + n / 2][s + n % 2]).sum();
            assert_eq!(w[r][s], sum);
        }
    }
}
