//! A mount of several branches: which process sees which, and that none sees another's.

#[path = "control_plane/binding.rs"]
mod binding;
#[path = "control_plane/directories.rs"]
mod directories;
#[path = "control_plane/refused.rs"]
mod refused;
#[path = "control_plane/rights.rs"]
mod rights;

use std::fs;
use std::path::Path;

use agentfs_tests::mounted::need_any_mount;
use agentfs_tests::{Several, cmd, wait};

/// A small base.
fn fill(dir: &Path) {
    fs::create_dir_all(dir.join("dir/sub")).expect("mkdir");
    fs::write(dir.join("file"), "base\n").expect("write");
    fs::write(dir.join("dir/sub/deep"), "deep\n").expect("write");
}

#[test]
fn two_bound_shells_diverge_after_a_snapshot() {
    if !need_any_mount() {
        return;
    }
    let several = Several::new(fill);
    let mut main = several.bound(&several.default_branch());
    main.ok("cd $M; echo before > file; echo new > made");
    let made = several.json(&["snapshot-create", "--name", "demo"]);
    let (point, id) = (made["snapshot"].as_str(), made["id"].as_str());
    let (point, id) = (point.expect("a name"), id.expect("an id"));
    assert_eq!(point, format!("{}@demo", several.default_branch()));
    // Both names of the snapshot will do.
    for (name, snapshot) in [("left", point), ("right", id)] {
        let args = ["branch-create", "--snapshot", snapshot, "--name", name];
        assert_eq!(several.json(&args)["branch"], name);
    }
    main.ok("echo after > file");
    let mut left = several.bound("left");
    let right_id = several.json(&["branch-list"])["branches"]
        .as_array()
        .and_then(|all| all.iter().find(|b| b["name"] == "right"))
        .map(|b| b["id"].as_str().expect("an id").to_owned())
        .expect("right is listed");
    let mut right = several.bound(&right_id);
    for shell in [&mut left, &mut right] {
        shell.ok("cd $M");
        assert_eq!(shell.ok("cat file made"), "before\nnew");
    }
    left.ok("echo left > file; mkdir -p dir/l; echo l > dir/l/x; rm made");
    right.ok("echo right > file; echo r > dir/r; chmod 600 made");
    assert_eq!(
        left.ok("cat file; ls . dir"),
        "left\n.:\ndir\nfile\n\ndir:\nl\nsub"
    );
    assert_eq!(
        right.ok("cat file; ls . dir"),
        "right\n.:\ndir\nfile\nmade\n\ndir:\nr\nsub"
    );
    assert_eq!(
        main.ok("cat file; ls . dir"),
        "after\n.:\ndir\nfile\nmade\n\ndir:\nsub"
    );
    // Again and again, by turns: nothing is kept for the wrong one.
    for i in 0..20 {
        left.ok(&format!(
            "echo left{i} > file; touch dir/same; echo {i} > dir/same"
        ));
        assert_eq!(right.ok("cat file; ls dir"), "right\nr\nsub");
        assert_eq!(left.ok("cat file dir/same"), format!("left{i}\n{i}"));
        assert_eq!(main.ok("cat file"), "after");
    }
    let status = several.json(&["status"]);
    assert_eq!(status["shared"], true);
    let bound = status["bound"].as_array().expect("a list");
    for (branch, shell) in [("left", &left), ("right", &right)] {
        let has = |b: &&serde_json::Value| b["branch"] == branch && b["pid"] == shell.pid();
        assert_eq!(bound.iter().filter(has).count(), 1, "{status}");
    }
    assert_eq!(
        several
            .control(&["snapshot-list"])
            .ok()
            .out()
            .lines()
            .count(),
        2
    );
}

#[test]
fn everything_is_there_after_unmount_and_remount() {
    if !need_any_mount() {
        return;
    }
    let mut several = Several::new(fill);
    several.branches(&["one", "two"]);
    let main = several.default_branch();
    for branch in [main.as_str(), "one", "two"] {
        let mut shell = several.bound(branch);
        shell.ok(&format!(
            "cd $M; echo {branch} > file; mkdir d; echo {branch} > d/f; ln d/f d/g; mv dir moved"
        ));
    }
    let numbers = |several: &Several, branch: &str| {
        let mut shell = several.bound(branch);
        shell.ok("cd $M; stat -c '%n %i %h' . file d d/f d/g moved moved/sub moved/sub/deep")
    };
    let before = ["one", "two"].map(|branch| numbers(&several, branch));
    several.umount();
    several.mount();
    assert_eq!(several.default_branch(), main, "the same default branch");
    for branch in [main.as_str(), "one", "two"] {
        let mut shell = several.bound(branch);
        let said = shell.ok("cd $M; cat file d/f d/g moved/sub/deep; ls");
        assert_eq!(
            said,
            format!("{branch}\n{branch}\n{branch}\ndeep\nd\nfile\nmoved")
        );
    }
    let after = ["one", "two"].map(|branch| numbers(&several, branch));
    let files = |text: &str| -> Vec<String> {
        let is_file = |line: &&str| line.contains("file") || line.contains('/');
        text.lines()
            .filter(is_file)
            .filter(|l| !l.contains("sub "))
            .map(str::to_owned)
            .collect()
    };
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(files(before), files(after), "numbers of files stay");
    }
    let listed = several.sandbox.rows();
    assert_eq!(listed.len(), 3, "{listed:?}");
}

#[test]
fn the_ordinary_commands_work_on_branches_that_the_mount_holds() {
    if !need_any_mount() {
        return;
    }
    let several = Several::new(fill);
    several.branches(&["held"]);
    let mut shell = several.bound("held");
    shell.ok("cd $M; echo v1 > file");
    let call = |args: &[&str]| several.sandbox.call(args);
    assert_eq!(call(&["snapshot", "create", "held"]).ok().out(), "held@1\n");
    shell.ok("echo v2 > file");
    call(&["branch", "create", "live", "--from", "held"]).ok();
    call(&["branch", "create", "frozen", "--from", "held@1"]).ok();
    for (branch, holds) in [("live", "v2"), ("frozen", "v1")] {
        assert_eq!(several.bound(branch).ok("cat $M/file"), holds);
    }
    let diff = call(&["diff", "held"]).ok().out();
    assert!(diff.contains("+v2"), "{diff}");
    let mounted = several.mnt().display().to_string();
    let run = cmd::run(
        several
            .sandbox
            .agentfs(&["run", "--branch", "held", "--", "true"])
            .current_dir(several.base()),
    );
    run.expect(125).says(&["is mounted at", &mounted]);
    call(&["rm", "held"]).expect(125);
    call(&["restore", "held", "1"]).expect(125);
    // A further mount of it is refused, and so is binding to what another mount holds.
    let other = several.sandbox.root().join("other");
    fs::create_dir(&other).expect("mkdir");
    let mount = |branch: &str| {
        agentfs_tests::mounted::mount(&several.sandbox, branch, &other, &several.base(), "rw")
    };
    mount("held").expect(125).says(&["is live"]);
    call(&["branch", "create", "elsewhere", "--from", "held@1"]).ok();
    mount("elsewhere").ok();
    let pid = shell.pid().to_string();
    several
        .control(&["branch-bind", "--branch", "elsewhere", "--pid", &pid])
        .expect(125)
        .says(&["elsewhere"]);
    assert_eq!(shell.ok("cat file"), "v2", "it stays where it was");
    agentfs_tests::mounted::umount(&several.sandbox, &other);
    several.bind("elsewhere", shell.pid());
    assert_eq!(shell.ok("cat file"), "v1");
}

#[test]
fn a_killed_daemon_loses_nothing_and_gives_nobody_anything() {
    if !need_any_mount() {
        return;
    }
    let mut several = Several::new(fill);
    several.branches(&["one", "two"]);
    let daemon = several.json(&["status"])["daemon"].as_i64().expect("a pid");
    let mut shells = ["one", "two"].map(|branch| several.bound(branch));
    for (i, shell) in shells.iter_mut().enumerate() {
        shell.ok(&format!(
            "cd $M; for n in $(seq 50); do echo {i}.$n > f$n; done; exec 3<>file; echo open{i} >&3"
        ));
    }
    let pid = nix::unistd::Pid::from_raw(i32::try_from(daemon).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("kill");
    wait::until("the daemon is gone", || {
        several.sandbox.daemons().is_empty()
    });
    for shell in &mut shells {
        shell.fails("cat file", "onnect");
        shell.fails("echo x > late", "onnect");
        shell.ok("exec 3<&-; cd /");
    }
    several
        .control(&["branch-list"])
        .expect(125)
        .says(&["no daemon", "fix:"]);
    several.umount();
    several.is_gone();
    several.mount();
    for (i, branch) in ["one", "two"].into_iter().enumerate() {
        let mut shell = several.bound(branch);
        assert_eq!(
            shell.ok("cd $M; cat f1 f50 file"),
            format!("{i}.1\n{i}.50\nopen{i}")
        );
        assert_eq!(shell.ok("ls | wc -l"), "52");
        several.sandbox.call(&["fsck", branch]).ok();
    }
}

#[test]
fn many_at_once_never_meet() {
    if !need_any_mount() {
        return;
    }
    let several = Several::new(|dir| {
        fill(dir);
        for i in 0..30 {
            fs::write(dir.join(format!("dir/f{i}")), "base").expect("write");
        }
    });
    let names = ["a", "b", "c", "d"];
    several.branches(&names);
    // The same names on all branches: written, moved, removed, made again.
    let script = several.sandbox.out().join("work.sh");
    let text = r#"
        is() { [ "$(cat "$1")" = "$2" ] || echo "$1 is not $2"; }
        for n in $(seq 40); do
            for i in 0 1 2 3 4; do echo $N$n >dir/f$i; done
            is dir/f0 $N$n; is dir/f4 $N$n
            mkdir -p x/y; echo $N >x/y/z; is x/y/z $N
            mv x w; is w/y/z $N
            mv dir dir2; is dir2/f1 $N$n; mv dir2 dir
            rm -r w
        done >errors-$N 2>&1
        [ ! -s errors-$N ] || { cat errors-$N; return 1; }
        rm errors-$N
    "#;
    fs::write(&script, text).expect("write");
    std::thread::scope(|scope| {
        for name in names {
            let mut shell = several.bound(name);
            let script = &script;
            scope.spawn(move || {
                shell.ok(&format!("cd $M; N={name}; . {}", script.display()));
                assert_eq!(shell.ok("cat dir/f3"), format!("{name}40"));
                assert_eq!(shell.ok("ls"), "dir\nfile");
            });
        }
    });
    let mut anybody = several.shell();
    assert_eq!(anybody.ok("cat $M/dir/f3"), "base");
    drop(anybody);
    for name in names {
        several.sandbox.call(&["fsck", name]).expect(0);
    }
}
