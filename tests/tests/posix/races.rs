//! What the kernel keeps of an inode while several threads change it and look at it. Such a race is
//! won or lost within microseconds, so each test goes through it some thousand times.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{RwLock, RwLockWriteGuard, mpsc};

use agentfs_tests::manifest::list;
use agentfs_tests::mounted::{Mounted, need_mount};
use agentfs_tests::wait::PATIENCE;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::{AtFlags, FallocateFlags, RenameFlags, StatxFlags, XattrFlags};

/// How often a link is made and removed.
const ROUNDS: u32 = 2000;

/// What the lookers go by.
#[derive(Default)]
struct Eyes {
    stop: AtomicBool,
    open: RwLock<()>,
}

impl Eyes {
    /// Waits until nobody looks; nobody does while the guard lives.
    fn shut(&self) -> RwLockWriteGuard<'_, ()> {
        self.open.write().expect("the work has not failed yet")
    }
}

/// Ends the lookers, also when the work panics.
struct StopGuard<'a>(&'a Eyes);

impl Drop for StopGuard<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// Does `work` while two threads `look` again and again.
fn under_eyes(look: &(dyn Fn() + Sync), work: impl FnOnce(&Eyes)) {
    let eyes = Eyes::default();
    std::thread::scope(|scope| {
        let _guard = StopGuard(&eyes);
        for _ in 0..2 {
            scope.spawn(|| {
                while !eyes.stop.load(Ordering::Relaxed) {
                    // Work that failed has its say elsewhere.
                    let Ok(_open) = eyes.open.read() else { return };
                    look();
                }
            });
        }
        work(&eyes);
    });
}

/// A file that keeps its name, and a name for a further link to it in another directory: the
/// kernel locks each directory by itself, so nothing keeps the lookers away from the file.
struct Linked {
    m: Mounted,
    file: PathBuf,
    link: PathBuf,
}

impl Linked {
    fn new() -> Self {
        let m = Mounted::new(|dir| {
            fs::create_dir(dir.join("kept")).expect("mkdir");
            fs::create_dir(dir.join("other")).expect("mkdir");
            fs::write(dir.join("kept/file"), b"kept").expect("write");
        });
        let (file, link) = (m.mnt().join("kept/file"), m.mnt().join("other/link"));
        Self { m, file, link }
    }

    /// Makes and removes a link to the file while others look at it.
    ///
    /// FUSE's client takes one off the count it keeps when a removal is answered, whatever it was
    /// told of the inode while it waited: told too early, it counts one removal twice. A file whose
    /// count is 0 gets no further link.
    fn come_and_go(&self, look: &(dyn Fn() + Sync), remove: impl Fn(&Path)) {
        under_eyes(look, |_| {
            for round in 0..ROUNDS {
                let made = fs::hard_link(&self.file, &self.link);
                assert!(made.is_ok(), "round {round}: {made:?}");
                assert_eq!(known_links(&self.file), 2, "linked, round {round}");
                remove(&self.link);
                assert_eq!(known_links(&self.file), 1, "removed, round {round}");
            }
        });
    }
}

/// The link count as the kernel has it, the file system not asked.
fn known_links(path: &Path) -> u32 {
    links(path, AtFlags::STATX_DONT_SYNC)
}

/// Has the file system asked for the attributes, whatever the kernel has.
fn ask(path: &Path) {
    links(path, AtFlags::STATX_FORCE_SYNC);
}

fn links(path: &Path, flags: AtFlags) -> u32 {
    let stat = rustix::fs::statx(rustix::fs::CWD, path, flags, StatxFlags::NLINK);
    stat.expect("statx").stx_nlink
}

fn unlink(path: &Path) {
    fs::remove_file(path).expect("unlink");
}

#[test]
fn a_removed_link_counts_once_while_others_stat_the_file() {
    if !need_mount() {
        return;
    }
    let t = Linked::new();
    t.come_and_go(&|| ask(&t.file), unlink);
}

#[test]
fn a_removed_link_counts_once_while_others_look_the_name_up() {
    if !need_mount() {
        return;
    }
    let t = Linked::new();
    // To make sure that it may make the file, the kernel looks it up whatever it knows.
    let make = || {
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&t.file);
        assert_eq!(
            made.expect_err("it is there").kind(),
            ErrorKind::AlreadyExists
        );
    };
    t.come_and_go(&make, unlink);
}

#[test]
fn a_removed_link_counts_once_while_others_list_the_directory() {
    if !need_mount() {
        return;
    }
    let t = Linked::new();
    let dir = t.m.mnt().join("kept");
    // Looked at one by one, so that the kernel goes on asking for attributes with the names.
    let look = || {
        for name in list(&dir).expect("list") {
            fs::metadata(dir.join(name)).expect("stat");
        }
    };
    t.come_and_go(&look, unlink);
}

#[test]
fn a_replaced_link_counts_once_while_others_stat_the_file() {
    if !need_mount() {
        return;
    }
    let t = Linked::new();
    let fresh = t.m.mnt().join("other/fresh");
    t.come_and_go(&|| ask(&t.file), |link| {
        fs::write(&fresh, b"fresh").expect("write");
        fs::rename(&fresh, link).expect("rename");
        unlink(link);
    });
}

/// Whether the kernel gives the attributes of a file by itself: with the daemon stopped.
fn is_known(m: &Mounted, path: &Path) -> bool {
    let daemon = Pid::from_raw(m.sandbox.daemons()[0]);
    let (say, said) = mpsc::channel();
    std::thread::scope(|scope| {
        kill(daemon, Signal::SIGSTOP).expect("stop the daemon");
        scope.spawn(move || say.send(fs::metadata(path).map(drop)));
        let answer = said.recv_timeout(PATIENCE);
        kill(daemon, Signal::SIGCONT).expect("let the daemon go on");
        answer.is_ok_and(|stat| stat.is_ok())
    })
}

/// Removes the further link of the file by `remove`, has `sign` show that the kernel is done with
/// it, and looks at the file once: then the kernel must know it.
fn assert_asked_for_once(t: &Linked, way: &str, remove: impl Fn(&Path), sign: impl Fn()) {
    fs::hard_link(&t.file, &t.link).expect("link");
    remove(&t.link);
    sign();
    fs::metadata(&t.file).expect("stat");
    assert!(is_known(&t.m, &t.file), "{way}");
}

// What is done against counting twice costs a request for each look at such a file. It must end,
// by whichever sign there is first that the kernel has counted.
#[test]
fn a_file_that_lost_a_link_is_asked_for_once() {
    if !need_mount() {
        return;
    }
    let t = Linked::new();
    // A thread that never asks anything again.
    let by_another = |path: &Path| {
        std::thread::scope(|scope| scope.spawn(|| unlink(path)).join().expect("unlink"));
    };
    assert_asked_for_once(&t, "its thread goes on", unlink, || {});
    assert_asked_for_once(&t, "its directory is read", by_another, || {
        list(t.link.parent().expect("a directory")).expect("list");
    });
    assert_asked_for_once(&t, "it gets another link", by_another, || {
        fs::hard_link(&t.file, t.m.mnt().join("again")).expect("link");
    });
}

/// Does `change` while others ask for the attributes of `looked_at`: then stat(2) must say of it
/// what the file system does.
///
/// The kernel asks again after most requests that change an inode. But an answer from before the
/// change may come to it later, and what it is told then it would keep.
fn assert_shows(looked_at: &Path, change: impl Fn(u32)) {
    under_eyes(&|| ask(looked_at), |eyes| {
        for round in 0..ROUNDS / 4 {
            // Times of change are as coarse as the kernel's clock.
            let before = said(looked_at, AtFlags::STATX_FORCE_SYNC).changed;
            while coarse_clock() <= before {
                std::thread::yield_now();
            }
            change(round);
            let _shut = eyes.shut();
            let known = said(looked_at, AtFlags::empty());
            let truth = said(looked_at, AtFlags::STATX_FORCE_SYNC);
            assert!(truth.changed > before, "round {round} changed nothing");
            assert_eq!(known, truth, "round {round}");
        }
    });
}

fn coarse_clock() -> (i64, u32) {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    (now.tv_sec, now.tv_nsec as u32)
}

/// What stat(2) says of a file that others may change.
#[derive(Debug, PartialEq)]
struct Said {
    changed: (i64, u32),
    modified: (i64, u32),
    size: u64,
    blocks: u64,
    links: u32,
}

fn said(path: &Path, flags: AtFlags) -> Said {
    let stat = rustix::fs::statx(rustix::fs::CWD, path, flags, StatxFlags::BASIC_STATS);
    let stat = stat.expect("statx");
    Said {
        changed: (stat.stx_ctime.tv_sec, stat.stx_ctime.tv_nsec),
        modified: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
        size: stat.stx_size,
        blocks: stat.stx_blocks,
        links: stat.stx_nlink,
    }
}

/// A mount with `dir/file`.
fn dir_and_file() -> Mounted {
    Mounted::new(|dir| {
        fs::create_dir(dir.join("dir")).expect("mkdir");
        fs::write(dir.join("dir/file"), b"file").expect("write");
    })
}

#[test]
fn names_made_and_removed_show_while_others_stat_the_directory() {
    if !need_mount() {
        return;
    }
    let m = dir_and_file();
    let dir = m.mnt().join("dir");
    let (new, sub, soft, hard) = (
        dir.join("new"),
        dir.join("sub"),
        dir.join("soft"),
        dir.join("hard"),
    );
    assert_shows(&dir, |round| match round % 8 {
        0 => fs::write(&new, b"new").expect("create"),
        1 => fs::remove_file(&new).expect("unlink"),
        2 => fs::create_dir(&sub).expect("mkdir"),
        3 => fs::remove_dir(&sub).expect("rmdir"),
        4 => std::os::unix::fs::symlink("to", &soft).expect("symlink"),
        5 => fs::remove_file(&soft).expect("unlink"),
        6 => fs::hard_link(dir.join("file"), &hard).expect("link"),
        _ => fs::remove_file(&hard).expect("unlink"),
    });
}

#[test]
fn moves_show_while_others_stat_either_directory() {
    if !need_mount() {
        return;
    }
    for looked_at in ["from", "to"] {
        let m = Mounted::new(|dir| {
            fs::create_dir_all(dir.join("from")).expect("mkdir");
            fs::create_dir_all(dir.join("to")).expect("mkdir");
            fs::write(dir.join("from/file"), b"file").expect("write");
        });
        let (from, to) = (m.mnt().join("from/file"), m.mnt().join("to/file"));
        assert_shows(&m.mnt().join(looked_at), |round| {
            let (from, to) = if round % 2 == 0 {
                (&from, &to)
            } else {
                (&to, &from)
            };
            fs::rename(from, to).expect("rename");
        });
    }
}

#[test]
fn a_move_shows_while_others_stat_what_is_moved() {
    if !need_mount() {
        return;
    }
    let m = dir_and_file();
    // By its descriptor: the name comes and goes.
    let moved = fs::File::open(m.mnt().join("dir/file")).expect("open");
    let by_fd = PathBuf::from(format!("/proc/self/fd/{}", moved.as_raw_fd()));
    let names = [m.mnt().join("dir/file"), m.mnt().join("dir/moved")];
    assert_shows(&by_fd, |round| {
        let (from, to) = (round as usize % 2, (round as usize + 1) % 2);
        fs::rename(&names[from], &names[to]).expect("rename");
    });
}

#[test]
fn an_exchange_shows_while_others_stat_what_was_there() {
    if !need_mount() {
        return;
    }
    let m = dir_and_file();
    fs::write(m.mnt().join("dir/second"), b"second").expect("write");
    let names = [m.mnt().join("dir/file"), m.mnt().join("dir/second")];
    let there = fs::File::open(&names[1]).expect("open");
    let by_fd = PathBuf::from(format!("/proc/self/fd/{}", there.as_raw_fd()));
    assert_shows(&by_fd, |_| {
        let (cwd, how) = (rustix::fs::CWD, RenameFlags::EXCHANGE);
        rustix::fs::renameat_with(cwd, &names[0], cwd, &names[1], how).expect("exchange");
    });
}

#[test]
fn attributes_set_and_removed_show_while_others_stat_the_file() {
    if !need_mount() {
        return;
    }
    let m = dir_and_file();
    let file = m.mnt().join("dir/file");
    assert_shows(&file, |round| {
        if round % 2 == 0 {
            let set = rustix::fs::setxattr(&file, "user.a", b"value", XattrFlags::empty());
            set.expect("setxattr");
        } else {
            rustix::fs::removexattr(&file, "user.a").expect("removexattr");
        }
    });
}

#[test]
fn holes_and_writes_show_while_others_stat_the_file() {
    if !need_mount() {
        return;
    }
    let m = dir_and_file();
    let path = m.mnt().join("dir/file");
    let file = OpenOptions::new().write(true).open(&path).expect("open");
    assert_shows(&path, |round| match round % 3 {
        0 => file.write_all_at(b"written", 0).expect("write"),
        1 => {
            let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&file, how, 0, 4).expect("punch");
        }
        _ => file.set_len(100 + u64::from(round)).expect("truncate"),
    });
}
