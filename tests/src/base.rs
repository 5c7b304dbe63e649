//! The base trees that suites start from: hard links, nested and odd names, symlinks, big and
//! sparse files, attributes. Made the same way each time, so that two of them compare equal.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

/// A name that is no UTF-8.
pub const ODD: &[u8] = b"\xff\xfeodd";

/// Deterministic bytes that differ along the file, so that a misplaced block shows.
pub fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| {
            let x = (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            (x as u8).wrapping_add(seed)
        })
        .collect()
}

/// Fills the existing directory `dir` with the tree that the model and the diff suite use.
pub fn small(dir: &Path) {
    let at = |path: &str| dir.join(path);
    let write = |path: &str, bytes: &[u8], mode: u32| {
        fs::write(at(path), bytes).expect("write");
        fs::set_permissions(at(path), fs::Permissions::from_mode(mode)).expect("chmod");
    };
    write("file", b"hello, base\n", 0o644);
    write("exec", b"#!/bin/sh\nexit 0\n", 0o755);
    write("empty", b"", 0o600);
    write("big", &pattern(7, 70_000), 0o644);
    fs::create_dir_all(at("dir/sub/deep")).expect("mkdir");
    write("dir/one", b"1", 0o644);
    write("dir/sub/two", b"22", 0o640);
    write("dir/sub/deep/three", &pattern(3, 5_000), 0o444);
    fs::create_dir(at("hollow")).expect("mkdir");
    fs::hard_link(at("file"), at("dir/link")).expect("link");
    fs::hard_link(at("dir/sub/two"), at("two")).expect("link");
    symlink("dir/sub", at("sym")).expect("symlink");
    symlink("nowhere", at("dir/dangling")).expect("symlink");
    fs::write(dir.join(OsStr::from_bytes(ODD)), b"odd").expect("write");
    let sparse = File::create(at("sparse")).expect("create");
    sparse.write_all_at(b"end", 200_000).expect("write");
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(at("file"), "user.a", b"base value", flags).expect("setxattr");
    rustix::fs::setxattr(at("dir"), "user.b", b"on a directory", flags).expect("setxattr");
    let past = rustix::fs::Timespec {
        tv_sec: 1_000_000_000,
        tv_nsec: 123_456_789,
    };
    let times = rustix::fs::Timestamps {
        last_access: past,
        last_modification: past,
    };
    for path in ["file", "big", "dir/sub/two", "dir", "hollow", "sym"] {
        rustix::fs::utimensat(
            rustix::fs::CWD,
            at(path),
            &times,
            rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
        )
        .expect("utimensat");
    }
}

/// Fills `dir` with about `files` small files in nested directories.
pub fn wide(dir: &Path, files: usize) {
    for i in 0..files {
        let folder = dir.join(format!("d{}/e{}", i % 7, i % 23));
        fs::create_dir_all(&folder).expect("mkdir");
        fs::write(
            folder.join(format!("f{i}")),
            pattern(i as u8, 100 + i % 900),
        )
        .expect("write");
    }
}
