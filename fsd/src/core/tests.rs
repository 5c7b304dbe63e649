//! The core by itself, unmounted, over a real base directory and a real store.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use super::types::*;
use super::*;
use crate::backstore::{NewBranch, Store};

mod blocks;
mod host;

const ME: Caller = Caller {
    uid: 0,
    gid: 0,
    pid: 0,
};
const O_RDONLY: i32 = 0;
const O_RDWR: i32 = 2;

fn name(s: &str) -> Name {
    Name::new(s.as_bytes()).unwrap()
}

/// A base directory and a branch over it that can be closed, dropped and opened again.
struct Bench {
    base: tempfile::TempDir,
    store: tempfile::TempDir,
    core: Option<FsCore>,
}

impl Bench {
    fn new(fill: impl FnOnce(&Path)) -> Self {
        let (base, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fill(base.path());
        let store = Store::open_or_create(dir.path()).unwrap();
        let new = NewBranch {
            workspace: "/".into(),
        };
        store
            .create_branch(&BranchName::new("b").unwrap(), None, new)
            .unwrap();
        let mut bench = Self {
            base,
            store: dir,
            core: None,
        };
        bench.open();
        bench
    }

    fn open(&mut self) {
        let store = Store::open(self.store.path()).unwrap().unwrap();
        let live = store.open_live(&BranchName::new("b").unwrap()).unwrap();
        let config = CoreConfig {
            base: self.base.path().into(),
            roots: vec!["/".into()],
            conceal: vec![],
            mountpoint: None,
            passthrough: false,
        };
        self.core = Some(FsCore::new(live, config).unwrap());
    }

    /// Ends the branch cleanly, or as SIGKILL would, and opens it again.
    fn reopen(&mut self, clean: bool) {
        let core = self.core.take().unwrap();
        if clean {
            core.close().unwrap()
        } else {
            drop(core)
        }
        self.open();
    }

    fn core(&self) -> &FsCore {
        self.core.as_ref().unwrap()
    }

    fn walk(&self, path: &str) -> Result<Attr, FsError> {
        let mut attr = self.core().getattr(Ino::ROOT)?;
        for part in path.split('/').filter(|p| !p.is_empty()) {
            attr = self.core().lookup(attr.ino, &name(part))?.attr;
        }
        Ok(attr)
    }

    fn read(&self, path: &str) -> Vec<u8> {
        let ino = self.walk(path).unwrap().ino;
        let opened = self.core().open(&ME, ino, O_RDONLY).unwrap();
        let mut buf = vec![0; 8 << 20];
        let got = self.core().read(ino, opened.fh, 0, &mut buf).unwrap();
        self.core().release(opened.fh);
        buf.truncate(got);
        buf
    }

    fn write(&self, path: &str, offset: u64, data: &[u8]) {
        let ino = self.walk(path).unwrap().ino;
        let opened = self.core().open(&ME, ino, O_RDWR).unwrap();
        assert_eq!(
            self.core()
                .write(ino, opened.fh, offset, data, false)
                .unwrap(),
            data.len()
        );
        self.core().release(opened.fh);
    }

    fn create(&self, dir: &str, file: &str, data: &[u8]) -> Ino {
        let dir = self.walk(dir).unwrap().ino;
        let (entry, opened) = self
            .core()
            .create(&ME, dir, &name(file), 0o644, O_RDWR)
            .unwrap();
        self.core()
            .write(entry.attr.ino, opened.fh, 0, data, false)
            .unwrap();
        self.core().release(opened.fh);
        entry.attr.ino
    }

    fn names(&self, dir: &str) -> Vec<String> {
        let dir = self.walk(dir).unwrap().ino;
        let mut names = Vec::new();
        let take = &mut |e: &DirEnt| {
            names.push(String::from_utf8(e.name.as_bytes().to_vec()).unwrap());
            true
        };
        self.core().readdir(dir, 0, take).unwrap();
        names.retain(|n| n != "." && n != "..");
        names.sort();
        names
    }

    fn rename(&self, from: (&str, &str), to: (&str, &str)) -> Result<(), FsError> {
        let (a, b) = (self.walk(from.0).unwrap().ino, self.walk(to.0).unwrap().ino);
        self.core()
            .rename(&ME, a, &name(from.1), b, &name(to.1), RenameMode::Replace)
            .map(drop)
    }
}

#[test]
fn a_write_to_a_base_file_stays_in_the_branch() {
    let mut bench = Bench::new(|base| fs::write(base.join("f"), "base").unwrap());
    let before = bench.walk("f").unwrap();
    bench.write("f", 4, b" and more");
    assert_eq!(bench.read("f"), b"base and more");
    assert_eq!(bench.walk("f").unwrap().ino, before.ino);
    assert_eq!(fs::read(bench.base.path().join("f")).unwrap(), b"base");
    for clean in [false, true] {
        bench.reopen(clean);
        assert_eq!(bench.read("f"), b"base and more");
        assert_eq!(bench.walk("f").unwrap().ino, before.ino);
        assert_eq!(bench.walk("f").unwrap().size, 13);
    }
}

#[test]
fn a_moved_base_directory_keeps_what_is_below() {
    let mut bench = Bench::new(|base| {
        fs::create_dir_all(base.join("d/sub/deep")).unwrap();
        fs::write(base.join("d/sub/deep/f"), "x").unwrap();
        fs::create_dir(base.join("other")).unwrap();
    });
    bench.rename(("", "d"), ("other", "e")).unwrap();
    bench.write("other/e/sub/deep/f", 0, b"y");
    bench.create("other/e/sub", "new", b"n");
    for clean in [true, false] {
        assert!(matches!(bench.walk("d"), Err(FsError::NoEntry { .. })));
        assert_eq!(bench.read("other/e/sub/deep/f"), b"y");
        assert_eq!(bench.names("other/e/sub"), ["deep", "new"]);
        bench.reopen(clean);
    }
    let below = bench.rename(("other", "e"), ("other/e/sub", "loop"));
    assert!(matches!(below, Err(FsError::Invalid(_))), "{below:?}");
}

#[test]
fn base_hard_links_stay_one_file() {
    let mut bench = Bench::new(|base| {
        fs::write(base.join("a"), "one").unwrap();
        fs::hard_link(base.join("a"), base.join("b")).unwrap();
    });
    bench.write("a", 0, b"two");
    assert_eq!(bench.read("b"), b"two");
    let root = Ino::ROOT;
    bench.core().unlink(&ME, root, &name("a")).unwrap();
    assert_eq!(bench.walk("b").unwrap().nlink, 1);
    bench.reopen(false);
    assert_eq!(bench.read("b"), b"two");
    assert_eq!(bench.names(""), ["b"]);
    bench.core().unlink(&ME, root, &name("b")).unwrap();
    assert!(bench.names("").is_empty());
    bench.reopen(true);
    assert!(bench.names("").is_empty());
    assert_eq!(
        fs::metadata(bench.base.path().join("a")).unwrap().nlink(),
        2
    );
}

#[test]
fn a_base_file_is_read_under_the_name_that_the_host_has_kept() {
    for changed in [false, true] {
        let mut bench = Bench::new(|base| {
            fs::write(base.join("old"), "bytes").unwrap();
            fs::hard_link(base.join("old"), base.join("kept")).unwrap();
        });
        if changed {
            let root = bench.walk("").unwrap().ino;
            bench.core().unlink(&ME, root, &name("old")).unwrap();
        } else {
            assert_eq!(bench.read("old"), b"bytes");
        }
        fs::remove_file(bench.base.path().join("old")).unwrap();
        for _ in 0..2 {
            assert_eq!(bench.read("kept"), b"bytes");
            bench.reopen(true);
        }
        bench.write("kept", 0, b"B");
        assert_eq!(bench.read("kept"), b"Bytes");
        assert_eq!(bench.names(""), ["kept"], "changed: {changed}");
    }
}

#[test]
fn an_unlinked_open_file_works_until_it_is_closed() {
    let bench = Bench::new(|base| fs::write(base.join("f"), "base").unwrap());
    for created in [false, true] {
        let file = if created { "g" } else { "f" };
        if created {
            bench.create("", "g", b"base");
        }
        let ino = bench.walk(file).unwrap().ino;
        let opened = bench.core().open(&ME, ino, O_RDWR).unwrap();
        bench.core().unlink(&ME, Ino::ROOT, &name(file)).unwrap();
        bench.core().write(ino, opened.fh, 4, b"+", false).unwrap();
        let mut buf = [0; 16];
        assert_eq!(bench.core().read(ino, opened.fh, 0, &mut buf).unwrap(), 5);
        assert_eq!(&buf[..5], b"base+");
        assert_eq!(bench.core().getattr(ino).unwrap().nlink, 0);
        bench.core().release(opened.fh);
        assert!(matches!(bench.walk(file), Err(FsError::NoEntry { .. })));
    }
}

#[test]
fn a_large_base_file_is_never_copied_for_a_small_write() {
    let big: Vec<u8> = (0..5u32 << 20).map(|n| (n >> 8) as u8).collect();
    let mut bench = Bench::new(|base| fs::write(base.join("big"), &big).unwrap());
    let mut want = big.clone();
    bench.write("big", 3_000_000, b"changed");
    want[3_000_000..3_000_007].copy_from_slice(b"changed");
    let end = want.len() as u64;
    bench.write("big", end, b"appended");
    want.extend_from_slice(b"appended");
    for clean in [false, true] {
        assert!(bench.read("big") == want);
        bench.reopen(clean);
    }
    let ino = bench.walk("big").unwrap().ino;
    let cut = SetAttr {
        size: Some(100),
        ..SetAttr::default()
    };
    bench.core().setattr(&ME, ino, None, &cut).unwrap();
    let grow = SetAttr {
        size: Some(4_000_000),
        ..SetAttr::default()
    };
    bench.core().setattr(&ME, ino, None, &grow).unwrap();
    want.truncate(100);
    want.resize(4_000_000, 0);
    for clean in [false, true] {
        assert!(bench.read("big") == want);
        bench.reopen(clean);
    }
}

#[test]
fn what_the_host_has_put_out_of_reach_can_be_cut_and_written_anew() {
    const O_TRUNC: i32 = 0o1000;
    let big = vec![7; 2 << 20];
    let mut bench = Bench::new(|base| {
        for name in ["parts", "moved"] {
            fs::write(base.join(name), &big).unwrap();
        }
    });
    bench.write("parts", 5, b"changed");
    let root = bench.walk("").unwrap().ino;
    let (from, to) = (name("moved"), name("there"));
    let moved = bench
        .core()
        .rename(&ME, root, &from, root, &to, RenameMode::Replace);
    moved.unwrap();
    bench.reopen(true);
    for name in ["parts", "moved"] {
        fs::remove_file(bench.base.path().join(name)).unwrap();
        fs::write(bench.base.path().join("other"), &big).unwrap();
        if name != "moved" {
            fs::rename(
                bench.base.path().join("other"),
                bench.base.path().join(name),
            )
            .unwrap();
        }
    }
    for clean in [false, true] {
        bench.reopen(clean);
        for name in ["parts", "there"] {
            let ino = bench.walk(name).unwrap().ino;
            let read = bench.core().open(&ME, ino, O_RDONLY);
            assert!(read.is_err() || clean, "{name}: {read:?}");
            if let Ok(opened) = read {
                bench.core().release(opened.fh);
            }
            let opened = bench.core().open(&ME, ino, O_RDWR | O_TRUNC).unwrap();
            assert_eq!(bench.core().getattr(ino).unwrap().size, 0);
            let written = bench.core().write(ino, opened.fh, 3, b"new", false);
            assert_eq!(written.unwrap(), 3);
            bench.core().release(opened.fh);
            assert_eq!(bench.read(name), b"\0\0\0new");
        }
    }
    bench.reopen(true);
    for name in ["parts", "there"] {
        assert_eq!(bench.read(name), b"\0\0\0new");
    }
}

/// The kernel does not pass these modes on to a FUSE file system; other transports may.
#[test]
fn ranges_are_cut_out_and_put_in() {
    use rustix::fs::{FallocateFlags as Mode, fallocate};
    const BLOCK: usize = 4096;
    let bytes = |len: usize| (0..len).map(|i| (i / 7) as u8).collect::<Vec<_>>();
    let (small, large) = (bytes(10 * BLOCK + 5), bytes((2 << 20) + 5));
    let mut bench = Bench::new(|base| {
        fs::write(base.join("small"), &small).unwrap();
        fs::write(base.join("large"), &large).unwrap();
    });
    let plain = tempfile::tempdir_in(bench.store.path()).unwrap();
    for (file, was) in [("small", small), ("large", large)] {
        let host = plain.path().join(file);
        fs::write(&host, &was).unwrap();
        bench.write(file, 9 * BLOCK as u64, b"changed");
        let held = fs::File::options().write(true).open(&host).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&held, b"changed", 9 * BLOCK as u64).unwrap();
        let ranges = [
            (Mode::COLLAPSE_RANGE, 2 * BLOCK, BLOCK),
            (Mode::INSERT_RANGE, BLOCK, 3 * BLOCK),
            (Mode::COLLAPSE_RANGE, 0, was.len() + BLOCK),
            (Mode::COLLAPSE_RANGE, 1, BLOCK),
            (Mode::INSERT_RANGE, was.len() + 8 * BLOCK, BLOCK),
        ];
        for (mode, at, len) in ranges {
            let (at, len) = (at as u64, len as u64);
            let ino = bench.walk(file).unwrap().ino;
            let fh = bench.core().open(&ME, ino, O_RDWR).unwrap().fh;
            let bits = mode.bits() as i32;
            let ours = bench.core().fallocate(&ME, ino, fh, bits, at, len);
            bench.core().release(fh);
            let theirs = fallocate(&held, mode, at, len);
            assert_eq!(ours.is_ok(), theirs.is_ok(), "{mode:?} {at}: {ours:?}");
            assert!(
                bench.read(file) == fs::read(&host).unwrap(),
                "{mode:?} {at}"
            );
        }
        bench.reopen(false);
        assert!(bench.read(file) == fs::read(&host).unwrap());
    }
}

#[test]
fn a_removed_and_remade_directory_shows_nothing_of_the_base() {
    let mut bench = Bench::new(|base| {
        fs::create_dir(base.join("d")).unwrap();
        fs::write(base.join("d/f"), "x").unwrap();
    });
    let not_empty = bench.core().rmdir(&ME, Ino::ROOT, &name("d"));
    assert!(matches!(not_empty, Err(FsError::NotEmpty(_))));
    let dir = bench.walk("d").unwrap().ino;
    bench.core().unlink(&ME, dir, &name("f")).unwrap();
    bench.core().rmdir(&ME, Ino::ROOT, &name("d")).unwrap();
    bench
        .core()
        .mkdir(&ME, Ino::ROOT, &name("d"), 0o755)
        .unwrap();
    for clean in [false, true] {
        assert!(bench.names("d").is_empty());
        bench.reopen(clean);
    }
}

#[test]
fn what_is_above_the_roots_shows_only_the_way_to_them() {
    let mut bench = Bench::new(|base| {
        fs::create_dir_all(base.join("home/u")).unwrap();
        fs::create_dir_all(base.join("home/v")).unwrap();
        fs::create_dir_all(base.join("etc")).unwrap();
    });
    bench.core.take().unwrap().close().unwrap();
    let store = Store::open(bench.store.path()).unwrap().unwrap();
    let live = store.open_live(&BranchName::new("b").unwrap()).unwrap();
    let config = CoreConfig {
        base: bench.base.path().into(),
        roots: vec!["/home/u".into()],
        conceal: vec![],
        mountpoint: None,
        passthrough: false,
    };
    bench.core = Some(FsCore::new(live, config).unwrap());
    assert_eq!(bench.names(""), ["home"]);
    assert_eq!(bench.names("home"), ["u"]);
    assert!(matches!(bench.walk("etc"), Err(FsError::NoEntry { .. })));
    let refused = bench.core().mkdir(&ME, Ino::ROOT, &name("x"), 0o755);
    assert!(matches!(refused, Err(FsError::ReadOnly)));
    let home = bench.walk("home").unwrap().ino;
    let refused = bench.core().rmdir(&ME, home, &name("u"));
    assert!(
        matches!(refused, Err(FsError::ReadOnly)),
        "a root itself cannot go"
    );
}

#[test]
fn concealed_paths_are_not_there() {
    let mut bench = Bench::new(|base| {
        fs::create_dir_all(base.join("d/store")).unwrap();
        fs::create_dir_all(base.join("d/replaced")).unwrap();
        fs::write(base.join("d/f"), "x").unwrap();
    });
    bench.core.take().unwrap().close().unwrap();
    let store = Store::open(bench.store.path()).unwrap().unwrap();
    let live = store.open_live(&BranchName::new("b").unwrap()).unwrap();
    let config = CoreConfig {
        base: bench.base.path().into(),
        roots: vec!["/".into()],
        conceal: vec![
            "/d/store".into(),
            "/missing".into(),
            "/late/dir/secret".into(),
            "/d/replaced/secret".into(),
            "/d/f/below-a-file".into(),
        ],
        mountpoint: None,
        passthrough: false,
    };
    bench.core = Some(FsCore::new(live, config).unwrap());
    assert_eq!(bench.names("d"), ["f", "replaced"]);
    let hidden = |path: &str| matches!(bench.walk(path), Err(FsError::NoEntry { .. }));
    assert!(hidden("d/store"));
    // Whatever the host puts there meanwhile, also where there was no directory yet, or another.
    let base = bench.base.path();
    fs::write(base.join("missing"), "x").unwrap();
    fs::create_dir_all(base.join("late/dir")).unwrap();
    fs::write(base.join("late/dir/secret"), "x").unwrap();
    fs::write(base.join("late/secret"), "x").unwrap();
    fs::rename(base.join("d/replaced"), base.join("d/away")).unwrap();
    fs::create_dir(base.join("d/replaced")).unwrap();
    for dir in ["replaced", "away"] {
        fs::write(base.join("d").join(dir).join("secret"), "x").unwrap();
    }
    for path in [
        "missing",
        "late/dir/secret",
        "d/replaced/secret",
        "d/away/secret",
    ] {
        assert!(hidden(path), "{path}");
    }
    assert_eq!(
        bench.names("late"),
        ["dir", "secret"],
        "another directory's"
    );
    bench.walk("late/secret").unwrap();
    assert!(bench.names("late/dir").is_empty());
}

#[test]
fn positions_in_a_directory_survive_removals() {
    let bench = Bench::new(|base| {
        fs::create_dir(base.join("d")).unwrap();
        (0..500).for_each(|n| fs::write(base.join(format!("d/{n}")), "").unwrap());
    });
    let dir = bench.walk("d").unwrap().ino;
    let (mut cookie, mut seen) = (0, Vec::new());
    loop {
        let mut batch = Vec::new();
        let take = &mut |e: &DirEnt| {
            batch.push((e.name.clone(), e.cookie));
            batch.len() < 7
        };
        bench.core().readdir(dir, cookie, take).unwrap();
        let Some((_, last)) = batch.last() else { break };
        cookie = *last;
        for (name, _) in batch {
            if let StreamName::Entry(name) = name {
                bench.core().unlink(&ME, dir, &name).unwrap();
                seen.push(name);
            }
        }
    }
    seen.sort();
    let listed = seen.len();
    seen.dedup();
    assert_eq!((seen.len(), listed), (500, 500));
    bench.core().rmdir(&ME, Ino::ROOT, &name("d")).unwrap();
}

#[test]
fn exchange_swaps_a_base_directory_and_a_new_file() {
    let mut bench = Bench::new(|base| {
        fs::create_dir(base.join("d")).unwrap();
        fs::write(base.join("d/in"), "x").unwrap();
    });
    bench.create("", "f", b"file");
    let (a, b) = (name("d"), name("f"));
    bench
        .core()
        .rename(&ME, Ino::ROOT, &a, Ino::ROOT, &b, RenameMode::Exchange)
        .unwrap();
    for clean in [false, true] {
        assert_eq!(bench.read("d"), b"file");
        assert_eq!(bench.names("f"), ["in"]);
        assert_eq!(bench.names(""), ["d", "f"]);
        bench.reopen(clean);
    }
    let taken = bench
        .core()
        .rename(&ME, Ino::ROOT, &a, Ino::ROOT, &b, RenameMode::NoReplace);
    assert!(matches!(taken, Err(FsError::Exists { .. })));
}

/// The regular files of the store that hold `bytes` bytes.
fn objects_of(dir: &Path, bytes: u64) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let (path, meta) = entry.map(|e| (e.path(), e.metadata().unwrap())).unwrap();
        if meta.is_dir() {
            found.extend(objects_of(&path, bytes));
        } else if meta.len() == bytes {
            found.push(path);
        }
    }
    found
}

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

#[test]
fn a_renamed_base_file_is_as_long_as_the_host_makes_it() {
    let mut bench = Bench::new(|base| fs::write(base.join("f"), "base").unwrap());
    bench.rename(("", "f"), ("", "g")).unwrap();
    fs::write(bench.base.path().join("f"), "longer than before").unwrap();
    for clean in [true, false] {
        bench.reopen(clean);
        assert_eq!(bench.walk("g").unwrap().size, 18);
        assert_eq!(bench.read("g"), b"longer than before");
    }
}

impl Bench {
    /// What a check of the store, while the branch is live, calls damage.
    fn damage(&self) -> Vec<String> {
        let store = Store::open(self.store.path()).unwrap().unwrap();
        let report = store.check(&[], &mut |_, _, _| {}).unwrap();
        let damage = |f: &&crate::backstore::check::Finding| {
            f.level == crate::backstore::check::Level::Damage
        };
        report
            .left
            .iter()
            .filter(damage)
            .map(|f| format!("{f:?}"))
            .collect()
    }

    fn unlink(&self, dir: &str, file: &str) {
        let dir = self.walk(dir).unwrap().ino;
        self.core().unlink(&ME, dir, &name(file)).unwrap();
    }
}

#[test]
fn a_recorded_directory_that_the_host_moves_does_not_become_two_places() {
    let mut bench = Bench::new(|base| {
        fs::create_dir(base.join("dir")).unwrap();
        fs::write(base.join("dir/one"), "1").unwrap();
    });
    bench.create("/dir", "new", b"n");
    fs::rename(
        bench.base.path().join("dir"),
        bench.base.path().join("moved"),
    )
    .unwrap();
    for clean in [true, false] {
        bench.reopen(clean);
        assert_eq!(bench.names("/"), ["dir", "moved"]);
        assert_eq!(bench.names("/dir"), ["new"]);
        bench.create("/moved", if clean { "a" } else { "b" }, b"x");
        assert_ne!(
            bench.walk("/dir").unwrap().ino,
            bench.walk("/moved").unwrap().ino
        );
        assert_eq!(bench.names("/dir"), ["new"]);
        assert!(bench.names("/moved").contains(&"one".to_owned()));
        assert_eq!(bench.damage(), Vec::<String>::new());
    }
}

#[test]
fn a_changed_file_that_the_host_moves_outlives_the_other_name() {
    for edit_the_other in [false, true] {
        for remove in ["file", "moved"] {
            let mut bench = Bench::new(|base| fs::write(base.join("file"), "base").unwrap());
            bench.write("/file", 0, b"MINE");
            let from = bench.base.path().join("file");
            fs::rename(from, bench.base.path().join("moved")).unwrap();
            bench.reopen(true);
            if edit_the_other {
                bench.write("/moved", 0, b"ALSO");
            }
            bench.unlink("/", remove);
            bench.reopen(true);
            assert_eq!(bench.damage(), Vec::<String>::new());
            let rest = if remove == "file" { "/moved" } else { "/file" };
            let held = bench.read(rest);
            let lost = remove == "file" && !edit_the_other;
            let mine = [b"MINE", b"ALSO"].iter().any(|bytes| held == **bytes);
            assert!(mine != lost, "{rest} after {remove} went: {held:?}");
        }
    }
}

#[test]
fn a_truncation_that_could_not_be_recorded_stays_one() {
    use crate::backstore::fault::{Fault, FaultMedia};
    use crate::backstore::{DirMedia, LiveBranch};
    let size = |size| SetAttr {
        size: Some(size),
        ..SetAttr::default()
    };
    for at in 0.. {
        let mut bench = Bench::new(|base| fs::write(base.join("big"), vec![7; 3 << 20]).unwrap());
        bench.write("big", 2 << 20, b"mine");
        bench.core.take().unwrap().close().unwrap();
        let dir = DirMedia::open(bench.store.path()).unwrap();
        let media = Arc::new(FaultMedia::new(Arc::new(dir), at, Fault::Once(28)));
        let store = Store::on_media(media.clone(), bench.store.path(), false);
        let opened = store.map(|s| s.unwrap().open_live(&BranchName::new("b").unwrap()));
        let Ok(Ok(live)) = opened else { continue };
        let live: LiveBranch = live;
        let config = CoreConfig {
            base: bench.base.path().into(),
            roots: vec!["/".into()],
            conceal: vec![],
            mountpoint: None,
            passthrough: false,
        };
        bench.core = Some(FsCore::new(live, config).unwrap());
        let ino = bench.walk("big").unwrap().ino;
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

#[test]
fn a_directory_with_the_number_of_a_removed_one_hides_nothing() {
    for is_held in [false, true] {
        for clean in [true, false] {
            let mut bench = Bench::new(|base| {
                fs::create_dir(base.join("dir")).unwrap();
                fs::write(base.join("dir/one"), "1").unwrap();
                fs::create_dir(base.join("empty")).unwrap();
            });
            let held = bench.walk("/dir").unwrap().ino;
            bench.unlink("/dir", "one");
            for dir in ["dir", "empty"] {
                bench.core().rmdir(&ME, Ino::ROOT, &name(dir)).unwrap();
            }
            if !is_held {
                bench.core().forget(held, 1);
                bench.reopen(clean);
            }
            // The same number: as good as one that the host has given out again.
            for dir in ["dir", "empty"] {
                let to = bench.base.path().join(format!("{dir}2"));
                fs::rename(bench.base.path().join(dir), to).unwrap();
            }
            assert_eq!(bench.names("/dir2"), ["one"], "{is_held} {clean}");
            assert_eq!(bench.read("/dir2/one"), b"1");
            bench.create("/dir2", "two", b"2");
            bench.create("/empty2", "three", b"3");
            bench.reopen(clean);
            assert_eq!(bench.names("/dir2"), ["one", "two"]);
            assert_eq!(bench.names("/empty2"), ["three"]);
            assert_eq!(bench.damage(), Vec::<String>::new());
        }
    }
}
