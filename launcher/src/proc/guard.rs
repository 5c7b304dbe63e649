//! Ends a process of ours that nobody needs any more.

use std::os::fd::OwnedFd;

use nix::unistd::Pid;

/// A child that, dropped, is ended if it is still there, and waited for.
#[derive(Debug)]
pub struct ProcessGuard {
    pid: Pid,
    pidfd: OwnedFd,
}

impl ProcessGuard {
    /// Guards the child `pid`, which `pidfd` is too.
    pub fn new(pid: Pid, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd }
    }

    /// Its pid in this process's pid namespace.
    pub fn pid(&self) -> Pid {
        self.pid
    }
}

impl Drop for ProcessGuard {
    fn drop(&mut self) {
        use rustix::process::{Signal, pidfd_send_signal};
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let _ = nix::sys::wait::waitpid(self.pid, None);
    }
}
