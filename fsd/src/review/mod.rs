//! Review: what a branch changed, against the host's files as they are now.
//!
//! ```text
//! between (changes of two points -> what sets these apart)
//! walk (records + base -> changes)        content (bytes of one node)
//!            \______ base (the host's files, read-only) ______/
//! ```
//! Costs O(changes): the base is listed only below directories that the branch itself removed,
//! replaced or moved, and where a changed file of the base has hard links still to be found.
//! Read-only; runs without a lock, also on a live branch. Called by the launcher.

mod base;
mod between;
mod content;
mod host;
mod node;
mod walk;

#[cfg(test)]
mod tests;

use std::io;

pub use base::{Base, BaseDir, BaseEntry, is_at_or_below, is_compared_xattr, join};
pub use between::between;
pub use content::{Blob, ContentReader};
pub use node::{Change, Difference, Node, Source, Xattrs};
pub use walk::{ChangeSet, Effort, Problem, Stray, changes};

use crate::backstore::StoreError;

/// Why a review could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// The host refused to show one of its files.
    #[error("cannot {op} {} in the base: {source}", path.escape_ascii())]
    Base {
        /// What was tried.
        op: &'static str,
        /// On which host path.
        path: Vec<u8>,
        /// The host's answer.
        source: io::Error,
    },
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ReviewError {
    /// Whether the caller lacks a permission on the host.
    pub fn is_denied(&self) -> bool {
        matches!(self, ReviewError::Base { source, .. } if source.kind() == io::ErrorKind::PermissionDenied)
    }

    fn base(op: &'static str, path: &[u8], source: io::Error) -> Self {
        ReviewError::Base {
            op,
            path: path.to_vec(),
            source,
        }
    }
}
