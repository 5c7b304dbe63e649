//! The reference model of a file tree: plain maps, no cleverness, no errors but errnos.
//!
//! It says what Linux says to a caller with uid 0 and gid 0, and all capabilities but CAP_FSETID
//! where bytes change: who changes them takes suid and sgid away, as in every run. It knows nothing of branches, which
//! is the point: a branch must look like one ordinary tree.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::libc;

use crate::manifest;
use crate::ops::{
    Access, Allocate, Answer, EntryKind, How, Listing, MOST_SNAPSHOTS, Outcome, RelPath, SLOTS,
    SetHow, Step, join, split,
};

/// Names a node of the model, for as long as the model lives.
pub type Id = u64;

/// What a node holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Body {
    File(Vec<u8>),
    Dir(BTreeMap<Vec<u8>, Id>),
    Symlink(Vec<u8>),
    Fifo,
}

/// One object: what an inode is to Linux.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Node {
    pub body: Body,
    pub perm: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    /// Known only when nothing has touched it since it was set (or since the base).
    pub mtime: Option<(i64, u32)>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Clone, Copy, Debug)]
struct Handle {
    id: Id,
    read: bool,
    write: bool,
}

/// The tree and the open files.
#[derive(Clone, Debug)]
pub struct Model {
    nodes: BTreeMap<Id, Node>,
    next: Id,
    slots: [Option<Handle>; SLOTS],
    /// What each snapshot holds.
    snapshots: Vec<Model>,
}

const ROOT: Id = 0;

impl Model {
    /// What each snapshot holds, oldest first.
    pub fn snapshots(&self) -> &[Model] {
        &self.snapshots
    }

    /// Takes over the tree at `dir`, hard links and all.
    pub fn of(dir: &Path) -> Self {
        let mut model = Model {
            nodes: BTreeMap::new(),
            next: ROOT,
            slots: [None; SLOTS],
            snapshots: Vec::new(),
        };
        let mut links = BTreeMap::new();
        model.adopt(dir, &mut links);
        model
    }

    /// A tree of the same root with nothing in it.
    pub fn emptied(&self) -> Self {
        let root = Node {
            body: Body::Dir(BTreeMap::new()),
            mtime: None,
            ..self.nodes[&ROOT].clone()
        };
        Model {
            nodes: BTreeMap::from([(ROOT, root)]),
            next: ROOT + 1,
            slots: [None; SLOTS],
            snapshots: Vec::new(),
        }
    }

    fn adopt(&mut self, path: &Path, links: &mut BTreeMap<u64, Id>) -> Id {
        let facts = manifest::facts(path).expect("facts of a base file");
        if let Some(id) = links.get(&facts.ino) {
            self.node_mut(*id).nlink += 1;
            return *id;
        }
        let id = self.next;
        self.next += 1;
        links.insert(facts.ino, id);
        let meta = path.symlink_metadata().expect("stat");
        let mut node = Node {
            body: Body::Fifo,
            perm: facts.mode & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            nlink: 1,
            mtime: Some((
                facts.mtime.0,
                u32::try_from(facts.mtime.1).expect("nanoseconds"),
            )),
            xattrs: facts.xattrs,
        };
        node.body = match facts.mode & 0o170_000 {
            0o100_000 => Body::File(std::fs::read(path).expect("read")),
            0o120_000 => Body::Symlink(facts.content),
            0o040_000 => Body::Dir(BTreeMap::new()),
            _ => Body::Fifo,
        };
        let is_dir = matches!(node.body, Body::Dir(_));
        self.nodes.insert(id, node);
        if is_dir {
            for name in manifest::list(path).expect("list") {
                let child = self.adopt(&path.join(&name), links);
                self.entries_mut(id).insert(name.as_bytes().to_vec(), child);
            }
        }
        id
    }

    /// The node called `id`.
    pub fn node(&self, id: Id) -> &Node {
        &self.nodes[&id]
    }

    fn node_mut(&mut self, id: Id) -> &mut Node {
        self.nodes.get_mut(&id).expect("a node of the model")
    }

    fn entries(&self, id: Id) -> &BTreeMap<Vec<u8>, Id> {
        match &self.nodes[&id].body {
            Body::Dir(entries) => entries,
            other => panic!("not a directory: {other:?}"),
        }
    }

    fn entries_mut(&mut self, id: Id) -> &mut BTreeMap<Vec<u8>, Id> {
        match &mut self.node_mut(id).body {
            Body::Dir(entries) => entries,
            other => panic!("not a directory: {other:?}"),
        }
    }

    fn find(&self, path: &[u8]) -> Option<Id> {
        let mut id = ROOT;
        for name in path.split(|b| *b == b'/').filter(|n| !n.is_empty()) {
            let Body::Dir(entries) = &self.nodes[&id].body else {
                return None;
            };
            id = *entries.get(name)?;
        }
        Some(id)
    }

    /// Every path with its node; the root is the empty path.
    pub fn paths(&self) -> BTreeMap<RelPath, Id> {
        let mut all = BTreeMap::new();
        let mut todo = vec![(RelPath::new(), ROOT)];
        while let Some((path, id)) = todo.pop() {
            if let Body::Dir(entries) = &self.nodes[&id].body {
                todo.extend(
                    entries
                        .iter()
                        .map(|(name, child)| (join(&path, name), *child)),
                );
            }
            all.insert(path, id);
        }
        all
    }

    /// What operations can be resolved against.
    pub fn listing(&self) -> Listing {
        let mut paths = self.paths();
        paths.remove(&RelPath::new());
        paths
            .into_iter()
            .map(|(path, id)| {
                let kind = match self.nodes[&id].body {
                    Body::File(_) => EntryKind::File,
                    Body::Dir(_) => EntryKind::Dir,
                    _ => EntryKind::Other,
                };
                (path, kind)
            })
            .collect()
    }

    /// Does `step`, and says what Linux would.
    pub fn apply(&mut self, step: &Step) -> Outcome {
        let outcome = self.try_apply(step);
        self.sweep();
        outcome
    }

    fn try_apply(&mut self, step: &Step) -> Outcome {
        match step {
            Step::Create { path, perm, slot } => {
                self.slots[*slot] = None;
                let id = self.make(path, *perm, Body::File(Vec::new()))?;
                self.slots[*slot] = Some(Handle {
                    id,
                    read: true,
                    write: true,
                });
            }
            Step::Mkdir { path, perm } => {
                self.make(path, *perm, Body::Dir(BTreeMap::new()))?;
            }
            Step::Fifo { path, perm } => {
                self.make(path, *perm, Body::Fifo)?;
            }
            Step::Symlink { path, target } => {
                self.make(path, 0o777, Body::Symlink(target.clone()))?;
            }
            Step::Link { from, to } => self.link(from, to)?,
            Step::Unlink { path } => self.unlink(path)?,
            Step::Rmdir { path } => self.rmdir(path)?,
            Step::Rename { from, to, how } => self.rename(from, to, *how)?,
            Step::Chmod { path, perm } => self.at(path)?.perm = *perm,
            Step::Chown { path, uid, gid } => self.at(path)?.chown(*uid, *gid),
            Step::Utimens { path, time } => self.at(path)?.mtime = Some(*time),
            Step::Truncate { path, size } => self.at(path)?.resize(*size),
            Step::Open { path, access, slot } => {
                self.slots[*slot] = None;
                let id = self.find(path).ok_or(libc::ENOENT)?;
                if *access == Access::Truncate {
                    self.node_mut(id).resize(0);
                }
                self.slots[*slot] = Some(Handle {
                    id,
                    read: *access != Access::Write,
                    write: *access != Access::Read,
                });
            }
            Step::Close { slot } => {
                self.slots[*slot].take().ok_or(libc::EBADF)?;
            }
            Step::Write { slot, offset, data } => {
                let id = self.writable(*slot)?;
                self.node_mut(id).write(*offset, data);
            }
            Step::Read { slot, offset, len } => {
                let handle = self.slots[*slot].filter(|h| h.read).ok_or(libc::EBADF)?;
                return Ok(Answer::Bytes(self.node(handle.id).read(*offset, *len)));
            }
            Step::Ftruncate { slot, size } => {
                let handle = self.slots[*slot].ok_or(libc::EBADF)?;
                if !handle.write {
                    return Err(libc::EINVAL);
                }
                self.node_mut(handle.id).resize(*size);
            }
            Step::Allocate {
                slot,
                how,
                offset,
                len,
            } => {
                let id = self.writable(*slot)?;
                self.node_mut(id).allocate(*how, *offset, *len);
            }
            Step::Sync { slot } => {
                self.slots[*slot].ok_or(libc::EBADF)?;
            }
            Step::SetXattr {
                path,
                name,
                value,
                how,
            } => {
                let node = self.at(path)?;
                let has = node.xattrs.contains_key(name);
                match how {
                    SetHow::Create if has => return Err(libc::EEXIST),
                    SetHow::Replace if !has => return Err(libc::ENODATA),
                    _ => node.xattrs.insert(name.clone(), value.clone()),
                };
            }
            Step::RemoveXattr { path, name } => {
                self.at(path)?.xattrs.remove(name).ok_or(libc::ENODATA)?;
            }
            Step::List { path } => {
                let id = self.find(path).ok_or(libc::ENOENT)?;
                return Ok(Answer::Names(self.entries(id).keys().cloned().collect()));
            }
            Step::DropCaches => {}
            Step::Remount | Step::Crash => self.slots = [None; SLOTS],
            Step::Snapshot => {
                if self.snapshots.len() < MOST_SNAPSHOTS {
                    let mut frozen = self.clone();
                    frozen.snapshots.clear();
                    frozen.slots = [None; SLOTS];
                    self.snapshots.push(frozen);
                }
            }
            Step::Restore { which } => {
                self.slots = [None; SLOTS];
                if !self.snapshots.is_empty() {
                    let snapshots = std::mem::take(&mut self.snapshots);
                    // Ids are never used twice.
                    let next = self.next;
                    *self = snapshots[which % snapshots.len()].clone();
                    (self.next, self.snapshots) = (next, snapshots);
                }
            }
        }
        Ok(Answer::Done)
    }

    fn at(&mut self, path: &[u8]) -> Result<&mut Node, i32> {
        let id = self.find(path).ok_or(libc::ENOENT)?;
        Ok(self.node_mut(id))
    }

    fn writable(&self, slot: usize) -> Result<Id, i32> {
        self.slots[slot]
            .filter(|h| h.write)
            .map(|h| h.id)
            .ok_or(libc::EBADF)
    }

    fn make(&mut self, path: &[u8], perm: u32, body: Body) -> Result<Id, i32> {
        let (dir, name) = split(path);
        let parent = self.find(dir).ok_or(libc::ENOENT)?;
        if self.entries(parent).contains_key(name) {
            return Err(libc::EEXIST);
        }
        let (sgid, gid) = (self.node(parent).perm & 0o2000, self.node(parent).gid);
        let is_dir = matches!(body, Body::Dir(_));
        let id = self.next;
        self.next += 1;
        let node = Node {
            perm: perm | if is_dir { sgid } else { 0 },
            uid: 0,
            gid: if sgid != 0 { gid } else { 0 },
            nlink: 1,
            mtime: None,
            xattrs: BTreeMap::new(),
            body,
        };
        self.nodes.insert(id, node);
        self.enter(parent, name, id);
        Ok(id)
    }

    fn enter(&mut self, parent: Id, name: &[u8], id: Id) {
        self.entries_mut(parent).insert(name.to_vec(), id);
        self.node_mut(parent).mtime = None;
    }

    fn leave(&mut self, parent: Id, name: &[u8]) -> Id {
        self.node_mut(parent).mtime = None;
        self.entries_mut(parent)
            .remove(name)
            .expect("an entry to remove")
    }

    fn is_dir(&self, id: Id) -> bool {
        matches!(self.nodes[&id].body, Body::Dir(_))
    }

    fn link(&mut self, from: &[u8], to: &[u8]) -> Result<(), i32> {
        let id = self.find(from).ok_or(libc::ENOENT)?;
        let (dir, name) = split(to);
        let parent = self.find(dir).ok_or(libc::ENOENT)?;
        if self.entries(parent).contains_key(name) {
            return Err(libc::EEXIST);
        }
        if self.is_dir(id) {
            return Err(libc::EPERM);
        }
        self.node_mut(id).nlink += 1;
        self.enter(parent, name, id);
        Ok(())
    }

    fn unlink(&mut self, path: &[u8]) -> Result<(), i32> {
        let id = self.find(path).ok_or(libc::ENOENT)?;
        if self.is_dir(id) {
            return Err(libc::EISDIR);
        }
        let (dir, name) = split(path);
        let parent = self.find(dir).ok_or(libc::ENOENT)?;
        self.leave(parent, name);
        self.node_mut(id).nlink -= 1;
        Ok(())
    }

    fn rmdir(&mut self, path: &[u8]) -> Result<(), i32> {
        let id = self.find(path).ok_or(libc::ENOENT)?;
        if !self.is_dir(id) {
            return Err(libc::ENOTDIR);
        }
        if !self.entries(id).is_empty() {
            return Err(libc::ENOTEMPTY);
        }
        let (dir, name) = split(path);
        let parent = self.find(dir).ok_or(libc::ENOENT)?;
        self.leave(parent, name);
        self.node_mut(id).nlink = 0;
        Ok(())
    }

    fn rename(&mut self, from: &[u8], to: &[u8], how: How) -> Result<(), i32> {
        let source = self.find(from).ok_or(libc::ENOENT)?;
        let (from_dir, from_name) = split(from);
        let (to_dir, to_name) = split(to);
        let from_parent = self.find(from_dir).ok_or(libc::ENOENT)?;
        let to_parent = self.find(to_dir).ok_or(libc::ENOENT)?;
        let target = self.entries(to_parent).get(to_name).copied();
        match (how, target) {
            (How::NoReplace, Some(_)) => return Err(libc::EEXIST),
            (How::Exchange, None) => return Err(libc::ENOENT),
            _ => {}
        }
        if is_below(to, from) {
            return Err(libc::EINVAL);
        }
        if is_below(from, to) {
            return Err(if how == How::Exchange {
                libc::EINVAL
            } else {
                libc::ENOTEMPTY
            });
        }
        if target == Some(source) {
            return Ok(());
        }
        if how == How::Exchange {
            self.leave(from_parent, from_name);
            let other = self.leave(to_parent, to_name);
            self.enter(from_parent, from_name, other);
            self.enter(to_parent, to_name, source);
            return Ok(());
        }
        if let Some(target) = target {
            match (self.is_dir(source), self.is_dir(target)) {
                (true, false) => return Err(libc::ENOTDIR),
                (false, true) => return Err(libc::EISDIR),
                (true, true) if !self.entries(target).is_empty() => return Err(libc::ENOTEMPTY),
                _ => {}
            }
            self.leave(to_parent, to_name);
            self.node_mut(target).nlink -= 1;
        }
        self.leave(from_parent, from_name);
        self.enter(to_parent, to_name, source);
        Ok(())
    }

    /// The first way in which this tree is not the `wanted` one, or nothing.
    pub fn difference(&self, wanted: &Model) -> Option<String> {
        self.first_difference(wanted, true)
    }

    /// [`Model::difference`], whoever owns the files.
    pub fn difference_but_owners(&self, wanted: &Model) -> Option<String> {
        self.first_difference(wanted, false)
    }

    fn first_difference(&self, wanted: &Model, owners: bool) -> Option<String> {
        let (is, wanted_paths) = (self.paths(), wanted.paths());
        // Hard links: the same names must lead to the same node.
        let mut partner = BTreeMap::new();
        for (path, id) in &wanted_paths {
            let show = path.escape_ascii();
            let Some(found) = is.get(path) else {
                return Some(format!("{show} is missing"));
            };
            if let Some(why) = self.node(*found).difference(wanted.node(*id), owners) {
                return Some(format!("{show}: {why}"));
            }
            if *partner.entry(*id).or_insert(*found) != *found {
                return Some(format!("{show} is not the hard link it should be"));
            }
        }
        let new = is.keys().find(|path| !wanted_paths.contains_key(*path));
        new.map(|path| format!("{} should not be there", path.escape_ascii()))
    }

    /// Forgets nodes that no name and no open file leads to.
    fn sweep(&mut self) {
        let open: Vec<Id> = self.slots.iter().flatten().map(|h| h.id).collect();
        self.nodes
            .retain(|id, node| *id == ROOT || node.nlink > 0 || open.contains(id));
    }
}

fn is_below(path: &[u8], dir: &[u8]) -> bool {
    path.len() > dir.len() && path.starts_with(dir) && path[dir.len()] == b'/'
}

impl Node {
    /// Why this is not the `wanted` node, entries of a directory aside; nothing when it is.
    pub fn difference(&self, wanted: &Node, owners: bool) -> Option<String> {
        let mut why = Vec::new();
        let mut fact = |name: &str, wanted: String, is: String| {
            if wanted != is {
                why.push(format!("{name} should be {wanted}, is {is}"));
            }
        };
        fact("kind", wanted.kind().to_owned(), self.kind().to_owned());
        fact(
            "mode",
            format!("{:o}", wanted.perm),
            format!("{:o}", self.perm),
        );
        if owners {
            let owner = |node: &Node| format!("{}:{}", node.uid, node.gid);
            fact("owner", owner(wanted), owner(self));
        }
        if !matches!(wanted.body, Body::Dir(_)) {
            fact("nlink", wanted.nlink.to_string(), self.nlink.to_string());
        }
        if wanted.mtime.is_some() {
            fact(
                "mtime",
                format!("{:?}", wanted.mtime),
                format!("{:?}", self.mtime),
            );
        }
        fact(
            "xattrs",
            format!("{:?}", wanted.xattrs),
            format!("{:?}", self.xattrs),
        );
        match (&wanted.body, &self.body) {
            (Body::File(wanted), Body::File(is)) if wanted != is => {
                let at = wanted.iter().zip(is).position(|(a, b)| a != b);
                let (wanted, is) = (wanted.len(), is.len());
                why.push(format!(
                    "should have {wanted} bytes, has {is}, they differ at {at:?}"
                ));
            }
            (Body::Symlink(wanted), Body::Symlink(is)) if wanted != is => {
                let (wanted, is) = (wanted.escape_ascii(), is.escape_ascii());
                why.push(format!("should lead to {wanted}, leads to {is}"));
            }
            _ => {}
        }
        (!why.is_empty()).then(|| why.join("; "))
    }

    fn kind(&self) -> &'static str {
        match self.body {
            Body::File(_) => "a file",
            Body::Dir(_) => "a directory",
            Body::Symlink(_) => "a symlink",
            Body::Fifo => "a fifo",
        }
    }

    fn bytes(&mut self) -> &mut Vec<u8> {
        match &mut self.body {
            Body::File(bytes) => bytes,
            other => panic!("not a regular file: {other:?}"),
        }
    }

    fn chown(&mut self, uid: u32, gid: u32) {
        (self.uid, self.gid) = (uid, gid);
        if !matches!(self.body, Body::Dir(_) | Body::Symlink(_)) {
            self.drop_privileges();
        }
    }

    fn drop_privileges(&mut self) {
        self.perm &= !0o4000;
        if self.perm & 0o010 != 0 {
            self.perm &= !0o2000;
        }
    }

    fn resize(&mut self, size: u64) {
        self.mtime = None;
        self.drop_privileges();
        self.bytes().resize(usize::try_from(size).expect("size"), 0);
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        self.mtime = None;
        self.drop_privileges();
        let start = usize::try_from(offset).expect("offset");
        let bytes = self.bytes();
        if bytes.len() < start + data.len() {
            bytes.resize(start + data.len(), 0);
        }
        bytes[start..start + data.len()].copy_from_slice(data);
    }

    fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let Body::File(bytes) = &self.body else {
            panic!("not a regular file")
        };
        let start = usize::try_from(offset).expect("offset").min(bytes.len());
        bytes[start..bytes.len().min(start + len)].to_vec()
    }

    fn allocate(&mut self, how: Allocate, offset: u64, len: u64) {
        self.mtime = None;
        self.drop_privileges();
        let start = usize::try_from(offset).expect("offset");
        let end = start + usize::try_from(len).expect("length");
        let bytes = self.bytes();
        match how {
            Allocate::KeepSize => {}
            Allocate::Extend => {
                let size = bytes.len().max(end);
                bytes.resize(size, 0);
            }
            Allocate::Punch => {
                let size = bytes.len();
                bytes[start.min(size)..end.min(size)].fill(0);
            }
        }
    }
}
