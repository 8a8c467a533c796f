//! The hard cases of the calculus, each through `.nn` text and against central differences in f64.

use crate::support::Named;
use crate::support::differences::{below, check_gradients};
use nnc_runtime::tensor::Tensor;

/// A model `M` without dims and integer inputs. Items start at the margin.
fn check(program: &str) {
    let lines: Vec<&str> = program
        .lines()
        .map(|l| if ["model", "block", "fn"].contains(&l.split_whitespace().next().unwrap_or("")) { l.trim_start() } else { l })
        .collect();
    check_gradients(&format!("nn 1\n{}\n", lines.join("\n")), &[], &Named::new());
}

#[test]
fn strided_dilated_grouped_and_transposed_convolutions() {
    check(
        "model M(x: real[2, 4, 7, 6], w: real[6, 2, 3, 2]) -> real[2, 6, 2, 3] { convolve2d(x, w, stride: 2, dilation: 2, groups: 2, padding: 0, stride_w: 1, dilation_w: 3) }",
    );
    check(
        "model M(x: real[2, 4, 4, 3], w: real[4, 3, 3, 2]) -> real { y = convolve_transpose2d(x, w, stride: 2, padding: 1, groups: 2)\n sum[a, b, c, d](y[a, b, c, d] * y[a, b, c, d]) }",
    );
}

#[test]
fn overlapping_max_pooling_gives_ties_to_the_first() {
    check("model M(x: real[1, 2, 5, 6]) -> real[1, 2, 4, 5] { max_pool2d(x, 2, stride: 1) }");
    check(
        "model M(x: real[1, 2, 5, 6]) -> real[1, 2, 3, 4] { max_pool2d(x, 3, stride: 2, padding: 1)  |> max_pool2d(1) |> pad }\nfn pad(x: real[B, C, H, W]) -> real[B, C, 3, 4] { y[b, c, h, w] = x[b, c, h, w, else: 0] }",
    );
}

#[test]
fn batch_norm_in_evaluation() {
    check("model M(x: real[4, 3, 2, 2]) -> real[4, 3, 2, 2] { batch_norm2d(x) }");
}

#[test]
fn embedding_gather_and_scatter() {
    let inputs: Named = [("i".to_string(), below(&[2, 5], 4, 3))].into();
    check_gradients("nn 1\nmodel M(i: token<4>[2, 5]) -> real[2, 5, 3] { embedding(i, rows: 4, dim: 3) }\n", &[], &inputs);
    let inputs: Named = [("i".to_string(), below(&[6], 4, 5))].into();
    for fold in ["sum", "prod", "max", "min"] {
        let text = format!(
            "nn 1\nmodel M(x: real[6, 2], base: real[4, 2], i: int[6]) -> real[4, 2] {{\n scatter {fold} y[i[m], d] = x[m, d] into base\n y\n}}\n"
        );
        check_gradients(&text, &[], &inputs);
    }
    check_gradients("nn 1\nmodel M(x: real[4, 2], i: int[6]) -> real[6, 2] { y[m, d] = x[i[m], d] * x[i[m], 0] }\n", &[], &inputs);
}

#[test]
fn repeated_blocks_with_causal_attention_and_a_gradient_of_its_own() {
    check(
        "fn attend(q: real[B, H, T, E], k: real[B, H, T, E], v: real[B, H, T, E]) -> real[B, H, T, E] {
            s[b, h, t, u] = if u <= t then sum[e](q[b, h, t, e] * k[b, h, u, e]) / sqrt(E) else -inf
            lse = logsumexp(s)
            y[b, h, t, e] = sum[u](exp(s[b, h, t, u] - lse[b, h, t]) * v[b, h, u, e])
            gradient(dy) {
                p[b, h, t, u] = exp(s[b, h, t, u] - lse[b, h, t])
                dv[b, h, u, e] = sum[t](p[b, h, t, u] * dy[b, h, t, e])
                dp[b, h, t, u] = sum[e](dy[b, h, t, e] * v[b, h, u, e])
                row[b, h, t] = sum[u](p[b, h, t, u] * dp[b, h, t, u])
                ds[b, h, t, u] = p[b, h, t, u] * (dp[b, h, t, u] - row[b, h, t]) / sqrt(E)
                dq[b, h, t, e] = sum[u](ds[b, h, t, u] * k[b, h, u, e])
                dk[b, h, u, e] = sum[t](ds[b, h, t, u] * q[b, h, t, e])
                (q: dq, k: dk, v: dv)
            }
        }
        block Layer(x: real[B, T, D]) -> real[B, T, D] {
            q, k, v = split(x |> layer_norm |> linear(3 * D, name: \"qkv\"), 3)
            x + (attend(split_heads(q, 2), split_heads(k, 2), split_heads(v, 2)) |> merge_heads |> linear(D, name: \"proj\"))
        }
        model M(x: real[2, 4, 6]) -> real[2, 4, 6] { x |> repeat(2, Layer, name: \"h\") }",
    );
}

#[test]
fn lstm_of_free_length() {
    let text = "nn 1\ndim B, T <= 9\nmodel M(x: real[B, T, 3]) -> (h: real[B, T, 4], last: real[B, 4]) {
        s = scan e in x over T from (h: zeros(B, 4), c: zeros(B, 4)) { lstm_cell(e, h, c) }
        h = s.h
        last = s.last.c
    }\n";
    check_gradients(text, &[("B", 2), ("T", 5)], &Named::new());
    check_gradients(text, &[("B", 1), ("T", 1)], &Named::new());
}

#[test]
fn cumulative_sums_products_with_zeros_diagonals_and_triangles() {
    check("model M(x: real[3, 5]) -> real[3, 5] { cumsum(x) * x }");
    check("model M(x: real[2, 4, 4]) -> real[2, 4] { diagonal(tril(x)) + diagonal(x) }");
    check("model M(x: real[3, 4]) -> real[3] { y[i] = prod[j](x[i, j]) }");
    let with_zeros = Tensor::from_f64(&[3, 3], &[0.0, 2.0, 3.0, 0.0, 0.0, 4.0, 1.0, 2.0, -3.0]);
    let inputs: Named = [("x".to_string(), with_zeros)].into();
    check_gradients("nn 1\nmodel M(x: real[3, 3]) -> real[3] { y[i] = prod[j](x[i, j]) }\n", &[], &inputs);
    check_gradients("nn 1\nmodel M(x: real[3, 3]) -> real[3, 3] { cumprod(x) }\n", &[], &inputs);
}

#[test]
fn pieces_in_their_places() {
    check("model M(a: real[2, 3], b: real[2, 2]) -> real[2, 5] { concat(a, b, axis: 1) * concat(b, a, axis: 1) }");
    check("model M(x: real[2, 3]) -> real[2, 7] { y[i, j in 7] = x[i, j - 2, else: 0] * 2 }");
    check("model M(x: real[6, 3]) -> real[2, 3] { y[i in 2, j] = x[2 * i + 1, j] }");
    check("model M(x: real[4, 3], p: real[2, 3]) -> real[4, 3] { y = write(x, p, 1, 0)\n y * y }");
}

#[test]
fn gradient_penalty_and_hessian_times_vector() {
    check(
        "model M(x: real[3, 2], w: real[4, 2], u: real[4]) -> real {
            h[b, k] = tanh(sum[i](x[b, i] * w[k, i]))
            y = sum[b, k](h[b, k] * u[k])
            g = grad(y, wrt: x)
            sum[b]((sqrt(sum[i](g[b, i] * g[b, i])) - 1)^2)
        }",
    );
    check(
        "model M(x: real[4], v: real[4]) -> real[4] {
            f = sum[i](exp(x[i]) * x[i]) + sum[i](x[i])^3
            g = grad(f, wrt: x)
            grad(sum[i](g[i] * v[i]), wrt: x)
        }",
    );
}

#[test]
fn one_program_for_every_batch_and_length() {
    let text = "nn 1\ndim B, T <= 8\nmodel M(x: real[B, T, 4]) -> real[B, T, 4] { x |> attention(heads: 2, causal: true) |> layer_norm }\n";
    for (b, t) in [(1, 1), (2, 3), (3, 8)] {
        check_gradients(text, &[("B", b), ("T", t)], &Named::new());
    }
}

#[test]
fn sorting_and_choosing() {
    check("model M(x: real[3, 5]) -> real[3, 5] { v, at = sort(x)\n v * v }");
    check("model M(x: real[3, 5]) -> real[3, 5] { y[i, j] = if x[i, j] > 0 then log(x[i, j]) else x[i, j]^3 }");
    check("model M(x: real[3, 5], y: real[3, 5]) -> real[3] { z[i] = max[j](x[i, j]) * amin[j](y[i, j]) }");
}
