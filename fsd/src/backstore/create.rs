//! Making branches: of the base, or of the present state of another one.
//!
//! All that a new branch needs is written first, then made durable, then published by one rename.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::branch::LiveBranch;
use super::error::StoreError;
use super::journal::{Journal, JournalHeader};
use super::loss::{self, LOST_FILE};
use super::media::{Media, MediaFile, OpenMode, write_all_at};
use super::meta::{self, BRANCH_VERSION, BranchFile, BranchInfo, HexId, NewBranch};
use super::store::{BRANCH_FILE, BRANCHES, LAYERS, STAGE, Store, branch_dir, layer_dir};
use crate::core::record::LayerId;
use crate::core::types::{BranchName, Time};

/// A layer that no branch names yet.
struct NewLayer {
    id: LayerId,
    media: Arc<dyn Media>,
    journal: Journal,
}

/// A branch to take layers from. Holds its lock.
struct Parent {
    live: LiveBranch,
    /// The layers that the child shares, lowest first.
    shared: Vec<LayerId>,
    /// The parent's own new top layer, if its old one is among the shared ones.
    new_top: Option<NewLayer>,
}

/// A branch directory that is not published yet.
struct Staged {
    dir: PathBuf,
    file: Box<dyn MediaFile>,
}

impl Store {
    /// Makes a branch of the base, or of the present state of `from`.
    ///
    /// Errors: `BranchExists`, `NoBranch` and `Locked` for `from`, and those of writing. On any,
    /// no branch is there, and `from` is as it was.
    pub fn create_branch(
        &self,
        name: &BranchName,
        from: Option<&BranchName>,
        created_by: NewBranch,
    ) -> Result<BranchInfo, StoreError> {
        let _lock = self.lock_store()?;
        if self.media.sub(&branch_dir(name)).is_ok() {
            return Err(StoreError::BranchExists(name.to_string()));
        }
        let parent = from.map(|from| self.hold_parent(from)).transpose()?;
        let top = self.new_layer()?;
        let mut layers = parent
            .as_ref()
            .map(|p| p.shared.clone())
            .unwrap_or_default();
        layers.push(top.id);
        let staged = self.stage_branch(&BranchFile {
            version: BRANCH_VERSION,
            id: HexId(self.random()?),
            parent: from.cloned(),
            created: Time::now(),
            workspace: created_by.workspace,
            layers: layers.iter().map(|id| HexId(id.0)).collect(),
        })?;
        let result = from
            .map_or(Ok(()), |from| self.pass_losses_on(from, &staged))
            .and_then(|()| self.publish_branch(name, &staged, &top, parent));
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
        parent: Option<Parent>,
    ) -> Result<(), StoreError> {
        let parent_top = parent.as_ref().and_then(|p| p.new_top.as_ref());
        for layer in parent_top.into_iter().chain([top]) {
            layer.journal.sync_handle().sync()?;
            let here = Path::new("");
            layer
                .media
                .sync_dir(here)
                .map_err(|e| self.io("sync", &layer_dir(layer.id), e))?;
        }
        self.sync_dir(Path::new(LAYERS))?;
        staged
            .file
            .sync(true)
            .map_err(|e| self.io("sync", &staged.dir.join(BRANCH_FILE), e))?;
        self.sync_dir(&staged.dir)?;
        if let Some(Parent {
            live,
            shared,
            new_top: Some(new_top),
        }) = &parent
        {
            self.set_layers(live.info(), shared, new_top.id)?;
        }
        let to = branch_dir(name);
        match self.media.rename(&staged.dir, &to, false) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                return Err(StoreError::BranchExists(name.to_string()));
            }
            other => other.map_err(|e| self.io("rename", &to, e).while_writing())?,
        }
        // The parent is dropped, not closed: its old top layer is frozen now.
        self.sync_dir(Path::new(BRANCHES))
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

    fn stage_branch(&self, file: &BranchFile) -> Result<Staged, StoreError> {
        let dir = Path::new(STAGE).join(format!("{:016x}", self.random()?));
        self.mkdir(&dir)?;
        let path = dir.join(BRANCH_FILE);
        let bytes = meta::seal(file)?;
        let written = (|| {
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
    fn new_layer(&self) -> Result<NewLayer, StoreError> {
        let id = LayerId(self.random()?);
        let dir = layer_dir(id);
        self.mkdir(&dir)?;
        let media = self.media.sub(&dir).map_err(|e| self.io("open", &dir, e))?;
        let header = JournalHeader {
            layer: id,
            generation: 0,
            first_seq: 1,
        };
        let journal = Journal::create(&*media, header).map_err(StoreError::while_writing)?;
        Ok(NewLayer { id, media, journal })
    }

    /// Puts the present state of `parent` into layers that can be shared.
    fn hold_parent(&self, parent: &BranchName) -> Result<Parent, StoreError> {
        let mut live = self.open_live(parent)?;
        live.settle()?;
        let mut shared = live.info().layers.clone();
        let new_top = if live.top_is_blank() {
            shared.pop();
            None
        } else {
            Some(self.new_layer()?)
        };
        Ok(Parent {
            live,
            shared,
            new_top,
        })
    }

    /// Gives a branch other layers, in one step.
    fn set_layers(
        &self,
        info: &BranchInfo,
        below: &[LayerId],
        top: LayerId,
    ) -> Result<(), StoreError> {
        let file = BranchFile {
            version: BRANCH_VERSION,
            id: HexId(info.id),
            parent: info.parent.clone(),
            created: info.created,
            workspace: info.workspace.clone(),
            layers: below.iter().chain([&top]).map(|id| HexId(id.0)).collect(),
        };
        self.replace(
            &branch_dir(&info.name).join(BRANCH_FILE),
            &meta::seal(&file)?,
            true,
        )
    }
}
