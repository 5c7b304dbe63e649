//! Removing entries: unlink and rmdir, and what a removed name leaves behind.

use crate::core::base::BaseLoc;
use crate::core::change::Change;
use crate::core::inode::Node;
use crate::core::ops::attr::touch;
use crate::core::ops::create::add_subdir;
use crate::core::record::{Content, Delta, Dentry};
use crate::core::superblock::Tree;
use crate::core::types::{Caller, Ino, Kind, Name, Time};
use crate::core::{FsCore, FsError};

impl FsCore {
    /// Removes the name of anything but a directory.
    ///
    /// Errors: `NoEntry`, `IsADirectory`, `ReadOnly`, `Base`, `Store`.
    pub fn unlink(&self, caller: &Caller, parent: Ino, name: &Name) -> Result<(), FsError> {
        self.remove(caller, parent, name, false)
    }

    /// Removes an empty directory.
    ///
    /// Errors: `NoEntry`, `NotADirectory`, `NotEmpty`, `ReadOnly`, `Base`, `Store`.
    pub fn rmdir(&self, caller: &Caller, parent: Ino, name: &Name) -> Result<(), FsError> {
        self.remove(caller, parent, name, true)
    }

    fn remove(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &Name,
        want_dir: bool,
    ) -> Result<(), FsError> {
        let (mut tree, ino) = self.find(parent, name)?;
        let result = self.remove_found(&mut tree, parent, name, ino, want_dir);
        if result.is_ok() {
            self.note_removal(&tree, ino, parent, caller);
        }
        tree.drop_if_idle(ino);
        result
    }

    fn remove_found(
        &self,
        tree: &mut Tree,
        parent: Ino,
        name: &Name,
        ino: Ino,
        want_dir: bool,
    ) -> Result<(), FsError> {
        tree.changeable_dir(parent)?;
        let is_dir = tree.node(ino)?.kind == Kind::Dir;
        match (is_dir, want_dir) {
            (true, false) => return Err(FsError::IsADirectory(ino)),
            (false, true) => return Err(FsError::NotADirectory(ino)),
            _ => {}
        }
        let now = self.clock.now();
        let mut change = Change::default();
        change.frees_room();
        self.drop_link(tree, &mut change, (parent, name), ino, now)?;
        self.hide_name(tree, &mut change, parent, name)?;
        let dir = tree.edit(&self.base, &mut change, parent)?;
        touch(dir, now);
        if is_dir {
            add_subdir(dir, -1);
        }
        tree.commit(change)
    }

    /// Notes that the kernel is to count a link less to `ino`, which was in `dir`, if more are left.
    pub(in crate::core) fn note_removal(&self, tree: &Tree, ino: Ino, dir: Ino, caller: &Caller) {
        let lives_on = |node: &Node| node.kind != Kind::Dir && !node.unlinked;
        if tree.node(ino).is_ok_and(lives_on) {
            self.removals.begin(ino, dir, caller.pid);
        }
    }

    /// Takes the link `place` off `ino`: the last one unlinks it. A directory must be empty.
    ///
    /// Errors: `NotEmpty`, `ReadOnly` for a directory that leads to a root, `Base`, `Store`.
    pub(in crate::core) fn drop_link(
        &self,
        tree: &mut Tree,
        change: &mut Change,
        place: (Ino, &Name),
        ino: Ino,
        now: Time,
    ) -> Result<(), FsError> {
        if tree.node(ino)?.exposed.is_some() {
            return Err(FsError::ReadOnly);
        }
        if tree.node(ino)?.kind == Kind::Dir && !self.is_empty_dir(tree, ino)? {
            return Err(FsError::NotEmpty(ino));
        }
        let node = tree.node(ino)?;
        if node.record.is_none()
            && let Some(loc) = node.base()
            && (node.kind == Kind::Dir || self.base.stat(loc)?.nlink <= 1)
        {
            // The whiteout says it all: no record is made for the sake of being dropped.
            change.unlink(ino);
            self.keep_removed(tree, ino);
            return Ok(());
        }
        change.forsake_place(place.0, place.1);
        tree.edit(&self.base, change, ino)?;
        let left = tree.names_left(change, ino, place)?;
        let record = tree.edit(&self.base, change, ino)?;
        record.ctime = now;
        record.nlink = match record.kind {
            Kind::Dir => 0,
            // The host may have added the link that goes: it was never counted. No name may be left that
            // leads to no record.
            _ => record.nlink.saturating_sub(1).max(left),
        };
        if record.nlink == 0 {
            let is_whole = matches!(record.content, Content::Empty | Content::Object(_));
            change.unlink(ino);
            if !is_whole {
                self.keep_removed(tree, ino);
            }
        }
        Ok(())
    }

    /// Makes `name` vanish from `parent`: by a whiteout where something below would show through.
    pub(in crate::core) fn hide_name(
        &self,
        tree: &Tree,
        change: &mut Change,
        parent: Ino,
        name: &Name,
    ) -> Result<(), FsError> {
        let shows_through = match tree.branch.lower_dentry(parent, name)? {
            Some(Dentry::Present { .. }) => true,
            Some(Dentry::Whiteout) => false,
            None => match &tree.node(parent)?.base_dir {
                Some(dir) => {
                    let loc = BaseLoc::Child(dir.clone(), name.clone());
                    self.base_stat(&loc)?.is_some()
                }
                None => false,
            },
        };
        change.push(if shows_through {
            Delta::PutDentry(parent, name.clone(), Dentry::Whiteout)
        } else {
            Delta::DelDentry(parent, name.clone())
        });
        Ok(())
    }

    /// Whether the directory could be removed, by what is in it.
    ///
    /// Errors: `Stale`, `NotADirectory`, `Base`, `Store`.
    pub fn is_empty(&self, ino: Ino) -> Result<bool, FsError> {
        self.is_empty_dir(&mut crate::sync::lock(&self.tree), ino)
    }

    /// Whether the merged directory has no entry.
    fn is_empty_dir(&self, tree: &mut Tree, ino: Ino) -> Result<bool, FsError> {
        self.load_listing(tree, ino)?;
        Ok(tree
            .listings
            .get(ino)
            .is_none_or(|listing| listing.is_empty()))
    }
}
