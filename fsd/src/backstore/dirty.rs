//! [`Dirty`]: what must be on the disk before the records that speak of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::error::StoreError;
use super::journal;
use super::media::{Media, OpenMode};
use super::objects;

/// Directories of a layer that got new objects since they were last synced, and objects that took
/// the place of others since then. Shared with who syncs them.
#[derive(Clone, Debug, Default)]
pub(super) struct Dirty(Arc<Mutex<Pending>>);

/// Each with the time of the newest change.
#[derive(Clone, Debug, Default)]
struct Pending {
    tick: u64,
    dirs: BTreeMap<PathBuf, u64>,
    objects: BTreeMap<u64, u64>,
    /// A sync of one of them failed, and the host does not tell of that again.
    failed: bool,
}

impl Dirty {
    fn lock(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a directory that got an entry.
    pub fn dir(&self, dir: PathBuf) {
        let mut pending = self.lock();
        pending.tick += 1;
        let tick = pending.tick;
        pending.dirs.insert(dir, tick);
    }

    /// Notes an object whose bytes replace others.
    pub fn object(&self, number: u64) {
        let mut pending = self.lock();
        pending.tick += 1;
        let tick = pending.tick;
        pending.objects.insert(number, tick);
    }

    /// Waits until all that is noted now is on the disk.
    pub fn sync(&self, media: &dyn Media) -> Result<(), StoreError> {
        let now = self.lock().clone();
        now.sync(media, self)
            .inspect_err(|_| self.lock().failed = true)
    }

    /// Whether a sync failed since records last became durable without the journal.
    pub fn has_failed(&self) -> bool {
        self.lock().failed
    }

    /// A checkpoint took the place of a journal that nobody can make durable any more.
    pub fn is_left_behind(&self) {
        self.lock().failed = false;
    }
}

impl Pending {
    fn sync(&self, media: &dyn Media, dirty: &Dirty) -> Result<(), StoreError> {
        for (number, tick) in &self.objects {
            sync_object(media, &objects::path_of(*number))?;
            let mut dirty = dirty.lock();
            if dirty.objects.get(number) == Some(tick) {
                dirty.objects.remove(number);
            }
        }
        for (dir, tick) in &self.dirs {
            media
                .sync_dir(dir)
                .map_err(|e| StoreError::io("sync", media.describe(dir), e))?;
            let mut dirty = dirty.lock();
            if dirty.dirs.get(dir) == Some(tick) {
                dirty.dirs.remove(dir);
            }
        }
        Ok(())
    }
}

/// An object that is gone by now needs no sync.
fn sync_object(media: &dyn Media, path: &Path) -> Result<(), StoreError> {
    match media.open(path, OpenMode::Read) {
        Ok(file) => file
            .sync(true)
            .map_err(|e| StoreError::io("sync", media.describe(path), e)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(StoreError::io("open", media.describe(path), e)),
    }
}

/// Makes everything committed before it was taken durable, outside any lock.
#[derive(Clone, Debug)]
pub struct SyncHandle {
    journal: journal::SyncHandle,
    media: Arc<dyn Media>,
    dirty: Dirty,
}

impl SyncHandle {
    pub(super) fn new(journal: journal::SyncHandle, media: Arc<dyn Media>, dirty: &Dirty) -> Self {
        Self {
            journal,
            media,
            dirty: dirty.clone(),
        }
    }

    /// Syncs; blocks as long as the disk takes. The bytes of objects are the caller's to sync, but
    /// for those that took the place of others.
    ///
    /// Errors: once one sync has failed, of the journal or of what must be before it, every later one of the
    /// same journal does too, since the kernel may have dropped what it could not write. A checkpoint starts a clean journal.
    pub fn sync(&self) -> Result<(), StoreError> {
        if self.dirty.has_failed() {
            let e = std::io::Error::other("an earlier sync of a file or directory failed");
            return Err(StoreError::io(
                "sync",
                self.media.describe(Path::new("")),
                e,
            ));
        }
        // A frame must not be durable without the objects it names. What is noted now counts, not what
        // was when this was made: the journal has newer frames. The second pass takes what came during
        // the first.
        for _ in 0..2 {
            self.dirty.sync(&*self.media)?;
        }
        self.journal.sync()
    }
}
