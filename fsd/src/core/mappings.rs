//! [`Mappings`]: files that a program may go on writing to although it has closed them.
//!
//! Where the kernel serves a file by itself (passthrough), a shared mapping of it belongs to the
//! object and not to the mount: the last close is told to us, the mapping is not. What is stored
//! through it must not get into a layer that is frozen meanwhile.

use std::collections::BTreeMap;

use crate::backstore::Records;
use crate::core::FsError;
use crate::core::record::{Content, ObjectId};
use crate::core::superblock::Tree;
use crate::core::types::Ino;
use crate::sync::{Mutex, lock};

/// Files that were closed after an open that a mapping for writing can come from, with their
/// objects. Rank 3.
#[derive(Debug, Default)]
pub struct Mappings(Mutex<BTreeMap<Ino, ObjectId>>);

impl Mappings {
    /// Notes that a file was closed.
    pub fn closed(&self, ino: Ino, object: ObjectId) {
        lock(&self.0).insert(ino, object);
    }

    /// An object goes by another name from now on.
    pub fn moved(&self, from: ObjectId, to: ObjectId) {
        let mut closed = lock(&self.0);
        closed
            .values_mut()
            .filter(|id| **id == from)
            .for_each(|id| *id = to);
    }

    /// The files that are mapped for writing still; the others are forgotten.
    pub fn left(&self, tree: &Mutex<Tree>) -> Vec<Ino> {
        // Not under the lock: a program that is about to close a file need not wait.
        let closed = lock(&self.0).clone();
        let mut left = Vec::new();
        for (ino, object) in closed {
            // Held until it is forgotten: a close that comes in between would be forgotten too.
            let tree = lock(tree);
            let is_mapped = is_mapped(&tree, ino, object).unwrap_or_else(|error| {
                tracing::debug!(%ino, %error, "cannot tell whether a file is mapped");
                true
            });
            if is_mapped {
                left.push(ino);
                continue;
            }
            let mut closed = lock(&self.0);
            if closed.get(&ino) == Some(&object) {
                closed.remove(&ino);
            }
        }
        left
    }
}

/// Whether the file's object, which is still its own, is open for writing somewhere. One that we
/// have open ourselves is.
fn is_mapped(tree: &Tree, ino: Ino, object: ObjectId) -> Result<bool, FsError> {
    let record = match tree.nodes.get(&ino) {
        Some(node) => node.record.clone(),
        None => tree.branch.inode(ino)?,
    };
    let is_own = record.is_some_and(|r| r.content == Content::Object(object));
    if !is_own || !tree.branch.is_top(object) {
        return Ok(false);
    }
    Ok(tree
        .branch
        .open_object(object, false)?
        .is_open_for_writing()?)
}
