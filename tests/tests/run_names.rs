//! Places whose names are not UTF-8: a run, a re-entry, a mount, a review, and what is printed.
//!
//! The name has a backslash and an escape in it too, which no encoding of names may mistake.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use agentfs_tests::mounted::{likest, need_any_mount};
use agentfs_tests::need::need_run;
use agentfs_tests::{Done, Manifest, Sandbox, cmd, leak, mounted, wait};
use serde_json::Value;

const NAME: &[u8] = b"w\xff\\x41\\ \x07d";

/// A directory of that name, with a file.
fn odd_dir(sandbox: &Sandbox) -> PathBuf {
    let dir = sandbox.root().join(OsStr::from_bytes(NAME));
    fs::create_dir(&dir).expect("mkdir");
    fs::write(dir.join("file"), "of the base\n").expect("write");
    dir
}

fn call_in(sandbox: &Sandbox, dir: &Path, args: &[&str]) -> Done {
    cmd::run(sandbox.agentfs(args).current_dir(dir))
}

fn line(path: &Path) -> Vec<u8> {
    [path.as_os_str().as_bytes(), b"\n"].concat()
}

fn json(done: &Done) -> Value {
    serde_json::from_slice(&done.stdout).unwrap_or_else(|e| panic!("{e}\n{}", done.report()))
}

/// What `base64 -d` makes of a field.
fn decoded(sandbox: &Sandbox, field: &Value) -> OsString {
    let text = field.as_str().unwrap_or_else(|| panic!("no text: {field}"));
    let done = sandbox.host_sh(&format!("printf %s '{text}' | base64 -d"));
    OsString::from_vec(done.stdout)
}

#[test]
fn a_run_is_entered_joined_and_reviewed() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let dir = odd_dir(&sandbox);
    let before = Manifest::of(&dir);
    let script = "pwd; cat file; echo new > made; echo more >> file";
    let done = call_in(
        &sandbox,
        &dir,
        &["run", "-b", "b", "--", "sh", "-c", script],
    )
    .ok();
    let expected = [&line(&dir)[..], b"of the base\n"].concat();
    assert_eq!(done.stdout, expected, "{}", done.report());

    // Again from there, and from elsewhere: an exec starts in the branch's workspace.
    let args = ["run", "-q", "-b", "b", "--", "cat", "made", "file"];
    let done = call_in(&sandbox, &dir, &args).ok();
    assert_eq!(done.out(), "new\nof the base\nmore\n");
    let done = sandbox.sh("b", "pwd").ok();
    assert_eq!(done.out(), format!("{}\n", sandbox.work().display()));

    // A live run is joined.
    let stop = sandbox.out().join("stop");
    let script = format!(
        "echo up; while [ ! -e '{}' ]; do sleep 0.05; done; cat late",
        stop.display()
    );
    let mut command = sandbox.agentfs(&["run", "-q", "-b", "b", "--rw"]);
    command.arg(sandbox.out()).args(["--", "sh", "-c", &script]);
    let run = cmd::start(command.current_dir(&dir).stdin(Stdio::null()));
    wait::until("the run is up", || run.stdout_now() == b"up\n");
    call_in(
        &sandbox,
        &dir,
        &["exec", "-q", "b", "--", "sh", "-c", "echo 1 > late"],
    )
    .ok();
    fs::write(stop, "").expect("stop");
    assert_eq!(run.wait().ok().out(), "up\n1\n");
    call_in(
        &sandbox,
        &dir,
        &["run", "-q", "-b", "b", "--", "rm", "late"],
    )
    .ok();

    let row = sandbox.row("b");
    assert_eq!(decoded(&sandbox, &row["workspace_b64"]), dir);
    assert_eq!(row["changes"]["added"], 1, "{row}");
    let done = sandbox.call(&["diff", "b", "--json"]).ok();
    assert_eq!(decoded(&sandbox, &json(&done)["top_b64"]), dir);
    let done = call_in(&sandbox, &dir, &["diff", "b", "--name-status", "made"]).ok();
    assert_eq!(done.out(), "A\tmade\n");
    before.assert_still();
    let patch = call_in(&sandbox, &dir, &["diff", "b"]).ok().stdout;
    fs::write(sandbox.out().join("patch"), patch).expect("write");
    let mut apply = sandbox.host("git");
    apply.arg("apply").arg(sandbox.out().join("patch"));
    cmd::run(apply.current_dir(&dir)).ok();
    let landed = fs::read_to_string(dir.join("file")).expect("read");
    assert_eq!(landed, "of the base\nmore\n");
}

#[test]
fn the_plan_tells_every_byte() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let dir = odd_dir(&sandbox);
    for place in ["hidden", "shared"] {
        fs::create_dir(dir.join(place)).expect("mkdir");
    }
    let args = [
        "run",
        "--dry-run",
        "--json",
        "--hide",
        "hidden",
        "--rw",
        "shared",
        "--",
        "true",
    ];
    let plan = json(&call_in(&sandbox, &dir, &args).ok());
    let name = r"w\xff\\x41\\ \x07d";
    let root = sandbox.root().display();
    assert_eq!(plan["cwd"], format!("{root}/{name}"));
    let steps = plan["steps"].as_array().expect("the steps");
    for (op, place) in [("hide", "hidden"), ("host", "shared")] {
        let at = format!("{root}/{name}/{place}");
        let found = steps.iter().any(|s| s["op"] == op && s["at"] == at);
        assert!(found, "{op} {at}: {plan:#}");
    }
}

#[test]
fn a_linked_worktree_commits_in_a_run() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let dir = odd_dir(&sandbox);
    let git = "git init -q && git add -A && git commit -qm one && git worktree add -q ../linked";
    let mut prepare = sandbox.host("sh");
    cmd::run(prepare.args(["-c", git]).current_dir(&dir)).ok();
    let script = "echo 2 > file && git commit -qam two && git log --format=%s";
    let args = ["run", "-q", "-b", "b", "--", "sh", "-c", script];
    let done = call_in(&sandbox, &sandbox.root().join("linked"), &args).ok();
    assert_eq!(done.out(), "two\none\n");
}

#[test]
fn a_mount_is_made_found_and_taken_away() {
    if !need_any_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    let base = odd_dir(&sandbox);
    let mnt = sandbox.root().join(OsStr::from_bytes(b"m\xfe\\"));
    fs::create_dir(&mnt).expect("mkdir");
    mounted::mount(&sandbox, "b", &mnt, &base, likest()).ok();
    fs::write(mnt.join("file"), "written").expect("write");
    let row = sandbox.row("b");
    assert_eq!(decoded(&sandbox, &row["mounted_at_b64"]), mnt);
    // It bothers nobody else who reads the table of mounts.
    if need_run() {
        sandbox.sh("other", "true").ok();
    }
    let again = mounted::mount(&sandbox, "c", &mnt, &base, likest());
    again.expect(125).says(&["branch b is mounted there"]);
    mounted::umount(&sandbox, &mnt);
    assert_eq!(leak::mounts_below(sandbox.root()), Vec::<String>::new());

    // As the mount helper gets it.
    let mut option = OsString::from("base=");
    option.push(&base);
    let mut command = sandbox.agentfs(&["mount", "b"]);
    cmd::run(command.arg(&mnt).args(["-o", likest(), "-o"]).arg(option)).ok();
    assert_eq!(fs::read(mnt.join("file")).expect("read"), b"written");
    mounted::umount(&sandbox, &mnt);
    assert_eq!(fs::read(base.join("file")).expect("read"), b"of the base\n");
}
