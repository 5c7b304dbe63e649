//! The classic transport: requests read from `/dev/fuse` by fuser's threads. Passes them on to
//! [`Operations`], and the answers back.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType,
    Filesystem, FopenFlags, Generation, INodeNo, IoctlFlags, KernelConfig, LockOwner, OpenFlags,
    PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen,
    ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::core::types::{FsStat, SetAttr};
use crate::fuse::backing::Backing;
use crate::fuse::convert::{time_in, time_set};
use crate::fuse::ring::Terms;
use crate::fuse::sys;
use crate::fuse::transport::{
    Asker, AttrReply, CreateReply, DataReply, EmptyReply, End, EntryReply, IoctlReply,
    ListingPlusReply, ListingReply, LseekReply, OpenReply, Operations, Reply, StatfsReply,
    WriteReply, XattrReply,
};
use crate::sync::Arc;

thread_local! {
    /// What a read is answered from: one buffer per reader, as large as its largest read.
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Operations as fuser wants them.
#[derive(Debug)]
pub(super) struct Classic<O> {
    pub(super) operations: Arc<O>,
    pub(super) terms: Terms,
}

fn asker(request: &Request) -> Asker {
    Asker {
        unique: request.unique().0,
        uid: request.uid(),
        gid: request.gid(),
        pid: request.pid(),
    }
}

macro_rules! refuse {
    ($($reply:ty),*) => {
        $(impl Reply for $reply {
            fn error(self, errno: Errno) {
                <$reply>::error(self, errno);
            }
        })*
    };
}

refuse!(
    ReplyAttr,
    ReplyCreate,
    ReplyData,
    ReplyDirectory,
    ReplyDirectoryPlus,
    ReplyEmpty,
    ReplyEntry,
    ReplyIoctl,
    ReplyLseek,
    ReplyOpen,
    ReplyStatfs,
    ReplyWrite,
    ReplyXattr
);

impl EmptyReply for ReplyEmpty {
    fn ok(self) {
        ReplyEmpty::ok(self);
    }
}

impl WriteReply for ReplyWrite {
    fn written(self, bytes: u32) {
        ReplyWrite::written(self, bytes);
    }
}

impl EntryReply for ReplyEntry {
    fn entry(self, ttl: &Duration, attr: &FileAttr, generation: Generation) {
        ReplyEntry::entry(self, ttl, attr, generation);
    }
}

impl AttrReply for ReplyAttr {
    fn attr(self, ttl: &Duration, attr: &FileAttr) {
        ReplyAttr::attr(self, ttl, attr);
    }
}

impl OpenReply for ReplyOpen {
    fn opened(self, fh: FileHandle, flags: FopenFlags) {
        ReplyOpen::opened(self, fh, flags);
    }

    fn opened_passthrough(self, fh: FileHandle, flags: FopenFlags, backing: &Backing) {
        let id = sys::shown_to_open(&self, backing);
        ReplyOpen::opened_passthrough(self, fh, flags, &id);
        // Still the other's to give back.
        id.into_raw();
    }
}

impl CreateReply for ReplyCreate {
    fn created(
        self,
        ttl: &Duration,
        attr: &FileAttr,
        generation: Generation,
        fh: FileHandle,
        flags: FopenFlags,
    ) {
        ReplyCreate::created(self, ttl, attr, generation, fh, flags);
    }

    fn created_passthrough(
        self,
        ttl: &Duration,
        attr: &FileAttr,
        generation: Generation,
        fh: FileHandle,
        flags: FopenFlags,
        backing: &Backing,
    ) {
        let id = sys::shown_to_create(&self, backing);
        ReplyCreate::created_passthrough(self, ttl, attr, generation, fh, flags, &id);
        id.into_raw();
    }
}

impl DataReply for ReplyData {
    fn data(self, data: &[u8]) {
        ReplyData::data(self, data);
    }

    fn fill(self, size: usize, fill: impl FnOnce(&mut [u8]) -> Result<usize, Errno>) {
        READ_BUFFER.with_borrow_mut(|buffer| {
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            match fill(&mut buffer[..size]) {
                Ok(bytes) => ReplyData::data(self, &buffer[..bytes]),
                Err(errno) => ReplyData::error(self, errno),
            }
        });
    }
}

impl XattrReply for ReplyXattr {
    fn size(self, size: u32) {
        ReplyXattr::size(self, size);
    }

    fn data(self, data: &[u8]) {
        ReplyXattr::data(self, data);
    }
}

impl ListingReply for ReplyDirectory {
    fn add(&mut self, ino: INodeNo, cookie: u64, kind: FileType, name: &OsStr) -> bool {
        ReplyDirectory::add(self, ino, cookie, kind, name)
    }

    fn ok(self) {
        ReplyDirectory::ok(self);
    }

    fn end(self) -> End {
        Box::new(move || ReplyDirectory::ok(self))
    }
}

impl ListingPlusReply for ReplyDirectoryPlus {
    fn add(
        &mut self,
        ino: INodeNo,
        cookie: u64,
        name: &OsStr,
        ttl: &Duration,
        attr: &FileAttr,
        generation: Generation,
    ) -> bool {
        ReplyDirectoryPlus::add(self, ino, cookie, name, ttl, attr, generation)
    }

    fn ok(self) {
        ReplyDirectoryPlus::ok(self);
    }

    fn end(self) -> End {
        Box::new(move || ReplyDirectoryPlus::ok(self))
    }
}

impl StatfsReply for ReplyStatfs {
    fn statfs(self, s: &FsStat) {
        ReplyStatfs::statfs(
            self,
            s.blocks,
            s.blocks_free,
            s.blocks_available,
            s.files,
            s.files_free,
            s.block_bytes,
            s.name_max,
            s.block_bytes,
        );
    }
}

impl LseekReply for ReplyLseek {
    fn offset(self, offset: i64) {
        ReplyLseek::offset(self, offset);
    }
}

impl IoctlReply for ReplyIoctl {
    fn ioctl(self, result: i32, data: &[u8]) {
        ReplyIoctl::ioctl(self, result, data);
    }
}

impl<O: Operations> Filesystem for Classic<O> {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        self.operations.negotiate(config)?;
        self.terms.negotiate(config);
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.operations.lookup(&asker(req), parent, name, reply);
    }

    // A batch comes here one by one: fuser hides the type that overriding it would need.
    fn forget(&self, req: &Request, ino: INodeNo, lookups: u64) {
        self.operations.forget(&asker(req), ino, lookups);
    }

    fn getattr(&self, req: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.operations.getattr(&asker(req), ino, reply);
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
        self.operations.setattr(&asker(req), ino, fh, &set, reply);
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        self.operations.readlink(&asker(req), ino, reply);
    }

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
        self.operations
            .mknod(&asker(req), parent, name, mode, umask, rdev, reply);
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
        self.operations
            .mkdir(&asker(req), parent, name, mode, umask, reply);
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        self.operations
            .symlink(&asker(req), parent, name, target.as_os_str(), reply);
    }

    fn link(&self, req: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.operations.link(&asker(req), ino, parent, name, reply);
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.operations.unlink(&asker(req), parent, name, reply);
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.operations.rmdir(&asker(req), parent, name, reply);
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
        self.operations
            .rename(&asker(req), parent, name, to, to_name, flags, reply);
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.operations.open(&asker(req), ino, flags, reply);
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
        self.operations
            .create(&asker(req), parent, name, mode, umask, flags, reply);
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
        self.operations
            .read(&asker(req), ino, fh, offset, size, reply);
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
        self.operations.write(
            &asker(req),
            ino,
            fh,
            offset,
            data,
            write_flags,
            flags,
            reply,
        );
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
        self.operations.release(&asker(req), ino, fh, reply);
    }

    fn fsync(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.operations.fsync(&asker(req), ino, fh, datasync, reply);
    }

    fn fsyncdir(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.operations
            .fsyncdir(&asker(req), ino, fh, datasync, reply);
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
        self.operations
            .fallocate(&asker(req), ino, fh, offset, length, mode, reply);
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
        self.operations
            .lseek(&asker(req), ino, fh, offset, whence, reply);
    }

    fn opendir(&self, req: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.operations.opendir(&asker(req), ino, reply);
    }

    fn readdir(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        self.operations.readdir(&asker(req), ino, fh, offset, reply);
    }

    fn readdirplus(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.operations
            .readdirplus(&asker(req), ino, fh, offset, reply);
    }

    fn releasedir(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.operations.releasedir(&asker(req), ino, fh, reply);
    }

    fn statfs(&self, req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        self.operations.statfs(&asker(req), ino, reply);
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
        self.operations
            .setxattr(&asker(req), ino, name, value, flags, reply);
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.operations
            .getxattr(&asker(req), ino, name, size, reply);
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.operations.listxattr(&asker(req), ino, size, reply);
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.operations.removexattr(&asker(req), ino, name, reply);
    }

    fn access(&self, req: &Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let mask = mask.bits().cast_unsigned();
        self.operations.access(&asker(req), ino, mask, reply);
    }

    fn ioctl(
        &self,
        req: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        cmd: u32,
        in_data: &[u8],
        out_size: u32,
        reply: ReplyIoctl,
    ) {
        self.operations
            .ioctl(&asker(req), ino, cmd, in_data, out_size, reply);
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
        let (from, to) = ((ino, fh, offset), (out, out_fh, out_offset));
        self.operations
            .copy_file_range(&asker(req), from, to, len, reply);
    }

    // What fuser would log as missing, and the kernel is to do without us: see `Operations`.

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn bmap(&self, _: &Request, _: INodeNo, _: u32, _: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOSYS);
    }

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
}
