//! `agentfs diff`.

use std::process::ExitCode;

use crate::cli::DiffArgs;
use crate::cmd::Globals;
use crate::error::CmdError;

/// Runs the subcommand.
pub fn run(_args: &DiffArgs, _globals: &Globals) -> Result<ExitCode, CmdError> {
    Err(CmdError::refused(
        "diff",
        "this build has no review part",
        "",
    ))
}
