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
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use fuser::{INodeNo, Notifier};

use crate::sync::Arc;

/// The way to the kernel, open once the session is.
#[derive(Clone, Debug, Default)]
pub(super) struct Stale(Arc<Ways>);

#[derive(Debug, Default)]
struct Ways {
    notifier: OnceLock<Notifier>,
    /// For what the notifier does not know.
    device: OnceLock<Arc<OwnedFd>>,
    /// The kernel can be asked to look a name up again without dropping it at once.
    expires: AtomicBool,
}

// Of the kernel's linux/fuse.h.
const NOTIFY_INVAL_ENTRY: i32 = 3;
const EXPIRE_ONLY: u32 = 1;

impl Stale {
    /// Sends notices by way of `notifier` and `device` from now on.
    pub(super) fn reach(&self, notifier: Notifier, device: Arc<OwnedFd>) {
        // Set once, by the session that was just made.
        let _ = self.0.notifier.set(notifier);
        let _ = self.0.device.set(device);
    }

    /// Says that the kernel has FUSE_EXPIRE_ONLY (Linux 6.2).
    pub(super) fn can_expire(&self) {
        self.0.expires.store(true, Ordering::Relaxed);
    }

    /// Makes the kernel ask for the attributes of `ino` before it uses them again. To be called
    /// before the request is answered, so that its caller sees the change.
    ///
    /// Safe on a thread that serves requests: without a range of pages the kernel takes no lock of
    /// the inode, it only marks it.
    pub(super) fn attributes(&self, ino: INodeNo) {
        if let Some(notifier) = self.0.notifier.get()
            && let Err(error) = notifier.inval_inode(ino, -1, 0)
        {
            tracing::warn!(%ino, %error, "the kernel keeps outdated attributes");
        }
    }

    /// Makes the kernel drop the pages of `ino` (of a directory: its listing), and its
    /// attributes. Not on a thread that serves requests: it waits for pages that are being read or written back.
    pub(super) fn pages(&self, ino: INodeNo) {
        if let Some(notifier) = self.0.notifier.get()
            && let Err(error) = notifier.inval_inode(ino, 0, 0)
        {
            // It may have let go of the file meanwhile.
            tracing::debug!(%ino, %error, "no pages to drop");
        }
    }

    /// Makes the kernel look `name` in `dir` up again. Not on a thread that serves requests: it waits
    /// for who changes the directory.
    pub(super) fn name(&self, dir: INodeNo, name: &OsStr) {
        if let Some(notifier) = self.0.notifier.get()
            && let Err(error) = notifier.inval_entry(dir, name)
        {
            tracing::debug!(%dir, %error, "no name to drop");
        }
    }

    /// As [`Stale::name`], but nothing happens to what is at the name if the answer is that it still
    /// is: who works in a directory does not lose its path, and a mount on it stays. On a kernel that
    /// cannot do that it is [`Stale::name`], and for a directory that `stays` nothing is done there.
    pub(super) fn expire(&self, dir: INodeNo, name: &OsStr, stays: bool) {
        let device = self.0.device.get();
        let Some(device) = device.filter(|_| self.0.expires.load(Ordering::Relaxed)) else {
            if !stays {
                self.name(dir, name);
            }
            return;
        };
        match rustix::io::write(device, &expiry(dir, name)) {
            // It does not know the name.
            Ok(_) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => {
                let error = io::Error::from(error);
                tracing::debug!(%dir, %error, "no name to look up again");
            }
        }
    }
}

/// The message: fuse_out_header, fuse_notify_inval_entry_out, the name and its end.
fn expiry(dir: INodeNo, name: &OsStr) -> Vec<u8> {
    let bytes = (16 + 16 + name.len() + 1) as u32;
    let mut message = Vec::with_capacity(bytes as usize);
    message.extend(bytes.to_ne_bytes());
    message.extend(NOTIFY_INVAL_ENTRY.to_ne_bytes());
    message.extend(0u64.to_ne_bytes());
    message.extend(dir.0.to_ne_bytes());
    message.extend((name.len() as u32).to_ne_bytes());
    message.extend(EXPIRE_ONLY.to_ne_bytes());
    message.extend(name.as_bytes());
    message.push(0);
    message
}
