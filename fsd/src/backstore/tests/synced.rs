//! What a sync promises: an error is never forgotten, and what nobody synced is all that a loss of power
//! takes, also from a snapshot.

use super::*;
use crate::backstore::LiveBranch;
use crate::backstore::check::{Code, Level};
use crate::backstore::fault::{Fault, FaultMedia};
use crate::backstore::mem::Crash;
use crate::core::point::SnapshotName;

/// Plays `script` on a branch, with an error at each operation in turn; how often it told of one.
fn with_one_error(script: &dyn Fn(&mut LiveBranch) -> Result<bool, StoreError>) -> u32 {
    let mut told = 0;
    for at in 0.. {
        let (mem, store) = new_store();
        make(&store, "a", None).unwrap();
        drop(store);
        let media = FaultMedia::new(Arc::new(mem), at, Fault::Once(nix::libc::EIO));
        let store = Store::on_media(Arc::new(media.clone()), Path::new("/mem"), false);
        let live = store.unwrap().unwrap().open_live(&branch("a"));
        if let Ok(mut live) = live
            && let Ok(true) = script(&mut live)
        {
            told += 1;
        }
        if !media.has_struck() {
            return told;
        }
    }
    unreachable!("the script ends")
}

#[test]
fn a_failed_sync_of_a_file_is_not_followed_by_a_good_one() {
    let told = with_one_error(&|live| {
        let (_, object) = live.new_object()?;
        object.write_at(b"bytes", 0)?;
        if object.sync(true).is_ok() {
            return Ok(false);
        }
        assert!(object.sync(true).is_err(), "the bytes may be gone");
        assert!(object.sync(false).is_err());
        object.write_at(b"more", 5)?;
        assert!(object.sync(true).is_err(), "those before may still be");
        object.set_len(0)?;
        object.sync(true)?;
        Ok(true)
    });
    assert_eq!(told, 1);
}

#[test]
fn what_must_be_synced_before_the_records_is_not_believed_the_second_time() {
    let told = with_one_error(&|live| {
        let (id, object) = live.new_object()?;
        object.write_at(b"bytes", 0)?;
        live.sync_before_records(id);
        let record = record_with(5, Content::Object(id));
        live.commit(vec![Delta::PutInode(Ino(30), record)])?;
        let before = live.journal_sync()?;
        if before.sync().is_ok() {
            return Ok(false);
        }
        assert!(before.sync().is_err());
        assert!(live.journal_sync()?.sync().is_err());
        assert!(live.needs_checkpoint());
        live.checkpoint()?;
        live.journal_sync()?.sync()?;
        Ok(true)
    });
    // The file, its directories, the journal.
    assert!(told > 3, "{told}");
}

/// Freezing costs one sync, so bytes that no program has synced are not on the disk by it.
#[test]
fn a_loss_of_power_takes_from_a_snapshot_only_what_was_not_synced() {
    let (mem, store) = new_store();
    make(&store, "a", None).unwrap();
    let mut live = store.open_live(&branch("a")).unwrap();
    let mut put = |ino: u64, is_synced: bool| {
        let (id, object) = live.new_object().unwrap();
        object.write_at(b"content", 0).unwrap();
        if is_synced {
            object.sync(true).unwrap();
        }
        let record = record_with(7, Content::Object(id));
        live.commit(vec![Delta::PutInode(Ino(ino), record)])
            .unwrap();
    };
    put(30, true);
    put(31, false);
    let name = Some(SnapshotName::new("s").unwrap());
    live.snapshot(&store.hold().unwrap(), name, &[]).unwrap();
    let then = dump(&live);
    drop(live);

    let store = store_on(Arc::new(mem.crash(Crash::Power)));
    make(&store, "b", Some("a@s")).unwrap();
    for point in ["a", "a@s", "b"] {
        let reader = store.read_point(&point.parse().unwrap()).unwrap();
        assert_eq!(dump(&reader), then, "{point}");
        for (ino, len) in [(30, 7), (31, 0)] {
            let record = reader.inode(Ino(ino)).unwrap().unwrap();
            let Content::Object(id) = record.content else {
                panic!("{record:?}")
            };
            let object = reader.open_object(id, false).unwrap();
            assert_eq!(object.len().unwrap(), len, "{point}: {ino}");
        }
    }
    // That one file is named, with what may be the reason, and nothing else is wrong with the layer.
    let report = store.check(&[], &mut |_, _, _| {}).unwrap();
    // The records of this script are no whole tree.
    let of_files = |code| {
        let of_tree = [
            Code::OrphanInode,
            Code::DanglingName,
            Code::Record,
            Code::LinkCount,
            Code::Devices,
        ];
        !of_tree.contains(&code)
    };
    let damage: Vec<_> = (report.left.iter())
        .filter(|found| found.level == Level::Damage && of_files(found.code))
        .collect();
    assert!(!damage.is_empty());
    for found in damage {
        assert_eq!((found.code, found.ino), (Code::ObjectSize, Some(Ino(31))));
        assert!(found.what.contains("a loss of power"), "{found:?}");
    }
    let mut live = store.open_live(&branch("a")).unwrap();
    live.commit(file(Ino::ROOT, "on", Ino(32), 1)).unwrap();
    live.close().unwrap();
    store
        .restore(&branch("a"), &SnapshotName::new("s").unwrap())
        .unwrap();
}
