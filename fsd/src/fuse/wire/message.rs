//! The parts of a request: the header, what is the operation's own (numbers), and the payload (names
//! and data). Takes them apart and checks every bound; a message that is not what it says is answered
//! with EIO. Where the parts lie is the transport's. Source: linux/fuse.h.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use fuser::{Errno, INodeNo};

use crate::core::types::{SetAttr, Time, TimeSet};
use crate::fuse::transport::Asker;

/// `struct fuse_in_header`.
pub(in crate::fuse) const IN_HEADER_BYTES: usize = 40;

/// What every request says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::fuse) struct Head {
    pub(in crate::fuse) opcode: u32,
    pub(in crate::fuse) node: INodeNo,
    pub(in crate::fuse) asker: Asker,
}

/// Numbers in the machine's own byte order, in a row.
#[derive(Clone, Copy, Debug)]
pub(in crate::fuse) struct Words<'a>(&'a [u8]);

impl<'a> Words<'a> {
    pub(in crate::fuse) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Errno> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Errno::EIO)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(in crate::fuse) fn u32(&mut self) -> Result<u32, Errno> {
        self.take().map(u32::from_ne_bytes)
    }

    pub(in crate::fuse) fn i32(&mut self) -> Result<i32, Errno> {
        self.take().map(i32::from_ne_bytes)
    }

    pub(in crate::fuse) fn u64(&mut self) -> Result<u64, Errno> {
        self.take().map(u64::from_ne_bytes)
    }

    pub(in crate::fuse) fn skip(&mut self, bytes: usize) -> Result<(), Errno> {
        self.0 = self.0.get(bytes..).ok_or(Errno::EIO)?;
        Ok(())
    }
}

/// Names and data in a row, the names with a zero after each.
#[derive(Clone, Copy, Debug)]
pub(in crate::fuse) struct Strings<'a>(&'a [u8]);

impl<'a> Strings<'a> {
    pub(in crate::fuse) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(in crate::fuse) fn name(&mut self) -> Result<&'a OsStr, Errno> {
        let end = self.0.iter().position(|byte| *byte == 0);
        let (name, rest) = self.0.split_at(end.ok_or(Errno::EIO)?);
        self.0 = &rest[1..];
        Ok(OsStr::from_bytes(name))
    }

    pub(in crate::fuse) fn bytes(&mut self, count: u32) -> Result<&'a [u8], Errno> {
        let (taken, rest) = self.0.split_at_checked(count as usize).ok_or(Errno::EIO)?;
        self.0 = rest;
        Ok(taken)
    }
}

impl Head {
    /// The header of a request of `length` bytes, which `header` begins with.
    ///
    /// Errors: EIO where it is cut short.
    pub(in crate::fuse) fn parse(header: &[u8]) -> Result<(Self, usize), Errno> {
        let mut words = Words::new(header);
        let (length, opcode) = (words.u32()? as usize, words.u32()?);
        let (unique, node) = (words.u64()?, INodeNo(words.u64()?));
        let (uid, gid, pid) = (words.u32()?, words.u32()?, words.u32()?);
        let asker = Asker {
            unique,
            uid,
            gid,
            pid,
        };
        let head = Self {
            opcode,
            node,
            asker,
        };
        Ok((head, length))
    }
}

/// `struct fuse_setattr_in`: what is to be set, and by which open file.
pub(in crate::fuse) fn set_attr(mut words: Words<'_>) -> Result<(SetAttr, Option<u64>), Errno> {
    const MODE: u32 = 1 << 0;
    const UID: u32 = 1 << 1;
    const GID: u32 = 1 << 2;
    const SIZE: u32 = 1 << 3;
    const ATIME: u32 = 1 << 4;
    const MTIME: u32 = 1 << 5;
    const FH: u32 = 1 << 6;
    const ATIME_NOW: u32 = 1 << 7;
    const MTIME_NOW: u32 = 1 << 8;
    const CTIME: u32 = 1 << 10;
    let valid = words.u32()?;
    words.skip(4)?;
    let (fh, size) = (words.u64()?, words.u64()?);
    // Whose lock: there are none of ours.
    words.skip(8)?;
    let [atime, mtime, ctime] = [words.u64()?, words.u64()?, words.u64()?].map(u64::cast_signed);
    let [atime_ns, mtime_ns, ctime_ns] = [words.u32()?, words.u32()?, words.u32()?];
    let mode = words.u32()?;
    words.skip(4)?;
    let (uid, gid) = (words.u32()?, words.u32()?);
    let has = |flag| valid & flag != 0;
    let time = |sec, nsec| Time { sec, nsec };
    let chosen = |now, at| match has(now) {
        true => TimeSet::Now,
        false => TimeSet::At(at),
    };
    let set = SetAttr {
        perm: has(MODE).then_some(mode & 0o7777),
        uid: has(UID).then_some(uid),
        gid: has(GID).then_some(gid),
        size: has(SIZE).then_some(size),
        atime: has(ATIME).then(|| chosen(ATIME_NOW, time(atime, atime_ns))),
        mtime: has(MTIME).then(|| chosen(MTIME_NOW, time(mtime, mtime_ns))),
        ctime: has(CTIME).then(|| time(ctime, ctime_ns)),
    };
    Ok((set, has(FH).then_some(fh)))
}
