//! Names and directories: moves, links, listings, what a mount shows of them.

use super::*;

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

/// ext4 gives the number of a removed file to the next one.
#[test]
fn what_gets_the_number_of_a_concealed_file_is_not_concealed() {
    let numbers = 0..8;
    let mut bench = Bench::new(|base| {
        for k in numbers.clone() {
            fs::create_dir_all(base.join(format!("d{k}"))).unwrap();
            fs::write(base.join(format!("s{k}")), "secret").unwrap();
        }
    });
    let conceal = numbers.clone().flat_map(|k| {
        let inner = std::path::PathBuf::from(format!("/d{k}/inner"));
        [format!("/s{k}").into(), inner]
    });
    bench.core.take().unwrap().close().unwrap();
    let store = Store::open(bench.store.path()).unwrap().unwrap();
    let live = store.open_live(&BranchName::new("b").unwrap()).unwrap();
    let config = CoreConfig {
        base: bench.base.path().into(),
        roots: vec!["/".into()],
        conceal: conceal.collect(),
        mountpoint: None,
        passthrough: false,
    };
    bench.core = Some(FsCore::new(live, config).unwrap());
    let base = bench.base.path().to_owned();
    let mut wanted = Vec::new();
    for k in numbers {
        let secret = base.join(format!("s{k}"));
        let number = fs::metadata(&secret).unwrap().ino();
        fs::write(base.join("saved"), "anew").unwrap();
        fs::rename(base.join("saved"), &secret).unwrap();
        let other = base.join(format!("main{k}"));
        fs::write(&other, "x").unwrap();
        assert!(bench.walk(&format!("s{k}")).is_err(), "saved anew");
        let again = fs::metadata(&other).unwrap().ino() == number;
        assert!(bench.walk(&format!("main{k}")).is_ok(), "again: {again}");
        wanted.push(format!("main{k}"));
        // The same for the directory of a place.
        fs::remove_dir(base.join(format!("d{k}"))).unwrap();
        fs::create_dir(base.join(format!("e{k}"))).unwrap();
        fs::write(base.join(format!("e{k}/inner")), "x").unwrap();
        assert!(bench.walk(&format!("e{k}/inner")).is_ok());
    }
    let listed = bench.names("");
    assert!(
        wanted.iter().all(|name| listed.contains(name)),
        "{listed:?}"
    );
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
