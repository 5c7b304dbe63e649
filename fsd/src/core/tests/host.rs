//! What a branch makes of the host's own changes beneath it, while it is live and between lives.

use std::fs;
use std::path::PathBuf;

use super::*;

impl Bench {
    pub(super) fn host(&self, path: &str) -> PathBuf {
        self.base.path().join(path)
    }

    /// As an editor saves: another file under the name.
    pub(super) fn save_anew(&self, path: &str, data: &str) {
        fs::write(self.host("saved"), data).unwrap();
        fs::rename(self.host("saved"), self.host(path)).unwrap();
    }
}

fn linked(names: &[&str]) -> Bench {
    Bench::new(|base| {
        fs::write(base.join(names[0]), "base").unwrap();
        for name in &names[1..] {
            fs::hard_link(base.join(names[0]), base.join(name)).unwrap();
        }
    })
}

#[test]
fn a_link_that_was_looked_at_outlives_the_hosts() {
    let mut bench = linked(&["x", "y"]);
    let held = bench.walk("y").unwrap().ino;
    bench.unlink("", "x");
    // As the kernel does: what it has looked at it does not look up again.
    let opened = bench.core().open(&ME, held, O_RDWR).unwrap();
    let written = bench.core().write(held, opened.fh, 0, b"data", false);
    assert_eq!(written.unwrap(), 4);
    bench.core().release(opened.fh);
    bench.reopen(true);
    fs::remove_file(bench.host("y")).unwrap();
    for clean in [false, true] {
        bench.reopen(clean);
        assert_eq!(bench.names(""), ["y"]);
        assert_eq!(bench.read("y"), b"data");
        assert_eq!(bench.walk("y").unwrap().nlink, 1);
        assert_eq!(bench.damage(), Vec::<String>::new());
    }
}

#[test]
fn all_links_that_were_looked_at_are_the_branchs() {
    for before in [true, false] {
        let mut bench = linked(&["x", "y", "z"]);
        let look = |bench: &Bench| {
            for name in ["x", "y", "z"] {
                bench.walk(name).unwrap();
            }
        };
        if before {
            look(&bench);
        }
        bench.write("x", 0, b"data");
        if !before {
            look(&bench);
            bench.write("x", 0, b"DATA");
            bench.write("x", 0, b"data");
        }
        bench.reopen(true);
        bench.save_anew("x", "the host's x");
        bench.save_anew("z", "the host's z");
        bench.reopen(true);
        for name in ["x", "y", "z"] {
            assert_eq!(bench.read(name), b"data", "{name}, {before}");
            assert_eq!(bench.walk(name).unwrap().nlink, 3);
        }
        for name in ["z", "x", "y"] {
            bench.unlink("", name);
            assert_eq!(bench.damage(), Vec::<String>::new());
        }
        assert!(bench.names("").is_empty());
    }
}

#[test]
fn a_link_that_the_host_has_taken_away_is_not_the_branchs() {
    for remove in [true, false] {
        let mut bench = linked(&["x", "y"]);
        bench.walk("x").unwrap();
        bench.walk("y").unwrap();
        if remove {
            fs::remove_file(bench.host("x")).unwrap();
        } else {
            bench.save_anew("x", "the host's");
        }
        bench.write("y", 0, b"data");
        bench.reopen(true);
        assert_eq!(bench.read("y"), b"data");
        if remove {
            assert_eq!(bench.names(""), ["y"]);
        } else {
            assert_eq!(bench.read("x"), b"the host's");
        }
        bench.unlink("", "y");
        assert_eq!(bench.damage(), Vec::<String>::new());
    }
}

#[test]
fn links_that_the_host_adds_do_not_outlive_the_record() {
    let mut bench = linked(&["x", "y"]);
    bench.write("x", 0, b"data");
    for name in ["one", "two"] {
        fs::hard_link(bench.host("y"), bench.host(name)).unwrap();
        bench.walk(name).unwrap();
    }
    bench.write("x", 0, b"DATA");
    for name in ["x", "one", "two"] {
        assert_eq!(bench.read(name), b"DATA");
        bench.unlink("", name);
        bench.reopen(true);
        for rest in bench.names("") {
            bench.read(&rest);
        }
        assert_eq!(bench.damage(), Vec::<String>::new());
    }
}

#[test]
fn an_unlinked_file_that_is_open_takes_no_name_of_the_host() {
    for is_recorded in [false, true] {
        let mut bench = Bench::new(|base| fs::write(base.join("x"), "base").unwrap());
        if is_recorded {
            let mode = SetAttr {
                perm: Some(0o600),
                ..SetAttr::default()
            };
            let ino = bench.walk("x").unwrap().ino;
            bench.core().setattr(&ME, ino, None, &mode).unwrap();
        }
        let held = bench.walk("x").unwrap().ino;
        let opened = bench.core().open(&ME, held, O_RDWR).unwrap();
        bench.unlink("", "x");
        fs::rename(bench.host("x"), bench.host("y")).unwrap();
        let found = bench.walk("y").unwrap();
        assert_eq!(found.nlink, 1);
        bench.write("y", 0, b"data");
        let mut held_bytes = [0; 8];
        let got = bench.core().read(held, opened.fh, 0, &mut held_bytes);
        assert_eq!(&held_bytes[..got.unwrap()], b"base");
        bench.core().release(opened.fh);
        for clean in [false, true] {
            bench.reopen(clean);
            assert_eq!(bench.names(""), ["y"]);
            assert_eq!(bench.read("y"), b"data");
            assert_eq!(bench.damage(), Vec::<String>::new());
        }
    }
}

/// As a checkout does: the directory is another one, with other files.
fn remake_dir(bench: &Bench) {
    fs::remove_dir_all(bench.host("d")).unwrap();
    fs::create_dir(bench.host("d")).unwrap();
    fs::write(bench.host("d/f"), "newer").unwrap();
    fs::write(bench.host("d/new"), "n").unwrap();
    std::os::unix::fs::symlink("there", bench.host("d/l")).unwrap();
}

fn with_dir() -> Bench {
    let bench = Bench::new(|base| {
        fs::create_dir_all(base.join("d/sub")).unwrap();
        fs::write(base.join("d/f"), "old").unwrap();
        fs::write(base.join("d/sub/g"), "below").unwrap();
        std::os::unix::fs::symlink("here", base.join("d/l")).unwrap();
    });
    for path in ["d/f", "d/sub/g", "d/l"] {
        bench.walk(path).unwrap();
    }
    bench.names("d/sub");
    bench.read("d/f");
    bench
}

/// Whether the kernel will look the path up again.
fn is_stale<T: std::fmt::Debug>(result: Result<T, FsError>) -> bool {
    match &result {
        Err(FsError::Base { source, .. }) => source.raw_os_error() == Some(nix::libc::ESTALE),
        _ => false,
    }
}

#[test]
fn a_directory_that_the_host_makes_anew_is_seen_so() {
    let bench = with_dir();
    let ino = |path| bench.walk(path).unwrap().ino;
    let (dir, file, link, below) = (ino("d"), ino("d/f"), ino("d/l"), ino("d/sub/g"));
    remake_dir(&bench);
    assert!(is_stale(bench.core().open(&ME, file, O_RDONLY)));
    assert!(is_stale(bench.core().check_dir(dir)));
    let target = bench.core().readlink(link);
    assert!(!target.is_ok_and(|t| &*t == b"here"));
    let gone = bench.core().open(&ME, below, O_RDONLY);
    assert!(gone.is_err(), "{gone:?}");
    assert_eq!(bench.names("d"), ["f", "l", "new"]);
    assert_eq!(bench.read("d/f"), b"newer");
    assert_eq!(bench.read("d/new"), b"n");
    let link = ino("d/l");
    assert_eq!(&*bench.core().readlink(link).unwrap(), b"there");
}

/// ext4 gives the number of a removed file to the next one.
#[test]
fn links_stay_links_where_the_host_uses_a_number_again() {
    let files: Vec<(String, String)> = (0..8).map(|k| (format!("a{k}"), format!("b{k}"))).collect();
    let mut bench = Bench::new(|base| {
        for (a, _) in &files {
            fs::write(base.join(a), "old").unwrap();
        }
    });
    for (a, b) in &files {
        bench.walk(a).unwrap();
        fs::remove_file(bench.host(a)).unwrap();
        fs::write(bench.host(a), "new").unwrap();
        fs::hard_link(bench.host(a), bench.host(b)).unwrap();
        bench.write(b, 0, b"changed");
    }
    for clean in [true, false] {
        bench.reopen(clean);
        for (a, b) in &files {
            assert_eq!(bench.read(b), b"changed");
            assert_eq!(bench.read(a), b"changed", "{a}");
            assert_eq!(bench.walk(a).unwrap().ino, bench.walk(b).unwrap().ino);
        }
        assert_eq!(bench.damage(), Vec::<String>::new());
    }
}

#[test]
fn what_is_written_to_a_directory_that_the_host_moved_lands_there() {
    for is_remade in [true, false] {
        let mut bench = with_dir();
        let file = bench.walk("d/f").unwrap();
        let dir = bench.walk("d").unwrap();
        fs::rename(bench.host("d"), bench.host("e")).unwrap();
        if is_remade {
            fs::create_dir(bench.host("d")).unwrap();
            fs::write(bench.host("d/f"), "otherd").unwrap();
        }
        // The kernel still has the old name, and is told to look it up again.
        let core = bench.core();
        assert!(core.open(&ME, file.ino, O_RDWR).is_err());
        if is_remade {
            assert!(is_stale(core.check_dir(dir.ino)));
            assert!(is_stale(core.mkdir(&ME, dir.ino, &name("x"), 0o755)));
            assert_eq!(bench.read("d/f"), b"otherd");
        }
        assert_eq!(bench.names("e"), ["f", "l", "sub"]);
        assert_eq!(bench.walk("e").unwrap().ino, dir.ino);
        assert_eq!(bench.walk("e/f").unwrap().ino, file.ino);
        fs::write(bench.host("e/never"), "seen").unwrap();
        assert_eq!(bench.read("e/never"), b"seen");
        bench.write("e/sub/g", 0, b"BELOW");
        bench.write("e/f", 0, b"changed");
        for clean in [true, false] {
            assert_eq!(bench.read("e/f"), b"changed");
            assert_eq!(bench.read("e/sub/g"), b"BELOW");
            if is_remade {
                assert_eq!(bench.read("d/f"), b"otherd");
                assert_eq!(bench.names("d"), ["f"]);
            } else {
                assert_eq!(bench.names(""), ["e"]);
            }
            assert_eq!(bench.damage(), Vec::<String>::new());
            bench.reopen(clean);
        }
    }
}

#[test]
fn directories_that_the_host_turns_inside_out_are_found() {
    let bench = with_dir();
    let sub = bench.walk("d/sub").unwrap().ino;
    bench.names("d/sub");
    fs::rename(bench.host("d/sub"), bench.host("sub")).unwrap();
    fs::rename(bench.host("d"), bench.host("sub/d")).unwrap();
    // By a directory that is held: the branch still has it inside the one that is found in it.
    assert!(is_stale(bench.core().lookup(sub, &name("d"))));
    assert_eq!(bench.names("sub"), ["d", "g"]);
    assert_eq!(bench.read("sub/d/f"), b"old");
    bench.write("sub/d/f", 0, b"new");
    assert_eq!(bench.read("sub/d/f"), b"new");
    assert_eq!(bench.damage(), Vec::<String>::new());
}

#[test]
fn bytes_of_the_host_come_with_their_time() {
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_577_836_800);
    let perm = SetAttr {
        perm: Some(0o755),
        ..SetAttr::default()
    };
    let same = Time {
        sec: 1_577_836_800,
        nsec: 0,
    };
    for is_anew in [false, true] {
        // Also one that is set to what it was, as `touch -r`, rsync and tar do.
        for day in [None, Some(Time { sec: 7, nsec: 8 }), Some(same)] {
            let mut bench = Bench::new(|base| {
                let file = fs::File::create(base.join("f")).unwrap();
                file.set_modified(old).unwrap();
            });
            let ino = bench.walk("f").unwrap().ino;
            let touched = SetAttr {
                mtime: day.map(TimeSet::At),
                ..perm
            };
            let before = bench.core().setattr(&ME, ino, None, &touched).unwrap();
            bench.reopen(true);
            match is_anew {
                true => bench.save_anew("f", ""),
                false => fs::write(bench.host("f"), "v2").unwrap(),
            }
            let meta = fs::metadata(bench.host("f")).unwrap();
            let now = bench.walk("f").unwrap();
            let host = Time {
                sec: meta.mtime(),
                nsec: meta.mtime_nsec() as u32,
            };
            assert_eq!(now.mtime, day.unwrap_or(host));
            assert!(now.ctime >= host && now.ctime >= before.ctime);
            assert_eq!(now.size, meta.len());
        }
    }
}

#[test]
fn a_file_that_the_host_makes_first_is_opened() {
    use nix::libc::{O_CREAT, O_EXCL};
    let bench = Bench::new(|_| ());
    assert!(bench.walk("x").is_err());
    fs::write(bench.host("x"), "host").unwrap();
    let create = |flags| {
        bench
            .core()
            .create(&ME, Ino::ROOT, &name("x"), 0o644, O_RDWR | flags)
    };
    let exclusive = create(O_CREAT | O_EXCL);
    assert!(matches!(exclusive, Err(FsError::Exists { .. })));
    assert!(is_stale(create(O_CREAT)), "the kernel looks again");
    bench.write("x", 0, b"mine");
    assert_eq!(bench.read("x"), b"mine");
}

#[test]
fn what_the_kernel_keeps_of_a_file_goes_when_the_host_changes_it() {
    let bench = Bench::new(|base| fs::write(base.join("log"), "aaaa\n").unwrap());
    let ino = bench.walk("log").unwrap().ino;
    let open = |flags| {
        let opened = bench.core().open(&ME, ino, flags)?;
        bench.core().release(opened.fh);
        Ok::<_, FsError>(opened.is_changed)
    };
    let append = |bytes: &[u8]| {
        let file = fs::OpenOptions::new().append(true).open(bench.host("log"));
        std::io::Write::write_all(&mut file.unwrap(), bytes).unwrap();
    };
    for flags in [O_RDONLY, O_RDWR, O_RDONLY] {
        assert!(!open(flags).unwrap());
    }
    append(b"b");
    // Who reads is to have new pages, who may append the new size before.
    assert!(is_stale(open(O_RDWR)));
    assert!(open(O_RDWR).unwrap(), "asked for once only");
    assert!(open(O_RDONLY).unwrap(), "its size is not known yet");
    bench.walk("log").unwrap();
    assert!(!open(O_RDWR).unwrap());
    // It knows the size, and has the pages of before.
    append(b"c");
    bench.walk("log").unwrap();
    assert!(open(O_RDWR).unwrap());
    assert!(!open(O_RDWR).unwrap());
    // The same while somebody has it open.
    let held = bench.core().open(&ME, ino, O_RDONLY).unwrap();
    append(b"d");
    assert!(is_stale(open(O_RDWR)));
    bench.walk("log").unwrap();
    assert!(open(O_RDWR).unwrap());
    bench.core().release(held.fh);
    // What the branch has is its own.
    bench.write("log", 0, b"mine");
    append(b"e");
    assert!(!open(O_RDWR).unwrap());
    assert_eq!(bench.read("log"), b"mine\nbcd");
}
