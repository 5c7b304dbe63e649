//! The crate's locks. Poison is decided here, once: a thread that panicked while it changed shared
//! state leaves nothing that could be trusted, so the process ends and recovery starts afresh.

pub use std::sync::{Arc, Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

fn poisoned() -> ! {
    tracing::error!("a thread panicked while it held a lock; the branch stops here and recovers");
    std::process::abort()
}

/// Locks `mutex`.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|_| poisoned())
}

/// Locks `lock` for reading.
pub fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(|_| poisoned())
}

/// Locks `lock` for writing.
pub fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(|_| poisoned())
}

/// Gives the lock of `guard` back until `condvar` wakes this thread. May wake without a reason.
pub fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
    condvar.wait(guard).unwrap_or_else(|_| poisoned())
}

/// As [`wait`], but no longer than `most`.
pub fn wait_for<'a, T>(
    condvar: &Condvar,
    guard: MutexGuard<'a, T>,
    most: std::time::Duration,
) -> MutexGuard<'a, T> {
    let waited = condvar.wait_timeout(guard, most);
    waited.unwrap_or_else(|_| poisoned()).0
}

/// A value that many threads use and one thread takes away for good.
///
/// Users hold it for the length of one call; [`Gate::close`] waits for the calls under way, and
/// from then on every [`Gate::with`] finds the gate closed.
#[derive(Debug)]
pub struct Gate<T>(RwLock<Option<T>>);

impl<T> Default for Gate<T> {
    fn default() -> Self {
        Self(RwLock::new(None))
    }
}

impl<T> Gate<T> {
    /// Puts the value in place.
    pub fn open(&self, value: T) {
        *write(&self.0) = Some(value);
    }

    /// Runs `call` on the value; `None` when the gate is closed.
    pub fn with<R>(&self, call: impl FnOnce(&T) -> R) -> Option<R> {
        read(&self.0).as_ref().map(call)
    }

    /// Runs `call` alone: when the calls under way have returned, and before any other begins.
    pub fn alone<R>(&self, call: impl FnOnce(&mut T) -> R) -> Option<R> {
        write(&self.0).as_mut().map(call)
    }

    /// Takes the value away once the last call under way has returned.
    pub fn close(&self) -> Option<T> {
        write(&self.0).take()
    }
}
