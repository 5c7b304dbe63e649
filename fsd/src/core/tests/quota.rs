//! A branch with a limit: every way to reach it, and that the account is right at any time.

use super::*;
use crate::backstore::{Limit, Usage};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// FALLOC_FL_KEEP_SIZE, and with FALLOC_FL_PUNCH_HOLE. Source: fallocate(2).
const KEEP_SIZE: i32 = 1;
const PUNCH: i32 = 3;

fn bytes(bytes: u64) -> Limit {
    Limit {
        bytes: Some(bytes),
        inodes: None,
    }
}

fn inodes(inodes: u64) -> Limit {
    Limit {
        bytes: None,
        inodes: Some(inodes),
    }
}

fn is_full<T: std::fmt::Debug>(result: Result<T, FsError>) -> bool {
    match result {
        Err(FsError::Store(StoreError::LimitReached(_))) => true,
        Err(e) => panic!("{e}"),
        Ok(_) => false,
    }
}

impl Bench {
    fn limited(limit: Limit, fill: impl FnOnce(&Path)) -> Self {
        let mut bench = Bench::new(fill);
        bench.set_limit(limit);
        bench
    }

    fn set_limit(&mut self, limit: Limit) {
        self.core.take().unwrap().close().unwrap();
        let store = Store::open(self.store.path()).unwrap().unwrap();
        store
            .set_limit(&BranchName::new("b").unwrap(), limit)
            .unwrap();
        self.open();
    }

    fn used(&self) -> Usage {
        self.core().account().unwrap().usage()
    }

    /// Sees to it that the account says what a count from scratch does. Returns that.
    #[track_caller]
    fn audit(&self) -> Usage {
        let store = Store::open(self.store.path()).unwrap().unwrap();
        let counted = store.usage(&BranchName::new("b").unwrap()).unwrap();
        let used = self.used();
        assert_eq!(used.inodes, counted.inodes);
        if self.core().account().unwrap().counts_bytes() {
            assert_eq!(used, counted, "left: the account");
        }
        counted
    }

    fn handle(&self, path: &str) -> (Ino, Fh) {
        let ino = self.walk(path).unwrap().ino;
        (ino, self.core().open(&ME, ino, O_RDWR).unwrap().fh)
    }

    fn new_file(&self, file: &str) -> Result<(Ino, Fh), FsError> {
        let (entry, opened) = self
            .core()
            .create(&ME, Ino::ROOT, &name(file), 0o644, O_RDWR)?;
        Ok((entry.attr.ino, opened.fh))
    }

    /// Writes `chunk` after `chunk` from `offset` on until the limit says no, and says up to where.
    fn write_on(&self, (ino, fh): (Ino, Fh), mut offset: u64, chunk: u64) -> u64 {
        let data = vec![7; chunk as usize];
        loop {
            match self.core().write(ino, fh, offset, &data, false) {
                Ok(n) => offset += n as u64,
                full => {
                    assert!(is_full(full));
                    return offset;
                }
            }
        }
    }

    fn truncate(&self, ino: Ino, size: u64) -> Result<Attr, FsError> {
        let set = SetAttr {
            size: Some(size),
            ..SetAttr::default()
        };
        self.core().setattr(&ME, ino, None, &set)
    }

    /// Removes a file as a kernel does that has let go of it.
    fn remove(&self, file: &str) {
        let ino = self.walk(file).unwrap().ino;
        self.unlink("", file);
        self.core().forget(ino, u64::MAX);
    }
}

#[test]
fn a_file_grows_to_the_limit_and_no_further() {
    let mut bench = Bench::limited(bytes(MIB), |_| {});
    let file = bench.new_file("f").unwrap();
    let end = bench.write_on(file, 0, 100_000);
    let used = bench.audit();
    assert!(used.bytes <= MIB && used.bytes > MIB - 8 * KIB, "{used:?}");
    assert!(end > MIB - 8 * KIB && end < MIB, "{end}");
    // What has its blocks can be written again, also over the end of what can; no more than that.
    let data = vec![8; 300_000];
    let core = bench.core();
    assert_eq!(
        core.write(file.0, file.1, 0, &data, false).unwrap(),
        300_000
    );
    let over = core.write(file.0, file.1, end - 5000, &data, false);
    assert_eq!(over.unwrap(), 5000);
    assert!(is_full(core.write_back(file.0, file.1, end - 5000, &data)));
    assert!(is_full(core.write(
        file.0,
        file.1,
        end + 50_000,
        b"x",
        false
    )));
    assert_eq!(bench.walk("f").unwrap().size, end);
    assert_eq!(bench.audit(), used);
    assert!(core.account().unwrap().refused() > 2);
    // Less of it is room for something else, and so is none of it.
    bench.truncate(file.0, 4096).unwrap();
    assert!(bench.audit().bytes < 16 * KIB);
    bench.core().release(file.1);
    bench.remove("f");
    assert_eq!(bench.audit().inodes, 0);
    let again = bench.new_file("g").unwrap();
    assert!(bench.write_on(again, 0, 4096) > MIB - 8 * KIB);
    let used = bench.audit();
    // Neither a kill nor a clean end changes the count.
    for clean in [false, true] {
        bench.reopen(clean);
        assert_eq!(bench.audit(), used);
    }
    let again = bench.handle("g");
    let end = bench.walk("g").unwrap().size;
    assert!(bench.write_on(again, end, 4096) < end + 4096);
}

#[test]
fn holes_cost_nothing_until_they_are_filled() {
    let bench = Bench::limited(bytes(MIB), |_| {});
    let (ino, fh) = bench.new_file("f").unwrap();
    bench.truncate(ino, 1 << 40).unwrap();
    assert!(bench.audit().bytes < 8 * KIB);
    let (mut at, mut filled) = (5, 0);
    while !is_full(bench.core().write(ino, fh, at, b"x", false)) {
        (at, filled) = (at + 100_000, filled + 1);
    }
    assert!(filled > 240 && filled < 256, "{filled}");
    let used = bench.audit();
    // A try that fails takes nothing, however often and wherever.
    for n in 0..200 {
        assert!(is_full(bench.core().write(
            ino,
            fh,
            at + n * 5000,
            b"x",
            false
        )));
    }
    assert_eq!(bench.audit(), used);
    assert_eq!(bench.walk("f").unwrap().size, 1 << 40);
    let mut buf = [1; 10];
    bench.core().read(ino, fh, at, &mut buf).unwrap();
    assert_eq!(buf, [0; 10]);
    // Punched out, there is room again.
    bench.core().fallocate(&ME, ino, fh, PUNCH, 0, MIB).unwrap();
    bench.audit();
    assert!(!is_full(bench.core().write(ino, fh, at, b"x", false)));
    bench.audit();
}

#[test]
fn what_was_allocated_can_be_written_at_the_limit() {
    let bench = Bench::limited(bytes(MIB), |_| {});
    let core = bench.core();
    let (ino, fh) = bench.new_file("f").unwrap();
    let full = core.fallocate(&ME, ino, fh, 0, 0, 2 * MIB);
    assert!(is_full(full));
    assert!(bench.audit().bytes < 8 * KIB, "all of it or nothing");
    core.fallocate(&ME, ino, fh, 0, 0, 512 * KIB).unwrap();
    core.fallocate(&ME, ino, fh, KEEP_SIZE, MIB, 256 * KIB)
        .unwrap();
    let used = bench.audit();
    assert!(used.bytes >= 768 * KIB, "{used:?}");
    let other = bench.new_file("other").unwrap();
    bench.write_on(other, 0, 10_000);
    let used = bench.audit();
    // Twice is once, and each block is there for who was promised it.
    core.fallocate(&ME, ino, fh, 0, 0, 512 * KIB).unwrap();
    let data = vec![9; 512 << 10];
    assert_eq!(core.write(ino, fh, 0, &data, false).unwrap(), data.len());
    assert!(is_full(core.fallocate(
        &ME,
        ino,
        fh,
        KEEP_SIZE,
        8 * MIB,
        64 * KIB
    )));
    for n in 8..20 {
        let past = core.fallocate(&ME, ino, fh, KEEP_SIZE, n * MIB, 64 * KIB);
        assert!(is_full(past), "blocks past the end");
    }
    assert!(is_full(core.write(ino, fh, 8 * MIB, &data, false)));
    assert!(bench.audit().bytes <= used.bytes + 4096);
    let mut buf = vec![0; data.len()];
    core.read(ino, fh, 0, &mut buf).unwrap();
    assert!(buf == data);
    bench.truncate(ino, 0).unwrap();
    assert!(bench.audit().bytes < used.bytes - 700 * KIB);
}

#[test]
fn records_count_and_removing_is_never_refused() {
    let mut bench = Bench::limited(bytes(256 * KIB), |base| {
        for i in 0..50 {
            fs::write(base.join(format!("base{i}")), vec![1; 3 << 20]).unwrap();
        }
    });
    let core = bench.core();
    let made = |what: &str, make: &dyn Fn(usize) -> Result<(), FsError>| {
        let count = (0..10_000).take_while(|i| !is_full(make(*i))).count();
        assert!(count > 0 && count < 5000, "{what}: {count}");
        let used = bench.audit();
        assert!(
            used.bytes <= 256 * KIB && used.bytes > 180 * KIB,
            "{what}: {used:?}"
        );
        count
    };
    let dirs = made("directories", &|i| {
        core.mkdir(&ME, Ino::ROOT, &name(&format!("dir{i}")), 0o755)
            .map(drop)
    });
    for i in 0..dirs {
        core.rmdir(&ME, Ino::ROOT, &name(&format!("dir{i}")))
            .unwrap();
    }
    assert!(bench.audit().bytes < 2 * KIB);
    let links = made("symlinks", &|i| {
        core.symlink(&ME, Ino::ROOT, &name(&format!("link{i}")), &[b'x'; 4000])
            .map(drop)
    });
    assert!(links < 70, "{links}");
    for i in 0..links {
        bench.unlink("", &format!("link{i}"));
    }
    let ino = bench.create("", "f", b"x");
    let xattrs = made("attributes", &|i| {
        core.setxattr(&ME, ino, format!("user.{i}").as_bytes(), &[0; 50_000], 0)
    });
    assert!(xattrs < 6, "{xattrs}");
    for i in 0..xattrs {
        core.removexattr(&ME, ino, format!("user.{i}").as_bytes())
            .unwrap();
    }
    let long = "n".repeat(240);
    let names = made("hard links", &|i| {
        core.link(&ME, ino, Ino::ROOT, &name(&format!("{long}{i}")))
            .map(drop)
    });
    // With no room left at all: the host's files can be removed and cut, the branch's own too.
    for i in 0..40 {
        bench.unlink("", &format!("base{i}"));
    }
    for (i, size) in [(40, 0), (41, 2 << 20), (42, 5)] {
        let ino = bench.walk(&format!("base{i}")).unwrap().ino;
        assert_eq!(bench.truncate(ino, size).unwrap().size, size);
    }
    let (base, fh) = bench.handle("base43");
    assert!(is_full(core.write(base, fh, 0, b"x", false)));
    core.release(fh);
    bench.audit();
    for i in 0..names {
        bench.unlink("", &format!("{long}{i}"));
    }
    let used = bench.audit();
    assert!(used.bytes < 32 * KIB, "{used:?}");
    bench.reopen(false);
    assert_eq!(bench.audit(), used);
    bench.reopen(true);
    assert_eq!(bench.audit(), used);
}

#[test]
fn small_writes_all_over_a_large_file_count_their_extents() {
    let bench = Bench::limited(bytes(MIB), |base| {
        fs::write(base.join("big"), vec![1; 8 << 20]).unwrap();
    });
    let (ino, fh) = bench.handle("big");
    // Without a charge these would be two thousand extents for each block that is paid for.
    let mut count = 0;
    while !is_full(bench.core().write(ino, fh, 2 * count, b"x", false)) {
        count += 1;
    }
    assert!(count > 10_000 && count < 40_000, "{count}");
    let used = bench.audit();
    assert!(used.bytes > MIB - 8 * KIB && used.bytes <= MIB, "{used:?}");
    bench.truncate(ino, 0).unwrap();
    assert!(bench.audit().bytes < 16 * KIB);
}

#[test]
fn inodes_count_until_they_are_closed() {
    let mut bench = Bench::limited(inodes(10), |base| {
        fs::write(base.join("base"), b"base").unwrap();
    });
    let files: Vec<_> = (0..10)
        .map(|i| bench.new_file(&format!("f{i}")).unwrap())
        .collect();
    assert!(is_full(bench.new_file("more")));
    let core = bench.core();
    assert!(is_full(core.mkdir(&ME, Ino::ROOT, &name("more"), 0o755)));
    assert!(is_full(core.symlink(&ME, Ino::ROOT, &name("more"), b"x")));
    // What is no new inode: another name, a change of the host's files.
    core.link(&ME, files[0].0, Ino::ROOT, &name("link"))
        .unwrap();
    bench.write("base", 0, b"changed");
    bench.rename(("", "base"), ("", "moved")).unwrap();
    bench.unlink("", "link");
    bench.unlink("", "f0");
    assert!(is_full(bench.new_file("more")), "f0 is still open");
    let core = bench.core();
    core.release(files[0].1);
    core.forget(files[0].0, u64::MAX);
    bench.new_file("more").unwrap();
    assert_eq!(bench.audit().inodes, 10);
    // An open file without a name is gone with the daemon.
    bench.unlink("", "f1");
    assert_eq!(bench.used().inodes, 10);
    bench.reopen(false);
    assert_eq!(bench.audit().inodes, 9);
    let stat = bench.core().statfs().unwrap();
    assert_eq!((stat.files, stat.files_free), (10, 1));
}

#[test]
fn what_a_snapshot_keeps_still_counts() {
    let mut bench = Bench::limited(
        Limit {
            inodes: Some(20),
            ..bytes(MIB)
        },
        |_| {},
    );
    bench.create("", "a", &vec![1; 300 << 10]);
    bench.create("", "b", &vec![1; 300 << 10]);
    let used = bench.audit();
    bench.snapshot();
    assert_eq!(bench.audit(), used, "freezing costs nothing");
    bench.remove("a");
    let after = bench.audit();
    assert!(after.bytes >= used.bytes && after.inodes == 2, "{after:?}");
    // A change of what it keeps is a copy, for which there must be room.
    bench.write("b", 0, b"changed");
    let after = bench.audit();
    assert!(after.bytes >= used.bytes + 300 * KIB, "{after:?}");
    let ino = bench.create("", "c", b"x");
    let handle = bench.handle("c");
    bench.write_on(handle, 0, 4096);
    bench.truncate(ino, 0).unwrap();
    bench.core().release(handle.1);
    bench.reopen(false);
    bench.audit();
    // Moved back, what came after stays, for the snapshot that was made of it.
    let before = bench.audit();
    bench.core.take().unwrap().close().unwrap();
    let store = Store::open(bench.store.path()).unwrap().unwrap();
    let b = BranchName::new("b").unwrap();
    let saved = store
        .restore(&b, &store.branch(&b).unwrap().snapshots[0].name)
        .unwrap();
    bench.open();
    assert_eq!(bench.audit(), before);
    // Its removal gives room back, also while the branch is live.
    store.remove_snapshot(&b, &saved.unwrap().name).unwrap();
    bench.core().maintain().unwrap();
    assert_eq!(bench.audit(), used);
    // A branch made of it takes its limit along, and nothing of what it holds.
    bench.core.take().unwrap().close().unwrap();
    let child = BranchName::new("child").unwrap();
    let from = crate::core::point::Point::from(b.clone());
    let new = NewBranch {
        workspace: "/".into(),
    };
    let info = store.create_branch(&child, Some(&from), new).unwrap();
    assert_eq!(info.limit, store.branch(&b).unwrap().limit);
    assert_eq!(store.usage(&child).unwrap(), Usage::default());
    assert_eq!(store.usage(&b).unwrap(), used);
    store.create_snapshot(&child, None).unwrap();
    assert_eq!(store.usage(&child).unwrap(), Usage::default());
    bench.open();
}

#[test]
fn writers_that_race_do_not_pass_the_limit() {
    const WRITERS: u64 = 6;
    let bench = Bench::limited(bytes(2 * MIB), |_| {});
    let own: Vec<_> = (0..WRITERS)
        .map(|i| bench.new_file(&format!("f{i}")).unwrap())
        .collect();
    let shared = bench.new_file("shared").unwrap();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let (bench, is_over) = (&bench, &is_over);
    let watch = |left: &std::sync::atomic::AtomicU64| {
        while left.load(std::sync::atomic::Ordering::Acquire) > 0 {
            assert!(bench.used().bytes <= 2 * MIB);
            assert!(bench.core().statfs().unwrap().blocks_free <= 512);
        }
    };
    let left = std::sync::atomic::AtomicU64::new(WRITERS);
    std::thread::scope(|scope| {
        for (i, file) in own.iter().enumerate() {
            let left = &left;
            scope.spawn(move || {
                for round in 0..3 {
                    bench.write_on(*file, 0, 3000 + 7000 * i as u64);
                    bench.write_on(shared, i as u64 * 50_000_000, 5000);
                    let full = bench.new_file(&format!("new{i}.{round}")).map(|f| {
                        bench.core().release(f.1);
                    });
                    let _ = is_full(full);
                    if round < 2 {
                        bench.truncate(file.0, 0).unwrap();
                    }
                }
                left.fetch_sub(1, std::sync::atomic::Ordering::Release);
            });
        }
        scope.spawn(|| watch(&left));
    });
    assert!(!is_over.load(std::sync::atomic::Ordering::Relaxed));
    let used = bench.audit();
    assert!(
        used.bytes <= 2 * MIB && used.bytes > 2 * MIB - 64 * KIB,
        "{used:?}"
    );
}

#[test]
fn the_account_is_right_after_any_history() {
    for seed in 1..=8u64 {
        let mut bench = Bench::limited(
            Limit {
                inodes: Some(40),
                ..bytes(MIB)
            },
            |base| {
                for i in 0..6 {
                    fs::write(base.join(format!("n{i}")), vec![3; 700_000 * i]).unwrap();
                }
            },
        );
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut next = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        for step in 0..120 {
            let what = next(16);
            let file = format!("n{}", next(12));
            let known = bench.walk(&file).ok().filter(|a| a.kind == Kind::File);
            let (at, len) = (next(2_000_000), next(300_000));
            let core = bench.core();
            let _ = match (what, known) {
                (0..=3, Some(attr)) => core.open(&ME, attr.ino, O_RDWR).and_then(|opened| {
                    let data = vec![5; len as usize];
                    let done = core.write(attr.ino, opened.fh, at, &data, false);
                    core.release(opened.fh);
                    done.map(drop)
                }),
                (4 | 5, Some(attr)) => bench.truncate(attr.ino, at).map(drop),
                (6, Some(attr)) => core.open(&ME, attr.ino, O_RDWR).and_then(|opened| {
                    let mode = [0, KEEP_SIZE, PUNCH][step % 3];
                    let done = core.fallocate(&ME, attr.ino, opened.fh, mode, at, len + 1);
                    core.release(opened.fh);
                    done
                }),
                (7, Some(attr)) => {
                    core.setxattr(&ME, attr.ino, b"user.x", &vec![1; len as usize / 5], 0)
                }
                (8 | 9, Some(attr)) => {
                    let done = core.unlink(&ME, Ino::ROOT, &name(&file));
                    core.forget(attr.ino, u64::MAX);
                    done
                }
                (10, Some(attr)) => core
                    .link(&ME, attr.ino, Ino::ROOT, &name(&format!("n{}", next(12))))
                    .map(drop),
                (11, _) => bench.rename(("", &file), ("", &format!("n{}", next(12)))),
                (12, _) => core
                    .symlink(
                        &ME,
                        Ino::ROOT,
                        &name(&file),
                        &vec![b'y'; 1 + len as usize / 100],
                    )
                    .map(drop),
                (13, _) if next(3) == 0 => {
                    bench.snapshot();
                    Ok(())
                }
                (14, _) if next(3) == 0 => {
                    bench.reopen(next(2) == 0);
                    Ok(())
                }
                _ => bench.new_file(&file).map(|f| core.release(f.1)),
            };
            let used = bench.audit();
            let slack = 20 * KIB;
            assert!(
                used.bytes <= MIB + slack && used.inodes <= 40,
                "{seed}.{step}: {used:?}"
            );
        }
        bench.reopen(false);
        bench.audit();
        bench.reopen(true);
        bench.audit();
        assert_eq!(bench.damage(), [""; 0]);
    }
}

#[test]
fn the_limit_shows_as_the_size_of_the_file_system() {
    let mut bench = Bench::limited(bytes(MIB), |_| {});
    let stat = bench.core().statfs().unwrap();
    let size = |blocks: u64| blocks * u64::from(stat.block_bytes);
    assert_eq!(size(stat.blocks), MIB);
    bench.create("", "f", &vec![1; 512 << 10]);
    let after = bench.core().statfs().unwrap();
    let free = size(after.blocks_free);
    assert!(free > 500 * KIB && free <= 512 * KIB, "{free}");
    assert_eq!(after.blocks_available, after.blocks_free);
    // Lowered below what is used, nothing is free, and what is there stays.
    bench.set_limit(bytes(64 * KIB));
    let stat = bench.core().statfs().unwrap();
    assert_eq!((size(stat.blocks), stat.blocks_free), (64 * KIB, 0));
    assert_eq!(bench.read("f").len(), 512 << 10);
    assert!(is_full(bench.new_file("more")));
    // More than the host has is what the host has.
    bench.set_limit(bytes(u64::MAX >> 2));
    let limited = bench.core().statfs().unwrap();
    bench.set_limit(Limit::default());
    let host = bench.core().statfs().unwrap();
    assert_eq!(limited.blocks, host.blocks);
    assert!(bench.core().account().is_none());
}

#[test]
fn a_file_without_a_name_gives_its_room_back_after_a_snapshot() {
    let mut bench = Bench::limited(bytes(MIB), |_| {});
    let (ino, fh) = bench.new_file("f").unwrap();
    let more = |bench: &Bench, at| bench.core().write(ino, fh, at, &[7; 100_000], false);
    more(&bench, 0).unwrap();
    bench.unlink("", "f");
    for round in 1..3 {
        bench.snapshot();
        more(&bench, round * 100_000).unwrap();
        assert!(bench.used().bytes > round * 100_000);
    }
    bench.core().release(fh);
    bench.core().forget(ino, u64::MAX);
    let used = bench.audit();
    assert!(used.bytes < 50_000, "{used:?}");
}
