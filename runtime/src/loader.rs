//! Machine code from memory to callable: a loader for the objects that the compiler emits.
//!
//! In: x86-64 ELF relocatable objects that need nothing but each other's functions, and the kernels' symbols. Out: their functions for the best level that this CPU
//! has. Code and constants of all objects lie in one mapping, never writable and executable at once; sections for debuggers and unwinders are
//! left out. What the objects say about themselves is checked: a damaged one gives an error here, though not one that was made to do harm.

use crate::artifact::Artifact;
use crate::cuda::Gpu;
use crate::error::{Result, RunError, wrong};
use crate::exec::Kernels;
use crate::manifest::Kernel;
use std::collections::BTreeMap;

/// `args, sizes, lo, hi, scratch` to 0 or the number of a failed check.
type Function = unsafe extern "C" fn(*const *mut u8, *const i64, i64, i64, *mut u8) -> i64;

/// Loaded kernels.
pub struct Loader {
    kernels: Vec<Function>,
    level: &'static str,
    /// Holds the code.
    _mapping: Mapping,
}

const PAGE: usize = 4096;
/// Where 32-bit distances still reach.
const LIMIT: usize = 1 << 30;

/// The best level of this CPU, or the one that `NNC_LEVEL` names.
///
/// # Errors
/// A CPU below x86-64-v3, or one without the level that is asked for.
pub fn level() -> Result<&'static str> {
    let best = detect();
    let asked = std::env::var("NNC_LEVEL").ok().filter(|l| !l.is_empty());
    match (asked.as_deref(), best) {
        (_, None) => Err(RunError::Unsupported("this CPU is below x86-64-v3 (AVX2 and FMA), which compiled programs need".into())),
        (None, Some(best)) => Ok(best),
        (Some("v3"), _) => Ok("v3"),
        (Some("v4"), Some("v4")) => Ok("v4"),
        (Some("v4"), _) => Err(RunError::Unsupported("NNC_LEVEL=v4, but this CPU has no AVX-512 (x86-64-v4)".into())),
        (Some(other), _) => Err(RunError::Usage(format!("NNC_LEVEL={other}: levels are v3 and v4"))),
    }
}

/// Every level of this CPU, the best last.
pub fn levels() -> &'static [&'static str] {
    match detect() {
        Some("v4") => &["v3", "v4"],
        Some(_) => &["v3"],
        None => &[],
    }
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Option<&'static str> {
    macro_rules! all {
        ($($name:tt)*) => { true $(&& std::is_x86_feature_detected!($name))* };
    }
    if !all!("avx" "avx2" "bmi1" "bmi2" "f16c" "fma" "lzcnt" "movbe") {
        None
    } else if !all!("avx512f" "avx512bw" "avx512cd" "avx512dq" "avx512vl") {
        Some("v3")
    } else {
        Some("v4")
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Option<&'static str> {
    None
}

/// Loads an artifact's kernels for this CPU, or for this machine's GPU where they are a GPU's.
///
/// # Errors
/// As [`level`] and [`Loader::new`], or as [`Gpu::load`].
pub fn load_artifact(artifact: &Artifact) -> Result<Box<dyn Kernels + Send>> {
    if !artifact.manifest.grids.is_empty() {
        let hint = |e| match e {
            RunError::World(text) => RunError::World(format!("the program was built for GPUs (--target cuda): {text}")),
            other => other,
        };
        return Ok(Box::new(Gpu::load(artifact).map_err(hint)?));
    }
    Ok(Box::new(Loader::new(artifact.code.iter().map(|(_, object)| object.as_slice()), &artifact.manifest.kernels, level()?)?))
}

impl Loader {
    /// Loads `objects`, in which a kernel called `k` is the function `k.v3` or `k.v4`; `kernels` are numbered as they will be called.
    /// `level` is [`level`]'s.
    ///
    /// # Errors
    /// An object that is not as expected, a kernel without code for the level, no memory.
    pub fn new<'a>(objects: impl IntoIterator<Item = &'a [u8]>, kernels: &[Kernel], level: &'static str) -> Result<Loader> {
        let objects: Vec<Object> = objects.into_iter().map(Object::parse).collect::<Option<_>>().ok_or_else(damaged)?;
        let (places, code, size) = place(&objects).ok_or_else(damaged)?;
        let mut mapping = Mapping::new(size)?;
        let mut functions = Functions::new();
        let base = mapping.start as u64;
        for (object, places) in objects.iter().zip(&places) {
            object.functions(places, code, &mut functions).ok_or_else(damaged)?;
        }
        for (object, places) in objects.iter().zip(&places) {
            object.load(places, base, &functions, mapping.bytes())?;
        }
        mapping.protect(code)?;
        let find = |kernel: &Kernel| {
            let symbol = format!("{}.{level}", kernel.symbol);
            let Some(offset) = functions.get(symbol.as_bytes()) else { return wrong!("the program holds no code for kernel {symbol}") };
            // Safety: a function's start inside the mapping's executable part; the compiler gave it this type.
            Ok(unsafe { std::mem::transmute::<*const u8, Function>(mapping.start.add(*offset)) })
        };
        let kernels = kernels.iter().map(find).collect::<Result<_>>()?;
        Ok(Loader { kernels, level, _mapping: mapping })
    }

    /// The level whose code runs.
    pub fn level(&self) -> &'static str {
        self.level
    }
}

impl Kernels for Loader {
    unsafe fn run(&self, kernel: u32, args: &[*mut u8], sizes: &[i64], lo: i64, hi: i64, scratch: *mut u8) -> i64 {
        // Safety: the caller's, about the arguments; the function stays mapped as long as `self`.
        unsafe { self.kernels[kernel as usize](args.as_ptr(), sizes.as_ptr(), lo, hi, scratch) }
    }
}

fn damaged() -> RunError {
    RunError::Wrong("the program's machine code is damaged".into())
}

/// Names and offsets from the mapping's start.
type Functions = BTreeMap<Vec<u8>, usize>;

struct Section<'a> {
    kind: u32,
    flags: u64,
    bytes: &'a [u8],
    align: usize,
    link: usize,
    info: usize,
    /// Part of what runs.
    kept: bool,
}

struct Object<'a> {
    sections: Vec<Section<'a>>,
    symbols: Vec<Symbol<'a>>,
}

struct Symbol<'a> {
    name: &'a [u8],
    function: bool,
    section: usize,
    value: u64,
}

fn bytes<const N: usize>(of: &[u8], at: usize) -> Option<[u8; N]> {
    of.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(of: &[u8], at: usize) -> Option<usize> {
    bytes(of, at).map(|b| u16::from_le_bytes(b) as usize)
}

fn u32_at(of: &[u8], at: usize) -> Option<u32> {
    bytes(of, at).map(u32::from_le_bytes)
}

fn u64_at(of: &[u8], at: usize) -> Option<u64> {
    bytes(of, at).map(u64::from_le_bytes)
}

/// A string up to its zero.
fn string(of: &[u8], at: usize) -> Option<&[u8]> {
    let rest = of.get(at..)?;
    rest.get(..rest.iter().position(|b| *b == 0)?)
}

const PROGBITS: u32 = 1;
const SYMTAB: u32 = 2;
const RELA: u32 = 4;
const NOBITS: u32 = 8;
const WRITE: u64 = 1;
const ALLOC: u64 = 2;
const EXECUTE: u64 = 4;

impl<'a> Object<'a> {
    fn parse(file: &'a [u8]) -> Option<Object<'a>> {
        // 64-bit, little-endian, version 1; relocatable, x86-64.
        let known = file.starts_with(b"\x7fELF\x02\x01\x01") && u16_at(file, 16)? == 1 && u16_at(file, 18)? == 62;
        if !known || u16_at(file, 58)? != 64 {
            return None;
        }
        let (table, count, names) = (usize::try_from(u64_at(file, 40)?).ok()?, u16_at(file, 60)?, u16_at(file, 62)?);
        let mut sections = Vec::with_capacity(count);
        let mut labels = Vec::with_capacity(count);
        for n in 0..count {
            let head = file.get(table.checked_add(n * 64)?..)?.get(..64)?;
            let (kind, flags) = (u32_at(head, 4)?, u64_at(head, 8)?);
            let (start, size) = (usize::try_from(u64_at(head, 24)?).ok()?, usize::try_from(u64_at(head, 32)?).ok()?);
            let bytes = if kind == NOBITS { &[] } else { file.get(start..start.checked_add(size)?)? };
            // No kernel has zeroed or writable memory of its own.
            let kept = flags & ALLOC != 0 && size > 0 && (kind == PROGBITS || kind == NOBITS);
            if kept && (kind == NOBITS || flags & WRITE != 0) {
                return None;
            }
            let align = usize::try_from(u64_at(head, 48)?).ok()?.max(1);
            if !align.is_power_of_two() || align > PAGE {
                return None;
            }
            labels.push(u32_at(head, 0)? as usize);
            sections.push(Section { kind, flags, bytes, align, link: u32_at(head, 40)? as usize, info: u32_at(head, 44)? as usize, kept });
        }
        let names = sections.get(names)?.bytes;
        for (section, label) in sections.iter_mut().zip(labels) {
            if string(names, label)? == b".eh_frame" {
                section.kept = false;
            }
        }
        let mut symbols = vec![];
        if let Some(table) = sections.iter().find(|s| s.kind == SYMTAB) {
            let names = sections.get(table.link)?.bytes;
            for entry in table.bytes.chunks(24) {
                let info = *entry.get(4)?;
                let name = string(names, u32_at(entry, 0)? as usize)?;
                symbols.push(Symbol { name, function: info & 15 == 2, section: u16_at(entry, 6)?, value: u64_at(entry, 8)? });
            }
        }
        Some(Object { sections, symbols })
    }

    /// Copies the sections to their places and fills in addresses; `base` is where the memory will run, `functions` what all objects hold.
    fn load(&self, places: &[usize], base: u64, functions: &Functions, memory: &mut [u8]) -> Result<()> {
        for (section, place) in self.sections.iter().zip(places).filter(|(s, _)| s.kept) {
            memory[*place..*place + section.bytes.len()].copy_from_slice(section.bytes);
        }
        for table in self.sections.iter().filter(|s| s.kind == RELA) {
            let Some(target) = self.sections.get(table.info) else { return Err(damaged()) };
            if !target.kept {
                continue;
            }
            for entry in table.bytes.chunks(24) {
                let (at, value, width) = self.relocation(entry, target.bytes.len(), places[table.info], places, base, functions)?;
                memory[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
            }
        }
        Ok(())
    }

    /// Where in memory which bytes of an address go, for an entry of the table of a section of `size` bytes that lies at `start`.
    fn relocation(&self, entry: &[u8], size: usize, start: usize, places: &[usize], base: u64, functions: &Functions) -> Result<(usize, u64, usize)> {
        let parts = || Some((usize::try_from(u64_at(entry, 0)?).ok()?, u64_at(entry, 8)?, u64_at(entry, 16)?));
        let (at, info, addend) = parts().ok_or_else(damaged)?;
        let symbol = self.symbols.get((info >> 32) as usize).ok_or_else(damaged)?;
        let offset = match self.sections.get(symbol.section).filter(|s| symbol.section != 0 && s.kept) {
            // A little before or behind the section is fine (addends may point there), elsewhere is not.
            Some(section) if symbol.value > section.bytes.len() as u64 => return Err(damaged()),
            Some(_) => places[symbol.section] as u64 + symbol.value,
            // A function of another object.
            None => match functions.get(symbol.name).filter(|_| symbol.section == 0) {
                Some(offset) => *offset as u64,
                None => return wrong!("the program's machine code needs {}, which it does not hold", String::from_utf8_lossy(symbol.name)),
            },
        };
        let target = base.wrapping_add(offset).wrapping_add(addend);
        let here = base.wrapping_add((start + at.min(size)) as u64);
        let kind = info as u32;
        let (value, width) = match kind {
            // R_X86_64_64
            1 => (target, 8),
            // R_X86_64_PC32, R_X86_64_PLT32
            2 | 4 => (target.wrapping_sub(here), 4),
            // R_X86_64_32S
            11 => (target, 4),
            _ => return wrong!("the program's machine code has a relocation of unknown kind {kind}"),
        };
        if width == 4 && i32::try_from(value as i64).is_err() {
            return wrong!("the program's machine code is out of reach of its constants");
        }
        if at.checked_add(width).is_none_or(|end| end > size) {
            return Err(damaged());
        }
        Ok((start + at, value, width))
    }

    /// Adds the functions: name to offset. Those outside the executable part are refused.
    fn functions(&self, places: &[usize], code: usize, into: &mut Functions) -> Option<()> {
        for symbol in self.symbols.iter().filter(|s| s.function) {
            let section = self.sections.get(symbol.section).filter(|s| s.kept && s.flags & EXECUTE != 0)?;
            let value = usize::try_from(symbol.value).ok().filter(|v| *v < section.bytes.len())?;
            let offset = places[symbol.section] + value;
            if offset >= code {
                return None;
            }
            into.insert(symbol.name.to_vec(), offset);
        }
        Some(())
    }
}

/// Where each object's sections go, where code ends, and the size of all: code first, constants from the next page.
fn place(objects: &[Object]) -> Option<(Vec<Vec<usize>>, usize, usize)> {
    let mut places: Vec<Vec<usize>> = objects.iter().map(|o| vec![0; o.sections.len()]).collect();
    let mut end = 0usize;
    let mut code = 0;
    for executable in [true, false] {
        for (object, places) in objects.iter().zip(&mut places) {
            for (section, place) in object.sections.iter().zip(places) {
                if section.kept && (section.flags & EXECUTE != 0) == executable {
                    *place = end.next_multiple_of(section.align);
                    end = place.checked_add(section.bytes.len()).filter(|end| *end < LIMIT)?;
                }
            }
        }
        end = end.next_multiple_of(PAGE);
        if executable {
            code = end;
        }
    }
    Some((places, code, end.max(PAGE)))
}

/// Pages of our own.
struct Mapping {
    start: *mut u8,
    size: usize,
}

// Safety: the memory is not written after loading.
unsafe impl Send for Mapping {}
// Safety: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(size: usize) -> Result<Mapping> {
        // Safety: a fresh anonymous mapping.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), size, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(RunError::World(format!("no memory for {size} bytes of machine code")));
        }
        Ok(Mapping { start: start.cast(), size })
    }

    fn bytes(&mut self) -> &mut [u8] {
        // Safety: our own mapping, still writable.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.size) }
    }

    /// The first `code` bytes become executable, the rest constant.
    fn protect(&mut self, code: usize) -> Result<()> {
        // Safety: whole pages of our own mapping.
        let failed = unsafe {
            (code > 0 && libc::mprotect(self.start.cast(), code, libc::PROT_READ | libc::PROT_EXEC) != 0)
                || (code < self.size && libc::mprotect(self.start.add(code).cast(), self.size - code, libc::PROT_READ) != 0)
        };
        if failed { Err(RunError::Unsupported("this system does not let programs run code that they load".into())) } else { Ok(()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // Safety: our own mapping, and no function in it runs: they are only called through the loader.
        unsafe { libc::munmap(self.start.cast(), self.size) };
    }
}
