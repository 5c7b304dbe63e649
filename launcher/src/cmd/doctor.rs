//! `agentfs doctor`: tries each thing that a run needs, and prints what to do about what is missing.
//!
//! Tries, rather than reads settings: the same clone, mounts and opens as a run, in a child that
//! throws them away.

use std::io::Read;
use std::path::Path;
use std::process::ExitCode;

use agentfs_fsd::backstore::Store;
use agentfs_fsd::fuse::{Asleep, keeps_awake};
use serde::Serialize;

use crate::cli::DoctorArgs;
use crate::cmd::Globals;
use crate::cmd::run::Here;
use crate::error::{CmdError, SetupError, step};
use crate::idmap::{self, IdMap};
use crate::mounts::{self, View};
use crate::plan::{MARK, SetupOp};
use crate::proc::child;
use crate::proc::clone::{self, Alone, Kind, Side};
use crate::proc::guard::ProcessGuard;
use crate::proc::msg::{Inner, Link, Outer};
use crate::review::json::VERSION;
use crate::{daemon, launch, probe, say};

/// The oldest kernel with all system calls that set-up makes (mount_setattr).
const OLDEST_KERNEL: (u32, u32) = (5, 12);

/// The answer to one question.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    /// Whether a run works without it.
    optional: bool,
    found: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    fix: String,
}

impl Check {
    fn new(name: &'static str, answer: Result<String, (String, String)>) -> Self {
        let optional = false;
        match answer {
            Ok(found) => Self {
                name,
                ok: true,
                optional,
                found,
                fix: String::new(),
            },
            Err((found, fix)) => Self {
                name,
                ok: false,
                optional,
                found,
                fix,
            },
        }
    }

    fn optional(self) -> Self {
        Self {
            optional: true,
            ..self
        }
    }

    fn lines(&self) -> String {
        let word = match (self.ok, self.optional) {
            (true, _) => "ok",
            (false, true) => "note",
            (false, false) => "FAIL",
        };
        let fix = match self.fix.is_empty() {
            true => String::new(),
            false => format!("      fix: {}\n", self.fix),
        };
        format!("{word:<4}  {:<28} {}\n{fix}", self.name, self.found)
    }
}

/// Runs the subcommand.
pub fn run(args: &DoctorArgs, globals: &Globals) -> Result<ExitCode, CmdError> {
    let here = Here::look(globals)?;
    let mut checks = vec![
        kernel(),
        outside(),
        limit("max_user_namespaces"),
        limit("max_mnt_namespaces"),
    ];
    checks.extend(restriction());
    checks.push(Check::new("open files", files()));
    checks.push(Check::new("open /dev/fuse", device()));
    checks.extend(set_up());
    checks.extend(halt_poll());
    checks.extend(watches());
    checks.push(Check::new("events of forks", forks()).optional());
    checks.push(Check::new(
        "daemon found",
        daemon::program().map_or_else(refused, shown),
    ));
    checks.push(Check::new("store", store(&here.store)));
    let fine = checks.iter().all(|c| c.ok || c.optional);
    say::answer(&match args.json {
        true => format!(
            "{}\n",
            serde_json::json!({ "version": VERSION, "ok": fine, "checks": checks })
        ),
        false => checks.iter().map(Check::lines).collect(),
    })?;
    Ok(if fine {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn shown(path: impl AsRef<Path>) -> Result<String, (String, String)> {
    Ok(path.as_ref().display().to_string())
}

fn refused(e: CmdError) -> Result<String, (String, String)> {
    match e {
        CmdError::Refused { what, why, fix } => Err((format!("{what}: {why}"), fix)),
        CmdError::Setup(e) => Err((e.to_string(), e.fix().to_owned())),
        other => {
            let text = other.to_string();
            let (found, fix) = text.split_once("\n  fix: ").unwrap_or((&text, ""));
            Err((found.to_owned(), fix.to_owned()))
        }
    }
}

fn kernel() -> Check {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|n| n.parse().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let (major, minor) = OLDEST_KERNEL;
    let answer = if version >= OLDEST_KERNEL {
        Ok(release)
    } else {
        Err((release, format!("use Linux {major}.{minor} or newer")))
    };
    Check::new("kernel version", answer)
}

fn outside() -> Check {
    let answer = match probe::inside_a_run() {
        Ok(false) => Ok("on the host".to_owned()),
        Ok(true) => Err((
            "inside a run".to_owned(),
            "runs do not nest: leave this one".to_owned(),
        )),
        Err(e) => refused(e),
    };
    Check::new("not inside a run", answer)
}

fn limit(name: &'static str) -> Check {
    let path = Path::new("/proc/sys/user").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    let answer = match text.trim().parse::<u64>() {
        Ok(0) => Err(("0".to_owned(), format!("sysctl -w user.{name}=65536"))),
        Ok(limit) => Ok(limit.to_string()),
        Err(_) => Ok("not limited by this kernel".to_owned()),
    };
    Check::new(name, answer)
}

/// The sysctls by which distributions keep ordinary users from user namespaces.
fn restriction() -> Vec<Check> {
    let mut checks = Vec::new();
    for (name, file, bad) in [
        (
            "AppArmor userns restriction",
            "apparmor_restrict_unprivileged_userns",
            "1",
        ),
        (
            "unprivileged_userns_clone",
            "unprivileged_userns_clone",
            "0",
        ),
    ] {
        let path = Path::new("/proc/sys/kernel").join(file);
        let Ok(text) = std::fs::read_to_string(path) else {
            continue;
        };
        let good = if bad == "1" { "0" } else { "1" };
        let root = rustix::process::geteuid().is_root();
        let answer = match text.trim() {
            value if value == bad && !root => {
                Err((value.to_owned(), format!("sysctl -w kernel.{file}={good}")))
            }
            value => Ok(value.to_owned()),
        };
        // A profile may allow agentfs all the same; the attempt below decides.
        checks.push(Check::new(name, answer).optional());
    }
    checks
}

fn files() -> Result<String, (String, String)> {
    match launch::files_allowed() {
        Ok(Some(files)) => Ok(format!("{files} allowed")),
        Ok(None) => Ok("not limited".into()),
        Err(e) => refused(e),
    }
}

/// What a shared mount knows children by.
fn forks() -> Result<String, (String, String)> {
    match agentfs_fsd::bind::Connector::open() {
        Ok(_) => Ok("yes".into()),
        Err(e) => Err((
            format!("{e}; a shared mount knows children by their parents, and no daemons"),
            "use Linux 6.6 or newer, in the initial pid and network namespaces".into(),
        )),
    }
}

fn device() -> Result<String, (String, String)> {
    match probe::fuse_device() {
        Ok(_) => Ok("yes".into()),
        Err(e) => refused(e.into()),
    }
}

fn store(path: &Path) -> Result<String, (String, String)> {
    let opened = match Store::open(path) {
        Ok(Some(store)) => store
            .list()
            .and_then(|list| Store::open_or_create(path).map(|_| list.len()))
            .map(|n| format!("{}, {n} branches", path.display())),
        // Looks for the place where it would be made, and leaves it to the first run.
        Ok(None) => return writable(path),
        Err(e) => Err(e),
    };
    opened.or_else(|e| refused(e.into()))
}

fn writable(path: &Path) -> Result<String, (String, String)> {
    use rustix::fs::Access;
    let parent = path.ancestors().find(|p| p.exists()).unwrap_or(path);
    let allowed = Access::WRITE_OK | Access::EXEC_OK;
    match rustix::fs::accessat(
        rustix::fs::CWD,
        parent,
        allowed,
        rustix::fs::AtFlags::EACCESS,
    ) {
        Ok(()) => Ok(format!("{}, none yet", path.display())),
        Err(e) => Err((
            format!("{}: {e}", parent.display()),
            "make it writable for you, or choose another with --store DIR or AGENTFS_STORE".into(),
        )),
    }
}

/// Does in a child what a run's set-up does, as far as it goes without a daemon.
fn set_up() -> Vec<Check> {
    let mut checks = Vec::new();
    let tried = try_set_up(&mut checks);
    if let Err(e) = tried {
        let name = match e.step.as_str() {
            step::CLONE | step::ID_MAP => "user namespace",
            step::PROPAGATION => "mount in a user namespace",
            step::FUSE_OPEN | step::FUSE_MOUNT => "mount FUSE",
            step::PROC => "mount /proc",
            step::PROCESS => "pid namespace",
            _ => "set-up",
        };
        checks.push(Check::new(name, refused(e.into())));
    }
    checks
}

fn try_set_up(checks: &mut Vec<Check>) -> Result<(), SetupError> {
    let fail = |e: std::io::Error| SetupError::other(step::CLONE, "the trial", e);
    let (ours, theirs) = Link::pair().map_err(fail)?;
    let alone = Alone::check().map_err(fail)?;
    let process = match clone::clone(Kind::Setup, &alone).map_err(fail)? {
        Side::Child(alone) => trial(&theirs, &alone),
        // Ended with this function, whatever comes of the trial.
        Side::Parent { pid, pidfd } => ProcessGuard::new(pid, pidfd),
    };
    drop(theirs);
    idmap::write(process.pid(), IdMap::of_caller())?;
    checks.push(Check::new("user namespace", Ok("made, ids mapped".into())));
    let talk = |e: agentfs_fsd::ctl::CtlError| {
        SetupError::other("hear", "the trial", std::io::Error::other(e))
    };
    ours.send(&Outer::Go, &[]).map_err(talk)?;
    let hear = || match ours.recv::<Inner>().map_err(talk)? {
        (Inner::Failed(e), _) => Err(e),
        (_, fds) => Ok(fds),
    };
    let fds = hear()?;
    checks.push(Check::new("mount in a user namespace", Ok("yes".into())));
    let greeting = match fds.into_iter().next() {
        Some(device) => greeting(device.into()),
        None => Err(std::io::Error::other("no device came")),
    };
    // Only now may the mount go: a device without one has no INIT to read.
    ours.send(&Outer::Attached, &[]).map_err(talk)?;
    checks.extend(fuse(greeting));
    hear()?;
    checks.push(Check::new("mount /proc", Ok("yes".into())));
    Ok(())
}

/// The checks that the kernel's greeting answers.
fn fuse(greeting: std::io::Result<(u32, u64)>) -> Vec<Check> {
    match greeting {
        Ok((version, flags)) => {
            let found = format!("yes, protocol 7.{version}");
            let mounted = Check::new("mount FUSE", Ok(found));
            vec![mounted, passthrough(flags), io_uring(flags)]
        }
        Err(e) => {
            let fix = "reload the module: modprobe -r fuse && modprobe fuse; dmesg may tell more";
            let answer = Err((format!("read the kernel's INIT: {e}"), fix.to_owned()));
            vec![Check::new("mount FUSE", answer)]
        }
    }
}

/// Reads the kernel's INIT from a mounted device: minor protocol version and flags.
fn greeting(mut device: std::fs::File) -> std::io::Result<(u32, u64)> {
    let mut bytes = vec![0; 1 << 17];
    let n = device.read(&mut bytes)?;
    init_of(&bytes[..n]).ok_or_else(|| std::io::Error::other("another request came first"))
}

fn init_of(bytes: &[u8]) -> Option<(u32, u64)> {
    // fuse_in_header is 40 bytes; then major, minor, max_readahead, flags, flags2.
    let word = |at: usize| Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    const INIT: u32 = 26;
    if word(4)? != INIT {
        return None;
    }
    Some((word(44)?, u64::from(word(52)?) | u64::from(word(56)?) << 32))
}

fn passthrough(flags: u64) -> Check {
    const FUSE_PASSTHROUGH: u64 = 1 << 37;
    let answer = match (
        flags & FUSE_PASSTHROUGH != 0,
        rustix::process::geteuid().is_root() && idmap::all_exist(),
    ) {
        (true, true) => Ok("yes".to_owned()),
        (true, false) => Err((
            "for the host's root only; files are served through the daemon".into(),
            String::new(),
        )),
        (false, _) => Err((
            "not in this kernel; 6.9 and newer can have it".into(),
            String::new(),
        )),
    };
    Check::new("FUSE passthrough", answer).optional()
}

/// Whether requests can come by io_uring: what the kernel offers, and whether this user may use it.
fn io_uring(flags: u64) -> Check {
    const FUSE_OVER_IO_URING: u64 = 1 << 41;
    const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";
    // Measured by `just bench` on a guest of two CPUs, root, device against ring.
    const WORTH: &str = "opening, making and renaming files takes about two thirds of the time";
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let disabled = text("/proc/sys/kernel/io_uring_disabled");
    let root = rustix::process::geteuid().is_root();
    let answer = match (flags & FUSE_OVER_IO_URING != 0, disabled.trim()) {
        (true, "2") => Err((
            "io_uring is off".to_owned(),
            "sysctl -w kernel.io_uring_disabled=0",
        )),
        (true, "1") if !root => Err((
            "io_uring is for root only".to_owned(),
            "sysctl -w kernel.io_uring_disabled=0, or put the user into the group kernel.io_uring_group",
        )),
        (true, _) => Ok(format!("yes: {WORTH}")),
        (false, _) if Path::new(SWITCH).exists() => Err((
            format!(
                "switched off (enable_uring = {}); with it {WORTH}",
                text(SWITCH).trim()
            ),
            "as root: echo Y > /sys/module/fuse/parameters/enable_uring (at each boot: \
             fuse.enable_uring=1 on the kernel's command line)",
        )),
        (false, _) => Err((
            "not in this kernel; 6.14 and newer can have it".to_owned(),
            "",
        )),
    };
    let answer = answer.map_err(|(found, fix)| (found, fix.to_owned()));
    Check::new("FUSE over io_uring", answer).optional()
}

/// How long it takes to wake an idle CPU of a virtual machine. Not there on other machines.
fn halt_poll() -> Option<Check> {
    const KNOB: &str = "/sys/module/haltpoll/parameters/guest_halt_poll_ns";
    let text = std::fs::read_to_string(KNOB).ok()?;
    let ns: u64 = text.trim().parse().ok()?;
    let not_kept = |why: &dyn std::fmt::Display| {
        format!(
            "{ns} ns: an idle CPU takes up to 50 us to wake for a request, and is not kept from halting: {why}"
        )
    };
    let polling = format!("as root: echo 200000 > {KNOB}, which costs power all the time");
    let answer = match keeps_awake() {
        _ if ns >= 200_000 => Ok(format!(
            "{ns} ns: an idle CPU answers in 15 us in place of up to 50"
        )),
        Ok(Ok(())) => Ok(
            "idle CPUs, which take up to 50 us to wake, are kept from halting while requests come in a row"
                .to_owned(),
        ),
        Ok(Err(why @ Asleep::Refused(_))) => Err((
            not_kept(&why),
            format!("as root: let this user open /dev/cpu_dma_latency (chmod, or a udev rule); or, {polling}"),
        )),
        Ok(Err(why @ Asleep::Asked)) => Err((not_kept(&why), "unset AGENTFS_FUSE_AWAKE".to_owned())),
        Ok(Err(why)) => Err((
            not_kept(&why),
            format!("AGENTFS_FUSE_AWAKE=always, if it is worth it here; or, {polling}"),
        )),
        Err(bad) => Err((
            not_kept(&bad),
            "unset AGENTFS_FUSE_AWAKE, or let it say auto, always or never".to_owned(),
        )),
    };
    Some(Check::new("halt polling of this guest", answer).optional())
}

fn trial(link: &Link, alone: &Alone) -> ! {
    let done = (|| {
        child::tie()?;
        child::let_go(link)?;
        child::expect(link, Outer::Go)?;
        let mut view = View::default();
        view.execute(&SetupOp::PrivatePropagation)?;
        let (uid, gid) = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        let staged = view.fuse(&format!("{MARK}:doctor"), uid, gid)?;
        use std::os::fd::AsFd;
        child::tell(link, &Inner::Mounted, &[staged.device.as_fd()])?;
        child::expect(link, Outer::Attached)?;
        drop(staged);
        let fail = |e: std::io::Error| SetupError::other(step::PROCESS, "the trial's init", e);
        match clone::clone(Kind::Init, alone).map_err(fail)? {
            Side::Parent { .. } => Ok(()),
            Side::Child(_) => {
                child::tie()?;
                mounts::proc(&[])?;
                child::tell(link, &Inner::Started, &[])?;
                Ok(())
            }
        }
    })();
    match done {
        Ok(()) => std::process::exit(0),
        Err(e) => child::fail(link, e),
    }
}

/// In how many directories of the host a change can show while a run lasts.
fn watches() -> Option<Check> {
    let text = std::fs::read_to_string("/proc/sys/fs/inotify/max_user_watches").ok()?;
    let answer = enough_watches(text.trim().parse().ok()?);
    Some(Check::new("inotify watches", answer).optional())
}

/// `most`: what a user may have.
fn enough_watches(most: u64) -> Result<String, (String, String)> {
    // What a large checkout needs, of the part that a daemon takes at most.
    const SHARE: u64 = 8;
    const ENOUGH: u64 = 8192;
    let for_one = most / SHARE;
    match for_one >= ENOUGH {
        true => Ok(format!("{most} for a user, {for_one} of them for a branch")),
        false => Err((
            format!(
                "{most} for a user: what the host changes shows at once in the first {for_one} directories \
                 that a run looks into, and elsewhere in the next run at the latest"
            ),
            "as root: sysctl -w fs.inotify.max_user_watches=524288".to_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_watches_are_told_with_what_they_are_enough_for() {
        assert!(enough_watches(524_288).is_ok() && enough_watches(65_536).is_ok());
        let (found, fix) = enough_watches(8192).expect_err("too few");
        assert!(found.contains("the first 1024 directories"), "{found}");
        assert!(fix.contains("max_user_watches"), "{fix}");
    }

    #[test]
    fn an_init_that_cannot_be_read_is_told_with_its_errno_and_a_fix() {
        let gone = std::io::Error::from_raw_os_error(nix::libc::ENODEV);
        let checks = fuse(Err(gone));
        let [check] = checks.as_slice() else {
            panic!("{checks:?}")
        };
        assert!(
            !check.ok && check.found.contains("os error 19"),
            "{check:?}"
        );
        assert!(check.fix.contains("modprobe"), "{check:?}");
        let mut init = vec![0; 104];
        init[4] = 26;
        init[44] = 41;
        init[56] = 1 << 5;
        assert_eq!(init_of(&init), Some((41, 1 << 37)));
        // The device, passthrough, and requests by io_uring.
        assert_eq!(fuse(Ok((41, 1 << 37))).len(), 3);
        assert_eq!(init_of(&init[..50]), None);
    }
}
