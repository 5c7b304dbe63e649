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
    /// A file of the store does not hold what it must.
    #[error("{} is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        what: String,
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
}
