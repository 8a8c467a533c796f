//! Kernels that are no contractions, against the rate at which this machine reads memory, measured in the same run.
//!
//! `cargo bench --bench rows [-- WORD]`: every kernel of small programs over the library, at sizes known at launch only, on one thread by its own clock:
//! elements of its largest buffer a nanosecond, bytes of all its buffers a second, medians of repeated rounds. Buffers that a cache holds are read faster
//! than memory is, so small sizes may pass 100 %.

mod common;

use common::{clock, compiled, floats, level, median};
use nnc::driver::{self, Input};
use nnc::ir::{DType, Dims, Size};
use nnc_runtime::exec::Kernels;
use nnc_runtime::manifest::Step;
use nnc_runtime::memory::Aligned;
use nnc_runtime::peak;

/// A program, whether its derivative is measured too, and the sizes `B` and `T` that it runs at.
struct Case {
    name: &'static str,
    derivative: bool,
    sizes: &'static [[i64; 2]],
    text: &'static str,
}

const CASES: [Case; 11] = [
    Case {
        name: "softmax",
        derivative: true,
        sizes: &[[12288, 128], [3072, 1024], [32, 10]],
        text: "model M(x: real[B, T]) -> real[B, T] { softmax(x) }",
    },
    Case {
        name: "causal softmax",
        derivative: false,
        sizes: &[[48, 256], [2, 1024]],
        text: "model M(x: real[B, T, T]) -> real[B, T, T] {\n    s[b, t, u] = if u <= t then x[b, t, u] else -inf\n    softmax(s)\n}",
    },
    Case {
        name: "attention",
        derivative: true,
        sizes: &[[48, 128], [12, 256]],
        text: "model M(q: real[B, T, 64], k: real[B, T, 64], v: real[B, T, 64]) -> real[B, T, 64] { scaled_dot_product(q, k, v, causal: true) }",
    },
    Case {
        name: "layer norm",
        derivative: true,
        sizes: &[[12, 256], [1, 32]],
        text: "model M(x: real[B, T, 384]) -> real[B, T, 384] { layer_norm(x, name: \"n\") }",
    },
    Case {
        name: "column sums",
        derivative: false,
        sizes: &[[3072, 384], [2048, 4096], [32, 128]],
        text: "model M(x: real[B, T]) -> real[T] { y[t] = sum[b](x[b, t]) }",
    },
    Case {
        name: "row sums",
        derivative: false,
        sizes: &[[3072, 384], [32, 10]],
        text: "model M(x: real[B, T]) -> real[B] { y[b] = sum[t](x[b, t]) }",
    },
    Case {
        name: "max pool",
        derivative: true,
        sizes: &[[64, 32], [64, 16], [4, 56]],
        text: "model M(x: real[B, 32, T, T]) -> real[B, 32, div(T - 2, 2) + 1, div(T - 2, 2) + 1] { relu(max_pool2d(x, 2)) }",
    },
    Case {
        name: "max pool 3 by 3, stride 2",
        derivative: true,
        sizes: &[[4, 112]],
        text: "model M(x: real[B, 32, T, T]) -> real[B, 32, div(T - 1, 2) + 1, div(T - 1, 2) + 1] { max_pool2d(x, 3, stride: 2, padding: 1) }",
    },
    Case { name: "gelu", derivative: true, sizes: &[[3072, 1536], [32, 128]], text: "model M(x: real[B, T]) -> real[B, T] { gelu(x) }" },
    Case {
        name: "group norm",
        derivative: true,
        sizes: &[[16, 32]],
        text: "model M(x: real[B, 64, T, T]) -> real[B, 64, T, T] { group_norm(x, 8, name: \"n\") }",
    },
    Case {
        name: "moments of channels",
        derivative: false,
        sizes: &[[16, 32], [16, 8], [16, 7]],
        text: "model M(x: real[B, 64, T, T]) -> (real[64], real[64], real[64]) {\n    mu[c] = mean[b, h, w](x[b, c, h, w])\n    centred[b, c, h, w] = x[b, c, h, w] - mu[c]\n    variance[c] = mean[b, h, w](centred[b, c, h, w] * centred[b, c, h, w])\n    product[c] = sum[b, h, w](x[b, c, h, w] * centred[b, c, h, w])\n    (mu, variance, product)\n}",
    },
];

fn main() {
    let word = std::env::args().skip(1).find(|a| !a.starts_with("--"));
    let roof = peak::read(1).expect("memory");
    println!("level {}; one core reads memory at {roof:.1} GB/s", level());
    println!("{:>9} {:>12} {:>8} {:>6}  kernel", "us", "elements/ns", "GB/s", "roof");
    for case in CASES.iter().filter(|c| word.as_ref().is_none_or(|w| c.name.contains(w.as_str()))) {
        let text = format!("nn 1\n\ndim B, T\n\n{}\n", case.text);
        let load = |path: &str| Err(format!("{path}: nothing is imported here"));
        let checked = driver::check(&Input { name: "rows.nn", text: &text, load: &load, real: DType::F32, set: vec![] });
        let Some(program) = &checked.program else { panic!("{}", checked.rendered(false)) };
        let mut module = driver::graph(program);
        if case.derivative {
            driver::add_derivative(&mut module, "M");
        }
        let lowered = driver::lower(module, &checked.sources);
        let (loader, scratch) = compiled(&lowered.kernels);
        let wanted = if case.derivative { "derivative:M" } else { "infer:M" };
        let entry = lowered.entries.iter().find(|e| &*e.name == wanted).expect("the model's entry");
        for [b, t] in case.sizes {
            println!("{}, B = {b}, T = {t}", case.name);
            let dims: Dims = [("B".into(), *b), ("T".into(), *t)].into();
            let number = |s: &Size| s.eval(&dims).expect("all dims are given");
            let scratch = Aligned::zeroed(scratch).expect("memory");
            for step in &entry.plan.steps {
                let Step::Launch(launch) = step else { continue };
                if nnc::kernel::contract::recognise(&lowered.kernels[launch.kernel as usize]).is_some() {
                    continue;
                }
                let buffer = |b: &u32| &entry.plan.buffers[*b as usize];
                let elements = |b: &u32| buffer(b).shape.iter().map(&number).product::<i64>() as usize;
                let bytes = |b: &u32| elements(b) * buffer(b).dtype.bytes();
                let memory = |b: &u32| if buffer(b).dtype == DType::F32 { floats(elements(b)) } else { Aligned::zeroed(bytes(b)).expect("memory") };
                let buffers: Vec<Aligned> = launch.args.iter().map(memory).collect();
                let args: Vec<*mut u8> = buffers.iter().map(|b| b.as_ptr()).collect();
                let sizes: Vec<i64> = launch.sizes.iter().map(&number).collect();
                let tasks = number(&launch.tasks);
                let run = |repeats: usize| {
                    let start = clock();
                    for _ in 0..repeats {
                        // Safety: buffers of the launch's sizes, and scratch enough for every kernel.
                        let code = unsafe { loader.run(launch.kernel, &args, &sizes, 0, tasks, scratch.as_ptr()) };
                        assert_eq!(code, 0);
                    }
                    (clock() - start) / repeats as f64
                };
                // Rounds long enough for the clock.
                let repeats = (1e-3 / run(1).max(1e-8)).clamp(1.0, 10000.0) as usize;
                let seconds = median((0..15).map(|_| run(repeats)).collect());
                let most = launch.args.iter().map(elements).max().unwrap_or(0) as f64;
                let rate = launch.args.iter().map(bytes).sum::<usize>() as f64 / seconds / 1e9;
                let name = &lowered.kernels[launch.kernel as usize].name;
                println!("{:>9.1} {:>12.2} {:>8.1} {:>4.0} %  {name}", seconds * 1e6, most / seconds / 1e9, rate, 100.0 * rate / roof);
            }
        }
    }
}
