//! What of the permission rules is left to a FUSE server: the kernel checks the rest
//! (`default_permissions`) with the caller's full credentials before a request is sent.
//!
//! Where the kernel does not check, as on a shared mount, [`Checked`] does all of it, by the rules in
//! `check`. Supplementary groups are looked up only where an answer hinges on them.

mod check;
mod checked;

pub use check::Want;
pub use checked::Checked;

use crate::core::FsCore;
use crate::core::FsError;
use crate::core::types::{Caller, Ino, Kind};

const SUID: u32 = 0o4000;
const SGID: u32 = 0o2000;
const GROUP_EXEC: u32 = 0o010;

/// Numbers of capabilities. Source: capabilities(7).
const CAP_CHOWN: u8 = 0;
const CAP_DAC_OVERRIDE: u8 = 1;
const CAP_DAC_READ_SEARCH: u8 = 2;
const CAP_FOWNER: u8 = 3;
const CAP_FSETID: u8 = 4;
const CAP_SYS_ADMIN: u8 = 21;
const CAP_SETFCAP: u8 = 31;

/// The extended attribute that holds file capabilities.
pub const CAPABILITY_XATTR: &[u8] = b"security.capability";

/// Whether the caller may write to a file, by its mode, its list and his capabilities.
///
/// Errors: `UnknownCaller`, `Stale`, `Base`, `Store`.
pub fn may_write(core: &FsCore, caller: &Caller, ino: Ino) -> Result<bool, FsError> {
    let attr = core.getattr(ino)?;
    Ok(check::is_granted(core, caller, &attr, Want::WRITE)?
        || check::is_overridden(caller, &attr, Want::WRITE))
}

/// The mode bits a file keeps when somebody without privilege changes its bytes or owner:
/// suid goes, sgid goes where it means "run as group".
pub fn without_privileges(kind: Kind, perm: u32) -> u32 {
    if kind == Kind::Dir {
        return perm;
    }
    let mut perm = perm & !SUID;
    if perm & GROUP_EXEC != 0 {
        perm &= !SGID;
    }
    perm
}

/// Group and mode bits of an entry that `caller` makes in a directory (inode_init_owner's rule).
pub fn inherit(
    core: &FsCore,
    caller: &Caller,
    dir_perm: u32,
    dir_gid: u32,
    kind: Kind,
    perm: u32,
) -> Result<(u32, u32), FsError> {
    if dir_perm & SGID == 0 {
        return Ok((caller.gid, perm));
    }
    if kind == Kind::Dir {
        return Ok((dir_gid, perm | SGID));
    }
    let runs_as_group = perm & (SGID | GROUP_EXEC) == SGID | GROUP_EXEC;
    if runs_as_group && !in_group(core, caller, dir_gid)? {
        return Ok((dir_gid, perm & !SGID));
    }
    Ok((dir_gid, perm))
}

/// Whether `caller` may change bytes of a file and leave its suid and sgid bits (CAP_FSETID).
///
/// For those operations only whose request does not carry the kernel's own answer. Root inside a
/// run has no capability, so the uid alone says nothing. Who cannot be identified may not.
pub fn keeps_privileges(caller: &Caller) -> bool {
    caller.uid == 0 && crate::proc::has_capability(caller.pid, CAP_FSETID).unwrap_or(false)
}

/// Whether `caller` may do with a file what its owner may (CAP_FOWNER).
pub fn is_owner(caller: &Caller, uid: u32) -> bool {
    caller.uid == uid || holds(caller, CAP_FOWNER)
}

/// Whether `caller` may take file capabilities off whatever file (CAP_SETFCAP).
pub fn sets_capabilities(caller: &Caller) -> bool {
    holds(caller, CAP_SETFCAP)
}

/// Whether `caller` is shown attributes `trusted.*` (CAP_SYS_ADMIN).
pub fn sees_trusted(caller: &Caller) -> bool {
    holds(caller, CAP_SYS_ADMIN)
}

/// Whether `caller` holds this capability over all files.
///
/// Everybody may hold it in a user namespace of their own: so it counts for root, and for others
/// in the daemon's namespace. Who cannot be identified does not.
fn holds(caller: &Caller, capability: u8) -> bool {
    (caller.uid == 0 || crate::proc::shares_user_namespace(caller.pid))
        && crate::proc::has_capability(caller.pid, capability).unwrap_or(false)
}

/// Whether `caller` is in `gid`, by its own or a supplementary group, or is privileged.
///
/// Errors: `UnknownCaller` when that takes a look at a process that cannot be identified.
pub fn in_group(core: &FsCore, caller: &Caller, gid: u32) -> Result<bool, FsError> {
    if caller.uid == 0 || caller.gid == gid {
        return Ok(true);
    }
    Ok(core.processes.groups(caller.pid)?.contains(&gid))
}

/// Logs a change of owner by somebody who is not the owner: the kernel has let it pass (it checks
/// with the caller's capabilities), and whoever audits a branch wants to know by whom.
pub fn log_chown(
    core: &FsCore,
    caller: &Caller,
    ino: Ino,
    actual: (u32, u32),
    asked: (Option<u32>, Option<u32>),
) {
    if caller.uid == actual.0 {
        return;
    }
    let groups = core.processes.groups(caller.pid).unwrap_or_default();
    tracing::info!(
        target: "agentfs::access",
        %ino,
        pid = caller.pid,
        uid = caller.uid,
        gid = caller.gid,
        ?groups,
        asked_uid = ?asked.0,
        asked_gid = ?asked.1,
        owner_uid = actual.0,
        owner_gid = actual.1,
        "a caller that is not the owner changes the owner"
    );
}

/// The mode that chmod(2) by `caller` sets: sgid is refused to those outside the group.
pub fn chmod(core: &FsCore, caller: &Caller, file_gid: u32, perm: u32) -> Result<u32, FsError> {
    if perm & SGID != 0 && !in_group(core, caller, file_gid)? {
        return Ok(perm & !SGID);
    }
    Ok(perm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_bytes_takes_privileges_away() {
        assert_eq!(without_privileges(Kind::File, 0o6755), 0o0755);
        // sgid without group execute once meant mandatory locking: it stays.
        assert_eq!(without_privileges(Kind::File, 0o2644), 0o2644);
        assert_eq!(without_privileges(Kind::Dir, 0o2755), 0o2755);
    }
}
