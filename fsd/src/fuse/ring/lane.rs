//! One thread of the ring: takes what comes out of its io_uring, has it served, commits the answers.

use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use nix::libc;
use rustix::event::{EventfdFlags, eventfd};
use tracing::{debug, error, warn};

use crate::fuse::awake::Pulse;
use crate::fuse::ring::outcomes::{Body, Outcome, Outcomes, Slot};
use crate::fuse::ring::sys::{Event, HEADER_BYTES, Refused, SlotRing};
use crate::fuse::ring::{cpus, slot as request};
use crate::fuse::transport::Operations;
use crate::fuse::wire::answer::Answer;
use crate::sync::Arc;

/// After this long without a request, memory that large ones have used is given back.
const IDLE: Duration = Duration::from_secs(2);
/// What counts as large. Less than this in each slot is little.
const LARGE_BYTES: usize = 64 << 10;

/// `struct fuse_out_header`.
const OUT_HEADER_BYTES: usize = 16;
/// `struct fuse_uring_ent_in_out`: where the length of the payload stands.
const PAYLOAD_SIZE_AT: usize = 272;

/// What a daemon ends with that cannot go on.
const FAILED: i32 = 125;

/// A thread's ring, before the thread.
#[derive(Debug)]
pub(super) struct Lane {
    cpu: Option<usize>,
    slots: usize,
    ring: SlotRing,
    outcomes: Arc<Outcomes>,
    stopped: Arc<AtomicBool>,
}

/// Ends the thread of a lane.
#[derive(Debug)]
pub(super) struct Handle {
    outcomes: Arc<Outcomes>,
    stopped: Arc<AtomicBool>,
}

impl Handle {
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
        self.outcomes.wake();
    }
}

impl Lane {
    pub(super) fn new(plan: cpus::Lane, payload_bytes: usize) -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let wake = Arc::new(wake);
        let slots = plan.slots.len();
        Ok(Self {
            cpu: plan.cpu,
            slots,
            ring: SlotRing::new(plan.slots, payload_bytes, Arc::clone(&wake))?,
            outcomes: Arc::new(Outcomes::new(wake)),
            stopped: Arc::default(),
        })
    }

    pub(super) fn handle(&self) -> Handle {
        Handle {
            outcomes: Arc::clone(&self.outcomes),
            stopped: Arc::clone(&self.stopped),
        }
    }

    /// Serves until the kernel has let go of all slots, or the lane is stopped. Says by `started`
    /// whether the kernel took the slots.
    pub(super) fn run<O: Operations>(
        mut self,
        operations: &O,
        device: Arc<OwnedFd>,
        started: Sender<io::Result<Result<(), Refused>>>,
        mut pulse: Pulse,
    ) {
        self.outcomes.are_mine();
        if let Some(cpu) = self.cpu
            && let Err(error) = cpus::stay_on(cpu)
        {
            debug!(%error, cpu, "the thread of this CPU's requests may leave it");
        }
        let offered = self.ring.start(device);
        let is_taken = matches!(offered, Ok(Ok(())));
        // Nobody listens any more: then the lane has been stopped as well.
        let _ = started.send(offered);
        drop(started);
        if !is_taken {
            return;
        }
        let served = catch_unwind(AssertUnwindSafe(|| self.serve(operations, &mut pulse)));
        if !matches!(served, Ok(Ok(()))) {
            // Whoever asks on this CPU would wait for good. The end of the process ends the mount;
            // what was acknowledged is in the journal.
            error!(
                ?served,
                "requests cannot be taken any more: the daemon ends"
            );
            std::process::exit(FAILED);
        }
    }

    fn serve<O: Operations>(&mut self, operations: &O, pulse: &mut Pulse) -> io::Result<()> {
        let mut done = Vec::new();
        let mut used_bytes = 0;
        let mut open = self.slots;
        while open > 0 && !self.stopped.load(Ordering::Acquire) {
            while let Some(event) = self.ring.next() {
                match event {
                    Event::Request(slot) => {
                        self.answer(operations, slot);
                        pulse.beat(Instant::now());
                    }
                    Event::Closed(slot, errno) => {
                        open -= 1;
                        note_closed(slot, errno);
                    }
                    Event::Woken => {}
                }
                used_bytes = used_bytes.max(self.commit(&mut done));
                if self.ring.has_next() {
                    // Who was answered need not wait for the next one's answer.
                    self.ring.submit()?;
                }
            }
            let most = (used_bytes > LARGE_BYTES).then_some(IDLE);
            if open > 0 && !self.ring.wait(most)? {
                self.ring.trim();
                used_bytes = 0;
            }
        }
        Ok(())
    }

    fn answer<O: Operations>(&mut self, operations: &O, slot: usize) {
        let answer = Answer::new(Slot {
            slot,
            outcomes: Arc::clone(&self.outcomes),
        });
        let (header, payload) = self.ring.message(slot);
        let serve = || request::serve(operations, header, payload, answer);
        // Calls of the core have a net of their own; a panic beside them drops the answer: EIO.
        if catch_unwind(AssertUnwindSafe(serve)).is_err() {
            error!("a request panicked; it was answered with EIO");
        }
    }

    /// Commits what was answered. Returns the longest use of a payload, in bytes.
    fn commit(&mut self, done: &mut Vec<Outcome>) -> usize {
        let mut longest = 0;
        self.outcomes.take(done);
        for outcome in done.drain(..) {
            let (header, payload) = self.ring.message(outcome.slot);
            longest = longest.max(payload_size(header));
            let bytes = write(header, payload, &outcome.answer);
            longest = longest.max(bytes);
            self.ring.commit(outcome.slot);
        }
        longest
    }
}

fn payload_size(header: &[u8; HEADER_BYTES]) -> usize {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&header[PAYLOAD_SIZE_AT..PAYLOAD_SIZE_AT + 4]);
    u32::from_ne_bytes(bytes) as usize
}

/// Puts an answer where the kernel takes it from. Returns the length of its payload.
fn write(header: &mut [u8; HEADER_BYTES], payload: &mut [u8], answer: &Result<Body, i32>) -> usize {
    let (error, bytes) = match answer {
        Err(errno) => (-errno, 0),
        Ok(Body::InPlace(bytes)) => (0, *bytes),
        Ok(Body::Short(words)) => {
            let bytes = words.bytes();
            payload[..bytes.len()].copy_from_slice(bytes);
            (0, bytes.len())
        }
    };
    // The number of the request, which comes third, stands there already.
    let length = (OUT_HEADER_BYTES + bytes) as u32;
    header[..4].copy_from_slice(&length.to_ne_bytes());
    header[4..8].copy_from_slice(&error.to_ne_bytes());
    header[PAYLOAD_SIZE_AT..PAYLOAD_SIZE_AT + 4].copy_from_slice(&(bytes as u32).to_ne_bytes());
    bytes
}

fn note_closed(slot: usize, errno: i32) {
    match errno {
        // The mount has gone.
        libc::ENOTCONN | libc::ECONNABORTED | libc::ECANCELED => {}
        _ => warn!(slot, errno, "the kernel has no more use for this slot"),
    }
}
