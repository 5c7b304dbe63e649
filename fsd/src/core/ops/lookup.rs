//! Finding entries and saying what they are: lookup, forget, getattr, readlink.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::backstore::Records;
use crate::core::base::{BaseLoc, BaseStat};
use crate::core::exposed::Shown as Visible;
use crate::core::inode::Shown;
use crate::core::record::Dentry;
use crate::core::superblock::Tree;
use crate::core::types::{Attr, Entry, Ino, Kind, Name};
use crate::core::{FsCore, FsError};
use crate::sync::{Arc, MutexGuard};

impl FsCore {
    /// Finds `name` in `parent`. The caller owes a forget for the entry it gets.
    ///
    /// Errors: `NoEntry`, `NotADirectory`, `Stale`, `Base`, `Store`.
    pub fn lookup(&self, parent: Ino, name: &Name) -> Result<Entry, FsError> {
        let (mut tree, ino) = self.find(parent, name)?;
        let attr = tree
            .attr(&self.base, ino)
            .map_err(|e| vanished(e, parent, name));
        let node = tree.node_mut(ino)?;
        node.lookups += 1;
        node.shown = Shown::Several;
        let generation = node.record.as_ref().map_or(0, |r| r.generation);
        match attr {
            Ok(attr) => Ok(Entry { attr, generation }),
            Err(e) => {
                tree.forget(ino, 1);
                Err(e)
            }
        }
    }

    /// Finds the directory at the absolute `path`, without following symbolic links. The caller
    /// owes a forget for it.
    ///
    /// Errors: `NoEntry`, `NotADirectory`, `BadName`, `Base`, `Store`.
    pub fn enter(&self, path: &Path) -> Result<Ino, FsError> {
        let mut at = Ino::ROOT;
        for part in path
            .as_os_str()
            .as_bytes()
            .split(|b| *b == b'/')
            .filter(|p| !p.is_empty())
        {
            let below = self.lookup(at, &Name::new(part)?);
            if at != Ino::ROOT {
                self.forget(at, 1);
            }
            at = below?.attr.ino;
        }
        let is_dir = crate::sync::lock(&self.tree).dir(at).map(drop);
        if let Err(e) = is_dir {
            self.forget(at, 1);
            return Err(e);
        }
        crate::sync::lock(&self.tree).node_mut(at)?.go_by_name();
        Ok(at)
    }

    /// Finds the inode of `name` in `parent` and returns with the tree locked and the node in it.
    ///
    /// The node may be referred to by nobody yet: whoever does not come to refer to it calls
    /// [`Tree::drop_if_idle`].
    pub(in crate::core) fn find(
        &self,
        parent: Ino,
        name: &Name,
    ) -> Result<(MutexGuard<'_, Tree>, Ino), FsError> {
        let no_entry = || FsError::NoEntry {
            parent,
            name: name.clone(),
        };
        let mut tree = crate::sync::lock(&self.tree);
        let dir = tree.dir(parent)?;
        let shown = dir.exposed.as_ref().map(|e| e.get(name));
        if shown == Some(Visible::Nothing) || dir.unlinked {
            return Err(no_entry());
        }
        let base_dir = dir.base_dir.clone();
        if let (Some(base_dir), None) = (&base_dir, &shown) {
            self.watch_dir(base_dir);
        }
        match tree.branch.dentry(parent, name)? {
            Some(Dentry::Present { ino, .. }) => {
                tree.load_recorded(ino)?;
                tree.anchor(&self.base, base_dir.as_ref(), name, ino)?;
                arrive(&mut tree, parent, ino, shown)?;
                return Ok((tree, ino));
            }
            Some(Dentry::Whiteout) => return Err(no_entry()),
            None => {}
        }
        let Some(base_dir) = base_dir else {
            return Err(no_entry());
        };
        // The base may be slow: ask it without the lock, then see whether the branch still agrees.
        drop(tree);
        let loc = BaseLoc::Child(base_dir.clone(), name.clone());
        let stat = self.base_stat(&loc)?;
        let mut tree = crate::sync::lock(&self.tree);
        match tree.branch.dentry(parent, name)? {
            Some(Dentry::Present { ino, .. }) => {
                tree.load_recorded(ino)?;
                tree.anchor(&self.base, Some(&base_dir), name, ino)?;
                arrive(&mut tree, parent, ino, shown)?;
                Ok((tree, ino))
            }
            Some(Dentry::Whiteout) => Err(no_entry()),
            None => {
                let stat = stat.ok_or_else(no_entry)?;
                let ino = tree.load_base(&self.base, &base_dir, name, &stat)?;
                arrive(&mut tree, parent, ino, shown)?;
                Ok((tree, ino))
            }
        }
    }

    /// Stats a base object; `None` if there is none, or it is concealed.
    pub(in crate::core) fn base_stat(&self, loc: &BaseLoc) -> Result<Option<BaseStat>, FsError> {
        match self.base.stat(loc) {
            Ok(stat) if self.base.is_concealed(&stat) => Ok(None),
            Ok(stat) => Ok(Some(stat)),
            Err(e) if is_missing(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Takes one more reference to `ino`, which somebody holds already. The caller owes a forget.
    ///
    /// Errors: `Stale`.
    pub fn hold(&self, ino: Ino) -> Result<(), FsError> {
        crate::sync::lock(&self.tree).node_mut(ino)?.lookups += 1;
        Ok(())
    }

    /// Gives back `count` references to `ino`.
    pub fn forget(&self, ino: Ino, count: u64) {
        self.close_forgotten(ino, count);
        let mut tree = crate::sync::lock(&self.tree);
        tree.forget(ino, count);
        if tree.nodes.get(&ino).is_none_or(|n| n.lookups == 0) {
            self.removals.was_dropped(ino);
        }
    }

    /// What stat(2) shows of `ino`.
    ///
    /// Errors: `Stale`, `Base`, `Store`.
    pub fn getattr(&self, ino: Ino) -> Result<Attr, FsError> {
        self.getattr_for(0, ino)
    }

    /// Sees whether the directory `ino` is one still, before it is listed.
    ///
    /// Errors: `Stale`, `NotADirectory`, `Base`; ESTALE inside it when the host has put something
    /// else in its place.
    pub fn check_dir(&self, ino: Ino) -> Result<(), FsError> {
        let tree = crate::sync::lock(&self.tree);
        let dir = tree.dir(ino)?;
        // One that is removed can still be looked at, and is empty.
        if dir.record.is_some() || dir.unlinked || dir.exposed.is_some() {
            return Ok(());
        }
        match tree.seen_stat(&self.base, ino) {
            Err(e) if !is_missing(&e) => Err(e),
            _ => Ok(()),
        }
    }

    /// As [`FsCore::getattr`], for the thread that has this number; 0: one that has none.
    pub fn getattr_for(&self, thread: u32, ino: Ino) -> Result<Attr, FsError> {
        let mut tree = crate::sync::lock(&self.tree);
        tree.node_mut(ino)?.shown.add(thread);
        tree.attr(&self.base, ino)
    }

    /// Whether anybody but `thread`, which has just changed `ino`, may still have to take in older
    /// attributes that were given out. To be asked before the change is answered; says so once.
    pub fn take_shown(&self, thread: u32, ino: Ino) -> bool {
        let mut tree = crate::sync::lock(&self.tree);
        tree.nodes
            .get_mut(&ino)
            .is_some_and(|n| n.shown.take(thread))
    }

    /// The target of a symbolic link.
    ///
    /// Errors: `Invalid` when it is none, `Stale`, `Base`.
    pub fn readlink(&self, ino: Ino) -> Result<Arc<[u8]>, FsError> {
        let tree = crate::sync::lock(&self.tree);
        let node = tree.node(ino)?;
        if node.kind != Kind::Symlink {
            return Err(FsError::Invalid(
                "readlink of something that is no symbolic link",
            ));
        }
        match &node.record {
            Some(record) => record.symlink.clone().ok_or(FsError::Stale(ino)),
            None => {
                let loc = node.base().ok_or(FsError::Stale(ino))?;
                let target = self.base.readlink(loc)?;
                // The host may have put another there.
                tree.seen_stat(&self.base, ino)?;
                Ok(target)
            }
        }
    }
}

/// Says in a found node where it is and what of it the mount shows.
fn arrive(tree: &mut Tree, parent: Ino, ino: Ino, shown: Option<Visible>) -> Result<(), FsError> {
    tree.set_parent(ino, parent);
    let node = tree.node_mut(ino)?;
    if shown == Some(Visible::Root) {
        // A run has it bound to a place of its own.
        node.go_by_name();
    }
    node.exposed = match shown {
        Some(Visible::Skeleton(below)) => Some(below),
        Some(Visible::Root | Visible::Nothing) | None => None,
    };
    Ok(())
}

/// Whether the base says that there is nothing there.
pub(in crate::core) fn is_missing(e: &FsError) -> bool {
    let FsError::Base { source, .. } = e else {
        return false;
    };
    matches!(
        source.raw_os_error().map(nix::errno::Errno::from_raw),
        Some(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR | nix::errno::Errno::ELOOP)
    )
}

/// A base entry that went away between two looks is simply not there.
fn vanished(e: FsError, parent: Ino, name: &Name) -> FsError {
    if is_missing(&e) {
        FsError::NoEntry {
            parent,
            name: name.clone(),
        }
    } else {
        e
    }
}
