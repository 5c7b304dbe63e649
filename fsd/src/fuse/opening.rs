//! The calls that open files, for the adapter: by which of the two ways a file's bytes go, and what the
//! page cache may keep of it. Decides nothing.

use std::ffi::OsStr;

use fuser::{FileHandle, FopenFlags, Generation, INodeNo, OpenFlags};

use crate::core::types::NewMode;
use crate::core::{FsCore, OpenIo, Opened};
use crate::fuse::adapter::{Adapter, name_of};
use crate::fuse::convert::{FOREVER, caller};
use crate::fuse::request::op;
use crate::fuse::transport::{Asker, CreateReply, OpenReply};

/// Every handle: the kernel need not tell us of close(2), there is nothing to flush.
pub(super) const CACHED: FopenFlags = FopenFlags::FOPEN_KEEP_CACHE.union(FopenFlags::FOPEN_NOFLUSH);
/// Without KEEP_CACHE: the host has changed what the page cache holds.
const FRESH: FopenFlags = FopenFlags::FOPEN_NOFLUSH;
/// Without KEEP_CACHE: what the page cache holds of the file goes stale with the first native
/// write, so it is dropped when passthrough begins; later cached opens then find only fresh pages.
const NATIVE: FopenFlags = FopenFlags::FOPEN_NOFLUSH;

impl Adapter {
    /// Opens a file, and tells the kernel by which of the two ways its bytes go.
    pub(super) fn open_file(
        &self,
        req: &Asker,
        ino: INodeNo,
        flags: OpenFlags,
        reply: impl OpenReply,
    ) {
        if self.is_zero_open() {
            return self.refuse_opens(reply);
        }
        let call = |core: &FsCore| core.open(&caller(req), self.ino(ino), flags.0);
        let Opened { fh, io, is_changed } = match self.call(op::OPEN, req, ino, call) {
            Ok(opened) => opened,
            Err(errno) => return reply.error(errno),
        };
        if is_changed || flags.0 & nix::libc::O_TRUNC != 0 {
            self.stale.attributes(ino);
        }
        let handle = FileHandle(fh.0);
        match io {
            OpenIo::Cached if is_changed => reply.opened(handle, FRESH),
            OpenIo::Cached => reply.opened(handle, CACHED),
            OpenIo::Passthrough { token, fd } => {
                let register = || self.device.open_backing(fd);
                match self.backings.acquire(self.ino(ino), token, fh, register) {
                    Some(id) => {
                        if self.mapped.opened(self.ino(ino), fh, flags.0) {
                            self.stale.attributes(ino);
                        }
                        reply.opened_passthrough(handle, NATIVE, &id);
                    }
                    None => reply.opened(handle, CACHED),
                }
            }
        }
    }

    /// Makes and opens a file.
    pub(super) fn create_file(
        &self,
        req: &Asker,
        parent: INodeNo,
        name: &OsStr,
        mode: NewMode,
        flags: i32,
        reply: impl CreateReply,
    ) {
        let call = |core: &FsCore| {
            core.create(&caller(req), self.ino(parent), &name_of(name)?, mode, flags)
        };
        let (entry, opened) = match self.call_naming(op::CREATE, req, parent, call) {
            Ok(made) => made,
            Err(errno) => return reply.error(errno),
        };
        if self.is_zero_open() {
            return self.created_unopened(&entry, opened, reply);
        }
        let Opened { fh, io, .. } = opened;
        let (attr, generation) = (self.shown(&entry.attr), Generation(entry.generation));
        let handle = FileHandle(fh.0);
        match io {
            OpenIo::Cached => reply.created(&FOREVER, &attr, generation, handle, CACHED),
            OpenIo::Passthrough { token, fd } => {
                let register = || self.device.open_backing(fd);
                match self.backings.acquire(entry.attr.ino, token, fh, register) {
                    Some(id) => {
                        self.mapped.opened(entry.attr.ino, fh, flags);
                        reply.created_passthrough(&FOREVER, &attr, generation, handle, NATIVE, &id)
                    }
                    None => reply.created(&FOREVER, &attr, generation, handle, CACHED),
                }
            }
        }
    }
}
