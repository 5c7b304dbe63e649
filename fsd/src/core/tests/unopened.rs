//! Files that are used without being opened: by requests that name no handle.

use super::crash::Unplugged;
use super::*;
use crate::core::implicit::MOST_FILES;

const NONE: Fh = Fh::NONE;

/// Makes the core close every file that nobody is at.
fn close_idle(core: &FsCore) {
    for _ in 0..2 {
        core.close_idle();
    }
}

impl FsCore {
    fn kept_open(&self) -> usize {
        let tree = self.tree.lock().unwrap();
        tree.nodes.values().filter(|n| n.implicit).count()
    }
}

impl Bench {
    /// A branch whose kernel opens nothing.
    fn unopened(fill: impl FnOnce(&Path)) -> Self {
        let bench = Bench::new(fill);
        bench.core().serve_unopened();
        bench
    }

    fn make(&self, file: &str, data: &[u8]) -> Ino {
        let made = (self.core()).create(&ME, Ino::ROOT, &name(file), 0o644, O_RDWR);
        let (entry, opened) = made.unwrap();
        self.core().keep_unopened(opened.fh);
        let ino = entry.attr.ino;
        assert_eq!(self.put(ino, 0, data), data.len());
        ino
    }

    fn put(&self, ino: Ino, at: u64, data: &[u8]) -> usize {
        self.core().meet_unopened(ino, at, false).unwrap();
        self.core().write(ino, NONE, at, data, false).unwrap()
    }

    fn bytes(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        let mut buf = vec![0; 8 << 20];
        let got = self.core().read(ino, NONE, 0, &mut buf)?;
        buf.truncate(got);
        Ok(buf)
    }
}

#[test]
fn no_handle_is_none_where_the_kernel_opens_files() {
    let bench = Bench::new(|base| fs::write(base.join("f"), "base").unwrap());
    let ino = bench.walk("f").unwrap().ino;
    assert!(matches!(bench.bytes(ino), Err(FsError::BadHandle(_))));
    bench.core().serve_unopened();
    assert_eq!(bench.bytes(ino).unwrap(), b"base");
    let root = bench.core().read(Ino::ROOT, NONE, 0, &mut [0; 4]);
    assert!(matches!(root, Err(FsError::BadHandle(_))));
}

#[test]
fn an_unlinked_file_lives_until_the_kernel_forgets_it() {
    // The branch's own, the host's, and one over the host's bytes; closed here before and after.
    for closes in 0..4 {
        let bench = Bench::unopened(|base| {
            fs::write(base.join("base"), vec![b'A'; 3 << 20]).unwrap();
            fs::write(base.join("layered"), vec![b'A'; 3 << 20]).unwrap();
        });
        let own = bench.make("own", &vec![b'A'; 3 << 20]);
        let base = bench.walk("base").unwrap().ino;
        let layered = bench.walk("layered").unwrap().ino;
        bench.put(layered, 1 << 20, b"B");
        let close = |is_due: bool| {
            if is_due {
                close_idle(bench.core());
            }
        };
        close(closes & 1 != 0);
        for file in ["own", "base", "layered"] {
            bench.unlink("", file);
        }
        close(closes & 2 != 0);
        for (ino, holds) in [(own, b'A'), (base, b'A'), (layered, b'B')] {
            let held = bench.bytes(ino).unwrap();
            assert_eq!((held.len(), held[1 << 20]), (3 << 20, holds), "{closes}");
            assert_eq!(held[2 << 20], b'A');
            bench.put(ino, 0, b"still");
            close(closes & 2 != 0);
            assert_eq!(&bench.bytes(ino).unwrap()[..6], b"stillA", "{closes}");
        }
        assert_eq!(objects_of(bench.store.path(), 3 << 20).len(), 3);
        for ino in [own, base, layered] {
            bench.core().forget(ino, u64::MAX);
            assert!(matches!(bench.bytes(ino), Err(FsError::Stale(_))));
        }
        assert_eq!(bench.core().kept_open(), 0);
        assert_eq!(objects_of(bench.store.path(), 3 << 20).len(), 0);
    }
}

#[test]
fn a_file_that_is_replaced_by_a_rename_lives_until_the_kernel_forgets_it() {
    let mut bench = Bench::unopened(|base| fs::write(base.join("f"), vec![b'A'; 3 << 20]).unwrap());
    let old = bench.walk("f").unwrap().ino;
    bench.put(old, 1 << 20, b"B");
    close_idle(bench.core());
    bench.make("t", b"new");
    bench.rename(("", "t"), ("", "f")).unwrap();
    let held = bench.bytes(old).unwrap();
    assert_eq!((held.len(), held[1 << 20], held[5]), (3 << 20, b'B', b'A'));
    bench.core().forget(old, u64::MAX);
    bench.reopen(true);
    assert_eq!(bench.read("f"), b"new");
    assert_eq!((bench.damage(), bench.orphans()), (vec![], 0));
}

#[test]
fn only_so_many_files_are_kept_open_and_none_that_is_forgotten() {
    let count = MOST_FILES + 200;
    let mut bench = Bench::unopened(|base| {
        for n in 0..count {
            fs::write(base.join(format!("f{n}")), format!("base {n}")).unwrap();
        }
    });
    let inos: Vec<Ino> = (0..count)
        .map(|n| bench.walk(&format!("f{n}")).unwrap().ino)
        .collect();
    for (n, ino) in inos.iter().enumerate() {
        assert_eq!(bench.put(*ino, 0, b"mine"), 4);
        assert_eq!(bench.bytes(*ino).unwrap(), format!("mine {n}").as_bytes());
        bench.core().close_surplus();
        assert!(bench.core().kept_open() <= MOST_FILES);
    }
    assert!(bench.core().kept_open() > MOST_FILES / 2);
    // The size of one that was closed is recorded, that of one that is open is its object's.
    for ino in &inos {
        let size = bench.core().getattr(*ino).unwrap().size;
        assert_eq!(size, bench.bytes(*ino).unwrap().len() as u64);
    }
    for ino in &inos {
        bench.core().forget(*ino, u64::MAX);
    }
    assert_eq!(bench.core().kept_open(), 0);
    for clean in [false, true] {
        bench.reopen(clean);
        assert_eq!(bench.read("f0"), b"mine 0");
        assert_eq!(bench.damage(), Vec::<String>::new());
    }
}

#[test]
fn fsync_makes_the_bytes_of_a_closed_file_durable() {
    for bytes in [5000, 2 << 20] {
        let mut bench = Unplugged::new();
        bench.core.serve_unopened();
        let (ino, fh) = bench.make("f", &vec![b'A'; bytes]);
        bench.core.keep_unopened(fh);
        for n in 0..3 {
            bench.core.write(ino, NONE, n, b"B", false).unwrap();
            close_idle(&bench.core);
            assert_eq!(bench.core.kept_open(), 0);
            bench.core.fsync(ino, n == 1).unwrap();
            let (size, held) = bench.after_power_cut("f");
            assert_eq!((size, held.len()), (bytes as u64, bytes));
            assert!(held[..=n as usize].iter().all(|b| *b == b'B'), "write {n}");
            // The next write makes a layer over this one.
            bench.snapshot();
        }
    }
}

#[test]
fn what_is_cut_and_written_anew_is_durable_with_its_record() {
    // There is no close: a sync that comes at any time must not leave neither of the two.
    let mut bench = Unplugged::new();
    bench.core.serve_unopened();
    let (ino, fh) = bench.make("f", &[b'A'; 5000]);
    bench.core.keep_unopened(fh);
    bench.core.fsync(ino, false).unwrap();
    bench.snapshot();
    let cut = SetAttr {
        size: Some(0),
        ..SetAttr::default()
    };
    bench.core.setattr(&ME, ino, None, &cut).unwrap();
    for n in 1..4 {
        let at = (n - 1) * 2000;
        bench
            .core
            .write(ino, NONE, at, &[b'B'; 2000], false)
            .unwrap();
        bench.core.sync_records().unwrap();
        let all = 2000 * n as usize;
        assert_eq!(bench.after_power_cut("f"), (all as u64, vec![b'B'; all]));
    }
}

#[test]
fn a_snapshot_holds_what_was_written_before_it_and_nothing_later() {
    let mut bench = Bench::unopened(|base| fs::write(base.join("big"), vec![7; 3 << 20]).unwrap());
    let big = bench.walk("big").unwrap().ino;
    let small = bench.make("small", b"before");
    let gone = bench.make("gone", b"before");
    bench.put(big, 2 << 20, b"before");
    bench.unlink("", "gone");
    bench.snapshot();
    for ino in [small, gone] {
        bench.put(ino, 0, b"after!");
        assert_eq!(bench.bytes(ino).unwrap(), b"after!");
    }
    bench.put(big, 2 << 20, b"after!");
    close_idle(bench.core());
    assert_eq!(bench.bytes(gone).unwrap(), b"after!");
    assert_eq!(&bench.bytes(big).unwrap()[2 << 20..][..6], b"after!");
    bench.core.take().unwrap().close().unwrap();
    let store = Store::open(bench.store.path()).unwrap().unwrap();
    let snapshot = "b@1".parse().unwrap();
    let (child, workspace) = (BranchName::new("b2").unwrap(), "/".into());
    let new = NewBranch { workspace };
    store.create_branch(&child, Some(&snapshot), new).unwrap();
    bench.open_branch("b2");
    assert_eq!(bench.read("small"), b"before");
    assert_eq!(&bench.read("big")[2 << 20..][..6], b"before");
    assert_eq!(bench.names(""), ["big", "small"]);
    bench.core.take().unwrap().close().unwrap();
    bench.open();
    assert_eq!(bench.read("small"), b"after!");
    assert_eq!(&bench.read("big")[2 << 20..][..6], b"after!");
}

#[test]
fn what_the_host_has_changed_is_told_of_when_it_is_used() {
    let bench = Bench::unopened(|base| {
        for file in ["f", "log", "other", "same"] {
            fs::write(base.join(file), "base\n").unwrap();
        }
    });
    let ino = |file: &str| bench.walk(file).unwrap().ino;
    let (f, log, other, same) = (ino("f"), ino("log"), ino("other"), ino("same"));
    for ino in [f, log, other, same] {
        bench.bytes(ino).unwrap();
    }
    assert_eq!(bench.core().take_outdated(), []);
    close_idle(bench.core());
    for file in ["f", "log"] {
        fs::write(bench.host(file), "longer than it was\n").unwrap();
    }
    bench.save_anew("other", "another\n");
    // Changed in place: the new bytes, and the kernel must drop the old ones.
    assert_eq!(bench.bytes(f).unwrap(), b"longer than it was\n");
    let told = bench.core().take_outdated();
    assert_eq!(told.iter().map(|o| o.ino).collect::<Vec<_>>(), [f]);
    assert_eq!(bench.bytes(same).unwrap(), b"base\n");
    assert_eq!(bench.core().take_outdated(), []);
    // Another in its place: it must be looked up again.
    assert!(bench.bytes(other).is_err());
    let told = bench.core().take_outdated();
    assert_eq!(told[0].names, [(Ino::ROOT, name("other"))]);
    // What is appended goes to the end as the writer knows it, or nowhere.
    let append = |at| bench.core().meet_unopened(log, at, true);
    assert!(append(5).is_err());
    assert!(!bench.core().take_outdated().is_empty());
    append(19).unwrap();
    bench.core().write(log, NONE, 19, b"mine\n", false).unwrap();
    append(24).unwrap();
    assert_eq!(bench.bytes(log).unwrap(), b"longer than it was\nmine\n");
}

#[test]
fn who_may_write_may_take_privileges_off() {
    let bench = Bench::unopened(|_| {});
    let f = bench.make("f", b"x");
    let set = |perm| SetAttr {
        perm: Some(perm),
        ..SetAttr::default()
    };
    let other = Caller {
        uid: 5,
        gid: 5,
        pid: 0,
    };
    for (perm, may) in [(0o4755, false), (0o4777, true)] {
        bench.core().setattr(&ME, f, None, &set(perm)).unwrap();
        let done = bench.core().setattr(&other, f, None, &SetAttr::default());
        assert_eq!(done.is_ok(), may, "{perm:o}");
        let now = bench.core().getattr(f).unwrap().perm;
        assert_eq!(now, if may { perm & 0o777 } else { perm });
    }
}
