//! Names, links, listings, times, attributes, locks: one local file system's worth of calls.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use agentfs_tests::mounted::{Mounted, as_user, need_mount};
use agentfs_tests::wait;
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, Timespec, Timestamps, XattrFlags,
};
use rustix::io::Errno;

/// A few files to start from.
fn fill(dir: &Path) {
    fs::write(dir.join("file"), b"of the base\n").expect("write");
    fs::create_dir(dir.join("dir")).expect("mkdir");
    fs::write(dir.join("dir/inner"), b"inner\n").expect("write");
    symlink("file", dir.join("sym")).expect("symlink");
}

fn rw(path: &Path) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true);
    options.open(path).expect("open")
}

#[test]
fn every_kind_of_file_is_made_and_removed() {
    if !need_mount() {
        return;
    }
    let mut m = Mounted::new(fill);
    m.same(|dir| {
        let at = |name: &str| dir.join(name);
        fs::write(at("new"), b"bytes").expect("write");
        fs::create_dir(at("newdir")).expect("mkdir");
        symlink("somewhere", at("newsym")).expect("symlink");
        fs::hard_link(at("new"), at("newlink")).expect("link");
        let mode = Mode::from_raw_mode(0o640);
        rustix::fs::mknodat(CWD, at("fifo"), FileType::Fifo, mode, 0).expect("fifo");
        rustix::fs::mknodat(CWD, at("sock"), FileType::Socket, mode, 0).expect("socket");
        let null = rustix::fs::makedev(1, 3);
        rustix::fs::mknodat(CWD, at("null"), FileType::CharacterDevice, mode, null).expect("node");
        fs::rename(at("new"), at("newdir/moved")).expect("rename");
        fs::remove_file(at("dir/inner")).expect("unlink");
        fs::remove_dir(at("dir")).expect("rmdir");
        let node = fs::symlink_metadata(at("null")).expect("stat");
        (
            node.mode(),
            node.rdev(),
            fs::read_link(at("newsym")).expect("readlink"),
        )
    });
    // Device nodes work where the mount allows it.
    let mut null = rw(&m.mnt().join("null"));
    null.write_all(b"gone").expect("write to the null device");
    assert_eq!(null.read(&mut [0; 4]).expect("read"), 0);
    drop(null);
    m.assert_same_trees();
}

#[test]
fn renames_of_every_flavour() {
    if !need_mount() {
        return;
    }
    let mut m = Mounted::new(fill);
    m.same(|dir| {
        let at = |name: &str| dir.join(name);
        let rename =
            |from: &str, to: &str, how| rustix::fs::renameat_with(CWD, at(from), CWD, at(to), how);
        fs::write(at("other"), b"other").expect("write");
        fs::create_dir(at("full")).expect("mkdir");
        fs::write(at("full/x"), b"x").expect("write");
        fs::hard_link(at("other"), at("same")).expect("link");
        [
            rename("file", "other", RenameFlags::NOREPLACE),
            rename("file", "dir", RenameFlags::EXCHANGE),
            rename("dir/inner", "other", RenameFlags::empty()),
            rename("other", "nothing", RenameFlags::EXCHANGE),
            rename("file", "full", RenameFlags::empty()),
            rename("dir", "full", RenameFlags::empty()),
            rename("other", "full", RenameFlags::empty()),
            // Two names of one file: nothing happens, both stay.
            rename("other", "same", RenameFlags::empty()),
            rename("full", "full/x/y", RenameFlags::empty()),
            rename(
                "sym",
                "sym2",
                RenameFlags::NOREPLACE | RenameFlags::EXCHANGE,
            ),
            rename("sym", "sym2", RenameFlags::empty()),
        ]
    });
    m.assert_same_trees();
}

#[test]
fn a_rename_can_leave_a_whiteout() {
    if !need_mount() {
        return;
    }
    let mut m = Mounted::new(fill);
    for remounted in [false, true] {
        let (from, to) = (m.mnt().join("file"), m.mnt().join("moved"));
        if !remounted {
            rustix::fs::renameat_with(CWD, &from, CWD, &to, RenameFlags::WHITEOUT).expect("rename");
        }
        let left = fs::symlink_metadata(&from).expect("the whiteout");
        assert_eq!((left.mode() & 0o170_000, left.rdev()), (0o020_000, 0));
        assert_eq!(fs::read(&to).expect("read"), b"of the base\n");
        m.remount();
    }
}

#[test]
fn an_unlinked_file_lives_on_in_full() {
    if !need_mount() {
        return;
    }
    let mut m = Mounted::new(fill);
    for name in ["file", "new"] {
        m.same(|dir| {
            let path = dir.join(name);
            let file = rw(&path);
            fs::remove_file(&path).expect("unlink");
            let mut said = Vec::new();
            file.write_all_at(b"after the end", 5).expect("write");
            file.set_len(9).expect("ftruncate");
            file.set_permissions(fs::Permissions::from_mode(0o600))
                .expect("fchmod");
            let value = rustix::fs::fsetxattr(&file, "user.x", b"v", XattrFlags::empty());
            said.push(format!("{value:?}"));
            let own = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
            let back = rustix::fs::linkat(CWD, own, CWD, &path, AtFlags::SYMLINK_FOLLOW);
            said.push(format!("{back:?}"));
            let meta = file.metadata().expect("fstat");
            said.push(format!("{} {} {:o}", meta.nlink(), meta.len(), meta.mode()));
            let mut bytes = [0; 9];
            file.read_exact_at(&mut bytes, 0).expect("read");
            said.push(bytes.escape_ascii().to_string());
            // A name of the same kind does not disturb it.
            fs::write(&path, b"successor").expect("write");
            said.push(format!("{:?}", file.metadata().expect("fstat").len()));
            said
        });
    }
    m.assert_same_trees();
}

#[test]
fn a_removed_directory_can_still_be_looked_at() {
    if !need_mount() {
        return;
    }
    let m = Mounted::new(fill);
    m.same(|dir| {
        fs::remove_file(dir.join("dir/inner")).expect("unlink");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let open = rustix::fs::open(dir.join("dir"), flags, Mode::empty()).expect("open");
        fs::remove_dir(dir.join("dir")).expect("rmdir");
        let made = rustix::fs::openat(&open, "x", OFlags::CREATE | OFlags::WRONLY, Mode::RWXU);
        let sub = rustix::fs::mkdirat(&open, "d", Mode::RWXU);
        let up = rustix::fs::statat(&open, "x", AtFlags::empty()).map(|_| ());
        let stat = rustix::fs::fstat(&open).expect("fstat");
        (made.map(|_| ()), sub, up, stat.st_nlink)
    });
}

#[test]
fn times_are_set_exactly() {
    if !need_mount() {
        return;
    }
    let mut m = Mounted::new(fill);
    let far = [
        (0, 0),
        (-1, 0),
        (-1, 999_999_999),
        (-2_147_483_647, 1),
        (2_147_483_648, 5),
        (8_589_934_592, 123_456_789),
        (1_234_567_890, 1),
    ];
    m.same(|dir| {
        let mut got = Vec::new();
        for name in ["file", "dir", "sym"] {
            let path = dir.join(name);
            for (sec, nsec) in far {
                let time = Timespec {
                    tv_sec: sec,
                    tv_nsec: nsec,
                };
                let times = Timestamps {
                    last_access: time,
                    last_modification: time,
                };
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                let done = rustix::fs::utimensat(CWD, &path, &times, flags);
                let meta = fs::symlink_metadata(&path).expect("stat");
                got.push((
                    done,
                    meta.mtime(),
                    meta.mtime_nsec(),
                    meta.atime(),
                    meta.atime_nsec(),
                ));
            }
        }
        got
    });
    m.same(|dir| {
        let (now, omit) = (rustix::fs::UTIME_NOW, rustix::fs::UTIME_OMIT);
        let path = dir.join("file");
        let set = |access: i64, modification: i64| {
            let at = |nsec: i64| Timespec {
                tv_sec: 7,
                tv_nsec: nsec as _,
            };
            let times = Timestamps {
                last_access: at(access),
                last_modification: at(modification),
            };
            let before = fs::metadata(&path).expect("stat");
            let done = rustix::fs::utimensat(CWD, &path, &times, AtFlags::empty());
            let after = fs::metadata(&path).expect("stat");
            let is_now = |sec: i64| sec > 1_700_000_000;
            (
                done,
                after.mtime() == before.mtime(),
                is_now(after.mtime()),
                is_now(after.atime()),
                (after.ctime(), after.ctime_nsec()) >= (before.ctime(), before.ctime_nsec()),
            )
        };
        [
            set(now, omit),
            set(omit, now),
            set(omit, omit),
            set(now, now),
            set(omit, 5),
            set(5, omit),
            set(1_000_000_000, 5),
        ]
    });
    m.remount();
    m.same(|dir| {
        let meta = fs::symlink_metadata(dir.join("sym")).expect("stat");
        (meta.mtime(), meta.mtime_nsec())
    });
}

#[test]
fn attributes_keep_their_limits() {
    if !need_mount() {
        return;
    }
    let m = Mounted::new(fill);
    let dir = m.mnt();
    let none = XattrFlags::empty();
    let set = |path: &str, name: &str, value: &[u8], how| {
        rustix::fs::lsetxattr(dir.join(path), name, value, how)
    };
    let name = |len: usize| format!("user.{}", "n".repeat(len - 5));
    for path in ["file", "dir"] {
        assert_eq!(set(path, &name(255), b"v", none), Ok(()));
        assert_eq!(set(path, &name(256), b"v", none), Err(Errno::RANGE));
        assert_eq!(set(path, "user.", b"v", none), Err(Errno::INVAL));
        assert_eq!(set(path, "user.big", &[7; 65536], none), Ok(()));
        assert_eq!(set(path, "user.big", &[7; 65537], none), Err(Errno::TOOBIG));
        assert_eq!(set(path, "user.empty", b"", none), Ok(()));
        assert_eq!(set(path, "trusted.t", b"t", none), Ok(()));
        assert_eq!(set(path, "security.s", b"s", none), Ok(()));
        assert_eq!(set(path, "nonsense.x", b"s", none), Err(Errno::OPNOTSUPP));
        assert_eq!(
            set(path, "user.empty", b"", XattrFlags::CREATE),
            Err(Errno::EXIST)
        );
        assert_eq!(
            set(path, "user.no", b"", XattrFlags::REPLACE),
            Err(Errno::NODATA)
        );
        let mut room = vec![0_u8; 65536];
        let full = rustix::fs::lgetxattr(dir.join(path), "user.big", room.as_mut_slice());
        assert_eq!((full, room[65535]), (Ok(65536), 7));
        let mut short = [0_u8; 10];
        let got = rustix::fs::lgetxattr(dir.join(path), "user.big", short.as_mut_slice());
        assert_eq!(got, Err(Errno::RANGE));
        let got = rustix::fs::llistxattr(dir.join(path), short.as_mut_slice());
        assert_eq!(got, Err(Errno::RANGE));
        let gone = rustix::fs::lremovexattr(dir.join(path), "user.no");
        assert_eq!(gone, Err(Errno::NODATA));
    }
    assert_eq!(set("sym", "user.x", b"v", none), Err(Errno::PERM));
    assert_eq!(set("sym", "trusted.x", b"v", none), Ok(()));
}

#[test]
fn attributes_at_the_edges() {
    if !need_mount() {
        return;
    }
    let mut m = Mounted::new(|dir| {
        fs::write(dir.join("file"), b"base").expect("write");
        fs::create_dir(dir.join("dir")).expect("mkdir");
        let none = XattrFlags::empty();
        rustix::fs::setxattr(dir.join("file"), "trusted.t", b"t", none).expect("setxattr");
        rustix::fs::setxattr(dir.join("file"), "user.there", b"u", none).expect("setxattr");
    });
    m.same(|dir| {
        let mut said = Vec::new();
        let both = XattrFlags::CREATE | XattrFlags::REPLACE;
        for path in ["file", "dir"].map(|name| dir.join(name)) {
            for name in ["user.", "trusted.", "security."] {
                let got = rustix::fs::getxattr(&path, name, &mut [0_u8; 8]).map(drop);
                said.extend([got, rustix::fs::removexattr(&path, name)]);
            }
            for name in ["user.there", "user.absent"] {
                said.push(rustix::fs::setxattr(&path, name, b"v", both));
            }
            for name in ["system.posix_acl_access", "system.posix_acl_default"] {
                said.push(rustix::fs::removexattr(&path, name));
                let empty = 2_u32.to_le_bytes();
                said.push(rustix::fs::setxattr(
                    &path,
                    name,
                    &empty,
                    XattrFlags::empty(),
                ));
            }
        }
        said
    });
    let names = |dir: &Path| {
        let mut room = [0_u8; 256];
        let got = rustix::fs::listxattr(dir.join("file"), &mut room).expect("listxattr");
        let mut names: Vec<_> = room[..got].split(|b| *b == 0).map(<[u8]>::to_vec).collect();
        names.sort();
        let length = rustix::fs::listxattr(dir.join("file"), &mut [0_u8; 0]).expect("listxattr");
        (names, length)
    };
    let root = m.agreed(names);
    let user = m.agreed(|dir| {
        as_user(61_001, 61_001, &[], || {
            rustix::thread::set_capabilities(None, no_capabilities()).expect("capset");
            names(dir)
        })
    });
    assert!(root.0.len() == user.0.len() + 1, "{root:?} {user:?}");
    m.assert_same_trees();
}

fn no_capabilities() -> rustix::thread::CapabilitySets {
    let none = rustix::thread::CapabilitySet::empty();
    rustix::thread::CapabilitySets {
        effective: none,
        permitted: none,
        inheritable: none,
    }
}

#[test]
fn a_chown_of_nothing_moves_the_ctime() {
    if !need_mount() {
        return;
    }
    let m = Mounted::new(|dir| {
        fs::write(dir.join("file"), b"base").expect("write");
        fs::create_dir(dir.join("dir")).expect("mkdir");
    });
    m.same(|dir| {
        ["file", "dir"].map(|name| {
            let path = dir.join(name);
            let ctime = || {
                let meta = fs::metadata(&path).expect("stat");
                (meta.ctime(), meta.ctime_nsec())
            };
            let before = ctime();
            // Stamps are as fine as the kernel's clock of ticks.
            wait::until("the clock moves on", || {
                let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
                (now.tv_sec, now.tv_nsec) > before
            });
            std::os::unix::fs::chown(&path, None, None).expect("chown");
            ctime() > before
        })
    });
}

#[test]
fn a_change_after_a_look_shows() {
    if !need_mount() {
        return;
    }
    let m = Mounted::new(|dir| {
        fs::write(dir.join("file"), b"base").expect("write");
        fs::create_dir(dir.join("dir")).expect("mkdir");
    });
    // How many of a hundred changes moved the stamp that was looked at before: all, where the
    // kernel makes fine stamps for files that were looked at (6.13).
    let moved = |dir: &Path| {
        let count = |path: &str, change: &dyn Fn(u32)| {
            let stamp = || {
                let meta = fs::metadata(dir.join(path)).expect("stat");
                (meta.ctime(), meta.ctime_nsec())
            };
            let is_new = |i: &u32| {
                let before = stamp();
                change(*i);
                stamp() > before
            };
            (0..100).filter(is_new).count()
        };
        let made = count("dir", &|i| {
            fs::create_dir(dir.join(format!("dir/{i}"))).expect("mkdir");
        });
        let perms = count("file", &|i| {
            let bits = fs::Permissions::from_mode(0o600 + (i & 1));
            fs::set_permissions(dir.join("file"), bits).expect("chmod");
        });
        [made, perms]
    };
    let (ours, theirs) = (moved(&m.mnt()), moved(&m.plain()));
    for (ours, theirs) in ours.iter().zip(theirs) {
        assert!(theirs < 100 || *ours == 100, "{ours} of {theirs}");
    }
}

#[test]
fn a_whiteout_can_be_left_without_replacing() {
    if !need_mount() {
        return;
    }
    let mut m = Mounted::new(|dir| {
        for name in ["one", "two", "three"] {
            fs::write(dir.join(name), name).expect("write");
        }
    });
    m.same(|dir| {
        let both = RenameFlags::NOREPLACE | RenameFlags::WHITEOUT;
        let rename = |from: &str, to: &str| {
            rustix::fs::renameat_with(CWD, dir.join(from), CWD, dir.join(to), both)
        };
        [
            rename("one", "two"),
            rename("one", "new"),
            rename("three", "new"),
        ]
    });
    m.assert_same_trees();
}

#[test]
fn listings_go_on_where_they_were_while_entries_change() {
    if !need_mount() {
        return;
    }
    let many = |dir: &Path| {
        fs::create_dir(dir.join("many")).expect("mkdir");
        for i in 0..300 {
            fs::write(dir.join(format!("many/base{i:03}")), b"").expect("write");
        }
    };
    let m = Mounted::new(many);
    let dir = m.mnt().join("many");
    for i in 0..300 {
        fs::write(dir.join(format!("new{i:03}")), b"").expect("write");
    }
    let open = File::open(&dir).expect("open");
    // Small buffers, so that the listing is asked for in many pieces.
    let read = |to_read: usize| {
        let mut space = [MaybeUninit::uninit(); 512];
        let mut raw = rustix::fs::RawDir::new(&open, &mut space);
        let mut entries = Vec::new();
        while entries.len() < to_read {
            let Some(entry) = raw.next() else { break };
            let entry = entry.expect("getdents");
            let name = entry.file_name().to_string_lossy().into_owned();
            entries.push((name, entry.next_entry_cookie()));
        }
        entries
    };
    let first = read(200);
    let (_, cookie) = first[150].clone();
    for i in (0..300).step_by(3) {
        fs::remove_file(dir.join(format!("base{i:03}"))).expect("unlink");
        fs::remove_file(dir.join(format!("new{i:03}"))).expect("unlink");
        fs::write(dir.join(format!("late{i:03}")), b"").expect("write");
    }
    rustix::fs::seek(&open, rustix::fs::SeekFrom::Start(cookie)).expect("seekdir");
    let rest = read(usize::MAX);
    let mut seen: Vec<&String> = first[..=150]
        .iter()
        .chain(&rest)
        .map(|(name, _)| name)
        .collect();
    seen.sort();
    for pair in seen.windows(2) {
        assert_ne!(pair[0], pair[1], "listed twice");
    }
    for i in (0..300).filter(|i| i % 3 != 0) {
        for kind in ["base", "new"] {
            let name = format!("{kind}{i:03}");
            assert!(
                seen.contains(&&name),
                "{name} was never touched and is not listed"
            );
        }
    }
    for (name, _) in &rest {
        let gone = name.strip_prefix("base").or(name.strip_prefix("new"));
        let gone = gone
            .and_then(|n| n.parse::<u32>().ok())
            .is_some_and(|n| n % 3 == 0);
        assert!(!gone, "{name} was removed before it was listed");
    }
    rustix::fs::seek(&open, rustix::fs::SeekFrom::Start(0)).expect("rewinddir");
    assert_eq!(read(usize::MAX).len(), 500 + 2);
}

#[test]
fn locks_exclude_each_other() {
    if !need_mount() {
        return;
    }
    let m = Mounted::new(fill);
    m.same(|dir| {
        let (one, two) = (rw(&dir.join("file")), rw(&dir.join("file")));
        let lock = |kind: i32, start: i64| nix::libc::flock {
            l_type: kind as i16,
            l_whence: 0,
            l_start: start,
            l_len: 10,
            l_pid: 0,
        };
        let (write, read) = (nix::libc::F_WRLCK, nix::libc::F_RDLCK);
        let mut said = vec![
            fcntl(&one, FcntlArg::F_OFD_SETLK(&lock(write, 0))),
            fcntl(&two, FcntlArg::F_OFD_SETLK(&lock(read, 5))),
            fcntl(&two, FcntlArg::F_OFD_SETLK(&lock(write, 10))),
            // A lock of the process against one of an open file description.
            fcntl(&two, FcntlArg::F_SETLK(&lock(write, 0))),
            fcntl(&two, FcntlArg::F_SETLK(&lock(write, 100))),
        ];
        let held = Flock::lock(one, FlockArg::LockExclusiveNonblock).expect("flock");
        let (two, refused) = match Flock::lock(two, FlockArg::LockSharedNonblock) {
            Ok(_) => panic!("flock did not exclude"),
            Err((two, errno)) => (two, errno),
        };
        said.push(Err(refused));
        drop(held);
        said.push(fcntl(&two, FcntlArg::F_OFD_SETLK(&lock(read, 5))));
        said
    });
}

#[test]
fn appends_from_many_writers_do_not_overlap() {
    if !need_mount() {
        return;
    }
    let m = Mounted::new(fill);
    const RECORD_BYTES: usize = 16;
    for name in ["file", "new"] {
        let path = m.mnt().join(name);
        let start = fs::metadata(&path).map_or(0, |meta| meta.len()) as usize;
        std::thread::scope(|scope| {
            for writer in 0..4_u8 {
                let path = &path;
                scope.spawn(move || {
                    for i in 0..200_u8 {
                        // Opening again and again changes between cached and native writes.
                        let mut options = OpenOptions::new();
                        let mut file = options.append(true).create(true).open(path).expect("open");
                        let mut record = [b'a' + writer; RECORD_BYTES];
                        record[0] = i;
                        file.write_all(&record).expect("append");
                    }
                });
            }
        });
        let bytes = fs::read(&path).expect("read");
        assert_eq!(
            bytes.len() - start,
            4 * 200 * RECORD_BYTES,
            "{name}: appends are lost"
        );
        let mut next = [0_u8; 4];
        for record in bytes[start..].chunks(RECORD_BYTES) {
            let writer = usize::from(record[1] - b'a');
            assert!(record[1..].iter().all(|b| *b == record[1]), "{name}: torn");
            assert_eq!(record[0], next[writer], "{name}: out of order");
            next[writer] = next[writer].wrapping_add(1);
        }
    }
}

#[test]
fn paths_deeper_than_path_max() {
    if !need_mount() {
        return;
    }
    let mut m = Mounted::new(fill);
    let name = "d".repeat(200);
    m.same(|dir| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let mut at = rustix::fs::open(dir, flags, Mode::empty()).expect("open");
        for _ in 0..40 {
            rustix::fs::mkdirat(&at, &name, Mode::RWXU).expect("mkdirat");
            at = rustix::fs::openat(&at, &name, flags, Mode::empty()).expect("openat");
        }
        let flags = OFlags::CREATE | OFlags::RDWR;
        let file = rustix::fs::openat(&at, "leaf", flags, Mode::RUSR).expect("openat");
        rustix::io::write(&file, b"deep").expect("write")
    });
    m.remount();
    m.same(|dir| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let mut at = rustix::fs::open(dir, flags, Mode::empty()).expect("open");
        for _ in 0..40 {
            at = rustix::fs::openat(&at, &name, flags, Mode::empty()).expect("openat");
        }
        rustix::fs::statat(&at, "leaf", AtFlags::empty())
            .expect("statat")
            .st_size
    });
}

#[test]
fn fifos_and_sockets_connect() {
    if !need_mount() {
        return;
    }
    let m = Mounted::new(fill);
    let dir = m.mnt();
    rustix::fs::mknodat(CWD, dir.join("fifo"), FileType::Fifo, Mode::RWXU, 0).expect("mkfifo");
    let listener = UnixListener::bind(dir.join("sock")).expect("bind");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut fifo = OpenOptions::new()
                .write(true)
                .open(dir.join("fifo"))
                .expect("open");
            fifo.write_all(b"through the fifo").expect("write");
            let mut stream = UnixStream::connect(dir.join("sock")).expect("connect");
            stream.write_all(b"through the socket").expect("write");
        });
        let mut said = String::new();
        File::open(dir.join("fifo"))
            .expect("open")
            .read_to_string(&mut said)
            .expect("read");
        let (mut stream, _) = listener.accept().expect("accept");
        stream.read_to_string(&mut said).expect("read");
        assert_eq!(said, "through the fifothrough the socket");
    });
}

#[test]
fn the_file_system_describes_itself() {
    if !need_mount() {
        return;
    }
    let m = Mounted::new(fill);
    let ours = rustix::fs::statvfs(m.mnt()).expect("statvfs");
    let host = rustix::fs::statvfs(m.sandbox.store()).expect("statvfs");
    assert_eq!((ours.f_namemax, ours.f_frsize), (255, host.f_frsize));
    assert_eq!((ours.f_blocks, ours.f_files), (host.f_blocks, host.f_files));
}

#[test]
fn open_flags_do_what_they_say() {
    if !need_mount() {
        return;
    }
    let mut m = Mounted::new(fill);
    m.same(|dir| {
        let open = |name: &str, flags: OFlags| {
            rustix::fs::open(dir.join(name), flags, Mode::RUSR | Mode::WUSR).map(|_| ())
        };
        let (create, excl, wr) = (OFlags::CREATE, OFlags::EXCL, OFlags::WRONLY);
        [
            open("file", create | excl | wr),
            open("fresh", create | excl | wr),
            open("sym", create | excl | wr),
            open("sym", OFlags::NOFOLLOW | OFlags::RDONLY),
            open("file", OFlags::DIRECTORY | OFlags::RDONLY),
            open("dir", wr),
            open("dir", OFlags::RDONLY | create),
            open("file", OFlags::RDONLY | OFlags::TRUNC),
            open("dir/inner", OFlags::RDWR | OFlags::TRUNC),
            open("dir/none/x", create | wr),
            open("file/x", create | wr),
        ]
    });
    m.assert_same_trees();
}

#[test]
fn a_running_program_cannot_be_truncated() {
    if !need_mount() {
        return;
    }
    let m = Mounted::new(|dir| {
        fs::copy("/bin/sleep", dir.join("sleep")).expect("copy");
    });
    let path = m.mnt().join("sleep");
    let len = fs::metadata(&path).expect("stat").len();
    let mut child = std::process::Command::new(&path)
        .arg("30")
        .spawn()
        .expect("run it");
    let open = |flags| rustix::fs::open(&path, flags, Mode::empty()).map(|_| ());
    for flags in [OFlags::WRONLY, OFlags::RDWR, OFlags::RDONLY | OFlags::TRUNC] {
        assert_eq!(open(flags), Err(Errno::TXTBSY), "{flags:?}");
    }
    assert_eq!(fs::metadata(&path).expect("stat").len(), len);
    child.kill().expect("kill");
    child.wait().expect("wait");
    let mut options = OpenOptions::new();
    options
        .write(true)
        .custom_flags(nix::libc::O_TRUNC)
        .open(&path)
        .expect("truncate");
    assert_eq!(fs::metadata(&path).expect("stat").len(), 0);
}
