//! The second transport: requests by io_uring, one queue for each CPU, so that a caller and the
//! thread that answers it share a CPU and neither has to be woken on another. Linux 6.14 and newer.
//!
//! The greeting, forgets, interrupts and notices stay on `/dev/fuse` with fuser: the kernel sends
//! them there. Once both sides have agreed to a ring, the kernel holds requests back until every
//! queue is served, so all that can fail is made ready before.

mod cpus;
mod lane;
mod outcomes;
pub(super) mod slot;
mod sys;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use fuser::{InitFlags, KernelConfig};
use tracing::warn;

use crate::fuse::awake::{Awake, Pulse};
use crate::fuse::ring::lane::Lane;
#[cfg(test)]
pub(super) use crate::fuse::ring::sys::HEADER_BYTES;
use crate::fuse::transport::Operations;
use crate::sync::Arc;

/// Where root switches FUSE over io_uring on.
pub(super) const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";
const PAGE_BYTES: u32 = 4096;
/// The kernel wants room for this much at least.
const LEAST_PAYLOAD_BYTES: u32 = 8192;

/// Why there is no ring to be had here.
#[derive(Debug, thiserror::Error)]
pub enum Missing {
    /// The kernel has not the feature.
    #[error("this kernel has no FUSE over io_uring, which came with Linux 6.14")]
    Kernel,
    /// Root has not switched it on.
    #[error("it is switched off; as root, before mounting: echo Y > {SWITCH}")]
    Off,
    /// The daemon may not open what the rings need beside all else.
    #[error(
        "only {allowed} open files are allowed, and io_uring on this machine takes {needed}; ulimit -n {needed}, or more"
    )]
    Files {
        /// The limit of the daemon.
        allowed: u64,
        /// What it would have to be.
        needed: u64,
    },
    /// io_uring itself.
    #[error(
        "io_uring cannot be set up ({0}); sysctl kernel.io_uring_disabled must be 0, or allow it to the daemon's user, and a container must allow it"
    )]
    Setup(#[source] io::Error),
}

/// What is agreed on the ring at INIT.
#[derive(Clone, Debug, Default)]
pub(super) struct Terms {
    /// The room for one request, if a ring is wanted.
    payload_bytes: Option<u32>,
    agreed: Arc<AtomicBool>,
}

impl Terms {
    /// Asks for the ring, if it is wanted and there is one.
    pub(super) fn negotiate(&self, config: &mut KernelConfig) {
        let Some(payload_bytes) = self.payload_bytes else {
            return;
        };
        // What is read ahead must fit in one slot. An error says that it is less by itself.
        let _ = config.set_max_readahead(payload_bytes);
        let agreed = config.add_capabilities(InitFlags::FUSE_OVER_IO_URING);
        self.agreed.store(agreed.is_ok(), Ordering::Release);
    }

    pub(super) fn are_agreed(&self) -> bool {
        self.agreed.load(Ordering::Acquire)
    }
}

/// Rings with their memory, for threads that are still to be started.
#[derive(Debug)]
pub(super) struct Rings {
    lanes: Vec<Lane>,
    payload_bytes: u32,
}

impl Rings {
    /// Makes all rings of a mount whose writes may be this long.
    ///
    /// Errors: what is missing, and what to do about it.
    pub(super) fn prepare(max_write_bytes: u32) -> Result<Self, Missing> {
        match std::fs::read(SWITCH) {
            Ok(text) if text.starts_with(b"Y") => {}
            Ok(_) => return Err(Missing::Off),
            Err(_) => return Err(Missing::Kernel),
        }
        let payload_bytes = max_write_bytes
            .max(LEAST_PAYLOAD_BYTES)
            .next_multiple_of(PAGE_BYTES);
        let queues = cpus::queues().map_err(Missing::Setup)?;
        let plans = cpus::lanes(queues, &cpus::usable());
        let allowed = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        enough_files(allowed.unwrap_or(u64::MAX), plans.len() as u64)?;
        let lanes = plans
            .into_iter()
            .map(|plan| Lane::new(plan, payload_bytes as usize))
            .collect::<io::Result<_>>()
            .map_err(Missing::Setup)?;
        Ok(Self {
            lanes,
            payload_bytes,
        })
    }

    pub(super) fn terms(&self) -> Terms {
        Terms {
            payload_bytes: Some(self.payload_bytes),
            agreed: Arc::default(),
        }
    }

    /// Starts the threads, and returns when the kernel has all slots. `None`: it took one not, and
    /// goes on with the device alone.
    ///
    /// Errors: a thread cannot be had, or io_uring fails. The mount is lost: the kernel waits for the
    /// ring.
    pub(super) fn serve<O: Operations>(
        self,
        operations: &Arc<O>,
        device: &Arc<OwnedFd>,
        awake: Option<&Arc<Awake>>,
    ) -> io::Result<Option<Serving>> {
        let mut serving = Serving::default();
        let (started, reports) = mpsc::channel();
        for (n, lane) in self.lanes.into_iter().enumerate() {
            serving.handles.push(lane.handle());
            let (operations, device) = (Arc::clone(operations), Arc::clone(device));
            let (started, pulse) = (started.clone(), Pulse::new(awake.cloned()));
            let thread = thread::Builder::new()
                .name(format!("fuse-ring-{n}"))
                .spawn(move || lane.run(&*operations, device, started, pulse))?;
            serving.threads.push(thread);
        }
        drop(started);
        for report in reports {
            if let Err(sys::Refused(errno)) = report? {
                warn!(errno, "the kernel took no ring");
                return Ok(None);
            }
        }
        Ok(Some(serving))
    }
}

/// What a daemon without rings can do with.
const FILES_BESIDE: u64 = 32;
/// A lane holds two, and opens up to two of the host's files for a request.
const FILES_OF_LANE: u64 = 4;

/// Errors: the files that may be open at once would not do for so many lanes.
fn enough_files(allowed: u64, lanes: u64) -> Result<(), Missing> {
    let needed = FILES_BESIDE + FILES_OF_LANE * lanes;
    match allowed < needed {
        true => Err(Missing::Files { allowed, needed }),
        false => Ok(()),
    }
}

/// The threads of a mount's rings. Ends them when dropped.
#[derive(Debug, Default)]
pub(super) struct Serving {
    handles: Vec<lane::Handle>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        for handle in &self.handles {
            handle.stop();
        }
        for thread in self.threads.drain(..) {
            // One that panicked has ended the process.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_is_not_begun_with_too_few_files() {
        let text = enough_files(32, 2).expect_err("too few").to_string();
        assert!(
            text.contains("only 32 ") && text.contains("ulimit -n 40"),
            "{text}"
        );
        assert!(enough_files(39, 2).is_err());
        assert!(enough_files(40, 2).is_ok());
        assert!(enough_files(1024, 64).is_ok());
        assert!(enough_files(256, 64).is_err());
        assert!(enough_files(u64::MAX, 1).is_ok());
    }
}
