//! Cuts the process loose from the one that started it.

use std::io;
use std::os::fd::OwnedFd;

use agentfs_fsd::sys;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, umask};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

/// A step of [`detach`] that failed.
#[derive(Debug, thiserror::Error)]
#[error("{step}: {source}")]
pub(super) struct StartupError {
    step: &'static str,
    source: io::Error,
}

/// Takes over descriptor `control` and drops everything else the parent left behind: descriptors,
/// session, working directory, mask, signals. Runs first, with one thread.
///
/// Not dumpable: nothing with the same uid may trace this process or read its memory, which holds
/// the branch and the files of its user. Source: prctl(2), PR_SET_DUMPABLE.
pub(super) fn detach(control: i32) -> Result<OwnedFd, StartupError> {
    let failed = |step| move |source: io::Error| StartupError { step, source };
    let control = sys::take_inherited_fd(control).map_err(failed("take the control descriptor"))?;
    sys::close_foreign_fds(&control).map_err(failed("close what the parent left open"))?;
    nix::sys::prctl::set_dumpable(false)
        .map_err(io::Error::from)
        .map_err(failed("make the process not dumpable"))?;
    // EPERM: it leads a process group already, so it is as far from the terminal as it can be.
    let _ = nix::unistd::setsid();
    std::env::set_current_dir("/").map_err(failed("change to the root directory"))?;
    umask(Mode::empty());
    raise_descriptor_limit().map_err(failed("raise the limit of open files"))?;
    raise_size_limit().map_err(failed("raise the limit of file sizes"))?;
    let ignored = [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGPIPE,
        Signal::SIGTSTP,
        Signal::SIGTTIN,
        Signal::SIGTTOU,
        // A file of the store that reaches the process's file size limit: an error, not a death.
        Signal::SIGXFSZ,
        Signal::SIGIO,
    ];
    sys::ignore_signals(&ignored).map_err(failed("ignore the terminal's signals"))?;
    awaited_signals()
        .thread_block()
        .map_err(io::Error::from)
        .map_err(failed("block the signals waited for"))?;
    drop_standard_streams().map_err(failed("let go of the standard streams"))?;
    Ok(control)
}

/// Waits for the first word of who started us. `false`: there is none, for they or we are to end; and
/// nothing is to be done.
pub(super) fn is_spoken_to(control: &OwnedFd) -> bool {
    // Without it we wait for the word alone.
    let end = SignalFd::with_flags(&awaited_signals(), SfdFlags::SFD_CLOEXEC).ok();
    let mut polled = vec![PollFd::new(control, PollFlags::IN)];
    polled.extend(end.as_ref().map(|end| PollFd::new(end, PollFlags::IN)));
    while let Err(Errno::INTR) = poll(&mut polled, None) {}
    // There is something to be read, be it only the end.
    let mut first = [0; 1];
    let peeked = recv(control, &mut first, RecvFlags::PEEK | RecvFlags::DONTWAIT);
    matches!(peeked, Ok((_, 1..)))
}

/// The signals that a thread waits for; blocked everywhere.
pub(super) fn awaited_signals() -> SigSet {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals
}

/// One descriptor per file that a program in the branch holds open, at the least.
fn raise_descriptor_limit() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(())
}

/// The limit of who starts the daemon is about that caller's own files. Here it would end the
/// journal and the files of everybody on the branch; their own limits the kernel has checked.
fn raise_size_limit() -> io::Result<()> {
    if setrlimit(Resource::RLIMIT_FSIZE, RLIM_INFINITY, RLIM_INFINITY).is_err() {
        let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE)?;
        setrlimit(Resource::RLIMIT_FSIZE, hard, hard)?;
    }
    Ok(())
}

/// The size in bytes that no file of the store can pass, if the caller had a hard limit.
pub(super) fn size_limit() -> Option<u64> {
    let (soft, _) = getrlimit(Resource::RLIMIT_FSIZE).ok()?;
    (soft != RLIM_INFINITY).then_some(soft)
}

/// The launcher's terminal and pipes must not stay open for as long as the daemon lives.
fn drop_standard_streams() -> io::Result<()> {
    let null = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    nix::unistd::dup2_stdin(&null)?;
    nix::unistd::dup2_stdout(&null)?;
    nix::unistd::dup2_stderr(&null)?;
    Ok(())
}
