//! What a branch takes up, and how much it may: [`Limit`], [`Usage`], and the count from scratch.
//!
//! Counted are the layers that are the branch's own: not those of the point that it was made from,
//! but all that its snapshots keep. Of each: the blocks of its objects, as the host's file system
//! has them, and a fixed charge for what it records. So the parts add up, and freezing a layer moves
//! nothing. `account` keeps the sum of a live branch in step.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::delta::InodeWord;
use super::error::StoreError;
use super::layer::LayerView;
use super::load::Floor;
use super::media::Media;
use super::meta::BranchInfo;
use super::objects;
use super::stack::Stack;
use super::store::Store;
use crate::core::record::{ExtentMap, InodeRec, LayerId, ObjectId};
use crate::core::types::{BranchName, Ino, Name};

/// Bytes that the record of an inode counts, attributes and link target aside.
pub const RECORD_BYTES: u64 = 256;
/// Bytes that a name counts, its own length aside.
pub const NAME_BYTES: u64 = 32;
/// Bytes that an extent of a file counts.
pub const EXTENT_BYTES: u64 = 32;
/// The host counts blocks in these.
const BLOCK_BYTES: u64 = 512;

/// What a branch may take up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// Bytes; `None`: as many as there are.
    pub bytes: Option<u64>,
    /// Inodes made on the branch; `None`: as many as there are.
    pub inodes: Option<u64>,
}

impl Limit {
    /// Whether it limits nothing.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// The tighter of the two, in each respect.
    pub fn tightened(self, other: Self) -> Self {
        let least = |a: Option<u64>, b: Option<u64>| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (one, other) => one.or(other),
        };
        Self {
            bytes: least(self.bytes, other.bytes),
            inodes: least(self.inodes, other.inodes),
        }
    }
}

/// What a branch takes up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes: blocks of objects, and the charge of records.
    pub bytes: u64,
    /// Inodes made on the branch that it, or a snapshot of it, still has.
    pub inodes: u64,
}

/// What a record counts.
pub(super) fn of_record(rec: &InodeRec) -> u64 {
    let xattrs = rec
        .xattrs
        .iter()
        .map(|(name, value)| name.len() + value.len());
    let target = rec.symlink.as_ref().map_or(0, |target| target.len());
    RECORD_BYTES + (xattrs.sum::<usize>() + target) as u64
}

/// What a name counts, whiteouts too.
pub(super) fn of_name(name: &Name) -> u64 {
    NAME_BYTES + name.as_bytes().len() as u64
}

/// What a file's extents count.
pub(super) fn of_extents(map: &ExtentMap) -> u64 {
    EXTENT_BYTES * map.len() as u64
}

/// The bytes of all objects together, and those of each.
#[derive(Debug, Default)]
pub(super) struct Count {
    pub usage: Usage,
    pub objects: HashMap<ObjectId, u64>,
}

impl Count {
    /// Adds what `layer` records. Inodes from `born_from` on were made in it.
    fn add_records(&mut self, layer: &LayerView, born_from: u64) -> Result<(), StoreError> {
        for item in layer.walk_inodes()? {
            if let (ino, InodeWord::Is(rec)) = item? {
                self.usage.bytes += of_record(&rec);
                self.usage.inodes += u64::from(ino.0 >= born_from);
            }
        }
        for item in layer.walk_dentries()? {
            let ((_, name), _) = item?;
            self.usage.bytes += of_name(&name);
        }
        for item in layer.walk_extents()? {
            self.usage.bytes += of_extents(&item?.1);
        }
        Ok(())
    }

    /// Adds the objects of a layer.
    fn add_objects(&mut self, media: &dyn Media, layer: LayerId) -> Result<(), StoreError> {
        for number in objects::list_from(media, 0)? {
            let path = objects::path_of(number);
            let blocks = match media.facts(&path) {
                Ok(facts) => facts.blocks,
                // The owner has removed it meanwhile.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                Err(e) => return Err(StoreError::io("stat", media.describe(Path::new(&path)), e)),
            };
            let bytes = blocks * BLOCK_BYTES;
            self.usage.bytes += bytes;
            self.objects.insert(ObjectId { layer, number }, bytes);
        }
        Ok(())
    }

    /// Adds those of `layers`, lowest first, that are in `own`, and takes them off it.
    fn add_own(
        &mut self,
        layers: &[Arc<LayerView>],
        own: &mut HashSet<LayerId>,
    ) -> Result<(), StoreError> {
        let mut born_from = Ino::FIRST_NEW.0;
        for layer in layers {
            if own.remove(&layer.id) {
                self.add_records(layer, born_from)?;
                self.add_objects(&*layer.media, layer.id)?;
            }
            born_from = born_from.max(layer.ledger.next_ino);
        }
        Ok(())
    }
}

impl Store {
    /// Counts what a branch takes up from scratch, of which `stack` is what it stands on now.
    pub(super) fn count(&self, info: &BranchInfo, stack: &Stack) -> Result<Count, StoreError> {
        let mut own: HashSet<LayerId> = info.own_layers().collect();
        let mut count = Count::default();
        let mut layers = stack.layers.clone();
        if stack.floor.is_some()
            && let (Some(top), Some((_, frozen))) = (layers.pop(), info.layers.split_last())
        {
            // Below the merged table they are counted one by one.
            layers = self.load_frozen(frozen, Floor::None)?.layers;
            layers.push(top);
        }
        count.add_own(&layers, &mut own)?;
        for snapshot in info.snapshots.iter().rev() {
            if own.is_empty() {
                break;
            }
            if snapshot.layers.iter().any(|id| own.contains(id)) {
                let layers = self.load_frozen(&snapshot.layers, Floor::None)?.layers;
                count.add_own(&layers, &mut own)?;
            }
        }
        Ok(count)
    }

    /// What a branch takes up, counted from scratch. Of a live one it is what it was at some moment.
    ///
    /// Costs the changes of the branch. Errors: `NoBranch`, `Damaged`, `NewerFormat`, `Io`.
    pub fn usage(&self, name: &BranchName) -> Result<Usage, StoreError> {
        let reader = self.read(name)?;
        Ok(self.count(reader.info(), reader.stack())?.usage)
    }

    /// Gives a branch that is not live another limit; one below what it takes up already keeps it
    /// from growing, no more.
    ///
    /// Errors: `NoBranch`, `Locked`, and those of writing.
    pub fn set_limit(&self, name: &BranchName, limit: Limit) -> Result<(), StoreError> {
        let held = self.hold()?;
        let _live = self.lock_branch(name)?;
        let before = self.branch(name)?;
        if before.limit == limit {
            return Ok(());
        }
        let info = BranchInfo {
            limit,
            ..before.clone()
        };
        held.put_branch(&before, &info)
    }
}
