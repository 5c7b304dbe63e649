//! The calls that list directories, for the adapter. Decides nothing.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fuser::{Errno, FileHandle, FopenFlags, Generation, INodeNo};

use crate::core::types::StreamName;
use crate::core::{FsCore, OldListing};
use crate::fuse::adapter::Adapter;
use crate::fuse::convert::{FOREVER, bare_attr, file_type};
use crate::fuse::request::op;
use crate::fuse::transport::{Asker, End, ListingPlusReply, ListingReply, OpenReply};

/// The handle of a directory of which the kernel keeps what is read.
const KEEPING: FileHandle = FileHandle(1);
/// That of any other.
const PLAIN: FileHandle = FileHandle(0);

impl Adapter {
    // A cookie is all that is needed to go on; the handle only says whether the kernel keeps the listing. Asked to (AGENTFS_FUSE_ZERO_OPENDIR), the kernel does not
    // even tell us that a directory is opened: ENOSYS says that once for all. But then it goes on
    // listing what it knows whatever the host does there.
    pub(super) fn open_listing(&self, req: &Asker, ino: INodeNo, reply: impl OpenReply) {
        let flags = match self.call(op::OPENDIR, req, ino, |core| core.open_dir(self.ino(ino))) {
            Ok(_) if self.opens_no_directories.load(Ordering::Relaxed) => {
                return reply.error(Errno::ENOSYS);
            }
            Ok(OldListing::Yes) => FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE,
            Ok(OldListing::No) => FopenFlags::FOPEN_CACHE_DIR,
            Ok(OldListing::Never) => return reply.opened(PLAIN, FopenFlags::empty()),
            Err(errno) => return reply.error(errno),
        };
        self.keepers.opened(ino);
        reply.opened(KEEPING, flags);
    }

    pub(super) fn close_listing(&self, ino: INodeNo, fh: FileHandle) {
        if fh == KEEPING {
            self.keepers.closed(ino);
        }
    }

    /// Answers the request at which a listing ends. What the kernel has gathered of it goes before it
    /// learns that it has all, where it must not be kept: see [`Listed`].
    ///
    /// [`Listed`]: crate::core::inode::Listed
    fn end_of_listing(&self, req: &Asker, ino: INodeNo, end: End) {
        let gathers = self.keepers.has(ino) || self.opens_no_directories.load(Ordering::Relaxed);
        let may_keep = |core: &FsCore| Ok(core.may_keep_listing(self.ino(ino)));
        if !gathers || self.call(op::READDIR, req, ino, may_keep) == Ok(true) {
            return end();
        }
        // Not here: whoever copies a page of it to a program has it locked, and may wait for us to
        // serve that program's memory.
        let stale = self.stale();
        self.workers.run(move || {
            stale.pages(ino);
            end();
        });
    }

    pub(super) fn list(
        &self,
        req: &Asker,
        ino: INodeNo,
        offset: u64,
        mut reply: impl ListingReply,
    ) {
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
            Ok(()) if taken == 0 => self.end_of_listing(req, ino, reply.end()),
            _ => reply.ok(),
        }
    }

    // What was taken before an error is sent all the same: each entry stands for a lookup that
    // the core has counted. The error comes again with the next request.
    pub(super) fn list_with_attributes(
        &self,
        req: &Asker,
        ino: INodeNo,
        offset: u64,
        mut reply: impl ListingPlusReply,
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
            Ok(()) if taken == 0 => self.end_of_listing(req, ino, reply.end()),
            _ => reply.ok(),
        }
    }
}
