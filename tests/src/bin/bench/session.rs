//! A subject made ready for one round: its tree, its mount, a worker in it. Dropped, all of it goes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agentfs_tests::sandbox::SYSTEM_PATH;
use agentfs_tests::wait;

use crate::disk::Disk;
use crate::fixture::{Fixture, Sizes};
use crate::rows::Place;
use crate::subject::{Form, Kind, Subject};
use crate::worker::Worker;
use crate::{Fallible, called, disk};

/// The branch of every session.
pub const BRANCH: &str = "bench";

/// What all sessions have in common.
#[derive(Debug)]
pub struct Common {
    /// The disk's top.
    pub top: PathBuf,
    pub base: PathBuf,
    /// The same, as the ordinary user's own: not even root may write to another's files in a run.
    pub user_base: PathBuf,
    pub share: PathBuf,
    /// The programs, where everybody can execute them.
    pub bin: PathBuf,
    /// The ordinary user.
    pub user: Option<String>,
    pub sysroot: Option<PathBuf>,
    pub sizes: Sizes,
    /// Logs of the subjects go there.
    pub logs: PathBuf,
}

/// What [`common`] needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub scratch: &'a Path,
    pub logs: &'a Path,
    pub user: Option<&'a str>,
    pub sizes: &'a Sizes,
    /// Whether the ordinary user is among the subjects.
    pub has_user: bool,
    pub has_toolchain: bool,
}

/// Programs and toolchain where every user can execute them, and a base that is the user's own.
pub fn common(wanted: &Wanted<'_>, disk: &Disk, fixture: &Fixture) -> Fallible<Common> {
    let bin = wanted.scratch.join("bin");
    fs::create_dir_all(&bin)?;
    let programs = [
        ("agentfs", agentfs_tests::bins::agentfs()),
        ("agentfs-fsd", agentfs_tests::bins::daemon()),
        ("agentfs-test-bench", std::env::current_exe()?),
    ];
    for (name, from) in programs {
        fs::copy(&from, bin.join(name)).map_err(|e| format!("{}: {e}", from.display()))?;
    }
    let mut user_base = fixture.base.clone();
    let other_user = wanted.user.filter(|_| wanted.has_user);
    if let Some(user) = other_user {
        user_base = disk.top.join("user-base");
        let mut copy = Command::new("cp");
        called(
            copy.args(["-a", "--sparse=always"])
                .arg(&fixture.base)
                .arg(&user_base),
        )?;
        let mut chown = Command::new("chown");
        called(chown.arg("-R").arg(format!("{user}:")).arg(&user_base))?;
    }
    let sysroot = match wanted.has_toolchain {
        true => Some(toolchain(wanted.scratch, other_user.is_some())?),
        false => None,
    };
    Ok(Common {
        top: disk.top.clone(),
        base: fixture.base.clone(),
        user_base,
        share: fixture.share.clone(),
        bin,
        user: wanted.user.map(str::to_owned),
        sysroot,
        sizes: wanted.sizes.clone(),
        logs: wanted.logs.to_path_buf(),
    })
}

/// The toolchain, linked to where others can read it when they have to.
fn toolchain(scratch: &Path, is_shared: bool) -> Fallible<PathBuf> {
    let sysroot = agentfs_tests::bins::sysroot();
    if !is_shared {
        return Ok(sysroot);
    }
    let to = scratch.join("toolchain");
    fs::create_dir_all(&to)?;
    for part in ["bin", "lib"] {
        let from = sysroot.join(part);
        let mut link = Command::new("cp");
        if called(link.arg("-al").arg(&from).arg(&to)).is_err() {
            called(Command::new("cp").arg("-a").arg(&from).arg(&to))?;
        }
    }
    Ok(to)
}

/// One subject, ready.
#[derive(Debug)]
pub struct Session {
    pub worker: Worker,
    // Dropped after the worker: what carries it.
    _mount: Option<Mount>,
    /// Its directory on the disk.
    pub dir: PathBuf,
    keeps: bool,
}

/// A mount of ours, with its daemon where it has one.
#[derive(Debug)]
struct Mount {
    point: PathBuf,
    daemon: Option<Child>,
}

impl Drop for Mount {
    fn drop(&mut self) {
        disk::unmount(&self.point);
        if let Some(daemon) = &mut self.daemon {
            let end = Instant::now() + Duration::from_secs(10);
            while Instant::now() < end && matches!(daemon.try_wait(), Ok(None)) {
                wait::pause(Duration::from_millis(5));
            }
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }
}

impl Common {
    /// The base that belongs to whoever runs that form.
    pub fn base_of(&self, form: &Form) -> &Path {
        if form.is_user {
            &self.user_base
        } else {
            &self.base
        }
    }
}

impl Session {
    /// Makes `subject` ready.
    pub fn open(common: &Common, subject: &Subject) -> Fallible<Self> {
        Self::open_as(common, subject, &subject.slug())
    }

    /// One of several of the same subject, each with a name of its own.
    pub fn open_as(common: &Common, subject: &Subject, name: &str) -> Fallible<Self> {
        let dir = common.top.join("subjects").join(name);
        let keeps = subject.kind == Kind::Host;
        for part in ["home", "upper", "work", "merged"] {
            fs::create_dir_all(dir.join(part))?;
        }
        fs::write(
            dir.join("home/.gitconfig"),
            "[safe]\n\tdirectory = *\n[gc]\n\tauto = 0\n",
        )?;
        let mut session = Opened {
            common,
            dir: dir.clone(),
            mount: None,
        };
        let command = match &subject.kind {
            Kind::Host => session.host()?,
            Kind::Overlayfs => session.overlayfs()?,
            Kind::FuseOverlayfs => session.fuse_overlayfs(subject)?,
            Kind::Agentfs(form) => session.agentfs(form)?,
            Kind::Bwrap => return Err("only starts commands".into()),
        };
        let worker = start(common, subject, command)?;
        Ok(Session {
            worker,
            _mount: session.mount,
            dir,
            keeps,
        })
    }

    /// Ends it, and removes what it wrote.
    pub fn close(self) -> Fallible<()> {
        let (dir, keeps) = (self.dir.clone(), self.keeps);
        drop(self);
        let left = match keeps {
            true => dir.join("tree/work"),
            false => dir,
        };
        match agentfs_tests::sandbox::remove_tree(&left) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(format!("{}: {e}", left.display()).into())
            }
            _ => Ok(()),
        }
    }
}

struct Opened<'a> {
    common: &'a Common,
    dir: PathBuf,
    mount: Option<Mount>,
}

impl Opened<'_> {
    /// A copy of the base; it stays for the later rounds.
    fn host(&self) -> Fallible<Command> {
        let tree = self.dir.join("tree");
        if !tree.exists() {
            let mut copy = Command::new("cp");
            copy.args(["-a", "--sparse=always"]).arg(&self.common.base);
            called(copy.arg(&tree))?;
        }
        self.worker_at(&tree)
    }

    fn overlayfs(&mut self) -> Fallible<Command> {
        need_root()?;
        let point = self.dir.join("merged");
        let mut mount = Command::new("mount");
        mount.args(["-t", "overlay", "overlay", "-o", &self.layers()]);
        called(mount.arg(&point))?;
        self.mount = Some(Mount {
            point: point.clone(),
            daemon: None,
        });
        self.worker_at(&point)
    }

    fn fuse_overlayfs(&mut self, subject: &Subject) -> Fallible<Command> {
        need_root()?;
        if called(Command::new("fuse-overlayfs").arg("--version")).is_err() {
            return Err("fuse-overlayfs is not installed".into());
        }
        let point = self.dir.join("merged");
        let log = log(self.common, subject)?;
        // In the foreground, and never left behind.
        let daemon = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "fuse-overlayfs",
                "-f",
                "-o",
                &self.layers(),
            ])
            .arg(&point)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .map_err(|e| format!("setpriv: {e}"))?;
        self.mount = Some(Mount {
            point: point.clone(),
            daemon: Some(daemon),
        });
        let end = Instant::now() + Duration::from_secs(10);
        while !point.join("crates").exists() {
            if Instant::now() > end {
                return Err("fuse-overlayfs did not mount within 10 s; its log tells why".into());
            }
            wait::pause(Duration::from_millis(5));
        }
        self.worker_at(&point)
    }

    fn layers(&self) -> String {
        format!(
            "lowerdir={},upperdir={},workdir={}",
            self.common.base.display(),
            self.dir.join("upper").display(),
            self.dir.join("work").display()
        )
    }

    fn agentfs(&self, form: &Form) -> Fallible<Command> {
        let common = self.common;
        let base = common.base_of(form);
        let mut command = launcher(common, form, &self.dir)?;
        command
            .args(["run", "--quiet", "--branch", BRANCH, "--cow"])
            .arg(base);
        for shown in [&common.bin, &common.share] {
            command.arg("--ro").arg(shown);
        }
        if let Some(sysroot) = &common.sysroot {
            command.arg("--ro").arg(sysroot);
        }
        command.arg("--").arg(common.bin.join("agentfs-test-bench"));
        command
            .args(["worker", &self.place(base)?])
            .current_dir(base);
        Ok(command)
    }

    fn worker_at(&self, top: &Path) -> Fallible<Command> {
        let mut command = Command::new(self.common.bin.join("agentfs-test-bench"));
        command.args(["worker", &self.place(top)?]).current_dir(top);
        Ok(command)
    }

    fn place(&self, top: &Path) -> Fallible<String> {
        Ok(serde_json::to_string(&Place {
            top: top.to_path_buf(),
            share: self.common.share.clone(),
            home: self.dir.join("home"),
            sysroot: self.common.sysroot.clone(),
            sizes: self.common.sizes.clone(),
            chosen: Default::default(),
        })?)
    }
}

/// The launcher of a form, as its user, with a store and a home of its own below `dir`.
pub fn launcher(common: &Common, form: &Form, dir: &Path) -> Fallible<Command> {
    let bin = form.bin.as_deref().unwrap_or(&common.bin);
    let program = bin.join("agentfs");
    let is_other_user = form.is_user && rustix::process::geteuid().is_root();
    let mut command = match is_other_user {
        false => Command::new(program),
        true => {
            let user = common
                .user
                .as_ref()
                .ok_or("there is no ordinary user: run scripts/bench.sh")?;
            called(
                Command::new("chown")
                    .arg("-R")
                    .arg(format!("{user}:"))
                    .arg(dir),
            )?;
            let mut command = Command::new("setpriv");
            command
                .arg(format!("--reuid={user}"))
                .arg(format!("--regid={user}"));
            command.args(["--init-groups", "--"]).arg(program);
            command
        }
    };
    command
        .env_clear()
        .env("PATH", SYSTEM_PATH)
        .env("LANG", "C.UTF-8")
        .env("HOME", dir.join("home"))
        .env("AGENTFS_STORE", dir.join("store"))
        .envs(knobs())
        .envs(form.env.iter().map(|(name, value)| (name, value)));
    if let Some(marker) = std::env::var_os("SUITE_MARKER") {
        command.env("SUITE_MARKER", marker);
    }
    Ok(command)
}

/// What the caller's environment tells agentfs: passed on to all of its forms.
pub fn knobs() -> impl Iterator<Item = (String, String)> {
    std::env::vars().filter(|(name, _)| name.starts_with("AGENTFS_FUSE_") || name == "AGENTFS_LOG")
}

fn start(common: &Common, subject: &Subject, mut command: Command) -> Fallible<Worker> {
    let path = log_path(common, subject);
    command.stderr(log(common, subject)?);
    Worker::start(command).map_err(|e| {
        let said = fs::read_to_string(&path).unwrap_or_default();
        let last: Vec<_> = said.lines().rev().take(3).collect();
        let last: Vec<_> = last.into_iter().rev().collect();
        format!("{e}: {}", last.join(" ")).into()
    })
}

fn log_path(common: &Common, subject: &Subject) -> PathBuf {
    common.logs.join(format!("{}.log", subject.slug()))
}

fn log(common: &Common, subject: &Subject) -> Fallible<fs::File> {
    let path = log_path(common, subject);
    Ok(fs::File::options().create(true).append(true).open(path)?)
}

fn need_root() -> Fallible<()> {
    match rustix::process::geteuid().is_root() {
        true => Ok(()),
        false => Err("needs root".into()),
    }
}
