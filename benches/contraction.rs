//! Products and convolutions by the engine, against the machine's own peak of fused multiply-adds measured in the same run.
//!
//! `cargo bench --bench contraction [-- WORD]`: one line a shape, GFLOP/s and share of the peak, medians of paired rounds, sizes known at launch only,
//! packing included. One thread is measured by its own clock, which stands still while others run; two threads by the wall's.

mod common;

use common::{clock, compiled, floats, level, median};
use nnc::ir::*;
use nnc::kernel::lower;
use nnc::passes::windows::squares;
use nnc::plan::plan;
use nnc::span::{Sources, Span};
use nnc_runtime::exec::Kernels;
use nnc_runtime::manifest::{Sink, Source, Step};
use nnc_runtime::memory::Aligned;
use nnc_runtime::pool::{Pool, Region};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

/// A contraction and the values of its dims.
struct Case {
    name: String,
    module: Module,
    dims: Dims,
    flops: f64,
}

fn dims(pairs: &[(&str, i64)]) -> Dims {
    pairs.iter().map(|(name, n)| ((*name).into(), *n)).collect()
}

fn program(a: &[Size], b: &[Size], nest: Nest) -> Module {
    let mut f = Function::new("bench");
    let a = f.input("a", Type::new(DType::F32, a));
    let b = f.input("b", Type::new(DType::F32, b));
    let result = f.nest(nest, [a, b], Span::default());
    f.results = vec![(None, result)];
    let inputs = f.inputs.iter().map(|i| Source::Data(i.name.clone())).collect();
    let entry = Entry { name: "infer:bench".into(), function: FunctionId(0), inputs, results: vec![Sink::Result("0".into())] };
    Module { functions: vec![f], entries: vec![entry], ..Module::default() }
}

fn multiply(a: Expr, b: Expr) -> Expr {
    Expr::op(ScalarOp::Mul, [a, b])
}

/// `[m, n]` from `[m, k]` or its transpose and `[k, n]` or its transpose.
fn product(m: i64, n: i64, k: i64, turned: [bool; 2]) -> Case {
    let [sm, sn, sk] = ["M", "N", "K"].map(Size::dim);
    let pick = |turned: bool, plain: [usize; 2]| if turned { [plain[1], plain[0]] } else { plain };
    let shape = |axes: [usize; 2]| axes.map(|v| [&sm, &sn, &sk][v].clone());
    let (a, b) = (pick(turned[0], [0, 2]), pick(turned[1], [2, 1]));
    let nest = Nest::fold(vec![sm.clone(), sn.clone()], vec![sk.clone()], Fold::Dot, multiply(load_at(0, a), load_at(1, b)));
    let module = program(&shape(a), &shape(b), nest);
    let mark = |turned: bool| if turned { "t" } else { "" };
    let name = format!("{m}x{n}x{k} A{} B{}", mark(turned[0]), mark(turned[1]));
    Case { name, module, dims: dims(&[("M", m), ("N", n), ("K", k)]), flops: 2.0 * (m * n * k) as f64 }
}

/// Convolutions of images `[batch, channel, y, x]`, padded so that sizes stay: forward, and both gradients.
fn convolution(what: &str, batch: i64, from: i64, to: i64, size: i64, taps: i64, stride: i64) -> Case {
    let c = Size::constant;
    let (b, h) = (Size::dim("B"), c(size));
    let out = c(size / stride);
    let shifted = |v: usize, tap: usize| Affine::var(v).scale(&c(stride)).add(&Affine::var(tap)).sub(&Affine::constant(taps / 2));
    let zero = Some(Scalar::f32(0.0)).filter(|_| taps > 1);
    let padded = |operand, index: [Affine; 4]| Expr::Load { operand, index: index.map(Index::Affine).to_vec(), otherwise: zero };
    let image = [b.clone(), c(from), h.clone(), h];
    let result = [b.clone(), c(to), out.clone(), out.clone()];
    let weight = [c(to), c(from), c(taps), c(taps)];
    let t = c(taps);
    let module = match what {
        // Out: n, o, y, x. Sum: c, r, s.
        "forward" => {
            let image_at = padded(0, [Affine::var(0), Affine::var(4), shifted(2, 5), shifted(3, 6)]);
            program(
                &image,
                &weight,
                Nest::fold(result.to_vec(), vec![c(from), t.clone(), t], Fold::Dot, multiply(image_at, load_at(1, [1, 4, 5, 6]))),
            )
        }
        // Out: n, c, y, x. Sum: o, r, s.
        "data" => {
            let back = |v: usize, tap: usize| Affine::var(v).add(&Affine::constant(taps / 2)).sub(&Affine::var(tap));
            let at = padded(0, [Affine::var(0), Affine::var(4), back(2, 5), back(3, 6)]);
            program(&result, &weight, Nest::fold(image.to_vec(), vec![c(to), t.clone(), t], Fold::Dot, multiply(at, load_at(1, [4, 1, 5, 6]))))
        }
        // Out: o, c, r, s. Sum: n, y, x.
        _ => {
            let at = padded(1, [Affine::var(4), Affine::var(1), shifted(5, 2), shifted(6, 3)]);
            program(&result, &image, Nest::fold(weight.to_vec(), vec![b, out.clone(), out], Fold::Dot, multiply(load_at(0, [4, 0, 5, 6]), at)))
        }
    };
    let flops = 2.0 * (batch * from * to * (size / stride).pow(2) * taps * taps) as f64;
    Case { name: format!("{taps}x{taps} {from}->{to} at {size}, stride {stride}, batch {batch}: {what}"), module, dims: dims(&[("B", batch)]), flops }
}

/// The same in squares of 2x2 results, at the operations of the convolution as it stands.
fn in_squares(mut case: Case) -> Case {
    let f = &case.module.functions[0];
    let place = f.nodes.iter().position(|node| matches!(node.op, Op::Nest(_))).expect("a convolution");
    let squares = squares(&case.module, f, &f.nodes[place]).expect("a window of 3x3");
    case.module.functions[0].nodes[place].op = Op::Nest(squares);
    case.name += ", squares";
    case
}

fn cases() -> Vec<Case> {
    let mut cases = vec![];
    for n in [512, 1024, 2048] {
        cases.push(product(n, n, n, [false, false]));
    }
    for turned in [[false, false], [false, true], [true, false]] {
        cases.push(product(128, 768, 768, turned));
        cases.push(product(197, 768, 768, turned));
    }
    for turned in [false, true] {
        cases.push(product(32, 3072, 768, [false, turned]));
        cases.push(product(1, 4096, 4096, [false, turned]));
    }
    for (m, n, k) in [(197, 769, 771), (1000, 1000, 1000), (511, 513, 515), (5, 769, 771)] {
        cases.push(product(m, n, k, [false, false]));
    }
    for what in ["forward", "data", "weight"] {
        cases.push(convolution(what, 16, 64, 64, 32, 3, 1));
        cases.push(convolution(what, 16, 256, 256, 14, 3, 1));
    }
    for what in ["forward", "weight"] {
        cases.push(convolution(what, 16, 3, 64, 32, 3, 1));
    }
    for what in ["forward", "data", "weight"] {
        cases.push(convolution(what, 16, 512, 512, 4, 3, 1));
        cases.push(convolution(what, 64, 32, 64, 14, 3, 1));
    }
    for what in ["forward", "data"] {
        for (batch, channels, size) in [(16, 64, 32), (16, 128, 16), (16, 256, 8), (16, 512, 4), (1, 64, 56), (1, 128, 28), (1, 256, 14), (1, 512, 7)]
        {
            cases.push(in_squares(convolution(what, batch, channels, channels, size, 3, 1)));
        }
        cases.push(in_squares(convolution(what, 64, 32, 64, 16, 3, 1)));
    }
    cases.push(convolution("forward", 1, 512, 512, 7, 3, 1));
    cases.push(convolution("forward", 1, 3, 64, 224, 7, 2));
    cases.push(convolution("forward", 16, 64, 128, 32, 3, 2));
    cases.push(convolution("forward", 16, 64, 64, 32, 1, 1));
    cases
}

/// GFLOP/s of multiply-adds that wait for nothing.
#[cfg(target_arch = "x86_64")]
fn peak(level: &str) -> f64 {
    use std::arch::x86_64::*;
    #[target_feature(enable = "avx512f")]
    fn wide(rounds: u64) -> f32 {
        let (a, b) = std::hint::black_box((_mm512_set1_ps(0.999), _mm512_set1_ps(1e-3)));
        let mut sums = [_mm512_set1_ps(1.0); 16];
        for _ in 0..rounds {
            sums.iter_mut().for_each(|s| *s = _mm512_fmadd_ps(*s, a, b));
        }
        sums.iter().map(|s| _mm512_reduce_add_ps(*s)).sum()
    }
    #[target_feature(enable = "avx2,fma")]
    fn narrow(rounds: u64) -> f32 {
        let (a, b) = std::hint::black_box((_mm256_set1_ps(0.999), _mm256_set1_ps(1e-3)));
        let mut sums = [_mm256_set1_ps(1.0); 12];
        for _ in 0..rounds {
            sums.iter_mut().for_each(|s| *s = _mm256_fmadd_ps(*s, a, b));
        }
        sums.iter().map(|s| _mm256_cvtss_f32(*s)).sum()
    }
    let start = clock();
    let rounds = std::hint::black_box(400_000);
    // Safety: the loader has found this level.
    let (sum, lanes) = unsafe { if level == "v4" { (wide(rounds), 16.0 * 16.0) } else { (narrow(rounds), 12.0 * 8.0) } };
    std::hint::black_box(sum);
    2.0 * lanes * rounds as f64 / (clock() - start) / 1e9
}

/// One phase of equal parts.
struct Launched<'a> {
    opened: AtomicBool,
    parts: usize,
    /// Part, thread.
    body: &'a (dyn Fn(usize, usize) + Sync),
}

impl Region for Launched<'_> {
    fn next(&self, _: usize) -> usize {
        if self.opened.swap(true, Relaxed) { 0 } else { self.parts }
    }
    fn chunk(&self, chunk: usize, thread: usize) {
        (self.body)(chunk, thread);
    }
}

fn main() {
    let word = std::env::args().skip(1).find(|a| !a.starts_with("--"));
    let level = level();
    println!("level {level}; {:48} {:>21} {:>21} {:>21}", "shape", "1 thread: GFLOP/s", "2 threads: GFLOP/s", "best of 1 and 2");
    for case in cases().into_iter().filter(|c| word.as_ref().is_none_or(|w| c.name.contains(w.as_str()))) {
        let lowered = lower(&case.module);
        let (kernels, entries) = plan(&case.module, &lowered, &Sources::default());
        let (loader, each) = compiled(&kernels);
        let Some(Step::Launch(launch)) = entries[0].plan.steps.first() else { panic!("one launch") };
        let number = |s: &Size| s.eval(&case.dims).expect("all dims are given");
        let elements = |b: u32| entries[0].plan.buffers[b as usize].shape.iter().map(&number).product::<i64>() as usize;
        let buffers: Vec<Aligned> = launch.args.iter().map(|b| floats(elements(*b))).collect();
        let args: Vec<usize> = buffers.iter().map(|b| b.as_ptr() as usize).collect();
        let sizes: Vec<i64> = launch.sizes.iter().map(&number).collect();
        let tasks = number(&launch.tasks);
        let scratch = Aligned::zeroed(2 * each).expect("memory");
        let scratch = scratch.as_ptr() as usize;
        let mut pools = [Pool::new(1), Pool::new(2)];
        let mut run = |threads: usize| {
            let (start, own) = (Instant::now(), clock());
            pools[threads - 1].run(&Launched {
                opened: AtomicBool::new(false),
                parts: threads,
                body: &|part, thread| {
                    let args: Vec<*mut u8> = args.iter().map(|a| *a as *mut u8).collect();
                    let cut = |part: usize| tasks * part as i64 / threads as i64;
                    // Safety: buffers of the launch's sizes, and scratch of the thread's own.
                    let scratch = (scratch + thread * each) as *mut u8;
                    let code = unsafe { loader.run(launch.kernel, &args, &sizes, cut(part), cut(part + 1), scratch) };
                    assert_eq!(code, 0);
                },
            });
            let seconds = if threads == 1 { clock() - own } else { start.elapsed().as_secs_f64() };
            case.flops / seconds / 1e9
        };
        run(1);
        run(2);
        let rounds = (6e9 / case.flops).clamp(7.0, 200.0) as usize;
        let (mut peaks, mut shares, mut speeds) = (vec![], [vec![], vec![]], [vec![], vec![]]);
        for _ in 0..rounds {
            let now = peak(level);
            peaks.push(now);
            for threads in [1, 2] {
                let speed = run(threads);
                speeds[threads - 1].push(speed);
                shares[threads - 1].push(speed / now / threads as f64);
            }
        }
        let best = |n: usize| speeds[n].iter().copied().fold(0.0, f64::max);
        let [one, two] = [0, 1].map(|n| (median(speeds[n].clone()), 100.0 * median(shares[n].clone())));
        println!(
            "{:60} {:>9.1} {:>6.0} % {:>12.1} {:>6.0} % {:>10.0} {:>8.0}  peak {:.0}",
            case.name,
            one.0,
            one.1,
            two.0,
            two.1,
            best(0),
            best(1),
            median(peaks)
        );
    }
}
