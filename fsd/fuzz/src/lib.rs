//! What the fuzz targets share: a store in memory, changes made of an input's bytes, damage done to a
//! file, and a look at all that can be read afterwards.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agentfs_fsd::backstore::media::Media;
use agentfs_fsd::backstore::mem::{Crash, MemMedia};
use agentfs_fsd::backstore::{LiveBranch, NewBranch, Records, Store, StoreError};
use agentfs_fsd::core::record::{
    Content, Delta, Dentry, ExtentMap, ExtentSource, Fingerprint, InodeRec, Origin,
};
use agentfs_fsd::core::types::{BranchName, Ino, Kind, Name, Time};

/// An input, taken piece by piece; zeros where it has ended.
#[derive(Debug)]
pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// The next two bytes as a number.
    pub fn short(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// The next eight bytes as a number.
    pub fn long(&mut self) -> u64 {
        let mut out = [0; 8];
        out.iter_mut().for_each(|byte| *byte = self.byte());
        u64::from_le_bytes(out)
    }

    /// Up to `len` bytes.
    pub fn take(&mut self, len: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        head
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// All that a branch says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dump {
    inodes: BTreeMap<Ino, Arc<InodeRec>>,
    names: BTreeMap<(Ino, Name), Dentry>,
    extents: BTreeMap<Ino, Arc<ExtentMap>>,
    devices: Vec<(u16, u64)>,
}

/// Reads all that a branch says, by walks and by lookups, which must agree.
pub fn dump(records: &dyn Records) -> Result<Dump, StoreError> {
    let mut out = Dump::default();
    records.each_inode(&mut |ino, rec| {
        out.inodes.insert(ino, rec.clone());
        Ok(())
    })?;
    records.each_dentry(&mut |parent, name, dentry| {
        out.names.insert((parent, name.clone()), dentry);
        Ok(())
    })?;
    for (ino, rec) in &out.inodes {
        assert_eq!(records.inode(*ino)?.as_ref(), Some(rec));
        out.extents.insert(*ino, records.extents(*ino)?);
    }
    for ((parent, name), dentry) in &out.names {
        assert_eq!(records.dentry(*parent, name)?, Some(*dentry));
    }
    out.devices = records.devices();
    Ok(out)
}

/// The branch of every store here.
pub fn branch() -> BranchName {
    BranchName::new("b").unwrap_or_else(|e| unreachable!("a good name: {e}"))
}

/// A store in memory.
pub fn on(mem: &MemMedia) -> Result<Store, StoreError> {
    let media: Arc<dyn Media> = Arc::new(mem.clone());
    let store = Store::on_media(media, Path::new("/mem"), true)?;
    Ok(store.unwrap_or_else(|| unreachable!("made if it is not there")))
}

/// A store with one branch, in which nothing can go wrong.
pub fn fresh() -> (MemMedia, Store) {
    let mem = MemMedia::new();
    let made = on(&mem).and_then(|store| {
        let workspace = PathBuf::from("/w");
        store.create_branch(&branch(), None, NewBranch { workspace })?;
        Ok(store)
    });
    (mem, made.unwrap_or_else(|e| unreachable!("{e}")))
}

/// The file of the branch's own layer whose name begins so, and what is in it.
pub fn layer_file(mem: &MemMedia, store: &Store, begin: &str) -> (PathBuf, Vec<u8>) {
    let info = store
        .branch(&branch())
        .unwrap_or_else(|e| unreachable!("{e}"));
    let top = info.layers.last().map_or(0, |id| id.0);
    let prefix = format!("layers/{top:016x}/{begin}");
    let files = mem.files();
    let path = files
        .into_iter()
        .find(|path| path.to_string_lossy().starts_with(&prefix));
    let path = path.unwrap_or_else(|| unreachable!("no {prefix}"));
    let bytes = mem
        .file_bytes(&path)
        .unwrap_or_else(|e| unreachable!("{e}"));
    (path, bytes)
}

/// Puts `bytes` in place of a file.
pub fn put(mem: &MemMedia, path: &Path, bytes: &[u8]) {
    let put = mem.set_file_bytes(path, bytes);
    put.unwrap_or_else(|e| unreachable!("{e}"));
}

const NAMES: [&[u8]; 6] = [b"a", b"file", b"dir", b"\xff\xfe", b".git", &[b'x'; 255]];

fn time(input: &mut Bytes<'_>) -> Time {
    let (sec, nsec) = (input.byte(), input.byte());
    Time {
        sec: i64::from(sec) - 100,
        nsec: u32::from(nsec) * 3_000_000,
    }
}

fn record(input: &mut Bytes<'_>, live: &mut LiveBranch) -> InodeRec {
    let flags = input.byte();
    let has = |bit: u8| flags & (1 << bit) != 0;
    let kind = [Kind::File, Kind::Dir, Kind::Symlink, Kind::Fifo][usize::from(input.byte() % 4)];
    let mut rec = InodeRec {
        kind,
        perm: u32::from(input.short()) & 0o7777,
        uid: u32::from(input.byte()),
        gid: 100,
        rdev: 0,
        nlink: 1,
        size: u64::from(input.short()),
        blocks: None,
        atime: time(input),
        mtime: time(input),
        ctime: time(input),
        btime: time(input),
        object_mtime: has(0).then(|| time(input)),
        dirty: has(1) && kind == Kind::File,
        generation: 0,
        origin: None,
        content: Content::Empty,
        symlink: (kind == Kind::Symlink).then(|| input.take(9).into()),
        xattrs: BTreeMap::new(),
    };
    if has(2) {
        rec.origin = Some(Box::new(Origin {
            path: [b"/base/", NAMES[usize::from(input.byte() % 3)]]
                .concat()
                .into(),
            fingerprint: Fingerprint {
                dev: 1,
                ino: input.long(),
                size: 7,
                mtime: rec.mtime,
                ctime: rec.ctime,
                btime: rec.btime,
            },
        }));
    }
    if has(3) {
        let value = input.take(20).into();
        rec.xattrs.insert(b"user.a".to_vec().into(), value);
    }
    if has(4) && kind == Kind::File {
        if let Ok((id, _)) = live.new_object() {
            rec.content = match has(5) {
                true => Content::Object(id),
                false => Content::Extents {
                    own: id,
                    base_bytes: 0,
                },
            };
            rec.blocks = has(6).then_some(3);
        }
    }
    rec
}

fn delta(input: &mut Bytes<'_>, live: &mut LiveBranch) -> Option<Delta> {
    let ino = Ino(u64::from(input.byte() % 16) + 1);
    let name = || Name::new(NAMES[usize::from(ino.0 as u8) % NAMES.len()]).ok();
    Some(match input.byte() % 8 {
        0..=2 => Delta::PutInode(ino, Arc::new(record(input, live))),
        3 => Delta::DelInode(ino),
        4 => {
            let to = Ino(u64::from(input.byte()) + 1);
            let dentry = match input.byte() % 3 {
                0 => Dentry::Whiteout,
                _ => Dentry::Present {
                    ino: to,
                    kind: Kind::File,
                },
            };
            Delta::PutDentry(Ino(u64::from(input.byte() % 4) + 1), name()?, dentry)
        }
        5 => Delta::DelDentry(Ino(u64::from(input.byte() % 4) + 1), name()?),
        6 => {
            let (at, len) = (u64::from(input.short()), u64::from(input.byte()) + 1);
            Delta::PutExtent(ino, at, len, ExtentSource::Zero)
        }
        _ => Delta::PutDevice {
            index: u16::from(input.byte() % 4),
            dev: input.long(),
        },
    })
}

/// Commits what the input says, up to `most` frames; what the branch says before the first and
/// after each of them.
pub fn commits(input: &mut Bytes<'_>, live: &mut LiveBranch, most: usize) -> Vec<Dump> {
    let now = |live: &LiveBranch| dump(live).unwrap_or_else(|e| unreachable!("{e}"));
    let mut states = vec![now(live)];
    while states.len() <= most && !input.is_empty() {
        let count = input.byte() % 4 + 1;
        let deltas: Vec<Delta> = (0..count).filter_map(|_| delta(input, live)).collect();
        // What makes no sense is refused, and changes nothing.
        if live.commit(deltas).is_ok() {
            states.push(now(live));
        }
    }
    states
}

/// Does to `bytes` what the rest of the input says: flips, zeros, cuts.
pub fn damage(input: &mut Bytes<'_>, bytes: &mut Vec<u8>) {
    for _ in 0..=input.byte() % 4 {
        if bytes.is_empty() || input.is_empty() {
            return;
        }
        let at = (usize::from(input.short()) << 3 | usize::from(input.byte() % 8)) % bytes.len();
        match input.byte() {
            0 => bytes.truncate(at),
            1 => {
                let end = bytes.len().min(at + 512);
                bytes[at..end].fill(0);
            }
            2 => bytes.extend_from_slice(input.take(40)),
            with => bytes[at] ^= with,
        }
    }
}

/// Everything that looks at or mends a store: none of it may panic, whatever it says. A repair that
/// says it is through leaves a branch that opens.
pub fn look_at_all(mem: &MemMedia) {
    let Ok(store) = Store::on_media(Arc::new(mem.clone()), Path::new("/mem"), false) else {
        return repair(mem);
    };
    let Some(store) = store else {
        return repair(mem);
    };
    let _ = store.list();
    let _ = store.last_run(&branch());
    let _ = store.losses(&branch());
    let _ = store.hidden(&branch());
    if let Ok(reader) = store.read(&branch()) {
        let _ = dump(&reader);
    }
    let _ = store.check(&[], &mut |_, _, _| {});
    repair(mem);
}

fn repair(mem: &MemMedia) {
    // The original stays as it is.
    let copy = mem.crash(Crash::Process);
    let Ok(store) = on(&copy) else { return };
    let Ok(report) = store.repair(&[], None, &mut |_, _, _| {}) else {
        return;
    };
    if report.is_clean() && store.branch(&branch()).is_ok() {
        let live = store.open_live(&branch());
        let live = live.unwrap_or_else(|e| panic!("a repaired branch does not open: {e}"));
        dump(&live).unwrap_or_else(|e| panic!("a repaired branch cannot be read: {e}"));
    }
}
