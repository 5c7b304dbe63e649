//! One FUSE request in, one call of the core, one reply out. Decides nothing.
//!
//! Called by fuser's reader threads. What is not here is answered by fuser itself with ENOSYS,
//! which the kernel remembers: O_TMPFILE (programs then see EOPNOTSUPP and use a named file),
//! FUSE_STATX (no birth times inside), INTERRUPT.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BackingId, BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle,
    Filesystem, Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags,
    PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::core::access::keeps_privileges;
use crate::core::error::FsError;
use crate::core::types::{Attr, Entry, Fh, Ino, Kind, Name, SetAttr};
use crate::core::{FsCore, Moved};
use crate::fuse::backing::Backings;
use crate::fuse::convert::{
    FOREVER, bare_attr, caller, file_attr, new_mode, no_file_attributes, rdev_in, rename_mode,
    time_in, time_set,
};
use crate::fuse::mapped::Mapped;
use crate::fuse::request::op;
use crate::fuse::session::{Face, Options};
use crate::fuse::stale::Stale;
use crate::fuse::workers::Workers;
use crate::fuse::xattr::answer_query;
use crate::sync::{Arc, Gate};

thread_local! {
    /// What a read is answered from: one buffer per reader, as large as its largest read.
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Serves one mount from one core.
#[derive(Debug)]
pub(super) struct Adapter {
    pub(super) core: Arc<Gate<FsCore>>,
    pub(super) face: Face,
    pub(super) options: Options,
    pub(super) backings: Backings<BackingId>,
    pub(super) mapped: Mapped,
    pub(super) workers: Workers,
    pub(super) stale: Stale,
    /// The kernel opens directories by itself, and lists what it knows.
    pub(super) opens_no_directories: bool,
}

impl Adapter {
    pub(super) fn new(core: Arc<Gate<FsCore>>, face: Face, options: Options) -> Self {
        Self {
            core,
            face,
            options,
            backings: Backings::default(),
            mapped: Mapped::default(),
            workers: Workers::default(),
            stale: Stale::default(),
            opens_no_directories: false,
        }
    }

    /// For the session to open.
    pub(super) fn stale(&self) -> Stale {
        self.stale.clone()
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
    fn entry(&self, reply: ReplyEntry, result: Result<Entry, Errno>) {
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
fn done(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

pub(super) fn name_of(name: &OsStr) -> Result<Name, FsError> {
    Ok(Name::new(name.as_bytes())?)
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        self.options.negotiate(config)?;
        let feature = InitFlags::FUSE_NO_OPENDIR_SUPPORT;
        self.opens_no_directories =
            self.options.zero_opendir && config.add_capabilities(feature).is_ok();
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
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

    // A batch comes here one by one: fuser hides the type that overriding it would need.
    fn forget(&self, req: &Request, ino: INodeNo, lookups: u64) {
        let _ = self.call_unawaited(op::FORGET, req, ino, |core| {
            core.forget(self.ino(ino), lookups);
            Ok(())
        });
    }

    fn getattr(&self, req: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
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

    // The kernel also says whether a truncation must clear suid and sgid (FATTR_KILL_SUIDGID),
    // but fuser drops that bit, as it drops the one of an open with O_TRUNC. The core clears them
    // on every truncation and chown by a caller that is not root.
    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr {
            perm: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(time_set),
            mtime: mtime.map(time_set),
            ctime: ctime.map(time_in),
        };
        let fh = fh.map(|fh| Fh(fh.0));
        let call = |core: &FsCore| core.setattr(&caller(req), self.ino(ino), fh, &set);
        match self.call_locked(op::SETATTR, req, ino, call) {
            Ok(attr) => reply.attr(&self.ttl(&attr), &self.shown(&attr)),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.call(op::READLINK, req, ino, |core| core.readlink(self.ino(ino))) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
    }

    // With FUSE_DONT_MASK the umask comes along: a default access control list takes its place.
    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
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
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
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
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let target = target.as_os_str().as_bytes();
        let made = self.call_naming(op::SYMLINK, req, parent, |core| {
            core.symlink(&caller(req), self.ino(parent), &name_of(name)?, target)
        });
        self.entry(reply, made);
    }

    fn link(&self, req: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let made = self.call_locked(op::LINK, req, ino, |core| {
            let (file, dir) = (self.ino(ino), self.ino(parent));
            let made = core.link(&caller(req), file, dir, &name_of(name)?)?;
            self.after_change(core, req, parent);
            Ok(made)
        });
        self.entry(reply, made);
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let gone = self.call_naming(op::UNLINK, req, parent, |core| {
            core.unlink(&caller(req), self.ino(parent), &name_of(name)?)
        });
        done(reply, gone);
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let gone = self.call_naming(op::RMDIR, req, parent, |core| {
            core.rmdir(&caller(req), self.ino(parent), &name_of(name)?)
        });
        done(reply, gone);
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
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

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.open_file(req, ino, flags, reply);
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        self.create_file(req, parent, name, new_mode(mode, umask), flags, reply);
    }

    fn read(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        READ_BUFFER.with_borrow_mut(|buffer| {
            let size = size as usize;
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            let room = &mut buffer[..size];
            match self.call_unawaited(op::READ, req, ino, |core| {
                let bytes = core.read(self.ino(ino), Fh(fh.0), offset, room);
                self.take_back_outdated(core);
                bytes
            }) {
                Ok(bytes) => reply.data(&buffer[..bytes]),
                Err(errno) => reply.error(errno),
            }
        });
        self.close_surplus();
    }

    fn write(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
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

    fn release(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        // The backing first: the core may delete or reuse the file when its last handle closes.
        self.backings.release(Fh(fh.0));
        self.mapped.released(Fh(fh.0));
        let released = self.call_unawaited(op::RELEASE, req, ino, |core| {
            core.release(Fh(fh.0));
            Ok(())
        });
        done(reply, released);
    }

    fn fsync(&self, req: &Request, ino: INodeNo, _: FileHandle, datasync: bool, reply: ReplyEmpty) {
        let file = self.ino(ino);
        let call = move |core: &FsCore| core.fsync(file, datasync);
        self.call_aside(op::FSYNC, req, ino, call, |result| done(reply, result));
    }

    fn fsyncdir(
        &self,
        req: &Request,
        ino: INodeNo,
        _: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        let file = self.ino(ino);
        let call = move |core: &FsCore| core.fsync(file, datasync);
        self.call_aside(op::FSYNCDIR, req, ino, call, |result| done(reply, result));
    }

    fn fallocate(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
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
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let call = |core: &FsCore| core.lseek(self.ino(ino), Fh(fh.0), offset, whence);
        match self.call(op::LSEEK, req, ino, call) {
            Ok(offset) => reply.offset(offset),
            Err(errno) => reply.error(errno),
        }
    }

    fn opendir(&self, req: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.open_listing(req, ino, reply);
    }

    fn readdir(
        &self,
        req: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        self.list(req, ino, offset, reply);
    }

    fn readdirplus(
        &self,
        req: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.list_with_attributes(req, ino, offset, reply);
    }

    fn statfs(&self, req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        match self.call(op::STATFS, req, ino, |core| core.statfs()) {
            Ok(s) => reply.statfs(
                s.blocks,
                s.blocks_free,
                s.blocks_available,
                s.files,
                s.files_free,
                s.block_bytes,
                s.name_max,
                s.block_bytes,
            ),
            Err(errno) => reply.error(errno),
        }
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        done(reply, self.set_attribute(req, ino, name, value, flags));
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        answer_query(reply, size, self.attribute(req, ino, name));
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        answer_query(reply, size, self.attribute_names(req, ino));
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        done(reply, self.remove_attribute(req, ino, name));
    }

    // From here on: what the kernel is told once (or each time, where it does not remember) that
    // nobody is home, so that it does without us.

    /// `default_permissions` makes the kernel decide.
    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    /// Nothing waits for a close; handles say NOFLUSH besides.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    /// There is no block device below.
    fn bmap(&self, _: &Request, _: INodeNo, _: u32, _: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOSYS);
    }

    /// The kernel asks every time. There are no attributes of chattr(1) here: none is told of, and
    /// none can be set. ENOTTY is what an ordinary file answers to all other requests.
    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        cmd: u32,
        in_data: &[u8],
        out_size: u32,
        reply: ReplyIoctl,
    ) {
        match no_file_attributes(cmd, in_data) {
            Ok(zeros) => reply.ioctl(0, &zeros[..zeros.len().min(out_size as usize)]),
            Err(errno) => reply.error(errno),
        }
    }

    /// Files are always ready, which is what the kernel answers without us.
    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn copy_file_range(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        out: INodeNo,
        out_fh: FileHandle,
        out_offset: u64,
        len: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let from = (self.ino(ino), Fh(fh.0), offset);
        let to = (self.ino(out), Fh(out_fh.0), out_offset);
        let caller = caller(req);
        let call = move |core: &FsCore| core.copy_range(&caller, from, to, len);
        let stale = (!keeps_privileges(&caller)).then(|| self.stale());
        self.call_aside(op::COPY_FILE_RANGE, req, ino, call, move |copied| {
            if let Some(stale) = stale {
                stale.attributes(out);
            }
            match copied {
                // The core copies less than 4 GiB at a time; a program that wants more asks again.
                Ok(bytes) => reply.written(bytes as u32),
                Err(errno) => reply.error(errno),
            }
        });
    }
}
