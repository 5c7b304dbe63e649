//! What the host does while a branch is mounted shows on it: names that come, go and lead elsewhere,
//! bytes and attributes; and what the branch has changed, or stands on, is left alone.
//!
//! It shows after some moments, so each test waits for it. With `AGENTFS_WATCHES=0` in the environment
//! nothing is told of, and nearly all of them fail.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

use agentfs_tests::cmd;
use agentfs_tests::mounted::{self, BRANCH, Mounted, likest, need_any_mount};
use agentfs_tests::regime;
use agentfs_tests::wait::until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How files are served: with and without opens.
const REGIMES: [&str; 2] = ["passthrough", "zero-open"];
/// The most often that the kernel is told of one thing.
const PACE: Duration = Duration::from_millis(10);

/// A branch over a base with this in it, once in each regime.
fn in_each(test: impl Fn(&Mounted)) {
    if !need_any_mount() {
        return;
    }
    for regime in REGIMES {
        let mut m = Mounted::new(fill);
        m.umount();
        m.mount_with(regime::VARIABLE, regime);
        test(&m);
        let daemons = m.sandbox.daemons();
        assert_eq!(daemons.len(), 1, "{regime}: the daemon lives");
    }
}

fn fill(dir: &Path) {
    for sub in ["d", "d/sub", "e"] {
        fs::create_dir(dir.join(sub)).expect("mkdir");
    }
    for name in ["d/one", "d/two", "d/sub/leaf", "e/file", "log", "saved"] {
        fs::write(dir.join(name), format!("{name}\n")).expect("write");
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("open the directory");
    let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut names: Vec<String> = entries.map(|e| name(e.expect("an entry"))).collect();
    names.sort();
    names
}

/// Waits until the directory has these names.
#[track_caller]
fn comes_to_list(dir: &Path, wanted: &[&str]) {
    // One that the host has just replaced cannot be listed by its old inode.
    let list = || fs::read_dir(dir).and_then(|list| list.collect::<Result<Vec<_>, _>>());
    until(&format!("{} has {wanted:?}", dir.display()), || {
        list().is_ok() && names(dir) == wanted
    });
}

#[track_caller]
fn comes_to_hold(file: &Path, wanted: &str) {
    until(&format!("{} holds {wanted:?}", file.display()), || {
        fs::read_to_string(file).is_ok_and(|text| text == wanted)
    });
}

/// Writes a file beside and moves it to its place, as editors and git do.
fn save(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).expect("write");
    fs::rename(&beside, path).expect("rename");
}

/// Returns when the kernel has been told of all that the host has done so far. Looked for in vain
/// before: these two names.
#[track_caller]
fn told_of_all(m: &Mounted, marks: [&str; 2]) {
    // The first may be told of along with the rest, and before it; the second is after all.
    for mark in marks {
        fs::write(m.base().join(mark), "x").expect("write");
        until("the mark shows", || m.mnt().join(mark).exists());
    }
}

#[test]
fn names_that_come_and_go_in_a_directory_that_was_listed() {
    in_each(|m| {
        let (ours, theirs) = (m.mnt().join("d"), m.base().join("d"));
        for _ in 0..2 {
            assert_eq!(names(&ours), ["one", "sub", "two"]);
        }
        fs::write(theirs.join("new"), "made\n").expect("write");
        comes_to_list(&ours, &["new", "one", "sub", "two"]);
        comes_to_hold(&ours.join("new"), "made\n");
        fs::remove_file(theirs.join("one")).expect("remove");
        comes_to_list(&ours, &["new", "sub", "two"]);
        until("one is gone", || !ours.join("one").exists());
        fs::rename(theirs.join("two"), theirs.join("three")).expect("rename");
        comes_to_list(&ours, &["new", "sub", "three"]);
        until("two is gone", || !ours.join("two").exists());
        assert_eq!(
            fs::read_to_string(ours.join("three")).expect("read"),
            "d/two\n"
        );
        let moved = m.base().join("d/sub");
        fs::rename(moved, m.base().join("e/sub")).expect("rename");
        comes_to_list(&ours, &["new", "three"]);
        comes_to_hold(&m.mnt().join("e/sub/leaf"), "d/sub/leaf\n");
    });
}

#[test]
fn names_that_were_looked_for_in_vain() {
    in_each(|m| {
        for name in ["d/later", "d/dir", "later"] {
            assert!(!m.mnt().join(name).exists());
        }
        fs::create_dir(m.base().join("d/dir")).expect("mkdir");
        fs::write(m.base().join("d/dir/in"), "in\n").expect("write");
        fs::write(m.base().join("d/later"), "later\n").expect("write");
        fs::hard_link(m.base().join("log"), m.base().join("later")).expect("link");
        comes_to_hold(&m.mnt().join("d/later"), "later\n");
        comes_to_hold(&m.mnt().join("d/dir/in"), "in\n");
        comes_to_hold(&m.mnt().join("later"), "log\n");
    });
}

#[test]
fn files_that_the_host_writes_and_saves() {
    in_each(|m| {
        let (ours, theirs) = (m.mnt(), m.base());
        let open = File::open(ours.join("log")).expect("open");
        let mut bytes = [0; 64];
        assert_eq!(open.read_at(&mut bytes, 0).expect("read"), 4);
        assert_eq!(fs::metadata(ours.join("d/one")).expect("stat").len(), 6);
        assert_eq!(
            fs::read_to_string(ours.join("saved")).expect("read"),
            "saved\n"
        );
        let append = |name: &str| OpenOptions::new().append(true).open(theirs.join(name));
        for name in ["log", "d/one"] {
            let mut file = append(name).expect("open");
            file.write_all(b"more\n").expect("append");
        }
        // Who has it open reads on, and who only looks sees its length.
        until("the reader gets what came", || {
            open.read_at(&mut bytes, 0).expect("read") == 9 && &bytes[..9] == b"log\nmore\n"
        });
        until("d/one is longer", || {
            fs::metadata(ours.join("d/one")).expect("stat").len() == 11
        });
        // As long as it was, with other bytes.
        fs::write(theirs.join("log"), "LOG\nMORE\n").expect("write");
        until("the reader gets other bytes", || {
            open.read_at(&mut bytes, 0).expect("read") == 9 && &bytes[..9] == b"LOG\nMORE\n"
        });
        save(&theirs.join("saved"), "anew\n");
        comes_to_hold(&ours.join("saved"), "anew\n");
        let closed = fs::Permissions::from_mode(0o600);
        fs::set_permissions(theirs.join("d/two"), closed).expect("chmod");
        until("d/two is closed", || {
            fs::metadata(ours.join("d/two")).expect("stat").mode() & 0o777 == 0o600
        });
        // And it can be written then, in the place where the host has its end.
        let mut file = OpenOptions::new().append(true).open(ours.join("d/one"));
        file.as_mut()
            .expect("open")
            .write_all(b"mine\n")
            .expect("append");
        drop(file);
        let text = fs::read_to_string(ours.join("d/one")).expect("read");
        assert_eq!(text, "d/one\nmore\nmine\n");
    });
}

#[test]
fn directories_that_the_host_replaces_and_removes() {
    in_each(|m| {
        let (ours, theirs) = (m.mnt(), m.base());
        assert_eq!(names(&ours.join("d")), ["one", "sub", "two"]);
        assert_eq!(names(&ours.join("d/sub")), ["leaf"]);
        assert_eq!(names(&ours.join("e")), ["file"]);
        fs::rename(theirs.join("e"), theirs.join("old")).expect("rename");
        fs::create_dir(theirs.join("e")).expect("mkdir");
        fs::write(theirs.join("e/other"), "other\n").expect("write");
        comes_to_list(&ours.join("e"), &["other"]);
        comes_to_list(&ours.join("old"), &["file"]);
        // What is done in the new one is told of, too.
        fs::write(theirs.join("e/more"), "more\n").expect("write");
        comes_to_list(&ours.join("e"), &["more", "other"]);
        // All of a tree, while it is being listed.
        let list = fs::read_dir(ours.join("d")).expect("open");
        fs::remove_dir_all(theirs.join("d")).expect("rm -r");
        for entry in list {
            // Each is there, or it is over.
            if entry.is_err() {
                break;
            }
        }
        until("d is gone", || !ours.join("d").exists());
        comes_to_list(&ours, &["e", "log", "old", "saved"]);
        fs::create_dir(theirs.join("d")).expect("mkdir");
        fs::write(theirs.join("d/again"), "again\n").expect("write");
        comes_to_list(&ours.join("d"), &["again"]);
    });
}

#[test]
fn what_the_branch_has_changed_stays_its_own() {
    in_each(|m| {
        let (ours, theirs) = (m.mnt(), m.base());
        let marks = ["mark1", "mark2"];
        assert!(marks.iter().all(|mark| !ours.join(mark).exists()));
        assert_eq!(names(&ours.join("d")), ["one", "sub", "two"]);
        fs::write(ours.join("d/one"), "mine\n").expect("write");
        fs::remove_file(ours.join("d/two")).expect("remove");
        fs::write(ours.join("d/made"), "mine\n").expect("write");
        fs::rename(ours.join("saved"), ours.join("d/moved")).expect("rename");
        let open = OpenOptions::new().append(true).open(ours.join("d/one"));
        let inode = fs::metadata(ours.join("d/one")).expect("stat").ino();
        save(&theirs.join("d/one"), "the host's\n");
        save(&theirs.join("d/two"), "the host's\n");
        fs::write(theirs.join("d/made"), "the host's\n").expect("write");
        save(&theirs.join("saved"), "the host's\n");
        told_of_all(m, marks);
        assert_eq!(names(&ours.join("d")), ["made", "moved", "one", "sub"]);
        for name in ["d/one", "d/made"] {
            assert_eq!(fs::read_to_string(ours.join(name)).expect("read"), "mine\n");
        }
        assert!(!ours.join("d/two").exists() && !ours.join("saved").exists());
        assert_eq!(fs::metadata(ours.join("d/one")).expect("stat").ino(), inode);
        open.expect("open").write_all(b"more\n").expect("append");
        let text = fs::read_to_string(ours.join("d/one")).expect("read");
        assert_eq!(text, "mine\nmore\n");
    });
}

/// What the daemon has written.
fn log(m: &Mounted) -> String {
    let store = m.sandbox.store();
    let log = store.join(format!("branches/{BRANCH}/fsd.log"));
    fs::read_to_string(log).expect("fsd.log")
}

/// How often the kernel was told something.
fn told(m: &Mounted) -> usize {
    let text = log(m);
    text.lines().filter(|line| line.contains("notice=")).count()
}

#[test]
fn a_storm_on_the_host_is_told_of_at_a_measured_pace() {
    if !need_any_mount() {
        return;
    }
    let mut m = Mounted::new(fill);
    m.umount();
    m.mount_with("AGENTFS_LOG", "info,agentfs::fresh=debug");
    until("the watching began", || log(&m).contains("is watched"));
    let path = m.mnt().join("log");
    let reader = File::open(&path).expect("open");
    let began = Instant::now();
    let mut file = File::create(m.base().join("log")).expect("open");
    let mut byte = [0];
    for n in 0..10_000 {
        file.write_all(b"x").expect("write");
        if n % 10 == 0 {
            // So that there is something to tell each time.
            reader.read_at(&mut byte, 0).expect("read");
            fs::metadata(&path).expect("stat");
        }
    }
    drop(file);
    until("all of it shows", || {
        fs::metadata(&path).expect("stat").len() == 10_000
    });
    let most = began.elapsed().as_millis() / PACE.as_millis() + 1;
    let told = told(&m);
    assert!(told >= 1, "nothing was told of");
    assert!(told as u128 <= most, "told {told} times, {most} at most");
}

#[test]
fn what_is_too_much_to_be_told_of_is_looked_for() {
    if !need_any_mount() {
        return;
    }
    let m = Mounted::new(fill);
    let (ours, theirs) = (m.mnt(), m.base());
    until("the watching began", || log(&m).contains("is watched"));
    for path in ["d/one", "d/sub/leaf", "e/file"] {
        fs::read_to_string(ours.join(path)).expect("read");
    }
    assert!(!ours.join("d/new").exists() && !ours.join("e/new").exists());
    assert_eq!(names(&ours.join("d")), ["one", "sub", "two"]);
    // Nobody takes the events of the host's kernel, and it does not keep that many.
    let kept = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").expect("its limit");
    let kept: u32 = kept.trim().parse().expect("a number");
    let daemon = Pid::from_raw(m.sandbox.daemons()[0]);
    kill(daemon, Signal::SIGSTOP).expect("stop the daemon");
    for n in 0..=kept / 2 {
        let path = theirs.join(format!("e/{}", n % 2));
        fs::write(&path, "x").expect("write");
        fs::remove_file(&path).expect("remove");
    }
    for name in ["d/one", "d/sub/leaf"] {
        fs::write(theirs.join(name), "written later\n").expect("write");
    }
    save(&theirs.join("e/file"), "saved later\n");
    fs::remove_file(theirs.join("d/two")).expect("remove");
    fs::write(theirs.join("d/new"), "new\n").expect("write");
    fs::write(theirs.join("e/new"), "new\n").expect("write");
    kill(daemon, Signal::SIGCONT).expect("let it go on");
    for name in ["d/one", "d/sub/leaf"] {
        comes_to_hold(&ours.join(name), "written later\n");
    }
    comes_to_hold(&ours.join("e/file"), "saved later\n");
    comes_to_hold(&ours.join("d/new"), "new\n");
    comes_to_hold(&ours.join("e/new"), "new\n");
    comes_to_list(&ours.join("d"), &["new", "one", "sub"]);
    assert!(log(&m).contains("more changes than are told of"));
}

#[test]
fn without_room_for_watches_the_branch_works_all_the_same() {
    if !need_any_mount() {
        return;
    }
    for most in ["0", "1", "2"] {
        let mut m = Mounted::new(fill);
        m.umount();
        m.mount_with("AGENTFS_WATCHES", most);
        if most != "0" {
            until("the watching began", || log(&m).contains("is watched"));
        }
        assert_eq!(names(&m.mnt().join("d")), ["one", "sub", "two"]);
        assert_eq!(names(&m.mnt().join("d/sub")), ["leaf"]);
        fs::write(m.base().join("d/sub/new"), "new\n").expect("write");
        fs::write(m.mnt().join("d/sub/mine"), "mine\n").expect("write");
        assert!(names(&m.mnt().join("d/sub")).contains(&"mine".to_owned()));
        // The next mount shows it at the latest.
        m.umount();
        m.mount(likest());
        assert_eq!(names(&m.mnt().join("d/sub")), ["leaf", "mine", "new"]);
    }
}

/// Asking how much there is to copy must not pass for having told the kernel.
#[test]
fn a_copy_finds_out_that_the_host_has_made_a_file_longer() {
    if !need_any_mount() {
        return;
    }
    let mut m = Mounted::new(fill);
    m.umount();
    let mut command = m.sandbox.agentfs(&["mount", BRANCH]);
    command.arg(m.mnt()).arg("--base").arg(m.base());
    command.args(["-o", likest()]).env("AGENTFS_WATCHES", "0");
    cmd::run(command.env(regime::VARIABLE, "zero-open")).ok();
    let (file, copy) = (m.mnt().join("log"), m.mnt().join("copy"));
    assert_eq!(fs::metadata(&file).expect("stat").len(), 4);
    let mut host = OpenOptions::new()
        .append(true)
        .open(m.base().join("log"))
        .expect("open");
    host.write_all(b"longer\n").expect("append");
    // Nobody tells of it, and nobody has asked for its bytes: the copy is who comes to know.
    fs::copy(&file, &copy).expect("copy");
    comes_to_hold(&file, "log\nlonger\n");
    fs::remove_file(&copy).expect("remove");
    mounted::umount(&m.sandbox, &m.mnt());
    m.mount(likest());
}
