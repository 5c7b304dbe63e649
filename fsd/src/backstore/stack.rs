//! [`Stack`]: the layers of a branch seen as one, the top one speaking first. A merged table may
//! stand for the lowest ones.

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::sync::Arc;

use super::delta::InodeWord;
use super::error::StoreError;
use super::layer::LayerView;
use super::merged::Merged;
use super::objects::{self, ObjectFile};
use super::table::{Table, Walk};
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

/// The layers of a branch or snapshot. The lowest may be there as one merged table.
#[derive(Debug)]
pub struct Stack {
    /// Stands for the lowest layers, which are not even opened then.
    pub(super) floor: Option<Arc<Merged>>,
    /// The layers above it, lowest first. Only the top one of a live branch ever changes, so the
    /// others may be looked at elsewhere meanwhile.
    pub(super) layers: Vec<Arc<LayerView>>,
    devices: BTreeMap<u16, u64>,
}

/// Some of the lowest layers of a stack.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lower<'a> {
    /// The merged table at the bottom.
    pub floor: Option<&'a Merged>,
    /// What is above it, lowest first.
    pub layers: &'a [Arc<LayerView>],
}

impl<'a> Lower<'a> {
    /// What they say of an inode.
    pub fn inode(&self, ino: Ino) -> Result<Option<InodeWord>, StoreError> {
        self.ask(|layer| layer.inode(ino), |floor| floor.table.inode(ino))
    }

    /// What they say of a name.
    pub fn dentry(&self, parent: Ino, name: &Name) -> Result<Option<Dentry>, StoreError> {
        self.ask(
            |layer| layer.dentry(parent, name),
            |floor| floor.table.dentry(parent, name),
        )
    }

    /// What they say of a file's extents.
    pub fn extents(&self, ino: Ino) -> Result<Option<Arc<ExtentMap>>, StoreError> {
        self.ask(|layer| layer.extents(ino), |floor| floor.table.extents(ino))
    }

    fn ask<T>(
        &self,
        layer: impl Fn(&LayerView) -> Result<Option<T>, StoreError>,
        floor: impl Fn(&Merged) -> Result<Option<T>, StoreError>,
    ) -> Result<Option<T>, StoreError> {
        for view in self.layers.iter().rev() {
            if let Some(word) = layer(view)? {
                return Ok(Some(word));
            }
        }
        self.floor.map_or(Ok(None), floor)
    }

    /// Walks all they say of inodes, the topmost word of each.
    pub fn walk_inodes(&self) -> Result<Walk<'a, Ino, InodeWord>, StoreError> {
        self.walk(LayerView::walk_inodes, Table::walk_inodes)
    }

    /// Walks all they say of names.
    pub fn walk_dentries(&self) -> Result<Walk<'a, (Ino, Name), Dentry>, StoreError> {
        self.walk(LayerView::walk_dentries, |table| table.walk_dentries(None))
    }

    /// Walks all they say of extents.
    pub fn walk_extents(&self) -> Result<Walk<'a, Ino, Arc<ExtentMap>>, StoreError> {
        self.walk(LayerView::walk_extents, Table::walk_extents)
    }

    fn walk<K: Ord + 'a, V: 'a>(
        &self,
        layer: impl Fn(&'a LayerView) -> Result<Walk<'a, K, V>, StoreError>,
        floor: impl Fn(&'a Table) -> Result<Walk<'a, K, V>, StoreError>,
    ) -> Result<Walk<'a, K, V>, StoreError> {
        let layers: &'a [Arc<LayerView>] = self.layers;
        let mut walks = layers
            .iter()
            .rev()
            .map(|view| layer(view))
            .collect::<Result<Vec<_>, _>>()?;
        if let Some(merged) = self.floor {
            walks.push(floor(&merged.table)?);
        }
        Ok(merge(walks))
    }

    /// The devices they name.
    pub fn devices(&self) -> Result<BTreeMap<u16, u64>, StoreError> {
        let mut out = match self.floor {
            Some(floor) => floor.table.devices()?,
            None => BTreeMap::new(),
        };
        for layer in self.layers {
            out.extend(layer.devices()?);
        }
        Ok(out)
    }

    /// The least inode number that none of them has given out.
    pub fn next_ino(&self) -> u64 {
        let layers = self.layers.iter().map(|layer| layer.ledger.next_ino);
        let floor = self.floor.map(|floor| floor.table.facts().next_ino);
        layers.chain(floor).max().unwrap_or(Ino::FIRST_NEW.0)
    }
}

impl Stack {
    /// Puts layers together, lowest first.
    pub fn new(
        floor: Option<Arc<Merged>>,
        layers: Vec<Arc<LayerView>>,
    ) -> Result<Self, StoreError> {
        let mut stack = Self {
            floor,
            layers,
            devices: BTreeMap::new(),
        };
        stack.devices = stack.all().devices()?;
        Ok(stack)
    }

    /// Takes note of a new device index.
    pub(super) fn saw_device(&mut self, index: u16, dev: u64) {
        self.devices.insert(index, dev);
    }

    /// What the layers below the top one say of a name.
    pub fn lower_dentry(&self, parent: Ino, name: &Name) -> Result<Option<Dentry>, StoreError> {
        self.lower().dentry(parent, name)
    }

    /// All layers.
    pub fn all(&self) -> Lower<'_> {
        Lower {
            floor: self.floor.as_deref(),
            layers: &self.layers,
        }
    }

    /// The layers below the top one.
    pub fn lower(&self) -> Lower<'_> {
        Lower {
            layers: self.layers.split_last().map_or(&[], |(_, lower)| lower),
            ..self.all()
        }
    }

    /// The top layer, to be changed, and those below it; `None` without layers, and while the top
    /// one is looked at elsewhere, which only frozen ones may be.
    pub(super) fn split_top(&mut self) -> Option<(&mut LayerView, Lower<'_>)> {
        let (top, layers) = self.layers.split_last_mut()?;
        let floor = self.floor.as_deref();
        Some((Arc::get_mut(top)?, Lower { floor, layers }))
    }

    /// The least inode number that no layer has given out.
    pub fn next_ino(&self) -> u64 {
        self.all().next_ino()
    }

    /// Opens an object of any layer.
    pub fn open(&self, id: ObjectId, write: bool) -> Result<Box<dyn ObjectFile>, StoreError> {
        match self.layers.iter().find(|layer| layer.id == id.layer) {
            Some(layer) => objects::open(&*layer.media, id, write),
            None => match self.floor.as_ref().and_then(|floor| floor.layer(id.layer)) {
                Some(media) => objects::open(&media, id, write),
                None => Err(StoreError::Invalid(
                    "an object of a layer that the branch has not",
                )),
            },
        }
    }
}

impl Records for Stack {
    fn inode(&self, ino: Ino) -> Result<Option<Arc<InodeRec>>, StoreError> {
        Ok(match self.all().inode(ino)? {
            Some(InodeWord::Is(rec)) => Some(rec),
            Some(InodeWord::Gone) | None => None,
        })
    }

    fn dentry(&self, parent: Ino, name: &Name) -> Result<Option<Dentry>, StoreError> {
        self.all().dentry(parent, name)
    }

    fn dentries(&self, parent: Ino) -> Result<BTreeMap<Name, Dentry>, StoreError> {
        let mut out = BTreeMap::new();
        if let Some(floor) = &self.floor {
            for item in floor.table.walk_dentries(Some(parent))? {
                let ((_, name), dentry) = item?;
                out.insert(name, dentry);
            }
        }
        for layer in &self.layers {
            layer.dentries_over(parent, &mut out)?;
        }
        Ok(out)
    }

    fn extents(&self, ino: Ino) -> Result<Arc<ExtentMap>, StoreError> {
        Ok(self.all().extents(ino)?.unwrap_or_default())
    }

    fn devices(&self) -> Vec<(u16, u64)> {
        self.devices
            .iter()
            .map(|(index, dev)| (*index, *dev))
            .collect()
    }

    fn each_inode(&self, f: &mut EachInode<'_>) -> Result<(), StoreError> {
        for item in self.all().walk_inodes()? {
            if let (ino, InodeWord::Is(rec)) = item? {
                f(ino, &rec)?;
            }
        }
        Ok(())
    }

    fn each_dentry(&self, f: &mut EachDentry<'_>) -> Result<(), StoreError> {
        for item in self.all().walk_dentries()? {
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
