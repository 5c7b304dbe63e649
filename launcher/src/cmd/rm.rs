//! `agentfs rm`.

use std::process::ExitCode;

use crate::cli::RmArgs;
use crate::cmd::Globals;
use crate::error::CmdError;

/// Runs the subcommand.
pub fn run(_args: &RmArgs, _globals: &Globals) -> Result<ExitCode, CmdError> {
    Err(CmdError::refused("rm", "this build has no review part", ""))
}
