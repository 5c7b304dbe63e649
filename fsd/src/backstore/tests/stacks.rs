//! Deep stacks: what they say and what looking at them costs. Counts what is looked at, never time.

use super::*;
use crate::backstore::LiveBranch;
use crate::backstore::fault::{Fault, FaultMedia};
use crate::core::point::Point;
use crate::core::record::{ExtentSource, ObjectId};
use std::sync::atomic::AtomicBool;

/// Snapshots of the stacks here.
const DEPTH: u64 = 100;
/// Files that each of them changes.
const EACH: u64 = 20;

fn point(text: &str) -> Point {
    text.parse().unwrap()
}

fn file_name(n: u64) -> String {
    format!("file-{n:06}")
}

fn ino(n: u64) -> Ino {
    Ino(1000 + n)
}

/// A branch with a snapshot after every [`EACH`] new files, of which one replaces an older file, one
/// is taken away by a whiteout, and one has extents. Gives what each snapshot holds.
fn deep(store: &Store, text: &str, depth: u64, live: impl Fn(&mut LiveBranch)) -> Vec<Dump> {
    make(store, text, None).unwrap();
    let mut states = Vec::new();
    let mut branch = store.open_live(&branch(text)).unwrap();
    for layer in 0..depth {
        for n in layer * EACH..(layer + 1) * EACH {
            branch
                .commit(file(Ino::ROOT, &file_name(n), ino(n), n))
                .unwrap();
        }
        if layer > 0 {
            let old = (layer - 1) * EACH;
            let gone = name(&file_name(old + 1));
            let map = (0, (5, ExtentSource::Zero));
            branch
                .commit(vec![
                    Delta::PutInode(ino(old), record(layer)),
                    Delta::DelInode(ino(old + 1)),
                    Delta::PutDentry(Ino::ROOT, gone, Dentry::Whiteout),
                    Delta::SetExtents(ino(old + 2), Arc::new([map].into())),
                ])
                .unwrap();
        }
        branch.snapshot(&store.hold().unwrap(), None, &[]).unwrap();
        states.push(dump(&branch));
        live(&mut branch);
    }
    branch.close().unwrap();
    states
}

fn do_chores(live: &mut LiveBranch) {
    while let Some(chore) = live.next_chore() {
        let done = chore.run(&AtomicBool::new(false)).unwrap();
        assert!(live.take(done));
    }
}

fn merged_files(mem: &MemMedia) -> usize {
    let files = mem.files();
    files.iter().filter(|p| p.ends_with("merged")).count()
}

#[test]
fn a_deep_stack_says_what_its_layers_say() {
    for tended in [false, true] {
        let (mem, store) = new_store();
        let tend = |live: &mut LiveBranch| {
            if tended {
                do_chores(live);
            }
        };
        let states = deep(&store, "a", 30, tend);
        assert_eq!(merged_files(&mem), 1, "one for the branch, none for others");
        for (n, state) in (1..).zip(&states) {
            let point = format!("a@{n}");
            assert_eq!(
                dump(&store.read_point(&self::point(&point)).unwrap()),
                *state
            );
        }
        let mut live = store.open_live(&branch("a")).unwrap();
        assert!(live.stack.floor.is_some() && live.stack.layers.len() <= 8);
        assert_eq!(dump(&live), states[29]);
        assert_eq!(live.extents(ino(28 * EACH + 2)).unwrap().len(), 1);
        // Extents are put over those that only the merged table knows.
        let id = live.new_object().unwrap().0;
        let over = ExtentSource::Object(id);
        live.commit(vec![Delta::PutExtent(ino(2), 3, 4, over)])
            .unwrap();
        assert_eq!(live.extents(ino(2)).unwrap().len(), 2);
        let names = live.dentries(Ino::ROOT).unwrap();
        assert_eq!(names.len() as u64, 30 * EACH);
        live.close().unwrap();
    }
}

/// Inode numbers go on above those that only a merged table knows.
#[test]
fn numbers_are_never_given_out_twice_over_a_merged_table() {
    let (_, store) = new_store();
    make(&store, "a", None).unwrap();
    let mut live = store.open_live(&branch("a")).unwrap();
    let mut given = Vec::new();
    for n in 0..10 {
        let ino = live.alloc_ino();
        given.push(ino);
        live.commit(file(Ino::ROOT, &file_name(n), ino, n)).unwrap();
        live.snapshot(&store.hold().unwrap(), None, &[]).unwrap();
    }
    live.close().unwrap();
    let mut live = store.open_live(&branch("a")).unwrap();
    assert!(live.stack.floor.is_some());
    assert!(live.alloc_ino() > *given.last().unwrap());
}

/// Objects of layers that are not even opened are found all the same.
#[test]
fn objects_stay_where_they_are() {
    let (_, store) = new_store();
    make(&store, "a", None).unwrap();
    let mut live = store.open_live(&branch("a")).unwrap();
    let mut objects: Vec<ObjectId> = Vec::new();
    for n in 0..10u8 {
        let (id, object) = live.new_object().unwrap();
        object.write_at(&[n], 0).unwrap();
        objects.push(id);
        let rec = record_with(1, Content::Object(id));
        live.commit(vec![Delta::PutInode(ino(n.into()), rec)])
            .unwrap();
        live.snapshot(&store.hold().unwrap(), None, &[]).unwrap();
    }
    live.close().unwrap();
    let live = store.open_live(&branch("a")).unwrap();
    assert!(live.stack.layers.len() < 4, "most layers are not opened");
    for (n, id) in (0..).zip(objects) {
        let mut buf = [99];
        let object = live.open_object(id, false).unwrap();
        object.read_at(&mut buf, 0).unwrap();
        assert_eq!(buf, [n]);
        assert!(live.open_object(id, true).is_err(), "it is frozen");
    }
}

/// What a lookup of each file reads of the store, in a branch that was just opened.
fn reads(media: &FaultMedia, text: &str, files: u64) -> (usize, u64) {
    let store = store_on(Arc::new(media.clone()));
    let live = store.open_live(&branch(text)).unwrap();
    let start = media.reads();
    let mut found = 0;
    for n in (0..files).rev() {
        let dentry = live.dentry(Ino::ROOT, &name(&file_name(n))).unwrap();
        found += u64::from(matches!(dentry, Some(Dentry::Present { .. })));
        live.inode(ino(n)).unwrap();
    }
    assert!(found > files / 2, "{found} of {files}");
    let asked = live.stack.layers.len() + usize::from(live.stack.floor.is_some());
    (asked, media.reads() - start)
}

#[test]
fn a_lookup_in_a_hundred_snapshots_reads_what_one_in_a_single_layer_does() {
    let mem = MemMedia::new();
    let media = FaultMedia::new(Arc::new(mem), u64::MAX, Fault::Stop);
    let store = store_on(Arc::new(media.clone()));
    deep(&store, "deep", DEPTH, do_chores);
    deep(&store, "flat", 1, |_| {});
    let mut flat = store.open_live(&branch("flat")).unwrap();
    for n in EACH..DEPTH * EACH {
        flat.commit(file(Ino::ROOT, &file_name(n), ino(n), n))
            .unwrap();
    }
    flat.checkpoint().unwrap();
    flat.close().unwrap();
    let (asked, deep) = reads(&media, "deep", DEPTH * EACH);
    let (_, flat) = reads(&media, "flat", DEPTH * EACH);
    assert!(asked <= 8, "{asked} layers are asked");
    assert!(deep * 10 <= flat * 12, "{deep} reads, {flat} in one layer");
}

/// What is wrong with a merged table costs time, and nothing else.
#[test]
fn a_damaged_merged_table_is_left_out() {
    let (mem, store) = new_store();
    let states = deep(&store, "a", 20, |_| {});
    let files = mem.files();
    let path = files.iter().find(|p| p.ends_with("merged")).unwrap();
    let good = mem.file_bytes(path).unwrap();
    for at in [9, 40, 200] {
        let mut bytes = good.clone();
        bytes[at] ^= 4;
        mem.set_file_bytes(path, &bytes).unwrap();
        let live = store.open_live(&branch("a")).unwrap();
        assert!(live.stack.floor.is_none());
        assert_eq!(dump(&live), states[19]);
    }
    // One of other layers, as after somebody moved files about.
    mem.set_file_bytes(path, &good).unwrap();
    let live = store.open_live(&branch("a")).unwrap();
    let ids = live.frozen_ids().to_vec();
    let media: Arc<dyn Media> = Arc::new(mem.clone());
    let open = |ids: &[_]| crate::backstore::merged::Merged::open(&media, ids).unwrap();
    assert!(open(&ids).is_some() && open(&ids[1..]).is_none());
}

/// A branch of an old snapshot has a merged table of its own, and the tables of both stay.
#[test]
fn each_branch_keeps_the_merged_table_it_stands_on() {
    let (mem, store) = new_store();
    let states = deep(&store, "a", 40, |_| {});
    make(&store, "b", Some("a@20")).unwrap();
    let mut b = store.open_live(&branch("b")).unwrap();
    b.commit(file(Ino::ROOT, "more", Ino(9), 9)).unwrap();
    let state = dump(&b);
    b.close().unwrap();
    assert_eq!(merged_files(&mem), 2);
    assert_eq!(dump(&store.read(&branch("b")).unwrap()), state);
    assert_eq!(dump(&store.read(&branch("a")).unwrap()), states[39]);
    store.remove_branch(&branch("b")).unwrap();
    let mut a = store.open_live(&branch("a")).unwrap();
    for n in 0..20 {
        a.commit(file(Ino::ROOT, &format!("late{n}"), Ino(100_000 + n), n))
            .unwrap();
        a.snapshot(&store.hold().unwrap(), None, &[]).unwrap();
    }
    a.close().unwrap();
    assert_eq!(
        merged_files(&mem),
        1,
        "those that nobody stands on are gone"
    );
}

/// A chore is done beside a branch that goes on; what it led to is taken over later.
#[test]
fn a_chore_holds_up_nobody() {
    let (_, store) = new_store();
    make(&store, "a", None).unwrap();
    let mut live = store.open_live(&branch("a")).unwrap();
    for n in 0..3000 {
        live.commit(file(Ino::ROOT, &file_name(n), ino(n), n))
            .unwrap();
    }
    live.snapshot(&store.hold().unwrap(), None, &[]).unwrap();
    let chore = live.next_chore().expect("a table for the frozen layer");
    // While it is under way:
    live.commit(vec![Delta::DelInode(ino(0))]).unwrap();
    live.snapshot(&store.hold().unwrap(), None, &[]).unwrap();
    live.commit(file(Ino::ROOT, "late", Ino(9), 9)).unwrap();
    let state = dump(&live);
    let done = chore.run(&AtomicBool::new(false)).unwrap();
    assert!(live.take(done));
    let layer = &live.stack.layers[0];
    assert!(
        layer.table.is_some() && layer.delta.is_empty(),
        "its delta left memory"
    );
    assert_eq!(dump(&live), state);
    assert!(live.next_chore().is_none());
    // A second process that did not know does not do it again.
    let again = chore.run(&AtomicBool::new(false)).unwrap();
    assert!(live.take(again));
    assert_eq!(dump(&live), state);
    live.close().unwrap();
    assert_eq!(dump(&store.read(&branch("a")).unwrap()), state);
}

#[test]
fn a_merge_that_is_told_to_stop_leaves_nothing() {
    let (mem, store) = new_store();
    make(&store, "a", None).unwrap();
    let mut live = store.open_live(&branch("a")).unwrap();
    for n in 0..20 {
        live.commit(file(Ino::ROOT, &file_name(n), ino(n), n))
            .unwrap();
        live.snapshot(&store.hold().unwrap(), None, &[]).unwrap();
    }
    let before = mem.files();
    let chore = live.next_chore().expect("a merged table");
    assert!(chore.run(&AtomicBool::new(true)).is_err());
    assert_eq!(mem.files(), before);
}

/// Of a file that is unlinked and open when the state is frozen nothing stays in the frozen layer.
#[test]
fn what_is_open_and_unlinked_goes_on_in_the_new_layer() {
    let (mem, store) = new_store();
    make(&store, "a", None).unwrap();
    let mut live = store.open_live(&branch("a")).unwrap();
    let (id, object) = live.new_object().unwrap();
    object.write_at(b"open", 0).unwrap();
    let rec = record_with(4, Content::Object(id));
    live.commit(vec![Delta::PutInode(Ino(20), rec)]).unwrap();
    live.commit(vec![Delta::DelInode(Ino(20)), Delta::Orphan(id)])
        .unwrap();
    let frozen = live.snapshot(&store.hold().unwrap(), None, &[]).unwrap();
    assert_eq!(frozen.moved.len(), 1);
    let (old, new) = frozen.moved[0];
    assert!(old == id && live.is_top(new));
    let mut buf = [0; 4];
    let moved = live.open_object(new, true).unwrap();
    moved.read_at(&mut buf, 0).unwrap();
    assert_eq!(&buf, b"open");
    let objects = || {
        let files = mem.files();
        files
            .iter()
            .filter(|p| p.to_string_lossy().contains("/objects/"))
            .count()
    };
    assert_eq!(objects(), 1);
    // Killed: the next opening removes it.
    drop(live);
    store.open_live(&branch("a")).unwrap().close().unwrap();
    assert_eq!(objects(), 0);
}
