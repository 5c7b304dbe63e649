//! The branch over its base: copy-up, whiteouts, opaque directories, merged listings, hard links,
//! inode numbers; and a base that changes underneath.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use agentfs_tests::base::{pattern, small};
use agentfs_tests::manifest::list;
use agentfs_tests::mounted::{self, Mounted, need_mount};
use agentfs_tests::regime::is_zero_open;

#[test]
fn hard_links_stay_links_over_copy_up() {
    if !need_mount() {
        return;
    }
    let mut m = Mounted::new(|dir| {
        fs::write(dir.join("a"), b"shared").expect("write");
        fs::create_dir(dir.join("d")).expect("mkdir");
        fs::hard_link(dir.join("a"), dir.join("b")).expect("link");
        fs::hard_link(dir.join("a"), dir.join("d/c")).expect("link");
    });
    m.same(|dir| {
        let at = |name: &str| dir.join(name);
        let is_one = |one: &str, two: &str| {
            let (one, two) = (fs::metadata(at(one)), fs::metadata(at(two)));
            one.expect("stat").ino() == two.expect("stat").ino()
        };
        let nlink = |name: &str| fs::metadata(at(name)).expect("stat").nlink();
        let mut said = vec![format!("{} {}", nlink("a"), is_one("a", "d/c"))];
        // Open before the copy-up, by a name that is not the one written through.
        let reader = File::open(at("d/c")).expect("open");
        fs::write(at("b"), b"written through b").expect("write");
        let mut bytes = vec![0; 17];
        reader.read_exact_at(&mut bytes, 0).expect("read");
        said.push(format!("{:?}", String::from_utf8_lossy(&bytes)));
        said.push(format!("{:?}", fs::read(at("a")).expect("read")));
        fs::remove_file(at("a")).expect("unlink");
        said.push(format!("{} {}", nlink("b"), nlink("d/c")));
        fs::rename(at("d/c"), at("moved")).expect("rename");
        fs::hard_link(at("b"), at("d/again")).expect("link");
        fs::set_permissions(at("moved"), fs::Permissions::from_mode(0o600)).expect("chmod");
        said.push(format!(
            "{} {}",
            nlink("d/again"),
            is_one("moved", "d/again")
        ));
        said.push(format!("{:o}", fs::metadata(at("b")).expect("stat").mode()));
        said
    });
    m.assert_same_trees();
    m.same(|dir| {
        fs::remove_file(dir.join("b")).expect("unlink");
        fs::write(dir.join("moved"), b"again").expect("write");
        (
            fs::read(dir.join("d/again")).expect("read"),
            fs::metadata(dir.join("moved")).expect("stat").nlink(),
        )
    });
    m.assert_same_trees();
}

#[test]
fn inode_numbers_stay() {
    if !need_mount() {
        return;
    }
    let mut m = Mounted::new(small);
    let dir = m.mnt();
    let ino = |path: &str| fs::symlink_metadata(dir.join(path)).expect("stat").ino();
    let before: Vec<u64> = ["file", "big", "dir", "sym", "dir/sub/two"]
        .map(ino)
        .to_vec();
    fs::write(dir.join("file"), b"copied up").expect("write");
    OpenOptions::new()
        .append(true)
        .open(dir.join("big"))
        .expect("open")
        .set_len(1)
        .expect("cut");
    fs::set_permissions(dir.join("dir"), fs::Permissions::from_mode(0o700)).expect("chmod");
    fs::rename(dir.join("dir"), dir.join("moved")).expect("rename");
    fs::rename(dir.join("sym"), dir.join("moved/sym")).expect("rename");
    fs::write(dir.join("new"), b"").expect("write");
    let new = ino("new");
    for _ in 0..2 {
        let now: Vec<u64> = ["file", "big", "moved", "moved/sym", "moved/sub/two"]
            .map(ino)
            .to_vec();
        assert_eq!((now, ino("new")), (before.clone(), new));
        for entry in fs::read_dir(&dir).expect("list") {
            use std::os::unix::fs::DirEntryExt;
            let entry = entry.expect("entry");
            assert_eq!(
                entry.ino(),
                entry.metadata().expect("stat").ino(),
                "{entry:?}"
            );
        }
        m.remount();
    }
}

#[test]
fn removed_and_made_again_is_empty() {
    if !need_mount() {
        return;
    }
    let mut m = Mounted::new(small);
    m.same(|dir| {
        let at = |name: &str| dir.join(name);
        fs::remove_dir_all(at("dir")).expect("rm -r");
        fs::create_dir(at("dir")).expect("mkdir");
        fs::write(at("dir/one"), b"another one").expect("write");
        fs::remove_file(at("file")).expect("unlink");
        fs::create_dir(at("file")).expect("mkdir");
        fs::remove_dir(at("hollow")).expect("rmdir");
        fs::write(at("hollow"), b"a file now").expect("write");
        // Over and over: nothing may pile up or come back.
        for i in 0..5 {
            fs::remove_file(at("two")).expect("unlink");
            assert!(!at("two").exists());
            fs::write(at("two"), format!("{i}")).expect("write");
        }
        list(dir).expect("list")
    });
    m.assert_same_trees();
    m.same(|dir| {
        fs::remove_dir_all(dir.join("dir")).expect("rm -r");
        fs::rename(dir.join("hollow"), dir.join("dir")).expect("rename");
        list(dir).expect("list")
    });
    m.assert_same_trees();
}

#[test]
fn directories_of_the_base_move_with_all_they_hold() {
    if !need_mount() {
        return;
    }
    let mut m = Mounted::new(|dir| {
        small(dir);
        for i in 0..20 {
            let sub = dir.join(format!("tree/{i}/deep"));
            fs::create_dir_all(&sub).expect("mkdir");
            fs::write(sub.join("leaf"), pattern(i, 3000)).expect("write");
        }
    });
    m.same(|dir| {
        let at = |name: &str| dir.join(name);
        fs::rename(at("tree/3"), at("three")).expect("rename");
        fs::rename(at("tree"), at("dir/sub/forest")).expect("rename");
        fs::rename(at("three/deep"), at("dir/sub/forest/4/deeper")).expect("rename");
        fs::create_dir(at("tree")).expect("mkdir");
        fs::write(at("dir/sub/forest/5/deep/leaf"), b"changed").expect("write");
        fs::remove_dir_all(at("dir/sub/forest/6")).expect("rm -r");
        fs::rename(at("dir"), at("renamed")).expect("rename");
        fs::rename(at("renamed"), at("dir")).expect("rename back");
        let swap = rustix::fs::RenameFlags::EXCHANGE;
        let cwd = rustix::fs::CWD;
        rustix::fs::renameat_with(cwd, at("hollow"), cwd, at("dir/sub"), swap).expect("exchange");
        // A base directory over an empty base directory.
        fs::rename(at("three"), at("dir/sub")).expect("rename over");
        list(&at("hollow/forest")).expect("list")
    });
    m.assert_same_trees();
    m.same(|dir| {
        fs::rename(dir.join("hollow/forest"), dir.join("tree")).expect("rename over");
        fs::read(dir.join("tree/4/deeper/leaf")).expect("read")
    });
    m.assert_same_trees();
}

/// Bytes that the store takes on the disk.
fn stored(dir: &Path) -> u64 {
    let meta = fs::symlink_metadata(dir).expect("stat");
    let own = meta.blocks() * 512;
    if !meta.is_dir() {
        return own;
    }
    let entries = fs::read_dir(dir).expect("list").flatten();
    own + entries.map(|e| stored(&e.path())).sum::<u64>()
}

#[test]
fn neither_reading_nor_metadata_copies_bytes() {
    if !need_mount() {
        return;
    }
    const MIB: usize = 1 << 20;
    let mut m = Mounted::new(|dir| {
        for i in 0..4 {
            fs::write(dir.join(format!("f{i}")), pattern(i, 2 * MIB)).expect("write");
        }
        fs::create_dir(dir.join("d")).expect("mkdir");
    });
    let before = stored(&m.sandbox.store());
    m.same(|dir| {
        let at = |i: u8| dir.join(format!("f{i}"));
        for i in 0..4 {
            assert_eq!(fs::read(at(i)).expect("read"), pattern(i, 2 * MIB));
        }
        fs::set_permissions(at(0), fs::Permissions::from_mode(0o600)).expect("chmod");
        std::os::unix::fs::chown(at(0), Some(1), Some(2)).expect("chown");
        fs::rename(at(1), dir.join("d/renamed")).expect("rename");
        fs::hard_link(at(2), dir.join("d/link")).expect("link");
        let none = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(at(2), "user.x", b"x", none).expect("setxattr");
        // Opened for writing and not written.
        drop(OpenOptions::new().write(true).open(at(3)).expect("open"));
    });
    m.assert_same_trees();
    let grown = stored(&m.sandbox.store()).saturating_sub(before);
    assert!(grown < MIB as u64, "the store grew by {grown} bytes");
    // And the first byte written does not take the whole file along.
    let file = OpenOptions::new()
        .write(true)
        .open(m.mnt().join("f3"))
        .expect("open");
    file.write_all_at(b"!", 1_500_000).expect("write");
    drop(file);
    let grown = stored(&m.sandbox.store()).saturating_sub(before);
    assert!(
        grown < MIB as u64,
        "after one byte the store grew by {grown} bytes"
    );
    let mut expected = pattern(3, 2 * MIB);
    expected[1_500_000] = b'!';
    assert!(fs::read(m.mnt().join("f3")).expect("read") == expected);
}

#[test]
fn handles_from_before_the_copy_up_see_what_is_written_after() {
    if !need_mount() {
        return;
    }
    let mut m = Mounted::new(|dir| {
        fs::write(dir.join("small"), pattern(1, 10_000)).expect("write");
        fs::write(dir.join("large"), pattern(2, 3 << 20)).expect("write");
    });
    for name in ["small", "large"] {
        m.same(|dir| {
            let path = dir.join(name);
            let reader = File::open(&path).expect("open");
            let mut said = Vec::new();
            let mut look = |at: u64| {
                let mut bytes = [0; 8];
                let got = reader.read_at(&mut bytes, at).expect("read");
                said.push((got, bytes));
            };
            look(100);
            let writer = OpenOptions::new().write(true).open(&path).expect("open");
            writer.write_all_at(b"written!", 100).expect("write");
            look(100);
            look(108);
            writer.set_len(104).expect("cut");
            look(100);
            writer.set_len(200).expect("extend");
            look(100);
            fs::rename(&path, dir.join("elsewhere")).expect("rename");
            writer.write_all_at(b"moved", 0).expect("write");
            look(0);
            drop(writer);
            fs::remove_file(dir.join("elsewhere")).expect("unlink");
            look(0);
            said
        });
    }
    m.assert_same_trees();
}

/// What an entry of the base that is no longer what it was may answer: never a hang or a panic.
fn says_gone(error: &std::io::Error) -> bool {
    use nix::libc::{EISDIR, ELOOP, ENOENT, ENOTDIR, EPERM, ESTALE};
    // The last four are what the host itself says of a directory or a symlink.
    let fair = [ENOENT, ESTALE, EISDIR, ENOTDIR, ELOOP, EPERM];
    error.raw_os_error().is_some_and(|e| fair.contains(&e))
}

#[test]
fn base_entries_that_vanish_or_change_type_are_errors() {
    if !need_mount() {
        return;
    }
    let m = Mounted::new(|dir| {
        for name in ["gone", "todir", "tolink", "other", "written"] {
            fs::write(dir.join(name), b"base").expect("write");
        }
        fs::create_dir_all(dir.join("dir/sub")).expect("mkdir");
        fs::write(dir.join("dir/inner"), b"inner").expect("write");
        fs::write(dir.join("secret"), b"secret").expect("write");
    });
    let (mnt, base) = (m.mnt(), m.base());
    // The kernel has looked all of them up.
    for name in ["gone", "todir", "tolink", "written", "dir/inner"] {
        fs::metadata(mnt.join(name)).expect("stat");
    }
    fs::remove_file(base.join("gone")).expect("unlink");
    fs::remove_file(base.join("todir")).expect("unlink");
    fs::create_dir(base.join("todir")).expect("mkdir");
    fs::remove_file(base.join("tolink")).expect("unlink");
    symlink("secret", base.join("tolink")).expect("symlink");
    fs::remove_file(base.join("written")).expect("unlink");
    fs::remove_dir_all(base.join("dir")).expect("rm -r");
    for name in ["gone", "todir", "dir/inner"] {
        let error = fs::read(mnt.join(name)).expect_err(name);
        assert!(says_gone(&error), "{name}: {error}");
    }
    // Looked up anew, it is the symlink, which leads to another file of the branch.
    match fs::read(mnt.join("tolink")) {
        Ok(bytes) => assert_eq!(bytes, b"secret"),
        Err(error) => assert!(says_gone(&error), "tolink: {error}"),
    }
    let opened = OpenOptions::new().append(true).open(mnt.join("written"));
    let error = match opened {
        // Nobody is asked when it is opened there.
        Ok(mut file) if is_zero_open() => file.write(b"more").map(drop),
        opened => opened.map(drop),
    }
    .expect_err("written");
    assert!(says_gone(&error), "written: {error}");
    // The branch goes on, and can put something in their places.
    for name in ["gone", "todir", "tolink", "written"] {
        if let Err(error) = fs::remove_file(mnt.join(name)) {
            assert!(says_gone(&error), "unlink {name}: {error}");
        }
    }
    fs::write(mnt.join("fresh"), b"fresh").expect("write");
    assert_eq!(fs::read(mnt.join("other")).expect("read"), b"base");
    assert_eq!(fs::read(mnt.join("fresh")).expect("read"), b"fresh");
    // The base has what the host made of it, and nothing else.
    assert!(base.join("todir").is_dir() && !base.join("gone").exists());
}

/// The host puts something else in the place of what the kernel has looked up: the branch then
/// answers as a plain directory does, and records nothing of what is no more.
#[test]
fn what_the_host_replaces_is_not_taken_for_what_was_there() {
    if !need_mount() {
        return;
    }
    let fill = |dir: &Path| {
        for name in ["to-file", "to-link", "to-dir", "kept"] {
            fs::create_dir(dir.join(name)).expect("mkdir");
            fs::write(dir.join(name).join("inner"), b"inner").expect("write");
        }
        for name in ["f-dir", "f-fifo", "f-link", "f-file", "f-gone"] {
            fs::write(dir.join(name), b"base").expect("write");
        }
    };
    let replace = |dir: &Path| {
        for name in ["to-file", "to-link", "to-dir"] {
            fs::remove_dir_all(dir.join(name)).expect("rm -r");
        }
        for name in ["f-dir", "f-fifo", "f-link", "f-file", "f-gone"] {
            fs::remove_file(dir.join(name)).expect("rm");
        }
        fs::write(dir.join("to-file"), b"a file").expect("write");
        symlink("kept", dir.join("to-link")).expect("symlink");
        fs::create_dir(dir.join("to-dir")).expect("mkdir");
        fs::create_dir(dir.join("f-dir")).expect("mkdir");
        nix::unistd::mkfifo(&dir.join("f-fifo"), nix::sys::stat::Mode::S_IRWXU).expect("mkfifo");
        symlink("kept/inner", dir.join("f-link")).expect("symlink");
        fs::write(dir.join("f-file"), b"another").expect("write");
    };
    let mode = |perm| fs::Permissions::from_mode(perm);
    type Act<'a> = (&'a str, &'a dyn Fn(&Path) -> std::io::Result<()>);
    let acts: [Act<'_>; 10] = [
        ("write below", &|at| fs::write(at.join("new"), b"new")),
        ("mkdir below", &|at| fs::create_dir(at.join("made"))),
        ("chmod", &|at| fs::set_permissions(at, mode(0o750))),
        ("link", &|at| fs::hard_link(at, at.with_extension("linked"))),
        ("append", &|at| {
            let flags = nix::libc::O_NONBLOCK;
            let file = OpenOptions::new()
                .append(true)
                .custom_flags(flags)
                .open(at)?;
            std::io::Write::write_all(&mut &file, b"more")
        }),
        ("read", &|at| {
            // A FIFO must not keep the test waiting.
            let flags = nix::libc::O_NONBLOCK;
            let mut options = OpenOptions::new();
            let file = options.read(true).custom_flags(flags).open(at)?;
            std::io::Read::read(&mut &file, &mut [0; 16]).map(drop)
        }),
        ("times", &|at| {
            let epoch = nix::sys::time::TimeSpec::new(1, 2);
            nix::sys::stat::utimensat(
                nix::fcntl::AT_FDCWD,
                at,
                &epoch,
                &epoch,
                nix::sys::stat::UtimensatFlags::NoFollowSymlink,
            )
            .map_err(std::io::Error::from)
        }),
        ("attribute", &|at| {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(at, "user.a", b"1", flags).map_err(std::io::Error::from)
        }),
        ("rename", &|at| fs::rename(at, at.with_extension("moved"))),
        ("list", &|at| {
            fs::read_dir(at)?.try_for_each(|entry| entry.map(drop))
        }),
    ];
    for (act, call) in acts {
        let mut m = Mounted::new(fill);
        let names = [
            "to-file", "to-link", "to-dir", "f-dir", "f-fifo", "f-link", "f-file", "f-gone",
        ];
        for name in names {
            let path = m.mnt().join(name);
            fs::metadata(&path).expect("stat");
            drop(fs::read_dir(&path));
        }
        replace(&m.base());
        replace(&m.plain());
        let mut again = Vec::new();
        for name in names {
            let answer = |dir: &Path| call(&dir.join(name)).map_err(|e| e.raw_os_error());
            let (ours, theirs) = (answer(&m.mnt()), answer(&m.plain()));
            if ours == theirs {
                continue;
            }
            // The kernel knows the path as it was, and may refuse by itself to go on there.
            let Err(Some(error)) = ours else {
                panic!("{act} {name}: done, where a plain directory says {theirs:?}");
            };
            let error = std::io::Error::from_raw_os_error(error);
            assert!(says_gone(&error), "{act} {name}: {error}, plain {theirs:?}");
            if theirs.is_ok() {
                again.push(name);
            }
        }
        m.remount();
        for name in again {
            call(&m.mnt().join(name)).expect(name);
        }
        m.assert_same_trees_over_changed_base();
        m.umount();
        let done = m.sandbox.call(&["fsck"]).ok();
        assert!(done.out().contains(": clean"), "{act}: {}", done.report());
        m.mount(mounted::likest());
    }
}
