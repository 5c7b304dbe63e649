//! [`Account`]: what a live branch with a limit takes up, kept in step with every change.
//!
//! Room is reserved before it is used, so that writers that race never use the same room twice; what
//! was really used is asked of the host's file system afterwards. Records are weighed before they
//! are written. A branch without a limit has no account, and nothing here is on its way.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::error::StoreError;
use super::objects::ObjectFile;
use super::usage::{Count, Limit, Usage};
use crate::core::record::ObjectId;
use crate::core::types::Ino;
use crate::sync::{Arc, Condvar, Mutex, lock};

/// Room for objects is given in blocks of this size: those of nearly every file system.
pub const BLOCK_BYTES: u64 = 4096;
/// The host counts blocks in these.
const STAT_BLOCK_BYTES: u64 = 512;
/// How long a writer waits for the room of a file that has just been removed: the kernel takes a
/// moment to let go of it.
const LEAVING_PATIENCE: Duration = Duration::from_millis(20);

/// The sum of one live branch. The lock is a leaf: nothing else is taken under it.
#[derive(Debug)]
pub struct Account {
    limit: Limit,
    state: Mutex<State>,
    /// Room has come back.
    eased: Condvar,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    usage: Usage,
    /// Bytes given out to writers that are at it.
    reserved: u64,
    /// What each object counts in `usage`.
    objects: HashMap<ObjectId, u64>,
    /// Inodes without a record that are still open; they count.
    open: HashSet<Ino>,
    /// Removed files that nobody has open, of which the kernel has not let go yet.
    leaving: HashSet<Ino>,
    /// Objects that moved to another layer while they were open: their names now, and those that
    /// their handles go on counting them by.
    was: HashMap<ObjectId, ObjectId>,
    /// While somebody counts from scratch: what objects were found to take up meanwhile, `None` if they are
    /// gone. Writers wait for no count.
    meanwhile: Option<HashMap<ObjectId, Option<u64>>>,
}

/// A count from scratch under way; see [`Account::begin_count`].
#[derive(Debug)]
pub(super) struct Counting(Arc<Account>);

/// What a change of records adds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Weight {
    pub bytes: i64,
    pub inodes: i64,
}

/// Room for the bytes of objects; what is not used goes back when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    account: Arc<Account>,
    bytes: u64,
}

impl State {
    /// Bytes that nobody has or is about to have.
    fn room(&self, limit_bytes: u64) -> u64 {
        limit_bytes.saturating_sub(self.usage.bytes.saturating_add(self.reserved))
    }

    fn set_object(&mut self, id: ObjectId, bytes: u64) {
        if let Some(meanwhile) = &mut self.meanwhile {
            meanwhile.insert(id, Some(bytes));
        }
        let before = self.objects.insert(id, bytes).unwrap_or(0);
        self.usage.bytes = (self.usage.bytes + bytes).saturating_sub(before);
    }
}

impl Account {
    pub(super) fn new(limit: Limit, count: Count) -> Self {
        Self {
            limit,
            state: Mutex::new(State {
                usage: count.usage,
                objects: count.objects,
                ..State::default()
            }),
            eased: Condvar::new(),
            refused: AtomicU64::new(0),
        }
    }

    /// What the branch may take up.
    pub fn limit(&self) -> Limit {
        self.limit
    }

    /// What it takes up now.
    pub fn usage(&self) -> Usage {
        lock(&self.state).usage
    }

    /// Whether bytes are limited: only then are those of objects kept in step.
    pub fn counts_bytes(&self) -> bool {
        self.limit.bytes.is_some()
    }

    /// How often something was refused for lack of room.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// The error for lack of `what`, noted.
    pub fn refuse(&self, what: &'static str) -> StoreError {
        if self.refused.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!(what, limit = ?self.limit, "the branch has reached its limit");
        }
        StoreError::LimitReached(what)
    }

    fn limit_bytes(&self) -> u64 {
        self.limit.bytes.unwrap_or(u64::MAX)
    }

    /// Reserves `bytes`, if there is room for all of them.
    pub fn try_reserve(self: &Arc<Self>, bytes: u64) -> Option<Reservation> {
        let mut state = lock(&self.state);
        if state.room(self.limit_bytes()) < bytes {
            return None;
        }
        state.reserved += bytes;
        Some(Reservation {
            account: self.clone(),
            bytes,
        })
    }

    /// Reserves up to `bytes`, in whole blocks. None at all only when nobody else holds room that
    /// may come back, and no removed file is about to give any.
    pub fn reserve_up_to(self: &Arc<Self>, bytes: u64) -> Reservation {
        let patience = Instant::now() + LEAVING_PATIENCE;
        let mut state = lock(&self.state);
        loop {
            let room = state.room(self.limit_bytes()) / BLOCK_BYTES * BLOCK_BYTES;
            let left = patience.saturating_duration_since(Instant::now());
            let may_ease = state.reserved > 0 || (!state.leaving.is_empty() && !left.is_zero());
            if room > 0 || bytes == 0 || !may_ease {
                let bytes = bytes.min(room);
                state.reserved += bytes;
                return Reservation {
                    account: self.clone(),
                    bytes,
                };
            }
            // Never for long: who holds a reservation waits for nobody here.
            let wait = left.max(Duration::from_millis(1));
            state = match self.eased.wait_timeout(state, wait) {
                Ok((state, _)) => state,
                Err(_) => std::process::abort(),
            };
        }
    }

    /// Takes over what `object` takes up now.
    pub fn charge(&self, object: &dyn ObjectFile) -> Result<(), StoreError> {
        if !self.counts_bytes() {
            return Ok(());
        }
        let mut state = lock(&self.state);
        // Under the lock, so that of two that have written the later look counts.
        let bytes = object.stat()?.blocks * STAT_BLOCK_BYTES;
        state.set_object(object.id(), bytes);
        drop(state);
        self.eased.notify_all();
        Ok(())
    }

    /// As [`charge`](Self::charge), unless that passes the limit by growing: then `false`, and the
    /// object must be made as small as it was.
    pub fn try_charge(&self, object: &dyn ObjectFile) -> Result<bool, StoreError> {
        let mut state = lock(&self.state);
        let bytes = object.stat()?.blocks * STAT_BLOCK_BYTES;
        let before = state.objects.get(&object.id()).copied().unwrap_or(0);
        if bytes > before && state.room(self.limit_bytes()) < bytes - before {
            return Ok(false);
        }
        state.set_object(object.id(), bytes);
        Ok(true)
    }

    /// What the object counts.
    pub fn charged(&self, id: ObjectId) -> u64 {
        lock(&self.state).objects.get(&id).copied().unwrap_or(0)
    }

    /// Objects of files that no name leads to go by other names from now on.
    pub(super) fn moved(&self, moved: &[(ObjectId, ObjectId)]) {
        let mut state = lock(&self.state);
        for (from, to) in moved {
            let first = state.was.remove(from).unwrap_or(*from);
            state.was.insert(*to, first);
        }
    }

    /// An object is gone.
    pub(super) fn remove_object(&self, id: ObjectId) {
        let mut state = lock(&self.state);
        let id = state.was.remove(&id).unwrap_or(id);
        if let Some(meanwhile) = &mut state.meanwhile {
            meanwhile.insert(id, None);
        }
        if let Some(bytes) = state.objects.remove(&id) {
            state.usage.bytes = state.usage.bytes.saturating_sub(bytes);
        }
        drop(state);
        self.eased.notify_all();
    }

    /// Takes room for records of this weight. Without `asked`, also what is not there.
    ///
    /// Errors: `LimitReached`; what weighs nothing or less is never refused.
    pub(super) fn take(&self, weight: Weight, asked: bool) -> Result<(), StoreError> {
        let mut state = lock(&self.state);
        if asked {
            let needs = |added: i64| u64::try_from(added).unwrap_or(0);
            if needs(weight.bytes) > 0 && state.room(self.limit_bytes()) < needs(weight.bytes) {
                drop(state);
                return Err(self.refuse("bytes"));
            }
            let limit = self.limit.inodes.unwrap_or(u64::MAX);
            let free = limit.saturating_sub(state.usage.inodes);
            if needs(weight.inodes) > 0 && free < needs(weight.inodes) {
                drop(state);
                return Err(self.refuse("inodes"));
            }
        }
        state.add(weight);
        Ok(())
    }

    /// Adds what records weigh that were written, and takes off what was taken for them.
    pub(super) fn settle(&self, taken: Weight, real: Weight) {
        lock(&self.state).add(Weight {
            bytes: real.bytes - taken.bytes,
            inodes: real.inodes - taken.inodes,
        });
    }

    /// A file has lost its last link. `counted`: its inode was one of the branch's own layer, which
    /// gives it free once it is closed.
    pub fn unlinked(&self, ino: Ino, is_open: bool, counted: bool) {
        let mut state = lock(&self.state);
        if !is_open {
            state.leaving.insert(ino);
        } else if counted {
            state.usage.inodes += 1;
            state.open.insert(ino);
        }
    }

    /// Nothing refers to an unlinked file any more.
    pub fn left(&self, ino: Ino) {
        let mut state = lock(&self.state);
        if state.open.remove(&ino) {
            state.usage.inodes = state.usage.inodes.saturating_sub(1);
        }
        state.leaving.remove(&ino);
        drop(state);
        self.eased.notify_all();
    }

    /// To be called before counting from scratch, for [`Counting::take`]. Whoever holds the records
    /// counts them; the bytes of objects change all the while.
    pub(super) fn begin_count(self: &Arc<Self>) -> Counting {
        lock(&self.state).meanwhile = Some(HashMap::new());
        Counting(self.clone())
    }
}

impl Counting {
    /// Takes over what was counted: layers have gone. Open files without a name have no record, and are
    /// added; of objects that were looked at since the count began, that look is the later one.
    pub(super) fn take(self, count: Count) {
        let mut state = lock(&self.0.state);
        let state = &mut *state;
        state.usage = count.usage;
        state.usage.inodes += state.open.len() as u64;
        state.objects = count.objects;
        for (now, first) in state.was.clone() {
            if let Some(bytes) = state.objects.remove(&now) {
                state.objects.insert(first, bytes);
            }
        }
        for (id, bytes) in state.meanwhile.take().unwrap_or_default() {
            let counted = match bytes {
                Some(bytes) => state.objects.insert(id, bytes),
                None => state.objects.remove(&id),
            };
            let bytes_all = state.usage.bytes + bytes.unwrap_or(0);
            state.usage.bytes = bytes_all.saturating_sub(counted.unwrap_or(0));
        }
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        lock(&self.0.state).meanwhile = None;
        self.0.eased.notify_all();
    }
}

impl State {
    fn add(&mut self, weight: Weight) {
        self.usage.bytes = self.usage.bytes.saturating_add_signed(weight.bytes);
        self.usage.inodes = self.usage.inodes.saturating_add_signed(weight.inodes);
    }
}

impl Reservation {
    /// How many bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives the room back for what `object` has really taken up of it.
    pub fn settle(self, object: &dyn ObjectFile) -> Result<(), StoreError> {
        // The object's growth first: between the two there is too little room, never too much.
        self.account.charge(object)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut state = lock(&self.account.state);
        state.reserved = state.reserved.saturating_sub(self.bytes);
        drop(state);
        self.account.eased.notify_all();
    }
}
