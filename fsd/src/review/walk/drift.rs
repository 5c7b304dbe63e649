//! Whether the host's side of a changed path is still what the branch set out from.
//!
//! A record says what its base object looked like at copy-up. Where the branch has no record of the
//! object (it removed or replaced it), times tell: an object of the host that is younger than the
//! branch's own deed is not the one which that was done to. Where that deed is still to come by the clock,
//! which was set back then, they tell nothing: better held back once too often.

use super::shown::Shown;
use super::{Tree, Walk};
use crate::core::record::{Fingerprint, InodeRec};
use crate::core::types::{Kind, Time};
use crate::review::base::BaseEntry;

impl Walk<'_> {
    /// When the branch last changed the names in a directory that it has a record of.
    pub(super) fn since_of(&self, tree: &Tree) -> Option<Time> {
        Some(self.inodes.get(&tree.ino?)?.ctime)
    }

    /// Whether the host changed what it has at `path` since the branch took it over, or made or
    /// removed it since. What cannot be known is taken for unchanged.
    pub(super) fn drifted(
        &mut self,
        path: &[u8],
        old: Option<&BaseEntry>,
        new: Option<&Shown>,
    ) -> bool {
        let record = new
            .and_then(|new| new.recorded)
            .and_then(|ino| self.inodes.get(&ino))
            .filter(|record| record.kind != Kind::Dir);
        let Some(old) = old else {
            // The host had one, and it is gone; a moved file was taken from elsewhere.
            return record.is_some_and(|record| comes_from(record, path));
        };
        if old.node.kind == Kind::Dir {
            return false;
        }
        let now = &old.fingerprint;
        // Removed or moved away: the record may remain, under another name.
        let record = record
            .filter(|record| comes_from(record, path) || is_of(record, now))
            .or_else(|| self.origins.get(path).filter(|_| new.is_none()));
        if let Some(origin) = record.and_then(|record| record.origin.as_ref()) {
            return is_other(&origin.fingerprint, now);
        }
        let made = new
            .and_then(|new| new.recorded)
            .and_then(|ino| self.inodes.get(&ino));
        let since = match made {
            Some(record) if record.origin.is_none() => Some(record.btime),
            _ => self.since,
        };
        let Some(since) = since else {
            return false;
        };
        let is_set_back = since > self.now;
        self.set.clock_set_back |= is_set_back;
        is_set_back || is_younger(now, since)
    }
}

impl Walk<'_> {
    /// Whether the host may have changed the mode of what it has at `path` since the branch took it
    /// over. (A new link changes the ctime too: better held back once too often.)
    pub(super) fn attributes_drifted(
        &self,
        path: &[u8],
        old: Option<&BaseEntry>,
        new: Option<&Shown>,
    ) -> bool {
        let recorded = new.and_then(|new| new.recorded);
        let record = recorded.and_then(|ino| self.inodes.get(&ino));
        let (Some(old), Some(record)) = (old, record) else {
            return false;
        };
        let now = &old.fingerprint;
        let origin = record.origin.as_ref().filter(|_| {
            record.kind != Kind::Dir && (comes_from(record, path) || is_of(record, now))
        });
        origin.is_some_and(|origin| origin.fingerprint.ctime != now.ctime)
    }
}

fn comes_from(record: &InodeRec, path: &[u8]) -> bool {
    let origin = record.origin.as_ref();
    origin.is_some_and(|origin| origin.path.as_ref() == path)
}

/// Whether the record is of this very object, under whatever name.
fn is_of(record: &InodeRec, now: &Fingerprint) -> bool {
    // Not by the device's number, which moves.
    let same = |known: &Fingerprint| (known.ino, known.btime) == (now.ino, now.btime);
    let origin = record.origin.as_ref();
    origin.is_some_and(|origin| same(&origin.fingerprint))
}

/// Whether the contents may be others: a new ctime alone is a matter of names or attributes.
fn is_other(known: &Fingerprint, now: &Fingerprint) -> bool {
    (known.ino, known.size, known.mtime) != (now.ino, now.size, now.mtime)
}

/// Whether the object was made or written after `then`. Times that can be set need a ctime as late.
fn is_younger(now: &Fingerprint, then: Time) -> bool {
    now.ctime > then && (now.mtime > then || now.btime > then)
}
