//! Whatever call fails, and wherever the process dies, the check finds nothing to complain of.

use super::*;
use crate::backstore::fault::{Fault, FaultMedia};

/// A branch that was killed with an unlinked file open and an object nobody had named yet.
fn killed_in_the_middle() -> MemMedia {
    let mem = MemMedia::new();
    let store = store_on(&mem);
    make(&store, "a", None);
    let mut live = store.open_live(&branch("a")).unwrap();
    fill(&mut live);
    live.checkpoint().unwrap();
    let id = object(&mut live, b"open");
    let ino = live.alloc_ino();
    live.commit(vec![
        put(ino, file_of(id, 1, 4)),
        entry(SUB, "open", ino, Kind::File),
    ])
    .unwrap();
    live.commit(vec![
        Delta::DelInode(ino),
        Delta::DelDentry(SUB, name("open")),
        Delta::Orphan(id),
    ])
    .unwrap();
    object(&mut live, b"unnamed");
    drop(live);
    mem.crash(Crash::Process)
}

/// Everything that an owner does; stops at the first error.
fn script(store: &Store) -> Result<(), StoreError> {
    let mut live = store.open_live(&branch("a"))?;
    // The branch goes on where one commit fails.
    let (id, _) = live.new_object()?;
    let ino = live.alloc_ino();
    let dir = entry(DIR, "new", ino, Kind::File);
    if live.commit(vec![put(ino, file_of(id, 1, 0)), dir]).is_err() {
        live.remove_object(id);
    } else {
        let gone = [
            Delta::DelInode(ino),
            Delta::DelDentry(DIR, name("new")),
            Delta::Orphan(id),
        ];
        if live.commit(gone.to_vec()).is_ok() {
            live.remove_object(id);
        }
    }
    let _ = live.checkpoint();
    object_quietly(&mut live);
    live.close()?;
    make_quietly(store)?;
    store.remove_branch(&branch("b"))
}

fn object_quietly(live: &mut LiveBranch) {
    let _ = live.new_object();
}

fn make_quietly(store: &Store) -> Result<(), StoreError> {
    let workspace = "/w".into();
    let new = NewBranch { workspace };
    store
        .create_branch(&branch("b"), Some(&branch("a").into()), new)
        .map(drop)
}

#[test]
fn no_failing_call_and_no_death_makes_damage() {
    let start = killed_in_the_middle();
    assert!(look(&store_on(&start)).is_clean());
    let faults = [
        Fault::Once(nix::libc::ENOSPC),
        Fault::Once(nix::libc::EIO),
        Fault::Always(nix::libc::EIO),
        Fault::FullDisk,
        Fault::Stop,
        Fault::StopAfter,
        Fault::Tear,
    ];
    for fault in faults {
        let mut struck = 0;
        for at in 0.. {
            let mem = start.crash(Crash::Process);
            let media = Arc::new(FaultMedia::new(Arc::new(mem.clone()), at, fault));
            let store = Store::on_media(media.clone(), Path::new("/mem"), false);
            let answer = store.map(|store| store.map(|store| script(&store)));
            if !media.has_struck() {
                assert!(matches!(answer, Ok(Some(Ok(())))), "{answer:?}");
                break;
            }
            struck += 1;
            let after = mem.crash(Crash::Process);
            let store = store_on(&after);
            let report = look(&store);
            assert!(report.is_clean(), "{fault:?} at {at}: {report:#?}");
            // Nor does the next opening, and all that is rubbish goes with a repair.
            store.open_live(&branch("a")).unwrap().close().unwrap();
            let report = store.repair(&[], None, &mut |_, _, _| {}).unwrap();
            assert_eq!(report.left, [], "{fault:?} at {at}");
            assert!(
                after
                    .files()
                    .iter()
                    .all(|path| !path.starts_with("lost+found"))
            );
        }
        assert!(struck > 20, "{fault:?} struck {struck} times");
    }
}
