//! The client's end of a control connection: what the launcher calls.
//!
//! One method per request; a refusal comes back as [`CtlError::Refused`]. Built without fuser.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::core::point::SnapshotName;
use crate::core::types::BranchName;
use crate::ctl::msg::{BoundProcess, MountSpec, Reply, Request, Transport, Used, VERSION};
use crate::ctl::{CtlError, wire};

/// A connection to a branch's daemon that has said hello.
#[derive(Debug)]
pub struct Client {
    socket: UnixStream,
    branch: BranchName,
    pid: u32,
}

/// What [`Client::status`] tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Bound processes still alive, host pids.
    pub processes: Vec<u32>,
    /// Open sessions.
    pub sessions: u32,
    /// Whether the mount is served.
    pub mounted: bool,
    /// By which way, if it is by this daemon.
    pub transport: Option<Transport>,
}

/// Who sees what on a shared mount: what [`Client::bindings`] tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bindings {
    /// The branch of who is bound to none.
    pub default: BranchName,
    /// The branches that are open, the default one among them.
    pub open: Vec<BranchName>,
    /// The processes that were bound and live.
    pub bound: Vec<BoundProcess>,
    /// Whether the kernel tells of forks.
    pub hears_forks: bool,
}

/// The namespaces of a live run, to enter with setns(2).
#[derive(Debug)]
pub struct Namespaces {
    /// The user namespace.
    pub user: OwnedFd,
    /// The mount namespace.
    pub mount: OwnedFd,
}

impl Client {
    /// Connects to the daemon that listens at `socket`, wherever that is: a socket address holds
    /// 107 bytes, so the address used goes through the descriptor of the socket's directory.
    ///
    /// Errors: `Io` with ENOENT or ECONNREFUSED when no daemon is live; as [`Client::over`].
    pub fn connect(socket: &Path) -> Result<Self, CtlError> {
        let directory = open_parent(socket)?;
        let address = short_address(&directory, socket)?;
        let stream = UnixStream::connect(address).map_err(|source| CtlError::Io {
            op: "connect to the daemon",
            source,
        })?;
        Self::hello(stream)
    }

    /// Takes over an open connection, such as one end of the pair a daemon was started with.
    ///
    /// Errors: `Refused` with the reason why the daemon could not open its branch, `Version` when
    /// it speaks another one, `Closed` when it ended without a word.
    pub fn over(connection: OwnedFd) -> Result<Self, CtlError> {
        Self::hello(connection.into())
    }

    fn hello(socket: UnixStream) -> Result<Self, CtlError> {
        match exchange(&socket, &Request::Hello { version: VERSION }, &[])? {
            (
                Reply::Hello {
                    version: VERSION,
                    branch,
                    pid,
                },
                _,
            ) => Ok(Self {
                socket,
                branch,
                pid,
            }),
            (Reply::Hello { version, .. }, _) => Err(CtlError::Version(version)),
            _ => Err(CtlError::Unexpected("hello")),
        }
    }

    /// The branch the daemon serves.
    pub fn branch(&self) -> &BranchName {
        &self.branch
    }

    /// The daemon's pid.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Hands over a mounted `/dev/fuse` and, for joiners, the run's namespaces. Returns once the
    /// mount answers.
    pub fn attach(
        &self,
        mount: MountSpec,
        device: BorrowedFd<'_>,
        namespaces: Option<(BorrowedFd<'_>, BorrowedFd<'_>)>,
    ) -> Result<(), CtlError> {
        let mut fds = vec![device];
        if let Some((user, mount)) = namespaces {
            fds.extend([user, mount]);
        }
        self.expect_ok("attach", &Request::Attach { mount }, &fds)
    }

    /// Binds a process and its children to come; returns its supplementary groups.
    pub fn bind(&self, pid: u32, start_ticks: u64) -> Result<Vec<u32>, CtlError> {
        match exchange(&self.socket, &Request::Bind { pid, start_ticks }, &[])? {
            (Reply::Bound { groups }, _) => Ok(groups),
            _ => Err(CtlError::Unexpected("bind")),
        }
    }

    /// The namespaces of the live run. The connection counts as a session from here on, so that
    /// the run cannot end between this answer and entering them.
    ///
    /// Errors: `Refused` with `NotMounted` when the run is ending: [`Client::wait_closed`] returns
    /// when the branch can be opened anew.
    pub fn join(&self) -> Result<Namespaces, CtlError> {
        let (reply, fds) = exchange(&self.socket, &Request::Join, &[])?;
        match (reply, <[OwnedFd; 2]>::try_from(fds)) {
            (Reply::Joined { .. }, Ok([user, mount])) => Ok(Namespaces { user, mount }),
            _ => Err(CtlError::Unexpected("join")),
        }
    }

    /// What the branch holds now.
    pub fn status(&self) -> Result<Status, CtlError> {
        match exchange(&self.socket, &Request::Status, &[])? {
            (
                Reply::Status {
                    processes,
                    sessions,
                    mounted,
                    transport,
                },
                _,
            ) => Ok(Status {
                processes,
                sessions,
                mounted,
                transport,
            }),
            _ => Err(CtlError::Unexpected("status")),
        }
    }

    /// How far the limit of the branch is used up; `None` if it has none, or is not mounted.
    pub fn used(&self) -> Result<Option<Used>, CtlError> {
        match exchange(&self.socket, &Request::Usage, &[])? {
            (Reply::Usage { used }, _) => Ok(used),
            _ => Err(CtlError::Unexpected("usage")),
        }
    }

    /// Makes everything acknowledged so far durable.
    pub fn sync(&self) -> Result<(), CtlError> {
        self.expect_ok("sync", &Request::Sync, &[])
    }

    /// Makes a snapshot of the branch as it is now, under the next number if `name` is `None`.
    ///
    /// Errors: `Refused` with `Exists` when the name is in use.
    pub fn snapshot(&self, name: Option<SnapshotName>) -> Result<SnapshotName, CtlError> {
        match exchange(&self.socket, &Request::Snapshot { name }, &[])? {
            (Reply::Snapshot { name }, _) => Ok(name),
            _ => Err(CtlError::Unexpected("snapshot")),
        }
    }

    /// Makes the branch `name` of this one as it is now.
    ///
    /// Errors: `Refused` with `Exists` when the name is in use.
    pub fn branch_off(&self, name: BranchName, workspace: PathBuf) -> Result<(), CtlError> {
        self.expect_ok("branch", &Request::BranchOff { name, workspace }, &[])
    }

    /// Shows `branch` to a process of a shared mount and to its children to come; returns the pid of
    /// the process and its groups.
    ///
    /// Errors: `Refused` with `NotShared`, `NoSuchBranch`, `Locked` (another daemon has the branch),
    /// `NoSuchProcess`, `ForeignProcess`.
    pub fn bind_to(
        &self,
        branch: BranchName,
        pid: u32,
        start_ticks: u64,
    ) -> Result<(u32, Vec<u32>), CtlError> {
        let request = Request::BindTo {
            branch,
            pid,
            start_ticks,
        };
        match exchange(&self.socket, &request, &[])? {
            (Reply::BoundTo { pid, groups }, _) => Ok((pid, groups)),
            _ => Err(CtlError::Unexpected("bind to a branch")),
        }
    }

    /// Shows a process of a shared mount the default branch again.
    ///
    /// Errors: `Refused` with `NotShared`, `NoSuchProcess`.
    pub fn unbind(&self, pid: u32) -> Result<(), CtlError> {
        self.expect_ok("unbind", &Request::Unbind { pid }, &[])
    }

    /// Who sees what on a shared mount. Errors: `Refused` with `NotShared`.
    pub fn bindings(&self) -> Result<Bindings, CtlError> {
        match exchange(&self.socket, &Request::Bindings, &[])? {
            (
                Reply::Bindings {
                    default,
                    open,
                    bound,
                    hears_forks,
                },
                _,
            ) => Ok(Bindings {
                default,
                open,
                bound,
                hears_forks,
            }),
            _ => Err(CtlError::Unexpected("bindings")),
        }
    }

    /// Makes this connection a session: the daemon lives while one is open.
    pub fn session(&self) -> Result<(), CtlError> {
        self.expect_ok("session", &Request::Session, &[])
    }

    /// Ends this connection (and with it its session) and waits until the daemon lets go of it.
    /// For the last session of a branch that is when the branch is closed and can be opened anew;
    /// for any other it is at once.
    ///
    /// Errors: `Refused` when the daemon could not close the branch cleanly, with the reason.
    pub fn wait_closed(self) -> Result<(), CtlError> {
        // Fails only when the daemon has gone already, which the receive below tells.
        let _ = self.socket.shutdown(std::net::Shutdown::Write);
        loop {
            match wire::recv::<Reply>(&self.socket) {
                Ok((Reply::Error { code, message }, _)) => {
                    return Err(CtlError::Refused { code, message });
                }
                Ok(_) => {}
                Err(CtlError::Closed) => return Ok(()),
                Err(e) => return Err(e),
            }
        }
    }

    fn expect_ok(
        &self,
        op: &'static str,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), CtlError> {
        match exchange(&self.socket, request, fds)? {
            (Reply::Ok, _) => Ok(()),
            _ => Err(CtlError::Unexpected(op)),
        }
    }
}

impl AsFd for Client {
    /// The connection, to poll for the daemon's end (readable with nothing asked).
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn exchange(
    socket: &UnixStream,
    request: &Request,
    fds: &[BorrowedFd<'_>],
) -> Result<(Reply, Vec<OwnedFd>), CtlError> {
    match wire::send(socket, request, fds) {
        // A server that turns a connection away does not wait for the question: its reason may be
        // there to be read although nobody reads what we send.
        Ok(()) | Err(CtlError::Closed) => {}
        Err(e) => return Err(e),
    }
    match wire::recv(socket)? {
        (Reply::Error { code, message }, _) => Err(CtlError::Refused { code, message }),
        answer => Ok(answer),
    }
}

/// Opens the directory that holds `socket`, for [`short_address`].
pub(crate) fn open_parent(socket: &Path) -> Result<OwnedFd, CtlError> {
    let parent = socket.parent().unwrap_or(Path::new("/"));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(parent, flags, Mode::empty()).map_err(|e| CtlError::Io {
        op: "open the branch's directory",
        source: e.into(),
    })
}

/// The path of `socket` by way of the open `directory`; short whatever the store's path is.
pub(crate) fn short_address(directory: &OwnedFd, socket: &Path) -> Result<PathBuf, CtlError> {
    use std::os::fd::AsRawFd;
    let name = socket.file_name().ok_or(CtlError::Io {
        op: "name the control socket",
        source: std::io::ErrorKind::InvalidInput.into(),
    })?;
    Ok(Path::new("/proc/self/fd")
        .join(directory.as_raw_fd().to_string())
        .join(name))
}
