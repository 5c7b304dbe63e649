//! The only place where the launcher makes a copy of itself.
//!
//! Refuses when more than one thread runs: after a clone the child has one thread and whatever locks
//! the others held, for ever.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use clone3::Clone3;
use nix::unistd::Pid;
use procfs::ProcError;

/// Proof that this process has one thread. Nothing in the launcher ever starts a second one.
#[derive(Debug)]
pub struct Alone(());

impl Alone {
    /// Asks the kernel.
    ///
    /// Errors: `Other` when more than one thread runs.
    pub fn check() -> io::Result<Self> {
        let threads = procfs::process::Process::myself()
            .and_then(|me| me.stat())
            .map_err(|e| match e {
                ProcError::Io(e, _) => e,
                e => io::Error::other(e),
            })?
            .num_threads;
        match threads {
            1 => Ok(Self(())),
            _ => Err(io::Error::other(format!(
                "{threads} threads run, must be 1 to clone"
            ))),
        }
    }
}

/// Which side of the clone this is.
#[derive(Debug)]
pub enum Side {
    /// The new process, which the kernel started with one thread.
    Child(Alone),
    /// The old one.
    Parent {
        /// The child, in this process's pid namespace.
        pid: Pid,
        /// A descriptor of it, close-on-exec.
        pidfd: OwnedFd,
    },
}

/// What the new process gets new, and whose child it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// New user, mount, ipc and uts namespaces.
    Setup,
    /// No new namespace: it will enter a live run's.
    Join,
    /// Pid 1 of a new pid namespace; a child of the caller's parent, so that the caller may leave.
    Init,
    /// An ordinary child.
    Command,
}

/// Clones this process.
///
/// Errors: `EUSERS`/`ENOSPC` (limit of namespaces), `EPERM` (not allowed to make them), `EAGAIN`.
pub fn clone(kind: Kind, _alone: &Alone) -> io::Result<Side> {
    let mut raw_pidfd = -1;
    let mut call = Clone3::default();
    match kind {
        Kind::Setup => {
            call.flag_newuser().flag_newns().flag_newipc().flag_newuts();
        }
        Kind::Init => {
            // Before the clone, because the crate refuses CLONE_NEWPID together with CLONE_PARENT,
            // as kernels before 3.13 did.
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWPID)?;
            call.flag_parent();
        }
        Kind::Join | Kind::Command => {}
    }
    if kind != Kind::Init {
        // With CLONE_PARENT the kernel takes the caller's own exit signal and demands a zero.
        call.exit_signal(nix::libc::SIGCHLD as u64);
    }
    call.flag_pidfd(&mut raw_pidfd);
    // SAFETY: no CLONE_VM, so the child runs on its own copy of the memory and the stack. This is
    // the only thread (`Alone` proves it), so no lock is held by a thread that the child lacks.
    let pid = unsafe { call.call() }?;
    if pid == 0 {
        return Ok(Side::Child(Alone(())));
    }
    // SAFETY: the kernel has just made this descriptor for us and nobody else knows its number.
    let pidfd = unsafe { OwnedFd::from_raw_fd(raw_pidfd) };
    Ok(Side::Parent {
        pid: Pid::from_raw(pid),
        pidfd,
    })
}
