//! The classic transport: requests read from `/dev/fuse` and answers written to it. fuser greets the
//! kernel and carries notices; the requests themselves are read here, since whoever waits for one asleep
//! takes three times as long to answer it (see [`turns`]).

mod later;
pub(super) mod message;
mod turns;

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::{Duration, Instant};

use fuser::{Filesystem, KernelConfig, Request};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use tracing::{debug, error};

use crate::fuse::awake::{Awake, Pulse};
use crate::fuse::device::later::Later;
use crate::fuse::device::turns::{Seat, Turns, Why};
use crate::fuse::ring::Terms;
use crate::fuse::transport::Operations;
use crate::fuse::wire::answer::{Sent, Way};
use crate::sync::Arc;

/// Room for what is long beside a write: attributes and their lists.
const LEAST_PAYLOAD_BYTES: usize = 128 << 10;
const LARGEST_PAGE_BYTES: usize = 64 << 10;
/// Room for the header and what is an operation's own.
const HEAD_BYTES: usize = 4096;
/// After this long without a request, memory that large ones have used is given back.
const IDLE: Duration = Duration::from_secs(2);
/// What counts as large.
const LARGE_BYTES: usize = 256 << 10;

/// What fuser needs to know to greet the kernel.
#[derive(Debug)]
pub(super) struct Greeter<O> {
    pub(super) operations: Arc<O>,
    pub(super) terms: Terms,
}

impl<O: Operations> Filesystem for Greeter<O> {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.operations.negotiate(config)?;
        self.terms.negotiate(config);
        Ok(())
    }
}

/// The way back for one request.
#[derive(Debug)]
struct ByDevice {
    device: Arc<OwnedFd>,
    unique: u64,
}

impl Way for ByDevice {
    fn send(self, answer: Sent<'_>) {
        let (error, body) = match &answer {
            Sent::Error(errno) => (-errno, &[][..]),
            Sent::Short(words) => (0, words.bytes()),
            Sent::InPlace(bytes) => (0, *bytes),
        };
        let header = message::out_header(error, self.unique, body.len());
        let parts = [IoSlice::new(&header), IoSlice::new(body)];
        match rustix::io::writev(&*self.device, &parts) {
            // Nobody waits for it any more, or the mount has gone.
            Ok(_) | Err(Errno::NOENT | Errno::NODEV) => {}
            Err(error) => error!(%error, unique = self.unique, "the kernel took no answer"),
        }
    }
}

/// How requests are read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    /// Threads that read them.
    pub(super) readers: usize,
    /// The longest write, in bytes.
    pub(super) max_write_bytes: usize,
    /// For how long one of them looks for the next request before it sleeps; zero: not at all.
    pub(super) spin: Duration,
    /// Requests that nobody waits for that the kernel has under way at most.
    pub(super) max_background: u16,
}

/// Reads and serves requests on threads of their own, until the mount is gone.
///
/// Errors: a thread cannot be had, or the device fails.
pub(super) fn serve<O: Operations>(
    operations: &Arc<O>,
    device: &Arc<OwnedFd>,
    reading: Reading,
    awake: Option<&Arc<Awake>>,
) -> io::Result<()> {
    let turns = Turns::new(device, reading.spin)?;
    let later = Later::new(reading.max_background);
    if turns.spins() {
        let flags = fcntl_getfl(&**device)?;
        fcntl_setfl(&**device, flags | OFlags::NONBLOCK)?;
    }
    thread::scope(|scope| {
        let threads: Vec<_> = (0..reading.readers)
            .map(|n| {
                let reader = Reader {
                    operations: &**operations,
                    device,
                    turns: &turns,
                    later: &later,
                    awake,
                    // The kernel reads whole pages, and takes less than it asked for as the end.
                    payload_bytes: reading
                        .max_write_bytes
                        .max(LEAST_PAYLOAD_BYTES)
                        .next_multiple_of(LARGEST_PAGE_BYTES),
                };
                let thread = thread::Builder::new().name(format!("fuse-{n}"));
                let spawned = thread.spawn_scoped(scope, move || {
                    let ended = reader.run();
                    // The others would wait for what does not come.
                    reader.turns.end();
                    ended
                });
                spawned.inspect_err(|_| turns.end())
            })
            .collect();
        let mut result = Ok(());
        for thread in threads {
            let ended = match thread {
                Ok(thread) => thread
                    .join()
                    .unwrap_or_else(|_| Err(io::Error::other("a reader panicked"))),
                Err(e) => Err(e),
            };
            result = result.and(ended);
        }
        result
    })
}

/// One thread's part.
#[derive(Debug)]
struct Reader<'a, O> {
    operations: &'a O,
    device: &'a Arc<OwnedFd>,
    turns: &'a Turns,
    later: &'a Later,
    awake: Option<&'a Arc<Awake>>,
    payload_bytes: usize,
}

enum Read {
    Request(usize),
    Nothing,
    Gone,
}

impl<O: Operations> Reader<'_, O> {
    fn run(&self) -> io::Result<()> {
        let room = HEAD_BYTES + self.payload_bytes;
        let mut buffer = vec![0; room];
        let mut used_bytes = 0;
        let mut seat = Seat::new(self.turns)?;
        let mut pulse = Pulse::new(self.awake.cloned());
        loop {
            match self.read(&mut buffer)? {
                // Who has the turn looks again at once.
                Read::Request(bytes) if seat.leads() && self.later.keep(&buffer[..bytes]) => {}
                Read::Request(bytes) => {
                    let weight = message::weight(&buffer[..bytes]);
                    used_bytes = used_bytes.max(weight);
                    if !self.later.may_wait_for(&buffer[..bytes]) {
                        while self.serve_kept(&mut seat) {}
                    }
                    seat.serves(weight > message::SHORT_BYTES);
                    self.answer(&mut buffer, bytes);
                    let now = Instant::now();
                    seat.served(now);
                    pulse.beat(now);
                    // While who was answered is being woken.
                    self.serve_kept(&mut seat);
                }
                Read::Nothing => {
                    let most = (used_bytes > LARGE_BYTES).then_some(IDLE);
                    match seat.waits(most, !self.later.is_empty())? {
                        Why::Look => {}
                        Why::Kept => {
                            self.serve_kept(&mut seat);
                        }
                        Why::Idle => {
                            buffer = vec![0; room];
                            used_bytes = 0;
                        }
                        Why::End => break,
                    }
                }
                Read::Gone => break,
            }
        }
        while self.serve_kept(&mut seat) {}
        Ok(())
    }

    /// Serves the oldest of what was kept. `false`: there is none.
    fn serve_kept(&self, seat: &mut Seat<'_>) -> bool {
        let Some(mut request) = self.later.next() else {
            return false;
        };
        seat.serves_unawaited();
        let bytes = request.len();
        self.answer(&mut request, bytes);
        seat.served(Instant::now());
        true
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<Read> {
        loop {
            match rustix::io::read(&**self.device, &mut *buffer) {
                Ok(0) => return Ok(Read::Gone),
                Ok(bytes) => return Ok(Read::Request(bytes)),
                Err(Errno::AGAIN) => return Ok(Read::Nothing),
                // Who asked has been interrupted meanwhile, or we have.
                Err(Errno::NOENT | Errno::INTR) => {}
                Err(Errno::NODEV | Errno::CONNABORTED) => return Ok(Read::Gone),
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn answer(&self, buffer: &mut [u8], bytes: usize) {
        let way = |unique| ByDevice {
            device: Arc::clone(self.device),
            unique,
        };
        let serve = || message::serve(self.operations, buffer, bytes, way);
        // Calls of the core have a net of their own; a panic beside them drops the answer: EIO.
        match catch_unwind(AssertUnwindSafe(serve)) {
            Ok(true) => {}
            Ok(false) => debug!(bytes, "the kernel sent what is no request"),
            Err(_) => error!("a request panicked; it was answered with EIO"),
        }
    }
}
