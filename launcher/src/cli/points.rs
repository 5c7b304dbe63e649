//! The arguments that are about branches and snapshots as such: `snapshot`, `restore`, `branch`.

use agentfs_fsd::core::point::{Point, SnapshotName};
use agentfs_fsd::core::types::BranchName;
use agentfs_policy::Disk;
use clap::{Args, Subcommand};

use super::RmArgs;
use super::given::{For, NameParser, PointParser, SnapshotOf, SnapshotParser};

/// `agentfs snapshot`.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Freeze what a branch holds now, also while commands run on it, and print its name
    Create(SnapshotCreateArgs),
    /// List the snapshots of a branch, oldest first
    #[command(visible_alias = "ls")]
    List(SnapshotListArgs),
    /// Show one snapshot
    Show(SnapshotShowArgs),
    /// Drop snapshots; one that branches were made from is refused
    Rm(SnapshotRmArgs),
}

/// `agentfs snapshot create`.
#[derive(Debug, Args)]
pub struct SnapshotCreateArgs {
    /// The branch
    #[arg(value_name = "BRANCH", value_parser = NameParser(For::Freeze))]
    pub branch: BranchName,

    /// The name of the snapshot [default: the next number]
    #[arg(long, value_name = "S")]
    pub name: Option<SnapshotName>,

    /// Print one JSON object, in a schema that stays
    #[arg(long)]
    pub json: bool,
}

/// `agentfs snapshot list`.
#[derive(Debug, Args)]
pub struct SnapshotListArgs {
    /// The branch
    #[arg(value_name = "BRANCH", value_parser = NameParser(For::ListSnapshots))]
    pub branch: BranchName,

    /// One JSON object, in a schema that stays
    #[arg(long)]
    pub json: bool,
}

/// `agentfs snapshot show`.
#[derive(Debug, Args)]
pub struct SnapshotShowArgs {
    /// The snapshot: BRANCH@SNAPSHOT
    #[arg(value_name = "POINT", value_parser = PointParser)]
    pub point: Point,

    /// One JSON object, in a schema that stays
    #[arg(long)]
    pub json: bool,
}

/// `agentfs snapshot rm`.
#[derive(Debug, Args)]
pub struct SnapshotRmArgs {
    /// The snapshots: BRANCH@SNAPSHOT
    #[arg(required = true, value_name = "POINT", value_parser = PointParser)]
    pub points: Vec<Point>,
}

/// `agentfs restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The snapshot, as BRANCH@SNAPSHOT, or the branch alone; a running one is refused
    #[arg(value_name = "POINT", value_parser = PointParser)]
    pub point: Point,

    /// One of its snapshots, behind a branch alone
    #[arg(value_name = "SNAPSHOT", value_parser = SnapshotParser)]
    pub snapshot: Option<SnapshotOf>,
}

/// `agentfs branch`.
#[derive(Debug, Subcommand)]
pub enum BranchCommand {
    /// Make a branch, of the host's files or of another branch or snapshot
    Create(BranchCreateArgs),
    /// Give a branch another name; a running one is refused
    Rename(BranchRenameArgs),
    /// Drop branches and all they hold, as `agentfs rm`
    Rm(RmArgs),
    /// Show what a branch was made from and which snapshots it has
    Show(BranchShowArgs),
    /// Draw which branch was made from which
    Tree(BranchTreeArgs),
}

/// `agentfs branch create`.
#[derive(Debug, Args)]
pub struct BranchCreateArgs {
    /// Its name: 1 to 64 letters, digits, '.', '_' or '-'
    #[arg(value_name = "NAME", value_parser = NameParser(For::Make))]
    pub branch: BranchName,

    /// A branch as it is now, or a snapshot: BRANCH@SNAPSHOT [default: the host's files, for the
    /// workspace you are in]
    #[arg(long, value_name = "POINT", value_parser = PointParser)]
    pub from: Option<Point>,

    /// How much it may take up: bytes (K, M, G, T), inodes, or both: 2G, 2G,inodes=100k, inodes=5000;
    /// none takes the limit away. It stays with the branch [default: that of the branch it is made from]
    #[arg(long, value_name = "LIMIT")]
    pub disk: Option<Disk>,
}

/// `agentfs branch rename`.
#[derive(Debug, Args)]
pub struct BranchRenameArgs {
    /// The branch
    #[arg(value_name = "NAME", value_parser = NameParser(For::Rename))]
    pub from: BranchName,

    /// Its new name
    #[arg(value_name = "NEW", value_parser = NameParser(For::NewName))]
    pub to: BranchName,
}

/// `agentfs branch show`.
#[derive(Debug, Args)]
pub struct BranchShowArgs {
    /// The branch; for BRANCH@SNAPSHOT the same as `agentfs snapshot show`
    #[arg(value_name = "NAME", value_parser = PointParser)]
    pub point: Point,

    /// One JSON object, in a schema that stays
    #[arg(long)]
    pub json: bool,
}

/// `agentfs branch tree`.
#[derive(Debug, Args)]
pub struct BranchTreeArgs {
    /// One JSON object, in a schema that stays
    #[arg(long)]
    pub json: bool,
}
