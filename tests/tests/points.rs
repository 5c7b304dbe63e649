//! `BRANCH@SNAPSHOT` in every command that takes a branch: it works, or the answer says what does.

use agentfs_tests::need::need_run;
use agentfs_tests::{Done, Sandbox};

fn json(done: Done) -> serde_json::Value {
    serde_json::from_str(&done.ok().out()).expect("JSON")
}

/// A branch `f` that went on after its snapshot `f@1`, which added two files and changed one.
fn sandbox() -> Sandbox {
    let (sandbox, _) = Sandbox::small();
    sandbox
        .sh("f", "echo one > file; echo n > new; echo m > new2")
        .ok();
    sandbox.call(&["snapshot", "create", "f"]).ok();
    sandbox.sh("f", "rm new2; echo two > file; rm big").ok();
    sandbox
}

#[test]
fn a_snapshot_is_listed_as_a_branch_is() {
    if !need_run() {
        return;
    }
    let sandbox = sandbox();
    sandbox
        .call(&["branch", "create", "child", "--from", "f@1"])
        .ok();
    let text = sandbox.call(&["ls", "f@1", "f"]).ok().out();
    let rows: Vec<Vec<&str>> = (text.lines().skip(1))
        .map(|line| line.split_ascii_whitespace().collect())
        .collect();
    assert_eq!(
        rows[0][..6],
        ["f@1", "f", "snapshot", "+2", "~1", "-0"],
        "{text}"
    );
    assert_eq!(
        rows[1][..7],
        ["f", "-", "exit", "0", "+1", "~1", "-1"],
        "{text}"
    );
    assert_eq!(rows.len(), 2, "the child was not asked for: {text}");

    let told = json(sandbox.call(&["ls", "--json", "f@1", "f"]));
    let snapshot = &told["snapshots"][0];
    assert_eq!(snapshot["name"], "1");
    assert_eq!(snapshot["point"], "f@1");
    assert_eq!(snapshot["branch"], "f");
    assert_eq!(snapshot["state"], "snapshot");
    assert_eq!(snapshot["branches"], serde_json::json!(["child"]));
    assert_eq!(snapshot["changes"]["added"], 2);
    assert_eq!(snapshot["changes"]["deleted"], 0);
    assert!(snapshot["command"].is_null(), "nothing ran on it");
    assert_eq!(told["branches"][0]["name"], "f");
    assert_eq!(told["branches"][0]["changes"]["deleted"], 1);
    assert_eq!(told["branches"].as_array().map(Vec::len), Some(1));
    // As ever where nothing is named.
    let all = json(sandbox.call(&["ls", "--json"]));
    assert_eq!(all["branches"].as_array().map(Vec::len), Some(2));

    for (point, words) in [
        ("f@2", "no snapshot 2"),
        ("g@1", "no branch g"),
        ("g", "no branch g"),
    ] {
        let done = sandbox.call(&["ls", "f", point]).expect(125);
        assert!(done.stderr.contains(words), "{}", done.report());
        assert!(done.stderr.contains("fix: "), "{}", done.report());
    }
}

#[test]
fn what_a_snapshot_can_do_it_does() {
    if !need_run() {
        return;
    }
    let sandbox = sandbox();
    let shown = sandbox.call(&["branch", "show", "f@1"]).ok().out();
    assert_eq!(shown, sandbox.call(&["snapshot", "show", "f@1"]).ok().out());
    let told = json(sandbox.call(&["branch", "show", "f@1", "--json"]));
    assert_eq!(told["snapshot"]["point"], "f@1");

    let checked = sandbox.call(&["fsck", "f@1"]).ok().out();
    assert!(checked.contains("f"), "{checked}");
    let none = sandbox.call(&["fsck", "f@7"]).expect(125);
    assert!(none.stderr.contains("no snapshot 7"), "{}", none.report());

    // Written out, in two words, and in two words written out.
    for (words, file) in [
        (&["f@1"][..], "one\n"),
        (&["f", "2"], "two\n"),
        (&["f", "f@1"], "one\n"),
    ] {
        sandbox.call(&[&["restore"][..], words].concat()).ok();
        assert_eq!(sandbox.sh("f", "cat file").ok().out(), file, "{words:?}");
    }
    sandbox.call(&["branch", "create", "g"]).ok();
    for (words, why) in [
        (&["f"][..], "no snapshot"),
        (&["g", "f@1"], "snapshots of its own"),
        (&["f@1", "2"], "two snapshots"),
        (&["f", "f@9"], "no snapshot 9"),
    ] {
        let done = sandbox
            .call(&[&["restore"][..], words].concat())
            .expect(125);
        assert!(done.stderr.contains(why), "{}", done.report());
        assert!(done.stderr.contains("fix: "), "{}", done.report());
    }
    sandbox.call(&["fsck"]).ok();
}

#[test]
fn what_a_snapshot_cannot_do_is_refused_with_what_can() {
    if !need_run() {
        return;
    }
    let sandbox = sandbox();
    let mnt = sandbox.root().join("mnt");
    std::fs::create_dir(&mnt).expect("mkdir");
    let mnt = mnt.to_str().expect("UTF-8");
    let new = "`agentfs branch create NEW --from f@1`";
    let run = "`agentfs run --from f@1 -- CMD`";
    let before = sandbox.call(&["branch", "tree"]).ok().out();
    // Whether or not there is such a snapshot: what is written is one.
    for (args, fix) in [
        (&["exec", "f@1", "--", "true"][..], run),
        (&["run", "--branch", "f@1", "--", "true"], run),
        (&["run", "-b", "f@1", "--from", "f", "--", "true"], run),
        (&["mount", "f@1", mnt], new),
        (&["mount", "--shared", mnt, "--default-branch", "f@1"], new),
        (&["rm", "f", "f@1"], "`agentfs snapshot rm f@1`"),
        (&["branch", "rm", "f@1"], "`agentfs snapshot rm f@1`"),
        (&["branch", "create", "f@1"], new),
        (&["branch", "rename", "f@1", "g"], new),
        (&["branch", "rename", "f", "g@1"], "choose one of letters"),
        (
            &["snapshot", "create", "f@1"],
            "`agentfs snapshot create f`",
        ),
        (&["snapshot", "list", "f@1"], "`agentfs snapshot show f@1`"),
    ] {
        let done = sandbox.call(args).expect(125);
        let said = &done.stderr;
        assert!(said.contains("@1 is a snapshot: "), "{}", done.report());
        let (_, told) = said.split_once("\n  fix: ").unwrap_or_default();
        assert!(told.contains(fix), "{fix}: {}", done.report());
        assert!(!said.contains("no branch"), "{}", done.report());
        assert!(!said.contains("Usage"), "{}", done.report());
    }
    assert_eq!(sandbox.call(&["branch", "tree"]).ok().out(), before);
    // What was advised works.
    let args = ["run", "-q", "--from", "f@1", "--", "cat", "file", "new2"];
    assert_eq!(sandbox.call(&args).ok().out(), "one\nm\n");
    sandbox
        .call(&["snapshot", "rm", "f@1"])
        .expect(125)
        .says(&["needed by"]);
}
