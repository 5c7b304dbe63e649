//! The control messages between the launcher (or a control client) and a branch's daemon.
//!
//! Wire form: a little-endian u32 length, then that many bytes of JSON, at most [`MAX_BYTES`].
//! Descriptors ride along as SCM_RIGHTS with the first byte of a frame. Paths are [`escaped`]. Built
//! without fuser.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::backstore::Limit;
use crate::core::point::SnapshotName;
use crate::core::types::BranchName;
use crate::escaped;

/// Version of the messages; both sides must speak the same one.
pub const VERSION: u32 = 5;
/// Largest frame, in bytes.
pub const MAX_BYTES: u32 = 1 << 20;

/// The first word of the run record of a mount, where a run has its command; the mount point follows.
pub const MOUNT_WORD: &str = "mount";

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// First on every connection.
    Hello {
        /// The client's [`VERSION`].
        version: u32,
    },
    /// Hands over a mounted `/dev/fuse` (first descriptor). Answered once INIT is done.
    /// Further descriptors are the user and the mount namespace, kept for joiners.
    Attach {
        /// What the daemon is to serve through it.
        mount: MountSpec,
    },
    /// Binds a process (and by inheritance its children) to the branch, groups from procfs.
    Bind {
        /// Pid in the host's pid namespace.
        pid: u32,
        /// Start time in clock ticks since boot, field 22 of `/proc/<pid>/stat`.
        start_ticks: u64,
    },
    /// Asks for the namespaces of the live run, which come as descriptors with `Joined`.
    Join,
    /// Asks what the branch holds now.
    Status,
    /// Asks how far the limit of the branch is used up.
    Usage,
    /// Makes everything acknowledged so far durable.
    Sync,
    /// Makes a snapshot of the branch as it is now.
    Snapshot {
        /// Its name; none: the next number.
        name: Option<SnapshotName>,
    },
    /// Makes a branch of this one as it is now.
    BranchOff {
        /// Its name.
        name: BranchName,
        /// The workspace it is made for.
        #[serde(with = "escaped::path")]
        workspace: PathBuf,
    },
    /// On a shared mount, shows a branch to a process and to its children to come.
    BindTo {
        /// The branch; opened if it is not yet.
        branch: BranchName,
        /// Pid in the host's pid namespace.
        pid: u32,
        /// Start time in clock ticks since boot, field 22 of `/proc/<pid>/stat`.
        start_ticks: u64,
    },
    /// On a shared mount, shows a process the default branch again, to look at only.
    Unbind {
        /// Pid in the host's pid namespace.
        pid: u32,
    },
    /// Asks which branches a shared mount shows to whom.
    Bindings,
    /// Counts this connection as a session: the daemon lives while one is open.
    /// It ends by closing the connection.
    Session,
}

/// What the daemon is to serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MountSpec {
    /// The host directory that the mount shows as its root; none: `/`, and paths inside the mount
    /// are those of the host.
    #[serde(default, with = "escaped::maybe_path")]
    pub root: Option<PathBuf>,
    /// Where on the host it is mounted, if anywhere: the core must never look there.
    #[serde(default, with = "escaped::maybe_path")]
    pub mountpoint: Option<PathBuf>,
    /// Host directories shown copy-on-write, absolute, none below another.
    #[serde(with = "escaped::list")]
    pub roots: Vec<PathBuf>,
    /// Host paths that the core answers with "no such entry", the store among them.
    #[serde(with = "escaped::list")]
    pub conceal: Vec<PathBuf>,
    /// Host paths below the roots that the view has something else mounted on.
    #[serde(default, with = "escaped::list")]
    pub covered: Vec<PathBuf>,
    /// The only ids that the mount's user namespace maps; none: all of them.
    #[serde(default)]
    pub only_ids: Option<OnlyIds>,
    /// Whether file bytes may go by FUSE passthrough (needs a privileged daemon).
    pub passthrough: bool,
    /// Whether the mount is to show several branches, to each process the one it is bound to. This one
    /// is the default then.
    #[serde(default)]
    pub shared: bool,
    /// A digest of the policy that the view was made by, told to who wants to join.
    #[serde(default)]
    pub policy: Option<String>,
}

/// The one user and group that a mount's user namespace knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs)]
pub struct OnlyIds {
    pub uid: u32,
    pub gid: u32,
}

/// A process that is bound to a branch of a shared mount, by name and not as a child of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BoundProcess {
    /// Its pid, in the host's pid namespace.
    pub pid: u32,
    /// The branch that it sees.
    pub branch: BranchName,
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reply {
    /// To Hello: who this is.
    Hello {
        /// The daemon's [`VERSION`].
        version: u32,
        /// The branch it serves.
        branch: BranchName,
        /// Its pid.
        pid: u32,
    },
    /// Done, nothing to tell.
    Ok,
    /// To Join, with a user and a mount namespace.
    Joined {
        /// What Attach said of the policy.
        policy: Option<String>,
    },
    /// To Bind: the groups found in procfs.
    Bound {
        /// Supplementary groups of the process, host ids.
        groups: Vec<u32>,
    },
    /// To BindTo: the process that is bound, and its supplementary groups.
    BoundTo {
        /// Its pid: that of the process, where a thread was named.
        pid: u32,
        /// Host ids.
        groups: Vec<u32>,
    },
    /// To Bindings.
    Bindings {
        /// The branch of who is bound to none.
        default: BranchName,
        /// The branches that are open, the default one among them.
        open: Vec<BranchName>,
        /// The processes that were bound and live.
        bound: Vec<BoundProcess>,
        /// Whether the kernel tells of forks; else children are known by their parents.
        hears_forks: bool,
    },
    /// To Status.
    Status {
        /// Bound processes still alive, host pids.
        processes: Vec<u32>,
        /// Open sessions.
        sessions: u32,
        /// Whether the mount is served.
        mounted: bool,
        /// By which way; `None`: it is not, or by another daemon's threads.
        #[serde(default)]
        transport: Option<Transport>,
    },
    /// To Snapshot.
    Snapshot {
        /// Its name.
        name: SnapshotName,
    },
    /// To Usage.
    Usage {
        /// None: the branch has no limit, or is not mounted.
        used: Option<Used>,
    },
    /// The request was refused.
    Error {
        /// What kind of trouble, for programs.
        code: ErrorCode,
        /// What failed, on what, why, for people.
        message: String,
    },
}

/// How far the limit of a live branch is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Used {
    /// What the branch may take up.
    pub limit: Limit,
    /// Bytes that it takes up.
    pub bytes: u64,
    /// Inodes that it takes up.
    pub inodes: u64,
    /// How often something was refused for lack of room since its daemon began.
    pub refused: u64,
}

/// Kinds of refusals.
/// By which way the kernel's requests come to a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// Read from `/dev/fuse`.
    Device,
    /// By io_uring, with a queue for each CPU.
    IoUring,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum ErrorCode {
    Version,
    Malformed,
    /// A variable of the daemon's environment says nothing that it could do.
    Environment,
    NotAllowed,
    Locked,
    Damaged,
    NewerFormat,
    NoSpace,
    NotMounted,
    NoSuchProcess,
    /// The process is another user's.
    ForeignProcess,
    NoSuchBranch,
    /// The mount shows one branch to everybody: nothing can be bound.
    NotShared,
    /// The name is in use.
    Exists,
    /// The run would not stand still for it; another try may do.
    Busy,
    Io,
}
