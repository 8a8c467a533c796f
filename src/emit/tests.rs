//! The law of emission: compiled code writes what the interpreter writes, bit for bit, at every level and however the range is split.

use super::{Level, What, compile, cuda, declare, modes, text};
use crate::ir::generate::{self, Random};
use crate::ir::*;
use crate::kernel::interpret::Interpreter;
use crate::kernel::{self, Instr, Kernel, Param, Stage, Store, Target, lower};
use crate::plan::plan;
use crate::span::{Sources, Span};
use nnc_emulator::{Emulator, Order};
use nnc_runtime::exec::Kernels;
use nnc_runtime::loader::{self, Loader};
use nnc_runtime::manifest::Step;
use nnc_runtime::memory::Aligned;
use nnc_runtime::tensor::Tensor;

/// A kernel at given sizes.
struct Run<'a> {
    kernel: u32,
    sizes: Vec<i64>,
    tasks: i64,
    shapes: Vec<(DType, Vec<i64>)>,
    program: &'a [Kernel],
}

/// The kernels compiled for every level that this CPU has, and for a GPU that is played in several ways.
fn native(kernels: &[Kernel]) -> Vec<(String, Box<dyn Kernels>)> {
    let names: Vec<_> = kernels.iter().enumerate().map(|(i, k)| declare(&format!("k{i}_{}", k.name), k)).collect();
    let objects = compile(kernels, &names, &Level::ALL).unwrap();
    let best = loader::level().unwrap();
    let levels = ["v3", "v4"].into_iter().filter(|l| *l <= best);
    let load = |objects: &[Vec<u8>], level| Loader::new(objects.iter().map(Vec::as_slice), &names, level).unwrap();
    let mut machines: Vec<(String, Box<dyn Kernels>)> = vec![];
    machines.extend(levels.map(|l| (l.to_string(), Box::new(load(&objects, l)) as Box<dyn Kernels>)));
    let objects = cuda::emulated(kernels, &names).unwrap();
    for (blocks, order) in [(2, Order::Backward), (3, Order::Random(kernels.len() as u64))] {
        let emulator = Emulator::new(load(&objects, "v3"), cuda::THREADS as usize, blocks, order);
        machines.push((format!("{blocks} blocks, {order:?}"), Box::new(emulator)));
    }
    machines
}

impl Run<'_> {
    /// Whether it ran to its end.
    fn hold(&self, machines: &[(String, Box<dyn Kernels>)], random: &mut Random) -> bool {
        let kernel = &self.program[self.kernel as usize];
        let inputs: Vec<Tensor> = self.shapes.iter().map(|(t, shape)| filled(*t, shape, random)).collect();
        let call = |machine: &dyn Kernels, cuts: &[i64]| {
            let mut buffers = inputs.clone();
            let args: Vec<*mut u8> = buffers.iter_mut().map(|b| b.bytes_mut().as_mut_ptr()).collect();
            let mut scratch = Aligned::zeroed(declare("", kernel).scratch as usize).unwrap();
            scratch.fill(0xff);
            // Later parts first: outer points may run in any order.
            let parts = cuts.windows(2).rev().map(|w| unsafe { machine.run(self.kernel, &args, &self.sizes, w[0], w[1], scratch.as_ptr()) });
            let failed = parts.fold(false, |failed, code| failed | (code != 0));
            (failed, buffers)
        };
        let interpreter = Interpreter::new(self.program.to_vec());
        let (failed, expected) = call(&interpreter, &[0, self.tasks]);
        for (name, machine) in machines {
            for cuts in [vec![0, self.tasks], vec![0, self.tasks / 3, self.tasks / 2, self.tasks]] {
                let (found_failed, found) = call(machine.as_ref(), &cuts);
                let print = || format!("{} at {:?}, {}\n{}", kernel.name, self.sizes, name, kernel::print::kernel(kernel));
                assert_eq!(found_failed, failed, "{}", print());
                for (n, (a, b)) in expected.iter().zip(&found).enumerate() {
                    if !failed && !a.same(b) {
                        let at = (0..a.len()).find(|i| a.get(*i) != b.get(*i) && !(nan(a.get(*i)) && nan(b.get(*i)))).unwrap();
                        panic!("p{n}[{at}] is {:?}, not {:?} (whole range or parts {cuts:?})\n{}", b.get(at), a.get(at), print());
                    }
                }
            }
        }
        !failed
    }
}

fn nan(s: Scalar) -> bool {
    s.dtype().is_float() && s.to_f64().is_nan()
}

/// Mostly ordinary values, some special; integers are small, so that they often are indices in bounds.
pub fn filled(dtype: DType, shape: &[i64], random: &mut Random) -> Tensor {
    let mut tensor = Tensor::zeros(dtype, shape);
    for i in 0..tensor.len() {
        let value = match dtype {
            DType::F32 | DType::F64 if !random.once_in(8) => Scalar::float(dtype, random.below(2001) as f64 / 500.0 - 2.0),
            DType::I64 if !random.once_in(16) => Scalar::i64(random.below(3) as i64),
            _ => random.value(dtype),
        };
        tensor.set(i, value);
    }
    tensor
}

/// Lowers the module and holds every launch of every entry to the law; gives how many launches there were and how many ran to their end.
pub fn law(module: &Module, dims: &[Dims], seed: u64) -> (usize, usize) {
    let lowered = lower(module);
    let (kernels, entries) = plan(module, &lowered, &Sources::default());
    let machines = native(&kernels);
    let mut random = Random::new(seed);
    let (mut all, mut whole) = (0, 0);
    for dims in dims {
        let number = |s: &Size| s.eval(dims).unwrap();
        for launch in entries.iter().flat_map(|e| &e.plan.steps) {
            let Step::Launch(launch) = launch else { continue };
            let sizes: Vec<i64> = launch.sizes.iter().map(number).collect();
            let own: Dims = sizes.iter().enumerate().map(|(i, n)| (format!("n{i}").into(), *n)).collect();
            let shape = |p: &Param| (p.dtype, p.shape.iter().map(|s| s.eval(&own).unwrap()).collect());
            let shapes = kernels[launch.kernel as usize].params.iter().map(shape).collect();
            let run = Run { kernel: launch.kernel, sizes, tasks: number(&launch.tasks), shapes, program: &kernels };
            whole += run.hold(&machines, &mut random) as usize;
            all += 1;
        }
    }
    (all, whole)
}

#[test]
fn random_programs_compile_to_what_they_mean() {
    let (mut all, mut whole) = (0, 0);
    for seed in generate::seeds(12) {
        let case = generate::case(seed);
        let large: Dims = [("B".into(), 37), ("T".into(), 18)].into();
        let (runs, ends) = law(&case.module, &[case.dims, large], seed);
        (all, whole) = (all + runs, whole + ends);
    }
    println!("{whole} of {all} launches ran to their end");
    assert!(whole * 2 > all);
}

/// One stage that stores one value a point.
fn simple(outer: Vec<Size>, params: &[(DType, Vec<Size>)], body: Vec<Instr>) -> Kernel {
    let at = |n: usize| (0..n).map(|v| kernel::Index::Affine(Affine::var(v))).collect();
    let last = params.len() - 1;
    let param = |(i, (dtype, shape)): (usize, &(DType, Vec<Size>))| Param { dtype: *dtype, shape: shape.clone(), written: i == last };
    let target = Target::Param { param: last, index: at(outer.len()), fold: None };
    let stage = Stage {
        inner: vec![],
        reds: vec![],
        guards: vec![],
        skip: false,
        fold: Fold::None,
        values: vec![body.len() - 1],
        body,
        stores: vec![Store { result: 0, target }],
    };
    Kernel { name: "op".into(), sizes: 0, params: params.iter().enumerate().map(param).collect(), outer, locals: vec![], stages: vec![stage] }
}

/// Every operation and conversion on every type it takes, in lanes and one by one.
#[test]
fn scalar_operations_are_those_of_the_interpreter() {
    let types = [DType::F32, DType::F64, DType::I64, DType::Bool];
    let mut kernels = vec![];
    // A size of 1 at the end keeps lanes away.
    for outer in [vec![Size::constant(150)], vec![Size::constant(150), Size::constant(1)]] {
        let load = |param: usize| {
            let index = (0..outer.len()).map(|v| kernel::Index::Affine(Affine::var(v))).collect();
            Instr::Load { param, index, otherwise: None }
        };
        let mut add = |inputs: &[DType], result: DType, last: Instr| {
            let params: Vec<(DType, Vec<Size>)> = inputs.iter().chain([&result]).map(|t| (*t, outer.clone())).collect();
            let body = (0..inputs.len()).map(load).chain([last]).collect();
            kernels.push(simple(outer.clone(), &params, body));
        };
        for from in types {
            for to in types {
                add(&[from], to, Instr::Cast(to, 0));
            }
            for op in ScalarOp::ALL.into_iter().filter(|op| *op != ScalarOp::Select) {
                let args = vec![from; op.arity()];
                if let Some(result) = op.result(&args) {
                    add(&args, result, Instr::Op(op, (0..args.len()).collect()));
                }
            }
        }
    }
    assert!(kernels.len() > 150);
    let machines = native(&kernels);
    cuda::tests::exact(&kernels);
    let mut random = Random::new(3);
    for n in 0..kernels.len() {
        let shapes = kernels[n].params.iter().map(|p| (p.dtype, p.shape.iter().map(|s| s.as_const().unwrap()).collect())).collect();
        let run = Run { kernel: n as u32, sizes: vec![], tasks: 150, shapes, program: &kernels };
        (0..2).for_each(|_| assert!(run.hold(&machines, &mut random)));
    }
}

fn c(n: i64) -> Size {
    Size::constant(n)
}

fn mul(a: Expr, b: Expr) -> Expr {
    Expr::op(ScalarOp::Mul, [a, b])
}

/// Nests whose loops are long enough for every kind of lanes, with and without guards, in both float types.
fn nests(t: DType) -> Module {
    let n = Size::dim("N");
    let ty = |shape: &[Size]| Type::new(t, shape);
    let mut f = Function::new("nests");
    let a = f.input("a", ty(&[n.clone(), c(300)]));
    let b = f.input("b", ty(&[c(300), c(150)]));
    let w = f.input("w", ty(&[c(150), c(300)]));
    let image = f.input("image", ty(&[n.clone(), c(3), c(20), c(20)]));
    let kernel = f.input("kernel", ty(&[c(5), c(3), c(3), c(3)]));
    let ids = f.input("ids", Type::new(DType::I64, std::slice::from_ref(&n)));
    let s = Span::default();
    let mut results = vec![];
    // Products: both layouts of the second operand, the transposed product of a gradient.
    for (second, index) in [(b, [2, 1]), (w, [1, 2])] {
        results.push(f.nest(
            Nest::fold(vec![n.clone(), c(150)], vec![c(300)], Fold::Dot, mul(load_at(0, [0, 2]), load_at(1, index))),
            [a, second],
            s,
        ));
    }
    let product = results[0];
    results.push(f.nest(Nest::fold(vec![c(300), c(150)], vec![n.clone()], Fold::Dot, mul(load_at(0, [2, 0]), load_at(1, [2, 1]))), [a, product], s));
    // A padded convolution.
    let shifted = |v: usize, by: usize| Affine::var(v).add(&Affine::var(by)).sub(&Affine::constant(1));
    let index = [Affine::var(0), Affine::var(4), shifted(2, 5), shifted(3, 6)].map(Index::Affine).to_vec();
    let padded = Expr::Load { operand: 0, index, otherwise: Some(Scalar::float(t, 0.0)) };
    let outs = vec![n.clone(), c(5), c(20), c(20)];
    let taps = vec![c(3), c(3), c(3)];
    results.push(f.nest(Nest::fold(outs, taps, Fold::Dot, mul(padded, load_at(1, [1, 4, 5, 6]))), [image, kernel], s));
    // Folds along rows, down columns, over boxes; guarded by order.
    for fold in [Fold::Sum, Fold::Prod, Fold::Max, Fold::Min, Fold::ArgMax, Fold::ArgMin] {
        results.push(f.nest(Nest::fold(vec![n.clone()], vec![c(300)], fold, load_at(0, [0, 1])), [a], s));
        results.push(f.nest(Nest::fold(vec![c(300)], vec![n.clone()], fold, load_at(0, [1, 0])), [a], s));
        results.push(f.nest(Nest::fold(vec![n.clone()], vec![c(3), c(20), c(20)], fold, load_at(0, [0, 1, 2, 3])), [image], s));
        let mut guarded = Nest::fold(vec![c(150)], vec![c(300)], fold, load_at(0, [0, 1]));
        guarded.guards = vec![Guard::le(&Affine::var(1), &Affine::var(0))];
        results.push(f.nest(guarded, [w], s));
    }
    let mut causal = Nest::fold(vec![c(150), c(300)], vec![c(150)], Fold::Dot, mul(load_at(0, [2, 1]), load_at(0, [0, 1])));
    causal.guards = vec![Guard::lt(&Affine::var(2), &Affine::var(1))];
    results.push(f.nest(causal, [w], s));
    // A diagonal, a strided and a reversed read, rows by number, a choice with loads on both sides.
    let mut diagonal = Nest::map(vec![c(150), c(300)], load_at(0, [0, 1]));
    diagonal.guards = vec![Guard::eq(&Affine::var(0), &Affine::var(1))];
    results.push(f.nest(diagonal, [w], s));
    let even = Affine::var(1).scale(&c(2));
    results.push(f.nest(Nest::map(vec![c(150), c(150)], load(0, [Affine::var(0), even])), [w], s));
    let back = Affine::constant(149).sub(&Affine::var(1));
    results.push(f.nest(Nest::map(vec![c(300), c(150)], load(0, [Affine::var(0), back])), [b], s));
    let row = Expr::Load { operand: 0, index: vec![Index::Gather(Box::new(load_at(1, [0]))), Index::Affine(Affine::var(1))], otherwise: None };
    results.push(f.nest(Nest::map(vec![n.clone(), c(150)], row), [b, ids], s));
    let less = Expr::op(ScalarOp::Lt, [load_at(0, [0, 1]), float(t, 0.0)]);
    let folded = load(0, [Affine::var(0), Affine::var(1).div(&c(7))]);
    let side = Expr::op(ScalarOp::Select, [less, mul(folded, float(t, 3.0)), load_at(0, [0, 1])]);
    results.push(f.nest(Nest::map(vec![n, c(300)], side), [a], s));
    f.results = results.iter().map(|v| (None, *v)).collect();
    program(f)
}

/// The function as a program's only entry.
pub fn program(f: Function) -> Module {
    let mut module = Module { functions: vec![f], ..Module::default() };
    let f = &module.functions[0];
    let inputs = f.inputs.iter().map(|i| nnc_runtime::manifest::Source::Data(i.name.clone())).collect();
    let results = (0..f.results.len()).map(|n| nnc_runtime::manifest::Sink::Result(format!("{n}").into())).collect();
    module.entries = vec![Entry { name: "infer:test".into(), function: FunctionId(0), inputs, results }];
    module
}

#[test]
fn long_loops_keep_the_order_of_folds() {
    for t in [DType::F32, DType::F64] {
        law(&nests(t), &[0, 1, 21].map(|n| [("N".into(), n)].into()), 11);
    }
}

#[test]
fn long_loops_run_in_lanes() {
    let module = nests(DType::F32);
    let lowered = lower(&module);
    let (kernels, _) = plan(&module, &lowered, &Sources::default());
    let lanes = |k: &&Kernel| {
        let m = modes::modes(k);
        m.outer.is_some() || m.stages.iter().all(|s| *s != modes::Mode::Scalar)
    };
    let scalar: Vec<&Kernel> = kernels.iter().filter(|k| !lanes(k)).collect();
    assert!(scalar.len() * 3 < kernels.len(), "{} of {} kernels run point by point", scalar.len(), kernels.len());
}

#[test]
fn code_is_the_same_every_time_and_calls_nothing() {
    let module = nests(DType::F32);
    let lowered = lower(&module);
    let (kernels, _) = plan(&module, &lowered, &Sources::default());
    let names: Vec<_> = kernels.iter().enumerate().map(|(i, k)| declare(&format!("k{i}"), k)).collect();
    assert_eq!(compile(&kernels, &names, &Level::ALL), compile(&kernels, &names, &Level::ALL));
    for kernel in &kernels {
        let assembly = text(kernel, Level::V4, What::Assembly).unwrap();
        let calls: Vec<&str> = assembly.lines().filter(|l| l.contains("call")).collect();
        assert!(calls.iter().all(|l| l.contains("multiply.f32.v4")), "{calls:?}");
        assert!(!text(kernel, Level::V3, What::Ir).unwrap().contains(" fast "));
    }
    // A product guarded by order is no contraction: many chains at once.
    let guarded = kernels.iter().find(|k| k.stages.iter().any(|s| s.fold == Fold::Dot && !s.guards.is_empty())).unwrap();
    let assembly = text(guarded, Level::V4, What::Assembly).unwrap();
    assert!(assembly.contains("zmm") && assembly.contains("vfmadd"), "{assembly}");
}

#[test]
fn damaged_objects_are_refused() {
    let kernel = simple(vec![c(20)], &[(DType::F32, vec![c(20)]), (DType::F32, vec![c(20)])], {
        let index = vec![kernel::Index::Affine(Affine::var(0))];
        vec![Instr::Load { param: 0, index, otherwise: None }, Instr::Op(ScalarOp::Exp, vec![0])]
    });
    let names = [declare("k", &kernel)];
    let object = compile(&[kernel], &names, &[Level::V3]).unwrap().remove(0);
    let load = |bytes: &[u8], level| Loader::new([bytes], &names, level).map(|l| l.level());
    assert_eq!(load(&object, "v3"), Ok("v3"));
    assert!(load(&object, "v4").unwrap_err().message().contains("k.v4"));
    let mut refused = 0;
    for at in 0..object.len() {
        for value in [0xff, 0x80, object[at] ^ 1] {
            let mut damaged = object.clone();
            damaged[at] = value;
            refused += load(&damaged, "v3").is_err() as usize;
        }
        assert!(load(&object[..at], "v3").is_err(), "cut at {at}");
    }
    assert!(refused > 100, "{refused}");
}
