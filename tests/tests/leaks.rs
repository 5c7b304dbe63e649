//! scripts/leaks.sh, by which CI tells that a run of the suites left nothing behind: it must see what
//! could be left.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use agentfs_tests::Sandbox;
use agentfs_tests::cmd::{self, Running};
use agentfs_tests::need::need;
use agentfs_tests::wait::until;

fn root() -> PathBuf {
    let dir = match std::env::var_os("AGENTFS_SOURCE_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join(".."),
    };
    dir.canonicalize().expect("the source tree")
}

/// What the script prints in this world.
fn leaks(sandbox: &Sandbox) -> String {
    let mut script = sandbox.host("bash");
    script.arg(root().join("scripts/leaks.sh"));
    // Else it would be one itself.
    cmd::run(script.env_remove("SUITE_MARKER").current_dir("/"))
        .ok()
        .out()
}

/// Lines of `text` below the heading `section` that hold `word`.
fn found<'a>(text: &'a str, section: &str, word: &str) -> Vec<&'a str> {
    let heading = format!("# {section}");
    let lines = text.lines().skip_while(|line| *line != heading).skip(1);
    let lines = lines.take_while(|line| !line.starts_with("# "));
    lines.filter(|line| line.contains(word)).collect()
}

/// A process that the test leaves behind, for as long as it looks.
struct Left(Running);

impl Drop for Left {
    fn drop(&mut self) {
        let _ = self.0.child.kill();
        let _ = self.0.child.wait();
    }
}

fn leave(command: &mut Command) -> Left {
    Left(cmd::start(command.stdin(Stdio::null())))
}

#[test]
fn leftovers_of_the_suites_are_seen_whoever_made_them() {
    if !need("userns") {
        return;
    }
    let sandbox = Sandbox::new();
    let word = sandbox.root().display().to_string();
    let store = sandbox.home().join(".local/share/agentfs/branches/left");
    let before = leaks(&sandbox);
    for section in ["mounts in other namespaces", "stores and files elsewhere"] {
        assert_eq!(found(&before, section, &word), [""; 0], "{before}");
    }

    // A command of a run whose launcher forgot it, known by the environment alone.
    let marked = leave(sandbox.host("sleep").arg("600").current_dir("/"));
    // One without environment, known by where it is.
    let mut placed = Command::new("sleep");
    let placed = leave(placed.env_clear().arg("600").current_dir(sandbox.work()));
    // A mount that this namespace does not show.
    let script = "mount -t tmpfs none ../out && echo ready && exec sleep 600";
    let mounted = leave(sandbox.host("unshare").args(["-Urm", "sh", "-c", script]));
    std::fs::create_dir_all(&store).expect("a store at the usual place");
    until("the mount is there", || {
        mounted.0.stdout_now() == b"ready\n"
    });

    let after = leaks(&sandbox);
    for left in [&marked, &placed, &mounted] {
        let line = format!("{} ", left.0.pid());
        let seen = found(&after, "processes", "sleep 600");
        assert!(
            seen.iter().any(|l| l.starts_with(&line)),
            "{line}in {after}"
        );
    }
    let out = sandbox.out().display().to_string();
    assert_eq!(
        found(&after, "mounts in other namespaces", &out).len(),
        1,
        "{after}"
    );
    let store = store.display().to_string();
    assert_eq!(
        found(&after, "stores and files elsewhere", &store).len(),
        1,
        "{after}"
    );
}
