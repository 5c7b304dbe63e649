//! `agentfs`: parses the command line, runs one subcommand, turns its answer into an exit status.

mod caps;
mod cli;
mod cmd;
mod daemon;
mod error;
mod idmap;
mod launch;
mod mounts;
mod names;
mod plan;
mod probe;
mod proc;
mod review;
mod sys;
mod view;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command};
use crate::cmd::Globals;
use crate::error::EXIT_OURS;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return usage(&e),
    };
    let globals = Globals::new(cli.globals.store);
    let answer = match &cli.command {
        Command::Run(args) => cmd::run::run(args, &globals),
        Command::Exec(args) => cmd::exec::run(args, &globals),
        Command::LsBranches(args) => cmd::ls::run(args, &globals),
        Command::Diff(args) => cmd::diff::run(args, &globals),
        Command::Rm(args) => cmd::rm::run(args, &globals),
        Command::Doctor(args) => cmd::doctor::run(args, &globals),
    };
    answer.unwrap_or_else(|e| {
        eprintln!("agentfs: {e}");
        ExitCode::from(EXIT_OURS)
    })
}

/// Prints help to stdout (status 0) and usage errors to stderr (status 125, so that a status of 2
/// can only be the command's own).
fn usage(e: &clap::Error) -> ExitCode {
    let _ = e.print();
    if e.use_stderr() {
        ExitCode::from(EXIT_OURS)
    } else {
        ExitCode::SUCCESS
    }
}
