//! The two programs of this crate, `agentfs` and `agentfs-control-cli`: each parses its command line, runs
//! one subcommand, and turns its answer into an exit status.

// All words go through `say`: a full or closed stream must not end the process.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod caps;
mod cli;
mod cmd;
mod daemon;
mod error;
mod hidden;
mod homes;
mod hostmount;
mod idmap;
mod launch;
mod limit;
mod line;
mod live;
mod made;
mod mounts;
mod mounttable;
mod names;
mod plan;
mod probe;
mod proc;
mod progress;
mod review;
mod say;
mod sys;
mod timings;
mod view;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Cli, Command, ControlCli};
use crate::cmd::Globals;
use crate::error::{CmdError, EXIT_OURS};
use crate::say::say;

/// `agentfs`.
pub fn agentfs() -> ExitCode {
    in_enough_stack("agentfs", begin)
}

/// `agentfs-control-cli`.
pub fn control_cli() -> ExitCode {
    in_enough_stack(CONTROL_CLI, begin_control)
}

const CONTROL_CLI: &str = "agentfs-control-cli";

fn in_enough_stack(program: &'static str, begin: fn() -> ExitCode) -> ExitCode {
    match small_stack() {
        Some(kib) => failure(
            program,
            &CmdError::refused(
                program,
                format!("its stack is limited to {kib} KiB here"),
                format!("ulimit -s {ENOUGH_STACK_KIB}, or more"),
            ),
        ),
        None => begin(),
    }
}

/// What the deepest calls use (reading arguments, in a build without optimisations), and some more
/// for the arguments and variables, which the kernel keeps there.
const ENOUGH_STACK_KIB: u64 = 512;

/// The limit of the stack in KiB, if it is lower than what is used: the kernel would end the process
/// in the middle of something.
fn small_stack() -> Option<u64> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Stack);
    let kib = limit.current? / 1024;
    (kib < ENOUGH_STACK_KIB).then_some(kib)
}

/// Never part of `main`'s own frame: that one must fit in any stack.
#[inline(never)]
fn begin_control() -> ExitCode {
    let cli = match ControlCli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return usage(CONTROL_CLI, &e, &[]),
    };
    let globals = Globals::new(cli.store.clone());
    cmd::control::run(&cli, &globals).unwrap_or_else(|e| failure(CONTROL_CLI, &e))
}

/// As [`begin_control`].
#[inline(never)]
fn begin() -> ExitCode {
    let mut args: Vec<_> = std::env::args_os().collect();
    let called = args.first().map(std::path::PathBuf::from);
    if called.is_some_and(|p| p.file_name() == Some(cmd::mount::HELPER_NAME.as_ref())) {
        args = cmd::mount::helper_args(args.into_iter());
    }
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(e) => return usage("agentfs", &e, &args),
    };
    let globals = Globals::new(cli.globals.store);
    let answer = match &cli.command {
        Command::Run(args) => cmd::run::run(args, &globals),
        Command::Exec(args) => cmd::exec::run(args, &globals),
        Command::LsBranches(args) => cmd::ls::run(args, &globals),
        Command::Diff(args) => cmd::diff::run(args, &globals),
        Command::Rm(args) => cmd::rm::run(args, &globals),
        Command::Snapshot(command) => cmd::snapshot::run(command, &globals),
        Command::Restore(args) => cmd::snapshot::restore(args, &globals),
        Command::Branch(command) => cmd::branch::run(command, &globals),
        Command::Mount(args) => cmd::mount::mount(args, &globals),
        Command::Umount(args) => cmd::mount::umount(args, &globals),
        Command::Fsck(args) => cmd::fsck::run(args, &globals),
        Command::Gc(args) => cmd::gc::run(args, &globals),
        Command::Doctor(args) => cmd::doctor::run(args, &globals),
    };
    answer.unwrap_or_else(|e| failure("agentfs", &e))
}

fn failure(program: &str, e: &CmdError) -> ExitCode {
    say!("{program}: {e}");
    ExitCode::from(e.status())
}

/// Prints help to stdout (status 0) and usage errors to stderr (status 125, so that a status of 2
/// can only be the command's own). An error quotes the arguments, so it goes out without control
/// characters.
fn usage(program: &str, e: &clap::Error, args: &[OsString]) -> ExitCode {
    if !e.use_stderr() {
        let printed = say::taken(e.print().and_then(|()| std::io::stdout().flush()));
        return printed.map_or_else(|e| failure(program, &e), |_| ExitCode::SUCCESS);
    }
    let text = match cli::without_dashes(e, args) {
        Some(text) => text,
        None => e.render().to_string(),
    };
    let plain: String = text
        .chars()
        .map(|c| {
            if c.is_control() && c != '\n' {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect();
    say::raw(&plain);
    ExitCode::from(EXIT_OURS)
}
