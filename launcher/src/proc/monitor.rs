//! The monitor's wait: passes signals inwards, stops and resumes with the command, and learns how it
//! ended.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{self, SigSet, Signal};
use nix::sys::signalfd::{SignalFd, siginfo};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use crate::proc::msg::{End, Inner, Link};
use crate::proc::tty::Tty;

/// Signals that the monitor takes in hand from the start. SIGTTIN and SIGTTOU are among them so
/// that it may hand the terminal over from the background.
const TAKEN: [Signal; 12] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGTERM,
    Signal::SIGCONT,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGWINCH,
];

/// The signals of a monitor: blocked, and read from a descriptor.
#[derive(Debug)]
pub struct Signals {
    source: SignalFd,
    before: SigSet,
}

impl Signals {
    /// Blocks them.
    pub fn take() -> Result<Self, Errno> {
        let set: SigSet = TAKEN.into_iter().collect();
        let before = set.thread_swap_mask(signal::SigmaskHow::SIG_BLOCK)?;
        let source = SignalFd::with_flags(
            &set,
            nix::sys::signalfd::SfdFlags::SFD_CLOEXEC | nix::sys::signalfd::SfdFlags::SFD_NONBLOCK,
        )?;
        Ok(Self { source, before })
    }

    /// The mask that held before, for the command.
    pub fn before(&self) -> SigSet {
        self.before
    }

    /// The next signal that waits, if any.
    pub fn next(&self) -> Option<siginfo> {
        self.source.read_signal().ok().flatten()
    }

    /// Waits until `source` can be read, for as long as there is no command to pass signals to.
    pub fn until_readable(&self, source: BorrowedFd<'_>, deadline: Instant) -> Result<(), Cut> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut list = [
                PollFd::new(self.source.as_fd(), PollFlags::POLLIN),
                PollFd::new(source, PollFlags::POLLIN),
            ];
            // Rounded up, so that the last round does not spin.
            let timeout = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
            let ready = poll(&mut list, timeout);
            while let Some(info) = self.next() {
                ends_a_set_up(&info)?;
            }
            let hot = list[1].revents().is_some_and(|flags| !flags.is_empty());
            match ready {
                Ok(_) if hot => return Ok(()),
                _ if Instant::now() >= deadline => return Err(Cut::Late),
                _ => {}
            }
        }
    }

    /// Sleeps, unless a signal says otherwise.
    pub fn pause(&self, time: Duration) -> Result<(), Cut> {
        std::thread::sleep(time);
        while let Some(info) = self.next() {
            ends_a_set_up(&info)?;
        }
        Ok(())
    }
}

/// What cuts a wait short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// This signal, which ends programs.
    Signal(i32),
    /// The deadline.
    Late,
}

/// `Err` for a signal that ends programs; stops for one that stops them.
fn ends_a_set_up(info: &siginfo) -> Result<(), Cut> {
    match Signal::try_from(info.ssi_signo as i32) {
        Ok(Signal::SIGTSTP) => {
            let _ = signal::raise(Signal::SIGSTOP);
            Ok(())
        }
        Ok(Signal::SIGTTIN | Signal::SIGTTOU | Signal::SIGCONT | Signal::SIGWINCH) | Err(_) => {
            Ok(())
        }
        Ok(signal) => Err(Cut::Signal(signal as i32)),
    }
}

/// A run that has started.
#[derive(Debug)]
pub struct Running<'a> {
    /// To init.
    pub link: &'a Link,
    /// The monitor's signals.
    pub signals: &'a Signals,
    /// The terminal.
    pub tty: &'a mut Tty,
    /// Init, a child of this process.
    pub init: OwnedFd,
    /// The command.
    pub command: OwnedFd,
    /// Its pid on the host, also the number of its process group.
    pub pid: Pid,
    /// Readable when the daemon says something unasked, which is only its end.
    pub daemon: BorrowedFd<'a>,
}

/// What the wait found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How the command ended.
    pub end: End,
    /// Why it could not even be executed.
    pub not_executed: Option<Errno>,
    /// The daemon ended before the command.
    pub daemon_lost: bool,
}

impl Running<'_> {
    /// Waits until the command has ended and everything inside is gone.
    pub fn wait(mut self) -> Outcome {
        let mut outcome = Outcome {
            end: End::Signal(libc::SIGKILL),
            not_executed: None,
            daemon_lost: false,
        };
        loop {
            let (from_init, from_daemon) = self.ready(outcome.daemon_lost);
            if from_daemon {
                outcome.daemon_lost = true;
                self.end_what_stands_still();
            }
            while let Some(info) = self.signals.next() {
                self.pass_on(&info);
            }
            if !from_init {
                continue;
            }
            match self.link.recv::<Inner>() {
                Ok((Inner::Stopped { signal }, _)) => self.stopped(signal),
                Ok((Inner::NotExecuted { errno }, _)) => {
                    outcome.not_executed = Some(Errno::from_raw(errno));
                }
                Ok((Inner::Ended(end), _)) => {
                    outcome.end = end;
                    break;
                }
                Ok(_) => {}
                // Init was killed, and the kernel with it all that was inside.
                Err(_) => break,
            }
        }
        self.gone();
        self.tty.take_back();
        if matches!(outcome.end, End::Signal(_)) {
            self.tty.restore_modes();
        }
        outcome
    }

    /// Ends a run that the daemon had stopped for a snapshot when it died: nobody else would wake it,
    /// and what it then wrote to open files could go where no layer of the branch is yet.
    fn end_what_stands_still(&self) {
        use rustix::process::Signal;
        let flags = WaitPidFlag::WSTOPPED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let state = waitid(Id::PIDFd(self.init.as_fd()), flags);
        // Init is the first to be stopped. Stopped this moment, it is still the only one: it goes on.
        let signal = match state {
            Ok(WaitStatus::Stopped(..)) => Signal::KILL,
            _ => Signal::CONT,
        };
        let _ = rustix::process::pidfd_send_signal(&self.init, signal);
    }

    /// Sleeps until something happens; whether init and whether the daemon have something to say.
    fn ready(&self, daemon_lost: bool) -> (bool, bool) {
        let mut list = vec![
            PollFd::new(self.link.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.source.as_fd(), PollFlags::POLLIN),
        ];
        if !daemon_lost {
            list.push(PollFd::new(self.daemon, PollFlags::POLLIN));
        }
        // Interrupted or not: the flags below tell, and the loop comes back.
        if poll(&mut list, PollTimeout::NONE).is_err() {
            return (false, false);
        }
        let hot = |i: usize| {
            list.get(i)
                .and_then(PollFd::revents)
                .is_some_and(|flags| !flags.is_empty())
        };
        (hot(0), hot(2))
    }

    /// Passes one of our signals to the command: to its whole group what the terminal sent (it would
    /// have, had the command's group been in front), to itself what a process sent.
    fn pass_on(&mut self, info: &siginfo) {
        const SI_KERNEL: i32 = 0x80;
        let Ok(signal) = Signal::try_from(info.ssi_signo as i32) else {
            return;
        };
        match signal {
            Signal::SIGCONT => self.resume(),
            Signal::SIGTTIN | Signal::SIGTTOU => {}
            signal if info.ssi_code == SI_KERNEL => drop(signal::killpg(self.pid, signal)),
            signal => self.send(signal),
        }
    }

    fn send(&self, signal: Signal) {
        if let Some(signal) = rustix::process::Signal::from_named_raw(signal as i32) {
            // It may have ended this moment, which init will tell.
            let _ = rustix::process::pidfd_send_signal(&self.command, signal);
        }
    }

    /// The command was stopped: stop with it, so that the caller's shell gets its prompt; unless all
    /// it wants is the terminal, and that is ours to give.
    fn stopped(&mut self, signal: i32) {
        let signal = Signal::try_from(signal).unwrap_or(Signal::SIGSTOP);
        let wants_terminal = matches!(signal, Signal::SIGTTIN | Signal::SIGTTOU);
        if wants_terminal && self.tty.give(self.pid) {
            let _ = signal::killpg(self.pid, Signal::SIGCONT);
            return;
        }
        self.tty.take_back();
        if signal == Signal::SIGSTOP {
            let _ = signal::raise(Signal::SIGSTOP);
        } else {
            // All of the caller's job stops, as it would have without us in between. A job without
            // a shell to resume it (an orphaned group) is not stopped by these signals: then the
            // command is resumed at once, which is what the kernel does to such a group.
            let mut alone = SigSet::empty();
            alone.add(signal);
            let _ = signal::kill(Pid::from_raw(0), signal);
            let _ = alone.thread_unblock();
            // Stopped here, until somebody says SIGCONT.
            let _ = alone.thread_block();
        }
        self.resume();
        if wants_terminal {
            self.tty.give(self.pid);
        }
    }

    /// Resumes the command; in front if the caller's job is.
    fn resume(&mut self) {
        if self.tty.should_give() {
            self.tty.give(self.pid);
        }
        let _ = signal::killpg(self.pid, Signal::SIGCONT);
    }

    /// Waits until init is dead. It dies last: nothing inside can write to the branch after this.
    fn gone(&self) {
        loop {
            match waitid(Id::PIDFd(self.init.as_fd()), WaitPidFlag::WEXITED) {
                Err(Errno::EINTR) => {}
                _ => return,
            }
        }
    }
}
