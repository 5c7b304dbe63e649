//! [`Several`]: a mount of several branches, made by `agentfs mount --shared`, and shells bound to them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cmd::{self, Done};
use crate::{Manifest, Sandbox, Shell, bins, mounted, need};

/// One shared mount; unmounted when dropped. Shells must be dropped before.
#[derive(Debug)]
pub struct Several {
    before: Manifest,
    is_mounted: bool,
    /// The sandbox around it.
    pub sandbox: Sandbox,
}

impl Several {
    /// Fills a base with `fill`, and mounts it.
    #[track_caller]
    pub fn new(fill: impl Fn(&Path)) -> Self {
        let sandbox = Sandbox::new();
        for dir in ["", "base", "mnt"] {
            let dir = sandbox.root().join(dir);
            fs::create_dir_all(&dir).expect("mkdir");
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("chmod");
        }
        let base = sandbox.root().join("base");
        fill(&base);
        let before = Manifest::of(&base);
        let mut several = Self {
            before,
            is_mounted: false,
            sandbox,
        };
        several.mount();
        several
    }

    /// Where it is.
    pub fn mnt(&self) -> PathBuf {
        self.sandbox.root().join("mnt")
    }

    /// The host's files below.
    pub fn base(&self) -> PathBuf {
        self.sandbox.root().join("base")
    }

    /// Mounts it, as other users can use it if that is for us to say.
    #[track_caller]
    pub fn mount(&mut self) {
        let mut command = self.sandbox.agentfs(&["mount", "--shared"]);
        command.arg(self.mnt()).arg("--base").arg(self.base());
        let options = if need::is_root() {
            "allow_other,suid,dev"
        } else {
            "rw"
        };
        cmd::run(command.args(["-o", options])).ok();
        self.is_mounted = true;
    }

    /// Unmounts it.
    #[track_caller]
    pub fn umount(&mut self) {
        mounted::umount(&self.sandbox, &self.mnt());
        self.is_mounted = false;
    }

    /// For a mount whose daemon was killed: it was unmounted by other means.
    pub fn is_gone(&mut self) {
        self.is_mounted = false;
    }

    /// Calls `agentfs-control-cli --mount` with `args`.
    pub fn control(&self, args: &[&str]) -> Done {
        cmd::run(&mut self.control_command(args))
    }

    fn control_command(&self, args: &[&str]) -> Command {
        let mut command = self.sandbox.host(bins::control_cli());
        command.arg("--mount").arg(self.mnt()).args(args);
        command
    }

    /// The same with `--json`; gives the answer.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> serde_json::Value {
        let done = self.control(&[args, &["--json"]].concat()).ok();
        serde_json::from_slice(&done.stdout).unwrap_or_else(|e| panic!("{e}\n{}", done.report()))
    }

    /// The branch of who is bound to none.
    #[track_caller]
    pub fn default_branch(&self) -> String {
        let status = self.json(&["status"]);
        status["branch"].as_str().expect("a name").to_owned()
    }

    /// Makes branches of what the default branch holds now.
    #[track_caller]
    pub fn branches(&self, names: &[&str]) {
        let id = self.control(&["snapshot-create"]).ok().out();
        for name in names {
            let args = ["branch-create", "--snapshot", id.trim(), "--name", name];
            assert_eq!(self.control(&args).ok().out(), format!("{name}\n"));
        }
    }

    /// A shell beside the mount, which it has as `$M`; bound to nothing.
    pub fn shell(&self) -> Shell {
        let mut command = self.sandbox.host("bash");
        command.env("M", self.mnt());
        Shell::start(command)
    }

    /// Binds a process.
    #[track_caller]
    pub fn bind(&self, branch: &str, pid: u32) {
        let pid = pid.to_string();
        self.control(&["branch-bind", "--branch", branch, "--pid", &pid])
            .ok();
    }

    /// A shell that is bound to `branch`.
    #[track_caller]
    pub fn bound(&self, branch: &str) -> Shell {
        let shell = self.shell();
        self.bind(branch, shell.pid());
        shell
    }
}

impl Drop for Several {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let flags = nix::mount::MntFlags::MNT_DETACH;
            if self.is_mounted && nix::mount::umount2(&self.mnt(), flags).is_err() {
                let mut helper = Command::new("fusermount3");
                let _ = helper.args(["-u", "-z", "--"]).arg(self.mnt()).status();
            }
            return;
        }
        if self.is_mounted {
            self.umount();
        }
        // Whatever the branches did: the host's files are as they were.
        self.before.assert_still();
    }
}
