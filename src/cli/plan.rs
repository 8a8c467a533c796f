//! `nnc plan`: what a program needs, exactly, before it runs: parameters, memory by entry, launches.

use super::Failure;
use super::input::{self, Source};
use crate::driver;
use crate::ir::DType;
use nnc_runtime::exec::Prepared;
use nnc_runtime::manifest::{Role, Step};
use nnc_runtime::size::Dims;
use nnc_runtime::tensors::Tensors;
use serde_json::json;

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
        let launches = entry.plan.steps.iter().filter(|s| matches!(s, Step::Launch(_))).count();
        entries.push((&entry.name, launches, prepared.arena_bytes()));
    }
    let of = |role: Role| tensors.iter().filter(|(d, _)| d.role == role).map(|(_, bytes)| bytes).sum::<i64>();
    if args.json {
        let object = json!({
            "dims": dims,
            "tensors": tensors.iter().map(|(d, bytes)| json!({ "path": d.path, "role": d.role, "shape": d.shape, "bytes": bytes })).collect::<Vec<_>>(),
            "entries": entries.iter().map(|(name, launches, bytes)| json!({ "name": name, "launches": launches, "arena_bytes": bytes })).collect::<Vec<_>>(),
            "kernels": manifest.kernels.len(),
        });
        return super::print(&format!("{object}\n"));
    }
    let sizes: Vec<String> = dims.iter().map(|(name, n)| format!("{name} = {n}")).collect();
    let mut text = format!("at {}\n\n", if sizes.is_empty() { "no free dim".into() } else { sizes.join(", ") });
    let width = tensors.iter().map(|(d, _)| d.path.len()).chain(entries.iter().map(|(n, _, _)| n.len())).max().unwrap_or(0);
    for (decl, bytes) in tensors.iter().filter(|(d, _)| d.role != Role::Optimizer) {
        let shape: Vec<String> = decl.shape.iter().map(|n| n.to_string()).collect();
        text += &format!("{:width$}  {bytes:>12} bytes  {}[{}]\n", decl.path, decl.dtype, shape.join(", "));
    }
    text += &format!("\nparameters {} bytes, states {} bytes, optimizer {} bytes\n\n", of(Role::Parameter), of(Role::State), of(Role::Optimizer));
    for (name, launches, bytes) in &entries {
        text += &format!("{name:width$}  {bytes:>12} bytes of arena  {launches} launches\n");
    }
    text += &format!("\n{} distinct kernels\n", manifest.kernels.len());
    super::print(&text)
}
