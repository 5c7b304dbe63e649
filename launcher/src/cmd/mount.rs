//! `agentfs mount` and `agentfs umount`: a branch at a path of the host, for tools that want a path.
//!
//! Also what `mount -t fuse.agentfs` calls, through a link named `mount.fuse.agentfs`.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use agentfs_fsd::backstore::{BranchInfo, Hidden, Listed, NewBranch, RunExit, RunRecord, Store};
use agentfs_fsd::core::types::{BranchName, Time};
use agentfs_fsd::ctl::client::Client;
use agentfs_fsd::ctl::msg::MountSpec;

use crate::cli::{MountArgs, UmountArgs};
use crate::cmd::Globals;
use crate::cmd::run::{Here, find};
use crate::daemon::{self, Daemon};
use crate::error::CmdError;
use crate::hostmount::{self, Options};
use crate::limit::Wanted;
use crate::made::BranchGuard;
use crate::probe;
use crate::review::style::escape_word;
use crate::say::say;

/// How long the daemon may take to close a branch whose mount is gone.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long others' mounts at the same place may take.
const TURN_PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(5);
/// Stands before the branch's name in the mount table.
const SOURCE_PREFIX: &str = "agentfs:";
/// Where to learn what is mounted.
const MOUNTS_SHOWN: &str = "`agentfs ls` shows what is mounted";
/// The first word of the run record of a mount, where a run has its command.
pub const RECORD_WORD: &str = agentfs_fsd::ctl::msg::MOUNT_WORD;

/// Mounts a branch, or changes the options of a mounted one.
pub fn mount(args: &MountArgs, globals: &Globals) -> Result<ExitCode, CmdError> {
    let mut options = Options::parse(args.options.iter().map(OsString::as_os_str))?;
    let make = "make the directory first, with mkdir";
    let mountpoint = args.shared.as_ref().or(args.mountpoint.as_ref());
    let mountpoint = mountpoint.ok_or_else(|| {
        CmdError::refused(
            "mount",
            "no mount point was named",
            "agentfs mount NAME MNT",
        )
    })?;
    let target = real_dir("mount point", mountpoint, make)?;
    // There the branches' attributes differ: the daemon checks, the kernel cannot.
    options.default_permissions &= args.shared.is_none();
    if options.remount {
        if hostmount::ours_at(&target)?.is_none() {
            return Err(not_ours(&target));
        }
        hostmount::remount(&target, &options)?;
        return Ok(ExitCode::SUCCESS);
    }
    let globals = Globals {
        store_path: options
            .store
            .take()
            .unwrap_or_else(|| globals.store_path.clone()),
    };
    // Held until the mount is made or refused: of several at once, one finds the place free.
    let _turn = turn(&target);
    refuse_taken(&target)?;
    let here = Here::look(&globals)?;
    let store = Store::open_or_create(&here.store)?;
    let branch = match args.branch.as_ref().or(args.default_branch.as_ref()) {
        Some(branch) => branch.clone(),
        None => default_branch(&target)?,
    };
    let info = find(&store, &branch)?;
    if let Some(pid) = store.live_owner(&branch).ok().flatten() {
        return Err(CmdError::refused(
            format!("branch {branch}"),
            format!("is live, its daemon is pid {pid}"),
            "wait for its runs to end, or unmount it where it is mounted",
        ));
    }
    let base = base(args, &mut options, info.as_ref(), &here)?;
    if base.starts_with(&here.store) {
        return Err(CmdError::refused(
            format!("base {}", base.display()),
            format!("lies inside the store {}", here.store.display()),
            "choose another directory with --base, or another store",
        ));
    }
    if base.starts_with(&target) {
        return Err(CmdError::refused(
            format!("mount point {}", target.display()),
            format!("covers what is to be shown, {}", base.display()),
            "mount at another directory, best an empty one, or choose what is shown with --base",
        ));
    }
    let program = daemon::program()?;
    let made = match info {
        Some(_) => None,
        None => {
            let new = NewBranch {
                workspace: base.clone(),
            };
            let made = store.create_branch(&branch, None, new)?;
            Some(BranchGuard::new(&store, made))
        }
    };
    let wanted = Wanted {
        asked: args.disk,
        ..Wanted::default()
    };
    wanted.settle(&store, &branch)?;
    let place = Place {
        target: &target,
        base: &base,
        shared: args.shared.is_some(),
    };
    start(&program, &store, &branch, place, &options)?;
    if let Some(made) = made {
        made.keep();
    }
    Ok(ExitCode::SUCCESS)
}

/// The branch that a shared mount at this place has for who is bound to none: the same each time.
fn default_branch(target: &Path) -> Result<BranchName, CmdError> {
    use sha2::Digest;
    /// So that the whole is a branch name.
    const WORD_BYTES: usize = 48;
    let hash = sha2::Sha256::digest(target.as_os_str().as_bytes());
    let hash: String = hash[..4].iter().map(|b| format!("{b:02x}")).collect();
    let word = target.file_name().unwrap_or_default().as_bytes();
    let word: String = (word.iter().take(WORD_BYTES))
        .map(|b| char::from(*b))
        .map(|c| match c {
            c if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') => c,
            _ => '-',
        })
        .collect();
    let word = word.trim_start_matches(['.', '_', '-']);
    let word = if word.is_empty() { "shared" } else { word };
    Ok(BranchName::new(&format!("{word}-{hash}"))?)
}

/// Where a branch is mounted, and how.
#[derive(Clone, Copy, Debug)]
struct Place<'a> {
    target: &'a Path,
    base: &'a Path,
    shared: bool,
}

/// The directory to show: as asked, else the branch's workspace, else that of the caller.
fn base(
    args: &MountArgs,
    options: &mut Options,
    info: Option<&BranchInfo>,
    here: &Here,
) -> Result<PathBuf, CmdError> {
    match (args.base.clone().or(options.base.take()), info) {
        (Some(base), _) => real_dir("base", &base, "name a directory that exists"),
        (None, Some(info)) => {
            let fix = "name the directory to show with --base DIR";
            real_dir("the branch's workspace", &info.workspace, fix)
        }
        (None, None) => Ok(probe::workspace(&here.cwd)),
    }
}

fn start(
    program: &Path,
    store: &Store,
    branch: &BranchName,
    place: Place<'_>,
    options: &Options,
) -> Result<(), CmdError> {
    let (mut daemon, connection) = Daemon::start(program, store, branch)?;
    let started = serve(&mut daemon, connection, (store, branch), place, options);
    if started.is_err() {
        // It lets go of the branch, so that a new one can be taken back.
        daemon.end();
    }
    started
}

fn serve(
    daemon: &mut Daemon,
    connection: OwnedFd,
    (store, branch): (&Store, &BranchName),
    place: Place<'_>,
    options: &Options,
) -> Result<(), CmdError> {
    let Place { target, base, .. } = place;
    let client = Client::over(connection).map_err(|e| daemon.error(CmdError::daemon(branch, e)))?;
    store.add_hidden(branch, &[Hidden::whole(store.path())])?;
    let source = options
        .source
        .clone()
        .unwrap_or_else(|| format!("{SOURCE_PREFIX}{branch}").into());
    let device = hostmount::mount_at(target, &source, options)?;
    if let Err(e) = attach(store, &client, &device, place) {
        // Nobody serves it: whoever looked at it would hang.
        drop(device);
        let undone = hostmount::unmount(target, true);
        let e = daemon.error(CmdError::daemon(branch, e));
        if let Err(undo) = undone {
            say!("agentfs: {undo}");
        }
        return Err(e);
    }
    let record = RunRecord {
        command: vec![RECORD_WORD.into(), target.into()],
        cwd: base.to_owned(),
        pid: client.pid(),
        start_ticks: start_ticks(client.pid()),
        started: Time::now(),
        ended: None,
        exit: None,
    };
    store.put_run(branch, &record)?;
    Ok(())
}

fn attach(
    store: &Store,
    client: &Client,
    device: &OwnedFd,
    place: Place<'_>,
) -> Result<(), agentfs_fsd::ctl::CtlError> {
    let spec = MountSpec {
        root: Some(place.base.to_owned()),
        // A mount on the host knows the host's ids.
        only_ids: None,
        mountpoint: Some(place.target.to_owned()),
        roots: vec![place.base.to_owned()],
        policy: None,
        conceal: vec![store.path().to_owned()],
        covered: Vec::new(),
        shared: place.shared,
        // The kernel gives it to root alone.
        passthrough: rustix::process::geteuid().is_root(),
    };
    client.attach(spec, device.as_fd(), None)
}

fn start_ticks(pid: u32) -> u64 {
    let process = procfs::process::Process::new(pid.cast_signed());
    process
        .and_then(|p| p.stat())
        .map_or(0, |stat| stat.starttime)
}

/// Unmounts, and returns once the branch is closed: it can be mounted or run on again at once.
pub fn umount(args: &UmountArgs, globals: &Globals) -> Result<ExitCode, CmdError> {
    // Of a mount whose daemon died, the path is all that can be had.
    let target = std::fs::canonicalize(&args.mountpoint).map_err(|e| {
        let what = format!("mount point {}", args.mountpoint.display());
        CmdError::refused(what, e.to_string(), MOUNTS_SHOWN)
    })?;
    if hostmount::ours_at(&target)?.is_none() {
        return Err(not_ours(&target));
    }
    let here = Here::look(globals)?;
    let store = Store::open(&here.store)?;
    let served = match &store {
        Some(store) => served_at(store, &target)?,
        None => Vec::new(),
    };
    hostmount::unmount(&target, args.lazy)?;
    if let Some(store) = store {
        for (info, run) in served {
            await_close(&store, &info, &run)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The branches that living daemons serve at `target`.
pub fn served_at(store: &Store, target: &Path) -> Result<Vec<(BranchInfo, RunRecord)>, CmdError> {
    let words: [OsString; 2] = [RECORD_WORD.into(), target.into()];
    let mut served = Vec::new();
    for listed in store.list()? {
        let Listed::Branch(info) = listed else {
            continue;
        };
        let Some(run) = info.last_run.clone() else {
            continue;
        };
        let is_open = run.command == words && run.ended.is_none();
        if is_open && store.live_owner(&info.name)? == Some(run.pid) {
            served.push((info, run));
        }
    }
    Ok(served)
}

fn await_close(store: &Store, info: &BranchInfo, run: &RunRecord) -> Result<(), CmdError> {
    let deadline = Instant::now() + PATIENCE;
    while store.live_owner(&info.name)? == Some(run.pid) {
        if Instant::now() >= deadline {
            return Err(CmdError::refused(
                format!("branch {}", info.name),
                format!(
                    "is unmounted, but its daemon, pid {}, does not end",
                    run.pid
                ),
                "something may still use the mount in another mount namespace; see fsd.log",
            ));
        }
        std::thread::sleep(PAUSE);
    }
    let ended = RunRecord {
        ended: Some(Time::now()),
        exit: Some(RunExit::Code(0)),
        ..run.clone()
    };
    Ok(store.put_run(&info.name, &ended)?)
}

pub fn not_ours(target: &Path) -> CmdError {
    CmdError::refused(
        format!("{}", target.display()),
        "no branch is mounted there",
        MOUNTS_SHOWN,
    )
}

/// The real path of a directory; `if_none`: what to do if there is none.
fn real_dir(what: &'static str, path: &Path, if_none: &str) -> Result<PathBuf, CmdError> {
    let refused =
        |why: &str, hint: &str| CmdError::refused(format!("{what} {}", path.display()), why, hint);
    let real = std::fs::canonicalize(path).map_err(|e| match e.kind() {
        ErrorKind::NotFound => refused(&e.to_string(), if_none),
        _ => refused(&e.to_string(), "name a directory that you can enter"),
    })?;
    if hostmount::is_dead(&real) {
        return Err(refused(
            "has a mount whose daemon is gone",
            "take it away with `agentfs umount`, or `umount -l` if it is not of agentfs",
        ));
    }
    match std::fs::metadata(&real) {
        Ok(meta) if meta.is_dir() => Ok(real),
        Ok(_) => Err(refused("is not a directory", "name a directory")),
        Err(e) => Err(CmdError::io(what, path, e)),
    }
}

/// Refuses a place that shows a branch already: a second one would hide it.
fn refuse_taken(target: &Path) -> Result<(), CmdError> {
    let Some(mount) = hostmount::ours_at(target)? else {
        return Ok(());
    };
    let source = escape_word(mount.source.as_bytes());
    let what = match source.strip_prefix(SOURCE_PREFIX) {
        Some(branch) => format!("branch {branch} is mounted there"),
        None => format!("a branch is mounted there, as '{source}'"),
    };
    Err(CmdError::refused(
        format!("mount point {}", target.display()),
        what,
        "agentfs umount it first, or choose another directory",
    ))
}

/// Waits for other mounts at `target` that are just being made. Without it where the directory
/// cannot be read, or somebody keeps its lock for other ends: then two at once may both be made.
fn turn(target: &Path) -> Option<std::fs::File> {
    let dir = std::fs::File::open(target).ok()?;
    let deadline = Instant::now() + TURN_PATIENCE;
    while let Err(std::fs::TryLockError::WouldBlock) = dir.try_lock() {
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(PAUSE);
    }
    Some(dir)
}

/// The name under which mount(8) calls this program.
pub const HELPER_NAME: &str = "mount.fuse.agentfs";

/// Turns a mount helper's arguments (`SOURCE DIR [-sfnv] [-o OPTIONS]`) into those of
/// `agentfs mount`. Source: mount(8), "external helpers".
pub fn helper_args(args: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut out: Vec<OsString> = vec!["agentfs".into(), "mount".into()];
    let mut args = args.skip(1);
    while let Some(arg) = args.next() {
        match arg.to_str() {
            Some("-o") => {
                out.push("-o".into());
                out.extend(args.next());
            }
            // Sloppy, fake, no mtab, verbose; -t and -N come with a value.
            Some("-t" | "-N") => drop(args.next()),
            Some(flag) if flag.starts_with('-') && !flag.starts_with("-o") => {}
            // On a remount mount(8) passes what the mount table shows as source.
            Some(word) => out.push(word.strip_prefix(SOURCE_PREFIX).unwrap_or(word).into()),
            None => out.push(arg),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_mount_finds_its_branch_again() {
        let name = |path: &str| default_branch(Path::new(path)).unwrap().to_string();
        assert_eq!(name("/mnt"), name("/mnt"));
        assert!(name("/mnt").starts_with("mnt-") && name("/mnt") != name("/x/mnt"));
        for odd in [
            "/",
            "/..x",
            "/a b\n",
            &format!("/{}", "y".repeat(255)),
            "/\u{e4}",
        ] {
            assert!(name(odd).len() <= 64, "{odd}");
        }
    }

    #[test]
    fn a_mount_helpers_arguments_become_ours() {
        let args = [
            "mount.fuse.agentfs",
            "agentfs:feature",
            "/mnt",
            "-n",
            "-o",
            "rw,base=/x",
            "-t",
            "f",
        ];
        let ours = helper_args(args.iter().map(OsString::from));
        assert_eq!(
            ours,
            ["agentfs", "mount", "feature", "/mnt", "-o", "rw,base=/x"]
        );
    }
}
