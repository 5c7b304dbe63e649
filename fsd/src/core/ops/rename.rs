//! Renaming: one dentry moves, whatever hangs below it. A base directory goes on resolving its
//! children through its origin, so moving it costs the same as moving an empty one.

use crate::backstore::Records;
use crate::core::change::Change;
use crate::core::ops::attr::touch;
use crate::core::ops::create::{add_subdir, plain};
use crate::core::record::{Content, Delta, Dentry};
use crate::core::superblock::Tree;
use crate::core::types::{Caller, Ino, Kind, Name, RenameMode, Time};
use crate::core::{FsCore, FsError};

/// One side of a rename.
#[derive(Clone, Copy)]
struct Side<'a> {
    dir: Ino,
    name: &'a Name,
    ino: Ino,
    kind: Kind,
}

/// The inodes that a rename gave another name: none, one, or by an exchange two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved(pub [Option<Ino>; 2]);

impl FsCore {
    /// Moves `name` of `parent` to `new_name` of `new_parent`.
    ///
    /// Errors: `NoEntry`, `Exists` (NoReplace), `IsADirectory`, `NotADirectory`, `NotEmpty`,
    /// `Invalid` for a directory moved below itself, `ReadOnly`, `Base`, `Store`.
    pub fn rename(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &Name,
        new_parent: Ino,
        new_name: &Name,
        mode: RenameMode,
    ) -> Result<Moved, FsError> {
        // Both are looked up first, so that their nodes are there when the tree is locked for good.
        let (mut tree, ino) = self.find(parent, name)?;
        tree.node_mut(ino)?.lookups += 1;
        drop(tree);
        let target = match self.find(new_parent, new_name) {
            Ok((mut tree, target)) => {
                tree.node_mut(target)?.lookups += 1;
                Ok(Some(target))
            }
            Err(FsError::NoEntry { .. }) => Ok(None),
            Err(e) => Err(e),
        };
        let mut tree = crate::sync::lock(&self.tree);
        let result = match &target {
            Ok(target) => self
                .still_there(&tree, parent, name, ino)
                .and_then(|()| self.sides(&tree, parent, name, ino, new_parent, new_name, *target))
                .and_then(|(from, to)| self.rename_sides(&mut tree, caller, from, to, mode)),
            Err(_) => Ok(Moved::default()),
        };
        tree.forget(ino, 1);
        match target {
            Ok(Some(target)) => tree.forget(target, 1),
            Ok(None) => {}
            Err(e) => return Err(e),
        }
        result
    }

    /// Checks that the name still leads to `ino` after the lock was free for a moment.
    fn still_there(&self, tree: &Tree, parent: Ino, name: &Name, ino: Ino) -> Result<(), FsError> {
        match tree.branch.dentry(parent, name)? {
            Some(Dentry::Present { ino: now, .. }) if now == ino => Ok(()),
            None if !tree.node(ino)?.unlinked => Ok(()),
            _ => Err(FsError::NoEntry {
                parent,
                name: name.clone(),
            }),
        }
    }

    #[allow(clippy::too_many_arguments, clippy::type_complexity)]
    fn sides<'a>(
        &self,
        tree: &Tree,
        parent: Ino,
        name: &'a Name,
        ino: Ino,
        new_parent: Ino,
        new_name: &'a Name,
        target: Option<Ino>,
    ) -> Result<(Side<'a>, (Ino, &'a Name, Option<Side<'a>>)), FsError> {
        tree.changeable_dir(parent)?;
        tree.changeable_dir(new_parent)?;
        let from = Side {
            dir: parent,
            name,
            ino,
            kind: tree.node(ino)?.kind,
        };
        let to = match target {
            Some(ino) => {
                let kind = tree.node(ino)?.kind;
                Some(Side {
                    dir: new_parent,
                    name: new_name,
                    ino,
                    kind,
                })
            }
            None => None,
        };
        Ok((from, (new_parent, new_name, to)))
    }

    fn rename_sides(
        &self,
        tree: &mut Tree,
        caller: &Caller,
        from: Side<'_>,
        (new_dir, new_name, target): (Ino, &Name, Option<Side<'_>>),
        mode: RenameMode,
    ) -> Result<Moved, FsError> {
        let now = self.clock.now();
        if !mode.keeps_target() && target.is_some_and(|t| t.ino == from.ino) {
            // Two names of one file: POSIX has rename do nothing.
            return Ok(Moved::default());
        }
        if mode == RenameMode::Exchange {
            let missing = || FsError::NoEntry {
                parent: new_dir,
                name: new_name.clone(),
            };
            return self.exchange(tree, from, target.ok_or_else(missing)?, now);
        }
        if let Some(target) = target {
            if mode.keeps_target() {
                return Err(FsError::Exists {
                    parent: new_dir,
                    name: new_name.clone(),
                });
            }
            match (from.kind == Kind::Dir, target.kind == Kind::Dir) {
                (true, false) => return Err(FsError::NotADirectory(target.ino)),
                (false, true) => return Err(FsError::IsADirectory(target.ino)),
                _ => {}
            }
        }
        if tree.node(from.ino)?.exposed.is_some() {
            return Err(FsError::ReadOnly);
        }
        self.check_not_below(tree, from, new_dir)?;
        let mut change = Change::default();
        if let Some(target) = target {
            self.drop_link(tree, &mut change, (new_dir, new_name), target.ino, now)?;
        }
        let moved = tree.edit(&self.base, &mut change, from.ino)?;
        moved.ctime = now;
        if mode.leaves_whiteout() {
            let device = plain(from.dir, from.name, Kind::Char, 0.into());
            self.add_entry(tree, &mut change, caller, &device)?;
        } else {
            self.hide_name(tree, &mut change, from.dir, from.name)?;
        }
        change.push(Delta::PutDentry(
            new_dir,
            new_name.clone(),
            Dentry::Present {
                ino: from.ino,
                kind: from.kind,
            },
        ));
        let old = tree.edit(&self.base, &mut change, from.dir)?;
        touch(old, now);
        if from.kind == Kind::Dir {
            add_subdir(old, -1);
        }
        let new = tree.edit(&self.base, &mut change, new_dir)?;
        touch(new, now);
        if from.kind == Kind::Dir && target.is_none() {
            add_subdir(new, 1);
        }
        if target.is_some_and(|t| t.kind == Kind::File)
            && let Some(record) = &tree.node(from.ino)?.record
            && let Content::Object(id) | Content::Extents { own: id, .. } = record.content
        {
            // Many a program replaces a file without fsync(2), and relies on one of the two. Before
            // the commit: a sync by somebody else may come right after it.
            tree.branch.sync_before_records(id);
        }
        tree.commit(change)?;
        tree.set_parent(from.ino, new_dir);
        if let Some(target) = target {
            self.note_removal(tree, target.ino, new_dir, caller);
        }
        Ok(Moved([Some(from.ino), None]))
    }

    fn exchange(
        &self,
        tree: &mut Tree,
        a: Side<'_>,
        b: Side<'_>,
        now: Time,
    ) -> Result<Moved, FsError> {
        if tree.node(a.ino)?.exposed.is_some() || tree.node(b.ino)?.exposed.is_some() {
            return Err(FsError::ReadOnly);
        }
        self.check_not_below(tree, a, b.dir)?;
        self.check_not_below(tree, b, a.dir)?;
        let mut change = Change::default();
        tree.edit(&self.base, &mut change, a.ino)?.ctime = now;
        tree.edit(&self.base, &mut change, b.ino)?.ctime = now;
        for (side, other) in [(a, b), (b, a)] {
            change.push(Delta::PutDentry(
                side.dir,
                side.name.clone(),
                Dentry::Present {
                    ino: other.ino,
                    kind: other.kind,
                },
            ));
            let dir = tree.edit(&self.base, &mut change, side.dir)?;
            touch(dir, now);
            add_subdir(
                dir,
                i32::from(other.kind == Kind::Dir) - i32::from(side.kind == Kind::Dir),
            );
        }
        tree.commit(change)?;
        tree.set_parent(a.ino, b.dir);
        tree.set_parent(b.ino, a.dir);
        Ok(Moved([Some(a.ino), Some(b.ino)]))
    }

    /// Refuses to move a directory below itself. The kernel checks it too, for a mount.
    fn check_not_below(&self, tree: &Tree, side: Side<'_>, new_dir: Ino) -> Result<(), FsError> {
        if side.kind == Kind::Dir && side.dir != new_dir && tree.is_below(new_dir, side.ino) {
            return Err(FsError::Invalid("a directory cannot move below itself"));
        }
        if side.ino == new_dir {
            return Err(FsError::Invalid("a directory cannot move into itself"));
        }
        Ok(())
    }
}
