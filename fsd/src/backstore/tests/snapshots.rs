//! Snapshots: what they hold, what they cost, and who may take them away.

use super::*;
use crate::backstore::fault::{Fault, FaultMedia};
use crate::backstore::{Kept, Listed, LiveBranch};
use crate::core::point::{Point, SnapshotName};

fn snap(text: &str) -> SnapshotName {
    SnapshotName::new(text).unwrap()
}

fn point(text: &str) -> Point {
    text.parse().unwrap()
}

fn shown(store: &Store, text: &str) -> Dump {
    dump(&store.read_point(&point(text)).unwrap())
}

/// A branch `a` with one file, and its state.
fn with_file(store: &Store) -> Dump {
    make(store, "a", None).unwrap();
    let mut live = store.open_live(&branch("a")).unwrap();
    live.commit(file(Ino::ROOT, "one", Ino(20), 1)).unwrap();
    live.close().unwrap();
    shown(store, "a")
}

fn add(store: &Store, text: &str, ino: u64) {
    let mut live = store.open_live(&branch("a")).unwrap();
    live.commit(file(Ino::ROOT, text, Ino(ino), ino)).unwrap();
    live.close().unwrap();
}

#[test]
fn a_snapshot_stays_as_it_was() {
    let (_, store) = new_store();
    let first = with_file(&store);
    let made = store.create_snapshot(&branch("a"), None).unwrap();
    assert_eq!(made.name, snap("1"));
    add(&store, "two", 21);
    let second = shown(&store, "a");
    assert_ne!(first, second);
    assert_eq!(
        store.create_snapshot(&branch("a"), None).unwrap().name,
        snap("2")
    );
    let named = store
        .create_snapshot(&branch("a"), Some(snap("same")))
        .unwrap();
    assert_eq!(shown(&store, "a@1"), first);
    assert_eq!(shown(&store, "a@2"), second);
    // Nothing was written in between, so it is made of the same layers.
    assert_eq!(
        named.layers,
        store.branch(&branch("a")).unwrap().snapshots[1].layers
    );
    let again = store.create_snapshot(&branch("a"), Some(snap("same")));
    assert!(
        matches!(again, Err(StoreError::SnapshotExists { snapshot, .. }) if snapshot == "same")
    );
}

#[test]
fn snapshots_of_a_live_branch_diverge_from_it() {
    let (_, store) = new_store();
    let first = with_file(&store);
    let mut live = store.open_live(&branch("a")).unwrap();
    let held = store.hold().unwrap();
    live.snapshot(&held, None, &[]).unwrap();
    live.commit(file(Ino::ROOT, "two", Ino(21), 2)).unwrap();
    live.commit(vec![Delta::DelInode(Ino(20))]).unwrap();
    let second = dump(&live);
    live.snapshot(&held, None, &[]).unwrap();
    live.commit(file(Ino::ROOT, "three", Ino(22), 3)).unwrap();
    let third = dump(&live);
    drop(held);
    for text in ["a@1", "a@2", "a"] {
        let expect =
            [&first, &second, &third][["a@1", "a@2", "a"].iter().position(|t| *t == text).unwrap()];
        assert_eq!(&shown(&store, text), expect, "{text}");
    }
    live.close().unwrap();
    make(&store, "b", Some("a@1")).unwrap();
    make(&store, "c", Some("a@2")).unwrap();
    assert_eq!(shown(&store, "b"), first);
    assert_eq!(shown(&store, "c"), second);
}

/// A file that is written past us keeps its object; the snapshot has a copy of what was there.
#[test]
fn an_object_that_is_written_from_outside_moves_to_the_new_layer() {
    let (_, store) = new_store();
    make(&store, "a", None).unwrap();
    let mut live = store.open_live(&branch("a")).unwrap();
    let (id, object) = live.new_object().unwrap();
    object.write_at(b"before", 0).unwrap();
    let record = record_with(6, Content::Object(id));
    live.commit(vec![Delta::PutInode(Ino(20), record.clone())])
        .unwrap();
    let kept = [Kept {
        ino: Ino(20),
        record: (*record).clone(),
    }];
    let frozen = live.snapshot(&store.hold().unwrap(), None, &kept).unwrap();
    object.write_at(b"after!", 0).unwrap();

    let (old, new) = frozen.moved[0];
    assert_eq!(old, id);
    assert!(live.is_top(new) && !live.is_top(old));
    let mut buf = [0; 6];
    let now = live.inode(Ino(20)).unwrap().unwrap();
    assert_eq!((&now.content, now.dirty), (&Content::Object(new), true));
    live.open_object(new, false)
        .unwrap()
        .read_at(&mut buf, 0)
        .unwrap();
    assert_eq!(&buf, b"after!");
    let reader = store.read_point(&point("a@1")).unwrap();
    let then = reader.inode(Ino(20)).unwrap().unwrap();
    assert_eq!(then.content, Content::Object(old));
    reader
        .open_object(old, false)
        .unwrap()
        .read_at(&mut buf, 0)
        .unwrap();
    assert_eq!(&buf, b"before");
    // What it was given is never given out again.
    let (next, _) = live.new_object().unwrap();
    assert!(next.number > new.number);
}

#[test]
fn a_branch_goes_back_and_keeps_what_it_held() {
    let (_, store) = new_store();
    let first = with_file(&store);
    store
        .create_snapshot(&branch("a"), Some(snap("s")))
        .unwrap();
    add(&store, "two", 21);
    let second = shown(&store, "a");
    let saved = store.restore(&branch("a"), &snap("s")).unwrap();
    assert_eq!(saved.unwrap().name, snap("1"));
    assert_eq!(shown(&store, "a"), first);
    assert_eq!(shown(&store, "a@1"), second);
    // There and back again; nothing was changed, so nothing need be kept.
    assert!(store.restore(&branch("a"), &snap("1")).unwrap().is_none());
    assert_eq!(shown(&store, "a"), second);
    add(&store, "three", 22);
    let names = |info: &BranchInfo| {
        info.snapshots
            .iter()
            .map(|s| s.name.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&store.branch(&branch("a")).unwrap()), ["s", "1"]);
    let live = store.open_live(&branch("a")).unwrap();
    let answer = store.restore(&branch("a"), &snap("s"));
    assert!(matches!(answer, Err(StoreError::Locked { .. })));
    drop(live);
    let answer = store.restore(&branch("a"), &snap("none"));
    assert!(matches!(answer, Err(StoreError::NoSnapshot { snapshot, .. }) if snapshot == "none"));
}

#[test]
fn a_snapshot_that_branches_were_made_from_stays() {
    let (mem, store) = new_store();
    with_file(&store);
    store.create_snapshot(&branch("a"), None).unwrap();
    add(&store, "two", 21);
    store.create_snapshot(&branch("a"), None).unwrap();
    make(&store, "b", Some("a@1")).unwrap();
    let needed = |answer: Result<(), StoreError>| match answer {
        Err(StoreError::Needed { by, .. }) => assert_eq!(by, ["b"]),
        other => panic!("{other:?}"),
    };
    needed(store.remove_snapshot(&branch("a"), &snap("1")));
    needed(store.remove_branch(&branch("a")));
    store.remove_branch(&branch("b")).unwrap();
    store.remove_snapshot(&branch("a"), &snap("1")).unwrap();
    let gone = store.remove_snapshot(&branch("a"), &snap("1"));
    assert!(matches!(gone, Err(StoreError::NoSnapshot { .. })));
    // The number is not used again.
    assert_eq!(
        store.create_snapshot(&branch("a"), None).unwrap().name,
        snap("3")
    );
    store.remove_branch(&branch("a")).unwrap();
    let left = mem.files();
    assert!(
        left.iter()
            .all(|p| !p.starts_with("layers") && !p.starts_with("trash")),
        "{left:?}"
    );
}

/// A daemon that does not know what others did to the list does not undo it.
#[test]
fn a_live_branch_forgets_no_snapshot_that_was_dropped() {
    let (_, store) = new_store();
    with_file(&store);
    let mut live = store.open_live(&branch("a")).unwrap();
    live.snapshot(&store.hold().unwrap(), None, &[]).unwrap();
    store.remove_snapshot(&branch("a"), &snap("1")).unwrap();
    live.commit(file(Ino::ROOT, "two", Ino(21), 2)).unwrap();
    live.snapshot(&store.hold().unwrap(), Some(snap("x")), &[])
        .unwrap();
    let info = store.branch(&branch("a")).unwrap();
    assert_eq!(info.snapshots.len(), 1, "{info:?}");
}

#[test]
fn a_renamed_branch_keeps_snapshots_and_children() {
    let (_, store) = new_store();
    let first = with_file(&store);
    store.create_snapshot(&branch("a"), None).unwrap();
    make(&store, "b", Some("a@1")).unwrap();
    make(&store, "c", None).unwrap();
    let taken = store.rename_branch(&branch("a"), &branch("c"));
    assert!(matches!(taken, Err(StoreError::BranchExists(name)) if name == "c"));
    let live = store.open_live(&branch("a")).unwrap();
    let answer = store.rename_branch(&branch("a"), &branch("z"));
    assert!(matches!(answer, Err(StoreError::Locked { .. })));
    drop(live);
    store.rename_branch(&branch("a"), &branch("z")).unwrap();
    assert_eq!(shown(&store, "z@1"), first);
    let child = store
        .list()
        .unwrap()
        .into_iter()
        .find_map(|listed| match listed {
            Listed::Branch(info) if info.name == branch("b") => info.parent,
            _ => None,
        });
    assert_eq!(
        child.unwrap().to_string(),
        "z@1",
        "the parent by its present name"
    );
    let needed = store.remove_snapshot(&branch("z"), &snap("1"));
    assert!(matches!(needed, Err(StoreError::Needed { .. })));
}

/// Operations on the media that a snapshot and a branch from it take, with so many files changed.
fn operations(files: u64) -> [u64; 2] {
    let mem = MemMedia::new();
    let media = FaultMedia::new(Arc::new(mem), u64::MAX, Fault::Stop);
    let store = store_on(Arc::new(media.clone()));
    make(&store, "a", None).unwrap();
    let mut live: LiveBranch = store.open_live(&branch("a")).unwrap();
    for i in 0..files {
        live.commit(file(Ino::ROOT, &format!("f{i}"), Ino(1000 + i), i))
            .unwrap();
    }
    let start = media.operations();
    live.snapshot(&store.hold().unwrap(), None, &[]).unwrap();
    let snapshot = media.operations() - start;
    let start = media.operations();
    make(&store, "b", Some("a@1")).unwrap();
    [snapshot, media.operations() - start]
}

#[test]
fn snapshots_and_branches_cost_the_same_whatever_they_hold() {
    let few = operations(10);
    assert_eq!(few, operations(3000));
    assert!(few.iter().all(|n| *n < 25), "{few:?}");
}

/// A layer that was frozen with a long journal gets its table at the next clean end.
#[test]
fn a_frozen_layer_gets_its_table_in_the_end() {
    let (mem, store) = new_store();
    make(&store, "a", None).unwrap();
    let mut live = store.open_live(&branch("a")).unwrap();
    for i in 0..3000 {
        live.commit(file(Ino::ROOT, &format!("f{i}"), Ino(1000 + i), i))
            .unwrap();
    }
    live.snapshot(&store.hold().unwrap(), None, &[]).unwrap();
    live.commit(file(Ino::ROOT, "late", Ino(9000), 1)).unwrap();
    let state = dump(&live);
    let tables = || {
        let files = mem.files().into_iter();
        files
            .filter(|p| p.to_string_lossy().contains("/table."))
            .count()
    };
    assert_eq!(tables(), 0);
    live.close().unwrap();
    assert_eq!(tables(), 1);
    assert_eq!(shown(&store, "a"), state);
    assert_eq!(shown(&store, "a@1").0.len(), 3000);
    let live = store.open_live(&branch("a")).unwrap();
    assert_eq!(dump(&live), state);
    live.close().unwrap();
    assert_eq!(tables(), 1);
}
