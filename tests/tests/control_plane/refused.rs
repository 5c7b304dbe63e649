//! What is no branch, no snapshot, no process, no message: refused by name, and nothing has changed.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use agentfs_tests::mounted::{self, need_any_mount};
use agentfs_tests::{Sandbox, Several, cmd, need};

use crate::fill;

#[test]
fn a_snapshot_where_a_branch_is_needed_is_told_from_nothing() {
    if !need_any_mount() {
        return;
    }
    let several = Several::new(fill);
    let made = several.json(&["snapshot-create", "--name", "s"]);
    let (point, id) = (made["snapshot"].as_str(), made["id"].as_str());
    let own = std::process::id().to_string();
    for word in [point.expect("a name"), id.expect("an id")] {
        for (args, fix) in [
            (
                &["branch-bind", "--pid", &own, "--branch", word][..],
                "branch-create --snapshot",
            ),
            (
                &["snapshot-create", "--branch", word],
                "snapshot-create --branch",
            ),
            (
                &["snapshot-list", "--branch", word],
                "snapshot-list --branch",
            ),
        ] {
            let done = several.control(args).expect(125);
            done.says(&["is a snapshot", "fix:", fix]);
        }
    }
    let args = [
        "branch-create",
        "--name",
        "x@1",
        "--snapshot",
        point.expect("a name"),
    ];
    several
        .control(&args)
        .expect(125)
        .says(&["x@1 is a snapshot", "fix:"]);
}

#[test]
fn what_cannot_be_bound_is_refused() {
    if !need_any_mount() {
        return;
    }
    let several = Several::new(fill);
    several.branches(&["mine"]);
    let own = std::process::id().to_string();
    let mut ended = Command::new("true").spawn().expect("spawn");
    let dead = ended.id().to_string();
    ended.wait().expect("wait");
    let bind = |branch: &str, pid: &str| {
        several.control(&["branch-bind", "--branch", branch, "--pid", pid])
    };
    for bogus in [
        "nope",
        "0123456789abcdef",
        "mine@1",
        "",
        "../mine",
        "mine\n",
    ] {
        bind(bogus, &own)
            .expect(125)
            .says(&["branch", "none of that name", "fix:"]);
    }
    bind("mine", &dead)
        .expect(125)
        .says(&["process", &dead, "fix:"]);
    bind("mine", "0").expect(125).says(&["process 0"]);
    bind("mine", "4194999").expect(125).says(&["4194999"]);
    for no_pid in ["-1", "x", "99999999999"] {
        let done = bind("mine", no_pid);
        assert_eq!(done.code(), 125, "{}", done.report());
    }
    if need::is_root() {
        // Root's mount takes everybody's.
        let mut command = Command::new("setpriv");
        command.args(["--reuid=61001", "--regid=61001", "--clear-groups", "cat"]);
        let mut theirs = command.stdin(Stdio::piped()).spawn().expect("setpriv");
        bind("mine", &theirs.id().to_string()).ok();
        drop(theirs.stdin.take());
        theirs.wait().expect("wait");
    } else {
        bind("mine", "1")
            .expect(125)
            .says(&["process 1", "uid 0", "fix:"]);
    }
    let none = several.json(&["status"]);
    assert_eq!(none["bound"].as_array().map(Vec::len), Some(0), "{none}");
    for bogus in ["nope", "mine@nope", "mine", "@", "0123456789abcdef"] {
        let args = ["branch-create", "--snapshot", bogus, "--name", "new"];
        several
            .control(&args)
            .expect(125)
            .says(&["snapshot", "fix:"]);
    }
    let id = several.control(&["snapshot-create"]).ok().out();
    let taken = ["branch-create", "--snapshot", id.trim(), "--name", "mine"];
    several.control(&taken).expect(125).says(&["mine", "fix:"]);
    several
        .control(&[
            "snapshot-create",
            "--name",
            id.trim().split('@').next_back().unwrap_or_default(),
        ])
        .expect(125)
        .says(&["fix:"]);
    several
        .control(&["snapshot-create", "--branch", "nope"])
        .expect(125)
        .says(&["nope"]);
    assert_eq!(several.sandbox.rows().len(), 2, "no branch was made");
}

#[test]
fn a_mount_of_one_branch_is_controlled_but_for_binding() {
    if !need_any_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    let at = |name: &str| sandbox.root().join(name);
    for dir in ["base", "mnt", "plain"] {
        fs::create_dir(at(dir)).expect("mkdir");
    }
    fill(&at("base"));
    mounted::mount(&sandbox, "one", &at("mnt"), &at("base"), "rw").ok();
    let control = |mnt: &str, args: &[&str]| {
        let mut command = sandbox.host(agentfs_tests::bins::control_cli());
        cmd::run(command.arg("--mount").arg(at(mnt)).args(args))
    };
    fs::write(at("mnt/file"), "changed").expect("write");
    let made = control("mnt", &["snapshot-create", "--name", "s"])
        .ok()
        .out();
    assert_eq!(made, "one@s\n");
    control(
        "mnt",
        &["branch-create", "--snapshot", "one@s", "--name", "two"],
    )
    .ok();
    let listed = control("mnt", &["branch-list"]).ok().out();
    assert!(listed.contains("one") && listed.contains("two"), "{listed}");
    let pid = std::process::id().to_string();
    for args in [
        &["branch-bind", "--branch", "two", "--pid", &pid][..],
        &["branch-unbind", "--pid", &pid],
    ] {
        control("mnt", args)
            .expect(125)
            .says(&["not shared", "shows branch one", "--shared"]);
    }
    let status = control("mnt", &["status", "--json"]).ok();
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).expect("JSON");
    assert_eq!(
        (&status["shared"], &status["version"]),
        (&false.into(), &1.into())
    );
    mounted::umount(&sandbox, &at("mnt"));
    for none in ["mnt", "plain", "nothing"] {
        control(none, &["status"]).expect(125).says(&[none, "fix:"]);
    }
    let mut command = sandbox.host(agentfs_tests::bins::control_cli());
    cmd::run(command.arg("status"))
        .expect(125)
        .says(&["--mount"]);
}

/// Sends bytes to a control socket and gives what comes back until it is closed.
fn told(several: &Several, branch: &str, frames: &[&[u8]]) -> String {
    let dir = several.sandbox.store().join("branches").join(branch);
    let dir = fs::File::open(dir).expect("the branch's directory");
    // A socket's path may be short only.
    let path = format!("/proc/self/fd/{}/control.sock", dir.as_raw_fd());
    let mut stream = UnixStream::connect(path).expect("connect");
    for frame in frames {
        // It may have closed already.
        let _ = stream.write_all(frame);
    }
    stream
        .shutdown(std::net::Shutdown::Write)
        .expect("shutdown");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn frame(text: &str) -> Vec<u8> {
    let bytes = u32::try_from(text.len()).expect("short").to_le_bytes();
    [&bytes[..], text.as_bytes()].concat()
}

#[test]
fn messages_that_are_none_are_refused_and_harm_nothing() {
    if !need_any_mount() {
        return;
    }
    let several = Several::new(fill);
    several.branches(&["mine"]);
    let mut shell = several.bound("mine");
    let version = agentfs_fsd::ctl::msg::VERSION;
    let hello = frame(&format!("{{\"op\":\"hello\",\"version\":{version}}}"));
    let other = frame(&format!("{{\"op\":\"hello\",\"version\":{}}}", version + 1));
    let oversized = (agentfs_fsd::ctl::msg::MAX_BYTES + 1).to_le_bytes();
    let default = several.default_branch();
    for branch in [default.as_str(), "mine"] {
        for (frames, word) in [
            (vec![other.clone()], "\"version\""),
            (vec![frame("{\"op\":\"bindings\"}")], "malformed"),
            (vec![hello.clone(), oversized.to_vec()], "malformed"),
            (
                vec![hello.clone(), frame("{\"op\":\"nothing\"}")],
                "malformed",
            ),
            (vec![hello.clone(), frame("[1,")], "malformed"),
            (vec![hello.clone(), frame("\u{0}\u{1}")], "malformed"),
            (
                vec![
                    hello.clone(),
                    frame("{\"op\":\"bind-to\",\"branch\":\"../x\",\"pid\":1,\"start_ticks\":1}"),
                ],
                "malformed",
            ),
            (
                vec![
                    hello.clone(),
                    frame(
                        "{\"op\":\"bind-to\",\"branch\":\"none\",\"pid\":4194999,\"start_ticks\":1}",
                    ),
                ],
                "no-such-process",
            ),
            (
                vec![hello.clone(), frame("{\"op\":\"unbind\",\"pid\":4194999}")],
                "no-such-process",
            ),
        ] {
            let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
            let answer = told(&several, branch, &frames);
            assert!(answer.contains(word), "{branch}: {word}: {answer:?}");
        }
        // A pid that is another process by now; a branch that is none.
        let pid = shell.pid();
        let reused =
            format!("{{\"op\":\"bind-to\",\"branch\":\"mine\",\"pid\":{pid},\"start_ticks\":1}}");
        let answer = told(&several, branch, &[&hello, &frame(&reused)]);
        assert!(
            answer.contains("no-such-process") && answer.contains("another process"),
            "{answer}"
        );
        let ticks = agentfs_fsd::proc::start_ticks(pid).expect("start");
        let none = format!(
            "{{\"op\":\"bind-to\",\"branch\":\"none\",\"pid\":{pid},\"start_ticks\":{ticks}}}"
        );
        let answer = told(&several, branch, &[&hello, &frame(&none)]);
        assert!(answer.contains("no-such-branch"), "{answer}");
    }
    // A frame that is cut.
    told(&several, "mine", &[&hello, &[9, 0, 0, 0, b'{']]);
    shell.ok("echo still > $M/file; [ $(cat $M/file) = still ]");
}
