//! `agentfs mount` and `agentfs umount` themselves: again and again, at once, and refused.
//!
//! `AGENTFS_MOUNT_CYCLES` sets how often is again and again.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use agentfs_tests::mounted::{self, BRANCH, Mounted, likest, need_any_mount, need_mount};
use agentfs_tests::need::{self, is_root};
use agentfs_tests::regime::is_zero_open;
use agentfs_tests::{Done, Sandbox, bins, cmd, leak, wait};

fn fill(dir: &Path) {
    fs::write(dir.join("file"), b"of the base\n").expect("write");
}

fn cycles() -> u32 {
    let set = std::env::var("AGENTFS_MOUNT_CYCLES").ok();
    set.and_then(|n| n.parse().ok()).unwrap_or(10)
}

/// Descriptors of the process, by what they lead to.
fn open_files(pid: i32) -> Vec<String> {
    let dir = fs::read_dir(format!("/proc/{pid}/fd")).expect("the descriptors");
    let mut leads: Vec<_> = dir
        .flatten()
        .filter_map(|fd| fs::read_link(fd.path()).ok())
        .map(|to| to.display().to_string())
        .collect();
    leads.sort();
    leads
}

#[test]
fn cycles_leave_nothing_behind() {
    if !need_any_mount() {
        return;
    }
    let mut m = Mounted::new(fill);
    let mut settled = Vec::new();
    for cycle in 0..cycles() {
        let path = m.mnt().join(format!("file{}", cycle % 7));
        if cycle >= 7 {
            let was = fs::read_to_string(&path).expect("what an earlier cycle wrote");
            assert_eq!(was, format!("cycle {}", cycle - 7));
        }
        fs::write(&path, format!("cycle {cycle}")).expect("write");
        let own = fs::read(m.mnt().join("file")).expect("read");
        assert_eq!(own, b"of the base\n");
        let daemons = m.sandbox.daemons();
        assert_eq!(daemons.len(), 1, "one daemon a mount: {daemons:?}");
        // What is open once the file is closed is the same in each cycle, whatever came before.
        // (The descriptors of a user's daemon are closed to that user too.)
        if cycle >= 7 && is_root() {
            wait::until("the daemon lets go of what it had open", || {
                let now = open_files(daemons[0]).len();
                settled.first().is_none_or(|first| *first >= now)
            });
            settled.push(open_files(daemons[0]).len());
        }
        m.umount();
        let left = m.sandbox.daemons();
        assert!(left.is_empty(), "umount returned before {left:?} ended");
        assert!(leak::mounts_below(m.sandbox.root()).is_empty());
        m.mount(likest());
    }
}

#[test]
fn the_daemon_keeps_no_file_open_that_nobody_has_open() {
    if !need_mount() {
        return;
    }
    let m = Mounted::new(|dir| {
        for i in 0..200 {
            fs::write(dir.join(format!("f{i}")), b"base").expect("write");
        }
    });
    let touch = |kind: &str| {
        for i in 0..200 {
            let path = m.mnt().join(format!("{kind}{i}"));
            fs::write(&path, b"written").expect("write");
            assert_eq!(fs::read(&path).expect("read"), b"written");
        }
    };
    let daemon = m.sandbox.daemons()[0];
    touch("f");
    touch("g");
    wait::until("no more than a few files are open", || {
        open_files(daemon).len() < 64
    });
    let count = open_files(daemon).len();
    for _ in 0..3 {
        touch("f");
        touch("g");
    }
    wait::until("the number of open files does not grow", || {
        open_files(daemon).len() <= count + 8
    });
}

#[test]
fn a_mount_does_not_keep_the_file_size_limit_of_who_makes_it() {
    if !need_any_mount() {
        return;
    }
    let mut m = Mounted::new(fill);
    m.umount();
    // Files go past root's daemon where they are opened, and past its limit with that.
    let native = is_root() && !is_zero_open();
    for (limit, raised) in [
        ("-S -f 4", true),
        ("-f 4096", native || need::may_raise_limits()),
    ] {
        let mut plain = m.sandbox.agentfs(&["mount", BRANCH]);
        plain.arg(m.mnt()).arg("--base").arg(m.base());
        plain.args(["-o", likest()]);
        let mut limited = Command::new("bash");
        limited.args(["-c", &format!("ulimit {limit}; exec \"$0\" \"$@\"")]);
        limited.arg(plain.get_program()).args(plain.get_args());
        limited.env_clear().envs(
            plain
                .get_envs()
                .filter_map(|(name, value)| value.map(|value| (name, value))),
        );
        if let Some(dir) = plain.get_current_dir() {
            limited.current_dir(dir);
        }
        cmd::run(&mut limited).ok();
        let daemon = m.sandbox.daemons()[0];
        let status = fs::read_to_string(format!("/proc/{daemon}/status")).expect("status");
        let ignored = status
            .lines()
            .find_map(|line| line.strip_prefix("SigIgn:"))
            .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        let is_ignored = ignored.is_some_and(|mask| mask & 1 << (nix::libc::SIGXFSZ - 1) != 0);
        assert!(is_ignored, "{status}");
        // Past 4 KiB of journal, and past 4 MiB in one file.
        for i in 0..100 {
            fs::write(m.mnt().join(format!("f{i}")), b"some").expect("write");
        }
        let large = fs::write(m.mnt().join("large"), vec![1; 5 << 20]);
        match large {
            Ok(()) => assert!(raised),
            Err(error) => assert!(
                !raised && error.kind() == std::io::ErrorKind::FileTooLarge,
                "{error}"
            ),
        }
        fs::remove_file(m.mnt().join("f7")).expect("remove");
        fs::create_dir(m.mnt().join(limit)).expect("mkdir");
        assert_eq!(m.sandbox.daemons(), [daemon]);
        mounted::umount(&m.sandbox, &m.mnt());
    }
}

/// Who starts a daemon may be ended before the branch is made.
#[test]
fn the_daemon_ends_when_nobody_speaks_to_it() {
    let sandbox = Sandbox::new();
    let store = sandbox.root().join("none");
    let (ours, theirs) = UnixStream::pair().expect("a pair");
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty()).expect("inherited");
    let mut command = sandbox.host(bins::daemon());
    command.arg("--store").arg(&store).args(["--branch", "b"]);
    command.args(["--control-fd", &theirs.as_raw_fd().to_string()]);
    let daemon = cmd::start(&mut command);
    drop((ours, theirs));
    let done = daemon.wait().ok();
    assert_eq!(done.out(), "");
    assert!(!store.exists());
}

/// A refused mount: exit 125, these words, and nothing left of it.
fn refused(sandbox: &Sandbox, done: Done, words: &[&str]) {
    done.expect(125).says(words).says(&["\n  fix: "]);
    wait::until("no daemon is left", || sandbox.daemons().is_empty());
    assert_eq!(leak::mounts_below(sandbox.root()), Vec::<String>::new());
    assert!(sandbox.rows().is_empty(), "a refused mount made a branch");
}

#[test]
fn mounts_that_cannot_be_are_refused_and_leave_nothing() {
    if !need_any_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    let at = |name: &str| sandbox.root().join(name);
    for dir in ["base", "mnt"] {
        fs::create_dir(at(dir)).expect("mkdir");
    }
    fs::write(at("file"), b"").expect("write");
    let mount = |branch: &str, mnt: &str, base: &str, options: &str| {
        mounted::mount(&sandbox, branch, &at(mnt), &at(base), options)
    };
    refused(
        &sandbox,
        mount("b", "none", "base", "rw"),
        &["mount point", "none"],
    );
    refused(
        &sandbox,
        mount("b", "file", "base", "rw"),
        &["mount point", "not a directory"],
    );
    refused(&sandbox, mount("b", "mnt", "none", "rw"), &["base", "none"]);
    refused(
        &sandbox,
        mount("b", "mnt", "file", "rw"),
        &["base", "not a directory"],
    );
    refused(
        &sandbox,
        mount("b", "mnt", "base", "rw,nonsense"),
        &["nonsense", "known"],
    );
    refused(
        &sandbox,
        mount("b", "mnt", "base", "remount,ro"),
        &["no branch is mounted"],
    );
    // What is shown would lie below the mount itself.
    refused(
        &sandbox,
        mount("b", "base", "base", "rw"),
        &["covers", "base"],
    );
    fs::create_dir_all(at("mnt/below")).expect("mkdir");
    refused(
        &sandbox,
        mount("b", "mnt", "mnt/below", "rw"),
        &["covers", "below"],
    );
    fs::remove_dir(at("mnt/below")).expect("rmdir");
    let umount = |mnt: &str| cmd::run(sandbox.agentfs(&["umount"]).arg(at(mnt)));
    refused(&sandbox, umount("mnt"), &["no branch is mounted"]);
    refused(&sandbox, umount("none"), &["none"]);
    let name = mount("../b", "mnt", "base", "rw");
    assert!(name.code() == 125 || name.code() == 2, "{}", name.report());
    wait::until("no daemon is left", || sandbox.daemons().is_empty());
    // A store inside of itself.
    fs::create_dir_all(sandbox.store().join("x")).expect("mkdir");
    let done = mounted::mount(&sandbox, "b", &at("mnt"), &sandbox.store().join("x"), "rw");
    refused(&sandbox, done, &["store"]);
    // A daemon that cannot be started.
    let mut command = sandbox.agentfs(&["mount", "b"]);
    command.arg(at("mnt")).arg("--base").arg(at("base"));
    command.env("AGENTFS_FUSE_HOST_BIN", at("none"));
    refused(&sandbox, cmd::run(&mut command), &["none"]);
    // One that is told nonsense.
    let mut command = sandbox.agentfs(&["mount", "b"]);
    command.arg(at("mnt")).arg("--base").arg(at("base"));
    command.env("AGENTFS_FUSE_MAX_WRITE", "abc");
    let words = ["AGENTFS_FUSE_MAX_WRITE", "'abc'", "4096 to 16777216"];
    refused(&sandbox, cmd::run(&mut command), &words);
}

#[test]
fn a_branch_is_mounted_once() {
    if !need_any_mount() {
        return;
    }
    let mut m = Mounted::new(fill);
    let second = m.sandbox.root().join("second");
    fs::create_dir(&second).expect("mkdir");
    let done = mounted::mount(&m.sandbox, BRANCH, &second, &m.base(), likest());
    done.expect(125).says(&["live", "daemon"]);
    fs::write(m.mnt().join("file"), b"goes on").expect("write");
    // In use: refused, and it goes on.
    let open = fs::File::open(m.mnt().join("file")).expect("open");
    let done = cmd::run(m.sandbox.agentfs(&["umount"]).arg(m.mnt()));
    done.expect(125)
        .says(&["unmount", "fix: ", "agentfs umount --lazy"]);
    assert_eq!(fs::read(m.mnt().join("file")).expect("read"), b"goes on");
    drop(open);
    m.remount();
    assert_eq!(fs::read(m.mnt().join("file")).expect("read"), b"goes on");
}

#[test]
fn a_mount_is_not_covered_by_another() {
    if !need_any_mount() {
        return;
    }
    let mut m = Mounted::new(fill);
    let other = |m: &Mounted| mounted::mount(&m.sandbox, "other", &m.mnt(), &m.base(), likest());
    let words = [&format!("branch {BRANCH} is mounted there")[..], "umount"];
    other(&m).expect(125).says(&words);
    assert_eq!(m.sandbox.rows().len(), 1, "no branch is made");
    // Under a name of the user's own it is still one of ours.
    m.umount();
    m.mount("fsname=mine");
    other(&m)
        .expect(125)
        .says(&["mounted there", "'mine'", "umount"]);
    assert_eq!(leak::mounts_below(m.sandbox.root()).len(), 1);
    m.umount();
    m.mount(likest());
    if !is_root() {
        // The mount helper mounts nothing on a FUSE file system.
        return;
    }
    // A directory below another's mount is free.
    let below = m.mnt().join("below");
    fs::create_dir(&below).expect("mkdir");
    mounted::mount(&m.sandbox, "other", &below, &m.base(), likest()).ok();
    assert!(below.join("file").exists());
    mounted::umount(&m.sandbox, &below);
}

#[test]
fn one_of_many_branches_at_one_place_wins() {
    if !need_any_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    let (base, mnt) = (sandbox.root().join("base"), sandbox.root().join("mnt"));
    for dir in [&base, &mnt] {
        fs::create_dir(dir).expect("mkdir");
    }
    fill(&base);
    let done: Vec<Done> = std::thread::scope(|scope| {
        let start = |i| {
            let (sandbox, mnt, base) = (&sandbox, &mnt, &base);
            scope.spawn(move || mounted::mount(sandbox, &format!("b{i}"), mnt, base, likest()))
        };
        let all: Vec<_> = (0..6).map(start).collect();
        all.into_iter()
            .map(|t| t.join().expect("a mount"))
            .collect()
    });
    assert_eq!(leak::mounts_below(sandbox.root()).len(), 1);
    let (winners, losers): (Vec<_>, Vec<_>) = done.into_iter().partition(|d| d.code() == 0);
    assert_eq!(winners.len(), 1);
    for loser in losers {
        loser.expect(125).says(&["is mounted there"]);
    }
    assert_eq!(sandbox.rows().len(), 1, "who loses leaves no branch");
    mounted::umount(&sandbox, &mnt);
}

#[test]
fn a_killed_daemon_is_an_error_and_its_mount_can_be_taken_away() {
    if !need_any_mount() {
        return;
    }
    let mut m = Mounted::new(fill);
    fs::write(m.mnt().join("kept"), b"answered for").expect("write");
    // What the kernel has seen once it may answer for the dead daemon.
    let seen = |path: &Path| {
        let list = cmd::run(Command::new("ls").arg("-la").arg(path));
        list.code() == 0 && fs::metadata(path).is_ok()
    };
    assert!(seen(&m.mnt()));
    let daemon = m.sandbox.daemons()[0];
    let pid = nix::unistd::Pid::from_raw(daemon);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("kill");
    wait::until("the daemon is gone", || m.sandbox.daemons().is_empty());
    let error = fs::write(m.mnt().join("more"), b"x").expect_err("no daemon");
    let gone = [nix::libc::ENOTCONN, nix::libc::ECONNABORTED];
    assert!(
        error.raw_os_error().is_some_and(|e| gone.contains(&e)),
        "{error}"
    );
    for branch in [BRANCH, "other"] {
        let again = mounted::mount(&m.sandbox, branch, &m.mnt(), &m.base(), likest());
        again
            .expect(125)
            .says(&["daemon is gone", "agentfs umount"]);
    }
    assert_eq!(leak::mounts_below(m.sandbox.root()).len(), 1);
    let state = || m.sandbox.row(BRANCH)["state"].clone();
    let killed = state();
    cmd::run(m.sandbox.agentfs(&["umount"]).arg(m.mnt())).ok();
    assert_eq!(state(), killed, "no clean end is made of it");
    assert!(leak::mounts_below(m.sandbox.root()).is_empty());
    m.mount(likest());
    assert_eq!(
        fs::read(m.mnt().join("kept")).expect("read"),
        b"answered for"
    );
    assert!(!m.mnt().join("more").exists());
}

#[test]
fn many_branches_at_once() {
    if !need_any_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    let base = sandbox.root().join("base");
    fs::create_dir(&base).expect("mkdir");
    fill(&base);
    for round in 0..2 {
        std::thread::scope(|scope| {
            for i in 0..8 {
                let (sandbox, base) = (&sandbox, &base);
                scope.spawn(move || {
                    let (branch, mnt) = (format!("b{i}"), sandbox.root().join(format!("m{i}")));
                    if round == 0 {
                        fs::create_dir(&mnt).expect("mkdir");
                    }
                    mounted::mount(sandbox, &branch, &mnt, base, likest()).ok();
                    for file in 0..50 {
                        let (path, text) = (mnt.join(format!("{file}")), format!("{i} {file}"));
                        if round == 0 {
                            fs::write(path, text).expect("write");
                        } else {
                            assert_eq!(fs::read_to_string(path).expect("read"), text);
                        }
                    }
                    fs::write(mnt.join("file"), format!("of {i}")).expect("write");
                    mounted::umount(sandbox, &mnt);
                });
            }
        });
    }
    assert_eq!(fs::read(base.join("file")).expect("read"), b"of the base\n");
}

#[test]
fn one_of_many_mounts_of_a_branch_wins() {
    if !need_any_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    let at = |name: String| sandbox.root().join(name);
    fs::create_dir(at("base".into())).expect("mkdir");
    for i in 0..6 {
        fs::create_dir(at(format!("m{i}"))).expect("mkdir");
    }
    let base = &at("base".into());
    let codes: Vec<i32> = std::thread::scope(|scope| {
        let start = |i| {
            let (sandbox, mnt) = (&sandbox, at(format!("m{i}")));
            scope.spawn(move || mounted::mount(sandbox, "one", &mnt, base, likest()).code())
        };
        let all: Vec<_> = (0..6).map(start).collect();
        all.into_iter()
            .map(|t| t.join().expect("a mount"))
            .collect()
    });
    let winners: Vec<usize> = (0..6).filter(|i| codes[*i] == 0).collect();
    assert_eq!(winners.len(), 1, "{codes:?}");
    assert!(
        codes.iter().all(|code| [0, 125].contains(code)),
        "{codes:?}"
    );
    let won = at(format!("m{}", winners[0]));
    fs::write(won.join("x"), b"x").expect("write");
    assert_eq!(leak::mounts_below(sandbox.root()).len(), 1);
    mounted::umount(&sandbox, &won);
}

/// The first of two mounts makes the branch, and its daemon fails when the second one has mounted it.
#[test]
fn a_failed_mount_leaves_a_branch_to_those_who_use_it() {
    if !need_any_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    let at = |name: &str| sandbox.root().join(name);
    for name in ["base", "first", "second"] {
        fs::create_dir(at(name)).expect("mkdir");
    }
    let (begun, go, slow) = (at("begun"), at("go"), at("slow-daemon"));
    let script = format!(
        "#!/bin/sh\n: >'{}'\nwhile [ ! -e '{}' ]; do sleep 0.02; done\nexit 1\n",
        begun.display(),
        go.display()
    );
    fs::write(&slow, script).expect("write");
    fs::set_permissions(&slow, fs::Permissions::from_mode(0o755)).expect("chmod");
    let mut first = sandbox.agentfs(&["mount", "one"]);
    first.arg(at("first")).arg("--base").arg(at("base"));
    let first = cmd::start(first.env("AGENTFS_FUSE_HOST_BIN", &slow));
    wait::until("the first daemon began", || begun.exists());

    mounted::mount(&sandbox, "one", &at("second"), &at("base"), likest()).ok();
    fs::write(go, b"").expect("write");
    fs::write(at("second").join("x"), b"kept").expect("write");
    mounted::umount(&sandbox, &at("second"));
    first.wait().expect(125);

    mounted::mount(&sandbox, "one", &at("second"), &at("base"), likest()).ok();
    assert_eq!(fs::read(at("second").join("x")).expect("read"), b"kept");
    mounted::umount(&sandbox, &at("second"));
}

#[test]
fn remounts_change_what_may_be_done() {
    if !need_mount() {
        return;
    }
    let m = Mounted::new(fill);
    let path = m.mnt().join("file");
    let by_mount = |options: &str| {
        let mut command = Command::new("mount");
        cmd::run(command.args(["-i", "-o", options]).arg(m.mnt())).ok();
    };
    let by_us = |options: &str| {
        mounted::mount(&m.sandbox, BRANCH, &m.mnt(), &m.base(), options).ok();
    };
    // What mount(8) calls when the helper is installed: the launcher under another name.
    let by_helper = |options: &str| {
        let link = m.sandbox.out().join("mount.fuse.agentfs");
        if !link.exists() {
            std::os::unix::fs::symlink(agentfs_tests::bins::agentfs(), &link).expect("symlink");
        }
        let mut command = m.sandbox.host(&link);
        cmd::run(
            command
                .arg(format!("agentfs:{BRANCH}"))
                .arg(m.mnt())
                .args(["-o", options]),
        )
        .ok();
    };
    for remount in [&by_mount as &dyn Fn(&str), &by_us, &by_helper] {
        remount("remount,ro");
        let error = fs::write(&path, b"refused").expect_err("read-only");
        assert_eq!(error.raw_os_error(), Some(nix::libc::EROFS));
        remount("remount,rw");
        fs::write(&path, b"written").expect("writable again");
    }
}

#[test]
fn the_helper_mounts_as_fstab_would() {
    if !need_any_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    let at = |name: &str| sandbox.root().join(name);
    for dir in ["base", "mnt"] {
        fs::create_dir(at(dir)).expect("mkdir");
    }
    fill(&at("base"));
    let link = sandbox.out().join("mount.fuse.agentfs");
    std::os::unix::fs::symlink(agentfs_tests::bins::agentfs(), &link).expect("symlink");
    let options = format!(
        "rw,fsname=a name,base={},store={}",
        at("base").display(),
        sandbox.store().display()
    );
    let mut command = sandbox.host(&link);
    cmd::run(command.arg("fstab").arg(at("mnt")).args(["-o", &options])).ok();
    let table = leak::mounts_below(sandbox.root());
    assert!(
        table.len() == 1 && table[0].contains("a\\040name"),
        "{table:?}"
    );
    assert_eq!(
        fs::read(at("mnt").join("file")).expect("read"),
        b"of the base\n"
    );
    mounted::umount(&sandbox, &at("mnt"));
}

#[test]
fn root_only_options_are_refused_to_others() {
    if is_root() || !need_any_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    let at = |name: &str| sandbox.root().join(name);
    for dir in ["base", "mnt"] {
        fs::create_dir(at(dir)).expect("mkdir");
    }
    for option in ["suid", "dev"] {
        let done = mounted::mount(&sandbox, "b", &at("mnt"), &at("base"), option);
        refused(&sandbox, done, &["suid and dev", "are for root"]);
    }
    // The mount helper's own refusals come through: the place is not the caller's.
    let done = mounted::mount(&sandbox, "b", Path::new("/usr"), &at("base"), "rw");
    refused(&sandbox, done, &["/usr", "own the directory"]);
}

#[test]
fn a_mount_belongs_to_who_made_it() {
    if !need_any_mount() {
        return;
    }
    let mut m = Mounted::new(fill);
    m.umount();
    m.mount("ro,noexec,fsname=of mine");
    let table = fs::read("/proc/self/mounts").expect("the mounts");
    let table = String::from_utf8_lossy(&table);
    let mnt = m.mnt().display().to_string();
    let line = table.lines().find(|line| line.contains(&mnt));
    let line = line.expect("the mount").to_owned();
    let me = nix::unistd::geteuid();
    for word in [
        "of\\040mine ",
        " fuse.agentfs ro,",
        "nosuid",
        "nodev",
        "noexec",
        &format!("user_id={me}"),
    ] {
        assert!(line.contains(word), "{word}: {line}");
    }
    assert!(!line.contains("allow_other"), "{line}");
    let error = fs::write(m.mnt().join("file"), b"x").expect_err("read-only");
    assert_eq!(error.raw_os_error(), Some(nix::libc::EROFS));
}
