//! Opens a branch or snapshot for review, alone or beside another, and counts what it changed.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use agentfs_fsd::backstore::{BranchReader, Records, Store};
use agentfs_fsd::core::point::Point;
use agentfs_fsd::core::record::{ExtentSource, ObjectId};
use agentfs_fsd::review::{
    Base, Change, ChangeSet, ContentReader, Effort, Source, between, changes, is_at_or_below,
};

use super::git::{self, Refusal};
use super::plan::{Parents, Scope, Status};
use crate::error::CmdError;

/// What counting may cost: a listing of many branches stays a matter of milliseconds for each.
const COUNTING: Effort = Effort::Bounded {
    compare_bytes: 32 << 20,
    base_entries: 50_000,
};

/// The unit of `st_blocks`. Source: stat(3type).
const BLOCK_BYTES: u64 = 512;

/// What a point changed.
#[derive(Debug)]
pub struct Review {
    /// What it is compared with, if not with the host.
    from: Option<Older>,
    /// What it changed: of the host's files as they are now, or of what `from` holds.
    pub set: ChangeSet,
    reader: BranchReader,
    base: Base,
}

/// The older of two points.
#[derive(Debug)]
struct Older {
    reader: BranchReader,
    /// What the older changed of the host's files, and what the newer did.
    of_host: [ChangeSet; 2],
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
    /// Bytes that the store spends on contents of changed files, in any scope: holes are none.
    pub bytes: u64,
    /// Changes in a `.git` within the scope: not among the three above, and in no patch.
    pub git_dir: u64,
    /// Changes outside the scope.
    pub outside: u64,
    /// Whether everything was counted; if not, there is more than these.
    pub complete: bool,
}

impl Review {
    /// Reads the branch, live or not, or the snapshot, and compares it with the host. Below
    /// `links_below`, host directories, it looks for hard links that show a change without having
    /// been used. Of a snapshot counts as hidden what was ever hidden from the runs of its branch.
    ///
    /// Errors: no such point, or its records, or what was hidden from its runs, cannot be read.
    pub fn open(
        store: &Store,
        point: &Point,
        effort: Effort,
        links_below: &[Vec<u8>],
    ) -> Result<Self, CmdError> {
        let reader = store.read_point(point)?;
        let base = base(store, &[point])?;
        let set = changes(&reader, &base, effort, links_below).map_err(review)?;
        Ok(Review {
            from: None,
            set,
            reader,
            base,
        })
    }

    /// Compares what `point` holds with what `from` does, in the cost of what both changed of the
    /// host's files. What was hidden from the runs of either counts as hidden.
    ///
    /// Errors: as for [`Review::open`], of both.
    pub fn between(
        store: &Store,
        from: &Point,
        point: &Point,
        links_below: &[Vec<u8>],
    ) -> Result<Self, CmdError> {
        let (older, reader) = (store.read_point(from)?, store.read_point(point)?);
        let base = base(store, &[from, point])?;
        let of_host = |reader: &BranchReader| {
            changes(reader, &base, Effort::Exact, links_below).map_err(review)
        };
        let of_host = [of_host(&older)?, of_host(&reader)?];
        let contents = ContentReader::new(&base, &reader).and(&older);
        let set = between(&of_host[0], &of_host[1], &base, contents);
        Ok(Review {
            from: Some(Older {
                reader: older,
                of_host,
            }),
            set,
            reader,
            base,
        })
    }

    /// Reads the contents of the nodes in the changes.
    pub fn contents(&self) -> ContentReader<'_> {
        let contents = ContentReader::new(&self.base, &self.reader);
        match &self.from {
            Some(from) => contents.and(&from.reader),
            None => contents,
        }
    }

    /// What the older side changed of the host's files, if it is a point, and what the newer did.
    pub fn changes_of_host(&self) -> [&[Change]; 2] {
        match &self.from {
            Some(from) => from.of_host.each_ref().map(|set| &set.changes[..]),
            None => [&[], &self.set.changes],
        }
    }

    /// Whether a point that is looked at has something of its own at or below `path`.
    pub fn has_at(&self, path: &[u8]) -> bool {
        let mut all = self.changes_of_host().into_iter().flatten();
        all.any(|change| change.after.is_some() && is_at_or_below(&change.path, path))
    }

    /// A regular file of the host, none that was hidden from the branch's runs; follows no link.
    pub fn host_file(&self, path: &[u8]) -> std::io::Result<std::fs::File> {
        self.base.file(path)
    }

    /// Counts the changes at or below `scope`.
    pub fn summary(&self, scope: &Path) -> Summary {
        let mut sum = count(&self.set, &Scope::below(scope.as_os_str().as_bytes()));
        for id in held_objects(&self.set) {
            // A running branch may have let go of it since its records were read.
            match self.reader.open_object(id, false).and_then(|o| o.stat()) {
                Ok(stat) => sum.bytes += stat.blocks * BLOCK_BYTES,
                Err(_) => sum.complete = false,
            }
        }
        sum
    }
}

/// What `point` changed at or below `scope`, and how much besides. Bounded in cost.
///
/// Errors: no such point, or its records cannot be read.
pub fn summary(store: &Store, point: &Point, scope: &Path) -> Result<Summary, CmdError> {
    Ok(Review::open(store, point, COUNTING, &[])?.summary(scope))
}

/// The host's files, without what the runs on the branches of the points could not see.
fn base(store: &Store, points: &[&Point]) -> Result<Base, CmdError> {
    // The store is no part of anybody's changes, and listing it would never end.
    let hidden = [store.path().to_path_buf()];
    let mut base = Base::new(Path::new("/"), &hidden).map_err(review)?;
    for point in points {
        base = base.without(store.hidden(&point.branch)?);
    }
    Ok(base)
}

fn review(e: agentfs_fsd::review::ReviewError) -> CmdError {
    match e {
        agentfs_fsd::review::ReviewError::Store(e) => e.into(),
        other => CmdError::Review(Box::new(other)),
    }
}

/// Counts the changes of `set`; the bytes are left out.
pub fn count(set: &ChangeSet, scope: &Scope) -> Summary {
    let parents = Parents::of(set);
    let mut sum = Summary {
        complete: set.complete,
        ..Summary::default()
    };
    for change in &set.changes {
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

/// The objects of the store that hold contents of the changed files; one of several names once.
fn held_objects(set: &ChangeSet) -> BTreeSet<ObjectId> {
    let mut held = BTreeSet::new();
    for node in set
        .changes
        .iter()
        .filter_map(|change| change.after.as_ref())
    {
        match &node.source {
            Source::None | Source::Symlink(_) | Source::Base(_) => {}
            Source::Object(id) => held.extend([*id]),
            Source::Extents { own, map, .. } => {
                held.insert(*own);
                held.extend(map.values().filter_map(|(_, source)| match source {
                    ExtentSource::Object(id) => Some(*id),
                    ExtentSource::Zero => None,
                }));
            }
        }
    }
    held
}
