//! Making, listing, sharing, locking and removing branches.

use super::*;
use crate::backstore::media::{Media, OpenMode};
use crate::backstore::mem::Crash;
use crate::backstore::{DirMedia, Hidden, Listed, LiveBranch, Parent, RunExit, RunRecord};
use crate::core::record::Content;

fn names(store: &Store) -> Vec<String> {
    let list = store.list().unwrap();
    list.into_iter()
        .map(|listed| match listed {
            Listed::Branch(info) => info.name.to_string(),
            Listed::Damaged { name, why } => panic!("{name}: {why}"),
        })
        .collect()
}

fn layer_count(media: &dyn Media) -> usize {
    media.list(Path::new("layers")).unwrap().len()
}

fn open(store: &Store, text: &str) -> LiveBranch {
    store.open_live(&branch(text)).unwrap()
}

#[test]
fn what_is_made_is_listed_and_what_is_removed_is_gone() {
    let (mem, store) = new_store();
    assert!(names(&store).is_empty());
    let info = make(&store, "one", None).unwrap();
    assert_eq!(
        (info.parent.clone(), info.workspace.to_str()),
        (None, Some("/w"))
    );
    make(&store, "two", Some("one")).unwrap();
    assert_eq!(names(&store), ["one", "two"]);
    assert_eq!(store.branch(&branch("one")).unwrap(), info);
    assert_eq!(
        store.branch(&branch("two")).unwrap().parent,
        Some(Parent {
            point: branch("one").into(),
            id: Some(info.id),
        })
    );
    assert!(
        matches!(make(&store, "one", None), Err(StoreError::BranchExists(name)) if name == "one")
    );
    assert!(
        matches!(make(&store, "x", Some("no")), Err(StoreError::NoBranch(name)) if name == "no")
    );
    assert!(matches!(
        store.branch(&branch("x")),
        Err(StoreError::NoBranch(_))
    ));
    store.remove_branch(&branch("one")).unwrap();
    assert!(matches!(
        store.remove_branch(&branch("one")),
        Err(StoreError::NoBranch(_))
    ));
    assert!(matches!(
        store.open_live(&branch("one")),
        Err(StoreError::NoBranch(_))
    ));
    assert_eq!(names(&store), ["two"]);
    store.remove_branch(&branch("two")).unwrap();
    let left: Vec<_> = mem
        .files()
        .iter()
        .map(|p| p.display().to_string())
        .collect();
    assert_eq!(left, ["format", "room", "store.lock"]);
}

#[test]
fn one_owner_at_a_time() {
    let (_, store) = new_store();
    make(&store, "b", None).unwrap();
    assert_eq!(store.live_owner(&branch("b")).unwrap(), None);
    let live = open(&store, "b");
    let me = std::process::id();
    assert_eq!(store.live_owner(&branch("b")).unwrap(), Some(me));
    let locked = |r: Result<(), StoreError>| {
        assert!(matches!(r, Err(StoreError::Locked { branch, pid }) if branch == "b" && pid == me));
    };
    locked(store.open_live(&branch("b")).map(|_| ()));
    locked(store.remove_branch(&branch("b")));
    locked(make(&store, "c", Some("b")).map(|_| ()));
    assert!(matches!(
        store.branch(&branch("c")),
        Err(StoreError::NoBranch(_))
    ));
    live.close().unwrap();
    assert_eq!(store.live_owner(&branch("b")).unwrap(), None);
    drop(open(&store, "b"));
    open(&store, "b").close().unwrap();
}

#[test]
fn a_child_has_what_its_parent_had_and_neither_sees_the_other_go_on() {
    let (mem, store) = new_store();
    make(&store, "p", None).unwrap();
    let mut parent = open(&store, "p");
    let ino = parent.alloc_ino();
    parent.commit(file(Ino::ROOT, "shared", ino, 1)).unwrap();
    // As after a kill: the state is in the journal only.
    drop(parent);
    make(&store, "c", Some("p")).unwrap();
    let then = dump(&store.read(&branch("c")).unwrap());
    assert_eq!(then.0.len(), 1);

    let mut parent = open(&store, "p");
    let mut child = open(&store, "c");
    assert_eq!(dump(&parent), then);
    parent.commit(vec![Delta::DelInode(ino)]).unwrap();
    parent
        .commit(vec![Delta::PutDentry(
            Ino::ROOT,
            name("shared"),
            Dentry::Whiteout,
        )])
        .unwrap();
    assert_eq!(dump(&child), then);
    child.commit(file(Ino::ROOT, "mine", Ino(5), 2)).unwrap();
    assert_eq!(parent.inode(Ino(5)).unwrap(), None);
    assert_eq!(parent.inode(ino).unwrap(), None);
    assert_eq!(child.inode(ino).unwrap(), Some(record(1)));
    assert!(
        child.alloc_ino() > ino,
        "numbers of the parent are not given out again"
    );
    parent.close().unwrap();
    child.close().unwrap();

    // The frozen layer stays while one of them names it.
    assert_eq!(layer_count(&mem), 3);
    store.remove_branch(&branch("p")).unwrap();
    assert_eq!(layer_count(&mem), 2);
    assert_eq!(
        store.read(&branch("c")).unwrap().inode(ino).unwrap(),
        Some(record(1))
    );
    store.remove_branch(&branch("c")).unwrap();
    assert_eq!(layer_count(&mem), 0);
}

#[test]
fn branching_from_an_unchanged_branch_adds_no_depth() {
    let (_, store) = new_store();
    make(&store, "a", None).unwrap();
    open(&store, "a")
        .commit(file(Ino::ROOT, "f", Ino(9), 1))
        .unwrap();
    for i in 0..5 {
        let info = make(&store, &format!("c{i}"), Some("a")).unwrap();
        assert_eq!(info.layers.len(), 2, "{i}");
    }
    assert_eq!(store.branch(&branch("a")).unwrap().layers.len(), 2);
}

#[test]
fn a_parent_that_only_made_objects_is_frozen_too() {
    let (_, store) = new_store();
    make(&store, "a", None).unwrap();
    let mut live = open(&store, "a");
    let (id, object) = live.new_object().unwrap();
    object.write_at(b"bytes", 0).unwrap();
    live.commit(vec![Delta::PutInode(
        Ino(9),
        record_with(5, Content::Object(id)),
    )])
    .unwrap();
    live.close().unwrap();
    make(&store, "c", Some("a")).unwrap();
    let mut child = open(&store, "c");
    assert!(!child.is_top(id));
    let mut buf = [0; 8];
    assert_eq!(
        child
            .open_object(id, false)
            .unwrap()
            .read_at(&mut buf, 0)
            .unwrap(),
        5
    );
    assert!(matches!(
        child.open_object(id, true),
        Err(StoreError::Invalid(_))
    ));
    child.remove_object(id);
    assert!(
        child.open_object(id, false).is_ok(),
        "an object of a frozen layer is not removed"
    );
    let (own, _) = child.new_object().unwrap();
    assert!(child.is_top(own));
}

#[test]
fn runs_are_kept_whatever_their_bytes() {
    use std::os::unix::ffi::OsStringExt;
    let (mem, store) = new_store();
    make(&store, "b", None).unwrap();
    assert_eq!(store.last_run(&branch("b")).unwrap(), None);
    let run = RunRecord {
        command: vec![
            "cargo".into(),
            std::ffi::OsString::from_vec(b"\xff\\ \n".to_vec()),
        ],
        cwd: "/home/u".into(),
        pid: 4,
        start_ticks: u64::MAX,
        started: Time { sec: 1, nsec: 2 },
        ended: None,
        exit: Some(RunExit::Signal(9)),
    };
    store.put_run(&branch("b"), &run).unwrap();
    assert_eq!(
        store.branch(&branch("b")).unwrap().last_run,
        Some(run.clone())
    );
    store
        .put_run(&branch("b"), &RunRecord { pid: 5, ..run })
        .unwrap();
    assert_eq!(
        store.last_run(&branch("b")).unwrap().map(|run| run.pid),
        Some(5)
    );
    let path = Path::new("branches/b/run.json");
    mem.set_file_bytes(path, b"").unwrap();
    assert_eq!(
        store.branch(&branch("b")).unwrap().last_run,
        None,
        "harms no one"
    );
    assert!(matches!(
        store.put_run(&branch("no"), &store_run()),
        Err(StoreError::NoBranch(_))
    ));
}

fn store_run() -> RunRecord {
    RunRecord {
        command: vec![],
        cwd: "/".into(),
        pid: 1,
        start_ticks: 0,
        started: Time::default(),
        ended: None,
        exit: None,
    }
}

/// The same on a real directory: modes, locks and removal.
#[test]
fn a_real_directory_does_the_same() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/er/store");
    assert!(Store::open(&path).unwrap().is_none());
    let store = Store::open_or_create(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
    make(&store, "b", None).unwrap();
    let mut live = open(&store, "b");
    // A second store handle, as another process would have.
    let other = Store::open(&path).unwrap().unwrap();
    assert_eq!(
        other.live_owner(&branch("b")).unwrap(),
        Some(std::process::id())
    );
    assert!(matches!(
        other.open_live(&branch("b")),
        Err(StoreError::Locked { .. })
    ));
    let (id, object) = live.new_object().unwrap();
    object.write_at(b"hello", 3).unwrap();
    assert_eq!(object.len().unwrap(), 8);
    assert!(object.as_fd().is_some());
    live.commit(vec![Delta::PutInode(
        Ino(4),
        record_with(8, Content::Object(id)),
    )])
    .unwrap();
    live.journal_sync().unwrap().sync().unwrap();
    let reader = other.read(&branch("b")).unwrap();
    let mut buf = [9; 9];
    assert_eq!(
        reader
            .open_object(id, false)
            .unwrap()
            .read_at(&mut buf, 0)
            .unwrap(),
        8
    );
    assert_eq!(&buf[..8], b"\0\0\0hello");
    live.close().unwrap();
    assert_eq!(dump(&other.read(&branch("b")).unwrap()), dump(&reader));
    make(&other, "c", Some("b")).unwrap();
    for file in walk(&path) {
        let mode = std::fs::symlink_metadata(&file)
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o077, 0, "{}", file.display());
    }
    store.remove_branch(&branch("b")).unwrap();
    store.remove_branch(&branch("c")).unwrap();
    let left: Vec<_> = walk(&path)
        .iter()
        .filter(|p| p.is_file())
        .cloned()
        .collect();
    assert_eq!(
        left,
        ["format", "room", "store.lock"].map(|name| path.join(name))
    );
}

fn walk(path: &Path) -> Vec<std::path::PathBuf> {
    let mut out = vec![path.to_owned()];
    let mut entries: Vec<_> = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            out.extend(walk(&entry))
        } else {
            out.push(entry)
        }
    }
    out
}

#[test]
fn links_out_of_the_store_are_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("secret"), "s").unwrap();
    let inside = dir.path().join("in");
    std::fs::create_dir(&inside).unwrap();
    std::os::unix::fs::symlink("../secret", inside.join("link")).unwrap();
    let media = DirMedia::open(&inside).unwrap();
    for path in ["link", "../secret"] {
        assert!(
            media.open(Path::new(path), OpenMode::Read).is_err(),
            "{path}"
        );
    }
}

#[test]
fn what_was_hidden_is_noted_once_and_passed_on() {
    let (mem, store) = new_store();
    make(&store, "a", None).unwrap();
    let (a, b) = (branch("a"), branch("b"));
    assert_eq!(store.hidden(&a).unwrap(), []);
    let places = [Hidden::whole("/h/.ssh"), Hidden::whole("/h/\u{1b}odd")];
    store.add_hidden(&a, &places).unwrap();
    let path = Path::new("branches/a/hidden.json");
    let first = mem.file_bytes(path).unwrap();
    // On the disk, whatever happens next.
    let crashed = mem.crash(Crash::Power);
    assert_eq!(crashed.file_bytes(path).unwrap(), first);
    store.add_hidden(&a, &places[..1]).unwrap();
    assert_eq!(mem.file_bytes(path).unwrap(), first);
    make(&store, "b", Some("a")).unwrap();
    store.add_hidden(&a, &[Hidden::whole("/h/more")]).unwrap();
    assert_eq!(store.hidden(&a).unwrap().len(), 3);
    assert_eq!(store.hidden(&b).unwrap().len(), 2);
    for bit in 0..first.len() * 8 {
        let mut bad = first.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        mem.set_file_bytes(path, &bad).unwrap();
        assert!(store.hidden(&a).is_err(), "bit {bit}");
        assert!(store.add_hidden(&a, &places).is_err(), "bit {bit}");
    }
}
