//! The law of lowering, fusion and planning: the interpreter over the plan gives what the graph's evaluator gives, bit for bit.

use super::{plan, print::entry as print};
use crate::ir::{self, *};
use crate::kernel::{Kernel, interpret::Interpreter, lower};
use crate::span::{Sources, Span};
use nnc_runtime::exec::Kernels;
use nnc_runtime::manifest::{Buffer, Call, Chain, Entry as Planned, Part, Plan, Sink, Source, Step, Storage};
use nnc_runtime::place;
use nnc_runtime::tensor::Tensor;
use std::ops::Range;

/// Runs a plan on the interpreter: one arena, poisoned before the run.
fn run(entry: &Planned, kernels: &[Kernel], inputs: &[Tensor], dims: &Dims) -> Result<Vec<Tensor>, String> {
    let plan = &entry.plan;
    let shape = |b: &Buffer| b.shape.iter().map(|s| s.eval(dims).unwrap()).collect::<Vec<i64>>();
    let bytes: Vec<usize> = plan.buffers.iter().map(|b| shape(b).iter().product::<i64>() as usize * b.dtype.bytes()).collect();
    let chained: Vec<Range<usize>> = plan.chains.iter().map(|c| c.first as usize..(c.first + c.steps) as usize).collect();
    let (offsets, total) = place::plan(plan, &bytes, &chained).unwrap();
    no_overlap(plan, &bytes, &offsets, total);
    let mut arena = Tensor::filled(&[total as i64 / 8], Scalar::i64(-1));
    let mut inputs = inputs.to_vec();
    let root = |id: u32| plan.buffers[id as usize].storage.of().unwrap_or(id);
    let base = arena.bytes_mut().as_mut_ptr();
    let given: Vec<*mut u8> = inputs.iter_mut().map(|t| t.bytes_mut().as_mut_ptr()).collect();
    let start = |id: u32| match offsets[id as usize] {
        Some(offset) => base.wrapping_add(offset),
        None => given[entry.inputs.iter().position(|(_, b)| *b == root(id)).unwrap()],
    };
    let at = |id: u32| {
        let buffer = &plan.buffers[id as usize];
        let Storage::Part(Part { of, start: first, along }) = &buffer.storage else { return start(id) };
        let position = |index: u32| unsafe { start(index).cast::<i64>().read() };
        let elements = along.iter().fold(first.eval(dims).unwrap(), |n, (index, stride)| n + position(*index) * stride.eval(dims).unwrap());
        let from = elements as usize * buffer.dtype.bytes();
        assert!(elements >= 0 && from + bytes[id as usize] <= bytes[*of as usize], "{buffer:?} leaves its buffer");
        start(id).wrapping_add(from)
    };
    for (id, b) in plan.buffers.iter().enumerate() {
        if let Storage::Constant(data) = &b.storage {
            let t = Tensor::from_scalars(b.dtype, &shape(b), data);
            unsafe { at(id as u32).copy_from_nonoverlapping(t.bytes().as_ptr(), bytes[id]) };
        }
    }
    let interpreter = Interpreter::new(kernels.to_vec());
    steps(plan, 0..plan.steps.len(), &interpreter, &at, &bytes, dims)?;
    let result = |(_, id): &(Sink, u32)| {
        let b = &plan.buffers[*id as usize];
        assert_eq!(b.storage, Storage::Result);
        let mut t = Tensor::zeros(b.dtype, &shape(b));
        unsafe { t.bytes_mut().as_mut_ptr().copy_from_nonoverlapping(at(*id), bytes[*id as usize]) };
        t
    };
    let results: Vec<Tensor> = entry.results.iter().map(result).collect();
    if plan.advance > 0 {
        // What was computed in advance is still there.
        steps(plan, plan.advance as usize..plan.steps.len(), &interpreter, &at, &bytes, dims)?;
        let again = entry.results.iter().map(result);
        assert!(again.zip(&results).all(|(a, b)| a.same(b)), "another run gives something else\n{}", print(entry, kernels));
    }
    Ok(results)
}

type At<'a> = &'a dyn Fn(u32) -> *mut u8;

/// Runs a chain part by part, the last one first; what a part leaves in buffers that are each thread's own is gone before the next.
fn parts(plan: &Plan, chain: &Chain, machine: &Interpreter, at: At, bytes: &[usize], dims: &Dims) -> Result<(), String> {
    let count = chain.parts.eval(dims).unwrap();
    for part in (0..count).rev() {
        for id in &chain.own {
            assert_eq!(plan.buffers[*id as usize].storage, Storage::Arena);
            unsafe { at(*id).write_bytes(0xff, bytes[*id as usize]) };
        }
        for step in &plan.steps[chain.first as usize..][..chain.steps as usize] {
            let Step::Launch(l) = step else { panic!("{step:?} in a chain") };
            let args: Vec<*mut u8> = l.args.iter().map(|b| at(*b)).collect();
            let sizes: Vec<i64> = l.sizes.iter().map(|s| s.eval(dims).unwrap()).collect();
            let tasks = l.tasks.eval(dims).unwrap();
            assert_eq!(tasks % count, 0, "{l:?} in {count} parts");
            let each = tasks / count;
            assert_eq!(unsafe { machine.run(l.kernel, &args, &sizes, part * each, (part + 1) * each, std::ptr::null_mut()) }, 0);
        }
    }
    Ok(())
}

fn steps(plan: &Plan, range: Range<usize>, machine: &Interpreter, at: At, bytes: &[usize], dims: &Dims) -> Result<(), String> {
    let mut n = range.start;
    while n < range.end {
        if let Some(chain) = plan.chains.iter().find(|chain| chain.first as usize == n) {
            parts(plan, chain, machine, at, bytes, dims)?;
            n += chain.steps as usize;
            continue;
        }
        match &plan.steps[n] {
            Step::Launch(l) => {
                let own = Call { args: l.args.clone(), sizes: l.sizes.clone(), tasks: l.tasks.clone(), flops: l.flops.clone() };
                // Calls and ranges, the later ones first: they may run in any order.
                for call in l.beside.iter().rev().chain([&own]) {
                    let args: Vec<*mut u8> = call.args.iter().map(|b| at(*b)).collect();
                    let sizes: Vec<i64> = call.sizes.iter().map(|s| s.eval(dims).unwrap()).collect();
                    let tasks = call.tasks.eval(dims).unwrap();
                    let middle = tasks / 2;
                    for (lo, hi) in [(middle, tasks), (0, middle)] {
                        if unsafe { machine.run(l.kernel, &args, &sizes, lo, hi, std::ptr::null_mut()) } != 0 {
                            return Err("out of bounds".into());
                        }
                    }
                }
            }
            Step::Loop { count, body, index, reversed } => {
                let (count, body) = (count.eval(dims).unwrap(), *body as usize);
                for i in 0..count {
                    unsafe { at(*index).cast::<i64>().write(if *reversed { count - 1 - i } else { i }) };
                    steps(plan, n + 1..n + 1 + body, machine, at, bytes, dims)?;
                }
                n += body;
            }
            Step::Copy { from, to } => {
                assert_eq!(bytes[*from as usize], bytes[*to as usize]);
                unsafe { at(*to).copy_from(at(*from), bytes[*from as usize]) }
            }
            Step::Check { condition, message, .. } => {
                if (0..bytes[*condition as usize]).any(|i| unsafe { at(*condition).add(i).read() } == 0) {
                    return Err(message.to_string());
                }
            }
        }
        n += 1;
    }
    Ok(())
}

/// Buffers that are alive together lie apart, and the arena ends where the last one does.
fn no_overlap(plan: &Plan, bytes: &[usize], offsets: &[Option<usize>], total: usize) {
    let own: Vec<usize> = (0..bytes.len()).filter(|i| offsets[*i].is_some() && plan.buffers[*i].storage.of().is_none()).collect();
    let range = |i: usize| offsets[i].unwrap()..offsets[i].unwrap() + bytes[i];
    for &a in &own {
        for &b in own.iter().filter(|b| **b < a) {
            let (x, y) = (&plan.buffers[a], &plan.buffers[b]);
            let together = x.first <= y.last && y.first <= x.last;
            assert!(!together || range(a).end <= range(b).start || range(b).end <= range(a).start, "{x:?} and {y:?} overlap");
        }
    }
    assert_eq!(total, own.iter().map(|i| range(*i).end.next_multiple_of(place::ALIGN)).max().unwrap_or(0));
}

/// Makes the last function an entry, and compares plan and evaluator on the inputs.
pub(super) fn law(mut module: Module, inputs: &[Tensor], dims: &Dims) {
    let f = FunctionId(module.functions.len() as u32 - 1);
    let function = module.function(f);
    module.entries = vec![ir::Entry {
        name: "infer:test".into(),
        function: f,
        inputs: function.inputs.iter().map(|i| Source::Data(i.name.clone())).collect(),
        results: (0..function.results.len()).map(|n| Sink::Result(format!("{n}").into())).collect(),
    }];
    ir::verify::verify(&module).unwrap_or_else(|e| panic!("{}\n{}", e.join("\n"), ir::print::module(&module)));
    compare(&module, inputs, dims);
}

fn compare(module: &Module, inputs: &[Tensor], dims: &Dims) {
    let lowered = lower(module);
    let (kernels, entries) = plan(module, &lowered, &Sources::default());
    for kernel in &kernels {
        let text = crate::kernel::print::kernel(kernel);
        let read = crate::kernel::parse::kernel(&text).unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert!(read == *kernel && read.name == kernel.name, "{text}\nreads back as\n{}", crate::kernel::print::kernel(&read));
    }
    let expected = eval::function(module, module.entries[0].function, inputs, dims);
    let found = run(&entries[0], &kernels, inputs, dims);
    let text = || format!("{}\n{}", ir::print::module(module), print(&entries[0], &kernels));
    match (&expected, &found) {
        (Ok(a), Ok(b)) => {
            for (n, (a, b)) in a.iter().zip(b).enumerate() {
                assert!(a.same(b), "result {n} is\n{:?}, not\n{:?}\n{}", b.scalars(), a.scalars(), text());
            }
        }
        (Err(_), Err(_)) => {}
        _ => panic!("{expected:?} but {found:?}\n{}", text()),
    }
}

#[test]
fn random_programs_mean_the_same_as_plans() {
    for seed in ir::generate::seeds(1500) {
        let case = ir::generate::case(seed);
        compare(&case.module, &case.inputs, &case.dims);
    }
}

/// The same where inputs are stored tensors, so that what depends on them alone comes first, and factors are packed.
#[test]
fn random_programs_mean_the_same_in_advance() {
    let stored = |mut module: Module, inputs: &[Tensor], dims: &Dims, such: &dyn Fn(usize) -> bool| {
        let entry = &mut module.entries[0];
        for (n, source) in entry.inputs.iter_mut().enumerate().filter(|(n, _)| such(*n)) {
            *source = Source::Tensor(format!("t{n}").into());
        }
        entry.results.iter_mut().enumerate().for_each(|(n, sink)| *sink = Sink::Result(format!("{n}").into()));
        compare(&module, inputs, dims);
        let (kernels, entries) = plan(&module, &lower(&module), &Sources::default());
        entries[0].plan.advance > 0 && kernels.iter().any(|k| &*k.name == "pack")
    };
    for seed in ir::generate::seeds(600) {
        let case = ir::generate::case(seed);
        // Half of them: the others keep the rest of the program from coming first too.
        stored(case.module, &case.inputs, &case.dims, &|n| (n as u64 + seed).is_multiple_of(2));
    }
    let mut f = Function::new("linear");
    let x = f.input("x", Type::new(DType::F32, vec![Size::dim("B"), c(300)]));
    let w = f.input("w", Type::new(DType::F32, vec![c(40), c(300)]));
    let product = op(ScalarOp::Mul, [load_at(0, [0, 2]), load_at(1, [1, 2])]);
    let y = f.nest(Nest::fold(vec![Size::dim("B"), c(40)], vec![c(300)], Fold::Dot, product), [x, w], Span::default());
    let mut module = finish(f, &[y]);
    let (inputs, results) = (["x", "w"].map(|name| Source::Data(name.into())).to_vec(), vec![Sink::Result("y".into())]);
    module.entries = vec![ir::Entry { name: "infer:test".into(), function: FunctionId(0), inputs, results }];
    let inputs = [f32s(&[3, 300], 0.1), f32s(&[40, 300], 0.2)];
    assert!(stored(module, &inputs, &dims(3), &|n| n == 1), "weights are packed");
}

/// Convolutions in squares are what the evaluator computes, printed and parsed, with what follows them, and with weights transformed in advance.
#[test]
fn squares_mean_the_same_as_plans() {
    let text = "dim B >= 1\n\nfn @f(x: f32[B, 3, 5, 8], w: f32[4, 3, 3, 3], v: f32[4, 4, 3, 3]) {
  %y[b, i, j, k]: f32[B, 4, 5, 8] = winograd[l < 3, m < 3, n < 3](%w[i, l, m, n] * %x[b, l, j + m - 1, k + n - 1, else 0.0])
  %z[b, i, j, k]: f32[B, 4, 5, 8] = maximum(%y[b, i, j, k], 0.0)
  %r[b, i, j, k]: f32[B, 4, 3, 6] = winograd[l < 4, m < 3, n < 3](%v[l, i, -m + 2, -n + 2] * %z[b, l, j + m, k + n, else 0.0])
  return %z, %r
}
";
    let mut module = ir::parse::module(text).unwrap();
    assert_eq!(ir::print::module(&module), text);
    let inputs = [f32s(&[2, 3, 5, 8], -0.7), f32s(&[4, 3, 3, 3], 0.3), f32s(&[4, 4, 3, 3], 0.2)];
    law(module.clone(), &inputs, &dims(2));
    let sources = vec![Source::Data("x".into()), Source::Tensor("w".into()), Source::Tensor("v".into())];
    let results = ["z", "r"].map(|name| Sink::Result(name.into())).to_vec();
    module.entries = vec![ir::Entry { name: "infer:test".into(), function: FunctionId(0), inputs: sources, results }];
    compare(&module, &inputs, &dims(2));
    let (kernels, entries) = plan(&module, &lower(&module), &Sources::default());
    // Both weights are, each by a kernel of its own: their axes lie in different orders.
    assert_eq!((entries[0].plan.advance, kernels.iter().filter(|k| &*k.name == "squares").count()), (2, 2));
}

/// So are the gradients of their weights, of odd sizes and for no image at all.
#[test]
fn gradients_in_squares_mean_the_same_as_plans() {
    let text = "dim B >= 0

fn @f(x: f32[B, 3, 5, 8], d: f32[B, 4, 5, 8], w: f32[4, 3, 3, 3]) {
  %g[i, j, k, l]: f32[4, 3, 3, 3] = winograd_weights[b < B, m < 5, n < 8](%d[b, i, m, n] * %x[b, j, k + m - 1, l + n - 1, else 0.0])
  %u[i, j, k, l]: f32[4, 3, 3, 3] = %w[i, j, k, l] - 0.5 * %g[i, j, k, l]
  return %u
}
";
    let module = ir::parse::module(text).unwrap();
    assert_eq!(ir::print::module(&module), text);
    // Nor need lines and columns be known.
    let free = text.replace(" 5", " H").replace(" 8", " W").replace("dim B >= 0", "dim B >= 0\ndim H >= 0\ndim W >= 0");
    let free = ir::parse::module(&free).unwrap();
    for images in [0, 1, 9] {
        let inputs = [f32s(&[images, 3, 5, 8], -0.7), f32s(&[images, 4, 5, 8], 0.3), f32s(&[4, 3, 3, 3], 0.2)];
        law(module.clone(), &inputs, &dims(images));
        law(free.clone(), &inputs, &[dims(images), [("H".into(), 5), ("W".into(), 8)].into()].into_iter().flatten().collect());
    }
}

fn c(n: i64) -> Size {
    Size::constant(n)
}

pub(super) fn f32s(shape: &[i64], from: f64) -> Tensor {
    let n: i64 = shape.iter().product();
    let values: Vec<f32> = (0..n).map(|i| ((i as f64 * 0.7310585 + from) * 12.9898).sin() as f32).collect();
    Tensor::from_f32(shape, &values)
}

fn op(op: ScalarOp, args: impl Into<Vec<Expr>>) -> Expr {
    Expr::op(op, args)
}

fn finish(mut f: Function, results: &[Value]) -> Module {
    f.results = results.iter().map(|v| (None, *v)).collect();
    let dims = vec![Dim { name: "B".into(), min: 0, max: None }];
    Module { functions: vec![f], dims, ..Module::default() }
}

/// `softmax(relu(x W^T + b) V^T)` over a free batch; returns the function.
fn mlp() -> (Function, Vec<Value>) {
    let (b, s) = (Size::dim("B"), Span::default());
    let ty = |shape: &[Size]| Type::new(DType::F32, shape);
    let mut f = Function::new("mlp");
    let x = f.input("x", ty(&[b.clone(), c(300)]));
    let w = f.input("w", ty(&[c(7), c(300)]));
    let bias = f.input("b", ty(&[c(7)]));
    let v = f.input("v", ty(&[c(5), c(7)]));
    let dot = |i, j| Nest::fold(vec![b.clone(), i], vec![j], Fold::Dot, op(ScalarOp::Mul, [load_at(0, [0, 2]), load_at(1, [1, 2])]));
    let h = f.nest(dot(c(7), c(300)), [x, w], s);
    let h = f.nest(Nest::map(vec![b.clone(), c(7)], op(ScalarOp::Add, [load_at(0, [0, 1]), load_at(1, [1])])), [h, bias], s);
    let zero = float(DType::F32, 0.0);
    let positive = op(ScalarOp::Lt, [zero.clone(), load_at(0, [0, 1])]);
    let h = f.nest(Nest::map(vec![b.clone(), c(7)], op(ScalarOp::Select, [positive, load_at(0, [0, 1]), zero])), [h], s);
    let z = f.nest(dot(c(5), c(7)), [h, v], s);
    let max = f.nest(Nest::fold(vec![b.clone()], vec![c(5)], Fold::Max, load_at(0, [0, 1])), [z], s);
    let row = vec![b.clone(), c(5)];
    let shifted = op(ScalarOp::Sub, [load_at(0, [0, 1]), load_at(1, [0])]);
    let e = f.nest(Nest::map(row.clone(), op(ScalarOp::Exp, [shifted])), [z, max], s);
    let sum = f.nest(Nest::fold(vec![b.clone()], vec![c(5)], Fold::Sum, load_at(0, [0, 1])), [e], s);
    let p = f.nest(Nest::map(row, op(ScalarOp::Div, [load_at(0, [0, 1]), load_at(1, [0])])), [e, sum], s);
    let best = f.nest(Nest::fold(vec![b], vec![c(5)], Fold::ArgMax, load_at(0, [0, 1])), [p], s);
    let at = Value { result: 1, ..best };
    (f, vec![h, p, at])
}

pub(super) fn dims(b: i64) -> Dims {
    [("B".into(), b)].into()
}

fn mlp_inputs(b: i64) -> Vec<Tensor> {
    vec![f32s(&[b, 300], 0.1), f32s(&[7, 300], 0.2), f32s(&[7], 0.3), f32s(&[5, 7], 0.4)]
}

#[test]
fn a_classifier_is_three_kernels() {
    let (f, results) = mlp();
    let module = finish(f, &results);
    for b in [0, 1, 3] {
        law(module.clone(), &mlp_inputs(b), &dims(b));
    }
    let text = crate::kernel::fuse::describe(&module.functions[0]);
    assert_eq!(text.matches("kernel over").count(), 3, "{text}");
    assert!(text.contains("a contraction would lose a parallel axis"), "{text}");
    let lowered = lower(&module);
    assert_eq!(
        crate::kernel::print::kernel(&lowered.kernels[0]),
        "\
kernel dot_map_map(n0) {
  p0: f32[n0, 300]
  p1: f32[7, 300]
  p2: f32[7]
  p3: out f32[n0, 7]
  local l0: f32
  outer [i0 < n0, i1 < 7]
  stage dot [i2 < 300] {
    %0 = load p0[i0, i2]
    %1 = load p1[i1, i2]
    fold %0, %1
    l0 = result 0
  }
  stage map {
    %0 = local l0
    %1 = load p2[i1]
    %2 = %0 + %1
    %3 = 0.0
    %4 = %3 < %2
    %5 = select %4 {
      yield %2
    } else {
      yield %3
    }
    fold %5
    p3[i0, i1] = result 0
  }
}
"
    );
}

/// Three rounds of `(a, b) -> (b, a + b)` inside three rounds of `(b, a)` over rows of a matrix: carries that change places, loops in loops.
#[test]
fn carries_change_places() {
    let (ty, s) = (Type::new(DType::F32, vec![c(4)]), Span::default());
    let i64s = Type::scalar(DType::I64);
    let mut swap = Function::new("swap");
    swap.input("i", i64s.clone());
    let (a, b) = (swap.input("a", ty.clone()), swap.input("b", ty.clone()));
    let sum = swap.nest(Nest::map(vec![c(4)], op(ScalarOp::Add, [load_at(0, [0]), load_at(1, [0])])), [a, b], s);
    swap.results = vec![(None, b), (None, sum), (None, a)];
    let mut turn = Function::new("turn");
    turn.input("i", i64s);
    let (a, b, row) = (turn.input("a", ty.clone()), turn.input("b", ty.clone()), turn.input("row", ty.clone()));
    let add = turn.nest(Nest::map(vec![c(4)], op(ScalarOp::Add, [load_at(0, [0]), load_at(1, [0])])), [a, row], s);
    let stack = Type::new(DType::F32, vec![c(4), c(3)]);
    let scan = |body, carries, reversed, inputs, outputs| Op::Scan(Scan { body: FunctionId(body), length: c(3), reversed, carries, inputs, outputs });
    let types = vec![ty.clone(), ty.clone(), stack.clone()];
    let inner = turn.push_node(Node { op: scan(0, 2, false, vec![], vec![1]), operands: vec![add, b], types, name: None, span: s });
    let at = |node, result| Value { node, result };
    turn.results = vec![(None, at(inner, 1)), (None, a), (None, at(inner, 2))];
    let mut f = Function::new("main");
    let (a, m) = (f.input("a", ty.clone()), f.input("m", Type::new(DType::F32, vec![c(3), c(4)])));
    let stacks = Type::new(DType::F32, vec![c(3), c(4), c(3)]);
    let types = vec![ty.clone(), ty, stacks];
    let outer = f.push_node(Node { op: scan(1, 2, true, vec![0], vec![0]), operands: vec![a, a, m], types, name: None, span: s });
    let mut module = finish(f, &[at(outer, 0), at(outer, 1), at(outer, 2), a]);
    module.functions.splice(0..0, [swap, turn]);
    law(module, &[f32s(&[4], 0.5), f32s(&[3, 4], 0.6)], &dims(1));
}

/// A gather beyond the axis stops the run, in a loop over the rest of the program or not.
#[test]
fn accesses_are_checked() {
    let mut f = Function::new("f");
    let (x, at) = (f.input("x", Type::new(DType::F32, vec![c(5)])), f.input("at", Type::new(DType::I64, vec![c(2)])));
    let body = Expr::Load { operand: 0, index: vec![Index::Gather(Box::new(load_at(1, [0])))], otherwise: None };
    let y = f.nest(Nest::map(vec![c(2)], body), [x, at], Span::default());
    let module = finish(f, &[y]);
    for indices in [[0, 4], [0, 5], [-1, 0]] {
        law(module.clone(), &[f32s(&[5], 0.1), Tensor::from_i64(&[2], &indices)], &dims(1));
    }
}

/// Long chains neither fill one kernel nor take long.
#[test]
fn long_functions_lower_quickly() {
    let mut f = Function::new("chain");
    let mut x = f.input("x", Type::new(DType::F32, vec![c(8)]));
    for _ in 0..3000 {
        x = f.nest(Nest::map(vec![c(8)], op(ScalarOp::Sin, [load_at(0, [0])])), [x], Span::default());
    }
    let module = finish(f, &[x]);
    let before = std::time::Instant::now();
    let lowered = lower(&module);
    assert!(before.elapsed().as_secs() < 5, "{:?}", before.elapsed());
    assert_eq!(lowered.kernels.len(), 1, "equal groups are one kernel");
}

/// `p + g` as the new value of the stored tensor p, with the entry's results as given.
fn update(results: &[&str]) -> Planned {
    let ty = Type::new(DType::F32, vec![c(3), c(4)]);
    let mut f = Function::new("step");
    let (p, g) = (f.input("p", ty.clone()), f.input("g", ty));
    let sum = f.nest(Nest::map(vec![c(3), c(4)], op(ScalarOp::Add, [load_at(0, [0, 1]), load_at(1, [0, 1])])), [p, g], Span::default());
    let values: Vec<Value> = results.iter().map(|r| if *r == "old" { p } else { sum }).collect();
    let mut module = finish(f, &values);
    let sink = |r: &&str| if *r == "p" || *r == "q" { Sink::Tensor((*r).into()) } else { Sink::Result((*r).into()) };
    let inputs = vec![Source::Tensor("p".into()), Source::Data("g".into())];
    module.entries = vec![ir::Entry { name: "train:test".into(), function: FunctionId(0), inputs, results: results.iter().map(sink).collect() }];
    let lowered = lower(&module);
    plan(&module, &lowered, &Sources::default()).1.remove(0)
}

/// Large gradients are used up one by one, each before the next is computed; small ones together.
#[test]
fn updates_follow_large_gradients() {
    let alive = |rows: i64| {
        let text = "fn @step(p: f32[ROWS, 500], q: f32[ROWS, 500], x: f32[500], y: f32[ROWS], z: f32[500], w: f32[ROWS]) {
  %g[i, j]: f32[500, ROWS] = exp(%x[i] * %y[j])
  %h[i, j]: f32[500, ROWS] = exp(%z[i] * %w[j])
  %a[i, j]: f32[ROWS, 500] = %p[i, j] + %g[j, i]
  %b[i, j]: f32[ROWS, 500] = %q[i, j] + %h[j, i]
  return %a, %b
}
";
        let mut module = crate::ir::parse::module(&text.replace("ROWS", &rows.to_string())).unwrap();
        let tensor = |n: &str| Source::Tensor(n.into());
        let inputs = vec![tensor("p"), tensor("q"), tensor("x"), tensor("y"), tensor("z"), tensor("w")];
        let results = vec![Sink::Tensor("p".into()), Sink::Tensor("q".into())];
        module.entries = vec![ir::Entry { name: "train:test".into(), function: FunctionId(0), inputs, results }];
        let lowered = lower(&module);
        let plan = plan(&module, &lowered, &Sources::default()).1.remove(0).plan;
        let arena: Vec<_> = plan.buffers.iter().filter(|b| b.storage == Storage::Arena).map(|b| (b.first, b.last)).collect();
        (plan.steps.len(), arena)
    };
    assert_eq!(alive(600), (4, vec![(0, 1), (2, 3)]));
    assert_eq!(alive(6).0, 2, "small ones are one launch each");
}

#[test]
fn a_stored_tensor_is_written_over_itself_unless_someone_reads_it_later() {
    let own = |entry: &Planned| entry.plan.buffers.iter().filter(|b| matches!(b.storage, Storage::Arena | Storage::Result)).count();
    let place = |entry: &Planned, n: usize| entry.plan.buffers[entry.results[n].1 as usize].storage.clone();
    let entry = update(&["p"]);
    assert_eq!((own(&entry), place(&entry, 0)), (0, Storage::Alias(entry.inputs[0].1)));
    // A tensor of which nothing else is known is made where it is stored.
    let entry = update(&["q"]);
    assert_eq!((own(&entry), place(&entry, 0)), (0, Storage::Input));
    assert_eq!(entry.inputs.last(), Some(&(Source::Tensor("q".into()), entry.results[0].1)));
    // A result that is read by the caller, and one whose old value is still wanted, have memory of their own.
    for (results, count) in [(&["sum"][..], 1), (&["p", "old"], 2)] {
        let entry = update(results);
        assert_eq!((own(&entry), place(&entry, 0)), (count, Storage::Result), "{results:?}");
    }
}

/// Rows of a matrix added up in a loop: the sum grows in its place.
#[test]
fn a_carry_is_made_in_place() {
    let (ty, s) = (Type::new(DType::F32, vec![c(4)]), Span::default());
    let mut body = Function::new("body");
    body.input("i", Type::scalar(DType::I64));
    let (sum, row) = (body.input("sum", ty.clone()), body.input("row", ty.clone()));
    let next = body.nest(Nest::map(vec![c(4)], op(ScalarOp::Add, [load_at(0, [0]), load_at(1, [0])])), [sum, row], s);
    body.results = vec![(None, next)];
    let mut f = Function::new("main");
    let (a, m) = (f.input("a", ty.clone()), f.input("m", Type::new(DType::F32, vec![c(3), c(4)])));
    let scan = Op::Scan(Scan { body: FunctionId(0), length: c(3), reversed: false, carries: 1, inputs: vec![0], outputs: vec![] });
    let node = f.push_node(Node { op: scan, operands: vec![a, m], types: vec![ty], name: None, span: s });
    let mut module = finish(f, &[Value { node, result: 0 }]);
    module.functions.insert(0, body);
    law(module.clone(), &[f32s(&[4], 0.5), f32s(&[3, 4], 0.6)], &dims(1));
    let function = FunctionId(1);
    let inputs = vec![Source::Data("a".into()), Source::Data("m".into())];
    module.entries = vec![ir::Entry { name: "infer:test".into(), function, inputs, results: vec![Sink::Result("sum".into())] }];
    let lowered = lower(&module);
    let entry = plan(&module, &lowered, &Sources::default()).1.remove(0);
    let start = entry.plan.steps.iter().position(|s| matches!(s, Step::Loop { .. })).unwrap();
    let inside = &entry.plan.steps[start..];
    assert!(!inside.iter().any(|s| matches!(s, Step::Copy { .. })), "{:?}", entry.plan.steps);
}

/// A running sum whose every value is wanted, before and after each step, forwards and backwards: one launch a round, nothing is copied there.
#[test]
fn sequences_are_read_and_written_where_they_lie() {
    for reversed in [false, true] {
        let (ty, s) = (Type::new(DType::F32, vec![c(4)]), Span::default());
        let mut body = Function::new("body");
        body.input("i", Type::scalar(DType::I64));
        let (sum, row) = (body.input("sum", ty.clone()), body.input("row", ty.clone()));
        let add = |factor: usize| op(ScalarOp::Add, [load_at(0, [0]), load_at(factor, [0])]);
        let next = body.nest(Nest::map(vec![c(4)], add(1)), [sum, row], s);
        let twice = body.nest(Nest::map(vec![c(4)], add(0)), [next], s);
        body.results = [next, sum, twice, next].map(|v| (None, v)).into();
        let mut f = Function::new("main");
        let (a, m) = (f.input("a", ty.clone()), f.input("m", Type::new(DType::F32, vec![c(3), c(4)])));
        let scan = Op::Scan(Scan { body: FunctionId(0), length: c(3), reversed, carries: 1, inputs: vec![0], outputs: vec![0, 0, 1] });
        let steps = Type::new(DType::F32, vec![c(3), c(4)]);
        let types = vec![ty, steps.clone(), steps, Type::new(DType::F32, vec![c(4), c(3)])];
        let node = f.push_node(Node { op: scan, operands: vec![a, m], types, name: None, span: s });
        let results: Vec<Value> = (0..4).map(|result| Value { node, result }).collect();
        let mut module = finish(f, &results);
        module.functions.insert(0, body);
        law(module.clone(), &[f32s(&[4], 0.5), f32s(&[3, 4], 0.6)], &dims(1));
        let sinks = (0..4).map(|n| Sink::Result(format!("{n}").into())).collect();
        let inputs = vec![Source::Data("a".into()), Source::Data("m".into())];
        module.entries = vec![ir::Entry { name: "infer:test".into(), function: FunctionId(1), inputs, results: sinks }];
        let entry = plan(&module, &lower(&module), &Sources::default()).1.remove(0);
        let start = entry.plan.steps.iter().position(|s| matches!(s, Step::Loop { .. })).unwrap();
        let Step::Loop { body, .. } = entry.plan.steps[start] else { unreachable!() };
        let inside = &entry.plan.steps[start + 1..][..body as usize];
        assert!(matches!(inside, [Step::Launch(_)]), "{:?}", entry.plan.steps);
    }
}

/// In each round of a loop, two of an inner loop that multiplies by `w`, which never changes, and by `v`, which the outer loop changes.
#[test]
fn what_a_loop_multiplies_by_is_packed_before_it() {
    let (rows, n, s) = (c(20), c(40), Span::default());
    let (ty, square) = (Type::new(DType::F32, vec![rows.clone(), n.clone()]), Type::new(DType::F32, vec![n.clone(), n.clone()]));
    let i64s = Type::scalar(DType::I64);
    let scan =
        |body| Op::Scan(Scan { body: FunctionId(body), length: c(2), reversed: false, carries: 1 + body as usize, inputs: vec![], outputs: vec![] });
    let product = |f: &mut Function, a: Value, b: Value, turned: bool| {
        let b_at = if turned { load_at(1, [1, 2]) } else { load_at(1, [2, 1]) };
        f.nest(Nest::fold(vec![rows.clone(), n.clone()], vec![n.clone()], Fold::Dot, op(ScalarOp::Mul, [load_at(0, [0, 2]), b_at])), [a, b], s)
    };
    let mut inner = Function::new("inner");
    inner.input("i", i64s.clone());
    let [h, w, v] = [("h", &ty), ("w", &square), ("v", &square)].map(|(name, ty)| inner.input(name, ty.clone()));
    let (first, second) = (product(&mut inner, h, w, true), product(&mut inner, h, v, false));
    let sum = inner.nest(Nest::map(ty.shape.clone(), op(ScalarOp::Sub, [load_at(0, [0, 1]), load_at(1, [0, 1])])), [first, second], s);
    inner.results = vec![(None, sum)];
    let mut outer = Function::new("outer");
    outer.input("i", i64s);
    let [h, v, w] = [("h", &ty), ("v", &square), ("w", &square)].map(|(name, ty)| outer.input(name, ty.clone()));
    let node = outer.push_node(Node { op: scan(0), operands: vec![h, w, v], types: vec![ty.clone()], name: None, span: s });
    let half = op(ScalarOp::Mul, [load_at(0, [0, 1]), Expr::Const(Scalar::f32(-0.5))]);
    let next = outer.nest(Nest::map(square.shape.clone(), half), [v], s);
    outer.results = vec![(None, Value { node, result: 0 }), (None, next)];
    let mut f = Function::new("main");
    let [h, v, w] = [("h", &ty), ("v", &square), ("w", &square)].map(|(name, ty)| f.input(name, ty.clone()));
    let node = f.push_node(Node { op: scan(1), operands: vec![h, v, w], types: vec![ty, square], name: None, span: s });
    let mut module = finish(f, &[Value { node, result: 0 }, Value { node, result: 1 }]);
    module.functions.splice(0..0, [inner, outer]);
    let tensors = [f32s(&[20, 40], 0.01), f32s(&[40, 40], 0.02), f32s(&[40, 40], 0.03)];
    law(module.clone(), &tensors, &dims(1));
    let inputs = ["h", "v", "w"].map(|name| Source::Data(name.into())).to_vec();
    let results = ["h", "v"].map(|name| Sink::Result(name.into())).to_vec();
    module.entries = vec![ir::Entry { name: "infer:test".into(), function: FunctionId(2), inputs, results }];
    let (kernels, entries) = plan(&module, &lower(&module), &Sources::default());
    let steps = entries[0].plan.steps.iter().filter_map(|step| match step {
        Step::Launch(launch) => Some(kernels[launch.kernel as usize].name.to_string()),
        Step::Loop { body, .. } => Some(format!("loop of {body}")),
        Step::Copy { .. } | Step::Check { .. } => None,
    });
    let steps = steps.collect::<Vec<_>>().join(", ");
    assert!(steps.contains("pack, loop of") && steps.matches("pack").count() == 2, "{steps}");
}
