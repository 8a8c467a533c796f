//! `nnc plan`: what a program needs, exactly, before it runs: parameters, memory by entry, launches.

use super::Failure;
use super::input::{self, Source};
use crate::driver;
use crate::ir::DType;
use nnc_runtime::exec::{Figures, Prepared};
use nnc_runtime::manifest::{Buffer, Entry, Role, Step, Storage};
use nnc_runtime::size::Dims;
use nnc_runtime::tensors::Tensors;
use serde_json::json;
use std::collections::BTreeMap;

/// Arguments of `nnc plan`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// The size of a free dim (default: the first recipe's batch, else 1)
    #[arg(long, value_name = "NAME=N")]
    dim: Vec<String>,
    /// Threads, for scratch memory
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Prints one JSON object
    #[arg(long)]
    json: bool,
}

/// Source lines shown of each entry's peak.
const PEAK: usize = 3;

/// What lives in the arena in the step with the most, by the line of the step that makes it, the largest first.
fn peak(entry: &Entry, dims: &Dims) -> Vec<(String, i64)> {
    let plan = &entry.plan;
    let owned = |b: &&Buffer| b.storage.of().is_none() && b.storage != Storage::Input;
    let bytes = |b: &Buffer| b.shape.iter().try_fold(b.dtype.bytes() as i64, |n, s| Some(n * s.eval(dims).ok()?)).unwrap_or(0);
    let sizes: Vec<(&Buffer, i64)> = plan.buffers.iter().filter(owned).map(|b| (b, bytes(b))).collect();
    let alive = |step: u32| sizes.iter().filter(move |(b, _)| b.first <= step && step <= b.last);
    let most = (0..plan.steps.len() as u32).max_by_key(|k| (alive(*k).map(|(_, n)| n).sum::<i64>(), std::cmp::Reverse(*k)));
    let line = |step: u32| match &plan.steps[step as usize] {
        Step::Launch(launch) => plan.lines.get(launch.line as usize).cloned().unwrap_or_default(),
        Step::Copy { .. } | Step::Loop { .. } | Step::Check { .. } => String::new(),
    };
    let mut lines: BTreeMap<String, i64> = BTreeMap::new();
    for (buffer, bytes) in most.into_iter().flat_map(alive) {
        *lines.entry(line(buffer.first)).or_default() += bytes;
    }
    let mut lines: Vec<(String, i64)> = lines.into_iter().collect();
    lines.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    lines
}

/// Runs the command.
pub fn run(args: Args) -> Result<(), Failure> {
    let checked = input::check(&args.source, DType::F32)?;
    let program = checked.program.as_ref().expect("a checked program");
    let lowered = driver::lower(driver::graph(program), &checked.sources);
    let manifest = driver::manifest(program, &lowered, &checked.sources);
    let mut given = Dims::new();
    for pair in &args.dim {
        let parsed = pair.split_once('=').and_then(|(name, n)| Some((name, n.parse::<i64>().ok()?)));
        let (name, n) = parsed.ok_or_else(|| Failure::usage(format!("--dim takes NAME=N, not `{pair}`")))?;
        given.insert(name.into(), n);
    }
    let dims = nnc_runtime::bench::sizes(&manifest, &given);
    let store = Tensors::new(&manifest.tensors)?;
    let mut tensors = Vec::new();
    for decl in &manifest.tensors {
        tensors.push((decl, decl.shape.iter().product::<i64>() * decl.dtype.bytes() as i64));
    }
    let mut entries = Vec::new();
    for entry in &manifest.entries {
        let prepared = Prepared::new(&manifest, entry, &dims, args.threads, &store)?;
        let (figures, peak) = (prepared.figures(), peak(entry, &dims));
        entries.push((entry, prepared, figures, peak));
    }
    let of = |role: Role| tensors.iter().filter(|(d, _)| d.role == role).map(|(_, bytes)| bytes).sum::<i64>();
    if args.json {
        let object = json!({
            "dims": dims,
            "tensors": tensors.iter().map(|(d, bytes)| json!({ "path": d.path, "role": d.role, "shape": d.shape, "bytes": bytes })).collect::<Vec<_>>(),
            "entries": entries.iter().map(|(entry, prepared, figures, peak)| json!({
                "name": entry.name,
                "launches": figures.launches,
                "flops": figures.flops,
                "bytes_moved": figures.bytes,
                "phases": figures.phases,
                "pool_wakeups": figures.wakes,
                "allocations": 0,
                "arena_bytes": prepared.arena_bytes(),
                "input_bytes": prepared.input_bytes(),
                "scratch_bytes": prepared.scratch_bytes(),
                "peak": peak.iter().map(|(line, bytes)| json!({ "line": line, "bytes": bytes })).collect::<Vec<_>>(),
            })).collect::<Vec<_>>(),
            "kernels": manifest.kernels.len(),
        });
        return super::print(&format!("{object}\n"));
    }
    let sizes: Vec<String> = dims.iter().map(|(name, n)| format!("{name} = {n}")).collect();
    let mut text = format!("at {}\n\n", if sizes.is_empty() { "no free dim".into() } else { sizes.join(", ") });
    let width = tensors.iter().map(|(d, _)| d.path.len()).chain(entries.iter().map(|(e, ..)| e.name.len())).max().unwrap_or(0);
    for (decl, bytes) in tensors.iter().filter(|(d, _)| d.role != Role::Optimizer) {
        let shape: Vec<String> = decl.shape.iter().map(|n| n.to_string()).collect();
        text += &format!("{:width$}  {bytes:>12} bytes  {}[{}]\n", decl.path, decl.dtype, shape.join(", "));
    }
    text += &format!("\nparameters {} bytes, states {} bytes, optimizer {} bytes\n\n", of(Role::Parameter), of(Role::State), of(Role::Optimizer));
    for (entry, prepared, Figures { launches, flops, bytes, phases, wakes }, peak) in &entries {
        let (name, arena, inputs, scratch) = (&entry.name, prepared.arena_bytes(), prepared.input_bytes(), prepared.scratch_bytes());
        text += &format!("{name:width$}  {arena:>12} bytes of arena, {inputs} of inputs, {scratch} of scratch\n");
        let shared = format!("{phases} shared phases in {wakes} pool wake-ups");
        text += &format!("{:width$}  a run: {launches} launches, {flops} FLOPs, {bytes} bytes moved, {shared}, 0 allocations\n", "");
        for (line, bytes) in peak.iter().take(PEAK) {
            text += &format!("{:width$}  {bytes:>12} bytes at the peak  {line}\n", "");
        }
    }
    text += &format!("\n{} distinct kernels\n", manifest.kernels.len());
    super::print(&text)
}
