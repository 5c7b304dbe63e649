//! Claims of fsd/SEMANTICS.md: the base and the branch.

use std::fs;

use agentfs_tests::cmd;
use agentfs_tests::need::{is_root, need_run};
use agentfs_tests::regime::promises;
use agentfs_tests::wait::until;
use agentfs_tests::{Manifest, Sandbox, base};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{LiveShell, claim, sh};

#[test]
fn s1_the_host_is_never_written() {
    claim(|sandbox| {
        let home = Manifest::of(&sandbox.home());
        sh(
            sandbox,
            "shopt -s dotglob; chmod -R u+rwx .; rm -rf -- *; touch ~/.gitconfig ~/x; mkdir a b",
        );
        home.assert_still();
    });
}

#[test]
fn s2_what_is_unchanged_is_the_hosts() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    base::small(&sandbox.work());
    sh(
        &sandbox,
        "cat file dir/one; echo mine > new; touch dir/sub/mine",
    );
    let work = sandbox.work();
    fs::write(work.join("file"), "the host's").expect("write");
    fs::write(work.join("dir/sub/later"), "made later").expect("write");
    fs::remove_file(work.join("dir/one")).expect("remove");
    let out = sh(
        &sandbox,
        "cat file; test ! -e dir/one; cat dir/sub/later new; test -e dir/sub/mine",
    );
    assert_eq!(out, "the host'smade latermine\n");
    a_live_branch_sees_the_host_whole(&sandbox);
    if promises("S2: an open file outlives its name on the host") {
        what_is_open_goes_on(&sandbox);
    }
}

/// Files that a run has open, or has looked at, while the host moves, removes and saves them anew.
fn what_is_open_goes_on(sandbox: &Sandbox) {
    sandbox.host_sh("for f in gone rotated saved; do echo base > $f; done");
    let mut run = LiveShell::start(sandbox);
    run.sh("cat gone rotated saved; exec 7<>gone 8<>rotated 9<>saved");
    sandbox.host_sh("rm gone; mv rotated rotated.1; echo anew > s; mv s saved");
    let out = run.sh(
        "for fd in 7 8 9; do echo later >&$fd; chmod 600 /proc/self/fd/$fd; done; \
        cat rotated.1 saved; stat -c %a rotated.1; test ! -e rotated",
    );
    assert_eq!(out, "later\nanew\n600\n");
    // By its name it is made, or is the one that has the name.
    assert_eq!(
        run.sh("echo mine > gone; echo more >> saved; cat gone saved"),
        "mine\nanew\nmore\n"
    );
    run.sh("exec 7<&- 8<&- 9<&-");
    run.end();
    let out = sh(sandbox, "cat gone rotated.1 saved");
    assert_eq!(out, "mine\nlater\nanew\nmore\n");
}

/// What the host does while a run is live shows or does not, but never in part or elsewhere.
fn a_live_branch_sees_the_host_whole(sandbox: &Sandbox) {
    sandbox.host_sh(
        "mkdir made moved gone; echo old | tee made/f moved/f > gone/f; printf 'aaaa\\n' > log",
    );
    let mut run = LiveShell::start(sandbox);
    let held = "cat made/f moved/f gone/f log; ls made moved gone > /dev/null; test ! -e later";
    assert_eq!(run.sh(held), "old\nold\nold\naaaa\n");
    sandbox.host_sh(
        "rm -r made; mkdir made; echo newer | tee made/f > made/new; \
        mv moved there; mkdir moved; echo other > moved/f; mv gone away; \
        echo bbbbbbbbbb >> log; echo host > later",
    );
    // Looked at by names that the run has held: a directory that was removed and made again.
    run.comes_to("ls made; cat made/f", "f\nnew\nnewer\n");
    // One that was moved, with another in its place, and one without.
    assert_eq!(
        run.sh("ls > /dev/null; echo changed > there/f; cat moved/f there/f"),
        "other\nchanged\n"
    );
    assert_eq!(run.sh("ls away; cat away/f; ls away/never"), {
        "f\nold\nls: cannot access 'away/never': No such file or directory\n"
    });
    // A file that came, and one that grew.
    assert_eq!(run.sh("echo mine >> later; cat later"), "host\nmine\n");
    if !promises("S2: a file that grew is at once opened as long as it is") {
        run.comes_to("cat log", "aaaa\nbbbbbbbbbb\n");
    }
    assert_eq!(run.sh("echo X >> log; cat log"), "aaaa\nbbbbbbbbbb\nX\n");
    sandbox.host_sh("echo cccc >> made/f");
    run.comes_to("cat made/f", "newer\ncccc\n");
    run.end();
    assert_eq!(
        sh(sandbox, "cat made/f moved/f there/f away/f log later"),
        "newer\ncccc\nother\nchanged\nold\naaaa\nbbbbbbbbbb\nX\nhost\nmine\n"
    );
}

#[test]
fn s3_what_is_changed_is_the_branchs() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    base::small(&sandbox.work());
    sh(
        &sandbox,
        "echo mine > file; rm empty; rm -r hollow; chmod 600 exec; mv dir moved",
    );
    let work = sandbox.work();
    for name in ["file", "empty", "hollow"] {
        let _ = fs::remove_dir(work.join(name));
        fs::write(work.join(name), "the host's").expect("write");
    }
    fs::create_dir(work.join("dir/later")).expect("mkdir");
    let out = sh(
        &sandbox,
        "cat file; test ! -e empty; test ! -e hollow; test ! -e dir; cat moved/one; stat -c %a exec",
    );
    assert_eq!(out, "mine\n1600\n");
    bytes_of_the_host_come_with_their_time(&sandbox);
    what_the_branch_holds_open_stays_apart(&sandbox);
    links_that_the_branch_knows_stay(&sandbox);
}

fn bytes_of_the_host_come_with_their_time(sandbox: &Sandbox) {
    for save in ["echo v2 > exec", "echo version 3 > e; mv e exec"] {
        sandbox.host_sh(save);
        let look = "cat exec; stat -c %y exec";
        assert_eq!(sh(sandbox, look), sandbox.host_sh(look).out());
    }
    assert_eq!(sh(sandbox, "stat -c %a exec"), "600\n");
}

/// A file that is unlinked and open, to which the host gives a name again.
fn what_the_branch_holds_open_stays_apart(sandbox: &Sandbox) {
    sandbox.host_sh("echo base > held");
    let mut run = LiveShell::start(sandbox);
    run.sh("exec 7<held; rm held");
    sandbox.host_sh("mv held again");
    let out = run.sh("stat -c %h again; echo data > again; cat <&7; exec 7<&-");
    assert_eq!(out, "1\nbase\n");
    run.end();
    assert_eq!(sh(sandbox, "cat again"), "data\n");
}

/// Names of one file that were looked at before or after it was changed.
fn links_that_the_branch_knows_stay(sandbox: &Sandbox) {
    sandbox.host_sh("mkdir l; echo base > l/a; cd l; for n in b c d; do ln a $n; done");
    sh(
        sandbox,
        "cd l; stat a b c > /dev/null; rm a; echo data > b; stat d > /dev/null; echo data > b",
    );
    sandbox.host_sh("cd l; rm a b; echo host > new; mv new c; rm d");
    assert_eq!(
        sh(sandbox, "cd l; cat b c d; ls"),
        "data\ndata\ndata\nb\nc\nd\n"
    );
}

#[test]
fn s4_branches_do_not_see_each_other() {
    claim(|sandbox| {
        sandbox
            .sh("one", "echo 1 > file; echo 1 > own; rm two")
            .ok();
        sandbox
            .sh(
                "two",
                "set -e; test ! -e own; test -e two; echo 2 > file; ls; cat file",
            )
            .ok();
        assert_eq!(
            sandbox.sh("one", "cat file; test ! -e two").ok().out(),
            "1\n"
        );
    });
}

#[test]
fn s5_what_was_answered_survives_the_daemon() {
    claim(|sandbox| {
        kill_daemon(
            sandbox,
            "for i in $(seq 50); do echo $i > n$i; done; sync -f n1; rm n50; mv dir d2",
        );
        assert_eq!(
            sh(sandbox, "cat n49; test ! -e n50; cat d2/one; ls n* | wc -l"),
            "49\n149\n"
        );
    });
}

#[test]
fn s6_without_the_daemon_everything_fails() {
    claim(|sandbox| {
        let out = kill_daemon(sandbox, "echo mine > file; cat file dir/one >/dev/null");
        assert!(!out.contains("hello, base"), "{out}");
        assert!(
            out.contains("failed: 107") || out.contains("failed: 103"),
            "{out}"
        );
    });
}

/// Runs `script`, kills the daemon under it, and returns what a look at the files then said.
fn kill_daemon(sandbox: &Sandbox, script: &str) -> String {
    let program = "import os, sys\nprint('ready', flush=True)\nsys.stdin.read()\n\
        try:\n    print(open('file').read(), os.listdir('dir'))\nexcept OSError as e:\n    print('failed:', e.errno)\n";
    let script = format!("set -e; {script}; exec /usr/bin/python3 -c \"$0\"");
    let mut command = sandbox.agentfs(&["run", "-q", "--branch", "b", "--", "bash", "-c"]);
    command
        .arg(script)
        .arg(program)
        .stdin(std::process::Stdio::piped());
    let mut run = cmd::start(&mut command);
    until("the script is done", || {
        run.stdout_now().ends_with(b"ready\n")
    });
    let daemons = sandbox.daemons();
    assert_eq!(daemons.len(), 1);
    kill(Pid::from_raw(daemons[0]), Signal::SIGKILL).expect("kill the daemon");
    until("the daemon is gone", || sandbox.daemons().is_empty());
    drop(run.child.stdin.take());
    run.wait().out()
}

#[test]
fn s31_the_base_is_read_with_the_users_rights() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.host_sh(
        "for f in sec gone over wo; do echo $f > $f; done; cp /usr/bin/true xo; \
        mkdir nx; echo s > nx/s; chmod 0 sec gone over nx; chmod 200 wo; chmod 111 xo",
    );
    let look = "stat -c '%n %a %s' sec gone over wo xo nx";
    let before = sandbox.host_sh(look).out();
    let out = sh(
        &sandbox,
        "exec 2>&1; chmod 600 sec wo; chmod 700 nx; \
        for c in 'cat sec' 'cat nx/s' 'ls nx' ./xo 'eval echo x >> wo'; do $c >/dev/null && echo y; done; true",
    );
    if is_root() {
        assert_eq!(out, "y\n".repeat(5));
    } else {
        assert_eq!(out.matches("Permission denied").count(), 5, "{out}");
    }
    let out = sh(
        &sandbox,
        "mv gone g; rm g; echo new > n; mv n over; cat over; mv nx moved; rm sec; echo > sec; \
        echo all > wo; cat wo",
    );
    assert_eq!(out, "new\nall\n");
    assert_eq!(sandbox.host_sh(look).out(), before);
}
