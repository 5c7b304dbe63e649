//! What was hidden from a run has no part in what `diff` and `diff | git apply` make of it.

use std::fs;
use std::os::unix::fs::MetadataExt;

use agentfs_tests::need::need_run;
use agentfs_tests::{Done, Manifest, Sandbox, bins, cmd};

/// A home directory that is a repository and the workspace, with secrets.
fn home() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.host_sh(
        "cd; mkdir -p .ssh .config/gh .config/app; echo KEY-SECRET > .ssh/id_ed25519; \
         echo TOKEN-SECRET > .config/gh/hosts.yml; echo plain > .config/app/conf; \
         echo NETRC-SECRET > .netrc; echo rc > .bashrc; git init -q",
    );
    sandbox
}

fn at_home(sandbox: &Sandbox, args: &[&str]) -> Done {
    cmd::run(sandbox.agentfs(args).current_dir(sandbox.home()))
}

fn run(sandbox: &Sandbox, branch: &str, script: &str) {
    let args = ["run", "-q", "--branch", branch, "--", "bash", "-c", script];
    at_home(sandbox, &args).ok();
}

/// `diff` in all its forms; none may tell a secret. The patch, and the names.
#[track_caller]
fn diffs(sandbox: &Sandbox, branch: &str) -> (Done, String) {
    for form in [
        &["--stat"][..],
        &["--json"],
        &["--all"],
        &["--all", "--stat"],
        &["--all", "--json"],
        &["--overwrite"],
    ] {
        let args: Vec<_> = ["diff", branch].iter().chain(form).copied().collect();
        let done = at_home(sandbox, &args).ok();
        assert!(!done.report().contains("SECRET"), "{}", done.report());
    }
    let names = at_home(sandbox, &["diff", branch, "--name-status"]).ok();
    let patch = at_home(sandbox, &["diff", branch]).ok();
    assert!(!patch.report().contains("SECRET"), "{}", patch.report());
    (patch, names.out())
}

fn land(sandbox: &Sandbox, branch: &str) {
    let agentfs = bins::agentfs();
    let script = format!("cd; '{}' diff {branch} | git apply", agentfs.display());
    sandbox.host_sh(&script);
}

/// The secrets, as they are on the host.
fn secrets(sandbox: &Sandbox) -> Vec<Option<Vec<u8>>> {
    [".ssh/id_ed25519", ".config/gh/hosts.yml", ".netrc"]
        .iter()
        .map(|name| fs::read(sandbox.home().join(name)).ok())
        .collect()
}

#[test]
fn what_a_branch_makes_at_a_hidden_place_deletes_and_shows_nothing() {
    if !need_run() {
        return;
    }
    let sandbox = home();
    let before = secrets(&sandbox);
    let script = "mkdir -p ~/.ssh && echo x >> ~/.ssh/known_hosts; echo mine > ~/.netrc; \
                  echo alias >> .bashrc";
    run(&sandbox, "dot", script);
    let (patch, names) = diffs(&sandbox, "dot");
    assert_eq!(names, "M\t.bashrc\n");
    patch.says(&[
        "not in the patch: 2 paths that were hidden from the run: .netrc, .ssh/known_hosts",
    ]);
    let json = at_home(&sandbox, &["diff", "dot", "--json"]).ok().out();
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["hidden"], 2, "{json}");
    assert_eq!(json["changes"].as_array().map(Vec::len), Some(1), "{json}");
    assert!(
        json["not_in_patch"]
            .to_string()
            .contains(".ssh/known_hosts")
    );
    let stat = at_home(&sandbox, &["diff", "dot", "--stat"]).ok();
    let stat = stat.says(&["not shown: 2 paths that were hidden from the run"]);
    assert!(stat.out().contains(" 1 file changed"), "{}", stat.report());
    assert_eq!(sandbox.row("dot")["changes"]["deleted"], 0);
    assert_eq!(sandbox.row("dot")["changes"]["added"], 0);
    // A path that is there, if only on the branch.
    at_home(&sandbox, &["diff", "dot", ".ssh/known_hosts"]).ok();
    land(&sandbox, "dot");
    assert_eq!(secrets(&sandbox), before);
    assert!(!sandbox.home().join(".ssh/known_hosts").exists());
    let rc = fs::read_to_string(sandbox.home().join(".bashrc")).expect("read");
    assert_eq!(rc, "rc\nalias\n");
}

#[test]
fn directories_above_hidden_files_can_be_removed_and_moved() {
    if !need_run() {
        return;
    }
    let cases = [
        ("rm -rf ~/.config", "D\t.config/app/conf\n"),
        ("mv ~/.config ~/c2", "R100\t.config/app/conf\tc2/app/conf\n"),
        (
            "rm -rf ~/.config; echo file > ~/.config",
            "D\t.config/app/conf\n",
        ),
    ];
    for (script, expected) in cases {
        let sandbox = home();
        let before = secrets(&sandbox);
        run(&sandbox, "b", script);
        let (patch, names) = diffs(&sandbox, "b");
        assert!(names.contains(expected), "{script}: {names}");
        assert!(!names.contains("hosts"), "{script}: {names}");
        if script.contains("echo") {
            patch.says(&["1 path that was hidden from the run: .config\n"]);
        }
        land(&sandbox, "b");
        assert_eq!(secrets(&sandbox), before, "{script}");
        let visible = sandbox.home().join(".config/app/conf");
        assert!(!visible.exists(), "{script}");
    }
}

#[test]
fn what_moved_to_a_hidden_place_stays_on_the_host() {
    if !need_run() {
        return;
    }
    let sandbox = home();
    sandbox.host_sh("cd; mkdir keys; echo only > keys/only; echo x > keys/more");
    run(&sandbox, "b", "mkdir -p .ssh; mv keys .ssh/");
    let (patch, _) = diffs(&sandbox, "b");
    patch.says(&["keys/only was moved to a place that was hidden from the branch's runs"]);
    land_nothing(&sandbox, "b");
    let read = "cat .ssh/keys/only";
    let args = ["run", "-q", "--branch", "b", "--", "bash", "-c", read];
    assert_eq!(at_home(&sandbox, &args).ok().out(), "only\n");
}

#[track_caller]
fn land_nothing(sandbox: &Sandbox, branch: &str) {
    let before = Manifest::of(&sandbox.home());
    assert_eq!(at_home(sandbox, &["diff", branch]).ok().out(), "");
    before.assert_still();
}

#[test]
fn all_runs_of_a_branch_and_of_those_below_it_count() {
    if !need_run() {
        return;
    }
    let sandbox = home();
    sandbox.host_sh(
        "cd; mkdir -p d/own/seen; echo OWN-SECRET > d/own/x; echo y > d/own/seen/y; echo z > d/z",
    );
    let own = sandbox.home().join("d/own").display().to_string();
    let seen = sandbox.home().join("d/own/seen").display().to_string();
    let run = |args: &[&str]| {
        at_home(&sandbox, args).ok();
    };
    let script = "mv d e; rm e/z; echo y2 >> e/own/seen/y";
    let hide = ["run", "-q", "--branch", "b", "--hide", &own, "--", "true"];
    run(&hide);
    let list = sandbox.store().join("branches/b/hidden.json");
    let noted = fs::metadata(&list).expect("the list");
    run(&hide);
    let again = fs::metadata(&list).expect("the list");
    assert_eq!(
        (noted.ino(), noted.mtime_nsec()),
        (again.ino(), again.mtime_nsec()),
        "no news"
    );
    run(&["run", "-q", "--branch", "b", "--", "rm", "-r", "d"]);
    run(&["run", "-q", "--branch", "c", "--from", "b", "--", "true"]);
    for branch in ["b", "c"] {
        let (_, names) = diffs(&sandbox, branch);
        assert_eq!(names, "D\td/z\n", "{branch}");
    }
    // Hidden but for a part of it, which can be changed.
    let args = [
        "run",
        "-q",
        "--branch",
        "p",
        "--hide",
        &own,
        "--cow",
        &seen,
        "--",
        "bash",
        "-c",
        "echo y2 >> d/own/seen/y; rm d/z",
    ];
    run(&args);
    let (_, names) = diffs(&sandbox, "p");
    assert_eq!(names, "M\td/own/seen/y\nD\td/z\n");
    let args = [
        "run", "-q", "--branch", "q", "--hide", &own, "--cow", &seen, "--", "bash", "-c", script,
    ];
    run(&args);
    let (_, names) = diffs(&sandbox, "q");
    assert!(!names.contains("own/x"), "{names}");
    sandbox.call(&["fsck"]).ok();
}

#[test]
fn a_list_that_cannot_be_read_stops_reviews_and_runs() {
    if !need_run() {
        return;
    }
    let sandbox = home();
    run(&sandbox, "b", "echo alias >> .bashrc");
    let list = sandbox.store().join("branches/b/hidden.json");
    let mut bytes = fs::read(&list).expect("the list");
    bytes[20] ^= 1;
    fs::write(&list, bytes).expect("write");
    at_home(&sandbox, &["diff", "b"])
        .expect(125)
        .says(&["hidden.json", "damaged"]);
    at_home(&sandbox, &["exec", "b", "--", "true"])
        .expect(125)
        .says(&["hidden.json"]);
    let found = sandbox.call(&["fsck"]).expect(1);
    assert!(found.out().contains("hidden.json"), "{}", found.report());
    sandbox.call(&["fsck", "--repair"]).expect(1);
    let refused = at_home(&sandbox, &["diff", "b"]).expect(125);
    refused.says(&["what was hidden from its runs", "--despite-loss"]);
    at_home(&sandbox, &["exec", "-q", "b", "--", "true"]).ok();
    let done = at_home(&sandbox, &["diff", "b", "--despite-loss"]).ok();
    assert!(done.out().contains("+alias"), "{}", done.report());
}

#[test]
fn between_two_points_too_nothing_leaves_for_a_hidden_place() {
    if !need_run() {
        return;
    }
    let sandbox = home();
    let before = secrets(&sandbox);
    run(
        &sandbox,
        "dot",
        "echo alias >> .bashrc; echo own > own; echo n > ~/.netrc",
    );
    at_home(&sandbox, &["snapshot", "create", "dot"]).ok();
    let script = "mkdir -p ~/.ssh; mv .bashrc ~/.ssh/rc; mv own ~/.ssh/own; echo m > ~/.netrc; \
                  echo shown > shown";
    run(&sandbox, "dot", script);
    for form in [&[][..], &["--stat"], &["--json"], &["--all", "--json"]] {
        for points in [["dot@1", "dot"], ["dot", "dot@1"]] {
            let args = [&["diff"][..], &points, form].concat();
            let done = at_home(&sandbox, &args).ok();
            assert!(!done.report().contains("SECRET"), "{}", done.report());
        }
    }
    let patch = at_home(&sandbox, &["diff", "dot@1", "dot"]).ok();
    let patch = patch.says(&[
        "3 paths that were hidden from the run: .netrc, .ssh/own, .ssh/rc",
        "own was moved to a place that was hidden",
        ".bashrc was moved to a place that was hidden",
    ]);
    let out = patch.out();
    assert!(out.contains("+shown") && !out.contains("deleted"), "{out}");
    assert_eq!(secrets(&sandbox), before);
}
