//! [`Sandbox`]: a test's own home, workspace, store and scratch directory, and the launcher called
//! in that world. Dropped, it checks that no process and no mount of the test is left.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::cmd::{self, Done, Running};
use crate::{Manifest, base, bins, leak};

/// What a runner of the tests may set for the product: how it is served, its log, its coverage.
const PASSED_ON: [&str; 6] = [
    "AGENTFS_FUSE_TRANSPORT",
    crate::regime::VARIABLE,
    "AGENTFS_WATCHES",
    "AGENTFS_LOG",
    "RUST_BACKTRACE",
    "LLVM_PROFILE_FILE",
];

/// Where programs are looked for: the system's own, never a developer's shims.
pub const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The variable that marks every process of one sandbox.
pub const MARKER: &str = "SUITE_MARKER";

/// One test's world.
#[derive(Debug)]
pub struct Sandbox {
    root: PathBuf,
    marker: String,
}

impl Sandbox {
    /// Makes an empty one below `AGENTFS_TEST_DIR` (default `/var/tmp`; `/tmp` is private in a
    /// run, so it would show less of the truth).
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let parent = std::env::var_os("AGENTFS_TEST_DIR").unwrap_or_else(|| "/var/tmp".into());
        let name = format!(
            "agentfs-t{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        Self::below(Path::new(&parent), &name)
    }

    /// A new one with the small base tree in its workspace, and the manifest of that.
    pub fn small() -> (Self, Manifest) {
        let sandbox = Self::new();
        base::small(&sandbox.work());
        let before = Manifest::of(&sandbox.work());
        (sandbox, before)
    }

    /// Makes an empty one in `parent`, under `name`.
    pub fn below(parent: &Path, name: &str) -> Self {
        let root = parent.join(name);
        fs::create_dir(&root).unwrap_or_else(|e| panic!("{}: {e}", root.display()));
        let root = root.canonicalize().expect("the sandbox's real path");
        for dir in ["home", "work", "out"] {
            fs::create_dir(root.join(dir)).expect("a directory of the sandbox");
        }
        fs::set_permissions(root.join("home"), fs::Permissions::from_mode(0o700)).expect("chmod");
        let gitconfig = "[user]\n\tname = Test\n\temail = test@example.com\n\
                         [init]\n\tdefaultBranch = main\n[gc]\n\tauto = 0\n";
        fs::write(root.join("home/.gitconfig"), gitconfig).expect(".gitconfig");
        let marker = format!("{}-{name}", std::process::id());
        Sandbox { root, marker }
    }

    /// The directory that holds all of it.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The home directory of the runs.
    pub fn home(&self) -> PathBuf {
        self.root.join("home")
    }

    /// The workspace: where the launcher is called.
    pub fn work(&self) -> PathBuf {
        self.root.join("work")
    }

    /// The store; made by the launcher.
    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// A directory outside of every copy-on-write root, for `--rw` and for notes to the test.
    pub fn out(&self) -> PathBuf {
        self.root.join("out")
    }

    /// Gives `command` this sandbox's environment and working directory.
    pub fn adopt(&self, command: &mut Command) {
        command
            .env_clear()
            .env("PATH", SYSTEM_PATH)
            .env("HOME", self.home())
            .env(
                "USER",
                if crate::need::is_root() {
                    "root"
                } else {
                    "agentfs-test"
                },
            )
            .env("LANG", "C.UTF-8")
            .env("TERM", "dumb")
            .env("AGENTFS_STORE", self.store())
            .env(MARKER, &self.marker)
            .current_dir(self.work());
        for name in PASSED_ON {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
    }

    /// A program of the host in this world.
    pub fn host(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        self.adopt(&mut command);
        command
    }

    /// A shell script on the host; it must succeed.
    #[track_caller]
    pub fn host_sh(&self, script: &str) -> Done {
        cmd::run(self.host("bash").args(["-euo", "pipefail", "-c", script])).ok()
    }

    /// The launcher, called with `args`.
    pub fn agentfs<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = self.host(bins::agentfs());
        command.args(args);
        command
    }

    /// Calls the launcher and waits for it.
    pub fn call<S: AsRef<OsStr>>(&self, args: &[S]) -> Done {
        cmd::run(&mut self.agentfs(args))
    }

    /// Starts the launcher.
    pub fn start<S: AsRef<OsStr>>(&self, args: &[S]) -> Running {
        cmd::start(self.agentfs(args).stdin(std::process::Stdio::null()))
    }

    /// Runs a shell script on `branch`, quietly.
    pub fn sh(&self, branch: &str, script: &str) -> Done {
        self.call(&[
            "run", "--quiet", "--branch", branch, "--", "bash", "-c", script,
        ])
    }

    /// Starts a shell script on `branch`.
    pub fn start_sh(&self, branch: &str, script: &str) -> Running {
        self.start(&[
            "run", "--quiet", "--branch", branch, "--", "bash", "-c", script,
        ])
    }

    /// The branch's row of `ls-branches --json`.
    #[track_caller]
    pub fn row(&self, branch: &str) -> serde_json::Value {
        let rows = self.rows();
        let found = rows.iter().find(|row| row["name"] == branch);
        found
            .unwrap_or_else(|| panic!("no branch {branch} in {rows:?}"))
            .clone()
    }

    /// All rows of `ls-branches --json`.
    #[track_caller]
    pub fn rows(&self) -> Vec<serde_json::Value> {
        let done = self.call(&["ls-branches", "--json"]).ok();
        let value: serde_json::Value = serde_json::from_slice(&done.stdout)
            .unwrap_or_else(|e| panic!("no JSON: {e}\n{}", done.report()));
        let rows = value.as_array().or_else(|| value["branches"].as_array());
        rows.unwrap_or_else(|| panic!("no list of branches in {value}"))
            .clone()
    }

    /// Pids of the daemons that serve this sandbox's store.
    pub fn daemons(&self) -> Vec<i32> {
        leak::processes_of(&self.marker, &self.store())
            .into_iter()
            .filter(|p| p.name == "agentfs-fsd")
            .map(|p| p.pid)
            .collect()
    }

    /// Every process of this sandbox that is alive.
    pub fn processes(&self) -> Vec<leak::Process> {
        leak::processes_of(&self.marker, &self.store())
    }

    /// Waits until nothing of this sandbox lives, and fails the test if something stays.
    #[track_caller]
    pub fn assert_quiet(&self) {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        loop {
            let left = self.processes();
            if left.is_empty() {
                break;
            }
            assert!(
                std::time::Instant::now() < end,
                "processes are left: {left:#?}"
            );
            crate::wait::pause(std::time::Duration::from_millis(10));
        }
        let mounts = leak::mounts_below(&self.root);
        assert!(mounts.is_empty(), "mounts are left: {mounts:#?}");
    }
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The failure is already on its way; end what this test started, and no more.
            for process in self.processes() {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(process.pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
            if std::env::var_os("AGENTFS_TEST_KEEP").is_some() {
                eprintln!("kept {}", self.root.display());
                return;
            }
            let _ = remove_tree(&self.root);
            return;
        }
        self.assert_quiet();
        remove_tree(&self.root).unwrap_or_else(|e| panic!("{}: {e}", self.root.display()));
    }
}

/// Removes a tree, also one with directories that forbid it.
pub fn remove_tree(dir: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            open_up(dir)?;
            fs::remove_dir_all(dir)
        }
        other => other,
    }
}

fn open_up(dir: &Path) -> std::io::Result<()> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}
