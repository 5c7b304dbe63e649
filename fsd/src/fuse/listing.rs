//! The calls that list directories, for the adapter. Decides nothing.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use fuser::{FileHandle, FopenFlags, Generation, INodeNo};

use crate::core::types::StreamName;
use crate::fuse::adapter::Adapter;
use crate::fuse::convert::{FOREVER, bare_attr, file_type};
use crate::fuse::request::op;
use crate::fuse::transport::{Asker, ListingPlusReply, ListingReply, OpenReply};

impl Adapter {
    // No handle is needed: a cookie is all. The kernel is not to keep listings (neither
    // FOPEN_CACHE_DIR nor the zero-message opendir that implies it): its cache finds the place to
    // go on at by the exact cookie, so a reader whose last entry was removed by somebody else, while
    // a third filled the cache anew, misses the rest of the directory. Eight processes on one
    // directory show it within seconds.
    pub(super) fn open_listing(&self, req: &Asker, ino: INodeNo, reply: impl OpenReply) {
        match self.call(op::OPENDIR, req, ino, |core| core.check_dir(self.ino(ino))) {
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::empty()),
            Err(errno) => reply.error(errno),
        }
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
            _ => reply.ok(),
        }
    }
}
