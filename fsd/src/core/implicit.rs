//! [`Implicit`]: the files that are used without an open of ours, and are kept open for that.
//!
//! Where the kernel sends no OPEN, every request for the bytes of a file comes without a handle.
//! Their streams are kept here, a bounded number of them; which one goes, and what must be recorded
//! of it then, is for `ops::implicit` to say. A file is kept by its inode: `Node::implicit` says so
//! there, and both change under the tree lock.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::core::stream::Stream;
use crate::core::types::{Ino, Name};
use crate::sync::{Arc, Mutex, RwLock, lock, read, write};

/// Most files that are kept open for nobody in particular.
pub const MOST_FILES: usize = 512;

/// How many go at a time, so that who opens one more seldom has to look for them.
const BATCH: usize = 64;

/// A file of which the kernel has what the host has changed since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outdated {
    /// The file.
    pub ino: Ino,
    /// The names that the kernel is to look up again: the host has put another file there.
    pub names: Vec<(Ino, Name)>,
}

/// The table. Rank 3.
#[derive(Debug)]
pub struct Implicit {
    open: RwLock<HashMap<Ino, Slot>>,
    most: usize,
    /// Counts the uses of all files.
    uses: AtomicU64,
    /// The count when idle ones were last looked for.
    looked: AtomicU64,
    is_regime: AtomicBool,
    has_outdated: AtomicBool,
    outdated: Mutex<Vec<Outdated>>,
}

#[derive(Debug)]
struct Slot {
    stream: Arc<Stream>,
    /// The number of its last use.
    used: AtomicU64,
    /// That number when it was last told among those that replace others.
    told: AtomicU64,
}

impl Default for Implicit {
    fn default() -> Self {
        Self {
            open: RwLock::default(),
            most: MOST_FILES,
            uses: AtomicU64::new(0),
            looked: AtomicU64::new(0),
            is_regime: AtomicBool::new(false),
            has_outdated: AtomicBool::new(false),
            outdated: Mutex::default(),
        }
    }
}

impl Implicit {
    /// Says that files are used without being opened from now on.
    pub fn begin(&self) {
        self.is_regime.store(true, Ordering::Relaxed);
    }

    /// Whether files are used without being opened.
    pub fn is_regime(&self) -> bool {
        self.is_regime.load(Ordering::Relaxed)
    }

    /// The stream of a file that is kept open, used now.
    pub fn get(&self, ino: Ino) -> Option<Arc<Stream>> {
        let open = read(&self.open);
        let slot = open.get(&ino)?;
        slot.used.store(self.next_use(), Ordering::Relaxed);
        Some(slot.stream.clone())
    }

    fn next_use(&self) -> u64 {
        self.uses.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Keeps a file open. Locks: the caller holds the tree.
    pub fn keep(&self, ino: Ino, stream: Arc<Stream>) {
        let slot = Slot {
            stream,
            used: AtomicU64::new(self.next_use()),
            told: AtomicU64::new(0),
        };
        write(&self.open).insert(ino, slot);
    }

    /// Lets go of a file. Locks: the caller holds the tree.
    pub fn remove(&self, ino: Ino) {
        let gone = write(&self.open).remove(&ino);
        // The last descriptor may be closed here: not under the lock.
        drop(gone);
    }

    /// As [`Implicit::remove`], unless somebody is at it: nobody but the inode has the stream then.
    pub fn remove_if_free(&self, ino: Ino) -> bool {
        let mut open = write(&self.open);
        // Who wants it takes it from here, under the lock, or from the inode, under the tree's.
        let is_free = |slot: &Slot| Arc::strong_count(&slot.stream) <= 2;
        if !open.get(&ino).is_some_and(is_free) {
            return false;
        }
        let gone = open.remove(&ino);
        drop(open);
        drop(gone);
        true
    }

    /// Lets go of all.
    pub fn clear(&self) {
        let gone = std::mem::take(&mut *write(&self.open));
        drop(gone);
    }

    /// The files that should go because there are too many: those used least recently.
    pub fn too_many(&self) -> Vec<Ino> {
        let open = read(&self.open);
        if open.len() <= self.most {
            return Vec::new();
        }
        let mut by_use: Vec<(u64, Ino)> = open
            .iter()
            .map(|(ino, slot)| (slot.used.load(Ordering::Relaxed), *ino))
            .collect();
        drop(open);
        let count = (by_use.len() - self.most + BATCH.min(self.most / 2)).min(by_use.len() - 1);
        by_use.select_nth_unstable(count);
        by_use.truncate(count);
        by_use.into_iter().map(|(_, ino)| ino).collect()
    }

    /// The files that nobody has used since this was last asked.
    pub fn idle(&self) -> Vec<Ino> {
        let since = (self.looked).swap(self.uses.load(Ordering::Relaxed), Ordering::Relaxed);
        let is_idle = |slot: &Slot| slot.used.load(Ordering::Relaxed) <= since;
        let open = read(&self.open);
        let idle = open.iter().filter(|(_, slot)| is_idle(slot));
        idle.map(|(ino, _)| *ino).collect()
    }

    /// The streams that took the place of what a power cut must not take with them, of those that
    /// were used since this was last asked.
    pub fn replacing(&self) -> Vec<Arc<Stream>> {
        let is_due = |slot: &&Slot| {
            let used = slot.used.load(Ordering::Relaxed);
            slot.stream.replaces.load(Ordering::Acquire)
                && slot.told.swap(used, Ordering::Relaxed) != used
        };
        let open = read(&self.open);
        let due = open.values().filter(is_due);
        due.map(|slot| slot.stream.clone()).collect()
    }

    /// Notes that the kernel has what is so no longer.
    pub fn note_outdated(&self, outdated: Outdated) {
        lock(&self.outdated).push(outdated);
        self.has_outdated.store(true, Ordering::Release);
    }

    /// What was noted since this was last asked.
    pub fn take_outdated(&self) -> Vec<Outdated> {
        if !self.has_outdated.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        std::mem::take(&mut *lock(&self.outdated))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::stream::Bytes;

    fn table(most: usize, files: u64) -> Implicit {
        let table = Implicit {
            most,
            ..Implicit::default()
        };
        for ino in 1..=files {
            table.keep(Ino(ino), Arc::new(Stream::new(Bytes::Empty, false)));
        }
        table
    }

    #[test]
    fn those_used_least_recently_go_first() {
        let table = table(8, 8);
        assert_eq!(table.too_many(), []);
        table.get(Ino(1));
        table.keep(Ino(9), Arc::new(Stream::new(Bytes::Empty, false)));
        let mut gone = table.too_many();
        gone.sort_unstable();
        assert_eq!(gone, [2, 3, 4, 5, 6].map(Ino));
    }

    #[test]
    fn the_idle_are_those_not_used_between_two_looks() {
        let table = table(8, 3);
        assert_eq!(table.idle(), [], "all are new");
        table.get(Ino(2));
        let mut idle = table.idle();
        idle.sort_unstable();
        assert_eq!(idle, [Ino(1), Ino(3)]);
        assert_eq!(table.idle().len(), 3);
    }

    #[test]
    fn who_is_at_a_file_keeps_it() {
        let table = table(8, 1);
        let (stream, inode) = (table.get(Ino(1)), table.get(Ino(1)));
        assert!(!table.remove_if_free(Ino(1)));
        drop(stream);
        assert!(table.remove_if_free(Ino(1)));
        assert!(table.get(Ino(1)).is_none() && inode.is_some());
    }

    #[test]
    fn what_is_outdated_is_told_once() {
        let table = Implicit::default();
        assert_eq!(table.take_outdated(), []);
        let one = Outdated {
            ino: Ino(1),
            names: Vec::new(),
        };
        table.note_outdated(one.clone());
        assert_eq!(table.take_outdated(), [one]);
        assert_eq!(table.take_outdated(), []);
    }
}
