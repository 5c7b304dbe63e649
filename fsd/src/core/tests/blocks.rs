//! What the core says of the space that files take: open, closed, reopened, and with holes below.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::*;

const MIB: u64 = 1 << 20;
const KEEP_SIZE: i32 = 1;
const PUNCH_HOLE: i32 = 3;

impl Bench {
    fn blocks(&self, path: &str) -> u64 {
        self.walk(path).unwrap().blocks
    }

    fn resize(&self, path: &str, size: u64) {
        let ino = self.walk(path).unwrap().ino;
        let set = SetAttr {
            size: Some(size),
            ..SetAttr::default()
        };
        self.core().setattr(&ME, ino, None, &set).unwrap();
    }

    fn fallocate(&self, path: &str, mode: i32, offset: u64, len: u64) {
        let ino = self.walk(path).unwrap().ino;
        let core = self.core();
        let opened = core.open(&ME, ino, O_RDWR).unwrap();
        let done = core.fallocate(&ME, ino, opened.fh, mode, offset, len);
        done.unwrap();
        core.release(opened.fh);
    }

    /// The objects of all layers, the way around the core.
    fn objects(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut dirs = vec![self.store.path().to_path_buf()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                let inside = path.components().any(|part| part.as_os_str() == "objects");
                match path.is_dir() {
                    true => dirs.push(path),
                    false if inside => found.push(path),
                    false => {}
                }
            }
        }
        found
    }
}

fn sparse(path: PathBuf, size: u64) {
    let file = fs::File::create(path).unwrap();
    file.write_all_at(&[7; 4096], 8192).unwrap();
    file.set_len(size).unwrap();
}

#[test]
fn a_closed_file_shows_its_holes() {
    let mut bench = Bench::new(|_| {});
    bench.create("", "sparse", b"");
    bench.write("sparse", 4 * MIB, &[1; 4096]);
    bench.create("", "whole", &[1; 10_000]);
    bench.create("", "punched", &[1; 65_536]);
    bench.fallocate("punched", PUNCH_HOLE, 4096, 8192);
    bench.create("", "cut", &[1; 65_536]);
    bench.resize("cut", 4096);
    bench.resize("cut", MIB);
    bench.create("", "none", b"");
    bench.resize("none", MIB);
    bench.create("", "behind", &[1; 4096]);
    bench.fallocate("behind", KEEP_SIZE, 0, 65_536);
    let mode = SetAttr {
        perm: Some(0o600),
        ..SetAttr::default()
    };
    let names = ["sparse", "whole", "punched", "cut", "none", "behind"];
    for round in 0..3 {
        let blocks = names.map(|name| bench.blocks(name));
        assert_eq!(blocks, [8, 24, 112, 8, 0, 128], "round {round}");
        for name in names {
            let ino = bench.walk(name).unwrap().ino;
            bench.core().setattr(&ME, ino, None, &mode).unwrap();
        }
        bench.reopen(round == 0);
    }
}

#[test]
fn a_file_that_a_killed_daemon_left_open_shows_its_holes() {
    let mut bench = Bench::new(|_| {});
    let ino = bench.create("", "f", b"");
    let opened = bench.core().open(&ME, ino, O_RDWR).unwrap();
    let written = bench.core().write(ino, opened.fh, MIB, b"data", false);
    assert_eq!(written.unwrap(), 4);
    for _ in 0..2 {
        assert_eq!(bench.blocks("f"), 8);
        bench.reopen(false);
    }
    bench.write("f", 2 * MIB, b"data");
    for clean in [true, false] {
        assert_eq!(bench.blocks("f"), 16);
        bench.reopen(clean);
    }
}

#[test]
fn the_holes_of_base_files_stay_in_sight() {
    let mut bench = Bench::new(|base| {
        for name in ["marked", "small", "large", "grown"] {
            let size = if name == "small" { 65_536 } else { 8 * MIB };
            sparse(base.join(name), size);
        }
        fs::write(base.join("full"), vec![1; 2 * MIB as usize]).unwrap();
    });
    let ino = bench.walk("marked").unwrap().ino;
    let mode = SetAttr {
        perm: Some(0o600),
        ..SetAttr::default()
    };
    bench.core().setattr(&ME, ino, None, &mode).unwrap();
    for (name, offset) in [("small", 0), ("large", 4 * MIB), ("full", 4096)] {
        bench.write(name, offset, &[1; 4096]);
    }
    bench.resize("grown", 9 * MIB);
    let names = ["marked", "small", "large", "grown", "full"];
    for clean in [true, false, true] {
        // Of layers together no more than the size takes: 4096 for the last.
        let blocks = names.map(|name| bench.blocks(name));
        assert_eq!(blocks, [8, 16, 16, 8, 4096]);
        bench.reopen(clean);
    }
    // One that is cut counts what was cut off until it takes more than its size.
    bench.resize("full", 4096);
    assert_eq!(bench.blocks("full"), 8);
}

#[test]
fn a_file_with_data_is_never_without_blocks() {
    let mut bench = Bench::new(|_| {});
    let ino = bench.create("", "f", b"");
    bench.resize("f", MIB);
    assert!(bench.walk("f").unwrap().may_fill);
    // As the kernel stores from a mapping that outlives its handle: by nobody's leave.
    let objects = bench.objects();
    assert_eq!(objects.len(), 1);
    let object = fs::OpenOptions::new().write(true).open(&objects[0]);
    object.unwrap().write_all_at(&[1; 4096], 8192).unwrap();
    for clean in [true, false] {
        let attr = bench.core().getattr(ino).unwrap();
        assert_eq!((attr.blocks, attr.may_fill), (8, false));
        bench.reopen(clean);
        bench.walk("f").unwrap();
    }
}
