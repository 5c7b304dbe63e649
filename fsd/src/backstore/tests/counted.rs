//! The account of a live branch while snapshots of it are dropped by others: it comes to what a count from
//! scratch finds.

use super::*;
use crate::backstore::{Limit, LiveBranch, ObjectFile};
use crate::core::point::SnapshotName;

fn snapshot_name(text: &str) -> SnapshotName {
    SnapshotName::new(text).unwrap()
}

/// A branch with a limit that went back to `a@s`: what it had then only `a@1` has. It is live, and has an
/// object open.
fn gone_back() -> (Store, LiveBranch, Box<dyn ObjectFile>) {
    let (_, store) = new_store();
    make(&store, "a", None).unwrap();
    let limit = Limit {
        bytes: Some(1 << 30),
        inodes: None,
    };
    store.set_limit(&branch("a"), limit).unwrap();
    let open = || {
        let mut live = store.open_live(&branch("a")).unwrap();
        live.open_account().unwrap().unwrap();
        live
    };
    let mut live = open();
    object(&mut live, 30, 4);
    let name = Some(snapshot_name("s"));
    live.snapshot(&store.hold().unwrap(), name, &[]).unwrap();
    object(&mut live, 31, 100);
    live.close().unwrap();
    store.restore(&branch("a"), &snapshot_name("s")).unwrap();
    let mut live = open();
    let held = object(&mut live, 32, 4);
    assert_counted(&store, &live);
    assert!(live.account().unwrap().usage().bytes > 100 << 10);
    (store, live, held)
}

#[track_caller]
fn assert_counted(store: &Store, live: &LiveBranch) {
    let usage = live.account().unwrap().usage();
    assert_eq!(usage, store.usage(&branch("a")).unwrap());
}

/// Writes to an object so that it has so many KiB.
fn grow(live: &LiveBranch, object: &dyn ObjectFile, kib: usize) {
    object.write_at(&vec![7; kib << 10], 0).unwrap();
    live.account().unwrap().charge(object).unwrap();
}

fn drop_by_others(store: &Store) {
    store
        .remove_snapshot(&branch("a"), &snapshot_name("1"))
        .unwrap();
}

/// A new object of so many KiB, as the content of `ino`.
fn object(live: &mut LiveBranch, ino: u64, kib: usize) -> Box<dyn ObjectFile> {
    let (id, object) = live.new_object().unwrap();
    object.write_at(&vec![1; kib << 10], 0).unwrap();
    let record = record_with((kib << 10) as u64, Content::Object(id));
    live.commit(vec![Delta::PutInode(Ino(ino), record)])
        .unwrap();
    live.account().unwrap().charge(&*object).unwrap();
    object
}

#[test]
fn what_only_a_dropped_snapshot_had_counts_no_more() {
    let (store, mut live, held) = gone_back();
    drop_by_others(&store);
    live.follow_snapshots().unwrap();
    assert_counted(&store, &live);
    assert!(live.account().unwrap().usage().bytes < 100 << 10);
    grow(&live, &*held, 40);
    assert_counted(&store, &live);
}

#[test]
fn a_snapshot_made_before_the_account_has_followed_leaves_nothing_counted() {
    let (store, mut live, _held) = gone_back();
    drop_by_others(&store);
    let held = store.hold().unwrap();
    live.snapshot(&held, Some(snapshot_name("t")), &[]).unwrap();
    drop(held);
    object(&mut live, 33, 8);
    live.follow_snapshots().unwrap();
    assert_counted(&store, &live);
    assert!(live.account().unwrap().usage().bytes < 100 << 10);
}

#[test]
fn writers_that_race_with_a_count_are_counted_once() {
    let (store, mut live, held) = gone_back();
    let gone = object(&mut live, 34, 60);
    let account = live.account().unwrap().clone();
    let counting = account.begin_count();
    let count = store.count(live.info(), &live.stack).unwrap();
    // Each after the count has looked at it, and for the last time.
    grow(&live, &*held, 80);
    let id = gone.id();
    live.remove_object(id);
    counting.take(count);
    assert_counted(&store, &live);
    // A count that comes to nothing changes nothing.
    drop(account.begin_count());
    assert_counted(&store, &live);
}
