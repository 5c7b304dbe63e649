//! Objects that are made ahead: none is given out twice, and those not used leave nothing behind.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::*;
use crate::backstore::LiveBranch;
use crate::backstore::mem::Crash;
use crate::core::record::ObjectId;

fn open(store: &Store) -> LiveBranch {
    let mut live = store.open_live(&branch("b")).unwrap();
    live.make_objects_ahead();
    live
}

/// The objects in the layers, as `layer/number`.
fn objects(mem: &MemMedia) -> BTreeSet<String> {
    let files = mem.files().into_iter().map(|p| p.display().to_string());
    files
        .filter(|path| path.contains("/objects/"))
        .map(|path| {
            let parts: Vec<&str> = path.split('/').collect();
            let layer = parts.iter().position(|part| *part == "layers").unwrap() + 1;
            format!("{}/{}", parts[layer], parts[parts.len() - 1])
        })
        .collect()
}

fn named(id: ObjectId) -> String {
    let dir = super::super::store::layer_dir(id.layer);
    format!("{}/{}", dir.file_name().unwrap().display(), id.number)
}

fn commit(live: &mut LiveBranch, ino: u64, id: ObjectId) {
    let record = record_with(1, Content::Object(id));
    live.commit(vec![Delta::PutInode(Ino(ino), record)])
        .unwrap();
}

/// Makes objects in a row, until there are some that were made ahead. Gives those that it got.
fn take_until_ahead(mem: &MemMedia, live: &mut LiveBranch) -> Vec<ObjectId> {
    let deadline = Instant::now() + Duration::from_secs(60);
    let before = objects(mem).len();
    let mut got: Vec<ObjectId> = Vec::new();
    loop {
        let (id, object) = live.new_object().unwrap();
        assert_eq!(object.id(), id);
        assert!(object.is_empty().unwrap());
        object.write_at(b"taken", 0).unwrap();
        assert!(!got.contains(&id), "{id:?} was given out twice");
        got.push(id);
        if got.len() > 100 && objects(mem).len() > before + got.len() + 2 {
            return got;
        }
        assert!(Instant::now() < deadline, "nothing is made ahead");
    }
}

#[test]
fn what_was_made_ahead_and_not_used_goes_with_the_end() {
    let (mem, store) = new_store();
    make(&store, "b", None).unwrap();
    let mut live = open(&store);
    let got = take_until_ahead(&mem, &mut live);
    for (n, id) in got.iter().enumerate() {
        commit(&mut live, 10 + n as u64, *id);
    }
    live.close().unwrap();
    assert_eq!(objects(&mem), got.iter().map(|id| named(*id)).collect());
}

#[test]
fn what_was_made_ahead_goes_after_a_kill_and_no_number_comes_again() {
    let (mem, store) = new_store();
    make(&store, "b", None).unwrap();
    let mut live = open(&store);
    let got = take_until_ahead(&mem, &mut live);
    commit(&mut live, 10, got[3]);
    // What is ready survives a checkpoint as what it is.
    live.checkpoint().unwrap();
    let (late, _) = live.new_object().unwrap();
    commit(&mut live, 11, late);
    let left = mem.crash(Crash::Process);
    let store = store_on(Arc::new(left.clone()));
    let mut live = open(&store);
    let kept: BTreeSet<String> = [named(got[3]), named(late)].into();
    assert_eq!(objects(&left), kept);
    let (new, _) = live.new_object().unwrap();
    assert!(new.number > late.number && got.iter().all(|id| new.number > id.number));
}

#[test]
fn a_frozen_layer_has_none() {
    let (mem, store) = new_store();
    make(&store, "b", None).unwrap();
    let mut live = open(&store);
    let got = take_until_ahead(&mem, &mut live);
    for (n, id) in got.iter().enumerate() {
        commit(&mut live, 10 + n as u64, *id);
    }
    let held = store.hold().unwrap();
    live.snapshot(&held, None, &[]).unwrap();
    drop(held);
    assert_eq!(objects(&mem), got.iter().map(|id| named(*id)).collect());
    // It goes on in the new layer.
    let more = take_until_ahead(&mem, &mut live);
    assert!(more.iter().all(|id| id.layer != got[0].layer));
    live.close().unwrap();
    assert_eq!(objects(&mem), got.iter().map(|id| named(*id)).collect());
}

#[test]
fn what_nobody_takes_goes_by_itself() {
    let (mem, store) = new_store();
    make(&store, "b", None).unwrap();
    let mut live = open(&store);
    let got = take_until_ahead(&mem, &mut live);
    let kept: BTreeSet<String> = got.iter().map(|id| named(*id)).collect();
    let deadline = Instant::now() + Duration::from_secs(60);
    while objects(&mem) != kept {
        assert!(Instant::now() < deadline, "they stay");
        std::thread::yield_now();
    }
    for (n, id) in got.iter().enumerate() {
        commit(&mut live, 10 + n as u64, *id);
    }
    // Nothing of it goes on in a new layer, which is blank: a snapshot of that makes no further one.
    let layers = || store.branch(&branch("b")).unwrap().layers.len();
    let mut snapshot = || {
        let held = store.hold().unwrap();
        live.snapshot(&held, None, &[]).unwrap();
    };
    snapshot();
    let made = layers();
    snapshot();
    assert_eq!(layers(), made);
    // And again.
    take_until_ahead(&mem, &mut live);
    live.close().unwrap();
}

#[test]
fn another_directory_of_objects_is_like_the_first() {
    let (mem, store) = new_store();
    make(&store, "b", None).unwrap();
    let mut live = store.open_live(&branch("b")).unwrap();
    let (first, _) = live.new_object().unwrap();
    live.change_bucket().unwrap();
    let (second, _) = live.new_object().unwrap();
    let bucket = super::super::objects::bucket_of;
    assert_ne!(bucket(first.number), bucket(second.number));
    let (third, _) = live.new_object().unwrap();
    assert_eq!(bucket(second.number), bucket(third.number));
    commit(&mut live, 10, first);
    commit(&mut live, 11, third);
    // What nothing names goes from either.
    let left = mem.crash(Crash::Process);
    let store = store_on(Arc::new(left.clone()));
    let mut live = store.open_live(&branch("b")).unwrap();
    assert_eq!(objects(&left), [named(first), named(third)].into());
    assert!(live.new_object().unwrap().0.number > third.number);
}
