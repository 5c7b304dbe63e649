//! Where objects of the base are: directories that may move, and names in them.
//!
//! Knows places only; what the host has there is for [`crate::core::base::BaseTree`] to look.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::core::base::BaseStat;
use crate::core::record::Fingerprint;
use crate::core::types::{Ino, Kind, Name, Time};
use crate::sync::{Arc, RwLock};

/// Where a base object is.
#[derive(Clone, Debug)]
pub enum BaseLoc {
    /// An entry of a base directory.
    Child(Arc<BaseDir>, Name),
    /// At this absolute path, as recorded at copy-up.
    Path(Arc<[u8]>),
}

/// A base directory that lookups go on below.
#[derive(Debug)]
pub struct BaseDir {
    /// Its inode number in the branch.
    pub ino: Ino,
    /// Where it is on the host. A leaf among the locks: nothing else is taken under it.
    place: RwLock<Place>,
    /// [`crate::core::base::state`] of it just before its names were last listed; 0: not known.
    listed_in: AtomicU64,
    /// The same of when the watch on it began, or when it was last looked through for want of events.
    watched_in: AtomicU64,
    /// A watch on it was asked for.
    is_asked_for: AtomicBool,
    /// The host has changed names in it since they were last listed.
    has_changed: AtomicBool,
}

/// Where a base directory is, and which one it is.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub loc: BaseLoc,
    /// Host inode and birth time; `None`: whatever directory is there.
    pub id: Option<(u64, Time)>,
}

impl BaseDir {
    /// The directory at `loc`: the one that was `seen` there and no other, or whichever is there.
    pub fn new(ino: Ino, loc: BaseLoc, seen: Option<&Fingerprint>) -> Self {
        let id = seen.map(|seen| (seen.ino, seen.btime));
        Self {
            ino,
            place: RwLock::new(Place { loc, id }),
            listed_in: AtomicU64::new(0),
            watched_in: AtomicU64::new(0),
            is_asked_for: AtomicBool::new(false),
            has_changed: AtomicBool::new(false),
        }
    }

    /// Whether nobody has asked for a watch on it. Says so once.
    pub(super) fn ask_for_watch(&self) -> bool {
        !self.is_asked_for.load(Ordering::Relaxed)
            && !self.is_asked_for.swap(true, Ordering::Relaxed)
    }

    /// Whether a watch on it was asked for.
    pub(super) fn is_asked_for(&self) -> bool {
        self.is_asked_for.load(Ordering::Relaxed)
    }

    /// The watch on it is gone: it is to be asked for again.
    pub(super) fn watch_ended(&self) {
        self.is_asked_for.store(false, Ordering::Relaxed);
    }

    /// Notes the state in which it is watched. Returns whether that was another.
    pub(super) fn set_watched_in(&self, state: u64) -> bool {
        self.watched_in.swap(state, Ordering::Relaxed) != state
    }

    /// Notes whether the host has changed names since they were last listed.
    pub(super) fn set_changed(&self, changed: bool) {
        self.has_changed.store(changed, Ordering::SeqCst);
    }

    /// Whether the host has changed names since they were last listed.
    pub(super) fn has_changed(&self) -> bool {
        self.has_changed.load(Ordering::SeqCst)
    }

    /// The state in which its names were last listed; 0: not known.
    pub(super) fn listed_in(&self) -> u64 {
        self.listed_in.load(Ordering::Relaxed)
    }

    /// Notes the state in which its names are being listed.
    pub(super) fn set_listed_in(&self, state: u64) {
        self.listed_in.store(state, Ordering::Relaxed);
    }

    /// Where it is on the host, and which one it is.
    pub(super) fn place_and_id(&self) -> Place {
        crate::sync::read(&self.place).clone()
    }

    /// Where it is on the host.
    pub fn loc(&self) -> BaseLoc {
        self.place_and_id().loc
    }

    /// Notes that the host has moved it. The new place must not be below itself.
    pub fn move_to(&self, loc: BaseLoc) {
        crate::sync::write(&self.place).loc = loc;
    }

    /// From now on it is whatever directory is at its place.
    pub fn go_by_name(&self) {
        crate::sync::write(&self.place).id = None;
    }

    /// Whether `stat` may be of it.
    pub fn is(&self, stat: &BaseStat) -> bool {
        let same = |id| id == (stat.fingerprint.ino, stat.fingerprint.btime);
        stat.kind == Kind::Dir && self.place_and_id().id.is_none_or(same)
    }

    /// Whether it is found by way of the directory `ino`, or is that.
    pub fn is_by_way_of(&self, ino: Ino) -> bool {
        let (mut at, mut loc) = (self.ino, self.loc());
        loop {
            match loc {
                _ if at == ino => return true,
                BaseLoc::Child(above, _) => (at, loc) = (above.ino, above.loc()),
                BaseLoc::Path(_) => return false,
            }
        }
    }
}

impl BaseLoc {
    /// The absolute host path, as bytes.
    pub fn path(&self) -> Vec<u8> {
        let mut names: Vec<Name> = Vec::new();
        let mut loc = self.clone();
        let mut path = loop {
            match loc {
                BaseLoc::Child(dir, name) => {
                    names.push(name);
                    loc = dir.loc();
                }
                BaseLoc::Path(path) => {
                    break if path.as_ref() == b"/" {
                        vec![]
                    } else {
                        path.to_vec()
                    };
                }
            }
        };
        for name in names.iter().rev() {
            path.push(b'/');
            path.extend_from_slice(name.as_bytes());
        }
        if path.is_empty() {
            path.push(b'/');
        }
        path
    }
}
