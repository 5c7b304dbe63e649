//! One FUSE request in, one call of the core, one reply out. Decides nothing.
//!
//! Called by the threads of a transport; `transport` says what is left out.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fuser::{
    Errno, FileAttr, FileHandle, Generation, INodeNo, InitFlags, KernelConfig, OpenFlags,
    RenameFlags, WriteFlags,
};

use crate::core::error::FsError;
use crate::core::types::{Attr, Entry, Fh, Ino, Kind, Name, SetAttr};
use crate::core::{FsCore, Moved};
use crate::fuse::backing::{Backing, Backings, Device};
use crate::fuse::convert::{
    FOREVER, bare_attr, caller, file_attr, new_mode, no_file_attributes, rdev_in, rename_mode,
};
use crate::fuse::keepers::Keepers;
use crate::fuse::mapped::Mapped;
use crate::fuse::request::op;
use crate::fuse::session::{Face, Options};
use crate::fuse::stale::Stale;
use crate::fuse::transport::{
    Asker, AttrReply, CreateReply, DataReply, EmptyReply, EntryReply, IoctlReply, ListingPlusReply,
    ListingReply, LseekReply, OpenReply, Operations, StatfsReply, WriteReply, XattrReply,
};
use crate::fuse::workers::Workers;
use crate::fuse::xattr::answer_query;
use crate::sync::{Arc, Gate};

/// A copy of no more than this takes less time than to wake who else would make it.
const COPIED_HERE_BYTES: u64 = 256 << 10;

/// Serves one mount from one core.
#[derive(Debug)]
pub(super) struct Adapter {
    pub(super) core: Arc<Gate<FsCore>>,
    pub(super) face: Face,
    pub(super) options: Options,
    pub(super) device: Device,
    pub(super) backings: Backings<Backing>,
    pub(super) mapped: Mapped,
    pub(super) workers: Workers,
    pub(super) stale: Stale,
    pub(super) keepers: Keepers,
    /// The kernel opens directories by itself, and lists what it knows.
    pub(super) opens_no_directories: AtomicBool,
}

impl Adapter {
    pub(super) fn new(core: Arc<Gate<FsCore>>, face: Face, options: Options) -> Self {
        Self {
            core,
            face,
            options,
            device: Device::default(),
            backings: Backings::default(),
            mapped: Mapped::default(),
            workers: Workers::default(),
            stale: Stale::default(),
            keepers: Keepers::default(),
            opens_no_directories: AtomicBool::new(false),
        }
    }

    /// For the session to open.
    pub(super) fn stale(&self) -> Stale {
        self.stale.clone()
    }

    /// For the session to open.
    pub(super) fn device(&self) -> Device {
        self.device.clone()
    }

    /// The attributes as the mount can show them.
    pub(super) fn shown(&self, attr: &Attr) -> FileAttr {
        let attr = file_attr(attr);
        match &self.face.one_user {
            Some(user) => user.show(attr),
            None => attr,
        }
    }

    /// Answers with an entry, or the errno.
    fn entry(&self, reply: impl EntryReply, result: Result<Entry, Errno>) {
        match result {
            Ok(e) => {
                let ttl = self.ttl(&e.attr);
                reply.entry(&ttl, &self.shown(&e.attr), Generation(e.generation));
            }
            Err(errno) => reply.error(errno),
        }
    }

    /// How long the kernel may keep the answer to its own change, which it takes in whatever it
    /// was told meanwhile.
    fn ttl(&self, attr: &Attr) -> Duration {
        if attr.may_fill || self.mapped.may_be(attr.ino) {
            Duration::ZERO
        } else {
            FOREVER
        }
    }

    /// The inode a request is about: the kernel calls the mount's root 1, whatever it is.
    pub(super) fn ino(&self, ino: INodeNo) -> Ino {
        if ino == INodeNo::ROOT {
            self.face.root
        } else {
            Ino(ino.0)
        }
    }
}

/// Answers with nothing, or the errno.
fn done(reply: impl EmptyReply, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn name_of(name: &OsStr) -> Result<Name, FsError> {
    Ok(Name::new(name.as_bytes())?)
}

impl Operations for Adapter {
    fn negotiate(&self, config: &mut KernelConfig) -> std::io::Result<()> {
        self.options.negotiate(config)?;
        let feature = InitFlags::FUSE_NO_OPENDIR_SUPPORT;
        if self.options.zero_opendir && config.add_capabilities(feature).is_ok() {
            self.opens_no_directories.store(true, Ordering::Relaxed);
        }
        let feature = InitFlags::FUSE_HAS_EXPIRE_ONLY;
        if config.capabilities().contains(feature) {
            self.stale.can_expire();
        }
        Ok(())
    }

    fn lookup(&self, req: &Asker, parent: INodeNo, name: &OsStr, reply: impl EntryReply) {
        let found = self.call(op::LOOKUP, req, parent, |core| {
            match core.lookup(self.ino(parent), &name_of(name)?) {
                Ok(found) => {
                    self.before_attributes(core, &found.attr);
                    Ok(Some(found))
                }
                Err(FsError::NoEntry { .. }) => Ok(None),
                Err(e) => Err(e),
            }
        });
        match found {
            // Inode 0 with a time to live: the kernel caches that there is no such entry.
            Ok(None) => reply.entry(&FOREVER, &bare_attr(0, Kind::File), Generation(0)),
            Ok(Some(found)) => {
                reply.entry(
                    &FOREVER,
                    &self.shown(&found.attr),
                    Generation(found.generation),
                );
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn forget(&self, req: &Asker, ino: INodeNo, lookups: u64) {
        let _ = self.call_unawaited(op::FORGET, req, ino, |core| {
            core.forget(self.ino(ino), lookups);
            Ok(())
        });
    }

    fn getattr(&self, req: &Asker, ino: INodeNo, reply: impl AttrReply) {
        let call = |core: &FsCore| {
            let attr = core.getattr_for(req.pid(), self.ino(ino))?;
            self.before_attributes(core, &attr);
            Ok(attr)
        };
        match self.call(op::GETATTR, req, ino, call) {
            Ok(attr) => reply.attr(&FOREVER, &self.shown(&attr)),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        req: &Asker,
        ino: INodeNo,
        fh: Option<FileHandle>,
        set: &SetAttr,
        reply: impl AttrReply,
    ) {
        let fh = fh.map(|fh| Fh(fh.0));
        let call = |core: &FsCore| core.setattr(&caller(req), self.ino(ino), fh, set);
        match self.call_locked(op::SETATTR, req, ino, call) {
            Ok(attr) => reply.attr(&self.ttl(&attr), &self.shown(&attr)),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, req: &Asker, ino: INodeNo, reply: impl DataReply) {
        match self.call(op::READLINK, req, ino, |core| core.readlink(self.ino(ino))) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
    }

    // With FUSE_DONT_MASK the umask comes along: a default access control list takes its place.
    fn mknod(
        &self,
        req: &Asker,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: impl EntryReply,
    ) {
        let made = self.call_naming(op::MKNOD, req, parent, |core| {
            let kind = Kind::from_mode(mode).ok_or(FsError::Invalid("file type"))?;
            let (c, name) = (caller(req), name_of(name)?);
            core.mknod(
                &c,
                self.ino(parent),
                &name,
                kind,
                new_mode(mode, umask),
                rdev_in(rdev),
            )
        });
        self.entry(reply, made);
    }

    fn mkdir(
        &self,
        req: &Asker,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: impl EntryReply,
    ) {
        let made = self.call_naming(op::MKDIR, req, parent, |core| {
            core.mkdir(
                &caller(req),
                self.ino(parent),
                &name_of(name)?,
                new_mode(mode, umask),
            )
        });
        self.entry(reply, made);
    }

    fn symlink(
        &self,
        req: &Asker,
        parent: INodeNo,
        name: &OsStr,
        target: &OsStr,
        reply: impl EntryReply,
    ) {
        let target = target.as_bytes();
        let made = self.call_naming(op::SYMLINK, req, parent, |core| {
            core.symlink(&caller(req), self.ino(parent), &name_of(name)?, target)
        });
        self.entry(reply, made);
    }

    fn link(
        &self,
        req: &Asker,
        ino: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: impl EntryReply,
    ) {
        let made = self.call_locked(op::LINK, req, ino, |core| {
            let (file, dir) = (self.ino(ino), self.ino(parent));
            let made = core.link(&caller(req), file, dir, &name_of(name)?)?;
            self.after_change(core, req, parent);
            Ok(made)
        });
        self.entry(reply, made);
    }

    fn unlink(&self, req: &Asker, parent: INodeNo, name: &OsStr, reply: impl EmptyReply) {
        let gone = self.call_naming(op::UNLINK, req, parent, |core| {
            core.unlink(&caller(req), self.ino(parent), &name_of(name)?)
        });
        done(reply, gone);
    }

    fn rmdir(&self, req: &Asker, parent: INodeNo, name: &OsStr, reply: impl EmptyReply) {
        let gone = self.call_naming(op::RMDIR, req, parent, |core| {
            core.rmdir(&caller(req), self.ino(parent), &name_of(name)?)
        });
        done(reply, gone);
    }

    fn rename(
        &self,
        req: &Asker,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: impl EmptyReply,
    ) {
        let moved = self.call_naming(op::RENAME, req, parent, |core| {
            let mode = rename_mode(flags)?;
            let (from_name, to_name) = (name_of(name)?, name_of(to_name)?);
            let (dir, new_dir) = (self.ino(parent), self.ino(to));
            let caller = caller(req);
            let Moved(moved) = core.rename(&caller, dir, &from_name, new_dir, &to_name, mode)?;
            self.after_change(core, req, to);
            for ino in moved.into_iter().flatten() {
                self.after_change(core, req, INodeNo(ino.0));
            }
            Ok(())
        });
        done(reply, moved);
    }

    fn open(&self, req: &Asker, ino: INodeNo, flags: OpenFlags, reply: impl OpenReply) {
        self.open_file(req, ino, flags, reply);
    }

    fn create(
        &self,
        req: &Asker,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: impl CreateReply,
    ) {
        self.create_file(req, parent, name, new_mode(mode, umask), flags, reply);
    }

    fn read(
        &self,
        req: &Asker,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        reply: impl DataReply,
    ) {
        reply.fill(size as usize, |room| {
            self.call_unawaited(op::READ, req, ino, |core| {
                let bytes = core.read(self.ino(ino), Fh(fh.0), offset, room);
                self.take_back_outdated(core);
                bytes
            })
        });
        self.close_surplus();
    }

    fn write(
        &self,
        req: &Asker,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        reply: impl WriteReply,
    ) {
        let kill = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        tracing::trace!(target: "agentfs::write", ino = ino.0, offset, bytes = data.len());
        let written = self.call_unawaited(op::WRITE, req, ino, |core| {
            let killed = kill && core.kill_privileges(&caller(req), self.ino(ino))?;
            let bytes = match write_flags.contains(WriteFlags::FUSE_WRITE_CACHE) {
                true => core.write_back(self.ino(ino), Fh(fh.0), offset, data)?,
                false => {
                    self.before_write(core, self.ino(ino), fh, offset, flags)?;
                    core.write(self.ino(ino), Fh(fh.0), offset, data, false)?
                }
            };
            Ok((bytes, killed))
        });
        match written {
            Ok((bytes, killed)) => {
                if killed {
                    self.stale.attributes(ino);
                }
                reply.written(bytes as u32);
            }
            Err(errno) => reply.error(errno),
        }
        self.close_surplus();
    }

    fn release(&self, req: &Asker, ino: INodeNo, fh: FileHandle, reply: impl EmptyReply) {
        // The backing first: the core may delete or reuse the file when its last handle closes.
        self.backings.release(Fh(fh.0));
        self.mapped.released(Fh(fh.0));
        let released = self.call_unawaited(op::RELEASE, req, ino, |core| {
            core.release(Fh(fh.0));
            Ok(())
        });
        done(reply, released);
    }

    fn fsync(
        &self,
        req: &Asker,
        ino: INodeNo,
        _: FileHandle,
        datasync: bool,
        reply: impl EmptyReply,
    ) {
        let file = self.ino(ino);
        let call = move |core: &FsCore| core.fsync(file, datasync);
        self.call_aside(op::FSYNC, req, ino, call, |result| done(reply, result));
    }

    fn fsyncdir(
        &self,
        req: &Asker,
        ino: INodeNo,
        _: FileHandle,
        datasync: bool,
        reply: impl EmptyReply,
    ) {
        let file = self.ino(ino);
        let call = move |core: &FsCore| core.fsync(file, datasync);
        self.call_aside(op::FSYNCDIR, req, ino, call, |result| done(reply, result));
    }

    fn fallocate(
        &self,
        req: &Asker,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: impl EmptyReply,
    ) {
        let (file, caller) = (self.ino(ino), caller(req));
        let stale = self.stale();
        let call =
            move |core: &FsCore| core.fallocate(&caller, file, Fh(fh.0), mode, offset, length);
        self.call_aside(op::FALLOCATE, req, ino, call, move |result| {
            // Seldom enough to be told of whoever was sent some, and of lost privileges.
            stale.attributes(ino);
            done(reply, result);
        });
    }

    fn lseek(
        &self,
        req: &Asker,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: impl LseekReply,
    ) {
        let call = |core: &FsCore| core.lseek(self.ino(ino), Fh(fh.0), offset, whence);
        match self.call(op::LSEEK, req, ino, call) {
            Ok(offset) => reply.offset(offset),
            Err(errno) => reply.error(errno),
        }
    }

    fn opendir(&self, req: &Asker, ino: INodeNo, reply: impl OpenReply) {
        self.open_listing(req, ino, reply);
    }

    fn readdir(
        &self,
        req: &Asker,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        reply: impl ListingReply,
    ) {
        self.list(req, ino, offset, reply);
    }

    fn readdirplus(
        &self,
        req: &Asker,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        reply: impl ListingPlusReply,
    ) {
        self.list_with_attributes(req, ino, offset, reply);
    }

    fn releasedir(&self, _: &Asker, ino: INodeNo, fh: FileHandle, reply: impl EmptyReply) {
        self.close_listing(ino, fh);
        reply.ok();
    }

    fn statfs(&self, req: &Asker, ino: INodeNo, reply: impl StatfsReply) {
        match self.call(op::STATFS, req, ino, |core| core.statfs()) {
            Ok(stat) => reply.statfs(&stat),
            Err(errno) => reply.error(errno),
        }
    }

    fn setxattr(
        &self,
        req: &Asker,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        reply: impl EmptyReply,
    ) {
        done(reply, self.set_attribute(req, ino, name, value, flags));
    }

    fn getxattr(&self, req: &Asker, ino: INodeNo, name: &OsStr, size: u32, reply: impl XattrReply) {
        answer_query(reply, size, self.attribute(req, ino, name));
    }

    fn listxattr(&self, req: &Asker, ino: INodeNo, size: u32, reply: impl XattrReply) {
        answer_query(reply, size, self.attribute_names(req, ino));
    }

    fn removexattr(&self, req: &Asker, ino: INodeNo, name: &OsStr, reply: impl EmptyReply) {
        done(reply, self.remove_attribute(req, ino, name));
    }

    /// The kernel asks every time. There are no attributes of chattr(1) here: none is told of, and
    /// none can be set. ENOTTY is what an ordinary file answers to all other requests.
    fn ioctl(
        &self,
        _: &Asker,
        _: INodeNo,
        cmd: u32,
        in_data: &[u8],
        out_size: u32,
        reply: impl IoctlReply,
    ) {
        match no_file_attributes(cmd, in_data) {
            Ok(zeros) => reply.ioctl(0, &zeros[..zeros.len().min(out_size as usize)]),
            Err(errno) => reply.error(errno),
        }
    }

    fn copy_file_range(
        &self,
        req: &Asker,
        (ino, fh, offset): (INodeNo, FileHandle, u64),
        (out, out_fh, out_offset): (INodeNo, FileHandle, u64),
        len: u64,
        reply: impl WriteReply,
    ) {
        let from = (self.ino(ino), Fh(fh.0), offset);
        let to = (self.ino(out), Fh(out_fh.0), out_offset);
        let caller = caller(req);
        let stale = self.stale();
        let call = move |core: &FsCore| {
            let kills = core.takes_privileges(&caller, to.0)?;
            let copied = core.copy_range(from, to, len, kills);
            if kills {
                stale.attributes(out);
            }
            copied
        };
        let answer = move |copied: Result<u64, Errno>| match copied {
            // The core copies less than 4 GiB at a time; a program that wants more asks again.
            Ok(bytes) => reply.written(bytes as u32),
            Err(errno) => reply.error(errno),
        };
        // The kernel asks for no more than the file has.
        if len <= COPIED_HERE_BYTES {
            return answer(self.call(op::COPY_FILE_RANGE, req, ino, call));
        }
        self.call_aside(op::COPY_FILE_RANGE, req, ino, call, answer);
    }
}
