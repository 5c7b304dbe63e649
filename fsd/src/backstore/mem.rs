//! [`MemMedia`]: the store in memory, for tests of crashes.
//!
//! Keeps what was synced apart from what was only written, so that [`MemMedia::crash`] can give
//! the tree that a power cut would leave. Directory entries are durable once their directory was
//! synced; a rename becomes durable as a whole with either of its directories. Descriptors do not
//! exist here, and holes are zeros.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::media::{
    FileFacts, Listing, LockGuard, LockWait, Media, MediaFile, ObjectStat, OpenMode, SeekFor,
};
use crate::core::types::Time;

/// What a crash takes away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// Nothing: the process died, the kernel did not.
    Process,
    /// All that was not synced.
    Power,
    /// Of what was not synced, some: which blocks of which files depends on the seed.
    Torn(u64),
}

/// A tree in memory. Cheap to clone; clones share it.
#[derive(Clone, Debug)]
pub struct MemMedia {
    tree: Arc<Tree>,
    dir: u64,
    path: PathBuf,
}

#[derive(Debug, Default)]
struct Tree {
    inner: Mutex<Inner>,
    unlocked: Condvar,
}

#[derive(Clone, Debug)]
enum Node {
    File {
        data: Vec<u8>,
        durable: Vec<u8>,
        mtime: Time,
    },
    Dir {
        entries: BTreeMap<OsString, u64>,
        durable: BTreeMap<OsString, u64>,
    },
}

#[derive(Clone, Debug, Default)]
struct Inner {
    nodes: Vec<Node>,
    /// Renames of which no directory was synced yet.
    renames: Vec<Rename>,
    locked: BTreeSet<u64>,
}

#[derive(Clone, Debug)]
struct Rename {
    from: (u64, OsString),
    to: (u64, OsString),
    node: u64,
}

const ROOT: u64 = 0;
const BLOCK_BYTES: usize = 512;

fn error(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

impl Default for MemMedia {
    fn default() -> Self {
        Self::new()
    }
}

impl MemMedia {
    /// An empty tree.
    pub fn new() -> Self {
        let root = Node::Dir {
            entries: BTreeMap::new(),
            durable: BTreeMap::new(),
        };
        Self::from_inner(Inner {
            nodes: vec![root],
            ..Inner::default()
        })
    }

    fn from_inner(inner: Inner) -> Self {
        let tree = Tree {
            inner: Mutex::new(inner),
            unlocked: Condvar::new(),
        };
        Self {
            tree: Arc::new(tree),
            dir: ROOT,
            path: PathBuf::from("/mem"),
        }
    }

    fn lock_tree(&self) -> MutexGuard<'_, Inner> {
        self.tree
            .inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The tree after a crash. This one stays as it is; nobody holds a lock of the new one.
    pub fn crash(&self, crash: Crash) -> MemMedia {
        let mut inner = self.lock_tree().clone();
        let mut rng = match crash {
            Crash::Torn(seed) => seed | 1,
            _ => 1,
        };
        let mut coin = || {
            rng ^= rng << 13;
            rng ^= rng >> 7;
            rng ^= rng << 17;
            rng
        };
        let keep_entries = match crash {
            Crash::Process => true,
            Crash::Power => false,
            Crash::Torn(_) => coin() & 8 != 0,
        };
        for node in &mut inner.nodes {
            match node {
                Node::Dir { entries, durable } if keep_entries => *durable = entries.clone(),
                Node::Dir { entries, durable } => *entries = durable.clone(),
                Node::File { data, durable, .. } => match crash {
                    Crash::Process => *durable = data.clone(),
                    Crash::Power => *data = durable.clone(),
                    Crash::Torn(_) => {
                        *data = tear(data, durable, &mut coin);
                        *durable = data.clone();
                    }
                },
            }
        }
        inner.renames.clear();
        inner.locked.clear();
        Self::from_inner(inner)
    }

    /// The bytes of a file, for tests that damage it.
    pub fn file_bytes(&self, path: &Path) -> io::Result<Vec<u8>> {
        let inner = self.lock_tree();
        match &inner.nodes[inner.find(self.dir, path)? as usize] {
            Node::File { data, .. } => Ok(data.clone()),
            Node::Dir { .. } => Err(error(nix::libc::EISDIR)),
        }
    }

    /// Replaces the bytes of a file, durably.
    pub fn set_file_bytes(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.lock_tree();
        let node = inner.find(self.dir, path)?;
        let (data, durable) = inner.file(node)?;
        *data = bytes.to_vec();
        *durable = bytes.to_vec();
        Ok(())
    }

    /// All files below the root, sorted.
    pub fn files(&self) -> Vec<PathBuf> {
        let inner = self.lock_tree();
        let mut out = Vec::new();
        let mut todo = vec![(PathBuf::new(), self.dir)];
        while let Some((path, node)) = todo.pop() {
            match &inner.nodes[node as usize] {
                Node::File { .. } => out.push(path),
                Node::Dir { entries, .. } => {
                    todo.extend(entries.iter().map(|(name, node)| (path.join(name), *node)));
                }
            }
        }
        out.sort();
        out
    }
}

/// Cuts or fills up with zeros. `Vec::resize` goes byte by byte in unoptimised builds.
fn resize(data: &mut Vec<u8>, len: usize) {
    if len > data.capacity() {
        let mut grown = vec![0; len.max(2 * data.len())];
        grown[..data.len()].copy_from_slice(data);
        *data = grown;
    } else if len > data.len() {
        data.extend_from_slice(&vec![0; len - data.len()]);
    }
    data.truncate(len);
}

/// Takes each unsynced block, and the length, from the new state or from the durable one.
fn tear(data: &[u8], durable: &[u8], coin: &mut impl FnMut() -> u64) -> Vec<u8> {
    if data == durable {
        return data.to_vec();
    }
    let (short, long) = (data.len().min(durable.len()), data.len().max(durable.len()));
    let len = short + (coin() % (long - short + 1) as u64) as usize;
    let mut out = vec![0; len];
    for (i, block) in out.chunks_mut(BLOCK_BYTES).enumerate() {
        let from = if coin() & 16 != 0 { data } else { durable };
        let start = (i * BLOCK_BYTES).min(from.len());
        let n = block.len().min(from.len() - start);
        block[..n].copy_from_slice(&from[start..start + n]);
    }
    out
}

impl Inner {
    fn entries(&mut self, dir: u64) -> io::Result<&mut BTreeMap<OsString, u64>> {
        match &mut self.nodes[dir as usize] {
            Node::Dir { entries, .. } => Ok(entries),
            Node::File { .. } => Err(error(nix::libc::ENOTDIR)),
        }
    }

    fn file(&mut self, node: u64) -> io::Result<(&mut Vec<u8>, &mut Vec<u8>)> {
        match &mut self.nodes[node as usize] {
            Node::File {
                data,
                durable,
                mtime,
            } => {
                *mtime = Time::now();
                Ok((data, durable))
            }
            Node::Dir { .. } => Err(error(nix::libc::EISDIR)),
        }
    }

    fn find(&self, dir: u64, path: &Path) -> io::Result<u64> {
        path.iter()
            .try_fold(dir, |dir, name| match &self.nodes[dir as usize] {
                Node::Dir { entries, .. } => entries
                    .get(name)
                    .copied()
                    .ok_or_else(|| error(nix::libc::ENOENT)),
                Node::File { .. } => Err(error(nix::libc::ENOTDIR)),
            })
    }

    fn find_parent<'p>(&self, dir: u64, path: &'p Path) -> io::Result<(u64, &'p OsStr)> {
        let name = path.file_name().ok_or_else(|| error(nix::libc::EINVAL))?;
        Ok((
            self.find(dir, path.parent().unwrap_or(Path::new("")))?,
            name,
        ))
    }

    fn add(&mut self, dir: u64, path: &Path, node: Node) -> io::Result<u64> {
        let (parent, name) = self.find_parent(dir, path)?;
        let id = self.nodes.len() as u64;
        let entries = self.entries(parent)?;
        if entries.contains_key(name) {
            return Err(error(nix::libc::EEXIST));
        }
        entries.insert(name.to_owned(), id);
        self.nodes.push(node);
        Ok(id)
    }

    fn remove(&mut self, dir: u64, path: &Path, want_dir: bool) -> io::Result<()> {
        let node = self.find(dir, path)?;
        match &self.nodes[node as usize] {
            Node::Dir { .. } if !want_dir => return Err(error(nix::libc::EISDIR)),
            Node::Dir { entries, .. } if !entries.is_empty() => {
                return Err(error(nix::libc::ENOTEMPTY));
            }
            Node::File { .. } if want_dir => return Err(error(nix::libc::ENOTDIR)),
            _ => {}
        }
        let (parent, name) = self.find_parent(dir, path)?;
        self.entries(parent)?.remove(name);
        Ok(())
    }

    fn sync_dir(&mut self, dir: u64) -> io::Result<()> {
        let (now, later) = std::mem::take(&mut self.renames)
            .into_iter()
            .partition(|r: &Rename| r.from.0 == dir || r.to.0 == dir);
        self.renames = later;
        for Rename { from, to, node } in now {
            if let Node::Dir { durable, .. } = &mut self.nodes[from.0 as usize]
                && durable.get(&from.1) == Some(&node)
            {
                durable.remove(&from.1);
            }
            if let Node::Dir { durable, .. } = &mut self.nodes[to.0 as usize] {
                durable.insert(to.1, node);
            }
        }
        match &mut self.nodes[dir as usize] {
            Node::Dir { entries, durable } => {
                *durable = entries.clone();
                Ok(())
            }
            Node::File { .. } => Err(error(nix::libc::ENOTDIR)),
        }
    }
}

impl Media for MemMedia {
    fn describe(&self, path: &Path) -> PathBuf {
        self.path.join(path)
    }

    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Box<dyn MediaFile>> {
        let mut inner = self.lock_tree();
        let node = if mode == OpenMode::CreateNew {
            let file = Node::File {
                data: Vec::new(),
                durable: Vec::new(),
                mtime: Time::now(),
            };
            inner.add(self.dir, path, file)?
        } else {
            let node = inner.find(self.dir, path)?;
            if let Node::Dir { .. } = inner.nodes[node as usize] {
                return Err(error(nix::libc::EISDIR));
            }
            node
        };
        Ok(Box::new(MemFile {
            tree: self.tree.clone(),
            node,
            write: mode != OpenMode::Read,
        }))
    }

    fn mkdir(&self, path: &Path) -> io::Result<()> {
        let dir = Node::Dir {
            entries: BTreeMap::new(),
            durable: BTreeMap::new(),
        };
        self.lock_tree().add(self.dir, path, dir).map(|_| ())
    }

    fn rename(&self, from: &Path, to: &Path, replace: bool) -> io::Result<()> {
        let mut inner = self.lock_tree();
        let node = inner.find(self.dir, from)?;
        let (from_dir, from_name) = inner.find_parent(self.dir, from)?;
        let (to_dir, to_name) = inner.find_parent(self.dir, to)?;
        if !replace && inner.entries(to_dir)?.contains_key(to_name) {
            return Err(error(nix::libc::EEXIST));
        }
        inner.entries(from_dir)?.remove(from_name);
        inner.entries(to_dir)?.insert(to_name.to_owned(), node);
        inner.renames.push(Rename {
            from: (from_dir, from_name.to_owned()),
            to: (to_dir, to_name.to_owned()),
            node,
        });
        Ok(())
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inner = self.lock_tree();
        let node = inner.find(self.dir, from)?;
        let (to_dir, to_name) = inner.find_parent(self.dir, to)?;
        if inner.entries(to_dir)?.contains_key(to_name) {
            return Err(error(nix::libc::EEXIST));
        }
        inner.entries(to_dir)?.insert(to_name.to_owned(), node);
        Ok(())
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.lock_tree().remove(self.dir, path, false)
    }

    fn rmdir(&self, path: &Path) -> io::Result<()> {
        self.lock_tree().remove(self.dir, path, true)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Listing>> {
        let mut inner = self.lock_tree();
        let dir = inner.find(self.dir, path)?;
        let entries = inner.entries(dir)?.clone();
        let is_dir = |node: u64| matches!(inner.nodes[node as usize], Node::Dir { .. });
        Ok(entries
            .into_iter()
            .map(|(name, node)| Listing {
                name,
                is_dir: is_dir(node),
            })
            .collect())
    }

    fn facts(&self, path: &Path) -> io::Result<FileFacts> {
        let mut inner = self.lock_tree();
        let node = inner.find(self.dir, path)?;
        let (is_file, len) = match &mut inner.nodes[node as usize] {
            Node::File { data, .. } => (true, data.len() as u64),
            Node::Dir { .. } => (false, 0),
        };
        Ok(FileFacts {
            is_file,
            len,
            blocks: len.div_ceil(512),
            perm: 0o600,
            uid: 0,
            links: 1,
        })
    }

    fn make_private(&self, path: &Path, _uid: u32) -> io::Result<()> {
        self.lock_tree().find(self.dir, path).map(drop)
    }

    fn sync_all(&self) -> io::Result<()> {
        let mut inner = self.lock_tree();
        inner.renames.clear();
        for node in &mut inner.nodes {
            match node {
                Node::File { data, durable, .. } => durable.clone_from(data),
                Node::Dir { entries, durable } => durable.clone_from(entries),
            }
        }
        Ok(())
    }

    fn shared_bytes(&self, _path: &Path) -> u64 {
        0
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut inner = self.lock_tree();
        let dir = inner.find(self.dir, path)?;
        inner.sync_dir(dir)
    }

    fn sub(&self, path: &Path) -> io::Result<Arc<dyn Media>> {
        let mut inner = self.lock_tree();
        let dir = inner.find(self.dir, path)?;
        inner.entries(dir)?;
        Ok(Arc::new(MemMedia {
            tree: self.tree.clone(),
            dir,
            path: self.path.join(path),
        }))
    }

    fn lock(
        &self,
        path: &Path,
        wait: LockWait,
        note: &[u8],
    ) -> io::Result<Option<Box<dyn LockGuard>>> {
        let mut inner = self.lock_tree();
        loop {
            let node = match inner.find(self.dir, path) {
                Ok(node) => node,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    let file = Node::File {
                        data: Vec::new(),
                        durable: Vec::new(),
                        mtime: Time::now(),
                    };
                    inner.add(self.dir, path, file)?
                }
                Err(e) => return Err(e),
            };
            if inner.locked.insert(node) {
                *inner.file(node)?.0 = note.to_vec();
                return Ok(Some(Box::new(MemLock {
                    tree: self.tree.clone(),
                    node,
                })));
            }
            if wait == LockWait::Try {
                return Ok(None);
            }
            inner = self
                .tree
                .unlocked
                .wait(inner)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn is_locked(&self, path: &Path) -> io::Result<bool> {
        let inner = self.lock_tree();
        Ok(inner
            .find(self.dir, path)
            .is_ok_and(|node| inner.locked.contains(&node)))
    }
}

#[derive(Debug)]
struct MemLock {
    tree: Arc<Tree>,
    node: u64,
}

impl LockGuard for MemLock {}

impl Drop for MemLock {
    fn drop(&mut self) {
        let mut inner = self
            .tree
            .inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        inner.locked.remove(&self.node);
        self.tree.unlocked.notify_all();
    }
}

#[derive(Debug)]
struct MemFile {
    tree: Arc<Tree>,
    node: u64,
    write: bool,
}

impl MemFile {
    fn with<T>(&self, f: impl FnOnce(&mut Vec<u8>, &mut Vec<u8>) -> T) -> io::Result<T> {
        if !self.write {
            return Err(error(nix::libc::EBADF));
        }
        let mut inner = self
            .tree
            .inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (data, durable) = inner.file(self.node)?;
        Ok(f(data, durable))
    }

    fn look<T>(&self, f: impl FnOnce(&[u8], Time) -> T) -> io::Result<T> {
        let inner = self
            .tree
            .inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match &inner.nodes[self.node as usize] {
            Node::File { data, mtime, .. } => Ok(f(data, *mtime)),
            Node::Dir { .. } => Err(error(nix::libc::EISDIR)),
        }
    }
}

impl MediaFile for MemFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.look(|data, _| {
            let from = &data[(offset as usize).min(data.len())..];
            let n = buf.len().min(from.len());
            buf[..n].copy_from_slice(&from[..n]);
            n
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.with(|data, _| {
            let end = offset as usize + bytes.len();
            if data.len() < end {
                resize(data, end);
            }
            data[offset as usize..end].copy_from_slice(bytes);
            bytes.len()
        })
    }

    fn stat(&self) -> io::Result<ObjectStat> {
        self.look(|data, mtime| ObjectStat {
            len: data.len() as u64,
            blocks: (data.len() as u64).div_ceil(512),
            mtime,
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|data, _| resize(data, len as usize))
    }

    fn sync(&self, _data_only: bool) -> io::Result<()> {
        let mut inner = self
            .tree
            .inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match &mut inner.nodes[self.node as usize] {
            Node::File { data, durable, .. } => *durable = data.clone(),
            Node::Dir { .. } => return Err(error(nix::libc::EISDIR)),
        }
        Ok(())
    }

    fn allocate(&self, mode: i32, offset: u64, len: u64) -> io::Result<()> {
        use nix::libc::{FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE};
        if mode & !(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE) != 0 {
            return Err(error(nix::libc::EOPNOTSUPP));
        }
        self.with(|data, _| {
            let end = (offset + len) as usize;
            if mode & FALLOC_FL_KEEP_SIZE == 0 && data.len() < end {
                resize(data, end);
            }
            if mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE) != 0 {
                let end = end.min(data.len());
                if let Some(range) = data.get_mut(offset as usize..end) {
                    range.fill(0);
                }
            }
        })
    }

    fn seek(&self, what: SeekFor, offset: u64) -> io::Result<Option<u64>> {
        self.look(|data, _| match what {
            _ if offset >= data.len() as u64 => None,
            SeekFor::Data => Some(offset),
            SeekFor::Hole => Some(data.len() as u64),
        })
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
