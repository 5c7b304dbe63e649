//! [`Mapped`]: the files that a program may have mapped to write to where the kernel serves the
//! mapping by itself (passthrough).
//!
//! Such writes, and the msync(2) after them, go to the object and are told to nobody, the mount's
//! own inode included: what it keeps of such a file's times is right until the next store only. So
//! the kernel is not to keep attributes of these files; each stat(2) asks, and the object answers.
//! A shared mapping for writing takes an open for both reading and writing; the others cost nothing.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::core::types::{Fh, Ino};
use crate::sync::{Mutex, lock};

/// The passthrough handles that can be mapped for writing, with their files.
#[derive(Debug, Default)]
pub(super) struct Mapped {
    /// How many there are, to be read without the lock.
    count: AtomicUsize,
    tables: Mutex<Tables>,
}

#[derive(Debug, Default)]
struct Tables {
    by_handle: HashMap<Fh, Ino>,
    handles: HashMap<Ino, u32>,
}

impl Mapped {
    /// Notes a passthrough handle, opened with these flags of open(2). Returns whether it counts.
    pub(super) fn opened(&self, ino: Ino, fh: Fh, flags: i32) -> bool {
        if flags & nix::libc::O_ACCMODE != nix::libc::O_RDWR {
            return false;
        }
        let mut tables = lock(&self.tables);
        tables.by_handle.insert(fh, ino);
        *tables.handles.entry(ino).or_default() += 1;
        self.count.store(tables.by_handle.len(), Ordering::Release);
        true
    }

    /// Forgets a handle, if it was noted.
    pub(super) fn released(&self, fh: Fh) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut tables = lock(&self.tables);
        let Some(ino) = tables.by_handle.remove(&fh) else {
            return;
        };
        if let Some(handles) = tables.handles.get_mut(&ino) {
            *handles -= 1;
            if *handles == 0 {
                tables.handles.remove(&ino);
            }
        }
        self.count.store(tables.by_handle.len(), Ordering::Release);
    }

    /// Whether stores to `ino` may be under way that nobody tells of.
    pub(super) fn may_be(&self, ino: Ino) -> bool {
        self.count.load(Ordering::Acquire) != 0 && lock(&self.tables).handles.contains_key(&ino)
    }
}

#[cfg(test)]
mod tests {
    use nix::libc::{O_RDONLY, O_RDWR, O_WRONLY};

    use super::*;

    #[test]
    fn a_file_may_be_mapped_while_a_handle_is_left_that_reads_and_writes() {
        let mapped = Mapped::default();
        assert!(!mapped.opened(Ino(1), Fh(1), O_RDONLY) && !mapped.opened(Ino(1), Fh(2), O_WRONLY));
        assert!(!mapped.may_be(Ino(1)));
        assert!(mapped.opened(Ino(1), Fh(3), O_RDWR) && mapped.opened(Ino(1), Fh(4), O_RDWR));
        for gone in [1, 2, 3, 3] {
            mapped.released(Fh(gone));
            assert!(mapped.may_be(Ino(1)) && !mapped.may_be(Ino(2)));
        }
        mapped.released(Fh(4));
        assert!(!mapped.may_be(Ino(1)));
    }
}
