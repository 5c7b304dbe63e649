//! [`Removals`]: links taken off files that keep others, while the kernel may not have been told.
//!
//! The kernel counts links down by itself when it handles the answer to a removal. Attributes that
//! have the removal in them and get there first make it count the same removal twice. So who hands
//! attributes to the kernel asks here first, and what was learnt from the kernel that shows it is
//! past the answer is noted here. Decides nothing about the tree.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::core::types::Ino;
use crate::sync::{Mutex, lock};

/// The removals under way. A lock of its own, of rank 3.
///
/// At most one for an inode, a directory and a thread each: the kernel holds the locks of both
/// inodes from before it asks until after it has handled the answer, and its thread waits.
#[derive(Debug, Default)]
pub struct Removals {
    /// How many there are, to be read without the lock. Most of the time: none.
    count: AtomicUsize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    by_file: HashMap<Ino, Removal>,
    by_dir: HashMap<Ino, Ino>,
    by_thread: HashMap<u32, Ino>,
}

#[derive(Clone, Copy, Debug)]
struct Removal {
    dir: Ino,
    /// The thread that asked, as the kernel names it; 0: one that it cannot name to us.
    thread: u32,
}

impl Table {
    fn remove(&mut self, file: Ino) {
        let Some(Removal { dir, thread }) = self.by_file.remove(&file) else {
            return;
        };
        self.by_dir.remove(&dir);
        self.by_thread.remove(&thread);
    }
}

impl Removals {
    /// Notes that `thread` had a link to `file` in `dir` removed, and others are left. To be called
    /// under the tree lock that the removal was made under: whoever reads the file's attributes
    /// after that finds it noted.
    pub(in crate::core) fn begin(&self, file: Ino, dir: Ino, thread: u32) {
        self.update(|table| {
            let earlier = [
                Some(file),
                table.by_dir.get(&dir).copied(),
                table.by_thread.get(&thread).copied(),
            ];
            for file in earlier.into_iter().flatten() {
                table.remove(file);
            }
            table.by_file.insert(file, Removal { dir, thread });
            table.by_dir.insert(dir, file);
            if thread != 0 {
                table.by_thread.insert(thread, file);
            }
        });
    }

    /// Whether the kernel may still have to count a removed link of `file`.
    pub fn is_under_way(&self, file: Ino) -> bool {
        !self.is_empty() && lock(&self.table).by_file.contains_key(&file)
    }

    /// Notes that `thread` goes on: whatever it asked before, it has its answer.
    pub fn thread_goes_on(&self, thread: u32) {
        if !self.is_empty() && thread != 0 {
            self.update(|table| {
                if let Some(file) = table.by_thread.get(&thread).copied() {
                    table.remove(file);
                }
            });
        }
    }

    /// Notes that somebody got the kernel's lock of `ino`, a file or a directory: who held it for a
    /// removal has its answer.
    pub fn lock_was_free(&self, ino: Ino) {
        if !self.is_empty() {
            self.update(|table| {
                if let Some(file) = table.by_dir.get(&ino).copied() {
                    table.remove(file);
                }
                table.remove(ino);
            });
        }
    }

    /// Notes that the kernel dropped `file`, which it keeps while it removes a link to it.
    pub(in crate::core) fn was_dropped(&self, file: Ino) {
        if !self.is_empty() {
            self.update(|table| table.remove(file));
        }
    }

    // A removal that this thread should know of was noted under the tree lock, which it has held
    // since then, so it sees the count too.
    fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    fn update(&self, change: impl FnOnce(&mut Table)) {
        let mut table = lock(&self.table);
        change(&mut table);
        self.count.store(table.by_file.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Ino = Ino(10);
    const DIR: Ino = Ino(20);

    type Sign = fn(&Removals);

    fn one() -> Removals {
        let removals = Removals::default();
        removals.begin(FILE, DIR, 7);
        assert!(removals.is_under_way(FILE) && !removals.is_under_way(DIR));
        removals
    }

    #[test]
    fn each_sign_ends_its_removal_and_no_other() {
        let signs: [(&str, Sign); 4] = [
            ("thread", |r| r.thread_goes_on(7)),
            ("directory", |r| r.lock_was_free(DIR)),
            ("file", |r| r.lock_was_free(FILE)),
            ("dropped", |r| r.was_dropped(FILE)),
        ];
        for (sign, show) in signs {
            let removals = one();
            removals.begin(Ino(11), Ino(21), 8);
            show(&removals);
            assert!(!removals.is_under_way(FILE), "{sign}");
            assert!(removals.is_under_way(Ino(11)), "{sign}");
            removals.lock_was_free(Ino(21));
            assert!(removals.is_empty(), "{sign}");
            assert_eq!(lock(&removals.table).by_thread.len(), 0, "{sign}");
        }
    }

    #[test]
    fn signs_of_others_end_nothing() {
        let removals = one();
        removals.thread_goes_on(8);
        removals.thread_goes_on(0);
        removals.lock_was_free(Ino(21));
        removals.was_dropped(DIR);
        assert!(removals.is_under_way(FILE));
    }

    #[test]
    fn a_thread_without_a_name_is_told_from_none() {
        let removals = Removals::default();
        removals.begin(FILE, DIR, 0);
        removals.begin(Ino(11), Ino(21), 0);
        removals.thread_goes_on(0);
        assert!(removals.is_under_way(FILE) && removals.is_under_way(Ino(11)));
    }

    #[test]
    fn a_further_removal_shows_that_the_one_before_is_done() {
        let removals = one();
        removals.begin(Ino(11), DIR, 8);
        assert!(!removals.is_under_way(FILE), "the directory was locked");
        removals.begin(Ino(12), Ino(22), 8);
        assert!(!removals.is_under_way(Ino(11)), "the thread went on");
        removals.begin(Ino(12), Ino(23), 9);
        assert!(removals.is_under_way(Ino(12)));
        removals.lock_was_free(Ino(22));
        removals.thread_goes_on(8);
        assert!(
            removals.is_under_way(Ino(12)),
            "these were signs of the first"
        );
    }
}
