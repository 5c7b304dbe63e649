//! Each kind of damage is found, named for what it is, and mended; a sound store is clean.

mod faults;
mod files;
mod lost;
mod points;
mod records;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::backstore::media::Media;
use crate::backstore::mem::{Crash, MemMedia};
use crate::backstore::{LiveBranch, NewBranch, Records, StoreError};
use crate::core::record::{
    Content, Delta, Dentry, ExtentMap, ExtentSource, Fingerprint, InodeRec, ObjectId, Origin,
};
use crate::core::types::{Kind, Name, Time};

pub const FIRST: u64 = Ino::FIRST_NEW.0;
pub const DIR: Ino = Ino(FIRST);
pub const SUB: Ino = Ino(FIRST + 1);
pub const FILE: Ino = Ino(FIRST + 2);
pub const TWICE: Ino = Ino(FIRST + 3);
pub const LINK: Ino = Ino(FIRST + 4);
pub const BASE: Ino = Ino(1 << 48 | 5);

pub fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).unwrap()
}

pub fn branch(text: &str) -> BranchName {
    BranchName::new(text).unwrap()
}

pub fn store_on(mem: &MemMedia) -> Store {
    Store::on_media(Arc::new(mem.clone()), Path::new("/mem"), true)
        .unwrap()
        .unwrap()
}

pub fn make(store: &Store, text: &str, from: Option<&str>) {
    let from = from.map(|from| branch(from).into());
    let workspace = "/w".into();
    store
        .create_branch(&branch(text), from.as_ref(), NewBranch { workspace })
        .unwrap();
}

pub fn rec(kind: Kind, nlink: u32, size: u64) -> InodeRec {
    let time = Time { sec: 7, nsec: 1 };
    InodeRec {
        kind,
        perm: 0o644,
        uid: 1000,
        gid: 1000,
        rdev: 0,
        nlink,
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
        content: Content::Empty,
        symlink: None,
        xattrs: BTreeMap::new(),
    }
}

pub fn put(ino: Ino, rec: InodeRec) -> Delta {
    Delta::PutInode(ino, Arc::new(rec))
}

pub fn entry(dir: Ino, text: &str, ino: Ino, kind: Kind) -> Delta {
    Delta::PutDentry(dir, name(text), Dentry::Present { ino, kind })
}

pub fn object(live: &mut LiveBranch, bytes: &[u8]) -> ObjectId {
    let (id, file) = live.new_object().unwrap();
    assert_eq!(file.write_at(bytes, 0).unwrap(), bytes.len());
    id
}

pub fn file_of(id: ObjectId, nlink: u32, size: u64) -> InodeRec {
    InodeRec {
        content: Content::Object(id),
        ..rec(Kind::File, nlink, size)
    }
}

pub fn base_of(own: ObjectId, base_bytes: u64, size: u64) -> InodeRec {
    let zero = Time { sec: 0, nsec: 0 };
    InodeRec {
        content: Content::Extents { own, base_bytes },
        origin: Some(Box::new(Origin {
            path: Arc::from(b"/base".as_slice()),
            fingerprint: Fingerprint {
                dev: 1,
                ino: 5,
                size: base_bytes,
                mtime: zero,
                ctime: zero,
                btime: zero,
            },
        })),
        ..rec(Kind::File, 1, size)
    }
}

/// A small tree of all there is, as the core would record it.
pub fn fill(live: &mut LiveBranch) {
    let (one, two, three) = (
        object(live, b"hello"),
        object(live, b"both"),
        object(live, &[7; 64]),
    );
    for ino in 0..5 {
        assert_eq!(live.alloc_ino(), Ino(FIRST + ino));
    }
    let link = InodeRec {
        symlink: Some(Arc::from(b"f".as_slice())),
        ..rec(Kind::Symlink, 1, 1)
    };
    live.commit(vec![Delta::PutDevice { index: 1, dev: 77 }])
        .unwrap();
    let dir = |nlink| rec(Kind::Dir, nlink, 4096);
    live.commit(vec![
        put(DIR, dir(2)),
        entry(Ino::ROOT, "d", DIR, Kind::Dir),
    ])
    .unwrap();
    live.commit(vec![
        put(DIR, dir(3)),
        put(SUB, dir(2)),
        entry(DIR, "sub", SUB, Kind::Dir),
    ])
    .unwrap();
    live.commit(vec![
        put(FILE, file_of(one, 1, 5)),
        entry(DIR, "f", FILE, Kind::File),
    ])
    .unwrap();
    live.commit(vec![
        put(TWICE, file_of(two, 2, 4)),
        entry(DIR, "g", TWICE, Kind::File),
        entry(SUB, "h", TWICE, Kind::File),
    ])
    .unwrap();
    live.commit(vec![put(LINK, link), entry(DIR, "l", LINK, Kind::Symlink)])
        .unwrap();
    let map: ExtentMap = [(0, (10, ExtentSource::Object(three)))].into();
    live.commit(vec![
        put(BASE, base_of(three, 64, 64)),
        Delta::SetExtents(BASE, Arc::new(map)),
        entry(Ino::ROOT, "base", BASE, Kind::File),
        Delta::PutDentry(Ino::ROOT, name("gone"), Dentry::Whiteout),
    ])
    .unwrap();
}

/// A store with `a`, whose own layer holds the tree in a table and a journal, and `other`.
pub fn prepared() -> (MemMedia, Store) {
    let mem = MemMedia::new();
    let store = store_on(&mem);
    make(&store, "a", None);
    make(&store, "other", None);
    let mut live = store.open_live(&branch("a")).unwrap();
    fill(&mut live);
    live.checkpoint().unwrap();
    let id = object(&mut live, b"late");
    let late = live.alloc_ino();
    live.commit(vec![
        put(late, file_of(id, 1, 4)),
        entry(DIR, "late", late, Kind::File),
    ])
    .unwrap();
    live.commit(vec![Delta::PutDentry(DIR, name("none"), Dentry::Whiteout)])
        .unwrap();
    live.close().unwrap();
    let mut live = store.open_live(&branch("other")).unwrap();
    fill(&mut live);
    live.close().unwrap();
    (mem, store)
}

/// The layer on top of a branch, as a path in the store.
pub fn top(store: &Store, text: &str) -> PathBuf {
    let layers = store.branch(&branch(text)).unwrap().layers;
    crate::backstore::store::layer_dir(*layers.last().unwrap())
}

/// A file of a layer by how its name begins.
pub fn find(mem: &MemMedia, dir: &Path, start: &str) -> PathBuf {
    let found = mem.list(dir).unwrap().into_iter().map(|entry| entry.name);
    dir.join(
        found
            .into_iter()
            .find(|n| n.to_string_lossy().starts_with(start))
            .unwrap(),
    )
}

pub fn look(store: &Store) -> Report {
    store.check(&[], &mut |_, _, _| {}).unwrap()
}

pub fn damage(report: &Report) -> BTreeSet<Code> {
    report
        .left
        .iter()
        .filter(|finding| finding.level == Level::Damage)
        .map(|finding| finding.code)
        .collect()
}

/// Checks that exactly `wanted` is found, that a repair leaves a clean store, and that the branches
/// open then.
#[track_caller]
pub fn found_and_mended(mem: &MemMedia, wanted: &[Code]) -> Report {
    let media = Arc::new(mem.clone());
    let store = Store::for_check(media, Path::new("/mem")).unwrap().unwrap();
    let report = look(&store);
    let wanted: BTreeSet<Code> = wanted.iter().copied().collect();
    assert_eq!(damage(&report), wanted, "{:#?}", report.findings);
    let files = mem.files();
    assert_eq!(look(&store), report, "looking changes nothing");
    assert_eq!(mem.files(), files);
    let report = store.repair(&[], None, &mut |_, _, _| {}).unwrap();
    assert!(report.is_clean(), "{report:#?}");
    assert!(!report.repaired.is_empty());
    for text in ["a", "other"] {
        let live = store.open_live(&branch(text)).unwrap();
        live.close().unwrap();
    }
    let report_after = look(&store);
    assert!(report_after.is_clean(), "{report_after:#?}");
    report
}

#[test]
fn a_sound_store_is_clean_at_every_stage() {
    let (mem, store) = prepared();
    assert_eq!(look(&store).findings, []);
    make(&store, "child", Some("a"));
    assert_eq!(look(&store).findings, []);
    let mut live = store.open_live(&branch("child")).unwrap();
    // A file of a frozen layer is taken over, another one removed.
    let id = object(&mut live, b"HELLO!");
    live.commit(vec![put(FILE, file_of(id, 1, 6))]).unwrap();
    live.commit(vec![
        Delta::DelInode(LINK),
        Delta::PutDentry(DIR, name("l"), Dentry::Whiteout),
    ])
    .unwrap();
    let report = look(&store);
    assert!(report.is_clean(), "{report:#?}");
    let of_child = report.branches.iter().find(|c| c.branch == branch("child"));
    assert!(of_child.unwrap().live);
    assert!(
        report
            .left
            .iter()
            .any(|finding| finding.code == Code::LeftOut)
    );
    live.close().unwrap();
    let report = look(&store);
    assert_eq!(report.findings, []);
    assert!(report.verified_bytes > 10_000);
    let of_child = report.branches.iter().find(|c| c.branch == branch("child"));
    assert_eq!((of_child.unwrap().inodes, of_child.unwrap().names), (6, 10));
    // An unlinked file that is still open when the daemon is killed.
    let mut live = store.open_live(&branch("child")).unwrap();
    live.commit(vec![
        Delta::DelInode(FILE),
        Delta::Orphan(id),
        Delta::PutDentry(DIR, name("f"), Dentry::Whiteout),
    ])
    .unwrap();
    drop(live);
    let report = look(&store_on(&mem.crash(Crash::Process)));
    assert!(report.is_clean(), "{report:#?}");
    assert_eq!(report.left.len(), 1, "{report:#?}");
    let report = store.repair(&[], None, &mut |_, _, _| {}).unwrap();
    assert_eq!(report.left, []);
}

#[test]
fn a_branch_that_is_not_there_and_a_store_of_a_newer_format_cannot_be_checked() {
    let (mem, store) = prepared();
    let answer = store.check(&[branch("none")], &mut |_, _, _| {});
    assert!(matches!(answer, Err(StoreError::NoBranch(_))), "{answer:?}");
    let json = r#"{"version":9}"#;
    let sealed = format!("{json}\n{:08x}\n", crc32c::crc32c(json.as_bytes()));
    mem.set_file_bytes(Path::new("format"), sealed.as_bytes())
        .unwrap();
    let answer = store.check(&[], &mut |_, _, _| {});
    assert!(matches!(
        answer,
        Err(StoreError::NewerFormat { found: 9, .. })
    ));
}

#[test]
fn a_clock_that_was_set_back_is_named_and_is_no_damage() {
    let (mem, store) = prepared();
    let path = Path::new("branches/a/branch.json");
    let sealed = String::from_utf8(mem.file_bytes(path).unwrap()).unwrap();
    let json = sealed.lines().next().unwrap();
    let now = Time::now().sec;
    let made = |sec: i64| {
        let (head, tail) = json.split_once(r#""sec":"#).unwrap();
        let tail = tail.trim_start_matches(|c: char| c.is_ascii_digit());
        let json = format!(r#"{head}"sec":{sec}{tail}"#);
        let sealed = format!("{json}\n{:08x}\n", crc32c::crc32c(json.as_bytes()));
        mem.set_file_bytes(path, sealed.as_bytes()).unwrap();
        look(&store)
    };
    for (sec, is_told) in [
        (now, false),
        (now + 10, false),
        (now + 86_400, true),
        (i64::MAX, true),
        (i64::MIN, false),
    ] {
        let report = made(sec);
        assert!(report.is_clean(), "{report:#?}");
        let told = report.findings.iter().find(|f| f.code == Code::Clock);
        assert_eq!(told.is_some(), is_told, "{sec}: {report:#?}");
        assert!(told.is_none_or(|f| f.what.contains("it was set back")));
    }
    let mut live = store.open_live(&branch("a")).unwrap();
    live.commit(vec![Delta::PutDentry(DIR, name("n"), Dentry::Whiteout)])
        .unwrap();
    live.close().unwrap();
}

#[test]
fn one_branch_can_be_checked_by_itself() {
    let (mem, store) = prepared();
    mem.set_file_bytes(Path::new("branches/other/branch.json"), b"{}\n\n")
        .unwrap();
    let report = store.check(&[branch("a")], &mut |_, _, _| {}).unwrap();
    assert_eq!(report.findings, []);
    assert_eq!(
        damage(&look(&store)),
        BTreeSet::from([Code::BranchMetadata])
    );
}
