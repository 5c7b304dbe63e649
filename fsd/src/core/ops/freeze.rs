//! Freezing a live branch: for snapshots, and for branches made from it.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering;

use crate::backstore::{Frozen, Held, Kept, Records};
use crate::core::inode::Node;
use crate::core::point::SnapshotName;
use crate::core::record::{Content, ExtentSource, ObjectId};
use crate::core::stream::Bytes;
use crate::core::{FsCore, FsError};
use crate::sync::lock;

/// What a freezing is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FreezeFor {
    /// A snapshot; without a name, under the next number.
    Snapshot(Option<SnapshotName>),
    /// Whoever shares the layers.
    Sharing,
}

impl FsCore {
    /// Whether files are open that programs write to past us: then only who is stopped writes none.
    pub fn has_native_writers(&self) -> bool {
        let is_native = |n: &Node| n.writers > 0 && n.native.is_some();
        let is_open = lock(&self.tree).busy().any(|(_, node)| is_native(node));
        is_open || !self.mappings.left(&self.tree).is_empty()
    }

    /// Freezes the present state and goes on above it. No operation may be under way, which the
    /// exclusive borrow says. Costs the files that are open, whatever the branch holds; those open
    /// natively are cloned, or copied where the host cannot clone.
    ///
    /// Errors: `Store`, among them `SnapshotExists`; then nothing has changed.
    pub fn freeze(&mut self, held: &Held<'_>, what: FreezeFor) -> Result<Frozen, FsError> {
        let kept = self.kept()?;
        let tree = self.tree.get_mut().unwrap_or_else(|e| e.into_inner());
        let frozen = match what {
            FreezeFor::Sharing => tree.branch.freeze(held, &kept)?,
            FreezeFor::Snapshot(name) => tree.branch.snapshot(held, name, &kept)?,
        };
        let moved: HashMap<ObjectId, ObjectId> = frozen.moved.iter().copied().collect();
        for (from, to) in &moved {
            self.mappings.moved(*from, *to);
        }
        // Those, and what was kept: a mapped file need not be open.
        let mut inos = tree.busy.clone();
        inos.extend(kept.iter().map(|kept| kept.ino));
        for ino in inos {
            let Some(node) = tree.nodes.get_mut(&ino) else {
                continue;
            };
            if node.unlinked {
                // No name leads to it: no snapshot shows it, so it is written on, wherever it is now.
                follow(node, &moved);
                continue;
            }
            if let Some(record) = &node.record
                && let Content::Object(id) = record.content
                && let Some(to) = moved.get(&id)
            {
                let mut record = (**record).clone();
                record.content = Content::Object(*to);
                record.dirty = true;
                node.record = Some(record.into());
            }
            let Some(stream) = node.stream() else {
                continue;
            };
            let mut bytes = crate::sync::write(&stream.bytes);
            match &mut *bytes {
                Bytes::Object { id, own: true, .. } if moved.contains_key(id) => {
                    *id = moved[id];
                    stream.marked_dirty.store(true, Ordering::Release);
                    continue;
                }
                Bytes::Object { id, own, .. } => *own = tree.branch.is_top(*id),
                Bytes::Extents(extents) => {
                    extents.writable = tree.branch.is_top(extents.own.0);
                }
                Bytes::Empty | Bytes::Base { .. } => {}
            }
        }
        Ok(frozen)
    }

    /// The files that are open natively, or mapped. The kernel takes no other object for them as long
    /// as they are, so they keep theirs. Nothing is recorded here: whatever fails later, these files
    /// are written on, and their records go on saying that the object is the truth for size and
    /// stamps.
    fn kept(&mut self) -> Result<Vec<Kept>, FsError> {
        let is_native = |n: &Node| n.opens > 0 && !n.unlinked && n.native.is_some();
        let mut inos = BTreeSet::from_iter(self.mappings.left(&self.tree));
        let tree = lock(&self.tree);
        let open = tree.busy().filter(|(_, node)| is_native(node));
        inos.extend(open.map(|(ino, _)| ino));
        let mut kept = Vec::with_capacity(inos.len());
        for ino in inos {
            let record = match tree.nodes.get(&ino) {
                Some(node) if node.unlinked => None,
                Some(node) => node.record.clone(),
                None => tree.branch.inode(ino)?,
            };
            if let Some(record) = record
                && let Content::Object(id) = record.content
                && tree.branch.is_top(id)
            {
                let record = (*record).clone();
                kept.push(Kept { ino, record });
            }
        }
        Ok(kept)
    }
}

/// Gives the bytes of a file that no name leads to the names that they have now.
fn follow(node: &mut Node, moved: &HashMap<ObjectId, ObjectId>) {
    let new = |id: &ObjectId| moved.get(id).copied();
    if let Some(record) = &node.record {
        let mut record = (**record).clone();
        if let Content::Object(id) | Content::Extents { own: id, .. } = &mut record.content
            && let Some(to) = new(id)
        {
            *id = to;
            node.record = Some(record.into());
        }
    }
    let Some(stream) = node.stream() else { return };
    match &mut *crate::sync::write(&stream.bytes) {
        Bytes::Object { id, .. } => *id = new(id).unwrap_or(*id),
        Bytes::Extents(extents) => {
            if let Some(to) = new(&extents.own.0) {
                extents.own.0 = to;
            }
            for (_, source) in extents.map.values_mut() {
                if let ExtentSource::Object(id) = source
                    && let Some(to) = new(id)
                {
                    *id = to;
                }
            }
        }
        Bytes::Empty | Bytes::Base { .. } => {}
    }
}
