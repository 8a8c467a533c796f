//! What only a GPU can get wrong: threads that do not wait for each other, schedules, inexact instructions. That results are the interpreter's is
//! tested with the other levels, by `emit::tests` and on every shipped model.

use super::{Products, THREADS, emulated, emulated_by, grid, ptx, teams, tiles};
use crate::emit::declare;
use crate::emit::tests::filled;
use crate::ir::DType;
use crate::ir::generate::Random;
use crate::kernel::interpret::Interpreter;
use crate::kernel::{Kernel, parse};
use nnc_emulator::{Emulator, Fault, Order};
use nnc_runtime::dtype::Scalar;
use nnc_runtime::exec::Kernels;
use nnc_runtime::loader::Loader;
use nnc_runtime::tensor::Tensor;

/// Nothing contracted, flushed, approximated, called, or kept in memory of a thread's own.
pub fn exact(kernels: &[Kernel]) {
    let names: Vec<_> = kernels.iter().enumerate().map(|(i, k)| declare(&format!("k{i}"), k)).collect();
    let text = ptx(kernels, &names, Products::Exact).unwrap().concat();
    assert_eq!(text.matches(".entry").count(), kernels.len());
    for line in text.lines() {
        for word in [".ftz", ".approx", ".full", "call", ".local"] {
            assert!(!line.contains(word), "{line}");
        }
        for op in ["add", "sub", "mul", "div", "fma", "sqrt"] {
            let rounded_somehow = |ty: &str| line.trim_start().starts_with(&format!("{op}.{ty}"));
            assert!(!rounded_somehow("f32") && !rounded_somehow("f64"), "{line}");
        }
    }
}

/// A row's softmax, and what a thread stores read by another.
const ROWS: &str = "\
kernel rows(n0) {
  p0: f32[n0, 50]
  p1: out f32[n0, 50]
  p2: out f32[n0, 50]
  local l0: f32
  outer [i0 < n0]
  stage sum [i1 < 50] {
    %0 = load p0[i0, i1]
    fold %0
    l0 = result 0
  }
  stage map inner [i1 < 50] {
    %0 = load p0[i0, i1]
    %1 = local l0
    %2 = %0 + %1
    fold %2
    p1[i0, i1] = result 0
  }
  stage map inner [i1 < 50] {
    %0 = load p1[i0, 49 - i1]
    fold %0
    p2[i0, i1] = result 0
  }
}
";

const PRODUCT: &str = "\
kernel product(n0) {
  p0: f32[n0, 40]
  p1: f32[70, 40]
  p2: out f32[n0, 70]
  local l0: f32
  outer [i0 < n0, i1 < 70]
  stage dot [i2 < 40] {
    %0 = load p0[i0, i2]
    %1 = load p1[i1, i2]
    fold %0, %1
    l0 = result 0
  }
  stage map {
    %0 = local l0
    %1 = 1.0
    %2 = %0 + %1
    fold %2
    p2[i0, i1] = result 0
  }
}
";

const PICK: &str = "\
kernel pick(n0) {
  p0: i64[n0]
  p1: f32[3]
  p2: out f32[n0]
  outer [i0 < n0]
  stage map {
    %0 = load p0[i0]
    %1 = load p1[%0]
    fold %1
    p2[i0] = result 0
  }
}
";

fn kernel(text: &str) -> Kernel {
    parse::kernel(text).unwrap_or_else(|e| panic!("{e:?}"))
}

fn emulator(kernel: &Kernel, blocks: usize, order: Order) -> Emulator {
    let names = [declare("k", kernel)];
    let objects = emulated(std::slice::from_ref(kernel), &names).unwrap();
    Emulator::new(Loader::new(objects.iter().map(Vec::as_slice), &names, "v3").unwrap(), THREADS as usize, blocks, order)
}

/// What `machine` makes of these buffers, and its code.
fn run(machine: &dyn Kernels, inputs: &[Tensor], size: i64) -> (i64, Vec<Tensor>) {
    let mut buffers = inputs.to_vec();
    let args: Vec<*mut u8> = buffers.iter_mut().map(|b| b.bytes_mut().as_mut_ptr()).collect();
    // Safety: the buffers have the kernel's shapes at this size.
    let code = unsafe { machine.run(0, &args, &[size], 0, size, std::ptr::null_mut()) };
    (code, buffers)
}

fn inputs(kernel: &Kernel, size: i64) -> Vec<Tensor> {
    let dims = [("n0".into(), size)].into();
    let mut random = Random::new(5);
    let shape = |p: &crate::kernel::Param| -> Vec<i64> { p.shape.iter().map(|s| s.eval(&dims).unwrap()).collect() };
    kernel.params.iter().map(|p| filled(p.dtype, &shape(p), &mut random)).collect()
}

const ORDERS: [Order; 5] = [Order::Forward, Order::Backward, Order::Random(1), Order::Random(2), Order::Random(3)];

/// Leaving out any wait gives another result in some order of threads; with all of them none does.
#[test]
fn every_wait_is_needed() {
    let faults = |waits: u64, fault: fn(u64) -> Fault| (0..waits).map(fault).collect::<Vec<_>>();
    // Each of two tiles has two waits for each of three pieces of `k`, and two for what is stored. Nothing lies before the very first ones.
    let cases = [(ROWS, &faults(2, Fault::Team)[1..]), (PRODUCT, &faults(16, Fault::Barrier)[1..])];
    for (text, faults) in cases {
        let kernel = kernel(text);
        let inputs = inputs(&kernel, 9);
        let right = run(&emulator(&kernel, 1, Order::Forward), &inputs, 9);
        assert_eq!(right.0, 0);
        let same = |found: &(i64, Vec<Tensor>)| right.1.iter().zip(&found.1).all(|(a, b)| a.same(b));
        for order in ORDERS {
            assert!(same(&run(&emulator(&kernel, 1, order), &inputs, 9)), "{} {order:?}", kernel.name);
        }
        for fault in faults {
            let noticed = |order: &Order| !same(&run(&emulator(&kernel, 1, *order).with(*fault), &inputs, 9));
            assert!(ORDERS.iter().any(noticed), "{} without {fault:?}", kernel.name);
        }
    }
}

/// Inputs of [`PRODUCT`] that are all finite.
fn finite(size: i64) -> Vec<Tensor> {
    let mut random = Random::new(5);
    let mut tensor = |shape: &[i64]| {
        let values = (0..shape.iter().product::<i64>()).map(|_| random.below(2001) as f32 / 700.0 - 1.4);
        Tensor::from_f32(shape, &values.collect::<Vec<_>>())
    };
    vec![tensor(&[size, 40]), tensor(&[70, 40]), tensor(&[size, 70])]
}

/// Sums of products by tensor units: in threes that leave out next to nothing, with each wait.
#[test]
fn tensor_units_come_within_a_hundred_thousandth() {
    let kernel = kernel(PRODUCT);
    let names = [declare("k", &kernel)];
    let text = ptx(std::slice::from_ref(&kernel), &names, Products::Tensor).unwrap().concat();
    // Three for each of 2 x 4 pieces, two steps of eight at a time.
    assert_eq!(text.matches("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32").count(), 3 * 8 * 2, "{text}");
    assert!(!text.contains(".local"), "{text}");
    let objects = emulated_by(std::slice::from_ref(&kernel), &names, Products::Tensor).unwrap();
    let units = |order| Emulator::new(Loader::new(objects.iter().map(Vec::as_slice), &names, "v3").unwrap(), THREADS as usize, 2, order);
    for size in [9, 64, 130] {
        let inputs = finite(size);
        let exact = run(&Interpreter::new(vec![kernel.clone()]), &inputs, size).1[2].clone();
        let right = run(&units(ORDERS[0]), &inputs, size).1[2].clone();
        // What the sum of the products' sizes is: the measure of what rounding may do.
        let size_of = |t: &Tensor| Tensor::from_f64(&t.shape, &t.scalars().iter().map(|s| s.to_f64().abs()).collect::<Vec<_>>());
        let [a, b] = [size_of(&inputs[0]), size_of(&inputs[1])];
        for (n, (exact, found)) in exact.scalars().iter().zip(right.scalars()).enumerate() {
            let (i, j) = (n / 70, n % 70);
            let scale: f64 = (0..40).map(|k| a.as_f64()[i * 40 + k] * b.as_f64()[j * 40 + k]).sum();
            assert!((exact.to_f64() - found.to_f64()).abs() <= 1e-5 * scale.max(1.0), "{n} of {size}: {exact:?}, {found:?}");
        }
        assert!(!exact.same(&right), "other bits, or nothing was tried");
        for order in ORDERS {
            assert!(run(&units(order), &inputs, size).1[2].same(&right), "{order:?}");
        }
    }
    let inputs = finite(9);
    let right = run(&units(ORDERS[0]), &inputs, 9).1;
    // A block has one of the two tiles, with two waits for each of three pieces of `k`, and two for what is stored.
    for fault in 1..8 {
        let differs = |order: &Order| !run(&units(*order).with(Fault::Barrier(fault)), &inputs, 9).1[2].same(&right[2]);
        assert!(ORDERS.iter().any(differs), "without barrier {fault}");
    }
}

/// Infinite factors and NaN give what they give everywhere: infinite sums with their signs, NaN where they meet 0 or one another, and nothing elsewhere.
#[test]
fn tensor_units_keep_what_is_not_finite_apart() {
    let kernel = kernel(PRODUCT);
    let names = [declare("k", &kernel)];
    let objects = emulated_by(std::slice::from_ref(&kernel), &names, Products::Tensor).unwrap();
    let units = Emulator::new(Loader::new(objects.iter().map(Vec::as_slice), &names, "v3").unwrap(), THREADS as usize, 2, ORDERS[0]);
    let mut inputs = finite(9);
    let mut put = |input: usize, row: usize, k: usize, x: f32| inputs[input].set(row * 40 + k, Scalar::float(DType::F32, x as f64));
    // Factors with one piece only, and a 0.
    put(0, 2, 3, f32::INFINITY);
    put(1, 5, 3, 1.0);
    put(1, 6, 3, 0.0);
    put(1, 7, 3, -2.0);
    // Two that add up, or not; one that meets an infinite one.
    put(0, 4, 8, f32::INFINITY);
    put(0, 4, 9, f32::NEG_INFINITY);
    put(1, 8, 8, 1.0);
    put(1, 8, 9, 1.0);
    put(1, 9, 8, 1.0);
    put(1, 9, 9, -1.5);
    put(1, 11, 3, f32::NEG_INFINITY);
    put(0, 6, 20, f32::NAN);
    let exact = run(&Interpreter::new(vec![kernel.clone()]), &inputs, 9).1[2].scalars();
    let found = run(&units, &inputs, 9).1[2].scalars();
    let kind = |x: f64| {
        if x.is_nan() {
            "NaN"
        } else if x.is_finite() {
            "finite"
        } else if x > 0.0 {
            "inf"
        } else {
            "-inf"
        }
    };
    let mut kinds = std::collections::BTreeMap::new();
    for (n, (exact, found)) in exact.iter().zip(&found).enumerate() {
        assert_eq!(kind(exact.to_f64()), kind(found.to_f64()), "row {} column {}: {exact:?}, {found:?}", n / 70, n % 70);
        *kinds.entry(kind(exact.to_f64())).or_insert(0) += 1;
    }
    assert!(kinds.len() == 4 && kinds["NaN"] > 70 && kinds["finite"] > 200, "{kinds:?}");
}

#[test]
fn rows_and_products_have_schedules_of_their_own() {
    let [rows, product, pick] = [ROWS, PRODUCT, PICK].map(kernel);
    assert!(teams::fits(&rows) && tiles::tiled(&rows).is_none());
    assert!(tiles::tiled(&product).is_some());
    assert!(!teams::fits(&pick) && tiles::tiled(&pick).is_none());
    let blocks = |kernel: &Kernel, n: i64| grid(kernel).blocks.eval(&[("n0".into(), n)].into()).unwrap();
    assert_eq!([&rows, &product, &pick].map(|k| [0, 1, 9, 1000].map(|n| blocks(k, n))), [[0, 1, 2, 125], [0, 2, 2, 32], [0, 1, 1, 8]]);
    exact(&[rows, product, pick]);
}

#[test]
fn an_index_out_of_bounds_is_reported_and_stops_nobody() {
    let kernel = kernel(PICK);
    let mut inputs = inputs(&kernel, 4);
    inputs[0] = Tensor::from_i64(&[4], &[2, 0, 3, 1]);
    let (code, found) = run(&emulator(&kernel, 2, Order::Forward), &inputs, 4);
    assert_eq!(code, 1);
    let table = &inputs[1];
    assert_eq!([0, 1, 3].map(|i| found[2].get(i)), [table.get(2), table.get(0), table.get(1)]);
    let interpreted = run(&Interpreter::new(vec![kernel]), &inputs, 4);
    assert_ne!(interpreted.0, 0);
}
