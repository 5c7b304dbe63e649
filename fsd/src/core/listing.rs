//! [`Listings`]: merged directory listings, kept while somebody reads through them.
//!
//! A position in a directory is a hash of the name there, so it stays valid while other entries
//! come and go, needs no handle, and survives that the listing is dropped and built anew.

use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};

use crate::core::types::{Ino, Kind, Name};

/// Listings kept at most; a further one drops the one unused for longest.
const KEPT_MAX: usize = 16;
/// Cookies of `.` and `..`; those of entries are larger.
pub const DOT_COOKIE: u64 = 1;
/// See [`DOT_COOKIE`].
pub const DOTDOT_COOKIE: u64 = 2;

/// A merged listing by cookie.
#[derive(Debug, Default)]
pub struct Listing {
    entries: BTreeMap<u64, (Name, Ino, Kind)>,
    used: u64,
}

/// Where the search for a name's cookie starts.
fn first_cookie(name: &Name) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    name.hash(&mut hasher);
    // 62 bits: positive as an off_t, and room for the dots and for collisions.
    (hasher.finish() >> 2) + DOTDOT_COOKIE + 1
}

impl Listing {
    /// Adds or replaces an entry.
    pub fn insert(&mut self, name: Name, ino: Ino, kind: Kind) {
        let mut cookie = first_cookie(&name);
        while self
            .entries
            .get(&cookie)
            .is_some_and(|(other, ..)| *other != name)
        {
            cookie += 1;
        }
        self.entries.insert(cookie, (name, ino, kind));
    }

    /// Removes an entry, if it is there.
    pub fn remove(&mut self, name: &Name) {
        let mut cookie = first_cookie(name);
        while let Some((other, ..)) = self.entries.get(&cookie) {
            if other == name {
                self.entries.remove(&cookie);
                return;
            }
            cookie += 1;
        }
    }

    /// Up to `max` entries after `cookie`, in order.
    pub fn after(&self, cookie: u64, max: usize) -> Vec<(u64, Name, Ino, Kind)> {
        self.entries
            .range(cookie + 1..)
            .take(max)
            .map(|(cookie, (name, ino, kind))| (*cookie, name.clone(), *ino, *kind))
            .collect()
    }

    /// Whether it has no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// The listings in use. Guarded by the tree lock.
#[derive(Debug, Default)]
pub struct Listings {
    by_dir: HashMap<Ino, Listing>,
    clock: u64,
}

impl Listings {
    /// The listing of `dir`, if it is kept.
    pub fn get(&mut self, dir: Ino) -> Option<&Listing> {
        self.clock += 1;
        let listing = self.by_dir.get_mut(&dir)?;
        listing.used = self.clock;
        Some(listing)
    }

    /// Keeps `listing`, perhaps dropping another.
    pub fn keep(&mut self, dir: Ino, mut listing: Listing) {
        if self.by_dir.len() >= KEPT_MAX {
            let oldest = self
                .by_dir
                .iter()
                .min_by_key(|(_, l)| l.used)
                .map(|(ino, _)| *ino);
            if let Some(oldest) = oldest {
                self.by_dir.remove(&oldest);
            }
        }
        self.clock += 1;
        listing.used = self.clock;
        self.by_dir.insert(dir, listing);
    }

    /// Drops the listing of `dir`: the next read builds it anew.
    pub fn forget(&mut self, dir: Ino) {
        self.by_dir.remove(&dir);
    }

    /// Notes that `dir` now has this entry.
    pub fn added(&mut self, dir: Ino, name: &Name, ino: Ino, kind: Kind) {
        if let Some(listing) = self.by_dir.get_mut(&dir) {
            listing.insert(name.clone(), ino, kind);
        }
    }

    /// Notes that `dir` no longer has this entry.
    pub fn removed(&mut self, dir: Ino, name: &Name) {
        if let Some(listing) = self.by_dir.get_mut(&dir) {
            listing.remove(name);
        }
    }
}
