//! What a frame adds to the usage of a branch, before it is written and after.

use std::collections::BTreeMap;

use super::account::Weight;
use super::delta::InodeWord;
use super::error::StoreError;
use super::layer::LayerView;
use super::stack::Lower;
use super::usage::{EXTENT_BYTES, of_extents, of_name, of_record};
use crate::core::record::Delta;
use crate::core::types::{Ino, Name};

/// Most extents that putting one adds: itself, and the rest of one that it cut in two.
const EXTENTS_ADDED: u64 = 2;

/// One thing that a layer says something about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Inode(Ino),
    Name(Ino, Name),
    Extents(Ino),
}

/// A frame on the scales: what the top layer says of all that the frame speaks of.
#[derive(Debug)]
pub(super) struct Scales {
    before: Weight,
    after: BTreeMap<Key, Weight>,
    born_from: u64,
}

impl Scales {
    /// Weighs `deltas` over what the top layer of `layers` says. Inodes from `born_from` on were
    /// made in it.
    pub fn of(layers: Lower<'_>, born_from: u64, deltas: &[Delta]) -> Result<Self, StoreError> {
        let mut scales = Self {
            before: Weight::default(),
            after: BTreeMap::new(),
            born_from,
        };
        for delta in deltas {
            match delta {
                Delta::PutInode(ino, rec) => {
                    let put = Weight {
                        bytes: signed(of_record(rec)),
                        inodes: i64::from(ino.0 >= born_from),
                    };
                    *scales.at(layers, Key::Inode(*ino))? = put;
                }
                Delta::DelInode(ino) => {
                    *scales.at(layers, Key::Inode(*ino))? = Weight::default();
                    *scales.at(layers, Key::Extents(*ino))? = Weight::default();
                }
                Delta::PutDentry(dir, name, _) => {
                    let put = bytes(of_name(name));
                    *scales.at(layers, Key::Name(*dir, name.clone()))? = put;
                }
                Delta::DelDentry(dir, name) => {
                    *scales.at(layers, Key::Name(*dir, name.clone()))? = Weight::default();
                }
                Delta::PutExtent(ino, ..) => {
                    let below = match top(layers)?.extents(*ino)? {
                        Some(_) => 0,
                        // The whole map becomes this layer's.
                        None => layers.extents(*ino)?.map_or(0, |map| of_extents(&map)),
                    };
                    let weight = scales.at(layers, Key::Extents(*ino))?;
                    weight.bytes += signed(below + EXTENTS_ADDED * EXTENT_BYTES);
                }
                Delta::SetExtents(ino, map) => {
                    *scales.at(layers, Key::Extents(*ino))? = bytes(of_extents(map));
                }
                Delta::Orphan(_) | Delta::PutDevice { .. } => {}
            }
        }
        Ok(scales)
    }

    fn at(&mut self, layers: Lower<'_>, key: Key) -> Result<&mut Weight, StoreError> {
        use std::collections::btree_map::Entry;
        match self.after.entry(key) {
            Entry::Occupied(slot) => Ok(slot.into_mut()),
            Entry::Vacant(slot) => {
                let now = weight(top(layers)?, self.born_from, slot.key())?;
                self.before.add(now);
                Ok(slot.insert(now))
            }
        }
    }

    /// What the frame adds; of extents it may be less, as they may merge.
    pub fn expected(&self) -> Weight {
        let mut sum = Weight::default();
        self.after.values().for_each(|weight| sum.add(*weight));
        sum.less(self.before)
    }

    /// What the frame has added, now that it is applied.
    pub fn real(&self, layers: Lower<'_>) -> Result<Weight, StoreError> {
        let mut sum = Weight::default();
        for key in self.after.keys() {
            sum.add(weight(top(layers)?, self.born_from, key)?);
        }
        Ok(sum.less(self.before))
    }
}

impl Weight {
    fn add(&mut self, other: Weight) {
        self.bytes += other.bytes;
        self.inodes += other.inodes;
    }

    fn less(self, other: Weight) -> Weight {
        Weight {
            bytes: self.bytes - other.bytes,
            inodes: self.inodes - other.inodes,
        }
    }
}

/// What a layer says of `key`, weighed.
fn weight(layer: &LayerView, born_from: u64, key: &Key) -> Result<Weight, StoreError> {
    Ok(match key {
        Key::Inode(ino) => match layer.inode(*ino)? {
            Some(InodeWord::Is(rec)) => Weight {
                bytes: signed(of_record(&rec)),
                inodes: i64::from(ino.0 >= born_from),
            },
            Some(InodeWord::Gone) | None => Weight::default(),
        },
        Key::Name(dir, name) => match layer.dentry(*dir, name)? {
            Some(_) => bytes(of_name(name)),
            None => Weight::default(),
        },
        Key::Extents(ino) => {
            let map = layer.extents(*ino)?;
            bytes(map.map_or(0, |map| of_extents(&map)))
        }
    })
}

fn top<'a>(layers: Lower<'a>) -> Result<&'a LayerView, StoreError> {
    let none = StoreError::Invalid("a branch without layers");
    layers.layers.last().map(|top| &**top).ok_or(none)
}

fn bytes(count: u64) -> Weight {
    Weight {
        bytes: signed(count),
        inodes: 0,
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX / 4)
}
