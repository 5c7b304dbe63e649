//! Snapshots: frozen points of a branch, and moving a branch back to one.
//!
//! A snapshot is a list of frozen layers in its branch's `branch.json`. Making one freezes the
//! branch's own layer and gives the branch a new one: no record is read or written.

use std::path::Path;

use super::branch::LiveBranch;
use super::error::StoreError;
use super::freeze::{Frozen, Kept};
use super::load::Floor;
use super::media::LockGuard;
use super::meta::{self, BranchFile, BranchInfo, Snapshot};
use super::reader::BranchReader;
use super::store::{BRANCH_FILE, BRANCHES, Listed, Store, branch_dir, layer_dir};
use crate::core::point::{Point, SnapshotName};
use crate::core::types::{BranchName, Time};

const NOT_MADE: StoreError = StoreError::Invalid("a snapshot that was not made");

/// The set of branches, snapshots and layers, held still for everybody else. See [`Store::hold`].
#[derive(Debug)]
pub struct Held<'a> {
    pub(super) store: &'a Store,
    _lock: Box<dyn LockGuard>,
}

impl<'a> Held<'a> {
    pub(super) fn new(store: &'a Store, lock: Box<dyn LockGuard>) -> Self {
        Self { store, _lock: lock }
    }

    /// Replaces what is known of a branch. The snapshots in `info` must have been read under this
    /// very lock: others change them while the branch is live. `before`: what is known now.
    ///
    /// Errors: nothing has changed; `Unsettled` around the cause if that is not sure.
    pub(super) fn put_branch(
        &self,
        before: &BranchInfo,
        info: &BranchInfo,
    ) -> Result<(), StoreError> {
        let path = branch_dir(&info.name).join(BRANCH_FILE);
        let replace = |info: &BranchInfo| {
            let bytes = meta::seal(&BranchFile::of(info)).map_err(|e| (e, false))?;
            if bytes.len() as u64 > meta::LIMIT_BYTES {
                let name = info.name.to_string();
                return Err((StoreError::TooManySnapshots(name), false));
            }
            self.store.replace_durably(&path, &bytes).map_err(|e| {
                let error = self.store.io("write", &path, e.source).while_writing();
                (error, e.is_visible)
            })?;
            self.store.keep_room(bytes.len() as u64);
            Ok(())
        };
        match replace(info) {
            Ok(()) => Ok(()),
            Err((e, false)) => Err(e),
            // Seen, and perhaps not durable: what was there before is put back, or it is not known
            // which of the two the next opening finds.
            Err((e, true)) => match replace(before) {
                Ok(()) => Err(e),
                Err((undo, _)) => {
                    tracing::error!(error = %undo, "cannot take back a change of the branch");
                    Err(StoreError::Unsettled(Box::new(e)))
                }
            },
        }
    }
}

impl BranchInfo {
    /// The snapshot of this name. Errors: `NoSnapshot`.
    pub(super) fn known_snapshot(&self, name: &SnapshotName) -> Result<&Snapshot, StoreError> {
        self.snapshot(name).ok_or_else(|| StoreError::NoSnapshot {
            branch: self.name.to_string(),
            snapshot: name.to_string(),
        })
    }
}

impl Store {
    /// Makes a snapshot of a branch that is not live, under the next number if `name` is `None`.
    ///
    /// Errors: `NoBranch`, `Locked` while it is live (its daemon can do it, see
    /// [`LiveBranch::snapshot`]), `SnapshotExists`, and those of writing; then there is none.
    pub fn create_snapshot(
        &self,
        branch: &BranchName,
        name: Option<SnapshotName>,
    ) -> Result<Snapshot, StoreError> {
        let held = self.hold()?;
        let mut live = self.open_live(branch)?;
        let made = live.snapshot(&held, name, &[])?.snapshot;
        // The end may have a table to publish.
        drop(held);
        live.close()?;
        made.ok_or(NOT_MADE)
    }

    /// Removes a snapshot, and the layers that nobody else needs.
    ///
    /// Errors: `NoBranch`, `NoSnapshot`, `Needed` by the branches that were made from it.
    pub fn remove_snapshot(
        &self,
        branch: &BranchName,
        name: &SnapshotName,
    ) -> Result<(), StoreError> {
        {
            let held = self.hold()?;
            let mut info = self.branch(branch)?;
            info.known_snapshot(name)?;
            let by = self.made_from(&info, Some(name))?;
            if !by.is_empty() {
                let point = Point {
                    branch: branch.clone(),
                    snapshot: Some(name.clone()),
                };
                return Err(StoreError::Needed {
                    what: point.to_string(),
                    by,
                });
            }
            let before = info.clone();
            info.snapshots.retain(|s| s.name != *name);
            held.put_branch(&before, &info)?;
            self.discard_unused_layers(None)?;
        }
        self.empty_trash();
        self.keep_room(0);
        Ok(())
    }

    /// The branches that were made from a snapshot of `of`, by name.
    pub(super) fn made_from(
        &self,
        of: &BranchInfo,
        snapshot: Option<&SnapshotName>,
    ) -> Result<Vec<String>, StoreError> {
        let is_child = |info: &BranchInfo| {
            info.parent.as_ref().is_some_and(|parent| {
                let same = parent.id == Some(of.id);
                match (&parent.point.snapshot, snapshot) {
                    (Some(theirs), Some(asked)) => same && theirs == asked,
                    (Some(_), None) => same,
                    (None, _) => false,
                }
            })
        };
        let all = self.list()?;
        let infos = all.iter().filter_map(|listed| match listed {
            Listed::Branch(info) => Some(info),
            Listed::Damaged { .. } => None,
        });
        let children = infos.filter(|info| info.id != of.id && is_child(info));
        Ok(children.map(|info| info.name.to_string()).collect())
    }

    /// Moves a branch that is not live back to one of its snapshots. Its present state, if it
    /// differs from its newest snapshot, becomes a snapshot under the next number first.
    ///
    /// Gives that snapshot. Errors: `NoBranch`, `NoSnapshot`, `Locked`, and those of writing; then
    /// the branch is as it was.
    pub fn restore(
        &self,
        branch: &BranchName,
        to: &SnapshotName,
    ) -> Result<Option<Snapshot>, StoreError> {
        let held = self.hold()?;
        let mut live = self.open_live(branch)?;
        let mut info = live.info().clone();
        let target = info.known_snapshot(to)?.layers.clone();
        // Whole, or it is no place to go back to.
        self.must_open(&target)?;
        let saved = if live.is_at_a_snapshot() {
            None
        } else {
            let name = info.next_snapshot_name()?;
            let saved = live.snapshot(&held, Some(name), &[])?.snapshot;
            info = live.info().clone();
            saved
        };
        let top = self.new_layer()?;
        let before = info.clone();
        info.layers = target.into_iter().chain([top.id]).collect();
        let put = self
            .sync_layer(&top)
            .and_then(|()| held.put_branch(&before, &info));
        if let Err(e) = put {
            if !matches!(e, StoreError::Unsettled(_)) {
                self.remove_tree(&layer_dir(top.id));
            }
            return Err(e);
        }
        drop(live);
        self.discard_unused_layers(None)?;
        drop(held);
        self.empty_trash();
        Ok(saved)
    }

    /// Gives a branch that is not live another name. Its snapshots and children go on with it.
    ///
    /// Errors: `NoBranch`, `BranchExists`, `Locked`, and those of writing.
    pub fn rename_branch(&self, from: &BranchName, to: &BranchName) -> Result<(), StoreError> {
        let _held = self.hold()?;
        self.branch(from)?;
        self.must_be_free(to)?;
        let _live = self.lock_branch(from)?;
        let (old, new) = (branch_dir(from), branch_dir(to));
        match self.media.rename(&old, &new, false) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(StoreError::BranchExists(to.to_string()));
            }
            other => other.map_err(|e| self.io("rename", &old, e).while_writing())?,
        }
        self.sync_dir(Path::new(BRANCHES))
    }

    /// Opens a point for reading: a branch, live or not, or a snapshot.
    pub fn read_point(&self, point: &Point) -> Result<BranchReader, StoreError> {
        let Some(snapshot) = &point.snapshot else {
            return self.read(&point.branch);
        };
        let info = self.branch(&point.branch)?;
        let layers = info.known_snapshot(snapshot)?.layers.clone();
        let stack = self.load_frozen(&layers, Floor::Merged)?;
        Ok(BranchReader::new(BranchInfo { layers, ..info }, stack))
    }
}

impl LiveBranch {
    /// Makes a snapshot of the present state and goes on. `kept`: as for [`LiveBranch::freeze`].
    ///
    /// Errors: `SnapshotExists` and those of writing; then there is no snapshot.
    pub fn snapshot(
        &mut self,
        held: &Held<'_>,
        name: Option<SnapshotName>,
        kept: &[Kept],
    ) -> Result<Frozen, StoreError> {
        let now = held.store.branch(&self.info().name)?;
        let name = match name {
            Some(name) => name,
            None => now.next_snapshot_name()?,
        };
        if now.snapshot(&name).is_some() {
            return Err(StoreError::SnapshotExists {
                branch: now.name.to_string(),
                snapshot: name.to_string(),
            });
        }
        let snapshot = Snapshot {
            name,
            id: held.store.random()?,
            created: Time::now(),
            layers: Vec::new(),
        };
        self.freeze_as(held, Some(snapshot), kept)
    }
}
