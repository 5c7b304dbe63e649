//! [`DeltaMap`]: in memory, what a layer's journal says over the layer's table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::extents::overlay;
use crate::core::record::{
    Content, Delta, Dentry, ExtentMap, ExtentSource, InodeRec, LayerId, ObjectId,
};
use crate::core::types::{Ino, Name};

/// What a layer says of an inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InodeWord {
    /// This is its state.
    Is(Arc<InodeRec>),
    /// It is gone, whatever lies below.
    Gone,
}

/// The state that a run of frames leads to. Applying a frame twice changes nothing.
#[derive(Clone, Debug, Default)]
pub struct DeltaMap {
    inodes: BTreeMap<Ino, InodeWord>,
    /// `None`: this layer says nothing, its table included.
    dentries: BTreeMap<Ino, BTreeMap<Name, Option<Dentry>>>,
    /// Whole maps, each over everything below. An empty one says that there are no extents.
    extents: BTreeMap<Ino, Arc<ExtentMap>>,
    devices: BTreeMap<u16, u64>,
}

impl DeltaMap {
    /// Whether nothing was ever applied.
    pub fn is_empty(&self) -> bool {
        self.inodes.is_empty()
            && self.dentries.is_empty()
            && self.extents.is_empty()
            && self.devices.is_empty()
    }

    /// Inodes and names it has a word on.
    pub fn records(&self) -> u64 {
        let names: usize = self.dentries.values().map(BTreeMap::len).sum();
        (self.inodes.len() + names) as u64
    }

    /// What it says of an inode.
    pub fn inode(&self, ino: Ino) -> Option<&InodeWord> {
        self.inodes.get(&ino)
    }

    /// What it says of a name; `Some(None)`: the layer's table is not to be asked either.
    pub fn dentry(&self, parent: Ino, name: &Name) -> Option<Option<Dentry>> {
        self.dentries.get(&parent)?.get(name).copied()
    }

    /// What it says of the names in a directory.
    pub fn dentries_of(&self, parent: Ino) -> Option<&BTreeMap<Name, Option<Dentry>>> {
        self.dentries.get(&parent)
    }

    /// What it says of a file's extents.
    pub fn extents(&self, ino: Ino) -> Option<&Arc<ExtentMap>> {
        self.extents.get(&ino)
    }

    /// The devices it names.
    pub fn devices(&self) -> &BTreeMap<u16, u64> {
        &self.devices
    }

    /// All inodes, ascending.
    pub fn iter_inodes(&self) -> impl Iterator<Item = (Ino, InodeWord)> + '_ {
        self.inodes.iter().map(|(ino, word)| (*ino, word.clone()))
    }

    /// All names, ascending by directory and name.
    pub fn iter_dentries(&self) -> impl Iterator<Item = ((Ino, Name), Option<Dentry>)> + '_ {
        self.dentries.iter().flat_map(|(parent, names)| {
            names
                .iter()
                .map(|(name, dentry)| ((*parent, name.clone()), *dentry))
        })
    }

    /// All extent maps, ascending by inode.
    pub fn iter_extents(&self) -> impl Iterator<Item = (Ino, Arc<ExtentMap>)> + '_ {
        self.extents.iter().map(|(ino, map)| (*ino, map.clone()))
    }

    /// The objects of `layer` that the records here name.
    pub fn named_objects(&self, layer: LayerId) -> BTreeSet<u64> {
        let mut out = BTreeSet::new();
        let mut add = |id: ObjectId| {
            if id.layer == layer {
                out.insert(id.number);
            }
        };
        for word in self.inodes.values() {
            if let InodeWord::Is(rec) = word {
                object_of(rec).into_iter().for_each(&mut add);
            }
        }
        for map in self.extents.values() {
            objects_in(map).for_each(&mut add);
        }
        out
    }

    /// Whether applying `delta` needs the file's extent map from below first; see
    /// [`load_extents`](Self::load_extents).
    pub fn needs_extents(&self, delta: &Delta) -> Option<Ino> {
        match delta {
            Delta::PutExtent(ino, ..) if !self.extents.contains_key(ino) => Some(*ino),
            _ => None,
        }
    }

    /// Takes over the map that holds below, so that extents can be put over it. Changes nothing
    /// that a reader sees.
    pub fn load_extents(&mut self, ino: Ino, below: Arc<ExtentMap>) {
        self.extents.entry(ino).or_insert(below);
    }

    /// Applies one delta. Cannot fail; extents that it changes must have been loaded.
    pub fn apply(&mut self, delta: Delta) {
        match delta {
            Delta::PutInode(ino, rec) => {
                self.inodes.insert(ino, InodeWord::Is(rec));
            }
            Delta::DelInode(ino) => {
                self.inodes.insert(ino, InodeWord::Gone);
                self.extents.insert(ino, Arc::default());
            }
            Delta::PutDentry(parent, name, dentry) => {
                self.dentries
                    .entry(parent)
                    .or_default()
                    .insert(name, Some(dentry));
            }
            Delta::DelDentry(parent, name) => {
                self.dentries.entry(parent).or_default().insert(name, None);
            }
            Delta::PutExtent(ino, offset, len, source) => {
                let map = self.extents.entry(ino).or_default();
                overlay(Arc::make_mut(map), offset, len, source);
            }
            Delta::SetExtents(ino, map) => {
                self.extents.insert(ino, map);
            }
            // Says nothing about what a reader sees; the live branch keeps its own account.
            Delta::Orphan(_) => {}
            Delta::PutDevice { index, dev } => {
                self.devices.insert(index, dev);
            }
        }
    }
}

fn object_of(rec: &InodeRec) -> Option<ObjectId> {
    match rec.content {
        Content::Object(id) | Content::Extents { own: id, .. } => Some(id),
        Content::Empty | Content::Base => None,
    }
}

fn objects_in(map: &ExtentMap) -> impl Iterator<Item = ObjectId> + '_ {
    map.values().filter_map(|(_, source)| match source {
        ExtentSource::Object(id) => Some(*id),
        ExtentSource::Zero => None,
    })
}

/// Calls `f` for every object that `delta` names, as in use or as an orphan.
pub fn each_object(delta: &Delta, f: &mut dyn FnMut(ObjectId)) {
    match delta {
        Delta::PutInode(_, rec) => object_of(rec).into_iter().for_each(f),
        Delta::PutExtent(_, _, _, ExtentSource::Object(id)) | Delta::Orphan(id) => f(*id),
        Delta::SetExtents(_, map) => objects_in(map).for_each(f),
        Delta::PutExtent(_, _, _, ExtentSource::Zero)
        | Delta::DelInode(_)
        | Delta::PutDentry(..)
        | Delta::DelDentry(..)
        | Delta::PutDevice { .. } => {}
    }
}
