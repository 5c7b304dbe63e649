//! Making branches: of the base, of the present state of another one, or of a snapshot.
//!
//! All that a new branch needs is written first, then made durable, then published by one rename.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::StoreError;
use super::journal::{Journal, JournalHeader};
use super::loss::{self, LOST_FILE};
use super::media::{Media, MediaFile, OpenMode, write_all_at};
use super::meta::{self, BranchFile, BranchInfo, NewBranch, Parent};
use super::snapshot::Held;
use super::store::{
    BRANCH_FILE, BRANCH_LOCK, BRANCHES, LAYERS, STAGE, Store, branch_dir, layer_dir,
};
use super::usage::Limit;
use crate::core::point::Point;
use crate::core::record::LayerId;
use crate::core::types::{BranchName, Time};

/// A layer that no branch names yet.
pub(super) struct NewLayer {
    pub id: LayerId,
    pub media: Arc<dyn Media>,
    pub journal: Journal,
}

/// A branch directory that is not published yet.
struct Staged {
    dir: PathBuf,
    file: Box<dyn MediaFile>,
}

impl Store {
    /// Makes a branch of the base, of the present state of a branch, or of a snapshot.
    ///
    /// Errors: `BranchExists`, `NoBranch`, `NoSnapshot`, `Locked` where `from` is a live branch (its
    /// daemon can do it, see [`Store::branch_off`]), and those of writing. On any, no branch is
    /// there, and `from` holds what it held.
    pub fn create_branch(
        &self,
        name: &BranchName,
        from: Option<&Point>,
        created_by: NewBranch,
    ) -> Result<BranchInfo, StoreError> {
        let held = self.hold()?;
        self.must_be_free(name)?;
        let Some(from) = from else {
            return self.make_branch(&held, name, None, &[], created_by);
        };
        let info = self.branch(&from.branch)?;
        let shared = match &from.snapshot {
            Some(snapshot) => {
                let layers = info.known_snapshot(snapshot)?.layers.clone();
                // What is damaged there is told now, not by the first run.
                self.must_open(&layers)?;
                layers
            }
            None => self.open_live(&from.branch)?.freeze(&held, &[])?.shared,
        };
        self.make_branch(&held, name, Some((from, info.id)), &shared, created_by)
    }

    /// Makes a branch of the state of `live` that its owner has just frozen into the layers `shared`.
    ///
    /// Errors: as [`Store::create_branch`].
    pub fn branch_off(
        &self,
        held: &Held<'_>,
        name: &BranchName,
        live: &BranchInfo,
        shared: &[LayerId],
        created_by: NewBranch,
    ) -> Result<BranchInfo, StoreError> {
        self.must_be_free(name)?;
        let from = Point::from(live.name.clone());
        self.make_branch(held, name, Some((&from, live.id)), shared, created_by)
    }

    /// Refuses a name that a branch has. Errors: `BranchExists`.
    pub fn must_be_free(&self, name: &BranchName) -> Result<(), StoreError> {
        match self.media.sub(&branch_dir(name)) {
            Ok(_) => Err(StoreError::BranchExists(name.to_string())),
            Err(_) => Ok(()),
        }
    }

    fn make_branch(
        &self,
        _held: &Held<'_>,
        name: &BranchName,
        from: Option<(&Point, u64)>,
        shared: &[LayerId],
        created_by: NewBranch,
    ) -> Result<BranchInfo, StoreError> {
        let top = self.new_layer()?;
        let made = self.name_layers(name, from, shared, created_by, &top);
        if made.is_err() {
            // On a full disk every try would leave one more. Not where the branch is there all the
            // same, and only may not be durable.
            if matches!(self.branch(name), Err(StoreError::NoBranch(_))) {
                self.remove_tree(&layer_dir(top.id));
            }
        }
        made
    }

    /// Publishes the branch `name` of `shared` and the new layer `top`.
    fn name_layers(
        &self,
        name: &BranchName,
        from: Option<(&Point, u64)>,
        shared: &[LayerId],
        created_by: NewBranch,
        top: &NewLayer,
    ) -> Result<BranchInfo, StoreError> {
        let staged = self.stage_branch(&BranchInfo {
            name: name.clone(),
            id: self.random()?,
            parent: from.map(|(point, id)| Parent {
                point: point.clone(),
                id: Some(id),
            }),
            created: Time::now(),
            workspace: created_by.workspace,
            last_run: None,
            layers: shared.iter().copied().chain([top.id]).collect(),
            inherited: shared.len(),
            snapshots: Vec::new(),
            limit: match from {
                Some((point, _)) => self.branch(&point.branch)?.limit,
                None => Limit::default(),
            },
        })?;
        let result = from
            .map_or(Ok(()), |(point, _)| {
                self.pass_losses_on(&point.branch, &staged)
            })
            .and_then(|()| self.publish_branch(name, &staged, top));
        if result.is_err() {
            // Rubbish now; what stays of it goes with the next sweep.
            self.remove_tree(&staged.dir);
        }
        result?;
        self.branch(name)
    }

    fn publish_branch(
        &self,
        name: &BranchName,
        staged: &Staged,
        top: &NewLayer,
    ) -> Result<(), StoreError> {
        self.sync_layer(top)?;
        staged
            .file
            .sync(true)
            .map_err(|e| self.io("sync", &staged.dir.join(BRANCH_FILE), e))?;
        self.sync_dir(&staged.dir)?;
        let to = branch_dir(name);
        match self.media.rename(&staged.dir, &to, false) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(StoreError::BranchExists(name.to_string()));
            }
            other => other.map_err(|e| self.io("rename", &to, e).while_writing())?,
        }
        self.sync_dir(Path::new(BRANCHES))
    }

    /// Makes a new layer durable: from then on a branch may name it.
    pub(super) fn sync_layer(&self, layer: &NewLayer) -> Result<(), StoreError> {
        layer.journal.sync_handle().sync()?;
        layer
            .media
            .sync_dir(Path::new(""))
            .map_err(|e| self.io("sync", &layer_dir(layer.id), e))?;
        self.sync_dir(Path::new(LAYERS))
    }

    /// What the parent lost, its child lost too; so with what was hidden from its runs.
    fn pass_losses_on(&self, from: &BranchName, staged: &Staged) -> Result<(), StoreError> {
        self.pass_hidden_on(from, &staged.dir)?;
        let losses = self.losses(from)?;
        match losses.is_empty() {
            true => Ok(()),
            false => self.replace(&staged.dir.join(LOST_FILE), &loss::seal(&losses)?, true),
        }
    }

    fn stage_branch(&self, info: &BranchInfo) -> Result<Staged, StoreError> {
        let dir = Path::new(STAGE).join(format!("{:016x}", self.random()?));
        self.mkdir(&dir)?;
        let path = dir.join(BRANCH_FILE);
        let bytes = meta::seal(&BranchFile::of(info))?;
        let written = (|| {
            // Without it nobody could own the branch, not even to remove it: on a full disk it is
            // better missed now.
            self.media
                .open(&dir.join(BRANCH_LOCK), OpenMode::CreateNew)?;
            let file = self.media.open(&path, OpenMode::CreateNew)?;
            write_all_at(&*file, &bytes, 0)?;
            Ok(file)
        })();
        match written {
            Ok(file) => Ok(Staged { dir, file }),
            Err(e) => {
                self.remove_tree(&dir);
                Err(self.io("write", &path, e).while_writing())
            }
        }
    }

    /// A new empty layer, not durable yet; part of nothing before a branch names it.
    pub(super) fn new_layer(&self) -> Result<NewLayer, StoreError> {
        let id = LayerId(self.random()?);
        let dir = layer_dir(id);
        self.mkdir(&dir)?;
        let filled = (|| {
            let media = self.media.sub(&dir).map_err(|e| self.io("open", &dir, e))?;
            let header = JournalHeader {
                layer: id,
                generation: 0,
                first_seq: 1,
            };
            let journal = Journal::create(&*media, header).map_err(StoreError::while_writing)?;
            Ok(NewLayer { id, media, journal })
        })();
        if filled.is_err() {
            // On a full disk every try would leave one more.
            self.remove_tree(&dir);
        }
        filled
    }
}
