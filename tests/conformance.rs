//! Cases made by others: gradients, optimizers, training runs of PyTorch, and files made to do harm. `cargo test --test conformance -- --cases DIR` where they are unpacked; elsewhere it says so.
//! And the benchmark workloads against PyTorch itself: `-- --what peers --peers DIR --scripts DIR`.

mod support;

#[path = "conformance/grad.rs"]
mod grad;
#[path = "conformance/hostile.rs"]
mod hostile;
#[path = "conformance/optim.rs"]
mod optim;
#[path = "conformance/peers.rs"]
mod peers;
#[path = "conformance/train.rs"]
mod train;

use std::path::PathBuf;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |flag: &str| args.iter().position(|a| a == flag).and_then(|i| args.get(i + 1)).cloned();
    let folder = |flag: &str, variable: &str| value(flag).or_else(|| std::env::var(variable).ok()).map(PathBuf::from);
    let only = value("--only");
    let what = value("--what").unwrap_or_else(|| "grad,optim,train,hostile,peers".into());
    let mut failed = false;
    for kind in what.split(',') {
        failed |= match (kind, folder("--cases", "NNC_CASES"), folder("--peers", "NNC_PEERS"), folder("--scripts", "NNC_PEERS_SCRIPTS")) {
            ("grad", Some(cases), ..) => grad::run(&cases.join(kind), only.as_deref()),
            ("optim", Some(cases), ..) => {
                let folder = cases.join(kind);
                optim::run(&folder, only.as_deref()) | optim::schedules(&folder, only.as_deref())
            }
            ("train", Some(cases), ..) => train::run(&cases.join(kind), only.as_deref()),
            ("hostile", Some(cases), ..) => hostile::run(&cases.join(kind), only.as_deref()),
            ("peers", _, Some(peers), Some(scripts)) => peers::run(&peers, &scripts, only.as_deref()),
            ("grad" | "optim" | "train" | "hostile", ..) => {
                println!("conformance: {kind} not run, no folder of cases given (--cases DIR)");
                false
            }
            ("peers", ..) => {
                println!("conformance: peers not run, no peers given (--peers DIR with PyTorch in DIR/venv, --scripts DIR)");
                false
            }
            (other, ..) => panic!("--what takes grad, optim, train, hostile, peers, not {other}"),
        };
    }
    if failed {
        std::process::exit(1);
    }
}
