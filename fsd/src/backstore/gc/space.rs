//! [`Space`]: what files take on the disk, and how much of it really comes free when they go.

use std::path::Path;

use crate::backstore::media::{FileFacts, Media};

/// What files take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Files.
    pub files: u64,
    /// Bytes allocated to them, whatever their lengths say.
    pub bytes: u64,
    /// Of these, bytes that others have too (hard links, shared extents): they come free only when
    /// the others go as well.
    pub shared_bytes: u64,
}

impl Space {
    /// Counts more.
    pub fn add(&mut self, other: &Space) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.shared_bytes += other.shared_bytes;
    }

    /// What comes free at once.
    pub fn free_bytes(&self) -> u64 {
        self.bytes - self.shared_bytes.min(self.bytes)
    }

    /// Of one file; nothing if it is gone.
    pub fn of_file(media: &dyn Media, path: &Path) -> Space {
        let Ok(facts) = media.facts(path) else {
            return Space::default();
        };
        let bytes = facts.blocks * FileFacts::BLOCK_BYTES;
        let shared_bytes = match facts.links {
            0 | 1 if bytes > 0 => media.shared_bytes(path).min(bytes),
            0 | 1 => 0,
            _ => bytes,
        };
        Space {
            files: 1,
            bytes,
            shared_bytes,
        }
    }

    /// Of a file or of all files below a directory.
    pub fn of(media: &dyn Media, path: &Path) -> Space {
        match media.list(path) {
            Ok(entries) => {
                let mut all = Space::default();
                for entry in entries {
                    let path = path.join(entry.name);
                    all.add(&match entry.is_dir {
                        true => Space::of(media, &path),
                        false => Space::of_file(media, &path),
                    });
                }
                all
            }
            Err(_) => Space::of_file(media, path),
        }
    }
}
