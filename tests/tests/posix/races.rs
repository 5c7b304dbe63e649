//! What the kernel keeps of an inode while several threads change it and look at it. Such a race is
//! won or lost within microseconds, so each test goes through it some thousand times.

use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

use agentfs_tests::manifest::list;
use agentfs_tests::mounted::{Mounted, need_mount};
use agentfs_tests::wait::PATIENCE;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::fs::{AtFlags, StatxFlags};

/// How often a link is made and removed.
const ROUNDS: u32 = 2000;

/// Ends the lookers, also when the work panics.
struct StopGuard<'a>(&'a AtomicBool);

impl Drop for StopGuard<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Does `work` while two threads `look` again and again.
fn under_eyes(look: &(dyn Fn() + Sync), work: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _guard = StopGuard(&stop);
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    look();
                }
            });
        }
        work();
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
        under_eyes(look, || {
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
