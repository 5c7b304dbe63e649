//! Two more sweeps over every operation on the media. One: files are open for native writing while
//! snapshots are made, and the process dies. The other: a call fails, by full disk or by error, and the
//! branch goes on, with nothing lost of what was done before and after.

use super::*;
use crate::backstore::check::{Code, Level};
use crate::backstore::fault::{Fault, FaultMedia};
use crate::backstore::mem::Crash;
use crate::backstore::{Kept, LiveBranch, ObjectFile};
use crate::core::point::SnapshotName;

/// The file that programs write past the store.
const OPEN: Ino = Ino(20);

/// What must be found after the process died.
#[derive(Debug, Default)]
struct Seen {
    /// What the open file may hold, in the branch; nothing: there may be no branch or no file yet.
    bytes: Vec<&'static [u8; 6]>,
    /// What each snapshot holds of it, and whether it must be there.
    snapshots: Vec<(&'static str, &'static [u8; 6], bool)>,
}

fn snapshot_kept(store: &Store, live: &mut LiveBranch, name: &str) -> Result<(), StoreError> {
    let record = live.inode(OPEN)?.expect("the open file");
    let kept = [Kept {
        ino: OPEN,
        record: (*record).clone(),
    }];
    let name = Some(SnapshotName::new(name).unwrap());
    live.snapshot(&store.hold()?, name, &kept).map(drop)
}

/// A program writes to a file that it has open.
fn natively(
    object: &dyn ObjectFile,
    seen: &mut Seen,
    bytes: &'static [u8; 6],
) -> Result<(), StoreError> {
    seen.bytes.push(bytes);
    if object.write_at(bytes, 0)? < bytes.len() {
        // Torn by its own end: no state of ours.
        seen.bytes.clear();
        return Err(StoreError::Invalid("a write that was cut short"));
    }
    seen.bytes = vec![bytes];
    Ok(())
}

fn with_open_files(store: &Store, seen: &mut Seen) -> Result<(), StoreError> {
    make(store, "a", None)?;
    let mut live = store.open_live(&branch("a"))?;
    live.commit(file(Ino::ROOT, "other", Ino(30), 3))?;
    let (id, object) = live.new_object()?;
    object.write_at(b"before", 0)?;
    let record = record_with(6, Content::Object(id));
    live.commit(vec![Delta::PutInode(OPEN, record)])?;
    seen.bytes = vec![b"before"];
    let rounds: [(_, &'static [u8; 6], &'static [u8; 6]); 2] =
        [("one", b"before", b"after!"), ("two", b"after!", b"later!")];
    for (name, then, next) in rounds {
        seen.snapshots.push((name, then, false));
        snapshot_kept(store, &mut live, name)?;
        seen.snapshots.last_mut().unwrap().2 = true;
        natively(&*object, seen, next)?;
        live.commit(file(
            Ino::ROOT,
            name,
            Ino(40 + seen.snapshots.len() as u64),
            1,
        ))?;
    }
    live.close()
}

fn bytes_of(records: &dyn Records) -> Option<[u8; 6]> {
    let record = records.inode(OPEN).unwrap()?;
    let Content::Object(id) = record.content else {
        panic!("{record:?}");
    };
    let mut buf = [0; 6];
    let object = records.open_object(id, false).unwrap();
    assert_eq!(object.read_at(&mut buf, 0).unwrap(), 6);
    Some(buf)
}

#[test]
fn a_death_while_files_stay_open_leaves_each_its_bytes() {
    for fault in [Fault::Stop, Fault::Tear, Fault::StopAfter] {
        for at in 0.. {
            let mem = MemMedia::new();
            let media = FaultMedia::new(Arc::new(mem.clone()), at, fault);
            let mut seen = Seen::default();
            if let Ok(Some(store)) =
                Store::on_media(Arc::new(media.clone()), Path::new("/mem"), true)
            {
                let answer = with_open_files(&store, &mut seen);
                assert!(answer.is_ok() || media.has_struck(), "{at}: {answer:?}");
            }
            for crash in [Crash::Process, Crash::Power] {
                check_open_files(&mem, &seen, crash, &format!("{fault:?} at {at}, {crash:?}"));
            }
            if !media.has_struck() {
                assert!(at > 60, "the script has only {at} operations");
                break;
            }
        }
    }
}

fn check_open_files(mem: &MemMedia, seen: &Seen, crash: Crash, context: &str) {
    let store = store_on(Arc::new(mem.crash(crash)));
    // Without power, bytes that nobody synced may be short of their records.
    if crash == Crash::Process {
        sound_files(&store, context);
    }
    if store.branch(&branch("a")).is_err() {
        assert!(crash == Crash::Power || seen.bytes.is_empty(), "{context}");
        return;
    }
    let live = store.open_live(&branch("a"));
    let live = live.unwrap_or_else(|e| panic!("{context}: {e}"));
    for (name, bytes, surely) in &seen.snapshots {
        match store.read_point(&format!("a@{name}").parse().unwrap()) {
            // The copy was synced before the snapshot was.
            Ok(reader) => assert_eq!(bytes_of(&reader), Some(**bytes), "{context}: {name}"),
            Err(StoreError::NoSnapshot { .. }) if !surely => {}
            Err(e) => panic!("{context}: {name}: {e}"),
        }
    }
    if crash == Crash::Process {
        match bytes_of(&live) {
            Some(found) => assert!(
                seen.bytes.is_empty() || seen.bytes.contains(&&found),
                "{context}: {found:?}, not {:?}",
                seen.bytes
            ),
            None => assert!(seen.bytes.is_empty(), "{context}"),
        }
    }
    live.close().unwrap();
}

/// Nothing is wrong with the files of the store. The records of these scripts are no whole tree.
fn sound_files(store: &Store, context: &str) {
    let of_records = |code| {
        matches!(
            code,
            Code::DanglingName
                | Code::Devices
                | Code::StrayName
                | Code::OrphanInode
                | Code::Record
                | Code::LinkCount
        )
    };
    let report = store.check(&[], &mut |_, _, _| {}).unwrap();
    let mut damage = (report.left.iter())
        .filter(|found| found.level == Level::Damage && !of_records(found.code));
    assert!(damage.next().is_none(), "{context}: {report:#?}");
}

/// A script whose every step is asked for again until it succeeds.
struct Insistent {
    store: Store,
    media: FaultMedia,
    live: Option<LiveBranch>,
    /// What the branch must say.
    state: Dump,
    /// As errno.
    code: i32,
    failures: u32,
}

impl Insistent {
    fn until_done(
        &mut self,
        what: &str,
        step: &mut dyn FnMut(&mut Self) -> Result<(), StoreError>,
    ) {
        for attempt in 0..4 {
            let before = self.live.as_ref().map(|live| dump(live));
            match step(self) {
                Ok(()) => return,
                // The one before had done it, and could only not make it durable.
                Err(
                    StoreError::BranchExists(_)
                    | StoreError::NoBranch(_)
                    | StoreError::SnapshotExists { .. }
                    | StoreError::NoSnapshot { .. },
                ) if attempt > 0 => return,
                Err(e) => self.after_failure(what, &e, before),
            }
        }
        panic!("{what} never succeeds");
    }

    fn after_failure(&mut self, what: &str, e: &StoreError, before: Option<Dump>) {
        self.failures += 1;
        let cause = match e {
            StoreError::Unsettled(cause) => cause,
            other => other,
        };
        let is_right = match cause {
            StoreError::NoSpace { .. } => self.code == nix::libc::ENOSPC,
            StoreError::Io { source, .. } => source.raw_os_error() == Some(self.code),
            StoreError::Poisoned { .. } => true,
            _ => false,
        };
        assert!(is_right, "{what}: {e:?}");
        // Room is made; an error that struck once is over by itself.
        self.media.heal_after(self.media.operations());
        if matches!(e, StoreError::Unsettled(_)) && self.live.take().is_some() {
            let live = self.store.open_live(&branch("a"));
            self.live = Some(live.unwrap_or_else(|e| panic!("{what}: {e}")));
            return;
        }
        if let Some(live) = &mut self.live {
            assert_eq!(Some(dump(live)), before, "{what} failed: {e}");
            if live.needs_checkpoint() {
                live.checkpoint().unwrap_or_else(|e| panic!("{what}: {e}"));
            }
        }
    }

    fn open(&mut self) {
        self.until_done("open", &mut |me| {
            me.live = Some(me.store.open_live(&branch("a"))?);
            Ok(())
        });
        assert_eq!(dump(self.live()), self.state);
    }

    fn live(&mut self) -> &mut LiveBranch {
        self.live.as_mut().expect("a live branch")
    }

    fn commit(&mut self, text: &str, ino: u64) {
        let deltas = file(Ino::ROOT, text, Ino(ino), ino);
        self.until_done(text, &mut |me| me.live().commit(deltas.clone()));
        for delta in deltas {
            match delta {
                Delta::PutInode(ino, rec) => drop(self.state.0.insert(ino, rec)),
                Delta::PutDentry(dir, name, to) => drop(self.state.1.insert((dir, name), to)),
                other => panic!("{other:?}"),
            }
        }
        let state = self.state.clone();
        assert_eq!(dump(self.live()), state);
    }

    fn snapshot(&mut self, name: &str) {
        self.until_done(name, &mut |me| {
            let store = me.store.clone();
            let name = Some(SnapshotName::new(name).unwrap());
            me.live().snapshot(&store.hold()?, name, &[]).map(drop)
        });
    }

    fn close(&mut self) {
        self.until_done("close", &mut |me| match me.live.take() {
            Some(live) => live.close(),
            None => me.store.open_live(&branch("a"))?.close(),
        });
    }

    fn run(&mut self) {
        self.until_done("create", &mut |me| make(&me.store, "a", None).map(drop));
        self.open();
        self.commit("one", 50);
        self.until_done("sync", &mut |me| me.live().journal_sync()?.sync());
        self.commit("two", 51);
        self.until_done("checkpoint", &mut |me| me.live().checkpoint());
        self.commit("three", 52);
        self.snapshot("s");
        let then = self.state.clone();
        self.commit("four", 53);
        self.snapshot("t");
        self.commit("five", 54);
        self.close();
        self.until_done("branch off", &mut |me| {
            make(&me.store, "b", Some("a@s")).map(drop)
        });
        let (s, t) = (
            SnapshotName::new("s").unwrap(),
            SnapshotName::new("t").unwrap(),
        );
        self.until_done("restore", &mut |me| {
            me.store.restore(&branch("a"), &s).map(drop)
        });
        self.state = then.clone();
        self.open();
        self.commit("six", 55);
        self.close();
        self.until_done("snapshot rm", &mut |me| {
            me.store.remove_snapshot(&branch("a"), &t)
        });
        self.until_done("rename", &mut |me| {
            me.store.rename_branch(&branch("a"), &branch("z"))
        });
        for (name, state) in [("z", &self.state), ("z@s", &then), ("b", &then)] {
            let reader = self.store.read_point(&name.parse().unwrap()).unwrap();
            assert_eq!(dump(&reader), *state, "{name}");
        }
        for name in ["b", "z"] {
            self.until_done("rm", &mut |me| me.store.remove_branch(&branch(name)));
        }
        assert!(self.store.list().unwrap().is_empty());
    }
}

#[test]
fn after_any_failed_call_the_branch_goes_on_with_nothing_lost() {
    let faults = [
        (Fault::Once(nix::libc::EIO), nix::libc::EIO),
        (Fault::Once(nix::libc::ENOSPC), nix::libc::ENOSPC),
        (Fault::FullDisk, nix::libc::ENOSPC),
        (Fault::Always(nix::libc::EIO), nix::libc::EIO),
    ];
    for (fault, code) in faults {
        let mut failures = 0;
        for at in 0.. {
            let (mem, store) = new_store();
            drop(store);
            let media = FaultMedia::new(Arc::new(mem.clone()), at, fault);
            let store = Store::on_media(Arc::new(media.clone()), Path::new("/mem"), false);
            let mut script = Insistent {
                store: store.unwrap().unwrap(),
                media: media.clone(),
                live: None,
                state: Dump::default(),
                code,
                failures: 0,
            };
            script.run();
            failures += script.failures;
            let store = store_on(Arc::new(mem.crash(Crash::Process)));
            sound_files(&store, &format!("{fault:?} at {at}"));
            if !media.has_struck() {
                assert!(at > 100, "the script has only {at} operations");
                break;
            }
        }
        assert!(failures > 40, "{fault:?}: {failures} failures");
    }
}
