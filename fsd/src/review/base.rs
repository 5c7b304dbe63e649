//! Reads the host's files below a branch, read-only and never through a symbolic link.
//!
//! Every path is opened component by component from a held root, so that neither the branch nor
//! the host can lead a review elsewhere; only regular files are ever opened for reading, after
//! their type is known. Refuses to write. Called by the walk and by the content reader.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;

use super::ReviewError;
use super::node::{Node, Source, Xattrs};
use crate::backstore::Hidden;
use crate::core::number;
use crate::core::record::Fingerprint;
use crate::core::types::{Kind, Name, Time};
use crate::sync::{Mutex, lock};

/// The host's files, as a tree of absolute paths in bytes.
#[derive(Debug)]
pub struct Base {
    root: OwnedFd,
    hidden: Vec<Hidden>,
    /// Keys of the file systems met, by device number.
    keys: Mutex<HashMap<u64, u64>>,
}

/// A held directory of the base.
#[derive(Debug)]
pub struct BaseDir {
    fd: OwnedFd,
    path: Vec<u8>,
}

/// What the base has under one name.
#[derive(Clone, Debug)]
pub struct BaseEntry {
    /// Its absolute host path.
    pub path: Arc<[u8]>,
    /// Its attributes and where its bytes are.
    pub node: Node,
    /// What tells its file system from others, also when device numbers have moved.
    pub device: u64,
    /// `st_ino` on the host.
    pub ino: u64,
    /// What a branch that took it over now would record of it.
    pub fingerprint: Fingerprint,
}

impl Base {
    /// The base whose `/` is the directory `root`. Nothing at or below a path of `hidden`
    /// (absolute, as the branch sees it) exists for a review; the store belongs there.
    ///
    /// Errors: `root` cannot be opened.
    pub fn new(root: &Path, hidden: &[PathBuf]) -> Result<Self, ReviewError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = fs::open(root, flags, Mode::empty())
            .map_err(|e| ReviewError::base("open", root.as_os_str().as_bytes(), e.into()))?;
        let hidden = hidden.iter().map(Hidden::whole).collect();
        Ok(Base {
            root: fd,
            hidden,
            keys: Mutex::default(),
        })
    }

    /// The same base without what the runs of the branch could not see.
    pub fn without(mut self, hidden: Vec<Hidden>) -> Self {
        self.hidden.extend(hidden);
        self
    }

    /// Whether `path` is one that a review must not see.
    pub fn is_hidden(&self, path: &[u8]) -> bool {
        self.hidden.iter().any(|hidden| hidden.covers(path))
    }

    /// Whether there is such a place at or below `path`.
    pub fn hides_below(&self, path: &[u8]) -> bool {
        (self.hidden.iter()).any(|hidden| is_at_or_below(hidden.path.as_os_str().as_bytes(), path))
    }

    /// The directory at `path`; `None` if there is none (any more).
    pub fn dir(&self, path: &[u8]) -> io::Result<Option<BaseDir>> {
        if self.is_hidden(path) {
            return Ok(None);
        }
        match self.open_path(path, OFlags::DIRECTORY) {
            Ok(fd) => Ok(Some(BaseDir {
                fd,
                path: path.to_vec(),
            })),
            Err(e) if is_absent(e) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The regular file at `path`, open for reading. Never blocks on a FIFO or a device.
    ///
    /// Errors: `NotFound` if there is nothing, `InvalidInput` if it is no regular file.
    pub fn file(&self, path: &[u8]) -> io::Result<File> {
        if self.is_hidden(path) {
            return Err(Errno::NOENT.into());
        }
        let held = self.open_path(path, OFlags::empty())?;
        let stat = fs::fstat(&held)?;
        if Kind::from_mode(stat.st_mode) != Some(Kind::File) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a regular file",
            ));
        }
        // The type belongs to the held object, and so does what this opens.
        let reopen = format!("/proc/self/fd/{}", held.as_raw_fd());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
        Ok(fs::open(reopen, flags, Mode::empty())?.into())
    }

    /// [`number::device_key`] of the file system with the number `dev`; `open` opens an object on it.
    fn device_key(&self, dev: u64, open: impl FnOnce() -> Result<OwnedFd, Errno>) -> u64 {
        *lock(&self.keys)
            .entry(dev)
            .or_insert_with(|| number::device_key(open(), dev))
    }

    /// An O_PATH descriptor of the object at `path`, no component being a symlink that is followed.
    fn open_path(&self, path: &[u8], extra: OFlags) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC | extra;
        let relative = path.strip_prefix(b"/").unwrap_or(path);
        let relative = if relative.is_empty() { b"." } else { relative };
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let mut tries = 0;
        loop {
            match fs::openat2(&self.root, relative, flags, Mode::empty(), resolve) {
                // The kernel saw a rename race on the way; it says so only under BENEATH.
                Err(Errno::AGAIN) if tries < 16 => tries += 1,
                Err(Errno::NOSYS | Errno::NAMETOOLONG) => {
                    return self.open_stepwise(relative, flags);
                }
                other => return other,
            }
        }
    }

    /// What `open_path` does, one openat per component: for paths longer than the kernel takes
    /// and for kernels or filters without openat2.
    fn open_stepwise(&self, relative: &[u8], last: OFlags) -> Result<OwnedFd, Errno> {
        let step = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at = fs::openat(&self.root, ".", step, Mode::empty())?;
        let mut parts = relative
            .split(|b| *b == b'/')
            .filter(|p| !p.is_empty())
            .peekable();
        while let Some(part) = parts.next() {
            if part == b".." {
                return Err(Errno::XDEV);
            }
            let flags = if parts.peek().is_some() { step } else { last };
            at = fs::openat(&at, part, flags, Mode::empty())?;
        }
        Ok(at)
    }
}

impl BaseDir {
    /// What the directory has under `name`; `None` if nothing, or nothing a review may see.
    pub fn entry(&self, base: &Base, name: &Name) -> Result<Option<BaseEntry>, ReviewError> {
        let path: Arc<[u8]> = join(&self.path, name.as_bytes()).into();
        if base.is_hidden(&path) {
            return Ok(None);
        }
        let fail = |op, e: Errno| ReviewError::base(op, &path, e.into());
        let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let stat = match fs::statx(&self.fd, name.as_bytes(), flags, wanted) {
            Ok(stat) => stat,
            Err(e) if is_absent(e) => return Ok(None),
            Err(e) => return Err(fail("stat", e)),
        };
        let Some(kind) = Kind::from_mode(stat.stx_mode.into()) else {
            return Ok(None);
        };
        let source = match kind {
            Kind::File => Source::Base(path.clone()),
            Kind::Symlink => match fs::readlinkat(&self.fd, name.as_bytes(), Vec::new()) {
                Ok(target) => Source::Symlink(target.as_bytes().into()),
                Err(e) if is_absent(e) || e == Errno::INVAL => return Ok(None),
                Err(e) => return Err(fail("read the link", e)),
            },
            Kind::Dir | Kind::Fifo | Kind::Socket | Kind::Char | Kind::Block => Source::None,
        };
        let device = matches!(kind, Kind::Char | Kind::Block);
        let rdev = fs::makedev(stat.stx_rdev_major, stat.stx_rdev_minor);
        let node = Node {
            kind,
            perm: u32::from(stat.stx_mode) & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            rdev: if device { rdev } else { 0 },
            nlink: stat.stx_nlink,
            size: if kind == Kind::File { stat.stx_size } else { 0 },
            source,
            xattrs: self.xattrs(name),
        };
        let dev = fs::makedev(stat.stx_dev_major, stat.stx_dev_minor);
        let device = base.device_key(dev, || {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            fs::openat(&self.fd, name.as_bytes(), flags, Mode::empty())
        });
        Ok(Some(BaseEntry {
            path,
            node,
            device,
            ino: stat.stx_ino,
            fingerprint: Fingerprint {
                dev,
                ino: stat.stx_ino,
                size: stat.stx_size,
                mtime: time(stat.stx_mtime),
                ctime: time(stat.stx_ctime),
                btime: time(stat.stx_btime),
            },
        }))
    }

    /// Attributes of the directory itself, for the one that has no parent to ask.
    pub fn own(&self) -> Result<Node, ReviewError> {
        let stat =
            fs::fstat(&self.fd).map_err(|e| ReviewError::base("stat", &self.path, e.into()))?;
        Ok(Node {
            kind: Kind::Dir,
            perm: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            rdev: 0,
            nlink: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
            size: 0,
            source: Source::None,
            xattrs: read_xattrs(Path::new(&format!(
                "/proc/self/fd/{}/.",
                self.fd.as_raw_fd()
            ))),
        })
    }

    /// [`BaseEntry::device`] of the directory itself.
    pub fn device(&self, base: &Base) -> Result<u64, ReviewError> {
        let stat =
            fs::fstat(&self.fd).map_err(|e| ReviewError::base("stat", &self.path, e.into()))?;
        Ok(base.device_key(stat.st_dev, || rustix::io::fcntl_dupfd_cloexec(&self.fd, 0)))
    }

    /// Calls `each` with the name of every entry until it answers false.
    pub fn each_name(&self, each: &mut dyn FnMut(Name) -> bool) -> Result<(), ReviewError> {
        self.each_entry(&mut |name, _, _| each(name))
    }

    /// Calls `each` with name, inode number and type of every entry, as the listing has them, until
    /// it answers false. The number of a mount point is that of the directory below the mount.
    pub fn each_entry(
        &self,
        each: &mut dyn FnMut(Name, u64, FileType) -> bool,
    ) -> Result<(), ReviewError> {
        let fail = |e: Errno| ReviewError::base("list", &self.path, e.into());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let fd = fs::openat(self.fd.as_fd(), ".", flags, Mode::empty()).map_err(fail)?;
        for entry in Dir::new(fd).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            // The dots are no names; anything else the kernel lists is one.
            if let Ok(name) = Name::new(entry.file_name().to_bytes())
                && !each(name, entry.ino(), entry.file_type())
            {
                break;
            }
        }
        Ok(())
    }

    fn xattrs(&self, name: &Name) -> Xattrs {
        let mut path = format!("/proc/self/fd/{}/", self.fd.as_raw_fd()).into_bytes();
        path.extend_from_slice(name.as_bytes());
        read_xattrs(Path::new(std::ffi::OsStr::from_bytes(&path)))
    }
}

fn time(stamp: fs::StatxTimestamp) -> Time {
    Time {
        sec: stamp.tv_sec,
        nsec: stamp.tv_nsec,
    }
}

/// The extended attributes at `path` that a review compares. Unreadable ones do not exist for it:
/// the branch could not have inherited them either.
fn read_xattrs(path: &Path) -> Xattrs {
    let mut list = vec![0; 1024];
    let len = loop {
        match fs::llistxattr(path, &mut list[..]) {
            Ok(len) => break len,
            Err(Errno::RANGE) if list.len() < 1 << 17 => list.resize(list.len() * 4, 0),
            Err(_) => return BTreeMap::new(),
        }
    };
    let mut found: BTreeMap<Arc<[u8]>, Arc<[u8]>> = BTreeMap::new();
    for name in list[..len]
        .split(|b| *b == 0)
        .filter(|name| is_compared_xattr(name))
    {
        let mut value = vec![0; 1 << 16];
        if let Ok(len) = fs::lgetxattr(path, name, &mut value[..]) {
            value.truncate(len);
            found.insert(name.into(), value.into());
        }
    }
    found
}

/// Whether an attribute belongs to the file's user-visible state: labels that a security module
/// puts on everything (SELinux, IMA) differ by themselves and are left out.
pub fn is_compared_xattr(name: &[u8]) -> bool {
    name.starts_with(b"user.")
        || name.starts_with(b"system.posix_acl_")
        || name == b"security.capability"
}

/// `dir`/`name`, in bytes.
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(dir.len() + 1 + name.len());
    path.extend_from_slice(dir);
    if !dir.ends_with(b"/") {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// Whether `path` is `top` or lies below it. Both absolute; `top` may be `/`.
pub fn is_at_or_below(path: &[u8], top: &[u8]) -> bool {
    let top = top.strip_suffix(b"/").unwrap_or(top);
    path.strip_prefix(top)
        .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// Whether the error means that the base has no such object, or none reachable without a link.
fn is_absent(e: Errno) -> bool {
    matches!(e, Errno::NOENT | Errno::NOTDIR | Errno::LOOP)
}
