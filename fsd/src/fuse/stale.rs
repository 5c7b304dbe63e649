//! Tells the kernel that what it keeps of an inode's attributes is no longer so.
//!
//! Needed where a request changes the mode and its reply has no room to say so: a write, or an
//! open with O_TRUNC, that takes suid and sgid off. The kernel asks again for size and times by
//! itself, but would trust the old mode for good, and give the bits to whoever executes the file.
//!
//! And where the kernel could come to keep attributes that it should not: from before a change that
//! it does not number (a new or removed name for the directory, an extended attribute, a hole) or
//! from after one that it will number (a removed link, see `core::removals`). The notice gives the
//! inode a new number; what the kernel asked for before that it does not keep.

use std::ffi::OsStr;
use std::sync::OnceLock;

use fuser::{INodeNo, Notifier};

use crate::sync::Arc;

/// The way to the kernel, open once the session is.
#[derive(Clone, Debug, Default)]
pub(super) struct Stale(Arc<OnceLock<Notifier>>);

impl Stale {
    /// Sends notices by way of `notifier` from now on.
    pub(super) fn reach(&self, notifier: Notifier) {
        // Set once, by the session that was just made.
        let _ = self.0.set(notifier);
    }

    /// Makes the kernel ask for the attributes of `ino` before it uses them again. To be called
    /// before the request is answered, so that its caller sees the change.
    ///
    /// Safe on a thread that serves requests: without a range of pages the kernel takes no lock of
    /// the inode, it only marks it.
    pub(super) fn attributes(&self, ino: INodeNo) {
        if let Some(notifier) = self.0.get()
            && let Err(error) = notifier.inval_inode(ino, -1, 0)
        {
            tracing::warn!(%ino, %error, "the kernel keeps outdated attributes");
        }
    }

    /// Makes the kernel drop the pages of `ino` (of a directory: its listing), and its
    /// attributes. Not on a thread that serves requests: it waits for pages that are being read or written back.
    pub(super) fn pages(&self, ino: INodeNo) {
        if let Some(notifier) = self.0.get()
            && let Err(error) = notifier.inval_inode(ino, 0, 0)
        {
            // It may have let go of the file meanwhile.
            tracing::debug!(%ino, %error, "no pages to drop");
        }
    }

    /// Makes the kernel look `name` in `dir` up again. Not on a thread that serves requests: it waits
    /// for who changes the directory.
    pub(super) fn name(&self, dir: INodeNo, name: &OsStr) {
        if let Some(notifier) = self.0.get()
            && let Err(error) = notifier.inval_entry(dir, name)
        {
            tracing::debug!(%dir, %error, "no name to drop");
        }
    }
}
