//! `nnc plan`: what a program needs, exactly, before it runs: parameters, memory by entry, launches.

use super::Failure;
use super::input::{self, Source};
use crate::driver;
use crate::ir::DType;
use nnc_runtime::exec::{Figures, Prepared};
use nnc_runtime::manifest::{Buffer, Entry, Manifest, Role, Step, Storage, TensorDecl};
use nnc_runtime::size::Dims;
use nnc_runtime::tensors::Tensors;
use serde_json::{Value, json};

/// Arguments of `nnc plan`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nnc plan net.nn --dim B=64       will it fit?
  nnc plan net.nn --json | jq '.entries[] | {name, arena_bytes}'")]
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

/// Lines and bytes.
type Peak = Vec<(String, i64)>;

/// What lives in the arena in the step with the most, by the line of the step that makes it, the largest first.
fn peak(entry: &Entry, prepared: &Prepared) -> Peak {
    let plan = &entry.plan;
    let owned = |b: &Buffer| b.storage.of().is_none() && b.storage != Storage::Input;
    let sizes: Vec<(&Buffer, i64)> =
        plan.buffers.iter().zip(&prepared.sizes).filter(|(b, _)| owned(b)).map(|(b, bytes)| (b, *bytes as i64)).collect();
    let alive = |step: u32| sizes.iter().filter(move |(b, _)| b.first <= step && step <= b.last);
    let most = (0..plan.steps.len() as u32).max_by_key(|k| (alive(*k).map(|(_, n)| n).sum::<i64>(), std::cmp::Reverse(*k)));
    let line = |step: u32| match &plan.steps[step as usize] {
        Step::Launch(launch) => plan.lines.get(launch.line as usize).cloned().unwrap_or_default(),
        Step::Copy { .. } | Step::Loop { .. } | Step::Check { .. } => String::new(),
    };
    // Of equals the one made first stands first: a path's name, as typed, says nothing.
    let mut lines: Peak = vec![];
    for (buffer, bytes) in most.into_iter().flat_map(alive) {
        let line = line(buffer.first);
        match lines.iter_mut().find(|(l, _)| *l == line) {
            Some((_, sum)) => *sum += bytes,
            None => lines.push((line, *bytes)),
        }
    }
    lines.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    lines
}

/// Runs the command.
pub fn run(args: Args) -> Result<(), Failure> {
    let checked = input::check(&args.source, DType::F32)?;
    let program = checked.program.as_ref().expect("a checked program");
    let lowered = driver::lower(driver::graph(program), &checked.sources);
    let manifest = driver::manifest(program, &lowered, &checked.sources);
    let needs = Needs::new(&manifest, &dims(&args.dim)?, args.threads)?;
    super::print(&if args.json { format!("{}\n", needs.json()) } else { needs.text() })
}

/// The sizes that `--dim NAME=N` gives.
pub fn dims(pairs: &[String]) -> Result<Dims, Failure> {
    let parsed = |pair: &String| pair.split_once('=').and_then(|(name, n)| Some((name.into(), n.parse::<i64>().ok()?)));
    pairs.iter().map(|pair| parsed(pair).ok_or_else(|| Failure::usage(format!("--dim takes NAME=N, not `{pair}`")))).collect()
}

/// What a program needs at given sizes.
pub struct Needs<'a> {
    manifest: &'a Manifest,
    dims: Dims,
    /// Stored tensors and their bytes.
    tensors: Vec<(&'a TensorDecl, i64)>,
    entries: Vec<(&'a Entry, Prepared, Peak)>,
}

impl<'a> Needs<'a> {
    /// Works it out; dims that are not `given` have the recipe's batch, their upper bound, or 1.
    pub fn new(manifest: &'a Manifest, given: &Dims, threads: usize) -> Result<Needs<'a>, Failure> {
        let dims = nnc_runtime::bench::sizes(manifest, given);
        let store = Tensors::new(&manifest.tensors)?;
        let tensors = manifest.tensors.iter().map(|d| (d, d.shape.iter().product::<i64>() * d.dtype.bytes() as i64)).collect();
        let mut entries = Vec::new();
        for entry in &manifest.entries {
            let prepared = Prepared::new(manifest, entry, &dims, threads, &store)?;
            let peak = peak(entry, &prepared);
            entries.push((entry, prepared, peak));
        }
        Ok(Needs { manifest, dims, tensors, entries })
    }

    /// For programs.
    pub fn json(&self) -> Value {
        json!({
            "dims": self.dims,
            "tensors": self.tensors.iter().map(|(d, bytes)| json!({ "path": d.path, "role": d.role, "shape": d.shape, "bytes": bytes })).collect::<Vec<_>>(),
            "entries": self.entries.iter().map(|(entry, prepared, peak)| {
                let figures = prepared.figures();
                json!({
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
                })
            }).collect::<Vec<_>>(),
            "kernels": self.manifest.kernels.len(),
        })
    }

    /// For people.
    pub fn text(&self) -> String {
        let of = |role: Role| self.tensors.iter().filter(|(d, _)| d.role == role).map(|(_, bytes)| bytes).sum::<i64>();
        let sizes: Vec<String> = self.dims.iter().map(|(name, n)| format!("{name} = {n}")).collect();
        let mut text = format!("at {}\n\n", if sizes.is_empty() { "no free dim".into() } else { sizes.join(", ") });
        let width = self.tensors.iter().map(|(d, _)| d.path.len()).chain(self.entries.iter().map(|(e, ..)| e.name.len())).max().unwrap_or(0);
        for (decl, bytes) in self.tensors.iter().filter(|(d, _)| d.role != Role::Optimizer) {
            let shape: Vec<String> = decl.shape.iter().map(|n| n.to_string()).collect();
            text += &format!("{:width$}  {bytes:>12} bytes  {}[{}]\n", decl.path, decl.dtype, shape.join(", "));
        }
        text += &format!("\nparameters {} bytes, states {} bytes, optimizer {} bytes\n\n", of(Role::Parameter), of(Role::State), of(Role::Optimizer));
        for (entry, prepared, peak) in &self.entries {
            let Figures { launches, flops, bytes, phases, wakes } = prepared.figures();
            let (name, arena, inputs, scratch) = (&entry.name, prepared.arena_bytes(), prepared.input_bytes(), prepared.scratch_bytes());
            text += &format!("{name:width$}  {arena:>12} bytes of arena, {inputs} of inputs, {scratch} of scratch\n");
            let shared = format!("{phases} shared phases in {wakes} pool wake-ups");
            text += &format!("{:width$}  a run: {launches} launches, {flops} FLOPs, {bytes} bytes moved, {shared}, 0 allocations\n", "");
            for (line, bytes) in peak.iter().take(PEAK) {
                text += &format!("{:width$}  {bytes:>12} bytes at the peak  {line}\n", "");
            }
        }
        text + &format!("\n{} distinct kernels\n", self.manifest.kernels.len())
    }
}
