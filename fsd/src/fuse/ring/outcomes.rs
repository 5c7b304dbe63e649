//! What was answered to requests that came by the ring, kept until the thread of their slots puts it
//! into their memory and commits it.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::thread::{self, ThreadId};

use crate::fuse::wire::answer::{Sent, Way, Words};
use crate::sync::{Arc, Mutex, lock};

/// What was answered to the request in a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) slot: usize,
    pub(super) answer: Result<Body, i32>,
}

/// An answer in the form of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// To be put into the payload.
    Short(Words),
    /// So many bytes lie in the payload.
    InPlace(usize),
}

/// The outcomes of one thread's slots that it has yet to commit.
#[derive(Debug)]
pub(super) struct Outcomes {
    list: Mutex<Vec<Outcome>>,
    /// The thread that commits; it looks after each request.
    thread: OnceLock<ThreadId>,
    /// Wakes it.
    wake: Arc<OwnedFd>,
}

impl Outcomes {
    pub(super) fn new(wake: Arc<OwnedFd>) -> Self {
        Self {
            list: Mutex::new(Vec::new()),
            thread: OnceLock::new(),
            wake,
        }
    }

    /// The calling thread is the one that commits.
    pub(super) fn are_mine(&self) {
        let _ = self.thread.set(thread::current().id());
    }

    fn add(&self, outcome: Outcome) {
        lock(&self.list).push(outcome);
        if self.thread.get() != Some(&thread::current().id()) {
            self.wake();
        }
    }

    /// Has the thread look.
    pub(super) fn wake(&self) {
        // Fails only when the counter is full, and then it is awake.
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
    }

    /// Exchanges what there is for the empty list given.
    pub(super) fn take(&self, list: &mut Vec<Outcome>) {
        std::mem::swap(list, &mut *lock(&self.list));
    }
}

/// The way back for the request in a slot.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) slot: usize,
    pub(super) outcomes: Arc<Outcomes>,
}

impl Way for Slot {
    fn send(self, answer: Sent<'_>) {
        let slot = self.slot;
        let answer = match answer {
            Sent::Error(errno) => Err(errno),
            Sent::Short(words) => Ok(Body::Short(words)),
            Sent::InPlace(bytes) => Ok(Body::InPlace(bytes.len())),
        };
        self.outcomes.add(Outcome { slot, answer });
    }
}
