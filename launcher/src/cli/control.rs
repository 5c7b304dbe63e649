//! The command line of `agentfs-control-cli`.

use std::path::PathBuf;

use agentfs_fsd::core::point::SnapshotName;
use agentfs_fsd::core::types::BranchName;
use clap::{Parser, Subcommand};

use super::given::{For, NameParser};

/// Controls the branches of a mount: snapshots, new branches, and which process sees which.
///
/// Works on every mount of `agentfs mount`; processes are bound on those of `agentfs mount --shared`.
/// A branch is given by its name or its id, a snapshot as BRANCH@SNAPSHOT or by its id.
#[derive(Debug, Parser)]
#[command(
    name = "agentfs-control-cli",
    version,
    max_term_width = 100,
    arg_required_else_help = true
)]
#[command(after_help = "\
Try it, with a project at /srv/project:
  agentfs mount --shared /mnt --base /srv/project
  agentfs-control-cli --mount /mnt snapshot-create --name demo          prints an id, say mnt-0f3a@demo
  agentfs-control-cli --mount /mnt branch-create --snapshot mnt-0f3a@demo --name feature
  agentfs-control-cli --mount /mnt branch-bind --branch feature --pid $$
From then on this shell, and what it starts, sees and changes feature at /mnt; who is bound to nothing
sees the default branch there, to look at only.

Exit status: 0 done, 125 not done, with the reason on standard error.")]
pub struct ControlCli {
    /// The mount: where `agentfs mount` has put it
    #[arg(long, global = true, value_name = "DIR")]
    pub mount: Option<PathBuf>,

    /// Print one JSON object, in a schema that stays
    #[arg(long, global = true)]
    pub json: bool,

    /// Where branches are kept [default: as of agentfs]
    #[arg(long, global = true, value_name = "STORE")]
    pub store: Option<PathBuf>,

    #[command(subcommand)]
    pub command: ControlCommand,
}

/// What is to be done.
#[derive(Debug, Subcommand)]
pub enum ControlCommand {
    /// List the snapshots of the branches of this mount's base, oldest first
    SnapshotList {
        /// Of this branch only
        #[arg(long, value_name = "BRANCH")]
        branch: Option<String>,
    },
    /// Freeze what a branch holds now, and print the snapshot's id
    SnapshotCreate {
        /// The name of the snapshot [default: the next number]
        #[arg(long, value_name = "S")]
        name: Option<SnapshotName>,
        /// The branch [default: the mount's own, of a shared one the default branch]
        #[arg(long, value_name = "BRANCH")]
        branch: Option<String>,
    },
    /// Make a branch of a snapshot, and print its name
    BranchCreate {
        /// The snapshot
        #[arg(long, value_name = "ID")]
        snapshot: String,
        /// The name of the branch
        #[arg(long, value_name = "NAME", value_parser = NameParser(For::Make))]
        name: BranchName,
    },
    /// List the branches of this mount's base
    BranchList,
    /// Show a branch to a process, and to the children that it starts from now on
    ///
    /// One that is bound already moves to the new branch; the children that it has stay where they
    /// are. Only processes of the mount's owner can be bound, unless that is root.
    BranchBind {
        /// The branch
        #[arg(long, value_name = "BRANCH")]
        branch: String,
        /// The process
        #[arg(long, value_name = "PID")]
        pid: u32,
    },
    /// Show a process the default branch again, to look at only; its children stay where they are
    BranchUnbind {
        /// The process
        #[arg(long, value_name = "PID")]
        pid: u32,
    },
    /// Show what is mounted, which branches are open and who is bound to them
    Status,
}
