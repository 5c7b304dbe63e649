//! What can go wrong in a subcommand or in a step of the set-up, and the words for it.
//!
//! Every message names what failed, on what, why, and where there is one the fix. All of these end
//! with exit status 125; the command's own status never passes through here.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use agentfs_fsd::backstore::StoreError;
use agentfs_fsd::core::types::{BranchName, BranchNameError};
use agentfs_fsd::ctl::CtlError;
use agentfs_fsd::ctl::msg::ErrorCode;
use agentfs_policy::PolicyError;
use serde::{Deserialize, Serialize};

/// Exit status of a failure of agentfs itself.
pub const EXIT_OURS: u8 = 125;

/// Why a subcommand could not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum CmdError {
    /// The request makes no sense, or cannot be met on this machine.
    #[error("{what}: {why}{line}", line = fix_line(.fix))]
    Refused {
        /// What was asked for, or failed.
        what: String,
        /// Why not.
        why: String,
        /// What to do about it; empty if there is nothing to say.
        fix: String,
    },
    /// A system call of the launcher itself failed.
    #[error("{op} {}: {source}{fix}", .path.display(), fix = fix_line(io_fix(op, source)))]
    Io {
        /// What was tried.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The store said no.
    #[error("{0}{fix}", fix = fix_line(store_fix(.0)))]
    Store(#[from] StoreError),
    /// A name that is no branch name.
    #[error("{0}")]
    BranchName(#[from] BranchNameError),
    /// A policy file or flag was refused.
    #[error("{0}")]
    Policy(Box<PolicyError>),
    /// A step of the set-up failed.
    #[error("{0}{fix}", fix = fix_line(.0.fix()))]
    Setup(#[from] SetupError),
    /// The branch's daemon did not do as asked.
    #[error("the daemon of branch {branch}: {source}{line}{fix}", line = said_line(.said), fix = fix_line(&daemon_fix(.source, .log.as_deref())))]
    Daemon {
        /// Its branch.
        branch: String,
        /// What went wrong.
        source: CtlError,
        /// The last that it said on its standard error, if anything.
        said: String,
        /// Where it says more, if it was started here and its branch stays.
        log: Option<PathBuf>,
    },
    /// A signal came before the command was started.
    #[error("ended by signal {0} before the command was started")]
    Interrupted(i32),
    /// Reading or showing a branch's changes failed.
    #[error("{0}")]
    Review(Box<dyn std::error::Error + Send + Sync>),
}

impl From<PolicyError> for CmdError {
    fn from(e: PolicyError) -> Self {
        Self::Policy(Box::new(e))
    }
}

impl CmdError {
    /// A refusal with a reason and what to do about it.
    pub fn refused(
        what: impl Into<String>,
        why: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self::Refused {
            what: what.into(),
            why: why.into(),
            fix: fix.into(),
        }
    }

    /// An answer of a branch's daemon that was none, or not the one hoped for.
    pub fn daemon(branch: &BranchName, source: CtlError) -> Self {
        Self::Daemon {
            branch: branch.to_string(),
            source,
            said: String::new(),
            log: None,
        }
    }

    /// The same, now that the branch is removed, and its daemon's log with it.
    pub fn without_log(mut self) -> Self {
        if let Self::Daemon { log, .. } = &mut self {
            *log = None;
        }
        self
    }

    /// The exit status that tells of it.
    pub fn status(&self) -> u8 {
        match self {
            Self::Interrupted(number) => (128 + number).clamp(129, 255) as u8,
            _ => EXIT_OURS,
        }
    }

    /// A failed system call of ours.
    pub fn io(op: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::Io {
            op,
            path: path.into(),
            source: source.into(),
        }
    }
}

fn fix_line(fix: &str) -> String {
    if fix.is_empty() {
        String::new()
    } else {
        format!("\n  fix: {fix}")
    }
}

fn said_line(said: &str) -> String {
    if said.is_empty() {
        String::new()
    } else {
        format!("\n  {said}")
    }
}

const DAMAGED_FIX: &str = "the other branches are not affected; `agentfs fsck` tells all that is \
    wrong, and with --repair mends what can be; `agentfs rm NAME` drops a damaged one";
const NEWER_FIX: &str = "use the agentfs that wrote it, or a newer one";

/// The daemon's program: the step that executes it.
pub const START_DAEMON: &str = "start the daemon";

/// What to do about a system call that failed because of a limit; empty if it was something else.
fn limit_fix(errno: Option<i32>) -> &'static str {
    use nix::libc::{EMFILE, ENFILE, ENOMEM};
    match errno {
        Some(EMFILE) => {
            "raise the limit of open files: ulimit -n 1024, or more; LimitNOFILE= in a service"
        }
        Some(ENFILE) => "raise the limit of open files of this machine: sysctl fs.file-max",
        Some(ENOMEM) => {
            "free memory, or raise its limit here: ulimit -v, the memory of a container"
        }
        _ => "",
    }
}

const PROCESSES_FIX: &str = "raise the limit of processes: ulimit -u; TasksMax= in a service, the \
    limit of pids of a container";

fn io_fix(op: &str, source: &io::Error) -> &'static str {
    use nix::libc::{EACCES, EAGAIN, ENOENT, ENOEXEC};
    match (op, source.raw_os_error()) {
        (START_DAEMON, Some(EAGAIN)) => PROCESSES_FIX,
        (START_DAEMON, Some(EACCES | ENOENT | ENOEXEC)) => {
            "it must be a program that you may execute: look at its mode, and at the mount options \
             there (noexec)"
        }
        (_, errno) => limit_fix(errno),
    }
}

/// What to do about a daemon's refusal or end; empty if there is nothing to say.
fn daemon_fix(e: &CtlError, log: Option<&Path>) -> String {
    match (e, log) {
        (CtlError::Closed, Some(log)) => format!("look at {}", log.display()),
        (e, _) => told_fix(e).to_owned(),
    }
}

fn told_fix(e: &CtlError) -> &'static str {
    match e {
        CtlError::Closed => {
            "`agentfs doctor` tries what a run needs, and names the daemon's program"
        }
        CtlError::Io { source, .. } => limit_fix(source.raw_os_error()),
        CtlError::Refused { code, .. } => match code {
            ErrorCode::Damaged => DAMAGED_FIX,
            ErrorCode::NewerFormat => NEWER_FIX,
            ErrorCode::Environment => "set the variable to something that it takes, or unset it",
            ErrorCode::NoSpace => {
                "free space where the store is, or drop branches with `agentfs rm`"
            }
            ErrorCode::Busy => "try again when it is less busy",
            ErrorCode::NotShared => "mount it with `agentfs mount --shared DIR` to bind processes",
            ErrorCode::NoSuchBranch => {
                "`agentfs-control-cli --mount DIR branch-list` lists the branches"
            }
            ErrorCode::NoSuchProcess => "name a process that is alive, by its pid on the host",
            ErrorCode::ForeignProcess => "bind a process of your own, or have root make the mount",
            ErrorCode::Locked => "`agentfs ls` shows what runs on it; end that, or wait for it",
            _ => "",
        },
        _ => "",
    }
}

fn store_fix(e: &StoreError) -> &'static str {
    match e {
        StoreError::NotWritable { .. } => {
            "make the store's directory writable for you, or choose another with --store DIR or \
             AGENTFS_STORE"
        }
        StoreError::NoSpace { .. } => {
            "free space there, drop branches with `agentfs rm`, or choose another store with \
             --store DIR"
        }
        StoreError::NewerFormat { .. } => NEWER_FIX,
        StoreError::NoBranch(_) => "`agentfs ls` lists the branches",
        StoreError::BranchExists(_) => "choose another name; `agentfs ls` lists those in use",
        StoreError::NoSnapshot { .. } => "`agentfs snapshot list BRANCH` lists those there are",
        StoreError::SnapshotExists { .. } => {
            "choose another name, or leave --name out for the next number"
        }
        StoreError::Needed { .. } => "drop those first, with `agentfs rm`, or leave it",
        StoreError::LimitReached(_) => "raise the branch's limit with --disk, or remove files",
        StoreError::TooManySnapshots(_) => "drop some with `agentfs snapshot rm`",
        StoreError::Unsettled(e) => store_fix(e),
        StoreError::Locked { .. } => "`agentfs ls` shows what runs on it; end that, or wait for it",
        StoreError::NoStore { .. } => {
            "name another directory with --store DIR or AGENTFS_STORE; a new or an empty one becomes \
             a store"
        }
        StoreError::Damaged { path, .. } if is_stores_own(path) => {
            "no branch can be used without it, and all are still there: `agentfs fsck --repair` \
             writes it anew"
        }
        StoreError::Damaged { .. } => DAMAGED_FIX,
        StoreError::Poisoned { .. } => {
            "end the commands on the branch and start anew, which recovers all that was \
             acknowledged; fsd.log in its directory tells what failed"
        }
        StoreError::Io { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
            "it is somebody else's, or its mode keeps you out; a store of your own can be named with \
             --store DIR or AGENTFS_STORE"
        }
        // The latter when it is to be made and something else is there.
        StoreError::Io { source, .. }
            if matches!(
                source.kind(),
                ErrorKind::NotADirectory | ErrorKind::AlreadyExists
            ) =>
        {
            "a store is a directory: name another place with --store DIR or AGENTFS_STORE"
        }
        StoreError::Io { source, .. } if !limit_fix(source.raw_os_error()).is_empty() => {
            limit_fix(source.raw_os_error())
        }
        StoreError::Io { .. } => {
            "look at the file system that holds the store (df, dmesg), or choose another store \
             with --store DIR"
        }
        StoreError::Invalid(_) => "this is a bug of agentfs: please report it, with fsd.log",
    }
}

/// Whether the file at `path` is one that all branches need.
fn is_stores_own(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "format")
}

/// A step of the set-up that the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{step} {target}: {reason}")]
pub struct SetupError {
    /// What was tried, as a verb.
    pub step: String,
    /// On what.
    pub target: String,
    /// The kernel's answer, if it was one.
    pub errno: Option<i32>,
    /// The same for people.
    pub reason: String,
}

impl SetupError {
    /// A system call that failed with an errno.
    pub fn new(step: &str, target: impl ToString, source: impl Into<io::Error>) -> Self {
        Self::other(step, target, source.into())
    }

    /// Any failure with an I/O error as its cause.
    pub fn other(step: &str, target: impl ToString, source: io::Error) -> Self {
        Self {
            step: step.to_owned(),
            target: target.to_string(),
            errno: source.raw_os_error(),
            reason: source.to_string(),
        }
    }

    /// What to do about it; empty if there is nothing to say.
    pub fn fix(&self) -> &'static str {
        use nix::libc::{EACCES, EAGAIN, EINVAL, ELOOP, ENODEV, ENOENT, ENOSPC, EPERM, EUSERS};
        match (self.step.as_str(), self.errno) {
            (step, Some(ENOSPC | EUSERS)) if step == step::CLONE => {
                "raise the limit: sysctl -w user.max_user_namespaces=65536 (also max_mnt_namespaces)"
            }
            (step, Some(EPERM | EACCES)) if step == step::CLONE => {
                "allow user namespaces: sysctl -w kernel.unprivileged_userns_clone=1; inside a \
                 container, allow clone3/unshare in its seccomp profile; in a user namespace of \
                 your own, map your user and group (unshare --map-root-user)"
            }
            (step, Some(EAGAIN)) if step == step::CLONE || step == step::PROCESS => PROCESSES_FIX,
            (step, Some(EPERM | EINVAL)) if step == step::ID_MAP => {
                "this user namespace maps too little, or gives no right to map it again: make it \
                 with your user and group (unshare --map-root-user), or give a container the \
                 capabilities SETUID, SETGID and SETFCAP"
            }
            (step, Some(EPERM | EACCES))
                if step == step::PROPAGATION || step == step::FUSE_MOUNT =>
            {
                "user namespaces are made without privileges here; on Ubuntu: sysctl -w \
                 kernel.apparmor_restrict_unprivileged_userns=0, or install an AppArmor profile \
                 for agentfs"
            }
            (step, Some(EACCES | EPERM)) if step == step::FUSE_OPEN => {
                "give yourself access to /dev/fuse: chmod 666 /dev/fuse"
            }
            (step, Some(ENOENT | ENODEV)) if step == step::FUSE_OPEN => {
                "load the module: modprobe fuse; inside a container, pass --device /dev/fuse; if it \
                 is there and was replaced, mknod /dev/fuse c 10 229 makes it"
            }
            (step, Some(EPERM)) if step == step::PROC => {
                "/proc is partly masked here, as containers do; allow a full one (docker: \
                 --security-opt systempaths=unconfined)"
            }
            (step, Some(EINVAL)) if step == step::PIVOT => {
                "the root of this mount namespace cannot be pivoted (an initramfs?)"
            }
            (step, Some(ENOENT)) if step == step::CWD => {
                "that directory does not exist on the branch; start from one that does"
            }
            (_, Some(ELOOP)) => {
                "the branch has a symbolic link on the way there, and set-up follows none; remove it \
                 on the branch (`agentfs exec` from another directory), or leave the rule out"
            }
            (_, errno) => limit_fix(errno),
        }
    }
}

/// Names of the steps that [`SetupError::fix`] knows advice for.
pub mod step {
    pub const CLONE: &str = "make a user namespace for";
    pub const ID_MAP: &str = "write the id map";
    pub const PROCESS: &str = "make the process of";
    pub const PROPAGATION: &str = "make mounts private below";
    pub const FUSE_OPEN: &str = "open";
    pub const FUSE_MOUNT: &str = "mount FUSE for";
    pub const PROC: &str = "mount a new";
    pub const PIVOT: &str = "pivot to";
    pub const CWD: &str = "enter";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_trouble_with_the_store_comes_with_a_fix() {
        let path = || PathBuf::from("/s");
        let source = || io::Error::from_raw_os_error(5);
        let op = "read";
        let (branch, pid) = ("b".to_owned(), 7);
        let (found, known) = (2, 1);
        let what = "short".to_owned();
        for (e, word) in [
            (StoreError::io(op, path(), source()), "dmesg"),
            (
                StoreError::NoSpace {
                    op,
                    path: path(),
                    source: source(),
                },
                "agentfs rm",
            ),
            (
                StoreError::NotWritable {
                    op,
                    path: path(),
                    source: source(),
                },
                "--store",
            ),
            (StoreError::Poisoned { path: path() }, "fsd.log"),
            (StoreError::Invalid("x"), "report"),
            (
                StoreError::Damaged {
                    path: path(),
                    what: what.clone(),
                },
                "agentfs rm",
            ),
            (
                StoreError::Damaged {
                    path: path().join("format"),
                    what,
                },
                "fsck --repair",
            ),
            (StoreError::NoStore { path: path() }, "--store"),
            (
                StoreError::io(op, path(), ErrorKind::PermissionDenied.into()),
                "your own",
            ),
            (
                StoreError::io(op, path(), ErrorKind::NotADirectory.into()),
                "is a directory",
            ),
            (
                StoreError::NewerFormat {
                    path: path(),
                    found,
                    known,
                },
                "newer",
            ),
            (StoreError::Locked { branch, pid }, "agentfs ls"),
            (StoreError::NoBranch("b".into()), "agentfs ls"),
            (StoreError::BranchExists("b".into()), "another name"),
        ] {
            let text = CmdError::from(e).to_string();
            let (_, fix) = text.split_once("\n  fix: ").unwrap_or_default();
            assert!(fix.contains(word), "{text}");
        }
    }
}
