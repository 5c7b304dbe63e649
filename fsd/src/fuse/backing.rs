//! Backing files of passthrough opens: which inode has one registered with the kernel, and how
//! many handles use it.
//!
//! The kernel takes one backing per inode while any passthrough handle of it is open, and none
//! while a cached one is; an open that mixes them fails with EIO. So a backing is registered at
//! the first passthrough open of an (inode, token), shared by all further ones, and given back at
//! the release of the last. The core decides which opens are passthrough; the kernel lets go of a
//! handle before it sends its RELEASE, so the count here never falls behind the kernel's.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{OnceLock, Weak};

use fuser::BackingId;

use crate::core::types::{Fh, Ino};
use crate::fuse::sys;
use crate::sync::{Arc, Mutex, lock};

/// The mounted device, for the calls about the mount as a whole. Open once the session is.
#[derive(Clone, Debug, Default)]
pub(super) struct Device(Arc<OnceLock<Arc<OwnedFd>>>);

impl Device {
    /// Uses `device` from now on.
    pub(super) fn reach(&self, device: Arc<OwnedFd>) {
        // Set once, by the session that was just made.
        let _ = self.0.set(device);
    }

    /// Gives `file` to the kernel, to read and write a file of the mount by it.
    pub(super) fn open_backing(&self, file: impl AsFd) -> io::Result<Backing> {
        let device = self.0.get().ok_or(io::ErrorKind::NotConnected)?;
        let id = BackingId::create_raw(device, file)?;
        Ok(Backing {
            id,
            device: Arc::downgrade(device),
        })
    }
}

/// A file that the kernel has by a number of its own; given back when dropped.
#[derive(Debug)]
pub(super) struct Backing {
    id: u32,
    device: Weak<OwnedFd>,
}

impl Backing {
    pub(super) fn id(&self) -> u32 {
        self.id
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        // With the mount the kernel lets go of them all.
        if let Some(device) = self.device.upgrade()
            && let Err(error) = sys::close_backing(device.as_fd(), self.id)
        {
            tracing::error!(%error, id = self.id, "the kernel keeps a backing file");
        }
    }
}

/// An inode in passthrough, and the core's token for this stretch of it.
type Key = (Ino, u64);

/// The table. `B` is the kernel's id, given back when the last copy is dropped.
#[derive(Debug)]
pub(super) struct Backings<B> {
    tables: Mutex<Tables<B>>,
}

#[derive(Debug)]
struct Tables<B> {
    shared: HashMap<Key, Shared<B>>,
    by_handle: HashMap<Fh, Key>,
}

#[derive(Debug)]
struct Shared<B> {
    /// `None`: the kernel refused the file, so the handles of this stretch are all cached.
    id: Option<Arc<B>>,
    handles: u32,
}

impl<B> Default for Backings<B> {
    fn default() -> Self {
        let tables = Tables {
            shared: HashMap::new(),
            by_handle: HashMap::new(),
        };
        Self {
            tables: Mutex::new(tables),
        }
    }
}

impl<B> Backings<B> {
    /// The backing for handle `fh` of `ino`, registered with `register` if this is the first.
    /// `None` when the kernel refuses it: the handle, and every other until the last of them is
    /// released, must then be opened cached.
    ///
    /// Locks: `register` runs under the table's lock, so that two first opens share one backing.
    /// It does not block: the kernel only takes a reference to an open file.
    pub(super) fn acquire(
        &self,
        ino: Ino,
        token: u64,
        fh: Fh,
        register: impl FnOnce() -> io::Result<B>,
    ) -> Option<Arc<B>> {
        let key = (ino, token);
        let mut tables = lock(&self.tables);
        tables.by_handle.insert(fh, key);
        let shared = tables.shared.entry(key).or_insert_with(|| {
            let id = match register() {
                Ok(id) => Some(Arc::new(id)),
                Err(error) => {
                    tracing::warn!(%ino, %error, "no passthrough for this file");
                    None
                }
            };
            Shared { id, handles: 0 }
        });
        shared.handles += 1;
        shared.id.clone()
    }

    /// Forgets handle `fh`, if it is one of passthrough.
    pub(super) fn release(&self, fh: Fh) {
        let mut tables = lock(&self.tables);
        let Some(key) = tables.by_handle.remove(&fh) else {
            return;
        };
        let Some(shared) = tables.shared.get_mut(&key) else {
            return;
        };
        shared.handles -= 1;
        let last = if shared.handles == 0 {
            tables.shared.remove(&key)
        } else {
            None
        };
        // Giving the id back may close the file for good, which can take long: not under the lock.
        drop(tables);
        drop(last);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    struct Id<'a>(&'a AtomicU32);

    impl Drop for Id<'_> {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn one_backing_until_the_last_release() {
        let dropped = AtomicU32::new(0);
        let backings = Backings::default();
        let first = backings
            .acquire(Ino(5), 1, Fh(1), || Ok(Id(&dropped)))
            .expect("registered");
        let second = backings
            .acquire(Ino(5), 1, Fh(2), || panic!("registered twice"))
            .expect("shared");
        assert!(Arc::ptr_eq(&first, &second));
        drop((first, second));
        backings.release(Fh(1));
        backings.release(Fh(1));
        backings.release(Fh(9));
        assert_eq!(dropped.load(Ordering::SeqCst), 0);
        backings.release(Fh(2));
        assert_eq!(dropped.load(Ordering::SeqCst), 1);
        assert!(
            backings
                .acquire(Ino(5), 2, Fh(3), || Ok(Id(&dropped)))
                .is_some()
        );
    }

    #[test]
    fn a_refused_file_stays_cached_until_its_last_release() {
        let refused = || Err(io::ErrorKind::Unsupported.into());
        let backings: Backings<()> = Backings::default();
        assert!(backings.acquire(Ino(5), 1, Fh(1), refused).is_none());
        assert!(
            backings
                .acquire(Ino(5), 1, Fh(2), || panic!("asked again"))
                .is_none()
        );
        backings.release(Fh(1));
        backings.release(Fh(2));
        assert!(backings.acquire(Ino(5), 1, Fh(3), || Ok(())).is_some());
    }
}
