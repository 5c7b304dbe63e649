//! [`Mounted`]: a branch shown at a path of the host by `agentfs mount`, beside a plain directory
//! that started out equal. Most tests do the same to both and compare what was answered.

use std::fmt::Debug;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::cmd::Done;
use crate::manifest::Scope;
use crate::need::{self, need};
use crate::{Manifest, Sandbox, wait};

/// What a mount of root's needs to be like a local file system.
pub const LIKE_LOCAL: &str = "allow_other,suid,dev";
/// The branch that [`Mounted`] shows.
pub const BRANCH: &str = "posix";

/// Whether this machine can mount, and the caller is root: for what only root may compare.
#[must_use]
pub fn need_mount() -> bool {
    need("root") && need("fuse")
}

/// Whether this machine and this user can mount.
#[must_use]
pub fn need_any_mount() -> bool {
    need("fuse") && (need::is_root() || need("program:fusermount3"))
}

/// Options of a mount that is as near to a local file system as the caller can have it.
pub fn likest() -> &'static str {
    if need::is_root() { LIKE_LOCAL } else { "rw" }
}

/// One branch, mounted; unmounted when dropped.
#[derive(Debug)]
pub struct Mounted {
    before: Manifest,
    is_mounted: bool,
    /// The sandbox around it.
    pub sandbox: Sandbox,
}

impl Mounted {
    /// Fills a base and a plain directory with `fill`, and mounts a new branch over the base.
    #[track_caller]
    pub fn new(fill: impl Fn(&Path)) -> Self {
        let sandbox = Sandbox::new();
        // Other users come here too.
        open_to_all(sandbox.root());
        for dir in ["base", "plain", "mnt"] {
            let dir = sandbox.root().join(dir);
            fs::create_dir(&dir).expect("mkdir");
            open_to_all(&dir);
            if !dir.ends_with("mnt") {
                fill(&dir);
            }
        }
        let before = Manifest::of(&sandbox.root().join("base"));
        let mut mounted = Mounted {
            before,
            is_mounted: false,
            sandbox,
        };
        mounted.mount(likest());
        mounted
    }

    /// Where the branch is.
    pub fn mnt(&self) -> PathBuf {
        self.sandbox.root().join("mnt")
    }

    /// The plain directory.
    pub fn plain(&self) -> PathBuf {
        self.sandbox.root().join("plain")
    }

    /// The base, below the branch.
    pub fn base(&self) -> PathBuf {
        self.sandbox.root().join("base")
    }

    /// Mounts the branch, once unmounted, with these options.
    #[track_caller]
    pub fn mount(&mut self, options: &str) {
        mount(&self.sandbox, BRANCH, &self.mnt(), &self.base(), options).ok();
        self.is_mounted = true;
    }

    /// Mounts the branch, once unmounted, with this in the daemon's environment.
    #[track_caller]
    pub fn mount_with(&mut self, name: &str, value: &str) {
        let mut command = self.sandbox.agentfs(&["mount", BRANCH]);
        command.arg(self.mnt()).arg("--base").arg(self.base());
        command.args(["-o", likest()]).env(name, value);
        crate::cmd::run(&mut command).ok();
        self.is_mounted = true;
    }

    /// Unmounts the branch.
    #[track_caller]
    pub fn umount(&mut self) {
        umount(&self.sandbox, &self.mnt());
        self.is_mounted = false;
    }

    /// Unmounts and mounts again.
    #[track_caller]
    pub fn remount(&mut self) {
        self.umount();
        self.mount(likest());
    }

    /// Does `test` to the branch and to the plain directory: both must give the same.
    #[track_caller]
    pub fn same<T: PartialEq + Debug>(&self, test: impl Fn(&Path) -> T) {
        drop(self.agreed(test));
    }

    /// As [`Mounted::same`], and gives what both said.
    #[track_caller]
    pub fn agreed<T: PartialEq + Debug>(&self, test: impl Fn(&Path) -> T) -> T {
        let (ours, theirs) = (test(&self.mnt()), test(&self.plain()));
        assert_eq!(ours, theirs, "left: the branch, right: a plain directory");
        ours
    }

    /// Fails the test unless the branch holds the same tree as the plain directory, now and after
    /// it was unmounted and mounted, and the base is as it was.
    #[track_caller]
    pub fn assert_same_trees(&mut self) {
        self.assert_same_trees_over_changed_base();
        self.before.assert_still();
    }

    /// As [`Mounted::assert_same_trees`], where the test has changed the base itself.
    #[track_caller]
    pub fn assert_same_trees_over_changed_base(&mut self) {
        self.compare("at once");
        self.remount();
        self.compare("mounted again");
    }

    #[track_caller]
    fn compare(&self, when: &str) {
        let (ours, theirs) = (Manifest::of(&self.mnt()), Manifest::of(&self.plain()));
        let wrong = theirs.differences(&ours, Scope::Copy);
        assert!(
            wrong.is_empty(),
            "{when}: (plain, then branch)\n  {}",
            wrong.join("\n  ")
        );
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if !self.is_mounted {
            return;
        }
        if std::thread::panicking() {
            // The failure is already on its way: only take the mount away.
            let flags = nix::mount::MntFlags::MNT_DETACH;
            if nix::mount::umount2(&self.mnt(), flags).is_err() {
                let mut helper = std::process::Command::new("fusermount3");
                let _ = helper.args(["-u", "-z", "--"]).arg(self.mnt()).status();
            }
            return;
        }
        self.umount();
    }
}

/// Set to 1 it has [`mount`] make shared mounts, and this process bound to the branch: what a mount of
/// one branch answers, a shared one must answer too.
const SHARED: &str = "AGENTFS_TEST_SHARED";

fn mount_shared(sandbox: &Sandbox, branch: &str, mnt: &Path, base: &Path, options: &str) -> Done {
    let mut command = sandbox.agentfs(&["mount", "--default-branch", branch, "--shared"]);
    command.arg(mnt).arg("--base").arg(base);
    let done = crate::cmd::run(command.args(["-o", options]));
    if done.code() != 0 {
        return done;
    }
    let mut bind = sandbox.host(crate::bins::control_cli());
    bind.arg("--mount").arg(mnt);
    bind.args(["branch-bind", "--branch", branch, "--pid"]);
    crate::cmd::run(bind.arg(std::process::id().to_string()))
}

/// Calls `agentfs mount`.
pub fn mount(sandbox: &Sandbox, branch: &str, mnt: &Path, base: &Path, options: &str) -> Done {
    if std::env::var_os(SHARED).is_some_and(|set| set == "1") {
        return mount_shared(sandbox, branch, mnt, base, options);
    }
    let mut command = sandbox.agentfs(&["mount", branch]);
    command.arg(mnt).arg("--base").arg(base);
    crate::cmd::run(command.args(["-o", options]))
}

/// Calls `agentfs umount` until it is no longer refused as busy: a process that another test is
/// just starting holds all files of this one until it executes its program.
#[track_caller]
pub fn umount(sandbox: &Sandbox, mnt: &Path) {
    wait::eventually("unmounted", || {
        let mut command = sandbox.agentfs(&["umount"]);
        let done = crate::cmd::run(command.arg(mnt));
        let busy = done.stderr.contains("busy");
        (!busy).then(|| done.ok())
    });
}

fn open_to_all(dir: &Path) {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).expect("chmod");
}

/// Runs `work` as an ordinary user with these groups, on a thread of its own: file systems see
/// that user, and root's privileges over files are off.
#[track_caller]
pub fn as_user<T: Send>(uid: u32, gid: u32, groups: &[u32], work: impl FnOnce() -> T + Send) -> T {
    let groups: Vec<_> = groups
        .iter()
        .map(|g| rustix::thread::Gid::from_raw(*g))
        .collect();
    let run = move || {
        rustix::thread::set_thread_groups(&groups).expect("setgroups");
        nix::unistd::setfsgid(gid.into());
        nix::unistd::setfsuid(uid.into());
        let is_set = nix::unistd::setfsuid(uid.into()).as_raw() == uid;
        assert!(is_set, "cannot become user {uid}");
        work()
    };
    std::thread::scope(|scope| match scope.spawn(run).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
