//! [`RealTree`]: the steps of [`crate::ops`], done to a directory by system calls.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;
use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, RenameFlags, XattrFlags};

use crate::ops::{
    Access, Allocate, Answer, EntryKind, How, Listing, Outcome, SLOTS, SetHow, Step, join,
};

/// A directory and the files that steps hold open in it.
#[derive(Debug)]
pub struct RealTree {
    root: PathBuf,
    slots: [Option<File>; SLOTS],
}

type Errno = rustix::io::Errno;

impl RealTree {
    /// Works on the existing directory `root`. The caller has cleared the umask.
    pub fn new(root: &Path) -> Self {
        RealTree {
            root: root.to_path_buf(),
            slots: [const { None }; SLOTS],
        }
    }

    /// What is below the root; directories that cannot be read count as empty.
    pub fn listing(&self) -> Listing {
        let mut listing = Listing::new();
        let mut todo = vec![Vec::new()];
        while let Some(dir) = todo.pop() {
            let Ok(entries) = std::fs::read_dir(self.path(&dir)) else {
                continue;
            };
            for entry in entries.flatten() {
                let path = join(&dir, entry.file_name().as_bytes());
                let Ok(kind) = entry.file_type() else {
                    continue;
                };
                if kind.is_dir() {
                    todo.push(path.clone());
                }
                let kind = match () {
                    () if kind.is_dir() => EntryKind::Dir,
                    () if kind.is_symlink() || kind.is_fifo() => EntryKind::Other,
                    () => EntryKind::File,
                };
                listing.insert(path, kind);
            }
        }
        listing
    }

    fn path(&self, path: &[u8]) -> PathBuf {
        self.root.join(OsStr::from_bytes(path))
    }

    /// Does `step`. Dropped caches and restarts close all files and do no more.
    pub fn apply(&mut self, step: &Step) -> Outcome {
        self.try_apply(step).map_err(|e| e.raw_os_error())
    }

    fn try_apply(&mut self, step: &Step) -> Result<Answer, Errno> {
        match step {
            Step::Create { path, perm, slot } => {
                self.slots[*slot] = None;
                let mut options = OpenOptions::new();
                options.read(true).write(true).create_new(true).mode(*perm);
                self.slots[*slot] = Some(io(options.open(self.path(path)))?);
            }
            Step::Mkdir { path, perm } => {
                rustix::fs::mkdirat(CWD, self.path(path), Mode::from_raw_mode(*perm))?;
            }
            Step::Fifo { path, perm } => {
                let kind = rustix::fs::FileType::Fifo;
                rustix::fs::mknodat(CWD, self.path(path), kind, Mode::from_raw_mode(*perm), 0)?;
            }
            Step::Symlink { path, target } => {
                rustix::fs::symlinkat(OsStr::from_bytes(target), CWD, self.path(path))?;
            }
            Step::Link { from, to } => {
                let (from, to) = (self.path(from), self.path(to));
                rustix::fs::linkat(CWD, from, CWD, to, AtFlags::empty())?;
            }
            Step::Unlink { path } => {
                rustix::fs::unlinkat(CWD, self.path(path), AtFlags::empty())?;
            }
            Step::Rmdir { path } => {
                rustix::fs::unlinkat(CWD, self.path(path), AtFlags::REMOVEDIR)?;
            }
            Step::Rename { from, to, how } => {
                let flags = match how {
                    How::Replace => RenameFlags::empty(),
                    How::NoReplace => RenameFlags::NOREPLACE,
                    How::Exchange => RenameFlags::EXCHANGE,
                };
                rustix::fs::renameat_with(CWD, self.path(from), CWD, self.path(to), flags)?;
            }
            Step::Chmod { path, perm } => {
                let mode = Mode::from_raw_mode(*perm);
                rustix::fs::chmodat(CWD, self.path(path), mode, AtFlags::empty())?;
            }
            Step::Chown { path, uid, gid } => {
                let (uid, gid) = (
                    rustix::fs::Uid::from_raw(*uid),
                    rustix::fs::Gid::from_raw(*gid),
                );
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::chownat(CWD, self.path(path), Some(uid), Some(gid), flags)?;
            }
            Step::Utimens {
                path,
                time: (sec, nsec),
            } => {
                let time = rustix::fs::Timespec {
                    tv_sec: *sec,
                    tv_nsec: i64::from(*nsec),
                };
                let times = rustix::fs::Timestamps {
                    last_access: time,
                    last_modification: time,
                };
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                rustix::fs::utimensat(CWD, self.path(path), &times, flags)?;
            }
            Step::Truncate { path, size } => {
                let size = nix::libc::off_t::try_from(*size).expect("size");
                nix::unistd::truncate(&self.path(path), size)
                    .map_err(|e| Errno::from_raw_os_error(e as i32))?;
            }
            Step::Open { path, access, slot } => {
                self.slots[*slot] = None;
                let mut options = OpenOptions::new();
                options
                    .read(*access != Access::Write)
                    .write(*access != Access::Read);
                options.truncate(*access == Access::Truncate);
                // A FIFO would block; the resolver offers none, a race cannot make one here.
                options.custom_flags(libc::O_NONBLOCK);
                self.slots[*slot] = Some(io(options.open(self.path(path)))?);
            }
            Step::Close { slot } => {
                self.slots[*slot].take().ok_or(Errno::BADF)?;
            }
            Step::Write { slot, offset, data } => {
                io(self.open_file(*slot)?.write_all_at(data, *offset))?;
            }
            Step::Read { slot, offset, len } => return self.read(*slot, *offset, *len),
            Step::Ftruncate { slot, size } => rustix::fs::ftruncate(self.open_file(*slot)?, *size)?,
            Step::Allocate {
                slot,
                how,
                offset,
                len,
            } => {
                let flags = match how {
                    Allocate::Extend => FallocateFlags::empty(),
                    Allocate::KeepSize => FallocateFlags::KEEP_SIZE,
                    Allocate::Punch => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
                };
                rustix::fs::fallocate(self.open_file(*slot)?, flags, *offset, *len)?;
            }
            Step::Sync { slot } => rustix::fs::fsync(self.open_file(*slot)?)?,
            Step::SetXattr {
                path,
                name,
                value,
                how,
            } => {
                let flags = match how {
                    SetHow::Any => XattrFlags::empty(),
                    SetHow::Create => XattrFlags::CREATE,
                    SetHow::Replace => XattrFlags::REPLACE,
                };
                rustix::fs::setxattr(self.path(path), OsStr::from_bytes(name), value, flags)?;
            }
            Step::RemoveXattr { path, name } => {
                rustix::fs::removexattr(self.path(path), OsStr::from_bytes(name))?;
            }
            Step::List { path } => {
                let names = io(crate::manifest::list(&self.path(path)))?;
                let names = names.iter().map(|n| n.as_bytes().to_vec()).collect();
                return Ok(Answer::Names(names));
            }
            Step::DropCaches
            | Step::Remount
            | Step::Crash
            | Step::Snapshot
            | Step::Restore { .. } => {
                self.slots = [const { None }; SLOTS];
            }
        }
        Ok(Answer::Done)
    }

    fn open_file(&self, slot: usize) -> Result<&File, Errno> {
        self.slots[slot].as_ref().ok_or(Errno::BADF)
    }

    fn read(&self, slot: usize, offset: u64, len: usize) -> Result<Answer, Errno> {
        let mut bytes = vec![0; len];
        let mut done = 0;
        while done < len {
            match io(self
                .open_file(slot)?
                .read_at(&mut bytes[done..], offset + done as u64))?
            {
                0 => break,
                n => done += n,
            }
        }
        bytes.truncate(done);
        Ok(Answer::Bytes(bytes))
    }
}

fn io<T>(result: std::io::Result<T>) -> Result<T, Errno> {
    result.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
}
