//! What a training step of a real program costs in memory: as much as `nnc plan` says, and no allocation on any thread.

use crate::support::{Runnable, checked};
use nnc::ir::DType;
use nnc_runtime::data::{Dataset, section};
use nnc_runtime::evaluate::{scalars_of, sums_of};
use nnc_runtime::exec::WARM;
use nnc_runtime::pool::Pool;
use nnc_runtime::program::{Batch, Machine, Program, Setting, StepValues};
use nnc_runtime::size::Dims;
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Counts the process's allocations, and the bytes alive that are aligned as tensors are (and nothing else is).
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static TENSOR_BYTES: AtomicU64 = AtomicU64::new(0);

fn of_tensors(layout: Layout) -> u64 {
    // What lies between are lines of their own for threads, such as a channel's, which a thread may free late.
    let tensor = layout.align() == nnc_runtime::memory::ALIGN || layout.align() > 4096;
    if tensor { layout.size() as u64 } else { 0 }
}

// SAFETY: everything is handed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, SeqCst);
        TENSOR_BYTES.fetch_add(of_tensors(layout), SeqCst);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, SeqCst);
        TENSOR_BYTES.fetch_add(of_tensors(layout), SeqCst);
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        TENSOR_BYTES.fetch_sub(of_tensors(layout), SeqCst);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Whether this is a process of its own for the test; if not, starts one and waits for it: only there all that is counted is the test's.
fn alone(test: &str) -> bool {
    if std::env::var_os("NNC_TEST_ALONE").is_some() {
        return true;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args([test, "--exact", "--nocapture"]).env("NNC_TEST_ALONE", "1").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    false
}

/// What `nnc plan` says about the entry.
fn planned(program: &Path, entry: &str, threads: usize) -> serde_json::Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nnc"));
    let output = command.arg("plan").arg(program).args(["--json", "--dim", "B=300", "--threads", &threads.to_string()]).output().unwrap();
    let plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    plan["entries"].as_array().unwrap().iter().find(|e| e["name"] == entry).unwrap().clone()
}

#[test]
fn a_step_takes_the_memory_that_is_planned_and_allocates_nothing() {
    if !alone("steps::a_step_takes_the_memory_that_is_planned_and_allocates_nothing") {
        return;
    }
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let source = models.join("digits.nn");
    let checked = checked(&std::fs::read_to_string(&source).unwrap(), DType::F32);
    let runnable = Runnable::new(&checked, |_| {});
    let (_, native) = runnable.kernels.last().unwrap();
    let program = Program { manifest: &runnable.manifest, kernels: native.as_ref(), folder: models, artifact: None };
    let recipe = program.recipe(None).unwrap();
    let data = Dataset::load(section(&program.manifest.data, &recipe.data).unwrap(), &program.folder, &|_| true).unwrap();
    let (dims, sums, scalars) = (Dims::new(), sums_of(recipe), scalars_of(recipe));
    let setting = Setting { program: &program, data: &data, dims: &dims, sums: &sums };
    for threads in [1, 3] {
        let plan = planned(&source, "train:fit", threads);
        let of = |what: &str| plan[what].as_u64().unwrap_or_else(|| panic!("no {what} in {plan}"));
        let mut machine =
            Machine { kernels: native.as_ref(), pool: Pool::new(threads), store: runnable.store().into(), profile: None, numerics: None };
        program.initialise(1, Some("fit"), &mut machine).unwrap();
        let rows = data.part("train").unwrap();
        let before = TENSOR_BYTES.load(SeqCst);
        let mut batch = Batch::new(&setting, program.entry("train:fit").unwrap(), 300, &scalars, &machine).unwrap();
        assert_eq!(TENSOR_BYTES.load(SeqCst) - before, of("arena_bytes") + of("input_bytes"), "{threads} threads: {plan}");
        let mut totals = vec![0.0; sums.len()];
        let weights = machine.store.here().unwrap().snapshot().unwrap();
        let mut made = 0;
        for step in 0..WARM as usize + 30 {
            // The first steps are for learning what each launch takes; then every launch is shared, whatever it takes.
            if step == WARM as usize {
                batch.run.reschedule(&mut || 1e6);
                made = ALLOCATIONS.load(SeqCst);
            }
            let rows = &rows[step % 3 * 300..][..300];
            let values = StepValues { rows, scalars: &scalars, step: step as u64 + 1, key: step as u64 };
            batch.step(&mut machine, &data, &values, &mut totals).unwrap();
        }
        assert_eq!(ALLOCATIONS.load(SeqCst), made, "{threads} threads");
        let allocated = TENSOR_BYTES.load(SeqCst) - before - weights.len() as u64;
        assert_eq!(allocated, of("arena_bytes") + of("input_bytes") + of("scratch_bytes"), "{threads} threads: {plan}");
        assert!(weights[..] != machine.store.here().unwrap().snapshot().unwrap()[..], "steps change the weights");
    }
}
