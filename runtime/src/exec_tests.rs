//! Hand-written plans over kernels that are Rust closures.

use super::*;
use crate::manifest::{Buffer, BufferId, DimDecl, Kernel, Launch, Part, Plan, Role, Step, TensorDecl};
use std::cell::Cell;

/// Counts this thread's allocations.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is handed on to the system's allocator.
unsafe impl std::alloc::GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: std::alloc::Layout) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
        // SAFETY: as the caller promises.
        unsafe { std::alloc::System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: std::alloc::Layout) {
        // SAFETY: as the caller promises.
        unsafe { std::alloc::System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Kernel 0: `out[i] = a[i] + b[0]` (f32). Kernel 1: the check of `index[i] < size`. Kernel 2: `log[k] = k` (i64) for the loop's `k`.
struct Fake;

impl Kernels for Fake {
    unsafe fn run(&self, kernel: u32, args: &[*mut u8], sizes: &[i64], lo: i64, hi: i64, _: *mut u8) -> i64 {
        for i in lo as usize..hi as usize {
            // SAFETY: the plans below pass buffers of these types and sizes.
            unsafe {
                match kernel {
                    0 => *args[2].cast::<f32>().add(i) = *args[0].cast::<f32>().add(i) + *args[1].cast::<f32>(),
                    1 if *args[0].cast::<i64>().add(i) >= sizes[0] => return i as i64 + 1,
                    1 => {}
                    _ => *args[1].cast::<i64>().add(*args[0].cast::<i64>() as usize) = *args[0].cast::<i64>(),
                }
            }
        }
        0
    }
}

fn buffer(dtype: DType, shape: &[Size], storage: Storage) -> Buffer {
    Buffer { dtype, shape: shape.to_vec(), storage, first: 0, last: 9, name: "x".into() }
}

fn launch(kernel: u32, args: &[BufferId], sizes: &[Size], tasks: Size) -> Step {
    Step::Launch(Launch {
        kernel,
        args: args.to_vec(),
        sizes: sizes.to_vec(),
        tasks,
        whole: 1.into(),
        cost: 100_000.into(),
        flops: 0.into(),
        line: 0,
        beside: vec![],
        rows: None,
    })
}

fn program(inputs: Vec<(Source, BufferId)>, results: Vec<(Sink, BufferId)>, buffers: Vec<Buffer>, steps: Vec<Step>) -> Manifest {
    let plan = Plan { buffers, steps, lines: vec!["model.nn:3".into()], advance: 0, chains: vec![] };
    Manifest {
        dims: vec![DimDecl { name: "B".into(), min: 1, max: Some(64) }],
        tensors: vec![TensorDecl { path: "M.w".into(), dtype: DType::F32, shape: vec![], role: Role::Parameter }],
        kernels: [("add", vec![2]), ("gather", vec![]), ("log", vec![1])].map(|(k, writes)| Kernel { symbol: k.into(), scratch: 0, writes }).into(),
        entries: vec![Entry { name: "train:fit".into(), inputs, results, plan }],
        ..Manifest::default()
    }
}

fn prepared(manifest: &Manifest, b: i64, threads: usize) -> Result<(Prepared, Pool, Tensors)> {
    let store = Tensors::new(&manifest.tensors)?;
    let run = Prepared::new(manifest, &manifest.entries[0], &[("B".into(), b)].into(), threads, &store)?;
    Ok((run, Pool::new(threads), store))
}

#[test]
fn tensors_are_read_and_updated_without_allocating_on_any_number_of_threads() {
    let b = Size::dim("B");
    let buffers = vec![
        buffer(DType::F32, &[], Storage::Input),
        buffer(DType::F32, std::slice::from_ref(&b), Storage::Input),
        buffer(DType::F32, std::slice::from_ref(&b), Storage::Result),
        buffer(DType::F32, &[], Storage::Result),
        buffer(DType::F32, &[], Storage::Constant(vec![Scalar::f32(0.5)])),
    ];
    let steps = vec![launch(0, &[1, 0, 2], &[], b), launch(0, &[0, 4, 3], &[], 1.into())];
    let inputs = vec![(Source::Tensor("M.w".into()), 0), (Source::Data("x".into()), 1)];
    let manifest = program(inputs, vec![(Sink::Result("y".into()), 2), (Sink::Tensor("M.w".into()), 3)], buffers, steps);
    let mut outputs = vec![];
    for threads in [1, 3] {
        let (mut run, mut pool, mut store) = prepared(&manifest, 5, threads).unwrap();
        for (i, x) in run.input_mut(0).chunks_exact_mut(4).enumerate() {
            x.copy_from_slice(&(i as f32).to_le_bytes());
        }
        (0..WARM).for_each(|_| run.run(&Fake, &mut pool, &mut store).unwrap());
        store.bytes_mut(0).copy_from_slice(&0.5f32.to_le_bytes());
        let before = ALLOCATIONS.with(Cell::get);
        run.run(&Fake, &mut pool, &mut store).unwrap();
        assert_eq!(ALLOCATIONS.with(Cell::get) - before, 0);
        assert_eq!(store.bytes(0), 1f32.to_le_bytes());
        outputs.push(run.result(0, &store).to_vec());
    }
    assert_eq!(outputs[0], [0.5f32, 1.5, 2.5, 3.5, 4.5].map(f32::to_le_bytes).concat());
    assert_eq!(outputs[0], outputs[1]);
}

#[test]
fn loops_copies_and_checks() {
    let condition = |holds: bool| {
        let buffers = vec![
            buffer(DType::I64, &[], Storage::Arena),
            buffer(DType::I64, &[3.into()], Storage::Arena),
            buffer(DType::I64, &[3.into()], Storage::Result),
            buffer(DType::Bool, &[], Storage::Constant(vec![Scalar::bool(holds)])),
        ];
        let count = |n: i64| Step::Loop { count: n.into(), body: 1, index: 0, reversed: true };
        let outer = Step::Loop { count: 2.into(), body: 2, index: 0, reversed: false };
        let check = Step::Check { condition: 3, message: "must hold".into(), line: 0 };
        let steps = vec![
            outer,
            count(3),
            launch(2, &[0, 1], &[], 1.into()),
            count(0),
            launch(1, &[1], &[0.into()], 1.into()),
            Step::Copy { from: 1, to: 2 },
            check,
        ];
        let manifest = program(vec![], vec![(Sink::Result("y".into()), 2)], buffers, steps);
        let (mut run, mut pool, mut store) = prepared(&manifest, 5, 1).unwrap();
        run.run(&Fake, &mut pool, &mut store).map(|()| run.result(0, &store).to_vec())
    };
    assert_eq!(condition(true).unwrap(), [0i64, 1, 2].map(i64::to_le_bytes).concat());
    assert_eq!(condition(false).unwrap_err().message(), "must hold: model.nn:3");
}

/// A matrix of pairs transposed by loops whose steps are parts of it; parts that leave their buffer or their loops are refused.
#[test]
fn parts_advance_with_the_loops_around_them() {
    let transposed = |start: i64, outside: bool| {
        let part = |of: u32, start: i64, along: [i64; 2]| {
            let along = [(1, Size::constant(along[0])), (2, Size::constant(along[1]))];
            Storage::Part(Part { of, start: start.into(), along: along.into() })
        };
        let buffers = vec![
            buffer(DType::I64, &[3.into(), 2.into(), 2.into()], Storage::Input),
            buffer(DType::I64, &[], Storage::Arena),
            buffer(DType::I64, &[], Storage::Arena),
            buffer(DType::I64, &[2.into()], part(0, start, [4, 2])),
            buffer(DType::I64, &[2.into(), 3.into(), 2.into()], Storage::Result),
            buffer(DType::I64, &[2.into()], part(4, 0, [2, 6])),
        ];
        let round = |count: i64, body: u32, index: u32| Step::Loop { count: count.into(), body, index, reversed: index == 1 };
        let inner = if outside { 0 } else { 1 };
        let steps = vec![round(3, 1 + inner, 1), round(2, inner, 2), Step::Copy { from: 3, to: 5 }];
        let manifest = program(vec![(Source::Data("x".into()), 0)], vec![(Sink::Result("y".into()), 4)], buffers, steps);
        let (mut run, mut pool, mut store) = prepared(&manifest, 5, 1)?;
        for (i, x) in run.input_mut(0).chunks_exact_mut(8).enumerate() {
            x.copy_from_slice(&(i as i64).to_le_bytes());
        }
        run.run(&Fake, &mut pool, &mut store).map(|()| run.result(0, &store).to_vec())
    };
    let expected = [0i64, 1, 4, 5, 8, 9, 2, 3, 6, 7, 10, 11];
    assert_eq!(transposed(0, false).unwrap(), expected.map(i64::to_le_bytes).concat());
    for (start, outside) in [(1, false), (0, true)] {
        assert!(transposed(start, outside).unwrap_err().message().contains("contradicts itself"));
    }
}

/// A chain through the arena, cut at random places, on more threads than steps: the same numbers, and the first step that fails is the one that is named.
#[test]
fn schedules_change_nothing() {
    let n = Size::constant(1000);
    let mut buffers =
        vec![buffer(DType::F32, std::slice::from_ref(&n), Storage::Input), buffer(DType::F32, &[], Storage::Constant(vec![Scalar::f32(0.5)]))];
    let mut steps = vec![];
    for k in 2..12 {
        buffers.push(buffer(DType::F32, std::slice::from_ref(&n), if k < 10 { Storage::Arena } else { Storage::Result }));
        // Twos of independent steps, each two after the one before.
        steps.push(launch(0, &[if k < 4 { 0 } else { k / 2 * 2 - 2 }, 1, k], &[], n.clone()));
    }
    let results = vec![(Sink::Result("y".into()), 10), (Sink::Result("z".into()), 11)];
    let mut manifest = program(vec![(Source::Data("x".into()), 0)], results, buffers, steps);
    let mut random = crate::random::Generator::new(1);
    for threads in [1, 2, 5] {
        let (mut run, mut pool, mut store) = prepared(&manifest, 5, threads).unwrap();
        for _ in 0..50 {
            run.reschedule(&mut || random.below(100_000) as f64);
            run.input_mut(0).chunks_exact_mut(4).enumerate().for_each(|(i, x)| x.copy_from_slice(&(i as f32).to_le_bytes()));
            run.run(&Fake, &mut pool, &mut store).unwrap();
            for r in 0..2 {
                let right = |(i, y): (usize, &[u8])| y == (i as f32 + 2.5).to_le_bytes();
                assert!(run.result(r, &store).chunks_exact(4).enumerate().all(right));
            }
        }
    }
    // Two checks in one phase: the second one has the lower task, but the first one is the first.
    let plan = &mut manifest.entries[0].plan;
    plan.buffers = vec![buffer(DType::I64, std::slice::from_ref(&n), Storage::Input); 2];
    plan.steps = (0..2).map(|k| launch(1, &[k], &[5.into()], n.clone())).collect();
    plan.lines.push("model.nn:4".into());
    if let Step::Launch(second) = &mut plan.steps[1] {
        second.line = 1;
    }
    manifest.entries[0].inputs = vec![(Source::Data("x".into()), 0), (Source::Data("y".into()), 1)];
    manifest.entries[0].results = vec![];
    let (mut run, mut pool, mut store) = prepared(&manifest, 5, 4).unwrap();
    run.input_mut(0)[999 * 8] = 7;
    run.input_mut(1)[0] = 7;
    for _ in 0..50 {
        run.reschedule(&mut || 1e6);
        assert_eq!(run.run(&Fake, &mut pool, &mut store).unwrap_err().message(), "an index is out of bounds at model.nn:3");
    }
}

#[test]
fn errors_name_the_dim_or_the_line() {
    let buffers = vec![buffer(DType::I64, &[Size::dim("B")], Storage::Input)];
    let steps = vec![launch(1, &[0], &[1.into()], Size::dim("B"))];
    let manifest = program(vec![(Source::Data("x".into()), 0)], vec![], buffers, steps);
    let refused = |b: i64| prepared(&manifest, b, 1).err().unwrap().message().to_string();
    assert_eq!(refused(65), "dim B is 65, but the program allows at most 64");
    assert_eq!(refused(0), "dim B is 0, but the program needs at least 1");
    let store = Tensors::new(&manifest.tensors).unwrap();
    let missing = Prepared::new(&manifest, &manifest.entries[0], &Dims::new(), 1, &store).err().unwrap();
    assert_eq!(missing.message(), "x in train:fit: dim B has no value, since no input decides it: give one with --dim B=SIZE");
    let (mut run, mut pool, mut store) = prepared(&manifest, 4, 2).unwrap();
    run.input_mut(0)[3 * 8] = 7;
    let failed = run.run(&Fake, &mut pool, &mut store).unwrap_err();
    assert_eq!(failed.message(), "an index is out of bounds at model.nn:3");
    let mut broken = manifest.clone();
    broken.entries[0].plan.buffers[0].storage = Storage::Alias(0);
    assert!(prepared(&broken, 4, 1).err().unwrap().message().contains("damaged"));
    for scratch in [u64::MAX, u64::MAX - 63, 1 << 63] {
        let mut broken = manifest.clone();
        broken.kernels[1].scratch = scratch;
        assert!(prepared(&broken, 4, 2).err().unwrap().message().contains("damaged"), "{scratch}");
    }
}

/// Each of the inputs has a size that an address could have, both together have none.
#[test]
fn inputs_that_no_memory_holds_are_refused() {
    let large = buffer(DType::I64, &[((1 << 60) - 1).into()], Storage::Input);
    let inputs = ["a", "b"].map(|name| Source::Data(name.into())).into_iter().zip(0..).collect();
    let manifest = program(inputs, vec![], vec![large.clone(), large], vec![]);
    assert_eq!(prepared(&manifest, 1, 1).err().unwrap().message(), "the inputs of train:fit do not fit in memory");
}

#[test]
fn what_depends_on_tensors_alone_runs_again_when_they_have_changed() {
    let b = Size::dim("B");
    let buffers = vec![
        buffer(DType::F32, &[], Storage::Input),
        buffer(DType::F32, std::slice::from_ref(&b), Storage::Input),
        buffer(DType::F32, &[], Storage::Result),
        buffer(DType::F32, std::slice::from_ref(&b), Storage::Result),
    ];
    // w + w in advance, then x + that.
    let steps = vec![launch(0, &[0, 0, 2], &[], 1.into()), launch(0, &[1, 2, 3], &[], b)];
    let inputs = vec![(Source::Tensor("M.w".into()), 0), (Source::Data("x".into()), 1)];
    let mut manifest = program(inputs, vec![(Sink::Result("y".into()), 3)], buffers, steps);
    manifest.entries[0].plan.advance = 1;
    /// How often one task was run alone.
    struct Counted(std::sync::atomic::AtomicUsize);
    impl Kernels for Counted {
        unsafe fn run(&self, kernel: u32, args: &[*mut u8], sizes: &[i64], lo: i64, hi: i64, scratch: *mut u8) -> i64 {
            self.0.fetch_add((args[0] == args[1]) as usize, std::sync::atomic::Ordering::Relaxed);
            // SAFETY: as the caller promises.
            unsafe { Fake.run(kernel, args, sizes, lo, hi, scratch) }
        }
    }
    for threads in [1, 2] {
        let counted = Counted(0.into());
        let (mut run, mut pool, mut store) = prepared(&manifest, 3, threads).unwrap();
        let mut with = |w: Option<f32>| {
            if let Some(w) = w {
                store.bytes_mut(0).copy_from_slice(&w.to_le_bytes());
            }
            run.run(&counted, &mut pool, &mut store).unwrap();
            (counted.0.load(std::sync::atomic::Ordering::Relaxed), run.result(0, &store)[..4].to_vec())
        };
        let at = |n, y: f32| (n, y.to_le_bytes().to_vec());
        assert_eq!([with(Some(1.0)), with(None), with(Some(3.0)), with(None)], [at(1, 2.0), at(1, 2.0), at(2, 6.0), at(2, 6.0)]);
        // Another store is another thing, whatever it holds.
        let mut other = Tensors::new(&manifest.tensors).unwrap();
        run.run(&counted, &mut pool, &mut other).unwrap();
        assert_eq!(run.result(0, &other)[..4], 0f32.to_le_bytes());
    }
    manifest.entries[0].plan.advance = 3;
    assert!(prepared(&manifest, 3, 1).is_err());
}
