//! The terminal: whose turn it is to read its keys.
//!
//! The command is in a process group of its own, so that nothing inside can signal the caller's
//! (`kill 0`). It gets the terminal at once when the run is alone in its job and its standard
//! streams are the terminal; else (a pipeline into a pager, a script) when it first asks for it, which
//! the kernel tells by stopping it with SIGTTIN or SIGTTOU.

use std::io::IsTerminal;
use std::os::fd::OwnedFd;

use nix::sys::termios::{self, SetArg, Termios};
use nix::unistd::{self, Pid};
use rustix::fs::{Mode, OFlags};

/// The controlling terminal of the monitor, if there is one.
#[derive(Debug)]
pub struct Tty {
    terminal: Option<OwnedFd>,
    given: bool,
    saved: Option<Termios>,
}

impl Tty {
    /// Opens it. SIGTTOU must be blocked while this lives.
    pub fn open() -> Self {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal = rustix::fs::open("/dev/tty", flags, Mode::empty()).ok();
        Self {
            terminal,
            given: false,
            saved: None,
        }
    }

    /// Whether the caller's job has the terminal now.
    pub fn is_ours(&self) -> bool {
        let Some(terminal) = &self.terminal else {
            return false;
        };
        unistd::tcgetpgrp(terminal).is_ok_and(|group| group == unistd::getpgrp())
    }

    /// Whether the command should have the terminal from the start.
    pub fn should_give(&self) -> bool {
        let alone = unistd::getpgrp() == unistd::getpid();
        alone && self.is_ours() && std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
    }

    /// Gives the terminal to the command's group if the caller's has it; whether it did.
    pub fn give(&mut self, group: Pid) -> bool {
        if !self.is_ours() {
            return false;
        }
        let Some(terminal) = &self.terminal else {
            return false;
        };
        if self.saved.is_none() {
            self.saved = termios::tcgetattr(terminal).ok();
        }
        self.given = unistd::tcsetpgrp(terminal, group).is_ok();
        self.given
    }

    /// Takes it back for the caller's group if it was given.
    pub fn take_back(&mut self) {
        if let (true, Some(terminal)) = (self.given, &self.terminal) {
            // Fails only when the terminal is gone.
            let _ = unistd::tcsetpgrp(terminal, unistd::getpgrp());
            self.given = false;
        }
    }

    /// Puts the modes back that held before; for a command that a signal ended and that could not do
    /// so itself.
    pub fn restore_modes(&self) {
        if let (Some(saved), Some(terminal), true) = (&self.saved, &self.terminal, self.is_ours()) {
            let _ = termios::tcsetattr(terminal, SetArg::TCSADRAIN, saved);
        }
    }
}
