//! Collecting garbage: what nobody can reach goes, all else stays, whatever happens meanwhile.

use std::collections::BTreeSet;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::backstore::gc::{Collected, Garbage, Reason};
use crate::backstore::mem::Crash;
use crate::backstore::{Listed, LiveBranch};
use crate::core::point::{Point, SnapshotName};
use crate::core::record::{ExtentSource, ObjectId};

fn snap(text: &str) -> SnapshotName {
    SnapshotName::new(text).unwrap()
}

fn point(text: &str) -> Point {
    text.parse().unwrap()
}

fn collect(store: &Store) -> Collected {
    store.gc(false, &mut |_, _, _| {}).unwrap()
}

fn would_collect(store: &Store) -> Collected {
    store.gc(true, &mut |_, _, _| {}).unwrap()
}

fn must_be_clean(store: &Store) {
    let report = store.check(&[], &mut |_, _, _| {}).unwrap();
    // The records here are no whole tree; files are what counts.
    let of_files = [
        "object",
        "table",
        "journal",
        "layer",
        "merged",
        "number",
        "unreadable",
    ];
    let bad = report
        .findings
        .iter()
        .filter(|f| f.level == crate::backstore::check::Level::Damage);
    let bad: Vec<_> = bad
        .filter(|f| of_files.iter().any(|of| f.code.as_str().starts_with(of)))
        .collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

fn put_object(live: &mut LiveBranch, ino: u64, bytes: usize) -> ObjectId {
    let (id, object) = live.new_object().unwrap();
    object.write_at(&vec![7; bytes], 0).unwrap();
    let rec = record_with(bytes as u64, Content::Object(id));
    live.commit(vec![Delta::PutInode(Ino(ino), rec)]).unwrap();
    id
}

fn what(collected: &Collected) -> Vec<Garbage> {
    collected.removed.iter().map(|gone| gone.what).collect()
}

fn objects(mem: &MemMedia) -> BTreeSet<PathBuf> {
    let files = mem.files().into_iter();
    files
        .filter(|p| p.starts_with("layers") && p.to_string_lossy().contains("/objects/"))
        .collect()
}

/// A branch whose file 20 was written anew after each of two snapshots, of which the first is gone.
fn overwritten(store: &Store) {
    make(store, "a", None).unwrap();
    let mut live = store.open_live(&branch("a")).unwrap();
    for n in 0..3 {
        put_object(&mut live, 20, 1000);
        put_object(&mut live, 30 + n, 10);
        if n < 2 {
            live.snapshot(&store.hold().unwrap(), None, &[]).unwrap();
        }
    }
    live.close().unwrap();
    store.remove_snapshot(&branch("a"), &snap("1")).unwrap();
}

#[test]
fn what_only_a_dropped_snapshot_showed_goes() {
    let (mem, store) = new_store();
    overwritten(&store);
    let before = mem.files();
    let would = would_collect(&store);
    assert_eq!(mem.files(), before, "a dry run touches nothing");
    assert_eq!(what(&would), [Garbage::Objects]);
    assert_eq!(would.removed[0].branches, [branch("a")]);
    let space = would.space();
    assert_eq!(
        (space.files, space.bytes),
        (1, 1024),
        "in blocks of 512 bytes"
    );
    let done = collect(&store);
    assert_eq!(done.removed, would.removed);
    assert_eq!(objects(&mem).len(), 5);
    for text in ["a", "a@2"] {
        let reader = store.read_point(&point(text)).unwrap();
        for rec in dump(&reader).0.values() {
            if let Content::Object(id) = rec.content {
                assert_eq!(
                    reader.open_object(id, false).unwrap().len().unwrap(),
                    rec.size
                );
            }
        }
    }
    must_be_clean(&store);
    assert_eq!(collect(&store).removed, []);
}

#[test]
fn of_a_live_branch_no_object_goes() {
    let (mem, store) = new_store();
    overwritten(&store);
    let live = store.open_live(&branch("a")).unwrap();
    let before = objects(&mem);
    let done = collect(&store);
    assert_eq!(done.removed, []);
    assert_eq!(objects(&mem), before);
    let kept = &done.kept[0];
    assert_eq!(
        (kept.reason, &*kept.branches),
        (Reason::Live, &[branch("a")][..])
    );
    assert_eq!(kept.space.bytes, 1024);
    live.close().unwrap();
    assert_eq!(what(&collect(&store)), [Garbage::Objects]);
}

/// The state that no longer shows the object is not on the disk yet: it must be, before that goes.
#[test]
fn nothing_goes_that_a_power_cut_brings_back() {
    let (mem, store) = new_store();
    make(&store, "a", None).unwrap();
    let mut live = store.open_live(&branch("a")).unwrap();
    put_object(&mut live, 20, 10);
    live.snapshot(&store.hold().unwrap(), None, &[]).unwrap();
    put_object(&mut live, 20, 20);
    drop(live);
    store.remove_snapshot(&branch("a"), &snap("1")).unwrap();
    assert_eq!(what(&collect(&store)), [Garbage::Objects]);
    let after = mem.crash(Crash::Power);
    let store = store_on(Arc::new(after));
    let live = store.open_live(&branch("a")).unwrap();
    let rec = live.inode(Ino(20)).unwrap().unwrap();
    let Content::Object(id) = rec.content else {
        panic!("{rec:?}");
    };
    live.open_object(id, false).unwrap();
}

#[test]
fn layers_stages_and_trash_that_nobody_names_go() {
    let (mem, store) = new_store();
    overwritten(&store);
    let files = mem.files();
    let layer = PathBuf::from("layers/00000000000000aa");
    let put = |path: PathBuf, bytes: usize| {
        let media: &dyn Media = &mem;
        let dir = path.parent().unwrap();
        let mut at = PathBuf::new();
        for part in dir {
            at.push(part);
            let _ = media.mkdir(&at);
        }
        media
            .open(&path, crate::backstore::media::OpenMode::CreateNew)
            .unwrap();
        mem.set_file_bytes(&path, &vec![1; bytes]).unwrap();
    };
    put(layer.join("journal.0"), 600);
    put(layer.join("objects/00/1"), 5000);
    put("stage/0123/branch.json".into(), 100);
    put("trash/branch.0123/branch.json".into(), 100);
    put("format.0123.stage".into(), 1);
    put("layers/of-mine/notes".into(), 100);
    let frozen = store.branch(&branch("a")).unwrap().layers[0];
    let frozen = crate::backstore::store::layer_dir(frozen);
    put(frozen.join("table.0123.stage"), 10);
    put(frozen.join("objects/00/7.stage"), 10);
    let would = would_collect(&store);
    let done = collect(&store);
    assert_eq!(done.removed, would.removed);
    use Garbage::{Layer, Leftover, Objects, Stage, Trash};
    assert_eq!(
        what(&done),
        [Layer, Objects, Trash, Stage, Stage, Leftover, Leftover]
    );
    assert_eq!(done.removed[0].space.bytes, 1024 + 5120);
    assert_eq!(done.kept[0].reason, Reason::Foreign);
    let mut left: BTreeSet<PathBuf> = mem.files().into_iter().collect();
    assert!(
        left.remove(std::path::Path::new("layers/of-mine/notes")),
        "not ours to remove"
    );
    left.remove(std::path::Path::new("gc.lock"));
    let gone: Vec<_> = files.iter().filter(|path| !left.contains(*path)).collect();
    assert_eq!(gone.len(), 1, "{gone:?}");
    assert!(left.iter().all(|path| files.contains(path)), "{left:?}");
}

/// What a branch that cannot be read needs is not known.
#[test]
fn a_damaged_branch_keeps_what_it_may_need() {
    let (mem, store) = new_store();
    overwritten(&store);
    make(&store, "b", None).unwrap();
    let path = PathBuf::from("branches/a/branch.json");
    let good = mem.file_bytes(&path).unwrap();
    mem.set_file_bytes(&path, b"{}").unwrap();
    let before = mem.files();
    let done = collect(&store);
    assert_eq!(done.removed, []);
    assert!(
        done.kept
            .iter()
            .any(|kept| kept.reason == Reason::Unreadable)
    );
    let mut after = mem.files();
    after.retain(|path| path != std::path::Path::new("gc.lock"));
    assert_eq!(after, before);
    mem.set_file_bytes(&path, &good).unwrap();
    assert_eq!(what(&collect(&store)), [Garbage::Objects]);
}

/// A layer that cannot be read hides what lies below it, so that stays.
#[test]
fn a_damaged_layer_keeps_what_lies_below_it() {
    let (mem, store) = new_store();
    overwritten(&store);
    let top = store.branch(&branch("a")).unwrap().layers[1];
    let path = crate::backstore::store::layer_dir(top).join("journal.0");
    let mut bytes = mem.file_bytes(&path).unwrap();
    bytes[20] ^= 1;
    mem.set_file_bytes(&path, &bytes).unwrap();
    let done = collect(&store);
    assert_eq!(done.removed, []);
    assert!(
        done.kept
            .iter()
            .any(|kept| kept.reason == Reason::Unreadable),
        "{done:?}"
    );
}

#[test]
fn deep_stacks_of_idle_branches_are_compacted() {
    let (mem, store) = new_store();
    make(&store, "a", None).unwrap();
    for n in 0..6 {
        let mut live = store.open_live(&branch("a")).unwrap();
        put_object(&mut live, 20 + n, 10);
        live.close().unwrap();
        store.create_snapshot(&branch("a"), None).unwrap();
    }
    let merged = || mem.files().iter().filter(|p| p.ends_with("merged")).count();
    let state = dump(&store.read(&branch("a")).unwrap());
    assert_eq!((merged(), would_collect(&store).compacted.len()), (0, 1));
    assert_eq!(collect(&store).compacted[0].layers, 6);
    assert_eq!((merged(), collect(&store).compacted.len()), (1, 0));
    assert_eq!(dump(&store.read(&branch("a")).unwrap()), state);
    must_be_clean(&store);
}

/// What can be done to a store.
#[derive(Clone, Debug)]
enum Act {
    Write(usize, u64),
    Delete(usize, u64),
    Extend(usize, u64, u64),
    Snapshot(usize),
    Drop(usize, usize),
    Restore(usize, usize),
    Branch(usize, usize),
    Collect,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let branch = 0..3usize;
    let ino = 0..4u64;
    let one = prop_oneof![
        4 => (branch.clone(), ino.clone()).prop_map(|(b, i)| Act::Write(b, i)),
        1 => (branch.clone(), ino.clone()).prop_map(|(b, i)| Act::Delete(b, i)),
        1 => (branch.clone(), ino.clone(), ino).prop_map(|(b, i, o)| Act::Extend(b, i, o)),
        3 => branch.clone().prop_map(Act::Snapshot),
        2 => (branch.clone(), 0..6usize).prop_map(|(b, s)| Act::Drop(b, s)),
        1 => (branch.clone(), 0..6usize).prop_map(|(b, s)| Act::Restore(b, s)),
        1 => (branch, 0..6usize).prop_map(|(b, s)| Act::Branch(b, s)),
        1 => Just(Act::Collect),
    ];
    proptest::collection::vec(one, 1..40)
}

/// All points of the store.
fn points(store: &Store) -> Vec<Point> {
    let mut out = Vec::new();
    for listed in store.list().unwrap() {
        let Listed::Branch(info) = listed else {
            panic!("{listed:?}");
        };
        out.push(Point::from(info.name.clone()));
        out.extend(info.snapshots.iter().map(|s| Point {
            branch: info.name.clone(),
            snapshot: Some(s.name.clone()),
        }));
    }
    out
}

/// The objects that any point shows; each of them must be there.
fn shown(store: &Store) -> BTreeSet<PathBuf> {
    let mut out = BTreeSet::new();
    for point in points(store) {
        let reader = store.read_point(&point).unwrap();
        let mut ids = Vec::new();
        for (ino, rec) in dump(&reader).0 {
            if let Content::Object(id) = rec.content {
                ids.push(id);
            }
            for (_, source) in reader.extents(ino).unwrap().values() {
                if let ExtentSource::Object(id) = source {
                    ids.push(*id);
                }
            }
        }
        for id in ids {
            reader
                .open_object(id, false)
                .unwrap_or_else(|e| panic!("{point}: {e}"));
            let path = crate::backstore::objects::path_of(id.number);
            out.insert(crate::backstore::store::layer_dir(id.layer).join(path));
        }
    }
    out
}

fn act(store: &Store, act: &Act) {
    let text = |n: usize| ["a", "b", "c"][n];
    let info = |n: usize| store.branch(&branch(text(n))).ok();
    let nth = |n: usize, s: usize| {
        let info = info(n)?;
        let s = s.checked_rem(info.snapshots.len())?;
        Some(info.snapshots[s].name.clone())
    };
    let change = |n: usize, f: &mut dyn FnMut(&mut LiveBranch)| {
        if info(n).is_some() {
            let mut live = store.open_live(&branch(text(n))).unwrap();
            f(&mut live);
            live.close().unwrap();
        }
    };
    match act {
        Act::Write(n, ino) => change(*n, &mut |live| {
            put_object(live, 20 + ino, 9);
        }),
        Act::Delete(n, ino) => change(*n, &mut |live| {
            live.commit(vec![Delta::DelInode(Ino(20 + ino))]).unwrap();
        }),
        // Bytes of what another file has now.
        Act::Extend(n, ino, other) => change(*n, &mut |live| {
            let rec = live.inode(Ino(20 + other)).unwrap();
            if live.inode(Ino(20 + ino)).unwrap().is_none() {
                return;
            }
            if let Some(Content::Object(id)) = rec.map(|rec| rec.content.clone()) {
                let source = ExtentSource::Object(id);
                live.commit(vec![Delta::PutExtent(Ino(20 + ino), *other, 1, source)])
                    .unwrap();
            }
        }),
        Act::Snapshot(n) if info(*n).is_some() => {
            store.create_snapshot(&branch(text(*n)), None).unwrap();
        }
        Act::Drop(n, s) => {
            if let Some(name) = nth(*n, *s) {
                // Refused where a branch was made of it.
                let _ = store.remove_snapshot(&branch(text(*n)), &name);
            }
        }
        Act::Restore(n, s) => {
            if let Some(name) = nth(*n, *s) {
                store.restore(&branch(text(*n)), &name).unwrap();
            }
        }
        Act::Branch(n, s) => {
            let free = (0..3).find(|n| info(*n).is_none());
            if let (Some(free), Some(name)) = (free, nth(*n, *s)) {
                make(store, text(free), Some(&format!("{}@{name}", text(*n)))).unwrap();
            }
        }
        Act::Collect => drop(collect(store)),
        Act::Snapshot(_) => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Whatever happened: all that any point shows is there, and nothing else in frozen layers.
    #[test]
    fn just_what_no_point_shows_goes(list in acts()) {
        let (mem, store) = new_store();
        make(&store, "a", None).unwrap();
        list.iter().for_each(|one| act(&store, one));
        let before: Vec<Dump> = points(&store)
            .iter()
            .map(|point| dump(&store.read_point(point).unwrap()))
            .collect();
        let must_stay = shown(&store);
        collect(&store);
        prop_assert_eq!(&shown(&store), &must_stay);
        let after: Vec<Dump> = points(&store)
            .iter()
            .map(|point| dump(&store.read_point(point).unwrap()))
            .collect();
        prop_assert_eq!(before, after);
        let tops: Vec<PathBuf> = ["a", "b", "c"]
            .iter()
            .filter_map(|text| store.branch(&branch(text)).ok()?.layers.last().copied())
            .map(crate::backstore::store::layer_dir)
            .collect();
        for path in objects(&mem) {
            let is_own = tops.iter().any(|top| path.starts_with(top));
            prop_assert!(is_own || must_stay.contains(&path), "{:?} stayed", path);
        }
    }
}
