//! Damage in the files of a store: flipped bits, cut and missing files, rubbish.

use super::*;
use crate::backstore::codec;
use crate::backstore::journal::FRAME_HEADER_BYTES;
use crate::backstore::table;

/// Ends of the frames of a journal, from its header on.
fn frame_ends(bytes: &[u8]) -> Vec<usize> {
    let mut at = crate::backstore::journal::HEADER_BYTES as usize;
    let mut ends = vec![at];
    while at < bytes.len() {
        let len = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        at += FRAME_HEADER_BYTES + len as usize;
        ends.push(at);
    }
    ends
}

/// As [`prepared`], but with `a` killed: no note that its journal was sound, no table.
fn killed() -> (MemMedia, Store) {
    let mem = MemMedia::new();
    let store = store_on(&mem);
    make(&store, "a", None);
    make(&store, "other", None);
    let mut live = store.open_live(&branch("a")).unwrap();
    fill(&mut live);
    drop(live);
    let mem = mem.crash(Crash::Process);
    let store = store_on(&mem);
    (mem, store)
}

#[test]
fn a_killed_branch_is_sound_wherever_its_journal_ends() {
    let (mem, store) = killed();
    let path = top(&store, "a").join("journal.0");
    let good = mem.file_bytes(&path).unwrap();
    let ends = frame_ends(&good);
    assert!(ends.len() > 6);
    for end in 40..=good.len() {
        mem.set_file_bytes(&path, &good[..end]).unwrap();
        let report = look(&store);
        assert!(report.is_clean(), "cut at {end}: {report:#?}");
        let torn = report
            .left
            .iter()
            .any(|finding| finding.code == Code::JournalTail);
        assert_eq!(torn, !ends.contains(&end), "cut at {end}: {report:#?}");
    }
    let end = ends[3] + 5;
    mem.set_file_bytes(&path, &good[..end]).unwrap();
    let report = store.repair(&[], None, &mut |_, _, _| {}).unwrap();
    assert!(
        report.is_clean() && look(&store).findings.is_empty(),
        "{report:#?}"
    );
}

#[test]
fn no_flipped_bit_of_a_checksummed_file_is_taken_for_sound() {
    let (mem, store) = prepared();
    make(&store, "child", Some("a"));
    store
        .put_run(
            &branch("a"),
            &crate::backstore::RunRecord {
                command: vec!["true".into()],
                cwd: "/".into(),
                pid: 1,
                start_ticks: 0,
                started: Time { sec: 1, nsec: 0 },
                ended: None,
                exit: None,
            },
        )
        .unwrap();
    assert_eq!(look(&store).findings, []);
    let mut seen = BTreeSet::new();
    for path in mem.files() {
        let file = path.file_name().unwrap().to_string_lossy().into_owned();
        let kind = file.split('.').next().unwrap().to_owned();
        let is_checked = ["format", "branch", "run", "journal", "table"].contains(&&*kind)
            && !file.ends_with(".lock")
            && !file.ends_with(".stage");
        let good = mem.file_bytes(&path).unwrap();
        for at in (0..good.len()).step_by((good.len() / 23).max(1)) {
            let copy = mem.crash(Crash::Process);
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            copy.set_file_bytes(&path, &bad).unwrap();
            let opened = Store::for_check(Arc::new(copy.clone()), Path::new("/mem"));
            let store = opened.unwrap().unwrap();
            let report = match store.check(&[], &mut |_, _, _| {}) {
                Ok(report) => report,
                Err(e) => panic!("{} at {at}: {e}", path.display()),
            };
            if is_checked {
                assert!(
                    !report.is_clean(),
                    "{} at {at}: {report:#?}",
                    path.display()
                );
                seen.insert(kind.clone());
            }
            if at % 3 != 0 {
                continue;
            }
            // Nothing that a repair does makes things worse.
            let left = store.repair(&[], None, &mut |_, _, _| {}).unwrap();
            if kind == "branch" || !left.is_clean() {
                assert!(
                    kind == "branch" || kind == "table",
                    "{}: {left:#?}",
                    path.display()
                );
                continue;
            }
            for text in ["a", "other", "child"] {
                let live = store_on(&copy).open_live(&branch(text)).unwrap();
                live.close().unwrap();
            }
            assert!(look(&store).is_clean());
        }
    }
    assert_eq!(seen.len(), 5, "{seen:?}");
}

#[test]
fn a_bad_frame_before_sound_ones_is_cut_and_what_it_named_is_kept() {
    let (mem, store) = killed();
    let path = top(&store, "a").join("journal.0");
    let mut bytes = mem.file_bytes(&path).unwrap();
    let ends = frame_ends(&bytes);
    bytes[ends[3] + 20] ^= 4;
    mem.set_file_bytes(&path, &bytes).unwrap();
    let report = found_and_mended(&mem, &[Code::Journal]);
    let told: String = report.repaired.iter().map(|did| did.what.clone()).collect();
    assert!(told.contains(&format!("cut.{}", ends[3])), "{told}");
    let kept: Vec<_> = mem
        .files()
        .into_iter()
        .filter(|p| p.starts_with("lost+found"))
        .collect();
    let cut = kept.iter().find(|p| p.to_string_lossy().contains(".cut."));
    assert_eq!(mem.file_bytes(cut.unwrap()).unwrap(), bytes[ends[3]..]);
    let hello = kept.iter().find(|p| p.ends_with("object.1"));
    assert_eq!(mem.file_bytes(hello.unwrap()).unwrap(), b"hello");
}

#[test]
fn a_journal_shorter_than_it_was_or_missing_or_with_a_bad_head() {
    let (mem, store) = prepared();
    let path = find(&mem, &top(&store, "a"), "journal.");
    let good = mem.file_bytes(&path).unwrap();
    let ends = frame_ends(&good);
    let copy = mem.crash(Crash::Process);
    copy.set_file_bytes(&path, &good[..ends[1]]).unwrap();
    found_and_mended(&copy, &[Code::Journal]);
    let copy = mem.crash(Crash::Process);
    copy.unlink(&path).unwrap();
    found_and_mended(&copy, &[Code::Journal]);
    let copy = mem.crash(Crash::Process);
    let mut bad = good.clone();
    bad[30] ^= 1;
    copy.set_file_bytes(&path, &bad).unwrap();
    found_and_mended(&copy, &[Code::Journal]);
    let reader = store_on(&copy).read(&branch("a")).unwrap();
    let late = reader.dentry(DIR, &name("late")).unwrap();
    assert!(late.is_some(), "frames behind a bad head are not lost");
}

#[test]
fn a_frame_that_makes_no_sense() {
    let (mem, store) = killed();
    let path = top(&store, "a").join("journal.0");
    let mut bytes = mem.file_bytes(&path).unwrap();
    let ends = frame_ends(&bytes);
    // A whole frame of an unknown item, its checksum right.
    let mut frame = vec![0u8; FRAME_HEADER_BYTES + 1];
    frame[0] = 1;
    frame[8..16].copy_from_slice(&(ends.len() as u64).to_le_bytes());
    frame[16] = 200;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&frame[..4]), &frame[8..]);
    frame[4..8].copy_from_slice(&crc.to_le_bytes());
    assert!(codec::decode_items(&frame[16..]).is_err());
    bytes.extend(frame);
    mem.set_file_bytes(&path, &bytes).unwrap();
    found_and_mended(&mem, &[Code::Journal]);
}

#[test]
fn all_records_of_a_sound_table_can_be_salvaged() {
    let mem = MemMedia::new();
    let store = store_on(&mem);
    make(&store, "a", None);
    let mut live = store.open_live(&branch("a")).unwrap();
    for i in 0..3_000u64 {
        let ino = live.alloc_ino();
        let mut rec = rec(Kind::File, 1, i);
        // Some records need pages of their own.
        if i % 500 == 0 {
            rec.xattrs.insert(
                Arc::from(b"user.big".as_slice()),
                vec![i as u8; 40_000].into(),
            );
        }
        let map: ExtentMap = [(i, (3, ExtentSource::Zero))].into();
        let long = format!("{i}-{}", "n".repeat((i % 200) as usize));
        let mut deltas = vec![put(ino, rec), entry(Ino::ROOT, &long, ino, Kind::File)];
        if i % 3 == 0 {
            deltas.push(Delta::SetExtents(ino, Arc::new(map)));
        }
        live.commit(deltas).unwrap();
    }
    live.checkpoint().unwrap();
    let id = live.info().layers[0];
    let media = mem.sub(&top(&store, "a")).unwrap();
    let saved = table::salvage(&*media, id, 1).unwrap();
    let table = table::Table::open(&*media, id, 1).unwrap();
    let inodes: BTreeMap<_, _> = table.walk_inodes().unwrap().map(Result::unwrap).collect();
    let names: BTreeMap<_, _> = table
        .walk_dentries(None)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let extents: BTreeMap<_, _> = table.walk_extents().unwrap().map(Result::unwrap).collect();
    assert_eq!(
        (inodes.len(), names.len(), extents.len()),
        (3_000, 3_000, 1_000)
    );
    assert!(saved.inodes == inodes);
    assert!(saved.dentries == names);
    assert!(saved.extents == extents);
    // With one block gone, all but what was in it.
    live.close().unwrap();
    let path = find(&mem, &top(&store, "a"), "table.");
    let good = mem.file_bytes(&path).unwrap();
    let (mut worst, mut damaged) = (0, 0);
    for block in (1..good.len() / 4096).step_by(7) {
        let mut bad = good.clone();
        bad[block * 4096 + 1000] ^= 16;
        mem.set_file_bytes(&path, &bad).unwrap();
        let Some(saved) = table::salvage(&*media, id, 1) else {
            continue;
        };
        assert!(
            saved
                .inodes
                .iter()
                .all(|(ino, word)| inodes.get(ino) == Some(word))
        );
        assert!(
            saved
                .dentries
                .iter()
                .all(|(key, word)| names.get(key) == Some(word))
        );
        worst = worst.max(inodes.len() - saved.inodes.len());
        damaged += usize::from(saved.inodes.len() < inodes.len());
    }
    assert!(
        damaged > 3 && worst < 200,
        "{damaged} blocks cost records, at most {worst}"
    );
}

#[test]
fn a_table_with_a_bad_block_is_written_anew_from_the_others() {
    const MANY: u32 = 150;
    let (mem, store) = prepared();
    let mut live = store.open_live(&branch("a")).unwrap();
    for i in 0..MANY {
        let id = object(&mut live, format!("{i}").as_bytes());
        let ino = live.alloc_ino();
        let size = format!("{i}").len() as u64;
        let text = format!("many{i}");
        live.commit(vec![
            put(ino, file_of(id, 1, size)),
            entry(DIR, &text, ino, Kind::File),
        ])
        .unwrap();
    }
    live.checkpoint().unwrap();
    live.close().unwrap();
    let objects = |mem: &MemMedia| {
        let all: BTreeSet<_> = mem
            .files()
            .iter()
            .map(|path| mem.file_bytes(path).unwrap())
            .collect();
        (0..MANY).all(|i| all.contains(format!("{i}").as_bytes()))
    };
    assert!(objects(&mem));
    let path = find(&mem, &top(&store, "a"), "table.");
    let good = mem.file_bytes(&path).unwrap();
    for block in 1..good.len() / 4096 {
        let copy = mem.crash(Crash::Process);
        let mut bad = good.clone();
        bad[block * 4096 + 9] ^= 1;
        copy.set_file_bytes(&path, &bad).unwrap();
        let report = found_and_mended(&copy, &[Code::Table]);
        assert!(report.repaired[0].what.contains("anew with"), "{report:#?}");
        assert!(objects(&copy), "no bytes are lost, block {block}");
    }
}

#[test]
fn numbers_and_counts_in_the_head_of_a_table() {
    for (field, value, code) in [
        (48, FIRST, Code::NumberReuse),
        (56, 1, Code::NumberReuse),
        (72, 99, Code::TableFacts),
        (80, 99, Code::TableFacts),
    ] {
        let (mem, store) = prepared();
        let path = find(&mem, &top(&store, "a"), "table.");
        let mut bytes = mem.file_bytes(&path).unwrap();
        bytes[field..field + 8].copy_from_slice(&u64::to_le_bytes(value));
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..88]), &bytes[92..4096]);
        bytes[88..92].copy_from_slice(&crc.to_le_bytes());
        mem.set_file_bytes(&path, &bytes).unwrap();
        found_and_mended(&mem, &[code]);
    }
}

#[test]
fn what_is_missing_or_foreign_in_the_store_is_named() {
    let (mem, store) = prepared();
    mem.unlink(Path::new("format")).unwrap();
    found_and_mended(&mem, &[Code::Format]);

    let copy = mem.crash(Crash::Process);
    copy.unlink(Path::new("branches/a/branch.json")).unwrap();
    let report = store_on(&copy)
        .repair(&[], None, &mut |_, _, _| {})
        .unwrap();
    assert_eq!(damage(&report), BTreeSet::from([Code::BranchMetadata]));
    // What may be its layer stays.
    assert_eq!(copy.list(Path::new("layers")).unwrap().len(), 2);
    assert!(store_on(&copy).open_live(&branch("other")).is_ok());

    let copy = mem.crash(Crash::Process);
    copy.rename(&top(&store, "a"), Path::new("trash/x"), false)
        .unwrap();
    let report = look(&store_on(&copy));
    assert_eq!(damage(&report), BTreeSet::from([Code::LayerMissing]));

    // A branch copied by hand.
    let copy = mem.crash(Crash::Process);
    copy.mkdir(Path::new("branches/twin")).unwrap();
    let bytes = copy
        .file_bytes(Path::new("branches/a/branch.json"))
        .unwrap();
    let to = Path::new("branches/twin/branch.json");
    drop(
        copy.open(to, crate::backstore::media::OpenMode::CreateNew)
            .unwrap(),
    );
    copy.set_file_bytes(to, &bytes).unwrap();
    assert_eq!(
        damage(&look(&store_on(&copy))),
        BTreeSet::from([Code::BranchMetadata])
    );
}

#[test]
fn rubbish_is_noted_and_swept_and_lost_layers_are_kept() {
    let (mem, store) = prepared();
    let lost = top(&store, "other");
    for dir in ["stage/00", "trash/x", "layers/00000000000000aa"] {
        mem.mkdir(Path::new(dir)).unwrap();
    }
    let files = [
        "format.1.stage",
        "stage/00/branch.json",
        "branches/a/run.json.2.stage",
    ];
    for file in files.map(PathBuf::from).into_iter().chain([
        top(&store, "a").join("table.00.stage"),
        top(&store, "a").join("journal.9"),
    ]) {
        drop(
            mem.open(&file, crate::backstore::media::OpenMode::CreateNew)
                .unwrap(),
        );
    }
    let report = look(&store);
    assert!(report.is_clean());
    assert_eq!(report.left.len(), 7, "{report:#?}");
    let report = store.repair(&[], None, &mut |_, _, _| {}).unwrap();
    assert_eq!(report.left, [], "{report:#?}");
    // A branch whose directory is gone: nobody knows why, so its layer is not thrown away.
    for entry in mem.list(Path::new("branches/other")).unwrap() {
        mem.unlink(&Path::new("branches/other").join(entry.name))
            .unwrap();
    }
    mem.rmdir(Path::new("branches/other")).unwrap();
    let report = store.repair(&[], None, &mut |_, _, _| {}).unwrap();
    assert!(report.is_clean(), "{report:#?}");
    let kept =
        Path::new("lost+found").join(format!("layer.{}", lost.file_name().unwrap().display()));
    assert!(!mem.list(&kept).unwrap().is_empty());
}

#[test]
fn a_live_branch_is_looked_at_and_left_alone() {
    let (mem, store) = prepared();
    let mut live = store.open_live(&branch("a")).unwrap();
    let id = object(&mut live, b"open");
    let ino = live.alloc_ino();
    live.commit(vec![
        put(ino, file_of(id, 1, 99)),
        entry(DIR, "open", ino, Kind::File),
    ])
    .unwrap();
    let report = store.repair(&[], None, &mut |_, _, _| {}).unwrap();
    assert!(
        report.is_clean() && report.repaired.is_empty(),
        "{report:#?}"
    );
    assert_eq!(report.skipped, [], "there was nothing to mend");
    // A rule that holds at every frame's end is checked on a live branch too.
    live.commit(vec![Delta::DelInode(LINK)]).unwrap();
    let report = store.repair(&[], None, &mut |_, _, _| {}).unwrap();
    assert_eq!(damage(&report), BTreeSet::from([Code::DanglingName]));
    assert!(
        report.repaired.is_empty() && !report.skipped.is_empty(),
        "{report:#?}"
    );
    drop(live);
    assert!(
        mem.files()
            .iter()
            .all(|path| !path.starts_with("lost+found"))
    );
}
