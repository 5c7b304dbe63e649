//! [`DirMedia`]: the store on a real directory.
//!
//! The root is held as a descriptor and every path is resolved below it without following links.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rustix::fs::{
    AtFlags, CWD, Dir, FallocateFlags, FileType, IFlags, Mode, OFlags, RenameFlags, ResolveFlags,
    SeekFrom, ioctl_getflags, ioctl_setflags,
};

use super::media::{
    FileFacts, Listing, LockGuard, LockWait, Media, MediaFile, ObjectStat, OpenMode, SeekFor,
};
use crate::core::types::Time;

/// A directory of the host.
#[derive(Debug)]
pub struct DirMedia {
    root: OwnedFd,
    path: PathBuf,
}

impl DirMedia {
    /// Opens the directory at `path`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let root = rustix::fs::openat(
            CWD,
            path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        Ok(Self {
            root,
            path: path.to_owned(),
        })
    }

    fn openat(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        loop {
            match rustix::fs::openat2(
                &self.root,
                or_dot(path),
                flags | OFlags::CLOEXEC,
                mode,
                resolve,
            ) {
                Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
                other => return Ok(other?),
            }
        }
    }

    fn open_lock(&self, path: &Path) -> io::Result<OwnedFd> {
        self.openat(path, OFlags::RDWR | OFlags::CREATE, Mode::RUSR | Mode::WUSR)
    }
}

/// The empty path means the root itself.
fn or_dot(path: &Path) -> &OsStr {
    if path.as_os_str().is_empty() {
        OsStr::new(".")
    } else {
        path.as_os_str()
    }
}

fn whole_file(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

impl Media for DirMedia {
    fn describe(&self, path: &Path) -> PathBuf {
        self.path.join(path)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn MediaFile>> {
        let flags = match mode {
            OpenMode::Read => OFlags::RDONLY | OFlags::NOCTTY,
            OpenMode::ReadWrite => OFlags::RDWR | OFlags::NOCTTY,
            OpenMode::CreateNew => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
        };
        let perm = match mode {
            OpenMode::CreateNew => Mode::RUSR | Mode::WUSR,
            _ => Mode::empty(),
        };
        Ok(Box::new(DirFile(self.openat(path, flags, perm)?.into())))
    }

    fn mkdir(&self, path: &Path) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(&self.root, path, Mode::RWXU)?)
    }

    fn spread(&self, path: &Path) {
        let set = self
            .openat(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
            .and_then(|dir| {
                let flags = ioctl_getflags(&dir)?;
                if !flags.contains(IFlags::TOPDIR) {
                    ioctl_setflags(&dir, flags | IFlags::TOPDIR)?;
                }
                Ok(())
            });
        // A file system that lays them out by other rules says so.
        if let Err(error) = set {
            tracing::trace!(%error, path = %path.display(), "directories stay where the host puts them");
        }
    }

    fn rename(&self, from: &Path, to: &Path, replace: bool) -> io::Result<()> {
        let flags = if replace {
            RenameFlags::empty()
        } else {
            RenameFlags::NOREPLACE
        };
        Ok(rustix::fs::renameat_with(
            &self.root, from, &self.root, to, flags,
        )?)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        Ok(rustix::fs::linkat(
            &self.root,
            from,
            &self.root,
            to,
            AtFlags::empty(),
        )?)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.root, path, AtFlags::empty())?)
    }

    fn rmdir(&self, path: &Path) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.root, path, AtFlags::REMOVEDIR)?)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Listing>> {
        let fd = self.openat(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        let mut out = Vec::new();
        for entry in Dir::read_from(&fd)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let is_dir = match entry.file_type() {
                FileType::Unknown => {
                    let stat = rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
                    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
                }
                kind => kind == FileType::Directory,
            };
            out.push(Listing {
                name: OsString::from_vec(name.to_bytes().to_vec()),
                is_dir,
            });
        }
        Ok(out)
    }

    fn facts(&self, path: &Path) -> io::Result<FileFacts> {
        let fd = self.openat(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
        let stat = rustix::fs::fstat(fd)?;
        Ok(FileFacts {
            is_file: FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile,
            len: stat.st_size as u64,
            blocks: stat.st_blocks as u64,
            perm: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            links: stat.st_nlink as u64,
        })
    }

    fn make_private(&self, path: &Path, uid: u32) -> io::Result<()> {
        let parent = path.parent().unwrap_or(Path::new(""));
        let dir = self.openat(parent, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let stat = rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if stat.st_uid != uid {
            let owner = rustix::process::Uid::from_raw(uid);
            rustix::fs::chownat(&dir, name, Some(owner), None, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        let mode = Mode::RUSR | Mode::WUSR;
        Ok(rustix::fs::chmodat(&dir, name, mode, AtFlags::empty())?)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let fd = self.openat(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        Ok(rustix::fs::fsync(fd)?)
    }

    fn sync_all(&self) -> io::Result<()> {
        let fd = self.openat(
            Path::new(""),
            OFlags::RDONLY | OFlags::DIRECTORY,
            Mode::empty(),
        )?;
        Ok(rustix::fs::syncfs(&fd)?)
    }

    fn shared_bytes(&self, path: &Path) -> u64 {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        match self.openat(path, flags, Mode::empty()) {
            Ok(file) => crate::sys::shared_bytes(&file).unwrap_or(0),
            Err(_) => 0,
        }
    }

    fn sub(&self, path: &Path) -> io::Result<Arc<dyn Media>> {
        let root = self.openat(path, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        Ok(Arc::new(DirMedia {
            root,
            path: self.path.join(path),
        }))
    }

    fn lock(
        &self,
        path: &Path,
        wait: LockWait,
        note: &[u8],
    ) -> io::Result<Option<Box<dyn LockGuard>>> {
        loop {
            let fd = self.open_lock(path)?;
            let request = whole_file(libc::F_WRLCK);
            // A lock of the open file description: it goes with the last descriptor, holds
            // against other opens in this very process, and can be asked for without taking it.
            let answer = match wait {
                LockWait::Try => fcntl(&fd, FcntlArg::F_OFD_SETLK(&request)),
                LockWait::Block => fcntl(&fd, FcntlArg::F_OFD_SETLKW(&request)),
            };
            match answer {
                Ok(_) => {}
                Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => return Ok(None),
                Err(nix::errno::Errno::EINTR) => continue,
                Err(e) => return Err(e.into()),
            }
            // The file may have been moved away between open and lock; then this lock guards
            // nothing any more.
            let held = rustix::fs::fstat(&fd)?;
            match rustix::fs::statat(&self.root, path, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(now) if (now.st_dev, now.st_ino) == (held.st_dev, held.st_ino) => {}
                Ok(_) => continue,
                Err(e) => return Err(e.into()),
            }
            let file = std::fs::File::from(fd);
            // For messages only, and a full disk must not keep a branch from being removed.
            if let Err(e) = file.write_all_at(note, 0) {
                tracing::debug!(path = %self.describe(path).display(), error = %e, "lock not signed");
            }
            return Ok(Some(Box::new(DirLock { _file: file })));
        }
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        // To ask needs less than to take.
        let fd = match self.openat(path, OFlags::RDONLY, Mode::empty()) {
            Ok(fd) => fd,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        let mut probe = whole_file(libc::F_WRLCK);
        fcntl(&fd, FcntlArg::F_OFD_GETLK(&mut probe))?;
        Ok(probe.l_type != libc::F_UNLCK as libc::c_short)
    }
}

/// The lock lives as long as this descriptor.
#[derive(Debug)]
struct DirLock {
    _file: std::fs::File,
}

impl LockGuard for DirLock {}

#[derive(Debug)]
struct DirFile(std::fs::File);

impl MediaFile for DirFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match self.0.read_at(buf, offset) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<usize> {
        loop {
            match self.0.write_at(data, offset) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn stat(&self) -> io::Result<ObjectStat> {
        let stat = rustix::fs::fstat(&self.0)?;
        Ok(ObjectStat {
            len: stat.st_size as u64,
            blocks: stat.st_blocks as u64,
            mtime: Time {
                sec: stat.st_mtime,
                nsec: stat.st_mtime_nsec as u32,
            },
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync(&self, data_only: bool) -> io::Result<()> {
        if data_only {
            self.0.sync_data()
        } else {
            self.0.sync_all()
        }
    }

    fn allocate(&self, mode: i32, offset: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::from_bits_retain(mode as u32);
        Ok(rustix::io::retry_on_intr(|| {
            rustix::fs::fallocate(&self.0, flags, offset, len)
        })?)
    }

    fn seek(&self, what: SeekFor, offset: u64) -> io::Result<Option<u64>> {
        let from = match what {
            SeekFor::Data => SeekFrom::Data(offset),
            SeekFor::Hole => SeekFrom::Hole(offset),
        };
        match rustix::fs::seek(&self.0, from) {
            Ok(at) => Ok(Some(at)),
            Err(rustix::io::Errno::NXIO) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
}
