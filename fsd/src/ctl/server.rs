//! The daemon's end of the control socket: accepts, checks who asks, and hands each request to
//! the [`Service`].
//!
//! One thread per connection, at most [`MAX_CONNECTIONS`]. Decides only what concerns the
//! protocol: whose connection it is, that Hello comes first, which connections are sessions. What
//! a request means is the service's business.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;

use tracing::{debug, info, warn};

use crate::core::point::SnapshotName;
use crate::core::types::BranchName;
use crate::ctl::client::{Bindings, open_parent, short_address};
use crate::ctl::msg::{ErrorCode, MountSpec, Reply, Request, Transport, Used, VERSION};
use crate::ctl::{CtlError, wire};
use crate::sync::{Arc, Mutex, lock};

/// Connections served at once; one more is refused and closed.
pub const MAX_CONNECTIONS: usize = 64;

/// Stack of a connection's thread. Attach builds the core on it, hence not the smallest.
const STACK_BYTES: usize = 512 << 10;

/// A request that is not granted.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// What kind of trouble, for programs.
    pub code: ErrorCode,
    /// What failed, on what, why, for people.
    pub message: String,
}

impl Refusal {
    /// A refusal of kind `code`.
    pub fn new(code: ErrorCode, message: impl ToString) -> Self {
        Self {
            code,
            message: message.to_string(),
        }
    }
}

/// The answer of a mount that shows one branch to everybody.
pub fn not_shared(branch: &BranchName) -> Refusal {
    let message = format!("the mount is not shared: it shows branch {branch} to every process");
    Refusal::new(ErrorCode::NotShared, message)
}

/// What the daemon does on request. Called from several threads.
pub trait Service: Send + Sync + 'static {
    /// The branch served.
    fn branch(&self) -> &BranchName;
    /// Serves the mounted `device`; returns once INIT is done.
    fn attach(
        &self,
        mount: MountSpec,
        device: OwnedFd,
        namespaces: Vec<OwnedFd>,
    ) -> Result<(), Refusal>;
    /// Binds a process; returns its groups.
    fn bind(&self, pid: u32, start_ticks: u64) -> Result<Vec<u32>, Refusal>;
    /// The user and the mount namespace of the run, in this order, and its policy's digest.
    fn join(&self) -> Result<([OwnedFd; 2], Option<String>), Refusal>;
    /// Bound processes still alive, whether the mount is served, and by which way.
    fn status(&self) -> (Vec<u32>, bool, Option<Transport>);
    /// How far the limit of the branch is used up, if it has one.
    fn used(&self) -> Option<Used>;
    /// Makes everything acknowledged durable.
    fn sync(&self) -> Result<(), Refusal>;
    /// Makes a snapshot; returns its name.
    fn snapshot(&self, name: Option<SnapshotName>) -> Result<SnapshotName, Refusal>;
    /// Makes a branch of this one.
    fn branch_off(&self, name: &BranchName, workspace: PathBuf) -> Result<(), Refusal>;
    /// Shows a branch to a process of a shared mount; returns its pid and groups.
    fn bind_to(
        &self,
        _branch: &BranchName,
        _pid: u32,
        _start_ticks: u64,
    ) -> Result<(u32, Vec<u32>), Refusal> {
        Err(not_shared(self.branch()))
    }
    /// Shows the default branch of a shared mount to a process.
    fn unbind(&self, _pid: u32) -> Result<(), Refusal> {
        Err(not_shared(self.branch()))
    }
    /// Who sees what on a shared mount.
    fn bindings(&self) -> Result<Bindings, Refusal> {
        Err(not_shared(self.branch()))
    }
    /// The last session ended.
    fn sessions_over(&self);
    /// The last connection ended.
    fn idle(&self);
}

/// The accepting side and the table of connections.
#[derive(Debug)]
pub struct Server<S> {
    service: Arc<S>,
    connections: Mutex<Connections>,
}

#[derive(Debug, Default)]
struct Connections {
    next_id: u64,
    open: HashSet<u64>,
    sessions: HashSet<u64>,
    /// Ended sessions that wait for the end of the daemon: their clients read until then.
    parting: Vec<UnixStream>,
}

impl<S: Service> Server<S> {
    /// Serves the connection `first`, and `listener`'s, if there are such, each in a thread.
    pub fn start(
        service: Arc<S>,
        first: Option<OwnedFd>,
        listener: Option<UnixListener>,
    ) -> io::Result<Arc<Self>> {
        let server = Arc::new(Self {
            service,
            connections: Mutex::default(),
        });
        if let Some(first) = first {
            server.admit(first.into())?;
        }
        if let Some(listener) = listener {
            let accepting = Arc::clone(&server);
            thread::Builder::new()
                .name("ctl-accept".into())
                .stack_size(STACK_BYTES)
                .spawn(move || accepting.accept(&listener))?;
        }
        Ok(server)
    }

    /// Tells the clients that wait for the end of the daemon what went wrong in it.
    pub fn farewell(&self, refusal: &Refusal) {
        for stream in &lock(&self.connections).parting {
            // A client that has gone does not want to know.
            let _ = wire::send(stream, &error_reply(refusal), &[]);
        }
    }

    fn accept(self: Arc<Self>, listener: &UnixListener) {
        for stream in listener.incoming() {
            match stream {
                Ok(stream) => {
                    if let Err(error) = self.admit(stream) {
                        warn!(%error, "no thread for a control connection");
                    }
                }
                // Out of descriptors or memory: the next connection may find some again.
                Err(error) => {
                    warn!(%error, "accept on the control socket");
                    thread::sleep(std::time::Duration::from_millis(100));
                }
            }
        }
    }

    /// Takes one connection on, unless it is a stranger's or one too many.
    fn admit(self: &Arc<Self>, stream: UnixStream) -> io::Result<()> {
        if let Err(refusal) = check_peer(&stream) {
            warn!(message = refusal.message, "control connection refused");
            let _ = wire::send(&stream, &error_reply(&refusal), &[]);
            return Ok(());
        }
        let mut table = lock(&self.connections);
        if table.open.len() >= MAX_CONNECTIONS {
            drop(table);
            let message = format!("{MAX_CONNECTIONS} control connections are open already");
            let refusal = Refusal::new(ErrorCode::NotAllowed, message);
            let _ = wire::send(&stream, &error_reply(&refusal), &[]);
            return Ok(());
        }
        table.next_id += 1;
        let id = table.next_id;
        table.open.insert(id);
        drop(table);
        let server = Arc::clone(self);
        let spawned = thread::Builder::new()
            .name(format!("ctl-{id}"))
            .stack_size(STACK_BYTES)
            .spawn(move || server.converse(id, stream));
        if let Err(error) = spawned {
            lock(&self.connections).open.remove(&id);
            return Err(error);
        }
        Ok(())
    }

    /// One connection from Hello to its end.
    fn converse(self: Arc<Self>, id: u64, stream: UnixStream) {
        match self.requests(id, &stream) {
            Ok(()) | Err(CtlError::Closed) => debug!(id, "control connection ended"),
            Err(error) => {
                info!(id, %error, "control connection closed");
                if let CtlError::Malformed(_) | CtlError::TooLarge(_) = error {
                    let refusal = Refusal::new(ErrorCode::Malformed, error);
                    let _ = wire::send(&stream, &error_reply(&refusal), &[]);
                }
            }
        }
        let mut table = lock(&self.connections);
        table.open.remove(&id);
        let idle = table.open.is_empty();
        let sessions_over = table.sessions.remove(&id) && table.sessions.is_empty();
        if sessions_over {
            table.parting.push(stream);
        }
        drop(table);
        if sessions_over {
            self.service.sessions_over();
        }
        if idle {
            self.service.idle();
        }
    }

    fn requests(&self, id: u64, stream: &UnixStream) -> Result<(), CtlError> {
        if !greet(stream, self.service.branch())? {
            return Ok(());
        }
        loop {
            let (request, fds) = wire::recv::<Request>(stream)?;
            let (reply, fds) = self.answer(id, request, fds);
            let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
            wire::send(stream, &reply, &fds)?;
        }
    }

    fn answer(&self, id: u64, request: Request, fds: Vec<OwnedFd>) -> (Reply, Vec<OwnedFd>) {
        let mut passed = Vec::new();
        let outcome = match request {
            Request::Hello { .. } => {
                Err(Refusal::new(ErrorCode::Malformed, "hello was said already"))
            }
            Request::Attach { mount } => self.attach(mount, fds).map(|()| Reply::Ok),
            Request::Bind { pid, start_ticks } => self
                .service
                .bind(pid, start_ticks)
                .map(|groups| Reply::Bound { groups }),
            Request::Join => self.join(id).map(|(namespaces, policy)| {
                passed.extend(namespaces);
                Reply::Joined { policy }
            }),
            Request::Status => {
                let (processes, mounted, transport) = self.service.status();
                let sessions = lock(&self.connections).sessions.len() as u32;
                Ok(Reply::Status {
                    processes,
                    sessions,
                    mounted,
                    transport,
                })
            }
            Request::Usage => Ok(Reply::Usage {
                used: self.service.used(),
            }),
            Request::Sync => self.service.sync().map(|()| Reply::Ok),
            Request::Snapshot { name } => self
                .service
                .snapshot(name)
                .map(|name| Reply::Snapshot { name }),
            Request::BranchOff { name, workspace } => self
                .service
                .branch_off(&name, workspace)
                .map(|()| Reply::Ok),
            Request::BindTo {
                branch,
                pid,
                start_ticks,
            } => self
                .service
                .bind_to(&branch, pid, start_ticks)
                .map(|(pid, groups)| Reply::BoundTo { pid, groups }),
            Request::Unbind { pid } => self.service.unbind(pid).map(|()| Reply::Ok),
            Request::Bindings => self.service.bindings().map(|b| Reply::Bindings {
                default: b.default,
                open: b.open,
                bound: b.bound,
                hears_forks: b.hears_forks,
            }),
            Request::Session => {
                lock(&self.connections).sessions.insert(id);
                Ok(Reply::Ok)
            }
        };
        (
            outcome.unwrap_or_else(|refusal| error_reply(&refusal)),
            passed,
        )
    }

    fn attach(&self, mount: MountSpec, fds: Vec<OwnedFd>) -> Result<(), Refusal> {
        let mut fds = fds.into_iter();
        let device = fds
            .next()
            .ok_or_else(|| Refusal::new(ErrorCode::Malformed, "attach came without descriptor"))?;
        self.service.attach(mount, device, fds.collect())
    }

    /// A joiner is a session from the moment it holds the namespaces: otherwise the run could
    /// end between its two requests.
    fn join(&self, id: u64) -> Result<([OwnedFd; 2], Option<String>), Refusal> {
        let fresh = lock(&self.connections).sessions.insert(id);
        let joined = self.service.join();
        if joined.is_err() && fresh {
            lock(&self.connections).sessions.remove(&id);
        }
        joined
    }
}

/// Answers one Hello with `refusal`: for a daemon that could not open its branch.
pub fn refuse(connection: OwnedFd, refusal: &Refusal) -> Result<(), CtlError> {
    let (_hello, _) = wire::recv::<Request>(&connection)?;
    wire::send(&connection, &error_reply(refusal), &[])
}

/// Listens at `socket`, over whatever a killed daemon left there. The caller holds the branch's
/// lock, so no live daemon can be listening.
pub fn listen(socket: &Path) -> Result<UnixListener, CtlError> {
    let directory = open_parent(socket)?;
    let address = short_address(&directory, socket)?;
    match std::fs::remove_file(&address) {
        Ok(()) => debug!("removed the control socket of a daemon that was killed"),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(source) => {
            return Err(CtlError::Io {
                op: "remove the old control socket",
                source,
            });
        }
    }
    UnixListener::bind(&address).map_err(|source| CtlError::Io {
        op: "listen on the control socket",
        source,
    })
}

/// The first request of a connection; `false` when it was refused and the connection must end.
fn greet(stream: &UnixStream, branch: &BranchName) -> Result<bool, CtlError> {
    let refusal = match wire::recv::<Request>(stream)? {
        (Request::Hello { version: VERSION }, _) => {
            let pid = std::process::id();
            let hello = Reply::Hello {
                version: VERSION,
                branch: branch.clone(),
                pid,
            };
            wire::send(stream, &hello, &[])?;
            return Ok(true);
        }
        (Request::Hello { version }, _) => {
            let message = format!(
                "the client speaks version {version} of the control messages, this daemon {VERSION}"
            );
            Refusal::new(ErrorCode::Version, message)
        }
        _ => Refusal::new(ErrorCode::Malformed, "the first request must be hello"),
    };
    wire::send(stream, &error_reply(&refusal), &[])?;
    Ok(false)
}

/// Only the daemon's own user may ask. Source: unix(7), SO_PEERCRED.
fn check_peer(stream: &UnixStream) -> Result<(), Refusal> {
    let own = rustix::process::geteuid();
    match rustix::net::sockopt::socket_peercred(stream) {
        Ok(peer) if peer.uid == own => Ok(()),
        Ok(peer) => {
            let message = format!("uid {} may not control a branch of uid {own}", peer.uid);
            Err(Refusal::new(ErrorCode::NotAllowed, message))
        }
        Err(e) => Err(Refusal::new(
            ErrorCode::NotAllowed,
            format!("who asks is unknown: {e}"),
        )),
    }
}

fn error_reply(refusal: &Refusal) -> Reply {
    Reply::Error {
        code: refusal.code,
        message: refusal.message.clone(),
    }
}

#[cfg(test)]
mod tests;
