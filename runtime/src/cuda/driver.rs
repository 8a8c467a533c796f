//! NVIDIA's driver: its functions, found in its library when a program for GPUs is loaded, and what their failures are called.
//!
//! Nothing is linked. A library that is missing, or lacks a function, is an error in words; so are a driver without a GPU and a GPU that is too old.

use crate::error::{Result, RunError};
use libloading::Library;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fmt;
use std::sync::OnceLock;

/// Whatever the driver keeps to itself: contexts, modules, streams, graphs.
pub type Handle = *mut c_void;
/// An address in the GPU's memory.
pub type Address = u64;

/// The library's name on Linux, whichever version is installed.
const LIBRARY: &str = "libcuda.so.1";
/// The oldest driver that knows all of [`Driver`]'s functions (CUDA 11.4).
const OLDEST: c_int = 11040;
/// The least compute capability that the compiler writes code for.
const CAPABILITY: (c_int, c_int) = (8, 0);
/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR` and `_MINOR`.
const MAJOR: c_int = 75;
const MINOR: c_int = 76;

macro_rules! functions {
    ($($name:ident: $symbol:literal ($($arg:ty),*)),* $(,)?) => {
        /// The functions that are used, as the driver's interface declares them; each gives 0 or the number of an error.
        pub struct Driver {
            $(pub $name: unsafe extern "C" fn($($arg),*) -> c_int,)*
            /// Holds them.
            _library: Library,
        }

        impl Driver {
            fn find(library: Library) -> std::result::Result<Driver, &'static str> {
                // SAFETY: the types are those of the driver's interface, which keeps them for ever under these versioned names.
                unsafe { Ok(Driver { $($name: *library.get(concat!($symbol, "\0").as_bytes()).map_err(|_| $symbol)?,)* _library: library }) }
            }
        }
    };
}

functions! {
    init: "cuInit" (u32),
    version: "cuDriverGetVersion" (*mut c_int),
    count: "cuDeviceGetCount" (*mut c_int),
    device: "cuDeviceGet" (*mut c_int, c_int),
    name: "cuDeviceGetName" (*mut c_char, c_int, c_int),
    attribute: "cuDeviceGetAttribute" (*mut c_int, c_int, c_int),
    total: "cuDeviceTotalMem_v2" (*mut usize, c_int),
    retain: "cuDevicePrimaryCtxRetain" (*mut Handle, c_int),
    release: "cuDevicePrimaryCtxRelease_v2" (c_int),
    enter: "cuCtxSetCurrent" (Handle),
    memory: "cuMemGetInfo_v2" (*mut usize, *mut usize),
    allocate: "cuMemAlloc_v2" (*mut Address, usize),
    free: "cuMemFree_v2" (Address),
    allocate_host: "cuMemAllocHost_v2" (*mut *mut c_void, usize),
    free_host: "cuMemFreeHost" (*mut c_void),
    upload: "cuMemcpyHtoDAsync_v2" (Address, *const c_void, usize, Handle),
    download: "cuMemcpyDtoHAsync_v2" (*mut c_void, Address, usize, Handle),
    copy: "cuMemcpyDtoDAsync_v2" (Address, Address, usize, Handle),
    fill: "cuMemsetD8Async" (Address, u8, usize, Handle),
    load: "cuModuleLoadDataEx" (*mut Handle, *const c_void, u32, *mut c_int, *mut *mut c_void),
    unload: "cuModuleUnload" (Handle),
    function: "cuModuleGetFunction" (*mut Handle, Handle, *const c_char),
    function_attribute: "cuFuncGetAttribute" (*mut c_int, c_int, Handle),
    launch: "cuLaunchKernel" (Handle, u32, u32, u32, u32, u32, u32, u32, Handle, *mut *mut c_void, *mut *mut c_void),
    stream: "cuStreamCreate" (*mut Handle, u32),
    end_stream: "cuStreamDestroy_v2" (Handle),
    wait: "cuStreamSynchronize" (Handle),
    capture: "cuStreamBeginCapture_v2" (Handle, c_int),
    captured: "cuStreamEndCapture" (Handle, *mut Handle),
    instantiate: "cuGraphInstantiateWithFlags" (*mut Handle, Handle, u64),
    run_graph: "cuGraphLaunch" (Handle, Handle),
    end_graph: "cuGraphDestroy" (Handle),
    end_instance: "cuGraphExecDestroy" (Handle),
    event: "cuEventCreate" (*mut Handle, u32),
    set_event: "cuEventRecord" (Handle, Handle),
    elapsed: "cuEventElapsedTime" (*mut f32, Handle, Handle),
    end_event: "cuEventDestroy_v2" (Handle),
    error_name: "cuGetErrorName" (c_int, *mut *const c_char),
    error_text: "cuGetErrorString" (c_int, *mut *const c_char),
}

/// A GPU that programs can run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// What its maker calls it.
    pub name: String,
    /// Compute capability.
    pub capability: (i32, i32),
    /// Bytes of memory.
    pub bytes: usize,
    /// The version of CUDA that the driver speaks.
    pub driver: (i32, i32),
    /// The driver's number of it.
    pub(super) number: i32,
}

impl fmt::Display for Card {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((major, minor), (cuda, point)) = (self.capability, self.driver);
        write!(f, "{}, compute capability {major}.{minor}, {:.1} GB, driver of CUDA {cuda}.{point}", self.name, self.bytes as f64 / 1e9)
    }
}

/// The driver and its first GPU, looked for once.
///
/// # Errors
/// [`RunError::World`]: which of the two is missing or too old, and what to do.
pub fn probe() -> Result<(&'static Driver, &'static Card)> {
    static FOUND: OnceLock<Result<(Driver, Card)>> = OnceLock::new();
    match FOUND.get_or_init(|| Driver::open().and_then(|driver| driver.card().map(|card| (driver, card)))) {
        Ok((driver, card)) => Ok((driver, card)),
        Err(error) => Err(error.clone()),
    }
}

impl Driver {
    fn open() -> Result<Driver> {
        // SAFETY: the library's initialisers are the driver's own.
        let library = unsafe { Library::new(LIBRARY) }.map_err(|_| {
            RunError::World(format!(
                "there is no driver for a GPU: {LIBRARY}, which NVIDIA's driver installs, cannot be loaded; install it or run on a CPU"
            ))
        })?;
        Driver::find(library)
            .map_err(|lacks| RunError::World(format!("the GPU's driver is too old: it has no {lacks}; install one for CUDA 11.4 or newer")))
    }

    /// The first GPU, if it can be used.
    fn card(&self) -> Result<Card> {
        let mut version = 0;
        // SAFETY: here and below, pointers to what the functions fill in.
        self.check(unsafe { (self.version)(&mut version) }, "say its version")?;
        let driver = (version / 1000, version % 1000 / 10);
        if version < OLDEST {
            return Err(RunError::World(format!(
                "the GPU's driver is too old: it is for CUDA {}.{}, and programs need 11.4 or newer; install a newer driver",
                driver.0, driver.1
            )));
        }
        let hidden = || match std::env::var("CUDA_VISIBLE_DEVICES") {
            Ok(text) => format!(" (CUDA_VISIBLE_DEVICES is \"{text}\")"),
            Err(_) => String::new(),
        };
        let mut count = 0;
        // `CUDA_ERROR_NO_DEVICE` is 100.
        match unsafe { (self.init)(0) } {
            100 => {}
            status => {
                self.check(status, "begin")?;
                self.check(unsafe { (self.count)(&mut count) }, "count its GPUs")?;
            }
        }
        if count < 1 {
            return Err(RunError::World(format!("there is a driver, but no GPU that it can use{}; run on a CPU", hidden())));
        }
        let (mut number, mut name, mut bytes) = (0, [0 as c_char; 256], 0);
        self.check(unsafe { (self.device)(&mut number, 0) }, "find a GPU")?;
        self.check(unsafe { (self.name)(name.as_mut_ptr(), name.len() as c_int - 1, number) }, "name the GPU")?;
        self.check(unsafe { (self.total)(&mut bytes, number) }, "say how much memory there is")?;
        let attribute = |which| {
            let mut value = 0;
            self.check(unsafe { (self.attribute)(&mut value, which, number) }, "describe the GPU").map(|()| value)
        };
        // SAFETY: the last byte is 0 still.
        let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
        let capability = (attribute(MAJOR)?, attribute(MINOR)?);
        if capability < CAPABILITY {
            return Err(RunError::World(format!(
                "the GPU is too old: {name} has compute capability {}.{}, and programs need {}.{} or newer; run on a CPU",
                capability.0, capability.1, CAPABILITY.0, CAPABILITY.1
            )));
        }
        Ok(Card { name, capability, bytes, driver, number })
    }

    /// An error that says what the GPU could not do, and why.
    pub fn check(&self, status: c_int, doing: &str) -> Result<()> {
        if status == 0 { Ok(()) } else { Err(RunError::World(format!("the GPU's driver cannot {doing}: {}", self.error(status)))) }
    }

    /// What the driver calls an error.
    pub fn error(&self, status: c_int) -> String {
        let text = |find: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int| {
            let mut text = std::ptr::null();
            // SAFETY: a pointer to fill in; what the driver gives is a constant string.
            let found = unsafe { find(status, &mut text) == 0 && !text.is_null() };
            found.then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
        };
        match (text(self.error_name), text(self.error_text)) {
            (Some(name), Some(text)) => format!("{text} ({name})"),
            _ => format!("error {status}"),
        }
    }
}
