//! `nnc completions` and `nnc man`: what shells and `man` want to know, made from the same description as the help.

use super::{Cli, Failure};
use clap::CommandFactory;
use nnc_runtime::error::RunError;
use nnc_runtime::files;
use std::path::PathBuf;

/// Arguments of `nnc completions`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nnc completions bash > ~/.local/share/bash-completion/completions/nnc
  nnc completions zsh > ~/.zfunc/_nnc
  nnc completions fish > ~/.config/fish/completions/nnc.fish")]
pub struct Completions {
    /// Whose
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Prints the completions of a shell.
pub fn completions(args: Completions) -> Result<(), Failure> {
    let mut text = vec![];
    clap_complete::generate(args.shell, &mut Cli::command(), "nnc", &mut text);
    super::print(&String::from_utf8_lossy(&text))
}

/// Arguments of `nnc man`.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nnc man ~/.local/share/man/man1 && man nnc-run")]
pub struct Man {
    /// Where the pages go, `nnc.1` and one a command
    folder: PathBuf,
}

/// Writes the manual pages.
pub fn man(args: Man) -> Result<(), Failure> {
    files::create_folder(&args.folder)?;
    let pages = clap_mangen::generate_to(Cli::command().disable_help_subcommand(true), &args.folder);
    Ok(pages.map_err(|e| RunError::file("write the pages to", &args.folder, &e))?)
}
