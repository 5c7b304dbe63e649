//! What must be refused, with the errno a local file system gives.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use agentfs_tests::mounted::{Mounted, as_user, need_mount};
use rustix::fs::{AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, RenameFlags, SeekFrom};
use rustix::io::Errno;

/// An ordinary user, and a group of its own.
const NOBODY: (u32, u32) = (65_534, 65_534);

fn fill(dir: &Path) {
    fs::write(dir.join("file"), b"of the base\n").expect("write");
    fs::create_dir_all(dir.join("dir/sub")).expect("mkdir");
    fs::write(dir.join("dir/inner"), b"inner\n").expect("write");
    symlink("loop", dir.join("loop")).expect("symlink");
    symlink("there", dir.join("here")).expect("symlink");
    symlink("here", dir.join("there")).expect("symlink");
    symlink("nowhere", dir.join("dangling")).expect("symlink");
    let locked = dir.join("locked");
    fs::create_dir(&locked).expect("mkdir");
    fs::write(locked.join("in"), b"in").expect("write");
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o700)).expect("chmod");
}

/// What every call that takes a path answers for it.
fn calls(dir: &Path, path: &Path) -> Vec<(&'static str, Result<(), Errno>)> {
    let file = dir.join("file");
    let open = |flags| rustix::fs::open(path, flags, Mode::RUSR).map(|_| ());
    let none = AtFlags::empty();
    vec![
        ("stat", rustix::fs::stat(path).map(|_| ())),
        ("lstat", rustix::fs::lstat(path).map(|_| ())),
        ("open", open(OFlags::RDONLY)),
        ("mkdir", rustix::fs::mkdir(path, Mode::RWXU)),
        (
            "mknod",
            rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0),
        ),
        ("symlink", rustix::fs::symlink("x", path)),
        ("link to", rustix::fs::linkat(CWD, &file, CWD, path, none)),
        (
            "link from",
            rustix::fs::linkat(CWD, path, CWD, dir.join("l"), none),
        ),
        (
            "rename to",
            rustix::fs::renameat(CWD, dir.join("dir/inner"), CWD, path),
        ),
        (
            "rename from",
            rustix::fs::renameat(CWD, path, CWD, dir.join("r")),
        ),
        ("unlink", rustix::fs::unlinkat(CWD, path, none)),
        ("rmdir", rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR)),
        (
            "readlink",
            rustix::fs::readlink(path, Vec::new()).map(|_| ()),
        ),
        ("chmod", rustix::fs::chmodat(CWD, path, Mode::RWXU, none)),
        ("chown", rustix::fs::chownat(CWD, path, None, None, none)),
        (
            "getxattr",
            rustix::fs::getxattr(path, "user.x", &mut [0_u8; 4]).map(|_| ()),
        ),
        ("create", open(OFlags::CREATE | OFlags::WRONLY)),
    ]
}

#[test]
fn names_and_paths_that_are_too_long() {
    if !need_mount() {
        return;
    }
    let m = Mounted::new(fill);
    for name in [vec![b'n'; 256], vec![0xff; 256], vec![b'n'; 4000]] {
        let answers = m.agreed(|dir| calls(dir, &dir.join(OsStr::from_bytes(&name))));
        assert!(
            answers
                .iter()
                .all(|(_, said)| *said == Err(Errno::NAMETOOLONG)),
            "{answers:?}"
        );
    }
    // 255 bytes are a name, whatever they are.
    for name in [vec![b'm'; 255], vec![0xfe; 255]] {
        m.same(|dir| calls(dir, &dir.join(OsStr::from_bytes(&name))));
    }
    let long: PathBuf = std::iter::repeat_n("dir/..", 700).collect();
    let answers = m.agreed(|dir| calls(dir, &dir.join(&long)));
    assert!(
        answers
            .iter()
            .all(|(_, said)| *said == Err(Errno::NAMETOOLONG)),
        "{answers:?}"
    );
}

#[test]
fn loops_files_on_the_way_and_things_that_are_not_there() {
    if !need_mount() {
        return;
    }
    let mut m = Mounted::new(fill);
    for path in [
        "loop",
        "here",
        "loop/x",
        "here/x",
        "dangling/x",
        "file/x",
        "file/",
        "none",
        "none/x",
        "dir",
        "dir/.",
        "dir/..",
        "dangling",
    ] {
        m.same(|dir| (path, calls(dir, &dir.join(path))));
    }
    m.assert_same_trees();
}

#[test]
fn directories_are_not_files() {
    if !need_mount() {
        return;
    }
    let mut m = Mounted::new(fill);
    m.same(|dir| {
        let at = |name: &str| dir.join(name);
        let rename = |from: &str, to: &str| {
            rustix::fs::renameat_with(CWD, at(from), CWD, at(to), RenameFlags::empty())
        };
        let open = File::open(at("dir")).expect("open");
        let stay = nix::unistd::truncate(&at("dir"), 0).map_err(|e| e as i32);
        (
            [
                rename("dir", "dir/sub/x"),
                rename("dir", "file"),
                rename("file", "dir"),
                rename("dir/sub", "dir"),
                rename("dir/.", "x"),
                rustix::fs::unlinkat(CWD, at("dir"), AtFlags::empty()),
                rustix::fs::unlinkat(CWD, at("dir"), AtFlags::REMOVEDIR),
                rustix::fs::unlinkat(CWD, at("file"), AtFlags::REMOVEDIR),
                rustix::fs::linkat(CWD, at("dir"), CWD, at("x"), AtFlags::empty()),
                rustix::fs::open(at("dir"), OFlags::WRONLY, Mode::empty()).map(|_| ()),
            ],
            rustix::io::read(&open, &mut [0_u8; 4]),
            stay,
        )
    });
    m.assert_same_trees();
}

#[test]
fn offsets_at_the_end_of_what_there_is() {
    if !need_mount() {
        return;
    }
    let m = Mounted::new(fill);
    for name in ["file", "new"] {
        m.same(|dir| {
            let mut options = OpenOptions::new();
            let file = options
                .read(true)
                .write(true)
                .create(true)
                .open(dir.join(name));
            let file = file.expect("open");
            let io = |result: std::io::Result<usize>| result.map_err(|e| e.raw_os_error());
            let end = i64::MAX as u64;
            let none = FallocateFlags::empty();
            (
                [
                    io(file.write_at(b"xx", end - 1)),
                    io(file.write_at(b"x", end)),
                    io(file.write_at(b"x", end + 1)),
                    io(file.read_at(&mut [0; 4], end - 1)),
                    io(file.read_at(&mut [0; 4], end + 1)),
                ],
                [
                    rustix::fs::ftruncate(&file, end),
                    rustix::fs::ftruncate(&file, end + 1),
                    rustix::fs::fallocate(&file, none, end - 10, 20),
                    rustix::fs::fallocate(&file, none, end - 10, 10),
                    rustix::fs::fallocate(&file, none, 0, 0),
                ],
                [
                    rustix::fs::seek(&file, SeekFrom::Data(end)),
                    rustix::fs::seek(&file, SeekFrom::Hole(end)),
                    rustix::fs::seek(&file, SeekFrom::Data(1 << 20)),
                    rustix::fs::seek(&file, SeekFrom::Current(-1)),
                ],
                file.metadata().expect("stat").len(),
            )
        });
    }
}

#[test]
fn handles_do_only_what_they_were_opened_for() {
    if !need_mount() {
        return;
    }
    let m = Mounted::new(fill);
    for name in ["file", "new"] {
        m.same(|dir| {
            let path = dir.join(name);
            if !path.exists() {
                fs::write(&path, b"new").expect("write");
            }
            let flags = |flags| rustix::fs::open(&path, flags, Mode::empty()).expect("open");
            let (read, write) = (flags(OFlags::RDONLY), flags(OFlags::WRONLY));
            let path_only = flags(OFlags::PATH);
            let none = FallocateFlags::empty();
            [
                rustix::io::write(&read, b"x").map(|_| ()),
                rustix::io::read(&write, &mut [0_u8; 4]).map(|_| ()),
                rustix::fs::ftruncate(&read, 0),
                rustix::fs::fallocate(&read, none, 0, 10),
                rustix::io::read(&path_only, &mut [0_u8; 4]).map(|_| ()),
                rustix::fs::fchmod(&path_only, Mode::RWXU),
                rustix::fs::copy_file_range(&read, None, &read, None, 1).map(|_| ()),
                rustix::fs::copy_file_range(&write, None, &write, None, 1).map(|_| ()),
            ]
        });
    }
}

#[test]
fn ordinary_users_are_kept_out() {
    if !need_mount() {
        return;
    }
    let mut m = Mounted::new(|dir| {
        fill(dir);
        fs::set_permissions(dir.join("file"), fs::Permissions::from_mode(0o600)).expect("chmod");
    });
    for path in [
        "locked",
        "locked/in",
        "locked/none",
        "file",
        "dir",
        "dir/inner",
        "dir/none",
    ] {
        let answers = m.agreed(|dir| {
            as_user(NOBODY.0, NOBODY.1, &[], || {
                (path, calls(dir, &dir.join(path)))
            })
        });
        let refused = [Errno::ACCESS, Errno::PERM];
        let kept_out = |said: &Result<(), Errno>| said.is_err_and(|e| refused.contains(&e));
        assert!(
            answers.1.iter().any(|(_, said)| kept_out(said)),
            "{answers:?}"
        );
    }
    m.same(|dir| {
        as_user(NOBODY.0, NOBODY.1, &[], || {
            fs::read_dir(dir.join("locked"))
                .map(|_| ())
                .map_err(|e| e.raw_os_error())
        })
    });
    m.assert_same_trees();
}

#[test]
fn nothing_changes_on_a_read_only_mount() {
    if !need_mount() {
        return;
    }
    let mut m = Mounted::new(fill);
    fs::write(m.mnt().join("own"), b"own").expect("write");
    m.umount();
    m.mount("allow_other,ro");
    let dir = m.mnt();
    let refused = ["mkdir", "mknod", "symlink", "rename to", "create"];
    for (call, said) in calls(&dir, &dir.join("none")) {
        if refused.contains(&call) {
            assert_eq!(said, Err(Errno::ROFS), "{call}");
        }
    }
    for name in ["file", "own"] {
        let path = dir.join(name);
        for (call, said) in calls(&dir, &path) {
            if ["unlink", "rename from", "chmod", "chown", "link from"].contains(&call) {
                assert_eq!(said, Err(Errno::ROFS), "{call} {name}");
            }
        }
        let open = rustix::fs::open(&path, OFlags::RDWR, Mode::empty());
        assert_eq!(open.map(|_| ()), Err(Errno::ROFS));
    }
    assert_eq!(fs::read(dir.join("own")).expect("read"), b"own");
}
