//! [`Node`]: one inode as the superblock holds it while the kernel, a handle or a child refers to it.

use std::sync::Arc;

use crate::backstore::ObjectFile;
use crate::core::base::{BaseDir, BaseLoc};
use crate::core::exposed::Exposed;
use crate::core::record::{Fingerprint, InodeRec};
use crate::core::stream::Stream;
use crate::core::types::{Ino, Kind, Name};

/// A live inode. Guarded by the tree lock; the stream inside has a lock of its own.
#[derive(Debug)]
pub struct Node {
    /// File type: never changes while the inode lives.
    pub kind: Kind,
    /// References the kernel (or an API user) holds: one per entry it was given.
    pub lookups: u64,
    /// Handles open on it.
    pub opens: u32,
    /// Handles open for writing.
    pub writers: u32,
    /// Handles that running programs hold on their own file.
    pub executors: u32,
    /// One of `opens` and `writers` is our own: the file is in the table of `core::implicit`.
    pub implicit: bool,
    /// The branch's own record; `None` while the inode is the base's alone.
    pub record: Option<Arc<InodeRec>>,
    /// What is known of its base object, if it has or had one: most files of a busy branch have none.
    host: Option<Box<OnHost>>,
    /// For a directory that merges with the base: where children are looked up.
    pub base_dir: Option<Arc<BaseDir>>,
    /// For a directory: the one it is in, kept in the table as long as this node is.
    pub parent: Option<Ino>,
    /// Nodes whose `parent` this is.
    pub children: u32,
    /// Its last link is gone; it lives on for its handles and is never recorded again.
    pub unlinked: bool,
    /// It was changed while it was open, and no name led to it any more: the names by which the kernel
    /// holds it may be others' by now.
    pub nameless: bool,
    /// For a directory: how far the kernel may keep its listing.
    pub listed: Listed,
    /// For a directory above the exposed roots: what of it is shown.
    pub exposed: Option<Arc<Exposed>>,
    /// The bytes, while a handle or a change needs them. Set and taken away by [`Tree::hold`] and
    /// [`Tree::let_go`].
    ///
    /// [`Tree::hold`]: crate::core::superblock::Tree::hold
    /// [`Tree::let_go`]: crate::core::superblock::Tree::let_go
    pub(super) stream: Option<Arc<Stream>>,
    /// The object to which the kernel itself moves the bytes of its open handles; `None`: they go
    /// through its page cache and requests to us, or nothing is open. It allows one way at a time.
    pub native: Option<Box<Native>>,
    /// Who may be about to take in attributes of it that a change makes old.
    pub shown: Shown,
}

/// What is known of an inode's base object.
#[derive(Debug, Default)]
struct OnHost {
    /// Where it is, while there is one: content, attributes or children come from it.
    base: Option<BaseLoc>,
    /// Its identity at the first look, checked again when it is opened.
    seen: Option<Fingerprint>,
    /// The base names it was reached by of which no dentry of the branch says so yet, in order of
    /// directory and name. The next recorded change puts them, so that the host may move or remove
    /// the names without taking the change along. One, if it is no hard link.
    unplaced: Vec<(Arc<BaseDir>, Name)>,
    known: Known,
}

/// What the kernel knows of a file whose bytes are the base's: [`crate::core::base::state`] of it at
/// certain times. 0: never.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// The state that its attributes are from.
    pub attributes: u64,
    /// The state that its pages are from.
    pub pages: u64,
    /// The last open was refused, so that it asks for the attributes again.
    pub asked: bool,
}

/// Whether the kernel may keep a directory's listing.
///
/// It finds the place at which a reader is to go on by the exact cookie of the entry before it. One that
/// it does not find it asks us for, unless what it keeps fills its last page to the end: then it takes
/// the directory to end there (Linux 6.18, fs/fuse/readdir.c). So what it keeps must have every entry
/// that a reader may have seen last, in whichever listing he saw it: one that was kept before, one that
/// comes from us, one that was under way when a name came or went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Listed {
    /// Nobody has seen an entry.
    #[default]
    Never,
    /// All that was ever seen has the same names.
    Steady,
    /// Names have come or gone since it was seen first: to be asked for each time.
    Changing,
}

/// The threads that were given attributes of an inode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shown {
    /// None.
    #[default]
    Nobody,
    /// This one alone.
    To(u32),
    /// More than one, or one that has no name.
    Several,
}

impl Shown {
    /// Adds `thread`; 0 stands for one without a name.
    pub fn add(&mut self, thread: u32) {
        *self = match *self {
            Shown::Nobody if thread != 0 => Shown::To(thread),
            Shown::To(known) if known == thread => Shown::To(known),
            _ => Shown::Several,
        };
    }

    /// Whether anybody but `thread` is among them; then they are forgotten.
    pub fn take(&mut self, thread: u32) -> bool {
        match *self {
            Shown::Nobody => false,
            Shown::To(known) if known == thread => false,
            _ => {
                *self = Shown::Nobody;
                true
            }
        }
    }
}

/// The object that the kernel reads and writes by itself.
#[derive(Clone, Debug)]
pub struct Native {
    /// Identifies the backing registered with the kernel.
    pub token: u64,
    /// The object: what a further open must be given, whatever else goes on with the file.
    pub file: Arc<dyn ObjectFile>,
}

impl Node {
    /// A node of this kind that nothing refers to yet.
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            lookups: 0,
            opens: 0,
            writers: 0,
            executors: 0,
            implicit: false,
            record: None,
            host: None,
            base_dir: None,
            parent: None,
            children: 0,
            unlinked: false,
            nameless: false,
            listed: Listed::default(),
            exposed: None,
            stream: None,
            native: None,
            shown: Shown::Nobody,
        }
    }

    /// Notes a base name that it was reached by; `is_only` says that the host has no other for it.
    pub fn reached_by(&mut self, dir: &Arc<BaseDir>, name: &Name, is_only: bool) {
        let unplaced = &mut self.host_mut().unplaced;
        if is_only {
            unplaced.clear();
        }
        let place = (dir.ino, name);
        match unplaced.binary_search_by(|(dir, name)| (dir.ino, name).cmp(&place)) {
            Ok(at) => unplaced[at].0 = dir.clone(),
            Err(at) => {
                if unplaced.is_empty() {
                    // Nearly always the only one: no room for more.
                    unplaced.reserve_exact(1);
                }
                unplaced.insert(at, (dir.clone(), name.clone()));
            }
        }
    }

    fn host_mut(&mut self) -> &mut OnHost {
        self.host.get_or_insert_default()
    }

    /// Where its base object is, while there is one.
    pub fn base(&self) -> Option<&BaseLoc> {
        self.host.as_ref()?.base.as_ref()
    }

    /// The identity of its base object at the first look.
    pub fn seen(&self) -> Option<&Fingerprint> {
        self.host.as_ref()?.seen.as_ref()
    }

    /// Base names that it was reached by and no dentry of the branch leads to it from.
    pub fn unplaced(&self) -> &[(Arc<BaseDir>, Name)] {
        self.host.as_ref().map_or(&[], |host| &host.unplaced)
    }

    /// Says where its base object is.
    pub fn set_base(&mut self, loc: BaseLoc) {
        self.host_mut().base = Some(loc);
    }

    /// Says which object its base object is.
    pub fn set_seen(&mut self, print: Fingerprint) {
        self.host_mut().seen = Some(print);
    }

    /// Forgets which object its base object is: whichever is there.
    fn forget_seen(&mut self) {
        if let Some(host) = &mut self.host {
            host.seen = None;
        }
    }

    /// The branch has dentries for all of its names now.
    pub fn is_placed(&mut self) {
        if let Some(host) = &mut self.host {
            host.unplaced = Vec::new();
        }
    }

    /// What the kernel knows of its base object.
    pub fn known(&self) -> Known {
        self.host
            .as_ref()
            .map(|host| host.known)
            .unwrap_or_default()
    }

    /// What the kernel knows of its base object, to be changed.
    pub fn known_mut(&mut self) -> &mut Known {
        &mut self.host_mut().known
    }

    /// Notes the state of its base object (0: none) that attributes were given out from.
    pub fn attributes_shown(&mut self, state: u64) {
        if state != 0 || self.host.is_some() {
            self.known_mut().attributes = state;
        }
    }

    /// The bytes, while a handle or a change needs them.
    pub fn stream(&self) -> Option<&Arc<Stream>> {
        self.stream.as_ref()
    }

    /// Makes a directory be whichever is at its place on the host, since the kernel cannot look it
    /// up again.
    pub fn go_by_name(&mut self) {
        if let Some(dir) = &self.base_dir {
            dir.go_by_name();
        }
        if self.record.is_none() {
            self.forget_seen();
        }
    }

    /// Whether somebody has it open, as far as we are told.
    pub fn is_open(&self) -> bool {
        self.opens > u32::from(self.implicit)
    }

    /// Notes that it is kept open for nobody in particular no longer.
    pub fn closed(&mut self) {
        self.opens = self.opens.saturating_sub(1);
        self.writers = self.writers.saturating_sub(1);
        self.implicit = false;
    }

    /// Whether nothing refers to it any more.
    pub fn is_idle(&self) -> bool {
        self.lookups == 0 && !self.is_open() && self.children == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_takes_little_room() {
        // There are as many of them as files that the kernel has looked at.
        assert!(size_of::<Node>() <= 120, "{}", size_of::<Node>());
        assert!(size_of::<InodeRec>() <= 232, "{}", size_of::<InodeRec>());
    }

    #[test]
    fn who_was_shown_attributes_is_known_until_others_must_be_told() {
        let mut shown = Shown::default();
        assert!(!shown.take(1), "nobody was");
        shown.add(1);
        shown.add(1);
        assert!(!shown.take(1), "a thread has what it was given");
        assert!(shown.take(2), "the first may not have");
        assert!(!shown.take(2), "it was told");
        shown.add(1);
        shown.add(2);
        assert!(shown.take(2), "the first may not have");
        shown.add(0);
        assert!(shown.take(0), "who has no name may be anybody");
    }
}
