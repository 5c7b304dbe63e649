//! What the branch shows at a place: from a record, or from an entry of the base it merges with.

use std::io;

use super::{Tree, Walk};
use crate::core::number;
use crate::core::record::{Content, InodeRec, Origin};
use crate::core::types::{Ino, Kind};
use crate::review::base::{BaseEntry, is_compared_xattr};
use crate::review::node::{Node, Source};

/// What the branch shows under one name.
pub(super) struct Shown {
    pub node: Node,
    /// For a directory: what to look into.
    pub tree: Option<Tree>,
    /// The record's number, to count links.
    pub recorded: Option<Ino>,
    /// The base no longer has the file whose contents it shows.
    pub lost: bool,
}

impl Shown {
    /// Whether it is what the base has, or had, at `path`, with no contents of the branch's own.
    pub fn is_base_at(&self, path: &[u8]) -> bool {
        match (&self.tree, &self.node.source) {
            (Some(tree), _) => tree.origin.as_deref() == Some(path),
            (None, Source::Base(origin)) => origin.as_ref() == path,
            _ => false,
        }
    }
}

impl Walk<'_> {
    /// What the branch shows for an entry of the base that it has no word on: the entry, unless
    /// the inode was changed through another of its names.
    pub(super) fn shown_of_base(&self, entry: BaseEntry) -> Shown {
        if let Some(ino) = self.record_of_base(&entry)
            && let Ok(shown) = self.shown_at(ino, &|_| Some(entry.clone()))
        {
            return shown;
        }
        let tree = Tree {
            ino: None,
            origin: Some(entry.path),
        };
        let tree = (entry.node.kind == Kind::Dir).then_some(tree);
        Shown {
            node: entry.node,
            tree,
            recorded: None,
            lost: false,
        }
    }

    /// The number of the record that the branch has of the base object `entry`, if any. The same
    /// rule as the core's: by the scheme, or hashed where the host has reused an inode number; and
    /// an object of one name that has its place in the branch is there and nowhere else.
    fn record_of_base(&self, entry: &BaseEntry) -> Option<Ino> {
        if entry.node.kind == Kind::Dir {
            return None;
        }
        let is_of = |ino: &Ino| {
            let record = self.inodes.get(ino)?;
            let same = is_same(entry, record.origin.as_ref()?);
            let free = entry.node.nlink > 1 || !self.placed.contains(ino);
            Some(same && free && record.kind == entry.node.kind)
        };
        let indexes = self.devices.get(&entry.device)?.iter();
        let mut numbers = indexes.flat_map(|index| {
            let plain = number::of_base(*index, entry.ino);
            [plain, number::hashed(plain, entry.fingerprint.btime)]
        });
        numbers.find(|ino| is_of(ino) == Some(true))
    }

    /// What the branch shows where a dentry leads to `ino`; `old` is what the base has at `path`.
    pub(super) fn shown_of_record(
        &self,
        ino: Ino,
        path: &[u8],
        old: Option<&BaseEntry>,
    ) -> Result<Shown, String> {
        let find = |origin: &Origin| self.anchor(origin, path, old);
        self.shown_at(ino, &find)
    }

    /// What the record of `ino` shows, with contents of the base where `find` finds them.
    fn shown_at(
        &self,
        ino: Ino,
        find: &dyn Fn(&Origin) -> Option<BaseEntry>,
    ) -> Result<Shown, String> {
        let Some(record) = self.inodes.get(&ino) else {
            return Err(format!("the branch has no record of {ino:?}"));
        };
        let mut node = attributes(record);
        node.kind = record.kind;
        let mut lost = false;
        let origin = record.origin.as_ref().map(|origin| origin.path.clone());
        match record.kind {
            Kind::File => lost = self.fill_file(&mut node, ino, record, find)?,
            Kind::Symlink => {
                let target = record.symlink.clone().ok_or("a link without a target")?;
                node.source = Source::Symlink(target);
            }
            Kind::Char | Kind::Block => node.rdev = record.rdev,
            Kind::Dir | Kind::Fifo | Kind::Socket => {}
        }
        let tree = (record.kind == Kind::Dir).then_some(Tree {
            ino: Some(ino),
            origin,
        });
        Ok(Shown {
            node,
            tree,
            recorded: Some(ino),
            lost,
        })
    }

    /// The base object whose contents a file shows of which the branch has no bytes: the rule is
    /// the core's, `Tree::anchor`.
    fn anchor(&self, origin: &Origin, path: &[u8], old: Option<&BaseEntry>) -> Option<BaseEntry> {
        let at = |place: &[u8]| match old {
            Some(old) if old.path.as_ref() == place => Some(old.clone()),
            _ => self.base_entry(place),
        };
        let is_file = |entry: &BaseEntry| entry.node.kind == Kind::File;
        let there = at(&origin.path).filter(is_file);
        if there.as_ref().is_some_and(|there| is_same(there, origin)) {
            return there;
        }
        let here = self.own_place(path).and_then(|own| at(&own));
        match here.filter(is_file) {
            Some(here) if here.fingerprint.size == origin.fingerprint.size => Some(here),
            here => there.or(here),
        }
    }

    /// Fills in where the bytes are and how many; whether they are lost.
    fn fill_file(
        &self,
        node: &mut Node,
        ino: Ino,
        record: &InodeRec,
        find: &dyn Fn(&Origin) -> Option<BaseEntry>,
    ) -> Result<bool, String> {
        let mut lost = false;
        node.size = record.size;
        let own = match record.content {
            Content::Empty => None,
            Content::Base => {
                let origin = record.origin.as_ref();
                let origin = origin.ok_or("base contents without an origin")?;
                // The host may have changed it since.
                let path = match find(origin) {
                    Some(found) => {
                        node.size = found.node.size;
                        found.path
                    }
                    None => {
                        // What else is wrong, reading will say.
                        let opened = self.base.file(&origin.path);
                        let denied = |e: &io::Error| e.kind() == io::ErrorKind::PermissionDenied;
                        lost = !opened.as_ref().is_err_and(denied);
                        origin.path.clone()
                    }
                };
                node.source = Source::Base(path);
                None
            }
            Content::Object(id) => {
                node.source = Source::Object(id);
                Some(id)
            }
            Content::Extents { own, base_bytes } => {
                let map = self.records.extents(ino).map_err(|e| e.to_string())?;
                node.source = Source::Extents {
                    own,
                    base: record.origin.as_ref().map(|origin| match find(origin) {
                        Some(found) if is_same(&found, origin) => found.path,
                        _ => origin.path.clone(),
                    }),
                    base_bytes,
                    map,
                };
                Some(own)
            }
        };
        // While writers may be at it, the object itself knows best.
        if let Some(id) = own.filter(|_| record.dirty) {
            let object = self
                .records
                .open_object(id, false)
                .map_err(|e| e.to_string())?;
            node.size = object.len().map_err(|e| e.to_string())?;
        }
        Ok(lost)
    }
}

/// Whether the entry is of the very object, under whatever name and device number.
fn is_same(entry: &BaseEntry, origin: &Origin) -> bool {
    let (now, known) = (&entry.fingerprint, &origin.fingerprint);
    (now.ino, now.btime) == (known.ino, known.btime)
}

/// The attributes of a record; the kind, and what goes with it, are left to the caller.
pub(super) fn attributes(record: &InodeRec) -> Node {
    Node {
        kind: Kind::Dir,
        perm: record.perm,
        uid: record.uid,
        gid: record.gid,
        rdev: 0,
        nlink: record.nlink,
        size: 0,
        source: Source::None,
        xattrs: (record.xattrs.iter())
            .filter(|(name, _)| is_compared_xattr(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
    }
}
