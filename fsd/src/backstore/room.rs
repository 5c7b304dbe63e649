//! Room that the store keeps for the day its file system is full: what gives space back must work then.
//!
//! Removing a snapshot replaces `branch.json` by a shorter one, which is a new file for a moment; on a
//! full disk there is neither a block nor an inode for it. So the store keeps a file, [`ROOM`], that is
//! written over and renamed into its place. It is made anew as soon as there is space for it.

use std::io;
use std::path::{Path, PathBuf};

use super::gc::GC_LOCK;
use super::media::{LockGuard, LockWait, NotReplaced, OpenMode, random_u64, write_all_at};
use super::media::{replace_file, try_replace_file};
use super::store::Store;

/// The file that keeps the room.
pub(super) const ROOM: &str = "room";
/// Its size at least, in bytes: as a `branch.json` with some twenty snapshots.
const ROOM_MIN_BYTES: u64 = 8 << 10;
/// Its size is a multiple of this: the blocks of nearly every file system.
const ROOM_STEP_BYTES: u64 = 4 << 10;

/// Whether there is no space for what was tried.
pub(super) fn is_full(e: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(e.kind(), StorageFull | QuotaExceeded)
}

impl Store {
    /// Sees to it that there is room for a file of `bytes`, as far as that can be had now.
    pub(super) fn keep_room(&self, bytes: u64) {
        let wanted = bytes.next_multiple_of(ROOM_STEP_BYTES).max(ROOM_MIN_BYTES);
        let room = Path::new(ROOM);
        let has = self.media.facts(room).map_or(0, |facts| facts.len);
        if has >= wanted {
            return;
        }
        let zeros = vec![0; usize::try_from(wanted).unwrap_or_default()];
        if let Err(e) = replace_file(&*self.media, room, &zeros, false) {
            tracing::debug!(error = %e, "no room for the day the disk is full");
        }
    }

    /// As [`try_replace_file`], durable; where `data` is no longer than what is at `path`, also on a full
    /// disk. Needs the store's lock.
    pub(super) fn replace_durably(&self, path: &Path, data: &[u8]) -> Result<(), NotReplaced> {
        let media = &*self.media;
        let put = || try_replace_file(media, path, data, true);
        let refused = match put() {
            Err(e) if !e.is_visible && is_full(&e.source) => e,
            other => return other,
        };
        let has = media.facts(path).map_or(0, |facts| facts.len);
        if data.len() as u64 > has {
            return Err(refused);
        }
        match self.put_into_room(path, data) {
            // There is none, or it is too small: what is removed already may give some.
            Err(e) if !e.is_visible => {
                self.empty_trash();
                put()
            }
            other => other,
        }
    }

    fn put_into_room(&self, path: &Path, data: &[u8]) -> Result<(), NotReplaced> {
        let media = &*self.media;
        let before = |source| NotReplaced {
            source,
            is_visible: false,
        };
        let room = Path::new(ROOM);
        let mut stage = path.as_os_str().to_owned();
        stage.push(format!(".{:016x}.stage", random_u64().map_err(before)?));
        let stage = PathBuf::from(stage);
        // Nobody else uses it from here on, and after a crash it is rubbish by its name.
        media.rename(room, &stage, false).map_err(before)?;
        let written = (|| {
            let file = media.open(&stage, OpenMode::ReadWrite)?;
            if file.stat()?.len < data.len() as u64 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            // Over what is there: that takes nothing. Only then it may get shorter.
            write_all_at(&*file, data, 0)?;
            file.set_len(data.len() as u64)?;
            file.sync(false)?;
            media.rename(&stage, path, true)
        })();
        if let Err(e) = written {
            // Unless somebody has made another one meanwhile.
            if media.rename(&stage, room, false).is_err() {
                let _ = media.unlink(&stage);
            }
            return Err(before(e));
        }
        let synced = media.sync_dir(path.parent().unwrap_or(Path::new("")));
        synced.map_err(|source| NotReplaced {
            source,
            is_visible: true,
        })
    }

    /// Waits for the lock of whoever collects garbage or repairs; its file is made if need be, on a full
    /// disk of the room.
    pub(super) fn lock_gc(&self) -> io::Result<Option<Box<dyn LockGuard>>> {
        let (lock, room) = (Path::new(GC_LOCK), Path::new(ROOM));
        match self.media.lock(lock, LockWait::Block, b"") {
            Err(e) if is_full(&e) => {
                match self.media.rename(room, lock, false) {
                    Ok(()) => {}
                    Err(made) if made.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(_) => return Err(e),
                }
                self.media.lock(lock, LockWait::Block, b"")
            }
            other => other,
        }
    }
}
