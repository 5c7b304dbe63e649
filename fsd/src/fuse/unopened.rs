//! What the adapter does differently where the kernel opens files without asking us (zero-open).
//!
//! The answer ENOSYS to the first OPEN makes it stop sending any, and with them RELEASE, also for what
//! CREATE has opened. So no handle is ever given out: the core serves requests by inode.

use fuser::{Errno, FileHandle, Generation, INodeNo, OpenFlags};

use crate::core::error::FsError;
use crate::core::implicit::Outdated;
use crate::core::types::{Entry, Fh, Ino};
use crate::core::{FsCore, Opened};
use crate::fuse::adapter::Adapter;
use crate::fuse::convert::FOREVER;
use crate::fuse::opening::CACHED;
use crate::fuse::regime::Regime;
use crate::fuse::transport::{CreateReply, OpenReply};

impl Adapter {
    /// Whether the mount is one of files that are used without being opened.
    pub(super) fn is_zero_open(&self) -> bool {
        self.options.regime == Some(Regime::ZeroOpen)
    }

    /// Answers an OPEN so that it is the last one. More than one may be under way.
    pub(super) fn refuse_opens(&self, reply: impl OpenReply) {
        reply.error(Errno::ENOSYS);
    }

    /// Answers a CREATE without giving a handle out.
    pub(super) fn created_unopened(&self, entry: &Entry, opened: Opened, reply: impl CreateReply) {
        self.core.with(|core| core.keep_unopened(opened.fh));
        let (attr, generation) = (self.shown(&entry.attr), Generation(entry.generation));
        reply.created(&FOREVER, &attr, generation, FileHandle(Fh::NONE.0), CACHED);
        self.close_surplus();
    }

    /// After the answer to a request that may have opened a file here.
    pub(super) fn close_surplus(&self) {
        if self.is_zero_open() {
            self.core.with(FsCore::close_surplus);
        }
    }

    /// Before bytes are written: what an OPEN would have seen to.
    pub(super) fn before_write(
        &self,
        core: &FsCore,
        ino: Ino,
        fh: FileHandle,
        offset: u64,
        flags: OpenFlags,
    ) -> Result<(), FsError> {
        if fh.0 != Fh::NONE.0 {
            return Ok(());
        }
        let appends = flags.0 & nix::libc::O_APPEND != 0;
        let met = core.meet_unopened(ino, offset, appends);
        self.take_back_outdated(core);
        met
    }

    /// Takes back what the kernel keeps of files that the host has changed, as far as the core has come
    /// upon them. On a thread that serves no requests: the kernel waits for pages that are being read.
    pub(super) fn take_back_outdated(&self, core: &FsCore) {
        if !self.is_zero_open() {
            return;
        }
        let outdated = core.take_outdated();
        if outdated.is_empty() {
            return;
        }
        // The attributes at once: who asks next, by this thread's answer, must get new ones.
        for Outdated { ino, .. } in &outdated {
            self.stale.attributes(self.node_of(*ino));
        }
        let stale = self.stale();
        let root = self.face.root;
        self.workers.run(move || {
            for Outdated { ino, names } in outdated {
                stale.pages(node_of(root, ino));
                for (dir, name) in names {
                    stale.name(node_of(root, dir), name.as_os_str());
                }
            }
        });
    }

    fn node_of(&self, ino: Ino) -> INodeNo {
        node_of(self.face.root, ino)
    }
}

/// How the kernel calls an inode of a mount with this root.
pub(super) fn node_of(root: Ino, ino: Ino) -> INodeNo {
    match ino == root {
        true => INodeNo::ROOT,
        false => INodeNo(ino.0),
    }
}
