//! The launcher's control connection while a run is set up: every wait on it ends at a signal or at
//! a deadline.
//!
//! The messages are those of [`agentfs_fsd::ctl::client`], whose calls wait for as long as it takes.

use std::cell::Cell;
use std::fmt::Display;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use agentfs_fsd::core::types::BranchName;
use agentfs_fsd::ctl::client::Namespaces;
use agentfs_fsd::ctl::msg::{MountSpec, Reply, Request, Used, VERSION};
use agentfs_fsd::ctl::{CtlError, wire};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::error::CmdError;
use crate::proc::monitor::{Cut, Signals};
use crate::say::say;

/// How long one answer may take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A wait as long as this is told.
const SILENCE: Duration = Duration::from_secs(2);

/// The waits of one run: the first that takes long is told on stderr, unless the caller wants quiet.
#[derive(Debug)]
pub struct Waits<'a> {
    signals: &'a Signals,
    may_tell: Cell<bool>,
}

impl<'a> Waits<'a> {
    /// None of them told yet.
    pub fn new(signals: &'a Signals, quiet: bool) -> Self {
        Self {
            signals,
            may_tell: Cell::new(!quiet),
        }
    }

    /// The signals that end a wait.
    pub fn signals(&self) -> &'a Signals {
        self.signals
    }

    /// Waits until `source` can be read; `what` is awaited.
    pub fn until_readable(
        &self,
        source: BorrowedFd<'_>,
        deadline: Instant,
        what: impl Display,
    ) -> Result<(), Cut> {
        let silence = Instant::now() + SILENCE;
        if silence < deadline {
            match self.signals.until_readable(source, silence) {
                Err(Cut::Late) => self.tell(what),
                other => return other,
            }
        }
        self.signals.until_readable(source, deadline)
    }

    /// Tells that `what` is awaited since `start`, if that is long.
    pub fn since(&self, start: Instant, what: impl Display) {
        if start.elapsed() >= SILENCE {
            self.tell(what);
        }
    }

    fn tell(&self, what: impl Display) {
        if self.may_tell.replace(false) {
            say!("agentfs: waiting for {what}");
        }
    }
}

/// A connection to a branch's daemon that has said hello.
#[derive(Debug)]
pub struct Line<'a> {
    socket: OwnedFd,
    branch: &'a BranchName,
    waits: &'a Waits<'a>,
}

impl<'a> Line<'a> {
    /// Connects to the daemon that listens at `socket`.
    ///
    /// Errors: `Io` when none listens or it does not take connections now; as [`Line::over`].
    pub fn connect(
        socket: &Path,
        branch: &'a BranchName,
        waits: &'a Waits<'a>,
    ) -> Result<Self, CmdError> {
        let connection = dial(socket).map_err(|e| {
            let op = "connect to the daemon";
            let source = e.into();
            CmdError::daemon(branch, CtlError::Io { op, source })
        })?;
        Self::over(connection, branch, waits)
    }

    /// Says hello on an open connection. A daemon that was just started opens its branch then.
    ///
    /// Errors: the daemon's refusal, `Closed`, `Interrupted`, or no answer in [`PATIENCE`].
    pub fn over(
        socket: OwnedFd,
        branch: &'a BranchName,
        waits: &'a Waits<'a>,
    ) -> Result<Self, CmdError> {
        let line = Self {
            socket,
            branch,
            waits,
        };
        match line.ask(&Request::Hello { version: VERSION }, &[])?.0 {
            Reply::Hello {
                version: VERSION, ..
            } => Ok(line),
            Reply::Hello { version, .. } => Err(line.error(CtlError::Version(version))),
            _ => Err(line.error(CtlError::Unexpected("hello"))),
        }
    }

    /// Hands over a mounted `/dev/fuse` and the run's namespaces. Does `meanwhile` while the daemon takes
    /// them.
    pub fn attach(
        &self,
        mount: MountSpec,
        fds: &[BorrowedFd<'_>],
        meanwhile: impl FnOnce() -> Result<(), CmdError>,
    ) -> Result<(), CmdError> {
        self.say(&Request::Attach { mount }, fds)?;
        let done = meanwhile();
        self.hear()?;
        done
    }

    /// Makes this connection a session: the daemon lives while one is open.
    pub fn session(&self) -> Result<(), CmdError> {
        self.ask(&Request::Session, &[]).map(drop)
    }

    /// Binds a process and its children to come.
    pub fn bind(&self, pid: u32, start_ticks: u64) -> Result<(), CmdError> {
        self.ask(&Request::Bind { pid, start_ticks }, &[]).map(drop)
    }

    /// The namespaces of the live run, and the digest of its policy; a session from here on.
    pub fn join(&self) -> Result<(Namespaces, Option<String>), CmdError> {
        match self.ask(&Request::Join, &[])? {
            (Reply::Joined { policy }, fds) if fds.len() == 2 => {
                let [user, mount] = <[OwnedFd; 2]>::try_from(fds)
                    .map_err(|_| self.error(CtlError::Unexpected("join")))?;
                Ok((Namespaces { user, mount }, policy))
            }
            _ => Err(self.error(CtlError::Unexpected("join"))),
        }
    }

    /// How far the limit of the branch is used up, if it has one.
    pub fn used(&self) -> Result<Option<Used>, CmdError> {
        match self.ask(&Request::Usage, &[])? {
            (Reply::Usage { used }, _) => Ok(used),
            _ => Err(self.error(CtlError::Unexpected("usage"))),
        }
    }

    /// Ends this connection and waits until the daemon lets go of it: for the last session that is
    /// when the branch is closed, for any other at once. `patience`: no longer than this, and no
    /// longer than until a signal.
    ///
    /// Errors: the daemon's reason when it could not close the branch.
    pub fn wait_closed(self, patience: Option<Duration>) -> Result<(), CmdError> {
        // Fails only when the daemon has gone already, which the receive below tells.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write);
        let deadline = patience.map(|patience| Instant::now() + patience);
        if deadline.is_none() {
            self.tell_of_a_long_close();
        }
        loop {
            if let Some(deadline) = deadline {
                self.wait(deadline)?;
            }
            match wire::recv::<Reply>(&self.socket) {
                Ok((Reply::Error { code, message }, _)) => {
                    return Err(self.error(CtlError::Refused { code, message }));
                }
                Ok(_) => {}
                Err(CtlError::Closed) => return Ok(()),
                Err(e) => return Err(self.error(e)),
            }
        }
    }

    /// Returns once there is something to receive, or the wait has been told. Takes no signals: the
    /// command has ended, and what it wrote is about to be closed.
    fn tell_of_a_long_close(&self) {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let silence = Timespec {
            tv_sec: SILENCE.as_secs().cast_signed(),
            tv_nsec: 0,
        };
        let ready = poll(
            &mut [PollFd::new(&self.socket, PollFlags::IN)],
            Some(&silence),
        );
        if ready == Ok(0) {
            self.waits
                .tell(format_args!("the daemon to close branch {}", self.branch));
        }
    }

    fn wait(&self, deadline: Instant) -> Result<(), CmdError> {
        let what = format_args!("the daemon of branch {}", self.branch);
        match self
            .waits
            .until_readable(self.socket.as_fd(), deadline, what)
        {
            Ok(()) => Ok(()),
            Err(Cut::Signal(number)) => Err(CmdError::Interrupted(number)),
            Err(Cut::Late) => Err(self.error(CtlError::Io {
                op: "wait for the daemon's answer",
                source: std::io::ErrorKind::TimedOut.into(),
            })),
        }
    }

    fn ask(
        &self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Reply, Vec<OwnedFd>), CmdError> {
        self.say(request, fds)?;
        self.hear()
    }

    fn say(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), CmdError> {
        match wire::send(&self.socket, request, fds) {
            // The reason for which it was turned away may be there to be read.
            Ok(()) | Err(CtlError::Closed) => Ok(()),
            Err(e) => Err(self.error(e)),
        }
    }

    fn hear(&self) -> Result<(Reply, Vec<OwnedFd>), CmdError> {
        self.wait(Instant::now() + PATIENCE)?;
        match wire::recv(&self.socket).map_err(|e| self.error(e))? {
            (Reply::Error { code, message }, _) => {
                Err(self.error(CtlError::Refused { code, message }))
            }
            answer => Ok(answer),
        }
    }

    fn error(&self, source: CtlError) -> CmdError {
        CmdError::daemon(self.branch, source)
    }
}

impl AsFd for Line<'_> {
    /// The connection, to poll for the daemon's end (readable with nothing asked).
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Connects without waiting. The address goes through the socket's directory, as it holds 107 bytes.
fn dial(path: &Path) -> Result<OwnedFd, rustix::io::Errno> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(parent, flags, Mode::empty())?;
    let short = Path::new("/proc/self/fd")
        .join(directory.as_raw_fd().to_string())
        .join(path.file_name().unwrap_or_default());
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(short)?)?;
    rustix::io::ioctl_fionbio(&socket, false)?;
    Ok(socket)
}
