//! Opens a branch for review, and counts what it changed.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use agentfs_fsd::backstore::{BranchInfo, BranchReader, Store};
use agentfs_fsd::core::types::BranchName;
use agentfs_fsd::review::{Base, ChangeSet, ContentReader, Effort, Node, Source, changes};

use super::git::{self, Refusal};
use super::plan::{Parents, Scope, Status};
use crate::error::CmdError;

/// What counting may cost: a listing of many branches stays a matter of milliseconds for each.
const COUNTING: Effort = Effort::Bounded {
    compare_bytes: 32 << 20,
    base_entries: 50_000,
};

/// A branch with what it changed.
#[derive(Debug)]
pub struct Review {
    /// What the store knows of it.
    pub info: BranchInfo,
    /// What it changed of the host's files as they are now.
    pub set: ChangeSet,
    reader: BranchReader,
    base: Base,
}

/// How much a branch changed, in one scope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Files that are new; a directory counts only if it is empty.
    pub added: u64,
    /// Files, and directories, that are different.
    pub modified: u64,
    /// Files that are gone; a directory counts only if it was empty.
    pub deleted: u64,
    /// Bytes of file contents that the branch holds itself, in any scope.
    pub bytes: u64,
    /// Changes in a `.git` within the scope: not among the three above, and in no patch.
    pub git_dir: u64,
    /// Changes outside the scope.
    pub outside: u64,
    /// Whether everything was counted; if not, there is more than these.
    pub complete: bool,
}

impl Review {
    /// Reads the branch, live or not, and compares it with the host. Below `links_below`, host
    /// directories, it looks for hard links that show a change without having been used.
    ///
    /// Errors: no such branch, or its records cannot be read.
    pub fn open(
        store: &Store,
        branch: &BranchName,
        effort: Effort,
        links_below: &[Vec<u8>],
    ) -> Result<Self, CmdError> {
        let reader = store.read(branch)?;
        // The store is no part of anybody's changes, and listing it would never end.
        let hidden = [store.path().to_path_buf()];
        let base = Base::new(Path::new("/"), &hidden).map_err(review)?;
        let set = changes(&reader, &base, effort, links_below).map_err(review)?;
        Ok(Review {
            info: reader.info().clone(),
            set,
            reader,
            base,
        })
    }

    /// Reads the contents of the nodes in the changes.
    pub fn contents(&self) -> ContentReader<'_> {
        ContentReader::new(&self.base, &self.reader)
    }

    /// Counts the changes at or below `scope`.
    pub fn summary(&self, scope: &Path) -> Summary {
        count(&self.set, &Scope::below(scope.as_os_str().as_bytes()))
    }
}

/// What `branch` changed at or below `scope`, and how much besides. Bounded in cost.
///
/// Errors: no such branch, or its records cannot be read.
pub fn summary(store: &Store, branch: &BranchName, scope: &Path) -> Result<Summary, CmdError> {
    Ok(Review::open(store, branch, COUNTING, &[])?.summary(scope))
}

fn review(e: agentfs_fsd::review::ReviewError) -> CmdError {
    match e {
        agentfs_fsd::review::ReviewError::Store(e) => e.into(),
        other => CmdError::Review(Box::new(other)),
    }
}

/// Counts the changes of `set`.
pub fn count(set: &ChangeSet, scope: &Scope) -> Summary {
    let parents = Parents::of(set);
    let mut sum = Summary {
        complete: set.complete,
        ..Summary::default()
    };
    for change in &set.changes {
        if let Some(after) = &change.after {
            sum.bytes += own_bytes(after);
        }
        let Some(status) = parents.status(change) else {
            continue;
        };
        let place = if !scope.contains(&change.path) {
            &mut sum.outside
        } else if git::refusal(scope.relative(&change.path), false) == Some(Refusal::GitDir) {
            &mut sum.git_dir
        } else {
            match status {
                Status::Added => &mut sum.added,
                Status::Modified | Status::TypeChanged => &mut sum.modified,
                Status::Deleted => &mut sum.deleted,
                // Renames are only looked for in plans.
                Status::Renamed => &mut sum.modified,
            }
        };
        *place += 1;
    }
    sum
}

/// Bytes of a file that are in the store rather than in the base.
fn own_bytes(node: &Node) -> u64 {
    match &node.source {
        Source::None | Source::Symlink(_) | Source::Base(_) => 0,
        Source::Object(_) => node.size,
        Source::Extents { map, .. } => {
            let ends = map
                .iter()
                .map(|(at, (len, _))| (*at, at.saturating_add(*len)));
            ends.map(|(at, end)| end.min(node.size).saturating_sub(at))
                .sum()
        }
    }
}
