//! [`FsError`]: everything a branch operation can answer besides success, by meaning.
//!
//! `errno` maps each variant to an errno and a log level; nobody else does.

use std::io;

use crate::backstore::StoreError;
use crate::core::types::{Fh, Ino, Name, NameError};

/// Why an operation on a branch did not happen.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// No entry of that name.
    #[error("no entry {name} in {parent}")]
    NoEntry {
        /// The directory.
        parent: Ino,
        /// The name looked for.
        name: Name,
    },
    /// The inode is not known, or no longer.
    #[error("{0:?} is stale")]
    Stale(Ino),
    /// The directory was removed, or the file's last link is gone: nothing can be added.
    #[error("{0:?} was removed")]
    Removed(Ino),
    /// The handle is not open.
    #[error("{0:?} is not open")]
    BadHandle(Fh),
    /// The handle was not opened for this (reading a write-only one, and the like).
    #[error("{0:?} is not open for that")]
    WrongAccess(Fh),
    /// The name is taken.
    #[error("entry {name} exists in {parent}")]
    Exists {
        /// The directory.
        parent: Ino,
        /// The name.
        name: Name,
    },
    /// A directory was needed.
    #[error("{0:?} is not a directory")]
    NotADirectory(Ino),
    /// A directory cannot be used so.
    #[error("{0:?} is a directory")]
    IsADirectory(Ino),
    /// The directory still has entries.
    #[error("{0:?} is not empty")]
    NotEmpty(Ino),
    /// A name that cannot be one.
    #[error(transparent)]
    BadName(#[from] NameError),
    /// An argument outside what the call allows.
    #[error("invalid argument: {0}")]
    Invalid(&'static str),
    /// Only the owner (or a privileged caller) may.
    #[error("not permitted: {0}")]
    NotPermitted(&'static str),
    /// The permission bits say no.
    #[error("access denied: {0}")]
    AccessDenied(&'static str),
    /// The file cannot have more links.
    #[error("{0:?} has the most links a file can have")]
    TooManyLinks(Ino),
    /// The offset or size is past what a file can have.
    #[error("file too large")]
    TooLarge,
    /// No such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// The extended attribute exists and must not.
    #[error("attribute exists")]
    AttributeExists,
    /// The value does not fit: into the caller's buffer, or the file's space for attributes.
    #[error("attribute value does not fit: {0}")]
    AttributeSpace(&'static str),
    /// An attribute name or value larger than the limit.
    #[error("attribute too large")]
    AttributeTooLarge,
    /// This kind of file, or this host, has no such operation.
    #[error("not supported: {0}")]
    NotSupported(&'static str),
    /// SEEK_DATA or SEEK_HOLE past the end.
    #[error("no data past that offset")]
    NoData,
    /// The program is being executed: it cannot be truncated.
    #[error("{0:?} is being executed")]
    InExecution(Ino),
    /// The branch may not be changed.
    #[error("read-only branch")]
    ReadOnly,
    /// The caller's process could not be identified.
    #[error("unknown caller, pid {0}")]
    UnknownCaller(u32),
    /// The branch was closed: its mount is ending.
    #[error("the branch is closed")]
    Closed,
    /// The two are on different branches.
    #[error("{0} across branches")]
    AcrossBranches(&'static str),
    /// The base refused or failed.
    #[error("{op} in the base: {source}")]
    Base {
        /// The operation on the base.
        op: &'static str,
        /// The host's answer.
        source: io::Error,
    },
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}
