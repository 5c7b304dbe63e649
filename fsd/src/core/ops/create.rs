//! Making entries: files, directories, symbolic links, devices, FIFOs and sockets.

use crate::backstore::Records;
use crate::core::change::Change;
use crate::core::inode::Node;
use crate::core::ops::attr::touch;
use crate::core::record::{Content, Delta, Dentry, InodeRec};
use crate::core::superblock::Tree;
use crate::core::types::{Caller, Entry, Ino, Kind, Name, NewMode};
use crate::core::{FsCore, FsError, access, acl};
use crate::sync::Arc;

/// What a new entry is to be.
pub(in crate::core) struct NewEntry<'a> {
    pub parent: Ino,
    pub name: &'a Name,
    pub kind: Kind,
    pub mode: NewMode,
    pub rdev: u64,
    pub symlink: Option<Arc<[u8]>>,
    pub content: Content,
    /// Handles will write to its object at once.
    pub dirty: bool,
}

impl FsCore {
    /// Makes a file, device, FIFO or socket. The caller owes a forget for the entry.
    ///
    /// Errors: `Exists`, `NotADirectory`, `ReadOnly`, `Store`.
    pub fn mknod(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &Name,
        kind: Kind,
        mode: impl Into<NewMode>,
        rdev: u64,
    ) -> Result<Entry, FsError> {
        if matches!(kind, Kind::Dir | Kind::Symlink) {
            return Err(FsError::Invalid(
                "mknod makes no directories and no symbolic links",
            ));
        }
        self.make(
            caller,
            NewEntry {
                rdev,
                ..plain(parent, name, kind, mode.into())
            },
        )
    }

    /// Makes a directory. The caller owes a forget for the entry. Errors: as [`FsCore::mknod`].
    pub fn mkdir(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &Name,
        mode: impl Into<NewMode>,
    ) -> Result<Entry, FsError> {
        self.make(caller, plain(parent, name, Kind::Dir, mode.into()))
    }

    /// Makes a symbolic link. The caller owes a forget for the entry.
    ///
    /// Errors: as [`FsCore::mknod`], and `Invalid` for an empty or overlong target.
    pub fn symlink(
        &self,
        caller: &Caller,
        parent: Ino,
        name: &Name,
        target: &[u8],
    ) -> Result<Entry, FsError> {
        if target.is_empty() || target.len() > 4095 {
            return Err(FsError::Invalid("a link target has 1 to 4095 bytes"));
        }
        let symlink = Some(Arc::from(target));
        self.make(
            caller,
            NewEntry {
                symlink,
                ..plain(parent, name, Kind::Symlink, 0o777.into())
            },
        )
    }

    fn make(&self, caller: &Caller, new: NewEntry<'_>) -> Result<Entry, FsError> {
        let mut tree = self.lock_absent(new.parent, new.name)?;
        let ino = self.make_locked(&mut tree, caller, &new)?;
        tree.node_mut(ino)?.lookups += 1;
        Ok(Entry {
            attr: tree.attr(&self.base, ino)?,
            generation: 0,
        })
    }

    /// Locks the tree, sure that `name` is free in `parent` and may be made there.
    ///
    /// Errors: `Exists`, `NotADirectory`, `ReadOnly`, `Stale`, `Base`, `Store`.
    pub(in crate::core) fn lock_absent(
        &self,
        parent: Ino,
        name: &Name,
    ) -> Result<crate::sync::MutexGuard<'_, Tree>, FsError> {
        match self.find(parent, name) {
            Ok((mut tree, ino)) => {
                tree.drop_if_idle(ino);
                return Err(FsError::Exists {
                    parent,
                    name: name.clone(),
                });
            }
            Err(FsError::NoEntry { .. }) => {}
            Err(e) => return Err(e),
        }
        let tree = crate::sync::lock(&self.tree);
        tree.changeable_dir(parent)?;
        // The lock was free for a moment: only the branch itself can have made the name since.
        if let Some(Dentry::Present { .. }) = tree.branch.dentry(parent, name)? {
            return Err(FsError::Exists {
                parent,
                name: name.clone(),
            });
        }
        Ok(tree)
    }

    /// Makes the entry; its node is in the table, referred to by nobody yet.
    pub(in crate::core) fn make_locked(
        &self,
        tree: &mut Tree,
        caller: &Caller,
        new: &NewEntry<'_>,
    ) -> Result<Ino, FsError> {
        let mut change = Change::default();
        let ino = self.add_entry(tree, &mut change, caller, new)?;
        tree.nodes.insert(ino, Box::new(Node::new(new.kind)));
        if let Err(e) = tree.commit(change) {
            tree.nodes.remove(&ino);
            return Err(e);
        }
        tree.set_parent(ino, new.parent);
        Ok(ino)
    }

    /// Adds the new inode and its dentry to `change`.
    pub(in crate::core) fn add_entry(
        &self,
        tree: &mut Tree,
        change: &mut Change,
        caller: &Caller,
        new: &NewEntry<'_>,
    ) -> Result<Ino, FsError> {
        let now = self.clock.now();
        let dir = tree.edit(&self.base, change, new.parent)?;
        let (asked, xattrs) = acl::for_new_entry(&dir.xattrs, new.kind, new.mode);
        let (gid, perm) = access::inherit(self, caller, dir.perm, dir.gid, new.kind, asked)?;
        touch(dir, now);
        if new.kind == Kind::Dir {
            add_subdir(dir, 1);
        }
        let ino = tree.branch.alloc_ino();
        let record = InodeRec {
            kind: new.kind,
            perm,
            uid: caller.uid,
            gid,
            rdev: if matches!(new.kind, Kind::Char | Kind::Block) {
                new.rdev
            } else {
                0
            },
            nlink: if new.kind == Kind::Dir { 2 } else { 1 },
            size: new_size(new),
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            object_mtime: None,
            blocks: None,
            dirty: new.dirty,
            generation: 0,
            origin: None,
            content: new.content.clone(),
            symlink: new.symlink.clone(),
            xattrs,
        };
        change.create(ino, record);
        change.push(Delta::PutDentry(
            new.parent,
            new.name.clone(),
            Dentry::Present {
                ino,
                kind: new.kind,
            },
        ));
        Ok(ino)
    }
}

impl Tree {
    /// The directory, sure that entries of it may be changed.
    ///
    /// Errors: `Stale`, `NotADirectory`, `ReadOnly` above the copy-on-write roots, `NoEntry`-like
    /// `Stale` in a directory that was removed.
    pub(in crate::core) fn changeable_dir(&self, ino: Ino) -> Result<&Node, FsError> {
        let node = self.dir(ino)?;
        if node.exposed.is_some() {
            return Err(FsError::ReadOnly);
        }
        if node.unlinked {
            return Err(FsError::Removed(ino));
        }
        Ok(node)
    }
}

pub(in crate::core) fn plain(parent: Ino, name: &Name, kind: Kind, mode: NewMode) -> NewEntry<'_> {
    NewEntry {
        parent,
        name,
        kind,
        mode,
        rdev: 0,
        symlink: None,
        content: Content::Empty,
        dirty: false,
    }
}

fn new_size(new: &NewEntry<'_>) -> u64 {
    match (new.kind, &new.symlink) {
        (Kind::Dir, _) => 4096,
        (_, Some(target)) => target.len() as u64,
        _ => 0,
    }
}

/// Counts a subdirectory that came (`1`) or went (`-1`) in the link count of its parent.
///
/// A count below 2 means that the host's file system does not count them (btrfs): it stays.
pub(in crate::core) fn add_subdir(dir: &mut InodeRec, by: i32) {
    if dir.nlink >= 2 {
        dir.nlink = dir.nlink.saturating_add_signed(by).max(2);
    }
}
