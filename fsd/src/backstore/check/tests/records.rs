//! Damage in what the layers say, made by commits that no core makes.

use super::*;

/// Commits `deltas` to `a`, on top of a tree that is sound, in its table or its journal.
#[track_caller]
fn after(in_table: bool, deltas: impl FnOnce(&mut LiveBranch) -> Vec<Delta>) -> MemMedia {
    let (mem, store) = prepared();
    let mut live = store.open_live(&branch("a")).unwrap();
    let deltas = deltas(&mut live);
    live.commit(deltas).unwrap();
    if in_table {
        live.checkpoint().unwrap();
    }
    live.close().unwrap();
    mem
}

#[track_caller]
fn both(wanted: &[Code], deltas: impl Fn(&mut LiveBranch) -> Vec<Delta>) {
    for in_table in [false, true] {
        found_and_mended(&after(in_table, &deltas), wanted);
    }
}

fn edit(live: &LiveBranch, ino: Ino, f: impl FnOnce(&mut InodeRec)) -> Delta {
    let mut rec = InodeRec::clone(&live.inode(ino).unwrap().unwrap());
    f(&mut rec);
    put(ino, rec)
}

#[test]
fn a_name_that_leads_nowhere() {
    both(&[Code::DanglingName], |_| vec![Delta::DelInode(LINK)]);
    both(&[Code::DanglingName], |_| {
        vec![entry(SUB, "x", Ino(FIRST + 900), Kind::File)]
    });
}

#[test]
fn a_directory_that_lost_its_record_keeps_what_is_in_it() {
    let mem = after(false, |_| vec![Delta::DelInode(SUB)]);
    let store = store_on(&mem);
    assert!(damage(&look(&store)).contains(&Code::DanglingName));
    let report = store.repair(&[], None, &mut |_, _, _| {}).unwrap();
    assert!(report.is_clean(), "{report:#?}");
    let reader = store.read(&branch("a")).unwrap();
    assert!(reader.inode(SUB).unwrap().is_some());
    let there = reader.dentry(SUB, &name("h")).unwrap();
    assert!(matches!(there, Some(Dentry::Present { ino: TWICE, .. })));
    assert_eq!(reader.inode(TWICE).unwrap().unwrap().nlink, 2);
}

#[test]
fn names_in_what_is_no_directory() {
    both(&[Code::StrayName], |live| {
        let more = edit(live, TWICE, |rec| rec.nlink = 2);
        vec![more, entry(FILE, "inside", TWICE, Kind::File)]
    });
}

#[test]
fn a_name_of_the_wrong_type() {
    both(&[Code::NameKind], |_| {
        vec![entry(DIR, "l", LINK, Kind::Fifo)]
    });
}

#[test]
fn records_that_no_name_leads_to() {
    let report = found_and_mended(
        &after(false, |_| vec![Delta::DelDentry(DIR, name("f"))]),
        &[Code::OrphanInode],
    );
    let told: String = report.repaired.iter().map(|did| did.what.clone()).collect();
    assert!(
        told.contains("lost+found") && told.contains("object.1"),
        "{told}"
    );
    both(&[Code::OrphanInode], |_| {
        vec![put(Ino(FIRST + 40), rec(Kind::Fifo, 1, 0))]
    });
}

#[test]
fn what_a_lost_file_held_is_kept_aside() {
    let mem = after(true, |_| vec![Delta::DelDentry(DIR, name("f"))]);
    let store = store_on(&mem);
    store.repair(&[], None, &mut |_, _, _| {}).unwrap();
    let kept = mem
        .files()
        .into_iter()
        .find(|path| path.ends_with("object.1"));
    let kept = kept.expect("the object is kept");
    assert!(kept.starts_with("lost+found"), "{}", kept.display());
    assert_eq!(mem.file_bytes(&kept).unwrap(), b"hello");
}

#[test]
fn a_lost_tree_is_named_once_and_kept_whole() {
    let mem = after(false, |live| {
        let above = edit(live, Ino(DIR.0), |rec| rec.nlink = 2);
        vec![above, Delta::DelDentry(DIR, name("sub"))]
    });
    // `h` in it is one of two names.
    let report = found_and_mended(&mem, &[Code::OrphanInode, Code::LinkCount]);
    let named = report
        .findings
        .iter()
        .filter(|f| f.code == Code::OrphanInode);
    assert_eq!(named.count(), 1);
}

#[test]
fn link_counts() {
    both(&[Code::LinkCount], |live| {
        vec![edit(live, FILE, |rec| rec.nlink = 3)]
    });
    both(&[Code::LinkCount], |live| {
        vec![edit(live, TWICE, |rec| rec.nlink = 1)]
    });
    both(&[Code::LinkCount], |live| {
        vec![edit(live, DIR, |rec| rec.nlink = 2)]
    });
    both(&[Code::LinkCount], |live| {
        vec![edit(live, BASE, |rec| rec.nlink = 0)]
    });
}

#[test]
fn more_names_of_a_base_file_than_it_had_are_no_damage() {
    let mem = after(false, |_| vec![entry(SUB, "again", BASE, Kind::File)]);
    let report = look(&store_on(&mem));
    assert!(report.is_clean(), "{report:#?}");
    assert_eq!(report.left[0].code, Code::LinkCount);
    assert_eq!(report.left[0].place.as_deref(), Some(b"/base".as_slice()));
}

#[test]
fn a_changed_file_that_only_the_host_names_is_told() {
    for is_changed in [true, false] {
        let mem = after(false, |live| {
            let mut deltas = vec![Delta::DelDentry(Ino::ROOT, name("base"))];
            if !is_changed {
                let Content::Extents { own, .. } = live.inode(BASE).unwrap().unwrap().content
                else {
                    panic!("it has no object");
                };
                deltas.push(edit(live, BASE, |rec| rec.content = Content::Base));
                deltas.push(Delta::Orphan(own));
                deltas.push(Delta::SetExtents(BASE, Arc::default()));
            }
            deltas
        });
        let report = look(&store_on(&mem));
        assert!(report.is_clean(), "{report:#?}");
        let told = report
            .left
            .iter()
            .any(|f| (f.code, f.ino) == (Code::OrphanInode, Some(BASE)));
        assert_eq!(told, is_changed, "{report:#?}");
    }
}

#[test]
fn a_directory_with_two_names() {
    both(&[Code::DirectoryNames], |_| {
        vec![entry(Ino::ROOT, "second", SUB, Kind::Dir)]
    });
}

#[test]
fn a_directory_below_itself() {
    let mem = after(false, |live| {
        // Away from the root, and into its own child.
        let sub = edit(live, SUB, |rec| rec.nlink = 3);
        let away = Delta::DelDentry(Ino::ROOT, name("d"));
        vec![sub, away, entry(SUB, "d", DIR, Kind::Dir)]
    });
    found_and_mended(&mem, &[Code::DirectoryLoop]);
}

#[test]
fn records_that_contradict_themselves_are_named_and_left() {
    type Change = fn(&mut InodeRec);
    let cases: [(Ino, Change); 5] = [
        (LINK, |rec| rec.symlink = None),
        (SUB, |rec| rec.dirty = true),
        (SUB, |rec| rec.blocks = Some(0)),
        (FILE, |rec| rec.content = Content::Base),
        (BASE, |rec| rec.origin = None),
    ];
    for (ino, change) in cases {
        let mem = after(false, |live| vec![edit(live, ino, change)]);
        let store = store_on(&mem);
        let found = damage(&look(&store));
        assert!(found.contains(&Code::Record), "{ino}: {found:?}");
        let report = store.repair(&[], None, &mut |_, _, _| {}).unwrap();
        assert!(!report.is_clean());
        assert!(store.open_live(&branch("other")).is_ok());
    }
}

#[test]
fn a_device_that_nobody_listed() {
    let mem = after(false, |live| {
        let mut rec = InodeRec::clone(&live.inode(BASE).unwrap().unwrap());
        rec.content = Content::Base;
        let ino = Ino(9 << 48 | 5);
        vec![put(ino, rec), entry(SUB, "far", ino, Kind::File)]
    });
    assert_eq!(
        damage(&look(&store_on(&mem))),
        BTreeSet::from([Code::Devices])
    );
}

#[test]
fn objects_that_do_not_fit_their_records() {
    both(&[Code::ObjectSize], |live| {
        vec![edit(live, FILE, |rec| rec.size = 9)]
    });
    both(&[Code::ObjectSize], |live| {
        vec![edit(live, BASE, |rec| rec.size = 90)]
    });
    both(&[Code::ObjectMissing], |live| {
        let none = ObjectId {
            layer: live.info().layers[0],
            number: 2_000,
        };
        let lost = edit(live, FILE, |rec| rec.content = Content::Object(none));
        vec![lost, Delta::Orphan(ObjectId { number: 1, ..none })]
    });
    // While writers may have been at it, the object is the truth.
    let mem = after(false, |live| {
        vec![edit(live, FILE, |rec| (rec.size, rec.dirty) = (9, true))]
    });
    assert_eq!(look(&store_on(&mem)).findings, []);
}

#[test]
fn an_object_of_two_records() {
    let mem = after(false, |live| {
        let content = live.inode(FILE).unwrap().unwrap().content.clone();
        let two = InodeRec {
            content,
            ..rec(Kind::File, 1, 5)
        };
        let ino = live.alloc_ino();
        vec![put(ino, two), entry(SUB, "two", ino, Kind::File)]
    });
    assert_eq!(
        damage(&look(&store_on(&mem))),
        BTreeSet::from([Code::ObjectShared])
    );
}

#[test]
fn extents_that_reach_too_far() {
    both(&[Code::Extents], |live| {
        let Content::Extents { own, .. } = live.inode(BASE).unwrap().unwrap().content else {
            panic!()
        };
        vec![Delta::PutExtent(BASE, 60, 10, ExtentSource::Object(own))]
    });
    both(&[Code::Extents], |live| {
        vec![edit(live, BASE, |rec| {
            if let Content::Extents { base_bytes, .. } = &mut rec.content {
                *base_bytes = 65;
            }
        })]
    });
}

#[test]
fn an_object_that_nothing_uses() {
    let (mem, store) = prepared();
    let path = top(&store, "a").join("objects/00/3");
    let bytes = mem.file_bytes(&path).unwrap();
    let mut live = store.open_live(&branch("a")).unwrap();
    // Its record lets go of it without saying so.
    live.commit(vec![
        edit(&live, BASE, |rec| {
            (rec.content, rec.size) = (Content::Base, 64);
        }),
        Delta::SetExtents(BASE, Arc::default()),
    ])
    .unwrap();
    live.close().unwrap();
    found_and_mended(&mem, &[Code::ObjectLeak]);
    let kept = mem
        .files()
        .into_iter()
        .find(|path| path.ends_with("object.3"));
    assert_eq!(mem.file_bytes(&kept.unwrap()).unwrap(), bytes);
}

#[test]
fn damage_in_a_shared_layer_is_mended_branch_by_branch() {
    let mem = after(true, |_| vec![Delta::DelInode(LINK)]);
    let store = store_on(&mem);
    make(&store, "child", Some("a"));
    let report = look(&store);
    assert_eq!(damage(&report), BTreeSet::from([Code::DanglingName]));
    let of: BTreeSet<_> = report
        .left
        .iter()
        .flat_map(|f| f.branches.clone())
        .collect();
    assert_eq!(of, BTreeSet::from([branch("a"), branch("child")]));
    let held = store.open_live(&branch("child")).unwrap();
    let report = store.repair(&[], None, &mut |_, _, _| {}).unwrap();
    assert!(
        !report.is_clean() && !report.skipped.is_empty(),
        "{report:#?}"
    );
    drop(held);
    assert!(
        store
            .repair(&[], None, &mut |_, _, _| {})
            .unwrap()
            .is_clean()
    );
}
