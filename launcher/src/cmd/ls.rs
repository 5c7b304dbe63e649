//! `agentfs ls`.

use std::process::ExitCode;

use crate::cli::LsArgs;
use crate::cmd::Globals;
use crate::error::CmdError;

/// Runs the subcommand.
pub fn run(_args: &LsArgs, _globals: &Globals) -> Result<ExitCode, CmdError> {
    Err(CmdError::refused("ls", "this build has no review part", ""))
}
