//! [`Gate`]: holds the set-up of a run at a chosen moment, for as long as the test wants.
//!
//! The launcher is told of a program of ours as its daemon. That one starts the real daemon, passes
//! every control message on in both directions, and stops before the chosen request. So nothing in
//! the launcher or the daemon knows of it, and what is held is exactly what a slow daemon would hold.

use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use agentfs_fsd::ctl::msg::{Reply, Request};
use agentfs_fsd::ctl::wire;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::cmd::{self, Running};
use crate::{Sandbox, bins, wait};

/// Before the launcher's request of this kind reaches the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The daemon is started, and has not greeted the launcher.
    Hello,
    /// FUSE is mounted in the run's namespaces, and nobody serves it.
    Attach,
    /// The daemon serves the mount and holds the namespaces; the root is still the host's.
    Session,
    /// The view is complete, and the command waits to be executed.
    Bind,
}

impl Moment {
    /// All of them, in their order.
    pub const ALL: [Moment; 4] = [Moment::Hello, Moment::Attach, Moment::Session, Moment::Bind];

    fn word(self) -> &'static str {
        match self {
            Moment::Hello => "hello",
            Moment::Attach => "attach",
            Moment::Session => "session",
            Moment::Bind => "bind",
        }
    }

    fn of(request: &Request) -> Option<Moment> {
        match request {
            Request::Hello { .. } => Some(Moment::Hello),
            Request::Attach { .. } => Some(Moment::Attach),
            Request::Session => Some(Moment::Session),
            Request::Bind { .. } => Some(Moment::Bind),
            Request::Join
            | Request::Status
            | Request::Usage
            | Request::Sync
            | Request::Snapshot { .. }
            | Request::BranchOff { .. }
            | Request::BindTo { .. }
            | Request::Unbind { .. }
            | Request::Bindings => None,
        }
    }
}

/// The test's side.
#[derive(Debug)]
pub struct Gate {
    listener: UnixListener,
    program: PathBuf,
}

/// A run that stands at the gate. Dropped, it goes on.
#[derive(Debug)]
pub struct Held(#[expect(dead_code, reason = "its end is the sign to go on")] UnixStream);

impl Gate {
    /// A gate at `moment` for runs of `sandbox`, one gate per sandbox at a time.
    pub fn at(sandbox: &Sandbox, moment: Moment) -> Self {
        let socket = sandbox.root().join("gate");
        let program = sandbox.root().join("gate-daemon");
        let _ = fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).expect("the gate's socket");
        listener.set_nonblocking(true).expect("no waiting");
        let words = [
            bins::helper(),
            PathBuf::from("gate"),
            socket,
            PathBuf::from(moment.word()),
            bins::daemon(),
        ]
        .map(|word| format!("'{}'", word.display()));
        let text = format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" "));
        fs::write(&program, text).expect("the gate's program");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
        Gate { listener, program }
    }

    /// Makes a launcher's daemon pass this gate.
    pub fn adopt(&self, launcher: &mut Command) {
        launcher.env("AGENTFS_FUSE_HOST_BIN", &self.program);
    }

    /// Starts the launcher with `args`; its run will stand at the gate.
    pub fn start(&self, sandbox: &Sandbox, args: &[&str]) -> Running {
        let mut launcher = sandbox.agentfs(args);
        self.adopt(&mut launcher);
        cmd::start(launcher.stdin(Stdio::null()))
    }

    /// Waits until a run stands at the gate.
    #[track_caller]
    pub fn held(&self) -> Held {
        let (stream, _) =
            wait::eventually("a run stands at the gate", || self.listener.accept().ok());
        Held(stream)
    }
}

/// What the gate's program does: `args` are the socket of the test, the moment, the daemon's program
/// and the daemon's arguments, with the number of the control descriptor last. Gives its status.
pub fn stand_between(args: &[OsString]) -> Result<i32, String> {
    let [socket, moment, daemon, rest @ .., number] = args else {
        return Err("usage: gate SOCKET MOMENT DAEMON ARGUMENT.. FD".to_owned());
    };
    let number = number.to_str().and_then(|n| n.parse().ok());
    let number = number.ok_or("the last argument is no descriptor")?;
    let launcher = agentfs_fsd::sys::take_inherited_fd(number).map_err(|e| e.to_string())?;
    let (ours, theirs) = UnixStream::pair().map_err(|e| e.to_string())?;
    rustix::io::fcntl_setfd(&theirs, rustix::io::FdFlags::empty()).map_err(|e| e.to_string())?;
    let mut child = Command::new(daemon)
        .args(rest)
        .arg(theirs.as_raw_fd().to_string())
        .spawn()
        .map_err(|e| e.to_string())?;
    drop(theirs);

    let inwards = ours.try_clone().map_err(|e| e.to_string())?;
    let outwards = launcher.try_clone().map_err(|e| e.to_string())?;
    let (socket, moment) = (PathBuf::from(socket), moment.clone());
    // Not waited for: it ends with the process, when the daemon has ended.
    thread::spawn(move || {
        while let Ok((request, fds)) = wire::recv::<Request>(&launcher) {
            if Moment::of(&request).is_some_and(|at| moment == at.word()) {
                hold(&socket, &launcher);
            }
            if wire::send(&inwards, &request, &borrowed(&fds)).is_err() {
                break;
            }
        }
        let _ = inwards.shutdown(std::net::Shutdown::Write);
    });
    while let Ok((reply, fds)) = wire::recv::<Reply>(&ours) {
        // A launcher that has gone does not want to know.
        let _ = wire::send(&outwards, &reply, &borrowed(&fds));
    }
    let status = child.wait().map_err(|e| e.to_string())?;
    Ok(status.code().unwrap_or(1))
}

/// Stands at the gate until the test lets go, or the launcher hangs up.
fn hold(socket: &Path, launcher: &OwnedFd) {
    let gate = UnixStream::connect(socket).expect("the gate's socket");
    let mut list = [
        PollFd::new(gate.as_fd(), PollFlags::POLLIN),
        PollFd::new(launcher.as_fd(), PollFlags::POLLIN),
    ];
    while poll(&mut list, PollTimeout::NONE) == Err(nix::errno::Errno::EINTR) {}
}

fn borrowed(fds: &[OwnedFd]) -> Vec<std::os::fd::BorrowedFd<'_>> {
    fds.iter().map(AsFd::as_fd).collect()
}
