//! The commands: the only place of the compiler that reads files, writes files and talks to a terminal.

mod bench;
mod build;
mod check;
mod doctor;
mod fmt;
mod gradcheck;
mod header;
mod input;
mod inspect;
mod new;
mod plan;
mod run;
mod shell;
mod ship;
mod show;
mod snap;
mod sweep;
mod time;

use clap::{Parser, Subcommand};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

/// Compiles neural networks: .nn text to native code that trains and infers.
#[derive(Parser)]
#[command(name = "nnc", version, about, max_term_width = 120)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Makes a project with a model, its data and its snapshots, ready to run
    New(new::Args),
    /// Finds every mistake in a program without running anything
    Check(check::Args),
    /// Compiles a program to one artifact
    Build(build::Args),
    /// Trains, evaluates or infers, building first if given source
    Run(run::Args),
    /// Trains once for each combination of settings, and compares
    Sweep(sweep::Args),
    /// Prints memory, parameters and launches, exactly, before a run
    Plan(plan::Args),
    /// Prints a stage: tree, graph, grad, fused, kernels, plan, llvm, asm, formulas
    Show(show::Args),
    /// Keeps snapshots of a program's shapes, memory, fusion and graph, and says what has changed
    Snap(snap::Args),
    /// Compares a program's derivatives with differences, in f64
    Gradcheck(gradcheck::Args),
    /// Says what a file is and what is in it: artifacts, runs, weights, arrays, programs
    Inspect(inspect::Args),
    /// Times steps with one batch in memory, against the machine's peaks
    Bench(bench::Args),
    /// Lays out source in the one canonical way
    Fmt(fmt::Args),
    /// Tries whether this machine has what compiling and running need
    Doctor(doctor::Args),
    /// Prints completions for a shell
    Completions(shell::Completions),
    /// Writes manual pages
    Man(shell::Man),
}

/// Why a command ends, as an exit code and a sentence (already printed where it is empty).
#[derive(Debug)]
pub struct Failure {
    /// 1 program or data, 2 usage, 3 not supported, 4 the world, 130 interrupted.
    pub code: u8,
    /// For people; without a full stop.
    pub message: String,
}

impl Failure {
    /// The program or its data is wrong.
    pub fn program(message: impl Into<String>) -> Failure {
        Failure { code: 1, message: message.into() }
    }

    /// The command line is wrong.
    pub fn usage(message: impl Into<String>) -> Failure {
        Failure { code: 2, message: message.into() }
    }

    /// A file, the disk, the machine.
    pub fn world(message: impl Into<String>) -> Failure {
        Failure { code: 4, message: message.into() }
    }

    /// Says it, where there is anything left to say.
    fn report(&self) {
        if !self.message.is_empty() {
            eprintln!("{}: {}", if self.code == 130 { "interrupted" } else { "error" }, self.message);
        }
    }
}

/// Parses the command line and runs the command.
pub fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| {
        // What a recipe or model does is no command of its own, and easily taken for one.
        let word = std::env::args().nth(1).unwrap_or_default();
        if error.kind() == clap::error::ErrorKind::InvalidSubcommand && ["train", "eval", "infer"].contains(&word.as_str()) {
            eprintln!("error: there is no command `{word}`: it is `nnc run FILE {word}`");
            std::process::exit(2);
        }
        error.exit()
    });
    // A closed pipe (`nnc show ... | head`) ends the process quietly, as it does for other tools; a run goes on without a reader.
    if !matches!(cli.command, Command::Run(_) | Command::Sweep(_)) {
        reset_sigpipe();
    }
    let result = match cli.command {
        Command::New(args) => new::run(args),
        Command::Check(args) => check::run(args),
        Command::Build(args) => build::run(args),
        Command::Run(args) => run::run(args),
        Command::Sweep(args) => sweep::run(args),
        Command::Plan(args) => plan::run(args),
        Command::Show(args) => show::run(args),
        Command::Snap(args) => snap::run(args),
        Command::Gradcheck(args) => gradcheck::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Fmt(args) => fmt::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Completions(args) => shell::completions(args),
        Command::Man(args) => shell::man(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.report();
            ExitCode::from(failure.code)
        }
    }
}

#[cfg(unix)]
fn reset_sigpipe() {
    // SAFETY: called before any thread exists; SIG_DFL is a valid disposition.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
}

#[cfg(not(unix))]
fn reset_sigpipe() {}

/// Writes to standard output.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(|e| nnc_runtime::error::RunError::file("write", std::path::Path::new("to standard output"), &e).into())
}

/// Whether to colour what goes to standard error.
fn colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

impl From<nnc_runtime::error::RunError> for Failure {
    fn from(error: nnc_runtime::error::RunError) -> Failure {
        Failure { code: error.exit_code(), message: error.message().to_string() }
    }
}
