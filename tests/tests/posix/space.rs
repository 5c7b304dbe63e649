//! Holes, allocation, copies within the file system: on a new file, on a base file that is copied up
//! whole and on one that becomes a file of extents.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use agentfs_tests::base::pattern;
use agentfs_tests::mounted::{Mounted, need_mount};
use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;

/// The block size that everything here is a multiple of, where it matters.
const BLOCK: u64 = 4096;
/// Below it a file is copied up whole, above it becomes a file of extents.
const SIZES: [(&str, usize); 2] = [("small", 64 << 10), ("large", 2 << 20)];

fn fill(dir: &Path) {
    for (name, size) in SIZES {
        fs::write(dir.join(name), pattern(1, size)).expect("write");
        fs::write(dir.join(format!("{name}-2")), pattern(2, size)).expect("write");
        let sparse = File::create(dir.join(format!("{name}-sparse"))).expect("create");
        sparse
            .write_all_at(&pattern(3, 8192), 3 * BLOCK)
            .expect("write");
        sparse
            .write_all_at(&pattern(4, 4096), 9 * BLOCK)
            .expect("write");
        sparse.set_len(size as u64).expect("set_len");
    }
}

fn rw(path: &Path) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true);
    options.open(path).expect("open")
}

#[test]
fn every_mode_of_fallocate() {
    if !need_mount() {
        return;
    }
    let mut m = Mounted::new(fill);
    let keep = FallocateFlags::KEEP_SIZE;
    let modes = [
        FallocateFlags::empty(),
        keep,
        FallocateFlags::PUNCH_HOLE | keep,
        FallocateFlags::ZERO_RANGE,
        FallocateFlags::ZERO_RANGE | keep,
        FallocateFlags::PUNCH_HOLE,
        FallocateFlags::COLLAPSE_RANGE,
        FallocateFlags::INSERT_RANGE,
        FallocateFlags::UNSHARE_RANGE,
    ];
    for name in ["small", "large", "small-sparse", "large-sparse", "new"] {
        for mode in modes {
            let shifts = FallocateFlags::COLLAPSE_RANGE | FallocateFlags::INSERT_RANGE;
            let odd = if mode.intersects(shifts) { 0 } else { 100 };
            let answers = |dir: &Path| {
                let file = rw(&dir.join(name));
                if name == "new" {
                    file.write_all_at(&pattern(5, 50_000), 0).expect("write");
                }
                let len = file.metadata().expect("stat").len();
                let ranges = [
                    (BLOCK + odd, 2 * BLOCK),
                    (len.next_multiple_of(BLOCK) - BLOCK, 3 * BLOCK + odd),
                    (len + 10 * BLOCK, BLOCK),
                ];
                let said = ranges.map(|(at, len)| {
                    let done = rustix::fs::fallocate(&file, mode, at, len);
                    (done, file.metadata().expect("stat").len())
                });
                (said, fs::read(dir.join(name)).expect("read"))
            };
            let (ours, theirs) = (answers(&m.mnt()), answers(&m.plain()));
            let what = format!("{name}, {mode:?}");
            // Where the host's file system can shift ranges, the branch may say that it cannot.
            let refuses = ours
                .0
                .iter()
                .any(|(done, _)| *done == Err(Errno::OPNOTSUPP));
            assert!(
                !refuses
                    || mode.intersects(shifts | FallocateFlags::UNSHARE_RANGE)
                    || ours.0 == theirs.0,
                "{what}: {:?}, plain {:?}",
                ours.0,
                theirs.0
            );
            if refuses {
                let was = rw(&m.mnt().join(name));
                fs::copy(m.mnt().join(name), m.plain().join(name)).expect("copy");
                drop(was);
                continue;
            }
            assert_eq!(ours.0, theirs.0, "{what}");
            assert!(ours.1 == theirs.1, "{what}: the bytes differ");
        }
    }
    m.assert_same_trees();
}

#[test]
fn holes_are_found_and_kept() {
    if !need_mount() {
        return;
    }
    let mut m = Mounted::new(fill);
    let walk = |path: &Path| {
        let file = rw(path);
        let mut at = 0;
        let mut found = Vec::new();
        while let Ok(data) = rustix::fs::seek(&file, SeekFrom::Data(at)) {
            let hole = rustix::fs::seek(&file, SeekFrom::Hole(data)).expect("SEEK_HOLE");
            found.push((data, hole));
            at = hole;
        }
        found
    };
    for (name, _) in SIZES {
        for name in [name.to_owned(), format!("{name}-sparse")] {
            m.same(|dir| (name.clone(), walk(&dir.join(&name))));
            m.same(|dir| {
                let path = dir.join(&name);
                rw(&path)
                    .write_all_at(&pattern(9, 4096), 12 * BLOCK)
                    .expect("write");
                (name.clone(), walk(&path))
            });
            m.same(|dir| {
                let path = dir.join(&name);
                let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(rw(&path), how, 4 * BLOCK, 2 * BLOCK).expect("punch");
                (name.clone(), walk(&path))
            });
            m.same(|dir| {
                let path = dir.join(&name);
                let file = rw(&path);
                let len = file.metadata().expect("stat").len();
                file.set_len(len + 4 * BLOCK).expect("extend");
                file.set_len(len + 8 * BLOCK).expect("extend");
                (name.clone(), walk(&path))
            });
        }
    }
    // A hole that was copied up takes no space.
    let meta = fs::metadata(m.mnt().join("small-sparse")).expect("stat");
    assert!(
        meta.blocks() * 512 <= 16 * BLOCK,
        "{} blocks",
        meta.blocks()
    );
    m.assert_same_trees();
}

#[test]
fn cut_and_grown_again_reads_zeros() {
    if !need_mount() {
        return;
    }
    let mut m = Mounted::new(fill);
    for name in ["small", "large", "new"] {
        for keep_open in [false, true] {
            let bytes = m.agreed(|dir| {
                let path = dir.join(name);
                let file = rw(&path);
                let keep = keep_open.then(|| rw(&path));
                file.write_all_at(&pattern(6, 9000), 0).expect("write");
                file.set_len(5001).expect("cut");
                file.set_len(20_000).expect("grow");
                file.write_all_at(b"end", 30_000)
                    .expect("write behind the end");
                if let Some(other) = keep {
                    other.set_len(30_001).expect("cut");
                }
                nix::unistd::truncate(&path, 40_000).expect("grow");
                fs::read(&path).expect("read")
            });
            assert!(bytes[5001..20_000].iter().all(|b| *b == 0));
        }
    }
    m.assert_same_trees();
}

#[test]
fn copies_within_the_file_system() {
    if !need_mount() {
        return;
    }
    let mut m = Mounted::new(fill);
    for (name, size) in SIZES {
        let second = format!("{name}-2");
        for (from, to) in [
            (name, second.as_str()),
            (name, "fresh"),
            (name, name),
            ("fresh", name),
        ] {
            m.same(|dir| {
                let (source, target) = (rw(&dir.join(from)), rw(&dir.join(to)));
                let mut said = Vec::new();
                let half = size as u64 / 2;
                for (mut at, mut to_at, len) in [
                    (100, half + 7, 5000),
                    (0, half, half as usize),
                    (half, size as u64 + 5000, size),
                    (size as u64 * 8, 0, 100),
                    (0, 10, 100),
                ] {
                    let mut left: usize = len;
                    let done = loop {
                        let copied = rustix::fs::copy_file_range(
                            &source,
                            Some(&mut at),
                            &target,
                            Some(&mut to_at),
                            left,
                        );
                        match copied {
                            Ok(0) => break Ok(len - left),
                            Ok(n) => left -= n,
                            Err(e) => break Err(e),
                        }
                        if left == 0 {
                            break Ok(len);
                        }
                    };
                    said.push((done, at, to_at));
                }
                (said, fs::read(dir.join(to)).expect("read").len())
            });
        }
    }
    m.assert_same_trees();
}
