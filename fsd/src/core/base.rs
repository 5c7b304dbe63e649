//! The base: the host's files below a branch. Read-only by construction: nothing here can write.
//!
//! A base object is found again by its [`BaseLoc`], a chain of directories and a name, or the
//! path recorded at copy-up. Directories are held open (O_PATH) in a bounded cache, so no host
//! path is walked twice and no symlink on it is ever followed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::{self as rfs, AtFlags, FileType, Mode, OFlags, Statx, StatxFlags};

use crate::core::number;
pub use crate::core::place::{BaseDir, BaseLoc};
use crate::core::record::{Fingerprint, Origin};
use crate::core::types::{Ino, Kind, Name, Time};
use crate::core::{CoreConfig, FsError};

/// Directories kept open at most. Each costs one descriptor of the daemon.
const OPEN_DIRS_MAX: usize = 512;

/// What statx(2) said of a base object.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct BaseStat {
    pub kind: Kind,
    pub perm: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub rdev: u64,
    pub blocks: u64,
    pub atime: Time,
    pub fingerprint: Fingerprint,
}

/// One entry of a base directory listing.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct BaseEntry {
    pub name: Name,
    pub host_ino: u64,
    pub kind: Kind,
}

/// Extended attributes by name.
pub type Xattrs = BTreeMap<Arc<[u8]>, Arc<[u8]>>;

/// The base of one mount.
#[derive(Debug)]
pub struct BaseTree {
    /// The directory that plays the host's `/`.
    root: OwnedFd,
    /// Objects that are answered with "no such entry".
    concealed: HashSet<Which>,
    /// Places answered with "no such entry" unseen, by name. Concealed paths, whatever the host
    /// puts there later, and our own mount, where a look would be a request to ourselves.
    unseen: HashMap<Name, Vec<Parent>>,
    open_dirs: Mutex<OpenDirs>,
}

/// Which object: device, inode number and birth time, for the host gives the numbers out again.
type Which = (u64, u64, Time);

fn which(print: &Fingerprint) -> Which {
    (print.dev, print.ino, print.btime)
}

/// The directory that holds a place.
#[derive(Debug)]
struct Parent {
    /// The one that was there first, wherever it is moved.
    first: Option<Which>,
    /// Where it is, as the kernel names it: for one that comes to be there later.
    path: PathBuf,
}

#[derive(Debug, Default)]
struct OpenDirs {
    by_ino: HashMap<Ino, (Arc<OwnedFd>, u64)>,
    clock: u64,
}

fn base_error(op: &'static str) -> impl FnOnce(rustix::io::Errno) -> FsError {
    move |e| FsError::Base {
        op,
        source: io::Error::from(e),
    }
}

/// Another object stands where one was seen. The kernel looks the path up again then.
pub fn replaced() -> FsError {
    base_error("find again")(rustix::io::Errno::STALE)
}

/// Whether nothing can be there now for those whom the daemon serves, which are not more powerful.
fn is_out_of_reach(e: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    matches!(
        e,
        Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::LOOP | Errno::NAMETOOLONG
    )
}

/// Whether the directory `dir` is where one of `parents` is to be.
fn is_at(dir: impl AsFd, parents: &[Parent]) -> rustix::io::Result<bool> {
    let link = format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd());
    match rfs::readlink(link, Vec::new()) {
        Ok(path) => {
            let path = Path::new(OsStr::from_bytes(path.as_bytes()));
            Ok(parents.iter().any(|parent| parent.path == path))
        }
        // Deeper than any path that can be told to us.
        Err(rustix::io::Errno::NAMETOOLONG) => Ok(false),
        Err(e) => Err(e),
    }
}

/// The path of an object on the host, relative to the directory that plays `/`.
fn relative(path: &[u8]) -> &[u8] {
    let rest = path.strip_prefix(b"/").unwrap_or(path);
    if rest.is_empty() { b"." } else { rest }
}

const DIR_FLAGS: OFlags = OFlags::PATH
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

impl BaseTree {
    /// Opens the base as `config` says.
    ///
    /// Errors: `Base` when the root cannot be opened.
    pub fn open(config: &CoreConfig) -> Result<Self, FsError> {
        let fd = rfs::open(
            &config.base,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(base_error("open the root"))?;
        let mut concealed = HashSet::new();
        for path in &config.conceal {
            let bytes = path.as_os_str().as_bytes();
            // Follows symlinks on purpose: what must be hidden is what the path leads to.
            match followed(&fd, relative(bytes)) {
                Ok(at) => {
                    concealed.insert(at);
                }
                Err(e) if is_out_of_reach(e) => {}
                Err(e) => return Err(base_error("look up a concealed path")(e)),
            }
        }
        let mut unseen: HashMap<Name, Vec<Parent>> = HashMap::new();
        let root = std::fs::canonicalize(&config.base).map_err(|source| FsError::Base {
            op: "find the root",
            source,
        })?;
        for path in config.conceal.iter().chain(&config.mountpoint) {
            let (dir, name) = split_path(path.as_os_str().as_bytes());
            let first = match followed(&fd, relative(dir)) {
                Ok(at) => Some(at),
                Err(e) if is_out_of_reach(e) => None,
                Err(e) => return Err(base_error("look up a concealed place")(e)),
            };
            let path = match relative(dir) {
                b"." => root.clone(),
                dir => root.join(OsStr::from_bytes(dir)),
            };
            let parents = unseen.entry(Name::new(name)?).or_default();
            parents.push(Parent { first, path });
        }
        Ok(Self {
            root: fd,
            concealed,
            unseen,
            open_dirs: Mutex::default(),
        })
    }

    /// Refuses to look at a place that must not be seen.
    fn check_place(&self, dir: impl AsFd, name: &[u8]) -> rustix::io::Result<()> {
        let Some(parents) = self.unseen.get(name) else {
            return Ok(());
        };
        let here = Some(which(&base_stat(&statx(&dir, b"")?).fingerprint));
        if parents.iter().any(|parent| parent.first == here) || is_at(dir, parents)? {
            return Err(rustix::io::Errno::NOENT);
        }
        Ok(())
    }

    fn statx_at(&self, dir: &OwnedFd, name: &[u8]) -> rustix::io::Result<Statx> {
        self.check_place(dir, name)?;
        statx(dir, name)
    }

    /// Whether this object must stay invisible.
    pub fn is_concealed(&self, stat: &BaseStat) -> bool {
        self.concealed.contains(&which(&stat.fingerprint))
    }

    /// Whether anything is concealed on some device under this inode number.
    pub fn may_conceal(&self, host_ino: u64) -> bool {
        self.concealed.iter().any(|(_, ino, _)| *ino == host_ino)
    }

    /// Opens the directory `dir` (O_PATH), from the cache where it can.
    fn dir_fd(&self, dir: &BaseDir) -> rustix::io::Result<Arc<OwnedFd>> {
        if let Some(fd) = self.cached_dir(dir.ino) {
            return Ok(fd);
        }
        // Deep trees: open the missing ancestors from the top, never by one long path.
        let mut missing = Vec::new();
        let (mut ino, mut place) = (dir.ino, dir.place_and_id());
        let mut fd = loop {
            match place.loc {
                BaseLoc::Path(path) => break Arc::new(self.open_path(&path, DIR_FLAGS)?),
                BaseLoc::Child(parent, name) => {
                    missing.push((ino, name, place.id));
                    if let Some(fd) = self.cached_dir(parent.ino) {
                        break fd;
                    }
                    (ino, place) = (parent.ino, parent.place_and_id());
                }
            }
        };
        for (ino, name, id) in missing.into_iter().rev() {
            self.check_place(&fd, name.as_bytes())?;
            fd = Arc::new(rfs::openat(&fd, name.as_bytes(), DIR_FLAGS, Mode::empty())?);
            if let Some(id) = id {
                let now = base_stat(&statx(&fd, b"")?).fingerprint;
                if id != (now.ino, now.btime) {
                    return Err(rustix::io::Errno::STALE);
                }
            }
            self.keep_dir(ino, &fd);
        }
        self.keep_dir(dir.ino, &fd);
        Ok(fd)
    }

    /// The directory `dir` itself (O_PATH), and what it is like.
    ///
    /// Errors: `Base`.
    pub fn held_dir(&self, dir: &BaseDir) -> Result<(Arc<OwnedFd>, BaseStat), FsError> {
        let held = self.dir_fd(dir).and_then(|fd| {
            let now = base_stat(&statx(&fd, b"")?);
            match now.nlink {
                // Held, and gone.
                0 => Err(rustix::io::Errno::STALE),
                _ => Ok((fd, now)),
            }
        });
        held.map_err(base_error("open a directory"))
    }

    fn cached_dir(&self, ino: Ino) -> Option<Arc<OwnedFd>> {
        let mut dirs = crate::sync::lock(&self.open_dirs);
        dirs.clock += 1;
        let now = dirs.clock;
        let (fd, used) = dirs.by_ino.get_mut(&ino)?;
        *used = now;
        Some(fd.clone())
    }

    fn keep_dir(&self, ino: Ino, fd: &Arc<OwnedFd>) {
        let mut dirs = crate::sync::lock(&self.open_dirs);
        dirs.clock += 1;
        let now = dirs.clock;
        if dirs.by_ino.len() >= OPEN_DIRS_MAX {
            // Drop the older half at once: the scan is then paid once per many opens.
            let mut ages: Vec<u64> = dirs.by_ino.values().map(|(_, used)| *used).collect();
            ages.sort_unstable();
            let cut = ages[ages.len() / 2];
            dirs.by_ino.retain(|_, (_, used)| *used > cut);
        }
        dirs.by_ino.insert(ino, (fd.clone(), now));
    }

    /// Opens an absolute path component by component, so that no symlink is followed and no
    /// length limit applies.
    fn open_path(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let mut fd: Option<OwnedFd> = None;
        let mut components = path
            .split(|b| *b == b'/')
            .filter(|c| !c.is_empty())
            .peekable();
        while let Some(name) = components.next() {
            let last = components.peek().is_none();
            let dir = fd.as_ref().map_or(self.root.as_fd(), |f| f.as_fd());
            self.check_place(dir, name)?;
            let flags = if last {
                flags | OFlags::NOFOLLOW | OFlags::CLOEXEC
            } else {
                DIR_FLAGS
            };
            fd = Some(rfs::openat(dir, name, flags, Mode::empty())?);
        }
        match fd {
            Some(fd) => Ok(fd),
            None => rfs::openat(&self.root, c".", flags | OFlags::CLOEXEC, Mode::empty()),
        }
    }

    /// Stats the object at `loc`, without following a symlink there.
    ///
    /// Errors: `Base` with the host's errno.
    pub fn stat(&self, loc: &BaseLoc) -> Result<BaseStat, FsError> {
        let stat = match loc {
            BaseLoc::Child(dir, name) => self.in_dir(dir, |fd| self.statx_at(fd, name.as_bytes())),
            BaseLoc::Path(path) => self
                .open_path(path, OFlags::PATH)
                .and_then(|fd| self.statx_at(&fd, b"")),
        };
        stat.map(|s| base_stat(&s)).map_err(base_error("stat"))
    }

    /// Stats an object that is open.
    pub fn stat_open(&self, file: &File) -> Result<BaseStat, FsError> {
        statx(file, b"")
            .map(|s| base_stat(&s))
            .map_err(base_error("stat"))
    }

    /// Drops the cached descriptor of a directory that has come to lie elsewhere.
    pub fn forget_dir(&self, ino: Ino) {
        crate::sync::lock(&self.open_dirs).by_ino.remove(&ino);
    }

    /// Makes a call in a base directory; once more, if nothing was found in one that the host has
    /// removed meanwhile: another may be in its place.
    fn in_dir<T>(
        &self,
        dir: &BaseDir,
        call: impl Fn(&Arc<OwnedFd>) -> rustix::io::Result<T>,
    ) -> rustix::io::Result<T> {
        match self.dir_fd(dir).and_then(|fd| call(&fd)) {
            Err(rustix::io::Errno::NOENT) if self.forget_if_dead(dir) => {
                self.dir_fd(dir).and_then(|fd| call(&fd))
            }
            result => result,
        }
    }

    /// Drops the cached directories if the host has removed this one, or the one it was sought
    /// from; says whether it did.
    fn forget_if_dead(&self, dir: &BaseDir) -> bool {
        let mut dirs = crate::sync::lock(&self.open_dirs);
        let (mut ino, mut loc) = (dir.ino, dir.loc());
        let held = loop {
            match (dirs.by_ino.get(&ino), loc) {
                (Some((fd, _)), _) => break Some(fd),
                (None, BaseLoc::Child(above, _)) => (ino, loc) = (above.ino, above.loc()),
                (None, BaseLoc::Path(_)) => break None,
            }
        };
        let dead = held.is_some_and(|fd| rfs::fstat(fd.as_ref()).is_ok_and(|st| st.st_nlink == 0));
        if dead {
            dirs.by_ino.clear();
        }
        dead
    }

    /// [`number::device_key`] of the object at `loc`.
    pub fn device_key(&self, loc: &BaseLoc, dev: u64) -> u64 {
        let fd = match loc {
            BaseLoc::Child(dir, name) => self.dir_fd(dir).and_then(|fd| {
                self.check_place(&fd, name.as_bytes())?;
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rfs::openat(&fd, name.as_bytes(), flags, Mode::empty())
            }),
            BaseLoc::Path(path) => self.open_path(path, OFlags::PATH),
        };
        number::device_key(fd, dev)
    }

    /// Opens the regular file at `loc` for reading and checks that it still is the object `want`.
    /// Returns its [`state`] too.
    ///
    /// Errors: `Base`; ESTALE inside it when another object or type stands there now.
    pub fn open_file(&self, loc: &BaseLoc, want: &Fingerprint) -> Result<(File, u64), FsError> {
        // NONBLOCK: should the entry have become a FIFO, the open must not hang.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = |flags: OFlags| match loc {
            BaseLoc::Child(dir, name) => self.in_dir(dir, |fd| {
                rfs::openat(fd, name.as_bytes(), flags, Mode::empty())
            }),
            BaseLoc::Path(path) => self.open_path(path, flags),
        };
        let fd = match open(flags | OFlags::NOATIME) {
            Err(rustix::io::Errno::PERM) => open(flags),
            other => other,
        };
        let fd = fd.map_err(|e| match e {
            // A symlink or a socket stands there now.
            rustix::io::Errno::LOOP | rustix::io::Errno::NXIO => rustix::io::Errno::STALE,
            e => e,
        });
        let fd = fd.map_err(base_error("open"))?;
        let st = statx(&fd, b"")
            .map(|st| base_stat(&st))
            .map_err(base_error("stat"))?;
        // The device number may be another since the last boot.
        let same = st.fingerprint.ino == want.ino && st.fingerprint.btime == want.btime;
        if !same || st.kind != Kind::File {
            return Err(base_error("open")(rustix::io::Errno::STALE));
        }
        Ok((File::from(fd), state(&st.fingerprint)))
    }

    /// Reads the target of the symlink at `loc`.
    ///
    /// Errors: `Base`; ESTALE inside it when something else stands there now.
    pub fn readlink(&self, loc: &BaseLoc) -> Result<Arc<[u8]>, FsError> {
        let target = match loc {
            BaseLoc::Child(dir, name) => {
                self.in_dir(dir, |fd| rfs::readlinkat(fd, name.as_bytes(), Vec::new()))
            }
            BaseLoc::Path(path) => self
                .open_path(path, OFlags::PATH)
                .and_then(|fd| rfs::readlinkat(&fd, b"".as_slice(), Vec::new())),
        };
        match target {
            Ok(target) => Ok(Arc::from(target.as_bytes())),
            // Something else stands there now.
            Err(rustix::io::Errno::INVAL) => Err(replaced()),
            Err(e) => Err(base_error("readlink")(e)),
        }
    }

    /// Lists the directory `dir`, dots left out. Names that no `Name` can hold cannot occur.
    pub fn list(&self, dir: &BaseDir) -> Result<Vec<BaseEntry>, FsError> {
        self.in_dir(dir, |fd| self.list_open(fd))
            .map_err(base_error("list"))
    }

    fn list_open(&self, fd: &OwnedFd) -> rustix::io::Result<Vec<BaseEntry>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = match rfs::openat(fd, c".", flags | OFlags::NOATIME, Mode::empty()) {
            Err(rustix::io::Errno::PERM) => rfs::openat(fd, c".", flags, Mode::empty()),
            other => other,
        }?;
        let mut entries = Vec::new();
        let mut buf = Vec::with_capacity(32 << 10);
        let mut raw = rfs::RawDir::new(&fd, buf.spare_capacity_mut());
        while let Some(entry) = raw.next() {
            let entry = entry?;
            let Ok(name) = Name::new(entry.file_name().to_bytes()) else {
                continue;
            };
            if self.check_place(&fd, name.as_bytes()).is_err() {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => match self.statx_at(&fd, name.as_bytes()) {
                    Ok(st) => base_stat(&st).kind,
                    Err(rustix::io::Errno::NOENT) => continue,
                    Err(e) => return Err(e),
                },
                known => kind_of(known),
            };
            entries.push(BaseEntry {
                name,
                host_ino: entry.ino(),
                kind,
            });
        }
        Ok(entries)
    }

    /// Reads all extended attributes of the object at `loc` that the daemon may read.
    pub fn xattrs(&self, loc: &BaseLoc) -> Result<Xattrs, FsError> {
        let found = match loc {
            BaseLoc::Child(dir, name) => self.in_dir(dir, |fd| xattrs_in(fd, name.as_bytes())),
            BaseLoc::Path(path) => {
                let (dir, name) = split_path(path);
                self.open_path(dir, DIR_FLAGS)
                    .and_then(|fd| xattrs_in(&fd, name))
            }
        };
        found.map_err(base_error("read attributes"))
    }

    /// Reads all extended attributes of a file that is open.
    pub fn xattrs_open(&self, file: &File) -> Result<Xattrs, FsError> {
        let list = |buf: &mut [u8]| rfs::flistxattr(file, buf);
        let get = |name: &[u8], buf: &mut [u8]| rfs::fgetxattr(file, name, buf);
        collect_xattrs(list, get).map_err(base_error("read attributes"))
    }

    /// The origin record of the object at `loc`.
    pub fn origin(&self, loc: &BaseLoc, stat: &BaseStat) -> Origin {
        Origin {
            path: Arc::from(loc.path()),
            fingerprint: stat.fingerprint,
        }
    }
}

/// What tells whether the host has changed the bytes of a file since; never 0.
pub fn state(print: &Fingerprint) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    let stamps = [print.mtime, print.ctime].map(|t| (t.sec, t.nsec));
    (print.ino, print.size, stamps).hash(&mut hasher);
    hasher.finish() | 1
}

fn split_path(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(_) if path == b"/" => (b"/", b"."),
        Some(0) => (b"/", &path[1..]),
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"/", path),
    }
}

/// All extended attributes of `name` in `dir` that may be read.
fn xattrs_in(dir: &OwnedFd, name: &[u8]) -> rustix::io::Result<Xattrs> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    let list = |buf: &mut [u8]| rfs::llistxattr(path.as_slice(), buf);
    let get = |name: &[u8], buf: &mut [u8]| rfs::lgetxattr(path.as_slice(), name, buf);
    collect_xattrs(list, get)
}

/// All extended attributes that `list` names and `get` may read.
fn collect_xattrs(
    list: impl Fn(&mut [u8]) -> rustix::io::Result<usize>,
    get: impl Fn(&[u8], &mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Xattrs> {
    let names = match sized(list) {
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(Xattrs::new()),
        names => names?,
    };
    let mut found = Xattrs::new();
    for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        match sized(|buf| get(name, buf)) {
            Ok(value) => {
                found.insert(Arc::from(name), Arc::from(value));
            }
            // Removed since the listing, or not ours to read.
            Err(
                rustix::io::Errno::NODATA
                | rustix::io::Errno::PERM
                | rustix::io::Errno::ACCESS
                | rustix::io::Errno::OPNOTSUPP,
            ) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(found)
}

/// Calls an xattr read with a growing buffer until it fits.
fn sized(
    mut call: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<u8>> {
    let mut buf = vec![0; 256];
    loop {
        match call(&mut buf) {
            Ok(len) => {
                buf.truncate(len);
                return Ok(buf);
            }
            Err(rustix::io::Errno::RANGE) if buf.len() < 1 << 17 => buf.resize(buf.len() * 8, 0),
            Err(e) => return Err(e),
        }
    }
}

const STATX: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

fn statx(dir: impl AsFd, name: &[u8]) -> rustix::io::Result<Statx> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH | AtFlags::NO_AUTOMOUNT;
    rfs::statx(dir, name, flags, STATX)
}

/// Which object `path` leads to.
fn followed(dir: impl AsFd, path: &[u8]) -> rustix::io::Result<Which> {
    let found = rfs::statx(dir, path, AtFlags::empty(), STATX)?;
    Ok(which(&base_stat(&found).fingerprint))
}

fn kind_of(file_type: FileType) -> Kind {
    match file_type {
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice => Kind::Char,
        FileType::BlockDevice => Kind::Block,
        FileType::RegularFile | FileType::Unknown => Kind::File,
    }
}

fn base_stat(s: &Statx) -> BaseStat {
    let time = |t: rfs::StatxTimestamp| Time {
        sec: t.tv_sec,
        nsec: t.tv_nsec,
    };
    BaseStat {
        kind: kind_of(FileType::from_raw_mode(u32::from(s.stx_mode))),
        perm: u32::from(s.stx_mode) & 0o7777,
        uid: s.stx_uid,
        gid: s.stx_gid,
        nlink: s.stx_nlink,
        rdev: rfs::makedev(s.stx_rdev_major, s.stx_rdev_minor),
        blocks: s.stx_blocks,
        atime: time(s.stx_atime),
        fingerprint: Fingerprint {
            dev: rfs::makedev(s.stx_dev_major, s.stx_dev_minor),
            ino: s.stx_ino,
            size: s.stx_size,
            mtime: time(s.stx_mtime),
            ctime: time(s.stx_ctime),
            btime: time(s.stx_btime),
        },
    }
}
