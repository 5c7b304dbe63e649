//! What can go wrong in a subcommand, and the words for it.
//!
//! Every message names what failed, on what, why, and where there is one the fix. All of these end
//! with exit status 125; the command's own status never passes through here.

use std::io;
use std::path::PathBuf;

use agentfs_fsd::backstore::StoreError;
use agentfs_fsd::core::types::BranchNameError;

/// Exit status of a failure of agentfs itself.
pub const EXIT_OURS: u8 = 125;

/// Why a subcommand could not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum CmdError {
    /// The request makes no sense, or cannot be met on this machine.
    #[error("{what}: {why}{}", fix_line(.fix))]
    Refused {
        /// What was asked for, or failed.
        what: String,
        /// Why not.
        why: String,
        /// What to do about it; empty if there is nothing to say.
        fix: String,
    },
    /// A system call of the launcher itself failed.
    #[error("{op} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The store said no.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// A name that is no branch name.
    #[error("{0}")]
    BranchName(#[from] BranchNameError),
    /// Reading or showing a branch's changes failed.
    #[error("{0}")]
    Review(Box<dyn std::error::Error + Send + Sync>),
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
