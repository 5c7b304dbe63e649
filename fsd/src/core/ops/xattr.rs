//! Extended attributes. Who may read and write which namespace is the kernel's matter.

use crate::core::access::CAPABILITY_XATTR;
use crate::core::acl::{self, Acl};
use crate::core::base::Xattrs;
use crate::core::change::Change;
use crate::core::superblock::Tree;
use crate::core::types::{Caller, Ino, Kind};
use crate::core::{FsCore, FsError, access};
use crate::sync::{Arc, MutexGuard};

/// Longest attribute name, in bytes. Source: xattr(7).
const NAME_MAX_BYTES: usize = 255;
/// Largest value, in bytes. Source: xattr(7).
const VALUE_MAX_BYTES: usize = 64 << 10;
/// All attribute names of a file together, in bytes, each with its NUL. Source: xattr(7).
const LIST_MAX_BYTES: usize = 64 << 10;
/// Namespaces, which name no attribute by themselves. Source: xattr(7).
const PREFIXES: &[&[u8]] = &[b"user.", b"trusted.", b"security."];
const XATTR_CREATE: i32 = 1;
const XATTR_REPLACE: i32 = 2;

impl FsCore {
    /// The value of the attribute `name`.
    ///
    /// Errors: `NoAttribute`, `NotSupported`, `Invalid`, `Stale`, `Base`, `Store`.
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Arc<[u8]>, FsError> {
        check_name(name)?;
        let tree = crate::sync::lock(&self.tree);
        let node = tree.node(ino)?;
        match &node.record {
            Some(record) => record.xattrs.get(name).cloned().ok_or(FsError::NoAttribute),
            None => self
                .base_xattrs(tree, ino)?
                .remove(name)
                .ok_or(FsError::NoAttribute),
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
            None => self.base_xattrs(tree, ino)?.into_keys().collect(),
        };
        let mut list = Vec::new();
        for name in names.iter().filter(|n| check_namespace(n).is_ok()) {
            list.extend_from_slice(name);
            list.push(0);
        }
        Ok(list)
    }

    /// As [`FsCore::listxattr`], without those names that are not for `caller` to see.
    pub fn listxattr_for(&self, caller: &Caller, ino: Ino) -> Result<Vec<u8>, FsError> {
        let list = self.listxattr(ino)?;
        let is_trusted = |name: &[u8]| name.starts_with(b"trusted.");
        if !list.split(|b| *b == 0).any(is_trusted) || access::sees_trusted(caller) {
            return Ok(list);
        }
        let names = list.split_inclusive(|b| *b == 0);
        Ok(names
            .filter(|name| !is_trusted(name))
            .flatten()
            .copied()
            .collect())
    }

    /// Sets the attribute `name`. `flags`: XATTR_CREATE and XATTR_REPLACE of setxattr(2), or 0.
    ///
    /// Errors: `AttributeExists`, `NoAttribute`, `AttributeTooLarge`, `AttributeSpace`,
    /// `NotSupported`, `Invalid`, `Stale`, `Base`, `Store`.
    pub fn setxattr(
        &self,
        caller: &Caller,
        ino: Ino,
        name: &[u8],
        value: &[u8],
        flags: i32,
    ) -> Result<(), FsError> {
        check_name(name)?;
        if is_acl(name) {
            return self.set_acl(caller, ino, name, value);
        }
        if name.len() > NAME_MAX_BYTES || value.len() > VALUE_MAX_BYTES {
            return Err(FsError::AttributeTooLarge);
        }
        let now = self.clock.now();
        let mut tree = crate::sync::lock(&self.tree);
        let mut change = Change::default();
        let record = tree.edit(&self.base, &mut change, ino)?;
        let exists = record.xattrs.contains_key(name);
        if flags & XATTR_CREATE != 0 && exists {
            return Err(FsError::AttributeExists);
        }
        if flags & XATTR_REPLACE != 0 && !exists {
            return Err(FsError::NoAttribute);
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
    /// The kernel has this sent for file capabilities by whoever truncates or chowns a file, before
    /// it asks for that, and may not be let do it. From those who could not have asked for the
    /// removal it is taken for such a word ahead: what it announces takes them off, or is refused.
    /// Errors: `NoAttribute` (a list that is not there is removed), `NotSupported`, `Invalid`,
    /// `Stale`, `Base`, `Store`.
    pub fn removexattr(&self, caller: &Caller, ino: Ino, name: &[u8]) -> Result<(), FsError> {
        check_name(name)?;
        let now = self.clock.now();
        let mut tree = crate::sync::lock(&self.tree);
        if name == CAPABILITY_XATTR
            && !access::is_owner(caller, tree.record_of(&self.base, ino)?.uid)
            && !access::sets_capabilities(caller)
        {
            return Ok(());
        }
        if is_acl(name) && !tree.record_of(&self.base, ino)?.xattrs.contains_key(name) {
            return Ok(());
        }
        let mut change = Change::default();
        let record = tree.edit(&self.base, &mut change, ino)?;
        if record.xattrs.remove(name).is_none() {
            return Err(FsError::NoAttribute);
        }
        record.ctime = now;
        tree.commit(change)
    }
}

impl FsCore {
    /// The attributes of the base object of an inode without a record, read without the tree lock.
    fn base_xattrs(&self, tree: MutexGuard<'_, Tree>, ino: Ino) -> Result<Xattrs, FsError> {
        let (_, file) = tree.seen_object(&self.base, ino)?;
        let loc = tree.node(ino)?.base().cloned().ok_or(FsError::Stale(ino))?;
        drop(tree);
        match file {
            Some(file) => self.base.xattrs_open(&file),
            None => self.base.xattrs(&loc),
        }
    }

    /// Sets an access control list and, with an access list, the mode that goes with it.
    fn set_acl(&self, caller: &Caller, ino: Ino, name: &[u8], value: &[u8]) -> Result<(), FsError> {
        let acl = Acl::parse(value).ok_or(FsError::Invalid("not an access control list"))?;
        let now = self.clock.now();
        let mut tree = crate::sync::lock(&self.tree);
        let mut change = Change::default();
        let record = tree.edit(&self.base, &mut change, ino)?;
        record.ctime = now;
        if name == acl::DEFAULT_XATTR {
            if record.kind != Kind::Dir {
                return Err(FsError::AccessDenied(
                    "a default list of something but a directory",
                ));
            }
            record.xattrs.insert(Arc::from(name), Arc::from(value));
            return tree.commit(change);
        }
        if record.kind == Kind::Symlink {
            return Err(FsError::NotSupported(
                "an access control list of a symbolic link",
            ));
        }
        record.perm = access::chmod(self, caller, record.gid, record.perm & !0o777 | acl.mode())?;
        if acl.is_mode() {
            record.xattrs.remove(name);
        } else {
            record.xattrs.insert(Arc::from(name), Arc::from(value));
        }
        tree.commit(change)
    }
}

fn is_acl(name: &[u8]) -> bool {
    name == acl::ACCESS_XATTR || name == acl::DEFAULT_XATTR
}

/// A name in a namespace that is kept, and more than the namespace.
fn check_name(name: &[u8]) -> Result<(), FsError> {
    check_namespace(name)?;
    if PREFIXES.contains(&name) {
        return Err(FsError::Invalid("an attribute name that is all prefix"));
    }
    Ok(())
}

/// Of the `system.` namespace, a branch keeps the access control lists and nothing else; and it
/// knows no namespace that Linux does not.
fn check_namespace(name: &[u8]) -> Result<(), FsError> {
    if is_acl(name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        return Ok(());
    }
    Err(FsError::NotSupported("attributes of that namespace"))
}
