//! The kernel's types as fuser gives them, from and to the core's. Pure functions.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, INodeNo, RenameFlags};

use crate::core::acl::{ACCESS_XATTR, Acl, DEFAULT_XATTR};
use crate::core::error::FsError;
use crate::core::types::{Attr, Caller, Kind, NewMode, RenameMode, Time};
use crate::fuse::transport::Asker;
use crate::sync::Arc;

/// How long the kernel may trust entries and attributes: for good. A mount serves one branch,
/// and every change of it goes through this mount. (The kernel clamps it to its own maximum.)
pub(super) const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// The block size shown by stat(2), in bytes: what programs choose their buffers by.
const BLOCK_BYTES: u32 = 4096;

pub(super) fn caller(request: &Asker) -> Caller {
    Caller {
        uid: request.uid(),
        gid: request.gid(),
        pid: request.pid(),
    }
}

pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Dir => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::Char => FileType::CharDevice,
        Kind::Block => FileType::BlockDevice,
    }
}

/// How owners are shown on a mount whose user namespace knows one user and one group.
///
/// The kernel lets nobody write to a file with an id it cannot map, not even the owner. So a group
/// that cannot be shown is shown as the user's own where the user has the group's rights, or does
/// not need them. The branch's records keep the real one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct OneUser {
    pub uid: u32,
    pub gid: u32,
    /// The user's supplementary groups.
    pub groups: Vec<u32>,
}

impl OneUser {
    /// What stands for the group of a file.
    pub(super) fn show(&self, mut attr: FileAttr) -> FileAttr {
        if attr.uid == self.uid || self.groups.contains(&attr.gid) {
            attr.gid = self.gid;
        }
        attr
    }

    /// What stands for the attribute `name`: of an access control list, the entries that can
    /// concern this user. The kernel answers every access with EINVAL when a list names an id that
    /// the user namespace does not know.
    pub(super) fn show_xattr(&self, name: &[u8], value: Arc<[u8]>) -> Arc<[u8]> {
        if name != ACCESS_XATTR && name != DEFAULT_XATTR {
            return value;
        }
        let Some(list) = Acl::parse(&value) else {
            return value;
        };
        let in_group = |id| id == self.gid || self.groups.contains(&id);
        let shown = list.shown(
            |id| (id == self.uid).then_some(id),
            |id| in_group(id).then_some(self.gid),
        );
        shown.to_bytes().into()
    }
}

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: time_out(attr.atime),
        mtime: time_out(attr.mtime),
        ctime: time_out(attr.ctime),
        // Not sent on Linux: the birth time would go by FUSE_STATX, which fuser does not speak.
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: (attr.perm & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: rdev_out(attr.rdev),
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

/// Attributes that carry an inode number and a type, nothing else: with number 0 the form of a
/// cacheable "no such entry", with a number what the dots of a directory stream need.
pub(super) fn bare_attr(ino: u64, kind: Kind) -> FileAttr {
    let zero = Time::default();
    let attr = Attr {
        ino: crate::core::types::Ino(ino),
        kind,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        blocks: 0,
        may_fill: false,
        atime: zero,
        mtime: zero,
        ctime: zero,
        btime: zero,
    };
    file_attr(&attr)
}

/// A time as the kernel wants it. Any `i64` second is representable on Linux.
fn time_out(time: Time) -> SystemTime {
    let whole = Duration::from_secs(time.sec.unsigned_abs());
    let second = if time.sec >= 0 {
        UNIX_EPOCH.checked_add(whole)
    } else {
        UNIX_EPOCH.checked_sub(whole)
    };
    second
        .and_then(|t| t.checked_add(Duration::from_nanos(time.nsec.into())))
        .unwrap_or(UNIX_EPOCH)
}

/// A device number in the 32 bits of the protocol: the kernel's `new_encode_dev`, 12 bits of
/// major and 20 of minor, which is all that Linux device numbers have.
fn rdev_out(rdev: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(rdev), rustix::fs::minor(rdev));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// The device number that came in those 32 bits.
pub(super) fn rdev_in(encoded: u32) -> u64 {
    let major = (encoded & 0xfff00) >> 8;
    let minor = (encoded & 0xff) | ((encoded >> 12) & 0xfff00);
    rustix::fs::makedev(major, minor)
}

/// The mode of a new entry, as a request gives it.
pub(super) fn new_mode(mode: u32, umask: u32) -> NewMode {
    NewMode {
        perm: mode & 0o7777,
        umask,
    }
}

/// What renameat2(2) was asked; an unknown or contradictory flag is invalid.
pub(super) fn rename_mode(flags: RenameFlags) -> Result<RenameMode, FsError> {
    if flags.is_empty() {
        Ok(RenameMode::Replace)
    } else if flags == RenameFlags::RENAME_NOREPLACE {
        Ok(RenameMode::NoReplace)
    } else if flags == RenameFlags::RENAME_EXCHANGE {
        Ok(RenameMode::Exchange)
    } else if flags == RenameFlags::RENAME_WHITEOUT {
        Ok(RenameMode::Whiteout)
    } else if flags == RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_WHITEOUT {
        Ok(RenameMode::NoReplaceWhiteout)
    } else {
        Err(FsError::Invalid("rename flags"))
    }
}

/// Size of the largest answer about file attributes, a struct fsxattr of linux/fs.h.
const FILE_ATTR_BYTES: usize = 28;

/// Serves the four ioctls of lsattr(1) and chattr(1) for a file that has and takes none: zeros.
///
/// Errors: EOPNOTSUPP for an attribute that is to be set, ENOTTY for every other ioctl. Source:
/// linux/fs.h; the kernel asks for the flags as 32 bits, whatever its own numbers for them say.
pub(super) fn no_file_attributes(cmd: u32, wanted: &[u8]) -> Result<[u8; FILE_ATTR_BYTES], Errno> {
    const FS_IOC_GETFLAGS: u32 = 0x8008_6601;
    const FS_IOC_SETFLAGS: u32 = 0x4008_6602;
    const FS_IOC_FSGETXATTR: u32 = 0x801c_581f;
    const FS_IOC_FSSETXATTR: u32 = 0x401c_5820;
    match cmd {
        FS_IOC_GETFLAGS | FS_IOC_FSGETXATTR => Ok([0; FILE_ATTR_BYTES]),
        FS_IOC_SETFLAGS | FS_IOC_FSSETXATTR if wanted.iter().all(|byte| *byte == 0) => {
            Ok([0; FILE_ATTR_BYTES])
        }
        FS_IOC_SETFLAGS | FS_IOC_FSSETXATTR => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::ENOTTY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_out_as_they_are() {
        assert_eq!(
            time_out(Time {
                sec: -2,
                nsec: 800_000_000
            }),
            UNIX_EPOCH - Duration::from_millis(1200)
        );
        assert_eq!(
            time_out(Time { sec: 3, nsec: 1 }),
            UNIX_EPOCH + Duration::new(3, 1)
        );
        for sec in [i64::MIN, i64::MAX] {
            assert_ne!(time_out(Time { sec, nsec: 0 }), UNIX_EPOCH);
        }
    }

    #[test]
    fn device_numbers_round_trip() {
        for (major, minor) in [(0, 0), (1, 3), (8, 257), (4095, 1_048_575), (10, 229)] {
            let rdev = rustix::fs::makedev(major, minor);
            assert_eq!(rdev_in(rdev_out(rdev)), rdev);
        }
        assert_eq!(rdev_out(rustix::fs::makedev(8, 1)), 0x801);
    }

    #[test]
    fn rename_flags_are_checked() {
        let mode = |bits| rename_mode(RenameFlags::from_bits_retain(bits));
        assert_eq!(mode(0).expect("plain"), RenameMode::Replace);
        assert_eq!(mode(1).expect("noreplace"), RenameMode::NoReplace);
        assert_eq!(mode(2).expect("exchange"), RenameMode::Exchange);
        assert_eq!(mode(4).expect("whiteout"), RenameMode::Whiteout);
        assert_eq!(mode(5).expect("both"), RenameMode::NoReplaceWhiteout);
        for bad in [3, 6, 7, 8, 1 << 31] {
            assert!(matches!(mode(bad), Err(FsError::Invalid(_))));
        }
    }
}
