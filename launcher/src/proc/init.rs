//! Pid 1 of the run: mounts /proc, gives up every privilege, makes the command, reaps, forwards
//! signals, and takes everything with it when the command or the monitor ends.

use std::ffi::CString;
use std::os::fd::AsFd;

use agentfs_fsd::sys::RESUMED;
use nix::errno::Errno;
use nix::sys::signal::{self, SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{self, Pid};

use crate::caps;
use crate::error::{EXIT_OURS, SetupError, step};
use crate::mounts;
use crate::proc::child::{Inside, expect, fail, tell};
use crate::proc::clone::{self, Alone, Kind, Side};
use crate::proc::msg::{End, Inner, Link, Outer};
use crate::sys;

/// Signals that init passes on to the command.
const FORWARDED: [Signal; 9] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGTERM,
    Signal::SIGCONT,
    Signal::SIGWINCH,
];

/// Runs as pid 1. Never returns.
pub fn run(link: &Link, alone: &Alone, inside: &Inside) -> ! {
    match start(link, alone, inside) {
        Ok((command, signals)) => {
            let end = reap(link, command, &signals);
            // If the monitor is gone there is nobody to tell. Leaving ends all that is left inside.
            let _ = link.send(&Inner::Ended(end), &[]);
            std::process::exit(0)
        }
        Err(e) => fail(link, e),
    }
}

fn start(link: &Link, alone: &Alone, inside: &Inside) -> Result<(Pid, SignalFd), SetupError> {
    let plain =
        |step: &'static str, target: &'static str| move |e: Errno| SetupError::new(step, target, e);
    // The kernel kills this process, and with it all inside, when the monitor ends in any way.
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(plain("tie", "init to the monitor"))?;
    // Its own group: no key of the terminal reaches init, and the command's group, with a parent of
    // the same session outside it, is not an orphan, so that ^Z can stop it.
    unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0)).map_err(plain("group", "init"))?;
    mounts::proc(&inside.plan.proc_read_only)?;
    go_to(&inside.plan.cwd)?;
    caps::drop_all()?;
    // Not to be read, traced or written through /proc/1 from inside.
    nix::sys::prctl::set_dumpable(false).map_err(plain("protect", "init"))?;

    let mut set: SigSet = FORWARDED.into_iter().collect();
    set.add(Signal::SIGCHLD);
    set.thread_set_mask().map_err(plain("block", "signals"))?;
    let signals = SignalFd::new(&set).map_err(plain("watch", "signals"))?;
    let me = rustix::process::pidfd_open(
        rustix::process::getpid(),
        rustix::process::PidfdFlags::empty(),
    )
    .map_err(|e| SetupError::new("open", "init's pidfd", e))?;

    let made = clone::clone(Kind::Command, alone)
        .map_err(|e| SetupError::other(step::PROCESS, "the command", e))?;
    match made {
        Side::Child(_) => command(link, inside),
        Side::Parent { pid, pidfd } => {
            unistd::setpgid(pid, pid).map_err(plain("group", "the command"))?;
            tell(link, &Inner::Started, &[me.as_fd(), pidfd.as_fd()])?;
            Ok((pid, signals))
        }
    }
}

/// Enters the directory of the command and checks that the view has it under this very name.
fn go_to(cwd: &std::path::Path) -> Result<(), SetupError> {
    let fail = |e: Errno| SetupError::new(step::CWD, cwd.display(), e);
    unistd::chdir(cwd).map_err(fail)?;
    let here = unistd::getcwd().map_err(fail)?;
    if here == cwd {
        Ok(())
    } else {
        Err(fail(Errno::ENOENT))
    }
}

/// Waits for the command, reaping whatever else ends.
fn reap(link: &Link, command: Pid, signals: &SignalFd) -> End {
    loop {
        let Ok(Some(info)) = signals.read_signal() else {
            continue;
        };
        match Signal::try_from(info.ssi_signo as i32) {
            // The end of a pause for a snapshot, which the command has by itself.
            Ok(Signal::SIGCONT) if info.ssi_int == RESUMED => {}
            Ok(Signal::SIGCHLD) => {
                if let Some(end) = collect(link, command) {
                    return end;
                }
            }
            // It may have ended this moment: the next SIGCHLD tells.
            Ok(signal) => drop(signal::kill(command, signal)),
            Err(_) => {}
        }
    }
}

/// Reaps all that can be reaped now; the command's end if it is among them.
fn collect(link: &Link, command: Pid) -> Option<End> {
    let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED;
    loop {
        match waitpid(Pid::from_raw(-1), Some(flags)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == command => return Some(End::Code(code)),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == command => {
                return Some(End::Signal(signal as i32));
            }
            Ok(WaitStatus::Stopped(pid, signal)) if pid == command => {
                let _ = link.send(
                    &Inner::Stopped {
                        signal: signal as i32,
                    },
                    &[],
                );
            }
            Ok(WaitStatus::StillAlive) | Err(_) => return None,
            Ok(_) => {}
        }
    }
}

/// The process that becomes the command. Never returns.
fn command(link: &Link, inside: &Inside) -> ! {
    if expect(link, Outer::Start).is_err() {
        std::process::exit(i32::from(EXIT_OURS));
    }
    let errno = match execute(inside) {
        Ok(never) => match never {},
        Err(errno) => errno,
    };
    let _ = link.send(
        &Inner::NotExecuted {
            errno: errno as i32,
        },
        &[],
    );
    std::process::exit(status_of(errno))
}

fn execute(inside: &Inside) -> Result<std::convert::Infallible, Errno> {
    // Rust's start-up code ignores SIGPIPE, and an exec would hand that on.
    sys::default_disposition(Signal::SIGPIPE).map_err(|_| Errno::EINVAL)?;
    inside.mask.thread_set_mask()?;
    sys::cloexec_all().map_err(|_| Errno::EBADF)?;
    let program = inside.argv.first().ok_or(Errno::EINVAL)?;
    let mut refused = None;
    for candidate in candidates(program, &inside.env)? {
        match unistd::execve(&candidate, &inside.argv, &inside.env) {
            // No interpreter line: a shell script of the old kind.
            Err(Errno::ENOEXEC) => return by_shell(&candidate, inside),
            // Like a shell: goes on looking, and tells of the first one that was there. What lies in
            // a directory that may not be searched is not there.
            Err(errno) => {
                if refused.is_none() && rustix::fs::stat(candidate.as_c_str()).is_ok() {
                    refused = Some(errno);
                }
            }
            Ok(never) => match never {},
        }
    }
    Err(refused.unwrap_or(Errno::ENOENT))
}

/// The files that `program` may mean, by the PATH of the command's own environment.
fn candidates(program: &CString, env: &[CString]) -> Result<Vec<CString>, Errno> {
    let name = program.as_bytes();
    if name.contains(&b'/') {
        return Ok(vec![program.clone()]);
    }
    let path = env.iter().find_map(|v| v.as_bytes().strip_prefix(b"PATH="));
    let path = path.unwrap_or(b"/usr/local/bin:/usr/bin:/bin");
    let join = |dir: &[u8]| {
        let dir: &[u8] = if dir.is_empty() { b"." } else { dir };
        CString::new([dir, b"/", name].concat()).map_err(|_| Errno::EINVAL)
    };
    // An empty name would find the directories themselves.
    if name.is_empty() {
        Ok(Vec::new())
    } else {
        path.split(|b| *b == b':').map(join).collect()
    }
}

fn by_shell(script: &CString, inside: &Inside) -> Result<std::convert::Infallible, Errno> {
    let mut argv = vec![c"/bin/sh".to_owned(), script.clone()];
    argv.extend(inside.argv.iter().skip(1).cloned());
    unistd::execve(c"/bin/sh", &argv, &inside.env)
}

/// The exit status for a command that could not be executed: 127 not found, 126 anything else.
pub fn status_of(errno: Errno) -> i32 {
    match errno {
        Errno::ENOENT | Errno::ENOTDIR => 127,
        _ => 126,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(program: &str, path: &str) -> Vec<String> {
        let c = |s: &str| CString::new(s).unwrap();
        let env = [c("A=PATH=/no"), c(&format!("PATH={path}"))];
        let list = candidates(&c(program), &env).unwrap();
        list.into_iter().map(|c| c.into_string().unwrap()).collect()
    }

    #[test]
    fn a_command_is_looked_for_along_the_path_of_its_own_environment() {
        assert_eq!(found("x", "/a:/b"), ["/a/x", "/b/x"]);
        assert_eq!(found("x", "/a::/b"), ["/a/x", "./x", "/b/x"]);
        assert_eq!(found("./x", "/a"), ["./x"]);
        assert_eq!(found("", "/a"), [""; 0]);
    }

    #[test]
    fn statuses_tell_missing_from_refused() {
        assert_eq!(status_of(Errno::ENOENT), 127);
        assert_eq!(status_of(Errno::ENOTDIR), 127);
        for errno in [Errno::EACCES, Errno::ENOEXEC, Errno::E2BIG, Errno::EISDIR] {
            assert_eq!(status_of(errno), 126);
        }
    }
}
