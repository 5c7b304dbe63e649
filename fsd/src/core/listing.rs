//! [`Listings`]: merged directory listings, kept while somebody reads through them.
//!
//! A position in a directory is a hash of the name there, so it stays valid while other entries
//! come and go, needs no handle, and survives that the listing is dropped and built anew.

use std::collections::{BTreeMap, HashMap};
use std::hash::{Hash, Hasher};

use crate::core::types::{Ino, Kind, Name};

/// Listings kept at least, whatever their size.
const KEPT_MIN: usize = 16;
/// What the kept listings may weigh beyond that, in entries: some tens of megabytes. A further one
/// drops those unused for longest.
const KEPT_ENTRIES_MAX: usize = 1 << 18;
/// What a listing weighs beside its entries.
const LISTING_WEIGHT: usize = 8;
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
    /// Adds or replaces an entry. Returns whether that changed anything.
    pub fn insert(&mut self, name: Name, ino: Ino, kind: Kind) -> bool {
        let mut cookie = first_cookie(&name);
        while self
            .entries
            .get(&cookie)
            .is_some_and(|(other, ..)| *other != name)
        {
            cookie += 1;
        }
        let old = self.entries.insert(cookie, (name, ino, kind));
        old.is_none_or(|(_, old_ino, old_kind)| (old_ino, old_kind) != (ino, kind))
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

    /// Whether the two have the same names.
    pub fn has_names_of(&self, other: &Listing) -> bool {
        self.entries.keys().eq(other.entries.keys())
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

    fn weight(&self) -> usize {
        self.entries.len() + LISTING_WEIGHT
    }
}

/// The listings in use. Guarded by the tree lock.
#[derive(Debug, Default)]
pub struct Listings {
    by_dir: HashMap<Ino, Listing>,
    /// The same by last use.
    by_use: BTreeMap<u64, Ino>,
    /// Of all together, in entries.
    weight: usize,
    clock: u64,
}

impl Listings {
    /// The listing of `dir`, if it is kept.
    pub fn get(&mut self, dir: Ino) -> Option<&Listing> {
        let listing = self.by_dir.get_mut(&dir)?;
        self.clock += 1;
        self.by_use.remove(&listing.used);
        self.by_use.insert(self.clock, dir);
        listing.used = self.clock;
        Some(listing)
    }

    /// Keeps `listing`, perhaps dropping others.
    pub fn keep(&mut self, dir: Ino, mut listing: Listing) {
        self.forget(dir);
        let weight = listing.weight();
        while self.by_dir.len() >= KEPT_MIN && self.weight + weight > KEPT_ENTRIES_MAX {
            let Some((_, oldest)) = self.by_use.first_key_value() else {
                break;
            };
            self.forget(*oldest);
        }
        self.clock += 1;
        listing.used = self.clock;
        self.by_use.insert(self.clock, dir);
        self.weight += weight;
        self.by_dir.insert(dir, listing);
    }

    /// Drops the listing of `dir`: the next read builds it anew. Returns what was kept.
    pub fn forget(&mut self, dir: Ino) -> Option<Listing> {
        let listing = self.by_dir.remove(&dir)?;
        self.by_use.remove(&listing.used);
        self.weight -= listing.weight();
        Some(listing)
    }

    /// Notes that `dir` now has this entry. Returns whether it may be new to it.
    pub fn added(&mut self, dir: Ino, name: &Name, ino: Ino, kind: Kind) -> bool {
        let Some(listing) = self.by_dir.get_mut(&dir) else {
            return true;
        };
        self.weight -= listing.weight();
        let is_new = listing.insert(name.clone(), ino, kind);
        self.weight += listing.weight();
        is_new
    }

    /// Notes that `dir` no longer has this entry.
    pub fn removed(&mut self, dir: Ino, name: &Name) {
        if let Some(listing) = self.by_dir.get_mut(&dir) {
            self.weight -= listing.weight();
            listing.remove(name);
            self.weight += listing.weight();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(entries: usize) -> Listing {
        let mut listing = Listing::default();
        for n in 0..entries {
            let name = Name::new(n.to_string().as_bytes()).unwrap();
            listing.insert(name, Ino(n as u64), Kind::File);
        }
        listing
    }

    fn kept(listings: &mut Listings, dirs: std::ops::Range<u64>) -> usize {
        dirs.filter(|dir| listings.get(Ino(*dir)).is_some()).count()
    }

    #[test]
    fn many_directories_can_be_read_side_by_side() {
        let mut listings = Listings::default();
        for dir in 0..200 {
            listings.keep(Ino(dir), of(500));
        }
        assert_eq!(kept(&mut listings, 0..200), 200);
        assert_eq!(listings.weight, 200 * (500 + LISTING_WEIGHT));
    }

    #[test]
    fn large_ones_are_bounded_and_the_used_ones_stay() {
        let mut listings = Listings::default();
        for dir in 0..40 {
            listings.keep(Ino(dir), of(20_000));
            assert!(listings.get(Ino(0)).is_some(), "in use");
        }
        assert_eq!(kept(&mut listings, 0..40), KEPT_MIN);
        for dir in 40..5000 {
            listings.keep(Ino(dir), Listing::default());
        }
        assert!(listings.weight <= KEPT_ENTRIES_MAX);
        assert_eq!(kept(&mut listings, 40..5000), 4960);
    }

    #[test]
    fn what_is_dropped_weighs_nothing() {
        let mut listings = Listings::default();
        let name = Name::new(b"new").unwrap();
        listings.keep(Ino(1), of(3));
        listings.keep(Ino(1), of(2));
        listings.added(Ino(1), &name, Ino(9), Kind::File);
        listings.added(Ino(1), &name, Ino(9), Kind::File);
        assert_eq!(listings.weight, 3 + LISTING_WEIGHT);
        listings.removed(Ino(1), &name);
        listings.removed(Ino(1), &name);
        assert_eq!(listings.weight, 2 + LISTING_WEIGHT);
        listings.forget(Ino(1));
        listings.forget(Ino(1));
        assert_eq!((listings.weight, listings.by_use.len()), (0, 0));
    }
}
