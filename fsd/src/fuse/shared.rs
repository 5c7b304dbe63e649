//! The adapter of a shared mount: one FUSE request in, one call of [`Shared`], one reply out.
//!
//! The kernel keeps nothing that differs by caller: every entry and every set of attributes is good for
//! no time at all, and no name is kept as missing. Pages may be kept, as a file's node is one branch's.
//! What is the same for every mount (ioctl, flush, ...) is answered as the other adapter does.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use fuser::{
    Errno, FileHandle, FopenFlags, Generation, INodeNo, KernelConfig, OpenFlags, RenameFlags,
    WriteFlags,
};

use crate::core::access::Want;
use crate::core::error::FsError;
use crate::core::types::{Attr, Fh, Kind, Name, SetAttr};
use crate::fuse::convert::{
    caller, file_attr, file_type, new_mode, no_file_attributes, rdev_in, rename_mode,
};
use crate::fuse::request::{Meta, op};
use crate::fuse::session::Options;
use crate::fuse::transport::{
    Asker, AttrReply, CreateReply, DataReply, EmptyReply, EntryReply, IoctlReply, ListingReply,
    LseekReply, OpenReply, Operations, StatfsReply, WriteReply, XattrReply,
};
use crate::fuse::workers::Workers;
use crate::fuse::xattr::answer_query;
use crate::shared::Shared;
use crate::sync::Arc;

/// How long the kernel may trust what it is told.
const NOW: Duration = Duration::ZERO;
const CACHED: FopenFlags = FopenFlags::FOPEN_KEEP_CACHE.union(FopenFlags::FOPEN_NOFLUSH);
/// The host has changed what the page cache holds.
const FRESH: FopenFlags = FopenFlags::FOPEN_NOFLUSH;

/// Serves one mount of several branches.
#[derive(Debug)]
pub struct SharedAdapter {
    shared: Arc<Shared>,
    options: Options,
    workers: Workers,
}

impl SharedAdapter {
    pub(super) fn new(shared: Arc<Shared>, options: Options) -> Self {
        Self {
            shared,
            options,
            workers: Workers::default(),
        }
    }

    fn call<T>(
        &self,
        op: &'static str,
        request: &Asker,
        node: INodeNo,
        call: impl FnOnce(&Shared) -> Result<T, FsError>,
    ) -> Result<T, Errno> {
        Meta::of(op, request, node).run(|| call(&self.shared))
    }

    /// Runs a call that may block for long on a worker, which gives the answer.
    fn call_aside<T>(
        &self,
        op: &'static str,
        request: &Asker,
        node: INodeNo,
        call: impl FnOnce(&Shared) -> Result<T, FsError> + Send + 'static,
        answer: impl FnOnce(Result<T, Errno>) + Send + 'static,
    ) {
        let meta = Meta::of(op, request, node);
        let shared = Arc::clone(&self.shared);
        self.workers.run(move || answer(meta.run(|| call(&shared))));
    }
}

fn entry(reply: impl EntryReply, result: Result<Attr, Errno>) {
    match result {
        Ok(attr) => reply.entry(&NOW, &file_attr(&attr), Generation(0)),
        Err(errno) => reply.error(errno),
    }
}

fn done(reply: impl EmptyReply, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

fn name_of(name: &OsStr) -> Result<Name, FsError> {
    Ok(Name::new(name.as_bytes())?)
}

impl Operations for SharedAdapter {
    fn negotiate(&self, config: &mut KernelConfig) -> std::io::Result<()> {
        self.options.negotiate(config)
    }

    fn lookup(&self, req: &Asker, parent: INodeNo, name: &OsStr, reply: impl EntryReply) {
        let found = self.call(op::LOOKUP, req, parent, |shared| {
            shared.lookup(&caller(req), parent.0, &name_of(name)?)
        });
        entry(reply, found);
    }

    fn forget(&self, req: &Asker, node: INodeNo, lookups: u64) {
        let _ = self.call(op::FORGET, req, node, |shared| {
            shared.forget(node.0, lookups);
            Ok(())
        });
    }

    fn getattr(&self, req: &Asker, node: INodeNo, reply: impl AttrReply) {
        let call = |shared: &Shared| shared.getattr(&caller(req), node.0);
        match self.call(op::GETATTR, req, node, call) {
            Ok(attr) => reply.attr(&NOW, &file_attr(&attr)),
            Err(errno) => reply.error(errno),
        }
    }

    fn setattr(
        &self,
        req: &Asker,
        node: INodeNo,
        fh: Option<FileHandle>,
        set: &SetAttr,
        reply: impl AttrReply,
    ) {
        let fh = fh.map(|fh| Fh(fh.0));
        let call = |shared: &Shared| shared.setattr(&caller(req), node.0, fh, set);
        match self.call(op::SETATTR, req, node, call) {
            Ok(attr) => reply.attr(&NOW, &file_attr(&attr)),
            Err(errno) => reply.error(errno),
        }
    }

    fn readlink(&self, req: &Asker, node: INodeNo, reply: impl DataReply) {
        let call = |shared: &Shared| shared.readlink(&caller(req), node.0);
        match self.call(op::READLINK, req, node, call) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        }
    }

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
        let made = self.call(op::MKNOD, req, parent, |shared| {
            let kind = Kind::from_mode(mode).ok_or(FsError::Invalid("file type"))?;
            let at = (parent.0, &name_of(name)?);
            let mode = new_mode(mode, umask);
            shared.mknod(&caller(req), at, kind, mode, rdev_in(rdev))
        });
        entry(reply, made);
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
        let made = self.call(op::MKDIR, req, parent, |shared| {
            let at = (parent.0, &name_of(name)?);
            shared.mkdir(&caller(req), at, new_mode(mode, umask))
        });
        entry(reply, made);
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
        let made = self.call(op::SYMLINK, req, parent, |shared| {
            shared.symlink(&caller(req), (parent.0, &name_of(name)?), target)
        });
        entry(reply, made);
    }

    fn link(
        &self,
        req: &Asker,
        node: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: impl EntryReply,
    ) {
        let made = self.call(op::LINK, req, node, |shared| {
            shared.link(&caller(req), node.0, (parent.0, &name_of(name)?))
        });
        entry(reply, made);
    }

    fn unlink(&self, req: &Asker, parent: INodeNo, name: &OsStr, reply: impl EmptyReply) {
        let gone = self.call(op::UNLINK, req, parent, |shared| {
            shared.unlink(&caller(req), parent.0, &name_of(name)?)
        });
        done(reply, gone);
    }

    fn rmdir(&self, req: &Asker, parent: INodeNo, name: &OsStr, reply: impl EmptyReply) {
        let gone = self.call(op::RMDIR, req, parent, |shared| {
            shared.rmdir(&caller(req), parent.0, &name_of(name)?)
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
        let moved = self.call(op::RENAME, req, parent, |shared| {
            let mode = rename_mode(flags)?;
            let (from, new) = ((parent.0, &name_of(name)?), (to.0, &name_of(to_name)?));
            shared.rename(&caller(req), from, new, mode)
        });
        done(reply, moved);
    }

    fn open(&self, req: &Asker, node: INodeNo, flags: OpenFlags, reply: impl OpenReply) {
        let call = |shared: &Shared| shared.open(&caller(req), node.0, flags.0);
        match self.call(op::OPEN, req, node, call) {
            Ok(opened) => {
                let how = if opened.is_changed { FRESH } else { CACHED };
                reply.opened(FileHandle(opened.fh.0), how);
            }
            Err(errno) => reply.error(errno),
        }
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
        let made = self.call(op::CREATE, req, parent, |shared| {
            let at = (parent.0, &name_of(name)?);
            shared.create(&caller(req), at, new_mode(mode, umask), flags)
        });
        match made {
            Ok((attr, opened)) => {
                let (attr, handle) = (file_attr(&attr), FileHandle(opened.fh.0));
                reply.created(&NOW, &attr, Generation(0), handle, CACHED);
            }
            Err(errno) => reply.error(errno),
        }
    }

    fn read(
        &self,
        req: &Asker,
        node: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        reply: impl DataReply,
    ) {
        reply.fill(size as usize, |room| {
            self.call(op::READ, req, node, |shared| {
                shared.of_file(node.0, |core, ino| core.read(ino, Fh(fh.0), offset, room))
            })
        });
    }

    fn write(
        &self,
        req: &Asker,
        node: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _: OpenFlags,
        reply: impl WriteReply,
    ) {
        let kill = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let cached = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        tracing::trace!(target: "agentfs::write", ino = node.0, offset, bytes = data.len());
        let written = self.call(op::WRITE, req, node, |shared| {
            shared.of_file(node.0, |core, ino| {
                if kill {
                    core.kill_privileges(&caller(req), ino)?;
                }
                match cached {
                    // The kernel does not look at how much of it was written: all or an error.
                    true => core.write_back(ino, Fh(fh.0), offset, data),
                    false => core.write(ino, Fh(fh.0), offset, data, false),
                }
            })
        });
        match written {
            Ok(bytes) => reply.written(bytes as u32),
            Err(errno) => reply.error(errno),
        }
    }

    fn release(&self, req: &Asker, node: INodeNo, fh: FileHandle, reply: impl EmptyReply) {
        let released = self.call(op::RELEASE, req, node, |shared| {
            shared.of_file(node.0, |core, _| {
                core.release(Fh(fh.0));
                Ok(())
            })
        });
        done(reply, released);
    }

    fn fsync(
        &self,
        req: &Asker,
        node: INodeNo,
        _: FileHandle,
        datasync: bool,
        reply: impl EmptyReply,
    ) {
        let call =
            move |shared: &Shared| shared.of_file(node.0, |core, ino| core.fsync(ino, datasync));
        self.call_aside(op::FSYNC, req, node, call, |result| done(reply, result));
    }

    fn fsyncdir(
        &self,
        req: &Asker,
        node: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: impl EmptyReply,
    ) {
        let call = move |shared: &Shared| shared.fsync_dir(fh.0, datasync);
        self.call_aside(op::FSYNCDIR, req, node, call, |result| done(reply, result));
    }

    fn fallocate(
        &self,
        req: &Asker,
        node: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: impl EmptyReply,
    ) {
        let caller = caller(req);
        let call = move |shared: &Shared| {
            shared.of_file(node.0, |core, ino| {
                core.fallocate(&caller, ino, Fh(fh.0), mode, offset, length)
            })
        };
        self.call_aside(op::FALLOCATE, req, node, call, |result| done(reply, result));
    }

    fn lseek(
        &self,
        req: &Asker,
        node: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: impl LseekReply,
    ) {
        let found = self.call(op::LSEEK, req, node, |shared| {
            shared.of_file(node.0, |core, ino| {
                core.lseek(ino, Fh(fh.0), offset, whence)
            })
        });
        match found {
            Ok(offset) => reply.offset(offset),
            Err(errno) => reply.error(errno),
        }
    }

    // A listing is of the branch that it was begun on, so it needs a handle; and the kernel keeps none,
    // as the next reader may see another branch.
    fn opendir(&self, req: &Asker, node: INodeNo, reply: impl OpenReply) {
        let call = |shared: &Shared| shared.opendir(&caller(req), node.0);
        match self.call(op::OPENDIR, req, node, call) {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(errno) => reply.error(errno),
        }
    }

    fn readdir(
        &self,
        req: &Asker,
        node: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: impl ListingReply,
    ) {
        let mut taken = 0u32;
        let listed = self.call(op::READDIR, req, node, |shared| {
            shared.readdir(fh.0, offset, &mut |e| {
                let (kind, name) = (file_type(e.kind), OsStr::from_bytes(e.name.as_bytes()));
                let took = !reply.add(INodeNo(e.ino.0), e.cookie, kind, name);
                taken += u32::from(took);
                took
            })
        });
        match listed {
            Err(errno) if taken == 0 => reply.error(errno),
            _ => reply.ok(),
        }
    }

    fn releasedir(&self, req: &Asker, node: INodeNo, fh: FileHandle, reply: impl EmptyReply) {
        let released = self.call(op::RELEASEDIR, req, node, |shared| {
            shared.releasedir(fh.0);
            Ok(())
        });
        done(reply, released);
    }

    fn statfs(&self, req: &Asker, node: INodeNo, reply: impl StatfsReply) {
        match self.call(op::STATFS, req, node, |shared| shared.statfs(&caller(req))) {
            Ok(stat) => reply.statfs(&stat),
            Err(errno) => reply.error(errno),
        }
    }

    fn setxattr(
        &self,
        req: &Asker,
        node: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        reply: impl EmptyReply,
    ) {
        let set = self.call(op::SETXATTR, req, node, |shared| {
            shared.setxattr(&caller(req), node.0, name.as_bytes(), value, flags)
        });
        done(reply, set);
    }

    fn getxattr(
        &self,
        req: &Asker,
        node: INodeNo,
        name: &OsStr,
        size: u32,
        reply: impl XattrReply,
    ) {
        let value = self.call(op::GETXATTR, req, node, |shared| {
            shared.getxattr(&caller(req), node.0, name.as_bytes())
        });
        answer_query(reply, size, value);
    }

    fn listxattr(&self, req: &Asker, node: INodeNo, size: u32, reply: impl XattrReply) {
        let names = self.call(op::LISTXATTR, req, node, |shared| {
            shared.listxattr(&caller(req), node.0)
        });
        answer_query(reply, size, names);
    }

    fn removexattr(&self, req: &Asker, node: INodeNo, name: &OsStr, reply: impl EmptyReply) {
        let removed = self.call(op::REMOVEXATTR, req, node, |shared| {
            shared.removexattr(&caller(req), node.0, name.as_bytes())
        });
        done(reply, removed);
    }

    /// access(2) and chdir(2): the kernel does not decide here.
    fn access(&self, req: &Asker, node: INodeNo, mask: u32, reply: impl EmptyReply) {
        let allowed = self.call(op::ACCESS, req, node, |shared| {
            let want = Want::of_bits(mask);
            shared.access(&caller(req), node.0, want)
        });
        done(reply, allowed);
    }

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
        (node, fh, offset): (INodeNo, FileHandle, u64),
        (out, out_fh, out_offset): (INodeNo, FileHandle, u64),
        len: u64,
        reply: impl WriteReply,
    ) {
        let from = (node.0, Fh(fh.0), offset);
        let to = (out.0, Fh(out_fh.0), out_offset);
        let caller = caller(req);
        let call = move |shared: &Shared| shared.copy_range(&caller, from, to, len);
        self.call_aside(op::COPY_FILE_RANGE, req, node, call, move |copied| {
            match copied {
                // The core copies less than 4 GiB at a time; a program that wants more asks again.
                Ok(bytes) => reply.written(bytes as u32),
                Err(errno) => reply.error(errno),
            }
        });
    }
}
