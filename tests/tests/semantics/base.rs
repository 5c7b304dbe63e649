//! Claims of fsd/SEMANTICS.md: the base and the branch.

use std::fs;

use agentfs_tests::cmd;
use agentfs_tests::need::{is_root, need_run};
use agentfs_tests::wait::until;
use agentfs_tests::{Manifest, Sandbox, base};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{claim, sh};

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
