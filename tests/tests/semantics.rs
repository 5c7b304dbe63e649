//! One test per claim of fsd/SEMANTICS.md, named after its number, in files by group.

use agentfs_tests::need::need_run;
use agentfs_tests::wait::until;
use agentfs_tests::{Manifest, Sandbox, base, cmd};

#[path = "semantics/absent.rs"]
mod absent;
#[path = "semantics/base.rs"]
mod base_and_branch;
#[path = "semantics/files.rs"]
mod files;
#[path = "semantics/io.rs"]
mod io;
#[path = "semantics/mounts.rs"]
mod mounts;
#[path = "semantics/names.rs"]
mod names;
#[path = "semantics/rights.rs"]
mod rights;
#[path = "semantics/unopened.rs"]
mod unopened;

/// The sources of all of them.
const SOURCES: &[&str] = &[
    include_str!("semantics/absent.rs"),
    include_str!("semantics/base.rs"),
    include_str!("semantics/files.rs"),
    include_str!("semantics/io.rs"),
    include_str!("semantics/mounts.rs"),
    include_str!("semantics/names.rs"),
    include_str!("semantics/rights.rs"),
];

/// Runs `test` in a sandbox over the small base tree, and holds claim 1 of each of them.
fn claim(test: impl FnOnce(&Sandbox)) {
    if !need_run() {
        return;
    }
    let sandbox = Sandbox::new();
    base::small(&sandbox.work());
    let before = Manifest::of(&sandbox.work());
    test(&sandbox);
    before.assert_still();
}

/// Runs a script that ends well, and returns what it printed.
#[track_caller]
fn sh(sandbox: &Sandbox, script: &str) -> String {
    sandbox.sh("b", &format!("set -e; {script}")).ok().out()
}

/// A shell on the branch, for tests that change the host while a run is live.
struct LiveShell(cmd::Running);

impl LiveShell {
    fn start(sandbox: &Sandbox) -> Self {
        let mut command = sandbox.agentfs(&["run", "-q", "--branch", "b", "--", "bash"]);
        LiveShell(cmd::start(command.stdin(std::process::Stdio::piped())))
    }

    /// Runs a script and returns what it printed, on stderr too.
    #[track_caller]
    fn sh(&mut self, script: &str) -> String {
        let before = self.0.stdout_now().len();
        let line = format!("{{ {script}\n}} 2>&1; printf '\\0'\n");
        let stdin = self.0.child.stdin.as_mut().expect("a shell");
        std::io::Write::write_all(stdin, line.as_bytes()).expect("write");
        until("the script is done", || {
            self.0
                .stdout_now()
                .get(before..)
                .is_some_and(|out| out.ends_with(b"\0"))
        });
        let out = self.0.stdout_now();
        String::from_utf8_lossy(&out[before..out.len() - 1]).into_owned()
    }

    /// Runs a script until it prints this: what the host changes is told after a moment.
    #[track_caller]
    fn comes_to(&mut self, script: &str, expected: &str) {
        until(expected, || self.sh(script) == expected);
    }

    fn end(mut self) {
        drop(self.0.child.stdin.take());
        self.0.wait().ok();
    }
}

/// What the Python programs share: `err(call)` is the errno of a call, 0 if it did well, and
/// `syscall(number, ..)` one that Python has no name for.
const PRELUDE: &str = r#"
import ctypes, errno, fcntl, mmap, os, stat, struct, subprocess
libc = ctypes.CDLL(None, use_errno=True)
def err(call, *args):
    try:
        call(*args); return 0
    except OSError as e:
        return e.errno
def syscall(*args):
    got = libc.syscall(*(ctypes.c_long(a) if isinstance(a, int) else a for a in args))
    if got < 0:
        raise OSError(ctypes.get_errno(), "")
    return got
RW = os.O_RDWR | os.O_CREAT
"#;

/// Runs a Python program on the branch; its asserts are the test.
#[track_caller]
fn python(sandbox: &Sandbox, program: &str) {
    let program = &format!("{PRELUDE}{program}");
    let args = [
        "run",
        "-q",
        "--branch",
        "b",
        "--",
        "/usr/bin/python3",
        "-c",
        program,
    ];
    sandbox.call(&args).ok();
}

#[test]
fn every_claim_has_a_test_and_every_test_a_claim() {
    let text = include_str!("../../fsd/SEMANTICS.md");
    let claims: Vec<&str> = text
        .split("- **S")
        .skip(1)
        .filter_map(|t| t.split("**").next())
        .collect();
    assert!(claims.len() > 20, "{claims:?}");
    let own = SOURCES.concat();
    for number in &claims {
        let tests = own.matches(&format!("fn s{number}_")).count();
        assert_eq!(tests, 1, "tests of S{number}");
        let stated = claims.iter().filter(|other| *other == number).count();
        assert_eq!(stated, 1, "claims S{number}");
    }
    assert_eq!(own.matches("#[test]").count(), claims.len());
}
