//! The calls that list directories, for the adapter. Decides nothing.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use fuser::{
    Errno, FileHandle, FopenFlags, Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus,
    ReplyOpen, Request,
};

use crate::core::types::StreamName;
use crate::core::{FsCore, OldListing};
use crate::fuse::adapter::Adapter;
use crate::fuse::convert::{FOREVER, bare_attr, file_type};
use crate::fuse::request::op;

impl Adapter {
    // No handle is needed: a cookie is all. Asked to (AGENTFS_FUSE_ZERO_OPENDIR), the kernel does not
    // even tell us that a directory is opened: ENOSYS says that once for all. But then it goes on
    // listing what it knows whatever the host does there.
    pub(super) fn open_listing(&self, req: &Request, ino: INodeNo, reply: ReplyOpen) {
        let flags = match self.call(op::OPENDIR, req, ino, |core| core.open_dir(self.ino(ino))) {
            Ok(_) if self.opens_no_directories => return reply.error(Errno::ENOSYS),
            Ok(OldListing::Yes) => FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE,
            Ok(OldListing::No) => FopenFlags::FOPEN_CACHE_DIR,
            Ok(OldListing::Never) => FopenFlags::empty(),
            Err(errno) => return reply.error(errno),
        };
        reply.opened(FileHandle(0), flags);
    }

    /// Answers the request at which a listing ends. What the kernel has gathered of it goes before it
    /// learns that it has all, where it must not be kept: see [`Listed`].
    ///
    /// [`Listed`]: crate::core::inode::Listed
    fn end_of_listing(&self, req: &Request, ino: INodeNo, end: impl FnOnce() + Send + 'static) {
        let may_keep = |core: &FsCore| Ok(core.may_keep_listing(self.ino(ino)));
        if self.call(op::READDIR, req, ino, may_keep) == Ok(true) {
            return end();
        }
        // Not here: whoever copies a page of it to a program has it locked, and may wait for us to
        // serve that program's memory.
        let stale = self.stale();
        self.workers.run(move || {
            stale.listing(ino);
            end();
        });
    }

    pub(super) fn list(&self, req: &Request, ino: INodeNo, offset: u64, mut reply: ReplyDirectory) {
        let mut taken = 0u32;
        let listed = self.call_locked(op::READDIR, req, ino, |core| {
            core.readdir(self.ino(ino), offset, &mut |e| {
                let (kind, name) = (file_type(e.kind), OsStr::from_bytes(e.name.as_bytes()));
                let took = !reply.add(INodeNo(e.ino.0), e.cookie, kind, name);
                taken += u32::from(took);
                took
            })
        });
        match listed {
            Err(errno) if taken == 0 => reply.error(errno),
            Ok(()) if taken == 0 => self.end_of_listing(req, ino, move || reply.ok()),
            _ => reply.ok(),
        }
    }

    // What was taken before an error is sent all the same: each entry stands for a lookup that
    // the core has counted. The error comes again with the next request.
    pub(super) fn list_with_attributes(
        &self,
        req: &Request,
        ino: INodeNo,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let mut taken = 0u32;
        let listed = self.call_locked(op::READDIRPLUS, req, ino, |core| {
            core.readdirplus(self.ino(ino), offset, &mut |e, entry| {
                let (ttl, attr, generation) = match (&e.name, entry) {
                    (_, Some(entry)) => {
                        self.before_attributes(core, &entry.attr);
                        (FOREVER, self.shown(&entry.attr), entry.generation)
                    }
                    // The kernel takes the number of a dot for d_ino and makes no inode of it.
                    (StreamName::Dot | StreamName::DotDot, None) => {
                        (Duration::ZERO, bare_attr(e.ino.0, e.kind), 0)
                    }
                    // Not looked up: inode 0 tells the kernel to make none.
                    (StreamName::Entry(_), None) => (Duration::ZERO, bare_attr(0, e.kind), 0),
                };
                let (ino, name) = (attr.ino, OsStr::from_bytes(e.name.as_bytes()));
                let took = !reply.add(ino, e.cookie, name, &ttl, &attr, Generation(generation));
                taken += u32::from(took);
                took
            })
        });
        match listed {
            Err(errno) if taken == 0 => reply.error(errno),
            Ok(()) if taken == 0 => self.end_of_listing(req, ino, move || reply.ok()),
            _ => reply.ok(),
        }
    }
}
