//! Crash sweeps: a script of everything the store does, stopped at every operation that changes
//! the media, under every kind of crash. What is found then is the state before the step that was
//! cut short or the one after it; without power not older than the last sync.

use super::*;
use crate::backstore::fault::{Fault, FaultMedia};
use crate::backstore::mem::Crash;
use crate::backstore::{Kept, LiveBranch};
use crate::core::point::SnapshotName;

/// What each branch must be able to show: all states it went through, and from where on it may
/// not fall back.
#[derive(Clone, Debug, Default)]
struct Expect {
    branches: BTreeMap<String, History>,
    /// What each snapshot shows, by its point; `None`: it may be there or not.
    snapshots: BTreeMap<String, (Dump, bool)>,
    /// The branch that is on its way back, and what it held before: the branch holds it still, or a
    /// snapshot does.
    restored: Option<(String, Dump)>,
    /// The branch under one of these names, and only one, is there.
    renamed: Option<[&'static str; 2]>,
    /// Files may get their bytes under other numbers: which objects they name is not compared.
    objects_move: bool,
}

impl Expect {
    fn compared(&self, dump: &Dump) -> Dump {
        let mut dump = dump.clone();
        if self.objects_move {
            for record in dump.0.values_mut() {
                let mut rec = (**record).clone();
                if let Content::Object(id) = &mut rec.content {
                    (id.layer.0, id.number, rec.dirty) = (0, 0, false);
                }
                *record = Arc::new(rec);
            }
        }
        dump
    }
}

#[derive(Clone, Debug, Default)]
struct History {
    states: Vec<Dump>,
    /// Index of the newest state that is known to be on the disk.
    durable: usize,
    /// Whether the branch itself may be missing, or be there though removed.
    unsure: bool,
}

impl History {
    fn last(&self) -> Dump {
        self.states.last().cloned().unwrap_or_default()
    }
}

fn apply(state: &mut Dump, deltas: &[Delta]) {
    for delta in deltas {
        match delta {
            Delta::PutInode(ino, rec) => {
                state.0.insert(*ino, rec.clone());
            }
            Delta::DelInode(ino) => {
                state.0.remove(ino);
            }
            Delta::PutDentry(parent, name, dentry) => {
                state.1.insert((*parent, name.clone()), *dentry);
            }
            _ => {}
        }
    }
}

struct Script {
    store: Store,
    expect: Expect,
}

type Step = Result<(), StoreError>;

impl Script {
    fn create(&mut self, text: &str, from: Option<&str>) -> Step {
        let start = from
            .map(|from| match self.expect.snapshots.get(from) {
                Some((state, _)) => state.clone(),
                None => self.expect.branches[from].last(),
            })
            .unwrap_or_default();
        let history = History {
            states: vec![start],
            durable: 0,
            unsure: true,
        };
        self.expect.branches.insert(text.into(), history);
        make(&self.store, text, from)?;
        self.expect.branches.get_mut(text).unwrap().unsure = false;
        if let Some(parent) = from.and_then(|from| self.expect.branches.get_mut(from)) {
            // It was frozen: all of it is on the disk.
            parent.durable = parent.states.len() - 1;
        }
        Ok(())
    }

    fn remove(&mut self, text: &str) -> Step {
        self.expect.branches.get_mut(text).unwrap().unsure = true;
        self.store.remove_branch(&branch(text))?;
        self.expect.branches.remove(text);
        Ok(())
    }

    fn commit(&mut self, live: &mut LiveBranch, deltas: Vec<Delta>) -> Step {
        let history = self
            .expect
            .branches
            .get_mut(live.info().name.as_str())
            .unwrap();
        let mut state = history.last();
        apply(&mut state, &deltas);
        // Before it is acknowledged: a crash may leave it done.
        history.states.push(state);
        live.commit(deltas)
    }

    fn is_durable(&mut self, text: &str) {
        let history = self.expect.branches.get_mut(text).unwrap();
        history.durable = history.states.len() - 1;
    }

    fn with_object(&mut self, live: &mut LiveBranch, ino: u64) -> Step {
        let (id, object) = live.new_object()?;
        object.write_at(b"content", 0)?;
        object.sync(true)?;
        self.commit(
            live,
            vec![Delta::PutInode(
                Ino(ino),
                record_with(7, Content::Object(id)),
            )],
        )
    }

    fn snapshot(&mut self, live: Option<&mut LiveBranch>, text: &str, name: &str) -> Step {
        let history = &self.expect.branches[text];
        let point = format!("{text}@{name}");
        let entry = (history.last(), true);
        self.expect.snapshots.insert(point.clone(), entry);
        let name = Some(SnapshotName::new(name).unwrap());
        match live {
            Some(live) => drop(live.snapshot(&self.store.hold()?, name, &[])?),
            None => drop(self.store.create_snapshot(&branch(text), name)?),
        }
        self.expect.snapshots.get_mut(&point).unwrap().1 = false;
        self.is_durable(text);
        Ok(())
    }

    fn restore(&mut self, text: &str, name: &str) -> Step {
        let (state, _) = self.expect.snapshots[&format!("{text}@{name}")].clone();
        let next = self.store.branch(&branch(text))?.next_snapshot_name()?;
        let history = self.expect.branches.get_mut(text).unwrap();
        let before = history.last();
        history.states.push(state);
        let point = format!("{text}@{next}");
        let saved = (before.clone(), true);
        self.expect.snapshots.insert(point.clone(), saved);
        self.expect.restored = Some((text.into(), before));
        let saved = self
            .store
            .restore(&branch(text), &SnapshotName::new(name).unwrap())?;
        self.expect.restored = None;
        match saved {
            Some(_) => self.expect.snapshots.get_mut(&point).unwrap().1 = false,
            None => drop(self.expect.snapshots.remove(&point)),
        }
        self.is_durable(text);
        Ok(())
    }

    fn drop_snapshot(&mut self, text: &str, name: &str) -> Step {
        let point = format!("{text}@{name}");
        self.expect.snapshots.get_mut(&point).unwrap().1 = true;
        self.store
            .remove_snapshot(&branch(text), &SnapshotName::new(name).unwrap())?;
        self.expect.snapshots.remove(&point);
        Ok(())
    }

    /// Snapshots of a live and of an idle branch, the ways back to them, and their end.
    fn run_snapshots(&mut self) -> Step {
        self.create("a", None)?;
        let mut a = self.store.open_live(&branch("a"))?;
        self.snapshot(Some(&mut a), "a", "nothing")?;
        self.commit(&mut a, file(Ino::ROOT, "one", Ino(20), 1))?;
        self.with_object(&mut a, 30)?;
        self.snapshot(Some(&mut a), "a", "first")?;
        self.commit(&mut a, vec![Delta::DelInode(Ino(30))])?;
        self.with_object(&mut a, 31)?;
        self.snapshot(Some(&mut a), "a", "second")?;
        self.commit(&mut a, file(Ino::ROOT, "two", Ino(21), 2))?;
        a.close()?;
        self.is_durable("a");
        self.restore("a", "first")?;
        let mut a = self.store.open_live(&branch("a"))?;
        self.commit(&mut a, file(Ino::ROOT, "three", Ino(22), 3))?;
        drop(a);
        self.snapshot(None, "a", "third")?;
        self.create("b", Some("a@third"))?;
        self.drop_snapshot("a", "second")?;
        self.restore("a", "nothing")?;
        self.drop_snapshot("a", "first")?;
        let a = self.expect.branches["a"].clone();
        let moved = History { unsure: true, ..a };
        self.expect.branches.insert("a".into(), moved.clone());
        self.expect.branches.insert("z".into(), moved);
        self.expect.renamed = Some(["a", "z"]);
        let snapshots = self.expect.snapshots.clone();
        for (point, (state, _)) in &snapshots {
            let of_z = point.replace("a@", "z@");
            self.expect.snapshots.insert(of_z, (state.clone(), true));
            self.expect.snapshots.get_mut(point).unwrap().1 = true;
        }
        self.store.rename_branch(&branch("a"), &branch("z"))?;
        self.expect.branches.remove("a");
        self.expect.renamed = None;
        self.expect.snapshots = (snapshots.into_iter())
            .map(|(point, entry)| (point.replace("a@", "z@"), entry))
            .collect();
        self.expect.branches.get_mut("z").unwrap().unsure = false;
        self.remove("b")?;
        self.drop_snapshot("z", "third")
    }

    fn gc(&mut self) -> Step {
        self.store.gc(false, &mut |_, _, _| {}).map(drop)
    }

    /// As [`with_object`](Self::with_object), and freezes while programs have the file open past
    /// the daemon, another one that is unlinked besides.
    fn snapshot_while_open(&mut self, live: &mut LiveBranch, ino: u64, name: &str) -> Step {
        let (id, object) = live.new_object()?;
        object.sync(true)?;
        let frame = vec![
            Delta::PutInode(Ino(50), record_with(7, Content::Object(id))),
            Delta::DelInode(Ino(50)),
            Delta::Orphan(id),
        ];
        self.commit(live, frame)?;
        self.with_object(live, ino)?;
        let record = live.inode(Ino(ino))?.unwrap();
        let kept = [Kept {
            ino: Ino(ino),
            record: (*record).clone(),
        }];
        let text = live.info().name.to_string();
        let point = format!("{text}@{name}");
        let state = self.expect.branches[&text].last();
        self.expect.snapshots.insert(point.clone(), (state, true));
        let name = Some(SnapshotName::new(name).unwrap());
        // What the branch goes on with: the same file, as an object that nobody can name yet.
        self.expect.objects_move = true;
        let next = self.expect.branches[&text].last();
        self.expect
            .branches
            .get_mut(&text)
            .unwrap()
            .states
            .push(next);
        live.snapshot(&self.store.hold()?, name, &kept)?;
        self.expect.snapshots.get_mut(&point).unwrap().1 = false;
        self.is_durable(&text);
        Ok(())
    }

    /// Objects that are shown no more, and collections of them, beside live branches and without.
    fn run_gc(&mut self) -> Step {
        self.create("a", None)?;
        let mut a = self.store.open_live(&branch("a"))?;
        for n in 0..3u64 {
            self.with_object(&mut a, 30)?;
            self.with_object(&mut a, 40 + n)?;
            self.snapshot(Some(&mut a), "a", &format!("s{n}"))?;
        }
        self.drop_snapshot("a", "s0")?;
        self.gc()?;
        self.with_object(&mut a, 30)?;
        a.close()?;
        self.is_durable("a");
        self.gc()?;
        let mut a = self.store.open_live(&branch("a"))?;
        self.commit(&mut a, vec![Delta::DelInode(Ino(41))])?;
        for n in 3..6u64 {
            self.snapshot(Some(&mut a), "a", &format!("s{n}"))?;
            self.with_object(&mut a, 30)?;
        }
        drop(a);
        self.create("b", Some("a@s3"))?;
        self.drop_snapshot("a", "s1")?;
        self.drop_snapshot("a", "s4")?;
        self.gc()?;
        self.is_durable("a");
        self.restore("a", "s2")?;
        self.gc()?;
        self.remove("b")?;
        self.gc()
    }

    fn run_open_files(&mut self) -> Step {
        self.create("a", None)?;
        let mut a = self.store.open_live(&branch("a"))?;
        self.snapshot_while_open(&mut a, 30, "s1")?;
        self.snapshot_while_open(&mut a, 30, "s2")?;
        a.close()?;
        self.is_durable("a");
        self.drop_snapshot("a", "s1")?;
        self.gc()?;
        let mut a = self.store.open_live(&branch("a"))?;
        self.snapshot_while_open(&mut a, 31, "s3")?;
        drop(a);
        self.gc()?;
        self.drop_snapshot("a", "s2")?;
        self.gc()
    }

    fn run(&mut self) -> Step {
        self.create("a", None)?;
        let mut a = self.store.open_live(&branch("a"))?;
        for i in 0..3 {
            self.commit(&mut a, file(Ino::ROOT, &format!("f{i}"), Ino(20 + i), i))?;
        }
        a.journal_sync()?.sync()?;
        self.is_durable("a");
        self.with_object(&mut a, 30)?;
        self.commit(&mut a, vec![Delta::DelInode(Ino(20))])?;
        a.checkpoint()?;
        self.is_durable("a");
        self.with_object(&mut a, 31)?;
        a.journal_sync()?.sync()?;
        self.is_durable("a");
        self.commit(&mut a, file(Ino::ROOT, "late", Ino(40), 4))?;
        drop(a);
        self.create("b", Some("a"))?;
        let mut b = self.store.open_live(&branch("b"))?;
        self.commit(
            &mut b,
            vec![Delta::DelInode(Ino(30)), Delta::DelInode(Ino(21))],
        )?;
        b.close()?;
        self.is_durable("b");
        let mut a = self.store.open_live(&branch("a"))?;
        self.commit(&mut a, file(Ino::ROOT, "more", Ino(41), 5))?;
        a.close()?;
        self.is_durable("a");
        self.create("c", Some("b"))?;
        self.remove("b")?;
        self.remove("a")
    }
}

/// Which script.
type Play = fn(&mut Script) -> Step;

/// Runs the script against `fault` at operation `at`; gives what was expected when it struck, and
/// whether it struck at all.
fn run(mem: &MemMedia, at: u64, fault: Fault, play: Play) -> (Expect, bool) {
    let media = FaultMedia::new(Arc::new(mem.clone()), at, fault);
    let mut expect = Expect::default();
    if let Ok(Some(store)) = Store::on_media(Arc::new(media.clone()), Path::new("/mem"), true) {
        let mut script = Script { store, expect };
        let result = play(&mut script);
        assert!(result.is_ok() || media.has_struck(), "at {at}: {result:?}");
        expect = script.expect;
    }
    (expect, media.has_struck())
}

fn check(mem: &MemMedia, expect: &Expect, crash: Crash, context: &str) {
    let after = mem.crash(crash);
    let media: Arc<dyn Media> = Arc::new(after.clone());
    let store = Store::on_media(media, Path::new("/mem"), true)
        .unwrap_or_else(|e| panic!("{context}: {e}"))
        .unwrap();
    for listed in store.list().unwrap() {
        match listed {
            crate::backstore::Listed::Branch(info) => {
                assert!(
                    expect.branches.contains_key(info.name.as_str()),
                    "{context}: {info:?}"
                );
            }
            crate::backstore::Listed::Damaged { name, why } => panic!("{context}: {name}: {why}"),
        }
    }
    if let Some(names) = expect.renamed {
        let found = names.map(|text| store.branch(&branch(text)).is_ok());
        assert!(found[0] != found[1], "{context}: {names:?} {found:?}");
    }
    for (point, (state, unsure)) in &expect.snapshots {
        match store.read_point(&point.parse().unwrap()) {
            Ok(reader) => {
                let found = expect.compared(&dump(&reader));
                assert_eq!(found, expect.compared(state), "{context}: {point}");
            }
            Err(StoreError::NoBranch(_) | StoreError::NoSnapshot { .. }) if *unsure => {}
            Err(e) => panic!("{context}: {point}: {e}"),
        }
    }
    if let Some((text, before)) = &expect.restored
        && crash == Crash::Process
    {
        let before = expect.compared(before);
        let info = store.branch(&branch(text)).unwrap();
        let points = info.snapshots.iter().map(|s| format!("{text}@{}", s.name));
        let mut points = points.chain([text.clone()]);
        let is_kept = points.any(|point| {
            let reader = store.read_point(&point.parse().unwrap());
            expect.compared(&dump(&reader.unwrap())) == before
        });
        assert!(is_kept, "{context}: nothing holds what {text} held");
    }
    for (text, history) in &expect.branches {
        let found = match store.read(&branch(text)) {
            Ok(reader) => dump(&reader),
            Err(StoreError::NoBranch(_)) if history.unsure => continue,
            Err(e) => panic!("{context}: {text}: {e}"),
        };
        let oldest = match crash {
            // Acknowledged is all but the last, which may have been cut short.
            Crash::Process => history.states.len().saturating_sub(2).max(history.durable),
            Crash::Power | Crash::Torn(_) => history.durable,
        };
        let compared = expect.compared(&found);
        let mut states = history.states[oldest..].iter();
        assert!(
            states.any(|state| expect.compared(state) == compared),
            "{context}: {text}: {found:#?} is none of {:#?}",
            &history.states[oldest..]
        );
        // It opens for writing, shows the same, and goes on.
        let mut live = store
            .open_live(&branch(text))
            .unwrap_or_else(|e| panic!("{context}: {e}"));
        assert_eq!(dump(&live), found, "{context}: {text}");
        for rec in found.0.values() {
            if let Content::Object(id) = rec.content
                && crash == Crash::Power
            {
                live.open_object(id, false)
                    .unwrap_or_else(|e| panic!("{context}: {e}"));
            } else if let Content::Object(id) = rec.content
                && crash == Crash::Process
            {
                let mut buf = [0; 9];
                let object = live.open_object(id, false).unwrap();
                assert_eq!(object.read_at(&mut buf, 0).unwrap(), 7, "{context}");
            }
        }
        live.commit(file(Ino::ROOT, "after", Ino(90), 9)).unwrap();
        let expect = dump(&live);
        live.close().unwrap();
        assert_eq!(
            dump(&store.read(&branch(text)).unwrap()),
            expect,
            "{context}: {text}"
        );
    }
    // Nothing stays behind once the branches are gone.
    // One whose snapshots others were made from goes after them.
    let mut left: Vec<&String> = expect.branches.keys().collect();
    while let Some(text) = left.pop() {
        match store.remove_branch(&branch(text)) {
            Err(StoreError::Needed { .. }) if !left.is_empty() => left.insert(0, text),
            Ok(()) | Err(StoreError::NoBranch(_)) => {}
            Err(e) => panic!("{context}: {e}"),
        }
    }
    make(&store, "z", None).unwrap();
    store.remove_branch(&branch("z")).unwrap();
    let left: Vec<_> = after.files();
    let known = |p: &std::path::PathBuf| {
        matches!(
            p.to_str(),
            Some("format" | "store.lock" | "gc.lock" | "room")
        )
    };
    assert!(left.iter().all(known), "{context}: {left:?}");
}

fn sweep(fault: Fault, crashes: &[Crash]) {
    sweep_script(Script::run, fault, crashes);
    sweep_script(Script::run_snapshots, fault, crashes);
    sweep_script(Script::run_gc, fault, crashes);
    sweep_script(Script::run_open_files, fault, crashes);
}

fn sweep_script(play: Play, fault: Fault, crashes: &[Crash]) {
    for at in 0.. {
        let mem = MemMedia::new();
        let (expect, struck) = run(&mem, at, fault, play);
        for crash in crashes {
            check(
                &mem,
                &expect,
                *crash,
                &format!("{fault:?} at {at}, {crash:?}"),
            );
        }
        if !struck {
            assert!(at > 100, "the script has only {at} operations");
            break;
        }
    }
}

#[test]
fn a_kill_at_any_operation_leaves_before_or_after() {
    sweep(Fault::Stop, &[Crash::Process]);
    sweep(Fault::Tear, &[Crash::Process]);
}

#[test]
fn a_power_cut_at_any_operation_leaves_all_that_was_synced() {
    sweep(Fault::Stop, &[Crash::Power]);
    sweep(Fault::StopAfter, &[Crash::Power]);
}

#[test]
fn a_power_cut_that_tears_writes_leaves_all_that_was_synced() {
    sweep(
        Fault::Tear,
        &[
            Crash::Torn(0x9e37_79b9),
            Crash::Torn(0x1234_5671),
            Crash::Torn(77),
        ],
    );
}

/// A disk that is full or fails from the n-th operation on, and is better later.
#[test]
fn a_disk_that_fails_at_any_operation_loses_nothing_acknowledged() {
    sweep(
        Fault::Always(nix::libc::ENOSPC),
        &[Crash::Process, Crash::Power],
    );
    sweep(Fault::Once(nix::libc::EIO), &[Crash::Process, Crash::Power]);
}
