//! How base objects get their inode numbers: a pure function of what the host says of them, so that
//! hard links meet and numbers stay without any index. The numbers are on disk: FORMAT.md.

use std::os::fd::AsFd;

use rustix::fs as rfs;
use rustix::io::Errno;

use crate::core::types::{Ino, Time};

/// Bits of a host inode number that an [`Ino`] carries as they are; the device index goes above.
const HOST_INO_BITS: u32 = 48;
/// Numbers from here to [`Ino::FIRST_NEW`] are hashes of base objects that do not fit the scheme.
const FIRST_HASHED: u64 = 1 << 60;

/// The number of the host's inode `host_ino` on the device that the branch has under `index`.
pub(crate) fn of_base(index: u16, host_ino: u64) -> Ino {
    let fits = host_ino < 1 << HOST_INO_BITS && u64::from(index) < FIRST_HASHED >> HOST_INO_BITS;
    if fits {
        return Ino(u64::from(index) << HOST_INO_BITS | host_ino);
    }
    let salt = Time {
        sec: i64::from(index),
        nsec: 0,
    };
    hashed(Ino(host_ino), salt)
}

/// A number for a base object that the plain scheme has none for.
///
/// It is on disk, so the hash is spelt out: the standard library's may change with a release.
pub(crate) fn hashed(ino: Ino, salt: Time) -> Ino {
    const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;
    let words = [ino.0, salt.sec as u64, u64::from(salt.nsec)];
    let hash = words
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .fold(FNV_OFFSET, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME)
        });
    Ino(FIRST_HASHED | hash >> 4)
}

/// What tells the file system that `object` lies on from others over reboots, where device numbers
/// move: its own id if it has one, else its device number `dev`. Source: statvfs(3), f_fsid.
pub(crate) fn device_key(object: Result<impl AsFd, Errno>, dev: u64) -> u64 {
    match object.and_then(rfs::fstatvfs) {
        Ok(stat) if stat.f_fsid != 0 => stat.f_fsid,
        _ => dev,
    }
}
