//! `agentfs exec`: runs a command on a branch that exists, seen from the workspace it was made for.

use std::process::ExitCode;

use agentfs_fsd::backstore::{Store, StoreError};

use crate::cli::{ExecArgs, ViewArgs};
use crate::cmd::Globals;
use crate::cmd::run::{Here, Job, find};
use crate::error::CmdError;

/// Runs the subcommand.
pub fn run(args: &ExecArgs, globals: &Globals) -> Result<ExitCode, CmdError> {
    let here = Here::look(globals)?;
    let missing = || StoreError::NoBranch(args.branch.to_string());
    let store = Store::open(&here.store)?.ok_or_else(missing)?;
    let info = find(&store, &args.branch)?.ok_or_else(missing)?;
    if !info.workspace.is_dir() {
        return Err(CmdError::refused(
            format!(
                "the workspace {} of branch {}",
                info.workspace.display(),
                info.name
            ),
            "is not on the host any more",
            "use `agentfs run --branch` from another directory",
        ));
    }
    Job {
        here: &here,
        store: Some(&store),
        branch: &args.branch,
        info: Some(&info),
        from: None,
        must_be_new: false,
        workspace: &info.workspace,
        disk: None,
        view: &ViewArgs::default(),
        report: args.report,
        cmd: &args.cmd,
        dry_run: false,
    }
    .execute()
}
