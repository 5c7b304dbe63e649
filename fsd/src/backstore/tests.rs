//! The store as a whole: against a model, over crashes, damaged, shared, and beside a writer.

mod branches;
mod counted;
mod crash;
mod damage;
mod full;
mod gc;
mod live;
mod model;
mod snapshots;
mod spares;
mod stacks;
mod sweeps;
mod synced;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::media::Media;
use super::mem::MemMedia;
use super::{BranchInfo, NewBranch, Records, Store, StoreError};
use crate::core::record::{Content, Delta, Dentry, InodeRec};
use crate::core::types::{BranchName, Ino, Kind, Name, Time};

/// All that a branch records, but extents.
type Dump = (BTreeMap<Ino, Arc<InodeRec>>, BTreeMap<(Ino, Name), Dentry>);

fn dump(records: &dyn Records) -> Dump {
    let mut out = Dump::default();
    records
        .each_inode(&mut |ino, rec| {
            assert!(out.0.insert(ino, rec.clone()).is_none(), "{ino:?} twice");
            Ok(())
        })
        .unwrap();
    records
        .each_dentry(&mut |parent, name, dentry| {
            assert!(out.1.insert((parent, name.clone()), dentry).is_none());
            Ok(())
        })
        .unwrap();
    out
}

fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

fn branch(text: &str) -> BranchName {
    BranchName::new(text).unwrap()
}

fn store_on(media: Arc<dyn Media>) -> Store {
    Store::on_media(media, Path::new("/mem"), true)
        .unwrap()
        .unwrap()
}

fn new_store() -> (MemMedia, Store) {
    let mem = MemMedia::new();
    (mem.clone(), store_on(Arc::new(mem)))
}

fn make(store: &Store, text: &str, from: Option<&str>) -> Result<BranchInfo, StoreError> {
    let from = from.map(|point| point.parse().unwrap());
    store.create_branch(
        &branch(text),
        from.as_ref(),
        NewBranch {
            workspace: "/w".into(),
        },
    )
}

fn record(size: u64) -> Arc<InodeRec> {
    record_with(size, Content::Empty)
}

fn record_with(size: u64, content: Content) -> Arc<InodeRec> {
    let time = Time {
        sec: size as i64,
        nsec: 1,
    };
    Arc::new(InodeRec {
        kind: Kind::File,
        perm: 0o644,
        uid: 1000,
        gid: 1000,
        rdev: 0,
        nlink: 1,
        size,
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
        object_mtime: None,
        blocks: None,
        dirty: false,
        generation: 0,
        origin: None,
        content,
        symlink: None,
        xattrs: BTreeMap::new(),
    })
}

/// A new file, as a core would record it.
fn file(parent: Ino, text: &str, ino: Ino, size: u64) -> Vec<Delta> {
    vec![
        Delta::PutInode(ino, record(size)),
        Delta::PutDentry(
            parent,
            name(text),
            Dentry::Present {
                ino,
                kind: Kind::File,
            },
        ),
    ]
}
