//! [`Checked`]: the core as one caller may use it, for where no kernel checks before we are asked.
//!
//! Each call asks the rules first and the core then. Which rights over `security.*` and `trusted.*`
//! attributes a caller has the kernel checks on every mount; that is left to it.

use super::check::{Want, is_granted, is_member, is_overridden};
use super::{CAP_CHOWN, CAP_FOWNER, holds, is_owner};
use crate::core::acl::{ACCESS_XATTR, DEFAULT_XATTR};
use crate::core::ops::open::Access;
use crate::core::types::{
    Attr, Caller, Entry, Fh, Ino, Kind, Name, NewMode, RenameMode, SetAttr, TimeSet,
};
use crate::core::{FsCore, FsError, Moved, Opened};
use crate::sync::Arc;

/// One caller's core.
#[derive(Clone, Copy, Debug)]
pub struct Checked<'a> {
    core: &'a FsCore,
    caller: Caller,
}

/// `NotPermitted` unless it is so.
fn must(permitted: bool, what: &'static str) -> Result<(), FsError> {
    match permitted {
        true => Ok(()),
        false => Err(FsError::NotPermitted(what)),
    }
}

impl<'a> Checked<'a> {
    /// The core, for `caller`.
    pub fn new(core: &'a FsCore, caller: Caller) -> Self {
        Self { core, caller }
    }

    /// Errors: `AccessDenied`, and those of looking.
    fn need(&self, ino: Ino, want: Want) -> Result<Attr, FsError> {
        let attr = self.core.getattr(ino)?;
        if is_granted(self.core, &self.caller, &attr, want)?
            || is_overridden(&self.caller, &attr, want)
        {
            return Ok(attr);
        }
        Err(FsError::AccessDenied("by mode or access control list"))
    }

    /// As access(2), which asks for the real user: of others than root no capability counts.
    ///
    /// Errors: `AccessDenied`.
    pub fn access(&self, ino: Ino, want: Want) -> Result<(), FsError> {
        let attr = self.core.getattr(ino)?;
        let by_root = || self.caller.uid == 0 && is_overridden(&self.caller, &attr, want);
        if is_granted(self.core, &self.caller, &attr, want)? || by_root() {
            return Ok(());
        }
        Err(FsError::AccessDenied("by mode or access control list"))
    }

    fn owns(&self, attr: &Attr) -> bool {
        is_owner(&self.caller, attr.uid)
    }

    /// Finds `name` in `parent`. Errors: `AccessDenied`, as [`FsCore::lookup`].
    pub fn lookup(&self, parent: Ino, name: &Name) -> Result<Entry, FsError> {
        self.need(parent, Want::SEARCH)?;
        self.core.lookup(parent, name)
    }

    /// Changes attributes; by a handle, if there is one, that was opened for writing.
    ///
    /// Errors: `NotPermitted` for what only the owner may, `AccessDenied`, as [`FsCore::setattr`].
    pub fn setattr(&self, ino: Ino, fh: Option<Fh>, set: &SetAttr) -> Result<Attr, FsError> {
        if set.size.is_some() && fh.is_none() {
            self.need(ino, Want::WRITE)?;
        }
        let attr = self.core.getattr(ino)?;
        self.may_give(&attr, set)?;
        if set.perm.is_some() {
            must(self.owns(&attr), "chmod of another's file")?;
        }
        match (set.atime, set.mtime) {
            (None, None) => {}
            (Some(TimeSet::Now), Some(TimeSet::Now)) if !self.owns(&attr) => {
                self.need(ino, Want::WRITE)?;
            }
            // With the size they come from the kernel itself.
            _ if set.size.is_some() => {}
            _ => must(self.owns(&attr), "setting the times of another's file")?,
        }
        self.core.setattr(&self.caller, ino, fh, set)
    }

    /// Whether the file may be given to another owner or group.
    fn may_give(&self, attr: &Attr, set: &SetAttr) -> Result<(), FsError> {
        let is_own = self.caller.uid == attr.uid;
        if let Some(uid) = set.uid {
            let stays = is_own && uid == attr.uid;
            must(stays || holds(&self.caller, CAP_CHOWN), "chown")?;
        }
        if let Some(gid) = set.gid {
            let is_ours =
                || Ok::<_, FsError>(gid == attr.gid || is_member(self.core, &self.caller, gid)?);
            let stays = is_own && is_ours()?;
            must(stays || holds(&self.caller, CAP_CHOWN), "chgrp")?;
        }
        Ok(())
    }

    /// Errors: `AccessDenied`, as [`FsCore::mknod`]. Who may make devices the kernel has checked.
    pub fn mknod(
        &self,
        parent: Ino,
        name: &Name,
        kind: Kind,
        mode: NewMode,
        rdev: u64,
    ) -> Result<Entry, FsError> {
        self.need(parent, Want::CHANGE_NAMES)?;
        (self.core).mknod(&self.caller, parent, name, kind, mode, rdev)
    }

    /// Errors: `AccessDenied`, as [`FsCore::mkdir`].
    pub fn mkdir(&self, parent: Ino, name: &Name, mode: NewMode) -> Result<Entry, FsError> {
        self.need(parent, Want::CHANGE_NAMES)?;
        self.core.mkdir(&self.caller, parent, name, mode)
    }

    /// Errors: `AccessDenied`, as [`FsCore::symlink`].
    pub fn symlink(&self, parent: Ino, name: &Name, target: &[u8]) -> Result<Entry, FsError> {
        self.need(parent, Want::CHANGE_NAMES)?;
        self.core.symlink(&self.caller, parent, name, target)
    }

    /// Errors: `AccessDenied`; `NotPermitted` for another's file that may not be linked to (sysctl
    /// fs.protected_hardlinks); as [`FsCore::link`].
    pub fn link(&self, ino: Ino, parent: Ino, name: &Name) -> Result<Entry, FsError> {
        let attr = self.core.getattr(ino)?;
        if protects_links() && !self.owns(&attr) {
            let runs_as_other = attr.perm & 0o4000 != 0 || attr.perm & 0o2010 == 0o2010;
            let both = Want {
                read: true,
                write: true,
                execute: false,
            };
            let is_safe = attr.kind == Kind::File && !runs_as_other && self.need(ino, both).is_ok();
            must(is_safe, "a link to another's file")?;
        }
        self.need(parent, Want::CHANGE_NAMES)?;
        self.core.link(&self.caller, ino, parent, name)
    }

    /// Whether `name` may be taken out of `parent`.
    ///
    /// Errors: `AccessDenied`, `NotPermitted` in a sticky directory, `NoEntry`.
    pub fn may_remove(&self, parent: Ino, name: &Name) -> Result<Attr, FsError> {
        let dir = self.need(parent, Want::CHANGE_NAMES)?;
        let found = self.core.lookup(parent, name)?;
        self.core.forget(found.attr.ino, 1);
        let file = found.attr;
        if dir.perm & 0o1000 != 0 && self.caller.uid != file.uid && self.caller.uid != dir.uid {
            let holds = holds(&self.caller, CAP_FOWNER);
            must(holds, "removing another's file from a sticky directory")?;
        }
        Ok(file)
    }

    /// Errors: as [`Checked::may_remove`] and [`FsCore::unlink`].
    pub fn unlink(&self, parent: Ino, name: &Name) -> Result<(), FsError> {
        self.may_remove(parent, name)?;
        self.core.unlink(&self.caller, parent, name)
    }

    /// Errors: as [`Checked::may_remove`] and [`FsCore::rmdir`].
    pub fn rmdir(&self, parent: Ino, name: &Name) -> Result<(), FsError> {
        self.may_remove(parent, name)?;
        self.core.rmdir(&self.caller, parent, name)
    }

    /// Whether a rename may be made; gives what is moved, and what is there to be replaced.
    ///
    /// Errors: as [`Checked::may_remove`]; `AccessDenied` for a directory that goes to another one and
    /// may not be changed.
    pub fn may_rename(
        &self,
        from: (Ino, &Name),
        to: (Ino, &Name),
        mode: RenameMode,
    ) -> Result<(Attr, Option<Attr>), FsError> {
        let moved = self.may_remove(from.0, from.1)?;
        let there = match self.may_remove(to.0, to.1) {
            Ok(there) => Some(there),
            Err(FsError::NoEntry { .. }) => None,
            Err(e) => return Err(e),
        };
        if from.0 != to.0 {
            let exchanged = there.filter(|_| mode == RenameMode::Exchange);
            for dir in [Some(moved), exchanged].into_iter().flatten() {
                if dir.kind == Kind::Dir {
                    // Its `..` changes.
                    self.need(dir.ino, Want::WRITE)?;
                }
            }
        }
        Ok((moved, there))
    }

    /// Errors: as [`Checked::may_rename`] and [`FsCore::rename`].
    pub fn rename(
        &self,
        from: (Ino, &Name),
        to: (Ino, &Name),
        mode: RenameMode,
    ) -> Result<Moved, FsError> {
        self.may_rename(from, to, mode)?;
        (self.core).rename(&self.caller, from.0, from.1, to.0, to.1, mode)
    }

    /// Errors: `AccessDenied`, as [`FsCore::open`].
    pub fn open(&self, ino: Ino, flags: i32) -> Result<Opened, FsError> {
        self.need(ino, Access::want(flags))?;
        self.core.open(&self.caller, ino, flags)
    }

    /// Errors: `AccessDenied`, as [`FsCore::create`].
    pub fn create(
        &self,
        parent: Ino,
        name: &Name,
        mode: NewMode,
        flags: i32,
    ) -> Result<(Entry, Opened), FsError> {
        self.need(parent, Want::CHANGE_NAMES)?;
        self.core.create(&self.caller, parent, name, mode, flags)
    }

    /// Whether the directory may be listed. Errors: `AccessDenied`, as [`FsCore::check_dir`].
    pub fn check_dir(&self, ino: Ino) -> Result<(), FsError> {
        self.need(ino, Want::READ)?;
        self.core.check_dir(ino)
    }

    /// Errors: `AccessDenied`, `NoAttribute`, as [`FsCore::getxattr`].
    pub fn getxattr(&self, ino: Ino, name: &[u8]) -> Result<Arc<[u8]>, FsError> {
        if is_users(name) {
            let attr = self.need(ino, Want::READ)?;
            if !matches!(attr.kind, Kind::File | Kind::Dir) {
                return Err(FsError::NoAttribute);
            }
        }
        self.core.getxattr(ino, name)
    }

    /// The names that are for this caller to see.
    pub fn listxattr(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        self.core.listxattr_for(&self.caller, ino)
    }

    /// Errors: `AccessDenied`, `NotPermitted`, as [`FsCore::setxattr`].
    pub fn setxattr(&self, ino: Ino, name: &[u8], value: &[u8], flags: i32) -> Result<(), FsError> {
        self.may_change_xattr(ino, name)?;
        self.core.setxattr(&self.caller, ino, name, value, flags)
    }

    /// Errors: `AccessDenied`, `NotPermitted`, as [`FsCore::removexattr`].
    pub fn removexattr(&self, ino: Ino, name: &[u8]) -> Result<(), FsError> {
        self.may_change_xattr(ino, name)?;
        self.core.removexattr(&self.caller, ino, name)
    }

    /// Source: xattr_permission and set_posix_acl of the kernel.
    fn may_change_xattr(&self, ino: Ino, name: &[u8]) -> Result<(), FsError> {
        let attr = self.core.getattr(ino)?;
        if name == ACCESS_XATTR || name == DEFAULT_XATTR {
            return must(
                self.owns(&attr),
                "the access control list of another's file",
            );
        }
        if is_users(name) {
            let may_have = matches!(attr.kind, Kind::File | Kind::Dir);
            must(may_have, "attributes of users on such a file")?;
            let is_sticky = attr.kind == Kind::Dir && attr.perm & 0o1000 != 0;
            must(
                !is_sticky || self.owns(&attr),
                "attributes of another's sticky directory",
            )?;
            self.need(ino, Want::WRITE)?;
        }
        Ok(())
    }
}

fn is_users(name: &[u8]) -> bool {
    name.starts_with(b"user.")
}

/// Whether this machine keeps people from linking to others' files. Source: proc_sys_fs(5).
fn protects_links() -> bool {
    let word = std::fs::read("/proc/sys/fs/protected_hardlinks");
    word.is_ok_and(|word| word.first() == Some(&b'1'))
}
