//! Cases made by others: gradients, optimizers, training runs of PyTorch. `cargo test --test conformance -- --cases DIR` where they are unpacked; elsewhere it says so.

mod support;

#[path = "conformance/grad.rs"]
mod grad;
#[path = "conformance/optim.rs"]
mod optim;
#[path = "conformance/train.rs"]
mod train;

use std::path::PathBuf;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |flag: &str| args.iter().position(|a| a == flag).and_then(|i| args.get(i + 1)).cloned();
    let Some(cases) = value("--cases").or_else(|| std::env::var("NNC_CASES").ok()).map(PathBuf::from) else {
        println!("conformance: not run, no folder of cases given (--cases DIR)");
        return;
    };
    let only = value("--only");
    let what = value("--what").unwrap_or_else(|| "grad,optim,train".into());
    let mut failed = false;
    for kind in what.split(',') {
        let folder = cases.join(kind);
        failed |= match kind {
            "grad" => grad::run(&folder, only.as_deref()),
            "optim" => optim::run(&folder, only.as_deref()) | optim::schedules(&folder, only.as_deref()),
            "train" => train::run(&folder, only.as_deref()),
            other => panic!("--what takes grad, optim, train, not {other}"),
        };
    }
    if failed {
        std::process::exit(1);
    }
}
