//! Guards: what a test needs of the machine. Without it the test says why and is skipped, except
//! under `AGENTFS_MUST_RUN=1` (CI), where it fails.

use std::path::{Path, PathBuf};

/// Returns whether `what` is there; a test that gets `false` returns at once.
///
/// `what`: `root`, `user` (an ordinary one), `userns`, `fuse`, `loop`, `crate`, `group-file`, or
/// `program:NAME`.
#[must_use]
pub fn need(what: &str) -> bool {
    let missing = lack(what);
    let Some(why) = missing else { return true };
    // Who runs the test is the runner's choice (it makes both passes), not a lack of the machine.
    let is_choice = match what {
        "root" | "user" => true,
        "group-file" => std::env::var_os("AGENTFS_TEST_WITHOUT_ROOT").is_some(),
        _ => false,
    };
    assert!(
        is_choice || std::env::var_os("AGENTFS_MUST_RUN").is_none(),
        "AGENTFS_MUST_RUN is set and this needs {what}: {why}"
    );
    eprintln!("skipped: needs {what}: {why}");
    false
}

/// Why `what` is not there. For tests that have something to show in both cases, and skip nothing.
///
/// Besides those of [`need`]: `perf` (it can record) and `perf-requests` (the tracepoints of FUSE).
pub fn lack(what: &str) -> Option<String> {
    match what {
        "root" => (!is_root()).then(|| "this runs as an ordinary user".to_owned()),
        "user" => is_root().then(|| "this runs as root".to_owned()),
        "userns" => probe("unshare", &["--user", "--map-root-user", "true"]),
        "fuse" => open_fuse().err(),
        "loop" => match find_program("losetup") {
            Some(losetup) => probe(losetup, &["--find"]),
            None => Some("no program losetup".to_owned()),
        },
        "group-file" => group_file().is_none().then(|| {
            "root has to make it (scripts/test-user.sh), for AGENTFS_TEST_GROUP_FILE".to_owned()
        }),
        "crate" => third_party_crate().err(),
        "perf" => records(&[]),
        "perf-requests" => records(&["--all-cpus", "--event", "fuse:fuse_request_send"]),
        other => match other.strip_prefix("program:") {
            Some(name) => find_program(name)
                .is_none()
                .then(|| format!("no program {name}")),
            None => panic!("need({other:?}): no such requirement"),
        },
    }
}

/// What every test of a whole run needs.
#[must_use]
pub fn need_run() -> bool {
    need("userns") && need("fuse")
}

/// Whether this process is the host's root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Whether this process may raise its own hard limits; not every root may, in a container for one.
/// Source: capability.h, CAP_SYS_RESOURCE.
pub fn may_raise_limits() -> bool {
    const SYS_RESOURCE: u32 = 24;
    let status = std::fs::read_to_string("/proc/self/status").expect("own status");
    let held = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let held = held.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    held.expect("CapEff") & 1 << SYS_RESOURCE != 0
}

/// The file that scripts/test-user.sh made: root's, readable for the user's second group only.
pub fn group_file() -> Option<PathBuf> {
    std::env::var_os("AGENTFS_TEST_GROUP_FILE").map(PathBuf::from)
}

/// Whether perf may record that.
fn records(what: &[&str]) -> Option<String> {
    let Some(perf) = find_program("perf") else {
        return Some("no program perf".to_owned());
    };
    let args = [&["record", "--output", "/dev/null"], what, &["--", "true"]].concat();
    probe(perf, &args)
}

fn probe(program: impl AsRef<Path>, args: &[&str]) -> Option<String> {
    let program = program.as_ref();
    match std::process::Command::new(program).args(args).output() {
        Ok(out) if out.status.success() => None,
        Ok(out) => Some(String::from_utf8_lossy(&out.stderr).trim().to_owned()),
        Err(e) => Some(format!("{}: {e}", program.display())),
    }
}

fn open_fuse() -> Result<(), String> {
    let opened = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse");
    opened
        .map(drop)
        .map_err(|e| format!("/dev/fuse: {e}; scripts/test-user.sh opens it"))
}

/// Finds a program by name in the search path of the suites.
pub fn find_program(name: &str) -> Option<PathBuf> {
    crate::sandbox::SYSTEM_PATH
        .split(':')
        .map(|dir| Path::new(dir).join(name))
        .find(|path| path.is_file())
}

/// The third-party crate that `scripts/fetch-crate.sh` made: (sources, cargo home).
pub fn third_party_crate() -> Result<(PathBuf, PathBuf), String> {
    let dir = match std::env::var_os("AGENTFS_TEST_CRATE") {
        Some(dir) => PathBuf::from(dir),
        None => crate::bins::bin_dir().join("../fixtures"),
    };
    let (source, cargo_home) = (dir.join("crate"), dir.join("cargo-home"));
    match source.join("Cargo.lock").is_file() && cargo_home.is_dir() {
        true => Ok((source, cargo_home)),
        false => Err(format!(
            "{} is missing; run scripts/fetch-crate.sh",
            source.display()
        )),
    }
}
