//! A GPU in use: its context, the stream on which everything happens in order, memory, and a program's kernels.

use super::driver::{Address, Card, Driver, Handle, probe};
use crate::artifact::Artifact;
use crate::error::{Result, RunError, wrong};
use crate::exec::Kernels;
use crate::manifest::Grid;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::{Arc, Mutex, MutexGuard};

/// `CU_STREAM_NON_BLOCKING`: no hidden order with the default stream.
const OWN_ORDER: u32 = 1;
/// `CU_STREAM_CAPTURE_MODE_THREAD_LOCAL`.
const THREAD_LOCAL: c_int = 1;
/// `CU_JIT_ERROR_LOG_BUFFER` and its size in bytes.
const LOG: [c_int; 2] = [5, 6];
/// `CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK`.
const MOST_THREADS: c_int = 0;

/// What all memory and all kernels of a program belong to.
pub struct Context {
    pub driver: &'static Driver,
    card: &'static Card,
    handle: Handle,
    pub stream: Handle,
    turn: Mutex<()>,
}

// SAFETY: the driver's functions may be called from any thread, where the context is made current first; who uses the stream has its turn.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    fn new() -> Result<Context> {
        let (driver, card) = probe()?;
        let mut context = Context { driver, card, handle: std::ptr::null_mut(), stream: std::ptr::null_mut(), turn: Mutex::new(()) };
        // SAFETY: here and below: pointers to what is filled in, handles that the driver gave, and which live as long as what owns them.
        driver.check(unsafe { (driver.retain)(&mut context.handle, card.number) }, "use the GPU")?;
        context.enter()?;
        driver.check(unsafe { (driver.stream)(&mut context.stream, OWN_ORDER) }, "make a stream")?;
        Ok(context)
    }

    /// Makes the context the calling thread's: before anything else is done on a thread.
    pub fn enter(&self) -> Result<()> {
        self.driver.check(unsafe { (self.driver.enter)(self.handle) }, "use the GPU")
    }

    /// The stream for the calling thread, until the turn is given back.
    pub fn turn(&self) -> Result<MutexGuard<'_, ()>> {
        let turn = self.turn.lock().unwrap_or_else(|e| e.into_inner());
        self.enter().map(|()| turn)
    }

    /// An error unless `status` is 0.
    pub fn check(&self, status: c_int, doing: &str) -> Result<()> {
        self.driver.check(status, doing)
    }

    /// Waits until everything is done.
    pub fn wait(&self, doing: &str) -> Result<()> {
        match unsafe { (self.driver.wait)(self.stream) } {
            0 => Ok(()),
            status => Err(RunError::World(format!("the GPU failed while it ran {doing}: {}", self.driver.error(status)))),
        }
    }

    /// From host memory, which stays as it is until [`Context::wait`].
    pub fn upload(&self, to: Address, from: &[u8]) -> Result<()> {
        if from.is_empty() {
            return Ok(());
        }
        self.check(unsafe { (self.driver.upload)(to, from.as_ptr().cast(), from.len(), self.stream) }, "copy to the GPU")
    }

    /// To host memory, which holds it after [`Context::wait`].
    pub fn download(&self, to: &mut [u8], from: Address) -> Result<()> {
        if to.is_empty() {
            return Ok(());
        }
        self.check(unsafe { (self.driver.download)(to.as_mut_ptr().cast(), from, to.len(), self.stream) }, "copy from the GPU")
    }

    pub fn copy(&self, to: Address, from: Address, bytes: usize) -> Result<()> {
        if bytes == 0 || to == from {
            return Ok(());
        }
        self.check(unsafe { (self.driver.copy)(to, from, bytes, self.stream) }, "copy on the GPU")
    }

    pub fn clear(&self, at: Address, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.check(unsafe { (self.driver.fill)(at, 0, bytes, self.stream) }, "clear memory of the GPU")
    }

    /// A kernel with its parameters, of 8 bytes each.
    pub fn launch(&self, function: Handle, blocks: u32, threads: u32, params: &[u64]) -> Result<()> {
        let mut pointers: Vec<*mut c_void> = params.iter().map(|p| std::ptr::from_ref(p).cast_mut().cast()).collect();
        // SAFETY: as many parameters as the compiler has given the kernel, which are copied before the call returns.
        let launched =
            unsafe { (self.driver.launch)(function, blocks, 1, 1, threads, 1, 1, 0, self.stream, pointers.as_mut_ptr(), std::ptr::null_mut()) };
        self.check(launched, "launch a kernel")
    }

    /// What `record` asks for, to be done later and more than once.
    pub fn graph(self: &Arc<Self>, record: impl FnOnce() -> Result<()>) -> Result<Graph> {
        let driver = self.driver;
        self.check(unsafe { (driver.capture)(self.stream, THREAD_LOCAL) }, "record a graph")?;
        let recorded = record();
        let mut graph = Graph { context: self.clone(), graph: std::ptr::null_mut(), instance: std::ptr::null_mut() };
        let ended = unsafe { (driver.captured)(self.stream, &mut graph.graph) };
        recorded?;
        self.check(ended, "record a graph")?;
        self.check(unsafe { (driver.instantiate)(&mut graph.instance, graph.graph, 0) }, "prepare a graph")?;
        Ok(graph)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: everything that was made of it is gone: it holds the context.
        unsafe {
            if !self.stream.is_null() && self.enter().is_ok() {
                (self.driver.end_stream)(self.stream);
            }
            (self.driver.release)(self.card.number);
        }
    }
}

/// Memory of the GPU.
pub struct Memory {
    context: Arc<Context>,
    pub start: Address,
}

impl Memory {
    /// So many bytes, in which anything may be; `what` they are for.
    pub fn new(context: &Arc<Context>, bytes: usize, what: &str) -> Result<Memory> {
        let mut memory = Memory { context: context.clone(), start: 0 };
        if bytes == 0 {
            return Ok(memory);
        }
        let driver = context.driver;
        // `CUDA_ERROR_OUT_OF_MEMORY` is 2.
        match unsafe { (driver.allocate)(&mut memory.start, bytes) } {
            2 => {
                let (mut free, mut all) = (0, 0);
                context.check(unsafe { (driver.memory)(&mut free, &mut all) }, "say how much memory is free")?;
                let text = format!("{what} needs {bytes} bytes of the GPU's memory, of which {free} of {all} are free; a smaller batch needs less");
                Err(RunError::World(text))
            }
            status => context.check(status, "allocate memory").map(|()| memory),
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.start != 0 && self.context.enter().is_ok() {
            // SAFETY: allocated by `new`, and nothing that uses it is under way: runs wait for their ends.
            unsafe { (self.context.driver.free)(self.start) };
        }
    }
}

/// Host memory that the GPU can reach without a detour.
pub struct Host {
    context: Arc<Context>,
    start: *mut c_void,
    bytes: usize,
}

impl Host {
    pub fn new(context: &Arc<Context>, bytes: usize) -> Result<Host> {
        let mut host = Host { context: context.clone(), start: std::ptr::null_mut(), bytes };
        if bytes > 0 {
            context.check(unsafe { (context.driver.allocate_host)(&mut host.start, bytes) }, "allocate memory of the host")?;
            // SAFETY: just allocated.
            unsafe { host.start.cast::<u8>().write_bytes(0, bytes) };
        }
        Ok(host)
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `bytes` initialised bytes, unless there are none.
        if self.bytes == 0 { &[] } else { unsafe { std::slice::from_raw_parts(self.start.cast(), self.bytes) } }
    }

    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`.
        if self.bytes == 0 { &mut [] } else { unsafe { std::slice::from_raw_parts_mut(self.start.cast(), self.bytes) } }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if !self.start.is_null() && self.context.enter().is_ok() {
            // SAFETY: allocated by `new`.
            unsafe { (self.context.driver.free_host)(self.start) };
        }
    }
}

/// Work that was recorded.
pub struct Graph {
    context: Arc<Context>,
    graph: Handle,
    instance: Handle,
}

impl Graph {
    pub fn run(&self) -> Result<()> {
        let context = &self.context;
        context.check(unsafe { (context.driver.run_graph)(self.instance, context.stream) }, "run a graph")
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        if self.context.enter().is_err() {
            return;
        }
        let driver = self.context.driver;
        // SAFETY: made by `Context::graph`; no run is under way.
        unsafe {
            if !self.instance.is_null() {
                (driver.end_instance)(self.instance);
            }
            if !self.graph.is_null() {
                (driver.end_graph)(self.graph);
            }
        }
    }
}

/// Moments on the stream, by the GPU's clock.
pub struct Marks {
    context: Arc<Context>,
    events: Vec<Handle>,
}

impl Marks {
    pub fn new(context: &Arc<Context>, count: usize) -> Result<Marks> {
        let mut marks = Marks { context: context.clone(), events: vec![] };
        for _ in 0..count {
            let mut event = std::ptr::null_mut();
            context.check(unsafe { (context.driver.event)(&mut event, 0) }, "make an event")?;
            marks.events.push(event);
        }
        Ok(marks)
    }

    /// Number `n` is when everything is done that was asked for so far.
    pub fn set(&self, n: usize) -> Result<()> {
        self.context.check(unsafe { (self.context.driver.set_event)(self.events[n], self.context.stream) }, "record an event")
    }

    /// Nanoseconds from number `n` to the next; both have been.
    pub fn from(&self, n: usize) -> Result<f64> {
        let mut milliseconds = 0f32;
        let found = unsafe { (self.context.driver.elapsed)(&mut milliseconds, self.events[n], self.events[n + 1]) };
        self.context.check(found, "say what a launch took").map(|()| milliseconds as f64 * 1e6)
    }
}

impl Drop for Marks {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: made by `new`; runs wait for their ends.
            self.events.iter().for_each(|event| unsafe { _ = (self.context.driver.end_event)(*event) });
        }
    }
}

/// Texts that the driver has compiled.
struct Modules {
    context: Arc<Context>,
    handles: Vec<Handle>,
}

impl Drop for Modules {
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: loaded by `Gpu::load`; no kernel runs.
            self.handles.iter().for_each(|module| unsafe { _ = (self.context.driver.unload)(*module) });
        }
    }
}

/// A program's kernels on the GPU.
pub struct Gpu {
    pub(super) context: Arc<Context>,
    /// By their numbers: where the driver has them, how they are launched.
    pub(super) kernels: Vec<(Handle, Grid)>,
    _modules: Modules,
}

// SAFETY: the handles are only used with the context, which may be used from any thread.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

impl Gpu {
    /// Has the driver compile an artifact's kernels. It keeps what it has made for the next time.
    ///
    /// # Errors
    /// No GPU (as [`super::probe`]); code that the driver refuses, with what it says.
    pub fn load(artifact: &Artifact) -> Result<Gpu> {
        let manifest = &artifact.manifest;
        if manifest.grids.len() != manifest.kernels.len() {
            return wrong!("the program has {} kernels and {} grids: the artifact is damaged", manifest.kernels.len(), manifest.grids.len());
        }
        let context = Arc::new(Context::new()?);
        let mut modules = Modules { context: context.clone(), handles: vec![] };
        for (_, text) in &artifact.code {
            modules.handles.push(module(&context, text)?);
        }
        // Kernels lie in the texts in their order.
        let mut at = 0;
        let mut kernels = vec![];
        for (kernel, grid) in manifest.kernels.iter().zip(&manifest.grids) {
            let Ok(name) = CString::new(kernel.symbol.as_str()) else { return wrong!("a kernel has the name {:?}", kernel.symbol) };
            let mut function = std::ptr::null_mut();
            let found = (0..modules.handles.len()).map(|n| (at + n) % modules.handles.len()).find(|n| {
                // SAFETY: pointers to what is filled in, a name that ends, a module of this context.
                unsafe { (context.driver.function)(&mut function, modules.handles[*n], name.as_ptr()) == 0 }
            });
            match found {
                Some(n) => at = n,
                None => return wrong!("the program holds no code for kernel {}", kernel.symbol),
            }
            // This also has it loaded now: a driver that waits for the first launch would have to do so while a graph is recorded.
            let mut most = 0;
            context.check(unsafe { (context.driver.function_attribute)(&mut most, MOST_THREADS, function) }, "describe a kernel")?;
            if i64::from(most) < i64::from(grid.threads) {
                return Err(RunError::World(format!("the GPU runs {most} threads of {} side by side, which needs {}", kernel.symbol, grid.threads)));
            }
            kernels.push((function, grid.clone()));
        }
        Ok(Gpu { context, kernels, _modules: modules })
    }

    /// What it is.
    pub fn card(&self) -> &'static Card {
        self.context.card
    }
}

/// A text as the driver's machine code.
fn module(context: &Context, text: &[u8]) -> Result<Handle> {
    let Ok(text) = CString::new(text) else { return wrong!("the program's code for GPUs is damaged") };
    let mut log = vec![0 as c_char; 4096];
    let (mut module, mut options) = (std::ptr::null_mut(), LOG);
    let mut values = [log.as_mut_ptr().cast::<c_void>(), std::ptr::without_provenance_mut(log.len() - 1)];
    // SAFETY: a text that ends; two options with their values; all outlive the call.
    let status = unsafe { (context.driver.load)(&mut module, text.as_ptr().cast(), 2, options.as_mut_ptr(), values.as_mut_ptr()) };
    if status == 0 {
        return Ok(module);
    }
    // SAFETY: the log's last byte is 0 still.
    let log = unsafe { CStr::from_ptr(log.as_ptr()) }.to_string_lossy().trim().to_string();
    let said = if log.is_empty() { String::new() } else { format!("\n{log}") };
    Err(RunError::World(format!("the GPU's driver does not take the program's code: {}; a newer driver may{said}", context.driver.error(status))))
}

impl Kernels for Gpu {
    unsafe fn run(&self, _: u32, _: &[*mut u8], _: &[i64], _: i64, _: i64, _: *mut u8) -> i64 {
        unreachable!("a GPU runs whole tables")
    }

    fn gpu(&self) -> Option<&Gpu> {
        Some(self)
    }
}
