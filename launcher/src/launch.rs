//! Starts the process chain for one command on one branch, and waits for its end.
//!
//! Order, for a branch that is not live: clone the set-up child and start the daemon, then make the
//! branch while both already work; have it opened; hand the mount over; bind; go. A live branch is joined. A
//! branch that this run made, and that nobody else used, is removed again when its command was never
//! executed.

use std::ffi::{CString, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use agentfs_fsd::backstore::{Limit, NewBranch, RunExit, RunRecord, Store, StoreError};
use agentfs_fsd::core::point::Point;
use agentfs_fsd::core::types::{BranchName, Time};
use agentfs_fsd::ctl::CtlError;
use agentfs_fsd::ctl::msg::{ErrorCode, MountSpec, OnlyIds, Used};
use nix::unistd::Pid;

use crate::cmd::mount::RECORD_WORD;
use crate::daemon::{self, Daemon};
use crate::error::{CmdError, EXIT_OURS, SetupError, step};
use crate::hidden;
use crate::idmap;
use crate::limit::Wanted;
use crate::line::{Line, PATIENCE, Waits};
use crate::live;
use crate::made::BranchGuard;
use crate::plan::Plan;
use crate::proc::child::{self, Inside};
use crate::proc::clone::{self, Alone, Kind, Side};
use crate::proc::guard::ProcessGuard;
use crate::proc::monitor::{Cut, Outcome, Running, Signals};
use crate::proc::msg::{End, Inner, Link, Outer};
use crate::proc::tty::Tty;
use crate::say::say;
use crate::timings::{self, Timings};

/// Between two looks at a branch that is between two states (its daemon starting, or closing it).
const PAUSE: Duration = Duration::from_millis(5);

/// One command to run.
#[derive(Debug)]
pub struct Order<'a> {
    /// Where the branch is, or will be.
    pub store: &'a Store,
    /// Its name.
    pub branch: &'a BranchName,
    /// Make it, from this parent (`None`: from the host's files). `None`: it exists.
    pub create: Option<Option<&'a Point>>,
    /// A branch of that name that somebody else makes meanwhile is not what was asked for.
    pub must_be_new: bool,
    /// The workspace to note with a new branch.
    pub workspace: &'a std::path::Path,
    /// The steps of a fresh mount.
    pub plan: &'a Plan,
    /// How much the branch may take up.
    pub wanted: Wanted,
    /// Digest of what the policy files say, [`crate::view::View::standing`].
    pub policy: &'a str,
    /// What the caller asked the view to be has to be honoured, so a live view will not do.
    pub own_view: bool,
    /// The command.
    pub argv: &'a [OsString],
    /// Its environment.
    pub env: Vec<(OsString, OsString)>,
    /// Nothing is said of long waits.
    pub quiet: bool,
    /// Notes how long the steps take.
    pub timings: &'a Timings,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    /// How the command ended.
    pub outcome: Outcome,
    /// It ran beside others on a live branch.
    pub joined: bool,
    /// The branch was made for it, and is gone again because it could not be executed.
    pub removed: bool,
    /// How far the limit of the branch is used up, if it has one; what was refused is this run's.
    pub used: Option<Used>,
}

/// A process that was cloned off to set things up, and the link to it.
struct SetUp<'a> {
    /// It holds the mount, and the daemon waits for that.
    process: ProcessGuard,
    link: Link,
    waits: &'a Waits<'a>,
}

/// A run and its daemon need some twenty descriptors each; with fewer than these they fail halfway.
const ENOUGH_FILES: u64 = 32;

/// How many open files the caller is allowed; none: any number.
///
/// Errors: a refusal with the fix when a run could not do with them.
pub fn files_allowed() -> Result<Option<u64>, CmdError> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    match limit.current {
        Some(files) if files < ENOUGH_FILES => Err(CmdError::refused(
            "run",
            format!("too few open files are allowed here: {files}"),
            "ulimit -n 1024, or more; LimitNOFILE= in a service",
        )),
        allowed => Ok(allowed),
    }
}

/// Runs the command to its end.
pub fn run(order: &Order<'_>) -> Result<Done, CmdError> {
    files_allowed()?;
    let signals = Signals::take().map_err(|e| SetupError::new("take", "signals", e))?;
    let inside = inside(order, &signals)?;
    order.timings.done("plan");
    let waits = Waits::new(&signals, order.quiet);
    let begun = Instant::now();
    let deadline = begun + PATIENCE;
    let mut create = order.create;
    loop {
        if create.is_none() && order.store.live_owner(order.branch)?.is_some() {
            refuse_mounted(order)?;
            if let Some(done) = join(order, &inside, &waits)? {
                return Ok(done);
            }
            if Instant::now() >= deadline {
                return Err(stuck(order));
            }
        } else {
            match start(order, create, &inside, &waits) {
                // Another run made it, or opened it, between the look and the start.
                Err(CmdError::Store(StoreError::BranchExists(_))) if !order.must_be_new => {}
                Err(e) if is_locked(&e) && Instant::now() < deadline => {}
                other => return other,
            }
        }
        signals.pause(PAUSE).map_err(cut)?;
        let what = format_args!("the daemon of branch {}", order.branch);
        waits.since(begun, what);
        // The run that made it may have removed it again, its command not being there.
        let gone = matches!(
            order.store.branch(order.branch),
            Err(StoreError::NoBranch(_))
        );
        create = order.create.filter(|_| gone);
    }
}

fn is_locked(e: &CmdError) -> bool {
    let source = match e {
        CmdError::Store(StoreError::Locked { .. }) => return true,
        CmdError::Daemon { source, .. } => source,
        _ => return false,
    };
    let code = ErrorCode::Locked;
    matches!(source, CtlError::Refused { code: c, .. } if *c == code)
}

fn cut(cut: Cut) -> CmdError {
    match cut {
        Cut::Signal(number) => CmdError::Interrupted(number),
        Cut::Late => CmdError::refused(
            "run",
            format!(
                "the set-up takes longer than {} seconds",
                PATIENCE.as_secs()
            ),
            "is a file system of the host stuck? `agentfs doctor` tries each step",
        ),
    }
}

/// A branch that is mounted at a path of the host has no run to join.
fn refuse_mounted(order: &Order<'_>) -> Result<(), CmdError> {
    let Some(run) = order.store.last_run(order.branch)? else {
        return Ok(());
    };
    match (run.command.as_slice(), run.ended) {
        ([word, target], None) if word == RECORD_WORD => {
            let target = target.display();
            Err(CmdError::refused(
                format!("branch {}", order.branch),
                format!("is mounted at {target}"),
                format!("unmount it first: agentfs umount {target}"),
            ))
        }
        _ => Ok(()),
    }
}

fn stuck(order: &Order<'_>) -> CmdError {
    CmdError::refused(
        format!("branch {}", order.branch),
        format!(
            "its daemon neither answers nor ends for {} seconds",
            PATIENCE.as_secs()
        ),
        "look at fsd.log in the branch's directory, and end that daemon",
    )
}

/// Starts a fresh mount of the branch.
fn start(
    order: &Order<'_>,
    create: Option<Option<&Point>>,
    inside: &Inside,
    waits: &Waits<'_>,
) -> Result<Done, CmdError> {
    let program = daemon::program()?;
    let set_up = begin(Kind::Setup, waits, |link, alone| {
        child::set_up(link, alone, inside)
    })?;
    let only_ids = idmap::write(set_up.process.pid(), inside.plan.ids)?;
    tell(&set_up, Outer::Go)?;
    order.timings.done("clone");

    // Its program is loaded while we make the branch; it opens it when it is spoken to.
    let (mut daemon, connection) = Daemon::start(&program, order.store, order.branch)?;
    let prepared = prepare(order, create);
    let (guard, limit) = match prepared {
        Ok(prepared) => prepared,
        Err(e) => {
            drop(connection);
            daemon.dismiss();
            return Err(e);
        }
    };
    order.timings.done("branch");
    let (guard, line) = greet(order, &mut daemon, connection, guard, waits)?;
    order.timings.done("daemon");
    let result = serve(order, &line, &mut daemon, set_up, only_ids);
    let used = used(&line, limit);
    let closed = daemon.finish(line, order.store, result.is_err());
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(e) => return Err(broken_off(guard, e)),
    };
    report_unclosed(closed);
    let removed = match guard {
        Some(guard) if outcome.not_executed.is_some() => guard.remove(),
        Some(guard) => {
            guard.keep();
            false
        }
        None => false,
    };
    if !removed {
        note_end(order, &outcome);
    }
    order.timings.done("close");
    Ok(Done {
        outcome,
        joined: false,
        removed,
        used,
    })
}

/// Says hello to the daemon, which opens the branch; what was made for it goes again if it does not.
fn greet<'a>(
    order: &Order<'a>,
    daemon: &mut Daemon,
    connection: OwnedFd,
    guard: Option<BranchGuard<'a>>,
    waits: &'a Waits<'a>,
) -> Result<(Option<BranchGuard<'a>>, Line<'a>), CmdError> {
    match Line::over(connection, order.branch, waits) {
        Ok(line) => Ok((guard, line)),
        Err(e) => {
            let e = daemon.error(e);
            daemon.end();
            Err(without(guard, e))
        }
    }
}

/// Makes the branch if it is to be made, and settles its limit.
fn prepare<'a>(
    order: &Order<'a>,
    create: Option<Option<&Point>>,
) -> Result<(Option<BranchGuard<'a>>, Limit), CmdError> {
    let guard = match create {
        Some(from) => Some(make_branch(order, from)?),
        None => None,
    };
    match order.wanted.settle(order.store, order.branch) {
        Ok(limit) => Ok((guard, limit)),
        Err(e) => Err(without(guard, e)),
    }
}

/// Removes the branch that was made for nothing, unless `e` says that another run has it.
fn without(guard: Option<BranchGuard<'_>>, e: CmdError) -> CmdError {
    match (is_locked(&e), guard) {
        (true, Some(guard)) => {
            guard.keep();
            e
        }
        (_, guard) => broken_off(guard, e),
    }
}

/// Notes what the command cannot see: without it on the disk, a review would take that for removed by it.
/// The branch must be served for this run.
fn note_hidden(order: &Order<'_>) -> Result<(), CmdError> {
    let hidden = hidden::of(order.plan);
    Ok(order.store.add_hidden(order.branch, &hidden)?)
}

/// How far the limit is used up, if there is one. A daemon that is gone cannot tell.
fn used(line: &Line<'_>, limit: Limit) -> Option<Used> {
    match limit.is_none() {
        true => None,
        false => line.used().ok().flatten(),
    }
}

/// Removes the branch that was made for nothing; what `e` says is then of one that is gone.
fn broken_off(guard: Option<BranchGuard<'_>>, e: CmdError) -> CmdError {
    match guard.is_some_and(BranchGuard::remove) {
        true => e.without_log(),
        false => e,
    }
}

/// The command has run, and its status is what counts from here on.
fn report_unclosed(closed: Result<(), CmdError>) {
    if let Err(e) = closed {
        say!("agentfs: {e}");
    }
}

/// Hands the mount to the daemon and runs the command.
fn serve(
    order: &Order<'_>,
    line: &Line<'_>,
    daemon: &mut Daemon,
    set_up: SetUp<'_>,
    only_ids: Option<OnlyIds>,
) -> Result<Outcome, CmdError> {
    let fds = hear(&set_up, &Inner::Mounted)?;
    let [device, user, mount] = <[OwnedFd; 3]>::try_from(fds).map_err(|_| lost())?;
    let spec = MountSpec {
        root: None,
        only_ids,
        mountpoint: None,
        roots: order.plan.roots.clone(),
        conceal: order.plan.conceal.clone(),
        covered: order.plan.covered(),
        shared: false,
        passthrough: order.plan.passthrough && idmap::all_exist(),
        policy: Some(order.policy.to_owned()),
    };
    let fds = [device.as_fd(), user.as_fd(), mount.as_fd()];
    line.attach(spec, &fds, || note_hidden(order))
        .map_err(|e| daemon.error(e))?;
    order.timings.done("mount");
    // The daemon alone keeps the mount alive from here on.
    drop((device, user, mount));
    line.session().map_err(|e| daemon.error(e))?;
    order.timings.done("session");
    tell(&set_up, Outer::Attached)?;
    go(order, line, set_up)
}

/// Runs the command in a live run's namespaces. `None`: that run is ending, try again.
fn join(order: &Order<'_>, inside: &Inside, waits: &Waits<'_>) -> Result<Option<Done>, CmdError> {
    let control = order.store.control_path(order.branch);
    let line = match Line::connect(&control, order.branch, waits) {
        Ok(line) => line,
        // Not listening yet, or no longer.
        Err(CmdError::Daemon {
            source: CtlError::Io { .. } | CtlError::Closed,
            ..
        }) => return Ok(None),
        Err(e) => return Err(e),
    };
    if order.own_view {
        return Err(CmdError::refused(
            format!("branch {}", order.branch),
            "is live, and a joining command gets the view of the running ones",
            "leave out --cow, --ro, --rw and --hide, or wait for the running commands to end",
        ));
    }
    let limit = order.wanted.check_live(order.store, order.branch)?;
    let (spaces, policy) = match line.join() {
        Ok(joined) => joined,
        Err(CmdError::Daemon {
            source:
                CtlError::Closed
                | CtlError::Refused {
                    code: ErrorCode::NotMounted,
                    ..
                },
            ..
        }) => return Ok(None),
        Err(e) => return Err(e),
    };
    if policy.as_deref() != Some(order.policy) {
        return Err(other_policy(order));
    }
    let set_up = begin(Kind::Join, waits, |link, alone| {
        child::join(link, alone, &spaces, inside)
    })?;
    drop(spaces);
    tell(&set_up, Outer::Go)?;
    let before = used(&line, limit);
    order.timings.done("join");
    let outcome = go(order, &line, set_up).map_err(|e| not_in_view(order, e))?;
    let after = used(&line, limit).map(|after| Used {
        refused: after
            .refused
            .saturating_sub(before.map_or(0, |before| before.refused)),
        ..after
    });
    report_unclosed(line.wait_closed(None));
    note_end(order, &outcome);
    order.timings.done("close");
    Ok(Some(Done {
        outcome,
        joined: true,
        removed: false,
        used: after,
    }))
}

/// A joining command would see what its own policy hides, or may change what that denies.
fn other_policy(order: &Order<'_>) -> CmdError {
    CmdError::refused(
        format!("branch {}", order.branch),
        "is live, with a view made by another policy than that which holds here now (the user's \
         file, .agentfs.toml, and where the workspace and the home are)",
        format!(
            "wait for the running commands to end, or use a branch of your own: agentfs run \
             --branch OTHER; `agentfs exec {}` starts in the branch's workspace",
            order.branch
        ),
    )
}

/// The view that is joined was made for others, and may lack where this command is to start.
fn not_in_view(order: &Order<'_>, e: CmdError) -> CmdError {
    let cwd = &order.plan.cwd;
    match e {
        CmdError::Setup(e) if e.step == step::CWD && cwd.is_dir() => CmdError::refused(
            format!("{} {}", e.step, cwd.display()),
            format!(
                "it is on the host, but not in the view of the commands that run on branch {}",
                order.branch
            ),
            format!(
                "use `agentfs exec {}`, which starts in the branch's workspace, or wait for the \
                 running commands to end",
                order.branch
            ),
        ),
        e => e,
    }
}

/// From a set-up that needs nothing more of us to the end of the command.
fn go(order: &Order<'_>, line: &Line<'_>, set_up: SetUp<'_>) -> Result<Outcome, CmdError> {
    let fds = hear(&set_up, &Inner::Started)?;
    let [init, command] = <[OwnedFd; 2]>::try_from(fds).map_err(|_| lost())?;
    order.timings.done("view");
    let pid = host_pid(&command)?;
    let start_ticks = start_ticks(pid)?;
    // Nothing is learnt from outside about this process from here on.
    nix::sys::prctl::set_dumpable(false)
        .map_err(|e| SetupError::new("protect", "the monitor", e))?;
    line.bind(pid.as_raw().unsigned_abs(), start_ticks)?;
    let mut tty = Tty::open();
    if tty.should_give() {
        tty.give(pid);
    }
    tell(&set_up, Outer::Start)?;
    note_start(order);
    order.timings.done("bind");
    let outcome = Running {
        link: &set_up.link,
        signals: set_up.waits.signals(),
        tty: &mut tty,
        init,
        command,
        pid,
        daemon: line.as_fd(),
    }
    .wait();
    order.timings.done(timings::COMMAND);
    Ok(outcome)
}

fn begin<'a>(
    kind: Kind,
    waits: &'a Waits<'a>,
    child: impl FnOnce(Link, &Alone),
) -> Result<SetUp<'a>, CmdError> {
    let fail = |e| SetupError::other(step::CLONE, "the run", e);
    let (ours, theirs) = Link::pair().map_err(fail)?;
    let alone = Alone::check().map_err(fail)?;
    match clone::clone(kind, &alone).map_err(fail)? {
        Side::Child(alone) => {
            child(theirs, &alone);
            // It leaves by exec or exit.
            std::process::exit(i32::from(EXIT_OURS))
        }
        Side::Parent { pid, pidfd } => Ok(SetUp {
            process: ProcessGuard::new(pid, pidfd),
            link: ours,
            waits,
        }),
    }
}

fn tell(set_up: &SetUp<'_>, word: Outer) -> Result<(), CmdError> {
    match set_up.link.send(&word, &[]) {
        Ok(()) => Ok(()),
        // It is gone. Its last word says why.
        Err(_) => Err(hear(set_up, &Inner::Started).err().unwrap_or_else(lost)),
    }
}

fn hear(set_up: &SetUp<'_>, due: &Inner) -> Result<Vec<OwnedFd>, CmdError> {
    let deadline = Instant::now() + PATIENCE;
    set_up
        .waits
        .until_readable(set_up.link.as_fd(), deadline, "the set-up of the run")
        .map_err(cut)?;
    match set_up.link.recv::<Inner>() {
        Ok((word, fds)) if word == *due => Ok(fds),
        Ok((Inner::Failed(e), _)) => Err(e.into()),
        Ok(_) | Err(_) => Err(lost()),
    }
}

fn lost() -> CmdError {
    CmdError::refused(
        "run",
        "the set-up ended without a word",
        "was it killed? look at dmesg",
    )
}

/// The pid, in our pid namespace, of the process that `pidfd` is.
fn host_pid(pidfd: &OwnedFd) -> Result<Pid, CmdError> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = std::fs::read_to_string(&path).map_err(|e| CmdError::io("read", &path, e))?;
    let pid = text
        .lines()
        .find_map(|l| l.strip_prefix("Pid:")?.trim().parse().ok());
    pid.filter(|pid| *pid > 0)
        .map(Pid::from_raw)
        .ok_or_else(lost)
}

fn start_ticks(pid: Pid) -> Result<u64, CmdError> {
    let stat = procfs::process::Process::new(pid.as_raw()).and_then(|p| p.stat());
    let path = || PathBuf::from(format!("/proc/{pid}/stat"));
    Ok(stat
        .map_err(|e| CmdError::io("read", path(), std::io::Error::other(e)))?
        .starttime)
}

fn inside(order: &Order<'_>, signals: &Signals) -> Result<Inside, CmdError> {
    let c = |bytes: Vec<u8>| {
        CString::new(bytes).map_err(|_| CmdError::refused("the command", "holds a NUL", ""))
    };
    let argv: Result<_, _> = order
        .argv
        .iter()
        .map(|a| c(a.as_bytes().to_vec()))
        .collect();
    let pair = |(name, value): &(OsString, OsString)| {
        let mut bytes = name.clone().into_vec();
        bytes.push(b'=');
        bytes.extend_from_slice(value.as_bytes());
        c(bytes)
    };
    let env: Result<_, _> = order.env.iter().map(pair).collect();
    Ok(Inside {
        plan: order.plan.clone(),
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        argv: argv?,
        env: env?,
        mask: signals.before(),
    })
}

fn make_branch<'a>(order: &Order<'a>, from: Option<&Point>) -> Result<BranchGuard<'a>, CmdError> {
    let new = NewBranch {
        workspace: order.workspace.to_owned(),
    };
    let made = live::create_branch(order.store, order.branch, from, &new)?;
    Ok(BranchGuard::new(order.store, made))
}

fn record(order: &Order<'_>) -> RunRecord {
    let me = std::process::id();
    let start_ticks = procfs::process::Process::myself().and_then(|p| p.stat());
    RunRecord {
        command: order.argv.to_vec(),
        cwd: order.plan.cwd.clone(),
        pid: me,
        start_ticks: start_ticks.map_or(0, |stat| stat.starttime),
        started: Time::now(),
        ended: None,
        exit: None,
    }
}

/// Notes that the command runs. A store that cannot be written now does not stop it.
fn note_start(order: &Order<'_>) {
    if let Err(e) = order.store.put_run(order.branch, &record(order)) {
        say!("agentfs: note the run: {e}");
    }
}

fn note_end(order: &Order<'_>, outcome: &Outcome) {
    let mut run = match order.store.last_run(order.branch) {
        // A later run on the same branch has the word.
        Ok(Some(run)) if run.pid != std::process::id() => return,
        Ok(Some(run)) => run,
        _ => record(order),
    };
    run.ended = Some(Time::now());
    run.exit = Some(match outcome.end {
        End::Code(code) => RunExit::Code(code),
        End::Signal(signal) => RunExit::Signal(signal),
    });
    if let Err(e) = order.store.put_run(order.branch, &run) {
        say!("agentfs: note the end of the run: {e}");
    }
}
