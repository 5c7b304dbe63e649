//! The life of the daemon: detach, open the branch, serve until the end comes, close the branch.
//!
//! `startup` cuts the process loose from the one that started it, `service` answers the control
//! requests, `pause` stops a run while it is frozen, `chores` tends its frozen layers, `shared` opens the
//! branches of a mount of several, `refusal` words what goes wrong for a client, `logging` writes
//! `fsd.log`.

mod chores;
mod logging;
mod pause;
mod refusal;
mod service;
mod shared;
mod startup;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use agentfs_fsd::backstore::{LiveBranch, Store};
use agentfs_fsd::core::types::BranchName;
use agentfs_fsd::ctl::msg::ErrorCode;
use agentfs_fsd::ctl::server::{self, Refusal, Server};
use agentfs_fsd::fuse::Options;
use nix::sys::signal::SigSet;
use tracing::{error, info, warn};

use crate::Args;
use crate::daemon::service::Daemon;

/// The exit status for trouble of our own.
pub(crate) const FAILED: u8 = 125;

/// How often the core gets to sync its journal and to check whether a checkpoint is due.
const MAINTENANCE_EVERY: Duration = Duration::from_secs(3);

/// What ends the daemon, or may.
#[derive(Debug)]
pub(crate) enum Event {
    /// The kernel has no mount for us any more, or the session failed.
    Unmounted(std::io::Result<()>),
    /// No client is left.
    Idle,
    /// SIGTERM.
    Terminate,
}

/// A branch that was opened, and where.
struct Opened {
    name: BranchName,
    live: LiveBranch,
    store: Store,
    socket: PathBuf,
    options: Options,
}

/// Runs the daemon to its end.
pub(crate) fn run(args: Args) -> ExitCode {
    // Before the working directory changes.
    let store = std::path::absolute(&args.store).unwrap_or(args.store);
    let control = match startup::detach(args.control_fd) {
        Ok(control) => control,
        Err(error) => {
            eprintln!("agentfs-fsd: {error}");
            return FAILED.into();
        }
    };
    // Who starts us may still have to make the branch.
    if !startup::is_spoken_to(&control) {
        return ExitCode::SUCCESS;
    }
    let opened = open(&store, &args.branch).and_then(|opened| {
        Ok((
            server::listen(&opened.socket).map_err(refusal::of_ctl)?,
            opened,
        ))
    });
    let (listener, opened) = match opened {
        Ok(opened) => opened,
        Err(refusal) => {
            error!(message = refusal.message, "the branch cannot be served");
            if let Err(error) = server::refuse(control, &refusal) {
                warn!(%error, "nobody listened to the reason");
            }
            return FAILED.into();
        }
    };

    let (events, happened) = mpsc::channel();
    if let Err(error) = await_termination(events.clone()) {
        error!(%error, "no thread to wait for signals");
        return FAILED.into();
    }
    info!(branch = %opened.name, pid = std::process::id(), "the branch is live");
    let socket = opened.socket;
    let daemon = Arc::new(Daemon::new(
        opened.name,
        opened.live,
        opened.store,
        events,
        opened.options,
    ));
    let server = match Server::start(Arc::clone(&daemon), Some(control), Some(listener)) {
        Ok(server) => server,
        Err(error) => {
            error!(%error, "no thread to serve the control socket");
            return FAILED.into();
        }
    };
    wait(&daemon, &happened);
    finish(&daemon, &server, &socket)
}

/// Opens the branch, and its log before that, so that what recovery does is logged.
fn open(store: &Path, branch: &str) -> Result<Opened, Refusal> {
    let malformed = |e: &dyn std::fmt::Display| Refusal::new(ErrorCode::Malformed, e);
    let name = BranchName::new(branch).map_err(|e| malformed(&e))?;
    // Whoever set a variable wants what it says: nothing is done that they did not ask for.
    let variable = |e: &dyn std::fmt::Display| Refusal::new(ErrorCode::Environment, e);
    let filter = logging::filter().map_err(|e| variable(&e))?;
    let options = Options::from_env().map_err(|e| variable(&e))?;
    let opened = Store::open(store).map_err(|e| refusal::of_store(&e))?;
    let Some(opened) = opened else {
        let message = format!("no store at {}", store.display());
        return Err(Refusal::new(ErrorCode::Io, message));
    };
    let socket = opened.control_path(&name);
    if let Some(directory) = socket.parent() {
        // Without a log the daemon works as well; a branch that is not there is told just below.
        let _ = logging::start(directory, filter);
    }
    if let Some(bytes) = startup::size_limit() {
        warn!(bytes, "the hard limit of file sizes holds for the store");
    }
    let live = opened.open_live(&name).map_err(|e| refusal::of_store(&e))?;
    Ok(Opened {
        name,
        live,
        store: opened,
        socket,
        options,
    })
}

/// Waits for SIGTERM on a thread of its own; the signal is blocked in every thread.
fn await_termination(events: mpsc::Sender<Event>) -> std::io::Result<()> {
    let terminate: SigSet = startup::awaited_signals();
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            if terminate.wait().is_ok() {
                info!("SIGTERM");
                let _ = events.send(Event::Terminate);
            }
        })?;
    Ok(())
}

/// Serves and maintains the branch until it is time to close it.
fn wait(daemon: &Daemon, happened: &Receiver<Event>) {
    loop {
        match happened.recv_timeout(MAINTENANCE_EVERY) {
            Ok(Event::Terminate) => return,
            Ok(Event::Unmounted(Ok(()))) => {
                info!("the mount is gone");
                return;
            }
            Ok(Event::Unmounted(Err(error))) => {
                error!(%error, "the FUSE session failed");
                return;
            }
            Ok(Event::Idle) if daemon.is_mounted() => {}
            Ok(Event::Idle) => {
                info!("no client is left, and nothing is mounted");
                return;
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {
                let maintained = catch_unwind(AssertUnwindSafe(|| daemon.maintain()));
                if maintained.is_err() {
                    error!("the maintenance of the branch panicked");
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// Closes the branch, then the socket, then (by ending) every connection.
fn finish(daemon: &Daemon, server: &Server<Daemon>, socket: &Path) -> ExitCode {
    let closed = daemon.close();
    if let Err(refusal) = &closed {
        error!(
            message = refusal.message,
            "the branch was not closed cleanly"
        );
        server.farewell(refusal);
    }
    if let Err(error) = std::fs::remove_file(socket) {
        warn!(%error, "remove the control socket");
    }
    match closed {
        Ok(()) => {
            info!("the branch is closed");
            ExitCode::SUCCESS
        }
        Err(_) => FAILED.into(),
    }
}
