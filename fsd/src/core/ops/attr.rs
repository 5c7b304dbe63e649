//! Changing what a file is: mode, owner, times, size.

use std::sync::atomic::Ordering;

use crate::core::access::{self, CAPABILITY_XATTR};
use crate::core::acl::{self, Acl};
use crate::core::change::Change;
use crate::core::copy_up;
use crate::core::record::{Content, Delta, InodeRec, full_blocks};
use crate::core::stream::Bytes;
use crate::core::superblock::Tree;
use crate::core::types::{Attr, Caller, Fh, Ino, Kind, SetAttr, Time, TimeSet};
use crate::core::{FsCore, FsError};
use crate::sync::Arc;

impl FsCore {
    /// Changes the attributes `set` names and returns all of them. Who may is the kernel's matter,
    /// but for a change of nothing.
    ///
    /// The kernel does not pass its "kill suid" bit of a truncation on to us, so one by anybody
    /// but root clears them. Errors: `Stale`, `NotPermitted`, `Invalid` for the size of no regular
    /// file, `TooLarge`, `Base`, `Store`. Locks: takes ranks 1 and 2.
    pub fn setattr(
        &self,
        caller: &Caller,
        ino: Ino,
        fh: Option<Fh>,
        set: &SetAttr,
    ) -> Result<Attr, FsError> {
        if *set == SetAttr::default() {
            self.change_nothing(caller, ino)?;
        }
        if let Some(size) = set.size {
            match fh {
                None => self.check_name(&mut crate::sync::lock(&self.tree), ino)?,
                Some(Fh::NONE) => self.meet_unopened(ino, 0, false)?,
                Some(_) => {}
            }
            self.truncate(caller, ino, size)?;
        }
        let mut tree = crate::sync::lock(&self.tree);
        let others = SetAttr { size: None, ..*set };
        if others != SetAttr::default() {
            self.set_metadata(&mut tree, caller, ino, &others)?;
        }
        tree.node_mut(ino)?.shown.add(caller.pid);
        tree.attr(&self.base, ino)
    }

    /// A change of no attribute. It is the kernel's way to say that suid, sgid and file capabilities
    /// must go: before native writes, at fallocate(2), copy_file_range(2), and a chown(2) that
    /// changes no owner. Of these the kernel lets everybody do the last, which moves the ctime, too, of
    /// what has nothing to lose.
    fn change_nothing(&self, caller: &Caller, ino: Ino) -> Result<(), FsError> {
        {
            let (record, is_written) = {
                let tree = crate::sync::lock(&self.tree);
                let record = tree.record_of(&self.base, ino)?;
                (record, tree.node(ino)?.writers > 0)
            };
            // The others take a handle that writes. Where none is told of, who may is taken for one
            // who has it open.
            let by_chown = match self.implicit.is_regime() {
                true => !access::may_write(self, caller, ino).unwrap_or(false),
                false => !is_written,
            };
            if by_chown
                && self.loses_privileges(caller, &record)
                && !access::is_owner(caller, record.uid)
            {
                return Err(FsError::NotPermitted(
                    "taking privileges off another's file",
                ));
            }
        }
        if !self.kill_privileges(caller, ino)? {
            let now = self.clock.now();
            let mut tree = crate::sync::lock(&self.tree);
            let mut change = Change::default();
            tree.edit(&self.base, &mut change, ino)?.ctime = now;
            tree.commit(change)?;
        }
        Ok(())
    }

    fn loses_privileges(&self, caller: &Caller, record: &InodeRec) -> bool {
        let mut without = record.clone();
        drop_privileges(&mut without, self.is_member(caller, record));
        without != *record
    }

    fn set_metadata(
        &self,
        tree: &mut Tree,
        caller: &Caller,
        ino: Ino,
        set: &SetAttr,
    ) -> Result<(), FsError> {
        let now = self.clock.now();
        let mut change = Change::default();
        let stamp = {
            let record = tree.edit(&self.base, &mut change, ino)?.clone();
            if record.dirty {
                tree.object_stamp(ino, &record)?
            } else {
                None
            }
        };
        let record = tree.edit(&self.base, &mut change, ino)?;
        if let Some(stamp) = stamp {
            stamp.fold_size(record);
            if record.object_mtime != Some(stamp.mtime) {
                record.mtime = stamp.mtime;
                record.object_mtime = Some(stamp.mtime);
            }
        }
        if set.uid.is_some() || set.gid.is_some() {
            access::log_chown(
                self,
                caller,
                ino,
                (record.uid, record.gid),
                (set.uid, set.gid),
            );
            let is_member = self.is_member(caller, record);
            record.uid = set.uid.unwrap_or(record.uid);
            record.gid = set.gid.unwrap_or(record.gid);
            drop_privileges(record, is_member);
        }
        if let Some(perm) = set.perm {
            record.perm = access::chmod(self, caller, record.gid, perm & 0o7777)?;
            let list = record
                .xattrs
                .get(acl::ACCESS_XATTR)
                .and_then(|v| Acl::parse(v));
            if let Some(mut list) = list {
                list.chmod(record.perm);
                record
                    .xattrs
                    .insert(acl::ACCESS_XATTR.into(), list.to_bytes().into());
            }
        }
        let time = |set: TimeSet| match set {
            TimeSet::At(time) => time,
            TimeSet::Now => now,
        };
        record.atime = set.atime.map_or(record.atime, time);
        if let Some(mtime) = set.mtime {
            record.mtime = time(mtime);
            if record.content == Content::Base {
                // From now on it is the branch's, even if the host's is the same.
                record.object_mtime = record.origin.as_ref().map(|o| o.fingerprint.mtime);
            }
        }
        record.ctime = set.ctime.unwrap_or(now);
        tree.commit(change)
    }

    /// Cuts a file to `size` bytes or extends it with zeros.
    fn truncate(&self, caller: &Caller, ino: Ino, size: u64) -> Result<(), FsError> {
        if i64::try_from(size).is_err() {
            return Err(FsError::TooLarge);
        }
        let stream = {
            let mut tree = crate::sync::lock(&self.tree);
            match tree.node(ino)?.kind {
                Kind::File if size == 0 => copy_up::stream_to_cut(self, &mut tree, ino)?,
                Kind::File => copy_up::stream_of(self, &mut tree, ino)?,
                Kind::Dir => return Err(FsError::IsADirectory(ino)),
                _ => {
                    return Err(FsError::Invalid(
                        "size of something that is no regular file",
                    ));
                }
            }
        };
        let result = (|| {
            let mut bytes = crate::sync::write(&stream.bytes);
            copy_up::make_writable(self, ino, &stream, &mut bytes, size)?;
            if let Some(object) = bytes.object() {
                object.set_len(size)?;
                self.charge(object.as_ref())?;
            }
            self.record_resize(caller, ino, &mut bytes, size)
        })();
        drop(stream);
        self.settle(ino)?;
        result
    }

    /// Records a new size, with what of the extents is left below it.
    fn record_resize(
        &self,
        caller: &Caller,
        ino: Ino,
        bytes: &mut Bytes,
        size: u64,
    ) -> Result<(), FsError> {
        let now = self.clock.now();
        let stamp = bytes.stamp()?;
        let mut tree = crate::sync::lock(&self.tree);
        let mut change = Change::default();
        change.frees_room();
        let record = tree.edit(&self.base, &mut change, ino)?;
        match stamp {
            Some(stamp) => stamp.fold_size(record),
            None => record.set_size(size, full_blocks(size)),
        }
        (record.mtime, record.ctime) = (now, now);
        record.object_mtime = stamp.map(|s| s.mtime);
        if has_privileges(record) && !access::keeps_privileges(caller) {
            let is_member = self.is_member(caller, record);
            drop_privileges(record, is_member);
        }
        if let Bytes::Extents(extents) = bytes {
            // The object is cut already, so this holds whether or not it can be recorded now.
            extents.unrecorded |= extents.cut(size);
            record.content = Content::Extents {
                own: extents.own.0,
                base_bytes: extents.base_bytes,
            };
            change.push(Delta::SetExtents(ino, Arc::new(extents.map.clone())));
        }
        tree.commit(change)?;
        if let Bytes::Extents(extents) = bytes {
            extents.unrecorded = false;
        }
        Ok(())
    }

    /// Folds the object's stamps into the record and closes the stream, if no handle needs it.
    ///
    /// Errors: `Store`. Locks: takes rank 1, then 2.
    pub(in crate::core) fn settle(&self, ino: Ino) -> Result<(), FsError> {
        let mut tree = crate::sync::lock(&self.tree);
        let Ok(node) = tree.node(ino) else {
            return Ok(());
        };
        if node.writers > 0 {
            return Ok(());
        }
        let Some(stream) = node.stream().cloned() else {
            return Ok(());
        };
        let close = node.opens == 0;
        // No handle writes, so nobody holds the bytes for long; a reader may for a moment.
        let dirty = node.record.as_ref().is_some_and(|r| r.dirty);
        if dirty && !node.unlinked {
            let Ok(bytes) = stream.bytes.try_read() else {
                return Ok(());
            };
            let mut change = Change::default();
            change.frees_room();
            let record = tree.edit(&self.base, &mut change, ino)?;
            copy_up::fold_into(self, record, &bytes)?;
            record.dirty = false;
            // A clean record says that its extents end with the file: then a truncation that could
            // not be recorded must be by now, or what it cut shows when the file grows.
            if let Bytes::Extents(extents) = &*bytes
                && extents.unrecorded
            {
                record.content = Content::Extents {
                    own: extents.own.0,
                    base_bytes: extents.base_bytes,
                };
                change.push(Delta::SetExtents(ino, Arc::new(extents.map.clone())));
            }
            if stream.replaces.load(Ordering::Acquire)
                && let Some(object) = bytes.object_id()
            {
                // Before the commit: a sync by somebody else may come right after it.
                tree.branch.sync_before_records(object);
            }
            tree.commit(change)?;
            stream.marked_dirty.store(false, Ordering::Release);
            stream.replaces.store(false, Ordering::Release);
        }
        // Somebody who is about to change the bytes may hold the stream without a handle: detached
        // now, the next open would make a second one beside it. That holder settles in its turn.
        if close && Arc::strong_count(&stream) == 2 {
            tree.let_go(ino);
        }
        Ok(())
    }
}

/// Whether a file carries suid, sgid or file capabilities.
pub(in crate::core) fn has_privileges(record: &InodeRec) -> bool {
    record.perm & 0o6000 != 0 || record.xattrs.contains_key(CAPABILITY_XATTR)
}

impl FsCore {
    /// Whether the caller belongs to the group that the file's sgid bit stands for. Looks no group
    /// up for a file without the bit; nobody who cannot be identified is a member.
    pub(in crate::core) fn is_member(&self, caller: &Caller, record: &InodeRec) -> bool {
        record.perm & 0o2000 == 0 || access::in_group(self, caller, record.gid).unwrap_or(false)
    }
}

/// Takes suid, sgid and file capabilities off a file whose bytes or owner change. Its sgid bit
/// where it means no more than a lock stays for members of its group.
pub(in crate::core) fn drop_privileges(record: &mut InodeRec, is_member: bool) {
    record.perm = access::without_privileges(record.kind, record.perm);
    if !is_member && record.kind != Kind::Dir {
        record.perm &= !0o2000;
    }
    if record.kind == Kind::File {
        record.xattrs.remove(CAPABILITY_XATTR);
    }
}

/// Sets the times of a directory whose entries change.
pub(in crate::core) fn touch(record: &mut InodeRec, now: Time) {
    (record.mtime, record.ctime) = (now, now);
}
