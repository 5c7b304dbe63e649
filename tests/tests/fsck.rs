//! `agentfs fsck` on real stores: clean after real runs, never clean over a flipped bit, and after a
//! repair clean and in use again.

use std::fs;
use std::path::{Path, PathBuf};

use agentfs_tests::need::need_run;
use agentfs_tests::wait::until;
use agentfs_tests::{Done, Sandbox, base};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// What programs do to a tree, all kinds of it.
const WORK: &str = "set -e; echo changed > file; printf x >> big; rm two; mkdir -p n/deep; \
    dd if=/dev/urandom of=n/random bs=1k count=300 status=none; ln n/random n/hard; \
    ln -s ../file n/soft; mkfifo n/fifo; mv dir moved; truncate -s 5 n/hard; \
    for i in $(seq 300); do echo $i > n/deep/$i; done; rm n/deep/1*; ln n/deep/2 n/deep/again; \
    dd if=/dev/zero of=layered bs=4k seek=900 count=1 conv=notrunc status=none; \
    truncate -s 3000000 layered; rm -r moved/sub; mkdir moved/sub; echo in > moved/sub/new";

/// A base that has everything [`WORK`] touches, with one file too large to be copied.
fn fill(sandbox: &Sandbox) {
    base::small(&sandbox.work());
    fs::write(sandbox.work().join("layered"), base::pattern(3, 5 << 20)).expect("write");
}

fn fsck(sandbox: &Sandbox, store: &Path, args: &[&str]) -> Done {
    let mut command = sandbox.agentfs(&["fsck", "--store"]);
    command.arg(store).args(args);
    agentfs_tests::cmd::run(&mut command)
}

/// All files below a directory, as paths relative to it.
fn files_below(dir: &Path) -> Vec<PathBuf> {
    let (mut todo, mut out) = (vec![dir.to_path_buf()], Vec::new());
    while let Some(at) = todo.pop() {
        for entry in fs::read_dir(&at).expect("a directory").flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => todo.push(path),
                Ok(kind) if kind.is_file() => out.push(path),
                _ => {}
            }
        }
    }
    out.sort();
    let relative = |path: PathBuf| path.strip_prefix(dir).expect("below").to_path_buf();
    out.into_iter().map(relative).collect()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).expect("read");
    bytes[at] ^= 1 << (at % 8);
    fs::write(path, bytes).expect("write");
}

fn copy_of(sandbox: &Sandbox, store: &Path) -> PathBuf {
    let copy = sandbox.out().join("copy");
    let script = format!(
        "rm -rf '{0}'; cp -a '{1}' '{0}'",
        copy.display(),
        store.display()
    );
    sandbox.host_sh(&script);
    copy
}

#[test]
fn a_store_is_clean_after_real_runs_while_one_goes_on_and_after_a_kill() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let none = sandbox.call(&["fsck"]).ok();
    assert!(
        none.stderr.contains("there is no store"),
        "{}",
        none.report()
    );
    fill(&sandbox);
    sandbox.sh("one", WORK).ok();
    sandbox
        .sh(
            "one",
            "echo more > n/deep/more; rm -r n/deep/3*; cat layered > /dev/null",
        )
        .ok();
    let child = ["run", "-q", "--branch", "two", "--from", "one", "--"];
    let script = "echo y >> layered; mv n m; rm m/random; echo 1 > m/deep/2; chmod 700 m/deep";
    sandbox
        .call(&[&child[..], &["bash", "-c", script]].concat())
        .ok();
    let done = sandbox.call(&["fsck"]).ok();
    assert!(
        done.out().ends_with("verified: clean\n"),
        "{}",
        done.report()
    );
    assert!(!done.out().contains("note"), "{}", done.report());
    assert_eq!(done.stderr, "", "no progress where no terminal is");

    let text = format!(
        "exec 3> open; rm open; echo held >&3; {WORK}; echo ready; \
         while [ ! -e '{}/stop' ]; do sleep 0.05; done",
        sandbox.out().display()
    );
    let mut command = sandbox.agentfs(&["run", "-q", "--branch", "three", "--rw"]);
    command.arg(sandbox.out()).args(["--", "bash", "-c", &text]);
    let run = agentfs_tests::cmd::start(command.stdin(std::process::Stdio::null()));
    until("the run is up", || run.stdout_now() == b"ready\n");
    for args in [&["fsck", "three"][..], &["fsck"], &["fsck", "--repair"]] {
        let done = sandbox.call(args).ok();
        let out = done.out();
        assert!(
            out.contains("live") && out.contains("left-out"),
            "{}",
            done.report()
        );
    }
    let daemons = sandbox.daemons();
    assert_eq!(daemons.len(), 1);
    kill(Pid::from_raw(daemons[0]), Signal::SIGKILL).expect("kill the daemon");
    fs::write(sandbox.out().join("stop"), "").expect("stop");
    run.wait();
    sandbox.assert_quiet();
    let done = sandbox.call(&["fsck"]).ok();
    assert!(
        done.out().contains("note leftover in three"),
        "{}",
        done.report()
    );
    sandbox.call(&["fsck", "--repair"]).ok();
    let done = sandbox.call(&["fsck"]).ok();
    assert!(!done.out().contains("note"), "{}", done.report());
    sandbox
        .sh("three", "test $(cat file) = changed; test ! -e open")
        .ok();
    sandbox.call(&["fsck", "none"]).expect(125).says(&["none"]);
    let photos = sandbox.work();
    fsck(&sandbox, &photos, &[])
        .expect(125)
        .says(&["no store", "--store DIR"]);
}

#[test]
fn no_flipped_bit_is_taken_for_sound_and_the_other_branches_stay() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    fill(&sandbox);
    sandbox.sh("one", WORK).ok();
    let child = ["run", "-q", "--branch", "two", "--from", "one", "--"];
    sandbox
        .call(&[&child[..], &["bash", "-c", "echo 2 > file"]].concat())
        .ok();
    sandbox.sh("other", "echo 3 > file; echo 3 > three").ok();
    let store = sandbox.store();
    let mut told = 0;
    for path in files_below(&store) {
        let len = fs::metadata(store.join(&path)).expect("stat").len() as usize;
        let text = path.to_string_lossy().into_owned();
        let is_object = text.contains("/objects/");
        if len == 0 || (is_object && !text.ends_with('1')) {
            continue;
        }
        let file = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let is_checked = file == "format"
            || file.ends_with(".json")
            || file.starts_with("table.")
            || file.starts_with("journal.");
        let other_is_hit = {
            let row = fs::read_to_string(store.join("branches/other/branch.json")).expect("read");
            let layer = text.split('/').nth(1).unwrap_or_default();
            row.contains(layer) || text.starts_with("branches/other") || text == "format"
        };
        for at in [0, len / 3, len / 2, len - 1] {
            flip(&store.join(&path), at);
            let done = fsck(&sandbox, &store, &[]);
            let wanted: &[i32] = if is_checked { &[1] } else { &[0, 1] };
            assert!(
                wanted.contains(&done.code()),
                "{text} at {at}\n{}",
                done.report()
            );
            told += usize::from(is_checked);
            if is_checked && !other_is_hit && at == len / 3 {
                let copy = copy_of(&sandbox, &store);
                let mut run = sandbox.agentfs(&["run", "-q", "--store"]);
                run.arg(&copy)
                    .args(["--branch", "other", "--", "cat", "file"]);
                let ran = agentfs_tests::cmd::run(&mut run).ok();
                assert_eq!(ran.out(), "3\n", "{text} at {at}");
            }
            flip(&store.join(&path), at);
        }
    }
    fsck(&sandbox, &store, &[]).ok();
    assert!(told > 40, "{told} flips were told");
}

#[test]
fn what_was_repaired_is_clean_and_runs_again() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    fill(&sandbox);
    sandbox.sh("one", WORK).ok();
    // So much that an end makes a table of it.
    sandbox
        .sh(
            "one",
            "mkdir lots; for i in $(seq 900); do echo $i > lots/$i; done",
        )
        .ok();
    let store = sandbox.store();
    let tables: Vec<PathBuf> = files_below(&store)
        .into_iter()
        .filter(|path| path.to_string_lossy().contains("/table."))
        .collect();
    assert_eq!(tables.len(), 1, "{tables:?}");
    let blocks = fs::metadata(store.join(&tables[0])).expect("stat").len() as usize / 4096;
    for block in (1..blocks - 1).step_by(blocks / 6) {
        let copy = copy_of(&sandbox, &store);
        flip(&copy.join(&tables[0]), block * 4096 + 77);
        let mut run = sandbox.agentfs(&["run", "-q", "--store"]);
        fsck(&sandbox, &copy, &["one"]).expect(1).says(&[]);
        let done = fsck(&sandbox, &copy, &["--repair", "--json"]);
        let json: serde_json::Value = serde_json::from_slice(&done.stdout).expect("JSON");
        assert_eq!(json["clean"], true, "{json:#}");
        let lost = json["lost"].as_array().expect("a list");
        let wanted = i32::from(!lost.is_empty());
        assert_eq!(done.code(), wanted, "{}", done.report());
        assert_eq!(json["findings"][0]["code"], "table", "{json:#}");
        assert!(!json["repaired"].as_array().expect("a list").is_empty());
        let again = fsck(&sandbox, &copy, &[]).ok();
        assert!(again.out().ends_with("clean\n"), "{}", again.report());
        let is_told = again.out().contains("note lost in one:");
        assert_eq!(is_told, !lost.is_empty(), "{}", again.report());
        run.arg(&copy);
        run.args([
            "--branch",
            "one",
            "--",
            "bash",
            "-c",
            "ls -lR > /dev/null; echo back > new",
        ]);
        agentfs_tests::cmd::run(&mut run).ok();
        fsck(&sandbox, &copy, &[]).ok();
        // Every byte that was there is somewhere still.
        let held = files_below(&copy).into_iter().filter_map(|path| {
            let text = path.to_string_lossy();
            let is_object = text.contains("/objects/") || text.contains("/object.");
            is_object
                .then(|| fs::read_to_string(copy.join(&path)).ok())
                .flatten()
        });
        let held: std::collections::BTreeSet<String> = held.collect();
        for i in 1..=900 {
            assert!(
                held.contains(&format!("{i}\n")),
                "block {block}: {i} is lost"
            );
        }
    }
}

/// The branch's part of a workspace with a table of one block of inode records, frozen below two
/// branches: `one`, which was branched from, and `two`.
fn branched() -> (Sandbox, PathBuf) {
    let sandbox = Sandbox::new();
    fs::write(sandbox.work().join("old.txt"), "old\n").expect("write");
    fs::write(sandbox.work().join("moved"), "moved\n").expect("write");
    sandbox.host_sh("mkdir -p deep/down; echo deep > deep/down/file; git init -q .");
    sandbox
        .sh(
            "one",
            "seq 9 > nine; mv moved here; echo x >> deep/down/file; echo y > deep/down/new; \
             python3 -c 'for i in range(4000): __import__(\"os\").chmod(\"nine\", 0o600 + i % 2 * 0o44)'",
        )
        .ok();
    let child = ["run", "-q", "--branch", "two", "--from", "one", "--"];
    sandbox
        .call(&[&child[..], &["bash", "-c", "echo mine > deep/down/mine"]].concat())
        .ok();
    let tables: Vec<PathBuf> = files_below(&sandbox.store())
        .into_iter()
        .filter(|path| path.to_string_lossy().contains("/table."))
        .collect();
    assert_eq!(tables.len(), 1, "{tables:?}");
    let table = sandbox.store().join(&tables[0]);
    (sandbox, table)
}

#[test]
fn what_is_lost_never_looks_deleted() {
    if !need_run() {
        return;
    }
    let (sandbox, table) = branched();
    let blocks = fs::metadata(&table).expect("stat").len() as usize / 4096;
    let store = sandbox.store();
    let saved = copy_of(&sandbox, &store);
    let good = sandbox.out().join("good");
    fs::rename(&saved, &good).expect("rename");
    let mut lossy = 0;
    for block in 1..blocks {
        let script = format!(
            "rm -rf '{0}'; cp -a '{1}' '{0}'",
            store.display(),
            good.display()
        );
        sandbox.host_sh(&script);
        flip(&table, block * 4096 + 808);
        if sandbox.call(&["fsck"]).code() == 0 {
            continue;
        }
        let done = sandbox.call(&["fsck", "--repair"]);
        if done.code() == 0 {
            assert!(!done.out().contains("lost "), "{}", done.report());
            continue;
        }
        lossy += 1;
        let text = done.expect(1).out();
        assert!(
            text.contains("\nbranch one lost ") && text.contains("\nbranch two lost "),
            "{text}"
        );
        for branch in ["one", "two"] {
            // The workspace is there, with all that the host has and the branch did not touch.
            let check = "test -e old.txt && test -e .git && test -e deep/down/file";
            let exec = ["exec", "-q", branch, "--", "bash", "-c", check];
            let ran = sandbox.call(&exec);
            assert_eq!(
                ran.code(),
                0,
                "block {block}, {branch}: {}\n{text}",
                ran.report()
            );
            let diff = sandbox.call(&["diff", branch]);
            assert_eq!(diff.out(), "", "{}", diff.report());
            diff.expect(125).says(&["--despite-loss", "lost"]);
            let names = sandbox.call(&["diff", branch, "--name-status"]).ok();
            let names = names.out();
            let mut deleted = names.lines().filter_map(|line| line.strip_prefix("D\t"));
            // What the branch moved is gone at its old name.
            assert!(
                deleted.all(|path| path == "moved"),
                "block {block}, {branch}: {names}\n{text}"
            );
            sandbox.call(&["diff", branch, "--despite-loss"]).ok();
        }
        let ls = sandbox.call(&["ls"]).ok();
        assert_eq!(ls.out().matches("lost files").count(), 2, "{}", ls.report());
        let again = sandbox.call(&["fsck"]).ok();
        assert!(
            again.out().contains("note lost in two:"),
            "{}",
            again.report()
        );
        // The loss goes on to what is made from the branch.
        sandbox
            .call(&[
                "run", "-q", "--branch", "three", "--from", "two", "--", "true",
            ])
            .ok();
        sandbox
            .call(&["diff", "three"])
            .expect(125)
            .says(&["--despite-loss"]);
    }
    assert!(lossy > 1, "{lossy} of {blocks} blocks");
}

#[test]
fn a_cut_object_is_a_loss() {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.sh("one", "seq 900 > many").ok();
    let store = sandbox.store();
    let mut objects = files_below(&store).into_iter();
    let object = objects.find(|path| path.to_string_lossy().contains("/objects/"));
    let object = store.join(object.expect("an object"));
    let file = fs::File::options().write(true).open(&object).expect("open");
    file.set_len(100).expect("truncate");
    sandbox.call(&["fsck"]).expect(1).says(&[]);
    let done = sandbox.call(&["fsck", "--repair"]).expect(1);
    let path = sandbox.work().join("many");
    let line = format!("\nbranch one lost 1 file: {}\n", path.display());
    assert!(done.out().contains(&line), "{}", done.report());
    sandbox
        .call(&["diff", "one"])
        .expect(125)
        .says(&["many", "--despite-loss"]);
    let ls = sandbox.call(&["ls", "--json"]).ok();
    let json: serde_json::Value = serde_json::from_slice(&ls.stdout).expect("JSON");
    let lost = json["branches"][0]["lost"].as_str().unwrap_or_default();
    assert!(lost.contains("many"), "{json:#}");
}
