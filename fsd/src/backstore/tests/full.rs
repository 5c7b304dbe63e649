//! On a full disk all works that gives space back: removing branches and snapshots, and collecting
//! garbage. The disk is full from the start, or gets full at any operation.

use super::*;
use crate::backstore::Limit;
use crate::backstore::check::Code;
use crate::backstore::fault::{Fault, FaultMedia};
use crate::backstore::gc::{Kept, Reason};
use crate::core::point::SnapshotName;

/// A branch with three snapshots and one made of it. Dropped snapshots leave garbage.
fn filled() -> MemMedia {
    let (mem, store) = new_store();
    make(&store, "a", None).unwrap();
    let mut live = store.open_live(&branch("a")).unwrap();
    for (name, ino) in [("one", 20), ("two", 21), ("three", 22)] {
        live.commit(file(Ino::ROOT, name, Ino(ino), ino)).unwrap();
        let (id, object) = live.new_object().unwrap();
        object.write_at(b"content", 0).unwrap();
        let record = record_with(7, Content::Object(id));
        live.commit(vec![Delta::PutInode(Ino(30), record)]).unwrap();
        let name = Some(SnapshotName::new(name).unwrap());
        live.snapshot(&store.hold().unwrap(), name, &[]).unwrap();
    }
    live.close().unwrap();
    make(&store, "b", Some("a@one")).unwrap();
    mem
}

type Step<'a> = &'a dyn Fn(&Store) -> Result<(), StoreError>;

/// What is done on a disk that gets full at operation `at`.
fn on_full(mem: &MemMedia, at: u64, step: Step<'_>) -> FaultMedia {
    let media = FaultMedia::new(Arc::new(mem.clone()), at, Fault::FullDisk);
    let store = Store::on_media(Arc::new(media.clone()), Path::new("/mem"), false);
    let store = store.unwrap().unwrap();
    step(&store).unwrap_or_else(|e| panic!("full at {at}: {e:?}"));
    media
}

fn collect(store: &Store) -> Result<(), StoreError> {
    let done = store.gc(false, &mut |_, _, _| {})?;
    let failed = |kept: &Kept| kept.reason == Reason::Failed;
    assert!(!done.kept.iter().any(failed), "{done:#?}");
    Ok(())
}

#[test]
fn what_gives_space_back_works_wherever_the_disk_gets_full() {
    let drop_snapshot = |store: &Store| {
        let name = SnapshotName::new("two").unwrap();
        store.remove_snapshot(&branch("a"), &name)
    };
    let steps: [(&str, Step<'_>); 4] = [
        ("snapshot rm", &drop_snapshot),
        ("gc", &collect),
        ("rm b", &|store| store.remove_branch(&branch("b"))),
        ("rm a", &|store| store.remove_branch(&branch("a"))),
    ];
    for at in 0.. {
        let mem = filled();
        let mut has_struck = false;
        for (what, step) in steps {
            has_struck |= on_full(&mem, at, step).has_struck();
            // Some room comes free by it, as on a disk, and the next opening takes its part.
            let store = store_on(Arc::new(mem.clone()));
            let left = store.list().unwrap().len();
            let expect = match what {
                "rm b" => 1,
                "rm a" => 0,
                _ => 2,
            };
            assert_eq!(left, expect, "{what}, full at {at}");
            let report = store.check(&[], &mut |_, _, _| {}).unwrap();
            let is_odd = |code| matches!(code, Code::Leftover | Code::UnusedLayer);
            assert!(
                !report.left.iter().any(|f| is_odd(f.code)),
                "{what}: {report:#?}"
            );
        }
        if !has_struck {
            assert!(at > 5, "only {at} operations");
            return;
        }
    }
}

#[test]
fn the_first_collection_of_all_works_on_a_full_disk() {
    let mem = filled();
    assert!(mem.facts(Path::new("gc.lock")).is_err());
    on_full(&mem, 0, &collect);
    assert!(mem.facts(Path::new("gc.lock")).is_ok());
    // And the next ones, though no room is left.
    on_full(&mem, 0, &collect);
}

#[test]
fn the_room_is_for_what_gets_shorter() {
    let mem = filled();
    let media = FaultMedia::new(Arc::new(mem.clone()), 0, Fault::FullDisk);
    let store = Store::on_media(Arc::new(media), Path::new("/mem"), false);
    let limit = Limit {
        bytes: Some(1 << 40),
        inodes: Some(1 << 40),
    };
    let refused = store.unwrap().unwrap().set_limit(&branch("a"), limit);
    assert!(
        matches!(refused, Err(StoreError::NoSpace { .. })),
        "{refused:?}"
    );
    assert!(mem.facts(Path::new("room")).is_ok());
}

#[test]
fn the_room_is_as_large_as_what_it_may_have_to_hold() {
    let (mem, store) = new_store();
    make(&store, "a", None).unwrap();
    for _ in 0..150 {
        store.create_snapshot(&branch("a"), None).unwrap();
    }
    let len = |path: &str| mem.facts(Path::new(path)).unwrap().len;
    let of_branch = len("branches/a/branch.json");
    assert!(of_branch > 9000, "{of_branch}");
    assert!(len("room") >= of_branch);
    let name = SnapshotName::new("7").unwrap();
    on_full(&mem, 0, &|store| store.remove_snapshot(&branch("a"), &name));
    assert_eq!(store.branch(&branch("a")).unwrap().snapshots.len(), 149);
}
