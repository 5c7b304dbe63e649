//! What the two adapters know of a request and of its answer, whatever brings the one and takes the
//! other: [`Operations`] is served by `device` (/dev/fuse) and by `ring` (io_uring).
//!
//! Plain data types of fuser are used as they are.

use std::ffi::OsStr;
use std::io;
use std::time::Duration;

use fuser::{
    Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, KernelConfig,
    OpenFlags, RenameFlags, WriteFlags,
};

use crate::core::types::{FsStat, SetAttr};
use crate::fuse::backing::Backing;

/// Who asks, and by which request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asker {
    pub(super) unique: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) pid: u32,
}

impl Asker {
    pub(super) fn unique(&self) -> u64 {
        self.unique
    }

    pub(super) fn uid(&self) -> u32 {
        self.uid
    }

    pub(super) fn gid(&self) -> u32 {
        self.gid
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }
}

/// The way back to the kernel for one request. Dropped unused it answers EIO.
pub(super) trait Reply: Sized {
    fn error(self, errno: Errno);
}

/// May be sent from another thread.
pub(super) trait EmptyReply: Reply + Send + 'static {
    fn ok(self);
}

/// May be sent from another thread.
pub(super) trait WriteReply: Reply + Send + 'static {
    fn written(self, bytes: u32);
}

pub(super) trait EntryReply: Reply {
    fn entry(self, ttl: &Duration, attr: &FileAttr, generation: Generation);
}

pub(super) trait AttrReply: Reply {
    fn attr(self, ttl: &Duration, attr: &FileAttr);
}

pub(super) trait OpenReply: Reply {
    fn opened(self, fh: FileHandle, flags: FopenFlags);
    fn opened_passthrough(self, fh: FileHandle, flags: FopenFlags, backing: &Backing);
}

pub(super) trait CreateReply: Reply {
    fn created(
        self,
        ttl: &Duration,
        attr: &FileAttr,
        generation: Generation,
        fh: FileHandle,
        flags: FopenFlags,
    );
    fn created_passthrough(
        self,
        ttl: &Duration,
        attr: &FileAttr,
        generation: Generation,
        fh: FileHandle,
        flags: FopenFlags,
        backing: &Backing,
    );
}

pub(super) trait DataReply: Reply {
    fn data(self, data: &[u8]);
    /// Has `fill` write up to `size` bytes to where the kernel, or the transport, takes them from.
    fn fill(self, size: usize, fill: impl FnOnce(&mut [u8]) -> Result<usize, Errno>);
}

pub(super) trait XattrReply: Reply {
    fn size(self, size: u32);
    fn data(self, data: &[u8]);
}

pub(super) trait ListingReply: Reply {
    /// `true`: there was no room for it.
    fn add(&mut self, ino: INodeNo, cookie: u64, kind: FileType, name: &OsStr) -> bool;
    fn ok(self);
    /// Of one without entries: sends it when called, from any thread.
    fn end(self) -> End;
}

pub(super) trait ListingPlusReply: Reply {
    /// `true`: there was no room for it.
    fn add(
        &mut self,
        ino: INodeNo,
        cookie: u64,
        name: &OsStr,
        ttl: &Duration,
        attr: &FileAttr,
        generation: Generation,
    ) -> bool;
    fn ok(self);
    /// As [`ListingReply::end`].
    fn end(self) -> End;
}

/// The answer that a listing has no further entries, to be sent.
pub(super) type End = Box<dyn FnOnce() + Send>;

pub(super) trait StatfsReply: Reply {
    fn statfs(self, stat: &FsStat);
}

pub(super) trait LseekReply: Reply {
    fn offset(self, offset: i64);
}

pub(super) trait IoctlReply: Reply {
    fn ioctl(self, result: i32, data: &[u8]);
}

/// What a mount answers. What is not here is answered with ENOSYS, which the kernel remembers (or
/// asks again, where it does not): O_TMPFILE (programs then see EOPNOTSUPP and use a named file),
/// FUSE_STATX (no birth times inside), FLUSH (nothing waits for a close), BMAP (there is no block
/// device below), POLL (files are always ready), INTERRUPT.
#[allow(clippy::too_many_arguments)] // As many as the kernel's messages have.
pub(super) trait Operations: Send + Sync + 'static {
    /// Fills in the reply to INIT.
    fn negotiate(&self, config: &mut KernelConfig) -> io::Result<()>;

    fn lookup(&self, req: &Asker, parent: INodeNo, name: &OsStr, reply: impl EntryReply);

    fn forget(&self, req: &Asker, ino: INodeNo, lookups: u64);

    fn getattr(&self, req: &Asker, ino: INodeNo, reply: impl AttrReply);

    fn setattr(
        &self,
        req: &Asker,
        ino: INodeNo,
        fh: Option<FileHandle>,
        set: &SetAttr,
        reply: impl AttrReply,
    );

    fn readlink(&self, req: &Asker, ino: INodeNo, reply: impl DataReply);

    fn mknod(
        &self,
        req: &Asker,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: impl EntryReply,
    );

    fn mkdir(
        &self,
        req: &Asker,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: impl EntryReply,
    );

    fn symlink(
        &self,
        req: &Asker,
        parent: INodeNo,
        name: &OsStr,
        target: &OsStr,
        reply: impl EntryReply,
    );

    fn link(
        &self,
        req: &Asker,
        ino: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: impl EntryReply,
    );

    fn unlink(&self, req: &Asker, parent: INodeNo, name: &OsStr, reply: impl EmptyReply);

    fn rmdir(&self, req: &Asker, parent: INodeNo, name: &OsStr, reply: impl EmptyReply);

    fn rename(
        &self,
        req: &Asker,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        to_name: &OsStr,
        flags: RenameFlags,
        reply: impl EmptyReply,
    );

    fn open(&self, req: &Asker, ino: INodeNo, flags: OpenFlags, reply: impl OpenReply);

    fn create(
        &self,
        req: &Asker,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: impl CreateReply,
    );

    fn read(
        &self,
        req: &Asker,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        reply: impl DataReply,
    );

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
    );

    fn release(&self, req: &Asker, ino: INodeNo, fh: FileHandle, reply: impl EmptyReply);

    fn fsync(
        &self,
        req: &Asker,
        ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: impl EmptyReply,
    );

    fn fsyncdir(
        &self,
        req: &Asker,
        ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: impl EmptyReply,
    );

    fn fallocate(
        &self,
        req: &Asker,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: impl EmptyReply,
    );

    fn lseek(
        &self,
        req: &Asker,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: impl LseekReply,
    );

    fn opendir(&self, req: &Asker, ino: INodeNo, reply: impl OpenReply);

    fn readdir(
        &self,
        req: &Asker,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: impl ListingReply,
    );

    fn readdirplus(
        &self,
        _: &Asker,
        _: INodeNo,
        _: FileHandle,
        _offset: u64,
        reply: impl ListingPlusReply,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn releasedir(&self, _: &Asker, _: INodeNo, _: FileHandle, reply: impl EmptyReply) {
        reply.ok();
    }

    fn statfs(&self, req: &Asker, ino: INodeNo, reply: impl StatfsReply);

    fn setxattr(
        &self,
        req: &Asker,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        reply: impl EmptyReply,
    );

    fn getxattr(&self, req: &Asker, ino: INodeNo, name: &OsStr, size: u32, reply: impl XattrReply);

    fn listxattr(&self, req: &Asker, ino: INodeNo, size: u32, reply: impl XattrReply);

    fn removexattr(&self, req: &Asker, ino: INodeNo, name: &OsStr, reply: impl EmptyReply);

    /// Left to the kernel (`default_permissions`), unless a mount decides by itself.
    fn access(&self, _: &Asker, _: INodeNo, _mask: u32, reply: impl EmptyReply) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        req: &Asker,
        ino: INodeNo,
        cmd: u32,
        in_data: &[u8],
        out_size: u32,
        reply: impl IoctlReply,
    );

    fn copy_file_range(
        &self,
        req: &Asker,
        from: (INodeNo, FileHandle, u64),
        to: (INodeNo, FileHandle, u64),
        len: u64,
        reply: impl WriteReply,
    );
}
