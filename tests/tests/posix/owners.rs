//! Owners, modes, set-id bits, sticky directories, access control lists: what ordinary users may do
//! and what the file system must take away.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};

use agentfs_tests::mounted::{BRANCH, Mounted, as_user, need_mount};
use rustix::fs::{AtFlags, CWD, FallocateFlags, Mode, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

/// Two ordinary users, each with a group of its own, and a group they may share.
const ONE: u32 = 61_001;
const TWO: u32 = 61_002;
const SHARED: u32 = 61_010;

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("stat").mode() & 0o7777
}

fn give(path: &Path, uid: u32, gid: u32, perm: u32) {
    chown(path, Some(uid), Some(gid)).expect("chown");
    fs::set_permissions(path, Permissions::from_mode(perm)).expect("chmod");
}

fn one<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    as_user(ONE, ONE, &[], work)
}

#[test]
fn setgid_directories_hand_their_group_on() {
    if !need_mount() {
        return;
    }
    let mut m = Mounted::new(|dir| {
        fs::create_dir(dir.join("d")).expect("mkdir");
        give(&dir.join("d"), ONE, SHARED, 0o2777);
    });
    m.same(|dir| {
        let make = |who: u32| {
            let at = |name: &str| dir.join(format!("d/{name}{who}"));
            fs::create_dir(at("dir")).expect("mkdir");
            let mut options = OpenOptions::new();
            options
                .write(true)
                .create(true)
                .mode(0o2755)
                .open(at("exec"))
                .expect("create");
            fs::write(at("file"), b"").expect("write");
            let set = fs::set_permissions(at("file"), Permissions::from_mode(0o2755));
            let shown = ["dir", "exec", "file"].map(|name| {
                let meta = fs::metadata(at(name)).expect("stat");
                format!("{name} {:o} {} {}", meta.mode(), meta.uid(), meta.gid())
            });
            (shown, set.is_ok())
        };
        let outside = one(|| make(1));
        let inside = as_user(TWO, TWO, &[SHARED], || make(2));
        (outside, inside, make(0))
    });
    m.assert_same_trees();
}

#[test]
fn groups_that_were_given_back_count_no_more() {
    if !need_mount() {
        return;
    }
    let mut m = Mounted::new(|dir| {
        fs::write(dir.join("file"), b"").expect("write");
        give(&dir.join("file"), ONE, SHARED, 0o2644);
    });
    let said = m.agreed(|dir| {
        let path = dir.join("file");
        let chown_nothing = || {
            chown(&path, None, None).expect("chown");
            format!("{:o}", mode(&path))
        };
        as_user(ONE, ONE, &[SHARED], || {
            let member = chown_nothing();
            rustix::thread::set_thread_groups(&[]).expect("setgroups");
            (member, chown_nothing())
        })
    });
    assert_eq!(said, ("2644".to_owned(), "644".to_owned()));
    m.assert_same_trees();
}

#[test]
fn sticky_directories_protect_their_entries() {
    if !need_mount() {
        return;
    }
    let mut m = Mounted::new(|dir| {
        for (name, perm) in [("sticky", 0o1777), ("open", 0o777)] {
            let at = dir.join(name);
            fs::create_dir(&at).expect("mkdir");
            for entry in ["of_one", "of_two"] {
                fs::write(at.join(entry), b"").expect("write");
                fs::create_dir(at.join(format!("{entry}_dir"))).expect("mkdir");
            }
            give(&at.join("of_one"), ONE, ONE, 0o666);
            give(&at.join("of_two"), TWO, TWO, 0o666);
            give(&at.join("of_one_dir"), ONE, ONE, 0o777);
            give(&at.join("of_two_dir"), TWO, TWO, 0o777);
            give(&at, 0, 0, perm);
        }
    });
    m.same(|dir| {
        one(|| {
            ["sticky", "open"].map(|name| {
                let at = |entry: &str| dir.join(name).join(entry);
                [
                    rustix::fs::rename(at("of_two"), at("taken")),
                    rustix::fs::rename(at("of_one"), at("of_two")),
                    rustix::fs::unlinkat(CWD, at("of_two"), AtFlags::empty()),
                    rustix::fs::unlinkat(CWD, at("of_two_dir"), AtFlags::REMOVEDIR),
                    rustix::fs::rename(at("of_one"), at("kept")),
                    rustix::fs::unlinkat(CWD, at("of_one_dir"), AtFlags::REMOVEDIR),
                ]
            })
        })
    });
    m.assert_same_trees();
}

/// Every way to change a file's bytes, or whose it is.
const WAYS: [&str; 9] = [
    "write",
    "append",
    "ftruncate",
    "truncate",
    "O_TRUNC",
    "fallocate",
    "punch",
    "copy",
    "chown",
];

fn change(way: &str, path: &Path, source: &Path) {
    let mut options = OpenOptions::new();
    options.write(true);
    let open = || options.open(path).expect("open");
    let allocate = |mode: FallocateFlags| {
        rustix::fs::fallocate(open(), mode, 0, 8192).expect("fallocate");
    };
    match way {
        "write" => open().write_all_at(b"changed", 0).expect("write"),
        "append" => {
            let mut file = OpenOptions::new().append(true).open(path).expect("open");
            file.write_all(b"changed").expect("append");
        }
        "ftruncate" => open().set_len(3).expect("ftruncate"),
        "truncate" => nix::unistd::truncate(path, 3).expect("truncate"),
        "O_TRUNC" => drop(
            OpenOptions::new()
                .write(true)
                .truncate(true)
                .open(path)
                .expect("open"),
        ),
        "fallocate" => allocate(FallocateFlags::empty()),
        "punch" => allocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE),
        "copy" => {
            let source = fs::File::open(source).expect("open");
            rustix::fs::copy_file_range(&source, None, open(), None, 4).expect("copy_file_range");
        }
        "chown" => chown(path, None, Some(ONE)).expect("chown"),
        other => panic!("no way {other}"),
    }
}

#[test]
fn set_id_bits_go_with_a_change() {
    if !need_mount() {
        return;
    }
    let perms = [0o6777, 0o4666, 0o2676, 0o2666];
    let capability = b"\x01\0\0\x02\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let mut m = Mounted::new(|dir| {
        fs::write(dir.join("source"), b"source").expect("write");
        for way in WAYS {
            for perm in perms {
                let path = dir.join(format!("{way}-{perm:o}"));
                fs::write(&path, b"some bytes to change").expect("write");
                // chown(2) is for the owner, all else for anybody who may write.
                let owner = if way == "chown" { ONE } else { TWO };
                give(&path, owner, TWO, perm);
                let name = "security.capability";
                rustix::fs::setxattr(&path, name, capability, XattrFlags::empty()).expect("caps");
                fs::copy(&path, dir.join(format!("by-root-{way}-{perm:o}"))).expect("copy");
            }
        }
    });
    for copied_up in [false, true] {
        let changed = m.agreed(|dir| {
            let mut left = Vec::new();
            for way in WAYS {
                for perm in perms {
                    let path = dir.join(format!("{way}-{perm:o}"));
                    if copied_up {
                        give(&path, if way == "chown" { ONE } else { TWO }, TWO, perm);
                    }
                    // Known to the kernel before: it must not go on trusting what it knew.
                    mode(&path);
                    one(|| change(way, &path, &dir.join("source")));
                    let caps = rustix::fs::getxattr(&path, "security.capability", &mut [0_u8; 64]);
                    left.push((way, format!("{perm:o} -> {:o}", mode(&path)), caps));
                    let by_root = dir.join(format!("by-root-{way}-{perm:o}"));
                    fs::set_permissions(&by_root, Permissions::from_mode(perm)).expect("chmod");
                    change(way, &by_root, &dir.join("source"));
                    left.push((
                        "by root",
                        format!("{perm:o} -> {:o}", mode(&by_root)),
                        Ok(0),
                    ));
                }
            }
            left
        });
        assert!(
            changed
                .iter()
                .all(|(_, _, caps)| *caps != Ok(capability.len()))
        );
    }
    m.assert_same_trees();
}

#[test]
fn set_id_bits_set_while_the_file_is_open_go_too() {
    if !need_mount() {
        return;
    }
    let mut m = Mounted::new(|dir| {
        fs::write(dir.join("base"), b"base").expect("write");
        give(&dir.join("base"), TWO, TWO, 0o666);
    });
    for name in ["base", "new", "new"] {
        m.same(|dir| {
            let path = dir.join(name);
            if name == "new" {
                fs::write(&path, b"new").expect("write");
                give(&path, TWO, TWO, 0o666);
            }
            let mut said = Vec::new();
            one(|| {
                let file = OpenOptions::new().write(true).open(&path).expect("open");
                file.write_all_at(b"first", 0).expect("write");
                as_user(0, 0, &[], || {
                    fs::set_permissions(&path, Permissions::from_mode(0o6777)).expect("chmod");
                });
                said.push(format!("{:o}", mode(&path)));
                file.write_all_at(b"second", 0).expect("write");
                said.push(format!("{:o}", mode(&path)));
            });
            said.push(format!("{:o}", mode(&path)));
            said
        });
    }
    m.assert_same_trees();
}

#[test]
fn chown_leaves_alone_what_it_is_not_asked_for() {
    if !need_mount() {
        return;
    }
    let mut m = Mounted::new(|dir| {
        for name in ["mine", "theirs"] {
            fs::write(dir.join(name), b"").expect("write");
        }
        give(&dir.join("mine"), ONE, ONE, 0o644);
        give(&dir.join("theirs"), TWO, TWO, 0o666);
    });
    m.same(|dir| {
        let shown = |name: &str| {
            let meta = fs::metadata(dir.join(name)).expect("stat");
            (meta.uid(), meta.gid(), meta.mode())
        };
        let try_all = || {
            let mut said = Vec::new();
            for name in ["mine", "theirs"] {
                let wanted = [
                    (None, None),
                    (Some(ONE), None),
                    (None, Some(ONE)),
                    (None, Some(SHARED)),
                    (Some(TWO), None),
                    (Some(ONE), Some(SHARED)),
                    (None, Some(0)),
                ];
                for (uid, gid) in wanted {
                    let done = chown(dir.join(name), uid, gid).map_err(|e| e.raw_os_error());
                    said.push((done, shown(name)));
                }
            }
            said
        };
        let alone = one(try_all);
        let member = as_user(ONE, ONE, &[SHARED], try_all);
        (alone, member)
    });
    m.assert_same_trees();
}

/// Takes CAP_SETFCAP off this thread, which a thread of root's keeps when it becomes another user.
fn may_not_set_capabilities() {
    let mut sets = rustix::thread::capabilities(None).expect("capget");
    sets.effective
        .remove(rustix::thread::CapabilitySet::SETFCAP);
    rustix::thread::set_capabilities(None, sets).expect("capset");
}

#[test]
fn a_chown_of_nothing_takes_privileges_for_the_owner_only() {
    if !need_mount() {
        return;
    }
    let perms = [0o755, 0o4755, 0o2755, 0o6755, 0o4644, 0o2644, 0o6711];
    let capability = b"\x01\0\0\x02\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let name = "security.capability";
    let m = Mounted::new(|dir| {
        fs::create_dir(dir.join("dir")).expect("mkdir");
        give(&dir.join("dir"), TWO, TWO, 0o2755);
        for perm in perms {
            for with in ["bare", "capable"] {
                let path = dir.join(format!("{with}-{perm:o}"));
                fs::write(&path, b"some bytes").expect("write");
                give(&path, TWO, TWO, perm);
                if with == "capable" {
                    rustix::fs::setxattr(&path, name, capability, XattrFlags::empty())
                        .expect("caps");
                }
            }
        }
    });
    let carried = |path: &Path| {
        let caps = rustix::fs::getxattr(path, name, &mut [0_u8; 64]);
        (format!("{:o}", mode(path)), caps)
    };
    let said = m.agreed(|dir| {
        let mut said = Vec::new();
        for perm in perms {
            for with in ["bare", "capable"] {
                // ext4 lets everybody take the capabilities off where no set-id bit goes with them.
                if matches!((with, perm), ("capable", 0o755 | 0o2644)) {
                    continue;
                }
                let path = dir.join(format!("{with}-{perm:o}"));
                let try_it = || {
                    may_not_set_capabilities();
                    chown(&path, None, None).map_err(|e| e.raw_os_error())
                };
                let stranger = (one(try_it), carried(&path));
                let member = (as_user(ONE, ONE, &[TWO], try_it), carried(&path));
                let owner = (as_user(TWO, TWO, &[], try_it), carried(&path));
                let bits = Permissions::from_mode(perm);
                fs::set_permissions(&path, bits).expect("chmod");
                let by_root = chown(&path, None, None).map_err(|e| e.raw_os_error());
                let root = (by_root, carried(&path));
                said.push((with, perm, stranger, member, owner, root));
            }
        }
        let dir = dir.join("dir");
        let stranger = one(|| chown(&dir, None, None).is_ok());
        (said, stranger, mode(&dir))
    });
    let refused = said.0.iter().filter(|said| said.2.0.is_err()).count();
    assert!(refused >= 9, "{said:?}");
    let path = m.mnt().join("capable-755");
    let stranger = one(|| {
        may_not_set_capabilities();
        chown(&path, None, None).map_err(|e| e.raw_os_error())
    });
    assert_eq!(stranger, Err(Some(1)));
    assert_eq!(carried(&path).1, Ok(capability.len()));
}

#[test]
fn times_are_for_the_owner_now_is_for_writers() {
    if !need_mount() {
        return;
    }
    let m = Mounted::new(|dir| {
        for (name, owner, perm) in [
            ("mine", ONE, 0o400),
            ("open", TWO, 0o666),
            ("shut", TWO, 0o644),
        ] {
            fs::write(dir.join(name), b"").expect("write");
            give(&dir.join(name), owner, owner, perm);
        }
    });
    let said = m.agreed(|dir| {
        one(|| {
            let mut said = Vec::new();
            let (now, omit) = (rustix::fs::UTIME_NOW, rustix::fs::UTIME_OMIT);
            for name in ["mine", "open", "shut"] {
                for (access, modification) in [
                    (now, now),
                    (5, 5),
                    (now, omit),
                    (omit, now),
                    (omit, omit),
                    (now, 5),
                ] {
                    let at = |nsec: i64| Timespec {
                        tv_sec: 9,
                        tv_nsec: nsec as _,
                    };
                    let times = Timestamps {
                        last_access: at(access),
                        last_modification: at(modification),
                    };
                    let path = dir.join(name);
                    said.push(rustix::fs::utimensat(CWD, path, &times, AtFlags::empty()));
                }
            }
            said
        })
    });
    assert!(
        said.contains(&Err(Errno::PERM)) && said.contains(&Err(Errno::ACCESS)),
        "{said:?}"
    );
}

#[test]
fn modes_are_for_the_owner() {
    if !need_mount() {
        return;
    }
    let m = Mounted::new(|dir| {
        for (name, owner) in [("mine", ONE), ("theirs", TWO)] {
            fs::write(dir.join(name), b"").expect("write");
            give(&dir.join(name), owner, SHARED, 0o666);
        }
    });
    m.same(|dir| {
        let try_all = || {
            ["mine", "theirs"].map(|name| {
                let path = dir.join(name);
                [0o600, 0o4755, 0o2755, 0o6777, 0o1644].map(|perm| {
                    let done = rustix::fs::chmodat(
                        CWD,
                        &path,
                        Mode::from_raw_mode(perm),
                        AtFlags::empty(),
                    );
                    format!("{done:?} {:o}", mode(&path))
                })
            })
        };
        (one(try_all), as_user(ONE, ONE, &[SHARED], try_all))
    });
}

/// The bytes of an access control list: (tag, permissions, id) each. Source: acl(5).
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, perm, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(perm.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

#[test]
fn access_control_lists_are_kept_inherited_and_obeyed() {
    if !need_mount() {
        return;
    }
    const NONE: u32 = u32::MAX;
    let mut m = Mounted::new(|dir| {
        fs::write(dir.join("file"), b"listed").expect("write");
        give(&dir.join("file"), TWO, TWO, 0o600);
        fs::create_dir(dir.join("d")).expect("mkdir");
        give(&dir.join("d"), 0, 0, 0o777);
    });
    let access = acl(&[
        (1, 6, NONE),
        (2, 4, ONE),
        (4, 0, NONE),
        (16, 6, NONE),
        (32, 0, NONE),
    ]);
    let default = acl(&[
        (1, 7, NONE),
        (2, 7, ONE),
        (4, 5, NONE),
        (16, 7, NONE),
        (32, 0, NONE),
    ]);
    m.same(|dir| {
        let at = |name: &str| dir.join(name);
        let none = XattrFlags::empty();
        let set = |path: &str, name: &str, value: &[u8]| {
            rustix::fs::setxattr(at(path), format!("system.posix_acl_{name}"), value, none)
        };
        let set_all = [
            set("file", "access", &access),
            set("d", "default", &default),
            set("file", "default", &default),
            set("file", "access", b"nonsense"),
        ];
        let get = |path: &str, name: &str| {
            let mut room = [0_u8; 200];
            let name = format!("system.posix_acl_{name}");
            rustix::fs::getxattr(at(path), name, &mut room).map(|len| room[..len].to_vec())
        };
        let read = one(|| fs::read(at("file")).map_err(|e| e.raw_os_error()));
        let write = one(|| {
            OpenOptions::new()
                .write(true)
                .open(at("file"))
                .map(drop)
                .map_err(|e| e.raw_os_error())
        });
        fs::write(at("d/made"), b"").expect("write");
        fs::create_dir(at("d/sub")).expect("mkdir");
        let by_user = one(|| {
            fs::write(at("d/sub/inner"), b"").map_err(|e| e.raw_os_error())?;
            let mut options = OpenOptions::new();
            options
                .write(true)
                .create(true)
                .mode(0o640)
                .open(at("d/sub/narrow"))
                .map(drop)
                .map_err(|e| e.raw_os_error())
        });
        let mut modes = vec![mode(&at("file"))];
        fs::set_permissions(at("file"), Permissions::from_mode(0o660)).expect("chmod");
        modes.extend(
            ["file", "d/made", "d/sub", "d/sub/inner", "d/sub/narrow"].map(|n| mode(&at(n))),
        );
        let lists = [
            get("file", "access"),
            get("d/made", "access"),
            get("d/sub", "access"),
            get("d/sub", "default"),
            get("d/sub/narrow", "access"),
            get("d/made", "default"),
        ];
        (set_all, read, write, by_user, modes, lists)
    });
    m.assert_same_trees();
}

/// Runs `chown` as user ONE in groups of its own, with no capability but these, and gives its pid
/// and whether it went well.
fn chown_as_one(file: &Path, owner: &str, capabilities: &str) -> (u32, bool) {
    let (one, groups) = (ONE.to_string(), format!("{SHARED},{TWO}"));
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", &one, "--regid", &one, "--groups", &groups])
        .args(["--bounding-set", capabilities, "--inh-caps", capabilities])
        .args(["--ambient-caps", capabilities, "--", "chown", owner])
        .arg(file);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("setpriv");
    let pid = child.id();
    (pid, child.wait().expect("wait").success())
}

#[test]
fn a_change_of_owner_by_another_is_logged() {
    if !need_mount() {
        return;
    }
    let m = Mounted::new(|dir| {
        fs::write(dir.join("file"), b"base").expect("write");
        give(&dir.join("file"), TWO, TWO, 0o644);
    });
    let log = m.sandbox.store().join(format!("branches/{BRANCH}/fsd.log"));
    let lines = || {
        let text = fs::read_to_string(&log).expect("the log");
        let lines = text.lines().filter(|line| line.contains("agentfs::access"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let file = m.mnt().join("file");
    // What the kernel refuses never comes to the daemon, and what the owner does is nothing new.
    let (_, went_well) = chown_as_one(&file, &format!("{ONE}"), "-all");
    assert!(!went_well, "user ONE may not");
    as_user(TWO, TWO, &[SHARED], || chown(&file, None, Some(SHARED))).expect("the owner");
    assert_eq!(lines(), Vec::<String>::new());

    let (pid, went_well) = chown_as_one(&file, "7:8", "-all,+chown");
    assert!(went_well, "CAP_CHOWN lets it pass");
    let (other, went_well) = chown_as_one(&file, ":9", "-all,+chown");
    assert!(went_well, "CAP_CHOWN lets it pass");
    let lines = lines();
    assert_eq!(lines.len(), 2, "{lines:#?}");
    for (line, words) in lines.iter().zip([
        [
            format!(" pid={pid} uid={ONE} gid={ONE} groups=[{TWO}, {SHARED}] "),
            " asked_uid=Some(7) asked_gid=Some(8) ".into(),
            format!(" owner_uid={TWO} owner_gid={SHARED}"),
        ],
        [
            format!(" pid={other} uid={ONE} gid={ONE} groups=[{TWO}, {SHARED}] "),
            " asked_uid=None asked_gid=Some(9) ".into(),
            " owner_uid=7 owner_gid=8".into(),
        ],
    ]) {
        for word in words {
            assert!(line.contains(&word), "{word:?}: {line}");
        }
    }
    let meta = fs::metadata(&file).expect("stat");
    assert_eq!((meta.uid(), meta.gid()), (7, 9));
}
