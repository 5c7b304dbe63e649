//! Files that are open, or that the kernel holds, while the host puts others in their places.

use std::path::PathBuf;

use super::*;

const O_WRONLY: i32 = 1;
const O_TRUNC: i32 = 0o1000;

fn mode(perm: u32) -> SetAttr {
    SetAttr {
        perm: Some(perm),
        ..SetAttr::default()
    }
}

fn one_file(data: &str) -> Bench {
    Bench::new(|base| fs::write(base.join("f"), data).unwrap())
}

impl Bench {
    fn opened(&self, path: &str) -> (Ino, Fh) {
        let ino = self.walk(path).unwrap().ino;
        (ino, self.core().open(&ME, ino, O_RDWR).unwrap().fh)
    }

    fn held(&self, (ino, fh): (Ino, Fh)) -> Vec<u8> {
        let mut buf = vec![0; 64];
        let got = self.core().read(ino, fh, 0, &mut buf).unwrap();
        buf.truncate(got);
        buf
    }
}

fn set_user_attribute(path: &PathBuf, value: &[u8]) {
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(path, "user.of", value, flags).unwrap();
}

#[test]
fn a_change_by_descriptor_is_of_that_file_and_not_of_its_name() {
    for how in ["replaced", "removed", "replaced after a link"] {
        let mut bench = one_file("base");
        set_user_attribute(&bench.host("f"), b"old");
        let (ino, fh) = bench.opened("f");
        bench.save_anew("f", "host anew");
        set_user_attribute(&bench.host("f"), b"new");
        let later = match how {
            "removed" => {
                bench.unlink("", "f");
                None
            }
            "replaced" => {
                bench.create("", "t", b"mine");
                bench.rename(("", "t"), ("", "f")).unwrap();
                Some(b"mine".to_vec())
            }
            _ => Some(b"host anew".to_vec()),
        };
        let value = bench.core().getxattr(ino, b"user.of").unwrap();
        assert_eq!(&*value, b"old", "{how}");
        let link = || bench.core().link(&ME, ino, Ino::ROOT, &name("again"));
        assert!(matches!(link(), Err(FsError::Removed(_))), "{how}");
        let set = bench.core().setattr(&ME, ino, Some(fh), &mode(0o600));
        assert_eq!(set.unwrap().nlink, 0);
        assert!(matches!(link(), Err(FsError::Removed(_))), "{how}");
        bench
            .core()
            .setxattr(&ME, ino, b"user.mine", b"v", 0)
            .unwrap();
        let value = bench.core().getxattr(ino, b"user.of").unwrap();
        assert_eq!(&*value, b"old", "{how}");
        bench.core().release(fh);
        for clean in [false, true] {
            let found = bench.walk("f").is_ok().then(|| bench.read("f"));
            assert_eq!(found, later, "{how}");
            assert_eq!(bench.damage(), Vec::<String>::new());
            assert_eq!(bench.orphans(), 0, "{how}");
            bench.reopen(clean);
        }
    }
}

#[test]
fn an_append_goes_to_the_end_of_the_file_that_is_open() {
    let bench = one_file("0123456789");
    let ino = bench.walk("f").unwrap().ino;
    bench.core().setattr(&ME, ino, None, &mode(0o600)).unwrap();
    let (_, held) = bench.opened("f");
    bench.save_anew("f", "abc");
    assert_eq!(bench.walk("f").unwrap().size, 10);
    // As the kernel appends: at the size that it was told.
    let open = || bench.core().open(&ME, ino, O_WRONLY);
    let opened = open().or_else(|_| open()).unwrap();
    let size = bench.core().getattr(ino).unwrap().size;
    bench
        .core()
        .write(ino, opened.fh, size, b"XY", false)
        .unwrap();
    bench.core().release(opened.fh);
    bench.core().release(held);
    assert_eq!(bench.read("f"), b"0123456789XY");
}

#[test]
fn what_is_open_is_written_on_whatever_the_host_does_with_its_name() {
    for how in ["removed", "saved anew", "moved", "rotated", "moved dir"] {
        for large in [false, true] {
            let size = if large { 3 << 20 } else { 4 };
            let mut bench = Bench::new(|base| {
                fs::create_dir(base.join("d")).unwrap();
                fs::write(base.join("d/f"), vec![b'B'; size]).unwrap();
            });
            let (ino, fh) = bench.opened("d/f");
            let (from, to) = (bench.host("d/f"), bench.host("d/g"));
            let moved = match how {
                "removed" => {
                    fs::remove_file(from).unwrap();
                    None
                }
                "saved anew" => {
                    bench.save_anew("d/f", "anew");
                    None
                }
                "moved dir" => {
                    fs::rename(bench.host("d"), bench.host("e")).unwrap();
                    Some("e/f")
                }
                _ => {
                    fs::rename(&from, to).unwrap();
                    if how == "rotated" {
                        fs::write(from, "anew").unwrap();
                    }
                    Some("d/g")
                }
            };
            let core = bench.core();
            assert_eq!(core.write(ino, fh, 1, b"mine", false).unwrap(), 4);
            let set = core.setattr(&ME, ino, Some(fh), &mode(0o600)).unwrap();
            assert_eq!(set.nlink, u32::from(moved.is_some()));
            let cut = SetAttr {
                size: Some(5),
                ..SetAttr::default()
            };
            core.setattr(&ME, ino, Some(fh), &cut).unwrap();
            assert_eq!(bench.held((ino, fh)), b"Bmine");
            // By the name that the kernel still has for it, it is looked up again; not by descriptor.
            for flags in [O_RDONLY, O_WRONLY, O_WRONLY | O_TRUNC] {
                let open = || bench.core().open(&ME, ino, flags);
                assert!(open().is_err(), "{how} {flags:#o}");
                if flags & O_TRUNC == 0 {
                    bench.core().release(open().unwrap().fh);
                }
            }
            assert_eq!(bench.held((ino, fh)), b"Bmine");
            bench.core().release(fh);
            bench.core().forget(ino, 1);
            for clean in [false, true] {
                if let Some(path) = moved {
                    assert_eq!(bench.read(path), b"Bmine", "{how}");
                    assert_eq!(bench.walk(path).unwrap().perm, 0o600);
                }
                if how == "saved anew" || how == "rotated" {
                    assert_eq!(bench.read("d/f"), b"anew");
                } else {
                    assert!(bench.walk("d/f").is_err(), "{how}");
                }
                assert_eq!(bench.damage(), Vec::<String>::new());
                bench.reopen(clean);
            }
            if moved.is_none() {
                assert_eq!(bench.orphans(), 0, "{how}");
            }
        }
    }
}

#[test]
fn an_unlinked_file_is_written_on_when_the_host_removes_its_own_too() {
    for how in ["removed", "saved anew"] {
        let mut bench = one_file("base");
        let (ino, fh) = bench.opened("f");
        bench.unlink("", "f");
        match how {
            "removed" => fs::remove_file(bench.host("f")).unwrap(),
            _ => bench.save_anew("f", "anew"),
        }
        let core = bench.core();
        assert_eq!(core.write(ino, fh, 4, b"more", false).unwrap(), 4);
        let cut = SetAttr {
            size: Some(6),
            ..SetAttr::default()
        };
        core.setattr(&ME, ino, Some(fh), &cut).unwrap();
        assert_eq!(core.getattr(ino).unwrap().nlink, 0);
        assert_eq!(bench.held((ino, fh)), b"basemo");
        bench.core().release(fh);
        bench.reopen(true);
        assert!(bench.walk("f").is_err());
        assert_eq!(bench.damage(), Vec::<String>::new());
    }
}

/// Who opens a file by its name means the one that has the name.
#[test]
fn a_name_that_the_host_gave_to_another_is_looked_up_again_before_writing() {
    for is_held in [true, false] {
        for flags in [O_WRONLY, O_WRONLY | O_TRUNC] {
            for how in ["removed", "saved anew", "moved dir"] {
                let bench = Bench::new(|base| {
                    fs::create_dir(base.join("d")).unwrap();
                    fs::write(base.join("d/f"), "base").unwrap();
                });
                let ino = bench.walk("d/f").unwrap().ino;
                let held = is_held.then(|| bench.opened("d/f"));
                match how {
                    "removed" => fs::remove_file(bench.host("d/f")).unwrap(),
                    "moved dir" => fs::rename(bench.host("d"), bench.host("e")).unwrap(),
                    _ => bench.save_anew("d/f", "anew"),
                }
                // The holder has asked meanwhile, and knows what the host did.
                bench.core().getattr(ino).ok();
                let opened = bench.core().open(&ME, ino, flags);
                assert!(opened.is_err(), "{how} {flags:#o} {is_held}");
                if let Some(held) = held {
                    assert_eq!(bench.held(held), b"base", "{how} {flags:#o}");
                }
            }
        }
    }
}

#[test]
fn a_symlink_that_the_host_replaces_is_looked_up_again() {
    use std::os::unix::fs::symlink;
    for how in ["link", "file", "dir", "nothing"] {
        let bench = Bench::new(|base| symlink("there", base.join("l")).unwrap());
        let ino = bench.walk("l").unwrap().ino;
        assert_eq!(&*bench.core().readlink(ino).unwrap(), b"there");
        let path = bench.host("l");
        fs::remove_file(&path).unwrap();
        // Not the inode that was just given back.
        fs::write(bench.host("other"), "").unwrap();
        match how {
            "link" => symlink("elsewhere", path).unwrap(),
            "file" => fs::write(path, "x").unwrap(),
            "dir" => fs::create_dir(path).unwrap(),
            _ => {}
        }
        let target = bench.core().readlink(ino).unwrap_err();
        let (errno, _) = crate::errno::reply(&target);
        assert_eq!(errno.code(), nix::libc::ESTALE, "{how}: {target:?}");
        let again = bench.walk("l");
        assert_eq!(again.is_ok(), how != "nothing");
        if how == "link" {
            let target = bench.core().readlink(again.unwrap().ino).unwrap();
            assert_eq!(&*target, b"elsewhere");
        }
    }
}

#[test]
fn what_the_host_has_removed_is_looked_up_again() {
    for is_large in [false, true] {
        let bench = one_file("base");
        if is_large {
            fs::write(bench.host("f"), vec![b'B'; 3 << 20]).unwrap();
            bench.write("f", 0, b"mine");
        }
        let ino = bench.walk("f").unwrap().ino;
        fs::remove_file(bench.host("f")).unwrap();
        let core = bench.core();
        let mut errors = vec![core.open(&ME, ino, O_RDONLY).map(drop)];
        if !is_large {
            errors.push(core.getattr(ino).map(drop));
            errors.push(core.open(&ME, ino, O_WRONLY | O_TRUNC).map(drop));
            errors.push(core.setattr(&ME, ino, None, &mode(0o600)).map(drop));
            errors.push(core.getxattr(ino, b"user.x").map(drop));
            errors.push(core.listxattr(ino).map(drop));
        }
        for result in errors {
            let (errno, _) = crate::errno::reply(&result.unwrap_err());
            assert_eq!(errno.code(), nix::libc::ESTALE);
        }
    }
}

#[test]
fn a_snapshot_has_to_see_to_what_is_open_or_unlinked_and_to_nothing_else() {
    let bench = one_file("base");
    let busy = || -> Vec<Ino> {
        let tree = crate::sync::lock(&bench.core().tree);
        tree.busy().map(|(ino, _)| ino).collect()
    };
    for n in 0..20 {
        bench.create("", &format!("n{n}"), b"new");
    }
    bench.read("f");
    assert_eq!(busy(), [], "all of it is closed");
    let (ino, fh) = bench.opened("n3");
    assert_eq!(busy(), [ino], "open");
    bench.unlink("", "n3");
    bench.core().release(fh);
    assert_eq!(busy(), [ino], "without a name, and the kernel knows of it");
    bench.core().forget(ino, u64::MAX);
    assert_eq!(busy(), [], "gone");
}

#[test]
fn what_the_kernel_forgot_takes_no_memory() {
    const MANY: usize = (1 << 16) + 1000;
    let bench = Bench::new(|dir| {
        for n in 0..MANY {
            fs::write(dir.join(n.to_string()), b"").unwrap();
        }
    });
    let core = bench.core();
    let room = || crate::sync::lock(&core.tree).nodes.capacity();
    let root = bench.walk("").unwrap().ino;
    let inos: Vec<Ino> = (0..MANY)
        .map(|n| core.lookup(root, &name(&n.to_string())).unwrap().attr.ino)
        .collect();
    core.maintain().unwrap();
    assert!(room() >= MANY);
    // As long as half of them are known, more may come.
    for ino in &inos[..MANY / 4] {
        core.forget(*ino, 1);
    }
    core.maintain().unwrap();
    assert!(room() >= MANY);
    for ino in &inos[MANY / 4..] {
        core.forget(*ino, 1);
    }
    core.maintain().unwrap();
    assert!(room() < MANY / 10, "{}", room());
}
