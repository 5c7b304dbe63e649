//! [`Spares`]: objects of the top layer that are made ahead, by a thread of their own, while files are
//! made in a row. Who makes one then need not wait for the host to do so.
//!
//! Their numbers were given out when they were ordered; until a commit names one it is removed by the
//! next opening, as any object that nothing names.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::dirty::Dirty;
use super::error::StoreError;
use super::media::Media;
use super::objects::{self, ObjectFile};
use super::pace::Pace;
use crate::core::record::{LayerId, ObjectId};
use crate::sync::{Condvar, Mutex, MutexGuard, lock, wait, wait_for};

/// Files that follow each other faster than this are a row.
const ROW: Duration = Duration::from_millis(2);
/// So many are ordered at once, when fewer than half of that are left.
pub(super) const ORDER: u64 = 32;

/// How long those are kept that nobody takes.
const KEEP: Duration = Duration::from_secs(1);
/// What is added to the niceness of the thread.
const NICENESS: i32 = 5;

/// Where the objects are made.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub media: Arc<dyn Media>,
    pub layer: LayerId,
    pub dirty: Dirty,
}

/// The objects made ahead, and the thread that makes them. Dropping it leaves them where they are.
#[derive(Debug)]
pub(super) struct Spares {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    last: Option<Instant>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    place: Option<Place>,
    /// Numbers still to be made, lowest first.
    wanted: VecDeque<u64>,
    /// One is being made.
    making: bool,
    ready: VecDeque<Spare>,
    /// Numbers that were ordered and of which there is no object, or none any more.
    gone: Vec<u64>,
    /// How many were taken.
    taken: u64,
    /// The next ones are better made in another directory.
    move_on: bool,
    over: bool,
}

impl State {
    /// Makes none of those that are still wanted.
    fn drop_order(&mut self) {
        self.gone.extend(self.wanted.drain(..));
    }
}

/// One that is made: which, and open for reading and writing.
pub(super) type Spare = (ObjectId, Box<dyn ObjectFile>);

impl Spares {
    /// None yet. Errors: no thread can be had.
    pub(super) fn start() -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new().name("spares".into());
        let thread = thread.spawn(move || theirs.make())?;
        Ok(Self {
            shared,
            thread: Some(thread),
            last: None,
        })
    }

    /// The next one, if one is ready.
    pub(super) fn take(&self) -> Option<Spare> {
        let mut state = lock(&self.shared.state);
        let spare = state.ready.pop_front()?;
        state.taken += 1;
        Some(spare)
    }

    /// Whether more should be ordered, now that one more file is being made; and whether in another
    /// directory.
    pub(super) fn wants(&mut self, now: Instant) -> (bool, bool) {
        let in_a_row = self.last.is_some_and(|last| now - last < ROW);
        self.last = Some(now);
        if !in_a_row {
            return (false, false);
        }
        let mut state = lock(&self.shared.state);
        let few = ((state.ready.len() + state.wanted.len()) as u64) < ORDER / 2;
        (few, few && std::mem::take(&mut state.move_on))
    }

    /// Has the objects `numbers` made, which were given out to nobody else.
    pub(super) fn order(&self, place: &Place, numbers: impl Iterator<Item = u64>) {
        let mut state = lock(&self.shared.state);
        state.place = Some(place.clone());
        state.wanted.extend(numbers);
        drop(state);
        self.shared.changed.notify_all();
    }

    /// The numbers ordered of which there is no object, or none any more; each once.
    pub(super) fn gone(&self) -> Vec<u64> {
        std::mem::take(&mut lock(&self.shared.state).gone)
    }

    /// Makes no more of those ordered, and gives back those made. Waits for the one being made.
    pub(super) fn stop(&self) -> Vec<Spare> {
        let mut state = lock(&self.shared.state);
        state.drop_order();
        while state.making {
            state = wait(&self.shared.changed, state);
        }
        state.place = None;
        std::mem::take(&mut state.ready).into()
    }
}

impl Drop for Spares {
    fn drop(&mut self) {
        lock(&self.shared.state).over = true;
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            // One that panicked has nothing left to make.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// Waits for something to do. What nobody wants for a while goes: each takes a descriptor and an
    /// inode.
    fn rest<'a>(&'a self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let (Some(place), false) = (state.place.clone(), state.ready.is_empty()) else {
            return wait(&self.changed, state);
        };
        let taken = state.taken;
        let since = Instant::now();
        let mut state = wait_for(&self.changed, state, KEEP);
        if state.taken != taken || since.elapsed() < KEEP || state.over {
            return state;
        }
        let unused = std::mem::take(&mut state.ready);
        state.making = true;
        drop(state);
        let mut gone = Vec::new();
        for (id, file) in unused {
            drop(file);
            match objects::remove(&*place.media, id.number) {
                Ok(()) => gone.push(id.number),
                Err(error) => tracing::warn!(?id, %error, "cannot remove an unused object yet"),
            }
        }
        let mut state = lock(&self.state);
        state.gone.append(&mut gone);
        state.making = false;
        self.changed.notify_all();
        state
    }

    /// The thread's part.
    fn make(&self) {
        // No process: of the calling thread. Who waits for an answer goes first.
        if let Err(error) = rustix::process::nice(NICENESS) {
            tracing::debug!(%error, "objects are made ahead at the usual priority");
        }
        let mut pace = Pace::default();
        let mut state = lock(&self.state);
        while !state.over {
            let place = state.place.clone();
            let (Some(place), Some(number)) = (place, state.wanted.pop_front()) else {
                state = self.rest(state);
                continue;
            };
            state.making = true;
            drop(state);
            let id = ObjectId {
                layer: place.layer,
                number,
            };
            let start = Instant::now();
            let create = || objects::create(&*place.media, id, |dir| place.dirty.dir(dir));
            // Whoever waits for this one to be made is not to wait for good.
            let made = catch_unwind(AssertUnwindSafe(create))
                .unwrap_or(Err(StoreError::Invalid("an object that could not be made")));
            let slow = pace.leaves(start.elapsed());
            state = lock(&self.state);
            state.making = false;
            match made {
                Ok(file) => state.ready.push_back((id, file)),
                Err(error) => {
                    // Who needs one makes it, and is told why it cannot be.
                    tracing::debug!(%error, number, "no object made ahead");
                    state.drop_order();
                }
            }
            if slow {
                state.drop_order();
                state.move_on = true;
            }
            self.changed.notify_all();
        }
    }
}
