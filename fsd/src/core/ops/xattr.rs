//! Extended attributes. Who may read and write which namespace is the kernel's matter.

use crate::core::change::Change;
use crate::core::types::{Caller, Ino};
use crate::core::{FsCore, FsError};
use crate::sync::Arc;

/// Longest attribute name, in bytes. Source: xattr(7).
const NAME_MAX_BYTES: usize = 255;
/// Largest value, in bytes. Source: xattr(7).
const VALUE_MAX_BYTES: usize = 64 << 10;
/// All attribute names of a file together, in bytes, each with its NUL. Source: xattr(7).
const LIST_MAX_BYTES: usize = 64 << 10;
const XATTR_CREATE: i32 = 1;
const XATTR_REPLACE: i32 = 2;

impl FsCore {
    /// The value of the attribute `name`.
    ///
    /// Errors: `NoAttribute`, `NotSupported`, `Stale`, `Base`, `Store`.
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Arc<[u8]>, FsError> {
        check_namespace(name)?;
        let tree = crate::sync::lock(&self.tree);
        let node = tree.node(ino)?;
        match &node.record {
            Some(record) => record.xattrs.get(name).cloned().ok_or(FsError::NoAttribute),
            None => {
                let loc = node.base.clone().ok_or(FsError::Stale(ino))?;
                drop(tree);
                self.base
                    .xattrs(&loc)?
                    .remove(name)
                    .ok_or(FsError::NoAttribute)
            }
        }
    }

    /// The names of all attributes, each followed by a NUL.
    ///
    /// Errors: `Stale`, `Base`, `Store`.
    pub fn listxattr(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        let tree = crate::sync::lock(&self.tree);
        let node = tree.node(ino)?;
        let names: Vec<Arc<[u8]>> = match &node.record {
            Some(record) => record.xattrs.keys().cloned().collect(),
            None => {
                let loc = node.base.clone().ok_or(FsError::Stale(ino))?;
                drop(tree);
                self.base.xattrs(&loc)?.into_keys().collect()
            }
        };
        let mut list = Vec::new();
        for name in names.iter().filter(|n| check_namespace(n).is_ok()) {
            list.extend_from_slice(name);
            list.push(0);
        }
        Ok(list)
    }

    /// Sets the attribute `name`. `flags`: XATTR_CREATE or XATTR_REPLACE of setxattr(2), or 0.
    ///
    /// Errors: `AttributeExists`, `NoAttribute`, `AttributeTooLarge`, `AttributeSpace`,
    /// `NotSupported`, `Stale`, `Base`, `Store`.
    pub fn setxattr(
        &self,
        _caller: &Caller,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        flags: i32,
    ) -> Result<(), FsError> {
        check_namespace(name)?;
        if name.len() > NAME_MAX_BYTES || value.len() > VALUE_MAX_BYTES {
            return Err(FsError::AttributeTooLarge);
        }
        let now = self.clock.now();
        let mut tree = crate::sync::lock(&self.tree);
        let mut change = Change::default();
        let record = tree.edit(&self.base, &mut change, ino)?;
        let exists = record.xattrs.contains_key(name);
        match flags {
            XATTR_CREATE if exists => return Err(FsError::AttributeExists),
            XATTR_REPLACE if !exists => return Err(FsError::NoAttribute),
            _ => {}
        }
        let listed: usize = record.xattrs.keys().map(|n| n.len() + 1).sum();
        if !exists && listed + name.len() + 1 > LIST_MAX_BYTES {
            return Err(FsError::AttributeSpace("too many attributes"));
        }
        record.xattrs.insert(Arc::from(name), Arc::from(value));
        record.ctime = now;
        tree.commit(change)
    }

    /// Removes the attribute `name`.
    ///
    /// Errors: `NoAttribute`, `NotSupported`, `Stale`, `Base`, `Store`.
    pub fn removexattr(&self, _caller: &Caller, ino: Ino, name: &[u8]) -> Result<(), FsError> {
        check_namespace(name)?;
        let now = self.clock.now();
        let mut tree = crate::sync::lock(&self.tree);
        let mut change = Change::default();
        let record = tree.edit(&self.base, &mut change, ino)?;
        if record.xattrs.remove(name).is_none() {
            return Err(FsError::NoAttribute);
        }
        record.ctime = now;
        tree.commit(change)
    }
}

/// POSIX ACLs live in `system.`, and are not kept yet: the answer of a file system without them.
fn check_namespace(name: &[u8]) -> Result<(), FsError> {
    if name.starts_with(b"system.") {
        return Err(FsError::NotSupported("attributes of the system namespace"));
    }
    Ok(())
}
