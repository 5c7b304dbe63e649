//! [`Tree`]: the live root of one branch, everything the tree lock guards.
//!
//! It owns the inode table, the branch's records and the kept listings; `change` says how they
//! are modified. Data never moves under its lock.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::backstore::{LiveBranch, Records};
use crate::core::FsError;
use crate::core::base::{self, BaseDir, BaseLoc, BaseStat, BaseTree};
use crate::core::clock;
use crate::core::exposed::Exposed;
use crate::core::found::is_same;
use crate::core::implicit::{Implicit, Outdated};
use crate::core::inode::{Listed, Node};
use crate::core::listing::Listings;
use crate::core::names::NameCounts;
use crate::core::record::{Content, Fingerprint, InodeRec, full_blocks};
use crate::core::stream::{ObjectStamp, Stream};
use crate::core::types::{Attr, Ino, Kind, Time};
use crate::core::watch::Watch;

/// Of so many nodes the memory is worth to be given back: some 20 MiB.
const MANY_NODES: usize = 1 << 16;

/// The live state of one branch.
#[derive(Debug)]
pub struct Tree {
    /// The branch's records, exclusively ours.
    pub branch: LiveBranch,
    /// Live inodes.
    pub nodes: HashMap<Ino, Box<Node>>,
    /// The most there were of them since memory was given back, as far as was noticed.
    most_nodes: usize,
    /// Those of them that are open, or that no name leads to any more: what a snapshot has to see to,
    /// however many others there are.
    pub(super) busy: BTreeSet<Ino>,
    /// Those that are kept open for whoever uses them without an open.
    pub implicit: Arc<Implicit>,
    /// The directories of the base that are watched.
    pub watch: Arc<Watch>,
    /// Listings being read.
    pub listings: Listings,
    /// Names of the branch's own by file.
    pub(super) names: NameCounts,
    /// Indexes in the inode scheme by host device, as met since the branch was opened; the branch
    /// records them by a key that outlives the device number. Index 0 is never used.
    pub(super) devices: HashMap<u64, u16>,
}

impl Tree {
    /// The tree of `branch`, with its root node in place.
    pub fn new(branch: LiveBranch, exposed: Option<Arc<Exposed>>) -> Result<Self, FsError> {
        let mut tree = Self {
            branch,
            nodes: HashMap::new(),
            most_nodes: 0,
            busy: BTreeSet::new(),
            implicit: Arc::default(),
            watch: Arc::default(),
            listings: Listings::default(),
            names: NameCounts::default(),
            devices: HashMap::new(),
        };
        let loc = BaseLoc::Path(Arc::from(b"/".as_slice()));
        let record = tree.branch.inode(Ino::ROOT)?;
        let mut root = Node::new(Kind::Dir);
        root.base_dir = Some(Arc::new(BaseDir::new(Ino::ROOT, loc.clone(), None)));
        root.set_base(loc);
        root.record = record;
        root.exposed = exposed;
        // The kernel holds the root without ever having looked it up.
        root.lookups = 1;
        tree.nodes.insert(Ino::ROOT, Box::new(root));
        Ok(tree)
    }

    /// The live node of `ino`.
    ///
    /// Errors: `Stale`.
    pub fn node(&self, ino: Ino) -> Result<&Node, FsError> {
        self.nodes
            .get(&ino)
            .map(|node| &**node)
            .ok_or(FsError::Stale(ino))
    }

    /// The live node of `ino`, to be changed.
    ///
    /// Errors: `Stale`.
    pub fn node_mut(&mut self, ino: Ino) -> Result<&mut Node, FsError> {
        self.nodes
            .get_mut(&ino)
            .map(|node| &mut **node)
            .ok_or(FsError::Stale(ino))
    }

    /// The live node of `ino`, which must be a directory.
    ///
    /// Errors: `Stale`, `NotADirectory`.
    pub fn dir(&self, ino: Ino) -> Result<&Node, FsError> {
        let node = self.node(ino)?;
        if node.kind == Kind::Dir {
            Ok(node)
        } else {
            Err(FsError::NotADirectory(ino))
        }
    }

    /// Brings the inode of a recorded dentry into the table.
    ///
    /// Errors: `Store`; `Damaged` inside it when a dentry leads to no record.
    pub fn load_recorded(&mut self, ino: Ino) -> Result<(), FsError> {
        if self.nodes.contains_key(&ino) {
            return Ok(());
        }
        let record = self.branch.inode(ino)?.ok_or_else(|| {
            FsError::Store(crate::backstore::StoreError::Damaged {
                path: "records".into(),
                what: format!("a dentry leads to inode {ino}, which has no record"),
            })
        })?;
        self.nodes
            .insert(ino, Box::new(node_of_record(ino, record)));
        Ok(())
    }

    /// What stat(2) shows of a live inode. Reads the base or the object where they are the truth.
    pub fn attr(&mut self, base: &BaseTree, ino: Ino) -> Result<Attr, FsError> {
        let node = self.node(ino)?;
        let mut state = 0;
        let mut attr = match &node.record {
            Some(record) => {
                let mut attr = self.attr_of_record(ino, record)?;
                // Its bytes are still the host's, so their length is too: a stale one would cut what the
                // host has written since. One that is gone keeps the record's, to be seen and removed.
                if record.content == Content::Base
                    && let Some(stat) = bytes_stat(base, node)
                {
                    let now = stat.fingerprint;
                    state = base::state(&now);
                    attr.size = now.size;
                    attr.blocks = stat.blocks;
                    // And so is the time that they are from, unless the branch has set one. (Of one that was
                    // set before that was recorded it tells only if it is another.)
                    let origin = record.origin.as_ref().map(|o| o.fingerprint.mtime);
                    if record.object_mtime.is_none() && origin == Some(record.mtime) {
                        attr.mtime = now.mtime;
                    }
                    attr.ctime = clock::later(attr.ctime, now.ctime, Time::now());
                }
                attr
            }
            None => {
                let stat = self.seen_stat(base, ino)?;
                if stat.kind == Kind::File {
                    state = base::state(&stat.fingerprint);
                }
                attr_of_base(ino, &stat)
            }
        };
        let is_regime = self.implicit.is_regime();
        let node = self.node_mut(ino)?;
        let pages = node.known().pages;
        node.attributes_shown(state);
        // What an open would find out.
        let are_old = is_regime && state != 0 && pages != 0 && pages != state;
        if are_old {
            node.known_mut().pages = state;
        }
        if node.unlinked {
            attr.nlink = 0;
        }
        if are_old {
            let names = Vec::new();
            self.implicit.note_outdated(Outdated { ino, names });
        }
        Ok(attr)
    }

    fn attr_of_record(&self, ino: Ino, record: &Arc<InodeRec>) -> Result<Attr, FsError> {
        let mut attr = attr_of_record(ino, record);
        if record.dirty
            && let Some(stamp) = self.object_stamp(ino, record)?
        {
            (attr.size, attr.blocks) = (stamp.size, stamp.blocks);
            if record.object_mtime != Some(stamp.mtime) {
                attr.mtime = stamp.mtime;
                attr.ctime = clock::later(attr.ctime, stamp.mtime, Time::now());
            }
        }
        if !record.dirty && record.blocks == Some(0) {
            // Programs take a file without blocks to be one hole. The kernel may have written this one since
            // it was closed, from a mapping; nobody is told of that, so the object is asked.
            attr.blocks = match self.object_stamp(ino, record) {
                Ok(Some(stamp)) => stamp.blocks,
                _ => full_blocks(record.size),
            };
        }
        attr.may_fill =
            attr.blocks == 0 && attr.size > 0 && matches!(record.content, Content::Object(_));
        Ok(attr)
    }

    /// Size, blocks and mtime of a file, of which the object that takes its writes knows them.
    pub fn object_stamp(
        &self,
        ino: Ino,
        record: &InodeRec,
    ) -> Result<Option<ObjectStamp>, FsError> {
        if let Some(stream) = self.nodes.get(&ino).and_then(|n| n.stream())
            && let Ok(bytes) = stream.bytes.try_read()
        {
            return Ok(bytes.stamp()?);
        }
        let id = match record.content {
            Content::Object(id) | Content::Extents { own: id, .. } => id,
            Content::Empty | Content::Base => return Ok(None),
        };
        let mut stamp = ObjectStamp::of(&*self.branch.open_object(id, false)?)?;
        if let Content::Extents { .. } = record.content {
            // The layers below are not open.
            stamp.blocks = full_blocks(stamp.size);
        }
        Ok(Some(stamp))
    }

    /// Gives the file `ino` its bytes, for a handle or a change.
    ///
    /// Errors: `Stale`.
    pub(super) fn hold(&mut self, ino: Ino, stream: Arc<Stream>) -> Result<(), FsError> {
        self.node_mut(ino)?.stream = Some(stream);
        self.busy.insert(ino);
        Ok(())
    }

    /// Nobody needs the bytes of `ino` any more.
    pub(super) fn let_go(&mut self, ino: Ino) {
        if let Some(node) = self.nodes.get_mut(&ino) {
            node.stream = None;
            if !node.unlinked {
                self.busy.remove(&ino);
            }
        }
    }

    /// The files whose bytes are held.
    pub(super) fn open(&self) -> Vec<Ino> {
        let open = self.busy().filter(|(_, node)| node.stream().is_some());
        open.map(|(ino, _)| ino).collect()
    }

    /// The inodes that are open, and those that no name leads to any more.
    pub(super) fn busy(&self) -> impl Iterator<Item = (Ino, &Node)> {
        let node = |ino: &Ino| Some((*ino, &**self.nodes.get(ino)?));
        self.busy.iter().filter_map(node)
    }

    /// Notes that a listing of `dir` has begun, or that one that had may differ from the next.
    pub(super) fn is_listed(&mut self, dir: Ino) {
        if let Some(node) = self.nodes.get_mut(&dir)
            && node.listed == Listed::Never
        {
            node.listed = Listed::Steady;
        }
    }

    /// Notes that the names in `dir` are others now.
    pub(super) fn names_changed(&mut self, dir: Ino) {
        if let Some(node) = self.nodes.get_mut(&dir)
            && node.listed == Listed::Steady
        {
            node.listed = Listed::Changing;
        }
    }

    /// Takes `count` kernel references off and drops the node once nothing refers to it.
    pub fn forget(&mut self, ino: Ino, count: u64) {
        let Some(node) = self.nodes.get_mut(&ino) else {
            return;
        };
        node.lookups = node.lookups.saturating_sub(count);
        self.most_nodes = self.most_nodes.max(self.nodes.len());
        self.drop_if_idle(ino);
    }

    /// Gives the memory of the table back, if most of many nodes have gone since the last time; `true`: then
    /// it is worth it to give back theirs.
    pub fn try_shrink(&mut self) -> bool {
        self.most_nodes = self.most_nodes.max(self.nodes.len());
        if self.most_nodes < MANY_NODES || self.nodes.len() > self.most_nodes / 2 {
            return false;
        }
        self.most_nodes = self.nodes.len();
        self.nodes.shrink_to_fit();
        true
    }

    /// Notes that the directory `ino` is in `parent`.
    pub fn set_parent(&mut self, ino: Ino, parent: Ino) {
        let Some(node) = self.nodes.get_mut(&ino) else {
            return;
        };
        if node.kind != Kind::Dir || ino == Ino::ROOT || node.parent == Some(parent) {
            return;
        }
        let old = node.parent.replace(parent);
        if let Some(node) = self.nodes.get_mut(&parent) {
            node.children += 1;
        }
        if let Some(old) = old {
            self.leave(old);
        }
    }

    /// Takes one child off `parent`.
    fn leave(&mut self, parent: Ino) {
        if let Some(node) = self.nodes.get_mut(&parent) {
            node.children = node.children.saturating_sub(1);
        }
        self.drop_if_idle(parent);
    }

    /// Whether the directory `ino` is `ancestor` or somewhere below it.
    pub fn is_below(&self, ino: Ino, ancestor: Ino) -> bool {
        let mut at = Some(ino);
        while let Some(ino) = at {
            if ino == ancestor {
                return true;
            }
            at = self.nodes.get(&ino).and_then(|n| n.parent);
        }
        false
    }

    /// Drops the node once nothing refers to it, with the object of an unlinked file.
    pub fn drop_if_idle(&mut self, ino: Ino) {
        if ino == Ino::ROOT || !self.nodes.get(&ino).is_some_and(|node| node.is_idle()) {
            return;
        }
        let Some(node) = self.nodes.remove(&ino) else {
            return;
        };
        self.busy.remove(&ino);
        self.listings.forget(ino);
        if node.implicit {
            self.implicit.remove(ino);
        }
        if node.base_dir.is_some_and(|dir| dir.is_asked_for()) {
            self.watch.remove(ino);
        }
        if let Some(parent) = node.parent {
            self.leave(parent);
        }
        if !node.unlinked {
            return;
        }
        if let Some(Content::Object(id) | Content::Extents { own: id, .. }) =
            node.record.as_ref().map(|r| r.content.clone())
            && self.branch.is_top(id)
        {
            self.branch.remove_object(id);
        }
        if let Some(account) = self.branch.account() {
            account.left(ino);
        }
    }
}

/// What the host says of the file that has the bytes of a recorded one: the one that is open, else
/// the one that was found.
fn bytes_stat(base: &BaseTree, node: &Node) -> Option<BaseStat> {
    let stat = match node.stream().and_then(|s| s.base_file()) {
        Some(file) => base.stat_open(&file).ok()?,
        None => {
            let stat = base.stat(node.base()?).ok()?;
            let is_found = |seen: &Fingerprint| is_same(seen, &stat.fingerprint);
            node.seen().is_none_or(is_found).then_some(stat)?
        }
    };
    (stat.kind == Kind::File).then_some(stat)
}

/// The node of a recorded inode.
pub(super) fn node_of_record(ino: Ino, record: Arc<InodeRec>) -> Node {
    let mut node = Node::new(record.kind);
    if let Some(origin) = &record.origin {
        let loc = BaseLoc::Path(origin.path.clone());
        if record.kind == Kind::Dir {
            node.base_dir = Some(Arc::new(BaseDir::new(ino, loc.clone(), None)));
        }
        node.set_seen(origin.fingerprint);
        node.set_base(loc);
    }
    node.record = Some(record);
    node
}

/// What stat(2) shows of a recorded inode, its object not asked.
pub fn attr_of_record(ino: Ino, record: &InodeRec) -> Attr {
    Attr {
        ino,
        kind: record.kind,
        perm: record.perm,
        nlink: record.nlink,
        uid: record.uid,
        gid: record.gid,
        rdev: record.rdev,
        size: record.size,
        blocks: record.shown_blocks(),
        may_fill: false,
        atime: record.atime,
        mtime: record.mtime,
        ctime: record.ctime,
        btime: record.btime,
    }
}

/// What stat(2) shows of a base object.
pub fn attr_of_base(ino: Ino, stat: &BaseStat) -> Attr {
    let print = &stat.fingerprint;
    Attr {
        ino,
        kind: stat.kind,
        perm: stat.perm,
        nlink: stat.nlink,
        uid: stat.uid,
        gid: stat.gid,
        rdev: stat.rdev,
        size: print.size,
        blocks: stat.blocks,
        may_fill: false,
        atime: stat.atime,
        mtime: print.mtime,
        ctime: print.ctime,
        btime: print.btime,
    }
}
