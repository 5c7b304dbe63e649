//! [`CoreDriver`]: the steps of [`crate::ops`], done to an unmounted FsCore the way the kernel
//! would: by lookups that are owed a forget, by handles, by inode numbers.

mod sound;

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use agentfs_fsd::backstore::{NewBranch, Store};
use agentfs_fsd::core::point::{Point, SnapshotName};
use agentfs_fsd::core::types::{
    Attr, BranchName, Caller, Entry, Fh, Ino, Kind, Name, RenameMode, SetAttr, StreamName, Time,
    TimeSet,
};
use agentfs_fsd::core::{CoreConfig, FreezeFor, FsCore, FsError, OpenIo, Opened};
use nix::libc;

use crate::model::{Body, Id, Model, Node};
use crate::ops::{
    Access, Allocate, Answer, How, MOST_SNAPSHOTS, Outcome, SLOTS, SetHow, Step, split,
};

/// The directory of the base that is shown copy-on-write.
pub const TOP: &str = "w";

/// Somebody whose capabilities cannot be found, as root inside a run has none.
const CALLER: Caller = Caller {
    uid: 0,
    gid: 0,
    pid: 0,
};

#[derive(Debug)]
struct Slot {
    ino: Ino,
    opened: Opened,
    access: Access,
}

/// How a kernel uses the files of a [`CoreDriver`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serving {
    /// It opens each, and reads and writes by requests.
    Opened,
    /// It opens each, and goes past the core where it is let.
    Natively,
    /// It opens none: it names no handle, and tells of no close.
    Unopened,
}

/// A core over a store of its own, and what a kernel would hold of it.
#[derive(Debug)]
pub struct CoreDriver {
    core: Option<FsCore>,
    store: Store,
    branch: BranchName,
    base: PathBuf,
    serving: Serving,
    top: Ino,
    slots: [Option<Slot>; SLOTS],
    /// References owed a forget.
    lookups: HashMap<Ino, u64>,
    /// Which inode number each node of the model was seen with, for as long as both live.
    known: BTreeMap<Id, Ino>,
    /// How many snapshots the branch has, but for those that going back has made.
    snapshots: usize,
}

/// The name of the n-th snapshot.
fn snapshot_name(n: usize) -> SnapshotName {
    SnapshotName::new(&format!("s{n}")).expect("a name")
}

impl CoreDriver {
    /// Opens a fresh branch of a fresh store in `store` over the base directory `base`, which
    /// holds [`TOP`].
    pub fn new(store: &Path, base: &Path, serving: Serving) -> Self {
        let store = Store::open_or_create(store).expect("a store");
        let branch = BranchName::new("model").expect("a name");
        let workspace = Path::new("/").join(TOP);
        store
            .create_branch(&branch, None, NewBranch { workspace })
            .expect("a branch");
        Self::over(store, branch, base, serving)
    }

    /// Opens a branch that is there.
    fn over(store: Store, branch: BranchName, base: &Path, serving: Serving) -> Self {
        let mut driver = CoreDriver {
            core: None,
            store,
            branch,
            base: base.to_path_buf(),
            serving,
            top: Ino::ROOT,
            slots: [const { None }; SLOTS],
            lookups: HashMap::new(),
            known: BTreeMap::new(),
            snapshots: 0,
        };
        driver.open_core();
        driver
    }

    /// A new branch that starts from the n-th snapshot, opened. This one must be closed.
    pub fn branch_of(&self, n: usize) -> Self {
        let branch = BranchName::new(&format!("of-{n}")).expect("a name");
        let from = Point {
            branch: self.branch.clone(),
            snapshot: Some(snapshot_name(n)),
        };
        let workspace = Path::new("/").join(TOP);
        self.store
            .create_branch(&branch, Some(&from), NewBranch { workspace })
            .expect("a branch");
        Self::over(self.store.clone(), branch, &self.base, self.serving)
    }

    fn open_core(&mut self) {
        // Before the opening tidies anything up.
        assert_eq!(self.store_problems(), [], "of the idle store");
        let branch = self
            .store
            .open_live(&self.branch)
            .expect("the branch, opened");
        let config = CoreConfig {
            mountpoint: None,
            base: self.base.clone(),
            roots: vec![Path::new("/").join(TOP)],
            conceal: Vec::new(),
            passthrough: self.serving == Serving::Natively,
        };
        let core = FsCore::new(branch, config).expect("a core");
        if self.serving == Serving::Unopened {
            core.serve_unopened();
        }
        self.core = Some(core);
        self.top = self
            .lookup(Ino::ROOT, TOP.as_bytes())
            .expect("the top")
            .attr
            .ino;
    }

    /// Everything a kernel forgets when a mount ends.
    fn abandon(&mut self) -> FsCore {
        self.slots = [const { None }; SLOTS];
        self.lookups.clear();
        self.core.take().expect("a core")
    }

    /// Ends the branch's life in good order.
    pub fn close(&mut self) {
        self.abandon().close().expect("close");
    }

    fn core(&self) -> &FsCore {
        self.core.as_ref().expect("a core")
    }

    fn lookup(&mut self, parent: Ino, name: &[u8]) -> Result<Entry, FsError> {
        let entry = self.core().lookup(parent, &Name::new(name)?)?;
        Ok(self.owe(entry))
    }

    fn owe(&mut self, entry: Entry) -> Entry {
        *self.lookups.entry(entry.attr.ino).or_default() += 1;
        entry
    }

    fn walk(&mut self, path: &[u8]) -> Result<Ino, FsError> {
        let mut ino = self.top;
        for name in path.split(|b| *b == b'/').filter(|n| !n.is_empty()) {
            ino = self.lookup(ino, name)?.attr.ino;
        }
        Ok(ino)
    }

    /// The directory and the name of a path.
    fn place(&mut self, path: &[u8]) -> Result<(Ino, Name), FsError> {
        let (dir, name) = split(path);
        Ok((self.walk(dir)?, Name::new(name)?))
    }

    /// Gives all references back, except to what is open and to the top.
    fn drop_caches(&mut self) {
        let keep: Vec<Ino> = self
            .slots
            .iter()
            .flatten()
            .map(|s| s.ino)
            .chain([self.top, Ino::ROOT])
            .collect();
        let owed: Vec<(Ino, u64)> = self
            .lookups
            .iter()
            .filter(|(ino, _)| !keep.contains(ino))
            .map(|(i, n)| (*i, *n))
            .collect();
        for (ino, count) in owed {
            self.core().forget(ino, count);
            self.lookups.remove(&ino);
        }
        // What nobody uses is closed then, at the latest at the third time.
        for _ in 0..3 {
            self.core().maintain().expect("the regular work");
        }
    }

    fn close_slot(&mut self, slot: usize) -> bool {
        let Some(slot) = self.slots[slot].take() else {
            return false;
        };
        self.core().release(slot.opened.fh);
        true
    }

    /// Does `step`.
    pub fn apply(&mut self, step: &Step) -> Outcome {
        // What the kernel answers by itself, before any request is sent.
        match step {
            Step::Close { slot } | Step::Sync { slot } if self.slots[*slot].is_none() => {
                return Err(libc::EBADF);
            }
            Step::Write { slot, .. } | Step::Allocate { slot, .. }
                if self.slot(*slot, |a| a != Access::Read).is_none() =>
            {
                return Err(libc::EBADF);
            }
            Step::Read { slot, .. } if self.slot(*slot, |a| a != Access::Write).is_none() => {
                return Err(libc::EBADF);
            }
            Step::Ftruncate { slot, .. } if self.slots[*slot].is_none() => {
                return Err(libc::EBADF);
            }
            Step::Ftruncate { slot, .. } if self.slot(*slot, |a| a != Access::Read).is_none() => {
                return Err(libc::EINVAL);
            }
            Step::Rename { from, to, how } => {
                if let Some(errno) = self.kernel_refuses_rename(from, to, *how) {
                    return Err(errno);
                }
            }
            _ => {}
        }
        self.try_apply(step)
            .map_err(|e| agentfs_fsd::errno::reply(&e).0.code())
    }

    fn slot(&self, slot: usize, fits: impl Fn(Access) -> bool) -> Option<&Slot> {
        self.slots[slot].as_ref().filter(|s| fits(s.access))
    }

    /// lock_rename(9)'s trap: a tree cannot move below itself, nor replace what it lies in.
    fn kernel_refuses_rename(&mut self, from: &[u8], to: &[u8], how: How) -> Option<i32> {
        let below =
            |a: &[u8], b: &[u8]| a.len() > b.len() && a.starts_with(b) && a[b.len()] == b'/';
        let target = self.walk(to).is_ok();
        match (how, target) {
            (How::NoReplace, true) => return Some(libc::EEXIST),
            (How::Exchange, false) => return Some(libc::ENOENT),
            _ => {}
        }
        if below(to, from) {
            return Some(libc::EINVAL);
        }
        below(from, to).then_some(if how == How::Exchange {
            libc::EINVAL
        } else {
            libc::ENOTEMPTY
        })
    }

    fn try_apply(&mut self, step: &Step) -> Result<Answer, FsError> {
        match step {
            Step::Create { path, perm, slot } => {
                self.close_slot(*slot);
                let (parent, name) = self.place(path)?;
                let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL;
                let (entry, mut opened) =
                    self.core().create(&CALLER, parent, &name, *perm, flags)?;
                if self.serving == Serving::Unopened {
                    self.core().keep_unopened(opened.fh);
                    opened.fh = Fh::NONE;
                }
                let ino = self.owe(entry).attr.ino;
                self.slots[*slot] = Some(Slot {
                    ino,
                    opened,
                    access: Access::ReadWrite,
                });
            }
            Step::Mkdir { path, perm } => {
                let (parent, name) = self.place(path)?;
                let entry = self.core().mkdir(&CALLER, parent, &name, *perm)?;
                self.owe(entry);
            }
            Step::Fifo { path, perm } => {
                let (parent, name) = self.place(path)?;
                let entry = self
                    .core()
                    .mknod(&CALLER, parent, &name, Kind::Fifo, *perm, 0)?;
                self.owe(entry);
            }
            Step::Symlink { path, target } => {
                let (parent, name) = self.place(path)?;
                let entry = self.core().symlink(&CALLER, parent, &name, target)?;
                self.owe(entry);
            }
            Step::Link { from, to } => {
                let ino = self.walk(from)?;
                let (parent, name) = self.place(to)?;
                let entry = self.core().link(&CALLER, ino, parent, &name)?;
                self.owe(entry);
            }
            Step::Unlink { path } => {
                let (parent, name) = self.place(path)?;
                self.core().unlink(&CALLER, parent, &name)?;
            }
            Step::Rmdir { path } => {
                let (parent, name) = self.place(path)?;
                self.core().rmdir(&CALLER, parent, &name)?;
            }
            Step::Rename { from, to, how } => {
                let mode = match how {
                    How::Replace => RenameMode::Replace,
                    How::NoReplace => RenameMode::NoReplace,
                    How::Exchange => RenameMode::Exchange,
                };
                let ((p, name), (np, new)) = (self.place(from)?, self.place(to)?);
                self.core().rename(&CALLER, p, &name, np, &new, mode)?;
            }
            Step::Chmod { path, perm } => {
                self.setattr(
                    path,
                    &SetAttr {
                        perm: Some(*perm),
                        ..SetAttr::default()
                    },
                )?;
            }
            Step::Chown { path, uid, gid } => {
                let set = SetAttr {
                    uid: Some(*uid),
                    gid: Some(*gid),
                    ..SetAttr::default()
                };
                self.setattr(path, &set)?;
            }
            Step::Utimens {
                path,
                time: (sec, nsec),
            } => {
                let time = TimeSet::At(Time {
                    sec: *sec,
                    nsec: *nsec,
                });
                let set = SetAttr {
                    atime: Some(time),
                    mtime: Some(time),
                    ..SetAttr::default()
                };
                self.setattr(path, &set)?;
            }
            Step::Truncate { path, size } => {
                self.setattr(
                    path,
                    &SetAttr {
                        size: Some(*size),
                        ..SetAttr::default()
                    },
                )?;
            }
            Step::Open { path, access, slot } => self.open(path, *access, *slot)?,
            Step::Close { slot } => {
                self.close_slot(*slot);
            }
            Step::Write { slot, offset, data } => self.write(*slot, *offset, data)?,
            Step::Read { slot, offset, len } => {
                let slot = self.slots[*slot].as_ref().expect("checked before");
                return Ok(Answer::Bytes(self.read(
                    slot.ino,
                    &slot.opened,
                    *offset,
                    *len,
                )?));
            }
            Step::Ftruncate { slot, size } => {
                let slot = self.slots[*slot].as_ref().expect("checked before");
                let set = SetAttr {
                    size: Some(*size),
                    ..SetAttr::default()
                };
                self.core()
                    .setattr(&CALLER, slot.ino, Some(slot.opened.fh), &set)?;
            }
            Step::Allocate {
                slot,
                how,
                offset,
                len,
            } => {
                let slot = self.slots[*slot].as_ref().expect("checked before");
                let mode = match how {
                    Allocate::Extend => 0,
                    Allocate::KeepSize => libc::FALLOC_FL_KEEP_SIZE,
                    Allocate::Punch => libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
                };
                self.core()
                    .fallocate(&CALLER, slot.ino, slot.opened.fh, mode, *offset, *len)?;
            }
            Step::Sync { slot } => {
                let slot = self.slots[*slot].as_ref().expect("checked before");
                self.core().fsync(slot.ino, false)?;
            }
            Step::SetXattr {
                path,
                name,
                value,
                how,
            } => {
                let ino = self.walk(path)?;
                let flags = match how {
                    SetHow::Any => 0,
                    SetHow::Create => libc::XATTR_CREATE,
                    SetHow::Replace => libc::XATTR_REPLACE,
                };
                self.core().setxattr(&CALLER, ino, name, value, flags)?;
            }
            Step::RemoveXattr { path, name } => {
                let ino = self.walk(path)?;
                self.core().removexattr(&CALLER, ino, name)?;
            }
            Step::List { path } => {
                let ino = self.walk(path)?;
                return Ok(Answer::Names(self.names(ino)?.into_keys().collect()));
            }
            Step::DropCaches => self.drop_caches(),
            Step::Remount => {
                self.abandon().close()?;
                self.open_core();
            }
            Step::Crash => {
                // As after SIGKILL: nothing is folded, checkpointed or closed.
                drop(self.abandon());
                self.open_core();
            }
            Step::Snapshot => {
                if self.snapshots < MOST_SNAPSHOTS {
                    let name = snapshot_name(self.snapshots);
                    let held = self.store.hold()?;
                    let core = self.core.as_mut().expect("a core");
                    core.freeze(&held, FreezeFor::Snapshot(Some(name)))?;
                    self.snapshots += 1;
                }
            }
            Step::Restore { which } => {
                self.abandon().close()?;
                if self.snapshots > 0 {
                    let name = snapshot_name(which % self.snapshots);
                    self.store.restore(&self.branch, &name)?;
                }
                self.open_core();
            }
        }
        Ok(Answer::Done)
    }

    fn setattr(&mut self, path: &[u8], set: &SetAttr) -> Result<(), FsError> {
        let ino = self.walk(path)?;
        self.core().setattr(&CALLER, ino, None, set)?;
        Ok(())
    }

    fn open(&mut self, path: &[u8], access: Access, slot: usize) -> Result<(), FsError> {
        self.close_slot(slot);
        let ino = self.walk(path)?;
        let flags = match access {
            Access::Read => libc::O_RDONLY,
            Access::Write => libc::O_WRONLY,
            Access::ReadWrite => libc::O_RDWR,
            Access::Truncate => libc::O_RDWR | libc::O_TRUNC,
        };
        let opened = match self.serving {
            Serving::Unopened => self.unopened(ino, access)?,
            _ => self.core().open(&CALLER, ino, flags)?,
        };
        self.slots[slot] = Some(Slot {
            ino,
            opened,
            access,
        });
        Ok(())
    }

    /// What a kernel does to open a file that asks nobody.
    fn unopened(&self, ino: Ino, access: Access) -> Result<Opened, FsError> {
        if access == Access::Truncate {
            let set = SetAttr {
                size: Some(0),
                ..SetAttr::default()
            };
            self.core().setattr(&CALLER, ino, None, &set)?;
        }
        Ok(Opened {
            fh: Fh::NONE,
            io: OpenIo::Cached,
            is_changed: false,
        })
    }

    fn write(&mut self, slot: usize, offset: u64, data: &[u8]) -> Result<(), FsError> {
        let slot = self.slots[slot].as_ref().expect("checked before");
        match &slot.opened.io {
            OpenIo::Passthrough { fd, .. } => {
                // The kernel takes suid and sgid off by itself before it writes.
                self.core().kill_privileges(&CALLER, slot.ino)?;
                let file = std::fs::File::from(fd.try_clone().expect("dup"));
                file.write_all_at(data, offset)
                    .expect("write to the object");
            }
            OpenIo::Cached => {
                let mut done = 0;
                if slot.opened.fh == Fh::NONE {
                    self.core().meet_unopened(slot.ino, offset, false)?;
                }
                while done < data.len() {
                    let at = offset + done as u64;
                    let fh = slot.opened.fh;
                    let n = self.core().write(slot.ino, fh, at, &data[done..], true)?;
                    assert!(n > 0, "a write of nothing");
                    done += n;
                }
            }
        }
        Ok(())
    }

    fn read(&self, ino: Ino, opened: &Opened, offset: u64, len: usize) -> Result<Vec<u8>, FsError> {
        let mut bytes = vec![0xee; len];
        let got = match &opened.io {
            OpenIo::Cached => self.core().read(ino, opened.fh, offset, &mut bytes)?,
            OpenIo::Passthrough { fd, .. } => {
                let file = std::fs::File::from(fd.try_clone().expect("dup"));
                file.read_at(&mut bytes, offset)
                    .expect("read of the object")
            }
        };
        bytes.truncate(got);
        Ok(bytes)
    }

    /// The entries of a directory, read once in one go and once a few at a time: both must agree.
    fn names(&self, ino: Ino) -> Result<BTreeMap<Vec<u8>, (Ino, Kind)>, FsError> {
        let (mut all, mut dots) = (BTreeMap::new(), 0);
        self.core().readdir(ino, 0, &mut |entry| {
            match &entry.name {
                StreamName::Dot | StreamName::DotDot => dots += 1,
                StreamName::Entry(name) => {
                    let old = all.insert(name.as_bytes().to_vec(), (entry.ino, entry.kind));
                    assert!(old.is_none(), "{name} is listed twice");
                }
            }
            true
        })?;
        assert_eq!(dots, 2, "both dots are listed");
        let (mut piecewise, mut cookie) = (BTreeMap::new(), 0);
        loop {
            let mut taken = 0;
            self.core().readdir(ino, cookie, &mut |entry| {
                if taken == 3 {
                    return false;
                }
                taken += 1;
                cookie = entry.cookie;
                if let StreamName::Entry(name) = &entry.name {
                    piecewise.insert(name.as_bytes().to_vec(), (entry.ino, entry.kind));
                }
                true
            })?;
            if taken == 0 {
                break;
            }
        }
        assert_eq!(all, piecewise, "a listing in pieces");
        Ok(all)
    }

    /// Compares the whole tree with the model; what differs, or nothing. `contents`: file bytes too.
    pub fn compare(&mut self, model: &Model, contents: bool) -> Option<String> {
        let paths = model.paths();
        let alive: Vec<Id> = paths.values().copied().collect();
        self.known.retain(|id, _| alive.contains(id));
        for (path, id) in &paths {
            let why = match self.compare_node(path, model.node(*id), *id, contents) {
                Ok(why) => why,
                Err(e) => Some(format!("cannot be looked at: {e}")),
            };
            if let Some(why) = why {
                return Some(format!("\"{}\": {why}", path.escape_ascii()));
            }
        }
        None
    }

    fn compare_node(
        &mut self,
        path: &[u8],
        wanted: &Node,
        id: Id,
        contents: bool,
    ) -> Result<Option<String>, FsError> {
        let ino = self.walk(path)?;
        let attr = self.core().getattr(ino)?;
        if attr.ino != ino {
            return Ok(Some(format!("getattr of {ino} answers {}", attr.ino)));
        }
        if let Some(known) = self.known.insert(id, ino)
            && known != ino
        {
            return Ok(Some(format!("was inode {known}, is {ino}")));
        }
        if let Some((other, _)) = self.known.iter().find(|(o, i)| **o != id && **i == ino) {
            return Ok(Some(format!(
                "shares inode {ino} with another file, number {other}"
            )));
        }
        if let Some(why) = wrong_size(wanted, &attr) {
            return Ok(Some(why));
        }
        let found = self.node(ino, &attr, wanted, contents)?;
        if let Body::Dir(entries) = &wanted.body {
            let listed = self.names(ino)?;
            if !listed.keys().eq(entries.keys()) {
                return Ok(Some(format!(
                    "lists {:?}, should {:?}",
                    shown(&listed),
                    shown(entries)
                )));
            }
            for (name, (child, kind)) in &listed {
                let entry = self.lookup(ino, name)?;
                if (entry.attr.ino, entry.attr.kind) != (*child, *kind) {
                    let name = name.escape_ascii();
                    return Ok(Some(format!(
                        "lists {name} as {child} {kind:?}, has {:?}",
                        entry.attr
                    )));
                }
            }
            let subdirs = listed
                .values()
                .filter(|(_, kind)| *kind == Kind::Dir)
                .count();
            if attr.nlink as usize != subdirs + 2 {
                return Ok(Some(format!(
                    "{} links with {subdirs} subdirectories",
                    attr.nlink
                )));
            }
        }
        Ok(found.difference(wanted, true))
    }

    /// What the core shows of an inode, as a node of the model.
    fn node(&self, ino: Ino, attr: &Attr, wanted: &Node, contents: bool) -> Result<Node, FsError> {
        let body = match (attr.kind, &wanted.body) {
            (Kind::File, Body::File(bytes)) if !contents => Body::File(bytes.clone()),
            (Kind::File, _) => Body::File(self.bytes(ino, attr.size)?),
            (Kind::Dir, Body::Dir(entries)) => Body::Dir(entries.clone()),
            (Kind::Dir, _) => Body::Dir(BTreeMap::new()),
            (Kind::Symlink, _) => Body::Symlink(self.core().readlink(ino)?.to_vec()),
            (Kind::Fifo, _) => Body::Fifo,
            (other, _) => panic!("{ino} is a {other:?}"),
        };
        let mut xattrs = BTreeMap::new();
        let names = self.core().listxattr(ino)?;
        for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
            xattrs.insert(name.to_vec(), self.core().getxattr(ino, name)?.to_vec());
        }
        Ok(Node {
            body,
            perm: attr.perm,
            uid: attr.uid,
            gid: attr.gid,
            nlink: attr.nlink,
            mtime: Some((attr.mtime.sec, attr.mtime.nsec)),
            xattrs,
        })
    }

    /// All bytes of a file, read at once, and its holes checked to read as zeros.
    fn bytes(&self, ino: Ino, size: u64) -> Result<Vec<u8>, FsError> {
        let opened = self.core().open(&CALLER, ino, libc::O_RDONLY)?;
        let result = self.bytes_of(ino, &opened, size);
        self.core().release(opened.fh);
        result
    }

    fn bytes_of(&self, ino: Ino, opened: &Opened, size: u64) -> Result<Vec<u8>, FsError> {
        let bytes = self.read(ino, opened, 0, usize::try_from(size).expect("size") + 10)?;
        let seek = |at: u64, whence: i32| -> Result<Option<u64>, FsError> {
            match self.core().lseek(ino, opened.fh, at.cast_signed(), whence) {
                Ok(found) => Ok(Some(found.cast_unsigned())),
                Err(FsError::NoData) => Ok(None),
                Err(e) => Err(e),
            }
        };
        let mut at = 0;
        while at < size {
            let data = seek(at, libc::SEEK_DATA)?.unwrap_or(size);
            assert!(data >= at, "SEEK_DATA from {at} went back to {data}");
            let hole = &bytes[at as usize..(data.min(size)) as usize];
            assert!(
                hole.iter().all(|b| *b == 0),
                "a hole of {ino} at {at} holds data"
            );
            if data >= size {
                break;
            }
            let next = seek(data, libc::SEEK_HOLE)?.expect("a file ends in a hole");
            assert!(
                next > data && next <= size,
                "SEEK_HOLE from {data} found {next} of {size}"
            );
            at = next;
        }
        Ok(bytes)
    }
}

fn wrong_size(wanted: &Node, attr: &Attr) -> Option<String> {
    let size = match &wanted.body {
        Body::File(bytes) => bytes.len(),
        Body::Symlink(target) => target.len(),
        Body::Dir(_) | Body::Fifo => return None,
    };
    (attr.size != size as u64).then(|| format!("size should be {size}, is {}", attr.size))
}

fn shown<V>(names: &BTreeMap<Vec<u8>, V>) -> Vec<String> {
    names.keys().map(|n| n.escape_ascii().to_string()).collect()
}
