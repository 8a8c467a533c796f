//! Cases made by others: gradients, optimizers, training runs of PyTorch. `cargo test --test conformance -- --cases DIR` where they are unpacked; elsewhere it says so.

mod support;

#[path = "conformance/grad.rs"]
mod grad;

use std::path::PathBuf;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |flag: &str| args.iter().position(|a| a == flag).and_then(|i| args.get(i + 1)).cloned();
    let Some(cases) = value("--cases").or_else(|| std::env::var("NNC_CASES").ok()).map(PathBuf::from) else {
        println!("conformance: not run, no folder of cases given (--cases DIR)");
        return;
    };
    let only = value("--only");
    let failed = grad::run(&cases.join("grad"), only.as_deref());
    if failed {
        std::process::exit(1);
    }
}
