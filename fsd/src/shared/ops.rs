//! The operations on nodes that are there already: attributes, bytes, listings, rights.
//!
//! A request by path goes to the caller's branch. One with a handle goes to the branch of the handle,
//! whoever asks: writeback and readahead carry whatever process was current, and descriptors are
//! passed on.

use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;

use crate::core::access::Want;
use crate::core::types::{Attr, Caller, DirEnt, Entry, Fh, FsStat, Ino, Kind, SetAttr, StreamName};
use crate::core::{FsCore, FsError, Opened};
use crate::shared::nodes::NodeId;
use crate::shared::route::{Member, Seen, Shared};
use crate::sync::{Arc, lock};

/// A directory that is being listed.
#[derive(Debug)]
pub struct DirHandle {
    member: Arc<Member>,
    ino: Ino,
    node: NodeId,
}

/// The attributes as the mount shows them.
pub(super) fn shown(attr: Attr, node: NodeId) -> Attr {
    Attr {
        ino: Ino(node),
        ..attr
    }
}

impl Shared {
    /// Takes `count` lookups of the kernel off a node.
    pub fn forget(&self, node: NodeId, count: u64) {
        let held = lock(&self.nodes).forget(node, count);
        self.give_back(held);
    }

    /// What stat(2) shows. Of a file whoever holds it may ask, of a directory each sees his own.
    ///
    /// Errors: `Stale`, `UnknownCaller`.
    pub fn getattr(&self, caller: &Caller, node: NodeId) -> Result<Attr, FsError> {
        let attr = match self.file(node) {
            Ok((member, ino)) => member.with(|core| core.getattr(ino))?,
            Err(FsError::IsADirectory(_)) => {
                let seen = self.seen_by(caller)?;
                let ino = self.dir(&seen, node)?;
                seen.with(|core| core.getattr(ino))?
            }
            Err(e) => return Err(e),
        };
        Ok(shown(attr, node))
    }

    /// Errors: `ReadOnly`, `Stale`, as `Checked::setattr`.
    pub fn setattr(
        &self,
        caller: &Caller,
        node: NodeId,
        fh: Option<Fh>,
        set: &SetAttr,
    ) -> Result<Attr, FsError> {
        let (seen, ino) = match fh {
            Some(_) => {
                let (member, ino) = self.file(node)?;
                let seen = Seen {
                    member,
                    caller: *caller,
                    writable: true,
                };
                (seen, ino)
            }
            None => self.to_change(caller, node)?,
        };
        let attr = seen.ask(|core| core.setattr(ino, fh, set))?;
        Ok(shown(attr, node))
    }

    /// The branch and the inode that a change of `node` is for. Errors: `ReadOnly`, `Stale`.
    pub(super) fn to_change(&self, caller: &Caller, node: NodeId) -> Result<(Seen, Ino), FsError> {
        let seen = self.seen_by(caller)?.if_writable()?;
        let ino = self.inode(&seen, node)?;
        Ok((seen, ino))
    }

    /// The branch and the inode that a look at `node` is for. Errors: `Stale`, `UnknownCaller`.
    fn to_look_at(&self, caller: &Caller, node: NodeId) -> Result<(Seen, Ino), FsError> {
        let seen = self.seen_by(caller)?;
        let ino = self.inode(&seen, node)?;
        Ok((seen, ino))
    }

    /// As access(2). Errors: `AccessDenied`, `ReadOnly`, `Stale`, `UnknownCaller`.
    pub fn access(&self, caller: &Caller, node: NodeId, want: Want) -> Result<(), FsError> {
        let (seen, ino) = self.to_look_at(caller, node)?;
        if want.write && !seen.writable {
            let kind = seen.with(|core| core.getattr(ino))?.kind;
            if matches!(kind, Kind::File | Kind::Dir | Kind::Symlink) {
                return Err(FsError::ReadOnly);
            }
        }
        seen.ask(|core| core.access(ino, want))
    }

    /// Errors: `Invalid` when it is no symbolic link, `Stale`.
    pub fn readlink(&self, caller: &Caller, node: NodeId) -> Result<Arc<[u8]>, FsError> {
        let (seen, ino) = self.to_look_at(caller, node)?;
        seen.with(|core| core.readlink(ino))
    }

    /// Errors: `ReadOnly`, `Stale`, as `Checked::open`.
    pub fn open(&self, caller: &Caller, node: NodeId, flags: i32) -> Result<Opened, FsError> {
        let (seen, ino) = self.to_look_at(caller, node)?;
        let bits = OFlags::from_bits_retain(flags as u32);
        let reads_only = bits & OFlags::RWMODE == OFlags::RDONLY && !bits.contains(OFlags::TRUNC);
        if !seen.writable && !reads_only {
            return Err(FsError::ReadOnly);
        }
        seen.ask(|core| core.open(ino, flags))
    }

    /// Calls the core of the branch that the file `node` is of.
    pub fn of_file<T>(
        &self,
        node: NodeId,
        call: impl FnOnce(&FsCore, Ino) -> Result<T, FsError>,
    ) -> Result<T, FsError> {
        let (member, ino) = self.file(node)?;
        member.with(|core| call(core, ino))
    }

    /// As `FsCore::copy_range`. Errors: `AcrossBranches`; the kernel copies by itself then.
    pub fn copy_range(
        &self,
        caller: &Caller,
        from: (NodeId, Fh, u64),
        to: (NodeId, Fh, u64),
        len: u64,
    ) -> Result<u64, FsError> {
        let (source, from_ino) = self.file(from.0)?;
        let (target, to_ino) = self.file(to.0)?;
        if source.view != target.view {
            return Err(FsError::AcrossBranches("copy"));
        }
        let (from, to) = ((from_ino, from.1, from.2), (to_ino, to.1, to.2));
        target.with(|core| {
            let kill = core.takes_privileges(caller, to.0)?;
            core.copy_range(from, to, len, kill)
        })
    }

    /// As `FsCore::fsync`, of a file, or of a directory on the branch of the handle.
    pub fn fsync_dir(&self, handle: u64, data_only: bool) -> Result<(), FsError> {
        let dir = self.dir_handle(handle)?;
        dir.member.with(|core| core.fsync(dir.ino, data_only))
    }

    /// Begins to list a directory. Errors: `AccessDenied`, `NotADirectory`, `Stale`.
    pub fn opendir(&self, caller: &Caller, node: NodeId) -> Result<u64, FsError> {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let seen = self.seen_by(caller)?;
        let ino = self.dir(&seen, node)?;
        seen.ask(|core| core.check_dir(ino))?;
        // It may come to be another directory's node meanwhile.
        seen.with(|core| core.hold(ino))?;
        let handle = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        let member = seen.member;
        let dir = DirHandle { member, ino, node };
        lock(&self.dirs).insert(handle, Arc::new(dir));
        Ok(handle)
    }

    /// Ends a listing.
    pub fn releasedir(&self, handle: u64) {
        let dir = lock(&self.dirs).remove(&handle);
        if let Some(dir) = dir {
            self.give_back(Some((dir.member.view, dir.ino)));
        }
    }

    fn dir_handle(&self, handle: u64) -> Result<Arc<DirHandle>, FsError> {
        let dirs = lock(&self.dirs);
        dirs.get(&handle)
            .cloned()
            .ok_or(FsError::BadHandle(Fh(handle)))
    }

    /// As `FsCore::readdir`, with the numbers that the mount shows.
    pub fn readdir(
        &self,
        handle: u64,
        cookie: u64,
        each: &mut dyn FnMut(&DirEnt) -> bool,
    ) -> Result<(), FsError> {
        let dir = self.dir_handle(handle)?;
        dir.member.with(|core| {
            core.readdir(dir.ino, cookie, &mut |entry| {
                let ino = self.listed(&dir, entry);
                each(&DirEnt {
                    ino,
                    ..entry.clone()
                })
            })
        })
    }

    fn listed(&self, dir: &DirHandle, entry: &DirEnt) -> Ino {
        let nodes = lock(&self.nodes);
        Ino(match &entry.name {
            StreamName::Dot => dir.node,
            StreamName::DotDot => nodes.parent(dir.node),
            StreamName::Entry(name) => {
                let place = (dir.node, name.clone());
                nodes.shown(dir.member.view, &place, entry.ino, entry.kind)
            }
        })
    }

    /// Of the caller's branch, which may have a limit of its own.
    ///
    /// Errors: as `FsCore::statfs`, and those of a caller that is not known.
    pub fn statfs(&self, caller: &Caller) -> Result<FsStat, FsError> {
        self.seen_by(caller)?.member.with(FsCore::statfs)
    }

    /// Errors: as `Checked::getxattr`.
    pub fn getxattr(
        &self,
        caller: &Caller,
        node: NodeId,
        name: &[u8],
    ) -> Result<Arc<[u8]>, FsError> {
        // The kernel asks for file capabilities by itself, for whoever holds the file.
        if !name.starts_with(b"user.") {
            let known = lock(&self.nodes).file(node);
            if let Some(Some((view, ino))) = known {
                return self.member(view)?.with(|core| core.getxattr(ino, name));
            }
        }
        let (seen, ino) = self.to_look_at(caller, node)?;
        seen.ask(|core| core.getxattr(ino, name))
    }

    /// Errors: as `Checked::listxattr`.
    pub fn listxattr(&self, caller: &Caller, node: NodeId) -> Result<Vec<u8>, FsError> {
        let (seen, ino) = self.to_look_at(caller, node)?;
        seen.ask(|core| core.listxattr(ino))
    }

    /// Errors: `ReadOnly`, as `Checked::setxattr`.
    pub fn setxattr(
        &self,
        caller: &Caller,
        node: NodeId,
        name: &[u8],
        value: &[u8],
        flags: i32,
    ) -> Result<(), FsError> {
        let (seen, ino) = self.to_change(caller, node)?;
        seen.ask(|core| core.setxattr(ino, name, value, flags))
    }

    /// Errors: `ReadOnly`, as `Checked::removexattr`.
    pub fn removexattr(&self, caller: &Caller, node: NodeId, name: &[u8]) -> Result<(), FsError> {
        let (seen, ino) = self.to_change(caller, node)?;
        seen.ask(|core| core.removexattr(ino, name))
    }

    /// An entry that was found or made, as the mount shows it: its reference goes to its node.
    pub(super) fn entered(
        &self,
        seen: &Seen,
        parent: NodeId,
        name: &crate::core::types::Name,
        entry: Entry,
    ) -> Attr {
        let place = (parent, name.clone());
        let Attr { ino, kind, .. } = entry.attr;
        let (node, spare) = lock(&self.nodes).found(seen.view(), place, ino, kind);
        self.give_back(spare);
        shown(entry.attr, node)
    }
}
