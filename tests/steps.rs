//! What a training step of a real program costs in allocations: none.

use crate::support::{Runnable, checked};
use nnc::ir::DType;
use nnc_runtime::data::{Dataset, section};
use nnc_runtime::evaluate::{scalars_of, sums_of};
use nnc_runtime::pool::Pool;
use nnc_runtime::program::{Batch, Machine, Program, Setting, StepValues};
use nnc_runtime::size::Dims;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;

/// Counts each thread's allocations.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is handed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn a_step_of_the_digits_program_allocates_nothing() {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let checked = checked(&std::fs::read_to_string(models.join("digits.nn")).unwrap(), DType::F32);
    let runnable = Runnable::new(&checked, |_| {});
    let (_, native) = runnable.kernels.last().unwrap();
    let program = Program { manifest: &runnable.manifest, kernels: native.as_ref(), folder: models, artifact: None };
    let recipe = program.recipe(None).unwrap();
    let data = Dataset::load(section(&program.manifest.data, &recipe.data).unwrap(), &program.folder, &|_| true).unwrap();
    let (dims, sums, scalars) = (Dims::new(), sums_of(recipe), scalars_of(recipe));
    let setting = Setting { program: &program, data: &data, dims: &dims, sums: &sums };
    for threads in [1, 2] {
        let mut machine = Machine { kernels: native.as_ref(), pool: Pool::new(threads), store: runnable.store() };
        program.initialise(1, Some("fit"), &mut machine).unwrap();
        let rows = data.part("train").unwrap();
        let mut batch = Batch::new(&setting, program.entry("train:fit").unwrap(), 32, &scalars, &machine).unwrap();
        let mut totals = vec![0.0; sums.len()];
        let before = machine.store.snapshot().unwrap();
        let made = ALLOCATIONS.with(Cell::get);
        for (step, rows) in rows.chunks_exact(32).take(20).enumerate() {
            let values = StepValues { rows, scalars: &scalars, step: step as u64 + 1, key: step as u64 };
            batch.step(&mut machine, &data, &values, &mut totals).unwrap();
        }
        assert_eq!(ALLOCATIONS.with(Cell::get), made, "{threads} threads");
        let after = machine.store.snapshot().unwrap();
        assert!(std::iter::zip(&before, &after).any(|(a, b)| a[..] != b[..]), "20 steps change the weights");
    }
}
