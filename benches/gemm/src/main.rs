//! `gemm-worker MODEL M,N,K THREADS`: the matrix product of the crate `gemm`, timed on demand. A line on standard input is a round of so many seconds; a JSON line comes
//! back. The models are those of `models/bench/product.nn`.

use std::io::{BufRead, Write};
use std::time::Instant;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, model, shape, threads] = &args[..] else { panic!("gemm-worker MODEL M,N,K THREADS") };
    let sizes: Vec<usize> = shape.split(',').map(|n| n.parse().expect("a size")).collect();
    let &[m, n, k] = &sizes[..] else { panic!("M,N,K, not {shape}") };
    let parallelism = match threads.parse().expect("a number of threads") {
        1 => gemm::Parallelism::None,
        n => gemm::Parallelism::Rayon(n),
    };
    let numbers = |count: usize| (0..count).map(|i| (i * 7 % 13) as f32 - 6.0).collect::<Vec<f32>>();
    let (a, b, mut c) = (numbers(m * k), numbers(k * n), vec![0f32; m * n]);
    // Row and column strides; all matrices are stored row by row.
    let (ars, acs) = if model == "Weights" { (1, m as isize) } else { (k as isize, 1) };
    let (brs, bcs) = if model == "Linear" || model.starts_with("Packed") { (1, k as isize) } else { (n as isize, 1) };
    let mut step = || {
        // SAFETY: the pointers and strides describe the three matrices above, which live as long as this.
        unsafe {
            gemm::gemm(
                m, n, k,
                c.as_mut_ptr(), 1, n as isize, false,
                a.as_ptr(), acs, ars,
                b.as_ptr(), bcs, brs,
                0f32, 1f32, false, false, false, parallelism,
            );
        }
    };
    (0..3).for_each(|_| step());
    say("{\"ready\": true}");
    for line in std::io::stdin().lock().lines() {
        let seconds: f64 = line.expect("text").trim().parse().expect("seconds");
        let (began, mut times) = (Instant::now(), Vec::new());
        while began.elapsed().as_secs_f64() < seconds || times.len() < 3 {
            let start = Instant::now();
            step();
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        say(&format!("{{\"median_ms\": {}, \"min_ms\": {}}}", times[times.len() / 2], times[0]));
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("a reader");
}
