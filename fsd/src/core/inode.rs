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
    /// Where its base object is, while there is one: content, attributes or children come from it.
    pub base: Option<BaseLoc>,
    /// The base object's identity at the first look, checked again when it is opened.
    pub seen: Option<Fingerprint>,
    /// For a directory that merges with the base: where children are looked up.
    pub base_dir: Option<Arc<BaseDir>>,
    /// The base names it was reached by of which no dentry of the branch says so yet, in order of
    /// directory and name. The next recorded change puts them, so that the host may move or remove
    /// the names without taking the change along. One, if it is no hard link.
    pub unplaced: Vec<(Arc<BaseDir>, Name)>,
    /// For a directory: the one it is in, kept in the table as long as this node is.
    pub parent: Option<Ino>,
    /// Nodes whose `parent` this is.
    pub children: u32,
    /// Its last link is gone; it lives on for its handles and is never recorded again.
    pub unlinked: bool,
    /// It was changed while it was open, and no name led to it any more: the names by which the kernel
    /// holds it may be others' by now.
    pub nameless: bool,
    /// For a directory above the exposed roots: what of it is shown.
    pub exposed: Option<Arc<Exposed>>,
    /// The bytes, while a handle or a change needs them.
    pub stream: Option<Arc<Stream>>,
    /// How its open handles do their I/O.
    pub io: IoMode,
    /// [`crate::core::base::state`] of its base object when attributes of it were last given out, and
    /// when it was last opened: by these the kernel has its size and its pages. 0: never.
    pub known: Known,
    /// Who may be about to take in attributes of it that a change makes old.
    pub shown: Shown,
}

/// What the kernel knows of a file whose bytes are the base's.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// The state that its attributes are from.
    pub attributes: u64,
    /// The state that its pages are from.
    pub pages: u64,
    /// The last open was refused, so that it asks for the attributes again.
    pub asked: bool,
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

/// How the open handles of a file move bytes; the kernel allows one way at a time.
#[derive(Clone, Debug)]
pub enum IoMode {
    /// Through the kernel's page cache and requests to us. Also: nothing open.
    Cached,
    /// By the kernel, straight to the object.
    Passthrough {
        /// Identifies the backing registered with the kernel.
        token: u64,
        /// The object: what a further open must be given, whatever else goes on with the file.
        file: Arc<dyn ObjectFile>,
    },
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
            base: None,
            seen: None,
            base_dir: None,
            unplaced: Vec::new(),
            parent: None,
            children: 0,
            unlinked: false,
            nameless: false,
            exposed: None,
            stream: None,
            io: IoMode::Cached,
            known: Known::default(),
            shown: Shown::Nobody,
        }
    }

    /// Notes a base name that it was reached by; `is_only` says that the host has no other for it.
    pub fn reached_by(&mut self, dir: &Arc<BaseDir>, name: &Name, is_only: bool) {
        if is_only {
            self.unplaced.clear();
        }
        let place = (dir.ino, name);
        match self
            .unplaced
            .binary_search_by(|(dir, name)| (dir.ino, name).cmp(&place))
        {
            Ok(at) => self.unplaced[at].0 = dir.clone(),
            Err(at) => {
                if self.unplaced.is_empty() {
                    // Nearly always the only one: no room for more.
                    self.unplaced.reserve_exact(1);
                }
                self.unplaced.insert(at, (dir.clone(), name.clone()));
            }
        }
    }

    /// Makes a directory be whichever is at its place on the host, since the kernel cannot look it
    /// up again.
    pub fn go_by_name(&mut self) {
        if let Some(dir) = &self.base_dir {
            dir.go_by_name();
        }
        if self.record.is_none() {
            self.seen = None;
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
