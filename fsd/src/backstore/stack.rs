//! [`Stack`]: the layers of a branch seen as one, the top one speaking first.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::sync::Arc;

use super::delta::InodeWord;
use super::error::StoreError;
use super::layer::LayerView;
use super::objects::{self, ObjectFile};
use super::table::Walk;
use crate::core::record::{Dentry, ExtentMap, InodeRec, ObjectId};
use crate::core::types::{Ino, Name};

/// What [`Records::each_inode`] calls.
pub type EachInode<'a> = dyn FnMut(Ino, &Arc<InodeRec>) -> Result<(), StoreError> + 'a;
/// What [`Records::each_dentry`] calls.
pub type EachDentry<'a> = dyn FnMut(Ino, &Name, Dentry) -> Result<(), StoreError> + 'a;

/// What a branch records, whoever reads it.
pub trait Records {
    /// The recorded state of an inode; `None` if there is none or it is gone.
    fn inode(&self, ino: Ino) -> Result<Option<Arc<InodeRec>>, StoreError>;
    /// The topmost word on a name, whiteouts included; `None` if no layer speaks of it.
    fn dentry(&self, parent: Ino, name: &Name) -> Result<Option<Dentry>, StoreError>;
    /// All words on names of a directory, merged, whiteouts included.
    fn dentries(&self, parent: Ino) -> Result<BTreeMap<Name, Dentry>, StoreError>;
    /// A file's extents; empty if there are none. Let go of the map before the next change to
    /// it, or that change copies it.
    fn extents(&self, ino: Ino) -> Result<Arc<ExtentMap>, StoreError>;
    /// Device indexes and devices, ascending.
    fn devices(&self) -> Vec<(u16, u64)>;
    /// Calls `f` for every inode of the merged view, ascending. Costs the changes.
    fn each_inode(&self, f: &mut EachInode<'_>) -> Result<(), StoreError>;
    /// Calls `f` for every word on a name of the merged view, ascending by directory and name.
    /// Words in a directory that is gone are among them, if its names were not forgotten with it:
    /// whoever cares looks up the directory. Costs the changes.
    fn each_dentry(&self, f: &mut EachDentry<'_>) -> Result<(), StoreError>;
    /// Opens an object of any layer; `write` only of the top one of a live branch.
    fn open_object(&self, id: ObjectId, write: bool) -> Result<Box<dyn ObjectFile>, StoreError>;
}

/// Walks several ascending walks as one; where keys are equal the first walk's value counts.
/// Ends after an error.
pub fn merge<'a, K: Ord + 'a, V: 'a>(walks: Vec<Walk<'a, K, V>>) -> Walk<'a, K, V> {
    Box::new(Merge {
        walks: walks.into_iter().map(Iterator::peekable).collect(),
        failed: false,
    })
}

struct Merge<'a, K, V> {
    walks: Vec<Peekable<Walk<'a, K, V>>>,
    failed: bool,
}

impl<K: Ord, V> Iterator for Merge<'_, K, V> {
    type Item = Result<(K, V), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let mut best: Option<usize> = None;
        let mut failing = None;
        let mut keys: Vec<Option<&K>> = Vec::with_capacity(self.walks.len());
        for (i, walk) in self.walks.iter_mut().enumerate() {
            match walk.peek() {
                Some(Err(_)) => {
                    failing = Some(i);
                    break;
                }
                Some(Ok((key, _))) => keys.push(Some(key)),
                None => keys.push(None),
            }
        }
        if let Some(i) = failing {
            self.failed = true;
            return self.walks[i].next();
        }
        for (i, key) in keys.iter().enumerate() {
            if let Some(key) = key
                && best.and_then(|b| keys[b]).is_none_or(|least| *key < least)
            {
                best = Some(i);
            }
        }
        let best = best?;
        let item = self.walks[best].next()?;
        if let Ok((key, _)) = &item {
            // Earlier walks have greater keys, or they would have been chosen.
            for walk in &mut self.walks[best + 1..] {
                walk.next_if(|other| matches!(other, Ok((k, _)) if k == key));
            }
        }
        Some(item)
    }
}

/// The layers of a branch, lowest first; never empty.
#[derive(Debug)]
pub struct Stack {
    pub(super) layers: Vec<LayerView>,
    devices: BTreeMap<u16, u64>,
}

impl Stack {
    /// Puts layers together, lowest first.
    pub fn new(layers: Vec<LayerView>) -> Result<Self, StoreError> {
        let mut devices = BTreeMap::new();
        for layer in &layers {
            devices.extend(layer.devices()?);
        }
        Ok(Self { layers, devices })
    }

    /// Takes note of a new device index.
    pub(super) fn saw_device(&mut self, index: u16, dev: u64) {
        self.devices.insert(index, dev);
    }

    /// What the layers below the top one say of a name.
    pub fn lower_dentry(&self, parent: Ino, name: &Name) -> Result<Option<Dentry>, StoreError> {
        dentry_in(self.lower(), parent, name)
    }

    /// The layers below the top one, lowest first.
    pub fn lower(&self) -> &[LayerView] {
        self.layers.split_last().map_or(&[], |(_, lower)| lower)
    }

    /// The least inode number that no layer has given out.
    pub fn next_ino(&self) -> u64 {
        self.layers
            .iter()
            .map(|layer| layer.ledger.next_ino)
            .max()
            .unwrap_or(Ino::FIRST_NEW.0)
    }

    /// Opens an object of any layer.
    pub fn open(&self, id: ObjectId, write: bool) -> Result<Box<dyn ObjectFile>, StoreError> {
        match self.layers.iter().find(|layer| layer.id == id.layer) {
            Some(layer) => objects::open(&*layer.media, id, write),
            None => Err(StoreError::Invalid(
                "an object of a layer that the branch has not",
            )),
        }
    }
}

/// What `layers`, lowest first, say of an inode.
pub(super) fn inode_in(layers: &[LayerView], ino: Ino) -> Result<Option<InodeWord>, StoreError> {
    for layer in layers.iter().rev() {
        if let Some(word) = layer.inode(ino)? {
            return Ok(Some(word));
        }
    }
    Ok(None)
}

/// What `layers`, lowest first, say of a name.
pub(super) fn dentry_in(
    layers: &[LayerView],
    parent: Ino,
    name: &Name,
) -> Result<Option<Dentry>, StoreError> {
    for layer in layers.iter().rev() {
        if let Some(dentry) = layer.dentry(parent, name)? {
            return Ok(Some(dentry));
        }
    }
    Ok(None)
}

/// What `layers`, lowest first, say of a file's extents.
pub(super) fn extents_in(
    layers: &[LayerView],
    ino: Ino,
) -> Result<Option<Arc<ExtentMap>>, StoreError> {
    for layer in layers.iter().rev() {
        if let Some(map) = layer.extents(ino)? {
            return Ok(Some(map));
        }
    }
    Ok(None)
}

impl Records for Stack {
    fn inode(&self, ino: Ino) -> Result<Option<Arc<InodeRec>>, StoreError> {
        Ok(match inode_in(&self.layers, ino)? {
            Some(InodeWord::Is(rec)) => Some(rec),
            Some(InodeWord::Gone) | None => None,
        })
    }

    fn dentry(&self, parent: Ino, name: &Name) -> Result<Option<Dentry>, StoreError> {
        dentry_in(&self.layers, parent, name)
    }

    fn dentries(&self, parent: Ino) -> Result<BTreeMap<Name, Dentry>, StoreError> {
        let mut out = BTreeMap::new();
        for layer in &self.layers {
            layer.dentries_over(parent, &mut out)?;
        }
        Ok(out)
    }

    fn extents(&self, ino: Ino) -> Result<Arc<ExtentMap>, StoreError> {
        Ok(extents_in(&self.layers, ino)?.unwrap_or_default())
    }

    fn devices(&self) -> Vec<(u16, u64)> {
        self.devices
            .iter()
            .map(|(index, dev)| (*index, *dev))
            .collect()
    }

    fn each_inode(&self, f: &mut EachInode<'_>) -> Result<(), StoreError> {
        let walks = self
            .layers
            .iter()
            .rev()
            .map(LayerView::walk_inodes)
            .collect::<Result<_, _>>()?;
        for item in merge(walks) {
            if let (ino, InodeWord::Is(rec)) = item? {
                f(ino, &rec)?;
            }
        }
        Ok(())
    }

    fn each_dentry(&self, f: &mut EachDentry<'_>) -> Result<(), StoreError> {
        let walks = self
            .layers
            .iter()
            .rev()
            .map(LayerView::walk_dentries)
            .collect::<Result<_, _>>()?;
        for item in merge(walks) {
            let ((parent, name), dentry) = item?;
            f(parent, &name, dentry)?;
        }
        Ok(())
    }

    fn open_object(&self, id: ObjectId, write: bool) -> Result<Box<dyn ObjectFile>, StoreError> {
        if write {
            return Err(StoreError::Invalid(
                "writing an object of a branch that is only read",
            ));
        }
        self.open(id, false)
    }
}

/// Implements the reading part of [`Records`] for a type with a field `stack`.
macro_rules! records_of_stack {
    () => {
        fn inode(&self, ino: Ino) -> Result<Option<Arc<InodeRec>>, StoreError> {
            self.stack.inode(ino)
        }

        fn dentry(&self, parent: Ino, name: &Name) -> Result<Option<Dentry>, StoreError> {
            self.stack.dentry(parent, name)
        }

        fn dentries(&self, parent: Ino) -> Result<BTreeMap<Name, Dentry>, StoreError> {
            self.stack.dentries(parent)
        }

        fn extents(&self, ino: Ino) -> Result<Arc<ExtentMap>, StoreError> {
            self.stack.extents(ino)
        }

        fn devices(&self) -> Vec<(u16, u64)> {
            self.stack.devices()
        }

        fn each_inode(&self, f: &mut EachInode<'_>) -> Result<(), StoreError> {
            self.stack.each_inode(f)
        }

        fn each_dentry(&self, f: &mut EachDentry<'_>) -> Result<(), StoreError> {
            self.stack.each_dentry(f)
        }
    };
}
pub(super) use records_of_stack;
