//! A branch in memory, kept by the rules of records, over a real base directory: enough of a
//! copy-on-write core to make any set of changes, and a view of it that knows nothing of reviews.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::backstore::{
    CopySource, EachDentry, EachInode, ObjectFile, ObjectStat, Records, SeekFor, StoreError,
};
use crate::core::number;
use crate::core::record::*;
use crate::core::types::*;

/// One object of a tree, as anyone sees it: kind, mode, bytes or target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub kind: Kind,
    pub perm: u32,
    pub bytes: Vec<u8>,
}

pub type Tree = BTreeMap<Vec<u8>, Seen>;

/// The branch.
#[derive(Clone, Debug)]
pub struct Model {
    pub root: PathBuf,
    pub inodes: BTreeMap<Ino, Arc<InodeRec>>,
    pub dentries: BTreeMap<(Ino, Name), Dentry>,
    pub extents: BTreeMap<Ino, Arc<ExtentMap>>,
    pub objects: BTreeMap<u64, Vec<u8>>,
    next: u64,
}

fn time(sec: i64, nsec: i64) -> Time {
    Time {
        sec,
        nsec: nsec as u32,
    }
}

const LAYER: LayerId = LayerId(7);

impl Model {
    pub fn new(root: &Path) -> Self {
        Model {
            root: root.to_path_buf(),
            inodes: BTreeMap::new(),
            dentries: BTreeMap::new(),
            extents: BTreeMap::new(),
            objects: BTreeMap::new(),
            next: 0,
        }
    }

    /// A branch of this one; its objects from now on have numbers from `first`.
    pub fn branch(&self, first: u64) -> Self {
        Model {
            next: first,
            ..self.clone()
        }
    }

    fn host(&self, path: &[u8]) -> PathBuf {
        let relative = path.strip_prefix(b"/").unwrap_or(path);
        self.root.join(std::ffi::OsStr::from_bytes(relative))
    }

    fn base_at(&self, path: &[u8]) -> Option<fs::Metadata> {
        fs::symlink_metadata(self.host(path)).ok()
    }

    fn record_of_base(&self, path: &[u8]) -> Option<(Ino, InodeRec)> {
        let meta = self.base_at(path)?;
        let kind = Kind::from_mode(meta.mode())?;
        let ino = if path == b"/" {
            Ino::ROOT
        } else {
            Ino(meta.ino())
        };
        let fingerprint = Fingerprint {
            dev: meta.dev(),
            ino: meta.ino(),
            size: meta.size(),
            mtime: time(meta.mtime(), meta.mtime_nsec()),
            ctime: time(meta.ctime(), meta.ctime_nsec()),
            btime: meta.created().map_or(Time::default(), |at| {
                let since = at.duration_since(std::time::UNIX_EPOCH).unwrap();
                time(since.as_secs() as i64, i64::from(since.subsec_nanos()))
            }),
        };
        let mut record = blank(kind, meta.mode() & 0o7777);
        record.nlink = meta.nlink() as u32;
        record.size = meta.size();
        (record.uid, record.gid) = (meta.uid(), meta.gid());
        record.origin = Some(Box::new(Origin {
            path: path.into(),
            fingerprint,
        }));
        if kind == Kind::File {
            record.content = Content::Base;
        }
        if kind == Kind::Symlink {
            let target = fs::read_link(self.host(path)).unwrap();
            record.symlink = Some(target.as_os_str().as_bytes().into());
        }
        Some((ino, record))
    }

    /// The number that `name` leads to in `dir`, recorded if it was not yet.
    fn child(&mut self, dir: Ino, name: &Name) -> Option<Ino> {
        match self.dentries.get(&(dir, name.clone())) {
            Some(Dentry::Present { ino, .. }) => return Some(*ino),
            Some(Dentry::Whiteout) => return None,
            None => {}
        }
        let origin = self.inodes[&dir].origin.clone()?;
        let (ino, record) =
            self.record_of_base(&super::super::join(&origin.path, name.as_bytes()))?;
        let kind = record.kind;
        self.inodes.entry(ino).or_insert_with(|| Arc::new(record));
        self.dentries
            .insert((dir, name.clone()), Dentry::Present { ino, kind });
        Some(ino)
    }

    /// The directory and name of `path`, its ancestors recorded; `None` if one is missing.
    fn pin_parent(&mut self, path: &[u8]) -> Option<(Ino, Name)> {
        if !self.inodes.contains_key(&Ino::ROOT) {
            let (ino, record) = self.record_of_base(b"/")?;
            self.inodes.insert(ino, Arc::new(record));
        }
        let mut parts: Vec<Name> = path[1..]
            .split(|b| *b == b'/')
            .map(|part| Name::new(part).unwrap())
            .collect();
        let last = parts.pop()?;
        let mut at = Ino::ROOT;
        for part in parts {
            at = self.child(at, &part)?;
            if self.inodes[&at].kind != Kind::Dir {
                return None;
            }
        }
        Some((at, last))
    }

    fn pin(&mut self, path: &[u8]) -> Option<Ino> {
        let (dir, name) = self.pin_parent(path)?;
        self.child(dir, &name)
    }

    fn change(&mut self, ino: Ino, edit: impl FnOnce(&mut InodeRec)) {
        let mut record = (*self.inodes[&ino]).clone();
        edit(&mut record);
        self.inodes.insert(ino, Arc::new(record));
    }

    fn new_object(&mut self, bytes: &[u8]) -> ObjectId {
        self.next += 1;
        self.objects.insert(self.next, bytes.to_vec());
        ObjectId {
            layer: LAYER,
            number: self.next,
        }
    }

    fn make(&mut self, path: &[u8], record: InodeRec) -> Option<Ino> {
        let (dir, name) = self.pin_parent(path)?;
        if self.child(dir, &name).is_some() {
            return None;
        }
        self.next += 1;
        let (ino, kind) = (Ino(Ino::FIRST_NEW.0 + self.next), record.kind);
        self.inodes.insert(ino, Arc::new(record));
        self.dentries
            .insert((dir, name), Dentry::Present { ino, kind });
        Some(ino)
    }

    /// Writes a whole file, new or not.
    pub fn write(&mut self, path: &[u8], bytes: &[u8]) {
        let ino = match self.pin(path) {
            Some(ino) if self.inodes[&ino].kind != Kind::File => return,
            Some(ino) => ino,
            None => match self.make(path, blank(Kind::File, 0o644)) {
                Some(ino) => ino,
                None => return,
            },
        };
        let id = self.new_object(bytes);
        self.extents.remove(&ino);
        self.change(ino, |record| {
            record.content = Content::Object(id);
            // Stale while dirty: the object knows.
            record.size = 0;
            record.dirty = true;
        });
    }

    /// Overwrites some bytes of a base file by way of an extent map.
    pub fn overwrite(&mut self, path: &[u8], at: u64, bytes: &[u8]) {
        let Some(ino) = self.pin(path) else { return };
        let record = self.inodes[&ino].clone();
        if record.content != Content::Base || bytes.is_empty() {
            return;
        }
        let mut own = vec![0; at as usize];
        own.extend_from_slice(bytes);
        let id = self.new_object(&own);
        let map = ExtentMap::from([(at, (bytes.len() as u64, ExtentSource::Object(id)))]);
        self.extents.insert(ino, Arc::new(map));
        self.change(ino, |record| {
            record.content = Content::Extents {
                own: id,
                base_bytes: record.size,
            };
            record.size = record.size.max(at + bytes.len() as u64);
        });
    }

    pub fn mkdir(&mut self, path: &[u8]) {
        self.make(path, blank(Kind::Dir, 0o755));
    }

    pub fn fifo(&mut self, path: &[u8]) {
        self.make(path, blank(Kind::Fifo, 0o644));
    }

    pub fn symlink(&mut self, path: &[u8], target: &[u8]) {
        let mut record = blank(Kind::Symlink, 0o777);
        record.symlink = Some(target.into());
        self.make(path, record);
    }

    pub fn chmod(&mut self, path: &[u8], perm: u32) {
        if let Some(ino) = self.pin(path)
            && self.inodes[&ino].kind != Kind::Symlink
        {
            self.change(ino, |record| record.perm = perm);
        }
    }

    pub fn link(&mut self, path: &[u8], to: &[u8]) {
        let Some(ino) = self.pin(path) else { return };
        let kind = self.inodes[&ino].kind;
        let Some((dir, name)) = self.pin_parent(to) else {
            return;
        };
        if kind == Kind::Dir || self.child(dir, &name).is_some() {
            return;
        }
        self.dentries
            .insert((dir, name), Dentry::Present { ino, kind });
        self.change(ino, |record| record.nlink += 1);
    }

    fn drop_name(&mut self, dir: Ino, name: &Name) {
        let origin = self.inodes[&dir].origin.clone();
        let below = origin.is_some_and(|origin| {
            self.base_at(&super::super::join(&origin.path, name.as_bytes()))
                .is_some()
        });
        if below {
            self.dentries.insert((dir, name.clone()), Dentry::Whiteout);
        } else {
            self.dentries.remove(&(dir, name.clone()));
        }
    }

    fn children(&self, dir: Ino) -> Vec<Name> {
        let mut names: BTreeMap<Name, bool> = BTreeMap::new();
        if let Some(origin) = &self.inodes[&dir].origin
            && let Ok(list) = fs::read_dir(self.host(&origin.path))
        {
            names.extend(
                list.map(|e| (Name::new(e.unwrap().file_name().as_bytes()).unwrap(), true)),
            );
        }
        for ((parent, name), dentry) in &self.dentries {
            if *parent == dir {
                names.insert(name.clone(), *dentry != Dentry::Whiteout);
            }
        }
        names
            .into_iter()
            .filter(|(_, present)| *present)
            .map(|(name, _)| name)
            .collect()
    }

    /// rm -rf.
    pub fn remove(&mut self, path: &[u8]) {
        let Some((dir, name)) = self.pin_parent(path) else {
            return;
        };
        let Some(ino) = self.child(dir, &name) else {
            return;
        };
        if self.inodes[&ino].kind == Kind::Dir {
            for child in self.children(ino) {
                self.remove(&super::super::join(path, child.as_bytes()));
            }
        }
        self.drop_name(dir, &name);
        let record = self.inodes[&ino].clone();
        if record.kind == Kind::Dir || record.nlink == 1 {
            self.inodes.remove(&ino);
            self.dentries.retain(|(parent, _), _| *parent != ino);
        } else {
            self.change(ino, |record| record.nlink -= 1);
        }
    }

    pub fn rename(&mut self, from: &[u8], to: &[u8]) {
        let inside =
            super::super::is_at_or_below(to, from) || super::super::is_at_or_below(from, to);
        if inside || self.pin_parent(to).is_none() {
            return;
        }
        let Some((dir, name)) = self.pin_parent(from) else {
            return;
        };
        let Some(ino) = self.child(dir, &name) else {
            return;
        };
        self.remove(to);
        let kind = self.inodes[&ino].kind;
        self.drop_name(dir, &name);
        let (new_dir, new_name) = self.pin_parent(to).unwrap();
        self.dentries
            .insert((new_dir, new_name), Dentry::Present { ino, kind });
    }

    fn bytes_of(&self, ino: Ino, record: &InodeRec) -> Vec<u8> {
        let base = || fs::read(self.host(&record.origin.as_ref().unwrap().path)).unwrap();
        match (&record.symlink, &record.content) {
            (Some(target), _) => target.to_vec(),
            (None, Content::Empty) => Vec::new(),
            (None, Content::Base) => base(),
            (None, Content::Object(id)) => self.objects[&id.number].clone(),
            (None, Content::Extents { .. }) => {
                let mut bytes = base();
                bytes.resize(record.size as usize, 0);
                for (at, (len, source)) in self.extents[&ino].iter() {
                    let ExtentSource::Object(id) = source else {
                        unreachable!()
                    };
                    let range = *at as usize..(at + len) as usize;
                    bytes[range.clone()].copy_from_slice(&self.objects[&id.number][range]);
                }
                bytes
            }
        }
    }

    /// Everything below the root, as the branch shows it.
    pub fn view(&self) -> Tree {
        let mut tree = Tree::new();
        match self.inodes.contains_key(&Ino::ROOT) {
            true => self.view_dir(b"/", Ino::ROOT, &mut tree),
            false => base_tree(&self.root, b"/", b"/", &mut tree),
        }
        tree
    }

    fn view_dir(&self, path: &[u8], dir: Ino, tree: &mut Tree) {
        for name in self.children(dir) {
            let at = super::super::join(path, name.as_bytes());
            let Some(Dentry::Present { ino, .. }) = self.dentries.get(&(dir, name.clone())) else {
                let origin = self.inodes[&dir].origin.clone().unwrap();
                let below = super::super::join(&origin.path, name.as_bytes());
                self.view_base(&below, &at, tree);
                continue;
            };
            self.see(&at, *ino, tree);
            if self.inodes[ino].kind == Kind::Dir {
                self.view_dir(&at, *ino, tree);
            }
        }
    }

    /// What lies at host path `below`, seen at `at`, with no dentry of the branch on the way.
    fn view_base(&self, below: &[u8], at: &[u8], tree: &mut Tree) {
        let mut plain = Tree::new();
        base_tree(&self.root, below, at, &mut plain);
        for (path, seen) in plain {
            let host = [below, &path[at.len()..]].concat();
            // Another name of an inode that has a record.
            let number = self.base_at(&host).map(|meta| Ino(meta.ino()));
            match number.filter(|ino| self.inodes.contains_key(ino)) {
                Some(ino) if seen.kind != Kind::Dir => self.see(&path, ino, tree),
                _ => drop(tree.insert(path, seen)),
            }
        }
    }

    fn see(&self, path: &[u8], ino: Ino, tree: &mut Tree) {
        let record = &self.inodes[&ino];
        let seen = Seen {
            kind: record.kind,
            perm: record.perm,
            bytes: self.bytes_of(ino, record),
        };
        tree.insert(path.to_vec(), seen);
    }
}

/// What lies at host path `path` and below, as seen at `at`; of the root only what is below.
pub fn base_tree(root: &Path, path: &[u8], at: &[u8], tree: &mut Tree) {
    let host = root.join(std::ffi::OsStr::from_bytes(
        path.strip_prefix(b"/").unwrap(),
    ));
    let meta = fs::symlink_metadata(&host).unwrap();
    let kind = Kind::from_mode(meta.mode()).unwrap();
    let bytes = match kind {
        Kind::File => fs::read(&host).unwrap(),
        Kind::Symlink => fs::read_link(&host)
            .unwrap()
            .as_os_str()
            .as_bytes()
            .to_vec(),
        _ => Vec::new(),
    };
    if at != b"/" {
        tree.insert(
            at.to_vec(),
            Seen {
                kind,
                perm: meta.permissions().mode() & 0o7777,
                bytes,
            },
        );
    }
    if kind == Kind::Dir {
        for entry in fs::read_dir(&host).unwrap() {
            let name = entry.unwrap().file_name();
            let join = super::super::join;
            base_tree(
                root,
                &join(path, name.as_bytes()),
                &join(at, name.as_bytes()),
                tree,
            );
        }
    }
}

fn blank(kind: Kind, perm: u32) -> InodeRec {
    InodeRec {
        kind,
        perm,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        rdev: 0,
        nlink: 1,
        size: 0,
        atime: Time::default(),
        mtime: Time::default(),
        ctime: Time::now(),
        btime: Time::now(),
        object_mtime: None,
        blocks: None,
        dirty: false,
        generation: 0,
        origin: None,
        content: Content::Empty,
        symlink: None,
        xattrs: BTreeMap::new(),
    }
}

impl Records for Model {
    fn inode(&self, ino: Ino) -> Result<Option<Arc<InodeRec>>, StoreError> {
        Ok(self.inodes.get(&ino).cloned())
    }
    fn dentry(&self, parent: Ino, name: &Name) -> Result<Option<Dentry>, StoreError> {
        Ok(self.dentries.get(&(parent, name.clone())).copied())
    }
    fn dentries(&self, parent: Ino) -> Result<BTreeMap<Name, Dentry>, StoreError> {
        let of_parent = self.dentries.iter().filter(|((dir, _), _)| *dir == parent);
        Ok(of_parent
            .map(|((_, name), dentry)| (name.clone(), *dentry))
            .collect())
    }
    fn extents(&self, ino: Ino) -> Result<Arc<ExtentMap>, StoreError> {
        Ok(self.extents.get(&ino).cloned().unwrap_or_default())
    }
    fn devices(&self) -> Vec<(u16, u64)> {
        let root = fs::File::open(&self.root);
        let dev = fs::metadata(&self.root).unwrap().dev();
        let key = number::device_key(root.map_err(|_| rustix::io::Errno::IO), dev);
        vec![(0, key)]
    }
    fn each_inode(&self, f: &mut EachInode<'_>) -> Result<(), StoreError> {
        self.inodes
            .iter()
            .try_for_each(|(ino, record)| f(*ino, record))
    }
    fn each_dentry(&self, f: &mut EachDentry<'_>) -> Result<(), StoreError> {
        self.dentries
            .iter()
            .try_for_each(|((dir, name), dentry)| f(*dir, name, *dentry))
    }
    fn open_object(&self, id: ObjectId, _: bool) -> Result<Box<dyn ObjectFile>, StoreError> {
        match self.objects.get(&id.number) {
            Some(bytes) => Ok(Box::new(Object(id, bytes.clone()))),
            None => Err(StoreError::Invalid("no such object")),
        }
    }
}

/// A read-only object.
#[derive(Debug)]
struct Object(ObjectId, Vec<u8>);

impl ObjectFile for Object {
    fn id(&self) -> ObjectId {
        self.0
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<usize, StoreError> {
        let left = self.1.get(offset as usize..).unwrap_or(&[]);
        // Short on purpose: callers must go on.
        let step = left.len().min(buf.len()).min(1000);
        buf[..step].copy_from_slice(&left[..step]);
        Ok(step)
    }
    fn stat(&self) -> Result<ObjectStat, StoreError> {
        Ok(ObjectStat {
            len: self.1.len() as u64,
            blocks: 0,
            mtime: Time::default(),
        })
    }
    fn write_at(&self, _: &[u8], _: u64) -> Result<usize, StoreError> {
        Err(StoreError::Invalid("a review writes nothing"))
    }
    fn set_len(&self, _: u64) -> Result<(), StoreError> {
        Err(StoreError::Invalid("a review writes nothing"))
    }
    fn sync(&self, _: bool) -> Result<(), StoreError> {
        Ok(())
    }
    fn allocate(&self, _: i32, _: u64, _: u64) -> Result<(), StoreError> {
        Err(StoreError::Invalid("a review writes nothing"))
    }
    fn seek(&self, _: SeekFor, _: u64) -> Result<Option<u64>, StoreError> {
        Ok(None)
    }
    fn clone_or_copy_from(&self, _: CopySource<'_>, _: u64, _: u64) -> Result<u64, StoreError> {
        Err(StoreError::Invalid("a review writes nothing"))
    }
    fn as_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }
}
