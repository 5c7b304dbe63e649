//! [`StoreError`]: what can go wrong between the core and the disk.

use std::io;
use std::path::PathBuf;

/// Why the store could not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A system call on a file of the store failed.
    #[error("{op} {}: {source}", path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On which file.
        path: PathBuf,
        /// The host's answer.
        source: io::Error,
    },
    /// No space, or no quota, is left where the store lives.
    #[error("no space left to {op} {}: {source}", path.display())]
    NoSpace {
        /// What was tried.
        op: &'static str,
        /// On which file.
        path: PathBuf,
        /// ENOSPC or EDQUOT.
        source: io::Error,
    },
    /// The store may not be written: permissions, or a read-only file system.
    #[error("{} is not writable ({op}: {source})", path.display())]
    NotWritable {
        /// What was tried.
        op: &'static str,
        /// On which file.
        path: PathBuf,
        /// EACCES, EPERM or EROFS.
        source: io::Error,
    },
    /// An earlier write left the journal in a state that could not be taken back; nothing more
    /// is written to it until a checkpoint succeeds or the branch is opened anew.
    #[error("{} takes no more writes since an earlier one could not be taken back", path.display())]
    Poisoned {
        /// The journal.
        path: PathBuf,
    },
    /// A change was made that may not be durable and could not be taken back. Whichever of the two
    /// states is found next is a whole one.
    #[error("{0}; whether the change stands shows when the branch is opened again")]
    Unsettled(#[source] Box<StoreError>),
    /// The caller broke a rule of the store; a bug, not a state of the disk.
    #[error("invalid use of the store: {0}")]
    Invalid(&'static str),
    /// A file of the store does not hold what it must.
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        what: String,
    },
    /// The directory holds other things than a store.
    #[error("{} holds other files and is no store", path.display())]
    NoStore {
        /// The directory.
        path: PathBuf,
    },
    /// The store was written by a newer agentfs.
    #[error("{} has format {found}, this agentfs knows up to {known}", path.display())]
    NewerFormat {
        /// The file that says so.
        path: PathBuf,
        /// The version found.
        found: u32,
        /// The newest version known.
        known: u32,
    },
    /// Another process owns the branch.
    #[error("branch {branch} is live, owned by pid {pid}")]
    Locked {
        /// The branch.
        branch: String,
        /// The owner, 0 if unknown.
        pid: u32,
    },
    /// No branch of that name.
    #[error("no branch {0}")]
    NoBranch(String),
    /// The name is in use.
    #[error("branch {0} exists")]
    BranchExists(String),
    /// The branch has no snapshot of that name.
    #[error("branch {branch} has no snapshot {snapshot}")]
    NoSnapshot {
        /// The branch.
        branch: String,
        /// The name asked for.
        snapshot: String,
    },
    /// The name is in use.
    #[error("snapshot {branch}@{snapshot} exists")]
    SnapshotExists {
        /// The branch.
        branch: String,
        /// The name.
        snapshot: String,
    },
    /// Others were made from it.
    #[error("{what} is needed by {}", .by.join(", "))]
    Needed {
        /// The branch or snapshot to be removed.
        what: String,
        /// The branches made from it.
        by: Vec<String>,
    },
    /// The branch takes up as much as it may.
    #[error("the branch takes up as many {0} as its limit allows")]
    LimitReached(&'static str),
    /// The list of a branch's snapshots has reached its largest size.
    #[error("branch {0} has as many snapshots as its file can hold")]
    TooManySnapshots(String),
}

impl StoreError {
    /// Wraps what the host answered to `op` on `path`: [`NoSpace`](Self::NoSpace) and a read-only
    /// file system are told apart, the rest is [`Io`](Self::Io).
    pub fn io(op: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                StoreError::NoSpace { op, path, source }
            }
            io::ErrorKind::ReadOnlyFilesystem => StoreError::NotWritable { op, path, source },
            _ => StoreError::Io { op, path, source },
        }
    }

    /// The same error, with a refusal by permissions read as "not writable": for calls that are
    /// about to write.
    pub(crate) fn while_writing(self) -> Self {
        match self {
            StoreError::Io { op, path, source }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                StoreError::NotWritable { op, path, source }
            }
            other => other,
        }
    }

    /// Says that the file at `path` is damaged, and how.
    pub(crate) fn damaged(path: impl Into<PathBuf>, what: impl Into<String>) -> Self {
        StoreError::Damaged {
            path: path.into(),
            what: what.into(),
        }
    }

    /// Whether this is the answer "no such file".
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, StoreError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}
