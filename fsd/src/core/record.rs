//! The state a layer records: inodes, dentries, extents, and the deltas a journal frame carries.
//!
//! These are states, never actions, so replaying a frame twice changes nothing. FORMAT.md gives
//! their bytes; `backstore::codec` writes and reads them. A leaf beside `types`.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::core::types::{Ino, Kind, Name, Time};

/// Names one object file: the layer that owns it and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// The layer whose directory holds the file.
    pub layer: LayerId,
    /// Number within the layer, counted from 1.
    pub number: u64,
}

/// Names one layer of the store. Random, 64 bits, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerId(pub u64);

/// What a base object looked like when the branch took it over. Source: statx(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Fingerprint {
    pub dev: u64,
    pub ino: u64,
    pub size: u64,
    pub mtime: Time,
    pub ctime: Time,
    /// Birth time; zero where the host's file system has none.
    pub btime: Time,
}

/// The base object an inode came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Absolute host path, as bytes; no trailing slash except for `/`.
    pub path: Arc<[u8]>,
    /// The object at that path at copy-up.
    pub fingerprint: Fingerprint,
}

/// Where the bytes of a regular file are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Not a regular file, or an empty one that has no object yet.
    Empty,
    /// Still the base's, at the inode's origin.
    Base,
    /// All of them in this object.
    Object(ObjectId),
    /// Base or older objects below, own writes in `own`; the layer's extent map says which.
    Extents {
        /// The object that takes new writes, at their file offsets.
        own: ObjectId,
        /// Bytes of the origin that are still visible where no extent lies. Beyond it: zeros.
        base_bytes: u64,
    },
}

/// Where a mapped range of an [`Content::Extents`] file lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentSource {
    /// In this object, at the same offset.
    Object(ObjectId),
    /// A hole: reads as zeros.
    Zero,
}

/// Extents by file offset in bytes: length in bytes and source. Never overlapping.
pub type ExtentMap = BTreeMap<u64, (u64, ExtentSource)>;

/// The recorded state of one inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InodeRec {
    /// File type.
    pub kind: Kind,
    /// Low 12 bits of `st_mode`.
    pub perm: u32,
    /// Owner, as a host id.
    pub uid: u32,
    /// Group, as a host id.
    pub gid: u32,
    /// Device number of Char and Block, else 0.
    pub rdev: u64,
    /// Hard links.
    pub nlink: u32,
    /// Bytes. For Object and Extents the object's own size is newer while `dirty`.
    pub size: u64,
    /// Blocks of 512 bytes that the host's file system had for the bytes of Object and Extents when
    /// `size` was taken over, where they were others than [`full_blocks`] of it. Else `None`.
    pub blocks: Option<u64>,
    /// Access time.
    pub atime: Time,
    /// Modification time, valid as of the object's mtime `object_mtime`.
    pub mtime: Time,
    /// Change time.
    pub ctime: Time,
    /// Birth time.
    pub btime: Time,
    /// The object's own mtime when `mtime` was last set or folded; a different one is newer. Of
    /// [`Content::Base`]: the origin's, if the branch has set `mtime`; `None`: the host says it.
    pub object_mtime: Option<Time>,
    /// Writers may have changed the object since the last fold (also over a crash).
    pub dirty: bool,
    /// Tells a reused inode number from the old one.
    pub generation: u64,
    /// Where it came from; a directory with an origin merges with it, one without is opaque.
    pub origin: Option<Box<Origin>>,
    /// The bytes of a regular file.
    pub content: Content,
    /// The target of a Symlink, else `None`.
    pub symlink: Option<Arc<[u8]>>,
    /// All extended attributes; complete, the origin's were copied when the record was made.
    pub xattrs: BTreeMap<Arc<[u8]>, Arc<[u8]>>,
}

impl InodeRec {
    /// Whether lookups below this directory stop at the branch.
    pub fn is_opaque(&self) -> bool {
        self.origin.is_none()
    }

    /// Sets the size and the blocks that go with it.
    pub fn set_size(&mut self, size_bytes: u64, blocks: u64) {
        self.size = size_bytes;
        self.blocks = Some(blocks).filter(|blocks| *blocks != full_blocks(size_bytes));
    }

    /// What stat(2) shows as blocks of 512 bytes.
    pub fn shown_blocks(&self) -> u64 {
        match self.kind {
            Kind::File => self.blocks.unwrap_or_else(|| full_blocks(self.size)),
            _ => 0,
        }
    }
}

/// Blocks of 512 bytes that a file without holes takes, in blocks of 4 KiB.
pub fn full_blocks(size_bytes: u64) -> u64 {
    size_bytes.div_ceil(4096) * 8
}

/// The recorded state of one name in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dentry {
    /// The name leads to this inode.
    Present {
        /// The inode.
        ino: Ino,
        /// Its type, so that listings need not load it.
        kind: Kind,
    },
    /// The name is gone, whatever lies below.
    Whiteout,
}

/// One state change. A journal frame is a list of them, applied all or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    /// Records an inode's state, whole.
    PutInode(Ino, Arc<InodeRec>),
    /// Forgets an inode's record: its last link is gone. Hides records of the layers below too.
    DelInode(Ino),
    /// Records a name's state.
    PutDentry(Ino, Name, Dentry),
    /// Forgets what this layer says of a name: the layers below show through again.
    DelDentry(Ino, Name),
    /// Records one extent of a file, over whatever the map held there.
    PutExtent(Ino, u64, u64, ExtentSource),
    /// Replaces a file's whole extent map; an empty one forgets it.
    SetExtents(Ino, Arc<ExtentMap>),
    /// This object is unreachable from now on but may still be open; recovery removes the file.
    Orphan(ObjectId),
    /// Device index `index` of the inode scheme stands for the host's file system with this key.
    PutDevice {
        /// Position in the list of devices, from 0.
        index: u16,
        /// Its `f_fsid` (statvfs), or the device number where it has none.
        dev: u64,
    },
}
