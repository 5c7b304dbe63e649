//! What a review knows of one object: attributes, and where its bytes are. Plain values.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::core::record::{ExtentMap, ObjectId};
use crate::core::types::Kind;

/// Extended attributes by name.
pub type Xattrs = BTreeMap<Arc<[u8]>, Arc<[u8]>>;

/// One object, as the base has it or as the branch shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// File type.
    pub kind: Kind,
    /// Low 12 bits of `st_mode`.
    pub perm: u32,
    /// Owner, a host id.
    pub uid: u32,
    /// Group, a host id.
    pub gid: u32,
    /// Device number of Char and Block, else 0.
    pub rdev: u64,
    /// Hard links.
    pub nlink: u32,
    /// Bytes of a regular file, else 0.
    pub size: u64,
    /// Where the contents are.
    pub source: Source,
    /// Those attributes that a review compares.
    pub xattrs: Xattrs,
}

/// Where an object's contents are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Nowhere: a directory, a special file, an empty file. (Any bytes it has are zeros.)
    None,
    /// The target of a symbolic link.
    Symlink(Arc<[u8]>),
    /// In the base, at this host path.
    Base(Arc<[u8]>),
    /// All of them in an object of the store.
    Object(ObjectId),
    /// Partly in objects, partly in the base.
    Extents {
        /// The object that takes new writes.
        own: ObjectId,
        /// The base file below, if there was one.
        base: Option<Arc<[u8]>>,
        /// Bytes of it that are visible where no extent lies; zeros beyond.
        base_bytes: u64,
        /// Which range lies where.
        map: Arc<ExtentMap>,
    },
}

/// In what two nodes at one path differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Bytes, link target or device number.
    pub content: bool,
    /// Permission bits, suid, sgid, sticky.
    pub perm: bool,
    /// Owner or group.
    pub owner: bool,
    /// Extended attributes.
    pub xattrs: bool,
}

impl Difference {
    /// Whether there is any.
    pub fn any(self) -> bool {
        self.content || self.perm || self.owner || self.xattrs
    }

    /// The difference in everything but bytes.
    pub fn of_metadata(before: &Node, after: &Node) -> Self {
        Difference {
            content: before.rdev != after.rdev,
            // A link has no permission bits of its own on Linux.
            perm: before.kind != Kind::Symlink && before.perm != after.perm,
            owner: (before.uid, before.gid) != (after.uid, after.gid),
            xattrs: before.xattrs != after.xattrs,
        }
    }
}

/// One path at which the branch differs from the base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Absolute host path, in bytes.
    pub path: Vec<u8>,
    /// What the base has there; `None`: the branch added it.
    pub before: Option<Node>,
    /// What the branch shows there; `None`: the branch deleted it.
    pub after: Option<Node>,
    /// In what the two differ, where both are there and of one kind.
    pub difference: Difference,
    /// Names that the branch shows for this changed inode beyond those in the list of changes:
    /// hard links of the base that follow the change and lie where no one looked for them.
    pub unlisted_links: u32,
    /// The host changed, made or removed it since the branch took it over (or made or removed it
    /// itself), or made a program of it or none: putting the branch's state there undoes that.
    /// Never set for directories.
    pub host_changed: bool,
}

impl Change {
    /// Whether it is about more than the attributes of one object.
    pub fn touches_bytes(&self) -> bool {
        self.difference.content
            || self.is_type_change()
            || self.before.is_none()
            || self.after.is_none()
    }

    /// Whether one side is a program and the other none: the one mode bit that a patch carries.
    pub fn changes_what_executes(&self) -> bool {
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => (before.perm ^ after.perm) & 0o100 != 0,
            _ => false,
        }
    }

    /// Whether both sides exist and are of different kinds.
    pub fn is_type_change(&self) -> bool {
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => before.kind != after.kind,
            _ => false,
        }
    }
}
