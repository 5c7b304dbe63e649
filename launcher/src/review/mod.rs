//! Counts what a branch changed, for the line after a run.

use std::path::Path;

use agentfs_fsd::backstore::Store;
use agentfs_fsd::core::types::BranchName;

use crate::error::CmdError;

/// How much a branch changed, in one scope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// New files.
    pub added: u64,
    /// Changed ones.
    pub modified: u64,
    /// Gone ones.
    pub deleted: u64,
    /// Bytes that the branch holds.
    pub bytes: u64,
    /// Changes in a `.git` within the scope.
    pub git_dir: u64,
    /// Changes outside the scope.
    pub outside: u64,
    /// Whether everything was counted.
    pub complete: bool,
}

/// What `branch` changed at or below `scope`.
pub fn summary(store: &Store, branch: &BranchName, _scope: &Path) -> Result<Summary, CmdError> {
    store.read(branch)?;
    Ok(Summary::default())
}
