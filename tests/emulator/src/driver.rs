//! Plays NVIDIA's driver: as a shared library it has the functions that the runtime looks for, over host memory and the emulator of threads.
//!
//! A program finds it as `libcuda.so.1` in `LD_LIBRARY_PATH`. It takes PTX, checks its interface, and runs the same kernels' emulated code, which lies in
//! the folder `NNC_FAKE_KERNELS` (objects, and a file `kernels` with a line `SYMBOL PARAMS SIZES` each). It is stricter than a driver: work on a stream
//! is done when somebody waits for it and no sooner, fresh memory is poisoned, every address must lie in memory that is allocated at that moment, and
//! what must not be recorded is refused. `NNC_FAKE_FAULT` makes it fail: `no-card`, `old-driver`, `old-card`, `broken-card`, `code`, `launch`, `memory=BYTES`.

use crate::{Order, block::Block};
use nnc_runtime::exec::Kernels;
use nnc_runtime::loader::Loader;
use nnc_runtime::manifest::Kernel;
use nnc_runtime::memory::Aligned;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;
use std::sync::{LazyLock, Mutex, MutexGuard};

const OK: c_int = 0;
const INVALID: c_int = 1;
const NO_MEMORY: c_int = 2;
const NO_DEVICE: c_int = 100;
const NO_CONTEXT: c_int = 201;
const BAD_PTX: c_int = 218;
const NOT_FOUND: c_int = 500;
const NOT_READY: c_int = 600;
const ILLEGAL_ADDRESS: c_int = 700;
const LAUNCH_FAILED: c_int = 719;
const NOT_WHILE_RECORDING: c_int = 900;
const UNKNOWN: c_int = 999;

const NAMES: [(c_int, &CStr, &CStr); 10] = [
    (INVALID, c"CUDA_ERROR_INVALID_VALUE", c"invalid argument"),
    (NO_MEMORY, c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory"),
    (NO_CONTEXT, c"CUDA_ERROR_INVALID_CONTEXT", c"invalid device context"),
    (BAD_PTX, c"CUDA_ERROR_INVALID_PTX", c"a PTX JIT compilation failed"),
    (NOT_FOUND, c"CUDA_ERROR_NOT_FOUND", c"named symbol not found"),
    (NOT_READY, c"CUDA_ERROR_NOT_READY", c"device not ready"),
    (ILLEGAL_ADDRESS, c"CUDA_ERROR_ILLEGAL_ADDRESS", c"an illegal memory access was encountered"),
    (LAUNCH_FAILED, c"CUDA_ERROR_LAUNCH_FAILED", c"unspecified launch failure"),
    (NOT_WHILE_RECORDING, c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", c"operation not permitted when stream is capturing"),
    (UNKNOWN, c"CUDA_ERROR_UNKNOWN", c"unknown error"),
];

/// Bytes of memory that the card has, if nothing else is said.
const MEMORY: usize = 1 << 30;

/// Something to do later.
#[derive(Clone)]
enum Task {
    Upload { to: u64, from: usize, bytes: usize },
    Download { to: usize, from: u64, bytes: usize },
    Copy { to: u64, from: u64, bytes: usize },
    Fill { at: u64, value: u8, bytes: usize },
    Launch { function: usize, blocks: usize, threads: usize, params: Vec<u64> },
    Graph(usize),
    Mark(usize),
}

/// A kernel's symbol, and how many buffers and sizes it takes.
type Known = (String, usize, usize);

struct Function {
    number: u32,
    params: usize,
    sizes: usize,
}

#[derive(Default)]
struct Driver {
    device: BTreeMap<u64, Aligned>,
    host: BTreeMap<usize, Aligned>,
    /// The emulated code, once a module is loaded.
    code: Option<(Loader, Vec<Known>)>,
    /// Kernels of each module; a handle is a position, from 1.
    modules: Vec<Vec<String>>,
    functions: Vec<Function>,
    /// What a stream is to do, and what it has recorded, while it records.
    queue: Vec<Task>,
    recording: Option<Vec<Task>>,
    graphs: Vec<Vec<Task>>,
    /// Events: the clock when they happened, and nothing once they are given back.
    marks: Vec<Option<u64>>,
    /// Nanoseconds, by a clock that only work moves.
    clock: u64,
    /// The first error of something done: it stays.
    broken: c_int,
}

static DRIVER: LazyLock<Mutex<Driver>> = LazyLock::new(Mutex::default);

thread_local! {
    /// Whether the thread has entered the context.
    static ENTERED: Cell<bool> = const { Cell::new(false) };
}

fn driver() -> MutexGuard<'static, Driver> {
    DRIVER.lock().unwrap_or_else(|e| e.into_inner())
}

fn fault(name: &str) -> bool {
    std::env::var("NNC_FAKE_FAULT").is_ok_and(|f| f == name)
}

fn memory() -> usize {
    std::env::var("NNC_FAKE_FAULT").ok().and_then(|f| f.strip_prefix("memory=")?.parse().ok()).unwrap_or(MEMORY)
}

/// With the driver, on a thread that has entered the context.
fn entered(then: impl FnOnce(&mut Driver) -> c_int) -> c_int {
    if ENTERED.get() { then(&mut driver()) } else { NO_CONTEXT }
}

/// As [`entered`], for what cannot be recorded.
fn at_once(then: impl FnOnce(&mut Driver) -> c_int) -> c_int {
    entered(|d| if d.recording.is_some() { NOT_WHILE_RECORDING } else { then(d) })
}

impl Driver {
    fn later(&mut self, task: Task) -> c_int {
        self.recording.as_mut().unwrap_or(&mut self.queue).push(task);
        OK
    }

    /// Whether so many bytes of the card's memory begin there.
    fn holds(&self, at: u64, bytes: usize) -> bool {
        self.device.range(..=at).next_back().is_some_and(|(start, memory)| at - start + bytes as u64 <= memory.len() as u64)
    }

    fn finish(&mut self) -> c_int {
        for task in std::mem::take(&mut self.queue) {
            if self.broken == OK {
                self.broken = self.run(&task);
            }
        }
        self.broken
    }

    fn run(&mut self, task: &Task) -> c_int {
        self.clock += match task {
            Task::Launch { blocks, .. } => 1000 * *blocks as u64,
            Task::Mark(_) | Task::Graph(_) => 0,
            Task::Upload { .. } | Task::Download { .. } | Task::Copy { .. } | Task::Fill { .. } => 500,
        };
        let places: &[(u64, usize)] = match task {
            Task::Upload { to: at, bytes, .. } | Task::Download { from: at, bytes, .. } | Task::Fill { at, bytes, .. } => &[(*at, *bytes)],
            Task::Copy { to, from, bytes } if to.abs_diff(*from) < *bytes as u64 => return INVALID,
            Task::Copy { to, from, bytes } => &[(*to, *bytes), (*from, *bytes)],
            Task::Launch { .. } | Task::Graph(_) | Task::Mark(_) => &[],
        };
        if places.iter().any(|(at, bytes)| !self.holds(*at, *bytes)) {
            return ILLEGAL_ADDRESS;
        }
        // SAFETY: the card's memory was looked at; the host's is the caller's promise.
        unsafe {
            match task {
                Task::Upload { to, from, bytes } => std::ptr::copy_nonoverlapping(*from as *const u8, *to as *mut u8, *bytes),
                Task::Download { to, from, bytes } => std::ptr::copy_nonoverlapping(*from as *const u8, *to as *mut u8, *bytes),
                Task::Copy { to, from, bytes } => std::ptr::copy_nonoverlapping(*from as *const u8, *to as *mut u8, *bytes),
                Task::Fill { at, value, bytes } => (*at as *mut u8).write_bytes(*value, *bytes),
                Task::Launch { function, blocks, threads, params } => return self.launch(&self.functions[*function], *blocks, *threads, params),
                Task::Graph(graph) => {
                    let tasks = self.graphs[*graph].clone();
                    return tasks.iter().map(|task| self.run(task)).find(|status| *status != OK).unwrap_or(OK);
                }
                Task::Mark(event) => self.marks[*event] = Some(self.clock),
            }
        }
        OK
    }

    fn launch(&self, function: &Function, blocks: usize, threads: usize, params: &[u64]) -> c_int {
        let (buffers, rest) = params.split_at(function.params);
        let (sizes, status) = rest.split_at(function.sizes);
        if fault("launch") {
            return LAUNCH_FAILED;
        }
        if buffers.iter().any(|at| !self.holds(*at, 0)) || !self.holds(status[0], 4) {
            return ILLEGAL_ADDRESS;
        }
        let Some((code, _)) = &self.code else { return UNKNOWN };
        let buffers: Vec<*mut u8> = buffers.iter().map(|at| *at as *mut u8).collect();
        let sizes: Vec<i64> = sizes.iter().map(|n| *n as i64).collect();
        for number in 0..blocks {
            let mut block = Block::new(number, blocks, threads, Order::Forward, None);
            // SAFETY: the caller's promise, about the buffers; the context lives as long as the call.
            block.run(&|context| unsafe { _ = code.run(function.number, &buffers, &sizes, 0, 0, context) });
            if block.failed > 0 {
                // SAFETY: looked at above.
                unsafe { (status[0] as *mut i32).write_unaligned(block.failed as i32) };
            }
        }
        OK
    }

    /// The emulated code of all kernels.
    fn emulated(&mut self) -> Result<&[Known], String> {
        if self.code.is_none() {
            let folder = std::env::var("NNC_FAKE_KERNELS").map_err(|_| "NNC_FAKE_KERNELS names no folder")?;
            let list = std::fs::read_to_string(Path::new(&folder).join("kernels")).map_err(|e| e.to_string())?;
            let mut kernels = vec![];
            for line in list.lines() {
                let words: Vec<&str> = line.split(' ').collect();
                let [symbol, params, sizes] = words[..] else { return Err(format!("the line {line:?}")) };
                kernels.push((symbol.to_string(), params.parse().map_err(|_| line)?, sizes.parse().map_err(|_| line)?));
            }
            let files = std::fs::read_dir(&folder).map_err(|e| e.to_string())?.flatten().map(|e| e.path());
            let objects: Vec<Vec<u8>> = files.filter(|p| p.extension().is_some_and(|e| e == "o")).flat_map(std::fs::read).collect();
            let names: Vec<Kernel> = kernels.iter().map(|(symbol, ..)| Kernel { symbol: symbol.clone(), scratch: 0, writes: vec![] }).collect();
            let code = Loader::new(objects.iter().map(|o| o.as_slice()), &names, "v3").map_err(|e| e.message().to_string())?;
            self.code = Some((code, kernels));
        }
        self.code.as_ref().map(|(_, kernels)| &kernels[..]).ok_or_else(|| "no code".into())
    }

    /// The entries of a text, whose parameters are as many as the emulated code has, and the word for failed checks.
    fn entries(&mut self, text: &str) -> Result<Vec<String>, String> {
        if !text.contains(".target sm_80") || fault("code") {
            return Err("ptxas application ptx input, line 1; fatal : something is wrong".into());
        }
        let known = self.emulated()?;
        let mut names = vec![];
        for entry in text.split(".entry ").skip(1) {
            let (name, rest) = entry.split_once('(').ok_or("an entry without parameters")?;
            let params = rest.split_once(')').map_or(0, |(params, _)| params.matches(".param").count());
            let found = known.iter().find(|(symbol, ..)| symbol == name).ok_or_else(|| format!("no emulated code of {name}"))?;
            if params != found.1 + found.2 + 1 {
                return Err(format!("{name} has {params} parameters, and emulated {} and {}", found.1, found.2));
            }
            names.push(name.to_string());
        }
        Ok(names)
    }
}

/// Writes through a pointer that the caller promises is good.
unsafe fn give<T>(to: *mut T, value: T) -> c_int {
    unsafe { to.write(value) };
    OK
}

/// The handle of something at this position.
fn handle(position: usize) -> *mut c_void {
    std::ptr::without_provenance_mut(position + 1)
}

fn position(handle: *mut c_void) -> usize {
    handle.addr() - 1
}

/// The one stream, context.
const ONLY: usize = 6;

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(_: u32) -> c_int {
    match () {
        () if fault("no-card") => NO_DEVICE,
        () if fault("broken-card") => UNKNOWN,
        () => OK,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> c_int {
    unsafe { give(version, if fault("old-driver") { 11020 } else { 13000 }) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> c_int {
    unsafe { give(count, 1) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut c_int, number: c_int) -> c_int {
    if number == 0 { unsafe { give(device, 0) } } else { INVALID }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, _: c_int, _: c_int) -> c_int {
    let text = c"A played GPU";
    unsafe { std::ptr::copy_nonoverlapping(text.as_ptr(), name, text.count_bytes() + 1) };
    OK
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, _: c_int) -> c_int {
    match attribute {
        75 => unsafe { give(value, if fault("old-card") { 7 } else { 8 }) },
        76 => unsafe { give(value, if fault("old-card") { 5 } else { 0 }) },
        _ => INVALID,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, _: c_int) -> c_int {
    unsafe { give(bytes, memory()) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut *mut c_void, _: c_int) -> c_int {
    unsafe { give(context, handle(ONLY)) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(_: c_int) -> c_int {
    let driver = driver();
    // Whoever ends must have given everything back.
    if driver.device.is_empty() && driver.host.is_empty() && driver.modules.iter().all(Vec::is_empty) && driver.marks.iter().all(Option::is_none) {
        OK
    } else {
        panic!("memory, code or events are left")
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(context: *mut c_void) -> c_int {
    ENTERED.set(context == handle(ONLY));
    OK
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> c_int {
    entered(|d| unsafe {
        give(total, memory());
        give(free, memory() - d.device.values().map(|m| m.len()).sum::<usize>())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(address: *mut u64, bytes: usize) -> c_int {
    at_once(|d| {
        let used: usize = d.device.values().map(|m| m.len()).sum();
        if bytes == 0 {
            return INVALID;
        }
        if used + bytes > memory() {
            return NO_MEMORY;
        }
        let mut made = Aligned::zeroed(bytes).expect("memory");
        made.fill(0xff);
        let start = made.as_ptr().addr() as u64;
        d.device.insert(start, made);
        unsafe { give(address, start) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(address: u64) -> c_int {
    at_once(|d| {
        d.finish();
        if d.device.remove(&address).is_some() { OK } else { INVALID }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocHost_v2(address: *mut *mut c_void, bytes: usize) -> c_int {
    at_once(|d| {
        let made = Aligned::zeroed(bytes).expect("memory");
        let start = made.as_ptr();
        d.host.insert(start.addr(), made);
        unsafe { give(address, start.cast()) }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeHost(address: *mut c_void) -> c_int {
    at_once(|d| if d.host.remove(&address.addr()).is_some() { OK } else { INVALID })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, _: *mut c_void) -> c_int {
    at_once(|d| d.later(Task::Upload { to, from: from.expose_provenance(), bytes }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, _: *mut c_void) -> c_int {
    at_once(|d| d.later(Task::Download { to: to.expose_provenance(), from, bytes }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, _: *mut c_void) -> c_int {
    entered(|d| d.later(Task::Copy { to, from, bytes }))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8Async(at: u64, value: u8, bytes: usize, _: *mut c_void) -> c_int {
    entered(|d| d.later(Task::Fill { at, value, bytes }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadDataEx(
    module: *mut *mut c_void,
    text: *const c_void,
    options: u32,
    _: *mut c_int,
    values: *mut *mut c_void,
) -> c_int {
    at_once(|d| unsafe {
        let text = CStr::from_ptr(text.cast()).to_string_lossy().into_owned();
        match d.entries(&text) {
            Ok(names) => {
                d.modules.push(names);
                give(module, handle(d.modules.len() - 1))
            }
            Err(why) => {
                assert!(options == 2, "a log and its length");
                let (log, length) = (*values, (*values.add(1)).addr());
                std::ptr::copy_nonoverlapping(why.as_ptr(), log.cast(), why.len().min(length));
                BAD_PTX
            }
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(module: *mut c_void) -> c_int {
    at_once(|d| {
        d.finish();
        d.modules[position(module)].clear();
        OK
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(function: *mut *mut c_void, module: *mut c_void, name: *const c_char) -> c_int {
    at_once(|d| unsafe {
        let name = CStr::from_ptr(name).to_string_lossy().into_owned();
        let known = d.code.iter().flat_map(|(_, kernels)| kernels).position(|(symbol, ..)| *symbol == name);
        let Some(number) = known.filter(|_| d.modules[position(module)].contains(&name)) else { return NOT_FOUND };
        let (params, sizes) = d.code.as_ref().map_or((0, 0), |(_, kernels)| (kernels[number].1, kernels[number].2));
        d.functions.push(Function { number: number as u32, params, sizes });
        give(function, handle(d.functions.len() - 1))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetAttribute(value: *mut c_int, attribute: c_int, function: *mut c_void) -> c_int {
    at_once(|d| if attribute == 0 && position(function) < d.functions.len() { unsafe { give(value, 1024) } } else { INVALID })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernel(
    function: *mut c_void,
    blocks: u32,
    by: u32,
    bz: u32,
    threads: u32,
    ty: u32,
    tz: u32,
    shared: u32,
    _: *mut c_void,
    params: *mut *mut c_void,
    _: *mut *mut c_void,
) -> c_int {
    entered(|d| unsafe {
        if blocks == 0 || threads == 0 || [by, bz, ty, tz] != [1; 4] || shared != 0 {
            return INVALID;
        }
        let known = &d.functions[position(function)];
        let params = (0..known.params + known.sizes + 1).map(|i| (*params.add(i)).cast::<u64>().read()).collect();
        d.later(Task::Launch { function: position(function), blocks: blocks as usize, threads: threads as usize, params })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(stream: *mut *mut c_void, _: u32) -> c_int {
    at_once(|_| unsafe { give(stream, handle(ONLY)) })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(_: *mut c_void) -> c_int {
    at_once(Driver::finish)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(_: *mut c_void) -> c_int {
    at_once(Driver::finish)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamBeginCapture_v2(_: *mut c_void, _: c_int) -> c_int {
    at_once(|d| {
        d.recording = Some(vec![]);
        OK
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamEndCapture(_: *mut c_void, graph: *mut *mut c_void) -> c_int {
    entered(|d| match d.recording.take() {
        Some(tasks) => {
            d.graphs.push(tasks);
            unsafe { give(graph, handle(d.graphs.len() - 1)) }
        }
        None => INVALID,
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphInstantiateWithFlags(instance: *mut *mut c_void, graph: *mut c_void, _: u64) -> c_int {
    at_once(|_| unsafe { give(instance, graph) })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphLaunch(instance: *mut c_void, _: *mut c_void) -> c_int {
    at_once(|d| d.later(Task::Graph(position(instance))))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphDestroy(_: *mut c_void) -> c_int {
    OK
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGraphExecDestroy(_: *mut c_void) -> c_int {
    OK
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(event: *mut *mut c_void, flags: u32) -> c_int {
    at_once(|d| {
        d.marks.push(Some(0));
        if flags == 0 { unsafe { give(event, handle(d.marks.len() - 1)) } } else { INVALID }
    })
}

/// What is recorded into a graph has no time: that is another function of the driver's.
#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: *mut c_void, _: *mut c_void) -> c_int {
    at_once(|d| d.later(Task::Mark(position(event))))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime(milliseconds: *mut f32, from: *mut c_void, to: *mut c_void) -> c_int {
    at_once(|d| {
        if d.queue.iter().any(|task| matches!(task, Task::Mark(n) if [position(from), position(to)].contains(n))) {
            return NOT_READY;
        }
        match (d.marks[position(from)], d.marks[position(to)]) {
            (Some(from), Some(to)) => unsafe { give(milliseconds, (to as f32 - from as f32) / 1e6) },
            _ => INVALID,
        }
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: *mut c_void) -> c_int {
    at_once(|d| {
        d.finish();
        if d.marks[position(event)].take().is_some() { OK } else { INVALID }
    })
}

fn text(status: c_int, to: *mut *const c_char, of: impl Fn(&(c_int, &'static CStr, &'static CStr)) -> &'static CStr) -> c_int {
    match NAMES.iter().find(|(number, ..)| *number == status) {
        Some(entry) => unsafe { give(to, of(entry).as_ptr()) },
        None => INVALID,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGetErrorName(status: c_int, name: *mut *const c_char) -> c_int {
    text(status, name, |entry| entry.1)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuGetErrorString(status: c_int, name: *mut *const c_char) -> c_int {
    text(status, name, |entry| entry.2)
}
