//! Bytes of files: copy-up, extents, unlinked files, fsync.

use std::os::unix::fs::FileExt;

use super::*;

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

#[test]
fn a_file_closed_while_everything_is_synced_does_not_stay_open() {
    let bench = Bench::new(|_| {});
    let core = bench.core();
    let (closed, open) = (
        bench.create("", "closed", b"1"),
        bench.create("", "open", b"2"),
    );
    let is_held = |ino: Ino| {
        core.tree
            .lock()
            .unwrap()
            .node(ino)
            .unwrap()
            .stream
            .is_some()
    };
    let handle = core.open(&ME, closed, O_RDONLY).unwrap();
    core.open(&ME, open, O_RDWR).unwrap();
    let stream = (core.tree.lock().unwrap().node(open).unwrap().stream)
        .clone()
        .unwrap();
    std::thread::scope(|threads| {
        // Somebody moves the bytes of one file: the sync waits there.
        let bytes = stream.bytes.write().unwrap();
        let holders = Arc::strong_count(&stream);
        let sync = threads.spawn(|| core.sync_all());
        while Arc::strong_count(&stream) == holders {
            std::thread::yield_now();
        }
        core.release(handle.fh);
        drop(bytes);
        sync.join().unwrap().unwrap();
    });
    assert!(is_held(open));
    assert!(!is_held(closed));
}

#[test]
fn what_is_stored_after_the_last_close_is_not_in_a_snapshot_before_it() {
    let mut bench = Bench::new(|_| {});
    bench.core.take().unwrap().close().unwrap();
    let store = Store::open(bench.store.path()).unwrap().unwrap();
    let b = BranchName::new("b").unwrap();
    let config = CoreConfig {
        base: bench.base.path().into(),
        roots: vec!["/".into()],
        conceal: vec![],
        mountpoint: None,
        passthrough: true,
    };
    let mut core = FsCore::new(store.open_live(&b).unwrap(), config).unwrap();
    let (entry, opened) = core
        .create(&ME, Ino::ROOT, &name("f"), 0o644, O_RDWR)
        .unwrap();
    let ino = entry.attr.ino;
    // The kernel's own descriptor, which a mapping keeps after the close.
    let OpenIo::Passthrough { fd, .. } = opened.io else {
        panic!("not native");
    };
    let mapped = fs::File::from(fd);
    mapped.write_at(b"before", 0).unwrap();
    core.release(opened.fh);
    core.forget(ino, 1);
    core.maintain().unwrap();
    assert!(core.has_native_writers());
    for n in 1..3 {
        let held = store.hold().unwrap();
        core.freeze(&held, FreezeFor::Snapshot(None)).unwrap();
        mapped.write_at(format!("after{n}").as_bytes(), 0).unwrap();
    }
    let read = |core: &FsCore| {
        let ino = core.lookup(Ino::ROOT, &name("f")).unwrap().attr.ino;
        let opened = core.open(&ME, ino, O_RDONLY).unwrap();
        let mut bytes = [0; 10];
        let got = core.read(ino, opened.fh, 0, &mut bytes).unwrap();
        core.release(opened.fh);
        String::from_utf8(bytes[..got].to_vec()).unwrap()
    };
    assert_eq!(read(&core), "after2");
    drop(mapped);
    assert!(!core.has_native_writers());
    core.close().unwrap();
    let point = |n: &str| crate::core::point::Point {
        branch: b.clone(),
        snapshot: Some(n.parse().unwrap()),
    };
    for (n, held) in [("1", "before"), ("2", "after1")] {
        let child = BranchName::new(&format!("c{n}")).unwrap();
        let new = NewBranch {
            workspace: "/".into(),
        };
        store.create_branch(&child, Some(&point(n)), new).unwrap();
        let config = CoreConfig {
            base: bench.base.path().into(),
            roots: vec!["/".into()],
            conceal: vec![],
            mountpoint: None,
            passthrough: false,
        };
        let core = FsCore::new(store.open_live(&child).unwrap(), config).unwrap();
        assert_eq!(read(&core), held);
    }
}

/// The objects of all layers.
fn count_objects(bench: &Bench) -> usize {
    let list = |dir: &Path| -> Vec<_> {
        let entries = fs::read_dir(dir).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    let layers = list(&bench.store.path().join("layers"));
    let buckets = layers.iter().flat_map(|layer| list(&layer.join("objects")));
    buckets.map(|bucket| list(&bucket).len()).sum()
}

#[test]
fn test_snapshot_write_only_clones_once_per_stream() {
    // Copied whole, and layered over what was there.
    for bytes in [64 << 10, 4 << 20] {
        let mut bench = Bench::new(|_| {});
        let ino = bench.create("", "f", &vec![b'A'; bytes]);
        let still = bench.create("", "still", b"never written again");
        let open = [ino, still].map(|ino| bench.core().open(&ME, ino, O_RDWR).unwrap().fh);
        for round in 0..3 {
            let before = count_objects(&bench);
            bench.snapshot();
            assert_eq!(count_objects(&bench), before, "a snapshot copies nothing");
            for at in [round, 1000 + round, bytes as u64 + round] {
                bench.core().write(ino, open[0], at, b"b", false).unwrap();
            }
            let mut byte = [0];
            bench.core().read(still, open[1], 0, &mut byte).unwrap();
            assert_eq!(
                count_objects(&bench),
                before + 1,
                "one for the file that is written"
            );
        }
        for fh in open {
            bench.core().release(fh);
        }
        let held = bench.read("f");
        assert_eq!((&held[..4], held.len()), (&b"bbbA"[..], bytes + 3));
    }
}
