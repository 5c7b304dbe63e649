//! The thread that does the daemon's chores: tables for frozen layers. It runs beside the requests,
//! at a lower priority, and holds no lock of the core while it builds.

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use agentfs_fsd::backstore::Chore;
use agentfs_fsd::core::FsCore;
use agentfs_fsd::sync::{Arc, Gate, Mutex, lock};
use std::sync::atomic::{AtomicBool, Ordering};
use tracing::{debug, warn};

/// How long nothing is tried after a chore has failed: the disk is probably full.
const AFTER_FAILURE: Duration = Duration::from_secs(60);
/// What is added to the thread's niceness: who waits for an answer goes first.
const NICENESS: i32 = 10;

/// At most one chore under way.
#[derive(Debug, Default)]
pub(super) struct Chores {
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
    not_before: Arc<Mutex<Option<Instant>>>,
}

impl Chores {
    /// Whether a chore may begin.
    pub(super) fn is_idle(&self) -> bool {
        let is_time = lock(&self.not_before).is_none_or(|at| Instant::now() >= at);
        is_time
            && !self.stop.load(Ordering::Relaxed)
            && lock(&self.thread)
                .as_ref()
                .is_none_or(JoinHandle::is_finished)
    }

    /// Does `chore` on a thread of its own.
    pub(super) fn start(&self, chore: Chore, core: Arc<Gate<FsCore>>) {
        let (stop, not_before) = (Arc::clone(&self.stop), Arc::clone(&self.not_before));
        let spawned = thread::Builder::new().name("chores".into()).spawn(move || {
            // No process: of the calling thread.
            if let Err(e) = rustix::process::nice(NICENESS) {
                debug!(error = %e, "chores run at the usual priority");
            }
            match chore.run(&stop) {
                Ok(done) => drop(core.with(|core| core.take(done))),
                Err(_) if stop.load(Ordering::Relaxed) => {}
                Err(error) => {
                    warn!(%error, "frozen layers stay as they are for now");
                    *lock(&not_before) = Some(Instant::now() + AFTER_FAILURE);
                }
            }
        });
        match spawned {
            Ok(thread) => *lock(&self.thread) = Some(thread),
            Err(error) => warn!(%error, "no thread for chores"),
        }
    }

    /// Ends the chore under way, for good.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        let thread = lock(&self.thread).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            warn!("a chore panicked");
        }
    }
}
