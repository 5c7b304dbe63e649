//! [`BranchReader`]: a branch open for reading, live or not.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::error::StoreError;
use super::meta::BranchInfo;
use super::objects::ObjectFile;
use super::stack::{EachDentry, EachInode, Records, Stack, records_of_stack};
use crate::core::record::{Dentry, ExtentMap, InodeRec, LayerId, ObjectId};
use crate::core::types::{Ino, Name};

/// A branch as it was when this was opened; takes no lock and disturbs no one.
///
/// The records are a state that some commit led to. Objects are the live files: one that the owner
/// has removed since is reported as missing, and [`Store::read`](super::Store::read) again gives
/// the newer records.
#[derive(Debug)]
pub struct BranchReader {
    info: BranchInfo,
    stack: Stack,
}

impl BranchReader {
    pub(super) fn new(info: BranchInfo, stack: Stack) -> Self {
        Self { info, stack }
    }

    /// What is known of the branch.
    pub fn info(&self) -> &BranchInfo {
        &self.info
    }

    /// What it stands on.
    pub(super) fn stack(&self) -> &Stack {
        &self.stack
    }

    /// The layer that is the branch's own.
    pub fn top_layer(&self) -> Option<LayerId> {
        self.stack.layers.last().map(|top| top.id)
    }

    /// How many records and names the branch's own layer has a word on.
    pub fn own_records(&self) -> u64 {
        self.stack.layers.last().map_or(0, |top| top.records())
    }

    /// What the frozen layers say of a name, without the top one.
    pub fn lower_dentry(&self, parent: Ino, name: &Name) -> Result<Option<Dentry>, StoreError> {
        self.stack.lower_dentry(parent, name)
    }
}

impl Records for BranchReader {
    records_of_stack!();

    fn open_object(&self, id: ObjectId, write: bool) -> Result<Box<dyn ObjectFile>, StoreError> {
        self.stack.open_object(id, write)
    }
}
