//! What a branch is after a crash in the middle of a change, or a failed write of the journal.

use nix::libc;

use super::*;
use crate::backstore::DirMedia;
use crate::backstore::fault::{Fault, FaultMedia};
use crate::backstore::mem::{Crash, MemMedia};

#[test]
fn a_crash_inside_a_truncation_brings_no_base_bytes_back() {
    let mut bench = Bench::new(|base| fs::write(base.join("big"), vec![b'B'; 3 << 20]).unwrap());
    let ino = bench.walk("big").unwrap().ino;
    let opened = bench.core().open(&ME, ino, O_RDWR).unwrap();
    bench.core().write(ino, opened.fh, 0, b"x", false).unwrap();
    drop(bench.core.take());
    // What SIGKILL leaves between the cut of the object and the frame that records it.
    let objects = objects_of(bench.store.path(), 3 << 20);
    assert_eq!(objects.len(), 1, "{objects:?}");
    fs::File::options()
        .write(true)
        .open(&objects[0])
        .unwrap()
        .set_len(1_500_000)
        .unwrap();
    bench.open();
    let ino = bench.walk("big").unwrap().ino;
    assert_eq!(bench.walk("big").unwrap().size, 1_500_000);
    let grow = SetAttr {
        size: Some(3 << 20),
        ..SetAttr::default()
    };
    bench.core().setattr(&ME, ino, None, &grow).unwrap();
    for clean in [false, true] {
        let bytes = bench.read("big");
        assert_eq!(bytes.len(), 3 << 20);
        assert!(bytes[1..1_500_000].iter().all(|b| *b == b'B'));
        assert!(bytes[1_500_000..].iter().all(|b| *b == 0));
        bench.reopen(clean);
    }
}

fn branch() -> BranchName {
    BranchName::new("b").unwrap()
}

/// A branch that wrote to the large base file `big`, opened again on a disk whose call `at` finds no
/// room; `None` where that strikes too early.
fn a_layered_file(at: u64) -> Option<(Bench, Arc<FaultMedia>, Ino)> {
    let mut bench = Bench::new(|base| fs::write(base.join("big"), vec![7; 3 << 20]).unwrap());
    bench.write("big", 2 << 20, b"mine");
    bench.core.take().unwrap().close().unwrap();
    let dir = DirMedia::open(bench.store.path()).unwrap();
    let media = Arc::new(FaultMedia::new(Arc::new(dir), at, Fault::Once(28)));
    let store = Store::on_media(media.clone(), bench.store.path(), false).ok()??;
    let live = store.open_live(&branch()).ok()?;
    let config = CoreConfig {
        base: bench.base.path().into(),
        roots: vec!["/".into()],
        conceal: vec![],
        mountpoint: None,
        passthrough: false,
    };
    bench.core = Some(FsCore::new(live, config).unwrap());
    let ino = bench.walk("big").unwrap().ino;
    Some((bench, media, ino))
}

#[test]
fn a_write_that_fails_leaves_a_file_as_long_as_it_was() {
    let mut failed = 0;
    for at in 0.. {
        let Some((bench, media, ino)) = a_layered_file(at) else {
            continue;
        };
        let Ok(opened) = bench.core().open(&ME, ino, O_RDWR) else {
            continue;
        };
        let written = bench.core().write(ino, opened.fh, 4 << 20, b"tail", false);
        if !media.has_struck() {
            break;
        }
        if written.is_err() {
            failed += 1;
            assert_eq!(
                bench.core().getattr(ino).unwrap().size,
                3 << 20,
                "call {at}"
            );
        }
    }
    assert!(failed > 0);
}

#[test]
fn a_truncation_that_could_not_be_recorded_stays_one() {
    let size = |size| SetAttr {
        size: Some(size),
        ..SetAttr::default()
    };
    for at in 0.. {
        let Some((mut bench, media, ino)) = a_layered_file(at) else {
            continue;
        };
        let cut = bench.core().setattr(&ME, ino, None, &size(100));
        if !media.has_struck() {
            cut.unwrap();
            break;
        }
        let now = bench.walk("big").unwrap().size;
        assert!(now == 100 || now == 3 << 20, "call {at}: {now}");
        bench.reopen(false);
        assert_eq!(bench.damage(), Vec::<String>::new(), "call {at}");
        let ino = bench.walk("big").unwrap().ino;
        bench
            .core()
            .setattr(&ME, ino, None, &size(3 << 20))
            .unwrap();
        let held = bench.read("big");
        let tail = &held[100..];
        assert!(
            now != 100 || tail.iter().all(|b| *b == 0),
            "call {at}: old bytes are back"
        );
    }
}

/// A branch on a medium that forgets what was not synced when the power goes.
pub(super) struct Unplugged {
    base: tempfile::TempDir,
    media: MemMedia,
    store: Store,
    pub(super) core: FsCore,
}

impl Unplugged {
    pub(super) fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        let media = MemMedia::new();
        let store = Store::on_media(Arc::new(media.clone()), "/mem".as_ref(), true);
        let store = store.unwrap().unwrap();
        let new = NewBranch {
            workspace: "/".into(),
        };
        store.create_branch(&branch(), None, new).unwrap();
        let core = Self::core(&store, base.path());
        Self {
            base,
            media,
            store,
            core,
        }
    }

    fn core(store: &Store, base: &Path) -> FsCore {
        let config = CoreConfig {
            base: base.into(),
            roots: vec!["/".into()],
            conceal: vec![],
            mountpoint: None,
            passthrough: false,
        };
        FsCore::new(store.open_live(&branch()).unwrap(), config).unwrap()
    }

    /// Makes a file and leaves it open.
    pub(super) fn make(&self, file: &str, data: &[u8]) -> (Ino, Fh) {
        let made = self
            .core
            .create(&ME, Ino::ROOT, &name(file), 0o644, O_RDWR)
            .unwrap();
        let (ino, fh) = (made.0.attr.ino, made.1.fh);
        self.core.write(ino, fh, 0, data, false).unwrap();
        (ino, fh)
    }

    pub(super) fn snapshot(&mut self) {
        let held = self.store.hold().unwrap();
        self.core.freeze(&held, FreezeFor::Snapshot(None)).unwrap();
    }

    /// What stat(2) says of a file and what it holds after a power cut now.
    pub(super) fn after_power_cut(&self, file: &str) -> (u64, Vec<u8>) {
        let media = Arc::new(self.media.crash(Crash::Power));
        let store = Store::on_media(media, "/mem".as_ref(), false)
            .unwrap()
            .unwrap();
        let core = Self::core(&store, self.base.path());
        let ino = core.lookup(Ino::ROOT, &name(file)).unwrap().attr.ino;
        let opened = core.open(&ME, ino, O_RDONLY).unwrap();
        let mut bytes = vec![0; 4 << 20];
        let got = core.read(ino, opened.fh, 0, &mut bytes).unwrap();
        bytes.truncate(got);
        (core.getattr(ino).unwrap().size, bytes)
    }
}

#[test]
fn fsync_after_a_snapshot_makes_all_bytes_durable() {
    // Copied whole by the write after the snapshot, and layered over what was there.
    for bytes in [64 << 10, 2 << 20] {
        let mut bench = Unplugged::new();
        let (ino, fh) = bench.make("f", &vec![b'A'; bytes]);
        bench.core.release(fh);
        bench.snapshot();
        let opened = bench.core.open(&ME, ino, O_RDWR).unwrap();
        for (at, snapshot) in [(0, true), (1, false)] {
            bench.core.write(ino, opened.fh, at, b"B", false).unwrap();
            bench.core.fsync(ino, false).unwrap();
            let (size, mut held) = bench.after_power_cut("f");
            held[..=at as usize].fill(b'A');
            assert_eq!(size, bytes as u64);
            assert!(held == vec![b'A'; bytes], "bytes are lost of {bytes}");
            if snapshot {
                bench.snapshot();
            }
        }
    }
}

#[test]
fn a_file_that_is_replaced_without_fsync_is_the_old_or_the_new_one() {
    let bench = Unplugged::new();
    let (old, fh) = bench.make("f", &[b'A'; 5000]);
    bench.core.fsync(old, false).unwrap();
    bench.core.release(fh);
    let (_, fh) = bench.make("tmp", &[b'B'; 6000]);
    bench.core.release(fh);
    let (from, to) = (name("tmp"), name("f"));
    let replace = RenameMode::Replace;
    bench
        .core
        .rename(&ME, Ino::ROOT, &from, Ino::ROOT, &to, replace)
        .unwrap();
    assert_eq!(bench.after_power_cut("f"), (5000, vec![b'A'; 5000]));
    // Makes the records durable, which must not come without the bytes.
    bench.core.maintain().unwrap();
    assert_eq!(bench.after_power_cut("f"), (6000, vec![b'B'; 6000]));
}

#[test]
fn a_file_that_is_cut_and_written_anew_is_no_shorter_than_it_says() {
    let mut bench = Unplugged::new();
    let (ino, fh) = bench.make("f", &[b'A'; 5000]);
    bench.core.fsync(ino, false).unwrap();
    bench.core.release(fh);
    bench.snapshot();
    let opened = bench.core.open(&ME, ino, O_RDWR | libc::O_TRUNC).unwrap();
    bench
        .core
        .write(ino, opened.fh, 0, &[b'B'; 6000], false)
        .unwrap();
    bench.core.release(opened.fh);
    bench.core.maintain().unwrap();
    assert_eq!(bench.after_power_cut("f"), (6000, vec![b'B'; 6000]));
    // A new file promises nothing without fsync; but what stat says of it is what is there.
    let (_, fh) = bench.make("new", &[b'C'; 5000]);
    bench.core.release(fh);
    bench.core.maintain().unwrap();
    let (size, held) = bench.after_power_cut("new");
    assert_eq!(size, held.len() as u64);
}

#[test]
fn a_sync_that_was_begun_before_a_file_is_replaced_leaves_one_of_the_two() {
    let bench = Unplugged::new();
    let (old, fh) = bench.make("f", &[b'A'; 5000]);
    bench.core.fsync(old, false).unwrap();
    bench.core.release(fh);
    let (_, fh) = bench.make("tmp", &[b'B'; 6000]);
    bench.core.release(fh);
    // Another file's fsync has its handle already, and is busy with its own bytes.
    let begun = bench.core.tree.lock().unwrap().branch.journal_sync();
    let (from, to) = (name("tmp"), name("f"));
    let replace = RenameMode::Replace;
    let renamed = (bench.core).rename(&ME, Ino::ROOT, &from, Ino::ROOT, &to, replace);
    renamed.unwrap();
    begun.unwrap().sync().unwrap();
    assert_eq!(bench.after_power_cut("f"), (6000, vec![b'B'; 6000]));
}
