//! What only snapshots show is looked at too, and named by them.

use super::*;
use crate::core::point::SnapshotName;

fn snap(text: &str) -> SnapshotName {
    SnapshotName::new(text).unwrap()
}

/// As [`prepared`], and `a@late` holds a layer that nobody else does: a file more, and another word
/// on one that `a` has.
fn beside() -> (MemMedia, Store, PathBuf) {
    let (mem, store) = prepared();
    store
        .create_snapshot(&branch("a"), Some(snap("early")))
        .unwrap();
    let mut live = store.open_live(&branch("a")).unwrap();
    let id = object(&mut live, b"beside");
    let more = object(&mut live, b"more");
    let ino = live.alloc_ino();
    live.commit(vec![
        put(ino, file_of(id, 1, 6)),
        entry(DIR, "beside", ino, Kind::File),
        put(FILE, file_of(more, 1, 4)),
    ])
    .unwrap();
    live.close().unwrap();
    store
        .create_snapshot(&branch("a"), Some(snap("late")))
        .unwrap();
    let layers = store.branch(&branch("a")).unwrap().layers;
    let layer = crate::backstore::store::layer_dir(layers[layers.len() - 2]);
    store.restore(&branch("a"), &snap("early")).unwrap();
    assert!(look(&store).is_clean(), "{:#?}", look(&store).findings);
    (mem, store, layer)
}

fn points(report: &Report) -> BTreeSet<String> {
    let bad = report.findings.iter().filter(|f| f.level == Level::Damage);
    bad.flat_map(|f| f.points.iter().map(ToString::to_string))
        .collect()
}

fn refuses_children(store: &Store, point: &str, file: &str) {
    let from = point.parse().unwrap();
    let workspace = "/w".into();
    let made = store.create_branch(&branch("child"), Some(&from), NewBranch { workspace });
    match made {
        Err(StoreError::Damaged { path, .. }) => {
            assert!(path.to_string_lossy().contains(file), "{path:?}");
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        store.branch(&branch("child")),
        Err(StoreError::NoBranch(_))
    ));
}

#[test]
fn a_flipped_bit_in_a_journal_that_only_a_snapshot_has_is_found_and_cut() {
    let (mem, store, layer) = beside();
    let path = find(&mem, &layer, "journal.0");
    let mut bytes = mem.file_bytes(&path).unwrap();
    let last = bytes.len() - 3;
    bytes[last] ^= 1;
    mem.set_file_bytes(&path, &bytes).unwrap();
    let report = look(&store);
    assert_eq!(damage(&report), [Code::Journal].into());
    assert_eq!(points(&report), ["a@late".to_owned()].into());
    refuses_children(&store, "a@late", "journal.0");
    // The rest still opens.
    store.open_live(&branch("a")).unwrap().close().unwrap();
    make(&store, "of-early", None);
    found_and_mended(&mem, &[Code::Journal]);
    let reader = store.read_point(&"a@late".parse().unwrap()).unwrap();
    assert_eq!(
        reader.dentry(DIR, &name("beside")).unwrap(),
        None,
        "it was cut"
    );
    let losses = store.losses(&branch("a")).unwrap();
    assert_eq!(losses.listed.len(), 1);
}

#[test]
fn a_flipped_bit_in_a_table_that_only_a_snapshot_has_is_found_and_mended() {
    let (mem, store, layer) = beside();
    // Long journals become tables.
    let media: Arc<dyn Media> = Arc::new(mem.clone());
    let ids = &store.branch(&branch("a")).unwrap().snapshots[1].layers;
    let stack = store
        .load_frozen(ids, crate::backstore::load::Floor::None)
        .unwrap();
    let (view, below) = stack.layers.split_last().unwrap();
    let done = crate::backstore::chore::tabulate(
        &store,
        view,
        crate::backstore::stack::Lower {
            floor: None,
            layers: below,
        },
    );
    assert!(done.unwrap().is_some());
    drop(media);
    let path = find(&mem, &layer, "table.");
    let mut bytes = mem.file_bytes(&path).unwrap();
    bytes[48] ^= 1;
    mem.set_file_bytes(&path, &bytes).unwrap();
    let report = look(&store);
    assert_eq!(damage(&report), [Code::Table].into());
    assert_eq!(points(&report), ["a@late".to_owned()].into());
    refuses_children(&store, "a@late", "table.");
    found_and_mended(&mem, &[Code::Table]);
    let reader = store.read_point(&"a@late".parse().unwrap()).unwrap();
    assert!(reader.dentry(DIR, &name("beside")).unwrap().is_some());
}

#[test]
fn an_object_that_only_a_snapshot_shows_is_missed_and_measured() {
    for (shorten, code) in [(false, Code::ObjectMissing), (true, Code::ObjectSize)] {
        // Once in a layer that only the snapshot has, once in one that the branch hides.
        let (mem, store, layer) = beside();
        let path = find(&mem, &layer.join("objects/00"), "1");
        match shorten {
            true => mem.set_file_bytes(&path, b"x").unwrap(),
            false => Media::unlink(&mem, &path).unwrap(),
        }
        let report = look(&store);
        assert!(damage(&report).contains(&code), "{:#?}", report.findings);
        assert_eq!(points(&report), ["a@late".to_owned()].into());
        let (mem, store) = prepared();
        store
            .create_snapshot(&branch("a"), Some(snap("s")))
            .unwrap();
        let mut live = store.open_live(&branch("a")).unwrap();
        let id = object(&mut live, b"anew!");
        live.commit(vec![put(FILE, file_of(id, 1, 5))]).unwrap();
        live.close().unwrap();
        let layers = store.branch(&branch("a")).unwrap().layers;
        let path = crate::backstore::store::layer_dir(layers[0]).join("objects/00/1");
        match shorten {
            true => mem.set_file_bytes(&path, b"x").unwrap(),
            false => Media::unlink(&mem, &path).unwrap(),
        }
        let report = look(&store);
        assert_eq!(damage(&report), [code].into(), "{:#?}", report.findings);
        assert_eq!(points(&report), ["a@s".to_owned()].into());
        store.remove_snapshot(&branch("a"), &snap("s")).unwrap();
        assert!(look(&store).is_clean(), "nobody shows it any more");
    }
}

/// A branch with a merged table, and where that is.
fn merged() -> (MemMedia, Store, PathBuf) {
    let (mem, store) = prepared();
    for _ in 0..5 {
        store.create_snapshot(&branch("a"), None).unwrap();
        let mut live = store.open_live(&branch("a")).unwrap();
        let id = object(&mut live, b"anew!");
        live.commit(vec![put(FILE, file_of(id, 1, 5))]).unwrap();
        live.close().unwrap();
    }
    store.gc(false, &mut |_, _, _| {}).unwrap();
    let path = mem.files().into_iter().find(|p| p.ends_with("merged"));
    assert!(look(&store).is_clean(), "{:#?}", look(&store).findings);
    (mem, store, path.unwrap())
}

#[test]
fn a_bad_merged_table_is_found_and_goes() {
    let (good, store, path) = merged();
    let bytes = good.file_bytes(&path).unwrap();
    for at in [9, 40, 5000, bytes.len() - 1] {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        good.set_file_bytes(&path, &bad).unwrap();
        let mem = good.crash(Crash::Process);
        found_and_mended(&mem, &[Code::Merged]);
        assert!(!mem.files().contains(&path), "at {at}");
    }
    // One that is whole, and tells of other layers or other records.
    let other = store.branch(&branch("a")).unwrap().layers[1];
    let elsewhere = crate::backstore::store::layer_dir(other).join("merged");
    let media: &dyn Media = &good;
    good.set_file_bytes(&path, &bytes).unwrap();
    media.rename(&path, &elsewhere, true).unwrap();
    found_and_mended(&good, &[Code::Merged]);
}

#[test]
fn a_merged_table_that_says_something_else_is_found() {
    let (mem, store, path) = merged();
    // The layers are cut behind its back.
    let layers = store.branch(&branch("a")).unwrap().layers;
    let journal = crate::backstore::store::layer_dir(layers[4]).join("journal.0");
    let bytes = mem.file_bytes(&journal).unwrap();
    mem.set_file_bytes(&journal, &bytes[..40]).unwrap();
    let sound = crate::backstore::store::layer_dir(layers[4]).join("sound");
    Media::unlink(&mem, &sound).unwrap();
    let report = look(&store);
    assert!(
        damage(&report).contains(&Code::Merged),
        "{:#?}",
        report.findings
    );
    store.repair(&[], None, &mut |_, _, _| {}).unwrap();
    assert!(!mem.files().contains(&path));
}

/// What a repair takes out of a layer is in no merged table afterwards.
#[test]
fn mending_a_layer_takes_the_merged_tables_on_it_away() {
    let (mem, store, path) = merged();
    let layers = store.branch(&branch("a")).unwrap().layers;
    let journal = crate::backstore::store::layer_dir(layers[2]).join("journal.0");
    let mut bytes = mem.file_bytes(&journal).unwrap();
    let last = bytes.len() - 3;
    bytes[last] ^= 1;
    mem.set_file_bytes(&journal, &bytes).unwrap();
    found_and_mended(&mem, &[Code::Journal]);
    assert!(!mem.files().contains(&path));
}
