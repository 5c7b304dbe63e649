//! [`Media`]: the primitive operations on files below a store directory.
//!
//! Everything the store does to the disk goes through here, so that the same code runs on a real
//! directory ([`dir`](super::dir)), in memory and under injected faults. Paths are relative to the
//! media's root and name no `..`. Refuses to know what the files mean.

use std::ffi::OsString;
use std::fmt::Debug;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::core::types::Time;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// For reading; it must exist.
    Read,
    /// For reading and writing; it must exist.
    ReadWrite,
    /// For reading and writing; it must not exist yet. Mode 0600.
    CreateNew,
}

/// What fstat(2) shows of a file of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectStat {
    /// Length in bytes.
    pub len: u64,
    /// Allocated space, in units of 512 bytes.
    pub blocks: u64,
    /// Last modification.
    pub mtime: Time,
}

/// What lstat(2) shows of a file of the store, as far as a check of the store asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileFacts {
    /// Whether it is a regular file.
    pub is_file: bool,
    /// Length in bytes.
    pub len: u64,
    /// Low 12 bits of the mode.
    pub perm: u32,
    /// Its owner.
    pub uid: u32,
    /// Allocated space, in units of [`FileFacts::BLOCK_BYTES`].
    pub blocks: u64,
    /// Names it has.
    pub links: u64,
}

impl FileFacts {
    /// Bytes of a block of `blocks`.
    pub const BLOCK_BYTES: u64 = 512;
}

/// What [`MediaFile::seek`] looks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeekFor {
    /// The next byte that holds data.
    Data,
    /// The next hole; the end of the file counts as one.
    Hole,
}

/// What a directory lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The name of the entry.
    pub name: OsString,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// Whether to wait for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LockWait {
    /// Answer at once.
    Try,
    /// Wait until the owner lets go.
    Block,
}

/// A held lock; dropping it lets go.
pub trait LockGuard: Debug + Send + Sync {}

/// One open file. All methods may be called from several threads.
pub trait MediaFile: Debug + Send + Sync {
    /// Reads at `offset`; short only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Hands `data` to the OS with one write; may be short, as write(2) may.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize>;
    /// Length, blocks, mtime.
    fn stat(&self) -> io::Result<ObjectStat>;
    /// Cuts or extends (with a hole) to `len` bytes.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes the file durable; `data_only` leaves out stamps, as fdatasync(2).
    fn sync(&self, data_only: bool) -> io::Result<()>;
    /// fallocate(2), with its flags.
    fn allocate(&self, mode: i32, offset: u64, len: u64) -> io::Result<()>;
    /// SEEK_DATA or SEEK_HOLE from `offset`; `None` past the end (ENXIO).
    fn seek(&self, what: SeekFor, offset: u64) -> io::Result<Option<u64>>;
    /// The descriptor, where there is one.
    fn as_fd(&self) -> Option<BorrowedFd<'_>>;
}

/// A directory tree that the store lives in.
pub trait Media: Debug + Send + Sync {
    /// Where `path` is, for messages.
    fn describe(&self, path: &Path) -> PathBuf;
    /// Opens a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn MediaFile>>;
    /// Makes a directory, mode 0700.
    fn mkdir(&self, path: &Path) -> io::Result<()>;
    /// Asks the host to lay the directories that are made in this one far apart, where it knows how.
    ///
    /// ext4 puts what a directory holds near it, and does not give an inode out again for a minute
    /// after it was freed; to find another it looks at each of those. Where much was removed nearby a
    /// new file costs twenty times as much.
    fn spread(&self, _path: &Path) {}
    /// Renames; with `replace` over whatever file is at `to`, without it fails if something is.
    fn rename(&self, from: &Path, to: &Path, replace: bool) -> io::Result<()>;
    /// Gives the file at `from` a second name; fails if something is there.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn unlink(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn rmdir(&self, path: &Path) -> io::Result<()>;
    /// Lists a directory in no particular order, without the dots.
    fn list(&self, path: &Path) -> io::Result<Vec<Listing>>;
    /// What is at `path`, without opening it; for the root itself with an empty path.
    fn facts(&self, path: &Path) -> io::Result<FileFacts>;
    /// Gives the regular file at `path` mode 0600 and, where it is another's, the owner `uid`.
    fn make_private(&self, path: &Path, uid: u32) -> io::Result<()>;
    /// Makes the entries of a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes all that was ever written below the root durable.
    fn sync_all(&self) -> io::Result<()>;
    /// Allocated bytes of the file at `path` that other files have too, as far as the host tells.
    fn shared_bytes(&self, path: &Path) -> u64;
    /// The tree below a directory, held: it stays valid when the directory is renamed.
    fn sub(&self, path: &Path) -> io::Result<Arc<dyn Media>>;
    /// Locks the file at `path`, made if need be, and writes `note` over its beginning, if it can.
    /// `None`: another owner holds it. An owner is any call of this method, in this process or not.
    fn lock(
        &self,
        path: &Path,
        wait: LockWait,
        note: &[u8],
    ) -> io::Result<Option<Box<dyn LockGuard>>>;
    /// Whether someone holds that lock. Takes nothing, so it disturbs no one.
    fn is_locked(&self, path: &Path) -> io::Result<bool>;
}

/// Reads the whole of a small file; refuses more than `limit` bytes.
pub fn read_small(media: &dyn Media, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let file = media.open(path, OpenMode::Read)?;
    let len = file.stat()?.len;
    if len > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "far larger than such a file is",
        ));
    }
    let mut data = vec![0; len as usize];
    let mut have = 0;
    while have < data.len() {
        match file.read_at(&mut data[have..], have as u64)? {
            0 => break,
            n => have += n,
        }
    }
    data.truncate(have);
    Ok(data)
}

/// Writes all of `data` at `offset`.
pub fn write_all_at(file: &dyn MediaFile, mut data: &[u8], mut offset: u64) -> io::Result<()> {
    while !data.is_empty() {
        match file.write_at(data, offset)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            n => {
                data = &data[n..];
                offset += n as u64;
            }
        }
    }
    Ok(())
}

/// Fills `buf` from `offset`; the file ending earlier is an error.
pub fn read_exact_at(file: &dyn MediaFile, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buf.is_empty() {
        match file.read_at(buf, offset)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => {
                buf = &mut buf[n..];
                offset += n as u64;
            }
        }
    }
    Ok(())
}

/// Puts `data` at `path` by a stage file and one rename: readers see the old file or the new one.
/// With `durable` both are on the disk before this returns.
pub fn replace_file(media: &dyn Media, path: &Path, data: &[u8], durable: bool) -> io::Result<()> {
    try_replace_file(media, path, data, durable).map_err(|e| e.source)
}

/// Why a file is not, or not surely, replaced.
#[derive(Debug)]
pub struct NotReplaced {
    /// The host's answer.
    pub source: io::Error,
    /// Readers see the new file already; a power cut may bring the old one back.
    pub is_visible: bool,
}

/// As [`replace_file`], and says how far it got.
pub fn try_replace_file(
    media: &dyn Media,
    path: &Path,
    data: &[u8],
    durable: bool,
) -> Result<(), NotReplaced> {
    let mut stage = path.as_os_str().to_owned();
    let before = |source| NotReplaced {
        source,
        is_visible: false,
    };
    stage.push(format!(".{:016x}.stage", random_u64().map_err(before)?));
    let stage = PathBuf::from(stage);
    let result = (|| {
        let file = media.open(&stage, OpenMode::CreateNew)?;
        write_all_at(&*file, data, 0)?;
        if durable {
            file.sync(true)?;
        }
        media.rename(&stage, path, true)
    })();
    if let Err(e) = result {
        // The stage file is rubbish now; the first error is the one to tell.
        let _ = media.unlink(&stage);
        return Err(before(e));
    }
    if durable {
        let synced = media.sync_dir(path.parent().unwrap_or(Path::new("")));
        synced.map_err(|source| NotReplaced {
            source,
            is_visible: true,
        })?;
    }
    Ok(())
}

/// 64 random bits from the kernel.
pub fn random_u64() -> io::Result<u64> {
    let mut bytes = [0u8; 8];
    let mut have = 0;
    while have < bytes.len() {
        have += rustix::rand::getrandom(&mut bytes[have..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(u64::from_le_bytes(bytes))
}
