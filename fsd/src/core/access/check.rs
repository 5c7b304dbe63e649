//! The rules of permission, as the kernel has them: who may read, write and search or execute what.
//!
//! Source: acl_permission_check and generic_permission of the kernel; path_resolution(7).

use super::{CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, holds};
use crate::core::acl::{ACCESS_XATTR, Acl};
use crate::core::types::{Attr, Caller, Kind};
use crate::core::{FsCore, FsError};

/// What is to be done with a file: any of reading, writing, and executing (or searching) it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// To read it, or list it.
    pub read: bool,
    /// To change it.
    pub write: bool,
    /// To execute it, or look up names in it.
    pub execute: bool,
}

impl Want {
    /// To look up names in a directory.
    pub const SEARCH: Want = Want {
        read: false,
        write: false,
        execute: true,
    };
    /// To add or remove names in a directory.
    pub const CHANGE_NAMES: Want = Want {
        read: false,
        write: true,
        execute: true,
    };
    /// To read.
    pub const READ: Want = Want {
        read: true,
        write: false,
        execute: false,
    };
    /// To write.
    pub const WRITE: Want = Want {
        read: false,
        write: true,
        execute: false,
    };

    /// From the bits of access(2); others do not count.
    pub fn of_bits(bits: u32) -> Self {
        Self {
            read: bits & 4 != 0,
            write: bits & 2 != 0,
            execute: bits & 1 != 0,
        }
    }

    fn bits(self) -> u32 {
        u32::from(self.read) << 2 | u32::from(self.write) << 1 | u32::from(self.execute)
    }
}

/// Whether mode and access control list of the file with these attributes let the caller.
///
/// Errors: `UnknownCaller` where it hinges on groups that nobody knows, and those of the base.
pub(super) fn is_granted(
    core: &FsCore,
    caller: &Caller,
    attr: &Attr,
    want: Want,
) -> Result<bool, FsError> {
    let want = want.bits();
    let gives = |perm: u32| perm & want == want;
    if caller.uid == attr.uid {
        return Ok(gives(attr.perm >> 6));
    }
    // Without a bit for the group no list gives anything that the mode does not.
    if attr.perm & 0o070 != 0
        && attr.kind != Kind::Symlink
        && let Some(list) = list_of(core, attr)?
    {
        let in_group = |id: Option<u32>| is_member(core, caller, id.unwrap_or(attr.gid));
        return list.permits(want, |id| id == caller.uid, in_group);
    }
    let (group, other) = (gives(attr.perm >> 3), gives(attr.perm));
    if group == other {
        return Ok(group);
    }
    Ok(match is_member(core, caller, attr.gid)? {
        true => group,
        false => other,
    })
}

/// Whether a capability of the caller lets him all the same.
pub(super) fn is_overridden(caller: &Caller, attr: &Attr, want: Want) -> bool {
    let reads_only = !want.write && (attr.kind == Kind::Dir || !want.execute);
    if reads_only && holds(caller, CAP_DAC_READ_SEARCH) {
        return true;
    }
    // Nobody executes what nobody may.
    let executable = attr.kind == Kind::Dir || !want.execute || attr.perm & 0o111 != 0;
    executable && holds(caller, CAP_DAC_OVERRIDE)
}

/// Whether the caller is in this group, by his own or a supplementary one.
pub(super) fn is_member(core: &FsCore, caller: &Caller, gid: u32) -> Result<bool, FsError> {
    if caller.gid == gid {
        return Ok(true);
    }
    Ok(core.processes.groups(caller.pid)?.contains(&gid))
}

fn list_of(core: &FsCore, attr: &Attr) -> Result<Option<Acl>, FsError> {
    match core.getxattr(attr.ino, ACCESS_XATTR) {
        Ok(bytes) => Ok(Acl::parse(&bytes)),
        Err(FsError::NoAttribute | FsError::NotSupported(_)) => Ok(None),
        Err(e) => Err(e),
    }
}
