//! Removing branches, and what only they needed.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::error::StoreError;
use super::store::{
    BRANCHES, LAYERS, Listed, STAGE, Store, TRASH, branch_dir, is_stage, layer_dir,
};
use crate::core::record::LayerId;
use crate::core::types::BranchName;

impl Store {
    /// Removes a branch with its snapshots, and the layers that no other branch names.
    ///
    /// Errors: `NoBranch`, `Locked` while it is live, `Needed` by branches made from its snapshots.
    pub fn remove_branch(&self, name: &BranchName) -> Result<(), StoreError> {
        {
            let _lock = self.lock_store()?;
            let own_top = match self.branch(name) {
                Ok(info) => {
                    let by = self.made_from(&info, None)?;
                    if !by.is_empty() {
                        let what = format!("a snapshot of branch {name}");
                        return Err(StoreError::Needed { what, by });
                    }
                    info.layers.last().copied()
                }
                Err(e @ StoreError::NoBranch(_)) => return Err(e),
                // A damaged one can go too; what it named is found by what nobody names.
                Err(_) => None,
            };
            let live = self.lock_branch(name)?;
            let to = Path::new(TRASH).join(format!("branch.{:016x}", self.random()?));
            self.media
                .rename(&branch_dir(name), &to, false)
                .map_err(|e| self.io("rename", &branch_dir(name), e).while_writing())?;
            self.sync_dir(Path::new(BRANCHES))?;
            drop(live);
            self.discard_unused_layers(own_top)?;
            self.remove_stages();
        }
        self.empty_trash();
        self.keep_room(0);
        Ok(())
    }

    /// Moves layers that no branch and no snapshot names to the trash. While a branch is damaged nobody knows what
    /// it names; then only `surely_unused` goes.
    pub(super) fn discard_unused_layers(
        &self,
        surely_unused: Option<LayerId>,
    ) -> Result<(), StoreError> {
        let mut used = BTreeSet::new();
        let mut all_known = true;
        for listed in self.list()? {
            match listed {
                Listed::Branch(info) => used.extend(info.all_layers().map(layer_dir)),
                Listed::Damaged { .. } => all_known = false,
            }
        }
        let dir = Path::new(LAYERS);
        let unused: Vec<PathBuf> = if all_known {
            let entries = self.media.list(dir).map_err(|e| self.io("list", dir, e))?;
            entries
                .iter()
                .map(|entry| dir.join(&entry.name))
                .filter(|d| !used.contains(d))
                .collect()
        } else {
            surely_unused.into_iter().map(layer_dir).collect()
        };
        for from in unused {
            let to = Path::new(TRASH).join(format!("layer.{:016x}", self.random()?));
            match self.media.rename(&from, &to, false) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(|e| self.io("rename", &from, e).while_writing())?,
            }
        }
        Ok(())
    }

    /// Removes what was moved away, as far as it can be; the rest goes the next time.
    pub(super) fn empty_trash(&self) {
        for entry in self.media.list(Path::new(TRASH)).unwrap_or_default() {
            self.remove_tree(&Path::new(TRASH).join(entry.name));
        }
    }

    /// Removes what creations that were cut short have left. Needs the store's lock: whoever
    /// stages something here holds it.
    pub(super) fn remove_stages(&self) {
        for entry in self.media.list(Path::new(STAGE)).unwrap_or_default() {
            self.remove_tree(&Path::new(STAGE).join(entry.name));
        }
        for entry in self.media.list(Path::new("")).unwrap_or_default() {
            if is_stage(&entry.name) {
                let _ = self.media.unlink(Path::new(&entry.name));
            }
        }
    }

    /// Removes a tree, quietly: what resists is rubbish that the next sweep meets again, and what
    /// is gone already was removed by another process that sweeps too.
    pub(super) fn remove_tree(&self, path: &Path) {
        for entry in self.media.list(path).unwrap_or_default() {
            let child = path.join(entry.name);
            if entry.is_dir {
                self.remove_tree(&child);
            } else if let Err(e) = self.media.unlink(&child) {
                tracing::debug!(path = %self.media.describe(&child).display(), error = %e, "not removed");
            }
        }
        if let Err(e) = self.media.rmdir(path) {
            tracing::debug!(path = %self.media.describe(path).display(), error = %e, "not removed");
        }
    }
}
