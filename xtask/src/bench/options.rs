//! The command line of the suite.

use super::peers::Environment;
use std::path::PathBuf;

/// For the help.
pub const HELP: &str = "\
cargo xtask bench [OPTIONS]

  --peers DIR      a folder with a Python environment `venv` of the peers; their artifacts go there
  --scripts DIR    the folder of peers.py and models_torch.py, which define the workloads
  --only WORD      workloads with this in their line (\"mnist_mlp infer\"); more than once: any of them
  --rounds N       rounds (default: 7)
  --seconds S      how long a worker is timed in a round (default: 0.3)
  --slow           peers too that take a minute to start
  --products       matrix products and convolutions instead of whole steps
  --gpu            whole steps on a GPU, against PyTorch there
  --dev            nnc's unoptimised build: the code that it generates is the same
  --json FILE      the history to append to (default: target/bench/history.jsonl)
  --svg FILE       the picture (default: target/bench/suite.svg)
";

/// Parsed.
pub struct Options {
    pub peers: Option<PathBuf>,
    pub scripts: Option<PathBuf>,
    pub only: Vec<String>,
    pub rounds: usize,
    pub seconds: f64,
    pub slow: bool,
    pub products: bool,
    pub dev: bool,
    /// On a GPU, against PyTorch there.
    pub gpu: bool,
    pub history: PathBuf,
    pub svg: PathBuf,
}

impl Options {
    /// Whether the workload of this name is asked for.
    pub fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|word| name.contains(word.as_str()))
    }

    /// Where the peers are.
    pub fn environment(&self) -> Option<Environment<'_>> {
        Some(Environment { peers: self.peers.as_deref()?, scripts: self.scripts.as_deref()? })
    }
}

/// Reads the arguments.
///
/// # Errors
/// What is wrong with them.
pub fn parse(args: &[String]) -> Result<Options, String> {
    let mut options = Options {
        peers: None,
        scripts: None,
        only: vec![],
        rounds: 7,
        seconds: 0.3,
        slow: false,
        products: false,
        dev: false,
        gpu: false,
        history: "target/bench/history.jsonl".into(),
        svg: "target/bench/suite.svg".into(),
    };
    let mut rest = args.iter();
    while let Some(flag) = rest.next() {
        let mut value = || rest.next().cloned().ok_or_else(|| format!("{flag} needs a value\n\n{HELP}"));
        match flag.as_str() {
            "--peers" => options.peers = Some(absolute(value()?)?),
            "--scripts" => options.scripts = Some(absolute(value()?)?),
            "--only" => options.only.push(value()?),
            "--rounds" => {
                let text = value()?;
                options.rounds = text.parse().ok().filter(|n| *n > 0).ok_or_else(|| format!("--rounds needs a whole number above 0, not {text}"))?;
            }
            "--seconds" => {
                let text = value()?;
                let number = text.parse::<f64>().ok().filter(|s| *s > 0.0 && *s < 600.0);
                options.seconds = number.ok_or_else(|| format!("--seconds needs a number above 0, not {text}"))?;
            }
            "--slow" => options.slow = true,
            "--products" => options.products = true,
            "--help" | "-h" => return Err(HELP.into()),
            "--dev" => options.dev = true,
            "--gpu" => options.gpu = true,
            "--json" => options.history = value()?.into(),
            "--svg" => options.svg = value()?.into(),
            other => return Err(format!("there is no option {other}\n\n{HELP}")),
        }
    }
    if options.peers.is_some() != options.scripts.is_some() {
        return Err("--peers and --scripts come together: where the peers are installed, and what they run".into());
    }
    Ok(options)
}

/// Workers may run elsewhere.
fn absolute(path: String) -> Result<PathBuf, String> {
    std::fs::canonicalize(&path).map_err(|e| format!("{path}: {e}"))
}
