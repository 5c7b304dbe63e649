//! Listings that the kernel keeps: they cost no request, and nobody misses an entry for it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use agentfs_tests::mounted::{Mounted, need_mount};
use agentfs_tests::wait::PATIENCE;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Names that stay, in a directory too large for one page of the kernel's.
const STEADY: usize = 300;
/// What the kernel keeps of a listing it keeps in pages of 4096 bytes, an entry with a name of up to
/// eight bytes in 32 (linux/fuse.h, FUSE_DIRENT_SIZE). With so many, and the two dots, a page is full to
/// the last byte. Only then does it take a place that it does not find for the end of the directory.
const ONE_PAGE: usize = 126;
/// Listings that each reader makes.
const PASSES: usize = 1000;

/// The names in `dir`, read by pieces of `N` bytes.
fn listed<const N: usize>(dir: &Path) -> Vec<String> {
    let open = File::open(dir).expect("open");
    let mut space = [MaybeUninit::uninit(); N];
    let mut raw = rustix::fs::RawDir::new(&open, &mut space);
    let mut names = Vec::new();
    while let Some(entry) = raw.next() {
        let name = entry
            .expect("getdents")
            .file_name()
            .to_string_lossy()
            .into_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    names
}

/// The names in `dir` while the daemon is stopped; `None`: the kernel had to ask it.
fn known_names(m: &Mounted, dir: &Path) -> Option<usize> {
    let daemon = Pid::from_raw(m.sandbox.daemons()[0]);
    let (say, said) = mpsc::channel();
    std::thread::scope(|scope| {
        kill(daemon, Signal::SIGSTOP).expect("stop the daemon");
        scope.spawn(move || say.send(listed::<4096>(dir).len()));
        let answer = said.recv_timeout(PATIENCE / 4);
        kill(daemon, Signal::SIGCONT).expect("let the daemon go on");
        answer.ok()
    })
}

/// Whether the kernel lists `dir` by itself once it has seen these `names` in it. More than one try:
/// somebody else may have it drop its caches.
fn comes_to_know(m: &Mounted, dir: &Path, names: usize) -> bool {
    (0..3).any(|_| {
        assert_eq!(listed::<4096>(dir).len(), names);
        known_names(m, dir) == Some(names)
    })
}

#[test]
fn a_listing_seen_before_is_no_request_until_names_change() {
    if !need_mount() {
        return;
    }
    let mut m = Mounted::new(|dir| {
        fs::create_dir(dir.join("base")).expect("mkdir");
        for n in 0..STEADY {
            fs::write(dir.join(format!("base/{n}")), b"x").expect("write");
        }
    });
    m.umount();
    m.mount_with("AGENTFS_FUSE_ZERO_OPENDIR", "1");
    let (base, new) = (m.mnt().join("base"), m.mnt().join("new"));
    fs::create_dir(&new).expect("mkdir");
    fs::write(new.join("a"), b"x").expect("write");
    for (dir, names) in [(&base, STEADY), (&new, 1)] {
        assert!(comes_to_know(&m, dir, names), "{}", dir.display());
    }
    // What it has seen of it counts as long as the kernel refers to it.
    let _held = File::open(&base).expect("open");
    listed::<4096>(&base);
    // What is written to a file of the base takes no name away, and brings none.
    fs::write(base.join("7"), b"changed").expect("write");
    assert!(comes_to_know(&m, &base, STEADY), "a file was written");
    // From now on the kernel could send a reader astray, so it is to ask.
    fs::write(base.join("one more"), b"x").expect("write");
    assert_eq!(listed::<4096>(&base).len(), STEADY + 1);
    assert_eq!(known_names(&m, &base), None, "a name came");
    fs::remove_file(base.join("one more")).expect("unlink");
    assert_eq!(listed::<4096>(&base).len(), STEADY);
}

#[test]
fn what_the_host_changes_in_a_directory_is_in_the_next_listing() {
    if !need_mount() {
        return;
    }
    let mut m = Mounted::new(|dir| {
        fs::create_dir(dir.join("d")).expect("mkdir");
        for name in ["one", "two"] {
            fs::write(dir.join("d").join(name), b"x").expect("write");
        }
    });
    // Where nobody is asked, it is in the next but for a moment: tests/live_base.rs.
    m.umount();
    m.mount_with("AGENTFS_FUSE_ZERO_OPENDIR", "0");
    let (ours, theirs) = (m.mnt().join("d"), m.base().join("d"));
    for round in 0..20 {
        assert_eq!(listed::<4096>(&ours).len(), 2, "round {round}");
        fs::write(theirs.join("three"), b"x").expect("write");
        assert_eq!(listed::<4096>(&ours).len(), 3, "round {round}");
        fs::remove_file(theirs.join("three")).expect("remove");
    }
}

/// The names that come next from an open directory: `count`, and what comes along with them.
fn go_on(open: &File, count: usize) -> Vec<String> {
    let mut space = [MaybeUninit::uninit(); 512];
    let mut raw = rustix::fs::RawDir::new(open, &mut space);
    let mut names = Vec::new();
    while names.len() < count || !raw.is_buffer_empty() {
        let Some(entry) = raw.next() else { break };
        let entry = entry.expect("getdents");
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names
}

#[test]
fn a_reader_whose_place_goes_while_others_list_all_gets_the_rest() {
    if !need_mount() {
        return;
    }
    for zero_opendir in ["0", "1"] {
        let mut m = Mounted::new(|dir| {
            fs::create_dir(dir.join("d")).expect("mkdir");
            for n in 0..=ONE_PAGE {
                fs::write(dir.join(format!("d/{n}")), b"").expect("write");
            }
        });
        m.umount();
        m.mount_with("AGENTFS_FUSE_ZERO_OPENDIR", zero_opendir);
        let dir = m.mnt().join("d");
        // The kernel knows all of it, and a reader goes by that.
        assert_eq!(listed::<4096>(&dir).len(), ONE_PAGE + 1);
        let reader = File::open(&dir).expect("open");
        let mut names = go_on(&reader, ONE_PAGE / 3);
        let last = names.last().expect("some were read").clone();
        fs::remove_file(dir.join(&last)).expect("unlink");
        // What it would come to know now has no place of that name.
        assert_eq!(listed::<4096>(&dir).len(), ONE_PAGE);
        names.extend(go_on(&reader, usize::MAX));
        names.retain(|name| name != "." && name != "..");
        names.sort();
        names.dedup();
        assert_eq!(names.len(), ONE_PAGE + 1, "zero opendir: {zero_opendir}");
    }
}

#[test]
fn readers_side_by_side_miss_nothing_while_names_come_and_go() {
    if !need_mount() {
        return;
    }
    for by_host in [false, true] {
        let m = Mounted::new(|dir| {
            fs::create_dir(dir.join("d")).expect("mkdir");
            // With those that come and go there are now fewer, now more than fill a page.
            for n in 0..ONE_PAGE - 20 {
                fs::write(dir.join(format!("d/stay{n}")), b"").expect("write");
            }
        });
        let changed = if by_host { m.base() } else { m.mnt() };
        side_by_side(&m.mnt().join("d"), &changed.join("d"));
    }
}

/// Lists `dir` again and again while names come and go in `changed`.
fn side_by_side(dir: &Path, changed: &Path) {
    let read = || {
        let names = listed::<512>(dir);
        let mut counts: HashMap<&str, u32> = HashMap::new();
        for name in names.iter().filter(|name| name.starts_with("stay")) {
            *counts.entry(name).or_default() += 1;
        }
        assert_eq!(counts.len(), ONE_PAGE - 20, "some are missing");
        assert!(counts.values().all(|times| *times == 1), "some came twice");
    };
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let changes = scope.spawn(|| {
            let mut n = 0;
            while !done.load(Ordering::Relaxed) {
                let path = changed.join(format!("go{}", n % 40));
                match n / 40 % 2 {
                    0 => fs::write(&path, b"").expect("write"),
                    _ => fs::remove_file(&path).expect("unlink"),
                }
                n += 1;
            }
        });
        let readers: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| (0..PASSES).for_each(|_| read())))
            .collect();
        let ends: Vec<_> = readers.into_iter().map(|reader| reader.join()).collect();
        done.store(true, Ordering::Relaxed);
        changes.join().expect("the changes");
        assert!(ends.iter().all(Result::is_ok), "a reader missed an entry");
    });
}
